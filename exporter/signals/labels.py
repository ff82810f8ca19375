"""Which names get a series of their own, and which are folded into one: queues, job types, peers.

Names are untrusted and there may be any number of them. The largest are kept; those that have a series keep it unless
another is larger by half, so that series do not come and go.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from heapq import nlargest
from typing import Generic, TypeVar

from exporter.model import OTHER, Pair, Queue, QueuesVerdict
from exporter.signals.groups import Groups

PAIRS_PER_NAME = 5
"""How many pairs of queue and job type are kept for each name that is allowed."""

IDLE = 3600.0
"""Seconds that a name keeps its series after it was last seen."""

_ADVANTAGE = 1.5

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

    def update(self, weights: Mapping[K, float], now: float) -> None:
        """Decide anew from the names that exist now and their weights; those long unseen leave first."""
        names: Iterable[K] = weights
        if len(weights) > self._limit:
            rank = {
                name: (weight + 1) * (_ADVANTAGE if name in self._seen else 1.0) for name, weight in weights.items()
            }
            names = nlargest(self._limit, rank, key=rank.__getitem__)
        present = dict.fromkeys(names, now)
        idle = {name: at for name, at in self._seen.items() if name not in weights and now - at < IDLE}
        newest = nlargest(self._limit - len(present), idle, key=idle.__getitem__)
        self._seen = {name: idle[name] for name in newest} | present


class Labels:
    """The bounded names of one server. Decides once per poll, so that all metrics agree and can be joined."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queues: Kept[str] = Kept(limit)
        self._jobtypes: Kept[str] = Kept(limit)
        self._pairs: Kept[Pair] = Kept(limit * PAIRS_PER_NAME)
        self._counts: dict[str, int] = {}

    def update(self, queues: Mapping[str, Queue] | None, groups: Groups | None, now: float) -> None:
        """Take the names of one observation in."""
        queue_weights: dict[str, float] = {name: queue.jobs or 0 for name, queue in (queues or {}).items()}
        jobtype_weights: dict[str, float] = {}
        pair_weights: dict[Pair, float] = {}
        for (queue, jobtype), group in (groups.by_pair if groups else {}).items():
            size = len(group.members)
            queue_weights[queue] = queue_weights.get(queue, 0) + size
            jobtype_weights[jobtype] = jobtype_weights.get(jobtype, 0) + size
        self._queues.update(_without_other(queue_weights), now)
        self._jobtypes.update(_without_other(jobtype_weights), now)
        for (queue, jobtype), group in (groups.by_pair if groups else {}).items():
            names = (self.queue(queue), self.jobtype(jobtype))
            if OTHER not in names:
                pair_weights[names] = len(group.members)
        self._pairs.update(pair_weights, now)
        if queues is not None or groups is not None:
            self._counts["queue"] = len(queue_weights)
        if groups is not None:
            self._counts["jobtype"] = len(jobtype_weights)

    def queue(self, name: str) -> str:
        """Return the label value for the queue ``name``."""
        return name if name in self._queues else OTHER

    def jobtype(self, name: str) -> str:
        """Return the label value for the job type ``name``."""
        return name if name in self._jobtypes else OTHER

    def pair(self, queue: str, jobtype: str) -> Pair:
        """Return the label values for a queue and job type together."""
        names = (self.queue(queue), self.jobtype(jobtype))
        return names if OTHER in names or names in self._pairs else (names[0], OTHER)

    def pairs(self) -> Iterable[Pair]:
        """Return the pairs that have a series of their own, those seen within the last hour included."""
        return tuple(self._pairs)

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


def _without_other(weights: dict[str, float]) -> dict[str, float]:
    return {name: weight for name, weight in weights.items() if name != OTHER} if OTHER in weights else weights
