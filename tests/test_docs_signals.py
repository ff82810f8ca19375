"""docs/signals.md says what the code and the rules do: every number, metric, alert, recorded series and level."""

from __future__ import annotations

import re

import pytest

from exporter import catalogue
from exporter.faktory.source import INFO_REST, connections_limit
from exporter.model import CrashReason, Health
from exporter.rules.render import groups
from exporter.rules.rule import AlertRule, Recording
from exporter.rules.settings import DEFAULTS
from exporter.settings import Settings, parse_duration
from exporter.signals import boot, busy, connections, throttles, workers
from exporter.status.document import Level
from tests.doc_commands import pages

TEXT = pages()["docs/signals.md"]
FLAT = " ".join(TEXT.split())
ALERTS = DEFAULTS.alerts
RULES = [rule for group in groups(DEFAULTS) for rule in group.rules]


def section(title: str) -> str:
    """Return what stands under a heading, on one line."""
    return " ".join(TEXT.split(f"## {title}\n")[1].split("\n## ")[0].split())


def test_every_metric_alert_and_series_that_is_named_exists() -> None:
    metrics = {metric.full_name("faktory") for metric in catalogue.METRICS}
    assert set(re.findall(r"`((?:faktory|forewarn)_\w+)`", TEXT)) <= metrics
    alerts = {rule.name for rule in RULES if isinstance(rule, AlertRule)}
    named = set(re.findall(r"`(F(?:aktory|orewarn)[A-Z]\w+)`", TEXT))
    assert len(named) > 10
    assert named <= alerts
    recorded = {rule.record for rule in RULES if isinstance(rule, Recording)}
    assert set(re.findall(r"`(\w+:\w+:\w+)`", TEXT)) <= recorded


def test_every_metric_of_the_four_signals_is_explained() -> None:
    of_signal = {
        "Connections": {"connections", "connections_limit", "connections_refused_total", "peer_connections"},
        "Busy jobs": {"busy_job_oldest_age_seconds", "busy_job_reservation_used_ratio", "job_duration_seconds"},
        "Workers": {"workers", "worker_crashes_total", "orphaned_jobs", "orphaned_job_oldest_age_seconds"},
        "Throttles": {"throttle_in_use", "throttle_saturation_ratio", "throttle_saturated_seconds_total"},
    }
    for title, names in of_signal.items():
        assert {f"faktory_{name}" for name in names} <= set(re.findall(r"`(faktory_\w+)`", section(title)))


@pytest.mark.parametrize(
    ("version", "edition", "limit"), [("1.9.0", "oss", 2000), ("1.8.9", "oss", 1000), ("1.10.0", "enterprise", None)]
)
def test_the_limits_of_the_versions_are_those_of_the_code(version: str, edition: str, limit: int | None) -> None:
    assert "2000 since 1.9, 1000 before; of Enterprise nothing" in section("Connections")
    health = Health(version=version, edition=edition, connections=0, commands=0)
    assert connections_limit(None, health) == limit
    assert connections_limit(7, health) == 7


def test_the_numbers_of_connections_are_those_of_the_code_and_the_rules() -> None:
    told = section("Connections")
    near, filling, peer = (
        ALERTS.faktory_connections_near_limit,
        ALERTS.faktory_connections_filling,
        ALERTS.faktory_peer_holds_connections,
    )
    assert f"share above {near.used_share} for 5 minutes" in told
    assert parse_duration(near.pending) == 300
    assert f"critical** above {near.critical_share} for one minute" in told
    assert parse_duration(near.critical_for) == 60
    assert f"a share of {filling.used_share} already" in told
    assert f"full within {filling.seconds_left // 60:g} minutes at the pace of the last 15 " in told
    assert parse_duration(filling.window) == 900
    assert f"more than {peer.peer_share} of all connections, once half of the limit" in told
    assert peer.used_share == 0.5
    assert f"the {connections.PEERS} largest" in told


def test_the_numbers_of_busy_jobs_are_those_of_the_code_and_the_rules() -> None:
    told = section("Busy jobs")
    older, idle = ALERTS.faktory_busy_job_older_than_usual, ALERTS.faktory_busy_without_completions
    assert f"more than {busy.LONGEST_STEP:g} s" in told
    assert f"more than {ALERTS.faktory_reservation_nearly_used.used_share} of its reservation" in told
    assert parse_duration(ALERTS.faktory_reservation_nearly_used.pending) == 0
    assert f"older than {older.seconds:g} s and than three times" in told
    assert (older.factor, older.history) == (3, "1d")
    assert "none has ended for 15 minutes" in told
    assert parse_duration(idle.window) == 900


def test_the_numbers_of_workers_are_those_of_the_code_and_the_rules() -> None:
    told = section("Workers")
    rate = ALERTS.faktory_worker_crash_rate_high
    assert f"not moved for {workers.SILENCE:g} s" in told
    assert f"at two polls, {workers.GRACE:g} s or more apart" in told
    assert INFO_REST == 60
    assert "asked for at most once a minute" in told
    assert f"for {boot.SETTLING:g} s after a start" in told
    assert ALERTS.faktory_jobs_orphaned.seconds == 300
    assert "orphaned for 5 minutes" in told
    assert (rate.workers_share, rate.window, rate.crashes) == (0.2, "1h", 3)
    assert "a fifth of all workers within an hour, and three crashes at least" in told
    assert {f"`{reason.value}`" for reason in CrashReason} <= set(re.findall(r"`\w+`", told))
    assert re.search(r"default interval that takes 15 s at most", told)
    assert re.search(r"\| told after \| 9 s \| 12 s \| 15 s \|", pages()["docs/crashes.md"])


def test_the_numbers_of_throttles_are_those_of_the_code_and_the_rules() -> None:
    told = section("Throttles")
    trend = ALERTS.faktory_throttle_not_draining
    assert f"steps longer than {throttles.LONGEST_STEP:g} s" in told
    assert ALERTS.faktory_throttle_saturated.pending == "10m"
    assert "jobs wait behind it, for 10 minutes" in told
    assert f"at least {trend.jobs} jobs wait, {trend.factor} times as many as half an hour ago" in told
    assert trend.window == "30m"
    assert f"{trend.used_share} of the throttle is in use" in told


def test_the_levels_are_those_of_the_status() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT.split("## Levels")[1], re.MULTILINE) == [level.value for level in Level]


def test_the_default_interval_is_the_one_of_the_settings() -> None:
    assert f"`--interval` ({Settings(servers=()).interval:g} s by default)" in FLAT
