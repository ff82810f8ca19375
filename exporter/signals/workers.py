"""Signal: which workers have crashed, and which jobs they left behind.

Faktory says nothing when a worker dies: its record vanishes with its last connection and its jobs stay reserved until
their time runs out. So:

1. A worker holds jobs if its id stands in the working set.
2. It is suspect when its own jobs have not moved since the number of connections dropped, ``LINGERS`` ago or longer:
   asked sooner the server might still know it. Or when they have not moved for ``SILENCE``: a successor that comes
   between two polls hides the drop. Where connections come and go all the time a drop is no evidence unless it goes
   below what they always come back to.
3. A suspect is asked after. Every answer "registered" renews its heartbeat, so the same worker is never asked after
   twice within ``SILENCE``, which is longer than the server needs to give up a hung one (60 s to 75 s).
   An answer "unknown" renews nothing.
4. A worker found unknown twice, ``GRACE`` apart, that still holds jobs has crashed. Once is not enough: clients that
   close idle connections are unknown between two of them.
5. No verdict while the server may have been restarted just now (see :mod:`exporter.signals.boot`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice, pairwise

import msgspec

from exporter.model import (
    Crash,
    CrashReason,
    Details,
    Observation,
    OrphanGroup,
    Pair,
    Reservation,
    WorkersVerdict,
)
from exporter.signals.changes import Changes
from exporter.signals.labels import Labels

SILENCE = 80.0
"""Seconds without a move of its jobs after which a worker is suspect, and shortest time between two questions after
it. A question at 30 s would let Faktory give up a worker that hung at once only 90 s to 105 s later, instead of 60 s
to 75 s."""

GRACE = 5.0
"""Seconds between the two answers that a worker is unknown: a clean exit acknowledges or fails its last jobs in that
time."""

AT_ONCE = 50
"""Most workers asked after in one poll."""

LIVELY = 45.0
"""A worker whose jobs moved within so many seconds before it went had not been silent for the 60 s, less one beat of
15 s, that it takes to be given up as hung."""

REAPER = 15.0
"""The server gives up hung workers when its clock shows a multiple of so many seconds."""

REAPER_TAKES = 1.5
"""Seconds after which that is over."""

LINGERS = 2.1
"""Seconds for which the server may still know a worker that has gone, and hand it a job: while its client waits in a
FETCH, a server does not see that the connection has closed. That takes 2 s, and up to a tenth until Redis, which looks
at its clock ten times a second, has ended it."""

DROPS = 8
"""How many drops are kept: more than there are polls in ``LINGERS``."""

RECENT = 60.0
"""Seconds over which drops of the number of connections are counted, and its lowest value is remembered."""

FREQUENT = 4
"""So many drops within ``RECENT`` are the coming and going of producers."""

REASON_WAIT = 75.0
"""Seconds to wait for the server's count of hung workers, which is asked for once a minute."""

REAPED_KEPT = 5
"""How many of the server's counts of hung workers are kept: some minutes' worth."""

REMEMBERED = 10_000
"""Most workers that are remembered over a restart of Forewarn."""

_TICK = 0.25  # polls come on time, but not to the millisecond


class Drop(msgspec.Struct, frozen=True):
    """The number of connections fell between two polls."""

    since: float
    at: float

    @property
    def by_reaper(self) -> bool:
        """Whether it may have been the server that gave up a hung worker."""
        return reaper_ran(self.since, self.at)


class Floor:
    """The number of connections over the last ``RECENT`` seconds, and what a drop of it is worth."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=int(RECENT))

    def fell(self, now: float, connections: int) -> bool:
        """Take in the number now; tell whether it is a drop that hints at a worker's death."""
        while len(self._seen) > 1 and now - self._seen[0][0] > RECENT:
            self._seen.popleft()
        seen = [count for _, count in self._seen]
        self._seen.append((now, connections))
        if not seen or connections >= seen[-1]:
            return False
        drops = sum(after < before for before, after in pairwise(seen))
        return drops < FREQUENT or connections < min(seen)


