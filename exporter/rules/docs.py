"""What the documentation says of the rules, written from the rules themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from exporter.rules.render import groups
from exporter.rules.rule import AlertRule, Recording
from exporter.rules.settings import RuleSettings

BEGIN = "<!-- rule -->"
END = "<!-- /rule -->"


def runbook_part(name: str, settings: RuleSettings) -> str:
    """Return the part of an alert's page that tells its rules and the keys that change them, markers included."""
    every = (rule for group in groups(settings) for rule in group.rules)
    rules = [rule for rule in every if isinstance(rule, AlertRule) and rule.name == name]
    lines = [BEGIN, "## The rule", "", "Written by `python -m exporter.rules`: change the settings, not this part.", ""]
    for rule in rules:
        lines += [
            f"Severity **{rule.severity}**, {_when(rule)}:",
            "",
            "```promql",
            rule.expr,
            "```",
            "",
        ]
    lines += [f"Keys of `[alerts.{name}]`, with their defaults:", "", "```toml"]
    lines += [*_keys(settings, name), "```", END]
    return "\n".join(lines)


def with_rule(page: str, name: str, settings: RuleSettings) -> str:
    """Return a runbook page with the part between its markers written anew.

    Raises:
        ValueError: The page has no markers.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the runbook of {name} has no {BEGIN} and {END}; put them at its end")
    return before + runbook_part(name, settings) + after


def overview(settings: RuleSettings) -> str:
    """Return the page that lists every alert and every key of the settings."""
    return "\n".join((*_head(), *_alerts(settings), *_recordings(settings), *_settings(settings))) + "\n"


def _head() -> tuple[str, ...]:
    return (
        "# Alerts",
        "",
        "Written by `python -m exporter.rules`: change the rules in `exporter/rules/`, not this file.",
        "",
        "`alerts/faktory.yml` holds these rules for Prometheus, `alerts/faktory.prometheusrule.yml` for the Prometheus",
        "operator, and `alerts/alertmanager.yml` the routes and inhibitions that belong to them. To change a",
        "threshold, a time, a selector or a switch, write a file with the keys that differ and render the rules anew:",
        "",
        "```toml",
        "# rules.toml",
        'runbooks_url = "https://git.example.com/forewarn/docs/runbooks"',
        'dashboards_url = "https://grafana.example.com"',
        "",
        "[alerts.FaktoryConnectionsNearLimit]",
        "used_share = 0.7",
        "```",
        "",
        "```sh",
        "forewarn rules --settings rules.toml > /etc/prometheus/rules/forewarn.yml",
        "promtool check rules /etc/prometheus/rules/forewarn.yml",
        "```",
        "",
        "Two keys should always be set, or the links of every alert lead nowhere: `runbooks_url`, where the pages of",
        "`docs/runbooks` are to be read, and `dashboards_url`, the Grafana that has the dashboards.",
        "",
        "The four signals are each told twice: when the level is high, and earlier, when the trend leads there. A",
        "trend alone never alerts: it must come with a level.",
        "",
    )


def _alerts(settings: RuleSettings) -> Iterator[str]:
    for group in groups(settings):
        rules = [rule for rule in group.rules if isinstance(rule, AlertRule)]
        if not rules:
            continue
        yield from (f"## {group.name}", "", "| alert | severity | fires | says |", "| - | - | - | - |")
        for rule in rules:
            link = f"[{rule.name}](runbooks/{rule.name}.md)"
            yield f"| {link} | {rule.severity} | {_when(rule)} | {_plain(rule.summary)} |"
        yield ""


def _recordings(settings: RuleSettings) -> Iterator[str]:
    yield from ("## Recorded series", "", "| series | expression |", "| - | - |")
    for group in groups(settings):
        for rule in group.rules:
            if isinstance(rule, Recording):
                yield f"| `{rule.record}` | `{' '.join(rule.expr.split())}` |"
    yield ""


def _settings(settings: RuleSettings) -> Iterator[str]:
    yield from ("## Every key, with its default", "", "```toml")
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        if not isinstance(value, Struct):
            yield f"{field.encode_name} = {_toml(value)}"
    for field in msgspec.structs.fields(settings.alerts):
        yield ""
        yield f"[alerts.{field.encode_name}]"
        yield from _keys(settings, field.encode_name)
    yield "```"


def _keys(settings: RuleSettings, name: str) -> Iterator[str]:
    (field,) = (each for each in msgspec.structs.fields(settings.alerts) if each.encode_name == name)
    entry = getattr(settings.alerts, field.name)
    for key in msgspec.structs.fields(entry):
        yield f"{key.encode_name} = {_toml(getattr(entry, key.name))}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'" if '"' in value else f'"{value}"'
    if isinstance(value, tuple):
        return "[\n" + "".join(f"    {_inline(each)},\n" for each in value) + "]"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _inline(table: Struct) -> str:
    pairs = (f"{key.encode_name} = {_toml(getattr(table, key.name))}" for key in msgspec.structs.fields(table))
    return "{ " + ", ".join(pairs) + " }"


def _when(rule: AlertRule) -> str:
    after = "at once" if rule.pending == "0s" else f"after {rule.pending}"
    held = "" if rule.keep_firing_for == "0s" else f", and for {rule.keep_firing_for} more"
    return f"{after}{held}"


def _plain(template: str) -> str:
    return template.replace("{{ $labels.", "*").replace(" }}", "*")
