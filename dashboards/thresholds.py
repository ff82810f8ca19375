"""Where colours change: at the values at which the alerts fire."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode
from msgspec import Struct

from exporter.rules.settings import RuleSettings, Severity

GOOD: Final = "green"
COLORS: Final[dict[Severity, str]] = {"none": "text", "info": "blue", "warning": "orange", "critical": "red"}
"""A colour says how bad it is, on every panel the same."""
_WORSE: Final = tuple(COLORS)

_RUNS_TWICE: Final = 1.0
"""The share of a reservation at which Faktory gives the job to another worker."""


class Steps(Struct, frozen=True):
    """Colours by value."""

    base: str = GOOD
    """Below the first step."""
    steps: tuple[tuple[float, str], ...] = ()
    """From a value up, a colour; lowest first."""

    @property
    def highest(self) -> float:
        """The largest value at which the colour changes; 0 where it never does."""
        return max((value for value, _ in self.steps), default=0.0)

    def config(self) -> ThresholdsConfig:
        """Return them as Grafana wants them."""
        return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(self.models())

    def models(self) -> list[Threshold]:
        """Return them as they stand in a panel."""
        return [
            Threshold(value=None, color=self.base),
            *(Threshold(value=value, color=color) for value, color in self.steps),
        ]


NEUTRAL: Final = Steps(base="text")
"""A number that is neither good nor bad."""


def above(*levels: tuple[float, Severity]) -> Steps:
    """Return colours for what is bad from each level up; of two at the same value the worse."""
    worst: dict[float, Severity] = {}
    for value, severity in levels:
        worst[value] = max(severity, worst.get(value, severity), key=_WORSE.index)
    return Steps(steps=tuple((value, COLORS[worst[value]]) for value in sorted(worst)))


def below(level: float, severity: Severity) -> Steps:
    """Return colours for what is bad below a level."""
    return Steps(base=COLORS[severity], steps=((level, GOOD),))


class Levels:
    """The thresholds that more than one panel shows, from the settings of the alerts."""

    def __init__(self, settings: RuleSettings) -> None:
        alerts = settings.alerts
        near = alerts.faktory_connections_near_limit
        self.connections_used = above((near.used_share, near.severity), (near.critical_share, "critical"))
        storm = alerts.faktory_retry_storm
        self.failed_share = above((storm.failed_share, storm.severity))
        reservation = alerts.faktory_reservation_nearly_used
        self.reservation_used = above((reservation.used_share, reservation.severity), (_RUNS_TWICE, "critical"))
        throttle = alerts.faktory_throttle_saturated
        self.throttle_used = above((throttle.used_share, throttle.severity))
        self.latency = above(*((each.seconds, "warning") for each in settings.objectives))
        crashes = alerts.faktory_worker_crash_rate_high
        self.crashes = above((1, alerts.faktory_worker_crashed.severity), (crashes.crashes, crashes.severity))
        self.orphans = above((1, alerts.faktory_jobs_orphaned.severity))
        self.orphan_age = above((alerts.faktory_jobs_orphaned.seconds, alerts.faktory_jobs_orphaned.severity))
        stale = alerts.forewarn_snapshot_stale
        self.snapshot_age = above((stale.seconds, stale.severity))
        self.workers = below(1, alerts.faktory_no_workers.severity)
        self.up = below(1, alerts.faktory_down.severity)
        burn = alerts.faktory_queue_latency_budget_burn.windows
        self.burn = above(*((each.factor, each.severity) for each in burn))
        self.restarts = above(
            (1, alerts.faktory_restarted.severity),
            (alerts.faktory_crash_looping.restarts, alerts.faktory_crash_looping.severity),
        )
