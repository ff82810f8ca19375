"""Where a click leads: runbooks, the other dashboards, one queue or server alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

from exporter.rules.panels import Panel
from exporter.rules.render import groups, links_and_texts
from exporter.rules.rule import AlertRule
from exporter.rules.settings import RuleSettings

TAG: Final = "forewarn"
"""On every dashboard: the links between them are found by it."""

_HERE: Final = "${datasource:queryparam}&${__url_time_range}"


def alert_rules(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return every alert that is switched on."""
    rules = (rule for group in groups(settings) for rule in group.rules)
    return tuple(rule for rule in rules if isinstance(rule, AlertRule))


def runbooks(settings: RuleSettings) -> Mapping[Panel, Mapping[str, str]]:
    """Return the alerts that open each panel, with the addresses of their runbooks."""
    found: dict[Panel, dict[str, str]] = {}
    for rule in alert_rules(settings):
        found.setdefault(rule.panel, {})[rule.name] = links_and_texts(rule, settings)["runbook_url"]
    return found


def runbook_template(settings: RuleSettings) -> str:
    """Return the address of the runbook that belongs to a row with a column ``alertname``."""
    return f"{settings.runbooks_url.rstrip('/')}/${{__data.fields.alertname}}.md"


def known_crash_template(settings: RuleSettings) -> str:
    """Return the address of what is known of the crash in a row with a column ``known``."""
    return f"{settings.runbooks_url.rstrip('/')}/FaktoryKnownCrashRisk.md#${{__data.fields.known}}"


def to_dashboards() -> DashboardLink:
    """Return the links to all dashboards, which keep the time range and the variables."""
    return (
        DashboardLink("Job servers")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .keep_time(True)
        .include_vars(True)
        .tooltip("The other dashboards, for the same servers and time")
    )


def to_runbook(name: str, address: str) -> DashboardLink:
    """Return the link to an alert's runbook."""
    return DashboardLink(f"Runbook: {name}").type(DashboardLinkType.LINK).url(address).target_blank(True)


def to_detail(uid: str, title: str) -> DashboardLink:
    """Return a link from a panel to the dashboard that tells more, with all that is chosen here."""
    return DashboardLink(title).type(DashboardLinkType.LINK).url(f"/d/{uid}?${{__all_variables}}&${{__url_time_range}}")


def row_address(uid: str, columns: Iterable[str]) -> str:
    """Return the address of a dashboard for what stands in these columns of a table's row."""
    chosen = "".join(f"&var-{each}=${{__data.fields.{each}:percentencode}}" for each in columns)
    return f"/d/{uid}?{_HERE}{chosen}"
