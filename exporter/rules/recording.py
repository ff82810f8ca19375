"""The series that alerts and dashboards share, computed once."""

from __future__ import annotations

from exporter.rules.rule import ON_PAIR, ON_QUEUE, Group, Recording, selector
from exporter.rules.settings import LatencyObjective, RuleSettings

CONNECTIONS_USED = "server:faktory_connections:used_ratio"
CONNECTIONS_SECONDS_LEFT = "server:faktory_connections:limit_seconds"
FILES_USED = "server:faktory_process_open_fds:used_ratio"
FILES_SECONDS_LEFT = "server:faktory_process_open_fds:limit_seconds"
CRASHES_PER_WORKER = "server:faktory_worker_crashes_per_worker:ratio"
FAILED_SHARE = "server:faktory_jobs_failed_per_processed:ratio_rate"
JOB_TYPE_FAILED = "queue_jobtype:faktory_job_failures_per_execution:ratio_rate"
STATSD_UNREAD = "server:forewarn_statsd_dropped_packets_per_packet:ratio_rate"
STATSD_REJECTED = "server:forewarn_statsd_rejected_per_sample:ratio_rate"
STATSD_UNRELAYED = "server:forewarn_statsd_dropped_packets_per_relayed:ratio_rate"
BUSY = "queue:faktory_busy_jobs:sum"
USUAL = "queue_jobtype:faktory_job_duration_seconds:p99"
QUEUE_USUAL = "queue:faktory_job_duration_seconds:p99"
BURN = "queue:faktory_queue_latency:burnrate"


def burn(window: str) -> str:
    """Return the name of the error budget's burn rate over ``window``."""
    return f"{BURN}{window}"


def burn_windows(settings: RuleSettings) -> tuple[str, ...]:
    """Return every window over which the burn rate is recorded, each once."""
    pairs = settings.alerts.faktory_queue_latency_budget_burn.windows
    return tuple(dict.fromkeys(window for pair in pairs for window in (pair.short, pair.long)))


def groups(settings: RuleSettings) -> tuple[Group, ...]:
    """Return the groups of recording rules."""
    return (
        Group(name="faktory.recording", rules=_current(settings)),
        Group(name="faktory.history", rules=_history(settings), interval=settings.history_interval),
    )


def _current(settings: RuleSettings) -> tuple[Recording, ...]:
    s = selector(settings.selector)
    filling = settings.alerts.faktory_connections_filling
    files = settings.alerts.faktory_process_file_descriptors_filling
    crash_rate = settings.alerts.faktory_worker_crash_rate_high
    storm = settings.alerts.faktory_retry_storm
    return (
        Recording(
            record=CONNECTIONS_USED,
            expr=f"faktory_connections{s}\n  / (faktory_connections_limit{s} > 0)",
        ),
        Recording(
            record=CONNECTIONS_SECONDS_LEFT,
            expr=f"clamp_min((faktory_connections_limit{s} > 0) - faktory_connections{s}, 0)\n"
            f"  / (deriv(faktory_connections{s}[{filling.window}]) > 0)",
        ),
        Recording(
            record=FILES_USED,
            expr=f"faktory_process_open_fds{s}\n  / (faktory_process_max_fds{s} > 0)",
        ),
        Recording(
            record=FILES_SECONDS_LEFT,
            expr=f"clamp_min((faktory_process_max_fds{s} > 0) - faktory_process_open_fds{s}, 0)\n"
            f"  / (deriv(faktory_process_open_fds{s}[{files.window}]) > 0)",
        ),
        Recording(
            record=CRASHES_PER_WORKER,
            expr=f"sum without (reason) (increase(faktory_worker_crashes_total{s}[{crash_rate.window}]))\n"
            f"  / clamp_min(avg_over_time(faktory_workers{s}[{crash_rate.window}]), 1)",
        ),
        Recording(
            record=FAILED_SHARE,
            expr=f"rate(faktory_jobs_failed_total{s}[{storm.window}])\n"
            f"  / (rate(faktory_jobs_processed_total{s}[{storm.window}]) > 0)",
        ),
        *_statsd(settings),
        Recording(record=BUSY, expr=f"sum without (jobtype) (faktory_busy_jobs{s})"),
        Recording(record=BURN, expr=_burn(settings)),
        *(
            Recording(record=burn(window), expr=f"avg_over_time({BURN}{s}[{window}])")
            for window in burn_windows(settings)
        ),
    )


