"""The shipped alert rules and their runbooks keep to every rule of ours, and each of our rules can be broken."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from exporter.model import CRASH_KINDS, IncidentKind
from exporter.process.known import BY_ID
from exporter.rules import docs
from exporter.rules.crashes import WITHOUT_A_WORD
from exporter.rules.load import load
from exporter.rules.render import FORMATS, Format, groups, links_and_texts, render
from exporter.rules.rule import AlertRule, Recording
from exporter.rules.settings import DEFAULTS, RuleSettings
from tests import promql
from tests.programs import need
from tests.rules_lint import (
    CHECKS,
    GROUPS,
    GUARDED_ELSEWHERE,
    HOLDS_BY_ITSELF,
    SET_CHECKS,
    TOLD_AT_ONCE,
    lint,
    read,
)

ROOT: Final = Path(__file__).parent.parent
FILES: Final[Mapping[Format, Path]] = {
    "prometheus": ROOT / "alerts" / "faktory.yml",
    "kubernetes": ROOT / "alerts" / "faktory.prometheusrule.yml",
}
ALERTMANAGER: Final = ROOT / "alerts" / "alertmanager.yml"
RUNBOOKS: Final = ROOT / "docs" / "runbooks"

SIGNALS: Final = {
    "connections": ("FaktoryConnectionsNearLimit", "FaktoryConnectionsFilling"),
    "busy jobs": ("FaktoryReservationNearlyUsed", "FaktoryBusyJobOlderThanUsual"),
    "workers": ("FaktoryNoWorkers", "FaktoryWorkerCrashRateHigh"),
    "throttles": ("FaktoryThrottleSaturated", "FaktoryThrottleNotDraining"),
}
"""The level of each signal, and its early warning."""

HEADINGS: Final = (
    "## Meaning",
    "## Impact",
    "## What to do in the next five minutes",
    "## How to tell a false alarm",
    "## Diagnosis",
    "## Mitigation",
    "## Why this threshold",
)
"""Of every page below its name, in this order. What is generated comes behind them."""

SHIPPED: Final[dict[str, Any]] = yaml.safe_load(FILES["prometheus"].read_text())
RULES: Final = read(SHIPPED["groups"], [])
ALERTS: Final = [rule for rule in RULES if rule.alerts]
NAMES: Final = list(dict.fromkeys(rule.name for rule in ALERTS))


def alert_rules(settings: RuleSettings = DEFAULTS) -> Iterator[AlertRule]:
    return (rule for group in groups(settings) for rule in group.rules if isinstance(rule, AlertRule))


# The rules


@pytest.mark.parametrize("check", ["syntax", *CHECKS, *SET_CHECKS])
def test_the_shipped_rules_keep_to(check: str) -> None:
    assert [str(found) for found in lint(SHIPPED["groups"]) if found.check == check] == []


def test_rules_for_more_objectives_keep_to_every_check(tmp_path: Path) -> None:
    made = tmp_path / "rules.toml"
    made.write_text(
        'objectives = [{queues = "critical|mail.*", seconds = 5, target = 0.999}, '
        '{queues = "bulk.*", seconds = 3600, target = 0.95}, {queues = ".*", seconds = 60, target = 0.99}]\n'
        "[alerts.FaktoryQueueLatencyBudgetBurn]\nwindows = "
        '[{severity = "critical", long = "2h", short = "10m", factor = 8, for = "2m"}]\n'
    )
    assert lint(yaml.safe_load(render(load(made), "prometheus"))["groups"]) == []


@pytest.mark.parametrize(
    "table",
    [HOLDS_BY_ITSELF, TOLD_AT_ONCE, GUARDED_ELSEWHERE],
    ids=["holds by itself", "told at once", "guarded elsewhere"],
)
def test_no_exception_outlives_its_alert(table: Mapping[str, str]) -> None:
    assert table.keys() <= set(NAMES)


@pytest.mark.parametrize("rule", list(alert_rules()), ids=lambda rule: f"{rule.name}-{rule.severity}")
def test_an_alert_says_which_labels_it_has(rule: AlertRule) -> None:
    (found,) = (each for each in ALERTS if each.name == rule.name and each.body["expr"] == rule.expr)
    assert found.shape is not None
    unnamed = {"reason", "set", "collector", "label"}  # told by the text, no way to choose a panel's series
    assert set(rule.by) <= found.shape.labels
    assert found.shape.labels - set(rule.by) <= unnamed


def test_the_groups_are_all_there() -> None:
    assert [group["name"] for group in SHIPPED["groups"]] == list(GROUPS)


def test_there_are_enough_alerts() -> None:
    assert len(NAMES) >= 25


@pytest.mark.parametrize("signal", SIGNALS)
def test_each_signal_has_a_level_and_an_early_warning(signal: str) -> None:
    level, early = SIGNALS[signal]
    assert {level, early} <= set(NAMES)
    assert level != early


def test_there_is_a_way_to_know_that_alerting_works() -> None:
    (watchdog,) = (rule for rule in ALERTS if rule.name == "ForewarnWatchdog")
    assert str(watchdog.expr) == "vector(1) > 0"


def test_every_recorded_series_is_used() -> None:
    used = {name for rule in RULES for name in promql.metrics(rule.expr)}
    assert [rule.name for rule in RULES if not rule.alerts and rule.name not in used] == []


# The files


@pytest.mark.parametrize("form", FORMATS)
def test_the_committed_rules_are_those_that_are_rendered(form: Format) -> None:
    assert FILES[form].read_text() == render(DEFAULTS, form), "run: python -m exporter.rules"


def test_the_committed_page_of_alerts_is_the_one_that_is_written() -> None:
    assert (ROOT / "docs" / "alerts.md").read_text() == docs.overview(DEFAULTS), "run: python -m exporter.rules"


def test_the_rule_file_says_what_the_rules_say() -> None:
    told = [
        {"record": rule.record, "expr": rule.expr}
        if isinstance(rule, Recording)
        else {
            "alert": rule.name,
            "expr": rule.expr,
            **({"for": rule.pending} if rule.pending != "0s" else {}),
            **({"keep_firing_for": rule.keep_firing_for} if rule.keep_firing_for != "0s" else {}),
            "labels": {"severity": rule.severity, **rule.labels},
            "annotations": links_and_texts(rule, DEFAULTS),
        }
        for group in groups(DEFAULTS)
        for rule in group.rules
    ]
    assert [rule for group in SHIPPED["groups"] for rule in group["rules"]] == told


def test_the_prometheus_rule_holds_the_same_groups() -> None:
    document = yaml.safe_load(FILES["kubernetes"].read_text())
    assert document["spec"] == SHIPPED
    assert (document["apiVersion"], document["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert re.fullmatch(r"[a-z0-9-]+", document["metadata"]["name"])


def test_promtool_accepts_the_defaults() -> None:
    promtool(FILES["prometheus"])


def test_promtool_accepts_rules_with_a_selector(tmp_path: Path) -> None:
    chosen, made = tmp_path / "rules.toml", tmp_path / "rules.yml"
    chosen.write_text("""selector = 'cluster="prod",job=~"forewarn.*"'\n""")
    made.write_text(render(load(chosen), "prometheus"))
    promtool(made)


def test_promtool_would_refuse_wrong_rules(tmp_path: Path) -> None:
    wrong = tmp_path / "rules.yml"
    wrong.write_text(yaml.safe_dump(in_groups({"alert": "FaktoryDown", "expr": "faktory_up == 0", "fur": "1m"})))
    with pytest.raises(AssertionError, match="field fur not found"):
        promtool(wrong)


def promtool(path: Path) -> None:
    need("promtool", "prometheus")
    command = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# The routes


def test_the_alertmanager_names_alerts_that_exist() -> None:
    document = yaml.safe_load(ALERTMANAGER.read_text())
    named = list(alerts_named(document))
    assert len(named) > 20
    assert [name for name in named if not any(re.fullmatch(name, each) for each in NAMES)] == []


def test_the_alertmanager_groups_and_silences_by_labels_that_alerts_have() -> None:
    document = yaml.safe_load(ALERTMANAGER.read_text())
    outside = {"alertname", "cluster"}  # given by Prometheus: to every alert, and as one of its external labels
    labels = outside.union(*(rule.every_label for rule in ALERTS))
    used = {*document["route"]["group_by"], *(each for rule in document["inhibit_rules"] for each in rule["equal"])}
    assert used - labels == set()


def alerts_named(node: object) -> Iterator[str]:
    """Yield every regular expression of alert names in the matchers of a configuration, each alternative alone."""
    if isinstance(node, dict):
        for value in node.values():
            yield from alerts_named(value)
    elif isinstance(node, list):
        for value in node:
            yield from alerts_named(value)
    elif isinstance(node, str) and (found := re.fullmatch(r'alertname(?:=~?|!=|!~)"([^"]+)"', node)):
        yield from alternatives(found[1])


def alternatives(expression: str) -> Iterator[str]:
    """Yield the alternatives of a regular expression, those in its first parentheses as well."""
    if group := re.fullmatch(r"([^()|]*)\(([^()]*)\)([^()|]*)", expression):
        before, inner, after = group.groups()
        yield from (before + each + after for each in inner.split("|"))
    else:
        assert "(" not in expression, f"this test does not understand {expression}"
        yield from expression.split("|")


# Each check can fail

GOOD: Final[dict[str, Any]] = {
    "alert": "FaktoryConnectionsNearLimit",
    "expr": "faktory_connections / (faktory_connections_limit > 0) > 0.8",
    "for": "5m",
    "keep_firing_for": "10m",
    "labels": {"severity": "warning"},
    "annotations": {
        "summary": "Faktory {{ $labels.server }} runs out of connections.",
        "description": "{{ $value | humanizePercentage }} of its limit is used. See which peer holds them.",
        "runbook_url": "https://runbooks.example.com/forewarn/FaktoryConnectionsNearLimit.md",
        "dashboard_url": "https://grafana.example.com/d/faktory-workers?viewPanel=1"
        "&var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}"
        "&var-server={{ $labels.server | urlquery }}",
    },
}
BUSY: Final = {"record": "queue:faktory_busy_jobs:sum", "expr": "sum without (jobtype) (faktory_busy_jobs)"}
GROWTH: Final = {"record": "server:faktory_connections:deriv", "expr": "deriv(faktory_connections[15m])"}


def in_groups(*rules: Mapping[str, Any], name: str = "faktory.saturation", interval: str = "30s") -> dict[str, Any]:
    return {"groups": [{"name": name, "interval": interval, "rules": list(rules)}]}


def alert(expr: str | None = None, **changed: Any) -> dict[str, Any]:
    """Return the good alert with another expression, other keys (``None`` takes one away), or other texts."""
    texts = {key: changed.pop(key) for key in list(changed) if key in GOOD["annotations"]}
    made = {**GOOD, **({"expr": expr} if expr else {}), **changed}
    made["annotations"] = GOOD["annotations"] | texts
    return {key: value for key, value in made.items() if value is not None}


def record(name: str, expr: str, **more: Any) -> dict[str, Any]:
    return {"record": name, "expr": expr, **more}


BAD: Final[list[tuple[str, str, list[dict[str, Any]]]]] = [
    ("syntax", "unclosed left parenthesis", [alert("rate(faktory_commands_total[5m] > 1")]),
    ("syntax", "expected type matrix", [alert("rate(faktory_commands_total) > 1")]),
    ("series", "there is no metric faktory_connection", [alert("faktory_connection > 5")]),
    ("series", "there is no metric", [alert('{job="forewarn"} > 5')]),
    ("series", "name the metric", [alert('count without (queue) ({__name__=~"faktory_queue.+"}) > 5')]),
    ("series", "there is no metric queue:faktory_busy_jobs:sum", [alert(f"{BUSY['record']} > 5"), BUSY]),
    ("series", "has no label queue", [alert('faktory_connections{queue="mail"} > 5')]),
    ("series", "no label jobtype here", [BUSY, alert("sum without (jobtype) (queue:faktory_busy_jobs:sum) > 5")]),
    ("series", "has no label jobtype", [BUSY, alert('queue:faktory_busy_jobs:sum{jobtype="a"} > 5')]),
    ("series", "on (queue)", [alert("faktory_queue_jobs > 5 and on (queue) faktory_connections > 5")]),
    ("series", "neither side of * ignoring (peer)", [alert("faktory_up * ignoring (peer) faktory_connections > 5")]),
    (
        "series",
        "never match: only one of them has queue",
        [alert("faktory_queue_jobs / (faktory_connections > 0) > 5")],
    ),
    ("series", "may have several series", [alert("faktory_queue_jobs / on (server) (faktory_connections > 0) > 5")]),
    ("series", "le", [record("queue:faktory_job_duration_seconds:p99", "histogram_quantile(0.9, faktory_busy_jobs)")]),
    ("counter", "is a counter, and under nothing", [alert("faktory_commands_total > 5")]),
    (
        "counter",
        "is a counter, and under sum",
        [alert("rate(faktory_up[5m]) > sum without () (faktory_commands_total)")],
    ),
    ("counter", "is a counter, and under deriv", [alert("deriv(faktory_commands_total[5m]) > 5")]),
    ("counter", "is a counter", [alert("faktory_job_duration_seconds_count > 5")]),
    ("counter", "is no counter", [alert("increase(faktory_connections[5m]) > 5")]),
    ("counter", "is no counter", [alert("rate(faktory_busy_job_age_seconds_bucket[5m]) > 5")]),
    (
        "rate of an aggregate",
        "take it of each counter",
        [alert("rate(sum without (reason) (increase(faktory_worker_crashes_total[5m]))[10m:1m]) > 5")],
    ),
    ("range", "below 60 s", [alert("increase(faktory_restarts_total[30s]) > 5")]),
    ("range", "below 120 s", [BUSY, alert("min_over_time(queue:faktory_busy_jobs:sum[1m]) > 5")]),
    ("range", "below 240 s", [alert("min_over_time(faktory_up[2m:1m]) > 5")]),
    ("range", "Prometheus keeps", [alert("avg_over_time(faktory_connections[30d]) > 5")]),
    ("comparison", "it compares nothing", [alert("faktory_connections")]),
    ("comparison", "it compares nothing", [alert("faktory_connections > bool 5")]),
    ("comparison", "it compares nothing", [alert("faktory_connections > 5 or faktory_connections_limit")]),
    ("division", "which may be 0", [alert("faktory_connections / faktory_connections_limit > 0.8")]),
    ("division", "which may be 0", [alert("faktory_connections / (faktory_connections_limit >= bool 0) > 0.8")]),
    ("division", "which may be 0", [alert("faktory_connections / clamp_min(faktory_connections_limit, 0) > 0.8")]),
    ("aggregation", "names what it keeps", [alert("sum by (job, instance, server) (faktory_queue_jobs) > 5")]),
    ("aggregation", "names what it keeps", [alert("sum(faktory_queue_jobs) > 5")]),
    ("aggregation", "takes instance away", [alert("sum without (instance) (faktory_connections) > 5")]),
    ("aggregation", "chooses other series", [alert("topk without (queue) (3, faktory_queue_jobs) > 5")]),
    ("regular expression", "needs no regular expression", [alert('faktory_queue_jobs{queue=~"mail"} > 5')]),
    ("regular expression", "anchors it already", [alert('faktory_queue_jobs{queue!~"^mail.*"} > 5')]),
    ("regular expression", "chooses everything", [alert('faktory_queue_jobs{queue=~".*"} > 5')]),
    (
        "shadowed or",
        "never shows",
        [alert("rate(faktory_jobs_failed_total[5m]) or rate(faktory_jobs_processed_total[5m]) > 5")],
    ),
    ("units", "counts seconds", [alert("faktory_set_overdue_seconds > on (server) faktory_memory_bytes")]),
    ("units", "looks like percent", [alert("faktory_throttle_saturation_ratio > 80")]),
    ("trend with a level", "how far it has come", [alert("predict_linear(faktory_connections[15m], 1800) > 5")]),
    ("trend with a level", "how far it has come", [GROWTH, alert("server:faktory_connections:deriv > 5")]),
    (
        "trend with a level",
        "how far it has come",
        [alert("deriv(faktory_connections[15m]) > 5 unless faktory_connections > 5")],
    ),
    ("absence", "may be a lost scrape", [alert("absent(forewarn_build_info)", **{"for": "30s"})]),
    ("times", "no time above zero", [alert(**{"for": "0s"})]),
    ("times", "no time above zero", [alert(keep_firing_for="10 minutes")]),
    (
        "for on top of a window",
        "as long as the window",
        [alert("min_over_time(faktory_connections[5m]) > 5")],
    ),
    ("blips", "one sample only", [alert(**{"for": None})]),
    ("flapping", "no keep_firing_for", [alert(keep_firing_for=None)]),
    (
        "flapping",
        "no keep_firing_for",
        [alert("faktory_connections > 5 and increase(faktory_restarts_total[9m]) > 0", keep_firing_for=None)],
    ),
    ("labels", "has a template", [alert(labels={"severity": "warning", "used": "{{ $value }}"})]),
    ("labels", "overwrites", [alert(labels={"severity": "warning", "server": "all"})]),
    ("severity", "none of critical", [alert(labels={"severity": "page"})]),
    ("severity", "none of critical", [alert(labels={})]),
    ("severity", "only for that", [alert(labels={"severity": "none"})]),
    ("templates", "names the label queue", [alert(summary="Queue {{ $labels.queue }} is full.")]),
    ("templates", "other than a label", [alert(summary='It is {{ query "up" }}.')]),
    ("templates", "not closed", [alert(summary="It is {{ $labels.server.")]),
    ("summary", "not one sentence", [alert(summary="It is full")]),
    ("summary", "not one sentence", [alert(summary="It is full. See why.")]),
    ("summary", "not one sentence", [alert(summary="")]),
    ("summary", "changes with the value", [alert(summary="It has {{ $value }} connections.")]),
    ("summary", "too many", [alert(summary="It is " + "very " * 30 + "full.")]),
    ("description", "what to do first", [alert(description="{{ $value | humanizePercentage }} is used.")]),
    ("description", "several lines", [alert(description="{{ $value | humanizePercentage }}.\nIt is used. See why.")]),
    ("description", "does not tell the value", [alert(description="Much is used. See why.")]),
    ("description", "told by nothing", [alert(description="{{ $value }} is used. See why.")]),
    ("description", "the value counts ratio", [alert(description="{{ $value | humanizeDuration }} is used. See why.")]),
    (
        "description",
        "the value counts seconds",
        [alert("faktory_set_overdue_seconds > 60", description="{{ $value | humanizePercentage }} late. See why.")],
    ),
    (
        "description",
        "the value counts seconds",
        [
            alert(
                "histogram_quantile(0.9, rate(faktory_job_duration_seconds_bucket[9m])) > 60",
                description="{{ $value | humanize }} late. See why.",
            )
        ],
    ),
    ("description", "always the same", [alert("faktory_up == 0", description="{{ $value }} is down. See why.")]),
    (
        "description",
        "without their unit",
        [alert("faktory_memory_bytes > 60", description="{{ $value | humanize1024 }} used. See why.")],
    ),
    ("links", "runbook_url", [alert(runbook_url="https://runbooks.example.com/FaktoryDown.md")]),
    ("links", "runbook_url", [alert(runbook_url="")]),
    ("links", "does not lead to a panel", [alert(dashboard_url="https://grafana.example.com/d/faktory-workers")]),
    ("links", "does not fill in var-queue", [alert("faktory_queue_jobs > 5")]),
    (
        "links",
        "without urlquery",
        [alert(dashboard_url="https://g.example.com/d/faktory?viewPanel=1&var-job={{ $labels.job }}")],
    ),
    ("recorded name", "not level:metric:operations", [record("busy_jobs", "faktory_busy_jobs")]),
    ("recorded name", "its level is server", [record("server:faktory_busy_jobs:sum", BUSY["expr"])]),
    ("recorded name", "it names faktory_queue_jobs", [record("queue:faktory_queue_jobs:sum", BUSY["expr"])]),
    (
        "recorded name",
        "leave _total out",
        [record("server:faktory_commands_total:rate5m", "rate(faktory_commands_total[5m])")],
    ),
    ("recorded name", "says 5m", [record("server:faktory_commands:rate5m", "rate(faktory_commands_total[10m])")]),
    ("unique names", "there are 2 of this name", [BUSY, BUSY]),
    ("unique names", "have the same labels", [GOOD, alert("faktory_connections > 5")]),
    ("same expression", "is that of FaktoryDown", [alert(alert="FaktoryDown"), alert()]),
    ("alert names", "CamelCase", [alert(alert="Faktory_connections")]),
    ("alert names", "begins with Faktory or Forewarn", [alert(alert="ConnectionsNearLimit")]),
]


def test_a_good_rule_has_no_finding() -> None:
    assert lint(in_groups(GOOD)["groups"]) == []


@pytest.mark.parametrize(("check", "text", "rules"), BAD, ids=[f"{check}-{text}" for check, text, _ in BAD])
def test_a_bad_rule_is_found(check: str, text: str, rules: list[dict[str, Any]]) -> None:
    told = [found.text for found in lint(in_groups(*rules)["groups"]) if found.check == check]
    assert any(text in each for each in told), told


BAD_GROUPS: Final = [
    ("group order", "there is no such group", in_groups(GOOD, name="faktory.rules")["groups"]),
    (
        "group order",
        "not in the order",
        [*in_groups(name="forewarn.meta")["groups"], *in_groups(name="faktory.saturation")["groups"]],
    ),
    ("unique names", "there are 2 of this name", in_groups()["groups"] * 2),
    ("group interval", "its interval is 5m", in_groups(GOOD, interval="5m")["groups"]),
    ("group interval", "its interval is None", [{"name": "faktory.saturation", "rules": []}]),
]


@pytest.mark.parametrize(("check", "text", "made"), BAD_GROUPS, ids=[f"{it[0]}-{it[1]}" for it in BAD_GROUPS])
def test_a_bad_group_is_found(check: str, text: str, made: list[dict[str, Any]]) -> None:
    told = [found.text for found in lint(made) if found.check == check]
    assert any(text in each for each in told), told


def test_every_check_has_a_bad_example() -> None:
    assert {check for check, *_ in (*BAD, *BAD_GROUPS)} == {"syntax", *CHECKS, *SET_CHECKS}


# The runbooks


def pages() -> list[Path]:
    return sorted(path for path in RUNBOOKS.glob("*.md") if path.name != "README.md")


def page(name: str) -> str:
    path = RUNBOOKS / f"{name}.md"
    assert path.exists(), f"the alert {name} has no page docs/runbooks/{name}.md"
    return path.read_text()


def by_hand(text: str) -> str:
    """Return a page without its generated part."""
    before, _, rest = text.partition(docs.BEGIN)
    return before + rest.partition(docs.END)[2]


def outside_code(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def promql_blocks(text: str) -> list[str]:
    return re.findall(r"^```promql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def queries(block: str) -> list[str]:
    """Return the expressions of one block: paragraphs, or one for each line, without comments."""
    lines = "\n".join(line for line in block.splitlines() if not line.lstrip().startswith("#"))
    return [each.strip() for each in re.split(r"\n\s*\n", lines) if each.strip()]


def problems_of(query: str, known: Mapping[str, promql.Family]) -> list[str]:
    problems: list[str] = []
    promql.shape(promql.parse(query), known, problems)
    # A person asks about one server, as one Forewarn sees it: there are not several.
    return [each for each in problems if "may have several series" not in each]


KNOWN: Final = promql.exported() | {
    rule.name: promql.Family(labels=rule.every_label) for rule in RULES if not rule.alerts
}


def test_every_page_has_its_alert() -> None:
    assert [path.stem for path in pages() if path.stem not in NAMES] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_the_headings_of_every_page(name: str) -> None:
    found = re.findall(r"^##? .*$", outside_code(by_hand(page(name))), re.MULTILINE)
    assert found == [f"# {name}", *HEADINGS]


@pytest.mark.parametrize("name", NAMES)
def test_no_part_of_a_page_is_empty(name: str) -> None:
    parts = re.split(r"^## .*$", by_hand(page(name)), flags=re.MULTILINE)[1:]
    assert [heading for heading, part in zip(HEADINGS, parts, strict=True) if len(part.split()) < 8] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_queries_of_a_page_use_what_exists(name: str) -> None:
    written = [each for block in promql_blocks(by_hand(page(name))) for each in queries(block)]
    assert written
    assert {each: found for each in written if (found := problems_of(each, KNOWN))} == {}


def test_a_query_of_what_does_not_exist_is_found() -> None:
    assert problems_of('faktory_queue_jobs{que="mail"} / faktory_queues', KNOWN) == [
        'faktory_queue_jobs has no label que, by which que="mail" chooses',
        "there is no metric faktory_queues: faktory_queues{}",
    ]


@pytest.mark.parametrize("name", [*NAMES, "README"])
def test_the_links_of_a_page_lead_somewhere(name: str) -> None:
    text = outside_code(page(name))
    targets = [each.partition("#") for each in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in each]
    lost = []
    for path, _, heading in targets:
        target = (RUNBOOKS / path) if path else RUNBOOKS / f"{name}.md"
        if not target.exists() or (heading and heading not in anchors(target)):
            lost.append(f"{path}#{heading}")
    assert lost == []


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", outside_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("known", BY_ID)
def test_every_known_crash_has_a_section_that_its_label_leads_to(known: str) -> None:
    assert known in anchors(RUNBOOKS / "FaktoryKnownCrashRisk.md")


@pytest.mark.parametrize("kind", CRASH_KINDS)
def test_every_class_of_crash_is_explained_on_the_page_of_its_alert(kind: IncidentKind) -> None:
    silent = re.fullmatch(WITHOUT_A_WORD, kind)
    text = page("FaktoryProcessDiedUnexplained" if silent else "FaktoryProcessCrashed")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert any(f"`{kind}`" in row for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_on_a_page_is_the_one_that_is_shipped(name: str) -> None:
    text = page(name)
    assert text.count(docs.BEGIN) == text.count(docs.END) == 1
    assert docs.with_rule(text, name, DEFAULTS) == text, "run: python -m exporter.rules"
    assert docs.runbook_part(name, DEFAULTS) in text
