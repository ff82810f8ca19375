"""What Forewarn costs the server's clients: ``python -m bench.throughput`` prints a table in Markdown.

Clients push, fetch and acknowledge jobs as fast as the server answers, on connections that stay open for the whole
measurement, while one Forewarn beside the server polls every second, or is halted (SIGSTOP), in turns. What is compared
are the two runs of a pair, which lie side by side; which one comes first alternates. The clients and Redis share the
processors with Forewarn, so what it takes of them counts too.

Beside the throughput, which other work on the machine blurs, stands what a job costs in processor time: of the server,
its Redis and Forewarn together. That hardly depends on the neighbours.

The server is the newest real one at hand (``FAKTORY_BIN``), else the stand-in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from bench.report import median_interval
from tests.forewarn import Forewarn
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, children, real_programs, running
from tests.wire import Wire

GOAL = 0.98
WORKER = "bench"
BEAT_EVERY = 15.0
WARM_UP = 1.0
"""Seconds before each run that do not count: Forewarn's first poll after a halt lies in them."""


class Job:
    """The three commands of one job's life, again and again on one connection."""

    def __init__(self, queue: str, connection: int) -> None:
        jid = f"bench-{os.getpid()}-{connection}"
        job = {"jid": jid, "jobtype": "Bench", "args": [1, "two", {"three": 3}], "queue": queue}
        self.commands = (
            f"PUSH {json.dumps(job)}\r\n".encode(),
            f"FETCH {queue}\r\n".encode(),
            f"ACK {json.dumps({'jid': jid})}\r\n".encode(),
        )


class Client(asyncio.Protocol):
    """One connection of a worker that works as fast as it is answered."""

    def __init__(self, number: int) -> None:
        self.done = 0
        """Jobs so far."""
        self.failed: str | None = None
        hello = {"hostname": "bench", "wid": WORKER, "pid": os.getpid(), "labels": [], "v": 2}
        self._hello = f"HELLO {json.dumps(hello)}\r\n".encode()
        self._commands = Job(f"bench-{number}", number).commands
        self._step = -2  # the greeting, then the answer to HELLO
        self._unread = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the greeting."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Send the next command once the answer is there in full."""
        data = self._unread + data
        end = data.find(b"\r\n")
        whole = end + 2 if data[:1] != b"$" or data[1:2] == b"-" else end + 4 + int(data[1:end] if end > 0 else 0)
        if end < 0 or len(data) < whole:
            self._unread = data
            return
        self._unread = b""
        self._answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it: no run counts without all of its clients."""
        self.failed = self.failed or f"the connection was closed: {exc}"

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.abort()

    def _answered(self, reply: bytes) -> None:
        assert self._transport is not None
        if reply[:1] == b"-" or (self._step == 1 and reply[:1] != b"$") or reply[:3] == b"$-1":
            self.failed = f"step {self._step} was answered with {reply[:100]!r}"
            self._transport.abort()
            return
        self.done += self._step == 2
        self._step = (self._step + 1) % 3 if self._step >= 0 else self._step + 1
        self._transport.write(self._hello if self._step < 0 else self._commands[self._step])


class Run(msgspec.Struct, frozen=True):
    """What one run showed."""

    speed: float
    """Jobs a second."""
    cost: float
    """Processor time of the server, its Redis and Forewarn, in microseconds a job."""
    own: float
    """Share of one processor that Forewarn used."""


class Pair(msgspec.Struct, frozen=True):
    """Two runs that lie side by side."""

    halted: Run
    polling: Run

    @property
    def speed(self) -> float:
        """What is left of the throughput."""
        return self.polling.speed / self.halted.speed

    @property
    def cost(self) -> float:
        """What would be left of it if processor time were all that limits it."""
        return self.halted.cost / self.polling.cost


def processor_seconds(pids: Sequence[int]) -> float:
    """Return the processor time that these processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # of the user and of the system, proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


async def beat_for_ever(server: WatchedServer) -> None:
    """Keep the clients' worker registered: without a heartbeat the server closes its connections after a minute."""
    async with await Wire.connect(server.url) as heart:
        while True:
            await heart.beat(WORKER)
            await asyncio.sleep(BEAT_EVERY)