def _statsd(settings: RuleSettings) -> tuple[Recording, ...]:
    """Return the shares of what a server tells by StatsD, and of what is lost of it: of nothing there is no share."""
    s = selector(settings.selector)
    failing, lost = settings.alerts.faktory_job_type_failing.window, settings.alerts.forewarn_statsd_lost.window
    packets = f"sum without (transport) (rate(forewarn_statsd_packets_total{s}[{lost}]))"
    unread = f"sum without (at) (rate({statsd_unread(settings)}[{lost}]))"
    rejected = f"sum without (reason) (rate(forewarn_statsd_rejected_total{s}[{lost}]))"
    unrelayed = f"sum without (at) (rate({statsd_unrelayed(settings)}[{lost}]))"
    return (
        Recording(
            record=JOB_TYPE_FAILED,
            expr=f"rate(faktory_job_failures_total{s}[{failing}])\n"
            f"  / (rate(faktory_job_executions_total{s}[{failing}]) > 0)",
        ),
        Recording(record=STATSD_UNREAD, expr=f"{unread}\n  / ({packets} + {unread} > 0)"),
        Recording(
            record=STATSD_REJECTED,
            expr=f"{rejected}\n  / (rate(forewarn_statsd_samples_total{s}[{lost}]) + {rejected} > 0)",
        ),
        Recording(
            record=STATSD_UNRELAYED,
            expr=f"{unrelayed}\n  / (rate(forewarn_statsd_relayed_packets_total{s}[{lost}]) + {unrelayed} > 0)",
        ),
    )


def statsd_unread(settings: RuleSettings) -> str:
    """Return the packets that were lost before they were read."""
    return "forewarn_statsd_dropped_packets_total" + selector(settings.selector, 'at!="relay"')


def statsd_unrelayed(settings: RuleSettings) -> str:
    """Return the packets that were lost when they were passed on."""
    return "forewarn_statsd_dropped_packets_total" + selector(settings.selector, 'at="relay"')


def _burn(settings: RuleSettings) -> str:
    """Return how many times too fast each queue's budget burns now: 0 while its latency is within its objective.

    What a paused queue's jobs wait for is somebody's will.
    """
    earlier: list[LatencyObjective] = []
    parts = []
    for each in settings.objectives:
        matchers = [f'queue=~"{each.queues}"'] if each.queues != ".*" else []
        matchers += [f'queue!~"{other.queues}"' for other in earlier]
        latency = f"faktory_queue_latency_seconds{selector(settings.selector, *matchers)}"
        parts.append(f"({latency} > bool {each.seconds:.15g}) / {1 - each.target:.6g}")
        earlier.append(each)
    alternatives = "\n  or ".join(parts)
    paused = f"faktory_queue_paused{selector(settings.selector)} == 1"
    return f"(\n  {alternatives}\n)\nunless {ON_QUEUE} {paused}"


def _history(settings: RuleSettings) -> tuple[Recording, ...]:
    s = selector(settings.selector)
    older = settings.alerts.faktory_busy_job_older_than_usual
    buckets = f"rate(faktory_job_duration_seconds_bucket{s}[{older.history}])"
    count = f"increase(faktory_job_duration_seconds_count{s}[{older.history}])"
    return (
        Recording(
            record=USUAL,
            expr=f"histogram_quantile(0.99, {buckets})\nand {ON_PAIR} {count} >= {older.executions}",
        ),
        Recording(
            record=QUEUE_USUAL,
            expr=f"histogram_quantile(0.99, sum without (jobtype) ({buckets}))\n"
            f"and {ON_QUEUE} sum without (jobtype) ({count}) >= {older.executions}",
        ),
    )
