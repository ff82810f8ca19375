"""Incidents that are known: by what they are recognised, and what is known to help.

Each is told with the versions that have it, so that a server can be warned of before anything has happened.

Sources: Faktory's ``webui/helpers.go``, ``server/server.go`` and ``storage/redis.go`` from 1.6.2 to 1.10.0, and both
races run against real servers; contribsys/faktory issue 483 with Enterprise's change log of 1.9.1; flyteorg/flyte issue
6038 with pull request 6222; twmb/franz-go issue 785 with pull request 786.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from exporter.model import IncidentKind

Version = tuple[int, ...]
"""``(1, 9, 1)``."""

_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


class Affected(msgspec.Struct, frozen=True):
    """Which servers or libraries have the defect."""

    system: str
    edition: str | None = None
    """``None``: every edition."""
    before: Version | None = None
    """The first version without it; ``None``: there is none yet."""

    def includes(self, version: Version) -> bool:
        """Return whether ``version`` has the defect."""
        return self.before is None or version < self.before


class Known(msgspec.Struct, frozen=True):
    """One incident that has befallen others."""

    id: str
    kinds: frozenset[IncidentKind]
    functions: tuple[str, ...]
    """Regular expressions: each is found in one of the first functions of the stack, or of a race's two stacks."""
    hint: str
    affected: Affected
    module: str | None = None
    """Whose version in the stack tells whether the defect was in it."""


KNOWN: Final = (
    Known(
        id="faktory-busy-page",
        # While it lives it recovers from what it finds in the map when its size changes.
        kinds=frozenset({IncidentKind.CONCURRENT_MAP, IncidentKind.RECOVERED_PANIC, IncidentKind.DATA_RACE}),
        functions=(r"/webui\.busyWorkers$",),
        hint=(
            "Faktory's web page /busy was loaded while workers connected or left: it reads their table without a lock,"
            " in every version so far. Keep /busy closed and let nothing poll it."
        ),
        affected=Affected(system="faktory"),
    ),
    Known(
        id="faktory-queue-names",
        kinds=frozenset({IncidentKind.CONCURRENT_MAP, IncidentKind.DATA_RACE}),
        functions=(r"/storage\.\(\*redisStore\)\.EachQueue$",),
        hint=(
            "INFO, /stats or another web page of Faktory was asked for at the moment in which a new queue name came up:"
            " it reads the table of queues without a lock, in every version so far. Poll them less, and use a fixed set"
            " of queue names."
        ),
        affected=Affected(system="faktory"),
    ),
    Known(
        id="faktory-ent-throttle",
        kinds=frozenset({IncidentKind.CONCURRENT_MAP}),
        functions=(r"/throttle\.\(\*Throttle\)\.LockAndPop$",),
        hint=(
            "Faktory Enterprise before 1.9.1 can crash where throttles per worker are heavily contended. Upgrade to"
            " 1.9.1 or newer."
        ),
        affected=Affected(system="faktory", edition="enterprise", before=(1, 9, 1)),
    ),
    Known(
        id="flyteadmin-metrics-map",
        kinds=frozenset({IncidentKind.CONCURRENT_MAP}),
        functions=(r"/impl\.\(\*ExecutionManager\)\.emit(?:OverallWorkflowExecutionTime|ScheduledWorkflowMetrics)$",),
        hint=(
            "FlyteAdmin before 1.15.0 keeps its metrics of each project and domain in maps without a lock. Upgrade to"
            " 1.15.0 or newer."
        ),
        affected=Affected(system="flyteadmin", before=(1, 15, 0)),
        module="github.com/flyteorg/flyte/flyteadmin",
    ),
    Known(
        id="franz-go-load-errors",
        kinds=frozenset({IncidentKind.DATA_RACE}),
        functions=(r"/kgo\.\(\*recBuf\)\.bumpRepeatedLoadErr$", r"/kgo\.\(\*produceRequest\)\.AppendTo$"),
        hint=(
            "franz-go before 1.17.1 lets a produce request and an error of the metadata race for a batch; it shows as"
            " OutOfOrderSequenceNumber. Upgrade to 1.17.1 or newer."
        ),
        affected=Affected(system="franz", before=(1, 17, 1)),
        module="github.com/twmb/franz-go",
    ),
)
"""All of them; no two match the same incident."""

BY_ID: Final[Mapping[str, Known]] = {it.id: it for it in KNOWN}

_PATTERNS: Final = {it.id: tuple(re.compile(pattern) for pattern in it.functions) for it in KNOWN}


def known(kind: IncidentKind, functions: Sequence[str], modules: Mapping[str, str]) -> Known | None:
    """Return which of the known incidents one of ``kind`` is, whose stack begins with ``functions``.

    ``modules`` are the versions that the stack tells: with one that is mended it is another incident.
    """
    for it in KNOWN:
        if kind not in it.kinds or not all(any(map(pattern.search, functions)) for pattern in _PATTERNS[it.id]):
            continue
        found = version(modules.get(it.module, "")) if it.module is not None else None
        if found is None or it.affected.includes(found):
            return it
    return None


def version(text: str) -> Version | None:
    """Return ``text`` as a version, ``1.9.1`` or ``v1.9.1-rc1``; ``None`` where it is none."""
    found = _VERSION.match(text)
    return None if found is None else tuple(int(it or 0) for it in found.groups())
