"""Whether the sidecar itself could run as the settings say: its files, its pages, and what it sends to."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from exporter import state
from exporter.check.access import Obstacle, obstacle
from exporter.check.finding import Report, remedy
from exporter.check.places import Places
from exporter.check.ports import Taken, taken
from exporter.check.statsd import DEADLINE, send_problem
from exporter.model import Failure, Reason
from exporter.settings import OtlpTarget, Settings
from exporter.signals import Memory
from exporter.threads import in_time
from exporter.web.address import Address

SETTINGS: Final = "settings"
STATE: Final = "state file"
WEB: Final = "web address"
WEB_CONFIG: Final = "web config"
PUSH: Final = "statsd push"

ROOM: Final = 16 * 1024 * 1024
"""Bytes that should be free where the state file is, beside twice what it has now."""

STATE_DEADLINE: Final = 5.0
_LINE: Final = re.compile(r"\bline (\d+)")

_HEALTHY: Final = b"healthy: the sidecar runs"
"""How a Forewarn says that it lives; one that asks for a password says its name instead."""

ASK_DEADLINE: Final = 2.0
"""Seconds for asking whoever listens on our address who it is."""


async def check_own(
    settings: Settings, report: Report, places: Places, *, wall: Callable[[], float] = time.time
) -> None:
    """Try what concerns the sidecar itself. ``wall`` is in Unix seconds: certificates are judged by it."""
    count = len(settings.servers)
    report.ok(SETTINGS, f"{count} server{'' if count == 1 else 's'}, from {places.layers or 'defaults'}")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_state_file(settings.state_file, report, places))
        tasks.create_task(_web_address(settings.web_listen_address, report, places))
        tasks.create_task(_web_config(settings.web_config_file, report, places, wall))
        tasks.create_task(_statsd_push(settings, report, places))
        for kind in ("traces", "metrics"):
            target: OtlpTarget | None = getattr(settings, f"otlp_{kind}")
            if target is not None:
                tasks.create_task(_otlp(kind, target, report, places))
    if settings.otlp_traces is None and settings.otlp_metrics is None:
        report.off("otlp", "no endpoint is set: neither traces nor metrics are sent")


# --- state file -----------------------------------------------------------------------------------------------------


class _StateFile(msgspec.Struct, frozen=True):
    """What was seen of it, and of its folder."""

    size: int | None = None
    """``None``: it is not there yet."""
    free: int = 0
    content: str | None = None
    """Why it cannot be used, the end of a sentence."""
    blocked: Obstacle | None = None


async def _state_file(path: Path | None, report: Report, places: Places) -> None:
    if path is None:
        how = places.set("state_file", "/var/lib/forewarn/state.json", "to keep them over restarts, name a file")
        report.off(STATE, "not kept: counts of crashes and refusals begin anew at each start of Forewarn", how)
        return
    with report.trying(STATE):
        try:
            seen = await in_time(lambda: _look(path), STATE_DEADLINE)
        except FileNotFoundError:
            line = f"install -d -m 0750 -o {os.geteuid()} {shlex.quote(str(path.parent))}"
            report.failed(STATE, f"there is no folder {path.parent}", remedy("make it, for Forewarn's user:", line))
            return
        except (OSError, TimeoutError) as error:
            told = getattr(error, "strerror", None) or f"no answer within {STATE_DEADLINE:g} s"
            how = places.set("state_file", "/var/lib/forewarn/state.json", "name a file that may be written")
            report.failed(STATE, f"{path} cannot be used ({told})", how)
            return
    if seen.blocked is not None:
        line = f"chown {os.geteuid()} {shlex.quote(str(seen.blocked.path))}"
        what = f"{path} cannot be written: {seen.blocked.told}"
        report.failed(STATE, what, remedy("let Forewarn's user write there:", line))
    elif seen.content is not None:
        line = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.broken')}"
        what = f"{path} {seen.content}: counts would begin anew at 0"
        report.warning(STATE, what, remedy("put a good copy there if there is one; Forewarn itself would do:", line))
    elif seen.free < ROOM + 2 * (seen.size or 0):
        told = f"{seen.free / 1024**2:.1f} MiB"
        report.warning(STATE, f"only {told} are free for {path}", remedy("make room on:", f"df -h {path.parent}"))
    else:
        report.ok(STATE, f"{path} {'is not there yet, and can be written' if seen.size is None else 'can be used'}")


def _look(path: Path) -> _StateFile:
    """Look at the state file and at its folder, and change nothing. Raises ``OSError``."""
    folder = path.parent
    blocked = obstacle(folder, os.W_OK | os.X_OK | os.R_OK)
    if blocked is not None:
        return _StateFile(blocked=blocked)
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    try:
        if path.is_dir():
            return _StateFile(0, free, "is a folder")
        blocked = obstacle(path, os.R_OK)
        if blocked is not None:
            return _StateFile(blocked=blocked)
        content = state.read(path)
    except FileNotFoundError:
        return _StateFile(None, free)
    return _StateFile(len(content), free, _wrong(content))


def _wrong(content: bytes) -> str | None:
    """Return why the content of a state file cannot be used; ``None`` where it can."""
    try:
        for raw in state.decode(content).values():
            msgspec.json.decode(raw, type=Memory)
    except state.UnusableStateError as error:
        return str(error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "is broken"
    return None


# --- web ------------------------------------------------------------------------------------------------------------


async def _web_address(address: Address, report: Report, places: Places) -> None:
    with report.trying(WEB):
        try:
            why = await in_time(lambda: taken(address, socket.SOCK_STREAM), DEADLINE)
        except TimeoutError:
            why = Taken(f"its name was not resolved within {DEADLINE:g} s")
        if why is not None and why.in_use and (why.by_forewarn or await _is_forewarn(address)):
            how = "nothing to mend where that is the Forewarn that runs now; a second one needs another address"
            how = places.set("web.listen_address", f"{address.host or ''}:PORT", how)
            report.warning(WEB, f"a Forewarn serves {address} already", how)
            return
    if why is None:
        report.ok(WEB, f"{address} is free to listen on")
        return
    prose = "stop what listens there, or choose another address" if why.in_use else "choose another address"
    how = places.set("web.listen_address", f"{address.host or '127.0.0.1'}:PORT", prose)
    report.failed(WEB, f"{address} cannot be listened on: {why.why}", why.how or how)


async def _is_forewarn(address: Address) -> bool:
    """Ask whoever listens there, by the one page that needs nothing, whether it is a Forewarn."""
    host = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    where = f"[{host}]:{address.port}" if ":" in str(host) else f"{host}:{address.port}"
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE  # nothing secret is sent, and nothing that comes is believed but a name
    timeout = aiohttp.ClientTimeout(total=ASK_DEADLINE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for scheme in ("http", "https"):
            try:
                async with session.get(f"{scheme}://{where}/-/healthy", ssl=trusting, allow_redirects=False) as answer:
                    names = (answer.headers.get("Server", ""), answer.headers.get("WWW-Authenticate", ""))
                    said = await answer.content.read(len(_HEALTHY))
                    if said == _HEALTHY or any("forewarn" in it.lower() for it in names):
                        return True
            except (aiohttp.ClientError, OSError, ValueError):  # a TimeoutError is an OSError
                continue
    return False


async def _web_config(path: Path | None, report: Report, places: Places, wall: Callable[[], float]) -> None:
    if path is None:
        how = places.set("web.config_file", "/etc/forewarn/web.yml", "for TLS and passwords, name a file")
        report.off(WEB_CONFIG, "not set: the pages are served in plain text to everybody who can reach them", how)
        return
    from exporter.check.web_config import look  # noqa: PLC0415 - reads YAML, which others need not

    with report.trying(WEB_CONFIG):
        try:
            seen = await in_time(lambda: look(path, wall()), STATE_DEADLINE)
        except TimeoutError:
            how = remedy("see whether the disk that it is on answers:", f"ls -l {shlex.quote(str(path))}")
            report.failed(WEB_CONFIG, f"{path} was not read within {STATE_DEADLINE:g} s", how)
            return
    for problem in seen.problems:
        line = _LINE.search(problem)
        at = f"+{line[1]} " if line else ""
        edit = f"${{EDITOR:-vi}} {at}{shlex.quote(str(path))}"
        report.failed(WEB_CONFIG, problem, remedy("mend that place:", edit))
    if seen.expiring is not None:
        how = remedy(
            "renew it; Forewarn reads it again by itself:", f"openssl x509 -noout -enddate -in {seen.expiring}"
        )
        report.warning(WEB_CONFIG, f"{path} can be used, but {seen.told}", how)
    elif not seen.problems:
        report.ok(WEB_CONFIG, f"{path} can be used: {seen.told}")


# --- what is sent ---------------------------------------------------------------------------------------------------


async def _statsd_push(settings: Settings, report: Report, places: Places) -> None:
    target = settings.statsd_push
    if target is None:
        report.off(PUSH, "not set: nothing is sent by StatsD")
        return
    with report.trying(PUSH):
        problem = await send_problem(target.address)
    if problem is None:
        sure = "" if isinstance(target.address, Path) else " (by UDP nobody can tell whether it listens)"
        report.ok(PUSH, f"{target.address} can be sent to{sure}")
        return
    what, how = problem
    scheme = "dogstatsd" if target.tags else "statsd"
    if isinstance(target.address, Path):
        url = "dogstatsd+unix:///path/to/its.sock"
    else:
        url = f"{scheme}://HOST:{target.address.port}"
    report.failed(PUSH, what, how or places.set("statsd.push", url, "start what listens there, or correct it"))


async def _otlp(kind: str, target: OtlpTarget, report: Report, places: Places) -> None:
    from exporter.outputs.otlp import OtlpSender  # noqa: PLC0415 - OpenTelemetry takes half a second to import
    from exporter.outputs.otlp_delivery import Fate  # noqa: PLC0415

    part = f"otlp {kind}"
    with report.trying(part):
        sender = OtlpSender(target)
        try:
            delivery = await sender.post(b"")  # an export request of nothing
        finally:
            await sender.close()
    failure = delivery.failure
    if failure is None or delivery.fate is Fate.SENT:
        report.ok(part, f"{target.url} takes what it is sent")
        return
    what, _, hint = failure.message.rpartition(": ")
    report.failed(part, what or failure.message, _mend_otlp(failure, hint, target, places))


def _mend_otlp(failure: Failure, hint: str, target: OtlpTarget, places: Places) -> str:
    base = target.url.rpartition("/v1/")[0] or target.url
    if failure.reason is Reason.AUTH:
        prose = "write the right header into a file that only Forewarn can read, such as authorization: Bearer TOKEN"
        return places.set("otlp.headers_file", "/path/to/otlp-headers", f"{prose}, and name that")
    if failure.reason is Reason.TLS and "not trusted" in failure.message:
        return places.set("otlp.ca_file", "/path/to/ca.pem", hint)
    if failure.reason is Reason.TLS:
        return places.set("otlp.endpoint", base.replace("https://", "http://", 1), "it is a plain port")
    if "is it https://" in failure.message:
        return places.set("otlp.endpoint", base.replace("http://", "https://", 1), "is that a port for TLS? Then")
    return places.set("otlp.endpoint", "http://HOST:4318", hint or "correct the address")
