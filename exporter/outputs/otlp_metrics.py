"""The metrics of the catalogue over OTLP: the series of ``/metrics``, pushed. ``docs/otlp-metrics.md`` has the rule.

**Names and units.** A metric has the name that it has at ``/metrics``, and the unit in UCUM. The name ends in its unit
and, of a counter, in ``_total`` already, and what translates OTLP into Prometheus adds neither a second time: the same
name comes back.

**Kinds.** A gauge is a Gauge, a counter a monotonic cumulative Sum, a histogram a cumulative Histogram with explicit
bounds. OTLP has no gauge histogram: it becomes the gauges that text 0.0.4 has of it, ``_bucket`` with ``le``,
``_gcount`` and ``_gsum``, without a unit, which would be added behind these ends.

**Attributes** are the labels, ``server`` among them. Bytes that are no UTF-8 become question marks, as at ``/metrics``.

**Times.** A point of a server has the instant at which its snapshot was taken, by the wall clock of the sidecar: a
receiver compares it with its own clock, and that of a watched server may be wrong. A snapshot that the collector has is
not sent again: nothing new is known then, and only its age is, which always has the instant of the push, like all else
that the sidecar tells of itself. Exemplars keep the server's clock, which is that of the spans they lead to.

**Starts.** What the sidecar itself has counted since its process started has that as its start, or if it was not there
at the last push, that push: none had been counted. Whatever was counted before, or by the server, has no known start:
its first point starts when it was taken, which in OTLP says so and that nothing may be derived from its value alone. A
value below the last one was counted anew since the last push, so that this is its start. In between starts stay. The
last push is the last one that the collector took: it knows of no other.

**No cap.** Values go straight into what OpenTelemetry's encoder takes. Its aggregation, which folds all but 2,000 label
sets into one, takes no part.

Imported only where an endpoint is set.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Final, Protocol, cast

import msgspec
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import Exemplar as OtlpExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from exporter.catalogue import FROM_ZERO, Kind, Labels, Metric, Value, columns
from exporter.model import Distribution, Exemplar, Failure, Reason, Snapshot
from exporter.outputs.counting import CUMULATIVE, forgotten
from exporter.outputs.otlp_delivery import Delivery, Fate, OtlpCounts, OtlpTotals
from exporter.outputs.own import Further, nothing, own_columns
from exporter.outputs.prometheus import sections
from exporter.process_metrics import process_metrics

logger = logging.getLogger("forewarn.otlp")

POINTS_PER_REQUEST: Final = 2000
"""Most points of one request: the encoder copies it in one go, which holds the interpreter for 1 to 3 ms."""

FIRST_PUSH: Final = 2.0
"""Seconds after the start until the first push, so that the first polls have ended."""

UNITS: Final[Mapping[str, str]] = {"": "", "seconds": "s", "bytes": "By", "ratio": "1"}
"""The catalogue's units in UCUM."""

_LARGEST: Final = 2**63 - 1
_TEMPORALITY: Final = AggregationTemporality.CUMULATIVE
_UNKNOWN: Final = cast("float", None)  # no minimum and no maximum: the encoder leaves them out


class Request(msgspec.Struct, frozen=True):
    """One encoded ``ExportMetricsServiceRequest``."""

    body: bytes
    points: int


class Counters(msgspec.Struct, frozen=True):
    """What was told of one cumulative metric, by label values."""

    starts: Mapping[Labels, int]
    """In Unix nanoseconds."""
    values: Mapping[Labels, float]
    """Of a histogram the counts."""


class ToldSnapshot(msgspec.Struct, frozen=True):
    """What must be kept of the last snapshot of a server that the collector has, until the next one."""

    taken_at: float
    at: int
    """The same instant by the wall clock, in Unix nanoseconds."""
    counters: Mapping[str, Counters]
    """By the name of their metric in the catalogue."""


class Column(msgspec.Struct, frozen=True):
    """All series of one OTLP metric."""

    name: str
    help: str
    unit: str
    kind: Kind
    """Never a gauge histogram."""
    bounds: Sequence[float]
    """Of a histogram."""
    labels: tuple[str, ...]
    fixed: Mapping[str, str]
    """Further attributes that all of them have."""
    keys: Sequence[Labels]
    values: Sequence[Value]
    starts: Sequence[int]
    """In Unix nanoseconds; empty for gauges."""
    at: int
    """In Unix nanoseconds."""


