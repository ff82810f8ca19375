"""The catalogue: what it promises of names, of unknown facts, and of counters from the start."""

import math
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from prometheus_client import ProcessCollector

from exporter import catalogue
from exporter.catalogue import METRICS, SNAPSHOT_METRICS, Kind, Value, columns, document, points, snapshot_age
from exporter.model import (
    AGE_BUCKETS,
    CRASH_KINDS,
    BootVerdict,
    BusyGroup,
    BusyVerdict,
    Details,
    Distribution,
    ExecutionsVerdict,
    Exemplar,
    Ignored,
    LogEvent,
    ProcessVerdict,
    Queue,
    QueuesVerdict,
    Reason,
    Rejection,
    Scope,
    Snapshot,
    StatsdFact,
    StatsdTraffic,
    StatsdVerdict,
    ThrottlesVerdict,
    ThrottleUse,
)
from tests.snapshots import HOSTILE, NOW, empty, exemplar, full, snapshots

replace = msgspec.structs.replace


def told(snapshot: Snapshot) -> dict[str, dict[tuple[str, ...], Value]]:
    return {metric.name: dict(its) for metric, its in points(snapshot) if its}


def with_details(asked_at: float) -> Snapshot:
    snapshot = full()
    details = Details(asked_at, memory_bytes=5, reservations_expired=7)
    return replace(snapshot, observation=replace(snapshot.observation, details=details))


class TestTheTable:
    def test_names_are_unique(self) -> None:
        names = [metric.full_name("faktory") for metric in METRICS]
        assert len(set(names)) == len(names)

    def test_no_two_are_of_one_name_where_counters_go_without_their_end(self) -> None:
        families = [metric.full_name("faktory").removesuffix("_total") for metric in METRICS]
        assert len(set(families)) == len(families)

    @pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
    def test_counters_and_only_they_end_in_total(self, metric: catalogue.Metric) -> None:
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)

    @pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
    def test_a_unit_is_the_end_of_the_name(self, metric: catalogue.Metric) -> None:
        base = metric.name.removesuffix("_total")
        ends = [unit for unit in ("seconds", "bytes", "ratio") if base.endswith(f"_{unit}")]
        assert ends == ([metric.unit] if metric.unit else [])

    @pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
    def test_help_is_one_plain_line_that_names_source_and_freshness(self, metric: catalogue.Metric) -> None:
        assert re.fullmatch(r'[^\n\\"]+\. Source: [^\n\\"]+; fresh: [^\n\\"]+\.', metric.help)

    @pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
    def test_histograms_and_only_they_have_buckets(self, metric: catalogue.Metric) -> None:
        assert bool(metric.buckets) == (metric.kind in {Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM})

    def test_the_prefix_is_the_watched_systems_but_for_the_sidecars_own(self) -> None:
        assert catalogue.CONNECTIONS.full_name("faktory") == "faktory_connections"
        assert catalogue.COLLECTOR_UP.full_name("faktory") == "forewarn_collector_up"

    def test_it_knows_every_process_metric_there_is(self) -> None:
        sampled = {sample.name for family in ProcessCollector(registry=None).collect() for sample in family.samples}
        assert sampled == {metric.name for metric in catalogue.PROCESS_METRICS}

    def test_the_document_is_as_the_table_makes_it(self) -> None:
        kept = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
        assert kept == document("faktory"), "run: python -m exporter.catalogue > docs/metrics.md"


