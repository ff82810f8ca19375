"""Every metric, once: its name, type, unit, labels, meaning, source and freshness, and its points in a snapshot.

All outputs take their metrics from here, so that they say the same thing. ``python -m exporter.catalogue`` writes
``docs/metrics.md``.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from enum import StrEnum
from math import inf

import msgspec

from exporter.model import (
    AGE_BUCKETS,
    CRASH_KINDS,
    DURATION_BUCKETS,
    NONE,
    BusyVerdict,
    CrashReason,
    Decision,
    Details,
    Distribution,
    ExecutionsVerdict,
    Exemplar,
    Ignored,
    LogEvent,
    QueuesVerdict,
    Reason,
    Rejection,
    Snapshot,
    StatsdDrop,
    StatsdFact,
    StatsdVerdict,
    ThrottlesVerdict,
    Transport,
    WorkersVerdict,
    label_value,
)
from exporter.statsd.report import SECONDS_BOUNDS, VALUES_BOUNDS

DETAILS_TTL = 180.0
"""Seconds after which the rarely asked details of a server are no longer told."""

LEVEL_TTL = 90.0
"""Seconds after which a level that the server told by StatsD is no longer told: Faktory tells each every 30 s.

A server that tells nothing for as long is silent: it missed three times."""

Labels = tuple[str, ...]
"""Label values in the order of :attr:`Metric.labels`, without ``server``."""

Value = int | float | Distribution
"""The value of one series. Numbers are finite and never ``bool``."""

Point = tuple[Labels, Value]
"""One series: its label values and its value."""

Column = tuple["Metric", Sequence[Labels], Sequence[Value]]
"""All series of a metric: their label values, and in the same order their values."""


class Kind(StrEnum):
    """What a metric is, in the words of OpenMetrics."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE_HISTOGRAM = "gaugehistogram"


class Source(StrEnum):
    """Where a metric's facts come from."""

    HEALTH = "health page"
    STORE = "store"
    DETAILS = "statistics"
    LIMITS = "configuration"
    FOREWARN = "Forewarn"
    KERNEL = "kernel"
    STATSD = "StatsD"
    LOG = "log"


class Fresh(StrEnum):
    """How old a metric's facts may be, beside the age of the snapshot that :data:`SNAPSHOT_AGE` tells."""

    POLL = "each poll"
    RARE = f"each statistics answer, at most {DETAILS_TTL:g} s old"
    SCRAPE = "each scrape"
    TOLD = f"each flush of the server, at most {LEVEL_TTL:g} s old"


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. Series of a watched server carry the label ``server`` before :attr:`labels`."""

    name: str
    """With its prefix where it is the sidecar's own, without where the prefix is the watched system's."""
    group: str
    meaning: str
    source: Source
    fresh: Fresh = Fresh.POLL
    kind: Kind = Kind.GAUGE
    unit: str = ""
    """Base unit, and the end of the name. Empty for plain counts, flags and facts."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, without the infinite one."""

    @property
    def own(self) -> bool:
        """Whether the metric is the sidecar's own, so that its name does not depend on the watched system."""
        return self.name.startswith("forewarn_") or self.group == _PROCESS

    @property
    def help(self) -> str:
        """The meaning, the source and the freshness bound, in one line."""
        return f"{self.meaning} Source: {self.source}; fresh: {self.fresh}."

    def full_name(self, system: str) -> str:
        """Return the name as it is exported for servers of ``system``."""
        return self.name if self.own else f"{system}_{self.name}"


_SERVER = "The server"
UP = Metric(
    name="up",
    group=_SERVER,
    meaning="Whether the last poll reached the server (1) or not (0).",
    source=Source.FOREWARN,
)
INFO = Metric(
    name="info",
    group=_SERVER,
    meaning="Always 1; the labels tell what the server says it is.",
    source=Source.HEALTH,
    labels=("version", "edition"),
)
START_TIME = Metric(
    name="start_time_seconds",
    group=_SERVER,
    meaning="When the server process started, in Unix time by its own clock.",
    source=Source.DETAILS,
    unit="seconds",
)
RESTARTS = Metric(
    name="restarts_total",
    group=_SERVER,
    meaning="Restarts of the server seen so far.",
    source=Source.FOREWARN,
    kind=Kind.COUNTER,
)
COMMANDS = Metric(
    name="commands_total",
    group=_SERVER,
    meaning="Commands that the server has run since it started.",
    source=Source.HEALTH,
    kind=Kind.COUNTER,
)
MEMORY = Metric(
    name="memory_bytes",
    group=_SERVER,
    meaning="Memory that the server process has taken from the system; that of its store is not in it.",
    source=Source.DETAILS,
    fresh=Fresh.RARE,
    unit="bytes",
)

_CONNECTIONS = "Connections"
CONNECTIONS = Metric(
    name="connections",
    group=_CONNECTIONS,
    meaning="Client connections open now.",
    source=Source.HEALTH,
)
CONNECTIONS_LIMIT = Metric(
    name="connections_limit",
    group=_CONNECTIONS,
    meaning="Client connections that the server accepts: as configured, else by its version.",
    source=Source.LIMITS,
)
CONNECTIONS_REFUSED = Metric(
    name="connections_refused_total",
    group=_CONNECTIONS,
    meaning="How often Forewarn's own connection was refused at the connection limit.",
    source=Source.FOREWARN,
    kind=Kind.COUNTER,
)
PEER_CONNECTIONS = Metric(
    name="peer_connections",
    group=_CONNECTIONS,
    meaning=(
        "Connections to the command port by the address that they come from: the 20 largest, the rest as (other); "
        "absent where the server does not listen in the network namespace of Forewarn."
    ),
    source=Source.KERNEL,
    labels=("peer",),
)
SOCKETS = Metric(
    name="sockets",
    group=_CONNECTIONS,
    meaning="Sockets of the command port by TCP state; close_wait: the client has gone, and the server holds on.",
    source=Source.KERNEL,
    labels=("state",),
)
ACCEPT_QUEUE = Metric(
    name="accept_queue_connections",
    group=_CONNECTIONS,
    meaning="Connections to the command port that the server has not accepted yet: it lags behind, or stands still.",
    source=Source.KERNEL,
)
ACCEPT_QUEUE_LIMIT = Metric(
    name="accept_queue_limit",
    group=_CONNECTIONS,
    meaning="How many connections may wait to be accepted, before the kernel lets new ones wait outside.",
    source=Source.KERNEL,
)

