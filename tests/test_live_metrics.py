"""Every metric, on every server at hand, with the value that the test itself brought about."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exporter import __version__
from exporter.catalogue import METRICS
from exporter.model import AGE_BUCKETS, CRASH_KINDS, DURATION_BUCKETS, NONE, OTHER, Reason, Rejection
from exporter.signals.connections import PEERS
from exporter.statsd.receiver import MAX_CONNECTIONS
from exporter.statsd.report import SECONDS_BOUNDS, VALUES_BOUNDS, Config
from exporter.statsd.sockets import RECEIVE_BUFFER
from tests import live_statsd
from tests.forewarn import Forewarn, Scrape
from tests.live_scenarios import Scenario, all_of, standing_still, worker
from tests.live_statsd import ENTERPRISE, ENTERPRISE_LINES, TOLD_COUNTS, TOLD_LEVELS, by_labels, check_told, inbox
from tests.prometheus import Prometheus
from tests.receiver import receiving, saying
from tests.servers import StandInFaktory, WatchedServer, children, free_port, wait_until
from tests.wire import Wire, new_jid

COLLECTORS = {"health", "connection", "sockets", "redis", "throttles"}
"""The parts of every poll on the server's own machine, with Redis and a configuration folder."""

POLL = 1.0
NOISE = 3.0
"""Seconds that a machine may be late."""

PROVEN: dict[str, Scenario] = {}
"""Which scenario brings a metric's value about."""


def proves(*metrics: str) -> Callable[[Scenario], Scenario]:
    """Note that a scenario brings about the values of these metrics."""

    def note(scenario: Scenario) -> Scenario:
        PROVEN.update(dict.fromkeys(metrics, scenario))
        return scenario

    return note


async def told(forewarn: Forewarn, condition: Callable[[Scrape], object], deadline: float, what: str) -> Scrape:
    """Wait for a scrape that meets ``condition`` and return it."""
    last: list[Scrape] = []

    async def met() -> bool:
        last[:] = [await forewarn.scrape()]
        return bool(condition(last[0]))

    try:
        await wait_until(met, deadline, every=0.1, what=what)
    except AssertionError as error:
        error.add_note(last[0].text if last else "no scrape")
        raise
    return last[0]


