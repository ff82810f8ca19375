"""Following a log beside mtail and grep: ``python -m bench.logtail [--quick]``.

The contenders take turns on one file of Faktory's ordinary log lines, near the end of which a Go program dies. mtail
(Debian's, in one-shot mode) runs a program that counts what opens a crash; ``grep -c`` counts the lines of the same
expression. Forewarn follows the file as it does in a sidecar, from its beginning, until it tells the crash; the quarter
of a second after which it looks at files again counts too. Each time is that of the work, without the start of the
process, but for grep's, which has next to none. The file is in the page cache.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

from bench.report import goal, median, quick, say, table
from exporter.faktory.log_lines import FAKTORY_LINES
from exporter.model import Incident, IncidentKind, Position
from exporter.process.logtail import LogTail

MTAIL_GOAL: Final = 20.0
GREP_GOAL: Final = 2.0
STALL_GOAL: Final = 0.010

EXPRESSION: Final = r"^(fatal error|panic): |^WARNING: DATA RACE$|http: panic serving "
PROGRAM: Final = """\
counter crashes_total by class
counter races_total
counter recovered_total
/^fatal error: / {
  crashes_total["fatal"]++
}
/^panic: / {
  crashes_total["panic"]++
}
/^WARNING: DATA RACE$/ {
  races_total++
}
/http: panic serving / {
  recovered_total++
}
"""

LINES: Final = (
    "I 2026-11-21T06:08:51.832Z Retries processed 3 jobs\n"
    "I 2026-11-21T06:08:52.001Z Scheduled processed 14 jobs\n"
    "D 2026-11-21T06:08:52.117Z JID b0b5cafe{:08x} enqueued\n"
    "W 2026-11-21T06:08:52.118Z No such job to acknowledge f00df00d{:08x}\n"
)
PAGES: Final = "I 2026-11-21T06:08:51.832Z GET /busy 919.203µs\n"
"""A line that means something, and so is looked at as such."""

DUMP: Final = """\
fatal error: concurrent map read and map write

goroutine 7 [running]:
internal/runtime/maps.fatal({0x1?, 0x2?})
\t/go/src/runtime/panic.go:1 +0x18
github.com/contribsys/faktory/webui.busyWorkers(0x3?, 0x4)
\t/faktory/webui/helpers.go:1 +0x5

"""


def main() -> int:
    megabytes, rounds = (100, 3) if quick() else (500, 7)
    say(f"## Following a log: {megabytes} MB of Faktory's lines in the page cache, medians of {rounds} rounds\n")
    with tempfile.TemporaryDirectory(prefix="fw-") as folder:
        log = Path(folder, "faktory.log")
        size = write(log, megabytes * 1_000_000, LINES)
        pages = Path(folder, "pages.log")
        paged = write(pages, megabytes * 100_000, LINES + PAGES)
        program = Path(folder, "crashes.mtail")
        program.write_text(PROGRAM)
        contenders: dict[str, Callable[[], float]] = {"forewarn": lambda: follow(log), "grep -c": lambda: grep(log)}
        if shutil.which("mtail"):
            contenders["mtail"] = lambda: mtail(log, program)
        else:
            say("mtail is not installed (on Debian: apt-get install mtail): it is left out.\n")
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, work in contenders.items():
                times[name].append(work())
        stalled = asyncio.run(stall(log))
        told = [follow(pages) for _ in range(rounds)]
    table(
        ("contender", "MB/s", "times forewarn's time"),
        [
            (name, f"{size / 1e6 / median(each):,.0f}", f"{ratio(times, name, 'forewarn'):.2f}")
            for name, each in times.items()
        ],
    )
    say(f"\nWhere every fifth line is one that means something: {paged / 1e6 / median(told):,.0f} MB/s.")
    say(f"The event loop of the process that follows was late by at most {stalled * 1000:.1f} ms meanwhile.\n")
    if "mtail" in times:
        faster = ratio(times, "mtail", "forewarn")
        goal(f"at least {MTAIL_GOAL:g} times as fast as mtail ({faster:.0f})", met=faster >= MTAIL_GOAL)
    slower = ratio(times, "forewarn", "grep -c")
    goal(f"at most {GREP_GOAL:g} times the time of grep -c ({slower:.2f})", met=slower <= GREP_GOAL)
    goal(
        f"the event loop is never late by more than {STALL_GOAL * 1000:g} ms ({stalled * 1000:.1f})",
        met=stalled <= STALL_GOAL,
    )
    return 0


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median of the ratios of each round: what slows the machine down slows both down."""
    return median([first / second for first, second in zip(times[one], times[other], strict=True)])


def write(path: Path, size: int, lines: str) -> int:
    block = "".join(lines.format(number, number) for number in range(5000)).encode()
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(block)
        file.write(DUMP.encode())
        file.write(
            block
        )  # what the next life prints: else the crash is only told when nothing more has come for a while
        return file.tell()


def follow(log: Path) -> float:
    """Return how long it took, in a process of its own."""
    told = subprocess.run([sys.executable, "-m", "bench.logtail", "--follow", str(log)], capture_output=True, text=True)
    if told.returncode != 0:
        raise RuntimeError(told.stderr)
    return float(told.stdout)


def grep(log: Path) -> float:
    started = time.perf_counter()
    told = subprocess.run(["grep", "-cE", EXPRESSION, str(log)], capture_output=True, text=True, check=True)
    took = time.perf_counter() - started
    if told.stdout.strip() != "1":
        raise RuntimeError(f"grep counted {told.stdout}")
    return took


def mtail(log: Path, program: Path) -> float:
    command = ["mtail", "--one_shot", "--logtostderr", "--progs", str(program), "--logs"]
    empty = log.with_name("empty.log")
    empty.touch()
    idle = timed([*command, str(empty)])[0]
    took, told = timed([*command, str(log)])
    if '"Value": 1' not in told and '"Value":1' not in told:
        raise RuntimeError(f"mtail did not count the crash: {told[-500:]}")
    return took - idle


def timed(command: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, told.stdout


async def until_told(log: Path) -> float:
    found = os.stat(log)
    begin = Position(str(log), found.st_dev, found.st_ino, 0, "", 0)
    tail = LogTail([str(log)], rules=(FAKTORY_LINES,), positions=(begin,))
    started = time.perf_counter()
    try:
        while True:
            facts, failure = await tail.read()
            if failure is not None:
                raise RuntimeError(failure.message)
            if facts is not None and any(
                isinstance(it, Incident) and it.kind is IncidentKind.CONCURRENT_MAP for it in facts.entries
            ):
                return time.perf_counter() - started
            if facts is not None and not facts.unread_bytes and time.perf_counter() - started > 60:
                raise RuntimeError("the crash was not found")
            await asyncio.sleep(0.005)
    finally:
        await tail.close()


async def stall(log: Path) -> float:
    """Return by how much the event loop was late at most while the log was read."""
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.perf_counter())
            await asyncio.sleep(0.001)

    with switching():
        ticking = asyncio.create_task(tick())
        await until_told(log)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
    return max(after - before for before, after in pairwise(ticks)) - 0.001


@contextmanager
def switching() -> Iterator[None]:
    """Let threads take turns as they do in a sidecar."""
    from exporter.sidecar import SWITCH_INTERVAL  # noqa: PLC0415 - what follows in a process of its own needs it not

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


if __name__ == "__main__":
    if "--follow" in sys.argv:
        sys.stdout.write(str(asyncio.run(until_told(Path(sys.argv[-1])))))
        sys.exit(0)
    sys.exit(main())
