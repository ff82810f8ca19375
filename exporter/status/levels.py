"""How bad it is: one snapshot and the hour before it, judged by the thresholds of the alert rules.

The page tells what is so now. An alert tells it once it has lasted for the alert's ``for``, so the page is never calmer
than Alertmanager and may be ahead of it; an alert may go on for its ``keep_firing_for`` when the page is calm again.
What an alert of severity ``info`` tells of something that is not known makes the level unknown.

Left to Prometheus is what needs more than an hour of history, or that of every queue and job type: the burn of a
latency budget (late jobs are a warning here), jobs older than usual, queues that get nothing done, job types that fail,
backlogs, memory, sockets and file descriptors that grow; and what is lost of StatsD.

Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from exporter.model import OTHER, CrashReason, Scope, Snapshot, ThrottleUse
from exporter.rules.settings import DEFAULTS, NearLimit
from exporter.settings import parse_duration
from exporter.status.document import Level, Signal, Throttle
from exporter.status.hour import STEP, Hour, orphans
from exporter.status.words import count, lasting, named, share, text

ALERTS: Final = DEFAULTS.alerts

MOST_FACTS: Final = 3
"""How many facts beside the first one a headline tells."""

MOST_THROTTLES: Final = 50

NO_THROTTLES: Final = frozenset({"oss"})
"""Editions that have none."""

_RANKS: Final = {level: rank for rank, level in enumerate((Level.CALM, Level.UNKNOWN, Level.WARNING, Level.CRITICAL))}
_SEVERITIES: Final = {"critical": Level.CRITICAL, "warning": Level.WARNING, "info": Level.UNKNOWN, "none": Level.CALM}

Name = Literal["connections", "busy", "workers", "throttles"]

TITLES: Final[Mapping[Name, str]] = {
    "connections": "Connections",
    "busy": "Busy jobs",
    "workers": "Workers",
    "throttles": "Throttles",
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that makes a signal other than calm."""

    level: Level
    fact: str | None
    """What the headline tells of it; ``None``: it stands there already."""
    meaning: str
    advice: str
    runbook: str | None


def rank(level: Level) -> int:
    """Return how bad a level is, as a number."""
    return _RANKS[level]


def worst(levels: Iterable[Level]) -> Level:
    """Return the worst of them; of none, that it is calm."""
    return max(levels, key=rank, default=Level.CALM)


def severity(told: str) -> Level:
    """Return the level of an alert's severity."""
    return _SEVERITIES[told]


def signals(snapshot: Snapshot, hour: Hour) -> tuple[Signal, ...]:
    """Return all four. Of a server that is down what is still known may be a warning, but nothing is calm."""
    judged = (_connections(snapshot, hour), _busy(snapshot, hour), _workers(snapshot, hour), throttles(snapshot))
    if snapshot.observation.reached:
        return judged
    return tuple(
        it if rank(it.level) > rank(Level.UNKNOWN) else unknown(it.name, "the server does not answer") for it in judged
    )


def unknown(name: Name, why: str) -> Signal:
    """Return one of which nothing is known."""
    return Signal(name=name, title=TITLES[name], level=Level.UNKNOWN, headline=f"not known: {why}")


def _signal(name: Name, headline: str, findings: Sequence[Finding]) -> Signal:
    """Return one whose level is that of the worst of ``findings``, the first of those."""
    found = sorted(findings, key=lambda it: -rank(it.level))
    facts = [it.fact for it in found if it.fact][:MOST_FACTS]
    first = found[0] if found else None
    return Signal(
        name=name,
        title=TITLES[name],
        level=Level.CALM if first is None else first.level,
        headline="; ".join([headline, *facts]),
        meaning=None if first is None else first.meaning,
        advice=None if first is None else first.advice,
        runbook=None if first is None else first.runbook,
    )


# Connections


def used_share(snapshot: Snapshot) -> float | None:
    """Return the share of the connection limit that is used."""
    used, limit = snapshot.connections.used, snapshot.connections.limit
    return None if used is None or not limit else used / limit


