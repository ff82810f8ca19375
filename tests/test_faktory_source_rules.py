"""When the server may be asked what, and what its version implies."""

from __future__ import annotations

import pytest

from exporter.faktory.source import connections_limit, info_due, parse_version
from exporter.model import Health


@pytest.mark.parametrize(
    ("now", "asked", "new_name", "due"),
    [
        (100.0, None, None, False),  # no queue has been seen yet: nothing is known of new names
        (100.0, None, 71.0, False),  # a name appeared 29 s ago
        (100.0, None, 70.0, True),
        (100.0, 41.0, 10.0, False),  # asked 59 s ago
        (100.0, 40.0, 10.0, True),
    ],
)
def test_info_beside_redis_waits_a_minute_and_thirty_seconds_after_a_new_queue_name(
    now: float, asked: float | None, new_name: float | None, due: bool
) -> None:
    assert info_due(now, asked, new_name, alone=False) is due


@pytest.mark.parametrize(("asked", "due"), [(None, True), (86.0, False), (85.0, True)])
def test_info_as_the_only_source_is_asked_every_fifteen_seconds(asked: float | None, due: bool) -> None:
    assert info_due(100.0, asked, None, alone=True) is due


@pytest.mark.parametrize(
    ("text", "version"),
    [("1.9.4", (1, 9, 4)), ("1.10.0", (1, 10, 0)), ("v1.8.0-1", (1, 8, 0)), ("2", (2,)), ("", None), ("1.x", None)],
)
def test_versions_are_compared_by_their_numbers(text: str, version: tuple[int, ...] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("configured", "version", "edition", "limit"),
    [
        (None, "1.8.0", "oss", 1000),
        (None, "1.9.0", "oss", 2000),
        (None, "1.10.0", "oss", 2000),
        (None, "1.9.4", "enterprise", None),
        (None, "?", "oss", None),
        (150, "1.9.4", "enterprise", 150),
    ],
)
def test_the_connection_limit_is_configured_or_implied_by_an_open_source_version(
    configured: int | None, version: str, edition: str, limit: int | None
) -> None:
    assert connections_limit(configured, Health(version, edition, 1, 1)) == limit


def test_without_health_only_a_configured_limit_is_known() -> None:
    assert (connections_limit(None, None), connections_limit(7, None)) == (None, 7)
