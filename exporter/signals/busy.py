"""Signal: how old the busy jobs are, how much of their reservation they have used, and how long jobs took."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Container, Sequence
from itertools import accumulate
from operator import truediv

from exporter.model import (
    AGE_BUCKETS,
    DURATION_BUCKETS,
    OTHER,
    BusyGroup,
    BusyVerdict,
    Distribution,
    Observation,
    Pair,
    Reservation,
)
from exporter.signals.changes import Changes
from exporter.signals.groups import Groups
from exporter.signals.labels import Labels
from exporter.strides import STRIDE

LONGEST_STEP = 120.0
"""Seconds between two observations beyond which it is not told how long the jobs took that ended in between."""


class Tally:
    """A distribution that is still being filled."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_all(self, values: list[float]) -> None:
        """Count many values, which get sorted: a third of the time that one after the other takes."""
        values.sort()
        counted = 0
        for index, bound in enumerate(self.bounds):
            within = bisect_right(values, bound)
            self.counts[index] += within - counted
            counted = within
        self.counts[-1] += len(values) - counted
        self.sum += sum(values)

    def distribution(self) -> Distribution:
        """Return what has been counted so far."""
        return Distribution(tuple(accumulate(self.counts)), self.sum)


class BusySignal:
    """Ages of the jobs that run, and durations of those that ran: a job that left the working set has ended."""

    def __init__(self) -> None:
        self._tallies: dict[Pair, Tally] = {}
        self._durations: dict[Pair, Distribution] = {}

    def advance(
        self,
        observation: Observation,
        groups: Groups | None,
        changes: Changes | None,
        labels: Labels,
        dead: Container[str],
    ) -> BusyVerdict:
        """Take one observation in and tell what is known then.

        ``dead`` are the workers known to have crashed: what they held did not end when it left the working set.
        """
        if changes is not None:
            self._count(changes, labels, dead)
        kept = set(labels.pairs())
        self._forget(kept, labels)
        if groups is None:
            return BusyVerdict(groups=None, ages=None, durations=dict(self._durations))
        found, ages = _survey(groups, observation.now, labels)
        for pair in kept - found.keys():
            found[pair] = BusyGroup(jobs=0, oldest_age=None, used_ratio=None)
        return BusyVerdict(groups=found, ages=ages, durations=dict(self._durations))

    def _count(self, changes: Changes, labels: Labels, dead: Container[str]) -> None:
        touched = set()
        for reservation in changes.gone:
            seconds = took(reservation, changes, dead)
            if seconds is None:
                continue
            pair = labels.pair(reservation.queue, reservation.jobtype)
            tally = self._tallies.get(pair)
            if tally is None:
                tally = self._tallies[pair] = Tally(DURATION_BUCKETS)
            tally.add(seconds)
            touched.add(pair)
        for pair in touched:
            self._durations[pair] = self._tallies[pair].distribution()

    def _forget(self, kept: Container[Pair], labels: Labels) -> None:
        # A folded pair lives as long as the name in it, or each name that ever was would leave one behind.
        gone = [
            pair
            for pair in self._tallies
            if pair not in kept and (OTHER not in pair or (labels.queue(pair[0]), labels.jobtype(pair[1])) != pair)
        ]
        for pair in gone:
            del self._tallies[pair], self._durations[pair]


def took(reservation: Reservation, changes: Changes, dead: Container[str]) -> float | None:
    """Return the seconds that an execution which left is counted with, or ``None`` if it is not counted.

    ``dead`` are the workers known to have crashed.
    """
    if reservation.worker in dead or changes.expired(reservation) or changes.until - changes.since > LONGEST_STEP:
        return None
    # It ended somewhere between the two polls: their middle is wrong by half a poll at most.
    return max(0.0, (changes.since + changes.until) / 2 - reservation.reserved_at)


def _survey(groups: Groups, now: float, labels: Labels) -> tuple[dict[Pair, BusyGroup], dict[str, Distribution]]:
    found: dict[Pair, BusyGroup] = {}
    tallies: dict[str, _Ages] = {}
    for (queue, jobtype), members in groups.by_pair.items():
        pair = labels.pair(queue, jobtype)
        tally = tallies.get(pair[0])
        if tally is None:
            tally = tallies[pair[0]] = _Ages()
        group = _measure(members.reserved, members.spans, now, tally)
        known = found.get(pair)
        found[pair] = group if known is None else _merge(known, group)
    return found, {queue: tally.distribution() for queue, tally in tallies.items()}


class _Ages:
    """The ages of one queue's busy jobs."""

    def __init__(self) -> None:
        self._tally = Tally(AGE_BUCKETS)
        self._waiting: list[float] = []

    def add(self, ages: list[float]) -> None:
        self._waiting += ages
        if len(self._waiting) >= STRIDE:
            self._flush()

    def distribution(self) -> Distribution:
        self._flush()
        return self._tally.distribution()

    def _flush(self) -> None:
        self._tally.add_all(self._waiting)
        self._waiting = []


def _measure(reserved: array[float], spans: array[float], now: float, tally: _Ages) -> BusyGroup:
    # Comprehensions, and C where it can be: it runs for every busy job at every poll.
    oldest = used = 0.0
    for start in range(0, len(reserved), STRIDE):
        ages = [now - at for at in reserved[start : start + STRIDE]]
        if min(ages) < 0:
            ages = [max(0.0, age) for age in ages]
        within = spans[start : start + STRIDE]
        if min(within) > 0:
            shares = list(map(truediv, ages, within))
        else:
            shares = [age / span if span > 0 else 1.0 for age, span in zip(ages, within, strict=True)]
        oldest = max((oldest, *ages))
        used = max((used, *shares))
        tally.add(ages)
    return BusyGroup(jobs=len(reserved), oldest_age=oldest, used_ratio=used)


def _merge(one: BusyGroup, other: BusyGroup) -> BusyGroup:
    return BusyGroup(
        jobs=one.jobs + other.jobs,
        oldest_age=max(one.oldest_age or 0.0, other.oldest_age or 0.0),
        used_ratio=max(one.used_ratio or 0.0, other.used_ratio or 0.0),
    )
