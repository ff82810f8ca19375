"""The web server behind a gate: real TLS, real clients, a real Prometheus, and those who mean harm."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import re
import socket
import ssl
import struct
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import bcrypt
import pytest
import trustme
import uvloop

from exporter.outputs.prometheus import Exposition
from exporter.web import door, passwords
from exporter.web import server as web_server
from exporter.web.address import Address
from exporter.web.gate import Gate
from exporter.web.server import WebServer, start_web
from exporter.web.web_config import CURVES, HEADERS, MAX_COST, MIN_COST, ClientAuth
from tests.programs import need
from tests.prometheus import Prometheus
from tests.servers import wait_until
from tests.snapshots import full

ADA = "$2y$04$6ssKBX3ZEKUmQr1ifKetluWH5QS/cETBuFsKQ4MI8JUdeyMFZpyn6"
"""Of ada42, with the least cost."""

AUTHORITY, STRANGERS = trustme.CA(), trustme.CA()
SERVER = AUTHORITY.issue_cert("localhost", "127.0.0.1")
RENEWED = AUTHORITY.issue_cert("localhost", "127.0.0.1")
RSA = AUTHORITY.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.RSA)
CLIENT = AUTHORITY.issue_cert("prometheus.example.net")
STRANGER = STRANGERS.issue_cert("prometheus.example.net")

TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
VERIFYING = TLS + "  client_ca_file: clients.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
USERS = f"basic_auth_users:\n  ada: {ADA}\n"


def login(name: str, password: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(name, password)}


LOGIN = login("ada", "ada42")

WEB_KEYS = (
    *("cert_file", "cert", "key_file", "key", "client_ca_file", "client_ca", "client_auth_type", "client_allowed_sans"),
    *("min_version", "max_version", "cipher_suites", "prefer_server_cipher_suites", "curve_preferences"),
    *("http2", "headers", "basic_auth_users", "interval", "burst"),
)
GET = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def pair(folder: Path, cert: trustme.LeafCert) -> None:
    write(folder / "server.crt", cert.cert_chain_pems[0].bytes().decode())
    write(folder / "server.key", cert.private_key_pem.bytes().decode())


def client(
    shown: trustme.LeafCert | None = None,
    *,
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
    ciphers: str | None = None,
    curve: str | None = None,
) -> ssl.SSLContext:
    """Return the context of a client that trusts the server, and shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = versions
    if shown is not None:
        shown.configure_cert(context)
    if ciphers is not None:
        context.set_ciphers(ciphers)
    if curve is not None:
        context.set_ecdh_curve(curve)
    return context


