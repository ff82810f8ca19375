"""The one place for every threshold, time, objective and switch of the rules.

A settings file changes single keys: ``[alerts.FaktoryDown]`` with ``for = "2m"`` leaves all else as it is here.
Times are written as Prometheus writes them and reach the rules as they were written.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

Severity = Literal["critical", "warning", "info", "none"]

_TIME: Final = r"([0-9]{1,9}y)?([0-9]{1,9}w)?([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?\Z"

Wait = Annotated[str, Meta(pattern=r"^(?=[0-9])" + _TIME, description="a time such as 0s, 30s, 5m or 1h30m")]
Window = Annotated[str, Meta(pattern=r"^(?=.*[1-9])" + _TIME, description="a time above zero such as 30s, 5m or 1h30m")]
Share = Annotated[float, Meta(gt=0, le=1, description="a share above 0, and at most 1, such as 0.8")]
Factor = Annotated[float, Meta(gt=1, description="a factor above 1, such as 3")]
Burn = Annotated[float, Meta(gt=0, description="a number above 0, such as 14.4")]
Seconds = Annotated[float, Meta(gt=0, description="seconds above 0, such as 60")]
Count = Annotated[int, Meta(ge=1, description="a whole number from 1 up")]
Objective = Annotated[float, Meta(gt=0, lt=1, description="a share between 0 and 1, such as 0.99")]
_MATCHER: Final = r'[a-zA-Z_][a-zA-Z0-9_]*(=|!=|=~|!~)"([^"\\\n]|\\.)*"'
Matchers = Annotated[
    str,
    Meta(
        pattern=rf"^({_MATCHER}(, *{_MATCHER})*)?\Z",
        description="""label matchers such as cluster="prod",job=~"forewarn.*", or nothing""",
    ),
]
Address = Annotated[
    str, Meta(pattern=r"^https?://[^\s/\"{}]+(/[^\s\"{}]*)?$", description="an http:// or https:// address")
]
QueuePattern = Annotated[
    str, Meta(min_length=1, pattern=r'^[^"\\\n]+$', description="a regular expression of queue names")
]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the settings file."""


class Switched(_Table, frozen=True, kw_only=True):
    """What every alert has."""

    enabled: bool = True
    keep_firing_for: Wait = "0s"
    """How long it is still told after the condition ended, so that it does not flap."""


class Alert(Switched, frozen=True, kw_only=True):
    """What every alert with a single rule has."""

    severity: Severity = "warning"
    pending: Wait = field(name="for", default="0s")
    """How long the condition must hold before it is told."""


class Windowed(Alert, frozen=True, kw_only=True):
    """Looks back over a window."""

    window: Window


class Trend(Windowed, frozen=True, kw_only=True):
    """Tells where it leads if it goes on growing as it did over the window."""

    recent: Window
    """It must have grown over this time too: after a single step it has not."""


class RestartCount(Windowed, frozen=True, kw_only=True):
    """Restarts in a window."""

    restarts: Count


class CrashCount(Windowed, frozen=True, kw_only=True):
    """Crashes in a window."""

    crashes: Count


class Slow(Alert, frozen=True, kw_only=True):
    """Takes longer than it should."""

    seconds: Seconds


class NearLimit(Alert, frozen=True, kw_only=True):
    """A share of a limit, twice."""

    used_share: Share
    critical_share: Share
    critical_for: Wait


class Filling(Trend, frozen=True, kw_only=True):
    """A limit comes nearer, and is not far."""

    seconds_left: Seconds
    """Until the limit, if it goes on like this."""
    used_share: Share
    """Below this share of the limit nothing is told."""


class AcceptQueue(Windowed, frozen=True, kw_only=True):
    """Connections that the server does not accept, twice."""

    connections: Count
    """At every look within the window there waited so many at least."""
    critical_connections: Count
    critical_for: Wait
    """So many waited for so long."""


class SocketLeak(Windowed, frozen=True, kw_only=True):
    """Sockets that stay, and become more from window to window."""

    sockets: Count
    """At every look within the window there were so many at least."""


class SilentNearLimit(Windowed, frozen=True, kw_only=True):
    """Silent, and the limit was near within the window."""

    seconds: Seconds
    """Since the last packet."""
    used_share: Share
    """Of the connection limit."""


