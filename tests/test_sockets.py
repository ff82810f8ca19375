"""Who is connected to a port: what the kernel tells, whatever it answers, and where it tells nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.errors import FaktoryError
from exporter.faktory.source import FaktorySource
from exporter.faktory.store import Store, StoreFacts
from exporter.model import OTHER, Failure, Observation, Reason, SocketFacts
from exporter.process.sockets import (
    MAX_ANSWER,
    PIECE,
    RECHECK,
    REFUSALS,
    REST,
    Address,
    Part,
    PortPeers,
    Queue,
    Row,
    facts,
    is_own,
    open_diagnosis,
    parse,
    question,
)
from exporter.signals.connections import PEERS, ConnectionsSignal
from exporter.signals.labels import IDLE
from tests.servers import free_port, wait_until

PORT = 7419
LISTEN, ESTABLISHED, TIME_WAIT, CLOSE_WAIT = 10, 1, 6, 8
STATES = ("established", "syn_recv", "fin_wait1", "fin_wait2", "close_wait", "last_ack", "closing")
NOOP, ERROR, DONE, SOCKET = 1, 2, 3, 20
MULTI, INTERRUPTED = 0x02, 0x10
HEADER = 16
LEAST = HEADER + 72
"""Bytes in which a kernel tells a socket, at least."""
little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="written by a machine of the other byte order")
LOOPBACK = (IPv4Address("127.0.0.1"),)

Socket = tuple[Address, int, Address, int, int]
"""Local address and port, remote address and port, state."""


def message(kind: int, body: bytes = b"", flags: int = MULTI) -> bytes:
    header = struct.pack("=IHHII", HEADER + len(body), kind, flags, 1, 4711)
    return header + body + bytes(-len(body) % 4)


def attributes(state: int) -> bytes:
    """Return what the kernel tells of a socket though nobody asked for it."""
    only_ipv6 = struct.pack("=HHB3x", 5, 11, 0) if state == LISTEN else b""
    return struct.pack("=HHB3x", 5, 8, 0) + only_ipv6 + struct.pack("=HHQ", 12, 21, 1)


def told_socket(entry: Socket, flags: int = MULTI) -> bytes:
    local, port, remote, remote_port, state = entry
    family = socket.AF_INET if isinstance(local, IPv4Address) else socket.AF_INET6
    ends = struct.pack(">HH16s16s", port, remote_port, local.packed, remote.packed)
    body = struct.pack("=BBBB", family, state, 0, 0) + ends + struct.pack("=IIIIIIII", 0, 7, 0, 0, 0, 128, 1000, 41000)
    return message(SOCKET, body + attributes(state), flags)


def told_end(error: int = 0) -> bytes:
    return message(DONE, struct.pack("=i", -error))


def told_error(error: int) -> bytes:
    return message(ERROR, struct.pack("=i", -error) + bytes(HEADER))


def datagram(*entries: Socket) -> bytes:
    return b"".join(told_socket(entry) for entry in entries)


def listening(address: str, port: int = PORT) -> Socket:
    local = ip_address(address)
    return local, port, type(local)(0), 0, LISTEN


def connection(remote: str, local: str = "127.0.0.1", port: int = PORT, state: int = ESTABLISHED) -> Socket:
    return ip_address(local), port, ip_address(remote), 40000, state


def told(*entries: Socket, hosts: tuple[Address, ...] = LOOPBACK) -> Mapping[str, int] | None:
    return told_by(parse(datagram(*entries), PORT), hosts)


def told_by(part: Part, hosts: tuple[Address, ...] = LOOPBACK) -> Mapping[str, int] | None:
    found = facts(part.sockets, part.queues, hosts)
    return None if found is None else found.peers


def told_states(*entries: Socket) -> Mapping[str, int]:
    part = parse(datagram(*entries), PORT)
    found = facts(part.sockets, part.queues, LOOPBACK)
    assert found is not None
    return found.states


async def peers_of(port_peers: PortPeers) -> tuple[Mapping[str, int] | None, Failure | None]:
    found, failed = await port_peers.read()
    return None if found is None else found.peers, failed


class TestOneAnswer:
    @little_endian
    def test_sockets_that_a_kernel_told(self) -> None:
        content = bytes.fromhex("""
            7c000000 14000200 01000000 003e0000 020a0000 1cfb0000 7f000001 00000000 00000000 00000000 00000000
            00000000 00000000 00000000 00000000 46080000 00000000 00000000 01000000 80000000 00000000 342a7101
            05000800 00000000 08000f00 00000000 0c001500 01000000 00000000 06001600 52000000
            7c000000 14000200 01000000 003e0000 02010000 1cfbc8ad 7f000001 00000000 00000000 00000000 7f000002
            00000000 00000000 00000000 00000000 47080000 00000000 00000000 00000000 00000000 00000000 00000000
            05000800 00000000 08000f00 00000000 0c001500 01000000 00000000 06001600 52000000
        """)
        part = parse(content, PORT)
        assert told_by(part) == {"127.0.0.2": 1}
        assert (part.end, part.torn) == (None, False)

    @little_endian
    def test_sockets_of_ipv6_that_a_kernel_told(self) -> None:
        content = bytes.fromhex("""
            84000000 14000200 01000000 003e0000 0a0a0000 1cfb0000 00000000 00000000 00000000 00000000 00000000
            00000000 00000000 00000000 00000000 48080000 00000000 00000000 02000000 80000000 00000000 382a7101
            05000800 00000000 05000b00 00000000 08000f00 00000000 0c001500 01000000 00000000 06001600 12000000
            7c000000 14000200 01000000 003e0000 0a010000 1cfbbb0b 00000000 00000000 0000ffff 7f000001 00000000
            00000000 0000ffff 7f000004 00000000 49080000 00000000 00000000 00000000 00000000 00000000 00000000
            05000800 00000000 08000f00 00000000 0c001500 01000000 00000000 06001600 12000000
            7c000000 14000200 01000000 003e0000 0a010000 1cfb9306 00000000 00000000 00000000 00000001 00000000
            00000000 00000000 00000001 00000000 4a080000 00000000 00000000 00000000 00000000 00000000 00000000
            05000800 00000000 08000f00 00000000 0c001500 01000000 00000000 06001600 12000000
        """)
        assert told_by(parse(content, PORT)) == {"127.0.0.4": 1, "::1": 1}

    @little_endian
    def test_the_end_that_a_kernel_told(self) -> None:
        assert parse(bytes.fromhex("14000000 03000200 01000000 003e0000 00000000"), PORT) == Part({}, end=0)

    @little_endian
    def test_the_question_is_for_tcp_and_one_port_and_what_listens_or_has_an_end_here(self) -> None:
        expected = f"48000000 14000103 01000000 00000000 0a 06 00 00 3a0f0000 1cfb {'00' * 46}"
        assert question(socket.AF_INET6, PORT) == bytes.fromhex(expected)

    def test_only_what_is_connected_counts(self) -> None:
        closed = [connection("10.0.0.9", state=state) for state in range(2, 13) if state != LISTEN]
        assert told(listening("127.0.0.1"), connection("127.0.0.1"), *closed) == {"127.0.0.1": 1}

    def test_the_other_ends_and_other_ports_do_not_count(self) -> None:
        clients_end = (ip_address("127.0.0.1"), 40000, ip_address("127.0.0.1"), PORT, ESTABLISHED)
        assert told(listening("127.0.0.1"), clients_end, connection("127.0.0.1", port=7420)) == {}

    def test_sockets_of_another_family_do_not_count(self) -> None:
        of_netlink = bytearray(datagram(connection("10.0.0.9")))
        of_netlink[HEADER] = socket.AF_NETLINK
        assert parse(bytes(of_netlink), PORT) == Part({})

    def test_every_state_is_told_from_the_start_but_those_that_are_nobodys(self) -> None:
        entries = [connection("10.0.0.9", state=state) for state in range(1, 13) if state != LISTEN]
        part = parse(datagram(listening("127.0.0.1"), *entries, connection("10.0.0.9", state=CLOSE_WAIT)), PORT)
        found = facts(part.sockets, part.queues, LOOPBACK)
        assert found is not None
        assert found.states == dict.fromkeys(STATES, 1) | {"close_wait": 2}
        assert told_states(listening("127.0.0.1")) == dict.fromkeys(STATES, 0)

    def test_sockets_of_another_server_on_the_port_have_no_state_here(self) -> None:
        entries = [listening("10.0.0.5"), connection("10.0.0.9", local="10.0.0.5", state=CLOSE_WAIT)]
        assert told_states(listening("127.0.0.1"), *entries) == dict.fromkeys(STATES, 0)

    def test_what_waits_to_be_accepted_is_told_with_its_limit(self) -> None:
        queue = Queue(ip_address("127.0.0.1").packed, waiting=5, backlog=128, inode=1)
        found = facts({}, [queue], LOOPBACK)
        assert found is not None
        assert (found.waiting, found.backlog) == (5, 128)

    def test_sockets_that_share_an_address_are_one_server(self) -> None:
        queues = [Queue(ip_address("127.0.0.1").packed, waiting=number, backlog=10, inode=1) for number in (3, 4)]
        found = facts({}, [*queues, Queue(ip_address("10.0.0.5").packed, 100, 100, 2)], LOOPBACK)
        assert found is not None
        assert (found.waiting, found.backlog) == (7, 20)

    def test_ipv4_written_as_ipv6_is_shown_as_ipv4(self) -> None:
        mapped = connection("::ffff:10.0.0.7", local="::ffff:127.0.0.1")
        assert told(listening("::"), mapped, connection("fd00::7", local="fd00::1")) == {"10.0.0.7": 1, "fd00::7": 1}

    def test_where_nothing_listens_nothing_is_known(self) -> None:
        assert told(connection("10.0.0.1")) is None

    def test_where_something_listens_on_another_address_only_nothing_is_known(self) -> None:
        assert told(listening("10.0.0.5"), connection("10.0.0.1", local="10.0.0.5")) is None

    def test_with_nobody_connected_that_is_known(self) -> None:
        assert told(listening("127.0.0.1")) == {}

    def test_a_server_that_listens_everywhere_has_connections_to_every_address(self) -> None:
        entries = [listening("0.0.0.0"), connection("10.0.0.9", local="10.0.0.5"), connection("127.0.0.1")]
        assert told(*entries) == {"10.0.0.9": 1, "127.0.0.1": 1}

    def test_connections_to_an_address_on_which_something_else_listens_do_not_count(self) -> None:
        entries = [listening("0.0.0.0"), listening("10.0.0.5"), connection("10.0.0.9", local="10.0.0.5")]
        assert told(*entries, connection("127.0.0.1")) == {"127.0.0.1": 1}
        assert told(*entries, connection("127.0.0.1"), hosts=(IPv4Address("10.0.0.5"),)) == {"10.0.0.9": 1}

    def test_of_several_addresses_the_first_counts_on_which_something_listens(self) -> None:
        hosts = (IPv6Address("::1"), IPv4Address("127.0.0.1"))
        assert told(listening("127.0.0.1"), connection("127.0.0.2"), hosts=hosts) == {"127.0.0.2": 1}

    def test_a_message_of_another_kind_is_passed_over(self) -> None:
        content = message(NOOP) + datagram(listening("127.0.0.1")) + message(77, b"new") + told_end()
        assert parse(content, PORT) == Part(Counter(row(listening("127.0.0.1"))), QUEUE, end=0)

    def test_what_the_kernel_calls_interrupted_counts_all_the_same(self) -> None:
        entry = connection("10.0.0.1")
        assert parse(told_socket(entry, MULTI | INTERRUPTED), PORT) == Part(Counter(row(entry)))

    @pytest.mark.parametrize("tell", [told_end, told_error])
    def test_the_error_with_which_the_kernel_ends_it_is_told(self, tell: Callable[[int], bytes]) -> None:
        content = datagram(listening("127.0.0.1")) + tell(errno.ENOENT)
        assert parse(content, PORT) == Part(Counter(row(listening("127.0.0.1"))), QUEUE, end=errno.ENOENT)

    @pytest.mark.parametrize("number", [1, -4096, -(2**31), 2**31 - 1])
    def test_what_is_no_error_number_is_torn(self, number: int) -> None:
        assert parse(message(DONE, struct.pack("=i", number)), PORT) == Part({}, torn=True)

    def test_nothing_at_all_is_torn(self) -> None:
        assert parse(b"", PORT) == Part({}, torn=True)

    @pytest.mark.parametrize("length", [0, 1, HEADER - 1, HEADER, HEADER + 71, 2**31, 2**32 - 1])
    def test_a_length_that_lies_is_torn(self, length: int) -> None:
        first = datagram(listening("127.0.0.1"))
        lying = bytearray(told_socket(connection("10.0.0.1")))
        struct.pack_into("=I", lying, 0, length)
        assert parse(first + bytes(lying), PORT) == Part(Counter(row(listening("127.0.0.1"))), QUEUE, torn=True)


QUEUE = (Queue(ip_address("127.0.0.1").packed, waiting=0, backlog=128, inode=41000),)


def row(entry: Socket) -> list[Row]:
    local, _, remote, _, state = entry
    return [(state, local.packed, remote.packed)]


locals_ = st.sampled_from([ip_address(it) for it in ("127.0.0.1", "10.0.0.5", "::1", "::ffff:127.0.0.1", "fd00::5")])
wild: st.SearchStrategy[Address] = st.sampled_from([IPv4Address(0), IPv6Address(0)])
fours: st.SearchStrategy[Address] = st.sampled_from([IPv4Address(it) for it in range(5)]) | st.ip_addresses(v=4)
sixes: st.SearchStrategy[Address] = st.sampled_from([IPv6Address(it) for it in range(5)]) | st.ip_addresses(v=6)
ports = st.sampled_from([PORT, PORT, PORT, 80]) | st.integers(0, 65535)
states = st.sampled_from([ESTABLISHED, ESTABLISHED, LISTEN, TIME_WAIT]) | st.integers(1, 12)


@st.composite
def drawn(draw: st.DrawFn) -> Socket:
    local = draw(locals_ | wild)
    remote = draw(fours if isinstance(local, IPv4Address) else sixes)
    return local, draw(ports), remote, draw(st.integers(0, 65535)), draw(states)


entries = st.lists(drawn(), max_size=30)
lying = st.builds(
    lambda length, kind, body: struct.pack("=IHHII", length, kind, MULTI, 1, 0) + body,
    st.integers(0, 300) | st.integers(0, 2**32 - 1),
    st.sampled_from([SOCKET, SOCKET, ERROR, DONE, NOOP]) | st.integers(0, 2**16 - 1),
    st.binary(max_size=300),
)
garbage = st.one_of(
    st.binary(max_size=300),
    lying,
    entries.map(lambda them: datagram(*them)),
    st.integers(0, 150).map(lambda end: datagram(connection("10.0.0.1"))[:end]),
    st.sampled_from([told_end(), told_end(errno.ENOENT), told_error(errno.EPERM), told_error(errno.ENOBUFS)]),
)


def plain(address: Address) -> Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


class TestAnyAnswer:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(entries)
    def test_every_connection_of_the_port_is_counted_once(self, sockets_: list[Socket]) -> None:
        # Something listens everywhere, and nothing else on a single address.
        sockets_ = [it for it in sockets_ if it[4] != LISTEN]
        expected = Counter(str(plain(remote)) for _, port, remote, _, state in sockets_ if (port, state) == (PORT, 1))
        assert told(listening("::"), *sockets_, hosts=(IPv6Address("::1"),)) == expected

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(garbage, max_size=4).map(b"".join))
    def test_any_bytes_are_read_without_a_failure(self, content: bytes) -> None:
        found = parse(content, PORT)
        assert sum(found.sockets.values()) * LEAST <= len(content)
        told_by(found)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(entries, st.integers(0, 5000))
    def test_a_torn_answer_has_no_more_than_the_whole_one(self, sockets_: list[Socket], end: int) -> None:
        content = datagram(*sockets_) + told_end()
        part = parse(content[:end], PORT)
        assert Counter(part.sockets) <= Counter(parse(content, PORT).sockets)
        assert (part.end is None) == (end < len(content))

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(entries, st.integers(1, 100))
    def test_what_is_torn_within_a_message_is_torn(self, sockets_: list[Socket], missing: int) -> None:
        content = datagram(*sockets_, connection("10.0.0.1"))[:-missing]
        assert parse(content, PORT).torn

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(garbage, max_size=4), st.lists(garbage, max_size=4))
    def test_whatever_the_kernel_answers_reading_never_raises(self, four: list[bytes], six: list[bytes]) -> None:
        with playing(lambda family: ended(four if family == socket.AF_INET else six)) as kernel:
            found, failed = asyncio.run(reader(kernel).read())
        assert found is None or failed is None

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(garbage.filter(lambda it: parse(it, PORT).end is None), max_size=4))
    def test_an_answer_without_its_end_is_not_known(self, pieces: list[bytes]) -> None:
        with playing(lambda _: ended([datagram(listening("127.0.0.1")), *pieces])) as kernel:
            assert failure(asyncio.run(reader(kernel).read())) is Reason.PROTOCOL


def ended(pieces: list[bytes]) -> list[bytes]:
    """Return pieces of which the last tells whoever reads them that nothing more is to come."""
    parts = [parse(it, PORT) for it in pieces]
    return pieces if any(it.torn or it.end is not None for it in parts) else [*pieces, b""]


Answer = Callable[[int], Iterable[bytes]]


class Kernel:
    """Plays the kernel's socket diagnosis: opens sockets, and answers each question about a family with datagrams."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.opened = 0
        self.failing: OSError | None = None
        self.awake = threading.Event()
        self.awake.set()
        self._answering: list[threading.Thread] = []

    def __call__(self) -> socket.socket:
        self.opened += 1
        self.awake.wait(10)
        if self.failing is not None:
            raise self.failing
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        thread = threading.Thread(target=self._answer_all, args=(its,), daemon=True)
        thread.start()
        self._answering.append(thread)
        return ours

    def tells(self, *entries: Socket, family: socket.AddressFamily = socket.AF_INET) -> None:
        """Answer with these sockets from now on."""
        self.answer = lambda asked: [datagram(*entries), told_end()] if asked == family and entries else [told_end()]

    def close(self) -> None:
        """Wait until whoever asked has closed its sockets: it must leave none open."""
        for thread in self._answering:
            thread.join(10)
            assert not thread.is_alive(), "a socket to the kernel was left open"

    def _answer_all(self, its: socket.socket) -> None:
        with its:
            try:
                while asked := its.recv(PIECE):
                    family = asked[HEADER]
                    assert asked == question(family, PORT)
                    for piece in self.answer(family):
                        its.send(piece)
            except (BrokenPipeError, ConnectionResetError):  # it has heard enough
                pass


