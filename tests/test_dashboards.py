"""The shipped dashboards: made by the code beside them, right by every check, and where the alerts lead."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import promql_parser as pp
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.board import text, unhidden
from dashboards.declared import AD_HOC, MAY_BE_EMPTY
from dashboards.every import every
from exporter.catalogue import METRICS
from exporter.rules import panels as numbers
from exporter.rules.load import load
from exporter.rules.panels import Panel
from exporter.rules.render import groups, links_and_texts
from exporter.rules.rule import AlertRule, Recording
from exporter.rules.settings import DEFAULTS, RuleSettings
from tests import dashboards, promql
from tests.dashboards import CHECKS, UIDS, Dashboard, shipped
from tests.programs import need

OPENED = {name: value for name, value in vars(numbers).items() if isinstance(value, Panel)}
"""The panels that alerts open, by the names of their constants."""


def alerts(settings: RuleSettings) -> list[AlertRule]:
    """Return every alert."""
    return [rule for group in groups(settings) for rule in group.rules if isinstance(rule, AlertRule)]


ALERTS = {
    f"{rule.name}-{rule.severity}-{'-'.join(rule.labels.values())}".rstrip("-"): rule for rule in alerts(DEFAULTS)
}


def made(settings: RuleSettings) -> dict[str, Dashboard]:
    """Return the dashboards as the code makes them."""
    return {str(board.uid): json.loads(text(board)) for board in every(settings)}


def panel_of(boards: dict[str, Dashboard], panel: Panel) -> dict[str, Any]:
    """Return a panel by its number."""
    (found,) = (each for each in boards[panel.dashboard]["panels"] if each["id"] == panel.number)
    assert isinstance(found, dict)
    return found


def expressions(panel: dict[str, Any]) -> list[pp.Expr]:
    """Return what a panel asks for."""
    return [promql.parse(dashboards.expanded(target["expr"])) for target in panel["targets"]]


def plain(expr: pp.Expr) -> str:
    """Return an expression without its label matchers, to compare what is asked for whatever is chosen."""
    return re.sub(r"\{[^}]*\}", "", " ".join(str(expr).split()))


SHIPPED = {uid: shipped(uid) for uid in UIDS}


def test_the_shipped_files_are_what_the_code_makes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dashboards", "--output", str(tmp_path)]
    subprocess.run(command, check=True, cwd=dashboards.FOLDER.parent, timeout=60)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in dashboards.FOLDER.glob("*.json")}
    assert sorted(fresh) == sorted(f"{uid}.json" for uid in UIDS)
    assert fresh == kept, "the dashboards have drifted: run python -m dashboards"


def test_a_wrong_settings_file_is_told_by_key(tmp_path: Path) -> None:
    wrong = tmp_path / "rules.toml"
    wrong.write_text("[alerts.FaktoryRetryStorm]\nfailed_share = 25\n")
    command = [sys.executable, "-m", "dashboards", "--settings", str(wrong), "--output", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=dashboards.FOLDER.parent, timeout=60)
    assert ended.returncode == 2
    assert "alerts.FaktoryRetryStorm.failed_share" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("uid", UIDS)
def test_a_dashboard_passes(uid: str, check: str) -> None:
    assert list(CHECKS[check](SHIPPED[uid])) == []


Break = Callable[[dict[str, Any]], None]


def first(board: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the first panel of a kind."""
    found = next(panel for panel in board["panels"] if panel["type"] == kind)
    assert isinstance(found, dict)
    return found


def asking(board: dict[str, Any], expr: str) -> None:
    """Put an expression into the first graph."""
    first(board, "timeseries")["targets"][0]["expr"] = expr


_CHOSEN = 'job=~"$job", instance=~"$instance", server=~"$server"'


