"""What Faktory Enterprise tells by StatsD: which of the names that were heard is which fact.

The names are those of https://github.com/contribsys/faktory/wiki/Ent-Metrics. They begin with a namespace, and their
tags may be mixed with ones that the operator added to all of them: only ``queue`` and ``jobtype`` mean anything here.
A tag ends its key at its first colon, for Ruby's ``Mailer::Welcome`` is a job type.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import add
from typing import TYPE_CHECKING, Final, TypeVar, cast

import msgspec

from exporter.model import (
    NONE,
    OTHER,
    Gain,
    Ignored,
    Labelled,
    Move,
    StatsdDrop,
    StatsdFact,
    StatsdFacts,
    StatsdTraffic,
    label_value,
)

if TYPE_CHECKING:
    from exporter.statsd.listener import Heard

T = TypeVar("T")

_COUNTED: Final[Mapping[str, StatsdFact]] = {
    "jobs.count": StatsdFact.EXECUTIONS,  # at each ACK and each FAIL
    "jobs.failed": StatsdFact.FAILURES,
    "jobs.expired": StatsdFact.EXPIRATIONS,
    "uniq.lock": StatsdFact.LOCKS,
    "uniq.denied": StatsdFact.DENIALS,
}

# In milliseconds, as a timing (contribsys/faktory#419): as a histogram or distribution it would have come without a
# unit and in other buckets, and no Faktory sends it so.
_TIMED: Final[Mapping[str, StatsdFact]] = {"jobs.perform": StatsdFact.TIMES}

_OLD_OF_JOBS: Final[Mapping[str, StatsdFact]] = {
    ".count": StatsdFact.EXECUTIONS,
    ".failed": StatsdFact.FAILURES,
    ".perform": StatsdFact.TIMES,
}
"""By the end of ``jobs.{jobtype}...``: deprecated, and sent beside the newer form or by older servers instead of it."""

_OF_QUEUES: Final[Mapping[str, StatsdFact]] = {
    "queue.size": StatsdFact.QUEUE_JOBS,
    "queue.latency": StatsdFact.QUEUE_LATENCY,  # in seconds (contribsys/faktory#478)
}
"""Since Enterprise 1.9.4 (contribsys/faktory#515)."""

_OLD_OF_QUEUES: Final[Mapping[str, StatsdFact]] = {
    "enqueued.": StatsdFact.QUEUE_JOBS,
    "latency.": StatsdFact.QUEUE_LATENCY,
}
"""By the begin of ``enqueued.{queue}`` and ``latency.{queue}``, before and perhaps beside the newer ones."""

_LEVELS: Final[Mapping[str, tuple[StatsdFact, tuple[str, ...], float]]] = {
    "processed": (StatsdFact.PROCESSED, (), 1.0),
    "failures": (StatsdFact.FAILED, (), 1.0),
    "scheduled": (StatsdFact.SET_JOBS, ("scheduled",), 1.0),
    # Not seen in the part of the wiki that is at hand, but named so wherever else Faktory and its sibling Sidekiq
    # Enterprise name them; the sibling says busy where Faktory's own statistics say working.
    "retries": (StatsdFact.SET_JOBS, ("retries",), 1.0),
    "dead": (StatsdFact.SET_JOBS, ("dead",), 1.0),
    "working": (StatsdFact.SET_JOBS, ("working",), 1.0),
    "busy": (StatsdFact.SET_JOBS, ("working",), 1.0),
    "enqueued": (StatsdFact.SET_JOBS, ("enqueued",), 1.0),  # all queues together
    "ops.connections": (StatsdFact.CONNECTIONS, (), 1.0),  # likewise; a plugin that follows Enterprise names it so
    "ops.redis.connections": (StatsdFact.STORE_CONNECTIONS, (), 1.0),
    "ops.redis.memory": (StatsdFact.STORE_MEMORY, (), 1.0),
    "ops.redis.rtt_us": (StatsdFact.STORE_ROUND_TRIP, (), 1e-6),  # since 1.9.0
}
"""Every 30 s: the fact, its labels, and by what its value is to be multiplied."""

_REMEMBERED: Final = 16_384
"""Most names, and most sets of tags, of which it is remembered what they mean."""

_MEMORABLE: Final = 256
"""Longest of them, in bytes."""


class _Name(msgspec.Struct, frozen=True, gc=False):
    """What a name means."""

    fact: StatsdFact
    labels: tuple[str, ...] | None = None
    """``None``: the tags tell them."""
    scale: float = 1.0
    part: str | None = None
    """The job type or queue that a deprecated name has in it."""


class StatsdNames:
    """Sorts what was heard from one server. Remembers which forms that server uses."""

    def __init__(self, namespace: str = "faktory.", *, keep_all: bool = False) -> None:
        """Nothing is remembered yet.

        Args:
            namespace: What all names of the server begin with; the dot that Faktory's client puts behind it may be
                left out.
            keep_all: Whether names that are not known are kept too.
        """
        self._namespace = namespace if not namespace or namespace.endswith(".") else f"{namespace}."
        self._keep_all = keep_all
        self._names: dict[bytes, _Name | None] = {}
        self._pairs: dict[bytes, tuple[str | None, str | None]] = {}
        self._texts: dict[bytes, str] = {}
        self._together: dict[bytes, str] = {}
        self._jobs_tagged = False
        self._queues_tagged = False
        self._held = _Sums()

    def facts(self, heard: Heard, heard_at: float | None) -> StatsdFacts:
        """Return what ``heard`` means; ``heard_at`` is when the last packet came, by the server's clock.

        What is told under a deprecated name counts one reading later, if the newer form of it has not come by then:
        the two are sent together, but perhaps in two packets with a reading between them.

        Takes a microsecond for each series: of thousands it is for a thread.
        """
        told, old = _Sums(), _Sums()
        unknown = 0
        folded = heard.totals.folded > 0
        for count in heard.counts:
            name = self._name(count.name)
            if name is not None and name.fact in _COUNTS:
                sums = told if name.part is None else old
                sums.count(name.fact, self._pair(name, count.tags, folded=folded), count.amount)
                self._jobs_tagged |= name.part is None and name.fact in _BOTH_FORMS
            elif self._keep_all:
                told.count(StatsdFact.OTHER_COUNT, self._other(count.name, count.tags, folded=folded), count.amount)
            else:
                unknown += 1
        for spread in heard.spreads:
            name = self._name(spread.name)
            gain = Gain(spread.weights, spread.sum)
            if name is not None and name.fact is StatsdFact.TIMES and spread.seconds:
                sums = told if name.part is None else old
                sums.gain(name.fact, self._pair(name, spread.tags, folded=folded), gain)
                self._jobs_tagged |= name.part is None
            elif self._keep_all:
                fact = StatsdFact.OTHER_SECONDS if spread.seconds else StatsdFact.OTHER_VALUES
                told.gain(fact, self._other(spread.name, spread.tags, folded=folded), gain)
            else:
                unknown += 1
        for level in heard.levels:
            name = self._name(level.name)
            labels = None if name is None else self._of_level(name, level.tags)
            if name is not None and labels is not None:
                sums = told if name.part is None else old
                sums.move(name.fact, labels, Move(level.absolute, level.value * name.scale))
                self._queues_tagged |= name.part is None and name.fact in _QUEUE_LEVELS
            elif self._keep_all:
                move = Move(level.absolute, level.value)
                told.move(StatsdFact.OTHER_LEVEL, self._other(level.name, level.tags, folded=folded), move)
            else:
                unknown += 1
        for distinct in heard.distinct:
            if self._keep_all:
                move = Move(absolute=True, value=distinct.values)
                told.move(StatsdFact.OTHER_DISTINCT, self._other(distinct.name, distinct.tags, folded=folded), move)
            else:
                unknown += 1
        deprecated = self._join(told, old)
        return StatsdFacts(heard_at, told.counts, told.gains, told.moves, _traffic(heard, unknown, deprecated))

    def _join(self, told: _Sums, old: _Sums) -> int:
        """Add to ``told`` what of deprecated forms is to be counted, and return how many series are not."""
        ignored = 0
        if self._queues_tagged:
            ignored += old.moved()
        else:
            told.include_moves(old)
        held, self._held = self._held, old
        if not self._jobs_tagged:
            told.include_counted(held)
            return ignored
        self._held = _Sums()
        return ignored + held.counted() + old.counted()

    def _name(self, name: bytes) -> _Name | None:
        try:
            return self._names[name]
        except KeyError:
            text = name.decode("utf-8", "replace")
            known = text.startswith(self._namespace)
            return _remember(self._names, name, _meaning(text.removeprefix(self._namespace)) if known else None)

    def _tags(self, tags: bytes) -> tuple[str | None, str | None]:
        """Return the queue and the job type that the tags tell.

        Where a key comes twice the last one counts: the operator's own tags stand before Faktory's.
        """
        try:
            return self._pairs[tags]
        except KeyError:
            found: dict[bytes, str] = {}
            for tag in tags.split(b","):
                key, colon, value = tag.partition(b":")
                if colon and key in _MEANT:
                    found[key] = label_value(value.decode("utf-8", "replace"))
            return _remember(self._pairs, tags, (found.get(b"queue"), found.get(b"jobtype")))

    def _pair(self, name: _Name, tags: bytes, *, folded: bool) -> Labelled:
        """Return the queue and job type."""
        pair = self._tags(tags)
        if name.part is None and None not in pair:
            return cast("Labelled", pair)
        if folded and not tags:
            # The receiver leaves the tags of series beyond its bound out; every Faktory tells at least these two.
            return OTHER, name.part or OTHER
        return pair[0] or NONE, pair[1] or name.part or NONE

    def _of_level(self, name: _Name, tags: bytes) -> Labelled | None:
        """Return the labels of a level; ``None`` of a queue's without the queue, which tells nothing."""
        if name.labels is not None:
            return name.labels
        if name.fact not in _QUEUE_LEVELS:
            return None
        queue = name.part or self._tags(tags)[0]
        return None if queue is None else (queue,)

    def _other(self, name: bytes, tags: bytes, *, folded: bool) -> Labelled:
        """Return the labels of what is not known: the name as it was sent, the tags in an order that is always one."""
        known, together = self._texts.get(name), self._together.get(tags)
        if known is None:
            known = _remember(self._texts, name, label_value(name.decode("utf-8", "replace")))
        if together is None:
            text = ",".join(sorted({tag.decode("utf-8", "replace") for tag in tags.split(b",") if tag}))
            together = _remember(self._together, tags, label_value(text) if text else NONE)
        return known, OTHER if folded and not tags else together


_MEANT: Final = (b"queue", b"jobtype")
_COUNTS: Final = frozenset(_COUNTED.values())
_BOTH_FORMS: Final = frozenset(_OLD_OF_JOBS.values())
_QUEUE_LEVELS: Final = frozenset(_OF_QUEUES.values())


class _Sums:
    """Facts that are still being added up."""

    def __init__(self) -> None:
        self.counts: dict[StatsdFact, dict[Labelled, float]] = {}
        self.gains: dict[StatsdFact, dict[Labelled, Gain]] = {}
        self.moves: dict[StatsdFact, dict[Labelled, Move]] = {}

    def count(self, fact: StatsdFact, labels: Labelled, amount: float) -> None:
        series = self.counts.setdefault(fact, {})
        series[labels] = series.get(labels, 0.0) + amount

    def gain(self, fact: StatsdFact, labels: Labelled, gain: Gain) -> None:
        series = self.gains.setdefault(fact, {})
        known = series.get(labels)
        if known is not None:
            gain = Gain(tuple(map(add, known.weights, gain.weights)), known.sum + gain.sum)
        series[labels] = gain

    def move(self, fact: StatsdFact, labels: Labelled, move: Move) -> None:
        series = self.moves.setdefault(fact, {})
        known = series.get(labels)
        if known is not None and not move.absolute:
            move = Move(known.absolute, known.value + move.value)
        series[labels] = move

    def counted(self) -> int:
        """Return how many series there are but for the levels."""
        return sum(map(len, self.counts.values())) + sum(map(len, self.gains.values()))

    def moved(self) -> int:
        """Return how many levels there are."""
        return sum(map(len, self.moves.values()))

    def include_counted(self, other: _Sums) -> None:
        for fact, amounts in other.counts.items():
            for labels, amount in amounts.items():
                self.count(fact, labels, amount)
        for fact, gains in other.gains.items():
            for labels, gain in gains.items():
                self.gain(fact, labels, gain)

    def include_moves(self, other: _Sums) -> None:
        for fact, moves in other.moves.items():
            for labels, move in moves.items():
                self.move(fact, labels, move)


def _meaning(name: str) -> _Name | None:
    """Tell what a name means, without its namespace; ``None``: it is not known."""
    fact = _COUNTED.get(name) or _TIMED.get(name) or _OF_QUEUES.get(name)
    if fact is not None:
        return _Name(fact)
    if name in _LEVELS:
        fact, labels, scale = _LEVELS[name]
        return _Name(fact, labels, scale)
    for begin, fact in _OLD_OF_QUEUES.items():
        if name.startswith(begin):
            return _Name(fact, part=label_value(name.removeprefix(begin)))
    if name.startswith("jobs."):
        for end, fact in _OLD_OF_JOBS.items():
            if name.endswith(end) and len(name) > len("jobs.") + len(end):
                return _Name(fact, part=label_value(name[len("jobs.") : -len(end)]))
    return None


def _remember(memory: dict[bytes, T], key: bytes, value: T) -> T:
    if len(key) <= _MEMORABLE:
        if len(memory) >= _REMEMBERED:
            memory.clear()
        memory[key] = value
    return value


def _traffic(heard: Heard, unknown: int, deprecated: int) -> StatsdTraffic:
    totals = heard.totals
    ignored = {Ignored.UNKNOWN: unknown, Ignored.DEPRECATED: deprecated}
    return StatsdTraffic(
        packets=totals.packets,
        samples=totals.samples,
        rejected=totals.rejected,
        ignored={it: totals.ignored.get(it, 0) + ignored.get(it, 0) for it in Ignored},
        folded=totals.folded,
        dropped={
            it: heard.dropped_by_kernel if it is StatsdDrop.KERNEL else totals.dropped.get(it, 0) for it in StatsdDrop
        },
        relayed=totals.relayed,
    )
