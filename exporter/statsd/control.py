"""The receiving process's side of the stream to the sidecar: questions in, answers out, never waiting for either."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from exporter.statsd.report import LENGTH, Ask, Report, framed

MAX_ASK: Final = 4 * 1024
"""Most bytes of a question, which holds no more than a path."""


class AskError(Exception):
    """What came is no question."""


class Control:
    """One question at a time, answered part by part. What comes meanwhile waits in the stream."""

    def __init__(self, stream: socket.socket, answer: Callable[[Ask], Iterator[Report]]) -> None:
        """Call ``answer`` for each question: it yields the parts of the answer when they are to be sent."""
        self.stream = stream
        self._answer = answer
        self._asked = bytearray()
        self._parts: Iterator[Report] | None = None
        self._unsent = memoryview(b"")
        stream.setblocking(False)

    @property
    def answering(self) -> bool:
        """Whether something is to be written, and nothing read before it is."""
        return self._parts is not None

    def turn(self) -> bool:
        """Read what has come, or write as much of one part as is taken; tell whether the stream is still open.

        Raises:
            AskError: Something else than a question has come.
        """
        return self._read() if self._parts is None else self._write(self._parts)

    def _read(self) -> bool:
        try:
            data = self.stream.recv(MAX_ASK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._asked += data
        self._begin()
        return bool(data)

    def _begin(self) -> None:
        """Begin to answer if a whole question is there."""
        self._parts = None
        size = int.from_bytes(self._asked[:LENGTH], "big")
        if size > MAX_ASK:
            raise AskError(f"a question of {size} bytes came, more than the {MAX_ASK} that it may have")
        end = LENGTH + size
        if len(self._asked) < end:
            return
        try:
            ask = msgspec.msgpack.decode(self._asked[LENGTH:end], type=Ask)
        except msgspec.MsgspecError as error:
            raise AskError(f"what came is no question ({error})") from error
        del self._asked[:end]
        self._parts = self._answer(ask)

    def _write(self, parts: Iterator[Report]) -> bool:
        if not self._unsent:
            part = next(parts, None)
            if part is None:
                self._begin()
                return True
            self._unsent = memoryview(framed(part))
        try:
            sent = self.stream.send(self._unsent)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._unsent = self._unsent[sent:]
        return True
