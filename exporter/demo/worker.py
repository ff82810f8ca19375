"""``python -m exporter.demo.worker``: a worker or a producer for the demo, as a process of its own.

Speaks to any Faktory, the real one included. Ends on SIGTERM after its jobs are done or failed; dies on SIGKILL with
its jobs left behind, as real workers do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import secrets
import signal
import socket
import sys
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

BEAT_EVERY = 15.0
REPLY_DEADLINE = 10.0
SHUTDOWN_GRACE = 1.0
"""How long running jobs may still take after SIGTERM before they are failed, in seconds."""


def wid(pid: int) -> str:
    """Return the worker id of the demo's worker process ``pid``."""
    return f"demo-{pid}"


class Refused(Exception):  # noqa: N818
    """The server answered with an error."""


class Connection:
    """One connection, one command at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, url: str, wid: str | None) -> Connection:
        """Connect and shake hands; without ``wid`` as a producer."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 7419)
        self = cls(reader, writer)
        try:
            greeting = json.loads((await reader.readline()).removeprefix(b"+HI "))
            hello: dict[str, Any] = {"hostname": socket.gethostname(), "pid": os.getpid(), "labels": ["demo"], "v": 2}
            if wid is not None:
                hello["wid"] = wid
            if "s" in greeting:
                digest = (unquote(parts.password or "") + greeting["s"]).encode()
                for _ in range(greeting["i"]):
                    digest = hashlib.sha256(digest).digest()
                hello["pwdhash"] = digest.hex()
            await self.command("HELLO", hello)
        except BaseException:
            writer.transport.abort()
            raise
        return self

    async def command(self, verb: str, argument: object = "") -> Any:
        """Send a command (its argument as it is, or as JSON) and return the document of the reply."""
        told = argument if isinstance(argument, str) else json.dumps(argument)
        async with self._turn, asyncio.timeout(REPLY_DEADLINE):
            self._writer.write(f"{verb} {told}\r\n".encode())
            await self._writer.drain()
            line = (await self._reader.readline()).decode()
            if not line:
                raise ConnectionError("the server closed the connection")
            if line.startswith("-"):
                raise Refused(line[1:].strip())
            if not line.startswith("$"):
                return None
            size = int(line[1:])
            return None if size < 0 else json.loads((await self._reader.readexactly(size + 2))[:-2])

    async def close(self) -> None:
        """Leave politely."""
        with contextlib.suppress(OSError):
            self._writer.write(b"END\r\n")
            self._writer.close()
            await self._writer.wait_closed()


class Worker:
    """Fetches with several connections at once, works by sleeping, and beats.

    A job's first argument is how long it takes, in seconds.
    """

    def __init__(self, url: str, queues: list[str], concurrency: int, fail_ratio: float) -> None:
        self.url = url
        self.queues = queues
        self.concurrency = concurrency
        self.fail_ratio = fail_ratio
        self.wid = wid(os.getpid())
        self.ending = asyncio.Event()

    async def run(self) -> None:
        """Work until told to end."""
        beating = await Connection.open(self.url, self.wid)
        try:
            async with asyncio.TaskGroup() as group:
                beats = group.create_task(self._beat(beating))
                async with asyncio.TaskGroup() as slots:
                    for _ in range(self.concurrency):
                        slots.create_task(self._work())
                beats.cancel()
        finally:
            await beating.close()

    async def _beat(self, connection: Connection) -> None:
        while True:
            state = await connection.command("BEAT", {"wid": self.wid})
            if state and state.get("state") == "terminate":
                self.ending.set()
            await asyncio.sleep(BEAT_EVERY)

    async def _work(self) -> None:
        connection = await Connection.open(self.url, self.wid)
        try:
            while not self.ending.is_set():
                job = await connection.command("FETCH", " ".join(self.queues))
                if job is not None:
                    await self._finish(connection, job)
        finally:
            await connection.close()

    async def _finish(self, connection: Connection, job: dict[str, Any]) -> None:
        seconds = float(job["args"][0]) if job["args"] else 0.0
        working = asyncio.create_task(asyncio.sleep(seconds))
        ending = asyncio.create_task(self.ending.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({working}, timeout=SHUTDOWN_GRACE)
            if not working.done():
                told = {"errtype": "Shutdown", "message": "the worker was told to end"}
            elif random.random() < self.fail_ratio:
                told = {"errtype": "DemoError", "message": "this job fails now and then"}
            else:
                await connection.command("ACK", {"jid": job["jid"]})
                return
            await connection.command("FAIL", {"jid": job["jid"], **told})
        finally:
            working.cancel()
            ending.cancel()


class Kind(NamedTuple):
    """One kind of job: how many are pushed a second, how many seconds one takes and is reserved for."""

    queue: str
    jobtype: str
    rate: float
    seconds: float
    reserve_for: int

    def job(self, *, exactly: bool = False) -> dict[str, Any]:
        """Return a new one to push; it takes about as long, or ``exactly``."""
        return {
            "jid": secrets.token_hex(12),
            "jobtype": self.jobtype,
            "queue": self.queue,
            "args": [round(self.seconds * (1.0 if exactly else random.uniform(0.5, 1.5)), 3)],
            "reserve_for": self.reserve_for,
        }


class Producer:
    """Pushes jobs of several kinds, each at its own rate."""

    def __init__(self, url: str, mix: list[Kind]) -> None:
        self.url = url
        self.mix = mix
        self.ending = asyncio.Event()

    async def run(self) -> None:
        """Push until told to end."""
        connection = await Connection.open(self.url, None)
        try:
            async with asyncio.TaskGroup() as group:
                for kind in self.mix:
                    group.create_task(self._push(connection, kind))
        finally:
            await connection.close()

    async def _push(self, connection: Connection, kind: Kind) -> None:
        while not self.ending.is_set():
            await connection.command("PUSH", kind.job())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), random.expovariate(kind.rate))


def _kind(text: str) -> Kind:
    queue, jobtype, rate, seconds, reserve_for = text.split(":")
    return Kind(queue, jobtype, float(rate), float(seconds), int(reserve_for))


async def _run(doer: Worker | Producer) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, doer.ending.set)
    await doer.run()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m exporter.demo.worker", description="A worker, or a producer.")
    parser.add_argument("--url", required=True, help="tcp://:password@host:port")
    parser.add_argument("--queues", nargs="+", default=["default"], metavar="NAME", help="fetched from in this order")
    parser.add_argument("--concurrency", type=int, default=2, metavar="N", help="jobs at once (%(default)s)")
    parser.add_argument(
        "--fail-ratio", type=float, default=0.02, metavar="R", help="share of jobs that fail (%(default)s)"
    )
    parser.add_argument(
        "--produce",
        type=_kind,
        nargs="+",
        metavar="QUEUE:JOBTYPE:PER_SECOND:SECONDS:RESERVE_FOR",
        help="push such jobs instead of working",
    )
    told = parser.parse_args()
    try:
        doer: Worker | Producer
        if told.produce:
            doer = Producer(told.url, told.produce)
        else:
            doer = Worker(told.url, told.queues, told.concurrency, told.fail_ratio)
        asyncio.run(_run(doer))
    except* (OSError, EOFError, TimeoutError, ValueError, Refused) as group:
        sys.exit(f"error: {group.exceptions[0]}")


if __name__ == "__main__":
    main()
