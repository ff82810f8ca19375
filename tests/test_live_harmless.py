"""Forewarn does no harm to the server that it watches: live, each rule beside what shows that it can be broken."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter import systems
from exporter.faktory.failures import DEAD_SECONDS
from exporter.faktory.store import MAX_LOOKED, MAX_PAGE, Store
from exporter.model import Choice, Ended, JobFacts, Outcome, Reservation
from exporter.secret import Secret
from exporter.settings import ServerSettings
from exporter.signals import Signals
from exporter.watch import Watch
from tests.forewarn import Forewarn
from tests.live_churn import Churn, NaivePoller
from tests.live_redis import Asked, monitored, open_tcp_port
from tests.live_relay import Relay, Said
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, free_port, running, wait_until
from tests.wire import Wire

SOAK = float(os.environ.get("FOREWARN_SOAK_SECONDS", "60"))
"""How long a server must live under churn beside Forewarn."""

CONTROL = 60.0
"""Within how long a naive poller kills it."""

READS = {"TIME", "MGET", "ZCARD", "SSCAN", "LLEN", "LINDEX", "ZRANGEBYSCORE"}
"""All that Redis may be asked."""

SLACK = 10.0
"""Seconds by which a busy machine may make Forewarn late, never early."""

NOTED = 1.0
"""Seconds by which a busy machine may make a relay late to note what was said."""


@pytest.mark.slow
@pytest.mark.timeout(SOAK + CONTROL + 120)
async def test_a_server_under_churn_lives_with_forewarn_and_dies_of_a_naive_poller(server: WatchedServer) -> None:
    async with Forewarn(server) as forewarn:
        with Churn(server) as churn:
            end = time.monotonic() + SOAK
            while time.monotonic() < end:
                assert server.running, f"{server.name} died:\n{server.log()}"
                scrape = await forewarn.scrape()
                assert (scrape.value("forewarn_snapshot_age_seconds") or 0) < SLACK
                await asyncio.sleep(1)
        assert churn.workers > 10 * SOAK, "there was no churn"
        assert churn.queues > 5 * SOAK, "there were no new queue names"
        # It did look, all the time: it knows of every name, the newest among them.
        await forewarn.wait_for("forewarn_label_values", churn.queues, SLACK, label="queue")
        scrape = await forewarn.scrape()
        assert scrape.value("faktory_up") == 1
        assert scrape.value("forewarn_collector_up", collector="redis") == 1
        assert scrape.value("faktory_workers") is None, "INFO was asked within 30 s of a new queue name"
        print(f"{server.name}: {churn.workers} workers, {churn.queues} queue names in {SOAK:g} s")
    if isinstance(server, RealFaktory):
        await _dies_of_a_naive_poller(RealFaktory(server.binary))


async def _dies_of_a_naive_poller(server: WatchedServer) -> None:
    async with running(server):
        started = time.monotonic()
        with Churn(server), NaivePoller(server) as poller:
            await wait_until(lambda: not server.running, CONTROL, what=f"a naive poller has killed {server.name}")
        took = time.monotonic() - started
        assert "fatal error: concurrent map" in server.log(10**6)
        print(f"{server.name}: dead after {took:.1f} s, {poller.pages} loads of /busy and {poller.infos} INFO")


class Witnessed(msgspec.Struct):
    """Forewarn, and all that it says to a server's two ports."""

    forewarn: Forewarn
    command: Relay
    web: Relay

    def pages(self) -> set[str]:
        """What it asked of the Web UI."""
        return {said.line for said in self.web.said if " HTTP/1." in said.line}


@asynccontextmanager
async def witnessed(server: WatchedServer, *arguments: str) -> AsyncIterator[Witnessed]:
    async with Relay(server.port) as command, Relay(server.web_port) as web:
        forewarn = Forewarn(
            arguments=[
                f"--faktory.url=tcp://127.0.0.1:{command.port}",
                f"--faktory.web-url=http://127.0.0.1:{web.port}",
                *arguments,
            ]
        )
        async with forewarn:
            yield Witnessed(forewarn, command, web)
            await forewarn.stop()
            await command.ended()


