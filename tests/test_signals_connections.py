"""How close connections are to the limit: where it comes from, and the sockets that the kernel tells of."""

from __future__ import annotations

import msgspec

from exporter.model import (
    ConnectionsVerdict,
    LogEntry,
    LogEvent,
    LogFacts,
    Noticed,
    Observation,
    SocketFacts,
)
from exporter.signals import Memory
from exporter.signals.connections import ConnectionsMemory, ConnectionsSignal

NOW = 1_700_000_000.0


def told(limit: int | None) -> Noticed:
    return Noticed(LogEvent.LIMIT, NOW, limit)


def seen(*entries: LogEntry, limit: int | None = None, sockets: SocketFacts | None = None) -> Observation:
    return Observation(now=NOW, reached=True, connections_limit=limit, log=LogFacts(entries), sockets=sockets)


def verdicts(*observations: Observation, memory: ConnectionsMemory | None = None) -> list[ConnectionsVerdict]:
    signal = ConnectionsSignal(memory)
    return [signal.advance(observation) for observation in observations]


def test_a_limit_that_nothing_else_tells_is_the_newest_that_the_server_told_in_its_log() -> None:
    got = verdicts(seen(), seen(told(500), told(700)), seen(), seen(told(900)))
    assert [it.limit for it in got] == [None, 700, 700, 900]


def test_what_is_configured_or_known_by_the_version_goes_before_it() -> None:
    got = verdicts(seen(told(500), limit=2000), seen(limit=2000), seen())
    assert [it.limit for it in got] == [2000, 2000, 500]


def test_a_limit_that_is_none_is_not_taken() -> None:
    assert [it.limit for it in verdicts(seen(told(500)), seen(told(None), told(0), told(-3)))] == [500, 500]


def test_the_limit_outlives_forewarn_for_the_server_tells_it_only_when_it_starts() -> None:
    signal = ConnectionsSignal()
    signal.advance(seen(told(500)))
    memory = msgspec.json.decode(msgspec.json.encode(Memory(connections=signal.memory())), type=Memory)
    (got,) = verdicts(seen(), memory=memory.connections)
    assert got.limit == 500


def test_sockets_that_cannot_be_seen_are_not_known() -> None:
    (got,) = verdicts(seen())
    assert (got.peers, got.states, got.waiting, got.backlog) == (None, None, None, None)


def test_a_state_that_was_told_once_stays_at_0() -> None:
    sockets = [
        SocketFacts({}, {"established": 3, "close_wait": 1}, 2, 128),
        SocketFacts({}, {"established": 4}, 0, 128),
    ]
    got = verdicts(*(seen(sockets=it) for it in sockets), seen(), seen(sockets=SocketFacts({})))
    assert [it.states for it in got] == [
        {"established": 3, "close_wait": 1},
        {"established": 4, "close_wait": 0},
        None,
        {"established": 0, "close_wait": 0},
    ]
    assert [(it.waiting, it.backlog) for it in got] == [(2, 128), (0, 128), (None, None), (None, None)]
