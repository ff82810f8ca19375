"""``python -m tests.image_scene PROGRAM ORDER``: Forewarn's container beside a server, with no network but a loopback.

Runs in namespaces of its own, as root. PROGRAM is that of a real Faktory, or empty: then it is the stand-in. ORDER
tells in JSON what to run; what was found goes to standard output as JSON too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.forewarn import Scrape
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, children, wait_until
from tests.test_live_process import DUMP
from tests.wire import Wire

PORT = 9386
FLUSHED = "Flushing dataset"
"""What every version prints where its data are thrown away: only known from its log."""
PATIENCE = 60.0


class Sidecar:
    """The image's own command in its container: nothing is set but its environment, and what is shared."""

    def __init__(self, order: dict[str, Any], server: WatchedServer) -> None:
        self._order = order
        self._mounts = (
            f"{server.storage_dir}:/var/lib/faktory/db:ro",
            f"{server.config_dir}:/etc/faktory:ro",
            f"{server.folder}:/var/log/faktory:ro",
        )
        self._environment = {
            "FAKTORY_URL": server.url,
            "FOREWARN_FAKTORY_WEB_URL": server.web_url,
            "FOREWARN_FAKTORY_REDIS_URL": "unix:///var/lib/faktory/db/redis.sock",
            "FOREWARN_FAKTORY_CONFIG_DIR": "/etc/faktory",
            "FOREWARN_FAKTORY_LOG_FILE": "/var/log/faktory/server.log",
            "FOREWARN_INTERVAL": "1s",
        }
        self.log = server.folder / "forewarn.log"
        self._process: asyncio.subprocess.Process | None = None

    def command(self, *run: str, user: str | None = None) -> list[str]:
        """Return the command line that runs something in the container."""
        return [
            *self._order["buildah"],
            *("run", "--isolation", "chroot"),
            *(() if user is None else ("--user", user)),
            *(part for mount in self._mounts for part in ("--volume", mount)),
            *(part for name, value in self._environment.items() for part in ("--env", f"{name}={value}")),
            *(self._order["container"], "--", *run),
        ]

    def run(self, *run: str, user: str | None = None) -> tuple[int, str]:
        """Run something beside it, and return its exit status and its output."""
        ended = subprocess.run(self.command(*run, user=user), capture_output=True, text=True, timeout=PATIENCE)
        return ended.returncode, ended.stdout + ended.stderr

    async def start(self) -> None:
        """Start what the image starts by itself."""
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(*self._order["command"]), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def pid(self) -> int:
        """The process id of Forewarn itself, behind buildah's."""
        assert self._process is not None
        pid = self._process.pid
        while below := children(pid):
            pid = below[0]
        return pid

    async def page(self, path: str) -> tuple[int, str]:
        """Return status and text of a page."""
        timeout = aiohttp.ClientTimeout(total=10)
        with suppress(aiohttp.ClientError, OSError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://127.0.0.1:{PORT}{path}") as answer,
            ):
                return answer.status, await answer.text()
        return 0, ""

    async def metrics(self) -> Scrape:
        """Return what it tells now."""
        return Scrape((await self.page("/metrics"))[1], "text/plain")

    async def stop(self) -> int:
        """Ask it to end, by the image's own signal; return the exit status."""
        assert self._process is not None
        os.kill(self.pid(), self._order["signal"])
        return await asyncio.wait_for(self._process.wait(), PATIENCE)


async def play(server: WatchedServer, order: dict[str, Any]) -> dict[str, Any]:
    """Let the server die of a crash while a job is busy, and return what was found meanwhile."""
    (server.config_dir / "conf.d" / "throttles.toml").write_text("[throttles.mail]\nconcurrency = 3\ntimeout = 60\n")
    await start(server, order)
    sidecar = Sidecar(order, server)
    sidecar.run("true")  # makes what is mounted on
    seal(Path(order["root"]))
    found: dict[str, Any] = {"before": sidecar.run(*order["healthcheck"])}
    async with await Wire.connect(server.url, "worker") as worker:
        await worker.push(queue="mail", jobtype="Send", args=[])
        assert await worker.fetch("mail")
        await sidecar.start()
        try:

            async def ready() -> bool:
                assert sidecar.runs, "the container has ended"
                return (await sidecar.page("/-/ready"))[0] == 200

            await wait_until(ready, PATIENCE, every=0.1, what="the container is ready")
            found |= await look(sidecar, server, order)
            found["crashes"] = await crash(sidecar, server, order)
            found["status"] = await sidecar.stop()
            found["state"] = sidecar.run("ls", "/var/lib/forewarn")
        except BaseException as error:
            error.add_note(sidecar.log.read_text(errors="replace")[-4000:])
            raise
    return found


