"""Through failure: whatever breaks, pages stay quick, the broken part is told, and the rest goes on."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.source import FaktorySource
from exporter.faktory.store import Store
from exporter.model import Reason
from exporter.signals import Signals
from exporter.watch import Watch
from tests.forewarn import Forewarn, Scrape
from tests.live_gate import Gate, gate
from tests.live_scenarios import QuickScrapes, all_of
from tests.misbehaving import Clock, Handler, raw, reset, saying, serving
from tests.servers import StandInFaktory, WatchedServer, free_port, wait_until
from tests.wire import Wire

NOISE = 3.0
"""Seconds that a busy machine may be late."""


async def told(forewarn: Forewarn, condition: Callable[[Scrape], object], what: str, deadline: float = 45) -> Scrape:
    """Wait for a scrape that meets ``condition`` and return it."""
    last: list[Scrape] = []

    async def met() -> bool:
        last[:] = [await forewarn.scrape()]
        return bool(condition(last[0]))

    try:
        await wait_until(met, deadline, every=0.1, what=what)
    except AssertionError as error:
        error.add_note(forewarn.output()[-3000:])
        raise
    return last[0]


def collectors(scrape: Scrape) -> dict[str, float]:
    return {labels["collector"]: value for labels, value in scrape.matching("forewarn_collector_up")}


def errors(scrape: Scrape, collector: str) -> set[str]:
    """Return the reasons for which a collector has failed so far."""
    found = scrape.matching("forewarn_collector_errors_total", collector=collector)
    return {labels["reason"] for labels, value in found if value}


async def broken(forewarn: Forewarn, collector: str, reason: Reason) -> Scrape:
    """Wait until a collector fails for this reason; all others must go on."""

    def there(scrape: Scrape) -> bool:
        return collectors(scrape).get(collector) == 0 and reason in errors(scrape, collector)

    scrape = await told(forewarn, there, f"{collector} fails: {reason}")
    assert {name for name, up in collectors(scrape).items() if not up} == {collector}
    return scrape


async def healed(forewarn: Forewarn) -> Scrape:
    return await told(forewarn, lambda it: it.value("faktory_up") == 1 and all(collectors(it).values()), "all is well")


def lines(forewarn: Forewarn) -> list[tuple[str, str | None, str | None]]:
    """Return what the log tells of transitions."""
    return [(line["message"], line.get("collector"), line.get("reason")) for line in forewarn.log()]


@asynccontextmanager
async def gated(server: WatchedServer, *, redis: bool = True) -> AsyncIterator[tuple[Forewarn, Gate, Gate, Gate]]:
    """Forewarn beside a server, with a gate before its command port, its Web UI and its Redis."""
    async with (
        gate(("127.0.0.1", server.port)) as commands,
        gate(("127.0.0.1", server.web_port)) as web,
        gate(server.storage_dir / "redis.sock", server.folder / "gate.sock") as store,
    ):
        arguments = [f"--faktory.web-url=http://127.0.0.1:{web.port}", f"--faktory.config-dir={server.config_dir}"]
        if redis:
            arguments.append(f"--faktory.redis-url=unix://{store.socket}")
        environment = {"FAKTORY_URL": f"tcp://127.0.0.1:{commands.port}"}
        async with Forewarn(arguments=arguments, environment=environment) as forewarn:
            yield forewarn, commands, web, store


# --- a server that goes and comes back -------------------------------------------------------------------------------


async def stopped_and_started(server: WatchedServer) -> None:
    await server.start()
    async with await Wire.connect(server.url) as producer:
        await producer.push(queue="mail")
    async with Forewarn(server) as forewarn, QuickScrapes(forewarn).throughout():
        await healed(forewarn)
        stopped_at = time.monotonic()
        await server.stop()
        scrape = await told(
            forewarn, lambda it: it.value("faktory_up") == 0 and sum(collectors(it).values()) == 2, "down"
        )
        assert collectors(scrape) == {"health": 0, "connection": 0, "sockets": 1, "redis": 0, "throttles": 1}
        for name in ("health", "connection", "redis"):
            assert Reason.UNREACHABLE in errors(scrape, name)
        assert scrape.value("faktory_queue_jobs", queue="mail") is None  # unknown is not zero
        assert scrape.value("faktory_connections") is None
        assert scrape.value("faktory_restarts_total") == 0
        await server.start()
        outage, started_at = time.monotonic() - stopped_at, time.monotonic()
        scrape = await healed(forewarn)
        # The wait before the next try is never longer than the time for which tries have failed, but for jitter.
        assert time.monotonic() - started_at <= 1.5 * outage + NOISE
        assert scrape.value("faktory_queue_jobs", queue="mail") == 1
        assert await forewarn.metric("faktory_restarts_total") == 1
        log = lines(forewarn)
    assert [message for message, *_ in log if message.startswith("server")].count("server down") == 1
    assert [message for message, *_ in log].count("server back") == 1
    assert [line for line in log if log.count(line) > 1] == []


async def password_changed(server: WatchedServer) -> None:
    first, second = "correct:horse/battery", "staple@another"
    await server.start(first)
    async with Forewarn(server) as forewarn:
        await healed(forewarn)
        await server.stop()
        await server.start(second)
        scrape = await broken(forewarn, "connection", Reason.AUTH)
        assert scrape.value("faktory_up") == 1
        assert scrape.value("faktory_set_jobs", set="working") == 0  # Redis goes on being told
        pages = [(await forewarn.get(path))[2] for path in ("/", "/metrics", "/-/ready")]
        await server.stop()
        await server.start(first)
        await healed(forewarn)
        written = "\n".join([*pages, forewarn.output()])
    for password in (first, second):
        assert password not in written
        assert quote(password, safe="") not in written
    assert "refused the password" in written


async def redis_socket_gone(server: WatchedServer) -> None:
    await server.start()
    there, away = server.storage_dir / "redis.sock", server.storage_dir / "away.sock"
    async with await Wire.connect(server.url) as producer:
        await producer.push(queue="mail")
        there.rename(away)
        try:
            async with Forewarn(server) as forewarn, QuickScrapes(forewarn).throughout():
                scrape = await broken(forewarn, "redis", Reason.UNREACHABLE)
                assert scrape.value("faktory_up") == 1
                assert (scrape.value("faktory_connections") or 0) >= 1
                assert scrape.value("faktory_queue_jobs", queue="mail") is None
                away.rename(there)
                scrape = await healed(forewarn)
                assert scrape.value("faktory_queue_jobs", queue="mail") == 1
                assert lines(forewarn).count(("collector failing", "redis", "unreachable")) == 1
                assert lines(forewarn).count(("collector recovered", "redis", None)) == 1
        finally:
            if away.exists():
                away.rename(there)


async def redis_lost_while_watching(server: WatchedServer) -> None:
    await server.start()
    async with gated(server) as (forewarn, _, _, store), QuickScrapes(forewarn).throughout():
        await healed(forewarn)
        await store.shut()
        scrape = await broken(forewarn, "redis", Reason.UNREACHABLE)
        assert scrape.value("faktory_up") == 1
        assert scrape.value("faktory_set_jobs", set="working") is None
        await store.open()
        await healed(forewarn)
        await store.misbehave(raw(b"*2\r\n$4\r\ntor", then="close"))
        await told(forewarn, lambda it: collectors(it)["redis"] == 0, "a torn answer of Redis is told")
        await store.misbehave(raw(b""))
        await broken(forewarn, "redis", Reason.TIMEOUT)
        await store.misbehave(None)
        scrape = await healed(forewarn)
        assert scrape.value("faktory_set_jobs", set="working") == 0


# --- answers that are none -------------------------------------------------------------------------------------------


def page(status: str, kind: str, body: str) -> Handler:
    """Answer every request so."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write((head + body).encode())
        await writer.drain()

    return handle


