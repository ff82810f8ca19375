"""Pushes the metrics to a StatsD server at every interval, and knows as far as can be known what of it arrived.

**Counters** are sent as how much they rose. What was sent is owed no longer when it has arrived, and what did not
arrive goes with the next flush: nothing is lost while the server is away, and nothing is told twice.

By a unix socket a packet that was sent has arrived. By UDP nothing says so, but the machine of a server that does not
listen answers with an ICMP message that quotes the packet: what nobody refused for a second has arrived. Machines send
only a few such messages in a second, so that the first of them ends a flush, and what was sent behind the refused
packet until then is taken for refused too. The first packet of a flush has time to be refused alone, so that a server
that is away costs one packet. A socket is opened anew for each flush: a server that has moved or was replaced is found,
and no table of a load balancer on the way holds on to one that is gone.

**What UDP cannot tell**, and is lost: packets that a firewall drops without an answer, that a network or a full buffer
of the server lost, and those that a server had in its buffer and had not read when it died, which is so of unix sockets
too.

**Gauges** are those of the newest snapshot, at every flush: none of an older one is ever sent.

**Pace.** A flush is spread over a part of the interval, and never goes faster than four packets in a millisecond: a
receiver's buffer has room for about ninety of them. All work that grows with the number of series is done in a thread,
a few packets at a time.

Imported only where a server is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from math import inf
from pathlib import Path
from typing import Final

import msgspec

from exporter.catalogue import (
    FROM_ZERO,
    SNAPSHOT_METRICS,
    STATSD_PUSH_FAILURES,
    STATSD_PUSHED,
    Column,
    Labels,
    Metric,
    Value,
    columns,
)
from exporter.model import Failure, Reason, Snapshot
from exporter.outputs.counting import CUMULATIVE, forgotten
from exporter.outputs.own import Further, nothing, own_columns
from exporter.outputs.statsd import Line, Packer, Packet, Sample, dialect, gauges, samples
from exporter.outputs.statsd_names import SLICE, GetAddrInfo, StatsdName
from exporter.outputs.statsd_rises import Rises
from exporter.outputs.statsd_socket import SocketAddress, StatsdSocket
from exporter.settings import StatsdTarget
from exporter.statsd.address import StatsdAddress

logger = logging.getLogger("forewarn.statsd")

FIRST_FLUSH: Final = 2.0
"""Seconds after the start until the first flush, so that the first polls have ended."""

SPREAD: Final = 0.7
"""Share of the interval over which a large flush is spread."""

LEAST_GAP: Final = 0.00025
"""Seconds from one packet to the next at least, on average over a few."""

LONGEST_GAP: Final = 0.01
"""Seconds from one packet to the next at most: a small flush takes no longer than it must."""

BURST: Final = 0.001
"""Seconds that are not worth a pause: timers are no finer."""

ARRIVED: Final = 1.0
"""Seconds after which a packet that nobody refused has arrived; a fifth of the interval where that is shorter."""

ARRIVED_AT_LAST: Final = 0.1
"""The same when the sidecar ends."""

FIRST_REFUSED: Final = 0.1
"""Seconds that the first packet of a flush has to be refused before the others go; at most a tenth of the interval."""

PATIENCE: Final = 1.0
"""Seconds in all for which one flush waits for room in a full buffer; a tenth of the interval where that is shorter."""

LAST_SENDING: Final = 1.0
"""Seconds of the last flush that are kept for sending: so much less is there for looking up the name."""

PIECE: Final = 32
"""Packets that are packed in one go."""

MAX_LEFT: Final = 100
"""Most servers that left whose last snapshot is kept until the next flush."""

_METRICS: Final = {metric.name: metric for metric in SNAPSHOT_METRICS}

RESULTS: Final = ("sent", "refused", "left_out")
"""What became of lines: a packet took them there, or was refused, or they were too long or owed for too long."""


class _Part(msgspec.Struct, frozen=True):
    """All series of one metric."""

    server: str | None
    """``None``: the sidecar itself."""
    metric: Metric
    samples: Sequence[Sample]
    keys: Sequence[Labels]
    values: Sequence[Value]

    @property
    def name(self) -> tuple[str | None, str]:
        """What is one metric of one server."""
        return self.server, self.metric.name


class StatsdPush:
    """Flushes what is known to one StatsD server. For use in one event loop, but where said."""

    def __init__(
        self,
        target: StatsdTarget,
        newest: Callable[[], Mapping[str, Snapshot | None]],
        *,
        interval: float,
        version: str,
        told: Further = nothing,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    ) -> None:
        """Nothing is opened before the first flush.

        Args:
            target: The server.
            newest: Tells the newest snapshot of each watched server.
            interval: Seconds from one flush to the next.
            version: Forewarn's own.
            told: What else of the sidecar itself is to be told.
            clock: The one that snapshots are taken by.
            sleep: Waits for some seconds of that clock.
            getaddrinfo: Looks up names.
        """
        self._newest = newest
        self._version = version
        self._told = told
        self._clock = clock
        self._sleep = sleep
        self._getaddrinfo = getaddrinfo
        self._aim(target, interval)
        self._rises: dict[tuple[str | None, str], Rises] = {}
        self._left: dict[str, Snapshot] = {}
        self._gone: dict[str, str] = {}
        self._counts = _Counts(str(target.address))
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._cut = False
        self._until: float | None = None
        self._broken = False

    def _aim(self, target: StatsdTarget, interval: float) -> None:
        self._address = target.address
        self._path: Sequence[Path] = ()
        self._name: StatsdName | None = None
        if isinstance(target.address, Path):
            self._path = (target.address,)
        else:
            self._name = StatsdName(target.address, clock=self._clock, getaddrinfo=self._getaddrinfo)
        self._dialect = dialect(target.tags)
        self._interval = interval
        self._arrived = min(ARRIVED, interval / 5)

    async def turn(self, target: StatsdTarget, interval: float) -> None:
        """Push to another server, or at another interval. What is owed goes there; so does all of a flush cut short.

        To be called while it runs; :meth:`start` goes on.
        """
        self._cut = True  # a flush that is under way ends: what it did not send goes with the next one
        async with self._flushing:
            self._cut = False
            await self._stop()
            self._aim(target, interval)
            self._counts.where = str(target.address)

    async def prime(self) -> None:
        """Take what is counted by now for told: of a life that was never pushed only the rest is."""
        async with self._flushing:
            snapshots = [it for it in self._newest().values() if it is not None]
            own = await asyncio.to_thread(self._own_parts, snapshots)
            await asyncio.to_thread(self._prime, own, snapshots)

    def leave(self, last: Snapshot) -> None:
        """Take note that a server is watched no more, of which this is the last that is known.

        What its counters rose until then is still told; its gauges are not. Of very many that left between two flushes
        the newest :data:`MAX_LEFT` are told.
        """
        self._left = {**self._left, last.server: last}
        while len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]

    def own(self) -> Iterator[Column]:
        """Yield the metrics of what is pushed. Safe in any thread."""
        lines, failures = self._counts.lines, self._counts.failures
        yield STATSD_PUSHED, [(it,) for it in RESULTS], [lines[it] for it in RESULTS]
        yield STATSD_PUSH_FAILURES, [(it.value,) for it in Reason], [failures[it] for it in Reason]

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to push, by a task of ``tasks`` that only :meth:`finish` ends."""
        self._task = tasks.create_task(self.run(), name="push to StatsD")

    async def run(self) -> None:
        """Flush for ever, the first time soon after the start, until cancelled between two flushes."""
        await self._sleep(min(FIRST_FLUSH, self._interval))
        while True:
            started = self._clock()
            async with self._flushing:
                await self.flush()
            await self._sleep(max(0.0, started + self._interval - self._clock()))

    async def finish(self, deadline: float) -> None:
        """Push what is left within ``deadline`` seconds, whatever the server does, and stop."""
        self._until = self._clock() + deadline
        self._cut = True  # a flush that is under way ends: what it did not send goes with the last one
        try:
            async with asyncio.timeout(deadline), self._flushing:
                self._cut = False
                await self.flush()
        except TimeoutError:
            self._counts.settle(_too_late())
        await self._stop()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def flush(self) -> None:
        """Send all that is known now, and what is still owed."""
        try:
            failure = await self._flush()
        except Exception:
            # A defect of ours in one flush must not end all of them.
            if not self._broken:
                logger.exception("push to StatsD failed by a defect of Forewarn")
            self._broken = True
            return
        self._broken = False
        if self._name is not None and failure is not None:
            self._name.doubt()
        if failure is not None or not self._cut:  # one that was cut short has found out nothing
            self._counts.settle(failure)

    async def _flush(self) -> Failure | None:
        snapshots = [it for it in self._newest().values() if it is not None]
        own = await asyncio.to_thread(self._own_parts, snapshots)
        left, self._left = self._left, {}
        await asyncio.to_thread(self._part_from, left.values(), self._newest().keys())
        lines = await asyncio.to_thread(self._advance, own, snapshots)
        addresses = await self._addresses()
        if isinstance(addresses, Failure):
            return addresses
        failure: Failure | None = None
        for address in addresses:
            try:
                out = StatsdSocket(address)
            except OSError as error:
                failure = _unreachable(self._address, error.errno)
                continue
            flight = _Flight(out, self._counts)
            try:
                failure = await self._send(flight, self._written(own, snapshots), lines)
            finally:
                flight.end()
            if failure is None or flight.packets > 1:
                break
        return failure

    async def _addresses(self) -> Sequence[SocketAddress] | Failure:
        if self._name is None:
            return self._path
        return await self._name.addresses(
            lambda: self._cut or (self._until is not None and self._clock() > self._until - LAST_SENDING)
        )

    # --- what is sent; all of it in a thread ---

    def _own_parts(self, snapshots: Sequence[Snapshot]) -> list[_Part]:
        return [
            _Part(None, metric, samples(metric, "", labels, ()), keys, values)
            for metric, labels, keys, values in own_columns(self._version, snapshots, self._clock(), self._told)
        ]

    def _advance(self, own: Iterable[_Part], snapshots: Iterable[Snapshot]) -> int:
        """Take in how much everything rose, and return how many lines there are."""
        lines = given_up = 0
        for part in chain(own, _parts(snapshots)):
            lines += len(part.samples) * len(part.keys)
            if part.metric.kind in CUMULATIVE:
                from_zero = part.server is None or part.metric.name in FROM_ZERO
                given_up += self._take_in(part, from_zero=from_zero)
        self._counts.leave_out(given_up)
        return lines

    def _take_in(self, part: _Part, *, from_zero: bool) -> int:
        return self._rises.setdefault(part.name, Rises()).advance(
            part.keys,
            part.values,
            width=len(part.samples),
            from_zero=from_zero,
            forgotten=part.server is not None and forgotten(part.metric),
        )

    def _prime(self, own: Iterable[_Part], snapshots: Iterable[Snapshot]) -> None:
        for part in chain(own, _parts(snapshots)):
            if part.metric.kind in CUMULATIVE:
                self._take_in(part, from_zero=False)

    def _part_from(self, left: Iterable[Snapshot], watched: Container[str]) -> None:
        """Take in the last of each that left, and forget those that nothing is owed of any more."""
        for snapshot in left:
            self._advance((), (snapshot,))
            for rises in self._rises_of(snapshot.server).values():
                rises.forget()
            self._gone[snapshot.server] = snapshot.system
        for server in list(self._gone):
            its = self._rises_of(server)
            owed = any(rises.owed for rises in its.values())
            if server in watched or not owed:
                del self._gone[server]
            if server not in watched and not owed:
                for name in its:
                    del self._rises[server, name]

    def _rises_of(self, server: str) -> Mapping[str, Rises]:
        """Return those of one server by the name of their metric."""
        return {name: rises for (owner, name), rises in self._rises.items() if owner == server}

    def _written(self, own: Iterable[_Part], snapshots: Iterable[Snapshot]) -> Iterator[tuple[Sample, Sequence[Line]]]:
        for part in chain(own, _parts(snapshots)):
            if part.metric.kind in CUMULATIVE:
                yield from self._rises[part.name].lines(part.samples, part.keys)
            else:
                yield from gauges(part.samples, part.keys, part.values)
        for server, system in self._gone.items():
            for name, rises in self._rises_of(server).items():
                metric = _METRICS[name]
                its = samples(metric, system, ("server", *metric.labels), (server,))
                yield from rises.lines(its, ())

    # --- how it is sent ---

    async def _send(
        self, flight: _Flight, written: Iterator[tuple[Sample, Sequence[Line]]], lines: int
    ) -> Failure | None:
        packer = Packer(self._dialect, flight.limit)
        packets = packer.pack(written)
        pace = _Pace(self._clock, self._sleep, 0.0 if self._until is not None else SPREAD * self._interval, lines)
        patience = min(PATIENCE, self._interval / 10)
        waiting: deque[Packet] = deque()
        failure: Failure | None = None
        try:
            while failure is None and not self._cut:
                if not waiting:
                    waiting.extend(await asyncio.to_thread(_next, packets))
                if not waiting:
                    break
                try:
                    sent = flight.send(waiting[0], self._clock())
                except OSError as error:
                    failure = _unreachable(self._address, error.errno)
                    break
                if sent:
                    packet = waiting.popleft()
                    if flight.packets == 1:
                        await self._wait(flight, min(FIRST_REFUSED, self._interval / 10))
                        pace.forgive()
                    await pace.rest(packet.lines)
                elif patience > 0:
                    patience -= SLICE
                    await self._sleep(SLICE)
                    pace.forgive()
                else:
                    failure = _full(self._address)
                flight.look(self._clock() - self._arrived)
                failure = failure or self._refused(flight)
        finally:
            for packet in waiting:
                packet.put_back()
            self._counts.leave_out(packer.left_out)
        await self._wait(flight, self._arrived)
        return failure or self._refused(flight)

    async def _wait(self, flight: _Flight, seconds: float) -> None:
        """Give what was sent some time to be refused; less at the end."""
        until = self._clock() + seconds
        while flight.is_open:
            if self._cut or self._until is not None:
                until = min(until, self._clock() + ARRIVED_AT_LAST)
            if self._clock() >= until:
                return
            await self._sleep(min(SLICE, until - self._clock()))
            flight.look(self._clock() - self._arrived)

    def _refused(self, flight: _Flight) -> Failure | None:
        return None if flight.refused is None else _unreachable(self._address, flight.refused)


