"""What the tests of the log tail share: lines that say something, dumps, and readings to wait for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from exporter.model import Failure, Incident, LogEntry, LogEvent, LogFacts, Noticed, Position
from exporter.process.logtail import LogTail
from exporter.process.output import QUIET
from tests.servers import wait_until


class Clock:
    """Stands still but for what a test adds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Numbers:
    """Lines that say a number, and limits."""

    literals = (b"EVENT ", b"LIMIT ")

    def read(self, text: str, at: float | None) -> LogEntry | None:
        found = re.fullmatch(r"(EVENT|LIMIT) (\d+)", text)
        if found is None:
            return None
        return Noticed(LogEvent.FLUSHED if found[1] == "EVENT" else LogEvent.LIMIT, at, int(found[2]))


def event(number: int) -> bytes:
    return b"EVENT %d\n" % number


def dump(number: int) -> bytes:
    """A crash, up to the line that closes it."""
    frames = b"main.work(0x1)\n\t/src/main.go:%d +0x1d\nmain.main()\n\t/src/main.go:7 +0x25\n" % number
    return b"panic: boom %d\n\ngoroutine 1 [running]:\n%sexit status 2\n" % (number, frames)


def told(entries: Sequence[LogEntry]) -> list[str]:
    """Entries as short texts: their order and number is what matters."""
    return [_name(it) for it in entries]


def _name(entry: LogEntry) -> str:
    if isinstance(entry, Noticed):
        return f"{entry.event.value} {entry.value}"
    return entry.message if isinstance(entry, Incident) else "exited"


class Reader:
    """Reads a log tail and keeps everything that it tells."""

    def __init__(self, tail: LogTail) -> None:
        self.tail = tail
        self.entries: list[LogEntry] = []
        self.positions: tuple[Position, ...] = ()
        self.facts: LogFacts | None = None
        self.failure: Failure | None = None
        self.dropped = 0
        self.read_bytes = 0

    async def read(self) -> LogFacts | None:
        self.facts, self.failure = await self.tail.read()
        if self.facts is not None:
            self.entries += self.facts.entries
            self.positions = self.facts.positions
            self.dropped += self.facts.dropped
            self.read_bytes += self.facts.read_bytes
        return self.facts

    async def until(self, condition: Callable[[], object], what: str = "", deadline: float = 10.0) -> Any:
        async def holds() -> object:
            await self.read()
            return condition()

        return await wait_until(holds, deadline, what=what or f"only {told(self.entries)} and {self.failure}")

    async def until_told(self, *expected: str) -> None:
        await self.until(lambda: len(self.entries) >= len(expected), f"{expected} told")
        assert told(self.entries) == list(expected), told(self.entries)

    async def settle(self, clock: Clock) -> None:
        """Let what is open be taken as whole: it has been quiet for long enough."""
        await self.until_drained()
        clock.now += QUIET
        await self.read()

    async def until_drained(self) -> None:
        """Until every byte has been read."""
        await self.until(lambda: self.facts is not None and not self.facts.unread_bytes, "nothing unread")


@asynccontextmanager
async def tailing(*files: str | Path, **options: Any) -> AsyncIterator[Reader]:
    """A log tail that has looked once at what there is."""
    tail = LogTail([str(it) for it in files], **({"rules": [Numbers()]} | options))
    reader = Reader(tail)
    try:
        await reader.read()
        yield reader
    finally:
        await tail.close()


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def replace(path: Path, content: bytes) -> None:
    """Write it over what is there, in the same file."""
    path.write_bytes(content)
