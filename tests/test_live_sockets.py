"""Who holds a server's connections, told by the kernel: also while the server stands still, and while it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from exporter.demo.standin.server import raise_descriptor_limit
from exporter.model import SocketFacts
from exporter.process.proc import ServerProcess
from exporter.process.sockets import PortPeers
from tests.forewarn import Forewarn
from tests.live_scenarios import standing_still
from tests.servers import StandInFaktory, WatchedServer, running, wait_until

DEADLINE = 30.0
AT_ONCE = 50

CLIENTS = {"127.0.0.2": 150, "127.0.0.3": 100, "127.0.0.4": 50}


class Clients:
    """Connections of producers, from addresses of choice."""

    def __init__(self, server: WatchedServer) -> None:
        raise_descriptor_limit()
        self._server = server
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self, address: str, number: int, *, served: bool = True) -> list[bytes]:
        """Open so many more. Return what each was answered; nothing where it is not ``served``."""
        answers: list[bytes] = []
        for start in range(0, number, AT_ONCE):
            count = min(AT_ONCE, number - start)
            answers += await asyncio.gather(*(self._one(address, served=served) for _ in range(count)))
        return answers

    async def _one(self, address: str, *, served: bool) -> bytes:
        parts = urlsplit(self._server.url)
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(address, 0))
            self._open.append(writer)
            if not served:
                return b""
            await reader.readline()
            writer.write(
                b"HELLO " + json.dumps({"hostname": "test", "pid": 1, "labels": [], "v": 2}).encode() + b"\r\n"
            )
            return await reader.readline()

    async def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0)
        self._open = []


@asynccontextmanager
async def clients_of(server: WatchedServer) -> AsyncIterator[Clients]:
    clients = Clients(server)
    try:
        yield clients
    finally:
        await clients.close()


async def seen(port_peers: PortPeers) -> SocketFacts:
    facts, failure = await port_peers.read()
    assert failure is None
    assert facts is not None
    return facts


async def wait_for_peers(port_peers: PortPeers, expected: Mapping[str, int]) -> SocketFacts:
    async def there() -> bool:
        return (await seen(port_peers)).peers == expected

    await wait_until(there, DEADLINE, what=f"these peers and no others: {expected}")
    return await seen(port_peers)


async def test_three_hundred_connections_are_counted_by_where_they_come_from(server: WatchedServer) -> None:
    port_peers = PortPeers("127.0.0.1", server.port)
    async with clients_of(server) as clients:
        for address, number in CLIENTS.items():
            await clients.connect(address, number)
        facts = await wait_for_peers(port_peers, CLIENTS)
        assert facts.states["established"] == 300
        assert facts.waiting == 0
        assert facts.backlog is not None
        assert facts.backlog >= 64
    await wait_for_peers(port_peers, {})


async def test_a_server_that_stands_still_is_told_with_all_that_are_and_want_to_be_connected(
    server: WatchedServer,
) -> None:
    port_peers = PortPeers("127.0.0.1", server.port)
    async with clients_of(server) as clients:
        for address, number in CLIENTS.items():
            await clients.connect(address, number)
        await wait_for_peers(port_peers, CLIENTS)
        async with standing_still(server):
            await clients.connect("127.0.0.9", 40, served=False)
            facts = await wait_for_peers(port_peers, CLIENTS | {"127.0.0.9": 40})
            assert (facts.waiting, facts.states["established"]) == (40, 340)

        async def accepted() -> bool:
            return (await seen(port_peers)).waiting == 0

        await wait_until(accepted, DEADLINE, what="it accepts again")


async def test_the_process_of_a_server_that_stands_still_is_told(server: WatchedServer) -> None:
    port_peers, process = PortPeers("127.0.0.1", server.port), ServerProcess("faktory")
    await seen(port_peers)
    before, _ = await process.read(port_peers.inode, None)
    async with standing_still(server):
        after, failure = await process.read(port_peers.inode, None)
    assert failure is None
    assert before is not None
    assert after is not None
    assert (after.pid, after.started_at) == (server.pid, before.started_at)
    assert after.open_fds is not None
    assert after.max_fds is not None
    assert 3 < after.open_fds < after.max_fds
    assert after.resident_bytes is not None
    assert after.resident_bytes > 2**22


async def test_a_server_that_refuses_is_told_with_those_who_hold_its_connections(unstarted: WatchedServer) -> None:
    server, limit = unstarted, 2000
    if isinstance(server, StandInFaktory):
        server, limit = StandInFaktory(connections_limit=310), 310
    port_peers = PortPeers("127.0.0.1", server.port)
    holders = CLIENTS | {"127.0.0.5": limit - 300}
    async with running(server), clients_of(server) as clients:
        for address, number in holders.items():
            await clients.connect(address, number)
        await wait_for_peers(port_peers, holders)
        late = await clients.connect("127.0.0.6", 5)
        assert late == [b"+OK\r\n"] * 5
        if server.version < (1, 9):  # it lets them in
            await wait_for_peers(port_peers, holders | {"127.0.0.6": 5})
            return
        await wait_for_peers(port_peers, holders)

        async def refused() -> bool:
            return (await seen(port_peers)).states["fin_wait2"] == 5

        # Their own ends are still open: the server's wait for that, and hold no connection.
        await wait_until(refused, DEADLINE, what="the server has closed its ends of those that it refused")


async def test_forewarn_tells_who_is_connected_while_the_server_stands_still(server: WatchedServer) -> None:
    async with Forewarn(server) as forewarn, clients_of(server) as clients:
        for address, number in CLIENTS.items():
            await clients.connect(address, number)
        async with standing_still(server):
            await forewarn.wait_for("faktory_up", 0, DEADLINE)
            await clients.connect("127.0.0.2", 7, served=False)
            await forewarn.wait_for("faktory_peer_connections", 157, DEADLINE, peer="127.0.0.2")
            scrape = await forewarn.scrape()
            assert scrape.value("faktory_peer_connections", peer="127.0.0.3") == 100
            assert scrape.value("faktory_peer_connections", peer="127.0.0.4") == 50
            assert scrape.value("forewarn_collector_up", collector="sockets") == 1
            assert scrape.value("faktory_connections") is None