class _Flight:
    """The packets of one flush on their way through one socket."""

    def __init__(self, out: StatsdSocket, counts: _Counts) -> None:
        self._out = out
        self._counts = counts
        self._open: deque[tuple[float, Packet]] = deque()
        self.limit = out.limit
        """Most bytes of a packet."""
        self.packets = 0
        """How many were sent."""
        self.refused: int | None = None
        """Why the first that was refused was, as in :mod:`errno`."""

    @property
    def is_open(self) -> bool:
        """Whether there are packets of which it is not known yet whether they arrived."""
        return bool(self._open)

    def send(self, packet: Packet, now: float) -> bool:
        """Send one packet. Returns whether there was room for it.

        Raises:
            OSError: It was not sent.
        """
        if not self._out.send(packet.data):
            return False
        self.packets += 1
        if self._out.tells:
            self._counts.count("sent", packet.lines)
        else:
            self._open.append((now, packet))
            self.look(0.0)
        return True

    def look(self, arrived: float) -> None:
        """Learn what was refused. What was sent before ``arrived`` and was not, has arrived."""
        for refusal in self._out.refusals():
            if self.refused is None:
                self.refused = refusal.error
            self._take_back(refusal.quoted)
        while self._open and self._open[0][0] <= arrived:
            self._counts.count("sent", self._open.popleft()[1].lines)

    def end(self) -> None:
        """Close the socket: what was not refused until now has arrived."""
        self.look(inf)
        self._out.close()

    def _take_back(self, quoted: bytes) -> None:
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index][1].data.startswith(quoted):
                for _ in range(len(self._open) - index):
                    packet = self._open.pop()[1]
                    packet.put_back()
                    self._counts.count("refused", packet.lines)
                return


