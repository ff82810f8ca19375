"""Forewarn itself as a child process: started by its command line, read by its pages and its log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.demo import child
from tests.servers import WatchedServer, free_port, wait_until

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
START_DEADLINE = 60.0
STOP_DEADLINE = 5.0


class Scrape:
    """The samples of one ``/metrics``, read by prometheus-client's own parsers."""

    def __init__(self, text: str, content_type: str) -> None:
        self.text = text
        parse = parse_openmetrics if "openmetrics" in content_type else parse_text
        self.families = {family.name: family for family in parse(text)}
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, /, **labels: str) -> float | None:
        """Return the value of the one sample with this name and at least these labels; ``None`` where there is none."""
        found = [value for _, value in self.matching(name, **labels)]
        assert len(found) <= 1, f"{name}{labels} is not one sample: {list(self.matching(name, **labels))}"
        return found[0] if found else None

    def total(self, name: str, /, **labels: str) -> float | None:
        """Return the sum of the samples with this name and at least these labels; ``None`` where there is none."""
        found = [value for _, value in self.matching(name, **labels)]
        return sum(found) if found else None

    def matching(self, name: str, /, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield labels and value of every sample with this name and at least these labels."""
        for (known, pairs), value in self.samples.items():
            if known == name and labels.items() <= dict(pairs).items():
                yield dict(pairs), value


class Forewarn:
    """``forewarn run`` beside one server, or with the arguments given. Its log is JSON and goes to a file."""

    def __init__(
        self,
        server: WatchedServer | None = None,
        *,
        interval: str = "1s",
        redis: bool = True,
        state_file: Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        arguments = [*arguments, f"--web.listen-address=127.0.0.1:{self.port}", "--log.format=json"]
        arguments.append(f"--interval={interval}")
        if state_file is not None:
            arguments.append(f"--state-file={state_file}")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("FAKTORY", "FOREWARN"))
        }
        if server is not None:
            self.environment["FAKTORY_URL"] = server.url
            arguments += [f"--faktory.web-url={server.web_url}", f"--faktory.config-dir={server.config_dir}"]
            if redis:
                arguments.append(f"--faktory.redis-url={server.redis_url}")
        self.environment |= environment or {}
        self.command = [sys.executable, "-m", "exporter.cli", "run", *arguments]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The running process."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def start(self, *, ready: bool = True) -> None:
        """Start it and wait until its first poll has ended (or, not ``ready``, until it listens)."""
        self._process = await asyncio.create_subprocess_exec(
            *child.command(*self.command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        path = "/-/ready" if ready else "/-/healthy"

        async def answers() -> bool:
            if self.process.returncode is not None:
                raise AssertionError(f"forewarn ended with {self.process.returncode}:\n{self.output()}")
            try:
                return (await self.get(path))[0] == 200
            except (aiohttp.ClientError, OSError):
                return False

        await wait_until(answers, START_DEADLINE, every=0.05, what=f"forewarn answers {path}")

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Return status, content type and text of one page."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        async with self._session.get(self.address + path, headers=headers) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), await answer.text()

    async def scrape(self, *, openmetrics: bool = False) -> Scrape:
        """Return what ``/metrics`` tells now."""
        accept = OPENMETRICS if openmetrics else "text/plain;version=0.0.4"
        status, content_type, text = await self.get("/metrics", {"Accept": accept})
        assert status == 200, f"/metrics answered {status}: {text[:500]}"
        return Scrape(text, content_type)

    async def metric(self, name: str, /, **labels: str) -> float | None:
        """Return one sample's value now."""
        return (await self.scrape()).value(name, **labels)

    async def wait_for(self, name: str, expected: float | None, deadline: float, /, **labels: str) -> float:
        """Wait until a sample has the value ``expected``; return the seconds that it took."""
        started = time.monotonic()
        last: list[float | None] = [None]

        async def there() -> bool:
            last[0] = await self.metric(name, **labels)
            return last[0] == expected

        try:
            await wait_until(there, deadline, every=0.1)
        except AssertionError:
            what = f"{name}{labels} was {last[0]}, not {expected}, after {deadline:g} s"
            raise AssertionError(f"{what}:\n{self.output()[-4000:]}") from None
        return time.monotonic() - started

    def output(self) -> str:
        """Everything that it has written so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def log(self, message: str | None = None) -> list[dict[str, Any]]:
        """Its log lines, or those with this message."""
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]
        return [line for line in lines if message is None or line["message"] == message]

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """End it and return its exit status and the seconds that it took."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        started = time.monotonic()
        if self.process.returncode is None:
            self.process.send_signal(how)
        try:
            status = await asyncio.wait_for(self.process.wait(), STOP_DEADLINE)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise AssertionError(f"forewarn did not end within {STOP_DEADLINE:g} s:\n{self.output()}") from None
        return status, time.monotonic() - started

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._output.close()
