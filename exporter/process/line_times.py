"""When those lines of a plain log were printed that tell no time, as those of a Go crash: by the lines before them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from exporter.process.envelopes import cleaned, own_time
from exporter.process.gocrash import LITERALS

LOOK_BACK: Final = 4096
"""How many bytes before such a line a time is looked for in."""

MAX_LINE: Final = 64 * 1024
"""Most bytes of a line that are waited for to be whole."""


class LineTimes:
    """Cuts one log, handed over in chunks, before each line that may begin an incident.

    Every piece comes with the time of the last line before it that tells one: it is not later than the piece was
    printed. Before there is such a line it is ``newest``.
    """

    def __init__(self, newest: float) -> None:
        self._newest = newest
        self._last: float | None = None
        self._search = BytesAhoCorasick(LITERALS, matchkind=MatchKind.LeftmostFirst).find_matches_as_indexes
        self._before = b""
        self._rest = b""

    def pieces(self, chunk: bytes) -> Iterator[tuple[bytes, float]]:
        """Yield ``chunk`` in pieces. The last line is kept back until it is whole."""
        chunk = self._rest + chunk
        end = chunk.rfind(b"\n") + 1
        if len(chunk) - end > MAX_LINE:
            end = len(chunk)
        self._rest = chunk[end:]
        yield from self._cut(chunk[:end])

    def rest(self) -> Iterator[tuple[bytes, float]]:
        """Yield what was kept back, at the end of the log."""
        last, self._rest = self._rest, b""
        yield from self._cut(last)

    def _cut(self, lines: bytes) -> Iterator[tuple[bytes, float]]:
        begin = 0
        for _, found, _ in self._search(lines):
            start = lines.rfind(b"\n", 0, found) + 1
            if start > begin:
                yield lines[begin:start], self._time()
                begin = start
                self._look_back(lines, start)
            elif start == 0:
                self._look_back(lines, 0)
        if begin < len(lines):
            yield lines[begin:], self._time()
        self._before = (self._before + lines[-LOOK_BACK:])[-LOOK_BACK:]

    def _time(self) -> float:
        return self._newest if self._last is None else self._last

    def _look_back(self, lines: bytes, start: int) -> None:
        """Learn the time of the last line before ``start`` that tells one, if it is not far away."""
        part = lines[max(0, start - LOOK_BACK) : start]
        if len(part) < LOOK_BACK:
            part = (self._before + part)[-LOOK_BACK:]
        for line in reversed(part.split(b"\n")[:-1]):
            at = own_time(cleaned(line.decode("utf-8", "replace")), self._newest)
            if at is not None:
                self._last = at
                return