WORKERS = ("steady", "victim", "idle")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_nothing_is_asked_but_what_is_allowed_and_no_more_often(server: WatchedServer) -> None:
    """Long enough for ``INFO`` twice, and for a crash, which is not told in the server's first 90 s."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as scenarios:
        scenarios.create_task(_asked_with_redis(server, over))
        scenarios.create_task(_asked_without_redis(server, over))
    if isinstance(server, StandInFaktory):
        assert {entry["path"] for entry in server.ledger() if "path" in entry} == {"/health"}


async def _asked_with_redis(server: WatchedServer, over: asyncio.Event) -> None:
    up_since = time.monotonic()
    port = await open_tcp_port(server)
    async with (
        monitored(server) as redis_asked,
        witnessed(server, f"--faktory.redis-url=redis://127.0.0.1:{port}/0") as seen,
        AsyncExitStack() as wires,
        asyncio.TaskGroup() as background,
    ):
        forewarn = seen.forewarn
        producer = await wires.enter_async_context(await Wire.connect(server.url))
        workers = {wid: await wires.enter_async_context(await Wire.connect(server.url, wid)) for wid in WORKERS}
        beating = background.create_task(_beat_for_ever(server))
        await producer.push(queue="default")
        assert await workers["steady"].fetch("default")
        await producer.push(queue="full")
        await _until(up_since + 5)

        first_name = time.monotonic()
        await producer.push(queue="first-new-name")
        await wait_until(lambda: len(seen.command.lines("INFO")) == 1, 30 + SLACK, what="INFO was asked")
        await _until(up_since + 80)
        second_name = time.monotonic()
        await producer.push(queue="second-new-name")
        # Only now, for one that has been asked after is not asked after again for 80 s, whatever becomes of it.
        assert await workers["victim"].fetch("second-new-name")
        await _until(up_since + 92)

        await workers["victim"].abort()
        coming_and_going = background.create_task(_come_and_go(server))
        await forewarn.wait_for("faktory_worker_crashes_total", 1, 2 * SLACK, reason="vanished")
        await wait_until(lambda: len(seen.command.lines("INFO")) == 2, 30 + SLACK, what="INFO was asked again")
        await forewarn.wait_for("faktory_workers", 2, SLACK)
        beating.cancel()
        coming_and_going.cancel()
    over.set()

    info = [said.at for said in seen.command.lines("INFO")]
    assert 30 <= info[0] - first_name < 30 + SLACK
    assert info[1] - second_name >= 30
    assert info[1] - info[0] >= 60 - NOTED
    assert _asked_after(seen.command.lines("BEAT")) == ["steady", "victim", "victim"]
    assert {said.verb for said in seen.command.said} == {"HELLO", "INFO", "BEAT", "END"}
    assert seen.command.connections == 1
    (hello,) = seen.command.lines("HELLO")
    assert "wid" not in json.loads(hello.line.removeprefix("HELLO "))
    assert seen.pages() == {"GET /health HTTP/1.1"}
    assert {asked.command for asked in redis_asked if asked.by_tcp} == READS
    assert {asked.command for asked in redis_asked} > READS, "the server's own commands were not seen"
    if isinstance(server, StandInFaktory):
        assert _verbs_in_ledger(server, forewarn.pid) == {"HELLO", "INFO", "BEAT", "END"}


async def _asked_without_redis(server: WatchedServer, over: asyncio.Event) -> None:
    async with witnessed(server) as seen:
        warned = seen.forewarn.log("no Redis is configured: INFO is the only source, and is asked every 15 s")
        assert [(line["level"], line["server"]) for line in warned] == [("warning", "faktory")]
        await over.wait()
        scrape = await seen.forewarn.scrape()
    assert len(seen.command.lines("INFO")) >= 4
    gaps = [later.at - earlier.at for earlier, later in pairwise(seen.command.lines("INFO"))]
    assert all(15 - NOTED <= gap < 15 + SLACK for gap in gaps), gaps
    asked = {" ".join(said.line.split()[:2]) for said in seen.command.lines("QUEUE")}
    knows_latency = server.version >= (1, 9, 2)
    assert asked == ({"QUEUE LATENCY"} if knows_latency else set())
    assert (scrape.total("faktory_queue_latency_seconds") is not None) == knows_latency
    # Told to stop in the middle of an answer it does not say END: the connection is out of step.
    assert {said.verb for said in seen.command.said} - {"QUEUE", "END"} == {"HELLO", "INFO"}
    assert seen.command.connections == 1
    assert seen.pages() == {"GET /health HTTP/1.1"}


async def _until(instant: float) -> None:
    await asyncio.sleep(max(0.0, instant - time.monotonic()))


async def _beat_for_ever(server: WatchedServer) -> None:
    """Keep all workers alive, from a connection on which nothing else is waited for."""
    async with await Wire.connect(server.url) as heart:
        while True:
            for wid in WORKERS:
                await heart.beat(wid)
            await asyncio.sleep(10)


async def _come_and_go(server: WatchedServer) -> None:
    """Make the number of connections drop again and again: each time a worker that holds jobs may be suspect."""
    while True:
        async with AsyncExitStack() as producers:
            for _ in range(5):
                await producers.enter_async_context(await Wire.connect(server.url))
            await asyncio.sleep(1.5)
        await asyncio.sleep(1.5)


def _asked_after(beats: Sequence[Said]) -> list[str]:
    return sorted(json.loads(said.line.removeprefix("BEAT "))["wid"] for said in beats)


def _verbs_in_ledger(server: StandInFaktory, pid: int) -> set[str]:
    """What the stand-in was asked on the connection whose HELLO told this process id."""
    entries = [entry for entry in server.ledger() if "verb" in entry]
    peers = {entry["peer"] for entry in entries if entry["verb"] == "HELLO" and f'"pid":{pid},' in entry["arguments"]}
    assert len(peers) == 1
    return {entry["verb"] for entry in entries if entry["peer"] in peers}


SCRAPERS = 16


async def test_one_connection_and_one_poll_serve_any_number_of_scrapers(server: WatchedServer) -> None:
    async with Forewarn(server) as forewarn:
        before = await server.health()
        ports: set[int] = set()
        end = time.monotonic() + 10

        async def scrape_for_ever() -> int:
            scrapes = 0
            while time.monotonic() < end:
                status, _, _ = await forewarn.get("/metrics")
                assert status == 200
                scrapes += 1
            return scrapes

        async def look() -> None:
            while time.monotonic() < end:
                now = connections_to(forewarn.pid, server.port)
                assert len(now) == 1, f"{len(now)} connections at once"
                ports.update(now)
                await asyncio.sleep(0.05)

        *scrapes, _ = await asyncio.gather(*(scrape_for_ever() for _ in range(SCRAPERS)), look())
        after = await server.health()
        assert sum(filter(None, scrapes)) > 10 * SCRAPERS
        assert len(ports) == 1, "it connected anew"
        assert after["server"]["connections"] == 1
        assert after["server"]["command_count"] == before["server"]["command_count"]
        if isinstance(server, StandInFaktory):
            pages = sum("path" in entry for entry in server.ledger())
            assert pages <= 20, f"{pages} pages in 10 s at one poll a second"


def connections_to(pid: int, port: int) -> set[int]:
    """Return the local ports of this process's TCP connections to ``port``."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = descriptor.readlink().name
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
        if inode in sockets and int(remote.split(":")[1], 16) == port:
            found.add(int(local.split(":")[1], 16))
    return found


