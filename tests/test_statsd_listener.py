"""Receiving StatsD in a process of its own: what is heard, what is told where it fails, what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from exporter import systems
from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.source import FaktorySource
from exporter.model import Failure, Reason, StatsdDrop, StatsdFact, Transport
from exporter.secret import Secret
from exporter.settings import ServerSettings, StatsdListen
from exporter.statsd import sockets
from exporter.statsd.address import UdpAddress
from exporter.statsd.listener import (
    CALM,
    MAX_ANSWER,
    PATIENCE,
    RECHECK,
    RESOLVE_DEADLINE,
    Heard,
    RelayTarget,
    StatsdListener,
)
from exporter.statsd.process import GRACE, KILL_DEADLINE
from exporter.statsd.sockets import RECEIVE_BUFFER, risen
from exporter.web.address import Address
from tests import statsd_receivers
from tests.servers import alive, children, free_port, wait_until

ANY_PORT = Address("127.0.0.1", 0)
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes on the rights of another user: run it as root")


class Clock:
    """Stands still but for what a test adds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def listening(address: Address | None = ANY_PORT, *args: Any, **options: Any) -> AsyncIterator[StatsdListener]:
    """A listener whose receiving process has as long for an answer as a busy machine may need."""
    listener = StatsdListener(address, *args, **({"deadline": 20.0} | options))
    try:
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def opened(*args: Any, **options: Any) -> AsyncIterator[StatsdListener]:
    """One that listens already."""
    async with listening(*args, **options) as listener:
        await heard(listener)
        yield listener


async def heard(listener: StatsdListener) -> Heard:
    """One reading in which nothing fails."""
    found, failure = await listener.read()
    assert failure is None
    assert found is not None
    return found


async def failed(listener: StatsdListener) -> Failure:
    """One reading that tells a failure, and nothing else."""
    found, failure = await listener.read()
    assert found is None
    assert failure is not None
    return failure


def port_of(listener: StatsdListener) -> int:
    assert listener.port is not None
    return listener.port


def pid_of(listener: StatsdListener) -> int:
    assert listener.pid is not None
    return listener.pid


def send(listener: StatsdListener, *packets: bytes, host: str = "127.0.0.1") -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for packet in packets:
            sender.sendto(packet, (host, port_of(listener)))


def send_by_tcp(listener: StatsdListener, data: bytes, host: str = "127.0.0.1") -> None:
    with socket.create_connection((host, port_of(listener)), timeout=5) as sender:
        sender.sendall(data)


