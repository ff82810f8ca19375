"""The shipped dashboards as Grafana reads them: their queries, variables and annotations, and what we ask of each.

The checks read the JSON, not the code that wrote it: the first ones are those of Grafana's dashboard-linter, without
its exclusions, the others are ours. Nothing is evaluated here.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import promql_parser as pp
import yaml
from grafana_foundation_sdk.models import units
from msgspec import Struct

from dashboards.declared import MAY_BE_EMPTY
from exporter.rules.panels import OVERVIEW, QUEUES, SELF, THROTTLES, WORKERS, Panel
from exporter.rules.render import render
from exporter.rules.settings import DEFAULTS, RuleSettings
from tests import promql, rules_lint
from tests.promql import Family, Selector

FOLDER: Final = Path(__file__).parent.parent / "dashboards"
UIDS: Final = (OVERVIEW, QUEUES, WORKERS, THROTTLES, SELF)

SPAN: Final = 3600.0
STEP: Final = 15.0
SCRAPE: Final = 15.0
"""Seconds: the time that a dashboard shows, between two points of a graph, and between two scrapes."""

LABELS: Final = ("job", "instance", "server", "queue", "jobtype")
"""Those for which there are variables, each narrowed by those before it."""

_EVERYTHING: Final = ".+"
_UNITS: Final = frozenset(value for name, value in vars(units).items() if name[0].isupper() and isinstance(value, str))
_VALUES: Final = re.compile(r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\)")

Dashboard = Mapping[str, Any]
Check = Callable[[Dashboard], Iterator[str]]

CHECKS: dict[str, Check] = {}


class Variable(Struct, frozen=True):
    """A variable whose choices are the values that a label has in the series of a selector."""

    name: str
    selector: str
    """Expanded, as Prometheus takes it for ``match[]``."""
    label: str


class Target(Struct, frozen=True):
    """One query of one panel."""

    panel: Mapping[str, Any]
    letter: str
    expr: str
    """Expanded."""
    written: str
    """As it stands in the dashboard."""

    @property
    def where(self) -> str:
        """Name the panel and the query, for people."""
        return f"panel {self.panel['id']} ({self.panel['title']}) {self.letter}"


def shipped(uid: str) -> Dashboard:
    """Return a dashboard as it is shipped."""
    dashboard: Dashboard = json.loads((FOLDER / f"{uid}.json").read_text())
    return dashboard


def expanded(expr: str, span: float = SPAN, step: float = STEP, scrape: float = SCRAPE) -> str:
    """Return an expression with Grafana's variables filled in: every choice is All.

    In seconds: ``span`` is the time shown, ``step`` that between two points, ``scrape`` the data source's interval.
    """
    rate = max(step + scrape, 4 * scrape)
    values = {
        "__rate_interval": _seconds(rate),
        "__interval": _seconds(step),
        "__range": _seconds(span),
    } | dict.fromkeys(LABELS, _EVERYTHING)
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), expr)


def queries(
    dashboard: Dashboard, span: float = SPAN, step: float = STEP, scrape: float = SCRAPE
) -> list[tuple[str, str, bool]]:
    """Return every query of every panel: where it stands, the expression, and whether it may have no answer."""
    return [
        (
            f"{dashboard['uid']}: {target.where}",
            expanded(target.written, span, step, scrape),
            (Panel(dashboard["uid"], target.panel["id"]), target.letter) in MAY_BE_EMPTY,
        )
        for target in targets(dashboard)
    ]


def variables(dashboard: Dashboard) -> list[Variable]:
    """Return every variable whose choices come from Prometheus."""
    found = []
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = _VALUES.fullmatch(variable["query"])
            assert match is not None, f"{variable['name']} asks for {variable['query']}"
            found.append(Variable(variable["name"], expanded(match["selector"]), match["label"]))
    return found


def annotations(
    dashboard: Dashboard, span: float = SPAN, step: float = STEP, scrape: float = SCRAPE
) -> list[tuple[str, str]]:
    """Return every annotation: where it stands, and the expression. Each is empty while nothing has happened."""
    return [
        (f"{dashboard['uid']}: annotation {each['name']}", expanded(each["expr"], span, step, scrape))
        for each in dashboard["annotations"]["list"]
    ]


def panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Return every panel, those that are headings left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets(dashboard: Dashboard) -> Iterator[Target]:
    """Yield every query of every panel."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield Target(panel, target.get("refId", ""), expanded(target["expr"]), target["expr"])


