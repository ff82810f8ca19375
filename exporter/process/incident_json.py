"""An incident as JSON: one form of it, for ``/api/v1/incidents`` and for ``forewarn postmortem --json``."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from exporter.model import Incident


def as_object(incident: Incident) -> dict[str, object]:
    """Return ``incident`` as what JSON can hold; what is not known is ``None``."""
    return {
        "class": incident.kind.value,
        "crash": incident.crash,
        "message": incident.message,
        "function": incident.function,
        "component": incident.component,
        "goroutines": dict(incident.goroutines),
        "hint": incident.hint,
        "known": incident.known,
        "group": incident.group,
        "at": rfc3339(incident.at),
        "frames": [{"function": it.function, "file": it.file, "line": it.line} for it in incident.frames],
        "modules": dict(incident.modules),
    }


def rfc3339(at: float | None) -> str | None:
    """Return Unix time as RFC 3339 in UTC, to the millisecond; ``None`` where it is none, or beyond the calendar."""
    if at is None or not math.isfinite(at):
        return None
    try:
        text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None
    return text.replace("+00:00", "Z")
