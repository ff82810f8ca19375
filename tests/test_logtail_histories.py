"""Whatever becomes of a log's files, and however often Forewarn is restarted: every entry is told exactly once."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.process import logglob
from exporter.process.logfile import MIN_HEAD
from exporter.process.logtail import LogTail
from exporter.process.output import QUIET
from tests.logtailing import Clock, Numbers, Reader, append, dump, event, told

# How much more is printed, and what happens behind it.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(["", "", "read", "read", "rename", "rename late", "copy", "restart", "restart renamed"]),
    ),
    max_size=14,
)
PRINTED = st.lists(st.sampled_from(["event", "event", "noise", "noise", "dump"]), max_size=30)


class History:
    """A log that is written to, rotated and read."""

    def __init__(self, folder: Path, printed: list[str], pattern: str) -> None:
        self.log = folder / "server.log"
        self.log.touch()
        self.pattern = str(folder / pattern)
        self.clock = Clock()
        self.expected: list[str] = []
        self.rest = b""
        for number, what in enumerate(printed):
            if what == "event":
                self.rest += event(number)
                self.expected.append(f"flushed {number}")
            elif what == "dump":
                self.rest += dump(number)
                self.expected.append(f"boom {number}")
            else:
                self.rest += b"I 2026-01-01T00:00:00.000Z line %d of what a server prints all day\n" % number
        self.reader = self.started(())
        self.kept: list[str] = []

    def started(self, positions: tuple[object, ...]) -> Reader:
        return Reader(LogTail([self.pattern], rules=[Numbers()], positions=positions, clock=self.clock))  # type: ignore[arg-type]

    def print(self, size: int) -> None:
        append(self.log, self.rest[:size])
        self.rest = self.rest[size:]

    def rename(self) -> None:
        names = sorted(self.log.parent.glob("server.log.*"), key=lambda it: int(it.suffix[1:]), reverse=True)
        for path in names:
            path.rename(path.with_suffix(f".{int(path.suffix[1:]) + 1}"))
        self.log.rename(self.log.with_name("server.log.1"))

    async def run(self, steps: list[tuple[int, str]]) -> list[str]:
        await self.reader.read()
        for size, what in steps:
            self.print(size)
            match what:
                case "read":
                    await self.reader.read()
                case "rename":
                    self.rename()
                    self.log.touch()
                    await self.reader.until_drained()
                case "rename late":
                    self.rename()
                    await self.reader.read()
                    self.log.touch()
                    await self.reader.until_drained()
                case "copy" if self.log.stat().st_size >= MIN_HEAD:  # less does not tell a copy from others
                    await self.reader.until_drained()
                    for number in range(9, 0, -1):
                        path = self.log.with_name(f"server.log.{number}")
                        if path.exists():
                            path.rename(path.with_suffix(f".{number + 1}"))
                    shutil.copy(self.log, self.log.with_name("server.log.1"))
                    self.log.write_bytes(b"")
                    await self.reader.read()
                case "restart":
                    await self.restart()
                case "restart renamed":
                    await self.reader.tail.close()
                    self.rename()
                    self.log.touch()
                    self.print(50)
                    await self.restart()
        self.print(len(self.rest))
        await self.reader.until_drained()
        self.clock.now += QUIET
        await self.reader.read()
        await self.reader.tail.close()
        return self.kept + told(self.reader.entries)

    async def restart(self) -> None:
        """What was found and not told when it ended is told by the next one."""
        await self.reader.tail.close()
        self.kept += told(self.reader.entries)
        self.reader = self.started(self.reader.positions)
        await self.reader.read()


@pytest.mark.parametrize("pattern", ["server.log", "server.log*"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(printed=PRINTED, steps=STEPS)
def test_every_entry_is_told_exactly_once(
    monkeypatch: pytest.MonkeyPatch, pattern: str, printed: list[str], steps: list[tuple[int, str]]
) -> None:
    monkeypatch.setattr(logglob, "SCAN", 0.0)
    monkeypatch.setattr(logglob, "REST", 0)
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder), printed, pattern)
        assert asyncio.run(history.run(steps)) == history.expected
