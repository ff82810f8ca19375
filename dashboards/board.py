"""A dashboard from its rows, and its text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders.dashboard import Dashboard as Builder
from grafana_foundation_sdk.builders.dashboard import Row as RowBuilder
from grafana_foundation_sdk.cog.builder import Builder as Building
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, DashboardCursorSync
from grafana_foundation_sdk.models.dashboard import Panel as Model
from msgspec import Struct

from dashboards.events import events
from dashboards.links import TAG, to_dashboards
from dashboards.queries import Select
from dashboards.variables import choices, filters, source
from exporter.rules.settings import RuleSettings

_FIRST_ROW: Final = 1000
"""The number of a dashboard's first heading: panels that alerts open are below 100, all others above."""


class Row(Struct, frozen=True):
    """Panels under one heading, left to right."""

    title: str
    panels: Sequence[Building[Model]]


def board(
    settings: RuleSettings,
    uid: str,
    title: str,
    description: str,
    *rows: Row,
    choose: Sequence[str] = (),
) -> Dashboard:
    """Return a dashboard; ``choose`` are the variables that it has beside those of the server."""
    see = Select(settings.selector)
    made = (
        Builder(title)
        .uid(uid)
        .description(" ".join(description.split()))
        .tags([TAG, "faktory"])
        .readonly()
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(to_dashboards())
        .with_variable(source())
    )
    for variable in choices(see, *choose):
        made.with_variable(variable)
    made.with_variable(filters())
    for annotation in events(see, settings):
        made.annotation(annotation)
    for number, row in enumerate(rows, _FIRST_ROW):
        made.with_row(RowBuilder(row.title).id(number))
        for panel in row.panels:
            made.with_panel(panel)
    return made.build()


def text(dashboard: Dashboard) -> str:
    """Return a dashboard as JSON, the same at every run."""
    document = json.loads(JSONEncoder().encode(dashboard))
    return json.dumps(unhidden(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def unhidden(part: Any) -> Any:
    """Return JSON without what hides links and annotations in a menu: the builder adds it to all, unasked."""
    if isinstance(part, dict):
        return {key: unhidden(value) for key, value in part.items() if (key, value) != ("placement", "inControlsMenu")}
    return [unhidden(each) for each in part] if isinstance(part, list) else part
