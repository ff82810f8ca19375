"""The HTTP server: ``/metrics``, ``/api/v1/incidents``, ``/-/healthy``, ``/-/ready`` and a landing page.

A scrape never waits for a watched server. Whoever asks, and however slowly they read, what they hold is bounded: the
number of connections, of scrapes at once, the bytes of a request's head, and the time for each.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from exporter import __version__
from exporter.model import Snapshot
from exporter.outputs.prometheus import OPENMETRICS_TYPE, TEXT_TYPE, Exposition
from exporter.web.address import Address, bind_everywhere, explain
from exporter.web.incidents import newest_incidents
from exporter.web.landing import CONTENT_SECURITY_POLICY, landing_page
from exporter.web.negotiation import wants_gzip, wants_openmetrics

MAX_SCRAPES = 40
"""Scrapes at once; node_exporter's default."""

MAX_CONNECTIONS = 256
"""Open connections at once."""

IDLE_SECONDS = 75.0
"""How long a connection may take to send the head of its next request: longer than scrapes are apart."""

SCRAPE_SECONDS = 30.0
"""How long a scraper may take to read a body."""

PART = 64 * 1024
"""Bytes of a body that are handed over at once."""

GRACE_SECONDS = 0.5
"""How long scrapes may go on at the end, before they are cancelled; and again before they are cut."""

HEADERS = {
    "Server": "forewarn",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_Made = tuple[Sequence[bytes], Mapping[str, str]]
"""A body in parts, and its headers."""

_Making = Callable[[web.Request], Awaitable[_Made]]

Ready = Callable[[], Mapping[str, Snapshot | None]]
"""Tells every configured server with its newest snapshot, ``None`` before its first poll has finished."""


class WebServer:
    """A running HTTP server: made by :func:`start_web`."""

    def __init__(self, exposition: Exposition, ready: Ready, clock: Callable[[], float]) -> None:
        self._exposition = exposition
        self._ready = ready
        self._clock = clock
        self._scrapes = 0
        # One thread: whoever comes second finds made what they came for.
        self._maker = ThreadPoolExecutor(1, "web")
        self._listener: asyncio.Server | None = None
        app = web.Application()
        app.router.add_get("/", self._landing)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/v1/incidents", self._incidents)
        app.router.add_get("/-/healthy", self._healthy)
        app.router.add_get("/-/ready", self._is_ready)
        app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=1.0,
            max_line_size=8190,
            max_field_size=8190,
            shutdown_timeout=GRACE_SECONDS,
        )

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        if self._listener is None or not self._listener.sockets:
            raise RuntimeError("the web server does not listen")
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def listen(self, address: Address) -> None:
        """Begin to serve; raise :class:`~exporter.web.address.ListenError` if ``address`` cannot be had."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            if address.host is None:
                self._listener = await loop.create_server(self._connection, sock=bind_everywhere(address.port))
            else:
                self._listener = await loop.create_server(self._connection, address.host, address.port)
        except OSError as error:
            await self.close()
            raise explain(address, error) from None

    async def close(self) -> None:
        """Stop listening, let scrapes end for a moment, then cut them. Safe to call twice."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        server = self._runner.server
        transports = [] if server is None else [connection.transport for connection in server.connections]
        await self._runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()
        self._maker.shutdown(wait=False, cancel_futures=True)

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or len(server.connections) >= MAX_CONNECTIONS:
            return _Refusal()
        return server()

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return await self._within_bounds(request, self._metrics_body)

    async def _incidents(self, request: web.Request) -> web.StreamResponse:
        return await self._within_bounds(request, self._incident_body)

    async def _within_bounds(self, request: web.Request, make: _Making) -> web.StreamResponse:
        if self._scrapes >= MAX_SCRAPES:
            return web.Response(
                status=503, text=f"{MAX_SCRAPES} scrapes are under way: try again later\n", headers={"Retry-After": "1"}
            )
        self._scrapes += 1
        try:
            return await _send(request, *await make(request))
        finally:
            self._scrapes -= 1

    async def _incident_body(self, _request: web.Request) -> _Made:
        body = json.dumps(newest_incidents(self._ready())).encode()
        parts = tuple(body[start : start + PART] for start in range(0, len(body), PART))
        return parts, {"Content-Type": "application/json; charset=utf-8"}

    async def _metrics_body(self, request: web.Request) -> _Made:
        openmetrics = wants_openmetrics(",".join(request.headers.getall("Accept", ())))
        gzip = wants_gzip(",".join(request.headers.getall("Accept-Encoding", ())))
        asked = request.query.getall("name[]", [])
        names = frozenset(asked) if asked else None
        parts = await self._parts(openmetrics=openmetrics, gzip=gzip, names=names)
        headers = {
            "Vary": "Accept, Accept-Encoding",
            "Content-Type": OPENMETRICS_TYPE if openmetrics else TEXT_TYPE,
        }
        return parts, headers | ({"Content-Encoding": "gzip"} if gzip else {})

    async def _parts(self, *, openmetrics: bool, gzip: bool, names: frozenset[str] | None) -> tuple[bytes, ...]:
        def make() -> tuple[bytes, ...]:
            return self._exposition.parts(self._clock(), openmetrics=openmetrics, gzip=gzip, names=names)

        if names is None and self._exposition.built(openmetrics=openmetrics, gzip=gzip):
            return make()
        return await asyncio.get_running_loop().run_in_executor(self._maker, make)

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="healthy: the sidecar runs\n")

    async def _is_ready(self, _request: web.Request) -> web.Response:
        missing = [name for name, snapshot in self._ready().items() if snapshot is None]
        if missing:
            names = ", ".join(repr(name) for name in missing)
            return web.Response(status=503, text=f"not ready: no poll has finished yet of {names}\n")
        return web.Response(text="ready: every server has been polled\n")

    async def _landing(self, _request: web.Request) -> web.Response:
        return web.Response(text=landing_page(__version__, self._ready()), content_type="text/html", charset="utf-8")


async def start_web(
    address: Address, exposition: Exposition, ready: Ready, *, clock: Callable[[], float] = time.monotonic
) -> WebServer:
    """Start serving ``exposition`` on ``address``.

    ``clock`` must be the one by which snapshots tell when they were taken. Raises
    :class:`~exporter.web.address.ListenError` if the address cannot be had.
    """
    server = WebServer(exposition, ready, clock)
    await server.listen(address)
    return server


async def _send(request: web.Request, parts: Sequence[bytes], headers: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    response.content_length = sum(map(len, parts))
    try:
        async with asyncio.timeout(SCRAPE_SECONDS):
            await response.prepare(request)
            if request.method != "HEAD":
                for part in parts:
                    # Waits while the reader lags, so that a slow one holds no copy of the body.
                    await response.write(part)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        pass  # the reader left; nobody is there to be told
    return response


class _Refusal(asyncio.Protocol):
    """Tells a connection beyond the bound to try again later, and ends it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        transport.close()


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
