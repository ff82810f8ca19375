"""``forewarn check``, live: each usual mistake is made, told, and mended by what the remedy says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pwd
import re
import resource
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from exporter.check.command import all_needed_works, check
from exporter.check.finding import Finding, State
from exporter.check.places import Places
from exporter.check.progress import Progress
from exporter.check.table import write_table
from exporter.settings import load
from tests.forewarn import Forewarn
from tests.live_redis import Asked, monitored, open_tcp_port
from tests.live_relay import Relay
from tests.programs import need
from tests.receiver import receiving
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, free_port, running, wait_until
from tests.wire import Wire

PASSWORD = "sesame-of-the-server"
WRONG = "sesame-of-another"
READS = {"TIME", "MGET", "ZCARD", "SSCAN", "LLEN", "LINDEX", "ZRANGEBYSCORE"}
NOBODY = 65534
GIVEN_BY = ("flags", "environment", "file")
"""Where settings are given: a remedy must fit each."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the place of another user")


class Operator:
    """Who sets Forewarn up, checks, and does what the remedies say, to the letter."""

    def __init__(self, folder: Path, server: WatchedServer | None = None) -> None:
        self.folder = folder
        self.flags: dict[str, str | list[str] | None] = {"web.listen-address": f"127.0.0.1:{free_port()}"}
        self.environ: dict[str, str] = {}
        self.file = folder / "forewarn.toml"
        self.secrets = {PASSWORD, WRONG}
        self.wall: Callable[[], float] = time.time
        if server is not None:
            self.flags |= {
                "faktory.url": server.url,
                "faktory.web-url": server.web_url,
                "faktory.redis-url": server.redis_url,
                "faktory.config-dir": str(server.config_dir),
            }

    def give(self, by: str) -> None:
        """Give everything so far by flags, by the environment, or by the file."""
        if by == "environment":
            self._by_environment()
        if by == "file":
            self._by_file()

    def _by_environment(self) -> None:
        """Give everything by the environment instead of flags."""
        named = {f"FOREWARN_{name.upper().replace('.', '_').replace('-', '_')}": it for name, it in self.flags.items()}
        self.environ |= {name: str(it) for name, it in named.items()}
        self.environ["FAKTORY_URL"] = self.environ.pop("FOREWARN_FAKTORY_URL")
        self.flags = {}

    def _by_file(self) -> None:
        """Give everything by the file instead of flags."""
        keys = {name.partition(".")[2].replace("-", "_"): it for name, it in self.flags.items() if "faktory." in name}
        lines = [f"{key} = {json.dumps(it)}" for key, it in keys.items()]
        own = ["[web]", f"listen_address = {json.dumps(self.flags['web.listen-address'])}"]
        self.file.write_text("\n".join([*own, "", "[[servers]]", 'name = "main"', 'system = "faktory"', *lines, ""]))
        self.flags = {"config": str(self.file)}

    async def check(self) -> Findings:
        """Check, and see that no secret is told."""
        settings = load(self.flags, self.environ)
        findings = await check(settings, Places(self.flags, self.environ), wall=self.wall)
        with tempfile.TemporaryFile("w+") as out:
            write_table(findings, settings, out, seconds=0.1)
            out.seek(0)
            table = out.read()
        for secret in self.secrets:
            assert secret not in table
            assert secret not in repr(findings)
        for it in findings:
            if it.state in {State.FAILED, State.WARNING}:
                assert re.search(r"^\S.*(\n    \S.*)+$", str(it.remedy)), f"nothing to do: {it}"
            assert it.part != "check", it
        return Findings(findings)

    def follow(self, remedy: str | None, **blanks: str) -> None:
        """Do what a remedy says; ``blanks`` fill what it leaves open: PASSWORD, HOST, PORT, N, PEM, FILE."""
        assert remedy is not None
        lines = [line[4:] for line in remedy.splitlines() if line.startswith("    ")]
        assert lines, f"nothing to do in: {remedy}"
        for line in lines:
            self._do(_filled(line, blanks), remedy)

    def _do(self, line: str, remedy: str) -> None:
        if line.startswith("--"):
            name, value = shlex.split(line)
            self.flags[name.removeprefix("--")] = value
        elif line.startswith("export "):
            name, _, value = shlex.split(line)[1].partition("=")
            self.environ[name] = value
        elif " = " in line:
            self._write(line, remedy)
        else:
            subprocess.run(line, shell=True, check=True, timeout=20)  # noqa: S602 - as an operator would

    def _write(self, line: str, remedy: str) -> None:
        """Write a line into the file where the remedy says."""
        assert str(self.file) in remedy
        key = line.partition(" = ")[0]
        lines = [it for it in self.file.read_text().splitlines() if not it.startswith(f"{key} =")]
        found = re.search(r"with name = (.*):$|under (\[.*\]):$", remedy, re.MULTILINE)
        assert found
        anchor = f"name = {found[1]}" if found[1] else found[2]
        lines.insert(lines.index(anchor) + 1, line)
        self.file.write_text("\n".join(lines) + "\n")


def _filled(line: str, blanks: Mapping[str, str]) -> str:
    known = {"PEM": r"/path/to/ca\.pem", "FILE": r"/path/to/[a-z-]+(?!\.)\b|/var/log/faktory\.log"}
    for name, value in blanks.items():
        line = re.sub(known.get(name, rf"\b{name}\b"), value.replace("\\", r"\\"), line)
    return line


