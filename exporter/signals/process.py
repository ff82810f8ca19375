"""Signal: why the server's process died, what it survived, and what its log says."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from exporter.model import (
    CRASH_KINDS,
    BootVerdict,
    Incident,
    IncidentKind,
    LogEvent,
    LogFacts,
    Noticed,
    Observation,
    Position,
    ProcessVerdict,
)
from exporter.secret import tellable
from exporter.signals.deaths import Deaths, DeathsMemory

INCIDENTS = 50
"""How many incidents are remembered and told one by one."""


class ProcessMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart.

    The counts and the positions belong together: what is read from these on was not counted in those.
    """

    crashes: dict[IncidentKind, int] = {}
    races: int = 0
    recovered: int = 0
    events: dict[LogEvent, int] = {}
    read_bytes: int = 0
    last_at: float | None = None
    incidents: tuple[Incident, ...] = ()
    positions: tuple[Position, ...] = ()
    deaths: DeathsMemory = DeathsMemory()


class ProcessSignal:
    """Counts crashes, races and recovered panics, each once, and what the log says; remembers the newest incidents."""

    def __init__(self, memory: ProcessMemory | None = None) -> None:
        memory = memory or ProcessMemory()
        self._crashes = {kind: memory.crashes.get(kind, 0) for kind in CRASH_KINDS}
        self._races = memory.races
        self._recovered = memory.recovered
        self._events = {event: memory.events.get(event, 0) for event in LogEvent}
        self._read_bytes = memory.read_bytes
        self._unread_bytes: int | None = None
        self._last_at = memory.last_at
        self._incidents = memory.incidents
        self._positions = memory.positions
        self._deaths = Deaths(memory.deaths, resumed=bool(memory.positions))
        self._ever = False

    def advance(self, observation: Observation, boot: BootVerdict) -> ProcessVerdict | None:
        """Take one observation in and tell what is known then; ``None`` where the output was never read."""
        settled = [_tellable(it) for it in self._deaths.advance(observation, boot)]
        self._count(settled)
        if observation.log is not None:
            self._take(observation.log)
        self._unread_bytes = None if observation.log is None else observation.log.unread_bytes
        if settled:
            self._incidents = newest([*self._incidents, *settled], INCIDENTS)
        if not self._ever:
            return None
        new = {id(it) for it in settled}
        return ProcessVerdict(
            crashes=dict(self._crashes),
            races=self._races,
            recovered=self._recovered,
            events=dict(self._events),
            incidents=self._incidents,
            found=tuple(it for it in self._incidents if id(it) in new),
            read_bytes=self._read_bytes,
            unread_bytes=self._unread_bytes,
            last_at=self._last_at,
        )

    def memory(self) -> ProcessMemory:
        """Return what the next run of Forewarn needs."""
        return ProcessMemory(
            crashes=dict(self._crashes),
            races=self._races,
            recovered=self._recovered,
            events=dict(self._events),
            read_bytes=self._read_bytes,
            last_at=self._last_at,
            incidents=self._incidents,
            positions=self._positions,
            deaths=self._deaths.memory(),
        )

    def _count(self, settled: Sequence[Incident]) -> None:
        for incident in settled:
            if incident.crash:
                self._crashes[incident.kind] += 1
            elif incident.kind is IncidentKind.DATA_RACE:
                self._races += 1
            else:
                self._recovered += 1

    def _take(self, log: LogFacts) -> None:
        self._ever = True
        self._positions = log.positions
        self._read_bytes += log.read_bytes
        self._last_at = self._last_at if log.last_at is None else log.last_at
        for entry in log.entries:
            if isinstance(entry, Noticed):
                self._events[entry.event] += _times(entry)


def newest(incidents: Sequence[Incident], most: int) -> tuple[Incident, ...]:
    """Return at most so many of ``incidents``, by their times.

    Of the most frequent kind the oldest goes first, so that a flood of one kind leaves those of the others.
    """
    kept = sorted(incidents, key=lambda it: it.at or 0.0)
    counts: dict[IncidentKind, int] = {}
    for incident in kept:
        counts[incident.kind] = counts.get(incident.kind, 0) + 1
    for _ in range(len(kept) - most):
        frequent = max(counts, key=counts.__getitem__)
        counts[frequent] -= 1
    # So many of each kind are left: the newest.
    left: list[Incident] = []
    for incident in reversed(kept):
        if counts[incident.kind] > 0:
            counts[incident.kind] -= 1
            left.append(incident)
    return tuple(reversed(left))


def _tellable(incident: Incident) -> Incident:
    """Return ``incident`` with a message that may be told to anybody: what a program says of an address it quotes."""
    message = tellable(incident.message)
    return incident if message == incident.message else msgspec.structs.replace(incident, message=message)


def _times(noticed: Noticed) -> int:
    """Return how often it happened what one line tells of."""
    if noticed.event is LogEvent.WORKER_REAPED and noticed.value is not None:
        return max(0, noticed.value)
    return 1
