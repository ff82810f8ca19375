"""What the alerts about the server's process, its sockets and its log tell, when, and in which words."""

from __future__ import annotations

from typing import Final

import pytest

from tests.rule_cases import SERVER, Case, Situation, fires, stays_silent, verify

RUNBOOKS: Final = "https://runbooks.example.com/forewarn/"
GRAFANA: Final = "https://grafana.example.com/d/"
OF_SERVER: Final = "&from=now-3h&to=now&var-job=forewarn&var-instance=10.0.0.5%3A9386&var-server=orders"

CONCURRENT: Final = 'faktory_process_crashes_total{class="concurrent-map"}'
UNEXPLAINED: Final = 'faktory_process_crashes_total{class="unexplained"}'
KILLED: Final = 'faktory_process_crashes_total{class="killed"}'
LAST: Final = "faktory_process_last_crash_timestamp_seconds"
BUSY_PAGE: Final = {"class": "concurrent-map", "component": "webui.busyWorkers", "known": "faktory-busy-page"}
LAST_CONCURRENT: Final = LAST + '{class="concurrent-map", component="webui.busyWorkers", known="faktory-busy-page"}'
LAST_ELSEWHERE: Final = (
    LAST + '{class="concurrent-map", component="throttle.(*Throttle).LockAndPop", known="faktory-ent-throttle"}'
)
LAST_KILLED: Final = LAST + '{class="killed", component="(none)", known="none"}'


def _crashed(ago: str) -> str:
    return (
        f"It died in webui.busyWorkers of concurrent-map {ago} ago; known incident: faktory-busy-page. Every connection"
        " broke, and workers had to connect anew. Forewarn's /api/v1/incidents has the stack and what is known of it:"
        " stop what leads there, or update, before it happens again."
    )


def _silent(ago: str) -> str:
    return (
        f"It ended {ago} ago and printed no reason; nobody had asked it to stop. Killed means SIGKILL. Most often the"
        " kernel or the container's limit ended it for its memory: see what they logged at that time."
    )