def _connections(snapshot: Snapshot, hour: Hour) -> Signal:
    used, limit = snapshot.connections.used, snapshot.connections.limit
    if used is None:
        headline = "not known: the health page does not answer"
        findings = [
            Finding(
                level=Level.UNKNOWN,
                fact=None,
                meaning="Nobody can tell how near the limit is.",
                advice="See that the server's Web UI is on and that web_url leads to it.",
                runbook="ForewarnCollectorFailing",
            )
        ]
    elif not limit:
        headline = f"{count(used)} open; limit not known"
        findings = [
            Finding(
                level=severity(ALERTS.faktory_connections_limit_unknown.severity),
                fact=None,
                meaning="No warning can come before clients are refused.",
                advice="Set connections_limit in Forewarn's settings to what the licence allows.",
                runbook="FaktoryConnectionsLimitUnknown",
            )
        ]
    else:
        headline = f"{count(used)} of {count(limit)} ({share(used / limit)})"
        findings = [*_near(used / limit), *_filling(snapshot, hour)]
    return _signal(
        "connections", headline, [*findings, *_refused(hour), *_accepting(snapshot, hour), *_peers(snapshot)]
    )


def _near(used: float) -> Iterable[Finding]:
    level = of_limit(ALERTS.faktory_connections_near_limit, used)
    if level is not None:
        yield Finding(
            level=level,
            fact=None,
            meaning="At the limit every further client is refused: producers cannot push, workers cannot come back.",
            advice="See which peer holds the connections and whether they grow, and close what leaks them.",
            runbook="FaktoryConnectionsNearLimit",
        )


def of_limit(alert: NearLimit, used: float) -> Level | None:
    """Return the level of a share of a limit; ``None`` where it is calm."""
    if used > alert.critical_share:
        return Level.CRITICAL
    return severity(alert.severity) if used > alert.used_share else None


def _refused(hour: Hour) -> Iterable[Finding]:
    alert = ALERTS.faktory_connections_refused
    window = parse_duration(alert.window)
    refused = hour.rose("refused_logged", window) or hour.rose("refused", window)
    if refused:
        yield Finding(
            level=severity(alert.severity),
            fact=f"{count(refused)} refused within {lasting(window)}",
            meaning="The limit is reached: producers and workers are refused alike.",
            advice="Close what leaks connections, or end the process that holds most of them.",
            runbook="FaktoryConnectionsRefused",
        )


def _accepting(snapshot: Snapshot, hour: Hour) -> Iterable[Finding]:
    alert = ALERTS.faktory_accept_queue_filling
    waiting = snapshot.connections.waiting or 0
    lagging = 0.0 if hour.lagging_since is None else hour.at - hour.lagging_since
    if waiting >= alert.critical_connections:
        yield Finding(
            level=Level.CRITICAL,
            fact=f"{count(waiting)} wait to be let in",
            meaning="The server lets no new connection in: it stands still, or has given up.",
            advice="See its file descriptors and whether it is stopped; most often only a restart helps.",
            runbook="FaktoryAcceptQueueFilling",
        )
    elif waiting >= alert.connections and lagging >= parse_duration(alert.window):
        yield Finding(
            level=severity(alert.severity),
            fact=f"{count(waiting)} wait to be let in, for {lasting(lagging)}",
            meaning="The server is slow to let new connections in.",
            advice="See its processor time, and who connects so often.",
            runbook="FaktoryAcceptQueueFilling",
        )


def _peers(snapshot: Snapshot) -> Iterable[Finding]:
    alert = ALERTS.faktory_peer_holds_connections
    peers, used, part = snapshot.connections.peers or {}, snapshot.connections.used, used_share(snapshot)
    named_ones = {peer: held for peer, held in peers.items() if peer != OTHER}
    if not named_ones or not used or part is None or part <= alert.used_share:
        return
    peer = max(named_ones, key=named_ones.__getitem__)
    if peers[peer] / used > alert.peer_share and sum(held > 0 for held in peers.values()) > 1:
        yield Finding(
            level=severity(alert.severity),
            fact=f"{named(peer)} holds {share(peers[peer] / used)}",
            meaning="A pool without a bound, or a process that connects anew for each job, can lock all others out.",
            advice="See what runs at that address.",
            runbook="FaktoryPeerHoldsConnections",
        )