class Findings(list[Finding]):
    """What was found of one server and of the sidecar."""

    def of(self, part: str) -> Finding:
        """Return the one finding about a part."""
        found = [it for it in self if it.part == part]
        assert len(found) == 1, found
        return found[0]

    def state(self, part: str) -> State:
        """Return how it stands with a part."""
        return self.of(part).state

    @property
    def works(self) -> bool:
        """Whether all that is needed works."""
        return all_needed_works(self)


@pytest.fixture
def operator(server: WatchedServer, tmp_path: Path) -> Operator:
    return Operator(tmp_path, server)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


class InTls:
    """Speaks TLS on a port of its own, and passes on in plain text what comes."""

    def __init__(self, port: int, authority: trustme.CA) -> None:
        self._target = port
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self._tls)
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        tasks: set[asyncio.Task[None]] = set()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
            writer.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
                await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
            writer.transport.abort()
            tasks.discard(task)

        listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self._tls)
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# --- what it costs --------------------------------------------------------------------------------------------------


async def test_all_is_well_beside_a_server_that_is_well(operator: Operator, server: WatchedServer) -> None:
    async with await Wire.connect(server.url) as producer:
        await producer.push(queue="mail")
        found = await operator.check()
    assert found.works
    assert {it.state for it in found} <= {State.OK, State.OFF}, found
    assert "1 connection, " in found.of("health page").what
    assert "1 queue, 0 jobs busy" in found.of("redis").what
    assert f"process {server.pid}," in found.of("process").what
    assert found.of("version").what == f"{'.'.join(map(str, server.version))} (open source)"


async def test_one_check_asks_for_one_page_one_answer_and_a_handful_of_numbers(
    operator: Operator, server: WatchedServer
) -> None:
    port = await open_tcp_port(server)
    async with Relay(server.port) as command, Relay(server.web_port) as pages, monitored(server) as asked:
        operator.flags |= {
            "faktory.url": f"tcp://127.0.0.1:{command.port}",
            "faktory.web-url": f"http://127.0.0.1:{pages.port}",
            "faktory.redis-url": f"redis://127.0.0.1:{port}/0",
        }
        assert (await operator.check()).works
        await command.ended()
        await pages.ended()
        await _seen(server, asked)
    assert [said.verb for said in command.said] == ["HELLO", "BEAT", "END"]
    assert "wid" not in json.loads(command.said[0].line.removeprefix("HELLO "))
    assert command.connections == 1
    assert [said.line for said in pages.said if "HTTP/1." in said.line] == ["GET /health HTTP/1.1"]
    ours = [it for it in asked if it.by_tcp]
    assert {it.command for it in ours} == READS
    assert len(ours) == 10
    assert len({it.client for it in ours}) == 1
    if isinstance(server, StandInFaktory):
        assert {it["path"] for it in server.ledger() if "path" in it} == {"/health"}


async def _seen(server: WatchedServer, asked: list[Asked]) -> None:
    """Wait until the witness has told all that Redis was asked before now."""
    await server.redis().execute_command("ECHO", "all-told")  # type: ignore[no-untyped-call]
    for _ in range(1000):
        if any(it.command == "ECHO" for it in asked):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the witness is silent")


async def test_without_redis_it_still_never_asks_for_info(standin: StandInFaktory, tmp_path: Path) -> None:
    operator = Operator(tmp_path, standin)
    operator.flags["faktory.redis-url"] = None
    found = await operator.check()
    assert found.works
    assert found.state("redis") is State.WARNING
    assert "INFO" in found.of("redis").what
    asked = [it["verb"] for it in standin.ledger() if "verb" in it]
    assert asked == ["HELLO", "BEAT", "END"]
    operator.follow(found.of("redis").remedy)
    assert operator.flags["faktory.redis-url"] == "unix:///var/lib/faktory/db/redis.sock"


async def test_a_server_that_is_full_is_asked_once_and_its_count_is_told(tmp_path: Path) -> None:
    async with running(StandInFaktory(connections_limit=1)) as server:
        assert isinstance(server, StandInFaktory)
        operator = Operator(tmp_path, server)
        operator.flags["faktory.connections-limit"] = "1"
        async with await Wire.connect(server.url):
            before = len(server.ledger())
            found = await operator.check()
            asked = [it.get("verb", it.get("path")) for it in server.ledger()[before:]]
        assert sorted(map(str, asked)) == ["/health", "HELLO"]
        assert found.works, "a server that is full is what Forewarn is there to tell of"
        assert found.state("command port") is State.WARNING
        assert "at its connection limit" in found.of("command port").what
        assert found.of("limit").what.startswith("1 of 1 connections are in use")
        await wait_until(lambda: _nobody_on(server), what="the server has noticed that all have gone")
        assert (await operator.check()).state("command port") is State.OK


async def _nobody_on(server: WatchedServer) -> bool:
    return bool((await server.health())["server"]["connections"] == 0)


