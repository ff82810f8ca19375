"""Instants as Faktory writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""The type that makes msgspec decode an RFC 3339 time, and refuse one without an offset."""


def parse_time(text: str) -> float:
    """Return the Unix seconds of an RFC 3339 time, exact to a microsecond.

    Any offset and any number of fractional digits are understood (Faktory writes up to nine, without trailing
    zeros). ``datetime.fromisoformat`` is not used: it takes dates without a time, week dates and times without an
    offset for good, and cuts where this rounds.

    Raises:
        ValueError: ``text`` is not such a time. The text itself is not repeated: it may be anything.
    """
    try:
        return msgspec.convert(text, Instant).timestamp()
    except (msgspec.ValidationError, OverflowError):
        raise ValueError("not an RFC 3339 time with an offset") from None