_QUEUES = "Queues and sets"
QUEUE_JOBS = Metric(
    name="queue_jobs",
    group=_QUEUES,
    meaning="Jobs that wait in the queue.",
    source=Source.STORE,
    labels=("queue",),
)
QUEUE_LATENCY = Metric(
    name="queue_latency_seconds",
    group=_QUEUES,
    meaning="How long the oldest job of the queue has waited; 0 when the queue is empty.",
    source=Source.STORE,
    unit="seconds",
    labels=("queue",),
)
QUEUE_PAUSED = Metric(
    name="queue_paused",
    group=_QUEUES,
    meaning="Whether the queue is paused (1) or not (0).",
    source=Source.STORE,
    labels=("queue",),
)
SET_JOBS = Metric(
    name="set_jobs",
    group=_QUEUES,
    meaning="Jobs in each of the server's sets: scheduled, retries, dead, working.",
    source=Source.STORE,
    labels=("set",),
)
SET_OVERDUE = Metric(
    name="set_overdue_seconds",
    group=_QUEUES,
    meaning="How long the earliest due job of the set is overdue: a stuck scheduler shows here.",
    source=Source.STORE,
    unit="seconds",
    labels=("set",),
)
PROCESSED = Metric(
    name="jobs_processed_total",
    group=_QUEUES,
    meaning="Jobs processed, those that failed among them.",
    source=Source.STORE,
    kind=Kind.COUNTER,
)
FAILED = Metric(
    name="jobs_failed_total",
    group=_QUEUES,
    meaning="Executions that failed.",
    source=Source.STORE,
    kind=Kind.COUNTER,
)

_BUSY = "Busy jobs"
BUSY_JOBS = Metric(
    name="busy_jobs",
    group=_BUSY,
    meaning="Jobs that workers hold now.",
    source=Source.STORE,
    labels=("queue", "jobtype"),
)
BUSY_OLDEST = Metric(
    name="busy_job_oldest_age_seconds",
    group=_BUSY,
    meaning="How long the oldest busy job has been held; absent when none is busy.",
    source=Source.STORE,
    unit="seconds",
    labels=("queue", "jobtype"),
)
BUSY_USED = Metric(
    name="busy_job_reservation_used_ratio",
    group=_BUSY,
    meaning="Largest share of its reservation that a busy job has used: at 1 the job is given to another worker.",
    source=Source.STORE,
    unit="ratio",
    labels=("queue", "jobtype"),
)
BUSY_AGES = Metric(
    name="busy_job_age_seconds",
    group=_BUSY,
    meaning="Ages of the jobs that are busy now: goes down as they end.",
    source=Source.STORE,
    kind=Kind.GAUGE_HISTOGRAM,
    unit="seconds",
    labels=("queue",),
    buckets=AGE_BUCKETS,
)
DURATIONS = Metric(
    name="job_duration_seconds",
    group=_BUSY,
    meaning="Executions seen to end, exact to one poll; those shorter than a poll may be missed.",
    source=Source.STORE,
    kind=Kind.HISTOGRAM,
    unit="seconds",
    labels=("queue", "jobtype"),
    buckets=DURATION_BUCKETS,
)
EXPIRED = Metric(
    name="reservations_expired_total",
    group=_BUSY,
    meaning="Reservations that ended before their job did, since the server started.",
    source=Source.DETAILS,
    fresh=Fresh.RARE,
    kind=Kind.COUNTER,
)

_WORKERS = "Workers"
WORKERS = Metric(
    name="workers",
    group=_WORKERS,
    meaning="Worker processes registered with the server.",
    source=Source.DETAILS,
    fresh=Fresh.RARE,
)
CRASHES = Metric(
    name="worker_crashes_total",
    group=_WORKERS,
    meaning="Workers that went while they held jobs: vanished (connections closed) or hung (no heartbeat).",
    source=Source.FOREWARN,
    kind=Kind.COUNTER,
    labels=("reason",),
)
ORPHANS = Metric(
    name="orphaned_jobs",
    group=_WORKERS,
    meaning="Jobs still reserved for a worker that is gone.",
    source=Source.FOREWARN,
    labels=("queue", "jobtype"),
)
ORPHANS_OLDEST = Metric(
    name="orphaned_job_oldest_age_seconds",
    group=_WORKERS,
    meaning="How long ago the worker of the oldest orphan was found gone; absent when there is no orphan.",
    source=Source.FOREWARN,
    unit="seconds",
    labels=("queue", "jobtype"),
)

