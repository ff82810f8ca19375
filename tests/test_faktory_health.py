"""The health page, and everything that may stand at its address instead."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from exporter.faktory.endpoint import tls_context
from exporter.faktory.errors import FaktoryError
from exporter.faktory.health import MAX_BODY, HealthPage
from exporter.model import Failure, Health, Reason
from tests.servers import WatchedServer
from tests.wire import Wire

BODY = {
    "now": "2026-11-21T08:09:10.123456789Z",
    "server": {"description": "Faktory", "faktory_version": "1.9.4", "connections": 3, "command_count": 4},
}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@asynccontextmanager
async def answering(
    response: web.Response | None = None, *, status: int = 200, tls: ssl.SSLContext | None = None, **changes: object
) -> AsyncIterator[str]:
    """A local web server with one answer; ``None`` of a change removes that field of the server's."""
    server = {key: value for key, value in (BODY["server"] | changes).items() if value is not None}  # type: ignore[operator]

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        paths.append(request.path)
        return response or web.json_response(BODY | {"server": server}, status=status)

    paths: list[str] = []
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def failure_of(page: HealthPage) -> Failure:
    with pytest.raises(FaktoryError) as caught:
        await page.read()
    return caught.value.failure


async def test_the_health_of_a_server_is_read(server: WatchedServer, session: aiohttp.ClientSession) -> None:
    page = HealthPage(session, server.web_url)
    async with await Wire.connect(server.url) as producer:
        await producer.push()
        health, now = await page.read()
    assert health == Health(version=".".join(map(str, server.version)), edition="oss", connections=1, commands=1)
    assert now > 1_700_000_000


async def test_no_password_is_needed_or_sent(unstarted: WatchedServer, session: aiohttp.ClientSession) -> None:
    await unstarted.start(password="secret")
    health, _ = await HealthPage(session, unstarted.web_url.replace("//", "//:wrong@")).read()
    assert health.connections == 0


async def test_the_servers_clock_is_told(session: aiohttp.ClientSession) -> None:
    async with answering() as url:
        _, now = await HealthPage(session, url).read()
    assert now == pytest.approx(1795248550.123457)


async def test_the_edition_is_told(session: aiohttp.ClientSession) -> None:
    async with answering(description="Faktory Enterprise") as url:
        health, _ = await HealthPage(session, url).read()
    assert health.edition == "enterprise"


async def test_a_prefix_of_the_path_is_kept(session: aiohttp.ClientSession) -> None:
    async with answering() as url:
        page = HealthPage(session, url + "/faktory/")
        await page.read()
    assert page._url.endswith("/faktory/health")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"faktory_version": None}, Reason.DECODE),
        ({"connections": None}, Reason.DECODE),
        ({"connections": "3"}, Reason.DECODE),
        ({"connections": -1}, Reason.DECODE),
        ({"connections": 2**64 - 1}, Reason.DECODE),
        ({"command_count": 1.5}, Reason.DECODE),
    ],
)
async def test_missing_and_absurd_fields_are_told(
    session: aiohttp.ClientSession, changes: dict[str, object], reason: Reason
) -> None:
    async with answering(**changes) as url:  # type: ignore[arg-type]
        assert (await failure_of(HealthPage(session, url))).reason is reason


@pytest.mark.parametrize(
    ("response", "reason", "told"),
    [
        (web.Response(text="<html></html>", content_type="text/html"), Reason.PROTOCOL, "web page"),
        (web.Response(text="\n<!DOCTYPE html>", content_type="application/json"), Reason.PROTOCOL, "web page"),
        (web.Response(text=""), Reason.DECODE, "health"),
        (web.Response(text="[]"), Reason.DECODE, "health"),
        (web.Response(text=json.dumps(BODY | {"now": "today"})), Reason.DECODE, "RFC 3339"),
        (web.Response(body=b"x" * (MAX_BODY + 1)), Reason.PROTOCOL, "65536 bytes"),
        (web.Response(status=404), Reason.SERVER, "1.5.5"),
        (web.Response(status=401), Reason.SERVER, "proxy"),
        (web.Response(status=503), Reason.SERVER, "503"),
        (web.Response(status=302, headers={"Location": "/login"}), Reason.SERVER, "302"),
        (web.Response(status=400, text="Client sent an HTTP request to an HTTPS server."), Reason.TLS, "https://"),
    ],
)
async def test_what_is_not_the_health_page_is_told(
    session: aiohttp.ClientSession, response: web.Response, reason: Reason, told: str
) -> None:
    async with answering(response) as url:
        failure = await failure_of(HealthPage(session, url))
    assert (failure.reason, told in failure.message) == (reason, True), failure
    assert url in failure.message


async def test_a_silent_server_is_told_after_the_deadline(session: aiohttp.ClientSession) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        failure = await failure_of(HealthPage(session, url, timeout=0.2))
        await left.wait()
    assert failure.reason is Reason.TIMEOUT


async def test_the_command_port_is_told_from_the_web_port(
    server: WatchedServer, session: aiohttp.ClientSession
) -> None:
    failure = await failure_of(HealthPage(session, f"http://127.0.0.1:{server.port}"))
    assert failure.reason is Reason.PROTOCOL
    assert "Web UI" in failure.message


async def test_nothing_listening_is_told(session: aiohttp.ClientSession) -> None:
    failure = await failure_of(HealthPage(session, "http://127.0.0.1:1"))
    assert failure.reason is Reason.UNREACHABLE


async def test_tls_is_verified_against_the_authority_that_is_named(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with answering(tls=tls) as url:
        health, _ = await HealthPage(session, url, tls=tls_context(tmp_path / "ca.pem")).read()
        assert health.version == "1.9.4"
        failure = await failure_of(HealthPage(session, url))
    assert failure.reason is Reason.TLS
    assert "not trusted" in failure.message


async def test_tls_to_a_plain_server_is_told(session: aiohttp.ClientSession) -> None:
    async with answering() as url:
        failure = await failure_of(HealthPage(session, url.replace("http:", "https:")))
    assert failure.reason is Reason.TLS
    assert "http://" in failure.message


@pytest.mark.parametrize("url", ["", "faktory:7420", "tcp://faktory", "http://", "http://:hunter2@h:x", "http://h?a=b"])
def test_what_is_no_web_url_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        HealthPage(None, url)  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)
