"""What the server tells by StatsD, added up under bounded names, and for how long it has been silent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.catalogue import LEVEL_TTL
from exporter.model import (
    NONE,
    OTHER,
    BusyGroup,
    Distribution,
    Gain,
    Labelled,
    Move,
    Observation,
    Queue,
    StatsdDrop,
    StatsdFact,
    StatsdFacts,
    StatsdTraffic,
    StatsdVerdict,
    Transport,
)
from exporter.signals import Memory, Signals, Verdicts
from exporter.signals import statsd as signal
from exporter.signals.labels import PAIRS_PER_NAME
from exporter.signals.statsd import LARGEST, StatsdMemory

NOW = 1_700_000_000.0
NO_TRAFFIC = StatsdTraffic()
PAIR: Labelled = ("q", "T")


def told(
    heard: float | None = None,
    *,
    counts: Mapping[StatsdFact, Mapping[Labelled, float]] | None = None,
    gains: Mapping[StatsdFact, Mapping[Labelled, Gain]] | None = None,
    moves: Mapping[StatsdFact, Mapping[Labelled, Move]] | None = None,
    traffic: StatsdTraffic = NO_TRAFFIC,
) -> StatsdFacts:
    return StatsdFacts(None if heard is None else NOW + heard, counts or {}, gains or {}, moves or {}, traffic)


def executions(amounts: Mapping[Labelled, float]) -> StatsdFacts:
    return told(counts={StatsdFact.EXECUTIONS: {**amounts}})


def queue_levels(**jobs: float) -> StatsdFacts:
    return told(moves={StatsdFact.QUEUE_JOBS: {(name,): Move(True, value) for name, value in jobs.items()}})


def poll(signals: Signals, at: float, facts: StatsdFacts | None, queues: dict[str, Queue] | None = None) -> Verdicts:
    observation = Observation(now=NOW + at, reached=True, statsd=facts, queues=queues)
    return signals.conclude(signals.receive(observation), {}, ())


def known(signals: Signals, at: float, facts: StatsdFacts | None) -> StatsdVerdict:
    verdict = poll(signals, at, facts).statsd
    assert verdict is not None
    return verdict


class TestListening:
    def test_where_nothing_listens_nothing_is_known(self) -> None:
        assert poll(Signals(10), 0, None).statsd is None

    def test_how_it_went_is_added_up(self) -> None:
        signals = Signals(10)
        traffic = StatsdTraffic({Transport.UDP: 2}, 5, folded=1, dropped={StatsdDrop.RELAY: 3}, relayed=4)
        poll(signals, 0, told(traffic=traffic))
        traffic = StatsdTraffic({Transport.UDP: 1, Transport.TCP: 1}, 5, dropped={StatsdDrop.RELAY: 1}, relayed=4)
        sums = known(signals, 5, told(traffic=traffic)).traffic
        assert sums.packets == {Transport.UDP: 3, Transport.TCP: 1}
        assert (sums.samples, sums.folded, sums.relayed) == (10, 1, 8)
        assert sums.dropped[StatsdDrop.RELAY] == 4

    def test_the_kernels_drops_are_not_known_until_they_are_and_stay_so(self) -> None:
        signals = Signals(10)
        drops = [None, 3, None, 2]
        verdicts = [
            known(signals, 5 * at, told(traffic=StatsdTraffic(dropped={StatsdDrop.KERNEL: it})))
            for at, it in enumerate(drops)
        ]
        assert [it.traffic.dropped[StatsdDrop.KERNEL] for it in verdicts] == [None, 3, 3, 5]

    def test_what_was_added_up_stays_while_nothing_can_be_read(self) -> None:
        signals = Signals(10)
        poll(signals, 0, executions({PAIR: 3}))
        assert known(signals, 5, None).counts == {StatsdFact.EXECUTIONS: {PAIR: 3}}


class TestSilence:
    def test_a_server_that_never_spoke_is_not_silent(self) -> None:
        signals = Signals(10)
        assert [known(signals, at, told()).age for at in range(0, 500, 50)] == [None] * 10

    def test_it_lasts_since_the_last_packet(self) -> None:
        signals = Signals(10)
        ages = [known(signals, at, told(heard)).age for at, heard in [(0, -1), (5, 4), (10, None), (400, None)]]
        assert ages == [1, 1, 6, 396]

    def test_a_packet_of_the_future_by_a_clock_that_is_off_is_of_now(self) -> None:
        signals = Signals(10)
        assert (known(signals, 0, told(3600)).age, known(signals, 5, told()).age) == (0, 5)

    def test_a_clock_that_was_set_back_does_not_hide_it(self) -> None:
        signals = Signals(10)
        poll(signals, 3600, told(3600))
        assert [known(signals, at, told()).age for at in (0, 5, 100)] == [0, 5, 100]

    def test_it_is_not_known_while_nothing_can_be_read(self) -> None:
        signals = Signals(10)
        poll(signals, 0, told(0))
        assert known(signals, 5, None).age is None

    def test_afterwards_it_is_known_at_the_first_packet(self) -> None:
        signals = Signals(10)
        poll(signals, 0, told(0))
        poll(signals, 500, None)
        assert (known(signals, 505, told()).age, known(signals, 510, told(509)).age) == (None, 1)

    def test_or_when_three_times_no_packet_came(self) -> None:
        signals = Signals(10)
        poll(signals, 0, told(0))
        poll(signals, 500, None)
        ages = [known(signals, at, told()).age for at in (505, 505 + LEVEL_TTL - 1, 505 + LEVEL_TTL)]
        assert ages == [None, None, 505 + LEVEL_TTL]

    def test_it_is_seen_after_a_restart_of_forewarn(self) -> None:
        before = Signals(10)
        poll(before, 0, told(0))
        kept = msgspec.json.decode(msgspec.json.encode(before.memory()), type=Memory)
        assert kept.statsd == StatsdMemory(NOW)
        after = Signals(10, kept)
        ages = [known(after, 300 + at, told()).age for at in (0, LEVEL_TTL, LEVEL_TTL + 5)]
        assert ages == [None, 300 + LEVEL_TTL, 305 + LEVEL_TTL]

    def test_a_memory_from_before_there_was_statsd_can_be_read(self) -> None:
        assert msgspec.json.decode(b"{}", type=Memory).statsd == StatsdMemory()


class TestCounts:
    def test_they_add_up(self) -> None:
        signals = Signals(10)
        poll(signals, 0, executions({PAIR: 2.5}))
        assert known(signals, 5, executions({PAIR: 2.5, ("q", NONE): 1})).counts == {
            StatsdFact.EXECUTIONS: {PAIR: 5.0, ("q", NONE): 1}
        }

    def test_none_goes_down(self) -> None:
        signals = Signals(10)
        poll(signals, 0, executions({PAIR: 5}))
        assert known(signals, 5, executions({PAIR: -3})).counts[StatsdFact.EXECUTIONS] == {PAIR: 5}

    def test_they_end_where_counting_ends(self) -> None:
        signals = Signals(10)
        gains = {StatsdFact.TIMES: {PAIR: Gain((1e308, 1e308), 1e308)}}
        for at in range(3):
            verdict = known(signals, at, told(counts={StatsdFact.LOCKS: {PAIR: 1e308}}, gains=gains))
        assert verdict.counts == {StatsdFact.LOCKS: {PAIR: LARGEST}}
        assert verdict.distributions[StatsdFact.TIMES][PAIR].counts == (LARGEST, LARGEST)

    def test_of_a_distribution_each_bucket_has_what_is_below_it(self) -> None:
        signals = Signals(10)
        poll(signals, 0, told(gains={StatsdFact.TIMES: {PAIR: Gain((1, 0, 2), 0.5)}}))
        verdict = known(signals, 5, told(gains={StatsdFact.TIMES: {PAIR: Gain((0, 1, 1), 0.5)}}))
        assert verdict.distributions == {StatsdFact.TIMES: {PAIR: Distribution((1, 2, 5), 1.0)}}

    @given(
        st.lists(
            st.lists(st.floats(0, 1e6) | st.sampled_from([1 / 3, 0.5, 1.5]), min_size=4, max_size=4),
            min_size=1,
            max_size=8,
        )
    )
    def test_counts_of_a_distribution_never_go_down_from_bucket_to_bucket_nor_from_poll_to_poll(
        self, weights: list[list[float]]
    ) -> None:
        signals = Signals(10)
        seen: list[tuple[int, ...]] = []
        for at, each in enumerate(weights):
            verdict = known(signals, at, told(gains={StatsdFact.TIMES: {PAIR: Gain(tuple(each), 1.0)}}))
            seen.append(verdict.distributions[StatsdFact.TIMES][PAIR].counts)
        assert all(one <= other for counts in seen for one, other in pairwise(counts))
        assert all(one <= other for before, after in pairwise(seen) for one, other in zip(before, after, strict=True))
        assert abs(seen[-1][-1] - sum(map(sum, weights))) <= 0.5 + 1e-6


names = st.sampled_from([f"n{number}" for number in range(6)] + [OTHER, NONE])
amounts = st.dictionaries(st.tuples(names, names), st.integers(0, 1000), max_size=8)


class TestNames:
    def test_names_that_only_statsd_tells_have_series_of_their_own(self) -> None:
        verdicts = poll(Signals(10), 0, executions({PAIR: 1}), queues={"other": Queue(jobs=1)})
        assert verdicts.statsd is not None
        assert verdicts.statsd.counts == {StatsdFact.EXECUTIONS: {PAIR: 1}}
        assert verdicts.queues.label_values == {"queue": 2, "jobtype": 1}

    def test_the_largest_are_kept_and_the_rest_is_one(self) -> None:
        verdict = known(Signals(2), 0, executions({("q", f"T{number}"): number * 10 for number in range(1, 6)}))
        assert verdict.counts[StatsdFact.EXECUTIONS] == {("q", "T5"): 50, ("q", "T4"): 40, ("q", OTHER): 60}

    def test_so_are_the_largest_queues(self) -> None:
        levels = known(Signals(1), 0, queue_levels(a=1, b=9, c=5)).levels
        assert levels == {StatsdFact.QUEUE_JOBS: {("b",): 9, (OTHER,): 6}}

    def test_a_name_of_which_nothing_was_counted_is_a_name(self) -> None:
        assert known(Signals(1), 0, executions({PAIR: 0})).counts == {StatsdFact.EXECUTIONS: {PAIR: 0}}

    def test_all_facts_agree_on_what_is_folded(self) -> None:
        signals = Signals(1)
        counts: dict[StatsdFact, dict[Labelled, float]] = {
            StatsdFact.EXECUTIONS: {("q", "big"): 50.0, ("q", "small"): 5.0},
            StatsdFact.FAILURES: {("q", "small"): 5.0},
        }
        assert known(signals, 0, told(counts=counts)).counts == {
            StatsdFact.EXECUTIONS: {("q", "big"): 50, ("q", OTHER): 5},
            StatsdFact.FAILURES: {("q", OTHER): 5},
        }

    def test_names_keep_their_series_though_each_poll_hears_of_others(self) -> None:
        signals = Signals(3)
        totals: list[Mapping[Labelled, float]] = []
        for at in range(0, 1200, 5):
            heard: dict[Labelled, float] = {("q", f"T{number}"): 10.0 - number for number in range(at % 10 // 5, 8, 2)}
            totals.append(known(signals, at, executions(heard)).counts[StatsdFact.EXECUTIONS])
        settled = totals[len(totals) // 2 - 1]
        assert {key[1] for key in settled} == {"T0", "T1", "T2", OTHER}
        assert {key: total - settled[key] for key, total in totals[-1].items()} == {
            ("q", "T0"): 60 * 10,
            ("q", "T1"): 60 * 9,
            ("q", "T2"): 60 * 8,
            ("q", OTHER): 60 * (7 + 6 + 5 + 4 + 3),
        }

    def test_the_true_number_is_that_of_the_last_hour(self) -> None:
        signals = Signals(2)
        for at in range(0, 3600, 600):
            poll(signals, at, executions({(f"q{at}", "T"): 1}))
        assert poll(signals, 3600, told()).queues.label_values == {"queue": 6, "jobtype": 1}
        assert poll(signals, 7200, told()).queues.label_values == {"queue": 0, "jobtype": 0}

    def test_neither_none_nor_other_is_a_name(self) -> None:
        verdicts = poll(Signals(1), 0, executions({(NONE, NONE): 9, (OTHER, OTHER): 9, ("q", NONE): 1, (NONE, "T"): 1}))
        assert verdicts.queues.label_values == {"queue": 1 + 1, "jobtype": 1 + 1}
        assert verdicts.statsd is not None
        assert verdicts.statsd.counts[StatsdFact.EXECUTIONS] == {
            (NONE, NONE): 9,
            (OTHER, OTHER): 9,
            ("q", NONE): 1,
            (NONE, "T"): 1,
        }

    def test_of_none_no_busy_jobs_are_told(self) -> None:
        signals = Signals(10)
        observation = Observation(now=NOW, reached=True, statsd=executions({("q", NONE): 1, PAIR: 1}), reservations={})
        assert signals.conclude(signals.receive(observation), {}, ()).busy.groups == {
            PAIR: BusyGroup(jobs=0, oldest_age=None, used_ratio=None)
        }

    def test_a_name_forgotten_takes_its_counts_along(self) -> None:
        signals = Signals(1)
        poll(signals, 0, executions({("a", "T"): 1}))
        poll(signals, 5, executions({("a", "U"): 1}))
        assert known(signals, 10, executions({("b", "T"): 9})).counts[StatsdFact.EXECUTIONS] == {("b", "T"): 9}

    @settings(deadline=None)
    @given(st.integers(1, 4), st.lists(amounts, min_size=1, max_size=5))
    def test_sums_are_conserved_whatever_is_folded_as_long_as_nothing_is_forgotten(
        self, limit: int, polls: list[dict[Labelled, int]]
    ) -> None:
        # One poll forgets nothing; several do not where no name ever leaves.
        signals = Signals(limit if len(polls) == 1 else 10)
        for at, each in enumerate(polls):
            facts = told(
                counts={StatsdFact.EXECUTIONS: {**each}},
                gains={StatsdFact.TIMES: {pair: Gain((amount, 0.0), amount) for pair, amount in each.items()}},
            )
            verdict = known(signals, at * 5, facts)
        total = sum(sum(each.values()) for each in polls)
        assert sum(verdict.counts[StatsdFact.EXECUTIONS].values()) == total
        distributions = verdict.distributions[StatsdFact.TIMES].values()
        assert (sum(it.count for it in distributions), sum(it.sum for it in distributions)) == (total, total)

    @settings(deadline=None, max_examples=20)
    @given(st.integers(1, 4), st.integers(0, 60))
    def test_the_number_of_series_is_bounded_whatever_comes(self, limit: int, many: int) -> None:
        signals = Signals(limit)
        most = limit * PAIRS_PER_NAME + 2 * limit + 6
        for at in range(5):
            pairs: dict[Labelled, float] = {(f"q{number}", f"T{at}-{number}"): 1.0 for number in range(many)}
            verdict = known(
                signals,
                at * 5,
                told(
                    counts={StatsdFact.EXECUTIONS: pairs, StatsdFact.OTHER_COUNT: pairs},
                    gains={StatsdFact.OTHER_VALUES: {pair: Gain((1.0, 0.0), 1.0) for pair in pairs}},
                    moves={
                        StatsdFact.QUEUE_JOBS: {(queue,): Move(True, 1.0) for queue, *_ in pairs},
                        StatsdFact.OTHER_LEVEL: {pair: Move(True, 1.0) for pair in pairs},
                    },
                ),
            )
            for told_by_fact in (verdict.counts, verdict.distributions, verdict.levels):
                assert all(len(series) <= most for series in told_by_fact.values())


class TestLevels:
    def test_the_newest_absolute_value_counts_and_moves_are_added_to_it(self) -> None:
        signals = Signals(10)
        values = []
        for at, move in enumerate([Move(False, 3), Move(True, 7), Move(False, -2), Move(True, 1)]):
            verdict = known(signals, at * 5, told(moves={StatsdFact.CONNECTIONS: {(): move}}))
            values.append(verdict.levels[StatsdFact.CONNECTIONS][()])
        assert values == [3, 7, 5, 1]

    def test_one_that_is_not_told_any_more_is_forgotten(self) -> None:
        signals = Signals(10)
        poll(signals, 0, queue_levels(a=1, b=2))
        poll(signals, 30, queue_levels(a=3))
        assert known(signals, LEVEL_TTL, told()).levels == {StatsdFact.QUEUE_JOBS: {("a",): 3, ("b",): 2}}
        assert known(signals, LEVEL_TTL + 1, None).levels == {StatsdFact.QUEUE_JOBS: {("a",): 3}}
        assert known(signals, LEVEL_TTL + 31, told()).levels == {}

    def test_of_folded_queues_the_jobs_are_added_up_and_the_largest_latency_is_told(self) -> None:
        signals = Signals(1)
        moves: dict[StatsdFact, dict[Labelled, Move]] = {
            StatsdFact.QUEUE_JOBS: {("a",): Move(True, 100), ("b",): Move(True, 2), ("c",): Move(True, 3)},
            StatsdFact.QUEUE_LATENCY: {("a",): Move(True, 1), ("b",): Move(True, 9), ("c",): Move(True, 5)},
        }
        assert known(signals, 0, told(moves=moves)).levels == {
            StatsdFact.QUEUE_JOBS: {("a",): 100, (OTHER,): 5},
            StatsdFact.QUEUE_LATENCY: {("a",): 1, (OTHER,): 9},
        }

    def test_the_largest_of_folded_latencies_is_found_below_zero_too(self) -> None:
        signals = Signals(1)
        poll(signals, 0, queue_levels(a=1))
        moves: dict[StatsdFact, dict[Labelled, Move]] = {
            StatsdFact.QUEUE_LATENCY: {("b",): Move(True, -9), ("c",): Move(True, -5)}
        }
        assert known(signals, 0, told(moves=moves)).levels[StatsdFact.QUEUE_LATENCY] == {(OTHER,): -5}

    def test_a_queue_whose_latency_alone_is_told_is_a_name(self) -> None:
        verdicts = poll(Signals(10), 0, told(moves={StatsdFact.QUEUE_LATENCY: {("a",): Move(True, 9)}}))
        assert verdicts.queues.label_values["queue"] == 1

    def test_levels_whose_meaning_is_not_known_are_told_alone_or_not_at_all(self) -> None:
        signals = Signals(1)
        moves: dict[StatsdFact, dict[Labelled, Move]] = {
            StatsdFact.OTHER_LEVEL: {("app.depth", "a"): Move(True, -4), ("b.depth", "a"): Move(True, 5)},
            StatsdFact.OTHER_DISTINCT: {("app.depth", "b"): Move(True, 6)},
        }
        verdicts = poll(signals, 0, told(moves=moves))
        assert verdicts.statsd is not None
        assert verdicts.statsd.levels == {
            StatsdFact.OTHER_LEVEL: {("app.depth", "a"): -4},
            StatsdFact.OTHER_DISTINCT: {("app.depth", "b"): 6},
        }
        assert verdicts.queues.label_values["name"] == 2

    def test_ever_new_ones_are_bounded_and_the_oldest_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signal, "MOST_NAMES", 5)
        signals = Signals(100)
        poll(signals, 0, queue_levels(**{f"a{number}": 1 for number in range(4)}))
        levels = known(signals, 5, queue_levels(**{f"b{number}": 1 for number in range(4)})).levels
        assert len(levels[StatsdFact.QUEUE_JOBS]) == 5
        assert {(f"b{number}",) for number in range(4)} < levels[StatsdFact.QUEUE_JOBS].keys()


class TestOthers:
    def test_they_are_bounded_by_themselves_and_their_number_is_told(self) -> None:
        counts: dict[Labelled, float] = {("app.a", f"t{number}"): 9.0 for number in range(PAIRS_PER_NAME + 2)}
        counts["app.b", NONE] = 5.0
        verdicts = poll(Signals(1), 0, told(counts={StatsdFact.OTHER_COUNT: counts}))
        assert verdicts.statsd is not None
        series = verdicts.statsd.counts[StatsdFact.OTHER_COUNT]
        assert len(series) == PAIRS_PER_NAME + 2
        assert (series["app.a", OTHER], series[OTHER, OTHER]) == (18, 5)
        assert verdicts.queues.label_values == {"queue": 0, "jobtype": 0, "name": 2}

    def test_where_none_is_kept_their_number_is_not_told(self) -> None:
        assert "name" not in poll(Signals(1), 0, executions({PAIR: 1})).queues.label_values


def test_names_that_are_followed_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "MOST_NAMES", 50)
    signals = Signals(10)
    for at in range(5):
        verdicts = poll(signals, at * 5, executions({("q", f"T{at}-{number}"): 1.0 for number in range(60)}))
    assert verdicts.queues.label_values["jobtype"] == 50


def test_thirteen_thousand_series_take_no_longer_than_a_poll_may() -> None:
    signals = Signals(200)
    pairs: dict[Labelled, float] = {(f"queue-{number % 50}", f"Job{number}"): 1.0 for number in range(4400)}
    facts = told(
        counts={StatsdFact.EXECUTIONS: pairs, StatsdFact.FAILURES: pairs},
        gains={StatsdFact.TIMES: {pair: Gain((1.0,) * 18, 1.0) for pair in pairs}},
    )
    poll(signals, 0, facts)
    times = []
    for at in range(5):
        started = time.thread_time()
        poll(signals, 5 + at, facts)
        times.append(time.thread_time() - started)
    assert min(times) < 0.2  # measured: 0.014 s
