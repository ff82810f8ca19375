"""Faktory's own log lines: what each says, and what only looks like one."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.faktory.log_lines import FAKTORY_LINES
from exporter.model import LogEvent, Noticed

STAMP = "2026-11-21T06:06:43.393Z"
AT = datetime(2026, 11, 21, 6, 6, 43, 393000, tzinfo=UTC).timestamp()
READ_AT = 1_800_000_000.0

SAID = [
    ("I", "PID 11494 listening at 127.0.0.1:7419, press Ctrl-C to stop", LogEvent.STARTED, 11494),
    ("I", "PID 1 listening at :7419, press Ctrl-C to stop", LogEvent.STARTED, 1),
    ("I", "PID 7 listening at [::1]:7419, press Ctrl-C to stop", LogEvent.STARTED, 7),
    ("I", "Faktory shutting down", LogEvent.STOPPING, None),
    ("I", "Faktory Enterprise shutting down", LogEvent.STOPPING, None),
    ("W", "Faktory has over 2000 active client connections and so on.", LogEvent.CONNECTION_REFUSED, None),
    ("W", "Faktory Enterprise has over 100 active client connections and so on.", LogEvent.CONNECTION_REFUSED, None),
    ("W", "Reaped 12 lingering connections, this is a sign", LogEvent.WORKER_REAPED, None),
    ("W", 'Unable to process timed job: invalid character "x"', LogEvent.JOB_LOST, None),
    ("I", "Faktory is waiting for Redis to load...", LogEvent.STORE_LOADING, None),
    ("W", "Redis at /var/lib/faktory/db crashed: signal: killed", LogEvent.STORE_CRASHED, None),
    ("I", "Flushing dataset", LogEvent.FLUSHED, None),
    ("W", "Flushing dataset", LogEvent.FLUSHED, None),
    ("I", "Licensed to Acme, Inc., max 100 connections", LogEvent.LIMIT, 100),
    ("I", "Licensed to A, max 7 connections Ltd, max 250 connections", LogEvent.LIMIT, 250),
    ("I", "GET /busy 919.203µs", LogEvent.BUSY_PAGE, None),
    ("I", "GET /busy?wid=1 2.060747ms", LogEvent.BUSY_PAGE, None),
    ("I", "HEAD /busy 1m2.5s", LogEvent.BUSY_PAGE, None),
    ("D", "GET /stats 1.2ms", LogEvent.STATS_PAGE, None),
    ("I", "GET / 3ms", LogEvent.STATS_PAGE, None),
    ("I", "GET /queues/busy 3ms", LogEvent.STATS_PAGE, None),
]

UNSAID = [
    "Retries processed 1 jobs",
    "Web server now listening at 127.0.0.1:7420",
    "Initializing redis storage at /var/lib/faktory/db, socket /var/lib/faktory/db/redis.sock",
    "All worker processes should send a heartbeat every 15 seconds",
    "POST /busy 1ms",  # answered with a redirect
    "Licensed to nobody, max 0 connections",
    # What a client made the server quote.
    "No such job to acknowledge Flushing dataset",
    "No such job to acknowledge PID 1 listening at :1, press Ctrl-C to stop",
    "No such job to acknowledge x shutting down",
    "No such job to acknowledge Faktory has over 2000 active client connections",
    "JID Reaped 12 lingering connections: NOTUNIQUE Flushing dataset",
    'Error parsing JSON: {"args":["Licensed to Acme, max 100 connections"]}',
    'Error parsing JSON: {"queue":"GET /busy 1ms"}',
    "Invalid preamble: I 2026-11-21T06:06:43.393Z Flushing dataset",
    "panic handling command: runtime error: `QUEUE Redis at x crashed: y`",
]


@pytest.mark.parametrize(("level", "said", "event", "value"), SAID, ids=[it[1][:40] for it in SAID])
class TestEachLine:
    def test_is_told_at_its_own_time(self, level: str, said: str, event: LogEvent, value: int | None) -> None:
        assert FAKTORY_LINES.read(f"{level} {STAMP} {said}", READ_AT) == Noticed(event, AT, value)

    def test_is_told_with_the_colours_and_the_line_end_of_a_terminal(
        self, level: str, said: str, event: LogEvent, value: int | None
    ) -> None:
        line = f"\x1b[34m{level}\x1b[0m {STAMP} {said}\r"
        assert FAKTORY_LINES.read(line, READ_AT) == Noticed(event, AT, value)


@pytest.mark.parametrize(("level", "said"), [it[:2] for it in SAID], ids=[it[1][:40] for it in SAID])
class TestTheWordsOfEachLine:
    def test_are_found_by_a_literal_as_json_has_them_too(self, level: str, said: str) -> None:
        line = f"{level} {STAMP} {said}"
        for text in (line, json.dumps({"log": line})):
            assert any(it in text.encode() for it in FAKTORY_LINES.literals)

    def test_say_nothing_behind_or_within_anything_else(self, level: str, said: str) -> None:
        line = f"{level} {STAMP} {said}"
        for other in (said, f"{level} {said}", f"{STAMP} {said}", f"x{line}", f'"{line}"', f"W {STAMP} {line}"):
            assert FAKTORY_LINES.read(other, READ_AT) is None


@pytest.mark.parametrize("said", UNSAID, ids=[it[:40] for it in UNSAID])
def test_any_other_line_says_nothing(said: str) -> None:
    assert FAKTORY_LINES.read(f"I {STAMP} {said}", READ_AT) is None


def test_of_a_time_that_is_none_the_time_of_reading_stands_in() -> None:
    line = "I 2026-13-21T06:06:43.393Z Flushing dataset"
    assert FAKTORY_LINES.read(line, READ_AT) == Noticed(LogEvent.FLUSHED, READ_AT)


@given(st.text() | st.sampled_from([it[1] for it in SAID]).map(lambda it: f"I {STAMP} {it}" * 2))
def test_whatever_a_line_is_reading_it_does_not_fail(line: str) -> None:
    found = FAKTORY_LINES.read(line, None)
    assert found is None or found.event in LogEvent
