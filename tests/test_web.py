"""The HTTP server: what it answers, and that nobody who asks can hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import msgspec
import pytest
from aiohttp import web

from exporter.model import CRASH_KINDS, Frame, Incident, IncidentKind, LogEvent, ProcessVerdict, Snapshot
from exporter.outputs.prometheus import OPENMETRICS_TYPE, TEXT_TYPE, Exposition
from exporter.status.book import StatusBook
from exporter.status.document import Status
from exporter.web import door
from exporter.web import incidents as web_incidents
from exporter.web import server as web_server
from exporter.web.address import Address, ListenError, parse_address
from exporter.web.negotiation import wants_gzip, wants_openmetrics
from exporter.web.page import CONTENT_SECURITY_POLICY
from exporter.web.server import WebServer, start_web
from tests.snapshots import HOSTILE, empty, full

CRASH = Incident(
    kind=IncidentKind.CONCURRENT_MAP,
    message="fatal error: concurrent map read and map write",
    at=1_763_705_332.6,
    frames=(Frame("github.com/contribsys/faktory/webui.busyWorkers", "webui/helpers.go", 227), Frame("net/http.serve")),
    goroutines={"running": 1, "IO wait": 40},
    modules={"github.com/contribsys/faktory": "v1.9.4"},
    group="0123456789ab",
    known="faktory-busy-page",
    hint="Do not poll /busy.",
)
RACE = Incident(kind=IncidentKind.DATA_RACE, message="WARNING: DATA RACE", at=1_763_705_400.0)


def with_incidents(server: str, *incidents: Incident) -> Snapshot:
    """Return a snapshot of a server whose output is read; the oldest of ``incidents`` stands first."""
    verdict = ProcessVerdict(
        crashes=dict.fromkeys(CRASH_KINDS, 0),
        races=0,
        recovered=0,
        events=dict.fromkeys(LogEvent, 0),
        incidents=incidents,
    )
    return msgspec.structs.replace(full(server), process=verdict)


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        (FIREFOX, False),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ('Application/OpenMetrics-Text; Version="1.0.0"; Q=1', True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0,*/*", False),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.4", True),
        ("text/plain,application/openmetrics-text", True),
        ("application/openmetrics-text;q=0.5,text/*;q=0.6", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=2", False),
        ("application/openmetrics-text;q=", False),
        (";;,,;q=,=;", False),
        ("application/json", False),
    ],
)
def test_the_format_is_the_one_liked_best(accept: str, openmetrics: bool) -> None:
    assert wants_openmetrics(accept) is openmetrics


@pytest.mark.parametrize(
    ("accept_encoding", "gzipped"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("deflate, *;q=0.1", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.3, identity;q=0.9", False),
        ("*;q=0", False),
        ("gzip;q=x", False),
    ],
)
def test_the_body_is_compressed_for_those_who_like_it(accept_encoding: str, gzipped: bool) -> None:
    assert wants_gzip(accept_encoding) is gzipped


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9386", Address("127.0.0.1", 9386)),
        ("[::1]:9386", Address("::1", 9386)),
        (":9386", Address(None, 9386)),
        ("[::]:0", Address("::", 0)),
        ("localhost:65535", Address("localhost", 65535)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert (parse_address(text), str(address)) == (address, text)


@pytest.mark.parametrize(
    "text", ["", "9386", "localhost", "::1:9386", "[::1]", "host:", "host:65536", "host:-1", "h:٣"]
)
def test_what_is_no_address_is_refused_by_the_name_of_its_flag(text: str) -> None:
    with pytest.raises(ListenError, match=r"--web\.listen-address .* write HOST:PORT"):
        parse_address(text)


class Running:
    """A web server on a free port, what it serves, and a client of it."""

    def __init__(
        self, server: WebServer, exposition: Exposition, servers: dict[str, Snapshot | None], book: StatusBook
    ) -> None:
        self.server = server
        self.exposition = exposition
        self.servers = servers
        self.book = book

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    exposition = Exposition("1.2.3")
    servers: dict[str, Snapshot | None] = {"faktory": full()}
    exposition.update(full())
    book = StatusBook(lambda: servers, version="1.2.3", clock=lambda: 101.5)
    server = await start_web(Address("127.0.0.1", 0), exposition, lambda: servers, book=book, clock=lambda: 101.5)
    yield Running(server, exposition, servers, book)
    await server.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        auto_decompress=False, timeout=aiohttp.ClientTimeout(20), connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        yield session


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


class TestMetrics:
    async def test_text_by_default(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{running.url}/metrics", headers={"Accept-Encoding": "identity"}) as response:
            body = await response.read()
        assert (response.status, response.headers["Content-Type"]) == (200, TEXT_TYPE)
        assert "Content-Encoding" not in response.headers
        assert b'forewarn_snapshot_age_seconds{server="faktory"} 1.5\n' in body

    async def test_compressed_openmetrics_for_prometheus(self, running: Running, client: aiohttp.ClientSession) -> None:
        headers = {"Accept": PROMETHEUS_2, "Accept-Encoding": "gzip"}
        async with client.get(f"{running.url}/metrics", headers=headers) as response:
            body = await response.read()
        assert (response.status, response.headers["Content-Type"]) == (200, OPENMETRICS_TYPE)
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        assert gzip.decompress(body).endswith(b"# EOF\n")

    async def test_accept_may_come_in_two_lines(self, running: Running) -> None:
        head = (
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n"
        )
        answer = await exchange(running.server.port, head + "Connection: close\r\n\r\n")
        assert f"Content-Type: {OPENMETRICS_TYPE}".encode() in answer

    async def test_only_the_families_asked_for(self, running: Running, client: aiohttp.ClientSession) -> None:
        query = "name[]=faktory_up&name%5B%5D=faktory_connections"
        headers = {"Accept-Encoding": "identity"}
        async with client.get(f"{running.url}/metrics?{query}", headers=headers) as response:
            lines = (await response.text()).splitlines()
        assert [line for line in lines if not line.startswith("#")] == [
            'faktory_up{server="faktory"} 1',
            'faktory_connections{server="faktory"} 17',
        ]

    async def test_a_head_has_the_length_and_no_body(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.head(f"{running.url}/metrics") as response:
            assert (response.status, await response.read()) == (200, b"")
            assert int(response.headers["Content-Length"]) > 1000

    async def test_a_connection_serves_another_request_after_a_head(self, running: Running) -> None:
        head = "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        get = "GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await exchange(running.server.port, head + get)
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.endswith(b"healthy: the sidecar runs\n")

    async def test_a_post_is_not_allowed(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.post(f"{running.url}/metrics", data=b"x" * 100_000) as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")

    async def test_a_new_poll_is_seen_by_the_next_scrape(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{running.url}/metrics") as response:
            await response.read()
        running.exposition.update(empty())
        async with client.get(f"{running.url}/metrics", headers={"Accept-Encoding": "identity"}) as response:
            assert 'faktory_up{server="faktory"} 0\n' in await response.text()


class TestHealth:
    async def test_healthy_before_any_poll(self, running: Running, client: aiohttp.ClientSession) -> None:
        running.servers["faktory"] = None
        async with client.get(f"{running.url}/-/healthy") as response:
            assert response.status == 200

    async def test_ready_when_every_server_was_polled_even_if_it_is_down(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        running.servers["other"] = empty("other")
        async with client.get(f"{running.url}/-/ready") as response:
            assert response.status == 200

    async def test_not_ready_names_the_servers_not_polled(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        running.servers["other"] = None
        async with client.get(f"{running.url}/-/ready") as response:
            assert (response.status, await response.text()) == (
                503,
                "not ready: no poll has finished yet of 'other'\n",
            )


class TestIncidents:
    async def ask(self, running: Running, client: aiohttp.ClientSession) -> list[dict[str, object]]:
        async with client.get(f"{running.url}/api/v1/incidents") as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
            told = json.loads(await response.read())
        assert list(told) == ["incidents"]
        found: list[dict[str, object]] = told["incidents"]
        return found

    async def test_all_that_is_known_of_one_is_told(self, running: Running, client: aiohttp.ClientSession) -> None:
        running.servers["faktory"] = with_incidents("faktory", CRASH)
        assert await self.ask(running, client) == [
            {
                "server": "faktory",
                "class": "concurrent-map",
                "crash": True,
                "message": "fatal error: concurrent map read and map write",
                "function": "github.com/contribsys/faktory/webui.busyWorkers",
                "component": "webui.busyWorkers",
                "goroutines": {"running": 1, "IO wait": 40},
                "hint": "Do not poll /busy.",
                "known": "faktory-busy-page",
                "group": "0123456789ab",
                "at": "2025-11-21T06:08:52.600Z",
                "frames": [
                    {
                        "function": "github.com/contribsys/faktory/webui.busyWorkers",
                        "file": "webui/helpers.go",
                        "line": 227,
                    },
                    {"function": "net/http.serve", "file": None, "line": None},
                ],
                "modules": {"github.com/contribsys/faktory": "v1.9.4"},
            }
        ]

    async def test_what_is_not_known_is_null(self, running: Running, client: aiohttp.ClientSession) -> None:
        killed = Incident(kind=IncidentKind.UNEXPLAINED, message="it ended without a word", at=None)
        running.servers["faktory"] = with_incidents("faktory", killed)
        (told,) = await self.ask(running, client)
        assert [key for key, value in told.items() if value is None] == ["function", "component", "hint", "known", "at"]
        assert (told["crash"], told["goroutines"], told["frames"], told["modules"]) == (True, {}, [], {})

    async def test_the_newest_of_all_servers_stands_first(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        older = msgspec.structs.replace(CRASH, at=1_763_705_000.0)
        running.servers["faktory"] = with_incidents("faktory", older, RACE)
        running.servers["other"] = with_incidents("other", CRASH)
        told = [(each["server"], each["class"], each["at"]) for each in await self.ask(running, client)]
        assert told == [
            ("faktory", "data-race", "2025-11-21T06:10:00.000Z"),
            ("other", "concurrent-map", "2025-11-21T06:08:52.600Z"),
            ("faktory", "concurrent-map", "2025-11-21T06:03:20.000Z"),
        ]

    async def test_of_many_only_the_newest_are_told(
        self, running: Running, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(web_incidents, "MAX_INCIDENTS", 2)
        running.servers["faktory"] = with_incidents(
            "faktory", *(msgspec.structs.replace(CRASH, message=str(at), at=float(at)) for at in range(4))
        )
        assert [each["message"] for each in await self.ask(running, client)] == ["3", "2"]

    async def test_servers_whose_output_is_not_read_have_none(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        running.servers["faktory"] = msgspec.structs.replace(full(), process=None)
        running.servers["other"] = None
        assert await self.ask(running, client) == []

    async def test_a_time_beyond_the_calendar_is_not_known(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        never = [msgspec.structs.replace(CRASH, at=at) for at in (1e300, float("inf"), float("nan"), -1e15)]
        running.servers["faktory"] = with_incidents("faktory", *never)
        assert [each["at"] for each in await self.ask(running, client)] == [None] * 4

    async def test_hostile_text_stays_text(self, running: Running, client: aiohttp.ClientSession) -> None:
        hostile = msgspec.structs.replace(CRASH, message=HOSTILE + "\ud800", hint=HOSTILE)
        running.servers["faktory"] = with_incidents("faktory", hostile)
        (told,) = await self.ask(running, client)
        assert (told["message"], told["hint"]) == (HOSTILE + "\ud800", HOSTILE)

    async def test_it_is_guarded_as_the_metrics_are(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{running.url}/api/v1/incidents") as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
            assert response.headers["Cache-Control"] == "no-store"
        async with client.head(f"{running.url}/api/v1/incidents") as response:
            assert (response.status, await response.read()) == (200, b"")
        async with client.post(f"{running.url}/api/v1/incidents") as response:
            assert response.status == 405

    async def test_slow_readers_of_it_are_bounded_too(self, large: Running, client: aiohttp.ClientSession) -> None:
        with slow_readers(large, web_server.MAX_SCRAPES):
            await until(lambda: large.server._scrapes == web_server.MAX_SCRAPES)
            async with client.get(f"{large.url}/api/v1/incidents") as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")


class TestStatus:
    async def test_the_page_is_served_with_its_own_strict_policy(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        async with client.get(f"{running.url}/") as response:
            body = await response.text()
        assert (response.status, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert response.headers.getall("Content-Security-Policy") == [CONTENT_SECURITY_POLICY]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert body.startswith("<!DOCTYPE html>")
        assert "faktory" in body

    async def test_every_link_of_the_page_leads_somewhere(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        async with client.get(f"{running.url}/") as response:
            links = re.findall(r'href="([^"#:]+)"', await response.text())
        assert {"metrics", "api/v1/status"} <= set(links)
        for link in links:
            async with client.get(f"{running.url}/{link}") as response:
                assert response.status == 200

    async def test_the_page_may_show_one_server_alone(self, running: Running, client: aiohttp.ClientSession) -> None:
        running.servers["other"] = full("other")
        pages = {}
        for query in ("", "?server=other", "?server=nobody"):
            async with client.get(f"{running.url}/{query}") as response:
                pages[query] = await response.text()
        assert "All 2 servers" in pages["?server=other"]
        assert "All 2 servers" not in pages[""] + pages["?server=nobody"]

    async def test_names_on_the_page_are_text(self, running: Running, client: aiohttp.ClientSession) -> None:
        name = "<script>alert('x')</script>&\""
        running.servers[name] = full(name)
        async with client.get(f"{running.url}/") as response:
            body = await response.text()
        assert "<script>alert" not in body
        assert "&lt;script&gt;alert(" in body

    async def test_the_page_is_made_once_for_all_who_ask_in_a_second(
        self, running: Running, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads: list[str] = []

        def page(*_: object) -> str:
            threads.append(threading.current_thread().name)
            return "made"

        monkeypatch.setattr("exporter.web.page.page", page)
        for _ in range(5):
            async with client.get(f"{running.url}/") as response:
                assert await response.text() == "made"
        assert threads == ["web_0"]

    async def test_the_same_is_told_as_json(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{running.url}/api/v1/status") as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
            status = msgspec.json.decode(await response.read(), type=Status)
        assert [server.name for server in status.servers] == ["faktory"]
        assert status.version == "1.2.3"

    async def test_news_come_by_themselves(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{running.url}/api/v1/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert await response.content.readuntil(b"\n\n") == b"retry: 2000\n\n"
            assert b"event: live\n" in await response.content.readuntil(b"\n\n")
            running.book.update(empty())
            assert b"event: live\n" in await response.content.readuntil(b"\n\n")

    async def test_closing_ends_open_pages_in_good_order(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{running.url}/api/v1/events") as response:
            await response.content.readuntil(b"\n\n")
            closing = asyncio.create_task(running.server.close())
            # Up to the end of the body: a stream that is cut raises ClientPayloadError.
            await asyncio.wait_for(response.content.read(), 20)
            await asyncio.wait_for(closing, 20)

    @pytest.mark.parametrize("path", ["/", "/api/v1/status", "/api/v1/incidents", "/metrics"])
    async def test_slow_readers_are_bounded_by_all_paths_together(
        self, large: Running, client: aiohttp.ClientSession, path: str
    ) -> None:
        with slow_readers(large, web_server.MAX_SCRAPES):
            await until(lambda: large.server._scrapes == web_server.MAX_SCRAPES)
            async with client.get(large.url + path) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")

    async def test_errors_carry_a_policy_too(self, running: Running, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{running.url}/nothing/../../etc/passwd") as response:
            assert response.status == 404
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Server"] == "forewarn"

    async def test_what_is_no_request_is_answered_with_a_policy_and_without_its_words(self, running: Running) -> None:
        answer = await exchange(running.server.port, "opensesame\r\n\r\n")
        assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
        assert b"Content-Security-Policy: default-src 'none'; " in answer
        assert b"opensesame" not in answer

    async def test_without_a_book_there_is_no_page(self, client: aiohttp.ClientSession) -> None:
        server = await start_web(Address("127.0.0.1", 0), Exposition("0"), dict)
        try:
            async with client.get(f"http://127.0.0.1:{server.port}/") as response:
                assert response.status == 404
        finally:
            await server.close()


class TestListening:
    @pytest.mark.parametrize("host", ["::1", None], ids=["IPv6", "every address"])
    async def test_on_other_addresses(self, host: str | None, client: aiohttp.ClientSession) -> None:
        server = await start_web(Address(host, 0), Exposition("0"), dict)
        try:
            urls = [f"http://[::1]:{server.port}"] + ([] if host else [f"http://127.0.0.1:{server.port}"])
            for url in urls:
                async with client.get(f"{url}/-/healthy") as response:
                    assert response.status == 200
        finally:
            await server.close()

    @pytest.mark.parametrize("host", ["127.0.0.1", None])
    async def test_an_address_in_use_names_the_flag_and_the_fix(self, running: Running, host: str | None) -> None:
        address = Address(host, running.server.port)
        with pytest.raises(ListenError) as caught:
            await start_web(address, Exposition("0"), dict)
        assert str(caught.value) == (
            f"cannot listen on {address}: another program listens there: stop it, or choose another port with"
            " --web.listen-address"
        )

    @pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
    async def test_an_address_of_another_machine_names_the_flag(self, host: str) -> None:
        with pytest.raises(ListenError, match=r"cannot listen on .*: .*--web\.listen-address"):
            await start_web(Address(host, 0), Exposition("0"), dict)


async def exchange(port: int, request: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode())
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def slow_reader(port: int) -> socket.socket:
    """Ask for a body and read none of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def connections(running: Running) -> list[web.RequestHandler]:
    server = running.server._runner.server
    return [] if server is None else server.connections


