"""What is wrong beside the four signals: the server is down, its process died, its Redis is away, jobs wait too long.

The thresholds are those of the alert rules, as in :mod:`exporter.status.levels`.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from exporter.model import IncidentKind, Queue, Snapshot, StatsdFact
from exporter.rules.settings import DEFAULTS
from exporter.settings import parse_duration
from exporter.status.document import Concern, Level
from exporter.status.hour import STEP, Hour
from exporter.status.levels import ALERTS, MOST_FACTS, of_limit, rank, severity
from exporter.status.words import MAX_MESSAGE, count, lasting, named, share, text


def concerns(snapshot: Snapshot, hour: Hour) -> tuple[Concern, ...]:
    """Return what is wrong beside the four signals, the worst first."""
    found = [
        *_away(snapshot),
        *_died(snapshot, hour),
        *_lost(hour),
        *_store(snapshot),
        *_queues(snapshot),
        *_failing_jobs(hour),
        *_process(snapshot),
        *_silent(snapshot, hour),
        *_risks(snapshot),
        *_collectors(snapshot, hour),
    ]
    return tuple(sorted(found, key=lambda it: -rank(it.level)))


def _concern(told: str, sentence: str, runbook: str) -> Concern:
    return Concern(level=severity(told), text=sentence, runbook=runbook)


def redis_away(snapshot: Snapshot) -> bool:
    """Whether the server answers and its Redis does not."""
    failing = any(it.last.name == "redis" and it.last.failure is not None for it in snapshot.collectors)
    return snapshot.observation.reached and failing and snapshot.observation.sets is None


def _away(snapshot: Snapshot) -> Iterable[Concern]:
    if not snapshot.observation.reached:
        yield _concern(ALERTS.faktory_down.severity, "The server does not answer.", "FaktoryDown")
    elif redis_away(snapshot):
        sentence = "The server answers, but its Redis does not: pushes and fetches fail or hang."
        yield _concern(ALERTS.faktory_redis_away.severity, sentence, "FaktoryRedisAway")


def _died(snapshot: Snapshot, hour: Hour) -> Iterable[Concern]:
    starts = ALERTS.faktory_crash_looping
    restarts = hour.rose("restarts", parse_duration(starts.window))
    if restarts >= starts.restarts:
        sentence = f"It restarted {count(restarts)} times within {lasting(parse_duration(starts.window))}."
        yield _concern(starts.severity, sentence, "FaktoryCrashLooping")
    looping = ALERTS.faktory_process_crash_loop
    crashes = hour.rose("crashes", parse_duration(looping.window))
    if crashes >= looping.crashes:
        sentence = f"Its process crashed {count(crashes)} times within {lasting(parse_duration(looping.window))}."
        yield _concern(looping.severity, sentence, "FaktoryProcessCrashLoop")
    if snapshot.process is None:
        return
    crash = next((it for it in reversed(snapshot.process.incidents) if it.crash), None)
    alert, silent = ALERTS.faktory_process_crashed, ALERTS.faktory_process_died_unexplained
    if crash is None or crash.at is None:
        return
    ago = snapshot.observation.now - crash.at
    if ago < parse_duration(alert.window) or crashes:
        if crash.kind in {IncidentKind.KILLED, IncidentKind.UNEXPLAINED}:
            sentence = f"Its process died without a word {lasting(ago)} ago ({crash.kind.value})."
            yield _concern(silent.severity, sentence, "FaktoryProcessDiedUnexplained")
        else:
            where = f" in {named(crash.component)}" if crash.component else ""
            sentence = f"Its process crashed{where} {lasting(ago)} ago ({crash.kind.value})."
            yield _concern(alert.severity, sentence, "FaktoryProcessCrashed")


def _lost(hour: Hour) -> Iterable[Concern]:
    for name, alert, sentence, runbook in (
        ("store_crashed", ALERTS.faktory_store_crashed, "Its Redis crashed", "FaktoryStoreCrashed"),
        ("job_lost", ALERTS.faktory_job_lost, "It lost jobs", "FaktoryJobLost"),
        ("flushed", ALERTS.faktory_flushed, "All its jobs were deleted (FLUSH)", "FaktoryFlushed"),
    ):
        window = parse_duration(alert.window)
        if hour.rose(name, window):
            yield _concern(alert.severity, f"{sentence} within the last {lasting(window)}.", runbook)


def _store(snapshot: Snapshot) -> Iterable[Concern]:
    slow = ALERTS.faktory_redis_slow
    for totals in snapshot.collectors:
        if totals.last.name == "redis" and totals.last.seconds > slow.seconds:
            sentence = f"Its Redis is slow: reading it took {totals.last.seconds:.1f} s."
            yield _concern(slow.severity, sentence, "FaktoryRedisSlow")
    far = ALERTS.faktory_redis_round_trip_high
    levels = {} if snapshot.statsd is None else snapshot.statsd.levels.get(StatsdFact.STORE_ROUND_TRIP, {})
    trip = max(levels.values(), default=0.0)
    if isfinite(trip) and trip > far.seconds:
        sentence = f"It waits long for its Redis: {trip * 1000:.0f} ms for each answer."
        yield _concern(far.severity, sentence, "FaktoryRedisRoundTripHigh")
    stuck = ALERTS.faktory_scheduler_stuck
    overdue = {name: late for name, late in (snapshot.observation.overdue or {}).items() if late > stuck.seconds}
    if overdue:
        name = max(overdue, key=overdue.__getitem__)
        sentence = f"Its scheduler is stuck: the earliest of {named(name)} is overdue by {lasting(overdue[name])}."
        yield _concern(stuck.severity, sentence, "FaktorySchedulerStuck")


def _queues(snapshot: Snapshot) -> Iterable[Concern]:
    queues = snapshot.queues.queues or {}
    paused = {name: it for name, it in queues.items() if it.paused and it.jobs}
    if paused:
        name = max(paused, key=lambda name: paused[name].jobs or 0)
        sentence = f"Queue {named(name)} is paused, and {count(paused[name].jobs or 0, 'job waits', 'jobs wait')} in it"
        more = f"; so are {count(len(paused) - 1)} more." if len(paused) > 1 else "."
        alert = ALERTS.faktory_queue_paused_with_backlog
        yield _concern(alert.severity, sentence + more, "FaktoryQueuePausedWithBacklog")
    objective = DEFAULTS.objectives[0].seconds
    late = {name: it.latency for name, it in queues.items() if _late(it, objective) and it.latency is not None}
    if late:
        name = max(late, key=late.__getitem__)
        sentence = f"Jobs wait too long: in queue {named(name)} for {lasting(late[name])}"
        more = f"; in {count(len(late) - 1)} more over {lasting(objective)}." if len(late) > 1 else "."
        yield Concern(level=Level.WARNING, text=sentence + more, runbook="FaktoryQueueLatencyBudgetBurn")


def _late(queue: Queue, objective: float) -> bool:
    return queue.latency is not None and queue.latency > objective and not queue.paused


def _failing_jobs(hour: Hour) -> Iterable[Concern]:
    storm = ALERTS.faktory_retry_storm
    window = parse_duration(storm.window)
    processed, failed = hour.rose("processed", window), hour.rose("failed", window)
    if processed >= storm.executions and failed / processed > storm.failed_share:
        sentence = f"Many jobs fail: {share(failed / processed)} of the executions within {lasting(window)}."
        yield _concern(storm.severity, sentence, "FaktoryRetryStorm")
    buried = ALERTS.faktory_dead_jobs_growing
    dead = [value for value in hour.dead.values(int(parse_duration(buried.window) / STEP)) if value is not None]
    if dead and dead[-1] - min(dead) >= buried.jobs:
        sentence = f"{count(int(dead[-1] - min(dead)), 'job')} went to the dead within {buried.window}."
        yield _concern(buried.severity, sentence, "FaktoryDeadJobsGrowing")


def _process(snapshot: Snapshot) -> Iterable[Concern]:
    process = snapshot.observation.process
    if process is None or not process.open_fds or not process.max_fds:
        return
    level = of_limit(ALERTS.faktory_process_file_descriptors, process.open_fds / process.max_fds)
    if level is not None:
        used = f"{count(process.open_fds)} of {count(process.max_fds)}"
        sentence = f"It runs out of file descriptors: {used} ({share(process.open_fds / process.max_fds)}) are open."
        yield Concern(level=level, text=sentence, runbook="FaktoryProcessFileDescriptors")


def _silent(snapshot: Snapshot, hour: Hour) -> Iterable[Concern]:
    if snapshot.statsd is None or snapshot.statsd.age is None or not snapshot.observation.reached:
        return
    age, limit = snapshot.statsd.age, snapshot.connections.limit
    full, silent = ALERTS.faktory_statsd_silent_near_limit, ALERTS.faktory_statsd_silent
    recent = [it for it in hour.connections.values(int(parse_duration(full.window) / STEP)) if it is not None]
    if limit and age > full.seconds and max(recent, default=0.0) / limit > full.used_share:
        sentence = f"It is near its connection limit, and has told nothing by StatsD for {lasting(age)}."
        yield _concern(full.severity, sentence, "FaktoryStatsdSilentNearLimit")
    elif age > silent.seconds:
        sentence = f"It is up, but has told nothing by StatsD for {lasting(age)}."
        yield _concern(silent.severity, sentence, "FaktoryStatsdSilent")


def _risks(snapshot: Snapshot) -> Iterable[Concern]:
    risks = sorted(name for name, risk in (snapshot.observation.known_risks or {}).items() if risk)
    if risks:
        sentence = f"It can die of a crash that is known: {', '.join(map(named, risks[:MOST_FACTS]))}."
        yield _concern(ALERTS.faktory_known_crash_risk.severity, sentence, "FaktoryKnownCrashRisk")


def _collectors(snapshot: Snapshot, hour: Hour) -> Iterable[Concern]:
    alert = ALERTS.forewarn_collector_failing
    window = parse_duration(alert.window)
    away = redis_away(snapshot)
    for totals in snapshot.collectors:
        name = totals.last.name
        if totals.last.failure is None or (away and name == "redis") or not snapshot.observation.reached:
            continue
        if hour.rose(f"errors {name}", window) > 1:
            sentence = f"Forewarn cannot read {named(name)}: {text(totals.last.failure.message, MAX_MESSAGE)}"
            yield _concern(alert.severity, sentence, "ForewarnCollectorFailing")


def stale(age: float) -> Concern | None:
    """Return that the newest poll ended too long ago, ``age`` seconds."""
    alert = ALERTS.forewarn_snapshot_stale
    if not isfinite(age) or age <= alert.seconds:
        return None
    sentence = f"Forewarn has no fresh facts: its last poll ended {lasting(age)} ago."
    return _concern(alert.severity, sentence, "ForewarnSnapshotStale")
