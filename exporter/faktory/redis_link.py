"""The one connection to Faktory's Redis, and the one place that all reads of it go through."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from exporter.faktory.endpoint import host_port, split_url
from exporter.faktory.errors import FaktoryError
from exporter.model import Reason
from exporter.secret import Secret

ALLOWED: Final = frozenset({"TIME", "SSCAN", "LLEN", "LINDEX", "ZCARD", "ZRANGEBYSCORE", "MGET"})
"""Every command that is ever sent, beside the ``AUTH`` and ``SELECT`` that the connection itself begins with.
None of them writes, and each takes well under a millisecond of Redis's time as it is used here."""

DEFAULT_PORT: Final = 6379

Command = tuple[str | bytes | int | float, ...]
"""A command's name and its arguments."""

Answer = Any
"""What Redis answered: bytes, an int, a list, ``None``, or the ``redis.ResponseError`` that this one command met."""


class RedisAddress(msgspec.Struct, frozen=True):
    """Where a Redis is, and how to log in. Either ``path`` or ``host`` is set."""

    path: str = ""
    host: str = ""
    port: int = DEFAULT_PORT
    db: int = 0
    username: str | None = None
    password: Secret | None = None
    tls: bool = False

    @classmethod
    def parse(cls, url: str, password: Secret | None = None) -> RedisAddress:
        """Understand ``unix:///path/redis.sock?db=0``, ``redis://user:password@host:6379/0`` and ``rediss://...``.

        ``password`` stands in for the one that the URL may carry.

        Raises:
            ValueError: It is not such an address. The text tells what is wrong, never a password.
        """
        if url.startswith("unix:"):
            return cls._unix(url, password)
        parts = split_url(
            url, {"redis", "rediss"}, "unix:///path/redis.sock, redis://:password@host:6379/0 or rediss://..."
        )
        db = parts.path.strip("/")
        return cls(
            host=parts.hostname or "",
            port=parts.port or DEFAULT_PORT,
            db=_database(db),
            username=unquote(parts.username) if parts.username else None,
            password=Secret(unquote(parts.password)) if parts.password else password,
            tls=parts.scheme == "rediss",
        )

    @classmethod
    def _unix(cls, url: str, password: Secret | None) -> RedisAddress:
        try:
            parts = urlsplit(url)
            path, query = unquote(parts.path), parse_qs(parts.query)
            own = unquote(parts.password) if parts.password else None
        except ValueError:
            raise ValueError("the URL is malformed; write unix:///path/redis.sock") from None
        if not path.startswith("/") or parts.hostname:
            raise ValueError("the URL names no absolute path; write unix:///path/redis.sock, with three slashes")
        if query.keys() - {"db"}:
            raise ValueError("the URL has parameters other than db; write unix:///path/redis.sock?db=0")
        return cls(path=path, db=_database(query.get("db", [""])[-1]), password=Secret(own) if own else password)

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return f"Redis at {self.path or host_port(self.host, self.port)}"


