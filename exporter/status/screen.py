"""A status as lines of text for a terminal of any size: what ``forewarn top`` shows.

Names come from the server that is watched and are untrusted: nothing of them reaches the terminal but what it shows as
text, and it is never read as markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from exporter.status.document import Level, ServerStatus, Signal, Status, Trend
from exporter.status.words import count, lasting, share

SPARK: Final = 12
"""Columns of a sparkline in a narrow terminal."""

WIDE_SPARK: Final = 40
"""The same in a wide one, and where there is no width."""

WIDE: Final = 120
"""Columns from which a terminal is wide."""

NARROWEST: Final = 20

MOST_SUMMARY: Final = 2
"""Lines of a summary."""

_BARS: Final = "▁▂▃▄▅▆▇█"
_ASCII_BARS: Final = "_.:-=+*#"

_WORDS: Final[Mapping[Level, str]] = {
    Level.CALM: "calm",
    Level.UNKNOWN: "unknown",
    Level.WARNING: "WARNING",
    Level.CRITICAL: "CRITICAL",
}
_STYLES: Final[Mapping[Level, str]] = {
    Level.CALM: "green",
    Level.UNKNOWN: "cyan",
    Level.WARNING: "bold yellow",
    Level.CRITICAL: "bold white on red",
}
_RANKS: Final = {Level.CRITICAL: 0, Level.WARNING: 1, Level.UNKNOWN: 2, Level.CALM: 3}


class Frame(NamedTuple):
    """Where it is shown."""

    width: int | None
    """Columns; ``None``: as many as it takes."""
    height: int | None
    """Lines; ``None``: as many as it takes."""
    ascii: bool = False
    """Whether only ASCII can be shown."""


class _Section(NamedTuple):
    title: str
    rows: Sequence[Text]
    total: int | None = None
    """How many there are in truth; ``None``: as many as rows."""
    counted: bool = True


def clean(text: str) -> str:
    """Return ``text`` as a terminal may be given it: what cannot be printed, or would turn the line, is spelled out."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def screen(status: Status, frame: Frame, *, source: str, heard: float = 0.0, problem: str | None = None) -> list[Text]:
    """Return the lines of a screen: the worst servers first, and of those as much as there is room for.

    Args:
        status: What is shown.
        frame: Where.
        source: Where it came from.
        heard: How many seconds ago.
        problem: Why nothing newer came.
    """
    first = [_title(status, source, heard if problem is not None else None)]
    first += [] if problem is None else [Text(clean(problem), style="bold red")]
    last = [] if frame.height is None else [Text("q quits", style="dim")]
    servers = sorted(status.servers, key=lambda it: _RANKS[it.level])
    room = None if frame.height is None else max(1, frame.height - len(first) - len(last))
    lines = [*first, *_servers(servers, status.generated_at, frame, room)]
    if frame.height is not None:
        lines = lines[: max(1, frame.height - len(last))]
        lines += [Text()] * (frame.height - len(last) - len(lines)) + last
        lines = lines[: frame.height]
    return [_cut(line, frame) for line in lines]


def _title(status: Status, source: str, heard: float | None) -> Text:
    line = Text()
    if heard is not None:
        line.append(f"last heard {lasting(heard)} ago", style="bold white on red").append("  ")
    line.append(f"Forewarn {clean(status.version)}  {clean(source)}  ", style="bold").append_text(_level(status.level))
    if not status.servers:
        line.append("  no server is watched")
    return line


def _servers(servers: Sequence[ServerStatus], now: float, frame: Frame, room: int | None) -> Iterable[Text]:
    """Return each in one line, with its signals and what else there is as far as there is room."""
    if room is not None and len(servers) > room:
        shown = servers[: room - 1]
        yield from (_in_one_line(it) for it in shown)
        yield Text(f"and {count(len(servers) - len(shown), 'more server')}: they do not fit here", style="dim")
        return
    left = None if room is None else room - len(servers)
    blocks: list[list[Text]] = []
    for server in servers:
        block = _block(server, frame)
        if left is not None and len(block) - 1 > left:
            blocks.append([_in_one_line(server)])
            continue
        left = None if left is None else left - (len(block) - 1)
        blocks.append(block)
    for server, block in zip(servers, blocks, strict=True):
        yield from block
        if len(block) == 1:
            continue
        more = _sections(server, now, frame, left)
        left = None if left is None else left - len(more)
        yield from more
        if left is None or left > 0:
            yield Text()
            left = None if left is None else left - 1


