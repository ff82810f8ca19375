"""Reads what Forewarn pushes by StatsD: by the written mapping alone, in code of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from exporter.catalogue import METRICS, SNAPSHOT_AGE, SNAPSHOT_METRICS, Kind

Key = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels of a series; a label that is empty is none."""

SYSTEMS = ("faktory", "franz")


def _labels() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for system in SYSTEMS:
        for metric in METRICS:
            has_server = metric is SNAPSHOT_AGE or metric in SNAPSHOT_METRICS
            labels = ("server", *metric.labels) if has_server else metric.labels
            name = metric.full_name(system)
            if metric.kind is Kind.HISTOGRAM:
                found |= {f"{name}_bucket": (*labels, "le"), f"{name}_count": labels, f"{name}_sum": labels}
            elif metric.kind is Kind.GAUGE_HISTOGRAM:
                found |= {f"{name}_bucket": (*labels, "le"), f"{name}_gcount": labels, f"{name}_gsum": labels}
            else:
                found[name] = labels
    return found


LABELS = _labels()
"""The labels of each name: a plain name has nothing but their values."""

_LINE = re.compile(rb"([^:|\n]+):([+-]?[0-9][0-9.e+-]*)\|([cg])(?:\|#([^|\n]+))?")


def unescaped_part(text: str) -> str:
    if text == "-":
        return ""
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text), f"not a part of a name: {text!r}"
    return re.sub(rb"-([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), text.encode()).decode()


def unescaped_tag(text: str) -> str:
    assert text, "a tag without a value"
    assert not re.search(r"[\x00-\x1f\x7f,|]", text), f"not the value of a tag: {text!r}"
    return re.sub(r"%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)


class Reader:
    """What a server knows of the packets that it took."""

    def __init__(self, *, tags: bool, limit: int = 1432) -> None:
        self.gauges: dict[Key, float] = {}
        self.counters: dict[Key, float] = {}
        self.packets = 0
        self.lines = 0
        self._tags = tags
        self._limit = limit

    @property
    def samples(self) -> dict[Key, float]:
        assert not self.gauges.keys() & self.counters.keys()
        return self.gauges | self.counters

    def take(self, packet: bytes) -> None:
        assert 0 < len(packet) <= self._limit
        self.packets += 1
        for line in packet.split(b"\n"):
            self.lines += 1
            key, value, kind = self.read(line)
            number = float(value)
            if kind == b"c":
                assert number >= 0
                self.counters[key] = self.counters.get(key, 0.0) + number
            elif value.startswith((b"+", b"-")):
                self.gauges[key] += number
            else:
                self.gauges[key] = number

    def take_all(self, packets: Iterable[bytes]) -> Reader:
        for packet in packets:
            self.take(packet)
        return self

    def read(self, line: bytes) -> tuple[Key, bytes, bytes]:
        found = _LINE.fullmatch(line)
        assert found, f"not a line: {line!r}"
        name, value, kind, tags = found.groups()
        if self._tags:
            pairs = [] if tags is None else [tag.split(":", 1) for tag in tags.decode().split(",")]
            labels = {label: unescaped_tag(text) for label, text in pairs}
            assert len(labels) == len(pairs)
            assert list(labels) == [label for label in LABELS[name.decode()] if label in labels]
            return (name.decode(), frozenset(labels.items())), value, kind
        assert tags is None
        first, *parts = name.decode().split(".")
        told = dict(zip(LABELS[first], map(unescaped_part, parts), strict=True))
        return (first, frozenset((label, text) for label, text in told.items() if text)), value, kind
