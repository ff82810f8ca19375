"""The last hour of one server: what its status tells that no single snapshot holds.

Kept for every server at every poll, whether somebody looks or not, so it is small: about ten KiB, and nothing is
imported for it that the sidecar does not need anyway.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import nlargest, nsmallest
from itertools import islice
from math import isfinite, isnan, nan
from operator import attrgetter, itemgetter
from typing import Final, Literal

import msgspec

from exporter.model import Crash, CrashReason, LogEvent, Observation, Queue, Reservation, Snapshot

STEP: Final = 30.0
"""Seconds from one value of a track to the next."""

STEPS: Final = 120
"""Values of a track: an hour."""

KEPT: Final[Mapping[str, float]] = {
    "refused": 600.0,
    "refused_logged": 600.0,
    "restarts": 3600.0,
    "expired": 1800.0,
    "vanished": 3600.0,
    "hung": 3600.0,
    "crashes": 3600.0,
    "store_crashed": 3600.0,
    "job_lost": 3600.0,
    "flushed": 3600.0,
    "processed": 600.0,
    "failed": 600.0,
}
"""What is counted, and for how many seconds it is known when it was."""

ERRORS_KEPT: Final = 600.0
"""The same for the failures of each collector."""

MOST_BUSY: Final = 20
MOST_ORPHANS: Final = 20
MOST_QUEUES: Final = 20
MOST_HAPPENINGS: Final = 30

MOST_GONE: Final = 1000
"""Workers that crashed and may have left jobs behind: of more, the newest."""

TOLD_JOBS: Final = 5
"""How many of the jobs that a crash left behind are kept with it."""

SAME_CLOCK: Final = 5.0
"""Seconds by which the server's clock may seem to differ from ours before it is taken for another."""


class Track:
    """One number over the last hour: the largest of each step."""

    __slots__ = ("_first", "_last", "_values")

    def __init__(self) -> None:
        self._values = array("f", [nan]) * STEPS
        self._first = 0
        self._last = -1

    def note(self, step: int, value: float | None) -> None:
        """Take in the value now; ``None`` where it is not known. Steps never go back."""
        if self._last < 0:
            self._first = step
            self._last = step - 1
        for each in range(max(self._last + 1, step - STEPS + 1), step + 1):
            self._values[each % STEPS] = nan
        self._last = max(step, self._last)
        if value is not None and isfinite(value):
            known = self._values[step % STEPS]
            self._values[step % STEPS] = value if isnan(known) else max(known, value)

    def values(self, steps: int = STEPS) -> list[float | None]:
        """Return the values of the newest ``steps``, oldest first: none from before the first note."""
        first = max(self._first, self._last - steps + 1)
        found = (self._values[step % STEPS] for step in range(first, self._last + 1))
        return [each if isfinite(each) else None for each in found]


class Rises:
    """By how much a counter rose of late. A counter that goes back began anew at 0."""

    __slots__ = ("_count", "_rises", "_steps")

    def __init__(self, kept: float) -> None:
        self._steps = int(kept / STEP) + 1
        self._rises: list[tuple[int, int]] = []  # most of them stay empty, and an empty deque takes 700 bytes
        self._count: int | None = None

    def note(self, step: int, count: int | None, new: int = 0) -> None:
        """Take in the count now; ``None`` where it is not known. ``new``: what of the first count is known to be."""
        if count is None:
            return
        before = count - new if self._count is None else self._count
        self._count = count
        rise = count if count < before else count - before
        while self._rises and self._rises[0][0] <= step - self._steps:
            del self._rises[0]
        if rise <= 0:
            return
        if self._rises and self._rises[-1][0] == step:
            rise += self._rises.pop()[1]
        self._rises.append((step, rise))

    def within(self, step: int, seconds: float) -> int:
        """Return by how much it rose within the last ``seconds``, give or take a step."""
        oldest = step - int(seconds / STEP)
        return sum(rise for at, rise in self._rises if at >= oldest)


