"""OTLP metrics: the series of ``/metrics``, by the rule in docs/otlp-metrics.md, and when they are pushed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.sdk.resources import Resource

from exporter.catalogue import METRICS, Kind
from exporter.model import (
    DURATION_BUCKETS,
    BusyVerdict,
    Distribution,
    ExecutionsVerdict,
    Failure,
    Health,
    Queue,
    QueuesVerdict,
    Reason,
    Snapshot,
)
from exporter.outputs import otlp_metrics
from exporter.outputs.otlp import OtlpSender
from exporter.outputs.otlp_delivery import Delivery, Fate
from exporter.outputs.otlp_metrics import POINTS_PER_REQUEST, MetricsOutput, Request, of_sidecar, of_snapshot, requests
from exporter.outputs.prometheus import Exposition
from exporter.settings import OtlpTarget
from tests import receiver as misbehaviour
from tests.collector import Collector
from tests.receiver import receiving
from tests.servers import wait_until
from tests.snapshots import HOSTILE, NOW, distribution, empty, exemplar, full, names, pushes, snapshots
from tests.test_prometheus_output import Samples, expected, parsed, read_back

replace = msgspec.structs.replace
Points = dict[tuple[str, frozenset[tuple[str, str]]], Any]
"""By name and attributes: the decoded points."""

RESOURCE = Resource({"service.name": "forewarn"})
PROCESS_START = 5 * 10**9
AT = int(NOW) * 10**9


def encoded(*given: Snapshot, now: float = 100.0) -> list[Request]:
    """One push of all that is known."""
    columns = of_sidecar("1.2.3", given, now, pushes, AT, PROCESS_START)
    for snapshot in given:
        columns += of_snapshot(snapshot, AT, PROCESS_START, None)[0]
    return list(requests(columns, RESOURCE, "1.2.3"))


def decoded(bodies: Iterable[bytes]) -> list[pb.Metric]:
    return [
        metric
        for body in bodies
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def metrics(*given: Snapshot) -> dict[str, pb.Metric]:
    """The metrics of one push by their name: small ones, of which none is in two requests."""
    found = decoded(request.body for request in encoded(*given))
    assert len({metric.name for metric in found}) == len(found) or len(given) > 1
    return {metric.name: metric for metric in found}


def points_of(metric: pb.Metric) -> Sequence[Any]:
    kind = metric.WhichOneof("data")
    assert kind in {"gauge", "sum", "histogram"}
    points: Sequence[Any] = getattr(metric, kind).data_points
    return points


def attributes(point: Any) -> frozenset[tuple[str, str]]:
    assert all(it.value.WhichOneof("value") == "string_value" for it in point.attributes)
    return frozenset((it.key, it.value.string_value) for it in point.attributes)


def number(point: pb.NumberDataPoint) -> float:
    return point.as_int if point.WhichOneof("value") == "as_int" else point.as_double


def as_samples(found: Iterable[pb.Metric]) -> Samples:
    """The samples that Prometheus makes of them."""
    pairs: list[tuple[tuple[str, frozenset[tuple[str, str]]], float]] = []
    for metric in found:
        for point in points_of(metric):
            labels = attributes(point)
            if metric.WhichOneof("data") != "histogram":
                pairs.append(((metric.name, labels), number(point)))
                continue
            total = 0
            bounds = [*map(str, point.explicit_bounds), "+Inf"]
            for bound, count in zip(bounds, point.bucket_counts, strict=True):
                total += count
                pairs.append(((f"{metric.name}_bucket", labels | {("le", bound)}), total))
            pairs += [((f"{metric.name}_count", labels), point.count), ((f"{metric.name}_sum", labels), point.sum)]
    assert [key for key, times in Counter(key for key, _ in pairs).items() if times > 1] == []
    return dict(pairs)


def scraped(*given: Snapshot, now: float = 100.0) -> Samples:
    exposition = Exposition("1.2.3", pushes)
    for snapshot in given:
        exposition.update(snapshot)
    return read_back(parsed(exposition.body(now, openmetrics=True), openmetrics=True))


def steady(samples: Samples) -> Samples:
    """All samples, but of those of the process, which change all the time, not the values."""
    return {key: 0 if key[0].startswith("process_") else float(value) for key, value in samples.items()}


class TestTheSameAsScraped:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_any_snapshot_has_the_same_names_labels_and_values(self, data: st.DataObject) -> None:
        one = data.draw(snapshots(data.draw(names)))
        assert steady(as_samples(decoded(it.body for it in encoded(one)))) == steady(scraped(one))

    def test_a_snapshot_with_every_metric_has_the_same_names_labels_and_values(self) -> None:
        given = full("a", size=3), full('b"\n\\', "franz"), empty("c")
        told = steady(as_samples(decoded(it.body for it in encoded(*given))))
        assert told == steady(scraped(*given))
        names = {name for name, _ in told}
        assert [
            metric.name
            for metric in METRICS
            if not {metric.full_name("faktory") + end for end in ("", "_count", "_gcount")} & names
        ] == []

    def test_before_the_first_poll_only_the_sidecar_tells_of_itself(self) -> None:
        assert steady(as_samples(decoded(it.body for it in encoded()))) == steady(scraped())

    def test_bytes_that_are_no_text_become_question_marks(self, caplog: pytest.LogCaptureFixture) -> None:
        snapshot = replace(empty("\udcff"), queues=QueuesVerdict({"\ud800x": Queue(1)}, {}))
        (point,) = points_of(metrics(snapshot)["faktory_queue_jobs"])
        assert attributes(point) == {("server", "?"), ("queue", "?x")}
        assert caplog.records == []


class TestKinds:
    @pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
    def test_each_metric_is_of_its_kind_with_its_unit_and_meaning(self, metric: Any) -> None:
        found = metrics(full())
        ends = ("_bucket", "_gcount", "_gsum") if metric.kind is Kind.GAUGE_HISTOGRAM else ("",)
        kinds = {Kind.COUNTER: "sum", Kind.HISTOGRAM: "histogram"}
        units = {"seconds": "s", "bytes": "By", "ratio": "1", "": ""}
        for end in ends:
            told = found[metric.full_name("faktory") + end]
            assert told.WhichOneof("data") == kinds.get(metric.kind, "gauge")
            assert told.unit == ("" if end else units[metric.unit])
            assert told.description == metric.help

    def test_counters_are_monotonic_and_they_and_histograms_cumulative(self) -> None:
        found = metrics(full())
        sums = [metric.sum for metric in found.values() if metric.HasField("sum")]
        assert {(it.is_monotonic, it.aggregation_temporality) for it in sums} == {
            (True, pb.AGGREGATION_TEMPORALITY_CUMULATIVE)
        }
        histograms = [metric.histogram for metric in found.values() if metric.HasField("histogram")]
        assert {it.aggregation_temporality for it in histograms} == {pb.AGGREGATION_TEMPORALITY_CUMULATIVE}

    def test_a_histogram_has_the_count_of_each_bucket_alone_and_no_extremes(self) -> None:
        durations = {("q", "J"): distribution(DURATION_BUCKETS, [0.5, 0.6, 40, 100_000])}
        found = metrics(replace(empty(), busy=BusyVerdict(None, None, durations)))
        (point,) = points_of(found["faktory_job_duration_seconds"])
        assert list(point.explicit_bounds) == list(DURATION_BUCKETS)
        assert list(point.bucket_counts) == [1, 1, 0, 0, 0, 0, 1, *[0] * 8, 1]
        assert (point.count, point.sum) == (4, 100_041.1)
        assert not point.HasField("min")
        assert not point.HasField("max")

    def test_exemplars_lead_to_their_spans(self) -> None:
        verdict = ExecutionsVerdict((), {}, {("queue-1", "Job1"): (exemplar(40, "a1"), exemplar(100_000, "b2"))})
        points = points_of(metrics(replace(full(), executions=verdict))["faktory_job_duration_seconds"])
        told = {dict(attributes(point))["queue"]: list(point.exemplars) for point in points}
        assert [
            (it.trace_id.hex(), it.span_id.hex(), it.as_double, it.as_int, it.time_unix_nano) for it in told["queue-1"]
        ] == [
            ("a1".ljust(32, "0"), "c" * 16, 0.0, 40, int((NOW - 5) * 1e9)),
            ("b2".ljust(32, "0"), "c" * 16, 0.0, 100_000, int((NOW - 5) * 1e9)),
        ]
        assert told[HOSTILE] == []

    @pytest.mark.parametrize(("given", "told"), [(2**63 - 1, 2**63 - 1), (2**63, 2.0**63), (2**70, 2.0**70)])
    def test_a_number_of_more_than_64_bits_is_told_as_a_fraction(self, given: int, told: float) -> None:
        snapshot = replace(empty(), queues=QueuesVerdict({"q": Queue(given)}, {}))
        (point,) = points_of(metrics(snapshot)["faktory_queue_jobs"])
        assert number(point) == told


def renamed(name: str, unit: str, kind: str, *, escaping: bool) -> str:
    """What translators make of a name that add suffixes for the unit and the type.

    Those that escape look for a unit anywhere in the name, those that take UTF-8 at the name's end alone.
    """
    word = {"s": "seconds", "By": "bytes"}.get(unit, "")
    ending = "total" if kind == "sum" else "ratio" if kind == "gauge" and unit == "1" else ""
    parts = name.split("_")
    if escaping:
        if word and word not in parts:
            parts.append(word)
        if ending:
            parts = [*(part for part in parts if part != ending), ending]
        return "_".join(parts)
    if ending:
        name = name.removesuffix(f"_{ending}")
    if not name.endswith(word):
        name += f"_{word}"
    return f"{name}_{ending}" if ending else name


@pytest.mark.parametrize("escaping", [True, False])
def test_translated_to_prometheus_each_name_is_that_of_the_scrape(escaping: bool) -> None:
    found = metrics(full()).values()
    assert [
        metric.name
        for metric in found
        if renamed(metric.name, metric.unit, metric.WhichOneof("data") or "", escaping=escaping) != metric.name
    ] == []


class TestNoCap:
    @pytest.mark.parametrize("series", [13_000, 100_000])
    def test_no_series_is_missing(self, series: int) -> None:
        large = replace(
            full(size=500),
            queues=QueuesVerdict({f"queue-{number}": Queue(number) for number in range(series)}, {}),
        )
        (told,) = [of_snapshot(large, AT, PROCESS_START, None)[0]]
        its = list(requests(told, RESOURCE, "1"))
        assert as_samples(decoded(it.body for it in its)) == expected(large)
        assert max(it.points for it in its) == POINTS_PER_REQUEST
        assert len(its) > series / POINTS_PER_REQUEST

    def test_each_request_tells_how_many_points_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(otlp_metrics, "POINTS_PER_REQUEST", 7)
        its = encoded(full(size=5))
        counted = [sum(len(points_of(metric)) for metric in decoded([it.body])) for it in its]
        assert counted == [it.points for it in its]
        assert set(counted[:-1]) == {7}

    def test_the_largest_request_is_smaller_than_a_collector_takes(self) -> None:
        name = "😀" * 125
        one = Distribution((2**50,) * 16, 1e300)
        all_exemplars = tuple(exemplar(bound, "a1") for bound in (*DURATION_BUCKETS, 1e6))
        pairs = [(f"{number:03}"[:3] + name, name + f"{number // 1000:03}") for number in range(5001)]
        snapshot = replace(
            empty("😀" * 64),
            busy=BusyVerdict(None, None, dict.fromkeys(pairs, one)),
            executions=ExecutionsVerdict((), {}, dict.fromkeys(pairs, all_exemplars)),
        )
        assert max(len(it.body) for it in encoded(snapshot)) < 20 * 2**20


class TestTimes:
    def test_a_snapshot_has_the_instant_at_which_it_was_taken_and_the_sidecar_that_of_the_push(self) -> None:
        outcome = push([full(taken_at=95.0)], clock=100.0, wall=2000.0)
        assert {
            name: time for (name, _), time in times(outcome).items() if name in {"faktory_up", "process_open_fds"}
        } == {
            "faktory_up": 1995 * 10**9,
            "process_open_fds": 2000 * 10**9,
        }
        assert times(outcome)["forewarn_snapshot_age_seconds", frozenset({("server", "faktory")})] == 2000 * 10**9

    def test_the_servers_own_clock_moves_no_point(self) -> None:
        wrong = replace(full(taken_at=95.0), observation=replace(full().observation, now=NOW - 86400))
        outcome = push([wrong], clock=100.0, wall=2000.0)
        assert set(times(outcome).values()) == {1995 * 10**9, 2000 * 10**9}


def push(given: Sequence[Snapshot], *, clock: float, wall: float) -> list[pb.Metric]:
    collector = Recorder()
    output = output_to(collector, lambda: {it.server: it for it in given}, clock=lambda: clock, wall=lambda: wall)
    asyncio.run(output.flush(5))
    return decoded(collector.bodies)


def times(found: Iterable[pb.Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], int]:
    return {(metric.name, attributes(point)): point.time_unix_nano for metric in found for point in points_of(metric)}


class Recorder:
    """A collector that takes what it is sent, or answers as a test says."""

    def __init__(self, *answers: Delivery) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.before: Callable[[], Awaitable[object]] | None = None

    async def post(self, body: bytes) -> Delivery:
        self.bodies.append(body)
        if self.before is not None:
            await self.before()
        return self.answers.pop(0) if self.answers else SENT


SENT = Delivery(Fate.SENT)
AGAIN = Delivery(Fate.AGAIN, Failure(Reason.UNREACHABLE, "nobody is there"))
REJECTED = Delivery(Fate.REJECTED, Failure(Reason.SERVER, "no"))


def output_to(
    sender: otlp_metrics.Sender,
    newest: Callable[[], Mapping[str, Snapshot | None]],
    *,
    clock: Callable[[], float] = lambda: 100.0,
    wall: Callable[[], float] = lambda: NOW,
    interval: float = 60.0,
) -> MetricsOutput:
    return MetricsOutput(
        sender, newest, interval=interval, version="1.2.3", resource=RESOURCE, told=pushes, clock=clock, wall=wall
    )


class Life:
    """One server's snapshots, each pushed to a collector 10 s after the one before."""

    def __init__(self) -> None:
        self.collector = Recorder()
        self.now = 100.0
        self.wall = NOW
        self.snapshot: Snapshot | None = None
        self.output = output_to(
            self.collector, lambda: {"faktory": self.snapshot}, clock=lambda: self.now, wall=lambda: self.wall
        )

    async def push(self, snapshot: Snapshot, *answers: Delivery) -> dict[str, list[Any]]:
        """Push ``snapshot`` as one taken now; return the points that were sent by the name of their metric."""
        self.now += 10
        self.wall += 10
        self.snapshot = replace(snapshot, taken_at=self.now)
        return await self.again(*answers)

    async def again(self, *answers: Delivery) -> dict[str, list[Any]]:
        self.collector.answers = list(answers)
        self.collector.bodies.clear()
        await self.output.flush(5)
        found: dict[str, list[Any]] = {}
        for metric in decoded(self.collector.bodies):
            found.setdefault(metric.name, []).extend(points_of(metric))
        return found

    @property
    def at(self) -> int:
        return otlp_metrics.nanoseconds(self.wall)


