"""Sending to a collector, whatever it does, and what waits for it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
import uvloop
from hypothesis import given, settings, strategies
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess

from exporter.model import (
    CrashReason,
    Execution,
    Failure,
    Frame,
    Incident,
    IncidentKind,
    JobFacts,
    Orphaned,
    Outcome,
    Reason,
    Reservation,
    Restart,
    Told,
    WorkerCrash,
)
from exporter.outputs import traces
from exporter.outputs.otlp import MAX_ANSWER, MAX_RETRY_AFTER, OtlpSender, retry_after
from exporter.outputs.otlp_delivery import Delivery, Fate, OtlpCounts
from exporter.outputs.trace_output import MAX_DOUBTS, MAX_WAITING, Item, Outbox, Pace, Rank, TraceOutput, rank_of
from exporter.secret import Secret
from exporter.settings import OtlpTarget
from tests import receiver as misbehaviour
from tests.misbehaving import Clock
from tests.receiver import Answer, Receiver, Reply, receiving
from tests.servers import free_port, wait_until

TOKEN = "hunter2-correct-horse"
DEADLINE = 0.5
PATIENT = 20.0
BUSY = 3.0
"""Most seconds for which the event loop may be held: what a busy machine may do, and no defect that is looked for."""

TRACED = traces.Traced(name="faktory", system="faktory", address="127.0.0.1", port=7419)
FAST = Pace(gather=0.01, shortest=0.02, longest=0.05)


on_both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
"""Forewarn runs on either, and their sockets end differently."""

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(autouse=True)
def secrets_stay_secret(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens in a test: no log of anyone shows the token."""
    caplog.set_level(logging.DEBUG)
    yield
    assert TOKEN not in caplog.text


@asynccontextmanager
async def never_held() -> AsyncIterator[None]:
    """The event loop is never held meanwhile."""
    gaps = [0.0]

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            gaps.append(loop.time() - before - 0.01)

    task = asyncio.create_task(tick())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert max(gaps) < BUSY, "the event loop was held"


@pytest.fixture
async def ticker() -> AsyncIterator[None]:
    """The event loop is never held while the test runs."""
    async with never_held():
        yield


