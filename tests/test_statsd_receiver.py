"""The process that receives StatsD: every socket is read, every question answered, and nothing stops it but its end."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model import Rejection, StatsdDrop, Transport
from exporter.statsd import receiver
from exporter.statsd.receiver import MAX_CONNECTIONS, MAX_PACKETS, Receiver, packed
from exporter.statsd.relay import AGAIN, UDP_PACKET, UNIX_PACKET, Relay
from exporter.statsd.report import Ask, Config, Report, Totals
from tests.statsd_reference import DOCUMENTED, REJECTED, Books, booked, expected

DEADLINE = 30.0
LINE = b"faktory.jobs.count:1|c|#queue:critical,jobtype:Send"


class Running:
    """A receiving process with its sockets, and what it has told so far."""

    def __init__(self, folder: Path, max_series: int = 1000) -> None:
        self.unix_path = str(folder / "in.sock")
        self.udp, self.unix = (socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_UNIX))
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        self.unix.bind(self.unix_path)
        self.tcp = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.stream, theirs = socket.socketpair()
        self.stream.settimeout(DEADLINE)
        config = Config(self.udp.fileno(), self.tcp.fileno(), self.unix.fileno(), max_series)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "exporter.statsd.receiver", msgspec.json.encode(config).decode()],
            stdin=theirs.fileno(),
            pass_fds=[self.udp.fileno(), self.tcp.fileno(), self.unix.fileno()],
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.connect(self.udp.getsockname())
        self.packets = dict.fromkeys(Transport, 0)
        self.dropped = dict.fromkeys(StatsdDrop, 0)
        self.rejected = dict.fromkeys(Rejection, 0)
        self.counts: dict[tuple[bytes, bytes], float] = {}
        self.samples = self.relayed = self.ignored = 0

    def write(self, question: bytes) -> None:
        self.stream.sendall(len(question).to_bytes(4, "big") + question)

    def read(self) -> list[Report]:
        parts: list[Report] = []
        while not parts or parts[-1].last is None:
            size = int.from_bytes(self.exactly(4), "big")
            parts.append(msgspec.msgpack.decode(self.exactly(size), type=Report))
        return parts

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.stream.recv(size - len(data))
            assert piece, "it has hung up"
            data += piece
        return data

    def ask(self, relay: tuple[str, int] | str | None = None) -> tuple[Books, Totals]:
        self.write(msgspec.msgpack.encode(Ask(relay)))
        parts = self.read()
        last = parts[-1].last
        assert last is not None
        books = booked(parts, last)
        for kind, packets in last.packets.items():
            self.packets[kind] += packets
        for where, lost in last.dropped.items():
            self.dropped[where] += lost
        for reason, times in last.rejected.items():
            self.rejected[reason] += times
        for series, amount in books.counts.items():
            self.counts[series] = self.counts.get(series, 0) + amount
        self.samples += last.samples
        self.relayed += last.relayed
        self.ignored += books.ignored
        return books, last

    def until(self, condition: Callable[[], object], relay: tuple[str, int] | str | None = None) -> None:
        """Ask until it is so."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, (self.packets, self.samples, self.rejected, self.dropped, self.relayed)
            self.ask(relay)
            time.sleep(0.005)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.tcp.getsockname()[:2], DEADLINE)

    def hang_up(self) -> int:
        self.stream.close()
        return self.process.wait(DEADLINE)

    def close(self) -> bytes:
        try:
            self.hang_up()
        finally:
            self.process.kill()
            _, stderr = self.process.communicate()
            for it in (self.udp, self.unix, self.tcp, self.sender):
                it.close()
        return stderr


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    try:
        yield made
    finally:
        assert made.close() == b""