class Watching(Progress):
    """Notes of how many servers the same part was being tried at once."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.most = 0
        self._now: set[str | None] = set()

    def trying(self, server: str | None, part: str, *, begins: bool) -> None:
        if part == "command port":
            (self._now.add if begins else self._now.discard)(server)
            self.most = max(self.most, len(self._now))


async def test_many_servers_are_tried_at_once(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(_deaf()) for _ in range(8)]
        tables = [
            f'[[servers]]\nname = "s{number}"\nsystem = "faktory"\nurl = "tcp://127.0.0.1:{port}"\n'
            for number, port in enumerate(ports)
        ]
        (tmp_path / "forewarn.toml").write_text("\n".join(tables))
        flags = {"config": str(tmp_path / "forewarn.toml"), "web.listen-address": f"127.0.0.1:{free_port()}"}
        watching = Watching()
        found = await check(load(flags, {}), Places(flags, {}), progress=watching)
    assert watching.most == 8
    of_ports = [it for it in found if it.part == "command port"]
    assert [it.server for it in of_ports] == [f"s{number}" for number in range(8)]
    assert {it.state for it in of_ports} == {State.FAILED}


# --- the command port -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", ["wrong", "missing"])
async def test_a_wrong_or_missing_password(unstarted: WatchedServer, tmp_path: Path, mistake: str) -> None:
    await unstarted.start(PASSWORD)
    (tmp_path / "password").write_text(PASSWORD)
    for given_by in GIVEN_BY:
        operator = Operator(tmp_path, unstarted)
        url = f"tcp://{f':{WRONG}@' if mistake == 'wrong' else ''}127.0.0.1:{unstarted.port}"
        operator.flags["faktory.url"] = url
        operator.give(given_by)
        found = await operator.check()
        assert not found.works
        assert "password" in found.of("command port").what
        operator.follow(found.of("command port").remedy, FILE=str(tmp_path / "password"))
        assert (await operator.check()).works, given_by


async def test_a_wrong_password_in_a_file(unstarted: WatchedServer, tmp_path: Path) -> None:
    await unstarted.start(PASSWORD)
    operator = Operator(tmp_path, unstarted)
    (tmp_path / "secret").write_text(WRONG)
    operator.flags |= {
        "faktory.url": f"tcp://127.0.0.1:{unstarted.port}",
        "faktory.password-file": str(tmp_path / "secret"),
    }
    found = await operator.check()
    operator.follow(found.of("command port").remedy, PASSWORD=PASSWORD)
    assert (await operator.check()).works


async def test_a_wrong_password_in_faktorys_own_variable(unstarted: WatchedServer, tmp_path: Path) -> None:
    await unstarted.start(PASSWORD)
    operator = Operator(tmp_path, unstarted)
    operator.flags["faktory.url"] = f"tcp://127.0.0.1:{unstarted.port}"
    operator.environ["FAKTORY_PASSWORD"] = WRONG
    found = await operator.check()
    assert found.state("command port") is State.FAILED
    (tmp_path / "password").write_text(PASSWORD)
    operator.follow(found.of("command port").remedy, FILE=str(tmp_path / "password"))
    assert (await operator.check()).works


async def test_the_two_ports_are_swapped(server: WatchedServer, tmp_path: Path) -> None:
    for given_by in GIVEN_BY:
        operator = Operator(tmp_path, server)
        operator.flags |= {
            "faktory.url": f"tcp://127.0.0.1:{server.web_port}",
            "faktory.web-url": f"http://127.0.0.1:{server.port}",
        }
        operator.give(given_by)
        found = await operator.check()
        assert "port of its web pages" in str(found.of("command port").remedy), found.of("command port")
        assert found.state("health page") is State.FAILED
        operator.follow(found.of("command port").remedy)
        operator.follow(found.of("health page").remedy)
        assert (await operator.check()).works, given_by


async def test_the_command_port_is_that_of_the_web_pages(operator: Operator, server: WatchedServer) -> None:
    operator.flags["faktory.url"] = f"tcp://127.0.0.1:{server.web_port}"
    found = await operator.check()
    assert found.state("health page") is State.OK
    remedy = str(found.of("command port").remedy)
    assert remedy.endswith(":\n    --faktory.url tcp://127.0.0.1:7419"), remedy
    operator.follow(remedy.replace("7419", str(server.port)))
    assert (await operator.check()).works


async def test_tls_is_spoken_to_plain_ports(unstarted: WatchedServer, tmp_path: Path) -> None:
    await unstarted.start(PASSWORD)
    operator = Operator(tmp_path, unstarted)
    port = await open_tcp_port(unstarted)
    operator.flags |= {
        "faktory.url": f"tcp+tls://:{PASSWORD}@127.0.0.1:{unstarted.port}",
        "faktory.web-url": unstarted.web_url.replace("http:", "https:"),
        "faktory.redis-url": f"rediss://127.0.0.1:{port}/0",
    }
    found = await operator.check()
    for part in ("command port", "health page", "redis"):
        assert found.state(part) is State.FAILED
        operator.follow(found.of(part).remedy, PASSWORD=PASSWORD)
    assert (await operator.check()).works


async def test_plain_text_is_spoken_to_tls_ports(
    operator: Operator, server: WatchedServer, authority: trustme.CA, ca_file: str
) -> None:
    redis_port = await open_tcp_port(server)
    async with (
        InTls(server.port, authority).serving() as command,
        InTls(server.web_port, authority).serving() as pages,
        InTls(redis_port, authority).serving() as redis,
    ):
        operator.flags |= {
            "faktory.url": f"tcp://127.0.0.1:{command}",
            "faktory.web-url": f"http://127.0.0.1:{pages}",
            "faktory.redis-url": f"redis://127.0.0.1:{redis}/0",
        }
        await _follow_tls(operator, ca_file)


@pytest.mark.real
async def test_plain_text_is_spoken_to_a_real_server_in_tls(
    unstarted: WatchedServer, tmp_path: Path, authority: trustme.CA, ca_file: str
) -> None:
    if not isinstance(unstarted, RealFaktory) or unstarted.version < (1, 9):
        pytest.skip("Faktory speaks TLS itself since 1.9")
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(str(unstarted.config_dir / "private.key.pem"))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(unstarted.config_dir / "public.cert.pem"), append=number > 0)
    await _start_unseen(unstarted)
    await _follow_tls(Operator(tmp_path, unstarted), ca_file)


async def _follow_tls(operator: Operator, ca_file: str) -> None:
    """First the scheme is wrong, then the authority is not trusted, then all is well."""
    named = operator.flags["faktory.redis-url"]
    parts = ["command port", "health page", *(["redis"] if str(named).startswith("redis:") else [])]
    for _ in range(2):
        found = await operator.check()
        for part in parts:
            assert found.state(part) is State.FAILED, part
            operator.follow(found.of(part).remedy, PEM=ca_file)
    assert (await operator.check()).works


async def _start_unseen(server: WatchedServer) -> None:
    """Start a server of which one port does not answer as usual, so that the usual waiting would not see it start."""

    async def answers() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.close()
            return True
        return False

    server._answers = answers  # type: ignore[method-assign]
    await server.start()


@contextlib.contextmanager
def _deaf() -> Iterator[int]:
    """Yield a port to which no connection comes about, as behind a firewall that drops what it is sent."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # so many wait already that the kernel drops what else comes
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_firewall_is_told_from_a_port_where_nothing_listens(operator: Operator, server: WatchedServer) -> None:
    right = operator.flags["faktory.url"]
    with _deaf() as port:
        operator.flags["faktory.url"] = f"tcp://127.0.0.1:{port}"
        found = await operator.check()
        assert "lost on the way" in found.of("command port").what
        assert "firewall" in str(found.of("command port").remedy)
        assert f"nc -vz 127.0.0.1 {port}" in str(found.of("command port").remedy)
    operator.flags["faktory.url"] = f"tcp://127.0.0.1:{free_port()}"
    found = await operator.check()
    assert "nothing listens there" in found.of("command port").what
    assert "firewall" not in str(found.of("command port").remedy)
    operator.follow(found.of("command port").remedy, HOST="127.0.0.1", PORT=str(server.port))
    assert operator.flags["faktory.url"] == right
    assert (await operator.check()).works


