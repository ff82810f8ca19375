"""The grammar of StatsD and DogStatsD: one line's bytes become values, or the reason why they cannot.

::

    metric := NAME ":" VALUE *(":" VALUE) "|" TYPE *("|" SECTION)
    TYPE := "c" counter | "g" gauge | "ms" timing in milliseconds | "h" histogram | "d" distribution | "s" set
    SECTION := "@" RATE | "#" TAGS | "c:" CONTAINER | "e:" EXTERNAL | "card:" CARDINALITY | "T" UNIX_SECONDS
    event := "_e{" BYTES_OF_TITLE "," BYTES_OF_TEXT "}:" TITLE "|" TEXT *("|" ...)
    check := "_sc|" NAME "|" ("0" | "1" | "2" | "3") *("|" ...)

Sections may stand in any order, each once. A name ends at its first single colon: Ruby's ``::`` belongs to it. A set
has one value, which may be any text with colons in it. Where a sample comes from (container, external data,
cardinality) and of when it is (timestamp) is understood and not used.

Pure. Nothing here raises, whatever the bytes.

Sources: the DogStatsD protocol up to v1.6 (docs.datadoghq.com), Etsy's ``statsd`` for what a gauge's sign means.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from exporter.model import Ignored, Rejection
from exporter.statsd.report import within

MAX_LINE: Final = 64 * 1024
"""Longest line, in bytes: as much as a datagram can hold."""

MAX_NAME: Final = 512
"""Longest name, in bytes: four times what is kept of a name as a label value, and more than any client sends."""

MAX_TAGS: Final = 4 * 1024
"""Longest tags of one line, in bytes with their commas."""

MAX_NUMBER: Final = 400
"""Longest number, in bytes: the smallest that there is has 326 when it is written without an exponent."""

MAX_VALUES: Final = 4096
"""Most values of one line: half of the largest packet that clients send, and read within a few milliseconds."""

MIN_RATE: Final = 1e-9
"""Smallest sample rate: each value then stands for a billion. A smaller one is no one's intent."""

COUNTER: Final = b"c"
GAUGE: Final = b"g"
TIMING: Final = b"ms"
HISTOGRAM: Final = b"h"
"""Distributions (``d``) too: here the same is made of both."""
SET: Final = b"s"

_KINDS: Final = {b"c": COUNTER, b"g": GAUGE, b"ms": TIMING, b"h": HISTOGRAM, b"d": HISTOGRAM, b"s": SET}
_CARDINALITIES: Final = frozenset((b"none", b"low", b"orchestrator", b"high"))

# Possessive throughout, so that no line costs more than a time in proportion to its length.
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]")
_NUMBER: Final = re.compile(rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+")
_TIMESTAMP: Final = re.compile(rb"[0-9]{1,20}")
_EVENT: Final = re.compile(rb"_e\{([0-9]{1,5}),([0-9]{1,5})\}:")
_CHECK: Final = re.compile(rb"_sc\|[^|]++\|[0-3](?:\||\Z)")


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line that is understood, but for its values."""

    kind: bytes
    """One of :data:`COUNTER`, :data:`GAUGE`, :data:`TIMING`, :data:`HISTOGRAM`, :data:`SET`."""
    name: bytes
    tags: bytes
    """As written behind ``#``."""
    weight: float
    """How many each value stands for: 1 over the sample rate. A gauge or a set has none, whatever the rate says."""
    values: tuple[bytes, ...]
    """As written, never empty: :func:`number` tells what they are, but for a set's."""
    timed: bool
    """Whether it says of when it is: then no other line may ever read the same."""


def read(line: bytes) -> Line | Rejection | Ignored:
    """Understand one line, which is not empty and has no line feed. A carriage return at its end belongs to the end."""
    if len(line) > MAX_LINE:
        return Rejection.LENGTH
    if not (line.isascii() or _is_text(line)):
        return Rejection.ENCODING
    if line.endswith(b"\r"):
        line = line[:-1]
    if line.startswith(b"_e{"):
        return _event(line)
    if line.startswith(b"_sc|"):
        return Ignored.CHECK if _CHECK.match(line) else Rejection.EVENT
    head, _, rest = line.partition(b"|")
    name, packed = _split(head)
    if not name or len(name) > MAX_NAME or _CONTROL.search(name):
        return Rejection.NAME
    kind, *sections = rest.split(b"|")
    if kind not in _KINDS:
        return Rejection.TYPE
    return _metric(_KINDS[kind], name, packed, sections)


def number(text: bytes) -> float | None:
    """Return the finite decimal number that ``text`` is, or ``None``."""
    if len(text) > MAX_NUMBER or not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if within(value) else None


def is_signed(text: bytes) -> bool:
    """Tell whether a gauge's value is by how much it moves, and not where it stands."""
    return text[:1] in (b"+", b"-")


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _split(head: bytes) -> tuple[bytes, bytes | None]:
    """Divide what stands before the first ``|`` into the name and its values; ``None``: there are none."""
    end = head.find(b":")
    while 0 <= end <= MAX_NAME and head[end + 1 : end + 2] == b":":
        end = head.find(b":", end + 2)
    return (head, None) if end < 0 else (head[:end], head[end + 1 :])


def _metric(kind: bytes, name: bytes, packed: bytes | None, sections: list[bytes]) -> Line | Rejection:
    weight, tags, timed = 1.0, b"", False
    seen = set()
    for section in sections:
        mark = b"card:" if section.startswith(b"card:") else section[:1]
        if mark in seen:
            return Rejection.SECTION
        seen.add(mark)
        if mark == b"@":
            rate = number(section[1:])
            if rate is None or not MIN_RATE <= rate <= 1:
                return Rejection.RATE
            weight = 1 / rate
        elif mark == b"#":
            tags = section[1:]
            if len(tags) > MAX_TAGS:
                return Rejection.LENGTH
        elif mark == b"T":
            if kind not in (COUNTER, GAUGE) or not _TIMESTAMP.fullmatch(section, 1):
                return Rejection.SECTION
            timed = True
        elif mark == b"card:":
            if section[5:] not in _CARDINALITIES:
                return Rejection.SECTION
        elif not section.startswith((b"c:", b"e:")):
            return Rejection.SECTION
    if packed is None or (kind == SET and not packed):
        return Rejection.VALUE
    values = [packed] if kind == SET else packed.split(b":")
    if len(values) > MAX_VALUES:
        return Rejection.LENGTH
    return Line(kind, name, tags, 1.0 if kind in (GAUGE, SET) else weight, tuple(values), timed)


def _event(line: bytes) -> Ignored | Rejection:
    """Tell whether the title and the text are as long as the event says."""
    found = _EVENT.match(line)
    if found is None:
        return Rejection.EVENT
    title = found.end() + int(found[1])
    text = title + 1 + int(found[2])
    whole = title > found.end() and line[title : title + 1] == b"|" and text <= len(line)
    return Ignored.EVENT if whole and line[text : text + 1] in (b"", b"|") else Rejection.EVENT
