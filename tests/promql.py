"""What a PromQL expression uses and what it gives, by promql-parser and the catalogue: for lints, nothing is evaluated.

The labels of every exported metric are known, so the labels of every expression are too. That makes visible what
Prometheus accepts and answers with nothing: a label that was aggregated away, two sides that can never match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Final

import promql_parser as pp
from msgspec import Struct

from exporter.catalogue import (
    BUILD_INFO,
    CONFIG_METRICS,
    METRICS,
    OTLP_METRICS,
    PROCESS_METRICS,
    STATSD_PUSH_METRICS,
    Kind,
    Metric,
)

TARGET: Final = frozenset({"job", "instance"})
"""The labels that the scrape gives to every series."""

KEEP_EVERY_LABEL: Final = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
"""Aggregations that choose series instead of merging them."""

COMPARISONS: Final = frozenset({"==", "!=", ">", "<", ">=", "<="})
SET_OPERATORS: Final = frozenset({"and", "or", "unless"})


class PromqlError(ValueError):
    """The text is no PromQL expression; the message holds the text and the parser's words."""


class Matcher(Struct, frozen=True):
    """One condition between the braces of a selector."""

    label: str
    operator: str
    """``=``, ``!=``, ``=~`` or ``!~``."""
    value: str

    def __str__(self) -> str:
        return f'{self.label}{self.operator}"{self.value}"'


class Place(Struct, frozen=True):
    """One node of an expression, and the nodes that hold it."""

    node: pp.Expr
    above: tuple[pp.Expr, ...]
    """The nearest first."""


class Selector(Struct, frozen=True, kw_only=True):
    """One use of a metric in an expression."""

    metric: str
    """Empty where it is chosen by labels alone."""
    matchers: tuple[Matcher, ...]
    range: float | None
    """Seconds in square brackets; ``None`` for the newest value."""
    offset: float
    """Seconds back."""
    above: tuple[str, ...]
    """The names of the functions and aggregations around it, the nearest first."""


class Family(Struct, frozen=True, kw_only=True):
    """What is known of one name of a series."""

    labels: frozenset[str]
    counter: bool = False
    unit: str = ""
    """As in the catalogue; empty for plain counts, flags and facts."""
    open: bool = False
    """It may have any label besides."""


class Shape(Struct, frozen=True, kw_only=True):
    """The labels of the series that an expression gives."""

    labels: frozenset[str]
    fixed: frozenset[str] = frozenset()
    """Those that have one value in all of them."""
    open: bool = False
    """There may be any label besides."""


def parse(text: str) -> pp.Expr:
    """Return the syntax tree. Raises PromqlError where the text is none."""
    try:
        return pp.parse(text)
    except ValueError as error:
        raise PromqlError(f"{error}, in: {text}") from None


def walk(expr: pp.Expr, above: tuple[pp.Expr, ...] = ()) -> Iterator[Place]:
    """Yield every node, what holds a node before it."""
    yield Place(expr, above)
    for child in children(expr):
        yield from walk(child, (expr, *above))


def children(expr: pp.Expr) -> tuple[pp.Expr, ...]:
    """Return the nodes that a node holds, left to right."""
    match expr:
        case pp.BinaryExpr():
            return (expr.lhs, expr.rhs)
        case pp.AggregateExpr():
            return (expr.expr,) if expr.param is None else (expr.param, expr.expr)
        case pp.Call():
            return tuple(expr.args)
        case pp.ParenExpr() | pp.UnaryExpr() | pp.SubqueryExpr():
            return (expr.expr,)
        case pp.MatrixSelector():
            return (expr.vector_selector,)
        case _:
            return ()


def selectors(expr: pp.Expr) -> list[Selector]:
    """Return every use of a metric, left to right."""
    return [_selector(place.node, place.above) for place in walk(expr) if isinstance(place.node, pp.VectorSelector)]


def metrics(expr: pp.Expr) -> frozenset[str]:
    """Return the names of the series that an expression uses."""
    return frozenset(each.metric for each in selectors(expr))


def function_name(node: pp.Expr) -> str:
    """Return the name of a function or an aggregation; of other nodes nothing."""
    if isinstance(node, pp.Call):
        return node.func.name
    return str(node.op) if isinstance(node, pp.AggregateExpr) else ""


def seconds(duration: timedelta | None) -> float:
    """Return a duration in seconds; none is 0."""
    return 0.0 if duration is None else duration.total_seconds()


def matchers_of(node: pp.VectorSelector) -> tuple[Matcher, ...]:
    """Return the conditions of a selector, those of its ``or`` groups among them, without the metric's name."""
    chosen = [*node.matchers.matchers, *(each for group in node.matchers.or_matchers for each in group)]
    return tuple(Matcher(it.name, _OPERATORS[str(it.op)], it.value) for it in chosen if it.name != "__name__")


