"""A line comes out of whatever containers, service managers and loggers put around it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.process.envelopes import MAX_TEXT, Piece, cleaned, is_record, own_time, peel, said, wrapping
from tests.enveloped import APART, BEGIN, WITHOUT_TIMES, WRITERS

NOW = BEGIN + 3600.0
AT = "2026-11-21T06:05:14.123456789Z"
AT_UNIX = 1795241114.123456
UNFIT = frozenset({"coloured", "docker_pieces", "cri_pieces", "journal", "journal_bytes", "journal_pieces"})
"""Envelopes whose lines differ in more than their time."""
DUMP = "panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:5 +0x1d\n"


@pytest.fixture
def berlin() -> Iterator[None]:
    yield from _zone("Europe/Berlin")


@pytest.fixture
def new_york() -> Iterator[None]:
    yield from _zone("America/New_York")


def _zone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("text", ["\t/src/main.go:5 +0x1d", "", "goroutine 7 [select]:", "[signal SIGSEGV: x]", "é |"])
def test_a_line_comes_out_of_its_envelope_as_it_was_printed(name: str, text: str) -> None:
    lines = [("stderr", text)]

    pieces = [peel(raw, NOW) for raw in WRITERS[name](lines).splitlines()]

    assert cleaned("".join(it.text for it in pieces if it)) == text
    assert [it.whole for it in pieces if it] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize("name", sorted(set(WRITERS) - WITHOUT_TIMES))
def test_the_time_is_the_one_that_the_envelope_tells(name: str) -> None:
    piece = peel(WRITERS[name]([("stderr", "x")]).splitlines()[0], NOW)

    assert piece is not None
    assert piece.at == pytest.approx(BEGIN, abs=1.0)


@pytest.mark.parametrize("name", sorted(WITHOUT_TIMES))
def test_no_time_is_made_up(name: str) -> None:
    piece = peel(WRITERS[name]([("stderr", "x")]).splitlines()[0], NOW)

    assert piece is not None
    assert piece.at is None


@pytest.mark.parametrize("name", sorted(APART))
def test_streams_are_told_apart(name: str) -> None:
    pieces = [peel(raw, NOW) for raw in WRITERS[name]([("stdout", "x"), ("stderr", "x"), ("stdout", "y")]).splitlines()]

    one, other, again = [it.stream for it in pieces if it]
    assert one == again != other


@pytest.mark.parametrize(
    ("raw", "stream", "text", "at"),
    [
        pytest.param(
            b'{"log":"x\\n","stream":"stderr","attrs":{"tag":"a"},"time":"2026-11-21T06:05:14.1Z"}',
            "stderr",
            "x",
            1795241114.1,
            id="Docker with attributes",
        ),
        pytest.param(
            b'{"date":1.0,"log":"x","stream":"stderr","time":"2026-11-21T07:05:14+01:00","pod":{}}',
            "stderr",
            "x",
            1795241114.0,
            id="Fluent Bit, which joined the pieces",
        ),
        pytest.param(f"{AT} stdout F:a,b x".encode(), "stdout", "x", AT_UNIX, id="CRI with tags"),
        pytest.param(
            b"Sat 2026-11-21 06:05:14 UTC host job[7]: x", "host job[7]", "x", 1795241114.0, id="journalctl short-full"
        ),
        pytest.param(
            b"1795241114.250000 host job[7]: x", "host job[7]", "x", 1795241114.25, id="journalctl short-unix"
        ),
        pytest.param(b"[   12.345678] host job[7]: x", "host job[7]", "x", None, id="journalctl short-monotonic"),
        pytest.param(b"Nov 21 06:05:14 host kernel: x", "host kernel", "x", None, id="a tag without a process id"),
        pytest.param(b"Nov 21 06:05:14 host (job)[7]: x", "host (job)[7]", "x", None, id="before systemd starts it"),
        pytest.param(
            b"[pod/a/b] Nov 21 06:05:14 host job[7]: x", "pod/a/b/host job[7]", "x", None, id="syslog in a container"
        ),
        pytest.param(b"web-1  |", "web-1", "", None, id="docker compose, blank"),
        pytest.param(b"\0\0\0x", "", "x", None, id="behind the hole of a truncated file"),
        pytest.param(b"\xff\xfex", "", "\ufffd\ufffdx", None, id="not UTF-8"),
        pytest.param(
            b'{"log":"\xff\\n","stream":"stderr","time":""}', "stderr", "\ufffd", None, id="JSON not in UTF-8"
        ),
    ],
)
def test_variants_of_envelopes(raw: bytes, stream: str, text: str, at: float | None) -> None:
    piece = peel(raw, NOW)

    assert piece is not None
    assert (piece.stream, piece.text, piece.whole) == (stream, text, True)
    if at is not None:
        assert piece.at == pytest.approx(at, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "fatal error: concurrent map writes",
        "panic: Nov 21: a | b",
        "[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x1]",
        "[originating from goroutine 7]:",
        "I 2026-11-21T06:05:14.378Z PID 7 listening",
        "{not JSON",
        "[pod/half",
        "2026-99-99T06:05:14Z",
        "created by main.main in goroutine 1",
    ],
)
def test_what_only_looks_like_an_envelope_is_a_plain_line(text: str) -> None:
    assert peel(text.encode(), NOW) in (Piece("", text), Piece("", "", None))  # a date that is none may go


@pytest.mark.parametrize("opener", ["fatal error: x", "panic: x: y", "runtime: out of memory: x", "SIGQUIT: quit"])
def test_a_line_of_gos_behind_a_date_is_no_syslog(opener: str) -> None:
    piece = peel(f"Nov 21 06:05:14 {opener}".encode(), NOW)

    assert piece is not None
    assert (piece.stream, piece.text) == ("", opener)


def test_the_journal_tells_whose_line_it_is() -> None:
    systemd = b'{"MESSAGE":"job.service: Main process exited","_PID":"1","SYSLOG_IDENTIFIER":"systemd","UNIT":"job"}'
    own = b'{"MESSAGE":"x","_PID":"7","SYSLOG_IDENTIFIER":"job"}'

    assert [it.stream for raw in (systemd, own) if (it := peel(raw, NOW))] == ["systemd[1]", "job[7]"]


@pytest.mark.parametrize("message", ["null", "{}", "[[1]]", "1e5", "true"])
def test_an_entry_of_the_journal_without_a_text_is_no_line(message: str) -> None:
    assert peel(f'{{"MESSAGE":{message},"_PID":"7"}}'.encode(), NOW) is None


def test_a_message_of_the_journal_that_was_given_twice_is_both() -> None:
    piece = peel(b'{"MESSAGE":["a","b"],"_PID":"7"}', NOW)

    assert piece is not None
    assert piece.text == "a\nb"


class TestTimes:
    @pytest.mark.usefixtures("berlin")
    def test_a_date_without_a_zone_is_in_the_local_one(self) -> None:
        piece = peel(b"Nov 21 06:05:14 host job[7]: x", BEGIN + 7200)

        assert piece is not None
        assert piece.at == datetime(2026, 11, 21, 5, 5, 14, tzinfo=UTC).timestamp()

    @pytest.mark.usefixtures("new_york")
    def test_a_date_of_another_zone_that_were_in_the_future_is_not_believed(self) -> None:
        # It was written in UTC.
        piece = peel(b"Nov 21 06:05:14 host job[7]: x", BEGIN + 10)

        assert piece is not None
        assert piece.at is None

    @pytest.mark.usefixtures("berlin")
    @pytest.mark.parametrize("stamp", ["2026-11-21T06:05:14Z", "2026-11-21T07:05:14+0100", "2026-11-21T01:05:14-05:00"])
    def test_a_zone_is_heeded(self, stamp: str) -> None:
        piece = peel(f"{stamp} host job[7]: x".encode(), NOW)

        assert piece is not None
        assert piece.at == BEGIN

    def test_a_date_without_a_year_is_the_newest_that_has_been(self) -> None:
        new_year = datetime(2027, 1, 1, 0, 0, 30).timestamp()  # noqa: DTZ001 - in the local zone

        piece = peel(b"Dec 31 23:59:59 host job[7]: x", new_year)

        assert piece is not None
        assert piece.at == new_year - 31

    def test_the_29th_of_february_is_in_a_leap_year(self) -> None:
        piece = peel(b"Feb 29 12:00:00 host job[7]: x", datetime(2027, 3, 1, tzinfo=UTC).timestamp())

        assert piece is not None
        assert piece.at is not None
        assert datetime.fromtimestamp(piece.at, UTC).year == 2024

    @pytest.mark.parametrize(
        ("text", "at"),
        [
            ("I 2026-11-21T06:05:14.500Z x", BEGIN + 0.5),
            ('time="2026-11-21T06:05:14Z" level=error msg=x', BEGIN),
            ("[2026-11-21T06:05:14Z] x", BEGIN),
            ("[INFO] [2026-11-21T06:05:14Z] x", BEGIN),
            ("x from 2026-11-21T06:05:14Z on, and many more words", None),
            ("fatal error: concurrent map writes", None),
            ("I 9999-99-99T99:99:99Z x", None),
        ],
    )
    def test_a_line_tells_its_own_time(self, text: str, at: float | None) -> None:
        assert own_time(text, NOW) == at

    @pytest.mark.usefixtures("berlin")
    def test_gos_logger_tells_the_local_time(self) -> None:
        assert own_time("2026/11/21 07:05:14.250000 http: panic serving x", NOW) == BEGIN + 0.25


class TestRecords:
    @pytest.mark.parametrize("name", ["msg", "message", "log", "error", "stacktrace", "stack_trace", "textPayload"])
    def test_a_record_says_what_is_under_a_known_name(self, name: str) -> None:
        text = json.dumps({"level": "error", "ts": BEGIN, name: DUMP})

        assert is_record(text)
        assert said(text, NOW) == (DUMP, BEGIN)

    def test_a_record_says_all_that_it_has_in_an_order_that_makes_sense(self) -> None:
        text = json.dumps({"stacktrace": "goroutine 1 [running]:", "error": {"message": "two"}, "msg": "one"})

        assert said(text, NOW)[0] == "one\ntwo\ngoroutine 1 [running]:"

    @pytest.mark.parametrize(
        "time",
        [
            '"2026-11-21T06:05:14Z"',
            "1795241114",
            "1795241114000",
            "1795241114000000",
            "1795241114000000000",
            "1.795241114e9",
        ],
    )
    def test_a_records_time_is_understood_in_every_unit(self, time: str) -> None:
        assert said(f'{{"time":{time},"msg":"x"}}', NOW)[1] == pytest.approx(BEGIN)

    @pytest.mark.parametrize("time", ["-1", "0", "1e400", "null", "[]", '"noon"', "1" * 5000])
    def test_a_records_time_may_be_nonsense(self, time: str) -> None:
        assert said(f'{{"time":{time},"msg":"x"}}', NOW) == ("x", None)

    @pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 20, 40])
    def test_a_record_that_is_cut_off_says_what_is_left(self, cut: int) -> None:
        text = json.dumps({"level": "error", "msg": DUMP})

        told, _ = said(text[:-cut], NOW)

        assert DUMP.startswith(told)
        assert len(told) > len(DUMP) - cut - 2

    def test_a_message_of_several_lines_is_a_record(self) -> None:
        assert is_record(DUMP)
        assert said(DUMP, NOW) == (DUMP, None)

    @pytest.mark.parametrize("text", ["", "x", "{", "{}", "panic: {", '["a"]', "{a"])
    def test_a_line_is_no_record(self, text: str) -> None:
        assert not is_record(text)


class TestWrapping:
    """What tells a run of lines of one stream at once."""

    HEADER = "goroutine 7 [select, 2 minutes]:"

    @pytest.mark.parametrize("name", sorted(it for it in WRITERS if it not in UNFIT))
    def test_it_fits_the_lines_of_the_same_stream_alone(self, name: str) -> None:
        lines = [("stderr", self.HEADER), *[("stdout", self.HEADER)] * 2000, ("stderr", self.HEADER)]
        first, *others, last = WRITERS[name](lines).splitlines()

        around = wrapping(first, self.HEADER)

        assert around is not None
        before, behind, in_json = around
        fits = re.compile(before + re.escape(self.HEADER.encode()) + behind).fullmatch
        assert fits(last)
        assert in_json == name.startswith("docker")
        assert all(fits(each) is None for each in others) == (name in APART)

    @pytest.mark.parametrize(
        "raw",
        [
            b"x goroutine 7 [select, 2 minutes]: x",
            b'{"msg":"goroutine 7 [select, 2 minutes]:\\n"}',
            b'{"log":"goroutine 7 [select, 2 minutes]:"}',
            b"x" * 5000 + b"goroutine 7 [select, 2 minutes]:",
            b"x",
        ],
        ids=range(5),
    )
    def test_what_cannot_be_told_is_not(self, raw: bytes) -> None:
        assert wrapping(raw, self.HEADER) is None


class TestHostile:
    @pytest.mark.parametrize(
        "raw",
        [
            b'{"a":' * 50_000,
            b'{"msg":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"MESSAGE":' + b"[" * 100_000,
            b'{"MESSAGE":[' + b"300,-1," * 30_000 + b"65]" + b',"_PID":"1"}',
            b'{"log":' + b"9" * 200_000 + b',"stream":"stderr"}',
            b'{"msg":"\\ud800"}',
            b'{"msg":"' + b"\\" * 200_000,
            b'"msg" : ' * 30_000,
            b"\x1b[" * 100_000,
            b"\x1b]" * 100_000,
            b"a |" * 80_000,
            b"a" * 250_000 + b" |",
            b"[pod/" * 50_000,
            b"2026-11-21T06:05:14Z " * 12_000,
            b"Nov 21 06:05:14 a b: " * 12_000,
            b"\0" * 250_000,
        ],
        ids=range(16),
    )
    def test_no_line_takes_long(self, raw: bytes) -> None:
        begun = time.process_time()
        piece = peel(raw, NOW)
        text = raw.decode("utf-8", "replace") if piece is None else cleaned(piece.text)
        is_record(text)
        said('{"x":1,' + text, NOW)
        said(text, NOW)
        own_time(text, NOW)

        assert time.process_time() - begun < 1

    @given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
    def test_no_line_raises(self, raw: bytes) -> None:
        piece = peel(raw, NOW)

        if piece is not None:
            said(piece.text, NOW)
            own_time(piece.text, NOW)
            wrapping(raw, piece.text)

    def test_what_a_record_says_is_bounded(self) -> None:
        assert len(said(json.dumps({"msg": "x" * 200_000}), NOW)[0]) == MAX_TEXT
