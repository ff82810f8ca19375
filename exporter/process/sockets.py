"""Who is connected to a TCP port of this machine, and who waits: asked of the kernel, not of the server.

So it is told too while the server stands still, refuses everybody, or cannot be asked for any other reason.

The kernel's socket diagnosis (netlink's ``sock_diag``; ``ss`` asks it too) tells the sockets of the network namespace
that the asking process is in. So the answer is known only where the server listens in that namespace too. What listens
there may be a proxy before the server: then those are told that are connected to the proxy. A connection counts from
the moment in which the kernel has made it, also while the server has not accepted it yet.

Not every kernel tells. gVisor has no such diagnosis, a kernel may be built without ``tcp_diag``, a seccomp profile or
systemd's ``RestrictAddressFamilies=`` may forbid to ask. There it is not known who is connected, which is no failure.

The kernel picks out the port's sockets itself, but goes through its table piece by piece while sockets come and go: a
count is exact for what stays open meanwhile. It does not tell whether any came or went (``NLM_F_DUMP_INTR`` is never
set on sockets), and to ask again would make it no exacter.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import msgspec

from exporter.model import Failure, Reason, SocketFacts
from exporter.process.in_thread import HangsError, InThread

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
"""The kernel tells the sockets of one family at a time."""

MAX_ANSWER: Final = 8 * 1024 * 1024
"""Most bytes that are read of the answer about one family: some 65,000 connections to the port."""

PIECE: Final = 64 * 1024
"""Bytes that are received at once. The kernel sends half as many, and other threads stand still while those are looked
through: a fifth of a millisecond."""

DEADLINE: Final = 1.0
"""Seconds for the kernel's answer, and for finding the addresses of a host's name. Each usually takes a millisecond."""

RECHECK: Final = 60.0
"""Seconds after which it is looked up anew whose address the host is."""

REST: Final = 100
"""The kernel is left alone, after an answer that could not be used, for so many times the processor time that it cost:
such answers take a hundredth of one processor at most, and one that was only late is asked for again at once."""

REFUSALS: Final = frozenset(
    {
        errno.EACCES,
        errno.EAFNOSUPPORT,
        errno.EINVAL,
        errno.ENOENT,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
    }
)
"""Errors of a kernel that does not offer the socket diagnosis, or not to this process."""

Address = IPv4Address | IPv6Address

Row = tuple[int, bytes, bytes]
"""State, local address and remote address of a socket."""

# From the kernel's netlink.h, sock_diag.h, inet_diag.h and tcp_states.h. A header is in the machine's byte order; of a
# socket, ports and addresses are in the network's.
_NETLINK_SOCK_DIAG: Final = 4
_ERROR: Final = 2
_DONE: Final = 3
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST_AND_DUMP: Final = 0x1 | 0x300
_ESTABLISHED: Final = 1
_LISTEN: Final = 10
_CONNECTED: Final[Mapping[int, str]] = {
    _ESTABLISHED: "established",
    3: "syn_recv",
    4: "fin_wait1",
    5: "fin_wait2",
    8: "close_wait",
    9: "last_ack",
    11: "closing",
}
"""By the kernel's number, the states that are told. Not asked for is TIME_WAIT, whose sockets may be tens of thousands
and are nobody's any more."""
_ASKED_FOR: Final = sum(1 << state for state in (_LISTEN, *_CONNECTED))
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port of the netlink socket
_QUESTION: Final = struct.Struct("=BBxxI")  # family, protocol, states; the id of a socket follows
_SOCKET_ID: Final = struct.Struct(">H46x")  # local port, then what is not asked for
_SOCKET: Final = struct.Struct(">BBxxHxx16s16s32x")  # family, state, local port, both addresses, what is not needed
_QUEUE: Final = struct.Struct("=56xIIxxxxI")  # of one that listens: how many wait, how many may, and its inode
_ERRNO: Final = struct.Struct("=i")  # how an answer ended, below 0 where it failed
_MAX_ERRNO: Final = 4095
_LEAST: Final = {_SOCK_DIAG_BY_FAMILY: _SOCKET.size, _DONE: _ERRNO.size, _ERROR: _ERRNO.size}  # bytes behind the header
_ALIGNMENT: Final = 4  # of messages
_BYTES: Final[Mapping[int, int]] = {socket.AF_INET: 4, socket.AF_INET6: 16}  # of an address
_ANY4: Final = IPv4Address(0)
_ANY6: Final = IPv6Address(0)


class Queue(msgspec.Struct, frozen=True):
    """A socket that listens, and what waits there to be accepted."""

    local: bytes
    waiting: int
    backlog: int
    inode: int


class Part(msgspec.Struct, frozen=True):
    """What one datagram of an answer tells."""

    sockets: Mapping[Row, int]
    queues: tuple[Queue, ...] = ()
    end: int | None = None
    """0: this completes the answer; else the ``errno`` with which the kernel ended it; ``None``: more is to come."""
    torn: bool = False
    """This is no datagram of an answer, or not all of one."""


