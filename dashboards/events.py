"""What happened, drawn over every graph: without it one cannot tell a cause from a consequence."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import AnnotationQuery

from dashboards.alerts import firing
from dashboards.queries import RATE, Select
from dashboards.variables import SOURCE
from exporter.rules.rule import ON_CLASS, ON_SERVER
from exporter.rules.settings import RuleSettings


def events(see: Select, settings: RuleSettings) -> Iterator[AnnotationQuery]:
    """Yield restarts, crashes of the server and of workers, changes of the version, and firing alerts."""
    yield _marks(
        "Restarts",
        "orange",
        f"increase({see.server('faktory_restarts_total')}[{RATE}]) > 0",
        "{{server}} restarted",
    )
    yield _marks("Process crashes", "dark-red", _crashes(see), "{{server}} died in {{component}} ({{class}})")
    yield _marks(
        "Worker crashes",
        "purple",
        f"increase({see.server('faktory_worker_crashes_total')}[{RATE}]) > 0",
        "A worker of {{server}} {{reason}}",
    )
    yield _marks("New version", "blue", _new_version(see), "{{server}} runs {{version}} ({{edition}})")
    yield _marks("Alerts", "red", firing(see, settings, 'severity!="none"'), "{{alertname}} ({{severity}}) {{queue}}")


def _crashes(see: Select) -> str:
    """Return where the server was when it died, of each crash that was just counted."""
    last = see.server("faktory_process_last_crash_timestamp_seconds")
    return f"{last}\nand {ON_CLASS} increase({see.server('faktory_process_crashes_total')}[{RATE}]) > 0"


def _new_version(see: Select) -> str:
    """Return the versions that were not seen in the hour before, of servers that were."""
    info = see.server("faktory_info")
    before = f"last_over_time({info}[1h] offset {RATE})"
    return f"{info}\nand {ON_SERVER} {before}\nunless on (job, instance, server, version, edition) {before}"


def _marks(name: str, color: str, expr: str, title: str) -> AnnotationQuery:
    return (
        AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expr)
        .title_format(title)
        .text_format("{{instance}}")
    )
