"""One lasting connection to a Faktory server's command port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

import msgspec

from exporter.faktory.endpoint import Endpoint, tls_context
from exporter.faktory.errors import FaktoryError
from exporter.faktory.protocol import (
    Bulk,
    Error,
    Parser,
    ProtocolError,
    Reply,
    Status,
    command_line,
    greeting,
    hello_line,
)
from exporter.model import Failure, Reason

MAX_WORKER_ID: Final = 256
"""Longest worker id that is asked for, in characters. Clients make them 8 to 36 long."""

FIRST_BACKOFF: Final = 0.5
LAST_BACKOFF: Final = 30.0
REFUSAL_WAIT: Final = 0.2
"""How long to wait after the handshake for the refusal that a server at its limit sends right behind it."""

CLOSE_TIMEOUT: Final = 1.0
MAX_UNREAD: Final = 4
"""Most replies that may wait. A server sends one for each command, and one more where it refuses."""

NAMES_PER_COMMAND: Final = 200
_QUEUE_NAME = re.compile(r"[a-zA-Z0-9._-]{1,1024}")
"""What Faktory takes as a queue's name; any other, sent as a command's argument, would be read as several."""

_OF_TLS: Final = re.compile(r"""b['"]\\x1[56]\\x03""")
"""How a TLS record begins where an error text shows it: the quote depends on the bytes that follow."""


class Client:
    """Speaks to one server over one connection that is kept for ever. Safe to use from several tasks.

    It sends no worker id: to the server it is a producer that never produces. There is no background task: the
    connection is made, and made anew, by whoever needs it, at most as often as the backoff allows.

    Guarantees: at most one connection at any time; a connection on which an answer was late, torn or malformed
    is never used again; every failure is a :class:`FaktoryError` whose text holds no secret.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        connect_timeout: float = 2.0,
        command_timeout: float = 5.0,
    ) -> None:
        self.connects = 0
        """Successful connects so far."""
        self.refusals = 0
        """How often the server refused this client because it was at its connection limit."""
        self._endpoint = endpoint
        self._clock = clock
        self._jitter = jitter
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._lock = asyncio.Lock()
        self._wire: _Wire | None = None
        self._tls: ssl.SSLContext | None = None
        self._last: Failure | None = None
        self._backoff = 0.0
        self._retry_at = 0.0
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection that is not known to be broken."""
        return self._wire is not None and self._wire.usable

    async def keep(self) -> None:
        """Make sure that there is a connection; make one if there is none.

        Raises:
            FaktoryError: There is none. While backing off this is the last failure, told at once.
        """
        async with self._lock:
            await self._keep()

    async def command(self, verb: str, *args: str) -> Reply:
        """Send one command and return the server's reply, which may be an :class:`Error`.

        Raises:
            FaktoryError: There is no connection, or no whole reply within the deadline.
            ValueError: An argument contains CR or LF.
        """
        line = command_line(verb, *args)
        async with self._lock:
            wire = await self._keep()
            try:
                async with asyncio.timeout(self._command_timeout):
                    wire.send(line)
                    reply = await wire.reply()
            except TimeoutError:
                raise self._failed(
                    Reason.TIMEOUT,
                    f"{self._where} did not answer {verb} within {self._command_timeout:g} s: "
                    "is the server, or its Redis, overloaded?",
                ) from None
            except (OSError, ProtocolError) as error:
                raise self._failed_by(error, f"while it answered {verb}") from None
            except BaseException:
                # Cancelled: the reply is still to come, so the connection is out of step.
                self._drop()
                raise
            if _is_refusal(reply):
                raise self._refused(reply)
            self._backoff = 0.0
            return reply

    async def info(self) -> bytes:
        """Return the server's ``INFO`` document.

        A question that can kill a server in the moment a new queue name appears: ask it rarely.

        Raises:
            FaktoryError: As for :meth:`command`, or the server answered with an error.
        """
        return self._bulk("INFO", await self.command("INFO"))

    async def queue_latency(self, names: Iterable[str]) -> dict[str, float]:
        """Return for each queue the seconds that its oldest job has waited, 0 when it is empty or unknown.

        Names that cannot be a queue's are left out.

        Raises:
            FaktoryError: As for :meth:`command`, or the server answered with an error.
        """
        wanted = [name for name in names if _QUEUE_NAME.fullmatch(name)]
        found: dict[str, float] = {}
        for start in range(0, len(wanted), NAMES_PER_COMMAND):
            reply = await self.command("QUEUE", "LATENCY", *wanted[start : start + NAMES_PER_COMMAND])
            # Before 1.9.2 it is an unknown subcommand: 1.8 says OK to it and does nothing, others an error.
            if isinstance(reply, Status) or (isinstance(reply, Error) and "subcommand" in reply.text):
                raise FaktoryError(
                    Reason.SERVER, f"{self._where} does not know QUEUE LATENCY: Faktory 1.9.2 or newer is needed"
                )
            try:
                told = msgspec.json.decode(self._bulk("QUEUE LATENCY", reply), type=dict[str, float])
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise FaktoryError(
                    Reason.DECODE, f"{self._where} answered QUEUE LATENCY with what is not understood: {error}"
                ) from None
            found.update((name, max(0.0, seconds)) for name, seconds in told.items())
        return found

    async def registered(self, worker_id: str) -> bool:
        """Tell whether a worker is still registered, by a heartbeat in its name.

        It refreshes that worker's heartbeat, so that a hung worker lives on: ask rarely and only when in doubt.

        Raises:
            FaktoryError: As for :meth:`command`; or the id is none that can be asked for: empty, too long, or with
                control characters. The server repeats the id in its answer as it is, so that a line break in it
                would forge the next reply.
        """
        if (
            not worker_id
            or len(worker_id) > MAX_WORKER_ID
            or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in worker_id)
        ):
            raise FaktoryError(Reason.DECODE, f"a worker id cannot be asked for at {self._where}: {worker_id[:80]!r}")
        try:
            question = msgspec.json.encode({"wid": worker_id}).decode()
        except UnicodeEncodeError:
            raise FaktoryError(
                Reason.DECODE, f"a worker id cannot be asked for at {self._where}: {worker_id[:80]!r}"
            ) from None
        reply = await self.command("BEAT", question)
        match reply:
            case Error(text) if text.lower().startswith("err unknown worker"):
                return False
            case Status("OK") | Bulk(bytes()):
                return True
        raise self._unwelcome("BEAT", reply)

    async def close(self) -> None:
        """Leave politely (``END``), within a second. Afterwards every use fails; safe to call twice."""
        self._closed = True
        wire, self._wire = self._wire, None
        if wire is None:
            return
        try:
            if wire.usable:
                wire.send(command_line("END"))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        await wire.ended()
        finally:
            wire.abort()

    @property
    def _where(self) -> str:
        return self._endpoint.where

    async def _keep(self) -> _Wire:
        if self._closed:
            raise FaktoryError(Reason.UNREACHABLE, f"the connection to {self._where} has been closed for good")
        wire = self._wire
        if wire is not None:
            if wire.usable:
                return wire
            self._drop()
            if (word := wire.last_word()) is not None and _is_refusal(word):
                raise self._refused(word)
        wait = self._retry_at - self._clock()
        if self._last is not None and wait > 0:
            raise FaktoryError(self._last.reason, f"{self._last.message} (next try in {wait:.1f} s)")
        return await self._connect()

    async def _connect(self) -> _Wire:
        try:
            async with asyncio.timeout(self._connect_timeout):
                wire = await self._dial()
        except TimeoutError:
            raise self._failed(
                Reason.TIMEOUT,
                f"{self._where} accepted no connection within {self._connect_timeout:g} s: "
                "is the address right, and does a firewall drop packets?",
            ) from None
        except OSError as error:
            raise self._failed_by(error, "while connecting") from None
        self._wire = wire
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._shake_hands(wire)
            unasked = await _reply_within(wire, REFUSAL_WAIT)
        except TimeoutError:
            raise self._failed(
                Reason.TIMEOUT,
                f"{self._where} did not finish the handshake within {self._connect_timeout:g} s: "
                "is it a Faktory server, and is it running?",
            ) from None
        except (OSError, ProtocolError) as error:
            raise self._failed_by(error, "during the handshake") from None
        except BaseException:
            self._drop()
            raise
        if unasked is not None:
            raise (
                self._refused(unasked)
                if _is_refusal(unasked)
                else self._unwelcome("the handshake twice, the second time", unasked)
            )
        self.connects += 1
        self._last = None
        return wire

    async def _dial(self) -> _Wire:
        tls = self._tls_settings() if self._endpoint.tls else None
        _, wire = await asyncio.get_running_loop().create_connection(
            _Wire,
            self._endpoint.host,
            self._endpoint.port,
            ssl=tls,
            ssl_handshake_timeout=self._connect_timeout + 1 if tls else None,  # the shorter deadline is the caller's
            ssl_shutdown_timeout=CLOSE_TIMEOUT if tls else None,
        )
        return wire

    def _tls_settings(self) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = tls_context(self._endpoint.ca_file)
            except OSError as error:
                raise self._failed(
                    Reason.TLS,
                    f"the certificates in {self._endpoint.ca_file} cannot be used: {error.strerror or 'not PEM'}",
                ) from None
        return self._tls

    async def _shake_hands(self, wire: _Wire) -> None:
        hi = greeting(await self._first_words(wire))
        password = self._endpoint.password
        if hi.salt is not None and password is None:
            raise self._failed(
                Reason.AUTH, f"{self._where} asks for a password and none is configured: put it into the URL"
            )
        secret = None if password is None else password.reveal()
        wire.send(hello_line(hi, secret, socket.gethostname(), os.getpid()))
        match await wire.reply():
            case Status("OK"):
                return
            case Error(text) if "password" in text.lower():
                raise self._failed(
                    Reason.AUTH, f"{self._where} refused the password: is it the one the server was started with?"
                )
            case Error(text) as reply if not _is_refusal(reply):
                raise self._failed(Reason.SERVER, f"{self._where} answered HELLO with an error: {text[:200]!r}")
            case reply:
                raise self._refused(reply) if _is_refusal(reply) else self._unwelcome("HELLO", reply)

    async def _first_words(self, wire: _Wire) -> Reply:
        if self._endpoint.tls:
            return await wire.reply()
        # Faktory greets first; a TLS server waits for the client. So a silent one is asked in TLS: it answers with
        # bytes that tell what it is, where it would otherwise just time out.
        reply = await _reply_within(wire, self._connect_timeout / 2)
        if reply is not None:
            return reply
        wire.send(_client_hello())
        return await wire.reply()

    def _bulk(self, asked: str, reply: Reply) -> bytes:
        if isinstance(reply, Bulk) and reply.data is not None:
            return reply.data
        raise self._unwelcome(asked, reply)

    def _unwelcome(self, asked: str, reply: Reply) -> FaktoryError:
        """Return what an unwelcome reply means: after an error the connection is in step, else it is dropped."""
        if isinstance(reply, Error):
            return FaktoryError(Reason.SERVER, f"{self._where} answered {asked} with an error: {reply.text[:200]!r}")
        return self._failed(
            Reason.PROTOCOL,
            f"{self._where} answered {asked} with {type(reply).__name__.lower()}, which is not Faktory",
        )

    def _refused(self, reply: Reply) -> FaktoryError:
        self.refusals += 1
        text = reply.text[:120] if isinstance(reply, Error) else ""
        return self._failed(
            Reason.REFUSED,
            f"{self._where} is at its connection limit and refused this connection ({text!r}): "
            "find the clients that leak connections, or raise the limit",
        )

    def _failed_by(self, error: Exception, when: str) -> FaktoryError:
        reason, text = _explained(error, tls=self._endpoint.tls)
        if reason is Reason.TLS:
            self._tls = None  # read the certificates again next time: they may have been renewed
        return self._failed(reason, f"{self._where} failed {when}: {text}")

    def _failed(self, reason: Reason, message: str) -> FaktoryError:
        """Drop the connection, take a longer break before the next one, and return what to raise."""
        self._drop()
        self._backoff = min(LAST_BACKOFF, self._backoff * 2 or FIRST_BACKOFF)
        self._retry_at = self._clock() + self._backoff * (0.8 + 0.4 * self._jitter())
        error = FaktoryError(reason, message)
        self._last = error.failure
        return error

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort()