def values(scrape: Scrape, name: str, *by: str) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by the values of these labels."""
    return {tuple(labels[it] for it in by): value for labels, value in scrape.matching(name)}


# --- scenarios ------------------------------------------------------------------------------------------------------


@proves(
    "faktory_up",
    "faktory_info",
    "faktory_commands_total",
    "faktory_connections",
    "faktory_connections_limit",
    "faktory_queue_jobs",
    "faktory_queue_latency_seconds",
    "faktory_queue_paused",
    "faktory_set_jobs",
    "faktory_set_overdue_seconds",
    "faktory_jobs_processed_total",
    "faktory_jobs_failed_total",
    "forewarn_collector_up",
    "forewarn_collector_duration_seconds",
    "forewarn_collector_errors_total",
    "forewarn_label_values",
    "forewarn_label_values_limit",
    "forewarn_snapshot_age_seconds",
    "forewarn_build_info",
)
async def queues_and_sets(server: WatchedServer) -> None:
    await server.start()
    first_pushed = time.time()
    async with await Wire.connect(server.url) as producer:
        for _ in range(3):
            await producer.push(queue="mail")
        last_pushed = time.time()
        await producer.push(queue="reports")
        await producer.ok("QUEUE PAUSE reports")
        for _ in range(2):
            await producer.push(queue="mail", at="2199-01-01T00:00:00Z")
        for name, retry in [("ok", 25), ("ok", 25), ("fails", 25), ("dies", -1), ("held", 25), ("held", 25)]:
            await producer.push(queue=name, jobtype=name, retry=retry)
        async with await Wire.connect(server.url, "worker-1") as busy:
            for _ in range(2):
                await busy.ack((await fetched(busy, "ok"))["jid"])
                await fetched(busy, "held")
            for name in ("fails", "dies"):
                await busy.fail((await fetched(busy, name))["jid"])
            async with Forewarn(server) as forewarn:
                scrape = await told(
                    forewarn,
                    lambda it: (it.value("faktory_queue_latency_seconds", queue="mail") or 0) > 2,
                    20,
                    "a latency above 2 s",
                )
                polled = time.time() - (scrape.value("forewarn_snapshot_age_seconds") or 0)
                check_totals(server, scrape)
                await forewarn.wait_for("faktory_connections", 3, 10)  # ours, the worker's and Forewarn's
                latency = scrape.value("faktory_queue_latency_seconds", queue="mail") or 0
                assert polled - last_pushed - NOISE <= latency <= polled - first_pushed + 0.1

                commands = scrape.value("faktory_commands_total") or 0
                assert commands == (await server.health())["server"]["command_count"]
                for _ in range(5):
                    await producer.push(queue="mail")
                await forewarn.wait_for("faktory_commands_total", commands + 5, 30)
                assert await forewarn.metric("faktory_queue_jobs", queue="mail") == 8

                await producer.ok("QUEUE RESUME reports")
                await forewarn.wait_for("faktory_queue_paused", 0, 30, queue="reports")
                check_sidecar(await forewarn.scrape(), queues=6, jobtypes=1)
                await check_overdue(server, forewarn, producer)


async def fetched(wire: Wire, queue: str) -> dict[str, Any]:
    job = await wire.fetch(queue)
    assert job is not None, f"{queue} was empty"
    return job


def check_totals(server: WatchedServer, scrape: Scrape) -> None:
    assert scrape.value("faktory_up") == 1
    assert values(scrape, "faktory_info", "version", "edition") == {(".".join(map(str, server.version)), "oss"): 1}
    assert scrape.value("faktory_connections_limit") == (2000 if server.version >= (1, 9) else 1000)
    assert values(scrape, "faktory_queue_jobs", "queue") == {
        ("mail",): 3,
        ("reports",): 1,
        ("ok",): 0,
        ("fails",): 0,
        ("dies",): 0,
        ("held",): 0,
    }
    paused = values(scrape, "faktory_queue_paused", "queue")
    assert [name for (name,), value in paused.items() if value] == ["reports"]
    assert len(paused) == 6
    assert values(scrape, "faktory_queue_latency_seconds", "queue")[("held",)] == 0
    assert values(scrape, "faktory_set_jobs", "set") == {
        ("scheduled",): 2,
        ("retries",): 1,
        ("dead",): 1,
        ("working",): 2,
    }
    assert values(scrape, "faktory_set_overdue_seconds", "set") == {("scheduled",): 0, ("retries",): 0}
    assert scrape.value("faktory_jobs_processed_total") == 4  # two done, two failed
    assert scrape.value("faktory_jobs_failed_total") == 2


def check_sidecar(scrape: Scrape, *, queues: int, jobtypes: int) -> None:
    assert values(scrape, "forewarn_label_values", "label") == {("queue",): queues, ("jobtype",): jobtypes}
    assert values(scrape, "forewarn_label_values_limit", "label") == {("queue",): 200, ("jobtype",): 200}
    up = values(scrape, "forewarn_collector_up", "collector")
    assert up == {(name,): 1 for name in COLLECTORS}
    durations = values(scrape, "forewarn_collector_duration_seconds", "collector")
    assert durations.keys() == up.keys()
    assert all(0 < seconds < 2 for seconds in durations.values())
    errors = values(scrape, "forewarn_collector_errors_total", "collector", "reason")
    assert errors == {(name, reason.value): 0 for name in COLLECTORS for reason in Reason}
    assert 0 <= (scrape.value("forewarn_snapshot_age_seconds") or 0) < POLL + NOISE
    assert values(scrape, "forewarn_build_info", "version") == {(__version__,): 1}


async def check_overdue(server: WatchedServer, forewarn: Forewarn, producer: Wire) -> None:
    """A server that stands still moves nothing out of `scheduled`; its Redis goes on telling."""
    due = (await producer.document("INFO"))["now"]
    server.process.send_signal(signal.SIGSTOP)
    try:
        at = time.time() - 100
        await server.redis().zadd("scheduled", {json.dumps({"jid": new_jid(), "at": due}): at})
        scrape = await told(
            forewarn, lambda it: it.value("faktory_set_overdue_seconds", set="scheduled"), 20, "a job is overdue"
        )
        overdue = scrape.value("faktory_set_overdue_seconds", set="scheduled") or 0
        assert 100 <= overdue <= time.time() - at + 0.1
        assert scrape.value("faktory_set_overdue_seconds", set="retries") == 0
    finally:
        await server.redis().zremrangebyscore("scheduled", "-inf", time.time())
        server.process.send_signal(signal.SIGCONT)


RAILS = "ActiveJob::QueueAdapters::FaktoryAdapter::JobWrapper"


@proves(
    "faktory_busy_jobs",
    "faktory_busy_job_oldest_age_seconds",
    "faktory_busy_job_reservation_used_ratio",
    "faktory_busy_job_age_seconds",
    "faktory_job_duration_seconds",
)
async def busy_jobs(server: WatchedServer) -> None:
    await server.start()
    mail = [{"arguments": ["UserMailer", "welcome", "deliver_now", 7]}]
    async with await Wire.connect(server.url, "worker-1") as wire, Forewarn(server) as forewarn:
        before = time.time()
        await wire.push(jobtype="Long", reserve_for=60)
        await fetched(wire, "default")
        after = time.time()
        await forewarn.wait_for("faktory_busy_jobs", 1, 30, jobtype="Long")
        await wire.push(jobtype="Brief")
        await wire.push(jobtype=RAILS, custom={"wrapped": "ReportJob"})
        await wire.push(jobtype=RAILS, custom={"wrapped": "ActionMailer::MailDeliveryJob"}, args=mail)
        started = time.monotonic()
        brief = await fetched(wire, "default")
        for _ in range(2):
            await fetched(wire, "default")

        await forewarn.wait_for("faktory_set_jobs", 4, 30, set="working")
        scrape = await forewarn.scrape()
        polled = time.time() - (scrape.value("forewarn_snapshot_age_seconds") or 0)
        assert values(scrape, "faktory_busy_jobs", "queue", "jobtype") == {
            ("default", "Long"): 1,
            ("default", "Brief"): 1,
            ("default", "ReportJob"): 1,
            ("default", "UserMailer#welcome"): 1,
        }
        age = scrape.value("faktory_busy_job_oldest_age_seconds", jobtype="Long") or 0
        assert polled - after - NOISE <= age <= polled - before + 0.1
        used = values(scrape, "faktory_busy_job_reservation_used_ratio", "jobtype")
        assert used[("Long",)] == pytest.approx(age / 60, rel=0.01)
        assert used[("Brief",)] == pytest.approx(
            (scrape.value("faktory_busy_job_oldest_age_seconds", jobtype="Brief") or 0) / 1800, rel=0.01
        )
        check_ages(scrape)

        await wait_until(lambda: time.monotonic() - started >= 3)
        await wire.ack(brief["jid"])
        took = time.monotonic() - started
        await forewarn.wait_for("faktory_job_duration_seconds_count", 1, 30, queue="default", jobtype="Brief")
        scrape = await forewarn.scrape()
        observed = scrape.value("faktory_job_duration_seconds_sum", jobtype="Brief") or 0
        assert abs(observed - took) <= POLL / 2 + NOISE
        assert bucket_counts(scrape, "faktory_job_duration_seconds", jobtype="Brief") == {
            bound: float(bound >= observed) for bound in (*DURATION_BUCKETS, float("inf"))
        }
        assert scrape.value("faktory_job_duration_seconds_count", jobtype="Long") is None
        assert scrape.value("faktory_busy_jobs", jobtype="Brief") == 0
        assert scrape.value("faktory_busy_job_oldest_age_seconds", jobtype="Brief") is None


def check_ages(scrape: Scrape) -> None:
    """All four jobs are of different types, so that their ages stand beside their histogram."""
    ages = [value for _, value in scrape.matching("faktory_busy_job_oldest_age_seconds")]
    assert bucket_counts(scrape, "faktory_busy_job_age_seconds", queue="default") == {
        bound: float(sum(age <= bound for age in ages)) for bound in (*AGE_BUCKETS, float("inf"))
    }
    assert scrape.value("faktory_busy_job_age_seconds_gcount", queue="default") == 4
    assert scrape.value("faktory_busy_job_age_seconds_gsum", queue="default") == pytest.approx(sum(ages))


def bucket_counts(scrape: Scrape, name: str, /, **labels: str) -> dict[float, float]:
    return {float(found["le"]): value for found, value in scrape.matching(f"{name}_bucket", **labels)}


@proves(
    "faktory_start_time_seconds",
    "faktory_memory_bytes",
    "faktory_workers",
    "faktory_reservations_expired_total",
    "faktory_worker_crashes_total",
    "faktory_orphaned_jobs",
    "faktory_orphaned_job_oldest_age_seconds",
    "faktory_restarts_total",
)
async def workers_and_restart(server: WatchedServer) -> None:
    before = time.time()
    await server.start()
    after = time.time()
    async with await Wire.connect(server.url) as producer, worker(server, "worker-1"):
        await producer.push(queue="forgotten", jobtype="Forgotten", reserve_for=60)
        await producer.push(queue="mail")  # so that no queue is new later
        await fetched(producer, "forgotten")
        forgotten_at = time.time()
        async with worker(server, "worker-2") as doomed, Forewarn(server) as forewarn:
            # INFO waits until no queue name has been new for 30 s.
            scrape = await told(forewarn, lambda it: it.value("faktory_workers"), 50, "INFO was asked")
            assert scrape.value("faktory_workers") == 2
            assert before - 2 <= (scrape.value("faktory_start_time_seconds") or 0) <= after + 2
            memory = scrape.value("faktory_memory_bytes") or 0
            assert memory == (await producer.info())["server"]["used_memory_mb"] * 1024 * 1024 or memory > 2**20
            assert memory % 2**20 == 0
            assert scrape.value("faktory_reservations_expired_total") == 0

            # The server sweeps every 15 s, and INFO is asked once a minute.
            await forewarn.wait_for("faktory_reservations_expired_total", 1, 60 + 15 + 60 + 15)
            assert time.time() - forgotten_at >= 60

            # Verdicts need a server that has run for 90 s.
            await wait_until(lambda: time.time() - before > 92, 60, what="the server has run for 92 s")
            await fetched(producer, "mail")
            for _ in range(2):
                await producer.push(queue="mail", jobtype="Send")
                await fetched(doomed, "mail")
            await forewarn.wait_for("faktory_busy_jobs", 2, 30, jobtype="Send")
            assert await forewarn.metric("faktory_orphaned_jobs", jobtype="Send") == 0
            killed_at = time.time()
            await doomed.abort()
            await forewarn.wait_for("faktory_worker_crashes_total", 1, 20, reason="vanished")
            scrape = await forewarn.scrape()
            assert scrape.value("faktory_worker_crashes_total", reason="hung") == 0
            orphans = values(scrape, "faktory_orphaned_jobs", "queue", "jobtype")
            assert {pair: jobs for pair, jobs in orphans.items() if jobs} == {("mail", "Send"): 2}
            age = scrape.value("faktory_orphaned_job_oldest_age_seconds", queue="mail", jobtype="Send") or 0
            assert 4.5 <= age <= time.time() - killed_at + NOISE  # the grace of 5 s, taken with a little tolerance

            assert scrape.value("faktory_restarts_total") == 0
            await server.restart()
            await forewarn.wait_for("faktory_restarts_total", 1, 45)


@proves(
    "faktory_throttle_limit",
    "faktory_throttle_in_use",
    "faktory_throttle_saturation_ratio",
    "faktory_throttle_saturated_seconds_total",
    "faktory_throttle_waiting_jobs",
)
async def throttles(server: WatchedServer) -> None:
    conf = server.config_dir / "conf.d"
    (conf / "mail.toml").write_text("[throttles]\nmail = { concurrency = 2, timeout = 60 }\n")
    (conf / "reports.toml").write_text("[throttles.reports]\nconcurrency = 9\nworker = 3\ntimeout = 60\n")
    await server.start()
    async with (
        await Wire.connect(server.url, "worker-1") as one,
        await Wire.connect(server.url, "worker-2") as two,
        Forewarn(server) as forewarn,
    ):
        for queue, jobs in (("mail", 5), ("reports", 3)):
            for _ in range(jobs):
                await one.push(queue=queue)
        scrape = await told(
            forewarn, lambda it: it.value("faktory_throttle_waiting_jobs", queue="mail") == 5, 10, "all wait"
        )
        assert values(scrape, "faktory_throttle_limit", "queue", "scope") == {
            ("mail", "cluster"): 2,
            ("reports", "cluster"): 9,
            ("reports", "worker"): 3,
        }
        assert set(values(scrape, "faktory_throttle_saturated_seconds_total", "queue", "scope").values()) == {0}

        for wire, queue in ((one, "mail"), (two, "mail"), (one, "reports"), (one, "reports"), (two, "reports")):
            await fetched(wire, queue)
        full_at = time.time()
        await forewarn.wait_for("faktory_throttle_in_use", 2, 30, queue="mail")
        scrape = await told(
            forewarn,
            lambda it: (it.value("faktory_throttle_saturated_seconds_total", queue="mail") or 0) >= 2,
            15,
            "saturated for 2 s",
        )
        by = ("queue", "scope")
        assert values(scrape, "faktory_throttle_in_use", *by) == {
            ("mail", "cluster"): 2,
            ("reports", "cluster"): 3,
            ("reports", "worker"): 2,  # of the busiest worker
        }
        saturation = values(scrape, "faktory_throttle_saturation_ratio", *by)
        assert saturation == {
            ("mail", "cluster"): 1,
            ("reports", "cluster"): pytest.approx(1 / 3),
            ("reports", "worker"): pytest.approx(2 / 3),
        }
        assert values(scrape, "faktory_throttle_waiting_jobs", "queue") == {("mail",): 3, ("reports",): 0}
        seconds = values(scrape, "faktory_throttle_saturated_seconds_total", *by)
        assert 2 <= seconds.pop(("mail", "cluster")) <= time.time() - full_at + NOISE
        assert set(seconds.values()) == {0}

        (conf / "mail.toml").write_text("[throttles.mail]\nconcurrency = 4\ntimeout = 60\n")
        await forewarn.wait_for("faktory_throttle_limit", 4, 30, queue="mail")
        assert await forewarn.metric("faktory_throttle_saturation_ratio", queue="mail") == 0.5
        stopped = await forewarn.metric("faktory_throttle_saturated_seconds_total", queue="mail")
        (conf / "mail.toml").unlink()
        await forewarn.wait_for("faktory_throttle_limit", None, 30, queue="mail")
        assert stopped is not None
        assert stopped >= 2


@proves("faktory_connections_refused_total")
async def connection_limit(server: WatchedServer) -> None:
    """Servers before 1.9 accept all that come, so there the counter stays at 0."""
    if isinstance(server, StandInFaktory):
        server.options = server.options | {"connections_limit": 2}
    await server.start()
    enforced = server.version >= (1, 9)
    limit = 2 if isinstance(server, StandInFaktory) else 2000 if enforced else 10
    crowd = [await Wire.connect(server.url) for _ in range(limit)]
    try:
        async with Forewarn(server) as forewarn:
            if enforced:
                await told(forewarn, lambda it: it.value("faktory_connections_refused_total"), 20, "was refused")
                assert await forewarn.metric("faktory_connections") == limit
                assert await forewarn.metric("faktory_up") == 1
                assert (
                    await forewarn.metric("forewarn_collector_errors_total", collector="connection", reason="refused")
                    or 0
                ) >= 1
            else:
                await forewarn.wait_for("faktory_connections", limit + 1, 30)
                assert await forewarn.metric("faktory_connections_refused_total") == 0
    finally:
        for wire in crowd:
            await wire.abort()


@proves("faktory_peer_connections")
async def peers(server: WatchedServer) -> None:
    await server.start()
    async with Forewarn(server) as forewarn:
        async with AsyncExitStack() as leaving:
            for address in ("127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3"):
                await leaving.enter_async_context(await connected_from(address, server))
            expected = {("127.0.0.1",): 1, ("127.0.0.2",): 3, ("127.0.0.3",): 1}  # the first is Forewarn's own
            await told(forewarn, lambda it: by_peer(it) == expected == by_peer(it, 5), 10, "three peers")
        await told(
            forewarn, lambda it: by_peer(it, 1).get(("127.0.0.2",)) == 0, 10, "a peer that has left is told at 0"
        )

        async with AsyncExitStack() as leaving:
            for number in [0, 1, 2, *range(PEERS + 3)]:
                await leaving.enter_async_context(await connected_from(f"127.0.1.{number}", server))
            connections = 3 + PEERS + 3 + 1
            scrape = await told(forewarn, lambda it: by_peer(it, connections), 10, "more peers than are told")
            found = by_peer(scrape)
            assert len(found) == PEERS + 1
            assert {number: found[(f"127.0.1.{number}",)] for number in range(3)} == {0: 2, 1: 2, 2: 2}
            assert found[("127.0.0.1",)] == 1  # it had a series before
            assert found[(OTHER,)] == 4


def by_peer(scrape: Scrape, connections: int | None = None) -> dict[tuple[str, ...], float]:
    """Return the connections of each peer; nothing where they, or those of the health page, are not so many in all."""
    found = values(scrape, "faktory_peer_connections", "peer")
    if connections is not None and not sum(found.values()) == scrape.value("faktory_connections") == connections:
        return {}
    return found


async def connected_from(address: str, server: WatchedServer) -> Wire:
    """Return a producer's connection that comes from this address of the machine."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", server.port, local_addr=(address, 0)), None)
    assert str(await wire.read()).startswith("+HI ")
    assert await wire.hello(server.url) == "+OK"
    return wire