class Happened(msgspec.Struct, frozen=True):
    """One thing that happened, by Forewarn's own clock."""

    kind: Literal["worker_crash", "restart", "down", "back"]
    at: float
    crash: Crash | None = None
    """With the first of its orphans."""
    jobs: int = 0
    """How many there were."""


class Seen(msgspec.Struct, frozen=True):
    """What of a snapshot takes time to find, because it grows with the server."""

    oldest: tuple[Reservation, ...] = ()
    orphans: tuple[Reservation, ...] = ()
    orphans_named: int = 0
    """How many there are of which it is known which they are."""
    queues: tuple[tuple[str, Queue], ...] = ()


class Hour:
    """What is remembered of one server. Takes every snapshot in, in order."""

    def __init__(self) -> None:
        self.connections = Track()
        self.used = Track()
        """The largest share of a reservation."""
        self.orphans = Track()
        self.saturation = Track()
        self.workers = Track()
        self.dead = Track()
        """Jobs in the set of the dead."""
        self.step = 0
        self.at = 0.0
        """When the newest snapshot was taken in, by the monotonic clock."""
        self.ended_at = 0.0
        """The same as the time of day."""
        self.ahead = 0.0
        """Seconds by which the server's clock is ahead of ours."""
        self.lagging_since: float | None = None
        """Since when connections wait at every look to be accepted."""
        self.happened: deque[Happened] = deque(maxlen=MOST_HAPPENINGS)
        """The newest first."""
        self.gone: dict[str, float] = {}
        """Workers that crashed and may have left jobs behind, and when that was found, by the server's clock."""
        self._rises: dict[str, Rises] = {}
        self._up: bool | None = None
        self._restarts: int | None = None

    def rose(self, name: str, seconds: float) -> int:
        """Return by how much one of :data:`KEPT`, or ``errors`` and a collector's name, rose within ``seconds``."""
        rises = self._rises.get(name)
        return 0 if rises is None else rises.within(self.step, seconds)

    def advance(self, snapshot: Snapshot, now: float, wall: float) -> None:
        """Take one snapshot in, which is of ``now`` by the monotonic clock and of ``wall`` as the time of day."""
        self.step, self.at, self.ended_at = int(now // STEP), now, wall
        self.ahead = _ahead(snapshot.observation, wall)
        self._note_levels(snapshot)
        self._note_counts(snapshot)
        self._note_waiting(snapshot, now)
        self._note_happened(snapshot, wall)

    def bury(self, snapshot: Snapshot) -> None:
        """Take the workers in that ``snapshot`` proved to have crashed, and forget them once no orphan is left."""
        for crash in snapshot.workers.found:
            self.gone[crash.worker] = crash.found_at
        if orphans(snapshot) == 0:
            self.gone.clear()
        for worker in list(islice(self.gone, max(0, len(self.gone) - MOST_GONE))):
            del self.gone[worker]

    def _note_levels(self, snapshot: Snapshot) -> None:
        sets, groups, throttles = snapshot.observation.sets, snapshot.busy.groups, snapshot.throttles.throttles
        used = None if groups is None else _largest(it.used_ratio for it in groups.values()) or 0.0
        for track, value in (
            (self.connections, snapshot.connections.used),
            (self.used, used),
            (self.orphans, orphans(snapshot)),
            (self.saturation, _largest(it.saturation for it in (throttles or {}).values())),
            (self.workers, snapshot.workers.registered),
            (self.dead, None if sets is None else sets.get("dead")),
        ):
            track.note(self.step, value)

    def _note_counts(self, snapshot: Snapshot) -> None:
        observation, workers, process = snapshot.observation, snapshot.workers, snapshot.process
        found = [crash.reason for crash in workers.found]
        for reason in CrashReason:
            self._note(reason.value, workers.crashes.get(reason), found.count(reason))
        self._note("refused", snapshot.connections.refused, observation.refusals)
        self._note("restarts", snapshot.boot.restarts)
        self._note("expired", None if observation.details is None else observation.details.reservations_expired)
        self._note("processed", observation.processed)
        self._note("failed", observation.failed)
        if process is not None:
            self._note("crashes", sum(process.crashes.values()), sum(it.crash for it in process.found))
            self._note("refused_logged", process.events.get(LogEvent.CONNECTION_REFUSED))
            for event in (LogEvent.STORE_CRASHED, LogEvent.JOB_LOST, LogEvent.FLUSHED):
                self._note(event.value, process.events.get(event))
        for totals in snapshot.collectors:
            self._note(f"errors {totals.last.name}", sum(totals.errors.values()))

    def _note(self, name: str, count: int | None, new: int = 0) -> None:
        rises = self._rises.get(name)
        if rises is None:
            rises = self._rises[name] = Rises(KEPT.get(name, ERRORS_KEPT))
        rises.note(self.step, count, new)

    def _note_waiting(self, snapshot: Snapshot, now: float) -> None:
        if not snapshot.connections.waiting:
            self.lagging_since = None
        elif self.lagging_since is None:
            self.lagging_since = now

    def _note_happened(self, snapshot: Snapshot, wall: float) -> None:
        up, restarts = snapshot.observation.reached, snapshot.boot.restarts
        if self._restarts is not None and restarts > self._restarts:
            self.happened.appendleft(Happened("restart", wall))
        if up and self._up is False:
            self.happened.appendleft(Happened("back", wall))
        if not up and self._up is not False:
            self.happened.appendleft(Happened("down", wall))
        self._up, self._restarts = up, restarts
        for crash in snapshot.workers.found:
            short = msgspec.structs.replace(crash, orphans=crash.orphans[:TOLD_JOBS])
            self.happened.appendleft(Happened("worker_crash", crash.found_at - self.ahead, short, len(crash.orphans)))


def look(snapshot: Snapshot, gone: Mapping[str, float]) -> tuple[Seen, frozenset[str]]:
    """Find what stands out in a snapshot, and which of the workers that are ``gone`` have come back.

    The work grows with the server, and is done in Python's own steps, so that no other thread waits for long.
    """
    observation = snapshot.observation
    queues = nlargest(MOST_QUEUES, (observation.queues or {}).items(), key=_pressing)
    reservations = observation.reservations or {}
    oldest = nsmallest(MOST_BUSY, reservations.values(), key=attrgetter("reserved_at"))
    left: list[tuple[float, Reservation]] = []
    back = set()
    if gone:
        for reservation in reservations.values():
            found_at = gone.get(reservation.worker)
            if found_at is None:
                continue
            if reservation.reserved_at > found_at:
                back.add(reservation.worker)  # only one that lives takes a job
            left.append((found_at, reservation))
    left = [each for each in left if each[1].worker not in back]
    seen = Seen(
        oldest=tuple(oldest),
        orphans=tuple(reservation for _, reservation in nsmallest(MOST_ORPHANS, left, key=itemgetter(0))),
        orphans_named=len(left),
        queues=tuple(queues),
    )
    return seen, frozenset(back)


def orphans(snapshot: Snapshot) -> int | None:
    """Return how many orphans there are; ``None``: not known."""
    groups = snapshot.workers.orphans
    return None if groups is None else sum(it.jobs for it in groups.values())


def _pressing(item: tuple[str, Queue]) -> tuple[float, int]:
    latency = item[1].latency
    return latency if latency is not None and isfinite(latency) else -1.0, item[1].jobs or 0


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None and isfinite(value)), default=None)


def _ahead(observation: Observation, wall: float) -> float:
    """Return by how much the server's clock is ahead, as far as it is not the time that the poll took itself."""
    ahead = observation.now - wall
    took = sum(run.seconds for run in observation.runs if isfinite(run.seconds))
    return 0.0 if -SAME_CLOCK - took <= ahead <= SAME_CLOCK or not isfinite(ahead) else ahead