async def test_a_name_that_does_not_resolve(operator: Operator) -> None:
    for flag in ("faktory.url", "faktory.web-url"):
        operator.flags[flag] = str(operator.flags[flag]).replace("127.0.0.1", "faktory.invalid")
    found = await operator.check()
    for part in ("command port", "health page"):
        assert "its name does not resolve" in found.of(part).what
        operator.follow(found.of(part).remedy, HOST="127.0.0.1", PORT=str(_port(operator.flags["faktory.web-url"])))
    assert (await operator.check()).works


def _port(url: object) -> str:
    return str(url).rpartition(":")[2]


# --- the health page ------------------------------------------------------------------------------------------------


async def test_the_web_ui_is_off_or_elsewhere(unstarted: WatchedServer, tmp_path: Path) -> None:
    if isinstance(unstarted, RealFaktory):
        usual = list(unstarted.command_line())
        off = [":0" if it == f"127.0.0.1:{unstarted.web_port}" else it for it in usual]
        unstarted.command_line = lambda: off  # type: ignore[method-assign]
        await _start_unseen(unstarted)
    else:
        await unstarted.start()
    operator = Operator(tmp_path, unstarted)
    page = unstarted.web_port if isinstance(unstarted, RealFaktory) else free_port()
    operator.flags["faktory.web-url"] = f"http://127.0.0.1:{page}"
    found = await operator.check()
    assert not found.works
    assert found.state("health page") is State.FAILED
    assert "Web UI on (its -w is not :0)" in str(found.of("health page").remedy)
    assert found.state("command port") is found.state("redis") is State.OK
    if isinstance(unstarted, RealFaktory):  # what the sentence says
        unstarted.command_line = lambda: usual  # type: ignore[method-assign]
        await unstarted.stop()
        await _start_unseen(unstarted)
        await _until_open(unstarted.web_port)
    else:  # what the line says
        operator.follow(found.of("health page").remedy, HOST="127.0.0.1", PORT=str(unstarted.web_port))
    assert (await operator.check()).works


async def _until_open(port: int) -> None:
    for _ in range(1000):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"nothing listens on {port}")