@pytest.fixture
async def collector() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_tls(authority: trustme.CA, *, client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


def target_of(url: str, **options: Any) -> OtlpTarget:
    defaults: dict[str, Any] = {"headers": {"Authorization": Secret(f"Bearer {TOKEN}")}, "timeout": PATIENT}
    return OtlpTarget(url=url, **defaults | options)


@asynccontextmanager
async def sending(collector: Receiver | str, **options: Any) -> AsyncIterator[OtlpSender]:
    """A sender of traces to ``collector``."""
    url = collector if isinstance(collector, str) else f"{collector.endpoint}/v1/traces"
    sender = OtlpSender(target_of(url, **options))
    try:
        yield sender
    finally:
        await sender.close()


def failure_of(delivery: Delivery) -> tuple[Fate, Reason]:
    """How a request failed, its text checked: it says where, and never a secret."""
    assert delivery.failure is not None
    assert "127.0.0.1" in delivery.failure.message
    assert TOKEN not in repr(delivery)
    assert delivery.failure.message.isprintable()
    assert len(delivery.failure.message) < 600
    return delivery.fate, delivery.failure.reason


def reservation(number: int = 1, *, at: float = 1000.0) -> Reservation:
    return Reservation(
        jid=f"jid{number}",
        worker="w1",
        queue="mail",
        jobtype="Send",
        reserved_at=at,
        expires_at=at + 1800,
        job=JobFacts(enqueued_at=at - 5),
    )


def execution(number: int = 1, outcome: Outcome | None = Outcome.FINISHED) -> Execution:
    """One that becomes two spans: the work and the wait."""
    return Execution(reservation=reservation(number), outcome=outcome, ended_at=1100.0, uncertainty=5.0)


def executions(count: int) -> list[Told]:
    return [execution(number) for number in range(count)]


def crash(number: int = 1, orphans: int = 0) -> WorkerCrash:
    return WorkerCrash(
        worker=f"crashed{number}",
        reason=CrashReason.VANISHED,
        lived_at=1000.0,
        gone_at=1005.0,
        found_at=1010.0,
        orphaned_jobs=orphans,
        orphans=tuple(reservation(each) for each in range(orphans)),
    )


def incident(kind: IncidentKind, frames: int = 3) -> Incident:
    return Incident(kind, "told", 1000.0, tuple(Frame(f"main.f{each}", "f.go", each) for each in range(frames)))


RESTART = Restart(since=1.0, until=2.0)
LARGE = os.urandom(16 * 1024 * 1024)
"""More than all buffers between two sockets hold."""

BODY = traces.encode(traces.spans(TRACED, execution(), parent=False))


# --- one request ----------------------------------------------------------------------------------------------------


async def test_what_is_sent_arrives_as_it_was_encoded(collector: Receiver, ticker: None) -> None:
    async with sending(collector) as sender:
        delivery = await sender.post(BODY)
    assert delivery == Delivery(Fate.SENT)
    assert [span.name for span in collector.spans()] == ["process mail", "wait mail"]
    assert collector.accepted[0].body == BODY


async def test_the_request_is_what_otlp_asks_for(collector: Receiver) -> None:
    async with sending(collector) as sender:
        await sender.post(BODY)
    headers = collector.accepted[0].headers
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-length"] == str(len(BODY))
    assert headers["user-agent"].startswith("forewarn/")
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["accept-encoding"] == "identity"
    assert "content-encoding" not in headers


async def test_a_body_is_compressed_where_that_is_set(collector: Receiver) -> None:
    async with sending(collector, gzip=True) as sender:
        assert (await sender.post(BODY)).fate is Fate.SENT
    received = collector.accepted[0]
    assert received.headers["content-encoding"] == "gzip"
    assert gzip.decompress(received.body) == BODY


async def test_requests_share_one_connection_even_at_the_same_time(authority: trustme.CA, ca_file: Path) -> None:
    async with receiving(server_tls(authority)) as collector:
        async with sending(collector, ca_file=ca_file, timeout=10.0) as sender:
            await asyncio.gather(*(sender.post(BODY) for _ in range(3)))
            await sender.post(BODY)
        assert (len(collector.accepted), collector.connections) == (4, 1)


async def test_a_kept_connection_that_the_collector_closed_costs_no_failure(collector: Receiver) -> None:
    async def closing_after(received: misbehaviour.Received, reply: Reply) -> None:
        if collector.accepted and collector.connections == 1:
            raise misbehaviour.Hangup
        await misbehaviour.well(received, reply)

    collector.answer = closing_after
    async with sending(collector) as sender:
        assert [(await sender.post(BODY)).fate for _ in range(2)] == [Fate.SENT, Fate.SENT]
    assert (len(collector.accepted), collector.connections) == (2, 2)


async def test_a_body_of_many_mebibytes_is_sent(collector: Receiver, ticker: None) -> None:
    collector.answer = misbehaviour.saying(400)
    async with sending(collector, timeout=10.0, gzip=True) as sender:
        delivery = await sender.post(LARGE)
    assert delivery.fate is Fate.REJECTED
    assert collector.refused, "random bytes are no request"


@pytest.mark.parametrize(
    ("answer", "fate", "reason", "told"),
    [
        pytest.param(misbehaviour.saying(400), Fate.REJECTED, Reason.SERVER, "400", id="400"),
        pytest.param(misbehaviour.saying(401), Fate.REJECTED, Reason.AUTH, "--otlp.headers-file", id="401"),
        pytest.param(misbehaviour.saying(403), Fate.REJECTED, Reason.AUTH, "not allowed", id="403"),
        pytest.param(misbehaviour.saying(404), Fate.REJECTED, Reason.SERVER, "4318", id="404"),
        pytest.param(misbehaviour.saying(413), Fate.REJECTED, Reason.SERVER, "limit", id="413"),
        pytest.param(misbehaviour.saying(408), Fate.AGAIN, Reason.SERVER, "408", id="408"),
        pytest.param(misbehaviour.saying(429), Fate.AGAIN, Reason.SERVER, "429", id="429"),
        pytest.param(misbehaviour.saying(500), Fate.AGAIN, Reason.SERVER, "500", id="500"),
        pytest.param(misbehaviour.saying(503), Fate.AGAIN, Reason.SERVER, "overloaded", id="503"),
        pytest.param(
            misbehaviour.saying(301, Location="/elsewhere"), Fate.REJECTED, Reason.PROTOCOL, "redirect", id="redirect"
        ),
        pytest.param(
            misbehaviour.saying(200, b"<html>", "text/html; charset=utf-8"),
            Fate.REJECTED,
            Reason.PROTOCOL,
            "web page",
            id="web page",
        ),
        pytest.param(misbehaviour.saying(200, b"\n<!DOCTYPE"), Fate.REJECTED, Reason.PROTOCOL, "web page", id="page"),
        pytest.param(misbehaviour.saying(200, b"OK", "text/plain"), Fate.REJECTED, Reason.PROTOCOL, "OTLP", id="text"),
        pytest.param(misbehaviour.saying(200, b"\xff" * 9), Fate.REJECTED, Reason.PROTOCOL, "OTLP", id="no protobuf"),
        pytest.param(
            misbehaviour.saying(200, b'{"error":1}', "application/json"),
            Fate.REJECTED,
            Reason.PROTOCOL,
            "OTLP",
            id="json",
        ),
        pytest.param(
            misbehaviour.saying(200, b'{"partialSuccess":{"a":' + b"[" * 60_000, "application/json"),
            Fate.REJECTED,
            Reason.PROTOCOL,
            "OTLP",
            id="deep json",
        ),
        pytest.param(misbehaviour.endless(200), Fate.REJECTED, Reason.PROTOCOL, "OTLP", id="endless 200"),
        pytest.param(misbehaviour.endless(503), Fate.AGAIN, Reason.SERVER, "503", id="endless 503"),
        pytest.param(misbehaviour.endless_headers, Fate.AGAIN, Reason.PROTOCOL, "HTTP", id="endless head"),
        pytest.param(misbehaviour.endless_continues, Fate.AGAIN, Reason.TIMEOUT, "0.5 s", id="endless 100"),
        pytest.param(
            misbehaviour.raw(b"\x15\x03\x01\x00\x02\x02\x0a"), Fate.AGAIN, Reason.PROTOCOL, "HTTP", id="bytes"
        ),
        pytest.param(misbehaviour.raw(b"\x00\x00\x06\x04\x00"), Fate.AGAIN, Reason.PROTOCOL, "4317", id="gRPC"),
        pytest.param(misbehaviour.hanging_up, Fate.AGAIN, Reason.PROTOCOL, "closed", id="closes"),
        pytest.param(misbehaviour.torn(reset=False), Fate.AGAIN, Reason.PROTOCOL, "", id="torn"),
        pytest.param(misbehaviour.torn(reset=True), Fate.AGAIN, Reason.PROTOCOL, "", id="reset"),
        pytest.param(misbehaviour.never, Fate.AGAIN, Reason.TIMEOUT, "within 0.5 s", id="never answers"),
        pytest.param(misbehaviour.slowly(DEADLINE + 5), Fate.AGAIN, Reason.TIMEOUT, "firewall", id="too late"),
        pytest.param(misbehaviour.trickling, Fate.AGAIN, Reason.TIMEOUT, "hang", id="trickles"),
    ],
)
@on_both_loops
def test_whatever_a_collector_does_one_request_ends_in_time_and_is_told(
    run: Run, answer: Answer, fate: Fate, reason: Reason, told: str
) -> None:
    async def scenario() -> None:
        # Only who is to be given up is given up soon: on a busy machine the others need their time.
        deadline = DEADLINE if reason is Reason.TIMEOUT else PATIENT
        async with receiving() as collector, never_held(), sending(collector, timeout=deadline) as sender:
            collector.answer = answer
            started = time.monotonic()
            delivery = await sender.post(BODY)
            assert time.monotonic() - started < deadline + BUSY
            assert failure_of(delivery) == (fate, reason)
            assert delivery.failure is not None
            assert told in delivery.failure.message
            assert collector.written < 16 * 1024 * 1024, "nothing is read for ever"
            # And it is as good as before once it is well again.
            collector.answer = misbehaviour.well
            assert (await sender.post(BODY)).fate is Fate.SENT
            assert len(collector.accepted) == 1
            await wait_until(lambda: client_sockets(collector.port) == 1, what="one connection is kept")

    run(scenario())


@on_both_loops
@pytest.mark.parametrize("handler", [misbehaviour.unread, misbehaviour.half_read])
def test_a_collector_that_does_not_read_gets_no_further_sockets(run: Run, handler: misbehaviour.Handler) -> None:
    async def scenario() -> None:
        async with receiving() as collector, never_held(), sending(collector, timeout=4 * DEADLINE) as sender:
            collector.taken_over = handler
            for _ in range(3):
                assert failure_of(await sender.post(LARGE))[0] is Fate.AGAIN
                await wait_until(lambda: client_sockets(collector.port) == 0, what="the connection is cut")
            collector.taken_over = None
            assert (await sender.post(BODY)).fate is Fate.SENT

    run(scenario())


def client_sockets(port: int) -> int:
    """How many sockets of this process are connected to ``port``."""
    inodes = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(each))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{line[9]}]" in inodes for line in lines if line[2].endswith(f":{port:04X}"))


