"""Receiving processes that misbehave, in the place of the real one: ``python statsd_receivers.py HOW CONFIG_JSON``."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from exporter.statsd.report import MAX_FRAME, Ask, Config, Count, Report, Totals


def command(how: str, marker: Path | None = None) -> Sequence[str]:
    """The command of a process that does ``how``; with ``marker`` one that counts its starts there, a byte each."""
    return (sys.executable, __file__, how, str(marker or ""))


def framed(report: Report) -> bytes:
    body = msgspec.msgpack.encode(report)
    return len(body).to_bytes(4, "big") + body


def counted(name: bytes, last: bool = True) -> bytes:
    return framed(Report(counts=(Count(name, b"", 1.0),), last=Totals(samples=1) if last else None))


class Process:
    def __init__(self, config: Config, starts: int) -> None:
        self.stream = socket.socket(fileno=0)
        self.config = config
        self.starts = starts

    def asked(self) -> Ask:
        """Wait for a question; end where there is none any more."""
        size = self.stream.recv(4, socket.MSG_WAITALL)
        if len(size) < 4:
            sys.exit(0)
        return msgspec.msgpack.decode(self.stream.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL), type=Ask)

    def packet(self) -> bytes:
        assert self.config.udp is not None
        os.set_blocking(self.config.udp, True)
        return os.read(self.config.udp, 65536)

    def dies(self) -> None:
        print("first line\nno way", file=sys.stderr)
        sys.exit(7)

    def oversized(self) -> None:
        self.asked()
        self.stream.sendall((MAX_FRAME + 1).to_bytes(4, "big"))

    def undecodable(self) -> None:
        self.asked()
        self.stream.sendall((3).to_bytes(4, "big") + b"\xc1\xc1\xc1")

    def endless(self) -> None:
        self.asked()
        while True:
            self.stream.sendall(counted(bytes(MAX_FRAME - 64), last=False))

    def halfway(self) -> None:
        """The first one ends amid its answer; the next one answers."""
        self.asked()
        if self.starts == 1:
            self.stream.sendall(counted(b"before", last=False) + b"\0")
            sys.exit(9)
        self.stream.sendall(counted(b"after"))

    def torn(self) -> None:
        """Sends the second half of its answer when a packet comes."""
        while True:
            self.asked()
            answer = counted(b"whole")
            self.stream.sendall(answer[: len(answer) // 2])
            self.packet()
            self.stream.sendall(answer[len(answer) // 2 :])

    def strict(self) -> None:
        """Ends where it is asked again before it has answered."""
        while True:
            self.asked()
            with contextlib.suppress(BlockingIOError):
                if self.stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    sys.exit("asked twice")
            self.stream.sendall(counted(b"once"))

    def talkative(self) -> None:
        """Writes more to its standard error than a pipe holds before each answer."""
        while True:
            self.asked()
            self.stream.sendall(counted(b"said"))
            sys.stderr.write("x" * 60_000)
            sys.stderr.flush()

    def strange(self) -> None:
        """Tells what it was given."""
        self.asked()
        told = msgspec.json.encode(dict(os.environ))
        self.stream.sendall(counted(told))


def main(how: str, marker: str, config: str) -> None:
    starts = 1
    if marker:
        with Path(marker).open("ab") as file:
            file.write(b".")
            starts = file.tell()
    process = Process(msgspec.json.decode(config, type=Config), starts)
    behave: Callable[[], None] = getattr(process, how)
    behave()
    while True:
        process.asked()


if __name__ == "__main__":
    main(*sys.argv[1:])
