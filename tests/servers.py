"""The servers that a test can watch: real Faktory programs and the stand-in, under one interface."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from urllib.request import urlopen

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from exporter.demo import child

HOW_TO_HAVE_ONE = "no real Faktory at hand: set FAKTORY_BIN to a faktory program, or put faktory on the PATH"
START_DEADLINE = 30.0
STOP_DEADLINE = 15.0


async def wait_until(
    condition: Callable[[], object] | Callable[[], Awaitable[object]],
    deadline: float = 30.0,
    *,
    every: float = 0.02,
    what: str = "",
) -> Any:
    """Poll ``condition`` (plain or async) until it is true and return its value.

    AssertionError after ``deadline`` seconds.
    """
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            told = what or getattr(condition, "__doc__", None) or getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"not true after {deadline:g} s: {told} (last value: {value!r})")
        await asyncio.sleep(every)


_CLAIMS: Final[deque[socket.socket]] = deque()
"""What keeps the ports that were handed out last from every other test process."""

_MOST_CLAIMS: Final = 200


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now, outside the range from which the kernel takes ports of its own.

    No other test on this machine gets the same meanwhile: some programs listen on theirs only seconds later.
    """
    for _ in range(1000):
        port = random.randrange(10240, 32000)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0forewarn-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        if len(_CLAIMS) > _MOST_CLAIMS:
            _CLAIMS.popleft().close()
        return port
    raise RuntimeError("no free TCP port on 127.0.0.1 between 10240 and 32000")


def children(pid: int) -> list[int]:
    """The process ids of the direct children of ``pid``."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, listing.read_text().split())
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and only waits to be collected does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def redis_client(url: str) -> redis.asyncio.Redis:
    """A client that tells of a failure at once and speaks text."""
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0))
    return client


class WatchedServer(ABC):
    """One job server as a child process in a folder of its own. Ports and data stay the same over restarts."""

    name: str
    version: tuple[int, ...]
    real: bool

    def __init__(self) -> None:
        self.port = free_port()
        self.web_port = free_port()
        # Not pytest's tmp_path: the path of a unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="fw-"))
        self.storage_dir = self.folder / "db"
        self.config_dir = self.folder / "etc"
        self.log_file = self.folder / "server.log"
        (self.config_dir / "conf.d").mkdir(parents=True)
        self.password: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._redis: redis.asyncio.Redis | None = None
        self._children: list[int] = []

    @abstractmethod
    def command_line(self) -> Sequence[str]:
        """What runs the server."""

    @property
    def url(self) -> str:
        """Where workers connect, with the password where there is one."""
        secret = "" if self.password is None else f":{quote(self.password, safe='')}@"
        return f"tcp://{secret}127.0.0.1:{self.port}"

    @property
    def web_url(self) -> str:
        """Where the web pages are."""
        return f"http://127.0.0.1:{self.web_port}"

    @property
    def redis_url(self) -> str:
        """Where the server's own Redis is."""
        return f"unix://{self.storage_dir}/redis.sock"

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The running process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def environment(self) -> Mapping[str, str]:
        """The child's environment: nothing of Faktory's from ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAKTORY", "FOREWARN"))}
        if self.password is not None:
            kept["FAKTORY_PASSWORD"] = self.password
        return kept

    async def start(self, password: str | None = None) -> None:
        """Start and wait until both ports answer."""
        assert not self.running, f"{self.name} runs already"
        self.password = password
        await self._start()

    async def _start(self) -> None:
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *child.command(*self.command_line()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=Path(__file__).parent.parent,
            )
        await wait_until(self._answers, START_DEADLINE, what=f"{self.name} answers on both ports")
        # Asked now: once the server has ended, nothing tells whose children they were.
        self._children = children(self.pid)

    async def _answers(self) -> bool:
        if self.process.returncode is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode} at its start:\n{self.log()}")
        try:
            for port, said in ((self.port, b""), (self.web_port, b"GET /health HTTP/1.0\r\n\r\n")):
                async with asyncio.timeout(2):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    try:
                        writer.write(said)
                        line = await reader.readline()
                    finally:
                        writer.transport.abort()
                    with contextlib.suppress(ConnectionError):
                        await writer.wait_closed()
                if not line.startswith((b"+HI", b"HTTP/1.0 200", b"HTTP/1.1 200")):
                    return False
        except (OSError, TimeoutError):
            return False
        return True

    def log(self, lines: int = 40) -> str:
        """The end of what the server wrote."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def stop(self) -> None:
        """End it as an operator would (SIGTERM); does nothing where it does not run."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it as the kernel would (SIGKILL), and wait until its Redis has ended too."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop and start with the same ports, data and password."""
        await self.stop()
        await self._start()

    async def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        await self._close_redis()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            await asyncio.wait_for(process.wait(), STOP_DEADLINE)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(
                f"{self.name} did not end within {STOP_DEADLINE:g} s of {how.name}:\n{self.log()}"
            ) from None
        finally:
            await self._end_children()

    async def _end_children(self) -> None:
        """Wait until the server's Redis has ended too: bound to the server's life, but it saves its data first.

        A server that is started again earlier finds the old one's socket, and gives up.
        """
        orphans, self._children = self._children, []
        try:
            await wait_until(lambda: not any(map(alive, orphans)), what=f"the Redis of {self.name} has ended")
        finally:
            for orphan in filter(alive, orphans):
                os.kill(orphan, signal.SIGKILL)

    def redis(self) -> redis.asyncio.Redis:
        """A client of the server's own Redis, to arrange and to look at data; closed when the server ends."""
        if self._redis is None:
            self._redis = redis_client(self.redis_url)
        return self._redis

    async def _close_redis(self) -> None:
        client, self._redis = self._redis, None
        if client is not None:
            await client.aclose()
            await client.connection_pool.disconnect()

    async def health(self) -> dict[str, Any]:
        """The document of ``/health``."""

        def read() -> dict[str, Any]:
            with urlopen(f"{self.web_url}/health", timeout=5) as answer:  # noqa: S310
                document: dict[str, Any] = json.load(answer)
            return document

        return await asyncio.to_thread(read)

    async def remove(self) -> None:
        """End it if it runs, and remove its folder."""
        try:
            await self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<{self.name} at 127.0.0.1:{self.port}>"


