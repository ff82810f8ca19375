"""Where connections come in: each is accepted, and brought to TLS where that is spoken, in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from exporter.web.address import Address, bind_everywhere

logger = logging.getLogger("forewarn")

HANDSHAKE_SECONDS: Final = 10.0
"""How long a TLS handshake may take, from the connection on."""

PARTING_SECONDS: Final = 1.0
"""How long the end of TLS may take before the connection is cut."""

REST_SECONDS: Final = 1.0
"""The pause where connections cannot be accepted, for want of file descriptors."""

BACKLOG: Final = 128

_TEXT: Final = b"TLS is spoken here: begin it with https://\n"

_TLS_WANTED: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_TEXT), _TEXT)
)

Factory = Callable[[], asyncio.Protocol]


class Door:
    """Accepts connections until it is closed."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        serve: Factory,
        refuse: Factory,
        room: Callable[[int], bool],
        context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        """Begin to accept.

        ``serve`` makes the protocol of a connection, ``refuse`` of one for which there is no room.

        ``room`` tells whether there is, with so many connections on their way in. ``context`` is asked for each
        connection; ``None``: no TLS.
        """
        self.sockets = tuple(sockets)
        self._serve = serve
        self._refuse = refuse
        self._room = room
        self._context = context
        self._entering: set[asyncio.Task[None]] = set()
        self._accepting = [asyncio.create_task(self._accept(each), name="accept") for each in self.sockets]

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop accepting, and drop whoever is on the way in."""
        tasks = (*self._accepting, *self._entering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in self.sockets:
            each.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # it left again before its turn came
            except OSError as error:
                if not failing:
                    fields = {"failure": error.strerror or type(error).__name__}
                    logger.warning("connections cannot be accepted: they wait", extra={"fields": fields})
                failing = True
                await asyncio.sleep(REST_SECONDS)
                continue
            failing = False
            connection.setblocking(False)
            task = asyncio.create_task(self._enter(connection), name="enter")
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            context = self._context()
            # This one is among those on their way in.
            room = self._room(len(self._entering) - 1)
            if context is None:
                await loop.connect_accepted_socket(self._serve if room else self._refuse, connection)
            elif room:
                await _secure(connection, self._serve, context)
            else:
                connection.close()
        except OSError:
            connection.close()  # it left, or took too long
        except BaseException:
            connection.close()
            raise


async def _secure(connection: socket.socket, serve: Factory, context: ssl.SSLContext) -> None:
    """Bring a connection to TLS; raise OSError where that fails."""
    from exporter.web.tls import last_words  # noqa: PLC0415 - takes memory only where TLS is spoken

    words: list[bytes] = []
    last_words.set(words)
    # Stays open when a handshake has failed, for what is left to say: a loop closes what it was given.
    with connection.dup() as spare:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                serve,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=PARTING_SECONDS,
            )
        except ssl.SSLError as error:
            plain = error.reason == "HTTP_REQUEST"
            logger.debug("a TLS handshake failed", extra={"fields": {"reason": error.reason or "unknown"}})
            with contextlib.suppress(OSError):
                spare.send(_TLS_WANTED if plain else b"".join(words))
                spare.shutdown(socket.SHUT_WR)
            raise


async def beside_of(held: Address, holding: Sequence[socket.socket], address: Address) -> list[socket.socket]:
    """Return what :func:`sockets` returns, while ``holding`` listen on ``held``: it may be the same port.

    On the same address they are the same sockets, and whoever waits to be let in is let in by the next to accept.
    """
    if address == held:
        return [each.dup() for each in holding]
    for each in holding:  # else no other socket could have the port, on whatever address
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        return await sockets(address, shared=True)
    finally:
        for each in holding:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


async def sockets(address: Address, *, shared: bool = False) -> list[socket.socket]:
    """Return sockets that listen on ``address``; raise OSError where it cannot be had.

    ``shared``: a port may be had that others of this user's have, where they allow that.
    """
    if address.host is None:
        listening = [bind_everywhere(address.port, shared=shared)]
    else:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listening = []
        try:
            for family, where in dict.fromkeys((family, where[:2]) for family, _, _, _, where in found):
                listening.append(socket.create_server(where, family=family, backlog=BACKLOG, reuse_port=shared))
        except OSError:
            for each in listening:
                each.close()
            raise
    for each in listening:
        each.setblocking(False)
        if shared:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    return listening
