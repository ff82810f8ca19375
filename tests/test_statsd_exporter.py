"""Prometheus's statsd_exporter with the shipped mapping: what is pushed becomes the metrics of ``/metrics`` again.

What cannot be the same: a histogram comes as the counters of its samples, so that its type is told otherwise; a
counter that the server had counted before Forewarn came starts at 0; ``process_*`` are those of statsd_exporter itself,
so that Forewarn's are ``forewarn_process_*``; and label values keep the escapes of their dialect.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import pytest
import yaml

from exporter.catalogue import METRICS, PROCESS_METRICS, Column
from exporter.model import (
    BootVerdict,
    ConnectionsVerdict,
    CrashReason,
    Details,
    ExecutionsVerdict,
    Health,
    ProcessVerdict,
    Queue,
    QueuesVerdict,
    Reason,
    Snapshot,
    ThrottlesVerdict,
    WorkersVerdict,
)
from exporter.outputs.prometheus import Exposition
from exporter.outputs.statsd_exporter import mapping
from exporter.outputs.statsd_push import StatsdPush
from exporter.settings import StatsdTarget
from exporter.statsd.address import StatsdAddress, UdpAddress
from tests.forewarn import Scrape
from tests.servers import free_port, wait_until
from tests.snapshots import NOW, empty, full, pushes
from tests.statsd_exporter import MAPPING, StatsdExporter
from tests.statsd_reader import Key, unescaped_part, unescaped_tag

replace = msgspec.structs.replace

OWN: Final = re.compile(r"(forewarn_)?process_|go_|promhttp_|statsd_exporter_|statsd_metric_mapper_")
"""What statsd_exporter tells of itself, and what is under another name for that."""


def none_counted(server: str) -> Snapshot:
    """A snapshot in which every counter that Forewarn did not count itself stands at 0."""
    one = full(server)
    throttles = one.throttles.throttles or {}
    return replace(
        one,
        observation=replace(
            one.observation,
            health=Health("1.9.4", "oss", 17, 0),
            details=Details(NOW - 60, 3600.0, 52_428_800, 3, 1, 0),
            processed=0,
            failed=0,
        ),
        boot=BootVerdict(0, NOW - 3600, settled=True),
        connections=ConnectionsVerdict(17, 2000, 0, one.connections.peers),
        workers=WorkersVerdict(3, dict.fromkeys(CrashReason, 0), one.workers.orphans),
        throttles=ThrottlesVerdict({key: replace(use, saturated_seconds=0.0) for key, use in throttles.items()}),
        executions=ExecutionsVerdict((), {}, {}),
        process=ProcessVerdict({}, 0, 0, {}),
    )


class Push:
    """A push in real time whose snapshots and clock are the test's."""

    def __init__(self, how: str, address: StatsdAddress, told: Callable[[], Iterable[Column]] = pushes) -> None:
        self.now = 103.5
        self.newest: dict[str, Snapshot | None] = {}
        self.told = told
        self.push = StatsdPush(
            StatsdTarget(tags=how != "statsd", address=address),
            lambda: self.newest,
            interval=1.0,
            version="1.2.3",
            told=told,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.now += seconds

    async def flush(self, *given: Snapshot) -> Scrape:
        """Push, and return what /metrics tells at that moment."""
        exposition = Exposition("1.2.3", self.told)
        for snapshot in given:
            self.newest[snapshot.server] = snapshot
            exposition.update(snapshot)
        body = exposition.body(self.now).decode()
        await self.push.flush()
        return Scrape(body, "text/plain")

    @property
    def sent(self) -> float:
        return self.push._counts.lines["sent"]


async def read(exporter: StatsdExporter, push: Push, *given: Snapshot, before: float = 0) -> tuple[Scrape, Scrape]:
    """What /metrics tells, and what statsd_exporter does when it has read all that was sent after ``before`` lines."""
    scraped = await push.flush(*given)

    async def all_of_it() -> bool:
        return (await exporter.scrape()).total("statsd_exporter_samples_total") == push.sent - before

    await wait_until(all_of_it, 20, what="statsd_exporter has read all lines")

    async def still() -> Scrape | None:
        one, other = await exporter.scrape(), await exporter.scrape()
        events = [it.total("statsd_exporter_events_total") for it in (one, other)]
        return other if events[0] == events[1] == push.sent - before else None

    return scraped, await wait_until(still, 20, what="statsd_exporter tells all lines")


def samples(scrape: Scrape, unescape: Callable[[str], str] = str) -> dict[Key, float]:
    """The samples but for those of a process; a label that is empty is none, and ``le`` has no escapes."""
    return {
        (
            name,
            frozenset(
                (key, told) for key, value in pairs for told in [value if key == "le" else unescape(value)] if told
            ),
        ): value
        for (name, pairs), value in scrape.samples.items()
        if not OWN.match(name)
    }


@pytest.mark.parametrize("how", ["dogstatsd", "dogstatsd+unix", "statsd"])
async def test_it_tells_exactly_what_metrics_tells(how: str) -> None:
    unescape = unescaped_part if how == "statsd" else unescaped_tag
    async with StatsdExporter() as exporter:
        address: StatsdAddress = exporter.path if how.endswith("unix") else UdpAddress("127.0.0.1", exporter.udp_port)
        push = Push(how, address)
        await read(exporter, push, none_counted("a"), none_counted("b.c,d"), empty("e"))
        scraped, told = await read(exporter, push, full("a"), full("b.c,d"), empty("e"))
        wanted = samples(scraped)
        assert {name for name, _ in wanted} >= {"faktory_up", "faktory_statsd_other_values_sum", "forewarn_build_info"}
        assert samples(told, unescape) == wanted
        assert exporter.complaints() == []
        assert told.value("statsd_exporter_tag_errors_total") == 0
        assert [it for it in told.matching("statsd_exporter_sample_errors_total") if it[1]] == []
        assert [it for it in told.matching("statsd_exporter_events_error_total") if it[1]] == []
        assert [it for it in told.matching("statsd_exporter_events_conflict_total") if it[1]] == []
        assert told.value("statsd_exporter_events_unmapped_total") == 0


async def test_names_of_queues_and_job_types_need_no_escapes_by_dogstatsd() -> None:
    async with StatsdExporter() as exporter:
        push = Push("dogstatsd", UdpAddress("127.0.0.1", exporter.udp_port))
        one = replace(empty("a"), queues=QueuesVerdict({"Mailer::Welcome 100% a.b-c/é": Queue(3)}, {}))
        _, told = await read(exporter, push, one)
        assert told.value("faktory_queue_jobs", queue="Mailer::Welcome 100% a.b-c/é") == 3


async def test_the_process_of_forewarn_is_told_under_a_name_of_its_own() -> None:
    async with StatsdExporter() as exporter:
        push = Push("dogstatsd", UdpAddress("127.0.0.1", exporter.udp_port))
        scraped, told = await read(exporter, push)
        for metric in PROCESS_METRICS:
            value = told.value(f"forewarn_{metric.name}")
            assert value == pytest.approx(scraped.value(metric.name), rel=0.5)
            assert told.value(metric.name) is not None


@pytest.mark.parametrize("how", ["dogstatsd", "statsd"])
async def test_types_and_meanings_are_those_of_the_catalogue(how: str) -> None:
    async with StatsdExporter() as exporter:
        push = Push(how, UdpAddress("127.0.0.1", exporter.udp_port))
        await read(exporter, push, full("a"))
        _, text = await exporter.request("GET", "/metrics")
        lines = set(text.splitlines())
        for metric in METRICS:
            name = metric.full_name("faktory")
            if name.startswith("process_"):
                name = f"forewarn_{name}"
            ends = {"histogram": ("_bucket", "_count", "_sum"), "gaugehistogram": ("_bucket", "_gcount", "_gsum")}
            for end in ends.get(metric.kind, ("",)):
                kind = "counter" if metric.kind in {"counter", "histogram"} else "gauge"
                assert f"# TYPE {name}{end} {kind}" in lines
                assert f"# HELP {name}{end} {metric.help}" in lines


async def test_a_kill_in_the_middle_of_a_run_loses_nothing_but_what_it_had_read_and_not_told() -> None:
    """What it told before each of its ends, summed up: it is killed when it has told what it read."""
    port = free_port()
    push = Push("dogstatsd", UdpAddress("127.0.0.1", port), told=tuple)

    def counted(commands: int) -> Snapshot:
        one = full("a")
        return replace(one, observation=replace(one.observation, health=Health("1.9.4", "oss", 17, commands)))

    commands = 1000
    await push.flush(counted(commands))
    told_commands = told_executions = 0.0
    for _ in range(3):
        async with StatsdExporter(port) as exporter:
            before = push.sent
            commands += 7
            await push.flush(counted(commands))
            commands += 5
            _, told = await read(exporter, push, counted(commands), before=before)
            told_commands += told.value("faktory_commands_total") or 0
            told_executions += told.total("faktory_job_duration_seconds_count") or 0
            await exporter.kill()
        for _ in range(2):
            commands += 100
            await push.flush(counted(commands))
    async with StatsdExporter(port) as exporter:
        _, told = await read(exporter, push, counted(commands), before=push.sent)
        told_commands += told.value("faktory_commands_total") or 0
        told_executions += told.total("faktory_job_duration_seconds_count") or 0
    assert (told_commands, told_executions) == (commands - 1000, 6)
    assert push.push._counts.failures[Reason.UNREACHABLE] == 7


class TestTheMapping:
    def test_the_file_is_what_the_catalogue_makes(self) -> None:
        assert MAPPING.read_text() == mapping("faktory"), "run `make generate`"

    def test_each_pattern_is_there_once(self) -> None:
        patterns = [each["match"] for each in yaml.safe_load(MAPPING.read_text())["mappings"]]
        assert len(patterns) == len(set(patterns))

    def test_gauges_are_forgotten_and_counters_are_not(self) -> None:
        for each in yaml.safe_load(MAPPING.read_text())["mappings"]:
            assert ("ttl" in each) == (each["match_metric_type"] == "gauge")
