"""What ``forewarn check`` tries of one Faktory, and what it tells of it.

It costs the server one ``GET /health`` and one connection to the command port, with its handshake, one ``BEAT`` for a
worker that does not exist, and ``END``; and Redis what :mod:`exporter.faktory.check_redis` tells. Never ``INFO``, never
another page. A server that refuses is not asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from exporter.check.access import Obstacle, let_read, obstacle
from exporter.check.finding import Report, remedy
from exporter.check.logs import check_log
from exporter.check.places import NUMBER, ServerPlaces
from exporter.check.statsd import check_statsd
from exporter.faktory.advisories import known_risks
from exporter.faktory.check_redis import RedisFacts, other_owner, read_redis, tell_redis
from exporter.faktory.client import Client
from exporter.faktory.conf import ThrottleFiles
from exporter.faktory.endpoint import Endpoint, host_port, tls_context
from exporter.faktory.errors import FaktoryError
from exporter.faktory.health import HealthPage
from exporter.faktory.source import connections_limit
from exporter.faktory.versions import parse_version
from exporter.model import Failure, Health, ProcessFacts, Reason, SocketFacts, ThrottleLimit
from exporter.process.known import BY_ID
from exporter.process.proc import ServerProcess
from exporter.process.sockets import PortPeers
from exporter.settings import WEB_UI_PORT, ServerSettings
from exporter.threads import in_time, unresolved

COMMAND: Final = "command port"
HEALTH: Final = "health page"
CONFIG: Final = "config folder"
LIMIT: Final = "limit"
PROCESS: Final = "process"
CLOCK: Final = "clock"
VERSION: Final = "version"
WORKERS: Final = "workers"

CLOSE_DEADLINE: Final = 3.0
CONFIG_DEADLINE: Final = 5.0
"""Seconds for reading the configuration folder."""

MOST_SKEW: Final = 2.0
"""Seconds by which the clocks may differ."""

NEAR: Final = 0.8
"""Share of the connection limit from which on somebody should look, as the alert FaktoryConnectionsNearLimit has it."""

_HTTP: Final = "web pages"
_CLOSED: Final = "was the server restarted?"
"""What failures say where web pages answer, and where a connection was closed."""
_LINE: Final = re.compile(r"line (\d+)")


class _Page(msgspec.Struct, frozen=True):
    """What the health page told."""

    health: Health
    now: float
    """The server's clock, in Unix seconds, at the local :attr:`asked_at`."""
    asked_at: float
    took: float


class _Kernel(msgspec.Struct, frozen=True):
    """What the kernel tells of the server, where it is on this machine."""

    sockets: SocketFacts | None
    process: ProcessFacts | None
    failure: Failure | None


async def check(
    settings: ServerSettings, report: Report, places: ServerPlaces, *, wall: Callable[[], float] = time.time
) -> None:
    """Try everything that the settings of one server name. Each wait has a deadline. ``wall``: in Unix seconds."""
    endpoint = Endpoint.parse(settings.url.reveal(), settings.ca_file)
    if settings.password is not None:
        endpoint = msgspec.structs.replace(endpoint, password=settings.password)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(check_log(settings.log, report, places))
        tasks.create_task(check_statsd(settings.statsd, report, places))
        throttles = tasks.create_task(_config(settings.config_dir, report, places))
        kernel = tasks.create_task(_kernel(endpoint))
        redis = tasks.create_task(read_redis(settings, report, places, wall))
        # Before the connection is made: it would be counted.
        page, failure = await _read_health(settings, report, wall)
        refused = await _command(endpoint, settings, failure, report, places)
    health = None if page is None else page.health
    if page is not None:
        _tell_page(page, report)
    elif failure is not None:
        _tell_no_page(failure, settings, refused, report, places)
    facts = redis.result()
    process = kernel.result().process
    if facts is not None:
        other = None
        if process is not None:
            pid = process.pid
            with contextlib.suppress(TimeoutError):
                other = await in_time(lambda: other_owner(settings, pid), CONFIG_DEADLINE)
        commands = None if health is None else health.commands
        if not tell_redis(facts, settings, report, places, commands=commands, other=other):
            facts = None  # another's
    _limit(settings, health, process, report, places)
    _process(kernel.result(), endpoint, report)
    _clock(page, facts, report)
    _version(health, throttles.result(), report)
    _workers(health, facts, report)


