"""Prometheus's own receiver of StatsD as a child process, with the mapping file that Forewarn ships."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.forewarn import Scrape
from tests.programs import HttpProgram, lacking
from tests.servers import free_port

ROOT: Final = Path(__file__).parent.parent
PROGRAM: Final = ROOT / ".tools" / "statsd_exporter"
"""Where ``make test`` builds it."""

MAPPING: Final = ROOT / "deploy" / "statsd_exporter.yml"


def need_statsd_exporter() -> None:
    """Skip the test where there is none, with how to have it; in CI, where it must be there, fail."""
    if shutil.which(PROGRAM) is None:
        lacking(f"no statsd_exporter at {PROGRAM}: `make test` builds it where Go 1.25 or newer is on the PATH")


class StatsdExporter(HttpProgram):
    """One of its own for a test, which listens on ``udp_port`` and on the socket ``path``."""

    program = str(PROGRAM)
    package = "golang"

    def __init__(self, udp_port: int | None = None) -> None:
        need_statsd_exporter()
        super().__init__()
        self.udp_port = udp_port or free_port()
        self.path = self.folder / "statsd.sock"

    def arguments(self) -> Sequence[str]:
        return [
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--statsd.mapping-config={MAPPING}",
            f"--statsd.listen-udp=127.0.0.1:{self.udp_port}",
            f"--statsd.listen-unixgram={self.path}",
            "--statsd.listen-tcp=",
            "--statsd.read-buffer=4194304",
            "--statsd.event-flush-interval=20ms",
        ]

    async def is_ready(self) -> bool:
        return True

    async def scrape(self) -> Scrape:
        """Return what it tells now."""
        status, text = await self.request("GET", "/metrics")
        assert status == 200, f"/metrics answered {status}: {text[:2000]}"
        # The parser gives each counter a name that ends in _total: not so here, of the samples of a histogram.
        return Scrape(re.sub(r"(?m)^(# TYPE \S+(?<!_total)) counter$", r"\1 untyped", text), "text/plain")

    async def kill(self) -> None:
        """End it at once, without a word."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
