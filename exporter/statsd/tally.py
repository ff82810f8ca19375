"""What is counted between two answers: values under their name and tags, bounded, and books that balance.

Every line becomes, exactly once, a sample for each of its values, a rejection, or something ignored.

Pure: no I/O, no clock. Half a microsecond per line is what a burst allows, so a line is understood twice: strictly by
:mod:`exporter.statsd.lines`, and from then on by what surrounds its value, which is all that is new in it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from exporter.model import Ignored, Rejection
from exporter.statsd import lines
from exporter.statsd.lines import COUNTER, GAUGE, SET, TIMING, Line
from exporter.statsd.report import (
    SECONDS_BOUNDS,
    VALUES_BOUNDS,
    Count,
    Distinct,
    Level,
    Report,
    Spread,
    Totals,
    bucket_count,
    within,
)

MAX_TEXT: Final = 16 * 1024 * 1024
"""Most bytes of the tags of all series: hostile ones are 4 KiB each."""

MAX_DISTINCT: Final = 10_000
"""Most different values of one set: one that tells this number has as many or more."""

MAX_DISTINCT_ALL: Final = 100_000
"""Likewise of all sets together, in about 8 MiB. Beyond it no set grows."""

MAX_FORM: Final = 1024
"""Longest line that is remembered, in bytes without its value: longer ones are read strictly each time."""

PART: Final = 256
"""Series in one part of an answer: encoded in less than a millisecond, and at most 1.2 MiB."""

# A line is its name, a plain decimal number, and the rest; or, last, anything else that is not empty. Each match is a
# whole line, for where the first form fails the second does not. Signs, exponents and packed values are read strictly.
# With at most 20 digits before the point, and a weight of at most 1 / MIN_RATE, such a number makes no sum infinite.
_LINE: Final = re.compile(rb"([^|\n]+):([0-9]{1,20}+(?:\.[0-9]{1,20}+)?+)(\|.*+)|(.++)")

_Identity = tuple[bytes, bytes, bytes]
"""Kind, name and tags."""

_Form = tuple[bytes, _Identity, float]
"""What a line reads without its value, what that means, and how much its value weighs."""


class _Counter:
    __slots__ = ("sum",)

    def __init__(self) -> None:
        self.sum = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        self.sum += value * weight

    def bears(self, value: float, weight: float) -> bool:
        return within(self.sum + value * weight)


class _Gauge:
    __slots__ = ("absolute", "value")

    def __init__(self) -> None:
        self.absolute = False
        self.value = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:  # noqa: ARG002 - it is told, and not counted
        self.absolute = True
        self.value = value

    def bears(self, value: float, weight: float) -> bool:  # noqa: ARG002
        return True


class _Spread:
    __slots__ = ("bounds", "divisor", "sum", "weights")

    def __init__(self, seconds: bool) -> None:
        self.bounds = SECONDS_BOUNDS if seconds else VALUES_BOUNDS
        self.divisor = 1000.0 if seconds else 1.0
        self.weights = [0.0] * bucket_count(seconds)
        self.sum = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        value /= self.divisor
        self.weights[bisect_left(self.bounds, value)] += weight
        self.sum += value * weight

    def bears(self, value: float, weight: float) -> bool:
        return within(self.sum + value / self.divisor * weight)


class _Set:
    __slots__ = ("hashes",)

    def __init__(self) -> None:
        self.hashes: set[int] = set()

    def include(self, text: bytes, room: int) -> int:
        """Return by how many it grew: where neither it nor all sets have room left, by none."""
        before = len(self.hashes)
        if before < MAX_DISTINCT and room > 0:
            self.hashes.add(hash(text))
        return len(self.hashes) - before


_Series = _Counter | _Gauge | _Spread | _Set


class Tally:
    """Counts lines until what was counted is taken. Holds a bounded number of series, each of bounded size."""

    def __init__(self, max_series: int) -> None:
        """Keep a tenth of ``max_series`` for names without tags: room for what is folded."""
        self._max_series = max_series
        self._max_tagged = max_series - max(1, max_series // 10)
        self._forms: dict[bytes, _Form] = {}  # outlives an answer: after one nothing need be read strictly again
        self._clear()

    def feed(self, data: bytes | bytearray, start: int = 0, end: int | None = None) -> int:
        """Count the lines of a piece of ``data``, the last with or without its end; return how many there were."""
        found = _LINE.findall(data, start, len(data) if end is None else end)
        known = self._known
        strict = blank = 0
        for name, value, rest, other in found:
            add = known.get(name + rest)
            if add is not None:
                add(float(value))
            elif other == b"\r":
                blank += 1
            else:
                strict += 1
                form = self._forms.get(name + rest)
                if form is not None:
                    self._recall(form, float(value))
                else:
                    self._read(other or b"%b:%b%b" % (name, value, rest), name + rest)
        self._samples += len(found) - strict - blank
        return len(found) - blank

    def reject(self, reason: Rejection) -> None:
        """Count a line or a value that cannot be counted."""
        self._rejected[reason] = self._rejected.get(reason, 0) + 1

    def take(self) -> tuple[Iterator[Report], Totals]:
        """Return what was counted since the last time, in parts that are made one by one, and begin anew."""
        totals = Totals(samples=self._samples, rejected=self._rejected, ignored=self._ignored, folded=self._folded)
        parts = _parts(self._all)
        self._clear()
        return parts, totals

    def _clear(self) -> None:
        self._all: dict[_Identity, _Series] = {}
        self._known: dict[bytes, Callable[[float], None]] = {}  # by line without its value; only of series in _all
        self._text = 0  # bytes of all tags
        self._distinct = 0  # values of all sets
        self._samples = 0
        self._folded = 0
        self._rejected: dict[Rejection, int] = {}
        self._ignored: dict[Ignored, int] = {}

    def _recall(self, form: _Form, value: float) -> None:
        """Count a plain number of a line that was read before, but not since the last answer."""
        key, identity, weight = form
        series = self._find(identity)
        if series is None or isinstance(series, _Set):  # but a set's line is never remembered
            self.reject(Rejection.SERIES)
            return
        self._samples += 1
        series.add(value, weight)
        if identity not in self._all:
            self._folded += 1
        elif len(self._known) < 2 * self._max_series:
            self._known[key] = series.add if weight == 1 else partial(series.add, weight=weight)

    def _read(self, text: bytes, key: bytes) -> None:
        """Count a line strictly. ``key`` is what it reads without its value; empty if that is no plain number."""
        line = lines.read(text)
        if isinstance(line, Rejection):
            self.reject(line)
        elif isinstance(line, Ignored):
            self._ignored[line] = self._ignored.get(line, 0) + 1
        else:
            identity = (line.kind, line.name, line.tags)
            self._count(identity, line.values, line.weight)
            if 0 < len(key) <= MAX_FORM and _can_be_remembered(line):
                if len(self._forms) >= 2 * self._max_series:
                    self._forms.clear()
                self._forms[key] = (key, identity, line.weight)

    def _count(self, identity: _Identity, values: tuple[bytes, ...], weight: float) -> None:
        """Count the values of a line as they are written. A series comes to be only by a value that it can have."""
        kind = identity[0]
        series = self._all.get(identity)
        for text in values:
            value = 0.0 if kind == SET else lines.number(text)
            if value is None or (kind == COUNTER and value < 0):
                self.reject(Rejection.VALUE)
                continue
            if series is None:
                series = self._find(identity)
            if series is None:
                self.reject(Rejection.SERIES)
            elif self._add(series, text, value, weight):
                self._samples += 1
                self._folded += identity not in self._all
            else:
                self.reject(Rejection.VALUE)

    def _add(self, series: _Series, text: bytes, value: float, weight: float) -> bool:
        """Add a value, unless what it is added to would no longer be finite; tell whether it was added."""
        if isinstance(series, _Set):
            self._distinct += series.include(text, MAX_DISTINCT_ALL - self._distinct)
        elif isinstance(series, _Gauge) and lines.is_signed(text):
            value += series.value
            if not within(value):
                return False
            series.value = value
        elif not series.bears(value, weight):
            return False
        else:
            series.add(value, weight)
        return True

    def _find(self, identity: _Identity) -> _Series | None:
        """Return the series; where there are too many that of its name without tags, if there is room for that."""
        series = self._all.get(identity)
        if series is None:
            kind, name, tags = identity
            most = self._max_tagged if tags else self._max_series
            if len(self._all) < most and self._text + len(tags) <= MAX_TEXT:
                self._text += len(tags)
                series = self._all[identity] = _new(kind)
            elif tags:
                series = self._find((kind, name, b""))
        return series


def _new(kind: bytes) -> _Series:
    if kind == COUNTER:
        return _Counter()
    if kind == GAUGE:
        return _Gauge()
    return _Set() if kind == SET else _Spread(kind == TIMING)


def _can_be_remembered(line: Line) -> bool:
    return len(line.values) == 1 and line.kind != SET and not line.timed


def _parts(series: dict[_Identity, _Series]) -> Iterator[Report]:
    """Empty ``series`` into parts, so that what has been told is not held any longer."""
    while series:
        counts, levels, spreads, distinct = [], [], [], []
        for _ in range(min(PART, len(series))):
            (kind, name, tags), told = series.popitem()
            if isinstance(told, _Counter):
                counts.append(Count(name, tags, told.sum))
            elif isinstance(told, _Gauge):
                levels.append(Level(name, tags, told.absolute, told.value))
            elif isinstance(told, _Spread):
                spreads.append(Spread(name, tags, kind == TIMING, tuple(told.weights), told.sum))
            else:
                distinct.append(Distinct(name, tags, len(told.hashes)))
        yield Report(counts, levels, spreads, distinct)
