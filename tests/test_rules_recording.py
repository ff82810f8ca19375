"""What the recording rules compute: of literal samples, literal values, by promtool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from msgspec import Struct

from tests.rule_cases import RULES, Samples, check, input_series, read, seconds, with_labels, with_needed
from tests.test_cli import forewarn

USED: Final = "server:faktory_connections:used_ratio"
SECONDS_LEFT: Final = "server:faktory_connections:limit_seconds"
FILES_USED: Final = "server:faktory_process_open_fds:used_ratio"
FILES_SECONDS_LEFT: Final = "server:faktory_process_open_fds:limit_seconds"
CRASHES: Final = "server:faktory_worker_crashes_per_worker:ratio"
FAILED: Final = "server:faktory_jobs_failed_per_processed:ratio_rate"
BUSY: Final = "queue:faktory_busy_jobs:sum"
BURN: Final = "queue:faktory_queue_latency:burnrate"
USUAL: Final = "queue_jobtype:faktory_job_duration_seconds:p99"
QUEUE_USUAL: Final = "queue:faktory_job_duration_seconds:p99"

TYPE_FAILED: Final = "queue_jobtype:faktory_job_failures_per_execution:ratio_rate"
UNREAD: Final = "server:forewarn_statsd_dropped_packets_per_packet:ratio_rate"
REJECTED: Final = "server:forewarn_statsd_rejected_per_sample:ratio_rate"
UNRELAYED: Final = "server:forewarn_statsd_dropped_packets_per_relayed:ratio_rate"

VANISHED: Final = 'faktory_worker_crashes_total{reason="vanished"}'
HUNG: Final = 'faktory_worker_crashes_total{reason="hung"}'
MAIL: Final = 'queue="mail"'


class Recorded(Struct, frozen=True, kw_only=True):
    """What a rule has recorded after a time in which the series had these samples, written as those of a case."""

    record: str
    what: str
    series: Samples
    after: str
    values: Mapping[str, float]
    """By the labels beside those of the server, to six decimals."""
    step: str = "30s"


CURRENT: Final = (
    Recorded(
        record=USED,
        what="connections below the limit",
        series={"faktory_connections": "1700", "faktory_connections_limit": "2000"},
        after="1m",
        values={"": 0.85},
    ),
    Recorded(
        record=USED,
        what="no connection",
        series={"faktory_connections": "0", "faktory_connections_limit": "2000"},
        after="1m",
        values={"": 0},
    ),
    Recorded(
        record=USED,
        what="connections above the limit",
        series={"faktory_connections": "2500", "faktory_connections_limit": "2000"},
        after="1m",
        values={"": 1.25},
    ),
    Recorded(
        record=USED,
        what="a limit of 1",
        series={"faktory_connections": "1", "faktory_connections_limit": "1"},
        after="1m",
        values={"": 1},
    ),
    Recorded(
        record=USED,
        what="a limit of 0",
        series={"faktory_connections": "1700", "faktory_connections_limit": "0"},
        after="1m",
        values={},
    ),
    Recorded(record=USED, what="no limit", series={"faktory_connections": "1700"}, after="1m", values={}),
    Recorded(
        record=USED,
        what="another server's limit",
        series={"faktory_connections": "1700", 'faktory_connections_limit{server="mail"}': "2000"},
        after="1m",
        values={},
    ),
    Recorded(
        record=SECONDS_LEFT,
        what="one connection more every two seconds",
        series={"faktory_connections": "500+15", "faktory_connections_limit": "2000"},
        after="30m",
        values={"": 1200},
    ),
    Recorded(
        record=SECONDS_LEFT,
        what="growth that began a quarter of an hour ago",
        series={"faktory_connections": "500x15m 500+15", "faktory_connections_limit": "2000"},
        after="30m",
        values={"": 2100},
    ),
    Recorded(
        record=SECONDS_LEFT,
        what="growth that began in the middle of the window",
        series={"faktory_connections": "500x22m30s 500+15", "faktory_connections_limit": "2000"},
        after="30m",
        values={"": (2000 - 725) / 0.25},
    ),
    Recorded(
        record=SECONDS_LEFT,
        what="growth that ended a quarter of an hour ago",
        series={"faktory_connections": "500+15x15m 950", "faktory_connections_limit": "2000"},
        after="30m",
        values={},
    ),
    Recorded(
        record=SECONDS_LEFT,
        what="connections above the limit that still grow",
        series={"faktory_connections": "2100+15", "faktory_connections_limit": "2000"},
        after="30m",
        values={"": 0},
    ),
    Recorded(
        record=SECONDS_LEFT,
        what="fewer and fewer connections",
        series={"faktory_connections": "1900-15", "faktory_connections_limit": "2000"},
        after="30m",
        values={},
    ),
    Recorded(record=SECONDS_LEFT, what="no limit", series={"faktory_connections": "500+15"}, after="30m", values={}),
    Recorded(
        record=FILES_USED,
        what="descriptors below the bound",
        series={"faktory_process_open_fds": "850", "faktory_process_max_fds": "1000"},
        after="1m",
        values={"": 0.85},
    ),
    Recorded(
        record=FILES_USED,
        what="a bound of 0",
        series={"faktory_process_open_fds": "850", "faktory_process_max_fds": "0"},
        after="1m",
        values={},
    ),
    Recorded(
        record=FILES_USED,
        what="Forewarn's own bound",
        series={"faktory_process_open_fds": "850", "process_max_fds": "1000"},
        after="1m",
        values={},
    ),
    Recorded(
        record=FILES_SECONDS_LEFT,
        what="one descriptor more every two seconds",
        series={"faktory_process_open_fds": "500+15", "faktory_process_max_fds": "2000"},
        after="30m",
        values={"": 1200},
    ),
    Recorded(
        record=FILES_SECONDS_LEFT,
        what="fewer and fewer descriptors",
        series={"faktory_process_open_fds": "1900-15", "faktory_process_max_fds": "2000"},
        after="30m",
        values={},
    ),
    Recorded(
        record=FILES_SECONDS_LEFT,
        what="no descriptor left",
        series={"faktory_process_open_fds": "2100+15", "faktory_process_max_fds": "2000"},
        after="30m",
        values={"": 0},
    ),
    Recorded(
        record=CRASHES,
        what="crashes for both reasons",
        series={VANISHED: "4x30m 6", HUNG: "1x30m 2", "faktory_workers": "10"},
        after="1h",
        values={"": 0.3},
    ),
    Recorded(
        record=CRASHES,
        what="workers whose number has changed",
        series={VANISHED: "4x30m 8", HUNG: "1", "faktory_workers": "12x30m30s 4x30m"},
        after="1h",
        values={"": 4 / ((61 * 12 + 60 * 4) / 121)},
    ),
    Recorded(
        record=CRASHES,
        what="crashes and workers just within an hour",
        series={VANISHED: "0x1h30s 3", HUNG: "0", "faktory_workers": "100x1h 10"},
        after="2h",
        values={"": 0.3},
    ),
    Recorded(
        record=CRASHES,
        what="crashes until no worker is left",
        series={VANISHED: "0x30m 3", HUNG: "0", "faktory_workers": "0"},
        after="1h",
        values={"": 3},
    ),
    Recorded(
        record=CRASHES,
        what="crashes longer ago than an hour",
        series={VANISHED: "0x30m 3", HUNG: "0", "faktory_workers": "10"},
        after="2h",
        values={"": 0},
    ),
    Recorded(record=CRASHES, what="an unknown number of workers", series={VANISHED: "0x30m 3"}, after="1h", values={}),
    Recorded(
        record=FAILED,
        what="one failure in four",
        series={"faktory_jobs_failed_total": "100+1", "faktory_jobs_processed_total": "1000+4"},
        after="20m",
        values={"": 0.25},
    ),
    Recorded(
        record=FAILED,
        what="no failure",
        series={"faktory_jobs_failed_total": "100", "faktory_jobs_processed_total": "1000+4"},
        after="20m",
        values={"": 0},
    ),
    Recorded(
        record=FAILED,
        what="failures without anything processed",
        series={"faktory_jobs_failed_total": "100+1", "faktory_jobs_processed_total": "1000"},
        after="20m",
        values={},
    ),
    Recorded(
        record=FAILED,
        what="failures and an unknown number processed",
        series={"faktory_jobs_failed_total": "100+1"},
        after="20m",
        values={},
    ),
    Recorded(
        record=FAILED,
        what="nothing processed and nothing failed",
        series={"faktory_jobs_failed_total": "100", "faktory_jobs_processed_total": "1000"},
        after="20m",
        values={},
    ),
    Recorded(
        record=FAILED,
        what="counters that began anew",
        series={
            "faktory_jobs_failed_total": "100+1x15m 1+1",
            "faktory_jobs_processed_total": "1000+4x15m 4+4",
        },
        after="20m",
        values={"": 0.25},
    ),
    Recorded(
        record=FAILED,
        what="failures just within ten minutes",
        series={"faktory_jobs_failed_total": "100x20m30s 110", "faktory_jobs_processed_total": "1000x20m30s 1040"},
        after="30m",
        values={"": 0.25},
    ),
    Recorded(
        record=FAILED,
        what="failures longer ago than ten minutes",
        series={"faktory_jobs_failed_total": "100+1x20m 140", "faktory_jobs_processed_total": "1000+4"},
        after="30m",
        values={"": 0},
    ),
    Recorded(
        record=BUSY,
        what="job types of two queues",
        series={
            'faktory_busy_jobs{queue="mail", jobtype="Welcome"}': "3",
            'faktory_busy_jobs{queue="mail", jobtype="Receipt"}': "4",
            'faktory_busy_jobs{queue="images", jobtype="Resize"}': "0",
        },
        after="1m",
        values={'queue="mail"': 7, 'queue="images"': 0},
    ),
    Recorded(
        record=BURN,
        what="latency at its objective, above it and unknown",
        series={
            'faktory_queue_latency_seconds{queue="mail"}': "60",
            'faktory_queue_latency_seconds{queue="images"}': "60.5",
            'faktory_queue_latency_seconds{queue="news"}': "_",
        },
        after="1m",
        values={'queue="mail"': 0, 'queue="images"': 100},
    ),
    Recorded(
        record=BURN,
        what="a paused queue",
        series={
            'faktory_queue_latency_seconds{queue="mail"}': "600",
            'faktory_queue_paused{queue="mail"}': "1",
            'faktory_queue_latency_seconds{queue="images"}': "600",
            'faktory_queue_paused{queue="images"}': "0",
            'faktory_queue_latency_seconds{queue="news", server="other"}': "600",
            'faktory_queue_paused{queue="news"}': "1",
        },
        after="1m",
        values={'queue="images"': 100, 'queue="news", server="other"': 100},
    ),
)

BURNT: Final = tuple(
    Recorded(
        record=BURN + window,
        what="latency above its objective for its newer half",
        series={'faktory_queue_latency_seconds{queue="mail"}': f"60x{before} 61"},
        after=after,
        values={'queue="mail"': value},
        step=step,
    )
    # Both ends of a window are in it: of the 11 samples of 5m, 6 are above.
    for window, before, after, step, value in (
        ("5m", "7m30s", "10m", "30s", 100 * 6 / 11),
        ("30m", "45m", "1h", "30s", 100 * 31 / 61),
        ("1h", "1h30m", "2h", "30s", 100 * 61 / 121),
        ("2h", "3h", "4h", "1m", 100 * 61 / 121),
        ("6h", "9h", "12h", "5m", 100 * 37 / 73),
        ("1d", "1d12h", "2d", "5m", 100 * 145 / 289),
        ("3d", "4d12h", "6d", "5m", 100 * 433 / 865),
    )
)

WELCOME: Final = 'queue="mail", jobtype="Welcome"'
RECEIPT: Final = 'queue="mail", jobtype="Receipt"'
DURATION: Final = "faktory_job_duration_seconds"


def executions(labels: str, upto_1: int, upto_10: int, all_of_them: int) -> dict[str, str]:
    """Return a histogram of executions that all end within the first five minutes."""
    return {
        f'{DURATION}_bucket{{{labels}, le="1"}}': f"0 {upto_1}",
        f'{DURATION}_bucket{{{labels}, le="10"}}': f"0 {upto_10}",
        f'{DURATION}_bucket{{{labels}, le="+Inf"}}': f"0 {all_of_them}",
        f"{DURATION}_count{{{labels}}}": f"0 {all_of_them}",
    }


SLOW_BEFORE: Final = {
    f'{DURATION}_bucket{{{WELCOME}, le="1"}}': "0x1d5m 100",
    f'{DURATION}_bucket{{{WELCOME}, le="10"}}': "0x1d5m 100",
    f'{DURATION}_bucket{{{WELCOME}, le="+Inf"}}': "0x23h20m 1000x45m 1100",
    f"{DURATION}_count{{{WELCOME}}}": "0x23h20m 1000x45m 1100",
}
"""Executions that take longer than ten seconds, and after a day others that take less than one."""

HISTORY: Final = (
    Recorded(
        record=USUAL,
        what="99 of 100 within ten seconds",
        series=executions(WELCOME, 90, 99, 100),
        after="1d",
        values={WELCOME: 10},
        step="5m",
    ),
    Recorded(
        record=USUAL,
        what="half way between two bounds",
        series=executions(WELCOME, 98, 100, 100),
        after="1d",
        values={WELCOME: 5.5},
        step="5m",
    ),
    Recorded(
        record=USUAL,
        what="just enough executions",
        series=executions(WELCOME, 50, 50, 50),
        after="1d",
        values={WELCOME: 0.99},
        step="5m",
    ),
    Recorded(
        record=USUAL,
        what="one execution too few",
        series=executions(WELCOME, 49, 49, 49),
        after="1d",
        values={},
        step="5m",
    ),
    Recorded(
        record=USUAL,
        what="executions longer ago than a day",
        series=executions(WELCOME, 90, 99, 100),
        after="1d10m",
        values={},
        step="5m",
    ),
    Recorded(
        record=USUAL,
        what="slow executions longer ago than a day, and quick ones since",
        series=SLOW_BEFORE,
        after="2d",
        values={WELCOME: 0.99},
        step="5m",
    ),
    Recorded(
        record=USUAL,
        what="a job type with too few beside one with enough",
        series=executions(WELCOME, 49, 49, 49) | executions(RECEIPT, 0, 100, 100),
        after="1d",
        values={RECEIPT: 9.91},
        step="5m",
    ),
    Recorded(
        record=QUEUE_USUAL,
        what="two job types that are enough together",
        series=executions(WELCOME, 25, 25, 25) | executions(RECEIPT, 24, 25, 25),
        after="1d",
        values={MAIL: 5.5},
        step="5m",
    ),
    Recorded(
        record=QUEUE_USUAL,
        what="two job types that are one too few together",
        series=executions(WELCOME, 25, 25, 25) | executions(RECEIPT, 24, 24, 24),
        after="1d",
        values={},
        step="5m",
    ),
    Recorded(
        record=QUEUE_USUAL,
        what="executions longer ago than a day",
        series=executions(WELCOME, 90, 99, 100),
        after="1d10m",
        values={},
        step="5m",
    ),
    Recorded(
        record=QUEUE_USUAL,
        what="slow executions longer ago than a day, and quick ones since",
        series=SLOW_BEFORE,
        after="2d",
        values={MAIL: 0.99},
        step="5m",
    ),
)

PACKETS: Final = "forewarn_statsd_packets_total"
LOST: Final = "forewarn_statsd_dropped_packets_total"

TOLD: Final = (
    Recorded(
        record=TYPE_FAILED,
        what="one failure in four, and none of another type",
        series={
            f"faktory_job_failures_total{{{WELCOME}}}": "100+1",
            f"faktory_job_executions_total{{{WELCOME}}}": "1000+4",
            'faktory_job_failures_total{queue="mail", jobtype="Bye"}': "100",
            'faktory_job_executions_total{queue="mail", jobtype="Bye"}': "1000+4",
        },
        after="30m",
        values={WELCOME: 0.25, 'queue="mail", jobtype="Bye"': 0},
    ),
    Recorded(
        record=TYPE_FAILED,
        what="a type that was not executed",
        series={
            f"faktory_job_failures_total{{{WELCOME}}}": "100",
            f"faktory_job_executions_total{{{WELCOME}}}": "1000",
        },
        after="30m",
        values={},
    ),
    Recorded(
        record=TYPE_FAILED,
        what="a type that has never failed",
        series={f"faktory_job_executions_total{{{WELCOME}}}": "1000+4"},
        after="30m",
        values={},
    ),
    Recorded(
        record=UNREAD,
        what="packets lost in two places, of two transports",
        series={
            f'{LOST}{{at="kernel"}}': "0+3",
            f'{LOST}{{at="queue"}}': "0+2",
            f'{LOST}{{at="relay"}}': "0+100",
            f'{PACKETS}{{transport="udp"}}': "0+40",
            f'{PACKETS}{{transport="unix"}}': "0+55",
        },
        after="10m",
        values={"": 0.05},
    ),
    Recorded(
        record=UNREAD,
        what="what the kernel loses is not known",
        series={f'{LOST}{{at="queue"}}': "0+5", f'{PACKETS}{{transport="udp"}}': "0+95"},
        after="10m",
        values={"": 0.05},
    ),
    Recorded(
        record=UNREAD,
        what="no packet comes",
        series={f'{LOST}{{at="kernel"}}': "0", f'{PACKETS}{{transport="udp"}}': "7"},
        after="10m",
        values={},
    ),
    Recorded(
        record=UNREAD,
        what="no packet is read",
        series={f'{LOST}{{at="kernel"}}': "0+5", f'{PACKETS}{{transport="udp"}}': "7"},
        after="10m",
        values={"": 1},
    ),
    Recorded(
        record=REJECTED,
        what="values rejected for two reasons",
        series={
            'forewarn_statsd_rejected_total{reason="value"}': "0+3",
            'forewarn_statsd_rejected_total{reason="type"}': "0+2",
            "forewarn_statsd_samples_total": "0+95",
        },
        after="10m",
        values={"": 0.05},
    ),
    Recorded(
        record=REJECTED,
        what="no value comes",
        series={'forewarn_statsd_rejected_total{reason="value"}': "3", "forewarn_statsd_samples_total": "95"},
        after="10m",
        values={},
    ),
    Recorded(
        record=UNRELAYED,
        what="packets lost when they are passed on",
        series={
            f'{LOST}{{at="relay"}}': "0+5",
            f'{LOST}{{at="kernel"}}': "0+100",
            "forewarn_statsd_relayed_packets_total": "0+95",
        },
        after="10m",
        values={"": 0.05},
    ),
    Recorded(
        record=UNRELAYED,
        what="nothing is to be passed on",
        series={f'{LOST}{{at="relay"}}': "0", "forewarn_statsd_relayed_packets_total": "0"},
        after="10m",
        values={},
    ),
)

RECORDED: Final = (*CURRENT, *TOLD, *BURNT, *HISTORY)

OBJECTIVES: Final = """
[[objectives]]
queues = "mail|news"
seconds = 5
target = 0.95