async def health_page_misbehaves(server: WatchedServer) -> None:
    await server.start()
    async with gated(server) as (forewarn, _, web, _), QuickScrapes(forewarn).throughout():
        await healed(forewarn)
        for script, reason in (
            (page("200 OK", "application/json", '{"now":'), Reason.DECODE),
            (page("200 OK", "text/html", "<html>Faktory</html>"), Reason.PROTOCOL),
            (page("500 Internal Server Error", "text/plain", "oops"), Reason.SERVER),
            (raw(b"garbage\r\n\r\n", then="close"), Reason.PROTOCOL),
        ):
            await web.misbehave(script)
            scrape = await broken(forewarn, "health", reason)
            assert scrape.value("faktory_up") == 1  # the connection stands
            assert scrape.value("faktory_set_jobs", set="working") == 0
            assert scrape.value("faktory_connections") is None
            await web.misbehave(None)
            await healed(forewarn)
        await web.misbehave(raw(b""))  # it never answers
        await broken(forewarn, "health", Reason.TIMEOUT)
        await web.misbehave(None)
        scrape = await healed(forewarn)
        assert (scrape.value("faktory_connections") or 0) >= 1


async def server_hangs(server: WatchedServer) -> None:
    """Its sockets stay open and its Redis goes on, but nothing in it answers."""
    await server.start()
    async with Forewarn(server) as forewarn, QuickScrapes(forewarn).throughout():
        await healed(forewarn)
        server.process.send_signal(signal.SIGSTOP)
        hung_at = time.monotonic()
        try:
            scrape = await told(forewarn, lambda it: it.value("faktory_up") == 0, "a server that hangs is not up")
            assert time.monotonic() - hung_at < 10 + NOISE
            assert Reason.TIMEOUT in errors(scrape, "health")
            assert scrape.value("faktory_set_jobs", set="working") == 0
        finally:
            server.process.send_signal(signal.SIGCONT)
        scrape = await told(forewarn, lambda it: it.value("faktory_up") == 1, "it is up again")
        assert scrape.value("faktory_restarts_total") == 0