@contextmanager
def playing(answer: Answer) -> Iterator[Kernel]:
    kernel = Kernel(answer)
    yield kernel
    kernel.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Return a kernel with a server that has one connection."""
    with playing(lambda _: []) as played:
        played.tells(listening("127.0.0.1"), connection("10.0.0.1"))
        yield played


SEEN: tuple[Mapping[str, int], None] = ({"10.0.0.1": 1}, None)


class Time:
    """Clocks that stand still but where a test moves them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cost = 0.0
        self._spent = 0.0

    def clock(self) -> float:
        return self.now

    def spent(self) -> float:
        """Each call is ``cost`` later: so much has a reading cost, at whose begin and end this is asked."""
        self._spent += self.cost
        return self._spent


def reader(kernel: Kernel, at: Time | None = None, *, deadline: float = 1.0) -> PortPeers:
    if at is None:
        return PortPeers("127.0.0.1", PORT, diagnosis=kernel, deadline=deadline)
    return PortPeers("127.0.0.1", PORT, diagnosis=kernel, clock=at.clock, cost=at.spent, deadline=deadline)


def waiting(kernel: socket.socket) -> socket.socket:
    kernel.setblocking(True)
    return kernel


async def same(read: PortPeers, expected: object) -> bool:
    return await peers_of(read) == expected


