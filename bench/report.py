"""How the benches tell what they measured: tables in Markdown, and each goal with whether it is met."""

from __future__ import annotations

import math
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("aiohttp", "hiredis", "msgspec", "prometheus-client", "redis", "uvloop")

GOAL = "Goal: "
"""What a line begins with that tells whether a goal is met."""


def quick() -> bool:
    """Whether a short run is asked for."""
    return "--quick" in sys.argv[1:]


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    say("| " + " | ".join(head) + " |")
    say("|" + " --- |" * len(head))
    for row in rows:
        say("| " + " | ".join(row) + " |")


def goal(text: str, *, met: bool) -> None:
    say(f"{GOAL}{text}: {'met' if met else 'missed'}.")


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return between which two of ``values`` the true median lies, with 95 % certainty."""
    count = len(values)
    outside, chance = 0, 0.5**count
    while outside < (count - 1) // 2 and 2 * chance <= 0.05:
        outside += 1
        chance += math.comb(count, outside) * 0.5**count
    ranked = sorted(values)
    lowest = max(outside - 1, 0)
    return ranked[lowest], ranked[count - 1 - lowest]


def ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return (
        f"{milliseconds:.2f}"
        if milliseconds < 10
        else f"{milliseconds:.1f}"
        if milliseconds < 100
        else f"{milliseconds:.0f}"
    )


def machine() -> str:
    """Return one line on what the numbers were measured with."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    cores = sum(line.startswith("processor") for line in _lines("/proc/cpuinfo"))
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{cores} cores ({cpu}), Linux {platform.release()}, Python {platform.python_version()}; {packages}"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
