"""Names that others choose: however many and however hostile, what is told stays bounded, true and readable."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import redis.asyncio

from exporter import __version__
from exporter.demo import child
from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.source import FaktorySource
from exporter.faktory.store import Store
from exporter.model import (
    AGE_BUCKETS,
    DURATION_BUCKETS,
    MAX_NAME,
    OTHER,
    CollectorRun,
    Gain,
    Health,
    Labelled,
    Move,
    Observation,
    Queue,
    Reservation,
    Snapshot,
    SocketFacts,
    StatsdFact,
    StatsdFacts,
    StatsdTraffic,
    label_value,
)
from exporter.outputs.prometheus import OPENMETRICS_TYPE, TEXT_TYPE, Exposition
from exporter.signals import Signals, statsd
from exporter.signals.connections import PEERS
from exporter.signals.labels import PAIRS_PER_NAME
from exporter.watch import Watch
from tests.forewarn import Forewarn, Scrape
from tests.programs import need
from tests.servers import StandInFaktory, free_port, wait_until

T = TypeVar("T")

LIMIT = 200
NAMES = 50_000
LARGE = 150

HOSTILE: tuple[bytes, ...] = (
    b'quo"ted',
    b"back\\slash",
    b"new\nline",
    b'"} 1\nfaktory_up{server="forged',
    b"carriage\rreturn\ttab\x00nul\x07bell\x1b[31m",
    b"\xff\xfe invalid \xc3\x28 utf-8",
    "\u202eright-to-left \u05e9\u05dc\u05d5\u05dd".encode(),
    "\u2028line separator \U0001f600 % %s %b {curly}".encode(),
    b"m" * 2**20,
    b"=" * MAX_NAME + b"one",  # these two are equal after the cut
    b"=" * MAX_NAME + b"other",
    b"# EOF",
    b"NaN",
    b"",
    OTHER.encode(),
)
"""Each of these is given the most jobs of all, so that it is kept under its own name."""

MOST = 400
"""Jobs of each hostile queue and reservations of each hostile job type."""

QUEUE_SIZES: dict[bytes, int] = {
    **dict.fromkeys(HOSTILE, MOST),
    **{b"large-%d" % number: MOST - 1 - number for number in range(LARGE)},
    **{b"small-%d" % number: 1 for number in range(NAMES - LARGE - len(HOSTILE))},
}


def labels_of(names: Sequence[bytes]) -> list[str]:
    """Return the label values that these names have."""
    return [label_value(name.decode("utf-8", "replace")) for name in names]


QUEUE_LABELS = set(labels_of([*QUEUE_SIZES]))


@asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    """A real redis-server of the test's own; yields its URL."""
    need("redis-server", "redis-server")
    with tempfile.TemporaryDirectory(prefix="fw-redis-") as folder:
        process = await asyncio.create_subprocess_exec(
            *child.command("redis-server", "--port", "0", "--unixsocket", f"{folder}/redis.sock", "--save", ""),
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            await wait_until((Path(folder) / "redis.sock").exists, what="redis-server listens")
            yield f"unix://{folder}/redis.sock"
        finally:
            process.terminate()
            await process.wait()


async def fill_queues(url: str) -> None:
    """Put the queues of :data:`QUEUE_SIZES` where the newest Faktory keeps them."""
    job = json.dumps({"jid": "j", "enqueued_at": "2026-01-01T00:00:00Z"})
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.delete("queues")
        for chunk in chunks(list(QUEUE_SIZES.items()), 5000):
            pipe = client.pipeline(transaction=False)
            pipe.sadd("queues", *(name for name, _ in chunk))
            for name, jobs in chunk:
                pipe.rpush(b"q:" + name, *([job] * jobs))
            await pipe.execute()


async def fill_working(url: str) -> int:
    """Reserve a job for each of 50,000 job types, of the hostile ones :data:`MOST`; return how many."""
    now = time.time()
    types = itertools.chain(
        # A mebibyte of a name is worth one reservation only.
        itertools.chain.from_iterable([name] * (MOST if len(name) < 2**20 else 1) for name in HOSTILE),
        *([b"Large%d" % number] * (MOST - 1 - number) for number in range(LARGE)),
        (b"Small%d" % number for number in range(NAMES - LARGE - len(HOSTILE))),
    )
    reserved = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 10))
    entries = [
        (member(number, jobtype, f"worker-{number % 50}", reserved), now + 1800 + number * 7919 % NAMES / 1000)
        for number, jobtype in enumerate(types)
    ]
    async with redis.asyncio.Redis.from_url(url) as client:
        for chunk in chunks(entries, 2000):
            await client.zadd("working", dict(chunk))
    return len(entries)