# --- command port ---------------------------------------------------------------------------------------------------


async def _command(
    endpoint: Endpoint,
    settings: ServerSettings,
    health_failure: Failure | None,
    report: Report,
    places: ServerPlaces,
) -> Failure | None:
    """Connect, shake hands, ask one question, and part. Returns why that failed, if it did."""
    with report.trying(COMMAND):
        why = await unresolved(endpoint.host)
        if why is not None:
            how = places.set_url("url", command_url(endpoint, host="HOST"), "correct the host, or make the name known")
            report.failed(COMMAND, f"{endpoint.where}: its name {why}", how)
            return Failure(Reason.UNREACHABLE, why)
        client = Client(endpoint)
        try:
            await client.keep()
            began = time.monotonic()
            await client.registered(f"forewarn-check-{secrets.token_hex(8)}")
            took = time.monotonic() - began
        except FaktoryError as error:
            _tell_command(error.failure, endpoint, settings, health_failure, report, places)
            return error.failure
        finally:
            await client.close()
        password = "" if endpoint.password is None else ", with the password"
        tls = " over TLS" if endpoint.tls else ""
        report.ok(COMMAND, f"{endpoint.where} lets us in{password}, and answers{tls} in {took * 1000:.1f} ms")
        return None


def command_url(endpoint: Endpoint, **changes: str | int | bool) -> str:
    """Return an endpoint as a URL, without the password, perhaps with another ``host``, ``port`` or ``tls``."""
    changed = msgspec.structs.replace(endpoint, **changes)
    return f"{'tcp+tls' if changed.tls else 'tcp'}://{host_port(changed.host, changed.port)}"


def _tell_command(
    failure: Failure,
    endpoint: Endpoint,
    settings: ServerSettings,
    health_failure: Failure | None,
    report: Report,
    places: ServerPlaces,
) -> None:
    what, hint = _split(failure.message)
    where = shlex.quote(endpoint.where)
    match failure.reason:
        case Reason.REFUSED:
            who = remedy(
                f"{hint}; on the server's machine this tells who holds them:",
                f"ss -Htn state established 'sport = :{endpoint.port}' | awk '{{print $4}}' | sort | uniq -c",
            )
            report.warning(COMMAND, what, who)
        case Reason.AUTH:
            prose = "tell Forewarn the password that the server was started with"
            report.failed(COMMAND, what, places.set_password("password_file", "url", prose))
        case Reason.TLS if "not trusted" in failure.message:
            report.failed(COMMAND, what, places.set("ca_file", "/path/to/ca.pem", hint))
        case Reason.TLS:
            prose = "it is a plain port" if endpoint.tls else "it speaks TLS"
            report.failed(COMMAND, what, places.set_url("url", command_url(endpoint, tls=not endpoint.tls), prose))
        case Reason.PROTOCOL | Reason.UNREACHABLE if _is_web(failure, endpoint, settings, health_failure):
            _tell_swapped(what, endpoint, settings, health_failure, report, places)
        case Reason.TIMEOUT if "accepted no connection" in failure.message:
            line = f"nc -vz {shlex.quote(endpoint.host)} {endpoint.port}"
            prose = "let the firewall pass what this machine sends there, or correct the address; try it by"
            report.failed(COMMAND, f"{what}: what is sent there is lost on the way", remedy(f"{prose}:", line))
        case Reason.UNREACHABLE if _CLOSED in failure.message:
            prose = (
                f"see on its machine what listens there (ss -Htlnp 'sport = :{endpoint.port}'); workers use port 7419"
            )
            report.failed(COMMAND, what, places.set_url("url", command_url(endpoint, port=7419), prose))
        case Reason.UNREACHABLE:
            url = command_url(endpoint, host="HOST", port=7419).replace("7419", "PORT")
            prose = f"start the server at {where}, or name where it listens (its -b)"
            report.failed(COMMAND, what, places.set_url("url", url, prose))
        case Reason.TIMEOUT:
            line = "kill -TTIN PID   # of the server: it prints where each of its goroutines is"
            report.failed(
                COMMAND, what, remedy(f"{hint or 'is it overloaded?'} If it hangs, see in its log where:", line)
            )
        case _:
            prose = "see whether that is Faktory's command port (its -b), and nothing else stands before it"
            report.failed(COMMAND, failure.message, places.set_url("url", command_url(endpoint, port=7419), prose))


