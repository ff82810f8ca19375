"""Tells the incidents in logs that are already there: a report for a person, or JSON.

A log may stand in any envelope, and be packed by gzip, bzip2 or xz. It is read once, from its beginning to its end, in
bounded memory.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final, TextIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from exporter.model import Incident, LogEntry
from exporter.process.incident_json import as_object
from exporter.process.incident_report import STANDARD_INPUT, Found, amount, called, grouped, report
from exporter.process.line_times import LineTimes
from exporter.process.scan import Scanner
from exporter.process.unpack import Log, Unreadable
from exporter.secret import tellable

_ROTATED: Final = re.compile(r"(?P<base>.+?)(?:[.-](?P<turn>\d[\d_-]*))?(?:\.(?:gz|bz2|xz|zst))?")
"""A log's name, and its turn as logrotate, Docker or the kubelet name it: a number that grows, or the date."""

STEP: Final = 1024 * 1024
"""How many bytes the bar moves by."""

_DATE: Final = len("20261121")
"""How long a turn is at least that is a date."""


class Postmortem:
    """Reads logs, in the order in which they are named."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        progress: Callable[[str, int], None] = lambda _name, _taken: None,
    ) -> None:
        """``progress`` is told the log that is read, and how many of its bytes have been, as they are stored."""
        self._names = names
        self._progress = progress
        self.read_bytes = 0
        """Unpacked, so far."""
        self.read_logs = 0
        """How many of the logs."""
        self.problems: list[str] = []
        """What could not be read, and how to mend it."""

    def incidents(self) -> Iterator[Found]:
        """Yield every incident, as it stands in the logs."""
        for chain in chains(self._names):
            newest = max(map(_written_at, chain))
            yield from self._incidents(chain, newest)

    def _incidents(self, chain: Sequence[str], newest: float) -> Iterator[Found]:
        scanner, times = Scanner(), LineTimes(newest)
        for name in chain:
            problems = len(self.problems)
            for chunk in self._chunks(name):
                for piece, at in times.pieces(chunk):
                    yield from _found(scanner.feed(piece, at), newest, name)
            if name == chain[-1] or len(self.problems) > problems:  # nothing goes on where it could not be read
                for piece, at in times.rest():
                    yield from _found(scanner.feed(piece, at), newest, name)
                yield from _found(scanner.flush(newest), newest, name)

    def _chunks(self, name: str) -> Iterator[bytes]:
        before = self.read_bytes
        try:
            with _opened(name) as file:
                log = Log(file, name)
                for chunk in log.chunks():
                    self.read_bytes += len(chunk)
                    self._progress(name, log.taken)
                    yield chunk
        except Unreadable as error:
            self.problems.append(f"{called(name)}: {error}")
            if self.read_bytes == before:
                return
        self.read_logs += 1


def _found(entries: Iterable[LogEntry], newest: float, name: str) -> Iterator[Found]:
    for entry in entries:
        if isinstance(entry, Incident):
            at = None if entry.at == newest else entry.at  # that time is nobody's: it was only put in
            yield Found(msgspec.structs.replace(entry, message=tellable(entry.message), at=at), name)


def chains(names: Sequence[str]) -> list[list[str]]:
    """Return ``names`` with those together of which each begins where the one before ends: one log that was rotated."""
    found: list[list[str]] = []
    for name in names:
        if found and _goes_on(found[-1][-1], name):
            found[-1].append(name)
        else:
            found.append([name])
    return found


def _goes_on(before: str, after: str) -> bool:
    old, new = _ROTATED.fullmatch(before), _ROTATED.fullmatch(after)
    if old is None or new is None or old["base"] != new["base"] or old["turn"] is None:
        return False
    was, now = old["turn"], new["turn"]
    if len(was) < _DATE:
        return was.isdigit() and (now is None or now.isdigit()) and int(was) == int(now or 0) + 1
    return now is None or (len(now) == len(was) and was < now)


def _written_at(name: str) -> float:
    """Return a time before which all of a log was printed."""
    told = _stat(name)
    return time.time() if told is None else told.st_mtime


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    standard = name == STANDARD_INPUT
    try:
        file = open(0 if standard else name, "rb", closefd=not standard)  # noqa: SIM115 - closed below
    except IsADirectoryError:
        raise Unreadable(f"it is a folder; name the files in it: {shlex.quote(name.rstrip('/'))}/*") from None
    except FileNotFoundError:
        raise Unreadable("there is no such file; name one that is there") from None
    except OSError as error:
        raise Unreadable(f"it cannot be opened ({error.strerror}); let somebody run this who may read it") from None
    except ValueError:
        raise Unreadable("it is not a path; name a file") from None
    with file:
        yield file


def tell(names: Sequence[str], out: TextIO, err: TextIO, *, as_json: bool) -> int:
    """Read the logs of these ``names`` and write what is in them to ``out``. Returns the exit status.

    It is 1 where something could not be read: ``err`` is told what, and how to mend it. A terminal there is shown how
    far the reading is.
    """
    lines_of_both = as_json and out.isatty()  # the bar would run over them
    with _bar(err, shown=err.isatty() and not lines_of_both) as progress:
        reading = Postmortem(names, progress=progress)
        if as_json:
            write_json(reading.incidents(), out)
        else:
            groups, beyond = grouped(reading.incidents())
    if not as_json and (reading.read_logs or not reading.problems):
        console = Console(file=out, highlight=False, markup=False, emoji=False, soft_wrap=True)
        read = amount(reading.read_logs, reading.read_bytes)
        for line in report(groups, beyond, read, console.width if console.is_terminal else None):
            console.print(Text(line.text, style=line.style))
    err.writelines(f"forewarn: {problem}\n" for problem in reading.problems)
    return 1 if reading.problems else 0


@contextmanager
def _bar(err: TextIO, *, shown: bool) -> Iterator[Callable[[str, int], None]]:
    """Show on a terminal how far the reading is, as it is told."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, console=Console(file=err), transient=True, disable=not shown) as bar:
        task = bar.add_task("", visible=False)
        shown_of, shown_at = "", 0

        def progress(name: str, taken: int) -> None:
            nonlocal shown_of, shown_at
            if name != shown_of:
                shown_of, shown_at = name, 0
                bar.reset(task, description=called(os.path.basename(name)), total=_size(name), visible=True)
            if taken - shown_at >= STEP:
                shown_at = taken
                bar.update(task, completed=taken)

        yield progress


def _size(name: str) -> int | None:
    """Return how many bytes there are to be read; ``None`` where that cannot be known."""
    told = _stat(name)
    return told.st_size if told is not None and stat.S_ISREG(told.st_mode) else None


def _stat(name: str) -> os.stat_result | None:
    try:
        return None if name == STANDARD_INPUT else os.stat(name)
    except (OSError, ValueError):
        return None


def write_json(found: Iterable[Found], out: TextIO) -> None:
    """Write ``{"incidents": [...]}`` in the order of the logs, one incident a line, as they are found."""
    out.write('{"incidents": [')
    between = "\n"
    for each in found:
        out.write(f"{between}{json.dumps(as_object(each.incident))}")
        between = ",\n"
    out.write("\n]}\n")
