"""Sends StatsD from a process of its own: ``python -m bench.statsd_sender HOW PORT ...``; prints what it has sent.

It plays a server that tells of its jobs: a timing for each, of one of so many queues and job types.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec

QUEUES: Final = 130
JOBTYPES: Final = 100
SERIES: Final = QUEUES * JOBTYPES
"""Label sets: each queue has each job type."""

COMMON: Final = 1_000
"""Label sets of an ordinary server: of the first queues."""

PACKET: Final = 1432
WINDOW: Final = 4_000
"""Label sets within which a second's packets stay, where all are used: a server's jobs are not all of different kinds
in every second."""

LOOPBACK: Final = "127.0.0.1"


class Sent(msgspec.Struct, frozen=True):
    """What left."""

    packets: int
    lines: int
    seconds: float


def label_sets(number: int) -> list[bytes]:
    """Return the tags of so many pairs of queue and job type."""
    return [
        b"env:production,queue:queue-%d,jobtype:Billing::Invoice%d" % divmod(index, JOBTYPES) for index in range(number)
    ]


def lines(number: int, of: int) -> list[bytes]:
    """Return so many lines of as many label sets as there are, or of the first ``of``."""
    chance = random.Random(1)
    tags = label_sets(of)
    return [
        b"faktory.jobs.perform:%.6f|ms|#%b" % (chance.expovariate(0.02), tags[index % of]) for index in range(number)
    ]


def packed(its: Sequence[bytes]) -> list[tuple[bytes, int]]:
    """Join lines into packets; with each how many there are."""
    packets: list[tuple[bytes, int]] = []
    held: list[bytes] = []
    size = 0
    for line in its:
        if held and size + len(line) > PACKET:
            packets.append((b"\n".join(held), len(held)))
            held, size = [], 0
        held.append(line)
        size += len(line) + 1
    return [*packets, (b"\n".join(held), len(held))]


def by_tcp(port: int, total: int) -> Sent:
    """Send so many lines over one connection, and wait until the other side has read them all and closes."""
    its = lines(20_000, COMMON)
    chunk = b"\n".join(its) + b"\n"
    rounds = max(1, total // len(its))
    with socket.create_connection((LOOPBACK, port)) as stream:
        started = time.perf_counter()
        for _ in range(rounds):
            stream.sendall(chunk)
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)
        seconds = time.perf_counter() - started
    return Sent(rounds * len(its), rounds * len(its), seconds)


def by_udp(port: int, seconds: float) -> Sent:
    """Send full packets for so long, as fast as it goes."""
    packets = packed(lines(20_000, COMMON))
    sent_packets = sent_lines = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((LOOPBACK, port))
        send = sender.send
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            for packet, count in packets:
                send(packet)
                sent_packets += 1
                sent_lines += count
        took = time.perf_counter() - started
    return Sent(sent_packets, sent_lines, took)


def one_by_one(port: int, seconds: float, rate: float, of: int) -> Sent:
    """Send packets of one line for so long, ``rate`` a second as far as it goes: every millisecond what is due."""
    its = lines(of, of)
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((LOOPBACK, port))
        send = sender.send
        started = time.perf_counter()
        while (now := time.perf_counter() - started) < seconds:
            due = min(int(now * rate) - sent, int(rate / 100))
            first = int(now) * WINDOW % of
            for number in range(sent, sent + due):
                with contextlib.suppress(ConnectionRefusedError):
                    send(its[(first + number % WINDOW) % of])
            sent += max(due, 0)
            if due < rate / 1000:
                time.sleep(0.0005)
        took = time.perf_counter() - started
    return Sent(sent, sent, took)


def main(how: str, port: str, *numbers: str) -> None:
    """Send, and print what was sent as JSON."""
    if how == "tcp":
        sent = by_tcp(int(port), int(numbers[0]))
    elif how == "udp":
        sent = by_udp(int(port), float(numbers[0]))
    else:
        sent = one_by_one(int(port), float(numbers[0]), float(numbers[1]), int(numbers[2]))
    sys.stdout.write(msgspec.json.encode(sent).decode() + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
