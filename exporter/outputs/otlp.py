"""Sends OpenTelemetry data to one collector, by OTLP over HTTP with protobuf.

Whatever the collector does, one request takes no longer than its deadline, keeps no more than :data:`MAX_ANSWER` bytes
of the answer, leaves no socket behind and never holds the event loop. OpenTelemetry's own exporter cannot promise that:
its time limit is for each read, and an answer without an end fills memory.

Imported only where an endpoint is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from exporter import __version__
from exporter.faktory.endpoint import tls_context
from exporter.model import Failure, Reason
from exporter.outputs.otlp_delivery import Delivery, Fate
from exporter.settings import OtlpTarget

MAX_ANSWER: Final = 64 * 1024
"""Most bytes of an answer's body that are read."""

MAX_SAID: Final = 200
"""Most characters of the collector's own words that are repeated."""

MAX_RETRY_AFTER: Final = 300.0
"""Most seconds for which a collector may ask not to be asked again."""

IDLE_SECONDS: Final = 15.0
"""How long an unused connection is kept: shorter than servers commonly do, so that it is not closed as it is used."""

CLOSING: Final = 0.5
"""Seconds that closing may take."""

GZIP_LEVEL: Final = 6

_TRANSIENT: Final = frozenset({408, 429, 502, 503, 504})
"""HTTP statuses after which OTLP wants the same request again; 408 is not in its list, but says so itself."""

_PROTOBUF: Final = frozenset({"", "application/x-protobuf", "application/protobuf", "application/octet-stream"})

_HINTS: Final[Mapping[int, str]] = {
    401: "it wants another token: set the right header in --otlp.headers-file or OTEL_EXPORTER_OTLP_HEADERS",
    403: "the token is not allowed to write here: set the right header in --otlp.headers-file"
    " or OTEL_EXPORTER_OTLP_HEADERS",
    404: "is it OTLP over HTTP (port 4318), and is the path right?",
    405: "is it OTLP over HTTP (port 4318), and is the path right?",
    408: "it took too long for the collector to get the request: is the network slow?",
    413: "it takes no requests of this size: raise its limit",
    415: "it does not take protobuf, or not gzip: is it OTLP over HTTP?",
    429: "it takes no more for now: raise its limit, or send less",
    502: "what is behind it is down",
    503: "it is overloaded, or what is behind it is down",
    504: "what is behind it does not answer",
}


