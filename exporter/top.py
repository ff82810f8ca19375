"""``forewarn top``: the status page of a running Forewarn, in the terminal."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import ssl
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec
from rich.console import Console, Group
from rich.live import Live

from exporter import __version__
from exporter.secret import Secret
from exporter.status.document import Status
from exporter.status.screen import Frame, clean, screen

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

PATH: Final = "/api/v1/status"

DEADLINE: Final = 5.0
"""Seconds within which a status must have come."""

ASK_EVERY: Final = 2.0
"""Seconds from one answer to the next question."""

DRAW_EVERY: Final = 1.0
"""Seconds after which the screen is drawn anew, for what it tells of the time."""

MAX_BODY: Final = 32 * 1024 * 1024
"""Most bytes that are read of an answer: that of a hundred busy servers has about three million."""

MAX_PASSWORD: Final = 4096

_DECODER: Final = msgspec.json.Decoder(Status)


class WrongUseError(Exception):
    """The command line is wrong; the text says how to mend it."""


class NoStatusError(Exception):
    """No status came; the text says why, and how to mend it."""


class Asked(msgspec.Struct, frozen=True):
    """Who is asked, and by whom."""

    url: str
    """Of the status."""
    user: str | None = None
    password: Secret | None = None
    tls: ssl.SSLContext | None = None

    @property
    def source(self) -> str:
        """The address without the path of the status."""
        return self.url.removesuffix(PATH)


def main(url: str, *, user: str | None, password_file: Path | None, ca_file: Path | None, once: bool) -> int:
    """Show the status until told to stop, or once where that is wanted or there is no terminal.

    Returns the exit status: 1 where no status could be had, 2 where the command line is wrong.
    """
    try:
        asked = asking(url, user=user, password_file=password_file, ca_file=ca_file)
    except WrongUseError as error:
        _tell(str(error))
        return 2
    out = sys.stdout
    try:
        if once or not out.isatty() or os.environ.get("TERM") in {None, "", "dumb"}:
            return asyncio.run(_print(asked, out))
        return asyncio.run(_watch(asked, out))
    except NoStatusError as error:
        _tell(str(error))
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Whoever read it has seen enough. What is still to be flushed at the end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0


def asking(url: str, *, user: str | None, password_file: Path | None, ca_file: Path | None) -> Asked:
    """Return whom to ask; raise :class:`WrongUseError` for what makes no sense."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise WrongUseError("--url is no address: write http://HOST:9386") from None
    if "@" in parts.netloc:
        raise WrongUseError(
            "--url must not hold a user or a password, which everybody on this machine could read: take them out, and"
            " give --user NAME and --password-file FILE"
        )
    shown = clean(url[:200])
    if parts.scheme not in {"http", "https"} or not host:
        raise WrongUseError(f"--url {shown}: write http://HOST:9386, or https:// where Forewarn serves TLS")
    if parts.query or parts.fragment:
        raise WrongUseError(f"--url {shown}: leave out what stands behind ? and #")
    if (user is None) != (password_file is None):
        there, missing = ("--user", "--password-file FILE") if user else ("--password-file", "--user NAME")
        raise WrongUseError(f"{there} needs {missing} beside it")
    if user is not None and ":" in user:
        raise WrongUseError("--user must not hold a colon: what stands behind one would be taken for the password")
    if ca_file is not None and parts.scheme != "https":
        raise WrongUseError(f"--ca-file is for https://, and --url is {shown}: write https://, or leave --ca-file out")
    return Asked(
        url=urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", "")),
        user=user,
        password=None if password_file is None else _password(password_file),
        tls=_trust(ca_file) if parts.scheme == "https" else None,
    )


def _password(file: Path) -> Secret:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_PASSWORD + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise WrongUseError(
            f"--password-file {clean(str(file))} cannot be read ({error.strerror}): name a file that holds the"
            " password alone, and that you may read"
        ) from None
    except UnicodeDecodeError:
        text = ""
    if not text or "\n" in text or len(content) > MAX_PASSWORD:
        raise WrongUseError(f"--password-file {clean(str(file))} must hold the password alone, in one line of UTF-8")
    return Secret(text)