DEATHS: Final = (
    Case(
        alert="FaktoryProcessCrashLoop",
        labels=SERVER | {"severity": "critical"},
        series={CONCURRENT: "0 | 1x10m 2", UNEXPLAINED: "0 | 0x5m 1"},
        breach="40m",
        noticed="50m",
        cure="1h10m",
        pending="0s",
        keep_firing_for="10m",
        summary="Faktory orders crashes again and again.",
        description="Crashes within 30m: 3. Each breaks every connection, forgets every worker and can lose a job that"
        " is just being handed out. FaktoryProcessCrashed names the function of each: stop what leads there, or"
        " update.",
        runbook_url=RUNBOOKS + "FaktoryProcessCrashLoop.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=10" + OF_SERVER,
        just_below={UNEXPLAINED: "0"},
        guards={
            "the third one comes after the window": {CONCURRENT: "0 | 1x30m 2", UNEXPLAINED: "0 | 0x5m 1"},
            "Forewarn has restarted and counts anew": {CONCURRENT: "5 | 0x5m 1x5m 2", UNEXPLAINED: "3 | 0"},
            "Forewarn begins with a count that it kept": {CONCURRENT: "_ | 5", UNEXPLAINED: "_ | 3"},
            "another server crashes as well": {
                UNEXPLAINED: "0",
                'faktory_process_crashes_total{class="unexplained", server="mail"}': "0 | 0x5m 1",
            },
        },
        holds={"scrapes are missed": {CONCURRENT: "0 | 1x10m 2x5m stale _x2m 2"}},
    ),
    Case(
        alert="FaktoryProcessCrashed",
        labels=SERVER | BUSY_PAGE | {"severity": "warning"},
        series={CONCURRENT: "0 | 1", LAST_CONCURRENT: "_ | 2090"},
        breach="35m",
        cure="1h5m",
        pending="0s",
        keep_firing_for="10m",
        summary="Faktory orders has crashed in webui.busyWorkers (concurrent-map).",
        description=_crashed("10s"),
        last_description=_crashed("29m 40s"),
        runbook_url=RUNBOOKS + "FaktoryProcessCrashed.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=10" + OF_SERVER,
        just_below={CONCURRENT: "0", LAST_CONCURRENT: None},
        guards={
            "Forewarn begins with a crash of long ago that it kept": {CONCURRENT: "_ | 3", LAST_CONCURRENT: "_ | 290"},
            "Forewarn has restarted and counts anew": {CONCURRENT: "3 | 0", LAST_CONCURRENT: "-5000 | stale"},
            "it died without a word": {
                CONCURRENT: "0",
                LAST_CONCURRENT: None,
                KILLED: "0 | 1",
                LAST_KILLED: "_ | 2090",
            },
            "another class is counted": {LAST_CONCURRENT: "_ | 290", CONCURRENT: "1", KILLED: "0 | 1"},
        },
        holds={
            "Prometheus hears of it at once with its count": {CONCURRENT: "_ | 1"},
            "Forewarn comes back with it at another place": {CONCURRENT: None},
            "it had died elsewhere before": {CONCURRENT: "1 | 2", LAST_ELSEWHERE: "-5000 | stale"},
            "Forewarn goes with the server for five minutes": {
                CONCURRENT: "0 | 1x5m stale _x4m30s 1",
                LAST_CONCURRENT: "_ | 2090x5m stale _x4m30s 2090",
            },
        },
    ),
    Case(
        alert="FaktoryProcessCrashed",
        when="read long after",
        labels=SERVER | BUSY_PAGE | {"severity": "warning"},
        series={CONCURRENT: "0 | 1", LAST_CONCURRENT: "_ | 100"},
        breach="2h",
        cure="2h30m",
        pending="0s",
        keep_firing_for="10m",
        summary="Faktory orders has crashed in webui.busyWorkers (concurrent-map).",
        description=_crashed("1h 58m 20s"),
        last_description=_crashed("2h 27m 50s"),
        runbook_url=RUNBOOKS + "FaktoryProcessCrashed.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=10" + OF_SERVER,
        just_below={CONCURRENT: "1"},
    ),
    Case(
        alert="FaktoryProcessDiedUnexplained",
        labels=SERVER | {"severity": "warning", "class": "killed", "component": "(none)", "known": "none"},
        series={KILLED: "0 | 1", LAST_KILLED: "_ | 2090"},
        breach="35m",
        cure="1h5m",
        pending="0s",
        keep_firing_for="10m",
        summary="Faktory orders has died without a word (killed).",
        description=_silent("10s"),
        last_description=_silent("29m 40s"),
        runbook_url=RUNBOOKS + "FaktoryProcessDiedUnexplained.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=10" + OF_SERVER,
        just_below={KILLED: "0", LAST_KILLED: None},
        guards={
            "Forewarn begins with a death of long ago that it kept": {KILLED: "_ | 3", LAST_KILLED: "_ | 290"},
            "it has told why": {
                KILLED: "0",
                LAST_KILLED: None,
                CONCURRENT: "0 | 1",
                LAST_CONCURRENT: "_ | 2090",
            },
        },
        holds={"Prometheus hears of it at once with its count": {KILLED: "_ | 1"}},
    ),
)

CRASHED_STORE: Final = 'faktory_log_events_total{event="store_crashed"}'
LOST: Final = 'faktory_log_events_total{event="job_lost"}'
FLUSHED: Final = 'faktory_log_events_total{event="flushed"}'
RISK: Final = 'faktory_known_crash_risk{known="faktory-busy-page"}'
PANICS: Final = "faktory_recovered_panics_total"
RACES: Final = "faktory_data_races_total"


def _lost(jobs: str) -> str:
    return (
        "Scheduled jobs, retries or expired reservations within 30m that it took out of their set and could not put"
        f" anywhere: {jobs}. Nobody runs them again. Its log tells why (Unable to process timed job): see that line,"
        " and its Redis, before more are lost."
    )


def _panics(times: str) -> str:
    return (
        f"Panics that it recovered from within 1h: {times}. The request or command in which it happened failed; all"
        " else goes on. See /api/v1/incidents of Forewarn for the stack: the same defect may kill it elsewhere."
    )


