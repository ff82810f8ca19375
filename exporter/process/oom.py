"""Whether the kernel killed somebody for want of memory: the counter of our own memory control group.

Both versions of control groups count it (cgroups(7)): ``oom_kill`` in ``memory.events`` of version 2, and in
``memory.oom_control`` of version 1, since Linux 4.13.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the module that has it would stay in memory
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

ROOT: Final = "/sys/fs/cgroup"

MAX_SIZE: Final = 64 * 1024
"""Bytes that are read of one file at most."""


def kills(own: str = "/proc/self/cgroup", root: str = ROOT) -> int | None:
    """Return how many processes of this control group were killed so far; ``None`` where nobody counts."""
    for path in _counters(_text(own), root):
        for line in _text(path).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdecimal():
                return int(count)
    return None


def _counters(groups: str, root: str) -> Iterator[str]:
    for line in groups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        # In a container the group is often mounted as the root, though its path is the host's.
        if not controllers:
            for group in (path, ""):
                yield f"{root}{group}/memory.events"
                yield f"{root}/unified{group}/memory.events"
        elif "memory" in controllers.split(","):
            for group in (path, ""):
                yield f"{root}/memory{group}/memory.oom_control"


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MAX_SIZE)
    except OSError:
        return ""
