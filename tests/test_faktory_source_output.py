"""What a poll learns besides what it asks for: the server's output, its process, and the crashes that threaten it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from exporter import systems
from exporter.faktory.advisories import BUSY_PAGE, ENT_THROTTLE, QUEUE_NAMES
from exporter.faktory.source import FaktorySource
from exporter.model import LogEvent, Noticed, Observation, Position, Reason, Source
from exporter.secret import Secret
from exporter.settings import LogWatch, ServerSettings
from tests.forewarn import Forewarn
from tests.servers import WatchedServer, free_port, wait_until
from tests.wire import Wire

DEADLINE = 30.0


def settings_of(server: WatchedServer, *files: str) -> ServerSettings:
    return ServerSettings(
        name="faktory",
        url=Secret(server.url),
        web_url=server.web_url,
        redis_url=Secret(server.redis_url),
        log=LogWatch(files=files) if files else None,
    )


@asynccontextmanager
async def watching(
    server: WatchedServer, *files: str, positions: Sequence[Position] = ()
) -> AsyncIterator[FaktorySource]:
    source = systems.build(settings_of(server, *files), positions=positions)
    assert isinstance(source, FaktorySource)
    try:
        yield source
    finally:
        await source.close()


def noticed(*seen: Observation) -> list[LogEvent]:
    logs = [it.log for it in seen if it.log is not None]
    return [entry.event for log in logs for entry in log.entries if isinstance(entry, Noticed)]


async def flush_and_look(server: WatchedServer) -> None:
    """Flush, and then look at a page that can kill a server."""
    async with await Wire.connect(server.url) as wire:
        await wire.ok("FLUSH")
    async with aiohttp.ClientSession() as session, session.get(f"{server.web_url}/busy") as answer:
        await answer.read()


async def observe_until(source: Source, event: LogEvent) -> list[Observation]:
    seen: list[Observation] = []

    async def told() -> bool:
        seen.append(await source.observe())
        return event in noticed(seen[-1])

    await wait_until(told, DEADLINE, every=0.1, what=f"a poll tells {event}")
    return seen


class TestTheOutput:
    async def test_that_is_not_read_is_no_part_of_a_poll(self, server: WatchedServer) -> None:
        async with watching(server) as source:
            seen = await source.observe()
        assert seen.log is None
        assert "log" not in {run.name for run in seen.runs}
        assert seen.known_risks == {ENT_THROTTLE: False}

    async def test_is_a_part_of_a_poll_from_where_watching_began(self, server: WatchedServer) -> None:
        async with watching(server, str(server.log_file)) as source:
            first = await source.observe()
            assert noticed(first) == []
            assert first.known_risks == {ENT_THROTTLE: False, BUSY_PAGE: False}
            await flush_and_look(server)
            seen = await observe_until(source, LogEvent.BUSY_PAGE)
        assert noticed(*seen) == [LogEvent.FLUSHED, LogEvent.BUSY_PAGE]
        assert seen[-1].known_risks == {ENT_THROTTLE: False, BUSY_PAGE: True, QUEUE_NAMES: True}
        assert seen[-1].log is not None
        assert seen[-1].log.last_at is not None
        assert abs(seen[-1].log.last_at - seen[-1].now) < DEADLINE
        assert [run.failure for run in seen[-1].runs if run.name == "log"] == [None]

    async def test_goes_on_where_the_last_run_ended(self, server: WatchedServer) -> None:
        async with watching(server, str(server.log_file)) as source:
            log = (await source.observe()).log
        assert log is not None
        await flush_and_look(server)
        async with watching(server, str(server.log_file), positions=log.positions) as source:
            seen = await observe_until(source, LogEvent.BUSY_PAGE)
        assert noticed(*seen) == [LogEvent.FLUSHED, LogEvent.BUSY_PAGE]

    async def test_that_cannot_be_read_fails_alone(self, server: WatchedServer) -> None:
        async with watching(server, str(server.folder)) as source:
            seen = await source.observe()
        failures = {run.name: run.failure.reason for run in seen.runs if run.failure is not None}
        assert set(failures) == {"log"}
        assert isinstance(failures["log"], Reason)
        assert seen.reached


class TestTheProcess:
    async def test_is_told_with_every_poll(self, server: WatchedServer) -> None:
        async with watching(server) as source:
            process = (await source.observe()).process
        assert process is not None
        assert process.pid == server.pid

    async def test_that_is_a_new_one_is_told(self, server: WatchedServer) -> None:
        async with watching(server, str(server.log_file)) as source:
            before = (await source.observe()).process
            await server.kill()
            away = await source.observe()
            await server.restart()
            seen = await observe_until(source, LogEvent.STARTED)
            after = (await source.observe()).process
        assert (away.process, away.sockets) == (None, None)
        assert before is not None
        assert after is not None
        assert after.pid == server.pid != before.pid
        assert (after.started_at or 0) > (before.started_at or 0)
        assert {run.name for run in seen[-1].runs if run.name == "process"} == set(), "nothing failed"


def licence(number: int) -> str:
    return f"I 2026-11-21T06:06:43.393Z Licensed to Acme, Inc., max {number} connections\n"


@asynccontextmanager
async def enterprise_page() -> AsyncIterator[str]:
    """Serve the health page of a Faktory Enterprise."""

    async def health(_: web.Request) -> web.Response:
        server = {
            "description": "Faktory Enterprise",
            "faktory_version": "1.9.0",
            "connections": 90,
            "command_count": 100,
        }
        return web.json_response({"now": "2026-11-21T06:06:43.393Z", "server": server})

    application = web.Application()
    application.router.add_get("/health", health)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_the_limit_of_an_enterprise_server_is_that_of_its_licence(tmp_path: Path) -> None:
    log = tmp_path / "faktory.log"
    log.write_text("I 2026-11-21T06:06:42.393Z Initializing redis storage\n" + licence(100))
    async with enterprise_page() as page:
        arguments = [f"--faktory.url=tcp://127.0.0.1:{free_port()}", f"--faktory.web-url={page}"]
        async with Forewarn(arguments=[*arguments, f"--faktory.log-file={log}"]) as forewarn:
            await forewarn.wait_for("faktory_connections_limit", 100, DEADLINE)
            assert await forewarn.metric("faktory_connections") == 90
            with log.open("a") as file:
                file.write(licence(250))
            await forewarn.wait_for("faktory_connections_limit", 250, DEADLINE)
        async with Forewarn(arguments=[*arguments, "--faktory.connections-limit=120"]) as forewarn:
            await forewarn.wait_for("faktory_connections_limit", 120, DEADLINE)