def _filling(snapshot: Snapshot, hour: Hour) -> Iterable[Finding]:
    alert = ALERTS.faktory_connections_filling
    left = seconds_left(snapshot, hour)
    part = used_share(snapshot)
    if left is not None and left < alert.seconds_left and part is not None and part > alert.used_share:
        yield Finding(
            level=severity(alert.severity),
            fact=f"full in about {lasting(left)} at this pace",
            meaning="If connections go on growing like this, every further client is refused.",
            advice="Find what opens connections and does not close them while there is time.",
            runbook="FaktoryConnectionsFilling",
        )


def seconds_left(snapshot: Snapshot, hour: Hour) -> float | None:
    """Return when the connection limit is reached if they go on growing; ``None`` where they do not, or not for long.

    They must have been known for as long as the alert's ``for``.
    """
    alert = ALERTS.faktory_connections_filling
    used, limit = snapshot.connections.used, snapshot.connections.limit
    if used is None or not limit:
        return None
    window, recent, wait = (int(parse_duration(it) / STEP) for it in (alert.window, alert.recent, alert.pending))
    values = hour.connections.values(window)
    known = [number for number, value in enumerate(values) if value is not None]
    if not known or known[-1] - known[0] < wait:
        return None
    slope = _slope(values)
    if slope is None or slope <= 0 or (_slope(values[-recent:]) or 0.0) <= 0:
        return None
    return max(0, limit - used) / slope


def _slope(values: Sequence[float | None]) -> float | None:
    """Return the growth per second by linear regression."""
    points = [(number * STEP, value) for number, value in enumerate(values) if value is not None]
    if len(points) < 2:
        return None
    mean_x, mean_y = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    spread: float = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


# Busy jobs


def _busy(snapshot: Snapshot, hour: Hour) -> Signal:
    groups = snapshot.busy.groups
    expired = list(_expired(hour))
    if groups is None:
        working = (snapshot.observation.sets or {}).get("working")
        headline = "not known" if working is None else f"{count(working, 'busy job')}; their ages are not known"
        return _signal("busy", headline, [*expired, _no_jobs(snapshot, "Nobody can tell which jobs run too long.")])
    jobs = sum(it.jobs for it in groups.values())
    ages = [it.oldest_age for it in groups.values() if it.oldest_age is not None]
    headline = f"{count(jobs)} busy, the oldest for {lasting(max(ages))}" if jobs and ages else "no job is busy"
    return _signal("busy", headline, [*_nearly_used(snapshot), *expired])


def _no_jobs(snapshot: Snapshot, meaning: str) -> Finding:
    """Return why nothing is known of single jobs."""
    configured = "redis" in {totals.last.name for totals in snapshot.collectors}
    return Finding(
        level=Level.UNKNOWN,
        fact="its Redis does not answer" if configured else "no Redis is configured",
        meaning=meaning,
        advice="See why the server's Redis cannot be read." if configured else "Set redis_url to the server's Redis.",
        runbook="ForewarnCollectorFailing" if configured else None,
    )


def _nearly_used(snapshot: Snapshot) -> Iterable[Finding]:
    alert = ALERTS.faktory_reservation_nearly_used
    groups, left = snapshot.busy.groups or {}, snapshot.workers.orphans or {}
    used = {
        pair: it.used_ratio
        for pair, it in groups.items()
        if it.used_ratio is not None
        and it.used_ratio > alert.used_share
        and not (pair in left and left[pair].jobs == it.jobs)
    }
    if not used:
        return
    queue, jobtype = pair = max(used, key=used.__getitem__)
    yield Finding(
        level=severity(alert.severity),
        fact=f"a {named(jobtype)} job of queue {named(queue)} has used {share(used[pair])} of its reservation",
        meaning="When its reservation ends the job is given to another worker while the first still works on it.",
        advice="See whether it hangs, or needs a longer reserve_for.",
        runbook="FaktoryReservationNearlyUsed",
    )


def _expired(hour: Hour) -> Iterable[Finding]:
    alert = ALERTS.faktory_reservations_expired
    window = parse_duration(alert.window)
    expired = hour.rose("expired", window)
    if expired:
        yield Finding(
            level=severity(alert.severity),
            fact=f"{count(expired, 'reservation')} ran out within {lasting(window)}",
            meaning="These jobs go to another worker; where the first one still lives they run twice.",
            advice="See which jobs outlive their reserve_for, and which workers crashed.",
            runbook="FaktoryReservationsExpired",
        )