async def command_port_misbehaves(server: WatchedServer) -> None:
    await server.start()
    async with gated(server) as (forewarn, commands, _, _), QuickScrapes(forewarn).throughout():
        await healed(forewarn)
        await commands.misbehave(raw(b'+HI {"v', then="close"))
        scrape = await broken(forewarn, "connection", Reason.PROTOCOL)
        assert scrape.value("faktory_up") == 1
        assert scrape.value("faktory_set_jobs", set="working") == 0
        await commands.misbehave(raw(b""))
        await broken(forewarn, "connection", Reason.TIMEOUT)
        await commands.misbehave(None)
        await healed(forewarn)


def gigabytes_announced() -> Handler:
    """Shake hands, and answer what is asked then with two gibibytes, of which some come."""
    return saying(b"$2147483648\r\n" + b"x" * 100_000)


async def info_misbehaves(server: WatchedServer) -> None:
    await server.start()
    async with gated(server, redis=False) as (forewarn, commands, _, _), QuickScrapes(forewarn).throughout():
        await healed(forewarn)
        before = await forewarn.metric("process_resident_memory_bytes") or 0
        await commands.misbehave(saying(b'$500\r\n{"faktory":', then="close"))
        scrape = await told(forewarn, lambda it: collectors(it).get("info") == 0, "a torn INFO is told")
        assert errors(scrape, "info") == {Reason.PROTOCOL}
        assert scrape.value("faktory_up") == 1
        count = scrape.value("forewarn_collector_errors_total", collector="info", reason="protocol") or 0
        await commands.misbehave(gigabytes_announced())
        await told(
            forewarn,
            lambda it: (it.value("forewarn_collector_errors_total", collector="info", reason="protocol") or 0) > count,
            "two gibibytes are refused",
        )
        assert (await forewarn.metric("process_resident_memory_bytes") or 0) < before + 32 * 2**20
        await commands.misbehave(None)
        await healed(forewarn)


async def a_reservation_is_not_json(server: WatchedServer) -> None:
    await server.start()
    async with await Wire.connect(server.url, "worker-1") as wire, Forewarn(server) as forewarn:
        await wire.push(jobtype="Sound")
        assert await wire.fetch() is not None
        await forewarn.wait_for("faktory_busy_jobs", 1, 20, jobtype="Sound")
        later = time.time() + 5000
        bad = {"not json": later, '{"job": {"jid": 7}}': later, "[" * 5000: later, '{"wid": "w"': later}
        async with QuickScrapes(forewarn).throughout():
            await server.redis().zadd("working", bad)
            scrape = await broken(forewarn, "redis", Reason.DECODE)
            assert scrape.value("faktory_up") == 1
            assert scrape.value("faktory_busy_jobs", jobtype="Sound") == 1
            assert scrape.total("faktory_busy_jobs") == 1
            failures = {"collector": "redis", "reason": "decode"}
            await told(
                forewarn, lambda it: (it.value("forewarn_collector_errors_total", **failures) or 0) > 2, "thrice"
            )
            await server.redis().zrem("working", *bad)
            await healed(forewarn)
        assert lines(forewarn).count(("collector failing", "redis", "decode")) == 1