class _Pace:
    """Spreads the packets of one flush."""

    def __init__(
        self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]], seconds: float, lines: int
    ) -> None:
        """``lines`` are all that there will be, as far as can be known, within ``seconds``."""
        self._clock = clock
        self._sleep = sleep
        self._per_line = seconds / max(lines, 1)
        self._due = self._free = clock()

    async def rest(self, lines: int) -> None:
        """Wait until the packet behind one with ``lines`` lines may be sent."""
        now = self._clock()
        self._due += min(self._per_line * lines, LONGEST_GAP)
        # What came late, on a machine that has much to do, is made up for, but never in one burst.
        self._free = max(self._free, now) + LEAST_GAP
        pause = max(self._due, self._free) - now
        if pause >= BURST:
            await self._sleep(pause)

    def forgive(self) -> None:
        """Do not make up for what was late until now: it had to wait."""
        self._due = max(self._due, self._clock())


class _Counts:
    """Counts what becomes of lines and flushes, and logs what changes. Read in any thread, changed in one at a time."""

    def __init__(self, where: str) -> None:
        self.lines = dict.fromkeys(RESULTS, 0)
        self.failures = dict.fromkeys(Reason, 0)
        self.where = where
        """The server, for the log."""
        self._failing: Reason | None = None
        self._leaves_out = False

    def count(self, result: str, lines: int) -> None:
        """Count lines."""
        self.lines[result] += lines

    def leave_out(self, lines: int) -> None:
        """Count lines that no packet will ever take."""
        self.count("left_out", lines)
        if lines and not self._leaves_out:
            self._leaves_out = True
            logger.warning(
                "some series are not pushed to StatsD: their names and labels are longer than a packet, or nobody took"
                " them for too long",
                extra={"fields": {"server": self.where}},
            )

    def settle(self, failure: Failure | None) -> None:
        """Count how a flush ended."""
        fields: dict[str, object] = {"server": self.where}
        if failure is None and self._failing is not None:
            logger.info("StatsD server recovered", extra={"fields": fields})
        if failure is not None:
            self.failures[failure.reason] += 1
            if failure.reason is not self._failing:
                fields |= {"reason": str(failure.reason), "failure": failure.message}
                logger.warning("StatsD server failing", extra={"fields": fields})
        self._failing = None if failure is None else failure.reason


