"""What a reload of the settings changes, and how one reload follows another. :mod:`exporter.sidecar` does it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from exporter.catalogue import CONFIG_SUCCESS_TIME, CONFIG_SUCCESSFUL, Column
from exporter.settings import OtlpTarget, ServerSettings, Settings

if TYPE_CHECKING:
    from exporter.process.feeds import Feed

MAX_CERTIFICATES: Final = 1024 * 1024
"""Bytes of a file of certificates that are looked at: settings take no longer one."""

READING: Final = 10.0
"""Seconds that reading the settings may take."""

REST: Final = 1.0
"""Seconds between two reloads at least, however often one is asked for."""

Feeds = Mapping[str, "Callable[[], Sequence[Feed]]"]
"""By the server's name what opens that which carries its output live."""

NO_FEEDS: Final[Feeds] = MappingProxyType({})


class Reading(msgspec.Struct, frozen=True):
    """What was read at one time."""

    settings: Settings
    feeds: Feeds = NO_FEEDS
    certificates: Mapping[Path, bytes] = {}
    """What tells the content of each file of certificates that ``settings`` name from another."""


def reading(settings: Settings, feeds: Feeds = NO_FEEDS) -> Reading:
    """Return what belongs to ``settings``, which were read just now."""
    return Reading(settings, feeds, certificates(settings))


class Plan(msgspec.Struct, frozen=True):
    """What is to be done for what was read to be in use."""

    kept: tuple[ServerSettings, ...] = ()
    """They keep their connections and all else."""
    reopened: tuple[ServerSettings, ...] = ()
    """They are asked anew in another way: all that is known of them and counted goes on."""
    replaced: tuple[ServerSettings, ...] = ()
    """Another server stands under the name: what was counted goes on, what was in work is nothing to it."""
    added: tuple[ServerSettings, ...] = ()
    removed: tuple[str, ...] = ()
    web: bool = False
    """Whether the HTTP server is opened anew."""
    log: bool = False
    state: bool = False
    interval: bool = False
    labels: bool = False
    choice: bool = False
    """Whether traces tell other executions."""
    otlp: bool = False
    certificates: bool = False
    """Whether those for the collectors are read anew."""
    statsd: bool = False

    @property
    def changed(self) -> tuple[ServerSettings, ...]:
        """The servers that get another source."""
        return (*self.reopened, *self.replaced)


def plan(before: Reading, after: Reading) -> Plan:
    """Decide what is to be done for ``after`` to be in use in place of ``before``."""
    old, new = before.settings, after.settings
    known = {server.name: server for server in old.servers}
    tracing = (old.otlp_traces is None) is not (new.otlp_traces is None)
    fates: dict[str, list[ServerSettings]] = {"kept": [], "reopened": [], "replaced": [], "added": []}
    for server in new.servers:
        was = known.pop(server.name, None)
        if was is None:
            fate = "added"
        elif (was.system, was.url, was.redis_url) != (server.system, server.url, server.redis_url):
            fate = "replaced"
        elif was != server or tracing or _fed(before, after, server) or _renewed(before, after, *_named(server)):
            # Jobs carry more where traces tell of them: another source.
            fate = "reopened"
        else:
            fate = "kept"
        fates[fate].append(server)
    targets = [target for target in (new.otlp_traces, new.otlp_metrics) if target is not None]
    certificates = _renewed(before, after, *(path for target in targets for path in _of_target(target)))
    return Plan(
        **{fate: tuple(servers) for fate, servers in fates.items()},
        removed=tuple(known),
        web=_web(old) != _web(new),
        log=(old.log_format, old.log_level) != (new.log_format, new.log_level),
        state=old.state_file != new.state_file,
        interval=old.interval != new.interval,
        labels=old.max_label_values != new.max_label_values,
        choice=_choice(old) != _choice(new),
        otlp=certificates or _otlp(old) != _otlp(new),
        certificates=certificates,
        statsd=(old.statsd_push, old.statsd_interval) != (new.statsd_push, new.statsd_interval),
    )


