"""Whether what a server prints can be read: its log files, and the journal of its unit."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exporter.check.access import let_read, obstacle
from exporter.check.finding import Report, remedy
from exporter.check.places import ServerPlaces
from exporter.process.journal import COMMAND
from exporter.process.logglob import Pattern
from exporter.settings import LogWatch
from exporter.threads import in_time

PART: Final = "log"

FILES_DEADLINE: Final = 3.0
"""Seconds for looking at the files of one pattern."""

JOURNAL_DEADLINE: Final = 5.0
"""Seconds for ``journalctl``."""

MAX_SAID: Final = 16 * 1024
"""Most bytes that are taken of what ``journalctl`` says."""


_KEPT: Final = ("LANG", "LC_ALL", "PATH", "TZ")
"""What ``journalctl`` gets of our environment: secrets may stand in the rest."""


async def check_log(
    watch: LogWatch | None, report: Report, places: ServerPlaces, *, journalctl: Sequence[str] = COMMAND
) -> None:
    """Tell whether each file, pattern and journal that is named can be read. Nothing is read but one journal entry."""
    if watch is None:
        how = places.set("log_files", "/var/log/faktory.log", "to learn why the process died, name where it prints")
        report.off(PART, "nobody reads what the server prints: crashes of its process have no known reason", how)
        return
    with report.trying(PART):
        files = [_file(text, report, places) for text in watch.files]
        journals = [_journal(unit, report, places, journalctl) for unit in watch.journals]
        await asyncio.gather(*files, *journals)


async def _file(text: str, report: Report, places: ServerPlaces) -> None:
    if text == "-":
        report.ok(PART, "standard input is read when forewarn run is")
        return
    try:
        found, failure = await in_time(lambda: _look(text), FILES_DEADLINE)
    except TimeoutError:
        how = remedy("see whether the disk that it is on answers:", f"ls -l {shlex.quote(_shown(text))}")
        report.failed(PART, f"{_shown(text)} was not looked at within {FILES_DEADLINE:g} s", how)
        return
    if not found:
        await _missing(text, failure, report, places)
        return
    for path in found:
        await _readable(path, report)
    if failure is not None:
        report.warning(PART, *_parts(failure))


def _look(text: str) -> tuple[list[Path], str | None]:
    pattern = Pattern(text)
    found = [Path(path) for path, _ in pattern.find()]
    return found, None if pattern.failure is None else pattern.failure.message


async def _missing(text: str, failure: str | None, report: Report, places: ServerPlaces) -> None:
    """Tell of a path that leads nowhere: perhaps for want of a right on the way to it."""
    shown = _shown(text)
    fixed = Path(_fixed_part(text))
    with contextlib.suppress(OSError, TimeoutError):
        blocked = await in_time(lambda: obstacle(fixed, os.R_OK | (os.X_OK if fixed.is_dir() else 0)), FILES_DEADLINE)
        if blocked is not None:
            report.failed(PART, f"{shown} may not be read: {blocked.told}", let_read(blocked, fixed))
            return
    what, _ = _parts(failure or f"there is no file {shown}")
    how = places.set("log_files", "/path/of/its.log", "start what writes it, or name the right file")
    report.failed(PART, what, how)


async def _readable(path: Path, report: Report) -> None:
    try:
        blocked = await in_time(lambda: obstacle(path, os.R_OK), FILES_DEADLINE)
    except (OSError, TimeoutError) as error:
        how = remedy("see whether it is still there and its disk answers:", f"ls -l {shlex.quote(str(path))}")
        report.failed(PART, f"{path} cannot be looked at ({getattr(error, 'strerror', None) or 'in time'})", how)
        return
    if blocked is None:
        report.ok(PART, f"{path} can be read")
    else:
        report.failed(PART, f"{path} may not be read: {blocked.told}", let_read(blocked, path))


async def _journal(unit: str, report: Report, places: ServerPlaces, command: Sequence[str]) -> None:
    what = f"the journal of {unit}"
    by_hand = f"journalctl --unit={shlex.quote(unit)} --lines=1"
    try:
        status, printed, said = await _ask(
            [*command, "--output=json", "--quiet", "--no-pager", "--lines=1", f"--unit={unit}"]
        )
    except TimeoutError:
        told = f"{what}: {command[0]} did not answer within {JOURNAL_DEADLINE:g} s"
        report.failed(PART, told, remedy("try it by hand:", by_hand))
        return
    except OSError as error:
        why = "there is none here" if isinstance(error, FileNotFoundError) else error.strerror or "cannot be started"
        how = places.set("log_files", "/var/log/faktory.log", "let its output go into a file, and name that instead")
        report.failed(PART, f"{what} cannot be read without {command[0]}, and {why}", how)
        return
    if printed.startswith("{"):
        report.ok(PART, f"{what} can be read")
    elif status != 0 or "permission" in said.lower() or "not seeing" in said.lower():
        who = shlex.quote(str(os.geteuid()))
        how = remedy("let Forewarn's user read the journal, then start Forewarn anew:", _join_journal(who))
        report.failed(PART, f"{what} may not be read{f' ({said})' if said else ''}", how)
    else:
        how = places.set("log_journals", "UNIT.service", "see by `systemctl list-units` what the unit is called")
        report.warning(PART, f"{what} holds no entry that Forewarn may read: is that the unit's name?", how)


def _join_journal(uid: str) -> str:
    return f'usermod -aG systemd-journal "$(id -nu {uid})"'


async def _ask(command: Sequence[str]) -> tuple[int, str, str]:
    """Run a program; return its status and what it printed. Raises ``OSError``, and ``TimeoutError``."""
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in _KEPT if name in os.environ},
        limit=MAX_SAID,
    )
    try:
        async with asyncio.timeout(JOURNAL_DEADLINE):
            printed, said = await asyncio.gather(_some(child.stdout), _some(child.stderr))
            status = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return status, printed, " ".join(said.split())[:200]


async def _some(stream: asyncio.StreamReader | None) -> str:
    text = b""
    while stream is not None and (piece := await stream.read(MAX_SAID)):
        text = (text + piece)[:MAX_SAID]
    return text.decode(errors="replace")


def _shown(text: str) -> str:
    """Return a pattern without what keeps its folder from being one."""
    return text.replace("[*]", "*").replace("[?]", "?").replace("[[]", "[")


def _fixed_part(text: str) -> str:
    """Return the folder up to which a pattern names one path."""
    parts = Path(text).parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return str(Path(*parts[:fixed]))


def _parts(message: str) -> tuple[str, str]:
    what, _, how = message.partition(": ")
    return what, how or "see its log"
