"""What is exempt from a rule that all dashboards keep, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from exporter.rules import panels
from exporter.rules.panels import Panel

AGES: Final = Panel(panels.QUEUES, 101)
PEER_COUNTS: Final = Panel(panels.WORKERS, 100)
SOCKET_STATES: Final = Panel(panels.WORKERS, 101)
OPEN_FILES: Final = Panel(panels.WORKERS, 102)
BUSIEST_THROTTLE: Final = Panel(panels.OVERVIEW, 111)
SATURATED_SHARE: Final = Panel(panels.THROTTLES, 100)
THROTTLES_NOW: Final = Panel(panels.THROTTLES, 101)
TRACED: Final = Panel(panels.SELF, 106)
PUSHED: Final = Panel(panels.SELF, 107)
PUSH_FAILURES: Final = Panel(panels.SELF, 108)
ENDED_BY_TYPE: Final = Panel(panels.QUEUES, 106)
TOOK_BY_QUEUE: Final = Panel(panels.QUEUES, 107)
LOCKED: Final = Panel(panels.QUEUES, 108)
JOBS_TOLD: Final = Panel(panels.QUEUES, 109)
WAIT_TOLD: Final = Panel(panels.QUEUES, 110)
REDIS_TOLD: Final = Panel(panels.OVERVIEW, 128)
LAST_CRASHES: Final = Panel(panels.OVERVIEW, 129)
LOGGED: Final = Panel(panels.OVERVIEW, 130)
PROCESS_AGE: Final = Panel(panels.OVERVIEW, 131)
PROCESS_MEMORY: Final = Panel(panels.OVERVIEW, 132)
HEARD: Final = Panel(panels.SELF, 109)
LOST: Final = Panel(panels.SELF, 110)
LEFT_OUT: Final = Panel(panels.SELF, 111)
LAST_PACKET: Final = Panel(panels.SELF, 112)
PUSHED_LINES: Final = Panel(panels.SELF, 113)
LOG_READ: Final = Panel(panels.SELF, 114)
SETTINGS_AGE: Final = Panel(panels.SELF, 115)

_NAMESPACE: Final = "the server does not listen in the network namespace of Forewarn"
_YOUNG: Final = "Prometheus has not watched for as long as the alert looks back"
_THROTTLES: Final = "the server has no throttles, or Forewarn was not given its conf.d"
_NO_ENDPOINT: Final = "no OTLP endpoint is set"
_UNHEARD: Final = "Forewarn does not listen for StatsD, or the server tells nothing by it"
_UNREAD: Final = "Forewarn does not read the server's output"
_HIDDEN: Final = "Forewarn cannot see the server's process"
_NO_PUSH: Final = "no StatsD server is set to push to"

MAY_BE_EMPTY: Final[Mapping[tuple[Panel, str], str]] = {
    (panels.CONNECTIONS_TIME_LEFT, "A"): "connections do not grow, so that the limit is never reached",
    (panels.PEERS, "A"): _NAMESPACE,
    (PEER_COUNTS, "A"): _NAMESPACE,
    (panels.PROCESS_CRASHES, "A"): _UNREAD,
    (panels.PROCESS_CRASHES, "B"): _UNREAD,
    (LAST_CRASHES, "A"): "the server has not crashed, or Forewarn does not read its output",
    (panels.KNOWN_RISKS, "A"): "it is not known whether what leads to a known crash is in use",
    (panels.SURVIVED, "A"): _UNREAD,
    (panels.SURVIVED, "B"): _UNREAD,
    (panels.LOSSES, "A"): _UNREAD,
    (LOGGED, "A"): _UNREAD,
    (PROCESS_AGE, "A"): _HIDDEN,
    (PROCESS_MEMORY, "A"): _HIDDEN,
    (panels.CONNECTIONS_REFUSED, "A"): _UNREAD,
    **{(panels.ACCEPT_QUEUE, ref): _NAMESPACE for ref in "ABC"},
    **{(panels.CLOSE_WAIT, ref): "no client has left a socket that was seen before it was closed" for ref in "ABC"},
    (SOCKET_STATES, "A"): _NAMESPACE,
    (panels.FILES_USED, "A"): _HIDDEN,
    (panels.FILES_TIME_LEFT, "A"): "file descriptors do not grow, or Forewarn cannot see the server's process",
    (OPEN_FILES, "A"): _HIDDEN,
    (OPEN_FILES, "B"): _HIDDEN,
    (panels.LOG_UNREAD, "A"): _UNREAD,
    (LOG_READ, "A"): _UNREAD,
    (LOG_READ, "B"): _UNREAD,
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
    (panels.CONNECTIONS, "C"): _UNHEARD,
    (panels.STATSD_SILENCE, "A"): _UNHEARD,
    (panels.ROUND_TRIP, "A"): _UNHEARD,
    (panels.JOB_TYPE_FAILED, "A"): _UNHEARD,
    (LAST_PACKET, "A"): _UNHEARD,
    (WAIT_TOLD, "A"): _UNHEARD,
    **{(panel, ref): _UNHEARD for panel in (ENDED_BY_TYPE, TOOK_BY_QUEUE, JOBS_TOLD, REDIS_TOLD) for ref in "AB"},
    **{(panel, ref): _UNHEARD for panel in (LOCKED, HEARD, LOST, panels.STATSD_LOST) for ref in "ABC"},
    **{(LEFT_OUT, ref): _UNHEARD for ref in "AB"},
    (PUSHED_LINES, "A"): _NO_PUSH,
    **{(panels.STATSD_PUSH_FAILURES, ref): _NO_PUSH for ref in "AB"},
    **{(THROTTLES_NOW, ref): _THROTTLES for ref in "ABCDE"},
}
"""Queries, by panel and letter, that have no answer in a healthy system, and when that is so."""

_SINCE_EVER: Final = "the same count as faktory_jobs_{}_total, but as a level that cannot be read as a rate"
_ANYTHING: Final = "what it is only its sender knows"

AD_HOC: Final[Mapping[str, str]] = {
    "faktory_statsd_processed_jobs": _SINCE_EVER.format("processed"),
    "faktory_statsd_failed_jobs": _SINCE_EVER.format("failed"),
    "faktory_statsd_other_total": _ANYTHING,
    "faktory_statsd_other_level": _ANYTHING,
    "faktory_statsd_other_seconds": _ANYTHING,
    "faktory_statsd_other_values": _ANYTHING,
    "faktory_statsd_other_distinct": _ANYTHING,
}
"""Exported metrics that no dashboard shows, and why not."""
