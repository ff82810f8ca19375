"""Passes packets on to another StatsD server, unchanged, so that Forewarn can be put between."""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from exporter.model import StatsdDrop

MAX_WAITING: Final = 4 * 1024 * 1024
"""Most bytes that wait for a server that is slow to read: as much as a large receive buffer."""

OVERHEAD: Final = 64
"""Bytes that a waiting packet takes beside its own."""

AGAIN: Final = 1.0
"""Seconds before a unix socket that does not answer is tried again."""

UDP_PACKET: Final = 1432
"""Most bytes of a packet that is made here: what one frame of Ethernet carries, as DogStatsD's clients reckon it."""

UNIX_PACKET: Final = 8192
"""Likewise where no network is between."""


class Relay:
    """Sends packets to one address. Never blocks: what cannot be sent now waits, and what cannot wait is counted."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is in seconds."""
        self._clock = clock
        self._target: tuple[str, int] | str | None = None
        self._socket: socket.socket | None = None
        self._again = 0.0
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._unsure = 0  # 1 while it is not known what became of the packet that was sent last by UDP
        self._relayed = 0
        self._dropped: dict[StatsdDrop, int] = {}

    @property
    def active(self) -> bool:
        """Whether packets are to be passed on."""
        return self._target is not None

    @property
    def limit(self) -> int:
        """Most bytes of a packet that is made of lines: one that was received as a packet may be longer."""
        return UNIX_PACKET if isinstance(self._target, str) else UDP_PACKET

    @property
    def stuck(self) -> socket.socket | None:
        """What must become writable before anything that waits can be sent; ``None``: nothing waits."""
        return self._socket if self._waiting else None

    def aim(self, target: tuple[str, int] | str | None) -> None:
        """Pass packets on to a numeric address and port, to a unix datagram socket by its path, or to nobody."""
        if target == self._target:
            return
        self._hang_up()
        self._drop(len(self._waiting))
        self._waiting.clear()
        self._held = 0
        self._target = target
        self._again = 0.0

    def send(self, packet: bytes | memoryview) -> None:
        """Pass one packet on, behind those that wait."""
        if not self._waiting and self._try(packet):
            return
        size = len(packet) + OVERHEAD
        if self._held + size > MAX_WAITING:
            self._drop(1, StatsdDrop.QUEUE)
        else:
            self._held += size
            self._waiting.append(bytes(packet))

    def flush(self) -> None:
        """Send of what waits as much as is taken now."""
        while self._waiting and self._try(self._waiting[0]):
            self._held -= len(self._waiting.popleft()) + OVERHEAD

    def take(self) -> tuple[int, dict[StatsdDrop, int]]:
        """Return how many packets were passed on and how many were lost since the last time.

        By UDP a loss is known only where the other machine says that nobody listens.
        """
        self._settle()
        taken = self._relayed, self._dropped
        self._relayed, self._dropped = 0, {}
        return taken

    def _try(self, packet: bytes | memoryview) -> bool:
        """Send a packet, or count it as lost; tell whether it was either: if not, it may be taken later."""
        is_unix = isinstance(self._target, str)
        for _ in range(2):
            connected = self._socket or self._connect()
            if connected is None:
                break
            try:
                connected.send(packet)
            except BlockingIOError:
                return False
            except ConnectionRefusedError:
                if is_unix:
                    self._hang_up()  # the server has gone: another may have taken its path
                else:
                    self._drop(self._unsure)  # the answer to the packet before: this one was not sent
                    self._unsure = 0
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    self._hang_up()
                    self._again = self._clock() + AGAIN
                break
            else:
                self._relayed += 1 if is_unix else self._unsure
                self._unsure = 0 if is_unix else 1
                return True
        self._drop(1)
        return True

    def _connect(self) -> socket.socket | None:
        target = self._target
        if target is None or self._clock() < self._again:
            return None
        family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        made = None
        try:
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.setblocking(False)
            made.connect(target)
        except OSError:
            if made is not None:
                made.close()
            self._again = self._clock() + AGAIN
            return None
        self._socket = made
        return made

    def _hang_up(self) -> None:
        self._settle()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _settle(self) -> None:
        """Learn what became of the packet that was sent last."""
        if self._unsure and self._socket is not None:
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(self._unsure)
            else:
                self._relayed += self._unsure
        self._unsure = 0

    def _drop(self, packets: int, where: StatsdDrop = StatsdDrop.RELAY) -> None:
        if packets:
            self._dropped[where] = self._dropped.get(where, 0) + packets