# --- what is told -----------------------------------------------------------------------------------------------------


def of_snapshot(
    snapshot: Snapshot, at: int, since: int, told: ToldSnapshot | None
) -> tuple[list[Column], ToldSnapshot]:
    """Return all that ``snapshot`` tells, and what the next one needs once the collector has it.

    Args:
        snapshot: What is known of a server.
        at: When it was taken, by the wall clock in Unix nanoseconds.
        since: When the sidecar's process started, by the same clock.
        told: What is kept of the last snapshot that the collector has.
    """
    fixed = {"server": _text(snapshot.server)}
    found: list[Column] = []
    counters: dict[str, Counters] = {}
    for metric, keys, values in columns(snapshot):
        starts: Sequence[int] = ()
        if metric.kind in CUMULATIVE:
            counts = [it.count if isinstance(it, Distribution) else it for it in values]
            starts = _starts(metric, keys, counts, at, since, told)
            counters[metric.name] = _kept(metric, keys, starts, counts, told)
        if keys:
            found += _columns(metric, metric.full_name(snapshot.system), metric.labels, keys, values, fixed, starts, at)
        time.sleep(0)  # lets the event loop have the interpreter
    return found, ToldSnapshot(snapshot.taken_at, at, counters)


def of_sidecar(
    version: str, snapshots: Iterable[Snapshot], now: float, told: Further, at: int, since: int
) -> list[Column]:
    """Return what :func:`~exporter.outputs.own.own_columns` yields, at the wall clock's ``at`` in Unix nanoseconds."""
    return [
        column
        for metric, labels, keys, values in own_columns(version, snapshots, now, told)
        for column in _columns(metric, metric.name, labels, keys, values, {}, [min(since, at)] * len(keys), at)
    ]


def _starts(
    metric: Metric, keys: Sequence[Labels], counts: Sequence[float], at: int, since: int, told: ToldSnapshot | None
) -> list[int]:
    known = told.counters.get(metric.name) if told else None
    # What was not there at the last push had counted nothing then, or nobody knows what it had.
    new = at if metric.name not in FROM_ZERO else told.at if told else since
    # No start is after its point: where the wall clock was set back, nothing is known of the start any more.
    if told is None or known is None:
        return [min(new, at)] * len(keys)
    started, last = known.starts, known.values
    return [
        min(at, new if key not in started else told.at if count < last[key] else started[key])
        for key, count in zip(keys, counts, strict=True)
    ]


def _kept(
    metric: Metric, keys: Sequence[Labels], starts: Sequence[int], counts: Sequence[float], told: ToldSnapshot | None
) -> Counters:
    before = told.counters.get(metric.name) if told else None
    if before is None or forgotten(metric):
        before = Counters({}, {})
    return Counters(
        {**before.starts, **dict(zip(keys, starts, strict=True))},
        {**before.values, **dict(zip(keys, counts, strict=True))},
    )


def _columns(
    metric: Metric,
    name: str,
    labels: tuple[str, ...],
    keys: Sequence[Labels],
    values: Sequence[Value],
    fixed: Mapping[str, str],
    starts: Sequence[int],
    at: int,
) -> Iterator[Column]:
    def column(suffix: str, unit: str, labels: tuple[str, ...], keys: Sequence[Labels], its: Sequence[Value]) -> Column:
        kind = Kind.GAUGE if metric.kind is Kind.GAUGE_HISTOGRAM else metric.kind
        return Column(
            name=name + suffix,
            help=metric.help,
            unit=unit,
            kind=kind,
            bounds=[float(bound) for bound in metric.buckets] if kind is Kind.HISTOGRAM else (),
            labels=labels,
            fixed=fixed,
            keys=keys,
            values=its,
            starts=() if kind is Kind.GAUGE else starts,
            at=at,
        )

    if metric.kind is not Kind.GAUGE_HISTOGRAM:
        yield column("", UNITS[metric.unit], labels, keys, values)
        return
    distributions = cast("Sequence[Distribution]", values)
    buckets, count, total = sections(metric, openmetrics=False)
    (suffix,) = {suffix for suffix, _ in buckets.samples}
    bounds = [le or "" for _, le in buckets.samples]
    yield column(
        suffix,
        "",
        (*labels, "le"),
        [(*key, le) for key in keys for le in bounds],
        list(chain.from_iterable(it.counts for it in distributions)),
    )
    yield column(count.suffix, "", labels, keys, [it.count for it in distributions])
    yield column(total.suffix, "", labels, keys, [it.sum for it in distributions])


