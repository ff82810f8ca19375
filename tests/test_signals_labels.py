"""Which names get a series of their own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model import OTHER, Observation, Queue, Reservation
from exporter.signals import Signals, Verdicts
from exporter.signals.labels import IDLE, PAIRS_PER_NAME, Kept

NOW = 1_700_000_000.0


def poll(signals: Signals, queues: dict[str, Queue], at: float = 0, jobs: int = 0, jobtype: str = "T{}") -> Verdicts:
    reservations = {
        str(n): Reservation(str(n), f"w{n}", f"q{n}", jobtype.format(n), NOW + at - 1, NOW + at + 1800)
        for n in range(jobs)
    }
    observation = Observation(now=NOW + at, reached=True, queues=queues, reservations=reservations)
    return signals.conclude(signals.receive(observation), {}, ())


def test_the_largest_are_kept_and_the_rest_is_one() -> None:
    queues = {f"q{n}": Queue(jobs=n, latency=float(n), paused=False) for n in range(10)}
    told = poll(Signals(3), queues).queues
    assert told.queues is not None
    assert set(told.queues) == {"q9", "q8", "q7", OTHER}
    assert told.queues[OTHER] == Queue(jobs=sum(range(7)), latency=6.0, paused=False)


def test_the_true_count_is_told() -> None:
    told = poll(Signals(3), {f"q{n}": Queue(jobs=n) for n in range(10)}, jobs=25)
    assert told.queues.label_values == {"queue": 25, "jobtype": 25}


def test_a_name_keeps_its_series_unless_another_is_larger_by_half() -> None:
    kept: Kept[str] = Kept(1)
    kept.update({"a": 10, "b": 9}, 0)
    kept.update({"a": 10, "b": 14}, 5)
    assert list(kept) == ["a"]
    kept.update({"a": 10, "b": 17}, 10)
    assert list(kept) == ["b"]


def test_a_name_unseen_for_an_hour_is_forgotten_and_before_that_only_for_one_that_needs_the_room() -> None:
    kept: Kept[str] = Kept(2)
    kept.update({"a": 1}, 0)
    kept.update({"b": 1}, 10)
    assert set(kept) == {"a", "b"}
    kept.update({"b": 1, "c": 1}, 20)
    assert set(kept) == {"b", "c"}
    kept.update({}, 20 + IDLE)
    assert set(kept) == set()


def test_a_real_name_that_reads_as_the_overflow_is_folded_into_it() -> None:
    told = poll(Signals(10), {OTHER: Queue(jobs=3), "q": Queue(jobs=1)}).queues
    assert told.queues == {OTHER: Queue(jobs=3), "q": Queue(jobs=1)}


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(0, 300))
def test_the_number_of_pairs_is_bounded_whatever_comes(limit: int, jobs: int) -> None:
    signals = Signals(limit)
    for at in range(5):
        verdict = poll(signals, {}, at=at * 5, jobs=jobs, jobtype=f"T{at}-{{}}")
        assert verdict.busy.groups is not None
        assert len(verdict.busy.groups) <= limit * PAIRS_PER_NAME + limit + 1
        assert len(verdict.busy.durations) <= limit * PAIRS_PER_NAME + limit + 1
        assert sum(group.jobs for group in verdict.busy.groups.values()) == jobs
