"""Pure state machines that turn observations into derived facts: no I/O, no clock.

Each takes observations in the order in which they were made, by the server's own clock, and returns an immutable
verdict. :class:`Signals` joins those of one server.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from exporter.model import (
    BootVerdict,
    BusyVerdict,
    Choice,
    CollectorRun,
    CollectorTotals,
    ConnectionsVerdict,
    Ended,
    ExecutionsVerdict,
    JobFailure,
    Observation,
    ProcessVerdict,
    QueuesVerdict,
    Reason,
    Reservation,
    StatsdVerdict,
    ThrottlesVerdict,
    Told,
    WorkersVerdict,
)
from exporter.signals.boot import BootMemory, BootSignal
from exporter.signals.busy import BusySignal
from exporter.signals.changes import changes
from exporter.signals.connections import ConnectionsMemory, ConnectionsSignal
from exporter.signals.executions import ExecutionsMemory, ExecutionsSignal
from exporter.signals.groups import Groups
from exporter.signals.labels import Labels
from exporter.signals.process import ProcessMemory, ProcessSignal
from exporter.signals.statsd import StatsdMemory, StatsdSignal
from exporter.signals.throttles import ThrottlesMemory, ThrottlesSignal
from exporter.signals.workers import WorkersMemory, WorkersSignal


class Memory(msgspec.Struct, frozen=True):
    """What of one server must outlive Forewarn's own restart."""

    boot: BootMemory = BootMemory()
    connections: ConnectionsMemory = ConnectionsMemory()
    throttles: ThrottlesMemory = ThrottlesMemory()
    workers: WorkersMemory = WorkersMemory()
    executions: ExecutionsMemory = ExecutionsMemory()
    statsd: StatsdMemory = StatsdMemory()
    process: ProcessMemory = ProcessMemory()
    untold: tuple[Told, ...] = ()
    """What the signals have told and nobody has taken over for good: filled in by those who pass it on."""


class Verdicts(msgspec.Struct, frozen=True):
    """What every signal says after one observation."""

    boot: BootVerdict
    connections: ConnectionsVerdict
    queues: QueuesVerdict
    busy: BusyVerdict
    workers: WorkersVerdict
    throttles: ThrottlesVerdict
    collectors: tuple[CollectorTotals, ...]
    executions: ExecutionsVerdict | None
    statsd: StatsdVerdict | None
    process: ProcessVerdict | None