class PeerHoldsConnections(Alert, frozen=True, kw_only=True):
    """One peer among several holds most of what is near the limit."""

    peer_share: Share
    """Of the connections that are open."""
    used_share: Share
    """Of the limit, by all peers: below it nobody is harmed."""


class ReservationNearlyUsed(Alert, frozen=True, kw_only=True):
    """A busy job is about to be given to another worker."""

    used_share: Share


class OlderThanUsual(Alert, frozen=True, kw_only=True):
    """A busy job's age against its own kind's history."""

    factor: Factor
    """Times the 99th percentile of its queue and job type."""
    history: Window
    """How far back its history goes."""
    seconds: Seconds
    """Younger ones are never told."""
    executions: Count
    """Fewer in the history are not enough to know what is usual."""


class BusyWithoutCompletions(Windowed, frozen=True, kw_only=True):
    """Busy for a whole window in which nothing ended."""

    usual_share: Share
    """Queues whose usual duration is more than this share of the window are left out."""


class CrashRate(Windowed, frozen=True, kw_only=True):
    """Crashes against the number of workers."""

    workers_share: Share
    crashes: Count
    """Fewer are told one by one only."""


class ThrottleSaturated(Alert, frozen=True, kw_only=True):
    """Full, with work waiting behind it."""

    used_share: Share


class ThrottleNotDraining(Trend, frozen=True, kw_only=True):
    """Nearly full, and what waits behind it grows, to a multiple of what it was a window ago."""

    factor: Factor
    """Times what waited a window ago."""
    used_share: Share
    jobs: Count
    """Fewer waiting jobs are never told."""


class Backlog(Trend, frozen=True, kw_only=True):
    """A queue that grows, and is a multiple of what it was a window ago."""

    factor: Factor
    """Times its size a window ago."""
    jobs: Count
    """Smaller queues are never told."""


class FailedShare(Windowed, frozen=True, kw_only=True):
    """Executions that fail, against all of them."""

    failed_share: Share
    executions: Count
    """Fewer in the window are too few to take a share of."""


class DeadJobs(Windowed, frozen=True, kw_only=True):
    """Jobs given up for good within the window."""

    jobs: Count


class MemoryGrowing(Trend, frozen=True, kw_only=True):
    """Memory that will be a multiple of what it is."""

    horizon: Window
    """How far ahead is looked."""
    factor: Factor
    """Times the memory of now at the horizon."""
    bytes: Count
    """Smaller processes are never told."""


class StatsdLost(Windowed, frozen=True, kw_only=True):
    """A share of what came by StatsD that was lost: one rule for each place where it may be."""

    share: Share
    lost: Count
    """Fewer packets or lines in the window are never told."""


class LogUnread(Alert, frozen=True, kw_only=True):
    """Much of a log is not read yet, and it becomes more."""

    bytes: Count
    """Less is never told."""
    recent: Window
    """It must have grown over this time."""


class FailedFlushes(Windowed, frozen=True, kw_only=True):
    """Flushes in a window that did not get through."""

    flushes: Count


class Budget(_Table, frozen=True, kw_only=True):
    """One pair of windows over which the error budget burns too fast."""

    severity: Severity
    long: Window
    short: Window
    factor: Burn
    """Times the rate that would use the budget up exactly at the end of its period."""
    pending: Wait = field(name="for")


class LatencyBudget(Switched, frozen=True, kw_only=True):
    """The latency objective as a budget: one rule for each pair of windows."""

    jobs: Count
    """Queues through which fewer jobs went or wait within the long window are told only where one waits for all of
    it."""
    windows: tuple[Budget, ...]


class LatencyObjective(_Table, frozen=True, kw_only=True):
    """How long jobs may wait, and how much of the time that must hold."""

    queues: QueuePattern
    seconds: Seconds
    target: Objective


