"""``forewarn exec``: the process that runs a server as its child and gets out of its way.

It copies the server's output on byte for byte, passes signals on, collects ended children as process 1 must, and ends
as the server ended. All watching is done by another process (:mod:`exporter.process.companion`), whose slowness, crash
or end is nothing to the server.

What it does for as long as the server lives it does in an image of its own: started by this file's path, without the
site packages, it takes a third of the memory that the command line takes, and shares most of that with every Python.

All signals are blocked from the start, so that none is lost, and taken one by one: no handler ever runs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time

if not __package__:
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from exporter.process import handover, oom
from exporter.process.companion import TICK, Companion
from exporter.process.copying import Copier, Tap

TYPE_CHECKING = False  # the module that has it would stay in memory
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Final, NoReturn

FAREWELL: Final = 5.0
"""Seconds in which the process that watches may learn of the server's end, save its state and push what it knows.

It takes a fraction of one where nothing hangs. Whoever stops a container gives it 10 (Docker) or 30 (Kubernetes) before
everything in it is killed, and the server has used some of these.
"""

STUCK: Final = 5.0
"""Seconds without progress after which whoever reads our output is not waited for, once the server has ended."""

LAST_WORD: Final = 0.2
"""Seconds for the last of what is told to be written."""

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
BY_SIGNAL: Final = 128
"""Exit statuses as every shell gives them."""

SI_KERNEL: Final = 0x80
"""What a signal that the terminal sent has as its ``si_code``: see sigaction(2)."""

ALL: Final = signal.valid_signals()
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)

WRONG_COMMAND: Final = {
    errno.EACCES: "it is not an executable file; name one behind --, or chmod +x it",
    errno.ENOEXEC: "it is no program of this machine, and its first line names none (#!)",
    errno.ENOENT: "there is no such program, or what its first line names is missing; name one that exists behind --",
    errno.ENOTDIR: "there is no such file; name one that exists behind --",
    errno.ELOOP: "it is a symbolic link to itself; name a program behind --",
    errno.ENAMETOOLONG: "its name is too long for a file; name a program behind --",
    errno.E2BIG: "its arguments and the environment are too long",
}


def main(command: Sequence[str], flags: handover.Flags) -> int:
    """Run ``command`` and watch it with the settings that ``flags`` give. Never returns.

    It becomes the process that is described above.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    handover.open_standard_streams()
    environ = handover.environment()
    try:
        settings = handover.write(map(int, blocked), flags)
    except OSError as error:
        _run_unwatched(command, {int(number) for number in blocked}, environ, error)
    arguments = [sys.executable, "-I", "-S", __file__, str(settings), "--", *command]
    with contextlib.suppress(OSError):  # the interpreter was replaced under our feet: this image does as well
        os.execve(sys.executable, arguments, environ)  # noqa: S606 - this package's own
    run(settings, command)


