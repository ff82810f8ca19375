"""The status of everything that is watched, as immutable values: what the page shows and ``/api/v1/status`` tells.

Times of day are Unix seconds by Forewarn's own clock, everything else is in seconds, shares (1 is all) or counts.
``None`` is unknown, never zero. Lists are bounded; each that may be cut has the true count beside it. Names come
from the server and are untrusted: whoever shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import msgspec


class Level(StrEnum):
    """How much something needs a person."""

    CALM = "calm"
    UNKNOWN = "unknown"
    WARNING = "warning"
    CRITICAL = "critical"


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """How one number went in the last hour."""

    title: str
    """What is drawn: ``share of the connection limit``."""
    unit: Literal["ratio", "seconds", "count"]
    step: float
    """Seconds from one value to the next."""
    values: tuple[float | None, ...]
    """Oldest first: the largest of each step; ``None`` where it was not known."""
    ends_at: float
    """The time of day of the last."""
    threshold: float | None = None
    """Where the level rises to a warning."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One of the four things that are watched."""

    name: Literal["connections", "busy", "workers", "throttles"]
    title: str
    level: Level
    headline: str
    """The fact, short, with its numbers: ``1,640 of 2,000 (82 %)``."""
    meaning: str | None = None
    """What that leads to, in one sentence; ``None`` while it is calm."""
    advice: str | None = None
    """What to do first, in one sentence."""
    runbook: str | None = None
    """The alert whose page in docs/runbooks tells more: ``FaktoryConnectionsNearLimit``."""
    trend: Trend | None = None


class BusyJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job that is being worked on."""

    jid: str
    jobtype: str
    queue: str
    worker: str
    age: float
    used: float | None
    """Share of its reservation that is used: from 1 on it runs twice."""
    orphan: bool = False


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """One job whose worker is gone."""

    jid: str
    jobtype: str
    queue: str
    worker: str
    age: float
    """Since it was found."""
    returns_in: float | None
    """Until the server gives it to another worker."""


class Throttle(msgspec.Struct, frozen=True, kw_only=True):
    """One throttle."""

    queue: str
    scope: str
    limit: int
    in_use: int | None
    saturation: float | None
    waiting: int | None
    level: Level


class QueueRow(msgspec.Struct, frozen=True, kw_only=True):
    """One queue."""

    name: str
    jobs: int | None
    latency: float | None
    paused: bool | None


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened: a worker crashed, the server restarted or went down, or its process died."""

    kind: Literal["worker_crash", "restart", "down", "back", "incident"]
    at: float
    level: Level
    title: str
    detail: str | None = None
    hint: str | None = None


class Concern(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong beside the four signals: the server is down, its Redis is away, a queue is paused."""

    level: Level
    text: str
    """One sentence."""
    runbook: str | None = None
    """The alert whose page in docs/runbooks tells more."""


class Blind(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that Forewarn cannot see now."""

    what: str
    why: str
    remedy: str | None = None


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One server."""

    name: str
    system: str
    level: Level
    """The worst of it."""
    up: bool | None
    """``None``: not polled yet."""
    summary: str
    """What is wrong in a few sentences, the worst first, or that nothing is."""
    version: str | None = None
    edition: str | None = None
    started_at: float | None = None
    age: float | None = None
    """Seconds since the poll that this tells."""
    workers: int | None = None
    signals: tuple[Signal, ...] = ()
    """Always all four, in the same order."""
    concerns: tuple[Concern, ...] = ()
    """The worst first; the summary tells the first of them too."""
    busy: tuple[BusyJob, ...] = ()
    """The oldest first."""
    busy_count: int | None = None
    orphans: tuple[Orphan, ...] = ()
    orphan_count: int | None = None
    throttles: tuple[Throttle, ...] = ()
    throttle_count: int | None = None
    queues: tuple[QueueRow, ...] = ()
    """Those that wait longest first."""
    queue_count: int | None = None
    sets: Mapping[str, int] = {}
    happenings: tuple[Happening, ...] = ()
    """Newest first."""
    blind: tuple[Blind, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    version: str
    """Of Forewarn."""
    generated_at: float
    since: float
    """When this Forewarn started: trends and happenings reach back no further, but for incidents."""
    level: Level
    servers: tuple[ServerStatus, ...]
