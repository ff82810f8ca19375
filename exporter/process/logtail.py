"""LogTail: reads a server's output, wherever it goes, in a thread of its own.

The thread waits for what is live, so that no pipe ever fills up and holds up the server, and looks at the files four
times a second. What it finds waits for the next :meth:`LogTail.read`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from exporter.model import Failure, LogEntry, LogFacts, Position, Reason
from exporter.process.feeds import Feed, NamedPipe, StandardInput
from exporter.process.journal import COMMAND, PREFIX, Journal
from exporter.process.logfiles import LogFiles
from exporter.process.logglob import unreadable
from exporter.process.outbox import Outbox, Status
from exporter.process.output import Output
from exporter.process.scan import LineRules

TICK: Final = 0.25
"""Seconds between two looks at the files."""

DEADLINE: Final = 1.0
"""Seconds for which a reading waits until the thread has looked at everything: it takes a thousandth of one."""

CLOSE_DEADLINE: Final = 3.0
"""Seconds in which the thread ends: longer only where it hangs in the kernel, on a disk that does not answer."""

CALM: Final = 60.0
"""Seconds between two threads, where one was ended by a defect."""

MAX_EMPTY: Final = 16
"""How often in a row a feed may have nothing to read although it is ready: then it rests until the next look."""

MAX_TOLD: Final = 3
"""Most things that are told of what is wrong at once."""

STANDARD_INPUT: Final = "-"

logger = logging.getLogger("forewarn.logtail")


class LogTail:
    """Follows the output of one server. Not for use by several tasks at once."""

    def __init__(
        self,
        files: Sequence[str],
        journals: Sequence[str] = (),
        *,
        feeds: Sequence[Feed] = (),
        rules: Sequence[LineRules] = (),
        positions: Sequence[Position] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        journalctl: Sequence[str] = COMMAND,
    ) -> None:
        """Nothing is opened yet. ``feeds`` are this object's to close.

        ``files`` are paths and patterns, of files and named pipes, and ``-`` for standard input; ``journals`` units of
        systemd. ``positions`` tell where an earlier one came to: what has none is taken as seen for the first time, and
        of what it holds already only limits are told. ``clock`` is in seconds, and ``wall`` in Unix time by the clock
        of the server; both are also called in the thread.
        """
        self._files = tuple(files)
        self._journals = tuple(journals)
        self._feeds = tuple(feeds)
        self._rules = tuple(rules)
        self._clock = clock
        self._wall = wall
        self._journalctl = journalctl
        self._outbox = Outbox(positions)
        self._follower: Follower | None = None
        self._started = 0.0
        self._closed = False

    async def read(self) -> tuple[LogFacts | None, Failure | None]:
        """Return what the output told since the last time, and what went wrong; it may be both.

        No facts: nothing is read at all. What was printed before this was called is in what it returns, but for a
        backlog: then ``reading`` is set. Never raises, and never takes longer than :data:`DEADLINE`. One that is
        cancelled loses nothing.
        """
        if self._closed:
            return None, None
        failure = self._start()
        follower = self._follower
        if follower is not None and failure is None and not await follower.seen(DEADLINE):
            told = f"the thread that reads the log has not looked at everything within {DEADLINE:g} s"
            failure = Failure(Reason.TIMEOUT, f"{told}: does a disk not answer, or is this machine overloaded?")
            failure = failure if follower.alive or self._closed else self._defect()
        facts, status = self._outbox.take()
        if not status.alive and not facts.entries and not facts.read_bytes:
            return None, failure or _together(status.failures)
        return facts, failure or _together(status.failures)

    async def close(self) -> None:
        """End the thread and close everything, within a deadline. Safe to call twice.

        What was not told yet is told by the next one that is given the positions of the last reading.
        """
        self._closed = True
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.end(CLOSE_DEADLINE)
        for feed in self._feeds:
            feed.close()

    def _start(self) -> Failure | None:
        """See to it that the thread runs; return why it does not."""
        follower = self._follower
        if follower is not None and follower.alive:
            return None
        now = self._clock()
        if follower is not None and now - self._started < CALM:
            return self._defect()
        positions = self._outbox.begin_anew()
        feeds, self._feeds = self._feeds, ()  # an ended thread has closed them
        self._started = now
        try:
            self._follower = Follower(
                self._files,
                [
                    Journal(
                        unit,
                        position=next((it for it in positions if it.path == f"{PREFIX}{unit}"), None),
                        command=self._journalctl,
                        clock=self._clock,
                        wall=self._wall,
                    )
                    for unit in self._journals
                ],
                feeds,
                self._outbox,
                rules=self._rules,
                positions=positions,
                clock=self._clock,
                wall=self._wall,
            )
        except (OSError, RuntimeError) as error:
            told = f"the thread that reads the log cannot be started ({error})"
            return Failure(Reason.UNREACHABLE, f"{told}: has this machine no memory, processes or files left?")
        return None

    def _defect(self) -> Failure:
        told = "the thread that reads the log was ended by a defect of Forewarn's"
        left = max(0.0, self._started + CALM - self._clock())
        fix = "report it with what Forewarn's log tells of it"
        return Failure(Reason.DECODE, f"{told}, and is started anew in {left:.0f} s: {fix}")


class _Live:
    """A feed, and what scans it."""

    def __init__(self, feed: Feed, output: Output) -> None:
        self.feed = feed
        self.output = output
        self.empty = 0
        """How often in a row nothing came."""


class Follower:
    """The thread, and what it reads."""

    def __init__(
        self,
        files: Sequence[str],
        journals: Sequence[Journal],
        feeds: Sequence[Feed],
        outbox: Outbox,
        *,
        rules: Sequence[LineRules],
        positions: Sequence[Position],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """Start it. Raises ``OSError`` and ``RuntimeError`` where that cannot be."""
        self._outbox = outbox
        self._rules = rules
        self._clock = clock
        self._wall = wall
        self._stdin = STANDARD_INPUT in files
        self._patterns = [it for it in files if it != STANDARD_INPUT]
        self._files = LogFiles(self._patterns, outbox, rules=rules, positions=positions, clock=clock, wall=wall)
        self._journals = [(it, Output(it.name, rules, clock=clock, wall=wall, history=it.history)) for it in journals]
        self._given = list(feeds)
        self._live = [_Live(it, self._output(it.name)) for it in feeds]
        self._pipes: dict[str, _Live] = {}
        self._broken: dict[str, Failure] = {}
        self._lock = threading.Lock()
        self._asked: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]] = []
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]] = []
        self._ending = False
        self._over = False
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="forewarn-logtail", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            os.close(self._woken)
            os.close(self._wake)
            raise

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and not self._over

    async def seen(self, deadline: float) -> bool:
        """Wait until everything has been looked at once more; return whether it has."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        with self._lock:
            self._asked.append((loop, future))
        self._rouse()
        await asyncio.wait({future}, timeout=deadline)
        return future.done() and future.result()

    async def end(self, deadline: float) -> None:
        """Let the thread end, and wait for that."""
        self._ending = True
        self._rouse()
        await asyncio.to_thread(self._thread.join, deadline)

    def _rouse(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._wake >= 0:
                os.write(self._wake, b"\0")

    # From here on, all is the thread's.

    def _run(self) -> None:
        try:
            self._open_stdin()
            for journal, _ in self._journals:
                self._outbox.put(journal, (), journal.positions)
            look_at = 0.0
            more = False
            while not self._ending:
                left = 0.0 if more else max(0.0, look_at - time.monotonic())
                roused = self._serve(left)
                now = time.monotonic()
                if roused or now >= look_at:
                    look_at = now + TICK
                    self._take_asked()
                    self._look()
                    more = self._files.read(self._between)
                    self._rest()
                    self._note()
                    self._answer(seen=True)
                elif more:
                    more = self._files.read(self._between)
        except Exception:
            logger.exception("the thread that reads the log has ended")
        finally:
            self._close()

    def _between(self) -> None:
        """Let others have their turn amid the files: a pipe may fill up meanwhile."""
        self._serve(0.0)

    def _serve(self, timeout: float) -> bool:
        """Read what is live, waiting for it at most so long; return whether the sidecar wants something."""
        watched: dict[int, _Live | tuple[Journal, Output]] = {}
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        full = self._outbox.full
        for live in (*self._live, *self._pipes.values()):
            if live.empty < MAX_EMPTY:
                watched[live.feed.fileno()] = live
        for journal, output in self._journals:
            if journal.alive and not full:
                watched[journal.fileno()] = (journal, output)
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        roused = False
        for descriptor, _ in poll.poll(timeout * 1000):
            if descriptor == self._woken:
                roused = True
                continue
            found = watched[descriptor]
            if isinstance(found, _Live):
                self._read_feed(found)
            else:
                self._read_journal(*found)
        return roused

    def _read_feed(self, live: _Live) -> None:
        feed, output = live.feed, live.output
        try:
            chunk = feed.read()
        except OSError as error:
            self._broken[feed.name] = unreadable(feed.name, error)
            chunk = None
        entries = output.feed(chunk) if chunk else []
        beside = list(feed.entries())
        if beside or chunk is None:
            entries += output.flush()  # the text comes before the end that it explains
        live.empty = 0 if chunk or beside else live.empty + 1
        self._put(feed, output, [*entries, *beside], size=len(chunk or b""), drop=True)
        if chunk is None:
            self._end_feed(live)

    def _end_feed(self, live: _Live) -> None:
        name = live.feed.name
        live.feed.close()
        if live in self._live:
            self._live.remove(live)
        self._pipes.pop(name, None)
        self._outbox.forget(live.feed)
        if live.feed in self._given:
            return  # the server that printed into it has ended, and the feed tells how
        told = f"{name} has ended, and nothing more is read of it"
        fix = "start Forewarn anew beside what writes to it"
        self._broken.setdefault(name, Failure(Reason.UNREACHABLE, f"{told}: {fix}"))

    def _read_journal(self, journal: Journal, output: Output) -> None:
        before = journal.history
        chunk = journal.read()
        entries = output.feed(chunk) if chunk else []
        if before and not journal.history:
            entries += output.go_live()
        journal.told(output.held)
        at = self._wall() if chunk and not before else None
        self._outbox.put(journal, entries, journal.positions, size=len(chunk or b""), at=at, opened=output.open)

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(self._woken, 4096):
                pass
        for live in (*self._live, *self._pipes.values()):
            live.empty = 0
        if self._patterns:
            self._files.look()
            self._open_pipes()
        self._outbox.found()
        for journal, _ in self._journals:
            journal.tend()

    def _open_stdin(self) -> None:
        if self._stdin:
            try:
                feed = StandardInput()
            except OSError as error:
                self._broken[STANDARD_INPUT] = unreadable("standard input", error)
                return
            self._live.append(_Live(feed, self._output(feed.name)))

    def _open_pipes(self) -> None:
        for path, key in self._files.pipes.items():
            live = self._pipes.get(path)
            if live is not None and isinstance(live.feed, NamedPipe) and live.feed.key == key:
                continue
            if live is not None:
                self._put(live.feed, live.output, live.output.flush(), drop=True)
                live.feed.close()
                self._outbox.forget(live.feed)
            try:
                feed = NamedPipe(path)
            except OSError as error:
                self._pipes.pop(path, None)
                self._broken[path] = unreadable(path, error)
                continue
            self._broken.pop(path, None)
            self._pipes[path] = _Live(feed, self._output(path) if live is None else live.output)

    def _rest(self) -> None:
        self._files.rest()
        for live in (*self._live, *self._pipes.values()):
            entries = live.output.rest()
            if entries:
                self._put(live.feed, live.output, entries, drop=True)
        for journal, output in self._journals:
            if output.held and not journal.history:
                entries = output.rest()
                journal.told(output.held)
                self._outbox.put(journal, entries, journal.positions, opened=output.open)

    def _note(self) -> None:
        outputs = [it.output for it in (*self._live, *self._pipes.values())] + [it for _, it in self._journals]
        unread = self._files.unread
        behind = bool(unread) or any(it.alive and it.history for it, _ in self._journals)
        alive = bool(self._live or self._pipes or self._files.alive or any(it.alive for it, _ in self._journals))
        self._outbox.note(
            Status(
                alive=alive,
                reading=behind or self._files.open or any(it.open for it in outputs),
                unread_bytes=unread,
                failures=tuple(self._failures()),
            )
        )

    def _failures(self) -> Iterator[Failure]:
        yield from self._files.failures
        yield from self._broken.values()
        for journal, output in self._journals:
            for failure in (journal.failure, output.failure):
                if failure is not None:
                    yield failure
        for live in (*self._live, *self._pipes.values()):
            if live.output.failure is not None:
                yield live.output.failure

    def _output(self, name: str) -> Output:
        return Output(name, self._rules, clock=self._clock, wall=self._wall)

    def _put(
        self, owner: object, output: Output, entries: Sequence[LogEntry], *, size: int = 0, drop: bool = False
    ) -> None:
        at = self._wall() if size else None
        self._outbox.put(owner, entries, (), size=size, at=at, opened=output.open, drop=drop)

    def _take_asked(self) -> None:
        with self._lock:
            self._waiting += self._asked
            self._asked = []

    def _answer(self, *, seen: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_set, future, seen)

    def _close(self) -> None:
        self._over = True
        self._files.close()
        for journal, _ in self._journals:
            journal.close()
        for feed in (*self._given, *(it.feed for it in (*self._live, *self._pipes.values()))):
            with contextlib.suppress(OSError):
                feed.close()
        with self._lock:
            os.close(self._woken)
            os.close(self._wake)
            self._wake = -1
        self._take_asked()
        self._answer(seen=False)


def _set(future: asyncio.Future[bool], seen: bool) -> None:
    if not future.done():
        future.set_result(seen)


def _together(failures: Sequence[Failure]) -> Failure | None:
    """Return what is wrong as one: the reason is that of the first."""
    if not failures:
        return None
    told = "; ".join(it.message for it in islice(failures, MAX_TOLD))
    more = len(failures) - MAX_TOLD
    return Failure(failures[0].reason, f"{told}; and {more} more" if more > 0 else told)