def _broken(board: dict[str, Any], check: str) -> Iterator[Break]:
    """Yield what makes a check speak, one fault each."""
    variables = board["templating"]["list"]
    match check:
        case "template-datasource":
            yield lambda it: it["templating"]["list"].pop(0)
        case "template-variables":
            yield lambda it: it["templating"]["list"].pop(1)
            for key in ("multi", "includeAll", "allValue", "refresh", "label"):
                yield lambda it, key=key: it["templating"]["list"][1].pop(key)  # type: ignore[misc]
        case "template-label-promql":
            assert variables[2]["name"] == "instance"
            for query in (
                "label_values(forewarn_build_info, instance)",
                'label_values(forewarn_build_inf{job=~"$job"}, instance)',
                'label_values(forewarn_build_info{job=~"$job"}, job)',
                'label_values(forewarn_build_info{job=~"$job", instance)',
                "up",
            ):
                yield lambda it, query=query: it["templating"]["list"][2].update(query=query)  # type: ignore[misc]
        case "panel-datasource":
            yield lambda it: first(it, "timeseries").pop("datasource")
            yield lambda it: first(it, "timeseries")["targets"][0]["datasource"].update(uid="prometheus")
            yield lambda it: it["annotations"]["list"][0]["datasource"].update(uid="prometheus")
        case "panel-title-description":
            yield lambda it: first(it, "timeseries").pop("title")
            yield lambda it: first(it, "timeseries").pop("description")
            yield lambda it: first(it, "timeseries").update(description="Restarts.")
            yield lambda it: first(it, "timeseries").update(title="Redis")
        case "panel-units":
            yield lambda it: first(it, "timeseries")["fieldConfig"]["defaults"].pop("unit")
            yield lambda it: first(it, "timeseries")["fieldConfig"]["defaults"].update(unit="jobs")
        case "panel-no-targets":
            yield lambda it: first(it, "timeseries").pop("targets")
        case "target-promql":
            yield lambda it: asking(it, f"sum by (queue) (faktory_up{{{_CHOSEN}}})")
            yield lambda it: asking(it, f"faktory_upp{{{_CHOSEN}}}")
            yield lambda it: asking(it, f"rate(faktory_restarts_total{{{_CHOSEN}}})")
            yield lambda it: asking(it, f"faktory_up{{{_CHOSEN}}} > $limit")
        case "target-rate-interval":
            yield lambda it: asking(it, f"rate(faktory_restarts_total{{{_CHOSEN}}}[5m])")
            yield lambda it: asking(it, f"increase(faktory_restarts_total{{{_CHOSEN}}}[7m])")
        case "target-job and target-instance":
            yield lambda it: asking(it, 'faktory_up{instance=~"$instance"}')
            yield lambda it: asking(it, 'faktory_up{job="$job", instance=~"$instance"}')
            yield lambda it: asking(it, 'faktory_up{job=~"$job"}')
            yield lambda it: asking(it, 'ALERTS{alertname="FaktoryDown"}')
        case "target-counter-agg":
            yield lambda it: asking(it, f"faktory_restarts_total{{{_CHOSEN}}}")
            yield lambda it: asking(it, f"rate(faktory_up{{{_CHOSEN}}}[$__rate_interval])")
        case "uneditable-dashboard":
            yield lambda it: it.update(editable=True)
        case "every choice counts":
            yield lambda it: asking(it, 'faktory_up{job=~"$job", instance=~"$instance"}')
            yield lambda it: asking(it, 'ALERTS{job=~"$job", instance=~"$instance", server=~"$server"}')
        case "servers apart":
            yield lambda it: asking(it, f"sum by (job, server) (faktory_up{{{_CHOSEN}}})")
        case "others' processes":
            yield lambda it: asking(it, 'up{job=~"$job", instance=~"$instance"}')
        case "numbers":
            yield lambda it: first(it, "timeseries").update(id=first(it, "table")["id"])
        case "places":
            yield lambda it: first(it, "timeseries")["gridPos"].update(x=20)
            yield lambda it: first(it, "timeseries")["gridPos"].update(first(it, "table")["gridPos"])
        case "graphs":
            yield lambda it: first(it, "timeseries")["fieldConfig"]["defaults"].pop("min")
            yield lambda it: first(it, "timeseries")["options"]["legend"].update(showLegend=False)
            yield lambda it: first(it, "timeseries")["options"]["tooltip"].update(mode="single")
            yield lambda it: first(it, "timeseries")["fieldConfig"]["defaults"]["custom"].pop("thresholdsStyle")
            yield lambda it: first(it, "timeseries")["fieldConfig"]["defaults"]["custom"].update(axisSoftMax=1)
        case "newest values":
            yield lambda it: first(it, "stat")["targets"][0].update(instant=False, range=True)
            yield lambda it: first(it, "stat")["fieldConfig"]["defaults"].update(mappings=[])
        case "histograms":
            yield lambda it: first(it, "timeseries").update(type="heatmap")
            quantile = "histogram_quantile(0.9, sum by (job, instance, server, le) (x))"
            yield lambda it: asking(it, quantile)
        case "annotations":
            yield lambda it: it["annotations"]["list"].pop()
            yield lambda it: it["annotations"]["list"][0].update(enable=False)
        case "links":
            yield lambda it: it["links"][0].update(keepTime=False)
            yield lambda it: it["links"][0].update(placement="inControlsMenu")
            yield lambda it: it.update(description="/d/nowhere?${__url_time_range}")
            yield lambda it: it.update(description="/d/forewarn?var-queue=x&${__url_time_range}")
            yield lambda it: it.update(description="/d/forewarn?var-job=x")


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_sees_what_it_is_for(check: str) -> None:
    faults = list(_broken(copy.deepcopy(dict(SHIPPED[numbers.OVERVIEW])), check))
    assert faults
    for place, fault in enumerate(faults):
        board = copy.deepcopy(dict(SHIPPED[numbers.OVERVIEW]))
        fault(board)
        assert list(CHECKS[check](board)), f"fault {place} is not seen"


