"""Builds everything from the settings, runs it, and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from exporter import __version__, systems
from exporter.catalogue import Column
from exporter.hangups import Hangups
from exporter.logs import setup
from exporter.model import Position, Snapshot, Source
from exporter.outputs.prometheus import Exposition
from exporter.reload import NO_FEEDS, READING, Feeds, Outcome, Plan, Reading, Turns, plan, reading
from exporter.settings import ServerSettings, Settings, SettingsError
from exporter.signals import Memory, Signals
from exporter.state import StateFile
from exporter.status.book import StatusBook
from exporter.threads import in_time
from exporter.watch import Watch
from exporter.web.address import ListenError
from exporter.web.links import Links
from exporter.web.server import WebServer, start_web

if TYPE_CHECKING:
    from exporter.outputs.pushes import Pushes
    from exporter.outputs.statsd_push import StatsdPush
    from exporter.web.gate import Gate

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

TOLD_PROBLEMS = 50
"""Most of what is wrong with new settings that one reload tells in the log."""

SWITCH_INTERVAL = 0.001
"""Seconds for which the signals' thread may keep the interpreter from the event loop."""


Problem = str
"""Why a reload changed nothing, for a person."""


class Sidecar:
    """Watches every configured server and serves what it knows, until told to stop."""

    def __init__(
        self, settings: Settings, *, feeds: Feeds = NO_FEEDS, read: Callable[[], Reading] | None = None
    ) -> None:
        """Build everything; nothing is opened before :meth:`run`.

        ``feeds``: by the server's name what opens that which carries its output live. Such a server is polled once more
        at the end. ``read`` reads the settings anew, for :meth:`reload`.

        Raises:
            SettingsError: The web configuration file cannot be used.
        """
        self._use = reading(settings, feeds)
        self._read = read
        self._outcome = Outcome()
        self._turns = Turns(self._reload)
        self._reading: asyncio.Task[Reading] | None = None
        self._state = StateFile(settings.state_file) if settings.state_file else None
        self._to_save = asyncio.Event()
        self._saving = asyncio.Lock()
        self._pushes = self._build_pushes(settings)
        self._statsd = self._build_statsd(settings)
        self._exposition = Exposition(__version__, self._told)
        self._book = StatusBook(self._newest, version=__version__)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="signals")
        self._gate = _gate(settings)
        self._web: WebServer | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._parting: set[asyncio.Task[None]] = set()
        memories = _memories(self._state)
        self._watches = {
            server.name: self._build(server, self._use, memories.get(server.name)) for server in settings.servers
        }
        if self._pushes is not None:
            for name, memory in memories.items():
                if name in self._watches:
                    self._pushes.restore(name, memory.untold)

    async def run(self, stop: asyncio.Event, *, started: Callable[[int], None] | None = None) -> None:
        """Run until ``stop`` is set, then close everything. ``started`` is told the port once it is listened on."""
        self._web = await self._open_web(self._use.settings, self._gate)
        try:
            logger.info("listening", extra={"fields": {"port": self._web.port, "version": __version__}})
            if started is not None:
                started(self._web.port)
            async with self._tasks as tasks:
                for watch in self._watches.values():
                    self._start(watch)
                saving = tasks.create_task(self._save_for_ever(), name="state")
                if self._pushes is not None:
                    self._pushes.start(tasks)
                if self._statsd is not None:
                    self._statsd.start(tasks)
                await stop.wait()
                if self._reading is not None:
                    self._reading.cancel()
                await self._turns.close()
                # What such a server printed last, and how it ended, was read after its last poll.
                await asyncio.gather(*(self._watches[name].finish(LAST_POLL) for name in self._use.feeds))
                for task in (*self._running.values(), saving):
                    task.cancel()
                await asyncio.gather(*(each.finish(FLUSHING) for each in (self._pushes, self._statsd) if each))
        finally:
            await self._close()
            await self._web.close()
            await asyncio.gather(*self._parting)
            self._executor.shutdown()
            logger.info("stopped")

    def request_reload(self) -> None:
        """Have the settings read anew as soon as may be; the log tells how that ended. To be called in the loop."""
        self._turns.ask()

    async def reload(self) -> Problem | None:
        """Read the settings anew and use them. Return why that was not done; then nothing has changed.

        Those who ask while this is under way have it done once more for all of them.
        """
        task = self._turns.ask()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return "Forewarn ends just now"
            raise

    # --- what is built ----------------------------------------------------------------------------------------------

    def _build(self, server: ServerSettings, reading: Reading, memory: Memory | None) -> Watch:
        settings = reading.settings
        source = _source(server, reading, (memory or Memory()).process.positions)
        choice = None if settings.otlp_traces is None else settings.traces
        return Watch(
            server.name,
            server.system,
            source,
            Signals(settings.max_label_values, memory, server=server.name, choice=choice),
            interval=settings.interval,
            publish=self._publish,
            to_save=self._to_save,
            executor=self._executor,
            tell=self._tell,
        )

    def _start(self, watch: Watch) -> None:
        self._running[watch.name] = self._tasks.create_task(watch.run(), name=f"watch {watch.name}")

    async def _stop(self, watch: Watch) -> None:
        task = self._running.pop(watch.name)
        task.cancel()
        await asyncio.wait({task})

    async def _open_web(self, settings: Settings, gate: Gate | None, *, beside: WebServer | None = None) -> WebServer:
        return await start_web(
            settings.web_listen_address,
            self._exposition,
            self._newest,
            book=self._book,
            links=Links(runbooks_url=settings.web_runbooks_url, dashboards_url=settings.web_dashboards_url),
            gate=gate,
            reload=self.reload if settings.web_lifecycle and self._read is not None else None,
            beside=beside,
        )

    def _publish(self, snapshot: Snapshot) -> None:
        self._exposition.update(snapshot)
        self._book.update(snapshot)

    def _tell(self, snapshot: Snapshot, started: float, ended: float) -> None:
        if self._pushes is not None:
            self._pushes.tell(snapshot, started, ended)

    def _newest(self) -> dict[str, Snapshot | None]:
        return {name: watch.snapshot for name, watch in self._watches.items()}

    def _build_pushes(self, settings: Settings) -> Pushes | None:
        if settings.otlp_traces is None and settings.otlp_metrics is None:
            return None
        from exporter.outputs.pushes import Pushes  # noqa: PLC0415 - OpenTelemetry costs several MiB of memory

        return Pushes(
            settings,
            self._newest,
            version=__version__,
            saved=self._save_if_due,
            settled=self._to_save.set,
            told=self._told,
        )

    def _build_statsd(self, settings: Settings) -> StatsdPush | None:
        target = settings.statsd_push
        if target is None:
            return None
        from exporter.outputs.statsd_push import StatsdPush  # noqa: PLC0415 - takes memory that others need not give

        return StatsdPush(target, self._newest, interval=settings.statsd_interval, version=__version__, told=self._told)

    # --- reload -----------------------------------------------------------------------------------------------------

    async def _reload(self) -> Problem | None:
        try:
            problems = await self._reload_guarded()
        except Exception:
            logger.exception("reload failed by a defect of Forewarn")
            problems = ["a defect of Forewarn's: its log tells more"]
        self._outcome.take(good=not problems)
        for problem in problems[:TOLD_PROBLEMS]:
            logger.error("the new settings are not used", extra={"fields": {"problem": problem}})
        if len(problems) > TOLD_PROBLEMS:
            logger.error("there are %d problems more", len(problems) - TOLD_PROBLEMS)
        return "\n".join(problems) or None

    async def _reload_guarded(self) -> Sequence[Problem]:
        try:
            after = await self._read_anew()
            change = plan(self._use, after)
            web = await self._prepare_web(change, after.settings)
        except SettingsError as error:
            return error.problems
        except ListenError as error:
            return [str(error)]
        except TimeoutError:
            return [f"reading the settings took longer than {READING:g} s: does a disk not answer?"]
        try:
            await self._change_servers(change, after)
        except BaseException:
            if web is not None:
                await web[0].close()
            raise
        await self._change_outputs(change, after)
        if web is not None:
            self._replace_web(*web)
        self._to_save.set()
        logger.info("reloaded", extra={"fields": _fields(change)})
        return ()

    async def _read_anew(self) -> Reading:
        if self._read is None:
            raise SettingsError(["there are no settings to read anew"])
        self._reading = asyncio.create_task(in_time(self._read, READING))
        try:
            return await self._reading
        except asyncio.CancelledError:
            raise SettingsError(["Forewarn ends just now"]) from None
        finally:
            self._reading = None

    async def _prepare_web(self, change: Plan, settings: Settings) -> tuple[WebServer, Gate | None] | None:
        """Open the new HTTP server beside the old one, where it is another."""
        if change.web:
            gate = _gate(settings)
            return await self._open_web(settings, gate, beside=self._web), gate
        if self._gate is not None and (problem := self._gate.look()) is not None:
            raise SettingsError([problem])
        return None

    def _replace_web(self, server: WebServer, gate: Gate | None) -> None:
        before, self._web, self._gate = self._web, server, gate
        logger.info("listening", extra={"fields": {"port": server.port, "version": __version__}})
        if before is not None:
            # Beside what goes on: who asked for the reload by the old one is to be answered by it.
            self._let_go(before.close())

    async def _change_servers(self, change: Plan, after: Reading) -> None:
        """Part from what is not watched any more, then begin with what is new: that may want the same ports."""
        settings, loop = after.settings, asyncio.get_running_loop()
        changed = [self._watches[server.name] for server in change.changed]
        removed = [self._watches[name] for name in change.removed]
        # What came since the last poll, and is nowhere but here, is to be counted.
        await asyncio.gather(*(watch.finish(LAST_POLL) for watch in (*changed, *removed)))
        for watch in (*changed, *removed):
            await self._stop(watch)
        try:
            memories: Mapping[str, Memory] = {}
            state = self._state
            if change.state:
                state = StateFile(settings.state_file) if settings.state_file else None
                memories = await loop.run_in_executor(self._executor, _memories, state)
            sources = {}
            for server, watch in zip(change.changed, changed, strict=True):
                memory = await loop.run_in_executor(self._executor, watch.memory)
                sources[watch.name] = _source(server, after, memory.process.positions, before=watch.source)
            added = [self._build(server, after, memories.get(server.name)) for server in change.added]
        except BaseException:
            for watch in (*changed, *removed):
                self._start(watch)
            raise
        elsewhere = {server.name for server in change.replaced}
        parting = [watch.renew(sources[watch.name], elsewhere=watch.name in elsewhere) for watch in changed]
        await self._part([*parting, *(watch.close() for watch in removed)])
        known = {watch.name: watch for watch in (*self._watches.values(), *added)}
        self._state = state
        self._use = after
        self._watches = {server.name: known[server.name] for server in settings.servers}
        self._apply(change, settings)
        for watch in (*changed, *added):
            self._start(watch)
        if removed:
            # In the signals' own thread, in which the last of them may still be published.
            await loop.run_in_executor(self._executor, self._exposition.retain, frozenset(self._watches))
        if self._statsd is not None:
            for snapshot in (watch.snapshot for watch in removed):
                if snapshot is not None:
                    self._statsd.leave(snapshot)

    def _apply(self, change: Plan, settings: Settings) -> None:
        """Have every server watched as ``settings`` say. What they were watched with by now is not touched."""
        choice = None if settings.otlp_traces is None else settings.traces
        for watch in self._watches.values():
            if change.labels:
                watch.change(lambda signals: signals.bound(settings.max_label_values))
            if change.choice:
                watch.change(lambda signals: signals.choose(choice))
            if change.interval:
                watch.set_interval(settings.interval)
                if watch.name in self._running and not watch.polling:
                    self._running[watch.name].cancel()
                    self._start(watch)

    async def _change_outputs(self, change: Plan, after: Reading) -> None:
        settings = after.settings
        if change.log:
            setup(settings.log_format, settings.log_level, sys.stderr)
        if self._pushes is not None:
            self._pushes.watch(settings.servers)
        if change.otlp:
            await self._change_pushes(settings, certificates=change.certificates)
        if change.statsd:
            await self._change_statsd(settings)

    async def _change_pushes(self, settings: Settings, *, certificates: bool) -> None:
        if self._pushes is None:
            self._pushes = self._build_pushes(settings)
            if self._pushes is not None:
                self._pushes.start(self._tasks)
        elif settings.otlp_traces is None and settings.otlp_metrics is None:
            await self._pushes.finish(FLUSHING)
            self._pushes = None
        else:
            await self._pushes.change(settings, self._tasks, FLUSHING, certificates=certificates)

    async def _change_statsd(self, settings: Settings) -> None:
        target = settings.statsd_push
        if self._statsd is None:
            statsd = self._build_statsd(settings)
            if statsd is not None:
                await statsd.prime()
                statsd.start(self._tasks)
            self._statsd = statsd
        elif target is None:
            await self._statsd.finish(FLUSHING)
            self._statsd = None
        else:
            await self._statsd.turn(target, settings.statsd_interval)
            self._statsd.start(self._tasks)

    async def _part(self, closing: Iterable[Coroutine[None, None, None]]) -> None:
        """Close all of these, and wait for that for a moment: what takes longer goes on beside."""
        tasks = {self._let_go(each) for each in closing}
        if tasks and (await asyncio.wait(tasks, timeout=CLOSING))[1]:
            logger.warning("a server did not let go in time: it is parted from beside what goes on")

    def _let_go(self, closing: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(closing)
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)
        return task

    # --- what is told and saved -------------------------------------------------------------------------------------

    def _told(self) -> Iterator[Column]:
        """Yield what all pushes tell of themselves, for every output. Safe in any thread."""
        yield from self._outcome.own(None if self._gate is None else self._gate.problem, named=self._gate is not None)
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
            self._state.save({name: self._memory(watch) for name, watch in self._watches.items()})

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
                await asyncio.gather(*(watch.close() for watch in self._watches.values()))
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


