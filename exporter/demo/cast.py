"""The child processes of the demo, and the folder that they work in: all of it goes with this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from exporter.demo import child, keeper

END_DEADLINE = 5.0
"""Seconds that children have to end by themselves before they are killed."""

CLEAN_DEADLINE = 10.0
"""Seconds for the folder to go after the last child."""


class CastError(Exception):
    """The demo's folder could not be made."""


class Cast:
    """Starts processes that are bound to this process's life, and ends those that still run."""

    def __init__(self, folder: Path, rope: int) -> None:
        self.folder = folder
        """Removed when the last of them has ended."""
        self._rope = rope
        self._running: list[asyncio.subprocess.Process] = []

    async def start(
        self,
        log: str,
        program: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        told: bool = False,
    ) -> asyncio.subprocess.Process:
        """Start one; what it prints goes to the file ``log`` of the folder, or to a pipe where it is to be ``told``."""
        # To be cancelled in between would leave a process that nobody knows.
        starting = asyncio.ensure_future(self._start(log, program, arguments, environment or {}, told=told))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait({starting})
            raise

    async def _start(
        self, log: str, program: str, arguments: tuple[str, ...], environment: Mapping[str, str], *, told: bool
    ) -> asyncio.subprocess.Process:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAKTORY", "FOREWARN"))}
        with (self.folder / log).open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *child.command(program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if told else file,
                stderr=file,
                # Away from the terminal: Ctrl-C is for the demo, which ends these.
                start_new_session=True,
                pass_fds=(self._rope,),
                env={**kept, **environment},
            )
        self._running.append(process)
        return process

    async def python(self, log: str, module: str, *arguments: str, told: bool = False) -> asyncio.subprocess.Process:
        """Start a module of this package."""
        return await self.start(log, sys.executable, "-m", module, *arguments, told=told)

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        """End one at once, as the kernel would."""
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self.forget(process)

    def forget(self, process: asyncio.subprocess.Process) -> None:
        """Drop one that has ended."""
        with contextlib.suppress(ValueError):
            self._running.remove(process)

    async def end(self, *processes: asyncio.subprocess.Process) -> None:
        """Ask some of them, or all, to end, and kill those that do not."""
        ending = list(processes or self._running)
        for process in ending:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waiting = [asyncio.ensure_future(process.wait()) for process in ending]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=END_DEADLINE)
            if late:
                for process in ending:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                await asyncio.wait(waiting)
        for process in ending:
            self.forget(process)

    def also_remove_if_new(self, file: Path) -> None:
        """Have a file that is not there yet removed with the folder, if it is this user's then."""
        if not file.exists():
            os.write(self._rope, f"{file}\n".encode())

    def log(self, name: str, lines: int = 20) -> str:
        """Return the end of what was printed to the file ``name``."""
        with contextlib.suppress(OSError):
            return "\n".join((self.folder / name).read_text(errors="replace").strip().splitlines()[-lines:])
        return ""


@asynccontextmanager
async def cast() -> AsyncIterator[Cast]:
    """Yield a cast with a folder of its own. At the end no process and no file of it is left.

    Nor is there if this process is killed: its children end with it, and the folder goes after the last of them.
    """
    # Not TMPDIR: the path of a unix socket must be short.
    folder = Path(f"/tmp/forewarn-demo-{secrets.token_hex(6)}")  # noqa: S108 - nobody can guess it, and it must be new
    hand, rope = os.pipe()  # neither is inherited but by those that are handed it
    try:
        keeping = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", keeper.__file__, str(folder)),
            stdin=hand,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        os.close(rope)
        raise
    finally:
        os.close(hand)
    held: Cast | None = None
    try:
        assert keeping.stdout is not None  # noqa: S101 - it was asked for
        if not await keeping.stdout.readline():
            raise CastError(f"cannot make the folder {folder}: is /tmp full, or not writable?")
        held = Cast(folder, rope)
        yield held
    finally:
        if held is not None:
            await asyncio.shield(held.end())
        os.close(rope)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(keeping.wait(), CLEAN_DEADLINE)
