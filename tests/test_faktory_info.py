"""INFO is understood as every version writes it, and absurd facts in it are not believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.faktory.errors import FaktoryError
from exporter.faktory.info import decode_info, edition_of
from exporter.model import Reason
from tests.servers import WatchedServer
from tests.wire import Wire

NEWEST: dict[str, Any] = {
    "now": "2026-11-21T08:09:10.123456789Z",
    "server_utc_time": "08:09:10 UTC",
    "faktory": {
        "queues": {"default": 3, "bulk": 0},
        "sets": {"scheduled": 1, "retries": 2, "dead": 3, "working": 4},
        "tasks": {
            "Busy": {"size": 9, "reaped": 5},
            "Workers": {"size": 6, "reaped": 7},
            "Scheduled": {"cycles": 1, "enqueued": 0, "size": 91, "wall_time_sec": 0.1},
            "Retries": {"size": 92},
            "Dead": {"size": 93},
        },
        "total_failures": 11,
        "total_processed": 12,
        "total_enqueued": 3,
        "total_queues": 2,
    },
    "server": {
        "description": "Faktory",
        "faktory_version": "1.10.0",
        "uptime": 13,
        "connections": 14,
        "command_count": 15,
        "used_memory_mb": 16,
    },
}


def decoded(**changes: Any) -> Any:
    return decode_info(json.dumps(NEWEST | changes).encode(), 1.0)


def with_server(**changes: Any) -> Any:
    return decoded(server=NEWEST["server"] | changes)


def with_faktory(**changes: Any) -> Any:
    return decoded(faktory=NEWEST["faktory"] | changes)


def test_every_fact_of_the_newest_version_is_read() -> None:
    info = decoded()
    assert info.now == pytest.approx(1795248550.123457)
    assert info.details.asked_at == info.now
    assert (info.version, info.edition, info.connections, info.commands) == ("1.10.0", "oss", 14, 15)
    assert (info.processed, info.failed) == (12, 11)
    assert info.queues == {"default": 3, "bulk": 0}
    assert info.sets == {"scheduled": 1, "retries": 2, "dead": 3, "working": 4}
    assert (info.details.uptime, info.details.memory_bytes) == (13.0, 16 * 1024 * 1024)
    assert (info.details.workers, info.details.workers_reaped, info.details.reservations_expired) == (6, 7, 5)


def test_before_1_9_the_sizes_of_sets_come_from_the_tasks() -> None:
    faktory = {key: value for key, value in NEWEST["faktory"].items() if key != "sets"}
    assert decoded(faktory=faktory).sets == {"scheduled": 91, "retries": 92, "dead": 93, "working": 9}


def test_up_to_1_4_memory_is_a_text_and_the_time_is_not_told() -> None:
    document = {key: value for key, value in NEWEST.items() if key != "now"}
    document["server"] = NEWEST["server"] | {"used_memory_mb": "5 MB"}
    info = decode_info(json.dumps(document).encode(), 77.0)
    assert info.details.memory_bytes == 5 * 1024 * 1024
    assert info.now is None
    assert info.details.asked_at == 77.0


def test_unknown_and_empty_tasks_are_tolerated() -> None:
    info = with_faktory(tasks={"cron": {}, "statsd at ": {}, "batch": {"created": 1}, "Metrics": None, "Workers": {}})
    assert info.details.workers is None
    assert info.details.reservations_expired is None
    assert info.processed == 12


@pytest.mark.parametrize("absurd", [-1, 2**60, 1e300, 0.5, "NaN", "7", None, True, [], {}])
def test_an_absurd_number_is_not_known_and_the_rest_is_kept(absurd: object) -> None:
    info = with_server(connections=absurd)
    assert info.connections is None
    assert info.commands == 15


def test_a_number_beyond_floating_point_is_not_known() -> None:
    body = json.dumps(NEWEST).replace('"uptime": 13', '"uptime": 1e999').encode()
    assert decode_info(body, 1.0).details.uptime is None


@pytest.mark.parametrize("absurd", ["5 GB", "-5 MB", "MB", "9999999999999999 MB", [5]])
def test_an_absurd_amount_of_memory_is_not_known(absurd: object) -> None:
    assert with_server(used_memory_mb=absurd).details.memory_bytes is None


def test_a_queue_whose_size_is_absurd_is_left_out() -> None:
    assert with_faktory(queues={"a": 1, "b": -1, "c": "x"}).queues == {"a": 1}


def test_queues_whose_names_are_equal_after_the_cut_are_added_up() -> None:
    assert with_faktory(queues={"q" * 200: 1, "q" * 201: 2}).queues == {"q" * 128: 3}


def test_no_map_of_queues_is_not_known() -> None:
    assert with_faktory(queues=None).queues is None


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[1]", b"3", b"null", b'{"faktory":', b"[" * 100_000, b'{"now":"\xff"}']
)
def test_what_is_no_document_is_told(body: bytes) -> None:
    with pytest.raises(FaktoryError) as caught:
        decode_info(body, 1.0)
    assert caught.value.failure.reason is Reason.DECODE


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.sampled_from([0.5, 1e300, "NaN", "5 MB", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["faktory", "server", "tasks", "queues", "sets", "Busy", "Workers", "size", "reaped", "uptime", "now"]), inner),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["faktory", "server", "now"]), ANYTHING))
def test_a_document_of_any_shape_is_survived(document: dict[str, object]) -> None:
    info = decode_info(json.dumps(document).encode(), 1.0)
    assert info.connections is None or info.connections >= 0


@pytest.mark.parametrize(
    ("description", "edition"),
    [
        ("Faktory", "oss"),
        ("Faktory Enterprise", "enterprise"),
        ("My JOBS", "my jobs"),
        ("x" * 60, "x" * 40),
        ("", "(empty)"),
    ],
)
def test_the_edition_follows_from_the_description(description: str, edition: str) -> None:
    assert edition_of(description) == edition


async def test_the_info_of_a_server_is_read(server: WatchedServer) -> None:
    async with await Wire.connect(server.url, "worker-1") as worker:
        await worker.push(queue="default")
        await worker.push(queue="default")
        assert await worker.fetch("default")
        document = await worker.document("INFO")
    info = decode_info(json.dumps(document).encode(), 1.0)
    assert info.version == ".".join(map(str, server.version))
    assert info.edition == "oss"
    assert info.queues == {"default": 1}
    assert info.sets is not None
    assert info.sets["scheduled"] == 0
    assert info.details.workers is not None
    assert info.details.uptime is not None
    assert info.details.memory_bytes
    assert info.connections == 1
    assert (info.processed, info.failed) == (0, 0)
