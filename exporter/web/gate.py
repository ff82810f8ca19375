"""Who may come in, by TLS, client certificates and passwords, as the web configuration file says at the moment."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from exporter.web import files
from exporter.web.passwords import BusyError, Check, Passwords, credentials
from exporter.web.rate import Bucket
from exporter.web.tls import allowed, make_context
from exporter.web.web_config import Pem, WebConfig, WebConfigError, parse

logger = logging.getLogger("forewarn")

MAX_CONFIG: Final = 128 * 1024
MAX_PEM: Final = 1024 * 1024

LOOK_SECONDS: Final = 5.0
"""Seconds between two looks at what the files hold, also where nobody asks and where their times do not tell."""

CHECK_SECONDS: Final = 10.0
"""How long a request waits for the check of its password: as long as Prometheus waits for a scrape."""

WHO = {"WWW-Authenticate": 'Basic realm="Forewarn", charset="UTF-8"'}


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not served."""

    status: int
    text: str
    headers: Mapping[str, str] = MappingProxyType({})
    close: bool = False
    """Whether the connection ends with it."""


class _Seen(msgspec.Struct, frozen=True):
    """What a file was like when it was read; both ``None`` where it could not be."""

    signature: files.Signature | None
    digest: bytes | None


class _Loaded(msgspec.Struct, frozen=True):
    """One good state of the files."""

    config: WebConfig
    context: ssl.SSLContext | None


class Gate:
    """Holds the newest good web configuration, and reads it again when it or a file that it names has changed.

    Raises :class:`~exporter.web.web_config.WebConfigError` where it cannot be used at the start. Later on the last
    good one stays in use, and :attr:`problem` tells why. Not safe in threads other than the event loop's.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic, check: Check | None = None) -> None:
        self.problem: str | None = None
        """Why the newest files are not in use; ``None`` where they are."""
        self._path = path
        self._clock = clock
        self._passwords = Passwords(check)
        self._bucket: Bucket | None = None
        self._seen: dict[Path, _Seen] = {}
        self._loaded = self._load()
        self._settle()

    @property
    def config(self) -> WebConfig:
        """The web configuration in use."""
        return self._loaded.config

    @property
    def context(self) -> ssl.SSLContext | None:
        """How TLS is spoken with the next connection; ``None``: it is not."""
        return self._loaded.context

    @property
    def waiting(self) -> int:
        """How many passwords wait for their check, with the one under way."""
        return self._passwords.waiting

    def refresh(self) -> str | None:
        """Read the files again if one of them looks changed; return :attr:`problem`."""
        if any(files.signature(path) != seen.signature for path, seen in self._seen.items()):
            self._read_again()
        return self.problem

    async def watch(self) -> None:
        """Look at the files every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> str | None:
        """Read the files again if one of them holds something else; return :attr:`problem`.

        Unlike :meth:`refresh` this finds what was written twice within one tick of the kernel's clock.
        """
        if any(_Reading().see(path) != seen for path, seen in self._seen.items()):
            self._read_again()
        return self.problem

    def stranger(self, connection: ssl.SSLObject | None) -> str | None:
        """Return why a connection is not to be served; ``None`` where it is. It may be older than the files."""
        tls = self.config.tls
        return None if tls is None else allowed(tls, connection)

    async def refusal(
        self, connection: ssl.SSLObject | None, authorization: Sequence[str], address: str
    ) -> Refusal | None:
        """Return why a request is not served, ``None`` where it is.

        ``authorization`` are its headers of that name; ``address`` is where it came from.
        """
        self.refresh()
        if (why := self.stranger(connection)) is not None:
            return Refusal(403, f"this connection is not let in any more: {why}\n", close=True)
        if self._bucket is not None and not self._bucket.take(self._clock()):
            wait = max(1, math.ceil(self._bucket.limit.interval))
            return Refusal(429, "more requests than rate_limit allows: try again later\n", {"Retry-After": str(wait)})
        if not self.config.users:
            return None
        given = credentials(authorization[0]) if len(authorization) == 1 else None
        if given is None:
            return Refusal(401, "say who you are: a user and password are needed\n", WHO)
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                if await self._passwords.fit(self.config.users, *given, address):
                    return None
        except (BusyError, TimeoutError):
            return Refusal(503, "many passwords wait for their check: try again later\n", {"Retry-After": "5"})
        return Refusal(401, "there is no such user with this password\n", WHO)

    def close(self) -> None:
        """Let go of what waits. Safe to call twice."""
        self._passwords.close()

    def _read_again(self) -> None:
        try:
            self._loaded = self._load()
        except WebConfigError as error:
            if self.problem != str(error):
                self.problem = str(error)
                fields = {"problem": self.problem, "file": str(self._path)}
                logger.warning("web configuration cannot be used: the last good one stays", extra={"fields": fields})
        else:
            self.problem = None
            logger.info("web configuration read again", extra={"fields": {"file": str(self._path)}})
            self._settle()

    def _load(self) -> _Loaded:
        """Read all files anew, and note what they were like, whether they can be used or not."""
        reading = _Reading()
        try:
            return reading.load(self._path)
        finally:
            self._seen = reading.seen

    def _settle(self) -> None:
        """Take over what is newly in use."""
        limit = self.config.rate_limit
        if limit is None:
            self._bucket = None
        elif self._bucket is None or self._bucket.limit != limit:
            self._bucket = Bucket(limit, self._clock())
        fields = {"file": str(self._path)}
        if limit is not None and not limit.burst:
            logger.warning("rate_limit lets no request through: its burst is 0", extra={"fields": fields})
        if self.config.users and self.config.tls is None:
            logger.warning(
                "passwords are sent in the clear: add tls_server_config, or listen on 127.0.0.1 behind a proxy",
                extra={"fields": fields},
            )


class _Reading:
    """One reading of all files: each of them once, so that all is from one moment as far as may be."""

    def __init__(self) -> None:
        self.seen: dict[Path, _Seen] = {}
        self._data: dict[Path, bytes | OSError] = {}

    def load(self, path: Path) -> _Loaded:
        """Read the web configuration ``path`` and the files that it names; raise WebConfigError."""
        self.see(path, MAX_CONFIG)
        config = parse(self._content(path, str(path)), path)
        for named in config.files:
            self.see(named)
        return _Loaded(config, None if config.tls is None else make_context(config.tls, self._pem))

    def see(self, path: Path, limit: int = MAX_PEM) -> _Seen:
        """Read a file, unless that was done, and return what it is like."""
        if path not in self.seen:
            try:
                content = files.read(path, limit)
            except (OSError, ValueError) as error:
                self._data[path] = error if isinstance(error, OSError) else OSError(0, "it is no path")
                self.seen[path] = _Seen(files.signature(path), None)
            else:
                self._data[path] = content.data
                self.seen[path] = _Seen(content.signature, hashlib.sha256(content.data).digest())
        return self.seen[path]

    def _pem(self, pem: Pem) -> bytes:
        if pem.file is None:
            return pem.text.reveal().encode(errors="replace")
        return self._content(pem.file, f"{pem.place}: {pem.file}")

    def _content(self, path: Path, place: str) -> bytes:
        data = self._data[path]
        if isinstance(data, OSError):
            raise WebConfigError([f"{place}: it cannot be read: {data.strerror}: {_remedy(data)}"])
        return data


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "write the path of a file that is there; relative paths begin at the folder of the web configuration"
    if isinstance(error, PermissionError):
        return "let the user that Forewarn runs as read it"
    return "write the path of another file"
