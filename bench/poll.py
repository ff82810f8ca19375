"""A whole poll against the raw transfer and decoding of the same bytes: ``python -m bench.poll [--quick]``.

The limit replays what the poll before it asked: the same page of the Web UI over the same kind of session, the same
commands in the same groups through redis-py and hiredis, and msgspec decodes every reservation into the struct that the
product decodes it into. The two take turns. The event loop's stalls are measured in polls of their own, beside those of
a loop with nothing to do: what is late there is the machine's doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from unittest.mock import patch

import aiohttp
import msgspec
from redis.asyncio.connection import UnixDomainSocketConnection

from bench.load import Load, a_server, loaded, settings_of
from bench.report import goal, median, ms, percentile, quick, say, table
from exporter.faktory.redis_link import Answer, Command, RedisLink
from exporter.faktory.source import build
from exporter.faktory.working import Member
from exporter.outputs.prometheus import Exposition
from exporter.sidecar import run_loop
from exporter.signals import Signals
from exporter.watch import Watch
from tests.servers import WatchedServer

SIZES = (1_000, 10_000, 100_000)
CHURN = 0.01
"""Share of the jobs that change between two polls."""

RATIO_GOAL = 1.5
STALL_GOAL = 0.010

MEMBER = msgspec.json.Decoder(Member)
Round = Sequence[Command]


class Limit:
    """Asks what a poll asked, and decodes what it decoded; no more."""

    def __init__(
        self, server: WatchedServer, session: aiohttp.ClientSession, redis: UnixDomainSocketConnection
    ) -> None:
        self._url = f"{server.web_url}/health"
        self._session = session
        self._redis = redis

    async def transfer(self, rounds: Sequence[Round]) -> list[Answer]:
        """Return the pages of `working`."""
        async with self._session.get(self._url) as answer:
            msgspec.json.decode(await answer.read())
        answers: list[Answer] = []
        for commands in rounds:
            await self._redis.send_packed_command(self._redis.pack_commands(commands))
            for command in commands:
                page = await self._redis.read_response()
                if command[:2] == ("ZRANGEBYSCORE", "working"):
                    answers.append(page)
        return answers

    async def transfer_and_decode(self, rounds: Sequence[Round]) -> None:
        """Decode every reservation."""
        for page in await self.transfer(rounds):
            for member in page[::2]:
                MEMBER.decode(member)


@asynccontextmanager
async def limit_of(server: WatchedServer) -> AsyncIterator[Limit]:
    redis = UnixDomainSocketConnection(path=str(server.storage_dir / "redis.sock"), driver_info=None, protocol=2)
    await redis.connect()  # type: ignore[no-untyped-call]
    async with aiohttp.ClientSession() as session:
        yield Limit(server, session, redis)
    await redis.disconnect()


@asynccontextmanager
async def watch_of(server: WatchedServer) -> AsyncIterator[Watch]:
    """Yield a watch as the sidecar builds it, with all that follows a poll."""
    executor = ThreadPoolExecutor(1)
    settings = settings_of(server)
    watch = Watch(
        settings.name,
        settings.system,
        build(settings),
        Signals(200),
        interval=5,
        publish=Exposition("bench").update,
        to_save=asyncio.Event(),
        executor=executor,
    )
    yield watch
    await watch.close()
    executor.shutdown()


@contextlib.contextmanager
def recorded() -> Iterator[list[Round]]:
    """Yield a list that fills with what is asked of Redis."""
    rounds: list[Round] = []
    ask = RedisLink.ask

    async def noting(link: RedisLink, *commands: Command) -> list[Answer]:
        rounds.append(commands)
        return await ask(link, *commands)

    with patch.object(RedisLink, "ask", noting):
        yield rounds


async def timed(work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


class Times(msgspec.Struct):
    """Seconds of each turn."""

    cold: list[float] = []
    poll: list[float] = []
    transfer: list[float] = []
    limit: list[float] = []


async def take_turns(server: WatchedServer, load: Load, turns: int) -> Times:
    times = Times()
    async with limit_of(server) as limit:
        for _ in range(3):
            async with watch_of(server) as watch:
                times.cold.append(await timed(watch.poll()))
        async with watch_of(server) as watch:
            await watch.poll()
            await watch.poll()  # the pages have their size now
            for _ in range(turns):
                await load.churn(CHURN)
                with recorded() as rounds:
                    times.poll.append(await timed(watch.poll()))
                times.limit.append(await timed(limit.transfer_and_decode(rounds)))
                times.transfer.append(await timed(limit.transfer(rounds)))
    return times


class Late(msgspec.Struct, frozen=True):
    """How late the event loop was, in seconds: at all, and at most by the process's own doing."""

    total: float
    own: float


