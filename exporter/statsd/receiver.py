"""The process that receives StatsD: ``python -m exporter.statsd.receiver CONFIG``, started by the sidecar alone.

Its standard input is the stream to the sidecar: it is asked and answers there, and ends when that ends. It is one loop
over sockets in one thread. Datagrams come first, for the kernel drops what is not read in time, while a TCP sender
merely waits; the parts of an answer go out in between.
"""

from __future__ import annotations

import gc
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec

from exporter.model import Rejection, StatsdDrop, Transport
from exporter.statsd.control import AskError, Control
from exporter.statsd.lines import MAX_LINE
from exporter.statsd.relay import Relay
from exporter.statsd.report import Ask, Config, Report
from exporter.statsd.tally import Tally

MAX_DATAGRAM: Final = 64 * 1024
"""Longest datagram that is read, in bytes. By UDP none is longer; one of a unix socket is rejected, not passed on."""

MAX_PACKETS: Final = 1024
"""Most datagrams that are read before anything else has its turn: about two milliseconds."""

MAX_CONNECTIONS: Final = 256
"""Most TCP connections. A further one is closed at once, and counted as one packet dropped in the queue."""

STRIDE: Final = 4 * 1024
"""Bytes that are counted before it is seen how long it takes: 4 ms where all lines are of two bytes, else far less."""

TURN: Final = 0.002
"""Seconds after which the sidecar and the datagrams have their turn, whatever else there is to do."""

REST: Final = 1.0
"""Seconds without accepting, when the machine has no file or memory left for a connection."""

_LINE_FEED: Final = 0x0A


class Connection:
    """One TCP sender."""

    __slots__ = ("skipping", "stream", "torn")

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.torn = b""  # the line that has begun and not ended: at most MAX_LINE of it
        self.skipping = False  # whether it is longer: then nothing of it is kept