_THROTTLES = "Throttles"
THROTTLE_LIMIT = Metric(
    name="throttle_limit",
    group=_THROTTLES,
    meaning="Jobs of the queue that may run at once: in the cluster, or in each worker process.",
    source=Source.LIMITS,
    labels=("queue", "scope"),
)
THROTTLE_IN_USE = Metric(
    name="throttle_in_use",
    group=_THROTTLES,
    meaning="Jobs of the queue that run now: in the cluster, or in the busiest worker process.",
    source=Source.STORE,
    labels=("queue", "scope"),
)
THROTTLE_SATURATION = Metric(
    name="throttle_saturation_ratio",
    group=_THROTTLES,
    meaning="Share of the throttle in use; above 1 after its limit was lowered.",
    source=Source.STORE,
    unit="ratio",
    labels=("queue", "scope"),
)
THROTTLE_SATURATED = Metric(
    name="throttle_saturated_seconds_total",
    group=_THROTTLES,
    meaning="Time for which the throttle was full.",
    source=Source.FOREWARN,
    kind=Kind.COUNTER,
    unit="seconds",
    labels=("queue", "scope"),
)
THROTTLE_WAITING = Metric(
    name="throttle_waiting_jobs",
    group=_THROTTLES,
    meaning="Jobs that wait in a throttled queue.",
    source=Source.STORE,
    labels=("queue",),
)

_DEATH = "Why the process died, where its output is read"
PROCESS_CRASHES = Metric(
    name="process_crashes_total",
    group=_DEATH,
    meaning=(
        "Ends of the server's process that nobody asked for, by what it printed: unexplained where it printed nothing, "
        "killed where it was killed by SIGKILL."
    ),
    source=Source.LOG,
    kind=Kind.COUNTER,
    labels=("class",),
)
LAST_CRASH = Metric(
    name="process_last_crash_timestamp_seconds",
    group=_DEATH,
    meaning=(
        "When the newest of the crashes of a class was: the component is the first function outside the Go runtime, "
        "known names the known incident that it is, or none."
    ),
    source=Source.LOG,
    unit="seconds",
    labels=("class", "component", "known"),
)
DATA_RACES = Metric(
    name="data_races_total",
    group=_DEATH,
    meaning="Data races that Go's race detector reported; the server survived them.",
    source=Source.LOG,
    kind=Kind.COUNTER,
)
RECOVERED_PANICS = Metric(
    name="recovered_panics_total",
    group=_DEATH,
    meaning="Panics that the server printed and survived.",
    source=Source.LOG,
    kind=Kind.COUNTER,
)
LOG_EVENTS = Metric(
    name="log_events_total",
    group=_DEATH,
    meaning="What the server said in its log, by event: every one of them is there at 0 from the start.",
    source=Source.LOG,
    kind=Kind.COUNTER,
    labels=("event",),
)
LOG_READ = Metric(
    name="log_read_bytes_total",
    group=_DEATH,
    meaning="Bytes of the server's output that were read.",
    source=Source.LOG,
    kind=Kind.COUNTER,
    unit="bytes",
)
LOG_UNREAD = Metric(
    name="log_unread_bytes",
    group=_DEATH,
    meaning="Bytes of the log's files that are still to be read.",
    source=Source.LOG,
    unit="bytes",
)
LOG_QUIET = Metric(
    name="log_quiet_seconds",
    group=_DEATH,
    meaning="How long ago anything was read of the server's output; absent before there was any.",
    source=Source.LOG,
    unit="seconds",
)
KNOWN_RISK = Metric(
    name="known_crash_risk",
    group=_DEATH,
    meaning=(
        "1 where a known crash can befall the server: its version has it, and what leads to it is in use; absent where "
        "that is not known."
    ),
    source=Source.HEALTH,
    labels=("known",),
)
SERVER_STARTED = Metric(
    name="process_start_time_seconds",
    group=_DEATH,
    meaning="When the server's process started, in Unix time; absent, like the next ones, where it cannot be seen.",
    source=Source.KERNEL,
    unit="seconds",
)
SERVER_FDS = Metric(
    name="process_open_fds",
    group=_DEATH,
    meaning="Open file descriptors of the server's process.",
    source=Source.KERNEL,
)
SERVER_MAX_FDS = Metric(
    name="process_max_fds",
    group=_DEATH,
    meaning="File descriptors that the server's process may open.",
    source=Source.KERNEL,
)
SERVER_RESIDENT = Metric(
    name="process_resident_memory_bytes",
    group=_DEATH,
    meaning="Resident memory of the server's process.",
    source=Source.KERNEL,
    unit="bytes",
)

_STATSD = "What the server tells by StatsD, where Forewarn listens for it"


def _told(
    name: str,
    meaning: str,
    *labels: str,
    kind: Kind = Kind.COUNTER,
    unit: str = "",
    buckets: tuple[float, ...] = (),
) -> Metric:
    return Metric(
        name=name,
        group=_STATSD,
        meaning=meaning,
        source=Source.STATSD,
        fresh=Fresh.TOLD if kind is Kind.GAUGE else Fresh.POLL,
        kind=kind,
        unit=unit,
        labels=labels,
        buckets=buckets,
    )


