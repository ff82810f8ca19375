"""The demo's story: a stand-in, a producer and four workers.

One of the workers is killed now and then while it holds a job, and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import redis.asyncio

from exporter.demo import child
from exporter.demo.worker import wid

FIRST_CRASH = 45.0
CRASH_EVERY = 60.0
RESTART_PAUSE = 8.0  # longer than one poll: as a supervisor that backs off, so that the drop of connections is seen
END_DEADLINE = 8.0
START_DEADLINE = 15.0
WORKERS = 4

THROTTLED = "payments"
THROTTLES = f"""\
# At most two jobs of this queue at once, as Faktory Enterprise would enforce it.
[throttles]
{THROTTLED} = {{ concurrency = 2, timeout = 60 }}
"""
MIX = ("default:SendMail:3:0.5:1800", "reports:BuildReport:0.2:12:300", f"{THROTTLED}:ChargeCard:0.3:5:90")
"""Queue, job type, jobs a second, seconds of work, seconds of reservation."""


class Demo(msgspec.Struct, frozen=True):
    """Where the demo's server is."""

    url: str
    web_url: str
    redis_url: str
    config_dir: Path


class StoryError(Exception):
    """The demo could not be started; the text says what its server told."""


@asynccontextmanager
async def stand_in_with_workers(
    *,
    first_crash: float = FIRST_CRASH,
    crash_every: float = CRASH_EVERY,
    bind: tuple[str, int] | None = None,
    web_bind: tuple[str, int] | None = None,
) -> AsyncIterator[Demo]:
    """Run the story for the duration of the block; neither a process nor a file of it is left behind.

    The processes are bound to this process's life: they end with it however it ends. The first crash comes about
    ``first_crash`` seconds after the start, the next about every ``crash_every`` seconds. Free ports are taken where
    none is told. Raises StoryError where the server does not start.
    """
    # In /tmp, not TMPDIR: the path of a unix socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="forewarn-demo-", dir="/tmp"))
    try:
        host, port = bind or ("127.0.0.1", _free_port())
        web_host, web_port = web_bind or ("127.0.0.1", _free_port())
        demo = Demo(
            url=f"tcp://{host}:{port}",
            web_url=f"http://{web_host}:{web_port}",
            redis_url=f"unix://{folder}/redis.sock",
            config_dir=folder / "etc",
        )
        _write_throttles(demo.config_dir)
        async with _Cast(folder) as cast:
            await cast.start_server(demo, (host, port), (web_host, web_port))
            crashes = asyncio.create_task(cast.play(demo, first_crash, crash_every))
            try:
                yield demo
            finally:
                crashes.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await crashes
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_throttles(config_dir: Path) -> None:
    (config_dir / "conf.d").mkdir(parents=True)
    (config_dir / "conf.d" / "throttles.toml").write_text(THROTTLES)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class _Cast:
    """The child processes of the story, ended in the reverse order of their start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> _Cast:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Workers and producer first: they still have something to say to the server.
        *others, server = [*reversed(self._running[1:]), *self._running[:1]]
        for group in (others, [server]):
            for process in group:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await asyncio.gather(*map(_ended, group))

    async def _start(self, module: str, *arguments: str) -> asyncio.subprocess.Process:
        with (self._folder / "demo.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *child.command(sys.executable, "-m", module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Away from the terminal: Ctrl-C is for the sidecar, which ends these when it has finished.
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("FAKTORY")},
            )
        self._running.append(process)
        return process

    async def start_server(self, demo: Demo, bind: tuple[str, int], web_bind: tuple[str, int]) -> None:
        """Start the stand-in and wait until it answers."""
        server = await self._start(
            "exporter.demo.standin",
            f"--bind={bind[0]}:{bind[1]}",
            f"--web-bind={web_bind[0]}:{web_bind[1]}",
            f"--storage-dir={self._folder}",
            f"--config-dir={demo.config_dir}",
            "--remove-data",
            "--enforce-throttles",
        )
        try:
            async with asyncio.timeout(START_DEADLINE):
                while server.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection(*web_bind)
                        writer.close()
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        told = (self._folder / "demo.log").read_text(errors="replace").strip()
        raise StoryError(f"the demo's server does not start: {told or 'no answer'}")

    async def play(self, demo: Demo, first_crash: float, crash_every: float) -> None:
        """Start producer and workers, and kill a worker that holds a job now and then."""
        await self._start("exporter.demo.worker", "--url", demo.url, "--produce", *MIX)
        # One worker is on the throttled queue alone, so that its jobs at once come to the throttle's limit.
        queues: Sequence[Sequence[str]] = ((THROTTLED,), *([("reports", "default")] * (WORKERS - 1)))
        workers = [await self._work(demo, names) for names in queues]
        turn = itertools.cycle(reversed(range(WORKERS)))
        wait = first_crash
        while True:
            await asyncio.sleep(wait)
            wait = crash_every * random.uniform(0.9, 1.1)
            # In turn, so that the throttled queue has time to recover from what its worker left behind.
            number = next(turn)
            await self._until_busy(demo, workers[number])
            workers[number].kill()
            await workers[number].wait()
            self._running.remove(workers[number])
            await asyncio.sleep(RESTART_PAUSE)
            workers[number] = await self._work(demo, queues[number])

    async def _work(self, demo: Demo, queues: Sequence[str]) -> asyncio.subprocess.Process:
        return await self._start("exporter.demo.worker", "--url", demo.url, "--concurrency", "2", "--queues", *queues)

    @staticmethod
    async def _until_busy(demo: Demo, worker: asyncio.subprocess.Process) -> None:
        """Wait until a worker holds a job."""
        async with redis.asyncio.Redis.from_url(demo.redis_url) as store:
            while True:
                held = await store.zrange("working", 0, -1)
                if any(json.loads(member)["wid"] == wid(worker.pid) for member in held):
                    return
                await asyncio.sleep(0.05)


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), END_DEADLINE)
    except TimeoutError:
        process.kill()
        await process.wait()
