"""How a crashed worker is found, in virtual time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import ceil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model import Crash
from exporter.signals import Memory, Signals
from exporter.signals.boot import SETTLING
from exporter.signals.workers import AT_ONCE, DROPS, GRACE, LINGERS, REAPER, REAPER_TAKES, REASON_WAIT, SILENCE
from tests.simulated import SimServer, SimWatch, settled


def orphaned(watch: SimWatch) -> int:
    orphans = watch.verdicts[-1].workers.orphans
    assert orphans is not None
    return sum(group.jobs for group in orphans.values())


def promised(interval: float) -> float:
    """Return within how many seconds a crash is told of which the drop was seen.

    One poll sees the drop, the first one ``LINGERS`` later asks, and the first one ``GRACE`` after that asks again.
    """
    return interval * (1 + ceil(LINGERS / interval) + ceil(GRACE / interval))


def test_a_killed_worker_is_told_once_and_three_polls_after_it_went() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(10)
    watch.server.kill("w1")
    watch.run(10)
    assert watch.told() == []
    watch.run(5)
    assert watch.told() == ["w1"]
    watch.run(600)
    assert watch.told() == ["w1"]
    assert watch.crashes() == {"vanished": 1}


@pytest.mark.parametrize(("interval", "seconds"), [(1.0, 9), (2.0, 12), (3.0, 12), (5.0, 15), (15.0, 45), (30.0, 90)])
def test_the_promise_holds_at_every_interval(interval: float, seconds: float) -> None:
    assert promised(interval) == seconds
    watch = settled(interval=interval)
    watch.server.fetch("w1")
    watch.run(interval)
    watch.server.kill("w1")
    watch.run(seconds)
    assert watch.told() == ["w1"]


def test_a_worker_is_asked_after_only_when_the_server_can_know_it_no_more() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(5)
    watch.server.run(4.5)
    watch.server.kill("w1", 2.0)
    watch.server.run(0.5)
    watch.poll()
    dropped = watch.server.now
    watch.run(promised(5.0) - 5)
    assert [at - dropped for at, _ in watch.server.beats_asked] == [5, 10]
    assert watch.told() == ["w1"]


def test_one_that_is_due_for_its_silence_waits_too_when_connections_have_just_dropped() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(SILENCE)
    watch.server.run(4.5)
    watch.server.kill("w1", 2.0)
    watch.server.run(0.5)
    watch.poll()
    assert watch.server.beats_asked == []
    watch.run(REAPER + REAPER_TAKES + GRACE + 2 * watch.interval)
    assert orphaned(watch) == 1


@pytest.mark.parametrize("interval", [1.0, 2.0, 5.0])
def test_drops_that_go_on_put_off_no_question(interval: float) -> None:
    watch = settled(["w1"], interval=interval)
    watch.server.fetch("w1")
    watch.server.producers = 100
    watch.run(interval)
    watch.server.kill("w1")
    for _ in range(int(promised(interval) / interval)):
        watch.server.producers -= 1
        watch.run(interval)
    assert watch.told() == ["w1"]


def test_its_jobs_are_orphans_by_queue_and_job_type_until_they_leave() -> None:
    watch = settled()
    watch.server.fetch("w1", "mail", "Send", reserve_for=120)
    watch.server.fetch("w1", "mail", "Send", reserve_for=300)
    watch.server.fetch("w1", "pay", "Charge", reserve_for=120)
    watch.run(5)
    watch.server.kill("w1")
    orphans = watch.run(15).workers.orphans
    assert orphans is not None
    assert {pair: group.jobs for pair, group in orphans.items()} == {("mail", "Send"): 2, ("pay", "Charge"): 1}
    orphans = watch.run(135).workers.orphans
    assert orphans is not None
    assert {pair: group.jobs for pair, group in orphans.items()} == {("mail", "Send"): 1, ("pay", "Charge"): 0}
    age = orphans["mail", "Send"].oldest_age
    assert age is not None
    assert 130 <= age <= 150


def test_three_killed_at_once_are_three() -> None:
    watch = settled(["w1", "w2", "w3", "w4"])
    for wid in ("w1", "w2", "w3", "w4"):
        watch.server.fetch(wid)
    watch.run(10)
    for wid in ("w1", "w2", "w3"):
        watch.server.kill(wid)
    watch.run(15)
    assert sorted(watch.told()) == ["w1", "w2", "w3"]


def test_a_worker_that_dies_without_jobs_is_no_crash() -> None:
    watch = settled(["w1", "w2"])
    watch.run(10)
    watch.server.kill("w1")
    watch.run(300)
    assert watch.crashes() == {}
    assert watch.server.beats_asked == []


def test_a_drop_hidden_by_a_successor_is_found_when_the_worker_has_been_silent() -> None:
    watch = settled(["w1"])
    watch.server.fetch("w1")
    watch.run(10)
    watch.server.kill("w1")
    watch.server.worker("w2")
    watch.server.fetch("w2")
    watch.run(SILENCE - 10 + promised(watch.interval))
    assert orphaned(watch) == 1
    watch.run(REASON_WAIT)
    assert watch.told() == ["w1"]


def test_one_that_had_been_silent_is_told_as_vanished_at_once_if_the_server_looked_for_no_hung_ones() -> None:
    watch = settled(["w1", "w2"], interval=1.0)
    watch.server.fetch("w1")
    watch.run(68)  # the server looks at multiples of 15 s; the watch began at 5 s past one
    watch.server.kill("w1")
    watch.run(promised(watch.interval))
    assert watch.crashes() == {"vanished": 1}


def test_one_that_had_been_silent_is_an_orphan_maker_at_once_but_counted_when_the_reason_is_known() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(60)
    watch.server.kill("w1")
    watch.run(promised(watch.interval))
    assert orphaned(watch) == 1
    watch.run(60)
    assert watch.crashes() == {"vanished": 1}


def test_a_hung_worker_is_told_as_hung_and_is_reaped_on_time() -> None:
    watch = settled(["w1", "w2"])
    watch.run(30)
    watch.server.fetch("w1")
    watch.run(5)
    hung_at = watch.server.now
    watch.server.workers["w1"].hung = True
    watch.run(240)
    assert watch.server.reaped_at["w1"] - hung_at <= 90
    assert watch.crashes() == {"hung": 1}


def test_a_question_delays_the_reaping_of_a_worker_hung_in_a_long_job_once_and_by_less_than_a_minute() -> None:
    for hangs_after in range(0, 240, 5):
        watch = settled(["w1"])
        watch.server.fetch("w1")
        watch.run(5 + hangs_after)
        hung_at = watch.server.now
        watch.server.workers["w1"].hung = True
        watch.run(300)
        assert watch.server.reaped_at["w1"] - hung_at <= 75 + 60


def test_a_long_job_without_another_sign_of_life_is_no_crash() -> None:
    watch = settled(["w1"])
    watch.server.fetch("w1")
    watch.run(600)
    assert watch.crashes() == {}
    assert watch.server.beats_asked


def test_no_worker_is_asked_after_twice_within_the_silence() -> None:
    watch = settled(["w1"], interval=1.0)
    watch.server.fetch("w1")
    for _ in range(300):  # connections of producers come and go all the time
        watch.server.producers = 5 - watch.server.producers
        watch.run(1)
    asked = [at for at, _ in watch.server.beats_asked]
    assert asked
    assert all(later - earlier >= SILENCE for earlier, later in pairwise(asked))
    assert watch.crashes() == {}


def test_no_worker_is_asked_after_twice_within_the_silence_though_it_held_no_job_meanwhile() -> None:
    watch = settled(["w1"])
    watch.server.producers = 9
    for _ in range(3):
        jid = watch.server.fetch("w1")
        watch.run(5)
        watch.server.producers -= 1
        watch.run(10)
        assert len(watch.server.beats_asked) == 1
        watch.server.finish(jid)
        watch.run(5)
    watch.server.fetch("w1")
    watch = restarted(watch)
    watch.run(5)
    watch.server.producers -= 1
    watch.run(10)
    assert len(watch.server.beats_asked) == 1
    watch.run(SILENCE)
    assert len(watch.server.beats_asked) == 2
    assert watch.server.asked_too_soon == []


def test_a_worker_that_dies_while_producers_come_and_go_is_found_by_the_connections_that_never_come_back() -> None:
    watch = settled(["w1", "w2", "w3"], interval=1.0)
    for _ in range(200):  # producers come and go for minutes before
        watch.server.producers = 4 - watch.server.producers
        watch.run(1)
    for wid in ("w1", "w2", "w3"):
        watch.server.fetch(wid)
    for _ in range(30):
        watch.server.producers = 4 - watch.server.producers
        watch.run(1)
    assert watch.server.beats_asked == []
    watch.server.kill("w1")
    for _ in range(int(promised(1.0)) + 2):
        watch.server.producers = 4 - watch.server.producers
        watch.run(1)
    assert watch.told() == ["w1"]


@pytest.mark.parametrize("phase", range(0, 60, 3))
def test_workers_that_freeze_together_are_all_given_up_on_time_and_told_as_hung(phase: int) -> None:
    watch = settled([f"w{n}" for n in range(6)], interval=1.0)
    watch.run(phase)  # the server's count of hung workers is asked for once a minute: at any time of this story
    for n in range(6):
        watch.run(3)
        watch.server.workers[f"w{n}"].beat_at = watch.server.now  # they beat at different times
    for n in range(6):
        watch.server.fetch(f"w{n}")
    watch.run(2)
    frozen_at = watch.server.now
    for worker in watch.server.workers.values():
        worker.hung = True
    watch.run(300)
    assert [watch.server.reaped_at[f"w{n}"] - frozen_at <= 90 for n in range(6)] == [True] * 6
    assert watch.crashes() == {"hung": 6}


def test_a_worker_between_two_connections_is_no_crash() -> None:
    watch = settled(["w1"], interval=1.0)
    watch.server.fetch("w1")
    watch.run(10)
    for _ in range(60):
        worker = watch.server.registered.pop("w1")
        watch.run(1)
        watch.server.registered["w1"] = worker
        watch.run(7)
    assert watch.crashes() == {}


def test_a_clean_exit_that_fails_its_jobs_within_the_grace_is_no_crash() -> None:
    watch = settled(["w1"], interval=1.0)
    jid = watch.server.fetch("w1")
    watch.run(10)
    watch.server.kill("w1")
    watch.run(4)
    watch.server.finish(jid)
    watch.run(60)
    assert watch.crashes() == {}


def test_a_restart_of_the_server_with_busy_workers_that_come_back_is_no_crash() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.server.fetch("w2")
    watch.run(300)
    watch.server.restart()
    watch.poll(interrupted=True)
    watch.run(600)
    assert watch.crashes() == {}
    assert watch.verdicts[-1].boot.restarts == 1


def test_a_worker_that_does_not_come_back_after_a_restart_is_told_when_verdicts_are_given_again() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.server.fetch("w2")
    watch.run(300)
    watch.server.restart()
    watch.server.kill("w1")
    watch.poll(interrupted=True)
    restarted = watch.server.now
    watch.run(85)
    assert watch.told() == []
    watch.run(restarted + 90 + SILENCE + GRACE + 3 * watch.interval - watch.server.now + 75)
    assert watch.told() == ["w1"]


def test_an_orphan_resolved_by_hand_does_not_make_a_second_crash_of_the_rest() -> None:
    watch = settled(["w1"])
    jid = watch.server.fetch("w1")
    watch.server.fetch("w1")
    watch.run(5)
    watch.server.kill("w1")
    watch.run(20)
    watch.server.finish(jid)
    watch.run(300)
    assert watch.told() == ["w1"]


def test_unknown_reservations_leave_orphans_unknown_and_lose_no_crash() -> None:
    watch = settled(["w1"])
    watch.server.fetch("w1")
    watch.run(10)
    watch.server.kill("w1")
    for _ in range(6):
        watch.server.run(5)
        assert watch.poll(redis=False).workers.orphans is None
    watch.run(15)
    assert orphaned(watch) == 1
    watch.run(REASON_WAIT)
    assert watch.told() == ["w1"]


def test_a_drop_of_long_ago_does_not_tell_when_a_worker_went() -> None:
    watch = settled(["w1", "w2"])
    watch.server.producers = 1
    watch.server.fetch("w1")
    watch.run(5)
    watch.server.producers = 0
    watch.server.workers["w1"].hung = True
    while "w1" not in watch.server.reaped_at:
        watch.server.run(5)
        if "w1" in watch.server.reaped_at:
            watch.server.producers = 2  # hides that its connections went
        watch.poll(redis=False)
    watch.run(REASON_WAIT + promised(watch.interval))
    assert watch.crashes() == {"hung": 1}


def test_few_drops_are_remembered_however_many_there_are_while_the_clock_stands_still() -> None:
    watch = settled(["w1"])
    watch.server.producers = 100
    watch.run(5)
    for _ in range(100):
        watch.server.producers -= 1
        watch.poll()
    assert len(watch.signals.memory().workers.drops) == DROPS


def test_very_many_suspects_are_asked_after_in_turn() -> None:
    wids = [f"w{n}" for n in range(3 * AT_ONCE)]
    watch = settled([*wids, "victim"])
    for wid in wids:
        watch.server.fetch(wid)
    watch.run(5)
    watch.server.kill("victim")
    watch.run(30)
    asked = Counter(at for at, _ in watch.server.beats_asked)
    assert list(asked.values()) == [AT_ONCE] * 3
    assert {wid for _, wid in watch.server.beats_asked} == set(wids)


def restarted(watch: SimWatch) -> SimWatch:
    """Return the watch of a new Forewarn that has read the state file of the old one."""
    memory = msgspec.json.decode(msgspec.json.encode(watch.signals.memory()), type=Memory)
    return SimWatch(watch.server, Signals(200, memory), watch.interval)


@pytest.mark.parametrize("after", [0, 5, 10, 15, 60])
def test_a_restart_of_forewarn_tells_no_crash_twice_and_loses_none(after: int) -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(10)
    watch.server.kill("w1")
    watch.run(after)
    second = restarted(watch)
    second.run(200)
    assert watch.told() + second.told() == ["w1"]
    assert second.crashes() == {"vanished": 1}


@pytest.mark.parametrize("polls", [0, 1, 2])
def test_a_restart_of_forewarn_after_the_drop_tells_the_crash_no_later(polls: int) -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(10)
    watch.server.kill("w1", 2.0)
    watch.run(polls * watch.interval)
    second = restarted(watch)
    second.run(promised(watch.interval) - polls * watch.interval)
    assert watch.told() + second.told() == ["w1"]


def test_what_crashed_while_forewarn_was_away_is_told() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(10)
    second = restarted(watch)
    watch.server.kill("w1")
    watch.server.run(30)
    second.run(200)
    assert second.told() == ["w1"]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["fetch", "finish", "kill", "idle", "hang", "producer", "leave", "join", "exit", "wait"]),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
    interval=st.sampled_from([1.0, 5.0, 10.0]),
)
def test_exactly_the_workers_that_died_holding_jobs_are_told(steps: list[tuple[str, int]], interval: float) -> None:
    watch = settled([f"w{n}" for n in range(6)], interval=interval)
    server, died, joined = watch.server, set(), 6
    for action, which in steps:
        wid = f"w{which}"
        held = [jid for jid, it in server.working.items() if it.worker == wid]
        alive = wid in server.workers and not server.workers[wid].hung
        if action == "fetch" and alive:
            server.fetch(wid, reserve_for=100_000)
        elif action == "finish" and alive and held:
            server.finish(held[0])
        elif action in {"kill", "idle"} and wid in server.workers:
            server.kill(wid, *([1.9] if action == "idle" else []))
            died |= {wid} if held else set()
        elif action == "hang" and alive:
            server.workers[wid].hung = True
            died |= {wid} if held else set()
        elif action == "exit" and alive:
            for jid in held:
                server.finish(jid)
            server.kill(wid)
        elif action == "producer":
            server.producers += which
        elif action == "leave":
            server.producers = max(0, server.producers - which)
        elif action == "join":
            server.worker(f"w{joined}")
            joined += 1
        watch.run(interval * which)
    watch.run(600)
    assert sorted(watch.told()) == sorted(died)
    assert server.asked_too_soon == []


def test_a_worker_killed_before_the_server_is_trusted_is_told_as_soon_as_it_is() -> None:
    server = SimServer()  # has started just now
    server.worker("w1")
    watch = SimWatch(server)
    server.fetch("w1")
    watch.run(40)
    server.kill("w1")
    watch.run(SETTLING - 45)
    assert watch.told() == []
    watch.run(10)
    assert watch.crashes() == {"vanished": 1}


def test_a_job_fetched_by_a_client_without_an_id_is_nobodys_and_nobody_is_asked_after_it() -> None:
    watch = settled(["w1"])
    watch.server.fetch("", "mail", "Send")
    watch.server.fetch("w1", "mail", "Send")
    watch.run(10)
    watch.server.kill("w1")
    watch.run(3 * SILENCE)
    assert watch.told() == ["w1"]
    assert {wid for _, wid in watch.server.beats_asked} == {"w1"}


# --- when it went -----------------------------------------------------------------------------------------------------


def the_crash(watch: SimWatch) -> Crash:
    (crash,) = (crash for verdicts in watch.verdicts for crash in verdicts.workers.found)
    return crash


def test_a_worker_went_between_its_last_fetch_and_the_first_time_that_it_was_not_known() -> None:
    watch = settled(["w1", "w2"])
    watch.run(10)
    fetched_at = watch.server.now
    watch.server.fetch("w1")
    watch.run(11)
    watch.server.kill("w1")
    watch.run(20)
    crash = the_crash(watch)
    assert crash.lived_at == fetched_at - LINGERS
    assert crash.gone_at == next(at for at, wid in watch.server.beats_asked if wid == "w1")
    assert crash.found_at > crash.gone_at


def test_a_worker_that_was_asked_after_lived_then() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(SILENCE + 10)
    (asked_at,) = (at for at, wid in watch.server.beats_asked if wid == "w1")
    watch.server.kill("w1")
    watch.run(2 * SILENCE)
    assert the_crash(watch).lived_at == asked_at - LINGERS


def test_a_worker_that_returned_a_job_may_have_gone_just_after_that() -> None:
    watch = settled(["w1", "w2"])
    jid = watch.server.fetch("w1")
    watch.server.fetch("w1")
    watch.run(10)
    watch.server.run(1)
    watch.server.finish(jid)
    watch.server.run(1)
    watch.server.kill("w1")
    killed_at = watch.server.now
    watch.run(20)
    crash = the_crash(watch)
    assert crash.lived_at == killed_at - 2  # the poll before
    assert crash.gone_at >= killed_at


def test_a_worker_that_went_after_the_drop_that_made_it_suspect_was_not_gone_by_then() -> None:
    watch = settled(["w1", "w2"])
    watch.server.producers = 1
    watch.run(10)
    watch.server.run(1)
    watch.server.fetch("w1")
    watch.server.producers = 0
    watch.run(5)  # sees the drop, and that the worker moved meanwhile
    watch.server.run(1)
    watch.server.kill("w1")
    watch.server.worker("w3")  # hides that connections went
    killed_at = watch.server.now
    watch.run(20)
    crash = the_crash(watch)
    assert crash.lived_at <= killed_at <= crash.gone_at


def test_a_worker_that_was_missed_but_came_back_was_not_gone_by_then() -> None:
    watch = settled(["w1", "w2"])
    watch.server.fetch("w1")
    watch.run(20)  # it beats 5 s before and 10 s after
    worker = watch.server.registered.pop("w1")
    watch.run(5)
    watch.server.registered["w1"] = worker
    watch.run(30)
    assert watch.server.beats_asked
    watch.server.kill("w1")
    killed_at = watch.server.now
    watch.run(3 * SILENCE)
    crash = the_crash(watch)
    assert crash.lived_at <= killed_at <= crash.gone_at