@proves(
    "faktory_sockets",
    "faktory_accept_queue_connections",
    "faktory_accept_queue_limit",
    "faktory_process_start_time_seconds",
    "faktory_process_open_fds",
    "faktory_process_max_fds",
    "faktory_process_resident_memory_bytes",
)
async def seen_by_the_kernel(server: WatchedServer) -> None:
    before = time.time()
    await server.start()
    async with Forewarn(server) as forewarn, AsyncExitStack() as leaving:
        for _ in range(3):
            await leaving.enter_async_context(await connected_from("127.0.0.2", server))
        scrape = await told(
            forewarn, lambda it: it.value("faktory_sockets", state="established") == 4, 10, "four connections"
        )
        assert scrape.value("faktory_sockets", state="close_wait") == 0
        assert scrape.value("faktory_accept_queue_connections") == 0
        listening = await output("ss", "-Htln", f"sport = :{server.port}")
        assert scrape.value("faktory_accept_queue_limit") == int(listening.split()[2])

        proc = Path(f"/proc/{server.pid}")
        files = len(list((proc / "fd").iterdir()))
        await told(forewarn, lambda it: it.value("faktory_process_open_fds") == files, 10, "its open files")
        limits = next(it for it in (proc / "limits").read_text().splitlines() if it.startswith("Max open files"))
        assert scrape.value("faktory_process_max_fds") == int(limits.split()[3])
        resident = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert scrape.value("faktory_process_resident_memory_bytes") == pytest.approx(resident, rel=0.3)
        started = scrape.value("faktory_process_start_time_seconds")
        assert started == pytest.approx(before, abs=10)

        async with standing_still(server):
            for _ in range(5):
                leaving.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            waiting = "connections that nobody accepts"
            await told(forewarn, lambda it: (it.value("faktory_accept_queue_connections") or 0) >= 5, 10, waiting)


