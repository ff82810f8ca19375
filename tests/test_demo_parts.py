"""The demo's own parts: how it is shown, and how it waits for what Forewarn sees."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import time
from collections.abc import Callable, Iterator

import pytest

from exporter.demo import marks
from exporter.demo.lines import Chapter, Line, Say
from exporter.demo.narrator import Narrator
from exporter.demo.story import EXPORT, MAIL, POSTS, REPORT, SLOTS, THROTTLED, THROTTLES, Sight
from exporter.model import Snapshot
from exporter.rules.settings import DEFAULTS
from exporter.status.document import Level, Signal
from tests.snapshots import empty as snapshot

SIGNALS = (Signal(name="connections", title="Connections", level=Level.CRITICAL, headline="1,940 of 2,000 (97 %)"),)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(clock: Callable[[], float] = time.monotonic) -> tuple[Narrator, io.StringIO]:
    stream = io.StringIO()
    return Narrator(stream, clock), stream


# -- how it is shown


def test_a_line_tells_the_time_since_the_start_and_what_it_is_about() -> None:
    clock = Clock()
    narrator, stream = plain(clock)
    clock.now += 75
    narrator.tell(Line(say=Say.NOW, part="workers", text="A worker was killed."))
    assert stream.getvalue() == " 1:15  workers      A worker was killed.\n"


def test_what_was_caught_is_told_with_how_long_it_took() -> None:
    narrator, stream = plain(Clock())
    narrator.tell(Line(say=Say.CAUGHT, part="workers", text="it is gone.", after=6.24))
    assert stream.getvalue() == " 0:00  workers      caught after 6.2 s: it is gone.\n"


def test_what_is_over_is_told_with_how_long_it_took() -> None:
    narrator, stream = plain(Clock())
    narrator.tell(Line(say=Say.OVER, part="busy", text="it ended.", after=8.4))
    assert stream.getvalue() == " 0:00  busy         over after 8 s: it ended.\n"


def test_what_was_not_seen_is_told_as_such() -> None:
    narrator, stream = plain(Clock())
    narrator.tell(Line(say=Say.MISSED, part="", text="the crash, within 60 s"))
    assert "not caught: the crash, within 60 s" in stream.getvalue()


def test_what_to_look_at_stands_in_a_line_of_its_own() -> None:
    narrator, stream = plain(Clock())
    narrator.tell(Line(say=Say.NOW, part="busy", text="A job began.", look="Busy jobs"))
    assert stream.getvalue().splitlines()[1] == "       look at      Busy jobs"


def test_a_long_line_is_one_line_where_it_is_no_terminal() -> None:
    narrator, stream = plain(Clock())
    narrator.tell(Line(say=Say.NOW, part="busy", text="word " * 100))
    assert len(stream.getvalue().splitlines()) == 1


def test_markup_in_a_text_is_text() -> None:
    narrator, stream = plain(Clock())
    narrator.tell(Line(say=Say.NOW, part="queues", text="[bold]queue[/bold] :boom:"))
    assert "[bold]queue[/bold] :boom:" in stream.getvalue()


def test_the_summary_tells_what_was_not_seen() -> None:
    narrator, stream = plain(Clock())
    narrator.sum_up([Chapter("busy", "a job began", 1.04, None)], "All is over.")
    assert stream.getvalue().splitlines() == [
        " 0:00  busy         a job began: caught after 1.0 s, over not seen",
        "All is over.",
    ]


def test_what_is_known_now_is_not_shown_where_it_is_no_terminal() -> None:
    narrator, stream = plain()
    narrator.show(SIGNALS, "http://127.0.0.1:9386/")
    assert stream.getvalue() == ""


class Terminal:
    """Both ends of a terminal."""

    def __init__(self) -> None:
        self.outer, inner = pty.openpty()
        self.stream = os.fdopen(inner, "w")

    def read(self) -> str:
        os.set_blocking(self.outer, False)
        text = b""
        while True:
            try:
                more = os.read(self.outer, 65536)
            except OSError:
                return text.decode()
            text += more

    def close(self) -> None:
        os.close(self.outer)
        with open(os.devnull, "w") as nowhere:  # what is still to be written must not fail
            os.dup2(nowhere.fileno(), self.stream.fileno())
        self.stream.close()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    try:
        yield made
    finally:
        made.close()


def test_what_is_known_now_stands_below_the_story_on_a_terminal(terminal: Terminal) -> None:
    narrator = Narrator(terminal.stream)
    narrator.show(SIGNALS, "http://127.0.0.1:9386/")
    narrator.tell(Line(say=Say.NOW, part="busy", text="A job began."))
    told = terminal.read()
    assert told.rindex("A job began.") < told.rindex("1,940 of 2,000 (97 %)")
    narrator.close()


def test_the_cursor_is_never_left_hidden(terminal: Terminal) -> None:
    """A demo that is killed could not show it again."""
    narrator = Narrator(terminal.stream)
    narrator.show(SIGNALS, "http://127.0.0.1:9386/")
    told = terminal.read()
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")
    narrator.close()


def test_escape_sequences_in_what_the_server_says_do_not_reach_the_terminal(terminal: Terminal) -> None:
    narrator = Narrator(terminal.stream)
    hostile = Signal(name="busy", title="Busy jobs", level=Level.WARNING, headline="\x1b]0;owned\x07 of queue x")
    narrator.show([hostile], "http://127.0.0.1:9386/")
    assert "\x1b]0;" not in terminal.read()
    narrator.close()


def test_a_reader_that_takes_nothing_stops_nobody() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as stream:
        narrator = Narrator(stream)
        for _ in range(2000):  # far more than a pipe holds
            narrator.tell(Line(say=Say.NOW, part="busy", text="A job began. " * 10))


def test_a_reader_that_has_gone_is_told_to_who_wants_to_know() -> None:
    reading, writing = os.pipe()
    gone: list[bool] = []
    with os.fdopen(writing, "w") as stream:
        narrator = Narrator(stream)
        narrator.when_gone = lambda: gone.append(True)
        narrator.show(SIGNALS, "")
        assert gone == []
        os.close(reading)
        narrator.show(SIGNALS, "")
        assert gone == [True]
        narrator.tell(Line(say=Say.NOW, part="busy", text="To nobody."))  # and does not fail


# -- how it waits


async def test_a_snapshot_that_shows_it_is_waited_for() -> None:
    newest: list[Snapshot | None] = [None]
    waiting = asyncio.create_task(Sight(lambda: newest[0]).until(lambda it: it.taken_at == 7, 20))
    for at in (5.0, 7.0):
        await asyncio.sleep(0)
        newest[0] = snapshot(taken_at=at)
    shown = await waiting
    assert shown is not None
    assert shown.taken_at == 7


async def test_a_snapshot_from_before_it_was_done_shows_nothing() -> None:
    """Or it would be told as caught before it began."""
    old = snapshot(taken_at=5)
    assert await Sight(lambda: old).until(lambda _: True, 0.2, since=5) is None


async def test_what_no_snapshot_shows_in_time_is_not_seen() -> None:
    only = snapshot()
    assert await Sight(lambda: only).until(lambda _: False, 0.2) is None


# -- that the story can work


def test_the_thresholds_are_those_of_the_alerts() -> None:
    alerts = DEFAULTS.alerts
    assert alerts.faktory_connections_near_limit.used_share == marks.NEAR_LIMIT
    assert alerts.faktory_connections_near_limit.critical_share == marks.CRITICAL
    assert alerts.faktory_reservation_nearly_used.used_share == marks.NEARLY_USED
    assert alerts.faktory_throttle_saturated.used_share == marks.SATURATED
    assert DEFAULTS.objectives[0].seconds == marks.PATIENCE


def test_the_long_job_passes_the_threshold_and_ends_within_its_reservation() -> None:
    used = EXPORT.seconds / EXPORT.reserve_for
    assert marks.NEARLY_USED + 0.1 < used < 0.95, "a poll of 5 s sees it, and it never runs twice"


def test_a_report_that_is_given_to_another_worker_ends_within_its_reservation() -> None:
    assert REPORT.seconds * 1.5 < marks.NEARLY_USED * REPORT.reserve_for


def test_each_queue_has_a_worker_and_the_throttled_one_as_many_slots_as_it_may_use() -> None:
    assert {it.queue for it in POSTS} == {MAIL.queue, REPORT.queue, EXPORT.queue, THROTTLED}
    assert sum(it.concurrency for it in POSTS if it.queue == THROTTLED) == SLOTS
    assert f"concurrency = {SLOTS}" in THROTTLES
