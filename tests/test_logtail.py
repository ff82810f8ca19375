"""Following the files of a log: rotation, truncation, patterns, restarts, and where they cannot be read."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import threading
import time
from pathlib import Path

import msgspec
import pytest

from exporter.model import Noticed, Position, Reason
from exporter.process import logfile, logfiles, logglob, logtail, outbox
from exporter.process.logtail import LogTail
from exporter.process.output import MIN_PIECE, QUIET, Output
from tests.logtailing import Clock, Numbers, Reader, append, dump, event, replace, tailing, told
from tests.servers import wait_until

NOBODY = 65534
NOISE = b"I 2026-01-01T00:00:00.000Z a line of what a server prints all day, and that says nothing\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes on the rights of another user: run it as root")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log that is there, and empty."""
    path = tmp_path / "server.log"
    path.touch()
    return path


@pytest.fixture
def _scanned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns are looked up anew whenever the tail is read."""
    monkeypatch.setattr(logglob, "SCAN", 0.0)
    monkeypatch.setattr(logglob, "REST", 0)


at_once = pytest.mark.usefixtures("_scanned_at_once")


class TestReading:
    async def test_what_is_appended_is_told_by_the_next_reading(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, event(1))
            await reader.read()
            append(log, event(2) + event(3))
            await reader.read()
            assert told(reader.entries) == ["flushed 1", "flushed 2", "flushed 3"]

    async def test_nobody_need_ask_for_it_to_be_read(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, event(1))
            box = reader.tail._outbox
            await wait_until(lambda: box._entries, what="read by the thread alone")

    async def test_an_incident_is_whole_after_two_seconds_of_silence(self, log: Path) -> None:
        clock = Clock()
        async with tailing(log, clock=clock) as reader:
            append(log, dump(1))
            facts = await reader.read()
            assert facts is not None
            assert facts.reading
            assert facts.entries == ()
            clock.now += QUIET
            facts = await reader.read()
            assert facts is not None
            assert told(facts.entries) == ["boom 1"]
            await reader.read()
            assert reader.facts is not None
            assert not reader.facts.reading

    async def test_a_position_reaches_only_to_the_incident_that_is_open(self, log: Path) -> None:
        async with tailing(log, clock=Clock()) as reader:
            append(log, event(1) + dump(1))
            await reader.read()
            assert [it.offset for it in reader.positions] == [len(event(1))]

    async def test_bytes_are_counted_once(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, NOISE * 100)
            await reader.read()
            append(log, NOISE)
            await reader.read()
            await reader.read()
            assert reader.read_bytes == 101 * len(NOISE)
            assert reader.facts is not None
            assert reader.facts.unread_bytes == 0

    async def test_when_anything_was_read_is_told_by_the_servers_clock(self, log: Path) -> None:
        async with tailing(log, wall=lambda: 5000.0) as reader:
            assert reader.facts is not None
            assert reader.facts.last_at is None
            append(log, NOISE)
            facts = await reader.read()
            assert facts is not None
            assert facts.last_at == 5000.0

    async def test_a_backlog_is_told_as_such(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logfile, "CHUNK", len(NOISE))
        monkeypatch.setattr(outbox, "MAX_NOTICED", 1)  # one that is not told holds up the rest
        async with tailing(log) as reader:
            append(log, event(1) + NOISE * 9)
            facts = await reader.read()
            assert facts is not None
            assert facts.reading
            assert facts.unread_bytes

    async def test_where_nobody_reads_the_results_a_file_waits_and_nothing_is_lost(
        self, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "MAX_NOTICED", 10)
        monkeypatch.setattr(logfile, "CHUNK", 64)
        async with tailing(log) as reader:
            append(log, b"".join(map(event, range(500))))
            box = reader.tail._outbox
            await wait_until(lambda: box.full, what="full")
            await reader.until(lambda: len(reader.entries) >= 500, "all told", deadline=60)
            assert told(reader.entries) == [f"flushed {it}" for it in range(500)]
            assert reader.dropped == 0

    async def test_a_defect_in_reading_one_part_costs_no_more_than_that(self, log: Path) -> None:
        class Broken(Numbers):
            def read(self, text: str, at: float | None) -> Noticed | None:
                if text.endswith("13"):
                    raise ValueError(text)
                return super().read(text, at)  # type: ignore[return-value]

        async with tailing(log, rules=[Broken()]) as reader:
            append(log, event(13))
            await reader.read()
            append(log, event(14))
            await reader.read()
            assert told(reader.entries) == ["flushed 14"]
            assert reader.failure is not None
            assert reader.failure.reason is Reason.DECODE
            assert str(log) in reader.failure.message


class TestHistory:
    """What was there before anyone watched."""

    async def test_only_limits_are_told_of_it(self, log: Path) -> None:
        append(log, b"LIMIT 70\n" + event(1) + dump(1))
        async with tailing(log) as reader:
            append(log, event(2))
            await reader.until_told("limit 70", "flushed 2")

    async def test_the_line_that_is_being_written_is_none_of_it(self, log: Path) -> None:
        append(log, event(1) + b"EVE")
        async with tailing(log) as reader:
            append(log, b"NT 2\n")
            await reader.until_told("flushed 2")

    async def test_only_its_end_is_read(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logfile, "HISTORY", 1000)
        append(log, b"LIMIT 1\n" + NOISE * 100 + b"LIMIT 2\n")
        async with tailing(log) as reader:
            await reader.until_drained()
            assert told(reader.entries) == ["limit 2"]
            assert reader.read_bytes == 1000

    async def test_it_says_nothing_of_when_the_server_printed_last(self, log: Path) -> None:
        append(log, NOISE)
        async with tailing(log) as reader:
            assert reader.facts is not None
            assert reader.facts.read_bytes
            assert reader.facts.last_at is None

    async def test_a_file_that_appears_later_is_read_from_its_beginning(self, tmp_path: Path) -> None:
        log = tmp_path / "server.log"
        async with tailing(log) as reader:
            append(log, event(1))
            await reader.until_told("flushed 1")

    @as_root
    async def test_a_file_that_could_not_be_opened_at_first_has_one_too(self, log: Path) -> None:
        append(log, event(1) + b"LIMIT 9\n")
        os.chmod(log, 0)
        async with as_nobody(log.parent, log) as reader:
            assert reader.failure is not None
            os.chmod(log, 0o644)
            await reader.until(lambda: reader.facts is not None, "opened")
            await reader.until_drained()
            assert told(reader.entries) == ["limit 9"]


class TestRotation:
    async def test_the_old_file_is_read_to_its_end_and_then_the_new_one(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, event(1))
            os.rename(log, log.with_suffix(".1"))
            append(log.with_suffix(".1"), event(2))
            append(log, event(3))
            await reader.until_told("flushed 1", "flushed 2", "flushed 3")

    async def test_a_dump_that_begins_in_one_file_and_ends_in_the_next_is_one_incident(self, log: Path) -> None:
        whole, clock = dump(1), Clock()
        async with tailing(log, clock=clock) as reader:
            append(log, whole[:70])
            await reader.read()
            os.rename(log, log.with_suffix(".1"))
            await reader.read()
            append(log, whole[70:] + event(2))
            await reader.settle(clock)
            await reader.until_told("boom 1", "flushed 2")

    async def test_who_never_opens_the_new_file_is_followed_in_the_old_one(self, log: Path) -> None:
        clock = Clock()
        async with tailing(log, clock=clock) as reader:
            os.rename(log, log.with_suffix(".1"))
            append(log, b"")
            await reader.read()
            clock.now += 10 * logfiles.REST
            await reader.read()
            append(log.with_suffix(".1"), event(1))
            await reader.until_told("flushed 1")

    async def test_a_rotated_file_is_closed_when_its_successor_is_written_to(self, log: Path) -> None:
        clock = Clock()
        async with tailing(log, clock=clock) as reader:
            append(log, NOISE)
            await reader.read()
            os.rename(log, log.with_suffix(".1"))
            append(log, NOISE)
            await reader.read()
            assert len(reader.positions) == 2
            clock.now += logfiles.REST
            await reader.read()
            assert len(reader.positions) == 1
            assert open_files(log.parent) == [str(log)]

    async def test_a_removed_file_does_not_hold_its_disk_for_ever(self, log: Path) -> None:
        clock = Clock()
        async with tailing(log, clock=clock) as reader:
            append(log, event(1))
            os.unlink(log)
            await reader.until_told("flushed 1")
            clock.now += logfiles.REST
            await reader.read()
            assert open_files(log.parent) == []

    async def test_a_file_that_is_missing_for_a_while_is_followed_when_it_is_there_again(self, log: Path) -> None:
        clock = Clock()
        async with tailing(log, clock=clock) as reader:
            os.unlink(log)
            await reader.read()
            assert reader.failure is None  # so may a rotation look
            clock.now += logglob.GRACE
            await reader.read()
            assert reader.failure is not None
            append(log, event(1))
            await reader.until_told("flushed 1")
            assert reader.failure is None

    async def test_a_truncated_file_is_read_from_its_beginning(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, NOISE * 3 + event(1))
            await reader.read()
            os.truncate(log, 0)
            append(log, event(2))
            await reader.until_told("flushed 1", "flushed 2")

    async def test_so_is_one_that_is_longer_again_than_it_was(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, NOISE + event(1))
            await reader.read()
            replace(log, event(2) + NOISE * 3 + event(3))
            await reader.until_told("flushed 1", "flushed 2", "flushed 3")

    async def test_so_is_one_that_is_exactly_as_long_again(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, event(1))
            await reader.read()
            replace(log, event(2))
            await reader.until_told("flushed 1", "flushed 2")

    async def test_what_was_not_read_before_the_truncation_is_read_in_the_copy(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, NOISE + event(1))
            await reader.read()
            append(log, event(2))
            shutil.copy(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)
            append(log, event(3))
            await reader.until_told("flushed 1", "flushed 2", "flushed 3")

    async def test_the_hole_is_passed_over_that_a_writer_leaves_who_goes_on_where_it_was(self, log: Path) -> None:
        clock = Clock()
        async with tailing(log, clock=clock) as reader:
            with log.open("wb") as writer:  # not appending
                writer.write(NOISE * 200)
                writer.flush()
                await reader.read()
                os.truncate(log, 0)
                before = reader.read_bytes
                writer.write(dump(1) + event(1))
                writer.flush()
                await reader.settle(clock)
                await reader.until_told("boom 1", "flushed 1")
                assert reader.read_bytes - before == len(dump(1) + event(1))


@at_once
class TestPatterns:
    async def test_files_that_appear_later_are_followed(self, tmp_path: Path) -> None:
        async with tailing(tmp_path / "*.log") as reader:
            append(tmp_path / "a.log", event(1))
            await reader.until_told("flushed 1")
            append(tmp_path / "b.log", event(2))
            await reader.until_told("flushed 1", "flushed 2")

    async def test_folders_are_searched_in_folders(self, tmp_path: Path) -> None:
        (tmp_path / "one" / "two").mkdir(parents=True)
        async with tailing(tmp_path / "**" / "*.log") as reader:
            append(tmp_path / "one" / "two" / "a.log", event(1))
            await reader.until_told("flushed 1")

    async def test_a_rotated_file_that_matches_too_is_not_read_twice(self, log: Path) -> None:
        clock = Clock()
        async with tailing(log.parent / "*.log*", clock=clock) as reader:
            append(log, event(1))
            await reader.read()
            for number in range(2, 6):
                for old in range(9, 0, -1):
                    path = log.with_name(f"server.log.{old}")
                    if path.exists():
                        os.rename(path, log.with_name(f"server.log.{old + 1}"))
                os.rename(log, log.with_name("server.log.1"))
                append(log, event(number))
                await reader.until_told(*[f"flushed {it}" for it in range(1, number + 1)])
                clock.now += logfiles.REST
            await reader.read()
            assert len(told(reader.entries)) == 5
            assert len(reader.positions) == 5

    async def test_a_copy_that_matches_too_is_not_read_twice(self, log: Path) -> None:
        async with tailing(log.parent / "*.log*") as reader:
            append(log, event(1) + NOISE)
            await reader.read()
            shutil.copy(log, log.with_name("server.log.1"))
            await reader.read()
            os.truncate(log, 0)
            append(log, event(2))
            await reader.until_told("flushed 1", "flushed 2")

    async def test_a_symbolic_link_and_its_target_are_one_file(self, tmp_path: Path) -> None:
        target = tmp_path / "0.log"
        target.touch()
        (tmp_path / "pod.log").symlink_to(target)
        async with tailing(tmp_path / "*.log") as reader:
            append(target, event(1))
            await reader.until_told("flushed 1")
            assert len(reader.positions) == 1

    async def test_a_symbolic_link_that_leads_to_a_new_target_is_followed(self, tmp_path: Path) -> None:
        """As Kubernetes does it when a container is started anew."""
        link = tmp_path / "pod.log"
        first, second = tmp_path / "pods" / "0.log", tmp_path / "pods" / "1.log"
        first.parent.mkdir()
        first.touch()
        link.symlink_to(first)
        async with tailing(link) as reader:
            append(first, event(1))
            append(second, event(2))
            (tmp_path / "new").symlink_to(second)
            (tmp_path / "new").rename(link)
            await reader.until_told("flushed 1", "flushed 2")

    async def test_what_is_compressed_is_passed_over(self, tmp_path: Path) -> None:
        async with tailing(tmp_path / "*.log*") as reader:
            append(tmp_path / "server.log.1.gz", event(1))
            append(tmp_path / "server.log", event(2))
            await reader.until_told("flushed 2")
            assert len(reader.positions) == 1

    async def test_of_too_many_files_the_newest_are_followed_and_that_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logglob, "MAX_FILES", 3)
        for number in range(2000):
            (tmp_path / f"{number:04}.log").write_bytes(event(number))
            os.utime(tmp_path / f"{number:04}.log", (number, number))
        async with tailing(tmp_path / "*.log") as reader:
            assert {Path(it.path).name for it in reader.positions} == {"1997.log", "1998.log", "1999.log"}
            assert reader.failure is not None
            assert reader.failure.reason is Reason.CONFIG
            assert "matches 2000 files, and only the 3 newest are followed" in reader.failure.message

    async def test_an_old_one_that_is_written_to_again_is_followed_from_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logglob, "MAX_FILES", 2)
        for number in range(4):
            (tmp_path / f"{number}.log").write_bytes(event(number))
            os.utime(tmp_path / f"{number}.log", (number, number))
        async with tailing(tmp_path / "*.log") as reader:
            for at, number in enumerate((0, 1, 2, 3, 0, 1), 10):
                append(tmp_path / f"{number}.log", event(10 + number))
                os.utime(tmp_path / f"{number}.log", (at, at))  # two in one tick of the kernel's are equally new
                await reader.until(lambda: len(open_files(tmp_path)) == 2, "two open")
            await reader.until_told(*[f"flushed {10 + it}" for it in (0, 1, 2, 3, 0, 1)])

    async def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(self, tmp_path: Path) -> None:
        log = tmp_path / "server[1].log"
        append(log, b"")
        async with tailing(log) as reader:
            append(log, event(1))
            await reader.until_told("flushed 1")


class TestFailures:
    """What, where, and how to mend it; the rest goes on."""

    async def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        async with tailing(tmp_path / "none.log") as reader:
            assert reader.facts is None
            assert reader.failure is not None
            assert reader.failure.reason is Reason.CONFIG
            assert f"there is no file {tmp_path}/none.log: correct the path (log_files)" in reader.failure.message

    async def test_a_pattern_that_matches_nothing(self, tmp_path: Path) -> None:
        async with tailing(tmp_path / "*.log") as reader:
            assert reader.facts is None
            assert reader.failure is not None
            assert reader.failure.reason is Reason.CONFIG
            assert f"no file matches {tmp_path}/*.log: correct it (log_files)" in reader.failure.message

    @pytest.mark.parametrize(
        ("path", "what"),
        [("", "is a folder"), ("/dev/null", "is a device"), ("a.log.gz", "is compressed")],
    )
    async def test_what_is_no_log(self, tmp_path: Path, path: str, what: str) -> None:
        (tmp_path / "a.log.gz").touch()
        async with tailing(tmp_path / path) as reader:
            assert reader.failure is not None
            assert reader.failure.reason is Reason.CONFIG
            assert what in reader.failure.message

    @as_root
    async def test_a_file_that_may_not_be_read(self, log: Path) -> None:
        os.chmod(log, 0o600)
        async with as_nobody(log.parent, log) as reader:
            assert reader.failure is not None
            assert reader.failure.reason is Reason.CONFIG
            assert f"{log} may not be read: let Forewarn's user read it" in reader.failure.message

    async def test_the_others_are_read_all_the_same(self, log: Path, tmp_path: Path) -> None:
        async with tailing(tmp_path / "none.log", tmp_path, log) as reader:
            append(log, event(1))
            await reader.until_told("flushed 1")
            assert reader.failure is not None
            assert "none.log" in reader.failure.message
            assert "is a folder" in reader.failure.message

    async def test_a_path_that_no_file_can_have(self, tmp_path: Path) -> None:
        for path in ("a\0b", "x" * 5000, str(tmp_path / "loop")):
            if "loop" in path:
                os.symlink(path, path)
            async with tailing(path) as reader:
                assert reader.failure is not None
                assert reader.failure.reason is Reason.CONFIG


class TestRestart:
    """A new log tail with the positions of the last reading of the old one."""

    async def test_it_goes_on_there(self, log: Path) -> None:
        async with tailing(log) as first:
            append(log, event(1))
            await first.read()
        append(log, event(2))
        async with tailing(log, positions=first.positions) as second:
            assert told(second.entries) == ["flushed 2"]

    async def test_what_was_found_but_not_told_is_told(self, log: Path) -> None:
        async with tailing(log) as first:
            append(log, event(1))
            box = first.tail._outbox
            await wait_until(lambda: box._entries, what="found")
        async with tailing(log, positions=first.positions) as second:
            assert told(second.entries) == ["flushed 1"]

    async def test_an_open_incident_is_read_anew_from_its_beginning(self, log: Path) -> None:
        whole = dump(1)
        async with tailing(log) as first:
            append(log, whole[:90])
            await first.read()
        append(log, whole[90:] + event(2))
        clock = Clock()
        async with tailing(log, positions=first.positions, clock=clock) as second:
            await second.settle(clock)
            await second.until_told("boom 1", "flushed 2")

    async def test_one_that_began_in_a_rotated_file_too(self, log: Path) -> None:
        whole = dump(1)
        async with tailing(log, clock=Clock()) as first:
            append(log, whole[:60])
            await first.read()
            os.rename(log, log.with_name("server.log.1"))
            append(log, whole[60:90])
            await first.read()
            assert [it.offset for it in first.positions] == [0, 0]
        append(log, whole[90:] + event(2))
        clock = Clock()
        async with tailing(log, positions=first.positions, clock=clock) as second:
            await second.settle(clock)
            await second.until_told("boom 1", "flushed 2")

    async def test_a_file_that_was_rotated_meanwhile_is_read_to_its_end_first(self, log: Path) -> None:
        async with tailing(log) as first:
            append(log, event(1))
            await first.read()
        append(log, event(2))
        os.rename(log, log.with_name("gone elsewhere"))
        append(log, event(3))
        async with tailing(log, positions=first.positions) as second:
            await second.until_told("flushed 2", "flushed 3")

    async def test_so_is_the_target_of_a_symbolic_link(self, tmp_path: Path) -> None:
        target, link = tmp_path / "pods" / "0.log", tmp_path / "pod.log"
        target.parent.mkdir()
        target.touch()
        link.symlink_to(target)
        async with tailing(link) as first:
            append(target, event(1))
            await first.read()
        append(target, event(2))
        target.rename(target.with_name("0.log.20260101-000000"))
        append(target, event(3))
        async with tailing(link, positions=first.positions) as second:
            await second.until_told("flushed 2", "flushed 3")

    async def test_a_file_that_was_copied_and_truncated_meanwhile_is_read_on_in_its_copy(self, log: Path) -> None:
        async with tailing(log) as first:
            append(log, NOISE + event(1))
            await first.read()
        append(log, event(2))
        shutil.copy(log, log.with_name("server.log.1"))
        replace(log, event(3) + NOISE * 10)
        async with tailing(log, positions=first.positions) as second:
            await second.until_told("flushed 2", "flushed 3")

    async def test_a_file_whose_predecessor_is_nowhere_is_read_from_its_beginning(self, log: Path) -> None:
        async with tailing(log) as first:
            await first.read()
        os.rename(log, log.parent.parent / f"{log.parent.name}-elsewhere")
        append(log, event(1))
        async with tailing(log, positions=first.positions) as second:
            await second.until_told("flushed 1")

    async def test_another_file_with_the_same_inode_is_read_from_its_beginning(self, log: Path) -> None:
        append(log, event(1))
        there = os.stat(log)
        other = Position(str(log), there.st_dev, there.st_ino, 5, "0123456789abcdef", 5)
        async with tailing(log, positions=[other]) as reader:
            await reader.until_told("flushed 1")

    @at_once
    async def test_a_file_of_a_pattern_that_came_meanwhile_is_read_from_its_beginning(self, tmp_path: Path) -> None:
        append(tmp_path / "0.log", NOISE)
        async with tailing(tmp_path / "*.log") as first:
            await first.until_drained()
        append(tmp_path / "1.log", event(1))
        async with tailing(tmp_path / "*.log", positions=first.positions) as second:
            await second.until_told("flushed 1")

    async def test_a_file_that_is_named_for_the_first_time_has_a_history(self, log: Path, tmp_path: Path) -> None:
        async with tailing(log) as first:
            await first.read()
        other = tmp_path / "other.log"
        append(other, event(1))
        async with tailing(log, other, positions=first.positions) as second:
            append(other, event(2))
            await second.until_told("flushed 2")

    async def test_positions_of_files_that_are_not_named_any_more_are_dropped(self, log: Path, tmp_path: Path) -> None:
        async with tailing(log) as first:
            await first.read()
        other = tmp_path / "other.log"
        other.touch()
        async with tailing(other, positions=first.positions) as second:
            assert [it.path for it in second.positions] == [str(other)]

    async def test_positions_go_through_the_state_file(self, log: Path) -> None:
        async with tailing(log) as first:
            append(log, event(1))
            await first.read()
        kept = msgspec.json.decode(msgspec.json.encode(first.positions), type=tuple[Position, ...])
        async with tailing(log, positions=kept) as second:
            append(log, event(2))
            await second.until_told("flushed 2")


class TestThread:
    async def test_nothing_is_opened_before_the_first_reading(self, log: Path) -> None:
        before = threading.active_count()
        tail = LogTail([str(log)])
        assert threading.active_count() == before
        await tail.close()

    async def test_closing_leaves_nothing_behind_and_may_be_done_twice(self, log: Path) -> None:
        before = set(os.listdir("/proc/self/fd"))
        async with tailing(log) as reader:
            await reader.tail.close()
            assert not any(it.name == "forewarn-logtail" for it in threading.enumerate())
        assert await reader.tail.read() == (None, None)
        assert set(os.listdir("/proc/self/fd")) <= before

    async def test_a_reading_that_is_cancelled_loses_nothing(self, log: Path) -> None:
        async with tailing(log) as reader:
            append(log, event(1))
            for _ in range(20):
                reading = asyncio.create_task(reader.tail.read())
                await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            await reader.until_told("flushed 1")

    async def test_a_disk_that_does_not_answer_is_told_and_holds_up_nobody(
        self, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logtail, "DEADLINE", 0.05)
        monkeypatch.setattr(logtail, "CLOSE_DEADLINE", 0.05)
        answers = threading.Event()
        try:
            async with tailing(log) as reader:
                monkeypatch.setattr(logfiles.LogFiles, "look", lambda _: answers.wait(60))
                # One look may have begun before.
                await reader.until(lambda: reader.failure is not None, "told")
                assert reader.failure is not None
                assert reader.failure.reason is Reason.TIMEOUT
                assert reader.facts is not None
                began = time.monotonic()
                await reader.tail.close()
                assert time.monotonic() - began < 5
        finally:
            answers.set()

    async def test_a_defect_that_ends_it_is_told_and_it_is_started_anew_where_it_was(
        self, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        async with tailing(log, clock=clock) as reader:
            append(log, event(1))
            await reader.read()
            with monkeypatch.context() as broken:
                broken.setattr(logfiles.LogFiles, "look", lambda _: 1 / 0)
                await reader.until(lambda: reader.failure is not None, "told")
            assert reader.failure is not None
            assert "defect" in reader.failure.message
            append(log, event(2))
            clock.now += logtail.CALM
            await reader.until_told("flushed 1", "flushed 2")

    async def test_one_backlog_does_not_hold_up_another_file(
        self, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logfile, "CHUNK", 1024)
        other = tmp_path / "other.log"
        async with tailing(log, other) as reader:
            append(log, NOISE * 100_000)
            append(other, event(1))
            await reader.until(lambda: reader.entries, "told")
            assert reader.facts is not None
            assert reader.facts.unread_bytes


def test_the_event_loop_is_not_held_up_while_a_backlog_is_read() -> None:
    """The scanner gets large pieces where it only searches, and short ones where it must read each line."""
    output = Output("it", [Numbers()])
    quick, slow = NOISE * 20_000, b"".join(map(event, range(20_000)))
    output.feed(quick)
    large = output._piece
    output.feed(slow)
    assert output._piece < large
    output.feed(quick * 3)
    assert output._piece > MIN_PIECE


class as_nobody:  # noqa: N801 - reads as what it does
    """A log tail whose thread has another user's rights to files. Those of the other threads stay as they are."""

    def __init__(self, folder: Path, *files: Path) -> None:
        self._files = files
        for parent in (folder, *folder.parents[:3]):
            if str(parent).startswith("/tmp/"):  # noqa: S108 - pytest's own folders
                parent.chmod(0o755)

    async def __aenter__(self) -> Reader:
        self._patch = pytest.MonkeyPatch()
        run = logtail.Follower._run

        def without_rights(follower: logtail.Follower) -> None:
            # Only of this thread, unlike what os.setfsuid would be called.
            ctypes.CDLL(None).setfsuid(NOBODY)
            run(follower)

        self._patch.setattr(logtail.Follower, "_run", without_rights)
        self._context = tailing(*self._files)
        return await self._context.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._context.__aexit__(None, None, None)
        self._patch.undo()


def open_files(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith(f"{folder}/"):
            found.append(target)
    return sorted(found)