TOLD: Final = (
    Case(
        alert="FaktoryStoreCrashed",
        labels=SERVER | {"severity": "critical", "event": "store_crashed"},
        series={CRASHED_STORE: "0 | 1"},
        breach="35m",
        cure="1h5m",
        pending="0s",
        keep_firing_for="0s",
        summary="The Redis of Faktory orders has crashed.",
        description="Crashes of it within 30m, as Faktory's log tells: 1. Faktory ends itself with it. What was changed"
        " since Redis last saved, up to two minutes, is lost. See whether the kernel killed it for its memory, and"
        " whether its disk is full.",
        runbook_url=RUNBOOKS + "FaktoryStoreCrashed.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=13" + OF_SERVER,
        just_below={CRASHED_STORE: "0"},
        guards={
            "it only loads": {CRASHED_STORE: "0", 'faktory_log_events_total{event="store_loading"}': "0 | 30"},
            "Forewarn has restarted and counts anew": {CRASHED_STORE: "3 | 0"},
            "Forewarn begins with a count that it kept": {CRASHED_STORE: "_ | 3"},
        },
        holds={"scrapes are missed": {CRASHED_STORE: "0 | 1 stale _x2m 1"}},
    ),
    Case(
        alert="FaktoryJobLost",
        labels=SERVER | {"severity": "critical", "event": "job_lost"},
        series={LOST: "0 | 1x1m 4"},
        breach="35m",
        cure="1h6m",
        pending="0s",
        keep_firing_for="0s",
        summary="Faktory orders has lost jobs.",
        description=_lost("1"),
        last_description=_lost("3"),
        runbook_url=RUNBOOKS + "FaktoryJobLost.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=13" + OF_SERVER,
        just_below={LOST: "0"},
        guards={
            "Forewarn has restarted and counts anew": {LOST: "3 | 0"},
            "Forewarn begins with a count that it kept": {LOST: "_ | 3"},
            "a worker is struck off": {LOST: "0", 'faktory_log_events_total{event="worker_reaped"}': "0 | 1"},
        },
        holds={"scrapes are missed": {LOST: "0 | 1x1m 4x1m stale _x2m 4"}},
    ),
    Case(
        alert="FaktoryFlushed",
        labels=SERVER | {"severity": "critical", "event": "flushed"},
        series={FLUSHED: "0 | 1"},
        breach="35m",
        cure="1h5m",
        pending="0s",
        keep_firing_for="0s",
        summary="All jobs of Faktory orders were deleted.",
        description="FLUSH commands within 30m: 1. Each deletes every queue, scheduled job, retry, dead job and"
        " reservation. See who sent it. If nobody meant to, stop that client first, and keep the last file that Redis"
        " saved.",
        runbook_url=RUNBOOKS + "FaktoryFlushed.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=13" + OF_SERVER,
        just_below={FLUSHED: "0"},
        guards={
            "Forewarn has restarted and counts anew": {FLUSHED: "3 | 0"},
            "Forewarn begins with a count that it kept": {FLUSHED: "_ | 3"},
        },
    ),
    Case(
        alert="FaktoryKnownCrashRisk",
        labels=SERVER | {"severity": "warning", "known": "faktory-busy-page"},
        series={RISK: "0 | 1 | 0", 'faktory_known_crash_risk{known="faktory-ent-throttle"}': "0"},
        breach="5m",
        cure="2h",
        pending="1h15m",
        keep_firing_for="1h",
        summary="Faktory orders can die of a crash that is known (faktory-busy-page).",
        description="Its version has the defect faktory-busy-page, and what leads to it is in use. It need not have"
        " happened yet. The runbook tells for each what to stop, and which version is mended.",
        runbook_url=RUNBOOKS + "FaktoryKnownCrashRisk.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=11" + OF_SERVER,
        just_below={RISK: "0"},
        guards={"it is not known": {RISK: None}},
        holds={"a scrape is missed": {RISK: "0 | 1x1h20m stale 1 | 0"}},
    ),
    Case(
        alert="FaktoryRecoveredPanic",
        labels=SERVER | {"severity": "info"},
        series={PANICS: "0 | 1x1m 3"},
        breach="1h5m",
        cure="2h6m",
        pending="0s",
        keep_firing_for="0s",
        summary="Faktory orders had a panic and survived it.",
        description=_panics("1"),
        last_description=_panics("2"),
        runbook_url=RUNBOOKS + "FaktoryRecoveredPanic.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=12" + OF_SERVER,
        just_below={PANICS: "0"},
        guards={
            "it died of it": {PANICS: "0", CONCURRENT: "0 | 1"},
            "Forewarn has restarted and counts anew": {PANICS: "3 | 0"},
            "Forewarn begins with a count that it kept": {PANICS: "_ | 3"},
        },
    ),
    Case(
        alert="FaktoryDataRace",
        labels=SERVER | {"severity": "info"},
        series={RACES: "0 | 1"},
        breach="1h5m",
        cure="2h5m",
        pending="0s",
        keep_firing_for="0s",
        summary="Go's race detector has found a data race in Faktory orders.",
        description="Reports within 1h: 1. Two goroutines used the same memory at once, which may one day kill the"
        " server or spoil its data. See /api/v1/incidents of Forewarn for both stacks, and report them to its makers.",
        runbook_url=RUNBOOKS + "FaktoryDataRace.md",
        dashboard_url=GRAFANA + "faktory-overview?viewPanel=12" + OF_SERVER,
        just_below={RACES: "0"},
        guards={
            "Forewarn has restarted and counts anew": {RACES: "3 | 0"},
            "Forewarn begins with a count that it kept": {RACES: "_ | 3"},
        },
    ),
)

