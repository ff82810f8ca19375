"""Signal: how saturated the throttles are, and what waits behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from exporter.model import Observation, Scope, ThrottleLimit, ThrottlesVerdict, ThrottleUse
from exporter.signals.groups import Group, Groups

LONGEST_STEP = 60.0
"""Seconds between two observations beyond which nothing is assumed of the time between them."""

Key = tuple[str, Scope]


class SaturatedTime(msgspec.Struct, frozen=True):
    """Seconds that one throttle has been saturated."""

    queue: str
    scope: Scope
    seconds: float


class ThrottlesMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart."""

    saturated: tuple[SaturatedTime, ...] = ()


class ThrottlesSignal:
    """Compares the jobs that run with what is allowed to run. Of very many throttles the first ``limit`` are told."""

    def __init__(self, limit: int, memory: ThrottlesMemory | None = None) -> None:
        self._limit = limit
        saturated = (memory or ThrottlesMemory()).saturated
        self._seconds: dict[Key, float] = {(it.queue, it.scope): it.seconds for it in saturated}
        self._saturated: frozenset[Key] = frozenset()
        self._at: float | None = None

    def advance(self, observation: Observation, groups: Groups | None) -> ThrottlesVerdict:
        """Take one observation in and tell what is known then."""
        if observation.throttles is None:
            self._saturated = frozenset()
            return ThrottlesVerdict(None)
        throttles = {(it.queue, it.scope): it for it in observation.throttles[: self._limit]}
        held = None if groups is None else _by_queue(groups)
        in_use = {
            key: None if held is None else _in_use(it.scope, held.get(it.queue, ())) for key, it in throttles.items()
        }
        saturated = frozenset(key for key, it in throttles.items() if it.limit > 0 and (in_use[key] or 0) >= it.limit)
        self._add_time(observation.now, throttles)
        self._saturated, self._at = saturated, observation.now
        return ThrottlesVerdict(
            {
                key: ThrottleUse(
                    limit=it.limit,
                    in_use=in_use[key],
                    waiting=_waiting(it.queue, observation),
                    saturated_seconds=self._seconds[key],
                )
                for key, it in throttles.items()
            }
        )

    def bound(self, limit: int) -> None:
        """Tell so many throttles from the next observation on."""
        self._limit = limit

    def memory(self) -> ThrottlesMemory:
        """Return what the next run of Forewarn needs."""
        return ThrottlesMemory(tuple(SaturatedTime(*key, seconds) for key, seconds in self._seconds.items()))

    def _add_time(self, now: float, throttles: Mapping[Key, ThrottleLimit]) -> None:
        step = 0.0 if self._at is None else now - self._at
        if not 0 < step <= LONGEST_STEP:
            step = 0.0
        self._seconds = {
            key: self._seconds.get(key, 0.0) + (step if key in self._saturated else 0.0) for key in throttles
        }


def _by_queue(groups: Groups) -> Mapping[str, Sequence[Group]]:
    by_queue: dict[str, list[Group]] = {}
    for (queue, _), group in groups.by_pair.items():
        by_queue.setdefault(queue, []).append(group)
    return by_queue


def _in_use(scope: Scope, held: Sequence[Group]) -> int:
    if scope is Scope.CLUSTER:
        return sum(len(group.members) for group in held)
    workers = Counter(reservation.worker for group in held for reservation in group.members)
    return max(workers.values(), default=0)


def _waiting(queue: str, observation: Observation) -> int | None:
    if observation.queues is None:
        return None
    known = observation.queues.get(queue)
    return 0 if known is None else known.jobs
