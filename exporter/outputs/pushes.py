"""All that is pushed to OpenTelemetry collectors: built from the settings, run and ended as one.

Imported only where an endpoint is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from exporter.catalogue import OTLP_FAILURES, OTLP_ITEMS, OTLP_WAITING, Column
from exporter.faktory.endpoint import Endpoint
from exporter.model import Reason, Snapshot, Told
from exporter.outputs import traces
from exporter.outputs.otlp import OtlpSender
from exporter.outputs.otlp_delivery import OtlpTotals
from exporter.outputs.otlp_metrics import MetricsOutput
from exporter.outputs.own import Further
from exporter.outputs.trace_output import TraceOutput
from exporter.settings import OtlpTarget, ServerSettings, Settings

logger = logging.getLogger("forewarn.otlp")

RESULTS = ("sent", "rejected", "dropped")


class Pushes:
    """Tells collectors of snapshots, as traces and as metrics. For use in the event loop, but where said."""

    def __init__(
        self,
        settings: Settings,
        newest: Callable[[], Mapping[str, Snapshot | None]],
        *,
        version: str,
        saved: Callable[[], Awaitable[None]],
        settled: Callable[[], None],
        told: Further | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is opened before :meth:`start`.

        Args:
            settings: At least one of its OTLP targets is set.
            newest: Tells the newest snapshot of each server.
            version: Forewarn's own.
            saved: Returns when the state file knows what was told: nothing is sent before.
            settled: Called when something told needs no longer be kept in the state file.
            told: Tells all metrics of the sidecar's pushes, those of :meth:`own` among them, which are all without it.
            clock: The one that snapshots are taken by.
            wall: Tells Unix time.
        """
        self._settings = settings
        self._newest = newest
        self._version = version
        self._saved = saved
        self._settled = settled
        self._told = told or self.own
        self._clock = clock
        self._wall = wall
        self._traced = {server.name: _traced(server) for server in settings.servers}
        self._senders: dict[str, OtlpSender] = {}
        self._traces: TraceOutput | None = None
        self._metrics: MetricsOutput | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        if settings.otlp_traces is not None:
            self._traces = self._new_traces(settings.otlp_traces, settings)
            _warn_of_blind(settings.servers)
        if settings.otlp_metrics is not None:
            self._metrics = self._new_metrics(settings.otlp_metrics, settings)

    def _new_traces(self, target: OtlpTarget, settings: Settings) -> TraceOutput:
        sender = self._senders["traces"] = OtlpSender(target)
        parent = settings.traces.parent
        return TraceOutput(sender, self._traced, parent=parent, saved=self._saved, settled=self._settled)

    def _new_metrics(self, target: OtlpTarget, settings: Settings) -> MetricsOutput:
        sender = self._senders["metrics"] = OtlpSender(target)
        return MetricsOutput(
            sender,
            self._newest,
            interval=settings.otlp_metrics_interval,
            version=self._version,
            resource=traces.resource(self._version),
            told=self._told,
            clock=self._clock,
            wall=self._wall,
        )

    def watch(self, servers: Sequence[ServerSettings]) -> None:
        """Tell of these servers from now on. What waits of others is still sent."""
        names = {server.name for server in servers}
        if self._traces is not None:
            _warn_of_blind(server for server in servers if server.name not in self._traced)
        gone = self._traced.keys() - names
        if self._metrics is not None:
            self._metrics.forget(gone)
        for name in gone:
            if not self.unsent(name):
                del self._traced[name]
        self._traced |= {server.name: _traced(server) for server in servers}

    async def change(
        self, settings: Settings, tasks: asyncio.TaskGroup, deadline: float, *, certificates: bool = False
    ) -> None:
        """Push to where ``settings`` say from now on; what waits goes there too. What was counted stays.

        Requests under way, and what is left for a target that is there no more, have ``deadline`` seconds. To be called
        between :meth:`start` and :meth:`finish`. ``certificates``: some are to be read anew.
        """
        before, self._settings = self._settings, settings
        async with asyncio.TaskGroup() as changing:
            if settings.otlp_traces is None:
                if self._traces is not None:
                    changing.create_task(self._end("traces", self._traces, deadline))
                self._traces = None
            elif self._traces is None:
                self._traces = self._new_traces(settings.otlp_traces, settings)
                self._run("traces", self._traces, tasks)
                _warn_of_blind(settings.servers)
            else:
                old = self._senders["traces"]
                if certificates or settings.otlp_traces != before.otlp_traces:
                    self._senders["traces"] = OtlpSender(settings.otlp_traces)
                    changing.create_task(_part(old, self._traces, deadline))
                self._traces.turn(self._senders["traces"], parent=settings.traces.parent)
            if settings.otlp_metrics is None:
                if self._metrics is not None:
                    changing.create_task(self._end("metrics", self._metrics, deadline))
                self._metrics = None
            elif self._metrics is None:
                self._metrics = self._new_metrics(settings.otlp_metrics, settings)
                self._run("metrics", self._metrics, tasks)
            else:
                old = self._senders["metrics"]
                if certificates or settings.otlp_metrics != before.otlp_metrics:
                    self._senders["metrics"] = OtlpSender(settings.otlp_metrics)
                    changing.create_task(_part(old, self._metrics, deadline))
                self._metrics.turn(self._senders["metrics"], settings.otlp_metrics_interval)
                if settings.otlp_metrics_interval != before.otlp_metrics_interval:
                    changing.create_task(self._pace(self._metrics, tasks, deadline))

    async def _pace(self, metrics: MetricsOutput, tasks: asyncio.TaskGroup, deadline: float) -> None:
        """Begin the interval anew; where a push goes on for longer than ``deadline`` the next one keeps the new one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await metrics.sent()
                self._tasks["metrics"].cancel()
                self._run("metrics", metrics, tasks)

    async def _end(self, name: str, output: TraceOutput | MetricsOutput, deadline: float) -> None:
        if name == "metrics":
            await _ended(self._tasks[name])
        await output.flush(deadline)
        await _ended(self._tasks.pop(name))
        await self._senders.pop(name).close()

    def _run(self, name: str, output: TraceOutput | MetricsOutput, tasks: asyncio.TaskGroup) -> None:
        self._tasks[name] = tasks.create_task(output.run(), name=f"push of {name}")

    def tell(self, snapshot: Snapshot, started: float, ended: float) -> None:
        """Take a poll's result; ``started`` and ``ended`` are by the clock that snapshots are taken by."""
        if self._traces is None:
            return
        if snapshot.executions is not None:
            self._traces.take(snapshot.server, snapshot.executions.told)
        if snapshot.process is not None:
            self._traces.take(snapshot.server, snapshot.process.found)
        ahead = self._wall() - self._clock()
        if traces.polled(snapshot.server, started + ahead, self._settings.traces_poll_ratio):
            traced = self._traced[snapshot.server]
            self._traces.take_poll(snapshot.server, traces.poll_spans(traced, snapshot, started + ahead, ended + ahead))

    def restore(self, server: str, told: Sequence[Told]) -> None:
        """Take what the last run could not send. To be called before :meth:`start`."""
        if self._traces is not None:
            self._traces.restore(server, told)

    def unsent(self, server: str) -> tuple[Told, ...]:
        """Return what of one server no collector has taken yet. Safe in any thread."""
        return () if self._traces is None else self._traces.unsent(server)

    def own(self) -> Iterator[Column]:
        """Yield the metrics of what is pushed. Safe in any thread."""
        totals = list(self._totals())
        yield (
            OTLP_ITEMS,
            [(signal, result) for signal, _ in totals for result in RESULTS],
            [getattr(its, result) for _, its in totals for result in RESULTS],
        )
        yield (
            OTLP_FAILURES,
            [(signal, reason.value) for signal, _ in totals for reason in Reason],
            [its.failures[reason] for _, its in totals for reason in Reason],
        )
        waiting = [its.waiting for _, its in totals if its.waiting is not None]
        yield OTLP_WAITING, [()] * len(waiting), waiting

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to push, by tasks of ``tasks`` that only :meth:`finish` ends."""
        for name, output in (("traces", self._traces), ("metrics", self._metrics)):
            if output is not None:
                self._run(name, output, tasks)

    async def finish(self, deadline: float) -> None:
        """Push what is left within ``deadline`` seconds, whatever the collectors do, and stop."""
        async with asyncio.TaskGroup() as last:
            if self._traces is not None:
                last.create_task(self._traces.flush(deadline))
            if self._metrics is not None:
                await _ended(self._tasks["metrics"])
                last.create_task(self._metrics.flush(deadline))
        for task in self._tasks.values():
            await _ended(task)
        for sender in self._senders.values():
            await sender.close()

    def _totals(self) -> Iterable[tuple[str, OtlpTotals]]:
        if self._traces is not None:
            yield "traces", self._traces.totals()
        if self._metrics is not None:
            yield "metrics", self._metrics.totals()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _part(sender: OtlpSender, output: TraceOutput | MetricsOutput, deadline: float) -> None:
    """Close a sender that is used no more, after the request that may be under way."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline):
            await output.sent()
    await sender.close()


def _traced(server: ServerSettings) -> traces.Traced:
    endpoint = Endpoint.parse(server.url.reveal())
    return traces.Traced(name=server.name, system=server.system, address=endpoint.host, port=endpoint.port)


def _warn_of_blind(servers: Iterable[ServerSettings]) -> None:
    for server in servers:
        if server.redis_url is None:
            logger.warning(
                "no traces of the jobs of this server: they are seen in its Redis only; set redis_url",
                extra={"fields": {"server": server.name}},
            )