# --- how it is encoded ------------------------------------------------------------------------------------------------


def requests(columns: Iterable[Column], resource: Resource, version: str) -> Iterator[Request]:
    """Encode ``columns`` into requests of at most :data:`POINTS_PER_REQUEST` points, each when it is asked for."""
    scope = InstrumentationScope("forewarn", version)
    metrics: list[OtlpMetric] = []
    room = POINTS_PER_REQUEST
    for column in columns:
        start = 0
        while start < len(column.keys):
            if not room:
                yield _request(metrics, resource, scope, POINTS_PER_REQUEST)
                metrics, room = [], POINTS_PER_REQUEST
            end = min(start + room, len(column.keys))
            time.sleep(0)  # lets the event loop have the interpreter
            metrics.append(_metric(column, start, end))
            room -= end - start
            start = end
    if metrics:
        yield _request(metrics, resource, scope, POINTS_PER_REQUEST - room)


def _request(metrics: list[OtlpMetric], resource: Resource, scope: InstrumentationScope, points: int) -> Request:
    data = MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], resource.schema_url)])
    return Request(encode_metrics(data).SerializeToString(), points)


def _metric(column: Column, start: int, end: int) -> OtlpMetric:
    keys, values, starts = column.keys[start:end], column.values[start:end], column.starts[start:end]
    attributes = [
        {**column.fixed, **dict(zip(column.labels, map(_text, key), strict=True))} if key else column.fixed
        for key in keys
    ]
    data: Gauge | Sum | Histogram
    if column.kind is Kind.HISTOGRAM:
        distributions = cast("Sequence[Distribution]", values)
        data = Histogram(
            [
                HistogramDataPoint(
                    attributes=its,
                    start_time_unix_nano=since,
                    time_unix_nano=column.at,
                    count=it.count,
                    sum=it.sum,
                    bucket_counts=[upto - below for below, upto in pairwise((0, *it.counts))],
                    explicit_bounds=column.bounds,
                    min=_UNKNOWN,
                    max=_UNKNOWN,
                    exemplars=[_exemplar(exemplar) for _, exemplar in it.exemplars],
                )
                for its, it, since in zip(attributes, distributions, starts, strict=True)
            ],
            _TEMPORALITY,
        )
    else:
        points = [
            NumberDataPoint(
                its, since, column.at, value if isinstance(value, float) or value <= _LARGEST else float(value)
            )
            for its, value, since in zip(
                attributes, cast("Sequence[float]", values), starts or [0] * len(keys), strict=True
            )
        ]
        data = Gauge(points) if column.kind is Kind.GAUGE else Sum(points, _TEMPORALITY, is_monotonic=True)
    return OtlpMetric(column.name, column.help, column.unit, data)


def _exemplar(exemplar: Exemplar) -> OtlpExemplar:
    return OtlpExemplar(
        filtered_attributes={},
        value=exemplar.value,
        time_unix_nano=nanoseconds(exemplar.at),
        span_id=int(exemplar.span_id, 16),
        trace_id=int(exemplar.trace_id, 16),
    )


def nanoseconds(at: float) -> int:
    """Return Unix seconds in nanoseconds, as far as 64 bits go; 0 before 1970."""
    return min(max(int(at * 1e9), 0), _LARGEST)


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


# --- when it is sent --------------------------------------------------------------------------------------------------


class Sender(Protocol):
    """Brings one request to the collector, within a deadline of its own."""

    async def post(self, body: bytes) -> Delivery:
        """Send an encoded request and tell what became of it. Raises nothing but cancellation."""
        ...


class _Part(msgspec.Struct, frozen=True):
    """What is pushed of one server, or of the sidecar itself."""

    columns: Sequence[Column]
    points: int
    server: str | None
    told: ToldSnapshot | None


