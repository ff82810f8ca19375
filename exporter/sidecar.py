"""Builds everything from the settings, runs it, and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from exporter import __version__, systems
from exporter.catalogue import Column
from exporter.model import Snapshot
from exporter.outputs.prometheus import Exposition
from exporter.settings import Settings
from exporter.signals import Memory, Signals
from exporter.state import StateFile
from exporter.watch import Watch
from exporter.web.server import start_web

if TYPE_CHECKING:
    from exporter.outputs.pushes import Pushes
    from exporter.outputs.statsd_push import StatsdPush
    from exporter.process.feeds import Feed

    Feeds = Mapping[str, Sequence[Feed]]

logger = logging.getLogger("forewarn")

SAVE_EVERY = 15.0
"""Seconds between two writes of the state file; what was told for good, such as a crash, is written at once."""

SAVE_REST = 1.0
"""Seconds between two writes at least, however often something is told."""

FLUSHING = 1.5
"""Seconds that the last push to OpenTelemetry collectors and to a StatsD server may take."""

CLOSING = 2.0
"""Seconds that parting from all servers may take."""

LAST_POLL = 2.0
"""Seconds that the last poll of a server may take whose output ended with it."""

SWITCH_INTERVAL = 0.001
"""Seconds for which the signals' thread may keep the interpreter from the event loop."""


_NO_FEEDS: Final[Feeds] = MappingProxyType({})


class Sidecar:
    """Watches every configured server and serves what it knows, until told to stop."""

    def __init__(self, settings: Settings, *, feeds: Feeds = _NO_FEEDS) -> None:
        """Build everything; nothing is opened before :meth:`run`.

        ``feeds``: by the server's name what carries its output live. Such a server is polled once more at the end.
        """
        self._settings = settings
        self._state = StateFile(settings.state_file) if settings.state_file else None
        self._to_save = asyncio.Event()
        self._saving = asyncio.Lock()
        self._pushes = self._build_pushes()
        self._statsd = self._build_statsd()
        self._exposition = Exposition(__version__, self._told)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="signals")
        memories = _memories(self._state)
        tracing = settings.otlp_traces is not None
        self._fed = frozenset(feeds)
        self._watches = [
            Watch(
                server.name,
                server.system,
                systems.build(
                    server,
                    traces=tracing,
                    positions=memories.get(server.name, Memory()).process.positions,
                    feeds=feeds.get(server.name, ()),
                ),
                Signals(
                    settings.max_label_values,
                    memories.get(server.name),
                    server=server.name,
                    choice=settings.traces if tracing else None,
                ),
                interval=settings.interval,
                publish=self._exposition.update,
                to_save=self._to_save,
                executor=self._executor,
                tell=self._pushes.tell if self._pushes else None,
            )
            for server in settings.servers
        ]
        if self._pushes is not None:
            for name, memory in memories.items():
                self._pushes.restore(name, memory.untold)

    async def run(self, stop: asyncio.Event, *, started: Callable[[int], None] | None = None) -> None:
        """Run until ``stop`` is set, then close everything. ``started`` is told the port once it is listened on."""
        web = await start_web(self._settings.web_listen_address, self._exposition, self._newest)
        try:
            logger.info("listening", extra={"fields": {"port": web.port, "version": __version__}})
            if started is not None:
                started(web.port)
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(watch.run(), name=f"watch {watch.name}") for watch in self._watches]
                running.append(tasks.create_task(self._save_for_ever(), name="state"))
                if self._pushes is not None:
                    self._pushes.start(tasks)
                if self._statsd is not None:
                    self._statsd.start(tasks)
                await stop.wait()
                # What such a server printed last, and how it ended, was read after its last poll.
                await asyncio.gather(*(it.finish(LAST_POLL) for it in self._watches if it.name in self._fed))
                for task in running:
                    task.cancel()
                await asyncio.gather(*(each.finish(FLUSHING) for each in (self._pushes, self._statsd) if each))
        finally:
            await self._close()
            await web.close()
            self._executor.shutdown()
            logger.info("stopped")

    def _newest(self) -> dict[str, Snapshot | None]:
        return {watch.name: watch.snapshot for watch in self._watches}

    def _build_pushes(self) -> Pushes | None:
        if self._settings.otlp_traces is None and self._settings.otlp_metrics is None:
            return None
        from exporter.outputs.pushes import Pushes  # noqa: PLC0415 - OpenTelemetry costs several MiB of memory

        return Pushes(
            self._settings,
            self._newest,
            version=__version__,
            saved=self._save_if_due,
            settled=self._to_save.set,
            told=self._told,
        )

    def _build_statsd(self) -> StatsdPush | None:
        target = self._settings.statsd_push
        if target is None:
            return None
        from exporter.outputs.statsd_push import StatsdPush  # noqa: PLC0415 - takes memory that others need not give

        return StatsdPush(
            target, self._newest, interval=self._settings.statsd_interval, version=__version__, told=self._told
        )

    def _told(self) -> Iterator[Column]:
        """Yield what all pushes tell of themselves, for every output. Safe in any thread."""
        if self._pushes is not None:
            yield from self._pushes.own()
        if self._statsd is not None:
            yield from self._statsd.own()

    async def _save_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_EVERY):
                    await self._to_save.wait()
            async with self._saving:
                await self._save_now()
            await asyncio.sleep(SAVE_REST)

    async def _save_if_due(self) -> None:
        """Return when all that was told is in the state file."""
        async with self._saving:
            if self._to_save.is_set():
                await self._save_now()

    async def _save_now(self) -> None:
        self._to_save.clear()
        # In the signals' own thread, so that none of them is in the middle of an observation.
        await asyncio.get_running_loop().run_in_executor(self._executor, self._save)

    def _save(self) -> None:
        if self._state is not None:
            self._state.save({watch.name: self._memory(watch) for watch in self._watches})

    def _memory(self, watch: Watch) -> Memory:
        memory = watch.memory()
        if self._pushes is None:
            return memory
        unsent = self._pushes.unsent(watch.name)
        # What is handed over in between stands in both.
        known = set(map(id, unsent))
        return msgspec.structs.replace(memory, untold=(*unsent, *(it for it in memory.untold if id(it) not in known)))

    async def _close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._save)
        try:
            async with asyncio.timeout(CLOSING):
                await asyncio.gather(*(watch.close() for watch in self._watches))
        except TimeoutError:
            logger.warning("a server did not let go in time: its connections were cut")


