"""Real workers of three client libraries, as child processes that tests may stop, hang and kill.

Each understands two job types: ``sleep`` with the seconds as its only argument, and ``fail``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

Kind = Literal["faktory", "pyfaktory", "node"]

KINDS: tuple[Kind, ...] = ("faktory", "pyfaktory", "node")
"""The PyPI packages ``faktory`` and ``pyfaktory``, and the npm package ``faktory-worker``."""

HERE = Path(__file__).parent

_PROGRAMS: dict[Kind, tuple[str, ...]] = {
    "faktory": (sys.executable, str(HERE / "python_faktory.py")),
    "pyfaktory": (sys.executable, str(HERE / "python_pyfaktory.py")),
    "node": ("node", str(HERE / "node" / "worker.js")),
}

_OUTPUT_LIMIT = 64 * 1024


class WorkerProcess:
    """One worker in a process group of its own; its output goes to an unnamed file, for a failed test to show.

    The Python kinds run jobs in forked children, and those inherit the connection: killing only the first process
    leaves the connection open, so :meth:`kill_all` and :meth:`stop` take the whole group.
    """

    def __init__(self, kind: Kind, url: str, queues: Sequence[str], concurrency: int) -> None:
        self.kind = kind
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [*_PROGRAMS[kind], "--queues", ",".join(queues), "--concurrency", str(concurrency)],
            env={**os.environ, "FAKTORY_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @classmethod
    def start(cls, kind: Kind, url: str, queues: Sequence[str] = ("default",), concurrency: int = 1) -> Self:
        """Start a worker; it connects on its own time, so wait for what the test needs of it."""
        return cls(kind, url, queues, concurrency)

    @property
    def pid(self) -> int:
        """The process id, which is the process group's too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the first process has not ended yet."""
        return self._process.poll() is None

    def kill_all(self) -> None:
        """Kill the whole process group with SIGKILL, as the kernel does when memory runs out; safe to repeat."""
        self._signal_group(signal.SIGKILL)
        self._process.wait(10)

    def quiet(self) -> None:
        """Send SIGTSTP to the first process alone: where the library knows it, it takes no more jobs."""
        self._process.send_signal(signal.SIGTSTP)

    def terminate(self) -> None:
        """Send SIGTERM to the first process alone, as a container's end does; the library does the rest."""
        self._process.terminate()

    def stop(self) -> None:
        """Hang the whole process group: its connections stay open and it shows no sign of life."""
        self._signal_group(signal.SIGSTOP)

    def cont(self) -> None:
        """Let a hung process group go on."""
        self._signal_group(signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Return the exit status; raise :class:`subprocess.TimeoutExpired` when it takes longer than ``timeout``."""
        return self._process.wait(timeout)

    def output(self) -> str:
        """What the worker has written so far, at most its last 64 KiB."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), _OUTPUT_LIMIT, max(0, size - _OUTPUT_LIMIT)).decode(errors="replace")

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # every process of the group has ended and been reaped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        self._output.close()
