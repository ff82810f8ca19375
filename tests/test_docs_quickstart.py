"""docs/quickstart.md, done as written, leads from nothing to a warning beside a Faktory with TLS and a password."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.conftest import server_kinds
from tests.doc_commands import Sandbox
from tests.prometheus import Prometheus
from tests.servers import RealFaktory, WatchedServer, free_port, wait_until

PAGE = "docs/quickstart.md"
PASSWORD = "correct horse battery staple"
DEADLINE = 120.0
"""Seconds for a scrape and an evaluation, once in 30 s, on a busy machine."""

NATIVE = (1, 9)
"""The first version that speaks TLS itself. Before it, and before the stand-in, stands a proxy."""


class Native(RealFaktory):
    """A real Faktory that speaks TLS: its two ports answer nobody who does not."""

    def __init__(self, binary: str, authority: trustme.CA) -> None:
        super().__init__(binary)
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        (self.config_dir / "public.cert.pem").write_bytes(b"".join(it.bytes() for it in certificate.cert_chain_pems))
        (self.config_dir / "private.key.pem").write_bytes(certificate.private_key_pem.bytes())

    async def _answers(self) -> bool:
        assert self.process.returncode is None, self.log()
        for port in (self.port, self.web_port):
            try:
                _, writer = await asyncio.wait_for(
                    asyncio.open_connection("127.0.0.1", port, ssl=self._context, server_hostname="localhost"), 5
                )
            except (OSError, TimeoutError):
                return False
            writer.transport.abort()
        return True


@asynccontextmanager
async def encrypting(port: int, authority: trustme.CA) -> AsyncIterator[int]:
    """Speak TLS on a port of its own, which is the value, for a server that does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    links: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        for task in (copy(reader, inner_writer), copy(inner_reader, writer)):
            link = asyncio.create_task(task)
            links.add(link)
            link.add_done_callback(links.discard)

    outer = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", outer, ssl=context)
    try:
        yield outer
    finally:
        server.close()
        for link in list(links):
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)


@pytest.fixture(params=server_kinds())
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A machine with a Faktory that wants TLS and a password, each kind at hand."""
    make: Callable[[], WatchedServer] = request.param
    authority = trustme.CA()
    server = make()
    if isinstance(server, RealFaktory) and server.version >= NATIVE:
        server = Native(server.binary, authority)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.remove)
        await server.start(PASSWORD)
        ports = [server.port, server.web_port]
        if not isinstance(server, Native):
            ports = [await stack.enter_async_context(encrypting(port, authority)) for port in ports]
        socket = server.redis_url.removeprefix("unix://")
        made = Sandbox(port=ports[0], web_port=ports[1], socket=socket, elsewhere=free_port())
        await stack.enter_async_context(made)
        authority.cert_pem.write_to_path(str(made.path("/etc/faktory/ca.pem")))
        made.path("/etc/faktory/password").write_text(PASSWORD + "\n")
        yield made


class Configured(Prometheus):
    """A Prometheus with the configuration file of the page, but for how often it scrapes."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self._file = sandbox.path("/etc/prometheus/prometheus.yml")
        self._file.write_text("global: {scrape_interval: 1s, evaluation_interval: 1s}\n" + self._file.read_text())

    def arguments(self) -> Sequence[str]:
        return [f"--config.file={self._file}", *(it for it in super().arguments() if "--config.file" not in it)]


async def test_the_quick_start_leads_to_a_warning_and_lets_nobody_else_in(sandbox: Sandbox) -> None:
    told = await sandbox.play(PAGE)
    # The page without TLS, and then with it and a password.
    assert "".join(told.values()).count('faktory_up{server="faktory"} 1') == 2
    assert PASSWORD not in "".join(told.values())
    await asyncio.gather(warned(sandbox), turned_away(sandbox))


async def warned(sandbox: Sandbox) -> None:
    """See that a Prometheus with the page's files reads Forewarn, and that its alerts fire."""
    async with Configured(sandbox) as prometheus:

        async def reads() -> bool:
            found = await prometheus.query('faktory_up{job="forewarn", server="faktory"}')
            return [series.value for series in found] == [1]

        async def fires() -> bool:
            alerts = (await prometheus.api("alerts"))["alerts"]
            return any(it["labels"]["alertname"] == "ForewarnWatchdog" and it["state"] == "firing" for it in alerts)

        await wait_until(reads, DEADLINE, every=0.2, what="Prometheus has read Forewarn")
        await wait_until(fires, DEADLINE, every=0.2, what="ForewarnWatchdog fires")


async def turned_away(sandbox: Sandbox) -> None:
    """See that who has no password, or speaks no TLS, gets nothing."""
    certificate = sandbox.path("/etc/forewarn/web.pem")
    trusting = await asyncio.to_thread(functools.partial(ssl.create_default_context, cafile=str(certificate)))
    address = f"https://localhost:{sandbox.ports[9386]}"
    async with aiohttp.ClientSession() as session:
        for path in ("/", "/metrics", "/api/v1/status"):
            async with session.get(address + path, ssl=trusting) as answer:
                assert answer.status == 401
        async with session.get(address.replace("https", "http") + "/metrics") as answer:
            assert answer.status == 400


def test_no_password_stands_in_its_settings() -> None:
    text = (Path(__file__).parent.parent / PAGE).read_text()
    assert "password =" not in text