def send_to(path: Path, *packets: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(5)
        sender.connect(str(path))
        for packet in packets:
            sender.send(packet)


async def sums_of(listener: StatsdListener, done: Callable[[Counter[bytes]], bool]) -> Counter[bytes]:
    """Read until the counters heard so far, by name, satisfy ``done``."""
    sums: Counter[bytes] = Counter()

    async def read() -> bool:
        for count in (await heard(listener)).counts:
            sums[count.name] += int(count.amount)
        return done(sums)

    await wait_until(read, what=f"the counters expected are heard; so far {sums}")
    return sums


def gone(pid: int) -> bool:
    """Tell whether nothing of a process is left, not even a zombie."""
    return not Path(f"/proc/{pid}").exists()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# What is heard.


async def test_counters_that_come_by_udp_tcp_and_unix_are_heard_once(tmp_path: Path) -> None:
    async with opened(unix=tmp_path / "statsd.sock") as listener:
        send(listener, b"a:1|c", b"a:2|c")
        send_by_tcp(listener, b"b:3|c\nb:4|c\n")
        send_to(tmp_path / "statsd.sock", b"c:5|c\nc:6|c")
        assert await sums_of(listener, lambda sums: sums.total() >= 21) == {b"a": 3, b"b": 7, b"c": 11}
        assert (await heard(listener)).counts == ()


async def test_a_reading_tells_how_many_packets_came_and_when_the_last_one_did() -> None:
    async with opened() as listener:
        before = time.monotonic()
        send(listener, b"a:1|c\na:1|c", b"a:1|c")
        packets: Counter[Transport] = Counter()
        samples, last = 0, None

        async def read() -> bool:
            nonlocal samples, last
            totals = (await heard(listener)).totals
            packets.update(totals.packets)
            samples, last = samples + totals.samples, totals.last_packet or last
            return samples >= 3

        await wait_until(read)
        assert +packets == {Transport.UDP: 2}
        assert last is not None
        assert before <= last <= time.monotonic()


async def test_without_a_host_packets_come_by_both_versions_of_ip() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with opened(Address(None, 0)) as listener:
        for host, name in (("127.0.0.1", b"four"), ("::1", b"six")):
            send(listener, name + b".udp:1|c", host=host)
            send_by_tcp(listener, name + b".tcp:1|c\n", host=host)
        expected = {b"four.udp": 1, b"four.tcp": 1, b"six.udp": 1, b"six.tcp": 1}
        assert await sums_of(listener, lambda sums: sums.total() >= 4) == expected


async def test_a_name_with_an_ipv4_address_means_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_host: str, port: int, **_: object) -> list[Any]:
        six = (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", port, 0, 0))
        return [six, (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with opened(Address("statsd.example", 0)) as listener:
        send(listener, b"a:1|c", host="127.0.0.1")
        assert await sums_of(listener, lambda sums: sums.total() >= 1) == {b"a": 1}


async def test_where_any_port_will_do_one_is_found_that_is_free_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        tried: list[int] = []
        bound = sockets._bound

        def beaten_to_it(address: Address, family: Any, kind: socket.SocketKind, place: Any) -> socket.socket:
            if kind == socket.SOCK_STREAM:
                tried.append(place[1])
                if len(tried) <= 3:
                    other = stack.enter_context(socket.socket())
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        other.bind(place)
                        other.listen()
                    except OSError as error:  # somebody else has it, which is as good
                        raise sockets.ListenError("taken") from error
            return bound(address, family, kind, place)

        monkeypatch.setattr(sockets, "_bound", beaten_to_it)
        async with opened() as listener:
            assert len(tried) > 3
            assert listener.port == tried[-1]
            send(listener, b"a:1|c")
            send_by_tcp(listener, b"a:1|c\n")
            assert await sums_of(listener, lambda sums: sums.total() >= 2) == {b"a": 2}


def receive_limit() -> int:
    return int(Path("/proc/sys/net/core/rmem_max").read_text())


async def test_the_receive_buffer_is_as_large_as_the_kernel_lets(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "forewarn.statsd"):
        async with opened():
            pass
    (record,) = [it for it in caplog.records if it.getMessage() == "listening for StatsD"]
    size = record.__dict__["fields"]["receive_buffer_bytes"]
    limit = await asyncio.to_thread(receive_limit)
    assert size in {RECEIVE_BUFFER, min(RECEIVE_BUFFER, limit)}
    assert size == RECEIVE_BUFFER or "rmem_max" in record.__dict__["fields"]["fix"]


# A process that ends, hangs or says what is not understood.


async def test_a_killed_process_is_told_and_replaced_and_what_was_sent_meanwhile_is_heard() -> None:
    async with opened() as listener:
        first = pid_of(listener)
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: not alive(first))
        send(listener, b"meanwhile:1|c", b"meanwhile:1|c")
        found, failure = await listener.read()
        assert failure is not None
        assert failure.reason is Reason.UNREACHABLE
        assert "was killed by SIGKILL" in failure.message
        assert found is not None
        sums = Counter({count.name: int(count.amount) for count in found.counts})
        sums += await sums_of(listener, lambda later: later.total() + sums.total() >= 2)
        assert sums == {b"meanwhile": 2}
        assert pid_of(listener) != first
        assert gone(first)


async def test_an_answer_that_comes_too_late_is_heard_by_the_next_reading() -> None:
    async with opened() as listener:
        first = pid_of(listener)
        with stopped(first):
            send(listener, b"a:1|c")
            listener._deadline = 0.05
            assert (await failed(listener)).reason is Reason.TIMEOUT
        listener._deadline = 20.0
        assert await sums_of(listener, lambda sums: sums.total() >= 1) == {b"a": 1}
        assert pid_of(listener) == first


async def test_a_process_that_owes_an_answer_is_not_asked_again() -> None:
    async with opened(command=statsd_receivers.command("strict")) as listener:
        with stopped(pid_of(listener)):
            listener._deadline = 0.05
            for _ in range(3):
                assert (await failed(listener)).reason is Reason.TIMEOUT
        listener._deadline = 20.0
        await heard(listener)
        await heard(listener)


async def test_a_process_that_hangs_is_killed_after_half_a_minute_and_not_before() -> None:
    clock = Clock()
    async with opened(clock=clock) as listener:
        first = pid_of(listener)
        with stopped(first):
            listener._deadline = 0.05
            assert (await failed(listener)).reason is Reason.TIMEOUT
            clock.now += PATIENCE - 1
            assert (await failed(listener)).reason is Reason.TIMEOUT
            assert alive(first)
            clock.now += 1
            send(listener, b"meanwhile:1|c")
            _, failure = await listener.read()
            assert failure is not None
            assert (failure.reason, "30 s, and is killed" in failure.message) == (Reason.TIMEOUT, True)
            assert gone(first)
        listener._deadline = 20.0
        assert await sums_of(listener, lambda sums: sums.total() >= 1) == {b"meanwhile": 1}


async def test_an_answer_that_lies_there_for_long_is_heard_however_late_it_is_asked_for() -> None:
    clock = Clock()
    async with opened(clock=clock) as listener:
        first = pid_of(listener)
        with stopped(first):
            send(listener, b"a:1|c")
            listener._deadline = 0.05
            await failed(listener)
        clock.now += 10 * PATIENCE
        listener._deadline = 20.0
        await sums_of(listener, lambda sums: sums.total() >= 1)
        assert pid_of(listener) == first


async def test_one_that_keeps_dying_is_started_at_ever_longer_intervals_up_to_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    starts = tmp_path / "starts"
    at: list[float] = []
    async with listening(command=statsd_receivers.command("dies", starts), clock=clock) as listener:
        for _ in range(400):
            failure = await failed(listener)
            assert failure.reason is Reason.UNREACHABLE
            assert "ended with status 7 (no way)" in failure.message
            at += [clock.now] * (len(starts.read_bytes()) - len(at))
            clock.now += 1
    rests = [later - earlier for earlier, later in pairwise(at)]
    assert rests[:8] == [0, 1, 2, 4, 8, 16, 32, 60]
    assert set(rests[8:]) == {CALM}


async def test_while_it_rests_it_is_told_when_the_next_one_starts(tmp_path: Path) -> None:
    clock = Clock()
    async with listening(command=statsd_receivers.command("dies"), clock=clock) as listener:
        await failed(listener)
        assert "the next is started in 1 s" in (await failed(listener)).message


async def test_one_that_lived_for_long_is_replaced_at_once() -> None:
    clock = Clock()
    async with opened(clock=clock) as listener:
        for _ in range(4):
            clock.now += CALM
            os.kill(pid_of(listener), signal.SIGKILL)
            found, failure = await listener.read()
            assert (found is not None, failure is not None) == (True, True)


@pytest.mark.parametrize(
    ("how", "reason", "told"),
    [
        ("oversized", Reason.PROTOCOL, "bytes long"),
        ("undecodable", Reason.DECODE, "not understood"),
        ("endless", Reason.PROTOCOL, f"longer than {MAX_ANSWER} bytes"),
    ],
)
async def test_one_whose_answer_is_none_is_killed(how: str, reason: Reason, told: str) -> None:
    async with listening(command=statsd_receivers.command(how)) as listener:
        failure = await failed(listener)
        assert (failure.reason, told in failure.message) == (reason, True), failure
        assert listener.pid is None
        assert listener._parts == [] or how != "endless"


async def test_what_one_told_before_it_ended_amid_its_answer_is_not_lost(tmp_path: Path) -> None:
    async with listening(command=statsd_receivers.command("halfway", tmp_path / "starts")) as listener:
        found, failure = await listener.read()
        assert failure is not None
        assert "ended with status 9" in failure.message
        assert found is not None
        assert [count.name for count in found.counts] == [b"before", b"after"]


async def test_a_reading_that_is_cancelled_amid_an_answer_leaves_it_whole() -> None:
    async with listening(command=statsd_receivers.command("torn")) as listener:
        reading = asyncio.create_task(listener.read())
        await wait_until(lambda: listener._receiver is not None and listener._receiver._buffer, what="half an answer")
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
        send(listener, b"go on")
        assert [count.name for count in (await heard(listener)).counts] == [b"whole"]


async def test_what_a_process_writes_does_not_stop_it() -> None:
    async with listening(command=statsd_receivers.command("talkative")) as listener:
        for _ in range(5):
            assert [count.name for count in (await heard(listener)).counts] == [b"said"]


async def test_what_a_process_wrote_before_its_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(command=statsd_receivers.command("dies")) as listener:
        await failed(listener)
    assert {it.__dict__["fields"]["said"] for it in caplog.records} == {"first line\nno way\n"}


async def test_a_program_that_cannot_be_started_is_told() -> None:
    async with listening(command=["/nowhere/python"]) as listener:
        failure = await failed(listener)
        assert (failure.reason, "cannot be started" in failure.message) == (Reason.UNREACHABLE, True)


# Addresses that cannot be listened on.


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
async def test_a_port_that_is_taken_is_told_and_tried_again(kind: socket.SocketKind) -> None:
    with ExitStack() as stack:
        taken = stack.enter_context(socket.socket(socket.AF_INET, kind))
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        async with listening(Address("127.0.0.1", port)) as listener:
            failure = await failed(listener)
            assert failure.reason is Reason.UNREACHABLE
            by = "TCP" if kind == socket.SOCK_STREAM else "UDP"
            assert f"cannot listen for StatsD on 127.0.0.1:{port} by {by}: another program" in failure.message
            assert "--statsd.listen" in failure.message
            assert listener.pid is None
            stack.close()
            await heard(listener)
            assert listener.port == port


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (Address("192.0.2.1", 0), "this machine has no such address"),
        (Address("nowhere.invalid", 8125), "the host name is not known"),
    ],
)
async def test_an_address_that_is_not_this_machines_is_told(address: Address, told: str) -> None:
    async with listening(address) as listener:
        failure = await failed(listener)
        assert (failure.reason, told in failure.message) == (Reason.UNREACHABLE, True), failure