async def lateness(work: Callable[[], Awaitable[object]]) -> list[Late]:
    """Return how late a task that sleeps for 1 ms was, each time, while ``work`` went on.

    On a machine that others use too, a process may have to wait for a core: what it did not compute itself, in
    whichever thread, is not its own doing.
    """
    late: list[Late] = []

    async def beat() -> None:
        while True:
            started, computed = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.001)
            total = time.perf_counter() - started - 0.001
            late.append(Late(total, min(total, time.process_time() - computed)))

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.005)
    await work()
    beating.cancel()
    return late


class Stalls(msgspec.Struct):
    """Lateness while polling, the worst of each poll, and the worst of as long a time with nothing to do."""

    polling: list[Late] = []
    worst: list[Late] = []
    idle: list[Late] = []


def worst_of(late: Sequence[Late]) -> Late:
    return Late(max(it.total for it in late), max(it.own for it in late))


async def stalls(server: WatchedServer, load: Load, polls: int) -> Stalls:
    found = Stalls()
    async with watch_of(server) as watch:
        await watch.poll()
        for _ in range(polls):
            await load.churn(CHURN)
            started = time.perf_counter()
            late = await lateness(watch.poll)
            took = time.perf_counter() - started
            found.polling += late
            found.worst.append(worst_of(late))
            found.idle.append(worst_of(await lateness(lambda: asyncio.sleep(took))))  # noqa: B023 - awaited at once
    return found


async def main() -> int:
    short = quick()
    rows, ratios, stalled = [], {}, Late(0, 0)
    async with a_server() as server:
        say(f"## A poll: {server.name}, {CHURN:.0%} of the busy jobs changed since the one before, medians in ms\n")
        load = await loaded(server, 0)
        for size in SIZES:
            await load.grow(size)
            turns = max(3, min(31, 900_000 // size)) if not short else 3
            times = await take_turns(server, load, turns)
            found = await stalls(server, load, turns)
            stalled = worst_of(found.worst)
            limit = median(times.limit)
            ratios[size] = median([poll / limit for poll, limit in zip(times.poll, times.limit, strict=True)])
            rows.append(
                [
                    f"{size:,}",
                    ms(median(times.transfer)),
                    ms(limit),
                    ms(median(times.poll)),
                    f"{ratios[size]:.2f}",
                    ms(median(times.cold)),
                    f"{median(times.cold) / limit:.2f}",
                    ms(percentile([it.total for it in found.polling], 0.99)),
                    ms(median([it.total for it in found.worst])),
                    f"{ms(stalled.total)} / {ms(stalled.own)}",
                    f"{ms(median([it.total for it in found.idle]))} / {ms(worst_of(found.idle).total)}",
                ]
            )
    table(
        (
            *("busy jobs", "raw transfer", "limit: with decoding", "poll", "ratio", "first poll", "its ratio"),
            *(
                "loop late, p99",
                "worst of a usual poll",
                "worst of all / of its own doing",
                "idle: usual worst / worst",
            ),
        ),
        rows,
    )
    say()
    told = ", ".join(f"{ratio:.2f} at {size:,}" for size, ratio in ratios.items())
    goal(
        f"a poll takes at most {RATIO_GOAL} times the limit ({told})",
        met=all(ratio <= RATIO_GOAL for ratio in ratios.values()),
    )
    goal(
        f"the event loop is never more than {STALL_GOAL * 1000:.0f} ms late at 100,000 busy jobs by its own doing "
        f"({ms(stalled.own)} ms; {ms(stalled.total)} ms with what the machine adds)",
        met=stalled.own <= STALL_GOAL,
    )
    return 0


if __name__ == "__main__":
    run_loop(main())
