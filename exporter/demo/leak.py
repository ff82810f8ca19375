"""``python -m exporter.demo.leak``: a client that opens connections and never closes them.

Each says HELLO, as a producer does, and then nothing. With each number of ``--tell`` it prints the number and the
machine's monotonic time at which so many were open. Ends on SIGTERM, and lets all of them go.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sys
import time

from exporter.demo.worker import Connection, Refused


async def leak(url: str, count: int, seconds: float, tell: list[int]) -> None:
    """Open ``count`` connections evenly over ``seconds``, and hold them until told to end."""
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    started = time.monotonic()
    held: list[Connection] = []
    while len(held) < count and not ending.is_set():
        held.append(await Connection.open(url, None))
        if len(held) in tell:
            print(len(held), time.monotonic(), flush=True)
        ahead = started + seconds * len(held) / count - time.monotonic()
        if ahead > 0.01:  # a few at once: timers are not that exact
            await asyncio.sleep(ahead)
    await ending.wait()
    # The kernel closes them, all at once.


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m exporter.demo.leak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True, help="tcp://:password@host:port")
    parser.add_argument("--connections", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--seconds", type=float, required=True, metavar="S", help="in how many seconds")
    parser.add_argument("--tell", type=int, nargs="*", default=[], metavar="N", help="tell when so many are open")
    told = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(leak(told.url, told.connections, told.seconds, told.tell))
    except (OSError, EOFError, TimeoutError, ValueError, Refused) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