@pytest.fixture
async def large(running: Running) -> Running:
    """A body of some megabytes: more than the kernel takes off our hands."""
    running.exposition.update(full(size=4000))
    running.exposition.body(0.0)
    return running


@contextlib.contextmanager
def slow_readers(running: Running, number: int) -> Iterator[list[socket.socket]]:
    readers = [slow_reader(running.server.port) for _ in range(number)]
    try:
        yield readers
    finally:
        for reader in readers:
            reader.close()


class TestBounds:
    async def test_a_hundred_scrapes_at_once_are_served_or_told_to_wait(
        self, running: Running, client: aiohttp.ClientSession
    ) -> None:
        async def scrape() -> int:
            async with client.get(f"{running.url}/metrics") as response:
                await response.read()
                return response.status

        statuses = await asyncio.gather(*(scrape() for _ in range(100)))
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) >= web_server.MAX_SCRAPES

    async def test_more_slow_readers_than_the_bound_leave_health_alone(
        self, large: Running, client: aiohttp.ClientSession
    ) -> None:
        with slow_readers(large, web_server.MAX_SCRAPES):
            await until(lambda: large.server._scrapes == web_server.MAX_SCRAPES)
            async with client.get(f"{large.url}/metrics") as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
            async with client.get(f"{large.url}/-/healthy") as response:
                assert response.status == 200

    async def test_a_slow_reader_that_leaves_gives_its_place_back(self, large: Running) -> None:
        with slow_readers(large, 3):
            await until(lambda: large.server._scrapes == 3)
        await until(lambda: large.server._scrapes == 0)

    async def test_a_reader_that_leaves_is_not_worth_a_line_in_the_log(
        self, large: Running, caplog: pytest.LogCaptureFixture
    ) -> None:
        with slow_readers(large, 1):
            await until(lambda: large.server._scrapes == 1)
        await until(lambda: connections(large) == [])
        assert caplog.records == []

    async def test_a_slow_reader_is_cut_when_its_time_is_over(
        self, large: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(web_server, "SCRAPE_SECONDS", 0.2)
        with slow_readers(large, 1):
            await until(lambda: large.server._scrapes == 1)
            await until(lambda: large.server._scrapes == 0)

    async def test_a_slow_reader_holds_no_copy_of_the_body(self, large: Running) -> None:
        with slow_readers(large, 1):
            await until(lambda: large.server._scrapes == 1)
            (connection,) = connections(large)
            assert connection.transport is not None
            held = connection.transport.get_write_buffer_size()
            whole = len(large.exposition.body(0.0))
            assert 0 < held < whole / 4

    async def test_a_request_head_too_large_is_refused(self, running: Running) -> None:
        answer = await exchange(running.server.port, "GET /metrics HTTP/1.1\r\nX: " + "x" * 20_000 + "\r\n\r\n")
        assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))

    async def test_a_request_head_that_never_ends_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "IDLE_SECONDS", 0.2)
        server = await start_web(Address("127.0.0.1", 0), Exposition("0"), dict)
        try:
            assert await exchange(server.port, "GET /metrics HTTP/1.1\r\nX-Slow: ") == b""
        finally:
            await server.close()

    async def test_connections_beyond_the_bound_are_refused(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 2)
        _, one = await asyncio.open_connection("127.0.0.1", running.server.port)
        _, two = await asyncio.open_connection("127.0.0.1", running.server.port)
        await until(lambda: len(connections(running)) == 2)
        answer = await exchange(running.server.port, "GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        for writer in (one, two):
            writer.close()
            await writer.wait_closed()

    async def test_more_than_can_be_told_so_are_closed(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 0)
        monkeypatch.setattr(web_server, "MAX_REFUSALS", 1)
        monkeypatch.setattr(web_server, "GRACE_SECONDS", 60.0)
        first, writer = await asyncio.open_connection("127.0.0.1", running.server.port)
        assert (await asyncio.wait_for(first.readline(), 20)).startswith(b"HTTP/1.1 503 ")
        assert len(running.server._refusals) == 1
        assert await exchange(running.server.port, "") == b""
        writer.close()
        await writer.wait_closed()
        await until(lambda: not running.server._refusals)

    async def test_where_files_run_out_connections_wait_and_that_is_told_once(
        self, running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop = asyncio.get_running_loop()
        accept, refused = loop.sock_accept, 0

        async def sock_accept(listener: socket.socket) -> object:
            nonlocal refused
            if refused < 3:
                refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return await accept(listener)

        monkeypatch.setattr(door, "REST_SECONDS", 0.01)
        monkeypatch.setattr(loop, "sock_accept", sock_accept)
        for _ in range(3):
            answer = await exchange(running.server.port, "GET /-/healthy HTTP/1.0\r\n\r\n")
            assert answer.endswith(b"healthy: the sidecar runs\n")
        assert refused == 3
        assert [record.message for record in caplog.records] == ["connections cannot be accepted: they wait"]

    async def test_closing_takes_less_than_two_seconds_even_with_slow_readers(self, large: Running) -> None:
        with slow_readers(large, 5):
            await until(lambda: large.server._scrapes == 5)
            start = time.monotonic()
            await large.server.close()
            assert time.monotonic() - start < 2.0

    async def test_nobody_is_served_after_closing(self, running: Running) -> None:
        port = running.server.port
        await running.server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    async def test_closing_leaves_nothing_for_slow_readers_to_hold(self, large: Running) -> None:
        with slow_readers(large, 1):
            await until(lambda: large.server._scrapes == 1)
            (transport,) = [connection.transport for connection in connections(large)]
            assert isinstance(transport, asyncio.WriteTransport)
            await large.server.close()
            assert transport.get_write_buffer_size() == 0

    async def test_closing_twice_is_harmless(self, running: Running) -> None:
        await running.server.close()
        await running.server.close()

    async def test_a_making_of_a_large_body_does_not_hold_the_loop(self, running: Running) -> None:
        assert not running.exposition.built(openmetrics=True, gzip=True)
        in_threads: list[str] = []
        real = running.exposition.parts

        def parts(now: float, **how: object) -> tuple[bytes, ...]:
            in_threads.append(threading.current_thread().name)
            return real(now, **how)  # type: ignore[arg-type]

        running.exposition.parts = parts  # type: ignore[method-assign]
        for _ in range(2):
            await exchange(running.server.port, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert in_threads[0].startswith("web")
        assert in_threads[1] == "MainThread"
