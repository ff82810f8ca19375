"""``forewarn demo`` as a newcomer runs it: what it tells, and that it leaves nothing behind however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest

from exporter.demo import keeper, servers
from exporter.demo.cast import Cast, cast
from exporter.demo.servers import OLD_REDIS_CONF, Kind, ServerError
from tests.servers import HOW_TO_HAVE_ONE, alive, free_port, real_programs, wait_until

MARK = "WHOSE_DEMO"
DEADLINE = 40.0


class Demo:
    """One ``forewarn demo`` as a child; every process of it is found by a mark that all of them inherit."""

    def __init__(self, *arguments: str, path: str | None = None, terminal: bool = False) -> None:
        self.mark = secrets.token_hex(8)
        self.port = free_port()
        self.seen: set[int] = set()
        self.folders: set[Path] = set()
        environment = {"PATH": os.environ["PATH"] if path is None else path, "TERM": "xterm", MARK: self.mark}
        command = [sys.executable, "-m", "exporter.cli", "demo", f"--web.listen-address=127.0.0.1:{self.port}"]
        self.raw = b""
        self._terminal: int | None = None
        if terminal:
            self._terminal, inner = pty.openpty()
            fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        else:
            self._read, inner = os.pipe()
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdin=inner if terminal else subprocess.DEVNULL,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None,  # noqa: PLW1509
        )
        os.close(inner)

    @property
    def _descriptor(self) -> int:
        return self._read if self._terminal is None else self._terminal

    def text(self) -> str:
        """What it has told so far."""
        while select.select([self._descriptor], [], [], 0)[0]:
            try:
                more = os.read(self._descriptor, 65536)
            except OSError:  # of a terminal: everybody who held it has gone
                break
            if not more:
                break
            self.raw += more
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode(errors="replace"))

    def processes(self) -> set[int]:
        """All that run, itself among them."""
        found = set()
        for directory in Path("/proc").glob("[0-9]*"):
            pid = int(directory.name)
            with contextlib.suppress(OSError):
                command = (directory / "cmdline").read_bytes()
                ours = self.mark.encode() in (directory / "environ").read_bytes()
                if (ours or any(str(it).encode() in command for it in self.folders)) and alive(pid):
                    found.add(pid)
                    self.folders |= {Path(it.decode()) for it in re.findall(rb"/tmp/forewarn-demo-[0-9a-f]+", command)}
        self.seen |= found
        return found

    def until(self, condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f"not within {deadline:g} s: {what}\n{self.text()}"
            assert self.process.poll() is None, f"it has ended with {self.process.returncode}:\n{self.text()}"
            self.text()
            time.sleep(0.02)

    def until_told(self, what: str) -> None:
        self.until(lambda: what in self.text(), f"it tells {what!r}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end and return its status; whoever reads its output goes on reading."""
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it did not end:\n{self.text()}"
            self.text()
            time.sleep(0.02)
        return self.process.returncode

    def nothing_is_left(self) -> None:
        """Wait until no process and no file of it is there any more."""
        end = time.monotonic() + DEADLINE
        while (left := self.processes()) or (folders := [it for it in self.folders if it.exists()]):
            assert time.monotonic() < end, f"left behind: {left or folders}\n{self.text()}"
            self.text()
            time.sleep(0.05)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0

    def close_terminal(self) -> None:
        """As a terminal window that is closed."""
        self.text()
        os.close(self._descriptor)
        self._terminal, self._read = None, os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.text()
        os.close(self._descriptor)
        self._terminal, self._read = None, os.open(os.devnull, os.O_RDONLY)


def kinds() -> list[Any]:
    stand_in = pytest.param(["--server", "stand-in"], id="stand-in")
    if not real_programs():
        skip = pytest.mark.skip(reason=HOW_TO_HAVE_ONE)
        return [pytest.param([], id="real", marks=[pytest.mark.real, skip]), stand_in]
    return [pytest.param(["--server", "real"], id="real", marks=pytest.mark.real), stand_in]


