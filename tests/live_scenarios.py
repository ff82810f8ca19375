"""What live tests share: several servers of one kind at once, and quick scrapes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.forewarn import Forewarn
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, wait_until
from tests.wire import Wire

Scenario = Callable[[WatchedServer], Awaitable[None]]
"""One story with a server of its own, which is handed in unstarted."""

BEAT_EVERY = 15.0

STOPPED = 15.0
"""Seconds within which all threads of a process stand still."""


def another(server: WatchedServer) -> WatchedServer:
    """Return an unstarted server of the same kind."""
    if isinstance(server, RealFaktory):
        return RealFaktory(server.binary)
    assert isinstance(server, StandInFaktory)
    return StandInFaktory(**server.options)


async def all_of(kind: WatchedServer, scenarios: Sequence[Scenario]) -> None:
    """Run ``scenarios`` side by side, each with its own server of this kind; tell every one that failed."""

    async def run(scenario: Scenario) -> None:
        server = another(kind)
        try:
            await scenario(server)
        except Exception as error:
            error.add_note(f"in {getattr(scenario, '__name__', scenario)} on {server.name}:\n{server.log(10)}")
            raise
        finally:
            await server.remove()

    results = await asyncio.gather(*(run(scenario) for scenario in scenarios), return_exceptions=True)
    failures = [result for result in results if isinstance(result, Exception)]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(scenarios)} scenarios failed on {kind.name}", failures)


@asynccontextmanager
async def standing_still(server: WatchedServer) -> AsyncIterator[None]:
    """Stop a server as SIGSTOP does, all of its threads, and let it go on in the end."""

    def stopped() -> bool:
        threads = Path(f"/proc/{server.pid}/task").glob("*/stat")
        return all(it.read_text().rpartition(")")[2].split()[0] == "T" for it in threads)

    server.process.send_signal(signal.SIGSTOP)
    try:
        await wait_until(stopped, STOPPED, what="none of its threads runs any more")
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def worker(server: WatchedServer, wid: str) -> AsyncIterator[Wire]:
    """A worker that is registered and shows at every heartbeat that it lives; it crashes at the end of the block."""
    wire = await Wire.connect(server.url, wid)
    heart = await Wire.connect(server.url)

    async def beat() -> None:
        while True:
            await heart.beat(wid)
            await asyncio.sleep(BEAT_EVERY)

    beating = asyncio.create_task(beat())
    try:
        yield wire
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await heart.abort()
        await wire.abort()


class QuickScrapes:
    """Scrapes all the time while a test does its worst, and judges how long that took."""

    def __init__(self, forewarn: Forewarn, every: float = 0.1) -> None:
        self.seconds: list[float] = []
        self._forewarn = forewarn
        self._every = every

    @asynccontextmanager
    async def throughout(self) -> AsyncIterator[None]:
        """Scrape during the block. AssertionError for a scrape that fails or waits for a server."""
        task = asyncio.create_task(self._scrape_for_ever())
        try:
            yield
            await wait_until(lambda: task.done() or len(self.seconds) >= 10, what="ten scrapes have ended")
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended
        ordered = sorted(self.seconds)
        # One that waited for a server would take as long as its deadlines, 2 s and more; a busy machine delays a few.
        assert ordered[len(ordered) // 2] < 0.25, f"half of the scrapes took longer than 0.25 s: {ordered}"
        assert ordered[len(ordered) * 9 // 10] < 1.0, f"one scrape in ten took longer than 1 s: {ordered[-20:]}"

    async def _scrape_for_ever(self) -> None:
        while True:
            started = time.monotonic()
            status, _, text = await self._forewarn.get("/metrics")
            self.seconds.append(time.monotonic() - started)
            assert status == 200
            assert "faktory_up{" in text
            await asyncio.sleep(self._every)