async def test_a_unix_socket_that_another_program_listens_on_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "statsd.sock"
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(str(path))
            if kind == socket.SOCK_STREAM:
                other.listen()
            before = path.lstat()
            async with listening(None, path) as listener:
                assert f"cannot listen for StatsD on {path}: another program" in (await failed(listener)).message
            assert path.lstat() == before
        path.unlink()


async def test_a_unix_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "statsd.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as earlier:
        earlier.bind(str(path))
    async with opened(None, path) as listener:
        send_to(path, b"a:1|c")
        assert await sums_of(listener, lambda sums: sums.total() >= 1) == {b"a": 1}


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_something_else_of_that_name_is_never_removed(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "statsd.sock", tmp_path / "other"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    before = path.lstat()
    async with listening(None, path) as listener:
        message = (await failed(listener)).message
    assert f"cannot listen for StatsD on {path}: something that is no socket has that name: remove it" in message
    assert path.lstat() == before


@pytest.mark.parametrize(
    ("path", "told"),
    [("missing/statsd.sock", "there is no folder"), ("x" * 200, "too long")],
)
async def test_a_path_that_cannot_be_had_is_told(tmp_path: Path, path: str, told: str) -> None:
    async with listening(None, tmp_path / path) as listener:
        failure = await failed(listener)
        assert (failure.reason, told in failure.message) == (Reason.UNREACHABLE, True), failure
        assert "--statsd.listen-unix" in failure.message


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@as_root
async def test_a_folder_in_which_nothing_may_be_made_is_told() -> None:
    with open_folder() as folder:
        async with listening(None, folder / "statsd.sock") as listener:
            with another_user():
                message = (await failed(listener)).message
        assert f"Forewarn may not make a file in {folder}: let it" in message


@as_root
async def test_a_server_that_runs_as_another_user_may_send() -> None:
    with open_folder() as folder:
        path = folder / "statsd.sock"
        async with opened(None, path) as listener:
            with another_user():
                send_to(path, b"a:1|c")
            assert await sums_of(listener, lambda sums: sums.total() >= 1) == {b"a": 1}


async def test_where_one_address_cannot_be_had_none_is_held(tmp_path: Path) -> None:
    port = free_port()
    async with listening(Address("127.0.0.1", port), tmp_path / "missing" / "statsd.sock") as listener:
        await failed(listener)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.bind(("127.0.0.1", port))


# What the kernel dropped.


def dropped_by_kernel(port: int) -> int:
    """What the kernel tells to everyone of the socket of that port."""
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    (drops,) = [int(line[-1]) for line in lines if int(line[1].partition(":")[2], 16) == port]
    return drops


async def test_every_packet_that_was_sent_was_received_or_is_told_as_dropped_by_the_kernel() -> None:
    async with opened() as listener:
        sent = 0
        with stopped(pid_of(listener)):
            while dropped_by_kernel(port_of(listener)) < 1000:
                send(listener, *[b"a:1|c"] * 5000)
                sent += 5000
        received = dropped = 0

        async def read() -> bool:
            nonlocal received, dropped
            now = await heard(listener)
            assert now.dropped_by_kernel is not None
            received += now.totals.packets.get(Transport.UDP, 0)
            dropped += now.dropped_by_kernel
            return received + dropped >= sent

        await wait_until(read, 30)
        assert (received + dropped, dropped) == (sent, dropped_by_kernel(port_of(listener)))
        assert dropped >= 1000
        assert (await heard(listener)).dropped_by_kernel == 0


def test_a_counter_of_drops_that_begins_again_goes_on() -> None:
    assert risen([2**32 - 2, 5], [3, 7]) == 5 + 2


# Passing on.


@contextmanager
def second_receiver(path: Path | None = None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        receiver.bind(("127.0.0.1", 0) if path is None else str(path))
        receiver.setblocking(False)
        yield receiver


def address_of(receiver: socket.socket) -> UdpAddress:
    return UdpAddress(*receiver.getsockname())


async def passed_on(receiver: socket.socket, enough: Callable[[list[bytes]], bool]) -> list[bytes]:
    found: list[bytes] = []

    def receive() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(receiver.recv(65536))
        return enough(found)

    await wait_until(receive, what=f"enough is passed on; so far {len(found)} packets")
    return found


PACKETS = (
    b"faktory.jobs.count:1|c|#queue:mail,jobtype:Mailer::Welcome",
    b"a:1|c\nb:2|g\n",
    b"\x00\xff\xfe not StatsD at all",
    b"no newline",
    b"\n\n",
    "größe:1|h|#ort:köln".encode(),
    b"a" * 8000,
    b"faktory.jobs.count:1|c|#queue:mail,jobtype:Mailer::Welcome",
)


async def test_a_second_receiver_gets_every_datagram_of_udp_byte_for_byte() -> None:
    with second_receiver() as second:
        async with opened(relay=address_of(second)) as listener:
            send(listener, *PACKETS)
            assert await passed_on(second, lambda found: len(found) >= len(PACKETS)) == list(PACKETS)


async def test_a_second_receiver_on_a_path_gets_every_datagram_of_a_unix_socket(tmp_path: Path) -> None:
    with second_receiver(tmp_path / "second.sock") as second:
        async with opened(None, tmp_path / "first.sock", tmp_path / "second.sock"):
            send_to(tmp_path / "first.sock", *PACKETS)
            assert await passed_on(second, lambda found: len(found) >= len(PACKETS)) == list(PACKETS)


async def test_a_second_receiver_gets_whole_lines_of_tcp_in_packets_of_one_mtu() -> None:
    lines = b"".join(b"faktory.jobs.count:%d|c|#queue:mail\n" % number for number in range(500))
    with second_receiver() as second:
        async with opened(relay=address_of(second)) as listener:
            send_by_tcp(listener, lines)
            found = await passed_on(second, lambda found: sum(it.count(b"|c") for it in found) >= 500)
            assert max(map(len, found)) <= 1432
            assert b"\n".join(it.removesuffix(b"\n") for it in found) + b"\n" == lines


async def test_what_is_passed_on_is_told() -> None:
    with second_receiver() as second:
        async with opened(relay=address_of(second)) as listener:
            send(listener, *PACKETS)
            await passed_on(second, lambda found: len(found) >= len(PACKETS))
            relayed = 0

            async def read() -> bool:
                nonlocal relayed
                relayed += (await heard(listener)).totals.relayed
                return relayed >= len(PACKETS)

            await wait_until(read)
            assert relayed == len(PACKETS)


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_receiving_goes_on_where_nobody_takes_what_is_passed_on(tmp_path: Path, kind: str) -> None:
    relay = UdpAddress("127.0.0.1", free_port()) if kind == "udp" else tmp_path / "nobody.sock"
    async with opened(relay=relay) as listener:
        dropped = 0
        for sent in range(20):
            send(listener, b"a:1|c")
            counts: Counter[bytes] = Counter()
            while not counts:
                now = await heard(listener)
                counts.update({count.name: int(count.amount) for count in now.counts})
                dropped += now.totals.dropped.get(StatsdDrop.RELAY, 0)
            assert counts == {b"a": 1}, sent
        assert dropped > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "own.example"])