def question(family: int, port: int) -> bytes:
    """Return what asks the kernel for the sockets of the local ``port`` that listen or are connected."""
    body = _QUESTION.pack(family, socket.IPPROTO_TCP, _ASKED_FOR) + _SOCKET_ID.pack(port)
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_AND_DUMP, 1, 0) + body


def parse(datagram: bytes, port: int) -> Part:
    """Read one datagram of the kernel's answer about ``port``. Never raises, whatever the bytes are."""
    rows: list[Row] = []
    queues: list[Queue] = []
    start, failed, torn = 0, None, True
    while (body := start + _HEADER.size) <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, start)
        end = start + length
        if not body + _LEAST.get(kind, 0) <= end <= len(datagram):
            break
        if kind == _SOCK_DIAG_BY_FAMILY:
            family, state, local_port, local, remote = _SOCKET.unpack_from(datagram, body)
            size = _BYTES.get(family)
            if size is not None and local_port == port:
                rows.append((state, local[:size], remote[:size]))
                if state == _LISTEN:
                    queues.append(Queue(local[:size], *_QUEUE.unpack_from(datagram, body)))
        elif kind in {_DONE, _ERROR}:
            error = -_ERRNO.unpack_from(datagram, body)[0]
            torn = not 0 <= error <= _MAX_ERRNO
            failed = None if torn else error
            break
        start = end + -end % _ALIGNMENT
        if start >= len(datagram):
            torn = False
            break
    return Part(Counter(rows), tuple(queues), failed, torn)


def facts(rows: Mapping[Row, int], queues: Iterable[Queue], hosts: Iterable[Address]) -> SocketFacts | None:
    """Return what these sockets tell of the server; ``None`` where nothing listens that ``hosts`` lead to.

    ``hosts`` are the addresses of the server, in the order in which they are tried. A connection to another address of
    this machine, on which something else listens on the same port, is not counted.
    """
    queues = tuple(queues)
    ours = server_queues(queues, hosts)
    if not ours:
        return None
    listening, address = {_address(it.local) for it in queues}, _address(ours[0].local)
    ends = {local for local in {it[1] for it in rows} if _listener(_address(local), listening) == address}
    states = dict.fromkeys(_CONNECTED.values(), 0)
    peers: Counter[str] = Counter()
    for (state, local, remote), sockets in rows.items():
        name = _CONNECTED.get(state)
        if name is None or local not in ends:
            continue
        states[name] += sockets
        if state == _ESTABLISHED:
            peers[str(_address(remote))] += sockets
    return SocketFacts(
        peers=dict(peers),
        states=states,
        waiting=sum(it.waiting for it in ours),
        backlog=sum(it.backlog for it in ours),
    )


def server_queues(queues: Iterable[Queue], hosts: Iterable[Address]) -> tuple[Queue, ...]:
    """Return the sockets on which the server listens: usually one; several processes may share an address."""
    by_address: dict[Address, list[Queue]] = {}
    for queue in queues:
        by_address.setdefault(_address(queue.local), []).append(queue)
    ours = next((it for it in (_listener(host, by_address) for host in hosts) if it is not None), None)
    return () if ours is None else tuple(by_address[ours])


def _listener(address: Address, listening: Collection[Address]) -> Address | None:
    """Return on which of the addresses ``listening`` a connection to ``address`` ends, by the kernel's order."""
    candidates = (address, _ANY4, _ANY6) if isinstance(address, IPv4Address) else (address, _ANY6)
    return next((it for it in candidates if it in listening), None)


def _address(packed: bytes) -> Address:
    return _plain(ip_address(packed))


def _plain(address: Address) -> Address:
    """Return an IPv4 address that is written as IPv6 as what it is."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def open_diagnosis() -> socket.socket:
    """Return a socket to the kernel's socket diagnosis that never waits. Raises ``OSError`` where there is none."""
    if sys.platform != "linux":
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)


