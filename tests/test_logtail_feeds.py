"""Output that is no file: named pipes, standard input, what is handed in."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.model import Exited, LogEntry, Reason
from exporter.process import logfile, logtail, outbox
from exporter.process.feeds import StandardInput
from exporter.process.logtail import LogTail
from exporter.process.output import QUIET
from tests.logtailing import Clock, Numbers, append, dump, event, tailing, told
from tests.servers import wait_until

GOROUTINE = b"goroutine 7 [select]:\nmain.work(0xc000012345, 0x1)\n\t/src/main.go:12 +0x1d\n\n"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe that nobody has opened."""
    path = tmp_path / "server.pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a pipe: what writes to it."""
    reading, writing = os.pipe()
    monkeypatch.setattr(logtail, "StandardInput", lambda: StandardInput(reading))
    yield writing
    os.close(reading)
    with suppress(OSError):
        os.close(writing)


class Told:
    """A feed that tells what a test hands it: bytes, or what else there is, or ``None`` for the end."""

    name = "the feed"

    def __init__(self) -> None:
        self.steps: list[bytes | LogEntry | OSError | None] = []
        self.reads = 0
        self.closed = False
        self._entries: list[LogEntry] = []
        self._ready, self._writing = os.pipe()

    def tell(self, *steps: bytes | LogEntry | OSError | None) -> None:
        self.steps += steps
        os.write(self._writing, b"\0" * len(steps))

    def fileno(self) -> int:
        return self._ready

    def read(self) -> bytes | None:
        self.reads += 1
        step = self.steps.pop(0) if self.steps else b""
        if self.steps or step != b"":
            os.read(self._ready, 1)
        if isinstance(step, OSError):
            raise step
        if step is None or isinstance(step, bytes):
            return step
        self._entries.append(step)
        return b""

    def entries(self) -> Sequence[LogEntry]:
        entries, self._entries = self._entries, []
        return entries

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._ready)
            os.close(self._writing)


@pytest.fixture
def feed() -> Iterator[Told]:
    it = Told()
    yield it
    it.close()


class TestNamedPipe:
    async def test_everything_is_told_from_the_first_byte(self, pipe: Path) -> None:
        async with tailing(pipe) as reader:
            append(pipe, event(1))
            await reader.until_told("flushed 1")
            assert reader.failure is None
            assert reader.positions == ()

    async def test_writers_come_and_go(self, pipe: Path) -> None:
        async with tailing(pipe) as reader:
            for number in range(5):
                append(pipe, event(number))
                await reader.until_told(*[f"flushed {it}" for it in range(number + 1)])

    async def test_a_pattern_finds_it_too(self, pipe: Path) -> None:
        async with tailing(pipe.parent / "*.pipe") as reader:
            append(pipe, event(1))
            await reader.until_told("flushed 1")

    async def test_who_prints_never_waits_for_a_reading(self, pipe: Path) -> None:
        """Far more than a pipe holds, while nobody reads the log tail."""
        async with tailing(pipe):
            writer = threading.Thread(target=append, args=(pipe, b"what a server prints\n" * 400_000), daemon=True)
            writer.start()
            await wait_until(lambda: not writer.is_alive(), what="8 MB written")

    async def test_nor_does_the_next_one_who_prints(self, pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logtail, "TICK", 60.0)
        async with tailing(pipe) as reader:
            append(pipe, event(1))  # opened, written and closed
            await reader.until_told("flushed 1")
            writer = threading.Thread(target=append, args=(pipe, b"what a server prints\n" * 400_000), daemon=True)
            writer.start()
            await wait_until(lambda: not writer.is_alive(), what="8 MB written")

    async def test_nor_for_the_backlog_of_a_file(
        self, pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logfile, "CHUNK", 1024)  # so that it takes long
        log = tmp_path / "server.log"
        async with tailing(pipe, log) as reader:
            append(
                log,
                b"fatal error: concurrent map writes\n\n" + GOROUTINE * 500_000,
            )
            writer = threading.Thread(target=append, args=(pipe, b"what a server prints\n" * 400_000), daemon=True)
            writer.start()
            await wait_until(lambda: not writer.is_alive(), what="8 MB written")
            await reader.read()
            assert reader.facts is not None
            assert reader.facts.unread_bytes

    async def test_an_incident_is_whole_after_two_seconds_of_silence(self, pipe: Path) -> None:
        clock = Clock()
        async with tailing(pipe, clock=clock) as reader:
            append(pipe, dump(1))
            await reader.until(lambda: reader.facts is not None and reader.facts.reading, "being read")
            clock.now += QUIET
            await reader.until_told("boom 1")

    async def test_another_that_takes_its_place_is_followed(self, pipe: Path) -> None:
        async with tailing(pipe) as reader:
            os.unlink(pipe)
            os.mkfifo(pipe)
            await reader.read()
            append(pipe, event(1))
            await reader.until_told("flushed 1")

    async def test_what_does_not_fit_is_dropped_and_counted(self, pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox, "MAX_NOTICED", 10)
        async with tailing(pipe) as reader:
            append(pipe, b"".join(map(event, range(100))) + dump(1) + b"the next line\n" * 10_000)
            await reader.until(lambda: reader.read_bytes > 100_000)
            await reader.until(lambda: "boom 1" in told(reader.entries), "the crash behind the flood")
            assert len(reader.entries) + reader.dropped == 101
            assert reader.dropped > 50