def _parts(snapshots: Iterable[Snapshot]) -> Iterator[_Part]:
    for snapshot in snapshots:
        for metric, keys, values in columns(snapshot):
            labels = ("server", *metric.labels)
            its = samples(metric, snapshot.system, labels, (snapshot.server,))
            yield _Part(snapshot.server, metric, its, keys, values)


def _next(packets: Iterator[Packet]) -> list[Packet]:
    return list(islice(packets, PIECE))


# --- what went wrong --------------------------------------------------------------------------------------------------


def _unreachable(address: StatsdAddress, error: int | None) -> Failure:
    said = os.strerror(error or errno.EIO).lower()
    if isinstance(address, Path):
        hint = (
            "does the server run, with its socket at this path, and is the folder mounted here and the socket writable"
            " for Forewarn's user?"
        )
    else:
        hint = "does the server run, does it listen by UDP, and are host and port right?"
    return Failure(
        Reason.UNREACHABLE,
        f"the StatsD server at {address} cannot be reached ({said}): {hint} What was counted is kept until then;"
        " it is told by statsd.push where it is",
    )


def _full(address: StatsdAddress) -> Failure:
    return Failure(
        Reason.TIMEOUT,
        f"the StatsD server at {address} does not read fast enough: its buffer stayed full; does it hang, or is"
        " net.unix.max_dgram_qlen too small? What was counted goes with the next flush",
    )


def _too_late() -> Failure:
    return Failure(Reason.TIMEOUT, "not everything could be pushed to StatsD before Forewarn ended")
