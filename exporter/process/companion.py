"""The process that watches beside the one that runs the server: started, told what happens, started anew when it ends.

Nothing here waits for it. What it has not read of the copy of the server's output waits for the next. It gets the pipes
of the output itself too, and never reads them while this process lives: they keep the server alive when this process is
killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

TYPE_CHECKING = False  # the module that has it would stay in memory
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Final

    from exporter.process.copying import Copier

FIRST_REST: Final = 1.0
LONGEST_REST: Final = 60.0
"""Seconds before it is started anew: twice as long each time, up to this."""

WELL: Final = 60.0
"""Seconds after which it is taken to be well: the next time that it ends is the first again, and is told again."""

TICK: Final = 10.0
"""Seconds between two signs of life, and between two looks for them."""

SILENT_TICKS: Final = 12
"""How many looks without a sign of life make it hung. Time in which this process itself did not run does not count."""

MODULE: Final = "exporter.process.beside"


class Companion:
    """One process at a time. ``settings`` is an open file that tells it what was set: it is never read here."""

    def __init__(
        self,
        settings: int,
        environ: Mapping[bytes, bytes],
        copiers: Sequence[Copier],
        taps: Sequence[int],
        tell: Callable[[str], None],
    ) -> None:
        """Start nothing yet.

        ``taps`` are where the copy of each stream comes out. ``tell`` is handed what an operator should know, and must
        not wait.
        """
        self.pid: int | None = None
        self._settings = settings
        self._environ = environ
        self._copiers = copiers
        self._taps = taps
        self._tell = tell
        self._control = self._pulse = -1
        self._started_at = 0.0
        self._start_at: float | None = None
        self._rest = FIRST_REST
        self._silent = 0
        self._told = False
        self._dropped = 0
        self._last: str | None = None
        self._again = False

    @property
    def hung(self) -> bool:
        """Whether it has shown no sign of life lately."""
        return self._silent > 2

    def due(self, now: float) -> float:
        """Return for how many seconds nothing is to be done."""
        return TICK if self._start_at is None else max(0.0, min(TICK, self._start_at - now))

    def start(self, now: float) -> None:
        """Start it. Where that fails it is tried again later."""
        self._start_at = None
        self._started_at = now
        self._silent = 0
        try:
            self.pid = self._spawn()
        except OSError as error:
            self._fail(f"could not be started ({error.strerror})", now)
            return

    def ended(self, status: int, now: float) -> None:
        """Take note that it has ended."""
        self.pid = None
        self._hang_up()
        if self._last is None:
            self._fail(_how(status), now)
        elif status != 0 and not self._again:
            self._again = True
            self.start(now)
            self._say(self._last)

    def start_if_due(self, now: float) -> None:
        """Start it anew where its time has come."""
        if self._start_at is not None and now >= self._start_at:
            self.start(now)

    def look(self, now: float) -> None:  # noqa: ARG002 - like all that is done for it
        """Look for a sign of life, each :data:`TICK` seconds; end it where there has been none for long."""
        if self.pid is None:
            return
        try:
            self._silent = 0 if os.read(self._pulse, 4096) else self._silent + 1
        except OSError:
            self._silent += 1
        if self._silent >= SILENT_TICKS:
            self._tell("what watches the server hangs: it is ended and started anew; the server runs on")
            self._told = True
            self.kill()
        if (dropped := sum(copier.tap.dropped for copier in self._copiers)) != self._dropped:
            self._say(f"dropped {dropped - self._dropped}")
            self._dropped = dropped

    def reload(self, now: float) -> None:  # noqa: ARG002 - like all that is done for it
        """Tell it to read its settings anew. One that is started later does so by itself."""
        self._say("reload")

    def part(self, last: str) -> None:
        """Tell it the last that there is to tell; where there is none, or it fails just now, start one for that."""
        self._last = last
        if self.pid is None:
            self.start(self._started_at)
        self._say(last)
        # Behind that, so that whoever finds the end of the output finds the reason.
        for copier in self._copiers:
            copier.tap.close()

    def kill(self) -> None:
        """End it at once. Whoever collects ended children finds it."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def _say(self, line: str) -> None:
        """Tell it something, if it has room for that."""
        if self._control >= 0:
            with contextlib.suppress(OSError):
                os.write(self._control, f"{line}\n".encode())

    def _fail(self, how: str, now: float) -> None:
        if now - self._started_at >= WELL:
            self._rest, self._told = FIRST_REST, False
        if not self._told:
            self._told = True
            self._tell(f"what watches the server {how}; the server runs on, and watching it is tried again for ever")
        self._start_at = now + self._rest
        self._rest = min(2 * self._rest, LONGEST_REST)

    def _spawn(self) -> int:
        theirs: list[int] = []
        ours: list[int] = []
        try:
            control, say = os.pipe()
            theirs.append(control)
            ours.append(say)
            pulse, beat = os.pipe()
            theirs.append(beat)
            ours.append(pulse)
            streams = [f"{it.source}:{it.target}:{tap}" for it, tap in zip(self._copiers, self._taps, strict=True)]
            inherited = [*theirs, self._settings, *(it.source for it in self._copiers), *self._taps]
            command = [sys.executable, "-P", "-m", MODULE, *map(str, (self._settings, control, beat)), *streams]
            for descriptor in inherited:
                os.set_inheritable(descriptor, True)
            try:
                # A session of its own, for a signal from the terminal is for us to pass on. It inherits that all
                # signals are blocked, until it can take them.
                pid = os.posix_spawn(sys.executable, command, self._environ, setsid=True)
            finally:
                for descriptor in inherited:
                    os.set_inheritable(descriptor, False)
        except OSError:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._control, self._pulse = ours
        os.set_blocking(self._control, False)
        os.set_blocking(self._pulse, False)
        return pid

    def _hang_up(self) -> None:
        for descriptor in (self._control, self._pulse):
            if descriptor >= 0:
                os.close(descriptor)
        self._control = self._pulse = -1


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"ended with status {os.WEXITSTATUS(status)}"
