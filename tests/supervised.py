"""`forewarn exec` as a child of the tests: small programs under it, and what its processes do."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from exporter.process.companion import MODULE
from tests.servers import children

T = TypeVar("T")

PYTHON = (sys.executable, "-I", "-S", "-u", "-c")
"""A program of one text, quick to start."""

DEADLINE = 30.0

_SILENT = socket.create_server(("127.0.0.1", 0), backlog=4096)
_PORT = _SILENT.getsockname()[1]

QUIET = (
    f"--faktory.url=tcp://127.0.0.1:{_PORT}",
    f"--faktory.web-url=http://127.0.0.1:{_PORT}",
    "--web.listen-address=127.0.0.1:0",
    "--log.level=error",
)
"""Settings with which Forewarn itself writes nothing for some seconds: its server neither refuses nor answers."""


def environment() -> dict[str, str]:
    """Ours, without what sets Forewarn or Faktory."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FAKTORY", "FOREWARN"))}


def line(*command: str, flags: Sequence[str] = ()) -> list[str]:
    """The command line that runs ``command`` under Forewarn."""
    return [sys.executable, "-m", "exporter.cli", "exec", *flags, "--", *command]


def run(*command: str, flags: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run ``command`` under Forewarn to its end. Without flags nothing is watched, which is told on stderr."""
    given: dict[str, Any] = {"env": environment(), "capture_output": True, "timeout": DEADLINE} | options
    if "input" not in options:
        given["stdin"] = subprocess.DEVNULL
    ended: subprocess.CompletedProcess[bytes] = subprocess.run(line(*command, flags=flags), **given)
    return ended


def until(condition: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Poll ``condition`` until it is true and return its value. AssertionError after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"not true after {deadline:g} s: {what}"
        time.sleep(0.01)
    return value


class Supervised:
    """A program under Forewarn, and the two processes of Forewarn's."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._seen: set[int] = set()

    @property
    def pid(self) -> int:
        """That of the process that runs the program."""
        return self.process.pid

    def watcher(self) -> int | None:
        """That of the process that watches, if there is one now."""
        found = next((it for it in children(self.pid) if MODULE in command_line(it)), None)
        if found is not None:
            self._seen.add(found)
        return found

    def wait_for_watcher(self, other_than: int | None = None) -> int:
        """Wait until a process watches (and follows what happens: then it catches signals)."""

        def follows() -> int | None:
            pid = self.watcher()
            if pid is None or pid == other_than or not catches(pid, signal.SIGTERM):
                return None
            return pid

        return until(follows, "a process watches") or 0

    def program(self) -> int:
        """That of the program itself, once it has begun."""

        def begun() -> int | None:
            return next((it for it in children(self.pid) if MODULE not in command_line(it)), None)

        found = until(begun, "the program runs") or 0
        self._seen.add(found)
        return found

    def says(self) -> bytes:
        """The next line of the program's."""
        assert self.process.stdout is not None
        return next_line(self.process.stdout)

    def end(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(AssertionError):
            self.watcher()
            self._seen.update(children(self.pid))
        self.process.kill()
        self.process.wait()
        for pid in self._seen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@contextmanager
def supervised(*command: str, flags: Sequence[str] = (), **options: Any) -> Iterator[Supervised]:
    """Run ``command`` under Forewarn for the duration of a ``with`` block. Its streams are not buffered."""
    given: dict[str, Any] = {
        "env": environment(),
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "bufsize": 0,
    } | options
    it = Supervised(subprocess.Popen(line(*command, flags=flags), **given))
    try:
        yield it
    finally:
        it.end()


def next_line(stream: IO[bytes], deadline: float = DEADLINE) -> bytes:
    """Read one line of a stream that is not buffered."""
    found = b""
    while not found.endswith(b"\n"):
        assert select.select([stream], [], [], deadline)[0], f"nothing came within {deadline:g} s behind {found!r}"
        byte = stream.read(1)
        assert byte, f"it ended behind {found!r}"
        found += byte
    return found


def exactly(stream: IO[bytes], size: int, deadline: float = DEADLINE) -> bytes:
    """Read so many bytes of a stream that is not buffered."""
    found = b""
    while len(found) < size:
        assert select.select([stream], [], [], deadline)[0], (
            f"nothing came within {deadline:g} s behind {found[-80:]!r}"
        )
        chunk = stream.read(size - len(found))
        assert chunk, f"it ended behind {found[-80:]!r}"
        found += chunk
    return found


def command_line(pid: int) -> str:
    """That of a process, with blanks between; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def state(pid: int) -> str:
    """The letter for what a process does: R, S, T (stopped), Z (ended), or nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def signals(pid: int | str, which: str) -> set[int]:
    """The signals of a process that are caught (SigCgt), ignored (SigIgn) or blocked (SigBlk)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return set()
    return masked(lines, which)


def masked(lines: Sequence[str], which: str) -> set[int]:
    """The signals of one line of a process's status."""
    mask = int(next(it.split()[1] for it in lines if it.startswith(which)), 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def catches(pid: int, number: int) -> bool:
    """Whether a process handles a signal itself, and lets it through."""
    return number in signals(pid, "SigCgt") and number not in signals(pid, "SigBlk")
