"""What traces cost, of processor and memory: ``python -m bench.traces [--quick]``.

Two watches of one server take turns in one process after each change of the busy jobs, one with traces and one without;
which one comes first alternates. What is compared is the processor time of the process, over all of its threads, from
the start of a poll until all that it told is encoded and the collector, a process of its own, has taken it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import chain

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench.collector import collecting
from bench.exporters import Exporter, Scraper, forewarn
from bench.load import Load, a_server, loaded, settings_of
from bench.report import goal, median, median_interval, ms, quick, say, table
from exporter.model import Choice, Execution, JobFacts, Outcome, Reservation, Snapshot
from exporter.outputs import traces
from exporter.outputs.otlp import OtlpSender
from exporter.outputs.prometheus import Exposition
from exporter.outputs.trace_output import MAX_BATCH, MAX_WAITING, Item, Outbox, Pace, Rank, TraceOutput
from exporter.settings import MAX_SLOW, MAX_TRACES_PER_SECOND, OtlpTarget
from exporter.sidecar import run_loop
from exporter.signals import Signals
from exporter.systems import build
from exporter.watch import Watch
from tests.servers import WatchedServer, free_port, wait_until

BUSY_JOBS = 10_000
CHURN = 0.01
"""Share of the jobs that end between two polls; as many begin."""

MORE = 1.15
"""How much more processor time a poll may take with traces."""

IDLE_SECONDS = 60
DEADLINE = 60.0

TRACED = traces.Traced("faktory", "faktory", "localhost", 7419)


# --- one span -------------------------------------------------------------------------------------------------------


def executions(outcome: Outcome) -> Sequence[Execution]:
    """Return as many jobs that ended as the outbox holds: each is the span of the job and that of its wait."""
    failed = outcome is Outcome.FAILED
    return [
        Execution(
            reservation=Reservation(
                jid=f"{number:024x}",
                worker=f"worker{number % 500:010d}",
                queue=f"queue-{number % 40}",
                jobtype=f"Billing::Invoice{number % 100}",
                reserved_at=1_800_000_000.0 + number / 7,
                expires_at=1_800_001_800.0 + number / 7,
                job=JobFacts(
                    enqueued_at=1_799_999_990.0 + number / 7,
                    retry=25,
                    traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01",
                ),
            ),
            outcome=outcome,
            ended_at=1_800_000_090.0 + number / 7,
            uncertainty=5.0,
            error_type="Net::ReadTimeout" if failed else None,
            error="Net::ReadTimeout with #<TCPSocket:(closed)>" if failed else None,
        )
        for number in range(MAX_WAITING // 2)
    ]


def processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


class OneSpan:
    """What a span goes through, in three steps."""

    def __init__(self, told: Sequence[Execution]) -> None:
        self._told = told
        self._batches: list[Sequence[Item]] = []
        self._spans: list[list[Span]] = []

    def wait(self) -> None:
        """Go through the outbox."""
        outbox = Outbox()
        for number, each in enumerate(self._told):
            spans = traces.count(each)
            outbox.put(Item(number, Rank.ORDINARY, spans, spans, TRACED.name, each))
        self._batches = list(_taken(outbox))

    def build(self) -> None:
        """Become spans."""
        self._spans = [
            list(chain.from_iterable(traces.spans(TRACED, it.told, parent=False) for it in batch if it.told))
            for batch in self._batches
        ]

    def encode(self) -> None:
        """Become requests."""
        for batch in self._spans:
            traces.encode(batch)


def _taken(outbox: Outbox) -> Iterator[Sequence[Item]]:
    while batch := outbox.take(MAX_BATCH):
        yield batch
        outbox.settle(batch)


def per_span(rounds: int) -> None:
    rows = []
    for outcome in (Outcome.FINISHED, Outcome.FAILED):
        told = executions(outcome)
        one = OneSpan(told)
        spent = [[processor_seconds(step) for step in (one.wait, one.build, one.encode)] for _ in range(rounds)]
        steps = [median(column) / (2 * len(told)) * 1e6 for column in zip(*spent, strict=True)]
        rows.append([f"that {outcome}", *(f"{step:.1f}" for step in (*steps, sum(steps)))])
    say(f"## Processor time of one span, in µs: medians of {rounds} times {MAX_WAITING:,} spans\n")
    table(("of a job", "waits in the outbox", "is built", "is encoded", "together"), rows)
    say()


# --- a poll ---------------------------------------------------------------------------------------------------------


class Polled:
    """One watch, and what follows its polls."""

    def __init__(self, watch: Watch, output: TraceOutput | None, settled: asyncio.Event) -> None:
        self.watch = watch
        self.told = 0
        self._output = output
        self._settled = settled

    async def poll(self) -> float:
        """Poll once, and return the processor seconds until all that was told is sent."""
        started = time.process_time()
        snapshot = await self.watch.poll()
        while self._output is not None and self._output.totals().waiting:
            self._settled.clear()
            await self._settled.wait()
        spent = time.process_time() - started
        if snapshot.executions is not None:
            self.told = len(snapshot.executions.told)
        return spent


@asynccontextmanager
async def polled(
    server: WatchedServer, executor: ThreadPoolExecutor, target: OtlpTarget, choice: Choice | None
) -> AsyncIterator[Polled]:
    """Yield a watch as the sidecar builds it; without ``choice``, one without traces."""
    settings = settings_of(server)
    output: TraceOutput | None = None
    settled = asyncio.Event()

    def tell(snapshot: Snapshot, *_: float) -> None:
        if output is not None and snapshot.executions is not None:
            output.take(settings.name, snapshot.executions.told)

    sender = OtlpSender(target)
    if choice is not None:
        output = TraceOutput(sender, {settings.name: TRACED}, parent=False, settled=settled.set, pace=Pace(gather=0))
    sending = None if output is None else asyncio.create_task(output.run())
    watch = Watch(
        settings.name,
        settings.system,
        build(settings, traces=choice is not None),
        Signals(200, server=settings.name, choice=choice),
        interval=5,
        publish=Exposition("bench").update,
        to_save=asyncio.Event(),
        executor=executor,
        tell=tell,
    )
    try:
        yield Polled(watch, output, settled)
    finally:
        await watch.close()
        if sending is not None:
            sending.cancel()
        await sender.close()


class Case(msgspec.Struct, frozen=True):
    """What ends between two polls, and what of it is told."""

    name: str
    choice: Choice
    failing: int = 0
    apart: float = 0.0
    """Seconds between two polls."""
    is_default: bool = False
    """Whether it can come about with the settings as they are shipped: the goal is about those."""


INTERVAL = 5.0
"""Seconds between two polls as they are shipped."""

# The bound is per second. Where it is to be met, polls are a second apart and may tell as many as after 5 s; where it
# is not, they follow each other at once.
CAPPED = Choice(per_second=Choice().per_second * INTERVAL, slow_seconds=0)
UNCAPPED = Choice(per_second=MAX_TRACES_PER_SECOND)
CASES = (
    Case(
        "defaults, jobs under a minute: 1 % told",
        msgspec.structs.replace(UNCAPPED, slow_seconds=MAX_SLOW),
        is_default=True,
    ),
    Case("defaults, jobs over a minute: told up to the cap", CAPPED, apart=1.0, is_default=True),
    Case("the same, and 5 failed", CAPPED, failing=5, apart=1.0, is_default=True),
    Case("ratio of 0.1: 10 % told", msgspec.structs.replace(UNCAPPED, slow_seconds=MAX_SLOW, ratio=0.1)),
    Case("no cap: all told", msgspec.structs.replace(UNCAPPED, slow_seconds=0)),
)


class Turns(msgspec.Struct):
    """Processor seconds of each turn, and how many things a poll with traces told."""

    off: list[float] = []
    on: list[float] = []
    told: list[int] = []


async def rest(until: float) -> float:
    """Wait for that instant of the loop's clock, and return it."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(until - loop.time())
    return until