def _source(
    server: ServerSettings, reading: Reading, positions: Sequence[Position], *, before: Source | None = None
) -> Source:
    open_feeds = reading.feeds.get(server.name)
    return systems.build(
        server,
        traces=reading.settings.otlp_traces is not None,
        positions=positions,
        feeds=() if open_feeds is None else open_feeds(),
        before=before,
    )


def _gate(settings: Settings) -> Gate | None:
    if settings.web_config_file is None:
        return None
    from exporter.web.gate import Gate  # noqa: PLC0415 - takes memory that others need not give
    from exporter.web.web_config import WebConfigError  # noqa: PLC0415

    try:
        return Gate(settings.web_config_file)
    except WebConfigError as error:
        raise SettingsError(list(error.problems)) from None


def _fields(change: Plan) -> dict[str, object]:
    """Return what the log tells of a reload."""
    fields: dict[str, object] = {"untouched": len(change.kept)}
    names = {
        "changed": [server.name for server in change.changed],
        "added": [server.name for server in change.added],
        "removed": list(change.removed),
    }
    return fields | {key: its for key, its in names.items() if its}


def run(settings: Settings, *, read: Callable[[], Reading] | None = None, hangups: Hangups | None = None) -> int:
    """Run the sidecar until SIGTERM or SIGINT. Returns the exit status.

    ``read`` reads the settings anew, at each of ``hangups``.
    """
    return run_loop(run_until_signalled(settings, read=read, hangups=hangups))


async def run_until_signalled(
    settings: Settings, *, read: Callable[[], Reading] | None = None, hangups: Hangups | None = None
) -> int:
    """Run the sidecar in this loop until SIGTERM or SIGINT. Returns the exit status. Else see :func:`run`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = Sidecar(settings, read=read)

    def begin(_port: int) -> None:
        if hangups is not None:
            hangups.lead_to(sidecar.request_reload)

    try:
        await sidecar.run(stop, started=begin)
    finally:
        if hangups is not None:
            hangups.close()
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
