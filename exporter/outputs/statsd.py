"""The metrics of the catalogue as StatsD and as DogStatsD: how the series of ``/metrics`` are written. No I/O.

**Names** are those of ``/metrics`` in its text format 0.0.4: ``faktory_queue_jobs``, and of a histogram the names that
end in ``_bucket``, ``_count`` and ``_sum``, of a gauge histogram in ``_bucket``, ``_gcount`` and ``_gsum``.

**Labels** are those of ``/metrics`` in the same order, ``server`` first and ``le`` last. Bytes that are no UTF-8 become
question marks, as there.

- DogStatsD has them as tags: ``faktory_queue_jobs:3|g|#server:faktory,queue:mail``. In a value a comma, a ``|``, a
  control character, and a ``%`` with two upper-case hexadecimal digits behind it, are written as ``%`` and their code
  in two such digits: ``%2C``. A value that is empty has no tag, which is the same in Prometheus.
- Plain StatsD has the values as further parts of the name: ``faktory_queue_jobs.faktory.mail:3|g``. In a value every
  byte of its UTF-8 that is neither a letter of ASCII nor a digit nor ``_`` nor ``-``, and a ``-`` with two upper-case
  hexadecimal digits behind it, is written as ``-`` and its code in two such digits: ``a.b`` as ``a-2Eb``. A value that
  is empty is written as ``-``, and one that is ``-`` as ``-2D``.

**Values.** A gauge is a gauge, absolute. What would be below 0 is a move in StatsD: a 0 goes before it, in the same
packet. A counter is a counter: how much it rose since the flush before, 0 too, so that a server that was restarted
knows it again. A histogram is a counter for each of its samples, and each bucket has all that is below it, as at
``/metrics``. A gauge histogram is a gauge for each. What is not known is not sent, and nothing else says so: StatsD
knows no staleness, and a server may tell the last gauge that it was sent for ever.

**Starts.** What the sidecar itself counts since its process started is sent whole at the first flush. Whatever was
counted before, or by the watched server, has its first value as where it starts: it is known by its rise since then.
A value below the last one was counted anew.

**Packets** have as many whole lines as fit, with a line end between them. A line that is longer than a packet alone is
left out, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
from statsd.client.base import PipelineBase, StatsClientBase

from exporter.catalogue import Labels, Metric, Value
from exporter.model import Distribution
from exporter.outputs.counting import CUMULATIVE
from exporter.outputs.prometheus import sections
from exporter.strides import STRIDE

UDP_PACKET: Final = 1432
"""Most bytes of a packet by UDP: with its headers it fits into an Ethernet frame, tunnels included."""

UNIX_PACKET: Final = 8192
"""Most bytes of a packet by a unix socket: what the clients of DogStatsD send."""

_LARGEST_WHOLE: Final = 2.0**53


class Sample(msgspec.Struct, frozen=True):
    """One of the samples that each series of a metric has: a number has one, a distribution one for each line."""

    name: str
    counter: bool
    labels: tuple[str, ...]
    """The names of all labels."""
    before: Labels
    """The values of the first of them, the same in all series."""
    behind: Labels
    """Those of the last."""


class Debts(dict[Labels, float]):
    """How much the series of one sample rose that was not sent yet, by label values; nothing that is 0."""

    __slots__ = ()

    def add(self, key: Labels, amount: float) -> None:
        """Let one series have risen by ``amount``, which is not below 0."""
        if amount:
            self[key] = self.get(key, 0) + amount

    def take(self, key: Labels, amount: float) -> None:
        """Let ``amount`` of what one series owes be on its way."""
        rest = self.pop(key, 0) - amount
        if rest > 0:
            self[key] = rest


class Line(msgspec.Struct, frozen=True, gc=False):
    """One value of one series, to be written; ``debts`` is where a rise is owed until it is packed."""

    key: Labels
    value: float
    debts: Debts | None = None


class Packet(msgspec.Struct, frozen=True):
    """Some whole lines."""

    data: bytes
    lines: int
    counted: tuple[Line, ...]
    """Those among them that told of a rise."""

    def put_back(self) -> None:
        """Owe again what it told: it did not arrive."""
        for line in self.counted:
            if line.debts is not None:
                line.debts.add(line.key, line.value)


# --- what is told -----------------------------------------------------------------------------------------------------


def samples(metric: Metric, system: str, labels: tuple[str, ...], before: Labels) -> tuple[Sample, ...]:
    """Return the samples of each series of ``metric``, in the order of :func:`row`.

    Args:
        metric: One of the catalogue's.
        system: What its name begins with where it is not the sidecar's own.
        labels: The names of all its labels, but for ``le``.
        before: The values of the first of them.
    """
    name = metric.full_name(system)
    counter = metric.kind in CUMULATIVE
    return tuple(
        Sample(
            name=name + section.suffix + suffix,
            counter=counter,
            labels=labels if le is None else (*labels, "le"),
            before=before,
            behind=() if le is None else (le,),
        )
        for section in sections(metric, openmetrics=False)
        for suffix, le in section.samples
    )


def row(value: Value) -> tuple[float, ...]:
    """Return the value of each sample of one series."""
    return (*value.counts, value.count, value.sum) if isinstance(value, Distribution) else (value,)


def gauges(
    its: Sequence[Sample], keys: Sequence[Labels], values: Sequence[Value]
) -> Iterator[tuple[Sample, Sequence[Line]]]:
    """Yield the lines of a metric of which nothing is counted: ``its`` samples in the series with these labels."""
    for start in range(0, len(keys), STRIDE):
        some = keys[start : start + STRIDE]
        rows = [row(value) for value in values[start : start + STRIDE]]
        for index, sample in enumerate(its):
            yield sample, [Line(key, values[index]) for key, values in zip(some, rows, strict=True)]


# --- how it is written ------------------------------------------------------------------------------------------------


class Dialect(Protocol):
    """Writes lines."""

    def write(self, sample: Sample, lines: Iterable[Line]) -> Iterator[str]:
        """Yield each of ``lines`` as it is sent, without its end; of one below 0 two together."""
        ...


class DogStatsd:
    """Labels as tags."""

    def write(self, sample: Sample, lines: Iterable[Line]) -> Iterator[str]:
        """Yield ``name:value|g|#label:value,...``."""
        kind = "c" if sample.counter else "g"
        start, end = len(sample.before), len(sample.labels) - len(sample.behind)
        first, middle, last = sample.labels[:start], sample.labels[start:end], sample.labels[end:]
        before, behind = _tags(first, sample.before), _tags(last, sample.behind)
        for line in lines:
            tags = ",".join([*before, *_tags(middle, line.key), *behind])
            rest = f"|{kind}|#{tags}" if tags else f"|{kind}"
            value = _plain(line.value)
            if value < 0 and not sample.counter:
                yield f"{sample.name}:0{rest}\n{sample.name}:{value}{rest}"
            else:
                yield f"{sample.name}:{value}{rest}"