async def output(*command: str) -> str:
    """Return what a program prints."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


@proves(
    "faktory_process_crashes_total",
    "faktory_process_last_crash_timestamp_seconds",
    "faktory_data_races_total",
    "faktory_recovered_panics_total",
    "faktory_log_events_total",
    "faktory_log_read_bytes_total",
    "faktory_log_unread_bytes",
    "faktory_log_quiet_seconds",
    "faktory_known_crash_risk",
)
async def logged(server: WatchedServer) -> None:
    await server.start()
    async with Forewarn(server, arguments=[f"--faktory.log-file={server.log_file}"]) as forewarn:
        scrape = await forewarn.scrape()
        assert set(values(scrape, "faktory_process_crashes_total", "class").values()) == {0}
        assert len(values(scrape, "faktory_process_crashes_total", "class")) == len(CRASH_KINDS)
        assert set(values(scrape, "faktory_log_events_total", "event").values()) == {0}
        assert scrape.value("faktory_data_races_total") == scrape.value("faktory_recovered_panics_total") == 0
        assert scrape.value("faktory_known_crash_risk", known="faktory-busy-page") == 0
        assert not values(scrape, "faktory_process_last_crash_timestamp_seconds", "class")
        read = scrape.value("faktory_log_read_bytes_total") or 0

        status, _ = await http_get(f"{server.web_url}/busy")
        assert status == 200
        await forewarn.wait_for("faktory_log_events_total", 1, 30, event="busy_page")
        await forewarn.wait_for("faktory_known_crash_risk", 1, 30, known="faktory-busy-page")
        size = server.log_file.stat().st_size
        with server.log_file.open("a") as log:
            log.write(RACE + RECOVERED)
        await forewarn.wait_for("faktory_data_races_total", 1, 30)
        await forewarn.wait_for("faktory_recovered_panics_total", 1, 30)
        scrape = await forewarn.scrape()
        assert (scrape.value("faktory_log_read_bytes_total") or 0) - read >= len(RACE + RECOVERED)
        assert scrape.value("faktory_log_unread_bytes") == 0
        assert size < server.log_file.stat().st_size
        assert 0 <= (scrape.value("faktory_log_quiet_seconds") or 0) < 10

        at = time.time()
        with server.log_file.open("a") as log:
            log.write(DUMP)
        await server.kill()
        await forewarn.wait_for("faktory_process_crashes_total", 1, 30, **{"class": "nil-dereference"})
        scrape = await forewarn.scrape()
        ((labels, crashed_at),) = scrape.matching("faktory_process_last_crash_timestamp_seconds")
        assert (labels["class"], labels["component"], labels["known"]) == ("nil-dereference", "main.work", "none")
        assert crashed_at == pytest.approx(at, abs=10)
        assert sum(values(scrape, "faktory_process_crashes_total", "class").values()) == 1


RACE = """\
==================
WARNING: DATA RACE
Write at 0x00c000012345 by goroutine 8:
  main.write()
      /src/main.go:10 +0x44

