"""The panels that alerts open. The dashboards give each of them this number, so that the links hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

OVERVIEW: Final = "faktory-overview"
QUEUES: Final = "faktory-queues"
WORKERS: Final = "faktory-workers"
THROTTLES: Final = "faktory-throttles"
SELF: Final = "forewarn"

VARIABLES: Final = ("job", "instance", "server", "queue", "jobtype")
"""The labels that the dashboards have variables for."""


class Panel(Struct, frozen=True):
    """One panel of one dashboard."""

    dashboard: str
    """Its ``uid``."""
    number: int

    def url(self, grafana: str, labels: Sequence[str]) -> str:
        """Return the address, as a Prometheus template, that shows it alone, for the values of ``labels``."""
        chosen = (each for each in VARIABLES if each in labels)
        variables = "".join(f"&var-{each}={{{{ $labels.{each} | urlquery }}}}" for each in chosen)
        base = grafana.rstrip("/")
        return f"{base}/d/{self.dashboard}?viewPanel={self.number}&from=now-3h&to=now{variables}"


SERVER_UP: Final = Panel(OVERVIEW, 1)
SERVER_STARTS: Final = Panel(OVERVIEW, 2)
SERVER_MEMORY: Final = Panel(OVERVIEW, 3)
STORE: Final = Panel(OVERVIEW, 4)
FAILED_SHARE: Final = Panel(OVERVIEW, 5)
SETS: Final = Panel(OVERVIEW, 6)
OVERDUE: Final = Panel(OVERVIEW, 7)
WATCHDOG: Final = Panel(OVERVIEW, 8)
ROUND_TRIP: Final = Panel(OVERVIEW, 9)
PROCESS_CRASHES: Final = Panel(OVERVIEW, 10)
KNOWN_RISKS: Final = Panel(OVERVIEW, 11)
SURVIVED: Final = Panel(OVERVIEW, 12)
LOSSES: Final = Panel(OVERVIEW, 13)

QUEUE_LATENCY: Final = Panel(QUEUES, 1)
LATENCY_BUDGET: Final = Panel(QUEUES, 2)
BACKLOG: Final = Panel(QUEUES, 3)
PAUSED: Final = Panel(QUEUES, 4)
RESERVATION_USED: Final = Panel(QUEUES, 5)
AGE_AGAINST_USUAL: Final = Panel(QUEUES, 6)
BUSY_AND_COMPLETED: Final = Panel(QUEUES, 7)
EXPIRED: Final = Panel(QUEUES, 8)
JOB_TYPE_FAILED: Final = Panel(QUEUES, 9)

CONNECTIONS_USED: Final = Panel(WORKERS, 1)
CONNECTIONS_TIME_LEFT: Final = Panel(WORKERS, 2)
CONNECTIONS_REFUSED: Final = Panel(WORKERS, 3)
PEERS: Final = Panel(WORKERS, 4)
WORKERS_AND_WAITING: Final = Panel(WORKERS, 5)
CRASHES: Final = Panel(WORKERS, 6)
CRASH_RATE: Final = Panel(WORKERS, 7)
ORPHANS: Final = Panel(WORKERS, 8)
CONNECTIONS: Final = Panel(WORKERS, 9)
STATSD_SILENCE: Final = Panel(WORKERS, 10)
ACCEPT_QUEUE: Final = Panel(WORKERS, 11)
CLOSE_WAIT: Final = Panel(WORKERS, 12)
FILES_USED: Final = Panel(WORKERS, 13)
FILES_TIME_LEFT: Final = Panel(WORKERS, 14)

THROTTLE_SATURATION: Final = Panel(THROTTLES, 1)
THROTTLE_WAITING: Final = Panel(THROTTLES, 2)
THROTTLE_LIMITS: Final = Panel(THROTTLES, 3)

SELF_UP: Final = Panel(SELF, 1)
COLLECTORS: Final = Panel(SELF, 2)
SNAPSHOT_AGE: Final = Panel(SELF, 3)
LABEL_VALUES: Final = Panel(SELF, 4)
SELF_PRESENT: Final = Panel(SELF, 5)
STATSD_LOST: Final = Panel(SELF, 6)
STATSD_PUSH_FAILURES: Final = Panel(SELF, 7)
LOG_UNREAD: Final = Panel(SELF, 8)
CONFIGURATION: Final = Panel(SELF, 9)
