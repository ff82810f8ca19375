"""What we ask of every alerting and recording rule, beyond what promtool does: each check told apart by its name.

The checks read the rules as Prometheus does, from the parsed rule file, and the metrics from the catalogue.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import promql_parser as pp
from msgspec import Struct

from tests import promql
from tests.promql import COMPARISONS, Family, Shape, function_name

SCRAPE_INTERVAL: Final = 15.0
"""Seconds between two scrapes for which the rules are made: four samples in a range survive one lost scrape."""

LOOKBACK: Final = 300.0
"""Seconds after which Prometheus takes a series without a new sample for gone."""

RETENTION: Final = 15 * 86400.0
"""Seconds for which Prometheus keeps samples where nobody has told it otherwise."""

SEVERITIES: Final = frozenset({"critical", "warning", "info", "none"})
LINKED: Final = ("job", "instance", "server", "queue", "jobtype")
"""The labels for which the dashboards have a variable."""

GROUPS: Final = (
    "faktory.recording",
    "faktory.history",
    "faktory.availability",
    "faktory.crashes",
    "faktory.saturation",
    "faktory.latency-and-errors",
    "faktory.capacity-and-trend",
    "forewarn.meta",
)
"""In the order in which they matter, behind what they are computed from."""

HOLDS_BY_ITSELF: Final = {
    "ForewarnAbsent": "there is some Forewarn or there is none",
    "ForewarnWatchdog": "it never ends",
}
"""Alerts that need no ``keep_firing_for``, and why."""

TOLD_AT_ONCE: Final = {
    "FaktoryReservationNearlyUsed": "a share of a time that has passed; short reservations end before any wait does",
}
"""Alerts on one sample that need no ``for``, and why."""

GUARDED_ELSEWHERE: Final = {
    "FaktoryPeerHoldsConnections": "with no connection open, none of the limit is used, which another condition asks",
}
"""Rules that divide by what may be zero, and why that tells nothing wrong."""

RATES: Final = frozenset({"rate", "irate", "increase"})
OF_COUNTERS: Final = RATES | {"resets", "absent", "absent_over_time", "last_over_time", "present_over_time"}
OF_GAUGES: Final = frozenset({"deriv", "predict_linear", "delta", "idelta", "holt_winters"})
TRENDS: Final = OF_GAUGES
CHOOSE_SERIES: Final = promql.KEEP_EVERY_LABEL
COUNTING: Final = frozenset({"count", "count_values", "count_over_time", "changes", "resets"})

FORMATS: Final[Mapping[str, frozenset[str]]] = {
    "ratio": frozenset({"humanizePercentage"}),
    "seconds": frozenset({"humanizeDuration"}),
    "bytes": frozenset({"humanize1024"}),
    "count": frozenset({"humanize", 'printf "%.0f"'}),
    "number": frozenset({"humanize", 'printf "%.1f"'}),
}
"""How a value of each unit is told to people."""

_DURATION = re.compile(r"(?=.*[1-9])(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?")
_VALUE = re.compile(r"\{\{[^}]*\$value\s*(?:\|\s*([^}]*?))?\s*\}\}")
_LABEL = re.compile(r"\$labels\.(\w+)")
_RECORD = re.compile(r"(?P<level>[a-z_]+):(?P<metric>[a-z_]+):(?P<operation>[a-z]+[a-z0-9_]*)")
_LEVELS: Final[Mapping[frozenset[str], str]] = {
    frozenset({"server"}): "server",
    frozenset({"server", "queue"}): "queue",
    frozenset({"server", "queue", "jobtype"}): "queue_jobtype",
}


class Rule(Struct, frozen=True, kw_only=True):
    """One rule as it stands in a rule file, and what is known before it is evaluated."""

    name: str
    group: str
    interval: str
    body: Mapping[str, Any]
    expr: pp.Expr
    known: Mapping[str, Family]
    """The series that are there when it is evaluated."""
    recorded: Mapping[str, Rule]
    """The rules before it that record series."""
    shape: Shape | None
    problems: tuple[str, ...]
    """What is wrong with the metrics and labels of its expression."""

    @property
    def alerts(self) -> bool:
        """Whether it is an alert; otherwise it records."""
        return "alert" in self.body

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that it adds."""
        return dict(self.body.get("labels", {}))

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its texts and addresses."""
        return dict(self.body.get("annotations", {}))

    @property
    def every_label(self) -> frozenset[str]:
        """The labels that its series have."""
        return frozenset(self.labels) | (self.shape.labels if self.shape else frozenset())

    def seconds(self, key: str) -> float:
        """Return one of its times; 0 where it is not given."""
        return duration(self.body[key]) if key in self.body else 0.0


class Finding(Struct, frozen=True):
    """Something wrong."""

    check: str
    rule: str
    """Or the group's name."""
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text} ({self.check})"