def member(number: int, jobtype: bytes, wid: str, reserved: str) -> bytes:
    # JSON may not hold control characters; invalid UTF-8 stands in it as it is.
    text = json.dumps(jobtype.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    quoted = text.encode("utf-8", "surrogateescape")
    return (
        b'{"job":{"jid":"jid-%d","queue":"default","jobtype":%b,"args":[]},"reserved_at":"%b","expires_at":"","wid":"%b"}'
        % (number, quoted, reserved.encode(), wid.encode())
    )


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[tuple[Watch, Exposition]]:
    """The real store, signals and exposition over this Redis; no server answers beside it."""
    exposition = Exposition(__version__)
    source = FaktorySource(
        Client(Endpoint("127.0.0.1", free_port())),
        web_url=f"http://127.0.0.1:{free_port()}",
        store=Store(url, timeout=10),
    )
    with ThreadPoolExecutor(1) as executor:
        watch = Watch(
            "faktory",
            "faktory",
            source,
            Signals(LIMIT),
            interval=5,
            publish=exposition.update,
            to_save=asyncio.Event(),
            executor=executor,
        )
        try:
            yield watch, exposition
        finally:
            await watch.close()


def both(exposition: Exposition) -> Scrape:
    """Return what is exposed, after both formats have been read by prometheus-client to the same samples."""
    now = time.monotonic()
    text = Scrape(exposition.body(now).decode(), TEXT_TYPE)
    openmetrics = Scrape(exposition.body(now, openmetrics=True).decode(), OPENMETRICS_TYPE)
    own = ("process_",)
    assert {key: value for key, value in text.samples.items() if not key[0].startswith(own)} == {
        key: value for key, value in openmetrics.samples.items() if not key[0].startswith(own)
    }
    return text


async def promtool(text: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    told, _ = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, told.decode(errors="replace")


MOST_NAMES = LIMIT + 1
MOST_PAIRS = LIMIT * PAIRS_PER_NAME + 2 * LIMIT + 1
"""Those with a series of their own; those of a known name with any other; any others with any others."""

MOST_SERIES = (
    MOST_NAMES * (3 + len(AGE_BUCKETS) + 3)  # of queues, and the ages of their jobs
    + MOST_PAIRS * (5 + len(DURATION_BUCKETS) + 3)  # busy jobs, orphans, durations
    + 200  # whatever does not depend on names
)


async def test_of_50_000_queues_the_largest_are_told_and_the_rest_in_one() -> None:
    async with redis_server() as url, watching(url) as (watch, exposition):
        await fill_queues(url)
        snapshot = await watch.poll()
        scrape = both(exposition)
        assert await promtool(scrape.text) == (0, "")
    assert failures(snapshot) == []
    queues = {labels["queue"]: value for labels, value in scrape.matching("faktory_queue_jobs")}
    assert len(queues) == LIMIT + 1
    assert sum(queues.values()) == sum(QUEUE_SIZES.values())
    kept = {name: size for name, size in QUEUE_SIZES.items() if size > 1 and name.startswith(b"large")}
    assert {name: queues[name] for name in labels_of([*kept])} == {
        name.decode(): float(size) for name, size in kept.items()
    }
    assert queues["=" * MAX_NAME] == 2 * MOST
    assert queues["m" * MAX_NAME] == queues["(empty)"] == queues['quo"ted'] == queues["new\nline"] == MOST
    assert queues[OTHER] >= MOST + NAMES - LIMIT - 2
    assert scrape.value("forewarn_label_values", label="queue") == len(QUEUE_LABELS)
    assert scrape.value("forewarn_label_values_limit", label="queue") == LIMIT
    assert scrape.value("forewarn_label_values_limit", label="jobtype") == LIMIT
    assert len(scrape.samples) <= MOST_SERIES
    assert scrape.value("faktory_up") == 0  # the name that would forge it did not


async def test_of_50_000_job_types_the_largest_are_told_and_the_rest_in_one() -> None:
    async with redis_server() as url, watching(url) as (watch, exposition):
        total = await fill_working(url)
        snapshot = await watch.poll()
        scrape = both(exposition)
        assert await promtool(scrape.text) == (0, "")
    assert failures(snapshot) == []
    busy = {labels["jobtype"]: value for labels, value in scrape.matching("faktory_busy_jobs")}
    assert len(busy) <= LIMIT + 1
    assert sum(busy.values()) == total == scrape.value("faktory_set_jobs", set="working")
    assert {f"Large{number}": busy[f"Large{number}"] for number in range(LARGE)} == {
        f"Large{number}": float(MOST - 1 - number) for number in range(LARGE)
    }
    assert busy["=" * MAX_NAME] == 2 * MOST
    assert busy["(empty)"] == busy['quo"ted'] == busy["new\nline"] == MOST
    types = {*labels_of(HOSTILE), *(f"Large{n}" for n in range(LARGE))}
    small = NAMES - LARGE - len(HOSTILE)
    assert scrape.value("forewarn_label_values", label="jobtype") == len(types) + small
    assert scrape.value("faktory_busy_job_age_seconds_gcount", queue="default") == total
    assert len(scrape.samples) <= MOST_SERIES


def failures(snapshot: Snapshot) -> list[str]:
    return [run.failure.message for run in snapshot.observation.runs if run.failure and run.name == "redis"]


async def test_forewarn_lives_beside_50_000_hostile_names(standin: StandInFaktory) -> None:
    await fill_queues(standin.redis_url)
    total = await fill_working(standin.redis_url)
    async with Forewarn(standin, interval="5s") as forewarn:
        scrape = await forewarn.scrape()
        openmetrics = await forewarn.scrape(openmetrics=True)
        assert await promtool(scrape.text) == (0, "")
        assert (await forewarn.get("/"))[0] == 200
        assert (await forewarn.stop())[0] == 0
        assert [line for line in forewarn.log() if line["level"] != "info"] == []
    for read in (scrape, openmetrics):
        assert len(read.samples) <= MOST_SERIES
        assert read.total("faktory_queue_jobs") == sum(QUEUE_SIZES.values())
        assert read.total("faktory_busy_jobs") == total
        assert read.value("forewarn_label_values", label="queue") == len(QUEUE_LABELS | {"default"})
        assert read.value("faktory_up") == 1
        assert {labels["server"] for labels, _ in read.matching("faktory_up")} == {"faktory"}


FEW = 40
"""The bound on names in the test of memory, so that hours of churn take seconds."""


def churned(poll: int, now: float) -> Observation:
    """What a server tells: job types and peers are new at every poll, queues at every third; each job is brief.

    So it is by StatsD, which tells of some of them.
    """
    queues = [f"queue-{poll // 3}-{number}-{'x' * 60}" for number in range(FEW + 10)]
    reservations = {}
    for number in range(2 * FEW):
        queue = queues[number % len(queues)]
        jid = f"jid-{poll}-{number}"
        jobtype = f"Type-{poll}-{number}-{'x' * 60}"
        reservations[jid] = Reservation(jid, f"worker-{poll}-{number}", queue, jobtype, now - 4.0, now + 1796.0)
    return Observation(
        now=now,
        reached=True,
        runs=(CollectorRun("redis", 0.01),),
        health=Health("1.10.0", "oss", 5, 1000 + poll),
        connections_limit=2000,
        sockets=SocketFacts({f"10.{number}.{poll // 256}.{poll % 256}": number for number in range(FEW)}),
        queues={name: Queue(jobs=number, latency=1.0, paused=False) for number, name in enumerate(queues)},
        sets={"working": len(reservations)},
        reservations=reservations,
        statsd=churned_statsd(now, [(it.queue, it.jobtype) for it in reservations.values()][::8]),
    )


def churned_statsd(now: float, pairs: Sequence[Labelled]) -> StatsdFacts:
    return StatsdFacts(
        heard_at=now,
        counts={fact: dict.fromkeys(pairs, 1.0) for fact in (StatsdFact.EXECUTIONS, StatsdFact.OTHER_COUNT)},
        gains={StatsdFact.TIMES: {pair: Gain((1.0,) * 18, 1.0) for pair in pairs}},
        moves={
            StatsdFact.QUEUE_JOBS: {pair[:1]: Move(True, 1.0) for pair in pairs},
            StatsdFact.OTHER_LEVEL: {pair: Move(True, 1.0) for pair in pairs},
        },
        traffic=StatsdTraffic(),
    )


@pytest.mark.slow
def test_memory_is_flat_after_an_hour_of_names_that_are_always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "MOST_NAMES", 5 * FEW)
    signals, exposition = Signals(FEW), Exposition(__version__)
    sizes: dict[int, int] = {}
    series: dict[int, int] = {}
    peers: dict[int, int] = {}
    tracemalloc.start()
    try:
        for poll in range(720):
            now = 1_700_000_000.0 + 5 * poll
            pending = signals.receive(churned(poll, now))
            verdicts = signals.conclude(pending, dict.fromkeys(pending.suspects, True), pending.observation.runs)
            exposition.update(
                Snapshot(
                    server="faktory",
                    system="faktory",
                    taken_at=now,
                    observation=pending.observation,
                    boot=verdicts.boot,
                    connections=verdicts.connections,
                    queues=verdicts.queues,
                    busy=verdicts.busy,
                    workers=verdicts.workers,
                    throttles=verdicts.throttles,
                    collectors=verdicts.collectors,
                    statsd=verdicts.statsd,
                )
            )
            if poll in {179, 719}:
                gc.collect()
                sizes[poll] = tracemalloc.get_traced_memory()[0]
                series[poll] = exposition.body(now).count(b"\nfaktory_")
                peers[poll] = exposition.body(now).count(b"\nfaktory_peer_connections{")
    finally:
        tracemalloc.stop()
    assert peers == {179: PEERS + 1, 719: PEERS + 1}
    assert series[719] <= series[179] * 1.05, (
        f"{series[179]} series after a quarter of the hour, {series[719]} at its end"
    )
    assert sizes[719] <= sizes[179] * 1.05, f"{sizes[179]} bytes after a quarter of the hour, {sizes[719]} at its end"
