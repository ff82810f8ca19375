"""The HTTP server: ``/metrics``, the status page and ``/api/v1/``, ``/-/healthy``, ``/-/ready`` and ``/-/reload``.

A scrape never waits for a watched server. Whoever asks, and however slowly they read, what they hold is bounded: the
number of connections, of scrapes at once, the bytes of a request's head, and the time for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from aiohttp import web

from exporter.model import Snapshot
from exporter.outputs.prometheus import OPENMETRICS_TYPE, TEXT_TYPE, Exposition
from exporter.web.address import Address, explain
from exporter.web.door import Door, beside_of, sockets
from exporter.web.incidents import newest_incidents
from exporter.web.links import Links
from exporter.web.negotiation import wants_gzip, wants_openmetrics

if TYPE_CHECKING:
    from exporter.status.book import StatusBook
    from exporter.status.document import Status
    from exporter.web.events import Events
    from exporter.web.gate import Gate

logger = logging.getLogger("forewarn")

MAX_SCRAPES = 40
"""Scrapes at once; node_exporter's default."""

MAX_CONNECTIONS = 256
"""Open connections at once."""

MAX_REFUSALS = 64
"""Connections beyond that which are told so at once; more are closed without a word."""

IDLE_SECONDS = 75.0
"""How long a connection may take to send the head of its next request: longer than scrapes are apart."""

SCRAPE_SECONDS = 30.0
"""How long a scraper may take to read a body."""

PART = 64 * 1024
"""Bytes of a body that are handed over at once."""

GRACE_SECONDS = 0.5
"""How long scrapes may go on at the end, before they are cancelled; and again before they are cut."""

COMPLAIN_SECONDS = 60.0
"""Seconds from one line in the log to the next of connections that are not let in."""

