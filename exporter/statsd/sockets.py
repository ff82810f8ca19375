"""The sockets that StatsD packets come in by. The sidecar opens them, so that they outlive a process that reads them.

While nobody reads, packets wait in the sockets' buffers; what finds a buffer full is lost, and the kernel counts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exporter.web.address import Address, why

FLAG: Final = "--statsd.listen (statsd_listen)"
UNIX_FLAG: Final = "--statsd.listen-unix (statsd_listen_unix)"

RECEIVE_BUFFER: Final = 8 * 1024 * 1024
"""Bytes asked for: some 10,000 small packets. The kernel counts several hundred bytes for each beside its own."""

BACKLOG: Final = 128
"""TCP connections that wait to be accepted."""

RESOLVE_DEADLINE: Final = 1.0
"""Seconds for finding the address of a host's name."""

PORT_TRIES: Final = 20
"""How often another port is tried where any will do, and one is free for UDP but not for TCP."""

UNIX_MODE: Final = 0o777
"""The server may run as another user. Who must not send has no way into the folder."""

# From the kernel's socket.h and sock_diag.h, in which Python names neither.
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=32xI")  # nine numbers, the last of which is how many packets were dropped

logger = logging.getLogger("forewarn.statsd")


class ListenError(Exception):
    """An address cannot be listened on; the text says which, why, and what to do."""


class StatsdSockets:
    """Open sockets, none of which ever blocks. At least one is set."""

    def __init__(
        self, udp: socket.socket | None, tcp: socket.socket | None, unix: socket.socket | None, path: Path | None
    ) -> None:
        self.udp = udp
        self.tcp = tcp
        self.unix = unix
        self._path = path
        self._file = None if path is None else _identity(path)
        self._drops = [0 for it in (udp, unix) if it is not None]

    @property
    def port(self) -> int | None:
        """The port of UDP and TCP."""
        return None if self.udp is None else int(self.udp.getsockname()[1])

    def descriptors(self) -> tuple[int, ...]:
        """Return those of all sockets."""
        return tuple(it.fileno() for it in (self.udp, self.tcp, self.unix) if it is not None)

    def lost(self) -> int | None:
        """Return how many datagrams were lost since the last time, or since the sockets were opened; ``None``: unknown.

        It is what ``/proc/net/udp`` tells in its last column. On a unix socket nothing is lost: its senders wait.
        """
        now = [_drops(it) for it in (self.udp, self.unix) if it is not None]
        known = [it for it in now if it is not None]
        if len(known) < len(now):
            return None
        before, self._drops = self._drops, known
        return risen(before, known)

    def close(self) -> None:
        """Close all, and remove the unix socket's file if it still is the one that was made. Safe to call twice."""
        for it in (self.udp, self.tcp, self.unix):
            if it is not None:
                it.close()
        path, self._path = self._path, None
        if path is not None and _identity(path) == self._file:
            with contextlib.suppress(OSError):
                path.unlink()


def risen(before: Sequence[int], now: Sequence[int]) -> int:
    """Return by how much counters rose that begin again at 2^32."""
    return sum((after - earlier) % 2**32 for earlier, after in zip(before, now, strict=True))


async def open_sockets(address: Address | None, unix: Path | None) -> StatsdSockets:
    """Return sockets for UDP and TCP on one port, and for datagrams on a path. Raises :class:`ListenError`.

    A host's name that has an IPv4 address means that one, as it does to most that send StatsD. No host means every
    address of the machine, IPv4 and IPv6.
    """
    udp, tcp = (None, None) if address is None else await _open_port(address)
    try:
        datagrams = None if unix is None else _open_unix(unix)
    except ListenError:
        for it in (udp, tcp):
            if it is not None:
                it.close()
        raise
    _tell(address, unix, udp)
    return StatsdSockets(udp, tcp, datagrams, unix)


