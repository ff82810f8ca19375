"""Throttles from Faktory Enterprise's own configuration files.

They stand in ``conf.d/*.toml`` of the server's configuration directory, read in the order of their names; what a
later file says of a queue replaces what an earlier one said.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from exporter.model import Failure, Reason, Scope, ThrottleLimit, label_value

MAX_FILE: Final = 1024 * 1024
"""Largest file that is read, in bytes."""

MAX_FILES: Final = 256
"""Most files that are read."""

_SCOPES: Final = {"concurrency": Scope.CLUSTER, "worker": Scope.WORKER}

Signature = tuple[int, int, int] | None
"""Modification time in nanoseconds, size, inode: a file that differs in none of them is taken to be unchanged.
``None``: it could not be opened; once it can be, it differs."""


class Throttles(msgspec.Struct, frozen=True):
    """What one file says: limits by the queue's full name, and what of it is wrong."""

    limits: Mapping[str, tuple[ThrottleLimit, ...]] = {}
    problems: tuple[str, ...] = ()


def parse_throttles(text: str) -> Throttles:
    """Understand one file's throttles, in either of TOML's spellings.

    An entry that is wrong is told in ``problems`` and left out; the rest is kept.

    Raises:
        ValueError: It is not TOML.
    """
    tables = tomllib.loads(text).get("throttles", {})
    if not isinstance(tables, dict):
        return Throttles(problems=("throttles: must be a table",))
    limits: dict[str, tuple[ThrottleLimit, ...]] = {}
    problems: list[str] = []
    for queue, entry in tables.items():
        found, wrong = _limits(queue, entry)
        if found:
            limits[queue] = found
        problems += [f"throttles.{label_value(queue)!r}{problem}" for problem in wrong]
    return Throttles(limits=limits, problems=tuple(problems))


class ThrottleFiles:
    """The throttles in one configuration directory, read anew only when a file there has changed."""

    def __init__(self, config_dir: Path) -> None:
        self._config_dir = config_dir
        self._folder = config_dir / "conf.d"
        self._files: dict[str, _File] = {}
        self._limits: tuple[ThrottleLimit, ...] = ()
        self._failure: Failure | None = None

    def read(self) -> tuple[tuple[ThrottleLimit, ...], Failure | None]:
        """Return the limits, and what is wrong with the files if anything is.

        A file that is broken keeps what it said last. No ``conf.d`` and no ``[throttles]`` are not wrong: no limits.
        """
        try:
            found = self._list()
        except OSError as error:
            return self._limits, _failure(f"{self._folder} cannot be read: {_mend(error)}")
        if found == {name: file.signature for name, file in self._files.items()}:
            return self._limits, self._failure
        known = self._files
        self._files = {
            name: file
            if (file := known.get(name)) is not None and file.signature == signature
            else self._load(name, signature, file)
            for name, signature in found.items()
        }
        self._merge()
        return self._limits, self._failure

    def _list(self) -> dict[str, Signature]:
        try:
            with os.scandir(self._folder) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".toml"))
        except FileNotFoundError:
            if not self._config_dir.is_dir():
                raise
            return {}
        if len(names) > MAX_FILES:
            raise OSError(f"it holds more than {MAX_FILES} files")
        return {name: _signature(self._folder / name) for name in names}

    def _load(self, name: str, signature: Signature, before: _File | None) -> _File:
        try:
            return _File(signature=signature, throttles=parse_throttles(_text(self._folder / name)))
        except OSError as error:
            problem, signature = f"cannot be read: {_mend(error)}", None
        except (ValueError, RecursionError) as error:
            problem = f"cannot be used, so that its last good content stays in force: {error}"
        last = {} if before is None else before.throttles.limits
        return _File(signature=signature, throttles=Throttles(limits=last, problems=(problem,)))

    def _merge(self) -> None:
        limits: dict[str, tuple[ThrottleLimit, ...]] = {}
        problems: list[str] = []
        for name, file in self._files.items():
            limits.update(file.throttles.limits)
            problems += [f"{self._folder / name}: {problem}" for problem in file.throttles.problems]
        self._limits = tuple(limit for of_queue in limits.values() for limit in of_queue)
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        self._failure = _failure(shown) if problems else None


class _File(msgspec.Struct, frozen=True):
    signature: Signature
    throttles: Throttles


def _signature(path: Path) -> Signature:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def _text(path: Path) -> str:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would block for ever
        raise ValueError("it is not a regular file")
    if about.st_size > MAX_FILE:
        raise ValueError(f"it is larger than the {MAX_FILE} bytes that are read")
    with path.open("rb") as file:
        return file.read(MAX_FILE).decode()


def _limits(queue: str, entry: object) -> tuple[tuple[ThrottleLimit, ...], tuple[str, ...]]:
    """Return the limits of one queue, and what is wrong with its entry."""
    if not isinstance(entry, dict):
        return (), (": must be a table such as { concurrency = 4, timeout = 60 }",)
    found: list[ThrottleLimit] = []
    problems: list[str] = []
    for key, scope in _SCOPES.items():
        if key not in entry:
            continue
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, int):
            problems.append(f".{key}: must be a whole number, not {type(value).__name__}")
        elif not 0 <= value < 2**31:
            problems.append(f".{key}: must be at least 0 and less than 2147483648")
        else:
            found.append(ThrottleLimit(queue=label_value(queue), scope=scope, limit=value))
    if not found and not problems:
        nested = any(isinstance(value, dict) for value in entry.values())
        hint = ": put a queue's name that contains a dot in quotes" if nested else ""
        problems.append(f": neither concurrency nor worker is set{hint}")
    return tuple(found), tuple(problems)


def _mend(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied: run as the same user as Faktory, or let this user read it"
    if isinstance(error, FileNotFoundError):
        return "it does not exist: name the directory that Faktory is started with (`-c`)"
    return error.strerror.lower() if error.strerror else str(error)


def _failure(message: str) -> Failure:
    return Failure(reason=Reason.CONFIG, message=message)
