"""The parts of `forewarn exec` that are proved best alone: the tap, who was started, and who was killed for memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from exporter.model import Exited
from exporter.process import oom, supervise
from exporter.process.beside import chosen, exited
from exporter.process.companion import Companion
from exporter.process.copying import Tap
from exporter.process.tap import Course, TapFeed
from exporter.secret import Secret
from exporter.settings import ServerSettings, Settings, SettingsError

KIB = 1024


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def offer(tap: Tap, *chunks: bytes) -> None:
    for chunk in chunks:
        tap.offer(memoryview(chunk))


def fill(tap: Tap) -> bytes:
    """Offer as much as there is room for; return it."""
    told = b""
    while not tap.dropped:
        told += b"x" * 4095 + b"\n"
        offer(tap, b"x" * 4095 + b"\n")
    return told[: -tap.dropped]


def everything(reading: int) -> bytes:
    os.set_blocking(reading, False)
    found = b""
    try:
        while chunk := os.read(reading, 1024 * KIB):
            found += chunk
    except BlockingIOError:
        pass
    return found


# --- the tap --------------------------------------------------------------------------------------------------------


def test_what_is_offered_comes_out(pipe: tuple[int, int]) -> None:
    tap = Tap(pipe[1])
    offer(tap, b"one", b"\0two\n")
    assert everything(pipe[0]) == b"one\0two\n"
    tap.close()


def test_a_full_tap_drops_and_counts_and_never_waits(pipe: tuple[int, int]) -> None:
    tap = Tap(pipe[1])
    told = fill(tap)
    before = tap.dropped
    offer(tap, b"y" * 1000)
    assert tap.dropped == before + 1000
    assert everything(pipe[0]) == told
    tap.close()


def test_behind_what_was_dropped_it_goes_on_with_a_line_of_its_own(pipe: tuple[int, int]) -> None:
    tap = Tap(pipe[1])
    told = fill(tap)
    assert everything(pipe[0]) == told
    offer(tap, b"the rest of a torn line, ", b"and its end\nwhole\n", b"next\n")
    assert everything(pipe[0]) == b"\nwhole\nnext\n"
    tap.close()


def test_a_tap_whose_reader_is_gone_drops(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    tap = Tap(writing)
    os.close(reading)
    offer(tap, b"nobody\n")
    assert tap.dropped == len(b"nobody\n")
    tap.close()
    os.close(pipe[1])


def test_a_closed_tap_takes_no_more(pipe: tuple[int, int]) -> None:
    tap = Tap(pipe[1])
    tap.close()
    tap.close()
    offer(tap, b"late")
    assert os.read(pipe[0], 10) == b""


# --- what is read of it ---------------------------------------------------------------------------------------------


def taps(course: Course, *names: str) -> list[tuple[TapFeed, int]]:
    """Feeds of these names, each with where to write."""
    pipes = [os.pipe() for _ in names]
    feeds = course.taps([(name, reading) for name, (reading, _) in zip(names, pipes, strict=True)])
    for reading, _ in pipes:
        os.close(reading)
    return [(feed, writing) for feed, (_, writing) in zip(feeds, pipes, strict=True)]


def test_a_feed_tells_the_exit_behind_the_end_of_all_output() -> None:
    course, how = Course(), Exited(1.0, status=2)
    (out, to_out), (err, to_err) = taps(course, "stdout", "stderr")
    os.write(to_err, b"last words")
    course.exited(how)
    os.close(to_err)
    assert err.read() == b"last words"
    assert (err.read(), list(err.entries())) == (None, [])
    assert not course.consumed.is_set()
    assert out.read() == b""
    os.close(to_out)
    assert (out.read(), list(out.entries())) == (None, [how])
    assert course.consumed.is_set()
    assert list(out.entries()) == []
    out.close()
    err.close()


def test_a_feed_whose_writer_is_replaced_has_not_ended() -> None:
    course = Course()
    [(feed, writing)] = taps(course, "stdout")
    os.close(writing)
    again = os.open(f"/proc/self/fd/{feed.fileno()}", os.O_WRONLY)
    course.goes_on()
    assert feed.read() == b""
    os.write(again, b"more")
    assert feed.read() == b"more"
    course.over()
    os.close(again)
    assert feed.read() is None
    feed.close()


# --- who was started, and how it ended ------------------------------------------------------------------------------


def settings(*names: str) -> Settings:
    return Settings(servers=tuple(ServerSettings(name=name, url=Secret("tcp://x:1"), web_url="") for name in names))


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["one"], None, "one"),
        (["one", "faktory"], None, "faktory"),
        (["one", "two"], "two", "two"),
        (["one"], "one", "one"),
    ],
)
def test_which_server_was_started(names: list[str], wanted: str | None, found: str) -> None:
    assert chosen(settings(*names), wanted) == found


@pytest.mark.parametrize(("names", "wanted"), [(["one", "two"], None), (["one", "faktory"], "three")])
def test_which_server_was_started_must_be_clear(names: list[str], wanted: str | None) -> None:
    with pytest.raises(SettingsError, match=f"--exec.server.*one of one, {names[1]}$"):
        chosen(settings(*names), wanted)


def test_how_a_server_ended() -> None:
    assert exited(2 << 8, 5.0, out_of_memory=False) == Exited(5.0, status=2)
    assert exited(signal.SIGKILL, 5.0, out_of_memory=True) == Exited(5.0, signal=9, out_of_memory=True)


# --- kills for want of memory ---------------------------------------------------------------------------------------


def world(folder: Path, groups: str, counters: dict[str, str]) -> tuple[str, str]:
    """A process's control groups, and their files."""
    own, root = folder / "cgroup", folder / "fs"
    own.write_text(groups)
    for path, text in counters.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return str(own), str(root)


