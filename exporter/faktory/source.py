"""Source: learns the state of one Faktory by the rules of ``docs/harmless.md``, and by no other request.

Every poll asks ``/health`` and, where it is within reach, the server's Redis. ``INFO`` walks over a map of queue names
without a lock: asked at the moment when a push creates a new name it can kill the server, so it is asked at most once a
minute and not near a new name, unless it is the only source. What the server tells of itself by StatsD is listened for,
and what it prints is read, as is what the kernel tells of its sockets and its process: that is asked of nobody.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from heapq import nlargest
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec

from exporter.faktory.advisories import known_risks
from exporter.faktory.client import Client
from exporter.faktory.conf import ThrottleFiles
from exporter.faktory.endpoint import Endpoint, tls_context
from exporter.faktory.errors import FaktoryError
from exporter.faktory.health import HealthPage
from exporter.faktory.info import Info, decode_info
from exporter.faktory.log_lines import FAKTORY_LINES
from exporter.faktory.output import Output, Tail
from exporter.faktory.statsd import StatsdNames
from exporter.faktory.store import Store, StoreFacts
from exporter.faktory.versions import Version, parse_version
from exporter.model import (
    CollectorRun,
    Ended,
    Failure,
    Health,
    JobFailure,
    LogFacts,
    Observation,
    Position,
    ProcessFacts,
    Queue,
    Reason,
    SocketFacts,
    Source,
    StatsdFacts,
    ThrottleLimit,
)
from exporter.process.exits import ExitLines
from exporter.process.proc import ServerProcess
from exporter.process.sockets import PortPeers
from exporter.statsd.listener import Heard, StatsdListener

if TYPE_CHECKING:
    from exporter.process.feeds import Feed
    from exporter.settings import LogWatch, ServerSettings

INFO_REST = 60.0
"""Shortest time in seconds between two ``INFO`` with Redis within reach."""

INFO_REST_ALONE = 15.0
"""The same where ``INFO`` is the only source."""

INFO_QUIET = 30.0
"""Seconds for which no new queue name may have been seen before ``INFO`` is asked."""

READ_DEADLINE = 30.0
"""Seconds for all that is read of Redis in one poll: 100,000 busy jobs and 50,000 queues take less than one."""

PROBES_DEADLINE = 5.0
"""Seconds for all questions after workers of one poll."""

INFO_KEPT = 75.0
"""Seconds for which an answer to ``INFO`` counts as what is known now."""

QUEUE_LATENCY_SINCE = (1, 9, 2)
LATENCY_NAMES = 200
"""Most queues whose latency is asked for by ``QUEUE LATENCY`` in one poll."""

logger = logging.getLogger("forewarn.faktory")

T = TypeVar("T")


def connections_limit(configured: int | None, health: Health | None) -> int | None:
    """Return how many connections the server allows.

    Faktory does not tell. The open source server enforces 2000 since 1.9.0 and warns at 1000 before; what an Enterprise
    server allows depends on its licence.
    """
    if configured is not None or health is None:
        return configured
    version = parse_version(health.version)
    if health.edition != "oss" or version is None:
        return None
    return 2000 if version >= (1, 9) else 1000


def info_due(now: float, asked: float | None, new_name: float | None, *, alone: bool) -> bool:
    """Decide whether ``INFO`` may be asked now: ``asked`` last, and ``new_name`` of a queue last seen, at these times.

    ``alone``: no Redis is configured, so that new names cannot be seen and there is no other source.
    """
    if alone:
        return asked is None or now - asked >= INFO_REST_ALONE
    rested = asked is None or now - asked >= INFO_REST
    return rested and new_name is not None and now - new_name >= INFO_QUIET


class FaktorySource:
    """One Faktory: its Web UI's health page, its command port, its Redis, its configuration files, its StatsD.

    And what it prints, and what the kernel tells of it.
    """

    def __init__(
        self,
        client: Client,
        *,
        web_url: str,
        tls: ssl.SSLContext | None = None,
        store: Store | None = None,
        throttles: ThrottleFiles | None = None,
        sockets: PortPeers | None = None,
        process: ServerProcess | None = None,
        tail: Callable[[Callable[[], float]], Tail] | None = None,
        statsd: StatsdListener | None = None,
        names: StatsdNames | None = None,
        limit: int | None = None,
        info_asked: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``limit`` overrides the connection limit that the version implies. ``clock`` and ``wall`` are in seconds.

        ``info_asked``: when another source of the same server asked for ``INFO`` last, by ``clock``.

        ``process`` is known by what ``sockets`` tell. ``tail`` returns what reads the server's output, and is handed
        the server's clock, which may be read in any thread. ``names`` sorts what ``statsd`` hears; without it they are
        Faktory's as it tells them unless told otherwise.
        """
        self._client = client
        self._web_url = web_url
        self._tls = tls
        self._store = store
        self._throttles = throttles
        self._sockets = sockets
        self._process = process
        self._process_failed = False
        self._statsd = statsd
        self._names = StatsdNames() if names is None else names
        self._limit = limit
        self._clock = clock
        self._ahead = wall() - clock()  # the server's clock less ours; until it tells, our wall clock is taken for it
        self._output = None if tail is None else Output(tail(self._now))
        self._session: aiohttp.ClientSession | None = None
        self._page: HealthPage | None = None
        self._info: Info | None = None
        self._info_asked = info_asked
        self._new_name: float | None = None
        self._version: Version | None = None
        self._refusals = 0
        self._connects = 0
        self._reached = False
        self._page_known = False

    @property
    def info_asked(self) -> float | None:
        """When ``INFO`` was asked last, by the monotonic clock; ``None``: never."""
        return self._info_asked

    async def observe(self) -> Observation:
        """Learn what is known now. Each part has a deadline of its own and fails alone."""
        async with asyncio.TaskGroup() as beside:
            # Where there are very many sockets the kernel takes its time: nobody else waits for that.
            reading = beside.create_task(self._read_kernel())
            listening = beside.create_task(self._read_statsd())
            observation = await self._ask()
        # Last, so that what led to what was just seen stands in it.
        log, read = await self._read_output()
        sockets, process, run = reading.result()
        heard, listened = listening.result()
        statsd = None if heard is None else await self._sort(heard)
        return msgspec.structs.replace(
            observation,
            sockets=sockets,
            process=process,
            log=log,
            known_risks=self._known_risks(observation),
            statsd=statsd,
            runs=(*observation.runs, *run, *listened, *read),
        )

    async def _ask(self) -> Observation:
        """Learn what the server and its Redis tell."""
        runs: list[CollectorRun] = []
        page = await self._timed(runs, "health", self._read_health())
        connected = await self._timed(runs, "connection", self._connect()) or False
        now = self._now()
        facts = await self._read_store(runs)
        if self._may_ask_info(connected=connected, names_known=facts is not None and facts.queues is not None):
            self._info_asked = self._clock()
            self._info = await self._timed(runs, "info", self._read_info()) or self._info
        info = self._fresh_info(now)
        alone = info if self._store is None else None
        health = page if page is not None or self._page_known else _health_of(info)
        refusals, self._refusals = self._client.refusals - self._refusals, self._client.refusals
        connects, self._connects = self._client.connects - self._connects, self._client.connects
        was_reached = self._reached
        self._reached = page is not None or refusals > 0 or connects > 0 or (connected and not self._hangs(runs))
        return Observation(
            now=now,
            reached=self._reached,
            interrupted=not was_reached or connects > 0,
            refusals=refusals,
            health=health,
            connections_limit=connections_limit(self._limit, health),
            details=info.details if info else None,
            queues=facts.queues if facts else await self._queues_of(runs, alone, connected=connected),
            sets=facts.sets if facts else None if alone is None else alone.sets,
            overdue=facts.overdue if facts else None,
            processed=facts.processed if facts else None if alone is None else alone.processed,
            failed=facts.failed if facts else None if alone is None else alone.failed,
            reservations=facts.reservations if facts else None,
            throttles=await self._read_throttles(runs),
            runs=tuple(runs),
        )

    async def probe(self, workers: Sequence[str]) -> tuple[Mapping[str, bool], CollectorRun]:
        """Tell which of ``workers`` are registered. Each question renews the heartbeat of one that is."""
        answers: dict[str, bool] = {}
        started = self._clock()
        failure: Failure | None = None
        try:
            async with asyncio.timeout(PROBES_DEADLINE):
                for worker in workers:
                    try:
                        answers[worker] = await self._client.registered(worker)
                    except FaktoryError as error:
                        failure = error.failure
                        if not self._client.connected:
                            break
        except TimeoutError:
            told = f"asking after {len(workers)} workers took longer than {PROBES_DEADLINE:g} s; the rest waits"
            failure = Failure(Reason.TIMEOUT, told)
        return answers, self._run("workers", started, failure)

    async def failures(self, ended: Sequence[Ended]) -> tuple[Mapping[str, JobFailure | None], CollectorRun]:
        """Tell how each of ``ended`` failed, or that it did not, as far as Redis tells it."""
        started = self._clock()
        if self._store is None:
            return {}, self._run("failures", started)
        facts = await self._store.failures(ended, self._now)
        return facts.known, self._run("failures", started, facts.failure)

    async def close(self) -> None:
        """End every connection politely."""
        if self._output is not None:
            await self._output.close()
        if self._statsd is not None:
            await self._statsd.close()
        await self._client.close()
        if self._store is not None:
            await self._store.close()
        if self._session is not None:
            await self._session.close()

    async def _timed(self, runs: list[CollectorRun], name: str, work: Awaitable[T]) -> T | None:
        started = self._clock()
        result: T | None = None
        failure: Failure | None = None
        try:
            result = await work
        except FaktoryError as error:
            failure = error.failure
        runs.append(self._run(name, started, failure))
        return result

    def _run(self, name: str, started: float, failure: Failure | None = None) -> CollectorRun:
        return CollectorRun(name, self._clock() - started, failure, started)

    def _hangs(self, runs: Sequence[CollectorRun]) -> bool:
        """Tell whether a health page that is known does not answer: then a connection that stands proves nothing."""
        health = runs[0].failure
        return self._page_known and health is not None and health.reason is Reason.TIMEOUT

    def _now(self) -> float:
        return self._clock() + self._ahead

    async def _read_health(self) -> Health:
        if self._page is None:  # made here, for a session belongs to the loop that runs
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
            self._page = HealthPage(self._session, self._web_url, tls=self._tls)
        health, now = await self._page.read()
        self._ahead = now - self._clock()
        self._version = parse_version(health.version)
        self._page_known = True
        return health

    async def _connect(self) -> bool:
        await self._client.keep()
        return True

    async def _read_store(self, runs: list[CollectorRun]) -> StoreFacts | None:
        if self._store is None:
            return None
        hint = self._now() if self._page_known else None
        facts = await self._timed(runs, "redis", _in_time(self._store.read(hint, self._version)))
        if facts is None:
            return None
        if not self._page_known:
            self._ahead = facts.now - self._clock()
        if facts.new_names is None or facts.new_names:
            self._new_name = self._clock()
        if facts.failure is not None:
            runs[-1] = msgspec.structs.replace(runs[-1], failure=facts.failure)
        return facts

    def _may_ask_info(self, *, connected: bool, names_known: bool) -> bool:
        alone = self._store is None
        if not connected or not (alone or names_known):
            return False
        return info_due(self._clock(), self._info_asked, self._new_name, alone=alone)

    async def _read_info(self) -> Info:
        body = await self._client.info()
        info = decode_info(body, asked_at=self._now())
        if info.version is not None:
            self._version = parse_version(info.version)
        return info

    def _fresh_info(self, now: float) -> Info | None:
        info = self._info
        return info if info is not None and now - info.details.asked_at <= INFO_KEPT else None

    async def _read_throttles(self, runs: list[CollectorRun]) -> tuple[ThrottleLimit, ...] | None:
        if self._throttles is None:
            return None
        started = self._clock()
        limits, failure = await asyncio.to_thread(self._throttles.read)
        runs.append(self._run("throttles", started, failure))
        return limits

    async def _read_kernel(self) -> tuple[SocketFacts | None, ProcessFacts | None, Sequence[CollectorRun]]:
        if self._sockets is None:
            return None, None, ()
        started = self._clock()
        sockets, failure = await self._sockets.read()
        # Neither where the server is on another machine: nothing to collect.
        runs = [self._run("sockets", started, failure)] if sockets is not None or failure is not None else []
        if self._process is None:
            return sockets, None, runs
        started = self._clock()
        told = None if self._output is None else self._output.pid
        process, failure = await self._process.read(self._sockets.inode, told)
        self._process_failed |= failure is not None
        if self._process_failed:  # that it is mended is told too
            runs.append(self._run("process", started, failure))
        return sockets, process, runs

    async def _read_output(self) -> tuple[LogFacts | None, Sequence[CollectorRun]]:
        if self._output is None:
            return None, ()
        started = self._clock()
        facts, failure = await self._output.read(self._version, self._now())
        return facts, (self._run("log", started, failure),)

    def _known_risks(self, observation: Observation) -> Mapping[str, bool] | None:
        edition = None if observation.health is None else observation.health.edition
        pages = None if self._output is None else self._output.pages(self._now())
        return known_risks(self._version, edition, observation.throttles, pages)

    async def _read_statsd(self) -> tuple[Heard | None, Sequence[CollectorRun]]:
        if self._statsd is None:
            return None, ()
        started = self._clock()
        heard, failure = await self._statsd.read()
        return heard, (self._run("statsd", started, failure),)

    async def _sort(self, heard: Heard) -> StatsdFacts:
        """Sort what was heard: ten thousand series take a while, in which others have their turn."""
        last = heard.totals.last_packet
        heard_at = None if last is None else self._now() - (time.monotonic() - last)
        return await asyncio.to_thread(self._names.facts, heard, heard_at)

    async def _queues_of(
        self, runs: list[CollectorRun], info: Info | None, *, connected: bool
    ) -> Mapping[str, Queue] | None:
        """Return the queues as far as they can be known without Redis."""
        if info is None or info.queues is None:
            return None
        latencies: Mapping[str, float] = {}
        if connected and self._version is not None and self._version >= QUEUE_LATENCY_SINCE:
            largest = nlargest(LATENCY_NAMES, info.queues, key=info.queues.__getitem__)
            told = await self._timed(runs, "latency", self._client.queue_latency(largest))
            latencies = told or {}
        return {name: Queue(jobs=jobs, latency=latencies.get(name)) for name, jobs in info.queues.items()}


