"""The event stream of the status page: what it sends, and that nobody who reads along can hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from exporter.status.document import Status
from exporter.web import events as events_module
from exporter.web.events import MAX_READERS, Events
from exporter.web.links import Links
from exporter.web.page import live
from tests.page_samples import HOSTILE, SampleBook, alarm, calm, fleet, hostile, status
from tests.servers import wait_until

LINKS = Links()
DEADLINE = 30.0


class Served:
    """The event stream of a made-up book on a free port."""

    def __init__(self, book: SampleBook, events: Events, port: int, session: aiohttp.ClientSession) -> None:
        self.book = book
        self.events = events
        self.port = port
        self.session = session

    def address(self, query: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/api/v1/events{query}"

    @asynccontextmanager
    async def reader(self, query: str = "") -> AsyncIterator[Reader]:
        async with self.session.get(self.address(query)) as answer:
            assert answer.status == 200, await answer.text()
            yield Reader(answer)


class Reader:
    """One who reads along."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def block(self) -> dict[str, str]:
        """Return the next block of the stream: its fields, the lines of ``data`` joined as a browser does."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE):
            while line := (await self.answer.content.readline()).decode():
                if line == "\n":
                    if fields:
                        return fields
                    continue
                name, _, value = line.removesuffix("\n").partition(": ")
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        raise EOFError

    async def event(self) -> dict[str, str]:
        """Return the next event."""
        while "data" not in (fields := await self.block()):
            pass
        return fields

    async def ended(self) -> bool:
        """Wait for the end, whatever comes before it."""
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(aiohttp.ClientError):
                while await self.answer.content.readany():
                    pass
        return True


@asynccontextmanager
async def serving(told: Status, clock: Callable[[], float] | None = None) -> AsyncIterator[Served]:
    book = SampleBook(told)
    events = Events(book, LINKS) if clock is None else Events(book, LINKS, clock=clock)
    app = web.Application()
    app.router.add_get("/api/v1/events", events.stream)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DEADLINE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=2**22) as session:
            yield Served(book, events, port, session)
    finally:
        events.close()
        await runner.cleanup()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pauses short, for tests that are about something else."""
    monkeypatch.setattr(events_module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(events_module, "PACE", 2**30)


@pytest.fixture
async def served(quick: None) -> AsyncIterator[Served]:
    async with serving(status(calm())) as made:
        yield made


async def test_a_reader_gets_the_page_at_once(served: Served) -> None:
    async with served.reader() as reader:
        event = await reader.event()
    assert event == {"id": "1", "event": "live", "data": live(status(calm()), LINKS)}


async def test_the_answer_may_not_be_kept_or_held_back(served: Served) -> None:
    async with served.reader() as reader:
        headers: Mapping[str, str] = reader.answer.headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Accel-Buffering"] == "no"


async def test_a_browser_is_told_when_to_come_back(served: Served) -> None:
    async with served.reader() as reader:
        assert await reader.block() == {"retry": "2000"}


async def test_a_change_is_told(served: Served) -> None:
    async with served.reader() as reader:
        await reader.event()
        served.book.tell(status(alarm()))
        event = await reader.event()
    assert event["id"] == "2"
    assert event["data"] == live(status(alarm()), LINKS)


async def test_a_silence_is_broken_by_the_page_itself(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "HEARTBEAT_SECONDS", 0.05)
    async with served.reader() as reader:
        assert [(await reader.event())["id"] for _ in range(4)] == ["1"] * 4


async def test_what_changed_without_a_poll_is_told_by_the_heartbeat(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "HEARTBEAT_SECONDS", 0.05)
    async with served.reader() as reader:
        await reader.event()
        served.book._told = status(alarm())  # as when nothing has come of a server for too long
        wanted = live(status(alarm()), LINKS)
        async with asyncio.timeout(DEADLINE):
            while (await reader.event())["data"] != wanted:
                pass


async def test_many_readers_cost_one_rendering(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(told: Status, links: Links, only: str | None) -> str:
        made.append(told)
        return live(told, links, only)

    monkeypatch.setattr(events_module, "live", counted)
    now = 0.0
    async with serving(status(calm()), lambda: now) as served, contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(served.reader()) for _ in range(MAX_READERS)]
        first = [(await reader.event())["id"] for reader in readers]
        now = 100.0
        served.book.tell(status(alarm()))
        second = [(await reader.event())["id"] for reader in readers]
    assert (set(first), set(second)) == ({"1"}, {"2"})
    assert len(made) == 2


async def test_a_new_reader_never_gets_what_is_older_than_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    async with serving(status(calm()), lambda: now) as served, served.reader() as early:
        await early.event()
        served.book.tell(status(alarm()))
        async with served.reader() as late:
            assert (await late.event())["id"] == "2"


async def test_an_event_is_not_told_again_when_its_times_are_old(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    async with serving(status(calm()), lambda: now) as served, served.reader() as early:
        await early.event()
        asked = served.book.asked
        now = 1.0
        async with served.reader() as late:
            await late.event()
        assert served.book.asked > asked


async def test_one_reader_too_many_is_asked_to_come_again(served: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_READERS):
            await (await stack.enter_async_context(served.reader())).event()
        async with served.session.get(served.address()) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "30"
            assert await answer.text() == f"{MAX_READERS} pages are open: try again later\n"


async def test_the_place_of_a_reader_who_leaves_is_free_again(served: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_READERS):
            await (await stack.enter_async_context(served.reader())).event()

    def noticed() -> bool:
        served.book.tell(status(calm()))
        return served.events.readers == 0

    await wait_until(noticed, DEADLINE, what="every reader's leaving is noticed")
    async with served.reader() as reader:
        assert (await reader.event())["event"] == "live"


async def test_nothing_is_kept_when_nobody_reads(served: Served) -> None:
    async with served.reader() as reader:
        await reader.event()
        assert served.events._made

    def noticed() -> bool:
        served.book.tell(status(calm()))
        return not served.events._made

    await wait_until(noticed, DEADLINE, what="what was made is dropped")


async def test_a_slow_reader_is_cut_and_never_buffered_for(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(events_module, "HEARTBEAT_SECONDS", 0.01)
    held: list[int] = []
    taken = events_module._taken

    async def watched(request: web.Request) -> None:
        assert request.transport is not None
        held.append(request.transport.get_write_buffer_size())
        await taken(request)

    monkeypatch.setattr(events_module, "_taken", watched)
    told = fleet(50)
    size = len(live(told, LINKS).encode())
    async with serving(told) as served:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", served.port))
            await loop.sock_sendall(slow, b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await wait_until(lambda: served.events.readers == 1, DEADLINE, what="the reader is there")
            await wait_until(lambda: served.events.readers == 0, DEADLINE, what="the reader is cut")
    assert max(held) <= 1.1 * size


async def test_a_slow_reader_does_not_hold_up_the_others(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "SLOW_SECONDS", 60.0)
    told = fleet(50)
    async with serving(told) as served, served.reader("?server=region-00") as reader:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", served.port))
            await loop.sock_sendall(slow, b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await wait_until(lambda: served.events.readers == 2, DEADLINE, what="both readers are there")
            await reader.event()
            for generation in range(2, 30):
                served.book.tell(told)
                assert (await reader.event())["id"] == str(generation)


async def test_changes_that_come_fast_are_told_together(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "PAUSE_SECONDS", 0.1)
    loop = asyncio.get_running_loop()
    async with serving(status(calm())) as served:

        async def change() -> None:
            while True:
                served.book.tell(status(alarm()))
                await asyncio.sleep(0.001)

        changing = asyncio.create_task(change())
        started = loop.time()
        async with served.reader() as reader:
            for _ in range(6):
                await reader.event()
        changing.cancel()
    assert loop.time() - started >= 5 * 0.1


async def test_a_large_event_is_followed_by_a_longer_pause(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = fleet(50)
    monkeypatch.setattr(events_module, "PACE", len(live(told, LINKS).encode()) / 0.5)
    loop = asyncio.get_running_loop()
    async with serving(told) as served:
        started = loop.time()
        async with served.reader() as reader:
            await reader.event()
            served.book.tell(told)
            await reader.event()
    assert loop.time() - started >= 0.5


async def test_one_server_of_many_can_be_read_alone(served: Served) -> None:
    told = status(alarm("mail"), calm("web"))
    served.book.tell(told)
    async with served.reader("?server=web") as reader:
        assert (await reader.event())["data"] == live(told, LINKS, "web")


async def test_servers_that_do_not_exist_take_no_memory(served: Served) -> None:
    for number in range(20):
        async with served.reader(f"?server=none-{number}") as reader:
            assert (await reader.event())["data"] == live(status(calm()), LINKS)
            assert served.events._made.keys() == {None}


async def test_no_name_splits_the_stream(served: Served) -> None:
    served.book.tell(status(hostile(), *(calm(each) for each in HOSTILE)))
    async with served.reader() as reader:
        await reader.event()
        served.book.tell(status(calm()))
        event = await reader.event()
    assert event == {"id": "3", "event": "live", "data": live(status(calm()), LINKS)}


async def test_every_stream_ends_when_the_server_closes(served: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(served.reader()) for _ in range(10)]
        for reader in readers:
            await reader.event()
        served.events.close()
        served.events.close()
        assert all([await reader.ended() for reader in readers])
    await wait_until(lambda: served.events.readers == 0, DEADLINE, what="no stream is open")


async def test_after_the_close_nobody_is_let_in(served: Served) -> None:
    served.events.close()
    async with served.session.get(served.address()) as answer:
        assert answer.status == 503


async def test_asking_for_the_head_opens_no_stream(served: Served) -> None:
    async with served.session.head(served.address()) as answer:
        assert answer.status == 200
    assert served.events.readers == 0
