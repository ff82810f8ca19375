"""Polling, publishing, and what is logged when something changes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from exporter.model import (
    Choice,
    CollectorRun,
    Details,
    Ended,
    Execution,
    Failure,
    Frame,
    Health,
    Incident,
    IncidentKind,
    JobFailure,
    LogFacts,
    Observation,
    Outcome,
    Position,
    Reason,
    Reservation,
    Snapshot,
    StatsdFact,
    StatsdFacts,
    StatsdTraffic,
)
from exporter.signals import Signals
from exporter.watch import TOLD_INCIDENTS, TOLD_JOBS, Watch

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

    def __init__(
        self,
        *observations: Observation | Exception,
        registered: Mapping[str, bool] | None = None,
        failed: Mapping[str, JobFailure | None] | None = None,
        asking: Failure | None = None,
    ) -> None:
        self.observations = list(observations)
        self.registered = registered or {}
        self.failed = failed or {}
        self.asking = asking
        self.asked: list[list[str]] = []
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

    async def failures(self, ended: Sequence[Ended]) -> tuple[Mapping[str, JobFailure | None], CollectorRun]:
        self.asked.append([it.reservation.jid for it in ended])
        return self.failed, CollectorRun("failures", 0.001, self.asking)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def watching(
    source: Scripted,
    executor: ThreadPoolExecutor,
    interval: float = 5.0,
    *,
    choice: Choice | None = None,
    tell: Callable[[Snapshot, float, float], None] | None = None,
    to_save: asyncio.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Watch, list[Snapshot]]:
    published: list[Snapshot] = []
    watch = Watch(
        "jobs",
        "faktory",
        source,
        Signals(200, server="jobs", choice=choice),
        interval=interval,
        publish=published.append,
        to_save=to_save or asyncio.Event(),
        executor=executor,
        clock=clock,
        tell=tell,
    )
    return watch, published


async def log_of(
    source: Scripted,
    polls: int,
    executor: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
    choice: Choice | None = None,
) -> list[str]:
    caplog.set_level(logging.INFO, "forewarn.watch")
    watch, _ = watching(source, executor, choice=choice)
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
        to_save=asyncio.Event(),
        executor=executor,
        clock=lambda: clock[0],
    )
    monkeypatch.setattr(asyncio, "sleep", nap)
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert naps == [4.0, 2.5]


# --- incidents --------------------------------------------------------------------------------------------------------

RACE = Incident(IncidentKind.DATA_RACE, "read in f, write in g", NOW, group="ba9876543210")
MAP = Incident(
    IncidentKind.CONCURRENT_MAP,
    "concurrent map writes",
    NOW + 1,
    (Frame("github.com/contribsys/faktory/webui.busyWorkers", "helpers.go", 227),),
    {"running": 1},
    group="0123456789ab",
    known="faktory-busy-page",
    hint="keep /busy closed",
)


def printing(*polls: tuple[Incident, ...]) -> list[Observation]:
    """A server that is down from the second poll on, and what it printed before each."""
    return [
        msgspec.structs.replace(
            GOOD if number == 0 else DOWN,
            now=NOW + 5 * number,
            log=LogFacts(entries, positions=(Position("/log", 1, 2, 3 + number, "ab", 3),)),
        )
        for number, entries in enumerate(polls)
    ]


async def test_a_crash_of_the_server_is_told_with_where_it_came_from_and_what_is_known_of_it(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    told = await log_of(Scripted(*printing((), (MAP,), ())), 3, executor, caplog)
    assert told.count("server crashed") == 1
    (record,) = [record for record in caplog.records if record.message == "server crashed"]
    assert record.levelno == logging.ERROR
    assert record.__dict__["fields"] == {
        "server": "jobs",
        "class": "concurrent-map",
        "component": "webui.busyWorkers",
        "text": "concurrent map writes",
        "known": "faktory-busy-page",
        "hint": "keep /busy closed",
        "group": "0123456789ab",
    }


async def test_what_the_server_survived_is_a_warning_and_what_is_not_known_of_it_is_left_out(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    recovered = Incident(IncidentKind.RECOVERED_PANIC, "boom", NOW)
    told = await log_of(Scripted(*printing((RACE, recovered), ())), 2, executor, caplog)
    assert told[1:3] == ["data race in the server", "panic in the server, which survived it"]
    records = caplog.records[1:3]
    assert {record.levelno for record in records} == {logging.WARNING}
    assert records[1].__dict__["fields"] == {"server": "jobs", "class": "recovered-panic", "text": "boom"}


async def test_alike_incidents_of_one_poll_are_one_line(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    several = tuple(msgspec.structs.replace(RACE, at=NOW + number) for number in range(9))
    told = await log_of(Scripted(*printing(several, ())), 2, executor, caplog)
    assert told.count("data race in the server") == 1
    assert [it.__dict__["fields"]["times"] for it in caplog.records if "data race" in it.message] == [9]


async def test_the_lines_of_one_poll_are_bounded_and_a_crash_is_among_them(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    races = [msgspec.structs.replace(RACE, group=f"{number:012x}") for number in range(40)]
    told = await log_of(Scripted(*printing((), (*races, MAP))), 2, executor, caplog)
    assert told.count("server crashed") == 1
    assert told.count("data race in the server") == TOLD_INCIDENTS - 1


async def test_an_incident_is_saved_at_once_with_the_place_up_to_which_the_log_was_read(
    executor: ThreadPoolExecutor,
) -> None:
    event = asyncio.Event()
    watch, _ = watching(Scripted(*printing((), (MAP,), ())), executor, to_save=event)
    assert [(await watch.poll(), event.is_set())[1] for _ in range(2)] == [False, True]
    memory = watch.memory().process
    assert memory.crashes[IncidentKind.CONCURRENT_MAP] == 1
    assert [it.offset for it in memory.positions] == [4]
    event.clear()
    await watch.poll()
    assert not event.is_set()


async def test_an_incident_that_is_not_handed_over_yet_is_in_the_memory_where_traces_are_on(
    executor: ThreadPoolExecutor,
) -> None:
    before: list[tuple[object, ...]] = []

    def tell(snapshot: Snapshot, started: float, ended: float) -> None:
        before.append(watch.memory().untold)

    watch, _ = watching(Scripted(*printing((), (MAP,), ())), executor, choice=Choice(), tell=tell)
    for _ in range(3):
        await watch.poll()
    assert before == [(), (MAP,), ()]
    before.clear()
    watch, _ = watching(Scripted(*printing((), (MAP,))), executor, tell=tell)
    for _ in range(2):
        await watch.poll()
    assert before == [(), ()]


async def test_the_last_poll_comes_after_the_one_that_is_on_its_way(executor: ThreadPoolExecutor) -> None:
    class Slow(Scripted):
        async def observe(self) -> Observation:
            observation = await super().observe()
            if self.polls == 1:
                under_way.set()
                await go_on.wait()
            return observation

    under_way, go_on = asyncio.Event(), asyncio.Event()
    source = Slow(*printing((), (MAP,)))
    watch, published = watching(source, executor, interval=3600)
    running = asyncio.create_task(watch.run())
    await under_way.wait()
    finishing = asyncio.create_task(watch.finish(10))
    await asyncio.sleep(0)
    assert source.polls == 1
    go_on.set()
    await finishing
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    verdicts = [it.process for it in published]
    assert [it.crashes[IncidentKind.CONCURRENT_MAP] for it in verdicts if it is not None] == [0, 1]


async def test_the_last_poll_is_given_up_at_its_deadline(executor: ThreadPoolExecutor) -> None:
    class Stuck(Scripted):
        async def observe(self) -> Observation:
            await asyncio.Event().wait()
            return GOOD

    watch, published = watching(Stuck(GOOD), executor)
    async with asyncio.timeout(10):
        await watch.finish(0.01)
    assert published == []


# --- executions that ended --------------------------------------------------------------------------------------------

HELD = Reservation("j1", "w1", "mail", "Send", NOW - 1, NOW + 1799)
ENDED = [
    msgspec.structs.replace(GOOD, now=NOW + at, reservations=held, processed=10 + failed, failed=failed)
    for at, held, failed in [(0.0, {"j1": HELD}, 0), (5.0, {}, 1), (10.0, {}, 1)]
]
IO_ERROR = JobFailure("IOError", "no route")


async def test_after_an_execution_that_may_have_failed_the_source_is_asked_once(executor: ThreadPoolExecutor) -> None:
    source = Scripted(*ENDED, failed={"j1": IO_ERROR})
    watch, _ = watching(source, executor, choice=Choice())
    snapshots = [await watch.poll() for _ in range(5)]
    assert source.asked == [["j1"]]
    told = [it for snapshot in snapshots if snapshot.executions for it in snapshot.executions.told]
    assert told == [Execution(HELD, Outcome.FAILED, NOW + 5, 5.0, "IOError", "no route")]


async def test_how_asking_went_is_told_as_of_every_other_part_of_the_poll(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    source = Scripted(*ENDED, asking=Failure(Reason.TIMEOUT, "the store took too long"))
    assert (await log_of(source, 4, executor, caplog, Choice()))[1:] == ["collector failing"]
    (fields,) = [it.__dict__["fields"] for it in caplog.records if it.message == "collector failing"]
    assert (fields["collector"], fields["reason"], fields["failure"]) == (
        "failures",
        "timeout",
        "the store took too long",
    )


async def test_without_a_choice_nothing_is_asked_or_told(executor: ThreadPoolExecutor) -> None:
    source = Scripted(*ENDED, failed={"j1": IO_ERROR})
    watch, _ = watching(source, executor)
    assert [(await watch.poll()).executions for _ in range(4)] == [None] * 4
    assert source.asked == []


async def test_each_poll_is_told_in_the_loop_with_its_start_and_end(executor: ThreadPoolExecutor) -> None:
    told: list[tuple[Snapshot, float, float]] = []
    ticks = itertools.count(1.0)

    def tell(snapshot: Snapshot, started: float, ended: float) -> None:
        asyncio.get_running_loop()  # raises elsewhere
        told.append((snapshot, started, ended))

    watch, published = watching(Scripted(GOOD), executor, tell=tell, clock=lambda: next(ticks))
    for _ in range(2):
        await watch.poll()
    # Between start and end the snapshot was taken.
    assert told == [(published[0], 1.0, 3.0), (published[1], 4.0, 6.0)]
    assert [it.taken_at for it in published] == [2.0, 5.0]


async def test_what_was_told_is_to_be_saved_at_once(executor: ThreadPoolExecutor) -> None:
    event = asyncio.Event()
    watch, _ = watching(Scripted(*ENDED, failed={"j1": IO_ERROR}), executor, choice=Choice(), to_save=event)
    assert [(await watch.poll(), event.is_set())[1] for _ in range(2)] == [False, False]
    await watch.poll()
    assert event.is_set()
    event.clear()
    await watch.poll()
    assert not event.is_set()


async def test_what_is_not_handed_over_yet_is_in_the_memory_and_afterwards_no_more(
    executor: ThreadPoolExecutor,
) -> None:
    execution = Execution(HELD, Outcome.FAILED, NOW + 5, 5.0, "IOError", "no route")
    before: list[tuple[object, ...]] = []

    def tell(snapshot: Snapshot, started: float, ended: float) -> None:
        before.append(watch.memory().untold)

    watch, _ = watching(Scripted(*ENDED, failed={"j1": IO_ERROR}), executor, choice=Choice(), tell=tell)
    after = []
    for _ in range(4):
        await watch.poll()
        after.append(watch.memory().untold)
    assert before == [(), (), (execution,), ()]
    assert after == [(), (), (), ()]


async def test_what_the_server_tells_by_statsd_is_in_the_snapshot_and_when_it_spoke_in_the_memory(
    executor: ThreadPoolExecutor,
) -> None:
    told = StatsdFacts(NOW - 1, {StatsdFact.EXECUTIONS: {("q", "T"): 3.0}}, {}, {}, StatsdTraffic(samples=1))
    watch, _ = watching(Scripted(msgspec.structs.replace(GOOD, statsd=told)), executor)
    verdict = (await watch.poll()).statsd
    assert verdict is not None
    assert (verdict.age, verdict.counts) == (1, {StatsdFact.EXECUTIONS: {("q", "T"): 3}})
    assert watch.memory().statsd.heard_at == NOW - 1
