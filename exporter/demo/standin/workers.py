"""The worker processes that the stand-in knows: in memory only, as in Faktory."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Client(msgspec.Struct):
    """What one connection told of itself in its HELLO. The first of a wid is that worker's record."""

    wid: str
    state: str = ""
    last_beat: float = 0.0
    connections: dict[int, Callable[[], None]] = {}
    """By connection number, what closes it."""

    def signal(self, state: str) -> None:
        """Move on to ``quiet`` or ``terminate``; there is no way back."""
        if self.state == "" or (self.state == "quiet" and state == "terminate"):
            self.state = state


class Workers:
    """The living workers by wid. Instants are of the monotonic clock that is handed in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_wid: dict[str, Client] = {}
        self.reaped = 0

    def __len__(self) -> int:
        return len(self._by_wid)

    def register(self, client: Client, number: int, close: Callable[[], None]) -> None:
        """Add one connection to its worker's record, which it makes where it is the first."""
        if client.wid not in self._by_wid:
            client.last_beat = self._clock()
            self._by_wid[client.wid] = client
        self._by_wid[client.wid].connections[number] = close

    def beat(self, wid: str, state: str) -> Client | None:
        """Note a sign of life; None for a worker that is not known."""
        record = self._by_wid.get(wid)
        if record is not None:
            record.last_beat = self._clock()
            if state:
                record.signal(state if state in {"quiet", "terminate"} else "")
        return record

    def leave(self, client: Client, number: int) -> None:
        """Remove one connection; the record goes with its last one."""
        record = self._by_wid.get(client.wid)
        if record is not None:
            record.connections.pop(number, None)
            if not record.connections:
                del self._by_wid[client.wid]

    def reap(self, expiry: float) -> int:
        """Drop workers that gave no sign of life for ``expiry`` seconds; return how many connections that closed."""
        before = self._clock() - expiry
        gone = [record for record in self._by_wid.values() if record.last_beat < before]
        closed = 0
        for record in gone:
            del self._by_wid[record.wid]
            for close in record.connections.values():
                close()
                closed += 1
        self.reaped += len(gone)
        return closed
