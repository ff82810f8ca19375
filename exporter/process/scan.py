"""Finds what matters in a process's output at the speed of the disk: crashes, and lines that say something.

A chunk is searched for the byte strings one of which is in every line that matters. Where none is found, that search is
all that the chunk costs. Lines are split only around what was found, and where an incident is open.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
from ahocorasick_rs import BytesAhoCorasick, MatchKind

from exporter.model import LogEntry
from exporter.process.envelopes import MARKS, MAX_TEXT, Piece, cleaned, is_record, own_time, peel, said, wrapping
from exporter.process.gocrash import LITERALS, GoCrashParser, handled

MAX_LINE: Final = 256 * 1024
"""Most bytes of a line that are looked at: the rest is cut off. Docker's longest take 100 KB, whatever they hold."""

MAX_STREAMS: Final = 64
"""In so many streams of one output something may be open. Then the one that was silent for the longest is closed."""

MAX_WAITING: Final = 1000
"""So many entries wait at most for what is open beside them. Where there are more, all are told at once, and once more
to a reader that starts again before that is closed."""

SILENT_BYTES: Final = 256 * 1024
"""A stream in which something is open is closed after so many bytes of other streams: it may never go on."""

SILENT_SECONDS: Final = 3.0
"""An incident is closed so long after the last line of a stack: a dump is printed at once, and then others may go on
printing for ever, too little for its end to be seen in what they print."""

MAX_TOGETHER: Final = 64
"""So many byte strings are searched for at 8 GB/s. With one more it would be a tenth of that."""

_SEGMENT: Final = 256 * 1024
_FOREIGN: Final = "{}"
_ADDRESS: Final = " +0x"
_GOROUTINE: Final = "goroutine "
_STATE: Final = re.compile(rb"goroutine \d{1,20} (?:[^\[\n]{1,64} )?\[([^\]\n]*)\]")


class LineRules(Protocol):
    """What certain lines of the output say."""

    @property
    def literals(self) -> tuple[bytes, ...]:
        """Byte strings one of which is in every line that says something."""

    def read(self, text: str, at: float | None) -> LogEntry | None:
        """Return what a line says, if anything. It comes out of its envelope; ``at``: when it was printed."""


