"""Snapshots as Prometheus text 0.0.4 and OpenMetrics 1.0.

The lines of a server are rendered once per poll, from line templates that are kept from one render to the next. Both
formats share them, and every scrape until the next poll shares the joined and compressed result: a scrape itself
renders only the few series that change with time.

Exemplars are in OpenMetrics alone: text 0.0.4 has no place for them.
"""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import cast

import msgspec

from exporter.catalogue import (
    SNAPSHOT_METRICS,
    Kind,
    Labels,
    Metric,
    Value,
    columns,
)
from exporter.model import Distribution, Exemplar, Snapshot
from exporter.outputs.own import Further, nothing, own_columns

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

LINES_PER_PIECE = 4000
"""How many lines one call into C renders: bounds how long other threads wait for the interpreter."""

BYTES_PER_PART = 1 << 16
"""Least size of the parts of a body, but for its last ones."""

GZIP_LEVEL = 1
"""Level 9 makes it a tenth smaller in six times the time."""


class Section(msgspec.Struct, frozen=True):
    """A run of lines under one ``# TYPE``. A gauge histogram has three of them in text 0.0.4, else it is one."""

    suffix: str
    kind: str
    samples: tuple[tuple[str, str | None], ...]
    """For each line of one series: the end of its name and its ``le``."""


def sections(metric: Metric, *, openmetrics: bool) -> tuple[Section, ...]:
    """Return how the lines of ``metric`` are laid out in a format.

    ``le`` is written as OpenMetrics demands (``1.0``) in both formats, so that a series is the same whatever the
    scraper asked for.
    """
    if not metric.buckets:
        return (Section("", metric.kind, (("", None),)),)
    buckets = (*(("_bucket", repr(float(bound))) for bound in metric.buckets), ("_bucket", "+Inf"))
    if metric.kind is Kind.HISTOGRAM:
        return (Section("", metric.kind, (*buckets, ("_count", None), ("_sum", None))),)
    if openmetrics:
        return (Section("", metric.kind, (*buckets, ("_gcount", None), ("_gsum", None))),)
    # Text 0.0.4 has no gauge histograms: the series keep their names, so their types are told apart.
    return (
        Section("", Kind.HISTOGRAM, buckets),
        Section("_gcount", Kind.GAUGE, (("", None),)),
        Section("_gsum", Kind.GAUGE, (("", None),)),
    )


def header(name: str, metric: Metric, section: Section, *, openmetrics: bool) -> bytes:
    """Return the lines that stand before the samples of a section."""
    name += section.suffix
    if openmetrics and metric.kind is Kind.COUNTER:
        name = name.removesuffix("_total")
    text = f"# HELP {name} {metric.help}\n# TYPE {name} {section.kind}\n"
    if openmetrics and metric.unit:
        text += f"# UNIT {name} {metric.unit}\n"
    return text.encode()


def sample_names(name: str, metric: Metric) -> frozenset[str]:
    """Return every name by which a ``name[]`` filter may ask for a metric."""
    samples = {name + suffix for section in sections(metric, openmetrics=True) for suffix, _ in section.samples}
    return frozenset({name, name.removesuffix("_total")} | samples)