@asynccontextmanager
async def _health_told_by(server: WatchedServer, **changes: object) -> AsyncIterator[str]:
    """Yield a web address whose health page is that of ``server``, but for ``changes``."""

    async def page(_: web.Request) -> web.Response:
        document = await server.health()
        document["server"] |= changes
        return web.json_response(document)

    app = web.Application()
    app.router.add_get("/health", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_limit_is_not_known_on_enterprise(standin: StandInFaktory, tmp_path: Path) -> None:
    async with _health_told_by(standin, description="Faktory Enterprise") as url:
        for given_by in GIVEN_BY:
            operator = Operator(tmp_path, standin)
            operator.flags["faktory.web-url"] = url
            operator.give(given_by)
            found = await operator.check()
            assert found.works
            assert found.state("limit") is State.WARNING
            assert "licence" in found.of("limit").what
            operator.follow(found.of("limit").remedy, N="100")
            assert (await operator.check()).of("limit").what.startswith("100 connections (configured)"), given_by


async def test_the_server_may_open_fewer_files_than_it_allows_connections(
    operator: Operator, server: WatchedServer
) -> None:
    need("prlimit", "util-linux")
    _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 4000:
        pytest.skip("no process of this machine may open 4000 files")
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (512, most))
    found = await operator.check()
    assert found.works
    assert "it may open 512 files only" in found.of("limit").what
    operator.follow(found.of("limit").remedy)
    assert (await operator.check()).state("limit") is State.OK


async def test_a_version_is_known_to_crash(standin: StandInFaktory, tmp_path: Path) -> None:
    operator = Operator(tmp_path, standin)
    (standin.config_dir / "conf.d" / "throttles.toml").write_text("[throttles]\nmail = { worker = 2 }\n")
    async with _health_told_by(standin, description="Faktory Enterprise", faktory_version="1.8.0") as url:
        operator.flags["faktory.web-url"] = url
        assert "known to crash" in (await operator.check()).of("version").what
    async with _health_told_by(standin, description="Faktory Enterprise", faktory_version="1.9.1") as url:
        operator.flags["faktory.web-url"] = url
        assert (await operator.check()).state("version") is State.OK


@pytest.mark.parametrize("seconds", [-3600.0, 5.0])
async def test_the_clocks_differ(operator: Operator, seconds: float) -> None:
    operator.wall = lambda: time.time() + seconds
    found = await operator.check()
    assert found.works
    assert found.state("clock") is State.WARNING
    assert ("ahead of ours" if seconds < 0 else "behind ours") in found.of("clock").what
    assert "timedatectl set-ntp true" in str(found.of("clock").remedy)
    operator.wall = time.time
    assert (await operator.check()).state("clock") is State.OK


# --- redis ----------------------------------------------------------------------------------------------------------


async def test_the_socket_is_named_a_folder_too_high(operator: Operator, server: WatchedServer) -> None:
    operator.flags["faktory.redis-url"] = f"unix://{server.folder}/redis.sock"
    found = await operator.check()
    assert "is not there" in found.of("redis").what
    operator.follow(found.of("redis").remedy)
    assert operator.flags["faktory.redis-url"] == server.redis_url
    assert (await operator.check()).works


async def test_the_folder_is_named_for_the_socket(operator: Operator, server: WatchedServer) -> None:
    operator.flags["faktory.redis-url"] = f"unix://{server.storage_dir}"
    found = await operator.check()
    assert "is no socket" in found.of("redis").what
    operator.follow(found.of("redis").remedy)
    assert (await operator.check()).works


async def test_another_database_of_the_right_redis(operator: Operator, server: WatchedServer) -> None:
    async with await Wire.connect(server.url) as producer:
        for _ in range(100):
            await producer.push(queue="mail")
        operator.flags["faktory.redis-url"] = f"{server.redis_url}?db=3"
        found = await operator.check()
        assert "holds nothing of Faktory's" in found.of("redis").what
        operator.follow(found.of("redis").remedy)
        found = await operator.check()
    assert found.works
    assert "1 queue" in found.of("redis").what


@as_root
async def test_the_redis_of_another_faktory(operator: Operator, server: WatchedServer) -> None:
    async with running(StandInFaktory()) as other:
        operator.flags["faktory.redis-url"] = other.redis_url
        found = await operator.check()
        assert f"belongs to another Faktory (process {other.pid})" in found.of("redis").what
        operator.flags["faktory.redis-url"] = server.redis_url
        assert (await operator.check()).works


async def test_a_redis_that_holds_things_of_another_kind(operator: Operator, server: WatchedServer) -> None:
    await server.redis().execute_command("SELECT", 7)  # type: ignore[no-untyped-call]
    client = server.redis()
    await client.execute_command("SELECT", 7)  # type: ignore[no-untyped-call]
    await client.set("queues", "a text")
    await client.execute_command("SELECT", 0)  # type: ignore[no-untyped-call]
    operator.flags["faktory.redis-url"] = f"{server.redis_url}?db=7"
    found = await operator.check()
    assert "is not Faktory's" in found.of("redis").what