async def test_packets_are_not_passed_on_to_where_they_came_in(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch).address = "127.0.0.1"
    port = free_port()
    async with listening(Address(None, port), relay=UdpAddress(host, port)) as listener:
        _, failure = await listener.read()
        assert failure is not None
        assert "they would come back" in failure.message
        assert "--statsd.relay" in failure.message
        send(listener, b"a:1|c")
        packets = relayed = 0

        async def read() -> bool:
            nonlocal packets, relayed
            found, _ = await listener.read()
            assert found is not None
            packets += found.totals.packets.get(Transport.UDP, 0)
            relayed += found.totals.relayed
            return packets > 0

        await wait_until(read)
        await read()
        assert (packets, relayed) == (1, 0)


async def test_packets_are_passed_on_to_another_server_on_the_same_port() -> None:
    with second_receiver() as second:
        port = second.getsockname()[1]
        async with opened(Address("127.0.0.2", port), relay=address_of(second)) as listener:
            send(listener, b"a:1|c", host="127.0.0.2")
            assert await passed_on(second, lambda found: len(found) > 0) == [b"a:1|c"]


async def test_a_host_that_is_not_known_is_told_while_receiving_goes_on() -> None:
    async with listening(relay=UdpAddress("nowhere.invalid", 8125)) as listener:
        found, failure = await listener.read()
        assert found is not None
        assert failure is not None
        assert failure.reason is Reason.UNREACHABLE
        assert "nowhere.invalid is not resolved" in failure.message
        assert "--statsd.relay" in failure.message


