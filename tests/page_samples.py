"""Made-up statuses for the tests of the page: calm, in alarm, of many servers, with hostile names."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence

import msgspec

from exporter.status.document import (
    Blind,
    BusyJob,
    Concern,
    Happening,
    Level,
    Orphan,
    QueueRow,
    ServerStatus,
    Signal,
    Status,
    Throttle,
    Trend,
)

NOW = 1_763_705_332.0

HOSTILE = (
    "<script>window.hurt=1</script>",
    '"><img src=x onerror="window.hurt=1">',
    "'; alert(1); //",
    "\u202egnp.evil\u202c",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "עברית-דחוף",
    "</title></style></script><b>bold</b>",
    "a\r\nevent: live\r\ndata: <b>split</b>\r\n\r\n",
    "{0.__class__} %s {{x}}",
    "\x00\ud800\uffff",
    "x" * 4000,
    "",
    "javascript:window.hurt=1",
    "&lt;b&gt;&amp;",
)
"""Names that somebody may give a queue."""


def trend(title: str, unit: str, values: Sequence[float | None], threshold: float | None = None) -> Trend:
    return msgspec.convert(
        {
            "title": title,
            "unit": unit,
            "step": 60.0,
            "values": tuple(values),
            "ends_at": NOW,
            "threshold": threshold,
        },
        Trend,
    )


def _wave(low: float, high: float, count: int = 60) -> list[float]:
    return [low + (high - low) * (0.5 + 0.35 * math.sin(i / 7) + 0.15 * math.sin(i * 1.9)) for i in range(count)]


def _rise(start: float, end: float, count: int = 60) -> list[float]:
    return [start + (end - start) * (i / (count - 1)) ** 2.2 + 0.012 * end * math.sin(i * 1.7) for i in range(count)]


def calm(name: str = "faktory") -> ServerStatus:
    """A server on a good day."""
    queues = [("critical", 0, 0.02), ("default", 3, 0.4), ("mailers", 12, 1.8), ("reports", 2, 6.0)]
    return ServerStatus(
        name=name,
        system="faktory",
        level=Level.CALM,
        up=True,
        summary="All is well: jobs start at once and no limit is near.",
        version="1.9.4",
        edition="oss",
        started_at=NOW - 3 * 86400 - 4 * 3600 - 12,
        age=2.0,
        workers=12,
        signals=(
            Signal(
                name="connections",
                title="Connections",
                level=Level.CALM,
                headline="214 of 2,000 (11\u00a0%)",
                trend=trend("share of the connection limit", "ratio", _wave(0.08, 0.14), 0.8),
            ),
            Signal(
                name="busy",
                title="Busy jobs",
                level=Level.CALM,
                headline="17 busy, the oldest for 2 min 6 s",
                trend=trend("used share of the reservation, the largest", "ratio", _wave(0.03, 0.1), 0.8),
            ),
            Signal(
                name="workers",
                title="Workers",
                level=Level.CALM,
                headline="12 workers, none crashed",
                trend=trend("orphaned jobs", "count", [0.0] * 60, 1),
            ),
            Signal(
                name="throttles",
                title="Throttles",
                level=Level.CALM,
                headline="reports has 4 of 10 in use (40\u00a0%)",
                trend=trend("saturation of the fullest throttle", "ratio", _wave(0.1, 0.5), 1.0),
            ),
        ),
        busy=tuple(
            BusyJob(
                jid=f"Xc81pQz0{number}kWv",
                jobtype=jobtype,
                queue=queue,
                worker=f"a3f{number}1c",
                age=age,
                used=age / 1800,
            )
            for number, (jobtype, queue, age) in enumerate(
                [("MonthlyReport", "reports", 126.0), ("SendDigest", "mailers", 31.0), ("Charge", "critical", 4.0)]
            )
        ),
        busy_count=17,
        orphans=(),
        orphan_count=0,
        throttles=(
            Throttle(queue="reports", scope="cluster", limit=10, in_use=4, saturation=0.4, waiting=0, level=Level.CALM),
        ),
        throttle_count=1,
        queues=tuple(QueueRow(name=n, jobs=jobs, latency=wait, paused=False) for n, jobs, wait in reversed(queues)),
        queue_count=4,
        sets={"scheduled": 1204, "retries": 3, "dead": 0, "working": 17},
        happenings=(),
        blind=(),
    )


def alarm(name: str = "faktory") -> ServerStatus:
    """The same server an hour later, on a bad one."""
    filling = _rise(0.31, 0.93)
    filling[20:24] = [math.nan] * 4
    return msgspec.structs.replace(
        calm(name),
        level=Level.CRITICAL,
        summary="Connections reach the limit in about 6 minutes, and a crash left 3 jobs behind.",
        workers=9,
        concerns=(
            Concern(
                level=Level.WARNING,
                text="Queue newsletter is paused with 966 jobs in it.",
                runbook="FaktoryQueuePausedWithBacklog",
            ),
        ),
        signals=(
            Signal(
                name="connections",
                title="Connections",
                level=Level.CRITICAL,
                headline="1,864 of 2,000 (93\u00a0%)",
                meaning="At the limit nobody can connect: no job is pushed, and workers that restart stay out.",
                advice="Restart the clients at 10.4.7.21, which hold 1,411 of the connections.",
                runbook="FaktoryConnectionsNearLimit",
                trend=trend(
                    "share of the connection limit",
                    "ratio",
                    [None if math.isnan(value) else value for value in filling],
                    0.8,
                ),
            ),
            Signal(
                name="busy",
                title="Busy jobs",
                level=Level.WARNING,
                headline="9 busy, the oldest for 27 min 4 s",
                meaning="It has used 90\u00a0% of its reservation: when that ends, the job runs a second time.",
                advice="See whether MonthlyReport still works; if so, raise its reserve_for.",
                runbook="FaktoryReservationNearlyUsed",
                trend=trend("used share of the reservation, the largest", "ratio", _rise(0.05, 0.9), 0.8),
            ),
            Signal(
                name="workers",
                title="Workers",
                level=Level.CRITICAL,
                headline="1 crashed 4 minutes ago, 3 jobs orphaned",
                meaning="Its jobs stand still until their reservations end, the first in 25 min 51 s.",
                advice="Read the end of the log of worker 7be02c, then start it again.",
                runbook="FaktoryWorkerCrashed",
                trend=trend("orphaned jobs", "count", [0.0] * 55 + [3.0] * 5, 1),
            ),
            Signal(
                name="throttles",
                title="Throttles",
                level=Level.UNKNOWN,
                headline="Not known: the configuration cannot be read",
                trend=trend("saturation of the fullest throttle", "ratio", [*_wave(0.4, 1.0, 48), *[None] * 12], 1.0),
            ),
        ),
        busy=(
            BusyJob(
                jid="Xc81pQz07kWv", jobtype="MonthlyReport", queue="reports", worker="a3f01c", age=1624, used=0.902
            ),
            BusyJob(
                jid="b2Lm77Tq1x0E", jobtype="Import", queue="bulk", worker="7be02c", age=249, used=0.138, orphan=True
            ),
            BusyJob(
                jid="Jd83kSm2a9Zp", jobtype="Import", queue="bulk", worker="7be02c", age=247, used=0.137, orphan=True
            ),
            BusyJob(jid="mU5vCe4o6RtY", jobtype="ThumbnailRender", queue="media", worker="91ac44", age=612, used=1.02),
        ),
        busy_count=9,
        orphans=(
            Orphan(jid="b2Lm77Tq1x0E", jobtype="Import", queue="bulk", worker="7be02c", age=236.0, returns_in=1551.0),
            Orphan(jid="Jd83kSm2a9Zp", jobtype="Import", queue="bulk", worker="7be02c", age=236.0, returns_in=1553.0),
            Orphan(jid="tR6yHn0w8QaS", jobtype="Sync", queue="default", worker="7be02c", age=236.0, returns_in=None),
        ),
        orphan_count=3,
        throttles=(
            Throttle(
                queue="reports",
                scope="cluster",
                limit=10,
                in_use=10,
                saturation=1.0,
                waiting=41,
                level=Level.WARNING,
            ),
            Throttle(
                queue="geocode",
                scope="worker",
                limit=5,
                in_use=None,
                saturation=None,
                waiting=None,
                level=Level.UNKNOWN,
            ),
        ),
        throttle_count=2,
        queues=(
            QueueRow(name="bulk", jobs=18_204, latency=1931.0, paused=False),
            QueueRow(name="reports", jobs=41, latency=702.0, paused=False),
            QueueRow(name="newsletter", jobs=966, latency=388.0, paused=True),
            QueueRow(name="default", jobs=7, latency=0.6, paused=False),
            QueueRow(name="media", jobs=None, latency=None, paused=None),
        ),
        queue_count=14,
        sets={"scheduled": 1190, "retries": 212, "dead": 5, "working": 9},
        happenings=(
            Happening(
                kind="worker_crash",
                at=NOW - 241,
                level=Level.CRITICAL,
                title="Worker 7be02c crashed",
                detail="It vanished with 3 jobs: 2 Import, 1 Sync.",
            ),
            Happening(kind="back", at=NOW - 2_471, level=Level.CALM, title="The server is back"),
            Happening(
                kind="incident",
                at=NOW - 2_480,
                level=Level.CRITICAL,
                title="The server's process died: concurrent map read and map write",
                detail="In webui.busyWorkers, of 212 goroutines.",
                hint="Something polls /busy while workers come and go: stop it, Faktory 1.10 and older die of it.",
            ),
        ),
        blind=(
            Blind(
                what="Throttles",
                why="conf.d/throttles.toml cannot be read: permission denied.",
                remedy="Let Forewarn's user read it: setfacl -m u:forewarn:r conf.d/throttles.toml",
            ),
        ),
    )


def unpolled(name: str = "faktory") -> ServerStatus:
    """A server of which nothing is known yet."""
    titles = ("Connections", "Busy jobs", "Workers", "Throttles")
    names = ("connections", "busy", "workers", "throttles")
    return ServerStatus(
        name=name,
        system="faktory",
        level=Level.UNKNOWN,
        up=None,
        summary="Not polled yet.",
        signals=tuple(
            msgspec.convert({"name": n, "title": t, "level": "unknown", "headline": "Not known yet"}, Signal)
            for n, t in zip(names, titles, strict=True)
        ),
    )


def hostile(name: str = "faktory") -> ServerStatus:
    """A server on which every name was chosen to hurt."""
    return msgspec.structs.replace(
        alarm(name),
        version=HOSTILE[0],
        busy=tuple(BusyJob(jid=each, jobtype=each, queue=each, worker=each, age=5.0, used=0.5) for each in HOSTILE),
        orphans=tuple(
            Orphan(jid=each, jobtype=each, queue=each, worker=each, age=5.0, returns_in=60.0) for each in HOSTILE
        ),
        throttles=tuple(
            Throttle(queue=each, scope="cluster", limit=5, in_use=1, saturation=0.2, waiting=0, level=Level.CALM)
            for each in HOSTILE
        ),
        queues=tuple(QueueRow(name=each, jobs=1, latency=1.0, paused=False) for each in HOSTILE),
        happenings=tuple(
            Happening(kind="worker_crash", at=NOW - 9, level=Level.WARNING, title=each, detail=each, hint=each)
            for each in HOSTILE
        ),
        blind=tuple(Blind(what=each, why=each, remedy=each) for each in HOSTILE),
        sets=dict.fromkeys(HOSTILE, 1),
    )


def status(*servers: ServerStatus, now: float = NOW) -> Status:
    worst = max((server.level for server in servers), key=list(Level).index, default=Level.UNKNOWN)
    return Status(version="0.7.0", generated_at=now, since=now - 7200, level=worst, servers=servers)


def fleet(count: int, *, alarms: int = 2) -> Status:
    """Many servers, some of them in alarm."""
    made = [alarm if number % max(1, count // max(1, alarms)) == 3 else calm for number in range(count)]
    return status(*(make(f"region-{number:02d}") for number, make in enumerate(made)))


class SampleBook:
    """A book of made-up statuses, in one event loop."""

    def __init__(self, told: Status) -> None:
        self.generation = 1
        self.asked = 0
        self._told = told
        self._turned = asyncio.Event()

    def status(self) -> Status:
        self.asked += 1
        return self._told

    def tell(self, told: Status) -> None:
        """Change what is known."""
        self._told = told
        self.generation += 1
        self._turned.set()
        self._turned = asyncio.Event()

    async def changed(self, since: int, within: float) -> int:
        if self.generation == since:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._turned.wait(), within)
        return self.generation
