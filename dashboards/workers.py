"""Workers and connections: who holds them, how many are left, who crashed and what was left behind."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.units import PercentUnit, Seconds, Short

from dashboards.board import Row, board
from dashboards.declared import OPEN_FILES, PEER_COUNTS, SOCKET_STATES
from dashboards.panels import Panels
from dashboards.queries import PAIR, SERVER, Query, Select, grown
from dashboards.thresholds import Levels, above, below
from exporter.rules import panels, recording
from exporter.rules.panels import WORKERS
from exporter.rules.rule import ON_QUEUE
from exporter.rules.settings import RuleSettings


def dashboard(settings: RuleSettings) -> Dashboard:
    """Return the dashboard of workers and connections."""
    return board(
        settings,
        WORKERS,
        "Faktory / Workers and connections",
        """
        How near the connection limit is and who holds the connections; whether the server lets anybody in; which
        workers are left, and who crashed.
        """,
        _connections(settings),
        _sockets(settings),
        _workers(settings),
        choose=("queue", "jobtype"),
    )


def _connections(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    alerts = settings.alerts
    filling, refused, peer = (
        alerts.faktory_connections_filling,
        alerts.faktory_connections_refused,
        alerts.faktory_peer_holds_connections,
    )
    silent, full = alerts.faktory_statsd_silent, alerts.faktory_statsd_silent_near_limit
    peers, open_now = see.server("faktory_peer_connections"), see.server("faktory_connections")
    logged = see.server("faktory_log_events_total", 'event="connection_refused"')
    by_peer = f"{{{{peer}}}} ({SERVER})"
    return Row(
        "Connections",
        [
            make.graph(
                panels.CONNECTIONS,
                "Connections",
                """
                Client connections that are open, and how many may be; those that the server tells by StatsD are dashed
                too. Without the limit's line it is not known, and no warning comes before clients are refused: set
                connections_limit in Forewarn's settings.
                """,
                Query(expr=open_now, legend=f"open, {SERVER}"),
                Query(expr=see.server("faktory_connections_limit"), legend=f"limit, {SERVER}", compared=True),
                Query(expr=see.server("faktory_statsd_connections"), legend=f"told, {SERVER}", compared=True),
                unit=Short,
                size=(8, 8),
            ),
            make.graph(
                panels.CONNECTIONS_USED,
                "Limit used",
                """
                Share of the connection limit in use; the lines are where the alerts fire. At the limit producers cannot
                push, and workers that restart cannot come back. See which peer holds the connections.
                """,
                Query(expr=see.server(recording.CONNECTIONS_USED)),
                unit=PercentUnit,
                size=(8, 8),
                steps=levels.connections_used,
            ),
            make.graph(
                panels.CONNECTIONS_TIME_LEFT,
                "Time until the limit",
                f"""
                When the limit is reached if connections go on growing as over the last {filling.window}. Empty while
                they do not grow. Below the line, and above {filling.used_share:.0%} of the limit, the alert fires: find
                what opens connections and does not close them.
                """,
                Query(expr=see.server(recording.CONNECTIONS_SECONDS_LEFT)),
                unit=Seconds,
                size=(8, 8),
                steps=below(filling.seconds_left, filling.severity),
            ),
            make.graph(
                panels.CONNECTIONS_REFUSED,
                f"Refusals within {refused.window}",
                """
                How often connections were refused at the limit: those of all clients where Forewarn reads the server's
                log, and Forewarn's own. Producers and workers are refused alike. Close what leaks connections, or end
                the process that holds most of them.
                """,
                Query(
                    expr=f"round(sum without (event) (increase({logged}[{refused.window}])))",
                    legend=f"of all, {SERVER}",
                ),
                Query(
                    expr=grown(see.server("faktory_connections_refused_total"), refused.window),
                    legend=f"of Forewarn, {SERVER}",
                ),
                unit=Short,
                size=(8, 8),
                steps=above((1, refused.severity)),
                whole=True,
            ),
            make.graph(
                panels.PEERS,
                "Share of each peer",
                f"""
                Which share of all open connections each address holds. The alert fires above the line when
                {peer.used_share:.0%} of the limit is used: a pool without a bound can lock everybody else out. See
                what runs at that address.
                """,
                Query(expr=f"{peers}\n  / ignoring (peer) group_left () {open_now}", legend=by_peer),
                unit=PercentUnit,
                size=(8, 8),
                steps=above((peer.peer_share, peer.severity)),
            ),
            make.graph(
                PEER_COUNTS,
                "Connections by peer",
                """
                Open connections by the address that they come from, one on the other. A colour that widens is what
                leaks. Behind a proxy the proxy is the peer: see its own connections then.
                """,
                Query(expr=peers, legend=by_peer),
                unit=Short,
                size=(8, 8),
                stacked=True,
            ),
            make.graph(
                panels.STATSD_SILENCE,
                "Silence of the server, and the limit",
                """
                How long ago the server's last StatsD packet came, and on the right the share of its connection limit in
                use. Enterprise sends some every 30 seconds. Both high at once: it most likely no longer gets to its own
                Redis. Close what leaks connections. Silent alone: see whether its packets reach Forewarn.
                """,
                Query(expr=see.server("faktory_statsd_last_packet_age_seconds"), legend=f"silent for, {SERVER}"),
                Query(
                    expr=see.server(recording.CONNECTIONS_USED),
                    legend=f"limit used, {SERVER}",
                    unit=PercentUnit,
                    compared=True,
                    steps=above((full.used_share, full.severity)),
                ),
                unit=Seconds,
                size=(24, 8),
                steps=above((silent.seconds, silent.severity), (full.seconds, full.severity)),
            ),
        ],
    )


def _sockets(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    alerts = settings.alerts
    queue, leak = alerts.faktory_accept_queue_filling, alerts.faktory_close_wait_leak
    files, filling = alerts.faktory_process_file_descriptors, alerts.faktory_process_file_descriptors_filling
    waiting = see.server("faktory_accept_queue_connections")
    leaving = see.server("faktory_sockets", 'state="close_wait"')
    floor = f"min_over_time({leaving}[{leak.window}]"
    return Row(
        "Sockets and files, as the kernel tells",
        [
            make.graph(
                panels.ACCEPT_QUEUE,
                "Connections not let in yet",
                f"""
                Connections that wait for the server to accept them, now and at least within {queue.window}; on the
                right how many may. A healthy server accepts at once. Some all the time: it lags behind. More and more:
                it has no file descriptor left, or stands still. See its processor time and whether it is stopped.
                """,
                Query(expr=f"min_over_time({waiting}[{queue.window}])", legend=f"all the time, {SERVER}"),
                Query(expr=waiting, legend=f"now, {SERVER}", compared=True),
                Query(
                    expr=see.server("faktory_accept_queue_limit"),
                    legend=f"may wait, {SERVER}",
                    unit="none",
                    compared=True,
                ),
                unit=Short,
                size=(8, 8),
                steps=above((queue.connections, queue.severity), (queue.critical_connections, "critical")),
            ),
            make.graph(
                panels.CLOSE_WAIT,
                "Left by clients, and not closed",
                f"""
                Sockets whose client has gone and that the server holds on to (close_wait): now, and at least within
                {leak.window}; dashed the same {leak.window} before. A least number that grows is a leak in the server.
                See whether its Redis answers, and what its goroutines wait for.
                """,
                Query(expr=f"{floor})", legend=f"all the time, {SERVER}"),
                Query(expr=leaving, legend=f"now, {SERVER}"),
                Query(expr=f"{floor} offset {leak.window})", legend=f"before, {SERVER}", compared=True),
                unit=Short,
                size=(8, 8),
                steps=above((leak.sockets, leak.severity)),
            ),
            make.graph(
                SOCKET_STATES,
                "Sockets by state",
                """
                Sockets of the server's command port by their TCP state, one on the other. syn_recv that grow: clients
                that do not finish their handshake, or a flood. time_wait that grow: clients that connect anew for each
                job. See which peer it is.
                """,
                Query(expr=see.server("faktory_sockets"), legend=f"{{{{state}}}}, {SERVER}"),
                unit=Short,
                size=(8, 8),
                stacked=True,
            ),
            make.graph(
                panels.FILES_USED,
                "File descriptors used",
                """
                Share of the file descriptors in use that the server may have; the lines are where the alerts fire. At
                the bound it accepts no connection any more until it is restarted. See whether connections grow, and
                raise the bound of its service.
                """,
                Query(expr=see.server(recording.FILES_USED)),
                unit=PercentUnit,
                size=(8, 8),
                steps=above((files.used_share, files.severity), (files.critical_share, "critical")),
            ),
            make.graph(
                panels.FILES_TIME_LEFT,
                "Time until the last file descriptor",
                f"""
                When the bound is reached if they go on growing as over the last {filling.window}. Empty while they do
                not grow. Below the line, and above {filling.used_share:.0%} of the bound, the alert fires: find what
                opens connections and does not close them.
                """,
                Query(expr=see.server(recording.FILES_SECONDS_LEFT)),
                unit=Seconds,
                size=(8, 8),
                steps=below(filling.seconds_left, filling.severity),
            ),
            make.graph(
                OPEN_FILES,
                "File descriptors",
                """
                Files and sockets that the server has open, and dashed how many it may. Each connection takes one, and
                its own to Redis another. A bound below twice the connection limit is too low: raise it.
                """,
                Query(expr=see.server("faktory_process_open_fds"), legend=f"open, {SERVER}"),
                Query(expr=see.server("faktory_process_max_fds"), legend=f"bound, {SERVER}", compared=True),
                unit=Short,
                size=(8, 8),
            ),
        ],
    )


def _workers(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    alerts = settings.alerts
    crashed, hung, rate = (
        alerts.faktory_worker_crashed,
        alerts.faktory_worker_hung,
        alerts.faktory_worker_crash_rate_high,
    )
    crashes = "faktory_worker_crashes_total"
    jobs, paused = see.queue("faktory_queue_jobs"), see.queue("faktory_queue_paused")
    return Row(
        "Workers",
        [
            make.graph(
                panels.WORKERS_AND_WAITING,
                "Workers and waiting jobs",
                """
                Registered worker processes, and on the right the jobs that wait in queues that are not paused. Work
                that waits without any worker is an alert. See why the workers ended, and whether they can reach the
                server.
                """,
                Query(expr=see.server("faktory_workers"), legend=f"workers, {SERVER}"),
                Query(
                    expr=see.or_none_there(f"sum without (queue) (\n  {jobs} unless {ON_QUEUE} {paused} == 1\n)"),
                    legend=f"waiting, {SERVER}",
                    unit="none",
                    compared=True,
                ),
                unit=Short,
                size=(12, 8),
                steps=levels.workers,
            ),
            make.graph(
                panels.CRASHES,
                "Crashes",
                f"""
                Workers that went while they held jobs: vanished, with their connections closed, within
                {crashed.window}; hung, without a heartbeat, within {hung.window}. Their jobs are lost to everybody
                until their reservations end. Forewarn's log names each worker and its jobs.
                """,
                Query(
                    expr=grown(see.server(crashes, 'reason="vanished"'), crashed.window),
                    legend=f"vanished within {crashed.window}, {SERVER}",
                ),
                Query(
                    expr=grown(see.server(crashes, 'reason="hung"'), hung.window),
                    legend=f"hung within {hung.window}, {SERVER}",
                ),
                unit=Short,
                size=(12, 8),
                steps=above((1, crashed.severity), (1, hung.severity)),
                whole=True,
            ),
            make.graph(
                panels.CRASH_RATE,
                "Crashes against workers",
                f"""
                Crashes within {rate.window} as a share of the workers that are registered; on the right their number.
                Above the line, and from {rate.crashes} crashes up, the alert fires. See what the crashed ones had in
                common: a job type, a machine, a deploy.
                """,
                Query(expr=see.server(recording.CRASHES_PER_WORKER), legend=f"share, {SERVER}"),
                Query(
                    expr=f"sum without (reason) ({grown(see.server(crashes), rate.window)})",
                    legend=f"number, {SERVER}",
                    unit="none",
                    compared=True,
                    steps=above((rate.crashes, rate.severity)),
                ),
                unit=PercentUnit,
                size=(12, 8),
                steps=above((rate.workers_share, rate.severity)),
            ),
            make.graph(
                panels.ORPHANS,
                "Orphaned jobs",
                """
                How long jobs of crashed workers lie idle, and on the right how many there are. Nobody works on them,
                and they hold their place in a throttle, until their reservation ends. See whether somebody waits for
                them.
                """,
                Query(
                    expr=_none_orphaned(see, see.pair("faktory_orphaned_job_oldest_age_seconds")),
                    legend=f"idle for, {PAIR}",
                ),
                Query(
                    expr=see.or_nothing_busy(see.pair("faktory_orphaned_jobs")),
                    legend=f"number, {PAIR}",
                    unit="none",
                    compared=True,
                ),
                unit=Seconds,
                size=(12, 8),
                steps=levels.orphan_age,
            ),
        ],
    )


def _none_orphaned(see: Select, expr: str) -> str:
    """Return ``expr``; and 0 for the kinds of jobs of which it is known that none is orphaned."""
    return see.or_nothing_busy(f"{expr}\nor {see.pair('faktory_orphaned_jobs')} == 0")