async def test_a_redis_user_with_a_wrong_password(operator: Operator, server: WatchedServer) -> None:
    port = await open_tcp_port(server)
    await server.redis().execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "watcher", "on", f">{PASSWORD}", "~*", "+@all"
    )
    operator.flags["faktory.redis-url"] = f"redis://watcher:{WRONG}@127.0.0.1:{port}/0"
    found = await operator.check()
    assert not found.works
    (operator.folder / "redis-password").write_text(PASSWORD)
    operator.flags["faktory.redis-url"] = f"redis://watcher@127.0.0.1:{port}/0"
    operator.follow(found.of("redis").remedy, FILE=str(operator.folder / "redis-password"))
    assert (await operator.check()).works


async def test_a_redis_user_that_may_not_read_enough(operator: Operator, server: WatchedServer) -> None:
    need("redis-cli", "redis-tools")
    port = await open_tcp_port(server)
    await server.redis().execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "watcher", "on", f">{PASSWORD}", "~*", "+time", "+select", "+mget"
    )
    operator.flags["faktory.redis-url"] = f"redis://watcher:{PASSWORD}@127.0.0.1:{port}/0"
    found = await operator.check()
    remedy = found.of("redis").remedy
    assert "does not permit" in found.of("redis").what
    assert remedy is not None
    operator.follow(remedy.replace("redis-cli", f"redis-cli -s {server.storage_dir}/redis.sock"), USER="watcher")
    assert (await operator.check()).works


async def test_a_redis_that_wants_a_password(standin: StandInFaktory, tmp_path: Path) -> None:
    operator = Operator(tmp_path, standin)
    port = await open_tcp_port(standin)
    await standin.redis().config_set("requirepass", PASSWORD)
    operator.flags["faktory.redis-url"] = f"redis://127.0.0.1:{port}/0"
    found = await operator.check()
    assert "asks for a password, and none is configured" in found.of("redis").what
    (tmp_path / "redis-password").write_text(PASSWORD)
    operator.follow(found.of("redis").remedy, FILE=str(tmp_path / "redis-password"))
    assert (await operator.check()).works