class Names:
    """What resolves a name, as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.address: str | None = "192.0.2.1"
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.asked = 0
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.resolve)

    async def resolve(self, _host: str, port: int, **_: object) -> list[Any]:
        self.asked += 1
        await self.hangs.wait()
        if self.address is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (self.address, port))]


async def test_a_name_is_looked_up_again_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    names, clock = Names(monkeypatch), Clock()
    target = RelayTarget(UdpAddress("statsd.example", 8125), clock=clock)
    assert await target.find() == ("192.0.2.1", 8125)
    names.address = "192.0.2.2"
    clock.now += RECHECK - 1
    assert await target.find() == ("192.0.2.1", 8125)
    clock.now += 1
    assert await target.find() == ("192.0.2.2", 8125)


async def test_a_name_that_does_not_resolve_any_more_means_its_last_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names, clock = Names(monkeypatch), Clock()
    target = RelayTarget(UdpAddress("statsd.example", 8125), clock=clock)
    await target.find()
    names.address = None
    for _ in range(3):
        clock.now += RECHECK
        assert await target.find() == ("192.0.2.1", 8125)
    assert target.failure is None
    assert len(caplog.records) == 1


async def test_a_name_is_found_as_soon_as_it_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.address = None
    target = RelayTarget(UdpAddress("statsd.example", 8125), clock=Clock())
    assert await target.find() is None
    assert target.failure is not None
    names.address = "192.0.2.1"
    assert await target.find() == ("192.0.2.1", 8125)
    assert target.failure is None


async def test_a_name_that_takes_long_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.hangs.clear()
    target = RelayTarget(UdpAddress("statsd.example", 8125), clock=Clock())
    assert await target.find() is None
    began = time.monotonic()
    for _ in range(20):
        assert await target.find() is None
    assert time.monotonic() - began < 20 * RESOLVE_DEADLINE / 2
    assert names.asked == 1
    await target.close()


async def test_an_address_needs_no_looking_up(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    assert await RelayTarget(UdpAddress("::1", 8125)).find() == ("::1", 8125)
    assert names.asked == 0


# What is left behind, and what is handed down.


def descriptors(pid: int) -> dict[str, str]:
    """What each descriptor of a process is."""
    found: dict[str, str] = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one by which this is read
            found[path.name] = os.readlink(path)
    return found


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    await asyncio.to_thread(int)  # what the event loop keeps for threads is there from here on
    path, relay = tmp_path / "statsd.sock", UdpAddress("localhost", free_port())
    before, processes = descriptors(os.getpid()), set(children(os.getpid()))
    listener = StatsdListener(ANY_PORT, path, relay, deadline=20.0)
    await heard(listener)
    os.kill(pid_of(listener), signal.SIGKILL)
    assert (await listener.read())[0] is not None
    last = pid_of(listener)
    await listener.close()
    await listener.close()
    assert descriptors(os.getpid()) == before
    assert set(children(os.getpid())) == processes
    assert gone(last)
    assert not path.exists()


async def test_after_a_failed_start_no_descriptor_is_left() -> None:
    async with listening(command=["/nowhere/python"]) as listener:
        await failed(listener)
        before = descriptors(os.getpid())
        await failed(listener)
        assert descriptors(os.getpid()) == before


async def test_a_process_that_hangs_is_killed_when_the_listener_closes() -> None:
    listener = StatsdListener(ANY_PORT, deadline=20.0)
    await heard(listener)
    pid = pid_of(listener)
    with stopped(pid):
        began = time.monotonic()
        await listener.close()
        assert time.monotonic() - began < GRACE + KILL_DEADLINE
        assert gone(pid)


async def test_a_process_that_hangs_is_killed_though_there_is_no_time_to_wait_for_it() -> None:
    listener = StatsdListener(ANY_PORT, deadline=20.0)
    await heard(listener)
    pid = pid_of(listener)
    with stopped(pid):
        closing = asyncio.create_task(listener.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        await wait_until(lambda: not alive(pid))


async def test_a_file_that_came_to_stand_in_the_place_of_the_socket_is_left_there(tmp_path: Path) -> None:
    path = tmp_path / "statsd.sock"
    async with opened(None, path):
        path.rename(tmp_path / "moved.sock")
        path.write_text("precious")
    assert path.read_text() == "precious"


async def test_a_process_is_handed_its_sockets_and_nothing_else(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        async with opened(ANY_PORT, tmp_path / "statsd.sock") as listener:
            pid = pid_of(listener)
            assert listener._sockets is not None
            given = {descriptors(os.getpid())[str(it)] for it in listener._sockets.descriptors()}
            ours, theirs = set(descriptors(os.getpid()).values()), descriptors(pid)
    standard = {theirs.pop(it) for it in ("0", "1", "2")}
    assert given <= set(theirs.values())
    assert set(theirs.values()) & ours <= given | standard | {"anon_inode:[eventpoll]"}
    assert not any("secret" in it for it in theirs.values())


async def test_a_process_sees_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKTORY_PASSWORD", "hunter2")
    monkeypatch.setenv("FOREWARN_FAKTORY_URL", "tcp://:hunter2@127.0.0.1:7419")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    async with listening(command=statsd_receivers.command("strange")) as listener:
        (told,) = (await heard(listener)).counts
    assert b"hunter2" not in told.name
    assert msgspec.json.decode(told.name).keys() <= {it for it in os.environ if it.startswith("PYTHON")} | {
        "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH",
    }  # fmt: skip


LEAVES_A_PROCESS = """
import asyncio, sys
from exporter.statsd.listener import StatsdListener
from exporter.web.address import Address

