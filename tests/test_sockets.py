"""Who is connected to a port: what the kernel's tables tell, whatever stands in them, and where they tell nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.errors import FaktoryError
from exporter.faktory.source import FaktorySource
from exporter.faktory.store import Store, StoreFacts
from exporter.model import OTHER, Failure, Observation, Reason
from exporter.process import sockets
from exporter.process.sockets import MAX_TABLE, RECHECK, REST, Address, PortPeers, Row, is_own, peers, tally
from exporter.signals.connections import PEERS, ConnectionsSignal
from exporter.signals.labels import IDLE
from tests.servers import free_port, wait_until

PORT = 7419
LISTEN, ESTABLISHED, TIME_WAIT = 0x0A, 0x01, 0x06
HEADER = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    + b" " * 53
    + b"\n"
)
little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="written by a machine of the other byte order")
LOOPBACK = (IPv4Address("127.0.0.1"),)

Socket = tuple[Address, int, Address, int, int]
"""Local address and port, remote address and port, state."""


def written(address: Address) -> str:
    """Return an address as the kernel writes it: each word of four bytes as a number of this machine's order."""
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", address.packed))


def row(entry: Socket, number: int = 0) -> bytes:
    local, port, remote, remote_port, state = entry
    text = (
        f"{number:4d}: {written(local)}:{port:04X} {written(remote)}:{remote_port:04X} {state:02X} "
        f"00000000:00000000 00:00000000 00000000  1000        0 {41000 + number} 1 0000000000000000 20 4 30 10 -1"
    )
    return f"{text:<149}\n".encode()


def table(*entries: Socket) -> bytes:
    return HEADER + b"".join(row(entry, number) for number, entry in enumerate(entries))


def listening(address: str, port: int = PORT) -> Socket:
    local = ip_address(address)
    return local, port, type(local)(0), 0, LISTEN


def connection(remote: str, local: str = "127.0.0.1", port: int = PORT, state: int = ESTABLISHED) -> Socket:
    return ip_address(local), port, ip_address(remote), 40000, state


def told(*entries: Socket, hosts: tuple[Address, ...] = LOOPBACK) -> dict[str, int] | None:
    return peers(tally([table(*entries)], PORT), hosts)


class TestOneTable:
    @little_endian
    def test_rows_that_a_kernel_wrote(self) -> None:
        content = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   3: 0100007F:1CFB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 15485640 1 00000000c37be4ae
  53: 0100007F:1CFB 0200007F:E1B3 01 00000000:00000000 00:00000000 00000000     0        0 15485642 1 00000000a3c2e1d9
  75: 0100007F:1CFB 0300007F:D091 06 00000000:00000000 03:00001770 00000000     0        0 0 3 00000000e9496258
 272: 0200007F:E1B3 0100007F:1CFB 01 00000000:00000000 00:00000000 00000000     0        0 15485641 2 00000000b7f4610c
"""
        assert peers(tally([content], PORT), LOOPBACK) == {"127.0.0.2": 1}

    @little_endian
    def test_rows_of_ipv6_that_a_kernel_wrote(self) -> None:
        zeros = b"000000000000000000000000"
        content = b"""\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: Z00000000:440B Z00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 15485645 1
   3: Z01000000:AA94 Z01000000:440B 01 00000000:00000000 00:00000000 00000000     0        0 15485648 2
   4: 0000000000000000FFFF00000100007F:440B 0000000000000000FFFF00000400007F:E6FB 01 00000000:00000000 00:00000000
   5: Z01000000:440B Z01000000:AA94 01 00000000:00000000 00:00000000 00000000     0        0 15485649 1