class Receiver:
    """Reads every socket, counts, passes on, and answers."""

    def __init__(self, config: Config, stream: socket.socket) -> None:
        """Take over the descriptors of ``config``. Raises ``OSError`` where one is no socket."""
        self._tally = Tally(config.max_series)
        self._relay = Relay()
        self._packets: dict[Transport, int] = {}
        self._turned_away = 0
        self._last_packet: float | None = None
        self._buffer = bytearray(2 * MAX_DATAGRAM + 1)
        self._view = memoryview(self._buffer)
        self._looked = 0.0  # when it was last seen whether the sidecar has come
        self._ended = False
        self._connections = 0
        self._accept_at: float | None = None  # set while the listening socket rests
        self._stuck: socket.socket | None = None  # what the relay waits for

        self._selector = selectors.DefaultSelector()
        self._urgent = select.poll()
        self._control = Control(stream, self._answer)
        self._selector.register(stream, selectors.EVENT_READ, self._attend)
        self._urgent.register(stream, select.POLLIN)
        self._datagrams: list[tuple[socket.socket, Transport]] = []
        for descriptor, transport in ((config.udp, Transport.UDP), (config.unix, Transport.UNIX)):
            if descriptor is not None:
                source = _adopted(descriptor)
                self._datagrams.append((source, transport))
                self._selector.register(source, selectors.EVENT_READ, self._receive)
        self._listener = None if config.tcp is None else _adopted(config.tcp)
        if self._listener is not None:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Receive until the sidecar hangs up. Raises :class:`AskError`."""
        while not self._ended:
            ready = self._selector.select(self._timeout())
            self._looked = turned = time.monotonic()
            for key, _ in ready:
                if isinstance(key.data, Connection):
                    self._read(key.data)
                else:
                    key.data()
                if time.monotonic() - turned > TURN:
                    self._receive()
                    self._look()
                    turned = time.monotonic()
                if self._ended:
                    break

    def close(self) -> None:
        """Close every socket."""
        self._relay.aim(None)
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def _timeout(self) -> float | None:
        if self._accept_at is None or self._listener is None:
            return None
        left = self._accept_at - time.monotonic()
        if left > 0:
            return left
        self._accept_at = None
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return None

    # The sidecar.

    def _look(self) -> None:
        """Attend to the sidecar if it has come."""
        self._looked = time.monotonic()
        if self._urgent.poll(0):
            self._attend()

    def _attend(self) -> None:
        before = self._control.answering
        self._ended = not self._control.turn()
        after = self._control.answering
        if before != after:
            stream = self._control.stream
            self._selector.modify(stream, selectors.EVENT_WRITE if after else selectors.EVENT_READ, self._attend)
            self._urgent.modify(stream, select.POLLOUT if after else select.POLLIN)

    def _answer(self, ask: Ask) -> Iterator[Report]:
        self._relay.aim(ask.relay)
        self._tend_relay()
        parts, totals = self._tally.take()
        relayed, dropped = self._relay.take()
        if self._turned_away:
            dropped[StatsdDrop.QUEUE] = dropped.get(StatsdDrop.QUEUE, 0) + self._turned_away
        last = msgspec.structs.replace(
            totals, packets=self._packets, dropped=dropped, relayed=relayed, last_packet=self._last_packet
        )
        self._packets, self._turned_away, self._last_packet = {}, 0, None
        return chain(parts, (Report(last=last),))

    # Datagrams.

    def _receive(self) -> None:
        """Read what waits in the datagram sockets, but not for ever."""
        for source, transport in self._datagrams:
            packets, end = self._drain(source)
            if packets:
                self._note(transport, packets)
                self._count(0, end)
        self._tend_relay()

    def _drain(self, source: socket.socket) -> tuple[int, int]:
        """Read datagrams into the buffer, each with a line feed behind it; return how many, and where they end."""
        view, buffer, read_into = self._view, self._buffer, source.recv_into
        relay = self._relay if self._relay.active else None
        packets = end = 0
        try:
            while packets < MAX_PACKETS and end <= MAX_DATAGRAM:
                size = read_into(view[end:], MAX_DATAGRAM, socket.MSG_TRUNC)
                packets += 1
                if size > MAX_DATAGRAM:
                    self._tally.reject(Rejection.LENGTH)
                    continue
                if relay is not None:
                    relay.send(view[end : end + size])
                end += size
                buffer[end] = _LINE_FEED
                end += 1
        except OSError:
            pass  # nothing waits any more; or the kernel is short of memory, and it does next time
        return packets, end

    def _count(self, start: int, end: int) -> int:
        """Count the lines of a part of the buffer; return how many there were."""
        lines = 0
        while start < end:
            cut = self._buffer.rfind(b"\n", start, min(start + STRIDE, end)) + 1
            if not cut:
                cut = self._buffer.find(b"\n", start, end) + 1 or end
            lines += self._tally.feed(self._buffer, start, cut)
            start = cut
            if time.monotonic() - self._looked > TURN:
                self._look()
        return lines

    def _note(self, transport: Transport, packets: int) -> None:
        self._packets[transport] = self._packets.get(transport, 0) + packets
        self._last_packet = time.monotonic()

    # TCP.

    def _accept(self) -> None:
        if self._listener is None:
            return
        while True:
            try:
                stream, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                self._accept_at = time.monotonic() + REST
                self._selector.unregister(self._listener)
                return
            if self._connections >= MAX_CONNECTIONS:
                stream.close()
                self._turned_away += 1
                continue
            stream.setblocking(False)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # whoever vanished must not hold a place
            self._selector.register(stream, selectors.EVENT_READ, Connection(stream))
            self._connections += 1

    def _read(self, connection: Connection) -> None:
        """Count the whole lines of a connection, and keep the one that is torn."""
        begun = len(connection.torn)
        self._view[:begun] = connection.torn
        try:
            size = connection.stream.recv_into(self._view[begun:], MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._take_lines(0, begun)
            self._selector.unregister(connection.stream)
            connection.stream.close()
            self._connections -= 1
            return
        start, end = 0, begun + size
        if connection.skipping:
            start = self._buffer.find(b"\n", 0, end) + 1
            if not start:
                return
            connection.skipping = False
        whole = self._buffer.rfind(b"\n", start, end) + 1 or start
        self._take_lines(start, whole)
        if end - whole > MAX_LINE:
            self._tally.reject(Rejection.LENGTH)
            self._note(Transport.TCP, 1)
            connection.skipping = True
            whole = end
        connection.torn = bytes(self._view[whole:end])

    def _take_lines(self, start: int, end: int) -> None:
        if start == end:
            return
        self._note(Transport.TCP, self._count(start, end))
        if self._relay.active:
            for first, last in packed(self._buffer, start, end, self._relay.limit):
                self._relay.send(self._view[first:last])
            self._tend_relay()

    # The other StatsD server.

    def _tend_relay(self) -> None:
        """Wait for the other server's socket for as long as packets wait for it."""
        stuck = self._relay.stuck
        if stuck is not self._stuck:
            if self._stuck is not None:
                self._selector.unregister(self._stuck)
            if stuck is not None:
                self._selector.register(stuck, selectors.EVENT_WRITE, self._resume_relay)
            self._stuck = stuck

    def _resume_relay(self) -> None:
        self._relay.flush()
        self._tend_relay()


def packed(data: bytes | bytearray, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    """Divide whole lines into packets of at most ``limit`` bytes: yield where each begins and ends, line feeds aside.

    A line that is longer is a packet of its own.
    """
    if data[end - 1 : end] == b"\n":
        end -= 1
    while start < end:
        last = data.rfind(b"\n", start, min(start + limit + 1, end)) if end - start > limit else end
        if last < 0:
            last = data.find(b"\n", start, end)
            last = end if last < 0 else last
        if data[start:last].strip(b"\r\n"):
            yield start, last
        start = last + 1


def _adopted(descriptor: int) -> socket.socket:
    source = socket.socket(fileno=descriptor)
    source.setblocking(False)
    return source


def main(arguments: Sequence[str]) -> int:
    """Receive until standard input ends; return the exit status."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the sidecar has them too, and hangs up when it is done
    try:
        config = msgspec.json.decode(arguments[0], type=Config)
        receiver = Receiver(config, socket.socket(fileno=0))
    except (IndexError, msgspec.MsgspecError, OSError) as error:
        told = f"the process that receives StatsD was not started as Forewarn starts it ({error})"
        sys.stderr.write(f"{told}: set --statsd.listen, and forewarn run starts it\n")
        return 2
    # There are no cycles to be found, and looking for them takes longer the more series there are.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        receiver.run()
    except AskError as error:
        sys.stderr.write(f"the process that receives StatsD ends, for it is not asked as it should be: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