async def main():
    listener = StatsdListener(Address("127.0.0.1", 0), deadline=20.0)
    await listener.read()
    print(listener.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_process_ends_with_the_sidecar_however_that_ended() -> None:
    sidecar = await asyncio.create_subprocess_exec(sys.executable, "-c", LEAVES_A_PROCESS, stdout=subprocess.PIPE)
    assert sidecar.stdout is not None
    pid = int(await sidecar.stdout.readline())
    assert alive(pid)
    sidecar.kill()
    await sidecar.wait()
    await wait_until(lambda: not alive(pid))


def test_it_works_likewise_on_the_event_loop_that_is_used_where_present() -> None:
    uvloop.run(test_a_killed_process_is_told_and_replaced_and_what_was_sent_meanwhile_is_heard())
    uvloop.run(test_a_reading_that_is_cancelled_amid_an_answer_leaves_it_whole())


# Its place in the source.


async def test_what_a_server_tells_is_part_of_its_observation() -> None:
    listener = StatsdListener(ANY_PORT, deadline=20.0)
    source = FaktorySource(Client(Endpoint("127.0.0.1", 1)), web_url="http://127.0.0.1:1", statsd=listener)
    first = await source.observe()
    assert first.statsd is not None
    assert first.statsd.heard_at is None
    assert [run.failure for run in first.runs if run.name == "statsd"] == [None]
    before = time.time()
    send(listener, b"faktory.jobs.count:3|c|#queue:mail,jobtype:Mailer::Welcome")

    async def told() -> float | None:
        now = await source.observe()
        assert now.statsd is not None
        if now.statsd.heard_at is None:
            return None
        assert now.statsd.counts == {StatsdFact.EXECUTIONS: {("mail", "Mailer::Welcome"): 3.0}}
        return now.statsd.heard_at

    heard_at = await wait_until(told)
    assert before - 0.1 <= heard_at <= time.time() + 0.1
    pid = pid_of(listener)
    await source.close()
    assert not alive(pid)


async def test_an_observation_tells_why_nothing_is_heard() -> None:
    listener = StatsdListener(Address("192.0.2.1", 0))
    source = FaktorySource(Client(Endpoint("127.0.0.1", 1)), web_url="http://127.0.0.1:1", statsd=listener)
    now = await source.observe()
    assert now.statsd is None
    assert [run.failure is not None for run in now.runs if run.name == "statsd"] == [True]
    await source.close()


async def test_a_source_listens_only_where_it_is_told_to(tmp_path: Path) -> None:
    settings = ServerSettings(name="faktory", url=Secret("tcp://127.0.0.1:1"), web_url="http://127.0.0.1:1")
    statsd = StatsdListen(address=ANY_PORT, unix=tmp_path / "statsd.sock", namespace="jobs.", keep_all=True)
    for listen, collectors in ((None, 0), (statsd, 1)):
        source = systems.build(msgspec.structs.replace(settings, statsd=listen))
        now = await source.observe()
        assert [run.name for run in now.runs].count("statsd") == collectors
        assert (now.statsd is not None) == (tmp_path / "statsd.sock").exists() == (listen is not None)
        if listen is not None:
            send_to(tmp_path / "statsd.sock", b"jobs.ops.connections:7|g\nunknown:1|c")

            async def told() -> bool:
                now = await source.observe()  # noqa: B023 - waited for below
                if now.statsd is None or StatsdFact.CONNECTIONS not in now.statsd.moves:
                    return False
                return StatsdFact.OTHER_COUNT in now.statsd.counts

            await wait_until(told)
        await source.close()
