"""What the alerts about the server, its limits and Forewarn itself tell, when, and in which words."""

from __future__ import annotations

from typing import Final

import pytest

from tests.rule_cases import PROCESS, SERVER, Case, Situation, fires, stays_silent, verify

RUNBOOKS: Final = "https://runbooks.example.com/forewarn/"
GRAFANA: Final = "https://grafana.example.com/d/"
OF_PROCESS: Final = "&from=now-3h&to=now&var-job=forewarn&var-instance=10.0.0.5%3A9386"
OF_SERVER: Final = OF_PROCESS + "&var-server=orders"

AVAILABILITY: Final = (
    Case(
        alert="FaktoryDown",
        labels=SERVER | {"severity": "critical"},
        series={"faktory_up": "1 | 0 | 1"},
        breach="5m",
        cure="10m",
        pending="1m",
        keep_firing_for="2m",
        summary="Faktory orders does not answer.",
        description="Neither its health page nor its command port answers Forewarn at 10.0.0.5:9386. No job is taken or"
        " handed out; producers get errors and lose what they do not keep. See whether the process runs and what it"
        " printed last.",
        runbook_url=RUNBOOKS + "FaktoryDown.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=1" + OF_SERVER,
        just_below={"faktory_up": "1"},
        guards={
            "Forewarn itself is away": {"faktory_up": "1 | stale | 1"},
            "it has never been polled": {"faktory_up": "_ | _ | 1"},
        },
        holds={
            "a scrape is missed": {"faktory_up": "1 | 0x3m stale 0 | 1"},
            "it answers once in between": {"faktory_up": "1 | 0x3m 1 0 | 1"},
        },
    ),
    Case(
        alert="FaktoryRedisAway",
        labels=SERVER | {"severity": "critical"},
        series={"faktory_up": "1", 'forewarn_collector_up{collector="redis"}': "1 | 0 | 1"},
        breach="5m",
        cure="15m",
        pending="2m",
        keep_firing_for="5m",
        summary="Faktory orders answers, but its Redis does not.",
        description="The health page is served without Redis and looks well, while every push and fetch fails or hangs."
        " Forewarn sees no queue and no job until Redis is back. See whether redis-server runs, is loading its file, or"
        " has no disk or memory left.",
        runbook_url=RUNBOOKS + "FaktoryRedisAway.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=4" + OF_SERVER,
        just_below={'forewarn_collector_up{collector="redis"}': "1"},
        guards={
            "the server is down as well": {"faktory_up": "1 | 0 | 1"},
            "whether the server is up is unknown": {"faktory_up": None},
            "it answers with what cannot be read": {'faktory_set_jobs{set="dead"}': "0"},
            "Redis is not configured": {'forewarn_collector_up{collector="redis"}': None},
            "another collector fails": {
                'forewarn_collector_up{collector="redis"}': "1",
                'forewarn_collector_up{collector="info"}': "1 | 0 | 1",
            },
            "it is another server's Redis": {
                'forewarn_collector_up{collector="redis"}': "1",
                'forewarn_collector_up{collector="redis", server="mail"}': "1 | 0 | 1",
            },
        },
        holds={
            "a scrape is missed": {
                "faktory_up": "1 | 1x5m stale 1 | 1",
                'forewarn_collector_up{collector="redis"}': "1 | 0x5m stale 0 | 1",
            },
            "Redis answers now and then": {'forewarn_collector_up{collector="redis"}': "1 | 0x5m 1x2m 0 | 1"},
        },
    ),
    Case(
        alert="FaktoryNoWorkers",
        labels=SERVER | {"severity": "critical"},
        series={
            "faktory_workers": "2 | 0 | 1",
            'faktory_queue_jobs{queue="mail"}': "1 | 1x5m 1200",
            'faktory_queue_jobs{queue="images"}': "0 | 0x5m 34",
            'faktory_queue_jobs{queue="archive"}': "500",
            'faktory_queue_paused{queue="mail"}': "0",
            'faktory_queue_paused{queue="images"}': "0",
            'faktory_queue_paused{queue="archive"}': "1",
        },
        breach="5m",
        cure="15m",
        pending="3m",
        keep_firing_for="2m",
        summary="Faktory orders has no worker left.",
        description="Jobs that wait in queues that are not paused: 1. Registered worker processes: none. Nothing will"
        " run until one connects. See why the workers ended, and whether they can reach the server.",
        last_description="Jobs that wait in queues that are not paused: 1.234k. Registered worker processes: none."
        " Nothing will run until one connects. See why the workers ended, and whether they can reach the server.",
        runbook_url=RUNBOOKS + "FaktoryNoWorkers.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=5" + OF_SERVER,
        just_below={"faktory_workers": "1"},
        guards={
            "nothing waits": {'faktory_queue_jobs{queue="mail"}': "0", 'faktory_queue_jobs{queue="images"}': "0"},
            "every queue is paused": {
                'faktory_queue_paused{queue="mail"}': "1",
                'faktory_queue_paused{queue="images"}': "1",
            },
            "the workers are unknown": {"faktory_workers": None},
            "the workers become unknown": {"faktory_workers": "2 | stale | 1"},
            "it is another server that has none": {
                "faktory_workers": "2",
                'faktory_workers{server="mail"}': "2 | 0 | 1",
            },
        },
        holds={
            "whether queues are paused is unknown, but for one": {
                'faktory_queue_paused{queue="mail"}': None,
                'faktory_queue_paused{queue="images"}': None,
            },
            "a worker comes and goes": {"faktory_workers": "2 | 0x5m 1x1m 0 | 1"},
        },
    ),
    Case(
        alert="FaktoryCrashLooping",
        labels=SERVER | {"severity": "critical"},
        series={"faktory_restarts_total": "2 | 3x5m 4x5m 5"},
        breach="40m",
        noticed="50m",
        cure="1h10m",
        pending="0s",
        keep_firing_for="10m",
        summary="Faktory orders keeps restarting.",
        description="Restarts within 30m: 3. Each restart breaks every connection and forgets every worker. Read what"
        " the process printed before it died, before the next restart takes it away.",
        runbook_url=RUNBOOKS + "FaktoryCrashLooping.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=2" + OF_SERVER,
        just_below={"faktory_restarts_total": "2 | 3x5m 4"},
        guards={
            "the third one comes after the window": {"faktory_restarts_total": "2 | 3x15m 4x15m 5"},
            "Forewarn has restarted too and counts anew": {"faktory_restarts_total": "2 | 0x5m 1x5m 2"},
            "Forewarn begins with a count that it kept": {"faktory_restarts_total": "_ | 5"},
        },
        holds={"scrapes are missed": {"faktory_restarts_total": "2 | 3x5m 4x5m 5x5m stale _x2m 5"}},
    ),
    Case(
        alert="FaktoryRestarted",
        labels=SERVER | {"severity": "info"},
        series={"faktory_restarts_total": "2 | 3"},
        breach="15m",
        cure="25m",
        pending="0s",
        keep_firing_for="0s",
        summary="Faktory orders has restarted.",
        description="Restarts within 10m: 1. Workers had to connect anew, and some client libraries end and leave their"
        " job behind. If nobody restarted it, read what it printed when it died.",
        runbook_url=RUNBOOKS + "FaktoryRestarted.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=2" + OF_SERVER,
        just_below={"faktory_restarts_total": "2"},
        guards={
            "Forewarn has restarted and counts anew": {"faktory_restarts_total": "2 | 0"},
            "Forewarn begins with a count that it kept": {"faktory_restarts_total": "_ | 3"},
        },
        holds={"scrapes are missed": {"faktory_restarts_total": "2 | 3 stale _x2m 3"}},
    ),
)

