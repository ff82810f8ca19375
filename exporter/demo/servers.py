"""The server of the demo: a real Faktory where there is one, else the stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import socket
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from exporter.demo.cast import Cast

START_DEADLINE = 30.0
ATTEMPTS = 3
"""A free port may be taken by another program before the server comes to it."""

LOG = "server.log"

OLD_REDIS_CONF = Path("/tmp/redis.conf")  # noqa: S108
"""Faktory before 1.10 writes this file, wherever its storage is, where it is not there yet."""

DEMO_LIMIT = 1000
"""Most connections that are the demo's own limit: no more than any open source Faktory allows."""

SERVER_LIMIT = 2000
"""Connections that the newest Faktory allows."""

SPARE_FILES = 200
"""Open files that a process needs beside one for each connection."""


class Kind(StrEnum):
    """What the demo may run on."""

    REAL = "real"
    STAND_IN = "stand-in"


class ServerError(Exception):
    """The server could not be chosen or started, or it has ended; the text says why and how to mend it."""


class Choice(msgspec.Struct, frozen=True):
    """Which server it is, and why, in words."""

    kind: Kind
    program: str | None
    """The real one's."""
    told: str


class Server(msgspec.Struct, frozen=True):
    """One that runs."""

    url: str
    web_url: str
    redis_url: str
    config_dir: Path
    log_file: Path
    process: asyncio.subprocess.Process
    connections_limit: int | None = None
    """Where it is the demo's own: the system does not let enough files be open for the server's."""


def choose(wanted: str, path: str | None = None) -> Choice:
    """Return the server for ``auto``, ``real`` or ``stand-in``; programs are looked for on ``path``, or the PATH.

    Raises:
        ServerError: A real one is wanted and there is none.
    """
    faktory, redis = (shutil.which(program, path=path) for program in ("faktory", "redis-server"))
    missing = [name for name, found in (("faktory", faktory), ("redis-server", redis)) if found is None]
    why = f"there is no {' and no '.join(missing)} on the PATH"
    if wanted != Kind.STAND_IN and not missing:
        return Choice(Kind.REAL, faktory, f"a real Faktory: {faktory}, with a {redis} and a storage folder of its own")
    if wanted == Kind.REAL:
        it = "them" if len(missing) > 1 else "it"
        raise ServerError(f"--server real: {why}: install {it}, or choose --server stand-in")
    over = f"a real Redis, {redis}" if redis else "an imitation of Redis"
    why = "as --server asks for it" if wanted == Kind.STAND_IN else f"for {why}"
    return Choice(Kind.STAND_IN, None, f"the embedded stand-in, an imitation of Faktory over {over}, {why}")


def demo_limit(hard: int) -> int | None:
    """Return the demo's own limit of connections where ``hard``, of open files, does not suffice for the server's."""
    if hard == resource.RLIM_INFINITY or hard >= SERVER_LIMIT + SPARE_FILES:
        return None
    # The stand-in holds a second file for each worker that waits.
    return max(50, min(DEMO_LIMIT, (hard - SPARE_FILES) // 50 * 50))


async def start(
    cast: Cast,
    choice: Choice,
    *,
    limit: int | None = None,
    options: Mapping[str, object] | None = None,
    throttles: str = "",
) -> Server:
    """Start the server on free ports of 127.0.0.1 and wait until it answers.

    Args:
        cast: Starts it.
        choice: Which it is.
        limit: Connections that are the demo's own limit; ``None`` for the server's.
        options: Of the stand-in, beside those of the demo.
        throttles: The text of its ``throttles.toml``.

    Raises:
        ServerError: It does not start; the text ends with what it printed.
    """
    config_dir = cast.folder / "etc"
    (config_dir / "conf.d").mkdir(parents=True)
    (config_dir / "conf.d" / "throttles.toml").write_text(throttles)
    storage = cast.folder / "db"
    if choice.kind is Kind.REAL:
        cast.also_remove_if_new(OLD_REDIS_CONF)
    for _ in range(ATTEMPTS):
        port, web_port = _free_ports()
        if choice.program is not None:
            command = [choice.program, "-b", f"127.0.0.1:{port}", "-w", f"127.0.0.1:{web_port}"]
            command += ["-d", str(storage), "-c", str(config_dir), "-e", "development"]
        else:
            told: dict[str, object] = {
                "bind": f"127.0.0.1:{port}",
                "web_bind": f"127.0.0.1:{web_port}",
                "storage_dir": storage,
                "config_dir": config_dir,
                "enforce_throttles": True,
            }
            told |= {} if limit is None else {"connections_limit": limit}
            told |= options or {}
            command = [sys.executable, "-m", "exporter.demo.standin", *_written(told)]
        process = await cast.start(LOG, *command)
        if await _answers(process, port, web_port):
            return Server(
                url=f"tcp://127.0.0.1:{port}",
                web_url=f"http://127.0.0.1:{web_port}",
                redis_url=f"unix://{storage}/redis.sock",
                config_dir=config_dir,
                log_file=cast.folder / LOG,
                process=process,
                connections_limit=limit,
            )
        await cast.end(process)
        if "address already in use" not in cast.log(LOG).lower():
            break
    other = "; another may do: --server stand-in" if choice.kind is Kind.REAL else ""
    raise ServerError(f"the demo's server does not start{other}. It told:\n{cast.log(LOG) or 'nothing'}")


def _written(options: Mapping[str, object]) -> list[str]:
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        ports: list[int] = []
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    return ports[0], ports[1]


async def _answers(process: asyncio.subprocess.Process, *ports: int) -> bool:
    """Wait until all ports accept connections; False where the process ends, or takes too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_DEADLINE):
            waiting = list(ports)
            while waiting:
                if process.returncode is not None:
                    return False
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", waiting[0])
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    del waiting[0]
            return process.returncode is None
    return False