RESERVATIONS = 100_000
QUEUES = 50_000
SLOW = 10_000
"""Microseconds of Redis's time that no command may take."""


@pytest.mark.slow
async def test_a_hundred_thousand_reservations_are_read_without_holding_redis_up(server: WatchedServer) -> None:
    redis = server.redis()
    port = await open_tcp_port(server)
    await redis.config_set("save", "")  # else Redis forks to write all this down, which slows any command
    await redis.config_set("slowlog-log-slower-than", SLOW)
    await _fill(server)
    assert await _slow_by_itself(server, "ZRANGE working 0 -1"), "the control, what others ask, is not told as slow"

    async with Forewarn(server, redis=False, arguments=[f"--faktory.redis-url=redis://127.0.0.1:{port}/0"]) as forewarn:
        await redis.slowlog_reset()
        polls = await _watch_polls(forewarn, seconds=15, polls=5)
        slow = [
            entry["command"].decode()
            for entry in await redis.slowlog_get(128)
            if entry["client_address"].startswith(b"127.0.0.1:")
        ]
        assert [command for command in slow if await _slow_by_itself(server, command)] == []
        scrape = await forewarn.scrape()
        assert scrape.value("faktory_set_jobs", set="working") == RESERVATIONS
        assert scrape.total("faktory_busy_jobs") == RESERVATIONS
        assert scrape.total("faktory_queue_jobs") == QUEUES
        assert scrape.value("forewarn_label_values", label="queue") == QUEUES
        assert scrape.value("forewarn_collector_up", collector="redis") == 1
        print(f"{server.name}: {polls} polls; held up by the machine: {slow}")


