"""All dashboards."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import forewarn, overview, queues, throttles, workers
from exporter.rules.settings import RuleSettings


def every(settings: RuleSettings) -> tuple[Dashboard, ...]:
    """Return all dashboards, with the thresholds of the alerts as ``settings`` say."""
    modules = (overview, queues, workers, throttles, forewarn)
    return tuple(module.dashboard(settings) for module in modules)
