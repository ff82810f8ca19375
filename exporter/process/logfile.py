"""One file of a log: what tells it from others, and how its next bytes are had."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import Final

from exporter.model import Position

HEAD: Final = 1024
"""First bytes of a file that tell it from others. A line of a log has its time in it, so no two begin alike."""

MIN_HEAD: Final = 64
"""Fewer do not prove that two files are the same content."""

CHUNK: Final = 512 * 1024
"""Bytes that are read at once, before others have their turn."""

HISTORY: Final = 64 * 1024 * 1024
"""Most bytes that are read of what was there before anyone watched."""

Key = tuple[int, int]
"""Device and inode."""

MISFITS: Final = (
    (stat.S_ISDIR, "is a folder: name the files in it (with * for all of them)"),
    (stat.S_ISSOCK, "is a socket: name a file or a named pipe"),
    (stat.S_ISCHR, "is a device: name a file or a named pipe, or - for standard input"),
    (stat.S_ISBLK, "is a device: name a file or a named pipe"),
)
COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".Z")


class LogFile:
    """An open file, read up to an offset. Its methods raise ``OSError``."""

    def __init__(self, path: str, offset: int = 0) -> None:
        self.path = path
        """Where it was found last."""
        self.offset = offset
        self.gone = False
        """Whether no path leads to it any more that is followed."""
        self.copy_of: LogFile | None = None
        """Set where it is a copy of another one that is followed: then nothing of it is read."""
        self.history_end = 0
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = _of_file(self._descriptor)
            self.key: Key = (found.st_dev, found.st_ino)
            self.size = found.st_size
            self._modified = found.st_mtime_ns
            self.removed = False
            self.changed_at = 0.0
            """When its size was last seen to change, by the clock of who looks."""
            self.head = os.pread(self._descriptor, HEAD, 0)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._hole = False

    @property
    def unread(self) -> int:
        """Bytes that are still to be read, as far as it was looked."""
        return 0 if self.copy_of is not None else max(0, self.size - self.offset)

    def look(self, now: float) -> bool:
        """See how long it is now; return whether it still is what was read, as far as that shows without reading on."""
        found = os.fstat(self._descriptor)
        self.removed = found.st_nlink == 0
        if found.st_size == self.size and found.st_mtime_ns == self._modified:
            return True
        self.size, self._modified, self.changed_at = found.st_size, found.st_mtime_ns, now
        if self.size == self.offset:
            return os.pread(self._descriptor, HEAD, 0).startswith(self.head)
        return self.size > self.offset

    def see_head(self) -> None:
        """Learn its first bytes, where nothing of it has been read."""
        self.head = os.pread(self._descriptor, HEAD, 0)

    def read(self, until: int | None = None) -> bytes | None:
        """Return the next bytes, at most up to an offset; ``None``: other content has taken the place of what it was.

        That is looked for after the reading: the bytes are then sure to be of the content that is known.
        """
        if self.offset == 0 and self.head.startswith(b"\0"):
            self._pass_hole()
        size = min(CHUNK, (self.size if until is None else until) - self.offset)
        chunk = os.pread(self._descriptor, size, self.offset)
        head = os.pread(self._descriptor, HEAD, 0)
        if not head.startswith(self.head):
            return None
        self.head = head
        if not chunk:
            self.size = self.offset  # it is shorter by now: the next look tells
            self._modified = 0
        self.offset += len(chunk)
        if self._hole:
            chunk = chunk.lstrip(b"\0")
            self._hole = not chunk
        return chunk

    def begins_like(self, other: LogFile) -> bool:
        """Tell whether it is the same content as another one, or more of it, by its first bytes.

        A few bytes do not prove that, unless they are all that there is, and all was read.
        """
        head = other.head
        whole = 0 < other.offset == len(head) == self.size
        return (whole or len(head) >= MIN_HEAD) and self.head[: len(head)] == head

    def skip_history(self) -> None:
        """Set where its history begins, and where what is new: behind its last line feed."""
        self.history_end = self.size
        start = max(0, self.size - CHUNK)
        last = os.pread(self._descriptor, self.size - start, start).rfind(b"\n")
        if last >= 0:
            self.history_end = start + last + 1
        self.offset = max(0, self.history_end - HISTORY)

    def anew(self) -> LogFile:
        """Return the same open file as another content, that is read from its beginning. This one is done for."""
        other = LogFile.__new__(LogFile)
        other.__dict__.update(self.__dict__)
        other.offset = other.history_end = 0
        other.copy_of = None
        other.head = os.pread(self._descriptor, HEAD, 0)
        other._hole = False
        self._descriptor = -1
        return other

    def position(self, path: str, back: int = 0) -> Position:
        """Return up to where it was read, but for so many bytes, as what is followed at ``path``."""
        offset = self.size if self.copy_of is not None else max(0, self.offset - back)
        return Position(path, *self.key, offset, digest(self.head), len(self.head))

    def fits(self, position: Position) -> bool:
        """Tell whether it holds what was read up to a position: the same beginning, and no less than that."""
        same = len(self.head) >= position.head_size and digest(self.head[: position.head_size]) == position.head
        return same and self.size >= position.offset

    def close(self) -> None:
        """Close it. Safe to call twice."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _pass_hole(self) -> None:
        """Pass over nothing at all: who goes on writing where it was, into a file that was truncated, leaves a hole."""
        self._hole = True
        with contextlib.suppress(OSError):
            self.offset = min(self.size, os.lseek(self._descriptor, 0, os.SEEK_DATA))


def _of_file(descriptor: int) -> os.stat_result:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is no file any more")
    return found


def digest(head: bytes) -> str:
    """Return what the beginning of a file is remembered by."""
    return hashlib.blake2b(head, digest_size=8).hexdigest()
