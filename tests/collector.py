"""A real OpenTelemetry Collector as a child process: takes OTLP over HTTP and hands it on to a receiver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp

from tests.programs import HttpProgram, lacking

PROGRAM: Final = Path(__file__).parent.parent / ".tools" / "otelcol"
"""Where ``make test`` builds it, of what ``tests/otelcol/builder.yaml`` names."""


def need_collector() -> None:
    """Skip the test where there is no collector, with how to have it; in CI, where it must be there, fail."""
    if shutil.which(PROGRAM) is None:
        lacking(f"no OpenTelemetry Collector at {PROGRAM}: `make test` builds it where Go 1.25 or newer is on the PATH")


class Collector(HttpProgram):
    """A collector of its own for a test: what comes to ``address`` goes to its log, span by span, and to ``onward``."""

    program = str(PROGRAM)
    package = "golang"

    def __init__(self, onward: str) -> None:
        """``onward`` is the address of another receiver of OTLP over HTTP."""
        need_collector()
        super().__init__()
        pipeline = {"receivers": ["otlp"], "exporters": ["debug", "otlp_http"]}
        configuration = {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{self.port}"}}}},
            "exporters": {"debug": {"verbosity": "detailed"}, "otlp_http": {"endpoint": onward}},
            "service": {
                "pipelines": {"traces": pipeline, "metrics": pipeline},
                "telemetry": {"metrics": {"level": "none"}},
            },
        }
        # JSON is YAML.
        (self.folder / "otelcol.yaml").write_text(json.dumps(configuration, indent=1))

    def arguments(self) -> Sequence[str]:
        return [f"--config=file:{self.folder}/otelcol.yaml"]

    async def is_ready(self) -> bool:
        # It listens, and takes nothing but POST there.
        return (await self.request("GET", "/v1/traces"))[0] == 405

    def complaints(self) -> list[str]:
        return [line for line in self.log().splitlines() if "\twarn\t" in line or "\terror\t" in line]

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise AssertionError(f"the collector ended with {self._process.returncode} at its start:\n{self.log()}")
        try:
            return await self.is_ready()
        except (aiohttp.ClientError, TimeoutError):
            return False