async def has_state(port_peers: PortPeers, state: str, sockets_: int) -> bool:
    found, _ = await port_peers.read()
    return found is not None and found.states[state] == sockets_


def failure(told: tuple[object, Failure | None]) -> Reason:
    found, failed = told
    assert found is None
    assert failed is not None
    return failed.reason


@contextmanager
def listener(address: str, family: socket.AddressFamily = socket.AF_INET, port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(family) as server:
        server.bind((address, port))
        server.listen(64)
        yield server


@contextmanager
def connected(server: socket.socket, *clients: str, to: str | None = None) -> Iterator[None]:
    """Hold connections to ``server`` that come from these addresses."""
    host, port = server.getsockname()[:2]
    with ExitStack() as stack:
        for client in clients:
            family = socket.AF_INET6 if ":" in client else socket.AF_INET
            end = stack.enter_context(socket.socket(family))
            end.bind((client, 0))
            end.connect((to or host, port))
            stack.enter_context(server.accept()[0])
        yield


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def has_ipv6() -> bool:
    try:
        with listener("::1", socket.AF_INET6):
            return True
    except OSError:
        return False


def asked(question_: bytes) -> list[bytes]:
    """Return what the kernel of this machine answers."""
    answer: list[bytes] = []
    with waiting(open_diagnosis()) as kernel:
        kernel.send(question_)
        while not answer or parse(answer[-1], 0).end is None:
            answer.append(kernel.recv(PIECE))
    return answer


def size(answer: list[bytes]) -> int:
    return sum(map(len, answer))


@contextmanager
def busy_interpreter(*, turn: float) -> Iterator[None]:
    """Keep a thread that never waits, and gives the interpreter to another after ``turn`` seconds."""
    idle, usual = threading.Event(), sys.getswitchinterval()

    def compute() -> None:
        while not idle.is_set():
            pass

    thread = threading.Thread(target=compute)
    sys.setswitchinterval(turn)
    thread.start()
    try:
        yield
    finally:
        idle.set()
        thread.join()
        sys.setswitchinterval(usual)


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


class TestThisMachine:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_peers_are_told_by_their_addresses(self, host: str) -> None:
        with listener("127.0.0.1") as server, connected(server, "127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.2"):
            assert await peers_of(PortPeers(host, port_of(server))) == ({"127.0.0.2": 3, "127.0.0.3": 1}, None)

    async def test_it_follows_what_comes_and_goes(self) -> None:
        with listener("127.0.0.1") as server:
            reader = PortPeers("127.0.0.1", port_of(server))
            assert await peers_of(reader) == ({}, None)
            with connected(server, "127.0.0.2"):
                assert await peers_of(reader) == ({"127.0.0.2": 1}, None)
            assert await peers_of(reader) == ({}, None)
        assert await peers_of(reader) == (None, None)
        with listener("127.0.0.1") as server, connected(server, "127.0.0.3"):
            reader = PortPeers("127.0.0.1", port_of(server))
            assert await peers_of(reader) == ({"127.0.0.3": 1}, None)

    async def test_what_the_server_does_not_accept_waits(self) -> None:
        with socket.socket() as server, ExitStack() as stack:
            server.bind(("127.0.0.1", 0))
            server.listen(2)
            for _ in range(3):
                stack.enter_context(socket.create_connection(server.getsockname()))
            found, _ = await PortPeers("127.0.0.1", port_of(server)).read()
        assert found is not None
        assert (found.waiting, found.backlog) == (3, 2)  # the kernel lets one more in than it says
        assert (found.peers, found.states["established"]) == ({"127.0.0.1": 3}, 3)

    async def test_what_the_server_holds_though_the_client_has_gone_is_told(self) -> None:
        with listener("127.0.0.1") as server, socket.create_connection(server.getsockname()) as client:
            held, _ = server.accept()
            client.close()
            with held:
                reader = PortPeers("127.0.0.1", port_of(server))
                await wait_until(lambda: has_state(reader, "close_wait", 1), what="the server's end is told")
                assert await peers_of(reader) == ({}, None)

    async def test_the_socket_that_listens_is_told_by_its_number(self) -> None:
        with listener("127.0.0.1") as server:
            reader = PortPeers("127.0.0.1", port_of(server))
            await reader.read()
            assert os.readlink(f"/proc/self/fd/{server.fileno()}") == f"socket:[{reader.inode}]"
        await reader.read()
        assert reader.inode is None

    async def test_a_server_beside_it_on_another_address_is_another_server(self) -> None:
        with (
            listener("127.0.0.1") as one,
            listener("127.0.0.9", port=port_of(one)) as other,
            connected(one, "127.0.0.2"),
            connected(other, "127.0.0.3", "127.0.0.3"),
        ):
            assert await peers_of(PortPeers("127.0.0.1", port_of(one))) == ({"127.0.0.2": 1}, None)
            assert await peers_of(PortPeers("127.0.0.9", port_of(one))) == ({"127.0.0.3": 2}, None)

    async def test_a_server_that_listens_everywhere(self) -> None:
        with listener("0.0.0.0") as server, connected(server, "127.0.0.2", to="127.0.0.7"):
            assert await peers_of(PortPeers("127.0.0.1", port_of(server))) == ({"127.0.0.2": 1}, None)

    @needs_ipv6
    async def test_a_server_that_listens_everywhere_by_ipv6_has_ipv4_peers(self) -> None:
        with (
            listener("::", socket.AF_INET6) as server,
            connected(server, "127.0.0.2", to="127.0.0.1"),
            connected(server, "::1", to="::1"),
        ):
            assert await peers_of(PortPeers("127.0.0.1", port_of(server))) == ({"127.0.0.2": 1, "::1": 1}, None)

    @needs_ipv6
    async def test_a_server_of_ipv6_alone(self) -> None:
        with listener("::1", socket.AF_INET6) as server, connected(server, "::1", "::1"):
            assert await peers_of(PortPeers("::1", port_of(server))) == ({"::1": 2}, None)

    async def test_more_connections_than_the_kernel_tells_in_one_datagram(self) -> None:
        with listener("127.0.0.1") as server, connected(server, *["127.0.0.2"] * 200, *["127.0.0.3"] * 200):
            assert len(asked(question(socket.AF_INET, port_of(server)))) > 2
            assert await peers_of(PortPeers("127.0.0.1", port_of(server))) == (
                {"127.0.0.2": 200, "127.0.0.3": 200},
                None,
            )

    def test_the_kernel_tells_nothing_of_another_ports_sockets(self) -> None:
        with listener("127.0.0.1") as server, listener("127.0.0.1") as other, connected(other, *["127.0.0.2"] * 100):
            assert size(asked(question(socket.AF_INET, port_of(other)))) > 100 * LEAST, "the control: they are there"
            assert size(asked(question(socket.AF_INET, port_of(server)))) < 10 * LEAST

    async def test_thousands_of_closed_connections_do_not_matter(self) -> None:
        with listener("127.0.0.1") as server:
            port = port_of(server)
            for _ in range(2000):
                with socket.create_connection(("127.0.0.1", port)):
                    server.accept()[0].close()  # first: so it is this end that waits
            for_closed = bytearray(question(socket.AF_INET, port))
            struct.pack_into("=I", for_closed, HEADER + 4, 1 << TIME_WAIT)
            assert size(asked(bytes(for_closed))) > 1000 * LEAST, "the control: they are there"
            assert size(asked(question(socket.AF_INET, port))) < 10 * LEAST
            with connected(server, "127.0.0.2"):
                assert await peers_of(PortPeers("127.0.0.1", port)) == ({"127.0.0.2": 1}, None)

    async def test_a_busy_interpreter_holds_it_up_by_a_few_turns_only(self) -> None:
        """Each system call gives up the interpreter, and has it back after a turn of the others."""
        with (
            listener("127.0.0.1") as server,
            connected(server, *["127.0.0.2"] * 400),
            busy_interpreter(turn=0.05),
        ):
            assert await peers_of(PortPeers("127.0.0.1", port_of(server))) == ({"127.0.0.2": 400}, None)

    async def test_it_leaves_no_file_open(self) -> None:
        with listener("127.0.0.1") as server:
            told = PortPeers("127.0.0.1", port_of(server))
            await told.read()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(10):
                await told.read()
            assert len(os.listdir("/proc/self/fd")) == before

    async def test_where_nothing_listens_it_is_not_known(self) -> None:
        assert await peers_of(PortPeers("127.0.0.1", free_port())) == (None, None)

    async def test_of_another_machine_it_is_not_known_though_something_listens_here(self) -> None:
        with listener("0.0.0.0") as server, connected(server, "127.0.0.2", to="127.0.0.1"):
            assert await peers_of(PortPeers("198.51.100.1", port_of(server))) == (None, None)

    def test_loopback_addresses_are_its_own(self) -> None:
        assert [is_own(ip_address(it)) for it in ("127.0.0.1", "127.8.9.10", "::1")] == [True] * 3

    def test_addresses_kept_for_documentation_are_not(self) -> None:
        assert [is_own(ip_address(it)) for it in ("198.51.100.1", "2001:db8::1")] == [False] * 2

    def test_the_address_from_which_it_would_send_is(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("198.51.100.1", 9))
            except OSError:
                pytest.skip("this machine has no network")
            assert is_own(ip_address(probe.getsockname()[0]))


Lookup = Callable[..., Awaitable[list[Any]]]


def resolving(monkeypatch: pytest.MonkeyPatch, lookup: Lookup) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)