def resident(pid: int) -> float:
    """MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


# What comes by each transport.


def test_what_came_by_udp_is_told(running: Running) -> None:
    before = time.monotonic()
    running.sender.send(b"\n".join(DOCUMENTED))
    running.sender.send(LINE + b"\n")
    running.until(lambda: running.packets[Transport.UDP] == 2)
    assert running.samples == len(DOCUMENTED) + 1
    assert running.counts[b"faktory.jobs.count", b"queue:critical,jobtype:Send"] == 2
    running.sender.send(LINE)
    running.until(lambda: running.packets[Transport.UDP] == 3)
    running.sender.send(LINE)
    _, last = running.ask()
    while not last.packets:
        _, last = running.ask()
    assert last.last_packet is not None
    assert before <= last.last_packet <= time.monotonic()


def test_nothing_came_is_told_as_nothing(running: Running) -> None:
    assert running.ask() == (Books(), Totals())


def test_what_came_by_a_unix_socket_is_told(running: Running) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(LINE + b"\n" + LINE, running.unix_path)
        running.until(lambda: running.packets[Transport.UNIX])
    assert (running.packets[Transport.UNIX], running.samples) == (1, 2)


def test_a_unix_datagram_that_is_too_long_is_rejected_and_the_next_is_read(running: Running) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        sender.sendto(b"\n".join([LINE] * 2000), running.unix_path)
        sender.sendto(LINE, running.unix_path)
        running.until(lambda: running.packets[Transport.UNIX] == 2)
    assert (running.samples, running.rejected[Rejection.LENGTH]) == (1, 1)


def test_the_largest_datagram_is_read_whole(running: Running) -> None:
    data = b"\n".join([LINE] * 2000)[:65507].rpartition(b"\n")[0]
    running.sender.send(data)
    running.until(lambda: running.samples)
    assert running.samples == data.count(b"\n") + 1


def test_an_empty_datagram_is_a_packet_without_lines(running: Running) -> None:
    running.sender.send(b"")
    running.until(lambda: running.packets[Transport.UDP])
    assert (running.samples, sum(running.rejected.values())) == (0, 0)


def test_lines_by_tcp_may_be_torn_anywhere(running: Running) -> None:
    data = b"\n".join([*DOCUMENTED, LINE]) + b"\n"
    with running.connect() as sender:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), 7):
            sender.sendall(data[at : at + 7])
        running.until(lambda: running.packets[Transport.TCP] == len(DOCUMENTED) + 1)
    assert running.samples == len(DOCUMENTED) + 1
    assert running.counts[b"faktory.jobs.count", b"queue:critical,jobtype:Send"] == 2


def test_the_last_line_by_tcp_needs_no_end_but_the_connections(running: Running) -> None:
    with running.connect() as sender:
        sender.sendall(b"a:1|c\na:2|c")
        running.until(lambda: running.samples == 1)
    running.until(lambda: running.samples == 2)
    assert (running.counts[b"a", b""], running.packets[Transport.TCP]) == (3, 2)


def test_what_came_before_a_reset_is_counted(running: Running) -> None:
    sender = running.connect()
    sender.sendall(b"a:1|c\na:2|c")
    running.until(lambda: running.samples == 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sender.close()
    running.until(lambda: running.samples == 2)


@pytest.mark.parametrize("size", [64 * 1024 + 1, 64 * 1024 * 3, 2_000_000])
def test_a_line_by_tcp_that_is_too_long_is_rejected_once_and_the_next_is_read(running: Running, size: int) -> None:
    with running.connect() as sender:
        sender.sendall(b"before:1|c\n" + b"x" * size + b"\nafter:1|c\n")
        running.until(lambda: running.samples == 2)
    assert set(running.counts) == {(b"before", b""), (b"after", b"")}
    assert running.rejected[Rejection.LENGTH] == 1
    assert running.packets[Transport.TCP] == 3


def test_many_senders_at_once_are_all_counted(running: Running) -> None:
    def send(number: int) -> None:
        with running.connect() as sender:
            for _ in range(20):
                sender.sendall(b"a:1|c\nb%d:2|c\n" % number * 50)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    running.until(lambda: running.samples == 16_000)
    for thread in threads:
        thread.join()
    assert running.counts == {(b"a", b""): 8000} | {(b"b%d" % number, b""): 2000 for number in range(8)}


def test_a_connection_beyond_the_bound_is_closed_and_counted(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(running.connect()) for _ in range(MAX_CONNECTIONS)]
        more = stack.enter_context(running.connect())
        assert more.recv(1) == b""
        running.ask()
        assert running.dropped[StatsdDrop.QUEUE] == 1
        kept[0].sendall(LINE + b"\n")
        running.until(lambda: running.samples == 1)
    running.until(lambda: True)
    with running.connect() as sender:  # there is room again
        sender.sendall(LINE + b"\n")
        running.until(lambda: running.samples == 2)


# The sidecar's side.


def test_idle_it_waits(running: Running) -> None:
    running.ask()
    with running.connect():
        running.ask()

        def ticks() -> int:
            return sum(
                map(int, Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13])
            )

        switches = _switches(running.process.pid)
        before = ticks()
        time.sleep(0.3)  # what must not happen has no condition to wait for
        assert ticks() - before <= 1
        assert _switches(running.process.pid) - switches <= 2


def _switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches")))


def test_it_ends_when_the_sidecar_hangs_up(running: Running) -> None:
    running.ask()
    assert running.hang_up() == 0


def test_it_ends_also_amid_an_answer_that_nobody_reads(running: Running) -> None:
    data = b"\n".join(b"a%d:1|ms|#%b" % (number, b"t" * 2000) for number in range(900))
    with running.connect() as sender:
        sender.sendall(data + b"\n")
    running.until(lambda: running.packets[Transport.TCP] == 900)
    with running.connect() as sender:
        sender.sendall(data + b"\n")
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(1) == b""
    running.write(msgspec.msgpack.encode(Ask()))
    assert running.stream.recv(1)
    assert running.hang_up() == 0


def test_signals_are_the_sidecars_business(running: Running) -> None:
    running.ask()
    for ignored in (signal.SIGINT, signal.SIGTERM):
        running.process.send_signal(ignored)
    running.sender.send(LINE)
    running.until(lambda: running.samples == 1)


def test_an_answer_that_nobody_reads_does_not_stop_the_receiving(running: Running) -> None:
    with running.connect() as sender:
        sender.sendall(b"\n".join(b"a%d:1|ms|#%b" % (number, b"t" * 2000) for number in range(900)) + b"\n")
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(1) == b""  # all was read
    running.write(msgspec.msgpack.encode(Ask()))
    for _ in range(3):
        with running.connect() as sender:
            sender.sendall((LINE + b"\n") * 10_000)
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(1) == b""
    parts = running.read()
    assert sum(len(part.spreads) for part in parts) == 900
    assert len(parts) > 2
    running.until(lambda: running.samples == 30_000)


def test_questions_may_come_torn_and_before_the_answer_was_read(running: Running) -> None:
    question = msgspec.msgpack.encode(Ask())
    framed = len(question).to_bytes(4, "big") + question
    for byte in framed:
        running.stream.sendall(bytes([byte]))
    running.stream.sendall(framed * 3)
    assert [len(running.read()) for _ in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("question", [b"", b"\xc1", b"\x90" * 10, b"x" * 5000, msgspec.msgpack.encode([7])])
def test_what_is_no_question_ends_it_with_a_word(tmp_path: Path, question: bytes) -> None:
    made = Running(tmp_path)
    try:
        made.write(question)
        assert made.process.wait(DEADLINE) == 2
    finally:
        stderr = made.close()
    assert stderr.count(b"\n") == 1
    assert b"question" in stderr


def test_an_endless_question_is_not_waited_for(tmp_path: Path) -> None:
    made = Running(tmp_path)
    try:
        made.stream.sendall(b"\x7f\xff\xff\xff")
        assert made.process.wait(DEADLINE) == 2
    finally:
        assert b"2147483647 bytes" in made.close()


def test_datagrams_and_the_sidecar_do_not_wait_for_many_senders(running: Running) -> None:
    burst = b"a\n" * 10_000  # a connection's turn takes long: lines that are hardly longer than nothing
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(running.connect()) for _ in range(50)]
        for sender in senders:
            sender.sendall(b"a\n")
        running.until(lambda: running.packets[Transport.TCP] == 50)
        running.process.send_signal(signal.SIGSTOP)
        for sender in senders:
            sender.sendall(burst)
        running.process.send_signal(signal.SIGCONT)
        running.until(lambda: running.packets[Transport.TCP] > 50)
        running.sender.send(LINE)
        running.until(lambda: running.packets[Transport.UDP] == 1)
        assert running.packets[Transport.TCP] < 50 * 10_000
        running.until(lambda: running.packets[Transport.TCP] == 50 * 10_001)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Receiver, socket.socket, socket.socket]]:
    """A receiver within this process, which is always out of time; the sidecar's end of its stream; and a sender."""
    monkeypatch.setattr(receiver, "TURN", -1.0)
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        sender.connect(udp.getsockname())
        made = Receiver(Config(udp=os.dup(udp.fileno())), theirs)
        yield made, ours, sender
        made.close()


