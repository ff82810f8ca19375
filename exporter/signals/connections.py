"""Signal: how close connections are to the limit, and who holds them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from exporter.model import OTHER, ConnectionsVerdict, Observation
from exporter.signals.labels import Kept

PEERS = 20
"""How many peers have a series of their own."""


class ConnectionsMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart."""

    refused: int = 0


class ConnectionsSignal:
    """Counts the refusals that Forewarn itself met, each a proof that the server was full; bounds the peers told.

    A peer that is told stays so, at 0 without connections, for an hour or until a larger one needs its place.
    """

    def __init__(self, memory: ConnectionsMemory | None = None) -> None:
        self._refused = (memory or ConnectionsMemory()).refused
        self._kept: Kept[str] = Kept(PEERS)

    def advance(self, observation: Observation) -> ConnectionsVerdict:
        """Take one observation in and tell what is known then."""
        self._refused += observation.refusals
        health = observation.health
        return ConnectionsVerdict(
            used=None if health is None else health.connections,
            limit=observation.connections_limit,
            refused=self._refused,
            peers=None if observation.peers is None else self._fold(observation.peers, observation.now),
        )

    def memory(self) -> ConnectionsMemory:
        """Return what the next run of Forewarn needs."""
        return ConnectionsMemory(self._refused)

    def _fold(self, peers: Mapping[str, int], now: float) -> dict[str, int]:
        self._kept.update({peer: peers[peer] for peer in sorted(peers)}, now)  # the first of equals by name is kept
        folded = dict.fromkeys(self._kept, 0)
        for peer, connections in peers.items():
            label = peer if peer in self._kept else OTHER
            folded[label] = folded.get(label, 0) + connections
        return folded
