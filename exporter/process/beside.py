"""The process beside the one that runs a server for ``forewarn exec``: the sidecar of ``forewarn run``, and more.

It reads a copy of what the server prints, and learns how the server ends. Where the process that runs the server is
killed, this one goes on copying the server's output, for which it holds the same pipes: a server that can write nowhere
would die of it. Wrong settings are told and tried again; they are no reason to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from exporter.hangups import Hangups
from exporter.logs import setup
from exporter.model import Exited
from exporter.process import handover
from exporter.process.companion import TICK
from exporter.process.copying import Copier, Tap
from exporter.process.tap import Course, TapFeed
from exporter.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from exporter.reload import Reading
    from exporter.sidecar import Sidecar

logger = logging.getLogger("forewarn.exec")

RETRY: Final = 60.0
"""Seconds after which settings that were wrong, or an address that was taken, are tried again."""

READ_ALL: Final = 1.5
"""Seconds in which the last of the server's output may be read."""

FIRST_TO_GO: Final = "1000"
"""What makes the kernel choose this process, never the server, where memory is short: see proc(5), oom_score_adj."""

FLAG: Final = "exec.server"
VARIABLE: Final = "FOREWARN_EXEC_SERVER"
USUAL: Final = "faktory"

NAMES: Final[Mapping[int, str]] = {1: "stdout", 2: "stderr"}


class Stream(msgspec.Struct, frozen=True):
    """One stream of the server's output: where it comes out, where it is to go, and our copy of it."""

    source: int
    target: int
    tap: int