class MetricsOutput:
    """Pushes the newest snapshots at every interval.

    What could not be sent is dropped: the next push tells what is known then. For use in one event loop; all work that
    grows with the number of series is done in a thread.
    """

    def __init__(
        self,
        sender: Sender,
        newest: Callable[[], Mapping[str, Snapshot | None]],
        *,
        interval: float,
        version: str,
        resource: Resource,
        told: Further = nothing,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``interval`` is in seconds; ``clock`` is the one that snapshots are taken by, ``wall`` tells Unix time.

        ``newest`` tells the newest snapshot of each server, ``told`` what else of the sidecar itself is to be told.
        """
        self._counts = OtlpCounts("metrics")
        self._pushing = asyncio.Lock()
        self._sender = sender
        self._newest = newest
        self._interval = interval
        self._version = version
        self._resource = resource
        self._told = told
        self._clock = clock
        self._wall = wall
        self._since = nanoseconds(process_metrics().get("process_start_time_seconds", wall()))
        self._known: dict[str, ToldSnapshot] = {}
        self._broken = False

    def turn(self, sender: Sender, interval: float) -> None:
        """Push by another sender from the next request on, and at another interval from the next push on."""
        self._sender = sender
        self._interval = interval

    def forget(self, servers: Iterable[str]) -> None:
        """Forget what was told of servers that are watched no more."""
        for server in servers:
            self._known.pop(server, None)

    async def sent(self) -> None:
        """Return when no push is under way."""
        async with self._pushing:
            pass

    def totals(self) -> OtlpTotals:
        """Return the counts so far, in data points. Safe in any thread."""
        return self._counts.totals()

    async def run(self) -> None:
        """Push for ever, the first time soon after the start, until cancelled."""
        await asyncio.sleep(min(FIRST_PUSH, self._interval))
        while True:
            started = self._clock()
            pause = await self._push_within(self._interval)
            await asyncio.sleep(max(pause, started + self._interval - self._clock()))

    async def flush(self, deadline: float) -> None:
        """Push what is known now, whatever the collector does within ``deadline`` seconds and never longer."""
        await self._push_within(deadline)

    async def _push_within(self, deadline: float) -> float:
        try:
            async with asyncio.timeout(deadline), self._pushing:
                pause = await self._push()
        except TimeoutError:
            self._counts.settle(_too_slow(deadline), 0)
            return 0.0
        except Exception:
            # A defect of ours in one push must not end all of them.
            if not self._broken:
                logger.exception("push of metrics failed by a defect of Forewarn")
            self._broken = True
            return 0.0
        self._broken = False
        return pause

    async def _push(self) -> float:
        """Return for how many seconds the collector wants to be left alone."""
        parts = await asyncio.to_thread(self._parts, self._newest(), self._clock(), self._wall())
        left = sum(part.points for part in parts)
        try:
            for part in parts:
                sent = True
                encoding = requests(part.columns, self._resource, self._version)
                while (request := await asyncio.to_thread(next, encoding, None)) is not None:
                    delivery = await self._sender.post(request.body)
                    self._counts.settle(delivery, request.points)
                    if delivery.fate is Fate.AGAIN:
                        return delivery.retry_after or 0.0
                    left -= request.points
                    sent = sent and delivery.fate is Fate.SENT
                if sent and part.server is not None and part.told is not None:
                    self._known[part.server] = part.told
        finally:
            self._counts.drop(left)
        return 0.0

    def _parts(self, newest: Mapping[str, Snapshot | None], now: float, wall: float) -> list[_Part]:
        snapshots = [it for it in newest.values() if it is not None]
        own = of_sidecar(self._version, snapshots, now, self._told, nanoseconds(wall), self._since)
        parts = [_part(own, None, None)]
        for snapshot in snapshots:
            known = self._known.get(snapshot.server)
            if known is None or known.taken_at != snapshot.taken_at:
                at = nanoseconds(wall - (now - snapshot.taken_at))
                parts.append(_part(*of_snapshot(snapshot, at, self._since, known), snapshot.server))
        return parts


def _part(columns: Sequence[Column], told: ToldSnapshot | None, server: str | None) -> _Part:
    return _Part(columns, sum(len(column.keys) for column in columns), server, told)


def _too_slow(deadline: float) -> Delivery:
    message = f"metrics were not all sent within {deadline:g} s: is the collector slow, or the interval too short?"
    return Delivery(Fate.AGAIN, Failure(Reason.TIMEOUT, message))
