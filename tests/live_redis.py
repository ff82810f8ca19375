"""A server's own Redis as a witness: what it was asked by whom, and what took it long.

Clients on its unix socket all look alike. So Redis is given a TCP port beside it, which Forewarn alone is told: what
came from there is Forewarn's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tests.programs import need
from tests.servers import WatchedServer, free_port

_MONITORED = re.compile(rb'\+[\d.]+ \[\d+ (\S+)\] "([^"]*)"(?: (.*))?')


class Asked(msgspec.Struct, frozen=True):
    """One command that Redis was sent."""

    client: str
    command: str
    arguments: tuple[str, ...] = ()
    """As far as no quote or blank stands in them."""

    @property
    def by_tcp(self) -> bool:
        """Whether it came by TCP: from Forewarn."""
        return not self.client.startswith("unix:")


async def open_tcp_port(server: WatchedServer) -> int:
    """Let the server's Redis listen on a port of 127.0.0.1 too, and return it."""
    need("redis-server", "redis-server")
    port = free_port()
    await server.redis().config_set("bind", "127.0.0.1")
    await server.redis().config_set("port", port)
    return port


@asynccontextmanager
async def monitored(server: WatchedServer) -> AsyncIterator[list[Asked]]:
    """Yield every command that the server's Redis is sent, by anyone, as they come."""
    seen: list[Asked] = []
    reader, writer = await asyncio.open_unix_connection(str(server.storage_dir / "redis.sock"), limit=1 << 24)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"

    async def note() -> None:
        while line := await reader.readline():
            match = _MONITORED.match(line)
            assert match, line[:200]
            arguments = (match[3] or b"").decode("utf-8", "replace").replace('"', "").split()
            seen.append(Asked(match[1].decode(), match[2].decode().upper(), tuple(arguments)))

    noting = asyncio.create_task(note())
    try:
        yield seen
        assert not noting.done(), "Redis ended the monitoring"
    finally:
        noting.cancel()
        await asyncio.gather(noting, return_exceptions=True)
        writer.transport.abort()
