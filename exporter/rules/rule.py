"""Rules as values, before they are written in anybody's format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

from exporter.rules.panels import Panel
from exporter.rules.settings import Alert, Severity

SERVER: Final = ("job", "instance", "server")
"""The labels that name one watched server as one Forewarn sees it."""
QUEUE: Final = (*SERVER, "queue")
PAIR: Final = (*QUEUE, "jobtype")
ON_SERVER: Final = "on (job, instance, server)"
ON_CLASS: Final = "on (job, instance, server, class)"
ON_QUEUE: Final = "on (job, instance, server, queue)"
ON_PAIR: Final = "on (job, instance, server, queue, jobtype)"

_FIELD: Final = re.compile(r"<(\w+)>")


class Recording(Struct, frozen=True, kw_only=True):
    """A series that Prometheus computes at every evaluation. Named ``level:metric:operations``."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


class AlertRule(Struct, frozen=True, kw_only=True):
    """An alert, complete but for the addresses of its runbook and its panel."""

    name: str
    severity: Severity
    expr: str
    """Comparison included. Its value is what the texts call ``$value``."""
    pending: str
    keep_firing_for: str
    by: tuple[str, ...]
    """The labels that its series have, beside those that this rule adds."""
    summary: str
    """One sentence: what is the matter, and where."""
    description: str
    """The value, what follows from it, and the first step."""
    panel: Panel
    """Where it is to be seen."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Added beside ``severity``. Never a value of the query: it would be a new alert at every evaluation."""


class Group(Struct, frozen=True, kw_only=True):
    """Rules that are evaluated together, in this order."""

    name: str
    rules: tuple[Recording | AlertRule, ...]
    interval: str | None = None
    """How often, where it is not as often as all others."""


def selector(chosen: str, *matchers: str) -> str:
    """Return the braces behind a metric's name: what the operator has chosen, and ``matchers``."""
    inner = ", ".join(each for each in (chosen, *matchers) if each)
    return f"{{{inner}}}" if inner else ""


def alert(
    name: str,
    entry: Alert,
    expr: str,
    *,
    by: tuple[str, ...],
    summary: str,
    description: str,
    panel: Panel,
) -> AlertRule:
    """Return the alert ``name`` with the severity and the times of its entry in the settings.

    The texts are folded into one line; ``<window>`` in them stands for the entry's own ``window``, and so on.
    """
    return AlertRule(
        name=name,
        severity=entry.severity,
        expr=expr,
        pending=entry.pending,
        keep_firing_for=entry.keep_firing_for,
        by=by,
        summary=told(summary, entry),
        description=told(description, entry),
        panel=panel,
    )


def told(text: str, words: Struct) -> str:
    """Return ``text`` in one line, with the values of ``words`` for the names of its fields in angle brackets."""
    return _FIELD.sub(lambda field: _written(getattr(words, field[1])), " ".join(text.split()))


def _written(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)
