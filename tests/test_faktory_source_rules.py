"""When the server may be asked what, and what its version implies."""

from __future__ import annotations

import time

import pytest

from exporter import systems
from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.source import FaktorySource, connections_limit, info_due
from exporter.faktory.versions import parse_version
from exporter.model import Ended, Health, JobFacts, Reservation
from exporter.secret import Secret
from exporter.settings import ServerSettings
from tests.servers import WatchedServer
from tests.wire import Wire


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


async def test_without_redis_it_is_not_known_how_any_job_ended() -> None:
    source = FaktorySource(Client(Endpoint("127.0.0.1", 1)), web_url="http://127.0.0.1:1")
    held = Reservation("job-1", "worker-1", "mail", "Send", 100.0, 1900.0, JobFacts(retry=25))
    known, run = await source.failures([Ended(held, 110.0, 115.0)])
    assert known == {}
    assert (run.name, run.failure) == ("failures", None)
    await source.close()


@pytest.mark.parametrize("redis", [True, False])
async def test_each_part_of_a_poll_tells_when_it_began(server: WatchedServer, redis: bool) -> None:
    settings = ServerSettings(
        name="faktory",
        url=Secret(server.url),
        web_url=server.web_url,
        config_dir=server.config_dir,
        redis_url=Secret(server.redis_url) if redis else None,
    )
    source = systems.build(settings)
    before = time.monotonic()
    runs = [*(await source.observe()).runs, (await source.probe(["w"]))[1], (await source.failures([]))[1]]
    after = time.monotonic()
    await source.close()
    part = {"redis"} if redis else {"info"}
    assert {run.name for run in runs} >= part | {"health", "connection", "throttles", "sockets", "workers", "failures"}
    for run in runs:
        assert run.started is not None, run.name
        assert before <= run.started <= run.started + run.seconds <= after


@pytest.mark.parametrize("traces", [True, False])
async def test_jobs_tell_of_themselves_only_where_traces_are_on(server: WatchedServer, traces: bool) -> None:
    settings = ServerSettings(
        name="faktory", url=Secret(server.url), web_url=server.web_url, redis_url=Secret(server.redis_url)
    )
    source = systems.build(settings, traces=traces)
    async with await Wire.connect(server.url, "worker-1") as worker:
        await worker.push(queue="mail", retry=3)
        assert await worker.fetch("mail")
        (held,) = ((await source.observe()).reservations or {}).values()
    await source.close()
    assert (held.job is not None) == traces
    if held.job is not None:
        assert (held.job.retry, held.job.failures) == (3, 0)
        assert held.job.enqueued_at is not None
        assert 0 <= held.reserved_at - held.job.enqueued_at < 10