async def measure(server: WatchedServer, *, connections: int, pairs: int, seconds: float) -> list[Pair]:
    """Return the throughput of each pair of runs."""
    loop = asyncio.get_running_loop()
    clients = [Client(number) for number in range(connections)]
    async with Forewarn(server) as forewarn:
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", server.port)  # type: ignore[misc]
        beating = loop.create_task(beat_for_ever(server))

        pids = [server.pid, *children(server.pid), forewarn.pid]

        async def run(*, polling: bool) -> Run:
            forewarn.process.send_signal(signal.SIGCONT if polling else signal.SIGSTOP)
            await asyncio.sleep(WARM_UP)
            used, own = processor_seconds(pids), processor_seconds([forewarn.pid])
            before, started = sum(client.done for client in clients), time.perf_counter()
            await asyncio.sleep(seconds)
            jobs, took = sum(client.done for client in clients) - before, time.perf_counter() - started
            failures = {client.failed for client in clients if client.failed}
            if failures:
                raise RuntimeError(f"a client failed: {failures}")
            return Run(
                speed=jobs / took,
                cost=(processor_seconds(pids) - used) / jobs * 1e6,
                own=(processor_seconds([forewarn.pid]) - own) / took,
            )

        try:
            await run(polling=True)  # the first of all is slower than the others
            found = []
            for number in range(pairs):
                order = (True, False) if number % 2 else (False, True)
                runs = {polling: await run(polling=polling) for polling in order}
                found.append(Pair(halted=runs[False], polling=runs[True]))
        finally:
            forewarn.process.send_signal(signal.SIGCONT)
            beating.cancel()
            for client in clients:
                client.close()
        scrape = await forewarn.scrape()
        assert scrape.value("faktory_up") == 1, "Forewarn did not watch the server"
        assert (scrape.value("faktory_jobs_processed_total") or 0) > 0, "Forewarn did not read its Redis"
    return found


def table(pairs: Sequence[Pair]) -> str:
    """Return the measurement as a table, with a verdict."""
    lines = [
        "| pair | halted: jobs/s | polling: jobs/s | ratio | halted: CPU µs/job | polling: CPU µs/job | ratio |",
        "|" + " ---: |" * 7,
    ]
    cells = [(it.halted.speed, it.polling.speed, it.speed, it.halted.cost, it.polling.cost, it.cost) for it in pairs]
    rows = [*enumerate(cells, 1), ("median", tuple(statistics.median(column) for column in zip(*cells, strict=True)))]
    lines += [
        f"| {name} | {row[0]:.0f} | {row[1]:.0f} | {row[2]:.3f} | {row[3]:.1f} | {row[4]:.1f} | {row[5]:.3f} |"
        for name, row in rows
    ]
    lines.append("")
    for what, ratios in (("throughput", [it.speed for it in pairs]), ("processor time", [it.cost for it in pairs])):
        low, high = median_interval(ratios)
        verdict = "met" if low >= GOAL else "missed" if high < GOAL else "not decided: too few pairs for so much noise"
        lines.append(
            f"By {what}: median ratio {statistics.median(ratios):.3f}, 95 % between {low:.3f} and {high:.3f}. "
            f"Goal of {GOAL}: {verdict}."
        )
    own = statistics.mean(it.polling.own for it in pairs)
    lines.append(f"Forewarn itself used {own:.2%} of one processor while it polled.")
    return "\n".join(lines)


async def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run (%(default)s)")
    told = parser.parse_args(arguments)
    if told.pairs < 6:
        parser.error("--pairs: fewer than 6 pairs prove nothing with 95 % certainty")
    programs = real_programs()
    server: WatchedServer = RealFaktory(programs[-1]) if programs else StandInFaktory()
    async with running(server):
        pairs = await measure(server, connections=told.connections, pairs=told.pairs, seconds=told.seconds)
    version = ".".join(map(str, server.version))
    what = f"Faktory {version}" if server.real else f"the stand-in for Faktory {version}"
    out = sys.stdout.write
    out(f"{what}, {told.connections} connections, {told.pairs} pairs of runs of {told.seconds:g} s, ")
    out(
        f"{os.cpu_count()} processors shared by server, Redis, clients and Forewarn; load {os.getloadavg()[0]:.1f}.\n\n"
    )
    out(table(pairs) + "\n")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