Previous read at 0x00c000012345 by main goroutine:
  main.main()
      /src/main.go:20 +0x84

Goroutine 8 (running) created at:
  main.main()
      /src/main.go:18 +0x7a
==================
"""
RECOVERED = """\
2026/11/21 06:05:14 http: panic serving 127.0.0.1:4242: boom
goroutine 21 [running]:
net/http.(*conn).serve.func1()
\t/go/src/net/http/server.go:1 +0xb0
panic({0x1, 0x2})
\t/go/src/runtime/panic.go:1 +0x1
main.serve(0x1)
\t/src/main.go:30 +0x2

"""
DUMP = """\
panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x4942a9]

goroutine 1 [running]:
main.work(...)
\t/src/main.go:40
main.main()
\t/src/main.go:50 +0x9
exit status 2
"""


async def http_get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


@proves(
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
)
async def own_process(server: WatchedServer) -> None:
    await server.start()
    before = time.time()
    async with Forewarn(server) as forewarn:
        scrape = await forewarn.scrape()
        proc = Path(f"/proc/{forewarn.pid}")
        assert scrape.value("process_open_fds") == pytest.approx(len(list((proc / "fd").iterdir())), abs=3)
        sizes = [int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in (proc / "statm").read_text().split()[:2]]
        assert scrape.value("process_virtual_memory_bytes") == pytest.approx(sizes[0], rel=0.2)
        assert scrape.value("process_resident_memory_bytes") == pytest.approx(sizes[1], rel=0.2)
        assert before - 1 <= (scrape.value("process_start_time_seconds") or 0) <= time.time() + 1
        assert 0 < (scrape.value("process_cpu_seconds_total") or 0) < 30
        limits = (proc / "limits").read_text().split("Max open files")[1].split()
        assert scrape.value("process_max_fds") == float(limits[0])


@proves(
    "forewarn_trace_executions_total",
    "forewarn_otlp_items_total",
    "forewarn_otlp_failures_total",
    "forewarn_otlp_waiting_spans",
)
async def pushed(server: WatchedServer) -> None:
    """Three jobs: one is slow, one quick, and one too many for what may be told in a second."""
    await server.start()
    arguments = ["--traces.slow-seconds=4", "--traces.ratio=0", "--traces.poll-ratio=0", "--otlp.metrics-interval=1s"]
    async with (
        receiving() as receiver,
        Forewarn(server, arguments=[*arguments, f"--otlp.endpoint={receiver.endpoint}"]) as forewarn,
        Forewarn(
            server, arguments=[*arguments, "--traces.per-second=0", f"--otlp.endpoint={receiver.endpoint}"]
        ) as capped,
        await Wire.connect(server.url, "worker-1") as wire,
    ):
        jids = [await held(wire, jobtype) for jobtype in ("Slow", "Quick")]
        for each in (forewarn, capped):
            await each.wait_for("faktory_set_jobs", 2, 30, set="working")
        await wire.ack(jids[1])
        await asyncio.sleep(5)  # it is to be slow
        await wire.ack(jids[0])
        scrape = await told(
            forewarn, lambda it: items(it, "traces", "sent") == 2, 15, "the slow job's two spans were sent"
        )
        assert values(scrape, "forewarn_trace_executions_total", "decision") == {
            ("told",): 1,
            ("left_out",): 1,
            ("capped",): 0,
        }
        await capped.wait_for("forewarn_trace_executions_total", 1, 30, decision="capped")
        assert sorted(span.name for span in receiver.spans()) == ["process default", "wait default"]
        assert (items(scrape, "traces", "rejected"), items(scrape, "traces", "dropped")) == (0, 0)
        assert (items(scrape, "metrics", "sent") or 0) > 100
        assert scrape.value("forewarn_otlp_waiting_spans") == 0
        failures = values(scrape, "forewarn_otlp_failures_total", "signal", "reason")
        # A push every second may come too late for itself where the machine is busy.
        assert {it for it, count in failures.items() if count} <= {("metrics", "timeout")}
        assert failures.keys() == {(signal, reason.value) for signal in ("traces", "metrics") for reason in Reason}

        receiver.answer = saying(503)
        jid = await held(wire, "Failing")
        await forewarn.wait_for("faktory_set_jobs", 1, 30, set="working")
        await wire.fail(jid)
        await told(
            forewarn,
            lambda it: (
                it.value("forewarn_otlp_waiting_spans") == 2
                and (it.value("forewarn_otlp_failures_total", signal="traces", reason="server") or 0) >= 1
                and (items(it, "metrics", "dropped") or 0) > 100
            ),
            15,
            "the failed job waits, and points were dropped",
        )
        receiver.answer = saying(400)
        scrape = await told(forewarn, lambda it: items(it, "traces", "rejected") == 2, 40, "two spans were rejected")
        assert scrape.value("forewarn_otlp_waiting_spans") == 0
        assert items(scrape, "traces", "sent") == 2


async def held(wire: Wire, jobtype: str) -> str:
    """Push a job and take it; return its id."""
    await wire.push(jobtype=jobtype)
    job = await fetched(wire, "default")
    return str(job["jid"])


def items(scrape: Scrape, signal: str, result: str) -> float | None:
    return scrape.value("forewarn_otlp_items_total", signal=signal, result=result)


OTHERS = (
    b"app.orders:3|c|#b:2,a:1\napp.orders:2|c|@0.5|#a:1,b:2",
    b"app.level:7|g\napp.level:+2.5|g",
    b"app.wait:250|ms|#a:1\napp.size:50:7e9|h\napp.size:0.5|d",
    b"app.users:eve|s\napp.users:bob|s\napp.users:eve|s",
    b"faktory.jobs.Send.count:1|c\nfaktory.jobs.Send.perform:4|ms",
    b"_e{5,4}:title|text\n_sc|Redis connection|2\n_sc|Redis connection|0",
)
"""What is not Faktory's, or is under a deprecated name: 13 values among the lines, an event and two checks."""