[[objectives]]
queues = "n.*|images"
seconds = 60
target = 0.99
"""

BY_OBJECTIVE: Final = Recorded(
    record=BURN,
    what="two objectives",
    series={
        'faktory_queue_latency_seconds{queue="mail"}': "6",
        'faktory_queue_latency_seconds{queue="news"}': "61",  # matched by both: the first one is its
        'faktory_queue_latency_seconds{queue="newsletter"}': "6",  # the first one is of whole names
        'faktory_queue_latency_seconds{queue="numbers"}': "61",
        'faktory_queue_latency_seconds{queue="images"}': "60",
        'faktory_queue_latency_seconds{queue="archive"}': "600",  # matched by none
        'faktory_queue_latency_seconds{queue="mail", server="paused"}': "6",
        'faktory_queue_paused{queue="mail", server="paused"}': "1",
        'faktory_queue_latency_seconds{queue="images", server="paused"}': "61",
        'faktory_queue_paused{queue="images", server="paused"}': "1",
    },
    after="1m",
    values={
        'queue="mail"': 20,
        'queue="news"': 20,
        'queue="newsletter"': 0,
        'queue="numbers"': 100,
        'queue="images"': 0,
    },
)


def recordings(rules: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in rules["groups"] for rule in group["rules"] if "record" in rule]


def verify(recorded: Recorded, rules: Mapping[str, Any]) -> None:
    named = [rule for rule in recordings(rules) if rule["record"] == recorded.record]
    assert len(named) == 1, f"there are {len(named)} rules that record {recorded.record}"
    end = seconds(recorded.after)
    test = {
        "interval": recorded.step,
        "input_series": input_series(recorded.series, recorded.step, (), end),
        "promql_expr_test": [
            {
                "expr": f"round({recorded.record}, 1e-6)",
                "eval_time": recorded.after,
                "exp_samples": [
                    {"labels": with_labels(f"{{{labels}}}"), "value": round(value, 6)}
                    for labels, value in recorded.values.items()
                ],
            }
        ],
    }
    check(
        {"evaluation_interval": recorded.step, "tests": [test]}, with_needed(named[0], rules["groups"]), recorded.what
    )


@pytest.mark.parametrize("recorded", [pytest.param(each, id=f"{each.record}: {each.what}") for each in RECORDED])
def test_records(recorded: Recorded) -> None:
    verify(recorded, read(RULES))


def test_the_first_objective_that_matches_a_queue_is_its(tmp_path: Path) -> None:
    settings = tmp_path / "rules.toml"
    settings.write_text(OBJECTIVES)

    rendered = forewarn("rules", "--settings", str(settings))

    assert rendered.returncode == 0, rendered.stderr
    verify(BY_OBJECTIVE, yaml.safe_load(rendered.stdout))


def test_every_recording_rule_is_tried() -> None:
    assert {rule["record"] for rule in recordings(read(RULES))} == {each.record for each in RECORDED}
