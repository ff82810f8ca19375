"""Signal: how the executions ended that were seen in the working set, and which of them traces tell.

1. What left between two observations is judged at the next one that knows the working set. The server takes a job out
   of that set first, then counts it as processed or failed, then puts a failed one where it waits for its retry: only
   then has it told all that it will.
2. What is back in the set by then had not ended: its reservation was extended.
3. If the server counted no failure since the observation before a job left, that job finished, unless its reservation
   had run out. Else the source is asked after it. What neither tells is not known.
4. Of a job that is reserved anew by then the source is not asked: what it kept may be of either attempt.
5. What a crashed worker held has crashed: told when the crash is found; and when it leaves, how long it stayed.
6. The same execution is never decided twice, in whichever run of Forewarn.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import chain, islice

import msgspec

from exporter.model import (
    BootVerdict,
    Choice,
    Crash,
    Decision,
    Ended,
    Execution,
    ExecutionsVerdict,
    Exemplar,
    JobFailure,
    Observation,
    Orphaned,
    Outcome,
    Pair,
    Reservation,
    Restart,
    Told,
    WorkerCrash,
)
from exporter.signals.busy import took
from exporter.signals.changes import Changes, changes
from exporter.signals.exemplars import Exemplars
from exporter.signals.labels import Labels
from exporter.signals.outcomes import Left, any_failed, ended_how, ended_when, first, holds, without
from exporter.trace_ids import job_trace, process_span, told_trace

REMEMBERED = 10_000
"""Most of each kind that is remembered over a restart of Forewarn, and most earlier attempts at any time."""

LINKED = 128
"""Most orphans that are told with their worker's crash."""

BURST = 120.0
"""Seconds' worth of executions that may be told at once at most, however little was told before."""

Key = tuple[str, float]
"""One execution: the id of its job, and when that was reserved."""


class Orphan(msgspec.Struct, frozen=True, gc=False):
    """A job of a worker that was found to have crashed."""

    jid: str
    reserved_at: float
    gone_at: float
    told: bool
    """Whether its execution was told, and not one too many."""


class ExecutionsMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart, so that no execution is told twice or otherwise, and none is lost."""

    at: float | None = None
    """When the working set was last known, and with it the totals and what was in work."""
    processed: int | None = None
    failed: int | None = None
    working: tuple[Reservation, ...] = ()
    left: tuple[Left, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    previous: dict[str, float] = {}
    decisions: dict[Decision, int] = {}
    restarts: int | None = None
    reached_at: float | None = None


class Budget:
    """How many executions may be told: so many per second on average.

    Of those that nothing befell no more than one step's worth is told at once. What is not used is saved up for the
    others, so that a worker's crash is told with all its jobs.
    """

    def __init__(self, per_second: float, at: float | None) -> None:
        self._per_second = per_second
        self._at = at
        self._step = 1.0  # as long as no two observations tell how far apart they are
        self._step_left = 0.0
        self._saved = per_second * BURST

    def pass_time(self, now: float) -> None:
        """Let the time since the observation before be worth what it is."""
        if self._at is not None and now > self._at:  # else the clock was set back, and the last step is as good
            self._step = min(now - self._at, BURST)
        self._at = now
        worth = self._per_second * self._step
        self._step_left = min(max(1.0, worth), self._step_left + worth)
        self._saved = min(max(1.0, self._per_second * BURST), self._saved + worth)

    def change(self, per_second: float) -> None:
        """Tell so many per second from now on."""
        self._per_second = per_second

    def granted(self, befallen: int, others: int) -> tuple[int, int]:
        """Return how many of each may be told now; they count as told."""
        first = min(befallen, int(self._saved))
        second = min(others, max(0, int(min(self._step_left, self._saved) - first)))
        self._saved -= first + second
        self._step_left = max(0.0, self._step_left - first - second)
        return first, second


class _Waiting(msgspec.Struct):
    """What waits to be judged, and by job id as what the durations counted it."""

    left: Left
    counted: Mapping[str, tuple[Pair, float]]


class _Candidate(msgspec.Struct, frozen=True, gc=False):
    """One execution that is to be told, if it is not one too many: the lowest rank first."""

    rank: int
    execution: Execution
    counted: tuple[Pair, float] | None = None
    left: Left | None = None
    """With which an orphan left whose worker's crash was found only then."""