class Alerts(_Table, frozen=True, kw_only=True, rename="pascal"):
    """Every alert, in the order in which the rules tell them."""

    # Availability
    faktory_down: Alert = Alert(severity="critical", pending="1m", keep_firing_for="2m")
    faktory_redis_away: Alert = Alert(severity="critical", pending="2m", keep_firing_for="5m")
    faktory_no_workers: Alert = Alert(severity="critical", pending="3m", keep_firing_for="2m")
    faktory_crash_looping: RestartCount = RestartCount(
        severity="critical", window="30m", restarts=3, keep_firing_for="10m"
    )
    faktory_restarted: Windowed = Windowed(severity="info", window="10m")

    # Why the process died
    faktory_process_crash_loop: CrashCount = CrashCount(
        severity="critical", window="30m", crashes=3, keep_firing_for="10m"
    )
    faktory_process_crashed: Windowed = Windowed(window="30m", keep_firing_for="10m")
    faktory_process_died_unexplained: Windowed = Windowed(window="30m", keep_firing_for="10m")
    faktory_store_crashed: Windowed = Windowed(severity="critical", window="30m")
    faktory_job_lost: Windowed = Windowed(severity="critical", window="30m")
    faktory_flushed: Windowed = Windowed(severity="critical", window="30m")
    faktory_known_crash_risk: Alert = Alert(pending="1h15m", keep_firing_for="1h")
    faktory_recovered_panic: Windowed = Windowed(severity="info", window="1h")
    faktory_data_race: Windowed = Windowed(severity="info", window="1h")

    # Saturation
    faktory_connections_near_limit: NearLimit = NearLimit(
        used_share=0.8, pending="5m", keep_firing_for="10m", critical_share=0.95, critical_for="1m"
    )
    faktory_connections_refused: Windowed = Windowed(severity="critical", window="5m", keep_firing_for="5m")
    faktory_statsd_silent_near_limit: SilentNearLimit = SilentNearLimit(
        severity="critical", window="10m", seconds=90, used_share=0.8, pending="2m", keep_firing_for="5m"
    )
    faktory_statsd_silent: Slow = Slow(seconds=90, pending="5m", keep_firing_for="5m")
    faktory_peer_holds_connections: PeerHoldsConnections = PeerHoldsConnections(
        peer_share=0.6, used_share=0.5, pending="10m", keep_firing_for="10m"
    )
    faktory_accept_queue_filling: AcceptQueue = AcceptQueue(
        window="5m",
        connections=1,
        pending="1m",
        keep_firing_for="5m",
        critical_connections=10,
        critical_for="2m",
    )
    faktory_process_file_descriptors: NearLimit = NearLimit(
        used_share=0.8, pending="5m", keep_firing_for="10m", critical_share=0.95, critical_for="1m"
    )
    faktory_throttle_saturated: ThrottleSaturated = ThrottleSaturated(
        used_share=1.0, pending="10m", keep_firing_for="5m"
    )
    faktory_reservation_nearly_used: ReservationNearlyUsed = ReservationNearlyUsed(used_share=0.8, keep_firing_for="1m")
    faktory_redis_slow: Slow = Slow(seconds=1.0, pending="5m", keep_firing_for="10m")
    faktory_redis_round_trip_high: Slow = Slow(seconds=0.05, pending="5m", keep_firing_for="10m")

    # Latency and errors
    faktory_queue_latency_budget_burn: LatencyBudget = LatencyBudget(
        jobs=10,
        keep_firing_for="5m",
        windows=(
            Budget(severity="critical", long="1h", short="5m", factor=14.4, pending="2m"),
            Budget(severity="critical", long="6h", short="30m", factor=6, pending="15m"),
            Budget(severity="warning", long="1d", short="2h", factor=3, pending="1h"),
            Budget(severity="warning", long="3d", short="6h", factor=1, pending="3h"),
        ),
    )
    faktory_scheduler_stuck: Slow = Slow(severity="critical", seconds=60, pending="3m", keep_firing_for="2m")
    faktory_busy_job_older_than_usual: OlderThanUsual = OlderThanUsual(
        factor=3, history="1d", seconds=60, executions=50, pending="1m", keep_firing_for="2m"
    )
    faktory_busy_without_completions: BusyWithoutCompletions = BusyWithoutCompletions(
        window="15m", usual_share=0.5, pending="1m", keep_firing_for="2m"
    )
    faktory_reservations_expired: Windowed = Windowed(window="15m", keep_firing_for="5m")
    faktory_worker_crashed: Windowed = Windowed(window="10m")
    faktory_worker_hung: Windowed = Windowed(window="15m")
    faktory_worker_crash_rate_high: CrashRate = CrashRate(
        severity="critical", window="1h", workers_share=0.2, crashes=3, keep_firing_for="10m"
    )
    faktory_jobs_orphaned: Slow = Slow(seconds=300, keep_firing_for="1m")
    faktory_retry_storm: FailedShare = FailedShare(
        window="10m", failed_share=0.25, executions=50, pending="5m", keep_firing_for="10m"
    )
    faktory_job_type_failing: FailedShare = FailedShare(
        window="15m", failed_share=0.5, executions=20, pending="5m", keep_firing_for="10m"
    )
    faktory_dead_jobs_growing: DeadJobs = DeadJobs(window="1h", jobs=10, keep_firing_for="15m")

    # Capacity and trend
    faktory_connections_filling: Filling = Filling(
        window="15m", recent="5m", seconds_left=1800, used_share=0.5, pending="10m", keep_firing_for="10m"
    )
    faktory_process_file_descriptors_filling: Filling = Filling(
        window="15m", recent="5m", seconds_left=1800, used_share=0.5, pending="10m", keep_firing_for="10m"
    )
    faktory_close_wait_leak: SocketLeak = SocketLeak(window="30m", sockets=20, pending="5m", keep_firing_for="30m")
    faktory_throttle_not_draining: ThrottleNotDraining = ThrottleNotDraining(
        window="30m", recent="10m", factor=1.5, used_share=0.8, jobs=10, pending="15m", keep_firing_for="10m"
    )
    faktory_backlog_growing: Backlog = Backlog(
        window="1h", recent="10m", factor=1.5, jobs=100, pending="15m", keep_firing_for="15m"
    )
    faktory_memory_growing: MemoryGrowing = MemoryGrowing(
        window="6h", recent="1h", horizon="1d", factor=2, bytes=268_435_456, pending="2h", keep_firing_for="1h"
    )
    faktory_queue_paused_with_backlog: Alert = Alert(pending="1h", keep_firing_for="5m")
    faktory_connections_limit_unknown: Alert = Alert(severity="info", pending="15m", keep_firing_for="5m")
    faktory_throttle_without_queue: Alert = Alert(severity="info", pending="1h", keep_firing_for="5m")

    # Forewarn itself
    forewarn_absent: Alert = Alert(severity="critical", pending="5m")
    forewarn_down: Windowed = Windowed(severity="critical", window="1d", pending="3m", keep_firing_for="2m")
    forewarn_collector_failing: Windowed = Windowed(window="10m", pending="5m", keep_firing_for="5m")
    forewarn_snapshot_stale: Slow = Slow(seconds=120, pending="1m", keep_firing_for="2m")
    forewarn_log_unread: LogUnread = LogUnread(bytes=67_108_864, recent="5m", pending="10m", keep_firing_for="10m")
    forewarn_label_overflow: Alert = Alert(severity="info", pending="15m", keep_firing_for="1h")
    forewarn_statsd_lost: StatsdLost = StatsdLost(
        window="5m", share=0.01, lost=10, pending="10m", keep_firing_for="10m"
    )
    forewarn_statsd_push_failing: FailedFlushes = FailedFlushes(
        window="5m", flushes=3, pending="15m", keep_firing_for="10m"
    )
    forewarn_config_reload_failed: Alert = Alert(pending="5m", keep_firing_for="2m")
    forewarn_watchdog: Alert = Alert(severity="none")


class RuleSettings(_Table, frozen=True, kw_only=True):
    """Everything that can be set of the rules."""

    selector: Matchers = ""
    """Label matchers that every metric of the rules gets."""
    runbooks_url: Address = "https://runbooks.example.com/forewarn"
    """Where the pages of ``docs/runbooks`` are to be read: a page's name is put behind it."""
    dashboards_url: Address = "https://grafana.example.com"
    """The Grafana that has the dashboards."""
    interval: Window = "30s"
    """How often the rules are evaluated."""
    history_interval: Window = "2m"
    """How often what looks back for a day is computed: it changes slowly and costs most. Prometheus takes a series for
    gone that was not computed for 5m."""
    objectives: tuple[LatencyObjective, ...] = (LatencyObjective(queues=".*", seconds=60, target=0.99),)
    """Latency objectives of queues: the first that matches a queue's name is the queue's."""
    alerts: Alerts = Alerts()


DEFAULTS: Final = RuleSettings()
