"""The settings of the rules from a TOML file, checked key by key."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.inspect import BoolType, LiteralType, Metadata, StructType, VarTupleType, type_info

from exporter.catalogue import METRICS
from exporter.rules.settings import DEFAULTS, LatencyBudget, LatencyObjective, RuleSettings, Wait, Window
from exporter.settings import parse_duration

MAX_FILE: Final = 1024 * 1024

LONGEST: Final = 292 * 365 * 86400.0
"""Seconds: Prometheus counts times in nanoseconds of 64 bits."""

LOOKBACK: Final = 300.0
"""Seconds after which Prometheus takes a series without a new sample for gone."""

OWN_LABELS: Final = frozenset({"server", "le"}.union(*(metric.labels for metric in METRICS)))
"""Labels that some metrics have and others have not."""

_MATCHER: Final = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,60}")

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


class RuleSettingsError(Exception):
    """The file cannot be used. Each problem names the file, the key, what is wrong and what would be right."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def load(path: Path) -> RuleSettings:
    """Return the defaults, changed where the file says so.

    Raises:
        RuleSettingsError: The file cannot be read, is not TOML, or has keys or values that cannot be used.
    """
    document = _read(path)
    problems: list[str] = []
    settings: RuleSettings = _table(DEFAULTS, document, "", problems)
    if not problems:
        problems += _contradictions(settings)
    if problems:
        raise RuleSettingsError(f"{path}: {problem}" for problem in problems)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise RuleSettingsError([f"{path}: it is larger than {MAX_FILE} bytes; name the settings of the rules"])
        return tomllib.loads(content.decode())
    except OSError as error:
        raise RuleSettingsError([f"{path}: {error.strerror or error}; name a readable TOML file"]) from None
    except UnicodeDecodeError:
        raise RuleSettingsError([f"{path}: it is not UTF-8 text; save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise RuleSettingsError([f"{path}: it is not TOML: {error}; mend that place"]) from None
    except ValueError:
        raise RuleSettingsError([f"{path}: it has a number with too many digits; write a smaller one"]) from None
    except RecursionError:
        raise RuleSettingsError([f"{path}: it is nested too deeply; write it flat"]) from None


def _table(default: Any, table: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """Return ``default`` with the values of ``table``, which is called ``where``; add what is wrong to ``problems``."""
    fields = {each.encode_name: each for each in msgspec.structs.fields(type(default))}
    changed: dict[str, Any] = {}
    for key, value in table.items():
        place = f"{where}.{_key(key)}" if where else _key(key)
        if key not in fields:
            problems.append(f"{place}: there is no such key{_nearest(key, fields)}")
            continue
        field = fields[key]
        before = getattr(default, field.name)
        if not isinstance(before, Struct):
            changed[field.name] = _value(field.type, value, place, f" (default: {_shown(before)})", problems)
        elif isinstance(value, dict):
            changed[field.name] = _table(before, value, place, problems)
        else:
            problems.append(f"{place} = {_shown(value)}: it must be a table; write [{place}] on a line of its own")
    return default if problems else msgspec.structs.replace(default, **changed)


def _value(kind: Any, value: Any, place: str, default: str, problems: list[str]) -> Any:
    """Return ``value`` as the type ``kind``, or ``None`` and a problem that ends with ``default``."""
    item = _item_of(kind)
    if item is not None and isinstance(value, list):
        return tuple(_item(item, each, f"{place}[{number}]", problems) for number, each in enumerate(value))
    try:
        made = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        problems.append(f"{place} = {_shown(value)}: it must be {_wanted(kind)}{default}")
        return None
    if isinstance(made, float) and not math.isfinite(made):
        problems.append(f"{place} = {made:g}: it must be {_wanted(kind)}{default}")
    elif isinstance(made, str) and not made.isprintable():
        problems.append(f"{place} = {_shown(value)}: it must be one line of text{default}")
    elif kind in (Wait, Window) and parse_duration(made) > LONGEST:
        problems.append(f"{place} = {_shown(value)}: Prometheus cannot count above 292y; write less{default}")
    return made


def _item_of(kind: Any) -> type[Struct] | None:
    """Return what a list of tables is made of, ``None`` where ``kind`` is no list."""
    info = type_info(kind)
    return info.item_type.cls if isinstance(info, VarTupleType) and isinstance(info.item_type, StructType) else None


def _item(kind: type[Struct], value: Any, place: str, problems: list[str]) -> Any:
    """Return one table of a list: all of its keys must be there."""
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    if not isinstance(value, dict):
        problems.append(f"{place} = {_shown(value)}: it must be a table with {', '.join(fields)}")
        return None
    problems += [
        f"{place}.{_key(key)}: there is no such key{_nearest(key, fields)}" for key in value if key not in fields
    ]
    problems += [
        f"{place}.{key} is missing: it must be {_wanted(field.type)}"
        for key, field in fields.items()
        if key not in value
    ]
    made = {
        field.name: _value(field.type, value[key], f"{place}.{key}", "", problems)
        for key, field in fields.items()
        if key in value
    }
    return None if problems else kind(**made)


def _wanted(kind: Any) -> str:
    info = type_info(kind)
    if isinstance(info, Metadata) and info.extra_json_schema:
        return str(info.extra_json_schema["description"])
    if isinstance(info, LiteralType):
        return "one of " + ", ".join(str(each) for each in info.values)
    return "true or false" if isinstance(info, BoolType) else "a list of tables"


def _contradictions(settings: RuleSettings) -> Iterator[str]:
    """Tell values that are right alone but not together, or not for Prometheus.

    They would make rules that Prometheus refuses, or an alert that can never fire, or one that never ends.
    """
    yield from _addresses(settings)
    yield from _selector(settings.selector)
    yield from _intervals(settings)
    yield from _objectives(settings.objectives)
    yield from _shares(settings)
    yield from _too_late(settings)
    yield from _budget(settings)


def _addresses(settings: RuleSettings) -> Iterator[str]:
    for key in ("runbooks_url", "dashboards_url"):
        address = getattr(settings, key)
        if "?" in address or "#" in address:
            yield f"{key} = {_shown(address)}: it must end before ? and #, because a page is put behind it"


def _selector(text: str) -> Iterator[str]:
    place = f"selector = {_shown(text)}"
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
                f"{key} = {_shown(getattr(settings, key))}: it must be below {LOOKBACK / 60:g}m, after which Prometheus"
                f" takes what the rules record for gone (default: {_shown(getattr(DEFAULTS, key))})"
            )


def _objectives(objectives: tuple[LatencyObjective, ...]) -> Iterator[str]:
    if not objectives:
        yield "objectives = []: there must be one; switch alerts.FaktoryQueueLatencyBudgetBurn off instead"
    for number, objective in enumerate(objectives):
        place = f"objectives[{number}].queues = {_shown(objective.queues)}"
        if wrong := why_no_expression(objective.queues):
            yield f"{place}: {wrong}"
        if objective.queues == ".*" and number < len(objectives) - 1:
            yield f"{place}: it takes every queue, so that those behind it have none; put it last"


def _shares(settings: RuleSettings) -> Iterator[str]:
    chosen = settings.alerts
    limit = chosen.faktory_connections_near_limit
    if limit.enabled and limit.critical_share < limit.used_share:
        yield (
            f"alerts.FaktoryConnectionsNearLimit.critical_share = {limit.critical_share:g}: it must not be below"
            f" used_share, {limit.used_share:g}"
        )
    for alert, key in (
        ("faktory_connections_near_limit", "used_share"),
        ("faktory_connections_near_limit", "critical_share"),
        ("faktory_peer_holds_connections", "peer_share"),
        ("faktory_peer_holds_connections", "used_share"),
        ("faktory_retry_storm", "failed_share"),
        ("faktory_connections_filling", "used_share"),
    ):
        entry = getattr(chosen, alert)
        if entry.enabled and getattr(entry, key) >= 1:
            yield f"{_place(settings, alert)}.{key} = 1: it must be below 1, or nothing is above it"


def _too_late(settings: RuleSettings) -> Iterator[str]:
    """Tell alerts whose condition ends with their window before their ``for`` has passed."""
    for alert in (
        "faktory_restarted",
        "faktory_connections_refused",
        "faktory_reservations_expired",
        "faktory_worker_crashed",
        "faktory_worker_hung",
        "forewarn_down",
    ):
        entry = getattr(settings.alerts, alert)
        if entry.enabled and parse_duration(entry.pending) >= parse_duration(entry.window):
            yield (
                f"{_place(settings, alert)}.for = {_shown(entry.pending)}: it must be below window,"
                f" {_shown(entry.window)}, in which what happened is forgotten"
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
                f"{place}.windows[{number}].short = {_shown(window.short)}: it must be below long,"
                f" {_shown(window.long)}"
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


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _shown(key)


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(names)}" if len(names) <= 12 else ""


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= 60 else text[:57] + "..."