def test_the_sidecar_does_not_wait_for_a_large_datagram(inside: tuple[Receiver, socket.socket, socket.socket]) -> None:
    made, ours, sender = inside
    sender.send(b"a\n" * 30_000)
    question = msgspec.msgpack.encode(Ask())
    ours.sendall(len(question).to_bytes(4, "big") + question)
    made._receive()
    assert ours.recv(2**16, socket.MSG_DONTWAIT)


def test_datagrams_are_not_read_for_ever(inside: tuple[Receiver, socket.socket, socket.socket]) -> None:
    made, _, sender = inside
    for _ in range(MAX_PACKETS + 100):
        sender.send(b"")
    made._receive()
    assert made._packets[Transport.UDP] == MAX_PACKETS
    made._receive()
    assert made._packets[Transport.UDP] == MAX_PACKETS + 100


@pytest.mark.parametrize("arguments", [[], ["{"], ['{"udp": "x"}'], ['{"udp": 999}'], ["{}"]])
def test_started_by_hand_it_says_how_it_is_started(arguments: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exporter.statsd.receiver", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"--statsd.listen" in done.stderr


def test_it_imports_little() -> None:
    loaded = "import sys, exporter.statsd.receiver; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"asyncio", "ssl", "logging", "json", "subprocess"} & set(done.stdout.split())


# Hostile senders.


def test_whatever_comes_the_books_balance(running: Running) -> None:
    data = [line for line, _ in REJECTED if len(line) < 60_000]
    plain = expected(b"\n".join(data))
    for line in data:
        running.sender.send(line)
    running.until(lambda: running.packets[Transport.UDP] == len(data))
    with running.connect() as sender:
        sender.sendall(b"\n".join(data) + b"\n")
        running.until(lambda: running.packets[Transport.TCP] == plain.lines)
    assert sum(running.rejected.values()) == 2 * plain.rejected
    assert running.samples == 2 * plain.samples


def test_a_flood_of_names_stays_bounded(tmp_path: Path) -> None:
    made = Running(tmp_path, max_series=100)
    try:
        made.ask()
        before = resident(made.process.pid)
        with made.connect() as sender:
            for start in range(0, 100_000, 1000):
                sender.sendall(
                    b"".join(b"n%d:1|ms|#t%d:%b\n" % (it, it, b"x" * 100) for it in range(start, start + 1000))
                )
        made.until(lambda: made.packets[Transport.TCP] == 100_000)
        assert made.samples + made.rejected[Rejection.SERIES] == 100_000
        assert resident(made.process.pid) - before < 4
    finally:
        assert made.close() == b""


def test_torn_lines_of_all_connections_are_bounded(running: Running) -> None:
    running.ask()
    before = resident(running.process.pid)
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(running.connect()) for _ in range(20)]
        for sender in senders:
            sender.sendall(b"x" * 1_000_000)
        running.until(lambda: running.rejected[Rejection.LENGTH] == 20)
        assert resident(running.process.pid) - before < 4