def commands(count: int) -> Snapshot:
    return replace(empty(), observation=replace(empty().observation, health=Health("1.9.4", "oss", 1, count)))


def durations(**counts: int) -> Snapshot:
    its = {(queue, "J"): distribution(DURATION_BUCKETS, [1.0] * count) for queue, count in counts.items()}
    return replace(empty(), busy=BusyVerdict(None, None, its))


def of_queue(points: Sequence[Any], queue: str) -> Any:
    (point,) = [it for it in points if ("queue", queue) in attributes(it)]
    return point


@pytest.fixture
def started_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_metrics, "process_metrics", lambda: {"process_start_time_seconds": 5.0})


@pytest.mark.usefixtures("started_long_ago")
class TestStarts:
    async def test_what_the_server_counted_starts_at_its_first_point_and_stays_so(self) -> None:
        life = Life()
        (first,) = (await life.push(commands(100)))["faktory_commands_total"]
        begun = life.at
        assert (first.start_time_unix_nano, first.time_unix_nano) == (begun, begun)
        (second,) = (await life.push(commands(100)))["faktory_commands_total"]
        (third,) = (await life.push(commands(150)))["faktory_commands_total"]
        assert [it.start_time_unix_nano for it in (second, third)] == [begun, begun]

    async def test_a_server_that_restarted_counts_anew_since_the_last_push(self) -> None:
        life = Life()
        await life.push(commands(100))
        await life.push(commands(200))
        last = life.at
        (point,) = (await life.push(commands(7)))["faktory_commands_total"]
        assert (point.start_time_unix_nano, number(point)) == (last, 7)
        (point,) = (await life.push(commands(9)))["faktory_commands_total"]
        assert point.start_time_unix_nano == last

    async def test_what_was_not_known_for_a_while_goes_on(self) -> None:
        life = Life()
        await life.push(commands(100))
        begun = life.at
        assert "faktory_commands_total" not in await life.push(empty())
        (point,) = (await life.push(commands(150)))["faktory_commands_total"]
        assert point.start_time_unix_nano == begun

    async def test_executions_of_the_first_push_were_counted_since_the_process_started(self) -> None:
        life = Life()
        (point,) = (await life.push(durations(a=3)))["faktory_job_duration_seconds"]
        assert point.start_time_unix_nano == PROCESS_START

    async def test_executions_of_a_new_kind_were_counted_since_the_last_push(self) -> None:
        life = Life()
        await life.push(durations(a=3))
        last = life.at
        found = (await life.push(durations(a=3, b=2)))["faktory_job_duration_seconds"]
        assert of_queue(found, "b").start_time_unix_nano == last
        assert of_queue(found, "a").start_time_unix_nano == PROCESS_START

    async def test_executions_of_a_kind_that_was_forgotten_count_anew(self) -> None:
        life = Life()
        await life.push(durations(a=3))
        await life.push(durations())
        last = life.at
        (point,) = (await life.push(durations(a=5)))["faktory_job_duration_seconds"]
        assert point.start_time_unix_nano == last

    async def test_what_was_told_by_statsd_was_counted_since_the_process_started(self) -> None:
        found = await Life().push(full())
        for name in ("faktory_job_executions_total", "faktory_statsd_other_total", "forewarn_statsd_samples_total"):
            assert {point.start_time_unix_nano for point in found[name]} == {PROCESS_START}

    async def test_a_first_point_that_was_not_taken_is_followed_by_a_first_point(self) -> None:
        life = Life()
        await life.push(commands(100), SENT, AGAIN)
        (point,) = (await life.push(commands(200)))["faktory_commands_total"]
        assert point.start_time_unix_nano == life.at

    async def test_no_start_is_after_its_point_though_the_wall_clock_was_set_back(self) -> None:
        life = Life()
        await life.push(commands(100))
        life.wall -= 3600
        found = await life.push(durations(a=1))
        found |= await life.push(commands(50))
        starts = [it.start_time_unix_nano - it.time_unix_nano for points in found.values() for it in points]
        assert max(starts) <= 0

    async def test_what_the_sidecar_tells_of_itself_starts_with_its_process(self) -> None:
        found = metrics(full())
        for name in ("process_cpu_seconds_total", "forewarn_otlp_items_total", "forewarn_otlp_failures_total"):
            assert {point.start_time_unix_nano for point in points_of(found[name])} == {PROCESS_START}