class Scanner:
    """Reads one file or feed, in chunks that may be cut anywhere. Never raises, and is bounded whatever comes."""

    def __init__(self, rules: Sequence[LineRules] = ()) -> None:
        self._rules = tuple(rules)
        literals = _shortest(it for each in (LITERALS, MARKS, *(each.literals for each in rules)) for it in each)
        self._searches = tuple(
            BytesAhoCorasick(
                literals[begin : begin + MAX_TOGETHER], matchkind=MatchKind.LeftmostFirst
            ).find_matches_as_indexes
            for begin in range(0, len(literals), MAX_TOGETHER)
        )
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._waiting: list[tuple[int, LogEntry]] = []
        self._now = 0.0
        self._fed = 0
        self._since: int | None = None
        self._tail = bytearray()
        self._tail_size = 0

    @property
    def open(self) -> bool:
        """Whether something is unfinished, so that :meth:`flush` may tell more."""
        return self.held > 0

    @property
    def held(self) -> int:
        """How many of the bytes that were fed last belong to something unfinished.

        A reader that starts again there, with a new scanner, is told all that was not told yet, and nothing again: what
        is found beside something open waits until that is closed.
        """
        return self._tail_size if self._since is None else self._fed - self._since

    def feed(self, chunk: bytes, now: float) -> list[LogEntry]:
        """Read on, and return what has been found, in the order in which it was printed.

        ``now``, in Unix time, is the ``at`` of what the log has no time for.
        """
        self._now = now
        for name in [name for name, each in self._streams.items() if now - each.grown_at > SILENT_SECONDS]:
            self._close(name)
        begin = 0
        if self._tail_size:
            begin = chunk.find(b"\n") + 1
            if begin:
                self._hold(chunk[: begin - 1])
                self._read_held(self._fed + begin - 1)
        end = chunk.rfind(b"\n") + 1
        while begin < end:
            stop = chunk.rfind(b"\n", begin, begin + _SEGMENT) + 1 or chunk.find(b"\n", begin) + 1
            self._read(chunk, begin, stop, self._fed)
            begin = stop
        self._hold(chunk[end:])
        self._fed += len(chunk)
        return self._release()

    def flush(self, now: float) -> list[LogEntry]:
        """Take what is unfinished as finished: at the end of the output, or where nothing more comes for a while."""
        self._now = now
        if self._tail_size:
            self._read_held(self._fed)
        while self._streams:
            self._close(next(iter(self._streams)))
        return self._release()

    def _hold(self, part: bytes) -> None:
        """Keep a part of a line until the line's end comes."""
        self._tail_size += len(part)
        if not self._tail:
            part = part.lstrip(b"\0")
        self._tail += part[: MAX_LINE - len(self._tail)]

    def _read_held(self, end: int) -> None:
        """Read the line that was kept, which ends before the output's byte ``end``."""
        line, begin = bytes(self._tail), end - self._tail_size
        self._tail.clear()
        self._tail_size = 0
        self._read(line + b"\n", 0, len(line) + 1, begin)

    def _read(self, data: bytes, begin: int, end: int, base: int) -> None:
        """Read the lines of ``data`` from ``begin`` to ``end``; its first byte is the output's byte ``base``."""
        found = self._find(data, begin, end)
        at = tried = begin
        while at < end:
            if not self._streams:
                if not found.move(at):
                    return
                at = data.rfind(b"\n", at, found.start) + 1 or at
            stop = data.find(b"\n", at, end)
            # A file that was truncated while a process wrote to it begins with a hole.
            raw = data[at:stop].lstrip(b"\0")[:MAX_LINE]
            stream = self._line(raw, base + at, matched=found.move(at) and found.start < stop)
            at = stop + 1
            if stream is not None and stream.bulk is not None and stream.parser.counting and at >= tried:
                limit = data.rfind(b"\n", at, found.start) + 1 or at if found.move(at) else end
                behind, tried = stream.skip(stream.bulk, data, at, limit)
                if behind > at:
                    stream.seen = base + max(at, data.rfind(b"\n", at, behind - 1) + 1)
                    at = behind

    def _find(self, data: bytes, begin: int, end: int) -> _Found:
        view = memoryview(data)[begin:end]
        starts = [begin + start for search in self._searches for _, start, _ in search(view)]
        if len(self._searches) > 1:
            starts.sort()
        return _Found(starts)

    def _line(self, raw: bytes, offset: int, *, matched: bool) -> _Stream | None:
        """Read one line. Returns its stream, if there is something open in it."""
        while self._streams and offset - next(iter(self._streams.values())).seen > SILENT_BYTES:
            self._close(next(iter(self._streams)))
        piece = peel(raw, self._now)
        if piece is None or not (matched or piece.stream in self._streams):
            return None
        stream = self._streams.pop(piece.stream, None) or _Stream()
        while len(self._streams) >= MAX_STREAMS:
            self._close(next(iter(self._streams)))
        self._streams[piece.stream] = stream
        stream.seen = offset
        line = stream.joined(piece, offset, self._now, matched=matched)
        if line is not None:
            self._waiting += stream.take(line, raw, self._rules, self._now)
        if not stream.open:
            del self._streams[piece.stream]
        if not self._streams:
            self._since = None
        elif self._since is None or (len(self._streams) == 1 and stream.open and stream.begun == offset):
            self._since = offset
        return stream if stream.open else None

    def _close(self, name: str) -> None:
        self._waiting += self._streams.pop(name).end(self._rules, self._now)
        if not self._streams:
            self._since = None

    def _release(self) -> list[LogEntry]:
        if not self._waiting:
            return []
        self._waiting.sort(key=lambda it: it[0])
        since = self._since
        kept = [] if since is None else [it for it in self._waiting if it[0] >= since]
        if len(kept) > MAX_WAITING:
            kept = []
        told = [entry for _, entry in self._waiting[: len(self._waiting) - len(kept)]]
        self._waiting = kept
        return told


class _Found:
    """Where something was found, from the first on."""

    __slots__ = ("_next", "_starts", "start")

    def __init__(self, starts: list[int]) -> None:
        self._starts = starts
        self._next = 0
        self.start = -1

    def move(self, at: int) -> bool:
        """Go on to the first at or behind ``at``, which is :attr:`start` then, and tell whether there is one."""
        starts, each = self._starts, self._next
        while each < len(starts) and starts[each] < at:
            each += 1
        self._next = each
        if each == len(starts):
            return False
        self.start = starts[each]
        return True


class _Line(msgspec.Struct, frozen=True, gc=False):
    """A whole line of a stream."""

    text: str
    at: float | None
    begun: int
    """The offset of its first byte."""
    matched: bool
    """Whether it may matter."""


