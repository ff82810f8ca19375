"""The journal of a unit of systemd, read with a stand-in for ``journalctl``."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from exporter.model import Position, Reason
from exporter.process import outbox
from exporter.process.journal import TOLD
from exporter.process.output import QUIET
from tests.logtailing import Clock, Reader, append, dump, event, tailing, told
from tests.servers import wait_until

# It prints the entries of a file behind the cursor that it is asked for, and follows that file if it is asked to.
PROGRAM = """#!{python} -SEs
import json, os, sys, time
folder, arguments = {folder!r}, sys.argv[1:]
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps([os.getpid(), *arguments]) + "\\n")
if os.path.exists(folder + "/complaint"):
    sys.stderr.write(open(folder + "/complaint").read())
    sys.stderr.flush()
if os.path.exists(folder + "/status"):
    sys.exit(int(open(folder + "/status").read()))
after = [it.partition("=")[2] for it in arguments if it.startswith("--after-cursor=")]
lines = [it.partition("=")[2] for it in arguments if it.startswith("--lines=")]
journal = open(folder + "/journal", "rb")
past = [line for line in journal]
if after:
    cursors = [json.loads(line)["__CURSOR"] for line in past]
    past = past[cursors.index(after[0]) + 1:]
if lines:
    past = past[-int(lines[0]):]
os.write(1, b"".join(past))
while "--follow" in arguments:
    line = journal.readline()
    if line:
        os.write(1, line)
    else:
        time.sleep(0.01)
"""


class FakeJournal:
    """A journal of one unit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries = 0
        self.program = folder / "journalctl"
        self.program.write_text(PROGRAM.format(python=sys.executable, folder=str(folder)))
        self.program.chmod(0o755)
        (folder / "journal").touch()

    def print(self, output: bytes) -> None:
        for line in output.splitlines():
            self._entries += 1
            entry = {
                "__CURSOR": f"s=1;i={self._entries}",
                "__REALTIME_TIMESTAMP": str(1_700_000_000_000_000 + self._entries),
                "_PID": "7",
                "MESSAGE": line.decode(),
            }
            append(self._folder / "journal", json.dumps(entry).encode() + b"\n")

    def write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def calls(self) -> list[list[Any]]:
        path = self._folder / "calls"
        return [json.loads(it) for it in path.read_text().splitlines()] if path.exists() else []

    def tailing(self, **options: Any) -> AbstractAsyncContextManager[Reader]:
        return tailing(journals=["server.service"], journalctl=[str(self.program)], **options)

    async def followed(self, reader: Reader) -> None:
        """Until it is followed: its history is behind."""
        await reader.until(
            lambda: any("--follow" in it for it in self.calls()) and reader.facts and not reader.facts.reading,
            "followed",
        )


@pytest.fixture
def journal(tmp_path: Path) -> FakeJournal:
    return FakeJournal(tmp_path)


async def test_what_is_printed_is_told(journal: FakeJournal) -> None:
    async with journal.tailing() as reader:
        await journal.followed(reader)
        journal.print(event(1) + event(2))
        await reader.until_told("flushed 1", "flushed 2")
        assert reader.failure is None


async def test_its_envelope_is_taken_off(journal: FakeJournal) -> None:
    clock = Clock()
    async with journal.tailing(clock=clock) as reader:
        await journal.followed(reader)
        journal.print(dump(1))
        await reader.until(lambda: reader.read_bytes > 700)
        clock.now += QUIET
        await reader.until_told("boom 1")
        assert reader.entries[0].at == pytest.approx(1_700_000_000)


async def test_of_its_history_only_limits_are_told(journal: FakeJournal) -> None:
    journal.print(b"LIMIT 50\n" + event(1) + dump(1))
    async with journal.tailing() as reader:
        await journal.followed(reader)
        journal.print(event(2))
        await reader.until_told("limit 50", "flushed 2")


async def test_the_next_log_tail_goes_on_behind_the_last_entry_told(journal: FakeJournal) -> None:
    async with journal.tailing() as first:
        await journal.followed(first)
        journal.print(event(1))
        await first.until_told("flushed 1")
        assert first.positions == (Position("journal:server.service", 0, 0, 0, "s=1;i=1", 7),)
    journal.print(event(2))
    async with journal.tailing(positions=first.positions) as second:
        assert second.positions == first.positions
        await second.until_told("flushed 2")


async def test_it_goes_on_before_an_incident_that_is_open(journal: FakeJournal) -> None:
    clock = Clock()
    whole = dump(1).splitlines(keepends=True)
    async with journal.tailing(clock=clock) as first:
        await journal.followed(first)
        journal.print(event(1) + b"".join(whole[:4]))
        await first.until(lambda: first.entries and first.facts and first.facts.reading, "open")
        assert [it.head for it in first.positions] == ["s=1;i=1"]
    journal.print(b"".join(whole[4:]) + event(2))
    async with journal.tailing(positions=first.positions, clock=clock) as second:
        await second.until(lambda: second.read_bytes > 700)
        clock.now += QUIET
        await second.until_told("boom 1", "flushed 2")