_RANKS: Mapping[Outcome | None, int] = {Outcome.CRASHED: 0, Outcome.EXPIRED: 1, Outcome.FAILED: 2, None: 3}
_SLOW, _SHARE = 4, 5
_COUNTED = frozenset({Outcome.FINISHED, Outcome.FAILED, None})


class ExecutionsSignal:
    """Judges executions. ``receive`` an observation, ask after those that it returns, then ``conclude``."""

    def __init__(self, server: str, choice: Choice, memory: ExecutionsMemory | None = None) -> None:
        memory = memory or ExecutionsMemory()
        self._server = server
        self._choice = choice
        self._chosen_below = choice.ratio * 2**64
        self._at = memory.at
        self._processed, self._failed = memory.processed, memory.failed
        self._working: Mapping[str, Reservation] = {it.jid: it for it in memory.working}
        self._resumed = False  # whether this run knows the working set
        self._waiting = [_Waiting(left, {}) for left in memory.left]
        self._due = 0  # how many of them are judged now
        self._orphans = {(it.jid, it.reserved_at): it for it in memory.orphans}
        self._previous = dict(memory.previous)
        self._decisions = {it: memory.decisions.get(it, 0) for it in Decision}
        self._restarts = memory.restarts
        self._reached_at = memory.reached_at
        self._budget = Budget(choice.per_second, memory.at)
        self._exemplars = Exemplars()

    def choose(self, choice: Choice) -> None:
        """Tell other executions from the next observation on."""
        self._choice = choice
        self._chosen_below = choice.ratio * 2**64
        self._budget.change(choice.per_second)

    def receive(
        self, observation: Observation, moved: Changes | None, labels: Labels, dead: Container[str]
    ) -> tuple[Ended, ...]:
        """Take one observation in and return the executions to ask the source after now.

        ``labels`` and ``dead`` are those with which the busy signal took it in.
        """
        reservations = observation.reservations
        if reservations is None or moved is None:
            return ()
        resumed, self._resumed = self._resumed, True
        if not resumed:
            moved = self._resume(moved, reservations)
        self._waiting = [
            _Waiting(left, it.counted) for it in self._waiting if (left := without(it.left, reservations)) is not None
        ]
        self._due = len(self._waiting)
        left = without(Left(moved.since, moved.until, self._processed, self._failed, moved.gone), reservations)
        if left is not None:
            self._waiting.append(_Waiting(left, _counted(left, moved, labels, dead) if resumed else {}))
        self._at, self._processed, self._failed = observation.now, observation.processed, observation.failed
        self._working = reservations
        return tuple(self._questions(observation))

    def conclude(
        self,
        observation: Observation,
        answers: Mapping[str, JobFailure | None],
        crashes: Sequence[Crash],
        boot: BootVerdict,
        durations: Container[Pair],
    ) -> ExecutionsVerdict:
        """Take the answers in and tell what is known then.

        ``crashes`` are those that this observation proved; ``durations`` the pairs that have any now.
        """
        told: list[Told] = [*self._restart(observation, boot), *map(_worker_crash, crashes)]
        if observation.reservations is not None:
            candidates, stays = self._judge(observation, answers, {it.worker: it for it in crashes})
            chosen = self._choose([*candidates, *self._crashed(crashes)], observation.now)
            told += (it.execution for it in chosen)
            told += stays
            told += (_stay(it.execution.reservation, it.execution.ended_at, it.left) for it in chosen if it.left)
            for it in chosen:
                self._illustrate(it)
            del self._waiting[: self._due]
            self._due = 0
        self._exemplars.keep(durations)
        return ExecutionsVerdict(tuple(told), dict(self._decisions), self._exemplars.all())

    def memory(self) -> ExecutionsMemory:
        """Return what the next run of Forewarn needs. Of very many reservations in work the oldest."""
        working = self._working
        if len(working) > REMEMBERED:
            # An orphan that were forgotten would be told once more.
            orphans = {jid for jid, _ in self._orphans}
            oldest = nsmallest(REMEMBERED, working.values(), key=lambda it: (it.jid not in orphans, it.reserved_at))
            working = {it.jid: it for it in oldest}
        return ExecutionsMemory(
            at=self._at,
            processed=self._processed,
            failed=self._failed,
            working=tuple(working.values()),
            left=first((it.left for it in self._waiting), REMEMBERED),
            orphans=tuple(islice(self._orphans.values(), REMEMBERED)),
            previous=dict(self._previous),
            decisions=dict(self._decisions),
            restarts=self._restarts,
            reached_at=self._reached_at,
        )

    # --- what left --------------------------------------------------------------------------------------------------

    def _resume(self, moved: Changes, reservations: Mapping[str, Reservation]) -> Changes:
        """Return what changed since the last run of Forewarn knew the working set; forget what can no longer leave."""
        if self._at is None:
            return moved
        moved = changes(self._working, self._at, reservations, moved.until)
        leaving = chain(moved.gone, *(it.left.gone for it in self._waiting))
        known = {(it.jid, it.reserved_at) for it in leaving}
        self._orphans = {key: it for key, it in self._orphans.items() if key in known or holds(reservations, *key)}
        return moved

    def _questions(self, observation: Observation) -> Iterator[Ended]:
        newest: Mapping[str, Reservation] | None = None
        for waiting in self._waiting[: self._due]:
            left = waiting.left
            failures = any_failed(left, observation)
            for reservation in left.gone:
                if failures is False and not left.expired(reservation):
                    continue
                if (reservation.jid, reservation.reserved_at) in self._orphans:
                    continue
                newest = newest or self._newest(observation)
                if newest[reservation.jid] is reservation:
                    yield Ended(reservation, left.since, left.until)

    def _newest(self, observation: Observation) -> Mapping[str, Reservation]:
        """Return the newest attempt of each job that waits to be judged."""
        newest = {it.jid: it for waiting in self._waiting for it in waiting.left.gone}
        reservations = observation.reservations or {}
        return newest | {jid: reservations[jid] for jid in newest if jid in reservations}

    # --- what is known of them --------------------------------------------------------------------------------------

    def _judge(
        self, observation: Observation, answers: Mapping[str, JobFailure | None], crashes: Mapping[str, Crash]
    ) -> tuple[list[_Candidate], list[Orphaned]]:
        """Decide on all that is due: return what is to be told, and the stays of orphans that are over."""
        candidates: list[_Candidate] = []
        stays: list[Orphaned] = []
        newest: Mapping[str, Reservation] | None = None
        for waiting in self._waiting[: self._due]:
            left = waiting.left
            failures = any_failed(left, observation)
            for reservation in left.gone:
                orphan = self._orphans.pop((reservation.jid, reservation.reserved_at), None) if self._orphans else None
                if orphan is not None:
                    if orphan.told:
                        stays.append(_stay(reservation, orphan.gone_at, left))
                    continue
                crash = crashes.get(reservation.worker)
                if crash is not None and left.since >= crash.gone_at:
                    candidates.append(self._orphan(reservation, crash, left))
                    continue
                expired = left.expired(reservation)
                outcome: Outcome | None = Outcome.FINISHED
                failure: JobFailure | None = None
                if failures is not False or expired:
                    newest = newest or self._newest(observation)
                    latest = newest[reservation.jid]
                    outcome, failure = ended_how(
                        reservation, failures=failures, expired=expired, newest=latest, answers=answers
                    )
                previous = self._attempt(reservation, outcome)
                ended_at, uncertainty = ended_when(reservation, left, failure)
                rank = self._rank(reservation, outcome, ended_at)
                if rank is None:
                    self._decisions[Decision.LEFT_OUT] += 1
                    continue
                execution = Execution(
                    reservation=reservation,
                    outcome=outcome,
                    ended_at=ended_at,
                    uncertainty=uncertainty,
                    error_type=None if failure is None else failure.error_type,
                    error=None if failure is None else failure.message,
                    dead=failure is not None and failure.dead,
                    previous=previous,
                )
                candidates.append(_Candidate(rank, execution, waiting.counted.get(reservation.jid)))
        return candidates, stays

    def _crashed(self, crashes: Sequence[Crash]) -> Iterator[_Candidate]:
        """Yield the executions that ended with their worker, but for those that are due."""
        for crash in crashes:
            left = (
                reservation
                for waiting in self._waiting[self._due :]
                if waiting.left.since >= crash.gone_at
                for reservation in waiting.left.gone
                if reservation.worker == crash.worker
            )
            for reservation in chain(crash.orphans, left):
                if (reservation.jid, reservation.reserved_at) not in self._orphans:
                    yield self._orphan(reservation, crash)

    def _orphan(self, reservation: Reservation, crash: Crash, left: Left | None = None) -> _Candidate:
        execution = Execution(
            reservation=reservation,
            outcome=Outcome.CRASHED,
            ended_at=crash.gone_at,
            uncertainty=max(0.0, crash.gone_at - max(crash.lived_at, reservation.reserved_at)),
            crash=crash.reason,
            found_at=crash.found_at,
            previous=self._attempt(reservation, Outcome.CRASHED),
        )
        return _Candidate(_RANKS[Outcome.CRASHED], execution, left=left)

    def _attempt(self, reservation: Reservation, outcome: Outcome | None) -> float | None:
        """Return when the attempt before was reserved, and remember this one for the next unless it finished."""
        previous = self._previous.pop(reservation.jid, None) if self._previous else None
        if outcome is not Outcome.FINISHED:
            self._previous[reservation.jid] = reservation.reserved_at
            if len(self._previous) > REMEMBERED:
                del self._previous[next(iter(self._previous))]
        return previous

    def _restart(self, observation: Observation, boot: BootVerdict) -> tuple[Restart, ...]:
        known, self._restarts = self._restarts, boot.restarts
        since = observation.now if self._reached_at is None else self._reached_at
        if observation.reached:
            self._reached_at = observation.now
        if known is None or boot.restarts <= known:
            return ()
        # Where only its uptime tells, which is asked for rarely, it was there again before the last observation.
        since = since if boot.started_at is None else min(since, boot.started_at)
        return (Restart(since=since, until=observation.now),)

    # --- what is told -----------------------------------------------------------------------------------------------

    def _rank(self, reservation: Reservation, outcome: Outcome | None, ended_at: float) -> int | None:
        if outcome is not Outcome.FINISHED:
            return _RANKS[outcome]
        if ended_at - reservation.reserved_at >= self._choice.slow_seconds:
            return _SLOW
        if self._chosen_below and int(job_trace(self._server, reservation.jid)[:16], 16) < self._chosen_below:
            return _SHARE
        return None

    def _choose(self, candidates: Sequence[_Candidate], now: float) -> Sequence[_Candidate]:
        befallen = sorted((it for it in candidates if it.rank < _SLOW), key=lambda it: it.rank)
        others = sorted((it for it in candidates if it.rank >= _SLOW), key=lambda it: it.rank)
        self._budget.pass_time(now)
        first, second = self._budget.granted(len(befallen), len(others))
        chosen, rest = [*befallen[:first], *others[:second]], [*befallen[first:], *others[second:]]
        self._decisions[Decision.TOLD] += len(chosen)
        self._decisions[Decision.CAPPED] += len(rest)
        for told, group in ((True, chosen), (False, rest)):
            for it in group:
                if it.execution.outcome is Outcome.CRASHED and it.left is None:
                    reservation = it.execution.reservation
                    key = (reservation.jid, reservation.reserved_at)
                    self._orphans[key] = Orphan(*key, it.execution.ended_at, told)
        return chosen

    def _illustrate(self, candidate: _Candidate) -> None:
        execution = candidate.execution
        if candidate.counted is None or execution.outcome not in _COUNTED:
            return
        pair, value = candidate.counted
        reservation = execution.reservation
        traceparent = None if reservation.job is None else reservation.job.traceparent
        trace = told_trace(self._server, reservation.jid, traceparent, parent=self._choice.parent)
        span = process_span(self._server, reservation.jid, reservation.reserved_at)
        self._exemplars.add(pair, Exemplar(trace, span, value, execution.ended_at))


def _counted(left: Left, moved: Changes, labels: Labels, dead: Container[str]) -> Mapping[str, tuple[Pair, float]]:
    values = ((it, took(it, moved, dead)) for it in left.gone)
    return {it.jid: (labels.pair(it.queue, it.jobtype), value) for it, value in values if value is not None}


def _stay(reservation: Reservation, gone_at: float, left: Left) -> Orphaned:
    until = max(left.until, gone_at)
    return Orphaned(reservation, since=gone_at, until=until, uncertainty=until - max(min(left.since, until), gone_at))


def _worker_crash(crash: Crash) -> WorkerCrash:
    return WorkerCrash(
        worker=crash.worker,
        reason=crash.reason,
        lived_at=crash.lived_at,
        gone_at=crash.gone_at,
        found_at=crash.found_at,
        orphaned_jobs=len(crash.orphans),
        orphans=crash.orphans[:LINKED],
    )
