"""How the status page writes numbers, times and names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from markupsafe import Markup

from exporter.logs import escaped
from exporter.process.incident_json import rfc3339

UNKNOWN = Markup('<span class="unknown">not known</span>')

MAX_NAME = 160
"""Most characters of a name that are shown."""

_MAX_DAYS = 99_999

_VAST = 1e15
"""From here on only the size of a number is told."""

_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|min|h|d)\b|%)")


def name(text: str) -> Markup:
    """Return a name that others chose: it hides nothing, and its direction of writing does not reach its neighbours."""
    return Markup("<bdi>{}</bdi>").format(bounded(text))


def bounded(text: str) -> str:
    """Return ``text`` with what cannot be seen written out, and cut after :data:`MAX_NAME` characters."""
    kept = text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"
    return escaped(kept)


def sentence(text: str) -> str:
    """Return ``text`` in one line, with what cannot be seen written out, and no number parted from its unit."""
    return _UNIT.sub("\u00a0", escaped(" ".join(text.split())))


def joined(parts: Iterable[Markup]) -> Markup:
    """Return one after the other."""
    return Markup("").join(parts)


def known(value: float | None) -> float | None:
    """Return ``value`` where it is a number that can be shown."""
    return value if value is not None and math.isfinite(value) else None


def number(value: float) -> str:
    """Return ``1,640``, or ``0.5``."""
    if abs(value) >= _VAST:
        return f"{value:.0e}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def share(value: float) -> str:
    """Return ``82 %``: rounded down, so that 100 % is all."""
    if 0 < value < 0.01:
        return "< 1\u00a0%"
    if abs(value) >= _VAST:
        return f"{value:.0e}"
    return f"{math.floor(value * 100 + 1e-9):,}\u00a0%"


def span(seconds: float) -> str:
    """Return ``0.4 s``, ``12 s``, ``3 min 12 s``, ``2 h 5 min`` or ``3 d 4 h``. What is negative counts as nothing.

    The page's script writes whole seconds in the same way.
    """
    if 0 < seconds < 9.95 and seconds != int(seconds):
        return f"{seconds:.1f}\u00a0s" if seconds >= 0.05 else "< 0.1\u00a0s"
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days > _MAX_DAYS:
        return f"> {_MAX_DAYS:,}\u00a0d"
    steps = ((days, "d", hours, "h"), (hours, "h", minutes, "min"), (minutes, "min", rest, "s"))
    for large, unit, small, part in steps:
        if large:
            return f"{large}\u00a0{unit} {small}\u00a0{part}" if small else f"{large}\u00a0{unit}"
    return f"{whole}\u00a0s"


def ago(at: float, now: float) -> Markup:
    """Return how long ago ``at`` was at ``now``, as an element that the page's script keeps true."""
    stamp = rfc3339(at)
    if stamp is None:
        return UNKNOWN
    return Markup('<time datetime="{}" data-since="{:.1f}">{}</time>').format(stamp, at, span(int(now - at)))


def until(at: float, now: float) -> Markup:
    """Return how long it is from ``now`` to ``at``, likewise."""
    stamp = rfc3339(at)
    if stamp is None:
        return UNKNOWN
    left = span(int(at - now)) if at - now >= 1 else "now"
    return Markup('<time datetime="{}" data-until="{:.1f}">{}</time>').format(stamp, at, left)


def clock_time(at: float, now: float) -> str:
    """Return ``14:02:11 UTC``, with the date where it is another day than ``now``; empty where it is no time."""
    if rfc3339(at) is None or rfc3339(now) is None:
        return ""
    moment, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    return moment.strftime("%H:%M:%S UTC" if moment.date() == today.date() else "%Y-%m-%d %H:%M:%S UTC")