class PortPeers:
    """The sockets of one TCP port. Not for use by several tasks at once."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        diagnosis: Callable[[], socket.socket] = open_diagnosis,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
        deadline: float = DEADLINE,
    ) -> None:
        """``host`` is a name or an address. ``diagnosis`` opens a socket to the kernel, one that never waits.

        ``clock``, ``cost`` and ``deadline`` are in seconds; ``cost`` tells the processor time of the thread that asks.
        """
        self._host = host
        self._port = port
        self._diagnosis = diagnosis
        self._clock = clock
        self._cost = cost
        self._deadline = deadline
        self.inode: int | None = None
        """Of the socket on which the server listens, as it was told last; ``None``: none does here, or not known."""
        self._checked: float | None = None
        self._addresses: tuple[Address, ...] = ()
        self._asking: InThread[_Look] = InThread(2 * deadline)  # it ends by itself but for a hang
        self._here = False
        self._failure: Failure | None = None
        self._rest_until = 0.0

    async def read(self) -> tuple[SocketFacts | None, Failure | None]:
        """Return what the kernel tells of the port's sockets, and what went wrong if anything did.

        Neither of them where it cannot be known: the host is not this machine, or nothing listens on the port in this
        network namespace, or the kernel does not tell. Never raises, and never takes longer than three deadlines.
        """
        now = self._clock()
        if self._checked is None or now - self._checked >= RECHECK:
            self._checked = now
            self._addresses = await _own_addresses(self._host, self._deadline)
        if not self._addresses:
            self.inode = None
            return None, None
        if self._failure is None or now >= self._rest_until:
            look = await self._look()
            self._failure = look.failure
            self._here = look.facts is not None or (self._here and look.failure is not None)
            if look.failure is None:
                self.inode = look.inode
                return look.facts, None
        return None, self._failure if self._here else None

    async def _look(self) -> _Look:
        """Ask the kernel in a thread."""
        try:
            return await self._asking.run(self._ask)
        except HangsError:
            told = f"the kernel was asked for the sockets of port {self._port}, and the question hangs"
            fix = "is this machine overloaded? It is asked again as soon as that has ended"
            return _Look(Failure(Reason.TIMEOUT, f"{told}: {fix}"))

    def _ask(self) -> _Look:
        """Return what the kernel tells, and note for how long it is to be left alone if that is of no use."""
        before = self._cost()
        rows: Counter[Row] = Counter()
        queues: list[Queue] = []
        failure: Failure | None = None
        try:
            with self._diagnosis() as kernel:
                end = self._clock() + self._deadline
                for family in FAMILIES:
                    for part in self._answer(kernel, family, end):
                        rows.update(part.sockets)
                        queues += part.queues
        except TimeoutError:
            why = f"did not come within {self._deadline:g} s: is this machine overloaded?"
            failure = self._given_up(Reason.TIMEOUT, why)
        except _UnusableError as error:
            failure = self._given_up(Reason.PROTOCOL, str(error))
        except OSError as error:
            if error.errno not in REFUSALS:
                why = f"could not be had ({error.strerror}): has Forewarn, or this machine, no files or memory left?"
                failure = self._given_up(Reason.UNREACHABLE, why)
        ours = server_queues(queues, self._addresses)
        self._rest_until = self._clock() + REST * (self._cost() - before)
        return _Look(failure, facts(rows, queues, self._addresses), ours[0].inode if ours else None)

    def _answer(self, kernel: socket.socket, family: int, end: float) -> Iterator[Part]:
        """Ask for the sockets of one family; return them in pieces. Raises ``OSError`` and ``_UnusableError``."""
        kernel.send(question(family, self._port))
        size = 0
        while True:
            piece = self._receive(kernel, end)
            size += len(piece)
            if size > MAX_ANSWER:
                fix = f"find out with `ss -Htn 'sport = :{self._port}'` who holds so many connections"
                raise _UnusableError(f"is longer than the {MAX_ANSWER} bytes that are read: {fix}")
            part = parse(piece, self._port)
            yield part
            if part.torn:
                raise _UnusableError("is torn: see whether `ss -Htln` works, and report it with `uname -srm`")
            if part.end is not None:
                if part.end and part.end not in REFUSALS:
                    raise OSError(part.end, os.strerror(part.end))
                return
            if self._clock() > end:
                raise TimeoutError

    def _receive(self, kernel: socket.socket, end: float) -> bytes:
        """Return the next datagram. Tries before it waits: each wait gives up the interpreter once more."""
        while True:
            try:
                return kernel.recv(PIECE)
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(kernel, select.POLLIN)
                left = end - self._clock()
                if left <= 0 or not waiting.poll(left * 1000):
                    raise TimeoutError from None

    def _given_up(self, reason: Reason, why: str) -> Failure:
        return Failure(reason, f"the kernel's answer about the sockets of port {self._port} {why}")


class _Look(msgspec.Struct, frozen=True):
    """What was found, where anything listens, and why that is not all of it."""

    failure: Failure | None
    facts: SocketFacts | None = None
    inode: int | None = None


class _UnusableError(Exception):
    """An answer of the kernel that is given up; the text says why."""


async def _own_addresses(host: str, deadline: float) -> tuple[Address, ...]:
    """Return those addresses of ``host`` that are this machine's; none where its name does not resolve in time."""
    try:
        async with asyncio.timeout(deadline):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a TimeoutError is an OSError
        return ()
    addresses = dict.fromkeys(_plain(ip_address(str(it[4][0]).partition("%")[0])) for it in found)
    return tuple(address for address in addresses if is_own(address))


def is_own(address: Address) -> bool:
    """Tell whether an address is this machine's: the kernel would then send from it what is sent to it.

    Nothing is sent. (That one may bind to an address proves nothing: a setting allows it for any.)
    """
    if address.is_loopback:
        return True
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:
        return False