class _Wire(asyncio.Protocol):
    """The transport's end: parsed replies waiting to be read, and how the connection ended."""

    def __init__(self) -> None:
        self._parser = Parser()
        self._replies: deque[Reply] = deque()
        self._error: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._wake: asyncio.Future[None] | None = None
        self._lost = False

    @property
    def usable(self) -> bool:
        """Whether the connection stands and is in step: nothing has come that was not asked for."""
        return self._error is None and not self._replies and not self._parser.torn

    def last_word(self) -> Reply | None:
        """Return what the peer said unasked, if anything."""
        return self._replies[0] if self._replies else None

    def send(self, data: bytes) -> None:
        """Write; what goes wrong is told by the next :meth:`reply`."""
        if self._transport is not None and self._error is None:
            self._transport.write(data)

    async def reply(self) -> Reply:
        """Return the next reply.

        Raises:
            OSError: The connection ended.
            ProtocolError: What came is not the protocol.
        """
        while not self._replies:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._replies.popleft()

    async def ended(self) -> None:
        """Wait until the connection has ended."""
        while not self._lost:
            await self._wait()

    def abort(self) -> None:
        """Close at once, without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._notify()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What a stream protocol is given; not everybody's transport is of asyncio's class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        try:
            self._replies.extend(self._parser.feed(data))
        except ProtocolError as error:
            self._end(error)
        if len(self._replies) > MAX_UNREAD:
            self._end(ProtocolError(f"more than {MAX_UNREAD} replies came unasked"))
        if self._error is not None:
            self.abort()
        self._notify()

    def eof_received(self) -> None:
        torn = " in the middle of a reply" if self._parser.torn else ""
        self._end(ConnectionResetError(f"the server closed the connection{torn}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._end(exc or ConnectionResetError("the connection was closed"))


async def _reply_within(wire: _Wire, seconds: float) -> Reply | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await wire.reply()
    return None


def _is_refusal(reply: Reply) -> bool:
    return isinstance(reply, Error) and "too many connections" in reply.text.lower()


def _client_hello() -> bytes:
    """Return the first bytes of a TLS client that trusts anyone: only to see whether the peer speaks TLS at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def _explained(error: Exception, *, tls: bool) -> tuple[Reason, str]:
    """Return what an error of the transport or the protocol means, in words."""
    match error:
        case ssl.SSLCertVerificationError():
            return Reason.TLS, (
                f"its certificate is not trusted ({error.verify_message}): name the authority's certificate file, "
                "and use the host name that stands in the certificate"
            )
        case ssl.SSLError():
            reason = (error.reason or "unknown").replace("_", " ").lower()
            return (
                Reason.TLS,
                f"TLS did not come about ({reason}): is it a plain port? Then write tcp:// for tcp+tls://",
            )
        case ProtocolError():
            text = str(error)
            if not tls and _OF_TLS.search(text):
                return Reason.TLS, "it speaks TLS: write tcp+tls:// for tcp://"
            hint = ": is that the port of its web pages? Workers connect to 7419" if "HTTP/" in text else ""
            return Reason.PROTOCOL, text + hint
        case socket.gaierror():
            return Reason.UNREACHABLE, f"its name does not resolve ({error.strerror}): check the host in the URL"
        case ConnectionRefusedError():
            return Reason.UNREACHABLE, "nothing listens there: is the server running, and are host and port right?"
        case ConnectionError():
            told = error.strerror or str(error)
            if "middle of a reply" in told:
                return Reason.PROTOCOL, told
            return Reason.UNREACHABLE, f"{told}: was the server restarted?".lower()
    return Reason.UNREACHABLE, str(getattr(error, "strerror", None) or error)