def run(settings: int, command: Sequence[str]) -> NoReturn:
    """Run ``command`` to its end, and end as it did. ``settings`` is the file that :func:`main` wrote."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, as it may be, the kernel would not tell of ends
    os.set_inheritable(settings, False)
    blocked, path = handover.read_own(settings)
    environ = handover.environment()
    try:
        server, copiers, taps = _start(command, blocked, environ)
    except (OSError, RuntimeError) as error:  # the latter where no thread can be started
        if isinstance(error, OSError) and error.errno in WRONG_COMMAND:
            _refuse(command, error)
        _run_unwatched(command, blocked, environ, error)
    beside = environ | {b"PYTHONPATH": path} if path else environ
    _end_as(Supervisor(server, copiers, Companion(settings, beside, copiers, taps, tell)).run())


def tell(text: str) -> None:
    """Tell the operator. Does not wait: whoever reads our standard error may be slow."""
    with contextlib.suppress(RuntimeError):  # no thread can be started
        threading.Thread(target=_write_line, args=(text,), name=tell.__name__, daemon=True).start()


class Supervisor:
    """The child that is the server, from its start to its end."""

    def __init__(self, server: int, copiers: Sequence[Copier], companion: Companion) -> None:
        self._server = server
        self._copiers = copiers
        self._companion = companion
        self._status: int | None = None
        self._killed_before = oom.kills()
        self._out_of_memory = False

    def run(self) -> int:
        """Return the server's status, as waitpid(2) tells it, when all that it printed has been passed on."""
        self._beside(self._companion.start)
        look_at = time.monotonic() + TICK
        while self._status is None:
            came = signal.sigtimedwait(ALL, self._companion.due(time.monotonic()))
            if came is not None and came.si_signo != signal.SIGCHLD:
                self._pass_on(came)
            self._collect()
            self._beside(self._companion.start_if_due)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + TICK
                self._beside(self._companion.look)
        self._drain()
        self._leave_what_goes_on()
        self._beside(self._say_farewell)
        return self._status

    def _beside(self, do: Callable[[float], None]) -> None:
        """Do something for the process that watches. Whatever is wrong with that, the server goes first."""
        try:
            do(time.monotonic())
        except Exception as error:  # noqa: BLE001
            tell(f"a defect of Forewarn's: watching the server failed ({error!r}); the server runs on")

    # --- signals ----------------------------------------------------------------------------------------------------

    def _pass_on(self, came: signal.struct_siginfo) -> None:
        """Send the server what was sent to us; to its whole group what the terminal sent to our whole group."""
        by_terminal = came.si_code == SI_KERNEL
        if by_terminal and came.si_signo == signal.SIGTSTP and self._stops_by_default():
            self._suspend()
            return
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if by_terminal else os.kill)(self._server, came.si_signo)
        if came.si_signo == signal.SIGHUP and not by_terminal:
            # Whoever wants the server to read its configuration again means Forewarn too.
            self._beside(self._companion.reload)

    def _suspend(self) -> None:
        """Stop as a job of a shell does, and go on with it.

        The server's group has no shell, so SIGTSTP would do nothing to it. Whether we are to stop the kernel decides:
        not as process 1, nor where no shell could make us go on.
        """
        os.killpg(self._server, signal.SIGSTOP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when we go on
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        os.killpg(self._server, signal.SIGCONT)

    def _stops_by_default(self) -> bool:
        """Whether the server leaves SIGTSTP to the kernel."""
        try:
            with open(f"/proc/{self._server}/status", encoding="ascii", errors="replace") as file:
                masks = dict(line.split(":", 1) for line in file if ":" in line)
            own = int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16) | int(masks["SigBlk"], 16)
        except (OSError, KeyError, ValueError):
            return False
        return not own >> (signal.SIGTSTP - 1) & 1

    # --- children ---------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Collect every child that has ended: as process 1 also those that lost their parent."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._server:
                    self._status = status
                    self._out_of_memory = _killed(status) and oom.kills() not in {None, self._killed_before}
                elif pid == self._companion.pid:
                    if _killed(status) and self._killed_before is not None and oom.kills() != self._killed_before:
                        self._killed_before += 1  # that was this one: the server may have gone in the same moment
                    self._companion.ended(status, time.monotonic())

    # --- the end ----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Pass on what the server printed last, for as long as somebody reads it."""
        for copier in self._copiers:
            copier.finish()
        before, until = -1, 0.0
        while running := [copier for copier in self._copiers if copier.is_alive()]:
            if (moves := sum(copier.moves for copier in self._copiers)) != before:
                before, until = moves, time.monotonic() + STUCK
            if time.monotonic() >= until:
                tell("nobody reads the last of the server's output: what is left of it is lost")
                return
            running[0].join(0.1)

    def _leave_what_goes_on(self) -> None:
        """Where children of the server still hold its output, leave a process behind that goes on copying it.

        As process 1 there is none: they end with us.
        """
        rest = [copier for copier in self._copiers if not copier.ended]
        if not rest or os.getpid() == 1 or any(copier.is_alive() for copier in rest):
            return
        try:
            if os.fork():
                return
        except OSError as error:
            tell(f"what children of the server print is lost, for no process could be started: {error.strerror}")
            return
        # Nothing that this process has beside the output may be held open by the other.
        kept = {descriptor for copier in rest for descriptor in (copier.source, copier.target)}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        others = [Copier(copier.source, copier.target, Tap(), _refused) for copier in rest]
        for other in others:
            other.start()
        for other in others:
            other.join()
        os._exit(0)

    def _say_farewell(self, now: float) -> None:
        """Tell of the end, and wait for a moment for what is made of it."""
        until = now + (0.0 if self._companion.hung else FAREWELL)
        self._companion.part(f"exited {self._status} {int(self._out_of_memory)}")
        while self._companion.pid is not None and (left := until - time.monotonic()) > 0:
            came = signal.sigtimedwait((*ENDING, signal.SIGCHLD), left)
            if came is not None and came.si_signo != signal.SIGCHLD:
                break
            self._collect()
        self._companion.kill()


