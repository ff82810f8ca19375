"""What one section of the script is played on: a server, connections by name, and the notes taken."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.conformance import normal
from tests.servers import WatchedServer, wait_until
from tests.wire import Reply, Wire

Note = dict[str, Any]


class Stage:
    """Plays to one server and notes what it saw, made comparable."""

    def __init__(self, server: WatchedServer) -> None:
        self.server = server
        self.notes: list[Note] = []
        self.wires: dict[str, Wire] = {}

    def note(self, step: str, saw: Any) -> None:
        """Note one thing seen."""
        self.notes.append({"step": step, "saw": saw})

    async def connect(self, name: str, wid: str | None = None, **said: Any) -> Reply:
        """Open the connection ``name`` and shake hands; the first reply to HELLO is noted and returned."""
        if name in self.wires:  # of before a restart
            await self.abort(name)
        wire = await Wire.open(self.server.url, wid)
        self.wires[name] = wire
        try:
            answer = await wire.hello(self.server.url, **said)
        except EOFError:
            answer = "(closed)"
        self.note(f"{name}: HELLO" + (f" as worker {wid}" if wid else ""), normal.reply(answer))
        return answer

    async def say(self, name: str, line: str | bytes) -> Reply:
        """Say one line on the connection ``name`` and note the reply; one that the server closed is gone."""
        try:
            answer: Reply = await self.wires[name].command(line)
        except (EOFError, ConnectionError):
            answer = "(closed)"
            await self.abort(name)
        told = line if isinstance(line, str) else line.decode("latin-1")
        shown = normal.latencies(answer) if "LATENCY" in told else normal.reply(answer)
        self.note(f"{name}: {told if len(told) < 500 else f'{told[:80]}... ({len(told)} characters)'}", shown)
        return answer

    async def abort(self, *names: str) -> None:
        """Close connections as a crash does."""
        for name in names:
            await self.wires.pop(name).abort()

    async def end(self, name: str) -> None:
        """Say END and note that the server closes without a reply."""
        wire = self.wires.pop(name)
        await wire.send("END")
        self.note(f"{name}: END", "(closed)" if await wire.reader.read() == b"" else "(said something)")
        await wire.abort()

    async def look(self, when: str) -> None:
        """Note every key in Redis with its type and value."""
        redis = self.server.redis()
        now = time.time()
        seen: dict[str, Any] = {}
        for name in sorted(await redis.keys("*")):
            kind = await redis.type(name)
            value: Any
            if kind == "string":
                value = await redis.get(name)
            elif kind == "set":
                value = sorted(await redis.smembers(name))  # type: ignore[misc]
            elif kind == "list":
                value = [normal.text(item) for item in await redis.lrange(name, 0, -1)]  # type: ignore[misc]
            else:
                members = await redis.zrange(name, 0, -1, withscores=True)
                entries = [normal.entry(member, score, now) for member, score in members]
                value = sorted(entries, key=json.dumps)
            seen[normal.key(name)] = {"type": kind, "value": value, "expires": await redis.ttl(name) >= 0}
        self.note(f"Redis {when}", seen)

    async def ask(self, line: str) -> Any:
        """Ask on a connection of its own, and note nothing."""
        async with await Wire.connect(self.server.url) as wire:
            return await wire.document(line)

    async def until_gone(self, wid: str) -> None:
        """Wait until the server does not know a worker any more."""
        async with await Wire.connect(self.server.url) as wire:

            async def gone() -> bool:
                return str(await wire.beat(wid)).startswith("-ERR unknown worker")

            await wait_until(gone, what=f"worker {wid} is unknown")

    async def until_connections(self, count: int) -> None:
        """Wait until the server counts so many connections."""

        async def counted() -> bool:
            health = await self.server.health()
            return bool(health["server"]["connections"] == count)

        await wait_until(counted, what=f"{count} connections")

    async def page(self, path: str, password: str | None = None, *, body: bool = False) -> None:
        """Note the status, the type and (where asked for) the document of a page."""

        def read() -> tuple[int, Any, str]:
            request = Request(self.server.web_url + path)  # noqa: S310
            if password is not None:
                request.add_header("Authorization", "Basic " + base64.b64encode(f"any:{password}".encode()).decode())
            try:
                with urlopen(request, timeout=5) as answer:  # noqa: S310
                    return answer.status, answer.headers, answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, error.headers, error.read().decode()

        status, headers, text = await asyncio.to_thread(read)
        told = {
            "status": status,
            "type": headers.get_content_type(),
            "cache": headers.get("Cache-Control"),
            "challenge": headers.get("WWW-Authenticate"),
        }
        if body:
            told["body"] = normal.text(text)
        self.note(f"GET {path}" + ("" if password is None else f" with password {password}"), told)

    async def leave(self) -> None:
        """Close what is still open."""
        for wire in self.wires.values():
            await wire.abort()
        self.wires.clear()
