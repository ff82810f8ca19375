"""Polling, publishing, and what is logged when something changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from exporter.model import (
    CollectorRun,
    Details,
    Failure,
    Health,
    Observation,
    Reason,
    Reservation,
    Snapshot,
)
from exporter.signals import Signals
from exporter.watch import TOLD_JOBS, Watch

NOW = 1_700_000_000.0
GOOD = Observation(
    now=NOW,
    reached=True,
    health=Health("1.10.0", "oss", 3, 100),
    connections_limit=2000,
    details=Details(asked_at=NOW, uptime=9000.0, workers=1, workers_reaped=0),
    reservations={},
    runs=(CollectorRun("health", 0.001),),
)
DOWN = Observation(
    now=NOW + 5,
    reached=False,
    runs=(CollectorRun("health", 0.001, Failure(Reason.UNREACHABLE, "nothing listens at 127.0.0.1:7420")),),
)


class Scripted:
    """A source that tells what the test wrote down, the last of it for ever."""

    def __init__(self, *observations: Observation | Exception, registered: Mapping[str, bool] | None = None) -> None:
        self.observations = list(observations)
        self.registered = registered or {}
        self.polls = 0
        self.closed = False

    async def observe(self) -> Observation:
        self.polls += 1
        told = self.observations.pop(0) if len(self.observations) > 1 else self.observations[0]
        if isinstance(told, Exception):
            raise told
        return told

    async def probe(self, workers: Sequence[str]) -> tuple[Mapping[str, bool], CollectorRun]:
        return {it: self.registered[it] for it in workers}, CollectorRun("workers", 0.001)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def watching(source: Scripted, executor: ThreadPoolExecutor, interval: float = 5.0) -> tuple[Watch, list[Snapshot]]:
    published: list[Snapshot] = []
    watch = Watch(
        "jobs",
        "faktory",
        source,
        Signals(200),
        interval=interval,
        publish=published.append,
        crash_told=asyncio.Event(),
        executor=executor,
    )
    return watch, published


async def log_of(
    source: Scripted, polls: int, executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> list[str]:
    caplog.set_level(logging.INFO, "forewarn.watch")
    watch, _ = watching(source, executor)
    for _ in range(polls):
        await watch.poll()
    return [record.message for record in caplog.records]


async def test_a_poll_publishes_one_snapshot(executor: ThreadPoolExecutor) -> None:
    watch, published = watching(Scripted(GOOD), executor)
    snapshot = await watch.poll()
    assert published == [snapshot] == [watch.snapshot]
    assert (snapshot.server, snapshot.system) == ("jobs", "faktory")


async def test_polls_that_change_nothing_log_nothing(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    assert await log_of(Scripted(GOOD), 10, executor, caplog) == ["watching server"]


async def test_down_and_back_are_told_once_each(executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    source = Scripted(GOOD, DOWN, DOWN, DOWN, GOOD, GOOD)
    assert await log_of(source, 6, executor, caplog) == [
        "watching server",
        "server down",
        "collector failing",
        "server back",
        "collector recovered",
    ]


async def test_a_server_that_was_never_up_is_told_down(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    assert await log_of(Scripted(DOWN), 3, executor, caplog) == ["server down", "collector failing"]


async def test_another_reason_of_the_same_failure_is_told_again(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    late = (CollectorRun("health", 2.0, Failure(Reason.TIMEOUT, "no answer within 2 s")),)
    source = Scripted(DOWN, msgspec.structs.replace(DOWN, runs=late))
    assert await log_of(source, 2, executor, caplog) == ["server down", "collector failing", "collector failing"]


async def test_an_unknown_limit_is_told_once(executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    source = Scripted(msgspec.structs.replace(GOOD, connections_limit=None))
    told = await log_of(source, 3, executor, caplog)
    assert [it for it in told if "limit unknown" in it] == [
        "connection limit unknown: set connections_limit to be warned before it"
    ]


async def test_a_restart_is_told(executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    source = Scripted(GOOD, msgspec.structs.replace(GOOD, health=Health("1.10.0", "oss", 3, 1)))
    assert (await log_of(source, 3, executor, caplog))[1:] == ["server restarted"]


async def test_a_crash_is_told_with_its_worker_and_jobs(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = {f"j{n}": Reservation(f"j{n}", "w1", "mail", "Send", NOW - 1, NOW + 1799) for n in range(TOLD_JOBS + 5)}
    polls = [
        msgspec.structs.replace(GOOD, now=NOW + at, reservations=jobs, health=Health("1.10.0", "oss", connections, 200))
        for at, connections in [(0, 9), (5, 5), (10, 5), (15, 5)]
    ]
    told = await log_of(Scripted(*polls, registered={"w1": False}), 4, executor, caplog)
    assert told.count("worker crashed") == 1
    (fields,) = [record.__dict__["fields"] for record in caplog.records if record.message == "worker crashed"]
    assert (fields["server"], fields["wid"], fields["host"], fields["reason"]) == ("jobs", "w1", "unknown", "vanished")
    assert fields["orphaned_jobs"] == TOLD_JOBS + 5
    assert fields["jobs"][0] == {"jid": "j0", "jobtype": "Send", "queue": "mail"}
    assert len(fields["jobs"]) == TOLD_JOBS


async def test_a_defect_in_one_poll_is_told_once_and_does_not_end_the_watch(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    source = Scripted(ValueError("a defect"), ValueError("a defect"), GOOD)
    watch, published = watching(source, executor, interval=0.01)
    async with asyncio.timeout(10):
        task = asyncio.create_task(watch.run())
        while not published:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [record.message for record in caplog.records].count("poll failed by a defect of Forewarn") == 1


async def test_a_slow_server_gets_a_rest_of_half_an_interval(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    naps: list[float] = []

    class Slow(Scripted):
        async def observe(self) -> Observation:
            clock[0] += 4.0 if self.polls else 1.0  # seconds that the poll takes
            return await super().observe()

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise asyncio.CancelledError

    watch = Watch(
        "jobs",
        "faktory",
        Slow(GOOD),
        Signals(200),
        interval=5.0,
        publish=lambda _: None,
        crash_told=asyncio.Event(),
        executor=executor,
        clock=lambda: clock[0],
    )
    monkeypatch.setattr(asyncio, "sleep", nap)
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert naps == [4.0, 2.5]
