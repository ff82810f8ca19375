"""Keeps the status of every server, for whoever wants to look at it.

What must be remembered is kept at every poll, in the signals' thread. What is shown is made of it only while somebody
looks, and once for all who do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from exporter.model import Snapshot
from exporter.status.hour import Hour, Seen, look

if TYPE_CHECKING:
    from exporter.status.document import ServerStatus, Status

LOOKED_AT: Final = 60.0
"""Seconds after the last question for which statuses are made in the signals' thread, before anybody asks."""

FRESH: Final = 1.0
"""Seconds for which a status that was made is told again, unless something changed."""

STALE: Final = 120.0
"""Seconds after which a snapshot is no news: that of the alert, which is not imported for it."""


_A_MOMENT: Final = 0.01


class _Page:
    """What is kept of one server."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.hour = Hour()
        self.seen = Seen()
        self.drawn: ServerStatus | None = None


class StatusBook:
    """The status of every server. Safe in any thread, but that ``update`` is always called in the same one."""

    def __init__(
        self,
        newest: Callable[[], Mapping[str, Snapshot | None]],
        *,
        version: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is known yet.

        Args:
            newest: Tells every server that is watched, in the order in which they are shown, with its newest snapshot;
                ``None`` before its first poll has ended.
            version: Forewarn's own.
            clock: By which snapshots tell when they were taken, in seconds.
            wall: The time of day, in Unix seconds.
        """
        self._newest = newest
        self._version = version
        self._clock = clock
        self._wall = wall
        self._since = wall()
        self._pages: dict[str, _Page] = {}
        self._lock = threading.Lock()
        self._generation = 0
        self._waiting: set[_Waiter] = set()
        self._stale: frozenset[str] = frozenset()
        self._asked_at: float | None = None
        self._made: tuple[int, float, Status] | None = None
        self._encoded: tuple[Status, bytes] | None = None

    @property
    def generation(self) -> int:
        """Grows with every change of what is told."""
        return self._generation

    def update(self, snapshot: Snapshot) -> None:
        """Take in what a poll told. To be called once per poll, always in the same thread."""
        page = self._pages.get(snapshot.server) or _Page(snapshot)
        # Without the lock: nobody else changes these, and it takes the longer the larger the server is.
        page.hour.bury(snapshot)
        seen, back = look(snapshot, page.hour.gone)
        with self._lock:
            for worker in back:
                del page.hour.gone[worker]
            page.hour.advance(snapshot, self._clock(), self._wall())
            page.snapshot, page.seen, page.drawn = snapshot, seen, None
            self._pages[snapshot.server] = page
            for name in self._pages.keys() - self._newest().keys() - {snapshot.server}:
                del self._pages[name]  # it is watched no more
            if self._asked_at is not None and self._clock() - self._asked_at <= LOOKED_AT:
                self._draw(page)
        self._changed()

    def status(self) -> Status:
        """Return the status of every server as it is known now."""
        from exporter.status.draw import aged, not_polled, together  # noqa: PLC0415 - only where somebody looks

        now = self._clock()
        self._asked_at = now
        self._settle(now)
        made = self._made
        if made is not None and made[0] == self._generation and now - made[1] < FRESH:
            return made[2]
        generation, servers = self._generation, []
        for name, snapshot in self._newest().items():
            with self._lock:
                page = self._page(name, snapshot)
                drawn = None if page is None else (self._draw(page), now - page.snapshot.taken_at)
            servers.append(not_polled(name) if drawn is None else aged(*drawn))
        status = together(servers, version=self._version, at=self._wall(), since=self._since)
        self._made = (generation, now, status)
        return status

    def encoded(self) -> bytes:
        """Return the same as JSON."""
        status = self.status()
        encoded = self._encoded
        if encoded is None or encoded[0] is not status:
            encoded = self._encoded = (status, msgspec.json.encode(status))
        return encoded[1]

    async def changed(self, since: int, within: float) -> int:
        """Wait until :attr:`generation` is another than ``since``, for ``within`` seconds at most; return it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while True:
            waiter = _Waiter(loop)
            with self._lock:
                self._waiting.add(waiter)
            try:
                now = self._clock()
                self._settle(now)
                left = end - loop.time()
                if self._generation != since or left <= 0:
                    return self._generation
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, self._turns_stale(now))):
                        await waiter.woken.wait()
            finally:
                with self._lock:
                    self._waiting.discard(waiter)

    def _page(self, name: str, snapshot: Snapshot | None) -> _Page | None:
        page = self._pages.get(name)
        if page is None and snapshot is not None:
            # Polled, but nobody has told us: of the hour before nothing is known.
            page = _Page(snapshot)
            page.seen, _ = look(snapshot, {})
            page.hour.advance(snapshot, self._clock(), self._wall())
        return page

    def _draw(self, page: _Page) -> ServerStatus:
        if page.drawn is None:
            from exporter.status.draw import draw  # noqa: PLC0415 - only where somebody looks

            page.drawn = draw(page.snapshot, page.hour, page.seen)
        return page.drawn

    def _settle(self, now: float) -> None:
        """See which snapshots have become too old to be news: that changes what is told, without any poll."""
        with self._lock:
            old = frozenset(name for name, page in self._pages.items() if now - page.snapshot.taken_at > STALE)
            turned, self._stale = old != self._stale, old
        if turned:
            self._changed()

    def _turns_stale(self, now: float) -> float:
        """Return in how many seconds the next snapshot becomes too old to be news."""
        with self._lock:
            left = [page.snapshot.taken_at + STALE - now for page in self._pages.values()]
        return min((each for each in left if each >= 0), default=STALE) + _A_MOMENT

    def _changed(self) -> None:
        with self._lock:
            self._generation += 1
            waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            waiter.wake()


class _Waiter:
    """Somebody who waits for a change, in an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.woken = asyncio.Event()
        self._loop = loop

    def wake(self) -> None:
        """End the wait. Safe in any thread, and once the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.woken.set)
