"""The exporters that are compared, each as a process of its own beside one server, and a scraper that costs little."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.forewarn import Forewarn
from tests.servers import WatchedServer, free_port

START_DEADLINE = 30.0
FOREWARN = "forewarn"
PYPI = "faktory-prometheus-exporter"


class Exporter:
    """One running exporter."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, started_in: float) -> None:
        self.name = name
        self.port = port
        self.started_in = started_in
        """Seconds from its start to its first answer of status 200 to a scrape."""
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def resident(self, *, peak: bool = False) -> int:
        """Return its resident memory in kB, now or at most so far."""
        return resident(self.pid, peak=peak)

    def processor_seconds(self) -> float:
        """Return the processor time that it has taken since its start."""
        return processor_seconds(self.pid)


def resident(pid: int, *, peak: bool = False) -> int:
    """Return the resident memory of a process in kB, now or at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:" if peak else "VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no memory: did it end?")


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has taken since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Scraper:
    """Scrapes one exporter over one connection where the exporter keeps it, else over a new one each time."""

    def __init__(self, port: int, version: str = "1.1") -> None:
        """``version`` is HTTP's: by 1.0 no answer comes in chunks, and each takes a connection of its own."""
        self._port = port
        self._version = version
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def scrape(self, path: str = "/metrics") -> bytes:
        """Return the body of one page; ConnectionError where there is none."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/{self._version}\r\nHost: 127.0.0.1\r\nAccept: text/plain\r\n\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        except asyncio.IncompleteReadError:
            await self.close()
            raise ConnectionError("closed before an answer") from None
        length = next((int(it[15:]) for it in head.split(b"\r\n") if it.startswith(b"content-length:")), -1)
        body = await (reader.read() if length < 0 else reader.readexactly(length))
        if head.startswith(b"http/1.0") or b"connection: close" in head or length < 0:
            await self.close()
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"answered {head[:20]!r}")
        return body

    async def close(self) -> None:
        """Close the connection, if there is one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            with contextlib.suppress(ConnectionError):
                await streams[1].wait_closed()


@asynccontextmanager
async def forewarn(
    server: WatchedServer, *, interval: str = "5s", arguments: Sequence[str] = ()
) -> AsyncIterator[Exporter]:
    """Run `forewarn run` beside ``server``."""
    told = Forewarn(server, interval=interval, arguments=arguments)
    async with running(FOREWARN, told.command, told.environment, told.port) as exporter:
        yield exporter


@asynccontextmanager
async def pypi(server: WatchedServer) -> AsyncIterator[Exporter]:
    """Run the exporter of PyPI beside ``server``."""
    port = free_port()
    command = [sys.executable, "-m", "faktory_prometheus_exporter", "-d", "--port", str(port)]
    environment = dict(os.environ) | {"FAKTORY_URL": server.url}
    async with running(PYPI, command, environment, port) as exporter:
        yield exporter


EXPORTERS: dict[str, Callable[[WatchedServer], contextlib.AbstractAsyncContextManager[Exporter]]] = {
    FOREWARN: forewarn,
    PYPI: pypi,
}


@asynccontextmanager
async def running(
    name: str, command: list[str], environment: dict[str, str], port: int, http: str = "1.1"
) -> AsyncIterator[Exporter]:
    """Run an exporter that answers on ``port``, until the end of an ``async with`` block."""
    started = time.perf_counter()
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else happens meanwhile
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        scraper = Scraper(port, http)
        while True:
            try:
                await scraper.scrape()
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() - started > START_DEADLINE:
                    raise RuntimeError(f"{name} did not come to answer /metrics: {' '.join(command)}") from None
                await asyncio.sleep(0.002)
        started_in = time.perf_counter() - started
        await scraper.close()
        yield Exporter(name, process, port, started_in)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