class OtlpSender:
    """Posts to one target over one connection, which is opened when it is first needed and kept.

    For use in one event loop. One request at a time: a second one waits, within its own deadline.
    """

    def __init__(self, target: OtlpTarget, *, now: Callable[[], float] = time.time) -> None:
        """``now`` is the clock in Unix seconds that dates in answers are read by."""
        self._target = target
        self._now = now
        self._where = _without_secrets(target.url)
        self._secure = target.url.lower().startswith("https:")
        self._lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._sockets: list[socket.socket] = []
        self._opened = 0

    async def post(self, body: bytes) -> Delivery:
        """Send one encoded export request and tell what became of it. Raises nothing but cancellation."""
        try:
            async with asyncio.timeout(self._target.timeout), self._lock:
                return self._judge(await self._ask(body))
        except Exception as error:  # noqa: BLE001 - no defect of anyone's may end what sends
            return Delivery(Fate.AGAIN, self._failure(error))

    async def close(self) -> None:
        """Cut the connection. Safe to call twice; the next request opens a new one."""
        session, self._session = self._session, None
        self._cut()
        if session is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await session.close()

    async def _ask(self, body: bytes) -> _Answer:
        if self._target.gzip:
            body = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL, mtime=0)
        session = self._session = self._session or await self._open()
        opened = self._opened
        try:
            return await self._exchange(session, body)
        except aiohttp.ClientConnectionError:
            if self._opened != opened:
                if self._secure:
                    # Certificates may be renewed while Forewarn runs: they are read anew for the next request.
                    await self.close()
                raise
        # The collector closed a kept connection just as it was used again. To get the same twice does it no harm.
        return await self._exchange(session, body)

    async def _exchange(self, session: aiohttp.ClientSession, body: bytes) -> _Answer:
        finished = False
        try:
            # A file, because aiohttp writes that in pieces, and bytes at once.
            async with session.post(
                self._target.url, data=BytesIO(body), headers=self._headers(), allow_redirects=False
            ) as response:
                content = await _read(response)
                finished = content is not None
                return _Answer(
                    status=response.status,
                    kind=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                    retry_after=response.headers.get("Retry-After"),
                    content=content,
                )
        finally:
            if not finished:
                self._cut()

    def _headers(self) -> dict[str, str]:
        return {
            "user-agent": f"forewarn/{__version__}",
            **{name.lower(): value.reveal() for name, value in self._target.headers.items()},
            "content-type": "application/x-protobuf",
            # An answer is small: unpacking one could only fill memory.
            "accept-encoding": "identity",
            **({"content-encoding": "gzip"} if self._target.gzip else {}),
        }

    async def _open(self) -> aiohttp.ClientSession:
        # Reading the system's certificates takes tens of milliseconds.
        tls = await asyncio.to_thread(_tls, self._target) if self._secure else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=1,
                ssl=tls,
                keepalive_timeout=IDLE_SECONDS,
                resolver=_Resolver(),
                socket_factory=self._socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # The deadline is post's own: aiohttp rounds its own up to whole seconds.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        )

    def _socket(self, address: tuple[object, ...]) -> socket.socket:
        family, kind, protocol = address[:3]
        made = socket.socket(family, kind, protocol)  # type: ignore[arg-type] # as getaddrinfo tells them
        self._sockets = [*(it for it in self._sockets if it.fileno() >= 0), made]
        self._opened += 1
        return made

    def _cut(self) -> None:
        """End every connection at once.

        To close one leaves what is not yet written in memory, and the socket open, until the other side takes it. One
        that never reads would get another socket with every request.
        """
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _failure(self, error: Exception) -> Failure:
        """Return why there was no answer. What the exception itself says is not shown: it may hold a header."""
        where = self._where
        said = _tls_said(error)
        match error:
            case TimeoutError():
                return Failure(
                    Reason.TIMEOUT,
                    f"{where} did not answer within {self._target.timeout:g} s: does it hang,"
                    " or does a firewall drop packets?",
                )
            case _Certificates():
                return Failure(
                    Reason.CONFIG, f"a certificate file for {where} cannot be used ({error}): name readable PEM files"
                )
            case aiohttp.ClientConnectorCertificateError():
                told = getattr(error.certificate_error, "verify_message", "")
                return Failure(
                    Reason.TLS,
                    f"{where}: the certificate is not trusted ({told}): name the authority's certificate file in"
                    " --otlp.ca-file, and use the host name that stands in the certificate",
                )
            case _ if said is not None:
                return Failure(
                    Reason.TLS,
                    f"{where}: TLS did not come about ({said}): a plain port wants http://, and a collector that"
                    " asks for a client's certificate wants one that it trusts",
                )
            case aiohttp.ClientConnectorError():
                told = (error.os_error.strerror or type(error.os_error).__name__).lower()
                return Failure(
                    Reason.UNREACHABLE, f"{where} cannot be reached ({told}): does it run, and are host and port right?"
                )
            case aiohttp.InvalidURL():
                return Failure(Reason.CONFIG, f"{where} is no URL that can be asked: write http://host:4318")
            case aiohttp.ClientConnectionError():
                hint = "does it ask for a client's certificate?" if self._secure else "is it https:// that it wants?"
                return Failure(
                    Reason.PROTOCOL,
                    f"{where} closed the connection without an answer: is it OTLP over HTTP (port 4318)? And {hint}",
                )
            case _:
                return Failure(
                    Reason.PROTOCOL,
                    f"{where} was not answered in HTTP ({type(error).__name__}): is it OTLP over HTTP (port 4318,"
                    " not 4317)?",
                )

    # --- what an answer means ---------------------------------------------------------------------------------------

    def _judge(self, answer: _Answer) -> Delivery:
        status = answer.status
        if 200 <= status < 300:
            return self._success(answer)
        reason = Reason.AUTH if status in {401, 403} else Reason.PROTOCOL if status < 400 else Reason.SERVER
        hint = _HINTS.get(
            status,
            "redirects are not followed: write the address that it leads to"
            if status < 400
            else "the collector's own log tells more",
        )
        failure = Failure(reason, f"{self._where} was answered with HTTP status {status}{self._said(answer)}: {hint}")
        if status in _TRANSIENT:
            return Delivery(Fate.AGAIN, failure, retry_after=retry_after(answer.retry_after, self._now()))
        if status >= 500:
            # OTLP wants none of these sent again, but there are collectors that mean overload by 500.
            return Delivery(Fate.AGAIN, failure, doubtful=True)
        return Delivery(Fate.REJECTED, failure)

    def _success(self, answer: _Answer) -> Delivery:
        told = _partial(answer)
        if told is None:
            what = "a web page" if answer.is_page else "what is no OTLP"
            return Delivery(
                Fate.REJECTED,
                Failure(
                    Reason.PROTOCOL,
                    f"{self._where} was answered with {what}: is it OTLP over HTTP (port 4318), and is the path right?",
                ),
            )
        rejected, text = told
        if rejected <= 0:
            return Delivery(Fate.SENT)
        failure = Failure(
            Reason.SERVER,
            f"{self._where} rejected {rejected} of what it was sent{self._quoted(text)}:"
            " the collector's own log tells more",
        )
        return Delivery(Fate.SENT, failure, rejected=rejected)

    def _said(self, answer: _Answer) -> str:
        """Return the collector's own words in an answer that is an error: a ``google.rpc.Status``, or plain text."""
        if not answer.content or answer.is_page:
            return ""
        text = answer.content.decode("utf-8", "replace")
        if answer.kind in _PROTOBUF:
            # A Status has its message where ExportTracePartialSuccess has its own: field 2, behind a number.
            with contextlib.suppress(DecodeError):
                text = ExportTracePartialSuccess.FromString(answer.content).error_message
        return self._quoted(text)

    def _quoted(self, text: str) -> str:
        # One that echoes its request, as proxies for debugging do, must not bring a token into a log.
        for value in self._target.headers.values():
            for secret in _shapes(value.reveal()):
                text = text.replace(secret, "***")
        words = "".join(each if each.isprintable() else " " for each in text[: 8 * MAX_SAID]).split()
        said = " ".join(words)
        return f" ({said[:MAX_SAID]}{'…' if len(said) > MAX_SAID else ''})" if said else ""