async def take_turns(server: WatchedServer, load: Load, endpoint: str, case: Case, turns: int) -> Turns:
    found = Turns()
    target = OtlpTarget(url=f"{endpoint}/v1/traces")
    with ThreadPoolExecutor(1) as executor:
        async with polled(server, executor, target, None) as off, polled(server, executor, target, case.choice) as on:
            due = asyncio.get_running_loop().time()
            for _ in range(3):  # the first decodes everything, the third is the first that judges
                due = await rest(due + case.apart)
                await load.churn(CHURN, case.failing)
                await off.poll()
                await on.poll()
            for turn in range(turns):
                due = await rest(due + case.apart)
                await load.churn(CHURN, case.failing)
                for side, spent in ((off, found.off), (on, found.on))[:: 1 if turn % 2 else -1]:
                    spent.append(await side.poll())
                found.told.append(on.told)
    return found


async def polls(turns: int) -> None:
    rows, ratios = [], []
    async with a_server() as server, collecting() as endpoint:
        load = await loaded(server, BUSY_JOBS)
        for case in CASES:
            found = await take_turns(server, load, endpoint, case, turns)
            pairs = [on / off for on, off in zip(found.on, found.off, strict=True)]
            low, high = median_interval(pairs)
            ratio = median(pairs)
            ratios.append((case, ratio))
            told = f"{median(found.told):.0f}"
            spent = (ms(median(found.off)), ms(median(found.on)))
            rows.append([case.name, told, *spent, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}"])
    ending = int(BUSY_JOBS * CHURN)
    say(f"## A poll with {BUSY_JOBS:,} busy jobs, {ending} of which end: processor ms, {turns} pairs of polls\n")
    say(f"Beside {server.name}. A job that is told is two spans.\n")
    table(("of those that end", "told", "without traces", "with traces", "median ratio", "95 % of it"), rows)
    say()
    for case, ratio in ratios:
        if case.is_default:
            what = f"less than {MORE - 1:.0%} more processor time with traces, {case.name} ({ratio - 1:+.1%})"
            goal(what, met=ratio < MORE)
    say()


# --- memory ---------------------------------------------------------------------------------------------------------


async def idle(server: WatchedServer, arguments: Sequence[str], seconds: float) -> int:
    """Return the resident kB of Forewarn beside an idle server."""
    async with forewarn(server, arguments=arguments) as ours:
        scraper = Scraper(ours.port)
        for _ in range(int(seconds / 5)):
            await scraper.scrape()
            await asyncio.sleep(5)
        await scraper.close()
        return ours.resident()


async def flooded(server: WatchedServer, load: Load, arguments: Sequence[str], polls: int) -> int:
    """Return the most kB that Forewarn has taken beside many busy jobs, 5 % of which end every second."""
    async with forewarn(server, interval="1s", arguments=arguments) as ours:
        await _all_seen(ours)
        for _ in range(polls):
            await load.churn(0.05)
            await asyncio.sleep(1)
        if arguments:
            await _drops(ours)
        return ours.resident(peak=True)


async def _all_seen(ours: Exporter) -> None:
    await _until(ours, lambda page: f'set="working"}} {BUSY_JOBS}\n' in page)


async def _drops(ours: Exporter) -> None:
    """Wait until the outbox is full: the first span that was dropped tells it."""
    dropped = re.compile(r'^forewarn_otlp_items_total\{signal="traces",result="dropped"\} [1-9]', re.MULTILINE)
    await _until(ours, lambda page: dropped.search(page) is not None)


async def _until(ours: Exporter, met: Callable[[str], bool]) -> None:
    scraper = Scraper(ours.port)

    async def scraped() -> bool:
        return met((await scraper.scrape()).decode())

    await wait_until(scraped, DEADLINE, every=0.1)
    await scraper.close()


async def memory(*, short: bool) -> None:
    seconds, rounds = (10, 12) if short else (IDLE_SECONDS, 30)
    async with a_server() as server, collecting() as endpoint:
        alone = await idle(server, (), seconds)
        told = await idle(server, (f"--otlp.endpoint={endpoint}", "--otlp.metrics-interval=5s"), seconds)
        load = await loaded(server, BUSY_JOBS)
        busy = await flooded(server, load, (), rounds)
        dead = f"--otlp.endpoint=http://127.0.0.1:{free_port()}"
        flood = await flooded(
            server, load, (dead, "--traces.slow-seconds=0", f"--traces.per-second={MAX_TRACES_PER_SECOND}"), rounds
        )
    say("## Resident memory in MiB, each in a fresh process\n")
    table(
        (
            f"idle, after {seconds} s",
            "idle with an endpoint",
            f"peak with {BUSY_JOBS:,} busy jobs",
            "the same with a dead collector and a full outbox",
        ),
        [[f"{kilobytes / 1024:.1f}" for kilobytes in (alone, told, busy, flood)]],
    )
    say()


async def main() -> int:
    short = quick()
    per_span(3 if short else 25)
    await polls(9 if short else 61)
    await memory(short=short)
    return 0


if __name__ == "__main__":
    run_loop(main())
