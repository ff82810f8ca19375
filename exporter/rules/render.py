"""All rules, and the same in the formats of Prometheus and of the Prometheus operator."""

from typing import Any, Final, Literal

import yaml

from exporter.rules import availability, capacity, crashes, latency, meta, recording, saturation
from exporter.rules.rule import AlertRule, Group, Recording
from exporter.rules.settings import DEFAULTS, Alerts, RuleSettings

Format = Literal["prometheus", "kubernetes"]
FORMATS: Final[tuple[Format, ...]] = ("prometheus", "kubernetes")

_ALERT_GROUPS: Final = (
    ("faktory.availability", availability.alerts),
    ("faktory.crashes", crashes.alerts),
    ("faktory.saturation", saturation.alerts),
    ("faktory.latency-and-errors", latency.alerts),
    ("faktory.capacity-and-trend", capacity.alerts),
    ("forewarn.meta", meta.alerts),
)


def groups(settings: RuleSettings) -> tuple[Group, ...]:
    """Return all rules that are switched on: recordings first, then the alerts in the order in which they matter."""
    off = switched_off(settings.alerts)
    alerting = (
        Group(name=name, rules=tuple(rule for rule in make(settings) if rule.name not in off))
        for name, make in _ALERT_GROUPS
    )
    return (*recording.groups(settings), *(group for group in alerting if group.rules))


def switched_off(alerts: Alerts) -> frozenset[str]:
    """Return the names of the alerts that the settings switch off."""
    names = zip(alerts.__struct_fields__, alerts.__struct_encode_fields__, strict=True)
    return frozenset(name for field, name in names if not getattr(alerts, field).enabled)


def links_and_texts(rule: AlertRule, settings: RuleSettings) -> dict[str, str]:
    """Return the texts and addresses that come with an alert."""
    return {
        "summary": rule.summary,
        "description": rule.description,
        "runbook_url": f"{settings.runbooks_url.rstrip('/')}/{rule.name}.md",
        "dashboard_url": rule.panel.url(settings.dashboards_url, rule.by),
    }


def render(settings: RuleSettings, form: Format) -> str:
    """Return the rules as YAML, with a head that says how to make them anew."""
    body: dict[str, Any] = {"groups": [_group(group, settings) for group in groups(settings)]}
    if form == "kubernetes":
        body = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "forewarn", "labels": {"app.kubernetes.io/name": "forewarn"}},
            "spec": body,
        }
    head = f"# Written by `forewarn rules --format {form}`: change its settings, not this file.\n"
    if still_examples(settings):
        head += "# runbook_url and dashboard_url are examples: set runbooks_url and dashboards_url.\n"
    return head + yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def still_examples(settings: RuleSettings) -> tuple[str, ...]:
    """Return the keys of the addresses that nobody has set, so that the alerts' links lead nowhere."""
    return tuple(key for key in ("runbooks_url", "dashboards_url") if getattr(settings, key) == getattr(DEFAULTS, key))


def _group(group: Group, settings: RuleSettings) -> dict[str, Any]:
    return {
        "name": group.name,
        "interval": group.interval or settings.interval,
        "rules": [_recording(rule) if isinstance(rule, Recording) else _alert(rule, settings) for rule in group.rules],
    }


def _recording(rule: Recording) -> dict[str, Any]:
    written: dict[str, Any] = {"record": rule.record, "expr": _Block(rule.expr)}
    if rule.labels:
        written["labels"] = dict(rule.labels)
    return written


def _alert(rule: AlertRule, settings: RuleSettings) -> dict[str, Any]:
    written: dict[str, Any] = {"alert": rule.name, "expr": _Block(rule.expr)}
    if rule.pending != "0s":
        written["for"] = rule.pending
    if rule.keep_firing_for != "0s":
        written["keep_firing_for"] = rule.keep_firing_for
    written["labels"] = {"severity": rule.severity, **rule.labels}
    written["annotations"] = links_and_texts(rule, settings)
    return written


class _Block(str):
    """Text that is written as a block, line by line, where it has more than one."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes lists indented below their key, as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)


def _block(dumper: yaml.SafeDumper, text: _Block) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|" if "\n" in text else None)


_Dumper.add_representer(_Block, _block)