WRONG = (
    (b":1|c", b"\x00:1|c"),
    (b"app:1|x",),
    (b"app:1:NaN:-1|c",),
    (b"app:1|c|@2", b"app:1|c|@0"),
    (b"app:1|c|what",),
    (b"app:1|c|#a:\xff", b"\xff:1|c"),
    (b"app:1|c|#" + b"t" * 5000,),
    (b"_e{9,9}:title|text",),
)
"""Lines that cannot be counted, in the order of the reasons; in the third the first value can."""


@proves(
    "faktory_statsd_last_packet_age_seconds",
    *TOLD_LEVELS,
    *(name for name in TOLD_COUNTS if name.endswith("_total")),
    "faktory_job_execution_seconds",
    "faktory_statsd_other_total",
    "faktory_statsd_other_level",
    "faktory_statsd_other_seconds",
    "faktory_statsd_other_values",
    "faktory_statsd_other_distinct",
    "forewarn_statsd_packets_total",
    "forewarn_statsd_samples_total",
    "forewarn_statsd_rejected_total",
    "forewarn_statsd_ignored_total",
)
async def heard_by_statsd(server: WatchedServer) -> None:
    """What Faktory Enterprise tells, and others with it: two Forewarns hear it, one of which keeps all."""
    await server.start()
    ports, path = (free_port(), free_port()), server.folder / "statsd.sock"
    arguments = [f"--statsd.listen=127.0.0.1:{ports[0]}", f"--statsd.listen-unix={path}", "--statsd.keep=all"]
    async with (
        Forewarn(server, arguments=arguments) as forewarn,
        Forewarn(server, arguments=[f"--statsd.listen=127.0.0.1:{ports[1]}"]) as strict,
    ):
        scrape = await forewarn.scrape()
        assert scrape.value("faktory_statsd_last_packet_age_seconds") is None
        assert by_labels(scrape, "forewarn_statsd_rejected_total") == {(it.value,): 0 for it in Rejection}
        for port in ports:
            live_statsd.send_udp(port, *ENTERPRISE, *OTHERS)
        wrong = [line for lines in WRONG for line in lines]
        live_statsd.send_tcp(ports[0], b"".join(line + b"\n" for line in wrong))
        live_statsd.send_unix(path, b"app.orders:1|c|#a:1,b:2", b"app.debt:-1|g")
        sent_at = time.time()
        samples = ENTERPRISE_LINES + 13 + 2 + 1
        scrape = await told(
            forewarn,
            lambda it: (
                it.value("forewarn_statsd_samples_total") == samples
                and it.value("forewarn_statsd_packets_total", transport="tcp") == len(wrong)
            ),
            10,
            "all that was sent",
        )
        polled = time.time() - (scrape.value("forewarn_snapshot_age_seconds") or 0)
        age = scrape.value("faktory_statsd_last_packet_age_seconds")
        assert age is not None
        assert polled - sent_at - POLL - NOISE <= age <= polled - sent_at + NOISE
        check_told(scrape, 1)
        assert by_labels(scrape, "forewarn_statsd_packets_total") == {
            ("udp",): len(ENTERPRISE) + len(OTHERS),
            ("tcp",): len(wrong),
            ("unix",): 2,
        }
        reasons = [it.value for it in Rejection if it is not Rejection.SERIES]
        assert by_labels(scrape, "forewarn_statsd_rejected_total") == {
            **{(reason,): len(lines) for reason, lines in zip(reasons, WRONG, strict=True)},
            ("value",): 2,
            ("series",): 0,
        }
        assert by_labels(scrape, "faktory_statsd_other_total") == {("app.orders", "a:1,b:2"): 8, ("app", NONE): 1}
        assert by_labels(scrape, "faktory_statsd_other_level") == {("app.level", NONE): 9.5, ("app.debt", NONE): -1}
        assert by_labels(scrape, "faktory_statsd_other_distinct") == {("app.users", NONE): 2}
        wait = bucket_counts(scrape, "faktory_statsd_other_seconds", name="app.wait", tags="a:1")
        assert wait == {bound: float(bound >= 0.25) for bound in (*SECONDS_BOUNDS, float("inf"))}
        assert scrape.value("faktory_statsd_other_seconds_sum", name="app.wait") == 0.25
        sizes = bucket_counts(scrape, "faktory_statsd_other_values", name="app.size", tags=NONE)
        assert sizes == {
            bound: float(sum(size <= bound for size in (0.5, 50, 7e9))) for bound in (*VALUES_BOUNDS, float("inf"))
        }
        assert scrape.value("faktory_statsd_other_values_sum", name="app.size") == 7e9 + 50.5

        names_kept = {("unknown",): 0.0, ("deprecated",): 2.0, ("event",): 1.0, ("check",): 2.0}
        assert by_labels(scrape, "forewarn_statsd_ignored_total") == names_kept
        scrape = await told(
            strict, lambda it: it.value("forewarn_statsd_samples_total") == samples - 3, 10, "all that was sent"
        )
        check_told(scrape, 1)
        assert by_labels(scrape, "forewarn_statsd_ignored_total") == names_kept | {("unknown",): 6}
        assert scrape.value("faktory_statsd_other_total") is None


