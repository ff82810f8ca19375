"""What live tests of StatsD share: a sender in the place of Faktory Enterprise, and a StatsD server in place of others.

As a program, ``python -m tests.live_statsd PORT SECONDS SEED``, it floods a port with hostile packets, and prints how
many it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Final

import pytest

from exporter.statsd.report import SECONDS_BOUNDS
from tests.forewarn import Scrape
from tests.statsd_reference import IGNORED, REJECTED, UNDERSTOOD

LOOPBACK: Final = "127.0.0.1"

RECEIVE_BUFFER: Final = 8 * 1024 * 1024
"""Bytes, where the machine allows them: what a test is to receive is not lost for want of room."""

_SO_RCVBUFFORCE: Final = 33

ENTERPRISE: Final[Sequence[bytes]] = (
    b"\n".join(
        (
            b"faktory.processed:1071|g|#env:production",
            b"faktory.failures:12|g|#env:production",
            b"faktory.scheduled:3|g|#env:production",
            b"faktory.retries:4|g|#env:production",
            b"faktory.dead:5|g|#env:production",
            b"faktory.enqueued:18|g|#env:production",
            b"faktory.working:7|g|#env:production",
            b"faktory.ops.connections:85|g|#env:production",
            b"faktory.ops.redis.connections:86|g|#env:production",
            b"faktory.ops.redis.memory:1048576|g|#env:production",
            b"faktory.ops.redis.rtt_us:190|g|#env:production",
        )
    ),
    b"faktory.queue.size:10|g|#env:production,queue:critical\nfaktory.queue.latency:11.5|g|#env:production,queue:critical",
    b"faktory.queue.size:8|g|#env:production,queue:q\nfaktory.queue.latency:0.25|g|#env:production,queue:q",
    (
        b"faktory.jobs.count:1|c|#env:production,queue:q,jobtype:BareStripe::Sync\n"
        b"faktory.jobs.perform:23.737378|ms|#env:production,queue:q,jobtype:BareStripe::Sync"
    ),
    (
        b"faktory.jobs.count:1|c|#env:production,queue:critical,jobtype:Send\n"
        b"faktory.jobs.perform:2500|ms|#env:production,queue:critical,jobtype:Send"
    ),
    (
        b"faktory.jobs.count:1|c|#env:production,queue:critical,jobtype:Send\n"
        b"faktory.jobs.failed:1|c|#env:production,queue:critical,jobtype:Send\n"
        b"faktory.jobs.perform:4|ms|#env:production,queue:critical,jobtype:Send"
    ),
    b"faktory.jobs.expired:1|c|#env:production,queue:critical,jobtype:Send",
    (
        b"faktory.uniq.lock:1|c|#env:production,queue:q,jobtype:BareStripe::Sync\n"
        b"faktory.uniq.lock:1|c|#env:production,queue:q,jobtype:BareStripe::Sync\n"
        b"faktory.uniq.denied:1|c|#env:production,queue:q,jobtype:BareStripe::Sync"
    ),
)
"""What Faktory Enterprise tells in half a minute in which three jobs ended, with a tag of the operator's own."""

ENTERPRISE_LINES: Final = sum(packet.count(b"\n") + 1 for packet in ENTERPRISE)

STRIPE: Final = ("q", "BareStripe::Sync")
SEND: Final = ("critical", "Send")

TOLD_LEVELS: Final[Mapping[str, Mapping[tuple[str, ...], float]]] = {
    "faktory_statsd_queue_jobs": {("critical",): 10, ("q",): 8},
    "faktory_statsd_queue_latency_seconds": {("critical",): 11.5, ("q",): 0.25},
    "faktory_statsd_set_jobs": {
        ("scheduled",): 3,
        ("retries",): 4,
        ("dead",): 5,
        ("enqueued",): 18,
        ("working",): 7,
    },
    "faktory_statsd_processed_jobs": {(): 1071},
    "faktory_statsd_failed_jobs": {(): 12},
    "faktory_statsd_connections": {(): 85},
    "faktory_redis_connections": {(): 86},
    "faktory_redis_memory_bytes": {(): 1048576},
    "faktory_redis_round_trip_seconds": {(): 0.00019},
}
"""The gauges that this makes, by the values of their labels behind ``server``."""

TOLD_COUNTS: Final[Mapping[str, Mapping[tuple[str, ...], float]]] = {
    "faktory_job_executions_total": {STRIPE: 1, SEND: 2},
    "faktory_job_failures_total": {SEND: 1},
    "faktory_job_expirations_total": {SEND: 1},
    "faktory_unique_locks_total": {STRIPE: 2},
    "faktory_unique_denials_total": {STRIPE: 1},
    "faktory_job_execution_seconds_count": {STRIPE: 1, SEND: 2},
    "faktory_job_execution_seconds_sum": {STRIPE: 0.023737378, SEND: 2.504},
}
"""How much the counters rise each time that it comes."""

TOLD_BOUNDS: Final[Mapping[tuple[str, ...], Sequence[float]]] = {STRIPE: [0.025], SEND: [0.005, 2.5]}
"""The bound of ``faktory_job_execution_seconds`` under which each time falls."""

LARGEST: Final = 65507
"""Most bytes of a packet by UDP."""

