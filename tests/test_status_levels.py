"""The level of everything on the status page: the thresholds are those of the alerts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from exporter.model import (
    OTHER,
    BootVerdict,
    BusyGroup,
    BusyVerdict,
    CollectorRun,
    CollectorTotals,
    CrashReason,
    Incident,
    IncidentKind,
    LogEvent,
    ProcessFacts,
    Queue,
    QueuesVerdict,
    Scope,
    Snapshot,
    StatsdFact,
    StatsdTraffic,
    StatsdVerdict,
    ThrottlesVerdict,
    ThrottleUse,
)
from exporter.rules.render import groups
from exporter.rules.rule import AlertRule
from exporter.rules.settings import DEFAULTS
from exporter.settings import parse_duration
from exporter.status import levels
from exporter.status.book import STALE
from exporter.status.document import Level
from exporter.status.hour import ERRORS_KEPT, KEPT
from exporter.status.levels import severity, worst
from tests.runbooks import pages
from tests.status_samples import (
    DETAILS,
    HEALTH,
    MAIL,
    NOW,
    Shelf,
    calm,
    connections,
    failing,
    observed,
    process,
    without,
    workers,
)

STATUS = Path(levels.__file__).parent
RULES: dict[str, set[Level]] = {}
for group in groups(DEFAULTS):
    for rule in group.rules:
        if isinstance(rule, AlertRule):
            RULES.setdefault(rule.name, set()).add(severity(rule.severity))


class Case(NamedTuple):
    """What one thing that befalls a calm server leads to."""

    name: str
    after: Snapshot
    level: Level
    alert: str
    told: str
    before: Snapshot = calm()


def busy(used: float, *, jobs: int = 2) -> BusyVerdict:
    return BusyVerdict({MAIL: BusyGroup(jobs, 8.0, used)}, {}, {})


def throttled(in_use: int | None, waiting: int = 3, *, queue: str = "mail") -> ThrottlesVerdict:
    return ThrottlesVerdict({(queue, Scope.CLUSTER): ThrottleUse(4, in_use, waiting, 0.0)})


def queues(queue: Queue, name: str = "mail") -> QueuesVerdict:
    return QueuesVerdict({name: queue}, {"queue": 1}, 200)


def logged(event: LogEvent) -> Snapshot:
    return calm(process=process(events={event: 1}))


def restarted(times: int) -> Snapshot:
    return calm(boot=BootVerdict(times, NOW - 3600, settled=True))


def incident(kind: IncidentKind, ago: float) -> Incident:
    return Incident(kind, "concurrent map writes", NOW - ago)


def silent(age: float, round_trip: float = 0.0) -> StatsdVerdict:
    return StatsdVerdict(age, {}, {}, {StatsdFact.STORE_ROUND_TRIP: {(): round_trip}}, StatsdTraffic())


def slow(seconds: float) -> tuple[CollectorTotals, ...]:
    return (CollectorTotals(CollectorRun("redis", seconds), {}),)


SIGNALS = {
    "connections": [
        Case("near", calm(connections=connections(1601)), Level.WARNING, "FaktoryConnectionsNearLimit", "(80 %)"),
        Case("nearly full", calm(connections=connections(1901)), Level.CRITICAL, "FaktoryConnectionsNearLimit", "95 %"),
        Case(
            "refused",
            calm(connections=connections(refused=2), observation=observed(refusals=2)),
            Level.CRITICAL,
            "FaktoryConnectionsRefused",
            "2 refused within 5 min",
        ),
        Case(
            "others refused",
            logged(LogEvent.CONNECTION_REFUSED),
            Level.CRITICAL,
            "FaktoryConnectionsRefused",
            "1 refused",
        ),
        Case(
            "one peer",
            calm(connections=connections(1100, peers={"10.0.0.7": 700, "10.0.0.2": 400})),
            Level.WARNING,
            "FaktoryPeerHoldsConnections",
            "10.0.0.7 holds 63 %",
        ),
        Case(
            "not let in",
            calm(connections=connections(waiting=10)),
            Level.CRITICAL,
            "FaktoryAcceptQueueFilling",
            "10 wait to be let in",
        ),
        Case(
            "limit unknown",
            calm(connections=connections(limit=None)),
            Level.UNKNOWN,
            "FaktoryConnectionsLimitUnknown",
            "100 open; limit not known",
        ),
        Case(
            "health page away",
            calm(connections=connections(None), collectors=failing("health")),
            Level.UNKNOWN,
            "ForewarnCollectorFailing",
            "not known",
        ),
    ],
    "busy": [
        Case("nearly used", calm(busy=busy(0.81)), Level.WARNING, "FaktoryReservationNearlyUsed", "has used 81 %"),
        Case(
            "expired",
            calm(observation=observed(details=msgspec.structs.replace(DETAILS, reservations_expired=2))),
            Level.WARNING,
            "FaktoryReservationsExpired",
            "2 reservations ran out within 15 min",
        ),
        Case(
            "redis away",
            calm(busy=BusyVerdict(None, None, {}), collectors=failing("redis")),
            Level.UNKNOWN,
            "ForewarnCollectorFailing",
            "2 busy jobs; their ages are not known",
        ),
    ],
    "workers": [
        Case("crashed", calm(workers=workers(vanished=1)), Level.WARNING, "FaktoryWorkerCrashed", "1 crashed within"),
        Case("hung", calm(workers=workers(hung=2)), Level.WARNING, "FaktoryWorkerHung", "2 hung within 15 min"),
        Case(
            "many crashed",
            calm(workers=workers(vanished=2, hung=1)),
            Level.CRITICAL,
            "FaktoryWorkerCrashRateHigh",
            "3 crashed within 60 min",
        ),
        Case("none left", calm(workers=workers(0)), Level.CRITICAL, "FaktoryNoWorkers", "0 workers; 3 jobs wait"),
        Case(
            "orphans",
            calm(workers=workers(orphans=2, oldest=301.0)),
            Level.WARNING,
            "FaktoryJobsOrphaned",
            "2 orphaned jobs; the oldest orphan lies for 5 min",
        ),
    ],
    "throttles": [
        Case(
            "full",
            calm(throttles=throttled(4)),
            Level.WARNING,
            "FaktoryThrottleSaturated",
            "queue mail is full and 3 jobs wait",
        ),
        Case(
            "without a queue",
            calm(throttles=throttled(0, 0, queue="nail")),
            Level.UNKNOWN,
            "FaktoryThrottleWithoutQueue",
            "there is no queue nail",
        ),
    ],
}

CONCERNS = [
    Case("down", calm(observation=observed(reached=False)), Level.CRITICAL, "FaktoryDown", "does not answer"),
    Case(
        "redis away",
        calm(observation=observed(sets=None), collectors=failing("redis")),
        Level.CRITICAL,
        "FaktoryRedisAway",
        "its Redis does not",
    ),
    Case("restarts", restarted(3), Level.CRITICAL, "FaktoryCrashLooping", "3 times within 30 min"),
    Case("crashes", calm(process=process(crashes=3)), Level.CRITICAL, "FaktoryProcessCrashLoop", "crashed 3 times"),
    Case(
        "crash",
        calm(process=process(incident(IncidentKind.CONCURRENT_MAP, 60), crashes=1)),
        Level.WARNING,
        "FaktoryProcessCrashed",
        "60 s ago (concurrent-map)",
    ),
    Case(
        "crash before Forewarn started",
        calm(process=process(incident(IncidentKind.CONCURRENT_MAP, 1700))),
        Level.WARNING,
        "FaktoryProcessCrashed",
        "28 min ago",
        calm(process=process(incident(IncidentKind.CONCURRENT_MAP, 1700))),
    ),
    Case(
        "killed",
        calm(process=process(incident(IncidentKind.KILLED, 60), crashes=1)),
        Level.WARNING,
        "FaktoryProcessDiedUnexplained",
        "without a word",
    ),
    Case("store", logged(LogEvent.STORE_CRASHED), Level.CRITICAL, "FaktoryStoreCrashed", "Redis crashed"),
    Case("lost", logged(LogEvent.JOB_LOST), Level.CRITICAL, "FaktoryJobLost", "lost jobs"),
    Case("flushed", logged(LogEvent.FLUSHED), Level.CRITICAL, "FaktoryFlushed", "deleted"),
    Case("slow redis", calm(collectors=slow(1.2)), Level.WARNING, "FaktoryRedisSlow", "1.2 s"),
    Case(
        "scheduler",
        calm(observation=observed(overdue={"retries": 61.0})),
        Level.CRITICAL,
        "FaktorySchedulerStuck",
        "earliest of retries is overdue by 61 s",
    ),
    Case(
        "paused",
        calm(queues=queues(Queue(7, 2.0, True))),
        Level.WARNING,
        "FaktoryQueuePausedWithBacklog",
        "Queue mail is paused, and 7 jobs wait",
    ),
    Case(
        "latency",
        calm(queues=queues(Queue(7, 61.0, False))),
        Level.WARNING,
        "FaktoryQueueLatencyBudgetBurn",
        "queue mail for 61 s",
    ),
    Case(
        "retries",
        calm(observation=observed(processed=1100, failed=30)),
        Level.WARNING,
        "FaktoryRetryStorm",
        "30 % of the executions",
    ),
    Case(
        "dead",
        calm(observation=observed(sets={"dead": 12})),
        Level.WARNING,
        "FaktoryDeadJobsGrowing",
        "10 jobs went to the dead",
    ),
    Case(
        "files",
        calm(observation=observed(process=ProcessFacts(1, open_fds=970, max_fds=1000))),
        Level.CRITICAL,
        "FaktoryProcessFileDescriptors",
        "970 of 1,000 (97 %)",
    ),
    Case("far", calm(statsd=silent(1, 0.07)), Level.WARNING, "FaktoryRedisRoundTripHigh", "70 ms for each answer"),
    Case("silent", calm(statsd=silent(91)), Level.WARNING, "FaktoryStatsdSilent", "StatsD for 1 min"),
    Case(
        "silent and full",
        calm(statsd=silent(91), connections=connections(1601)),
        Level.CRITICAL,
        "FaktoryStatsdSilentNearLimit",
        "near its connection limit",
    ),
    Case(
        "risk",
        calm(observation=observed(known_risks={"faktory-busy-page": True, "other": False})),
        Level.WARNING,
        "FaktoryKnownCrashRisk",
        "known: faktory-busy-page.",
    ),
    Case(
        "collector",
        calm(collectors=failing("info", "INFO took longer", errors=2)),
        Level.WARNING,
        "ForewarnCollectorFailing",
        "cannot read info: INFO took longer",
        calm(collectors=failing("info", errors=0)),
    ),
]


def shelf(case: Case) -> Shelf:
    """What is known after it happened: before, the server was calm for long enough to be known."""
    return Shelf(case.before, case.after, every=60.0)


def test_a_server_of_which_everything_is_known_and_well_is_calm() -> None:
    server = Shelf(calm()).server
    assert [(it.name, it.level) for it in server.signals] == [
        ("connections", Level.CALM),
        ("busy", Level.CALM),
        ("workers", Level.CALM),
        ("throttles", Level.CALM),
    ]
    assert (server.level, server.summary, server.concerns) == (Level.CALM, "Nothing is wrong.", ())
    assert [it.headline for it in server.signals] == [
        "100 of 2,000 (5 %)",
        "2 busy, the oldest for 8 s",
        "3 workers",
        "1 throttle, the fullest at 50 %",
    ]
    assert all(it.meaning is it.advice is it.runbook is None for it in server.signals)


@pytest.mark.parametrize(
    ("signal", "case"), [pytest.param(name, it, id=it.name) for name, cases in SIGNALS.items() for it in cases]
)
def test_a_signal_has_the_level_of_its_alert(signal: str, case: Case) -> None:
    found = shelf(case).signal(signal)
    assert (found.level, found.runbook) == (case.level, case.alert)
    assert case.told in found.headline
    assert found.meaning
    assert found.advice


@pytest.mark.parametrize("case", [pytest.param(it, id=it.name) for it in CONCERNS])
def test_what_is_wrong_beside_the_signals_has_the_level_of_its_alert(case: Case) -> None:
    server = shelf(case).server
    (found,) = (it for it in server.concerns if it.runbook == case.alert)
    assert found.level is case.level
    assert case.told in found.text
    assert server.level is worst([*(it.level for it in server.signals), *(it.level for it in server.concerns)])


@pytest.mark.parametrize("case", [it for each in (*SIGNALS.values(), CONCERNS) for it in each], ids=lambda it: it.name)
def test_a_level_is_one_that_the_rules_tell_this_alert_with(case: Case) -> None:
    if case.alert == "ForewarnCollectorFailing" and case.level is Level.UNKNOWN:
        return  # the signal is not known; that a collector fails is told as a warning beside it
    assert case.level in RULES[case.alert]


@pytest.mark.parametrize(
    "snapshot",
    [
        calm(connections=connections(1600)),
        calm(connections=connections(900, peers={"10.0.0.7": 800, "10.0.0.2": 100})),
        calm(connections=connections(1100, peers={"10.0.0.7": 1100, "10.0.0.2": 0})),
        calm(connections=connections(1100, peers={OTHER: 800, "10.0.0.2": 300})),
        calm(connections=connections(waiting=9)),
        calm(busy=busy(0.8)),
        calm(workers=workers(0), queues=queues(Queue(0, 0.0, False))),
        calm(workers=workers(0), queues=queues(Queue(3, 0.0, True)), throttles=throttled(4)),
        calm(workers=workers(orphans=2, oldest=300.0)),
        calm(throttles=throttled(4, 0)),
        calm(throttles=throttled(0, 0, queue="nail"), queues=queues(Queue(3, 1.0, False), OTHER)),
        calm(busy=busy(0.99), workers=workers(orphans=2)),
    ],
)
def test_below_a_threshold_no_signal_tells_anything(snapshot: Snapshot) -> None:
    now = Shelf(calm(), snapshot, every=60.0).server
    assert {it.level for it in now.signals} == {Level.CALM}


@pytest.mark.parametrize(
    "snapshot",
    [
        restarted(2),
        calm(process=process(crashes=2)),
        calm(process=process(incident(IncidentKind.CONCURRENT_MAP, 1801))),
        calm(process=process(incident(IncidentKind.DATA_RACE, 5))),
        calm(collectors=slow(1.0)),
        calm(collectors=failing("info", errors=1)),
        calm(observation=observed(overdue={"retries": 60.0})),
        calm(queues=queues(Queue(0, 0.0, True))),
        calm(queues=queues(Queue(7, 60.0, False))),
        calm(observation=observed(processed=1049, failed=49)),
        calm(observation=observed(processed=1100, failed=25)),
        calm(observation=observed(sets={"dead": 11})),
        calm(observation=observed(process=ProcessFacts(1, open_fds=800, max_fds=1000))),
        calm(statsd=silent(90, 0.05)),
        calm(observation=observed(known_risks={"faktory-busy-page": False})),
    ],
)
def test_below_a_threshold_nothing_is_wrong_beside_the_signals(snapshot: Snapshot) -> None:
    before = calm(collectors=failing("info", errors=0)) if snapshot.collectors[-1].last.failure else calm()
    assert Shelf(before, snapshot, every=60.0).server.concerns == ()


def test_what_happened_is_told_for_as_long_as_its_alert_looks_back() -> None:
    now = Shelf(calm(), calm(workers=workers(vanished=1)))
    now.take(calm(workers=workers(vanished=1)), every=9 * 60)
    assert now.signal("workers").level is Level.WARNING
    now.take(calm(workers=workers(vanished=1)), every=2 * 60)
    assert now.signal("workers").level is Level.CALM


def test_connections_that_wait_to_be_let_in_are_a_warning_only_where_they_always_do() -> None:
    waits = calm(connections=connections(waiting=1))
    now = Shelf(calm(), *[waits] * 50, every=5.0)
    assert now.signal("connections").level is Level.CALM
    now.take(*[waits] * 20)
    assert (now.signal("connections").level, now.signal("connections").runbook) == (
        Level.WARNING,
        "FaktoryAcceptQueueFilling",
    )
    now.take(calm(), waits)
    assert now.signal("connections").level is Level.CALM


def test_connections_that_grow_are_told_with_the_time_that_is_left() -> None:
    growing = [calm(connections=connections(1000 + 10 * minute)) for minute in range(16)]
    found = Shelf(*growing, every=60.0).signal("connections")
    assert (found.level, found.runbook) == (Level.CALM, None)  # 85 minutes
    growing = [calm(connections=connections(1000 + 35 * minute)) for minute in range(16)]
    found = Shelf(*growing, every=60.0).signal("connections")
    assert (found.level, found.runbook) == (Level.WARNING, "FaktoryConnectionsFilling")
    assert "full in about 13 min at this pace" in found.headline


def test_a_few_minutes_are_no_trend() -> None:
    growing = [calm(connections=connections(1100 + 40 * minute)) for minute in range(5)]
    assert Shelf(*growing, every=60.0).signal("connections").level is Level.CALM


def test_connections_that_grew_and_stand_still_now_are_no_trend() -> None:
    grew = [calm(connections=connections(min(1500, 1000 + 100 * minute))) for minute in range(16)]
    assert Shelf(*grew, every=60.0).signal("connections").level is Level.CALM


def test_without_redis_the_jobs_are_unknown_with_the_remedy() -> None:
    alone = calm(
        observation=observed(reservations=None),
        busy=BusyVerdict(None, None, {}),
        workers=workers(orphans=None),
        throttles=throttled(None),
        collectors=without("redis"),
    )
    server = Shelf(alone).server
    for name in ("busy", "workers", "throttles"):
        (found,) = (it for it in server.signals if it.name == name)
        assert found.level is Level.UNKNOWN
        assert found.advice == "Set redis_url to the server's Redis."
    assert server.level is Level.UNKNOWN
    assert server.summary == "Nothing is known to be wrong, but not all is known of: busy jobs, workers, throttles."


def test_throttles_are_unknown_where_nobody_told_their_limits() -> None:
    found = Shelf(calm(throttles=ThrottlesVerdict(None), collectors=without("throttles"))).signal("throttles")
    assert (found.level, found.advice) == (Level.UNKNOWN, "Set config_dir to the server's configuration folder.")


def test_an_edition_without_throttles_lacks_none() -> None:
    free = observed(health=msgspec.structs.replace(HEALTH, edition="oss"))
    found = Shelf(calm(observation=free, throttles=ThrottlesVerdict(None))).signal("throttles")
    assert (found.level, found.headline) == (Level.CALM, "this edition has none")


def test_there_is_no_verdict_on_workers_just_after_a_restart() -> None:
    found = Shelf(calm(boot=BootVerdict(1, NOW - 5, settled=False))).signal("workers")
    assert (found.level, found.headline) == (Level.UNKNOWN, "3 workers; no verdict on crashes yet")


def test_of_a_server_that_is_down_nothing_is_calm() -> None:
    server = Shelf(calm(), calm(observation=observed(reached=False))).server
    assert {it.level for it in server.signals} == {Level.UNKNOWN}
    assert {it.headline for it in server.signals} == {"not known: the server does not answer"}
    assert (server.level, server.up, server.summary) == (Level.CRITICAL, False, "The server does not answer.")


def test_of_a_server_that_is_down_what_the_kernel_tells_still_counts() -> None:
    hangs = calm(observation=observed(reached=False), connections=connections(waiting=12))
    assert Shelf(calm(), hangs).signal("connections").level is Level.CRITICAL


def test_the_worst_finding_gives_level_and_advice_and_the_others_stay_in_the_headline() -> None:
    both = calm(connections=connections(1950, peers={"10.0.0.7": 1900, "10.0.0.2": 50}))
    found = Shelf(calm(), both).signal("connections")
    assert (found.level, found.runbook) == (Level.CRITICAL, "FaktoryConnectionsNearLimit")
    assert found.headline == "1,950 of 2,000 (97 %); 10.0.0.7 holds 97 %"


def test_the_summary_tells_the_worst_first_and_how_much_more_there_is() -> None:
    bad = calm(
        connections=connections(1950),
        queues=queues(Queue(7, 2.0, True)),
        collectors=slow(2.0),
        observation=observed(known_risks={"faktory-busy-page": True}),
    )
    assert Shelf(calm(), bad).server.summary == (
        "Connections: 1,950 of 2,000 (97 %). Its Redis is slow: reading it took 2.0 s. Queue mail is paused, and 7 jobs"
        " wait in it. And 1 more."
    )


def test_every_runbook_that_is_named_has_a_page() -> None:
    named = {
        name
        for module in ("levels", "concerns", "draw", "blind")
        for name in re.findall(r'"((?:Faktory|Forewarn)[A-Z]\w+)"', (STATUS / f"{module}.py").read_text())
    }
    assert len(named) > 30
    assert named <= pages().keys()


def test_the_hour_remembers_for_as_long_as_any_alert_looks_back() -> None:
    alerts = DEFAULTS.alerts
    for names, alert in (
        (("refused", "refused_logged"), alerts.faktory_connections_refused),
        (("restarts",), alerts.faktory_crash_looping),
        (("expired",), alerts.faktory_reservations_expired),
        (("vanished", "hung"), alerts.faktory_worker_crash_rate_high),
        (("crashes",), alerts.faktory_process_crash_loop),
        (("store_crashed",), alerts.faktory_store_crashed),
        (("job_lost",), alerts.faktory_job_lost),
        (("flushed",), alerts.faktory_flushed),
        (("processed", "failed"), alerts.faktory_retry_storm),
    ):
        assert all(KEPT[name] >= parse_duration(alert.window) for name in names)
    assert parse_duration(alerts.forewarn_collector_failing.window) <= ERRORS_KEPT
    assert parse_duration(alerts.faktory_dead_jobs_growing.window) <= 3600
    assert {reason.value for reason in CrashReason} <= KEPT.keys()


def test_a_snapshot_is_stale_when_its_alert_says_so() -> None:
    assert DEFAULTS.alerts.forewarn_snapshot_stale.seconds == STALE