def name_of(node: pp.VectorSelector) -> str:
    """Return the metric of a selector, empty where only labels choose it."""
    named = (it.value for it in node.matchers.matchers if it.name == "__name__" and str(it.op) == "MatchOp.Equal")
    return node.name or next(named, "")


def without_parentheses(expr: pp.Expr) -> pp.Expr:
    """Return what stands in the parentheses, or the expression itself."""
    while isinstance(expr, pp.ParenExpr):
        expr = expr.expr
    return expr


def returns_bool(node: pp.BinaryExpr) -> bool:
    """Return whether a comparison gives 0 or 1 instead of choosing series."""
    return node.modifier is not None and node.modifier.return_bool


def exported(system: str = "faktory") -> dict[str, Family]:
    """Return every name of a series that is in Prometheus where Forewarn is scraped and no rule is loaded."""
    own = {name: Family(labels=TARGET) for name in ("up", "scrape_samples_scraped", "scrape_series_added")}
    own["scrape_duration_seconds"] = Family(labels=TARGET, unit="seconds")
    own["ALERTS"] = Family(labels=TARGET | {"alertname", "alertstate", "severity"}, open=True)
    return own | {name: family for metric in METRICS for name, family in _families(metric, system)}


def shape(expr: pp.Expr, known: Mapping[str, Family], problems: list[str]) -> Shape | None:
    """Return the labels of an expression's series, ``None`` for a number or a text; add to ``problems`` what is wrong.

    Wrong is: a metric or a label that does not exist, a label used after an aggregation took it away, two sides that
    can never match, and a match that finds several series where it may find one.
    """
    match expr:
        case pp.ParenExpr() | pp.UnaryExpr() | pp.SubqueryExpr():
            return shape(expr.expr, known, problems)
        case pp.MatrixSelector():
            return shape(expr.vector_selector, known, problems)
        case pp.VectorSelector():
            return _shape_of_selector(expr, known, problems)
        case pp.Call():
            return _shape_of_call(expr, known, problems)
        case pp.AggregateExpr():
            return _shape_of_aggregation(expr, known, problems)
        case pp.BinaryExpr():
            return _shape_of_binary(expr, known, problems)
        case _:
            return None


_OPERATORS: Final = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}


def _selector(node: pp.VectorSelector, above: tuple[pp.Expr, ...]) -> Selector:
    inside = above[0] if above and isinstance(above[0], pp.MatrixSelector) else None
    return Selector(
        metric=name_of(node),
        matchers=matchers_of(node),
        range=None if inside is None else seconds(inside.range),
        offset=seconds(node.offset),
        above=tuple(name for each in above if (name := function_name(each))),
    )


def _families(metric: Metric, system: str) -> Iterator[tuple[str, Family]]:
    name = metric.full_name(system)
    of_a_server = metric not in (BUILD_INFO, *PROCESS_METRICS, *CONFIG_METRICS, *OTLP_METRICS, *STATSD_PUSH_METRICS)
    labels = TARGET | set(metric.labels) | ({"server"} if of_a_server else set())
    counts = metric.kind in (Kind.COUNTER, Kind.HISTOGRAM)
    if metric.kind in (Kind.COUNTER, Kind.GAUGE):
        yield name, Family(labels=labels, counter=counts, unit=metric.unit)
        return
    total = "g" if metric.kind is Kind.GAUGE_HISTOGRAM else ""
    yield f"{name}_bucket", Family(labels=labels | {"le"}, counter=counts)
    yield f"{name}_{total}count", Family(labels=labels, counter=counts)
    yield f"{name}_{total}sum", Family(labels=labels, counter=counts, unit=metric.unit)


def _shape_of_selector(node: pp.VectorSelector, known: Mapping[str, Family], problems: list[str]) -> Shape:
    name = name_of(node)
    family = known.get(name) if name else _family_of_names(node, known)
    if family is None:
        problems.append(f"there is no metric {name or 'of such a name'}: {node}")
        return Shape(labels=frozenset(), open=True)
    problems += [
        f"{name} has no label {each.label}, by which {each} chooses"
        for each in matchers_of(node)
        if each.label not in family.labels and not family.open
    ]
    fixed = frozenset(each.label for each in matchers_of(node) if each.operator == "=")
    return Shape(labels=family.labels, fixed=fixed & family.labels, open=family.open)


def _family_of_names(node: pp.VectorSelector, known: Mapping[str, Family]) -> Family | None:
    """Return what all metrics have in common whose names match a regular expression."""
    expressions = [it.value for it in node.matchers.matchers if it.name == "__name__" and str(it.op) == "MatchOp.Re"]
    chosen = [known[name] for name in known if any(re.fullmatch(each, name) for each in expressions)]
    if not chosen:
        return None
    return Family(labels=frozenset.intersection(*(each.labels for each in chosen)))


