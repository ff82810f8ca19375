"""A plain client for Faktory's protocol, for tests only: what a producer or a worker would say."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import unquote, urlsplit

Reply = str | bytes | None
"""A line with its first character (``+OK``, ``-ERR ...``, ``:1``), the bytes of a bulk, or nothing for a nil bulk."""

DEADLINE = 30.0
MAX_LINE = 64 << 20
_serial = itertools.count(1)


class WireError(Exception):
    """The server answered with an error; its text is the reply's first line."""


def password_hash(password: str, salt: str, iterations: int) -> str:
    """The salted, iterated hash of Faktory's handshake."""
    digest = hashlib.sha256((password + salt).encode()).digest()
    for _ in range(iterations - 1):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


def new_jid(prefix: str = "job") -> str:
    """A job id that no other test of this process uses."""
    return f"{prefix}-{os.getpid():06d}-{next(_serial):06d}"


class Wire:
    """One connection. With a ``wid`` it is a worker's, without one a producer's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wid: str | None) -> None:
        self.reader = reader
        self.writer = writer
        self.wid = wid
        self.hi: dict[str, Any] = {}

    @classmethod
    async def connect(
        cls,
        url: str,
        wid: str | None = None,
        hostname: str = "test",
        labels: Sequence[str] = ("test",),
        *,
        pid: int | None = None,
        version: int = 2,
    ) -> Self:
        """Open a connection and shake hands; raises WireError where the server refuses at once."""
        self = await cls.open(url, wid)
        try:
            reply = await self.hello(url, hostname, labels, pid=pid, version=version)
            if reply != "+OK":
                raise WireError(reply)  # noqa: TRY301
        except BaseException:
            await self.abort()
            raise
        return self

    @classmethod
    async def open(cls, url: str, wid: str | None = None) -> Self:
        """Open a connection and read the greeting only."""
        parts = urlsplit(url)
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(parts.hostname, parts.port, limit=MAX_LINE), DEADLINE
        )
        self = cls(reader, writer, wid)
        try:
            greeting = await self.read()
            if not isinstance(greeting, str) or not greeting.startswith("+HI "):
                raise WireError(greeting)  # noqa: TRY301
            self.hi = json.loads(greeting[4:])
        except BaseException:
            await self.abort()
            raise
        return self

    async def hello(
        self,
        url: str,
        hostname: str = "test",
        labels: Sequence[str] = ("test",),
        *,
        pid: int | None = None,
        version: int = 2,
    ) -> Reply:
        """Say HELLO as the greeting asks for."""
        said: dict[str, Any] = {"hostname": hostname, "pid": pid or os.getpid(), "labels": list(labels), "v": version}
        if self.wid is not None:
            said["wid"] = self.wid
        if "s" in self.hi:
            iterations = self.hi["i"] if version >= 2 else 1
            said["pwdhash"] = password_hash(unquote(urlsplit(url).password or ""), self.hi["s"], iterations)
        return await self.command("HELLO " + json.dumps(said))

    async def send(self, line: str | bytes) -> None:
        """Send one line without waiting for its reply."""
        self.writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")
        await self.writer.drain()

    async def read(self) -> Reply:
        """Read one reply; raises EOFError where the server closed."""
        async with asyncio.timeout(DEADLINE):
            line = await self.reader.readline()
            if not line.endswith(b"\r\n"):
                raise EOFError(f"the server closed the connection after {line!r}")
            if not line.startswith(b"$"):
                return line[:-2].decode("utf-8", "replace")
            size = int(line[1:-2])
            if size < 0:
                return None
            return (await self.reader.readexactly(size + 2))[:-2]

    async def command(self, line: str | bytes) -> Reply:
        """Send one line and read its reply."""
        await self.send(line)
        return await self.read()

    async def ok(self, line: str) -> None:
        """Send one line that must be answered with OK."""
        reply = await self.command(line)
        if reply != "+OK":
            raise WireError(reply)

    async def document(self, line: str) -> Any:
        """Send one line that must be answered with a JSON document, or nothing."""
        reply = await self.command(line)
        if isinstance(reply, str):
            raise WireError(reply)
        return None if reply is None else json.loads(reply)

    async def push(self, **job: Any) -> str:
        """Push one job (jid, jobtype, args and queue have defaults) and return its id."""
        full: dict[str, Any] = {"jid": new_jid(), "jobtype": "Job", "args": [], "queue": "default"} | job
        await self.ok("PUSH " + json.dumps(full))
        return str(full["jid"])

    async def fetch(self, *queues: str) -> dict[str, Any] | None:
        """Fetch one job; waits up to two seconds as the server does."""
        job: dict[str, Any] | None = await self.document(" ".join(("FETCH", *(queues or ("default",)))))
        return job

    async def ack(self, jid: str) -> None:
        """Acknowledge one job."""
        await self.ok("ACK " + json.dumps({"jid": jid}))

    async def fail(self, jid: str, errtype: str = "TestError", message: str = "failed", *backtrace: str) -> None:
        """Report one job as failed."""
        told = {"jid": jid, "errtype": errtype, "message": message, "backtrace": list(backtrace)}
        await self.ok("FAIL " + json.dumps(told))

    async def beat(self, wid: str | None = None, **fields: Any) -> Reply:
        """Send a heartbeat for this worker, or for another one."""
        return await self.command("BEAT " + json.dumps({"wid": wid or self.wid} | fields))

    async def info(self) -> dict[str, Any]:
        """Ask for the server's state."""
        state: dict[str, Any] = await self.document("INFO")
        return state

    async def at_eof(self) -> bool:
        """Wait, up to the deadline, for the server to close the connection; what it had sent before is dropped."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                await self.reader.read()
        return self.reader.at_eof()

    async def close(self) -> None:
        """Leave politely."""
        with contextlib.suppress(ConnectionError):
            await self.send("END")
        await self.abort()

    async def abort(self) -> None:
        """Leave as a crashed process does: the socket just closes."""
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
