"""The runbooks as tests read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.doc_commands import Block
from tests.doc_commands import blocks as blocks_of

RUNBOOKS: Final = Path(__file__).parent.parent / "docs" / "runbooks"


def pages() -> dict[str, str]:
    """Return the text of every page by the name of its alert."""
    return {path.stem: path.read_text() for path in sorted(RUNBOOKS.glob("*.md")) if path.stem != "README"}


def blocks(language: str) -> Iterator[Block]:
    """Yield every fenced block in ``language``, of all pages."""
    for page, text in pages().items():
        yield from (block for block in blocks_of(f"docs/runbooks/{page}.md", text) if block.language == language)
