"""The ledger: every command and every page that the stand-in was asked for."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Self

MAX_ARGUMENTS = 200
"""Longest part of a command's arguments that is kept, in characters."""


class Ledger:
    """Appends one JSON object a line, each written out at once, so that it can be read while the server runs.

    Commands: ``{"at": unix seconds, "peer": number of the connection, "verb": ..., "arguments": ...}``.
    Pages: ``{"at": unix seconds, "method": ..., "path": ...}``. Password hashes are blotted out.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("a", buffering=1, encoding="utf-8")

    def command(self, peer: int, verb: str, arguments: str) -> None:
        """Note one command of connection ``peer``."""
        if self._file is not None:
            if verb == "HELLO":
                arguments = re.sub(r'("pwdhash"\s*:\s*")[^"]*', r"\1***", arguments)
            self._write({"peer": peer, "verb": verb[:MAX_ARGUMENTS], "arguments": arguments[:MAX_ARGUMENTS]})

    def page(self, method: str, path: str) -> None:
        """Note one HTTP request."""
        self._write({"method": method, "path": path[:MAX_ARGUMENTS]})

    def _write(self, entry: dict[str, object]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"at": time.time(), **entry}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
