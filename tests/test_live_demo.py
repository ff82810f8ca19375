"""The demo's story, told in a fraction of its time: every signal really goes to its alarm and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import NamedTuple

import pytest

from exporter.demo import marks, servers
from exporter.demo.cast import cast
from exporter.demo.command import stage
from exporter.demo.lines import Chapter, Line, Say
from exporter.demo.servers import Choice, Kind
from exporter.demo.story import CONNECTIONS, EXPORT, MAIL, THROTTLED, THROTTLES
from exporter.demo.worker import Connection, wid
from exporter.model import Snapshot
from exporter.status.document import Level
from exporter.web.address import Address
from tests.servers import HOW_TO_HAVE_ONE, program_version, real_programs, wait_until

PACE = 0.1
PATIENCE = 3.0
INTERVAL = 0.25
DEADLINE = 280.0


class Told(NamedTuple):
    """One line, and when it was told (monotonic)."""

    line: Line
    at: float


class Played(NamedTuple):
    """All that was told and seen while the story was played once."""

    told: list[Told]
    snapshots: list[Snapshot]
    levels: dict[str, set[Level]]
    chapters: tuple[Chapter, ...]

    def lines(self, say: Say, part: str) -> list[Told]:
        return [it for it in self.told if it.line.say is say and it.line.part == part]


def choices() -> list[object]:
    stand_in = pytest.param(Choice(Kind.STAND_IN, None, "the stand-in"), id="stand-in")
    if not real_programs():
        return [
            pytest.param(None, id="real", marks=[pytest.mark.real, pytest.mark.skip(reason=HOW_TO_HAVE_ONE)]),
            stand_in,
        ]
    program = real_programs()[-1]
    version = ".".join(map(str, program_version(program)))
    return [pytest.param(Choice(Kind.REAL, program, "real"), id=f"real-{version}", marks=pytest.mark.real), stand_in]


async def play(choice: Choice) -> Played:
    """Play one round beside a server whose shortest reservation, where that can be told, is shorter than Faktory's."""
    real = choice.kind is Kind.REAL
    reservation = 60.0 if real else 20.0
    quick = {"reservation_min": reservation, "reservation_reap_every": 1}
    told: list[Told] = []
    snapshots: list[Snapshot] = []
    levels: dict[str, set[Level]] = {}
    async with cast() as held:
        server = await servers.start(
            held, choice, limit=None if real else 300, options={} if real else quick, throttles=THROTTLES
        )
        async with stage(
            held,
            server,
            Address("127.0.0.1", 0),
            tell=lambda line: told.append(Told(line, time.monotonic())),
            interval=INTERVAL,
            story={"pace": PACE, "reservation": reservation, "patience": PATIENCE},
        ) as it:

            async def record() -> None:
                while True:
                    snapshot = await it.next()
                    assert snapshot is not None, "the sidecar stands still"
                    snapshots.append(snapshot)
                    for signal in it.signals():
                        levels.setdefault(signal.name, set()).add(signal.level)

            recording = asyncio.create_task(record())
            async with asyncio.timeout(DEADLINE), it.story.playing():
                chapters = await it.story.round()
            recording.cancel()
    return Played(told, snapshots, levels, chapters)


@pytest.fixture(scope="module", params=choices())
def played(request: pytest.FixtureRequest) -> Played:
    return asyncio.run(play(request.param))


PARTS = ("workers", "busy", "throttles", "connections", "queues")


def test_each_part_is_told_as_done_then_caught_then_over(played: Played) -> None:
    for part in PARTS:
        done, caught, over = (played.lines(say, part) for say in (Say.NOW, Say.CAUGHT, Say.OVER))
        assert done, f"{part}: never told what is done:\n{text(played)}"
        assert caught, f"{part}: never told as caught:\n{text(played)}"
        assert over, f"{part}: never told as over:\n{text(played)}"
        assert done[0].at < caught[0].at < over[-1].at, text(played)


def test_nothing_is_missed(played: Played) -> None:
    assert [it.line.text for it in played.told if it.line.say is Say.MISSED] == [], text(played)


