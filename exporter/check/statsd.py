"""Whether the address for a server's StatsD can be listened on, and where it is relayed to can be reached."""

from __future__ import annotations

import os
import shlex
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from exporter.check.access import obstacle, run_as_owner
from exporter.check.finding import Report, remedy
from exporter.check.places import ServerPlaces
from exporter.check.ports import Taken, taken, unix_taken
from exporter.settings import StatsdListen
from exporter.statsd.address import StatsdAddress
from exporter.threads import in_time, unresolved

PART: Final = "statsd"
RELAY: Final = "statsd relay"

DEADLINE: Final = 5.0
"""Seconds for all that is looked at of one address."""


async def check_statsd(listen: StatsdListen | None, report: Report, places: ServerPlaces) -> None:
    """Tell whether each address is free. It is taken for a moment, and nothing is received there."""
    if listen is None:
        report.off(PART, "not listened for: only Faktory Enterprise sends it")
        return
    with report.trying(PART):
        if listen.address is not None:
            address = listen.address
            why = await _look(lambda: taken(address, socket.SOCK_DGRAM) or taken(address, socket.SOCK_STREAM))
            other = "127.0.0.1:PORT" if address.host is None else f"{address.host}:PORT"
            _tell(str(address), why, places.set("statsd_listen", other, "stop it, or choose another port"), report)
        if listen.unix is not None:
            path = listen.unix
            why = await _look(lambda: unix_taken(path))
            how = places.set("statsd_listen_unix", "/run/forewarn/statsd.sock", "stop it, or choose another path")
            _tell(str(path), why, how, report)
        if listen.relay is not None:
            problem = await send_problem(listen.relay)
            if problem is None:
                report.ok(RELAY, f"{listen.relay} can be sent to")
            else:
                what, known = problem
                url = f"unix://{listen.relay}" if isinstance(listen.relay, Path) else f"udp://HOST:{listen.relay.port}"
                report.failed(
                    RELAY, what, known or places.set("statsd_relay", url, "start what listens, or correct it")
                )


async def _look(ask: Callable[[], Taken | None]) -> Taken | None:
    try:
        return await in_time(ask, DEADLINE)
    except TimeoutError:
        return Taken(f"it was not looked at within {DEADLINE:g} s")


def _tell(where: str, why: Taken | None, how: str, report: Report) -> None:
    if why is None:
        report.ok(PART, f"{where} is free to listen on")
    elif why.by_forewarn:
        how = how.partition("\n")[2]
        prose = "nothing to mend where that is the Forewarn that runs now; a second one needs another address:"
        report.warning(PART, f"{where}: {why.why}, a Forewarn", f"{prose}\n{how}")
    else:
        report.failed(PART, f"{where} cannot be listened on: {why.why}", why.how or how)


async def send_problem(address: StatsdAddress) -> tuple[str, str | None] | None:
    """Return why packets cannot be sent to an address, and how to mend that where it is known. Sends nothing."""
    if not isinstance(address, Path):
        why = await unresolved(address.host)
        return None if why is None else (f"{address}: its name {why}", None)
    path = address
    try:
        return await in_time(lambda: _unix_problem(path), DEADLINE)
    except TimeoutError:
        how = remedy("see whether its disk answers:", f"ls -l {shlex.quote(str(path))}")
        return f"{path} was not looked at within {DEADLINE:g} s", how


def _unix_problem(path: Path) -> tuple[str, str | None] | None:
    try:
        found = obstacle(path, os.W_OK)
        if found is not None:
            return f"{path} may not be sent to: {found.told}", run_as_owner(found, "It is another user's socket.")
        if not stat.S_ISSOCK(path.stat().st_mode):
            return f"{path} is no socket", None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            probe.connect(str(path))
    except FileNotFoundError:
        return f"there is no socket {path}", None
    except ConnectionRefusedError:
        return f"nothing listens at {path} any more", None
    except OSError as error:
        return f"{path} cannot be sent to ({error.strerror or error})", None
    return None