ACCEPTING: Final = "faktory_accept_queue_connections"
LEAVING: Final = 'faktory_sockets{state="close_wait"}'
FILES: Final = "faktory_process_open_fds"
MAX_FILES: Final = "faktory_process_max_fds"
LOG_UNREAD: Final = "faktory_log_unread_bytes"


def _waiting(connections: str) -> str:
    return (
        f"Connections that waited to be accepted all the time within 5m, at least: {connections}. A healthy server"
        " accepts at once: this one lags behind. See its processor time, who connects so often, and whether it accepts"
        " any at all."
    )


def _standing(connections: str) -> str:
    return (
        f"Connections that wait to be accepted: {connections}, for 2m or longer. A healthy server accepts at once: this"
        " one stands still, or has given up. Those that are connected may go on as if nothing were wrong. See its file"
        " descriptors, and whether it is stopped; most often only a restart helps."
    )


def _files(share: str) -> str:
    return (
        f"{share} of those that it may have are open. At the bound it accepts no connection any more, until it is"
        " restarted, and its log does not tell. See whether connections grow, and raise the bound of its service."
    )


def _filling(left: str) -> str:
    return (
        f"If they go on growing as they did over the last 15m, the bound is reached in {left}. Then it accepts no"
        " connection any more, until it is restarted. See whether connections grow as well, and find what opens them"
        " while there is time."
    )


def _leaving(sockets: str) -> str:
    return (
        f"Sockets whose client has gone and that the server held open all the time within 30m, at least: {sockets}, and"
        " more than before. Each takes a file descriptor, and counts as a connection. See whether its Redis answers,"
        " and what its goroutines wait for."
    )


def _unread(size: str) -> str:
    return (
        f"{size} of it are still to be read, and more all the time. What the server says there, its last words among"
        " it, is told late, and is lost where the file is taken away before. See what writes so much, and whether"
        " Forewarn gets processor time and the disk."
    )