class TestPoints:
    def test_metrics_come_in_the_order_of_the_table(self) -> None:
        assert tuple(metric for metric, _ in points(empty())) == SNAPSHOT_METRICS

    def test_a_full_snapshot_has_points_of_every_metric(self) -> None:
        assert [metric.name for metric, its in points(full()) if not its] == []

    @settings(deadline=None, max_examples=60)
    @given(snapshot=snapshots())
    def test_labels_fit_the_metric_and_no_series_comes_twice(self, snapshot: Snapshot) -> None:
        for metric, its in points(snapshot):
            assert {len(labels) for labels, _ in its} <= {len(metric.labels)}
            assert len({labels for labels, _ in its}) == len(its)

    @settings(deadline=None, max_examples=60)
    @given(snapshot=snapshots())
    def test_numbers_are_finite_and_not_negative_but_for_levels_of_any_meaning(self, snapshot: Snapshot) -> None:
        free = catalogue.STATSD_FACTS[StatsdFact.OTHER_LEVEL]
        wrong = {metric.name: its for metric, its in points(snapshot) if not all(sound(it) for _, it in its)}
        assert wrong.keys() <= {free.name}
        assert all(math.isfinite(value) for _, value in wrong.get(free.name, []) if isinstance(value, float))

    @settings(deadline=None, max_examples=60)
    @given(snapshot=snapshots())
    def test_columns_say_the_same_as_points(self, snapshot: Snapshot) -> None:
        assert [(m, list(zip(keys, values, strict=True))) for m, keys, values in columns(snapshot)] == list(
            points(snapshot)
        )

    def test_of_a_server_never_reached_only_what_is_known_is_told(self) -> None:
        assert told(empty()) == {
            "up": {(): 0},
            "restarts_total": {(): 0},
            "connections_refused_total": {(): 0},
            "worker_crashes_total": {("vanished",): 0, ("hung",): 0},
        }

    def test_crashes_are_counted_from_the_start_by_both_reasons_even_if_the_verdict_has_none(self) -> None:
        snapshot = empty()
        snapshot = replace(snapshot, workers=replace(snapshot.workers, crashes={}))
        assert told(snapshot)["worker_crashes_total"] == {("vanished",): 0, ("hung",): 0}

    def test_a_group_without_jobs_has_a_count_but_no_age_and_no_ratio(self) -> None:
        busy = BusyVerdict({("q", "J"): BusyGroup(0, None, None), ("r", "J"): BusyGroup(1, 2.0, 0.5)}, None, {})
        its = told(replace(empty(), busy=busy))
        assert its["busy_jobs"] == {("q", "J"): 0, ("r", "J"): 1}
        assert its["busy_job_oldest_age_seconds"] == {("r", "J"): 2.0}
        assert its["busy_job_reservation_used_ratio"] == {("r", "J"): 0.5}

    def test_each_fact_of_a_queue_is_told_or_not_by_itself(self) -> None:
        queues = {"a": Queue(3, None, None), "b": Queue(None, 1.5, None), "c": Queue(None, None, False)}
        its = told(replace(empty(), queues=QueuesVerdict(queues, {})))
        assert (its["queue_jobs"], its["queue_latency_seconds"], its["queue_paused"]) == (
            {("a",): 3},
            {("b",): 1.5},
            {("c",): 0},
        )

    def test_negative_ages_are_clamped_to_zero(self) -> None:
        busy = BusyVerdict({("q", "J"): BusyGroup(1, -2.5, -0.1)}, None, {})
        its = told(replace(empty(), busy=busy))
        assert its["busy_job_oldest_age_seconds"] == {("q", "J"): 0.0}
        assert its["busy_job_reservation_used_ratio"] == {("q", "J"): 0.0}

    @pytest.mark.parametrize("sum_", [-2.5, math.nan, math.inf])
    def test_a_sum_that_cannot_be_is_told_as_zero(self, sum_: float) -> None:
        counts = tuple(range(len(AGE_BUCKETS) + 1))
        its = told(replace(empty(), busy=BusyVerdict(None, {"q": Distribution(counts, sum_)}, {})))
        assert its["busy_job_age_seconds"] == {("q",): Distribution(counts, 0.0)}

    def test_exemplars_stand_in_the_distribution_of_their_pair(self) -> None:
        its = told(full())["job_duration_seconds"]
        assert [exemplars_of(value) for value in its.values()] == [(exemplar(40, "a1"), exemplar(100_000, "b2")), ()]

    def test_exemplars_of_a_pair_without_a_distribution_are_left_out(self) -> None:
        verdict = ExecutionsVerdict((), {}, {("gone", "Gone"): (exemplar(40, "a1"),)})
        snapshot = replace(full(), executions=verdict)
        assert set(map(exemplars_of, told(snapshot)["job_duration_seconds"].values())) == {()}

    @pytest.mark.parametrize(
        "wrong",
        [
            (6, Exemplar("a" * 32, "b" * 16, 30.0, NOW)),
            (99, Exemplar("a" * 32, "b" * 16, 1e6, NOW)),
            (-1, Exemplar("a" * 32, "b" * 16, 1e6, NOW)),
            (0, Exemplar("a" * 32, "b" * 16, math.nan, NOW)),
            (0, Exemplar("a" * 32, "b" * 16, -1.0, NOW)),
            (15, Exemplar("a" * 32, "b" * 16, math.inf, NOW)),
            (0, Exemplar("a" * 32, "b" * 16, 0.5, math.inf)),
        ],
    )
    def test_an_exemplar_that_cannot_be_in_its_bucket_is_left_out(self, wrong: tuple[int, Exemplar]) -> None:
        pair = ("queue-1", "Job1")
        snapshot = replace(full(), executions=ExecutionsVerdict((), {}, {pair: (wrong, exemplar(1.5, "c3"))}))
        assert exemplars_of(told(snapshot)["job_duration_seconds"][pair]) == (exemplar(1.5, "c3"),)

    def test_of_two_exemplars_of_one_bucket_the_later_is_told(self) -> None:
        pair = ("queue-1", "Job1")
        verdict = ExecutionsVerdict((), {}, {pair: (exemplar(40, "a1"), exemplar(41, "b2"))})
        assert exemplars_of(told(replace(full(), executions=verdict))["job_duration_seconds"][pair]) == (
            exemplar(41, "b2"),
        )

    def test_decisions_on_executions_are_counted_from_the_start_where_traces_are_on(self) -> None:
        snapshot = replace(full(), executions=ExecutionsVerdict((), {}, {}))
        assert told(snapshot)["forewarn_trace_executions_total"] == {("told",): 0, ("left_out",): 0, ("capped",): 0}
        assert "forewarn_trace_executions_total" not in told(replace(full(), executions=None))

    def test_nothing_is_told_of_statsd_where_nothing_listens_for_it(self) -> None:
        its = told(replace(full(), statsd=None))
        assert not {metric.name for metric in catalogue.STATSD_METRICS} & its.keys()

    def test_how_listening_went_is_told_from_the_start_but_not_the_kernels_drops_where_they_are_not_known(self) -> None:
        its = told(replace(empty(), statsd=StatsdVerdict(None, {}, {}, {}, StatsdTraffic())))
        assert its["forewarn_statsd_packets_total"] == {("udp",): 0, ("tcp",): 0, ("unix",): 0}
        assert its["forewarn_statsd_dropped_packets_total"] == {("queue",): 0, ("relay",): 0}
        assert its["forewarn_statsd_rejected_total"] == {(reason.value,): 0 for reason in Rejection}
        assert its["forewarn_statsd_ignored_total"] == {(reason.value,): 0 for reason in Ignored}
        for name in ("samples", "folded", "relayed_packets"):
            assert its[f"forewarn_statsd_{name}_total"] == {(): 0}
        assert not {metric.name for metric in catalogue.STATSD_FACTS.values()} & its.keys()

    def test_a_level_of_any_meaning_may_be_below_zero_and_one_of_a_queue_may_not(self) -> None:
        levels: dict[StatsdFact, dict[tuple[str, ...], float]] = {
            StatsdFact.OTHER_LEVEL: {("app.t", "(none)"): -40.5, ("app.u", "(none)"): math.nan},
            StatsdFact.QUEUE_JOBS: {("q",): -3.0},
        }
        its = told(replace(empty(), statsd=StatsdVerdict(None, {}, {}, levels, StatsdTraffic())))
        assert its["statsd_other_level"] == {("app.t", "(none)"): -40.5}
        assert its["statsd_queue_jobs"] == {("q",): 0}

    @pytest.mark.parametrize("age", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_not_known(self, age: float) -> None:
        busy = BusyVerdict({("q", "J"): BusyGroup(1, age, 0.5)}, None, {})
        assert "busy_job_oldest_age_seconds" not in told(replace(empty(), busy=busy))

    def test_details_are_told_for_three_minutes(self) -> None:
        its = told(with_details(asked_at=NOW - 180))
        assert (its["memory_bytes"], its["reservations_expired_total"], its["workers"]) == (
            {(): 5},
            {(): 7},
            {(): 3},
        )

    def test_details_older_than_three_minutes_are_not_told(self) -> None:
        its = told(with_details(asked_at=NOW - 180.5))
        assert not {"memory_bytes", "reservations_expired_total", "workers"} & its.keys()

    def test_the_start_stays_known_when_details_are_old(self) -> None:
        snapshot = replace(with_details(asked_at=NOW - 500), boot=BootVerdict(0, 12.5, settled=True))
        assert told(snapshot)["start_time_seconds"] == {(): 12.5}

    def test_saturation_is_not_known_of_a_limit_of_nothing(self) -> None:
        uses = {("q", Scope.CLUSTER): ThrottleUse(0, 1, None, 3.0)}
        its = told(replace(empty(), throttles=ThrottlesVerdict(uses)))
        assert its["throttle_limit"] == {("q", "cluster"): 0}
        assert its["throttle_saturated_seconds_total"] == {("q", "cluster"): 3.0}
        assert "throttle_saturation_ratio" not in its

    def test_the_jobs_behind_two_throttles_of_one_queue_are_told_once(self) -> None:
        assert told(full())["throttle_waiting_jobs"] == {(HOSTILE,): 9}

    def test_peers_are_told_by_their_addresses_and_where_they_are_not_known_none_is(self) -> None:
        assert told(full())["peer_connections"] == {("10.0.0.1",): 12, ("fd00::1",): 4, ("(other)",): 1}
        assert "peer_connections" not in told(empty())

    def test_sockets_and_what_waits_to_be_accepted_are_told_where_they_are_known(self) -> None:
        its = told(full())
        assert its["sockets"] == {("established",): 15, ("close_wait",): 2, ("listen",): 1}
        assert (its["accept_queue_connections"], its["accept_queue_limit"]) == ({(): 3}, {(): 128})
        assert not {"sockets", "accept_queue_connections", "accept_queue_limit"} & told(empty()).keys()

    def test_crashes_and_events_are_counted_from_the_start_where_the_output_is_read(self) -> None:
        its = told(replace(empty(), process=ProcessVerdict({}, 0, 0, {})))
        assert its["process_crashes_total"] == {(kind.value,): 0 for kind in CRASH_KINDS}
        assert its["log_events_total"] == {(event.value,): 0 for event in LogEvent}
        assert [its[f"{name}_total"] for name in ("data_races", "recovered_panics", "log_read_bytes")] == [{(): 0}] * 3
        assert not {"process_last_crash_timestamp_seconds", "log_unread_bytes", "log_quiet_seconds"} & its.keys()

    def test_of_each_class_of_crashes_the_newest_is_told_with_where_it_came_from_and_whether_it_is_known(self) -> None:
        assert told(full())["process_last_crash_timestamp_seconds"] == {
            ("concurrent-map", "webui.busyWorkers", "faktory-busy-page"): NOW - 30,
            ("killed", "(none)", "none"): NOW - 20,
        }

    def test_how_long_the_log_has_been_quiet_is_by_the_servers_clock(self) -> None:
        assert told(full())["log_quiet_seconds"] == {(): 1.5}

    def test_a_known_risk_is_1_or_0_and_absent_where_it_is_not_known(self) -> None:
        assert told(full())["known_crash_risk"] == {("faktory-busy-page",): 1, ("faktory-ent-throttle",): 0}
        assert "known_crash_risk" not in told(empty())

    def test_the_servers_process_does_not_go_by_the_names_of_our_own(self) -> None:
        assert told(full())["process_open_fds"] == {(): 40}
        assert catalogue.SERVER_FDS.full_name("faktory") == "faktory_process_open_fds"
        assert {metric.full_name("faktory") for metric in catalogue.PROCESS_METRICS} >= {"process_open_fds"}

    def test_the_bound_on_label_values_stands_beside_each_of_their_counts(self) -> None:
        its = told(full())
        assert its["forewarn_label_values_limit"] == {("queue",): 200, ("jobtype",): 200}
        assert its["forewarn_label_values"].keys() == its["forewarn_label_values_limit"].keys()
        assert "forewarn_label_values_limit" not in told(replace(empty(), queues=QueuesVerdict(None, {}, 200)))

    def test_a_collector_has_every_reason_from_its_first_run(self) -> None:
        errors = told(full())["forewarn_collector_errors_total"]
        assert errors == {
            (name, reason.value): 7 if (name, reason) == ("store", Reason.TIMEOUT) else 0
            for name in ("health", "store")
            for reason in Reason
        }

    def test_a_failed_collector_is_down_and_still_has_its_duration(self) -> None:
        its = told(full())
        assert its["forewarn_collector_up"] == {("health",): 1, ("store",): 0}
        assert its["forewarn_collector_duration_seconds"] == {("health",): 0.0015, ("store",): 0.25}

    def test_what_the_server_calls_itself_is_cut_and_never_empty(self) -> None:
        snapshot = full()
        health = snapshot.observation.health
        assert health is not None
        named = replace(snapshot.observation, health=replace(health, version="9" * 500, edition=""))
        assert told(replace(snapshot, observation=named))["info"] == {("9" * 128, "(empty)"): 1}


def test_the_age_of_a_snapshot_is_never_negative() -> None:
    assert (snapshot_age(empty(taken_at=5.0), 7.5), snapshot_age(empty(taken_at=5.0), 4.0)) == (2.5, 0.0)


def exemplars_of(value: Value) -> tuple[tuple[int, Exemplar], ...]:
    assert isinstance(value, Distribution)
    return value.exemplars


def sound(value: Value) -> bool:
    if isinstance(value, Distribution):
        return 0 <= value.sum < math.inf
    return not isinstance(value, bool) and 0 <= value < math.inf