class TestNames:
    async def test_a_name_is_looked_up_once_a_minute(self, monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
        found = ["127.0.0.1", "127.0.0.1", "198.51.100.1"]
        asked: list[str] = []

        async def lookup(host: str, *_: object, **__: object) -> list[Any]:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found[len(asked) - 1], 0))]

        resolving(monkeypatch, lookup)
        now = [0.0]
        reader = PortPeers("jobs.example", PORT, diagnosis=kernel, clock=lambda: now[0])
        for at, lookups, known in ((0, 1, True), (RECHECK - 1, 1, True), (RECHECK, 2, True), (2 * RECHECK, 3, False)):
            now[0] = at
            assert await peers_of(reader) == (SEEN if known else (None, None))
            assert asked == ["jobs.example"] * lookups

    async def test_a_name_that_does_not_resolve_is_nobodys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fails(*_: object, **__: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        resolving(monkeypatch, fails)
        assert await peers_of(PortPeers("jobs.example", PORT)) == (None, None)

    async def test_a_name_that_takes_too_long_is_nobodys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def hangs(*_: object, **__: object) -> list[Any]:
            await asyncio.get_running_loop().create_future()
            return []

        resolving(monkeypatch, hangs)
        assert await peers_of(PortPeers("jobs.example", PORT, deadline=0.05)) == (None, None)

    async def test_a_name_that_cannot_be_one_is_nobodys(self) -> None:
        assert await peers_of(PortPeers("x" * 70 + ".example", PORT)) == (None, None)


class TestBounds:
    async def test_each_family_is_asked_for(self, kernel: Kernel) -> None:
        kernel.answer = lambda family: (
            [datagram(listening("0.0.0.0"), connection("10.0.0.1")), told_end()]
            if family == socket.AF_INET
            else [datagram(listening("::"), connection("fd00::7", local="fd00::1")), told_end()]
        )
        assert await peers_of(reader(kernel)) == SEEN
        assert await peers_of(PortPeers("::1", PORT, diagnosis=kernel)) == ({"fd00::7": 1}, None)

    async def test_an_answer_may_come_in_any_number_of_pieces(self, kernel: Kernel) -> None:
        entries = [listening("127.0.0.1"), *[connection(f"10.0.0.{number % 3}") for number in range(300)]]
        kernel.answer = lambda family: [*map(told_socket, entries if family == socket.AF_INET else []), told_end()]
        assert await peers_of(reader(kernel)) == ({f"10.0.0.{number}": 100 for number in range(3)}, None)

    @pytest.mark.parametrize("error", sorted(REFUSALS), ids=errno.errorcode.get)
    async def test_where_the_kernel_lets_nobody_ask_it_is_not_known(self, kernel: Kernel, error: int) -> None:
        port_peers = reader(kernel)
        assert await peers_of(port_peers) == SEEN
        kernel.failing = OSError(error, os.strerror(error))
        assert await peers_of(port_peers) == (None, None)
        assert kernel.opened == 2

    @pytest.mark.parametrize("tell", [told_end, told_error])
    @pytest.mark.parametrize("error", sorted(REFUSALS), ids=errno.errorcode.get)
    async def test_where_the_kernel_refuses_the_question_it_is_not_known(
        self, kernel: Kernel, error: int, tell: Callable[[int], bytes]
    ) -> None:
        port_peers = reader(kernel)
        assert await peers_of(port_peers) == SEEN
        kernel.answer = lambda _: [tell(error)]
        assert await peers_of(port_peers) == (None, None)

    async def test_either_family_is_enough(self, kernel: Kernel) -> None:
        four = [datagram(listening("127.0.0.1"), connection("10.0.0.1")), told_end()]
        kernel.answer = lambda family: four if family == socket.AF_INET else [told_error(errno.ENOENT)]
        assert await peers_of(reader(kernel)) == SEEN
        six = [datagram(listening("::"), connection("::ffff:10.0.0.1", local="::ffff:127.0.0.1")), told_end()]
        kernel.answer = lambda family: six if family == socket.AF_INET6 else [told_error(errno.ENOENT)]
        assert await peers_of(reader(kernel)) == SEEN

    async def test_that_no_file_can_be_opened_is_a_failure_where_the_server_was_seen_here(self, kernel: Kernel) -> None:
        port_peers = reader(kernel)
        assert await peers_of(port_peers) == SEEN
        kernel.failing = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        assert failure(await port_peers.read()) is Reason.UNREACHABLE
        assert failure(await port_peers.read()) is Reason.UNREACHABLE
        kernel.failing = None
        await wait_until(lambda: same(port_peers, SEEN), what="it is known again")
        kernel.failing = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        assert await peers_of(reader(kernel)) == (None, None)

    @pytest.mark.parametrize("tell", [told_end, told_error])
    async def test_an_error_within_the_answer_is_a_failure(self, kernel: Kernel, tell: Callable[[int], bytes]) -> None:
        kernel.answer = lambda _: [datagram(listening("127.0.0.1")), tell(errno.ENOBUFS)]
        assert failure(await reader(kernel).read()) is Reason.UNREACHABLE

    async def test_a_torn_answer_is_a_failure_and_the_kernel_is_asked_again_at_once(self, kernel: Kernel) -> None:
        port_peers = reader(kernel, Time())
        kernel.answer = lambda _: [datagram(listening("127.0.0.1"), connection("10.0.0.1"))[:-5]]
        assert failure(await port_peers.read()) is Reason.PROTOCOL
        kernel.tells(listening("127.0.0.1"), connection("10.0.0.1"))
        assert await peers_of(port_peers) == SEEN

    async def test_after_a_useless_answer_the_kernel_is_left_alone_for_as_long_as_that_was_costly(
        self, kernel: Kernel
    ) -> None:
        at = Time()
        port_peers = reader(kernel, at)
        kernel.answer = lambda _: [datagram(listening("127.0.0.1")), b"?"]
        at.cost = 0.25
        assert failure(await port_peers.read()) is Reason.PROTOCOL
        kernel.tells(listening("127.0.0.1"), connection("10.0.0.1"))
        at.now = REST * 0.25 - 1
        assert failure(await port_peers.read()) is Reason.PROTOCOL
        assert kernel.opened == 1
        at.now = REST * 0.25
        assert await peers_of(port_peers) == SEEN

    async def test_an_answer_that_is_of_use_may_cost_what_it_costs(self, kernel: Kernel) -> None:
        at = Time()
        at.cost = 0.25
        port_peers = reader(kernel, at)
        for _ in range(3):
            assert await peers_of(port_peers) == SEEN
        assert kernel.opened == 3

    async def test_an_answer_that_does_not_end_is_given_up(self, kernel: Kernel) -> None:
        sent = [0]

        def endless(_: int) -> Iterator[bytes]:
            piece = datagram(listening("127.0.0.1"), *[connection("10.0.0.2")] * 200)
            while True:
                sent[0] += len(piece)
                yield piece

        kernel.answer = endless
        assert failure(await reader(kernel, deadline=60).read()) is Reason.PROTOCOL
        kernel.close()
        assert MAX_ANSWER < sent[0] < 1.5 * MAX_ANSWER

    async def test_an_answer_that_is_as_long_as_is_read_is_read(self, kernel: Kernel) -> None:
        entry = told_socket(connection("10.0.0.2"))
        sockets_ = (MAX_ANSWER - len(datagram(listening("127.0.0.1")) + told_end())) // len(entry)
        pieces = [entry * 300] * (sockets_ // 300) + [entry * (sockets_ % 300)]
        whole = [datagram(listening("127.0.0.1")), *pieces, told_end()]
        kernel.answer = lambda family: whole if family == socket.AF_INET else [told_end()]
        assert await peers_of(reader(kernel, deadline=60)) == ({"10.0.0.2": sockets_}, None)

    async def test_an_answer_that_drips_is_given_up_in_time(self, kernel: Kernel) -> None:
        def dripping(_: int) -> Iterator[bytes]:
            yield datagram(listening("127.0.0.1"))
            while True:
                yield message(NOOP)

        kernel.answer = dripping
        # A socket that waits: so there is never nothing there.
        port_peers = PortPeers("127.0.0.1", PORT, diagnosis=lambda: waiting(kernel()), deadline=0.3)
        assert failure(await port_peers.read()) is Reason.TIMEOUT

    async def test_an_answer_that_does_not_come_is_given_up_in_time_and_asked_for_at_once(self, kernel: Kernel) -> None:
        port_peers = reader(kernel, Time(), deadline=0.3)
        kernel.answer = lambda _: [datagram(listening("127.0.0.1"))]
        for opened in (1, 2):
            assert failure(await port_peers.read()) is Reason.TIMEOUT
            assert kernel.opened == opened
        kernel.tells(listening("127.0.0.1"), connection("10.0.0.1"))
        assert await peers_of(port_peers) == SEEN

    async def test_a_useless_answer_in_which_nothing_listens_is_no_failure(self, kernel: Kernel) -> None:
        kernel.answer = lambda _: [datagram(connection("10.0.0.2")), b"?"]
        assert await peers_of(reader(kernel)) == (None, None)

    async def test_a_question_that_hangs_is_waited_for_once_and_by_one_thread_only(self, kernel: Kernel) -> None:
        port_peers = reader(kernel, deadline=0.4)
        assert await peers_of(port_peers) == SEEN
        kernel.awake.clear()
        assert failure(await port_peers.read()) is Reason.TIMEOUT
        before = time.monotonic()
        for _ in range(30):
            assert failure(await port_peers.read()) is Reason.TIMEOUT
        assert time.monotonic() - before < 30 * 0.4 / 2
        assert kernel.opened == 2
        kernel.awake.set()
        await wait_until(lambda: same(port_peers, SEEN), what="it goes on after the hang")

    async def test_after_a_hang_that_was_costly_the_kernel_is_left_alone(self, kernel: Kernel) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        at = Time()
        port_peers = reader(kernel, at, deadline=0.3)
        assert await peers_of(port_peers) == SEEN
        at.cost = 0.25
        kernel.awake.clear()
        assert failure(await port_peers.read()) is Reason.TIMEOUT
        kernel.awake.set()
        await asyncio.to_thread(lambda: None)  # behind the question, for which there is no other thread
        assert failure(await port_peers.read()) is Reason.TIMEOUT
        assert kernel.opened == 2
        at.now = REST * 0.25
        assert await peers_of(port_peers) == SEEN

    async def test_what_is_never_known_to_be_here_does_not_fail_when_it_hangs(self, kernel: Kernel) -> None:
        kernel.awake.clear()
        assert await peers_of(reader(kernel, deadline=0.05)) == (None, None)
        kernel.awake.set()


class TestThePoll:
    async def observe(self, reader: PortPeers, port: int) -> Observation:
        source = FaktorySource(
            Client(Endpoint("127.0.0.1", port), connect_timeout=0.2),
            web_url=f"http://127.0.0.1:{free_port()}",
            sockets=reader,
        )
        try:
            return await source.observe()
        finally:
            await source.close()

    async def test_what_is_known_is_a_part_of_the_poll(self) -> None:
        with listener("127.0.0.1") as server, connected(server, "127.0.0.2"):
            port = port_of(server)
            seen = await self.observe(PortPeers("127.0.0.1", port), port)
        assert seen.sockets is not None
        assert seen.sockets.peers["127.0.0.2"] == 1
        assert [run.failure for run in seen.runs if run.name == "sockets"] == [None]

    async def test_what_cannot_be_known_is_no_part_of_the_poll(self) -> None:
        port = free_port()
        seen = await self.observe(PortPeers("127.0.0.1", port), port)
        assert seen.sockets is None
        assert [run.name for run in seen.runs] == ["health", "connection"]

    async def test_what_is_given_up_is_a_part_that_failed(self, kernel: Kernel) -> None:
        kernel.answer = lambda _: [datagram(listening("127.0.0.1")), b"?"]
        seen = await self.observe(reader(kernel), free_port())
        assert seen.sockets is None
        assert [run.failure.reason for run in seen.runs if run.failure and run.name == "sockets"] == [Reason.PROTOCOL]

    async def test_nobody_waits_for_it(self) -> None:
        others = asyncio.Event()

        class LastOfAll(PortPeers):
            async def read(self) -> tuple[SocketFacts | None, Failure | None]:
                await asyncio.wait_for(others.wait(), 30)
                return SocketFacts({}), None

        class Redis:
            async def read(self, *_: object) -> StoreFacts:
                others.set()
                raise FaktoryError(Reason.UNREACHABLE, "it is away")

            async def close(self) -> None:
                pass

        source = FaktorySource(
            Client(Endpoint("127.0.0.1", free_port()), connect_timeout=0.2),
            web_url=f"http://127.0.0.1:{free_port()}",
            store=cast("Store", Redis()),
            sockets=LastOfAll("127.0.0.1", PORT),
        )
        try:
            seen = await source.observe()
        finally:
            await source.close()
        assert seen.sockets == SocketFacts({})


NOW = 1_700_000_000.0


def labelled(signal: ConnectionsSignal, found: dict[str, int] | None, at: float = 0) -> dict[str, int] | None:
    sockets = None if found is None else SocketFacts(found)
    verdict = signal.advance(Observation(now=NOW + at, reached=True, sockets=sockets))
    return None if verdict.peers is None else dict(verdict.peers)


class TestTheLabels:
    def test_the_largest_are_told_and_the_rest_in_one(self) -> None:
        found = {f"10.0.0.{number}": number for number in range(1, PEERS + 4)}
        told = labelled(ConnectionsSignal(), found)
        assert told == {f"10.0.0.{number}": number for number in range(4, PEERS + 4)} | {OTHER: 1 + 2 + 3}

    def test_of_equals_the_first_by_name_are_told(self) -> None:
        found = dict.fromkeys((f"10.0.0.{number}" for number in range(50, 10, -1)), 1)
        told = labelled(ConnectionsSignal(), found)
        assert told == dict.fromkeys((f"10.0.0.{number}" for number in range(11, 31)), 1) | {OTHER: 20}

    def test_a_peer_that_is_told_stays_unless_another_is_clearly_larger(self) -> None:
        signal = ConnectionsSignal()
        found = {f"10.0.0.{number}": 9 for number in range(PEERS)}
        labelled(signal, found)
        assert labelled(signal, found | {"10.0.9.9": 12}, 5) == found | {OTHER: 12}
        told = labelled(signal, found | {"10.0.9.9": 15}, 10)
        assert told is not None
        assert (told["10.0.9.9"], told[OTHER]) == (15, 9)

    def test_a_peer_that_has_left_is_told_at_0_for_an_hour(self) -> None:
        signal = ConnectionsSignal()
        labelled(signal, {"10.0.0.1": 3})
        assert labelled(signal, {}, IDLE - 1) == {"10.0.0.1": 0}
        assert labelled(signal, {}, IDLE) == {}

    def test_what_is_not_known_is_not_told_and_forgets_nothing(self) -> None:
        signal = ConnectionsSignal()
        labelled(signal, {"10.0.0.1": 3})
        assert labelled(signal, None, 5) is None
        assert labelled(signal, {}, 10) == {"10.0.0.1": 0}

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.dictionaries(st.ip_addresses().map(str), st.integers(1, 2000), max_size=60), max_size=5))
    def test_the_sum_is_that_of_all_connections_and_the_labels_are_bounded(self, polls: list[dict[str, int]]) -> None:
        signal = ConnectionsSignal()
        for number, found in enumerate(polls):
            told = labelled(signal, found, 5.0 * number)
            assert told is not None
            assert sum(told.values()) == sum(found.values())
            assert len(told) <= PEERS + 1
