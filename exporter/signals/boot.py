"""Signal: when the watched server started, and how often it was restarted."""

from __future__ import annotations

import msgspec

from exporter.model import BootVerdict, Observation

SETTLING = 90.0
"""Seconds after a start of the server before its list of workers is trusted. It lives in the server's memory only;
workers register anew with their next connection or heartbeat, every 15 s to 60 s."""

_JITTER = 2.0  # uptime is told in whole seconds, and the question takes time
_MOVED = 5.0


class BootMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart."""

    restarts: int = 0
    started_at: float | None = None
    commands: int | None = None
    uptime: float | None = None


class BootSignal:
    """Counts restarts of the server: its command count or its uptime went back, or its start moved unseen."""

    def __init__(self, memory: BootMemory | None = None) -> None:
        memory = memory or BootMemory()
        self._restarts = memory.restarts
        self._started_at = memory.started_at
        self._commands = memory.commands
        self._uptime = memory.uptime
        self._confirmed = False  # that started_at is of the process that runs now
        self._watched_since: float | None = None  # since when contact was never lost
        self._asked_at: float | None = None
        self._lost_contact = True

    def advance(self, observation: Observation) -> BootVerdict:
        """Take one observation in and tell what is known then."""
        if observation.interrupted or self._watched_since is None:
            self._watched_since = observation.now
            self._confirmed = False
            self._lost_contact = True
        if self._commands_went_back(observation) | self._uptime_went_back(observation):
            self._restarts += 1
            self._watched_since = observation.now
        return BootVerdict(
            restarts=self._restarts,
            started_at=self._started_at,
            settled=self._settled(observation.now),
        )

    def memory(self) -> BootMemory:
        """Return what the next run of Forewarn needs."""
        return BootMemory(self._restarts, self._started_at, self._commands, self._uptime)

    def _commands_went_back(self, observation: Observation) -> bool:
        if observation.health is None:
            return False
        before, self._commands = self._commands, observation.health.commands
        if before is None or self._commands >= before:
            return False
        self._started_at = self._uptime = None
        self._confirmed = False
        return True

    def _uptime_went_back(self, observation: Observation) -> bool:
        details = observation.details
        if details is None or details.uptime is None or details.asked_at == self._asked_at:
            return False
        self._asked_at = details.asked_at
        before, self._uptime = self._uptime, details.uptime
        started, known = details.asked_at - details.uptime, self._started_at
        moved = known is not None and started > known + _MOVED and self._lost_contact
        if known is None or abs(started - known) > _JITTER:
            self._started_at = started
        self._confirmed = True
        self._lost_contact = False
        return moved or (before is not None and details.uptime < before)

    def _settled(self, now: float) -> bool:
        if self._confirmed and self._started_at is not None:
            return now - self._started_at >= SETTLING
        return self._watched_since is not None and now - self._watched_since >= SETTLING
