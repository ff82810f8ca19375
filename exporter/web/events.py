"""``/api/v1/events``: the status page as server-sent events, made once for all who read along.

Whoever reads, and however slowly, what they hold is bounded: the number of readers, and one event for each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
from aiohttp import web

from exporter.status.document import Status
from exporter.web.links import Links
from exporter.web.page import live

MAX_READERS = 64
"""Streams at once: open pages. The others are asked to come again."""

COME_AGAIN_SECONDS = 30
"""When a page that found no place is asked to try again."""

HEARTBEAT_SECONDS = 15.0
"""The longest silence: without news the page is sent once more, because "nothing heard" is news too."""

SLOW_SECONDS = 10.0
"""How long a reader may take to take one event, before it is cut."""

RECONNECT_MILLISECONDS = 2000
"""How long a browser waits before it connects again."""

_TAKEN_EVERY = 0.05
"""Seconds between two looks at whether a slow reader has taken its event."""

PAUSE_SECONDS = 1.0
"""The shortest time from one event to the next, however many servers are polled meanwhile."""

PACE = 32 * 1024
"""Bytes a second for each reader: after a large event the pause is longer."""


class Book(Protocol):
    """What the events are made of: see :class:`exporter.status.book.StatusBook`."""

    @property
    def generation(self) -> int:
        """A number that grows with every change."""

    def status(self) -> Status:
        """Return what is known now; safe in any thread."""

    async def changed(self, since: int, within: float) -> int:
        """Wait until the generation is no more ``since``, for at most ``within`` seconds; return it."""


class _Event(msgspec.Struct, frozen=True):
    """One event as it goes over the wire."""

    generation: int
    made_at: float
    body: bytes


class Events:
    """The streams of one web server."""

    def __init__(self, book: Book, links: Links, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._book = book
        self._links = links
        self._clock = clock
        self._readers = 0
        self._making = asyncio.Lock()
        self._made: dict[str | None, _Event] = {}
        self._ended = asyncio.Event()

    @property
    def readers(self) -> int:
        """How many streams are open."""
        return self._readers

    def close(self) -> None:
        """End every stream at once, and whatever comes after. Safe to call twice."""
        self._ended.set()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page now, after each change, and after :data:`HEARTBEAT_SECONDS` without one."""
        if self._ended.is_set() or self._readers >= MAX_READERS:
            told = "the server ends" if self._ended.is_set() else f"{MAX_READERS} pages are open"
            return web.Response(
                status=503, text=f"{told}: try again later\n", headers={"Retry-After": str(COME_AGAIN_SECONDS)}
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would hold events back until its buffer is full
            }
        )
        self._readers += 1
        try:
            await response.prepare(request)
            if request.method != "HEAD":
                await self._follow(request, response)
            await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the reader left; nobody is there to be told
        finally:
            self._readers -= 1
            if not self._readers:
                self._made.clear()
        return response

    async def _follow(self, request: web.Request, response: web.StreamResponse) -> None:
        only = request.query.get("server")
        await response.write(b"retry: %d\n\n" % RECONNECT_MILLISECONDS)
        behind = False  # the page that reads is new, and must not go back
        while not self._ended.is_set():
            event = await self._event(only, behind=behind)
            behind = True
            async with asyncio.timeout(SLOW_SECONDS):
                await response.write(event.body)
                await _taken(request)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), max(PAUSE_SECONDS, len(event.body) / PACE))
            await self._news(event.generation)

    async def _news(self, since: int) -> None:
        """Wait for a change, the heartbeat, or the end."""
        waits = [
            asyncio.ensure_future(self._book.changed(since, HEARTBEAT_SECONDS)),
            asyncio.ensure_future(self._ended.wait()),
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for wait in done:
            wait.result()  # what went wrong goes on to whoever serves

    async def _event(self, only: str | None, *, behind: bool) -> _Event:
        """Return the newest event: made by the first who asks, in a thread, because many servers take their time.

        ``behind``: it may be one that has just been made for others, before the newest change.
        """
        async with self._making:
            generation = self._book.generation
            kept = self._fresh(only, generation, behind=behind)
            return kept if kept is not None else await asyncio.to_thread(self._make, only, generation)

    def _fresh(self, only: str | None, generation: int, *, behind: bool) -> _Event | None:
        event = self._made.get(only)
        if event is None or (event.generation != generation and not behind):
            return None
        keeps = PAUSE_SECONDS if event.generation == generation else PAUSE_SECONDS / 2
        return event if self._clock() - event.made_at < keeps else None

    def _make(self, only: str | None, generation: int) -> _Event:
        status = self._book.status()
        if all(server.name != only for server in status.servers):
            only = None  # as the page has it; so there are never more events than servers
            kept = self._fresh(only, generation, behind=False)
            if kept is not None:
                return kept
        # One line: nothing on the page has a line end, whatever somebody calls a queue.
        body = f"id: {generation}\nevent: live\ndata: {live(status, self._links, only)}\n\n".encode()
        event = _Event(generation, self._clock(), body)
        self._made[only] = event
        return event


async def _taken(request: web.Request) -> None:
    """Wait until the reader's side has all that was written, so that never more than one event is held for it."""
    transport = request.transport
    # Nothing tells when a transport's buffer is empty.
    while transport is not None and not transport.is_closing() and transport.get_write_buffer_size():  # noqa: ASYNC110
        await asyncio.sleep(_TAKEN_EVERY)
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the reader left")