async def _slow_by_itself(server: WatchedServer, command: str) -> bool:
    """Whether a command is slow every time: one that the machine itself held up for once is not."""
    redis = server.redis()
    await redis.slowlog_reset()
    for _ in range(5):
        await redis.execute_command(*command.split())  # type: ignore[no-untyped-call]
    again = [entry for entry in await redis.slowlog_get(128) if entry["command"].decode() == command]
    return len(again) == 5


async def _watch_polls(forewarn: Forewarn, seconds: float, polls: int) -> int:
    """Wait for at least so many seconds and polls; return how many polls, as the age of the newest snapshot shows."""
    seen, before, started = 0, 0.0, time.monotonic()
    while time.monotonic() < started + seconds or seen < polls:
        assert time.monotonic() < started + 120, f"only {seen} polls in 120 s"
        age = await forewarn.metric("forewarn_snapshot_age_seconds")
        assert age is not None
        seen += age < before
        before = age
        await asyncio.sleep(0.1)
    return seen


async def _fill(server: WatchedServer) -> None:
    """Put reservations and queues with one job each into the server's Redis, as the server writes them."""
    redis = server.redis()
    now = time.time()
    at = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(now))
    until = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(now + 3600))
    prefix = "q:" if server.version >= (1, 10) else ""
    for start in range(0, RESERVATIONS, 5_000):
        members: dict[str, float] = {}
        for number in range(start, start + 5_000):
            job = _job(f"reserved-{number:08d}", f"queue-{number % 100}", at)
            held = {"job": job, "reserved_at": at, "expires_at": until, "wid": f"worker-{number % 1000}"}
            members[json.dumps(held)] = now + 3600 + number / RESERVATIONS
        await redis.zadd("working", members)
    for start in range(0, QUEUES, 5_000):
        names = [f"queue-{number}" for number in range(start, start + 5_000)]
        pipeline = redis.pipeline(transaction=False)
        pipeline.sadd("queues", *names)
        for name in names:
            pipeline.lpush(f"{prefix}{name}", json.dumps(_job(f"of-{name}", name, at)))
        await pipeline.execute()


def _job(jid: str, queue: str, at: str) -> dict[str, object]:
    times = {"created_at": at, "enqueued_at": at}
    return {"jid": jid, "queue": queue, "jobtype": "Job", "args": [1, "two", {"three": 3}], "retry": 25} | times


# Traces


@asynccontextmanager
async def watching(server: WatchedServer, port: int, *, traces: bool) -> AsyncIterator[Watch]:
    """A watch that reads the server's Redis by TCP."""
    settings = ServerSettings(
        name="faktory",
        url=Secret(server.url),
        web_url=server.web_url,
        redis_url=Secret(f"redis://127.0.0.1:{port}/0"),
    )
    with ThreadPoolExecutor(1) as executor:
        watch = Watch(
            "faktory",
            "faktory",
            systems.build(settings, traces=traces),
            Signals(200, server="faktory", choice=Choice(ratio=1, per_second=10_000) if traces else None),
            interval=5,
            publish=lambda _: None,
            to_save=asyncio.Event(),
            executor=executor,
        )
        try:
            yield watch
        finally:
            await watch.close()


