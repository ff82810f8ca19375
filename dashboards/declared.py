"""What is exempt from a rule that all dashboards keep, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from exporter.rules import panels
from exporter.rules.panels import Panel

AGES: Final = Panel(panels.QUEUES, 101)
PEER_COUNTS: Final = Panel(panels.WORKERS, 100)
BUSIEST_THROTTLE: Final = Panel(panels.OVERVIEW, 111)
SATURATED_SHARE: Final = Panel(panels.THROTTLES, 100)
THROTTLES_NOW: Final = Panel(panels.THROTTLES, 101)
TRACED: Final = Panel(panels.SELF, 106)
PUSHED: Final = Panel(panels.SELF, 107)
PUSH_FAILURES: Final = Panel(panels.SELF, 108)

_NAMESPACE: Final = "the server does not listen in the network namespace of Forewarn"
_YOUNG: Final = "Prometheus has not watched for as long as the alert looks back"
_THROTTLES: Final = "the server has no throttles, or Forewarn was not given its conf.d"
_NO_ENDPOINT: Final = "no OTLP endpoint is set"

MAY_BE_EMPTY: Final[Mapping[tuple[Panel, str], str]] = {
    (panels.CONNECTIONS_TIME_LEFT, "A"): "connections do not grow, so that the limit is never reached",
    (panels.PEERS, "A"): _NAMESPACE,
    (PEER_COUNTS, "A"): _NAMESPACE,
    (panels.BACKLOG, "B"): _YOUNG,
    (panels.AGE_AGAINST_USUAL, "B"): "of no job type enough executions were seen to know what is usual",
    (AGES, "A"): "no job is busy, so that there is no age",
    (BUSIEST_THROTTLE, "A"): _THROTTLES,
    (panels.THROTTLE_SATURATION, "A"): _THROTTLES,
    (panels.THROTTLE_WAITING, "A"): _THROTTLES,
    (panels.THROTTLE_WAITING, "B"): _YOUNG,
    (panels.THROTTLE_LIMITS, "A"): _THROTTLES,
    (panels.THROTTLE_LIMITS, "B"): _THROTTLES,
    (panels.THROTTLE_LIMITS, "C"): "every throttle names a queue that exists",
    (SATURATED_SHARE, "A"): _THROTTLES,
    (TRACED, "A"): _NO_ENDPOINT,
    (PUSHED, "A"): _NO_ENDPOINT,
    (PUSHED, "B"): _NO_ENDPOINT,
    (PUSH_FAILURES, "A"): _NO_ENDPOINT,
    **{(THROTTLES_NOW, ref): _THROTTLES for ref in "ABCDE"},
}
"""Queries, by panel and letter, that have no answer in a healthy system, and when that is so."""

AD_HOC: Final[Mapping[str, str]] = {}
"""Exported metrics that no dashboard shows, and why not."""
