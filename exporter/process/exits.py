"""What systemd and the kernel say of a process's end, in a journal or a log that holds their lines.

systemd tells an end with two or three lines, and the kernel tells it first where it killed the process for want of
memory. Each end is told once, by the first line that is sure of it:

- ``Main process exited, code=..., status=...`` is an end, always. Where the kernel's line was told before it, it is of
  that end; where the unit's ``killed by the OOM killer`` stood before it, memory was the reason.
- ``Killed process N (NAME)`` of the kernel is an end, of which systemd may tell once more.
- ``Failed with result 'oom-kill'`` tells the reason of an end that was told. Only where no line before it told that
  reason (an older systemd) is the end told again, with it.
- ``Deactivated successfully`` is the end of a process that asked for it: status 0, of which nothing else is printed.

Docker, containerd and the kubelet print no such lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from exporter.model import Exited

SAME_END: Final = 90.0
"""Seconds within which two lines may tell the same end: systemd waits so long for the rest of a unit's processes."""

_KILL: Final = 9

_UNIT: Final = re.compile(
    r"(?P<unit>[\w.@:\\-]{1,250}?)\.service: (?:"
    r"[Mm]ain process exited, code=(?P<code>exited|killed|dumped), status=(?P<status>\d{1,3})\b.*"
    r"|(?P<marked>A process of this unit has been killed by the OOM killer\.)"
    r"|(?P<result>Failed with result 'oom-kill'\.)"
    r"|(?P<clean>Deactivated successfully\.|Succeeded\.)"
    r")\s*",
    re.ASCII,
)
_KERNEL: Final = re.compile(
    r"(?:kernel: )?(?:\[ *\d+\.\d+\] ?)?"
    r"(?:(?:Out of memory|Memory cgroup out of memory)(?: \(oom_kill_allocating_task\))?: )?"
    r"Killed process \d{1,10} \((?P<name>.{1,15}?)\),? .*"
)


class ExitLines:
    """Reads the lines that tell the end of one server's process. Remembers the newest end, so one serves one server."""

    literals: Final[tuple[bytes, ...]] = (
        b"ain process exited, code=",
        b"has been killed by the OOM killer",
        b"oom-kill",
        b".service: Deactivated successfully",
        b".service: Succeeded",
        b"Killed process ",
    )
    """Byte strings one of which is in every line that tells an end."""

    def __init__(self, command: str, units: Sequence[str] = ()) -> None:
        """``command`` is the name of the server's program, and of its unit where no other ``units`` are named.

        Lines of other processes and units are passed over: a log of the whole machine tells many ends. ``units`` may be
        patterns, as ``journalctl`` takes them.
        """
        self._command = command
        self._units = tuple(unit.removesuffix(".service") for unit in units) or (command, f"{command}@*")
        self._marked: float | None = None
        self._killed: float | None = None
        self._ended: float | None = None
        self._explained = False

    def read(self, text: str, at: float | None) -> Exited | None:
        """Return the end that one line tells, if it was not told before. ``at``: when it was printed, in Unix time."""
        now = 0.0 if at is None else at
        found = _KERNEL.fullmatch(text)
        if found is not None:
            return self._by_kernel(now, at) if found["name"] == self._command[:15] else None
        found = _UNIT.fullmatch(text)
        if found is None or not any(fnmatchcase(found["unit"], it) for it in self._units):
            return None
        if found["marked"]:
            self._marked = now
            return None
        if found["code"]:
            return self._by_main(now, at, int(found["status"]), by_signal=found["code"] != "exited")
        if found["result"]:
            return self._by_result(now, at)
        told, self._ended = _lately(self._ended, now), None
        return None if told else Exited(at, status=0)

    def _by_kernel(self, now: float, at: float | None) -> Exited:
        self._killed, self._marked = now, None
        return self._tell(now, Exited(at, signal=_KILL, out_of_memory=True))

    def _by_main(self, now: float, at: float | None, number: int, *, by_signal: bool) -> Exited | None:
        killed = by_signal and number == _KILL
        known, marked = killed and _lately(self._killed, now), killed and _lately(self._marked, now)
        self._killed = self._marked = None
        if known:
            return None
        if by_signal:
            return self._tell(now, Exited(at, signal=number, out_of_memory=marked))
        return self._tell(now, Exited(at, status=number))

    def _by_result(self, now: float, at: float | None) -> Exited | None:
        explained = self._explained and _lately(self._ended, now)
        self._marked = None
        return None if explained else self._tell(now, Exited(at, signal=_KILL, out_of_memory=True))

    def _tell(self, now: float, end: Exited) -> Exited:
        self._ended, self._explained = now, end.out_of_memory
        return end


def _lately(then: float | None, now: float) -> bool:
    return then is not None and abs(now - then) <= SAME_END
