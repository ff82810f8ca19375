"""What the demo looks for in a snapshot: the numbers that its alerts look at, and where they begin to warn."""

from __future__ import annotations

from typing import Final

from exporter.model import Pair, Snapshot
from exporter.rules.settings import DEFAULTS

NEAR_LIMIT: Final = DEFAULTS.alerts.faktory_connections_near_limit.used_share
CRITICAL: Final = DEFAULTS.alerts.faktory_connections_near_limit.critical_share
NEARLY_USED: Final = DEFAULTS.alerts.faktory_reservation_nearly_used.used_share
SATURATED: Final = DEFAULTS.alerts.faktory_throttle_saturated.used_share
PATIENCE: Final = DEFAULTS.objectives[0].seconds
"""Seconds that jobs may wait."""


def connections_share(snapshot: Snapshot) -> float:
    """Return the share of the limit that is in use, 0 where it is not known."""
    it = snapshot.connections
    return it.used / it.limit if it.used is not None and it.limit else 0.0


def reservation_used(snapshot: Snapshot, pair: Pair) -> float:
    """Return the largest share of its reservation that a busy job of the pair has used, 0 where none is busy."""
    group = (snapshot.busy.groups or {}).get(pair)
    return 0.0 if group is None or group.used_ratio is None else group.used_ratio


def crashes(snapshot: Snapshot) -> int:
    """Return how many workers were found dead so far."""
    return sum(snapshot.workers.crashes.values())


def orphans(snapshot: Snapshot) -> int:
    """Return how many jobs are reserved for workers that are gone."""
    return sum(group.jobs for group in (snapshot.workers.orphans or {}).values())


def throttled(snapshot: Snapshot, queue: str) -> tuple[float, int]:
    """Return the share in use of a queue's throttle, and how many jobs wait behind it."""
    for (name, _), use in (snapshot.throttles.throttles or {}).items():
        if name == queue:
            return use.saturation or 0.0, use.waiting or 0
    return 0.0, 0


def waiting(snapshot: Snapshot, queue: str) -> tuple[int, float]:
    """Return how many jobs wait in a queue, and how long the oldest has waited."""
    known = (snapshot.queues.queues or {}).get(queue)
    return (0, 0.0) if known is None else (known.jobs or 0, known.latency or 0.0)


def saturated(snapshot: Snapshot, queue: str) -> bool:
    """Whether a throttle is full and work waits behind it."""
    share, behind = throttled(snapshot, queue)
    return share >= SATURATED and behind > 0
