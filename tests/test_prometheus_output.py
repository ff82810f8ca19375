"""The Prometheus output: both formats, read back by prometheus_client's own parsers and by promtool."""

from __future__ import annotations

import gzip
import math
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric as Family
from prometheus_client import openmetrics as client_openmetrics
from prometheus_client import parser as client_parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from exporter.catalogue import METRICS, SNAPSHOT_METRICS, Kind, points
from exporter.model import (
    DURATION_BUCKETS,
    BusyVerdict,
    Distribution,
    ExecutionsVerdict,
    Exemplar,
    Pair,
    Queue,
    QueuesVerdict,
    Snapshot,
)
from exporter.outputs import prometheus
from exporter.outputs.prometheus import Exposition, number, numbers
from exporter.web.address import Address
from exporter.web.server import start_web
from tests.programs import need
from tests.prometheus import Prometheus
from tests.servers import free_port, wait_until
from tests.snapshots import HOSTILE, empty, exemplar, full, names, pushes, snapshots

replace = msgspec.structs.replace
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

BOTH = pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])


def exposed(*given: Snapshot) -> Exposition:
    exposition = Exposition("1.2.3", pushes)
    for snapshot in given:
        exposition.update(snapshot)
    return exposition


def parsed(body: bytes, *, openmetrics: bool) -> list[Family]:
    read = openmetrics_parser if openmetrics else client_parser
    return list(read.text_string_to_metric_families(body.decode()))


def read_back(families: Iterable[Family]) -> Samples:
    pairs = [((s.name, frozenset(s.labels.items())), s.value) for family in families for s in family.samples]
    assert [name for name, times in Counter(key for key, _ in pairs).items() if times > 1] == []
    return dict(pairs)


def of_snapshots(samples: Samples) -> Samples:
    mine = (
        "process_",
        "forewarn_snapshot_age_seconds",
        "forewarn_build_info",
        "forewarn_config_",
        "forewarn_otlp_",
        "forewarn_statsd_push",
    )
    return {key: value for key, value in samples.items() if not key[0].startswith(mine)}


def expected(*given: Snapshot) -> Samples:
    """What the catalogue says, as samples. Series have the same names and labels in both formats."""
    samples: Samples = {}
    for snapshot in given:
        for metric, its in points(snapshot):
            name = metric.full_name(snapshot.system)
            for values, value in its:
                labels = {"server": snapshot.server, **dict(zip(metric.labels, values, strict=True))}
                if not isinstance(value, Distribution):
                    samples[name, frozenset(labels.items())] = value
                    continue
                bounds = [*(str(float(bound)) for bound in metric.buckets), "+Inf"]
                for bound, count in zip(bounds, value.counts, strict=True):
                    samples[f"{name}_bucket", frozenset({**labels, "le": bound}.items())] = count
                g = "g" if metric.kind is Kind.GAUGE_HISTOGRAM else ""
                samples[f"{name}_{g}count", frozenset(labels.items())] = value.count
                samples[f"{name}_{g}sum", frozenset(labels.items())] = value.sum
    return samples


def family_names(body: bytes) -> list[str]:
    return [line.split()[2] for line in body.decode().split("\n") if line.startswith("# TYPE ")]


