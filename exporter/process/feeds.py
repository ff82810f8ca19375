"""Output that is no file: it comes when it is printed, and who prints waits where it is not read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence
from typing import Final, Protocol

from exporter.model import LogEntry
from exporter.process.logfile import Key

PIECE: Final = 256 * 1024
"""Bytes that are read at once."""

PIPE: Final = 1024 * 1024
"""Bytes that a pipe is made to hold: who prints does not wait while others are read."""


class Feed(Protocol):
    """Something live that prints. Used by one thread."""

    @property
    def name(self) -> str:
        """Return what it is, for a person."""

    def fileno(self) -> int:
        """Return what is waited for."""

    def read(self) -> bytes | None:
        """Return what has come, nothing where there is nothing now; ``None``: it has ended. Raises ``OSError``.

        Never waits, for it is called only where there is something.
        """

    def entries(self) -> Sequence[LogEntry]:
        """Return what else it tells, behind what was read last."""

    def close(self) -> None:
        """Give up what it holds. Safe to call twice."""


class NamedPipe:
    """A named pipe. It outlives those who write to it: a server that starts anew opens the same one."""

    def __init__(self, path: str) -> None:
        """Open it. Never waits for a writer. Raises ``OSError``."""
        self.name = path
        self._descriptor = _opened(path)
        found = os.fstat(self._descriptor)
        self.key: Key = (found.st_dev, found.st_ino)
        """What tells it from another that takes its place."""
        if not stat.S_ISFIFO(found.st_mode):
            self.close()
            raise OSError(0, "it is no named pipe any more")
        widen(self._descriptor)

    def fileno(self) -> int:
        """Return what is waited for."""
        return self._descriptor

    def read(self) -> bytes:
        """Return what has come. It never ends. Raises ``OSError``."""
        try:
            return os.read(self._descriptor, PIECE)
        except BlockingIOError:
            return b""

    def entries(self) -> Sequence[LogEntry]:
        """Return nothing."""
        return ()

    def close(self) -> None:
        """Close it. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class StandardInput:
    """Standard input, whatever that is. It is not made one that never waits, for others may share it."""

    def __init__(self, descriptor: int = 0) -> None:
        """Raise ``OSError`` where there is none."""
        self.name = "standard input"
        self._descriptor = os.dup(descriptor)
        widen(self._descriptor)

    def fileno(self) -> int:
        """Return what is waited for."""
        return self._descriptor

    def read(self) -> bytes | None:
        """Return what has come; ``None`` at the end. Raises ``OSError``."""
        return os.read(self._descriptor, PIECE) or None

    def entries(self) -> Sequence[LogEntry]:
        """Return nothing."""
        return ()

    def close(self) -> None:
        """Close this object's own descriptor of it. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _opened(path: str) -> int:
    flags = os.O_NONBLOCK | os.O_CLOEXEC
    try:
        # As one who writes too, so that it does not come to its end whenever the last writer goes.
        return os.open(path, os.O_RDWR | flags)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)


def widen(descriptor: int) -> None:
    """Let a pipe hold more, where that may be."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE)
