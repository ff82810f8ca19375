"""Starts a program that ends when its parent does, however the parent ended.

``python child.py PARENT_PID PROGRAM ARGUMENT...`` asks the kernel for SIGTERM at the parent's death and then becomes
the program, under the same process id. Runs alone, with the standard library only, so that it starts quickly.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # prctl(2)


def command(program: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``program`` as a child bound to this process's main thread."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), program, *arguments]


def main(argv: Sequence[str]) -> None:
    """Bind this process to its parent's life, then become the program."""
    parent, program, *arguments = argv
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before the kernel was asked
            sys.exit("parent process is gone")
    path = shutil.which(program)
    if path is None:
        sys.exit(f"cannot start {program}: no such program on the PATH")
    os.execv(path, [program, *arguments])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
