"""The stand-in's Redis: a real server as a child process, or an imitation inside this one where none is installed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from exporter.demo import child

SOCKET = "redis.sock"
LONGEST_SOCKET_PATH = 107
"""Of Linux, in bytes (``sockaddr_un``)."""
BOOT_DEADLINE = 10.0
STOP_DEADLINE = 10.0
_HOW_TO_HAVE_ONE = "install redis-server (Debian: apt install redis-server), or the Python package fakeredis"


class StoreError(Exception):
    """Redis could not be started; the text says how to mend it."""


def _prepare(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SOCKET
    if len(str(path).encode()) > LONGEST_SOCKET_PATH:
        raise StoreError(
            f"{path}: longer than the {LONGEST_SOCKET_PATH} bytes that a unix socket's path may have; "
            "use a storage directory with a shorter name"
        )
    path.unlink(missing_ok=True)
    return path


@asynccontextmanager
async def open_store(folder: Path, connections: int) -> AsyncIterator[redis.asyncio.Redis]:
    """Run Redis with its data and its unix socket in ``folder``, and yield a client of up to ``connections``."""
    path = _prepare(folder)
    if len(str(path).encode()) > 107:
        raise StoreError(f"{path}: longer than the 107 bytes that a unix socket's path may have; use a shorter folder")
    running = _server(folder, path) if shutil.which("redis-server") else _imitation(path)
    async with running:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            f"unix://{path}",
            max_connections=connections,
            timeout=None,
            decode_responses=True,
            encoding_errors="replace",
            retry=Retry(NoBackoff(), 0),
        )
        client: redis.asyncio.Redis = redis.asyncio.Redis(connection_pool=pool)
        try:
            await _wait_for_answer(client, path)
            yield client
        finally:
            await client.aclose()
            await pool.disconnect()


async def _wait_for_answer(client: Any, path: Path) -> None:
    try:
        async with asyncio.timeout(BOOT_DEADLINE):
            while True:
                with contextlib.suppress(redis.exceptions.ConnectionError, FileNotFoundError):
                    await client.ping()
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise StoreError(
            f"Redis at {path} does not answer after {BOOT_DEADLINE:g} s; see redis.log beside it"
        ) from None


@asynccontextmanager
async def _server(folder: Path, path: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *child.command("redis-server", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Away from the terminal: Ctrl-C is for the stand-in, which stops Redis when it has finished.
        start_new_session=True,
        # What we inherited tells whoever waits for the end of all of us that somebody still writes here.
        close_fds=False,
    )
    # As Faktory configures its own; from standard input, so that no file has to be written.
    configuration = process.stdin
    assert configuration is not None  # noqa: S101  (it was asked for)
    configuration.write(
        f"""
        port 0
        unixsocket "{path}"
        unixsocketperm 700
        dir "{folder}"
        dbfilename faktory.rdb
        logfile "{folder}/redis.log"
        loglevel warning
        maxmemory-policy noeviction
        save 120 1
        save 30 5
        slowlog-log-slower-than 10000
        slowlog-max-len 128
        """.encode()
    )
    configuration.close()
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_DEADLINE)
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _imitation(path: Path) -> AsyncIterator[None]:
    try:
        from fakeredis import TcpFakeServer  # noqa: PLC0415  (needed nowhere else)
    except ImportError:
        raise StoreError(f"no redis-server on the PATH: {_HOW_TO_HAVE_ONE}") from None

    class UnixFakeServer(TcpFakeServer):
        address_family = socket.AF_UNIX
        daemon_threads = True
        block_on_close = False
        numbers = itertools.count(1)

        def get_request(self) -> tuple[socket.socket, Any]:
            # Peers of a unix socket have no address, yet it tells its clients apart by them.
            connection, _ = self.socket.accept()
            return connection, ("unix", next(self.numbers))

    server = UnixFakeServer(str(path))  # type: ignore[arg-type]
    os.chmod(path, 0o700)
    thread = threading.Thread(target=server.serve_forever, name="redis", daemon=True)
    thread.start()
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
