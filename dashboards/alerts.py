"""The alerts that fire now, as Prometheus tells them."""

from __future__ import annotations

from typing import Final

from dashboards.links import alert_rules
from dashboards.queries import Select
from exporter.rules.settings import RuleSettings

WATCHDOG: Final = 'ALERTS{alertname="ForewarnWatchdog", alertstate="firing"}'
"""It is about no server and no Forewarn, so that there is no label to choose by."""

_FIRING: Final = 'alertstate="firing"'


def firing(see: Select, settings: RuleSettings, *matchers: str) -> str:
    """Return the firing alerts about what is chosen, and those about nothing that could be chosen."""
    return _series("ALERTS", see, settings, _FIRING, *matchers)


def firing_since(see: Select, settings: RuleSettings) -> str:
    """Return the Unix time at which the condition of each firing alert began."""
    began = _series("ALERTS_FOR_STATE", see, settings)
    return f"({began})\nand ignoring (alertstate) ({firing(see, settings)})"


def _series(metric: str, see: Select, settings: RuleSettings, *matchers: str) -> str:
    # An alert about Forewarn has no server.
    about = ('job=~"$job"', 'instance=~"$instance"', 'server=~"$server|"', see.chosen)
    chosen = _selector(metric, *about, 'alertname=~"(Faktory|Forewarn).+"', *matchers)
    everywhere = sorted({rule.name for rule in alert_rules(settings) if "job" not in rule.by})
    if not everywhere:
        return chosen
    operator = "=~" if len(everywhere) > 1 else "="
    names = f'alertname{operator}"{"|".join(everywhere)}"'
    return f"{chosen}\nor {_selector(metric, names, *matchers)}"


def _selector(metric: str, *matchers: str) -> str:
    return f"{metric}{{{', '.join(each for each in matchers if each)}}}"
