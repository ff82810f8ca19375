"""Faktory's versions."""

from __future__ import annotations

Version = tuple[int, ...]


def parse_version(text: str) -> Version | None:
    """Return ``1.9.4`` as ``(1, 9, 4)``; ``None`` for what is no version."""
    parts = text.strip().lstrip("v").split("-")[0].split(".")
    return tuple(int(part) for part in parts) if all(part.isascii() and part.isdigit() for part in parts) else None
