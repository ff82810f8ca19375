"""The process that receives StatsD, as the sidecar sees it: started, asked, and ended, each within a deadline.

It is a plain child of this process, not one of the event loop's: it outlives no loop, needs no watcher and no task, and
starting it takes a few milliseconds. That it has ended is seen by the end of the stream to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from exporter.model import Failure, Reason
from exporter.statsd.report import LENGTH, MAX_FRAME, Ask, Config, Report, framed

COMMAND: Final = (sys.executable, "-P", "-m", "exporter.statsd.receiver")
"""What is started; its configuration follows as one more argument."""

GRACE: Final = 1.0
"""Seconds in which it may end by itself."""

KILL_DEADLINE: Final = 1.0
"""Seconds in which the kernel ends it: longer only where it hangs in the kernel itself."""

MOMENT: Final = 0.02
"""Seconds for which everything may stand still while the kernel ends it: it takes a hundredth of that."""

PIECE: Final = 256 * 1024
"""Bytes that are read of an answer at once."""

PIPE: Final = 64 * 1024
"""Bytes that a pipe holds, as Linux makes it."""

MAX_SAID: Final = 2048
"""Most bytes that are kept of what it writes to its standard error."""

_KEPT: Final = ("LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")  # beside what Python itself understands


class ReceiverError(Exception):
    """The process is of no more use, and is to be ended. ``failure`` tells why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class EndedError(Exception):
    """The process has ended, or is about to: nothing more can be read of it."""


class ReceiverProcess:
    """One process, and the stream to it. Not for use by several tasks at once."""

    def __init__(self, config: Config, *, command: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """Start it. It inherits the sockets of ``config``, and no secret. Raises ``OSError``."""
        self.asked = False
        """Whether it owes an answer."""
        self.said = b""
        """The end of what it wrote to its standard error."""
        self._clock = clock
        self._buffer = bytearray()
        self._decoder = msgspec.msgpack.Decoder(Report)
        self.started = self.moved = clock()
        """When it was started, and when it was asked or anything of an answer came, by ``clock``."""
        self._stream, theirs = socket.socketpair()
        self._stderr, writing = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this package's own, by its full path
                [*command, msgspec.json.encode(config).decode()],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=writing,
                pass_fds=[it for it in (config.udp, config.tcp, config.unix) if it is not None],
                env=_environment(os.environ),
            )
        except OSError:
            self._stream.close()
            os.close(self._stderr)
            raise
        finally:
            theirs.close()
            os.close(writing)
        self._stream.setblocking(False)
        os.set_blocking(self._stderr, False)

    @property
    def pid(self) -> int:
        """Its process id."""
        pid: int = self._process.pid
        return pid

    def ask(self, question: Ask) -> None:
        """Ask it. Only where it owes no answer. Raises :class:`EndedError`."""
        try:
            # There is room: the stream is empty, but for an answer that is owed.
            self._stream.send(framed(question))
        except OSError as error:
            raise EndedError from error
        self.asked = True
        self.moved = self._clock()

    async def receive(self, until: float) -> tuple[Report, int] | None:
        """Return the next part of the answer and its size; ``None``: it has not come until then, by the loop's time.

        To be cancelled at any time: nothing of the stream is lost. Raises :class:`EndedError`, and
        :class:`ReceiverError` for what is no part of an answer.
        """
        await asyncio.sleep(0)  # a large answer is many parts: others have their turn in between
        late = False
        while (part := self._part()) is None:
            try:
                piece = self._stream.recv(PIECE)
            except BlockingIOError:
                if late or not await self._readable(until):
                    return None
                continue
            except OSError as error:
                raise EndedError from error
            if not piece:
                raise EndedError
            self._buffer += piece
            self.moved = self._clock()
            late = asyncio.get_running_loop().time() >= until
        if part[0].last is not None:
            self.asked = False
        return part

    def drain(self) -> None:
        """Read what it wrote to its standard error, lest it wait for that."""
        with contextlib.suppress(BlockingIOError):
            self.said = (self.said + os.read(self._stderr, PIPE))[-MAX_SAID:]

    def hang_up(self) -> None:
        """Close the stream: it ends by itself then. Safe to call twice."""
        self._stream.close()

    async def end(self, grace: float = GRACE) -> str | None:
        """Let it end for ``grace`` seconds, then kill it; return how it ended, ``None``: not even so.

        Where this is cancelled it is killed at once.
        """
        self.hang_up()
        try:
            if not await self._has_ended(grace):
                self._process.kill()
                await self._has_ended(KILL_DEADLINE)
        finally:
            if self._process.poll() is None:  # there was no time for more
                self._process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(MOMENT)
        if self._process.returncode is None:
            return None
        if self._stderr >= 0:
            self.drain()
            os.close(self._stderr)
            self._stderr = -1
        return _how(self._process.returncode)

    async def _has_ended(self, deadline: float) -> bool:
        if self._process.poll() is None and deadline > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, deadline)
        return self._process.poll() is not None

    def _part(self) -> tuple[Report, int] | None:
        """Take one whole message off what has been read."""
        if len(self._buffer) < LENGTH:
            return None
        size = int.from_bytes(self._buffer[:LENGTH], "big")
        if size > MAX_FRAME:
            raise _unusable(Reason.PROTOCOL, f"{size} bytes long, more than the {MAX_FRAME} that a part may have")
        end = LENGTH + size
        if len(self._buffer) < end:
            return None
        try:
            report = self._decoder.decode(self._buffer[LENGTH:end])
        except msgspec.MsgspecError as error:
            raise _unusable(Reason.DECODE, f"not understood ({error})") from error
        del self._buffer[:end]
        return report, size

    async def _readable(self, until: float) -> bool:
        """Wait for something to read. What is read is never held by what may be cancelled."""
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self._stream, _wake, ready)
        try:
            async with asyncio.timeout_at(until):
                await ready
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._stream)
        return True


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _unusable(reason: Reason, why: str) -> ReceiverError:
    told = f"an answer of the process that receives StatsD is {why}"
    return ReceiverError(Failure(reason, f"{told}: it is ended; was Forewarn updated under its feet? Restart it"))


def _how(status: int) -> str:
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"ended with status {status}"


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the process: of ours only what Python needs, for secrets may stand in the rest.

    It finds this package where this process found it, but never by the folder that it happens to run in.
    """
    kept = {name: value for name, value in ours.items() if name in _KEPT or name.startswith("PYTHON")}
    root = str(Path(__file__).resolve().parents[2])
    if root != sysconfig.get_path("purelib"):
        kept["PYTHONPATH"] = os.pathsep.join(it for it in (root, kept.get("PYTHONPATH")) if it)
    return kept
