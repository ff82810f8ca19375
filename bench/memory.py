"""Resident memory of ``forewarn run``, idle and loaded: ``python -m bench.memory [--quick]``."""

from __future__ import annotations

import asyncio

from bench.exporters import PYPI, Exporter, Scraper, forewarn, pypi
from bench.load import a_server, loaded
from bench.report import goal, quick, say, table
from tests.servers import wait_until

IDLE_GOAL = 50 * 1024
"""kB of resident memory."""

BUSY_JOBS = 100_000
DEADLINE = 60.0


async def idle(seconds: float) -> tuple[int, int]:
    """Return what Forewarn and the exporter of PyPI take beside an idle server, scraped every 5 s."""
    async with a_server() as server, forewarn(server) as ours, pypi(server) as theirs:
        scrapers = Scraper(ours.port), Scraper(theirs.port)
        for _ in range(int(seconds / 5)):
            for scraper in scrapers:
                await scraper.scrape()
            await asyncio.sleep(5)
        for scraper in scrapers:
            await scraper.close()
        return ours.resident(), theirs.resident()


async def busy(polls: int) -> int:
    """Return what Forewarn takes after so many polls beside a server with many busy jobs, some of which change."""
    async with a_server() as server:
        load = await loaded(server, BUSY_JOBS)
        async with forewarn(server, interval="1s") as ours:
            await _all_seen(ours)
            for _ in range(polls):
                await load.churn(0.01)
                await asyncio.sleep(1)
            return ours.resident()


async def _all_seen(ours: Exporter) -> None:
    scraper = Scraper(ours.port)

    async def seen() -> bool:
        return f'set="working"}} {BUSY_JOBS}\n'.encode() in await scraper.scrape()

    await wait_until(seen, DEADLINE, every=0.1)
    await scraper.close()


async def main() -> None:
    seconds = 10 if quick() else 60
    (ours, theirs), full = await asyncio.gather(idle(seconds), busy(3 if quick() else 20))
    say("## Resident memory in MiB, each in a fresh process\n")
    table(
        (f"idle, after {seconds} s", f"with {BUSY_JOBS:,} busy jobs", f"{PYPI}, idle"),
        [[f"{kilobytes / 1024:.1f}" for kilobytes in (ours, full, theirs)]],
    )
    say()
    goal(f"less than {IDLE_GOAL / 1024:.0f} MiB idle ({ours / 1024:.1f} MiB)", met=ours < IDLE_GOAL)


if __name__ == "__main__":
    asyncio.run(main())