def _tell_swapped(
    what: str,
    endpoint: Endpoint,
    settings: ServerSettings,
    health_failure: Failure | None,
    report: Report,
    places: ServerPlaces,
) -> None:
    web = urlsplit(settings.web_url)
    spoken = health_failure is not None and _speaks_faktory(health_failure)
    port = (web.port if spoken else None) or 7419
    prose = "that is the port of its web pages; workers connect to the other one"
    report.failed(COMMAND, what, places.set_url("url", command_url(endpoint, port=port), prose))


def _is_web(failure: Failure, endpoint: Endpoint, settings: ServerSettings, health_failure: Failure | None) -> bool:
    """Tell whether what is taken for the command port is that of the web pages.

    Faktory's web server closes a connection on which nothing is asked in a second, just as we would be sure of it.
    """
    if _HTTP in failure.message:
        return True
    if _CLOSED not in failure.message:
        return False
    web = urlsplit(settings.web_url)
    same = (web.hostname, web.port) == (endpoint.host, endpoint.port)
    return same if health_failure is None else _speaks_faktory(health_failure)


def _speaks_faktory(health_failure: Failure) -> bool:
    """Tell whether what was asked for the health page answers, but not in HTTP: as the command port does."""
    return "not answered in HTTP" in health_failure.message and not _hangs_up(health_failure)


def _hangs_up(health_failure: Failure) -> bool:
    """Tell whether the connection was closed without an answer: by one that wants TLS, for instance."""
    return any(it in health_failure.message for it in ("ServerDisconnectedError", "ClientOSError", "ConnectionReset"))


# --- health page ----------------------------------------------------------------------------------------------------


async def _read_health(
    settings: ServerSettings, report: Report, wall: Callable[[], float]
) -> tuple[_Page | None, Failure | None]:
    with report.trying(HEALTH):
        host = urlsplit(settings.web_url).hostname or ""
        why = await unresolved(host)
        if why is not None:
            return None, Failure(Reason.UNREACHABLE, f"{settings.web_url}: its name {why}: correct the host")
        tls = tls_context(settings.ca_file) if settings.web_url.startswith("https") else None
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            began, asked_at = time.monotonic(), wall()
            try:
                health, now = await HealthPage(session, settings.web_url, tls=tls).read()
            except FaktoryError as error:
                return None, error.failure
            took = time.monotonic() - began
        return _Page(health, now, asked_at + took / 2, took), None


def _tell_page(page: _Page, report: Report) -> None:
    count = page.health.connections
    told = "1 connection" if count == 1 else f"{count} connections"
    report.ok(HEALTH, f"it answers in {page.took * 1000:.1f} ms: {told}, {page.health.commands} commands so far")


def _tell_no_page(
    failure: Failure, settings: ServerSettings, command_failure: Failure | None, report: Report, places: ServerPlaces
) -> None:
    what, hint = _split(failure.message)
    web = urlsplit(settings.web_url)
    other = "http" if web.scheme == "https" else "https"
    address = host_port(web.hostname or "HOST", web.port or WEB_UI_PORT)
    match failure.reason:
        case Reason.TLS if "not trusted" in failure.message:
            how = places.set("ca_file", "/path/to/ca.pem", hint)
        case Reason.TLS:
            prose = "it is a plain port" if web.scheme == "https" else "it speaks TLS"
            how = places.set("web_url", f"{other}://{address}", prose)
        case Reason.PROTOCOL if web.scheme == "http" and _hangs_up(failure):
            how = places.set("web_url", f"https://{address}", "does it speak TLS?")
        case Reason.PROTOCOL if _speaks_faktory(failure):
            endpoint = Endpoint.parse(settings.url.reveal())
            swapped = command_failure is not None and _is_web(command_failure, endpoint, settings, failure)
            port = endpoint.port if swapped else WEB_UI_PORT
            page = f"{web.scheme}://{host_port(web.hostname or 'HOST', port)}"
            how = places.set("web_url", page, "that is not the port of its web pages")
        case Reason.UNREACHABLE if "cannot be reached" in what:
            if command_failure is not None and command_failure.reason is Reason.UNREACHABLE:
                how = places.set("web_url", f"{web.scheme}://HOST:PORT", "start the server, or name where it listens")
            else:
                prose = "start Faktory with its Web UI on (its -w is not :0), or name where that is"
                how = places.set("web_url", f"{web.scheme}://HOST:PORT", prose)
        case Reason.UNREACHABLE:
            how = places.set("web_url", f"{web.scheme}://{host_port('HOST', web.port or WEB_UI_PORT)}", hint)
        case Reason.TIMEOUT:
            line = f"curl -m 5 {shlex.quote(settings.web_url + '/health')}"
            how = remedy(f"{hint or 'is it overloaded?'} Try it by:", line)
        case _:
            how = places.set("web_url", f"{web.scheme}://{web.hostname}:{WEB_UI_PORT}", hint or "correct the address")
    report.failed(HEALTH, what, how)


