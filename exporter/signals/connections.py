"""Signal: how close connections are to the limit."""

from __future__ import annotations

import msgspec

from exporter.model import ConnectionsVerdict, Observation


class ConnectionsMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart."""

    refused: int = 0


class ConnectionsSignal:
    """Counts the refusals that Forewarn itself met: each is a proof that the server was full."""

    def __init__(self, memory: ConnectionsMemory | None = None) -> None:
        self._refused = (memory or ConnectionsMemory()).refused

    def advance(self, observation: Observation) -> ConnectionsVerdict:
        """Take one observation in and tell what is known then."""
        self._refused += observation.refusals
        health = observation.health
        return ConnectionsVerdict(
            used=None if health is None else health.connections,
            limit=observation.connections_limit,
            refused=self._refused,
        )

    def memory(self) -> ConnectionsMemory:
        """Return what the next run of Forewarn needs."""
        return ConnectionsMemory(self._refused)