class PlainStatsd:
    """Label values as parts of the name."""

    def __init__(self) -> None:
        self._client = _Client()

    def write(self, sample: Sample, lines: Iterable[Line]) -> Iterator[str]:
        """Yield ``name.value.value:value|g``."""
        client = self._client
        tell = client.incr if sample.counter else client.gauge
        first = ".".join((sample.name, *map(part, sample.before)))
        last = tuple(map(part, sample.behind))
        for line in lines:
            tell(".".join((first, *map(part, line.key), *last)), _plain(line.value))
            yield client.taken()


class _Client(StatsClientBase):  # type: ignore[misc] # the library has no types
    """Hands out what it formats instead of sending it."""

    _prefix = None

    def __init__(self) -> None:
        self._formatted: list[str] = []

    def _send(self, data: str) -> None:
        self._formatted.append(data)

    def pipeline(self) -> _Pipeline:
        return _Pipeline(self)

    def taken(self) -> str:
        formatted, self._formatted = self._formatted, []
        return "\n".join(formatted)


class _Pipeline(PipelineBase):  # type: ignore[misc] # likewise
    """What belongs together: it stays so, for all of it is handed out at once."""

    def _send(self) -> None:
        for data in self._stats:
            self._client._send(data)


def part(value: str) -> str:
    """Return a label value as a part of a plain name."""
    if value in {"", "-"}:
        return "-2D" if value else "-"
    if _PLAIN.fullmatch(value):
        return value
    return _NO_PART.sub(lambda found: b"-%02X" % found[0][0], value.encode("utf-8", "replace")).decode()


def tag_value(value: str) -> str:
    """Return a label value as it stands in a tag of DogStatsD."""
    if _NO_TAG.search(value):
        value = _NO_TAG.sub(lambda found: f"%{ord(found[0]):02X}", value)
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


_PLAIN: Final = re.compile(r"[A-Za-z0-9_]+")
_NO_PART: Final = re.compile(rb"[^A-Za-z0-9_-]|-(?=[0-9A-F]{2})")
_NO_TAG: Final = re.compile(r"[\x00-\x1f\x7f,|]|%(?=[0-9A-F]{2})")


def _tags(names: Sequence[str], values: Labels) -> list[str]:
    return [f"{name}:{tag_value(value)}" for name, value in zip(names, values, strict=True) if value]


def _plain(value: float) -> float:
    """Return a number as it is best spelled: whole ones without a fraction, which some servers cannot read."""
    if isinstance(value, float) and value.is_integer() and -_LARGEST_WHOLE < value < _LARGEST_WHOLE:
        return int(value)
    return value


# --- how it is packed -------------------------------------------------------------------------------------------------


class Packer:
    """Joins lines into packets of at most ``limit`` bytes."""

    def __init__(self, dialect: Dialect, limit: int) -> None:
        self._dialect = dialect
        self._limit = limit
        self.left_out = 0
        """Lines that were longer than a packet."""

    def pack(self, written: Iterable[tuple[Sample, Sequence[Line]]]) -> Iterator[Packet]:
        """Yield packets, each when it is asked for: what it tells is owed no longer then."""
        held: list[bytes] = []
        counted: list[Line] = []
        size = lines = 0
        for sample, its in written:
            for line, text in zip(its, self._dialect.write(sample, its), strict=True):
                data = text.encode()
                if len(data) > self._limit:
                    self.left_out += 1
                    _taken([line])
                    continue
                if size + len(data) > self._limit:
                    yield Packet(b"\n".join(held), lines, _taken(counted))
                    held, counted, size, lines = [], [], 0, 0
                held.append(data)
                size += len(data) + 1
                lines += 1
                if line.debts is not None and line.value:
                    counted.append(line)
        if held:
            yield Packet(b"\n".join(held), lines, _taken(counted))


def _taken(lines: Iterable[Line]) -> tuple[Line, ...]:
    its = tuple(lines)
    for line in its:
        if line.debts is not None:
            line.debts.take(line.key, line.value)
    return its


def dialect(tags: bool) -> Dialect:
    """Return DogStatsD, or StatsD without ``tags``."""
    return DogStatsd() if tags else PlainStatsd()