async def test_a_redis_that_wants_none(operator: Operator, server: WatchedServer) -> None:
    port = await open_tcp_port(server)
    operator.flags["faktory.redis-url"] = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    found = await operator.check()
    assert "has no password, and one is configured" in found.of("redis").what
    operator.flags["faktory.redis-url"] = f"redis://127.0.0.1:{port}/0"
    assert (await operator.check()).works


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "is still loading its data"),
        (b"-CLUSTERDOWN The cluster is down\r\n", "a node of a cluster"),
        (b"-MISCONF it cannot save\r\n", "MISCONF"),
    ],
)
async def test_a_redis_that_is_not_well(standin: StandInFaktory, tmp_path: Path, answer: bytes, told: str) -> None:
    """Words of a real Redis that nobody can make say them here."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = 0
        while data := await reader.read(65536):
            for _ in range(data.count(b"\r\n*") + 1):
                asked += 1
                time_of_day = b"*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n"
                writer.write(time_of_day if asked == 1 and not answer.startswith(b"-LOADING") else answer)
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with listener:
        operator = Operator(tmp_path, standin)
        operator.flags["faktory.redis-url"] = f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
        found = await operator.check()
    assert told in found.of("redis").what
    assert found.state("redis") is (State.WARNING if b"LOADING" in answer else State.FAILED)


# --- files ----------------------------------------------------------------------------------------------------------


async def test_the_configuration_is_broken(operator: Operator, server: WatchedServer) -> None:
    file = server.config_dir / "conf.d" / "throttles.toml"
    file.write_text("[throttles]\nmail = { concurrency = 3 }\nslow = { concurrency = }\n")
    found = await operator.check()
    assert not found.works
    assert f"+3 {file}" in str(found.of("config folder").remedy)
    file.write_text("[throttles]\nmail = { concurrency = 3 }\n")
    assert "1 limit" in (await operator.check()).of("config folder").what


async def test_the_configuration_is_elsewhere(operator: Operator, server: WatchedServer) -> None:
    operator.flags["faktory.config-dir"] = f"{server.folder}/nowhere"
    found = await operator.check()
    assert "there is no folder" in found.of("config folder").what
    remedy = str(found.of("config folder").remedy).replace("/path/of/its/folder", str(server.config_dir))
    operator.follow(remedy)
    assert (await operator.check()).works


async def test_a_log_is_not_there_and_a_pattern_matches_nothing(operator: Operator, server: WatchedServer) -> None:
    for wrong in (f"{server.folder}/other.log", f"{server.folder}/*.txt"):
        operator.flags["faktory.log-file"] = [wrong]
        found = await operator.check()
        assert not found.works
        assert wrong in found.of("log").what
        remedy = str(found.of("log").remedy).replace("/path/of/its.log", str(server.log_file))
        operator.follow(remedy)
        assert (await operator.check()).works


async def test_a_journal_is_there_or_not(standin: StandInFaktory, tmp_path: Path) -> None:
    operator = Operator(tmp_path, standin)
    operator.flags["faktory.log-journal"] = ["no-such-unit.service"]
    found = await operator.check()
    assert found.state("log") in {State.WARNING, State.FAILED}
    assert "the journal of no-such-unit.service" in found.of("log").what


@as_root
async def test_the_socket_belongs_to_another_user(unstarted: WatchedServer, tmp_path: Path) -> None:
    await unstarted.start(PASSWORD)
    for folder in (unstarted.folder, unstarted.storage_dir, unstarted.config_dir, unstarted.config_dir / "conf.d"):
        folder.chmod(0o755)
    (unstarted.storage_dir / "redis.sock").chmod(0o700)  # as Faktory makes it; the stand-in does not care
    operator = Operator(tmp_path, unstarted)
    status, found = await _checked_as(operator, NOBODY)
    redis = found.of("redis")
    assert status == 1
    assert f"{unstarted.storage_dir}/redis.sock belongs to root:root with mode 0700" in redis.what
    assert f"uid {NOBODY}" in redis.what
    user = re.search(r"^    runuser -u (\S+) -- forewarn run$", str(redis.remedy), re.MULTILINE)
    assert user
    status, found = await _checked_as(operator, pwd.getpwnam(user[1]).pw_uid)
    assert (status, found.state("redis")) == (0, State.OK)


@as_root
async def test_the_folder_of_the_socket_is_closed_to_others(unstarted: WatchedServer, tmp_path: Path) -> None:
    await unstarted.start()
    unstarted.folder.chmod(0o755)
    unstarted.storage_dir.chmod(0o700)
    _, found = await _checked_as(Operator(tmp_path, unstarted), NOBODY)
    assert f"{unstarted.storage_dir} belongs to root:root with mode 0700" in found.of("redis").what


@as_root
async def test_the_log_may_not_be_read(unstarted: WatchedServer, tmp_path: Path) -> None:
    await unstarted.start()
    unstarted.folder.chmod(0o755)
    for folder in (unstarted.config_dir, unstarted.config_dir / "conf.d"):
        folder.chmod(0o755)
    os.chown(unstarted.log_file, 0, 4)  # the group adm, as of logs on Debian
    unstarted.log_file.chmod(0o640)
    operator = Operator(tmp_path, unstarted)
    operator.flags |= {"faktory.redis-url": None, "faktory.log-file": [str(unstarted.log_file)]}
    status, found = await _checked_as(operator, NOBODY)
    assert (status, found.state("log")) == (1, State.FAILED)
    assert f"belongs to root:{_group_name(4)} with mode 0640" in found.of("log").what
    joined = re.search(r"^    usermod -aG (\S+) (\S+)$", str(found.of("log").remedy), re.MULTILINE)
    assert joined
    assert (joined[1], joined[2]) == (_group_name(4), pwd.getpwuid(NOBODY).pw_name)
    status, found = await _checked_as(operator, NOBODY, groups=(4,))
    assert (status, found.state("log")) == (0, State.OK)


def _group_name(gid: int) -> str:
    import grp

    return grp.getgrgid(gid).gr_name


_AS_ANOTHER = """
import io, json, os, sys
from exporter.check.command import main
flags, environ, user, groups = json.loads(sys.argv[1])
# Once as we are, so that all is imported: the other user may not be let see the program.
main(flags, environ, io.StringIO(), io.StringIO(), as_json=True)
os.setgroups(groups)
os.setgid(user)
os.setuid(user)
sys.exit(main(flags, environ, sys.stdout, sys.stderr, as_json=True))
"""


async def _checked_as(operator: Operator, user: int, groups: tuple[int, ...] = ()) -> tuple[int, Findings]:
    """Check as another user; return the exit status and what was found."""
    told = json.dumps([operator.flags, operator.environ, user, groups])
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _AS_ANOTHER, told),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    async with asyncio.timeout(120):
        out, err = await child.communicate()
    assert child.returncode in {0, 1}, err.decode()
    document = json.loads(out)
    assert document["ok"] == (child.returncode == 0)
    for secret in operator.secrets:
        assert secret not in out.decode()
    fields = [{**it, "state": State(it["state"])} for it in document["findings"]]
    return child.returncode, Findings(Finding(**it) for it in fields)


# --- the sidecar itself ---------------------------------------------------------------------------------------------


async def test_the_folder_of_the_state_file_is_missing(standin: StandInFaktory, tmp_path: Path) -> None:
    operator = Operator(tmp_path, standin)
    operator.flags["state-file"] = str(tmp_path / "new folder" / "state.json")
    found = await operator.check()
    assert not found.works
    operator.follow(found.of("state file").remedy)
    assert (await operator.check()).works


async def test_the_state_file_is_broken(standin: StandInFaktory, tmp_path: Path) -> None:
    operator = Operator(tmp_path, standin)
    (tmp_path / "state.json").write_text("{")
    operator.flags["state-file"] = str(tmp_path / "state.json")
    found = await operator.check()
    assert found.works
    assert found.state("state file") is State.WARNING
    assert (tmp_path / "state.json").read_text() == "{", "a check changes nothing"
    operator.follow(found.of("state file").remedy)
    assert (await operator.check()).state("state file") is State.OK


async def test_beside_a_forewarn_that_runs_its_addresses_are_no_failure(server: WatchedServer, tmp_path: Path) -> None:
    state, statsd = tmp_path / "state.json", f"127.0.0.1:{free_port()}"
    async with Forewarn(server, state_file=state, arguments=[f"--statsd.listen={statsd}"]) as forewarn:
        operator = Operator(tmp_path, server)
        operator.flags |= {"web.listen-address": f"127.0.0.1:{forewarn.port}", "state-file": str(state)}
        found = await operator.check()
        assert found.works
        assert found.state("web address") is State.WARNING
        assert "a Forewarn serves" in found.of("web address").what
        operator.flags["statsd.listen"] = statsd
        found = await operator.check()
        assert found.works
        assert found.state("statsd") is State.WARNING
        assert found.of("statsd").what.endswith("a Forewarn")
        await forewarn.stop()
    found = await operator.check()
    assert found.state("web address") is found.state("statsd") is State.OK


async def test_the_web_address_is_taken(standin: StandInFaktory, tmp_path: Path) -> None:
    for given_by in GIVEN_BY:
        operator = Operator(tmp_path, standin)
        operator.flags["web.listen-address"] = f"127.0.0.1:{standin.web_port}"
        operator.give(given_by)
        found = await operator.check()
        assert not found.works
        assert f"(process {standin.pid})" in found.of("web address").what
        operator.follow(found.of("web address").remedy, PORT=str(free_port()))
        assert (await operator.check()).works, given_by


async def test_the_address_for_statsd_is_taken(standin: StandInFaktory, tmp_path: Path) -> None:
    operator = Operator(tmp_path, standin)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        operator.flags["statsd.listen"] = f"127.0.0.1:{other.getsockname()[1]}"
        found = await operator.check()
        assert not found.works
        assert f"(process {os.getpid()}) has the port already (UDP)" in found.of("statsd").what
        operator.follow(found.of("statsd").remedy, PORT=str(free_port()))
        assert (await operator.check()).works


async def test_a_collector_in_tls_is_spoken_to_in_plain_text_and_the_other_way(
    standin: StandInFaktory, tmp_path: Path, authority: trustme.CA, ca_file: str
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    operator = Operator(tmp_path, standin)
    async with receiving() as plain, receiving(tls) as secure:
        operator.flags["otlp.endpoint"] = plain.endpoint.replace("http:", "https:")
        found = await operator.check()
        for part in ("otlp traces", "otlp metrics"):
            assert found.state(part) is State.FAILED
        operator.follow(found.of("otlp traces").remedy)
        assert (await operator.check()).works
        operator.flags["otlp.endpoint"] = secure.endpoint.replace("https:", "http:")
        for _ in range(2):  # first the scheme, then the authority
            found = await operator.check()
            assert not found.works
            operator.follow(found.of("otlp traces").remedy, PEM=ca_file)
        assert (await operator.check()).works


async def test_the_socket_to_push_statsd_to_is_missing(standin: StandInFaktory, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fw-") as folder:
        path = Path(folder) / "agent.sock"
        operator = Operator(tmp_path, standin)
        operator.flags["statsd.push"] = f"dogstatsd+unix://{folder}/other.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
            agent.bind(str(path))
            agent.setblocking(False)
            found = await operator.check()
            assert "there is no socket" in found.of("statsd push").what
            remedy = str(found.of("statsd push").remedy).replace("/path/to/its.sock", str(path))
            operator.follow(remedy)
            assert (await operator.check()).works
            with pytest.raises(BlockingIOError):
                agent.recv(1)  # nothing was sent


# --- the command ----------------------------------------------------------------------------------------------------


async def _command(*arguments: str, environ: Mapping[str, str]) -> tuple[int, str, str]:
    kept = {name: it for name, it in os.environ.items() if not name.startswith(("FAKTORY", "FOREWARN", "OTEL"))}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter.cli", "check", *arguments),
        env={**kept, "COLUMNS": "80", **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


async def test_an_http_url_is_refused_as_run_refuses_it_and_following_that_mends_it(server: WatchedServer) -> None:
    address = f"--web.listen-address=127.0.0.1:{free_port()}"
    pages = f"--faktory.web-url={server.web_url}"
    wrong = {"FAKTORY_URL": f"http://127.0.0.1:{server.port}"}
    status, out, err = await _command(address, pages, environ=wrong)
    assert (status, out) == (2, "")
    found = re.search(r"environment variable FAKTORY_URL: .*; write (tcp://)", err)
    assert found
    right = {"FAKTORY_URL": wrong["FAKTORY_URL"].replace("http://", found[1])}
    status, out, err = await _command(address, pages, environ=right)
    assert (status, err) == (0, ""), out
    assert out.endswith(" s\n")


async def test_the_table_is_plain_and_fits_where_it_is_not_a_terminal(server: WatchedServer) -> None:
    status, out, err = await _command(
        *(f"--web.listen-address=127.0.0.1:{free_port()}", f"--faktory.web-url={server.web_url}"),
        environ={"FAKTORY_URL": f"tcp://127.0.0.1:{free_port()}"},
    )
    assert (status, err) == (1, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert all(line == line.rstrip() for line in out.splitlines())
    assert re.search(r"^ FAIL  command port ", out, re.MULTILINE)


async def test_json_for_programs(server: WatchedServer) -> None:
    status, out, err = await _command(
        *("--json", f"--web.listen-address=127.0.0.1:{free_port()}", f"--faktory.web-url={server.web_url}"),
        environ={"FAKTORY_URL": server.url},
    )
    document = json.loads(out)
    assert (status, err, document["ok"]) == (0, "", True)
    assert list(document["findings"][0]) == ["server", "part", "state", "needed", "what", "remedy"]
