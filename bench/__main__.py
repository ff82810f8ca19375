"""All benches in order, each in a process of its own, as one report in Markdown: ``python -m bench [--quick]``."""

from __future__ import annotations

import subprocess
import sys

from bench.report import GOAL, machine, quick, say

BENCHES = ("rendering", "poll", "traces", "statsd", "logtail", "latency", "memory", "throughput")


def main() -> int:
    say(f"# Measured{' in a short run' if quick() else ''}\n\n{machine()}\n")
    goals: list[str] = []
    failed = False
    for name in BENCHES:
        process = subprocess.Popen(
            [sys.executable, "-m", f"bench.{name}", *sys.argv[1:]], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Goal"):
                goals.append(f"{name}: {line.removeprefix(GOAL).strip()}")
            else:
                say(line.rstrip("\n"))
        if process.wait() != 0:
            failed = True
            goals.append(f"{name}: failed with status {process.returncode}")
        say()
    say("## Goals\n")
    for goal in goals:
        say(f"- {goal}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
