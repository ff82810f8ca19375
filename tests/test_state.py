"""The state file: replaced in one step, and never a reason to stop."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import msgspec
import pytest

from exporter import state
from exporter.state import StateFile


class Memory(msgspec.Struct):
    """What a test remembers of a server."""

    crashes: int = 0
    names: list[str] = []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the state file is to be."""
    return tmp_path / "state.json"


def crashes(path: Path) -> dict[str, int]:
    """Return what a new run would read."""
    return {name: msgspec.json.decode(raw, type=Memory).crashes for name, raw in StateFile(path).load().items()}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings so far."""
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_what_was_saved_is_loaded(path: Path) -> None:
    assert StateFile(path).save({"mail": Memory(3), "bülk\n": Memory(1)})
    assert crashes(path) == {"mail": 3, "bülk\n": 1}


def test_the_newest_replaces_the_older(path: Path) -> None:
    file = StateFile(path)
    file.save({"mail": Memory(1), "gone": Memory(1)})
    file.save({"mail": Memory(2)})
    assert crashes(path) == {"mail": 2}


def test_no_file_is_no_memory_and_no_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert crashes(path) == {}
    assert not caplog.records


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    StateFile(path).save({})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_else_is_left_in_the_folder(path: Path) -> None:
    StateFile(path).save({"mail": Memory(1)})
    assert os.listdir(path.parent) == ["state.json"]


def test_what_a_killed_run_left_half_written_does_no_harm(path: Path) -> None:
    (path.parent / ".state.json.tmp").write_text('{"versi')
    assert StateFile(path).save({"mail": Memory(1)})
    assert os.listdir(path.parent) == ["state.json"]


def test_a_reader_finds_the_old_file_until_the_new_one_is_on_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(path)
    file.save({"mail": Memory(1)})
    seen: list[dict[str, int]] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(crashes(path))

    monkeypatch.setattr(os, "fsync", look)
    file.save({"mail": Memory(2)})
    assert seen == [{"mail": 1}, {"mail": 2}]  # the file's own, then its folder's


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"version": 1, "servers": {"mail": {"crashes"',
        b"[]",
        b'{"version": 2, "servers": {}}',
        b'{"version": "1", "servers": {}}',
        b'{"servers": {}}',
        b'{"version": 1, "servers": []}',
        b'{"version": 1, "servers": {"a": "\xff"}}',
        b"\x00" * 100,
        b'{"version": 1, "servers": ' + b"[" * 200_000,
    ],
    ids=range(10),
)
def test_a_broken_file_is_told_and_kept_beside(content: bytes, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(content)
    file = StateFile(path)
    assert not file.load()
    (told,) = warnings(caplog)
    assert str(path) in told
    assert "start anew at 0" in told
    assert (path.parent / "state.json.broken").read_bytes() == content
    assert file.save({"mail": Memory(1)})


def test_a_huge_file_is_not_read(path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    StateFile(path).save({"mail": Memory(1)})
    monkeypatch.setattr(state, "MAX_SIZE", 20)
    assert crashes(path) == {}
    assert "is longer than 20 bytes" in warnings(caplog)[0]


def test_a_memory_that_grew_huge_is_not_written(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(path)
    file.save({"mail": Memory(1)})
    monkeypatch.setattr(state, "MAX_SIZE", 100)
    assert not file.save({"mail": Memory(2, ["x" * 100])})
    assert crashes(path) == {"mail": 1}
    assert "would be longer than 100 bytes" in warnings(caplog)[0]


def test_a_full_disk_is_told_once_until_it_is_over(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    file = StateFile(path)
    file.save({"mail": Memory(1)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _disk_full)
        assert [file.save({"mail": Memory(2)}) for _ in range(3)] == [False, False, False]
    assert crashes(path) == {"mail": 1}
    assert os.listdir(path.parent) == ["state.json"]
    assert file.save({"mail": Memory(3)})
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert "No space left on device" in warnings(caplog)[0]


def _disk_full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "nowhere" / "state.json"
    assert not StateFile(path).save({"mail": Memory(1)})
    assert str(path) in warnings(caplog)[0]


def test_a_folder_in_the_files_place_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "precious").mkdir()
    file = StateFile(tmp_path / "precious")
    assert not file.load()
    assert not file.save({"mail": Memory(1)})
    assert os.listdir(tmp_path) == ["precious"]
    assert "Is a directory" in warnings(caplog)[0]


def test_a_broken_file_that_cannot_be_moved_is_not_overwritten(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("broken")
    (path.parent / "state.json.broken").mkdir()
    file = StateFile(path)
    assert not file.load()
    assert not file.save({"mail": Memory(1)})
    assert path.read_text() == "broken"
    assert "could not be moved" in warnings(caplog)[0]
