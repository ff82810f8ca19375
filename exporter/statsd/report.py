"""What the receiving process and the sidecar say to each other: MessagePack behind its length in four bytes.

Per poll one :class:`Ask`, answered by one or more :class:`Report` of which the last says so. A report holds what was
counted since the one before, so that the receiver keeps nothing for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import msgspec

from exporter.model import Ignored, Rejection, StatsdDrop, Transport

SECONDS_BOUNDS: Sequence[float] = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200,
)  # fmt: skip
"""Upper bounds of timings (``ms``), in seconds."""

VALUES_BOUNDS: Sequence[float] = (0.001, 0.01, 0.1, 1, 10, 100, 1000, 1e4, 1e5, 1e6, 1e9)
"""Upper bounds of histograms (``h``) and distributions (``d``), whose unit is not known."""

LENGTH = 4
"""Bytes in which the length of a message stands before it, the highest first."""

MAX_FRAME = 4 * 1024 * 1024
"""Most bytes of one message: a longer one is a defect, and ends the receiver."""


class Config(msgspec.Struct, frozen=True):
    """What a receiving process is started with, as JSON in its first argument. Descriptors are inherited ones."""

    udp: int | None = None
    tcp: int | None = None
    """Listening."""
    unix: int | None = None
    """Of datagrams."""
    max_series: int = 20_000
    """Most series of a report; what is beyond is counted without its tags, or not at all, and told."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """A question for what was counted, and where to pass packets on from now on."""

    relay: tuple[str, int] | str | None = None
    """A numeric address with its port, or the path of a unix datagram socket."""


class Count(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How much a counter rose."""

    name: bytes
    tags: bytes
    """As written behind ``#``, between commas; the order is the sender's."""
    amount: float


class Level(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a gauge stands now (``absolute``), or by how much it moved."""

    name: bytes
    tags: bytes
    absolute: bool
    value: float


class Spread(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The values of a timing, histogram or distribution."""

    name: bytes
    tags: bytes
    seconds: bool
    """Whether it was a timing: its values in seconds, by :data:`SECONDS_BOUNDS`, else by :data:`VALUES_BOUNDS`."""
    weights: tuple[float, ...]
    """How many values lie below each bound and above the one before; the last is beyond all. With a sample rate each
    value stands for several."""
    sum: float


class Distinct(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How many different values a set had."""

    name: bytes
    tags: bytes
    values: int


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """How receiving went since the report before."""

    packets: dict[Transport, int] = {}
    """Datagrams; of TCP lines."""
    samples: int = 0
    """Values that were counted, each of a packed line."""
    rejected: dict[Rejection, int] = {}
    """Lines, or values of packed ones, that could not be counted."""
    ignored: dict[Ignored, int] = {}
    folded: int = 0
    """Samples that lost their tags because there were too many series."""
    dropped: dict[StatsdDrop, int] = {}
    """Packets; the kernel's own drops are not known here."""
    relayed: int = 0
    """Packets that were passed on."""
    last_packet: float | None = None
    """When the last one came, by the monotonic clock, which all processes of a machine share."""


class Report(msgspec.Struct, frozen=True, array_like=True):
    """A part of what was counted since the last answer."""

    counts: Sequence[Count] = ()
    levels: Sequence[Level] = ()
    spreads: Sequence[Spread] = ()
    distinct: Sequence[Distinct] = ()
    last: Totals | None = None
    """Set in the last part."""


def framed(message: Ask | Report) -> bytes:
    """Return a message as it is written."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH, "big") + body


def bucket_count(seconds: bool) -> int:
    """Return how many weights a :class:`Spread` has."""
    return len(SECONDS_BOUNDS if seconds else VALUES_BOUNDS) + 1


def within(value: float) -> bool:
    """Tell whether a number can be counted: finite."""
    return -inf < value < inf
