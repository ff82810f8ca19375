"""At the connection limit: Forewarn tells it from the inside, tells it when it is shut out itself, and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from exporter.demo.standin.server import raise_descriptor_limit
from tests.forewarn import Forewarn
from tests.servers import StandInFaktory, WatchedServer, running, wait_until
from tests.wire import Wire, WireError

AT_ONCE = 50
SLACK = 10.0

LONGEST_STEP = 36.0
"""Seconds: 30, and the fifth more that chance may add."""


def least_wait(refusals: int) -> float:
    """Return the least seconds that so many refusals take: half a second, doubled, less the fifth of chance."""
    return 0.8 * sum(min(30.0, 0.5 * 2.0**step) for step in range(refusals - 1))


class Crowd:
    """Open connections of producers."""

    def __init__(self, server: WatchedServer) -> None:
        raise_descriptor_limit()
        self._server = server
        self._open: list[Wire] = []

    async def grow(self, number: int) -> None:
        """Open so many more."""
        for start in range(0, number, AT_ONCE):
            count = min(AT_ONCE, number - start)
            self._open += await asyncio.gather(*(Wire.connect(self._server.url) for _ in range(count)))

    async def shrink(self, number: int) -> None:
        """Close so many."""
        leaving, self._open = self._open[-number:], self._open[:-number]
        await asyncio.gather(*(wire.abort() for wire in leaving))

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shrink(len(self._open))


@asynccontextmanager
async def crowd_of(server: WatchedServer, connections: int) -> AsyncIterator[Crowd]:
    """Open connections until the server has so many, whoever's they are."""
    async with Crowd(server) as crowd:
        await crowd.grow(connections - (await server.health())["server"]["connections"])
        yield crowd


async def connections(server: WatchedServer) -> int:
    told: int = (await server.health())["server"]["connections"]
    return told


@pytest.mark.slow
async def test_a_full_server_is_told_from_within_and_from_without(server: WatchedServer) -> None:
    if server.version < (1, 9):
        pytest.skip("Faktory enforces its limit since 1.9.0")
    async with Forewarn(server) as forewarn, crowd_of(server, 2000) as crowd:
        await _told_from_within(server, forewarn)
        await forewarn.stop()
        await _take_its_place(server, crowd)
        before = time.monotonic()
        async with Forewarn(server) as restarted:
            await _told_from_without(restarted, before)
            await crowd.shrink(10)
            took = await restarted.wait_for("forewarn_collector_up", 1, LONGEST_STEP + SLACK, collector="connection")
            print(f"{server.name}: back {took:.1f} s after ten connections closed")
            await restarted.wait_for("faktory_connections", 1991, SLACK)
            assert len(restarted.log("collector recovered")) == 1


async def _told_from_within(server: WatchedServer, forewarn: Forewarn) -> None:
    await forewarn.wait_for("faktory_connections", 2000, SLACK)
    scrape = await forewarn.scrape()
    assert scrape.value("faktory_connections_limit") == 2000
    assert scrape.value("faktory_connections_refused_total") == 0
    assert scrape.value("forewarn_collector_up", collector="connection") == 1
    assert scrape.value("forewarn_collector_up", collector="sockets") == 1
    await forewarn.wait_for("faktory_peer_connections", 2000, SLACK, peer="127.0.0.1")
    # The control: there is really no place left.
    with pytest.raises((WireError, EOFError, ConnectionError)):
        await _used(await Wire.connect(server.url))


async def _used(wire: Wire) -> None:
    """Ask anything: a refusal comes right behind the handshake, or in place of the answer."""
    try:
        await wire.push(queue="waiting")
    finally:
        await wire.abort()


async def _take_its_place(server: WatchedServer, crowd: Crowd) -> None:
    async def left() -> bool:
        return await connections(server) == 1999

    await wait_until(left, SLACK, what="Forewarn has left")
    await crowd.grow(1)
    assert await connections(server) == 2000


async def _told_from_without(forewarn: Forewarn, before: float) -> None:
    """``before``: an instant of the monotonic clock before its first try."""

    async def refused_five_times() -> bool:
        refusals = await forewarn.metric("faktory_connections_refused_total")
        assert refusals is not None
        assert time.monotonic() - before >= least_wait(int(refusals)), f"refused {refusals:g} times: too often"
        return refusals >= 5

    await wait_until(refused_five_times, 2 * SLACK, every=0.1)
    scrape = await forewarn.scrape()
    assert scrape.value("faktory_up") == 1
    assert scrape.value("faktory_connections") == 2000
    assert scrape.value("faktory_connections_limit") == 2000
    assert scrape.value("forewarn_collector_up", collector="connection") == 0
    assert (scrape.value("forewarn_collector_errors_total", collector="connection", reason="refused") or 0) >= 5
    assert scrape.value("forewarn_collector_up", collector="health") == 1
    assert scrape.value("forewarn_collector_up", collector="redis") == 1
    assert scrape.value("faktory_set_jobs", set="working") == 0
    # Who holds them is known from without too. What is refused is connected for a moment.
    await forewarn.wait_for("faktory_peer_connections", 2000, SLACK, peer="127.0.0.1")
    took = await forewarn.metric("forewarn_collector_duration_seconds", collector="sockets")
    print(f"who holds the connections was told in {took:.4f} s")
    (told,) = forewarn.log("collector failing")
    assert (told["collector"], told["reason"]) == ("connection", "refused")


async def test_a_server_before_1_9_lets_more_connections_in_than_it_should(unstarted: WatchedServer) -> None:
    server = unstarted
    if isinstance(server, StandInFaktory):
        server = StandInFaktory(claim_version="1.8.0")
    elif server.version >= (1, 9):
        pytest.skip("Faktory enforces its limit since 1.9.0")
    async with running(server), Forewarn(server) as forewarn, crowd_of(server, 1010):
        await forewarn.wait_for("faktory_connections", 1010, SLACK)
        scrape = await forewarn.scrape()
        assert scrape.value("faktory_connections_limit") == 1000
        assert scrape.value("faktory_connections_refused_total") == 0
        assert scrape.value("forewarn_collector_up", collector="connection") == 1
