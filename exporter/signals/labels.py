"""Which names get a series of their own, and which are folded into one: queues, job types, peers.

Names are untrusted and there may be any number of them. The largest are kept; those that have a series keep it unless
another is larger by half, so that series do not come and go.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from heapq import nlargest
from typing import Generic, TypeVar

import msgspec

from exporter.model import NONE, OTHER, Pair, Queue, QueuesVerdict
from exporter.signals.groups import Groups

PAIRS_PER_NAME = 5
"""How many pairs of queue and job type are kept for each name that is allowed."""

IDLE = 3600.0
"""Seconds that a name keeps its series after it was last seen."""

_ADVANTAGE = 1.5

MOST_REMEMBERED = 50_000
"""Most pairs of which it is remembered how they are told: those of ever new names need not be."""

_NO_NAMES = frozenset({OTHER, NONE})
"""Label values that stand for no name of their own: always there, and no part of any decision."""

K = TypeVar("K", bound=Hashable)


class Kept(Generic[K]):
    """At most ``limit`` names: the largest, with an advantage for those that are in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[K, float] = {}

    def __contains__(self, name: K) -> bool:
        return name in self._seen

    def __iter__(self) -> Iterator[K]:
        return iter(self._seen)

    def bound(self, limit: int) -> None:
        """Keep at most so many from the next update on."""
        self._limit = limit

    def update(self, weights: Mapping[K, float], now: float) -> bool:
        """Decide anew from the names that exist now and their weights; those long unseen leave first.

        Return whether other names are kept than before.
        """
        names: Iterable[K] = weights
        if len(weights) > self._limit:
            rank = {
                name: (weight + 1) * (_ADVANTAGE if name in self._seen else 1.0) for name, weight in weights.items()
            }
            names = nlargest(self._limit, rank, key=rank.__getitem__)
        present = dict.fromkeys(names, now)
        idle = {name: at for name, at in self._seen.items() if name not in weights and now - at < IDLE}
        newest = nlargest(self._limit - len(present), idle, key=idle.__getitem__)
        before, self._seen = self._seen, {name: idle[name] for name in newest} | present
        return self._seen.keys() != before.keys()


class ToldNames(msgspec.Struct, frozen=True):
    """Names that the server tells by StatsD, with the weight of each; :data:`OTHER` and :data:`NONE` may be there."""

    queues: Mapping[str, float] = {}
    pairs: Mapping[Pair, float] = {}
    """Queue and job type."""
    others: Mapping[Pair, float] = {}
    """Name and tags of what is none of the facts that are known."""


class Labels:
    """The bounded names of one server. Decides once per poll, so that all metrics agree and can be joined."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queues: Kept[str] = Kept(limit)
        self._jobtypes: Kept[str] = Kept(limit)
        self._pairs: Kept[Pair] = Kept(limit * PAIRS_PER_NAME)
        self._others: Kept[str] = Kept(limit)
        self._series: Kept[Pair] = Kept(limit * PAIRS_PER_NAME)
        self._counts: dict[str, int] = {}
        self._folded: dict[Pair, Pair] = {}
        self.decision = 0
        """Rises whenever other names are kept than before."""

    def bound(self, limit: int) -> None:
        """Keep at most so many names of each kind from the next update on."""
        self._limit = limit
        for kept in (self._queues, self._jobtypes, self._others):
            kept.bound(limit)
        self._pairs.bound(limit * PAIRS_PER_NAME)
        self._series.bound(limit * PAIRS_PER_NAME)

    def update(
        self, queues: Mapping[str, Queue] | None, groups: Groups | None, now: float, told: ToldNames | None = None
    ) -> None:
        """Take the names of one observation in, and those that StatsD has ``told`` of late."""
        queue_weights: dict[str, float] = {name: queue.jobs or 0 for name, queue in (queues or {}).items()}
        jobtype_weights: dict[str, float] = {}
        pair_weights: dict[Pair, float] = {}
        sizes: dict[Pair, float] = {pair: len(it.members) for pair, it in (groups.by_pair if groups else {}).items()}
        if told is not None:
            for name, weight in told.queues.items():
                queue_weights[name] = max(queue_weights.get(name, 0), weight)
            for pair, weight in told.pairs.items():
                sizes[pair] = sizes.get(pair, 0) + weight
        for (queue, jobtype), size in sizes.items():
            queue_weights[queue] = queue_weights.get(queue, 0) + size
            jobtype_weights[jobtype] = jobtype_weights.get(jobtype, 0) + size
        changed = self._queues.update(_of_names(queue_weights), now)
        changed |= self._jobtypes.update(_of_names(jobtype_weights), now)
        for pair, size in sizes.items():
            names = (self.queue(pair[0]), self.jobtype(pair[1]))
            if OTHER not in names:
                pair_weights[names] = size
        changed |= self._pairs.update(pair_weights, now)
        if queues is not None or groups is not None or told is not None:
            self._counts["queue"] = len(queue_weights) - (NONE in queue_weights)
        if groups is not None or told is not None:
            self._counts["jobtype"] = len(jobtype_weights) - (NONE in jobtype_weights)
        if told is not None and (told.others or "name" in self._counts):
            changed |= self._update_others(told.others, now)
        if changed or len(self._folded) > MOST_REMEMBERED:
            self._folded = {}
        self.decision += changed

    def _update_others(self, weights: Mapping[Pair, float], now: float) -> bool:
        by_name: dict[str, float] = {}
        for (name, _), weight in weights.items():
            by_name[name] = by_name.get(name, 0) + weight
        self._counts["name"] = len(by_name)
        changed = self._others.update(_of_names(by_name), now)
        series = {pair: weight for pair, weight in weights.items() if pair[0] in self._others}
        return self._series.update(series, now) | changed

    def queue(self, name: str) -> str:
        """Return the label value for the queue ``name``."""
        return name if name in self._queues or name == NONE else OTHER

    def jobtype(self, name: str) -> str:
        """Return the label value for the job type ``name``."""
        return name if name in self._jobtypes or name == NONE else OTHER

    def pair(self, queue: str, jobtype: str) -> Pair:
        """Return the label values for a queue and job type together."""
        known = self._folded.get((queue, jobtype))
        if known is None:
            names = (self.queue(queue), self.jobtype(jobtype))
            known = names if OTHER in names or names in self._pairs else (names[0], OTHER)
            self._folded[queue, jobtype] = known
        return known

    def pairs(self) -> Iterable[Pair]:
        """Return the pairs of names that have a series of their own, those seen within the last hour included."""
        return tuple(pair for pair in self._pairs if NONE not in pair)

    def other(self, name: str, tags: str) -> Pair:
        """Return the label values for a name that is not known and its tags."""
        if name not in self._others:
            return OTHER, OTHER
        return (name, tags) if (name, tags) in self._series else (name, OTHER)

    def verdict(self, queues: Mapping[str, Queue] | None) -> QueuesVerdict:
        """Return ``queues`` under their label values."""
        return QueuesVerdict(
            queues=None if queues is None else self._fold(queues),
            label_values=dict(self._counts),
            label_values_limit=self._limit,
        )

    def _fold(self, queues: Mapping[str, Queue]) -> dict[str, Queue]:
        folded: dict[str, Queue] = {}
        for name, queue in queues.items():
            label = self.queue(name)
            known = folded.get(label)
            folded[label] = queue if known is None else known.joined(queue)
        return folded


def _of_names(weights: dict[str, float]) -> dict[str, float]:
    if _NO_NAMES.isdisjoint(weights):
        return weights
    return {name: weight for name, weight in weights.items() if name not in _NO_NAMES}
