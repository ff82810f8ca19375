"""Snapshots and statuses for the tests of what people look at: a calm server, and what may befall it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from exporter.model import (
    CRASH_KINDS,
    BootVerdict,
    BusyGroup,
    BusyVerdict,
    CollectorRun,
    CollectorTotals,
    ConnectionsVerdict,
    Crash,
    CrashReason,
    Details,
    Failure,
    Health,
    Incident,
    LogEvent,
    Observation,
    OrphanGroup,
    Pair,
    ProcessVerdict,
    Queue,
    QueuesVerdict,
    Reason,
    Reservation,
    Scope,
    Snapshot,
    ThrottlesVerdict,
    ThrottleUse,
    WorkersVerdict,
)
from exporter.status.book import StatusBook
from exporter.status.document import ServerStatus, Signal

NOW = 1_763_712_000.0
HEALTH = Health("1.9.4", "enterprise", 100, 4321)
DETAILS = Details(NOW - 10, 3600.0, 52_428_800, 3, 0, 0)
MAIL: Pair = ("mail", "SendMail")
COLLECTORS = ("health", "connection", "redis", "info", "throttles", "sockets", "log")


def reservation(jid: str, *, worker: str = "w1", age: float = 5.0, span: float = 1800.0) -> Reservation:
    """A job that has been busy for ``age`` seconds of its ``span``."""
    return Reservation(jid, worker, *MAIL, NOW - age, NOW - age + span)


def calm(**changes: Any) -> Snapshot:
    """A server of which everything is known and nothing is wrong, but for ``changes`` of the snapshot's fields."""
    snapshot = Snapshot(
        server="faktory",
        system="faktory",
        taken_at=1000.0,
        observation=observed(),
        boot=BootVerdict(0, NOW - 3600, settled=True),
        connections=connections(),
        queues=QueuesVerdict({"mail": Queue(3, 1.0, False)}, {"queue": 1, "jobtype": 1}, 200),
        busy=BusyVerdict({MAIL: BusyGroup(2, 8.0, 0.1)}, {}, {}),
        workers=workers(),
        throttles=ThrottlesVerdict({("mail", Scope.CLUSTER): ThrottleUse(4, 2, 3, 0.0)}),
        collectors=tuple(CollectorTotals(CollectorRun(name, 0.01), {}) for name in COLLECTORS),
        process=process(),
    )
    return msgspec.structs.replace(snapshot, **changes)


def observed(**changes: Any) -> Observation:
    """What was learned of it."""
    jobs = [reservation("j1", age=8.0), reservation("j2")]
    observation = Observation(
        now=NOW,
        reached=True,
        health=HEALTH,
        details=DETAILS,
        queues={"mail": Queue(3, 1.0, False)},
        sets={"scheduled": 4, "retries": 0, "dead": 2, "working": 2},
        overdue={"scheduled": 0.0, "retries": 0.0},
        processed=1000,
        failed=0,
        reservations={it.jid: it for it in jobs},
    )
    return msgspec.structs.replace(observation, **changes)


def connections(used: int | None = 100, limit: int | None = 2000, **changes: Any) -> ConnectionsVerdict:
    """How many there are."""
    verdict = ConnectionsVerdict(used, limit, 0, {"10.0.0.1": 60, "10.0.0.2": 40}, {}, 0, 128)
    return msgspec.structs.replace(verdict, **changes)


def workers(
    registered: int | None = 3,
    *,
    vanished: int = 0,
    hung: int = 0,
    orphans: int | None = 0,
    oldest: float = 3.0,
    **changes: Any,
) -> WorkersVerdict:
    """How many there are, and how they went."""
    crashes = {CrashReason.VANISHED: vanished, CrashReason.HUNG: hung}
    left = None if orphans is None else {MAIL: OrphanGroup(orphans, oldest if orphans else None)}
    verdict = WorkersVerdict(registered, crashes, left)
    return msgspec.structs.replace(verdict, **changes)


def process(*incidents: Incident, crashes: int = 0, events: Mapping[LogEvent, int] | None = None) -> ProcessVerdict:
    """What its output told."""
    counts = dict.fromkeys(CRASH_KINDS, 0) | {CRASH_KINDS[0]: crashes}
    return ProcessVerdict(counts, 0, 0, dict.fromkeys(LogEvent, 0) | dict(events or {}), incidents)


def crashed(worker: str = "w1", reason: CrashReason = CrashReason.VANISHED, *orphans: Reservation) -> Crash:
    """A worker that was found dead a second ago."""
    return Crash(worker, reason, NOW - 1, orphans, NOW - 8, NOW - 6)


def failing(name: str, message: str = "no answer within 2 s", *, errors: int = 1) -> tuple[CollectorTotals, ...]:
    """The collectors, one of which fails."""
    failure = Failure(Reason.TIMEOUT, message)
    return tuple(
        CollectorTotals(CollectorRun(each, 0.01, failure), {Reason.TIMEOUT: errors})
        if each == name
        else CollectorTotals(CollectorRun(each, 0.01), {})
        for each in dict.fromkeys((*COLLECTORS, name))
    )


def without(*names: str) -> tuple[CollectorTotals, ...]:
    """The collectors but for those that were never set up."""
    return tuple(CollectorTotals(CollectorRun(name, 0.01), {}) for name in COLLECTORS if name not in names)


class Shelf:
    """A book of one server under clocks of its own: each snapshot is taken in when it was taken."""

    def __init__(self, *snapshots: Snapshot, every: float = 5.0) -> None:
        self.now = 1000.0
        self.wall = NOW
        self.servers: dict[str, Snapshot | None] = {}
        self.book = StatusBook(lambda: self.servers, version="1.2.3", clock=lambda: self.now, wall=lambda: self.wall)
        self.take(*snapshots, every=every)

    def take(self, *snapshots: Snapshot, every: float = 5.0) -> None:
        """Take each of them in, ``every`` seconds apart."""
        for number, snapshot in enumerate(snapshots):
            self.wait(every if number or self.servers else 0.0)
            at = msgspec.structs.replace(snapshot, taken_at=self.now)
            self.book.update(at)
            self.servers[snapshot.server] = at

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.wall += seconds

    @property
    def server(self) -> ServerStatus:
        """The status of the only server."""
        (server,) = self.book.status().servers
        return server

    def signal(self, name: str) -> Signal:
        """One of its signals."""
        return one(self.server.signals, name)


def one(signals: Iterable[Signal], name: str) -> Signal:
    """Return the signal of this name."""
    (found,) = (it for it in signals if it.name == name)
    return found