def escaped(value: str) -> str:
    """Return a label value as it stands between the quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def label_text(names: Sequence[str], values: Sequence[str]) -> str:
    """Return ``a="x",b="y"``."""
    return ",".join([f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True)])


def number(value: float) -> bytes:
    """Return one number as both formats spell it: the shortest text that reads back to the same value."""
    if math.isfinite(value):
        return msgspec.json.encode(value)
    return b"NaN" if math.isnan(value) else b"+Inf" if value > 0 else b"-Inf"


def numbers(values: Sequence[float]) -> tuple[bytes, ...]:
    """Return what :func:`number` returns for each of ``values``, in a tenth of the time that ``repr`` takes."""
    if not values:
        return ()
    text = msgspec.json.encode(values)
    if b"n" in text:  # what is not finite is null in JSON
        return tuple(number(value) for value in values)
    return tuple(text[1:-1].split(b","))


def series_per_piece(samples: int) -> int:
    """Return how many series of so many lines each are rendered in one go."""
    return max(1, LINES_PER_PIECE // samples)


class _Lines:
    """The lines of one section for one server: templates and pieces kept from the last render only."""

    def __init__(self, name: str, server: str, labels: tuple[str, ...], section: Section) -> None:
        self._name = name + section.suffix
        self._server = label_text(("server",), (server,))
        self._labels = labels
        self._samples = section.samples
        self._keys: Sequence[Labels] = []
        self._templates: list[bytes] = []
        self._joined: list[bytes] = []
        self._values: list[Sequence[float]] = []
        self._pieces: list[bytes] = []
        self._step = series_per_piece(len(section.samples))

    def render(self, keys: Sequence[Labels], values: Sequence[float]) -> tuple[bytes, ...]:
        """Return the lines in pieces; ``values`` holds for each of ``keys`` one value per sample, in their order."""
        if keys != self._keys:
            kept = dict(zip(self._keys, self._templates, strict=True))
            self._templates = [kept.get(key) or self._template(key) for key in keys]
            self._keys = keys
            self._joined = [b"".join(self._templates[i : i + self._step]) for i in range(0, len(keys), self._step)]
            self._values, self._pieces = [], []
        width = len(self._samples)
        values_now, pieces_now = [], []
        for index, template in enumerate(self._joined):
            if index:
                time.sleep(0)  # lets the event loop have the interpreter
            part = values[index * self._step * width : (index + 1) * self._step * width]
            kept_piece = index < len(self._pieces) and part == self._values[index]
            values_now.append(part)
            pieces_now.append(self._pieces[index] if kept_piece else template % numbers(part))
        self._values, self._pieces = values_now, pieces_now
        return tuple(pieces_now)

    def _template(self, key: Labels) -> bytes:
        labels = ",".join((self._server, label_text(self._labels, key))) if key else self._server
        lines = []
        for suffix, le in self._samples:
            bound = "" if le is None else f',le="{le}"'
            lines.append(f"{self._name}{suffix}{{{labels}{bound}}}".replace("%", "%%") + " %b\n")
        return "".join(lines).encode("utf-8", "replace")


_Pieces = tuple[bytes, ...]

_Exemplars = tuple[tuple[int, Exemplar], ...]
"""Those of one series, each with the index of its bucket, which is also that of its line."""


def exemplar_text(exemplar: Exemplar) -> bytes:
    """Return what stands behind the value of a bucket that has an exemplar; its time is by the server's clock."""
    # Ids are hexadecimal digits. Prometheus keeps milliseconds, and not every parser takes a time with an exponent.
    ids = f'trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"'
    return f" # {{{ids}}} {exemplar.value!r} {exemplar.at:.3f}".encode("utf-8", "replace")


class _Marked(msgspec.Struct, frozen=True):
    """A piece of a histogram's lines, and the same with its exemplars."""

    plain: bytes
    exemplars: Sequence[_Exemplars]
    texts: Mapping[Exemplar, bytes]
    lines: bytes


class _ExemplarLines:
    """The lines of a histogram with exemplars behind some: kept from the last render where nothing changed."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._step = series_per_piece(samples)
        self._kept: list[_Marked] = []

    def render(self, pieces: _Pieces, exemplars: Sequence[_Exemplars]) -> _Pieces:
        """Return ``pieces`` with the exemplars of each of their series."""
        kept, self._kept = self._kept, []
        for index, plain in enumerate(pieces):
            part = exemplars[index * self._step : (index + 1) * self._step]
            if index < len(kept) and kept[index].plain is plain and kept[index].exemplars == part:
                self._kept.append(kept[index])
                continue
            time.sleep(0)  # lets the event loop have the interpreter
            known = kept[index].texts if index < len(kept) else {}
            texts = {it: known.get(it) or exemplar_text(it) for its in part for _, it in its}
            self._kept.append(_Marked(plain, part, texts, self._mark(plain, part, texts) if texts else plain))
        return tuple([it.lines for it in self._kept])

    def _mark(self, plain: bytes, exemplars: Sequence[_Exemplars], texts: Mapping[Exemplar, bytes]) -> bytes:
        lines = plain.split(b"\n")
        for position, its in enumerate(exemplars):
            for index, exemplar in its:
                lines[position * self._samples + index] += texts[exemplar]
        return b"\n".join(lines)


class _Family(msgspec.Struct, frozen=True):
    """One metric's lines for one server, by section, in pieces."""

    text: tuple[_Pieces, ...]
    openmetrics: tuple[_Pieces, ...]


