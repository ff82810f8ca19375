"""Watches one server: polls its source, feeds the signals, publishes the newest snapshot, logs what changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor

import msgspec

from exporter.model import (
    CollectorRun,
    CollectorTotals,
    Crash,
    Incident,
    IncidentKind,
    JobFailure,
    Snapshot,
    Source,
    Told,
)
from exporter.signals import Memory, Pending, Signals

logger = logging.getLogger("forewarn.watch")

TOLD_JOBS = 20
"""How many of the jobs that a crash left behind are named in the log."""


TOLD_INCIDENTS = 20
"""How many groups of incidents one poll names in the log."""


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
            to_save: Set when what was told must outlive this process: a crash was counted, an incident was settled, or
                something became part of a trace.
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
        self._changes: list[Callable[[Signals], None]] = []
        self._last: tuple[float, float] | None = None
        self._broken = False
        self._polling = asyncio.Lock()

    @property
    def source(self) -> Source:
        """Where the server's state is learned now."""
        return self._source

    @property
    def polling(self) -> bool:
        """Whether a poll is under way."""
        return self._polling.locked()

    async def run(self) -> None:
        """Poll at every interval until cancelled. The server rests at least half an interval between two polls.

        May be run again after that: the rest is kept.
        """
        while True:
            if self._last is not None:
                started, ended = self._last
                due = max(started + self._interval, ended + self._interval / 2)
                await asyncio.sleep(max(0.0, due - self._clock()))
            async with self._polling:
                await self._poll_guarded()

    def set_interval(self, seconds: float) -> None:
        """Count from the last poll on by another interval. A rest that is under way is not cut short by it."""
        self._interval = seconds

    def change(self, how: Callable[[Signals], None]) -> None:
        """Change something of the signals before the next poll, in the executor."""
        self._changes.append(how)

    async def renew(self, source: Source, *, elsewhere: bool = False) -> None:
        """Go on with another source, and part politely from the one before. To be called while nobody polls.

        ``elsewhere``: it is another server's. What is known stays until the next poll, which is due at once.
        """
        before, self._source = self._source, source
        if elsewhere:
            loop = asyncio.get_running_loop()
            self._signals = await loop.run_in_executor(self._executor, self._signals.elsewhere)
        self._last = None
        await before.close()

    async def finish(self, deadline: float) -> None:
        """Poll once more, after the poll that may be on its way, within ``deadline`` seconds: the server has ended.

        To be called while :meth:`run` still goes on.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline), self._polling:
                await self._poll_guarded()

    async def poll(self) -> Snapshot:
        """Learn what is known now and publish it."""
        started = self._clock()
        if self._changes:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._apply)
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
        if after.workers.found or (after.process is not None and after.process.found) or _told(after):
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

    def _apply(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            change(self._signals)

    def _conclude(
        self,
        pending: Pending,
        probes: dict[str, bool],
        runs: tuple[CollectorRun, ...],
        failures: Mapping[str, JobFailure | None],
    ) -> Snapshot:
        verdicts = self._signals.conclude(pending, probes, runs, failures)
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
            process=verdicts.process,
        )
        if self._tell is not None:
            # The state may be saved before the loop comes to hand it over: it would be lost to the next run.
            self._untold = _told(snapshot)
        self._publish(snapshot)
        return snapshot

    async def _poll_guarded(self) -> None:
        # A defect of ours in one poll must not end the watch: the snapshot's age tells that it stands still.
        started = self._clock()
        try:
            await self.poll()
        except Exception:
            if not self._broken:
                logger.exception("poll failed by a defect of Forewarn", extra={"fields": {"server": self.name}})
            self._broken = True
        else:
            self._broken = False
        finally:
            self._last = (started, self._clock())


def _told(snapshot: Snapshot) -> tuple[Told, ...]:
    """Return what of one poll becomes traces; nothing where they are off."""
    if snapshot.executions is None:
        return ()
    return (*snapshot.executions.told, *(() if snapshot.process is None else snapshot.process.found))


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
    yield from _incidents(() if after.process is None else after.process.found)


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


_INCIDENTS: Mapping[IncidentKind, tuple[int, str]] = {
    IncidentKind.DATA_RACE: (logging.WARNING, "data race in the server"),
    IncidentKind.RECOVERED_PANIC: (logging.WARNING, "panic in the server, which survived it"),
}


def _incidents(found: Sequence[Incident]) -> Iterator[Event]:
    """Tell each group of incidents in one line: a server that recovers from panics may do so very often."""
    groups: dict[tuple[IncidentKind, str], list[Incident]] = {}
    for incident in sorted(found, key=lambda it: not it.crash):
        groups.setdefault((incident.kind, incident.group), []).append(incident)
    for each in list(groups.values())[:TOLD_INCIDENTS]:
        yield _incident(each[-1], len(each))


def _incident(incident: Incident, times: int) -> Event:
    fields: dict[str, object] = {
        "class": str(incident.kind),
        "component": incident.component,
        "text": incident.message,
        "known": incident.known,
        "hint": incident.hint,
        "group": incident.group or None,
        "times": times if times > 1 else None,
    }
    level, message = _INCIDENTS.get(incident.kind, (logging.ERROR, "server crashed"))
    return Event(level, message, {name: value for name, value in fields.items() if value is not None})
