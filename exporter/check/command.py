"""``forewarn check``: tries everything that the settings name, all servers at once, and tells what was found."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, TextIO

import msgspec

from exporter import systems
from exporter.check.finding import Finding, Report, State, remedy
from exporter.check.own import check_own
from exporter.check.places import Places
from exporter.check.progress import Progress
from exporter.check.table import write_table
from exporter.secret import Secret
from exporter.settings import OtlpTarget, Settings, SettingsError, load

DEADLINE: Final = 60.0
"""Seconds for one server, and for the sidecar: each wait within has a deadline of its own, and they all end before."""

ORDER: Final = (
    "command port",
    "health page",
    "redis",
    "config folder",
    "limit",
    "workers",
    "version",
    "clock",
    "process",
    "log",
    "statsd",
    "statsd relay",
    "settings",
    "state file",
    "web address",
    "web config",
    "otlp",
    "otlp traces",
    "otlp metrics",
    "statsd push",
    "check",
)
"""Every part, in the order in which it is told."""

_INTERRUPTED: Final = 130


class Document(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    ok: bool
    """Whether all that is needed works."""
    findings: tuple[Finding, ...]


def main(
    flags: Mapping[str, str | Sequence[str] | None],
    environ: Mapping[str, str],
    out: TextIO,
    err: TextIO,
    *,
    as_json: bool,
    wall: Callable[[], float] = time.time,
) -> int:
    """Check, write what was found to ``out``, and return the exit status: 0, 1 or 2, as the command's help tells.

    What is being waited for is shown on ``err`` while that is a terminal. ``wall`` is in Unix seconds.
    """
    try:
        settings = load(flags, environ)
    except SettingsError as error:
        err.writelines(f"forewarn: {problem}\n" for problem in error.problems)
        return 2
    began = time.monotonic()
    places = Places(flags, environ)
    try:
        with Progress(err) as progress:
            findings = asyncio.run(check(settings, places, progress=progress, wall=wall))
    except KeyboardInterrupt:
        return _INTERRUPTED
    told = Document(ok=all_needed_works(findings), findings=findings)
    if as_json:
        out.write(msgspec.json.format(msgspec.json.encode(told), indent=2).decode() + "\n")
    else:
        write_table(findings, settings, out, seconds=time.monotonic() - began)
    return 0 if told.ok else 1


def all_needed_works(findings: Sequence[Finding]) -> bool:
    """Tell whether nothing that is needed has failed."""
    return not any(it.needed and it.state is State.FAILED for it in findings)


async def check(
    settings: Settings,
    places: Places,
    *,
    progress: Progress | None = None,
    wall: Callable[[], float] = time.time,
) -> tuple[Finding, ...]:
    """Try everything, all at once; return what was found, server by server in their order, the sidecar last."""
    found: list[Finding] = []
    secrets = tuple(_secrets(settings))

    def report(server: str | None) -> Report:
        def trying(part: str, begins: bool) -> None:
            if progress is not None:
                progress.trying(server, part, begins=begins)

        return Report(server, found.append, secrets=secrets, trying=trying)

    async with asyncio.TaskGroup() as tasks:
        for server in settings.servers:
            told = report(server.name)
            tasks.create_task(_whole(systems.check(server, told, places.of_server(server.name), wall=wall), told))
        told = report(None)
        tasks.create_task(_whole(check_own(settings, told, places, wall=wall), told))
    names = [*(it.name for it in settings.servers), None]
    return tuple(sorted(found, key=lambda it: (names.index(it.server), ORDER.index(it.part))))


async def _whole(trial: Awaitable[None], report: Report) -> None:
    """Let a trial end, whatever befalls it: the others go on."""
    try:
        async with asyncio.timeout(DEADLINE):
            await trial
    except TimeoutError:
        how = remedy("this machine may be overloaded; try again with less going on:", "uptime")
        report.failed("check", f"not everything was tried within {DEADLINE:g} s", how)
    except Exception as error:  # noqa: BLE001 - and so others are told what was found of theirs
        how = remedy("report it with what this prints:", "forewarn --version; python3 -VV; uname -srm")
        report.failed("check", f"not everything was tried, by a defect of Forewarn's ({_defect(error)})", how)


def _defect(error: BaseException) -> str:
    """Name an error and its place, and nothing that it says: a secret may stand in that."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{type(error).__name__}{''.join(f' in {it.name}, line {it.lineno}' for it in last)}"


def _secrets(settings: Settings) -> Iterator[Secret]:
    """Yield what must stand in no text."""
    for server in settings.servers:
        yield from (it for it in (server.password, server.redis_password) if it is not None)
    targets: tuple[OtlpTarget | None, ...] = (settings.otlp_traces, settings.otlp_metrics)
    for target in targets:
        for value in target.headers.values() if target is not None else ():
            yield value
            yield Secret(value.reveal().rpartition(" ")[2])  # without the word before it, such as Bearer
