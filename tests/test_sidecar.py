"""What a sidecar hands to its sources, what it does at the end of a server whose output it was given, and a reload."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from exporter import reload, sidecar, systems
from exporter.model import (
    Exited,
    Health,
    Incident,
    IncidentKind,
    LogEntry,
    LogFacts,
    Observation,
    Position,
    Queue,
)
from exporter.process.feeds import Feed
from exporter.reload import Feeds, Reading
from exporter.secret import Secret
from exporter.settings import OtlpTarget, ServerSettings, Settings, SettingsError
from exporter.sidecar import Sidecar
from exporter.signals import Memory
from exporter.state import StateFile
from exporter.web.address import Address
from tests.forewarn import Scrape
from tests.servers import wait_until
from tests.test_watch import Scripted

replace = msgspec.structs.replace

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
    await wait_until(lambda: all(source.polls for source in sources.values()), 30, what="every server was polled")
    stop.set()
    await asyncio.wait_for(running, 30)


def saved(path: Path) -> Memory:
    return msgspec.json.decode(StateFile(path).load()["jobs"], type=Memory)


async def test_a_source_gets_its_own_feeds_and_the_positions_that_the_last_run_left(
    tmp_path: Path, sources: dict[str, Ending]
) -> None:
    path, feed = tmp_path / "state.json", Quiet()
    memory = Memory()
    memory = msgspec.structs.replace(memory, process=msgspec.structs.replace(memory.process, positions=(POSITION,)))
    StateFile(path).save({"jobs": memory})
    feeds: Feeds = {"jobs": lambda: [feed]}
    Sidecar(settings(path, "jobs", "others"), feeds=feeds)
    assert sources["jobs"].given == {"traces": False, "positions": (POSITION,), "feeds": [feed], "before": None}
    assert sources["others"].given == {"traces": False, "positions": (), "feeds": (), "before": None}


async def test_a_server_whose_output_ends_with_it_is_polled_once_more_and_what_it_said_last_is_saved(
    tmp_path: Path, sources: dict[str, Ending]
) -> None:
    path = tmp_path / "state.json"
    await ran(Sidecar(settings(path, "jobs", "others"), feeds={"jobs": lambda: [Quiet()]}), sources)
    assert (sources["jobs"].polls, sources["others"].polls) == (2, 1)
    memory = saved(path).process
    assert memory.crashes[IncidentKind.CONCURRENT_MAP] == 1
    assert [it.offset for it in memory.positions] == [4]


async def test_an_incident_that_no_collector_took_is_in_the_state_file_once_and_is_told_by_the_next_run(
    tmp_path: Path, sources: dict[str, Ending], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "FLUSHING", 0.1)
    path = tmp_path / "state.json"
    await ran(Sidecar(settings(path, traces=True), feeds={"jobs": lambda: [Quiet()]}), sources)
    assert saved(path).untold == (CRASH,)
    again = Sidecar(settings(path, traces=True))
    assert again._memory(again._watches["jobs"]).untold == (CRASH,)


# --- reload -----------------------------------------------------------------------------------------------------------


class Living:
    """A sidecar that runs, with sources that the test wrote, and settings that it can change."""

    def __init__(self, settings: Settings, feeds: Feeds | None = None) -> None:
        self.wanted = Reading(settings, feeds or {})
        self.wrong: list[str] = []
        self.its = Sidecar(settings, feeds=feeds or {}, read=self._read)
        self.stop = asyncio.Event()

    def _read(self) -> Reading:
        if self.wrong:
            raise SettingsError(self.wrong)
        return self.wanted

    async def use(self, settings: Settings, feeds: Feeds | None = None) -> str | None:
        """Reload with these settings; return what is wrong with them."""
        self.wanted = Reading(settings, feeds or {})
        return await asyncio.wait_for(self.its.reload(), 20)

    def scrape(self) -> str:
        return self.its._exposition.body(time.monotonic()).decode()

    def value(self, name: str, **labels: str) -> float | None:
        return Scrape(self.scrape(), "text/plain").value(name, **labels)

    def success(self) -> float | None:
        return self.value("forewarn_config_last_reload_successful", file="settings")

    async def __aenter__(self) -> Living:
        begun = asyncio.Event()
        self.task = asyncio.create_task(self.its.run(self.stop, started=lambda _: begun.set()))
        await asyncio.wait_for(begun.wait(), 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 30)


class Counted(Ending):
    """A source that can be told apart from the next one of the same server."""

    made: ClassVar[list[Counted]] = []

    def __init__(self, settings: ServerSettings, **given: Any) -> None:
        super().__init__(**given)
        self.observations = [printed(0)]
        self.settings = settings
        Counted.made.append(self)

    @property
    def polled(self) -> bool:
        return self.polls > 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """Every source that was built, in their order."""
    monkeypatch.setattr(Counted, "made", [])
    monkeypatch.setattr(systems, "build", Counted)
    monkeypatch.setattr(reload, "REST", 0.0)
    return Counted.made


def with_servers(its: Settings, **changes: ServerSettings | None) -> Settings:
    servers = {it.name: it for it in its.servers} | changes
    return replace(its, servers=tuple(it for it in servers.values() if it is not None))


def server(name: str, **changed: Any) -> ServerSettings:
    return ServerSettings(name=name, url=Secret("tcp://127.0.0.1"), web_url="", **changed)


async def polled(counted: Sequence[Counted]) -> None:
    await wait_until(lambda: all(it.polled or it.closed for it in counted), 20, what="every source was polled")


async def told(living: Living, name: str, value: float, **labels: str) -> None:
    await wait_until(lambda: living.value(name, **labels) == value, 20, what=f"{name}{labels} is {value:g}")


def names(scraped: str) -> set[str]:
    return set(re.findall(r'^faktory_up\{server="(\w+)"', scraped, re.MULTILINE))


def queues_of(scraped: str) -> set[str]:
    return set(re.findall(r'^faktory_queue_jobs\{server="jobs",queue="(.*?)"', scraped, re.MULTILINE))


async def test_a_reload_with_the_same_settings_touches_no_server(counted: list[Counted]) -> None:
    async with Living(settings(None, "jobs", "others")) as living:
        await polled(counted)
        watches = dict(living.its._watches)
        assert await living.use(living.wanted.settings) is None
        assert living.its._watches == watches
        assert [(it.polls, it.closed) for it in counted] == [(1, False)] * 2


async def test_a_changed_server_is_closed_and_asked_anew_with_its_counters_and_the_others_are_not_touched(
    counted: list[Counted],
) -> None:
    async with Living(settings(None, "jobs", "others")) as living:
        await polled(counted)
        old, other = counted
        old.observations = [printed(0, CRASH, Exited(NOW + 1, status=2))]  # found by the last poll of it
        its = with_servers(living.wanted.settings, jobs=server("jobs", password=Secret("new")))
        assert await living.use(its) is None
        _, _, new = counted
        await polled(counted)
        assert (old.polls, old.closed, new.closed, new.settings.password) == (2, True, False, Secret("new"))
        assert (other.polls, other.closed) == (1, False)
        await told(living, "faktory_process_crashes_total", 1, server="jobs", **{"class": "concurrent-map"})
        # What it read of the log before is not read again.
        assert [it.offset for it in new.given["positions"]] == [0]


async def test_another_server_under_the_name_goes_on_with_what_was_counted(counted: list[Counted]) -> None:
    async with Living(settings(None, "jobs")) as living:
        await polled(counted)
        counted[0].observations = [replace(printed(0), refusals=3)]
        its = with_servers(living.wanted.settings, jobs=replace(server("jobs"), url=Secret("tcp://elsewhere")))
        assert await living.use(its) is None
        await polled(counted)
        await told(living, "faktory_connections_refused_total", 3, server="jobs")
        assert living.value("faktory_restarts_total", server="jobs") == 0


async def test_a_removed_server_is_closed_and_vanishes_and_a_new_one_appears(counted: list[Counted]) -> None:
    async with Living(settings(None, "jobs", "others")) as living:
        await wait_until(lambda: names(living.scrape()) == {"jobs", "others"}, 20)
        assert await living.use(with_servers(living.wanted.settings, jobs=None, fresh=server("fresh"))) is None
        assert 'server="jobs"' not in living.scrape()
        assert (counted[0].closed, counted[1].closed) == (True, False)
        await wait_until(lambda: names(living.scrape()) == {"others", "fresh"}, 20)
        assert list(living.its._newest()) == ["others", "fresh"]
        assert {it.name for it in living.its._book.status().servers} == {"others", "fresh"}


async def test_broken_settings_change_nothing_and_are_all_told(
    counted: list[Counted], caplog: pytest.LogCaptureFixture
) -> None:
    async with Living(settings(None, "jobs")) as living:
        await polled(counted)
        living.wrong = ["a.toml: interval: it is wrong", "a.toml: log: it is wrong too"]
        assert await living.use(settings(None, "jobs")) == "\n".join(living.wrong)
        assert [it.fields["problem"] for it in caplog.records if it.levelname == "ERROR"] == living.wrong  # type: ignore[attr-defined]
        assert (living.success(), counted[0].closed) == (0, False)
        living.wrong = []
        assert await living.use(settings(None, "jobs")) is None
        assert (living.success(), len(counted)) == (1, 1)


async def test_of_very_many_problems_the_log_tells_some_and_how_many_more(
    counted: list[Counted], caplog: pytest.LogCaptureFixture
) -> None:
    async with Living(settings(None, "jobs")) as living:
        living.wrong = [f"problem {number}" for number in range(sidecar.TOLD_PROBLEMS + 7)]
        await living.use(settings(None, "jobs"))
        errors = [it.getMessage() for it in caplog.records if it.levelname == "ERROR"]
        assert len(errors) == sidecar.TOLD_PROBLEMS + 1
        assert errors[-1] == "there are 7 problems more"


async def test_a_source_that_cannot_be_built_changes_nothing(
    counted: list[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Living(settings(None, "jobs", "others")) as living:
        await polled(counted)

        def broken(*_: object, **__: object) -> None:
            raise OSError("no such file")

        monkeypatch.setattr(systems, "build", broken)
        its = with_servers(living.wanted.settings, jobs=server("jobs", password=Secret("new")), others=None)
        assert "a defect of Forewarn's" in (await living.use(its) or "")
        assert living.success() == 0
        assert [it.closed for it in counted] == [False, False]
        assert set(living.its._running) == {"jobs", "others"}
        assert not any(task.done() for task in living.its._running.values())


async def test_reading_that_takes_too_long_is_told_and_changes_nothing(
    counted: list[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "READING", 0.1)
    hanging = threading.Event()
    living = Living(settings(None, "jobs"))
    monkeypatch.setattr(living.its, "_read", hanging.wait)
    async with living:
        assert "took longer than 0.1 s" in (await living.use(settings(None, "jobs")) or "")
        hanging.set()


async def test_an_end_while_the_settings_are_read_does_not_wait_for_that(
    counted: list[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    living = Living(settings(None, "jobs"))
    monkeypatch.setattr(living.its, "_read", hanging.wait)
    async with living:
        asked = [asyncio.create_task(living.its.reload()) for _ in range(2)]
        await wait_until(lambda: living.its._reading is not None, 20)
    assert [await it for it in asked] == ["Forewarn ends just now"] * 2
    hanging.set()


async def test_who_asks_and_goes_away_does_not_end_the_reload_of_the_others(counted: list[Counted]) -> None:
    async with Living(settings(None, "jobs")) as living:
        living.wanted = Reading(settings(None, "jobs", "others"))
        gone, stays = (asyncio.create_task(living.its.reload()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await asyncio.wait_for(stays, 20) is None
        assert len(counted) == 2


async def test_a_shorter_interval_counts_at_once_and_a_longer_one_too(counted: list[Counted]) -> None:
    async with Living(settings(None, "jobs")) as living:
        await polled(counted)
        assert await living.use(replace(living.wanted.settings, interval=0.02)) is None
        await wait_until(lambda: counted[0].polls > 3, 20)
        assert await living.use(replace(living.wanted.settings, interval=3600.0)) is None
        await wait_until(lambda: not living.its._watches["jobs"].polling, 20)
        polls = counted[0].polls
        await asyncio.sleep(0.2)
        assert (counted[0].polls - polls, len(counted)) == (0, 1)


async def test_another_bound_for_names_is_kept_from_the_next_poll_on(counted: list[Counted]) -> None:
    async with Living(settings(None, "jobs")) as living:
        await polled(counted)
        queues = {f"q{number}": Queue(jobs=number) for number in range(5)}
        counted[0].observations = [replace(printed(0), queues=queues)]
        its = replace(living.wanted.settings, interval=0.02, max_label_values=2)
        assert await living.use(its) is None
        await wait_until(lambda: queues_of(living.scrape()) == {"q4", "q3", "(other)"}, 20)


async def test_another_state_file_is_written_at_once_and_has_what_was_counted(
    tmp_path: Path, counted: list[Counted]
) -> None:
    async with Living(replace(settings(tmp_path / "one.json", "jobs"), interval=0.02)) as living:
        counted[0].observations = [replace(printed(0), refusals=3)]
        await wait_until(lambda: (living.value("faktory_connections_refused_total", server="jobs") or 0) > 0, 20)
        assert await living.use(replace(living.wanted.settings, state_file=tmp_path / "two.json")) is None
        await wait_until((tmp_path / "two.json").exists, 20)
    assert saved(tmp_path / "two.json").connections.refused > 0


async def test_a_file_that_is_no_state_file_is_kept_aside(tmp_path: Path, counted: list[Counted]) -> None:
    (tmp_path / "notes").write_text("precious")
    async with Living(settings(None, "jobs")) as living:
        assert await living.use(replace(living.wanted.settings, state_file=tmp_path / "notes")) is None
        await wait_until((tmp_path / "notes").exists, 20)
    assert (tmp_path / "notes.broken").read_text() == "precious"


async def test_the_feeds_of_a_server_are_opened_anew_with_its_source(counted: list[Counted]) -> None:
    opened = []

    def feeds() -> Sequence[Feed]:
        opened.append(Quiet())
        return opened[-1:]

    async with Living(settings(None, "jobs"), {"jobs": feeds}) as living:
        await polled(counted)
        its = with_servers(living.wanted.settings, jobs=server("jobs", password=Secret("new")))
        assert await living.use(its, {"jobs": feeds}) is None
        assert [it.given["feeds"] for it in counted] == [[opened[0]], [opened[1]]]
        # One of another name has them now.
        assert await living.use(settings(None, "renamed"), {"renamed": feeds}) is None
        assert counted[-1].given["feeds"] == [opened[2]]


async def test_the_way_of_the_log_changes(counted: list[Counted], monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[tuple[str, str]] = []
    monkeypatch.setattr(sidecar, "setup", lambda form, level, _: changed.append((form, level)))
    async with Living(settings(None, "jobs")) as living:
        assert await living.use(replace(living.wanted.settings, max_label_values=5)) is None
        assert changed == []
        assert await living.use(replace(living.wanted.settings, log_format="json", log_level="error")) is None
    assert changed == [("json", "error")]
