"""Programs of others that answer HTTP (Prometheus, Alertmanager), each as a child process in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import aiohttp
import pytest

from exporter.demo import child
from tests.servers import free_port, wait_until

START_DEADLINE = 60.0
STOP_DEADLINE = 15.0


def need(program: str, package: str) -> None:
    """Skip the test where a program is missing, with how to have it; in CI, where it must be there, fail."""
    if shutil.which(program) is None:
        lacking(f"no {program} on the PATH: apt-get install {package}")


def lacking(told: str) -> NoReturn:
    """Skip the test, or fail it in CI, for want of what ``told`` says how to have."""
    if os.environ.get("CI") == "true":
        pytest.fail(told)
    pytest.skip(told)


class HttpProgram(ABC):
    """A program that runs for the duration of an ``async with`` block; nothing of it is left behind."""

    program: str
    package: str
    """The Debian package that brings it."""

    def __init__(self) -> None:
        need(self.program, self.package)
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="fw-")
        self.folder = Path(self._folder.name)
        self.log_file = self.folder / "log"
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None

    @abstractmethod
    def arguments(self) -> Sequence[str]:
        """Return its command line behind the program's name; files that it names are written here."""

    @abstractmethod
    async def is_ready(self) -> bool:
        """Return whether it does all that it is there for; asked once it answers ``/-/ready``."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        data: Mapping[str, str] | None = None,
        json: object = None,
    ) -> tuple[int, Any]:
        """Return the status and the body of an answer: decoded where it is JSON."""
        assert self._session is not None, f"{self.program} is not running"
        async with self._session.request(
            method, self.address + path, params=list(params), data=data, json=json
        ) as answer:
            as_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if as_json else await answer.text()

    def log(self) -> str:
        """Return everything that it has written so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def complaints(self) -> list[str]:
        """Return its warnings and errors so far."""
        return [line for line in self.log().splitlines() if "level=warn" in line or "level=error" in line]

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise AssertionError(f"{self.program} ended with {self._process.returncode} at its start:\n{self.log()}")
        try:
            return (await self.request("GET", "/-/ready"))[0] == 200 and await self.is_ready()
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def __aenter__(self) -> Self:
        try:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
            with self.log_file.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *child.command(self.program, *self.arguments()),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                )
            try:
                await wait_until(self._answers, START_DEADLINE, every=0.05, what=f"{self.program} is ready")
            except AssertionError as error:
                error.add_note(self.log()[-4000:])
                raise
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        process, self._process = self._process, None
        try:
            if session is not None:
                await session.close()
            if process is not None and process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), STOP_DEADLINE)
                except TimeoutError:
                    process.kill()
                    await process.wait()
                    raise AssertionError(
                        f"{self.program} did not end within {STOP_DEADLINE:g} s:\n{self.log()[-4000:]}"
                    ) from None
        finally:
            self._folder.cleanup()