def steps(panel: Mapping[str, Any]) -> set[float]:
    """Return every value at which a panel changes its colour, for all or for some of its series."""
    configs = [panel["fieldConfig"]["defaults"].get("thresholds")]
    for override in panel["fieldConfig"]["overrides"]:
        configs += [each["value"] for each in override["properties"] if each["id"] == "thresholds"]
    return {step["value"] for config in configs if config for step in config["steps"] if step["value"] is not None}


def series(settings: RuleSettings = DEFAULTS) -> Mapping[str, Family]:
    """Return every series that there is where Forewarn is scraped and the rules are loaded."""
    groups = yaml.safe_load(render(settings, "prometheus"))["groups"]
    recorded = {rule.name: Family(labels=rule.every_label) for rule in rules_lint.read(groups, []) if not rule.alerts}
    of_alerts = promql.exported()["ALERTS"]
    began = Family(labels=of_alerts.labels - {"alertstate"}, open=True)
    return promql.exported() | recorded | {"ALERTS_FOR_STATE": began}


SERIES: Final = series()


def _seconds(value: float) -> str:
    return f"{value:g}s" if value == int(value) else f"{value * 1000:.0f}ms"


def _check(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return register


def _expressions(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Yield every expression as it is written: of panels, variables and annotations."""
    yield from ((target.where, target.written) for target in targets(dashboard))
    for each in dashboard["annotations"]["list"]:
        yield f"annotation {each['name']}", each["expr"]


def _parsed(dashboard: Dashboard) -> Iterator[tuple[str, pp.Expr]]:
    """Yield every expression that is one; ``target-promql`` tells the others."""
    for where, written in _expressions(dashboard):
        try:
            yield where, promql.parse(_marked(written))
        except promql.PromqlError:
            continue


_RATE_INTERVAL: Final = 61.0
"""Seconds that stand for ``$__rate_interval`` in the checks: no window is as long."""


def _marked(written: str) -> str:
    """Return an expression with the macros filled in, and the names of the variables left where they are."""
    return written.replace("$__rate_interval", _seconds(_RATE_INTERVAL))


def _selectors(dashboard: Dashboard) -> Iterator[tuple[str, Selector]]:
    for where, expr in _parsed(dashboard):
        yield from ((where, each) for each in promql.selectors(expr))


def _has(selector: Selector, matcher: str) -> bool:
    return matcher in map(str, selector.matchers)


def _about_everything(selector: Selector) -> bool:
    """Return whether it chooses only alerts that have no ``job``, so that there is nothing to choose by."""
    named = next((each for each in selector.matchers if each.label == "alertname"), None)
    if selector.metric not in ("ALERTS", "ALERTS_FOR_STATE") or named is None or named.operator not in ("=", "=~"):
        return False
    return set(named.value.split("|")) <= _WITHOUT_JOB


def _alerts_without_job() -> frozenset[str]:
    groups = yaml.safe_load(render(DEFAULTS, "prometheus"))["groups"]
    rules = rules_lint.read(groups, [])
    return frozenset(rule.name for rule in rules if rule.alerts and "job" not in rule.every_label)


_WITHOUT_JOB: Final = _alerts_without_job()


# Grafana's dashboard-linter


@_check("template-datasource")
def _template_datasource(dashboard: Dashboard) -> Iterator[str]:
    found = [each for each in dashboard["templating"]["list"] if each["type"] == "datasource"]
    if [(each["name"], each["label"], each["query"]) for each in found] != [
        ("datasource", "Data source", "prometheus")
    ]:
        yield 'there is no variable datasource, called "Data source"'


@_check("template-variables")
def _template_variables(dashboard: Dashboard) -> Iterator[str]:
    """``template-job``, ``template-instance``, ``template-on-time-change-reload``: for all our variables."""
    found = {each["name"]: each for each in dashboard["templating"]["list"] if each["type"] == "query"}
    for name in ("job", "instance", "server"):
        if name not in found:
            yield f"there is no variable {name}"
    wanted = {"multi": True, "includeAll": True, "allValue": ".+", "refresh": 2}
    titles = {"job": "Job", "instance": "Instance", "server": "Server", "queue": "Queue", "jobtype": "Job type"}
    for name, variable in found.items():
        for key, value in (wanted | {"label": titles[name]}).items():
            if variable.get(key) != value:
                yield f"the variable {name} has {key} = {variable.get(key)!r}, not {value!r}"
        if variable["datasource"]["uid"] != "${datasource}":
            yield f"the variable {name} asks {variable['datasource']}"
    named = [name for name in LABELS if name in found]
    if list(found) != named:
        yield f"the variables are not in the order {', '.join(named)}"


@_check("template-label-promql")
def _template_label_promql(dashboard: Dashboard) -> Iterator[str]:
    """Each variable's values are those of a label that is there, chosen by the variables before it."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        name = variable["name"]
        match = _VALUES.fullmatch(variable["query"])
        if match is None:
            yield f"the variable {name} asks for {variable['query']}, not for label_values(...)"
            continue
        try:
            expr = promql.parse(match["selector"])
        except promql.PromqlError as error:
            yield f"the variable {name}: {error}"
            continue
        problems: list[str] = []
        promql.shape(expr, SERIES, problems)
        yield from (f"the variable {name}: {problem}" for problem in problems)
        (chosen,) = promql.selectors(expr)
        family = SERIES.get(chosen.metric)
        if match["label"] != name or (family is not None and name not in family.labels):
            yield f"the variable {name} gets the values of {match['label']} in {chosen.metric}"
        for earlier in LABELS[: LABELS.index(name)]:
            if not _has(chosen, f'{earlier}=~"${earlier}"'):
                yield f"the variable {name} is not narrowed by {earlier}"


@_check("panel-datasource")
def _panel_datasource(dashboard: Dashboard) -> Iterator[str]:
    for panel in panels(dashboard):
        for where, source in (
            ("it", panel.get("datasource")),
            *((f"query {each['refId']}", each.get("datasource")) for each in panel.get("targets", [])),
        ):
            if source != {"type": "prometheus", "uid": "${datasource}"}:
                yield f"panel {panel['id']}: {where} asks {source}"
    for each in dashboard["annotations"]["list"]:
        if each["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield f"annotation {each['name']} asks {each['datasource']}"


@_check("panel-title-description")
def _panel_title_description(dashboard: Dashboard) -> Iterator[str]:
    """What it is, why it matters, and what to do."""
    for panel in panels(dashboard):
        told = panel.get("description", "")
        if not panel.get("title"):
            yield f"panel {panel['id']} has no title"
        if len(re.findall(r"[.:?](?:\s|$)", told)) < 2 or not told.endswith("."):
            yield f"panel {panel['id']} does not tell what it is, why it matters and what to do: {told!r}"
    named = [(panel["type"], panel.get("title")) for panel in panels(dashboard)]
    for kind, title in sorted({each for each in named if named.count(each) > 1}, key=str):
        yield f"there is more than one {kind} called {title}"


@_check("panel-units")
def _panel_units(dashboard: Dashboard) -> Iterator[str]:
    for panel in panels(dashboard):
        config = panel["fieldConfig"]
        found = [config["defaults"].get("unit")]
        found += [
            each["value"] for override in config["overrides"] for each in override["properties"] if each["id"] == "unit"
        ]
        for unit in found:
            if unit not in _UNITS:
                yield f"panel {panel['id']}: {unit!r} is no unit of Grafana's"


@_check("panel-no-targets")
def _panel_no_targets(dashboard: Dashboard) -> Iterator[str]:
    for panel in panels(dashboard):
        letters = [each.get("refId") for each in panel.get("targets", [])]
        if not letters:
            yield f"panel {panel['id']} asks for nothing"
        if len(set(letters)) != len(letters):
            yield f"panel {panel['id']}: two queries are called the same"


@_check("target-promql")
def _target_promql(dashboard: Dashboard) -> Iterator[str]:
    """It parses, its metrics and labels exist, and both sides of an operator can match."""
    for where, written in _expressions(dashboard):
        try:
            expr = promql.parse(expanded(written))
        except promql.PromqlError as error:
            yield f"{where}: {error}"
            continue
        problems: list[str] = []
        promql.shape(expr, SERIES, problems)
        yield from (f"{where}: {problem}" for problem in problems)
        if unknown := re.findall(r"\$\w+", expanded(written)):
            yield f"{where}: there is no variable {', '.join(unknown)}"


@_check("target-rate-interval")
def _target_rate_interval(dashboard: Dashboard) -> Iterator[str]:
    """``rate`` looks over ``$__rate_interval``, ``increase`` over that or over the window of an alert."""
    windows = _windows(DEFAULTS)
    for where, each in _selectors(dashboard):
        nearest = each.above[0] if each.above else ""
        if nearest in ("rate", "irate") and each.range != _RATE_INTERVAL:
            yield f"{where}: {nearest}({each.metric}) looks over {each.range} s"
        if nearest == "increase" and each.range not in (_RATE_INTERVAL, *windows):
            yield f"{where}: increase({each.metric}) looks over {each.range} s, as no alert does"


def _windows(settings: RuleSettings) -> set[float]:
    """Return the seconds over which the rules look back."""
    groups = yaml.safe_load(render(settings, "prometheus"))["groups"]
    rules = rules_lint.read(groups, [])
    return {each.range for rule in rules for each in promql.selectors(rule.expr) if each.range is not None}


@_check("target-job and target-instance")
def _target_job_and_instance(dashboard: Dashboard) -> Iterator[str]:
    for where, each in _selectors(dashboard):
        for label in ("job", "instance"):
            if not _has(each, f'{label}=~"${label}"') and not _about_everything(each):
                yield f"{where}: {each.metric} is not chosen by {label}"


@_check("target-counter-agg")
def _target_counter_agg(dashboard: Dashboard) -> Iterator[str]:
    for where, each in _selectors(dashboard):
        family = SERIES.get(each.metric)
        nearest = each.above[0] if each.above else ""
        if family is None:
            continue
        if family.counter and nearest not in ("rate", "irate", "increase"):
            yield f"{where}: {each.metric} is a counter, and not under rate or increase"
        if not family.counter and nearest in ("rate", "irate", "increase"):
            yield f"{where}: {each.metric} is no counter, and under {nearest}"


@_check("uneditable-dashboard")
def _uneditable_dashboard(dashboard: Dashboard) -> Iterator[str]:
    if dashboard.get("editable") is not False:
        yield "it can be edited, and the next update throws that away"


# Ours


@_check("every choice counts")
def _every_choice(dashboard: Dashboard) -> Iterator[str]:
    """Whatever has the label of a variable is chosen by it: a panel that does not follow tells of another queue."""
    there = [each["name"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    for where, each in _selectors(dashboard):
        family = SERIES.get(each.metric)
        if family is None or each.metric in ("ALERTS", "ALERTS_FOR_STATE"):
            continue
        for label in there:
            if label in family.labels and not _has(each, f'{label}=~"${label}"'):
                yield f"{where}: {each.metric} is not chosen by {label}"
    for where, each in _selectors(dashboard):
        of_alerts = each.metric in ("ALERTS", "ALERTS_FOR_STATE") and not _about_everything(each)
        if of_alerts and not _has(each, 'server=~"$server|"'):
            yield f"{where}: {each.metric} is not chosen by server, if it has one"


@_check("servers apart")
def _servers_apart(dashboard: Dashboard) -> Iterator[str]:
    """Two servers are two series: many are called ``faktory``, and one number for both is nobody's."""
    kept = {"job", "instance", "server"}
    for target in targets(dashboard):
        if target.panel["type"] in ("stat", "heatmap"):
            continue
        try:
            found = promql.shape(promql.parse(target.expr), SERIES, [])
        except promql.PromqlError:
            continue
        families = [
            SERIES[each.metric] for each in promql.selectors(promql.parse(target.expr)) if each.metric in SERIES
        ]
        wanted = kept & frozenset.union(frozenset(), *(family.labels for family in families if not family.open))
        if found is not None and not found.open and found.labels and wanted - found.labels:
            yield f"{target.where}: {', '.join(sorted(wanted - found.labels))} is lost"


@_check("others' processes")
def _other_processes(dashboard: Dashboard) -> Iterator[str]:
    """What every program has is narrowed to Forewarn: All means every job of this Prometheus."""
    for where, expr in _parsed(dashboard):
        used = promql.metrics(expr)
        if any(name == "up" or name.startswith("process_") for name in used) and "forewarn_build_info" not in used:
            yield f"{where} shows the processes of other programs too"


@_check("numbers")
def _numbers(dashboard: Dashboard) -> Iterator[str]:
    """Each panel has a number of its own, which links keep."""
    numbers = [panel.get("id") for panel in dashboard["panels"]]
    for number in sorted({each for each in numbers if numbers.count(each) > 1}, key=str):
        yield f"{numbers.count(number)} panels have the number {number}"


@_check("places")
def _places(dashboard: Dashboard) -> Iterator[str]:
    """No panel covers another, and none reaches beyond the edge."""
    taken: dict[tuple[int, int], int] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            yield f"panel {panel['id']} reaches beyond the edge"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["id"])
                if other != panel["id"]:
                    yield f"panel {panel['id']} covers panel {other}"
                    return


@_check("graphs")
def _graphs(dashboard: Dashboard) -> Iterator[str]:
    """A graph begins at 0, tells the newest and the largest value, and shows its thresholds."""
    for panel in panels(dashboard):
        if panel["type"] != "timeseries":
            continue
        config, options = panel["fieldConfig"]["defaults"], panel["options"]
        if config.get("min") != 0:
            yield f"panel {panel['id']} does not begin at 0"
        if not options["legend"]["showLegend"] or not options["legend"]["calcs"]:
            yield f"panel {panel['id']} has no legend with values"
        if options["tooltip"]["mode"] != "multi":
            yield f"panel {panel['id']} does not tell all values under the pointer"
        lines = [step["value"] for step in config["thresholds"]["steps"] if step["value"] is not None]
        drawn = config["custom"].get("thresholdsStyle", {}).get("mode", "off") != "off"
        if bool(lines) != drawn or (lines and config["custom"]["axisSoftMax"] < max(lines)):
            yield f"panel {panel['id']} does not draw its thresholds where they are seen"


@_check("newest values")
def _newest_values(dashboard: Dashboard) -> Iterator[str]:
    """Tiles and tables tell what is now: the last value within hours may be hours old."""
    for panel in panels(dashboard):
        instant = panel["type"] in ("stat", "table")
        for each in panel.get("targets", []):
            if each.get("instant") is not instant or each.get("range") is not (not instant):
                yield f"panel {panel['id']} {each['refId']} is {'not ' if instant else ''}instant"
        if panel["type"] == "stat" and not any(
            each["type"] == "special" and each["options"]["match"] == "null+nan"
            for each in panel["fieldConfig"]["defaults"]["mappings"]
        ):
            yield f"panel {panel['id']} shows in green what is not known"


@_check("histograms")
def _histograms(dashboard: Dashboard) -> Iterator[str]:
    """Heat maps are asked for as such, and quantiles with the executions behind them."""
    for target in targets(dashboard):
        (asked,) = (each for each in target.panel["targets"] if each.get("refId") == target.letter)
        if target.panel["type"] == "heatmap" and (asked.get("format") != "heatmap" or " (le) " not in asked["expr"]):
            yield f"{target.where} is no heat map"
        if "histogram_quantile" in asked["expr"] and asked.get("exemplar") is not True:
            yield f"{target.where} has no exemplars"


@_check("annotations")
def _annotations(dashboard: Dashboard) -> Iterator[str]:
    names = {each["name"]: each for each in dashboard["annotations"]["list"]}
    if list(names) != ["Restarts", "Process crashes", "Worker crashes", "New version", "Alerts"]:
        yield f"the annotations are {', '.join(names)}"
    for name, each in names.items():
        if not each["enable"] or not each.get("titleFormat"):
            yield f"annotation {name} is off or has no title"


@_check("links")
def _links(dashboard: Dashboard) -> Iterator[str]:
    """One click leads to the other dashboards with time and choices kept, and every address of ours exists."""
    (between,) = dashboard["links"] or [{}]
    wanted = {"type": "dashboards", "keepTime": True, "includeVars": True, "tags": ["forewarn"], "asDropdown": False}
    if not wanted.items() <= between.items() or "forewarn" not in dashboard["tags"]:
        yield "the other dashboards are not one click away"
    text = json.dumps(dashboard)
    if "inControlsMenu" in text:
        yield "links or annotations are hidden in a menu"
    for uid, rest in re.findall(r'"/d/([^"?/]+)\?([^"]*)"', text):
        if uid not in UIDS:
            yield f"there is no dashboard {uid}"
            continue
        there = {each["name"] for each in shipped(uid)["templating"]["list"]}
        for name in re.findall(r"var-(\w+)=", rest):
            if name not in there:
                yield f"{uid} has no variable {name}"
        if "${__url_time_range}" not in rest:
            yield f"the link to {uid} forgets the time"