# Passing on.


@contextlib.contextmanager
def second_server(folder: Path, kind: str) -> Iterator[tuple[socket.socket, tuple[str, int] | str]]:
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_DGRAM) as server:
        path = str(folder / "out.sock")
        server.bind(path if kind == "unix" else ("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        server.settimeout(DEADLINE)
        name = server.getsockname()
        try:
            yield server, path if kind == "unix" else (name[0], name[1])
        finally:
            if kind == "unix":
                os.unlink(path)


PASSED: Sequence[bytes] = (*DOCUMENTED, b"\n".join(DOCUMENTED), b"\xff\x00nonsense", LINE + b"\r\n", LINE * 1000)


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_every_datagram_is_passed_on_byte_for_byte(running: Running, tmp_path: Path, kind: str) -> None:
    with second_server(tmp_path, kind) as (server, target):
        running.ask(target)
        for packet in PASSED:
            running.sender.send(packet)
        assert [server.recv(2**16) for _ in PASSED] == list(PASSED)
        running.until(lambda: running.relayed == len(PASSED), target)
    assert sum(running.dropped.values()) == 0


@pytest.mark.parametrize(("kind", "limit"), [("udp", UDP_PACKET), ("unix", UNIX_PACKET)])
def test_lines_by_tcp_are_passed_on_whole_in_datagrams(running: Running, tmp_path: Path, kind: str, limit: int) -> None:
    lines = [b"a%d:%d|c|#%b" % (number, number, b"t" * (number % 300)) for number in range(2000)]
    lines[1000] = b"long:1|c|#" + b"t" * 3000
    with second_server(tmp_path, kind) as (server, target):
        running.ask(target)
        with running.connect() as sender:
            sender.sendall(b"\n".join(lines))
        got: list[bytes] = []
        sizes = []
        while len(got) < len(lines):
            packet = server.recv(2**16)
            sizes.append(len(packet))
            got += packet.split(b"\n")
        assert got == lines
        assert max(size for size in sizes if size < 3000 or limit > 3000) <= limit
        assert sum(size > limit / 2 for size in sizes) > len(sizes) / 2


@given(st.lists(st.binary(max_size=30).map(lambda it: it.replace(b"\n", b"")), max_size=20), st.integers(1, 60))
def test_packing_keeps_every_line_and_the_limit(lines: list[bytes], limit: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    packets = [data[first:last] for first, last in packed(data, 0, len(data), limit)]
    assert [it for packet in packets for it in packet.split(b"\n") if it.strip(b"\r")] == [
        it for it in lines if it.strip(b"\r")
    ]
    assert all(len(packet) <= limit or b"\n" not in packet for packet in packets)


def test_nobody_is_passed_to_unless_it_is_said(running: Running, tmp_path: Path) -> None:
    with second_server(tmp_path, "udp") as (server, target):
        running.sender.send(b"1")
        running.until(lambda: running.packets[Transport.UDP] == 1)
        running.ask(target)
        running.sender.send(b"2")
        assert server.recv(9) == b"2"
        running.ask()
        running.sender.send(b"3")
        running.until(lambda: running.packets[Transport.UDP] == 3)
        running.ask(target)
        running.sender.send(b"4")
        assert server.recv(9) == b"4"


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_what_nobody_took_is_counted_and_a_server_that_is_back_is_found(
    running: Running, tmp_path: Path, kind: str
) -> None:
    with second_server(tmp_path, kind) as (server, target):
        running.ask(target)
        running.sender.send(LINE)
        assert server.recv(999) == LINE
        running.until(lambda: running.relayed == 1, target)
        name = server.getsockname()
    for _ in range(20):
        running.sender.send(LINE)
    running.until(lambda: running.dropped[StatsdDrop.RELAY] == 20, target)
    assert running.relayed == 1
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(name)
        server.setblocking(False)
        got = 0
        end = time.monotonic() + DEADLINE
        while not got:
            assert time.monotonic() < end
            running.sender.send(LINE)
            running.ask(target)
            with contextlib.suppress(BlockingIOError):
                got = len(server.recv(999))
    running.until(lambda: running.samples == running.packets[Transport.UDP], target)
    assert running.samples == running.relayed + running.dropped[StatsdDrop.RELAY]


def test_a_slow_server_gets_what_waits_and_what_cannot_wait_is_counted(running: Running, tmp_path: Path) -> None:
    with second_server(tmp_path, "unix") as (server, target):
        running.ask(target)
        packet = LINE.ljust(6000)
        for sent in range(100, 1600, 100):
            for _ in range(100):
                running.sender.send(packet)
            running.until(functools.partial(lambda so_far: running.packets[Transport.UDP] == so_far, sent), target)
        lost = running.dropped[StatsdDrop.QUEUE]
        assert 700 < lost < 900
        got = 0
        while got < 1500 - lost:
            assert server.recv(9999) == packet
            got += 1
        running.until(lambda: running.relayed == got, target)
    assert running.relayed + sum(running.dropped.values()) == 1500


def test_a_unix_server_that_was_restarted_loses_nothing(tmp_path: Path) -> None:
    relay = Relay()
    relay.aim(str(tmp_path / "out.sock"))
    for number in range(3):
        with second_server(tmp_path, "unix") as (server, _):
            relay.send(b"%d" % number)
            assert server.recv(9) == b"%d" % number
    assert relay.take() == (3, {})
    relay.aim(None)


def test_a_unix_server_that_is_away_is_tried_again_after_a_rest(tmp_path: Path) -> None:
    now = 100.0
    relay = Relay(clock=lambda: now)
    relay.aim(str(tmp_path / "out.sock"))
    relay.send(b"1")
    with second_server(tmp_path, "unix") as (server, _):
        now += AGAIN / 2
        relay.send(b"2")
        now += AGAIN / 2
        relay.send(b"3")
        assert server.recv(9) == b"3"
    assert relay.take() == (1, {StatsdDrop.RELAY: 2})
    relay.aim(None)


def test_a_packet_that_is_too_long_for_the_socket_is_lost_alone(tmp_path: Path) -> None:
    relay = Relay()
    with second_server(tmp_path, "unix") as (server, target):
        relay.aim(target)
        relay.send(b"x" * 4 * 2**20)
        relay.send(LINE)
        assert server.recv(999) == LINE
    assert relay.take() == (1, {StatsdDrop.RELAY: 1})
    relay.aim(None)
