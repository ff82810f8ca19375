"""What is hard on a server: workers that come and go, new queue names, and a poller that asks without care."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.servers import WatchedServer
from tests.wire import new_jid

NEW_NAME_EVERY = 0.1
TIMEOUT = 5.0


class _Threads:
    """Loops in threads that end when they are told to, or when the server has died. Servers without a password."""

    def __init__(self, server: WatchedServer) -> None:
        self.port = server.port
        self.web_port = server.web_port
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def _run(self, step: Callable[[], None], pause: float = 0.0) -> None:
        def loop() -> None:
            while not self._stop.is_set():
                # A connection that fails is the server's trouble, which the test looks at by itself.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    step()
                    if not pause:
                        continue
                self._stop.wait(pause or 0.01)

        self._threads.append(threading.Thread(target=loop, daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT)


class Churn(_Threads):
    """Four threads of workers that connect and leave as fast as they can, and a new queue name every 100 ms."""

    def __init__(self, server: WatchedServer, *, new_queues: bool = True) -> None:
        super().__init__(server)
        self.workers = 0
        self.queues = 0
        self._producer: socket.socket | None = None
        for number in range(4):
            self._run(lambda number=number: self._come_and_go(number))  # type: ignore[misc]
        if new_queues:
            self._run(self._push_to_a_new_queue, NEW_NAME_EVERY)

    def _come_and_go(self, thread: int) -> None:
        with _connected(self.port, f"churn-{thread}-{self.workers}"):
            self.workers += 1

    def _push_to_a_new_queue(self) -> None:
        if self._producer is None:
            self._producer = _connected(self.port)
        job = {"jid": new_jid("churn"), "jobtype": "Churn", "args": [], "queue": f"churn-{self.queues}"}
        try:
            _ask(self._producer, "PUSH " + json.dumps(job))
        except OSError:
            self._producer.close()
            self._producer = None
            raise
        self.queues += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        if self._producer is not None:
            self._producer.close()


class NaivePoller(_Threads):
    """Asks for ``/busy`` and for ``INFO`` again and again, as other observers do."""

    def __init__(self, server: WatchedServer, *, infos: bool = True) -> None:
        super().__init__(server)
        self.pages = 0
        self.infos = 0
        self._run(self._load_busy)
        if infos:
            self._run(self._ask_info)

    def _load_busy(self) -> None:
        page = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=TIMEOUT)
        with contextlib.closing(page):
            page.request("GET", "/busy")
            page.getresponse().read()
            self.pages += 1

    def _ask_info(self) -> None:
        with _connected(self.port) as connection:
            for _ in range(100):
                if self._stop.is_set():
                    break
                _ask(connection, "INFO")
                self.infos += 1


def _connected(port: int, wid: str | None = None) -> socket.socket:
    """Connect, shake hands and return the connection."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    try:
        _read(connection)
        said = {"hostname": "churn", "pid": 1, "labels": [], "v": 2} | ({} if wid is None else {"wid": wid})
        _ask(connection, "HELLO " + json.dumps(said))
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, line: str) -> None:
    connection.sendall(line.encode() + b"\r\n")
    _read(connection)


def _read(connection: socket.socket) -> None:
    """Read one reply, whatever it is: small ones come in one piece, and what is left of a large one is passed over."""
    reply = connection.recv(65536)
    if reply.startswith(b"$"):
        head, _, body = reply.partition(b"\r\n")
        missing = int(head[1:]) + 2 - len(body)
        while missing > 0:
            piece = connection.recv(65536)
            missing -= len(piece)
            if not piece:
                break
        reply = reply if missing <= 0 else b""
    if not reply:
        raise ConnectionResetError("the server closed the connection")