def _tell(address: Address | None, unix: Path | None, udp: socket.socket | None) -> None:
    fields: dict[str, object] = {}
    if unix is not None:
        fields["path"] = unix
    if udp is not None:
        # The kernel doubles what it is asked for, to have room for its own.
        size = udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        fields |= {"address": address, "port": udp.getsockname()[1], "receive_buffer_bytes": size}
        if size < RECEIVE_BUFFER:
            fields["fix"] = f"for larger bursts of UDP let it be more: sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
    logger.info("listening for StatsD", extra={"fields": fields})


async def _open_port(address: Address) -> tuple[socket.socket, socket.socket]:
    family, place = await _resolve(address)
    for remaining in reversed(range(PORT_TRIES)):
        udp = _bound(address, family, socket.SOCK_DGRAM, place)
        try:
            chosen = (place[0], udp.getsockname()[1], *place[2:])
            tcp = _bound(address, family, socket.SOCK_STREAM, chosen)
        except ListenError as error:
            udp.close()
            taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if address.port or not taken or not remaining:
                raise
        else:
            return udp, tcp
    raise AssertionError  # not reached: the last try raises


async def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str | int, ...]]:
    if address.host is None:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", address.port)
        return socket.AF_INET, ("0.0.0.0", address.port)  # noqa: S104 - every address was asked for
    try:
        async with asyncio.timeout(RESOLVE_DEADLINE):
            found = await asyncio.get_running_loop().getaddrinfo(
                address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
            )
    except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
        unknown = f"the host name is not known: write an address that this machine has with {FLAG}"
        raise ListenError(f"cannot listen for StatsD on {address}: {unknown}") from error
    family, _, _, _, place = min(found, key=lambda it: it[0] != socket.AF_INET)
    return family, tuple(it for it in place if isinstance(it, (str, int)))


def _bound(
    address: Address, family: socket.AddressFamily, kind: socket.SocketKind, place: tuple[str | int, ...]
) -> socket.socket:
    """Return a socket of one kind; of TCP it listens. Raises :class:`ListenError` because of an ``OSError``."""
    made = None
    try:
        made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host is not None))
        if kind == socket.SOCK_STREAM:
            # To listen again at once after a restart. On UDP it would let two programs share the port.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            _enlarge(made)
        made.bind(place)
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError as error:
        if made is not None:
            made.close()
        where = f"{Address(address.host, int(place[1]))} by {'TCP' if kind == socket.SOCK_STREAM else 'UDP'}"
        raise ListenError(f"cannot listen for StatsD on {where}: {why(error, FLAG, every='none')}") from error
    return made


def _enlarge(udp: socket.socket) -> None:
    """Make the buffer as large as the kernel lets: beyond its limit only with the right to administer networks."""
    for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
            return


def _open_unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        try:
            made.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            made.bind(str(path))
        path.chmod(UNIX_MODE)
    except OSError as error:
        made.close()
        raise ListenError(f"cannot listen for StatsD on {path}: {_why_unix(path, error)}") from error
    except ListenError:
        made.close()
        raise
    return made


def _remove_stale(path: Path) -> None:
    """Remove a socket's file that nobody listens on any more; raise :class:`ListenError` for what is not that."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            taken = f"something that is no socket has that name: remove it, or choose another path with {UNIX_FLAG}"
            raise ListenError(f"cannot listen for StatsD on {path}: {taken}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:  # of a stream: it is listened on
                    raise
        taken = f"another program listens there: stop it, or choose another path with {UNIX_FLAG}"
        raise ListenError(f"cannot listen for StatsD on {path}: {taken}")


def _why_unix(path: Path, error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"Forewarn may not make a file in {path.parent}: let it, or choose another path with {UNIX_FLAG}"
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return f"there is no folder {path.parent}: make it, or choose another path with {UNIX_FLAG}"
    return f"{error.strerror or error}: choose another path with {UNIX_FLAG}"  # too long: at most 107 bytes


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that has come to stand in its place."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _drops(it: socket.socket) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        told = it.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:  # a kernel older than 4.12, or one that only looks like Linux
        return None
    return int(_MEMINFO.unpack(told)[0]) if len(told) == _MEMINFO.size else None