OF_KERNEL: Final = (
    Case(
        alert="FaktoryAcceptQueueFilling",
        labels=SERVER | {"severity": "critical"},
        series={ACCEPTING: "0 | 10x5m 2500 | 0", "faktory_accept_queue_limit": "4096"},
        breach="5m",
        cure="15m",
        pending="2m",
        keep_firing_for="5m",
        summary="Faktory orders lets no new connection in.",
        description=_standing("10"),
        last_description=_standing("2.5k"),
        runbook_url=RUNBOOKS + "FaktoryAcceptQueueFilling.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=11" + OF_SERVER,
        just_below={ACCEPTING: "9"},
        guards={
            "it is not known": {ACCEPTING: None},
        },
        holds={
            "the server does not answer": {"faktory_up": "1 | 0 | 1"},
        },
    ),
    Case(
        alert="FaktoryAcceptQueueFilling",
        labels=SERVER | {"severity": "warning"},
        series={ACCEPTING: "0 | 1 | 0"},
        breach="5m",
        noticed="10m",
        cure="20m",
        pending="1m",
        keep_firing_for="5m",
        summary="Faktory orders is slow to let new connections in.",
        description=_waiting("1"),
        runbook_url=RUNBOOKS + "FaktoryAcceptQueueFilling.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=11" + OF_SERVER,
        just_below={ACCEPTING: "0"},
        guards={"one is on its way at some looks": {ACCEPTING: "0 | 1x4m 0 1 0 1x4m 0 1x4m 0 1 | 0"}},
    ),
    Case(
        alert="FaktoryProcessFileDescriptors",
        labels=SERVER | {"severity": "critical"},
        series={FILES: "100 | 951 | 100", MAX_FILES: "1000"},
        breach="5m",
        cure="15m",
        pending="1m",
        keep_firing_for="10m",
        summary="Faktory orders has hardly a file descriptor left.",
        description=_files("95.1%"),
        runbook_url=RUNBOOKS + "FaktoryProcessFileDescriptors.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=13" + OF_SERVER,
        just_below={FILES: "950"},
        guards={
            "it is only near enough for the warning": {FILES: "100 | 850 | 100"},
            "the bound is unknown": {MAX_FILES: None},
            "a bound of 0 means none": {MAX_FILES: "0"},
            "the process cannot be seen": {FILES: None, MAX_FILES: None},
        },
        holds={
            "a scrape is missed": {
                FILES: "100 | 951x5m stale 951 | 100",
                MAX_FILES: "1000 | 1000x5m stale 1000 | 1000",
            },
        },
    ),
    Case(
        alert="FaktoryProcessFileDescriptors",
        labels=SERVER | {"severity": "warning"},
        series={FILES: "100 | 801 | 100", MAX_FILES: "1000"},
        breach="5m",
        cure="15m",
        pending="5m",
        keep_firing_for="10m",
        summary="Faktory orders runs out of file descriptors.",
        description=_files("80.1%"),
        runbook_url=RUNBOOKS + "FaktoryProcessFileDescriptors.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=13" + OF_SERVER,
        just_below={FILES: "800"},
        guards={"the bound is raised with them": {MAX_FILES: "1000 | 4000 | 4000"}},
    ),
    Case(
        alert="FaktoryProcessFileDescriptorsFilling",
        labels=SERVER | {"severity": "warning"},
        series={FILES: "600 | 608+8 | 400", MAX_FILES: "1000"},
        breach="20m",
        noticed="28m",
        cure="41m",
        pending="10m",
        keep_firing_for="10m",
        summary="Faktory orders will soon run out of file descriptors.",
        description=_filling("6m 30s"),
        last_description=_filling("4m 0s"),
        runbook_url=RUNBOOKS + "FaktoryProcessFileDescriptorsFilling.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=14" + OF_SERVER,
        just_below={FILES: "600 | 603+3 | 400"},
        guards={
            "half of the bound is free": {FILES: "100 | 131+9 | 100"},
            "the bound is unknown": {MAX_FILES: None},
            "they are many, but the same all the time": {FILES: "990"},
            "they become fewer": {FILES: "990-4"},
            "they grew in one step, and the bound is lowered after it": {
                FILES: "600 | 760 | 760",
                MAX_FILES: "4000 | 4000x6m 1000 | 1000",
            },
        },
    ),
    Case(
        alert="FaktoryCloseWaitLeak",
        labels=SERVER | {"severity": "warning", "state": "close_wait"},
        series={LEAVING: "0x40m 10 | 20x10m 25 | 0"},
        breach="1h10m",
        noticed="1h40m",  # 20 all the time
        cure="2h",
        pending="5m",
        keep_firing_for="30m",
        summary="Faktory orders does not close what its clients have left.",
        description=_leaving("20"),
        last_description=_leaving("25"),
        runbook_url=RUNBOOKS + "FaktoryCloseWaitLeak.md",
        dashboard_url=GRAFANA + "faktory-workers?viewPanel=12" + OF_SERVER,
        just_below={LEAVING: "0x40m 10 | 19 | 0"},
        guards={
            "as many as before": {LEAVING: "25"},
            "fewer than before": {LEAVING: "60x1h 40 | 30 | 0"},
            "all are closed now and then": {LEAVING: "0x1h 40 | 0 40x19m 0 40x19m 0 40 | 0"},
            "another state grows": {LEAVING: None, 'faktory_sockets{state="established"}': "0x40m 10 | 20x10m 25 | 0"},
        },
        holds={"a scrape is missed": {LEAVING: "0x40m 10 | 20x10m stale 25 | 0"}},
    ),
)

READING: Final = (
    Case(
        alert="ForewarnLogUnread",
        labels=SERVER | {"severity": "warning"},
        series={LOG_UNREAD: "0 | 67108864+1048576 | 0"},
        breach="10m",
        cure="30m",
        pending="10m",
        keep_firing_for="10m",
        summary="Forewarn at 10.0.0.5:9386 cannot keep up with the log of orders.",
        description=_unread("84MiB"),
        last_description=_unread("103MiB"),
        runbook_url=RUNBOOKS + "ForewarnLogUnread.md",
        dashboard_url=GRAFANA + "forewarn?viewPanel=8" + OF_SERVER,
        just_below={LOG_UNREAD: "0 | 26214399+1048576 | 0"},
        guards={
            "it becomes less": {LOG_UNREAD: "_ | 268435456-1048576 | 0"},
            "it is the same": {LOG_UNREAD: "134217728"},
            "it is not known": {LOG_UNREAD: None},
        },
        holds={"a scrape is missed": {LOG_UNREAD: "0 | 67108864+1048576x12m stale 93323264+1048576 | 0"}},
    ),
)

CASES: Final = (*DEATHS, *TOLD, *OF_KERNEL, *READING)


@pytest.mark.parametrize("situation", fires(CASES))
def test_waits_fires_holds_and_resolves(situation: Situation) -> None:
    verify(situation)


@pytest.mark.parametrize("situation", stays_silent(CASES))
def test_stays_silent(situation: Situation) -> None:
    verify(situation)
