"""The journal of a unit of systemd, as ``journalctl`` prints it: a child that is started, read, and started anew."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from exporter.model import Failure, Position, Reason
from exporter.process.feeds import PIECE

COMMAND: Final = ("journalctl",)

HISTORY: Final = 10_000
"""Most entries that are read of what was there before anyone watched."""

CALM: Final = 60.0
"""Seconds that a child must have lived for its end to count as the first, and the longest rest between two starts."""

TOLD: Final = 10.0
"""Seconds for which the end of the one before is told, once the next lives."""

GRACE: Final = 0.5
"""Seconds in which it may end by itself, and in which it is killed else."""

MAX_LINE: Final = 4 * 1024 * 1024
"""Longest entry that is waited for: a longer one is read in pieces."""

MAX_SAID: Final = 2048
"""Most bytes that are kept of what it writes to its standard error."""

PREFIX: Final = "journal:"
"""What the path of a position begins with, whose head is a cursor."""

_CURSOR: Final = re.compile(rb'"__CURSOR"\s*:\s*"([^"\\]{1,512})"')
_KEPT: Final = ("LANG", "LC_ALL", "PATH", "TZ")
_INSTEAD: Final = "or name the files of its log instead (log_files)"


class Journal:
    """The journal of one unit. Not for use by several threads at once. Never raises but where it says so.

    Before it is followed, what is there is read as its history, unless a position tells where to go on.
    """

    def __init__(
        self,
        unit: str,
        *,
        position: Position | None = None,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = f"the journal of {unit}"
        self.failure: Failure | None = None
        """Why it is not read now, or not all of it."""
        self.history = position is None
        """Whether what is read was there before anyone watched."""
        self._unit = unit
        self._command = command
        self._clock = clock
        self._wall = wall
        self._cursor = None if position is None else position.head  # of the last entry read
        self._told = self._cursor  # of the last entry that was told
        self._since: float | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._line = b""
        self._chunk = b""
        self._started = 0.0
        self._rest = 0.0
        self._start_at = 0.0

    @property
    def alive(self) -> bool:
        """Whether it is read now."""
        return self._child is not None

    @property
    def positions(self) -> tuple[Position, ...]:
        """Up to where it was told: none before there was an entry."""
        cursor = None if self.history else self._told
        return () if cursor is None else (Position(f"{PREFIX}{self._unit}", 0, 0, 0, cursor, len(cursor)),)

    def fileno(self) -> int:
        """Return what is waited for; only while it is read."""
        if self._child is None or self._child.stdout is None:
            raise ValueError("it is not read now")
        return self._child.stdout.fileno()

    def tend(self) -> None:
        """Start the child if it is time to, and hear what it complains of."""
        now = self._clock()
        if self._child is None:
            if now >= self._start_at:
                self._start(now)
            return
        self._hear()
        if self._said:
            self.failure = self._complaint(self._said)
        elif now - self._started >= TOLD:
            self.failure = None

    def read(self) -> bytes | None:
        """Return whole entries, nothing where there is none yet; ``None``: the child has ended, and is gone."""
        try:
            piece = os.read(self.fileno(), PIECE)
        except BlockingIOError:
            return b""
        except OSError:
            piece = b""
        if not piece:
            self._bury()
            return None
        end = piece.rfind(b"\n") + 1
        if not end and len(self._line) + len(piece) <= MAX_LINE:
            self._line += piece
            return b""
        end = end or len(piece)
        self._chunk, self._line = self._line + piece[:end], piece[end:]
        self._cursor = _last_cursor(self._chunk, len(self._chunk)) or self._cursor
        return self._chunk

    def told(self, held: int) -> None:
        """Take note that all that was read was told, but for so many bytes."""
        if held == 0:
            self._told = self._cursor
        elif held < len(self._chunk):
            self._told = _last_cursor(self._chunk, len(self._chunk) - held) or self._told

    def close(self) -> None:
        """End the child. Safe to call twice."""
        child, self._child = self._child, None
        if child is not None:
            _end(child)

    def _start(self, now: float) -> None:
        follow = ["--follow", "--no-tail"]
        if self.history:
            how = [f"--lines={HISTORY}"]
            self._since = self._wall()
        elif self._cursor is not None:
            how = [*follow, f"--after-cursor={self._cursor}"]
        else:
            how = [*follow, f"--since=@{int(self._since or self._wall())}"]
        self._said = self._line = self._chunk = b""
        self._started = now
        try:
            child = subprocess.Popen(  # noqa: S603 - the unit's name is one word behind its option
                [*self._command, "--output=json", "--all", "--no-pager", f"--unit={self._unit}", *how],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(os.environ),
                start_new_session=True,  # what is typed at Forewarn's terminal is not for it
            )
        except FileNotFoundError:
            told = f"{self.name} cannot be read, for there is no {self._command[0]} here"
            self.failure = Failure(Reason.CONFIG, f"{told}: install systemd's, {_INSTEAD}")
            self._plan(now)
            return
        except OSError as error:
            told = f"{self.name} cannot be read, for {self._command[0]} cannot be started ({error.strerror or error})"
            self.failure = Failure(Reason.UNREACHABLE, f"{told}: has this machine no memory, processes or files left?")
            self._plan(now)
            return
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        self._child = child

    def _hear(self) -> None:
        if self._child is not None and self._child.stderr is not None:
            with contextlib.suppress(OSError):
                self._said = (self._said + os.read(self._child.stderr.fileno(), PIECE))[-MAX_SAID:]

    def _bury(self) -> None:
        """Reap the child, and decide when the next one is started."""
        self._hear()
        child, self._child = self._child, None
        if child is None:
            return
        status = _end(child, kill=False)
        now = self._clock()
        if self.history and status == 0:
            self.history = False
            self._told = self._cursor
            self._start_at = now
            self.failure = self._complaint(self._said) if self._said else None
            return
        lost = ""
        if b"cursor" in self._said and not self._chunk:
            # The place is none that this journal knows: it would not be found the next time either.
            self._cursor, self._told, self._since = None, None, self._wall()
            lost = " (what was printed since the last reading is lost)"
        self._plan(now)
        self.failure = self._death(status, lost)

    def _plan(self, now: float) -> None:
        wait = self._rest if now - self._started < CALM else 0.0
        self._rest = min(CALM, max(1.0, 2 * wait))
        self._start_at = now + wait

    def _complaint(self, said: bytes) -> Failure:
        last = said.decode(errors="backslashreplace").strip().replace("\n", " ")[:200]
        fix = f"let Forewarn's user read the journal (`usermod -aG systemd-journal USER`), {_INSTEAD}"
        return Failure(Reason.CONFIG, f"{self.name} may not be read as a whole: {self._command[0]} says: {last}. {fix}")

    def _death(self, status: int | None, lost: str) -> Failure:
        how = "hangs" if status is None else f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
        last = self._said.decode(errors="backslashreplace").strip().rpartition("\n")[2][:200]
        why = f" ({last})" if last else ""
        again = f"started anew {self._start_at - self._started:.0f} s after its start"
        told = f"{self.name} was not read for a while, for {self._command[0]} {how}{why}; it is {again}{lost}"
        return Failure(Reason.UNREACHABLE, f"{told}: try it by hand with --unit={self._unit}")


def _last_cursor(chunk: bytes, end: int) -> str | None:
    """Return the cursor of the last entry that ends before an offset of some entries."""
    stop = chunk.rfind(b"\n", 0, end)
    found = None if stop < 0 else _CURSOR.search(chunk, chunk.rfind(b"\n", 0, stop) + 1, stop)
    return None if found is None else found[1].decode(errors="replace")


def _end(child: subprocess.Popen[bytes], *, kill: bool = True) -> int | None:
    """Reap a child that has ended, or that is to; return its status, ``None`` where it hangs."""
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
    if kill:
        child.terminate()
    for _ in range(2):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(GRACE)
        child.kill()
    return None


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: of ours only what it needs, for secrets may stand in the rest."""
    return {name: value for name, value in ours.items() if name in _KEPT}
