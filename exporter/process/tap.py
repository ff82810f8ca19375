"""The server's output as ``forewarn exec`` taps it, for whoever reads logs."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Final

from exporter.model import Exited, LogEntry

PIECE: Final = 256 * 1024
"""Bytes that are read at once."""

DECIDED: Final = 1.0
"""Seconds within which it shows why nobody writes to a tap any more: it takes a moment, for both ends at once."""


class Course:
    """How the server fares, as far as it was told. For use by several threads."""

    def __init__(self) -> None:
        self.consumed = threading.Event()
        """Set when all that the server printed has been read and its end has been told, or nobody reads it."""
        self.consumed.set()
        self._lock = threading.Lock()
        self._known = threading.Event()
        self._over = False
        self._exited: Exited | None = None
        self._open = 0

    def taps(self, pipes: Sequence[tuple[str, int]]) -> list[TapFeed]:
        """Return what reads these pipes, by name, and no others any more. The pipes themselves stay open."""
        with self._lock:
            self._open = len(pipes)
            self.consumed.clear()
        return [TapFeed(name, os.dup(pipe), self) for name, pipe in pipes]

    def exited(self, how: Exited) -> None:
        """Take note that the server has ended, before its output does."""
        self._exited = how
        self.over()

    def goes_on(self) -> None:
        """Take note that somebody else writes to the taps from now on."""
        self._known.set()

    def over(self) -> None:
        """Take note that the output is at its end, or about to be."""
        self._over = True
        self._known.set()

    @property
    def ended(self) -> bool:
        """Whether it is known that no output will come any more."""
        return self._over

    def ends_here(self) -> bool:
        """Whether a tap to which nobody can write now is at its end; waits until that is known."""
        self._known.wait(DECIDED)
        return self._over

    def left(self) -> tuple[LogEntry, ...]:
        """Take note that a tap is read to its end; return how the server ended once all are."""
        with self._lock:
            self._open -= 1
            return (self._exited,) if self._open == 0 and self._exited is not None else ()

    def told(self) -> None:
        """Take note that a tap is done with."""
        with self._lock:
            if self._open <= 0:
                self.consumed.set()


class TapFeed:
    """One stream of the server's output; after the last of them it tells how the server ended."""

    def __init__(self, name: str, pipe: int, course: Course) -> None:
        """``pipe`` is this object's to close."""
        self.name: Final = name
        self._pipe = pipe
        self._course = course
        self._entries: tuple[LogEntry, ...] = ()
        self._ended = False
        os.set_blocking(pipe, False)

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._pipe

    def read(self) -> bytes | None:
        """Return what was printed, nothing where there is nothing now, and ``None`` at the end."""
        try:
            chunk = os.read(self._pipe, PIECE)
        except BlockingIOError:
            return b""
        if chunk:
            return chunk
        if not self._course.ends_here():
            return b""
        if not self._ended:
            self._ended = True
            self._entries = self._course.left()
        return None

    def entries(self) -> Sequence[LogEntry]:
        """Return what else there is to tell, once."""
        entries, self._entries = self._entries, ()
        if self._ended:
            self._course.told()
        return entries

    def close(self) -> None:
        """Read no more. Safe to call twice."""
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)