class Peer:
    """A blocking client on a socket of its own, for threads."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=30)
        try:
            self.socket = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        except BaseException:
            plain.close()
            raise

    def ask(self, request: bytes = GET) -> bytes:
        """Send a request and return the answer: head and body."""
        self.socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.socket.recv(65536)
            if not part:
                return answer
            answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self.socket.recv(65536)
        return head + b"\r\n\r\n" + body

    def certificate(self) -> bytes:
        assert isinstance(self.socket, ssl.SSLSocket)
        der = self.socket.getpeercert(binary_form=True)
        assert der is not None
        return der

    def close(self) -> None:
        self.socket.close()


async def asked(port: int, context: ssl.SSLContext | None = None, request: bytes = GET) -> bytes:
    """Return the answer to one request on a new connection."""

    def ask() -> bytes:
        peer = Peer(port, context)
        try:
            return peer.ask(request)
        finally:
            peer.close()

    return await asyncio.to_thread(ask)


def der(cert: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(cert.cert_chain_pems[0].bytes().decode())


class Running:
    """A web server behind a gate."""

    def __init__(self, server: WebServer, gate: Gate, path: Path) -> None:
        self.server = server
        self.gate = gate
        self.path = path
        self.reloads = 0
        self.problem: str | None = None

    @property
    def port(self) -> int:
        return self.server.port

    def write(self, text: str) -> None:
        write(self.path, text)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start web servers, each with the text of its web configuration."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "clients.pem")
    made: list[Running] = []
    number = 0

    async def started(text: str, *, reload: bool = False, keep: bool = False, **options: object) -> Running:
        nonlocal number
        number += 1
        path = tmp_path / f"web-{number}.yml"
        write(path, text)
        if not keep:
            pair(tmp_path, SERVER)
        exposition = Exposition("1.2.3")
        exposition.update(full())
        gate = Gate(path, **options)  # type: ignore[arg-type]

        async def reloading() -> str | None:
            running.reloads += 1
            return running.problem

        server = await start_web(
            Address("127.0.0.1", 0),
            exposition,
            lambda: {"faktory": full()},
            gate=gate,
            reload=reloading if reload else None,
        )
        running = Running(server, gate, path)
        made.append(running)
        return running

    yield started
    for each in made:
        await each.server.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(30), connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        yield session


class TestTls:
    async def test_it_is_spoken_in_both_versions(self, start: Start) -> None:
        port = (await start(TLS)).port
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert b"healthy" in await asked(port, client(versions=(version, version)))

    async def test_an_older_version_than_the_least_is_refused_with_the_reason(self, start: Start) -> None:
        port = (await start(TLS + "  min_version: TLS13\n")).port
        with pytest.raises(ssl.SSLError) as caught:
            await asked(port, client(versions=(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)))
        assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"

    async def test_a_newer_version_than_the_greatest_is_not_spoken(self, start: Start) -> None:
        port = (await start(TLS + "  max_version: TLS12\n")).port
        with pytest.raises(ssl.SSLError):
            await asked(port, client(versions=(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)))

    async def test_old_versions_are_spoken_only_where_they_are_named(self, start: Start) -> None:
        old = client(versions=(ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1), ciphers="ALL:@SECLEVEL=0")
        running = await start(TLS)
        with pytest.raises(ssl.SSLError):
            await asked(running.port, old)
        running.write(TLS + "  min_version: TLS10\n")
        assert b"healthy" in await asked(running.port, old)
        assert b"healthy" in await asked(running.port, client())

    @pytest.mark.parametrize(
        ("prefer", "taken"),
        [("true", "ECDHE-ECDSA-AES256-GCM-SHA384"), ("false", "ECDHE-ECDSA-AES128-GCM-SHA256")],
    )
    async def test_the_suite_is_chosen_by_the_side_that_the_file_says(
        self, start: Start, prefer: str, taken: str
    ) -> None:
        suites = "[TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]"
        running = await start(
            TLS + f"  max_version: TLS12\n  cipher_suites: {suites}\n  prefer_server_cipher_suites: {prefer}\n"
        )
        other_way = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
        peer = await asyncio.to_thread(Peer, running.port, client(ciphers=other_way))
        assert isinstance(peer.socket, ssl.SSLSocket)
        assert (peer.socket.cipher() or ("",))[0] == taken
        peer.close()

    async def test_without_a_common_suite_the_handshake_fails(self, start: Start) -> None:
        suites = "[TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]"
        running = await start(TLS + f"  max_version: TLS12\n  cipher_suites: {suites}\n")
        with pytest.raises(ssl.SSLError) as caught:
            await asked(running.port, client(ciphers="ECDHE-ECDSA-CHACHA20-POLY1305"))
        assert caught.value.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_only_the_curve_of_the_file_is_taken(self, start: Start, version: ssl.TLSVersion) -> None:
        running = await start(TLS + "  curve_preferences: [CurveP384]\n")
        pair(running.path.parent, RSA)  # the other kind has a curve of its own, which a client must know in TLS 1.2
        assert b"healthy" in await asked(running.port, client(curve="secp384r1", versions=(version, version)))
        with pytest.raises(ssl.SSLError):
            await asked(running.port, client(curve="prime256v1", versions=(version, version)))

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize("curve", ["X25519", "CurveP521"])
    async def test_a_curve_is_no_matter_of_the_kinds_of_certificates(
        self, start: Start, version: ssl.TLSVersion, curve: str
    ) -> None:
        """But for one of TLS 1.2: a client's certificate with a curve of its own must have the curve of the file."""
        running = await start(VERIFYING + f"  curve_preferences: [{curve}]\n")
        shown = CLIENT if version is ssl.TLSVersion.TLSv1_3 else RSA
        assert b"healthy" in await asked(running.port, client(shown, versions=(version, version)))

    async def test_plain_http_is_told_that_tls_is_spoken_here(self, start: Start) -> None:
        answer = await asked((await start(TLS)).port)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nTLS is spoken here: begin it with https://\n")

    async def test_tls_on_the_plain_port_gets_an_answer_that_clients_understand(self, start: Start) -> None:
        """To Go's client, whose TLS meets "HTTP/", it is: server gave HTTP response to HTTPS client."""
        running = await start("")
        with pytest.raises(ssl.SSLError):
            await asked(running.port, client())
        hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
        assert (await asked(running.port, None, hello)).startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))

    async def test_noise_ends_the_connection_and_nothing_else(self, start: Start) -> None:
        running = await start(TLS)
        for noise in (b"\x16\x03\x01\x01\x00" + b"\xff" * 256, b"\x80\x2e\x01\x00\x02", b"\0" * 100):
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in await asked(running.port, None, noise)
        assert b"healthy" in await asked(running.port, client())

    async def test_a_handshake_that_never_ends_is_cut(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 0.2)
        running = await start(TLS)
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01"):
            peer = await asyncio.to_thread(Peer, running.port)
            peer.socket.sendall(begun)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.to_thread(peer.socket.recv, 10) == b""
            peer.close()

    async def test_handshakes_that_do_not_go_on_take_no_more_than_the_room_there_is(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 3)
        running = await start(TLS)
        silent = [await asyncio.to_thread(Peer, running.port) for _ in range(3)]

        async def entering() -> bool:
            return len(running.server._door._entering) == 3  # type: ignore[union-attr]

        await wait_until(entering, 20)
        with pytest.raises(OSError):  # noqa: PT011 - reset or ended, as the two sides meet
            await asked(running.port, client())
        for peer in silent:
            peer.close()

        async def served() -> bool:
            with contextlib.suppress(OSError):
                return b"healthy" in await asked(running.port, client())
            return False

        await wait_until(served, 20)

    async def test_a_server_that_closes_does_not_wait_for_handshakes(self, start: Start) -> None:
        running = await start(TLS)
        peer = await asyncio.to_thread(Peer, running.port)
        await asyncio.wait_for(running.server.close(), 20)
        peer.close()

    def test_it_is_the_same_under_uvloop(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pair(tmp_path, SERVER)
        AUTHORITY.cert_pem.write_to_path(tmp_path / "clients.pem")

        async def main() -> None:
            write(tmp_path / "web.yml", "")
            gate = Gate(tmp_path / "web.yml")
            server = await start_web(Address("127.0.0.1", 0), Exposition("0"), dict, gate=gate)
            try:
                assert b"healthy" in await asked(server.port)
                with monkeypatch.context() as patched:
                    patched.setattr(web_server, "MAX_CONNECTIONS", 0)
                    assert b" 503 " in await asked(server.port)
                write(tmp_path / "web.yml", VERIFYING + "  client_allowed_sans: [prometheus.example.net]\n")
                assert b"healthy" in await asked(server.port, client(CLIENT))
                assert await asked(server.port, client(AUTHORITY.issue_cert("other.example.net"))) == b""
                with pytest.raises(ssl.SSLError) as caught:
                    await asked(server.port, client())
                assert caught.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
                assert b"TLS is spoken here" in await asked(server.port)
            finally:
                await server.close()

        uvloop.run(main())


class TestClientCertificates:
    async def test_one_by_the_authority_of_the_file_is_let_in(self, start: Start) -> None:
        assert b"healthy" in await asked((await start(VERIFYING)).port, client(CLIENT))

    @pytest.mark.parametrize(
        ("version", "reasons"),
        [
            (ssl.TLSVersion.TLSv1_2, ("SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_UNKNOWN_CA")),
            (ssl.TLSVersion.TLSv1_3, ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_UNKNOWN_CA")),
        ],
    )
    async def test_none_and_one_of_another_authority_are_refused_with_the_reason(
        self, start: Start, version: ssl.TLSVersion, reasons: tuple[str, str]
    ) -> None:
        running = await start(VERIFYING)
        for shown, reason in zip((None, STRANGER), reasons, strict=True):
            with pytest.raises(ssl.SSLError) as caught:
                await asked(running.port, client(shown, versions=(version, version)))
            assert caught.value.reason == reason

    async def test_where_it_is_verified_only_if_given_none_is_well_and_a_wrong_one_is_not(self, start: Start) -> None:
        running = await start(TLS + "  client_ca_file: clients.pem\n  client_auth_type: VerifyClientCertIfGiven\n")
        assert b"healthy" in await asked(running.port, client())
        assert b"healthy" in await asked(running.port, client(CLIENT))
        with pytest.raises(ssl.SSLError):
            await asked(running.port, client(STRANGER))

    @pytest.mark.parametrize("kind", ["NoClientCert", "RequestClientCert"])
    async def test_where_none_is_verified_everybody_is_let_in(self, start: Start, kind: str) -> None:
        running = await start(TLS + f"  client_auth_type: {kind}\n")
        for shown in (None, CLIENT, STRANGER):
            assert b"healthy" in await asked(running.port, client(shown))

    @pytest.mark.parametrize(
        "name",
        ["prometheus.example.net", "192.0.2.7", "2001:db8::7", "ops@example.net"],
        ids=["host", "IPv4", "IPv6", "person"],
    )
    async def test_a_certificate_with_a_name_of_the_file_is_let_in(self, start: Start, name: str) -> None:
        running = await start(VERIFYING + f'  client_allowed_sans: [other.example.net, "{name}"]\n')
        assert b"healthy" in await asked(running.port, client(AUTHORITY.issue_cert(name, "more.example.net")))

    @pytest.mark.parametrize("name", ["sub.prometheus.example.net", "prometheus.example.net.evil.net", "192.0.2.7"])
    async def test_a_certificate_without_one_is_cut_off_and_told_in_the_log(
        self, start: Start, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        running = await start(VERIFYING + "  client_allowed_sans: [prometheus.example.net]\n")
        for _ in range(3):
            assert await asked(running.port, client(AUTHORITY.issue_cert(name))) == b""
        told = [(record.message, getattr(record, "fields", None)) for record in caplog.records]
        assert told == [("a connection is not let in", {"reason": "its certificate has none of client_allowed_sans"})]

    async def test_a_name_in_the_subject_alone_does_not_count(self, start: Start) -> None:
        running = await start(VERIFYING + "  client_allowed_sans: [prometheus.example.net]\n")
        shown = AUTHORITY.issue_cert("other.example.net", common_name="prometheus.example.net")
        assert await asked(running.port, client(shown)) == b""

    async def test_an_intermediate_authority_may_stand_alone_in_the_file(self, start: Start, tmp_path: Path) -> None:
        department = AUTHORITY.create_child_ca()
        running = await start("")
        department.cert_pem.write_to_path(tmp_path / "clients.pem")
        running.write(VERIFYING)
        assert b"healthy" in await asked(running.port, client(department.issue_cert("a.example.net")))
        with pytest.raises(ssl.SSLError):
            await asked(running.port, client(CLIENT))

    async def test_certificate_and_password_are_both_needed_where_both_are_set(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start(VERIFYING + USERS)
        url = f"https://localhost:{running.port}/-/healthy"
        async with session.get(url, ssl=client(CLIENT)) as response:
            assert response.status == 401
        async with session.get(url, ssl=client(CLIENT), headers=LOGIN) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await session.get(url, ssl=client(), headers=LOGIN)


class TestRenewal:
    async def test_a_renewed_certificate_is_shown_by_the_next_handshake_and_no_connection_is_cut(
        self, start: Start, tmp_path: Path
    ) -> None:
        running = await start(TLS)
        old = await asyncio.to_thread(Peer, running.port, client())
        assert old.certificate() == der(SERVER)
        assert b"healthy" in await asyncio.to_thread(old.ask)
        pair(tmp_path, RENEWED)
        new = await asyncio.to_thread(Peer, running.port, client())
        assert new.certificate() == der(RENEWED)
        assert b"healthy" in await asyncio.to_thread(new.ask)
        assert b"healthy" in await asyncio.to_thread(old.ask)
        assert old.certificate() == der(SERVER)
        old.close()
        new.close()

    async def test_while_only_half_of_a_pair_is_renewed_the_old_one_is_shown(
        self, start: Start, tmp_path: Path
    ) -> None:
        running = await start(TLS)
        write(tmp_path / "server.key", RENEWED.private_key_pem.bytes().decode())
        assert await certificate(running.port) == der(SERVER)
        assert running.gate.problem is not None
        write(tmp_path / "server.crt", RENEWED.cert_chain_pems[0].bytes().decode())
        assert await certificate(running.port) == der(RENEWED)
        assert running.gate.problem is None

    async def test_another_kind_of_key_is_no_matter(self, start: Start, tmp_path: Path) -> None:
        running = await start(TLS)
        pair(tmp_path, RSA)
        assert await certificate(running.port) == der(RSA)

    async def test_tls_may_be_turned_on_while_it_runs_and_what_is_plain_ends(self, start: Start) -> None:
        running = await start("")
        plain = await asyncio.to_thread(Peer, running.port)
        assert b"200 OK" in await asyncio.to_thread(plain.ask)
        running.write(TLS)
        answer = await asyncio.to_thread(plain.ask)
        assert b" 403 Forbidden" in answer
        assert b"Connection: close" in answer
        assert b"it is not by TLS" in answer
        assert b"healthy" in await asked(running.port, client())
        plain.close()

    async def test_certificates_may_be_asked_for_while_it_runs_and_who_has_none_ends(self, start: Start) -> None:
        running = await start(TLS)
        old = await asyncio.to_thread(Peer, running.port, client())
        running.write(VERIFYING)
        assert b" 403 Forbidden" in await asyncio.to_thread(old.ask)
        old.close()

    async def test_a_session_from_before_is_not_a_way_in_after(self, start: Start) -> None:
        running = await start(TLS)
        context = client(versions=(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2))

        def again(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
            with (
                socket.create_connection(("127.0.0.1", running.port), timeout=30) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as wrapped,
            ):
                wrapped.sendall(GET)
                assert wrapped.recv(100)
                return wrapped.session

        session = await asyncio.to_thread(again, None)
        running.write(VERIFYING)
        with pytest.raises(OSError):  # noqa: PT011 - an alert, which may be lost
            await asyncio.to_thread(again, session)

    async def test_many_renewals_under_load_refuse_nobody(self, start: Start, tmp_path: Path) -> None:
        running = await start(TLS)
        done = threading.Event()

        def renew() -> None:
            while not done.is_set():
                for cert in (SERVER, RENEWED):
                    pair(tmp_path, cert)
                    time.sleep(0.001)

        renewing = asyncio.create_task(asyncio.to_thread(renew))
        try:
            context = client()
            answers = [await asked(running.port, context) for _ in range(50)]
        finally:
            done.set()
            await renewing
        assert all(answer.endswith(b"healthy: the sidecar runs\n") for answer in answers)


async def certificate(port: int) -> bytes:
    """Return the certificate that a new connection is shown."""
    peer = await asyncio.to_thread(Peer, port, client())
    try:
        return peer.certificate()
    finally:
        peer.close()


class TestPasswords:
    @pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/ready", "/api/v1/incidents", "/", "/nothing"])
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
    async def test_nothing_is_told_without_one_by_any_path_or_method(
        self, start: Start, session: aiohttp.ClientSession, method: str, path: str
    ) -> None:
        running = await start(USERS)
        async with session.request(method, f"http://127.0.0.1:{running.port}{path}") as response:
            body = await response.text()
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Basic realm="Forewarn", charset="UTF-8"'
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert body == ("" if method == "HEAD" else "say who you are: a user and password are needed\n")

    async def test_with_the_right_one_all_is_as_without_a_gate(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start(USERS)
        url = f"http://127.0.0.1:{running.port}"
        for method, path, expected in (("GET", "/metrics", 200), ("HEAD", "/metrics", 200), ("GET", "/nothing", 404)):
            async with session.request(method, url + path, headers=LOGIN) as response:
                assert response.status == expected

    async def test_an_answer_repeats_nothing_of_what_was_sent(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start(USERS)
        auth = login("<script>eve", "opensesame")
        async with session.get(f"http://127.0.0.1:{running.port}/opensesame", headers=auth) as response:
            told = str(response.headers) + await response.text()
        assert response.status == 401
        assert "opensesame" not in told
        assert "script" not in told

    async def test_who_was_let_in_is_served_while_a_hundred_guesses_are_checked(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        go_on = threading.Event()
        go_on.set()

        def check(password: bytes, _hashed: bytes) -> bool:
            assert go_on.wait(60)
            return password == b"ada42"

        running = await start(USERS, check=check)
        url = f"http://127.0.0.1:{running.port}/metrics"

        async def guess(number: int) -> int:
            async with session.get(url, headers=login("ada", f"guess {number}")) as response:
                return response.status

        async with session.get(url, headers=LOGIN) as response:
            assert response.status == 200
        go_on.clear()
        try:
            guesses = [asyncio.create_task(guess(number)) for number in range(100)]

            async def refused() -> bool:
                return sum(task.done() for task in guesses) == 100 - passwords.MAX_FROM_ONE

            await wait_until(refused, 60)
            assert running.gate.waiting == passwords.MAX_FROM_ONE
            async with session.get(url, headers=LOGIN) as response:
                assert response.status == 200
                assert b"faktory_up" in await response.read()
            assert running.gate.waiting == passwords.MAX_FROM_ONE
        finally:
            go_on.set()
        statuses = await asyncio.gather(*guesses)
        assert (statuses.count(401), statuses.count(503)) == (passwords.MAX_FROM_ONE, 100 - passwords.MAX_FROM_ONE)

    async def test_real_hashes_are_checked_beside_scrapes(self, start: Start, session: aiohttp.ClientSession) -> None:
        running = await start(USERS)
        url = f"http://127.0.0.1:{running.port}/metrics"

        async def ask(password: str) -> int:
            async with session.get(url, headers=login("ada", password)) as response:
                await response.read()
                return response.status

        assert await ask("ada42") == 200
        wrong = [ask(f"guess {number}") for number in range(100)]
        right = [ask("ada42") for _ in range(20)]
        statuses = await asyncio.gather(*wrong, *right)
        assert set(statuses[:100]) <= {401, 503}
        assert statuses[100:] == [200] * 20

    async def test_a_rate_limit_holds_for_everybody_together(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start("rate_limit: {interval: 1h, burst: 3}")
        statuses = []
        for path in ("/metrics", "/-/healthy", "/nothing", "/-/healthy"):
            async with session.get(f"http://127.0.0.1:{running.port}{path}") as response:
                statuses.append(response.status)
        assert statuses == [200, 200, 404, 429]
        assert response.headers["Retry-After"] == "3600"


class TestHeaders:
    async def test_those_of_the_file_are_on_every_answer_and_go_before_our_own(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start(
            USERS + "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n"
            "    X-Frame-Options: deny\n    Content-Security-Policy: default-src 'self'\n"
        )
        for path, auth in (("/metrics", LOGIN), ("/metrics", None), ("/nothing", LOGIN)):
            async with session.get(f"http://127.0.0.1:{running.port}{path}", headers=auth) as response:
                given = response.headers
            assert given["Strict-Transport-Security"] == "max-age=60"
            assert given["X-Frame-Options"] == "deny"
            assert given.getall("Content-Security-Policy") == ["default-src 'self'"]
            assert given["X-Content-Type-Options"] == "nosniff"
        answer = await asked(running.port, None, b"NO REQUEST\r\n\r\n")
        assert b"Strict-Transport-Security: max-age=60\r\n" in answer

    async def test_browsers_are_not_bound_to_https_unless_the_file_says_so(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start(TLS)
        async with session.get(f"https://localhost:{running.port}/metrics", ssl=client()) as response:
            assert "Strict-Transport-Security" not in response.headers

    async def test_a_change_of_them_is_seen_by_the_next_answer(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start("")
        running.write("http_server_config: {headers: {X-XSS-Protection: 0}}")
        async with session.get(f"http://127.0.0.1:{running.port}/metrics") as response:
            assert response.headers["X-XSS-Protection"] == "0"


class TestReload:
    async def post(
        self, running: Running, session: aiohttp.ClientSession, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        url = f"http://127.0.0.1:{running.port}/-/reload"
        async with session.post(url, headers=headers) as response:
            return response.status, await response.text()

    async def test_who_has_said_who_they_are_may_ask_for_it(self, start: Start, session: aiohttp.ClientSession) -> None:
        running = await start(USERS, reload=True)
        assert await self.post(running, session, headers=LOGIN) == (200, "reloaded\n")
        assert running.reloads == 1

    async def test_what_is_wrong_with_the_configuration_is_told(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start(USERS, reload=True)
        running.problem = "forewarn.toml: there is no such key"
        assert await self.post(running, session, headers=LOGIN) == (
            500,
            "not reloaded, what was in use stays: forewarn.toml: there is no such key\n",
        )

    async def test_nobody_may_where_anybody_could(self, start: Start, session: aiohttp.ClientSession) -> None:
        for text in ("", "rate_limit: {interval: 1ms, burst: 100}"):
            running = await start(text, reload=True)
            status, told = await self.post(running, session)
            assert (status, running.reloads) == (403, 0)
            assert "set basic_auth_users, or client_auth_type: RequireAndVerifyClientCert" in told

    async def test_nobody_may_without_a_web_configuration(self, session: aiohttp.ClientSession) -> None:
        async def reload() -> str | None:
            raise AssertionError("it was asked for")

        server = await start_web(Address("127.0.0.1", 0), Exposition("0"), dict, reload=reload)
        try:
            async with session.post(f"http://127.0.0.1:{server.port}/-/reload") as response:
                assert response.status == 403
                assert "--web.config.file" in await response.text()
        finally:
            await server.close()

    async def test_a_verified_certificate_says_who_one_is(self, start: Start, session: aiohttp.ClientSession) -> None:
        running = await start(VERIFYING, reload=True)
        url = f"https://localhost:{running.port}/-/reload"
        async with session.post(url, ssl=client(CLIENT)) as response:
            assert (response.status, running.reloads) == (200, 1)

    async def test_a_certificate_that_need_not_be_shown_does_not(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        running = await start(
            TLS + "  client_ca_file: clients.pem\n  client_auth_type: VerifyClientCertIfGiven\n", reload=True
        )
        async with session.post(f"https://localhost:{running.port}/-/reload", ssl=client(CLIENT)) as response:
            assert (response.status, running.reloads) == (403, 0)

    async def test_a_wrong_password_is_none(self, start: Start, session: aiohttp.ClientSession) -> None:
        running = await start(USERS, reload=True)
        assert (await self.post(running, session, headers=login("ada", "guess")))[0] == 401
        assert running.reloads == 0

    async def test_where_it_is_off_it_is_told_how_to_turn_it_on(
        self, start: Start, session: aiohttp.ClientSession
    ) -> None:
        status, told = await self.post(await start(USERS), session, headers=LOGIN)
        assert status == 403
        assert "--web.enable-lifecycle" in told

    async def test_it_is_not_for_links(self, start: Start, session: aiohttp.ClientSession) -> None:
        running = await start(USERS, reload=True)
        async with session.get(f"http://127.0.0.1:{running.port}/-/reload", headers=LOGIN) as response:
            assert (response.status, response.headers["Allow"], running.reloads) == (405, "POST", 0)

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": ""},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    async def test_a_page_of_another_site_may_not_ask_for_it(
        self, start: Start, session: aiohttp.ClientSession, headers: dict[str, str]
    ) -> None:
        running = await start(USERS, reload=True)
        status, told = await self.post(running, session, headers | LOGIN)
        assert (status, told, running.reloads) == (403, "not reloaded: another site has asked for it\n", 0)

    async def test_a_page_of_its_own_may(self, start: Start, session: aiohttp.ClientSession) -> None:
        running = await start(USERS, reload=True)
        headers = {"Origin": f"http://127.0.0.1:{running.port}", "Sec-Fetch-Site": "same-origin"}
        assert (await self.post(running, session, headers | LOGIN))[0] == 200


class TestHostile:
    @pytest.mark.parametrize(
        "request_text",
        [
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde",
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET / HTTP/1.1\r\n folded: x\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "opensesame / HTTP/1.1\nX: 1\n\n",
            "GET / HTTP/1.1\r\n" + "".join(f"X-{n}: y\r\n" for n in range(5000)) + "\r\n",
            "GET /" + "a" * 20_000 + " HTTP/1.1\r\n\r\n",
        ],
        ids=lambda text: text[:60],
    )
    async def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(
        self, start: Start, request_text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        running = await start(USERS)
        caplog.clear()
        answer = await asked(running.port, None, request_text.encode() + GET)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert b"Connection: close" in answer or answer.startswith(b"HTTP/1.0")
        assert answer.count(b"HTTP/1.") == 1
        assert answer.endswith(b"\r\n\r\nthis is no request that is understood here\n")
        assert b"X-Content-Type-Options: nosniff" in answer
        assert b"Server: forewarn\r\n" in answer
        assert caplog.records == []

    async def test_a_body_is_not_read_for_who_may_not_come_in(self, start: Start) -> None:
        running = await start(USERS)
        request = b"POST /-/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        assert b" 401 Unauthorized" in await asked(running.port, None, request)

    async def test_what_fails_is_told_in_the_log_alone(
        self, start: Start, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        running = await start("")

        def fail() -> dict[str, None]:
            raise RuntimeError("opensesame")

        running.server._ready = fail
        async with session.get(f"http://127.0.0.1:{running.port}/-/ready") as response:
            body = await response.text()
        assert (response.status, body) == (500, "this request failed, see the log\n")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert [record.message for record in caplog.records] == ["a request could not be served"]

    async def test_connections_that_are_reset_leave_nothing_behind(self, start: Start) -> None:
        running = await start(TLS)

        def reset(begun: bytes) -> None:
            plain = socket.create_connection(("127.0.0.1", running.port), timeout=30)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            plain.sendall(begun)
            plain.close()

        for begun in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n") * 10:
            await asyncio.to_thread(reset, begun)

        async def gone() -> bool:
            return not running.server._door._entering  # type: ignore[union-attr]

        await wait_until(gone, 20)
        gc.collect()
        assert b"healthy" in await asked(running.port, client())


class TestPrograms:
    async def run(self, *command: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, out.decode(errors="replace")

    async def test_curl_is_let_in_and_told_why_not(self, start: Start, tmp_path: Path) -> None:
        need("curl", "curl")
        running = await start(VERIFYING + USERS)
        CLIENT.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        curl = ["curl", "-sS", "-m", "30", "--noproxy", "*", "--cacert", str(tmp_path / "clients.pem")]
        certified = [*curl, "--cert", str(tmp_path / "client.pem")]
        url = f"https://localhost:{running.port}/-/healthy"
        assert await self.run(*certified, "-u", "ada:ada42", url) == (0, "healthy: the sidecar runs\n")
        assert (await self.run(*certified, url))[1] == "say who you are: a user and password are needed\n"
        status, told = await self.run(*curl, url)
        assert status != 0
        assert "certificate required" in told

    async def test_prometheus_scrapes_by_tls_with_a_certificate_and_a_password_while_the_certificate_is_renewed(
        self, start: Start, tmp_path: Path
    ) -> None:
        running = await start(VERIFYING + USERS)
        certificates(tmp_path)
        async with Jobs({"forewarn": job(running, tls_config=shown(tmp_path, "client"), basic_auth=LOGGED_IN)}) as it:
            await it.settled(60)
            assert [series.value for series in await it.query("faktory_up")] == [1]
            pair(tmp_path, RENEWED)
            assert await certificate(running.port) == der(RENEWED)
            before = time.time()

            async def scraped_since() -> bool:
                found = await it.query("timestamp(up) * up")
                return bool(found) and found[0].value > before

            await wait_until(scraped_since, 60)
            await it.settled(60)

    async def test_what_prometheus_tells_stands_in_the_documentation(self, start: Start, tmp_path: Path) -> None:
        certificates(tmp_path)
        tls, verifying = await start(TLS), await start(VERIFYING)
        jobs = {
            "no password": job(await start(USERS)),
            "TLS to HTTP": job(await start(""), tls_config=shown(tmp_path)),
            "HTTP to TLS": job(tls),
            "no certificate": job(verifying, tls_config=shown(tmp_path)),
            "certificate of a stranger": job(verifying, tls_config=shown(tmp_path, "stranger")),
            "certificate of another name": job(
                await start(VERIFYING + "  client_allowed_sans: [other.example.net]\n"),
                tls_config=shown(tmp_path, "client"),
            ),
            "another authority": job(tls, tls_config={"ca_file": str(tmp_path / "stranger.crt")}),
            "rate limit": job(await start("rate_limit: {interval: 1h, burst: 0}")),
        }
        documented = re.findall(r"^\| `(.+?)` \|", DOCUMENTATION.partition("## Prometheus's side")[2], re.MULTILINE)
        others = dict.fromkeys(jobs, "nothing yet")
        async with Jobs(jobs) as prometheus:

            async def all_documented() -> bool:
                # On a machine that has much to do a scrape may also take too long now and then.
                for target in (await prometheus.api("targets"))["activeTargets"]:
                    error = target["lastError"].split('metrics": ')[-1]
                    name = target["labels"]["job"]
                    if error.removeprefix("http: ") in documented:
                        others.pop(name, None)
                    elif name in others:
                        others[name] = error
                return not others

            try:
                await wait_until(all_documented, 60)
            except AssertionError as failed:
                failed.add_note(f"not documented: {others}")
                raise


LOGGED_IN = {"username": "ada", "password": "ada42"}


def certificates(folder: Path) -> None:
    """Write the certificates of clients."""
    for name, cert in (("client", CLIENT), ("stranger", STRANGER)):
        cert.private_key_pem.write_to_path(folder / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")


def shown(folder: Path, name: str | None = None) -> dict[str, str]:
    """Return Prometheus's settings for TLS: which authority it trusts, and the certificate that it shows."""
    trusted = {"ca_file": str(folder / "clients.pem")}
    if name is None:
        return trusted
    return trusted | {"cert_file": str(folder / f"{name}.crt"), "key_file": str(folder / f"{name}.key")}


def job(running: Running, **how: object) -> dict[str, object]:
    """Return a job that scrapes a server."""
    scheme = "https" if "tls_config" in how else "http"
    return {"static_configs": [{"targets": [f"localhost:{running.port}"]}], "scheme": scheme, **how}


class Jobs(Prometheus):
    """A Prometheus with jobs of its own, by their names."""

    def __init__(self, jobs: dict[str, dict[str, object]]) -> None:
        super().__init__(*jobs)
        path = self.folder / "prometheus.yml"
        configuration = json.loads(path.read_text())
        configuration["scrape_configs"] = [{"job_name": name, **each} for name, each in jobs.items()]
        path.write_text(json.dumps(configuration))


DOCUMENTATION = (Path(__file__).parents[1] / "docs" / "web-security.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENTATION, re.MULTILINE | re.DOTALL)


class TestDocumentation:
    async def run(self, command: str, folder: Path, answer: str = "") -> str:
        process = await asyncio.create_subprocess_shell(
            command,
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # without a terminal, which would be asked
        )
        out, error = await asyncio.wait_for(process.communicate(answer.encode()), 60)
        assert process.returncode == 0, error.decode()
        return out.decode()

    async def test_its_commands_make_a_server_that_lets_one_in(self, start: Start, tmp_path: Path) -> None:
        need("curl", "curl")
        make_pair, make_hash, ask, reload = (
            next(block for block in blocks("sh") if words in block)
            for words in ("openssl req", "bcrypt.hashpw", "/-/healthy", "/-/reload")
        )
        await self.run(make_pair, tmp_path)
        hashed = (
            await self.run(make_hash.replace(".venv/bin/python", sys.executable), tmp_path, "opensesame\n")
        ).strip()
        assert bcrypt.checkpw(b"opensesame", hashed.encode())
        web = next(block for block in blocks("yaml") if "basic_auth_users:" in block)
        for text in (web, re.sub(r"\$2b\S+", hashed.replace("\\", ""), web)):
            running = await start(text, reload=True, keep=True)
            for command, answer in ((ask, "healthy: the sidecar runs\n"), (reload, "reloaded\n")):
                asked_for = command.replace("9386", str(running.port)).replace(
                    "-u prometheus", "-u prometheus:opensesame"
                )
                assert await self.run(asked_for.replace("curl", "curl -sS --noproxy '*'"), tmp_path) == answer

    def test_its_header_of_a_probe_holds_what_it_says(self) -> None:
        encoded, said = re.findall(r"value: Basic (\S+) +# (\S+);", DOCUMENTATION)[0]
        assert base64.b64decode(encoded).decode() == said

    def test_every_key_and_every_bound_stands_in_it(self) -> None:
        assert set(HEADERS) <= set(re.findall(r"`([\w-]+)`", DOCUMENTATION))
        for curve in CURVES:
            assert f"`{curve}`" in DOCUMENTATION
        for kind in ClientAuth:
            assert f"| `{kind.value}` |" in DOCUMENTATION
        for key in WEB_KEYS:
            assert re.search(rf"`[\w.]*\b{key}`", DOCUMENTATION), key
        assert (
            f"{passwords.MAX_WAITING} passwords may wait for their check, {passwords.MAX_FROM_ONE} of" in DOCUMENTATION
        )
        assert f"The cost may be {MIN_COST} to {MAX_COST}" in DOCUMENTATION
        assert f"{web_server.MAX_CONNECTIONS} connections" in DOCUMENTATION
        assert f"{web_server.MAX_SCRAPES} scrapes" in DOCUMENTATION
        assert f"{door.HANDSHAKE_SECONDS:.0f} s for a handshake" in DOCUMENTATION
