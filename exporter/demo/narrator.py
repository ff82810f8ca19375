"""Shows the demo's story on a terminal, or as plain lines where it is none.

On a terminal a few lines below the story keep telling what Forewarn knows now. Nobody who reads slowly stops the demo.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import IO, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from exporter.demo.lines import Chapter, Line, Say
from exporter.logs import TextFormatter, escaped
from exporter.status.document import Level, Signal

MOST_WIDTH: Final = 110
"""Longer lines are hard to read."""

LOOK: Final = "look at"

_STYLES: Final = {
    Say.NOW: "bold",
    Say.CAUGHT: "bold red",
    Say.OVER: "green",
    Say.NOTE: "",
    Say.MISSED: "bold yellow",
}
_LEVELS: Final = {Level.CALM: "green", Level.UNKNOWN: "dim", Level.WARNING: "bold yellow", Level.CRITICAL: "bold red"}


class Narrator:
    """Tells line by line, each with the time since the start."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=not stream.isatty())
        self._clock = clock
        self._started = clock()
        self._live: Live | None = None
        self.when_gone: Callable[[], None] = lambda: None
        """Called when the terminal, or the reader of the pipe, has gone."""
        if self._console.is_terminal:
            self._console.width = min(self._console.width, MOST_WIDTH)

    def open(self, title: str, facts: Sequence[tuple[str, str]], closing: str) -> None:
        """Tell what this is and where to look."""
        table = Table.grid(padding=(0, 2))
        for name, fact in facts:
            table.add_row(Text(name, "dim"), Text(fact, overflow="fold"))
        if self._console.is_terminal:
            self._print(Text(title, "bold"), Padding(table, (1, 2)), Text(closing), Text(""))
        else:
            self._print(Text(title), *(Text(f"  {name:<15} {fact}") for name, fact in facts), Text(closing))

    def tell(self, line: Line) -> None:
        """Tell one line of the story."""
        text = Text(line.text, _STYLES[line.say])
        if line.after is not None:
            caught = line.say is Say.CAUGHT
            lead = f"caught after {line.after:.1f} s: " if caught else f"over after {line.after:.0f} s: "
            text = Text(lead, "bold red" if caught else "bold green").append(Text(line.text, ""))
        if line.say is Say.MISSED:
            text = Text("not caught: ", "bold yellow").append(Text(line.text, ""))
        self._row(line.part, text)
        if line.look is not None:
            self._row(LOOK, Text(line.look, "cyan"))

    def warn(self, text: str) -> None:
        """Tell a warning of the sidecar's log."""
        self._row("log", Text(text, "yellow"))

    def sum_up(self, chapters: Sequence[Chapter], closing: str) -> None:
        """Tell what became of the round."""
        if not self._console.is_terminal:
            for it in chapters:
                self._row(it.part, Text(f"{it.done}: caught {_after(it.caught_after)}, over {_after(it.over_after)}"))
            self._print(Text(closing))
            return
        table = Table(box=None, padding=(0, 2), header_style="dim", title_justify="left")
        for name in ("", "what was done", "caught", "over"):
            table.add_column(name, justify="right" if name in ("caught", "over") else "left")
        for it in chapters:
            missed = "bold yellow" if it.caught_after is None else "bold green"
            table.add_row(it.part, it.done, Text(_after(it.caught_after), missed), _after(it.over_after))
        self._print(Text(""), table, Text(""), Text(closing), Text(""))

    def say(self, text: str) -> None:
        """Tell something that is no part of the story."""
        self._print(Text(text))

    def show(self, signals: Sequence[Signal], address: str) -> None:
        """Show what is known now below the story, where it is a terminal that can."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            self._write(lambda: None)  # to see whether anybody is still there
            return
        table = Table.grid(padding=(0, 2))
        for signal in signals:
            style = _LEVELS[signal.level]
            table.add_row(Text("●", style), Text(signal.name), Text(str(signal.level), style), _short(signal.headline))
        shown = Group(Text("─" * self._console.width, "dim"), table, Text(f"  more at {address}", "dim"))

        def writing() -> None:
            if self._live is None:
                self._live = Live(
                    console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
                )
                self._live.start()
                # Hidden, it would stay so after a demo that was killed.
                self._console.show_cursor(show=True)
            self._live.update(shown, refresh=True)

        self._write(writing)

    def close(self) -> None:
        """Leave the terminal as it was, with the story on it."""
        if self._live is not None:
            live, self._live = self._live, None

            def writing() -> None:
                live.update(Text(""), refresh=True)
                live.stop()

            self._write(writing)

    def _row(self, part: str, text: Text) -> None:
        elapsed = int(self._clock() - self._started)
        at = "" if part == LOOK else f"{elapsed // 60}:{elapsed % 60:02}"
        if not self._console.is_terminal:
            self._print(Text(f"{at:>5}  {part:<12} ").append(text))
            return
        row = Table.grid(padding=(0, 1))
        row.add_column(width=5, justify="right")
        row.add_column(width=11)
        row.add_column(overflow="fold")
        row.add_row(Text(at, "dim"), Text(part, "dim" if part == LOOK else "bold"), text)
        self._print(row)

    def _print(self, *rows: RenderableType) -> None:
        def writing() -> None:
            for row in rows:
                self._console.print(row)

        self._write(writing)

    def _write(self, writing: Callable[[], None]) -> None:
        """Write what fits at once: nobody who reads slowly, or not at all, may stop the demo."""
        try:
            if self._takes_more():
                writing()
                self._console.file.flush()
        except OSError:  # gone
            self._forget()
            self.when_gone()

    def _forget(self) -> None:
        """Let what is still to be written vanish: at the end of the process it would fail again."""
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._console.file.fileno())
            os.close(nowhere)

    def _takes_more(self) -> bool:
        try:
            descriptor = self._console.file.fileno()
        except OSError:  # in memory
            return True
        asked = select.poll()
        asked.register(descriptor, select.POLLOUT)
        state = dict(asked.poll(0)).get(descriptor, 0)
        if state & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError
        return bool(state & select.POLLOUT)


class Warnings(logging.Handler):
    """Hands the sidecar's warnings to the narrator, but for those that the story tells itself."""

    def __init__(self, narrator: Narrator) -> None:
        super().__init__(logging.WARNING)
        self._narrator = narrator
        self.setFormatter(TextFormatter())

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out crashes of workers."""
        return record.getMessage() != "worker crashed"

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one."""
        self._narrator.warn(self.format(record))


def _after(seconds: float | None) -> str:
    return "not seen" if seconds is None else f"after {seconds:.1f} s"


def _short(headline: str) -> Text:
    return Text(escaped(headline), no_wrap=True, overflow="ellipsis")