def _in_one_line(server: ServerStatus) -> Text:
    return Text.assemble(
        (clean(server.name), "bold"), "  ", _level(server.level), "  ", (clean(server.summary), "default")
    )


def _block(server: ServerStatus, frame: Frame) -> list[Text]:
    """Return what is always told of a server: how it is, and its four signals."""
    facts = [{True: "up", False: "DOWN", None: "not polled yet"}[server.up]]
    if server.version is not None:
        facts.append(f"{clean(server.system)} {clean(server.version)} {clean(server.edition or '')}".rstrip())
    if server.workers is not None:
        facts.append(count(server.workers, "worker"))
    facts += [f"{clean(name)} {count(number)}" for name, number in server.sets.items() if name != "working"]
    if server.age is not None:
        facts.append(f"polled {lasting(server.age)} ago")
    head = Text.assemble((clean(server.name), "bold"), "  ", _level(server.level), "  ", ", ".join(facts))
    summary = _wrapped(clean(server.summary), frame, MOST_SUMMARY if frame.height is not None else None)
    return [head, *summary, *(_signal(it, frame) for it in server.signals)]


def _signal(signal: Signal, frame: Frame) -> Text:
    wide = frame.width is None or frame.width >= WIDE
    columns = WIDE_SPARK if wide else SPARK
    spark = "" if signal.trend is None else sparkline(signal.trend, columns, ascii=frame.ascii)
    line = Text(f"  {set_cell_size(clean(signal.title), 12)} ")
    line.append_text(_level(signal.level, 8))
    line.append(f" {spark:<{columns}} {clean(signal.headline)}")
    return line