@pytest.fixture(params=kinds())
def which(request: pytest.FixtureRequest) -> Sequence[str]:
    kind: Sequence[str] = request.param
    return kind


def path_of(folder: Path) -> str:
    """A PATH on which ``faktory`` is the newest real one at hand, if there is one."""
    if real_programs():
        (folder / "faktory").symlink_to(real_programs()[-1])
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture
def demo(which: Sequence[str], tmp_path: Path) -> Iterator[Demo]:
    made = Demo(*which, path=path_of(tmp_path))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def on_a_terminal(which: Sequence[str], tmp_path: Path) -> Iterator[Demo]:
    made = Demo(*which, path=path_of(tmp_path), terminal=True)
    try:
        yield made
    finally:
        made.close()


# -- what it tells


class Pair(NamedTuple):
    """One demo on a pipe and one on a terminal, both told up to the first crash."""

    which: Sequence[str]
    piped: Demo
    on_a_terminal: Demo


@pytest.fixture(scope="module", params=kinds())
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    path = path_of(tmp_path_factory.mktemp("path"))
    both = [Demo(*request.param, path=path, terminal=terminal) for terminal in (False, True)]
    try:
        for each in both:
            each.until(lambda each=each: "2 jobs are orphans" in each.text(), "the crash is caught", 90)  # type: ignore[misc]
        yield Pair(request.param, *both)
    finally:
        for each in both:
            each.close()


def test_it_tells_what_it_is_which_server_it_runs_on_and_where_to_look(told: Pair) -> None:
    for demo in (told.piped, told.on_a_terminal):
        text = demo.text()
        assert ("a real Faktory" in text) == ("real" in told.which)
        assert ("the embedded stand-in" in text) == ("stand-in" in told.which)
        assert f"http://127.0.0.1:{demo.port}/" in text
        assert "Ctrl-C ends it" in text


def test_the_first_crash_is_told_as_it_is_done_and_when_it_is_caught(told: Pair) -> None:
    text = told.piped.text()
    assert re.search(r"workers +A worker was killed \(SIGKILL\) in the middle of 2 jobs", text)
    assert re.search(r"workers +caught after \d+\.\d s: demo-\d+ is gone, 2 jobs are orphans", text)


def test_a_newcomer_sees_a_crash_caught_within_a_minute_of_the_start(told: Pair) -> None:
    (seconds,) = re.findall(r"0:(\d\d) +workers +caught", told.piped.text())
    assert int(seconds) < 60


def test_metrics_are_served_while_the_story_is_told(told: Pair) -> None:
    with urlopen(f"http://127.0.0.1:{told.piped.port}/metrics", timeout=20) as answer:
        assert b'faktory_worker_crashes_total{server="demo",reason="vanished"} 1' in answer.read()


def test_on_a_pipe_it_tells_plain_lines(told: Pair) -> None:
    assert b"\x1b" not in told.piped.raw


def test_on_a_terminal_the_four_signals_stay_in_sight(told: Pair) -> None:
    for name in ("connections", "busy", "workers", "throttles"):
        assert re.search(rf"● +{name} +(calm|warning|critical)", told.on_a_terminal.text()), name


def test_no_log_line_stands_on_the_terminal(told: Pair) -> None:
    assert " INFO " in told.piped.text(), "where it is not the terminal, standard error has the log"
    assert not re.search(" (INFO|ERROR) ", told.on_a_terminal.text())


# -- how it ends


def folder_made(demo: Demo) -> bool:
    demo.processes()
    return bool(demo.folders)


MOMENTS: dict[str, Callable[[Demo], Any]] = {
    "at once": lambda _: True,
    "the folder is made": folder_made,
    "the server starts": lambda demo: len(demo.processes()) > 2,
    "workers start": lambda demo: "listening" in demo.text() and len(demo.processes()) > 6,
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda it: it.name)
def test_it_leaves_nothing_behind_at_whatever_moment_it_ends(demo: Demo, moment: str, number: signal.Signals) -> None:
    demo.until(lambda: MOMENTS[moment](demo), moment)
    demo.send(number)
    demo.ended()
    demo.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name)