STATSD_AGE = Metric(
    name="statsd_last_packet_age_seconds",
    group=_STATSD,
    meaning=(
        "How long ago the last packet came; absent when none ever did, and while Forewarn does not listen, and "
        f"afterwards until the next packet or for {LEVEL_TTL:g} s."
    ),
    source=Source.STATSD,
    unit="seconds",
)
STATSD_FACTS: dict[StatsdFact, Metric] = {
    StatsdFact.EXECUTIONS: _told(
        "job_executions_total", "Executions that ended, those that failed among them.", "queue", "jobtype"
    ),
    StatsdFact.FAILURES: _told("job_failures_total", "Executions that failed.", "queue", "jobtype"),
    StatsdFact.TIMES: _told(
        "job_execution_seconds",
        "How long executions took, from FETCH to ACK, as the server measured it.",
        "queue",
        "jobtype",
        kind=Kind.HISTOGRAM,
        unit="seconds",
        buckets=tuple(SECONDS_BOUNDS),
    ),
    StatsdFact.EXPIRATIONS: _told(
        "job_expirations_total", "Jobs thrown away because they waited for longer than they may.", "queue", "jobtype"
    ),
    StatsdFact.LOCKS: _told("unique_locks_total", "Unique jobs that took their lock.", "queue", "jobtype"),
    StatsdFact.DENIALS: _told(
        "unique_denials_total", "Unique jobs turned away because another held their lock.", "queue", "jobtype"
    ),
    StatsdFact.QUEUE_JOBS: _told("statsd_queue_jobs", "Jobs that wait in the queue.", "queue", kind=Kind.GAUGE),
    StatsdFact.QUEUE_LATENCY: _told(
        "statsd_queue_latency_seconds",
        "How long the oldest job of the queue has waited.",
        "queue",
        kind=Kind.GAUGE,
        unit="seconds",
    ),
    StatsdFact.SET_JOBS: _told(
        "statsd_set_jobs",
        "Jobs in each of the server's sets: scheduled, retries, dead, working; and in all queues together: enqueued.",
        "set",
        kind=Kind.GAUGE,
    ),
    StatsdFact.PROCESSED: _told("statsd_processed_jobs", "Jobs processed since ever.", kind=Kind.GAUGE),
    StatsdFact.FAILED: _told("statsd_failed_jobs", "Executions that failed since ever.", kind=Kind.GAUGE),
    StatsdFact.CONNECTIONS: _told("statsd_connections", "Client connections open.", kind=Kind.GAUGE),
    StatsdFact.STORE_CONNECTIONS: _told("redis_connections", "Connections of the server's Redis.", kind=Kind.GAUGE),
    StatsdFact.STORE_MEMORY: _told(
        "redis_memory_bytes", "Memory of the server's Redis.", kind=Kind.GAUGE, unit="bytes"
    ),
    StatsdFact.STORE_ROUND_TRIP: _told(
        "redis_round_trip_seconds",
        "How long the server waited for an answer of its Redis.",
        kind=Kind.GAUGE,
        unit="seconds",
    ),
    StatsdFact.OTHER_COUNT: _told("statsd_other_total", "Any other counter, where they are kept.", "name", "tags"),
    StatsdFact.OTHER_LEVEL: _told(
        "statsd_other_level",
        "Any other gauge, where they are kept; those beyond the bound are left out, for no sum of them means anything.",
        "name",
        "tags",
        kind=Kind.GAUGE,
    ),
    StatsdFact.OTHER_SECONDS: _told(
        "statsd_other_seconds",
        "Any other timing, where they are kept.",
        "name",
        "tags",
        kind=Kind.HISTOGRAM,
        unit="seconds",
        buckets=tuple(SECONDS_BOUNDS),
    ),
    StatsdFact.OTHER_VALUES: _told(
        "statsd_other_values",
        "Any other histogram or distribution, where they are kept; its unit is the sender's.",
        "name",
        "tags",
        kind=Kind.HISTOGRAM,
        buckets=tuple(VALUES_BOUNDS),
    ),
    StatsdFact.OTHER_DISTINCT: _told(
        "statsd_other_distinct",
        "How many different values any other set had between the last two polls that heard of it, where they are kept.",
        "name",
        "tags",
        kind=Kind.GAUGE,
    ),
}
"""The metric of each thing that a server tells."""