async def clock_is_off(server: WatchedServer) -> None:
    """What counts is the server's clock, by which it wrote all its times; here it is an hour ahead, then behind."""
    await server.start()
    async with gated(server) as (forewarn, _, web, _):
        for number, hours in enumerate((1, -1)):
            ahead = timedelta(hours=hours)
            # Moved by what has been told before, too: INFO tells no clock in this time.
            await web.misbehave(shifted(server, ahead))
            now = datetime.now(UTC) + ahead
            reservation = {
                "job": {"jid": f"off-{number}", "queue": "off", "jobtype": f"Off{number}", "args": []},
                "reserved_at": (now - timedelta(seconds=120)).isoformat(),
                "expires_at": "",
                "wid": "worker-1",
            }
            # Beyond what the server itself would take to be over.
            score = now.timestamp() + 1680 if hours > 0 else now.timestamp() + 2 * 3600 - 120
            await server.redis().zadd("working", {json.dumps(reservation): score})
            waits = {"jid": f"off-q-{number}", "enqueued_at": (now - timedelta(seconds=50)).isoformat()}
            key = f"q:off{number}" if server.version >= (1, 10) else f"off{number}"
            await arrange(server, ("LPUSH", key, json.dumps(waits)), ("SADD", "queues", f"off{number}"))
            written = time.monotonic()
            scrape = await told(
                forewarn,
                lambda it, number=number, written=written: (  # type: ignore[misc]
                    (it.value("faktory_queue_latency_seconds", queue=f"off{number}") or 0) >= 50
                    and 120
                    <= (it.value("faktory_busy_job_oldest_age_seconds", jobtype=f"Off{number}") or 0)
                    <= 120 + time.monotonic() - written + 1
                ),
                f"ages by a clock that is {hours} h off",
                20,
            )
            waited = scrape.value("faktory_queue_latency_seconds", queue=f"off{number}") or 0
            assert waited <= 50 + time.monotonic() - written + 1
            assert collectors(scrape)["health"] == 1


async def arrange(server: WatchedServer, *commands: tuple[str, ...]) -> None:
    """Change the server's Redis behind its back."""
    for command in commands:
        await server.redis().execute_command(*command)  # type: ignore[no-untyped-call]