@BOTH
class TestReadBack:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_any_snapshot_reads_back_to_exactly_its_points(self, openmetrics: bool, data: st.DataObject) -> None:
        one = data.draw(snapshots(data.draw(names)))
        body = exposed(one).body(0.0, openmetrics=openmetrics)
        assert of_snapshots(read_back(parsed(body, openmetrics=openmetrics))) == expected(one)

    @settings(deadline=None, max_examples=40)
    @given(data=st.data())
    def test_a_later_render_reads_as_a_first_one(self, openmetrics: bool, data: st.DataObject) -> None:
        exposition = exposed(data.draw(snapshots()), last := data.draw(snapshots()))
        body = exposition.body(0.0, openmetrics=openmetrics)
        assert of_snapshots(read_back(parsed(body, openmetrics=openmetrics))) == expected(last)

    def test_all_servers_and_systems_are_in_one_body(self, openmetrics: bool) -> None:
        given_ones = full("a"), full("b", size=3), full("c", "franz"), empty("d", "franz")
        body = exposed(*given_ones).body(0.0, openmetrics=openmetrics)
        assert of_snapshots(read_back(parsed(body, openmetrics=openmetrics))) == expected(*given_ones)

    def test_no_family_comes_twice(self, openmetrics: bool) -> None:
        body = exposed(full("a"), full("b"), full("c", "franz")).body(0.0, openmetrics=openmetrics)
        assert [name for name, times in Counter(family_names(body)).items() if times > 1] == []

    def test_types_are_those_of_the_catalogue(self, openmetrics: bool) -> None:
        families = parsed(exposed(full()).body(0.0, openmetrics=openmetrics), openmetrics=openmetrics)
        types = {family.name: family.type for family in families}
        for metric in METRICS:
            kind = metric.kind
            if kind is Kind.GAUGE_HISTOGRAM and not openmetrics:
                kind = Kind.HISTOGRAM
            assert types[metric.full_name("faktory").removesuffix("_total")] == kind

    def test_help_is_that_of_the_catalogue(self, openmetrics: bool) -> None:
        families = parsed(exposed(full()).body(0.0, openmetrics=openmetrics), openmetrics=openmetrics)
        helps = {family.name: family.documentation for family in families}
        for metric in METRICS:
            assert helps[metric.full_name("faktory").removesuffix("_total")] == metric.help

    def test_lines_are_cut_into_pieces_and_none_is_lost(
        self, openmetrics: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prometheus, "LINES_PER_PIECE", 7)
        monkeypatch.setattr(prometheus, "BYTES_PER_PART", 100)
        one, two = full(size=30), full(size=25)
        exposition = exposed(one, two, one)
        assert len(exposition.parts(0.0, openmetrics=openmetrics)) > 100
        body = exposition.body(0.0, openmetrics=openmetrics)
        assert of_snapshots(read_back(parsed(body, openmetrics=openmetrics))) == expected(one)

    def test_compressed_it_is_one_gzip_member_of_the_same_text(self, openmetrics: bool) -> None:
        exposition = exposed(full())
        packed = exposition.body(7.0, openmetrics=openmetrics, gzip=True)
        plain = exposition.body(7.0, openmetrics=openmetrics)
        assert stable(gzip.decompress(packed)) == stable(plain)
        assert packed.count(b"\x1f\x8b\x08") == 1

    def test_a_second_compressed_scrape_tells_the_age_anew(self, openmetrics: bool) -> None:
        exposition = exposed(full(taken_at=100.0))
        for now, age in ((101.5, b"1.5"), (103.0, b"3.0")):
            body = gzip.decompress(exposition.body(now, openmetrics=openmetrics, gzip=True))
            assert b'forewarn_snapshot_age_seconds{server="faktory"} ' + age + b"\n" in body

    def test_before_the_first_poll_only_the_sidecar_tells_of_itself(self, openmetrics: bool) -> None:
        families = parsed(Exposition("1.2.3").body(0.0, openmetrics=openmetrics), openmetrics=openmetrics)
        samples = read_back(families)
        assert of_snapshots(samples) == {}
        assert samples["forewarn_build_info", frozenset({("version", "1.2.3")})] == 1
        assert samples["process_open_fds", frozenset()] > 0

    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            ({"faktory_connections"}, {"faktory_connections"}),
            ({"faktory_restarts"}, {"faktory_restarts_total"}),
            (
                {"faktory_job_duration_seconds_sum", "process_open_fds"},
                {*(f"faktory_job_duration_seconds_{end}" for end in ("bucket", "count", "sum")), "process_open_fds"},
            ),
            (
                {"faktory_busy_job_age_seconds_gcount"},
                {f"faktory_busy_job_age_seconds_{end}" for end in ("bucket", "gcount", "gsum")},
            ),
            ({"forewarn_snapshot_age_seconds"}, {"forewarn_snapshot_age_seconds"}),
            ({"nothing", ""}, set()),
        ],
    )
    def test_a_filter_names_families_or_samples(self, openmetrics: bool, asked: set[str], told: set[str]) -> None:
        exposition = exposed(full())
        body = exposition.body(0.0, openmetrics=openmetrics, names=frozenset(asked))
        assert {name for name, _ in read_back(parsed(body, openmetrics=openmetrics))} == told
        packed = exposition.body(0.0, openmetrics=openmetrics, names=frozenset(asked), gzip=True)
        assert stable(gzip.decompress(packed)) == stable(body)


