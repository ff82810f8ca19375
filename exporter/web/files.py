"""Small files that are read whole, again whenever they have changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec


class Signature(msgspec.Struct, frozen=True):
    """What changes with a file, without reading it."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    """When its content, owner or mode did, in nanoseconds."""


class Content(msgspec.Struct, frozen=True):
    """What a file held when it had a signature."""

    data: bytes
    signature: Signature


def signature(path: Path) -> Signature | None:
    """Return the signature of the file that ``path`` leads to now; ``None`` where there is none."""
    try:
        return _signature(os.stat(path))
    except OSError:
        return None


def read(path: Path, limit: int) -> Content:
    """Read a file of at most ``limit`` bytes.

    Raises:
        OSError: It cannot be read, is no file (a pipe would make the reader wait), or is larger.
    """
    # Without waiting for whoever may write to a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is not a file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(0, f"it is larger than {limit} bytes")
    return Content(data, _signature(found))


def _signature(found: os.stat_result) -> Signature:
    return Signature(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
