"""Copies what a process prints on to where it would have gone, byte for byte, with a copy for a reader beside.

Whoever waits for the output is waited for, as the process itself would have; the reader beside never is. Standard
library only, and little of it: this runs for as long as the process does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading

TYPE_CHECKING = False  # the module that has it would stay in memory
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

CHUNK: Final = 64 * 1024
"""Bytes that are read at once: what a pipe holds, as Linux makes it. So much is lost at most where we are killed."""

TAP_SIZE: Final = 1024 * 1024
"""Bytes that may wait for the reader beside: what Linux lets anybody have. A dump of 1000 goroutines takes half."""


class Tap:
    """A pipe to the reader beside, who may be slow, stopped, or gone. Safe in any thread."""

    def __init__(self, pipe: int = -1) -> None:
        """``pipe`` is where to write, and this object's to close; without one nobody reads beside."""
        self.dropped = 0
        """Bytes so far that were offered and found no room."""
        self._lock = threading.Lock()  # never held while anybody is waited for
        self._pipe = pipe
        self._gap = False
        if pipe >= 0:
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError):  # an ordinary user's pipes may have used up what is allowed
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, TAP_SIZE)

    def offer(self, chunk: memoryview) -> None:
        """Pass on what there is room for. Behind what is dropped goes on at the beginning of a line."""
        with self._lock:
            if self._pipe < 0:
                return
            rest = self._behind_gap(chunk) if self._gap else chunk
            written = 0
            with contextlib.suppress(OSError):  # it is full, or nobody is left who could read it
                written = os.write(self._pipe, rest) if rest else 0
            if written < len(rest):
                self._gap = True
                self.dropped += len(rest) - written
            elif rest:
                self._gap = False

    def close(self) -> None:
        """Tell the reader beside that nothing more will come."""
        with self._lock:
            pipe, self._pipe = self._pipe, -1
            if pipe >= 0:
                os.close(pipe)

    def _behind_gap(self, chunk: memoryview) -> bytes:
        _, newline, rest = bytes(chunk).partition(b"\n")
        self.dropped += len(chunk) - len(rest)
        return newline + rest  # it ends the line that was torn


class Copier(threading.Thread):
    """Copies one pipe to one descriptor until the pipe ends, or until it is empty once :meth:`finish` was called."""

    def __init__(self, source: int, target: int, tap: Tap, failed: Callable[[int, OSError], None]) -> None:
        """``failed`` is called once for each time that ``target`` begins to refuse what is written."""
        super().__init__(name=f"copy to {target}", daemon=True)
        self.source = source
        self.target = target
        self.tap = tap
        self.moves = 0
        """How often anything was written: while it rises, somebody reads."""
        self.ended = False
        """Whether the pipe has ended: nobody is left who could write to it."""
        self._failed = failed
        self._failing = False
        self._wake, self._waking = os.pipe()

    def run(self) -> None:
        """Copy. Never raises for what the output does."""
        ready = select.poll()
        ready.register(self.source, select.POLLIN)
        ready.register(self._wake, select.POLLIN)
        buffer = memoryview(bytearray(CHUNK))
        # Once woken the pipe is read for as long as there is something in it.
        while any(descriptor == self.source for descriptor, _ in ready.poll()):
            size = os.readv(self.source, [buffer])
            if size == 0:
                self.ended = True
                break
            self.tap.offer(buffer[:size])
            self._write(buffer[:size])
        os.close(self._wake)

    def finish(self) -> None:
        """Let it end when the pipe is empty, though somebody may still write to it. To be called once."""
        os.close(self._waking)

    def _write(self, rest: memoryview) -> None:
        """Write all of it, or throw it away where it is refused: the process must neither die nor wait for ever."""
        while rest:
            try:
                rest = rest[os.write(self.target, rest) :]
            except BlockingIOError:
                # Somebody who shares it set it so. Those who wait for it find the same errors as we do.
                writable = select.poll()
                writable.register(self.target, select.POLLOUT)
                writable.poll()
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    self._failed(self.target, error)
                return
            else:
                self.moves += 1
        self._failing = False
