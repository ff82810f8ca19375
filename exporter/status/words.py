"""Numbers as a person reads them."""

from __future__ import annotations

from math import floor, isfinite
from typing import Final

from exporter.model import MAX_NAME

MAX_MESSAGE: Final = 400
"""Characters of what Forewarn itself says of a failure: it ends with how to mend it."""

MAX_NAMED: Final = 60
"""Characters of a name within a sentence."""


def count(number: int, one: str | None = None, more: str | None = None) -> str:
    """Return ``1,640``, or ``1 job`` and ``1,640 jobs`` where the words are told."""
    if one is None:
        return f"{number:,}"
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def share(part: float) -> str:
    """Return ``82 %``: rounded down, so that 100 % is all; ``<1 %`` is not nothing."""
    if 0 < part < 0.01:
        return "<1 %"
    return f"{floor(part * 100 + 1e-9):,} %" if isfinite(part) else "?"


def lasting(seconds: float) -> str:
    """Return ``45 s``, ``12 min``, ``3 h 5 min`` or ``2 d 4 h``."""
    if not isfinite(seconds) or seconds > 1e11:
        return "?"
    whole = max(0, int(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, rest = divmod(hours, 24)
    return f"{days} d {rest} h" if rest else f"{days} d"


def text(name: str, most: int = MAX_NAME) -> str:
    """Return a name that somebody else chose: valid UTF-8, and no longer than ``most`` characters."""
    short = name if len(name) <= most else name[: most - 1] + "…"
    return short.encode("utf-8", "replace").decode("utf-8") or "(empty)"


def named(name: str) -> str:
    """Return it as short as it may stand within a sentence."""
    return text(name, MAX_NAMED)