# --- what is read without asking the server -------------------------------------------------------------------------


async def _config(folder: Path | None, report: Report, places: ServerPlaces) -> tuple[ThrottleLimit, ...] | None:
    if folder is None:
        how = places.set("config_dir", "/etc/faktory", "where it has throttles, name its configuration folder (its -c)")
        report.off(CONFIG, "not named: throttles cannot be seen", how)
        return None
    with report.trying(CONFIG):
        try:
            limits, failure, blocked = await in_time(lambda: _read_config(folder), CONFIG_DEADLINE)
        except TimeoutError:
            how = remedy("see whether the disk that it is on answers:", f"ls {shlex.quote(str(folder))}/conf.d")
            report.failed(CONFIG, f"{folder} was not read within {CONFIG_DEADLINE:g} s", how)
            return None
    if failure is None:
        told = f"{len(limits)} limits of throttles" if limits else "no throttles"
        report.ok(CONFIG, f"{folder} is readable: {told}")
        return limits
    if blocked is not None:
        report.failed(CONFIG, f"{folder} may not be read: {blocked[0].told}", let_read(blocked[0], blocked[1]))
    elif "does not exist" in failure.message:
        prose = "name the folder that Faktory is started with (its -c)"
        report.failed(CONFIG, f"there is no folder {folder}", places.set("config_dir", "/path/of/its/folder", prose))
    else:
        report.failed(CONFIG, failure.message, _mend_file(failure.message))
    return limits


