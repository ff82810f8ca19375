"""The health page of Faktory's Web UI: the one question that is always safe to ask.

It needs no password and no connection on the command port, and touches neither Redis nor any shared map, so it
answers when the connection limit is reached. It exists since Faktory 1.5.5.
"""

from __future__ import annotations

import ssl
from typing import Annotated, Final

import aiohttp
import msgspec

from exporter.faktory.endpoint import host_port, split_url
from exporter.faktory.errors import FaktoryError
from exporter.faktory.info import edition_of
from exporter.faktory.times import parse_time
from exporter.model import Health, Reason, label_value

MAX_BODY: Final = 64 * 1024
"""Most bytes that are read of an answer; a real one has about 150."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class HealthPage:
    """``GET <web_url>/health``, and never any other page."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        web_url: str,
        *,
        tls: ssl.SSLContext | None = None,
        timeout: float = 2.0,
    ) -> None:
        """``web_url`` may carry a path prefix, and a password that is ignored; ``tls`` replaces the system's trust.

        Raises:
            ValueError: ``web_url`` is no http or https URL.
        """
        parts = split_url(web_url, {"http", "https"}, "http://host:7420")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._url = f"{parts.scheme}://{host_port(parts.hostname or '', port)}{parts.path.rstrip('/')}/health"
        self._session = session
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._timeout = timeout

    async def read(self) -> tuple[Health, float]:
        """Return what the server tells of itself, and its clock in Unix seconds.

        Raises:
            FaktoryError: It could not be learned, for the reason that stands in the failure.
        """
        status, kind, body = await self._get()
        if status == 400 and b"HTTPS server" in body:
            raise FaktoryError(Reason.TLS, f"{self._url} is answered in TLS only: write https:// for http://")
        if status != 200:
            hint = {
                401: "a proxy in front of it asks for a password: let /health through without one",
                403: "a proxy in front of it forbids the page: let /health through",
                404: "is the address right? The page exists since Faktory 1.5.5",
            }.get(status, "is it the address of Faktory's Web UI (port 7420)?")
            raise FaktoryError(Reason.SERVER, f"{self._url} was answered with HTTP status {status}: {hint}")
        if "html" in kind or body.lstrip()[:1] == b"<":
            # The Web UI answers unknown paths with its first page and status 200.
            raise FaktoryError(
                Reason.PROTOCOL,
                f"{self._url} was answered with a web page, not JSON: is it the address of Faktory's Web UI, "
                "without a path, and Faktory 1.5.5 or newer?",
            )
        try:
            page = _PAGE.decode(body)
            now = parse_time(page.now)
        except (msgspec.MsgspecError, ValueError) as error:
            raise FaktoryError(
                Reason.DECODE, f"{self._url} was answered with what is not Faktory's health: {error}"
            ) from None
        server = page.server
        health = Health(
            version=label_value(server.faktory_version),
            edition=edition_of(server.description),
            connections=server.connections,
            commands=server.command_count,
        )
        return health, now

    async def _get(self) -> tuple[int, str, bytes]:
        try:
            async with self._session.get(
                self._url,
                allow_redirects=False,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
            ) as response:
                body = b""
                async for chunk in response.content.iter_chunked(16 * 1024):
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise FaktoryError(
                            Reason.PROTOCOL,
                            f"{self._url} was answered with more than {MAX_BODY} bytes: is it Faktory's Web UI?",
                        )
                return response.status, response.headers.get("Content-Type", ""), body
        except TimeoutError:
            raise FaktoryError(
                Reason.TIMEOUT,
                f"{self._url} was not answered within {self._timeout:g} s: does the server hang, "
                "or does a firewall drop packets?",
            ) from None
        except aiohttp.ClientConnectorCertificateError as error:
            told = getattr(error.certificate_error, "verify_message", "")
            raise FaktoryError(
                Reason.TLS,
                f"{self._url}: the certificate is not trusted ({told}): name the authority's certificate file, "
                "and use the host name that stands in the certificate",
            ) from None
        except aiohttp.ClientSSLError as error:
            told = (getattr(error.os_error, "reason", None) or "unknown").replace("_", " ").lower()
            raise FaktoryError(
                Reason.TLS, f"{self._url}: TLS did not come about ({told}): is it a plain port? Then write http://"
            ) from None
        except aiohttp.ClientConnectorError as error:
            told = (error.os_error.strerror or str(error.os_error)).lower()
            raise FaktoryError(
                Reason.UNREACHABLE,
                f"{self._url} cannot be reached ({told}): is the Web UI on (not `-w :0`), and are host and port right?",
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FaktoryError(
                Reason.PROTOCOL,
                f"{self._url} was not answered in HTTP ({type(error).__name__}): is it the Web UI's port?",
            ) from None


class _Server(msgspec.Struct):
    faktory_version: str
    connections: _Count
    command_count: _Count
    description: str = ""


class _Page(msgspec.Struct):
    now: str
    server: _Server


_PAGE = msgspec.json.Decoder(_Page)
