"""What waits to be told to the collector as traces, and the task that tells it.

Imported only where an endpoint is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from typing import Final

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from exporter.model import Execution, Incident, Outcome, Told, WorkerCrash
from exporter.outputs import traces
from exporter.outputs.otlp import OtlpSender
from exporter.outputs.otlp_delivery import Delivery, Fate, OtlpCounts, OtlpTotals

logger = logging.getLogger("forewarn.otlp")

MAX_WAITING: Final = 4096
"""Most spans and links that wait: a few MiB, and as much in the state file."""

MAX_BATCH: Final = 512
"""Most spans and links in one request: a few hundred KiB."""

MAX_DOUBTS: Final = 5
"""How often a request is tried that may fail for what is in it: such a one must not hold up all that follows."""

TOLD_EVERY: Final = 60.0
"""Least seconds between two lines of log about spans that were dropped."""


class Pace(msgspec.Struct, frozen=True):
    """How long to wait, in seconds."""

    gather: float = 0.5
    """From the first thing that comes until it is sent: others come at about the same time."""
    shortest: float = 1.0
    """After the first request that failed, at least."""
    longest: float = 30.0
    """After many that failed, at most."""

    def after(self, failures: int, asked: float | None, jitter: float) -> float:
        """Return how long to wait after ``failures`` requests in a row that failed.

        ``asked`` is what the collector asks for, if it does; ``jitter``, from 0 to 1, parts those that failed together.
        """
        if asked is not None:
            return max(asked, self.shortest) + jitter * self.shortest
        ceiling = min(self.longest, self.shortest * 2.0 ** min(failures, 16))
        return max(self.shortest, ceiling * (0.5 + 0.5 * jitter))


class Rank(IntEnum):
    """How much something is missed if it is never told."""

    ORDINARY = 0  # a job that finished, and Forewarn's own polls
    FAILED = 1  # a job that failed or expired, or of which it is not known; what a server survived
    CRASHED = 2  # workers and servers that went, why, and the jobs that they left behind


class Item(msgspec.Struct, frozen=True, gc=False):
    """One thing that waits."""

    number: int
    rank: Rank
    spans: int
    size: int
    """Spans, links and lines of a stack: what it weighs."""
    server: str
    told: Told | None
    ready: tuple[Span, ...] = ()
    """Its spans, where it is one of Forewarn's own polls."""


class Outbox:
    """What waits, bounded by :data:`MAX_WAITING`.

    What is missed most is sent first and dropped last: a flood of slow jobs must not cost the crash that it came from.
    Within one rank the oldest is sent first, and dropped first too: what it could explain has been looked at longest.
    Safe for use by several threads.
    """

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._ranks: dict[Rank, deque[Item]] = {rank: deque() for rank in sorted(Rank)}
        self._batch: tuple[Item, ...] = ()
        self._size = 0
        self._spans = 0

    @property
    def spans(self) -> int:
        """How many spans wait or are on their way."""
        return self._spans

    def put(self, item: Item) -> int:
        """Let ``item`` wait. Return how many spans had to be dropped for it, its own perhaps."""
        with self._lock:
            self._ranks[item.rank].append(item)
            self._size += item.size
            self._spans += item.spans
            dropped = 0
            while self._size > self._limit and (queue := next(filter(None, self._ranks.values()), None)):
                dropped += self._forget((queue.popleft(),))
            return dropped

    def take(self, most: int = MAX_BATCH) -> tuple[Item, ...]:
        """Return what is to be sent next, at least one thing if any waits. It counts until it is settled or put back.

        No other batch may be on its way.
        """
        with self._lock:
            taken: list[Item] = []
            room = most
            for queue in reversed(self._ranks.values()):
                while queue and (not taken or queue[0].size <= room):
                    taken.append(queue.popleft())
                    room -= taken[-1].size
            self._batch = tuple(taken)
            return self._batch

    def settle(self, items: Sequence[Item]) -> None:
        """Forget ``items`` of the batch that is on its way: they are done with."""
        with self._lock:
            done = {item.number for item in items}
            self._forget([item for item in self._batch if item.number in done])
            self._batch = tuple(item for item in self._batch if item.number not in done)

    def put_back(self) -> None:
        """Let what is left of the batch that was on its way wait again, before all that came later."""
        with self._lock:
            for item in reversed(self._batch):
                self._ranks[item.rank].appendleft(item)
            self._batch = ()

    def unsent(self, server: str) -> tuple[Told, ...]:
        """Return what of one server waits or is on its way, in the order in which it came. Polls are left out."""
        with self._lock:
            items = [*self._batch, *(item for queue in self._ranks.values() for item in queue)]
        items.sort(key=lambda item: item.number)
        return tuple(item.told for item in items if item.told is not None and item.server == server)

    def _forget(self, items: Sequence[Item]) -> int:
        spans = sum(item.spans for item in items)
        self._size -= sum(item.size for item in items)
        self._spans -= spans
        return spans


