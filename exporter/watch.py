"""Watches one server: polls its source, feeds the signals, publishes the newest snapshot, logs what changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor

import msgspec

from exporter.model import CollectorRun, CollectorTotals, Crash, JobFailure, Snapshot, Source, Told
from exporter.signals import Memory, Pending, Signals

logger = logging.getLogger("forewarn.watch")

TOLD_JOBS = 20
"""How many of the jobs that a crash left behind are named in the log."""


class Event(msgspec.Struct, frozen=True):
    """One line for the log: something began, ended or happened."""

    level: int
    message: str
    fields: Mapping[str, object]


class Watch:
    """Polls one server for ever. One poll serves all readers of the snapshot."""

    def __init__(
        self,
        name: str,
        system: str,
        source: Source,
        signals: Signals,
        *,
        interval: float,
        publish: Callable[[Snapshot], None],
        to_save: asyncio.Event,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[Snapshot, float, float], None] | None = None,
    ) -> None:
        """Nothing is polled before :meth:`run`.

        Args:
            name: The server's, as configured.
            system: What kind of server it is.
            source: Where its state is learned.
            signals: What is made of it.
            interval: Seconds from one poll to the next.
            publish: Called in ``executor`` once per poll, with the snapshot.
            to_save: Set when what was told must outlive this process: a crash was counted, or something became
                part of a trace.
            executor: Where the work that grows with the server is done: one thread.
            clock: In seconds.
            tell: Called in the event loop after each poll, with the snapshot and the poll's start and end by ``clock``.
        """
        self.name = name
        self.snapshot: Snapshot | None = None
        self._system = system
        self._source = source
        self._signals = signals
        self._interval = interval
        self._publish = publish
        self._to_save = to_save
        self._executor = executor
        self._clock = clock
        self._tell = tell
        self._untold: tuple[Told, ...] = ()
        self._broken = False

    async def run(self) -> None:
        """Poll at every interval until cancelled. The server rests at least half an interval between two polls."""
        while True:
            started = self._clock()
            await self._poll_guarded()
            await asyncio.sleep(max(self._interval / 2, started + self._interval - self._clock()))

    async def poll(self) -> Snapshot:
        """Learn what is known now and publish it."""
        started = self._clock()
        observation = await self._source.observe()
        # The work below grows with the number of busy jobs: off the loop, so that no scrape waits for it.
        loop = asyncio.get_running_loop()
        pending = await loop.run_in_executor(self._executor, self._signals.receive, observation)
        probes, runs = {}, observation.runs
        if pending.suspects:
            answers, run = await self._source.probe(pending.suspects)
            probes, runs = dict(answers), (*runs, run)
        failures: Mapping[str, JobFailure | None] = {}
        if pending.ended:
            failures, run = await self._source.failures(pending.ended)
            runs = (*runs, run)
        before = self.snapshot
        after = await loop.run_in_executor(self._executor, self._conclude, pending, probes, runs, failures)
        self.snapshot = after
        if after.workers.found or (after.executions is not None and after.executions.told):
            self._to_save.set()
        if self._tell is not None:
            self._tell(after, started, self._clock())
            self._untold = ()
        for event in transitions(before, after):
            logger.log(event.level, event.message, extra={"fields": {"server": self.name, **event.fields}})
        return after

    def memory(self) -> Memory:
        """Return what the next run of Forewarn needs of this server. To be called in the executor.

        Its ``untold`` is what has not been handed to ``tell`` yet.
        """
        return msgspec.structs.replace(self._signals.memory(), untold=self._untold)

    async def close(self) -> None:
        """Part from the server politely."""
        await self._source.close()

    def _conclude(
        self,
        pending: Pending,
        probes: dict[str, bool],
        runs: tuple[CollectorRun, ...],
        failures: Mapping[str, JobFailure | None],
    ) -> Snapshot:
        verdicts = self._signals.conclude(pending, probes, runs, failures)
        if self._tell is not None and verdicts.executions is not None:
            # The state may be saved before the loop comes to hand it over: it would be lost to the next run.
            self._untold = verdicts.executions.told
        snapshot = Snapshot(
            server=self.name,
            system=self._system,
            taken_at=self._clock(),
            observation=pending.observation,
            boot=verdicts.boot,
            connections=verdicts.connections,
            queues=verdicts.queues,
            busy=verdicts.busy,
            workers=verdicts.workers,
            throttles=verdicts.throttles,
            collectors=verdicts.collectors,
            executions=verdicts.executions,
            statsd=verdicts.statsd,
        )
        self._publish(snapshot)
        return snapshot

    async def _poll_guarded(self) -> None:
        # A defect of ours in one poll must not end the watch: the snapshot's age tells that it stands still.
        try:
            await self.poll()
        except Exception:
            if not self._broken:
                logger.exception("poll failed by a defect of Forewarn", extra={"fields": {"server": self.name}})
            self._broken = True
        else:
            self._broken = False


def transitions(before: Snapshot | None, after: Snapshot) -> Iterator[Event]:
    """Tell what changed from one snapshot to the next, each thing once."""
    yield from _reached(before, after)
    if before is not None and after.boot.restarts > before.boot.restarts:
        yield Event(logging.WARNING, "server restarted", {"restarts": after.boot.restarts})
    known = {totals.last.name: totals for totals in before.collectors} if before else {}
    for totals in after.collectors:
        yield from _collector(known.get(totals.last.name), totals)
    for crash in after.workers.found:
        yield _crashed(crash)


def _reached(before: Snapshot | None, after: Snapshot) -> Iterator[Event]:
    health = after.observation.health
    was, now = before is not None and before.observation.reached, after.observation.reached
    if now and not was:
        known = {"version": health.version, "edition": health.edition} if health else {}
        yield Event(logging.INFO, "watching server" if before is None else "server back", known)
    if not now and (was or before is None):
        failures = [run.failure.message for run in after.observation.runs if run.failure]
        yield Event(logging.ERROR, "server down", {"failures": failures})
    limit_told = before is not None and before.observation.health is not None
    if health is not None and not limit_told and after.connections.limit is None:
        yield Event(logging.WARNING, "connection limit unknown: set connections_limit to be warned before it", {})


def _collector(before: CollectorTotals | None, after: CollectorTotals) -> Iterator[Event]:
    was = before.last.failure.reason if before and before.last.failure else None
    failure = after.last.failure
    if failure is not None and failure.reason != was:
        fields = {"collector": after.last.name, "reason": str(failure.reason), "failure": failure.message}
        yield Event(logging.WARNING, "collector failing", fields)
    if failure is None and was is not None:
        yield Event(logging.INFO, "collector recovered", {"collector": after.last.name})


def _crashed(crash: Crash) -> Event:
    jobs = [
        {"jid": orphan.jid, "jobtype": orphan.jobtype, "queue": orphan.queue} for orphan in crash.orphans[:TOLD_JOBS]
    ]
    fields = {
        "wid": crash.worker,
        "host": "unknown",
        "reason": str(crash.reason),
        "orphaned_jobs": len(crash.orphans),
        "jobs": jobs,
    }
    return Event(logging.ERROR, "worker crashed", fields)
