"""Every warning, from the fault to the receiver: real workers, Prometheus, Alertmanager, shipped rules and routes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from exporter.demo.standin.server import raise_descriptor_limit
from tests import dashboards
from tests.conftest import server_kinds
from tests.live_alerts import WATCHDOG, Pair, Stage
from tests.live_scenarios import worker
from tests.prometheus import PrometheusError
from tests.runbooks import blocks, pages
from tests.servers import WatchedServer, children, wait_until
from tests.wire import Wire
from tests.workers import WorkerProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(900)]

SOON = 25.0
"""Seconds for a scrape, an evaluation, the shortened times of a rule and a delivery on a busy machine."""

STATISTICS = 100.0
"""Seconds within which Forewarn asks again for what it asks rarely, and Prometheus tells it."""

SETTLED = 93.0
"""Seconds after a server's start from which crashes are told."""

GIVEN_UP = 175.0
"""Seconds within which a worker that hangs is asked after, and the server's count tells that it was given up."""

AT_ONCE = 50


class Live:
    """The stage, and the stories that are played on it side by side."""

    def __init__(self, stage: Stage, stories: dict[str, asyncio.Task[None]]) -> None:
        self.stage = stage
        self.stories = stories

    async def played(self, *names: str) -> None:
        """Wait until these stories have been played, or all; raise what went wrong in them."""
        for name in names or self.stories:
            await asyncio.shield(self.stories[name])


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=server_kinds())
async def live(request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    make: Callable[[], WatchedServer] = request.param
    raise_descriptor_limit()
    stage = Stage(make, list(STORIES))
    throttled = stage.pairs["held"].server.config_dir / "conf.d" / "mail.toml"
    throttled.write_text("[throttles.mail]\nconcurrency = 2\ntimeout = 60\n[throttles.gone]\nconcurrency = 1\n")
    async with stage:
        stories = {name: asyncio.create_task(play(stage.pairs[name]), name=name) for name, play in STORIES.items()}
        try:
            yield Live(stage, stories)
        finally:
            for story in stories.values():
                story.cancel()
            await asyncio.gather(*stories.values(), return_exceptions=True)


# --- the stories ----------------------------------------------------------------------------------------------------


class Crowd:
    """Open connections, from addresses of the test's choice."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def grow(self, number: int, address: str = "127.0.0.1") -> None:
        """Open so many more and shake hands, as a producer does."""
        for start in range(0, number, AT_ONCE):
            await asyncio.gather(*(self._open(address) for _ in range(min(AT_ONCE, number - start))))

    async def _open(self, address: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(address, 0))
        await reader.readline()
        writer.write(b'HELLO {"v":2}\r\n')
        await reader.readline()
        self._writers.append(writer)

    async def shrink(self, number: int | None = None) -> None:
        """Close so many, or all."""
        count = len(self._writers) if number is None else number
        leaving, self._writers = self._writers[:count], self._writers[count:]
        for writer in leaving:
            writer.transport.abort()
        for writer in leaving:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def open_connections(pair: Pair) -> int:
    told: int = (await pair.server.health())["server"]["connections"]
    return told


async def connections(pair: Pair) -> None:
    """Somebody leaks connections until nobody else gets in."""
    limit = 2000 if pair.server.version >= (1, 9) else 1000
    crowd = Crowd(pair.server.port)
    try:
        await crowd.grow(20, "127.0.0.9")
        await crowd.grow(limit * 11 // 20)
        leak = asyncio.create_task(_leak(crowd, limit // 200, limit // 5))
        try:
            filling = await pair.fires("FaktoryConnectionsFilling", 2 * SOON)
        finally:
            leak.cancel()
            await asyncio.gather(leak, return_exceptions=True)
        assert "the limit is reached in " in filling["annotations"]["description"]
        peer = await pair.fires("FaktoryPeerHoldsConnections", 2 * SOON)
        assert peer["labels"]["peer"] == "127.0.0.1"
        assert "127.0.0.1 holds 9" in peer["annotations"]["description"]
        # Now, and not at the end: while FaktoryConnectionsRefused silences it, its end is not told.
        await pair.resolves("FaktoryConnectionsFilling", 3 * SOON)
        await crowd.grow(limit * 17 // 20 - await open_connections(pair))
        near = await pair.fires("FaktoryConnectionsNearLimit", SOON, severity="warning")
        assert near["annotations"]["description"].startswith("85% of its connection limit")
        await crowd.grow(limit - await open_connections(pair))
        full = await pair.fires("FaktoryConnectionsNearLimit", SOON, severity="critical")
        assert full["annotations"]["description"].startswith("100% of its connection limit")
        if pair.server.version >= (1, 9):
            await _refused(pair, crowd)
        await crowd.shrink(limit // 8)
        await pair.resolves("FaktoryConnectionsNearLimit", 3 * SOON, severity="critical")
    finally:
        await crowd.shrink()
    await pair.resolves("FaktoryConnectionsNearLimit", 3 * SOON, severity="warning")
    await pair.resolves("FaktoryPeerHoldsConnections", 3 * SOON)


async def _leak(crowd: Crowd, each_second: int, most: int) -> None:
    for _ in range(most // each_second):
        await crowd.grow(each_second)
        await asyncio.sleep(1)


async def _refused(pair: Pair, crowd: Crowd) -> None:
    await pair.forewarn.stop()
    await pair.fires("ForewarnDown", SOON)
    await crowd.grow(1)
    await pair.forewarn.start()
    await pair.fires("FaktoryConnectionsRefused", SOON)
    await pair.resolves("ForewarnDown", SOON)
    await crowd.shrink(100)
    await pair.resolves("FaktoryConnectionsRefused", 4 * SOON)


async def crash(pair: Pair) -> None:
    """The only worker is killed in the middle of a job, and nobody comes to take its place."""
    await asyncio.sleep(SETTLED)
    async with await Wire.connect(pair.server.url) as producer:
        with WorkerProcess.start("node", pair.server.url, ["crash"]) as victim:
            await producer.push(jobtype="sleep", args=[600], queue="crash", reserve_for=60)
            await pair.forewarn.wait_for("faktory_busy_jobs", 1, 30, queue="crash", jobtype="sleep")
            victim.kill_all()
        crashed = await pair.fires("FaktoryWorkerCrashed", SOON)
        assert crashed["labels"]["reason"] == "vanished"
        assert "while they held jobs: 1." in crashed["annotations"]["description"]
        orphaned = await pair.fires("FaktoryJobsOrphaned", SOON)
        assert (orphaned["labels"]["queue"], orphaned["labels"]["jobtype"]) == ("crash", "sleep")
        await pair.resolves("FaktoryWorkerCrashed", 2 * SOON)
        # Its reservation ends after 60 s, and the server looks every 15 s; then the job waits for a worker.
        await pair.resolves("FaktoryJobsOrphaned", 100)
        alone = await pair.fires("FaktoryNoWorkers", STATISTICS)
        assert alone["annotations"]["description"].startswith("Jobs that wait in queues that are not paused: 1.")
        await pair.fires("FaktoryReservationsExpired", STATISTICS)
        async with worker(pair.server, "w-cure") as cure:
            job = await cure.fetch("crash")
            assert job is not None
            await cure.ack(job["jid"])
            await pair.resolves("FaktoryNoWorkers", STATISTICS)
        await pair.resolves("FaktoryReservationsExpired", STATISTICS)


async def frozen(pair: Pair) -> None:
    """A worker stops in the middle of a job, and keeps its connections."""
    async with await Wire.connect(pair.server.url) as producer:
        with WorkerProcess.start("node", pair.server.url, ["frozen"]) as victim:
            await producer.push(jobtype="sleep", args=[600], queue="frozen")
            await pair.forewarn.wait_for("faktory_busy_jobs", 1, 30, queue="frozen", jobtype="sleep")
            await asyncio.sleep(SETTLED / 3)
            victim.stop()
            hung = await pair.fires("FaktoryWorkerHung", GIVEN_UP + SOON)
            assert hung["labels"]["reason"] == "hung"
            assert "while they held jobs: 1." in hung["annotations"]["description"]
            await pair.fires("FaktoryJobsOrphaned", 2 * SOON)
            await pair.resolves("FaktoryWorkerHung", 3 * SOON)


async def held(pair: Pair) -> None:
    """Two jobs that do not end use up their reservation, and fill a throttle with others behind it."""
    async with await Wire.connect(pair.server.url) as producer, worker(pair.server, "w-held") as holder:
        for _ in range(5):
            await producer.push(queue="mail", jobtype="send", reserve_for=60)
        for _ in range(2):
            await producer.push(queue="letters", jobtype="print")
        await producer.ok("QUEUE PAUSE letters")
        taken = [await holder.fetch("mail") for _ in range(2)]
        full = await pair.fires("FaktoryThrottleSaturated", 2 * SOON)
        assert (full["labels"]["queue"], full["labels"]["scope"]) == ("mail", "cluster")
        assert full["annotations"]["description"].startswith("100% of the cluster throttle is in use.")
        # 80 % of a minute.
        late = await pair.fires("FaktoryReservationNearlyUsed", 48 + SOON)
        assert (late["labels"]["queue"], late["labels"]["jobtype"]) == ("mail", "send")
        used = late["annotations"]["description"].removeprefix("A job of queue mail has used ").partition("%")[0]
        assert 80 < float(used) < 100
        for job in taken:
            assert job is not None
            await holder.ack(job["jid"])
        await pair.resolves("FaktoryReservationNearlyUsed", SOON)
        await pair.resolves("FaktoryThrottleSaturated", 2 * SOON)
        while job := await holder.fetch("mail"):
            await holder.ack(job["jid"])
        paused = await pair.fires("FaktoryQueuePausedWithBacklog", 130)
        assert paused["annotations"]["description"].startswith("Jobs that wait in it: 2.")
        unknown = await pair.fires("FaktoryThrottleWithoutQueue", 130)
        assert unknown["labels"]["queue"] == "gone"
        await producer.ok("QUEUE RESUME letters")
        while job := await holder.fetch("letters"):
            await holder.ack(job["jid"])
        await pair.resolves("FaktoryQueuePausedWithBacklog", SOON)
        (pair.server.config_dir / "conf.d" / "mail.toml").unlink()
        await pair.resolves("FaktoryThrottleWithoutQueue", SOON)


async def stopped(pair: Pair) -> None:
    """The server goes away and comes back; then its Redis alone stops for a while."""
    # So that Forewarn sees at once by the count of commands that it is another process.
    async with await Wire.connect(pair.server.url, "w-before") as busy:
        for _ in range(50):
            await busy.push(queue="before")
            job = await busy.fetch("before")
            assert job is not None
            await busy.ack(job["jid"])

    async def counted() -> bool:
        return (await pair.forewarn.metric("faktory_commands_total") or 0) > 150

    await wait_until(counted, SOON, every=0.1, what="Forewarn has seen all commands")
    await pair.server.stop()
    await pair.fires("FaktoryDown", SOON)
    await pair.server.restart()
    await pair.resolves("FaktoryDown", SOON)
    restarted = await pair.fires("FaktoryRestarted", SOON)
    assert restarted["annotations"]["description"].startswith("Restarts within 20s: 1.")
    await pair.resolves("FaktoryRestarted", 2 * SOON)
    (redis,) = children(pair.server.pid)
    os.kill(redis, signal.SIGSTOP)
    try:
        await pair.fires("FaktoryRedisAway", 2 * SOON)
    finally:
        os.kill(redis, signal.SIGCONT)
    await pair.resolves("FaktoryRedisAway", 2 * SOON)


async def quiet(pair: Pair) -> None:
    """An ordinary day: jobs of several kinds come and go, few fail, and workers are replaced as they should be."""
    numbers = random.Random(7)
    queues = ("default", "bulk", "mail")
    began = time.monotonic()
    async with await Wire.connect(pair.server.url) as producer:

        async def work_until(share: float) -> None:
            while time.monotonic() - began < QUIET * share:
                failing = numbers.random() < 0.02
                await producer.push(
                    jobtype="fail" if failing else "sleep",
                    args=[] if failing else [numbers.choice((0.01, 0.05, 0.2, 0.5))],
                    queue=numbers.choice(queues),
                )
                await asyncio.sleep(numbers.expovariate(4))

        with WorkerProcess.start("node", pair.server.url, queues, 4) as first:
            await work_until(0.5)
            with WorkerProcess.start("node", pair.server.url, queues, 4) as second:
                await _ended(first)
                await work_until(1)
                await _ended(second)


async def _ended(process: WorkerProcess) -> None:
    """End a worker as one should: a server gives a worker that waits one more job for up to 2 s after it has left."""
    process.quiet()
    await asyncio.sleep(5)
    process.terminate()
    await asyncio.to_thread(process.wait, 60)


QUIET = 240.0
"""Seconds, of which each counts for thirty."""

STORIES: dict[str, Callable[[Pair], Coroutine[Any, Any, None]]] = {
    "connections": connections,
    "crash": crash,
    "frozen": frozen,
    "held": held,
    "stopped": stopped,
    "quiet": quiet,
}


# --- what must come of them -----------------------------------------------------------------------------------------


async def test_leaking_connections_are_told_step_by_step(live: Live) -> None:
    await live.played("connections")
    told = live.stage.pairs["connections"].told()
    expected = {
        ("FaktoryConnectionsFilling", "warning"),
        ("FaktoryPeerHoldsConnections", "warning"),
        ("FaktoryConnectionsNearLimit", "warning"),
        ("FaktoryConnectionsNearLimit", "critical"),
    }
    if live.stage.pairs["connections"].server.version >= (1, 9):
        expected |= {
            ("FaktoryConnectionsRefused", "critical"),
            ("ForewarnDown", "critical"),
        }
    assert told == expected


async def test_a_killed_worker_its_orphans_and_the_empty_server_are_told(live: Live) -> None:
    await live.played("crash")
    assert live.stage.pairs["crash"].told() == {
        ("FaktoryWorkerCrashed", "warning"),
        ("FaktoryJobsOrphaned", "warning"),
        ("FaktoryNoWorkers", "critical"),
        ("FaktoryReservationsExpired", "warning"),
    }


async def test_a_worker_that_hangs_is_told_as_hung(live: Live) -> None:
    await live.played("frozen")
    assert live.stage.pairs["frozen"].told() == {
        ("FaktoryWorkerHung", "warning"),
        ("FaktoryJobsOrphaned", "warning"),
    }


async def test_held_jobs_a_full_throttle_and_a_forgotten_pause_are_told(live: Live) -> None:
    await live.played("held")
    assert live.stage.pairs["held"].told() == {
        ("FaktoryReservationNearlyUsed", "warning"),
        ("FaktoryThrottleSaturated", "warning"),
        ("FaktoryQueuePausedWithBacklog", "warning"),
        ("FaktoryThrottleWithoutQueue", "info"),
    }


async def test_a_server_that_is_down_is_told_and_nothing_that_follows_from_it(live: Live) -> None:
    await live.played("stopped")
    assert live.stage.pairs["stopped"].told() == {
        ("FaktoryDown", "critical"),
        ("FaktoryRestarted", "info"),
        ("FaktoryRedisAway", "critical"),
    }


async def test_an_ordinary_day_delivers_nothing(live: Live) -> None:
    await live.played("quiet")
    pair = live.stage.pairs["quiet"]
    assert pair.told() == set()
    firing = f'ALERTS{{alertstate="firing", instance="{pair.instance}"}}'
    now = time.time()
    assert await live.stage.prometheus.query_range(firing, live.stage.began, now, 1) == []
    # The control: there was work, and it was seen.
    processed = await pair.forewarn.metric("faktory_jobs_processed_total")
    assert processed is not None
    assert processed > QUIET
    assert live.stage.webhook.delivered(WATCHDOG, "firing")


async def test_every_panel_variable_and_annotation_is_answered(live: Live) -> None:
    await live.played()
    prometheus, began, now = live.stage.prometheus, live.stage.began, time.time()
    wrong = []
    asked = 0
    for dashboard in live.stage.dashboards():
        told = [
            *dashboards.queries(dashboard, now - began, 5, 1),
            *(
                (where, expr, where.endswith(("New version", "Process crashes")))
                for where, expr in dashboards.annotations(dashboard, 60, 5, 1)
            ),
        ]
        for where, expr, may_be_empty in told:
            asked += 1
            try:
                if not await prometheus.query_range(expr, began, now, 5) and not may_be_empty:
                    wrong.append(f"{where}: no answer to {expr}")
            except PrometheusError as error:
                wrong.append(f"{where}: {error}")
        for variable in dashboards.variables(dashboard):
            asked += 1
            if not await prometheus.label_values(variable.label, variable.selector):
                wrong.append(f"{dashboard['uid']}: the variable {variable.name} has no value")
    assert not wrong, "\n".join(wrong)
    assert asked > 100


async def test_every_query_of_every_runbook_is_answered(live: Live) -> None:
    await live.played()
    refused = []
    queries = list(blocks("promql"))
    for block in queries:
        try:
            await live.stage.prometheus.query(block.text)
        except PrometheusError as error:
            refused.append(f"{block}: {error}")
    assert not refused, "\n".join(refused)
    assert len(queries) >= len(pages())


async def test_every_command_that_a_runbook_only_reads_with_ends_well(live: Live) -> None:
    await live.played()
    pair = live.stage.pairs["quiet"]
    environment = os.environ | {
        "FAKTORY_WEB": pair.server.web_url,
        "FAKTORY_PORT": str(pair.server.port),
        "REDIS": f"redis-cli -s {pair.server.redis_url.removeprefix('unix://')}",
        "FOREWARN": pair.forewarn.address,
        "PROMETHEUS": live.stage.prometheus.address,
    }
    failed = []
    commands = list(blocks("sh"))
    for block in commands:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", block.text),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), SOON)
        if process.returncode or err.strip():
            failed.append(f"{block}: status {process.returncode}, wrote {out!r}, and as errors {err!r}")
    assert not failed, "\n".join(failed)
    assert len(commands) >= len(pages()) // 2