class _FamilyLines:
    """What is kept of one metric of one server from one render to the next."""

    def __init__(self, metric: Metric, snapshot: Snapshot) -> None:
        name = metric.full_name(snapshot.system)
        self._metric = metric
        self._text, self._openmetrics = (
            [_Lines(name, snapshot.server, metric.labels, it) for it in sections(metric, openmetrics=openmetrics)]
            for openmetrics in (False, True)
        )
        self._exemplars = _ExemplarLines(len(metric.buckets) + 3)

    def render(self, keys: Sequence[Labels], values: Sequence[Value]) -> _Family:
        if not self._metric.buckets:
            lines = (self._text[0].render(keys, cast("Sequence[float]", values)),)
            return _Family(lines, lines)
        distributions = cast("Sequence[Distribution]", values)
        together: list[float] = []
        marked = False
        for it in distributions:
            together += it.counts
            together += (it.count, it.sum)
            marked |= it.exemplars != ()
        if len(together) != len(keys) * (len(self._metric.buckets) + 3):
            raise ValueError(f"{self._metric.name} needs {len(self._metric.buckets) + 1} counts for each series")
        lines = (self._openmetrics[0].render(keys, together),)
        if self._metric.kind is Kind.HISTOGRAM:
            if not marked:
                return _Family(lines, lines)
            return _Family(lines, (self._exemplars.render(lines[0], [it.exemplars for it in distributions]),))
        apart: tuple[list[float], ...] = (
            [count for it in distributions for count in it.counts],
            [it.count for it in distributions],
            [it.sum for it in distributions],
        )
        return _Family(tuple(it.render(keys, part) for it, part in zip(self._text, apart, strict=True)), lines)


class _Rendered(msgspec.Struct, frozen=True):
    """One server's newest snapshot, and its families by the name of their metric."""

    snapshot: Snapshot
    families: Mapping[str, _Family]


class _ServerLines:
    """What is kept of one server from one render to the next."""

    def __init__(self) -> None:
        self._families: dict[str, _FamilyLines] = {}

    def render(self, snapshot: Snapshot) -> _Rendered:
        kept: dict[str, _FamilyLines] = {}
        families = {}
        for metric, keys, values in columns(snapshot):
            if keys:
                lines = self._families.get(metric.name) or _FamilyLines(metric, snapshot)
                kept[metric.name] = lines
                families[metric.name] = lines.render(keys, values)
        self._families = kept
        return _Rendered(snapshot, families)


class _Form(msgspec.Struct, frozen=True):
    """The main part of a body in one format and encoding; ``compressor`` has taken it in and can go on from there."""

    parts: _Pieces
    compressor: zlib._Compress | None


class _Page:
    """All servers' lines between two updates. Never changes, but makes each form once when it is first asked for."""

    def __init__(self, servers: Mapping[str, _Rendered]) -> None:
        self.servers = servers
        self._forms: dict[tuple[bool, bool], _Form] = {}
        self._lock = threading.Lock()

    def built(self, *, openmetrics: bool, gzip: bool) -> bool:
        return (openmetrics, gzip) in self._forms

    def form(self, *, openmetrics: bool, gzip: bool) -> _Form:
        with self._lock:
            form = self._forms.get((openmetrics, gzip))
            if form is None:
                form = _form(self._pieces(openmetrics=openmetrics, names=None), gzip=gzip)
                self._forms[openmetrics, gzip] = form
            return form

    def filtered(self, names: frozenset[str], *, openmetrics: bool, gzip: bool) -> _Form:
        return _form(self._pieces(openmetrics=openmetrics, names=names), gzip=gzip)

    def _pieces(self, *, openmetrics: bool, names: frozenset[str] | None) -> Iterator[bytes]:
        for metric in SNAPSHOT_METRICS:
            # A family is written once: the lines of all servers that share its name stand under one header.
            sharing: dict[str, list[_Family]] = {}
            for server in self.servers.values():
                family = server.families.get(metric.name)
                if family is not None:
                    sharing.setdefault(metric.full_name(server.snapshot.system), []).append(family)
            for name, families in sharing.items():
                if not _wanted(name, metric, names):
                    continue
                for index, section in enumerate(sections(metric, openmetrics=openmetrics)):
                    yield header(name, metric, section, openmetrics=openmetrics)
                    for family in families:
                        yield from (family.openmetrics if openmetrics else family.text)[index]


