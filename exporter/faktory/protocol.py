"""Faktory's wire protocol as pure functions: bytes in, replies out, no I/O.

Requests are lines; replies are of the kinds ``+ - : $`` that Redis uses too. Source of all facts:
Faktory's own ``docs/protocol-specification.md``.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

MAX_LINE: Final = 64 * 1024
"""Longest line that is read, in bytes without its end."""

MAX_BULK: Final = 16 * 1024 * 1024
"""Longest bulk reply that is read unless told otherwise: an ``INFO`` of 100,000 queues takes about 2 MiB."""

_TELLING: Final = 3
"""How many bytes tell which binary protocol it is: the kind and the version of a TLS record."""

MAX_ITERATIONS: Final = 100_000
"""Most rounds of hashing that a greeting gets. Faktory asks for 4,000 to 8,095; more would stall the caller."""


class ProtocolError(Exception):
    """What came is not the protocol. The connection is out of step and must be dropped."""


class Status(msgspec.Struct, frozen=True):
    """``+text``."""

    text: str


class Error(msgspec.Struct, frozen=True):
    """``-text``, the code (``ERR``) included."""

    text: str


class Integer(msgspec.Struct, frozen=True):
    """``:value``."""

    value: int


class Bulk(msgspec.Struct, frozen=True):
    """``$length`` and as many bytes; ``None`` is nil (``$-1``)."""

    data: bytes | None


Reply = Status | Error | Integer | Bulk


class Hi(msgspec.Struct, frozen=True):
    """The server's greeting. ``salt`` is ``None`` when it asks for no password."""

    version: int
    iterations: int
    salt: str | None


class Parser:
    """Turns bytes, split anywhere, into replies. Holds at most one unfinished reply.

    After a :class:`ProtocolError` it is of no further use.
    """

    def __init__(self, max_bulk: int = MAX_BULK) -> None:
        self._max_bulk = max_bulk
        self._buffer = bytearray()
        self._scanned = 0
        self._bulk: int | None = None  # length of the bulk whose header has been read

    @property
    def torn(self) -> bool:
        """Whether a reply has begun and not ended."""
        return bool(self._buffer) or self._bulk is not None

    def feed(self, data: bytes) -> list[Reply]:
        """Take ``data`` and return the replies that it completes.

        Raises:
            ProtocolError: It is not the protocol, or larger than the bounds.
        """
        self._buffer += data
        replies: list[Reply] = []
        while (reply := self._next()) is not None:
            replies.append(reply)
        return replies

    def _next(self) -> Reply | None:
        if self._bulk is None:
            line = self._line()
            if line is None:
                return None
            kind, text = line[:1], line[1:]
            if kind == b"+":
                return Status(_text(text))
            if kind == b"-":
                return Error(_text(text))
            if kind == b":":
                return Integer(_number(line, text))
            if kind != b"$":
                raise ProtocolError(f"a reply begins with + - : or $, but this came: {_shown(line)}")
            length = _number(line, text)
            if length == -1:
                return Bulk(None)
            if length < 0:
                raise ProtocolError(f"a bulk of negative length was announced: {_shown(line)}")
            if length > self._max_bulk:
                raise ProtocolError(
                    f"a bulk of {length} bytes was announced, more than the {self._max_bulk} that are read"
                )
            self._bulk = length
        length = self._bulk
        if len(self._buffer) < length + 2:
            return None
        data = bytes(self._buffer[:length])
        end = bytes(self._buffer[length : length + 2])
        if end != b"\r\n":
            raise ProtocolError(f"a bulk of {length} bytes does not end where announced, but with {_shown(end)}")
        del self._buffer[: length + 2]
        self._bulk = None
        return Bulk(data)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._buffer)
            if self._scanned >= _TELLING and self._buffer[0] < 0x20:
                # A binary protocol (TLS) may never send the end of a line: it must not be waited for.
                raise ProtocolError(f"a reply begins with + - : or $, but this came: {_shown(bytes(self._buffer))}")
            if self._scanned > MAX_LINE + 1:
                raise ProtocolError(f"a line longer than {MAX_LINE} bytes came: {_shown(bytes(self._buffer[:80]))}")
            return None
        if end > MAX_LINE + 1:
            raise ProtocolError(f"a line longer than {MAX_LINE} bytes came: {_shown(bytes(self._buffer[:80]))}")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        if not line.endswith(b"\r"):
            raise ProtocolError(f"a line does not end with CR LF: {_shown(line)}")
        return line[:-1]


def greeting(reply: Reply) -> Hi:
    """Understand a server's first words.

    Raises:
        ProtocolError: They are not Faktory's, or ask for an absurd amount of hashing.
    """
    if not isinstance(reply, Status) or not reply.text.startswith("HI {"):
        raise ProtocolError(f"a Faktory server greets with +HI, but this came: {_shown_reply(reply)}")
    try:
        hi = msgspec.json.decode(reply.text[3:], type=_HiFields)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError):
        raise ProtocolError(f"this greeting is not understood: {_shown_reply(reply)}") from None
    if hi.i > MAX_ITERATIONS or (hi.s is not None and hi.i < 1):
        raise ProtocolError(f"the greeting asks for {hi.i} rounds of hashing; 1 to {MAX_ITERATIONS} are done")
    return Hi(version=hi.v, iterations=1 if hi.v < 2 else hi.i, salt=hi.s)


def password_hash(password: str, salt: str, iterations: int) -> str:
    """Return the hexadecimal proof that one knows ``password``: SHA-256 over password and salt, iterated.

    Raises:
        ValueError: ``iterations`` is not between 1 and :data:`MAX_ITERATIONS`.
    """
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"iterations must be 1 to {MAX_ITERATIONS}, not {iterations}")
    digest = hashlib.sha256((password + salt).encode()).digest()
    for _ in range(iterations - 1):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


def hello_line(hi: Hi, password: str | None, hostname: str, pid: int) -> bytes:
    """Return the HELLO of a client that is no worker: without a ``wid`` it appears in no list of workers.

    Raises:
        ProtocolError: The server asks for a password and there is none.
    """
    fields: dict[str, object] = {"hostname": hostname, "pid": pid, "labels": ["forewarn"], "v": min(hi.version, 2)}
    if hi.salt is not None:
        if password is None:
            raise ProtocolError("the server asks for a password and none is given")
        fields["pwdhash"] = password_hash(password, hi.salt, hi.iterations)
    return b"HELLO " + msgspec.json.encode(fields) + b"\r\n"


def command_line(verb: str, *args: str) -> bytes:
    """Return one command as it goes over the wire.

    Raises:
        ValueError: A CR or LF stands in it, or it is not UTF-8: it could smuggle in a second command.
    """
    line = " ".join((verb, *args))
    if "\r" in line or "\n" in line:
        raise ValueError(f"a command must not contain CR or LF: {line[:80]!r}")
    return line.encode() + b"\r\n"


class _HiFields(msgspec.Struct):
    v: int = 1
    i: int = 1
    s: str | None = None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _number(line: bytes, text: bytes) -> int:
    # No int() alone: it takes "1_000", blanks and 4 KiB of digits.
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 19:
        raise ProtocolError(f"this is not a number: {_shown(line)}")
    return int(text)


def _shown(data: bytes) -> str:
    return repr(data[:80])[:80]


def _shown_reply(reply: Reply) -> str:
    match reply:
        case Status(text):
            return repr("+" + text[:80])[:80]
        case Error(text):
            return repr("-" + text[:80])[:80]
        case Integer(value):
            return repr(f":{value}")
        case Bulk(data):
            return "$-1" if data is None else _shown(data)