@pytest.mark.parametrize("uid", UIDS)
def test_the_models_of_grafana_take_a_dashboard_and_give_it_back(uid: str) -> None:
    # Not at the top: it warns at import, and the package of the dashboards hears that.
    from grafana_foundation_sdk.models.dashboard import Dashboard as Model

    back = json.loads(JSONEncoder().encode(Model.from_json(dict(SHIPPED[uid]))))
    assert unhidden(back) == SHIPPED[uid]


@pytest.mark.parametrize("name", OPENED)
def test_an_alert_opens_a_panel_that_is_there(name: str) -> None:
    panel = panel_of(SHIPPED, OPENED[name])
    assert panel["type"] in ("timeseries", "state-timeline")


def test_panels_that_no_alert_opens_are_numbered_from_100_up() -> None:
    opened = set(OPENED.values())
    found = {Panel(uid, panel["id"]) for uid in UIDS for panel in SHIPPED[uid]["panels"]}
    assert {panel for panel in found if panel.number < 100} == opened


@pytest.mark.parametrize("name", ALERTS)
def test_a_panel_shows_what_its_alert_is_about(name: str) -> None:
    alert = ALERTS[name]
    shown = frozenset[str]().union(*map(promql.metrics, expressions(panel_of(SHIPPED, alert.panel))))
    about = promql.metrics(promql.parse(alert.expr)) or {"ALERTS"}  # the watchdog is about nothing but itself
    assert shown & about


@pytest.mark.parametrize("name", ALERTS)
def test_a_panel_links_to_the_runbook_of_its_alert(name: str) -> None:
    alert = ALERTS[name]
    addresses = [link["url"] for link in panel_of(SHIPPED, alert.panel)["links"]]
    assert links_and_texts(alert, DEFAULTS)["runbook_url"] in addresses


@pytest.mark.parametrize("name", ALERTS)
def test_the_variables_that_an_alert_fills_in_are_on_its_dashboard(name: str) -> None:
    alert = ALERTS[name]
    filled = re.findall(r"var-(\w+)=", links_and_texts(alert, DEFAULTS)["dashboard_url"])
    assert set(filled) <= {each["name"] for each in SHIPPED[alert.panel.dashboard]["templating"]["list"]}