async def test_nothing_listening_is_told(ticker: None) -> None:
    async with sending(f"http://127.0.0.1:{free_port()}/v1/traces") as sender:
        delivery = await sender.post(BODY)
    assert failure_of(delivery) == (Fate.AGAIN, Reason.UNREACHABLE)


async def test_a_name_that_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("exporter.outputs.otlp.socket.getaddrinfo", unknown)
    async with sending("http://collector.invalid:4318/v1/traces") as sender:
        delivery = await sender.post(BODY)
    assert delivery.failure is not None
    assert (delivery.fate, delivery.failure.reason) == (Fate.AGAIN, Reason.UNREACHABLE)
    assert "name or service not known" in delivery.failure.message


def test_a_resolver_that_hangs_holds_up_neither_request_nor_exit() -> None:
    program = """
        import asyncio, socket, sys, time
        from exporter.outputs.otlp import OtlpSender
        from exporter.settings import OtlpTarget

        socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)

        async def main():
            sender = OtlpSender(OtlpTarget(url="http://collector.invalid:4318/v1/traces", timeout=0.1))
            print([(await sender.post(b"")).failure.reason for _ in range(3)])
            await sender.close()

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.stdout.count("timeout") == 3, ended.stderr
    assert ended.stderr == ""


@pytest.mark.parametrize("url", ["http://[::1", "http://", "collector:4318", "http://127.0.0.1:99999/v1/traces"])
async def test_what_is_no_url_is_told_and_not_raised(url: str) -> None:
    async with sending(url) as sender:
        delivery = await sender.post(BODY)
    assert delivery.fate is Fate.AGAIN


async def test_cancellation_ends_a_request_at_once(collector: Receiver) -> None:
    collector.answer = misbehaviour.never
    async with sending(collector, timeout=60.0) as sender:
        task = asyncio.create_task(sender.post(BODY))
        await wait_until(lambda: collector.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: client_sockets(collector.port) == 0, what="the connection is cut")


# --- what the collector says ----------------------------------------------------------------------------------------


async def test_items_that_a_collector_rejects_are_told(collector: Receiver) -> None:
    collector.answer = misbehaviour.partially(3, "too old")
    async with sending(collector) as sender:
        delivery = await sender.post(BODY)
    assert failure_of(delivery) == (Fate.SENT, Reason.SERVER)
    assert delivery.rejected == 3
    assert delivery.failure is not None
    assert "rejected 3 " in delivery.failure.message
    assert "(too old)" in delivery.failure.message


@pytest.mark.parametrize(
    "answer",
    [
        misbehaviour.partially(0, "soon to be an error"),
        misbehaviour.partially(-5, "less than nothing"),
        misbehaviour.saying(200, b"", "text/plain"),
        misbehaviour.saying(204),
        misbehaviour.saying(202, b"{}", "application/json"),
        misbehaviour.saying(200, b'{"partialSuccess":{"rejectedSpans":"0"}}', "application/json"),
    ],
)
async def test_a_success_is_known_in_every_shape_that_it_has(collector: Receiver, answer: Answer) -> None:
    collector.answer = answer
    async with sending(collector) as sender:
        assert await sender.post(BODY) == Delivery(Fate.SENT)


async def test_what_is_rejected_is_read_from_json_too(collector: Receiver) -> None:
    said = b'{"partialSuccess":{"rejectedDataPoints":"7","errorMessage":"no"}}'
    collector.answer = misbehaviour.saying(200, said, "application/json")
    async with sending(collector) as sender:
        assert (await sender.post(BODY)).rejected == 7


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        # A google.rpc.Status has the number of its code in field 1 and its text in field 2.
        (ExportTracePartialSuccess(rejected_spans=3, error_message="bad id").SerializeToString(), None, "(bad id)"),
        (b"over quota\r\n\x1b[31mred", "text/plain", "(over quota [31mred)"),
        (b"\xff\xfe", "text/plain", "400 ("),
        (b"x" * 1000, "text/plain", "x" * 200 + "…)"),
        (b"<html>a long page", "text/html", "status 400:"),
        (b"x" * (MAX_ANSWER + 1), "text/plain", "status 400:"),
        (f"you sent Bearer {TOKEN}".encode(), "text/plain", "(you sent ***)"),
        (f"token={TOKEN}&x".encode(), "application/json", "(token=***&x)"),
        (b" " * 195 + f"cut in it {TOKEN}".encode(), "text/plain", "(cut in it ***)"),
    ],
)
async def test_the_collectors_own_words_are_bounded_and_printable_and_repeat_no_secret(
    collector: Receiver, body: bytes, kind: str | None, said: str
) -> None:
    collector.answer = misbehaviour.saying(400, body, kind or misbehaviour.PROTOBUF)
    async with sending(collector) as sender:
        delivery = await sender.post(BODY)
    assert failure_of(delivery) == (Fate.REJECTED, Reason.SERVER)
    assert delivery.failure is not None
    assert said in delivery.failure.message


async def test_neither_user_nor_query_of_the_address_is_told() -> None:
    port = free_port()
    async with sending(f"http://user:{TOKEN}@127.0.0.1:{port}/v1/traces?key={TOKEN}", headers={}) as sender:
        delivery = await sender.post(BODY)
    assert failure_of(delivery) == (Fate.AGAIN, Reason.UNREACHABLE)
    assert delivery.failure is not None
    assert delivery.failure.message.startswith(f"http://127.0.0.1:{port}/v1/traces cannot")


async def test_a_collector_tells_when_it_wants_to_be_asked_again(collector: Receiver) -> None:
    collector.answer = misbehaviour.saying(429, Retry_After="7")
    async with sending(collector) as sender:
        assert (await sender.post(BODY)).retry_after == 7


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        ("9" * 60, MAX_RETRY_AFTER),
        ("9" * 100, None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
        (formatdate(1_000_000_030, usegmt=True), 30),
        (formatdate(999_999_000, usegmt=True), 0),
        (formatdate(2_000_000_000, usegmt=True), MAX_RETRY_AFTER),
        ("Fri, 31 Feb 2025 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MAX_RETRY_AFTER),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(text: str | None, seconds: float | None) -> None:
    assert retry_after(text, 1_000_000_000.0) == seconds


# --- TLS ------------------------------------------------------------------------------------------------------------


async def test_a_collector_is_trusted_by_the_authority_that_is_named(authority: trustme.CA, ca_file: Path) -> None:
    async with receiving(server_tls(authority)) as collector, sending(collector, ca_file=ca_file) as sender:
        assert (await sender.post(BODY)).fate is Fate.SENT
        assert len(collector.accepted) == 1


async def test_a_collector_of_another_authority_is_not_trusted(authority: trustme.CA, ticker: None) -> None:
    async with receiving(server_tls(authority)) as collector, sending(collector) as sender:
        delivery = await sender.post(BODY)
        assert failure_of(delivery) == (Fate.AGAIN, Reason.TLS)
        assert delivery.failure is not None
        assert "not trusted" in delivery.failure.message
        assert collector.requests == []


async def test_tls_to_a_plain_port_is_told(collector: Receiver, ca_file: Path) -> None:
    url = collector.endpoint.replace("http:", "https:") + "/v1/traces"
    async with sending(url, ca_file=ca_file) as sender:
        delivery = await sender.post(BODY)
    assert failure_of(delivery) == (Fate.AGAIN, Reason.TLS)
    assert delivery.failure is not None
    assert "http://" in delivery.failure.message


async def test_a_plain_request_to_a_tls_port_is_told(authority: trustme.CA) -> None:
    async with receiving(server_tls(authority)) as collector:
        url = collector.endpoint.replace("https:", "http:") + "/v1/traces"
        async with sending(url) as sender:
            delivery = await sender.post(BODY)
    assert failure_of(delivery) == (Fate.AGAIN, Reason.PROTOCOL)
    assert delivery.failure is not None
    assert "https://" in delivery.failure.message


@on_both_loops
def test_a_port_that_never_answers_the_handshake_is_told_in_time(run: Run, ca_file: Path) -> None:
    async def scenario() -> None:
        async with receiving() as collector, never_held():
            collector.taken_over = misbehaviour.unread
            url = collector.endpoint.replace("http:", "https:") + "/v1/traces"
            async with sending(url, ca_file=ca_file, timeout=DEADLINE) as sender:
                assert failure_of(await sender.post(BODY)) == (Fate.AGAIN, Reason.TIMEOUT)
                await wait_until(lambda: client_sockets(collector.port) == 0, what="the connection is cut")

    run(scenario())


async def test_a_collector_that_demands_a_certificate_gets_the_one_that_is_set(
    authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    certificate, key = client_certificate(authority, tmp_path)
    async with (
        receiving(server_tls(authority, client=True)) as collector,
        sending(collector, ca_file=ca_file, certificate_file=certificate, key_file=key) as sender,
    ):
        assert (await sender.post(BODY)).fate is Fate.SENT


async def test_a_certificate_that_is_missing_is_told(authority: trustme.CA, ca_file: Path) -> None:
    async with (
        receiving(server_tls(authority, client=True)) as collector,
        sending(collector, ca_file=ca_file) as sender,
    ):
        delivery = await sender.post(BODY)
    # The server's alert may be lost with the connection: then only that it was closed is known.
    assert failure_of(delivery) in {(Fate.AGAIN, Reason.TLS), (Fate.AGAIN, Reason.PROTOCOL)}
    assert delivery.failure is not None
    assert "client's certificate" in delivery.failure.message


async def test_certificate_files_are_read_anew_after_a_failure(
    authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    certificate, key = client_certificate(trustme.CA(), tmp_path)
    async with (
        receiving(server_tls(authority, client=True)) as collector,
        sending(collector, ca_file=ca_file, certificate_file=certificate, key_file=key) as sender,
    ):
        assert (await sender.post(BODY)).fate is Fate.AGAIN
        client_certificate(authority, tmp_path)
        assert (await sender.post(BODY)).fate is Fate.SENT


async def test_a_certificate_file_that_is_gone_is_told(authority: trustme.CA, tmp_path: Path) -> None:
    gone = tmp_path / "gone.pem"
    async with receiving(server_tls(authority)) as collector, sending(collector, ca_file=gone) as sender:
        assert failure_of(await sender.post(BODY)) == (Fate.AGAIN, Reason.CONFIG)


def client_certificate(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert("forewarn")
    certificate, key = folder / "client.pem", folder / "client.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


# --- what waits -----------------------------------------------------------------------------------------------------


def item(number: int, rank: Rank = Rank.ORDINARY, *, size: int = 1, server: str = "faktory") -> Item:
    return Item(number, rank, size, size, server, execution(number))


def numbers(items: Sequence[Item]) -> list[int]:
    return [each.number for each in items]


def filled(limit: int, *items: Item) -> Outbox:
    outbox = Outbox(limit)
    for each in items:
        outbox.put(each)
    return outbox


def test_a_full_outbox_drops_the_oldest_of_what_is_missed_least() -> None:
    outbox = filled(3, item(1, Rank.CRASHED), item(2), item(3))
    assert outbox.put(item(4)) == 1
    assert outbox.put(item(5, Rank.FAILED)) == 1
    assert numbers(outbox.take()) == [1, 5, 4]


def test_what_is_missed_least_finds_no_room_among_what_is_missed_more() -> None:
    outbox = filled(2, item(1, Rank.CRASHED), item(2, Rank.FAILED))
    assert outbox.put(item(3)) == 1
    assert numbers(outbox.take()) == [1, 2]


def test_of_crashes_alone_the_oldest_is_dropped() -> None:
    outbox = filled(2, *(item(number, Rank.CRASHED) for number in range(3)))
    assert numbers(outbox.take()) == [1, 2]


def test_what_is_missed_most_is_sent_first_and_the_oldest_of_it_before() -> None:
    outbox = filled(9, item(1), item(2, Rank.FAILED), item(3, Rank.CRASHED), item(4, Rank.CRASHED), item(5))
    assert numbers(outbox.take()) == [3, 4, 2, 1, 5]


def test_a_batch_is_bounded_by_its_size_but_never_empty() -> None:
    outbox = filled(99, item(1, size=3), item(2, size=3), item(3, size=2))
    assert numbers(outbox.take(7)) == [1, 2]
    outbox.settle([item(1), item(2)])
    assert numbers(outbox.take(1)) == [3]


def test_a_batch_on_its_way_still_counts_and_is_not_dropped() -> None:
    outbox = filled(2, item(1), item(2))
    batch = outbox.take()
    assert outbox.put(item(3)) == 1
    assert (outbox.spans, numbers(batch)) == (2, [1, 2])
    assert len(outbox.unsent("faktory")) == 2


def test_a_batch_that_is_put_back_comes_before_what_came_later() -> None:
    outbox = filled(9, item(1), item(2))
    outbox.take()
    outbox.put(item(3))
    outbox.put_back()
    assert numbers(outbox.take()) == [1, 2, 3]


def test_of_a_batch_that_is_put_back_only_what_is_not_done_with_waits_again() -> None:
    outbox = filled(9, item(1), item(2))
    batch = outbox.take()
    outbox.settle(batch[:1])
    outbox.put_back()
    assert numbers(outbox.take()) == [2]


def test_what_is_kept_of_a_server_is_told_in_the_order_in_which_it_came() -> None:
    outbox = filled(9, item(1), item(2, Rank.CRASHED), item(3, server="other"), item(4, Rank.FAILED))
    outbox.take(2)
    assert outbox.unsent("faktory") == (execution(1), execution(2), execution(4))
    assert outbox.unsent("other") == (execution(3),)


@settings(max_examples=200, deadline=None)
@given(
    strategies.lists(
        strategies.one_of(
            strategies.tuples(strategies.sampled_from(Rank), strategies.integers(1, 5)),
            strategies.sampled_from(["take", "settle", "put back"]),
        )
    )
)
def test_whatever_comes_the_bound_holds_and_every_span_is_sent_dropped_or_waiting(
    steps: list[tuple[Rank, int] | str],
) -> None:
    outbox = Outbox(20)
    given_spans = sent = dropped = 0
    batch: Sequence[Item] = ()
    for number, step in enumerate(steps):
        if step == "take" and not batch:
            batch = outbox.take(8)
        elif step == "settle":
            sent += sum(each.spans for each in batch)
            outbox.settle(batch)
            batch = ()
        elif step == "put back":
            outbox.put_back()
            batch = ()
        elif isinstance(step, tuple):
            given_spans += step[1]
            dropped += outbox.put(item(number, step[0], size=step[1]))
        assert outbox.spans <= 20
        assert given_spans == sent + dropped + outbox.spans


@pytest.mark.parametrize(
    ("told", "rank"),
    [
        (execution(outcome=Outcome.FINISHED), Rank.ORDINARY),
        (execution(outcome=Outcome.FAILED), Rank.FAILED),
        (execution(outcome=Outcome.EXPIRED), Rank.FAILED),
        (execution(outcome=None), Rank.FAILED),
        (execution(outcome=Outcome.CRASHED), Rank.CRASHED),
        (crash(), Rank.CRASHED),
        (Orphaned(reservation=reservation(), since=1.0, until=2.0, uncertainty=0.0), Rank.CRASHED),
        (RESTART, Rank.CRASHED),
        (incident(IncidentKind.CONCURRENT_MAP), Rank.CRASHED),
        (incident(IncidentKind.UNEXPLAINED), Rank.CRASHED),
        (incident(IncidentKind.DATA_RACE), Rank.FAILED),
        (incident(IncidentKind.RECOVERED_PANIC), Rank.FAILED),
    ],
)
def test_crashes_are_missed_most(told: Told, rank: Rank) -> None:
    assert rank_of(told) is rank


@pytest.mark.parametrize(
    ("failures", "asked", "jitter", "seconds"),
    [
        (1, None, 0.0, 1.0),
        (1, None, 1.0, 2.0),
        (3, None, 0.5, 6.0),
        (10_000, None, 0.0, 15.0),
        (10_000, None, 1.0, 30.0),
        (1, 0.0, 0.0, 1.0),
        (1, 7.0, 0.5, 7.5),
        (1, 300.0, 0.0, 300.0),
    ],
)
def test_the_waits_between_tries_grow_up_to_a_bound(
    failures: int, asked: float | None, jitter: float, seconds: float
) -> None:
    assert Pace().after(failures, asked, jitter) == seconds


# --- counting and telling -------------------------------------------------------------------------------------------

UNREACHABLE = Delivery(Fate.AGAIN, Failure(Reason.UNREACHABLE, "nobody there"))


def test_every_item_is_counted_by_what_became_of_it() -> None:
    counts = OtlpCounts("traces")
    counts.settle(Delivery(Fate.SENT), 10)
    counts.settle(Delivery(Fate.SENT, Failure(Reason.SERVER, "some"), rejected=3), 10)
    counts.settle(Delivery(Fate.SENT, Failure(Reason.SERVER, "lies"), rejected=30), 10)
    counts.settle(Delivery(Fate.REJECTED, Failure(Reason.AUTH, "no")), 10)
    counts.settle(UNREACHABLE, 10)
    counts.drop(2)
    totals = counts.totals()
    assert (totals.sent, totals.rejected, totals.dropped, totals.waiting) == (17, 23, 2, None)
    assert {reason: count for reason, count in totals.failures.items() if count} == {
        Reason.SERVER: 2,
        Reason.AUTH: 1,
        Reason.UNREACHABLE: 1,
    }


def test_every_reason_to_fail_is_known_from_the_start() -> None:
    assert OtlpCounts("metrics").totals().failures == dict.fromkeys(Reason, 0)


def test_a_failing_collector_is_logged_once_and_once_when_it_is_well_again(caplog: pytest.LogCaptureFixture) -> None:
    counts = OtlpCounts("traces")
    deliveries = [Delivery(Fate.SENT), UNREACHABLE, UNREACHABLE, Delivery(Fate.SENT), Delivery(Fate.SENT)]
    for delivery in deliveries:
        counts.settle(delivery, 1)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "collector failing"),
        ("INFO", "collector recovered"),
    ]
    assert caplog.records[0].fields == {  # type: ignore[attr-defined]
        "signal": "traces",
        "reason": "unreachable",
        "failure": "nobody there",
    }


# --- the task that sends --------------------------------------------------------------------------------------------


class Given:
    """An output that runs, and what it was told to send."""

    def __init__(self, output: TraceOutput) -> None:
        self.output = output
        self.settled = 0

    def counted(self) -> tuple[int, int, int, int | None]:
        totals = self.output.totals()
        return totals.sent, totals.rejected, totals.dropped, totals.waiting


@asynccontextmanager
async def telling(
    collector: Receiver | str, *, running: bool = True, timeout: float = PATIENT, gzip: bool = False, **options: Any
) -> AsyncIterator[Given]:
    """An output for ``collector`` that does not wait for long."""

    def settled() -> None:
        made.settled += 1

    async with sending(collector, timeout=timeout, gzip=gzip) as sender:
        given: dict[str, Any] = {"parent": False, "settled": settled, "pace": FAST} | options
        output = TraceOutput(sender, {"faktory": TRACED}, **given)
        made = Given(output)
        task = asyncio.create_task(output.run()) if running else None
        yield made
        if task is not None:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def ids(told: Sequence[Told]) -> list[str]:
    """The ids of the spans that ``told`` becomes."""
    spans = [span for each in told for span in traces.spans(TRACED, each, parent=False)]
    return sorted(span.span_id.hex() for span in spans)


def arrived(collector: Receiver) -> list[str]:
    """The ids of the spans that were accepted, as often as they came."""
    return sorted(span.span_id.hex() for span in collector.spans())


async def test_what_is_told_arrives_and_is_counted(collector: Receiver, ticker: None) -> None:
    told: list[Told] = [execution(), crash(1, orphans=2), RESTART]
    async with telling(collector) as given:
        given.output.take("faktory", told)
        assert given.counted() == (0, 0, 0, 4)
        await wait_until(lambda: given.counted() == (4, 0, 0, 0))
    assert arrived(collector) == ids(told)
    assert given.settled == 1


async def test_what_comes_at_about_the_same_time_goes_in_one_request(collector: Receiver) -> None:
    async with telling(collector, pace=Pace(gather=0.2)) as given:
        for told in executions(5):
            given.output.take("faktory", [told])
            await asyncio.sleep(0)
        await wait_until(lambda: given.counted()[0] == 10)
    assert len(collector.accepted) == 1


async def test_much_goes_in_several_requests(collector: Receiver, ticker: None) -> None:
    told = executions(600)
    async with telling(collector, timeout=5.0) as given:
        given.output.take("faktory", told)
        await wait_until(lambda: given.counted() == (1200, 0, 0, 0))
    assert len(collector.accepted) == 3
    assert arrived(collector) == ids(told)


async def test_polls_are_told_but_not_kept_over_a_restart(collector: Receiver) -> None:
    spans = traces.spans(TRACED, RESTART, parent=False)
    async with telling(collector) as given:
        given.output.take_poll("faktory", spans)
        assert given.output.unsent("faktory") == ()
        await wait_until(lambda: given.counted() == (1, 0, 0, 0))
    assert arrived(collector) == ids([RESTART])


FAILING: Mapping[str, Answer] = {
    "503": misbehaviour.saying(503),
    "500": misbehaviour.saying(500),
    "429": misbehaviour.saying(429),
    "429 at once": misbehaviour.saying(429, Retry_After="0"),
    "endless": misbehaviour.endless(503),
    "endless head": misbehaviour.endless_headers,
    "gRPC": misbehaviour.raw(b"\x00\x00\x06\x04\x00"),
    "closes": misbehaviour.hanging_up,
    "torn": misbehaviour.torn(reset=False),
    "reset": misbehaviour.torn(reset=True),
    "never answers": misbehaviour.never,
    "too late": misbehaviour.slowly(60.0),
    "trickles": misbehaviour.trickling,
}


@pytest.mark.parametrize("answer", FAILING.values(), ids=FAILING)
async def test_what_a_failing_collector_did_not_take_arrives_exactly_once_when_it_is_well(
    collector: Receiver, ticker: None, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    collector.answer = answer
    before = executions(3)
    meanwhile: list[Told] = [crash(1), RESTART]
    async with telling(collector, timeout=0.1) as given:
        given.output.take("faktory", before)
        await wait_until(lambda: len(collector.requests) >= 2)
        given.output.take("faktory", meanwhile)
        assert given.output.unsent("faktory") == (*before, *meanwhile)
        collector.answer = misbehaviour.well
        await wait_until(lambda: given.counted() == (8, 0, 0, 0))
    assert arrived(collector) == ids([*before, *meanwhile])
    assert given.output.unsent("faktory") == ()
    told = [record.message for record in caplog.records if record.name == "forewarn.otlp"]
    assert told == ["collector failing", "collector recovered"]


async def test_what_waited_for_a_collector_that_was_down_arrives_exactly_once(ticker: None) -> None:
    port = free_port()
    told = executions(3)
    async with telling(f"http://127.0.0.1:{port}/v1/traces") as given:
        given.output.take("faktory", told)
        await wait_until(lambda: given.output.totals().failures[Reason.UNREACHABLE] >= 2)
        async with receiving(port=port) as collector:
            await wait_until(lambda: given.counted() == (6, 0, 0, 0))
            assert arrived(collector) == ids(told)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(misbehaviour.saying(400), Reason.SERVER, id="400"),
        pytest.param(misbehaviour.saying(401), Reason.AUTH, id="401"),
        pytest.param(misbehaviour.saying(404), Reason.SERVER, id="404"),
        pytest.param(misbehaviour.saying(302, Location="/"), Reason.PROTOCOL, id="redirect"),
        pytest.param(misbehaviour.saying(200, b"<html>", "text/html"), Reason.PROTOCOL, id="web page"),
        pytest.param(misbehaviour.endless(200), Reason.PROTOCOL, id="endless"),
    ],
)
async def test_what_is_rejected_for_good_is_counted_and_does_not_hold_up_what_follows(
    collector: Receiver, ticker: None, answer: Answer, reason: Reason
) -> None:
    collector.answer = answer
    async with telling(collector) as given:
        given.output.take("faktory", [execution()])
        await wait_until(lambda: given.counted() == (0, 2, 0, 0))
        collector.answer = misbehaviour.well
        given.output.take("faktory", [RESTART])
        await wait_until(lambda: given.counted() == (1, 2, 0, 0))
    assert given.output.totals().failures[reason] == 1
    assert arrived(collector) == ids([RESTART])


async def test_items_that_a_collector_rejects_are_counted(collector: Receiver) -> None:
    collector.answer = misbehaviour.partially(1, "too old")
    async with telling(collector) as given:
        given.output.take("faktory", [execution()])
        await wait_until(lambda: given.counted() == (1, 1, 0, 0))
    assert len(collector.accepted) == 1


async def test_what_fails_for_what_is_in_it_is_given_up_after_some_tries(collector: Receiver) -> None:
    collector.answer = misbehaviour.saying(500)
    async with telling(collector) as given:
        given.output.take("faktory", [execution()])
        await wait_until(lambda: given.counted() == (0, 2, 0, 0))
    assert len(collector.requests) == MAX_DOUBTS


async def test_a_collector_that_asks_for_time_is_given_it(collector: Receiver) -> None:
    times: list[float] = []

    async def busy(received: misbehaviour.Received, reply: Reply) -> None:
        times.append(time.monotonic())
        await (misbehaviour.well if len(times) > 1 else misbehaviour.saying(429, Retry_After="1"))(received, reply)

    collector.answer = busy
    async with telling(collector) as given:
        given.output.take("faktory", [RESTART])
        await wait_until(lambda: given.counted()[0] == 1)
    assert times[1] - times[0] >= 1.0


async def test_a_flood_costs_neither_memory_nor_the_crash_that_came_before(collector: Receiver, ticker: None) -> None:
    collector.answer = misbehaviour.never
    flood = executions(5000)
    async with telling(collector, timeout=5.0) as given:
        given.output.take("faktory", [crash(1, orphans=100)])
        await wait_until(lambda: collector.requests)
        for start in range(0, 5000, 500):
            given.output.take("faktory", flood[start : start + 500])
            assert (given.output.totals().waiting or 0) <= MAX_WAITING
            await asyncio.sleep(0)
        waiting = given.output.totals().waiting
        assert waiting is not None
        assert given.output.totals().dropped == 10_001 - waiting
        kept = given.output.unsent("faktory")
        assert kept[0] == crash(1, orphans=100)
        assert kept[-1] == flood[-1]
        collector.answer = misbehaviour.well
        await given.output.flush(0.0)
    assert len(kept) == len(set(map(id, kept))) > 1900


async def test_links_count_towards_the_bound() -> None:
    async with telling("http://127.0.0.1:1/v1/traces", running=False, limit=300) as given:
        given.output.take("faktory", [crash(number, orphans=128) for number in range(10)])
        assert len(given.output.unsent("faktory")) == 2


async def test_drops_are_logged_with_their_number_at_most_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    async with telling("http://127.0.0.1:1/v1/traces", running=False, limit=2, clock=clock) as given:
        for number in range(100):
            given.output.take("faktory", [execution(number)])
            clock.now += 1
    told = [record.fields["spans"] for record in caplog.records if record.message == "spans were dropped"]  # type: ignore[attr-defined]
    assert told == [2, 120]


@pytest.mark.parametrize("work", ["exporter.outputs.traces.encode", "exporter.outputs.otlp.gzip.compress"])
async def test_work_that_grows_with_what_is_sent_does_not_hold_the_event_loop(
    collector: Receiver, ticker: None, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    def slow(*args: Any, **options: Any) -> bytes:
        time.sleep(BUSY + 0.5)
        return b""

    monkeypatch.setattr(work, slow)
    async with telling(collector, gzip=True, timeout=2 * BUSY + 1) as given:
        given.output.take("faktory", [RESTART])
        await given.output.flush(2 * BUSY + 2)


async def test_what_cannot_be_encoded_is_dropped_alone(collector: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    collector.answer = misbehaviour.saying(503)
    async with telling(collector) as given:
        given.output.take("unknown", [RESTART])
        given.output.take("faktory", [RESTART])
        await wait_until(lambda: len(collector.requests) >= 2)
        collector.answer = misbehaviour.well
        await wait_until(lambda: given.counted() == (1, 0, 1, 0))
    assert sum("defect" in record.message for record in caplog.records) == 1


async def test_a_defect_of_the_sender_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        tries = 0

        async def post(self, _: bytes) -> Delivery:
            self.tries += 1
            if self.tries < 3:
                raise RuntimeError("can't start new thread")
            return Delivery(Fate.SENT)

    output = TraceOutput(Broken(), {"faktory": TRACED}, parent=False, pace=FAST)  # type: ignore[arg-type]
    output.take("faktory", [RESTART])
    await output.flush(5.0)
    assert (output.totals().sent, output.totals().waiting) == (1, 0)
    assert [record.message for record in caplog.records].count("sending traces failed by a defect of Forewarn") == 1


# --- the end, and the next beginning --------------------------------------------------------------------------------


async def test_a_flush_sends_what_waits(collector: Receiver, ticker: None) -> None:
    told = executions(400)
    async with telling(collector, running=False, timeout=5.0) as given:
        given.output.take("faktory", told)
        await given.output.flush(5.0)
        assert given.counted() == (800, 0, 0, 0)
    assert arrived(collector) == ids(told)


async def test_a_flush_waits_for_what_is_on_its_way_and_does_not_send_it_twice(collector: Receiver) -> None:
    release = asyncio.Event()

    async def when_released(received: misbehaviour.Received, reply: Reply) -> None:
        await release.wait()
        await misbehaviour.well(received, reply)

    collector.answer = when_released
    async with telling(collector, timeout=5.0) as given:
        given.output.take("faktory", [execution()])
        await wait_until(lambda: collector.requests)
        flush = asyncio.create_task(given.output.flush(5.0))
        await asyncio.sleep(0)
        release.set()
        await flush
        assert given.counted() == (2, 0, 0, 0)
    assert len(collector.requests) == 1


@on_both_loops
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(misbehaviour.never, id="never answers"),
        pytest.param(misbehaviour.trickling, id="trickles"),
        pytest.param(misbehaviour.saying(503), id="503"),
        pytest.param(misbehaviour.saying(429, Retry_After="60"), id="429"),
        pytest.param(misbehaviour.endless(503), id="endless"),
        pytest.param(misbehaviour.endless_continues, id="endless 100"),
        pytest.param(misbehaviour.hanging_up, id="closes"),
        pytest.param(None, id="never reads"),
    ],
)
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_flush_ends_within_its_deadline_whatever_the_collector_does(
    run: Run, answer: Answer | None, running: bool
) -> None:
    told = executions(3)

    async def scenario() -> None:
        async with receiving() as collector, never_held():
            if answer is None:
                collector.taken_over = misbehaviour.unread
            else:
                collector.answer = answer
            async with telling(collector, running=running, timeout=60.0) as given:
                given.output.take("faktory", told)
                if running:
                    await wait_until(lambda: collector.connections)
                started = time.monotonic()
                await given.output.flush(0.3)
                assert time.monotonic() - started < 0.3 + BUSY
                assert given.output.unsent("faktory") == tuple(told)
            assert time.monotonic() - started < 0.3 + 2 * BUSY, "closing takes no time either"

    run(scenario())


async def test_a_flush_does_not_wait_for_a_try_that_would_come_too_late(collector: Receiver) -> None:
    collector.answer = misbehaviour.saying(429, Retry_After="60")
    async with telling(collector, running=False) as given:
        given.output.take("faktory", [RESTART])
        async with asyncio.timeout(10):
            await given.output.flush(30.0)


async def test_what_was_not_sent_before_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with telling("http://127.0.0.1:1/v1/traces", running=False) as given:
        given.output.take("faktory", [execution()])
        await given.output.flush(0.0)
    record = next(record for record in caplog.records if record.message == "spans were not sent before the end")
    assert record.fields == {"spans": 2}  # type: ignore[attr-defined]


async def test_what_was_on_its_way_when_the_task_was_ended_waits_again(collector: Receiver) -> None:
    collector.answer = misbehaviour.never
    async with telling(collector, timeout=60.0) as given:
        given.output.take("faktory", [execution()])
        await wait_until(lambda: collector.requests)
    assert given.output.unsent("faktory") == (execution(),)


async def test_the_next_run_sends_what_the_last_one_could_not(collector: Receiver) -> None:
    told: list[Told] = [execution(1), crash(1, orphans=1), execution(2, Outcome.FAILED), RESTART]
    async with telling("http://127.0.0.1:1/v1/traces", running=False) as last:
        last.output.take("faktory", told)
        kept = msgspec.json.encode(last.output.unsent("faktory"))
    async with telling(collector) as given:
        given.output.restore("faktory", msgspec.json.decode(kept, type=tuple[Told, ...]))
        await wait_until(lambda: given.output.totals().waiting == 0)
    assert arrived(collector) == ids(told)