class _Stream:
    """What is open in one stream: an incident, or a line of which not all pieces have come."""

    def __init__(self) -> None:
        self.parser = GoCrashParser()
        self.begun = 0
        """The offset of the first byte of what is open."""
        self.seen = 0
        """The offset of its last line."""
        self.grown_at = 0.0
        """When the last line came that what is open consists of."""
        self.bulk: re.Pattern[bytes] | None = None
        """Fits a run of lines that are part of a dump, in this stream's envelope."""
        self._pieces: list[str] = []
        self._size = 0
        self._first: _Line | None = None

    @property
    def open(self) -> bool:
        return self.parser.open or self._first is not None

    def joined(self, piece: Piece, offset: int, now: float, *, matched: bool) -> _Line | None:
        """Return the line that ``piece`` completes, if it does."""
        first = self._first or _Line("", piece.at, offset, matched)
        if self._first is None and piece.whole:
            return msgspec.structs.replace(first, text=piece.text)
        if self._first is None and not self.parser.open:
            self.begun = offset
        text = piece.text[: MAX_TEXT - self._size]
        if text:
            self._pieces.append(text)
            self._size += len(text)
        self._first = first
        self.grown_at = now
        return self._completed() if piece.whole else None

    def take(self, line: _Line, raw: bytes, rules: Sequence[LineRules], now: float) -> Iterator[tuple[int, LogEntry]]:
        """Read a line, and return what it says and what it closes, with the offset of its first byte."""
        text = cleaned(line.text)
        record = is_record(text)
        at = line.at
        if line.matched:
            if at is None:
                at = own_time(text, now)
            yield from (
                (line.begun, it) for each in rules if (it := each.read(text[:MAX_TEXT], now if at is None else at))
            )
            if record and (it := _quoted(text, at, now)):
                yield line.begun, it
        was_open = self.parser.open
        if not (was_open or line.matched):
            return
        closed = self.parser.line(_FOREIGN if record else text[:MAX_TEXT], now if at is None else at)
        yield from ((self.begun, it) for it in closed)
        if closed or not was_open:
            self.begun = line.begun
        if closed or not was_open or _ADDRESS in text or text.startswith(_GOROUTINE):
            self.grown_at = now
        if self.parser.counting and self.bulk is None and text.startswith(_GOROUTINE):
            self.bulk = _bulk(raw, text)

    def end(self, rules: Sequence[LineRules], now: float) -> Iterator[tuple[int, LogEntry]]:
        """Close what is open."""
        if self._first is not None:
            yield from self.take(self._completed(), b"", rules, now)
        yield from ((self.begun, it) for it in self.parser.end())

    def skip(self, bulk: re.Pattern[bytes], data: bytes, begin: int, limit: int) -> tuple[int, int]:
        """Count the goroutines of the dump's lines from ``begin`` on.

        Returns where the lines begin that are to be read, and from where on this may be of use again. The last line
        with an address is among those to be read: it tells the parser that up to there all was of the dump.
        """
        run = bulk.match(data, begin, limit)
        end = begin if run is None else run.end()
        last = data.rfind(_ADDRESS.encode(), begin, end)
        stop = data.rfind(b"\n", begin, max(begin, last)) + 1 or begin
        if stop > begin:
            for state, times in Counter(_STATE.findall(data, begin, stop)).items():
                self.parser.count(state.decode("utf-8", "replace"), times)
        return stop, end

    def _completed(self) -> _Line:
        first = self._first
        assert first is not None  # noqa: S101 - only called where there is one
        text = "".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._first = None
        # What was searched for may stand across two pieces.
        return msgspec.structs.replace(first, text=text, matched=True)


def _quoted(text: str, at: float | None, now: float) -> LogEntry | None:
    words, written_at = said(text, now)
    return handled(words, next((it for it in (at, written_at) if it is not None), now))


def _shortest(literals: Iterable[bytes]) -> list[bytes]:
    """Return the byte strings to search for: those that are in none of the others, also as JSON writes them."""
    forms = {form for literal in literals for form in _forms(literal)}
    return sorted(one for one in forms if not any(other in one for other in forms if other != one))


def _forms(literal: bytes) -> Iterator[bytes]:
    yield literal
    in_json = msgspec.json.encode(literal.decode("utf-8", "replace"))[1:-1]
    yield in_json
    yield in_json.replace(b"<", rb"\u003c").replace(b">", rb"\u003e").replace(b"&", rb"\u0026")


def _bulk(raw: bytes, text: str) -> re.Pattern[bytes] | None:
    """Return what fits a run of a dump's lines, of which ``raw`` is one, and ``text`` the same without its envelope.

    Each line's first bytes decide what it must be, so that nothing is ever looked at twice.
    """
    around = wrapping(raw, text)
    if around is None:
        return None
    before, behind, in_json = around
    rest, word, tab = (
        (rb'[^"\\\n]*+(?:\\u[^"\\\n]*+)*+', rb'[^\s("\\]++', rb"\\t")
        if in_json
        else (rb"[^\n]*+", rb"[^\s(]++", rb"\t")
    )
    body = rb"|".join(
        (
            tab + rest + rb"(?<=[0-9a-f])",
            word + rb"\(" + rest + rb"(?<=\))",
            rb"goroutine \d++ [^\n\[]*\[" + rest + rb"(?<=:)",
            rb"created by " + rest,
            rb"\.\.\." + rest + rb"(?<=elided\.\.\.)",
        )
    )
    # A blank line may be without the space behind the prefix.
    bare = before.removesuffix(rb"\ ")
    space = b" " if len(bare) < len(before) else b""
    return re.compile(
        b"(?:" + bare + b"(?:" + space + b"(?:" + body + b"))?+" + space + b"?" * bool(space) + behind + rb"\n)*+"
    )
