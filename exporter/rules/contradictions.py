"""What single keys cannot tell: values that make no sense together, or that Prometheus would refuse."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from exporter.catalogue import METRICS
from exporter.rules.settings import DEFAULTS, LatencyBudget, LatencyObjective, LogUnread, RuleSettings, Trend
from exporter.settings import parse_duration

LOOKBACK: Final = 300.0
"""Seconds after which Prometheus takes a series without a new sample for gone."""

OWN_LABELS: Final = frozenset({"server", "le"}.union(*(metric.labels for metric in METRICS)))
"""Labels that some metrics have and others have not."""

_MATCHER: Final = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')

# What Python's regular expressions have and Prometheus's (RE2) have not.
_NOT_RE2: Final = (
    (r"\(\?(?!:|P<\w+>|[ims]*(?:-[ims]+)?[:)])", "a group that begins so"),
    (r"[*+?}]\+", "a + behind a repetition"),
    (r"\\(?![dDsSwWbBAafnrtv]|x[0-9A-Fa-f]{2}|[^\w\s])", "such a backslash"),
    (r"\{\d{4,}|\{\d*,\d{4,}", "more than 999 repetitions"),
    (r"\{,", "a repetition without its least number"),
    (r"\[[^]]*\\[bB]", "a boundary in a class of characters"),
)
_CLASS: Final = r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"


def contradictions(settings: RuleSettings) -> Iterator[str]:
    """Tell values that are right alone but not together, or not for Prometheus.

    They would make rules that Prometheus refuses, or an alert that can never fire, or one that never ends.
    """
    yield from _addresses(settings)
    yield from _selector(settings.selector)
    yield from _intervals(settings)
    yield from _objectives(settings.objectives)
    yield from _shares(settings)
    yield from _too_late(settings)
    yield from _steps(settings)
    yield from _budget(settings)


def _addresses(settings: RuleSettings) -> Iterator[str]:
    for key in ("runbooks_url", "dashboards_url"):
        address = getattr(settings, key)
        if "?" in address or "#" in address:
            yield f"{key} = {shown(address)}: it must end before ? and #, because a page is put behind it"


def _selector(text: str) -> Iterator[str]:
    place = f"selector = {shown(text)}"
    for label, operator, value in _MATCHER.findall(text):
        if label == "__name__":
            yield f"{place}: the rules choose the metrics; leave __name__ out"
        elif label in OWN_LABELS:
            yield (
                f"{place}: not all metrics have the label {label}, so that alerts would be silent or never end; choose"
                " by labels of the scrape, such as job, instance or cluster"
            )
        if re.search(r'\\[^\\"]', value.replace("\\\\", "")):
            yield f'{place}: {label} has a backslash before something other than \\ and "; write it twice'
        elif operator in ("=~", "!~") and (wrong := why_no_expression(re.sub(r"\\(.)", r"\1", value))):
            yield f"{place}: {label}: {wrong}"


def why_no_expression(text: str) -> str | None:
    """Return why ``text`` is no regular expression for Prometheus. What only RE2 knows is refused too: it is rare."""
    for pattern, what in _NOT_RE2:
        if found := re.search(pattern, re.sub(r"\\[^\w\s]", "", text)):
            return f"Prometheus's regular expressions do not know {what}: {found[0]}"
    if "[:" in re.sub(_CLASS, "", text):
        return "there is no such class of characters; write one such as [[:alpha:]]"
    if "){" in text and math.prod(max(1, int(each)) for each in re.findall(r"(\d+)}", text)) > 1000:
        return "Prometheus's regular expressions do not know more than 1000 repetitions of repetitions"
    try:
        with warnings.catch_warnings(action="ignore"):  # of what a later Python may read otherwise
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        return f"it is not a regular expression: {error}"
    return None


def _intervals(settings: RuleSettings) -> Iterator[str]:
    for key in ("interval", "history_interval"):
        if parse_duration(getattr(settings, key)) >= LOOKBACK:
            yield (
                f"{key} = {shown(getattr(settings, key))}: it must be below {LOOKBACK / 60:g}m, after which Prometheus"
                f" takes what the rules record for gone (default: {shown(getattr(DEFAULTS, key))})"
            )


def _objectives(objectives: tuple[LatencyObjective, ...]) -> Iterator[str]:
    if not objectives:
        yield "objectives = []: there must be one; switch alerts.FaktoryQueueLatencyBudgetBurn off instead"
    for number, objective in enumerate(objectives):
        place = f"objectives[{number}].queues = {shown(objective.queues)}"
        if wrong := why_no_expression(objective.queues):
            yield f"{place}: {wrong}"
        if objective.queues == ".*" and number < len(objectives) - 1:
            yield f"{place}: it takes every queue, so that those behind it have none; put it last"


def _shares(settings: RuleSettings) -> Iterator[str]:
    chosen = settings.alerts
    for alert, critical, usual in (
        ("faktory_connections_near_limit", "critical_share", "used_share"),
        ("faktory_process_file_descriptors", "critical_share", "used_share"),
        ("faktory_accept_queue_filling", "critical_connections", "connections"),
    ):
        entry = getattr(chosen, alert)
        if entry.enabled and getattr(entry, critical) < getattr(entry, usual):
            yield (
                f"{_place(settings, alert)}.{critical} = {getattr(entry, critical):g}: it must not be below"
                f" {usual}, {getattr(entry, usual):g}"
            )
    for alert, key in (
        ("faktory_connections_near_limit", "used_share"),
        ("faktory_connections_near_limit", "critical_share"),
        ("faktory_process_file_descriptors", "used_share"),
        ("faktory_process_file_descriptors", "critical_share"),
        ("faktory_peer_holds_connections", "peer_share"),
        ("faktory_peer_holds_connections", "used_share"),
        ("faktory_statsd_silent_near_limit", "used_share"),
        ("faktory_retry_storm", "failed_share"),
        ("faktory_job_type_failing", "failed_share"),
        ("faktory_connections_filling", "used_share"),
        ("faktory_process_file_descriptors_filling", "used_share"),
        ("forewarn_statsd_lost", "share"),
    ):
        entry = getattr(chosen, alert)
        if entry.enabled and getattr(entry, key) >= 1:
            yield f"{_place(settings, alert)}.{key} = 1: it must be below 1, or nothing is above it"


def _too_late(settings: RuleSettings) -> Iterator[str]:
    """Tell alerts whose condition ends with their window before their ``for`` has passed."""
    for alert in (
        "faktory_restarted",
        "faktory_process_crashed",
        "faktory_process_died_unexplained",
        "faktory_store_crashed",
        "faktory_job_lost",
        "faktory_flushed",
        "faktory_recovered_panic",
        "faktory_data_race",
        "faktory_connections_refused",
        "faktory_reservations_expired",
        "faktory_worker_crashed",
        "faktory_worker_hung",
        "forewarn_down",
    ):
        entry = getattr(settings.alerts, alert)
        if entry.enabled and parse_duration(entry.pending) >= parse_duration(entry.window):
            yield (
                f"{_place(settings, alert)}.for = {shown(entry.pending)}: it must be below window,"
                f" {shown(entry.window)}, in which what happened is forgotten"
            )


def _steps(settings: RuleSettings) -> Iterator[str]:
    """Tell trends that would take a single step for growth."""
    for field in msgspec.structs.fields(settings.alerts):
        entry = getattr(settings.alerts, field.name)
        grows = isinstance(entry, (Trend, LogUnread))
        if grows and entry.enabled and parse_duration(entry.recent) >= parse_duration(entry.pending):
            yield (
                f"alerts.{field.encode_name}.recent = {shown(entry.recent)}: it must be below for,"
                f" {shown(entry.pending)}, or a single step counts as growth for long enough"
            )


def _place(settings: RuleSettings, alert: str) -> str:
    (name,) = (each.encode_name for each in msgspec.structs.fields(settings.alerts) if each.name == alert)
    return f"alerts.{name}"


def _budget(settings: RuleSettings) -> Iterator[str]:
    budget = settings.alerts.faktory_queue_latency_budget_burn
    place = "alerts.FaktoryQueueLatencyBudgetBurn"
    if not budget.enabled:
        return
    if not budget.windows:
        yield f"{place}.windows = []: there must be one; set enabled = false instead"
    seen: set[tuple[str, str, str]] = set()
    for number, window in enumerate(budget.windows):
        if parse_duration(window.short) >= parse_duration(window.long):
            yield (
                f"{place}.windows[{number}].short = {shown(window.short)}: it must be below long, {shown(window.long)}"
            )
        same = (window.severity, window.long, window.short)
        if same in seen:
            yield f"{place}.windows[{number}]: there is one of {', '.join(same)} already; take one of them away"
        seen.add(same)
    yield from _unreachable(settings.objectives, budget)


def _unreachable(objectives: Iterable[LatencyObjective], budget: LatencyBudget) -> Iterator[str]:
    for number, objective in enumerate(objectives):
        fastest = 1 / (1 - objective.target)
        for window in budget.windows:
            if window.factor >= fastest:
                yield (
                    f"objectives[{number}].target = {objective.target:g}: the budget of queues {objective.queues} can"
                    f" burn at most {fastest:g} times too fast, so that FaktoryQueueLatencyBudgetBurn over"
                    f" {window.long} with factor = {window.factor:g} never fires; set a higher target or a lower factor"
                )


def shown(value: object) -> str:
    """Return a value as an error text shows it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= 60 else text[:57] + "..."
