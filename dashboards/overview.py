"""Is it OK? The first page at night: what is wrong, where, and whether the facts can be trusted."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.units import BytesIEC, DateTimeFromNow, OpsPerSecond, PercentUnit, Seconds, Short

from dashboards.alerts import WATCHDOG, firing, firing_since
from dashboards.board import Row, board
from dashboards.declared import BUSIEST_THROTTLE, LAST_CRASHES, LOGGED, PROCESS_AGE, PROCESS_MEMORY, REDIS_TOLD
from dashboards.links import known_crash_template, row_address, runbook_template, to_detail
from dashboards.panels import UP_OR_DOWN, Column, Opens, Panels
from dashboards.queries import BY_SERVER, QUEUE, SERVER, Query, Select, grown, per_second, quantile
from dashboards.thresholds import COLORS, GOOD, Levels, Steps, above
from exporter.rules import panels, recording
from exporter.rules.panels import OVERVIEW, Panel
from exporter.rules.rule import ON_QUEUE, ON_SERVER
from exporter.rules.settings import RuleSettings
from exporter.settings import parse_duration


def dashboard(settings: RuleSettings) -> Dashboard:
    """Return the overview."""
    return board(
        settings,
        OVERVIEW,
        "Faktory / Overview",
        """
        Is it OK? Colours change where the alerts fire. Every tile is the worst of the servers chosen above; the table
        of servers tells which one it is.
        """,
        _tiles(settings),
        _wrong(settings),
        _servers(settings),
        _deaths(settings),
        _work(settings),
        _resources(settings),
    )


def _to_queues() -> DashboardLink:
    return to_detail(panels.QUEUES, "Queues and job types")


def _to_workers() -> DashboardLink:
    return to_detail(panels.WORKERS, "Workers and connections")


def _to_forewarn() -> DashboardLink:
    return to_detail(panels.SELF, "Forewarn itself")


def _longest_wait(see: Select) -> str:
    """Return the latency of the queues that are not paused: what a paused queue's jobs wait for is somebody's will."""
    latency, paused = see.server("faktory_queue_latency_seconds"), see.server("faktory_queue_paused")
    return see.or_none_there(f"max {BY_SERVER} ({latency} unless {ON_QUEUE} {paused} == 1)")


def _waiting(see: Select) -> str:
    return see.or_none_there(f"sum {BY_SERVER} ({see.server('faktory_queue_jobs')})")


def _failed_share(see: Select, settings: RuleSettings) -> str:
    """Return the share of executions that failed; 0 where there was none."""
    window = settings.alerts.faktory_retry_storm.window
    idle = f"increase({see.server('faktory_jobs_processed_total')}[{window}]) == 0"
    return f"{see.server(recording.FAILED_SHARE)}\nor {ON_SERVER} {idle}"


def _reservation_used(see: Select) -> str:
    used = f"max {BY_SERVER} ({see.server('faktory_busy_job_reservation_used_ratio')})"
    return f"{used}\nor {ON_SERVER} {see.nothing_busy()}"


def _orphans(see: Select) -> str:
    orphans = f"sum {BY_SERVER} ({see.server('faktory_orphaned_jobs')})"
    return f"{orphans}\nor {ON_SERVER} {see.nothing_busy()}"


def _tiles(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    backlog = settings.alerts.faktory_backlog_growing
    crashes = settings.alerts.faktory_worker_crash_rate_high.window
    critical = f"count({firing(see, settings, _CRITICAL)})\nor vector(0)"
    others = f"count({firing(see, settings, _OTHERS)})\nor vector(0)"
    return Row(
        "Is it OK?",
        [
            make.stat(
                Panel(OVERVIEW, 100),
                "Firing alerts",
                """
                Alerts that fire now, by severity. One critical alert needs somebody at once. The table below names
                them, with their runbooks.
                """,
                Query(expr=critical, legend="critical", steps=above((1, "critical"))),
                Query(expr=others, legend="others", steps=above((1, "warning"))),
            ),
            make.stat(
                Panel(OVERVIEW, 101),
                "Servers",
                """
                Whether every chosen server answered the last poll. Down: no job is taken or handed out. See the table
                of servers for which one it is.
                """,
                Query(expr=f"min({see.server('faktory_up')})"),
                steps=levels.up,
                values={0: ("DOWN", "red"), 1: ("all up", "green")},
            ),
            make.stat(
                Panel(OVERVIEW, 102),
                "Age of these facts",
                """
                How long ago the last poll ended. Everything on this page was true then, and nothing is known since.
                When it grows see Forewarn's own dashboard.
                """,
                Query(expr=f"max({see.server('forewarn_snapshot_age_seconds')})"),
                unit=Seconds,
                steps=levels.snapshot_age,
                links=[_to_forewarn()],
            ),
            make.stat(
                Panel(OVERVIEW, 103),
                "Failed executions",
                f"""
                Share of the executions within {settings.alerts.faktory_retry_storm.window} that failed, on the worst
                server. Each comes back as a retry and takes the place of other work. See which error they share.
                """,
                Query(expr=f"max({_failed_share(see, settings)})"),
                unit=PercentUnit,
                steps=levels.failed_share,
            ),
            make.stat(
                Panel(OVERVIEW, 104),
                "Longest wait",
                """
                How long the oldest job waits in a queue that is not paused. This is what users notice. See the
                queues' dashboard for which queue it is.
                """,
                Query(expr=f"max({_longest_wait(see)})"),
                unit=Seconds,
                steps=levels.latency,
                links=[_to_queues()],
            ),
            make.stat(
                Panel(OVERVIEW, 105),
                "Jobs waiting",
                f"""
                Jobs that wait in all queues, paused ones among them. Blue from {backlog.jobs} up: enough to look
                whether a queue grows, and no alarm by itself. See the queues' dashboard.
                """,
                Query(expr=f"sum({_waiting(see)})"),
                steps=above((backlog.jobs, "info")),
                links=[_to_queues()],
            ),
            make.stat(
                Panel(OVERVIEW, 106),
                "Connections used",
                """
                Share of the connection limit in use, on the worst server. At the limit every further client is
                refused. See the dashboard of workers and connections for who holds them.
                """,
                Query(expr=f"max({see.server(recording.CONNECTIONS_USED)})"),
                unit=PercentUnit,
                steps=levels.connections_used,
                when_empty="limit unknown",
                links=[_to_workers()],
            ),
            make.stat(
                Panel(OVERVIEW, 107),
                "Workers",
                """
                Worker processes registered with the server that has the fewest. Without any nothing runs. See why they
                ended, and whether they can reach the server.
                """,
                Query(expr=f"min({see.server('faktory_workers')})"),
                steps=levels.workers,
                links=[_to_workers()],
            ),
            make.stat(
                Panel(OVERVIEW, 108),
                f"Worker crashes within {crashes}",
                """
                Workers that went while they held jobs, on all chosen servers. Their jobs are lost to everybody until
                their reservations end. Forewarn's log names each worker and its jobs.
                """,
                Query(expr=f"sum({grown(see.server('faktory_worker_crashes_total'), crashes)})"),
                steps=levels.crashes,
                links=[_to_workers()],
            ),
            make.stat(
                Panel(OVERVIEW, 109),
                "Orphaned jobs",
                """
                Jobs still reserved for a worker that is gone. Nobody works on them, and they hold their place in a
                throttle. They come back when their reservation ends.
                """,
                Query(expr=f"sum({_orphans(see)})"),
                steps=levels.orphans,
                links=[_to_workers()],
            ),
            make.stat(
                Panel(OVERVIEW, 110),
                "Most reservation used",
                """
                The largest share of its reservation that a busy job has used. At 100 % the job is given to another
                worker and runs twice. See the queues' dashboard for which job it is.
                """,
                Query(expr=f"max({_reservation_used(see)})"),
                unit=PercentUnit,
                steps=levels.reservation_used,
                links=[_to_queues()],
            ),
            make.stat(
                BUSIEST_THROTTLE,
                "Busiest throttle",
                """
                The largest share of a throttle in use. When it is full, jobs of its queue wait although workers are
                free. See the throttles' dashboard for what waits behind it.
                """,
                Query(expr=f"max({see.server('faktory_throttle_saturation_ratio')})"),
                unit=PercentUnit,
                steps=levels.throttle_used,
                when_empty="no throttle",
                links=[to_detail(panels.THROTTLES, "Throttles")],
            ),
        ],
    )


_CRITICAL = 'severity="critical"'
_OTHERS = 'severity=~"warning|info"'


def _wrong(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    told = {
        "alertname": "Alert",
        "severity": "Severity",
        "server": "Server",
        "instance": "Forewarn",
        "queue": "Queue",
        "jobtype": "Job type",
        "collector": "Collector",
        "peer": "Peer",
        "set": "Set",
        "reason": "Reason",
        "scope": "Scope",
        "component": "Component",
        "known": "Known",
    }
    return Row(
        "What is wrong",
        [
            make.table(
                Panel(OVERVIEW, 120),
                "Firing alerts",
                """
                What fires now for the servers chosen above; a click on its name opens its runbook. ForewarnWatchdog
                must always be here: without it an empty table means nothing, for then alerting itself is broken.
                """,
                Column(
                    title="Began",
                    expr=f"1000 * max by ({', '.join(told)}) ({firing_since(see, settings)})",
                    unit=DateTimeFromNow,
                ),
                keys=told,
                size=(16, 9),
                opens=Opens("alertname", "Open its runbook", runbook_template(settings)),
                sorted_by="Severity",
                largest_first=False,
                when_empty="not even the watchdog: alerting is broken, or the rules are not loaded",
            ),
            make.timeline(
                panels.WATCHDOG,
                "Alerting works",
                """
                The alert that always fires. A gap means that Prometheus did not evaluate the rules: no other alert
                could fire then either. See Prometheus's own rules page and its log.
                """,
                Query(expr=WATCHDOG, legend="{{alertname}}"),
                values={1: ("evaluated", GOOD)},
                steps=Steps(),
                size=(8, 9),
            ),
        ],
    )


def _servers(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    looping, restarted = settings.alerts.faktory_crash_looping, settings.alerts.faktory_restarted
    restarts = see.server("faktory_restarts_total")
    keys = {
        "server": "Server",
        "instance": "Forewarn",
        "job": "Job",
        "version": "Version",
        "edition": "Edition",
    }
    return Row(
        "Servers",
        [
            make.table(
                Panel(OVERVIEW, 121),
                "Servers",
                """
                One row for each chosen server, coloured where alerts fire. An empty cell is not known, which is not
                zero. A click on a name shows that server alone.
                """,
                Column(
                    title="Up",
                    expr=f"max {BY_SERVER} ({see.server('faktory_up')})",
                    steps=levels.up,
                    values=UP_OR_DOWN,
                ),
                Column(
                    title="Running for",
                    expr=f"time() - max {BY_SERVER} ({see.server('faktory_start_time_seconds')})",
                    unit=Seconds,
                ),
                Column(
                    title="Connections used",
                    expr=f"max {BY_SERVER} ({see.server(recording.CONNECTIONS_USED)})",
                    unit=PercentUnit,
                    steps=levels.connections_used,
                ),
                Column(
                    title="Workers",
                    expr=f"max {BY_SERVER} ({see.server('faktory_workers')})",
                    steps=levels.workers,
                ),
                Column(title="Waiting", expr=f"max {BY_SERVER} ({_waiting(see)})"),
                Column(
                    title="Longest wait",
                    expr=f"max {BY_SERVER} ({_longest_wait(see)})",
                    unit=Seconds,
                    steps=levels.latency,
                ),
                Column(
                    title="Most reservation used",
                    expr=f"max {BY_SERVER} ({_reservation_used(see)})",
                    unit=PercentUnit,
                    steps=levels.reservation_used,
                ),
                Column(title="Orphaned jobs", expr=f"max {BY_SERVER} ({_orphans(see)})", steps=levels.orphans),
                Column(
                    title="Failed",
                    expr=f"max {BY_SERVER} ({_failed_share(see, settings)})",
                    unit=PercentUnit,
                    steps=levels.failed_share,
                ),
                Column(
                    expr=f"max by (job, instance, server, version, edition) ({see.server('faktory_info')})",
                    for_labels=True,
                ),
                keys=keys,
                size=(24, 7),
                opens=Opens("server", "Show this server alone", row_address(OVERVIEW, ("job", "instance", "server"))),
                sorted_by="Connections used",
                when_empty="no server is watched",
            ),
            make.timeline(
                panels.SERVER_UP,
                "Server answers",
                """
                Whether each poll reached the server. While it is down no job is taken or handed out, and producers
                lose what they do not keep. See whether the process runs and what it printed last.
                """,
                Query(expr=see.server("faktory_up")),
                values=UP_OR_DOWN,
                steps=levels.up,
                size=(12, 7),
            ),
            make.graph(
                panels.SERVER_STARTS,
                "Restarts",
                f"""
                Restarts within {restarted.window}, and within {looping.window} where {looping.restarts} mean a crash
                loop. Each breaks every connection and forgets every worker. Read what the process printed before it
                died.
                """,
                Query(
                    expr=grown(restarts, looping.window),
                    legend=f"within {looping.window}, {SERVER}",
                ),
                Query(
                    expr=grown(restarts, restarted.window),
                    legend=f"within {restarted.window}, {SERVER}",
                    compared=True,
                ),
                unit=Short,
                size=(12, 7),
                steps=levels.restarts,
                whole=True,
            ),
        ],
    )


def _deaths(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    alerts = settings.alerts
    crashed, silent, looping = (
        alerts.faktory_process_crashed,
        alerts.faktory_process_died_unexplained,
        alerts.faktory_process_crash_loop,
    )
    risk, panic, race, lost = (
        alerts.faktory_known_crash_risk,
        alerts.faktory_recovered_panic,
        alerts.faktory_data_race,
        alerts.faktory_job_lost,
    )
    crashes, events = see.server("faktory_process_crashes_total"), see.server("faktory_log_events_total", _LOSSES)
    started = see.server("faktory_process_start_time_seconds")
    return Row(
        "Why the process died",
        [
            make.graph(
                panels.PROCESS_CRASHES,
                "Crashes of the server",
                f"""
                Ends of the server's process that nobody asked for, by class, within {crashed.window}; dashed all of
                them within {looping.window}, of which {looping.crashes} are a crash loop. Each breaks every connection.
                The table beside names the function: stop what leads there, or update.
                """,
                Query(expr=grown(crashes, crashed.window), legend=f"{{{{class}}}}, {SERVER}"),
                Query(
                    expr=f"round(sum without (class) (increase({crashes}[{looping.window}])))",
                    legend=f"all, {SERVER}",
                    compared=True,
                ),
                unit=Short,
                size=(10, 8),
                steps=above((1, crashed.severity), (1, silent.severity), (looping.crashes, looping.severity)),
                whole=True,
            ),
            make.table(
                LAST_CRASHES,
                "Last crash of each class",
                """
                When the server last died of each class, and in which function outside Go's runtime. A click on a known
                incident opens what is known of it: what leads there, and which version is mended.
                """,
                Column(
                    title="Died",
                    expr=f"1000 * max by ({', '.join(_CRASH)})"
                    f" ({see.server('faktory_process_last_crash_timestamp_seconds')})",
                    unit=DateTimeFromNow,
                ),
                keys=_CRASH,
                size=(14, 8),
                opens=Opens("known", "Open what is known of it", known_crash_template(settings)),
                sorted_by="Died",
                when_empty="no crash, or nobody reads the server's output",
            ),
            make.timeline(
                panels.KNOWN_RISKS,
                "Known crashes that can befall it",
                """
                Whether the server's version has a known defect and what leads to it is in use: the crash can come at
                any time. No bar: it is not known whether it is in use. See the runbook for what to stop and which
                version is mended.
                """,
                Query(expr=see.server("faktory_known_crash_risk"), legend=f"{{{{known}}}}, {SERVER}"),
                values={0: ("no", GOOD), 1: ("can happen", COLORS[risk.severity])},
                steps=above((1, risk.severity)),
                size=(12, 7),
            ),
            make.graph(
                panels.SURVIVED,
                "Panics and races that it survived",
                f"""
                Panics that the server recovered from within {panic.window}, and data races that Go's race detector
                reported within {race.window}. Nothing died of them, but the same defect may kill it elsewhere. See
                Forewarn's /api/v1/incidents for the stacks.
                """,
                Query(
                    expr=grown(see.server("faktory_recovered_panics_total"), panic.window),
                    legend=f"recovered panics, {SERVER}",
                ),
                Query(expr=grown(see.server("faktory_data_races_total"), race.window), legend=f"data races, {SERVER}"),
                unit=Short,
                size=(12, 7),
                steps=above((1, panic.severity), (1, race.severity)),
                whole=True,
            ),
            make.graph(
                panels.LOSSES,
                "What its log says is lost",
                f"""
                Within {lost.window}: jobs that could be put nowhere, crashes of the server's Redis, and FLUSH commands,
                which delete everything. What is lost does not come back by itself. See the log for the lines around
                it, before more is lost.
                """,
                Query(expr=grown(events, lost.window), legend=f"{{{{event}}}}, {SERVER}"),
                unit=Short,
                size=(12, 7),
                steps=above(
                    (1, lost.severity),
                    (1, alerts.faktory_store_crashed.severity),
                    (1, alerts.faktory_flushed.severity),
                ),
                whole=True,
            ),
            make.graph(
                LOGGED,
                "What its log says",
                """
                Lines of the server's log that tell something, by event, within each step. A start without an order to
                stop before it is a crash. busy_page and stats_page are pages that can kill the server: see who loads
                them.
                """,
                Query(expr=grown(see.server("faktory_log_events_total")), legend=f"{{{{event}}}}, {SERVER}"),
                unit=Short,
                size=(12, 7),
                whole=True,
                bars=True,
            ),
            make.graph(
                PROCESS_AGE,
                "Age of the process",
                """
                How long the server's process has been running, as the kernel tells. Each fall to zero is a new process:
                a restart, or a crash. Empty where Forewarn cannot see the process: compare with the restarts above.
                """,
                Query(expr=f"time() - {started}"),
                unit=Seconds,
                size=(12, 7),
            ),
            make.graph(
                PROCESS_MEMORY,
                "Memory of the process",
                """
                Resident memory of the server's process, as the kernel counts it when it looks for one to kill. Dashed
                is what Go has taken from the system. A death without a word at a peak is most often the kernel's: give
                it more, or find what takes it.
                """,
                Query(expr=see.server("faktory_process_resident_memory_bytes"), legend=f"resident, {SERVER}"),
                Query(expr=see.server("faktory_memory_bytes"), legend=f"taken, {SERVER}", compared=True),
                unit=BytesIEC,
                size=(12, 7),
            ),
        ],
    )


_LOSSES = 'event=~"flushed|job_lost|store_crashed"'
_CRASH = {
    "server": "Server",
    "instance": "Forewarn",
    "job": "Job",
    "class": "Class",
    "component": "Component",
    "known": "Known incident",
}
"""What tells a crash, with the titles of its columns."""


def _work(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    alerts = settings.alerts
    dead, overdue = alerts.faktory_dead_jobs_growing, alerts.faktory_scheduler_stuck
    buckets = see.server("faktory_job_duration_seconds_bucket")
    dead_jobs = see.server("faktory_set_jobs", 'set="dead"')
    return Row(
        "Work: rate, errors, duration",
        [
            make.graph(
                Panel(OVERVIEW, 122),
                "Executions",
                """
                Executions that ended per second, and those of them that failed. When the first line falls while jobs
                wait, workers are missing or stuck. When the second rises, see which error they share.
                """,
                Query(expr=per_second(see.server("faktory_jobs_processed_total")), legend=f"ended, {SERVER}"),
                Query(expr=per_second(see.server("faktory_jobs_failed_total")), legend=f"failed, {SERVER}"),
                unit=OpsPerSecond,
                size=(8, 8),
            ),
            make.graph(
                panels.FAILED_SHARE,
                "Failed share",
                f"""
                Share of the executions within {alerts.faktory_retry_storm.window} that failed. Each comes back as a
                retry and takes the place of other work. Most often one dependency is away: see which error they share.
                """,
                Query(expr=_failed_share(see, settings)),
                unit=PercentUnit,
                size=(8, 8),
                steps=levels.failed_share,
            ),
            make.graph(
                Panel(OVERVIEW, 123),
                "Duration of executions",
                """
                How long executions took that ended at each time; dots, where there are any, are single executions with
                their trace. When it rises, jobs wait for something. See the queues' dashboard for which type it is.
                """,
                *(
                    Query(
                        expr=quantile(share, buckets, "job, instance, server"),
                        legend=f"{share:.0%} take less, {SERVER}",
                        exemplar=True,
                    )
                    for share in (0.5, 0.95, 0.99)
                ),
                unit=Seconds,
                size=(8, 8),
                links=[_to_queues()],
            ),
            make.graph(
                Panel(OVERVIEW, 124),
                "Wait in queues",
                """
                How long the oldest job of each queue has waited; the line is the latency objective. This is what
                users notice. See whether more is pushed than usual, or workers are missing.
                """,
                Query(expr=see.server("faktory_queue_latency_seconds"), legend=QUEUE),
                unit=Seconds,
                size=(8, 8),
                steps=levels.latency,
                links=[_to_queues()],
            ),
            make.graph(
                panels.SETS,
                "Sets",
                f"""
                Jobs that are scheduled, wait for a retry, are dead or at work; on the right those that died within
                {dead.window}. Nothing runs dead jobs again by itself. See their errors, and requeue those that still
                matter.
                """,
                Query(expr=see.server("faktory_set_jobs"), legend=f"{{{{set}}}}, {SERVER}"),
                Query(
                    expr=f"{dead_jobs} - min_over_time({dead_jobs}[{dead.window}])",
                    legend=f"died within {dead.window}, {SERVER}",
                    unit="none",
                    steps=above((dead.jobs, dead.severity)),
                ),
                unit=Short,
                size=(8, 8),
            ),
            make.graph(
                panels.OVERDUE,
                "Overdue jobs",
                """
                How long the earliest due job of a set is overdue. Faktory's scheduler looks every few seconds: when
                this grows it is stuck, and scheduled jobs and retries stay where they are. See the server's log and
                its Redis.
                """,
                Query(expr=see.server("faktory_set_overdue_seconds"), legend=f"{{{{set}}}}, {SERVER}"),
                unit=Seconds,
                size=(8, 8),
                steps=above((overdue.seconds, overdue.severity)),
            ),
        ],
    )


def _resources(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    alerts = settings.alerts
    memory, slow, away = alerts.faktory_memory_growing, alerts.faktory_redis_slow, alerts.faktory_redis_away
    far = alerts.faktory_redis_round_trip_high
    taken = see.server("faktory_memory_bytes")
    redis = 'collector="redis"'
    horizon = parse_duration(memory.horizon)
    return Row(
        "Resources: utilisation, saturation",
        [
            make.graph(
                Panel(OVERVIEW, 125),
                "Connections used",
                """
                Share of the connection limit in use; the lines are where the alerts fire. At the limit every further
                client is refused. See the dashboard of workers and connections for who holds them.
                """,
                Query(expr=see.server(recording.CONNECTIONS_USED)),
                unit=PercentUnit,
                size=(8, 8),
                steps=levels.connections_used,
                links=[_to_workers()],
            ),
            make.graph(
                Panel(OVERVIEW, 126),
                "Busy and waiting jobs",
                """
                Jobs that workers hold, and jobs that wait. Many waiting and few busy: workers are missing, a queue is
                paused, or a throttle is full. Many of both: there is more work than workers.
                """,
                Query(expr=see.server("faktory_set_jobs", 'set="working"'), legend=f"busy, {SERVER}"),
                Query(expr=_waiting(see), legend=f"waiting, {SERVER}"),
                unit=Short,
                size=(8, 8),
                links=[_to_queues()],
            ),
            make.graph(
                Panel(OVERVIEW, 127),
                "Commands",
                """
                Commands that the server runs per second. It falls to nothing when clients cannot reach it or its Redis
                hangs. When it rises without more executions, see who asks so often.
                """,
                Query(expr=per_second(see.server("faktory_commands_total"))),
                unit=OpsPerSecond,
                size=(8, 8),
            ),
            make.graph(
                panels.STORE,
                "Redis",
                """
                How long it took to read the queues from Redis, and on the right whether that worked (1) or not (0).
                Faktory runs every command through the same Redis. See its slow log, its persistence, and the machine's
                disk and memory.
                """,
                Query(expr=see.server("forewarn_collector_duration_seconds", redis), legend=f"took, {SERVER}"),
                Query(
                    expr=see.server("forewarn_collector_up", redis),
                    legend=f"answers, {SERVER}",
                    unit="bool_yes_no",
                    steps=Steps(base=COLORS[away.severity], steps=((1, GOOD),)),
                ),
                unit=Seconds,
                size=(12, 8),
                steps=above((slow.seconds, slow.severity)),
            ),
            make.graph(
                panels.SERVER_MEMORY,
                "Memory of the server",
                f"""
                Memory of the server process without its Redis, and what it will be in {memory.horizon} if it goes on as
                over the last {memory.window}. The alert fires where that crosses the dashed line. See whether
                connections grow as well: each costs memory.
                """,
                Query(expr=taken, legend=f"now, {SERVER}"),
                Query(
                    expr=f"predict_linear({taken}[{memory.window}], {horizon:.15g})",
                    legend=f"in {memory.horizon}, {SERVER}",
                ),
                Query(expr=f"{memory.factor:.15g} * {taken}", legend=f"alert above, {SERVER}", compared=True),
                unit=BytesIEC,
                size=(12, 8),
            ),
            make.graph(
                panels.ROUND_TRIP,
                "Redis as the server sees it",
                """
                How long the server waits for an answer of its Redis, as it tells by StatsD. Every push and fetch waits
                for several. High here and low in Forewarn's own reading: too many clients want Redis at once. High in
                both: Redis is slow.
                """,
                Query(expr=see.server("faktory_redis_round_trip_seconds")),
                unit=Seconds,
                size=(12, 8),
                steps=above((far.seconds, far.severity)),
            ),
            make.graph(
                REDIS_TOLD,
                "Memory and connections of Redis",
                """
                Memory of the server's Redis, as the server tells by StatsD, and on the right the connections to it.
                All jobs are in that memory: it grows with the queues and the sets. See which of them is long, before
                the machine has none left.
                """,
                Query(expr=see.server("faktory_redis_memory_bytes"), legend=f"memory, {SERVER}"),
                Query(
                    expr=see.server("faktory_redis_connections"),
                    legend=f"connections, {SERVER}",
                    unit="none",
                    compared=True,
                ),
                unit=BytesIEC,
                size=(12, 8),
            ),
        ],
    )