@pytest.mark.parametrize(
    ("groups", "path"),
    [
        ("0::/kubepods/pod1/x\n", "kubepods/pod1/x/memory.events"),
        ("0::/\n", "memory.events"),
        ("0::/system.slice/docker-1.scope\n", "memory.events"),
        ("5:devices:/\n0::/a\n", "unified/a/memory.events"),
    ],
)
def test_kills_are_counted_by_control_groups_of_version_2(tmp_path: Path, groups: str, path: str) -> None:
    counters = {path: "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"}
    assert oom.kills(*world(tmp_path, groups, counters)) == 2


@pytest.mark.parametrize("path", ["memory/docker/1/memory.oom_control", "memory/memory.oom_control"])
def test_kills_are_counted_by_control_groups_of_version_1(tmp_path: Path, path: str) -> None:
    counters = {path: "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"}
    assert oom.kills(*world(tmp_path, "9:cpu:/\n4:memory:/docker/1\n0::/\n", counters)) == 4


def test_kills_that_nobody_counts_are_not_known(tmp_path: Path) -> None:
    assert oom.kills(*world(tmp_path, "0::/a\nnonsense\n", {"a/memory.events": "oom 1\noom_kill many\n"})) is None


@pytest.mark.parametrize(("counted", "its"), [(2, True), (1, False)])
def test_of_both_processes_killed_at_once_each_has_a_kill_of_its_own(
    monkeypatch: pytest.MonkeyPatch, counted: int, its: bool
) -> None:
    class Beside:
        pid = 11

        def ended(self, *_: object) -> None:
            self.pid = 0

    kills = iter([0, *[counted] * 9])
    ends = iter([(11, signal.SIGKILL), (10, signal.SIGKILL), (0, 0)])
    monkeypatch.setattr(oom, "kills", lambda: next(kills))
    monkeypatch.setattr(os, "waitpid", lambda *_: next(ends))
    supervisor = supervise.Supervisor(10, (), cast("Companion", Beside()))
    supervisor._collect()
    assert supervisor._out_of_memory is its
