"""The series that the dashboards ask for, chosen by their variables."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from dashboards.thresholds import Steps
from exporter.rules.rule import ON_SERVER

RATE: Final = "$__rate_interval"
"""The range that holds enough samples at every zoom."""
BY_SERVER: Final = "by (job, instance, server)"
BY_QUEUE: Final = "by (job, instance, server, queue)"

SERVER: Final = "{{server}} at {{instance}}"
"""The legend of a server's series. Many servers are called ``faktory``: the place tells them apart."""
QUEUE: Final = "{{queue}} (" + SERVER + ")"
PAIR: Final = "{{queue}} {{jobtype}} (" + SERVER + ")"


class Query(Struct, frozen=True, kw_only=True):
    """One query of a panel and how its series look."""

    expr: str
    legend: str = SERVER
    exemplar: bool = False
    compared: bool = False
    """Drawn dashed and thin: a bound, or what the others are compared with."""
    unit: str = ""
    """Where it is not the panel's, its series have an axis of their own on the right."""
    steps: Steps | None = None
    """Thresholds of its series alone."""


class Select(Struct, frozen=True):
    """Writes selectors: the variables' choice, and what the settings choose for every metric."""

    chosen: str
    """Label matchers, or nothing."""

    def own(self, metric: str, *matchers: str) -> str:
        """Choose series of Forewarn's process."""
        return self._written(metric, ("job", "instance"), matchers)

    def server(self, metric: str, *matchers: str) -> str:
        """Choose series of watched servers."""
        return self._written(metric, ("job", "instance", "server"), matchers)

    def queue(self, metric: str, *matchers: str) -> str:
        """Choose series by queue."""
        return self._written(metric, ("job", "instance", "server", "queue"), matchers)

    def pair(self, metric: str, *matchers: str) -> str:
        """Choose series by queue and job type."""
        return self._written(metric, ("job", "instance", "server", "queue", "jobtype"), matchers)

    def nothing_busy(self) -> str:
        """Return 0 for servers of which it is known that no job is busy, and no series for all others."""
        return f"{self.server('faktory_set_jobs', _WORKING)} == 0"

    def or_nothing_busy(self, expr: str) -> str:
        """Return ``expr``; and 0 for servers that have no series in it because no job is busy."""
        told = f'label_replace({self.nothing_busy()}, "queue", "nothing is busy", "set", "working")'
        return f"{expr}\nor {ON_SERVER} {told}"

    def or_none_there(self, expr: str) -> str:
        """Return ``expr``; and 0 for servers whose store is read but that have no series in it: there is none."""
        return f"{expr}\nor {ON_SERVER} 0 * {self.server('faktory_set_jobs', _WORKING)}"

    def _written(self, metric: str, variables: tuple[str, ...], matchers: tuple[str, ...]) -> str:
        named = (f'{each}=~"${each}"' for each in variables)
        return f"{metric}{{{', '.join(each for each in (*named, self.chosen, *matchers) if each)}}}"


_WORKING: Final = 'set="working"'


def per_second(selector: str) -> str:
    """Return how fast a counter grows."""
    return f"rate({selector}[{RATE}])"


def grown(selector: str, window: str = RATE) -> str:
    """Return how often a counter counted within a window, as whole numbers."""
    return f"round(increase({selector}[{window}]))"


def quantile(share: float, buckets: str, by: str) -> str:
    """Return a quantile of the executions that ended within each step; ``by`` are labels to keep."""
    return f"histogram_quantile({share:g}, sum by ({by}, le) ({per_second(buckets)}))"
