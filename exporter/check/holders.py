"""Which process of this machine holds a socket, as far as the kernel lets us see."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

MAX_ROWS: Final = 200_000
"""Most sockets of this machine that are looked at."""

MAX_LINKS: Final = 200_000
"""Most open files that are looked at."""

MAX_COMMAND: Final = 4096
"""Most bytes that are read of a command line."""

_FOREWARN: Final = re.compile(rb"(^|[/\0])forewarn\0|\0exporter\.(cli|statsd|process)")
_LISTENS: Final = {"tcp": "0A", "udp": "07"}
_PROC: Final = Path("/proc")


class Holder(msgspec.Struct, frozen=True):
    """A process."""

    pid: int
    name: str
    parent: int
    is_forewarn: bool = False
    """Whether its command line looks like that of a Forewarn."""

    @property
    def told(self) -> str:
        """Name it, for a person."""
        return f"{self.name} (process {self.pid})"


def of_port(kind: str, port: int) -> Holder | None:
    """Return which process has a port, ``tcp`` (and listens there) or ``udp``; ``None`` where that cannot be seen."""
    inodes = {row[9] for row in _rows(kind) if row[3] == _LISTENS[kind] and int(row[1].rpartition(":")[2], 16) == port}
    return _of(inodes)


def of_path(path: Path) -> Holder | None:
    """Return which process listens on a unix socket; ``None`` where that cannot be seen."""
    with suppress(OSError, ValueError), (_PROC / "net/unix").open(errors="replace") as table:
        rows = (line.rstrip("\n").split(None, 7) for line in islice(table, MAX_ROWS))
        return _of({row[6] for row in rows if len(row) == 8 and row[7] == str(path)})
    return None


def process(pid: int) -> Holder | None:
    """Return what a process is; ``None`` where there is none, or it cannot be seen."""
    with suppress(OSError, ValueError, IndexError):
        head, _, tail = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
        with (_PROC / str(pid) / "cmdline").open("rb") as file:
            command = file.read(MAX_COMMAND)
        return Holder(pid, head.partition("(")[2], int(tail.split()[1]), _FOREWARN.search(command) is not None)
    return None


def _rows(kind: str) -> Iterator[list[str]]:
    for name in (kind, f"{kind}6"):
        with suppress(OSError, ValueError), (_PROC / "net" / name).open() as table:
            next(table, None)
            for line in islice(table, MAX_ROWS):
                row = line.split()
                if len(row) > 9:
                    yield row


def _of(inodes: set[str]) -> Holder | None:
    wanted = {f"socket:[{it}]" for it in inodes}
    left = MAX_LINKS
    for pid in _pids() if wanted else ():
        with suppress(OSError), os.scandir(_PROC / str(pid) / "fd") as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    return None
                with suppress(OSError):
                    if os.readlink(entry) in wanted:
                        return process(pid)
    return None


def _pids() -> list[int]:
    with suppress(OSError), os.scandir(_PROC) as entries:
        return sorted(int(it.name) for it in entries if it.name.isdecimal())
    return []
