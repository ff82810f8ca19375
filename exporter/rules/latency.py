"""Do jobs start in time, and end well."""

from __future__ import annotations

from exporter.rules import panels, recording
from exporter.rules.rule import ON_PAIR, ON_QUEUE, ON_SERVER, PAIR, QUEUE, SERVER, AlertRule, alert, selector, told
from exporter.rules.settings import Budget, RuleSettings
from exporter.settings import parse_duration


def alerts(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts of this group, in the order in which they matter."""
    windows = settings.alerts.faktory_queue_latency_budget_burn.windows
    return (
        *(_burning(settings, window) for window in windows),
        *_late(settings),
        *_workers(settings),
        *_failed(settings),
    )


def _burning(settings: RuleSettings, window: Budget) -> AlertRule:
    s = selector(settings.selector)
    entry = settings.alerts.faktory_queue_latency_budget_burn
    half = _half(window.long)
    executions = f"sum without (jobtype) (increase(faktory_job_duration_seconds_count{s}[{window.long}]))"
    return AlertRule(
        name="FaktoryQueueLatencyBudgetBurn",
        severity=window.severity,
        expr=f"{recording.burn(window.long)}{s} > {window.factor:.15g}\n"
        f"and {recording.burn(window.short)}{s} > {window.factor:.15g}\n"
        f"and {ON_QUEUE} present_over_time({recording.BURN}{s}[{half}] offset {half})\n"
        f"and {ON_QUEUE} (\n  {executions} >= {entry.jobs}\n  or faktory_queue_jobs{s} >= {entry.jobs}\n"
        f"  or faktory_queue_latency_seconds{s} >= {parse_duration(window.long):.15g}\n)",
        pending=window.pending,
        keep_firing_for=entry.keep_firing_for,
        by=QUEUE,
        labels={"long": window.long, "short": window.short},
        summary="Jobs wait too long in queue {{ $labels.queue }} of Faktory {{ $labels.server }}.",
        description=told(
            """
            Over <long> the latency objective was missed {{ $value | printf "%.1f" }} times as often as its budget
            allows, and it still is. Whoever waits for these jobs notices. See whether more is pushed than usual,
            workers are missing, or jobs take longer.
            """,
            window,
        ),
        panel=panels.LATENCY_BUDGET,
    )


def _half(window: str) -> str:
    """Return the time for which a queue must have been known: a few minutes alone are no average over ``window``."""
    half = parse_duration(window) / 2
    return f"{half:.0f}s" if half == int(half) else f"{half * 1000:.0f}ms"


def _late(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    chosen = settings.alerts
    stuck = chosen.faktory_scheduler_stuck
    older = chosen.faktory_busy_job_older_than_usual
    idle = chosen.faktory_busy_without_completions
    expired = chosen.faktory_reservations_expired
    usual = idle.usual_share * parse_duration(idle.window)
    ended = f"increase(faktory_job_duration_seconds_count{s}[{idle.window}])"
    return (
        alert(
            "FaktorySchedulerStuck",
            stuck,
            f"faktory_set_overdue_seconds{s} > {stuck.seconds:.15g}",
            by=(*SERVER, "set"),
            summary="Faktory {{ $labels.server }} does not enqueue jobs whose time has come ({{ $labels.set }}).",
            description="""
                The earliest due entry of {{ $labels.set }} is overdue by {{ $value | humanizeDuration }}. Scheduled
                jobs and retries stay where they are until the scheduler works again. See the server's log for
                errors of its scheduler, and its Redis.
            """,
            panel=panels.OVERDUE,
        ),
        alert(
            "FaktoryBusyJobOlderThanUsual",
            older,
            f"faktory_busy_job_oldest_age_seconds{s} > {older.seconds:.15g}\n"
            f"and {ON_PAIR} faktory_busy_job_oldest_age_seconds{s} > {older.factor:.15g} * {recording.USUAL}{s}\n"
            f"unless {ON_PAIR} faktory_busy_jobs{s} == faktory_orphaned_jobs{s}",
            by=PAIR,
            summary="A {{ $labels.jobtype }} job on Faktory {{ $labels.server }} takes much longer than usual.",
            description="""
                It is busy for {{ $value | humanizeDuration }}, more than <factor> times as long as 99 % of its kind
                within <history> (queue {{ $labels.queue }}). It may hang, and holds its worker's place. See what
                the job waits for.
            """,
            panel=panels.AGE_AGAINST_USUAL,
        ),
        alert(
            "FaktoryBusyWithoutCompletions",
            idle,
            f"min_over_time({recording.BUSY}{s}[{idle.window}]) > 0\n"
            f"and {ON_QUEUE} {recording.BUSY}{s} offset {idle.window} > 0\n"
            f"and {ON_QUEUE} sum without (jobtype) ({ended}) == 0\n"
            f"and {ON_QUEUE} {recording.QUEUE_USUAL}{s} < {usual:.15g}\n"
            f"unless {ON_QUEUE} {recording.BUSY}{s} == sum without (jobtype) (faktory_orphaned_jobs{s})",
            by=QUEUE,
            summary="Queue {{ $labels.queue }} of Faktory {{ $labels.server }} is busy, but nothing gets done.",
            description="""
                Its workers were busy all the time (jobs held, at least: {{ $value | humanize }}), and none of its
                jobs has ended for <window>, though they usually take far less. Busy workers look well on every
                other graph. See what these jobs wait for: a lock, a database, an outside service.
            """,
            panel=panels.BUSY_AND_COMPLETED,
        ),
        alert(
            "FaktoryReservationsExpired",
            expired,
            f"round(increase(faktory_reservations_expired_total{s}[{expired.window}])) > 0",
            by=SERVER,
            summary="Reservations on Faktory {{ $labels.server }} have run out.",
            description="""
                Jobs taken back within <window> because their reservation ended: {{ $value | printf "%.0f" }}. They
                go to another worker if they may be retried; where the first one still lives they run twice. See
                which jobs outlive their reserve_for, and which workers crashed.
            """,
            panel=panels.EXPIRED,
        ),
    )


def _workers(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    vanished = selector(settings.selector, 'reason="vanished"')
    hung = selector(settings.selector, 'reason="hung"')
    chosen = settings.alerts
    rate = chosen.faktory_worker_crash_rate_high
    crashes = f"sum without (reason) (increase(faktory_worker_crashes_total{s}[{rate.window}]))"
    crashed = chosen.faktory_worker_crashed
    frozen = chosen.faktory_worker_hung
    orphaned = chosen.faktory_jobs_orphaned
    return (
        alert(
            "FaktoryWorkerCrashRateHigh",
            rate,
            f"{recording.CRASHES_PER_WORKER}{s} > {rate.workers_share:.15g}\n"
            f"and {ON_SERVER} round({crashes}) >= {rate.crashes}",
            by=SERVER,
            summary="Workers of Faktory {{ $labels.server }} crash in numbers.",
            description="""
                Within <window> as many workers crashed as make up {{ $value | humanizePercentage }} of those that
                are registered. Each leaves jobs behind that come back and may crash the next one. See what the
                crashed ones had in common: a job type, a machine, a deploy.
            """,
            panel=panels.CRASH_RATE,
        ),
        alert(
            "FaktoryWorkerCrashed",
            crashed,
            f"round(increase(faktory_worker_crashes_total{vanished}[{crashed.window}])) > 0",
            by=(*SERVER, "reason"),
            summary="A worker of Faktory {{ $labels.server }} has crashed.",
            description="""
                Workers that vanished within <window> while they held jobs: {{ $value | printf "%.0f" }}. Those jobs
                are lost to everybody until their reservations end. Forewarn's log names each worker and its jobs;
                see that machine for an out-of-memory kill or a crash.
            """,
            panel=panels.CRASHES,
        ),
        alert(
            "FaktoryWorkerHung",
            frozen,
            f"round(increase(faktory_worker_crashes_total{hung}[{frozen.window}])) > 0",
            by=(*SERVER, "reason"),
            summary="A worker of Faktory {{ $labels.server }} hung and was given up.",
            description="""
                Workers struck off within <window> because they sent no heartbeat for a minute while they held jobs:
                {{ $value | printf "%.0f" }}. The process may still run, and may still work on them. Forewarn's log
                names each worker; see whether it swaps, is stopped, or blocks.
            """,
            panel=panels.CRASHES,
        ),
        alert(
            "FaktoryJobsOrphaned",
            orphaned,
            f"faktory_orphaned_job_oldest_age_seconds{s} > {orphaned.seconds:.15g}",
            by=PAIR,
            summary="Jobs of a crashed worker wait for their reservation to end on Faktory {{ $labels.server }}.",
            description="""
                The oldest orphan of type {{ $labels.jobtype }} in queue {{ $labels.queue }} lies idle for {{ $value
                | humanizeDuration }}. Nobody works on it, and it counts as running, until its reservation ends. See
                how long that is, and whether somebody waits for it.
            """,
            panel=panels.ORPHANS,
        ),
    )


def _failed(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    dead = selector(settings.selector, 'set="dead"')
    chosen = settings.alerts
    storm = chosen.faktory_retry_storm
    failing = chosen.faktory_job_type_failing
    buried = chosen.faktory_dead_jobs_growing
    return (
        alert(
            "FaktoryRetryStorm",
            storm,
            f"{recording.FAILED_SHARE}{s} > {storm.failed_share:.15g}\n"
            f"and {ON_SERVER} increase(faktory_jobs_processed_total{s}[{storm.window}]) >= {storm.executions}",
            by=SERVER,
            summary="Many jobs fail on Faktory {{ $labels.server }}.",
            description="""
                {{ $value | humanizePercentage }} of the executions within <window> failed. Each comes back as a
                retry and takes the place of other work. See which error they share: most often one dependency is
                away.
            """,
            panel=panels.FAILED_SHARE,
        ),
        alert(
            "FaktoryJobTypeFailing",
            failing,
            f"{recording.JOB_TYPE_FAILED}{s} > {failing.failed_share:.15g}\n"
            f"and {ON_PAIR} increase(faktory_job_executions_total{s}[{failing.window}]) >= {failing.executions}",
            by=PAIR,
            summary="Most {{ $labels.jobtype }} jobs fail on Faktory {{ $labels.server }}.",
            description="""
                {{ $value | humanizePercentage }} of their executions within <window> failed (queue {{ $labels.queue
                }}). Each comes back as a retry until it has none left. See which error they share, and what was last
                deployed of them.
            """,
            panel=panels.JOB_TYPE_FAILED,
        ),
        alert(
            "FaktoryDeadJobsGrowing",
            buried,
            f"faktory_set_jobs{dead} - min_over_time(faktory_set_jobs{dead}[{buried.window}]) >= {buried.jobs}",
            by=(*SERVER, "set"),
            summary="Faktory {{ $labels.server }} gives up on jobs.",
            description="""
                Jobs that ran out of retries within <window> and went to the dead set: {{ $value | printf "%.0f" }}.
                Nothing runs them again by itself, and after 180 days they are deleted. See their errors, mend the
                cause, and requeue those that still matter.
            """,
            panel=panels.SETS,
        ),
    )
