"""Known crashes that can befall a Faktory: by its version, its edition, its throttles and the pages people load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from exporter.faktory.advisories import BUSY_PAGE, ENT_THROTTLE, QUEUE_NAMES, known_risks
from exporter.faktory.output import LATELY, Output
from exporter.model import (
    Exited,
    Failure,
    Incident,
    IncidentKind,
    LogEntry,
    LogEvent,
    LogFacts,
    Noticed,
    Reason,
    Scope,
    ThrottleLimit,
)

THROTTLED = [ThrottleLimit("slow", Scope.WORKER, 2)]
NOBODY = {LogEvent.BUSY_PAGE: False, LogEvent.STATS_PAGE: False}
NOW = 1_700_000_000.0


class TestThrottles:
    def test_that_are_in_use_on_an_old_enterprise_server_can_kill_it(self) -> None:
        assert known_risks((1, 9, 0), "enterprise", THROTTLED, None) == {ENT_THROTTLE: True}
        assert known_risks((1, 8, 0), "enterprise", THROTTLED, None) == {ENT_THROTTLE: True}

    @pytest.mark.parametrize("version", [(1, 9, 1), (1, 9, 2), (1, 10, 0)])
    def test_cannot_since_it_was_mended(self, version: tuple[int, ...]) -> None:
        assert known_risks(version, "enterprise", THROTTLED, None) == {ENT_THROTTLE: False}

    def test_cannot_where_there_are_none(self) -> None:
        assert known_risks((1, 9, 0), "enterprise", [], None) == {ENT_THROTTLE: False}

    def test_cannot_on_an_open_source_server(self) -> None:
        assert known_risks((1, 8, 0), "oss", None, None) == {ENT_THROTTLE: False}

    def test_that_are_not_known_are_left_out(self) -> None:
        assert known_risks((1, 9, 0), "enterprise", None, None) == {}

    @pytest.mark.parametrize("edition", [None, "white label"])
    def test_of_an_edition_that_is_not_known_are_left_out(self, edition: str | None) -> None:
        assert known_risks((1, 9, 0), edition, THROTTLED, None) == {}


class TestPages:
    def test_that_nobody_loads_kill_nobody(self) -> None:
        assert of_pages(NOBODY) == {BUSY_PAGE: False}

    def test_that_somebody_loads_can(self) -> None:
        assert of_pages(NOBODY | {LogEvent.BUSY_PAGE: True}) == {BUSY_PAGE: True, QUEUE_NAMES: True}

    def test_other_than_that_of_busy_jobs_can_by_the_names_of_queues_only(self) -> None:
        assert of_pages(NOBODY | {LogEvent.STATS_PAGE: True}) == {BUSY_PAGE: False, QUEUE_NAMES: True}

    def test_are_not_known_where_no_log_is_read(self) -> None:
        assert of_pages(None) == {}

    @pytest.mark.parametrize("version", [(1, 6, 2), (1, 8, 0), (1, 9, 4), (1, 10, 0)])
    def test_can_in_every_version(self, version: tuple[int, ...]) -> None:
        assert of_pages({LogEvent.BUSY_PAGE: True, LogEvent.STATS_PAGE: True}, version) == {
            BUSY_PAGE: True,
            QUEUE_NAMES: True,
        }


def of_pages(pages: Mapping[LogEvent, bool] | None, version: tuple[int, ...] = (1, 10, 0)) -> dict[str, bool]:
    risks = known_risks(version, "oss", None, pages)
    assert risks is not None
    return {name: risk for name, risk in risks.items() if name != ENT_THROTTLE}


def test_of_an_unknown_version_nothing_is_known() -> None:
    assert known_risks(None, "enterprise", THROTTLED, NOBODY) is None


class Told:
    """Plays what follows a server's output: tells one batch of entries a time."""

    def __init__(self, *batches: Sequence[LogEntry] | Failure) -> None:
        self._batches = list(batches)
        self.closed = False

    async def read(self) -> tuple[LogFacts | None, Failure | None]:
        told = self._batches.pop(0)
        return (None, told) if isinstance(told, Failure) else (LogFacts(tuple(told)), None)

    async def close(self) -> None:
        self.closed = True


REFUSED = Noticed(LogEvent.CONNECTION_REFUSED, NOW)
FLUSHED = Noticed(LogEvent.FLUSHED, NOW)
CRASH = Incident(IncidentKind.CONCURRENT_MAP, "concurrent map writes", NOW)


class TestTheOutput:
    @pytest.mark.parametrize(("version", "kept"), [((1, 8, 0), 0), ((1, 9, 0), 1), ((1, 10, 0), 1), (None, 1)])
    async def test_a_line_of_too_many_connections_is_a_refusal_since_1_9(
        self, version: tuple[int, ...] | None, kept: int
    ) -> None:
        facts, _ = await Output(Told([REFUSED, FLUSHED, CRASH])).read(version, NOW)
        assert facts == LogFacts((*[REFUSED] * kept, FLUSHED, CRASH))

    async def test_the_process_id_is_the_one_that_was_told_last(self) -> None:
        started = [Noticed(LogEvent.STARTED, NOW, number) for number in (7, 8)]
        output = Output(Told([], [*started, FLUSHED], [Exited(NOW)]))
        pids = []
        for _ in range(3):
            await output.read(None, NOW)
            pids.append(output.pid)
        assert pids == [None, 8, 8]

    async def test_a_page_counts_for_an_hour_from_when_it_was_loaded(self) -> None:
        output = Output(Told([Noticed(LogEvent.BUSY_PAGE, NOW - 600)]))
        await output.read(None, NOW)
        assert output.pages(NOW) == NOBODY | {LogEvent.BUSY_PAGE: True}
        assert output.pages(NOW - 600 + LATELY - 1) == NOBODY | {LogEvent.BUSY_PAGE: True}
        assert output.pages(NOW - 600 + LATELY) == NOBODY

    async def test_a_page_that_is_said_to_come_later_was_loaded_now(self) -> None:
        output = Output(Told([Noticed(LogEvent.STATS_PAGE, NOW + 10**9)]))
        await output.read(None, NOW)
        assert output.pages(NOW + LATELY) == NOBODY

    async def test_before_anything_could_be_read_no_page_is_known(self) -> None:
        failure = Failure(Reason.UNREACHABLE, "no such file")
        output = Output(Told(failure, [], failure))
        assert output.pages(NOW) is None
        assert await output.read(None, NOW) == (None, failure)
        assert output.pages(NOW) is None
        await output.read(None, NOW)
        assert output.pages(NOW) == NOBODY

    async def test_it_is_let_go_of(self) -> None:
        told = Told()
        await Output(told).close()
        assert told.closed
