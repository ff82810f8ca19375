"""What the alerts about latency, errors and capacity tell, when, and in which words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.rule_cases import (
    RULES,
    SERVER,
    Case,
    Samples,
    Situation,
    check,
    fires,
    input_series,
    rules_of,
    seconds,
    stays_silent,
    verify,
)

RUNBOOKS = "https://runbooks.example.com/forewarn"
DASHBOARDS = "https://grafana.example.com/d"
HERE = "&from=now-3h&to=now&var-job=forewarn&var-instance=10.0.0.5%3A9386&var-server=orders"

BURNING = "Jobs wait too long in queue mail of Faktory orders."
BURN_PAGE = f"{RUNBOOKS}/FaktoryQueueLatencyBudgetBurn.md"
BURN_PANEL = f"{DASHBOARDS}/faktory-queues?viewPanel=2{HERE}&var-queue=mail"

LATENCY = 'faktory_queue_latency_seconds{queue="mail"}'
WAITING = 'faktory_queue_jobs{queue="mail"}'
PAUSED = 'faktory_queue_paused{queue="mail"}'


def _burning(long: str, times: str) -> str:
    return (
        f"Over {long} the latency objective was missed {times} times as often as its budget allows, and it still is."
        " Whoever waits for these jobs notices. See whether more is pushed than usual, workers are missing, or jobs"
        " take longer."
    )


def _executions(jobtype: str) -> str:
    return f'faktory_job_duration_seconds_count{{queue="mail", jobtype="{jobtype}"}}'


# The burn rate is 100 while jobs wait too long and 0 while they do not, its budget being 1 %: over a window it is the
# share of slow samples in percent. A window holds one sample more than it has steps.
LATENCY_CASES = (
    Case(
        alert="FaktoryQueueLatencyBudgetBurn",
        labels=SERVER | {"queue": "mail", "severity": "critical", "long": "1h", "short": "5m"},
        series={LATENCY: "0 | 61 | 0", WAITING: "10", PAUSED: "0"},
        breach="1h10m",
        noticed="1h18m30s",  # 18 of 121 are more than 14.4 %
        cure="1h25m",
        cleared="1h29m30s",  # 1 of 11 is less than 14.4 %
        pending="2m",
        keep_firing_for="5m",
        summary=BURNING,
        description=_burning("1h", "18.2"),
        last_description=_burning("1h", "24.8"),
        runbook_url=BURN_PAGE,
        dashboard_url=BURN_PANEL,
        just_below={LATENCY: "0 | 61x17 0 | 0"},
        guards={
            "they wait just as long as they may": {LATENCY: "0 | 60 | 0"},
            "the queue is paused": {PAUSED: "1"},
            "few jobs wait and few were executed": {
                WAITING: "9",
                _executions("welcome"): "0x1h5m 0+1x6 5",
                _executions("goodbye"): "0x1h5m 0+1x5 4",
            },
            "few jobs wait and no execution was seen": {WAITING: "9"},
            "one job waits for less than the long window": {WAITING: "1", LATENCY: "0 | 3599 | 0"},
            "the latency is unknown": {LATENCY: "0 | stale"},
        },
        holds={
            "few jobs wait but enough were executed": {
                WAITING: "9",
                _executions("welcome"): "0x1h5m 0+1x6 5",
                _executions("goodbye"): "0x1h5m 0+1x6 5",
            },
            "nobody knows how many wait but enough were executed": {WAITING: None, _executions("welcome"): "0+1"},
            "Forewarn starts anew and counts from 0": {WAITING: "9", _executions("welcome"): "100+1 | 0+1"},
            "it is not known whether the queue is paused": {PAUSED: None},
        },
    ),
    Case(
        alert="FaktoryQueueLatencyBudgetBurn",
        labels=SERVER | {"queue": "mail", "severity": "critical", "long": "1h", "short": "5m"},
        series={LATENCY: "0 | 3600 | 0", WAITING: "1"},  # a single job, but it waits for the whole window
        breach="1h10m",
        noticed="1h18m30s",
        cure="1h25m",
        pending="2m",
        keep_firing_for="5m",
        summary=BURNING,
        description=_burning("1h", "18.2"),
        last_description=_burning("1h", "24.8"),
        runbook_url=BURN_PAGE,
        dashboard_url=BURN_PANEL,
        just_below={LATENCY: "0 | 3599 | 0"},
    ),
    Case(
        alert="FaktoryQueueLatencyBudgetBurn",
        labels=SERVER | {"queue": "mail", "severity": "critical", "long": "6h", "short": "30m"},
        series={LATENCY: "0 | 61 | 0", WAITING: "10"},
        breach="6h10m",
        noticed="6h31m",  # 22 of 361 are more than 6 %
        cure="6h50m",
        cleared="7h19m",  # 1 of 31 is less than 6 %
        pending="15m",
        keep_firing_for="5m",
        summary=BURNING,
        description=_burning("6h", "10.2"),
        last_description=_burning("6h", "11.1"),
        runbook_url=BURN_PAGE,
        dashboard_url=BURN_PANEL,
        just_below={LATENCY: "0 | 61x21 0 | 0"},
        guards={
            "few jobs wait and few were executed": {WAITING: "9", _executions("welcome"): "0x1h 0+1x10 9"},
            "one job waits for less than the long window": {WAITING: "1", LATENCY: "0 | 21599 | 0"},
        },
        holds={
            "few jobs wait but enough were executed": {WAITING: "9", _executions("welcome"): "0x2h 0+1x11 10"},
        },
        step="1m",
    ),
    Case(
        alert="FaktoryQueueLatencyBudgetBurn",
        labels=SERVER | {"queue": "mail", "severity": "warning", "long": "1d", "short": "2h"},
        series={LATENCY: "0 | 61 | 0", WAITING: "10"},
        breach="24h",
        noticed="24h40m",  # 9 of 289 are more than 3 %
        cure="26h",
        cleared="28h",  # none of 25
        pending="1h",
        keep_firing_for="5m",
        summary=BURNING,
        description=_burning("1d", "7.3"),
        last_description=_burning("1d", "8.3"),
        runbook_url=BURN_PAGE,
        dashboard_url=BURN_PANEL,
        just_below={LATENCY: "0 | 61x8 0 | 0"},
        guards={
            "few jobs wait and few were executed": {WAITING: "9", _executions("welcome"): "0x12h 0+1x10 9"},
            "one job waits for less than the long window": {WAITING: "1", LATENCY: "0 | 86399 | 0"},
        },
        holds={
            "few jobs wait but enough were executed": {WAITING: "9", _executions("welcome"): "0x12h 0+1x11 10"},
        },
        step="5m",
    ),
    Case(
        alert="FaktoryQueueLatencyBudgetBurn",
        labels=SERVER | {"queue": "mail", "severity": "warning", "long": "3d", "short": "6h"},
        series={LATENCY: "0 | 61 | 0", WAITING: "10"},
        breach="72h",
        noticed="72h40m",  # 9 of 865 are more than 1 %
        cure="76h",
        cleared="82h",  # none of 73
        pending="3h",
        keep_firing_for="5m",
        summary=BURNING,
        description=_burning("3d", "5.2"),
        last_description=_burning("3d", "5.5"),
        runbook_url=BURN_PAGE,
        dashboard_url=BURN_PANEL,
        just_below={LATENCY: "0 | 61x8 0 | 0"},
        guards={
            "few jobs wait and few were executed": {WAITING: "9", _executions("welcome"): "0x24h 0+1x10 9"},
            "one job waits for less than the long window": {WAITING: "1", LATENCY: "0 | 259199 | 0"},
        },
        holds={
            "few jobs wait but enough were executed": {WAITING: "9", _executions("welcome"): "0x24h 0+1x11 10"},
        },
        step="5m",
    ),
    Case(
        alert="FaktorySchedulerStuck",
        labels=SERVER | {"set": "scheduled", "severity": "critical"},
        series={
            'faktory_set_overdue_seconds{set="scheduled"}': "0 | 61 | 0",
            'faktory_set_overdue_seconds{set="retries"}': "60",
        },
        breach="5m",
        cure="10m",
        pending="3m",
        keep_firing_for="2m",
        summary="Faktory orders does not enqueue jobs whose time has come (scheduled).",
        description="The earliest due entry of scheduled is overdue by 1m 1s. Scheduled jobs and retries stay where"
        " they are until the scheduler works again. See the server's log for errors of its scheduler, and its Redis.",
        runbook_url=f"{RUNBOOKS}/FaktorySchedulerStuck.md",
        dashboard_url=f"{DASHBOARDS}/faktory-overview?viewPanel=7{HERE}",
        just_below={'faktory_set_overdue_seconds{set="scheduled"}': "0 | 60 | 0"},
        guards={"it is unknown": {'faktory_set_overdue_seconds{set="scheduled"}': "0 | stale"}},
        holds={"a scrape is missed": {'faktory_set_overdue_seconds{set="scheduled"}': "0 | 61x4m stale 61 | 0"}},
    ),
)

AGE = 'faktory_busy_job_oldest_age_seconds{queue="mail", jobtype="welcome"}'
BUSY = 'faktory_busy_jobs{queue="mail", jobtype="welcome"}'
ORPHANED = 'faktory_orphaned_jobs{queue="mail", jobtype="welcome"}'
ORPHAN_AGE = 'faktory_orphaned_job_oldest_age_seconds{queue="mail", jobtype="welcome"}'
ENDED = _executions("welcome")
UNUSUAL = "A welcome job on Faktory orders takes much longer than usual."


def _bucket(le: str) -> str:
    return f'faktory_job_duration_seconds_bucket{{queue="mail", jobtype="welcome", le="{le}"}}'


BUSY_CASES = (
    Case(
        alert="FaktoryBusyJobOlderThanUsual",
        labels=SERVER | {"queue": "mail", "jobtype": "welcome", "severity": "warning"},
        # All took between 30 s and 60 s: 99 % within 59.7 s, three times of which are 179.1 s.
        series={
            AGE: "10 | 180 | 10",
            BUSY: "2",
            ORPHANED: "0",
            ENDED: "0+1",
            _bucket("30"): "0",
            _bucket("60"): "0+1",
            _bucket("120"): "0+1",
            _bucket("+Inf"): "0+1",
        },
        breach="30m",
        cure="35m",
        pending="1m",
        keep_firing_for="2m",
        summary=UNUSUAL,
        description="It is busy for 3m 0s, more than 3 times as long as 99 % of its kind within 1d (queue mail). It may"
        " hang, and holds its worker's place. See what the job waits for.",
        runbook_url=f"{RUNBOOKS}/FaktoryBusyJobOlderThanUsual.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=6{HERE}&var-queue=mail&var-jobtype=welcome",
        just_below={AGE: "10 | 179 | 10"},
        guards={
            "its kind takes as long": {_bucket("60"): "0"},
            "too few of its kind have ended": {ENDED: "0+1x50 49"},
            "none of its kind has ended": dict.fromkeys(
                (ENDED, _bucket("30"), _bucket("60"), _bucket("120"), _bucket("+Inf"))
            ),
            "only orphans are busy": {BUSY: "2", ORPHANED: "2"},
            "the ages are unknown": {AGE: "10 | stale"},
        },
        holds={
            "just enough of its kind have ended": {ENDED: "0+1x51 50"},
            "Forewarn has started anew and counts from 0": dict.fromkeys(
                (ENDED, _bucket("60"), _bucket("120"), _bucket("+Inf")), "0+1x20m 0+1"
            ),
            "orphans are unknown": {ORPHANED: None},
            "none has ended for an hour": dict.fromkeys(
                (ENDED, _bucket("60"), _bucket("120"), _bucket("+Inf")), "0+1 | 59"
            ),
        },
    ),
    Case(
        alert="FaktoryBusyJobOlderThanUsual",
        labels=SERVER | {"queue": "mail", "jobtype": "welcome", "severity": "warning"},
        series={AGE: "10 | 61 | 10", ENDED: "0+1", _bucket("1"): "0+1", _bucket("+Inf"): "0+1"},
        breach="30m",
        cure="35m",
        pending="1m",
        keep_firing_for="2m",
        summary=UNUSUAL,
        description="It is busy for 1m 1s, more than 3 times as long as 99 % of its kind within 1d (queue mail). It may"
        " hang, and holds its worker's place. See what the job waits for.",
        runbook_url=f"{RUNBOOKS}/FaktoryBusyJobOlderThanUsual.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=6{HERE}&var-queue=mail&var-jobtype=welcome",
        just_below={AGE: "10 | 60 | 10"},
    ),
    Case(
        alert="FaktoryBusyWithoutCompletions",
        labels=SERVER | {"queue": "mail", "severity": "warning"},
        # The last of them is seen to have ended at 29m30s, none of them having taken more than 300 s.
        series={
            BUSY: "2",
            'faktory_busy_jobs{queue="mail", jobtype="goodbye"}': "4 | 4x5m 1 | 4",
            ORPHANED: "0",
            ENDED: "0+1 | 59 | 60+1",
            _bucket("120"): "0",
            _bucket("300"): "0+1 | 59 | 60+1",
            _bucket("600"): "0+1 | 59 | 60+1",
            _bucket("+Inf"): "0+1 | 59 | 60+1",
        },
        breach="30m",
        noticed="44m30s",
        cure="50m",
        pending="1m",
        keep_firing_for="2m",
        summary="Queue mail of Faktory orders is busy, but nothing gets done.",
        description="Its workers were busy all the time (jobs held, at least: 3), and none of its jobs has ended for"
        " 15m, though they usually take far less. Busy workers look well on every other graph. See what these jobs wait"
        " for: a lock, a database, an outside service.",
        runbook_url=f"{RUNBOOKS}/FaktoryBusyWithoutCompletions.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=7{HERE}&var-queue=mail",
        just_below={ENDED: "0+1 | 59x14m 60 | 61+1"},
        guards={
            "another kind of job of the queue gets done": {_executions("goodbye"): "0+1"},
            "nothing was busy for a moment": {
                BUSY: "2 | 2x10m 0 2 | 2",
                'faktory_busy_jobs{queue="mail", jobtype="goodbye"}': None,
            },
            "busy jobs are known only since a few minutes": {
                BUSY: "_ | _x5m 2 | 2",
                'faktory_busy_jobs{queue="mail", jobtype="goodbye"}': None,
            },
            "its jobs usually take more than half of the time": {  # 457 s of 900 s
                _bucket("300"): "0+979",
                _bucket("600"): "0+1000",
                _bucket("+Inf"): "0+1000",
            },
            "too few have ever ended": {ENDED: "0x5m 0+1 | 49 | 50+1"},
            "nobody knows what ends": {ENDED: None},
            "Forewarn starts anew and sees one end": {ENDED: "0+1 | 59x10m stale _x2m 1 | 2+1"},
        },
        holds={
            "just enough have ended": {ENDED: "0x4m30s 0+1 | 50 | 51+1"},
            "its jobs usually take less than half of the time": {  # 442 s of 900 s
                _bucket("300"): "0+981",
                _bucket("600"): "0+1000",
                _bucket("+Inf"): "0+1000",
            },
        },
    ),
    Case(
        alert="FaktoryReservationsExpired",
        labels=SERVER | {"severity": "warning"},
        series={"faktory_reservations_expired_total": "3 | 5"},
        breach="20m",
        cure="35m",
        pending="0s",
        keep_firing_for="5m",
        summary="Reservations on Faktory orders have run out.",
        description="Jobs taken back within 15m because their reservation ended: 2. They go to another worker if they"
        " may be retried; where the first one still lives they run twice. See which jobs outlive their reserve_for, and"
        " which workers crashed.",
        runbook_url=f"{RUNBOOKS}/FaktoryReservationsExpired.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=8{HERE}",
        just_below={"faktory_reservations_expired_total": "3"},
        guards={
            "Faktory starts anew and counts from 0": {"faktory_reservations_expired_total": "3 | 0"},
            "an old count is seen for the first time": {"faktory_reservations_expired_total": "_ | 5"},
            "a scrape is missed": {"faktory_reservations_expired_total": "3 | stale 3"},
        },
        holds={"a scrape is missed": {"faktory_reservations_expired_total": "3 | 5x5m stale 5"}},
    ),
)

VANISHED = 'faktory_worker_crashes_total{reason="vanished"}'
HUNG = 'faktory_worker_crashes_total{reason="hung"}'
CRASHING = "Workers of Faktory orders crash in numbers."


def _crashing(share: str) -> str:
    return (
        f"Within 1h as many workers crashed as make up {share} of those that are registered. Each leaves jobs behind"
        " that come back and may crash the next one. See what the crashed ones had in common: a job type, a machine, a"
        " deploy."
    )


WORKER_CASES = (
    Case(
        alert="FaktoryWorkerCrashRateHigh",
        labels=SERVER | {"severity": "critical"},
        series={VANISHED: "4 | 6", HUNG: "0 | 1", "faktory_workers": "14"},
        breach="1h10m",
        cure="2h10m",
        pending="0s",
        keep_firing_for="10m",
        summary=CRASHING,
        description=_crashing("21.43%"),
        runbook_url=f"{RUNBOOKS}/FaktoryWorkerCrashRateHigh.md",
        dashboard_url=f"{DASHBOARDS}/faktory-workers?viewPanel=7{HERE}",
        just_below={"faktory_workers": "15"},
        guards={
            "two of very few crash": {VANISHED: "4 | 5", "faktory_workers": "2"},
            "it is unknown how many workers there are": {"faktory_workers": None},
            "Forewarn starts anew without its state": {VANISHED: "4 | 0", HUNG: "1 | 0"},
            "old counts are seen for the first time": {VANISHED: "_ | 6", HUNG: "_ | 1"},
            "a deploy restarts all workers": {VANISHED: "4", HUNG: "0", "faktory_workers": "14 | 0x2m 14"},
        },
        holds={"none has hung": {VANISHED: "4 | 7", HUNG: "0"}},
    ),
    Case(
        alert="FaktoryWorkerCrashRateHigh",
        labels=SERVER | {"severity": "critical"},
        series={VANISHED: "4 | 7", "faktory_workers": "0"},
        breach="1h10m",
        cure="2h10m",
        pending="0s",
        keep_firing_for="10m",
        summary=CRASHING,
        description=_crashing("300%"),
        runbook_url=f"{RUNBOOKS}/FaktoryWorkerCrashRateHigh.md",
        dashboard_url=f"{DASHBOARDS}/faktory-workers?viewPanel=7{HERE}",
        just_below={VANISHED: "4 | 6"},
    ),
    Case(
        alert="FaktoryWorkerCrashed",
        labels=SERVER | {"reason": "vanished", "severity": "warning"},
        series={VANISHED: "4 | 5", HUNG: "2"},
        breach="15m",
        cure="25m",
        pending="0s",
        keep_firing_for="0s",
        summary="A worker of Faktory orders has crashed.",
        description="Workers that vanished within 10m while they held jobs: 1. Those jobs are lost to everybody until"
        " their reservations end. Forewarn's log names each worker and its jobs; see that machine for an out-of-memory"
        " kill or a crash.",
        runbook_url=f"{RUNBOOKS}/FaktoryWorkerCrashed.md",
        dashboard_url=f"{DASHBOARDS}/faktory-workers?viewPanel=6{HERE}",
        just_below={VANISHED: "4"},
        guards={
            "a worker hangs": {VANISHED: "4", HUNG: "2 | 3"},
            "Forewarn starts anew without its state": {VANISHED: "4 | 0"},
            "an old count is seen for the first time": {VANISHED: "_ | 4"},
        },
        holds={"scrapes are missed while it fires": {VANISHED: "4 | 5x5m stale _x2m 5"}},
    ),
    Case(
        alert="FaktoryWorkerHung",
        labels=SERVER | {"reason": "hung", "severity": "warning"},
        series={VANISHED: "4", HUNG: "2 | 3"},
        breach="20m",
        cure="35m",
        pending="0s",
        keep_firing_for="0s",
        summary="A worker of Faktory orders hung and was given up.",
        description="Workers struck off within 15m because they sent no heartbeat for a minute while they held jobs: 1."
        " The process may still run, and may still work on them. Forewarn's log names each worker; see whether it"
        " swaps, is stopped, or blocks.",
        runbook_url=f"{RUNBOOKS}/FaktoryWorkerHung.md",
        dashboard_url=f"{DASHBOARDS}/faktory-workers?viewPanel=6{HERE}",
        just_below={HUNG: "2"},
        guards={
            "a worker vanishes": {VANISHED: "4 | 5", HUNG: "2"},
            "Forewarn starts anew without its state": {HUNG: "2 | 0"},
            "an old count is seen for the first time": {HUNG: "_ | 2"},
        },
        holds={"scrapes are missed while it fires": {HUNG: "2 | 3x5m stale _x2m 3"}},
    ),
    Case(
        alert="FaktoryJobsOrphaned",
        labels=SERVER | {"queue": "mail", "jobtype": "welcome", "severity": "warning"},
        series={ORPHAN_AGE: "_ | 301 | stale"},
        breach="5m",
        cure="10m",
        pending="0s",
        keep_firing_for="1m",
        summary="Jobs of a crashed worker wait for their reservation to end on Faktory orders.",
        description="The oldest orphan of type welcome in queue mail lies idle for 5m 1s. Nobody works on it, and it"
        " counts as running, until its reservation ends. See how long that is, and whether somebody waits for it.",
        runbook_url=f"{RUNBOOKS}/FaktoryJobsOrphaned.md",
        dashboard_url=f"{DASHBOARDS}/faktory-workers?viewPanel=8{HERE}&var-queue=mail&var-jobtype=welcome",
        just_below={ORPHAN_AGE: "_ | 300 | stale"},
        holds={"a scrape is missed": {ORPHAN_AGE: "_ | 301x2m stale 301 | stale"}},
    ),
)

PROCESSED = "faktory_jobs_processed_total"
FAILED = "faktory_jobs_failed_total"
DEAD = 'faktory_set_jobs{set="dead"}'
EXECUTIONS = 'faktory_job_executions_total{queue="mail & news", jobtype="Mail::Welcome"}'
FAILURES = 'faktory_job_failures_total{queue="mail & news", jobtype="Mail::Welcome"}'


def _failing(share: str) -> str:
    return (
        f"{share} of the executions within 10m failed. Each comes back as a retry and takes the place of other work."
        " See which error they share: most often one dependency is away."
    )


def _type_failing(share: str) -> str:
    return (
        f"{share} of their executions within 15m failed (queue mail & news). Each comes back as a retry until it has"
        " none left. See which error they share, and what was last deployed of them."
    )


ERROR_CASES = (
    Case(
        alert="FaktoryRetryStorm",
        labels=SERVER | {"severity": "warning"},
        series={PROCESSED: "0+20", FAILED: "0 | 20+20 | 400"},
        breach="15m",
        noticed="17m30s",  # 6 of the 20 steps in the window are more than a quarter
        cure="25m",
        cleared="32m",  # 5 of the 20
        pending="5m",
        keep_firing_for="10m",
        summary="Many jobs fail on Faktory orders.",
        description=_failing("80%"),
        last_description=_failing("30%"),
        runbook_url=f"{RUNBOOKS}/FaktoryRetryStorm.md",
        dashboard_url=f"{DASHBOARDS}/faktory-overview?viewPanel=5{HERE}",
        just_below={FAILED: "0 | 5+5 | 100"},
        guards={
            "too few are executed": {PROCESSED: "0+2.45", FAILED: "0 | 2.45+2.45 | 49"},
            "none is executed": {PROCESSED: "1000", FAILED: "200"},
            "the counters go back to 0": {PROCESSED: "9000+20 | 0+20", FAILED: "8000 | 0"},
            "it is unknown how many failed": {FAILED: None},
            "it is unknown how many were executed": {PROCESSED: None},
        },
        holds={
            "just enough are executed": {PROCESSED: "0+2.5", FAILED: "0 | 2.5+2.5 | 50"},
            "the counters went back to 0 a while ago": {PROCESSED: "7000+20x4m 0+20", FAILED: "900x4m 0 | 20+20 | 400"},
        },
    ),
    Case(
        alert="FaktoryJobTypeFailing",
        labels=SERVER | {"queue": "mail & news", "jobtype": "Mail::Welcome", "severity": "warning"},
        series={EXECUTIONS: "0+4", FAILURES: "0 | 4+4 | 160"},
        breach="20m",
        noticed="27m30s",  # 16 of the 30 steps in the window are more than a half
        cure="40m",
        cleared="47m",  # 15 of the 30
        pending="5m",
        keep_firing_for="10m",
        summary="Most Mail::Welcome jobs fail on Faktory orders.",
        description=_type_failing("86.67%"),
        last_description=_type_failing("53.33%"),
        runbook_url=f"{RUNBOOKS}/FaktoryJobTypeFailing.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=9{HERE}"
        "&var-queue=mail+%26+news&var-jobtype=Mail%3A%3AWelcome",
        just_below={FAILURES: "0 | 2+2 | 80"},
        guards={
            "nothing listens for it": {EXECUTIONS: None, FAILURES: None},
            "too few are executed": {EXECUTIONS: "0+0.65", FAILURES: "0 | 0.65+0.65 | 26"},
            "none is executed": {EXECUTIONS: "1000", FAILURES: "800"},
            "the counters go back to 0": {EXECUTIONS: "9000+4 | 0+4", FAILURES: "8000 | 0"},
            "it is unknown how many failed": {FAILURES: None},
            "those of another queue fail": {
                FAILURES: "0",
                'faktory_job_failures_total{queue="slow", jobtype="Mail::Welcome"}': "0 | 4+4 | 160",
            },
        },
        holds={"hardly enough are executed": {EXECUTIONS: "0+0.75", FAILURES: "0 | 0.75+0.75 | 30"}},
    ),
    Case(
        alert="FaktoryDeadJobsGrowing",
        labels=SERVER | {"set": "dead", "severity": "warning"},
        series={DEAD: "100 | 110"},
        breach="10m",
        cure="1h10m",
        pending="0s",
        keep_firing_for="15m",
        summary="Faktory orders gives up on jobs.",
        description="Jobs that ran out of retries within 1h and went to the dead set: 10. Nothing runs them again by"
        " itself, and after 180 days they are deleted. See their errors, mend the cause, and requeue those that still"
        " matter.",
        runbook_url=f"{RUNBOOKS}/FaktoryDeadJobsGrowing.md",
        dashboard_url=f"{DASHBOARDS}/faktory-overview?viewPanel=6{HERE}",
        just_below={DEAD: "100 | 109"},
        guards={
            "another set grows": {DEAD: "100", 'faktory_set_jobs{set="retries"}': "100 | 200"},
            "it is seen for the first time": {DEAD: "_ | 110"},
            "somebody empties it": {DEAD: "100 | 0x5m 9"},
            "it is unknown for a while": {DEAD: "100 | stale _x10m 100"},
        },
        holds={"a scrape is missed": {DEAD: "100 | 110x5m stale 110"}},
    ),
)

CONNECTIONS = "faktory_connections"
LIMIT = "faktory_connections_limit"
BEHIND = 'faktory_throttle_waiting_jobs{queue="mail"}'
SATURATION = 'faktory_throttle_saturation_ratio{queue="mail", scope="cluster"}'
MEMORY = "faktory_memory_bytes"


def _stairs(first: int, end: int, each: str) -> str:
    """Return samples of whole numbers from ``first`` to below ``end``, each for as long as ``each`` tells."""
    return " ".join(f"{number}x{each}" for number in range(first, end))


def _filling(left: str) -> str:
    return (
        f"If connections go on growing as they did over the last 15m, the limit is reached in {left}. Then every"
        " further client is refused. Find what opens connections and does not close them while there is time."
    )


def _behind(jobs: str) -> str:
    return (
        f"Jobs that wait behind the throttle: {jobs}. Their number has grown over the last 30m: more comes in than it"
        " lets through. More workers will not help. Push less, make the jobs shorter, or raise the limit."
    )


def _growing(jobs: str) -> str:
    return (
        f"Jobs that wait: {jobs}, and more all the time for 1h. More is pushed than workers take. They wait longer and"
        " longer, and all of them lie in the memory of Redis. See whether pushes rose or completions fell."
    )


def _swelling(size: str) -> str:
    return (
        f"At the rate of the last 6h the process, without its Redis, holds {size} in 1d, more than 2 times what it"
        " holds now. Compare with the memory that it may take before the kernel ends it. See whether connections grow"
        " as well: each costs memory."
    )


TREND_CASES = (
    Case(
        alert="FaktoryConnectionsFilling",
        labels=SERVER | {"severity": "warning"},
        series={CONNECTIONS: "600 | 608+8 | 400", LIMIT: "1000"},
        breach="20m",
        noticed="28m",
        cure="41m",
        pending="10m",
        keep_firing_for="10m",
        summary="Faktory orders will soon run out of connections.",
        description=_filling("6m 30s"),
        last_description=_filling("4m 0s"),
        runbook_url=f"{RUNBOOKS}/FaktoryConnectionsFilling.md",
        dashboard_url=f"{DASHBOARDS}/faktory-workers?viewPanel=2{HERE}",
        just_below={CONNECTIONS: "600 | 603+3 | 400"},
        guards={
            "half of the limit is free": {CONNECTIONS: "100 | 131+9 | 100"},
            "the limit is unknown": {LIMIT: None},
            "there is no limit": {LIMIT: "0"},
            "they are many, but the same all the time": {CONNECTIONS: "990"},
            "they become fewer": {CONNECTIONS: "990-4"},
        },
    ),
    Case(
        alert="FaktoryThrottleNotDraining",
        labels=SERVER | {"queue": "mail", "severity": "warning"},
        series={BEHIND: "10+1", SATURATION: "0.7 | 0.8 | 0.7"},
        breach="35m",
        cure="1h",
        pending="15m",
        keep_firing_for="10m",
        summary="Work piles up behind the throttle of queue mail on Faktory orders.",
        description=_behind("110"),
        last_description=_behind("129"),
        runbook_url=f"{RUNBOOKS}/FaktoryThrottleNotDraining.md",
        dashboard_url=f"{DASHBOARDS}/faktory-throttles?viewPanel=2{HERE}&var-queue=mail",
        just_below={SATURATION: "0.79"},
        guards={
            "few wait, though more and more": {BEHIND: "0x10m 1x5m 3x5m 5x5m 7x10m 9"},
            "its saturation is unknown": {SATURATION: None},
            "as many wait all the time": {BEHIND: "500"},
            "half as many again as half an hour ago wait": {BEHIND: "110+1"},
            "fewer and fewer wait": {BEHIND: "500-1"},
        },
        holds={
            "it is the throttle of each worker": {
                SATURATION: "0.1",
                'faktory_throttle_saturation_ratio{queue="mail", scope="worker"}': "0.7 | 1 | 0.7",
            }
        },
    ),
    Case(
        alert="FaktoryThrottleNotDraining",
        labels=SERVER | {"queue": "mail", "severity": "warning"},
        series={BEHIND: f"0x15m {_stairs(0, 10, '2m')} | {_stairs(10, 20, '2m')} | 0", SATURATION: "1"},
        breach="35m",
        cure="55m",
        pending="15m",
        keep_firing_for="10m",
        summary="Work piles up behind the throttle of queue mail on Faktory orders.",
        description=_behind("17"),
        last_description=_behind("19"),
        runbook_url=f"{RUNBOOKS}/FaktoryThrottleNotDraining.md",
        dashboard_url=f"{DASHBOARDS}/faktory-throttles?viewPanel=2{HERE}&var-queue=mail",
        just_below={BEHIND: f"0x15m {_stairs(0, 10, '2m')} | 9 | 0"},
    ),
    Case(
        alert="FaktoryBacklogGrowing",
        labels=SERVER | {"queue": "mail", "severity": "warning"},
        series={WAITING: "0+1", PAUSED: "1 | 0 | 1"},
        breach="1h10m",
        cure="1h30m",
        pending="15m",
        keep_firing_for="15m",
        summary="Queue mail of Faktory orders grows and grows.",
        description=_growing("170"),
        last_description=_growing("179"),
        runbook_url=f"{RUNBOOKS}/FaktoryBacklogGrowing.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=3{HERE}&var-queue=mail",
        just_below={WAITING: "0x20m 0+1x99 99"},
        guards={
            "it is half as much again as an hour ago": {WAITING: "220+1"},
            "the queue is paused": {PAUSED: "1"},
            "it is long, but the same all the time": {WAITING: "5000"},
            "it becomes shorter": {WAITING: "5000-10"},
            "it was not known an hour ago": {WAITING: "_x40m 100+10"},
        },
        holds={"it is not known whether the queue is paused": {PAUSED: "1 | stale | 1"}},
    ),
    Case(
        alert="FaktoryBacklogGrowing",
        labels=SERVER | {"queue": "mail", "severity": "warning"},
        series={WAITING: f"{_stairs(0, 100, '1m')} | {_stairs(100, 120, '1m')} | 0"},
        breach="1h40m",
        cure="2h",
        pending="15m",
        keep_firing_for="15m",
        summary="Queue mail of Faktory orders grows and grows.",
        description=_growing("115"),
        last_description=_growing("119"),
        runbook_url=f"{RUNBOOKS}/FaktoryBacklogGrowing.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=3{HERE}&var-queue=mail",
        just_below={WAITING: f"{_stairs(0, 100, '1m')} | 99 | 0"},
    ),
    Case(
        alert="FaktoryMemoryGrowing",
        labels=SERVER | {"severity": "warning"},
        # 1.2 MiB more in 5 minutes: above 256 MiB after 4h5m; in the end the process is started anew.
        series={MEMORY: "206780000+1258291 | 268436259+1258291 | 104857600"},
        breach="4h5m",
        cure="7h",
        pending="2h",
        keep_firing_for="1h",
        summary="The memory of Faktory orders grows steadily.",
        description=_swelling("630.4MiB"),
        last_description=_swelling("642.4MiB"),
        runbook_url=f"{RUNBOOKS}/FaktoryMemoryGrowing.md",
        dashboard_url=f"{DASHBOARDS}/faktory-overview?viewPanel=3{HERE}",
        just_below={MEMORY: "206780000+1258291 | 268435456 | 104857600"},
        guards={
            "it would take longer until it has doubled": {MEMORY: "314572800+1048576"},
            "the process is small": {MEMORY: "20971520+2097152"},
            "it is large, but the same all the time": {MEMORY: "9000000000"},
            "it is unknown": {MEMORY: "206780000+1258291 | stale"},
        },
        step="5m",
    ),
)

LEFT_BEHIND_CASES = (
    Case(
        alert="FaktoryQueuePausedWithBacklog",
        labels=SERVER | {"queue": "mail", "severity": "warning"},
        series={WAITING: "1", PAUSED: "0 | 1 | 0"},
        breach="5m",
        cure="1h15m",
        pending="1h",
        keep_firing_for="5m",
        summary="Queue mail of Faktory orders is paused, and jobs wait in it.",
        description="Jobs that wait in it: 1. No worker is given work from a paused queue. Somebody paused it and may"
        " have forgotten. Resume it, or silence this alert until it may run again.",
        runbook_url=f"{RUNBOOKS}/FaktoryQueuePausedWithBacklog.md",
        dashboard_url=f"{DASHBOARDS}/faktory-queues?viewPanel=4{HERE}&var-queue=mail",
        just_below={WAITING: "0"},
        guards={
            "it is not paused": {PAUSED: "0"},
            "it is not known whether it is paused": {PAUSED: None},
            "another queue is paused": {PAUSED: "0", 'faktory_queue_paused{queue="sms"}': "1"},
        },
        holds={"a scrape is missed": {WAITING: "1 | 1x1h5m stale 1 | 1", PAUSED: "0 | 1x1h5m stale 1 | 0"}},
        step="1m",
    ),
    Case(
        alert="FaktoryConnectionsLimitUnknown",
        labels=SERVER | {"severity": "info"},
        series={CONNECTIONS: "7", LIMIT: "100 | stale | 100"},
        breach="5m",
        cure="25m",
        pending="15m",
        keep_firing_for="5m",
        summary="The connection limit of Faktory orders is not known.",
        description="Connections that are open: 7. Nobody can tell how many may be: no warning will come before clients"
        " are refused. Faktory Enterprise does not tell its limit: set connections_limit in Forewarn's settings to what"
        " the licence allows.",
        runbook_url=f"{RUNBOOKS}/FaktoryConnectionsLimitUnknown.md",
        dashboard_url=f"{DASHBOARDS}/faktory-workers?viewPanel=9{HERE}",
        just_below={LIMIT: "100"},
        holds={"a scrape is missed": {CONNECTIONS: "7 | 7x17m stale 7 | 7"}},
        guards={"nothing is known of the server": {CONNECTIONS: "7 | stale | 7"}},
    ),
    Case(
        alert="FaktoryThrottleWithoutQueue",
        labels=SERVER | {"queue": "mial", "scope": "worker", "severity": "info"},
        series={
            'faktory_throttle_limit{queue="mial", scope="worker"}': "_ | 5 | stale",
            'faktory_throttle_limit{queue="mail", scope="worker"}': "5",
            WAITING: "3",
        },
        breach="5m",
        cure="1h15m",
        pending="1h",
        keep_firing_for="5m",
        summary="A throttle on Faktory orders names queue mial, which does not exist.",
        description="It allows 5 jobs at once (worker), but the server knows no such queue. If the name is misspelt,"
        " the queue that was meant runs without a limit. Compare the names in conf.d with those that are pushed to.",
        runbook_url=f"{RUNBOOKS}/FaktoryThrottleWithoutQueue.md",
        dashboard_url=f"{DASHBOARDS}/faktory-throttles?viewPanel=3{HERE}&var-queue=mial",
        just_below={'faktory_queue_jobs{queue="mial"}': "0"},
        guards={
            "some queues are folded into one": {'faktory_queue_jobs{queue="(other)"}': "0"},
            "the server has no queue at all": {WAITING: None},
            "only another server has queues": {WAITING: None, 'faktory_queue_jobs{queue="mail", server="search"}': "3"},
            "the queues become unknown": {WAITING: "3 | stale | 3"},
        },
        holds={
            "a scrape is missed": {'faktory_throttle_limit{queue="mial", scope="worker"}': "_ | 5x1h5m stale 5 | stale"}
        },
        step="1m",
    ),
)

CASES = (*LATENCY_CASES, *BUSY_CASES, *WORKER_CASES, *ERROR_CASES, *TREND_CASES, *LEFT_BEHIND_CASES)


class Passing(Struct, frozen=True, kw_only=True):
    """A situation that may make an alert pending, but never fire."""

    form: str
    name: str
    series: Samples
    until: str


def _noisy(middle: float, spread: float, samples: int) -> str:
    """Return samples around ``middle`` that wander for some minutes, always the same ones."""
    numbers, wander = random.Random(4), 0.0
    drawn = []
    for _ in range(samples):
        wander = 0.8 * wander + numbers.gauss(0, 0.6 * spread)
        drawn.append(str(round(max(0.0, middle + wander))))
    return " ".join(drawn)


# One evaluation less than it would have to last, or something that only looks like it.
PASSING = (
    Passing(
        form="FaktorySchedulerStuck-critical",
        name="it was late for less than three minutes",
        series={'faktory_set_overdue_seconds{set="scheduled"}': "0x5m 61x3m 0"},
        until="15m",
    ),
    Passing(
        form="FaktoryBusyJobOlderThanUsual-warning",
        name="the slow job ends within a minute",
        series={
            AGE: "10x30m 180x1m 10",
            BUSY: "2",
            ORPHANED: "0",
            ENDED: "0+1",
            _bucket("30"): "0",
            _bucket("60"): "0+1",
            _bucket("+Inf"): "0+1",
        },
        until="40m",
    ),
    Passing(
        form="FaktoryConnectionsFilling-warning",
        name="the leak is closed in time",
        series={CONNECTIONS: "600x20m 608+8x13m 400", LIMIT: "1000"},
        until="1h",
    ),
    Passing(
        form="FaktoryThrottleNotDraining-warning",
        name="the throttle has room again in time",
        series={BEHIND: "10+1", SATURATION: "0.7x35m 0.8x15m 0.7"},
        until="1h10m",
    ),
    Passing(
        form="FaktoryBacklogGrowing-warning",
        name="the queue is paused in time",
        series={WAITING: "0+1", PAUSED: "1x1h10m 0x15m 1"},
        until="1h40m",
    ),
    Passing(
        form="FaktoryMemoryGrowing-warning",
        name="the process is started anew in time",
        series={MEMORY: "67108864+4194304x6h5m 104857600"},
        until="8h",
    ),
    Passing(
        form="FaktoryQueuePausedWithBacklog-warning",
        name="it is resumed within the hour",
        series={WAITING: "5", PAUSED: "0x5m 1x1h 0"},
        until="1h20m",
    ),
    Passing(
        form="FaktoryConnectionsLimitUnknown-info",
        name="it is known within a quarter of an hour",
        series={CONNECTIONS: "7", LIMIT: "_x15m 100"},
        until="30m",
    ),
    Passing(
        form="FaktoryThrottleWithoutQueue-info",
        name="the first job comes within the hour",
        series={
            'faktory_throttle_limit{queue="mial", scope="worker"}': "5",
            'faktory_queue_jobs{queue="mial"}': "_x1h 0",
            WAITING: "3",
        },
        until="1h20m",
    ),
)

STEADY = (
    Passing(
        form="FaktoryConnectionsFilling-warning",
        name="around three quarters of the limit",
        series={CONNECTIONS: _noisy(750, 15, 720), LIMIT: "1000"},
        until="6h",
    ),
    Passing(
        form="FaktoryBacklogGrowing-warning",
        name="around two hundred jobs",
        series={WAITING: _noisy(200, 20, 720)},
        until="6h",
    ),
    Passing(
        form="FaktoryMemoryGrowing-warning",
        name="around half a gigabyte",
        series={MEMORY: _noisy(500e6, 10e6, 576)},
        until="48h",
    ),
)

# What is not what it looks like.
DECEPTIVE = (
    *(
        Passing(
            form=form,
            name="Forewarn is new here, and jobs waited too long for five minutes",
            series={LATENCY: f"0 61x{slow} 0", WAITING: "50"},
            until=until,
        )
        for form, slow, until in (
            ("FaktoryQueueLatencyBudgetBurn-critical-1h", 10, "2h"),
            ("FaktoryQueueLatencyBudgetBurn-critical-6h", 5, "2h"),
            ("FaktoryQueueLatencyBudgetBurn-warning-1d", 1, "6h"),
            ("FaktoryQueueLatencyBudgetBurn-warning-3d", 1, "12h"),
        )
    ),
    Passing(
        form="FaktoryBusyWithoutCompletions-warning",
        name="only orphans are busy",
        series={
            BUSY: "1",
            ORPHANED: "0x30m 1",
            ENDED: "0+1x30m 59",
            _bucket("300"): "0+1x30m 59",
            _bucket("+Inf"): "0+1x30m 59",
        },
        until="1h",
    ),
    Passing(
        form="FaktoryConnectionsFilling-warning",
        name="Faktory is started anew and all come back",
        series={CONNECTIONS: "600x1h 0x3m 600", LIMIT: "1000"},
        until="2h",
    ),
    Passing(
        form="FaktoryConnectionsFilling-warning",
        name="a third more for a while",
        series={CONNECTIONS: "600x30m 700 800x20m 600", LIMIT: "1000"},
        until="2h",
    ),
    Passing(
        form="FaktoryConnectionsFilling-warning",
        name="Forewarn is new here and all come within a minute",
        series={CONNECTIONS: "0 300 600", LIMIT: "1000"},
        until="1h",
    ),
    Passing(
        form="FaktoryThrottleNotDraining-warning",
        name="as many wait all the time, more or less",
        series={BEHIND: _noisy(50, 10, 720), SATURATION: "1"},
        until="6h",
    ),
    Passing(
        form="FaktoryThrottleNotDraining-warning",
        name="many come at once and become fewer ever since",
        series={BEHIND: "0x1h 300-1x2h 0", SATURATION: "1"},
        until="3h30m",
    ),
    Passing(
        form="FaktoryBacklogGrowing-warning",
        name="many come at once and become fewer ever since",
        series={WAITING: "5x2h 500-4x1h 5"},
        until="4h",
    ),
    Passing(
        form="FaktoryMemoryGrowing-warning",
        name="the process has started and needs what it always does",
        series={MEMORY: "52428800 230686720 419430400"},
        until="12h",
    ),
    Passing(
        form="FaktoryMemoryGrowing-warning",
        name="it needs more once",
        series={MEMORY: "314572800x12h 419430400"},
        until="24h",
    ),
    Passing(
        form="FaktoryMemoryGrowing-warning",
        name="the process has started and since needs a little more every 20 minutes",
        series={MEMORY: "52428800 230686720 " + " ".join(f"{mb}000000x20m" for mb in range(400, 426)) + " 426000000"},
        until="9h",
    ),
)
ALONE = tuple(
    Passing(
        form=f"FaktoryQueueLatencyBudgetBurn-{form}",
        name="one job that nobody takes",
        series={LATENCY: f"0x{before} {waited}", WAITING: "1"},
        until=until,
    )
    for form, before, waited, until in (
        ("critical-6h", "6h", 21600, "7h"),
        ("warning-1d", "24h", 86400, "26h"),
        ("warning-3d", "72h", 259200, "76h"),
    )
)
ECHO = Passing(
    form="FaktoryQueueLatencyBudgetBurn-warning-3d",
    name="a scrape was missed half of the long window ago",
    series={LATENCY: "0x38h20m stale 0x33h35m 61", WAITING: "10"},
    until="75h45m",
)


def _case(form: str) -> Case:
    return next(case for case in CASES if case.form == form)


def _verify_passing(it: Passing, expected: dict[str, list[dict[str, Any]]], rules: Path = RULES) -> None:
    """Fail where the alert was not in the states that are ``expected``, or in one where nothing is."""
    case = _case(it.form)
    document = {
        "evaluation_interval": case.step,
        "tests": [
            {
                "name": f"{it.form}: {it.name}",
                "interval": case.step,
                "input_series": input_series(it.series, case.step, (), seconds(it.until)),
                "promql_expr_test": [
                    {
                        "expr": f'count(count_over_time(ALERTS{{alertname="{case.alert}", alertstate="{state}"}}'
                        f"[{it.until}]))",
                        "eval_time": it.until,
                        "exp_samples": samples,
                    }
                    for state, samples in expected.items()
                ],
            }
        ],
    }
    check(document, rules_of(case, rules), f"{it.form}: {it.name}")


def _named(it: Passing) -> str:
    return f"{it.form}: {it.name}"


@pytest.mark.parametrize("situation", fires(CASES))
def test_waits_fires_holds_and_resolves(situation: Situation) -> None:
    verify(situation)


@pytest.mark.parametrize("situation", stays_silent(CASES))
def test_stays_silent(situation: Situation) -> None:
    verify(situation)


@pytest.mark.parametrize("passing", PASSING, ids=_named)
def test_waits_until_it_has_passed(passing: Passing) -> None:
    _verify_passing(passing, {"pending": [{"labels": "{}", "value": 1}], "firing": []})


@pytest.mark.parametrize("passing", STEADY, ids=_named)
def test_takes_what_returns_to_its_level_for_steady(passing: Passing) -> None:
    _verify_passing(passing, {"firing": []})


@pytest.mark.parametrize("passing", DECEPTIVE, ids=_named)
def test_is_not_deceived(passing: Passing) -> None:
    _verify_passing(passing, {"firing": []})


def test_a_scrape_missed_long_ago_does_not_delay_it() -> None:
    _verify_passing(ECHO, {"firing": [{"labels": "{}", "value": 1}]})


@pytest.mark.parametrize("passing", ALONE, ids=_named)
def test_one_job_that_waits_for_all_of_the_long_window_is_enough(passing: Passing) -> None:
    _verify_passing(passing, {"firing": [{"labels": "{}", "value": 1}]})
