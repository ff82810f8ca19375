"""The book of statuses: what is remembered, what is told, how much of it, and to whom."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.model import (
    MAX_NAME,
    BootVerdict,
    BusyVerdict,
    ConnectionsVerdict,
    CrashReason,
    Incident,
    IncidentKind,
    Queue,
    QueuesVerdict,
    Reservation,
    Scope,
    Snapshot,
    ThrottlesVerdict,
    ThrottleUse,
)
from exporter.status.book import StatusBook
from exporter.status.document import Level, Status
from exporter.status.hour import MOST_BUSY, MOST_HAPPENINGS, MOST_ORPHANS, MOST_QUEUES, STEPS, Hour, Rises, Track
from exporter.status.levels import MOST_THROTTLES
from tests.snapshots import HOSTILE, empty, full
from tests.snapshots import snapshots as any_snapshot
from tests.status_samples import (
    MAIL,
    NOW,
    Shelf,
    calm,
    connections,
    crashed,
    failing,
    observed,
    process,
    reservation,
    workers,
)

DEADLINE = 20.0


def holding(*jobs: Reservation, **changes: Any) -> Snapshot:
    """A server whose workers hold these jobs."""
    return calm(observation=observed(reservations={it.jid: it for it in jobs}), **changes)


# What is remembered


def test_a_track_keeps_the_largest_of_each_step_and_gaps() -> None:
    track = Track()
    for step, value in ((7, 1.0), (7, 3.0), (7, 2.0), (8, None), (10, 5.0)):
        track.note(step, value)
    assert track.values() == [3.0, None, None, 5.0]
    assert track.values(2) == [None, 5.0]


def test_a_track_forgets_what_is_older_than_an_hour() -> None:
    track = Track()
    for step in range(STEPS + 5):
        track.note(step, float(step))
    assert track.values() == [float(step) for step in range(5, STEPS + 5)]
    track.note(5 * STEPS, 1.0)
    assert track.values() == [*[None] * (STEPS - 1), 1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_number_is_a_gap(value: float | None) -> None:
    track = Track()
    track.note(0, value)
    assert track.values() == [None]


def test_rises_are_known_for_a_while() -> None:
    rises = Rises(600.0)
    for step, count in ((0, 5), (1, 6), (1, 8), (10, None), (20, 9)):
        rises.note(step, count)
    assert [rises.within(20, seconds) for seconds in (0, 300, 600)] == [1, 1, 4]
    rises.note(40, 9)
    assert rises.within(40, 3600) == 1


def test_a_counter_that_goes_back_began_anew() -> None:
    rises = Rises(600.0)
    for count in (5, 2):
        rises.note(0, count)
    assert rises.within(0, 60) == 2


def test_what_was_counted_before_is_no_rise_but_for_what_is_known_to_be_new() -> None:
    old, new = Rises(600.0), Rises(600.0)
    old.note(0, 5)
    new.note(0, 5, new=1)
    assert (old.within(0, 60), new.within(0, 60)) == (0, 1)


def test_an_hour_takes_ten_kib() -> None:
    import tracemalloc

    snapshots = [full(f"s{number}") for number in range(20)]
    tracemalloc.start()
    try:
        hours = [Hour() for _ in snapshots]
        before = tracemalloc.get_traced_memory()[0]
        for minute in range(70):
            for hour, snapshot in zip(hours, snapshots, strict=True):
                hour.advance(snapshot, minute * 60.0, NOW + minute * 60.0)
        assert tracemalloc.get_traced_memory()[0] - before < len(hours) * 10 * 1024
    finally:
        tracemalloc.stop()


# Trends


def test_trends_show_the_last_hour_of_each_signal() -> None:
    shelf = Shelf(*[calm(connections=connections(used)) for used in (200, 1700, 400)], every=30.0)
    trend = shelf.signal("connections").trend
    assert trend is not None
    assert (trend.title, trend.unit, trend.step) == ("share of the connection limit", "ratio", 30.0)
    assert (trend.values, trend.threshold, trend.ends_at) == ((0.1, 0.85, 0.2), 0.8, shelf.wall)
    assert [it.trend and it.trend.values[-1] for it in shelf.server.signals] == [0.2, 0.1, 0.0, 0.5]


def test_a_poll_that_did_not_come_is_a_gap_in_the_trend() -> None:
    trend = Shelf(calm(), calm(), every=90.0).signal("busy").trend
    assert trend is not None
    assert trend.values == (0.1, None, None, 0.1)


def test_without_a_limit_the_trend_is_of_the_connections() -> None:
    trend = Shelf(calm(connections=connections(limit=None))).signal("connections").trend
    assert trend is not None
    assert (trend.unit, trend.values, trend.threshold) == ("count", (100.0,), None)


def test_a_server_that_was_down_leaves_a_gap_and_not_a_zero() -> None:
    shelf = Shelf(calm(), empty(), calm(), every=30.0)
    assert [it.trend and it.trend.values[1] for it in shelf.server.signals] == [None] * 4


# What happened


def test_a_crashed_worker_is_told_with_its_jobs() -> None:
    jobs = [reservation(f"j{number}") for number in range(7)]
    shelf = Shelf(
        calm(),
        holding(*jobs, workers=workers(vanished=1, orphans=7, found=(crashed("w1", CrashReason.VANISHED, *jobs),))),
    )
    (happening,) = shelf.server.happenings
    assert (happening.kind, happening.level, happening.title) == ("worker_crash", Level.WARNING, "Worker w1 crashed")
    assert happening.detail == (
        "It held 7 jobs: SendMail j0 of queue mail, SendMail j1 of queue mail, SendMail j2 of queue mail, SendMail j3"
        " of queue mail, SendMail j4 of queue mail, and 2 more."
    )
    assert happening.hint == "See its machine for an out-of-memory kill or a crash."


def test_restarts_and_outages_are_told_newest_first() -> None:
    again = BootVerdict(1, NOW, settled=False)
    shelf = Shelf(calm(), calm(observation=observed(reached=False)), calm(boot=again), calm(boot=again))
    assert [(it.kind, it.level, it.at) for it in shelf.server.happenings] == [
        ("back", Level.CALM, NOW + 10),
        ("restart", Level.CALM, NOW + 10),
        ("down", Level.CRITICAL, NOW + 5),
    ]


def test_a_server_that_is_down_from_the_start_is_told() -> None:
    assert [it.kind for it in Shelf(empty(), empty()).server.happenings] == ["down"]


def test_restarts_that_were_counted_before_are_no_news() -> None:
    assert Shelf(calm(boot=BootVerdict(7, NOW, settled=True))).server.happenings == ()


def test_incidents_are_told_also_those_from_before_forewarn_started() -> None:
    crash = Incident(
        IncidentKind.CONCURRENT_MAP, "fatal error: concurrent map writes", NOW - 7200, hint="Keep it shut."
    )
    race = Incident(IncidentKind.DATA_RACE, "WARNING: DATA RACE", NOW - 60)
    undated = Incident(IncidentKind.PANIC, "panic", None)
    found = Shelf(calm(process=process(crash, race, undated))).server.happenings
    assert [(it.kind, it.at, it.level, it.hint) for it in found] == [
        ("incident", NOW - 60, Level.CALM, None),
        ("incident", NOW - 7200, Level.WARNING, "Keep it shut."),
    ]
    assert found[1].title == "The server's process crashed (concurrent-map)"
    assert found[1].detail == "fatal error: concurrent map writes"


def test_happenings_are_bounded() -> None:
    flapping = [calm(), calm(observation=observed(reached=False))] * 40
    shelf = Shelf(*flapping)
    found = shelf.server.happenings
    assert len(found) == MOST_HAPPENINGS
    assert found[0].at == NOW + 5 * 79
    assert len(shelf.book._pages["faktory"].hour.happened) == MOST_HAPPENINGS


def test_times_are_told_by_our_own_clock_where_the_servers_is_another() -> None:
    ahead = 7200.0
    shifted = observed(now=NOW + ahead)
    crash = msgspec.structs.replace(crashed(), found_at=NOW + ahead - 1)
    shelf = Shelf(
        calm(observation=shifted, boot=BootVerdict(0, NOW + ahead - 3600, settled=True)),
        calm(observation=shifted, workers=workers(vanished=1, found=(crash,))),
        every=1.0,
    )
    assert shelf.server.happenings[0].at == pytest.approx(NOW, abs=1.5)


@pytest.mark.parametrize("off", [-4.0, 4.0])
def test_a_poll_that_took_its_time_does_not_make_another_clock(off: float) -> None:
    server = Shelf(calm(observation=observed(now=NOW + off))).server
    assert server.started_at == NOW - 3600


# What is listed


def test_the_oldest_busy_jobs_are_told_with_the_share_of_their_reservation() -> None:
    jobs = [reservation(f"j{age}", age=age, span=100.0) for age in (10, 90, 50)]
    server = Shelf(holding(*jobs)).server
    assert [(it.jid, it.age, it.used, it.orphan) for it in server.busy] == [
        ("j90", 90.0, 0.9, False),
        ("j50", 50.0, 0.5, False),
        ("j10", 10.0, 0.1, False),
    ]
    assert server.busy_count == 3


def test_orphans_are_told_until_they_are_gone() -> None:
    left, other = reservation("left", age=60.0, span=300.0), reservation("other", worker="w2", age=30.0)
    found = workers(vanished=1, orphans=1, found=(crashed("w1", CrashReason.VANISHED, left),))
    shelf = Shelf(holding(left, other), holding(left, other, workers=found))
    (orphan,) = shelf.server.orphans
    assert (orphan.jid, orphan.worker, orphan.age, orphan.returns_in) == ("left", "w1", 1.0, 240.0)
    assert [(it.jid, it.orphan) for it in shelf.server.busy] == [("left", True), ("other", False)]
    shelf.take(holding(left, other, workers=workers(vanished=1, orphans=1)))
    assert [it.jid for it in shelf.server.orphans] == ["left"]
    shelf.take(holding(other, workers=workers(vanished=1)))
    assert (shelf.server.orphans, shelf.server.orphan_count) == ((), 0)
    assert shelf.book._pages["faktory"].hour.gone == {}


def test_a_worker_that_takes_a_job_again_lives_and_leaves_no_orphans() -> None:
    old, left = reservation("old", age=60.0), reservation("left", worker="w2", age=50.0)
    both = (crashed("w1", CrashReason.VANISHED, old), crashed("w2", CrashReason.VANISHED, left))
    shelf = Shelf(holding(old, left, workers=workers(vanished=2, orphans=2, found=both)))
    assert [it.jid for it in shelf.server.orphans] == ["old", "left"]
    new = Reservation("new", "w1", *MAIL, NOW + 1, NOW + 1800)
    shelf.take(holding(old, left, new, workers=workers(vanished=2, orphans=1)))
    assert [it.jid for it in shelf.server.orphans] == ["left"]
    assert [it.jid for it in shelf.server.busy if it.orphan] == ["left"]


def test_orphans_of_whom_nobody_knows_which_they_are_are_a_blind_spot() -> None:
    server = Shelf(holding(reservation("j1"), workers=workers(orphans=3))).server
    assert (server.orphans, server.orphan_count) == ((), 3)
    assert "Which jobs 3 of the orphans are" in {it.what for it in server.blind}


def test_every_list_is_bounded_and_has_the_true_count_beside_it() -> None:
    jobs = {f"j{number}": reservation(f"j{number}", age=number + 5) for number in range(500)}
    found = workers(vanished=1, orphans=500, found=(crashed("w1", CrashReason.VANISHED, *jobs.values()),))
    queues = {f"q{number}": Queue(number, float(number), False) for number in range(300)}
    throttles = {(name, Scope.CLUSTER): ThrottleUse(4, number % 5, 1, 0.0) for number, name in enumerate(queues)}
    server = Shelf(
        calm(
            observation=observed(reservations=jobs, queues=queues),
            workers=found,
            queues=QueuesVerdict(queues, {"queue": 300}, 200),
            throttles=ThrottlesVerdict(throttles),
            collectors=failing("x" * 500),
        )
    ).server
    assert (len(server.busy), server.busy_count) == (MOST_BUSY, 500)
    assert (len(server.orphans), server.orphan_count) == (MOST_ORPHANS, 500)
    assert (len(server.queues), server.queue_count) == (MOST_QUEUES, 300)
    assert (len(server.throttles), server.throttle_count) == (MOST_THROTTLES, 300)
    assert server.queues[0].name == "q299"
    assert {it.level for it in server.throttles} == {Level.WARNING}
    assert len(msgspec.json.encode(server)) < 64 * 1024


def test_the_queues_that_wait_longest_stand_first() -> None:
    queues = {"short": Queue(9, 1.0, False), "empty": Queue(0, 0.0, True), "long": Queue(1, 9.0, False), "?": Queue(5)}
    server = Shelf(calm(observation=observed(queues=queues))).server
    assert [it.name for it in server.queues] == ["long", "short", "empty", "?"]


# What cannot be seen


def blind(snapshot: Snapshot) -> dict[str, tuple[str, str | None]]:
    return {it.what: (it.why, it.remedy) for it in Shelf(snapshot).server.blind}


def test_where_everything_is_set_up_only_the_process_cannot_be_seen() -> None:
    assert blind(calm()) == {
        "The server's file descriptors and memory": (
            "its process cannot be seen from where Forewarn runs",
            "Run both in the same process namespace (shareProcessNamespace in a pod).",
        )
    }


def test_what_nobody_set_up_is_a_blind_spot_with_its_remedy() -> None:
    alone = calm(
        observation=observed(reservations=None),
        connections=connections(limit=None, peers=None),
        busy=BusyVerdict(None, None, {}),
        throttles=ThrottlesVerdict(None),
        process=None,
        collectors=(),
    )
    remedies = [remedy for _, remedy in blind(alone).values()]
    assert remedies == [
        "Set redis_url (--faktory.redis-url) to the server's Redis.",
        "Set connections_limit (--faktory.connections-limit) to what the licence allows.",
        "Set config_dir (--faktory.config-dir) to the server's configuration folder.",
        "Set log_files (--faktory.log-file) or log_journals, or start the server by forewarn exec.",
        "Run Forewarn on the server's machine, or as a container of the same pod.",
    ]


def test_a_collector_that_fails_is_a_blind_spot_with_its_message() -> None:
    why = "unix:///run/redis.sock: permission denied: let Forewarn's user read it"
    found = blind(calm(collectors=failing("redis", why)))
    assert found["Queues, busy jobs, crashed workers and the use of throttles, from Redis"] == (why, None)


def test_just_after_a_restart_there_is_no_verdict_on_workers() -> None:
    found = blind(calm(boot=BootVerdict(1, NOW, settled=False)))
    assert "within the last 90 s" in found["Crashes of workers"][0]


def test_label_values_that_are_folded_are_a_blind_spot() -> None:
    found = blind(calm(queues=QueuesVerdict({}, {"queue": 5000, "jobtype": 3}, 200)))
    why, remedy = found["Some values of queue one by one"]
    assert why == "there are 5,000, and 200 are told apart"
    assert remedy == "Raise max_label_values (--max-label-values), or mend what makes such names."


# How fresh it is


def test_the_age_is_that_of_the_moment_in_which_it_is_asked() -> None:
    shelf = Shelf(calm())
    shelf.wait(3.5)
    assert shelf.server.age == 3.5


def test_of_a_poll_that_stands_still_nothing_is_known_and_that_is_said() -> None:
    shelf = Shelf(calm())
    shelf.wait(120.0)
    assert shelf.server.level is Level.CALM
    shelf.wait(1.0)
    server = shelf.server
    assert {(it.level, it.headline) for it in server.signals} == {
        (Level.UNKNOWN, "not known: the last poll ended 2 min ago")
    }
    assert (server.level, server.concerns[0].runbook) == (Level.WARNING, "ForewarnSnapshotStale")
    assert server.summary == "Forewarn has no fresh facts: its last poll ended 2 min ago."
    assert server.signals[0].trend is not None
    shelf.take(calm())
    assert shelf.server.level is Level.CALM


def test_a_server_that_was_down_when_the_polls_ended_stays_critical() -> None:
    shelf = Shelf(empty())
    shelf.wait(500.0)
    assert shelf.server.level is Level.CRITICAL


def test_a_server_that_was_never_polled_is_unknown() -> None:
    shelf = Shelf()
    shelf.servers["new"] = None
    assert (shelf.server.level, shelf.server.up, len(shelf.server.signals)) == (Level.UNKNOWN, None, 4)


def test_no_servers_are_unknown() -> None:
    assert (Shelf().book.status().level, Shelf().book.status().servers) == (Level.UNKNOWN, ())


def test_the_level_of_all_is_that_of_the_worst_server() -> None:
    shelf = Shelf(calm(), calm(server="b", observation=observed(reached=False)))
    assert [it.name for it in shelf.book.status().servers] == ["faktory", "b"]
    assert shelf.book.status().level is Level.CRITICAL


def test_a_server_that_is_watched_no_more_is_forgotten() -> None:
    shelf = Shelf(calm(connections=connections(500)), calm(server="b"))
    del shelf.servers["faktory"]
    shelf.take(calm(server="b"))
    assert [it.name for it in shelf.book.status().servers] == ["b"]
    shelf.take(calm())
    trend = shelf.book.status().servers[1].signals[0].trend
    assert trend is not None
    assert trend.values == (0.05,)


def test_what_was_polled_before_the_book_was_told_is_shown() -> None:
    book = StatusBook(lambda: {"faktory": calm()}, version="1", clock=lambda: 1001.0, wall=lambda: NOW)
    assert book.status().servers[0].signals[0].headline == "100 of 2,000 (5 %)"


# How it is told


def test_it_is_made_once_for_all_who_ask() -> None:
    shelf = Shelf(calm())
    first = shelf.book.status()
    shelf.wait(0.5)
    assert shelf.book.status() is first
    assert shelf.book.encoded() is shelf.book.encoded()
    shelf.wait(0.6)
    assert shelf.book.status() is not first
    shelf.take(calm(connections=connections(200)))
    assert shelf.server.signals[0].headline == "200 of 2,000 (10 %)"


def test_the_generation_grows_with_every_change() -> None:
    shelf = Shelf(calm())
    before = shelf.book.generation
    shelf.take(calm())
    assert shelf.book.generation == before + 1
    shelf.wait(121.0)
    shelf.book.status()
    assert shelf.book.generation == before + 2
    shelf.book.status()
    assert shelf.book.generation == before + 2


async def test_who_waits_is_woken_by_a_poll_of_another_thread() -> None:
    shelf = Shelf(calm())
    since = shelf.book.generation
    waiting = [asyncio.create_task(shelf.book.changed(since, 600.0)) for _ in range(3)]
    await asyncio.sleep(0)
    thread = threading.Thread(target=shelf.take, args=(calm(),))
    thread.start()
    assert await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE) == [since + 1] * 3
    thread.join()


async def test_who_knows_less_does_not_wait() -> None:
    shelf = Shelf(calm())
    assert await asyncio.wait_for(shelf.book.changed(0, 600.0), DEADLINE) == shelf.book.generation


async def test_a_wait_ends_where_nothing_changes() -> None:
    shelf = Shelf(calm())
    assert await asyncio.wait_for(shelf.book.changed(shelf.book.generation, 0.01), DEADLINE) == shelf.book.generation


async def test_a_poll_that_stands_still_wakes_too() -> None:
    started = time.monotonic()
    snapshot = msgspec.structs.replace(calm(), taken_at=started - 119.9)
    book = StatusBook(lambda: {"faktory": snapshot}, version="1")
    book.update(snapshot)
    since = book.generation
    assert await asyncio.wait_for(book.changed(since, 600.0), DEADLINE) == since + 1
    assert book.status().servers[0].level is Level.WARNING


async def test_nobody_is_remembered_who_gave_up_waiting() -> None:
    shelf = Shelf(calm())
    waiting = asyncio.create_task(shelf.book.changed(shelf.book.generation, 600.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert shelf.book._waiting == set()


def test_an_event_loop_that_has_ended_holds_nobody_up() -> None:
    shelf = Shelf(calm())

    async def begin() -> None:
        asyncio.get_running_loop().create_task(shelf.book.changed(shelf.book.generation, 600.0))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    (task,) = asyncio.all_tasks(loop)
    waiter = next(iter(shelf.book._waiting))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    shelf.book._waiting.add(waiter)
    shelf.take(calm())
    assert shelf.book._waiting == set()


def test_a_hundred_thousand_busy_jobs_cost_whoever_asks_nothing() -> None:
    jobs = {f"j{number}": reservation(f"j{number}", age=number % 1700) for number in range(100_000)}
    shelf = Shelf(calm(observation=observed(reservations=jobs)))
    shelf.book.status()
    shelf.take(calm(observation=observed(reservations=jobs)))

    class Untouched(dict[str, Reservation]):
        def values(self) -> Any:
            raise AssertionError("all busy jobs are gone through")

        __iter__ = items = keys = values

    page = shelf.book._pages["faktory"]
    observation = msgspec.structs.replace(page.snapshot.observation, reservations=Untouched(jobs))
    page.snapshot = msgspec.structs.replace(page.snapshot, observation=observation)
    page.drawn = None
    assert shelf.server.busy_count == 100_000


def test_while_somebody_looks_it_is_made_in_the_thread_of_the_signals() -> None:
    shelf = Shelf(calm())
    assert shelf.book._pages["faktory"].drawn is None
    shelf.book.status()
    shelf.take(calm())
    assert shelf.book._pages["faktory"].drawn is not None
    shelf.take(calm(), every=61.0)
    shelf.wait(61.0)
    shelf.take(calm())
    assert shelf.book._pages["faktory"].drawn is None


def test_a_sidecar_at_which_nobody_looks_does_not_import_what_is_shown() -> None:
    import subprocess
    import sys

    code = (
        "import exporter.sidecar, sys;"
        "print([m for m in sys.modules if m in ('exporter.status.draw', 'exporter.status.document', 'rich', 'yaml',"
        " 'exporter.rules.settings', 'exporter.top')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout == "[]\n", told.stderr


# Names that others choose


def test_hostile_names_stay_what_they_are_but_valid_and_bounded() -> None:
    bad = Reservation("j\ud800", "w" * 500, HOSTILE, "\x1b[31m[red]" + "x" * 500, NOW - 5, NOW + 5)
    server = Shelf(holding(bad)).server
    (job,) = server.busy
    assert (job.jid, job.queue) == ("j?", HOSTILE)
    assert job.jobtype.startswith("\x1b[31m[red]x")
    assert len(job.jobtype) == len(job.worker) == MAX_NAME


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_known(odd: float) -> None:
    job = Reservation("j1", "w1", *MAIL, odd, odd)
    odd_one = holding(
        job,
        boot=BootVerdict(0, odd, settled=True),
        workers=workers(vanished=1, orphans=1, oldest=odd, found=(crashed("w1", CrashReason.VANISHED, job),)),
    )
    queues = {"mail": Queue(3, odd, False)}
    odd_one = msgspec.structs.replace(
        odd_one, observation=msgspec.structs.replace(odd_one.observation, queues=queues, overdue={"retries": odd})
    )
    book = Shelf(odd_one).book
    (server,) = book.status().servers
    assert server.started_at is None
    assert server.queues[0].latency is None
    assert msgspec.json.decode(book.encoded(), type=Status) == book.status()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(any_snapshot(), min_size=1, max_size=3))
def test_whatever_is_polled_can_be_told_and_read_again(snapshots: list[Snapshot]) -> None:
    shelf = Shelf(*snapshots)
    encoded = shelf.book.encoded()
    assert msgspec.json.decode(encoded, type=Status) == shelf.book.status()
    assert len(encoded) < 256 * 1024


# The document


def test_the_document_is_this_one() -> None:
    """The keys that others rely on: those of ``/api/v1/status``."""
    left = reservation("7f3a", worker="4a1f", age=600.0)
    snapshot = calm(
        observation=observed(reservations={"7f3a": left}, process=None),
        boot=BootVerdict(0, NOW - 3600, settled=True),
        connections=ConnectionsVerdict(1640, 2000, 0, {"10.0.0.1": 900, "10.0.0.2": 740}, {}, 0, 128),
        workers=workers(3, vanished=1, orphans=1, found=(crashed("4a1f", CrashReason.VANISHED, left),)),
        collectors=failing("info", "INFO was not answered within 2 s"),
    )
    document = json.loads(Shelf(calm(), snapshot).book.encoded())
    (server,) = document.pop("servers")
    assert document == {"version": "1.2.3", "generated_at": NOW + 5, "since": NOW, "level": "warning"}
    signals, lists = server.pop("signals"), {key: server.pop(key) for key in ("busy", "orphans", "throttles", "queues")}
    assert signals[0] == {
        "name": "connections",
        "title": "Connections",
        "level": "warning",
        "headline": "1,640 of 2,000 (82 %)",
        "meaning": "At the limit every further client is refused: producers cannot push, workers cannot come back.",
        "advice": "See which peer holds the connections and whether they grow, and close what leaks them.",
        "runbook": "FaktoryConnectionsNearLimit",
        "trend": {
            "title": "share of the connection limit",
            "unit": "ratio",
            "step": 30.0,
            "values": [0.82],
            "ends_at": NOW + 5,
            "threshold": 0.8,
        },
    }
    assert [it["name"] for it in signals] == ["connections", "busy", "workers", "throttles"]
    job = {"jid": "7f3a", "jobtype": "SendMail", "queue": "mail", "worker": "4a1f"}
    assert lists == {
        "busy": [{**job, "age": 600.0, "used": 600 / 1800, "orphan": True}],
        "orphans": [{**job, "age": 1.0, "returns_in": 1200.0}],
        "throttles": [
            {
                "queue": "mail",
                "scope": "cluster",
                "limit": 4,
                "in_use": 2,
                "saturation": 0.5,
                "waiting": 3,
                "level": "calm",
            }
        ],
        "queues": [{"name": "mail", "jobs": 3, "latency": 1.0, "paused": False}],
    }
    assert server == {
        "name": "faktory",
        "system": "faktory",
        "level": "warning",
        "up": True,
        "summary": "Connections: 1,640 of 2,000 (82 %). Workers: 3 workers; 1 orphaned job; 1 crashed within 10 min.",
        "version": "1.9.4",
        "edition": "enterprise",
        "started_at": NOW - 3600,
        "age": 0.0,
        "workers": 3,
        "concerns": [],
        "busy_count": 1,
        "orphan_count": 1,
        "throttle_count": 1,
        "queue_count": 1,
        "sets": {"scheduled": 4, "retries": 0, "dead": 2, "working": 2},
        "happenings": [
            {
                "kind": "worker_crash",
                "at": NOW - 1,
                "level": "warning",
                "title": "Worker 4a1f crashed",
                "detail": "It held 1 job: SendMail 7f3a of queue mail.",
                "hint": "See its machine for an out-of-memory kill or a crash.",
            }
        ],
        "blind": [
            {
                "what": "Number of workers, expired reservations and memory, from INFO",
                "why": "INFO was not answered within 2 s",
                "remedy": None,
            },
            {
                "what": "The server's file descriptors and memory",
                "why": "its process cannot be seen from where Forewarn runs",
                "remedy": "Run both in the same process namespace (shareProcessNamespace in a pod).",
            },
        ],
    }
