"""Logs: one line a record, whatever its text holds."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.logs import MAX_ITEM, MAX_TEXT, JsonFormatter, TextFormatter, redact_url, setup


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    """Return a record from 2026-01-31 12:00:00.25 UTC."""
    made = logging.LogRecord("forewarn", logging.WARNING, __file__, 1, message, arguments, None)
    made.created, made.msecs = 1769860800.25, 250.0
    made.__dict__.update(extra)
    return made


def as_json(made: logging.LogRecord) -> dict[str, object]:
    """Return what the JSON line of ``made`` says."""
    line = JsonFormatter().format(made)
    assert "\n" not in line
    decoded: dict[str, object] = json.loads(line)
    return decoded


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Return a stream for logs, and put everything back afterwards."""
    root = logging.getLogger()
    before, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers = []
    yield io.StringIO()
    root.handlers, logging.raiseExceptions = before, raising
    root.setLevel(level)


def test_plain_text_tells_time_level_name_message_and_fields() -> None:
    made = record("worker %s", "crashed", fields={"server": "mail", "jobs": 3, "host": "a b"})
    assert TextFormatter().format(made) == (
        '2026-01-31T12:00:00.250Z WARNING forewarn: worker crashed server=mail jobs=3 host="a b"'
    )


def test_json_tells_a_list_of_things_as_objects() -> None:
    jobs = [{"jid": "j1", "jobtype": "Send", "queue": "mail" + "l" * MAX_ITEM}]
    assert as_json(record("worker crashed", fields={"jobs": jobs}))["jobs"] == [
        {"jid": "j1", "jobtype": "Send", "queue": ("mail" + "l" * MAX_ITEM)[:MAX_ITEM]}
    ]


def test_json_tells_the_same() -> None:
    made = record("worker %s", "crashed", fields={"server": "mail", "jobs": 3, "lost": ["a", "b"], "since": None})
    assert as_json(made) == {
        "time": "2026-01-31T12:00:00.250Z",
        "level": "warning",
        "logger": "forewarn",
        "message": "worker crashed",
        "server": "mail",
        "jobs": 3,
        "lost": ["a", "b"],
        "since": None,
    }


@given(st.text(), st.text())
def test_plain_text_is_one_printable_line_whatever_it_holds(message: str, value: str) -> None:
    line = TextFormatter().format(record("%s", message, fields={"queue": value, value: "x"}))
    assert line.isprintable()


@given(st.text(), st.text())
@example("lone surrogate \ud800", "\udcff")
def test_json_says_exactly_what_it_was_given(message: str, value: str) -> None:
    said = as_json(record("%s", message, fields={"queue": value}))
    expected = [each.encode("utf-8", "backslashreplace").decode() for each in (message, value)]
    assert [said["message"], said["queue"]] == expected


def test_a_field_cannot_pass_for_another_in_plain_text() -> None:
    line = TextFormatter().format(record("m", fields={"a": '1" b=2', "c": "3 d=4"}))
    assert line.endswith(r' a="1\" b=2" c="3 d=4"')


def test_a_field_cannot_overwrite_the_message_in_json() -> None:
    said = as_json(record("true", fields={"message": "forged", "level": "debug"}))
    assert (said["message"], said["field_message"], said["level"]) == ("true", "forged", "warning")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_long_texts_are_cut(formatter: logging.Formatter) -> None:
    made = record("x" * 10**5, fields={str(n): "y" * 10**5 if n else ["z" * 1000] * 1000 for n in range(100)})
    assert len(formatter.format(made)) < 40 * MAX_TEXT


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_exception_stays_on_the_line_and_its_end_is_kept(formatter: logging.Formatter) -> None:
    error = ValueError("x" * 10**5 + "the end")
    line = formatter.format(record("failed", exc_info=(ValueError, error, None)))
    assert "\n" not in line
    assert "the end" in line
    assert len(line) < 3 * MAX_TEXT


def test_wrong_arguments_do_not_cost_the_record() -> None:
    assert TextFormatter().format(record("%s and %s", "one")).endswith("forewarn: %s and %s")


def test_a_number_too_large_for_json_is_still_told() -> None:
    assert as_json(record("m", fields={"n": 10**30}))["n"] == str(10**30)


def test_setup_sends_records_of_the_level_and_above_to_the_stream_once(stream: io.StringIO) -> None:
    setup("text", "info", stream)
    setup("json", "warning", stream)
    logging.getLogger("forewarn.any").info("unheard")
    logging.getLogger("forewarn.any").warning("heard", extra={"fields": {"server": "mail"}})
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["server"] == "mail"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("tcp://host:7419", "tcp://host:7419"),
        ("tcp://:hunter2@host:7419", "tcp://:***@host:7419"),
        ("redis://user:hunter2@[::1]:6379/0", "redis://user:***@[::1]:6379/0"),
        ("unix:///run/redis.sock?password=hunter2", "unix:///run/redis.sock"),
        ("http://host/?token=hunter2#hunter2", "http://host/"),
        ("redis://:hunt/er2@host", "redis://***"),
        ("tcp:hunter2@host", "***"),
        ("tcp:/:hunter2@host", "tcp://***"),
        ("hunter2", "***"),
        ("tcp://[hunter2", "***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown
