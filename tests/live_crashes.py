"""What the live tests of crashes have in common: a server with workers on it, and Forewarn beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack
from math import ceil
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.forewarn import Forewarn
from tests.servers import WatchedServer, running, wait_until
from tests.wire import Wire, WireError
from tests.workers import Kind, WorkerProcess

SETTLED = 93.0
"""Seconds after which a server that Forewarn has watched from its start has run for long enough to be judged."""

GRACE = 5.0
"""Seconds that a worker must have been gone before it counts as crashed."""

LINGERS = 2.1
"""Seconds for which the server may know a worker that has gone, and for which a drop of connections is waited out."""

REASON_WAIT = 75.0
"""Seconds within which the server's count of hung workers tells why a silent worker went."""

SILENCE = 80.0
"""Seconds after which a worker whose jobs do not move is asked after, where nothing else betrays that it has gone."""

NOISE = 4.0
"""Seconds that a busy machine may add to any of these."""

AFTERWARDS = 30.0
"""Seconds for which a verdict must stand unchanged before a test believes that nothing more comes."""

TAKING = 60.0
"""Seconds within which a worker takes its jobs."""

LONG = 1800
"""Seconds that a job takes which its worker is never to end."""


def told_after(interval: int) -> int:
    """Return within how many seconds a crash is told: of the polls one sees it, one asks, and one asks again."""
    return interval * (1 + ceil(LINGERS / interval) + ceil(GRACE / interval))


class Told(msgspec.Struct, frozen=True):
    """What Forewarn tells of crashes: how many by reason, and the orphans by queue and job type."""

    vanished: float | None
    hung: float | None
    orphans: Mapping[tuple[str, str], float] | None


NOTHING = Told(0, 0, {})


class Line(msgspec.Struct, frozen=True):
    """One "worker crashed" of Forewarn's log."""

    wid: str
    host: str
    reason: str
    jobs: frozenset[tuple[str, str, str]]
    """Id, type and queue of each."""


class Taken(msgspec.Struct, frozen=True):
    """The jobs that one worker holds."""

    wid: str
    jobs: frozenset[tuple[str, str, str]]
    """Id, type and queue of each."""

    @property
    def orphans(self) -> Counter[tuple[str, str]]:
        """How many they are by queue and job type: what its crash would leave behind."""
        return Counter((queue, jobtype) for _, jobtype, queue in self.jobs)

    def line(self, reason: str) -> Line:
        """Return what the log tells of its crash."""
        return Line(wid=self.wid, host="unknown", reason=reason, jobs=self.jobs)


class Scene:
    """One server of its own, workers on it and Forewarn beside it; nothing of it outlives the ``async with``.

    A scene keeps one producer's connection open from beginning to end, so that pushing jobs closes none.
    """

    def __init__(self, server: WatchedServer, gate: asyncio.Semaphore) -> None:
        """``gate`` bounds how many servers and Forewarns start at the same time."""
        self.server = server
        self._gate = gate
        self._asking = asyncio.Lock()
        self._ends = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        try:
            async with self._gate:
                await self._ends.enter_async_context(running(self.server))
            self._watched = time.monotonic()
            self.producer = await Wire.connect(self.server.url)
            self._ends.push_async_callback(self._part)
        except BaseException:
            await self._ends.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ends.aclose()

    async def _part(self) -> None:
        await self.producer.abort()

    async def forewarn(self, *, interval: str = "1s", state_file: Path | None = None) -> Forewarn:
        """Start one Forewarn that watches the server."""
        async with self._gate:
            return await self._ends.enter_async_context(Forewarn(self.server, interval=interval, state_file=state_file))

    def worker(self, kind: Kind, *queues: str, concurrency: int = 1) -> WorkerProcess:
        """Start one real worker."""
        return self._ends.enter_context(WorkerProcess.start(kind, self.server.url, queues, concurrency))

    def raw_worker(self, wid: str) -> RawWorker:
        """Return a worker that does exactly what the test tells it to; not connected yet."""
        worker = RawWorker(self.server.url, wid, self.beside)
        self._ends.push_async_callback(worker.die)
        return worker

    def beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let ``work`` run until the scene ends."""
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    async def settled(self) -> None:
        """Wait until every Forewarn may judge, which it does not while the server may have been restarted just now."""
        await asyncio.sleep(max(0.0, self._watched + SETTLED - time.monotonic()))

    async def restart(self) -> None:
        """Restart the server, and wait until it answers."""
        await self.producer.close()
        async with self._gate:
            await self.server.restart()
        self._watched = time.monotonic()
        self.producer = await Wire.connect(self.server.url)

    async def push(self, queue: str, seconds: float = LONG) -> None:
        """Push one job that takes so long. Where it fails it is not tried again."""
        async with self._asking:
            await self.producer.push(jobtype="sleep", args=[seconds], queue=queue, retry=0)

    async def take(self, queues: Mapping[str, int], seconds: float = LONG) -> Taken:
        """Push so many jobs into each queue, wait until one worker holds all of them, and tell what it holds."""
        for queue, jobs in queues.items():
            for _ in range(jobs):
                await self.push(queue, seconds)
        return await self.holding(queues)

    async def holding(self, queues: Mapping[str, int]) -> Taken:
        """Wait until one worker holds so many jobs of each queue, and tell what it holds."""

        async def taken() -> Taken | None:
            held = [it for it in await self.working() if it["job"]["queue"] in queues]
            if len(held) < sum(queues.values()):
                return None
            (wid,) = {it["wid"] for it in held}
            return Taken(wid, frozenset((it["job"]["jid"], it["job"]["jobtype"], it["job"]["queue"]) for it in held))

        result: Taken = await wait_until(taken, TAKING, every=0.1, what=f"a worker holds {queues}")
        return result

    async def working(self) -> list[dict[str, Any]]:
        """Return every reservation, as the server keeps it."""
        return [json.loads(it) for it in await self.server.redis().zrange("working", 0, -1)]

    async def idle(self) -> bool:
        """Whether no worker holds a job."""
        return not await self.working()

    async def hung(self) -> tuple[int, int]:
        """Return how many workers are registered, and how many the server has given up as hung."""
        async with self._asking:
            workers = (await self.producer.info())["faktory"]["tasks"]["Workers"]
        return workers["size"], workers["reaped"]


class RawWorker:
    """A worker that beats every 15 s while it is connected, and but for its idle slots does nothing else by itself."""

    def __init__(self, url: str, wid: str, beside: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self.wid = wid
        self._url = url
        self._beside = beside
        self._wire: Wire | None = None
        self._idle: list[Wire] = []
        self._busy = asyncio.Lock()

    async def connect(self) -> None:
        """Connect under its id, for the first time or again."""
        await self.die()
        self._wire = await Wire.connect(self._url, self.wid)
        self._beside(self._beat(self._wire))

    async def fetch(self, queue: str) -> None:
        """Take one job, which must be there."""
        assert self._wire is not None
        async with self._busy:
            assert await self._wire.fetch(queue) is not None

    async def idle(self, slots: int) -> None:
        """Let so many slots of it, each with a connection of its own, wait for work that never comes.

        They do not all begin to wait at the same time: when it dies, one of them is likely to have begun just then.
        """
        for _ in range(slots):
            await asyncio.sleep(2 / slots)
            self._idle.append(await Wire.connect(self._url, self.wid))
            self._beside(self._wait(self._idle[-1]))

    async def die(self) -> None:
        """Go without a word."""
        wires = [*self._idle, *([] if self._wire is None else [self._wire])]
        self._wire, self._idle = None, []
        await asyncio.gather(*(wire.abort() for wire in wires))

    async def _wait(self, wire: Wire) -> None:
        with contextlib.suppress(OSError, EOFError, WireError):
            while wire in self._idle:
                await wire.fetch(f"never-{self.wid}")

    async def _beat(self, wire: Wire) -> None:
        # Ends with its connection: the server was stopped, or the worker has died.
        with contextlib.suppress(OSError, EOFError, WireError):
            while self._wire is wire:
                async with self._busy:
                    await wire.beat()
                await asyncio.sleep(15)


async def told(forewarn: Forewarn) -> Told:
    """Return what ``/metrics`` tells of crashes now."""
    scrape = await forewarn.scrape()
    return Told(
        vanished=scrape.value("faktory_worker_crashes_total", reason="vanished"),
        hung=scrape.value("faktory_worker_crashes_total", reason="hung"),
        orphans={
            (labels["queue"], labels["jobtype"]): value
            for labels, value in scrape.matching("faktory_orphaned_jobs")
            if value
        },
    )


async def told_within(forewarn: Forewarn, expected: Told, seconds: float) -> float:
    """Wait until exactly ``expected`` is told; return the seconds that it took."""
    started = time.monotonic()
    last: list[Told] = []

    async def there() -> bool:
        last[:] = [await told(forewarn)]
        return last == [expected]

    try:
        await wait_until(there, seconds, every=0.1)
    except AssertionError:
        what = f"{last}, not {expected}, was told after {seconds:g} s"
        raise AssertionError(f"{what}:\n{forewarn.output()[-4000:]}") from None
    return time.monotonic() - started


async def stays(forewarn: Forewarn, expected: Told, seconds: float) -> None:
    """See that nothing but ``expected`` is told for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await _is(forewarn, expected)
        await asyncio.sleep(0.5)


async def stays_until(
    forewarn: Forewarn, expected: Told, condition: Callable[[], Coroutine[Any, Any, bool]], deadline: float, what: str
) -> None:
    """See that nothing but ``expected`` is told until ``condition`` is true."""

    async def ended() -> bool:
        await _is(forewarn, expected)
        return await condition()

    await wait_until(ended, deadline, every=0.5, what=what)


async def _is(forewarn: Forewarn, expected: Told) -> None:
    now = await told(forewarn)
    assert now == expected, f"{now}, not {expected}:\n{forewarn.output()[-4000:]}"


async def seen(forewarn: Forewarn, taken: Taken) -> None:
    """Wait until Forewarn knows that these jobs are busy."""
    for (queue, jobtype), jobs in taken.orphans.items():
        await forewarn.wait_for("faktory_busy_jobs", jobs, 15, queue=queue, jobtype=jobtype)


def crashed(forewarn: Forewarn) -> list[Line]:
    """Return every crash that the log tells, sorted by worker."""
    lines = [
        Line(
            wid=line["wid"],
            host=line["host"],
            reason=line["reason"],
            jobs=frozenset((job["jid"], job["jobtype"], job["queue"]) for job in line["jobs"]),
        )
        for line in forewarn.log("worker crashed")
    ]
    return sorted(lines, key=lambda line: line.wid)


def lines(taken: Collection[Taken], reason: str) -> list[Line]:
    """Return what the log must tell when these workers have crashed, each once."""
    return [it.line(reason) for it in sorted(taken, key=lambda it: it.wid)]


def orphans(taken: Collection[Taken]) -> Mapping[tuple[str, str], float]:
    """Return what these workers left behind, by queue and job type."""
    return dict(sum((it.orphans for it in taken), Counter()))


async def come_and_go(url: str, queue: str, every: float) -> None:
    """Be one producer after the other: each connects, pushes one job and leaves."""

    async def one() -> None:
        # On a busy machine the server may find one too slow, and close.
        with contextlib.suppress(OSError, EOFError):
            async with await Wire.connect(url) as wire:
                await wire.push(queue=queue)

    async with asyncio.TaskGroup() as producers:
        while True:
            producers.create_task(one())
            await asyncio.sleep(every)


Scenario = Callable[[Scene], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def side_by_side(
    scenarios: Mapping[str, Scenario], make: Callable[[], WatchedServer], *, starts: int
) -> AsyncIterator[Mapping[str, asyncio.Task[None]]]:
    """Run every scenario at the same time, each on a server of its own, with at most ``starts`` starting at once."""
    gate = asyncio.Semaphore(starts)

    async def play(scenario: Scenario) -> None:
        async with Scene(make(), gate) as scene:
            await scenario(scene)

    tasks = {name: asyncio.create_task(play(scenario), name=name) for name, scenario in scenarios.items()}
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
