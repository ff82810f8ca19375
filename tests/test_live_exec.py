"""`forewarn exec` under real servers: they live and end as they do alone, and what befalls them is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exporter.process.companion import MODULE
from tests.forewarn import Scrape
from tests.servers import WatchedServer, alive, children, free_port, wait_until
from tests.supervised import catches, command_line


class Exec:
    """A server that Forewarn runs. What it and Forewarn write goes to the server's log file."""

    def __init__(self, server: WatchedServer, *flags: str) -> None:
        self.server = server
        self.port = free_port()
        self.state_file = server.folder / "state.json"
        self._alone = server.command_line()
        self._flags = (
            f"--faktory.url={server.url}",
            f"--faktory.web-url={server.web_url}",
            f"--faktory.redis-url={server.redis_url}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--state-file={self.state_file}",
            "--interval=1s",
            *flags,
        )
        server.command_line = self.command_line  # type: ignore[method-assign]

    def command_line(self) -> Sequence[str]:
        """What runs the server under Forewarn."""
        return [sys.executable, "-m", "exporter.cli", "exec", *self._flags, "--", *self._alone]

    @property
    def program(self) -> int:
        """The server's own process."""
        return next(it for it in children(self.server.pid) if MODULE not in command_line(it))

    @property
    def watcher(self) -> int | None:
        """The process that watches."""
        return next((it for it in children(self.server.pid) if MODULE in command_line(it)), None)

    async def scrape(self) -> Scrape:
        """What the metrics tell now."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
        ):
            return Scrape(await answer.text(), answer.headers["Content-Type"])

    async def watched(self) -> None:
        """Wait until the server is watched, and its output is read."""

        async def tells() -> bool:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                told = await self.scrape()
                return told.value("faktory_up", server="faktory") == 1 and (
                    told.value("faktory_log_events_total", server="faktory", event="started") == 1
                )
            return False

        await wait_until(tells, 30.0, every=0.1, what=f"the server is watched:\n{self.server.log()}")

    async def watched_by_another(self, first: int) -> None:
        """Wait until another process than the ``first`` watches, and is ready for what may come."""

        def there() -> bool:
            return self.watcher not in {None, first} and catches(self.watcher or 0, signal.SIGTERM)

        await wait_until(there, 30.0, what="another process watches")

    def counted(self) -> dict[str, Any]:
        """What the state file tells of the process."""
        kept: dict[str, Any] = json.loads(self.state_file.read_text())["servers"]["faktory"]["process"]
        return kept

    def crashes(self) -> dict[str, int]:
        """How many of each kind were counted, but for those that were not."""
        return {kind: count for kind, count in self.counted()["crashes"].items() if count}


@asynccontextmanager
async def started(server: WatchedServer, *flags: str) -> AsyncIterator[Exec]:
    """Run a server under Forewarn, and leave nothing behind."""
    run = Exec(server, *flags)
    left: set[int] = set()
    try:
        await server.start()
        left = {*children(server.pid), *(it for child in children(server.pid) for it in children(child))}
        yield run
    finally:
        if server.running:
            left |= {*children(server.pid)}
        for pid in filter(alive, left):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def status_alone(server: WatchedServer, number: signal.Signals) -> int:
    """How the server ends by a signal where nobody stands between."""
    await server.start()
    process = server.process
    process.send_signal(number)
    status = await asyncio.wait_for(process.wait(), 30)
    await server.stop()
    return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda it: it.name)
async def test_ends_as_it_does_alone(unstarted: WatchedServer, number: signal.Signals) -> None:
    alone = await status_alone(unstarted, number)
    async with started(unstarted):
        process = unstarted.process
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 30) == alone


async def test_a_stop_is_no_crash(unstarted: WatchedServer) -> None:
    async with started(unstarted) as run:
        await run.watched()
        process = unstarted.process
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)
        assert run.crashes() == {}


async def test_a_hang_up_reaches_it_and_it_lives_on(unstarted: WatchedServer) -> None:
    if not unstarted.real:
        pytest.skip("the stand-in leaves SIGHUP to the kernel")
    async with started(unstarted) as run:
        program = run.program
        before = unstarted.log(1000)
        unstarted.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: unstarted.log(1000) != before, what="it says something of that")
        assert alive(program)
        assert (await unstarted.health())["now"]


async def test_a_killed_server_is_counted_before_we_end(unstarted: WatchedServer) -> None:
    async with started(unstarted) as run:
        await run.watched()
        process = unstarted.process
        os.kill(run.program, signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL
        assert run.crashes() == {"killed": 1}


async def test_the_last_words_of_a_server_are_counted_before_we_end(unstarted: WatchedServer) -> None:
    if not unstarted.real:
        pytest.skip("the stand-in is no Go program")
    async with started(unstarted) as run:
        await run.watched()
        process = unstarted.process
        os.kill(run.program, signal.SIGQUIT)
        assert await asyncio.wait_for(process.wait(), 30) == 2
        assert run.crashes() == {"signal": 1}


async def test_what_it_prints_comes_byte_for_byte(unstarted: WatchedServer, tmp_path: Path) -> None:
    # Beside it stands a tee, so that the same run tells both what was printed and what came of it.
    printed, came = tmp_path / "printed", tmp_path / "came"
    alone = shlex.join(unstarted.command_line())
    script = f"{alone} 2>&1 | tee {shlex.quote(str(printed))}"
    unstarted.command_line = lambda: ["sh", "-c", script]  # type: ignore[method-assign]
    unstarted.log_file = came
    run = Exec(unstarted, "--log.level=error")
    try:
        await unstarted.start()
        server = next(it for it in children(run.program) if "tee" not in command_line(it))
        # A Go program prints a dump of all its goroutines.
        os.kill(server, signal.SIGQUIT if unstarted.real else signal.SIGTERM)
        await asyncio.wait_for(unstarted.process.wait(), 30)
        assert printed.stat().st_size > 0
        ours = re.compile(rb"^\S+Z ERROR forewarn\.\S+: .*\n", re.MULTILINE)
        assert ours.sub(b"", came.read_bytes()) == printed.read_bytes()
    finally:
        for pid in children(run.program) if unstarted.running else []:
            os.kill(pid, signal.SIGKILL)


async def test_lives_on_whatever_is_killed_of_forewarn(unstarted: WatchedServer) -> None:
    async with started(unstarted) as run:
        await run.watched()
        program, first = run.program, run.watcher
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await run.watched_by_another(first)
        assert (await unstarted.health())["now"]
        size = unstarted.log_file.stat().st_size
        os.kill(unstarted.pid, signal.SIGKILL)
        await unstarted.process.wait()
        # It is asked for something that it prints of, and nobody but the watcher could bring that to the file.
        os.kill(program, signal.SIGTERM) if not unstarted.real else os.kill(program, signal.SIGTTIN)
        await wait_until(lambda: unstarted.log_file.stat().st_size > size, what="its output still flows")
        if unstarted.real:
            assert alive(program)
            assert (await unstarted.health())["now"]


@pytest.mark.parametrize(
    "flags", [["--web.listen-address=127.0.0.1:{taken}"], ["--interval=never"]], ids=["port taken", "wrong settings"]
)
async def test_runs_where_it_cannot_be_watched(unstarted: WatchedServer, flags: Sequence[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        async with started(unstarted, *(it.format(taken=taken) for it in flags)):
            await _told_and_alive(unstarted)


async def _told_and_alive(server: WatchedServer) -> None:
    await wait_until(lambda: "nobody watches it" in server.log(), what="that is told")
    assert (await server.health())["now"]
    process = server.process
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 0