def _trust(file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if file is None else str(file))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        told = getattr(error, "strerror", None) or "no certificate is in it"
        if isinstance(error, ssl.SSLError):
            told = "no PEM certificate is in it"
        raise WrongUseError(
            f"--ca-file {clean(str(file))} cannot be used ({told}): name a file of PEM certificates"
        ) from None


@asynccontextmanager
async def _session(asked: Asked) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Accept": "application/json", "User-Agent": f"forewarn-top/{__version__}"}
    if asked.user is not None and asked.password is not None:
        known = base64.b64encode(f"{asked.user}:{asked.password.reveal()}".encode(errors="surrogateescape")).decode()
        headers["Authorization"] = f"Basic {known}"
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=DEADLINE)) as session:
        yield session


async def ask(session: aiohttp.ClientSession, asked: Asked) -> Status:
    """Return the status; raise :class:`NoStatusError` where none came in time."""
    source = clean(asked.source)
    status, ours, body = await _get(session, asked)
    if status == 401:
        if asked.user is None:
            raise NoStatusError(f"{source} wants to know who asks: give --user NAME and --password-file FILE")
        raise NoStatusError(f"{source} does not take user {clean(asked.user)} with the password in --password-file")
    if status == 404 and ours:
        raise NoStatusError(f"{source} is a Forewarn that tells no status: it is too old for `forewarn top`; update it")
    if status in {301, 302, 303, 307, 308}:
        raise NoStatusError(f"{source} sends its readers elsewhere: name in --url where it leads to")
    if status == 503 and ours:
        raise NoStatusError(f"{source} has too many readers now: close some, or try again")
    if status == 400 and not ours and asked.tls is None and b"https" in body.lower():
        raise NoStatusError(f"{source} serves TLS only: write https:// in --url")
    if status != 200:
        raise NoStatusError(f"{source} answered with HTTP status {status}: is it the address of a Forewarn?")
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise NoStatusError(
            f"{source} answered with what is no status: is it the address of a Forewarn, and of this version"
            f" ({__version__})?"
        ) from None


