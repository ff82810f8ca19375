"""The findings as a person reads them: on a terminal, or in a file or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

from exporter.check.finding import Finding, State
from exporter.settings import Settings

OWN: Final = "this Forewarn"

WIDEST: Final = 110
"""Most columns that are used: longer lines are hard to read."""

NARROWEST: Final = 60

_WORDS: Final = {State.OK: "ok", State.WARNING: "warn", State.FAILED: "FAIL", State.OFF: "off"}
_STYLES: Final = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.OFF: "dim"}
_LINES: Final = "    "
"""What an exact line of a remedy begins with."""
_TEXT: Final = 22
"""The column of what is told."""
_SHORT: Final = 8
"""The column of an exact line that has no room there."""


def write_table(findings: Sequence[Finding], settings: Settings, out: TextIO, *, seconds: float) -> None:
    """Write the findings to ``out``, coloured where that is a terminal. ``seconds``: how long it took to find them."""
    console = Console(file=out, highlight=False, emoji=False, markup=False)
    width = max(NARROWEST, min(WIDEST, console.width))
    groups = [(it.name, it.name) for it in settings.servers]
    for server, title in (*groups, (None, OWN)):
        console.print(Text(title, style="bold"), soft_wrap=True)
        for line in _rows((it for it in findings if it.server == server), width):
            console.print(line, soft_wrap=True)  # lines are broken here already, and exact ones must not be
        console.print()
    console.print(_summary(findings, seconds), soft_wrap=True)


def _rows(findings: Iterable[Finding], width: int) -> Iterator[Text]:
    for found in findings:
        dim = "dim" if found.state is State.OFF else ""
        bold = "bold" if found.state is State.FAILED else dim
        first, *rest = _wrapped(found.what, width)
        begin = Text().append(f" {_WORDS[found.state]:4}  ", style=_STYLES[found.state])
        yield begin.append(f"{found.part:13}  ", style=dim).append(first, style=bold)
        yield from (Text(" " * _TEXT + it, style=bold) for it in rest)
        # An advice for what is off is there for who asks: in the JSON, and in the documentation.
        if found.state in {State.WARNING, State.FAILED}:
            yield from _remedy(found.remedy or "", width)


def _remedy(remedy: str, width: int) -> Iterator[Text]:
    for line in remedy.split("\n"):
        if line.startswith(_LINES):
            exact = line.removeprefix(_LINES)
            yield Text(" " * (_TEXT if _TEXT + len(exact) <= width else _SHORT) + exact, style="cyan")
        else:
            first, *rest = _wrapped(line, width)
            yield Text(" " * (_TEXT - 2) + "> ").append(first)
            yield from (Text(" " * _TEXT + it) for it in rest)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width - _TEXT, break_on_hyphens=False) or [""]


def _summary(findings: Sequence[Finding], seconds: float) -> Text:
    count = {state: sum(it.state is state for it in findings) for state in State}
    failed, warned = count[State.FAILED], count[State.WARNING]
    parts = [f"{failed} failed"] if failed else ["nothing failed"]
    if warned:
        parts.append(f"{warned} warning{'' if warned == 1 else 's'}")
    parts.append(f"{count[State.OK]} ok in {seconds:.1f} s")
    style = _STYLES[State.FAILED if failed else State.WARNING if warned else State.OK]
    return Text(", ".join(parts), style=style)