class _Answer(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    kind: str
    """The media type, without parameters."""
    retry_after: str | None
    content: bytes | None
    """``None``: more than :data:`MAX_ANSWER` bytes."""

    @property
    def is_page(self) -> bool:
        return "html" in self.kind or (self.content or b"").lstrip()[:1] == b"<"


class _Certificates(Exception):  # noqa: N818 - a part of a sentence
    """Why a certificate file cannot be used."""


class _Resolver(AbstractResolver):
    """Looks a name up in a thread that nobody waits for: one in the loop's own pool would hold the exit up.

    The connector asks for one name only once at a time.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(found: list[ResolveResult] | None, error: OSError) -> None:
            if future.done():
                return
            if found is None:
                future.set_exception(error)
            else:
                future.set_result(found)

        def look_up() -> None:
            found, failure = None, OSError()
            try:
                found = list(_addresses(host, port, family))
            except (OSError, UnicodeError) as error:
                failure = error if isinstance(error, OSError) else OSError(None, "no host name")
            with contextlib.suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(settle, found, failure)

        threading.Thread(target=look_up, name="otlp name", daemon=True).start()
        return await future

    async def close(self) -> None:
        """Nothing is held."""


def retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for, at most :data:`MAX_RETRY_AFTER`; ``None`` if it is none.

    ``now`` is in Unix seconds: the header holds seconds or a date (RFC 9110, section 10.2.3).
    """
    if text is None or len(text) > 64:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    content = b""
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER:
            return None
    return content


def _partial(answer: _Answer) -> tuple[int, str] | None:
    """Return how many items were rejected, and why; ``None`` if the answer is not one of OTLP.

    Traces and metrics have answers of the same shape. Some collectors answer in JSON, whatever they were asked in.
    """
    if answer.content is None or answer.is_page:
        return None
    if not answer.content:
        return 0, ""
    try:
        if answer.kind == "application/json":
            partial = _JSON.decode(answer.content).partial_success
            return partial.rejected_spans or partial.rejected_data_points, partial.error_message
        if answer.kind in _PROTOBUF:
            told = ExportTraceServiceResponse.FromString(answer.content).partial_success
            return told.rejected_spans, told.error_message
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None


class _JsonPartial(msgspec.Struct, rename="camel"):
    rejected_spans: int = 0
    rejected_data_points: int = 0
    error_message: str = ""


class _JsonAnswer(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    partial_success: _JsonPartial = msgspec.field(default_factory=_JsonPartial)


# Not strict: JSON of protobuf writes numbers of 64 bits as texts.
_JSON: Final = msgspec.json.Decoder(_JsonAnswer, strict=False)


def _tls(target: OtlpTarget) -> ssl.SSLContext:
    """Return a client's TLS settings: TLS 1.2 or newer, certificate and host name verified."""
    try:
        context = tls_context(target.ca_file)
        if target.certificate_file is not None:
            # Without a password of its own, an encrypted key would make OpenSSL ask for one on the terminal.
            context.load_cert_chain(target.certificate_file, target.key_file, password="")
    except OSError as error:
        raise _Certificates(error.strerror or "not understood") from None
    return context


def _tls_said(error: BaseException | None) -> str | None:
    """Return what TLS says if it is what failed, else ``None``."""
    while error is not None:
        found = getattr(error, "os_error", error)
        if isinstance(found, ssl.SSLError) and found.reason:
            return found.reason.replace("_", " ").lower()
        if isinstance(error, aiohttp.ClientSSLError):
            return "the connection was closed"
        error = error.__cause__ or error.__context__
    return None


def _addresses(host: str, port: int, family: socket.AddressFamily) -> Iterator[ResolveResult]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    for kind, _, protocol, _, address in found:
        yield ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )


def _shapes(secret: str) -> Iterator[str]:
    """Yield what of a header's value must not be seen: all of it, and without the word before it (``Bearer``)."""
    yield from (it for it in (secret, secret.rpartition(" ")[2]) if it)


def _without_secrets(url: str) -> str:
    """Return where ``url`` leads, without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the collector"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
