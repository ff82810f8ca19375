"""``python -m exporter.demo.standin``: runs the stand-in until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from exporter.demo.standin.ledger import Ledger
from exporter.demo.standin.log import say
from exporter.demo.standin.options import Options
from exporter.demo.standin.server import StandIn
from exporter.demo.standin.store import StoreError, open_store


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def _version(text: str) -> tuple[int, int, int]:
    major, minor, patch = text.split(".")
    return int(major), int(minor), int(patch)


def _period(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise ValueError
    return seconds


def _throttles(config_dir: Path) -> dict[str, int]:
    files = sorted((config_dir / "conf.d").glob("*.toml"))
    tables = [tomllib.loads(file.read_text()).get("throttles", {}) for file in files]
    return {queue: said["concurrency"] for table in tables for queue, said in table.items() if "concurrency" in said}


def read_options(argv: Sequence[str], password: str) -> Options:
    """Read the command line; ends the process with a usage text where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter.demo.standin",
        description="A stand-in for Faktory: its protocol, pages and Redis keys, for demos and tests. "
        "Keeps its data in a redis-server of its own. The password is read from FAKTORY_PASSWORD. "
        "All times are in seconds; their defaults are the real server's.",
    )
    add = parser.add_argument
    add(
        "--bind",
        type=_address,
        default="127.0.0.1:7419",
        metavar="HOST:PORT",
        help="where workers connect (%(default)s)",
    )
    add("--web-bind", type=_address, default="127.0.0.1:7420", metavar="HOST:PORT", help="web pages (%(default)s)")
    add("--storage-dir", type=Path, required=True, metavar="DIR", help="for redis.sock and the data; made if missing")
    add(
        "--config-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="where conf.d/*.toml are",
    )
    add("--ledger", type=Path, metavar="FILE", help="append every command and page to FILE as JSON lines")
    add(
        "--claim-version",
        type=_version,
        default="1.10.0",
        metavar="X.Y.Z",
        help="behave as this version (%(default)s)",
    )
    add("--connections-limit", type=int, metavar="N", help="2000; 1000 and not enforced before 1.9")
    add(
        "--heartbeat-expiry",
        type=_period,
        default=60.0,
        metavar="S",
        help="a worker without BEAT is hung (%(default)s)",
    )
    add("--heartbeat-reap-every", type=_period, default=15.0, metavar="S", help="how often hung ones go (%(default)s)")
    add("--reservation-min", type=_period, default=60.0, metavar="S", help="shortest reservation (%(default)s)")
    add(
        "--reservation-reap-every",
        type=_period,
        default=15.0,
        metavar="S",
        help="how often expired ones go (%(default)s)",
    )
    add("--scan-every", type=_period, default=5.0, metavar="S", help="how often due jobs are moved (%(default)s)")
    add(
        "--enforce-throttles",
        action="store_true",
        help="as Faktory Enterprise does: those of conf.d/*.toml at the start",
    )
    add("--remove-data", action="store_true", help="remove the storage directory at the end")
    told = vars(parser.parse_args(argv))
    version = told.pop("claim_version")
    limit = told.pop("connections_limit")
    throttles = _throttles(told["config_dir"]) if told.pop("enforce_throttles") else {}
    if limit is None:
        limit = 2000 if version >= (1, 9) else 1000
    return Options(version=version, connections_limit=limit, password=password, throttles=throttles, **told)


async def run(options: Options) -> None:
    """Serve until a signal asks for the end."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    with Ledger(options.ledger) as ledger:
        async with (
            open_store(options.storage_dir, max(options.connections_limit, 10)) as store,
            StandIn(options, store, ledger).serving(),
        ):
            host, port = options.bind
            say("I", f"PID {os.getpid()} listening at {host}:{port}, press Ctrl-C to stop")
            await ended.wait()
            say("I", "Faktory shutting down")


def main() -> None:
    """Run from the command line."""
    options = read_options(sys.argv[1:], os.environ.get("FAKTORY_PASSWORD", ""))
    with contextlib.suppress(OSError):  # by this name it is found among the processes, as the real one is
        Path("/proc/self/comm").write_text("faktory")
    try:
        asyncio.run(run(options))
    except (StoreError, OSError) as error:
        sys.exit(f"error: {error}")
    finally:
        if options.remove_data:
            shutil.rmtree(options.storage_dir, ignore_errors=True)


if __name__ == "__main__":
    main()