async def test_a_feed_has_its_turn_between_two_files(
    feed: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rules(Numbers):
        """The feed prints while the first file is read."""

        def read(self, text: str, at: float | None) -> LogEntry | None:
            if text == "EVENT 0":
                feed.tell(event(9))
            return super().read(text, at)

    monkeypatch.setattr(logtail, "TICK", 60.0)
    paths = [tmp_path / f"{number}.log" for number in range(3)]
    async with tailing(*paths, feeds=[feed], rules=[Rules()]) as reader:
        for number, path in enumerate(paths):
            append(path, event(number))
        await reader.until_told("flushed 0", "flushed 9", "flushed 1", "flushed 2")


class TestStandardInput:
    async def test_it_is_read_from_the_first_byte(self, stdin: int) -> None:
        os.write(stdin, event(1))
        async with tailing("-") as reader:
            await reader.until_told("flushed 1")

    async def test_its_end_makes_what_is_open_whole_and_is_told(self, stdin: int) -> None:
        async with tailing("-", clock=Clock()) as reader:
            os.write(stdin, dump(1) + b"EVENT 2")
            os.close(stdin)
            await reader.until_told("boom 1", "flushed 2")
            await reader.read()
            assert reader.facts is None
            assert reader.failure is not None
            assert reader.failure.reason is Reason.UNREACHABLE
            assert "standard input has ended" in reader.failure.message

    async def test_it_is_not_made_one_that_never_waits(self, stdin: int) -> None:
        async with tailing("-"):
            assert os.get_blocking(stdin)


class TestFeed:
    async def test_what_else_it_tells_comes_behind_the_text_that_explains_it(self, feed: Told) -> None:
        async with tailing(feeds=[feed], clock=Clock()) as reader:
            feed.tell(dump(1), Exited(status=2))
            await reader.until_told("boom 1", "exited")

    async def test_its_end_is_no_failure_for_it_tells_by_itself_how_the_server_ended(self, feed: Told) -> None:
        async with tailing(feeds=[feed]) as reader:
            feed.tell(event(1), Exited(status=0), None)
            await reader.until(lambda: feed.closed, "closed")
            await reader.until_told("flushed 1", "exited")
            await reader.read()
            assert reader.failure is None

    async def test_an_error_of_it_is_told_and_the_rest_goes_on(self, feed: Told, tmp_path: Path) -> None:
        log = tmp_path / "server.log"
        log.touch()
        async with tailing(log, feeds=[feed]) as reader:
            feed.tell(OSError(5, "Input/output error"))
            await reader.until(lambda: reader.failure is not None, "told")
            assert reader.failure is not None
            assert "the feed cannot be read (Input/output error)" in reader.failure.message
            append(log, event(1))
            await reader.until_told("flushed 1")

    async def test_one_that_is_ready_and_has_nothing_costs_no_processor(
        self, feed: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logtail, "TICK", 60.0)
        async with tailing(feeds=[feed]):
            os.write(feed._writing, b"\0")
            await wait_until(lambda: feed.reads >= logtail.MAX_EMPTY)
            before = feed.reads
            with pytest.raises(AssertionError):
                await wait_until(lambda: feed.reads > before, 0.2)

    async def test_one_that_hangs_is_told_and_closing_takes_no_longer_than_its_deadline(
        self, feed: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logtail, "DEADLINE", 0.05)
        monkeypatch.setattr(logtail, "CLOSE_DEADLINE", 0.1)
        answers = threading.Event()
        monkeypatch.setattr(feed, "read", lambda: answers.wait(60) and None)
        try:
            async with tailing(feeds=[feed]) as reader:
                os.write(feed._writing, b"\0")
                await reader.until(lambda: reader.failure is not None, "told")
                assert reader.failure is not None
                assert reader.failure.reason is Reason.TIMEOUT
                began = time.monotonic()
                await reader.tail.close()
                assert time.monotonic() - began < 5
        finally:
            answers.set()
            await wait_until(lambda: not any(it.name == "forewarn-logtail" for it in threading.enumerate()))

    async def test_it_is_closed_with_the_log_tail_also_where_nothing_was_read(self, feed: Told) -> None:
        await LogTail([], feeds=[feed], rules=[Numbers()]).close()
        assert feed.closed


async def test_with_nothing_to_read_there_is_nothing_to_tell() -> None:
    async with tailing() as reader:
        assert reader.facts is None
        assert reader.failure is None
        await asyncio.sleep(0)