Check = Callable[[Rule], Iterator[str]]
SetCheck = Callable[[Sequence[Mapping[str, Any]]], Iterator[tuple[str, str]]]
"""Over all groups of a file; yields names and texts."""

CHECKS: dict[str, Check] = {}
SET_CHECKS: dict[str, SetCheck] = {}


def lint(groups: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return everything that is wrong with the groups of a rule file."""
    found: list[Finding] = []
    rules = read(groups, found)
    found += [
        Finding(name, rule.name, text) for name, check in CHECKS.items() for rule in rules for text in check(rule)
    ]
    found += [Finding(name, *told) for name, check in SET_CHECKS.items() for told in check(groups)]
    return found


def read(groups: Sequence[Mapping[str, Any]], found: list[Finding]) -> list[Rule]:
    """Return the rules in the order of their evaluation; what is no PromQL is left out and added to ``found``."""
    rules: list[Rule] = []
    known = promql.exported()
    recorded: dict[str, Rule] = {}
    for group in groups:
        for body in group["rules"]:
            name = body.get("alert") or body["record"]
            try:
                expr = promql.parse(str(body["expr"]))
            except promql.PromqlError as error:
                found.append(Finding("syntax", name, str(error)))
                continue
            problems: list[str] = []
            shape = promql.shape(expr, known, problems)
            rule = Rule(
                name=name,
                group=group["name"],
                interval=group.get("interval", "1m"),
                body=body,
                expr=expr,
                known=dict(known),
                recorded=dict(recorded),
                shape=shape,
                problems=tuple(problems),
            )
            rules.append(rule)
            if not rule.alerts:
                known[name] = Family(labels=rule.every_label, unit=unit_of(expr, known) or "")
                recorded[name] = rule
    return rules


def duration(text: str) -> float:
    """Return a time as Prometheus writes it in seconds."""
    return promql.seconds(pp.parse_duration(text))


def unit_of(expr: pp.Expr, known: Mapping[str, Family]) -> str | None:
    """Return what an expression's value counts, ``None`` for a bare number.

    ``count``, ``ratio``, ``seconds``, ``bytes``, ``flag`` (0 or 1), each also ``per second``; else ``number``.
    """
    match expr:
        case pp.ParenExpr() | pp.UnaryExpr() | pp.SubqueryExpr():
            return unit_of(expr.expr, known)
        case pp.MatrixSelector():
            return unit_of(expr.vector_selector, known)
        case pp.VectorSelector():
            name = promql.name_of(expr)
            return (known[name].unit or "count") if name in known else "number"
        case pp.AggregateExpr():
            return "count" if str(expr.op) in COUNTING else unit_of(expr.expr, known)
        case pp.Call():
            return _unit_of_call(expr, known)
        case pp.BinaryExpr():
            return _unit_of_binary(expr, known)
        case _:
            return None


def _unit_of_call(expr: pp.Call, known: Mapping[str, Family]) -> str | None:
    name = expr.func.name
    units = [found for each in expr.args if (found := unit_of(each, known)) is not None]
    if name in COUNTING:
        return "count"
    if name in ("absent", "absent_over_time", "vector", "present_over_time"):
        return "flag"
    if name == "histogram_quantile":
        buckets = (each.metric for each in promql.selectors(expr) if each.metric.endswith("_bucket"))
        return next((known[f"{each.removesuffix('_bucket')}_sum"].unit for each in buckets if each in known), "number")
    if not units:
        return None
    if name in ("rate", "irate", "deriv"):
        return "ratio" if units[0] == "seconds" else f"{units[0]} per second"
    return units[0]


def _unit_of_binary(expr: pp.BinaryExpr, known: Mapping[str, Family]) -> str | None:
    operator = str(expr.op)
    left, right = unit_of(expr.lhs, known), unit_of(expr.rhs, known)
    if operator in COMPARISONS and promql.returns_bool(expr):
        return "flag"
    if left is None or right is None:
        return "number" if operator in ("/", "%", "^") else left or right
    if operator == "/":
        if left == right:
            return "ratio"
        return "seconds" if right == f"{left} per second" else "number"
    if operator == "*":
        return right if left in ("ratio", "flag", "count") else left
    return left


def _check(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return register


def _set_check(name: str) -> Callable[[SetCheck], SetCheck]:
    def register(check: SetCheck) -> SetCheck:
        SET_CHECKS[name] = check
        return check

    return register


def _binaries(expr: pp.Expr) -> Iterator[pp.BinaryExpr]:
    return (place.node for place in promql.walk(expr) if isinstance(place.node, pp.BinaryExpr))


def _number(expr: pp.Expr) -> float | None:
    """Return the value of a number, ``None`` where the expression is another."""
    expr = promql.without_parentheses(expr)
    if isinstance(expr, pp.UnaryExpr):
        value = _number(expr.expr)
        return None if value is None else -value
    return expr.val if isinstance(expr, pp.NumberLiteral) else None


def _conjuncts(expr: pp.Expr) -> Iterator[pp.Expr]:
    """Yield the conditions of which all must hold; what excludes is none of them."""
    expr = promql.without_parentheses(expr)
    if isinstance(expr, pp.BinaryExpr) and str(expr.op) in ("and", "unless"):
        yield from _conjuncts(expr.lhs)
        if str(expr.op) == "and":
            yield from _conjuncts(expr.rhs)
    else:
        yield expr


# The expression


@_check("series")
def _series(rule: Rule) -> Iterator[str]:
    """Metrics and labels exist where they are used, and both sides of an operator can match."""
    yield from rule.problems
    if "" in promql.metrics(rule.expr):
        yield "it uses whatever metric has a label or a name like this: name the metric"


@_check("counter")
def _counter(rule: Rule) -> Iterator[str]:
    """A counter's value depends on when its process started: only its growth means something."""
    for each in promql.selectors(rule.expr):
        family = rule.known.get(each.metric)
        if family is None:
            continue
        nearest = each.above[0] if each.above else "nothing"
        if family.counter and nearest not in OF_COUNTERS:
            yield f"{each.metric} is a counter, and under {nearest} instead of rate or increase"
        if not family.counter and nearest in RATES:
            yield f"{each.metric} is no counter: {nearest} takes each step down for a restart; write deriv or delta"


@_check("rate of an aggregate")
def _rate_of_an_aggregate(rule: Rule) -> Iterator[str]:
    """A sum of counters goes down when one of them starts anew."""
    for place in promql.walk(rule.expr):
        if function_name(place.node) in RATES and isinstance(place.node, pp.Call):
            argument = place.node.args[0]
            if isinstance(argument, pp.SubqueryExpr):
                yield f"{function_name(place.node)} of {argument.expr}: take it of each counter, and then add up"


@_check("range")
def _range(rule: Rule) -> Iterator[str]:
    """A range holds at least four samples, and no more than what is kept."""
    for place in promql.walk(rule.expr):
        if isinstance(place.node, pp.MatrixSelector):
            name = promql.name_of(place.node.vector_selector)
            maker = rule.recorded.get(name)
            least = 4 * (SCRAPE_INTERVAL if maker is None else duration(maker.interval))
        elif isinstance(place.node, pp.SubqueryExpr):
            name, least = str(place.node.expr), 4 * promql.seconds(place.node.step)
        else:
            continue
        length = promql.seconds(place.node.range)
        if length < least:
            yield f"{name} over {length:g} s: below {least:g} s, four samples, one lost scrape leaves too few"
        if length > RETENTION:
            yield f"{name} over {length:g} s: Prometheus keeps {RETENTION:g} s"


@_check("comparison")
def _comparison(rule: Rule) -> Iterator[str]:
    """An alert without a condition fires as long as its metric is there."""
    if rule.alerts and not _is_conditional(rule.expr):
        yield "it compares nothing, so it fires as long as there are samples"


def _is_conditional(expr: pp.Expr) -> bool:
    match expr:
        case pp.BinaryExpr() if str(expr.op) in COMPARISONS:
            return not promql.returns_bool(expr)
        case pp.BinaryExpr() if str(expr.op) == "or":
            return _is_conditional(expr.lhs) and _is_conditional(expr.rhs)
        case pp.BinaryExpr() if str(expr.op) == "unless":
            return True
        case pp.Call() if expr.func.name in ("absent", "absent_over_time"):
            return True
        case _:
            return any(_is_conditional(child) for child in promql.children(expr))


@_check("division")
def _division(rule: Rule) -> Iterator[str]:
    """A limit of zero means none, and a share of nothing is NaN or infinite."""
    for node in _binaries(rule.expr):
        if str(node.op) in ("/", "%") and not _is_guarded(node.rhs) and rule.name not in GUARDED_ELSEWHERE:
            yield f"it divides by {node.rhs}, which may be 0; write ({node.rhs} > 0)"


def _is_guarded(divisor: pp.Expr) -> bool:
    divisor = promql.without_parentheses(divisor)
    number = _number(divisor)
    if number is not None:
        return number != 0
    if isinstance(divisor, pp.Call) and divisor.func.name == "clamp_min":
        return (_number(divisor.args[1]) or 0) > 0
    if isinstance(divisor, pp.BinaryExpr) and str(divisor.op) == ">" and not promql.returns_bool(divisor):
        floor = _number(divisor.rhs)
        return floor is not None and floor >= 0
    return False


@_check("aggregation")
def _aggregation(rule: Rule) -> Iterator[str]:
    """What tells servers apart is kept: two servers are never one alert."""
    for place in promql.walk(rule.expr):
        node = place.node
        if not isinstance(node, pp.AggregateExpr):
            continue
        name = str(node.op)
        if name in CHOOSE_SERIES:
            yield f"{name} chooses other series at each evaluation, so alerts come and go"
        elif node.modifier is None or node.modifier.type == pp.AggModifierType.By:
            yield f"{name} names what it keeps; write without (...), which keeps labels that people add"
        elif lost := {"job", "instance", "server"} & set(node.modifier.labels):
            yield f"{name} takes {', '.join(sorted(lost))} away"


@_check("regular expression")
def _regular_expression(rule: Rule) -> Iterator[str]:
    """A regular expression is written where one is needed, and as Prometheus anchors it."""
    for selector in promql.selectors(rule.expr):
        for each in selector.matchers:
            if each.operator not in ("=~", "!~"):
                continue
            if not re.search(r"[.*+?()\[\]{}|\\^$]", each.value):
                yield f"{each} needs no regular expression; write {each.operator[0]}{'=' * (each.operator == '!~')}"
            if each.value.startswith("^") or each.value.endswith("$"):
                yield f"{each}: Prometheus anchors it already"
            if each.value in (".*", ".+") and each.operator == "=~":
                yield f"{each} chooses everything"


@_check("shadowed or")
def _shadowed_or(rule: Rule) -> Iterator[str]:
    """``rate(a) or rate(b)`` is ``rate(a)``: without their names, both sides have the same labels."""
    for node in _binaries(rule.expr):
        if str(node.op) != "or":
            continue
        left, right = promql.without_parentheses(node.lhs), promql.without_parentheses(node.rhs)
        if isinstance(left, pp.VectorSelector) or isinstance(right, pp.VectorSelector) or _is_conditional(left):
            continue
        chosen = [{it for each in promql.selectors(side) for it in each.matchers} for side in (left, right)]
        if chosen[0] == chosen[1]:
            yield f"the right side of or never shows: {left} is there whenever {right} is"


@_check("units")
def _units(rule: Rule) -> Iterator[str]:
    """Seconds are compared with seconds, and a share is at most 1."""
    for node in _binaries(rule.expr):
        operator = str(node.op)
        left, right = unit_of(node.lhs, rule.known), unit_of(node.rhs, rule.known)
        if operator in {*COMPARISONS, "+", "-"} and left is not None and right is not None and left != right:
            yield f"{node.lhs} counts {left}, {node.rhs} counts {right}: {operator} makes no sense of them"
        bound = _number(node.rhs)
        if operator in COMPARISONS and left == "ratio" and bound is not None and bound > 1:
            yield f"{node.lhs} is a share, 1 at most or not much more; {bound:g} looks like percent"


@_check("trend with a level")
def _trend(rule: Rule) -> Iterator[str]:
    """A trend alone cries wolf: two connections that become three grow by half."""
    if not rule.alerts or not _looks_ahead(rule.expr, rule):
        return
    if not any(_is_level(each, rule) for each in _conjuncts(rule.expr)):
        yield "it tells a trend without asking how far it has come; add a level with and"


def _looks_ahead(expr: pp.Expr, rule: Rule) -> bool:
    if any(function_name(place.node) in TRENDS for place in promql.walk(expr)):
        return True
    return any(_looks_ahead(rule.recorded[each].expr, rule) for each in promql.metrics(expr) if each in rule.recorded)


def _is_level(expr: pp.Expr, rule: Rule) -> bool:
    if not isinstance(expr, pp.BinaryExpr) or str(expr.op) not in (">", ">="):
        return False
    return _number(expr.rhs) is not None and not _looks_ahead(expr, rule)


@_check("absence")
def _absence(rule: Rule) -> Iterator[str]:
    """One lost scrape is no absence."""
    absent = any(function_name(place.node) == "absent" for place in promql.walk(rule.expr))
    if rule.alerts and absent and rule.seconds("for") < 4 * SCRAPE_INTERVAL:
        yield f"absent() for less than {4 * SCRAPE_INTERVAL:g} s may be a lost scrape"


# The times


@_check("times")
def _times(rule: Rule) -> Iterator[str]:
    """Times are written as Prometheus writes them, and only where they are above zero."""
    for key in ("for", "keep_firing_for"):
        if key in rule.body and not _DURATION.fullmatch(str(rule.body[key])):
            yield f"{key}: {rule.body[key]!r} is no time above zero"


@_check("for on top of a window")
def _for_over_a_window(rule: Rule) -> Iterator[str]:
    """A window and an equal ``for`` say the same twice, and the alert comes after both."""
    for each in promql.selectors(rule.expr):
        if rule.alerts and each.range is not None and each.range == rule.seconds("for"):
            yield f"for is as long as the window over which it looks at {each.metric}"


@_check("blips")
def _blips(rule: Rule) -> Iterator[str]:
    """What is told without ``for`` looks back over a window, or is itself a time that has passed."""
    if not rule.alerts or "for" in rule.body or rule.name in ("ForewarnWatchdog", *TOLD_AT_ONCE):
        return
    windows = any(each.range is not None for each in _sources(rule.expr, rule))
    if not windows and unit_of(rule.expr, rule.known) != "seconds":
        yield "it has no for and looks at one sample only"


@_check("flapping")
def _flapping(rule: Rule) -> Iterator[str]:
    """What may cross its threshold again and again is kept firing for a while."""
    if not rule.alerts or "keep_firing_for" in rule.body or rule.name in HOLDS_BY_ITSELF:
        return
    value = next(_conjuncts(rule.expr))
    if not any(function_name(place.node) in ("increase", "max_over_time") for place in promql.walk(value)):
        yield "it has no keep_firing_for, and no window that keeps it up"


def _sources(expr: pp.Expr, rule: Rule) -> Iterator[promql.Selector]:
    """Yield the selectors of an expression, and those of the recorded series among them."""
    for each in promql.selectors(expr):
        yield each
        if each.metric in rule.recorded:
            yield from _sources(rule.recorded[each.metric].expr, rule)


# Labels and texts


@_check("labels")
def _labels(rule: Rule) -> Iterator[str]:
    """A label that changes with the value is a new alert at every evaluation, and one that is there is overwritten."""
    for label, value in rule.labels.items():
        if "{{" in str(value):
            yield f"the label {label} has a template: put it into an annotation"
        if rule.shape is not None and label in rule.shape.labels:
            yield f"the label {label} overwrites that of the series"


@_check("severity")
def _severity(rule: Rule) -> Iterator[str]:
    """Who is told is decided by the severity."""
    if not rule.alerts:
        return
    given = rule.labels.get("severity")
    if given not in SEVERITIES:
        yield f"severity is {given!r}, none of {', '.join(sorted(SEVERITIES))}"
    if (given == "none") != (rule.name == "ForewarnWatchdog"):
        yield "severity none is for what always fires, and only for that"


@_check("templates")
def _templates(rule: Rule) -> Iterator[str]:
    """A template names labels that are there."""
    for key, text in rule.annotations.items():
        for label in _LABEL.findall(text):
            if label not in rule.every_label:
                yield f"{key} names the label {label}, which its series do not have"
        for inner in re.findall(r"\{\{(.*?)\}\}", text):
            if not re.match(r"\s*\$(labels\.\w+|value)\b", inner):
                yield f"{key} has a template other than a label or the value: {inner.strip()}"
        if text.count("{{") != text.count("}}"):
            yield f"{key} has a template that is not closed"


@_check("summary")
def _summary(rule: Rule) -> Iterator[str]:
    """One sentence, the same at every evaluation."""
    text = rule.annotations.get("summary", "")
    if not rule.alerts:
        return
    plain = re.sub(r"\{\{.*?\}\}", "it", text)
    if not plain.endswith(".") or re.search(r"[.!?]\s", plain) or not re.match(r"[A-Zi]", plain):
        yield f"the summary is not one sentence: {text!r}"
    if "$value" in text:
        yield "the summary changes with the value: put it into the description"
    if len(plain) > 110:
        yield f"the summary has {len(plain)} characters, too many for one line of a pager"


@_check("description")
def _description(rule: Rule) -> Iterator[str]:
    """The value in its unit, where it says something; then what follows and what to do first."""
    if not rule.alerts:
        return
    text = rule.annotations.get("description", "")
    if not text.endswith(".") or len(re.findall(r"[.!?:](?:\s|$)", text)) < 2:
        yield "the description does not tell what it means and what to do first"
    if "\n" in text:
        yield "the description has several lines"
    formats = _VALUE.findall(text)
    if _is_pinned(rule.expr):
        if formats:
            yield "the description tells a value that is always the same"
        return
    if not formats:
        yield "the description does not tell the value"
    unit = unit_of(rule.expr, rule.known) or "number"
    for given in formats:
        if given not in FORMATS.get(unit, frozenset()):
            right = " or ".join(sorted(FORMATS.get(unit, ())))
            yield f"the value counts {unit}, and is told by {given or 'nothing'} instead of {right}"
    if unit == "bytes" and not re.search(r"humanize1024 \}\}i?B", text):
        yield "bytes are told without their unit"


def _is_pinned(expr: pp.Expr) -> bool:
    """Return whether the value is always the same."""
    value = next(_conjuncts(expr))
    if isinstance(value, pp.Call):
        return value.func.name in ("absent", "absent_over_time", "vector")
    if isinstance(value, pp.BinaryExpr) and str(value.op) in COMPARISONS:
        return str(value.op) == "==" or _is_pinned(value.lhs)
    return False


@_check("links")
def _links(rule: Rule) -> Iterator[str]:
    """Every alert leads to its runbook, and to its panel with the variables filled in."""
    if not rule.alerts:
        return
    runbook = rule.annotations.get("runbook_url", "")
    if not re.fullmatch(rf"https?://\S+/{rule.name}\.md", runbook):
        yield f"runbook_url does not lead to its page: {runbook!r}"
    dashboard = rule.annotations.get("dashboard_url", "")
    if not re.match(r"https?://[^\s{]+/d/[a-z-]+\?viewPanel=\d+&", dashboard):
        yield f"dashboard_url does not lead to a panel: {dashboard!r}"
    for label in LINKED:
        named = f"var-{label}={{{{ $labels.{label} | urlquery }}}}"
        if label in rule.every_label and named not in dashboard:
            yield f"dashboard_url does not fill in {named}"
    for inner in re.findall(r"\{\{(.*?)\}\}", runbook + dashboard):
        if not inner.strip().endswith("| urlquery"):
            yield f"an address has {inner.strip()} without urlquery"


@_check("recorded name")
def _recorded_name(rule: Rule) -> Iterator[str]:
    """``level:metric:operations``: the labels that are left, what it comes from, what was done."""
    if rule.alerts or rule.shape is None:
        return
    match = _RECORD.fullmatch(rule.name)
    if match is None:
        yield "its name is not level:metric:operations"
        return
    level = _LEVELS.get(rule.shape.labels - promql.TARGET)
    if match["level"] != level:
        yield f"its level is {match['level']}, but its labels are {', '.join(sorted(rule.shape.labels))}"
    metric = match["metric"].partition("_per_")[0]
    bases = {each.split(":")[1] if ":" in each else each for each in promql.metrics(rule.expr)}
    if not any(each.startswith(metric) for each in bases):
        yield f"it names {metric}, but comes from {', '.join(sorted(bases))}"
    if "_total" in match["metric"]:
        yield "a recorded series is no counter: leave _total out"
    window = re.search(r"[a-z](\d+[a-z].*)$", match["operation"])
    ranges = {each.range for each in promql.selectors(rule.expr)}
    if window is not None and _DURATION.fullmatch(window[1]) and duration(window[1]) not in ranges:
        yield f"its name says {window[1]}, but it looks back over {sorted(each for each in ranges if each)} s"


# The set


@_set_check("unique names")
def _unique_names(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Groups and recorded series are told apart by name, alerts by name and labels."""
    names = Counter(group["name"] for group in groups)
    rules = [rule for group in groups for rule in group["rules"]]
    records = Counter(rule["record"] for rule in rules if "record" in rule)
    alerts = Counter((rule["alert"], *sorted(rule.get("labels", {}).items())) for rule in rules if "alert" in rule)
    for name, times in (names + records).items():
        if times > 1:
            yield name, f"there are {times} of this name"
    for (name, *_), times in alerts.items():
        if times > 1:
            yield str(name), f"{times} alerts of this name have the same labels"


@_set_check("same expression")
def _same_expression(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Nothing is recorded or told twice."""
    seen: dict[str, str] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        name, expr = rule.get("alert") or rule["record"], " ".join(str(rule["expr"]).split())
        if expr in seen:
            yield name, f"its expression is that of {seen[expr]}"
        seen[expr] = name


@_set_check("alert names")
def _alert_names(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """CamelCase, and who they are about first."""
    for rule in (rule for group in groups for rule in group["rules"]):
        if not re.fullmatch(r"(Faktory|Forewarn)([A-Z][a-z]+)+", rule.get("alert", "FaktoryDown")):
            yield rule["alert"], "the name of an alert is CamelCase, and begins with Faktory or Forewarn"


@_set_check("group order")
def _group_order(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What matters most is read first."""
    names = [group["name"] for group in groups]
    for name in names:
        if name not in GROUPS:
            yield name, "there is no such group"
    if [name for name in GROUPS if name in names] != [name for name in names if name in GROUPS]:
        yield names[0], f"the groups are not in the order {', '.join(GROUPS)}"


@_set_check("group interval")
def _group_interval(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Two evaluations fit into the time for which Prometheus looks back, so that a recorded series has no gaps."""
    for group in groups:
        if "interval" not in group or not 0 < duration(group["interval"]) <= LOOKBACK / 2:
            yield group["name"], f"its interval is {group.get('interval')}, not above 0 and at most {LOOKBACK / 2:g} s"
