"""Crashed workers are found, and none is invented: live, with real workers that are really killed.

Each scenario mostly waits, and has a server of its own, so all of them run side by side: a test awaits its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from tests import live_crashes
from tests.conftest import server_kinds
from tests.forewarn import Forewarn
from tests.live_crashes import (
    AFTERWARDS,
    GRACE,
    NOISE,
    NOTHING,
    REASON_WAIT,
    SETTLED,
    SILENCE,
    RawWorker,
    Scenario,
    Scene,
    Taken,
    Told,
    come_and_go,
    crashed,
    lines,
    orphans,
    seen,
    stays,
    stays_until,
    told_after,
    told_within,
)
from tests.servers import WatchedServer, wait_until
from tests.workers import KINDS, Kind

WALL = 600
"""Seconds that one server's scenarios, all at the same time, may take."""

REAPING = 90.0
"""Seconds within which Faktory gives up a hung worker, Forewarn or not."""

scenarios: dict[str, Scenario] = {}


def side_by_side(scenario: Scenario) -> Callable[[Mapping[str, asyncio.Task[None]]], Awaitable[None]]:
    """Make a scenario a test of its own that runs at the same time as the others."""
    name = scenario.__name__
    scenarios[name] = scenario

    @pytest.mark.slow
    @pytest.mark.timeout(WALL)
    @pytest.mark.asyncio(loop_scope="module")
    async def test(playing: Mapping[str, asyncio.Task[None]]) -> None:
        await playing[name]

    test.__name__ = test.__qualname__ = name
    return test


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=server_kinds())
async def playing(request: pytest.FixtureRequest) -> AsyncIterator[Mapping[str, asyncio.Task[None]]]:
    """The scenarios of the tests that were asked for, running on each server at hand."""
    make: Callable[[], WatchedServer] = request.param
    asked = {getattr(item, "originalname", item.name) for item in request.session.items}
    wanted = {name: scenario for name, scenario in scenarios.items() if name in asked}
    async with live_crashes.side_by_side(wanted, make, starts=2) as tasks:
        yield tasks


@side_by_side
async def test_a_worker_killed_while_producers_come_and_go_is_found_and_no_other(scene: Scene) -> None:
    forewarn = await scene.forewarn()
    workers = {kind: scene.worker(kind, kind) for kind in KINDS}
    victims = [await scene.take({kind: 1}) for kind in KINDS]
    survivor = scene.raw_worker("survivor")
    await survivor.connect()
    await scene.push("survivors")
    await survivor.fetch("survivors")
    began = time.monotonic()
    scene.beside(come_and_go(scene.server.url, "noise", every=0.2))

    await scene.settled()
    await stays(forewarn, NOTHING, AFTERWARDS)
    assert await forewarn.metric("forewarn_collector_up", collector="workers") == 1, "nobody was ever asked after"

    for worker in workers.values():
        worker.kill_all()
    expected = Told(len(victims), 0, orphans(victims))
    took = await told_within(forewarn, expected, SILENCE + GRACE + 2 + REASON_WAIT + NOISE)
    print(f"{scene.server.name}: {len(victims)} killed in the churn, told after {took:.0f} s")
    await stays(forewarn, expected, AFTERWARDS)
    assert crashed(forewarn) == lines(victims, "vanished")
    pushed = await forewarn.metric("faktory_queue_jobs", queue="noise")
    assert pushed is not None
    assert pushed > 2 * (time.monotonic() - began), "the producers did not come and go to the end"


@side_by_side
async def test_no_crash_is_invented_when_faktory_restarts_and_busy_workers_come_back(scene: Scene) -> None:
    forewarn = await scene.forewarn()
    scene.worker("node", "node")
    raw = {delay: scene.raw_worker(f"back-after-{delay}") for delay in (0, 5, 20, 50)}
    await scene.settled()
    # Jobs taken just now: none of them has been asked after yet, so each may be as soon as the server is back.
    taken = [await scene.take({"node": 1})]
    for worker in raw.values():
        await worker.connect()
        await scene.push(worker.wid)
        await worker.fetch(worker.wid)
        taken.append(await scene.holding({worker.wid: 1}))
    await asyncio.gather(*(seen(forewarn, each) for each in taken))
    await told_within(forewarn, NOTHING, 5)

    await scene.restart()
    for delay, worker in raw.items():
        scene.beside(_back_after(delay, worker))
    await forewarn.wait_for("faktory_restarts_total", 1, 15)
    await stays(forewarn, NOTHING, SETTLED + AFTERWARDS)
    assert len(await scene.working()) == 1 + len(raw), "a worker lost its job"

    # Forewarn does judge by now: one that goes for good is found. At once, or if a busy machine has made Forewarn lose
    # contact for a moment, when INFO has told that the server was not restarted again.
    queue = raw[0].wid
    victim = scene.raw_worker("victim")
    await victim.connect()
    await scene.push(queue)
    await victim.fetch(queue)
    await forewarn.wait_for("faktory_busy_jobs", 2, 15, queue=queue)
    await victim.die()
    await told_within(forewarn, Told(1, 0, {(queue, "sleep"): 1}), 60 + GRACE + REASON_WAIT + 2 + NOISE)


