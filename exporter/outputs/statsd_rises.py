"""How much the counters of snapshots rose from one flush to the next, and what of it no server has taken yet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from exporter.catalogue import Labels, Value
from exporter.model import Distribution
from exporter.outputs.statsd import Debts, Line, Sample, row
from exporter.strides import STRIDE, strides

MAX_ABSENT: Final = 10_000
"""Most series of one metric whose rise is kept after they have gone, until a server takes it; the oldest go first."""


class Rises:
    """One cumulative metric of one server, or of the sidecar itself.

    What is owed outlives what it was owed for: a server that is away for an hour gets all of it when it is back.
    """

    def __init__(self) -> None:
        self._known: dict[Labels, Value] = {}
        self._debts: list[Debts] = []

    def advance(
        self, keys: Sequence[Labels], values: Sequence[Value], *, width: int, from_zero: bool, forgotten: bool
    ) -> int:
        """Take in what is known now. Returns how many lines that were owed are given up, because there are too many.

        Args:
            keys: The label values of all series.
            values: Their values in the same order.
            width: How many samples a series has.
            from_zero: Whether a new series has counted from 0; else its first value is where it starts.
            forgotten: Whether one that is not among them any more counts from 0 when it comes back.
        """
        if not self._debts:
            self._debts = [Debts() for _ in range(width)]
        for start in range(0, len(keys), STRIDE):
            time.sleep(0)  # lets the event loop have the interpreter
            for key, value in zip(keys[start : start + STRIDE], values[start : start + STRIDE], strict=True):
                self._take(key, value, from_zero=from_zero)
        if forgotten and len(self._known) > len(keys):
            now = _set(keys)
            self._known = {key: value for key, value in self._known.items() if key in now}
        return self._give_up(keys)

    def forget(self) -> None:
        """Count what comes next from where it starts. What is owed stays so."""
        self._known = {}

    @property
    def owed(self) -> bool:
        """Whether anything is owed."""
        return any(self._debts)

    def lines(self, its: Sequence[Sample], keys: Sequence[Labels]) -> Iterator[tuple[Sample, Sequence[Line]]]:
        """Yield the lines of the series that are known now, and of others of which something is still owed."""
        if not self._debts:
            return
        for start in range(0, len(keys), STRIDE):
            some = keys[start : start + STRIDE]
            for sample, debts in zip(its, self._debts, strict=True):
                yield sample, [Line(key, debts.get(key, 0), debts) for key in some]
        for sample, debts in zip(its, self._debts, strict=True):
            if debts:
                now = _set(keys)
                for some in strides([key for key in debts if key not in now]):
                    yield sample, [Line(key, debts.get(key, 0), debts) for key in some]

    def _take(self, key: Labels, value: Value, *, from_zero: bool) -> None:
        last = self._known.get(key)
        self._known[key] = value
        if last is None:
            if from_zero:
                self._owe(key, row(value))
        elif isinstance(value, Distribution) and isinstance(last, Distribution):
            if value is not last:
                self._owe(key, _risen(last, value))
        elif not isinstance(value, Distribution) and not isinstance(last, Distribution):
            self._owe(key, (value - last if value >= last else value,))

    def _owe(self, key: Labels, amounts: Sequence[float]) -> None:
        for debts, amount in zip(self._debts, amounts, strict=True):
            debts.add(key, amount)

    def _give_up(self, keys: Sequence[Labels]) -> int:
        if all(len(debts) <= MAX_ABSENT for debts in self._debts):
            return 0
        now = _set(keys)
        given_up = 0
        for debts in self._debts:
            absent = [key for key in debts if key not in now]
            for key in islice(absent, max(0, len(absent) - MAX_ABSENT)):
                del debts[key]
                given_up += 1
        return given_up


def _risen(last: Distribution, value: Distribution) -> Sequence[float]:
    before, after = row(last), row(value)
    if any(it < its for it, its in zip(value.counts, last.counts, strict=True)):
        return after  # counted anew
    return [max(it - its, 0) for it, its in zip(after, before, strict=True)]


def _set(keys: Sequence[Labels]) -> Mapping[Labels, None]:
    found: dict[Labels, None] = {}
    for some in strides(keys):
        found.update(dict.fromkeys(some))
    return found
