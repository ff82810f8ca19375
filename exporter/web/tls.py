"""TLS as a web configuration wants it, with Python's ssl module."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

from exporter.web.web_config import TLS_1_2_SUITES, ClientAuth, Pem, TlsServer, TlsVersion, WebConfigError

VERSIONS: Final[Mapping[TlsVersion, ssl.TLSVersion]] = MappingProxyType(
    {
        TlsVersion.TLS10: ssl.TLSVersion.TLSv1,
        TlsVersion.TLS11: ssl.TLSVersion.TLSv1_1,
        TlsVersion.TLS12: ssl.TLSVersion.TLSv1_2,
        TlsVersion.TLS13: ssl.TLSVersion.TLSv1_3,
    }
)

_ASKED: Final = (ClientAuth.VERIFY_IF_GIVEN, ClientAuth.REQUIRE_AND_VERIFY)

_REASONS: Final = MappingProxyType(
    {
        "KEY_VALUES_MISMATCH": "the certificate belongs to another key: write the certificate and the key of one pair",
        "KEY_TYPE_MISMATCH": "the certificate belongs to another key: write the certificate and the key of one pair",
        "EE_KEY_TOO_SMALL": "its key is too short to be safe: make one of 2048 bits and more",
        "CA_MD_TOO_WEAK": "it is signed in a way that is no longer safe: make a new one, signed with SHA-256",
    }
)

last_words: ContextVar[list[bytes]] = ContextVar("last_words")
"""Takes what a handshake begun in this context would still say when it has failed: the alert, which tells why."""


class _Connection(ssl.SSLObject):
    """One end of a connection. Its alert must be kept: asyncio drops it, and clients would not learn what is wrong."""

    outgoing: ssl.MemoryBIO
    words: list[bytes]

    def do_handshake(self) -> None:
        """Go on with the handshake, see :meth:`ssl.SSLObject.do_handshake`."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.words.append(self.outgoing.read())
            raise


class _Context(ssl.SSLContext):
    """Makes connections that keep their last words."""

    sslobject_class = _Connection

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection, see :meth:`ssl.SSLContext.wrap_bio`."""
        made = super().wrap_bio(incoming, outgoing, *args, **options)
        if isinstance(made, _Connection):
            made.outgoing, made.words = outgoing, last_words.get([])
        return made


def make_context(tls: TlsServer, read: Callable[[Pem], bytes]) -> ssl.SSLContext:
    """Return a context for the server's side. ``read`` returns what a :class:`Pem` holds.

    Raises:
        WebConfigError: A certificate or key cannot be used, or the key is that of another certificate.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    old = tls.min_version < TlsVersion.TLS12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of old versions, which somebody asks for by name
        context.minimum_version = VERSIONS[tls.min_version]
        context.maximum_version = VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if tls.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    suites = tls.cipher_suites or (tuple(TLS_1_2_SUITES.values()) if old else ())
    try:
        if suites:
            # Before TLS 1.2 all is signed with SHA-1, which OpenSSL takes for safe at its lowest level only.
            context.set_ciphers(":".join((*suites, *(("@SECLEVEL=0",) if old else ()))))
        if tls.curve is not None:
            context.set_ecdh_curve(tls.curve)
    except (ssl.SSLError, ValueError):
        raise WebConfigError(
            [f"{tls.place}: the OpenSSL of this machine has none of its cipher suites or curves: name others"]
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, tls, read)
    if tls.client_auth in _ASKED:
        _ask(context, tls, read)
    return context


def allowed(tls: TlsServer, connection: ssl.SSLObject | None) -> str | None:
    """Return why whoever is at the other end of ``connection`` may not come in; ``None`` where they may."""
    if connection is None:
        return "it is not by TLS"
    if tls.client_auth not in _ASKED:
        return None
    certificate = connection.getpeercert()
    if not certificate:
        return "it shows no certificate" if tls.client_auth is ClientAuth.REQUIRE_AND_VERIFY else None
    if tls.client_allowed_sans and tls.client_allowed_sans.isdisjoint(_names(certificate)):
        return "its certificate has none of client_allowed_sans"
    return None


def _names(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of a certificate: of hosts, addresses, people and URIs."""
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "email", "URI"):
            yield name
        elif kind == "IP Address":
            with contextlib.suppress(ValueError):
                yield str(ipaddress.ip_address(name.strip()))


def _load_pair(context: ssl.SSLContext, tls: TlsServer, read: Callable[[Pem], bytes]) -> None:
    cert, key = read(tls.cert), read(tls.key)
    if b"-----BEGIN CERTIFICATE-----" not in cert:
        raise WebConfigError([f"{tls.cert.place}: there is no certificate in it: write one in PEM"])
    if b"PRIVATE KEY-----" not in key:
        raise WebConfigError([f"{tls.key.place}: there is no key in it: write one in PEM"])
    try:
        with _as_file(cert) as cert_file, _as_file(key) as key_file:
            context.load_cert_chain(cert_file, key_file, _no_password)
    except _EncryptedError:
        raise WebConfigError(
            [f"{tls.key.place}: the key is encrypted: write it without a password: openssl pkey -in OLD -out NEW"]
        ) from None
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or "it is damaged"
        told = _REASONS.get(reason, f"the certificate and its key cannot be used ({reason}): write a pair in PEM")
        raise WebConfigError([f"{tls.cert.place}: {told}"]) from None


def _ask(context: ssl.SSLContext, tls: TlsServer, read: Callable[[Pem], bytes]) -> None:
    """Have ``context`` ask clients for a certificate."""
    required = tls.client_auth is ClientAuth.REQUIRE_AND_VERIFY
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    # As in Go, whatever stands in client_ca is trusted, also where another has issued it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if tls.client_ca is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    try:
        context.load_verify_locations(cadata=read(tls.client_ca).decode("ascii", errors="replace"))
    except (ssl.SSLError, ValueError):
        raise WebConfigError([f"{tls.client_ca.place}: there is no certificate in it: write them in PEM"]) from None


class _EncryptedError(Exception):
    """A key is encrypted."""


def _no_password() -> str:
    """Keep OpenSSL from asking for a password on the terminal."""
    raise _EncryptedError


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Give ``data`` a path for a moment, in memory alone: Python takes keys from files only."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"