class Signals:
    """All signals of one server. Per poll: :meth:`receive`, ask what it wants to know, :meth:`conclude`."""

    def __init__(
        self, max_label_values: int, memory: Memory | None = None, *, server: str = "", choice: Choice | None = None
    ) -> None:
        """``choice``: which executions of ``server`` are told; none are even judged without it."""
        memory = memory or Memory()
        self._bound = max_label_values
        self._server = server
        self._choice = choice
        self._boot = BootSignal(memory.boot)
        self._connections = ConnectionsSignal(memory.connections)
        self._busy = BusySignal()
        self._workers = WorkersSignal(memory.workers)
        self._throttles = ThrottlesSignal(max_label_values, memory.throttles)
        self._executions = None if choice is None else ExecutionsSignal(server, choice, memory.executions)
        self._statsd = StatsdSignal(memory.statsd)
        self._process = ProcessSignal(memory.process)
        self._labels = Labels(max_label_values)
        self._collectors: dict[str, CollectorTotals] = {}
        self._reservations: Mapping[str, Reservation] = {}
        self._groups = Groups()
        self._known_at: float | None = None

    def receive(self, observation: Observation) -> Pending:
        """Take one observation in. The rest waits for the answers to ``suspects`` and ``ended`` of what is returned."""
        boot = self._boot.advance(observation)
        moved = groups = None
        if observation.reservations is not None:
            since = observation.now if self._known_at is None else self._known_at
            moved = changes(self._reservations, since, observation.reservations, observation.now)
            self._reservations, self._known_at = observation.reservations, observation.now
            self._groups.advance(moved)
            groups = self._groups
        dead = self._workers.dead()  # before it forgets those whose last job has left
        suspects = self._workers.receive(observation, moved, settled=boot.settled)
        self._labels.update(observation.queues, groups, observation.now, self._statsd.receive(observation))
        statsd = self._statsd.conclude(observation, self._labels)
        busy = self._busy.advance(observation, groups, moved, self._labels, dead)
        ended = () if self._executions is None else self._executions.receive(observation, moved, self._labels, dead)
        return Pending(observation, boot, busy, statsd, groups, suspects, ended)

    def conclude(
        self,
        pending: Pending,
        probes: Mapping[str, bool],
        runs: tuple[CollectorRun, ...],
        failures: Mapping[str, JobFailure | None] = MappingProxyType({}),
    ) -> Verdicts:
        """Return every verdict.

        Args:
            pending: What :meth:`receive` returned.
            probes: Which of its ``suspects`` are registered, as far as that was learned.
            runs: How each part of the poll went.
            failures: How those of its ``ended`` failed or that they did not, by job id, as far as that was learned.
        """
        observation = pending.observation
        for run in runs:
            self._tell(run)
        workers = self._workers.conclude(observation, probes, self._labels, settled=pending.boot.settled)
        executions = None
        if self._executions is not None:
            executions = self._executions.conclude(
                observation, failures, workers.found, pending.boot, pending.busy.durations
            )
        return Verdicts(
            boot=pending.boot,
            connections=self._connections.advance(observation),
            queues=self._labels.verdict(observation.queues),
            busy=pending.busy,
            workers=workers,
            throttles=self._throttles.advance(observation, pending.groups),
            collectors=tuple(self._collectors.values()),
            executions=executions,
            statsd=pending.statsd,
            process=self._process.advance(observation, pending.boot),
        )

    def bound(self, max_label_values: int) -> None:
        """Have another bound for names from the next observation on."""
        self._bound = max_label_values
        self._labels.bound(max_label_values)
        self._throttles.bound(max_label_values)

    def choose(self, choice: Choice | None) -> None:
        """Tell other executions from the next observation on; ``None``: none are judged any more.

        To be called between two observations.
        """
        self._choice = choice
        if choice is None or self._executions is None:
            self._executions = None if choice is None else ExecutionsSignal(self._server, choice)
        else:
            self._executions.choose(choice)

    def elsewhere(self) -> Signals:
        """Return the signals of another server that takes the place of this one under its name.

        All counters go on. What was in work at this one is nothing to that one.
        """
        memory = self.memory()
        executions = ExecutionsMemory(decisions=memory.executions.decisions)
        others = Signals(
            self._bound,
            msgspec.structs.replace(memory, boot=BootMemory(memory.boot.restarts), executions=executions),
            server=self._server,
            choice=self._choice,
        )
        others._busy, others._statsd = self._busy, self._statsd
        others._labels, others._collectors = self._labels, self._collectors
        return others

    def memory(self) -> Memory:
        """Return what the next run of Forewarn needs."""
        return Memory(
            boot=self._boot.memory(),
            connections=self._connections.memory(),
            throttles=self._throttles.memory(),
            workers=self._workers.memory(),
            executions=ExecutionsMemory() if self._executions is None else self._executions.memory(),
            statsd=self._statsd.memory(),
            process=self._process.memory(),
        )

    def _tell(self, run: CollectorRun) -> None:
        known = self._collectors.get(run.name)
        errors: dict[Reason, int] = dict(known.errors) if known else {}
        if run.failure is not None:
            errors[run.failure.reason] = errors.get(run.failure.reason, 0) + 1
        self._collectors[run.name] = CollectorTotals(last=run, errors=errors)


class Pending(msgspec.Struct, frozen=True):
    """An observation taken in, waiting for the answers to the questions that it raised."""

    observation: Observation
    boot: BootVerdict
    busy: BusyVerdict
    statsd: StatsdVerdict | None
    groups: Groups | None
    suspects: tuple[str, ...]
    ended: tuple[Ended, ...]