async def test_traces_ask_for_nothing_more_while_no_job_fails(server: WatchedServer) -> None:
    port = await open_tcp_port(server)
    async with (
        watching(server, port, traces=False) as without,
        watching(server, port, traces=True) as with_them,
        await Wire.connect(server.url, "worker-1") as worker,
        monitored(server) as asked,
    ):
        outcomes: list[Outcome | None] = []
        for _ in range(6):
            jid = await worker.push(queue="mail")
            assert await worker.fetch("mail")
            await without.poll()
            outcomes += _told(with_them, await with_them.poll())
            await worker.ack(jid)
        for _ in range(2):
            await without.poll()
            outcomes += _told(with_them, await with_them.poll())
        assert outcomes == [Outcome.FINISHED] * 6
        await wait_until(lambda: len(_polls_by_client(asked)) == 2, what="both have been heard")
        first, second = _polls_by_client(asked).values()
    assert first == second
    assert len(first) > 8 * 8


async def test_after_jobs_that_failed_traces_read_only_where_they_stand(server: WatchedServer) -> None:
    port = await open_tcp_port(server)
    await _fill_far_away(server)
    async with (
        watching(server, port, traces=True) as watch,
        await Wire.connect(server.url, "worker-1") as worker,
        monitored(server) as asked,
    ):
        for retry in (25, -1, 25):
            await worker.push(queue="mail", retry=retry)
        jids = [job["jid"] for job in [await worker.fetch("mail") for _ in range(3)] if job]
        await watch.poll()
        before = time.time()
        await worker.fail(jids[0])
        await worker.fail(jids[1])
        await worker.ack(jids[2])
        await watch.poll()
        told = _told(watch, await watch.poll())
        after = time.time()
        await watch.poll()
        looked = _looked(asked)
    assert sorted(map(str, told)) == ["failed", "failed", "finished"]
    assert {each.command for each in asked if each.by_tcp} <= READS
    assert [each.arguments[0] for each in looked] == ["dead", "retries"], "one page of each, and only once"
    for each, (earliest, latest) in zip(looked, ((DEAD_SECONDS, DEAD_SECONDS), (15, 15 + 29)), strict=True):
        _, low, high, _, _, _, count = each.arguments
        assert before + earliest - 3 < float(low) < before + earliest
        assert after + latest < float(high) < after + latest + 3
        assert int(count) <= MAX_PAGE


async def test_only_a_sidecar_with_traces_on_looks_for_failed_jobs_and_only_once_one_failed(
    server: WatchedServer,
) -> None:
    redis_url = f"--faktory.redis-url=redis://127.0.0.1:{await open_tcp_port(server)}/0"
    nowhere = f"--otlp.endpoint=http://127.0.0.1:{free_port()}"
    async with (
        monitored(server) as asked,
        Forewarn(server, redis=False, arguments=[redis_url]) as without,
        Forewarn(server, redis=False, arguments=[redis_url, nowhere]) as with_them,
        await Wire.connect(server.url, "worker-1") as worker,
    ):
        both = (without, with_them)
        for finishes in (True, False):
            jid = await worker.push(queue="mail")
            assert await worker.fetch("mail")
            for forewarn in both:
                await forewarn.wait_for("faktory_busy_jobs", 1, SLACK, queue="mail")
            if finishes:
                await worker.ack(jid)
                await with_them.wait_for("forewarn_trace_executions_total", 1, SLACK, decision="left_out")
                assert _looked(asked) == []
            else:
                await worker.fail(jid)
                await with_them.wait_for("forewarn_trace_executions_total", 1, SLACK, decision="told")
        for forewarn in both:
            assert (await forewarn.stop())[0] == 0
    assert [each.arguments[0] for each in _looked(asked)] == ["retries"]


def _told(watch: Watch, snapshot: Any) -> list[Outcome | None]:
    assert snapshot.executions is not None, watch.name
    return [each.outcome for each in snapshot.executions.told]


def _polls_by_client(asked: Sequence[Asked]) -> dict[str, list[str]]:
    """Return what each client on TCP asked, in order."""
    found: dict[str, list[str]] = {}
    for each in asked:
        if each.by_tcp:
            found.setdefault(each.client, []).append(each.command)
    return found


def _looked(asked: Sequence[Asked]) -> list[Asked]:
    """Return the questions after jobs that failed: that after the most overdue entry, of every poll, begins at -inf."""
    return [
        each
        for each in asked
        if each.by_tcp
        and each.arguments[:1] in (("retries",), ("dead",))
        and each.arguments[1:2] not in ((), ("-inf",))
    ]