class Exposition:
    """The newest snapshots of all servers as they are scraped.

    :meth:`update` may run in a worker thread, for one server in one thread at a time; everything else may be called
    from any thread at any time. ``told`` tells what else of the sidecar itself is to be exposed.
    """

    def __init__(self, version: str, told: Further = nothing) -> None:
        self._version = version
        self._told = told
        self._lines: dict[str, _ServerLines] = {}
        self._page = _Page({})
        self._lock = threading.Lock()

    def update(self, snapshot: Snapshot) -> None:
        """Render ``snapshot`` in place of the one before of the same server."""
        with self._lock:
            lines = self._lines.setdefault(snapshot.server, _ServerLines())
        rendered = lines.render(snapshot)
        with self._lock:
            self._page = _Page({**self._page.servers, snapshot.server: rendered})

    def retain(self, servers: Container[str]) -> None:
        """Forget all other servers. Not to be called while one of them is updated."""
        with self._lock:
            self._lines = {name: lines for name, lines in self._lines.items() if name in servers}
            self._page = _Page({name: its for name, its in self._page.servers.items() if name in servers})

    def built(self, *, openmetrics: bool, gzip: bool) -> bool:
        """Whether :meth:`parts` without a filter has little left to do: else it may take tens of milliseconds."""
        return self._page.built(openmetrics=openmetrics, gzip=gzip)

    def parts(
        self, now: float, *, openmetrics: bool = False, gzip: bool = False, names: frozenset[str] | None = None
    ) -> tuple[bytes, ...]:
        """Return a body in parts, most of which are shared with other scrapes.

        ``now`` is by the sidecar's monotonic clock. With ``names`` only the families with such a name, or with a
        sample of such a name, are in it.
        """
        page = self._page
        if names is None:
            form = page.form(openmetrics=openmetrics, gzip=gzip)
        else:
            form = page.filtered(names, openmetrics=openmetrics, gzip=gzip)
        tail = b"".join(self._tail(page, now, openmetrics=openmetrics, names=names))
        if form.compressor is None:
            return (*form.parts, tail)
        compressor = form.compressor.copy()
        return (*form.parts, compressor.compress(tail) + compressor.flush(zlib.Z_FINISH))

    def body(
        self, now: float, *, openmetrics: bool = False, gzip: bool = False, names: frozenset[str] | None = None
    ) -> bytes:
        """Return what :meth:`parts` returns, in one piece."""
        return b"".join(self.parts(now, openmetrics=openmetrics, gzip=gzip, names=names))

    def _tail(self, page: _Page, now: float, *, openmetrics: bool, names: frozenset[str] | None) -> Iterator[bytes]:
        servers = [it.snapshot for it in page.servers.values()]
        for metric, labels, keys, values in own_columns(self._version, servers, now, self._told):
            if _wanted(metric.name, metric, names):
                (section,) = sections(metric, openmetrics=openmetrics)
                yield header(metric.name, metric, section, openmetrics=openmetrics)
                for key, value in zip(keys, cast("Sequence[float]", values), strict=True):
                    shown = f"{{{label_text(labels, key)}}}" if key else ""
                    yield f"{metric.name}{shown} ".encode("utf-8", "replace") + number(value) + b"\n"
        if openmetrics:
            yield b"# EOF\n"


def _wanted(name: str, metric: Metric, names: frozenset[str] | None) -> bool:
    return names is None or not names.isdisjoint(sample_names(name, metric))


def _form(pieces: Iterable[bytes], *, gzip: bool) -> _Form:
    if not gzip:
        return _Form(tuple(_packed(pieces)), None)
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=31)
    parts = [compressor.compress(part) for part in _packed(pieces)]
    # Flushed, so that what the compressor still holds back is not compressed anew with each tail.
    parts.append(compressor.flush(zlib.Z_SYNC_FLUSH))
    return _Form(tuple(_packed(parts)), compressor)


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces, so that each part is worth a system call."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= BYTES_PER_PART:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
