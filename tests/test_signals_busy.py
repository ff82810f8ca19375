"""Ages, used reservations and durations of busy jobs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model import AGE_BUCKETS, DURATION_BUCKETS, OTHER, Observation, Reservation
from exporter.signals import Signals, Verdicts

NOW = 1_700_000_000.0


def job(
    jid: str, age: float, reserve_for: float = 1800, queue: str = "q", jobtype: str = "T", worker: str = "w"
) -> Reservation:
    return Reservation(jid, worker, queue, jobtype, NOW - age, NOW - age + reserve_for)


def poll(signals: Signals, at: float, jobs: list[Reservation] | None) -> Verdicts:
    reservations: Mapping[str, Reservation] | None = None if jobs is None else {it.jid: it for it in jobs}
    pending = signals.receive(Observation(now=NOW + at, reached=True, reservations=reservations))
    return signals.conclude(pending, {}, ())


def test_each_queue_and_job_type_tells_its_count_oldest_age_and_most_used_reservation() -> None:
    jobs = [job("a", 60), job("b", 600), job("c", 90, reserve_for=100), job("d", 5, queue="other")]
    groups = poll(Signals(10), 0, jobs).busy.groups
    assert groups is not None
    assert (groups["q", "T"].jobs, groups["q", "T"].oldest_age) == (3, 600)
    assert groups["q", "T"].used_ratio == pytest.approx(0.9)
    assert groups["other", "T"].jobs == 1


def test_the_used_ratio_passes_one_when_the_reservation_has_run_out() -> None:
    groups = poll(Signals(10), 0, [job("a", 120, reserve_for=60)]).busy.groups
    assert groups is not None
    assert groups["q", "T"].used_ratio == pytest.approx(2.0)


def test_a_job_reserved_in_the_future_by_a_clock_that_is_off_has_age_zero() -> None:
    groups = poll(Signals(10), 0, [job("a", -3600)]).busy.groups
    assert groups is not None
    assert (groups["q", "T"].oldest_age, groups["q", "T"].used_ratio) == (0, 0)


@given(st.lists(st.floats(0, 100_000), min_size=1, max_size=50))
def test_the_distribution_of_ages_counts_every_job_once_at_its_bounds(ages: list[float]) -> None:
    verdict = poll(Signals(10), 0, [job(str(n), age, 200_000) for n, age in enumerate(ages)]).busy
    assert verdict.ages is not None
    told = verdict.ages["q"]
    exact = [NOW - (NOW - age) for age in ages]
    assert told.counts == tuple(sum(age <= bound for age in exact) for bound in (*AGE_BUCKETS, float("inf")))
    assert told.sum == pytest.approx(sum(exact))


def test_a_pair_without_busy_jobs_is_known_to_be_empty_for_an_hour() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 1)])
    groups = poll(signals, 5, []).busy.groups
    assert groups is not None
    assert (groups["q", "T"].jobs, groups["q", "T"].oldest_age) == (0, None)
    groups = poll(signals, 3700, []).busy.groups
    assert groups == {}


def test_an_unread_working_set_leaves_everything_unknown_but_the_durations_so_far() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 1)])
    poll(signals, 5, [])
    verdict = poll(signals, 10, None).busy
    assert (verdict.groups, verdict.ages) == (None, None)
    assert verdict.durations["q", "T"].count == 1


def test_a_job_that_left_took_until_the_middle_between_the_polls() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 57)])
    assert poll(signals, 6, []).busy.durations["q", "T"].sum == pytest.approx(60.0)


def test_a_job_that_came_between_two_polls_and_left_before_the_next_counts_from_its_exact_start() -> None:
    signals = Signals(10)
    poll(signals, 0, [])
    poll(signals, 5, [job("a", -4)])
    durations = poll(signals, 15, []).busy.durations["q", "T"]
    assert durations.sum == pytest.approx(6.0)
    assert durations.counts[DURATION_BUCKETS.index(10)] == 1


def test_an_expired_reservation_is_no_finished_job() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 58, reserve_for=60)])
    assert poll(signals, 5, []).busy.durations == {}


def test_what_a_dead_worker_held_is_no_finished_job() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 100, worker="dead")])
    for at in (100.0, 106.0):
        observation = Observation(now=NOW + at, reached=True, reservations={"a": job("a", 100, worker="dead")})
        signals.conclude(signals.receive(observation), {"dead": False}, ())
    assert poll(signals, 111, []).busy.durations == {}


def test_nothing_is_told_of_jobs_that_left_while_the_working_set_was_unread_for_long() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 1)])
    assert poll(signals, 600, []).busy.durations == {}


def test_a_job_taken_anew_by_another_worker_ended_once() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 100, worker="one")])
    verdict = poll(signals, 10, [job("a", -6, worker="two")]).busy
    assert verdict.durations["q", "T"].count == 1


def test_a_reservation_extended_is_the_same_job() -> None:
    signals = Signals(10)
    poll(signals, 0, [job("a", 100, reserve_for=200)])
    assert poll(signals, 5, [job("a", 100, reserve_for=400)]).busy.durations == {}


def test_folded_pairs_are_added_up() -> None:
    jobs = [job(str(n), n + 1, jobtype=f"T{n}") for n in range(30)]
    groups = poll(Signals(2), 0, jobs).busy.groups
    assert groups is not None
    assert groups["q", OTHER].jobs == 28
    assert sum(group.jobs for group in groups.values()) == 30
    assert groups["q", OTHER].oldest_age == max(n + 1 for n in range(30) if ("q", f"T{n}") not in groups)


def test_durations_of_a_folded_pair_are_forgotten_with_the_name_in_it() -> None:
    signals = Signals(1)
    poll(signals, 0, [job("1", 1, queue="a", jobtype="T1"), job("2", 1, queue="a", jobtype="T2")])
    assert ("a", OTHER) in poll(signals, 5, []).busy.durations
    larger = [job(f"b{n}", 1, queue="b", jobtype="T1") for n in range(9)]
    assert ("a", OTHER) not in poll(signals, 10, larger).busy.durations