async def _in_time(reading: Awaitable[StoreFacts]) -> StoreFacts:
    try:
        async with asyncio.timeout(READ_DEADLINE):
            return await reading
    except TimeoutError:
        told = f"reading Redis took longer than {READ_DEADLINE:g} s: is it slow, or is there far more in it than usual?"
        raise FaktoryError(Reason.TIMEOUT, told) from None


def _health_of(info: Info | None) -> Health | None:
    """Return what the health page would have told, where there is none: the Web UI may be switched off."""
    if info is None or info.connections is None or info.commands is None or info.version is None:
        return None
    return Health(info.version, info.edition or "unknown", info.connections, info.commands)


def build(
    settings: ServerSettings,
    *,
    traces: bool = False,
    positions: Sequence[Position] = (),
    feeds: Sequence[Feed] = (),
    before: Source | None = None,
) -> FaktorySource:
    """Return the source of the Faktory that ``settings`` describe. Opens nothing yet.

    ``traces``: reservations carry what their jobs tell of themselves. ``positions``: how far the files of its log were
    read before. ``feeds``: what else carries its output. ``before``: the source that it takes the place of.
    """
    endpoint = Endpoint.parse(settings.url.reveal(), settings.ca_file)
    if settings.password is not None:
        endpoint = msgspec.structs.replace(endpoint, password=settings.password)
    store = None
    if settings.redis_url is None:
        fix = "set redis_url to its Redis: INFO can kill a Faktory in the moment in which a new queue name comes up"
        fields = {"server": settings.name, "fix": fix}
        logger.warning(
            "no Redis is configured: INFO is the only source, and is asked every %g s",
            INFO_REST_ALONE,
            extra={"fields": fields},
        )
    else:
        store = Store(settings.redis_url.reveal(), settings.redis_password, settings.redis_ca_file, facts=traces)
    listen = settings.statsd
    return FaktorySource(
        Client(endpoint),
        web_url=settings.web_url,
        tls=tls_context(settings.ca_file) if settings.web_url.startswith("https") else None,
        store=store,
        throttles=None if settings.config_dir is None else ThrottleFiles(settings.config_dir),
        sockets=PortPeers(endpoint.host, endpoint.port),
        process=ServerProcess("faktory"),
        tail=_tail(settings.log, positions, feeds),
        statsd=None if listen is None else StatsdListener(listen.address, listen.unix, listen.relay),
        names=None if listen is None else StatsdNames(listen.namespace, keep_all=listen.keep_all),
        limit=settings.connections_limit,
        info_asked=before.info_asked if isinstance(before, FaktorySource) else None,
    )


def _tail(
    watch: LogWatch | None, positions: Sequence[Position], feeds: Sequence[Feed]
) -> Callable[[Callable[[], float]], Tail] | None:
    """Return what makes a reader of the server's output, once it is told the server's clock."""
    files, journals = (watch.files, watch.journals) if watch is not None else ((), ())
    if not (files or journals or feeds):
        return None
    from exporter.process.logtail import LogTail  # noqa: PLC0415 - takes memory that others need not give

    def make(wall: Callable[[], float]) -> Tail:
        rules = (FAKTORY_LINES, ExitLines("faktory", journals))
        return LogTail(files, journals, feeds=feeds, rules=rules, positions=positions, wall=wall)

    return make