class Beside:
    """The sidecar, for as long as the server lives. All but :meth:`run` may be called by any thread."""

    def __init__(
        self,
        flags: handover.Flags,
        environ: Mapping[str, str],
        streams: Sequence[Stream],
        pulse: int,
        hangups: Hangups | None = None,
    ) -> None:
        """``pulse`` is where signs of life are written; each of ``hangups`` is a call of :meth:`reload`."""
        self._flags = {name: value for name, value in flags.items() if name != FLAG}
        self._environ = {name: value for name, value in environ.items() if name != VARIABLE}
        named = flags.get(FLAG) or environ.get(VARIABLE)
        self._wanted = named if isinstance(named, str) else None
        self._streams = streams
        self._pulse = pulse
        self._hangups = hangups
        self._course = Course()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._again = asyncio.Event()
        self._sidecar: Sidecar | None = None
        self._told: Sequence[str] = ()
        self.copying = False
        """Whether the server's output goes through this process."""

    async def run(self) -> int:
        """Watch until the server has ended; return the exit status."""
        self._loop = asyncio.get_running_loop()
        if self._course.ended:
            self._over.set()
        if self._hangups is not None:
            self._hangups.lead_to(self._reload)
        beating = asyncio.create_task(self._beat())
        try:
            # Once at least: a server that ended before this process was ready is to be counted too.
            await self._watch()
            while not await self._over_within(RETRY):
                await self._watch()
        finally:
            beating.cancel()
            if self._hangups is not None:
                self._hangups.close()
        return 0

    def reload(self) -> None:
        """Read the settings anew, also where those before were wrong."""
        self._in_loop(self._reload)

    def _reload(self) -> None:
        if self._sidecar is not None:
            self._sidecar.request_reload()
        else:
            self._again.set()

    def follow(self, control: int) -> None:
        """Take in what the process that runs the server tells, and take its place where it is gone."""
        with os.fdopen(control, encoding="ascii") as lines:
            for line in lines:
                word, *numbers = line.split()
                self._hear(word, [int(number) for number in numbers])
        if not self._course.ended:
            self._take_over()

    def _hear(self, word: str, numbers: Sequence[int]) -> None:
        match word, numbers:
            case "exited", (status, out_of_memory):
                self._course.exited(exited(status, time.time(), out_of_memory=bool(out_of_memory)))
                self._end()
            case "reload", ():
                self.reload()
            case "dropped", (size,):
                logger.warning(
                    "the server prints faster than it can be read: a part of its output was not searched for crashes",
                    extra={"fields": {"bytes": size}},
                )

    def _take_over(self) -> None:
        """Copy the server's output on, until it ends."""
        self.copying = True
        copiers = []
        for stream in self._streams:
            tap = -1
            with contextlib.suppress(OSError):  # without it the copy is not read, and all else goes on
                tap = os.open(f"/proc/self/fd/{stream.tap}", os.O_WRONLY)
            copiers.append(Copier(stream.source, stream.target, Tap(tap), _refused))
        for copier in copiers:
            copier.start()
        self._course.goes_on()
        logger.error("what ran the server is gone, which was killed: the server's output is copied on from here")
        for copier in copiers:
            copier.join()
        self._course.over()
        for copier in copiers:
            copier.tap.close()
        self._end()

    def _end(self) -> None:
        self._in_loop(self._over.set)

    def _in_loop(self, do: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(do)

    async def _over_within(self, seconds: float) -> bool:
        """Wait for so many seconds, unless a reload is asked for; tell whether the server has ended."""
        waiting = [asyncio.create_task(event.wait()) for event in (self._over, self._again)]
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        self._again.clear()
        return self._over.is_set()

    async def _watch(self) -> None:
        """Watch until the server has ended, or until it shows that it cannot be watched as it is set."""
        feeds: list[TapFeed] = []

        def opened() -> Sequence[TapFeed]:
            feeds[:] = self._course.taps([(NAMES[stream.target], stream.tap) for stream in self._streams])
            return feeds

        def read() -> Reading:
            from exporter.reload import reading  # noqa: PLC0415 - not where the settings are wrong

            settings = load(self._flags, self._environ, own_input=False)
            return reading(settings, {chosen(settings, self._wanted): opened})

        def read_again() -> Reading:
            if self._course.ended:
                raise SettingsError(["the server has ended"])
            return read()

        try:
            first = read()
        except SettingsError as error:
            self._tell(error.problems)
            return
        setup(first.settings.log_format, first.settings.log_level, sys.stderr)
        from exporter.sidecar import Sidecar  # noqa: PLC0415 - not where the settings are wrong
        from exporter.web.address import ListenError  # noqa: PLC0415

        stop = asyncio.Event()
        stopping = asyncio.create_task(self._stop_at_the_end(stop))
        try:
            self._sidecar = Sidecar(first.settings, feeds=first.feeds, read=read_again)
            await self._sidecar.run(stop)
        except SettingsError as error:
            self._tell(error.problems)
        except ListenError as error:
            self._tell([str(error)])
        finally:
            self._sidecar = None
            stopping.cancel()
            for feed in feeds:
                feed.close()

    async def _stop_at_the_end(self, stop: asyncio.Event) -> None:
        """Stop the sidecar once it has read all that the server printed."""
        await self._over.wait()
        await asyncio.to_thread(self._course.consumed.wait, READ_ALL)
        stop.set()

    async def _beat(self) -> None:
        """Show that this process does not hang, as long as it does not."""
        while True:
            with contextlib.suppress(OSError):
                os.write(self._pulse, b".")
            await asyncio.sleep(TICK)

    def _tell(self, problems: Sequence[str]) -> None:
        """Tell what is wrong, once for as long as it is the same."""
        if problems != self._told:
            self._told = problems
            for problem in problems:
                sys.stderr.write(f"forewarn: {problem}\n")
            sys.stderr.write(f"forewarn: the server runs, but nobody watches it; tried again every {RETRY:g} s\n")
            sys.stderr.flush()


def exited(status: int, at: float, *, out_of_memory: bool) -> Exited:
    """Return how a process with this ``status`` of waitpid(2) ended."""
    if os.WIFSIGNALED(status):
        return Exited(at, signal=os.WTERMSIG(status), out_of_memory=out_of_memory)
    return Exited(at, status=os.WEXITSTATUS(status))


def chosen(settings: Settings, wanted: str | None) -> str:
    """Return which of the configured servers was started. Raises :class:`~exporter.settings.SettingsError`."""
    names = [server.name for server in settings.servers]
    known = ", ".join(names)
    if wanted is not None and wanted not in names:
        raise SettingsError([f"--{FLAG} {wanted}: no server of that name is configured; name one of {known}"])
    if wanted is not None:
        return wanted
    if len(names) == 1:
        return names[0]
    if USUAL in names:
        return USUAL
    raise SettingsError([f"several servers are configured; say by --{FLAG} which one was started: one of {known}"])


def main(arguments: Sequence[str]) -> int:
    """Run as :mod:`exporter.process.companion` starts it; return the exit status."""
    settings, control, pulse = map(int, arguments[:3])
    streams = [Stream(*map(int, it.split(":"))) for it in arguments[3:]]
    _keep_only({settings, control, pulse, *(number for it in streams for number in (it.source, it.tap))})
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(FIRST_TO_GO)
    # Whoever stops everything of a unit or a container at once does not mean this one: it ends when the server has.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _pass_over)
    hangups = Hangups()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    setup("text", "warning", sys.stderr)
    beside = Beside(handover.read_flags(settings), os.environ, streams, pulse, hangups)
    following = threading.Thread(target=beside.follow, args=(control,), name="follow", daemon=True)
    following.start()
    from exporter.sidecar import run_loop  # noqa: PLC0415 - what follows the server must not wait for it

    try:
        return run_loop(beside.run())
    finally:
        if beside.copying:
            following.join()


def _keep_only(wanted: set[int]) -> None:
    """Close what was handed to the server and came here too, such as sockets."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            if (number := int(name)) > 2 and number not in wanted:
                with contextlib.suppress(OSError):
                    os.close(number)


def _pass_over(number: int, frame: object) -> None:
    """Do nothing. Unlike a signal that is ignored, children of this process do not inherit that."""


def _refused(target: int, error: OSError) -> None:
    logger.warning(
        "the server's output cannot be written on: it is thrown away while that lasts",
        extra={"fields": {"stream": NAMES[target], "failure": error.strerror}},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