async def _get(session: aiohttp.ClientSession, asked: Asked) -> tuple[int, bool, bytes]:
    """Return the HTTP status, whether a Forewarn answered, and the body."""
    source = clean(asked.source)
    try:
        async with session.get(asked.url, allow_redirects=False, ssl=asked.tls or True) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(64 * 1024):
                body += chunk
                if len(body) > MAX_BODY:
                    raise NoStatusError(f"{source} answered with more than {MAX_BODY} bytes: is it a Forewarn?")
            return response.status, response.headers.get("Server", "") == "forewarn", bytes(body)
    except TimeoutError:
        raise NoStatusError(
            f"{source} did not answer within {DEADLINE:g} s: does it hang, or does a firewall drop packets?"
        ) from None
    except aiohttp.ClientConnectorCertificateError as error:
        told = clean(getattr(error.certificate_error, "verify_message", ""))
        raise NoStatusError(
            f"{source}: its certificate is not trusted ({told}): name the authority's file by --ca-file, and use a host"
            " name that stands in the certificate"
        ) from None
    except aiohttp.ClientSSLError as error:
        told = clean((getattr(error.os_error, "reason", None) or "no reason given").replace("_", " ").lower())
        hint = "does it want a client certificate, or is it a plain port? Then write http://"
        raise NoStatusError(f"{source}: TLS did not come about ({told}): {hint}") from None
    except aiohttp.ClientConnectorError as error:
        told = clean((error.os_error.strerror or str(error.os_error)).lower())
        raise NoStatusError(
            f"{source} cannot be reached ({told}): does Forewarn run there? Name its address by --url"
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoStatusError(
            f"{source} did not answer in HTTP ({type(error).__name__}): is it the address of a Forewarn, or does it"
            " serve TLS? Then write https:// in --url"
        ) from None


async def _print(asked: Asked, out: TextIO) -> int:
    async with _session(asked) as session:
        status = await ask(session, asked)
    console = _console(out)
    width = console.width if out.isatty() else None
    for line in screen(status, Frame(width, None, _ascii(out)), source=asked.source):
        console.print(line, soft_wrap=width is None)
    out.flush()
    return 0


def _console(out: TextIO) -> Console:
    reconfigure = getattr(out, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding has not
    return Console(file=out, highlight=False, markup=False, emoji=False)


def _ascii(out: TextIO) -> bool:
    return not (out.encoding or "").lower().replace("-", "").startswith("utf")


class Screen:
    """A terminal's other screen, with the newest status on it."""

    def __init__(self, asked: Asked, console: Console, status: Status) -> None:
        self._asked = asked
        self._console = console
        self._ascii = _ascii(console.file)  # type: ignore[arg-type]
        self._live: Live | None = None
        self._status = status
        self._heard_at = time.monotonic()
        self._problem: str | None = None

    def tell(self, status: Status) -> None:
        """Take a new status."""
        self._status, self._heard_at, self._problem = status, time.monotonic(), None

    def fail(self, problem: str) -> None:
        """Take in why none came."""
        self._problem = problem

    def draw(self) -> None:
        """Show what is known, in the size that the terminal has now."""
        if self._live is None:
            return
        size = self._console.size
        heard = time.monotonic() - self._heard_at
        lines = screen(
            self._status,
            Frame(size.width, size.height, self._ascii),
            source=self._asked.source,
            heard=heard,
            problem=self._problem,
        )
        self._live.update(Group(*lines), refresh=True)

    def enter(self) -> None:
        """Take the terminal."""
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()
        self.draw()

    def leave(self) -> None:
        """Give the terminal back as it was."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()


async def _watch(asked: Asked, out: TextIO) -> int:
    async with _session(asked) as session:
        view = Screen(asked, _console(out), await ask(session, asked))
        stop = asyncio.Event()
        with _keys(stop) as keys, _signals(stop, view, keys):
            view.enter()
            try:
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(_ask_for_ever(session, asked, view))]
                    running.append(tasks.create_task(_draw_for_ever(view)))
                    await stop.wait()
                    for task in running:
                        task.cancel()
            finally:
                view.leave()
    return 0


async def _ask_for_ever(session: aiohttp.ClientSession, asked: Asked, view: Screen) -> None:
    while True:
        await asyncio.sleep(ASK_EVERY)
        try:
            view.tell(await ask(session, asked))
        except NoStatusError as error:
            view.fail(str(error))
        view.draw()


async def _draw_for_ever(view: Screen) -> None:
    while True:
        await asyncio.sleep(DRAW_EVERY)
        view.draw()


class Keys:
    """Single keys of a terminal, as they are pressed. Does nothing where standard input is none."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._file: int | None = None
        self._before: list[Any] = []
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if sys.stdin.isatty():
                self._file = sys.stdin.fileno()

    def take(self) -> None:
        """Let keys come as they are pressed, and unseen."""
        if self._file is not None:
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file, termios.TCSANOW)
            asyncio.get_running_loop().add_reader(self._file, self._read)

    def leave(self) -> None:
        """Let them come as before."""
        if self._file is not None:
            asyncio.get_running_loop().remove_reader(self._file)
            with contextlib.suppress(termios.error):  # the terminal may be gone
                termios.tcsetattr(self._file, termios.TCSANOW, self._before)

    def _read(self) -> None:
        try:
            pressed = os.read(self._file or 0, 1024)
        except OSError:
            pressed = b""
        if not pressed or b"q" in pressed.lower():
            self._stop.set()


@contextmanager
def _keys(stop: asyncio.Event) -> Iterator[Keys]:
    keys = Keys(stop)
    keys.take()
    try:
        yield keys
    finally:
        keys.leave()


@contextmanager
def _signals(stop: asyncio.Event, view: Screen, keys: Keys) -> Iterator[None]:
    """End at what ends programs, follow the terminal's size, and give the terminal back while suspended."""
    loop: AbstractEventLoop = asyncio.get_running_loop()

    def suspend() -> None:
        view.leave()
        keys.leave()
        os.kill(os.getpid(), signal.SIGSTOP)  # goes on here once it may
        keys.take()
        view.enter()

    handlers = {
        signal.SIGINT: stop.set,
        signal.SIGTERM: stop.set,
        signal.SIGHUP: stop.set,
        signal.SIGWINCH: view.draw,
        signal.SIGTSTP: suspend,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _tell(problem: str) -> None:
    print(f"forewarn: top: {problem}", file=sys.stderr)
