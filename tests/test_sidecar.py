"""What a sidecar hands to its sources, and what it does at the end of a server whose output it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter import sidecar, systems
from exporter.model import (
    Exited,
    Health,
    Incident,
    IncidentKind,
    LogEntry,
    LogFacts,
    Observation,
    Position,
)
from exporter.process.feeds import Feed
from exporter.secret import Secret
from exporter.settings import OtlpTarget, ServerSettings, Settings
from exporter.sidecar import Sidecar
from exporter.signals import Memory
from exporter.state import StateFile
from exporter.web.address import Address
from tests.servers import wait_until
from tests.test_watch import Scripted

NOW = 1_700_000_000.0
POSITION = Position("/var/log/faktory.log", 1, 2, 3, "ab", 3)
CRASH = Incident(IncidentKind.CONCURRENT_MAP, "concurrent map writes", NOW, goroutines={"running": 1})


class Quiet:
    """Output that never comes."""

    name = "stderr"

    def fileno(self) -> int:
        return -1

    def read(self) -> bytes | None:
        return b""

    def entries(self) -> Sequence[LogEntry]:
        return ()

    def close(self) -> None:
        """There is nothing to close."""


class Ending(Scripted):
    """A source of a server whose last words are read after its first poll."""

    def __init__(self, **given: Any) -> None:
        words = (CRASH, Exited(NOW + 1, status=2))
        super().__init__(*(printed(POSITION.offset + read, *said) for read, said in enumerate(((), words))))
        self.given = given


def printed(offset: int, *entries: LogEntry) -> Observation:
    log = LogFacts(entries, positions=(msgspec.structs.replace(POSITION, offset=offset),))
    return Observation(now=NOW, reached=True, health=Health("1.10.0", "oss", 1, 10), log=log)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, Ending]:
    """The source of each server, once it is built."""
    built: dict[str, Ending] = {}

    def build(settings: ServerSettings, **given: Any) -> Ending:
        return built.setdefault(settings.name, Ending(**given))

    monkeypatch.setattr(systems, "build", build)
    return built


def settings(state: Path | None = None, *names: str, traces: bool = False) -> Settings:
    return Settings(
        servers=tuple(ServerSettings(name=it, url=Secret("tcp://127.0.0.1"), web_url="") for it in names or ("jobs",)),
        interval=3600.0,
        state_file=state,
        web_listen_address=Address("127.0.0.1", 0),
        otlp_traces=OtlpTarget(url="http://127.0.0.1:1/v1/traces") if traces else None,
    )


async def ran(its: Sidecar, sources: Mapping[str, Ending]) -> None:
    """Run until every server was polled once, and stop."""
    stop = asyncio.Event()
    running = asyncio.create_task(its.run(stop))
    await wait_until(lambda: all(source.polls for source in sources.values()), 10, what="every server was polled")
    stop.set()
    await asyncio.wait_for(running, 10)


def saved(path: Path) -> Memory:
    return msgspec.json.decode(StateFile(path).load()["jobs"], type=Memory)


async def test_a_source_gets_its_own_feeds_and_the_positions_that_the_last_run_left(
    tmp_path: Path, sources: dict[str, Ending]
) -> None:
    path, feed = tmp_path / "state.json", Quiet()
    memory = Memory()
    memory = msgspec.structs.replace(memory, process=msgspec.structs.replace(memory.process, positions=(POSITION,)))
    StateFile(path).save({"jobs": memory})
    feeds: Mapping[str, Sequence[Feed]] = {"jobs": [feed]}
    Sidecar(settings(path, "jobs", "others"), feeds=feeds)
    assert sources["jobs"].given == {"traces": False, "positions": (POSITION,), "feeds": [feed]}
    assert sources["others"].given == {"traces": False, "positions": (), "feeds": ()}


async def test_a_server_whose_output_ends_with_it_is_polled_once_more_and_what_it_said_last_is_saved(
    tmp_path: Path, sources: dict[str, Ending]
) -> None:
    path = tmp_path / "state.json"
    await ran(Sidecar(settings(path, "jobs", "others"), feeds={"jobs": [Quiet()]}), sources)
    assert (sources["jobs"].polls, sources["others"].polls) == (2, 1)
    memory = saved(path).process
    assert memory.crashes[IncidentKind.CONCURRENT_MAP] == 1
    assert [it.offset for it in memory.positions] == [4]


async def test_an_incident_that_no_collector_took_is_in_the_state_file_once_and_is_told_by_the_next_run(
    tmp_path: Path, sources: dict[str, Ending], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "FLUSHING", 0.1)
    path = tmp_path / "state.json"
    await ran(Sidecar(settings(path, traces=True), feeds={"jobs": [Quiet()]}), sources)
    assert saved(path).untold == (CRASH,)
    again = Sidecar(settings(path, traces=True))
    assert again._memory(again._watches[0]).untold == (CRASH,)
