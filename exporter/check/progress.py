"""What is being waited for, on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self, TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

MOST_NAMED: Final = 3
"""Most parts that are named at once."""


class Progress:
    """One line that tells what is being tried; nothing where ``err`` is no terminal."""

    def __init__(self, err: TextIO) -> None:
        console = Console(file=err, highlight=False)
        self._status = Status(Text("trying"), console=console) if console.is_terminal else None
        self._pending: dict[tuple[str | None, str], None] = {}

    def trying(self, server: str | None, part: str, *, begins: bool) -> None:
        """Take note that a part begins to be tried, or that it has been."""
        if begins:
            self._pending[server, part] = None
        else:
            self._pending.pop((server, part), None)
        if self._status is not None:
            self._status.update(Text(line(list(self._pending)), overflow="ellipsis", no_wrap=True))

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()


def line(pending: list[tuple[str | None, str]]) -> str:
    """Return what is said while these are being tried, by server and part."""
    named = [part if server is None else f"{server}: {part}" for server, part in pending[:MOST_NAMED]]
    more = f" and {len(pending) - MOST_NAMED} more" if len(pending) > MOST_NAMED else ""
    return f"trying {', '.join(named)}{more}" if named else "trying"
