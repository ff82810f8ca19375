"""What was found in the output and has not been told yet, between the thread that reads and the loop that asks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

import msgspec

from exporter.model import Failure, LogEntry, LogFacts, Noticed, Position

MAX_NOTICED: Final = 16 * 1024
"""Most entries of one line each that wait to be told: some 3,000 a second where it is asked every 5 s."""

MAX_INCIDENTS: Final = 512
"""Most incidents and ends that wait to be told. They have a bound of their own: the crash behind a flood of refusals
is what all this is for."""


class Status(msgspec.Struct, frozen=True):
    """How the reading stands, beside what it found."""

    alive: bool = False
    """Whether there is anything at all that is read."""
    reading: bool = True
    unread_bytes: int | None = None
    failures: tuple[Failure, ...] = ()


class Outbox:
    """Entries, and the positions that belong to exactly these. For use by two threads.

    Where it is full, what reads a file or a journal waits, so that nothing is lost and the positions stay behind. A
    pipe cannot wait, for that would hold up the server: there the newest entries are dropped and counted.
    """

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self._lock = threading.Lock()
        self._noticed = 0
        self._incidents = 0
        self._entries: list[LogEntry] = []
        self._dropped = 0
        self._read_bytes = 0
        self._last_at: float | None = None
        self._saved: tuple[Position, ...] | None = tuple(positions)
        self._positions: dict[object, tuple[Position, ...]] = {}
        self._status = Status()

    @property
    def full(self) -> bool:
        """Whether what can wait should wait."""
        return self._noticed >= MAX_NOTICED or self._incidents >= MAX_INCIDENTS

    def put(
        self,
        owner: object,
        entries: Iterable[LogEntry],
        positions: tuple[Position, ...],
        *,
        size: int = 0,
        at: float | None = None,
        opened: bool = False,
        drop: bool = False,
    ) -> None:
        """Keep what ``size`` bytes told, and up to where its ``owner`` has been read with that.

        ``at`` is when they were read, ``opened`` whether an incident is being read now. With ``drop`` the owner cannot
        wait.
        """
        with self._lock:
            for entry in entries:
                self._keep(entry, drop=drop)
            self._positions[owner] = positions
            self._read_bytes += size
            if at is not None:
                self._last_at = at
            if opened and not self._status.reading:
                self._status = msgspec.structs.replace(self._status, reading=True)

    def forget(self, owner: object) -> None:
        """Drop the positions of what is read no more."""
        with self._lock:
            self._positions.pop(owner, None)

    def note(self, status: Status) -> None:
        """Say how the reading stands."""
        with self._lock:
            self._status = status

    def found(self) -> None:
        """Take note that what the first positions tell of has been found: from now on its readers tell them."""
        with self._lock:
            self._saved = None

    def begin_anew(self) -> Sequence[Position]:
        """Return up to where everything has been read, for new readers to go on there."""
        with self._lock:
            self._saved = self._now()
            self._positions = {}
            return self._saved

    def take(self) -> tuple[LogFacts, Status]:
        """Return what was found since the last time, and how the reading stands."""
        with self._lock:
            facts = LogFacts(
                entries=tuple(self._entries),
                dropped=self._dropped,
                reading=self._status.reading,
                positions=self._now(),
                read_bytes=self._read_bytes,
                unread_bytes=self._status.unread_bytes,
                last_at=self._last_at,
            )
            self._entries, self._noticed, self._incidents = [], 0, 0
            self._dropped = self._read_bytes = 0
            return facts, self._status

    def _now(self) -> tuple[Position, ...]:
        return tuple(chain.from_iterable(self._positions.values())) if self._saved is None else self._saved

    def _keep(self, entry: LogEntry, *, drop: bool) -> None:
        if isinstance(entry, Noticed):
            if drop and self._noticed >= MAX_NOTICED:
                self._dropped += 1
                return
            self._noticed += 1
        else:
            if drop and self._incidents >= MAX_INCIDENTS:
                self._dropped += 1
                return
            self._incidents += 1
        self._entries.append(entry)
