"""One stream of output as it is scanned: how much at once, and when what is unfinished is taken as whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from exporter.model import Failure, LogEntry, LogEvent, Noticed, Reason
from exporter.process.scan import LineRules, Scanner

QUIET: Final = 2.0
"""Seconds without output after which an incident, and a line without an end, are taken as whole."""

TURN: Final = 0.001
"""Seconds that the scanner may work at once: the event loop waits for the interpreter meanwhile."""

NAP: Final = 0.00005
"""Seconds for which it then leaves the interpreter to others."""

MIN_PIECE: Final = 16 * 1024
MAX_PIECE: Final = 512 * 1024
"""Bytes that it is fed at once: many where they are only searched, few where they are read line by line."""

logger = logging.getLogger("forewarn.logtail")


class Output:
    """The scanner of one stream. Never raises, whatever was printed."""

    def __init__(
        self,
        name: str,
        rules: Sequence[LineRules],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        history: bool = False,
    ) -> None:
        """``history``: what is printed there was before anyone watched, until :meth:`go_live`."""
        self.name = name
        self.failure: Failure | None = None
        """Set where the scanner failed."""
        self.history = history
        self._rules = rules
        self._clock = clock
        self._wall = wall
        self._scanner = Scanner(rules)
        self._piece = MAX_PIECE
        self._worked = 0.0
        self._fed_at = clock()

    @property
    def open(self) -> bool:
        """Whether an incident is being read."""
        return self._scanner.open

    @property
    def held(self) -> int:
        """How many of the bytes fed last belong to something unfinished."""
        return self._scanner.held

    def feed(self, chunk: bytes) -> list[LogEntry]:
        """Return what ``chunk`` tells, with what was before it."""
        self._fed_at = self._clock()
        entries: list[LogEntry] = []
        start = 0
        while start < len(chunk):
            piece = chunk[start : start + self._piece]
            start += len(piece)
            began = time.thread_time()
            entries += self._told(lambda scanner, now, piece=piece: scanner.feed(piece, now))  # type: ignore[misc]
            took = time.thread_time() - began
            if took > TURN:
                self._piece = max(MIN_PIECE, self._piece // 2)
            elif took < TURN / 4 and len(piece) == self._piece:
                self._piece = min(MAX_PIECE, self._piece * 2)
            self._worked += took
            if self._worked >= TURN:
                # Who waits for the interpreter is asleep, and too late where it is free only between two pieces.
                self._worked = 0.0
                time.sleep(NAP)
        return entries

    def flush(self) -> list[LogEntry]:
        """Take what is unfinished as whole: the stream has come to its end."""
        return self._told(lambda scanner, now: scanner.flush(now)) if self.open or self.held else []

    def rest(self) -> list[LogEntry]:
        """Do so where it has been quiet for long enough."""
        return self.flush() if self._clock() - self._fed_at >= QUIET else []

    def go_live(self) -> list[LogEntry]:
        """Tell everything from here on. What the history left unfinished belongs to it, and is returned."""
        entries = self.flush()
        self.history = False
        return entries

    def _told(self, ask: Callable[[Scanner, float], list[LogEntry]]) -> list[LogEntry]:
        try:
            entries = ask(self._scanner, self._wall())
        except Exception:
            # What a server prints is not in our hands: no line of it may end the watch over the next ones.
            logger.exception("output could not be read; it goes on behind it", extra={"fields": {"of": self.name}})
            told = f"a part of the output in {self.name} could not be read, and what it told is lost"
            fix = "it is a defect of Forewarn's: report it with what its log tells of it"
            self.failure = Failure(Reason.DECODE, f"{told}: {fix}")
            self._scanner = Scanner(self._rules)
            return []
        if self.history:
            return [it for it in entries if isinstance(it, Noticed) and it.event is LogEvent.LIMIT]
        return entries
