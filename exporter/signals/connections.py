"""Signal: how close connections are to the limit, and who holds them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from exporter.model import OTHER, ConnectionsVerdict, LogEvent, LogFacts, Noticed, Observation
from exporter.signals.labels import Kept

PEERS = 20
"""How many peers have a series of their own."""


class ConnectionsMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart."""

    refused: int = 0
    limit: int | None = None
    """What the server told in its log last."""


class ConnectionsSignal:
    """Counts the refusals that Forewarn itself met, each a proof that the server was full; bounds the peers told.

    A peer that is told stays so, at 0 without connections, for an hour or until a larger one needs its place. A limit
    that stands nowhere else is the one that the server told in its log when it started.
    """

    def __init__(self, memory: ConnectionsMemory | None = None) -> None:
        memory = memory or ConnectionsMemory()
        self._refused = memory.refused
        self._limit = memory.limit
        self._kept: Kept[str] = Kept(PEERS)
        self._states: dict[str, int] = {}

    def advance(self, observation: Observation) -> ConnectionsVerdict:
        """Take one observation in and tell what is known then."""
        self._refused += observation.refusals
        if observation.log is not None:
            self._limit = _limit(observation.log, self._limit)
        health, sockets = observation.health, observation.sockets
        return ConnectionsVerdict(
            used=None if health is None else health.connections,
            limit=self._limit if observation.connections_limit is None else observation.connections_limit,
            refused=self._refused,
            peers=None if sockets is None else self._fold(sockets.peers, observation.now),
            states=None if sockets is None else self._told(sockets.states),
            waiting=None if sockets is None else sockets.waiting,
            backlog=None if sockets is None else sockets.backlog,
        )

    def memory(self) -> ConnectionsMemory:
        """Return what the next run of Forewarn needs."""
        return ConnectionsMemory(self._refused, self._limit)

    def _told(self, states: Mapping[str, int]) -> dict[str, int]:
        # There are only as many states as TCP has.
        self._states = dict.fromkeys(self._states, 0) | dict(states)
        return self._states

    def _fold(self, peers: Mapping[str, int], now: float) -> dict[str, int]:
        self._kept.update({peer: peers[peer] for peer in sorted(peers)}, now)  # the first of equals by name is kept
        folded = dict.fromkeys(self._kept, 0)
        for peer, connections in peers.items():
            label = peer if peer in self._kept else OTHER
            folded[label] = folded.get(label, 0) + connections
        return folded


def _limit(log: LogFacts, known: int | None) -> int | None:
    """Return the newest limit that ``log`` tells, else ``known``."""
    for entry in log.entries:
        if isinstance(entry, Noticed) and entry.event is LogEvent.LIMIT and entry.value is not None and entry.value > 0:
            known = entry.value
    return known
