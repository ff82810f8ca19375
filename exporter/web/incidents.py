"""What befell the watched processes, for whoever asks by HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.model import Incident, Snapshot
from exporter.process.incident_json import as_object

MAX_INCIDENTS = 200
"""How many are told at most."""


def newest_incidents(servers: Mapping[str, Snapshot | None]) -> dict[str, object]:
    """Return the incidents of all ``servers`` as what JSON can hold, newest first."""
    found = [(name, incident) for name, snapshot in servers.items() for incident in _known(snapshot)]
    found.sort(key=lambda each: each[1].at or 0.0, reverse=True)
    return {"incidents": [{"server": name} | as_object(incident) for name, incident in found[:MAX_INCIDENTS]]}


def _known(snapshot: Snapshot | None) -> tuple[Incident, ...]:
    """Return the incidents of one server, newest first."""
    if snapshot is None or snapshot.process is None:
        return ()
    return tuple(reversed(snapshot.process.incidents))