def test_a_signal_ends_it_with_status_0(demo: Demo, number: signal.Signals) -> None:
    demo.until_told("Nothing is wrong yet")
    assert len(demo.processes()) >= 8, "itself, the keeper of its folder, the server, a producer and workers"
    demo.send(number)
    assert demo.ended() == 0
    assert "Nothing of it is left behind" in demo.text()
    assert "Traceback" not in demo.text()
    demo.nothing_is_left()


def test_an_impatient_ctrl_c_changes_nothing(demo: Demo) -> None:
    demo.until_told("Nothing is wrong yet")
    demo.processes()
    for _ in range(5):
        demo.send(signal.SIGINT)
        time.sleep(0.02)  # a person's fingers are no faster
    assert demo.ended() == 0
    assert "Traceback" not in demo.text()
    demo.nothing_is_left()


def test_ctrl_c_on_the_terminal_ends_it(on_a_terminal: Demo) -> None:
    on_a_terminal.until_told("Nothing is wrong yet")
    on_a_terminal.processes()
    os.write(on_a_terminal._descriptor, b"\x03")
    assert on_a_terminal.ended() == 0
    assert "Nothing of it is left behind" in on_a_terminal.text()
    on_a_terminal.nothing_is_left()


def test_it_ends_with_its_terminal(on_a_terminal: Demo) -> None:
    on_a_terminal.until_told("Nothing is wrong yet")
    on_a_terminal.processes()
    on_a_terminal.close_terminal()
    on_a_terminal.ended()
    on_a_terminal.nothing_is_left()


