"""What the demo tells: one line at a time, whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec


class Say(StrEnum):
    """What kind of line it is."""

    NOW = "now"  # what is being done
    CAUGHT = "caught"  # what Forewarn found
    OVER = "over"  # that it is no more
    NOTE = "note"
    MISSED = "missed"  # what should have been found, and was not


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is told."""

    say: Say
    part: str
    """Which signal it is about, or what else."""
    text: str
    look: str | None = None
    """What to look at meanwhile."""
    after: float | None = None
    """Seconds from what was done to the snapshot that showed it."""


class Chapter(msgspec.Struct, frozen=True):
    """What became of one part of the story."""

    part: str
    done: str
    caught_after: float | None
    over_after: float | None
    """Seconds until a snapshot showed it."""


Tell = Callable[[Line], None]