class TestPushing:
    async def test_a_snapshot_that_the_collector_has_is_not_sent_again_but_its_age_is(self) -> None:
        life = Life()
        await life.push(full())
        life.now += 7
        life.wall += 7
        found = await life.again()
        assert {name for name in found if not name.startswith("process_")} == {
            "forewarn_snapshot_age_seconds",
            "forewarn_build_info",
            "forewarn_config_last_reload_successful",
            "forewarn_config_last_reload_success_timestamp_seconds",
            "forewarn_otlp_items_total",
            "forewarn_otlp_failures_total",
            "forewarn_otlp_waiting_spans",
            "forewarn_statsd_pushed_lines_total",
            "forewarn_statsd_push_failures_total",
        }
        (age,) = found["forewarn_snapshot_age_seconds"]
        assert number(age) == 7

    @pytest.mark.parametrize("answer", [AGAIN, REJECTED])
    async def test_a_snapshot_that_the_collector_has_not_is_sent_again(self, answer: Delivery) -> None:
        life = Life()
        await life.push(full(), SENT, answer)
        assert "faktory_up" in await life.again()

    async def test_a_server_without_a_snapshot_yet_is_left_out(self) -> None:
        life = Life()
        assert "forewarn_build_info" in await life.again()
        assert life.output.totals().dropped == 0

    async def test_after_a_failure_the_rest_of_a_push_is_dropped_and_counted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(otlp_metrics, "POINTS_PER_REQUEST", 40)
        life = Life()
        await life.push(full(size=10), SENT, SENT, AGAIN)
        assert len(life.collector.bodies) == 3
        totals = life.output.totals()
        sent = sum(len(points_of(it)) for it in decoded(life.collector.bodies[:2]))
        every = sum(it.points for it in encoded(full(size=10)))
        assert (totals.sent, totals.rejected, totals.dropped) == (sent, 0, every - sent)
        assert totals.failures[Reason.UNREACHABLE] == 1

    async def test_after_a_failure_no_other_server_is_pushed_either(self) -> None:
        collector = Recorder(SENT, AGAIN)
        output = output_to(collector, lambda: {"a": full("a"), "b": full("b")})
        await output.flush(5)
        assert len(collector.bodies) == 2
        assert output.totals().dropped == sum(it.points for it in encoded(full("a"), full("b"))) - output.totals().sent

    async def test_after_a_request_that_is_rejected_the_rest_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(otlp_metrics, "POINTS_PER_REQUEST", 40)
        life = Life()
        await life.push(full(size=10), SENT, REJECTED)
        totals = life.output.totals()
        every = sum(it.points for it in encoded(full(size=10)))
        assert (totals.sent, totals.rejected, totals.dropped) == (every - 40, 40, 0)

    async def test_a_push_ends_at_its_deadline_whatever_the_collector_does(self) -> None:
        life = Life()
        life.collector.before = asyncio.Event().wait
        life.snapshot = full()
        async with asyncio.timeout(5):
            await life.output.flush(0.2)
        totals = life.output.totals()
        assert totals.dropped == sum(it.points for it in encoded(full()))
        assert totals.failures[Reason.TIMEOUT] == 1

    async def test_a_cancelled_push_counts_what_it_did_not_send(self) -> None:
        life = Life()
        life.snapshot = full()
        reached = asyncio.Event()

        async def hang() -> None:
            reached.set()
            await asyncio.Event().wait()

        life.collector.before = hang
        task = asyncio.create_task(life.output.flush(60))
        await asyncio.wait_for(reached.wait(), 30)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert life.output.totals().dropped == sum(it.points for it in encoded(full()))

    async def test_a_defect_in_one_push_does_not_end_all_of_them_and_is_logged_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        life = Life()
        with monkeypatch.context() as broken:
            broken.setattr(otlp_metrics, "encode_metrics", None)
            await life.push(full())
            await life.push(full())
        assert [(it.levelno, it.message) for it in caplog.records] == [
            (logging.ERROR, "push of metrics failed by a defect of Forewarn")
        ]
        assert life.output.totals().dropped > 0
        assert "faktory_up" in await life.push(full())

    async def test_nothing_that_grows_with_the_series_runs_in_the_event_loop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads = set()
        for name in ("columns", "own_columns", "encode_metrics"):
            real = getattr(otlp_metrics, name)

            def called(*args: Any, real: Any = real, **named: Any) -> Any:
                threads.add(threading.current_thread())
                return real(*args, **named)

            monkeypatch.setattr(otlp_metrics, name, called)
        await Life().push(full())
        assert threads
        assert threading.current_thread() not in threads

    async def test_the_first_push_comes_soon_and_then_one_at_every_interval(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(otlp_metrics, "FIRST_PUSH", 0.05)
        loop = asyncio.get_running_loop()
        collector = Recorder()
        output = output_to(collector, dict, clock=loop.time, interval=0.3)
        begun = loop.time()
        pushed: list[float] = []

        async def note() -> None:
            pushed.append(loop.time() - begun)

        collector.before = note
        async with running(output):
            await wait_until(lambda: len(pushed) >= 3, 30, what="three pushes")
        assert pushed[0] < 0.3
        assert pushed[2] >= 0.6

    async def test_a_collector_that_wants_to_be_left_alone_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(otlp_metrics, "FIRST_PUSH", 0.0)
        loop = asyncio.get_running_loop()
        collector = Recorder(replace(AGAIN, retry_after=0.5))
        pushed: list[float] = []

        async def note() -> None:
            pushed.append(loop.time())

        collector.before = note
        async with running(output_to(collector, dict, clock=loop.time, interval=0.01)):
            await wait_until(lambda: len(pushed) >= 2, 30, what="two pushes")
        assert pushed[1] - pushed[0] >= 0.49

    async def test_a_real_sender_brings_it_all_to_a_real_socket(self) -> None:
        one = full(size=300)
        async with receiving() as receiver:
            sender = OtlpSender(OtlpTarget(url=f"{receiver.endpoint}/v1/metrics", gzip=True))
            output = output_to(sender, lambda: {"faktory": one})
            await output.flush(20)
            await sender.close()
            every = expected(one)
            told = {key: value for key, value in as_samples(receiver.metrics()).items() if key in every}
            assert (told, receiver.refused) == (every, [])
            resource = receiver.accepted[0].message.resource_metrics[0]
            assert [it.key for it in resource.resource.attributes] == ["service.name"]
            assert (resource.scope_metrics[0].scope.name, resource.scope_metrics[0].scope.version) == (
                "forewarn",
                "1.2.3",
            )

    async def test_a_real_collector_takes_all_of_it_and_hands_it_on(self) -> None:
        one = replace(full(size=300), taken_at=time.monotonic())
        every = expected(one)
        async with receiving() as receiver, Collector(receiver.endpoint) as collector:
            sender = OtlpSender(OtlpTarget(url=f"{collector.address}/v1/metrics"))
            output = output_to(sender, lambda: {"faktory": one}, clock=time.monotonic, wall=time.time)
            await output.flush(20)
            await sender.close()
            sent = output.totals().sent
            await wait_until(
                lambda: sum(len(points_of(it)) for it in receiver.metrics()) >= sent, 20, what="all is handed on"
            )
            samples = as_samples(receiver.metrics())
            assert {key: value for key, value in samples.items() if key in every} == every
            assert output.totals().failures == dict.fromkeys(Reason, 0)
            assert collector.complaints() == []

    async def test_points_that_the_collector_rejects_are_counted(self) -> None:
        async with receiving() as receiver:
            receiver.answer = misbehaviour.partially(3, "out of order")
            sender = OtlpSender(OtlpTarget(url=f"{receiver.endpoint}/v1/metrics"))
            output = output_to(sender, dict)
            await output.flush(20)
            await sender.close()
        assert output.totals().rejected == 3


@asynccontextmanager
async def running(output: MetricsOutput) -> Any:
    task = asyncio.create_task(output.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
