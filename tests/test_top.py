"""``forewarn top``: whom it asks and how, what it says when that fails, and how it behaves in a terminal."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import os
import pty
import re
import signal
import ssl
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import bcrypt
import pytest
import trustme

from exporter import top
from exporter.demo import child
from exporter.model import Reservation
from exporter.outputs.prometheus import Exposition
from exporter.status.document import Status
from exporter.top import NoStatusError, WrongUseError, ask, asking
from exporter.web.address import Address
from exporter.web.server import start_web
from tests.servers import free_port, wait_until
from tests.status_samples import NOW, Shelf, calm, connections, observed

HERE = Path(__file__).parent.parent
DEADLINE = 60.0
PASSWORD = "open sesame é"


# Whom it asks


def asked(url: str = "http://127.0.0.1:9386", **how: Path | str | None) -> top.Asked:
    given = {"user": None, "password_file": None, "ca_file": None} | how
    return asking(url, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("http://127.0.0.1:9386", "http://127.0.0.1:9386/api/v1/status"),
        ("http://127.0.0.1:9386/", "http://127.0.0.1:9386/api/v1/status"),
        ("https://host/forewarn/", "https://host/forewarn/api/v1/status"),
        ("http://[::1]:9386", "http://[::1]:9386/api/v1/status"),
    ],
)
def test_the_status_is_asked_for_below_the_address(url: str, full: str) -> None:
    assert asked(url).url == full
    assert asked(url).source == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:9386", "write http://HOST:9386"),
        ("ftp://host", "write http://HOST:9386"),
        ("http://", "write http://HOST:9386"),
        ("http://host:port", "write http://HOST:9386"),
        ("http://[::1", "write http://HOST:9386"),
        ("", "write http://HOST:9386"),
        ("http://host/?a=b", "leave out what stands behind ? and #"),
        ("http://host/#a", "leave out what stands behind ? and #"),
        ("http://\x1b[31mhost:x/", "write http://HOST:9386"),
    ],
)
def test_what_is_no_address_is_refused_with_the_fix(url: str, told: str) -> None:
    with pytest.raises(WrongUseError) as caught:
        asked(url)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("url", ["http://me:s3cret@host:9386", "http://me@host", "https://:s3cret@host"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(WrongUseError, match="--user NAME and --password-file FILE") as caught:
        asked(url)
    assert "s3cret" not in str(caught.value)


def test_a_user_needs_a_password_and_a_password_a_user(tmp_path: Path) -> None:
    with pytest.raises(WrongUseError, match="--user needs --password-file FILE beside it"):
        asked(user="me")
    with pytest.raises(WrongUseError, match="--password-file needs --user NAME beside it"):
        asked(password_file=tmp_path / "password")


def test_a_user_with_a_colon_cannot_be_told_from_the_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    with pytest.raises(WrongUseError, match="--user must not hold a colon"):
        asked(user="me:you", password_file=tmp_path / "password")


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"x" * 5000])
def test_a_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(WrongUseError, match="must hold the password alone, in one line of UTF-8"):
        asked(user="me", password_file=tmp_path / "password")


def test_a_password_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WrongUseError, match=r"password cannot be read \(No such file or directory\): name a file"):
        asked(user="me", password_file=tmp_path / "password")


def test_the_password_is_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    found = asked(user="me", password_file=tmp_path / "password")
    assert found.password is not None
    assert found.password.reveal() == PASSWORD
    assert PASSWORD not in repr(found)


def test_certificates_are_for_https_alone_and_must_be_some(tmp_path: Path) -> None:
    with pytest.raises(WrongUseError, match="--ca-file is for https://"):
        asked(ca_file=tmp_path / "ca.pem")
    with pytest.raises(WrongUseError, match=r"ca.pem cannot be used \(No such file or directory\): name a file of PEM"):
        asked("https://host", ca_file=tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(WrongUseError, match=r"ca.pem cannot be used \(no PEM certificate is in it\)"):
        asked("https://host", ca_file=tmp_path / "ca.pem")


# What comes back

Answer = Callable[[bytes], bytes | None]


@asynccontextmanager
async def answering(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that answers the head of each request as it is told, ``None`` never; and the port that it listens on."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(DEADLINE):
                answered = answer(await reader.readuntil(b"\r\n\r\n"))
                if answered is None:
                    await reader.read()  # until who asked has left
                else:
                    writer.write(answered)
                writer.close()
                await writer.wait_closed()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.wait_for(asyncio.gather(*serving), DEADLINE)


def reply(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    told = {"Content_Length": str(len(body)), "Connection": "close"} | headers
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


def document(snapshot_changes: dict[str, object] | None = None) -> bytes:
    return Shelf(calm(**(snapshot_changes or {}))).book.encoded()


async def told_by(whom: top.Asked) -> Status:
    async with top._session(whom) as session:
        return await ask(session, whom)


async def refused(whom: top.Asked) -> str:
    """Why no status came: in one line that a terminal may be given."""
    with pytest.raises(NoStatusError) as caught:
        await told_by(whom)
    assert str(caught.value).isprintable()
    return str(caught.value)


async def test_the_status_of_the_real_server_is_read() -> None:
    shelf = Shelf(calm())
    exposition = Exposition("1.2.3", lambda: iter(()))
    server = await start_web(Address("127.0.0.1", 0), exposition, lambda: shelf.servers, book=shelf.book)
    try:
        found = await told_by(asked(f"http://127.0.0.1:{server.port}"))
    finally:
        await server.close()
    assert found == shelf.book.status()


async def test_a_server_that_is_too_old_is_told() -> None:
    exposition = Exposition("1.2.3", lambda: iter(()))
    server = await start_web(Address("127.0.0.1", 0), exposition, dict)
    try:
        told = await refused(asked(f"http://127.0.0.1:{server.port}"))
    finally:
        await server.close()
    assert told.endswith("is a Forewarn that tells no status: it is too old for `forewarn top`; update it")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reply(401), "wants to know who asks: give --user NAME and --password-file FILE"),
        (reply(404), "answered with HTTP status 404: is it the address of a Forewarn?"),
        (reply(500, b"\x1b[31m"), "answered with HTTP status 500: is it the address of a Forewarn?"),
        (reply(302, Location="http://\x7felsewhere"), "name in --url where it leads to"),
        (reply(503, Server="forewarn"), "has too many readers now: close some, or try again"),
        (reply(400, b"Client sent an HTTP request to an HTTPS server."), "serves TLS only: write https:// in --url"),
        (reply(400, b"what is this?"), "answered with HTTP status 400: is it the address of a Forewarn?"),
        (reply(200, b"<html>"), "answered with what is no status: is it the address of a Forewarn"),
        (reply(200, b"{}"), "answered with what is no status"),
        (reply(200, b'{"version": "\xff"}'), "answered with what is no status"),
        (reply(200, b"x", Content_Length="99"), "did not answer in HTTP (ClientPayloadError)"),
        (b"\x00\x01\x02\r\n\r\n", "did not answer in HTTP"),
        (b"", "did not answer in HTTP (ServerDisconnectedError)"),
    ],
)
async def test_what_is_no_status_is_told_in_one_line(answer: bytes, told: str) -> None:
    async with answering(lambda _: answer) as port:
        assert told in await refused(asked(f"http://127.0.0.1:{port}"))


async def test_an_answer_without_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "MAX_BODY", 1000)
    async with answering(lambda _: reply(200, b"x" * 200_000)) as port:
        assert "answered with more than 1000 bytes" in await refused(asked(f"http://127.0.0.1:{port}"))


async def test_who_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "DEADLINE", 0.05)
    async with answering(lambda _: None) as port:
        assert "did not answer within 0.05 s: does it hang" in await refused(asked(f"http://127.0.0.1:{port}"))


async def test_where_nobody_listens_that_is_told() -> None:
    told = await refused(asked(f"http://127.0.0.1:{free_port()}"))
    assert "cannot be reached" in told
    assert told.endswith("does Forewarn run there? Name its address by --url")


async def test_user_and_password_are_sent_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "right").write_text(PASSWORD + "\n")
    (tmp_path / "wrong").write_text("guess")
    right = base64.b64encode(f"me:{PASSWORD}".encode())

    def answer(head: bytes) -> bytes:
        return reply(200, document()) if b"Basic " + right + b"\r\n" in head else reply(401)

    async with answering(answer) as port:
        url = f"http://127.0.0.1:{port}"
        assert (await told_by(asked(url, user="me", password_file=tmp_path / "right"))).version == "1.2.3"
        told = await refused(asked(url, user="me", password_file=tmp_path / "wrong"))
    assert told == f"{url} does not take user me with the password in --password-file"


async def test_a_redirect_is_never_followed_with_the_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    heads: list[bytes] = []

    def answer(head: bytes) -> bytes:
        heads.append(head)
        return reply(302, Location="/elsewhere")

    async with answering(answer) as port:
        await refused(asked(f"http://127.0.0.1:{port}", user="me", password_file=tmp_path / "password"))
    assert len(heads) == 1


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return ca, path


def serving(ca: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


async def test_tls_is_spoken_with_who_can_be_trusted(authority: tuple[trustme.CA, Path]) -> None:
    ca, path = authority
    async with answering(lambda _: reply(200, document()), serving(ca)) as port:
        url = f"https://127.0.0.1:{port}"
        assert (await told_by(asked(url, ca_file=path))).version == "1.2.3"
        told = await refused(asked(url))
    assert "its certificate is not trusted" in told
    assert "name the authority's file by --ca-file" in told


async def test_a_certificate_for_another_host_is_not_trusted(authority: tuple[trustme.CA, Path]) -> None:
    ca, path = authority
    async with answering(lambda _: reply(200, document()), serving(ca, "elsewhere.example")) as port:
        told = await refused(asked(f"https://127.0.0.1:{port}", ca_file=path))
    assert "its certificate is not trusted" in told
    assert "use a host name that stands in the certificate" in told


async def test_tls_to_a_plain_port_is_told() -> None:
    server = await start_web(Address("127.0.0.1", 0), Exposition("1.2.3", lambda: iter(())), dict)
    try:
        told = await refused(asked(f"https://127.0.0.1:{server.port}"))
    finally:
        await server.close()
    assert "TLS did not come about" in told
    assert told.endswith("Then write http://")


async def test_plain_http_to_a_tls_port_is_told(authority: tuple[trustme.CA, Path]) -> None:
    ca, _ = authority
    async with answering(lambda _: reply(200), serving(ca)) as port:
        told = await refused(asked(f"http://127.0.0.1:{port}"))
    assert "write https:// in --url" in told


async def test_what_a_forewarn_asks_of_its_readers_is_told(authority: tuple[trustme.CA, Path], tmp_path: Path) -> None:
    ca, path = authority
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    known = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    config.write_text(
        f"tls_server_config: {{cert_file: both.pem, key_file: both.pem}}\nbasic_auth_users: {{me: {known}}}\n"
    )
    (tmp_path / "right").write_text(PASSWORD)
    (tmp_path / "wrong").write_text("guess")
    port = free_port()
    listening = (f"--web.listen-address=127.0.0.1:{port}", f"--web.config.file={config}")
    forewarn = await asyncio.create_subprocess_exec(
        *child.command(sys.executable, "-m", "exporter.cli", "run", "--faktory.url=tcp://127.0.0.1:1", *listening),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
        cwd=HERE,
    )
    url = f"https://127.0.0.1:{port}"
    right = asked(url, ca_file=path, user="me", password_file=tmp_path / "right")
    try:

        async def answers() -> bool:
            with contextlib.suppress(NoStatusError):
                return bool((await told_by(right)).servers)
            return False

        await wait_until(answers, DEADLINE, what="it answers who may ask")
        assert "wants to know who asks" in await refused(asked(url, ca_file=path))
        wrong = asked(url, ca_file=path, user="me", password_file=tmp_path / "wrong")
        assert "does not take user me" in await refused(wrong)
        assert "serves TLS only: write https:// in --url" in await refused(asked(f"http://127.0.0.1:{port}"))
    finally:
        forewarn.kill()
        await forewarn.wait()


# In a pipe


async def forewarn_top(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run it to its end, with its output into a pipe."""
    process = await asyncio.create_subprocess_exec(
        *child.command(sys.executable, "-m", "exporter.cli", "top", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | environment,
        cwd=HERE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_into_a_pipe_goes_plain_text_once() -> None:
    async with answering(lambda _: reply(200, document({"connections": connections(1950)}))) as port:
        status, out, err = await forewarn_top("--url", f"http://127.0.0.1:{port}")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert out.startswith(f"Forewarn 1.2.3  http://127.0.0.1:{port}  CRITICAL\nfaktory  CRITICAL  up")
    assert re.search(r"(?m)^  Connections  CRITICAL .* 1,950 of 2,000 \(97 %\)$", out)
    assert "close what leaks them. [FaktoryConnectionsNearLimit]\n" in out  # lines are not cut


async def test_a_pipe_that_takes_no_unicode_gets_it_spelled_out() -> None:
    job = Reservation("j1", "w1", "mail/é", "SendMail", NOW - 5, NOW + 5)
    body = document({"observation": observed(reservations={"j1": job})})
    async with answering(lambda _: reply(200, body)) as port:
        status, out, err = await forewarn_top("--url", f"http://127.0.0.1:{port}", PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert r"mail/\xe9" in out


async def test_what_fails_is_one_line_and_the_exit_status() -> None:
    status, out, err = await forewarn_top("--once", "--url", f"http://127.0.0.1:{free_port()}")
    assert (status, out) == (1, "")
    assert re.fullmatch(r"forewarn: top: http://127\.0\.0\.1:\d+ cannot be reached \(.*\n", err)


async def test_a_wrong_command_line_has_an_exit_status_of_its_own() -> None:
    status, out, err = await forewarn_top("--once", "--url", "http://me:s3cret@127.0.0.1")
    assert (status, out) == (2, "")
    assert err.startswith("forewarn: top: --url must not hold a user or a password")
    assert "s3cret" not in err


# In a terminal


class Terminal:
    """``forewarn top`` in a terminal of its own, and all that was written to it."""

    def __init__(self, url: str, columns: int = 80, rows: int = 24) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.process = subprocess.Popen(
            child.command(sys.executable, "-m", "exporter.cli", "top", "--url", url),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"},
            cwd=HERE,
            start_new_session=True,
        )
        self.written = ""
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self.written += os.read(self._ours, 65536).decode(errors="replace")

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    @property
    def screen(self) -> str:
        """The newest whole screen, without colours."""
        screens = self.written.split("\x1b[H")
        newest = screens[-1] if "q quits" in screens[-1] else screens[-2] if len(screens) > 1 else ""
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", newest)

    async def until(self, condition: Callable[[], object] | Callable[[], Awaitable[object]], what: str) -> None:
        try:
            await wait_until(condition, DEADLINE, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.written[-4000:]!r}") from None

    async def shows(self, text: str) -> None:
        await self.until(lambda: text in self.screen, f"the screen shows {text!r}")

    async def ended(self) -> int:
        await self.until(lambda: self.process.poll() is not None, "it ends")
        await self.until(lambda: "\x1b[?1049l" in self.written, "the terminal is given back")
        return self.process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def modes(self) -> list[object]:
        return termios.tcgetattr(self._theirs)


@asynccontextmanager
async def terminal(port: int, columns: int = 80, rows: int = 24) -> AsyncIterator[Terminal]:
    it = Terminal(f"http://127.0.0.1:{port}", columns, rows)
    try:
        yield it
    finally:
        it.close()


@pytest.mark.parametrize("how", ["q", "ctrl-c", "SIGTERM"])
async def test_it_ends_cleanly_and_gives_the_terminal_back(how: str) -> None:
    async with answering(lambda _: reply(200, document())) as port, terminal(port) as shown:
        await shown.shows("Nothing is wrong.")
        if how == "SIGTERM":
            shown.process.send_signal(signal.SIGTERM)
        elif how == "ctrl-c":
            shown.process.send_signal(signal.SIGINT)
        else:
            shown.press(b"q")
        assert await shown.ended() == 0
        assert shown.modes == shown.before
        assert shown.written.count("\x1b[?1049h") == shown.written.count("\x1b[?1049l") == 1
        assert shown.written.rindex("\x1b[?25h") > shown.written.rindex("\x1b[?25l")


async def test_it_follows_what_changes_and_what_the_terminal_becomes() -> None:
    now = {"body": document()}
    async with answering(lambda _: reply(200, now["body"])) as port, terminal(port) as shown:
        await shown.shows("100 of 2,000")
        now["body"] = document({"connections": connections(1950)})
        await shown.shows("1,950 of 2,000")
        shown.resize(200, 50)
        shown.process.send_signal(signal.SIGWINCH)
        await shown.until(lambda: len(shown.screen.splitlines()) == 50, "the screen has 50 lines")
        assert all(len(line) <= 200 for line in shown.screen.splitlines())
        await shown.shows("close what leaks them. [FaktoryConnectionsNearLimit]")


async def test_it_keeps_the_last_screen_and_says_how_old_it_is() -> None:
    now = {"answer": reply(200, document())}
    async with answering(lambda _: now["answer"]) as port, terminal(port) as shown:
        await shown.shows("100 of 2,000")
        now["answer"] = reply(401)
        await shown.shows("wants to know who asks")
        assert re.search(r"last heard \d+ s ago", shown.screen)
        assert "100 of 2,000" in shown.screen
        now["answer"] = reply(200, document())
        await shown.until(lambda: "last heard" not in shown.screen, "it is heard again")


async def test_suspended_it_gives_the_terminal_back_and_takes_it_again() -> None:
    async with answering(lambda _: reply(200, document())) as port, terminal(port) as shown:
        await shown.shows("100 of 2,000")
        shown.process.send_signal(signal.SIGTSTP)
        await shown.until(lambda: "\x1b[?1049l" in shown.written, "the terminal is given back")
        await shown.until(lambda: shown.modes == shown.before, "its modes too")
        shown.process.send_signal(signal.SIGCONT)
        await shown.until(lambda: shown.written.count("\x1b[?1049h") == 2, "it is taken again")
        await shown.shows("100 of 2,000")
        shown.press(b"q")
        await shown.until(lambda: shown.process.poll() is not None, "it ends")
        assert shown.process.returncode == 0


async def test_a_first_answer_that_does_not_come_is_told_without_another_screen() -> None:
    async with terminal(free_port()) as shown:
        await shown.until(lambda: shown.process.poll() is not None, "it ends")
        await shown.until(lambda: "cannot be reached" in shown.written, "it tells why")
        assert shown.process.returncode == 1
        assert "\x1b[?1049h" not in shown.written


async def test_a_new_size_is_drawn_at_once() -> None:
    class View:
        drawn = 0

        def draw(self) -> None:
            self.drawn += 1

    view, stop = View(), asyncio.Event()
    with top._signals(stop, view, top.Keys(stop)):  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGWINCH)
        await wait_until(lambda: view.drawn == 1, DEADLINE, what="it is drawn")
    assert not stop.is_set()