def test_a_demo_that_was_told_to_outlive_its_terminal_does() -> None:
    """As by nohup, which has SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        demo = Demo("--server", "stand-in")
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        demo.until_told("Nothing is wrong yet")
        (ignored,) = re.findall(r"SigIgn:\s+([0-9a-f]+)", Path(f"/proc/{demo.process.pid}/status").read_text())
        assert int(ignored, 16) & 1 << signal.SIGHUP - 1
    finally:
        demo.close()
        demo.nothing_is_left()


def test_it_ends_when_nobody_reads_it_any_more(demo: Demo) -> None:
    """As in ``forewarn demo | head``."""
    demo.until_told("Nothing is wrong yet")
    demo.processes()
    demo.close_terminal()
    demo.ended()
    demo.nothing_is_left()


def test_it_ends_with_its_server_and_tells_so(demo: Demo, which: Sequence[str]) -> None:
    demo.until_told("Nothing is wrong yet")
    name = b"exporter.demo.standin" if "stand-in" in which else b"/faktory"
    commands = {it: Path(f"/proc/{it}/cmdline").read_bytes() for it in demo.processes()}
    (server,) = (it for it, command in commands.items() if name in command)
    os.kill(server, signal.SIGKILL)
    assert demo.ended() == 1
    assert "the demo's server has ended" in demo.text()
    demo.nothing_is_left()


# -- what stands in its way


def told_by(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"] if path is None else path}
    command = [sys.executable, "-m", "exporter.cli", "demo", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_a_port_that_is_taken_is_told_with_what_to_do_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = told_by("--web.listen-address", address)
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        f"forewarn: cannot listen on {address}: another program listens there: stop it,"
        " or choose another port with --web.listen-address"
    )
    assert ended.stdout == ""


def test_a_real_server_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    ended = told_by("--server", "real", path=str(tmp_path))
    assert ended.returncode == 1
    assert (
        "there is no faktory and no redis-server on the PATH: install them, or choose --server stand-in" in ended.stderr
    )


def test_an_unknown_kind_of_server_is_told() -> None:
    ended = told_by("--server", "reel")
    assert ended.returncode == 2
    assert "--server reel: there is no such choice; write auto, real or stand-in" in ended.stderr


def programs(folder: Path, *names: str) -> str:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho this is no server; exit 3\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("there", "wanted", "kind"),
    [
        (("faktory", "redis-server"), "auto", Kind.REAL),
        (("faktory", "redis-server"), "stand-in", Kind.STAND_IN),
        (("faktory",), "auto", Kind.STAND_IN),
        (("redis-server",), "auto", Kind.STAND_IN),
        ((), "auto", Kind.STAND_IN),
    ],
)
def test_it_runs_on_the_real_server_where_both_programs_are_there(
    tmp_path: Path, there: Sequence[str], wanted: str, kind: Kind
) -> None:
    assert servers.choose(wanted, path=programs(tmp_path, *there)).kind is kind


def test_what_is_missing_and_what_stands_in_for_it_is_told(tmp_path: Path) -> None:
    told = servers.choose("auto", path=programs(tmp_path, "faktory")).told
    assert "the embedded stand-in" in told
    assert "an imitation of Redis, for there is no redis-server on the PATH" in told


async def test_a_server_that_does_not_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    choice = servers.choose("real", path=programs(tmp_path, "faktory", "redis-server"))
    with pytest.raises(ServerError, match=r"(?s)--server stand-in.*this is no server"):
        async with cast() as held:
            await servers.start(held, choice)


@pytest.mark.parametrize(
    ("hard", "limit"),
    [(-1, None), (1_048_576, None), (2200, None), (2199, 1000), (1024, 800), (512, 300), (256, 50), (20, 50)],
)
def test_where_few_files_may_be_open_the_demo_has_a_limit_of_its_own(hard: int, limit: int | None) -> None:
    assert servers.demo_limit(hard) == limit


# -- its processes and its folder


async def gone(folder: Path) -> None:
    await wait_until(lambda: not folder.exists(), 20, what="the folder is removed")


def test_the_folder_stays_until_the_last_process_has_ended_that_works_in_it(tmp_path: Path) -> None:
    """It may be one that outlives the demo for a while, as a Redis that saves its data."""
    folder = tmp_path / "kept"
    hand, rope = os.pipe()
    command = [sys.executable, keeper.__file__, str(folder)]
    with subprocess.Popen(command, stdin=hand, stdout=subprocess.PIPE) as keeping:
        os.close(hand)
        assert keeping.stdout is not None
        assert keeping.stdout.readline()
        script = f"read _; touch {folder}/saved && echo yes"
        last = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(rope,)
        )
        os.close(rope)  # as the demo's end does
        with pytest.raises(subprocess.TimeoutExpired):
            keeping.wait(0.5)
        assert last.communicate("end\n", timeout=20)[0] == "yes\n"
        assert keeping.wait(20) == 0
    assert not folder.exists()


async def test_who_does_not_end_when_asked_is_killed() -> None:
    async with cast() as held:
        worker = await held.start("log", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
        await wait_until(lambda: held.log("log") == "up", 20)
        mode = held.folder.stat().st_mode & 0o777
    assert worker.returncode == -signal.SIGKILL
    assert mode == 0o700
    await gone(held.folder)


async def test_a_process_that_is_being_started_when_all_ends_is_ended_too() -> None:
    started: list[asyncio.subprocess.Process] = []

    class Watched(Cast):
        async def _start(self, *arguments: Any, **more: Any) -> asyncio.subprocess.Process:
            process = await super()._start(*arguments, **more)
            started.append(process)
            return process

    async with cast() as held:
        held.__class__ = Watched
        starting = asyncio.create_task(held.start("log", "sleep", "60"))
        await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
    assert len(started) == 1
    assert started[0].returncode is not None


async def test_a_file_that_an_old_server_leaves_elsewhere_goes_too(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.touch()
    async with cast() as held:
        held.also_remove_if_new(new)
        held.also_remove_if_new(old)
        new.touch()
    await gone(held.folder)
    await wait_until(lambda: not new.exists(), 20)
    assert old.exists()


def test_the_file_that_an_old_faktory_leaves_is_known() -> None:
    assert Path("/tmp/redis.conf") == OLD_REDIS_CONF  # noqa: S108
