"""Throttles are read from Faktory Enterprise's files, and a broken file takes nothing away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.faktory import conf
from exporter.faktory.conf import MAX_FILE, ThrottleFiles, parse_throttles
from exporter.model import Failure, Reason, Scope, ThrottleLimit


class Files:
    """A configuration directory whose files a test writes; each writing counts as a change."""

    def __init__(self, config_dir: Path) -> None:
        self.folder = config_dir / "conf.d"
        self.folder.mkdir()
        self.source = ThrottleFiles(config_dir)
        self._time = 1_700_000_000

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self._time += 1
        os.utime(path, (self._time, self._time))
        return path

    def limits(self) -> dict[tuple[str, str], int]:
        limits, failure = self.source.read()
        assert failure is None, failure
        return plain(limits)

    def failure(self) -> Failure:
        failure = self.source.read()[1]
        assert failure is not None
        assert failure.reason is Reason.CONFIG
        return failure


def plain(limits: tuple[ThrottleLimit, ...]) -> dict[tuple[str, str], int]:
    return {(limit.queue, limit.scope.value): limit.limit for limit in limits}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["[throttles]\nmail = { concurrency = 4, timeout = 60 }", "[throttles.mail]\nconcurrency = 4\ntimeout = 60"],
)
def test_both_spellings_are_understood(text: str) -> None:
    assert parse_throttles(text).limits == {"mail": (ThrottleLimit("mail", Scope.CLUSTER, 4),)}


def test_a_limit_may_be_of_the_cluster_of_each_worker_or_both() -> None:
    found = parse_throttles("[throttles]\na = {concurrency=4}\nb = {worker=5}\nc = {concurrency=6, worker=2}").limits
    assert plain(tuple(limit for limits in found.values() for limit in limits)) == {
        ("a", "cluster"): 4,
        ("b", "worker"): 5,
        ("c", "cluster"): 6,
        ("c", "worker"): 2,
    }


def test_a_quoted_name_may_contain_dots() -> None:
    assert list(parse_throttles('[throttles."my.queue"]\nconcurrency = 1').limits) == ["my.queue"]


def test_a_name_with_dots_that_is_not_quoted_is_told() -> None:
    found = parse_throttles("[throttles.my.queue]\nconcurrency = 1")
    assert not found.limits
    assert "quotes" in found.problems[0]


@pytest.mark.parametrize("wrong", ['"4"', "-1", "4.0", "true", "[4]", "2147483648", "2026-11-21"])
def test_an_entry_that_is_wrong_is_told_by_queue_and_key_and_the_rest_is_kept(wrong: str) -> None:
    found = parse_throttles(f"[throttles]\nbad = {{ concurrency = {wrong}, worker = 3 }}\ngood = {{ concurrency = 2 }}")
    assert found.limits == {
        "bad": (ThrottleLimit("bad", Scope.WORKER, 3),),
        "good": (ThrottleLimit("good", Scope.CLUSTER, 2),),
    }
    assert len(found.problems) == 1
    assert "'bad'.concurrency" in found.problems[0]


@pytest.mark.parametrize("entry", ["4", "{}", "{ timeout = 60 }", "[[]]"])
def test_an_entry_without_a_limit_is_told(entry: str) -> None:
    assert "'bad'" in parse_throttles(f"[throttles]\nbad = {entry}").problems[0]


def test_throttles_that_are_no_table_are_told() -> None:
    assert parse_throttles("throttles = 3").problems


def test_no_conf_d_means_no_throttles(tmp_path: Path) -> None:
    assert ThrottleFiles(tmp_path).read() == ((), None)


def test_no_throttles_in_the_files_means_no_throttles(files: Files) -> None:
    files.write("statsd.toml", '[statsd]\nlocation = "h:8125"')
    files.write("readme.txt", "not [ toml")
    assert files.limits() == {}


def test_a_configuration_directory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    limits, failure = ThrottleFiles(tmp_path / "typo").read()
    assert limits == ()
    assert failure is not None
    assert "typo" in failure.message


def test_files_are_read_in_the_order_of_their_names_and_the_later_wins(files: Files) -> None:
    files.write("b.toml", "[throttles]\nmail = { worker = 2 }")
    files.write("a.toml", "[throttles]\nmail = { concurrency = 9 }\nbulk = { concurrency = 1 }")
    assert files.limits() == {("mail", "worker"): 2, ("bulk", "cluster"): 1}


def test_a_changed_file_is_read_again(files: Files) -> None:
    files.write("a.toml", "[throttles]\nmail = { concurrency = 1 }")
    assert files.limits() == {("mail", "cluster"): 1}
    files.write("a.toml", "[throttles]\nmail = { concurrency = 2 }")
    assert files.limits() == {("mail", "cluster"): 2}


def test_a_new_and_a_removed_file_are_noticed(files: Files) -> None:
    path = files.write("a.toml", "[throttles]\nmail = { concurrency = 1 }")
    files.limits()
    files.write("b.toml", "[throttles]\nbulk = { concurrency = 2 }")
    assert files.limits() == {("mail", "cluster"): 1, ("bulk", "cluster"): 2}
    path.unlink()
    assert files.limits() == {("bulk", "cluster"): 2}


def test_unchanged_files_are_not_opened_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write("a.toml", "[throttles]\nmail = { concurrency = 1 }")
    opened: list[str] = []
    real = conf.parse_throttles

    def counting(text: str) -> conf.Throttles:
        opened.append(text)
        return real(text)

    monkeypatch.setattr(conf, "parse_throttles", counting)
    for _ in range(3):
        files.limits()
    assert len(opened) == 1


def test_a_broken_file_keeps_its_last_good_content(files: Files) -> None:
    files.write("a.toml", "[throttles]\nmail = { concurrency = 1 }")
    files.write("b.toml", "[throttles]\nbulk = { concurrency = 2 }")
    files.limits()
    files.write("a.toml", "[throttles\nmail =")
    files.write("b.toml", "[throttles]\nbulk = { concurrency = 3 }")
    for _ in range(2):
        limits, failure = files.source.read()
        assert plain(limits) == {("mail", "cluster"): 1, ("bulk", "cluster"): 3}
        assert failure is not None
        assert "a.toml" in failure.message
    files.write("a.toml", "[throttles]\nmail = { concurrency = 5 }")
    assert files.limits() == {("mail", "cluster"): 5, ("bulk", "cluster"): 3}


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * (MAX_FILE + 1), b"a = " + b"[" * 100_000])
def test_a_file_that_cannot_be_used_is_told(files: Files, content: bytes) -> None:
    files.write("a.toml", content)
    assert "a.toml" in files.failure().message


def test_a_pipe_is_not_waited_for(files: Files) -> None:
    os.mkfifo(files.folder / "a.toml")
    assert "not a regular file" in files.failure().message


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_an_unreadable_directory_is_told_and_the_last_limits_kept(files: Files) -> None:
    files.write("a.toml", "[throttles]\nmail = { concurrency = 1 }")
    files.limits()
    files.folder.chmod(0)
    limits, failure = files.source.read()
    files.folder.chmod(0o700)
    assert plain(limits) == {("mail", "cluster"): 1}
    assert failure is not None
    assert "permission denied" in failure.message


def test_a_directory_that_is_none_is_told_and_the_last_limits_kept(files: Files) -> None:
    files.write("a.toml", "[throttles]\nmail = { concurrency = 1 }")
    files.limits()
    files.folder.rename(files.folder.parent / "away")
    files.folder.write_text("")
    limits, failure = files.source.read()
    assert plain(limits) == {("mail", "cluster"): 1}
    assert failure is not None
    assert str(files.folder) in failure.message


def test_a_file_that_cannot_be_opened_is_told_and_tried_again(files: Files) -> None:
    target = files.folder.parent / "target"
    (files.folder / "a.toml").symlink_to(target)
    assert "a.toml" in files.failure().message
    target.write_text("[throttles]\nmail = { concurrency = 1 }")
    assert files.limits() == {("mail", "cluster"): 1}


def test_more_files_than_are_read_are_told(files: Files) -> None:
    for number in range(conf.MAX_FILES + 1):
        files.write(f"{number}.toml", "")
    assert "more than 256 files" in files.failure().message