class Holder(msgspec.Struct):
    """One worker that holds jobs."""

    held: int
    seen: float
    moved: float
    registered: float | None = None
    gone_after: float = 0.0
    gone: float | None = None
    """When it probably went. Only known of one that the server does not know."""
    confirmed: bool = False
    crashed: bool = False
    alive: float = 0.0
    """When it last lived for sure: not by the drop of connections that it probably went with."""
    missing: float | None = None
    """When the server first did not know it."""

    def lived(self) -> float:
        """Return the last instant at which it is known to have lived."""
        return max(self.moved, self.registered or 0.0)

    def asked_lately(self, now: float) -> bool:
        """Whether it was found registered so lately that it must not be asked after."""
        return self.registered is not None and now - self.registered < SILENCE

    def fetched(self, at: float) -> None:
        """Note that it took a job: only a worker that lives, or that went just now, does."""
        self.held += 1
        self.alive = max(self.alive, at - LINGERS)
        if self.gone is None or at > self.gone:
            self.gone, self.missing, self.confirmed, self.crashed = None, None, False, False
            self.moved = max(self.moved, at)

    def returned(self, since: float, at: float) -> None:
        """Note that a job of it ended in between. That of one found gone ended just before, or by another's hand."""
        if self.gone is None:
            self.alive = max(self.alive, since)
            self.moved = max(self.moved, at)

    def found(self, at: float) -> None:
        """Note that the server knows it."""
        self.registered, self.alive = at, max(self.alive, at - LINGERS)
        self.gone, self.missing, self.confirmed, self.crashed = None, None, False, False

    def missed(self, at: float, drop: Drop | None) -> None:
        """Note that the server does not know it, and that it may have gone with ``drop``."""
        if self.missing is None:
            self.missing = at
        if self.gone is not None:
            self.confirmed = at - self.missing >= GRACE - _TICK
        elif drop is not None:
            self.gone_after, self.gone = max(self.lived(), drop.since), drop.at
        else:
            self.gone_after, self.gone = self.lived(), at


class WorkersMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart, so that no crash is told twice and none is lost."""

    crashes: dict[CrashReason, int] = {}
    holders: dict[str, Holder] = {}
    connections: int | None = None
    drops: tuple[Drop, ...] = ()


class WorkersSignal:
    """Finds crashed workers. ``receive`` an observation, ask after the workers it names, then ``conclude``."""

    def __init__(self, memory: WorkersMemory | None = None) -> None:
        memory = memory or WorkersMemory()
        self._crashes = {reason: memory.crashes.get(reason, 0) for reason in CrashReason}
        self._holders = {worker: msgspec.structs.replace(it, held=0) for worker, it in memory.holders.items()}
        self._connections = memory.connections
        self._floor = Floor()
        # Oldest first: of those that are LINGERS old the newest, and all that are younger.
        self._drops = memory.drops
        self._at: float | None = None
        self._reaped: list[tuple[float, int]] = []  # the newest counts of hung workers, with when they were asked for

    def receive(self, observation: Observation, changes: Changes | None, *, settled: bool) -> tuple[str, ...]:
        """Take one observation in and return the workers to ask after now, the most urgent first."""
        self._note_reaped(observation.details)
        if changes is not None:
            self._move(changes, observation.now)
        self._note_connections(observation)
        if observation.reservations is None:
            return ()
        return self._suspects(observation.now, settled=settled)

    def conclude(
        self,
        observation: Observation,
        probes: Mapping[str, bool],
        labels: Labels,
        *,
        settled: bool,
    ) -> WorkersVerdict:
        """Take the answers in and tell what is known then."""
        now = observation.now
        for worker, registered in probes.items():
            holder = self._holders.get(worker)
            if holder is None:
                continue
            if registered:
                holder.found(now)
            else:
                holder.missed(now, self._recent_drop(holder))
        found: tuple[Crash, ...] = ()
        if settled and observation.reservations is not None:
            found = tuple(self._judge(observation.reservations, now))
        self._at = now
        details = observation.details
        return WorkersVerdict(
            registered=None if details is None else details.workers,
            crashes=dict(self._crashes),
            orphans=self._orphans(observation, labels),
            found=found,
        )

    def memory(self) -> WorkersMemory:
        """Return what the next run of Forewarn needs. Of very many workers those that a question was asked about."""
        holders = self._holders
        if len(holders) > REMEMBERED:
            asked = (worker for worker, it in holders.items() if it.gone is not None or it.registered is not None)
            holders = {worker: holders[worker] for worker in islice(asked, REMEMBERED)}
        return WorkersMemory(
            crashes=dict(self._crashes),
            holders={worker: msgspec.structs.replace(it) for worker, it in holders.items()},
            connections=self._connections,
            drops=self._drops,
        )

    def dead(self) -> frozenset[str]:
        """Return the workers that have gone and left jobs behind, before and after the verdict."""
        return frozenset(worker for worker, it in self._holders.items() if it.gone is not None)

    def _move(self, changes: Changes, now: float) -> None:
        for reservation in changes.arrived:
            if not reservation.worker:
                continue  # fetched by a client without an id: nobody can be asked whether it lives
            holder = self._holders.get(reservation.worker)
            if holder is None:
                holder = self._holders[reservation.worker] = Holder(held=0, seen=now, moved=reservation.reserved_at)
            holder.fetched(reservation.reserved_at)
        for reservation in changes.gone:
            holder = self._holders.get(reservation.worker)
            if holder is not None:
                holder.held -= 1
                if not changes.expired(reservation):
                    holder.returned(changes.since, now)
        # Who was found registered is remembered without a job too: it may take one, and must not be asked after again.
        self._holders = {
            worker: holder for worker, holder in self._holders.items() if holder.held > 0 or holder.asked_lately(now)
        }

    def _note_connections(self, observation: Observation) -> None:
        now, health = observation.now, observation.health
        old = sum(now - drop.at >= LINGERS for drop in self._drops)
        self._drops = self._drops[max(0, old - 1) :]
        if health is None:
            return
        if self._at is None and self._connections is not None:
            self._floor.fell(now, self._connections)  # what the last run of Forewarn saw
        self._connections = health.connections
        if self._floor.fell(now, health.connections):
            drop = Drop(since=now if self._at is None else self._at, at=now)
            self._drops = (*self._drops, drop)[-DROPS:]

    def _recent_drop(self, holder: Holder) -> Drop | None:
        """Return the drop that has become ``LINGERS`` old since the last poll, if ``holder`` may have gone with it."""
        if self._at is None or not self._drops:
            return None
        drop = self._drops[0]
        return drop if drop.at + LINGERS > self._at and holder.lived() <= drop.at else None

    def _suspects(self, now: float, *, settled: bool) -> tuple[str, ...]:
        due: list[tuple[bool, float, str]] = []
        for worker, holder in self._holders.items():
            if holder.crashed or holder.confirmed:
                continue
            if holder.missing is not None:
                # One that seems gone may only not have come back yet: asked again when that is out of the question.
                if settled and now - holder.missing >= GRACE - _TICK:
                    due.append((False, holder.missing, worker))
            elif self._suspect(holder, now):
                due.append((True, holder.lived(), worker))
        due.sort()
        return tuple(worker for *_, worker in due[:AT_ONCE])

    def _suspect(self, holder: Holder, now: float) -> bool:
        if holder.asked_lately(now):
            return False
        lived = holder.lived()
        drops = [drop for drop in self._drops if lived <= drop.at]
        if not drops:
            return now - max(lived, holder.seen) >= SILENCE
        # Workers that froze together are given up one by one: a question would renew those still to come.
        if any(it.by_reaper and it.at - lived >= LIVELY and now - it.at < REAPER + REAPER_TAKES for it in drops):
            return False
        # Asked sooner, the server might still know it, and it could not be asked after again for SILENCE.
        return now - drops[0].at >= LINGERS

    def _judge(self, reservations: Mapping[str, Reservation], now: float) -> Iterable[Crash]:
        told: dict[str, CrashReason] = {}
        for worker, holder in self._holders.items():
            if holder.confirmed and not holder.crashed:
                reason = self._reason(holder, now)
                if reason is not None:
                    told[worker] = reason
        if not told:
            return
        left: dict[str, list[Reservation]] = {worker: [] for worker in told}
        for reservation in reservations.values():
            if reservation.worker in left:
                left[reservation.worker].append(reservation)
        for worker, reason in told.items():
            holder = self._holders[worker]
            holder.crashed = True
            self._crashes[reason] += 1
            gone_at = now if holder.missing is None else holder.missing
            yield Crash(
                worker=worker,
                reason=reason,
                found_at=now,
                orphans=tuple(left[worker]),
                lived_at=min(holder.alive, gone_at),
                gone_at=gone_at,
            )

    def _reason(self, holder: Holder, now: float) -> CrashReason | None:
        """Return why the worker went, or ``None`` while the server's next count of hung workers can tell."""
        gone = holder.gone or now
        if gone - holder.lived() < LIVELY or not reaper_ran(holder.gone_after, gone):
            return CrashReason.VANISHED
        # A count is old enough if it was told before the server can have given the worker up.
        possible = max(holder.gone_after, holder.lived() + LIVELY)
        before = [count for at, count in self._reaped if at <= possible]
        after = [count for at, count in self._reaped if at >= gone]
        if before and after:
            return CrashReason.HUNG if after[-1] > before[-1] else CrashReason.VANISHED
        if now - gone < REASON_WAIT:
            return None
        return CrashReason.VANISHED

    def _note_reaped(self, details: Details | None) -> None:
        if details is None or details.workers_reaped is None:
            return
        if not self._reaped or self._reaped[-1][0] != details.asked_at:
            self._reaped = [*self._reaped[1 - REAPED_KEPT :], (details.asked_at, details.workers_reaped)]

    def _orphans(self, observation: Observation, labels: Labels) -> dict[Pair, OrphanGroup] | None:
        if observation.reservations is None:
            return None
        since = {worker: it.gone for worker, it in self._holders.items() if it.confirmed and it.gone is not None}
        orphans = {pair: OrphanGroup(jobs=0, oldest_age=None) for pair in labels.pairs()}
        if not since:
            return orphans
        for reservation in observation.reservations.values():
            gone = since.get(reservation.worker)
            if gone is None:
                continue
            pair = labels.pair(reservation.queue, reservation.jobtype)
            known = orphans.get(pair) or OrphanGroup(jobs=0, oldest_age=None)
            age = max(0.0, observation.now - gone)
            orphans[pair] = OrphanGroup(known.jobs + 1, max(age, known.oldest_age or 0.0))
        return orphans


def reaper_ran(since: float, until: float) -> bool:
    """Tell whether the server looked for hung workers between two instants of its clock."""
    return until // REAPER * REAPER + REAPER_TAKES > since