class RealFaktory(WatchedServer):
    """A real faktory program."""

    real = True

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.version = program_version(binary)
        self.name = "real-" + ".".join(map(str, self.version))
        super().__init__()

    def command_line(self) -> Sequence[str]:
        return [
            self.binary,
            *("-b", f"127.0.0.1:{self.port}"),
            *("-w", f"127.0.0.1:{self.web_port}"),
            *("-d", str(self.storage_dir)),
            *("-c", str(self.config_dir)),
            *("-e", "development"),
        ]


class StandInFaktory(WatchedServer):
    """The stand-in, with the real server's times and limits unless told otherwise.

    ``options`` are those of ``python -m exporter.demo.standin --help``, with ``_`` for ``-``:
    ``StandInFaktory(heartbeat_expiry=2, heartbeat_reap_every=1, connections_limit=5, claim_version="1.8.0")``.
    """

    real = False

    def __init__(self, **options: object) -> None:
        claimed = str(options.get("claim_version", "1.10.0"))
        self.options = options
        self.version = tuple(map(int, claimed.split(".")))
        self.name = "stand-in" if "claim_version" not in options else f"stand-in-{claimed}"
        super().__init__()
        self.ledger_file = self.folder / "ledger.jsonl"

    def command_line(self) -> Sequence[str]:
        options = {
            "bind": f"127.0.0.1:{self.port}",
            "web_bind": f"127.0.0.1:{self.web_port}",
            "storage_dir": self.storage_dir,
            "config_dir": self.config_dir,
            "ledger": self.ledger_file,
        } | self.options
        return [
            *(sys.executable, "-m", "exporter.demo.standin"),
            *(
                f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
                for name, value in options.items()
            ),
        ]

    def ledger(self) -> list[dict[str, Any]]:
        """Every command and page that the stand-in was asked for, in order, over all its restarts."""
        if not self.ledger_file.exists():
            return []
        return [json.loads(line) for line in self.ledger_file.read_text().splitlines()]


@functools.cache
def program_version(binary: str) -> tuple[int, ...]:
    """The version that a faktory program tells of itself."""
    told = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10)
    match = re.search(r"Faktory \D*(\d+)\.(\d+)\.(\d+)", told.stdout + told.stderr)
    if match is None:
        raise RuntimeError(f"FAKTORY_BIN: {binary} is not a faktory program: `-v` told no version")
    return tuple(map(int, match.groups()))


@functools.cache
def real_programs() -> tuple[str, ...]:
    """The faktory programs at hand, oldest version first."""
    named = [path for path in os.environ.get("FAKTORY_BIN", "").split(":") if path]
    for path in named:
        if not os.access(path, os.X_OK):
            raise RuntimeError(f"FAKTORY_BIN: {path} is not a program; name existing ones, separated by ':'")
    if not named and (found := shutil.which("faktory")):
        named = [found]
    return tuple(sorted(named, key=program_version))


@asynccontextmanager
async def running(server: WatchedServer, password: str | None = None) -> AsyncIterator[WatchedServer]:
    """Start a server for the duration of a ``with`` block; nothing of it is left behind."""
    try:
        await server.start(password)
        yield server
    finally:
        await server.remove()