def shifted(server: WatchedServer, ahead: timedelta) -> Handler:
    """The server's own health page, but for its clock."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        document: dict[str, Any] = await server.health()
        document["now"] = (datetime.now(UTC) + ahead).isoformat().replace("+00:00", "Z")
        await page("200 OK", "application/json", json.dumps(document))(reader, writer)

    return handle


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_whatever_fails_is_told_and_the_rest_goes_on(unstarted: WatchedServer) -> None:
    await all_of(
        unstarted,
        [
            stopped_and_started,
            password_changed,
            redis_socket_gone,
            redis_lost_while_watching,
            health_page_misbehaves,
            server_hangs,
        ],
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_whatever_is_answered_is_understood_or_told(unstarted: WatchedServer) -> None:
    await all_of(unstarted, [command_port_misbehaves, info_misbehaves, a_reservation_is_not_json, clock_is_off])


# --- the end ---------------------------------------------------------------------------------------------------------


async def ends(forewarn: Forewarn) -> None:
    """SIGTERM ends it within :data:`tests.forewarn.STOP_DEADLINE`, with status 0."""
    status, _ = await forewarn.stop()
    assert status == 0, forewarn.output()
    assert "Traceback" not in forewarn.output()
    assert lines(forewarn)[-1][0] == "stopped"


async def ended_politely(server: WatchedServer) -> None:
    await server.start()
    async with Forewarn(server) as forewarn:
        await forewarn.wait_for("faktory_connections", 1, 20)
        await ends(forewarn)
    await wait_until(lambda: _no_connections(server), what="the server has no connections")
    if isinstance(server, StandInFaktory):
        said = [entry["verb"] for entry in server.ledger() if "verb" in entry]
        assert said == ["HELLO", "END"]


async def _no_connections(server: WatchedServer) -> bool:
    return bool((await server.health())["server"]["connections"] == 0)


async def ended_while_the_server_hangs(server: WatchedServer) -> None:
    await server.start()
    async with Forewarn(server) as forewarn:
        await healed(forewarn)
        server.process.send_signal(signal.SIGSTOP)
        try:
            await forewarn.wait_for("forewarn_collector_up", 0, 20, collector="health")
            await ends(forewarn)
        finally:
            server.process.send_signal(signal.SIGCONT)


async def ended_while_refused(server: WatchedServer) -> None:
    await server.start()
    refusing = saying_at_hello(b"+OK\r\n-ERR too many connections: 2000\r\n")
    async with gated(server) as (forewarn, commands, _, _):
        await healed(forewarn)
        await commands.misbehave(refusing)
        await told(forewarn, lambda it: it.value("faktory_connections_refused_total"), "refused")
        await ends(forewarn)


def saying_at_hello(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'+HI {"v":2}\r\n')
        await reader.readline()
        writer.write(answer)
        await writer.drain()

    return handle


async def ended_while_a_scraper_reads_slowly(server: WatchedServer) -> None:
    await server.start()
    # Enough that no socket's buffers hold all of it.
    await arrange(server, ("SADD", "queues", *(f"queue-{number}-{'x' * 110}" for number in range(9000))))
    async with Forewarn(server, arguments=["--max-label-values=10000"]) as forewarn:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", forewarn.port))
            await loop.sock_sendall(slow, b"GET /metrics HTTP/1.1\r\nHost: forewarn\r\n\r\n")
            assert (await loop.sock_recv(slow, 15)).startswith(b"HTTP/1.1 200")
            await ends(forewarn)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_sigterm_ends_it_soon_whatever_is_under_way(unstarted: WatchedServer) -> None:
    await all_of(
        unstarted,
        [
            ended_politely,
            ended_while_the_server_hangs,
            ended_while_refused,
            ended_while_a_scraper_reads_slowly,
        ],
    )


# --- the state file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b'{"version": 1, "serv', "is broken", id="broken"),
        pytest.param(b"", "is broken", id="empty"),
        pytest.param(b'{"version": 99, "servers": {}}', "has version 99", id="foreign-version"),
        pytest.param(
            b'{"version": 1, "servers": {"faktory": {"boot": 7}}}', "state of a server is not understood", id="foreign"
        ),
        pytest.param(None, "cannot be written", id="unwritable"),
    ],
)
async def test_a_state_file_that_cannot_be_used_is_told_and_the_watch_goes_on(
    content: bytes | None, complaint: str, standin: StandInFaktory, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    if content is None:
        state = tmp_path / "gone" / "state.json"
        state.parent.mkdir()
    else:
        state.write_bytes(content)
    async with Forewarn(standin, state_file=state) as forewarn:
        if content is None:
            state.parent.rmdir()
        assert await forewarn.metric("faktory_up") == 1
        assert await forewarn.metric("faktory_worker_crashes_total", reason="vanished") == 0
        await ends(forewarn)
        warnings = [line for line in forewarn.log() if line["level"] == "warning"]
    assert [line["message"] for line in warnings if complaint in line["message"]], forewarn_lines(warnings)
    assert len(warnings) == 1
    if content is not None:
        assert json.loads(state.read_bytes())["version"] == 1


def forewarn_lines(found: list[dict[str, Any]]) -> str:
    return "\n".join(map(str, found))


# --- settings --------------------------------------------------------------------------------------------------------

SERVER = '[[servers]]\nname = "one"\nsystem = "faktory"\nurl = "tcp://:hunter2@127.0.0.1:{port}"\n'


@pytest.mark.parametrize(
    ("text", "environment", "complaints"),
    [
        pytest.param("intervall = '5s'\n" + SERVER, {}, ["intervall", "interval"], id="unknown-key"),
        pytest.param("interval = 5\n" + SERVER, {}, ["interval", "number"], id="wrong-type"),
        pytest.param(SERVER + SERVER, {}, ["one", "name"], id="two-of-one-name"),
        pytest.param(SERVER + 'password_file = "nowhere"\n', {}, ["password_file", "nowhere"], id="secret"),
        pytest.param(SERVER, {"FOREWARN_INTERVALL": "5s"}, ["FOREWARN_INTERVALL"], id="unknown-variable"),
        pytest.param(SERVER, {"FOREWARN_INTERVAL": "soon"}, ["FOREWARN_INTERVAL", "soon"], id="no-duration"),
    ],
)
async def test_wrong_settings_end_it_with_status_2_before_anything_is_opened(
    text: str, environment: Mapping[str, str], complaints: list[str], tmp_path: Path
) -> None:
    async with serving(raw(b"")) as server:
        config = tmp_path / "forewarn.toml"
        config.write_text(text.replace("{port}", str(server.port)))
        state = tmp_path / "state.json"
        arguments = [f"--config={config}", f"--state-file={state}", f"--web.listen-address=127.0.0.1:{free_port()}"]
        run = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "exporter.cli", "run", *arguments],
            env={name: value for name, value in os.environ.items() if not name.startswith(("FAKTORY", "FOREWARN"))}
            | dict(environment),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert server.accepted == 0
    assert run.returncode == 2
    assert run.stdout == ""
    for complaint in complaints:
        assert complaint in run.stderr
    assert "hunter2" not in run.stderr
    assert "Traceback" not in run.stderr
    assert not state.exists()


# --- a thousand failures ---------------------------------------------------------------------------------------------


def torn_http() -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
        await writer.drain()

    return handle


def resetting() -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        reset(writer)

    return handle


COMMAND_PORT: tuple[Handler, ...] = (
    raw(b'+HI {"v', then="close"),
    raw(b"-ERR go away\r\n", then="close"),
    raw(b"HTTP/1.1 400 Bad Request\r\n\r\n", then="close"),
    raw(b"$2147483648\r\n" + b"x" * 1000),
    raw(b'+HI {"v":2,"i":99999999999,"s":"00"}\r\n'),
    saying_at_hello(b"+OK\r\n-ERR too many connections: 2000\r\n"),
    saying_at_hello(b"-ERR Invalid password\r\n"),
    saying_at_hello(b"*1\r\n"),
    raw(b"", then="reset"),
    saying(then="reset"),
)
HEALTH: tuple[Handler, ...] = (
    page("200 OK", "application/json", "{}"),
    page("200 OK", "application/json", "x" * 100_000),
    page("200 OK", "text/html", "<html>"),
    page("500 Oops", "text/plain", "oops"),
    raw(b"garbage\r\n\r\n", then="close"),
    torn_http(),
    resetting(),
)
REDIS: tuple[Handler, ...] = (
    raw(b"*2\r\n$4\r\ntor", then="close"),
    raw(b"-LOADING Redis is loading the dataset in memory\r\n" * 6),
    raw(b"-NOAUTH Authentication required.\r\n" * 6),
    raw(b"!garbage\r\n"),
    raw(b":1\r\n" * 6),
    raw(b"", then="close"),
    resetting(),
)


@pytest.mark.slow
@pytest.mark.timeout(280)
async def test_a_thousand_failures_leave_no_descriptor_no_task_and_no_memory_behind() -> None:
    turn = [0]
    clock = Clock()

    def by_turn(scripts: tuple[Handler, ...]) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await scripts[turn[0] % len(scripts)](reader, writer)

        return handle

    async with (
        serving(by_turn(COMMAND_PORT)) as commands,
        serving(by_turn(HEALTH)) as health,
        serving(by_turn(REDIS)) as store,
    ):
        source = FaktorySource(
            Client(Endpoint("127.0.0.1", commands.port), clock=clock, connect_timeout=1, command_timeout=1),
            web_url=f"http://127.0.0.1:{health.port}",
            store=Store(f"redis://127.0.0.1:{store.port}", timeout=1),
        )
        with ThreadPoolExecutor(1) as executor:
            watch = Watch(
                "faktory",
                "faktory",
                source,
                Signals(200),
                interval=5,
                publish=lambda _: None,
                to_save=asyncio.Event(),
                executor=executor,
            )
            found: list[tuple[int, int, int]] = []
            for number in range(1100):
                turn[0] = number
                clock.now += 60  # longer than any wait before the next try
                snapshot = await watch.poll()
                failed = {run.name for run in snapshot.observation.runs if run.failure}
                assert failed >= {"health", "redis"}
                if number in {99, 1099}:
                    found.append(await at_rest())
            totals = {it.last.name: sum(it.errors.values()) for it in snapshot.collectors}
            assert totals["connection"] >= 900
            await watch.close()
    (descriptors, tasks, memory), (descriptors_after, tasks_after, memory_after) = found
    assert descriptors_after <= descriptors
    assert tasks_after <= tasks
    assert memory_after <= memory + 6 * 2**20


async def at_rest() -> tuple[int, int, int]:
    """Return the numbers of descriptors and tasks once they have settled, and the resident bytes."""
    last: list[tuple[int, int]] = []

    def settled() -> bool:
        last.append((len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())))
        return len(last) >= 10 and len(set(last[-10:])) == 1

    await wait_until(settled, 20, what="descriptors and tasks have settled")
    gc.collect()
    return *last[-1], resident_bytes()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