MAX_SERIES = Config().max_series
SERIES = MAX_SERIES * 6 // 5


@proves(
    "forewarn_statsd_folded_total",
    "forewarn_statsd_dropped_packets_total",
    "forewarn_statsd_relayed_packets_total",
)
async def lost_by_statsd(server: WatchedServer) -> None:
    """More series than are held, more packets than fit, more connections than are taken, and a relay to nobody."""
    await server.start()
    port = free_port()
    with inbox() as behind:
        arguments = [f"--statsd.listen=127.0.0.1:{port}", f"--statsd.relay=udp://127.0.0.1:{behind.port}"]
        async with Forewarn(server, interval="3s", arguments=[*arguments, "--statsd.keep=all"]) as forewarn:
            live_statsd.send_udp(port, *ENTERPRISE)
            await forewarn.wait_for("forewarn_statsd_relayed_packets_total", len(ENTERPRISE), 15)
            assert behind.packets == list(ENTERPRISE)
            behind.stop()
            live_statsd.send_udp(port, *ENTERPRISE)
            scrape = await told(
                forewarn,
                lambda it: by_labels(it, "forewarn_statsd_dropped_packets_total")[("relay",)] == len(ENTERPRISE),
                15,
                "packets that nobody took",
            )
            assert scrape.value("forewarn_statsd_relayed_packets_total") == len(ENTERPRISE)
            behind.start()

            await more_series_than_are_held(forewarn, port)

            turned_away = 4
            crowd = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(MAX_CONNECTIONS)]
            crowd += [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(turned_away)]
            scrape = await told(
                forewarn,
                lambda it: it.value("forewarn_statsd_dropped_packets_total", at="queue") == turned_away,
                15,
                "connections that were turned away",
            )
            for connection in crowd:
                connection.close()

            (receiver,) = children(forewarn.pid)
            before = scrape.value("forewarn_statsd_packets_total", transport="udp") or 0
            sent = 2 * RECEIVE_BUFFER // 512
            os.kill(receiver, signal.SIGSTOP)
            try:
                await asyncio.to_thread(live_statsd.send_udp, port, *[b"app.full:1|c"] * sent)
            finally:
                os.kill(receiver, signal.SIGCONT)
            scrape = await told(
                forewarn,
                lambda it: (
                    (it.value("forewarn_statsd_packets_total", transport="udp") or 0) > before
                    and (it.value("forewarn_statsd_dropped_packets_total", at="kernel") or 0) > 0
                ),
                15,
                "packets that found the buffer full",
            )
            taken = (scrape.value("forewarn_statsd_packets_total", transport="udp") or 0) - before
            assert taken + (scrape.value("forewarn_statsd_dropped_packets_total", at="kernel") or 0) == sent
            assert scrape.total("faktory_statsd_other_total", name="app.full") == taken