async def test_a_child_that_dies_is_told_and_the_next_goes_on_where_it_was(journal: FakeJournal) -> None:
    clock = Clock()
    async with journal.tailing(clock=clock) as reader:
        await journal.followed(reader)
        journal.print(event(1))
        await reader.until_told("flushed 1")
        for died in range(2):
            before = len(journal.calls())
            os.kill(journal.calls()[-1][0], signal.SIGKILL)
            journal.print(event(2 + died))
            if died:
                await reader.until(lambda: reader.failure and "1 s after its start" in reader.failure.message, "told")
                assert reader.failure is not None
                assert reader.failure.reason is Reason.UNREACHABLE
                assert "the journal of server.service was not read for a while" in reader.failure.message
                assert "was killed by signal 9" in reader.failure.message
                clock.now += 1.0
            await reader.until(lambda before=before: len(journal.calls()) > before, "the next one")  # type: ignore[misc]
        await reader.until_told("flushed 1", "flushed 2", "flushed 3")
        clock.now += TOLD
        await reader.until(lambda: reader.failure is None, "nothing wrong any more")


async def test_where_nobody_reads_the_results_it_waits_and_nothing_is_lost(
    journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_NOTICED", 10)
    async with journal.tailing() as first:
        await journal.followed(first)
    journal.print(event(1) + b"".join(map(event, range(20_000))))
    positions = [Position("journal:server.service", 0, 0, 0, "s=1;i=1", 7)]
    async with journal.tailing(positions=positions) as reader:
        box = reader.tail._outbox
        await wait_until(lambda: box.full, what="full")
        with pytest.raises(AssertionError):
            await wait_until(lambda: len(box._entries) > 10_000, 0.5)
        await reader.until(lambda: len(reader.entries) >= 20_000, "all told", deadline=60)
        assert told(reader.entries) == [f"flushed {it}" for it in range(20_000)]


async def test_where_there_is_no_journalctl_it_says_what_to_install(tmp_path: Path) -> None:
    async with tailing(journals=["server"], journalctl=[str(tmp_path / "journalctl")]) as reader:
        assert reader.facts is None
        assert reader.failure is not None
        assert reader.failure.reason is Reason.CONFIG
        assert "install systemd's, or name the files of its log instead (log_files)" in reader.failure.message


async def test_a_journal_that_may_not_be_read_is_told_with_what_to_do(journal: FakeJournal) -> None:
    journal.write("complaint", "Hint: You are currently not seeing messages from other users and the system.\n")
    async with journal.tailing() as reader:
        await reader.until(lambda: reader.failure is not None, "told")
        assert reader.failure is not None
        assert reader.failure.reason is Reason.CONFIG
        assert "not seeing messages" in reader.failure.message
        assert "usermod -aG systemd-journal" in reader.failure.message


async def test_a_place_that_the_journal_does_not_know_is_given_up(journal: FakeJournal) -> None:
    journal.write("complaint", "Failed to seek to cursor: Invalid argument\n")
    journal.write("status", "1")
    clock = Clock()
    async with journal.tailing(
        clock=clock, positions=[Position("journal:server.service", 0, 0, 0, "bad", 3)]
    ) as reader:
        await reader.until(lambda: len(journal.calls()) >= 2, "tried again")
        assert "--after-cursor=bad" in journal.calls()[0]
        assert not any("cursor" in it for it in journal.calls()[1][1:])


async def test_a_child_that_cannot_live_is_not_started_all_the_time(journal: FakeJournal) -> None:
    journal.write("status", "1")
    clock = Clock()
    async with journal.tailing(clock=clock) as reader:
        await reader.until(lambda: len(journal.calls()) == 2, "the second start, at once")
        await reader.until(lambda: reader.failure and "1 s after its start" in reader.failure.message, "the rest")
        for _ in range(5):
            await reader.read()
        assert len(journal.calls()) == 2


async def test_closing_ends_the_child(journal: FakeJournal) -> None:
    async with journal.tailing() as reader:
        await journal.followed(reader)
        pid = journal.calls()[-1][0]
    await wait_until(lambda: not Path(f"/proc/{pid}").exists())


async def test_the_unit_is_never_an_option(journal: FakeJournal) -> None:
    async with tailing(journals=["--rotate"], journalctl=[str(journal.program)]) as reader:
        await reader.until(journal.calls)
        assert "--unit=--rotate" in journal.calls()[0]
        assert "--rotate" not in journal.calls()[0]


async def test_its_environment_has_no_secret(
    journal: FakeJournal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAKTORY_PASSWORD", "hush")
    async with journal.tailing() as reader:
        await journal.followed(reader)
        environment = environment_of(journal.calls()[-1][0])
        assert b"PATH=" in environment
        assert b"hush" not in environment
        assert told(reader.entries) == []


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
