"""Forewarn does no harm to the server that it watches: live, each rule beside what shows that it can be broken."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from tests.forewarn import Forewarn
from tests.live_churn import Churn, NaivePoller
from tests.live_redis import monitored, open_tcp_port
from tests.live_relay import Relay, Said
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, running, wait_until
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
