"""Reads a log however it was packed: what it is shows by its first bytes, not by its name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, Final, Protocol

CHUNK: Final = 64 * 1024
"""Most bytes that are read at once: more is slower, for each chunk would get memory of its own from the kernel."""


class Unreadable(Exception):  # noqa: N818 - a part of a sentence
    """Why a log cannot be read, or not to its end, and how to mend that: the end of a sentence about it."""


class _Packed(Protocol):
    def read1(self, size: int, /) -> bytes: ...


def _zstd() -> dict[bytes, tuple[str, Callable[[BinaryIO], _Packed]]]:
    with suppress(ImportError):
        from compression import zstd  # type: ignore[import-not-found] # noqa: PLC0415 - the library has it since 3.14

        return {b"\x28\xb5\x2f\xfd": ("zstd", zstd.ZstdFile)}
    return {}


_PACKED: Final[dict[bytes, tuple[str, Callable[[BinaryIO], _Packed]]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
    **_zstd(),
}
"""By its first bytes: how it is called, and what unpacks it."""

_FOREIGN: Final = {
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "zstd -dc"),
    b"\x04\x22\x4d\x18": ("packed by lz4", "lz4 -dc"),
    b"\x1f\x9d": ("packed by compress", "zcat"),
    b"PK\x03\x04": ("a zip archive", "unzip -p"),
    b"LPKSHHRH": ("a journal of systemd", "journalctl -o json --file"),
}
"""By its first bytes: what is not understood here, and the command that prints it."""

_HEAD: Final = 8


class Log:
    """One log, read as plain bytes from its beginning to its end, once."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """``name``: how a command line calls it; ``-`` for standard input."""
        self._source = _Source(file)
        self._name = name

    @property
    def taken(self) -> int:
        """How many bytes of it have been read, as they are stored."""
        return self._source.taken

    def chunks(self) -> Iterator[bytes]:
        """Yield what it holds, at most :data:`CHUNK` bytes at once.

        Raises:
            Unreadable: It cannot be read, or not to its end; what stands before has been yielded.
        """
        try:
            head = self._source.peek()
            packed = next((each for magic, each in _PACKED.items() if head.startswith(magic)), None)
            if packed is None:
                self._refuse_foreign(head)
                while chunk := self._source.take(CHUNK):
                    yield chunk
                return
        except OSError as error:
            raise Unreadable(f"it cannot be read on ({error.strerror or error}); mend that, or copy the file") from None
        how, unpack = packed
        file = unpack(io.BufferedReader(self._source, CHUNK))
        try:
            while chunk := file.read1(CHUNK):
                yield chunk
        except EOFError:
            raise Unreadable(
                f"it ends in the middle of its {how} data; what stands before was read; copy it again where it is whole"
            ) from None
        except (OSError, zlib.error, lzma.LZMAError) as error:
            raise Unreadable(
                f"its {how} data is damaged ({error}); what stands before was read; copy it again where it is whole"
            ) from None

    def _refuse_foreign(self, head: bytes) -> None:
        found = next((each for magic, each in _FOREIGN.items() if head.startswith(magic)), None)
        if found is not None:
            what, command = found
            name = "FILE" if self._name == "-" else shlex.quote(self._name)
            raise Unreadable(f"it is {what}, which is not read here; write: {command} {name} | forewarn postmortem -")


class _Source(io.RawIOBase):
    """A file that may be a pipe, whose first bytes can be looked at before it is read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._head = b""
        self.taken = 0

    def peek(self) -> bytes:
        while len(self._head) < _HEAD and (more := self._read(_HEAD - len(self._head))):
            self._head += more
        return self._head

    def readable(self) -> bool:
        return True

    def take(self, most: int) -> bytes:
        taken, self._head = self._head[:most], self._head[most:]
        return taken or self._read(most)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        taken = self.take(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def _read(self, most: int) -> bytes:
        # Of a pipe what is there, without waiting until so much has come.
        taken = self._file.read1(most) if isinstance(self._file, io.BufferedReader) else self._file.read(most)
        self.taken += len(taken)
        return taken