def certificates(settings: Settings) -> dict[Path, bytes]:
    """Return a digest of each file of certificates that ``settings`` name; none of one that cannot be read."""
    named = [path for server in settings.servers for path in _named(server)]
    for target in (settings.otlp_traces, settings.otlp_metrics):
        named += [] if target is None else _of_target(target)
    found = {}
    for path in dict.fromkeys(named):
        with contextlib.suppress(OSError), path.open("rb") as file:
            found[path] = hashlib.sha256(file.read(MAX_CERTIFICATES)).digest()
    return found


def _named(server: ServerSettings) -> list[Path]:
    return [path for path in (server.ca_file, server.redis_ca_file) if path is not None]


def _of_target(target: OtlpTarget) -> list[Path]:
    return [path for path in (target.ca_file, target.certificate_file, target.key_file) if path is not None]


def _renewed(before: Reading, after: Reading, *paths: Path) -> bool:
    """Tell whether one of these files holds something else. One that is not readable just now counts as it was."""
    return any(
        path in after.certificates and before.certificates.get(path) != after.certificates[path] for path in paths
    )


def _fed(before: Reading, after: Reading, server: ServerSettings) -> bool:
    return (server.name in before.feeds) is not (server.name in after.feeds)


def _web(settings: Settings) -> object:
    return (
        settings.web_listen_address,
        settings.web_config_file,
        settings.web_lifecycle,
        settings.web_runbooks_url,
        settings.web_dashboards_url,
    )


def _choice(settings: Settings) -> object:
    return settings.otlp_traces is not None, settings.traces


def _otlp(settings: Settings) -> object:
    return (
        settings.otlp_traces,
        settings.otlp_metrics,
        settings.otlp_metrics_interval,
        settings.traces.parent,
        settings.traces_poll_ratio,
    )


class Outcome:
    """What is told of the newest reload."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        """Begin with the settings that are in use from the start. ``wall`` tells Unix time."""
        self._wall = wall
        self._good = True
        self._at = wall()

    def take(self, *, good: bool) -> None:
        """Take note of how a reload ended."""
        self._good = good
        if good:
            self._at = self._wall()

    def own(self, web: str | None, *, named: bool) -> Iterator[Column]:
        """Yield the metrics of it. ``web``: why the web configuration file, where one is ``named``, is not in use."""
        files, good = [("settings",)], [int(self._good)]
        if named:
            files, good = [*files, ("web",)], [*good, int(web is None)]
        yield CONFIG_SUCCESSFUL, files, good
        yield CONFIG_SUCCESS_TIME, [()], [self._at]


class Turns:
    """Lets one reload run at a time. All who ask while one runs share one more, which sees what they have written."""

    def __init__(self, do: Callable[[], Awaitable[str | None]], *, rest: float = REST) -> None:
        """``do`` returns what is wrong; ``rest``: seconds between two of them at least."""
        self._do = do
        self._rest = rest
        self._rested = 0.0
        self._now: asyncio.Task[str | None] | None = None
        self._next: asyncio.Task[str | None] | None = None

    def ask(self) -> asyncio.Task[str | None]:
        """See to it that ``do`` is done from its beginning once more; return what tells how that ended."""
        if self._next is None:
            self._next = asyncio.create_task(self._turn(self._now), name="reload")
        return self._next

    async def close(self) -> None:
        """Wait for the end of the one that runs, and let no other begin."""
        if self._next is not None:
            self._next.cancel()
        await asyncio.gather(*(task for task in (self._now, self._next) if task is not None), return_exceptions=True)

    async def _turn(self, before: asyncio.Task[str | None] | None) -> str | None:
        clock = asyncio.get_running_loop().time
        if before is not None:
            await asyncio.wait({before})
            await asyncio.sleep(max(0.0, self._rested - clock()))
        self._now, self._next = self._next, None
        try:
            return await self._do()
        finally:
            self._rested = clock() + self._rest
