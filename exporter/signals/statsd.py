"""Signal: what the server tells by StatsD, added up under bounded label values, and for how long it has been silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import nlargest
from itertools import accumulate
from operator import add
from typing import Any, TypeVar, cast

import msgspec

from exporter.catalogue import LEVEL_TTL
from exporter.model import (
    OTHER,
    Distribution,
    Gain,
    Labelled,
    Move,
    Observation,
    Pair,
    StatsdDrop,
    StatsdFact,
    StatsdFacts,
    StatsdTraffic,
    StatsdVerdict,
)
from exporter.signals.labels import Labels, ToldNames

HALF_LIFE = 600.0
"""Seconds in which what a name was told weighs half as much: of more names than are kept it should be always the same
ones, though each poll hears only of those whose jobs have just ended."""

FORGOTTEN = 1 / 64
"""Weight below which a name is not known any more: a single job of an hour ago."""

MOST_NAMES = 20_000
"""Most pairs of names, and most levels, that are known at a time; those that weigh least, or are oldest, go first."""

LARGEST = 2.0**53
"""Where counting ends: beyond it adding one does not change a number any more."""

_OTHERS = frozenset(
    {
        StatsdFact.OTHER_COUNT,
        StatsdFact.OTHER_LEVEL,
        StatsdFact.OTHER_SECONDS,
        StatsdFact.OTHER_VALUES,
        StatsdFact.OTHER_DISTINCT,
    }
)

K = TypeVar("K")


class StatsdMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart."""

    heard_at: float | None = None


class StatsdSignal:
    """Adds up what was told since Forewarn started. Per observation: :meth:`receive`, then :meth:`conclude`."""

    def __init__(self, memory: StatsdMemory | None = None) -> None:
        self._heard_at = (memory or StatsdMemory()).heard_at
        self._listening_since: float | None = None
        self._heard = False  # since then
        self._ever = False
        self._counts: dict[StatsdFact, dict[Labelled, float]] = {}
        self._tallies: dict[StatsdFact, dict[Labelled, _Tally]] = {}
        self._levels: dict[tuple[StatsdFact, Labelled], tuple[float, float]] = {}
        self._decision: int | None = None
        self._pairs = _Recent()
        self._others = _Recent()
        self._traffic = StatsdTraffic()

    def receive(self, observation: Observation) -> ToldNames | None:
        """Take one observation in and return the names that take part in the decision on labels.

        ``None``: nothing was listened for in it.
        """
        now, facts = observation.now, observation.statsd
        if self._heard_at is not None:
            self._heard_at = min(self._heard_at, now)  # the server's clock was set back
        self._levels = {key: it for key, it in self._levels.items() if now - it[1] <= LEVEL_TTL}
        if facts is None:
            self._listening_since, self._heard = None, False
            return None
        self._ever = True
        if self._listening_since is None:
            self._listening_since = now
        if facts.heard_at is not None:
            self._heard_at, self._heard = min(facts.heard_at, now), True
        for fact, moves in facts.moves.items():
            self._move(fact, moves, now)
        self._traffic = _added(self._traffic, facts.traffic)
        self._pairs.advance(now, _weights(facts, others=False))
        self._others.advance(now, _weights(facts, others=True))
        queues = {key[0]: value for (fact, key), (value, _) in self._levels.items() if fact is StatsdFact.QUEUE_JOBS}
        waits = {key[0]: 0.0 for fact, key in self._levels if fact is StatsdFact.QUEUE_LATENCY}
        return ToldNames(queues=waits | queues, pairs=self._pairs.weights, others=self._others.weights)

    def conclude(self, observation: Observation, labels: Labels) -> StatsdVerdict | None:
        """Tell what is known after an observation that was received; ``None`` where nothing was ever listened for."""
        if not self._ever:
            return None
        if observation.statsd is not None:
            self._count(observation.statsd, labels)
        self._forget(labels)
        return StatsdVerdict(
            age=self._age(observation.now),
            counts={fact: dict(series) for fact, series in self._counts.items()},
            distributions={
                fact: {key: tally.distribution() for key, tally in tallies.items()}
                for fact, tallies in self._tallies.items()
            },
            levels=self._folded(labels),
            traffic=self._traffic,
        )

    def memory(self) -> StatsdMemory:
        """Return what the next run of Forewarn needs."""
        return StatsdMemory(self._heard_at)

    def _age(self, now: float) -> float | None:
        """Return for how long the server has been silent.

        What it said while nobody listened is not known: until it is heard again, or was listened to for as long as a
        server that speaks is never silent, it is not silent either.
        """
        if self._heard_at is None or self._listening_since is None:
            return None
        if not self._heard and now - self._listening_since < LEVEL_TTL:
            return None
        return max(0.0, now - self._heard_at)

    def _move(self, fact: StatsdFact, moves: Mapping[Labelled, Move], now: float) -> None:
        for key, move in moves.items():
            known = None if move.absolute else self._levels.get((fact, key))
            self._levels[fact, key] = (move.value if known is None else known[0] + move.value, now)
        if len(self._levels) > MOST_NAMES:
            self._levels = dict(nlargest(MOST_NAMES, self._levels.items(), key=lambda it: it[1][1]))

    def _count(self, facts: StatsdFacts, labels: Labels) -> None:
        for fact, amounts in facts.counts.items():
            fold = _fold(fact, labels)
            series = self._counts.setdefault(fact, {})
            for (first, second), amount in amounts.items():
                key = fold(first, second)
                series[key] = min(series.get(key, 0.0) + max(amount, 0.0), LARGEST)
        for fact, gains in facts.gains.items():
            fold = _fold(fact, labels)
            tallies = self._tallies.setdefault(fact, {})
            for (first, second), gain in gains.items():
                key = fold(first, second)
                tally = tallies.get(key)
                if tally is None:
                    tally = tallies[key] = _Tally(len(gain.weights))
                tally.add(gain)

    def _forget(self, labels: Labels) -> None:
        # A folded series lives as long as the name in it, or each name that ever was would leave one behind.
        if labels.decision == self._decision:
            return
        self._decision = labels.decision
        told: Iterable[tuple[StatsdFact, dict[Labelled, Any]]] = (*self._counts.items(), *self._tallies.items())
        for fact, series in told:
            fold = _fold(fact, labels)
            for key in [key for key in series if fold(*key) != key]:
                del series[key]

    def _folded(self, labels: Labels) -> dict[StatsdFact, dict[Labelled, float]]:
        levels: dict[StatsdFact, dict[Labelled, float]] = {}
        for (fact, key), (value, _) in self._levels.items():
            series = levels.setdefault(fact, {})
            if fact is StatsdFact.QUEUE_JOBS:
                label: Labelled = (labels.queue(key[0]),)
                series[label] = series.get(label, 0.0) + value
            elif fact is StatsdFact.QUEUE_LATENCY:
                label = (labels.queue(key[0]),)
                series[label] = max(series.get(label, value), value)
            elif fact not in _OTHERS:
                series[key] = value
            elif OTHER not in (label := labels.other(key[0], key[1])):
                # The rest is left out: neither the sum nor the largest of just any levels means anything.
                series[label] = value
        return levels


