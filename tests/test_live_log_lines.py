"""What a server says in its log is understood: real servers of every version at hand, and the stand-in."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import aiohttp
import pytest

from exporter.faktory.log_lines import FAKTORY_LINES
from exporter.model import Incident, IncidentKind, LogEntry, LogEvent, Noticed
from exporter.process.exits import ExitLines
from exporter.process.scan import Scanner
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, children, running, wait_until
from tests.test_live_sockets import clients_of
from tests.wire import Wire

DEADLINE = 30.0


def entries(server: WatchedServer) -> Sequence[LogEntry]:
    """Return what its log tells so far."""
    scanner = Scanner((FAKTORY_LINES, ExitLines("faktory")))
    return [*scanner.feed(server.log_file.read_bytes(), 0), *scanner.flush(0)]


def noticed(server: WatchedServer) -> list[tuple[LogEvent, int | None]]:
    found = entries(server)
    assert all(isinstance(it, Noticed) for it in found), "nothing else befell it"
    return [(it.event, it.value) for it in found if isinstance(it, Noticed)]


async def wait_for(server: WatchedServer, event: LogEvent, times: int = 1, deadline: float = DEADLINE) -> None:
    """Wait until the log has told an event so many times, and never more."""

    def told() -> bool:
        found = [it for it, _ in noticed(server) if it is event]
        assert len(found) <= times, server.log()
        return len(found) == times

    await wait_until(told, deadline, what=f"its log tells {event} {times} times")


async def load(server: WatchedServer, *pages: str) -> None:
    async with aiohttp.ClientSession() as session:
        for page in pages:
            async with session.get(server.web_url + page) as answer:
                assert answer.status == 200


async def test_its_start_and_its_end_are_told_each_time(server: WatchedServer) -> None:
    before = time.time()
    await wait_for(server, LogEvent.STARTED)
    (started,) = entries(server)
    assert isinstance(started, Noticed)
    assert started.value == server.pid
    assert started.at is not None
    assert before - 60 < started.at < time.time() + 1
    for how in (signal.SIGTERM, signal.SIGINT):
        server.process.send_signal(how)
        await server.process.wait()
        await server.restart()
    starts = [LogEvent.STARTED, LogEvent.STOPPING] * 2 + [LogEvent.STARTED]
    assert [it for it, _ in noticed(server)] == starts


async def test_a_flush_and_pages_that_somebody_loads_are_told(server: WatchedServer) -> None:
    async with await Wire.connect(server.url) as wire:
        await wire.ok("FLUSH")
        # What a client makes it quote is not its own word.
        for quoted in ("Flushing dataset", "Faktory shutting down", "PID 1 listening at :1, press Ctrl-C to stop"):
            await wire.ok(f'ACK {{"jid":"{quoted}"}}')
    await load(server, "/health", "/stats", "/busy", "/busy?page=1", "/queues", "/")
    await wait_for(server, LogEvent.STATS_PAGE, 2)
    assert noticed(server)[1:] == [
        (LogEvent.FLUSHED, None),
        (LogEvent.BUSY_PAGE, None),
        (LogEvent.BUSY_PAGE, None),
        (LogEvent.STATS_PAGE, None),
        (LogEvent.STATS_PAGE, None),
    ]


async def test_a_job_that_is_lost_is_told(server: WatchedServer) -> None:
    await server.redis().zadd("scheduled", {"no job": time.time() - 1})
    await wait_for(server, LogEvent.JOB_LOST)


async def test_every_refused_connection_is_told(unstarted: WatchedServer) -> None:
    server, limit = unstarted, 2000 if unstarted.version >= (1, 9) else 1000
    if isinstance(server, StandInFaktory):
        server, limit = StandInFaktory(connections_limit=50), 50
    async with running(server), clients_of(server) as clients:
        await clients.connect("127.0.0.2", limit)
        assert [it for it, _ in noticed(server)] == [LogEvent.STARTED]
        await clients.connect("127.0.0.3", 3)
        # Before 1.9 they are told in the same words, though they were let in: whoever knows the version passes it over.
        await wait_for(server, LogEvent.CONNECTION_REFUSED, 3)


@pytest.mark.slow
async def test_workers_that_are_given_up_are_told(unstarted: WatchedServer) -> None:
    server, deadline = unstarted, 90.0
    if isinstance(server, StandInFaktory):
        server, deadline = StandInFaktory(heartbeat_expiry=1, heartbeat_reap_every=1), DEADLINE
    async with running(server):
        open_ = [await Wire.connect(server.url, wid) for wid in ("hung", "hung", "too")]
        await wait_for(server, LogEvent.WORKER_REAPED, deadline=deadline)
        assert noticed(server)[1:] == [(LogEvent.WORKER_REAPED, None)]
        for wire in open_:
            await wire.abort()


@pytest.mark.real
async def test_the_end_of_its_redis_is_told_with_the_panic_by_which_it_follows(unstarted: WatchedServer) -> None:
    if not isinstance(unstarted, RealFaktory):
        pytest.skip("the stand-in lives on without its Redis")
    async with running(unstarted) as server:
        (redis,) = children(server.pid)
        os.kill(redis, signal.SIGKILL)
        await server.process.wait()
        _, crashed, panic = entries(server)
        assert isinstance(crashed, Noticed)
        assert crashed.event is LogEvent.STORE_CRASHED
        assert isinstance(panic, Incident)
        assert (panic.kind, panic.message) == (IncidentKind.PANIC, "signal: killed")