async def _fill_far_away(server: WatchedServer) -> None:
    """Put entries into both sets that no job of now can be."""
    now = time.time()
    await server.redis().zadd("retries", {_failed(f"far-{n}"): now + 3600 + n for n in range(1000)})
    await server.redis().zadd("dead", {_failed(f"far-{n}"): now + DEAD_SECONDS - 3600 + n for n in range(1000)})


RETRIES, DEAD = 100_000, 50_000
BRIEF = 3_000
"""Microseconds of Redis's time that no question after failed jobs may take."""


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_storm_of_failures_is_not_read_whole(standin: StandInFaktory) -> None:
    redis = standin.redis()
    port = await open_tcp_port(standin)
    await redis.config_set("save", "")
    await redis.config_set("slowlog-log-slower-than", BRIEF)
    now = time.time()
    since = now - 10
    for start in range(0, RETRIES, 5_000):
        scores = {_failed(f"job-{n:06d}"): since + 20 + 20 * n / RETRIES for n in range(start, start + 5_000)}
        await redis.zadd("retries", scores)
        if start < DEAD:
            await redis.zadd("dead", {member: score + DEAD_SECONDS - 16 for member, score in scores.items()})
    ended = [_ended(f"job-{n:06d}", since, retry=25) for n in (0, RETRIES - 1)] + [_ended("finished", since, retry=25)]
    store = Store(f"redis://127.0.0.1:{port}/0", facts=True)
    whole, _ = await _cost(standin, "ZRANGE retries 0 -1", "ZRANGE dead 0 -1")
    assert whole > (RETRIES + DEAD) * 1024, "the control: what others read"
    assert await _slow_by_itself(standin, "ZRANGE retries 0 -1"), "the control is not told as slow"

    await redis.slowlog_reset()
    before = await _sent_by(standin)
    facts = await store.failures(ended, lambda: now)
    assert facts.failure is None
    assert list(facts.known) == ["job-000000"], "what was not found is not known"
    sent, calls = (await _sent_by(standin))[0] - before[0], (await _sent_by(standin))[1] - before[1]
    assert sent < MAX_LOOKED * 1.3 * 1024 + 100_000
    both = [*ended, _ended("died", since, retry=-1)]
    assert "died" not in (await store.failures(both, lambda: now)).known
    slow = [
        entry["command"].decode()
        for entry in await redis.slowlog_get(128)
        if entry["client_address"].startswith(b"127.0.0.1:")
    ]
    assert [command for command in slow if await _slow_by_itself(standin, command)] == []
    # Of sets as large, but of which little can be theirs, what there is to read is read whole.
    quiet = [_ended(jid, since - 50_000, retry=25) for jid in ("job-000000", "finished")]
    assert (await store.failures(quiet, lambda: since - 49_990)).known == {"job-000000": None, "finished": None}
    await store.close()
    print(f"{sent} bytes in {calls} commands for {MAX_LOOKED} entries; held up by the machine: {slow}")


def _ended(jid: str, since: float, retry: int) -> Ended:
    held = Reservation(jid, "worker-1", "mail", "Job", since - 60, since + 1740, JobFacts(retry=retry))
    return Ended(held, since, since + 5)


def _failed(jid: str) -> str:
    """An entry of about a KiB."""
    failure = {"retry_count": 0, "failed_at": "2026-11-21T08:09:51Z", "message": "broke", "errtype": "Bang"}
    job = {"jid": jid, "queue": "mail", "jobtype": "Job", "args": ["x" * 850], "retry": 25, "failure": failure}
    return json.dumps(job)


async def _sent_by(server: WatchedServer) -> tuple[int, int]:
    """Return how many bytes Redis has sent, and how many times it was asked by score."""
    stats, commands = await server.redis().info("stats"), await server.redis().info("commandstats")
    return stats["total_net_output_bytes"], commands.get("cmdstat_zrangebyscore", {"calls": 0})["calls"]


async def _cost(server: WatchedServer, *commands: str) -> tuple[int, int]:
    before = await _sent_by(server)
    for command in commands:
        await server.redis().execute_command(*command.split())  # type: ignore[no-untyped-call]
    after = await _sent_by(server)
    return after[0] - before[0], after[1] - before[1]
