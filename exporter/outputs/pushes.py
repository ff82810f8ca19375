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
from exporter.settings import ServerSettings, Settings

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
        self._clock = clock
        self._wall = wall
        self._poll_ratio = settings.traces_poll_ratio
        self._traced = {server.name: _traced(server) for server in settings.servers}
        self._senders: list[OtlpSender] = []
        self._traces: TraceOutput | None = None
        self._metrics: MetricsOutput | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        if settings.otlp_traces is not None:
            sender = OtlpSender(settings.otlp_traces)
            self._senders.append(sender)
            self._traces = TraceOutput(
                sender, self._traced, parent=settings.traces.parent, saved=saved, settled=settled
            )
            _warn_of_blind(settings.servers)
        if settings.otlp_metrics is not None:
            sender = OtlpSender(settings.otlp_metrics)
            self._senders.append(sender)
            self._metrics = MetricsOutput(
                sender,
                newest,
                interval=settings.otlp_metrics_interval,
                version=version,
                resource=traces.resource(version),
                told=told or self.own,
                clock=clock,
                wall=wall,
            )

    def tell(self, snapshot: Snapshot, started: float, ended: float) -> None:
        """Take a poll's result; ``started`` and ``ended`` are by the clock that snapshots are taken by."""
        if self._traces is None:
            return
        if snapshot.executions is not None:
            self._traces.take(snapshot.server, snapshot.executions.told)
        if snapshot.process is not None:
            self._traces.take(snapshot.server, snapshot.process.found)
        ahead = self._wall() - self._clock()
        if traces.polled(snapshot.server, started + ahead, self._poll_ratio):
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
                self._tasks[name] = tasks.create_task(output.run(), name=f"push of {name}")

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
        for sender in self._senders:
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