async def _back_after(delay: float, worker: RawWorker) -> None:
    await asyncio.sleep(delay)
    await worker.connect()


@side_by_side
async def test_a_hung_faktory_worker_is_given_up_in_time_and_counted_as_hung_once(scene: Scene) -> None:
    await _hangs(scene, "faktory")


@side_by_side
async def test_a_hung_pyfaktory_worker_is_given_up_in_time_and_counted_as_hung_once(scene: Scene) -> None:
    await _hangs(scene, "pyfaktory")


@side_by_side
async def test_a_hung_node_worker_is_given_up_in_time_and_counted_as_hung_once(scene: Scene) -> None:
    await _hangs(scene, "node")


async def _hangs(scene: Scene, kind: Kind) -> None:
    # On a server of its own: where another connection closes meanwhile it is asked after, and so lives on, once.
    forewarn = await scene.forewarn()
    worker = scene.worker(kind, kind)
    await scene.settled()
    assert await scene.hung() == (1, 0)
    victim = await scene.take({kind: 1})
    # Within 5 s of its last job's start, or it is asked after before it is given up.
    await asyncio.sleep(2)
    worker.stop()
    hung_at = time.monotonic()

    async def given_up() -> bool:
        return await scene.hung() == (0, 1)

    await wait_until(given_up, REAPING, every=2, what="Faktory has given up the hung worker")
    given_up_after = time.monotonic() - hung_at
    expected = Told(0, 1, orphans([victim]))
    took = await told_within(forewarn, expected, REASON_WAIT + NOISE)
    print(f"{scene.server.name}: hung {kind} given up after {given_up_after:.0f} s, told {took:.0f} s later")
    await stays(forewarn, expected, AFTERWARDS)
    assert crashed(forewarn) == lines([victim], "hung")


@side_by_side
async def test_a_restart_of_forewarn_counts_no_crash_twice_and_loses_none(scene: Scene) -> None:
    folder = scene.server.folder
    before_verdict = await scene.forewarn(state_file=folder / "before-verdict.json")
    after_verdict = await scene.forewarn(state_file=folder / "after-verdict.json")
    abrupt = await scene.forewarn(state_file=folder / "abrupt.json")
    everyone = (before_verdict, after_verdict, abrupt)
    first, second = scene.worker("faktory", "first"), scene.worker("pyfaktory", "second")
    await scene.settled()
    victims = [await scene.take({"first": 1})]
    await _all_see(everyone, victims[0])
    connections = await before_verdict.metric("faktory_connections")
    first.kill_all()

    async def drop_seen() -> bool:
        return (await before_verdict.metric("faktory_connections") or 0) < (connections or 0)

    await wait_until(drop_seen, 30, what="Forewarn has seen that a connection closed")
    await before_verdict.stop(signal.SIGTERM)
    assert not crashed(before_verdict), "the verdict came before the restart"
    restarted = asyncio.create_task(before_verdict.start())

    told_once = Told(1, 0, orphans(victims))
    await asyncio.gather(*(told_within(each, told_once, told_after(1) + NOISE) for each in (after_verdict, abrupt)))
    await wait_until(lambda: _saved_crashes(folder / "abrupt.json") == 1, 2, what="the crash is written down at once")
    await restarted
    victims.append(await scene.take({"second": 1}))
    await _all_see(everyone, victims[1])
    await abrupt.stop(signal.SIGKILL)
    await after_verdict.stop(signal.SIGTERM)
    second.kill_all()
    await asyncio.gather(abrupt.start(), after_verdict.start())

    # After a start INFO is asked when 30 s have passed, and again a minute later if the reason hangs on it.
    expected = Told(2, 0, orphans(victims))
    await asyncio.gather(*(told_within(each, expected, 30 + GRACE + REASON_WAIT + 2 + NOISE) for each in everyone))
    await asyncio.gather(*(stays(each, expected, AFTERWARDS) for each in everyone))
    for each in everyone:
        assert crashed(each) == lines(victims, "vanished")


@side_by_side
async def test_a_killed_worker_is_one_crash_and_its_jobs_are_orphans_within_seconds(scene: Scene) -> None:
    every_second, by_default = await scene.forewarn(interval="1s"), await scene.forewarn(interval="5s")
    alone = {kind: scene.worker(kind, f"{kind}-a", f"{kind}-b", concurrency=3) for kind in KINDS}
    together = {kind: scene.worker(kind, f"together-{kind}", concurrency=2) for kind in KINDS}
    await scene.settled()

    async def both_tell(victims: list[Taken]) -> None:
        expected = Told(len(victims), 0, orphans(victims))
        took = await asyncio.gather(
            told_within(every_second, expected, told_after(1) + NOISE),
            told_within(by_default, expected, told_after(5) + NOISE),
        )
        print(f"{scene.server.name}: crash {len(victims)} told after {took[0]:.1f} s at 1s, {took[1]:.1f} s at 5s")

    victims: list[Taken] = []
    for kind, worker in alone.items():
        victim = await scene.take({f"{kind}-a": 2, f"{kind}-b": 1})
        await _all_see((every_second, by_default), victim)
        worker.kill_all()
        victims.append(victim)
        await both_tell(victims)

    three = [await scene.take({f"together-{kind}": 2}) for kind in KINDS]
    for victim in three:
        await _all_see((every_second, by_default), victim)
    for worker in together.values():
        worker.kill_all()
    victims += three
    await both_tell(victims)

    expected = Told(len(victims), 0, orphans(victims))
    await asyncio.gather(*(stays(each, expected, AFTERWARDS) for each in (every_second, by_default)))
    for each in (every_second, by_default):
        assert crashed(each) == lines(victims, "vanished")


