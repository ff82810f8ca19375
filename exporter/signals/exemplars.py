"""Executions that were told, as examples of what the durations counted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container

from exporter.model import DURATION_BUCKETS, Exemplar, Pair

PAIRS = 1000
"""Most queues and job types that examples are kept of: those with the newest ones."""


class Exemplars:
    """Of each bucket of the durations of a queue and job type the newest execution that was told."""

    def __init__(self) -> None:
        self._kept: dict[Pair, dict[int, tuple[int, Exemplar]]] = {}
        self._told: dict[Pair, tuple[tuple[int, Exemplar], ...]] = {}

    def add(self, pair: Pair, exemplar: Exemplar) -> None:
        """Take one in."""
        kept = self._kept.pop(pair, {})
        self._kept[pair] = kept  # as the newest
        bucket = bisect_left(DURATION_BUCKETS, exemplar.value)
        known = kept.get(bucket)
        if known is None or known[1].at <= exemplar.at:
            kept[bucket] = (bucket, exemplar)
            self._told[pair] = tuple([kept[it] for it in sorted(kept)])
        if len(self._kept) > PAIRS:
            self._drop(next(iter(self._kept)))

    def keep(self, pairs: Container[Pair]) -> None:
        """Forget all but ``pairs``."""
        for pair in [it for it in self._kept if it not in pairs]:
            self._drop(pair)

    def all(self) -> dict[Pair, tuple[tuple[int, Exemplar], ...]]:
        """Return those kept now, each with the index of its bucket."""
        return dict(self._told)

    def _drop(self, pair: Pair) -> None:
        del self._kept[pair], self._told[pair]