def _listening(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(
        name=f"forewarn_statsd_{name}",
        group=_STATSD,
        meaning=meaning,
        source=Source.FOREWARN,
        kind=Kind.COUNTER,
        labels=labels,
    )


STATSD_PACKETS = _listening(
    "packets_total", "StatsD packets received, by transport: datagrams of udp and unix, lines of tcp.", "transport"
)
STATSD_SAMPLES = _listening("samples_total", "Values in them that were understood.")
STATSD_REJECTED = _listening(
    "rejected_total", "Lines or values that could not be counted: every reason is there at 0 from the start.", "reason"
)
STATSD_IGNORED = _listening(
    "ignored_total",
    "What became no metric: events, checks, and per poll each series of a name that is unknown or deprecated.",
    "reason",
)
STATSD_FOLDED = _listening("folded_total", "Values whose tags were left out because there were too many series.")
STATSD_DROPPED = _listening(
    "dropped_packets_total",
    "Packets lost: by the kernel before they were read, in the queue, or when they were passed on.",
    "at",
)
STATSD_RELAYED = _listening("relayed_packets_total", "Packets passed on to another StatsD server.")

STATSD_METRICS: tuple[Metric, ...] = (
    STATSD_AGE,
    *STATSD_FACTS.values(),
    STATSD_PACKETS,
    STATSD_SAMPLES,
    STATSD_REJECTED,
    STATSD_IGNORED,
    STATSD_FOLDED,
    STATSD_DROPPED,
    STATSD_RELAYED,
)
"""All of them, in the order in which :func:`points` yields them."""

_SIDECAR = "Forewarn's own view of a server"
COLLECTOR_UP = Metric(
    name="forewarn_collector_up",
    group=_SIDECAR,
    meaning="Whether the newest run of this part of the poll went without a failure (1) or not (0).",
    source=Source.FOREWARN,
    labels=("collector",),
)
COLLECTOR_DURATION = Metric(
    name="forewarn_collector_duration_seconds",
    group=_SIDECAR,
    meaning="How long the newest run of this part of the poll took.",
    source=Source.FOREWARN,
    unit="seconds",
    labels=("collector",),
)
COLLECTOR_ERRORS = Metric(
    name="forewarn_collector_errors_total",
    group=_SIDECAR,
    meaning="Failures of this part of the poll, by reason: every reason is there at 0 from the first run.",
    source=Source.FOREWARN,
    kind=Kind.COUNTER,
    labels=("collector", "reason"),
)
LABEL_VALUES = Metric(
    name="forewarn_label_values",
    group=_SIDECAR,
    meaning=(
        "How many distinct values a bounded label really has, of names told by StatsD those of the last hour; those "
        "beyond the bound are folded into (other)."
    ),
    source=Source.FOREWARN,
    labels=("label",),
)
LABEL_VALUES_LIMIT = Metric(
    name="forewarn_label_values_limit",
    group=_SIDECAR,
    meaning="How many distinct values a bounded label may have, by max_label_values, before the rest is folded.",
    source=Source.LIMITS,
    labels=("label",),
)
TRACE_EXECUTIONS = Metric(
    name="forewarn_trace_executions_total",
    group=_SIDECAR,
    meaning="Executions seen to end, by what traces tell of them: told, left_out (nothing befell them), capped.",
    source=Source.FOREWARN,
    kind=Kind.COUNTER,
    labels=("decision",),
)
SNAPSHOT_AGE = Metric(
    name="forewarn_snapshot_age_seconds",
    group=_SIDECAR,
    meaning="How long ago the poll ended from which all other metrics of the server come.",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    unit="seconds",
)

_PROCESS = "The sidecar's process"
BUILD_INFO = Metric(
    name="forewarn_build_info",
    group=_PROCESS,
    meaning="Always 1; the label tells Forewarn's version.",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    labels=("version",),
)

_OTLP = "OpenTelemetry, where an endpoint is set"
OTLP_ITEMS = Metric(
    name="forewarn_otlp_items_total",
    group=_OTLP,
    meaning="Spans (traces) and points (metrics): sent, rejected by the collector for good, or dropped unsent.",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    kind=Kind.COUNTER,
    labels=("signal", "result"),
)
OTLP_FAILURES = Metric(
    name="forewarn_otlp_failures_total",
    group=_OTLP,
    meaning="Requests to the collector that failed, by reason: every reason is there at 0 from the start.",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    kind=Kind.COUNTER,
    labels=("signal", "reason"),
)
OTLP_WAITING = Metric(
    name="forewarn_otlp_waiting_spans",
    group=_OTLP,
    meaning="Spans that no collector has taken yet.",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
)

_PUSH = "StatsD, where it is pushed"
STATSD_PUSHED = Metric(
    name="forewarn_statsd_pushed_lines_total",
    group=_PUSH,
    meaning="Lines of StatsD: sent, refused by the server's machine, or left_out (too long, or owed for too long).",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    kind=Kind.COUNTER,
    labels=("result",),
)
STATSD_PUSH_FAILURES = Metric(
    name="forewarn_statsd_push_failures_total",
    group=_PUSH,
    meaning="Flushes that did not reach the StatsD server whole, by reason: every reason is there at 0.",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    kind=Kind.COUNTER,
    labels=("reason",),
)

_CONFIG = "Configuration"
CONFIG_SUCCESSFUL = Metric(
    name="forewarn_config_last_reload_successful",
    group=_CONFIG,
    meaning=(
        "Whether what was read last is in use (1), or the configuration before it is kept (0): the settings, and the "
        "web configuration file where one is named."
    ),
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    labels=("file",),
)
CONFIG_SUCCESS_TIME = Metric(
    name="forewarn_config_last_reload_success_timestamp_seconds",
    group=_CONFIG,
    meaning="When the settings in use were read, in Unix time by Forewarn's clock.",
    source=Source.FOREWARN,
    fresh=Fresh.SCRAPE,
    unit="seconds",
)


def _process(name: str, meaning: str, kind: Kind = Kind.GAUGE, unit: str = "") -> Metric:
    return Metric(
        name=f"process_{name}",
        group=_PROCESS,
        meaning=meaning,
        source=Source.KERNEL,
        fresh=Fresh.SCRAPE,
        kind=kind,
        unit=unit,
    )


SNAPSHOT_METRICS: tuple[Metric, ...] = (
    UP,
    INFO,
    START_TIME,
    RESTARTS,
    COMMANDS,
    MEMORY,
    CONNECTIONS,
    CONNECTIONS_LIMIT,
    CONNECTIONS_REFUSED,
    PEER_CONNECTIONS,
    SOCKETS,
    ACCEPT_QUEUE,
    ACCEPT_QUEUE_LIMIT,
    QUEUE_JOBS,
    QUEUE_LATENCY,
    QUEUE_PAUSED,
    SET_JOBS,
    SET_OVERDUE,
    PROCESSED,
    FAILED,
    BUSY_JOBS,
    BUSY_OLDEST,
    BUSY_USED,
    BUSY_AGES,
    DURATIONS,
    EXPIRED,
    WORKERS,
    CRASHES,
    ORPHANS,
    ORPHANS_OLDEST,
    THROTTLE_LIMIT,
    THROTTLE_IN_USE,
    THROTTLE_SATURATION,
    THROTTLE_SATURATED,
    THROTTLE_WAITING,
    PROCESS_CRASHES,
    LAST_CRASH,
    DATA_RACES,
    RECOVERED_PANICS,
    LOG_EVENTS,
    LOG_READ,
    LOG_UNREAD,
    LOG_QUIET,
    KNOWN_RISK,
    SERVER_STARTED,
    SERVER_FDS,
    SERVER_MAX_FDS,
    SERVER_RESIDENT,
    *STATSD_METRICS,
    COLLECTOR_UP,
    COLLECTOR_DURATION,
    COLLECTOR_ERRORS,
    LABEL_VALUES,
    LABEL_VALUES_LIMIT,
    TRACE_EXECUTIONS,
)
"""What one snapshot tells, in the order in which :func:`points` yields it."""

FROM_ZERO: frozenset[str] = frozenset(
    metric.name
    for metric in (DURATIONS, COLLECTOR_ERRORS, *STATSD_METRICS)
    if metric.kind in {Kind.COUNTER, Kind.HISTOGRAM}
)
"""What of a server the sidecar's own process counts, from when its first series appears. The other counters go on from
before, or are the server's own."""

PROCESS_METRICS: tuple[Metric, ...] = (
    _process("cpu_seconds_total", "Processor time used.", Kind.COUNTER, "seconds"),
    _process("resident_memory_bytes", "Resident memory.", unit="bytes"),
    _process("virtual_memory_bytes", "Virtual memory.", unit="bytes"),
    _process("start_time_seconds", "When the process started, in Unix time.", unit="seconds"),
    _process("open_fds", "Open file descriptors."),
    _process("max_fds", "File descriptors that may be open."),
)
"""What the kernel tells of the sidecar's own process; no ``server`` label."""

OTLP_METRICS: tuple[Metric, ...] = (OTLP_ITEMS, OTLP_FAILURES, OTLP_WAITING)
"""What the sidecar tells of its own pushes; no ``server`` label, and no series where no endpoint is set."""

STATSD_PUSH_METRICS: tuple[Metric, ...] = (STATSD_PUSHED, STATSD_PUSH_FAILURES)
"""Likewise of its flushes to a StatsD server."""

CONFIG_METRICS: tuple[Metric, ...] = (CONFIG_SUCCESSFUL, CONFIG_SUCCESS_TIME)
"""What the sidecar tells of its own configuration; no ``server`` label."""

METRICS: tuple[Metric, ...] = (
    *SNAPSHOT_METRICS,
    SNAPSHOT_AGE,
    BUILD_INFO,
    *PROCESS_METRICS,
    *CONFIG_METRICS,
    *OTLP_METRICS,
    *STATSD_PUSH_METRICS,
)
"""Every metric there is."""


def points(snapshot: Snapshot) -> Iterator[tuple[Metric, list[Point]]]:
    """Yield what :func:`columns` yields, as pairs of label values and value."""
    for metric, keys, values in columns(snapshot):
        yield metric, list(zip(keys, values, strict=True))


def columns(snapshot: Snapshot) -> Iterator[Column]:
    """Yield each metric of :data:`SNAPSHOT_METRICS` with its series: none for what is not known.

    Counters that can be known are there from the start, at 0. Durations and ages are never negative: clocks that
    disagree make a 0. Keys and values come apart, because a hundred thousand pairs would keep the garbage collector
    busy for longer than the event loop may stand still.
    """
    seen = snapshot.observation
    health = seen.health
    details = seen.details
    stale = details is not None and seen.now - details.asked_at > DETAILS_TTL
    if details is None or stale:
        details = Details(asked_at=seen.now)

    yield _one(UP, int(seen.reached))
    who = [] if health is None else [(label_value(health.version), label_value(health.edition))]
    yield INFO, who, [1] * len(who)
    yield _one(START_TIME, snapshot.boot.started_at)
    yield _one(RESTARTS, snapshot.boot.restarts)
    yield _one(COMMANDS, None if health is None else health.commands)
    yield _one(MEMORY, details.memory_bytes)

    yield _one(CONNECTIONS, snapshot.connections.used)
    yield _one(CONNECTIONS_LIMIT, snapshot.connections.limit)
    yield _one(CONNECTIONS_REFUSED, snapshot.connections.refused)
    peers = snapshot.connections.peers or {}
    yield PEER_CONNECTIONS, [(peer,) for peer in peers], list(peers.values())
    states = snapshot.connections.states or {}
    yield SOCKETS, [(state,) for state in states], list(states.values())
    yield _one(ACCEPT_QUEUE, snapshot.connections.waiting)
    yield _one(ACCEPT_QUEUE_LIMIT, snapshot.connections.backlog)

    yield from _queues(snapshot.queues)
    sets, overdue = seen.sets or {}, seen.overdue or {}
    yield _known(SET_JOBS, [(name,) for name in sets], list(sets.values()))
    yield _known(SET_OVERDUE, [(name,) for name in overdue], list(overdue.values()))
    yield _one(PROCESSED, seen.processed)
    yield _one(FAILED, seen.failed)

    yield from _busy(snapshot.busy)
    yield _durations(snapshot.busy, snapshot.executions)
    yield _one(EXPIRED, details.reservations_expired)

    yield _one(WORKERS, None if stale else snapshot.workers.registered)
    yield from _workers(snapshot.workers)
    yield from _throttles(snapshot.throttles)
    yield from _death(snapshot)
    yield from _statsd(snapshot.statsd)
    yield from _sidecar(snapshot)


def snapshot_age(snapshot: Snapshot, now: float) -> float:
    """Return how many seconds ago ``snapshot`` was taken; ``now`` is by the sidecar's monotonic clock."""
    return max(0.0, now - snapshot.taken_at)


def _queues(verdict: QueuesVerdict) -> Iterator[Column]:
    queues = verdict.queues or {}
    keys = [(name,) for name in queues]
    yield _known(QUEUE_JOBS, keys, [queue.jobs for queue in queues.values()])
    yield _known(QUEUE_LATENCY, keys, [queue.latency for queue in queues.values()])
    yield _known(QUEUE_PAUSED, keys, [_flag(queue.paused) for queue in queues.values()])


def _busy(verdict: BusyVerdict) -> Iterator[Column]:
    groups = verdict.groups or {}
    keys = list(groups)
    yield _known(BUSY_JOBS, keys, [group.jobs for group in groups.values()])
    yield _known(BUSY_OLDEST, keys, [group.oldest_age for group in groups.values()])
    yield _known(BUSY_USED, keys, [group.used_ratio for group in groups.values()])
    ages = verdict.ages or {}
    yield BUSY_AGES, [(queue,) for queue in ages], [_sane(it) for it in ages.values()]


def _durations(verdict: BusyVerdict, executions: ExecutionsVerdict | None) -> Column:
    durations = [_sane(it) for it in verdict.durations.values()]
    exemplars = {} if executions is None else executions.exemplars
    if exemplars:
        durations = [
            _with_exemplars(it, exemplars[pair]) if pair in exemplars else it
            for pair, it in zip(verdict.durations, durations, strict=True)
        ]
    return DURATIONS, list(verdict.durations), durations


def _workers(verdict: WorkersVerdict) -> Iterator[Column]:
    yield CRASHES, [(reason.value,) for reason in CrashReason], [verdict.crashes.get(it, 0) for it in CrashReason]
    groups = verdict.orphans or {}
    yield _known(ORPHANS, list(groups), [group.jobs for group in groups.values()])
    yield _known(ORPHANS_OLDEST, list(groups), [group.oldest_age for group in groups.values()])


def _throttles(verdict: ThrottlesVerdict) -> Iterator[Column]:
    throttles = verdict.throttles or {}
    keys = [(queue, scope.value) for queue, scope in throttles]
    uses = throttles.values()
    yield _known(THROTTLE_LIMIT, keys, [use.limit for use in uses])
    yield _known(THROTTLE_IN_USE, keys, [use.in_use for use in uses])
    yield _known(THROTTLE_SATURATION, keys, [use.saturation for use in uses])
    yield _known(THROTTLE_SATURATED, keys, [use.saturated_seconds for use in uses])
    # A queue throttled in both scopes has one queue of jobs behind it.
    waiting = {(queue,): use.waiting for (queue, _), use in throttles.items()}
    yield _known(THROTTLE_WAITING, list(waiting), list(waiting.values()))


def _death(snapshot: Snapshot) -> Iterator[Column]:
    seen, verdict = snapshot.observation, snapshot.process
    if verdict is None:
        yield from ((metric, (), ()) for metric in _OF_LOG)
    else:
        yield PROCESS_CRASHES, [(it.value,) for it in CRASH_KINDS], [verdict.crashes.get(it, 0) for it in CRASH_KINDS]
        last = {it.kind: it for it in verdict.incidents if it.crash and it.at is not None}
        keys = [(it.kind.value, label_value(it.component or NONE), it.known or "none") for it in last.values()]
        yield _known(LAST_CRASH, keys, [it.at for it in last.values()])
        yield DATA_RACES, [()], [verdict.races]
        yield RECOVERED_PANICS, [()], [verdict.recovered]
        yield LOG_EVENTS, [(it.value,) for it in LogEvent], [verdict.events.get(it, 0) for it in LogEvent]
        yield LOG_READ, [()], [verdict.read_bytes]
        yield _one(LOG_UNREAD, verdict.unread_bytes)
        yield _one(LOG_QUIET, None if verdict.last_at is None else seen.now - verdict.last_at)
    risks = seen.known_risks or {}
    yield KNOWN_RISK, [(name,) for name in risks], [int(it) for it in risks.values()]
    process = seen.process
    yield _one(SERVER_STARTED, None if process is None else process.started_at)
    yield _one(SERVER_FDS, None if process is None else process.open_fds)
    yield _one(SERVER_MAX_FDS, None if process is None else process.max_fds)
    yield _one(SERVER_RESIDENT, None if process is None else process.resident_bytes)


_OF_LOG = (
    PROCESS_CRASHES,
    LAST_CRASH,
    DATA_RACES,
    RECOVERED_PANICS,
    LOG_EVENTS,
    LOG_READ,
    LOG_UNREAD,
    LOG_QUIET,
)


def _statsd(verdict: StatsdVerdict | None) -> Iterator[Column]:
    if verdict is None:
        yield from ((metric, (), ()) for metric in STATSD_METRICS)
        return
    yield _one(STATSD_AGE, verdict.age)
    for fact, metric in STATSD_FACTS.items():
        if metric.kind is Kind.HISTOGRAM:
            distributions = verdict.distributions.get(fact, {})
            yield metric, list(distributions), [_sane(it) for it in distributions.values()]
        elif fact is StatsdFact.OTHER_LEVEL:  # what it is is not known: it may well be below zero
            levels = verdict.levels.get(fact, {})
            known = {key: value for key, value in levels.items() if -inf < value < inf}
            yield metric, list(known), list(known.values())
        else:
            series = (verdict.counts if metric.kind is Kind.COUNTER else verdict.levels).get(fact, {})
            yield _known(metric, list(series), list(series.values()))
    traffic = verdict.traffic
    yield STATSD_PACKETS, [(it.value,) for it in Transport], [traffic.packets.get(it, 0) for it in Transport]
    yield STATSD_SAMPLES, [()], [traffic.samples]
    yield STATSD_REJECTED, [(it.value,) for it in Rejection], [traffic.rejected.get(it, 0) for it in Rejection]
    yield STATSD_IGNORED, [(it.value,) for it in Ignored], [traffic.ignored.get(it, 0) for it in Ignored]
    yield STATSD_FOLDED, [()], [traffic.folded]
    dropped = [traffic.dropped.get(it, None if it is StatsdDrop.KERNEL else 0) for it in StatsdDrop]
    yield _known(STATSD_DROPPED, [(it.value,) for it in StatsdDrop], dropped)
    yield STATSD_RELAYED, [()], [traffic.relayed]


def _sidecar(snapshot: Snapshot) -> Iterator[Column]:
    runs = snapshot.collectors
    keys = [(totals.last.name,) for totals in runs]
    yield COLLECTOR_UP, keys, [int(totals.last.failure is None) for totals in runs]
    yield _known(COLLECTOR_DURATION, keys, [totals.last.seconds for totals in runs])
    yield (
        COLLECTOR_ERRORS,
        [(totals.last.name, reason.value) for totals in runs for reason in Reason],
        [totals.errors.get(reason, 0) for totals in runs for reason in Reason],
    )
    counts = snapshot.queues.label_values
    yield LABEL_VALUES, [(label,) for label in counts], list(counts.values())
    yield _known(LABEL_VALUES_LIMIT, [(label,) for label in counts], [snapshot.queues.label_values_limit] * len(counts))
    executions = snapshot.executions
    decisions = [] if executions is None else list(Decision)
    known = {} if executions is None else executions.decisions
    yield TRACE_EXECUTIONS, [(it.value,) for it in decisions], [known.get(it, 0) for it in decisions]


def _one(metric: Metric, value: float | None) -> Column:
    return _known(metric, [()], [value])


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _known(metric: Metric, keys: Sequence[Labels], values: Sequence[float | None]) -> Column:
    """Leave out what is not known or not finite, and raise to 0 what is below it."""
    # A comparison with NaN is false. Nearly always nothing is to be left out, and that is cheap to find out.
    kept = [value for value in values if value is not None and 0 <= value < inf]
    if len(kept) == len(values):
        return metric, keys, kept
    known = {
        key: max(value, 0) for key, value in zip(keys, values, strict=True) if value is not None and -inf < value < inf
    }
    return metric, list(known), list(known.values())


def _sane(distribution: Distribution) -> Distribution:
    if 0 <= distribution.sum < inf:
        return distribution
    return msgspec.structs.replace(distribution, sum=0.0)


def _with_exemplars(distribution: Distribution, exemplars: tuple[tuple[int, Exemplar], ...]) -> Distribution:
    # Two at one bucket, or one at a bucket that is not its own, could make a whole scrape unreadable. Nearly always
    # there is none such, and that is cheap to find out.
    last = -1
    for index, it in exemplars:
        if index <= last or not _is_sane(index, it):
            exemplars = tuple((index, it) for index, it in dict(exemplars).items() if _is_sane(index, it))
            break
        last = index
    return msgspec.structs.replace(distribution, exemplars=exemplars)


def _is_sane(index: int, it: Exemplar) -> bool:
    return 0 <= it.value < inf and 0 <= it.at < inf and index == bisect_left(DURATION_BUCKETS, it.value)


_INTRODUCTION = """\
# Metrics

Written by `python -m exporter.catalogue`: change the table there, not this file.

Every series of a watched server carries the label `server`, the server's configured name. What is not known has no
series: unknown is not zero. Counters that can be known are there from the start at 0. Names of queues and job types
are cut at 128 characters, and those beyond the bound are folded into `(other)`; where StatsD tells none, it is
`(none)`.

Sources:

- *health page*: `GET /health` of Faktory.
- *store*: Faktory's Redis, read-only; where it cannot be reached, what `INFO` and `QUEUE LATENCY` tell.
- *statistics*: `INFO` of Faktory, asked rarely.
- *configuration*: Forewarn's settings and the server's own configuration files.
- *Forewarn*: found or counted by Forewarn itself.
- *StatsD*: what the server itself tells by StatsD, where it is pointed at Forewarn's `--statsd.listen`.
- *log*: what the server prints, where `log_files` or `log_journals` tell where, or `forewarn exec` runs it.
- *kernel*: `/proc` of Forewarn's process, and of the server's where it can be seen. Sockets are from the kernel's
  socket diagnosis (netlink, what `ss` asks), which gVisor does not have and a seccomp profile may forbid: then they
  are not known. Of clients that come through a proxy the proxy is the peer, and where it is a proxy that listens on
  the port, they are the proxy's peers.

Of what the server prints only functions (the component) and the names of known incidents become label values: messages,
files and goroutines go to logs, traces and `/api/v1/incidents`.

All facts of one server come from one poll: `forewarn_snapshot_age_seconds` tells how long ago it ended.
"""


def document(system: str) -> str:
    """Return the text of ``docs/metrics.md`` with the names that servers of ``system`` have."""
    lines = [_INTRODUCTION.rstrip("\n")]
    for group in dict.fromkeys(metric.group for metric in METRICS):
        lines += [
            "",
            f"## {group}",
            "",
            "| name | type | unit | labels | meaning | source | fresh |",
            "| - " * 7 + "|",
        ]
        for metric in METRICS:
            if metric.group != group:
                continue
            labels = metric.labels if group in {_PROCESS, _CONFIG, _OTLP, _PUSH} else ("server", *metric.labels)
            cells = (
                f"`{metric.full_name(system)}`",
                metric.kind,
                metric.unit,
                ", ".join(f"`{label}`" for label in labels),
                metric.meaning,
                metric.source,
                metric.fresh,
            )
            lines.append("| " + " | ".join(cells) + " |")
        for metric in METRICS:
            if metric.group == group and metric.buckets:
                bounds = ", ".join(f"{bound:g}" for bound in metric.buckets)
                lines += ["", f"Buckets of `{metric.full_name(system)}`: {bounds}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document("faktory"))
