"""Faktory's instants are understood to the microsecond, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.faktory.times import parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-11-21T08:09:10Z", 1795248550.0),
        ("2026-11-21T08:09:10.5Z", 1795248550.5),
        ("2026-11-21T08:09:10.123456789Z", 1795248550.123457),
        ("2026-11-21T08:09:10.999999999Z", 1795248551.0),
        ("2026-11-21T13:39:10+05:30", 1795248550.0),
        ("2026-11-21T00:09:10.25-08:00", 1795248550.25),
    ],
)
def test_a_time_is_unix_seconds(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds, abs=1e-6)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001 - made aware below
    st.integers(0, 9),
    st.integers(0, 999_999_999),
    st.integers(-14 * 60, 14 * 60),
)
def test_any_offset_and_any_number_of_digits_are_understood(
    moment: datetime, digits: int, nanoseconds: int, offset: int
) -> None:
    fraction = f"{nanoseconds:09d}"[:digits]
    local = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset)))
    text = local.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if digits else "") + local.strftime("%z")
    text = text[:-2] + ":" + text[-2:]
    expected = local.astimezone(UTC).timestamp() + (int(fraction) / 10**digits if digits else 0)
    assert parse_time(text) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-11-21", "2026-11-21T08:09:10", "20261121T080910Z", "2026-13-21T08:09:10Z", "2026-11-21T25:09:10Z",
     "2026-11-21T08:09:10.Z", "2026-W47-6T08:09:10Z", "1795248550"],
)  # fmt: skip
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_time(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_any_text_gives_a_number_or_a_value_error(text: str) -> None:
    try:
        assert isinstance(parse_time(text), float)
    except ValueError as error:
        assert not text or len(text) < 12 or text not in str(error)  # noqa: PT017 - never repeats what it was given
