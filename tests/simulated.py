"""A Faktory server in virtual time, as far as the signals can see it: for tests that need hours in milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from exporter.model import Details, Ended, Health, JobFacts, JobFailure, Observation, Outcome, Queue, Reservation
from exporter.signals import Signals, Verdicts

EPOCH = 1_700_000_000.0
BEAT = 15.0
EXPIRY = 60.0
REAPER = 15.0
RETRIED = 15.0
"""Seconds after which a failed job may be tried again, at the earliest."""

FETCH_TAKES = 2.1
"""Seconds for which a FETCH may wait in a real server: 2 s, and up to a tenth until its Redis looks at its clock."""

ASKED_EVERY = 80.0
"""Seconds within which no worker that was found registered may be asked after again."""

Key = tuple[str, float]
"""One execution: the id of its job, and when that was reserved."""


@dataclass(frozen=True)
class Kept:
    """A job that failed and waits for its retry, or is dead."""

    reservation: Reservation
    failure: JobFailure
    at: float


@dataclass
class SimWorker:
    """One worker process. ``hung``: its sockets stay open but it does nothing more."""

    wid: str
    connections: int = 2
    beat_at: float = EPOCH
    hung: bool = False
    connected: bool = True
    fetches: list[float] = field(default_factory=list)
    """Once it is killed: when the server will notice that each of its connections that waited in a FETCH is closed."""


@dataclass
class SimServer:
    """Registers workers, holds reservations, reaps the hung, forgets on restart. Time is moved by ``run``."""

    now: float = EPOCH
    started: float = EPOCH
    commands: int = 1000
    producers: int = 0
    reaped: int = 0
    registered: dict[str, SimWorker] = field(default_factory=dict)
    workers: dict[str, SimWorker] = field(default_factory=dict)
    working: dict[str, Reservation] = field(default_factory=dict)
    beats_asked: list[tuple[float, str]] = field(default_factory=list)
    renewed: dict[str, float] = field(default_factory=dict)
    """When each worker that was asked after was last found registered."""
    asked_too_soon: list[tuple[float, str]] = field(default_factory=list)
    """What was asked although it may not be: within ``ASKED_EVERY`` after that."""
    reaped_at: dict[str, float] = field(default_factory=dict)
    processed: int = 0
    failed: int = 0
    kept: dict[str, Kept] = field(default_factory=dict)
    ended: dict[Key, tuple[float, Outcome | None]] = field(default_factory=dict)
    """When each execution ended, and how; ``None``: removed by hand."""
    ids: itertools.count[int] = field(default_factory=itertools.count)

    def worker(self, wid: str, connections: int = 2) -> SimWorker:
        worker = SimWorker(wid, connections, beat_at=self.now)
        self.workers[wid] = self.registered[wid] = worker
        return worker

    def fetch(
        self,
        wid: str,
        queue: str = "default",
        jobtype: str = "Job",
        reserve_for: float = 1800.0,
        *,
        jid: str = "",
        job: JobFacts | None = None,
    ) -> str:
        jid = jid or f"jid-{next(self.ids)}"
        worker = self.registered.get(wid)
        if worker is not None and worker.fetches:  # a job for one that was killed: this FETCH waits no longer
            worker.fetches[0] = self.now
            self._notice_closed()
        self.working[jid] = Reservation(jid, wid, queue, jobtype, self.now, self.now + reserve_for, job)
        self.commands += 1
        return jid

    def finish(self, jid: str) -> None:
        self.commands += 1
        self.processed += 1
        self._end(self.working.pop(jid), Outcome.FINISHED)

    def fail(self, jid: str) -> None:
        self.commands += 1
        self._fail(self.working.pop(jid), JobFailure("IOError", "told", at=self.now))

    def retry(self, jid: str, wid: str, reserve_for: float = 1800.0) -> None:
        kept = self.kept.pop(jid).reservation
        job = msgspec.structs.replace(kept.job or JobFacts(), failures=1 + (kept.job.failures if kept.job else 0))
        self.fetch(wid, kept.queue, kept.jobtype, reserve_for, jid=jid, job=job)

    def flush(self) -> None:
        """Remove everything."""
        self.processed = self.failed = 0
        for reservation in self.working.values():
            self._end(reservation, None)
        self.working.clear()
        self.kept.clear()

    def answers(self, ended: Sequence[Ended]) -> dict[str, JobFailure | None]:
        """Tell as a source does how each of ``ended`` failed, or that it did not, where either can be known."""
        answers: dict[str, JobFailure | None] = {}
        for each in ended:
            job, kept = each.reservation.job, self.kept.get(each.reservation.jid)
            if kept is not None and kept.reservation.job == job:
                answers[each.reservation.jid] = kept.failure
            elif job is not None and job.retry != 0 and self.now < each.since + RETRIED:
                answers[each.reservation.jid] = None
        return answers

    def kill(self, wid: str, *fetches: float) -> None:
        """Close every connection of a worker.

        ``fetches``: for how many seconds each of its idle slots still waits in a FETCH. The server sees only then that
        such a connection is closed, and knows the worker until all are.
        """
        assert all(0 <= seconds <= FETCH_TAKES for seconds in fetches)
        assert len(fetches) <= self.workers.pop(wid).connections
        worker = self.registered.get(wid)
        if worker is not None:
            worker.fetches = sorted(self.now + seconds for seconds in fetches)
            self._notice_closed()

    def restart(self) -> None:
        self.started, self.commands, self.reaped = self.now, 0, 0
        self.registered.clear()
        for worker in self.workers.values():
            worker.connected = False

    def run(self, seconds: float) -> None:
        """Let time pass: heartbeats, reaping and expiry happen on time."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            self._notice_closed()
            for worker in self.workers.values():
                if not worker.hung and self.now - worker.beat_at >= BEAT:
                    worker.beat_at, worker.connected = self.now, True
                    self.registered[worker.wid] = worker
                    self.commands += 1
            if self.now % REAPER == 0:
                self._reap()

    def connections(self) -> int:
        return self.producers + 1 + sum(it.connections for it in self.registered.values())

    def answer(self, wid: str) -> bool:
        self.beats_asked.append((self.now, wid))
        if self.now - self.renewed.get(wid, -ASKED_EVERY) < ASKED_EVERY:
            self.asked_too_soon.append((self.now, wid))
        self.commands += 1
        worker = self.registered.get(wid)
        if worker is not None:
            worker.beat_at = self.renewed[wid] = self.now
        return worker is not None

    def _notice_closed(self) -> None:
        for worker in [it for it in self.registered.values() if it.wid not in self.workers]:
            worker.fetches = [until for until in worker.fetches if until > self.now]
            worker.connections = len(worker.fetches)
            if not worker.fetches:
                del self.registered[worker.wid]

    def _reap(self) -> None:
        for wid, worker in list(self.registered.items()):
            if self.now - worker.beat_at > EXPIRY:
                del self.registered[wid]
                self.workers.pop(wid, None)
                self.reaped += 1
                self.reaped_at[wid] = self.now
        for reservation in [it for it in self.working.values() if it.expires_at <= self.now]:
            del self.working[reservation.jid]
            self._fail(reservation, JobFailure("ReservationExpired", "told", at=self.now, expired=True))

    def _fail(self, reservation: Reservation, failure: JobFailure) -> None:
        self.processed += 1
        self.failed += 1
        self._end(reservation, Outcome.EXPIRED if failure.expired else Outcome.FAILED)
        if reservation.job is not None and reservation.job.retry != 0:
            self.kept[reservation.jid] = Kept(reservation, failure, self.now)

    def _end(self, reservation: Reservation, outcome: Outcome | None) -> None:
        self.ended[reservation.jid, reservation.reserved_at] = self.now, outcome


