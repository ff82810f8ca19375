"""A gate in front of a live server: lets everything through, or does to its callers what a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.misbehaving import Handler
from tests.servers import free_port

Address = tuple[str, int] | Path


class Gate:
    """Listens on a port of its own, or on a unix socket, and passes on to ``target``."""

    def __init__(self, target: Address, socket: Path | None = None) -> None:
        self.port = 0 if socket else free_port()
        self.socket = socket
        self.script: Handler | None = None
        """What is done to each new connection instead of passing it on."""
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to listen."""
        if self.socket is not None:
            self._server = await asyncio.start_unix_server(self._accept, self.socket)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """Listen no more, and cut all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)
        await self.cut()

    async def cut(self) -> None:
        """Cut all connections."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def misbehave(self, script: Handler | None) -> None:
        """Do this to every connection from now on, the present ones included; ``None``: pass all on again."""
        self.script = script
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        # Cancelled only by this class itself, and asyncio would tell a cancelled handler as an error.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await (self.script or self._pass_on)(reader, writer)
        writer.transport.abort()
        self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._target, Path):
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        else:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        ways = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            far_writer.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def gate(target: Address, socket: Path | None = None) -> AsyncIterator[Gate]:
    """An open gate for the duration of a ``with`` block."""
    made = Gate(target, socket)
    await made.open()
    try:
        yield made
    finally:
        await made.shut()