class _Tally:
    """A distribution that is still being filled. With sample rates a value may stand for any number of them."""

    def __init__(self, size: int) -> None:
        self._weights = [0.0] * size
        self._sum = 0.0
        self._made: Distribution | None = None

    def add(self, gain: Gain) -> None:
        self._weights = list(map(add, self._weights, gain.weights))
        self._sum += gain.sum
        self._made = None

    def distribution(self) -> Distribution:
        # Rounded when they are added up, and by one rule: neither the next bucket nor the next poll has less.
        if self._made is None:
            totals: Iterable[float] = accumulate(self._weights)
            if sum(self._weights) > LARGEST:
                totals = [min(total, LARGEST) for total in totals]
            self._made = Distribution(tuple(map(round, totals)), self._sum)
        return self._made


class _Recent:
    """How much was told of each pair of names, what is long ago weighing less."""

    def __init__(self) -> None:
        self.weights: dict[Pair, float] = {}
        self._at: float | None = None

    def advance(self, now: float, told: Iterable[tuple[Labelled, float]]) -> None:
        step = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        rest = 0.5 ** (step / HALF_LIFE)
        weights = {pair: left for pair, weight in self.weights.items() if (left := weight * rest) >= FORGOTTEN}
        for names, weight in told:
            pair = cast("Pair", names)
            weights[pair] = weights.get(pair, 0.0) + weight
        if len(weights) > MOST_NAMES:
            weights = {pair: weights[pair] for pair in nlargest(MOST_NAMES, weights, key=weights.__getitem__)}
        self.weights = weights


def _fold(fact: StatsdFact, labels: Labels) -> Callable[[str, str], Labelled]:
    """Return what bounds the labels of a fact that has two of them."""
    return labels.other if fact in _OTHERS else labels.pair


def _weights(facts: StatsdFacts, *, others: bool) -> Iterator[tuple[Labelled, float]]:
    for fact, amounts in facts.counts.items():
        if (fact in _OTHERS) is others:
            yield from amounts.items()
    for told in (facts.gains, facts.moves if others else {}):
        for fact, series in told.items():
            if (fact in _OTHERS) is others:
                yield from dict.fromkeys(series, 1.0).items()


def _added(known: StatsdTraffic, more: StatsdTraffic) -> StatsdTraffic:
    return StatsdTraffic(
        packets=_sums(known.packets, more.packets),
        samples=known.samples + more.samples,
        rejected=_sums(known.rejected, more.rejected),
        ignored=_sums(known.ignored, more.ignored),
        folded=known.folded + more.folded,
        dropped={it: _sum(known.dropped.get(it), more.dropped.get(it)) for it in StatsdDrop},
        relayed=known.relayed + more.relayed,
    )


def _sums(known: Mapping[K, int], more: Mapping[K, int]) -> dict[K, int]:
    return {it: known.get(it, 0) + more.get(it, 0) for it in {**known, **more}}


def _sum(known: int | None, more: int | None) -> int | None:
    """Add where one of the two may not be known: what was once known stays."""
    return more if known is None else known + (more or 0)
