"""One connection to Faktory, kept for ever, through everything that can go wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable
from pathlib import Path

import pytest
import trustme

from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.errors import FaktoryError
from exporter.faktory.protocol import Bulk, Error, Reply, Status
from exporter.model import Failure, Reason
from exporter.secret import Secret
from tests.misbehaving import HI, Clock, Handler, client_of, raw, saying, serving
from tests.servers import RealFaktory, WatchedServer, wait_until
from tests.wire import Wire


async def failure_of(doing: Awaitable[object]) -> Failure:
    with pytest.raises(FaktoryError) as caught:
        await doing
    return caught.value.failure


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Servers that behave


async def test_a_server_is_asked_over_one_connection_for_ever(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    for _ in range(5):
        await client.keep()
        assert (await client.info()).startswith(b"{")
    assert client.connects == 1
    assert (await server.health())["server"]["connections"] == 1
    await client.close()


async def test_a_closed_client_has_left_the_server(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    await client.keep()
    await client.close()
    await client.close()

    async def alone() -> bool:
        return bool((await server.health())["server"]["connections"] == 0)

    await wait_until(alone, what="the server counts no connections")
    assert (await failure_of(client.keep())).reason is Reason.UNREACHABLE


async def test_the_client_is_no_worker(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    await client.keep()
    assert b'"Workers":{"reaped":0,"size":0}' in await client.info()
    await client.close()


async def test_the_right_password_opens(unstarted: WatchedServer) -> None:
    await unstarted.start(password="p@ss: wörd/1")
    client = Client(Endpoint.parse(unstarted.url))
    await client.keep()
    await client.close()


@pytest.mark.parametrize("password", [None, Secret("wrong-password")])
async def test_a_wrong_or_missing_password_is_told(unstarted: WatchedServer, password: Secret | None) -> None:
    await unstarted.start(password="right-password")
    client = Client(Endpoint("127.0.0.1", unstarted.port, password))
    failure = await failure_of(client.keep())
    assert failure.reason is Reason.AUTH
    assert "password" in failure.message
    assert "wrong-password" not in failure.message


async def test_a_password_that_is_not_asked_for_does_no_harm(server: WatchedServer) -> None:
    client = Client(Endpoint("127.0.0.1", server.port, Secret("superfluous")))
    await client.keep()
    await client.close()


async def test_registered_workers_are_told_from_those_that_are_gone(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    async with await Wire.connect(server.url, "worker-1"):
        assert await client.registered("worker-1")
        assert not await client.registered("worker-2")
    await wait_until(lambda: _gone(client, "worker-1"), what="the worker is gone")
    await client.close()


async def _gone(client: Client, worker: str) -> bool:
    return not await client.registered(worker)


async def test_a_worker_told_to_be_quiet_is_registered(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    async with await Wire.connect(server.url, "worker-1") as worker:
        assert await worker.beat(current_state="quiet") == b'{"state":"quiet"}'
        assert await client.registered("worker-1")
    await client.close()


async def test_strange_worker_ids_are_asked_for_as_they_are(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    for worker in ['a"b', "a\\b", "wörker", "a b", "ERR unknown worker", "}{", "%s"]:
        assert not await client.registered(worker), worker
        async with await Wire.connect(server.url, worker):
            assert await client.registered(worker), worker
    assert client.connects == 1
    await client.close()


async def test_worker_ids_that_could_forge_a_reply_are_not_asked_for(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    before = (await server.health())["server"]["command_count"]
    for worker in ["", "a\r\n+OK", "a\nb", "a\0b", "a\x85b", "a" * 257, "a\ud800"]:
        assert (await failure_of(client.registered(worker))).reason is Reason.DECODE, worker
    assert (await server.health())["server"]["command_count"] == before
    await client.close()


async def test_the_older_servers_unknown_worker_is_understood() -> None:
    async with serving(saying(b"-ERR Unknown worker w\r\n")) as server:
        client = client_of(server)
        assert not await client.registered("w")
        await client.close()


async def test_another_error_is_no_proof_that_a_worker_is_gone() -> None:
    async with serving(saying(b"-ERR invalid BEAT\r\n")) as server:
        client = client_of(server)
        assert (await failure_of(client.registered("w"))).reason is Reason.SERVER
        await client.close()


async def test_queue_latency_is_told_by_servers_that_know_it(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    async with await Wire.connect(server.url) as producer:
        await producer.push(queue="waiting")
    if server.version < (1, 9, 2):
        failure = await failure_of(client.queue_latency(["waiting"]))
        assert failure.reason is Reason.SERVER
        assert "1.9.2" in failure.message
    else:
        found = await client.queue_latency(["waiting", "empty", "no name", "", "a\r\nFLUSH"])
        assert found.keys() == {"waiting", "empty"}
        assert 0 < found["waiting"] < 60
        assert found["empty"] == 0
    await client.close()


async def test_queue_latency_of_no_queue_asks_nothing() -> None:
    async with serving(saying()) as server:
        assert await client_of(server).queue_latency(["no name"]) == {}
        assert server.accepted == 0


async def test_an_error_of_the_server_leaves_the_connection_as_it_is(server: WatchedServer) -> None:
    client = Client(Endpoint.parse(server.url))
    reply = await client.command("NONSENSE")
    assert isinstance(reply, Error)
    assert (await client.info()).startswith(b"{")
    assert client.connects == 1
    await client.close()


async def test_a_restarted_server_is_found_again(server: WatchedServer) -> None:
    clock = Clock()
    client = Client(Endpoint.parse(server.url), clock=clock)
    await client.keep()
    await server.stop()
    await wait_until(lambda: not client.connected, what="the client notices that the server has left")
    assert (await failure_of(client.keep())).reason is Reason.UNREACHABLE
    await server.start()
    clock.now += 0.6
    await client.keep()
    assert client.connects == 2
    await client.close()


async def test_a_refusal_at_the_limit_is_understood() -> None:
    async with serving(raw(HI + b"+OK\r\n-ERR too many connections: 2001\r\n", "close")) as server:
        client = client_of(server)
        failure = await failure_of(client.keep())
        assert failure.reason is Reason.REFUSED
        assert "2001" in failure.message
        assert (client.refusals, client.connects) == (1, 0)


async def test_a_refusal_that_comes_late_is_understood() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HI)
        await reader.readline()
        writer.write(b"+OK\r\n")
        await released.wait()
        writer.write(b"-ERR too many connections: 2001\r\n")

    released = asyncio.Event()
    async with serving(handle) as server:
        client = client_of(server)
        await client.keep()
        released.set()
        await wait_until(lambda: not client.connected, what="the refusal has come")
        assert (await failure_of(client.keep())).reason is Reason.REFUSED
        assert client.refusals == 1


# Backoff


async def test_while_backing_off_the_last_failure_is_told_at_once_and_nothing_is_tried() -> None:
    clock = Clock()
    async with serving(raw(b"garbage\r\n")) as server:
        client = client_of(server, clock)
        first = await failure_of(client.keep())
        again = await failure_of(client.command("INFO"))
    assert server.accepted == 1
    assert again.reason is first.reason
    assert again.message == f"{first.message} (next try in 0.5 s)"


async def test_breaks_double_up_to_half_a_minute() -> None:
    clock = Clock()
    breaks: list[float] = []
    async with serving(raw(b"garbage\r\n")) as server:
        client = client_of(server, clock)
        for _ in range(9):
            tried = server.accepted
            await failure_of(client.keep())
            assert server.accepted == tried + 1
            breaks.append(float((await failure_of(client.keep())).message.split("next try in ")[1].split()[0]))
            clock.now += breaks[-1] + 0.05
    assert breaks == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("jitter", "shortest", "longest"), [(0.0, 0.39, 0.4), (1.0, 0.59, 0.6)])
async def test_breaks_are_spread_by_a_fifth(jitter: float, shortest: float, longest: float) -> None:
    clock = Clock()
    async with serving(raw(b"garbage\r\n")) as server:
        client = Client(Endpoint("127.0.0.1", server.port), clock=clock, jitter=lambda: jitter)
        await failure_of(client.keep())
        clock.now += shortest
        await failure_of(client.keep())
        assert server.accepted == 1
        clock.now += longest - shortest + 0.001
        await failure_of(client.keep())
        assert server.accepted == 2


async def test_an_answer_ends_the_backing_off() -> None:
    clock = Clock()
    answers = [raw(b"garbage\r\n"), raw(b"garbage\r\n"), saying(b"$2\r\n{}\r\n", then="close"), raw(b"garbage\r\n")]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers.pop(0)(reader, writer)

    async with serving(handle) as server:
        client = client_of(server, clock)
        for _ in range(2):
            await failure_of(client.keep())
            clock.now += 5
        await client.info()
        await wait_until(lambda: not client.connected, what="the server has closed")
        await failure_of(client.keep())
        assert "next try in 0.5 s" in (await failure_of(client.keep())).message


# Servers that misbehave


@pytest.mark.parametrize(
    ("handler", "reason", "told"),
    [
        (raw(b""), Reason.TIMEOUT, "is it a Faktory server"),
        (raw(b"", "close"), Reason.UNREACHABLE, "closed the connection"),
        (raw(b"", "reset"), Reason.UNREACHABLE, "reset"),
        (raw(b"+"), Reason.TIMEOUT, "did not finish the handshake"),
        (raw(b"+H", "close"), Reason.PROTOCOL, "middle of a reply"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Reason.PROTOCOL, "SSH-2.0"),
        (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Reason.PROTOCOL, "web pages"),
        (raw(b"\x15\x03\x01\x00\x02\x02\x46" + b"\n"), Reason.TLS, "tcp+tls://"),
        (raw(b"\x16\x03\x03\x00z'\n"), Reason.TLS, "tcp+tls://"),
        (raw(b"\x16\x03\x03\x00z"), Reason.TLS, "tcp+tls://"),
        (raw(b"$2147483648\r\n"), Reason.PROTOCOL, "2147483648 bytes"),
        (raw(b'+HI {"v":2,"i":99999999,"s":"a"}\r\n'), Reason.PROTOCOL, "rounds of hashing"),
        (raw(b'+HI {"v":2,"i":4000,"s":"a"}\r\n'), Reason.AUTH, "none is configured"),
        (raw(HI + b"-ERR Invalid password\r\n", "close"), Reason.AUTH, "refused the password"),
        (raw(HI + b"-ERR shutdown in progress\r\n", "close"), Reason.SERVER, "shutdown in progress"),
        (raw(HI, "close"), Reason.UNREACHABLE, "closed the connection"),
        (raw(HI + b":1\r\n"), Reason.PROTOCOL, "HELLO"),
        (raw(HI + b"+OK\r\n+OK\r\n"), Reason.PROTOCOL, "handshake"),
        (raw(HI + b"+OK\r\n" * 50), Reason.PROTOCOL, "handshake"),
    ],
)  # fmt: skip
async def test_a_handshake_that_goes_wrong_is_told(handler: Handler, reason: Reason, told: str) -> None:
    async with serving(handler) as server:
        client = client_of(server)
        failure = await failure_of(client.keep())
        assert (failure.reason, told in failure.message) == (reason, True), failure
        assert f"127.0.0.1:{server.port}" in failure.message
        assert not client.connected
        await client.close()


@pytest.mark.parametrize(
    ("handler", "reason", "told"),
    [
        (saying(), Reason.TIMEOUT, "did not answer INFO within 0.3 s"),
        (saying(b"$5\r\nab"), Reason.TIMEOUT, "INFO"),
        (saying(b"$5\r\nab", then="close"), Reason.PROTOCOL, "middle of a reply"),
        (saying(b"$5\r\nab", then="reset"), Reason.UNREACHABLE, "INFO"),
        (saying(b"", then="close"), Reason.UNREACHABLE, "closed the connection"),
        (saying(b"$2147483648\r\n"), Reason.PROTOCOL, "2147483648 bytes"),
        (saying(b"$-7\r\n"), Reason.PROTOCOL, "negative"),
        (saying(b"garbage\r\n"), Reason.PROTOCOL, "garbage"),
        (saying(b"$-1\r\n"), Reason.PROTOCOL, "INFO"),
        (saying(b"-ERR too many connections: 7\r\n", then="close"), Reason.REFUSED, "limit"),
    ],
)  # fmt: skip
async def test_a_reply_that_goes_wrong_is_told_and_the_connection_dropped(
    handler: Handler, reason: Reason, told: str
) -> None:
    async with serving(handler) as server:
        client = client_of(server)
        failure = await failure_of(client.info())
        assert (failure.reason, told in failure.message) == (reason, True), failure
        assert not client.connected
        await client.close()


async def test_a_late_reply_is_never_taken_for_the_next_one() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HI)
        await reader.readline()
        writer.write(b"+OK\r\n")
        if await reader.readline() == b"SLOW\r\n":
            await reader.read()
        writer.write(b"+quick\r\n")
        await reader.read()

    clock = Clock()
    async with serving(handle) as server:
        client = client_of(server, clock)
        assert (await failure_of(client.command("SLOW"))).reason is Reason.TIMEOUT
        clock.now += 1
        assert await client.command("QUICK") == Status("quick")
        assert client.connects == 2
        await client.close()


async def test_a_cancelled_command_leaves_no_connection_out_of_step() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HI)
        await reader.readline()
        writer.write(b"+OK\r\n")
        await reader.readline()
        asked.set()
        await reader.read()

    asked = asyncio.Event()
    async with serving(handle) as server:
        client = client_of(server, command_timeout=60)
        task = asyncio.create_task(client.command("INFO"))
        await asked.wait()
        assert client.connected
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client.connected


async def test_commands_of_several_tasks_are_answered_each_with_its_own() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HI)
        await reader.readline()
        writer.write(b"+OK\r\n")
        while line := await reader.readline():
            writer.write(b"+" + line)

    async with serving(echo) as server:
        client = client_of(server, command_timeout=5)
        replies: list[Reply] = await asyncio.gather(*(client.command(f"C{n}") for n in range(20)))
        assert replies == [Status(f"C{n}") for n in range(20)]
        assert server.accepted == 1
        await client.close()


async def test_closing_waits_no_longer_than_a_second() -> None:
    async with serving(saying()) as server:
        client = client_of(server)
        await client.keep()
        async with asyncio.timeout(1.5):
            await client.close()


async def test_nothing_listening_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = Client(Endpoint("127.0.0.1", unused.getsockname()[1]))
        failure = await failure_of(client.keep())
    assert failure.reason is Reason.UNREACHABLE
    assert "nothing listens" in failure.message


async def test_a_name_that_does_not_resolve_is_told() -> None:
    failure = await failure_of(Client(Endpoint("no-such-host.invalid")).keep())
    assert failure.reason is Reason.UNREACHABLE
    assert "no-such-host.invalid:7419" in failure.message
    assert "resolve" in failure.message


KINDS: list[Handler] = [
    raw(b""),
    raw(b"+"),
    raw(HI + b"+O", "close"),
    raw(b"$2147483648\r\n"),
    raw(HI, "reset"),
    raw(b"\xff\xfe garbage \r\n"),
    raw(HI + b"-ERR Invalid password\r\n", "close"),
    raw(HI + b"+OK\r\n-ERR too many connections: 2001\r\n", "close"),
]


@pytest.mark.timeout(120)
async def test_a_thousand_failing_connects_of_every_kind_leak_nothing() -> None:
    turn = iter(range(10**9))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await KINDS[next(turn) % len(KINDS)](reader, writer)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with serving(handle) as server:
            clock = Clock()
            client = client_of(server, clock, connect_timeout=0.02)
            refused = Client(Endpoint("127.0.0.1", unused.getsockname()[1]), clock=clock)
            encrypted = Client(Endpoint("127.0.0.1", server.port, tls=True), clock=clock, connect_timeout=0.05)
            before, tasks = descriptors(), len(asyncio.all_tasks())
            for _ in range(1000):
                clock.now += 100
                await failure_of(client.keep())
            for _ in range(100):
                clock.now += 100
                await failure_of(refused.keep())
                await failure_of(encrypted.keep())
            await wait_until(lambda: descriptors() <= before, what=f"no more than {before} descriptors are open")
            await wait_until(lambda: len(asyncio.all_tasks()) <= tasks, what="no task is left")
    assert client.refusals > 100


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_tls(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


async def test_tls_is_spoken_where_the_authority_is_trusted(authority: trustme.CA, ca_file: Path) -> None:
    async with serving(saying(b"$2\r\n{}\r\n"), server_tls(authority)) as server:
        client = Client(Endpoint("127.0.0.1", server.port, tls=True, ca_file=ca_file))
        assert await client.command("INFO") == Bulk(b"{}")
        await client.close()


async def test_an_authority_that_is_not_trusted_is_refused(authority: trustme.CA) -> None:
    async with serving(saying(), server_tls(authority)) as server:
        failure = await failure_of(Client(Endpoint("127.0.0.1", server.port, tls=True)).keep())
    assert failure.reason is Reason.TLS
    assert "not trusted" in failure.message


async def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    async with serving(saying(), server_tls(authority, "other.example")) as server:
        failure = await failure_of(Client(Endpoint("127.0.0.1", server.port, tls=True, ca_file=ca_file)).keep())
    assert failure.reason is Reason.TLS
    assert "host name" in failure.message


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_of_authorities_that_cannot_be_used_is_told(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    failure = await failure_of(Client(Endpoint("127.0.0.1", 1, tls=True, ca_file=path)).keep())
    assert failure.reason is Reason.TLS
    assert str(path) in failure.message


async def test_tls_older_than_1_2_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    client = Client(Endpoint("127.0.0.1", 1, tls=True, ca_file=ca_file))
    assert client._tls_settings().minimum_version == ssl.TLSVersion.TLSv1_2


async def test_tls_to_a_plain_server_is_told(server: WatchedServer) -> None:
    failure = await failure_of(Client(Endpoint("127.0.0.1", server.port, tls=True)).keep())
    assert failure.reason is Reason.TLS
    assert "tcp://" in failure.message


async def test_plain_to_a_tls_server_is_told(authority: trustme.CA) -> None:
    async with serving(saying(), server_tls(authority)) as server:
        failure = await failure_of(client_of(server, connect_timeout=1.0).keep())
    assert failure.reason is Reason.TLS
    assert "tcp+tls://" in failure.message


@pytest.mark.real
async def test_a_real_server_speaks_tls(unstarted: WatchedServer, authority: trustme.CA, ca_file: Path) -> None:
    if not isinstance(unstarted, RealFaktory) or unstarted.version < (1, 9):
        pytest.skip("Faktory speaks TLS itself since 1.9")
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(str(unstarted.config_dir / "private.key.pem"))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(unstarted.config_dir / "public.cert.pem"), append=number > 0)
    await _start_with_tls(unstarted)
    client = Client(Endpoint("127.0.0.1", unstarted.port, tls=True, ca_file=ca_file))
    assert (await client.info()).startswith(b"{")
    await client.close()
    plain = await failure_of(Client(Endpoint("127.0.0.1", unstarted.port)).keep())
    assert plain.reason is Reason.TLS


async def _start_with_tls(server: RealFaktory) -> None:
    """Start a server whose ports do not answer in plain text, so that the usual waiting would not see it start."""

    async def answers() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.close()
            return True
        return False

    server._answers = answers  # type: ignore[method-assign]
    await server.start()