# --- starting and ending --------------------------------------------------------------------------------------------


def _start(
    command: Sequence[str], blocked: set[int], environ: Mapping[bytes, bytes]
) -> tuple[int, tuple[Copier, ...], tuple[int, ...]]:
    """Start the server in a session of its own; return its process id, what copies its output, and the copies of it.

    Raises ``OSError`` for a program that cannot be run, and that or ``RuntimeError`` where something is used up.
    """
    targets = (1,) if _same(1, 2) else (1, 2)
    pipes = [os.pipe() for _ in targets]
    # All this before there is a server, which might wait for it, or whose first words might be missed.
    taps = [os.pipe() for _ in targets]
    copiers = tuple(
        Copier(source, target, Tap(tap), _refused)
        for (source, _), target, (_, tap) in zip(pipes, targets, taps, strict=True)
    )
    for copier in copiers:
        copier.start()
    server = os.posix_spawnp(
        command[0],
        list(command),
        environ,
        # Where both lead to one place they share a pipe: the order of what is printed stays as it is.
        file_actions=[(os.POSIX_SPAWN_DUP2, pipes[0][1], 1), (os.POSIX_SPAWN_DUP2, pipes[-1][1], 2)],
        setsid=True,
        setsigmask=blocked,
        setsigdef=IGNORED_BY_PYTHON,
    )
    for _, writing in pipes:
        os.close(writing)
    # The server's alone: were it held here too, whoever writes to it would never learn that the server is gone.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    return server, copiers, tuple(reading for reading, _ in taps)


def _run_unwatched(
    command: Sequence[str], blocked: set[int], environ: Mapping[bytes, bytes], error: Exception
) -> NoReturn:
    """Become the server, for better that than none."""
    why = error.strerror if isinstance(error, OSError) else error
    _write_line(f"the server runs, but nobody can watch it: {why}; mend that and start it anew")
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        os.execvpe(command[0], list(command), environ)  # noqa: S606 - what the operator named
    except OSError as wrong:
        _refuse(command, wrong)


def _refuse(command: Sequence[str], error: OSError) -> NoReturn:
    _write_line(f"cannot run {command[0]}: {WRONG_COMMAND.get(error.errno or 0, error.strerror)}")
    os._exit(NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE)


def _end_as(status: int) -> NoReturn:
    """End as the process with this ``status`` did. As process 1, whom no signal ends, with what a shell would tell."""
    for thread in threading.enumerate():
        if thread.name == tell.__name__:
            thread.join(LAST_WORD)
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    if os.getpid() != 1:
        with contextlib.suppress(OSError, ValueError, ImportError):
            import resource  # noqa: PLC0415 - for this moment only

            # The server's core is enough. 1 also keeps a program that collects cores from being started: core(5).
            _, most = resource.getrlimit(resource.RLIMIT_CORE)
            resource.setrlimit(resource.RLIMIT_CORE, (0 if most == 0 else 1, most))
        with contextlib.suppress(OSError, ValueError):
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            os.kill(os.getpid(), number)
    os._exit(BY_SIGNAL + number)


def _killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _refused(target: int, error: OSError) -> None:
    name = "standard output" if target == 1 else "standard error"
    tell(f"the server's output cannot be written to {name} ({error.strerror}): it is thrown away while that lasts")


def _write_line(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, os.fsencode(f"forewarn: {text}\n"))


def _same(one: int, other: int) -> bool:
    """Whether two descriptors lead to the same place."""
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[3:])