def _read_config(folder: Path) -> tuple[tuple[ThrottleLimit, ...], Failure | None, tuple[Obstacle, Path] | None]:
    """Return the limits, what is wrong with the files, and what keeps us from which of them."""
    limits, failure = ThrottleFiles(folder).read()
    blocked = None
    if failure is not None and "permission denied" in failure.message:
        for path in (folder, folder / "conf.d", *sorted((folder / "conf.d").glob("*.toml"))[:256]):
            found = obstacle(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
            if found is not None:
                blocked = found, path
                break
    return limits, failure, blocked


async def _kernel(endpoint: Endpoint) -> _Kernel:
    if await unresolved(endpoint.host) is not None:  # told where the command port is
        return _Kernel(None, None, None)
    peers = PortPeers(endpoint.host, endpoint.port)
    sockets, failure = await peers.read()
    process, other = await ServerProcess("faktory").read(peers.inode, None)
    return _Kernel(sockets, process, failure or other)


def _mend_file(message: str) -> str:
    """Return the remedy for a file whose failure names it, and perhaps a line in it."""
    path = shlex.quote(message.partition(": ")[0])
    line = _LINE.search(message)
    at = f"+{line[1]} " if line else ""
    return remedy(
        "mend that place (Faktory reads the file when it starts, and on SIGHUP):", f"${{EDITOR:-vi}} {at}{path}"
    )


def _limit(
    settings: ServerSettings,
    health: Health | None,
    process: ProcessFacts | None,
    report: Report,
    places: ServerPlaces,
) -> None:
    limit = connections_limit(settings.connections_limit, health)
    if limit is None:
        if health is None:
            report.off(LIMIT, "not known, for the health page does not tell the version")
            return
        why = "it depends on its licence" if health.edition == "enterprise" else f"its version is {health.version}"
        prose = "write how many it allows (Enterprise tells it at its start: Licensed to ..., max N connections)"
        what = f"how many connections it allows is not known, for {why}: nothing can warn before it is full"
        report.warning(LIMIT, what, places.set("connections_limit", NUMBER, prose))
        return
    own = "configured" if settings.connections_limit is not None else "by its version"
    if process is not None and process.max_fds is not None and process.max_fds < limit:
        what = f"it may open {process.max_fds} files only, fewer than the {limit} connections that it allows"
        line = f"prlimit --pid {process.pid} --nofile={2 * limit}:"
        prose = f"raise it for good where it is started (systemd: LimitNOFILE={2 * limit}), and now by"
        report.warning(LIMIT, what, remedy(f"{prose}:", line))
        return
    if health is not None and health.connections >= NEAR * limit:
        what = f"{health.connections} of {limit} connections are in use ({own})"
        line = f"ss -Htn state established 'sport = :{Endpoint.parse(settings.url.reveal()).port}'"
        report.warning(LIMIT, what, remedy("see on its machine who holds them, and let clients share theirs:", line))
        return
    used = "" if health is None else f"; {health.connections} in use"
    report.ok(LIMIT, f"{limit} connections ({own}){used}")


def _process(kernel: _Kernel, endpoint: Endpoint, report: Report) -> None:
    if kernel.failure is not None:
        what, hint = _split(kernel.failure.message)
        report.warning(PROCESS, what, remedy(f"{hint or 'see by'}:", f"ss -Htlnp 'sport = :{endpoint.port}'"))
    elif kernel.sockets is None:
        report.off(
            PROCESS,
            f"nothing listens on port {endpoint.port} in this network namespace, or the kernel does not tell: who is"
            " connected, and the server's files and memory, cannot be seen",
            "run Forewarn on the server's machine, or in its pod, to see them",
        )
    elif kernel.process is None:
        report.off(
            PROCESS,
            f"who is connected can be seen, but not the process, of which uid {os.geteuid()} may not see the files",
            "run Forewarn as the server's user, in its process namespace, to see its files and memory too",
        )
    else:
        files = kernel.process.open_fds
        told = "" if files is None else f", {files} files open"
        report.ok(PROCESS, f"process {kernel.process.pid}{told}; who is connected can be seen")


def _clock(page: _Page | None, redis: RedisFacts | None, report: Report) -> None:
    told = page or redis
    if told is None:
        report.off(CLOCK, "the server's clock is not known, for nothing that tells it answers")
        return
    ahead = told.now - told.asked_at
    if abs(ahead) - told.took / 2 <= MOST_SKEW:
        report.ok(CLOCK, f"within {max(0.1, abs(ahead)):.1f} s of ours")
        return
    which = "ahead of" if ahead > 0 else "behind"
    what = f"the server's clock is {abs(ahead):.1f} s {which} ours: traces and logs of both will not fit together"
    report.warning(
        CLOCK, what, remedy("let both machines keep time, on the one that is wrong:", "timedatectl set-ntp true")
    )


def _version(health: Health | None, throttles: tuple[ThrottleLimit, ...] | None, report: Report) -> None:
    version = None if health is None else parse_version(health.version)
    if health is None or version is None:
        report.off(VERSION, "not known, for the health page does not tell it")
        return
    edition = {"oss": "open source", "enterprise": "Enterprise"}.get(health.edition, health.edition)
    risks = known_risks(version, health.edition, throttles, None) or {}
    for name in (name for name, is_there in risks.items() if is_there):
        prose = "upgrade it; its makers' list of changes:"
        line = "https://github.com/contribsys/faktory/blob/main/Ent-Changes.md"
        report.warning(
            VERSION, f"{health.version} ({edition}) is known to crash: {BY_ID[name].hint}", remedy(prose, line)
        )
    if not any(risks.values()):
        report.ok(VERSION, f"{health.version} ({edition})")


def _workers(health: Health | None, redis: RedisFacts | None, report: Report) -> None:
    busy = None if redis is None else redis.sets.get("working")
    count = None if health is None else health.connections
    if count is None and busy is None:
        report.off(WORKERS, "whether any worker is connected is not known")
    elif not count and not busy:
        prose = "where there should be some, see on the worker's machine where it looks for its server:"
        report.warning(
            WORKERS, "nobody is connected, neither workers nor producers", remedy(prose, "echo $FAKTORY_URL")
        )
    else:
        told = (
            []
            if count is None
            else [f"{count} connection{'' if count == 1 else 's'} (each Forewarn that runs has one)"]
        )
        told += [] if busy is None else [f"{busy} job{'' if busy == 1 else 's'} being worked on"]
        report.ok(WORKERS, ", ".join(told))


def _split(message: str) -> tuple[str, str]:
    """Return what went wrong, and what is told there to mend it."""
    what, _, hint = message.rpartition(": ")
    return (what, hint) if what else (message, "")