def stable(body: bytes) -> list[bytes]:
    """The lines but for those of the process, which change all the time."""
    return [line for line in body.split(b"\n") if not line.startswith(b"process_")]


class TestSpelling:
    def test_a_hostile_name_is_escaped_exactly(self) -> None:
        snapshot = replace(empty('s"'), queues=QueuesVerdict({HOSTILE: Queue(1)}, {}))
        line = next(it for it in exposed(snapshot).body(0.0).split(b"\n") if it.startswith(b"faktory_queue_jobs"))
        name = rb"a\"b\\c\nd" + b"\re\x00f\x7f" + rb"{g=\"h\"}" + " # EOF é 😀 %s %(x)d\u2028,".encode()
        assert line == rb'faktory_queue_jobs{server="s\"",queue="' + name + b'"} 1'

    def test_a_lone_surrogate_does_not_stop_the_render(self) -> None:
        snapshot = replace(empty(), queues=QueuesVerdict({"\ud800": Queue(1)}, {}))
        assert b'queue="?"} 1\n' in exposed(snapshot).body(0.0)

    @settings(deadline=None)
    @given(value=st.floats() | st.integers(-(2**70), 2**70))
    def test_a_number_reads_back_to_itself(self, value: float) -> None:
        text = number(value).decode()
        back = int(text) if isinstance(value, int) else float(text)
        assert back == value or (math.isnan(value) and text == "NaN")

    def test_numbers_that_are_not_finite_have_their_prometheus_names(self) -> None:
        assert numbers([1, math.inf, 0.1, -math.inf, math.nan]) == (b"1", b"+Inf", b"0.1", b"-Inf", b"NaN")

    @settings(deadline=None)
    @given(values=st.lists(st.floats() | st.integers(-(2**64), 2**64)))
    def test_many_numbers_are_spelled_as_each_alone(self, values: list[float]) -> None:
        assert numbers(values) == tuple(number(value) for value in values)

    def test_bounds_are_spelled_alike_in_both_formats(self) -> None:
        exposition = exposed(full())
        assert bounds(exposition.body(0.0)) == bounds(exposition.body(0.0, openmetrics=True))
        assert {"0.5", "1.0", "86400.0", "+Inf"} <= bounds(exposition.body(0.0))

    def test_openmetrics_names_units_and_drops_total_from_families(self) -> None:
        body = exposed(full()).body(0.0, openmetrics=True)
        assert b"# TYPE faktory_throttle_saturated_seconds counter\n" in body
        assert b"# UNIT faktory_throttle_saturated_seconds seconds\n" in body
        assert b"\nfaktory_throttle_saturated_seconds_total{" in body
        assert b"# TYPE faktory_busy_job_age_seconds gaugehistogram\n" in body
        assert body.endswith(b"\n# EOF\n")

    def test_text_tells_the_counts_and_sums_of_a_gauge_histogram_as_gauges(self) -> None:
        body = exposed(full()).body(0.0)
        assert b"# TYPE faktory_busy_job_age_seconds histogram\n" in body
        assert b"# TYPE faktory_busy_job_age_seconds_gcount gauge\n" in body
        assert b"# TYPE faktory_busy_job_age_seconds_gsum gauge\n" in body
        assert b"# UNIT" not in body
        assert b"# EOF\n" not in body

    def test_the_content_types_are_the_clients_own(self) -> None:
        assert prometheus.OPENMETRICS_TYPE == client_openmetrics.exposition.CONTENT_TYPE_LATEST
        assert prometheus.TEXT_TYPE == "text/plain; version=0.0.4; charset=utf-8"

    def test_a_distribution_with_too_few_counts_is_refused(self) -> None:
        busy = BusyVerdict(None, {"q": Distribution((1, 2, 3), 1.0)}, {})
        with pytest.raises(ValueError, match="busy_job_age_seconds needs 17 counts"):
            exposed(replace(empty(), busy=busy))