async def more_series_than_are_held(forewarn: Forewarn, port: int) -> None:
    """Send more within one poll than is held; again where a poll came in between, as on a busy machine."""
    folded = 0.0
    for times in range(1, 4):
        await told(forewarn, lambda it: (it.value("forewarn_snapshot_age_seconds") or 9) < 0.5, 30, "a poll ended")
        fresh = range((times - 1) * SERIES, times * SERIES)
        many = b"".join(b"app.many:1|c|#n:%d\n" % number for number in fresh)
        await asyncio.to_thread(live_statsd.send_tcp, port, many)
        sent = times * SERIES
        scrape = await told(
            forewarn,
            lambda it, sent=sent: it.value("forewarn_statsd_packets_total", transport="tcp") == sent,  # type: ignore[misc]
            30,
            "more series than are held",
        )
        assert scrape.total("faktory_statsd_other_total", name="app.many") == sent
        before, folded = folded, scrape.value("forewarn_statsd_folded_total") or 0
        if folded - before == SERIES - (MAX_SERIES - MAX_SERIES // 10):
            return
    raise AssertionError(f"{folded:g} were folded in three times")


@proves("forewarn_statsd_pushed_lines_total", "forewarn_statsd_push_failures_total")
async def pushed_by_statsd(server: WatchedServer) -> None:
    """A job type of such a name that no line of it fits into a packet, and a StatsD server that goes away."""
    await server.start()
    long_name = "😀" * 128
    async with await Wire.connect(server.url, "worker-1") as busy:
        await held(busy, long_name)
        await _pushed_by_statsd(server, long_name)


async def _pushed_by_statsd(server: WatchedServer, long_name: str) -> None:
    with inbox() as there:
        arguments = [f"--statsd.push=statsd://127.0.0.1:{there.port}", "--statsd.interval=1s"]
        async with Forewarn(server, arguments=arguments) as forewarn:

            async def agreed() -> Scrape | None:
                """Return a scrape between two flushes that tells what came."""
                before, scrape = there.lines, await forewarn.scrape()
                told_lines = pushed_lines(scrape)
                return scrape if before and told_lines[("sent",)] == before == there.lines else None

            scrape = await wait_until(agreed, 20, what="as many lines were sent as came")
            left_out = pushed_lines(scrape)[("left_out",)]
            in_each_flush = sum(("jobtype", long_name) in labels for _, labels in scrape.samples)
            assert in_each_flush > 0
            assert left_out > 0
            assert left_out % in_each_flush == 0
            assert pushed_lines(scrape)[("refused",)] == 0
            failures = by_labels(scrape, "forewarn_statsd_push_failures_total")
            assert failures == {(reason.value,): 0 for reason in Reason}

            there.stop()
            scrape = await told(
                forewarn,
                lambda it: (it.value("forewarn_statsd_push_failures_total", reason="unreachable") or 0) >= 2,
                20,
                "two flushes failed",
            )
            assert pushed_lines(scrape)[("refused",)] > 0
            failures = by_labels(scrape, "forewarn_statsd_push_failures_total")
            assert {reason for reason, count in failures.items() if count} == {("unreachable",)}
            came = there.lines
            there.start()
            await wait_until(lambda: there.lines > came, 20, what="lines come again")
            scrape = await wait_until(agreed, 20, what="again as many lines were sent as came")
            ended = by_labels(scrape, "forewarn_statsd_push_failures_total")
            assert sum(ended.values()) == ended[("unreachable",)]


def pushed_lines(scrape: Scrape) -> dict[tuple[str, ...], float]:
    return by_labels(scrape, "forewarn_statsd_pushed_lines_total")


@proves("forewarn_config_last_reload_successful", "forewarn_config_last_reload_success_timestamp_seconds")
async def reloads(server: WatchedServer) -> None:
    """Settings that are right, wrong, and right again."""
    await server.start()
    file = server.folder / "forewarn.toml"
    file.write_text("")
    before = time.time()
    async with Forewarn(server, arguments=[f"--config={file}"]) as forewarn:

        async def reloaded(text: str, *, good: int) -> float:
            file.write_text(text)
            forewarn.process.send_signal(signal.SIGHUP)
            await forewarn.wait_for("forewarn_config_last_reload_successful", good, 30, file="settings")
            return await forewarn.metric("forewarn_config_last_reload_success_timestamp_seconds") or 0

        started = await forewarn.metric("forewarn_config_last_reload_success_timestamp_seconds") or 0
        assert before - 1 <= started <= time.time() + 1
        assert await forewarn.metric("forewarn_config_last_reload_successful", file="settings") == 1
        assert await forewarn.metric("forewarn_config_last_reload_successful", file="web") is None
        assert await reloaded("interval = 5", good=0) == started
        mended = time.time()
        assert mended - 1 <= await reloaded("", good=1) <= time.time() + 1


# --- tests ----------------------------------------------------------------------------------------------------------


def test_every_metric_of_the_catalogue_has_a_scenario() -> None:
    assert set(PROVEN) == {metric.full_name("faktory") for metric in METRICS}


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_every_metric_has_the_value_that_was_brought_about(unstarted: WatchedServer) -> None:
    await all_of(unstarted, list(dict.fromkeys(PROVEN.values())))


async def test_without_redis_info_tells_at_once_what_it_can(server: WatchedServer) -> None:
    async with (
        await Wire.connect(server.url, "worker-1") as wire,
        await Wire.connect(server.url) as producer,
    ):
        for queue in ("mail", "mail", "held"):
            await producer.push(queue=queue)
        await fetched(wire, "held")
        async with Forewarn(server, redis=False) as forewarn:
            scrape = await forewarn.scrape()
    assert values(scrape, "faktory_queue_jobs", "queue") == {("mail",): 2, ("held",): 0}
    assert scrape.value("faktory_workers") == 1
    assert scrape.value("faktory_set_jobs", set="scheduled") == 0
    assert scrape.value("faktory_jobs_processed_total") == 0
    assert scrape.value("faktory_busy_jobs") is None  # nothing but Redis tells which jobs are busy
    latency = scrape.value("faktory_queue_latency_seconds", queue="mail")
    assert (latency is not None) == (server.version >= (1, 9, 2))


async def filled(server: WatchedServer) -> None:
    """Give every family of a short run at least one series."""
    (server.config_dir / "conf.d" / "mail.toml").write_text("[throttles.mail]\nconcurrency = 1\ntimeout = 60\n")
    await server.start()
    async with await Wire.connect(server.url) as producer:
        for _ in range(3):
            await producer.push(queue="mail")
        await fetched(producer, "mail")


async def both_formats(forewarn: Forewarn) -> tuple[Scrape, Scrape]:
    """Return the text and the OpenMetrics body of one and the same poll."""
    found: list[tuple[Scrape, Scrape]] = []

    async def same() -> bool:
        found[:] = [(await forewarn.scrape(), await forewarn.scrape(openmetrics=True))]
        took = [values(it, "forewarn_collector_duration_seconds", "collector") for it in found[0]]
        return took[0] == took[1]

    await wait_until(same, 30, what="both formats of one poll")
    return found[0]


def lasting(scrape: Scrape) -> dict[Any, float]:
    """Return the samples that come from the poll, not from the scrape."""
    return {
        key: value
        for key, value in scrape.samples.items()
        if not key[0].startswith(("process_", "forewarn_snapshot_age"))
    }


async def test_both_formats_read_back_to_the_same_samples(unstarted: WatchedServer) -> None:
    await filled(unstarted)
    async with Forewarn(unstarted) as forewarn:
        text, openmetrics = await both_formats(forewarn)
    assert len(lasting(text)) > 50
    assert lasting(text) == lasting(openmetrics)
    assert {it.type for it in openmetrics.families.values()} >= {"gauge", "counter", "gaugehistogram"}


async def test_promtool_finds_nothing_to_mend(unstarted: WatchedServer) -> None:
    await filled(unstarted)
    async with Forewarn(unstarted) as forewarn:
        text = (await forewarn.scrape()).text
    assert await promtool(text) == (0, "")


async def promtool(text: str) -> tuple[int, str]:
    """Return the exit status and the words of ``promtool check metrics``."""
    checked = await asyncio.to_thread(
        functools.partial(subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    )
    return checked.returncode, checked.stdout + checked.stderr


async def test_a_real_prometheus_scrapes_what_metrics_tells(unstarted: WatchedServer) -> None:
    await filled(unstarted)
    async with (
        Forewarn(unstarted, interval="5s") as forewarn,
        Prometheus(f"127.0.0.1:{forewarn.port}") as prometheus,
    ):
        await prometheus.settled()

        async def stored() -> dict[Any, float]:
            """Return the samples as :attr:`Scrape.samples` holds them."""
            found = await prometheus.query(
                '{job="forewarn",__name__!~"up|scrape_.*|process_.*|forewarn_snapshot_age.*"}'
            )
            ours = {"__name__", "instance", "job"}
            return {
                (it.name, tuple(sorted(pair for pair in it.labels.items() if pair[0] not in ours))): it.value
                for it in found
            }

        async def equal() -> bool:
            before = lasting(await forewarn.scrape())
            return await stored() == before and before == lasting(await forewarn.scrape())

        await wait_until(equal, 30, every=0.5, what="Prometheus stores the samples of /metrics")
        # Only OpenMetrics tells units.
        (metadata,) = await prometheus.api("targets/metadata", metric="faktory_queue_latency_seconds")
        assert metadata["unit"] == "seconds"
        assert await prometheus.problems() == []
        assert "listening" in prometheus.log().lower()
