"""Pushing by StatsD: to real sockets that come and go, nothing lost, nothing twice, and none of it in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import msgspec
import pytest

from exporter.catalogue import STATSD_PUSH_FAILURES, STATSD_PUSHED, Column, columns
from exporter.model import (
    DURATION_BUCKETS,
    BusyVerdict,
    Health,
    Labelled,
    Queue,
    QueuesVerdict,
    Reason,
    Snapshot,
    StatsdFact,
    StatsdTraffic,
    StatsdVerdict,
)
from exporter.outputs import statsd_names, statsd_push
from exporter.outputs.statsd import Packet
from exporter.outputs.statsd_push import RESULTS, StatsdPush
from exporter.outputs.statsd_socket import Refusal, StatsdSocket
from exporter.secret import Secret
from exporter.settings import OtlpTarget, ServerSettings, Settings, StatsdTarget
from exporter.sidecar import Sidecar
from exporter.statsd.address import StatsdAddress, UdpAddress
from exporter.web.address import Address
from tests.receiver import receiving
from tests.servers import free_port, wait_until
from tests.snapshots import distribution, empty, full
from tests.statsd_reader import Reader
from tests.test_prometheus_output import expected
from tests.test_statsd_output import without_empty

IN_TIME = 3.0
"""Seconds within which an end whose deadline is 1.5 s is seen on a machine that has much to do."""

replace = msgspec.structs.replace
HOST = "127.0.0.1"


class Time:
    """A clock that stands still but for the waits, in which whatever is to happen meanwhile does."""

    def __init__(self) -> None:
        self.now = 100.0
        self.late = 0.0
        self.waits: list[tuple[float, float]] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.waits.append((self.now, seconds))
        self.now += seconds + self.late
        self.meanwhile()
        await asyncio.sleep(0)


class Server:
    """A StatsD server that reads its buffer when it is told to, so that nothing in it is lost when it goes."""

    made: ClassVar[list[Server]] = []

    def __init__(self, address: StatsdAddress, *, tags: bool, family: int = socket.AF_INET) -> None:
        self.made.append(self)
        self.address = address
        self.reader = Reader(tags=tags, limit=8192 if isinstance(address, Path) else 1432)
        self._family = family
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self) -> None:
        if isinstance(self.address, Path):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(str(self.address))
        else:
            self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
            self._socket.bind((self.address.host, self.address.port))
        self._socket.setblocking(False)

    def read(self) -> list[bytes]:
        packets: list[bytes] = []
        while self._socket is not None:
            try:
                packets.append(self._socket.recv(65536))
            except BlockingIOError:
                break
        self.reader.take_all(packets)
        return packets

    def close(self) -> None:
        self.read()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if isinstance(self.address, Path):
            self.address.unlink(missing_ok=True)

    def counter(self, name: str) -> float:
        return sum(value for (known, _), value in self.reader.counters.items() if known == name)


class Life:
    """A push to a server, flush by flush, in virtual time."""

    def __init__(self, server: Server, *, tags: bool, interval: float = 10.0, **more: Any) -> None:
        self.server = server
        self.time = Time()
        self.time.meanwhile = server.read
        self.snapshots: dict[str, Snapshot | None] = {}
        self.push = StatsdPush(
            StatsdTarget(tags=tags, address=server.address),
            lambda: self.snapshots,
            interval=interval,
            version="1.2.3",
            clock=self.time.clock,
            sleep=self.time.sleep,
            **more,
        )

    async def flush(self, *given: Snapshot) -> None:
        self.time.now += 5
        for snapshot in given:
            self.snapshots[snapshot.server] = replace(snapshot, taken_at=self.time.now)
        await self.push.flush()
        self.server.read()

    @property
    def lines(self) -> dict[str, float]:
        return self._own(STATSD_PUSHED)

    @property
    def failures(self) -> dict[str, float]:
        return {reason: count for reason, count in self._own(STATSD_PUSH_FAILURES).items() if count}

    def _own(self, wanted: object) -> dict[str, float]:
        return {
            key[0]: value  # type: ignore[misc] # no distributions
            for metric, keys, values in self.push.own()
            if metric is wanted
            for key, value in zip(keys, values, strict=True)
        }


def counting(commands: int, *, server: str = "faktory", more: Mapping[str, int] | None = None) -> Snapshot:
    """What the server counted, and by queue what the sidecar counted itself."""
    one = empty(server)
    durations = {(queue, "J"): distribution(DURATION_BUCKETS, [1.0] * count) for queue, count in (more or {}).items()}
    return replace(
        one,
        observation=replace(one.observation, health=Health("1.9.4", "oss", 1, commands)),
        busy=BusyVerdict(None, None, durations),
    )


@pytest.fixture(params=["dogstatsd-udp", "plain-udp", "dogstatsd-unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    dialect, _, transport = request.param.partition("-")
    address = tmp_path / "dsd.socket" if transport == "unix" else UdpAddress(HOST, free_port())
    its = Server(address, tags=dialect == "dogstatsd")
    its.open()
    return its


@pytest.fixture(autouse=True)
def none_stays_open() -> Iterator[None]:
    yield
    while Server.made:
        Server.made.pop().close()


@pytest.fixture
def life(server: Server) -> Life:
    return Life(server, tags=server.reader._tags)


def udp_life(**more: Any) -> Life:
    its = Server(UdpAddress(HOST, free_port()), tags=True)
    its.open()
    return Life(its, tags=True, **more)


class TestAllOfIt:
    async def test_a_flush_brings_every_series_of_a_full_snapshot(self, life: Life) -> None:
        await life.flush(full("b", size=4), full("a"))
        told = {key for key in life.server.reader.samples if not key[0].startswith("process_")}
        own = {key for key in told if not any(label == "server" for label, _ in key[1])}
        wanted = without_empty(expected(*(it for it in life.snapshots.values() if it)))
        assert told - own - wanted.keys() == {
            ("forewarn_snapshot_age_seconds", frozenset({("server", it)})) for it in "ab"
        }
        assert wanted.keys() <= told
        assert {name for name, _ in own} == {"forewarn_build_info"}
        assert {key: life.server.reader.gauges.get(key) for key in life.server.reader.gauges if key in wanted} == {
            key: wanted[key] for key in life.server.reader.gauges if key in wanted
        }

    async def test_counters_have_the_values_of_the_scrape_but_for_what_they_had_at_first(self, life: Life) -> None:
        first, last = counting(1000, more={"a": 3}), counting(1250, more={"a": 5, "b": 2})
        await life.flush(first)
        await life.flush(last)
        assert life.server.counter("faktory_commands_total") == 250
        assert life.server.counter("faktory_job_duration_seconds_count") == 7

    async def test_gauges_are_sent_at_every_flush_though_nothing_new_is_known(self, life: Life) -> None:
        await life.flush(counting(1))
        before = life.server.reader.lines
        life.time.now += 5
        await life.flush()
        assert life.server.reader.lines > before + 10
        (age,) = [value for (name, _), value in life.server.reader.gauges.items() if name.endswith("_age_seconds")]
        assert age > 9

    async def test_what_of_the_sidecar_itself_is_told_is_told_here_too(self) -> None:
        life = udp_life(told=lambda: [(STATSD_PUSHED, [("sent",)], [7])])
        await life.flush()
        assert life.server.counter("forewarn_statsd_pushed_lines_total") == 7

    async def test_two_servers_are_counted_apart(self, life: Life) -> None:
        await life.flush(counting(10, server="a"), counting(20, server="b"))
        await life.flush(counting(13, server="a"), counting(27, server="b"))
        found = {
            dict(labels)["server"]: value
            for (name, labels), value in life.server.reader.counters.items()
            if name == "faktory_commands_total"
        }
        assert found == {"a": 3, "b": 7}

    async def test_a_server_without_a_snapshot_yet_is_left_out(self, life: Life) -> None:
        life.snapshots = {"faktory": None}
        await life.flush()
        assert life.failures == {}
        assert life.server.reader.lines > 0

    async def test_a_second_flush_counts_nothing_twice(self, life: Life) -> None:
        for _ in range(3):
            await life.flush(counting(5, more={"a": 3}))
        assert life.server.counter("faktory_job_duration_seconds_count") == 3
        assert life.lines["sent"] == life.server.reader.lines
        assert life.lines["refused"] == 0

    async def test_a_server_that_restarted_counts_anew(self, life: Life) -> None:
        for commands in (100, 150, 20, 30):
            await life.flush(counting(commands))
        assert life.server.counter("faktory_commands_total") == 80

    async def test_a_series_that_vanishes_and_returns_is_counted_once(self, life: Life) -> None:
        for more in ({"a": 3}, {"a": 3, "b": 2}, {"b": 2}, {"a": 1, "b": 2}):
            await life.flush(counting(1, more=more))
        assert life.server.counter("faktory_job_duration_seconds_count") == 3 + 2 + 1


class TestAway:
    """The server is not there for a while."""

    async def test_what_was_counted_meanwhile_is_told_when_it_is_back(self, life: Life) -> None:
        await life.flush(counting(100, more={"a": 1}))
        life.server.close()
        for commands in (110, 120, 130):
            await life.flush(counting(commands, more={"a": commands}))
        life.server.open()
        await life.flush(counting(140, more={"a": 140}))
        assert life.server.counter("faktory_commands_total") == 40
        assert life.server.counter("faktory_job_duration_seconds_count") == 140
        assert life.failures == {"unreachable": 3}

    async def test_it_is_found_though_it_was_away_at_the_start(self, server: Server) -> None:
        life = Life(server, tags=server.reader._tags)
        server.close()
        await life.flush(counting(100, more={"a": 4}))
        server.open()
        await life.flush(counting(130, more={"a": 6}))
        assert server.counter("faktory_commands_total") == 30
        assert server.counter("faktory_job_duration_seconds_count") == 6

    async def test_what_it_counted_before_it_started_anew_is_not_lost_either(self, life: Life) -> None:
        await life.flush(counting(100))
        life.server.close()
        await life.flush(counting(150))
        await life.flush(counting(20))
        life.server.open()
        await life.flush(counting(30))
        assert life.server.counter("faktory_commands_total") == 50 + 30

    async def test_a_series_that_went_meanwhile_is_told_all_the_same(self, life: Life) -> None:
        await life.flush(counting(1))
        life.server.close()
        await life.flush(counting(1, more={"a": 3}))
        life.server.open()
        await life.flush(counting(1))
        assert life.server.counter("faktory_job_duration_seconds_count") == 3

    async def test_no_gauge_of_an_older_snapshot_is_sent_afterwards(self, life: Life) -> None:
        life.server.close()
        await life.flush(replace(empty(), queues=QueuesVerdict({"old": Queue(9)}, {})))
        life.server.open()
        await life.flush(replace(empty(), queues=QueuesVerdict({"new": Queue(1)}, {})))
        queues = [dict(key[1])["queue"] for key in life.server.reader.gauges if key[0] == "faktory_queue_jobs"]
        assert queues == ["new"]

    async def test_it_costs_one_packet_a_flush_by_udp(self) -> None:
        life = udp_life()
        life.server.close()
        sent: list[bytes] = []
        real = StatsdSocket.send

        def send(self: Any, packet: bytes) -> bool:
            sent.append(packet)
            return real(self, packet)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(StatsdSocket, "send", send)
            for _ in range(3):
                await life.flush(full(size=100))
        assert len(sent) == 3
        assert life.lines["refused"] == sum(packet.count(b"\n") + 1 for packet in sent)
        assert life.lines["sent"] == 0

    @pytest.mark.parametrize("seed", range(12))
    async def test_whenever_it_goes_and_comes_the_sums_are_exact_at_the_end(self, server: Server, seed: int) -> None:
        """Within flushes and between them, on the same port or path; what it had in its buffer it has read."""
        chance = random.Random(seed)
        life = Life(server, tags=server.reader._tags, interval=chance.choice([1.0, 10.0]))

        def meanwhile() -> None:
            server.read()
            if chance.random() < 0.08:
                if server.is_open:
                    server.close()
                else:
                    server.open()

        life.time.meanwhile = meanwhile
        commands, executions = 1000, {f"q{number}": 0 for number in range(60)}
        for _ in range(12):
            await life.flush(counting(commands, more=executions))
            commands += chance.randrange(100)
            for queue in executions:
                executions[queue] += chance.randrange(3)
        life.time.meanwhile = server.read
        if not server.is_open:
            server.open()
        await life.flush(counting(commands, more=executions))
        assert life.failures.get("unreachable", 0) > 0
        assert server.counter("faktory_commands_total") == commands - 1000
        told = {
            dict(labels)["queue"]: value
            for (name, labels), value in server.reader.counters.items()
            if name == "faktory_job_duration_seconds_count"
        }
        assert told == executions
        assert server.reader.lines == life.lines["sent"]


class Far:
    """A socket to a machine far away, whose refusals come later, and only a few in a second."""

    tells = False
    limit = 300
    opened: ClassVar[list[Far]] = []

    def __init__(self, _: object) -> None:
        self.sent: list[bytes] = []
        self.refused: list[Refusal] = []
        self.opened.append(self)

    def send(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return True

    def refusals(self) -> Iterator[Refusal]:
        found, self.refused = self.refused, []
        yield from found

    def close(self) -> None:
        """Nothing is held."""


class TestFarAway:
    async def test_what_was_sent_behind_a_refused_packet_is_taken_for_refused_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statsd_push, "StatsdSocket", Far)
        monkeypatch.setattr(Far, "opened", [])
        life = udp_life()
        told: list[bytes] = []

        def first() -> Far:
            return Far.opened[0]

        def meanwhile() -> None:
            if len(first().sent) == 9 and not told:
                told.append(first().sent[5][:200])
                first().refused = [Refusal(errno.ECONNREFUSED, told[0])]

        life.time.meanwhile = meanwhile
        await life.flush(counting(1, more={f"q{number}": 1 for number in range(40)}))
        assert len(first().sent) == 9
        assert life.lines["sent"] == sum(it.count(b"\n") + 1 for it in first().sent[:5])
        assert life.lines["refused"] == sum(it.count(b"\n") + 1 for it in first().sent[5:])
        life.time.meanwhile = lambda: None
        await life.flush()
        arrived = Reader(tags=True, limit=300).take_all([*first().sent[:5], *Far.opened[1].sent])
        assert [value for (name, _), value in arrived.counters.items() if name.endswith("seconds_count")] == [1.0] * 40

    async def test_a_server_that_is_away_costs_one_packet_though_its_refusal_takes_a_while(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statsd_push, "StatsdSocket", Far)
        monkeypatch.setattr(Far, "opened", [])
        life = udp_life()
        begun = life.time.now + 5

        def meanwhile() -> None:
            (far,) = Far.opened
            if life.time.now > begun + 0.05:
                far.refused = [Refusal(errno.ECONNREFUSED, it) for it in far.sent]

        life.time.meanwhile = meanwhile
        await life.flush(counting(1, more={f"q{number}": 1 for number in range(40)}))
        assert len(Far.opened[0].sent) == 1
        assert life.lines["sent"] == 0

    async def test_a_packet_that_nobody_refuses_within_a_second_has_arrived(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statsd_push, "StatsdSocket", Far)
        monkeypatch.setattr(Far, "opened", [])
        life = udp_life()
        await life.flush(counting(1))
        last = max(now + seconds for now, seconds in life.time.waits)
        (far,) = Far.opened
        assert life.lines["sent"] == sum(it.count(b"\n") + 1 for it in far.sent)
        assert last - life.time.waits[-1][0] <= statsd_names.SLICE
        assert sum(seconds for _, seconds in life.time.waits) >= statsd_push.ARRIVED


class Names:
    """A resolver that tells what a test says."""

    def __init__(self, *told: Sequence[str] | OSError) -> None:
        self.told = list(told)
        self.asked = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def __call__(self, _: str, port: int, **__: object) -> list[tuple[Any, ...]]:
        self.asked += 1
        told = self.told[min(self.asked, len(self.told)) - 1]
        self.hangs.wait(20)
        if isinstance(told, OSError):
            raise told
        found = []
        for address in told:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            target = (address, port, 0, 0) if family is socket.AF_INET6 else (address, port)
            found.append((family, socket.SOCK_DGRAM, 17, "", target))
        return found


def named_life(names: Names, host: str = HOST, family: int = socket.AF_INET) -> Life:
    its = Server(UdpAddress(host, free_port()), tags=True, family=family)
    its.open()
    life = Life(its, tags=True, getaddrinfo=names)
    life.time.meanwhile = its.read
    return life


class TestNames:
    async def test_of_several_addresses_the_one_that_answers_is_found_in_the_same_flush(self) -> None:
        """As of localhost, where the server listens on one of both protocols."""
        life = named_life(Names(["::1", "127.0.0.2", HOST]))
        await life.flush(counting(100, more={"a": 3}))
        await life.flush(counting(130, more={"a": 3}))
        assert life.server.counter("faktory_commands_total") == 30
        assert life.server.counter("faktory_job_duration_seconds_count") == 3
        assert life.failures == {}

    async def test_a_server_on_ipv6_is_found_and_its_refusals_too(self) -> None:
        life = named_life(Names(["::1"]), "::1", socket.AF_INET6)
        await life.flush(counting(100))
        life.server.close()
        await life.flush(counting(120))
        assert life.lines["refused"] > 0
        life.server.open()
        await life.flush(counting(130))
        assert life.server.counter("faktory_commands_total") == 30

    async def test_a_name_that_does_not_resolve_yet_is_looked_up_at_each_flush(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        life = named_life(Names(unknown, unknown, [HOST]))
        await life.flush(counting(100, more={"a": 3}))
        await life.flush(counting(110, more={"a": 4}))
        assert life.failures == {"unreachable": 2}
        await life.flush(counting(120, more={"a": 5}))
        assert life.server.counter("faktory_commands_total") == 20
        assert life.server.counter("faktory_job_duration_seconds_count") == 5
        (message,) = [it.fields["failure"] for it in caplog.records if hasattr(it, "fields") and "failure" in it.fields]
        assert "127.0.0.1 has no address (Name or service not known)" in message
        assert "statsd.push" in message

    async def test_a_name_is_not_looked_up_at_each_flush_but_again_after_a_minute(self) -> None:
        names = Names([HOST])
        life = named_life(names)
        for _ in range(3):
            await life.flush(counting(1))
        assert names.asked == 1
        life.time.now += 60
        await life.flush(counting(1))
        assert names.asked == 2

    async def test_a_server_that_moved_is_followed_after_a_failure(self) -> None:
        names = Names(["127.0.0.3"], [HOST])
        life = named_life(names)
        await life.flush(counting(1, more={"a": 2}))
        await life.flush(counting(1, more={"a": 3}))
        assert life.failures == {"unreachable": 1}
        assert life.server.counter("faktory_job_duration_seconds_count") == 3

    async def test_an_address_holds_as_long_as_no_newer_one_is_known(self) -> None:
        names = Names([HOST], socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
        life = named_life(names)
        await life.flush(counting(1))
        life.time.now += 100
        await life.flush(counting(1, more={"a": 3}))
        assert names.asked == 2
        assert life.failures == {}
        assert life.server.counter("faktory_job_duration_seconds_count") == 3

    async def test_a_resolver_that_hangs_is_asked_once_and_not_waited_for_long(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statsd_names, "LOOK_UP", 0.1)
        names = Names([HOST])
        names.hangs.clear()
        life = named_life(names)
        for _ in range(3):
            await life.flush(counting(1, more={"a": 3}))
        assert names.asked == 1
        assert life.failures == {"timeout": 3}
        names.hangs.set()

        async def arrived() -> bool:
            await life.flush()
            return life.server.counter("faktory_job_duration_seconds_count") == 3

        await wait_until(arrived, 30, what="its answer is used though it came late")

    async def test_a_look_up_that_fails_when_nobody_asks_any_more_is_not_complained_about(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(statsd_names, "LOOK_UP", 0.1)
        names = Names(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
        names.hangs.clear()
        life = named_life(names)
        await life.flush(counting(1))
        names.hangs.set()
        await wait_until(lambda: all(it.name != "statsd name" for it in threading.enumerate()), 30)
        await asyncio.sleep(0)
        del life, names  # the error it raised leads to all of it
        gc.collect()
        assert [it.message for it in caplog.records if it.name == "asyncio"] == []


class TestFull:
    """A unix socket whose server does not read."""

    async def test_what_found_no_room_goes_with_the_next_flush(self, tmp_path: Path) -> None:
        server = Server(tmp_path / "dsd.socket", tags=True)
        server.open()
        life = Life(server, tags=True)
        life.time.meanwhile = lambda: None
        queues = {f"q{number}": 1 for number in range(300)}
        await life.flush(counting(100, more=queues))
        assert life.failures == {"timeout": 1}
        sent = life.lines["sent"]
        assert 0 < sent == server.reader.lines
        life.time.meanwhile = server.read
        await life.flush(counting(130, more=queues))
        assert life.failures == {"timeout": 1}
        assert server.counter("faktory_job_duration_seconds_count") == 300
        assert server.counter("faktory_commands_total") == 30

    async def test_a_server_that_reads_slowly_gets_all_of_it(self, tmp_path: Path) -> None:
        server = Server(tmp_path / "dsd.socket", tags=True)
        server.open()
        life = Life(server, tags=True)
        life.time.meanwhile = lambda: server.read() if len(life.time.waits) % 15 == 0 else None
        await life.flush(counting(1, more={f"q{number}": 1 for number in range(300)}))
        assert life.failures == {}
        assert server.counter("faktory_job_duration_seconds_count") == 300

    async def test_it_is_waited_for_no_longer_than_a_second_of_a_flush(self, tmp_path: Path) -> None:
        server = Server(tmp_path / "dsd.socket", tags=True)
        server.open()
        life = Life(server, tags=True)
        life.time.meanwhile = lambda: None
        await life.flush(counting(1, more={f"q{number}": 1 for number in range(300)}))
        assert sum(seconds for _, seconds in life.time.waits) < 1.5


def listening_stream(path: Path) -> socket.socket:
    its = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    its.bind(str(path))
    return its


class TestTold:
    """What the log says, and the metrics."""

    async def test_failures_are_told_once_and_that_they_are_over(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        life = udp_life()
        life.server.close()
        for _ in range(3):
            await life.flush(counting(1))
        life.server.open()
        for _ in range(2):
            await life.flush(counting(1))
        assert [(it.levelname, it.message) for it in caplog.records if it.name == "forewarn.statsd"] == [
            ("WARNING", "StatsD server failing"),
            ("INFO", "StatsD server recovered"),
        ]
        fields = caplog.records[0].__dict__["fields"]
        assert fields["server"] == str(life.server.address)
        assert fields["reason"] == "unreachable"
        assert f"at {life.server.address} cannot be reached (connection refused)" in fields["failure"]
        assert "host and port" in fields["failure"]

    @pytest.mark.parametrize(
        ("prepare", "said"),
        [
            (lambda _: None, "no such file or directory"),
            (lambda path: path.write_text(""), "connection refused"),
            (listening_stream, "protocol wrong type for socket"),
        ],
    )
    async def test_a_unix_socket_that_cannot_be_used_is_told_with_its_path(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, prepare: Callable[[Path], object], said: str
    ) -> None:
        server = Server(tmp_path / "dsd.socket", tags=True)
        held = prepare(tmp_path / "dsd.socket")
        life = Life(server, tags=True)
        await life.flush(counting(1))
        assert life.failures == {"unreachable": 1}
        (record,) = caplog.records
        assert f"{server.address} cannot be reached ({said})" in record.__dict__["fields"]["failure"]
        assert "mounted" in record.__dict__["fields"]["failure"]
        if isinstance(held, socket.socket):
            held.close()

    async def test_lines_longer_than_a_packet_are_left_out_counted_and_told_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = Server(UdpAddress(HOST, free_port()), tags=False)
        server.open()
        life = Life(server, tags=False)
        long = replace(empty(), queues=QueuesVerdict({"é" * 128: Queue(1), "\U0001f600" * 128: Queue(2)}, {}))
        await life.flush(long)
        await life.flush(long)
        assert life.lines["left_out"] == 2
        assert [value for (name, _), value in server.reader.gauges.items() if name == "faktory_queue_jobs"] == [1]
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "longer than a packet" in record.message

    def test_what_can_be_counted_is_there_from_the_start_at_0(self) -> None:
        life = Life(Server(UdpAddress(HOST, 1), tags=True), tags=True)
        assert life.lines == dict.fromkeys(RESULTS, 0)
        assert life._own(STATSD_PUSH_FAILURES) == {reason.value: 0 for reason in Reason}

    async def test_a_defect_in_one_flush_does_not_end_all_of_them_and_is_logged_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        life = udp_life()
        with monkeypatch.context() as broken:
            broken.setattr(statsd_push, "columns", None)
            await life.flush(counting(1))
            await life.flush(counting(1))
        assert [(it.levelno, it.message) for it in caplog.records] == [
            (logging.ERROR, "push to StatsD failed by a defect of Forewarn")
        ]
        await life.flush(counting(1, more={"a": 2}))
        assert life.server.counter("faktory_job_duration_seconds_count") == 2


def large(series: int) -> Snapshot:
    """One gauge and one counter for each of many queues."""
    half = series // 2
    one = replace(empty(), queues=QueuesVerdict({f"queue-{number}": Queue(number) for number in range(half)}, {}))
    counts: dict[Labelled, float] = {(f"queue-{number}", "Job"): float(number) for number in range(half)}
    told = StatsdVerdict(None, {StatsdFact.EXECUTIONS: counts}, {}, {}, StatsdTraffic())
    return replace(one, statsd=told)


class TestPace:
    async def paced(self, snapshot: Snapshot, interval: float, late: float = 0.0) -> tuple[Life, list[float]]:
        life = udp_life(interval=interval)
        life.time.late = late
        sent: list[float] = []
        real = StatsdSocket.send

        def send(self: Any, packet: bytes) -> bool:
            sent.append(life.time.now)
            return real(self, packet)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(StatsdSocket, "send", send)
            await life.flush(snapshot)
        return life, sent

    @pytest.mark.parametrize(("series", "interval"), [(13_000, 10.0), (30_000, 0.1)])
    async def test_never_more_than_a_few_packets_go_in_a_millisecond(self, series: int, interval: float) -> None:
        life, sent = await self.paced(large(series), interval)
        assert len(sent) > 300
        within = [bisect(sent, at + 0.001) - index for index, at in enumerate(sent)]
        assert max(within) <= 6
        assert life.lines["sent"] == life.server.reader.lines

    async def test_a_large_flush_is_spread_over_the_interval(self) -> None:
        _, sent = await self.paced(large(30_000), 10.0)
        begun = sent[0]
        assert 6.0 < sent[-1] - begun < 8.0
        tenths = Counter(int((at - begun) * 10 / (sent[-1] - begun + 0.001)) for at in sent)
        assert max(tenths.values()) < 2 * min(tenths.values())

    @pytest.mark.parametrize("late", [0.004, 0.015])
    async def test_where_every_wait_is_too_long_the_time_is_made_up_for_but_in_no_burst(self, late: float) -> None:
        life, sent = await self.paced(large(30_000), 10.0, late=late)
        assert sent[-1] - sent[0] < 9.0
        within = [bisect(sent, at + 0.001) - index for index, at in enumerate(sent)]
        assert max(within) <= 6
        assert life.failures == {}

    async def test_a_small_flush_takes_no_longer_than_it_must(self) -> None:
        _, sent = await self.paced(full(), 10.0)
        assert sent[-1] - sent[0] < 1.0

    async def test_the_first_flush_comes_soon_and_then_one_at_every_interval(self) -> None:
        life = udp_life(interval=30.0)
        begun: list[float] = []
        real = life.push.flush

        async def flush() -> None:
            begun.append(life.time.now)
            await real()

        life.push.flush = flush  # type: ignore[method-assign]
        task = asyncio.create_task(life.push.run())
        await wait_until(lambda: len(begun) >= 3, 30, what="three flushes")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert begun[:3] == [102.0, 132.0, 162.0]

    async def test_nothing_that_grows_with_the_series_runs_in_the_event_loop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads = set()
        for name in ("columns", "own_columns", "gauges", "samples", "_next"):
            real = getattr(statsd_push, name)

            def called(*args: Any, real: Any = real, **named: Any) -> Any:
                threads.add(threading.current_thread())
                return real(*args, **named)

            monkeypatch.setattr(statsd_push, name, called)
        life = udp_life()
        await life.flush(full())
        assert threads
        assert threading.current_thread() not in threads


class TestAtTheEnd:
    """How it ends, in real time."""

    def real(
        self, server: Server, interval: float = 10.0, **more: Any
    ) -> tuple[StatsdPush, dict[str, Snapshot | None]]:
        newest: dict[str, Snapshot | None] = {}
        target = StatsdTarget(tags=True, address=server.address)
        return StatsdPush(target, lambda: newest, interval=interval, version="1", **more), newest

    async def ended(self, push: StatsdPush, *, begun: Callable[[], object], deadline: float = 1.5) -> float:
        """Run it until something has begun, end it, and return the seconds that this took."""
        async with asyncio.TaskGroup() as tasks:
            push.start(tasks)
            await wait_until(begun, 30, every=0.002, what="it has begun")
            started = time.monotonic()
            await push.finish(deadline)
            return time.monotonic() - started

    async def test_what_was_counted_since_the_last_flush_is_told(self) -> None:
        server = Server(UdpAddress(HOST, free_port()), tags=True)
        server.open()
        push, newest = self.real(server)
        newest["faktory"] = counting(100, more={"a": 1})
        await push.flush()
        newest["faktory"] = counting(130, more={"a": 5})
        assert await self.ended(push, begun=lambda: True) < IN_TIME
        server.read()
        assert server.counter("faktory_commands_total") == 30
        assert server.counter("faktory_job_duration_seconds_count") == 5

    @pytest.mark.parametrize("moment", ["first packet", "in the middle", "waiting for refusals"])
    async def test_a_flush_that_is_under_way_is_cut_and_counted_once(self, moment: str) -> None:
        server = Server(UdpAddress(HOST, free_port()), tags=True)
        server.open()
        push, newest = self.real(server)
        queues = {f"q{number}": 2 for number in range(100)}
        newest["faktory"] = counting(100, more=queues)

        def begun() -> bool:
            server.read()
            seen = server.reader.packets
            return seen >= {"first packet": 1, "in the middle": 40, "waiting for refusals": 90}[moment]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(statsd_push, "FIRST_FLUSH", 0.0)
            ending = asyncio.create_task(self.ended(push, begun=begun))
            while not ending.done():
                server.read()
                await asyncio.sleep(0.001)
            assert await ending < IN_TIME
        server.read()
        told = [value for (name, _), value in server.reader.counters.items() if name.endswith("seconds_count")]
        assert told == [2.0] * 100

    @pytest.mark.parametrize("how", ["away", "no name", "hanging name", "no socket", "full socket", "never flushed"])
    async def test_it_ends_within_its_deadline_whatever_the_server_does(self, how: str, tmp_path: Path) -> None:
        address: StatsdAddress = UdpAddress(HOST, free_port())
        if how.endswith("socket"):
            address = tmp_path / "dsd.socket"
        server = Server(address, tags=True)
        if how == "full socket":
            server.open()
        names = Names(socket.gaierror(socket.EAI_NONAME, "unknown") if how == "no name" else [HOST])
        if how == "hanging name":
            names.hangs.clear()
        push, newest = self.real(server, getaddrinfo=names)
        newest["faktory"] = counting(1, more={f"q{number}": 1 for number in range(400)})
        if how != "never flushed":
            flushing = asyncio.create_task(push.flush())
            await asyncio.wait({flushing}, timeout=0.3)
            if how == "hanging name":
                assert not flushing.done()
                flushing.cancel()
            else:
                await flushing
        took = await self.ended(push, begun=lambda: True)
        assert took < IN_TIME
        names.hangs.set()

    async def test_it_ends_within_its_deadline_in_the_middle_of_a_large_flush(self) -> None:
        server = Server(UdpAddress(HOST, free_port()), tags=True)
        server.open()
        push, newest = self.real(server)
        newest["faktory"] = large(100_000)

        def begun() -> bool:
            server.read()
            return server.reader.packets > 50

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(statsd_push, "FIRST_FLUSH", 0.0)
            assert await self.ended(push, begun=begun) < IN_TIME

    async def test_nothing_is_left_open(self, tmp_path: Path) -> None:
        for address in (UdpAddress(HOST, free_port()), tmp_path / "dsd.socket"):
            server = Server(address, tags=True)
            push, newest = self.real(server, interval=0.5)
            newest["faktory"] = full()
            await push.flush()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                server.open()
                await push.flush()
                server.close()
                await push.flush()
            await push.finish(1.0)
            assert len(os.listdir("/proc/self/fd")) == before
            assert [it for it in threading.enumerate() if it.name == "statsd name"] == []


class TestLarge:
    """100,000 series."""

    async def test_all_work_that_grows_with_them_is_done_in_threads_and_in_pieces(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = Server(UdpAddress(HOST, free_port()), tags=True)
        server.open()
        newest: dict[str, Snapshot | None] = {"faktory": large(100_000)}
        push = StatsdPush(StatsdTarget(tags=True, address=server.address), lambda: newest, interval=1.0, version="1")
        threads: set[int] = set()
        pieces: list[int] = []
        take = statsd_push._next

        def read(snapshot: Snapshot) -> Iterator[Column]:
            threads.add(threading.get_ident())
            return columns(snapshot)

        def pack(packets: Iterator[Packet]) -> list[Packet]:
            threads.add(threading.get_ident())
            pieces.append(len(found := take(packets)))
            return found

        monkeypatch.setattr(statsd_push, "columns", read)
        monkeypatch.setattr(statsd_push, "_next", pack)
        await push.flush()
        assert push._counts.lines["sent"] > 100_000
        assert threading.get_ident() not in threads
        assert max(pieces) == statsd_push.PIECE

    async def test_what_is_kept_from_flush_to_flush_is_bounded(self) -> None:
        """While the server is away, and all names change from flush to flush."""
        life = udp_life()
        life.server.close()
        await life.flush(large(100_000))
        tracemalloc.start()
        try:
            taken = []
            for number in range(8):
                counts: dict[Labelled, float] = {(f"q-{number}-{each}", "J"): 1.0 for each in range(20_000)}
                told = StatsdVerdict(None, {StatsdFact.EXECUTIONS: counts}, {}, {}, StatsdTraffic())
                await life.flush(replace(empty(), statsd=told))
                del counts, told
                life.snapshots.clear()
                taken.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert taken[-1] - taken[2] < 5 * 2**20  # the names of a flush alone take 4 MiB
        assert life.lines["left_out"] > 0


async def test_the_sidecar_pushes_and_every_output_tells_of_all_pushes(tmp_path: Path) -> None:
    server = Server(tmp_path / "dsd.socket", tags=True)
    server.open()
    port = free_port()
    pushed = {"forewarn_statsd_pushed_lines_total", "forewarn_statsd_push_failures_total", "forewarn_otlp_items_total"}
    async with receiving() as receiver:
        settings = Settings(
            servers=(
                ServerSettings(
                    name="faktory", url=Secret(f"tcp://{HOST}:{free_port()}"), web_url=f"http://{HOST}:{free_port()}"
                ),
            ),
            interval=0.2,
            web_listen_address=Address(HOST, port),
            otlp_metrics=OtlpTarget(url=f"{receiver.endpoint}/v1/metrics"),
            otlp_metrics_interval=1.0,
            statsd_push=StatsdTarget(tags=True, address=server.address),
            statsd_interval=1.0,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(Sidecar(settings).run(stop))

        def arrived() -> bool:
            server.read()
            return pushed <= {it.name for it in receiver.metrics()} and server.counter(min(pushed)) > 0

        try:
            await wait_until(arrived, 20, what="a second flush tells of the first")
            async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}/metrics") as answer:
                scraped = await answer.text()
        finally:
            stop.set()
            begun = time.monotonic()
            await running
        assert time.monotonic() - begun < 5
    assert pushed <= {name for name, _ in server.reader.counters}
    assert re.search(r'^forewarn_statsd_pushed_lines_total{result="sent"} [1-9]', scraped, re.MULTILINE)
    assert pushed <= set(re.findall(r"^# TYPE (\S+)", scraped, re.MULTILINE))
    assert [value for (name, _), value in server.reader.gauges.items() if name == "faktory_up"] == [0]


def test_nothing_of_it_is_imported_where_no_server_is_set() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import sys; from exporter.sidecar import Sidecar; from exporter.settings import load\n"
                "Sidecar(load({'faktory.url': 'tcp://127.0.0.1'}, {}))\n"
                "print([name for name in sys.modules if name == 'statsd' or 'outputs.statsd' in name])"
            ),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == "[]"