def bounds(body: bytes) -> set[str]:
    return {line.split('le="')[1].split('"')[0] for line in body.decode().split("\n") if ',le="' in line}


@pytest.mark.parametrize("size", [1, 200])
def test_promtool_finds_nothing_to_say(size: int) -> None:
    need("promtool", "prometheus")
    body = exposed(full("a", size=size), full('b"', size=size), empty("c")).body(0.0)
    run = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


class TestOncePerPoll:
    """What is costly is done when it is first asked for, and once."""

    @pytest.fixture
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        calls: Counter[str] = Counter()

        def counting(name: str) -> None:
            real: Callable[..., object] = getattr(prometheus, name)

            def wrapper(*args: object, **kwargs: object) -> object:
                calls[name] += 1
                return real(*args, **kwargs)

            monkeypatch.setattr(prometheus, name, wrapper)

        counting("_form")
        counting("columns")
        return calls

    def test_scrapes_share_one_join_and_one_compression(self, counted: Counter[str]) -> None:
        exposition = exposed(full())
        assert not exposition.built(openmetrics=True, gzip=True)
        for _ in range(5):
            exposition.body(0.0, openmetrics=True, gzip=True)
        assert exposition.built(openmetrics=True, gzip=True)
        assert counted == {"_form": 1, "columns": 1}

    def test_nothing_is_joined_for_a_format_that_nobody_asks_for(self, counted: Counter[str]) -> None:
        exposed(full(), full())
        assert counted["_form"] == 0

    def test_an_update_replaces_what_is_told(self) -> None:
        exposition = exposed(full())
        exposition.body(0.0, gzip=True)
        exposition.update(empty())
        assert b'faktory_up{server="faktory"} 0\n' in gzip.decompress(exposition.body(0.0, gzip=True))

    def test_lines_of_names_that_went_are_not_kept(self) -> None:
        exposition = exposed(full(size=50))
        exposition.update(full(size=1))
        kept = exposition._lines["faktory"]._families["queue_jobs"]._text[0]
        assert len(kept._templates) == 1

    def test_a_family_that_went_is_not_kept(self) -> None:
        exposition = exposed(full())
        exposition.update(empty())
        assert "queue_jobs" not in exposition._lines["faktory"]._families

    def test_a_new_name_leaves_the_templates_of_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        exposition = exposed(full(size=50))
        made: list[tuple[str, ...]] = []
        real = prometheus._Lines._template

        def making(lines: prometheus._Lines, key: tuple[str, ...]) -> bytes:
            made.append(key)
            return real(lines, key)

        monkeypatch.setattr(prometheus._Lines, "_template", making)
        exposition.update(full(size=51))
        assert {key[0] for key in made} == {"queue-50"}

    def test_unchanged_lines_are_not_rendered_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        exposition = exposed(full())
        monkeypatch.setattr(prometheus, "numbers", None)
        exposition.update(full())

    def test_servers_updated_from_many_threads_are_all_told(self) -> None:
        exposition = Exposition("0")
        servers = [f"server-{number}" for number in range(16)]
        threads = [threading.Thread(target=exposition.update, args=(full(name),)) for name in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        body = exposition.body(0.0)
        assert all(f'faktory_up{{server="{name}"}} 1\n'.encode() in body for name in servers)


def test_every_metric_of_a_snapshot_can_be_filtered_for() -> None:
    exposition = exposed(full())
    for metric in SNAPSHOT_METRICS:
        name = metric.full_name("faktory")
        assert family_names(exposition.body(0.0, names=frozenset({name})))[0] == name


Found = dict[tuple[frozenset[tuple[str, str]], str], tuple[str, str, float, float]]
"""By the labels of a series and ``le``: trace, span, value and time of the exemplar there."""


def found_exemplars(body: bytes) -> Found:
    return {
        (frozenset(sample.labels.items() - {("le", sample.labels["le"])}), sample.labels["le"]): (
            it.labels["trace_id"],
            it.labels["span_id"],
            it.value,
            round(float(it.timestamp or 0), 3),
        )
        for family in parsed(body, openmetrics=True)
        for sample in family.samples
        if (it := sample.exemplar) is not None
    }


def given_exemplars(snapshot: Snapshot) -> Found:
    executions = snapshot.executions
    bounds = [*map(str, map(float, DURATION_BUCKETS)), "+Inf"]
    return {
        (
            frozenset({("server", snapshot.server), ("queue", pair[0]), ("jobtype", pair[1])}),
            bounds[index],
        ): (it.trace_id, it.span_id, it.value, round(it.at, 3))
        for pair, its in (executions.exemplars if executions else {}).items()
        if pair in snapshot.busy.durations
        for index, it in its
    }


def marked(snapshot: Snapshot, exemplars: dict[Pair, tuple[tuple[int, Exemplar], ...]]) -> Snapshot:
    return replace(snapshot, executions=ExecutionsVerdict((), {}, exemplars))


class TestExemplars:
    @settings(deadline=None, max_examples=60)
    @given(one=snapshots())
    def test_any_snapshots_exemplars_read_back_each_in_its_bucket(self, one: Snapshot) -> None:
        assert found_exemplars(exposed(one).body(0.0, openmetrics=True)) == given_exemplars(one)

    def test_all_are_there_in_every_piece(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prometheus, "LINES_PER_PIECE", 50)
        one = full(size=30)
        pairs = list(one.busy.durations)
        one = marked(
            one, {pair: (exemplar(0.25, f"{n:x}"), exemplar(40, f"{n + 1:x}")) for n, pair in enumerate(pairs)}
        )
        found = found_exemplars(exposed(one).body(0.0, openmetrics=True))
        assert len(found) == 60
        assert found == given_exemplars(one)

    def test_they_are_spelled_as_openmetrics_wants_them(self) -> None:
        body = exposed(marked(full(), {("queue-1", "Job1"): (exemplar(40, "a1", at=1763711995.25),)})).body(
            0.0, openmetrics=True
        )
        (line,) = [it for it in body.decode().split("\n") if " # {" in it and it.startswith("faktory_job_duration")]
        labels = 'server="faktory",queue="queue-1",jobtype="Job1",le="60.0"'
        ids = f'trace_id="a1{"0" * 30}",span_id="{"c" * 16}"'
        assert line == f"faktory_job_duration_seconds_bucket{{{labels}}} 2 # {{{ids}}} 40 1763711995.250"

    def test_text_has_none_and_is_the_same_without_them(self) -> None:
        one = full()
        assert one.executions is not None
        without = exposed(replace(one, executions=replace(one.executions, exemplars={})))
        assert stable(exposed(one).body(0.0)) == stable(without.body(0.0))

    def test_openmetrics_without_them_has_the_very_lines_of_the_text(self) -> None:
        one = marked(full(), {})
        exposition = exposed(one)
        family = exposition._page.servers["faktory"].families["job_duration_seconds"]
        assert family.text is family.openmetrics

    def test_a_newer_one_replaces_the_one_before_though_no_count_changed(self) -> None:
        pair = ("queue-1", "Job1")
        exposition = exposed(marked(full(), {pair: (exemplar(40, "a1"),)}))
        exposition.update(newer := marked(full(), {pair: (exemplar(41, "b2"),)}))
        assert found_exemplars(exposition.body(0.0, openmetrics=True)) == given_exemplars(newer)
        exposition.update(marked(full(), {}))
        assert found_exemplars(exposition.body(0.0, openmetrics=True)) == {}

    def test_one_stays_though_the_counts_changed(self) -> None:
        one, two = full(), full()
        pair = ("queue-1", "Job1")
        counted = Distribution(tuple(range(1, 17)), 5.0)
        two = replace(two, busy=replace(two.busy, durations={**two.busy.durations, pair: counted}))
        exposition = exposed(marked(one, {pair: (exemplar(40, "a1"),)}), marked(two, {pair: (exemplar(40, "a1"),)}))
        body = exposition.body(0.0, openmetrics=True)
        assert found_exemplars(body) == given_exemplars(marked(two, {pair: (exemplar(40, "a1"),)}))
        assert (
            of_snapshots(read_back(parsed(body, openmetrics=True)))[
                "faktory_job_duration_seconds_count",
                frozenset({("server", "faktory"), ("queue", pair[0]), ("jobtype", pair[1])}),
            ]
            == 16
        )

    def test_what_did_not_change_is_not_rendered_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        exposition = exposed(full())
        monkeypatch.setattr(prometheus, "exemplar_text", None)
        exposition.update(full())

    def test_what_did_not_change_is_not_written_again_behind_a_count_that_did(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pair = ("queue-1", "Job1")
        exposition = exposed(before := marked(full(), {pair: (exemplar(40, "a1"),)}))
        durations = {**before.busy.durations}
        durations[pair] = replace(durations[pair], sum=durations[pair].sum + 1)
        newer = replace(before, busy=replace(before.busy, durations=durations))
        monkeypatch.setattr(prometheus, "exemplar_text", None)
        exposition.update(newer)
        assert found_exemplars(exposition.body(0.0, openmetrics=True)) == given_exemplars(newer) != {}

    def test_a_filtered_scrape_has_them(self) -> None:
        names = frozenset({"faktory_job_duration_seconds"})
        body = exposed(one := full()).body(0.0, openmetrics=True, names=names)
        assert found_exemplars(body) == given_exemplars(one) != {}

    async def test_a_real_prometheus_keeps_them_and_finds_them_by_their_series(self) -> None:
        now = time.time()
        one = marked(full(), {("queue-1", "Job1"): (exemplar(40, "a1", at=now - 2), exemplar(100_000, "b2", at=now))})
        async with (
            scraped(one) as target,
            Prometheus(target, features=["exemplar-storage"]) as prometheus,
        ):
            series = "faktory_job_duration_seconds_bucket"
            await wait_until(lambda: prometheus.query_exemplars(series, now - 60, now + 60), 20, every=0.1)
            found = await prometheus.query_exemplars(series, now - 60, now + 60)
            assert {
                (it.series["queue"], it.series["le"], it.labels["trace_id"], it.labels["span_id"], it.value)
                for it in found
            } == {
                ("queue-1", "60.0", "a1".ljust(32, "0"), "c" * 16, 40),
                ("queue-1", "+Inf", "b2".ljust(32, "0"), "c" * 16, 100_000),
            }
            assert sorted(it.at for it in found) == pytest.approx([now - 2, now], abs=0.002)
            assert prometheus.complaints() == []


@asynccontextmanager
async def scraped(snapshot: Snapshot) -> AsyncIterator[str]:
    """``host:port`` of a page that tells of ``snapshot``."""
    web = await start_web(Address("127.0.0.1", free_port()), exposed(snapshot), lambda: {snapshot.server: snapshot})
    try:
        yield f"127.0.0.1:{web.port}"
    finally:
        await web.close()
