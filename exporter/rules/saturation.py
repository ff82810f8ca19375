"""How near the server is to what it cannot exceed."""

from __future__ import annotations

from msgspec.structs import replace

from exporter.rules import panels, recording
from exporter.rules.rule import (
    ON_PAIR,
    ON_QUEUE,
    ON_SERVER,
    PAIR,
    QUEUE,
    SERVER,
    AlertRule,
    alert,
    selector,
    told,
)
from exporter.rules.settings import RuleSettings, Windowed


def alerts(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts of this group, in the order in which they matter."""
    return (*_connections(settings), *_silence(settings), *_process(settings), *_work(settings))


def _connections(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    chosen = settings.alerts
    limit = chosen.faktory_connections_near_limit
    refused = chosen.faktory_connections_refused
    peer = chosen.faktory_peer_holds_connections
    one_peer = selector(settings.selector, 'peer!="(other)"')
    used = f"{recording.CONNECTIONS_USED}{s}"
    near = alert(
        "FaktoryConnectionsNearLimit",
        limit,
        f"{used} > {limit.used_share:.15g}",
        by=SERVER,
        summary="Faktory {{ $labels.server }} runs out of connections.",
        description="""
            {{ $value | humanizePercentage }} of its connection limit is used. At the limit every further client is
            refused: producers cannot push, and workers that restart cannot come back. See which peer holds the
            connections, and whether they grow.
        """,
        panel=panels.CONNECTIONS_USED,
    )
    return (
        replace(
            near,
            severity="critical",
            expr=f"{used} > {limit.critical_share:.15g}",
            pending=limit.critical_for,
            summary="Faktory {{ $labels.server }} has hardly a connection left.",
        ),
        near,
        alert(
            "FaktoryConnectionsRefused",
            refused,
            _refused(settings, refused),
            by=SERVER,
            summary="Faktory {{ $labels.server }} refuses connections.",
            description="""
                Refusals within <window>: {{ $value | printf "%.0f" }} (those of all clients where Forewarn reads the
                server's log, else only its own). The limit is reached, and producers and workers are refused alike.
                Close what leaks connections, or end the process that holds most of them.
            """,
            panel=panels.CONNECTIONS_REFUSED,
        ),
        alert(
            "FaktoryPeerHoldsConnections",
            peer,
            f"faktory_peer_connections{one_peer}\n"
            f"  / ignoring (peer) group_left () faktory_connections{s} > {peer.peer_share:.15g}\n"
            f"and {ON_SERVER} {used} > {peer.used_share:.15g}\n"
            f"and {ON_SERVER} count without (peer) (faktory_peer_connections{s} > 0) > 1",
            by=(*SERVER, "peer"),
            summary="One peer holds most of the connections of Faktory {{ $labels.server }}.",
            description="""
                {{ $labels.peer }} holds {{ $value | humanizePercentage }} of all connections. A pool without a
                bound, or a process that connects anew for each job, can lock everybody else out. See what runs at
                that address.
            """,
            panel=panels.PEERS,
        ),
    )


def _refused(settings: RuleSettings, entry: Windowed) -> str:
    """Return how many were refused: everybody, as the server's log tells, or where it is not read Forewarn itself."""
    s = selector(settings.selector)
    logged = selector(settings.selector, 'event="connection_refused"')
    everybody = f"sum without (event) (increase(faktory_log_events_total{logged}[{entry.window}]))"
    return f"round({everybody}) > 0\nor round(increase(faktory_connections_refused_total{s}[{entry.window}])) > 0"


_STANDS_STILL = """
    Connections that wait to be accepted: {{ $value | humanize }}, for <critical_for> or longer. A healthy server
    accepts at once: this one stands still, or has given up. Those that are connected may go on as if nothing were
    wrong. See its file descriptors, and whether it is stopped; most often only a restart helps.
"""


def _process(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts about what the kernel tells of the server, which it does while the server stands still."""
    s = selector(settings.selector)
    chosen = settings.alerts
    queue, files = chosen.faktory_accept_queue_filling, chosen.faktory_process_file_descriptors
    waiting = f"faktory_accept_queue_connections{s}"
    lagging = alert(
        "FaktoryAcceptQueueFilling",
        queue,
        f"min_over_time({waiting}[{queue.window}]) >= {queue.connections}",
        by=SERVER,
        summary="Faktory {{ $labels.server }} is slow to let new connections in.",
        description="""
            Connections that waited to be accepted all the time within <window>, at least: {{ $value | printf "%.0f" }}.
            A healthy server accepts at once: this one lags behind. See its processor time, who connects so often, and
            whether it accepts any at all.
        """,
        panel=panels.ACCEPT_QUEUE,
    )
    used = f"{recording.FILES_USED}{s}"
    near = alert(
        "FaktoryProcessFileDescriptors",
        files,
        f"{used} > {files.used_share:.15g}",
        by=SERVER,
        summary="Faktory {{ $labels.server }} runs out of file descriptors.",
        description="""
            {{ $value | humanizePercentage }} of those that it may have are open. At the bound it accepts no connection
            any more, until it is restarted, and its log does not tell. See whether connections grow, and raise the
            bound of its service.
        """,
        panel=panels.FILES_USED,
    )
    return (
        replace(
            lagging,
            severity="critical",
            expr=f"{waiting} >= {queue.critical_connections}",
            pending=queue.critical_for,
            summary="Faktory {{ $labels.server }} lets no new connection in.",
            description=told(_STANDS_STILL, queue),
        ),
        lagging,
        replace(
            near,
            severity="critical",
            expr=f"{used} > {files.critical_share:.15g}",
            pending=files.critical_for,
            summary="Faktory {{ $labels.server }} has hardly a file descriptor left.",
        ),
        near,
    )


def _silence(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts about a server that told by StatsD and tells no more; one that never did has no age."""
    s = selector(settings.selector)
    heard = selector(settings.selector, 'collector="statsd"')
    chosen = settings.alerts
    full = chosen.faktory_statsd_silent_near_limit
    silent = chosen.faktory_statsd_silent
    age = f"faktory_statsd_last_packet_age_seconds{s}"
    used = f"max_over_time({recording.CONNECTIONS_USED}{s}[{full.window}])"
    up = f"and {ON_SERVER} faktory_up{s} == 1"
    # Whoever does not listen hears nothing, and that has an alert of its own. It may also have failed at what matters
    # less, such as passing packets on: a page must not be lost by that.
    listening = f"unless {ON_SERVER} forewarn_collector_up{heard} == 0"
    return (
        alert(
            "FaktoryStatsdSilentNearLimit",
            full,
            f"{age} > {full.seconds:.15g}\nand {ON_SERVER} {used} > {full.used_share:.15g}\n{up}",
            by=SERVER,
            summary="Faktory {{ $labels.server }} is near its connection limit and has fallen silent.",
            description="""
                It has told nothing by StatsD for {{ $value | humanizeDuration }}, and its connections were near the
                limit within <window>: most likely its clients hold every way to its own Redis. Pushes and fetches hang
                or fail next. Close what leaks connections, at once.
            """,
            panel=panels.STATSD_SILENCE,
        ),
        alert(
            "FaktoryStatsdSilent",
            silent,
            f"{age} > {silent.seconds:.15g}\n{up}\n{listening}",
            by=SERVER,
            summary="Faktory {{ $labels.server }} is up, but tells nothing more by StatsD.",
            description="""
                Its last packet came {{ $value | humanizeDuration }} ago; Enterprise sends some every 30 seconds.
                Either it no longer reaches its Redis, or its packets no longer reach Forewarn: then nothing is told of
                failures by job type. See first whether pushes and fetches work.
            """,
            panel=panels.STATSD_SILENCE,
        ),
    )


def _work(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    redis = selector(settings.selector, 'collector="redis"')
    chosen = settings.alerts
    throttle = chosen.faktory_throttle_saturated
    reservation = chosen.faktory_reservation_nearly_used
    slow = chosen.faktory_redis_slow
    far = chosen.faktory_redis_round_trip_high
    return (
        alert(
            "FaktoryThrottleSaturated",
            throttle,
            f"faktory_throttle_saturation_ratio{s} >= {throttle.used_share:.15g}\n"
            f"and {ON_QUEUE} faktory_throttle_waiting_jobs{s} > 0\n"
            f"unless {ON_QUEUE} faktory_queue_paused{s} == 1",
            by=(*QUEUE, "scope"),
            summary="""
                The throttle of queue {{ $labels.queue }} on Faktory {{ $labels.server }} is full, and jobs wait
                behind it.
            """,
            description="""
                {{ $value | humanizePercentage }} of the {{ $labels.scope }} throttle is in use. Jobs of this queue
                wait, even where workers are free. See whether its jobs take longer than usual, or are left over
                from crashed workers: those count as running until their reservation ends.
            """,
            panel=panels.THROTTLE_SATURATION,
        ),
        alert(
            "FaktoryReservationNearlyUsed",
            reservation,
            f"faktory_busy_job_reservation_used_ratio{s} > {reservation.used_share:.15g}\n"
            f"unless {ON_PAIR} faktory_busy_jobs{s} == faktory_orphaned_jobs{s}",
            by=PAIR,
            summary="A {{ $labels.jobtype }} job on Faktory {{ $labels.server }} is about to run twice.",
            description="""
                A job of queue {{ $labels.queue }} has used {{ $value | humanizePercentage }} of its reservation.
                When it ends the job is given to another worker while the first still works on it. See whether it
                hangs, or needs a longer reserve_for.
            """,
            panel=panels.RESERVATION_USED,
        ),
        alert(
            "FaktoryRedisSlow",
            slow,
            f"forewarn_collector_duration_seconds{redis} > {slow.seconds:.15g}",
            by=(*SERVER, "collector"),
            summary="Redis of Faktory {{ $labels.server }} answers slowly.",
            description="""
                Reading the queues and the working set took {{ $value | humanizeDuration }}. Faktory runs every
                command through the same Redis, so pushes and fetches are slow too. See its slow log, its
                persistence and the machine's disk and memory.
            """,
            panel=panels.STORE,
        ),
        alert(
            "FaktoryRedisRoundTripHigh",
            far,
            f"faktory_redis_round_trip_seconds{s} > {far.seconds:.15g}",
            by=SERVER,
            summary="Faktory {{ $labels.server }} waits long for its Redis.",
            description="""
                An answer of Redis takes {{ $value | humanizeDuration }}, as Faktory itself measures it, again and
                again. Every push and fetch waits for several. Either Redis is slow, or too many connections want it at
                once: compare with how long Forewarn takes to read it.
            """,
            panel=panels.ROUND_TRIP,
        ),
    )
