"""Scrapes of Forewarn and of the exporter on PyPI beside one server: ``python -m bench.latency [--quick]``.

The exporters take turns, in blocks of scrapes. What the server pays is counted in runs of their own, one server each,
all at the same time: one without any exporter, and two of each with one and eight scrapers that come every second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from bench.exporters import EXPORTERS, FOREWARN, PYPI, Exporter, Scraper
from bench.load import a_server, loaded
from bench.report import median, ms, percentile, quick, say, table
from tests.servers import WatchedServer

SCRAPERS = (1, 8)
BUSY_JOBS = 1_000
BLOCK = 100
"""Scrapes of one exporter in a row, by all scrapers together."""

Key = tuple[str, int]
"""An exporter's name, and how many scrapers."""


class Scrapes(msgspec.Struct):
    """What was measured of one exporter with so many scrapers."""

    seconds: list[float] = []
    processor: float = 0.0
    samples: int = 0


async def block(exporter: Exporter, scrapers: int, result: Scrapes) -> None:
    """Scrape one block and add it to ``result``."""

    async def scrape() -> None:
        scraper = Scraper(exporter.port)
        for _ in range(BLOCK // scrapers):
            started = time.perf_counter()
            body = await scraper.scrape()
            result.seconds.append(time.perf_counter() - started)
            result.samples = sum(not line.startswith(b"#") for line in body.splitlines())
        await scraper.close()

    before = exporter.processor_seconds()
    await asyncio.gather(*(scrape() for _ in range(scrapers)))
    result.processor += exporter.processor_seconds() - before


async def latencies(blocks: int) -> dict[Key, Scrapes]:
    results = {(name, scrapers): Scrapes() for name in EXPORTERS for scrapers in SCRAPERS}
    async with a_server() as server:
        await loaded(server, BUSY_JOBS)
        async with EXPORTERS[FOREWARN](server) as ours, EXPORTERS[PYPI](server) as theirs:
            for _ in range(blocks):
                for scrapers in SCRAPERS:
                    for exporter in (ours, theirs):
                        await block(exporter, scrapers, results[exporter.name, scrapers])
    return results


async def starts(times: int) -> dict[str, list[float]]:
    """Return the seconds from the start of each exporter to its first answer, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in EXPORTERS}
    async with a_server() as server:
        for _ in range(times):
            for name, started in EXPORTERS.items():
                async with started(server) as exporter:
                    seconds[name].append(exporter.started_in)
    return seconds


class Paid(msgspec.Struct, frozen=True):
    """What one server was asked for in a minute."""

    commands: float
    redis: float


async def paid(name: str | None, scrapers: int, seconds: float) -> Paid:
    """Return what a server pays for one exporter with so many scrapers, or for none."""
    async with a_server() as server:
        await loaded(server, BUSY_JOBS)
        if name is None:
            return await _counted(server, (), seconds)
        async with EXPORTERS[name](server) as exporter:
            return await _counted(server, [Scraper(exporter.port) for _ in range(scrapers)], seconds)


async def _counted(server: WatchedServer, scrapers: Sequence[Scraper], seconds: float) -> Paid:
    async def counts() -> tuple[int, int]:
        told = await server.redis().info("stats")
        return (await server.health())["server"]["command_count"], told["total_commands_processed"]

    before = await counts()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.gather(*(scraper.scrape() for scraper in scrapers), asyncio.sleep(1))
    after = await counts()
    for scraper in scrapers:
        await scraper.close()
    commands, redis = (late - early for late, early in zip(after, before, strict=True))
    return Paid(commands * 60 / seconds, (redis - 1) * 60 / seconds)


async def main() -> None:
    blocks, times, window = (2, 2, 10) if quick() else (20, 7, 60)
    results = await latencies(blocks)
    started = await starts(times)
    say(f"## Scrapes beside {BUSY_JOBS:,} busy jobs, in ms\n")
    rows = []
    for (name, scrapers), it in results.items():
        rows.append(
            [
                *(name, str(scrapers), str(it.samples)),
                *(ms(median(it.seconds)), ms(percentile(it.seconds, 0.99))),
                f"{it.processor * 1000 / len(it.seconds):.2f}",
            ]
        )
    table(("exporter", "scrapers", "samples", "p50", "p99", "processor seconds for 1000 scrapes"), rows)
    say("\nForewarn's processor time holds that of the polls that went on meanwhile.")

    say("\n## From the start of the process to the first answer of /metrics, in seconds\n")
    table(("exporter", "median", "slowest"), [[it, f"{median(t):.2f}", f"{max(t):.2f}"] for it, t in started.items()])

    cases: list[tuple[str | None, int]] = [
        (None, 0),
        *((name, scrapers) for name in EXPORTERS for scrapers in SCRAPERS),
    ]
    answers = await asyncio.gather(*(paid(name, scrapers, window) for name, scrapers in cases))
    say(f"\n## What the server pays, in a minute, with scrapes every second (counted over {window} s)\n")
    table(
        ("exporter", "scrapers", "commands on 7419", "commands of its Redis"),
        [
            [name or "none", str(scrapers), f"{it.commands:.0f}", f"{it.redis:.0f}"]
            for (name, scrapers), it in zip(cases, answers, strict=True)
        ],
    )
    say("\nThe server's own commands to its Redis are in the last column.")


if __name__ == "__main__":
    asyncio.run(main())
