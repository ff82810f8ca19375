"""Local servers that misbehave as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint

HI = b'+HI {"v":2}\r\n'
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Clock:
    """A clock that a test turns by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Misbehaving:
    """A local server whose behaviour a test writes down."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.accepted = 0
        self.heard: list[bytes] = []


def client_of(server: Misbehaving, clock: Callable[[], float] | None = None, **timeouts: float) -> Client:
    """A client of ``server`` that does not wait for long."""
    options = {"connect_timeout": 0.3, "command_timeout": 0.3} | timeouts
    return Client(Endpoint("127.0.0.1", server.port), clock=clock or Clock(), jitter=lambda: 0.5, **options)


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Misbehaving]:
    tasks: set[asyncio.Task[None]] = set()
    made = Misbehaving(0)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.transport.abort()
        tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def saying(*answers: bytes, then: str = "wait") -> Handler:
    """Greet and shake hands, answer each command with the next of ``answers``; then wait, close or reset."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HI)
        await reader.readline()
        writer.write(b"+OK\r\n")
        for answer in answers:
            await reader.readline()
            writer.write(answer)
            await writer.drain()
        if then == "reset":
            reset(writer)
        elif then == "wait":
            await reader.read()

    return handle


def raw(data: bytes, then: str = "wait") -> Handler:
    """Say ``data`` at once, whatever is asked; then wait, close or reset."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then == "reset":
            reset(writer)
        elif then == "wait":
            await reader.read()

    return handle


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
