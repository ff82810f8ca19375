"""Who is connected to a TCP port of this machine: read from the kernel's tables of sockets, not asked of the server.

``/proc/net/tcp`` and ``/proc/net/tcp6`` hold the sockets of the network namespace that the reading process is in. So
the answer is known only where the server listens in that namespace too. What listens there may be a proxy before the
server: then those are told that are connected to the proxy.

The kernel hands a table out page by page while sockets come and go: a count is exact for what stays open meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

import msgspec

from exporter.model import Failure, Reason

TABLES: Final = ("tcp", "tcp6")

MAX_TABLE: Final = 8 * 1024 * 1024
"""Most bytes that are read of one table: some 55,000 sockets, for which the kernel takes 0.1 s."""

PIECE: Final = 64 * 1024
"""Bytes that are looked through at once: other threads stand still for that time, a third of a millisecond."""

DEADLINE: Final = 1.0
"""Seconds for reading the tables, and for finding the addresses of a host's name. Usually it takes milliseconds."""

RECHECK: Final = 60.0
"""Seconds after which it is looked up anew whose address the host is, and which of the tables the port is in."""

REST: Final = 60.0
"""Seconds for which the tables are left alone after one was too long, or took too long."""

Address = IPv4Address | IPv6Address

Row = tuple[bytes, bytes, bytes]
"""Local address, remote address and state of a socket, as the kernel writes them."""

_ESTABLISHED: Final = b"01"
_LISTEN: Final = b"0A"
_ANY4: Final = IPv4Address(0)
_ANY6: Final = IPv6Address(0)


def tally(pieces: Iterable[bytes], port: int) -> Counter[Row]:
    """Count the sockets of the local ``port`` that listen or are connected.

    ``pieces`` are the content of a table, cut anywhere. What is not a whole row of such a socket is passed over.
    """
    address = rb"([0-9A-F]{8}|[0-9A-F]{32})"
    rows = re.compile(rb"^ *\d+: %b:%04X %b:[0-9A-F]{4} (01|0A) " % (address, port, address), re.MULTILINE)
    found: Counter[Row] = Counter()
    rest = b""
    for piece in pieces:
        whole, _, rest = (rest + piece).rpartition(b"\n")
        found.update(rows.findall(whole))
    return found


def peers(rows: Mapping[Row, int], hosts: Iterable[Address]) -> dict[str, int] | None:
    """Return how many connections come from each address; ``None`` where nothing listens that ``hosts`` lead to.

    ``hosts`` are the addresses of the server, in the order in which they are tried. A connection to another address of
    this machine, on which something else listens on the same port, is not counted.
    """
    listening = {_address(local) for local, _, state in rows if state == _LISTEN}
    ours = next((it for it in (_listener(host, listening) for host in hosts) if it is not None), None)
    if ours is None:
        return None
    found: Counter[str] = Counter()
    for (local, remote, state), sockets in rows.items():
        if state == _ESTABLISHED and _listener(_address(local), listening) == ours:
            found[str(_address(remote))] += sockets
    return dict(found)


def _listener(address: Address, listening: Collection[Address]) -> Address | None:
    """Return on which of the addresses ``listening`` a connection to ``address`` ends, by the kernel's order."""
    candidates = (address, _ANY4, _ANY6) if isinstance(address, IPv4Address) else (address, _ANY6)
    return next((it for it in candidates if it in listening), None)