def sparkline(trend: Trend, columns: int, *, ascii: bool = False) -> str:  # noqa: A002 - what it is called
    """Return the values in at most ``columns`` characters, oldest first: a gap where nothing was known."""
    values = trend.values
    groups = min(columns, len(values))
    bars = _ASCII_BARS if ascii else _BARS
    parts = [values[len(values) * each // groups : len(values) * (each + 1) // groups] for each in range(groups)]
    largest = [max((value for value in part if value is not None), default=None) for part in parts]
    top = max((value for value in largest if value is not None), default=0.0)
    top = max(top, 1.0) if isfinite(top) else 1.0
    return "".join(
        " " if value is None else bars[min(len(bars) - 1, max(0, int(value / top * len(bars))))] for value in largest
    )


def _sections(server: ServerStatus, now: float, frame: Frame, room: int | None) -> list[Text]:
    """Return what else there is, as far as there is room: of each the first rows before more of any."""
    sections = [it for it in _all_sections(server, now, frame) if it.rows]
    rows = [len(it.rows) for it in sections] if room is None else _shared([len(it.rows) for it in sections], room)
    lines: list[Text] = []
    for section, shown in zip(sections, rows, strict=True):
        if shown:
            total = len(section.rows) if section.total is None else section.total
            counted = f" ({count(shown)} of {count(total)})" if total > shown else f" ({count(total)})"
            lines.append(Text(section.title + (counted if section.counted else ""), style="bold"))
            lines += section.rows[:shown]
    return lines


def _shared(wanted: Sequence[int], room: int) -> list[int]:
    """Return how many rows each section gets of ``room`` lines, in which each has a title too."""
    given = [0] * len(wanted)
    for number, rows in enumerate(wanted):
        if rows and room >= 2:
            given[number], room = 1, room - 2
    while room > 0 and any(0 < have < rows for have, rows in zip(given, wanted, strict=True)):
        for number, rows in enumerate(wanted):
            if 0 < given[number] < rows and room > 0:
                given[number], room = given[number] + 1, room - 1
    return given


def _all_sections(server: ServerStatus, now: float, frame: Frame) -> list[_Section]:
    return [
        _Section("What needs attention", _wrong(server, frame), counted=False),
        _Section("Orphans", _orphans(server, frame), server.orphan_count),
        _Section("Oldest busy jobs", _busy(server, frame), server.busy_count),
        _Section("Throttles", _throttles(server, frame), server.throttle_count),
        _Section("Happenings", _happenings(server, now)),
        _Section("Queues", _queues(server, frame), server.queue_count),
        _Section("What Forewarn cannot see", _blind(server)),
    ]


def _wrong(server: ServerStatus, frame: Frame) -> list[Text]:
    found = [(it.level, it.text, it.runbook) for it in server.concerns]
    for it in server.signals:
        if it.level is not Level.CALM and it.advice is not None:
            told = f"{it.title}: {it.headline}. {it.meaning or ''} {it.advice}"
            found.append((it.level, told, it.runbook))
    rows: list[Text] = []
    for level, told, runbook in sorted(found, key=lambda it: _RANKS[it[0]]):
        words = " ".join(clean(told + _runbook(runbook)).split())
        first, *more = _wrapped(f"{_WORDS[level]} {words}", frame, None)
        first.stylize(_STYLES[level], 2, 2 + len(_WORDS[level]))
        rows += [first, *(Text(f"  {line.plain}") for line in more)]
    return rows


def _runbook(name: str | None) -> str:
    return "" if name is None else f" [{clean(name)}]"


def _busy(server: ServerStatus, frame: Frame) -> list[Text]:
    return _table(
        [
            (
                lasting(it.age),
                "?" if it.used is None else f"{share(it.used)} used",
                "ORPHAN" if it.orphan else "",
                clean(it.jobtype),
                clean(it.queue),
                clean(it.jid),
                clean(it.worker),
            )
            for it in server.busy
        ],
        frame,
    )


def _orphans(server: ServerStatus, frame: Frame) -> list[Text]:
    return _table(
        [
            (
                f"for {lasting(it.age)}",
                "" if it.returns_in is None else f"back in {lasting(it.returns_in)}",
                clean(it.jobtype),
                clean(it.queue),
                clean(it.jid),
                clean(it.worker),
            )
            for it in server.orphans
        ],
        frame,
    )


def _throttles(server: ServerStatus, frame: Frame) -> list[Text]:
    return _table(
        [
            (
                _WORDS[it.level],
                f"{'?' if it.in_use is None else count(it.in_use)} of {count(it.limit)}",
                "?" if it.saturation is None else share(it.saturation),
                "" if it.waiting is None else f"{count(it.waiting)} waiting",
                clean(it.queue),
                clean(it.scope),
            )
            for it in server.throttles
        ],
        frame,
    )


def _queues(server: ServerStatus, frame: Frame) -> list[Text]:
    return _table(
        [
            (
                "" if it.jobs is None else count(it.jobs, "job"),
                "" if it.latency is None else f"waits {lasting(it.latency)}",
                "PAUSED" if it.paused else "",
                clean(it.name),
            )
            for it in server.queues
        ],
        frame,
    )


def _happenings(server: ServerStatus, now: float) -> list[Text]:
    rows = []
    for it in server.happenings:
        line = Text(f"  {lasting(now - it.at) + ' ago':<11} ")
        line.append(clean(it.title), style=_STYLES[it.level] if it.level is not Level.CALM else "")
        more = " ".join(clean(each) for each in (it.detail, it.hint) if each)
        line.append(f"  {more}" if more else "")
        rows.append(line)
    return rows


def _blind(server: ServerStatus) -> list[Text]:
    rows = []
    for it in server.blind:
        line = Text(f"  {clean(it.what)}: {clean(it.why)}")
        if it.remedy is not None:
            line.append(f"{'' if it.why.endswith('.') else '.'} {clean(it.remedy)}")
        rows.append(line)
    return rows


def _table(rows: Sequence[Sequence[str]], frame: Frame) -> list[Text]:
    """Return rows of cells below each other; where they are too wide the widest columns are cut."""
    if not rows:
        return []
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if frame.width is not None:
        while sum(widths) + 2 * len(widths) > frame.width and max(widths) > 1:
            widths[widths.index(max(widths))] -= 1
    return [
        Text("  " + "  ".join(_fitted(cell, width, frame) for cell, width in zip(row, widths, strict=True) if width))
        for row in rows
    ]


def _fitted(cell: str, width: int, frame: Frame) -> str:
    if cell_len(cell) <= width:
        return set_cell_size(cell, width)
    return set_cell_size(cell, width - 1) + ("~" if frame.ascii else "…")


def _wrapped(text: str, frame: Frame, most: int | None) -> list[Text]:
    if frame.width is None:
        return [Text(f"  {text}")]
    lines = textwrap.wrap(text, max(NARROWEST, frame.width - 2)) or [""]
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [Text(f"  {line}") for line in lines]


def _level(level: Level, width: int = 0) -> Text:
    word = Text(_WORDS[level], style=_STYLES[level])
    word.append(" " * (width - len(_WORDS[level])), style="default on default")
    return word


def _cut(line: Text, frame: Frame) -> Text:
    if frame.width is not None and line.cell_len > frame.width:
        end = "~" if frame.ascii else "…"
        line.truncate(frame.width - 1, overflow="crop")
        line.append(end)
    line.no_wrap, line.overflow, line.end = True, "crop", "\n"
    line.rstrip()
    return line