class SimWatch:
    """Polls a simulated server as :class:`exporter.watch.Watch` polls a real one; ``INFO`` once a minute."""

    def __init__(self, server: SimServer, signals: Signals | None = None, interval: float = 5.0) -> None:
        self.server = server
        self.signals = signals or Signals(max_label_values=200)
        self.interval = interval
        self.verdicts: list[Verdicts] = []
        self.details: Details | None = None
        self.interrupted = True

    def poll(self, *, redis: bool = True, interrupted: bool = False) -> Verdicts:
        server = self.server
        if self.details is None or server.now - self.details.asked_at >= 60:
            self.details = Details(
                asked_at=server.now,
                uptime=float(int(server.now - server.started)),
                workers=len(server.registered),
                workers_reaped=server.reaped,
                reservations_expired=0,
            )
        server.commands += 1
        observation = Observation(
            now=server.now,
            reached=True,
            interrupted=self.interrupted or interrupted,
            health=Health("1.10.0", "oss", server.connections(), server.commands),
            connections_limit=2000,
            details=self.details,
            queues={"default": Queue(jobs=0, latency=0.0, paused=False)} if redis else None,
            processed=server.processed if redis else None,
            failed=server.failed if redis else None,
            reservations=dict(server.working) if redis else None,
        )
        self.interrupted = False
        pending = self.signals.receive(observation)
        probes = {wid: server.answer(wid) for wid in pending.suspects}
        self.verdicts.append(self.signals.conclude(pending, probes, (), self.answers(pending.ended)))
        return self.verdicts[-1]

    def answers(self, ended: Sequence[Ended]) -> Mapping[str, JobFailure | None]:
        """Ask the server how each of ``ended`` failed."""
        return self.server.answers(ended)

    def run(self, seconds: float) -> Verdicts:
        """Let time pass, polling at every interval."""
        end = self.server.now + seconds
        while self.server.now < end:
            self.server.run(self.interval)
            self.poll()
        return self.verdicts[-1]

    def crashes(self) -> dict[str, int]:
        return {str(reason): count for reason, count in self.verdicts[-1].workers.crashes.items() if count}

    def told(self) -> list[str]:
        return [crash.worker for verdicts in self.verdicts for crash in verdicts.workers.found]


def settled(workers: Sequence[str] = ("w1",), interval: float = 5.0) -> SimWatch:
    """Return a watch of a server that has run for an hour, with idle workers."""
    server = SimServer()
    server.started = EPOCH - 3600
    for wid in workers:
        server.worker(wid)
    watch = SimWatch(server, interval=interval)
    watch.poll()
    return watch