# Workers


def _workers(snapshot: Snapshot, hour: Hour) -> Signal:
    workers, left = snapshot.workers.registered, orphans(snapshot)
    headline = "number of workers not known" if workers is None else count(workers, "worker")
    if left:
        headline += f"; {count(left, 'orphaned job')}"
    findings = [*_crashed(hour), *_none_left(snapshot), *_orphaned(snapshot)]
    if left is None:
        findings.append(_no_jobs(snapshot, "Crashed workers, and the jobs that they leave behind, are not seen."))
    elif not snapshot.boot.settled:
        findings.append(
            Finding(
                level=Level.UNKNOWN,
                fact="no verdict on crashes yet",
                meaning="The server may have been restarted within the last 90 s, and workers register anew.",
                advice="Wait: it comes by itself.",
                runbook=None,
            )
        )
    return _signal("workers", headline, findings)


def _crashed(hour: Hour) -> Iterable[Finding]:
    rate = ALERTS.faktory_worker_crash_rate_high
    window = parse_duration(rate.window)
    crashes = sum(hour.rose(reason.value, window) for reason in CrashReason)
    known = [value for value in hour.workers.values() if value is not None]
    mean = max(1.0, sum(known) / len(known)) if known else None
    if mean is not None and crashes >= rate.crashes and crashes / mean > rate.workers_share:
        yield Finding(
            level=severity(rate.severity),
            fact=f"{count(crashes)} crashed within {lasting(window)}",
            meaning="Each leaves jobs behind that come back and may crash the next one.",
            advice="See what the crashed ones had in common: a job type, a machine, a deploy.",
            runbook="FaktoryWorkerCrashRateHigh",
        )
    hung, vanished = ALERTS.faktory_worker_hung, ALERTS.faktory_worker_crashed
    gone = hour.rose(CrashReason.HUNG.value, parse_duration(hung.window))
    if gone:
        yield Finding(
            level=severity(hung.severity),
            fact=f"{count(gone)} hung within {lasting(parse_duration(hung.window))}",
            meaning="They sent no heartbeat while they held jobs; the processes may still run and work on them.",
            advice="See on their machines whether they swap, are stopped, or block.",
            runbook="FaktoryWorkerHung",
        )
    gone = hour.rose(CrashReason.VANISHED.value, parse_duration(vanished.window))
    if gone:
        yield Finding(
            level=severity(vanished.severity),
            fact=f"{count(gone)} crashed within {lasting(parse_duration(vanished.window))}",
            meaning="The jobs that they held are lost to everybody until their reservations end.",
            advice="See their machines for an out-of-memory kill or a crash.",
            runbook="FaktoryWorkerCrashed",
        )


def _none_left(snapshot: Snapshot) -> Iterable[Finding]:
    alert = ALERTS.faktory_no_workers
    waiting = sum(it.jobs or 0 for it in (snapshot.queues.queues or {}).values() if not it.paused)
    if snapshot.workers.registered == 0 and waiting:
        yield Finding(
            level=severity(alert.severity),
            fact=f"{count(waiting, 'job waits', 'jobs wait')}",
            meaning="Nothing runs until a worker connects.",
            advice="See why the workers ended, and whether they can reach the server.",
            runbook="FaktoryNoWorkers",
        )


def _orphaned(snapshot: Snapshot) -> Iterable[Finding]:
    alert = ALERTS.faktory_jobs_orphaned
    groups = snapshot.workers.orphans or {}
    oldest = max((it.oldest_age for it in groups.values() if it.jobs and it.oldest_age is not None), default=0.0)
    if oldest > alert.seconds:
        yield Finding(
            level=severity(alert.severity),
            fact=f"the oldest orphan lies for {lasting(oldest)}",
            meaning="Nobody works on an orphan, and it counts as running, until its reservation ends.",
            advice="See how long that is, and whether somebody waits for it.",
            runbook="FaktoryJobsOrphaned",
        )


# Throttles


