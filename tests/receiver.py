"""A receiver of OTLP over HTTP on a real socket: strict with what it gets, and misbehaving as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PROTOBUF = "application/x-protobuf"
MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024

Message = ExportTraceServiceRequest | ExportMetricsServiceRequest
_MESSAGES: Mapping[str, type[Message]] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}


@dataclass(frozen=True)
class Received:
    """One request, read whole. Names of headers are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    """As it came: perhaps compressed."""
    message: Message


class Reply:
    """The way back to whoever asked."""

    def __init__(self, receiver: Receiver, writer: asyncio.StreamWriter) -> None:
        self._receiver = receiver
        self.writer = writer

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        self._receiver.written += len(data)
        await self.writer.drain()

    async def __call__(
        self, status: int, body: bytes = b"", kind: str = PROTOBUF, headers: Mapping[str, str] | None = None
    ) -> None:
        given = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        await self.raw(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body)


Answer = Callable[[Received, Reply], Awaitable[None]]
"""What is done with a request. Whoever returns has answered, and the connection goes on."""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Hangup(Exception):  # noqa: N818 - what an answer does to end the connection
    """Closes the connection, or resets it."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Receiver:
    """A running receiver: made by :func:`receiving`."""

    def __init__(self, *, tls: bool) -> None:
        self.port = 0
        self.answer: Answer = well
        """May be changed at any time: it counts from the next request on."""
        self.taken_over: Handler | None = None
        """Takes over each new connection before anything is read."""
        self.requests: list[Received] = []
        """All that were read whole and understood."""
        self.accepted: list[Received] = []
        """Those of them that were answered with success."""
        self.refused: list[str] = []
        """Why requests were not understood."""
        self.connections = 0
        self.open = 0
        self.written = 0
        """Bytes that were sent to whoever asked, the kernel's buffers included."""
        self._tls = tls

    @property
    def endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT may hold."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def spans(self) -> list[Span]:
        """All spans that were accepted, in their order, as often as they came."""
        return [
            span
            for received in self.accepted
            if isinstance(received.message, ExportTraceServiceRequest)
            for resource in received.message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> list[Metric]:
        """All metrics that were accepted, in their order, as often as they came."""
        return [
            metric
            for received in self.accepted
            if isinstance(received.message, ExportMetricsServiceRequest)
            for resource in received.message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        self.connections += 1
        if self.taken_over is not None:
            await self.taken_over(reader, writer)
            return
        reply = Reply(self, writer)
        while (head := await _head(reader)) is not None:
            path, headers = head
            status, received = await self._understood(reader, path, headers)
            if received is None:
                await reply(status)
                return
            self.requests.append(received)
            try:
                await self.answer(received, reply)
            except Hangup as hangup:
                if hangup.reset:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return

    async def _understood(
        self, reader: asyncio.StreamReader, request: str, headers: Mapping[str, str]
    ) -> tuple[int, Received | None]:
        if not request.endswith(("HTTP/1.1", "HTTP/1.0")):
            return self._refuse(400, f"{request} is not HTTP")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        body = await _body(reader, headers)
        message = _MESSAGES.get(path)
        if message is None:
            return self._refuse(404, f"there is no {path}")
        if method != "POST":
            return self._refuse(405, f"{method} is not POST")
        if headers.get("content-type") != PROTOBUF:
            return self._refuse(415, f"{headers.get('content-type')} is not {PROTOBUF}")
        coding = headers.get("content-encoding", "identity")
        if coding not in {"identity", "gzip"}:
            return self._refuse(415, f"{coding} is not gzip")
        try:
            decoded = message.FromString(gzip.decompress(body) if coding == "gzip" else body)
        except (DecodeError, OSError, EOFError) as error:
            return self._refuse(400, f"not understood: {error}")
        return 200, Received(path, headers, body, decoded)

    def _refuse(self, status: int, why: str) -> tuple[int, None]:
        self.refused.append(why)
        return status, None


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None, *, port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver on ``port`` of 127.0.0.1, or any free one, that takes all it is sent until a test says otherwise."""
    receiver = Receiver(tls=tls is not None)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        receiver.open += 1
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError, ssl.SSLError
            ):
                await receiver.serve(reader, writer)
        finally:
            with contextlib.suppress(Exception):
                writer.close()
            receiver.open -= 1
            tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls, limit=MAX_HEAD)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


# --- what may be done with a request --------------------------------------------------------------------------------


async def well(received: Received, reply: Reply) -> None:
    """Take it, as a collector does: an answer with nothing in it."""
    await partially(0)(received, reply)


def partially(rejected: int, message: str = "") -> Answer:
    """Take it, but for some items; a ``message`` alone is a warning."""

    async def answer(received: Received, reply: Reply) -> None:
        reply._receiver.accepted.append(received)
        told = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
        partial = ExportTraceServiceResponse(partial_success=told) if rejected or message else None
        await reply(200, b"" if partial is None else partial.SerializeToString())

    return answer


def saying(status: int, body: bytes = b"", kind: str = PROTOBUF, **headers: str) -> Answer:
    """Answer so, and take nothing. ``Retry_After`` is the header ``Retry-After``."""

    async def answer(received: Received, reply: Reply) -> None:
        await reply(status, body, kind, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def slowly(seconds: float) -> Answer:
    """Take nothing, and answer with success after ``seconds``."""

    async def answer(received: Received, reply: Reply) -> None:
        await asyncio.sleep(seconds)
        await reply(200)

    return answer


async def never(received: Received, reply: Reply) -> None:
    """Do not answer."""
    await asyncio.Event().wait()


async def trickling(received: Received, reply: Reply) -> None:
    """Answer one byte at a time, for ever."""
    await reply.raw(f"HTTP/1.1 200 OK\r\nContent-Type: {PROTOBUF}\r\n\r\n".encode())
    while True:
        await reply.raw(b"\n")
        await asyncio.sleep(0.01)


def endless(status: int = 200) -> Answer:
    """Answer with a body that never ends."""

    async def answer(received: Received, reply: Reply) -> None:
        await reply.raw(f"HTTP/1.1 {status} Said\r\nContent-Type: {PROTOBUF}\r\n\r\n".encode())
        await _for_ever(reply, b"\n" * 65536)

    return answer


async def endless_headers(received: Received, reply: Reply) -> None:
    """Answer with a head that never ends."""
    await reply.raw(b"HTTP/1.1 200 OK\r\n")
    await _for_ever(reply, b"X-Y: z\r\n" * 1000)


async def endless_continues(received: Received, reply: Reply) -> None:
    """Answer that an answer will follow, for ever."""
    await _for_ever(reply, b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def raw(data: bytes) -> Answer:
    """Answer with what may be no HTTP, and close."""

    async def answer(received: Received, reply: Reply) -> None:
        await reply.raw(data)
        raise Hangup

    return answer


def torn(*, reset: bool) -> Answer:
    """Close, or reset, in the middle of an answer of success."""

    async def answer(received: Received, reply: Reply) -> None:
        await reply.raw(f"HTTP/1.1 200 OK\r\nContent-Type: {PROTOBUF}\r\nContent-Length: 100\r\n\r\nab".encode())
        raise Hangup(reset=reset)

    return answer


async def hanging_up(received: Received, reply: Reply) -> None:
    """Close without an answer."""
    raise Hangup


# --- what may be done with a connection -----------------------------------------------------------------------------


async def unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never read, never answer."""
    writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads
    await asyncio.Event().wait()


async def half_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read some, and close."""
    await reader.read(100)


# --- reading --------------------------------------------------------------------------------------------------------


async def _head(reader: asyncio.StreamReader) -> tuple[str, Mapping[str, str]] | None:
    first = await reader.read(1)
    if not first:
        return None
    if not first.isalpha():
        return "TLS, or whatever it is", {}
    head = first + await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return request, {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return b"".join([chunk async for chunk in _chunks(reader)])
    length = int(headers.get("content-length", "0"))
    assert length <= MAX_BODY
    return await reader.readexactly(length)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while length := int((await reader.readline()).partition(b";")[0], 16):
        assert length <= MAX_BODY
        yield await reader.readexactly(length)
        await reader.readline()
    while (await reader.readline()).strip():
        pass


async def _for_ever(reply: Reply, data: bytes) -> None:
    while True:
        await reply.raw(data)
        await asyncio.sleep(0)