@side_by_side
async def test_workers_with_idle_slots_killed_at_any_time_between_two_polls_are_told_as_soon(scene: Scene) -> None:
    forewarn = await scene.forewarn(interval="5s")
    workers = [scene.raw_worker(f"idle-{number}") for number in range(8)]
    await scene.settled()
    await asyncio.gather(*(worker.connect() for worker in workers))
    await asyncio.gather(*(worker.idle(5) for worker in workers))
    victims = []
    for worker in workers:
        await scene.push(worker.wid)
        await worker.fetch(worker.wid)
        victims.append(await scene.holding({worker.wid: 1}))
    await asyncio.gather(*(seen(forewarn, each) for each in victims))

    async def just_polled() -> bool:
        return (await forewarn.metric("forewarn_snapshot_age_seconds") or 5) < 0.3

    # All of them before the next poll: whoever lives when one is asked after cannot be asked after again for a while.
    await wait_until(just_polled, 15, every=0.1, what="Forewarn has polled just now")
    began = time.monotonic()
    for number, worker in enumerate(workers):
        await asyncio.sleep(max(0.0, began + 0.55 * number - time.monotonic()))
        await worker.die()

    expected = Told(len(victims), 0, orphans(victims))
    took = await told_within(forewarn, expected, told_after(5) + NOISE)
    print(f"{scene.server.name}: {len(victims)} with idle slots told {took:.1f} s after the last was killed")
    await stays(forewarn, expected, AFTERWARDS)
    assert crashed(forewarn) == lines(victims, "vanished")


@side_by_side
async def test_no_crash_is_invented_by_a_job_of_three_minutes_and_no_other_sign_of_life(scene: Scene) -> None:
    forewarn = await scene.forewarn()
    for kind in KINDS:
        scene.worker(kind, kind)
    await asyncio.gather(*(scene.take({kind: 1}, seconds=180) for kind in KINDS))
    await stays_until(forewarn, NOTHING, scene.idle, 180 + 30, "every worker has ended its job")
    assert await scene.server.redis().get("failures") in (None, "0"), "a job failed"
    assert await forewarn.metric("forewarn_collector_up", collector="workers") == 1, "nobody was ever asked after"
    await stays(forewarn, NOTHING, AFTERWARDS)
    assert not crashed(forewarn)


@side_by_side
async def test_no_crash_is_invented_when_workers_finish_or_fail_their_jobs_on_sigterm(scene: Scene) -> None:
    forewarn = await scene.forewarn()
    finishing = {kind: scene.worker(kind, f"{kind}-10") for kind in KINDS}
    failing = {kind: scene.worker(kind, f"{kind}-60") for kind in KINDS}
    impolite = scene.worker("pyfaktory", "impolite")
    await scene.settled()
    await asyncio.gather(
        *(scene.take({f"{kind}-{seconds}": 1}, seconds) for kind in KINDS for seconds in (10, 60)),
    )
    await asyncio.sleep(2)  # no wait for anything: a job that was taken is not yet one that runs
    for kind in KINDS:
        finishing[kind].terminate()
    failing["faktory"].terminate()
    failing["node"].terminate()
    # Of a long job it lets go only where the signal reaches the processes of its pool too.
    os.killpg(failing["pyfaktory"].pid, signal.SIGTERM)

    async def all_ended() -> bool:
        return not any(worker.running for worker in (*finishing.values(), *failing.values())) and await scene.idle()

    await stays_until(forewarn, NOTHING, all_ended, 90, "every worker has ended and left nothing behind")
    await stays(forewarn, NOTHING, AFTERWARDS)
    assert not crashed(forewarn)

    # However politely it exits, a client that leaves a job behind has done what a crash does.
    left = await scene.take({"impolite": 1}, seconds=120)
    await seen(forewarn, left)
    impolite.terminate()
    await told_within(forewarn, Told(1, 0, orphans([left])), 30 + told_after(1) + NOISE)
    assert crashed(forewarn) == lines([left], "vanished")


async def _all_see(everyone: tuple[Forewarn, ...], taken: Taken) -> None:
    await asyncio.gather(*(seen(each, taken) for each in everyone))


def _saved_crashes(file: Path) -> int:
    """Return how many crashes a state file tells of its one server."""
    memory = json.loads(file.read_text())["servers"]["faktory"]
    return sum(memory["workers"]["crashes"].values())