class RedisLink:
    """One read-only connection, made when it is needed, with a deadline on every round trip.

    Not for use by several tasks at once.
    """

    def __init__(self, address: RedisAddress, *, ca_file: Path | None = None, timeout: float = 2.0) -> None:
        self.where = address.where
        self._address = address
        self._ca_file = ca_file
        self._timeout = timeout
        self._connection: Connection | UnixDomainSocketConnection | None = None

    async def ask(self, *commands: Command) -> list[Answer]:
        """Send ``commands`` in one go and return their answers in order.

        An error that concerns one command alone stands in its place as a ``redis.ResponseError``.

        Raises:
            FaktoryError: Redis cannot be reached or read.
            PermissionError: A command is not on the list of those allowed; nothing has been sent.
        """
        for command in commands:
            if command[0] not in ALLOWED:
                raise PermissionError(f"the Redis command {command[0]!r} is not on the list of those allowed")
        reused = self._connection is not None
        try:
            return await self._round_trip(commands)
        except exceptions.ConnectionError as error:
            # Closed since the last read, by a restart or by Redis's own timeout: reads may be asked again.
            if not reused or isinstance(error, exceptions.AuthenticationError | exceptions.BusyLoadingError):
                raise self._explained(error) from None
        except (exceptions.RedisError, OSError) as error:
            raise self._explained(error) from None
        try:
            return await self._round_trip(commands)
        except (exceptions.RedisError, OSError) as error:
            raise self._explained(error) from None

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    def problem(self, error: BaseException, asked: str) -> str:
        """Return in words what one command's own error means."""
        return f"{self.where} answered {asked} with: {str(error)[:120]}"

    async def _round_trip(self, commands: Sequence[Command]) -> list[Answer]:
        try:
            async with asyncio.timeout(self._timeout):
                connection = self._connection
                if connection is None:
                    connection = self._connection = self._new()
                    await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_packed_command(connection.pack_commands(commands))
                answers: list[Answer] = []
                for _ in commands:
                    try:
                        answers.append(await connection.read_response())
                    except exceptions.NoPermissionError:
                        raise
                    except exceptions.ResponseError as error:
                        answers.append(error)
                return answers
        except BaseException:
            await self.close()  # answers may still be on their way: it is out of step
            raise

    def _new(self) -> Connection | UnixDomainSocketConnection:
        address = self._address
        common: dict[str, Any] = {
            "db": address.db,
            "username": address.username,
            "password": None if address.password is None else address.password.reveal(),
            "socket_connect_timeout": self._timeout,
            "driver_info": None,  # else it would begin with CLIENT SETINFO, which is not on the list
            "protocol": 2,
        }
        if address.path:
            return UnixDomainSocketConnection(path=address.path, **common)
        if not address.tls:
            return Connection(host=address.host, port=address.port, **common)
        return SSLConnection(
            host=address.host,
            port=address.port,
            ssl_cert_reqs="required",
            ssl_check_hostname=True,
            ssl_ca_certs=None if self._ca_file is None else str(self._ca_file),
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
            **common,
        )

    def _explained(self, error: BaseException) -> FaktoryError:
        reason, text = _meaning(error, unix=bool(self._address.path), tls=self._address.tls)
        return FaktoryError(reason, f"{self.where} {text}")


def score_text(value: float) -> str:
    """Return ``value`` as Redis reads it back without loss."""
    if math.isinf(value):
        return "+inf" if value > 0 else "-inf"
    return repr(value)


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise ValueError("the URL's database is no number; write redis://host:6379/0 or unix:///path/redis.sock?db=0")
    return int(text)


def _meaning(error: BaseException, *, unix: bool, tls: bool) -> tuple[Reason, str]:
    """Return what an error means, in words, looking at the errors behind it too: the library wraps them."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 10:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for each in chain:
        match each:
            case exceptions.BusyLoadingError():
                return Reason.SERVER, "is still loading its data from disk: wait"
            case exceptions.AuthenticationError():
                return (
                    Reason.AUTH,
                    f"refused the password ({str(each)[:80]}): is it the right one, and is one needed at all?",
                )
            case exceptions.NoPermissionError():
                return (
                    Reason.AUTH,
                    f"does not permit a read ({str(each)[:80]}): let its user run {', '.join(sorted(ALLOWED))}",
                )
            case exceptions.InvalidResponse():
                return Reason.PROTOCOL, "did not answer as a Redis does: is the address right?"
            case ssl.SSLCertVerificationError():
                return Reason.TLS, (
                    f"has a certificate that is not trusted ({each.verify_message}): name the authority's "
                    "certificate file, and use the host name that stands in the certificate"
                )
            case ssl.SSLError():
                told = (each.reason or "unknown").replace("_", " ").lower()
                return (
                    Reason.TLS,
                    f"did not come to speak TLS ({told}): is it a plain port? Then write redis:// for rediss://",
                )
            case FileNotFoundError() if unix:
                return (
                    Reason.UNREACHABLE,
                    "is not there: is Faktory running, and is that its storage directory's redis.sock?",
                )
            case FileNotFoundError() if tls:
                return Reason.TLS, "cannot be verified: the file of trusted certificates does not exist"
            case PermissionError():
                return Reason.UNREACHABLE, "may not be opened (permission denied): run as the same user as Faktory"
            case ConnectionRefusedError():
                return Reason.UNREACHABLE, "cannot be reached: nothing listens there; is Faktory running?"
            case TimeoutError() | exceptions.TimeoutError():
                also = ", and does that port speak TLS?" if tls else "?"
                return Reason.TIMEOUT, f"did not answer in time: is it overloaded, does a firewall drop packets{also}"
    text = str(error)[:160]
    if "max number of clients" in text:
        return Reason.REFUSED, "is at its limit of clients and refused this connection"
    return Reason.UNREACHABLE, f"cannot be reached ({text})"