REFUSED_US: Final = "faktory_connections_refused_total"
REFUSED_ALL: Final = 'faktory_log_events_total{event="connection_refused"}'
SILENCE: Final = "faktory_statsd_last_packet_age_seconds"
LISTENING: Final = 'forewarn_collector_up{collector="statsd"}'
ROUND_TRIP: Final = "faktory_redis_round_trip_seconds"


def _refusals(times: str) -> str:
    return (
        f"Refusals within 5m: {times} (those of all clients where Forewarn reads the server's log, else only its own)."
        " The limit is reached, and producers and workers are refused alike. Close what leaks connections, or end the"
        " process that holds most of them."
    )


SATURATION: Final = (
    Case(
        alert="FaktoryConnectionsNearLimit",
        labels=SERVER | {"severity": "critical"},
        series={"faktory_connections": "500 | 1901 | 500", "faktory_connections_limit": "2000"},
        breach="5m",
        cure="15m",
        pending="1m",
        keep_firing_for="10m",
        summary="Faktory orders has hardly a connection left.",
        description="95.05% of its connection limit is used. At the limit every further client is refused: producers"
        " cannot push, and workers that restart cannot come back. See which peer holds the connections, and whether"
        " they grow.",
        runbook_url=RUNBOOKS + "FaktoryConnectionsNearLimit.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=1" + OF_SERVER,
        just_below={"faktory_connections": "1900"},
        guards={
            "it is only near enough for the warning": {"faktory_connections": "500 | 1700 | 500"},
            "the limit is unknown": {"faktory_connections_limit": None},
            "a limit of 0 means none": {"faktory_connections_limit": "0"},
            "the limit is another server's": {
                "faktory_connections_limit": None,
                'faktory_connections_limit{server="mail"}': "2000",
            },
            "the connections become unknown": {"faktory_connections": "500 | stale | 500"},
        },
        holds={
            "a scrape is missed": {
                "faktory_connections": "500 | 1901x5m stale 1901 | 500",
                "faktory_connections_limit": "2000 | 2000x5m stale 2000 | 2000",
            },
            "it dips": {"faktory_connections": "500 | 1901x2m 1700x5m 1901 | 500"},
        },
    ),
    Case(
        alert="FaktoryConnectionsNearLimit",
        labels=SERVER | {"severity": "warning"},
        series={"faktory_connections": "500 | 1601 | 500", "faktory_connections_limit": "2000"},
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="10m",
        summary="Faktory orders runs out of connections.",
        description="80.05% of its connection limit is used. At the limit every further client is refused: producers"
        " cannot push, and workers that restart cannot come back. See which peer holds the connections, and whether"
        " they grow.",
        runbook_url=RUNBOOKS + "FaktoryConnectionsNearLimit.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=1" + OF_SERVER,
        just_below={"faktory_connections": "1600"},
        guards={
            "the limit is unknown": {"faktory_connections_limit": None},
            "a limit of 0 means none": {"faktory_connections_limit": "0"},
            "the limit is raised with the connections": {"faktory_connections_limit": "2000 | 4000 | 4000"},
        },
        holds={
            "a scrape is missed": {
                "faktory_connections": "500 | 1601x7m stale 1601 | 500",
                "faktory_connections_limit": "2000 | 2000x7m stale 2000 | 2000",
            },
        },
    ),
    Case(
        alert="FaktoryConnectionsNearLimit",
        when="while the critical one fires",
        labels=SERVER | {"severity": "warning"},
        series={"faktory_connections": "500 | 1901 | 500", "faktory_connections_limit": "2000"},
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="10m",
        summary="Faktory orders runs out of connections.",
        description="95.05% of its connection limit is used. At the limit every further client is refused: producers"
        " cannot push, and workers that restart cannot come back. See which peer holds the connections, and whether"
        " they grow.",
        runbook_url=RUNBOOKS + "FaktoryConnectionsNearLimit.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=1" + OF_SERVER,
        just_below={"faktory_connections": "1600"},
    ),
    Case(
        alert="FaktoryConnectionsRefused",
        labels=SERVER | {"severity": "critical"},
        series={REFUSED_US: "3 | 4x1m 7"},
        breach="10m",
        cure="16m",
        pending="0s",
        keep_firing_for="5m",
        summary="Faktory orders refuses connections.",
        description=_refusals("1"),
        last_description=_refusals("3"),
        runbook_url=RUNBOOKS + "FaktoryConnectionsRefused.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=3" + OF_SERVER,
        just_below={REFUSED_US: "3"},
        guards={
            "Forewarn has restarted and counts anew": {REFUSED_US: "3 | 0"},
            "Forewarn begins with a count that it kept": {REFUSED_US: "_ | 7"},
        },
        holds={
            "scrapes are missed": {REFUSED_US: "3 | 4x1m 7x1m stale _x1m 7"},
            "the log does not tell of it": {REFUSED_ALL: "0"},
        },
    ),
    Case(
        alert="FaktoryConnectionsRefused",
        when="told by the log",
        labels=SERVER | {"severity": "critical"},
        series={REFUSED_ALL: "3 | 4x1m 7", REFUSED_US: "2"},
        breach="10m",
        cure="16m",
        pending="0s",
        keep_firing_for="5m",
        summary="Faktory orders refuses connections.",
        description=_refusals("1"),
        last_description=_refusals("3"),
        runbook_url=RUNBOOKS + "FaktoryConnectionsRefused.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=3" + OF_SERVER,
        just_below={REFUSED_ALL: "3"},
        guards={
            "it tells something else": {REFUSED_ALL: "3", 'faktory_log_events_total{event="started"}': "3 | 4"},
            "Forewarn begins with a count that it kept": {REFUSED_ALL: "_ | 7"},
        },
        holds={"Forewarn is one of those refused": {REFUSED_US: "2 | 2x1m 3"}},
    ),
    Case(
        alert="FaktoryPeerHoldsConnections",
        labels=SERVER | {"severity": "warning", "peer": "10.0.0.7"},
        series={
            'faktory_peer_connections{peer="10.0.0.7"}': "600 | 901 | 600",
            'faktory_peer_connections{peer="10.0.0.8"}': "1",
            "faktory_connections": "1500",
            "faktory_connections_limit": "2000",
        },
        breach="5m",
        cure="20m",
        pending="10m",
        keep_firing_for="10m",
        summary="One peer holds most of the connections of Faktory orders.",
        description="10.0.0.7 holds 60.07% of all connections. A pool without a bound, or a process that connects anew"
        " for each job, can lock everybody else out. See what runs at that address.",
        runbook_url=RUNBOOKS + "FaktoryPeerHoldsConnections.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=4" + OF_SERVER,
        just_below={'faktory_peer_connections{peer="10.0.0.7"}': "900"},
        guards={
            "it is the only peer": {'faktory_peer_connections{peer="10.0.0.8"}': None},
            "the others have closed theirs": {'faktory_peer_connections{peer="10.0.0.8"}': "0"},
            "half of the limit is free": {"faktory_connections_limit": "3000"},
            "the limit is unknown": {"faktory_connections_limit": None},
            "a limit of 0 means none": {"faktory_connections_limit": "0"},
            "the many small ones hold it together": {
                'faktory_peer_connections{peer="10.0.0.7"}': "100",
                'faktory_peer_connections{peer="(other)"}': "600 | 901 | 600",
            },
        },
        holds={
            "the others are folded into one": {
                'faktory_peer_connections{peer="10.0.0.8"}': None,
                'faktory_peer_connections{peer="(other)"}': "300",
            },
            "hardly more than half of the limit is used": {"faktory_connections_limit": "2999"},
            "it dips": {'faktory_peer_connections{peer="10.0.0.7"}': "600 | 901x11m 600x3m 901 | 600"},
        },
    ),
    Case(
        alert="FaktoryStatsdSilentNearLimit",
        labels=SERVER | {"severity": "critical"},
        series={
            SILENCE: "5 | 91+30 | 5",
            "faktory_up": "1",
            LISTENING: "1",
            "faktory_connections": "500 | 1601",
            "faktory_connections_limit": "2000",
        },
        breach="15m",
        cure="22m",
        pending="2m",
        keep_firing_for="5m",
        summary="Faktory orders is near its connection limit and has fallen silent.",
        description="It has told nothing by StatsD for 3m 31s, and its connections were near the limit within 10m: most"
        " likely its clients hold every way to its own Redis. Pushes and fetches hang or fail next. Close what leaks"
        " connections, at once.",
        last_description="It has told nothing by StatsD for 8m 1s, and its connections were near the limit within 10m:"
        " most likely its clients hold every way to its own Redis. Pushes and fetches hang or fail next. Close what"
        " leaks connections, at once.",
        runbook_url=RUNBOOKS + "FaktoryStatsdSilentNearLimit.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=10" + OF_SERVER,
        just_below={SILENCE: "90"},
        guards={
            "it was never heard": {SILENCE: None},
            "nothing listens for it": {SILENCE: None, LISTENING: None},
            "the server is down": {"faktory_up": "1 | 0 | 1"},
            "there are connections left": {"faktory_connections": "500 | 1600"},
            "the limit is unknown": {"faktory_connections_limit": None},
            "it is another server that is near its limit": {
                "faktory_connections": "500",
                'faktory_connections{server="mail"}': "500 | 1601",
                'faktory_connections_limit{server="mail"}': "2000",
            },
            "it was near the limit long before": {"faktory_connections": "1601 500 | 500"},
        },
        holds={
            "clients give up and connections fall": {"faktory_connections": "500 | 1601x1m 500"},
            "a scrape is missed": {SILENCE: "5 | 91+30x6 stale 301+30 | 5"},
            "a part of Forewarn's listening fails": {LISTENING: "0"},
        },
    ),
    Case(
        alert="FaktoryStatsdSilent",
        labels=SERVER | {"severity": "warning"},
        series={SILENCE: "5 | 91+30 | 5", "faktory_up": "1", LISTENING: "1"},
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="5m",
        summary="Faktory orders is up, but tells nothing more by StatsD.",
        description="Its last packet came 6m 31s ago; Enterprise sends some every 30 seconds. Either it no longer"
        " reaches its Redis, or its packets no longer reach Forewarn: then nothing is told of failures by job type. See"
        " first whether pushes and fetches work.",
        last_description="Its last packet came 11m 1s ago; Enterprise sends some every 30 seconds. Either it no longer"
        " reaches its Redis, or its packets no longer reach Forewarn: then nothing is told of failures by job type. See"
        " first whether pushes and fetches work.",
        runbook_url=RUNBOOKS + "FaktoryStatsdSilent.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=10" + OF_SERVER,
        just_below={SILENCE: "90"},
        guards={
            "it was never heard": {SILENCE: None},
            "nothing listens for it": {SILENCE: None, LISTENING: None},
            "Forewarn does not hear": {LISTENING: "1 | 0 | 1"},
            "the server is down": {"faktory_up": "1 | 0 | 1"},
            "whether the server is up is unknown": {"faktory_up": None},
        },
        holds={
            "a scrape is missed": {SILENCE: "5 | 91+30x12 stale 481+30 | 5"},
            "whether Forewarn hears is unknown": {LISTENING: None},
        },
    ),
    Case(
        alert="FaktoryThrottleSaturated",
        labels=SERVER | {"severity": "warning", "queue": "mail & news", "scope": "cluster"},
        series={
            'faktory_throttle_saturation_ratio{queue="mail & news", scope="cluster"}': "0.5 | 1 | 0.5",
            'faktory_throttle_waiting_jobs{queue="mail & news"}': "1",
        },
        breach="5m",
        cure="20m",
        pending="10m",
        keep_firing_for="5m",
        summary="The throttle of queue mail & news on Faktory orders is full, and jobs wait behind it.",
        description="100% of the cluster throttle is in use. Jobs of this queue wait, even where workers are free."
        " See whether its jobs take longer than usual, or are left over from crashed workers: those count as running"
        " until their reservation ends.",
        runbook_url=RUNBOOKS + "FaktoryThrottleSaturated.md",
        dashboard_url=GRAFANA + "faktory-throttles?viewPanel=1" + OF_SERVER + "&var-queue=mail+%26+news",
        just_below={'faktory_throttle_saturation_ratio{queue="mail & news", scope="cluster"}': "0.99"},
        guards={
            "nothing waits": {'faktory_throttle_waiting_jobs{queue="mail & news"}': "0"},
            "the queue is paused": {'faktory_queue_paused{queue="mail & news"}': "1"},
            "what waits is unknown": {'faktory_throttle_waiting_jobs{queue="mail & news"}': None},
            "another queue's jobs wait": {
                'faktory_throttle_waiting_jobs{queue="mail & news"}': "0",
                'faktory_throttle_waiting_jobs{queue="images"}': "1",
            },
            "the throttle is taken away": {
                'faktory_throttle_saturation_ratio{queue="mail & news", scope="cluster"}': "0.5 | stale",
            },
        },
        holds={
            "a slot is free for a moment": {
                'faktory_throttle_saturation_ratio{queue="mail & news", scope="cluster"}': "0.5 | 1x11m 0.9 1 | 0.5",
            },
            "the throttle of each worker has room": {
                'faktory_throttle_saturation_ratio{queue="mail & news", scope="worker"}': "0.5",
            },
        },
    ),
    Case(
        alert="FaktoryReservationNearlyUsed",
        labels=SERVER | {"severity": "warning", "queue": "images", "jobtype": "Resize::Large"},
        series={
            'faktory_busy_job_reservation_used_ratio{queue="images", jobtype="Resize::Large"}': "0.5 | 0.801 | 0.5",
            'faktory_busy_jobs{queue="images", jobtype="Resize::Large"}': "2",
            'faktory_orphaned_jobs{queue="images", jobtype="Resize::Large"}': "0",
        },
        breach="5m",
        cure="10m",
        pending="0s",
        keep_firing_for="1m",
        summary="A Resize::Large job on Faktory orders is about to run twice.",
        description="A job of queue images has used 80.1% of its reservation. When it ends the job is given to another"
        " worker while the first still works on it. See whether it hangs, or needs a longer reserve_for.",
        runbook_url=RUNBOOKS + "FaktoryReservationNearlyUsed.md",
        dashboard_url=GRAFANA
        + "faktory-queues?viewPanel=5"
        + OF_SERVER
        + "&var-queue=images&var-jobtype=Resize%3A%3ALarge",
        just_below={'faktory_busy_job_reservation_used_ratio{queue="images", jobtype="Resize::Large"}': "0.8"},
        guards={
            "nobody works on it any more": {
                'faktory_orphaned_jobs{queue="images", jobtype="Resize::Large"}': "0 | 2 | 0",
            },
        },
        holds={
            "one of two is an orphan": {'faktory_orphaned_jobs{queue="images", jobtype="Resize::Large"}': "1"},
            "orphans are unknown": {'faktory_orphaned_jobs{queue="images", jobtype="Resize::Large"}': None},
            "another type has only orphans": {
                'faktory_busy_jobs{queue="images", jobtype="Crop"}': "2",
                'faktory_orphaned_jobs{queue="images", jobtype="Crop"}': "2",
            },
            "a scrape is missed": {
                'faktory_busy_job_reservation_used_ratio{queue="images", jobtype="Resize::Large"}': (
                    "0.5 | 0.801x2m stale 0.801 | 0.5"
                ),
            },
        },
    ),
    Case(
        alert="FaktoryRedisSlow",
        labels=SERVER | {"severity": "warning", "collector": "redis"},
        series={'forewarn_collector_duration_seconds{collector="redis"}': "0.02 | 1.01 | 0.02"},
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="10m",
        summary="Redis of Faktory orders answers slowly.",
        description="Reading the queues and the working set took 1.01s. Faktory runs every command through the same"
        " Redis, so pushes and fetches are slow too. See its slow log, its persistence and the machine's disk and"
        " memory.",
        runbook_url=RUNBOOKS + "FaktoryRedisSlow.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=4" + OF_SERVER,
        just_below={'forewarn_collector_duration_seconds{collector="redis"}': "1"},
        guards={
            "another collector is slow": {
                'forewarn_collector_duration_seconds{collector="redis"}': "0.02",
                'forewarn_collector_duration_seconds{collector="info"}': "0.02 | 1.01 | 0.02",
            },
            "it becomes unknown": {'forewarn_collector_duration_seconds{collector="redis"}': "0.02 | stale | 0.02"},
        },
        holds={
            "one answer is quick": {
                'forewarn_collector_duration_seconds{collector="redis"}': "0.02 | 1.01x6m 0.5 1.01 | 0.02"
            },
        },
    ),
    Case(
        alert="FaktoryRedisRoundTripHigh",
        labels=SERVER | {"severity": "warning"},
        series={ROUND_TRIP: "0.0005 | 0.051 | 0.0005"},
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="10m",
        summary="Faktory orders waits long for its Redis.",
        description="An answer of Redis takes 51ms, as Faktory itself measures it, again and again. Every push and"
        " fetch waits for several. Either Redis is slow, or too many connections want it at once: compare with how long"
        " Forewarn takes to read it.",
        runbook_url=RUNBOOKS + "FaktoryRedisRoundTripHigh.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=9" + OF_SERVER,
        just_below={ROUND_TRIP: "0.05"},
        guards={"it is not told": {ROUND_TRIP: None}, "it becomes unknown": {ROUND_TRIP: "0.0005 | stale | 0.0005"}},
        holds={"one answer is quick": {ROUND_TRIP: "0.0005 | 0.051x6m 0.0005 0.051 | 0.0005"}},
    ),
)