def test_the_summary_has_a_time_for_each_part(played: Played) -> None:
    assert sorted(it.part for it in played.chapters) == sorted(PARTS)
    for chapter in played.chapters:
        assert chapter.caught_after is not None, text(played)
        assert chapter.over_after is not None, text(played)


def test_connections_go_over_the_critical_share_and_come_back(played: Played) -> None:
    shares = [marks.connections_share(it) for it in played.snapshots]
    assert max(shares) > marks.CRITICAL
    assert shares[0] < 0.5
    assert shares[-1] < 0.5


def test_a_reservation_is_nearly_used_and_is_not_at_the_end(played: Played) -> None:
    used = [marks.reservation_used(it, (EXPORT.queue, EXPORT.jobtype)) for it in played.snapshots]
    assert marks.NEARLY_USED < max(used) < 1
    assert used[-1] <= marks.NEARLY_USED


def test_the_crash_is_counted_once_and_its_orphans_return(played: Played) -> None:
    assert {marks.crashes(it) for it in played.snapshots} == {0, 1}
    assert max(marks.orphans(it) for it in played.snapshots) == 2
    assert marks.orphans(played.snapshots[-1]) == 0


def test_the_throttle_is_full_with_work_behind_it_and_empties(played: Played) -> None:
    full = [marks.saturated(it, THROTTLED) for it in played.snapshots]
    assert any(full)
    assert not full[0]
    last = marks.throttled(played.snapshots[-1], THROTTLED)
    assert last[1] < max(marks.throttled(it, THROTTLED)[1] for it in played.snapshots)


def test_the_queue_waits_for_longer_than_it_may_and_is_short_again(played: Played) -> None:
    waited = [marks.waiting(it, MAIL.queue)[1] for it in played.snapshots]
    assert max(waited) > PATIENCE
    assert waited[-1] < PATIENCE


@pytest.mark.parametrize("name", ["connections", "busy", "workers", "throttles"])
def test_the_page_shows_each_signal_calm_and_in_alarm(played: Played, name: str) -> None:
    assert Level.CALM in played.levels[name]
    assert played.levels[name] & {Level.WARNING, Level.CRITICAL}


def test_the_seconds_until_it_was_caught_are_measured(played: Played) -> None:
    """Between what was done and the line that tells it, and a crash not before a second answer was due."""
    (caught,) = played.lines(Say.CAUGHT, "workers")
    begun = next(it for it in played.told if it.line.part == "calm")
    assert caught.line.after is not None
    assert 5 < caught.line.after <= caught.at - begun.at
    for it in played.told:
        if it.line.say is Say.CAUGHT:
            assert it.line.after is not None
            assert it.line.after >= 0


async def test_a_worker_that_a_newcomer_kills_is_told_and_replaced() -> None:
    told: list[Line] = []
    story = {"pace": PACE}
    async with cast() as held:
        server = await servers.start(held, Choice(Kind.STAND_IN, None, "the stand-in"), throttles=THROTTLES)
        staged = stage(held, server, Address("127.0.0.1", 0), tell=told.append, interval=INTERVAL, story=story)
        async with staged as it, it.story.playing():
            # Open to the end: a connection that closes would have the workers asked after, and then not again for long.
            client = await Connection.open(server.url, None)
            for _ in range(8):  # so that every slot has one
                await client.command("PUSH", MAIL._replace(seconds=60).job())

            async def busy() -> bool:
                snapshot = await it.next()
                if snapshot is None or (snapshot.connections.used or 0) < CONNECTIONS + 1:
                    return False  # those that still come would hide one that goes
                jobs = (snapshot.observation.reservations or {}).values()
                return sum(job.worker == wid(it.story.pid()) for job in jobs) == 2

            await wait_until(busy, 60)
            worker = it.story.pid()
            os.kill(worker, signal.SIGKILL)
            for text in (
                f"{wid(worker)} has ended, and not by this story. Did somebody kill it?",
                "A new worker takes the place of the one that is gone.",
                f"Forewarn has found that {wid(worker)} crashed.",
            ):
                await wait_until(lambda text=text: text in [line.text for line in told], 60, what=text)
            await client.close()


def text(played: Played) -> str:
    start = played.told[0].at
    return "\n".join(f"{it.at - start:6.1f} {it.line.say:7} {it.line.part:12} {it.line.text}" for it in played.told)
