"""Rendering against prometheus_client: ``python -m bench.rendering`` prints a table in Markdown.

The library renders the very same samples, read back from our own text into its own families before the clock starts:
it pays for no collecting. Our side pays for all that follows a poll: the points of a new snapshot, their text, and
publishing it. The contenders take turns in one process, and each cell is a median.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from exporter.model import (
    DURATION_BUCKETS,
    BootVerdict,
    BusyGroup,
    BusyVerdict,
    ConnectionsVerdict,
    CrashReason,
    Distribution,
    Observation,
    Queue,
    QueuesVerdict,
    Snapshot,
    ThrottlesVerdict,
    WorkersVerdict,
)
from exporter.outputs.prometheus import Exposition

K = TypeVar("K")
V = TypeVar("V")

SIZES = (1_000, 10_000, 100_000)
GOAL = 20


class Fixed(Collector):
    """Families that are ready to be rendered."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """Return them, at no cost."""
        return self._families


def gauges(samples: int, chance: random.Random) -> Snapshot:
    """Return a snapshot of gauges only, most of them of fractions: the dearest text."""
    rows = samples // 6
    queues = {f"queue-{n}": Queue(chance.randrange(10_000), chance.uniform(0, 4000), paused=False) for n in range(rows)}
    groups = {
        (f"queue-{n}", f"Job::Type{n}"): BusyGroup(
            chance.randrange(1, 100), chance.uniform(0, 4000), chance.uniform(0, 1)
        )
        for n in range(rows)
    }
    return snapshot(queues, groups, {})


def histograms(samples: int, chance: random.Random) -> Snapshot:
    """Return a snapshot as a busy server makes it: six samples of seven are of histograms."""
    rows = samples // (len(DURATION_BUCKETS) + 3 + 3)
    groups, durations = {}, {}
    for n in range(rows):
        pair = (f"queue-{n % 100}", f"Job::Type{n}")
        groups[pair] = BusyGroup(chance.randrange(1, 100), chance.uniform(0, 4000), chance.uniform(0, 1))
        counts = itertools.accumulate(chance.randrange(1000) for _ in range(len(DURATION_BUCKETS) + 1))
        durations[pair] = Distribution(tuple(counts), chance.uniform(0, 1e6))
    return snapshot({}, groups, durations)


def snapshot(
    queues: dict[str, Queue],
    groups: dict[tuple[str, str], BusyGroup],
    durations: dict[tuple[str, str], Distribution],
) -> Snapshot:
    return Snapshot(
        server="production",
        system="faktory",
        taken_at=0.0,
        observation=Observation(now=1_763_712_000.0, reached=True),
        boot=BootVerdict(0, 1_763_700_000.0, settled=True),
        connections=ConnectionsVerdict(10, 2000, 0),
        queues=QueuesVerdict(queues, {"queue": len(queues)}),
        busy=BusyVerdict(groups, None, durations),
        workers=WorkersVerdict(1, dict.fromkeys(CrashReason, 0), None),
        throttles=ThrottlesVerdict(None),
        collectors=(),
    )


def partly_changed(old: Snapshot, new: Snapshot, share: float, chance: random.Random) -> Snapshot:
    """Return ``old`` with ``share`` of its values taken from ``new``."""

    def mix(before: dict[K, V], after: dict[K, V]) -> dict[K, V]:
        return {key: after[key] if chance.random() < share else value for key, value in before.items()}

    replace = msgspec.structs.replace
    return replace(
        old,
        queues=replace(old.queues, queues=mix(dict(old.queues.queues or {}), dict(new.queues.queues or {}))),
        busy=replace(
            old.busy,
            groups=mix(dict(old.busy.groups or {}), dict(new.busy.groups or {})),
            durations=mix(dict(old.busy.durations), dict(new.busy.durations)),
        ),
    )


def measured(contenders: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Let the contenders take turns ``runs`` times; return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, contender in contenders.items():
            gc.collect()
            start = time.perf_counter()
            contender()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def bench(make: Callable[[int, random.Random], Snapshot], samples: int) -> dict[str, float]:
    chance = random.Random(samples)
    one, two = make(samples, chance), make(samples, chance)
    near = partly_changed(one, two, 0.05, chance)
    turns = {name: itertools.cycle(pair) for name, pair in (("warm", (two, one)), ("near", (near, one)))}
    warm, almost, scraped = Exposition("0"), Exposition("0"), Exposition("0")
    for exposition in (warm, almost, scraped):
        exposition.update(one)
    families = list(text_string_to_metric_families(scraped.body(0.0).decode()))
    fixed = Fixed(families)
    library: Callable[[], bytes] = lambda: generate_latest(fixed)  # noqa: E731

    def first_scrape(*, gzip: bool) -> Callable[[], object]:
        def scrape() -> None:
            scraped.body(0.0, gzip=gzip)

        return scrape

    def fresh() -> None:
        scraped.update(one)

    runs = max(7, min(41, 200_000 // samples))
    result = measured(
        {
            "library": library,
            "cold": lambda: Exposition("0").update(one),
            "warm": lambda: warm.update(next(turns["warm"])),
            "5 %": lambda: almost.update(next(turns["near"])),
            "(fresh)": fresh,
            "first plain": first_scrape(gzip=False),
            "first gzip": first_scrape(gzip=True),
            "next plain": first_scrape(gzip=False),
            "next gzip": first_scrape(gzip=True),
        },
        runs,
    )
    result["samples"] = sum(len(family.samples) for family in families)
    result["bytes"] = len(scraped.body(0.0))
    return result


async def stall(samples: int, *, update: bool) -> float:
    """Return the longest that the event loop was late within 20 updates in a thread, or as long without any."""
    chance = random.Random(samples)
    snapshots = itertools.cycle((gauges(samples, chance), gauges(samples, chance)))
    exposition = Exposition("0")
    exposition.update(next(snapshots))
    late = 0.0

    async def heartbeat() -> None:
        nonlocal late
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            late = max(late, time.perf_counter() - start - 0.001)

    gc.collect()
    gc.freeze()
    beating = asyncio.create_task(heartbeat())
    for _ in range(20):
        if update:
            await asyncio.to_thread(exposition.update, next(snapshots))
        await asyncio.sleep(0.02)
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating
    gc.unfreeze()
    return late


def main() -> None:
    out = sys.stdout.write
    out(f"Python {sys.version.split()[0]}, medians in milliseconds, the contenders taking turns in one process.\n\n")
    out("| shape | samples | generate_latest | cold | warm, all changed | warm, 5 % changed | times faster (warm) ")
    out("| scrape: first plain | first gzip | later plain | later gzip |\n")
    out("|" + " --- |" * 11 + "\n")
    missed = False
    for make, size in itertools.product((gauges, histograms), SIZES):
        it = bench(make, size)
        ratio = it["library"] / it["warm"]
        missed |= size == 10_000 and ratio < GOAL
        cells = [
            it[name] * 1000 for name in ("cold", "warm", "5 %", "first plain", "first gzip", "next plain", "next gzip")
        ]
        shown = [f"{cell:.2f}" for cell in cells]
        row = [make.__name__, f"{it['samples']:.0f}", f"{it['library'] * 1000:.1f}", *shown[:3], f"{ratio:.0f}"]
        out("| " + " | ".join(row + shown[3:]) + " |\n")
    idle, busy = (asyncio.run(stall(100_000, update=update)) for update in (False, True))
    out(f"\nEvent loop late by at most {busy * 1000:.1f} ms while 100k gauges are rendered in a thread ")
    out(f"({idle * 1000:.1f} ms with nothing to render).\n")
    out(f"Goal: 10k samples at least {GOAL} times faster than the library: {'missed' if missed else 'met'}.\n")


if __name__ == "__main__":
    main()