def thresholds(expr: pp.Expr) -> Iterator[float | str]:
    """Yield what the value of an alert is compared with: numbers, and expressions without their label matchers."""
    expr = promql.without_parentheses(expr)
    if not isinstance(expr, pp.BinaryExpr):
        return
    operator = str(expr.op)
    if operator in ("and", "unless"):
        yield from thresholds(expr.lhs)
        # The same value may have a second bound: older than a minute, and than usual.
        left, right = promql.without_parentheses(expr.lhs), promql.without_parentheses(expr.rhs)
        if operator == "and" and isinstance(right, pp.BinaryExpr) and value_of(left) == value_of(right):
            yield from thresholds(right)
    elif operator in promql.COMPARISONS:
        bound = promql.without_parentheses(expr.rhs)
        yield bound.val if isinstance(bound, pp.NumberLiteral) else plain(bound)


def value_of(expr: pp.Expr) -> str:
    """Return the left side of a comparison, the first one where there are several."""
    expr = promql.without_parentheses(expr)
    while isinstance(expr, pp.BinaryExpr) and str(expr.op) in ("and", "unless", *promql.COMPARISONS):
        expr = promql.without_parentheses(expr.lhs)
    return plain(expr)


def missing_thresholds(boards: dict[str, Dashboard], settings: RuleSettings) -> list[str]:
    """Return the thresholds of alerts that their panels do not draw."""
    missing = []
    for alert in alerts(settings):
        panel = panel_of(boards, alert.panel)
        drawn, asked = dashboards.steps(panel), {plain(each) for each in expressions(panel)}
        for bound in thresholds(promql.parse(alert.expr)):
            # What fires above 0 or at 0 shows between nothing and one.
            found = bound in asked if isinstance(bound, str) else (bound or 1.0) in drawn
            if not found and alert.name not in DRAWN_BY_ITSELF:
                missing.append(f"{alert.name}: {bound}")
    return missing


DRAWN_BY_ITSELF = {
    "ForewarnWatchdog": "it always fires, at no threshold",
}


def test_panels_draw_the_thresholds_of_their_alerts() -> None:
    assert missing_thresholds(SHIPPED, DEFAULTS) == []


CHANGED = """
selector = 'cluster="prod"'
runbooks_url = "https://wiki.example.com/pages"
objectives = [
    { queues = "mail.*", seconds = 7, target = 0.999 },
    { queues = ".*", seconds = 77, target = 0.995 },
]
"""


def changed_settings(path: Path) -> RuleSettings:
    """Return settings of which every threshold differs from its default."""
    lines = [CHANGED]
    for alert in msgspec.structs.fields(DEFAULTS.alerts):
        entry = getattr(DEFAULTS.alerts, alert.name)
        lines.append(f"[alerts.{alert.encode_name}]")
        for key in msgspec.structs.fields(entry):
            value = getattr(entry, key.name)
            if isinstance(value, float):
                lines.append(f"{key.encode_name} = {value * 0.9 if value <= 1 else value * 1.5:.6g}")
            elif isinstance(value, int) and not isinstance(value, bool):
                lines.append(f"{key.encode_name} = {value + 3}")
            elif key.encode_name == "window":
                lines.append('window = "7h"')
            elif key.encode_name == "windows":
                lines.append(
                    'windows = [{ severity = "warning", long = "5h", short = "25m", factor = 5.5, for = "1m" }]'
                )
    path.write_text("\n".join(lines))
    return load(path)


def test_thresholds_come_from_the_settings(tmp_path: Path) -> None:
    settings = changed_settings(tmp_path / "rules.toml")
    boards = made(settings)
    assert missing_thresholds(boards, settings) == []
    assert len(missing_thresholds(SHIPPED, settings)) >= 20, "the default dashboards draw the changed thresholds too"


def test_every_query_keeps_the_selector_of_the_settings(tmp_path: Path) -> None:
    settings = changed_settings(tmp_path / "rules.toml")
    for uid, board in made(settings).items():
        for target in dashboards.targets(board):
            for selector in promql.selectors(promql.parse(target.expr)):
                chosen = 'cluster="prod"' in map(str, selector.matchers)
                assert chosen or selector.metric.startswith("ALERTS"), f"{uid} {target.where}: {selector.metric}"


def test_runbooks_are_where_the_settings_say(tmp_path: Path) -> None:
    texts = "".join(json.dumps(board) for board in made(changed_settings(tmp_path / "rules.toml")).values())
    assert "https://wiki.example.com/pages/FaktoryDown.md" in texts
    assert DEFAULTS.runbooks_url not in texts


