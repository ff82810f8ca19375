"""The socket through which packets of StatsD leave, and what the network says of those that did not arrive."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from exporter.outputs.statsd import UDP_PACKET, UNIX_PACKET
from exporter.outputs.statsd_names import NetAddress

# From linux/in.h, in6.h and errqueue.h: Python's own socket module does not have them yet.
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_ICMP_ORIGINS: Final = frozenset({2, 3})
_EXTENDED_ERROR: Final = struct.Struct("=IB")
_QUOTED: Final = 2048
_MOST_REFUSALS: Final = 1000

SocketAddress = NetAddress | Path
"""An address of the network, or the path of a unix socket."""


class Refusal(msgspec.Struct, frozen=True):
    """Says that a packet was not delivered."""

    error: int
    """As in :mod:`errno`."""
    quoted: bytes
    """How the packet began, as much as its refuser tells of it: from a machine with Linux some 500 bytes at least."""


class StatsdSocket:
    """Sends datagrams to one address. Never blocks."""

    def __init__(self, address: SocketAddress) -> None:
        """Open it.

        Raises:
            OSError: Nothing can be sent there now.
        """
        unix = isinstance(address, Path)
        family, target = (socket.AF_UNIX, str(address)) if isinstance(address, Path) else address
        self.limit = UNIX_PACKET if unix else UDP_PACKET
        """Most bytes of a packet."""
        self.tells = unix
        """Whether a packet that was sent has arrived. By UDP that only shows when it was not."""
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            if not unix:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
                if family == socket.AF_INET6:
                    self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            self._socket.connect(target)
        except BaseException:
            self._socket.close()
            raise

    def send(self, packet: bytes) -> bool:
        """Send one packet. Returns whether there was room for it.

        Raises:
            OSError: It was not sent.
        """
        try:
            self._socket.send(packet)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return False
            raise
        return True

    def refusals(self) -> Iterator[Refusal]:
        """Yield what came in since the last time."""
        if self.tells:
            return
        for _ in range(_MOST_REFUSALS):
            try:
                quoted, extra, _, _ = self._socket.recvmsg(_QUOTED, 512, socket.MSG_ERRQUEUE)
            except OSError:  # there is none
                return
            for level, kind, data in extra:
                if (level, kind) in {(socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}:
                    error, origin = _EXTENDED_ERROR.unpack_from(data)
                    if origin in _ICMP_ORIGINS:
                        yield Refusal(error, quoted)

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()
