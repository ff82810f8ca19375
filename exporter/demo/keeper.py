"""Keeps a folder in /tmp for as long as anybody needs it, however they end.

``python keeper.py FOLDER`` makes the folder and prints a line. Standard input is one end of a pipe, whose other end is
inherited by everybody who works in the folder: when the last of them has ended, the kernel tells, and the folder is
removed. So it goes with a demo that was killed too, and never under a process that is still writing. Further lines of
standard input name files to remove with it. Runs alone, with the standard library only, so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Make the folder, wait until nobody needs it, and remove it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # it ends after all others, who get these too
    folder.mkdir(mode=0o700)
    try:
        with contextlib.suppress(OSError):  # nobody is there any more to read it
            os.write(sys.stdout.fileno(), b"made\n")
        files = [Path(line.rstrip("\n")) for line in sys.stdin]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        with contextlib.suppress(OSError):
            if file.stat().st_uid == os.getuid():
                file.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
