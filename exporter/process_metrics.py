"""What this process takes of the machine, under the names that Prometheus's client libraries agree on.

``prometheus_client`` tells the same; to import it takes 2 MiB of resident memory, most of it for a web server.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

_PROC = Path("/proc")


def process_metrics(proc: Path = _PROC) -> dict[str, float]:
    """Return the value of each metric that can be known: none where there is no ``/proc``."""
    try:
        # The process's name comes second, in parentheses, and may hold anything.
        stat = (proc / "self/stat").read_text(errors="replace").rpartition(")")[2].split()
        booted = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
        descriptors = len(os.listdir(proc / "self/fd"))
    except (OSError, StopIteration):
        return {}
    tick = os.sysconf("SC_CLK_TCK")
    return {
        "process_virtual_memory_bytes": float(stat[20]),
        "process_resident_memory_bytes": float(stat[21]) * resource.getpagesize(),
        "process_start_time_seconds": float(stat[19]) / tick + float(booted.split()[1]),
        "process_cpu_seconds_total": (float(stat[11]) + float(stat[12])) / tick,
        "process_open_fds": float(descriptors),
        "process_max_fds": float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    }
