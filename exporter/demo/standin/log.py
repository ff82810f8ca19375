"""What the stand-in says on its standard output: one line an event, in the form of the real server's."""

from __future__ import annotations

from datetime import UTC, datetime


def say(level: str, text: str) -> None:
    """Print one line; ``level`` is one of ``D``, ``I``, ``W``, ``E`` and ``F``."""
    now = datetime.now(UTC)
    print(f"{level} {now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z {text}", flush=True)
