"""The state file: what only Forewarn knows, kept over its own restarts.

One JSON document, ``{"version": 1, "servers": {NAME: memory}}``, replaced in one step so that a reader finds either the
old one or the new one. What a memory holds is its owner's business.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

logger = logging.getLogger("forewarn.state")

VERSION: Final = 1

MAX_SIZE: Final = 64 * 1024 * 1024
"""Bytes beyond which a state file is neither written nor read."""

LOST: Final = "the counters of crashes, refusals and saturated time start anew at 0"


class _Document(msgspec.Struct):
    version: int
    servers: dict[str, msgspec.Raw]


class UnusableStateError(Exception):
    """The content of a state file cannot be used: the end of a sentence that begins with its path."""


def read(path: Path) -> bytes:
    """Return the content of a state file, or the beginning of one that is too long; raise OSError as ``open`` does."""
    with path.open("rb") as file:
        return file.read(MAX_SIZE + 1)


def decode(content: bytes) -> Mapping[str, msgspec.Raw]:
    """Return each server's memory as encoded JSON.

    Raises:
        UnusableStateError: That cannot be had of it. What decoding failed by, if it did, is its cause.
    """
    if len(content) > MAX_SIZE:
        raise UnusableStateError(f"is longer than {MAX_SIZE} bytes")
    try:
        # Decoded as a whole first: msgspec passes over what is inside a memory, and its owner expects UTF-8.
        document = msgspec.json.decode(content.decode(), type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableStateError("is broken") from error
    if document.version != VERSION:
        raise UnusableStateError(f"has version {document.version}, and this Forewarn writes version {VERSION}")
    return document.servers


class StateFile:
    """Reads and writes one state file. Never raises for what the disk does: it tells it in the log.

    Not for use by several threads at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False
        self._keep = False

    def load(self) -> Mapping[str, msgspec.Raw]:
        """Return each server's memory as encoded JSON; nothing where there is no file or none that can be used.

        A file that cannot be used is kept beside as ``FILE.broken``.
        """
        try:
            content = read(self._path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            # Not even read: what it holds may be fine, so it is moved away before it would be overwritten.
            return self._lost(f"cannot be read: {_why(error)}")
        try:
            return decode(content)
        except UnusableStateError as error:
            return self._lost(f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error))

    def save(self, memories: Mapping[str, msgspec.Struct]) -> bool:
        """Replace the file by one with ``memories``; return whether that worked. Only a change of that is logged."""
        try:
            content = msgspec.json.encode({"version": VERSION, "servers": memories})
            if len(content) > MAX_SIZE:
                return self._not_saved(f"it would be longer than {MAX_SIZE} bytes")
            if self._keep and self._path.exists():
                return self._not_saved("the broken file there could not be moved away")
            self._replace(content)
        except OSError as error:
            return self._not_saved(_why(error))
        if self._failing:
            self._failing = False
            logger.info("state file is written again", extra={"fields": {"file": str(self._path)}})
        return True

    def _replace(self, content: bytes) -> None:
        # One fixed name, so that a process killed in here leaves one file behind and not one each time.
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.unlink(missing_ok=True)
        # Mode 0600: names of jobs and workers are nobody else's business.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        # The new name itself must reach the disk, or a power cut brings the old file back.
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lost(self, why: str) -> Mapping[str, msgspec.Raw]:
        broken = self._path.with_name(self._path.name + ".broken")
        try:
            if self._path.is_dir():
                # Somebody's folder, named by mistake: not ours to move.
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._path.replace(broken)
            kept = f"it is kept as {broken}"
        except OSError as error:
            self._keep = True
            kept = f"it could not be moved to {broken} ({_why(error)}), so no state is written before it is gone"
        logger.warning("state file %s %s; %s; %s", self._path, why, LOST, kept)
        return {}

    def _not_saved(self, why: str) -> bool:
        if not self._failing:
            self._failing = True
            logger.warning(
                "state file %s cannot be written: %s; make room or make its folder writable, or after a restart %s",
                self._path,
                why,
                LOST,
            )
        return False


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
