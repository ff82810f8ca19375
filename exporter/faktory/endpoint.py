"""Where a Faktory server's command port is."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from exporter.secret import Secret

DEFAULT_PORT = 7419


class Endpoint(msgspec.Struct, frozen=True):
    """Address, password and kind of transport of one server."""

    host: str
    port: int = DEFAULT_PORT
    password: Secret | None = None
    tls: bool = False
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""

    @classmethod
    def parse(cls, url: str, ca_file: Path | None = None) -> Endpoint:
        """Understand ``tcp://:password@host:7419`` and ``tcp+tls://...``; percent-encoding and IPv6 included.

        Raises:
            ValueError: It is not such an address. The text tells what is wrong, never the password.
        """
        parts = split_url(url, {"tcp", "tcp+tls"}, "tcp://:password@host:7419 or tcp+tls://:password@host:7419")
        if parts.path not in {"", "/"}:
            raise ValueError("a Faktory URL ends after its port, but a path follows")
        return cls(
            host=parts.hostname or "",
            port=DEFAULT_PORT if parts.port is None else parts.port,
            password=Secret(unquote(parts.password)) if parts.password else None,
            tls=parts.scheme == "tcp+tls",
            ca_file=ca_file,
        )

    @property
    def where(self) -> str:
        """``host:port``, for messages."""
        return host_port(self.host, self.port)


def split_url(url: str, schemes: set[str], wanted: str) -> SplitResult:
    """Split ``url`` into its parts, its port known to be one and its host not to be empty.

    Raises:
        ValueError: It is not a URL of ``schemes``. The text never repeats the URL: a password may stand in it.
    """
    hint = f"; write {wanted}, with special characters of the password percent-encoded"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The original text would tell the part that it did not understand: perhaps the password.
        raise ValueError(f"the URL is malformed after its scheme{hint}") from None
    if parts.scheme not in schemes:
        raise ValueError(f"the URL does not begin with {' or '.join(f'{each}://' for each in sorted(schemes))}{hint}")
    if not parts.hostname:
        raise ValueError(f"the URL names no host{hint}")
    if port == 0:
        raise ValueError(f"the URL names port 0{hint}")
    if parts.query or parts.fragment:
        raise ValueError(f"the URL goes on after its port, with ? or #{hint}")
    return parts


def host_port(host: str, port: int) -> str:
    """Return ``host:port`` as it is written in URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a client's TLS settings: TLS 1.2 or newer, certificate and host name verified.

    Raises:
        OSError: ``ca_file`` cannot be read.
        ssl.SSLError: ``ca_file`` holds no certificates (also an OSError).
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
