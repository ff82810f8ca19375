"""Makes the status of one server out of its newest snapshot and the hour before it.

Imported when somebody asks for the first time: a sidecar at which nobody looks does not pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest
from math import isfinite
from typing import Final, Literal

import msgspec

from exporter.model import MAX_ERROR, Crash, CrashReason, Incident, IncidentKind, Reservation, Snapshot
from exporter.status.blind import blind
from exporter.status.concerns import concerns, stale
from exporter.status.document import (
    BusyJob,
    Happening,
    Level,
    Orphan,
    QueueRow,
    ServerStatus,
    Signal,
    Status,
    Trend,
)
from exporter.status.hour import MOST_HAPPENINGS, STEP, Happened, Hour, Seen, orphans
from exporter.status.levels import ALERTS, TITLES, rank, severity, signals, throttle_rows, unknown, worst
from exporter.status.words import MAX_MESSAGE, count, lasting, text

MOST_TOLD: Final = 3
"""How many things that are wrong the summary tells."""

MOST_SETS: Final = 10

_RESTARTED: Final = "If nobody restarted it, read what it printed when it died."

_INCIDENTS: Final[Mapping[IncidentKind, str]] = {
    IncidentKind.DATA_RACE: "Data race in the server",
    IncidentKind.RECOVERED_PANIC: "Panic in the server, which survived it",
}

_Unit = Literal["ratio", "seconds", "count"]


def draw(snapshot: Snapshot, hour: Hour, seen: Seen) -> ServerStatus:
    """Return the status of one server at the end of the poll that ``snapshot`` tells."""
    observation = snapshot.observation
    health, reservations = observation.health, observation.reservations
    judged: tuple[Signal, ...] = tuple(
        msgspec.structs.replace(signal, trend=trend)
        for signal, trend in zip(signals(snapshot, hour), _trends(snapshot, hour), strict=True)
    )
    wrong = concerns(snapshot, hour)
    left, known = orphans(snapshot), snapshot.throttles.throttles
    left_by_jid = {reservation.jid for reservation in seen.orphans}
    server = ServerStatus(
        name=text(snapshot.server),
        system=text(snapshot.system),
        level=worst([*(it.level for it in judged), *(it.level for it in wrong)]),
        up=observation.reached,
        summary="",
        version=None if health is None else text(health.version),
        edition=None if health is None else text(health.edition),
        started_at=_finite(None if snapshot.boot.started_at is None else snapshot.boot.started_at - hour.ahead),
        workers=snapshot.workers.registered,
        signals=judged,
        concerns=wrong,
        busy=tuple(_busy(it, observation.now, orphan=it.jid in left_by_jid) for it in seen.oldest),
        busy_count=(observation.sets or {}).get("working") if reservations is None else len(reservations),
        orphans=tuple(_orphan(it, hour, observation.now) for it in seen.orphans),
        orphan_count=left,
        throttles=throttle_rows(snapshot),
        throttle_count=None if known is None else len(known),
        queues=tuple(
            QueueRow(name=text(name), jobs=it.jobs, latency=_finite(it.latency), paused=it.paused)
            for name, it in seen.queues
        ),
        queue_count=None if observation.queues is None else len(observation.queues),
        sets={text(name): number for name, number in list((observation.sets or {}).items())[:MOST_SETS]},
        happenings=_happenings(snapshot, hour),
        blind=blind(snapshot, seen),
    )
    return msgspec.structs.replace(server, summary=summary(server))


def aged(server: ServerStatus, age: float) -> ServerStatus:
    """Return ``server`` as it is known ``age`` seconds after that poll: of one too long ago nothing is known now."""
    age = max(0.0, age)
    old = stale(age)
    if old is None:
        return msgspec.structs.replace(server, age=age)
    why = f"the last poll ended {lasting(age)} ago"
    known = msgspec.structs.replace(
        server,
        age=age,
        level=worst([server.level if server.up is False else Level.UNKNOWN, old.level]),
        signals=tuple(msgspec.structs.replace(unknown(it.name, why), trend=it.trend) for it in server.signals),
        concerns=(old, *server.concerns),
    )
    return msgspec.structs.replace(known, summary=old.text)


def not_polled(name: str) -> ServerStatus:
    """Return the status of a server of which nothing has been learned yet."""
    return ServerStatus(
        name=text(name),
        system="unknown",
        level=Level.UNKNOWN,
        up=None,
        summary="Its first poll has not ended yet.",
        signals=tuple(unknown(each, "the first poll has not ended yet") for each in TITLES),
    )


def together(servers: Sequence[ServerStatus], *, version: str, at: float, since: float) -> Status:
    """Return the status of all servers; of none nothing is known."""
    level = worst(it.level for it in servers) if servers else Level.UNKNOWN
    return Status(version=version, generated_at=at, since=since, level=level, servers=tuple(servers))


def summary(server: ServerStatus) -> str:
    """Return what is wrong, the worst first, or that nothing is."""
    wrong = [(it.level, it.text) for it in server.concerns]
    bad = [it for it in server.signals if rank(it.level) > rank(Level.UNKNOWN)]
    wrong += [(it.level, f"{it.title}: {it.headline}.") for it in bad]
    if wrong:
        told = [each for _, each in sorted(wrong, key=lambda it: -rank(it[0]))]
        more = [f"And {count(len(told) - MOST_TOLD)} more."] if len(told) > MOST_TOLD else []
        return " ".join([*told[:MOST_TOLD], *more])
    unsure = [it.title.lower() for it in server.signals if it.level is Level.UNKNOWN]
    if unsure:
        return f"Nothing is known to be wrong, but not all is known of: {', '.join(unsure)}."
    return "Nothing is wrong."


def _trends(snapshot: Snapshot, hour: Hour) -> tuple[Trend, ...]:
    """Return how the four signals went, in their order."""
    limit = snapshot.connections.limit
    used = hour.connections.values()

    def trend(title: str, unit: _Unit, values: Sequence[float | None], threshold: float | None = None) -> Trend:
        rounded = tuple(None if value is None else float(f"{value:.6g}") for value in values)
        return Trend(title=title, unit=unit, step=STEP, values=rounded, ends_at=hour.ended_at, threshold=threshold)

    if limit:
        shares = [None if value is None else value / limit for value in used]
        share = ALERTS.faktory_connections_near_limit.used_share
        connections = trend("share of the connection limit", "ratio", shares, share)
    else:
        connections = trend("connections", "count", used)
    return (
        connections,
        trend(
            "largest share of a reservation used",
            "ratio",
            hour.used.values(),
            ALERTS.faktory_reservation_nearly_used.used_share,
        ),
        trend("orphaned jobs", "count", hour.orphans.values()),
        trend("fullest throttle", "ratio", hour.saturation.values(), ALERTS.faktory_throttle_saturated.used_share),
    )


def _busy(reservation: Reservation, now: float, *, orphan: bool) -> BusyJob:
    age = max(0.0, now - reservation.reserved_at)
    span = reservation.expires_at - reservation.reserved_at
    return BusyJob(
        jid=text(reservation.jid),
        jobtype=text(reservation.jobtype),
        queue=text(reservation.queue),
        worker=text(reservation.worker),
        age=_finite(age) or 0.0,
        used=_finite(age / span if span > 0 else 1.0),
        orphan=orphan,
    )


def _orphan(reservation: Reservation, hour: Hour, now: float) -> Orphan:
    return Orphan(
        jid=text(reservation.jid),
        jobtype=text(reservation.jobtype),
        queue=text(reservation.queue),
        worker=text(reservation.worker),
        age=_finite(max(0.0, now - hour.gone.get(reservation.worker, now))) or 0.0,
        returns_in=_finite(max(0.0, reservation.expires_at - now)),
    )


def _happenings(snapshot: Snapshot, hour: Hour) -> tuple[Happening, ...]:
    incidents = () if snapshot.process is None else snapshot.process.incidents
    found = [_happening(it) for it in hour.happened]
    found += [_incident(it, hour.ahead) for it in incidents if it.at is not None and isfinite(it.at)]
    return tuple(nlargest(MOST_HAPPENINGS, found, key=lambda it: it.at))


def _happening(happened: Happened) -> Happening:
    kind, at = happened.kind, happened.at
    if happened.crash is not None:
        return _crashed(happened, happened.crash)
    if kind == "restart":
        return Happening(kind=kind, at=at, level=Level.CALM, title="The server restarted", hint=_RESTARTED)
    if kind == "down":
        level = severity(ALERTS.faktory_down.severity)
        return Happening(kind=kind, at=at, level=level, title="The server stopped answering")
    return Happening(kind=kind, at=at, level=Level.CALM, title="The server answers again")


def _crashed(happened: Happened, crash: Crash) -> Happening:
    hung = crash.reason is CrashReason.HUNG
    told = [f"{text(it.jobtype)} {text(it.jid)} of queue {text(it.queue)}" for it in crash.orphans]
    more = [f"and {count(happened.jobs - len(told))} more"] if happened.jobs > len(told) else []
    alert = ALERTS.faktory_worker_hung if hung else ALERTS.faktory_worker_crashed
    return Happening(
        kind="worker_crash",
        at=happened.at,
        level=severity(alert.severity),
        title=f"Worker {text(crash.worker)} {'hung and was given up' if hung else 'crashed'}",
        detail=f"It held {count(happened.jobs, 'job')}: {', '.join([*told, *more])}." if told else None,
        hint=(
            "See on its machine whether it swaps, is stopped, or blocks."
            if hung
            else "See its machine for an out-of-memory kill or a crash."
        ),
    )


def _incident(incident: Incident, ahead: float) -> Happening:
    where = f" in {text(incident.component)}" if incident.component else ""
    what = _INCIDENTS.get(incident.kind, "The server's process crashed")
    level = severity(ALERTS.faktory_process_crashed.severity) if incident.crash else Level.CALM
    return Happening(
        kind="incident",
        at=(incident.at or 0.0) - ahead,
        level=level,
        title=f"{what}{where} ({incident.kind.value})",
        detail=text(incident.message, MAX_ERROR) if incident.message else None,
        hint=None if incident.hint is None else text(incident.hint, MAX_MESSAGE),
    )


def _finite(value: float | None) -> float | None:
    """Return ``value`` but for what JSON cannot tell."""
    return value if value is not None and isfinite(value) else None
