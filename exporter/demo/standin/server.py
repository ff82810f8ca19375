"""The stand-in's command port and web port."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import os
import random
import resource
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import redis.asyncio
import redis.exceptions
from aiohttp import web

from exporter.demo.standin.documents import DocumentError, dump, instant, parse, read_struct
from exporter.demo.standin.jobs import FETCH_WAIT, CommandError, Job, Jobs, ServerPanic, read_job, told_retry
from exporter.demo.standin.ledger import Ledger
from exporter.demo.standin.log import say
from exporter.demo.standin.options import Options
from exporter.demo.standin.tasks import Task, run_tasks
from exporter.demo.standin.workers import Client, Workers

HANDSHAKE_DEADLINE = 2.0
LAST_WORDS = 0.1
"""How long commands are still answered (with an error) after the end was asked for, in seconds."""
MAX_LINE = 64 << 20

_HELLO_FIELDS = {
    "hostname": "string", "wid": "string", "pwdhash": "string", "username": "string", "labels": "[]string",
    "pid": "int", "rss_kb": "int64", "v": "uint8",
}  # fmt: skip
_BEAT_FIELDS = {"current_state": "string", "wid": "string", "rss_kb": "int64"}
_PAGE = "<!DOCTYPE html><html><head><title>Faktory</title></head><body><p>A stand-in for Faktory.</p></body></html>\n"

Reply = str | None
"""A line with its first character, or nothing (the connection is closed instead)."""


def bulk(text: str | None) -> str:
    """Frame a bulk reply; None is the nil one."""
    return "$-1" if text is None else f"${len(text.encode())}\r\n{text}"


def password_hash(password: str, salt: str, iterations: int) -> str:
    """Return the hash that a client proves its password with."""
    digest = hashlib.sha256((password + salt).encode()).digest()
    for _ in range(iterations - 1):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


class Connection:
    """One client on the command port."""

    def __init__(self, number: int, client: Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.client = client
        self.reader = reader
        self.writer = writer

    async def read(self) -> str:
        """Read one line; empty when the client is gone."""
        try:
            line = await self.reader.readline()
        except (ConnectionError, ValueError):  # reset, or longer than any line may be
            return ""
        return line.decode("utf-8", "replace") if line.endswith(b"\n") else ""

    async def write(self, text: str) -> None:
        """Send one reply; a client that is gone is noticed at the next read."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(text.encode() + b"\r\n")
            await self.writer.drain()

    def close(self) -> None:
        """Close after what was written has been sent."""
        self.writer.close()