""".replace(b"Z", zeros)
        assert peers(tally([content], 0x440B), LOOPBACK) == {"127.0.0.4": 1, "::1": 1}

    def test_only_what_is_connected_counts(self) -> None:
        closed = [connection("10.0.0.9", state=state) for state in range(2, 13) if state != LISTEN]
        assert told(listening("127.0.0.1"), connection("127.0.0.1"), *closed) == {"127.0.0.1": 1}

    def test_the_other_ends_and_other_ports_do_not_count(self) -> None:
        clients_end = (ip_address("127.0.0.1"), 40000, ip_address("127.0.0.1"), PORT, ESTABLISHED)
        assert told(listening("127.0.0.1"), clients_end, connection("127.0.0.1", port=7420)) == {}

    def test_ipv4_written_as_ipv6_is_shown_as_ipv4(self) -> None:
        mapped = connection("::ffff:10.0.0.7", local="::ffff:127.0.0.1")
        assert told(listening("::"), mapped, connection("fd00::7", local="fd00::1")) == {"10.0.0.7": 1, "fd00::7": 1}

    def test_where_nothing_listens_nothing_is_known(self) -> None:
        assert told(connection("10.0.0.1")) is None

    def test_where_something_listens_on_another_address_only_nothing_is_known(self) -> None:
        assert told(listening("10.0.0.5"), connection("10.0.0.1", local="10.0.0.5")) is None

    def test_with_nobody_connected_that_is_known(self) -> None:
        assert told(listening("127.0.0.1")) == {}

    def test_a_server_that_listens_everywhere_has_connections_to_every_address(self) -> None:
        entries = [listening("0.0.0.0"), connection("10.0.0.9", local="10.0.0.5"), connection("127.0.0.1")]
        assert told(*entries) == {"10.0.0.9": 1, "127.0.0.1": 1}

    def test_connections_to_an_address_on_which_something_else_listens_do_not_count(self) -> None:
        entries = [listening("0.0.0.0"), listening("10.0.0.5"), connection("10.0.0.9", local="10.0.0.5")]
        assert told(*entries, connection("127.0.0.1")) == {"127.0.0.1": 1}
        assert told(*entries, connection("127.0.0.1"), hosts=(IPv4Address("10.0.0.5"),)) == {"10.0.0.9": 1}

    def test_of_several_addresses_the_first_counts_on_which_something_listens(self) -> None:
        hosts = (IPv6Address("::1"), IPv4Address("127.0.0.1"))
        assert told(listening("127.0.0.1"), connection("127.0.0.2"), hosts=hosts) == {"127.0.0.2": 1}


locals_ = st.sampled_from([ip_address(it) for it in ("127.0.0.1", "10.0.0.5", "::1", "::ffff:127.0.0.1", "fd00::5")])
wild = st.sampled_from([IPv4Address(0), IPv6Address(0)])
remotes = st.sampled_from([ip_address(f"10.0.0.{n}") for n in range(5)]) | st.ip_addresses()
ports = st.sampled_from([PORT, PORT, PORT, 80]) | st.integers(0, 65535)
states = st.sampled_from([ESTABLISHED, ESTABLISHED, LISTEN, TIME_WAIT]) | st.integers(1, 12)
entries = st.lists(st.tuples(locals_ | wild, ports, remotes, st.integers(0, 65535), states), max_size=30)
garbage = st.one_of(
    st.binary(max_size=300),
    st.text(alphabet=" 0123456789ABCDEF:\n", max_size=200).map(str.encode),
    st.integers(0, 150).map(lambda end: row(connection("10.0.0.1"))[:end]),
)


def plain(address: Address) -> Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


class TestAnyTable:
    @given(entries)
    def test_every_connection_of_the_port_is_counted_once(self, sockets_: list[Socket]) -> None:
        # Something listens everywhere, and nothing else on a single address.
        sockets_ = [it for it in sockets_ if it[4] != LISTEN]
        expected = Counter(str(plain(remote)) for _, port, remote, _, state in sockets_ if (port, state) == (PORT, 1))
        assert told(listening("::"), *sockets_, hosts=(IPv6Address("::1"),)) == expected

    @given(entries, st.lists(st.integers(0, 5000), max_size=20))
    def test_it_does_not_matter_where_the_content_is_cut(self, sockets_: list[Socket], cuts: list[int]) -> None:
        content = table(*sockets_)
        ends = [0, *sorted(cuts), len(content)]
        pieces = [content[start:end] for start, end in itertools.pairwise(ends)]
        assert tally(pieces, PORT) == tally([content], PORT)

    @given(entries, garbage, st.integers(0, 30))
    def test_lines_that_are_no_rows_change_nothing(self, sockets_: list[Socket], noise: bytes, at: int) -> None:
        rows = [row(it) for it in sockets_]
        noise = b"".join(b"#" + line + b"\n" for line in noise.splitlines())
        assert tally([b"".join([*rows[:at], noise, *rows[at:]])], PORT) == tally(rows, PORT)

    @given(st.lists(garbage, max_size=20))
    def test_garbage_is_read_without_a_failure(self, pieces: list[bytes]) -> None:
        found = peers(tally(pieces, PORT), LOOPBACK)
        assert found is None or sum(found.values()) <= b"".join(pieces).count(b"\n")

    @given(entries, st.integers(0, 5000))
    def test_a_torn_table_has_no_more_than_the_whole_one(self, sockets_: list[Socket], end: int) -> None:
        content = table(*sockets_)
        assert tally([content[:end]], PORT) <= tally([content], PORT)


@contextmanager
def listener(address: str, family: socket.AddressFamily = socket.AF_INET, port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(family) as server:
        server.bind((address, port))
        server.listen(64)
        yield server


@contextmanager
def connected(server: socket.socket, *clients: str, to: str | None = None) -> Iterator[None]:
    """Hold connections to ``server`` that come from these addresses."""
    host, port = server.getsockname()[:2]
    with ExitStack() as stack:
        for client in clients:
            family = socket.AF_INET6 if ":" in client else socket.AF_INET
            end = stack.enter_context(socket.socket(family))
            end.bind((client, 0))
            end.connect((to or host, port))
            stack.enter_context(server.accept()[0])
        yield


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def has_ipv6() -> bool:
    try:
        with listener("::1", socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


class TestThisMachine:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_peers_are_told_by_their_addresses(self, host: str) -> None:
        with listener("127.0.0.1") as server, connected(server, "127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.2"):
            assert await PortPeers(host, port_of(server)).read() == ({"127.0.0.2": 3, "127.0.0.3": 1}, None)

    async def test_it_follows_what_comes_and_goes(self) -> None:
        with listener("127.0.0.1") as server:
            reader = PortPeers("127.0.0.1", port_of(server))
            assert await reader.read() == ({}, None)
            with connected(server, "127.0.0.2"):
                assert await reader.read() == ({"127.0.0.2": 1}, None)
            assert await reader.read() == ({}, None)
        assert await reader.read() == (None, None)
        with listener("127.0.0.1") as server, connected(server, "127.0.0.3"):
            reader = PortPeers("127.0.0.1", port_of(server))
            assert await reader.read() == ({"127.0.0.3": 1}, None)

    async def test_a_server_beside_it_on_another_address_is_another_server(self) -> None:
        with (
            listener("127.0.0.1") as one,
            listener("127.0.0.9", port=port_of(one)) as other,
            connected(one, "127.0.0.2"),
            connected(other, "127.0.0.3", "127.0.0.3"),
        ):
            assert await PortPeers("127.0.0.1", port_of(one)).read() == ({"127.0.0.2": 1}, None)
            assert await PortPeers("127.0.0.9", port_of(one)).read() == ({"127.0.0.3": 2}, None)

    async def test_a_server_that_listens_everywhere(self) -> None:
        with listener("0.0.0.0") as server, connected(server, "127.0.0.2", to="127.0.0.7"):
            assert await PortPeers("127.0.0.1", port_of(server)).read() == ({"127.0.0.2": 1}, None)

    @needs_ipv6
    async def test_a_server_that_listens_everywhere_by_ipv6_has_ipv4_peers(self) -> None:
        with (
            listener("::", socket.AF_INET6) as server,
            connected(server, "127.0.0.2", to="127.0.0.1"),
            connected(server, "::1", to="::1"),
        ):
            assert await PortPeers("127.0.0.1", port_of(server)).read() == ({"127.0.0.2": 1, "::1": 1}, None)

    async def test_where_nothing_listens_it_is_not_known(self) -> None:
        assert await PortPeers("127.0.0.1", free_port()).read() == (None, None)

    async def test_of_another_machine_it_is_not_known_though_something_listens_here(self) -> None:
        with listener("0.0.0.0") as server, connected(server, "127.0.0.2", to="127.0.0.1"):
            assert await PortPeers("198.51.100.1", port_of(server)).read() == (None, None)

    def test_loopback_addresses_are_its_own(self) -> None:
        assert [is_own(ip_address(it)) for it in ("127.0.0.1", "127.8.9.10", "::1")] == [True] * 3

    def test_addresses_kept_for_documentation_are_not(self) -> None:
        assert [is_own(ip_address(it)) for it in ("198.51.100.1", "2001:db8::1")] == [False] * 2

    def test_the_address_from_which_it_would_send_is(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("198.51.100.1", 9))
            except OSError:
                pytest.skip("this machine has no network")
            assert is_own(ip_address(probe.getsockname()[0]))


Lookup = Callable[..., Awaitable[list[Any]]]


def resolving(monkeypatch: pytest.MonkeyPatch, lookup: Lookup) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)


class TestNames:
    async def test_a_name_is_looked_up_once_a_minute(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "tcp").write_bytes(table(listening("127.0.0.1"), connection("127.0.0.2")))
        found = ["127.0.0.1", "127.0.0.1", "198.51.100.1"]
        asked: list[str] = []

        async def lookup(host: str, *_: object, **__: object) -> list[Any]:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found[len(asked) - 1], 0))]

        resolving(monkeypatch, lookup)
        now = [0.0]
        reader = PortPeers("jobs.example", PORT, folder=tmp_path, clock=lambda: now[0])
        for at, lookups, known in ((0, 1, True), (RECHECK - 1, 1, True), (RECHECK, 2, True), (2 * RECHECK, 3, False)):
            now[0] = at
            assert await reader.read() == ({"127.0.0.2": 1} if known else None, None)
            assert asked == ["jobs.example"] * lookups

    async def test_a_name_that_does_not_resolve_is_nobodys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fails(*_: object, **__: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        resolving(monkeypatch, fails)
        assert await PortPeers("jobs.example", PORT).read() == (None, None)

    async def test_a_name_that_takes_too_long_is_nobodys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def hangs(*_: object, **__: object) -> list[Any]:
            await asyncio.get_running_loop().create_future()
            return []

        resolving(monkeypatch, hangs)
        assert await PortPeers("jobs.example", PORT, deadline=0.05).read() == (None, None)

    async def test_a_name_that_cannot_be_one_is_nobodys(self) -> None:
        assert await PortPeers("x" * 70 + ".example", PORT).read() == (None, None)


def failure(told: tuple[object, Failure | None]) -> Reason:
    found, failed = told
    assert found is None
    assert failed is not None
    return failed.reason


class TestBounds:
    async def test_without_tables_it_is_not_known(self, tmp_path: Path) -> None:
        assert await PortPeers("127.0.0.1", PORT, folder=tmp_path).read() == (None, None)

    async def test_either_table_is_enough(self, tmp_path: Path) -> None:
        (tmp_path / "tcp6").write_bytes(table(listening("::"), connection("fd00::7", local="fd00::1")))
        assert await PortPeers("127.0.0.1", PORT, folder=tmp_path).read() == ({"fd00::7": 1}, None)

    async def test_a_table_without_the_port_is_not_read_again_for_a_minute(self, tmp_path: Path) -> None:
        (tmp_path / "tcp").write_bytes(table(listening("127.0.0.1")))
        (tmp_path / "tcp6").write_bytes(HEADER)
        now = [0.0]
        reader = PortPeers("127.0.0.1", PORT, folder=tmp_path, clock=lambda: now[0])
        assert await reader.read() == ({}, None)
        (tmp_path / "tcp6").write_bytes(table(connection("::ffff:10.0.0.1", local="::ffff:127.0.0.1")))
        assert await reader.read() == ({}, None)
        now[0] = RECHECK
        assert await reader.read() == ({"10.0.0.1": 1}, None)

    async def test_the_other_table_is_read_at_once_when_nothing_listens_in_the_first(self, tmp_path: Path) -> None:
        (tmp_path / "tcp").write_bytes(table(listening("127.0.0.1")))
        (tmp_path / "tcp6").write_bytes(HEADER)
        reader = PortPeers("127.0.0.1", PORT, folder=tmp_path)
        assert await reader.read() == ({}, None)
        (tmp_path / "tcp").write_bytes(HEADER)
        (tmp_path / "tcp6").write_bytes(table(listening("::")))
        assert await reader.read() == (None, None)
        assert await reader.read() == ({}, None)

    async def test_a_table_that_is_too_long_is_given_up_and_left_alone_for_a_minute(self, tmp_path: Path) -> None:
        path, now = tmp_path / "tcp", [0.0]
        short = table(listening("127.0.0.1"), connection("10.0.0.1"))
        path.write_bytes(short + row(connection("10.0.0.2")) * (MAX_TABLE // 150))
        reader = PortPeers("127.0.0.1", PORT, folder=tmp_path, clock=lambda: now[0])
        assert failure(await reader.read()) is Reason.PROTOCOL
        path.write_bytes(short)
        now[0] = REST - 1
        assert failure(await reader.read()) is Reason.PROTOCOL
        now[0] = REST
        assert await reader.read() == ({"10.0.0.1": 1}, None)

    async def test_a_table_that_is_as_long_as_is_read_is_read(self, tmp_path: Path) -> None:
        content = table(listening("127.0.0.1")) + row(connection("10.0.0.2")) * (MAX_TABLE // 150 - 3)
        (tmp_path / "tcp").write_bytes(content)
        assert await PortPeers("127.0.0.1", PORT, folder=tmp_path).read() == ({"10.0.0.2": MAX_TABLE // 150 - 3}, None)

    async def test_a_long_table_in_which_nothing_listens_is_no_failure(self, tmp_path: Path) -> None:
        (tmp_path / "tcp").write_bytes(row(connection("10.0.0.2")) * (MAX_TABLE // 150 + 2))
        assert await PortPeers("127.0.0.1", PORT, folder=tmp_path).read() == (None, None)

    async def test_a_table_that_comes_too_slowly_is_given_up_and_left_alone_for_a_minute(self, tmp_path: Path) -> None:
        (tmp_path / "tcp").write_bytes(table(listening("127.0.0.1")) + row(connection("10.0.0.2")) * 5000)
        now, step = [0.0], [0.1]

        def clock() -> float:
            now[0] += step[0]
            return now[0]

        reader = PortPeers("127.0.0.1", PORT, folder=tmp_path, clock=clock, deadline=1.0)
        assert failure(await reader.read()) is Reason.TIMEOUT
        step[0], given_up = 0.0, now[0]
        now[0] = given_up + REST - 1
        assert failure(await reader.read()) is Reason.TIMEOUT
        now[0] = given_up + REST
        assert await reader.read() == ({"10.0.0.2": 5000}, None)

    async def test_a_table_that_hangs_is_waited_for_by_one_thread_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "tcp"
        path.write_bytes(table(listening("127.0.0.1")))
        read: list[int] = []

        def noted(pieces: Iterable[bytes], port: int) -> Counter[Row]:
            read.append(port)
            return tally(pieces, port)

        monkeypatch.setattr(sockets, "tally", noted)
        now = [0.0]
        reader = PortPeers("127.0.0.1", PORT, folder=tmp_path, clock=lambda: now[0], deadline=0.05)
        assert await reader.read() == ({}, None)
        path.unlink()
        os.mkfifo(path)  # to open it is to wait for a writer
        before = len(read)
        try:
            for _ in range(3):
                assert failure(await reader.read()) is Reason.TIMEOUT
                now[0] += REST
            assert len(read) == before + 1
        finally:
            with path.open("wb"):
                path.unlink()
        path.write_bytes(table(listening("127.0.0.1"), connection("10.0.0.1")))

        async def recovered() -> bool:
            now[0] += REST
            return await reader.read() == ({"10.0.0.1": 1}, None)

        await wait_until(recovered, what="it goes on after the hang")

    async def test_what_is_never_known_to_be_here_does_not_fail_when_it_hangs(self, tmp_path: Path) -> None:
        path = tmp_path / "tcp"
        os.mkfifo(path)
        try:
            assert await PortPeers("127.0.0.1", PORT, folder=tmp_path, deadline=0.05).read() == (None, None)
        finally:
            with path.open("wb"):
                pass


class TestThePoll:
    async def observe(self, reader: PortPeers, port: int) -> Observation:
        source = FaktorySource(
            Client(Endpoint("127.0.0.1", port), connect_timeout=0.2),
            web_url=f"http://127.0.0.1:{free_port()}",
            sockets=reader,
        )
        try:
            return await source.observe()
        finally:
            await source.close()

    async def test_what_is_known_is_a_part_of_the_poll(self) -> None:
        with listener("127.0.0.1") as server, connected(server, "127.0.0.2"):
            port = port_of(server)
            seen = await self.observe(PortPeers("127.0.0.1", port), port)
        assert seen.peers is not None
        assert seen.peers["127.0.0.2"] == 1
        assert [run.failure for run in seen.runs if run.name == "sockets"] == [None]

    async def test_what_cannot_be_known_is_no_part_of_the_poll(self) -> None:
        port = free_port()
        seen = await self.observe(PortPeers("127.0.0.1", port), port)
        assert seen.peers is None
        assert [run.name for run in seen.runs] == ["health", "connection"]

    async def test_what_is_given_up_is_a_part_that_failed(self, tmp_path: Path) -> None:
        (tmp_path / "tcp").write_bytes(table(listening("127.0.0.1")) + b" " * MAX_TABLE)
        seen = await self.observe(PortPeers("127.0.0.1", PORT, folder=tmp_path), free_port())
        assert seen.peers is None
        assert [run.failure.reason for run in seen.runs if run.failure and run.name == "sockets"] == [Reason.PROTOCOL]

    async def test_nobody_waits_for_it(self) -> None:
        others = asyncio.Event()

        class LastOfAll(PortPeers):
            async def read(self) -> tuple[Mapping[str, int] | None, Failure | None]:
                await asyncio.wait_for(others.wait(), 5)
                return {}, None

        class Redis:
            async def read(self, *_: object) -> StoreFacts:
                others.set()
                raise FaktoryError(Reason.UNREACHABLE, "it is away")

            async def close(self) -> None:
                pass

        source = FaktorySource(
            Client(Endpoint("127.0.0.1", free_port()), connect_timeout=0.2),
            web_url=f"http://127.0.0.1:{free_port()}",
            store=cast("Store", Redis()),
            sockets=LastOfAll("127.0.0.1", PORT),
        )
        try:
            seen = await source.observe()
        finally:
            await source.close()
        assert seen.peers == {}


NOW = 1_700_000_000.0


def labelled(signal: ConnectionsSignal, found: dict[str, int] | None, at: float = 0) -> dict[str, int] | None:
    verdict = signal.advance(Observation(now=NOW + at, reached=True, peers=found))
    return None if verdict.peers is None else dict(verdict.peers)


class TestTheLabels:
    def test_the_largest_are_told_and_the_rest_in_one(self) -> None:
        found = {f"10.0.0.{number}": number for number in range(1, PEERS + 4)}
        told = labelled(ConnectionsSignal(), found)
        assert told == {f"10.0.0.{number}": number for number in range(4, PEERS + 4)} | {OTHER: 1 + 2 + 3}

    def test_of_equals_the_first_by_name_are_told(self) -> None:
        found = dict.fromkeys((f"10.0.0.{number}" for number in range(50, 10, -1)), 1)
        told = labelled(ConnectionsSignal(), found)
        assert told == dict.fromkeys((f"10.0.0.{number}" for number in range(11, 31)), 1) | {OTHER: 20}

    def test_a_peer_that_is_told_stays_unless_another_is_clearly_larger(self) -> None:
        signal = ConnectionsSignal()
        found = {f"10.0.0.{number}": 9 for number in range(PEERS)}
        labelled(signal, found)
        assert labelled(signal, found | {"10.0.9.9": 12}, 5) == found | {OTHER: 12}
        told = labelled(signal, found | {"10.0.9.9": 15}, 10)
        assert told is not None
        assert (told["10.0.9.9"], told[OTHER]) == (15, 9)

    def test_a_peer_that_has_left_is_told_at_0_for_an_hour(self) -> None:
        signal = ConnectionsSignal()
        labelled(signal, {"10.0.0.1": 3})
        assert labelled(signal, {}, IDLE - 1) == {"10.0.0.1": 0}
        assert labelled(signal, {}, IDLE) == {}

    def test_what_is_not_known_is_not_told_and_forgets_nothing(self) -> None:
        signal = ConnectionsSignal()
        labelled(signal, {"10.0.0.1": 3})
        assert labelled(signal, None, 5) is None
        assert labelled(signal, {}, 10) == {"10.0.0.1": 0}

    @given(st.lists(st.dictionaries(st.ip_addresses().map(str), st.integers(1, 2000), max_size=60), max_size=5))
    def test_the_sum_is_that_of_all_connections_and_the_labels_are_bounded(self, polls: list[dict[str, int]]) -> None:
        signal = ConnectionsSignal()
        for number, found in enumerate(polls):
            told = labelled(signal, found, 5.0 * number)
            assert told is not None
            assert sum(told.values()) == sum(found.values())
            assert len(told) <= PEERS + 1
