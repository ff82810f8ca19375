"""Follows the files of a log, whatever becomes of them: renamed, copied and truncated, removed, replaced, new.

What a file is, is told by its device, its inode and its first bytes, not by its path. Where another one takes a path
over, it continues the stream of the one before, so that an incident may begin in one and end in the other.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from exporter.model import Failure, LogEntry, Position
from exporter.process.logfile import MIN_HEAD, Key, LogFile
from exporter.process.logglob import Pattern, unreadable
from exporter.process.outbox import Outbox
from exporter.process.output import Output
from exporter.process.scan import LineRules

REST: Final = 60.0
"""Seconds without a byte after which a file that was rotated or removed is closed: who writes may hold it for long."""

LONG_REST: Final = 3600.0
"""The same for one that was moved away and has no successor: it may well be that it is still written to."""

MAX_GONE: Final = 64
"""Where there are more of those, they are closed after the shorter time."""

MAX_ROTATED: Final = 16
"""Most files of one stream that are read one after the other."""

MAX_NAMES: Final = 10_000
"""Most names of a folder that are gone through for a file that was moved."""

MAX_CANDIDATES: Final = 64
"""Most files that are opened for it."""


class Stream:
    """Files that continue each other, the oldest first, and what scans them."""

    def __init__(self, path: str, output: Output, files: Iterable[LogFile]) -> None:
        self.path = path
        """Where its newest file is followed."""
        self.output = output
        self.files = list(files)
        self.told: tuple[Position, ...] | None = None
        """The positions that were put last."""
        self._fed: deque[tuple[LogFile, int]] = deque()  # of which file, how many bytes: enough for what is held

    @property
    def unread(self) -> int:
        """Bytes that are still to be read."""
        return sum(it.unread for it in self.files)

    def feed(self, file: LogFile, chunk: bytes) -> list[LogEntry]:
        """Return what the next bytes of one of its files tell."""
        entries = self.output.feed(chunk)
        if self._fed and self._fed[-1][0] is file:
            file, before = self._fed.pop()
        else:
            before = 0
        self._fed.append((file, before + len(chunk)))
        return entries

    def positions(self) -> tuple[Position, ...]:
        """Return up to where its files belong to what was told; none amid the history, that is read anew then."""
        if self.output.history:
            return ()
        back = self._held()
        return tuple(it.position(self.path, back.get(it, 0)) for it in self.files)

    def holds(self, file: LogFile) -> bool:
        """Tell whether something unfinished began in this file."""
        return file in self._held()

    def replace(self, file: LogFile, *others: LogFile) -> None:
        """Put others in the place of a file; the first of two holds what of it is unfinished."""
        at = self.files.index(file)
        self.files[at : at + 1] = others
        if len(others) > 1:
            self._fed = deque((others[0] if it is file else it, size) for it, size in self._fed)

    def _held(self) -> dict[LogFile, int]:
        """Return how many of the bytes of each file belong to something unfinished."""
        held = self.output.held
        back: dict[LogFile, int] = {}
        kept = 0
        for file, size in reversed(self._fed):
            if held <= 0:
                break
            kept += 1
            back[file] = back.get(file, 0) + min(held, size)
            held -= size
        while len(self._fed) > max(1, kept):
            self._fed.popleft()
        return back


class LogFiles:
    """Every file that is followed. Not for use by several threads at once. Never raises for what the disk does."""

    def __init__(
        self,
        patterns: Sequence[str],
        outbox: Outbox,
        *,
        rules: Sequence[LineRules] = (),
        positions: Sequence[Position] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.pipes: dict[str, Key] = {}
        """The named pipes that were found."""
        self._patterns = [Pattern(it, clock=clock) for it in patterns]
        self._outbox = outbox
        self._rules = rules
        self._clock = clock
        self._wall = wall
        self._streams: list[Stream] = []
        self._paths: dict[str, Key] = {}
        self._left: dict[Key, int] = {}  # up to where files were read that could not be read on
        self._broken: dict[str, Failure] = {}
        self._first = True
        self._unseen: set[str] = set()  # were there at first, but could not be opened: what they hold is history
        self._saved: dict[str, list[Position]] = {}
        for position in positions:
            self._saved.setdefault(position.path, []).append(position)

    @property
    def alive(self) -> bool:
        """Whether any file is open."""
        return bool(self._streams)

    @property
    def open(self) -> bool:
        """Whether an incident is being read."""
        return any(it.output.open for it in self._streams)

    @property
    def unread(self) -> int | None:
        """Bytes that are still to be read; ``None`` where no file is open."""
        return sum(it.unread for it in self._streams) if self._streams else None

    @property
    def failures(self) -> Iterator[Failure]:
        """What is wrong now."""
        for pattern in self._patterns:
            if pattern.failure is not None:
                yield pattern.failure
        yield from self._broken.values()
        for stream in self._streams:
            if stream.output.failure is not None:
                yield stream.output.failure

    def look(self) -> None:
        """See which files there are, and how long they are."""
        listed, again = self._list()
        if self._first:
            self._restore()
        self._broken.clear()
        known = self._known()
        for path, key in listed.items():
            before = self._paths.get(path)
            if key in known:
                self._paths[path] = key
            elif self._meet(path, before, known, again=path in again):
                known = self._known()
        self._place(listed)
        # What is read of the older ones must reach as far as what is read of the newer: so these are looked at first.
        for stream in self._streams:
            for file in reversed(stream.files):
                self._see(stream, file)
        self._drop()
        self._first = False
        for stream in self._streams:
            self._put(stream)

    def read(self, between: Callable[[], None]) -> bool:
        """Read some of every file, and call ``between`` after each; return whether there is more."""
        for stream in tuple(self._streams):
            if self._outbox.full:
                return False
            file = next((it for it in stream.files if it.unread), None)
            if file is not None:
                self._read(stream, file)
                between()
        return any(it.unread for it in self._streams)

    def rest(self) -> None:
        """Take what is unfinished as whole where it has been quiet for long enough."""
        for stream in self._streams:
            if not stream.unread and not stream.output.history:
                self._put(stream, stream.output.rest())

    def close(self) -> None:
        """Close every file."""
        for stream in self._streams:
            for file in stream.files:
                file.close()
        self._streams = []

    # What there is.

    def _list(self) -> tuple[dict[str, Key], set[str]]:
        """Return the files that are named now, and which of them a pattern names that was followed before."""
        listed: dict[str, Key] = {}
        again: set[str] = set()
        self.pipes = {}
        for pattern in self._patterns:
            before = any(map(pattern.covers, self._saved)) if self._first else False
            for path, there in pattern.find():
                key = (there.st_dev, there.st_ino)
                if stat.S_ISFIFO(there.st_mode):
                    self.pipes[path] = key
                    continue
                listed[path] = key
                if before and not pattern.aside:
                    again.add(path)
        return listed, again

    def _known(self) -> dict[Key, LogFile]:
        return {file.key: file for stream in self._streams for file in stream.files}

    def _stream_of(self, file: LogFile) -> Stream:
        return next(it for it in self._streams if file in it.files)

    def _add(self, path: str, files: Iterable[LogFile], *, history: bool = False) -> Stream:
        output = Output(path, self._rules, clock=self._clock, wall=self._wall, history=history)
        stream = Stream(path, output, files)
        self._streams.append(stream)
        return stream

    def _meet(self, path: str, before: Key | None, known: dict[Key, LogFile], *, again: bool) -> bool:
        """Open a file that is not known, and decide where to begin; return whether it is followed from now on."""
        try:
            file = LogFile(path)
        except OSError as error:
            self._broken[path] = unreadable(path, error)
            if self._first and not again and path not in self._saved:
                self._unseen.add(path)
            return False
        file.changed_at = self._clock()
        if file.key in known:  # it was renamed this very moment
            file.close()
            return False
        self._paths[path] = file.key
        former = None if before is None else known.get(before)
        unseen = path in self._unseen or (self._first and not again and path not in self._saved)
        self._unseen.discard(path)
        left = self._left_off(file.key)
        if left is not None:
            file.offset = left if left <= file.size else 0
            self._add(path, [file])
        elif former is not None:
            self._succeed(path, file, former)
        elif unseen:
            self._begin(path, file)
        else:
            self._add(path, [file])
        return True

    def _begin(self, path: str, file: LogFile) -> None:
        """Follow a file that nobody watched before: of what it holds only little is told."""
        try:
            file.skip_history()
        except OSError as error:
            self._broken[path] = unreadable(path, error)
            file.offset = file.history_end = file.size
        self._add(path, [file], history=file.offset < file.history_end)

    def _succeed(self, path: str, file: LogFile, former: LogFile) -> None:
        """Let a file continue the one that stood at its path before."""
        if file.begins_like(former) and file.size >= former.offset:
            file.offset = former.offset  # the same content, moved
        stream = self._stream_of(former)
        if stream.files[-1] is former and not stream.output.history:
            stream.files.append(file)
        else:
            self._add(path, [file])

    def _left_off(self, key: Key) -> int | None:
        found = self._left.pop(key, None)
        for pattern in self._patterns:
            aside = pattern.aside.pop(key, None)
            found = aside if found is None else found
        return found

    def _place(self, listed: dict[str, Key]) -> None:
        """Note where each file is now."""
        paths: dict[Key, str] = {}
        for path, key in listed.items():
            paths.setdefault(key, path)
        for stream in self._streams:
            for file in stream.files:
                if listed.get(file.path) != file.key:
                    file.path = paths.get(file.key, file.path)
                file.gone = file.key not in paths
            stream.path = stream.files[-1].path if not stream.files[-1].gone else stream.path
        known = self._known()
        self._paths = {path: key for path, key in self._paths.items() if path in listed or key in known}

    def _see(self, stream: Stream, file: LogFile) -> None:
        try:
            if not file.look(self._clock()):
                self._truncated(stream, file)
        except OSError as error:
            self._give_up(stream, file, error)

    # What becomes of it.

    def _read(self, stream: Stream, file: LogFile) -> None:
        try:
            if file.offset == 0 and self._is_copy(file):
                return
            chunk = file.read(file.history_end if stream.output.history else None)
        except OSError as error:
            self._give_up(stream, file, error)
            return
        if chunk is None:
            self._truncated(stream, file)
            return
        history = stream.output.history
        entries = stream.feed(file, chunk)
        if history and file.offset >= file.history_end:
            entries += stream.output.go_live()
        self._put(stream, entries, size=len(chunk), at=None if history else self._wall())

    def _is_copy(self, file: LogFile) -> bool:
        """Tell whether what is to be read anew is a copy of what is read already, as a rotation by copying makes it."""
        file.see_head()
        for other in self._known().values():
            if other.offset and _is_copy(file, other):
                file.copy_of = other
                return True
        return False

    def _truncated(self, stream: Stream, file: LogFile) -> None:
        """Begin a file anew that holds another content now. The rest of what it held may be in a copy of it."""
        rest: LogFile | None = None
        for copy in self._copies(file):
            if rest is None and copy.size >= file.offset:
                rest = copy
            else:
                copy.offset = copy.size
            copy.copy_of = None
        if rest is not None:
            theirs = self._stream_of(rest)
            theirs.files.remove(rest)
            if not theirs.files:
                self._remove(theirs)
        elif file.offset and not stream.output.history:
            rest = self._find(file.path, file.position(file.path))
        if stream.output.history:
            stream.output.go_live()
        fresh = file.anew()
        fresh.changed_at = self._clock()
        if rest is None:
            stream.replace(file, fresh)
        else:
            rest.offset, rest.changed_at = file.offset, self._clock()
            stream.replace(file, rest, fresh)

    def _copies(self, file: LogFile) -> Iterator[LogFile]:
        for other in self._known().values():
            # One that was found this very moment may not have been compared yet.
            if other.copy_of is file or (other.offset == 0 and other.copy_of is None and _is_copy(other, file)):
                try:
                    other.look(self._clock())
                except OSError:
                    continue
                yield other

    def _give_up(self, stream: Stream, file: LogFile, error: OSError) -> None:
        """Close a file that cannot be read on. Where it can be opened again, it goes on there."""
        self._broken[file.path] = unreadable(file.path, error)
        self._left[file.key] = file.offset
        while len(self._left) > MAX_CANDIDATES:
            self._left.pop(next(iter(self._left)))
        self._close(stream, file)

    def _drop(self) -> None:
        """Close what nothing more will come of."""
        now = self._clock()
        crowded = sum(it.gone for stream in self._streams for it in stream.files) > MAX_GONE
        for stream in tuple(self._streams):
            while len(stream.files) > MAX_ROTATED:
                self._close(stream, stream.files[0])
            for file in tuple(stream.files):
                quiet = now - file.changed_at
                if file.unread or stream.holds(file) or stream.output.history:
                    continue
                if file is not stream.files[-1]:
                    over = quiet >= REST and (file.removed or stream.files[-1].offset > 0)
                    if over and not file.gone:
                        stream.files.remove(file)
                        self._add(file.path, [file])
                        continue
                else:
                    over = self._is_aside(file) or (
                        file.gone and quiet >= (REST if file.removed or crowded else LONG_REST)
                    )
                if over:
                    self._close(stream, file)

    def _is_aside(self, file: LogFile) -> bool:
        """Tell whether there are so many newer ones that this one is not followed now; note how far it was read."""
        if not file.gone:
            return False
        for pattern in self._patterns:
            if file.key in pattern.aside:
                pattern.aside[file.key] = file.offset
                return True
        return False

    def _close(self, stream: Stream, file: LogFile) -> None:
        for copy in self._copies(file):
            copy.offset, copy.copy_of = min(copy.size, file.offset), None
        file.close()
        stream.files.remove(file)
        if not stream.files:
            self._put(stream, stream.output.flush())
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        self._streams.remove(stream)
        self._outbox.forget(stream)

    def _put(self, stream: Stream, entries: Sequence[LogEntry] = (), *, size: int = 0, at: float | None = None) -> None:
        positions = stream.positions()
        if entries or size or positions != stream.told:
            stream.told = positions
            self._outbox.put(stream, entries, positions, size=size, at=at, opened=stream.output.open)

    # Where it was left off by the run before.

    def _restore(self) -> None:
        for path, saved in self._saved.items():
            if not any(it.covers(path) for it in self._patterns):
                continue
            files = [it for it in (self._recover(path, position) for position in saved) if it is not None]
            if files:
                self._add(path, files)
                self._paths[path] = files[-1].key

    def _recover(self, path: str, position: Position) -> LogFile | None:
        """Return the file of a position, wherever it is now."""
        try:
            file = LogFile(path)
        except OSError:
            return self._find(path, position)
        if file.key == (position.device, position.inode) and file.fits(position):
            file.offset, file.changed_at = position.offset, self._clock()
            return file
        file.close()
        return self._find(path, position)

    def _find(self, path: str, position: Position) -> LogFile | None:
        """Return the file of a position, that was renamed in its folder, or its copy there."""
        known = self._known()
        named = (position.device, position.inode)
        copy: LogFile | None = None
        for candidate in islice(_candidates(path, position.inode), MAX_CANDIDATES):
            try:
                file = LogFile(candidate)
            except OSError:
                continue
            same = file.key == named
            if file.key in known or not file.fits(position) or not (same or position.head_size >= MIN_HEAD):
                file.close()
                continue
            if same or copy is None:
                copy, former = file, copy
                if former is not None:
                    former.close()
                if same:
                    break
            else:
                file.close()
        if copy is not None:
            copy.offset, copy.gone, copy.changed_at = position.offset, True, self._clock()
        return copy


def _is_copy(file: LogFile, other: LogFile) -> bool:
    return file is not other and related(other.path, file.path) and file.begins_like(other)


def related(one: str, other: str) -> bool:
    """Tell whether two paths may be a log and what a rotation makes of it: in one folder, and named alike."""
    folder, name = os.path.split(one)
    folder2, name2 = os.path.split(other)
    return folder == folder2 and (name2.startswith(_stem(name)) or name.startswith(_stem(name2)))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _candidates(path: str, inode: int) -> list[str]:
    """Return where a file may be that was at a path: first what has its inode, then what is named like it."""
    real = os.path.realpath(path)
    folders = {os.path.dirname(it): _stem(os.path.basename(it)) for it in (path, real)}
    same: list[str] = []
    alike: list[str] = []
    for folder, stem in folders.items():
        try:
            with os.scandir(folder or ".") as entries:
                for entry in islice(entries, MAX_NAMES):
                    if entry.inode() == inode:
                        same.append(entry.path)
                    elif entry.name.startswith(stem):
                        alike.append(entry.path)
        except OSError:
            continue
    return same + sorted(alike)