def _shape_of_call(node: pp.Call, known: Mapping[str, Family], problems: list[str]) -> Shape | None:
    name = node.func.name
    shapes = [found for each in node.args if (found := shape(each, known, problems)) is not None]
    if str(node.func.return_type) == "ValueType.Scalar":
        return None
    if not shapes:
        return Shape(labels=frozenset())
    given = shapes[0]
    if name in ("absent", "absent_over_time"):
        # It has the labels that its argument would have for certain.
        named = without_parentheses(node.args[0])
        named = named.vector_selector if isinstance(named, pp.MatrixSelector) else named
        chosen = matchers_of(named) if isinstance(named, pp.VectorSelector) else ()
        labels = frozenset(each.label for each in chosen if each.operator == "=")
        return Shape(labels=labels, fixed=labels)
    if name == "histogram_quantile":
        _need(given, {"le"}, "histogram_quantile", problems)
        return Shape(labels=given.labels - {"le"}, fixed=given.fixed, open=given.open)
    if name in ("label_replace", "label_join"):
        texts = [each.val for each in node.args if isinstance(each, pp.StringLiteral)]
        sources = {texts[2]} if name == "label_replace" else set(texts[2:])
        _need(given, sources - {""}, name, problems)  # of nothing, to add a constant
        return Shape(labels=given.labels | {texts[0]}, fixed=given.fixed - {texts[0]}, open=given.open)
    return given


def _shape_of_aggregation(node: pp.AggregateExpr, known: Mapping[str, Family], problems: list[str]) -> Shape | None:
    name = str(node.op)
    given = shape(node.expr, known, problems)
    if given is None:
        return None
    by = node.modifier is not None and node.modifier.type == pp.AggModifierType.By
    listed = frozenset() if node.modifier is None else frozenset(node.modifier.labels)
    _need(given, listed, f"{name} {'by' if by else 'without'}", problems)
    if name in KEEP_EVERY_LABEL:
        return given
    kept = given.labels & listed if by else given.labels - listed
    if node.modifier is None:
        kept = frozenset()
    added = {node.param.val} if name == "count_values" and isinstance(node.param, pp.StringLiteral) else set()
    still_open = given.open and node.modifier is not None and not by
    return Shape(labels=kept | added, fixed=given.fixed & kept, open=still_open)


def _shape_of_binary(node: pp.BinaryExpr, known: Mapping[str, Family], problems: list[str]) -> Shape | None:
    left = shape(node.lhs, known, problems)
    right = shape(node.rhs, known, problems)
    if left is None or right is None:
        return left or right
    operator = str(node.op)
    matching = None if node.modifier is None else node.modifier.matching
    on = matching is not None and matching.type == pp.LabelModifierType.Include
    listed = frozenset() if matching is None else frozenset(matching.labels)
    if on:
        for side, which in ((left, "left"), (right, "right")):
            _need(side, listed, f"the {which} side of {operator} on", problems)
    elif not (left.open or right.open):
        problems += [
            f"neither side of {operator} ignoring ({label}) has the label {label}"
            for label in sorted(listed - left.labels - right.labels)
        ]
        differ = (left.labels ^ right.labels) - listed
        if differ and operator != "or":
            problems.append(f"the sides of {operator} never match: only one of them has {', '.join(sorted(differ))}")
    if operator == "or":
        return Shape(labels=left.labels & right.labels, open=left.open or right.open)
    if operator in SET_OPERATORS:
        return left
    return _matched(node, left, right, listed if on else (left.labels | right.labels) - listed, problems)


def _matched(node: pp.BinaryExpr, left: Shape, right: Shape, key: frozenset[str], problems: list[str]) -> Shape:
    """Return the labels that arithmetic and comparisons give, whose sides match by the labels ``key``."""
    operator = str(node.op)
    modifier = node.modifier
    if modifier is not None and modifier.card == pp.VectorMatchCardinality.ManyToOne:
        many, single = left, right
    elif modifier is not None and modifier.card == pp.VectorMatchCardinality.OneToMany:
        many, single = right, left
    else:
        for side, which in ((left, "left"), (right, "right")):
            _need_one(side, key, f"the {which} side of {operator}", problems)
        return Shape(labels=left.labels & key, fixed=left.fixed & key, open=left.open and right.open)
    _need_one(single, key, f"the single side of {operator}", problems)
    brought = frozenset((modifier and modifier.group_labels) or ())
    _need(single, brought, f"the single side of {operator} group_left or group_right", problems)
    return Shape(labels=many.labels | brought, fixed=many.fixed, open=many.open)


def _need(given: Shape, labels: frozenset[str] | set[str], where: str, problems: list[str]) -> None:
    if not given.open:
        problems += [
            f"{where} ({label}): there is no label {label} here, only {', '.join(sorted(given.labels)) or 'none'}"
            for label in sorted(labels - given.labels)
        ]


def _need_one(given: Shape, key: frozenset[str], where: str, problems: list[str]) -> None:
    several = given.labels - key - given.fixed
    if several and not given.open:
        problems.append(f"{where} may have several series for one match: they differ by {', '.join(sorted(several))}")
