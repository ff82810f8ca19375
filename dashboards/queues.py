"""Queues and job types: what waits, what runs, and what takes longer than it should."""

from __future__ import annotations

from collections.abc import Iterable

from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.units import OpsPerSecond, PercentUnit, Seconds, Short

from dashboards.board import Row, board
from dashboards.declared import AGES, ENDED_BY_TYPE, JOBS_TOLD, LOCKED, TOOK_BY_QUEUE, WAIT_TOLD
from dashboards.links import row_address
from dashboards.panels import Column, Opens, Panels
from dashboards.queries import BY_QUEUE, PAIR, QUEUE, SERVER, Query, Select, grown, per_second, quantile
from dashboards.thresholds import COLORS, GOOD, Levels, Steps, above
from exporter.rules import panels, recording
from exporter.rules.panels import QUEUES, Panel
from exporter.rules.settings import LatencyObjective, RuleSettings


def dashboard(settings: RuleSettings) -> Dashboard:
    """Return the dashboard of queues and job types."""
    return board(
        settings,
        QUEUES,
        "Faktory / Queues and job types",
        "What waits, what runs, and what takes longer than it should. Choose a queue or a job type at the top.",
        _now(settings),
        _waiting(settings),
        _running(settings),
        _durations(settings),
        _told_by_statsd(settings),
        choose=("queue", "jobtype"),
    )


