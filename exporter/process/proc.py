"""What the kernel tells of a server's process: its open files and their limit, its memory, when it started.

The process is the one of the server's name that holds the socket on which the server listens; what else holds it is a
proxy before the server. Where its files may not be looked at, for it is another user's, it is the one whose process id
the server's log told. Where the log does not tell either, nothing is known of it, which is no failure. Nothing here
asks the server anything.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from exporter.model import Failure, ProcessFacts, Reason
from exporter.process.in_thread import HangsError, InThread

DEADLINE: Final = 1.0
"""Seconds for all that is read. It usually takes less than a millisecond, and looking for the process a few."""

RECHECK: Final = 60.0
"""Seconds for which nobody looks again for a process that was not found."""

MAX_LINKS: Final = 200_000
"""Most open files that are looked at to find the process that holds the socket."""

MAX_TEXT: Final = 16 * 1024
"""Most bytes that are read of a file."""

_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR})
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM})

# From proc(5): fields of /proc/PID/stat, of which the third is the first behind the program's name; and so on.
_STARTED: Final = 22 - 3
_RESIDENT: Final = 24 - 3
_MAX_FDS: Final = "Max open files"


class Stat(msgspec.Struct, frozen=True):
    """What one process's ``stat`` tells."""

    name: str
    ended: bool
    """Whether it only waits for its parent to learn of its end."""
    ticks: int
    """When it started, since the machine did: with the process id it tells one process from all others."""
    resident_pages: int


def parse_stat(text: str) -> Stat | None:
    """Read a process's ``stat``; ``None`` for what is none."""
    head, _, tail = text.rpartition(")")  # the name may hold anything
    fields = tail.split()
    try:
        name, ended = head.partition("(")[2], fields[0] in "ZX"
        return Stat(name, ended, int(fields[_STARTED]), int(fields[_RESIDENT]))
    except (IndexError, ValueError):
        return None


def parse_max_fds(limits: str) -> int | None:
    """Return how many files a process may open, by its ``limits``; ``None`` where that has no end, or is not told."""
    line = next((it for it in limits.splitlines() if it.startswith(_MAX_FDS)), "")
    soft = line.removeprefix(_MAX_FDS).split()[:1]
    return int(soft[0]) if soft and soft[0].isdecimal() else None


class ServerProcess:
    """The process of one server of this machine. Not for use by several tasks at once."""

    def __init__(
        self,
        command: str,
        *,
        root: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        """``command`` is what the name of the server's program begins with.

        ``root`` is where the kernel tells of processes. ``clock`` and ``deadline`` are in seconds.
        """
        self._command = command
        self._root = root
        self._clock = clock
        self._deadline = deadline
        self._asking: InThread[ProcessFacts | None] = InThread(deadline)
        self._sought: tuple[int | None, int | None] = None, None
        self._sought_at = 0.0
        self._found: tuple[int, int, float] | None = None

    async def read(self, inode: int | None, told: int | None) -> tuple[ProcessFacts | None, Failure | None]:
        """Return what is known of the process, and what went wrong if anything did. Never raises.

        ``inode`` is that of the socket on which the server listens, ``told`` the process id that it told of itself;
        either may be unknown. Neither facts nor a failure where the process cannot be seen from here.
        """
        if inode is None and told is None:
            return None, None
        try:
            return await self._asking.run(lambda: self._read(inode, told)), None
        except HangsError:
            why = f"it did not come within {self._deadline:g} s: is this machine overloaded?"
            return None, Failure(Reason.TIMEOUT, f"what the kernel tells of the server's process: {why}")
        except OSError as error:
            why = f"{error.strerror}: has Forewarn, or this machine, no files or memory left?"
            return None, Failure(Reason.UNREACHABLE, f"what the kernel tells of the server's process: {why}")

    def _read(self, inode: int | None, told: int | None) -> ProcessFacts | None:
        sought = inode, told
        if sought != self._sought:
            self._found = None
        elif self._found is None and self._clock() - self._sought_at < RECHECK:
            return None
        facts = None if self._found is None else self._facts(self._found[0])
        if facts is None:  # not looked for yet; or it has ended, and its id may be another's by now
            self._sought, self._sought_at, self._found = sought, self._clock(), None
            pid = self._find(inode, told)
            facts = None if pid is None else self._facts(pid)
        return facts

    def _facts(self, pid: int) -> ProcessFacts | None:
        """Return what is told of a process; ``None`` where it has ended, or is not the one that was found."""
        stat = self._stat(pid)
        if stat is None or stat.ended:
            return None
        if self._found is None:
            # Kept, for the clock of this machine may be set while the process runs.
            self._found = pid, stat.ticks, _boot_time() + stat.ticks / os.sysconf("SC_CLK_TCK")
        _, ticks, started_at = self._found
        if ticks != stat.ticks:
            return None
        return ProcessFacts(
            pid=pid,
            started_at=round(started_at, 2),
            open_fds=self._open_fds(pid),
            max_fds=parse_max_fds(self._text(pid, "limits") or ""),
            resident_bytes=stat.resident_pages * os.sysconf("SC_PAGE_SIZE"),
        )

    def _find(self, inode: int | None, told: int | None) -> int | None:
        looked_at = itertools.count()
        if told is not None and self._is_named(told):
            holds = None if inode is None else self._holds(told, inode, looked_at)
            if holds is not False:
                return told
        if inode is None:
            return None
        with os.scandir(self._root) as entries:
            pids = sorted(int(it.name) for it in entries if it.name.isdecimal())
        return next((pid for pid in pids if self._is_named(pid) and self._holds(pid, inode, looked_at)), None)

    def _is_named(self, pid: int) -> bool:
        stat = self._stat(pid)
        return stat is not None and stat.name.startswith(self._command)

    def _holds(self, pid: int, inode: int, looked_at: Iterator[int]) -> bool | None:
        """Tell whether a process has this socket; ``None`` where its files may not be looked at."""
        wanted = f"socket:[{inode}]"
        folder = self._root / str(pid) / "fd"
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if next(looked_at) >= MAX_LINKS:
                        return False
                    with suppress(FileNotFoundError):  # closed meanwhile
                        if os.readlink(entry) == wanted:
                            return True
        except OSError as error:
            if error.errno in _GONE:
                return False
            if error.errno in _NOT_OURS:
                return None
            raise
        return False

    def _open_fds(self, pid: int) -> int | None:
        """Return how many files a process has open. Since Linux 6.2 the size of the folder tells it."""
        folder = self._root / str(pid) / "fd"
        try:
            size = folder.stat().st_size
            if size:
                return size
            with os.scandir(folder) as entries:
                return sum(1 for _ in itertools.islice(entries, MAX_LINKS))
        except OSError as error:
            if error.errno in _GONE | _NOT_OURS:
                return None
            raise

    def _stat(self, pid: int) -> Stat | None:
        text = self._text(pid, "stat")
        return None if text is None else parse_stat(text)

    def _text(self, pid: int, name: str) -> str | None:
        try:
            with (self._root / str(pid) / name).open("rb") as file:
                return file.read(MAX_TEXT).decode(errors="replace")
        except OSError as error:
            if error.errno in _GONE | _NOT_OURS:
                return None
            raise


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