UNREAD: Final = 'forewarn_statsd_dropped_packets_total{at="kernel"}'
UNRELAYED: Final = 'forewarn_statsd_dropped_packets_total{at="relay"}'
REJECTED: Final = 'forewarn_statsd_rejected_total{reason="type"}'
PACKETS: Final = 'forewarn_statsd_packets_total{transport="udp"}'
SAMPLES: Final = "forewarn_statsd_samples_total"
RELAYED: Final = "forewarn_statsd_relayed_packets_total"
SETTINGS: Final = 'forewarn_config_last_reload_successful{file="settings"}'
WEB_FILE: Final = 'forewarn_config_last_reload_successful{file="web"}'
REFUSED: Final = 'forewarn_statsd_push_failures_total{reason="refused"}'


def _unread(share: str) -> str:
    return (
        f"{share} of the packets within 5m found the buffer full. What is counted from them is too low. See how many"
        " come each second, whether Forewarn gets processor time, and how large a socket's buffer may be."
    )


META: Final = (
    Case(
        alert="ForewarnAbsent",
        labels={"severity": "critical"},
        series={'forewarn_build_info{version="1.2.0"}': "1 | stale | 1"},
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="0s",
        summary="No Forewarn is scraped at all.",
        description="Prometheus has no sample of any Forewarn: none of the other alerts about job servers can fire. See"
        " whether it runs, and whether Prometheus's configuration still names it.",
        runbook_url=RUNBOOKS + "ForewarnAbsent.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=5&from=now-3h&to=now",
        just_below={'forewarn_build_info{version="1.2.0"}': "1"},
        guards={
            "another one is there": {'forewarn_build_info{instance="10.0.0.6:9386", version="1.2.0"}': "1"},
            "it was upgraded": {'forewarn_build_info{version="1.3.0"}': "_ | 1"},
        },
    ),
    Case(
        alert="ForewarnDown",
        labels=PROCESS | {"severity": "critical"},
        series={"up": "1 | 0 | 1", 'forewarn_build_info{version="1.2.0"}': "1 | stale | 1"},
        breach="5m",
        cure="15m",
        pending="3m",
        keep_firing_for="2m",
        summary="Forewarn at 10.0.0.5:9386 cannot be scraped.",
        description="It was scraped within the last 1d and now does not answer. No alert about the servers that it"
        " watches can fire, whatever happens to them. See whether it runs, and what it logged last.",
        runbook_url=RUNBOOKS + "ForewarnDown.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=1" + OF_PROCESS,
        just_below={"up": "1"},
        guards={
            "it is no Forewarn": {'forewarn_build_info{version="1.2.0"}': None},
            "another job of that machine is down": {"up": "1", 'up{job="node"}': "1 | 0 | 1"},
            "it is no target any more": {"up": "1 | stale"},
        },
        holds={"it answers once in between": {"up": "1 | 0x5m 1 0 | 1"}},
    ),
    Case(
        alert="ForewarnDown",
        when="for more than a day",
        labels=PROCESS | {"severity": "critical"},
        series={"up": "1 | 0", 'forewarn_build_info{version="1.2.0"}': "1 | stale"},
        step="5m",
        breach="10m",
        cure="1d10m",
        pending="3m",
        keep_firing_for="2m",
        summary="Forewarn at 10.0.0.5:9386 cannot be scraped.",
        description="It was scraped within the last 1d and now does not answer. No alert about the servers that it"
        " watches can fire, whatever happens to them. See whether it runs, and what it logged last.",
        runbook_url=RUNBOOKS + "ForewarnDown.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=1" + OF_PROCESS,
        just_below={"up": "1"},
    ),
    Case(
        alert="ForewarnSnapshotStale",
        labels=SERVER | {"severity": "warning"},
        series={"forewarn_snapshot_age_seconds": "3 | 121+30 | 3"},
        breach="5m",
        cure="10m",
        pending="1m",
        keep_firing_for="2m",
        summary="Forewarn at 10.0.0.5:9386 has no fresh facts about orders.",
        description="Its last poll ended 3m 1s ago: graphs and alerts show what was then. See its log for a poll that"
        " does not end, and whether its machine is overloaded.",
        last_description="Its last poll ended 6m 31s ago: graphs and alerts show what was then. See its log for a poll"
        " that does not end, and whether its machine is overloaded.",
        runbook_url=RUNBOOKS + "ForewarnSnapshotStale.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=3" + OF_SERVER,
        just_below={"forewarn_snapshot_age_seconds": "120"},
        guards={"Forewarn is away": {"forewarn_snapshot_age_seconds": "3 | stale | 3"}},
        holds={"a scrape is missed": {"forewarn_snapshot_age_seconds": "3 | 121+30x6 stale 331+30 | 3"}},
    ),
    Case(
        alert="ForewarnCollectorFailing",
        labels=SERVER | {"severity": "warning", "collector": "health"},
        series={
            'forewarn_collector_up{collector="health"}': "1 | 0 | 1",
            'forewarn_collector_errors_total{collector="health", reason="timeout"}': "0 | 6+6 | 120",
            'forewarn_collector_errors_total{collector="health", reason="refused"}': "0",
        },
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="5m",
        summary="Forewarn at 10.0.0.5:9386 cannot read health of orders.",
        description="What comes from there has no samples, and its alerts cannot fire. forewarn_collector_errors_total"
        " tells the reason; Forewarn's log tells it with the address and how to mend it.",
        runbook_url=RUNBOOKS + "ForewarnCollectorFailing.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=2" + OF_SERVER,
        just_below={'forewarn_collector_up{collector="health"}': "1"},
        guards={
            "it failed once, and did not run since": {
                'forewarn_collector_errors_total{collector="health", reason="timeout"}': "0 | 1 | 1",
            },
            "Redis is away, which has its own alert": {
                'forewarn_collector_up{collector="health"}': "1",
                'forewarn_collector_up{collector="redis"}': "1 | 0 | 1",
                'forewarn_collector_errors_total{collector="redis", reason="timeout"}': "0 | 6+6 | 120",
            },
            "it is not configured": {'forewarn_collector_up{collector="health"}': None},
        },
        holds={
            "it works once in between": {'forewarn_collector_up{collector="health"}': "1 | 0x6m 1 0 | 1"},
            "for two reasons": {
                'forewarn_collector_errors_total{collector="health", reason="timeout"}': "0 | 1 | 1",
                'forewarn_collector_errors_total{collector="health", reason="refused"}': "0 | 1 | 1",
            },
        },
    ),
    Case(
        alert="ForewarnCollectorFailing",
        when="Redis answers with what cannot be read",
        labels=SERVER | {"severity": "warning", "collector": "redis"},
        series={
            'forewarn_collector_up{collector="redis"}': "1 | 0 | 1",
            'forewarn_collector_errors_total{collector="redis", reason="decode"}': "0 | 6+6 | 120",
            'faktory_set_jobs{set="dead"}': "0",
        },
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="5m",
        summary="Forewarn at 10.0.0.5:9386 cannot read redis of orders.",
        description="What comes from there has no samples, and its alerts cannot fire. forewarn_collector_errors_total"
        " tells the reason; Forewarn's log tells it with the address and how to mend it.",
        runbook_url=RUNBOOKS + "ForewarnCollectorFailing.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=2" + OF_SERVER,
        just_below={'forewarn_collector_up{collector="redis"}': "1"},
        guards={"it does not answer": {'faktory_set_jobs{set="dead"}': None}},
    ),
    Case(
        alert="ForewarnLabelOverflow",
        labels=SERVER | {"severity": "info", "label": "queue"},
        series={
            'forewarn_label_values{label="queue"}': "150 | 201x16m 1201 | 150",
            'forewarn_label_values_limit{label="queue"}': "200",
        },
        breach="5m",
        cure="30m",
        pending="15m",
        keep_firing_for="1h",
        summary="orders has more values of queue than Forewarn gives a series.",
        description="There are 201. The smallest are folded into (other) and cannot be told apart; alerts by queue do"
        " not see them. If the names are real, raise max_label_values; if they hold ids or dates, mend what makes"
        " them.",
        last_description="There are 1.201k. The smallest are folded into (other) and cannot be told apart; alerts by"
        " queue do not see them. If the names are real, raise max_label_values; if they hold ids or dates, mend what"
        " makes them.",
        runbook_url=RUNBOOKS + "ForewarnLabelOverflow.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=4" + OF_SERVER,
        just_below={'forewarn_label_values{label="queue"}': "200"},
        guards={
            "the limit is raised": {'forewarn_label_values_limit{label="queue"}': "200 | 2000 | 2000"},
            "the limit is unknown": {'forewarn_label_values_limit{label="queue"}': None},
            "the limit is another label's": {
                'forewarn_label_values_limit{label="queue"}': None,
                'forewarn_label_values_limit{label="jobtype"}': "200",
            },
        },
        holds={
            "the number goes up and down": {'forewarn_label_values{label="queue"}': "150 | 201x16m 190x5m 1201 | 150"}
        },
    ),
    Case(
        alert="ForewarnStatsdLost",
        labels=SERVER | {"severity": "warning", "lost": "unread"},
        series={
            UNREAD: "5 | 9+4 | 165",
            'forewarn_statsd_dropped_packets_total{at="queue"}': "0",
            UNRELAYED: "0",
            PACKETS: "0+99",
            'forewarn_statsd_packets_total{transport="tcp"}': "0+99",
        },
        breach="10m",
        noticed="12m30s",  # 6 of the 10 steps in the window are more than 1 %
        cure="30m",
        cleared="32m",  # 5 of the 10
        pending="10m",
        keep_firing_for="10m",
        summary="Forewarn at 10.0.0.5:9386 loses StatsD packets of orders unread.",
        description=_unread("1.98%"),
        last_description=_unread("1.198%"),
        runbook_url=RUNBOOKS + "ForewarnStatsdLost.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=6" + OF_SERVER,
        just_below={UNREAD: "5 | 7+2 | 85"},
        guards={
            "nothing listens for it": dict.fromkeys(
                [
                    UNREAD,
                    UNRELAYED,
                    PACKETS,
                    'forewarn_statsd_dropped_packets_total{at="queue"}',
                    'forewarn_statsd_packets_total{transport="tcp"}',
                ]
            ),
            "whether packets are lost is unknown": {
                UNREAD: None,
                'forewarn_statsd_dropped_packets_total{at="queue"}': None,
            },
            "only a few are lost": {
                UNREAD: "5 | 6+0.9 | 41.1",
                PACKETS: "0+10",
                'forewarn_statsd_packets_total{transport="tcp"}': "0",
            },
            "they are lost when they are passed on": {
                UNREAD: "5",
                UNRELAYED: "5 | 9+4 | 165",
                RELAYED: "0+9999",
            },
            "Forewarn has restarted and counts anew": {UNREAD: "1600 | 0"},
        },
        holds={
            "in the queue": {UNREAD: "5", 'forewarn_statsd_dropped_packets_total{at="queue"}': "5 | 9+4 | 165"},
            "what the kernel loses is unknown": {
                UNREAD: None,
                'forewarn_statsd_dropped_packets_total{at="queue"}': "5 | 9+4 | 165",
            },
            "a scrape is missed": {UNREAD: "5 | 9+4x30 stale 133+4 | 165"},
        },
    ),
    Case(
        alert="ForewarnStatsdLost",
        when="all of them",
        labels=SERVER | {"severity": "warning", "lost": "unread"},
        series={UNREAD: "5 | 6+1 | 45", PACKETS: "700"},
        breach="10m",
        noticed="14m30s",  # 10 within the window
        cure="30m",
        pending="10m",
        keep_firing_for="10m",
        summary="Forewarn at 10.0.0.5:9386 loses StatsD packets of orders unread.",
        description=_unread("100%"),
        runbook_url=RUNBOOKS + "ForewarnStatsdLost.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=6" + OF_SERVER,
        just_below={UNREAD: "5 | 5.9+0.9 | 41"},
        guards={"none came": {UNREAD: "5"}},
    ),
    Case(
        alert="ForewarnStatsdLost",
        labels=SERVER | {"severity": "warning", "lost": "rejected"},
        series={
            REJECTED: "5 | 7+2 | 85",
            'forewarn_statsd_rejected_total{reason="value"}': "5 | 7+2 | 85",
            SAMPLES: "0+198",
            PACKETS: "0+1",
        },
        breach="10m",
        noticed="12m30s",
        cure="30m",
        cleared="32m",
        pending="10m",
        keep_firing_for="10m",
        summary="Forewarn at 10.0.0.5:9386 does not understand the StatsD of orders.",
        description="1.98% of the values within 5m could not be counted. forewarn_statsd_rejected_total tells why. See"
        " who else sends to this port, and what was last deployed there.",
        last_description="1.198% of the values within 5m could not be counted. forewarn_statsd_rejected_total tells"
        " why. See who else sends to this port, and what was last deployed there.",
        runbook_url=RUNBOOKS + "ForewarnStatsdLost.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=6" + OF_SERVER,
        just_below={REJECTED: "5"},
        guards={
            "only a few are rejected": {
                REJECTED: "5 | 5.9+0.9 | 41",
                'forewarn_statsd_rejected_total{reason="value"}': "5",
                SAMPLES: "0+10",
            },
            "they are ignored": {
                REJECTED: "5",
                'forewarn_statsd_rejected_total{reason="value"}': "5",
                'forewarn_statsd_ignored_total{reason="unknown"}': "5 | 9+4 | 165",
            },
        },
    ),
    Case(
        alert="ForewarnStatsdLost",
        labels=SERVER | {"severity": "warning", "lost": "unrelayed"},
        series={UNRELAYED: "5 | 9+4 | 165", RELAYED: "0+198", UNREAD: "0", PACKETS: "0+1"},
        breach="10m",
        noticed="12m30s",
        cure="30m",
        cleared="32m",
        pending="10m",
        keep_firing_for="10m",
        summary="Forewarn at 10.0.0.5:9386 cannot pass the StatsD of orders on.",
        description="1.98% of what was to be passed on within 5m was not taken. Forewarn has counted it, the StatsD"
        " server behind it has not. See whether that one runs and whether statsd_relay still names it.",
        last_description="1.198% of what was to be passed on within 5m was not taken. Forewarn has counted it, the"
        " StatsD server behind it has not. See whether that one runs and whether statsd_relay still names it.",
        runbook_url=RUNBOOKS + "ForewarnStatsdLost.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=6" + OF_SERVER,
        just_below={UNRELAYED: "5 | 7+2 | 85"},
        guards={
            "nothing is passed on": {UNRELAYED: "0", RELAYED: "0"},
            "only a few are lost": {UNRELAYED: "5 | 5.9+0.9 | 41", RELAYED: "0+10"},
            "they are lost unread": {UNRELAYED: "5", UNREAD: "5 | 9+4 | 165"},
        },
    ),
    Case(
        alert="ForewarnStatsdPushFailing",
        labels=PROCESS | {"severity": "warning"},
        series={REFUSED: "4 | 5+1 | 64", 'forewarn_statsd_push_failures_total{reason="resolve"}': "2"},
        breach="10m",
        noticed="11m",  # the third one
        cure="40m",
        cleared="43m30s",  # two are left in the window
        pending="15m",
        keep_firing_for="10m",
        summary="Forewarn at 10.0.0.5:9386 cannot push to its StatsD server.",
        description="Flushes within 5m that did not get through whole: 10. What counters have gained is kept for the"
        " next flush; gauges of that time are lost. See whether the StatsD server runs; Forewarn's log tells the"
        " address and how to mend it.",
        last_description="Flushes within 5m that did not get through whole: 3. What counters have gained is kept for"
        " the next flush; gauges of that time are lost. See whether the StatsD server runs; Forewarn's log tells the"
        " address and how to mend it.",
        runbook_url=RUNBOOKS + "ForewarnStatsdPushFailing.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=7" + OF_PROCESS,
        just_below={REFUSED: "4 | 5x4m 6x4m 7x4m 8x4m 9x4m 10x4m 11x6m | 12"},
        guards={
            "nothing is pushed": {REFUSED: None, 'forewarn_statsd_push_failures_total{reason="resolve"}': None},
            "Forewarn has restarted and counts anew": {REFUSED: "400 | 0"},
        },
        holds={
            "for two reasons": {
                REFUSED: "4 | 4.5+0.5 | 34",
                'forewarn_statsd_push_failures_total{reason="resolve"}': "2 | 2.5+0.5 | 32",
            },
            "a scrape is missed": {REFUSED: "4 | 5+1x20m stale 46+1 | 64"},
        },
    ),
    Case(
        alert="ForewarnConfigReloadFailed",
        labels=PROCESS | {"severity": "warning", "file": "settings"},
        series={SETTINGS: "1 | 0 | 1", WEB_FILE: "1"},
        breach="10m",
        cure="40m",
        pending="5m",
        keep_firing_for="2m",
        summary="Forewarn at 10.0.0.5:9386 does not use its newest settings configuration.",
        description="What it read last is broken, so it goes on with what it had before. Whatever was changed is not in"
        " use, and with it a restart would fail. Forewarn's log tells each mistake with its place and how to mend it;"
        " forewarn check finds the same.",
        runbook_url=RUNBOOKS + "ForewarnConfigReloadFailed.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=9" + OF_PROCESS,
        just_below={SETTINGS: "1"},
        guards={
            "Forewarn is not there": {SETTINGS: "1 | stale | 1", WEB_FILE: "1 | stale | 1"},
        },
        holds={"no web configuration file is named": {WEB_FILE: None}},
    ),
    Case(
        alert="ForewarnWatchdog",
        labels={"severity": "none"},
        series={},
        breach="0s",
        cure=None,
        pending="0s",
        keep_firing_for="0s",
        summary="Alerting about job servers works.",
        description="This alert always fires. Route it to something outside that calls when it stops: then Prometheus,"
        " Alertmanager or the way between them is broken.",
        runbook_url=RUNBOOKS + "ForewarnWatchdog.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=8&from=now-3h&to=now",
        just_below=None,
    ),
)

CASES: Final = (*AVAILABILITY, *SATURATION, *META)


@pytest.mark.parametrize("situation", fires(CASES))
def test_waits_fires_holds_and_resolves(situation: Situation) -> None:
    verify(situation)


@pytest.mark.parametrize("situation", stays_silent(CASES))
def test_stays_silent(situation: Situation) -> None:
    verify(situation)
