"""The runbooks as tests read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

RUNBOOKS: Final = Path(__file__).parent.parent / "docs" / "runbooks"

_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(Struct, frozen=True):
    """A fenced block of a page."""

    page: str
    """The alert's name."""
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}.md, line {self.line}"


def pages() -> dict[str, str]:
    """Return the text of every page by the name of its alert."""
    return {path.stem: path.read_text() for path in sorted(RUNBOOKS.glob("*.md")) if path.stem != "README"}


def blocks(language: str) -> Iterator[Block]:
    """Yield every fenced block in ``language``, of all pages."""
    for page, text in pages().items():
        for found in _BLOCK.finditer(text):
            if found[1] == language:
                yield Block(page, text.count("\n", 0, found.start()) + 1, language, found[2])