def throttles(snapshot: Snapshot) -> Signal:
    """Return the signal of all throttles."""
    known = snapshot.throttles.throttles
    if known is None:
        return _no_limits(snapshot)
    if not known:
        return _signal("throttles", "none is configured", [])
    saturations = [it.saturation for it in known.values() if it.saturation is not None]
    headline = count(len(known), "throttle")
    if saturations:
        headline += f", the fullest at {share(max(saturations))}"
    findings = []
    if len(saturations) < len(known) and snapshot.busy.groups is None:
        findings.append(_no_jobs(snapshot, "Nobody can tell how full the throttles are."))
    full = {key: it for key, it in known.items() if _full(snapshot, key[0], it)}
    alert = ALERTS.faktory_throttle_saturated
    if full:
        queue, _ = key = max(full, key=lambda key: full[key].waiting or 0)
        waiting = count(full[key].waiting or 0, "job waits", "jobs wait")
        more = f" (and {count(len(full) - 1)} more)" if len(full) > 1 else ""
        findings.append(
            Finding(
                level=severity(alert.severity),
                fact=f"queue {named(queue)} is full and {waiting}{more}",
                meaning="Jobs of this queue wait, even where workers are free.",
                advice="See whether its jobs take longer than usual, or are left over from crashed workers.",
                runbook="FaktoryThrottleSaturated",
            )
        )
    lost = [queue for queue, _ in known if _without_queue(snapshot, queue)]
    if lost:
        findings.append(
            Finding(
                level=severity(ALERTS.faktory_throttle_without_queue.severity),
                fact=f"there is no queue {named(lost[0])}",
                meaning="If the name is misspelt, the queue that was meant runs without a limit.",
                advice="Compare the names in conf.d with those that are pushed to.",
                runbook="FaktoryThrottleWithoutQueue",
            )
        )
    return _signal("throttles", headline, findings)


def _no_limits(snapshot: Snapshot) -> Signal:
    health = snapshot.observation.health
    if health is not None and health.edition in NO_THROTTLES:
        return _signal("throttles", "this edition has none", [])
    failing = any(it.last.name == "throttles" for it in snapshot.collectors)
    finding = Finding(
        level=Level.UNKNOWN,
        fact="the configuration cannot be read" if failing else "config_dir is not set",
        meaning="Nobody can tell which queues are throttled, and how full the throttles are.",
        advice="See why the files in config_dir cannot be read."
        if failing
        else "Set config_dir to the server's configuration folder.",
        runbook="ForewarnCollectorFailing" if failing else None,
    )
    return _signal("throttles", "limits not known", [finding])


def _full(snapshot: Snapshot, queue: str, use: ThrottleUse) -> bool:
    """Whether jobs wait behind it."""
    saturation, told = use.saturation, (snapshot.queues.queues or {}).get(queue)
    if saturation is None or not use.waiting or (told is not None and told.paused):
        return False
    return saturation >= ALERTS.faktory_throttle_saturated.used_share


def _without_queue(snapshot: Snapshot, queue: str) -> bool:
    queues = snapshot.queues.queues
    return bool(queues) and queue not in (queues or {}) and OTHER not in (queues or {})


def throttle_rows(snapshot: Snapshot) -> tuple[Throttle, ...]:
    """Return the fullest throttles, the fullest first."""
    known = snapshot.throttles.throttles or {}

    def order(item: tuple[tuple[str, Scope], ThrottleUse]) -> tuple[int, float, str]:
        (queue, _), use = item
        return (not _full(snapshot, queue, use), -(use.saturation or 0.0), queue)

    return tuple(
        Throttle(
            queue=text(queue),
            scope=scope.value,
            limit=use.limit,
            in_use=use.in_use,
            saturation=use.saturation,
            waiting=use.waiting,
            level=_throttle_level(snapshot, queue, use),
        )
        for (queue, scope), use in sorted(known.items(), key=order)[:MOST_THROTTLES]
    )


def _throttle_level(snapshot: Snapshot, queue: str, use: ThrottleUse) -> Level:
    if _full(snapshot, queue, use):
        return severity(ALERTS.faktory_throttle_saturated.severity)
    if _without_queue(snapshot, queue):
        return severity(ALERTS.faktory_throttle_without_queue.severity)
    return Level.UNKNOWN if use.saturation is None else Level.CALM