class StandIn:
    """Faktory's behaviour over one Redis."""

    def __init__(self, options: Options, store: redis.asyncio.Redis, ledger: Ledger) -> None:
        self.options = options
        self.ledger = ledger
        self.jobs = Jobs(store, options)
        self.workers = Workers(time.monotonic)
        self.connections = 0
        self.commands = 0
        self.stopping = False
        self._started = time.monotonic()
        self._numbers = itertools.count(1)
        self._open: set[asyncio.StreamWriter] = set()
        self.tasks = {
            "Scheduled": Task(options.scan_every, lambda: self.jobs.enqueue_due("scheduled")),
            "Retries": Task(options.scan_every, lambda: self.jobs.enqueue_due("retries")),
            "Dead": Task(60, self.jobs.purge_dead),
            "Busy": Task(options.reservation_reap_every, self.jobs.reap_reservations),
            "Workers": Task(options.heartbeat_reap_every, self._reap_workers),
        }
        self._verbs: dict[str, Callable[[Connection, str], Awaitable[Reply]]] = {
            "END": self._end,
            "PUSH": self._push,
            "PUSHB": self._push_bulk,
            "FETCH": self._fetch,
            "ACK": self._ack,
            "FAIL": self._fail,
            "BEAT": self._beat,
            "INFO": self._info,
            "FLUSH": self._flush,
            "MUTATE": self._mutate,
            "BATCH": self._batch,
            "TRACK": self._track,
            "QUEUE": self._queue,
        }

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer on both ports for the duration of the block."""
        raise_descriptor_limit()
        await self.jobs.load()
        listener = await asyncio.start_server(self._serve, *self.options.bind, limit=MAX_LINE, backlog=4096)
        background = asyncio.create_task(run_tasks(list(self.tasks.values())))
        pages = web.AppRunner(self._pages(), access_log=None, handle_signals=False, shutdown_timeout=1)
        try:
            await pages.setup()
            await web.TCPSite(pages, *self.options.web_bind).start()
            yield
        finally:
            self.stopping = True
            listener.close()
            await asyncio.sleep(LAST_WORDS)
            background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await background
            await pages.cleanup()
            for writer in list(self._open):
                writer.transport.abort()

    # -- one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._talk(reader, writer)
        except ServerPanic as panic:
            # What a panic in a Go process is to the outside: at once, status 2, its words on stderr.
            print(f"panic: {panic}\n\ngoroutine 1 [running]:", file=sys.stderr, flush=True)
            os._exit(2)
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        connection = Connection(number, Client(""), reader, writer)
        try:
            async with asyncio.timeout(HANDSHAKE_DEADLINE):
                if not await self._shake_hands(connection):
                    return
        except TimeoutError:
            return
        try:
            self.connections += 1
            if self.connections > self.options.connections_limit:
                say("W", f"Faktory has over {self.options.connections_limit} active client connections")
                if self.options.refuses:
                    await connection.write(f"-ERR too many connections: {self.connections}")
                    return
            while (line := await connection.read()) and await self._obey(connection, line):
                pass
        finally:
            self.connections -= 1
            self.workers.leave(connection.client, number)

    async def _shake_hands(self, connection: Connection) -> bool:
        iterations = 4000 + random.randrange(4096)
        salt = f"{secrets.randbits(63):x}"
        asked = f',"i":{iterations},"s":"{salt}"' if self.options.password else ""
        await connection.write(f'+HI {{"v":2{asked}}}')
        line = await connection.read()
        if not line.startswith("HELLO {"):
            return False
        self.ledger.command(connection.number, "HELLO", line[6:].rstrip("\r\n"))
        try:
            told = read_struct(parse(line[5:]), "ClientData", _HELLO_FIELDS)
        except DocumentError:
            return False
        if self.options.password:
            wanted = password_hash(self.options.password, salt, iterations if told.get("v", 0) >= 2 else 1)
            if not hmac.compare_digest(told.get("pwdhash", "").encode(), wanted.encode()):
                await connection.write("-ERR Invalid password")
                return False
        connection.client = Client(told.get("wid", ""))
        if connection.client.wid:
            self.workers.register(connection.client, connection.number, connection.close)
        await connection.write("+OK")
        return True

    async def _obey(self, connection: Connection, line: str) -> bool:
        if self.stopping:
            await connection.write("-ERR shutdown in progress")
            return False
        line = line.removesuffix("\n").removesuffix("\r")
        verb, _, arguments = line.partition(" ")
        self.ledger.command(connection.number, verb, arguments)
        act = self._verbs.get(verb)
        if act is None:
            await connection.write(f"-ERR unknown command {verb}")
            return True
        self.commands += 1
        try:
            reply = await act(connection, line)
        except CommandError as error:
            reply = f"-ERR {error}"
        except ServerPanic:
            if self.options.version < (1, 10):
                raise
            reply = "-ERR internal error"
        except redis.exceptions.RedisError as error:
            reply = f"-ERR {error}"
        if reply is None:
            return False
        await connection.write(reply)
        return True

    # -- commands

    @staticmethod
    def _payload(line: str, verb: str) -> str:
        if len(line) <= len(verb):
            raise ServerPanic(f"runtime error: slice bounds out of range [{len(verb) + 1}:{len(line)}]")
        return line[len(verb) + 1 :]

    async def _end(self, _connection: Connection, _line: str) -> Reply:
        return None

    async def _push(self, _connection: Connection, line: str) -> Reply:
        payload = self._payload(line, "PUSH")
        try:
            document = parse(payload)
            told = told_retry(document)
            if told is not None:
                self.jobs.default_retry = told
            job = read_job(document)
        except DocumentError as error:
            raise CommandError(f"invalid JSON: {error}") from None
        job.setdefault("retry", self.jobs.default_retry)
        await self.jobs.push(job)
        return "+OK"

    async def _push_bulk(self, _connection: Connection, line: str) -> Reply:
        payload = self._payload(line, "PUSHB")
        try:
            jobs = _read_jobs(parse(payload))
        except DocumentError as error:
            raise CommandError(f"invalid JSON: {error}") from None
        failed: dict[str, str] = {}
        for job in jobs:
            job.setdefault("retry", self.jobs.default_retry)
            try:
                await self.jobs.push(job)
            except CommandError as error:
                failed[job.get("jid", "")] = str(error)
        return bulk(dump(dict(sorted(failed.items()))))

    async def _fetch(self, connection: Connection, line: str) -> Reply:
        if connection.client.state:
            await asyncio.sleep(FETCH_WAIT)
            return bulk(None)
        return bulk(await self.jobs.fetch(connection.client.wid, line.split(" ")[1:]))

    async def _ack(self, _connection: Connection, line: str) -> Reply:
        payload = self._payload(line, "ACK")
        with contextlib.suppress(DocumentError):
            told = parse(payload)
            texts = isinstance(told, dict) and all(isinstance(value, str | None) for value in told.values())
            if texts and "jid" in told:
                await self.jobs.acknowledge(told["jid"] or "")
                return "+OK"
        raise CommandError(f"invalid ACK {payload}")

    async def _fail(self, _connection: Connection, line: str) -> Reply:
        payload = self._payload(line, "FAIL")
        try:
            await self.jobs.fail(parse(payload))
        except DocumentError:
            raise CommandError(f"invalid FAIL {payload}") from None
        return "+OK"

    async def _beat(self, _connection: Connection, line: str) -> Reply:
        payload = self._payload(line, "BEAT")
        try:
            told = read_struct(parse(payload), "ClientBeat", _BEAT_FIELDS)
        except DocumentError:
            raise CommandError(f"invalid BEAT {payload}") from None
        wid = told.get("wid", "")
        record = self.workers.beat(wid, told.get("current_state", ""))
        if record is None:
            raise CommandError(f"unknown worker {wid}")
        return bulk(f'{{"state":"{record.state}"}}') if record.state else "+OK"

    async def _info(self, _connection: Connection, _line: str) -> Reply:
        return bulk(dump(await self.state()))

    async def _flush(self, _connection: Connection, _line: str) -> Reply:
        say("I", "Flushing dataset")
        await self.jobs.flush()
        return "+OK"

    async def _mutate(self, _connection: Connection, line: str) -> Reply:
        parts = line.split(" ")
        if len(parts) != 2:
            raise CommandError("invalid format")
        try:
            await self.jobs.mutate(parse(parts[1]))
        except DocumentError as error:
            raise CommandError(str(error)) from None
        return "+OK"

    async def _batch(self, _connection: Connection, _line: str) -> Reply:
        raise CommandError("batch subsystem is only available in Faktory Enterprise")

    async def _track(self, _connection: Connection, _line: str) -> Reply:
        raise CommandError("tracking subsystem is only available in Faktory Enterprise")

    async def _queue(self, _connection: Connection, line: str) -> Reply:
        words = line.split(" ")[1:]
        if not words:
            raise ServerPanic("runtime error: index out of range [0] with length 0")
        if self.options.version >= (1, 9):
            words[0] = words[0].upper()
            if words[0] == "LATENCY":
                if words[1:] == ["*"]:
                    raise CommandError("QUEUE LATENCY does not support wildcards")
                return bulk(dump(await self.jobs.latencies(words[1:])))
        acts = {"PAUSE": self.jobs.pause, "RESUME": self.jobs.resume, "REMOVE": self.jobs.remove}
        act = acts.get(words[0])
        if act is None and self.options.version >= (1, 9):
            raise CommandError(f"no such QUEUE subcommand: {words[0]}")
        if len(words) < 2:
            raise ServerPanic("runtime error: index out of range [1] with length 1")
        for name in list(self.jobs.queues) if words[1] == "*" else words[1:]:
            if act is not None:
                with contextlib.suppress(redis.exceptions.ResponseError):
                    await act(name)
        return "+OK"

    # -- what the server tells of itself

    async def _reap_workers(self) -> int:
        closed = self.workers.reap(self.options.heartbeat_expiry)
        if closed:
            say("W", f"Reaped {closed} lingering connections")
        return 0

    def health(self) -> dict[str, Any]:
        """Return the document of ``/health``."""
        return {
            "now": instant(),
            "server": {
                "command_count": self.commands,
                "connections": self.connections,
                "description": "Faktory",
                "faktory_version": self.options.version_text,
            },
        }

    async def state(self) -> dict[str, Any]:
        """Return the document of ``INFO``."""
        queues, sets, totals = await self.jobs.sizes()
        tasks: dict[str, Any] = {
            "Busy": {"reaped": self.tasks["Busy"].done, "size": len(self.jobs.working)},
            "Workers": {"reaped": self.workers.reaped, "size": len(self.workers)},
        }
        for name, of in (("Dead", "dead"), ("Retries", "retries"), ("Scheduled", "scheduled")):
            task = self.tasks[name]
            tasks[name] = {
                "cycles": task.cycles,
                "enqueued": task.done,
                "size": sets[of],
                "wall_time_sec": round(task.seconds, 9),
            }
        data: dict[str, Any] = {
            "queues": queues,
            "sets": dict(sorted(sets.items())),
            "tasks": dict(sorted(tasks.items())),
            "total_failures": totals["failures"],
            "total_processed": totals["processed"],
            "total_enqueued": sum(queues.values()),
            "total_queues": len(queues),
        }
        server = {
            "description": "Faktory",
            "faktory_version": self.options.version_text,
            "uptime": int(time.monotonic() - self._started),
            "connections": self.connections,
            "command_count": self.commands,
            "used_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        told = {
            "now": instant(),
            "server_utc_time": f"{datetime.now(UTC):%H:%M:%S} UTC",
            "faktory": data,
            "server": server,
        }
        if self.options.version < (1, 9):
            del data["sets"]
            told |= {"faktory": dict(sorted(data.items())), "server": dict(sorted(server.items()))}
            told = dict(sorted(told.items()))
        return told

    # -- pages

    def _pages(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._page)
        return application

    async def _page(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        self.ledger.page(request.method, request.path_qs)
        headers = {"Cache-Control": "no-cache"}
        if request.path == "/health":
            return web.Response(
                text=dump(self.health()), content_type="application/json", charset=None, headers=headers
            )
        if self.options.password and not self._authorised(request):
            told = "failed" if request.headers.get("Authorization", "").startswith("Basic ") else "required"
            challenge = {"WWW-Authenticate": 'Basic realm="Faktory"'}
            return web.Response(status=401, text=f"Authorization {told}\n", headers=challenge)
        if request.path == "/stats":
            document = dump(await self.state())
            return web.Response(text=document, content_type="application/json", charset=None, headers=headers)
        say("I", f"{request.method} {request.raw_path} {time.perf_counter() - started:.6f}s")
        return web.Response(text=_PAGE, content_type="text/html")

    def _authorised(self, request: web.Request) -> bool:
        kind, _, told = request.headers.get("Authorization", "").partition(" ")
        try:
            _, _, password = base64.b64decode(told, validate=True).decode().partition(":")
        except ValueError:
            return False
        return kind == "Basic" and hmac.compare_digest(password.encode(), self.options.password.encode())


def _read_jobs(document: Any) -> list[Job]:
    if document is None:
        return []
    if not isinstance(document, list):
        told = "object" if isinstance(document, dict) else "string" if isinstance(document, str) else "number"
        told = "bool" if isinstance(document, bool) else told
        raise DocumentError(f"json: cannot unmarshal {told} into Go value of type []client.Job")
    return [read_job(item) for item in document]


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets: each connection is one, and an idle FETCH holds a second."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
