"""The choices at the top of a dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from grafana_foundation_sdk.builders.dashboard import AdHocVariable, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh, VariableSort

from dashboards.queries import Select

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The Prometheus that is chosen at the top."""

_CHOICES: Final = {
    "job": ("Job", "The scrape job of Forewarn in Prometheus."),
    "instance": ("Instance", "The Forewarn, by the address at which it is scraped."),
    "server": ("Server", "The watched job server, as Forewarn's settings name it."),
    "queue": ("Queue", "Queues of the chosen servers. (other) holds all that have no series of their own."),
    "jobtype": ("Job type", "Types of the jobs that were busy in the chosen time."),
}
"""Labels and descriptions; each variable's values are those of its label among what the earlier ones chose."""


def source() -> DatasourceVariable:
    """Return the choice of the Prometheus."""
    return DatasourceVariable("datasource").label("Data source").type("prometheus")


def choices(see: Select, *names: str) -> Iterator[QueryVariable]:
    """Yield the variables of these names, and before them those of the server."""
    metrics = {
        "job": _bare("forewarn_build_info", see),
        "instance": _bare("forewarn_build_info", see, 'job=~"$job"'),
        "server": see.own("faktory_up"),
        "queue": see.server("faktory_queue_jobs"),
        "jobtype": see.queue("faktory_busy_jobs"),
    }
    for name in ("job", "instance", "server", *names):
        label, description = _CHOICES[name]
        query = f"label_values({metrics[name]}, {name})"
        yield (
            QueryVariable(name)
            .label(label)
            .description(description)
            .datasource(SOURCE)
            .query(query)
            .multi(True)
            .include_all(True)
            .all_value(".+")
            .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
        )


def filters() -> AdHocVariable:
    """Return the free choice by any other label, such as a cluster."""
    return (
        AdHocVariable("filter")
        .label("Filter")
        .description("Any other label: it is put into every query.")
        .datasource(SOURCE)
    )


def _bare(metric: str, see: Select, *matchers: str) -> str:
    inner = ", ".join(each for each in (*matchers, see.chosen) if each)
    return f"{metric}{{{inner}}}" if inner else metric
