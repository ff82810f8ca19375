"""A witness between Forewarn and a server: passes everything on, and notes each line that Forewarn sends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Self

import msgspec

from tests.servers import wait_until


class Said(msgspec.Struct, frozen=True):
    """One line from Forewarn to the server. ``at`` is of the monotonic clock, in seconds."""

    at: float
    line: str

    @property
    def verb(self) -> str:
        """Its first word."""
        return self.line.partition(" ")[0]


class Relay:
    """Listens on a port of its own and passes bytes on to ``port``, both of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.said: list[Said] = []
        self.connections = 0
        self._target = port
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._listener is not None
        found: int = self._listener.sockets[0].getsockname()[1]
        return found

    def lines(self, *verbs: str) -> list[Said]:
        """Return what was said, or the lines that begin with one of these words."""
        return [each for each in self.said if not verbs or each.verb in verbs]

    async def ended(self) -> None:
        """Wait until all connections are over, and so all is noted that was said on them."""
        await wait_until(lambda: not self._tasks, what="all connections through the relay are over")

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(self._up(reader, inner_writer), self._down(inner_reader, writer))
            finally:
                inner_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.said.append(Said(time.monotonic(), line.decode("utf-8", "replace").rstrip("\r\n")))
            writer.write(line)
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        with contextlib.suppress(OSError):
            writer.write_eof()
