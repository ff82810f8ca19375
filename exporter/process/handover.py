"""What ``forewarn exec`` was started with, and how one image of it hands that over to the next."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # the module that has it would stay in memory
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

    Flags = Mapping[str, str | Sequence[str] | None]

ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder that this package is in."""


def write(blocked: Iterable[int], flags: Flags) -> int:
    """Return an open file with all that the next image needs; only who inherits it can read it. Raises ``OSError``."""
    import json  # noqa: PLC0415 - the next image must not carry it
    import sysconfig  # noqa: PLC0415

    path = b""
    if sysconfig.get_path("purelib") != ROOT:
        path = os.fsencode(os.pathsep.join(it for it in (ROOT, os.environ.get("PYTHONPATH")) if it))
    mask = sum(1 << number for number in blocked)
    descriptor = os.memfd_create("forewarn-exec", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(b"%x\n%s\n%s" % (mask, path, json.dumps(flags).encode()))
    return descriptor


def read_own(descriptor: int) -> tuple[set[int], bytes]:
    """Return the signals that were blocked before, and where this package is found if not by itself."""
    mask, path, _ = _parts(descriptor)
    return {number for number in signal.valid_signals() if int(mask, 16) >> number & 1}, path


def read_flags(descriptor: int) -> Flags:
    """Return what was set."""
    import json  # noqa: PLC0415 - only for the process that watches

    flags: Flags = json.loads(_parts(descriptor)[2])
    return flags


def environment() -> dict[bytes, bytes]:
    """Return the environment as it was given to this process: Python itself sets LC_CTYPE in a plain one."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    return {name: value for name, equals, value in (entry.partition(b"=") for entry in entries) if equals}


def open_standard_streams() -> None:
    """Open the standard streams that this process was started without, lest something else gets their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _parts(descriptor: int) -> list[bytes]:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).split(b"\n", 2)