HOSTILE: Final[Sequence[bytes]] = tuple(
    packet
    for packet in (
        *UNDERSTOOD,
        *IGNORED,
        *(line for line, _ in REJECTED),
        b"",
        b"\n\n\r\n",
        bytes(LARGEST),
        b"a" * LARGEST,
        b"a:1|c|#" + b"b" * (LARGEST - 7),
        b"\n" * LARGEST,
        b"\n".join(line for line, _ in REJECTED if len(line) < 1000),
    )
    if len(packet) <= LARGEST
)
"""Packets that have ended other receivers of StatsD, or may, among such as they should be."""


def send_udp(port: int, *packets: bytes) -> None:
    """Send packets by UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for packet in packets:
            sender.sendto(packet, (LOOPBACK, port))


def send_unix(path: Path, *packets: bytes) -> None:
    """Send packets to a unix datagram socket; waits while it is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(10)
        for packet in packets:
            sender.sendto(packet, str(path))


def send_tcp(port: int, data: bytes) -> None:
    """Send lines by TCP, over a connection of their own."""
    with socket.create_connection((LOOPBACK, port), timeout=10) as sender:
        sender.sendall(data)


class StatsdInbox:
    """A StatsD server that keeps every packet, at one address for as long as it lives.

    What arrives is taken in by a thread, so that a busy test loses nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Listen by UDP on a port of its own, or on a unix socket."""
        self.packets: list[bytes] = []
        self._path = path
        self._port = 0
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()
        self.start()

    @property
    def port(self) -> int:
        """The port, which stays the same."""
        return self._port

    @property
    def lines(self) -> int:
        """How many lines came so far."""
        return sum(packet.count(b"\n") + 1 for packet in list(self.packets))

    def start(self) -> None:
        """Be there."""
        assert self._thread is None
        opened = socket.socket(socket.AF_INET if self._path is None else socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if self._path is None:
            opened.bind((LOOPBACK, self._port))
            self._port = opened.getsockname()[1]
        else:
            self._path.unlink(missing_ok=True)
            opened.bind(str(self._path))
        opened.setblocking(False)
        self._ends.clear()
        self._thread = threading.Thread(target=self._receive, args=[opened], daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be away: from now on every packet is refused. Nothing that was taken is lost."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ends.set()
            thread.join()

    def _receive(self, opened: socket.socket) -> None:
        with opened:
            waiting = select.poll()  # unlike select(), it takes descriptors above 1024: other scenarios hold that many
            waiting.register(opened, select.POLLIN)
            while not self._ends.is_set():
                waiting.poll(20)
                self._drain(opened)
            # Whoever is connected hears nobody else: the kernel refuses what comes, and nothing more enters the buffer.
            if self._path is None:
                opened.connect((LOOPBACK, 1))
            else:
                self._path.unlink(missing_ok=True)
            self._drain(opened)

    def _drain(self, opened: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.packets.append(opened.recv(1 << 16))


@contextmanager
def inbox(path: Path | None = None) -> Iterator[StatsdInbox]:
    """A StatsD server for the duration of a ``with`` block."""
    made = StatsdInbox(path)
    try:
        yield made
    finally:
        made.stop()


def check_told(scrape: Scrape, times: int) -> None:
    """See that :data:`ENTERPRISE` is told exactly, after it came so many times."""
    for name, levels in TOLD_LEVELS.items():
        assert by_labels(scrape, name) == {key: pytest.approx(level, rel=1e-12) for key, level in levels.items()}, name
    for name, counts in TOLD_COUNTS.items():
        found = by_labels(scrape, name)
        assert found == {key: pytest.approx(times * count, rel=1e-12) for key, count in counts.items()}, name
    buckets = {
        (labels["queue"], labels["jobtype"], float(labels["le"])): value
        for labels, value in scrape.matching("faktory_job_execution_seconds_bucket")
    }
    assert buckets == {
        (*key, bound): times * sum(it <= bound for it in under)
        for key, under in TOLD_BOUNDS.items()
        for bound in (*SECONDS_BOUNDS, inf)
    }


def by_labels(scrape: Scrape, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by the values of its labels behind ``server``, in the order of the catalogue."""
    order = ("name", "tags", "queue", "jobtype", "set", "transport", "reason", "at", "result")
    return {
        tuple(labels[label] for label in order if label in labels): value for labels, value in scrape.matching(name)
    }


def hostile(seed: int = 1) -> list[bytes]:
    """Return :data:`HOSTILE` and random bytes among them, in a random order."""
    numbers = random.Random(seed)
    packets = [*HOSTILE, *(numbers.randbytes(numbers.randrange(1, 1500)) for _ in range(1000))]
    numbers.shuffle(packets)
    return packets


async def flood(port: int, seconds: float, seed: int = 1) -> int:
    """Flood a port by UDP from another process, as fast as it can; return how many packets were sent."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.live_statsd", str(port), str(seconds), str(seed)), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    return int(told)


def _flood(port: int, seconds: float, seed: int) -> int:
    packets = hostile(seed)
    sent, ends = 0, time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((LOOPBACK, port))
        while time.monotonic() < ends:
            for packet in packets:
                with contextlib.suppress(OSError):  # nobody takes it, or there is no memory left
                    sender.send(packet)
                    sent += 1
    return sent


if __name__ == "__main__":
    sys.stdout.write(f"{_flood(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))}\n")