def test_panels_of_alerts_that_are_switched_off_stay_without_their_links(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("[alerts.FaktoryDown]\nenabled = false\n[alerts.ForewarnAbsent]\nenabled = false\n")
    boards = made(load(path))
    assert panel_of(boards, numbers.SERVER_UP)["links"] == []
    assert "ForewarnAbsent" not in json.dumps(boards)


def exported() -> dict[str, set[str]]:
    """Return every exported metric, and the names of its series."""
    return {
        metric.full_name("faktory"): {
            name
            for name in promql.exported()
            if re.fullmatch(rf"{metric.full_name('faktory')}(_bucket|_g?count|_g?sum)?", name)
        }
        for metric in METRICS
    }


def shown_series() -> set[str]:
    """Return every series that some panel asks for."""
    return {
        name
        for uid in UIDS
        for target in dashboards.targets(SHIPPED[uid])
        for name in promql.metrics(promql.parse(target.expr))
    }


def test_every_exported_metric_is_on_a_dashboard() -> None:
    shown = shown_series()
    unseen = [name for name, series in exported().items() if not series & shown and name not in AD_HOC]
    assert unseen == []


def test_what_is_left_for_ad_hoc_queries_is_exported_and_not_shown() -> None:
    shown = shown_series()
    assert [name for name in AD_HOC if name not in exported() or exported()[name] & shown] == []


def test_every_recorded_series_is_on_a_dashboard() -> None:
    recorded = {rule.record for group in groups(DEFAULTS) for rule in group.rules if isinstance(rule, Recording)}
    assert recorded - shown_series() == NOT_SHOWN.keys()


NOT_SHOWN = {
    "queue:faktory_queue_latency:burnrate": "0 or the fastest burn there is: the windows are averages of it",
    "queue:faktory_job_duration_seconds:p99": "a guard of an alert; what is usual is shown by job type",
}


def test_what_may_be_empty_is_there_and_has_a_reason() -> None:
    found = {
        (Panel(uid, target.panel["id"]), target.letter) for uid in UIDS for target in dashboards.targets(SHIPPED[uid])
    }
    assert MAY_BE_EMPTY.keys() <= found
    assert all(MAY_BE_EMPTY.values())


def test_the_queries_are_handed_out_as_prometheus_takes_them() -> None:
    board = SHIPPED[numbers.WORKERS]
    found = {where: (expr, empty) for where, expr, empty in dashboards.queries(board, span=600, step=5, scrape=1)}
    where = "faktory-workers: panel 2 (Time until the limit) A"
    expr = 'server:faktory_connections:limit_seconds{job=~".+", instance=~".+", server=~".+"}'
    assert found[where] == (expr, True)
    assert all("$" not in expr for expr, _ in found.values())
    assert len(found) == sum(len(panel.get("targets", [])) for panel in board["panels"])


def test_macros_become_what_grafana_makes_of_them() -> None:
    assert dashboards.expanded("rate(a[$__rate_interval])", step=15, scrape=15) == "rate(a[60s])"
    assert dashboards.expanded("rate(a[$__rate_interval])", step=300, scrape=15) == "rate(a[315s])"
    assert dashboards.expanded("rate(a[$__range]) + b[$__interval]", span=600, step=5) == "rate(a[600s]) + b[5s]"
    assert dashboards.expanded('a{queue=~"$queue"}') == 'a{queue=~".+"}'


def test_the_variables_are_handed_out_as_prometheus_takes_them() -> None:
    found = dashboards.variables(SHIPPED[numbers.QUEUES])
    assert [each.name for each in found] == ["job", "instance", "server", "queue", "jobtype"]
    assert found[1].selector == 'forewarn_build_info{job=~".+"}'
    assert [each.label for each in found] == [each.name for each in found]


def test_the_provisioning_files_fit_the_dashboards() -> None:
    folder = dashboards.FOLDER / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == f"{dashboards.SCRAPE:g}s"
    provider = yaml.safe_load((folder / "dashboards" / "forewarn.yml").read_text())["providers"][0]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False


CHOICES = 'job="f", instance="a", server="s"'


def evaluated(tmp_path: Path, expr: str, at: str, **series: str) -> dict[str, float]:
    """Return the values of an expression, by labels, after a time, with samples every 15 s as promtool notes them."""
    need("promtool", "prometheus")
    test = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": dashboards.expanded(expr), "eval_time": at, "exp_samples": [{"value": -1}]}
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(test))
    told = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60)
    (got,) = re.findall(r"got:(.*)", told.stdout + told.stderr)
    return {labels: float(value) for labels, value in re.findall(r"(\{[^}]*\}) ([^\s,]+)", got)}


