"""Which files a path or a pattern names now."""

from __future__ import annotations

import glob
import heapq
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

from exporter.model import Failure, Reason
from exporter.process.logfile import COMPRESSED, MISFITS, Key

MAX_FILES: Final = 256
"""Most files that one pattern follows: the newest of them."""

MAX_ASIDE: Final = 10_000
"""Most files beyond these that are known one by one, so that one that is written to again is no new one."""

SCAN: Final = 1.0
"""Seconds between two looks at what a pattern matches."""

REST: Final = 100
"""A look at what a pattern matches is followed by so many times its duration without one."""

GRACE: Final = 10.0
"""Seconds for which a file that was there may be missing before that is told: so long may a rotation take."""

Found = tuple[str, os.stat_result]

_KEYS: Final = "(log_files)"


class Pattern:
    """One path or pattern. Not for use by several threads at once."""

    def __init__(self, text: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.text = text
        self.failure: Failure | None = None
        """Why it leads to nothing, or not to everything."""
        self.aside: dict[Key, int] = {}
        """Up to where what matches is known that is older than the newest ones, or was until now."""
        self._clock = clock
        self._paths: list[str] = []
        self._crowd: Failure | None = None
        self._scan_at = 0.0
        self._seen_at: float | None = None

    def covers(self, path: str) -> bool:
        """Tell whether a path may be one of those that it names."""
        return path == self.text or fnmatchcase(path, self.text.replace("**/", "*"))

    def find(self) -> Iterator[Found]:
        """Yield the files and named pipes that it names. Never raises."""
        now = self._clock()
        if not glob.has_magic(self.text) or _exists(self.text):
            yield from self._one(now)
            return
        if now >= self._scan_at:
            self._scan(now)
        found = 0
        for path in self._paths:
            try:
                there = os.stat(path)
            except OSError:
                continue
            found += 1
            yield path, there
        self.failure = self._crowd
        if found:
            self._seen_at = now
        elif self._seen_at is None or now - self._seen_at >= GRACE:
            told = f"no file matches {self.text}"
            self.failure = _config(f"{told}: correct it {_KEYS}, or let Forewarn list its folders; it is tried again")

    def _one(self, now: float) -> Iterator[Found]:
        try:
            there = os.stat(self.text)
        except FileNotFoundError:
            if self._seen_at is None or now - self._seen_at >= GRACE:
                told = f"there is no file {self.text}"
                self.failure = _config(f"{told}: correct the path {_KEYS}, or start what writes it; it is awaited")
            return
        except (OSError, ValueError) as error:
            self.failure = unreadable(self.text, error)
            return
        self._seen_at, self.failure = now, None
        misfit = next((text for test, text in MISFITS if test(there.st_mode)), None)
        if self.text.endswith(COMPRESSED):
            misfit = "is compressed, and nothing is written to it any more: `forewarn postmortem` reads such files"
        if misfit is not None:
            self.failure = _config(f"{self.text} {misfit} {_KEYS}")
        else:
            yield self.text, there

    def _scan(self, now: float) -> None:
        """Find the newest files anew. A thousand of them take some milliseconds."""
        began = time.perf_counter()
        total = 0
        aside: dict[Key, int] = {}

        def matching() -> Iterator[tuple[int, str, Key, int]]:
            nonlocal total
            for path in _matches(self.text):
                try:
                    there = os.stat(path)
                except OSError:
                    continue
                if not stat.S_ISREG(there.st_mode) and not stat.S_ISFIFO(there.st_mode):
                    continue
                total += 1
                key = (there.st_dev, there.st_ino)
                if len(aside) < MAX_ASIDE:
                    aside[key] = there.st_size
                yield there.st_mtime_ns, path, key, there.st_size

        newest = heapq.nlargest(MAX_FILES, matching())
        for _, _, key, _ in newest:
            if key not in self.aside:
                aside.pop(key, None)
        self._paths = [path for _, path, _, _ in sorted(newest)]
        # Where it was left off stays known: what was written since is new.
        self.aside = {key: self.aside.get(key, size) for key, size in aside.items()}
        self._crowd = None
        if total > len(newest):
            told = f"{self.text} matches {total} files, and only the {MAX_FILES} newest are followed"
            self._crowd = _config(f"{told}: name fewer of them {_KEYS}")
        self._scan_at = now + max(SCAN, REST * (time.perf_counter() - began))


def _matches(pattern: str) -> Iterable[str]:
    try:
        for path in glob.iglob(pattern, recursive=True):
            if not path.endswith(COMPRESSED):
                yield path
    except (OSError, ValueError):  # a folder that vanishes amid the search, or a NUL in the pattern
        return


def _exists(path: str) -> bool:
    """Tell whether a path that looks like a pattern is one: names may have brackets."""
    return os.path.lexists(path)


def unreadable(path: str, error: OSError | ValueError) -> Failure:
    """Return what to tell of a file that cannot be read."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, PermissionError):
        fix = "let Forewarn's user read it: by the file's group, or with `setfacl -m u:USER:r` (and x on its folders)"
        return _config(f"{path} may not be read: {fix}; it is tried again")
    return _config(f"{path} cannot be read ({why}): correct it {_KEYS}, or see whether its disk answers")


def _config(message: str) -> Failure:
    return Failure(Reason.CONFIG, message)
