"""Fixtures that all tests share: the servers to watch."""

from __future__ import annotations

import functools
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.servers import (
    HOW_TO_HAVE_ONE,
    RealFaktory,
    StandInFaktory,
    WatchedServer,
    program_version,
    real_programs,
    running,
)

for ignored in (signal.SIGHUP, signal.SIGQUIT):
    # A shell, or nohup, that runs the tests in the background has them ignore these, and so would what they start.
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)


def server_kinds() -> list[Any]:
    reals = [
        pytest.param(
            functools.partial(RealFaktory, program),
            id="real-" + ".".join(map(str, program_version(program))),
            marks=pytest.mark.real,
        )
        for program in real_programs()
    ]
    if not reals:
        reals = [pytest.param(None, id="real", marks=[pytest.mark.real, pytest.mark.skip(reason=HOW_TO_HAVE_ONE)])]
    return [*reals, pytest.param(StandInFaktory, id="stand-in")]


@pytest.fixture(params=server_kinds())
async def unstarted(request: pytest.FixtureRequest) -> AsyncIterator[WatchedServer]:
    """Each server at hand, not yet started: for tests that want a password or files in ``config_dir``."""
    make: Callable[[], WatchedServer] = request.param
    server = make()
    try:
        yield server
    finally:
        await server.remove()


@pytest.fixture
async def server(unstarted: WatchedServer) -> WatchedServer:
    """Each server at hand, running without a password."""
    await unstarted.start()
    return unstarted


@pytest.fixture
async def standin() -> AsyncIterator[StandInFaktory]:
    """Only the stand-in, running at the real server's times. For other options: ``running(StandInFaktory(...))``."""
    made = StandInFaktory()
    async with running(made):
        yield made


@pytest.fixture
async def real() -> AsyncIterator[RealFaktory]:
    """Only the newest real server at hand."""
    if not real_programs():
        pytest.skip(HOW_TO_HAVE_ONE)
    made = RealFaktory(real_programs()[-1])
    async with running(made):
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the live ones, which take longest, and mostly wait."""
    items.sort(key=lambda item: "/test_live_" not in item.nodeid)
