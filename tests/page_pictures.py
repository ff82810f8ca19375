"""Takes the pictures of the status page for the documentation: ``python -m tests.page_pictures [MINUTES]``.

They are of a running Forewarn beside the stand-in. All is well for some minutes, so that the charts have something to
show; then a worker is killed, connections leak, a throttle fills and a queue backs up. Needs pngquant.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from tests.browser import Browser, Scheme, browser
from tests.forewarn import Forewarn
from tests.servers import StandInFaktory, running, wait_until
from tests.wire import Wire, WireError, new_jid

IMAGES = Path(__file__).parent.parent / "docs" / "images"
MOST_BYTES = 150_000
LIMIT = 120
THROTTLES = "[throttles]\npayments = { concurrency = 4, timeout = 60 }\n"
JOBS = (
    ("mailers", "SendDigest", 1.2),
    ("default", "SyncContact", 0.6),
    ("payments", "ChargeCard", 2.0),
    ("reports", "BuildReport", 9.0),
)
"""Queue, type, and about how many seconds each takes."""

SHOTS: tuple[tuple[str, Scheme, int, int], ...] = (
    ("light", "light", 1200, 960),
    ("dark", "dark", 1200, 960),
    ("phone", "light", 390, 844),
)


class Worker:
    """A worker with some threads, until it is told to die."""

    def __init__(self, threads: list[Wire], wid: str) -> None:
        self.wid = wid
        self._threads = threads

    @classmethod
    async def start(cls, url: str, wid: str, queues: list[str], group: asyncio.TaskGroup, *, threads: int = 3) -> Self:
        made = cls([await Wire.connect(url, wid) for _ in range(threads)], wid)
        for wire in made._threads:
            group.create_task(made._work(wire, queues))
        return made

    async def _work(self, wire: Wire, queues: list[str]) -> None:
        with contextlib.suppress(OSError, EOFError, WireError):
            while True:
                await wire.beat()
                job = await wire.fetch(*queues)
                if job is not None:
                    await asyncio.sleep(job["args"][0])
                    await wire.ack(job["jid"])

    async def die(self) -> None:
        for wire in self._threads:
            await wire.abort()


class Stage:
    """The stand-in, its workers and producers, and Forewarn beside it."""

    def __init__(self, group: asyncio.TaskGroup, server: StandInFaktory, producer: Wire) -> None:
        self.group = group
        self.server = server
        self.producer = producer
        self._lock = asyncio.Lock()

    async def push(self, queue: str, jobtype: str, seconds: float, reserve_for: int = 1800) -> None:
        async with self._lock:
            await self.producer.push(
                jid=new_jid(), queue=queue, jobtype=jobtype, args=[seconds], reserve_for=reserve_for
            )

    async def produce(self) -> None:
        """Push jobs as a good day does."""
        for queue, jobtype, seconds in itertools.cycle(JOBS):
            await self.push(queue, jobtype, seconds * random.uniform(0.4, 1.8))
            await asyncio.sleep(random.uniform(0.2, 0.9))

    async def come_and_go(self) -> None:
        """Connect and leave as web servers do."""
        while True:
            wires = [await Wire.connect(self.server.url) for _ in range(random.randrange(2, 14))]
            await asyncio.sleep(random.uniform(8, 25))
            for wire in wires:
                await wire.close()

    async def go_wrong(self, worker: Worker, stack: AsyncExitStack) -> None:
        """Let all four signals leave the calm."""
        await self.push("exports", "ExportLedger", 110, reserve_for=120)
        for _ in range(40):
            await self.push("payments", "ChargeCard", 45)
        for jobtype in ("ImportInvoices", "ImportInvoices", "ImportInvoices"):
            await self.push("imports", jobtype, 900)
        for _ in range(400):
            await self.push("newsletter", "SendIssue", 2)
        for _ in range(30):
            for _ in range(3):
                wire = await Wire.connect(self.server.url)
                stack.push_async_callback(wire.abort)
            await asyncio.sleep(2.2)
        await worker.die()


async def told(forewarn: Forewarn) -> dict[str, Any]:
    servers = json.loads((await forewarn.get("/api/v1/status"))[2])["servers"]
    return dict(servers[0])


def smaller(picture: bytes) -> bytes:
    """Return a picture with 256 colours of its own."""
    return subprocess.run(["pngquant", "--speed=1", "256", "-"], input=picture, capture_output=True, check=True).stdout


async def take(window: Browser, forewarn: Forewarn, name: str) -> None:
    for label, scheme, width, height in SHOTS:
        window.size(width, height)
        window.prefers(scheme)
        await asyncio.to_thread(window.open, forewarn.address + "/")

        async def heard() -> bool:
            return (await asyncio.to_thread(window.text, "#link")).startswith("Live")

        await wait_until(heard, 20.0, every=0.2)
        picture = smaller(await asyncio.to_thread(window.picture, whole=False))
        (IMAGES / f"{name}-{label}.png").write_bytes(picture)
        print(f"{name}-{label}.png: {len(picture)} bytes", flush=True)
        if len(picture) > MOST_BYTES:
            sys.exit(f"{name}-{label}.png has more than {MOST_BYTES} bytes")


async def main(minutes: float) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    server = StandInFaktory(connections_limit=LIMIT, enforce_throttles=True)
    (server.config_dir / "conf.d" / "throttles.toml").write_text(THROTTLES)
    links = ("--web.runbooks-url=https://runbooks.example.com", "--web.dashboards-url=https://grafana.example.com")
    limit = f"--faktory.connections-limit={LIMIT}"
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        await stack.enter_async_context(running(server))
        producer = await Wire.connect(server.url)
        stack.push_async_callback(producer.abort)
        stage = Stage(group, server, producer)
        queues = [queue for queue, _, _ in JOBS]
        for number in range(4):
            await Worker.start(server.url, f"web-{number + 1}", [*queues, "exports"], group)
        doomed = await Worker.start(server.url, "batch-1", ["imports"], group)
        forewarn = await stack.enter_async_context(Forewarn(server, interval="2s", arguments=[limit, *links]))
        going: list[Coroutine[Any, Any, None]] = [stage.produce(), stage.come_and_go()]
        tasks = [group.create_task(each) for each in going]
        await asyncio.sleep(60 * minutes)
        window = stack.enter_context(browser("--disable-lcd-text"))

        async def calm() -> bool:
            return bool((await told(forewarn))["level"] == "calm")

        async def alarm() -> bool:
            server = await told(forewarn)
            levels = [signal["level"] for signal in server["signals"]]
            return sum(each in ("warning", "critical") for each in levels) >= 3 and bool(server["orphans"])

        await wait_until(calm, 120.0, every=1.0)
        await take(window, forewarn, "calm")
        await stage.go_wrong(doomed, stack)
        await wait_until(alarm, 120.0, every=1.0)
        await take(window, forewarn, "alarm")
        for task in tasks:
            task.cancel()
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 8))
