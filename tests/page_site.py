"""Forewarn's real web server with a made-up book, in a thread of its own: who drives a browser has to wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from exporter.outputs.prometheus import Exposition
from exporter.status.book import StatusBook
from exporter.status.document import Status
from exporter.web.address import Address
from exporter.web.links import Links
from exporter.web.server import WebServer, start_web
from tests.page_samples import SampleBook
from tests.servers import free_port

LINKS = Links(runbooks_url="https://runbooks.example/forewarn", dashboards_url="https://grafana.example")
DEADLINE = 60.0

T = TypeVar("T")


class Site:
    """A server that tells what it is told to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, told: Status) -> None:
        self.port = free_port()
        self._loop = loop
        self._book = SampleBook(told)
        self._server: WebServer | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def tell(self, told: Status) -> None:
        """Change what is known."""

        async def change() -> None:
            self._book.tell(told)

        self._wait(change())

    def up(self) -> None:
        """Begin to serve."""
        book = cast("StatusBook", self._book)
        address = Address("127.0.0.1", self.port)
        self._server = self._wait(start_web(address, Exposition("0"), dict, book=book, links=LINKS))

    def down(self) -> None:
        """Stop serving; :meth:`up` begins again on the same port."""
        server, self._server = self._server, None
        if server is not None:
            self._wait(server.close())

    def _wait(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(DEADLINE)


@contextmanager
def site(told: Status) -> Iterator[Site]:
    """Serve ``told``; nothing of it is left behind."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = Site(loop, told)
    try:
        made.up()
        yield made
    finally:
        made.down()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()
