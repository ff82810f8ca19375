"""What a Faktory prints, in the light of what else is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from exporter.faktory.versions import Version
from exporter.model import Failure, LogEntry, LogEvent, LogFacts, Noticed

LATELY: Final = 3600.0
"""Seconds for which a page that somebody loaded is taken to be loaded again."""

REFUSES_SINCE: Final = (1, 9)
"""Before, a server that had too many connections said the same and let the next one in."""

PAGES: Final = (LogEvent.BUSY_PAGE, LogEvent.STATS_PAGE)


class Tail(Protocol):
    """What follows a server's output: see :class:`exporter.process.logtail.LogTail`."""

    async def read(self) -> tuple[LogFacts | None, Failure | None]:
        """Return what was printed since the last call, and what went wrong if anything did. Never raises."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


class Output:
    """The output of one Faktory. Not for use by several tasks at once."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._was_read = False
        self._loaded: dict[LogEvent, float] = {}
        self.pid: int | None = None
        """Its process id, as it told it last, where it runs; ``None``: it has not told any."""

    async def read(self, version: Version | None, now: float) -> tuple[LogFacts | None, Failure | None]:
        """Return what was printed since the last call, and what went wrong if anything did. Never raises.

        ``version`` is the server's, where that is known; ``now`` is its clock.
        """
        facts, failure = await self._tail.read()
        if facts is None:
            return None, failure
        self._was_read = True
        for entry in facts.entries:
            self._note(entry, now)
        if version is not None and version < REFUSES_SINCE:
            entries = tuple(it for it in facts.entries if not _refused(it))
            facts = msgspec.structs.replace(facts, entries=entries)
        return facts, failure

    def pages(self, now: float) -> Mapping[LogEvent, bool] | None:
        """Tell of each of ``PAGES`` whether somebody loaded it lately; ``None`` before anything could be read."""
        if not self._was_read:
            return None
        return {page: now - self._loaded.get(page, -LATELY) < LATELY for page in PAGES}

    async def close(self) -> None:
        """Let go of everything."""
        await self._tail.close()

    def _note(self, entry: LogEntry, now: float) -> None:
        if not isinstance(entry, Noticed):
            return
        if entry.event is LogEvent.STARTED:
            self.pid = entry.value
        if entry.event in PAGES:
            self._loaded[entry.event] = now if entry.at is None else min(now, entry.at)


def _refused(entry: LogEntry) -> bool:
    return isinstance(entry, Noticed) and entry.event is LogEvent.CONNECTION_REFUSED