def _now(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    pairs = settings.alerts.faktory_queue_latency_budget_burn.windows
    window = pairs[0].long if pairs else ""
    return Row(
        "Now",
        [
            make.table(
                Panel(QUEUES, 100),
                "Queues",
                """
                One row for each queue, coloured where alerts fire. An empty cell: nothing of it is busy. A click on a
                queue's name shows that queue alone on this whole page.
                """,
                Column(title="Waiting", expr=f"max {BY_QUEUE} ({see.queue('faktory_queue_jobs')})"),
                Column(
                    title="Longest wait",
                    expr=f"max {BY_QUEUE} ({see.queue('faktory_queue_latency_seconds')})",
                    unit=Seconds,
                    steps=levels.latency,
                ),
                Column(
                    title="Paused",
                    expr=f"max {BY_QUEUE} ({see.queue('faktory_queue_paused')})",
                    values={0: ("no", ""), 1: ("paused", COLORS["warning"])},
                ),
                Column(
                    title=f"Budget burn {window}".rstrip(),
                    expr=f"max {BY_QUEUE} ({see.queue(recording.burn(window))})",
                    steps=levels.burn,
                ),
                Column(title="Busy", expr=f"sum {BY_QUEUE} ({see.pair('faktory_busy_jobs')})"),
                Column(
                    title="Oldest busy job",
                    expr=f"max {BY_QUEUE} ({see.pair('faktory_busy_job_oldest_age_seconds')})",
                    unit=Seconds,
                ),
                Column(
                    title="Most reservation used",
                    expr=f"max {BY_QUEUE} ({see.pair('faktory_busy_job_reservation_used_ratio')})",
                    unit=PercentUnit,
                    steps=levels.reservation_used,
                ),
                keys={"queue": "Queue", "server": "Server", "instance": "Forewarn", "job": "Job"},
                size=(24, 9),
                opens=Opens(
                    "queue", "Show this queue alone", row_address(QUEUES, ("job", "instance", "server", "queue"))
                ),
                sorted_by="Longest wait",
                when_empty="no queue is known",
            ),
        ],
    )


def _windows(settings: RuleSettings) -> tuple[str, ...]:
    """Return the windows of the budget; where the settings name none, that of now."""
    return recording.burn_windows(settings) or ("",)


def _told(objectives: Iterable[LatencyObjective]) -> str:
    return "; ".join(
        f"{each.seconds:g} s, {100 * each.target:.6g} % of the time, in queues {each.queues}" for each in objectives
    )


def _waiting(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    backlog, paused = settings.alerts.faktory_backlog_growing, settings.alerts.faktory_queue_paused_with_backlog
    jobs = see.queue("faktory_queue_jobs")
    return Row(
        "Waiting",
        [
            make.graph(
                panels.QUEUE_LATENCY,
                "Wait in the queue",
                f"""
                How long the oldest job of each queue has waited; the line is the objective:
                {_told(settings.objectives)}. This is what users notice. See whether more is pushed than usual, workers
                are missing, or jobs take longer.
                """,
                Query(expr=see.queue("faktory_queue_latency_seconds"), legend=QUEUE),
                unit=Seconds,
                size=(12, 8),
                steps=levels.latency,
            ),
            make.graph(
                panels.LATENCY_BUDGET,
                "Latency budget burn",
                """
                How many times as often as its budget allows each queue misses its latency objective, by window. An
                alert fires when a long and a short window are above its line: it lasts, and it still goes on. Paused
                queues are left out.
                """,
                *(
                    Query(expr=see.queue(recording.burn(window)), legend=f"{window}, {QUEUE}")
                    for window in _windows(settings)
                ),
                unit="none",
                size=(12, 8),
                steps=levels.burn,
            ),
            make.graph(
                panels.BACKLOG,
                "Backlog",
                f"""
                Jobs that wait in each queue. The alert fires when there are {backlog.jobs} or more, the number grows,
                and it is above the dashed line, {backlog.factor:g} times what it was {backlog.window} ago. See whether
                pushes rose or completions fell.
                """,
                Query(expr=jobs, legend=QUEUE),
                Query(
                    expr=f"{backlog.factor:.15g} * ({jobs} offset {backlog.window})",
                    legend=f"alert above, {QUEUE}",
                    compared=True,
                ),
                unit=Short,
                size=(12, 8),
                steps=above((backlog.jobs, backlog.severity)),
            ),
            make.timeline(
                panels.PAUSED,
                "Paused queues",
                f"""
                Whether each queue is paused, and whether jobs wait in it then: no worker is given work from it.
                Somebody paused it and may have forgotten. The alert fires after {paused.pending}; resume it, or silence
                the alert until it may run again.
                """,
                Query(
                    expr=f"{see.queue('faktory_queue_paused')}\n  * (1 + ({jobs} > bool 0))",
                    legend=QUEUE,
                ),
                values={
                    0: ("runs", GOOD),
                    1: ("paused, empty", COLORS["info"]),
                    2: ("paused, jobs wait", COLORS[paused.severity]),
                },
                steps=Steps(steps=((1, COLORS["info"]), (2, COLORS[paused.severity]))),
                size=(12, 8),
            ),
        ],
    )


def _running(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    alerts = settings.alerts
    older, idle, expired = (
        alerts.faktory_busy_job_older_than_usual,
        alerts.faktory_busy_without_completions,
        alerts.faktory_reservations_expired,
    )
    ended = f"increase({see.pair('faktory_job_duration_seconds_count')}[{idle.window}])"
    return Row(
        "Running",
        [
            make.graph(
                panels.RESERVATION_USED,
                "Reservation used",
                """
                The largest share of its reservation that a busy job has used, by queue and job type. At 100 % the job
                is given to another worker while the first still works on it. See whether it hangs, or needs a longer
                reserve_for.
                """,
                Query(
                    expr=see.or_nothing_busy(see.pair("faktory_busy_job_reservation_used_ratio")),
                    legend=PAIR,
                ),
                unit=PercentUnit,
                size=(12, 8),
                steps=levels.reservation_used,
            ),
            make.graph(
                panels.AGE_AGAINST_USUAL,
                "Oldest busy job",
                f"""
                How long the oldest busy job of each kind is held. The alert fires above the dashed line,
                {older.factor:g} times what 99 % of its kind took within {older.history}, and above
                {older.seconds:g} s. It may hang, and holds its worker's place: see what it waits for.
                """,
                Query(expr=see.or_nothing_busy(see.pair("faktory_busy_job_oldest_age_seconds")), legend=PAIR),
                Query(
                    expr=f"{older.factor:.15g} * {see.pair(recording.USUAL)}",
                    legend=f"alert above, {PAIR}",
                    compared=True,
                ),
                unit=Seconds,
                size=(12, 8),
                steps=above((older.seconds, older.severity)),
            ),
            make.graph(
                panels.BUSY_AND_COMPLETED,
                "Busy and completed jobs",
                f"""
                Jobs that workers hold, and on the right those that ended within {idle.window}. Busy workers whose
                queue completes nothing look well on every other graph. See what these jobs wait for: a lock, a
                database, an outside service.
                """,
                Query(expr=see.or_nothing_busy(see.queue(recording.BUSY)), legend=f"busy, {QUEUE}"),
                Query(
                    expr=see.or_none_there(f"sum without (jobtype) ({ended})"),
                    legend=f"ended within {idle.window}, {QUEUE}",
                    unit="none",
                    compared=True,
                    steps=Steps(base=COLORS[idle.severity], steps=((1, GOOD),)),
                ),
                unit=Short,
                size=(12, 8),
            ),
            make.graph(
                panels.EXPIRED,
                f"Reservations that ended within {expired.window}",
                """
                Jobs that were taken back because their reservation ended. They go to another worker; where the first
                one still lives they run twice. See which jobs outlive their reserve_for, and which workers crashed.
                """,
                Query(expr=grown(see.server("faktory_reservations_expired_total"), expired.window), legend=SERVER),
                unit=Short,
                size=(12, 8),
                steps=above((1, expired.severity)),
                whole=True,
            ),
        ],
    )


def _durations(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    buckets = see.pair("faktory_job_duration_seconds_bucket")
    took = per_second(see.pair("faktory_job_duration_seconds_sum"))
    ended = per_second(see.pair("faktory_job_duration_seconds_count"))
    ages = see.queue("faktory_busy_job_age_seconds_bucket")
    return Row(
        "Ages and durations",
        [
            make.heat(
                AGES,
                "Ages of the jobs that are busy",
                """
                How many busy jobs have which age, at each time. A band that climbs is jobs that do not end: most often
                all wait for the same thing. See the oldest kind above.
                """,
                f"sum by (le) ({ages})",
                size=(12, 9),
            ),
            make.heat(
                Panel(QUEUES, 102),
                "Durations of the jobs that ended",
                """
                How many executions took how long, by when they ended. A second band is a second kind of job, or a
                timeout. Executions shorter than one poll may be missing here.
                """,
                f"sum by (le) (increase({buckets}[$__rate_interval]))",
                size=(12, 9),
            ),
            make.graph(
                Panel(QUEUES, 103),
                "Durations",
                """
                How long half, 95 % and 99 % of the executions took at most; dots, where there are any, are single
                executions with their trace. When only the last line rises, few jobs are slow: see those. When all rise,
                everything is slow.
                """,
                *(
                    Query(
                        expr=quantile(share, buckets, "job, instance, server, queue"),
                        legend=f"{share:.0%}, {QUEUE}",
                        exemplar=True,
                    )
                    for share in (0.5, 0.95, 0.99)
                ),
                unit=Seconds,
                size=(8, 8),
            ),
            make.graph(
                Panel(QUEUES, 104),
                "Completions by job type",
                """
                Executions that were seen to end per second, by queue and job type. One that falls to nothing while its
                jobs are busy hangs. Executions shorter than one poll may be missing here.
                """,
                Query(expr=ended, legend=PAIR),
                unit=OpsPerSecond,
                size=(8, 8),
            ),
            make.graph(
                Panel(QUEUES, 105),
                "Work by job type",
                """
                Jobs that are busy on average, by what the ended ones took: which type fills the workers. When one
                grows, it takes the place of all others. See whether there are more of them or they take longer.
                """,
                Query(expr=took, legend=PAIR),
                unit=Short,
                size=(8, 8),
                stacked=True,
            ),
        ],
    )


def _told_by_statsd(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    failing = settings.alerts.faktory_job_type_failing
    by_queue = "job, instance, server, queue"
    told, observed = (see.pair(f"faktory_job_{name}_seconds_bucket") for name in ("execution", "duration"))
    return Row(
        "What the server tells by StatsD",
        [
            make.graph(
                panels.JOB_TYPE_FAILED,
                "Failed share by job type",
                f"""
                Share of the executions of each type within {failing.window} that failed. Above the line, and from
                {failing.executions} executions up, the alert fires: broken code most often, or one outside thing that
                only this type needs. See which error they share.
                """,
                Query(expr=see.pair(recording.JOB_TYPE_FAILED), legend=PAIR),
                unit=PercentUnit,
                size=(8, 8),
                steps=above((failing.failed_share, failing.severity)),
            ),
            make.graph(
                ENDED_BY_TYPE,
                "Executions by job type, as told",
                """
                Executions that ended per second, the shortest too, and dashed those of them that failed. A type that
                falls to nothing while its queue grows has no worker. See the failed ones' errors among the retries.
                """,
                Query(expr=per_second(see.pair("faktory_job_executions_total")), legend=f"ended, {PAIR}"),
                Query(expr=per_second(see.pair("faktory_job_failures_total")), legend=f"failed, {PAIR}", compared=True),
                unit=OpsPerSecond,
                size=(8, 8),
            ),
            make.graph(
                TOOK_BY_QUEUE,
                "Durations, told and observed",
                """
                How long half and 95 % of the executions took at most, as the server measured it, and dashed as
                Forewarn observed it. Observed ones leave out what is shorter than a poll, so they are higher where
                jobs are short. Where they differ otherwise, packets may be lost: see Forewarn's dashboard.
                """,
                *(
                    Query(
                        expr=quantile(share, buckets, by_queue),
                        legend=f"{share:.0%} {name}, {QUEUE}",
                        exemplar=True,
                        compared=buckets == observed,
                    )
                    for name, buckets in (("told", told), ("observed", observed))
                    for share in (0.5, 0.95)
                ),
                unit=Seconds,
                size=(8, 8),
            ),
            make.graph(
                LOCKED,
                "Expired and unique jobs",
                """
                Jobs thrown away because they waited too long, unique jobs that took their lock, and those turned away
                because another held it. Turning away is what locks are for; it is wrong where none of that type runs.
                See then which job holds the lock.
                """,
                Query(expr=grown(see.pair("faktory_job_expirations_total")), legend=f"expired, {PAIR}"),
                Query(expr=grown(see.pair("faktory_unique_locks_total")), legend=f"locked, {PAIR}"),
                Query(expr=grown(see.pair("faktory_unique_denials_total")), legend=f"turned away, {PAIR}"),
                unit=Short,
                size=(8, 8),
                whole=True,
                bars=True,
            ),
            make.graph(
                JOBS_TOLD,
                "Jobs, as told",
                """
                Jobs in each queue and dashed in each set, as the server counts them every 30 seconds. They should be
                those of the graphs above. Where they are not, Forewarn may read another server's Redis: see its
                settings.
                """,
                Query(expr=see.queue("faktory_statsd_queue_jobs"), legend=QUEUE),
                Query(expr=see.server("faktory_statsd_set_jobs"), legend=f"{{{{set}}}}, {SERVER}", compared=True),
                unit=Short,
                size=(8, 8),
            ),
            make.graph(
                WAIT_TOLD,
                "Wait in the queue, as told",
                """
                How long the oldest job of each queue has waited, as the server tells it for the queues that its
                queueLatency names; the line is the objective. Alerts go by the graph above, which needs no StatsD. See
                there for what to do.
                """,
                Query(expr=see.queue("faktory_statsd_queue_latency_seconds"), legend=QUEUE),
                unit=Seconds,
                size=(8, 8),
                steps=levels.latency,
            ),
        ],
    )