async def start(server: WatchedServer, order: dict[str, Any]) -> None:
    """Start the server as if it ran as the image's user, as both do in one pod: the socket is its owner's alone."""
    await server.start()
    server.folder.chmod(0o755)
    os.chown(server.storage_dir / "redis.sock", order["uid"], order["uid"])


async def crash(sidecar: Sidecar, server: WatchedServer, order: dict[str, Any]) -> dict[str, float]:
    """Let the server crash as a program in Go does, start it again, and return what was told of it."""
    if not server.real:
        with server.log_file.open("a") as log:
            log.write(DUMP)
    os.kill(server.pid, signal.SIGABRT if server.real else signal.SIGKILL)
    await wait_until(lambda: not server.running, PATIENCE, what="the server dies")
    await server.kill()
    await start(server, order)
    counted: dict[str, float] = {}

    async def told() -> bool:
        samples = (await sidecar.metrics()).matching("faktory_process_crashes_total")
        counted.update({labels["class"]: value for labels, value in samples if value})
        return bool(counted)

    await wait_until(told, PATIENCE, every=0.2, what="the crash is told")
    return counted


async def look(sidecar: Sidecar, server: WatchedServer, order: dict[str, Any]) -> dict[str, Any]:
    """Return what the container is, and what it knows through each thing that it shares with the server."""

    async def read() -> bool:
        # Again each time: what stood there before Forewarn's first look is history, of which it tells nothing.
        with server.log_file.open("a") as log:
            log.write(f"W 2026-11-22T00:00:00.000Z {FLUSHED}\n")
        return ((await sidecar.metrics()).value("faktory_log_events_total", event="flushed") or 0) > 0

    await wait_until(read, PATIENCE, every=0.5, what="the server's log is read")
    metrics = await sidecar.metrics()
    process = Path("/proc", str(sidecar.pid()))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    _, imports = sidecar.run("python", "-v", "-c", "import exporter.sidecar")
    return {
        "command line": (process / "cmdline").read_bytes().decode().split("\0")[:-1],
        "uids": sorted(set(status["Uid"].split())),
        "capabilities": status["CapEff"].strip(),
        "root": next(
            line.split()[3] for line in (process / "mounts").read_text().splitlines() if line.split()[1] == "/"
        ),
        "written as root": sidecar.run("touch", "/usr/x", user="0"),
        "written": sidecar.run("touch", "/opt/forewarn/x"),
        "compiled anew": re.findall(r"code object from '(\S+\.py)'", imports),
        "interfaces": interfaces(),
        "healthy": sidecar.run(*order["healthcheck"]),
        "up": metrics.value("faktory_up"),
        "busy": metrics.value("faktory_busy_jobs", queue="mail"),
        "limit": metrics.value("faktory_throttle_limit", queue="mail", scope="cluster"),
        "sockets": metrics.value("faktory_sockets", state="established"),
        "peers": metrics.total("faktory_peer_connections"),
    }


def interfaces() -> list[str]:
    """Return the names of the network interfaces that there are."""
    return [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]


def seal(root: Path) -> None:
    """Make the root of a container read-only for everyone, but for /run, where buildah makes a file of its own."""
    for command in (
        ("mount", "--bind", str(root), str(root)),
        ("mount", "-o", "remount,bind,ro", str(root)),
        ("mount", "-t", "tmpfs", "none", str(root / "run")),
    ):
        subprocess.run(command, check=True)


async def main(program: str, order: dict[str, Any]) -> None:
    """Play it, and tell what was found."""
    server = RealFaktory(program) if program else StandInFaktory()
    try:
        found = await play(server, order)
    finally:
        await server.remove()
    print(json.dumps(found))


if __name__ == "__main__":
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