def _memories(state: StateFile | None) -> dict[str, Memory]:
    """Return what the last run left for each server. What cannot be understood is told and left out."""
    memories: dict[str, Memory] = {}
    for name, raw in (state.load() if state else {}).items():
        try:
            memories[name] = msgspec.json.decode(raw, type=Memory)
        except msgspec.MsgspecError as error:
            fields = {"server": name, "failure": str(error)}
            logger.warning("state of a server is not understood: its counters start anew", extra={"fields": fields})
    return memories


def run(settings: Settings, *, feeds: Feeds = _NO_FEEDS) -> int:
    """Run the sidecar until SIGTERM or SIGINT. Returns the exit status. ``feeds``: see :class:`Sidecar`."""
    return run_loop(run_until_signalled(settings, feeds=feeds))


async def run_until_signalled(settings: Settings, *, feeds: Feeds = _NO_FEEDS) -> int:
    """Run the sidecar in this loop until SIGTERM or SIGINT. Returns the exit status.

    ``feeds``: see :class:`Sidecar`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Sidecar(settings, feeds=feeds).run(stop)
    return 0


def run_loop(main: Coroutine[None, None, int]) -> int:
    """Run ``main`` in an event loop made for a sidecar."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    # What the imports left behind lives for ever: kept out of every collection to come.
    gc.collect()
    gc.freeze()
    try:
        import uvloop  # noqa: PLC0415 - where present
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
