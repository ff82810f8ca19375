"""Receiving StatsD beside prometheus/statsd_exporter: ``python -m bench.statsd [--quick]``.

The contenders take turns, each in a fresh process, and are sent the same by a process of its own: what Faktory
Enterprise tells of each job. In the first part each has one processor core for itself, all its processes together, and
the sender has another. What each has counted is what its own ``/metrics`` tells when nothing comes any more; what
neither was counted nor is told as lost is lost without being counted.

statsd_exporter is measured as it is shipped (a summary of each timing), and with histograms of Forewarn's buckets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from bench.exporters import Exporter, Scraper, forewarn, processor_seconds, resident, running
from bench.load import a_server
from bench.report import goal, median, ms, percentile, quick, say, table
from bench.statsd_sender import COMMON, SERIES, Sent
from exporter.statsd.report import SECONDS_BOUNDS
from exporter.statsd.sockets import RECEIVE_BUFFER
from tests.servers import WatchedServer, children, free_port, wait_until

PROGRAM: Final = Path(".tools/statsd_exporter")
LACKING: Final = "no .tools/statsd_exporter: `make test` builds it where Go is at hand; Forewarn is measured alone"

OURS: Final = "forewarn"
THEIRS: Final = "statsd_exporter"
THEIRS_HISTOGRAMS: Final = "statsd_exporter, histograms"

INTERVAL: Final = 1.0
"""Seconds between two polls of Forewarn."""

RATE: Final = 200_000.0
"""Packets a second."""

HTTP: Final = "1.0"
"""By which all are scraped: statsd_exporter answers 1.1 in chunks."""

SETTLED: Final = 30.0
"""Seconds within which everything that was received is told."""

LINES_GOAL: Final = 500_000
MEMORY_GOAL: Final = 0.25
LATE_GOAL: Final = 0.050


class Counted(msgspec.Struct, frozen=True):
    """What a receiver tells that it has received."""

    packets: int
    """Datagrams of UDP."""
    lines: int
    dropped: int
    """Packets that it tells as lost."""


class Contender(msgspec.Struct, frozen=True):
    """A receiver that runs."""

    name: str
    exporter: Exporter
    port: int
    """Where it listens for StatsD, by UDP and TCP."""

    def pids(self) -> Sequence[int]:
        """Return all its processes."""
        return (self.exporter.pid, *children(self.exporter.pid))

    def processor(self) -> float:
        """Return the processor seconds of all of them."""
        return sum(map(processor_seconds, self.pids()))

    def resident(self) -> int:
        """Return the memory of all its processes in kB."""
        return sum(map(resident, self.pids()))

    async def counted(self) -> Counted:
        """Return what it tells that it has received."""
        scraper = Scraper(self.exporter.port, HTTP)
        try:
            sums = _sums(await scraper.scrape())
        finally:
            await scraper.close()
        if self.name == OURS:
            return Counted(
                packets=int(sums.get('forewarn_statsd_packets_total{server="faktory",transport="udp"}', 0)),
                lines=int(sums.get('forewarn_statsd_samples_total{server="faktory"}', 0)),
                dropped=int(sums.get('forewarn_statsd_dropped_packets_total{server="faktory",at="kernel"}', 0)),
            )
        dropped = int(sums.get("statsd_exporter_udp_packet_drops_total", 0))
        return Counted(
            packets=int(sums.get("statsd_exporter_udp_packets_total", 0)) - dropped,  # which are among them
            lines=int(sums.get("statsd_exporter_samples_total", 0)),
            dropped=dropped,
        )

    async def settled(self) -> Counted:
        """Return what it has counted once that rises no more."""
        last, since, ends = await self.counted(), time.monotonic(), time.monotonic() + SETTLED
        while time.monotonic() - since < 2.5 * INTERVAL and time.monotonic() < ends:
            await asyncio.sleep(INTERVAL / 4)
            now = await self.counted()
            if now != last:
                last, since = now, time.monotonic()
        return last


def _sums(page: bytes) -> dict[str, float]:
    """Return the samples that tell how receiving went."""
    return {
        name: float(value)
        for name, _, value in (
            line.rpartition(" ")
            for line in page.decode().splitlines()
            if line.startswith(("forewarn_statsd_", "statsd_exporter_"))
        )
    }


@contextmanager
def on_core(number: int | None) -> Iterator[None]:
    """Let what is started in a ``with`` block run on one processor core."""
    before = os.sched_getaffinity(0)
    if number is not None:
        os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _histograms() -> Iterator[Path]:
    """Write a mapping file that makes a histogram of each timing."""
    told = {"observer_type": "histogram", "histogram_options": {"buckets": list(SECONDS_BOUNDS)}}
    with tempfile.TemporaryDirectory() as folder:
        mapping = Path(folder, "mapping.yml")
        mapping.write_text(json.dumps({"defaults": told, "mappings": []}))  # JSON is YAML
        yield mapping


@asynccontextmanager
async def contender(name: str, server: WatchedServer, core: int | None = None) -> AsyncIterator[Contender]:
    """Run one of the receivers."""
    port, web = free_port(), free_port()
    async with contextlib.AsyncExitStack() as stack:
        if name == OURS:
            arguments = [f"--statsd.listen=127.0.0.1:{port}", f"--max-label-values={SERIES // 5 + 1}"]
            started = forewarn(server, interval=f"{INTERVAL:g}s", arguments=arguments)
        else:
            listening = [f"--statsd.listen-{it}=127.0.0.1:{port}" for it in ("udp", "tcp")]
            command = [str(PROGRAM), *listening, f"--web.listen-address=127.0.0.1:{web}"]
            command.append(f"--statsd.read-buffer={RECEIVE_BUFFER}")
            if name == THEIRS_HISTOGRAMS:
                command.append(f"--statsd.mapping-config={stack.enter_context(_histograms())}")
            started = running(name, command, dict(os.environ), web, HTTP)
        with on_core(core):
            exporter = await stack.enter_async_context(started)
            found = Contender(name, exporter, port)
            if name == OURS:
                await wait_until(lambda: children(exporter.pid), what="the receiving process runs")
        yield found


async def send(how: str, port: int, *numbers: float, core: int | None = None) -> Sent:
    """Send from a process of its own."""
    with on_core(core):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.statsd_sender", how, str(port), *map(str, numbers)),
            stdout=asyncio.subprocess.PIPE,
        )
    told, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the sender of {how} ended with status {process.returncode}")
    return msgspec.json.decode(told, type=Sent)


# --- how many lines a second ------------------------------------------------------------------------------------------


class Speed(msgspec.Struct, frozen=True):
    """One run."""

    lines: float
    """Counted, a second."""
    offered: float
    """Sent, a second."""
    micros: float
    """Processor time, in microseconds for each line that was counted."""
    uncounted: int
    """Packets, of TCP lines, that are neither received nor told as lost."""


async def speed(name: str, server: WatchedServer, how: str, amount: float) -> Speed:
    """Return how fast one contender counts on one processor core."""
    async with contender(name, server, core=1) as it:
        # What each label set costs when it comes for the first time is not what is measured.
        await send("tcp", it.port, 20_000, core=0)
        before, processor = await it.settled(), it.processor()
        sent = await send(how, it.port, amount, core=0)
        after = await it.settled()
        processor = it.processor() - processor
        counted = after.lines - before.lines
        received = after.packets - before.packets if how == "udp" else counted
        return Speed(
            lines=counted / sent.seconds,
            offered=sent.lines / sent.seconds,
            micros=processor * 1e6 / max(counted, 1),
            uncounted=sent.packets - received - (after.dropped - before.dropped),
        )


# --- what a blast of single packets costs -----------------------------------------------------------------------------


class Blast(msgspec.Struct, frozen=True):
    """One run."""

    sent: Sent
    received: int
    dropped: int
    """Told as lost."""
    scrapes: Sequence[float]
    """Seconds of each scrape meanwhile."""
    late: Sequence[float]
    """Seconds by which each poll meanwhile came late."""
    calm_late: Sequence[float]
    """The same before."""
    series: int
    resident: int
    """In kB, after all label sets were there, and before the blast."""
    resident_after: int

    @property
    def uncounted(self) -> int:
        """Packets that were neither received nor told as lost."""
        return self.sent.packets - self.received - self.dropped


async def blast(name: str, server: WatchedServer, of: int, seconds: float) -> Blast:
    """Return what becomes of single packets, of ``of`` label sets, and of all else meanwhile."""
    async with contender(name, server) as it:
        # All of them once: a second's packets stay within some of them.
        filled = await send("one", it.port, of / 4000 + 1, 20_000.0, of)
        await it.settled()
        assert filled.packets >= of, "not every label set was sent"
        scraper = Scraper(it.exporter.port, HTTP)
        series = len(re.findall(rb"^faktory_job\w*_count\{", await scraper.scrape(), re.MULTILINE))
        await scraper.close()
        memory = it.resident()
        calm = await polls(server, asyncio.sleep(min(seconds, 10))) if name == OURS else []
        before = await it.counted()
        scrapes: list[float] = []
        scraping = asyncio.create_task(_scrape(it, scrapes))
        sending = asyncio.create_task(send("one", it.port, seconds, RATE, of))
        late = await polls(server, asyncio.shield(sending)) if name == OURS else []
        sent = await sending
        scraping.cancel()
        await asyncio.gather(scraping, return_exceptions=True)
        after = await it.settled()
        return Blast(
            sent=sent,
            received=after.packets - before.packets,
            dropped=after.dropped - before.dropped,
            scrapes=scrapes,
            late=late,
            calm_late=calm,
            series=series,
            resident=memory,
            resident_after=it.resident(),
        )


async def _scrape(it: Contender, seconds: list[float]) -> None:
    """Scrape all the time, with pauses in which the contender does what it does for itself."""
    scraper = Scraper(it.exporter.port, HTTP)
    try:
        while True:
            started = time.perf_counter()
            await scraper.scrape()
            seconds.append(time.perf_counter() - started)
            await asyncio.sleep(0.1)
    finally:
        await scraper.close()


async def polls(server: WatchedServer, until: Awaitable[object]) -> list[float]:
    """Return by how many seconds each poll came late, as the server's Redis sees it, until something has ended.

    Each poll asks it first for its clock.
    """
    at: list[float] = []
    async with server.redis().monitor() as monitor:

        async def listen() -> None:
            while True:
                command = await monitor.next_command()
                if command["command"] == "TIME":
                    at.append(command["time"])

        listening = asyncio.create_task(listen())
        await until
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    return [max(0.0, after - before - INTERVAL) for before, after in pairwise(at)]


# --- the report -------------------------------------------------------------------------------------------------------

NAMES: Final = (OURS, THEIRS, THEIRS_HISTOGRAMS)


async def main() -> None:
    names = NAMES if PROGRAM.exists() else NAMES[:1]
    rounds, total, seconds, blasting = (1, 400_000, 2.0, 5.0) if quick() else (3, 2_000_000, 4.0, 15.0)
    async with a_server() as server:
        speeds: dict[tuple[str, str], list[Speed]] = {}
        for _ in range(rounds):
            for how, amount in (("tcp", total), ("udp", seconds)):
                for name in names:
                    speeds.setdefault((how, name), []).append(await speed(name, server, how, amount))
        blasts: dict[tuple[int, str], list[Blast]] = {}
        for _ in range(1 if quick() else 2):
            for of in (COMMON, SERIES):
                for name in names:
                    blasts.setdefault((of, name), []).append(await blast(name, server, of, blasting))
    if names != NAMES:
        say(LACKING)
    tell_speeds(names, speeds)
    tell_blasts(names, blasts)
    tell_goals(names, speeds, blasts)


def tell_speeds(names: Sequence[str], speeds: Mapping[tuple[str, str], Sequence[Speed]]) -> None:
    say(f"## StatsD: lines a second on one core, {COMMON:,} label sets of a timing (medians)\n")
    rows = []
    for how, told in (("tcp", "TCP"), ("udp", "UDP, packets of 1432 bytes")):
        rival = [it.lines for it in speeds.get((how, THEIRS), ())]
        for name in names:
            runs = speeds[how, name]
            ratio = f"{statistics.median(a.lines / b for a, b in zip(runs, rival, strict=True)):.2f}" if rival else "-"
            rows.append(
                [
                    *(told, name),
                    *(f"{median([getattr(it, key) for it in runs]):,.0f}" for key in ("offered", "lines")),
                    *(ratio, f"{median([it.micros for it in runs]):.2f}"),
                    f"{median([it.uncounted for it in runs]):,.0f}",
                ]
            )
    head = ("by", "receiver", "offered", "counted", "ratio", "CPU µs a line", "packets lost without being counted")
    table(head, rows)
    say()


def tell_blasts(names: Sequence[str], blasts: Mapping[tuple[int, str], Sequence[Blast]]) -> None:
    say(f"## StatsD: single packets, {RATE:,.0f} a second wanted, on all cores (medians)\n")
    table(
        (
            *("label sets", "receiver", "offered a second", "received", "told as lost", "lost without being counted"),
            *("series kept", "MiB", "MiB after", "scrape p50, ms", "p99, ms"),
        ),
        [
            [
                *(f"{of:,}", name, f"{median([it.sent.packets / it.sent.seconds for it in runs]):,.0f}"),
                *(f"{100 * median([it.received / it.sent.packets for it in runs]):.2f}%",),
                *(f"{median([it.dropped for it in runs]):,.0f}", f"{median([it.uncounted for it in runs]):,.0f}"),
                *(f"{median([it.series for it in runs]):,.0f}", f"{median([it.resident for it in runs]) / 1024:.0f}"),
                f"{median([it.resident_after for it in runs]) / 1024:.0f}",
                *(ms(percentile([took for it in runs for took in it.scrapes], share)) for share in (0.5, 0.99)),
            ]
            for of in (COMMON, SERIES)
            for name in names
            for runs in [blasts[of, name]]
        ],
    )
    say()
    table(
        ("label sets", "polls", "late by, p50 in ms", "most", "before the blast: p50", "most"),
        [
            [
                f"{of:,}",
                str(len(late)),
                *(ms(percentile(its, share)) for its in (late, calm) for share in (0.5, 1.0)),
            ]
            for of in (COMMON, SERIES)
            for late in [[it for run in blasts[of, OURS] for it in run.late]]
            for calm in [[it for run in blasts[of, OURS] for it in run.calm_late]]
        ],
    )
    say()


def tell_goals(
    names: Sequence[str],
    speeds: Mapping[tuple[str, str], Sequence[Speed]],
    blasts: Mapping[tuple[int, str], Sequence[Blast]],
) -> None:
    slowest = min(median([it.lines for it in speeds[how, OURS]]) for how in ("tcp", "udp"))
    goal(f"at least {LINES_GOAL:,} lines a second on one core ({slowest:,.0f})", met=slowest >= LINES_GOAL)
    ours = [it for (_, name), runs in blasts.items() if name == OURS for it in runs]
    uncounted = sum(abs(it.uncounted) for it in ours) + sum(it.uncounted for it in speeds["udp", OURS])
    goal(f"no loss that is not counted ({uncounted:,} packets)", met=uncounted == 0)
    if THEIRS in names:
        for when in ("resident", "resident_after"):
            mine, rival = (median([getattr(it, when) for it in blasts[SERIES, name]]) for name in (OURS, THEIRS))
            told = "after the blast" if when == "resident_after" else "before it"
            share = mine / rival
            goal(
                f"at {SERIES:,} series less than a quarter of statsd_exporter's memory, {told} ({share:.2f})",
                met=share < MEMORY_GOAL,
            )
    for of in (COMMON, SERIES):
        late = max(it for run in blasts[of, OURS] for it in run.late)
        goal(f"with {of:,} label sets no poll more than 50 ms late ({ms(late)} ms)", met=late <= LATE_GOAL)


if __name__ == "__main__":
    asyncio.run(main())