async def _at_once() -> None:
    """There is no state to wait for."""


class TraceOutput:
    """Tells the collector what it is given, as traces, and keeps it until the collector has taken it.

    A task of its own sends; what a poll or a scrape does never waits for it. But for :meth:`unsent` and
    :meth:`totals`, for use in the event loop alone.
    """

    def __init__(
        self,
        sender: OtlpSender,
        traced: Mapping[str, traces.Traced],
        *,
        parent: bool,
        saved: Callable[[], Awaitable[None]] = _at_once,
        settled: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
        limit: int = MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """``traced`` is by name of the server; ``settled`` is called when a batch needs no longer be kept.

        ``saved`` returns when what was taken is safe: it is awaited before that is sent, or a run after a kill would
        know less of it than the collector does.
        ``parent``: see :func:`exporter.outputs.traces.spans`.
        """
        self._sender = sender
        self._traced = traced
        self._parent = parent
        self._saved = saved
        self._settled = settled
        self._pace = pace or Pace()
        self._clock = clock
        self._jitter = jitter
        self._outbox = Outbox(limit)
        self._counts = OtlpCounts("traces")
        self._came = asyncio.Event()
        self._sending = asyncio.Lock()
        self._numbers = itertools.count()
        self._failures = 0
        self._doubts = 0
        self._broken = False
        self._dropped = 0
        self._told_at: float | None = None

    def turn(self, sender: OtlpSender, *, parent: bool) -> None:
        """Send by another sender from the next request on."""
        self._sender = sender
        self._parent = parent

    async def sent(self) -> None:
        """Return when no request is under way."""
        async with self._sending:
            pass

    def take(self, server: str, told: Sequence[Told]) -> None:
        """Let ``told`` of one server be sent. What there is no room for is dropped and counted, see :class:`Outbox`."""
        dropped = 0
        for each in told:
            spans = traces.count(each)
            size = spans + _carried(each)
            dropped += self._outbox.put(Item(next(self._numbers), rank_of(each), spans, size, server, each))
        self._drop(dropped)
        if told:
            self._came.set()

    def take_poll(self, server: str, spans: Sequence[Span]) -> None:
        """Let the spans of one of Forewarn's own polls be sent. They are not kept over a restart."""
        if spans:
            size = len(spans)
            item = Item(next(self._numbers), Rank.ORDINARY, size, size, server, None, tuple(spans))
            self._drop(self._outbox.put(item))
            self._came.set()

    def unsent(self, server: str) -> tuple[Told, ...]:
        """Return what of one server the collector has not taken yet, for the state file. Safe in any thread."""
        return self._outbox.unsent(server)

    def restore(self, server: str, told: Sequence[Told]) -> None:
        """Take what the last run left: what :meth:`unsent` told. To be called before anything is taken."""
        self.take(server, told)

    def totals(self) -> OtlpTotals:
        """Return the counts so far, in spans. Safe in any thread."""
        return self._counts.totals(waiting=self._outbox.spans)

    async def run(self) -> None:
        """Send for ever what comes, until cancelled. What was on its way then waits again."""
        while True:
            await self._came.wait()
            await asyncio.sleep(self._pace.gather)
            while self._outbox.spans:
                await self._saved()
                delay = await self._send()
                await asyncio.sleep(delay)
            self._came.clear()

    async def flush(self, deadline: float) -> None:
        """Send what waits, whatever the collector does within ``deadline`` seconds and never longer.

        To be called while :meth:`run` still goes on, or a request that is on its way would be sent again.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while self._outbox.spans:
                    delay = await self._send()
                    if loop.time() + delay >= end:
                        break
                    await asyncio.sleep(delay)
        self._tell_dropped(now=True)
        if self._outbox.spans:
            fields = {"spans": self._outbox.spans}
            logger.warning("spans were not sent before the end", extra={"fields": fields})

    async def _send(self) -> float:
        """Send one batch. Return the seconds to wait before the next."""
        async with self._sending:
            batch = self._outbox.take()
            try:
                again = await self._deliver(batch) if batch else None
                self._broken = False
            except Exception:
                # A defect of ours here must not end the watch over the servers.
                if not self._broken:
                    logger.exception("sending traces failed by a defect of Forewarn")
                self._broken = True
                again = Delivery(Fate.AGAIN)
            finally:
                self._outbox.put_back()
        self._tell_dropped()
        self._failures = 0 if again is None else self._failures + 1
        return 0.0 if again is None else self._pace.after(self._failures, again.retry_after, self._jitter())

    async def _deliver(self, batch: Sequence[Item]) -> Delivery | None:
        """Send ``batch``. Return why it is to be sent again, or ``None`` if it is done with."""
        # In a thread: a full batch takes tens of milliseconds.
        body, bad = await asyncio.to_thread(self._encoded, batch)
        self._outbox.settle(bad)
        self._drop(sum(item.spans for item in bad))
        if body:
            delivery = self._hoped(await self._sender.post(body))
            self._counts.settle(delivery, sum(item.spans for item in batch) - sum(item.spans for item in bad))
            if delivery.fate is Fate.AGAIN:
                return delivery
        self._outbox.settle(batch)
        self._settled()
        return None

    def _hoped(self, delivery: Delivery) -> Delivery:
        """Return ``delivery``, as rejected for good if it has failed too often in a way that may never end."""
        if delivery.fate is not Fate.AGAIN:
            self._doubts = 0
            return delivery
        self._doubts += delivery.doubtful
        if self._doubts < MAX_DOUBTS:
            return delivery
        self._doubts = 0
        return msgspec.structs.replace(delivery, fate=Fate.REJECTED)

    def _encoded(self, batch: Sequence[Item]) -> tuple[bytes, Sequence[Item]]:
        """Return the body of a request, empty if there is nothing to send, and what cannot be encoded."""
        try:
            return self._encode(batch), ()
        except Exception:
            logger.exception("a span cannot be encoded by a defect of Forewarn: it is dropped")
        bad = [item for item in batch if not self._can_encode(item)]
        lost = {item.number for item in bad}
        good = [item for item in batch if item.number not in lost]
        return self._encode(good) if good else b"", bad

    def _encode(self, batch: Sequence[Item]) -> bytes:
        return traces.encode([span for item in batch for span in self._spans(item)])

    def _spans(self, item: Item) -> Sequence[Span]:
        if item.told is None:
            return item.ready
        return traces.spans(self._traced[item.server], item.told, parent=self._parent)

    def _can_encode(self, item: Item) -> bool:
        try:
            self._encode((item,))
        except Exception:  # noqa: BLE001 - whatever it is, the others are to be sent
            return False
        return True

    def _drop(self, spans: int) -> None:
        if spans:
            self._counts.drop(spans)
            self._dropped += spans
            self._tell_dropped()

    def _tell_dropped(self, *, now: bool = False) -> None:
        """Log how many spans were dropped since it was told last, no more often than :data:`TOLD_EVERY`."""
        instant = self._clock()
        due = now or self._told_at is None or instant - self._told_at >= TOLD_EVERY
        if self._dropped and due:
            fields = {"spans": self._dropped, "waiting": self._outbox.spans}
            logger.warning("spans were dropped", extra={"fields": fields})
            self._dropped, self._told_at = 0, instant


def rank_of(told: Told) -> Rank:
    """Return how much ``told`` is missed if it is never told."""
    if isinstance(told, Incident):
        return Rank.CRASHED if told.crash else Rank.FAILED
    if not isinstance(told, Execution) or told.outcome is Outcome.CRASHED:
        return Rank.CRASHED
    return Rank.ORDINARY if told.outcome is Outcome.FINISHED else Rank.FAILED


def _carried(told: Told) -> int:
    """Return how much ``told`` weighs beside its spans."""
    match told:
        case WorkerCrash():
            return len(told.orphans)
        case Incident():
            return len(told.frames)
        case _:
            return 0
