"""A report on incidents for a person: what happened, how often and when, where in the code, and what to do."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from exporter.logs import escaped
from exporter.model import Incident
from exporter.process.advice import NEXT
from exporter.process.incident_json import rfc3339

MAX_GROUPS: Final = 500
"""Most groups of incidents that are told apart; the rest is counted."""

MAX_FRAMES: Final = 8
"""Most calls of a stack in the report."""

MAX_STATES: Final = 6
"""Most states of goroutines in the report."""

MAX_FILES: Final = 4
"""Most files in the report of a group."""

STANDARD_INPUT: Final = "-"


class Found(NamedTuple):
    """One incident, and the log that it stands in."""

    incident: Incident
    name: str


class Group:
    """Incidents that are alike."""

    def __init__(self, incident: Incident) -> None:
        """``incident``: the first of them, which speaks for all."""
        self.incident = incident
        self.times = 0
        self.first: float | None = None
        self.last: float | None = None
        self.names: dict[str, None] = {}

    def add(self, found: Found) -> None:
        """Count one more of them."""
        self.times += 1
        if len(self.names) <= MAX_FILES:
            self.names[found.name] = None
        at = found.incident.at
        if at is not None:
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)


class Line(NamedTuple):
    """One line of a report."""

    text: str
    style: str = ""
    """As rich calls it."""


def grouped(found: Iterable[Found]) -> tuple[list[Group], int]:
    """Return the groups in the order in which they began, and how many incidents belong to groups beyond the bound."""
    groups: dict[str, Group] = {}
    beyond = 0
    for each in found:
        group = groups.get(each.incident.group)
        if group is None:
            if len(groups) >= MAX_GROUPS:
                beyond += 1
                continue
            group = groups[each.incident.group] = Group(each.incident)
        group.add(each)
    return list(groups.values()), beyond


def report(groups: Sequence[Group], beyond: int, read: str, width: int | None) -> Iterator[Line]:
    """Yield the report for a person, in lines of at most ``width`` characters where they can be broken.

    Crashes stand before what the process survived. ``read``: how much was read, as :func:`amount` says it.
    """
    if not groups:
        yield Line(f"No Go crash, data race or recovered panic in {read}.", "bold")
        yield from _wrapped("", NOTHING_FOUND, width)
        return
    crashes = [group for group in groups if group.incident.crash]
    others = [group for group in groups if not group.incident.crash]
    died, lived = (sum(group.times for group in some) for some in (crashes, others))
    survived = _many(lived, "survived incident", "survived incidents")
    yield Line(f"{_many(died, 'crash', 'crashes')} and {survived} in {read}.", "bold")
    for group in (*crashes, *others):
        yield Line("")
        yield from _told(group, width)
    if beyond:
        yield Line("")
        yield Line(f"And {beyond} more, of other kinds than these {MAX_GROUPS}: --json tells all of them.", "bold")


NOTHING_FOUND: Final = (
    "A process that was killed, or whose output went elsewhere, leaves nothing of the kind: look for its end in the"
    " kernel's log and in its supervisor's."
)


def _told(group: Group, width: int | None) -> Iterator[Line]:
    incident = group.incident
    yield Line(
        f"{incident.kind.value}, {_many(group.times, 'time', 'times')}, {_when(group)}",
        "bold red" if incident.crash else "bold yellow",
    )
    yield from _wrapped("message", escaped(incident.message), width)
    if incident.component is not None:
        yield from _wrapped("in", escaped(incident.component), width)
    for label, frame in zip(_labels("stack"), incident.frames[:MAX_FRAMES], strict=False):
        where = "" if frame.file is None else f"  {frame.file}" + ("" if frame.line is None else f":{frame.line}")
        yield Line(_labelled(label, escaped(frame.function + where)))
    if len(incident.frames) > MAX_FRAMES:
        yield Line(_labelled("", f"and {len(incident.frames) - MAX_FRAMES} more calls"))
    if incident.goroutines:
        yield from _wrapped("goroutines", _states(incident.goroutines), width)
    if incident.modules:
        modules = ", ".join(f"{path} {version}" for path, version in incident.modules.items())
        yield from _wrapped("modules", escaped(modules), width)
    if incident.known is not None:
        yield from _wrapped("known as", escaped(incident.known), width)
    if incident.hint is not None:
        yield from _wrapped("hint", escaped(incident.hint), width)
    else:
        yield from _wrapped("next", NEXT[incident.kind], width)
    names = [called(name) for name in list(group.names)[:MAX_FILES]]
    more = ", ..." if len(group.names) > MAX_FILES else ""
    yield from _wrapped("seen in", ", ".join(names) + more, width)
    yield Line(_labelled("group", incident.group))


def _labels(first: str) -> Iterator[str]:
    yield first
    while True:
        yield ""


def _labelled(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}".rstrip()


_LABEL: Final = len("goroutines") + 2


def _wrapped(label: str, text: str, width: int | None) -> Iterator[Line]:
    room = sys.maxsize if width is None else max(width, 40)
    begin, indent = (_labelled(label, "").ljust(2 + _LABEL), " " * (2 + _LABEL)) if label else ("", "")
    for line in textwrap.wrap(text, room, initial_indent=begin, subsequent_indent=indent, break_long_words=False):
        yield Line(line)


def _when(group: Group) -> str:
    first, last = rfc3339(group.first), rfc3339(group.last)
    if first is None or last is None:
        return "the log does not tell when"
    return first if first == last else f"{first} to {last}"


def _states(goroutines: Mapping[str, int]) -> str:
    ranked = sorted(goroutines.items(), key=lambda each: -each[1])
    told = [f"{count} {escaped(state)}" for state, count in ranked[:MAX_STATES]]
    rest = sum(count for _, count in ranked[MAX_STATES:])
    return f"{sum(goroutines.values())}: " + ", ".join([*told, *([f"{rest} others"] if rest else [])])


def amount(logs: int, read_bytes: int) -> str:
    """Return how much was read, in words."""
    size, unit = float(read_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{_many(logs, 'log', 'logs')} ({f'{size:.1f}' if unit != 'bytes' else read_bytes} {unit})"


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def called(name: str) -> str:
    """Return what a person calls the log of this name."""
    return "standard input" if name == STANDARD_INPUT else escaped(name)