def _address(text: bytes) -> Address:
    """Read an address: words of four bytes, each written as a number of this machine's byte order."""
    words = (int(text[start : start + 8], 16) for start in range(0, len(text), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return IPv4Address(packed) if len(packed) == 4 else _plain(IPv6Address(packed))


def _plain(address: Address) -> Address:
    """Return an IPv4 address that is written as IPv6 as what it is."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


class PortPeers:
    """The peers of one TCP port. Not for use by several tasks at once."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        folder: Path = Path("/proc/net"),
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        """``host`` is a name or an address. ``folder`` holds the tables; ``clock`` and ``deadline`` are in seconds."""
        self._host = host
        self._port = port
        self._folder = folder
        self._clock = clock
        self._deadline = deadline
        self._checked: float | None = None
        self._addresses: tuple[Address, ...] = ()
        self._tables: tuple[str, ...] = TABLES
        self._reading: asyncio.Future[_Look] | None = None
        self._here = False
        self._failure: Failure | None = None
        self._rest_until = 0.0

    async def read(self) -> tuple[Mapping[str, int] | None, Failure | None]:
        """Return how many connections the port has from each address, and what went wrong if anything did.

        Neither of them where it cannot be known: the host is not this machine, or nothing listens on the port in this
        network namespace, or there are no such tables. Never raises, and never takes longer than three deadlines.
        """
        now = self._clock()
        if self._checked is None or now - self._checked >= RECHECK:
            self._checked, self._tables = now, TABLES
            self._addresses = await _own_addresses(self._host, self._deadline)
        if not self._addresses:
            return None, None
        if self._failure is not None and now < self._rest_until:
            return None, self._failure
        look = await self._look()
        if look is None:
            told = f"reading {self._folder} took longer than {2 * self._deadline:g} s: is this machine overloaded?"
            if self._here:
                self._failure = Failure(Reason.TIMEOUT, f"{told} Next try in {REST:g} s")
                self._rest_until = self._clock() + REST
            return None, self._failure
        self._here = look.peers is not None
        self._tables = look.tables if self._here else TABLES
        self._failure = look.failure if self._here else None
        if self._failure is not None:
            self._rest_until = self._clock() + REST
            return None, self._failure
        return look.peers, None

    async def _look(self) -> _Look | None:
        """Look into the tables in a thread; ``None`` when it takes too long. One that hangs is not joined by others."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().run_in_executor(None, self._read_tables)
        done, _ = await asyncio.wait({self._reading}, timeout=2 * self._deadline)  # it ends by itself but for a hang
        return self._reading.result() if done else None

    def _read_tables(self) -> _Look:
        rows: Counter[Row] = Counter()
        tables: list[str] = []
        failure: Failure | None = None
        end = self._clock() + self._deadline
        for name in self._tables:
            table = _Table(self._folder / name, self._clock, end)
            found = tally(table, self._port)
            if found:
                tables.append(name)
            rows.update(found)
            failure = failure or table.failure
        return _Look(peers(rows, self._addresses), tuple(tables), failure)


class _Look(msgspec.Struct, frozen=True):
    """What was found: the peers where anything listens, the tables that the port is in, and what was not read."""

    peers: Mapping[str, int] | None
    tables: tuple[str, ...]
    failure: Failure | None


class _Table:
    """A table's content in pieces, as far as the bounds allow; afterwards ``failure`` tells whether that was all."""

    def __init__(self, path: Path, clock: Callable[[], float], end: float) -> None:
        self.failure: Failure | None = None
        self._path = path
        self._clock = clock
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        try:
            with self._path.open("rb") as file:
                while piece := file.read(PIECE):
                    size += len(piece)
                    if size > MAX_TABLE:
                        why = f"is longer than the {MAX_TABLE} bytes that are read; next try in {REST:g} s"
                        self.failure = self._given_up(Reason.PROTOCOL, why)
                        return
                    yield piece
                    time.sleep(0)  # lets the event loop have the interpreter
                    if self._clock() > self._end:
                        self.failure = self._given_up(
                            Reason.TIMEOUT, f"could not be read in time; next try in {REST:g} s"
                        )
                        return
        except OSError:  # IPv6 is switched off, or this is not Linux, or it is hidden: not known, which is no failure
            return

    def _given_up(self, reason: Reason, why: str) -> Failure:
        fix = "see with `ss -s` whether there are far more sockets than usual on this machine"
        return Failure(reason, f"{self._path} {why}: {fix}")


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