def test_a_new_version_is_marked_when_it_comes_and_not_for_ever(tmp_path: Path) -> None:
    (expr,) = (
        each["expr"] for each in SHIPPED[numbers.OVERVIEW]["annotations"]["list"] if each["name"] == "New version"
    )
    info = {
        f'faktory_info{{{CHOICES}, edition="oss", version="1.9.4"}}': "1x20 _x200",
        f'faktory_info{{{CHOICES}, edition="oss", version="1.10.0"}}': "_x28 1x200",
    }
    marked = [bool(evaluated(tmp_path, expr, at, **info)) for at in ("4m", "7m15s", "7m45s", "9m", "20m")]
    assert marked == [False, True, True, False, False]


def test_a_server_that_forewarn_sees_for_the_first_time_is_no_new_version(tmp_path: Path) -> None:
    (expr,) = (
        each["expr"] for each in SHIPPED[numbers.OVERVIEW]["annotations"]["list"] if each["name"] == "New version"
    )
    info = {f'faktory_info{{{CHOICES}, edition="oss", version="1.10.0"}}': "_x28 1x200"}
    assert evaluated(tmp_path, expr, "7m15s", **info) == {}


def test_a_crash_is_marked_with_where_it_was_when_it_is_counted(tmp_path: Path) -> None:
    (expr,) = (
        each["expr"] for each in SHIPPED[numbers.OVERVIEW]["annotations"]["list"] if each["name"] == "Process crashes"
    )
    last, known = "faktory_process_last_crash_timestamp_seconds", 'known="none"'
    series = {
        f'faktory_process_crashes_total{{{CHOICES}, class="panic"}}': "3x200",
        f'faktory_process_crashes_total{{{CHOICES}, class="concurrent-map"}}': "0x20 1x200",
        f'{last}{{{CHOICES}, class="panic", component="server.push", {known}}}': "-900x200",
        f'{last}{{{CHOICES}, class="concurrent-map", component="webui.busyWorkers", {known}}}': "_x21 310x200",
    }
    marked = [list(evaluated(tmp_path, expr, at, **series)) for at in ("4m", "5m30s", "9m")]
    assert [len(each) for each in marked] == [0, 1, 0]
    assert 'component="webui.busyWorkers"' in marked[1][0]


def reservation_used(tmp_path: Path, **series: str) -> list[float]:
    """Return what the overview tells of the reservations."""
    tile = panel_of(SHIPPED, Panel(numbers.OVERVIEW, 110))
    return list(evaluated(tmp_path, tile["targets"][0]["expr"], "1m", **series).values())


def working(jobs: int) -> dict[str, str]:
    """Return the size of the working set."""
    return {f'faktory_set_jobs{{{CHOICES}, set="working"}}': f"{jobs}x10"}


def test_where_nothing_is_busy_no_reservation_is_used(tmp_path: Path) -> None:
    assert reservation_used(tmp_path, **working(0)) == [0]


def test_where_reservations_are_not_known_it_is_not_said_that_none_is_used(tmp_path: Path) -> None:
    assert reservation_used(tmp_path, **working(3)) == []
    assert reservation_used(tmp_path) == []


def test_the_reservation_that_is_used_most_is_told(tmp_path: Path) -> None:
    busy = {
        f'faktory_busy_job_reservation_used_ratio{{{CHOICES}, queue="q", jobtype="{kind}"}}': f"{used}x10"
        for kind, used in (("A", 0.25), ("B", 0.5))
    }
    assert reservation_used(tmp_path, **busy, **working(2)) == [0.5]