HEADERS = {
    "Server": "forewarn",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_JSON: Final = {"Content-Type": "application/json; charset=utf-8"}

_NO_LINKS: Final = Links()

_RELOAD_OFF: Final = (
    "the reload by HTTP is off: start Forewarn with --web.enable-lifecycle, or send it SIGHUP, which always reloads\n"
)

_RELOAD_OPEN: Final = (
    "not reloaded: anybody could ask for it; set basic_auth_users, or client_auth_type: RequireAndVerifyClientCert, in"
    " the file of --web.config.file, or send Forewarn SIGHUP\n"
)

_Made = tuple[Sequence[bytes], Mapping[str, str]]
"""A body in parts, and its headers."""

_Making = Callable[[web.Request], Awaitable[_Made]]

Ready = Callable[[], Mapping[str, Snapshot | None]]
"""Tells every configured server with its newest snapshot, ``None`` before its first poll has finished."""

Reload = Callable[[], Awaitable[str | None]]
"""Reads the configuration again; tells what is wrong with it, ``None`` where it is in use now."""


class WebServer:
    """A running HTTP server: made by :func:`start_web`."""

    def __init__(
        self,
        exposition: Exposition,
        ready: Ready,
        *,
        book: StatusBook | None,
        links: Links,
        gate: Gate | None,
        reload: Reload | None,
        clock: Callable[[], float],
    ) -> None:
        self._exposition = exposition
        self._ready = ready
        self._book = book
        self._links = links
        self._gate = gate
        self._reload = reload
        self._clock = clock
        self._complained_at = -math.inf
        self._refusals: set[_Refusal] = set()
        self._scrapes = 0
        # One thread: whoever comes second finds made what they came for.
        self._maker = ThreadPoolExecutor(1, "web")
        self._page: tuple[Status, str | None, bytes] | None = None
        self._events: Events | None = None
        self._door: Door | None = None
        self._held: tuple[Address, Sequence[socket.socket]] | None = None
        self._watching: asyncio.Task[None] | None = None
        app = web.Application(middlewares=[self._guarded])
        if book is not None:
            app.router.add_get("/", self._status_page)
            app.router.add_get("/api/v1/status", self._status)
            app.router.add_get("/api/v1/events", self._stream)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/v1/incidents", self._incidents)
        app.router.add_get("/-/healthy", self._healthy)
        app.router.add_get("/-/ready", self._is_ready)
        app.router.add_post("/-/reload", self._reloaded)
        app.on_response_prepare.append(self._add_headers)
        self._runner = web.AppRunner(app, shutdown_timeout=GRACE_SECONDS)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        if self._door is None:
            raise RuntimeError("the web server does not listen")
        return self._door.port

    async def listen(self, address: Address, beside: WebServer | None = None) -> None:
        """Begin to serve; raise :class:`~exporter.web.address.ListenError` if ``address`` cannot be had.

        ``beside`` is a server whose place this one takes: both may listen on the same port until that one is closed.
        """
        await self._runner.setup()
        held = None if beside is None else beside._held
        try:
            listening = await sockets(address) if held is None else await beside_of(*held, address)
            self._held = address, listening
            self._door = Door(
                listening,
                serve=lambda: _Connection(self),
                refuse=lambda: _Refusal(self._refusals),
                room=lambda entering: len(self.server.connections) + entering < MAX_CONNECTIONS,
                context=self._context,
            )
        except OSError as error:
            await self.close()
            raise explain(address, error) from None
        if self._gate is not None:
            self._watching = asyncio.create_task(self._gate.watch(), name="web configuration")

    @property
    def server(self) -> web.Server:
        """What holds the connections."""
        server = self._runner.server
        if server is None:
            raise RuntimeError("the web server is not set up")
        return server

    def headers(self) -> Mapping[str, str]:
        """Return the headers that every response has."""
        return HEADERS if self._gate is None else {**HEADERS, **self._gate.config.headers}

    def turns_away(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a connection is not to be served."""
        why = None if self._gate is None else self._gate.stranger(_tls(transport))
        if why is None:
            return False
        now = self._clock()
        if now - self._complained_at >= COMPLAIN_SECONDS:
            self._complained_at = now
            logger.warning("a connection is not let in", extra={"fields": {"reason": why}})
        return True

    async def close(self) -> None:
        """Stop listening, let scrapes end for a moment, then cut them. Safe to call twice."""
        if self._events is not None:
            self._events.close()
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._door is not None:
            await self._door.close()
            self._door = None
        server = self._runner.server
        transports = [] if server is None else [connection.transport for connection in server.connections]
        await self._runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()
        self._maker.shutdown(wait=False, cancel_futures=True)
        if self._gate is not None:
            self._gate.close()

    def _context(self) -> ssl.SSLContext | None:
        if self._gate is None:
            return None
        self._gate.refresh()
        return self._gate.context

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let ``handler`` answer whom the gate lets in, whatever they ask for."""
        if self._gate is None:
            return await handler(request)
        refusal = await self._gate.refusal(
            _tls(request.transport), request.headers.getall("Authorization", ()), request.remote or ""
        )
        if refusal is None:
            return await handler(request)
        response = web.Response(status=refusal.status, text=refusal.text, headers=refusal.headers)
        if refusal.close:
            response.force_close()
        return response

    async def _add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        policy = response.headers.get("Content-Security-Policy", HEADERS["Content-Security-Policy"])
        response.headers.update({**HEADERS, "Content-Security-Policy": policy})
        if self._gate is not None:
            response.headers.update(self._gate.config.headers)

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

    async def _status_page(self, request: web.Request) -> web.StreamResponse:
        return await self._within_bounds(request, self._page_body)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return await self._within_bounds(request, self._status_body)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        assert self._book is not None  # noqa: S101 - the route is not there without
        if self._events is None:
            from exporter.web.events import Events  # noqa: PLC0415 - takes memory only where a page is open

            self._events = Events(self._book, self._links)
        return await self._events.stream(request)

    async def _incident_body(self, _request: web.Request) -> _Made:
        return _in_parts(json.dumps(newest_incidents(self._ready())).encode()), _JSON

    async def _status_body(self, _request: web.Request) -> _Made:
        assert self._book is not None  # noqa: S101 - the route is not there without
        return _in_parts(await asyncio.get_running_loop().run_in_executor(self._maker, self._book.encoded)), _JSON

    async def _page_body(self, request: web.Request) -> _Made:
        from exporter.web.page import CONTENT_SECURITY_POLICY  # noqa: PLC0415 - takes memory only where it is asked for

        only = request.query.get("server")
        body = await asyncio.get_running_loop().run_in_executor(self._maker, self._make_page, only)
        return _in_parts(body), {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        }

    def _make_page(self, only: str | None) -> bytes:
        from exporter.web.page import page  # noqa: PLC0415 - takes memory only where it is asked for

        assert self._book is not None  # noqa: S101 - the route is not there without
        status = self._book.status()
        if self._page is None or self._page[0] is not status or self._page[1] != only:
            self._page = status, only, page(status, self._links, only).encode(errors="replace")
        return self._page[2]

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

    async def _reloaded(self, request: web.Request) -> web.Response:
        if self._reload is None:
            return web.Response(status=403, text=_RELOAD_OFF)
        if self._gate is None or not self._gate.config.authenticates:
            return web.Response(status=403, text=_RELOAD_OPEN)
        if _from_elsewhere(request):
            return web.Response(status=403, text="not reloaded: another site has asked for it\n")
        problem = await self._reload()
        if problem is not None:
            return web.Response(status=500, text=f"not reloaded, what was in use stays: {problem}\n")
        return web.Response(text="reloaded\n")


async def start_web(
    address: Address,
    exposition: Exposition,
    ready: Ready,
    *,
    book: StatusBook | None = None,
    links: Links = _NO_LINKS,
    gate: Gate | None = None,
    reload: Reload | None = None,
    beside: WebServer | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> WebServer:
    """Start serving ``exposition``, and the status page of ``book`` with its ``links``, on ``address``.

    ``gate``: who may come in, by TLS where its file says so; without one everybody, in the clear. ``reload``: what
    ``POST /-/reload`` does; without one it is refused. ``clock`` must be the one by which snapshots tell when they
    were taken. ``beside`` is a server whose place this one takes. Raises
    :class:`~exporter.web.address.ListenError` if the address cannot be had.
    """
    server = WebServer(exposition, ready, book=book, links=links, gate=gate, reload=reload, clock=clock)
    await server.listen(address, beside)
    return server


def _in_parts(body: bytes) -> tuple[bytes, ...]:
    return tuple(body[start : start + PART] for start in range(0, len(body), PART))


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

    def __init__(self, others: set[_Refusal]) -> None:
        self._others = others
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._others) >= MAX_REFUSALS:
            transport.close()
            return
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        self._others.add(self)
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        transport.write_eof()
        # Left open for a moment: were it closed with the request unread, the answer would be lost on its way.
        self._end = asyncio.get_running_loop().call_later(GRACE_SECONDS, transport.abort)

    def connection_lost(self, _error: Exception | None) -> None:
        self._others.discard(self)
        if self._end is not None:
            self._end.cancel()


class _Connection(web.RequestHandler):
    """One connection that is served."""

    def __init__(self, owner: WebServer) -> None:
        super().__init__(
            owner.server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=1.0,
            max_line_size=8190,
            max_field_size=8190,
        )
        self._owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve, unless the other end is a stranger."""
        super().connection_made(transport)
        if self._owner.turns_away(transport):
            transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - repeats what was sent
    ) -> web.StreamResponse:
        """Answer what is no request, and what has failed, without a word that came with it."""
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if failed:
            logger.error("a request could not be served", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        told = "this request failed, see the log" if failed else "this is no request that is understood here"
        response = web.Response(status=status, text=f"{told}\n", headers=self._owner.headers())
        response.force_close()
        return response


def _tls(transport: asyncio.BaseTransport | None) -> ssl.SSLObject | None:
    return None if transport is None else transport.get_extra_info("ssl_object")


def _from_elsewhere(request: web.Request) -> bool:
    """Whether a page of another site has a browser ask: it would send a password or certificate by itself."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    return site not in ("none", "same-origin") or (origin is not None and urlsplit(origin).netloc != request.host)
