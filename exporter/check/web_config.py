"""Whether the web configuration can be used, and until when its certificate is good."""

from __future__ import annotations

import contextlib
import shlex
import ssl
import time
from pathlib import Path
from typing import Final

import msgspec

from exporter.web.gate import Gate
from exporter.web.web_config import ClientAuth, Pem, WebConfig, WebConfigError

SOON: Final = 14 * 86400.0
"""Seconds before its end from which on a certificate should be renewed."""


class Seen(msgspec.Struct, frozen=True):
    """What was found."""

    problems: tuple[str, ...] = ()
    """Each says file, line and key, what is wrong and how to mend it."""
    told: str = ""
    """What it asks of who comes, and how long its certificate is good."""
    expiring: str | None = None
    """The file of a certificate that is over, or soon will be, quoted for a shell."""


def look(path: Path, now: float) -> Seen:
    """Read the file and all that it names, as Forewarn does at its start. ``now`` is in Unix seconds."""
    try:
        gate = Gate(path)
    except WebConfigError as error:
        return Seen(problems=error.problems)
    config = gate.config
    told = _told(config)
    if gate.context is None or config.tls is None:
        return Seen(told=told)
    end = _good_until(gate.context, _text(config.tls.cert))
    file = shlex.quote(str(config.tls.cert.file or path))
    if end is None or end <= now:
        return Seen(told="its certificate is not valid now: over, or not yet begun", expiring=file)
    day = time.strftime("%Y-%m-%d", time.gmtime(end))
    if end - now < SOON:
        return Seen(told=f"its certificate is good until {day} only", expiring=file)
    return Seen(told=f"{told}, certificate good until {day}")


def _told(config: WebConfig) -> str:
    parts = ["TLS" if config.tls is not None else "plain text"]
    if config.tls is not None and config.tls.client_auth is not ClientAuth.NONE:
        parts.append("client certificates")
    parts.append(f"{len(config.users)} users" if config.users else "no passwords")
    return ", ".join(parts)


def _text(pem: Pem) -> str:
    return pem.file.read_text() if pem.file is not None else pem.text.reveal()


def _good_until(server: ssl.SSLContext, certificate: str) -> float | None:
    """Return when the certificate ends that a server shows, in Unix seconds; ``None`` where it is not valid now.

    By a handshake in memory: nothing in Python's library else reads a certificate that is no authority's.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted
    client.load_verify_locations(cadata=certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for end in (ours, theirs):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return None
            except ssl.SSLError:  # it wants a certificate of ours, which comes too late to matter
                break
        with contextlib.suppress(ValueError):  # not so far yet
            if shown := ours.getpeercert():
                return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))
    return None
