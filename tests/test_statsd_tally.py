"""What lines amount to between two answers: the right sums, within bounds, and books that balance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model import Ignored, Rejection
from exporter.statsd import lines, tally
from exporter.statsd.report import SECONDS_BOUNDS, VALUES_BOUNDS
from exporter.statsd.tally import MAX_DISTINCT, PART, Tally
from tests.statsd_reference import DOCUMENTED, IGNORED, REJECTED, UNDERSTOOD, Books, counted, expected


def fed(*data: bytes, max_series: int = 1000) -> Books:
    """Count lines one by one."""
    made = Tally(max_series)
    return counted(made, sum(made.feed(it + b"\n") for it in data))


def test_a_counter_adds_up_and_a_rate_weighs() -> None:
    assert fed(b"a:1|c", b"a:2.5|c", b"a:1|c|@0.1", b"a:1|c|@0.1", b"a:1e1|c").counts == {(b"a", b""): 33.5}


def test_a_gauge_stands_where_it_was_put_last_and_moves_from_there() -> None:
    assert fed(b"a:5|g", b"a:7|g", b"a:+3|g", b"a:-1|g").levels == {(b"a", b""): (True, 9)}


def test_a_gauge_that_only_moved_is_told_as_a_move() -> None:
    assert fed(b"a:+3|g", b"a:-5|g").levels == {(b"a", b""): (False, -2)}


def test_a_gauge_that_is_put_anew_forgets_its_moves() -> None:
    assert fed(b"a:+3|g", b"a:5|g").levels == {(b"a", b""): (True, 5)}


def test_timings_are_told_in_seconds() -> None:
    weights = [0.0] * (len(SECONDS_BOUNDS) + 1)
    weights[SECONDS_BOUNDS.index(0.005)] = 2
    weights[SECONDS_BOUNDS.index(0.025)] = 10
    weights[-1] = 1
    told, total = fed(b"a:5|ms", b"a:4.5|ms", b"a:20|ms|@0.1", b"a:9000000|ms").spreads[b"a", b"", True]
    assert told == tuple(weights)
    assert total == pytest.approx(9000.2095)


def test_histograms_and_distributions_are_one_and_keep_their_unit() -> None:
    weights = [0.0] * (len(VALUES_BOUNDS) + 1)
    weights[VALUES_BOUNDS.index(1)] = 1
    weights[VALUES_BOUNDS.index(10)] = 1
    weights[0] = 1
    assert fed(b"a:1|h", b"a:2|d", b"a:-5|d").spreads == {(b"a", b"", False): (tuple(weights), -2)}


def test_a_set_is_told_by_how_many_values_it_had() -> None:
    assert fed(b"a:x|s", b"a:y|s", b"a:x|s|#t", b"a:x|s").distinct == {(b"a", b""): 2, (b"a", b"t"): 1}


def test_the_same_name_with_another_type_or_other_tags_is_another_series() -> None:
    told = fed(b"a:1|c", b"a:1|g", b"a:1|ms", b"a:1|h", b"a:1|s", b"a:1|c|#t", b"a:1|c|#t|c:container")
    assert (told.counts, len(told.levels), len(told.spreads)) == ({(b"a", b""): 1, (b"a", b"t"): 2}, 1, 2)


def test_a_packed_line_is_counted_value_by_value() -> None:
    told = fed(b"a:1:x:2:|c")
    assert (told.counts, told.samples, told.rejected) == ({(b"a", b""): 3}, 2, 2)


def test_what_cannot_be_counted_makes_no_series() -> None:
    told = fed(b"a:x|c", b"b:-1|c", b"c:NaN|g", b"d:1e400|ms")
    assert told == Books(lines=4, rejected=4)


def test_sums_stay_finite() -> None:
    told = fed(*[b"a:1.7e308|c", b"b:1.7e308|h", b"c:+1.7e308|g", b"d:1e308|c|@1e-9"] * 2, b"a:1|c")
    assert told.counts == {(b"a", b""): 1.7e308, (b"d", b""): 0}
    assert told.levels == {(b"c", b""): (False, 1.7e308)}
    assert told.spreads[b"b", b"", False][1] == 1.7e308
    assert (told.samples, told.rejected) == (4, 5)


def test_empty_lines_are_nothing() -> None:
    assert fed(b"", b"\n\n", b"\r", b"\r\n\r") == Books()


def test_a_last_line_needs_no_end() -> None:
    assert Tally(10).feed(b"a:1|c\nb:1|c") == 2


def test_only_the_piece_is_counted() -> None:
    made = Tally(10)
    assert made.feed(bytearray(b"a:1|c\nb:1|c\nc:1|c"), 6, 11) == 1
    assert counted(made).counts == {(b"b", b""): 1}


def test_what_was_taken_is_not_told_again() -> None:
    made = Tally(10)
    made.feed(b"a:1|c\na:1|c\n_sc|a|0\nx")
    assert counted(made) == Books(samples=2, rejected=1, ignored=1, counts={(b"a", b""): 2})
    assert counted(made) == Books()
    made.feed(b"a:5|c\na:5|c\n")
    assert counted(made).counts == {(b"a", b""): 10}


def test_every_reason_is_counted() -> None:
    made = Tally(10)
    for data, _ in REJECTED:
        made.feed(data)
    for data in IGNORED:
        made.feed(data)
    rejected = made.take()[1].rejected
    assert rejected[Rejection.VALUE] == sum(reason is Rejection.VALUE for _, reason in REJECTED)
    assert set(rejected) == set(Rejection) - {Rejection.SERIES}


def test_events_and_checks_are_counted_as_ignored() -> None:
    made = Tally(10)
    made.feed(b"\n".join(IGNORED))
    assert made.take()[1].ignored == {Ignored.EVENT: 4, Ignored.CHECK: 2}


# Bounds.


def test_beyond_the_bound_a_sample_loses_its_tags_and_beyond_that_it_is_rejected() -> None:
    made = Tally(10)
    for number in range(20):
        made.feed(b"tagged:1|c|#t:%d\n" % number * 2)
    for number in range(20):
        made.feed(b"name%d:1|c\n" % number * 2)
    parts, totals = made.take()
    series = {(it.name, it.tags): it.amount for part in parts for it in part.counts}
    assert series == {(b"tagged", b"t:%d" % number): 2 for number in range(9)} | {(b"tagged", b""): 22}
    assert (totals.samples, totals.folded, totals.rejected) == (40, 22, {Rejection.SERIES: 40})


def test_names_without_tags_may_fill_all_the_room() -> None:
    made = Tally(10)
    for number in range(11):
        made.feed(b"name%d:1|c\n" % number)
    assert (made.take()[1].samples, made.take()[1].samples) == (10, 0)


def test_the_tags_of_all_series_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_TEXT", 10_000)
    made = Tally(1000)
    for number in range(10):
        made.feed(b"a:1|c|#%d%b\n" % (number, b"t" * 4000))
    parts, totals = made.take()
    assert sum(len(it.tags) for part in parts for it in part.counts) <= 10_000
    assert (totals.samples, totals.folded) == (10, 8)


def test_a_set_says_no_more_than_its_bound() -> None:
    made = Tally(10)
    for number in range(MAX_DISTINCT + 500):
        made.feed(b"a:%d|s\n" % number)
    told = counted(made)
    assert (told.distinct, told.samples) == ({(b"a", b""): MAX_DISTINCT}, MAX_DISTINCT + 500)


def test_all_sets_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_DISTINCT_ALL", 100)
    made = Tally(1000)
    for number in range(300):
        made.feed(b"a%d:%d|s\n" % (number % 3, number))
    assert sum(counted(made).distinct.values()) == 100
    made.feed(b"a:1|s\n")
    assert counted(made).distinct == {(b"a", b""): 1}


@pytest.mark.parametrize(
    "form",
    [
        b"a:1|c|c:%d\n",
        b"a:1|c|T%d\n",
        b"a:1|c|@0.%d\n",
        b"a%d:1|c\n",
        b"a:1|c|#%d\n",
        b"a:%d|c\n",
        b"%d\n",
        b"a:%d|s\n",
    ],
)
def test_lines_that_are_never_the_same_do_not_pile_up(form: bytes) -> None:
    made = Tally(50)
    for number in range(1000):
        made.feed(form % (number + 1) * 2)
    assert len(made._known) <= 100
    assert len(made._forms) <= 100
    assert len(made._all) <= 50


def test_a_line_that_is_long_is_not_remembered_and_counted_all_the_same() -> None:
    made = Tally(50)
    for _ in range(3):
        made.feed(b"a:1|c|#" + b"t" * 1100)
    assert not made._forms
    assert counted(made).counts == {(b"a", b"t" * 1100): 3}


def test_timestamps_leave_what_is_remembered_alone() -> None:
    made = Tally(10)
    made.feed(b"a:1|c\nb:1|ms\n")
    before = dict(made._forms)
    for number in range(1000):
        made.feed(b"a:1|c|T%d\n" % number)
    assert made._forms == before
    assert len(before) == 2


def test_a_large_answer_comes_in_parts_that_are_made_one_by_one() -> None:
    made = Tally(10_000)
    made.feed(b"".join(b"a%d:1|c\n" % number for number in range(1000)))
    parts, _ = made.take()
    sizes = []
    for part in parts:
        sizes.append(len(part.counts))
        made.feed(b"b:1|c\n")
    assert sizes == [PART, PART, PART, 1000 - 3 * PART]
    assert counted(made).counts == {(b"b", b""): 4}


LONG: Sequence[bytes] = (
    *(b":" * 65535, b"|" * 65535, b"\r" * 65535, b"1:" * 32767, b"1:1111111111111111111" * 3000),
    *(b"a:1|c" + b"|#" * 32000, b"a:1|c|#" + b"," * 65000, b"_e{" + b"9" * 65000),
    *(b"a:" + b"1" * 65000 + b"|c", b"a" + b":1" * 32000 + b"|ms"),
)


@pytest.mark.parametrize("data", LONG, ids=range(len(LONG)))
def test_no_line_takes_long(data: bytes) -> None:
    made = Tally(10)
    took = []
    for _ in range(5):
        begun = process_time()
        made.feed(data)
        took.append(process_time() - begun)
    assert min(took) < 0.006


# Both ways of reading agree, whatever comes.

LINES: Sequence[bytes] = (*UNDERSTOOD, *IGNORED, *(data for data, _ in REJECTED if len(data) < 200))
VALUES = st.sampled_from(
    [
        b"0",
        b"1",
        b"2.5",
        b"+1",
        b"-1",
        b"007",
        b"1e3",
        b"1e308",
        b".5",
        b"5.",
        b"nan",
        b"",
        b"1_0",
        b"9" * 20,
        b"9" * 41,
    ]
)
NAMES = st.sampled_from([b"a", b"a:", b"a::", b"a::b", b":a", b"a:b", b"_sc", b"_e{1,1}", b"", b"\xc2\x85", b"\xff"])
RESTS = st.sampled_from(
    [
        *(
            b"|c",
            b"|g",
            b"|ms",
            b"|h",
            b"|d",
            b"|s",
            b"|c|@0.5",
            b"|h|@1e-9",
            b"|c|#t",
            b"|c|#t|@0.5",
            b"|c|T1",
            b"|g\r",
        ),
        *(b"", b"|c|", b"||c", b"|c|#\xff", b"|x", b"|ms|T1", b"|s|@0.1", b"|c:1|c", b"|g|c:1"),
    ]
)
METRICS = st.builds(lambda name, values, rest: name + b":" + b":".join(values) + rest, NAMES, st.lists(VALUES), RESTS)
ANY = METRICS | st.sampled_from(LINES) | st.binary(max_size=30)


@given(st.lists(ANY, max_size=40))
def test_lines_that_are_remembered_count_as_lines_that_are_read_strictly(data: list[bytes]) -> None:
    whole = b"\n".join(data * 3)
    made = Tally(1000)
    told = counted(made, made.feed(whole))
    assert told == expected(whole)
    assert told.lines <= told.samples + told.rejected + told.ignored
    # After an answer lines are remembered, but their series begin anew.
    assert counted(made, made.feed(whole)) == expected(whole)


@given(st.lists(ANY, max_size=30), st.integers(1, 8))
def test_the_books_balance_also_beyond_the_bound(data: list[bytes], max_series: int) -> None:
    whole = b"\n".join(data * 2)
    made = Tally(max_series)
    made.feed(whole)
    told, plain = counted(made), expected(whole)
    assert told.samples + told.rejected + told.ignored == plain.samples + plain.rejected + plain.ignored
    assert len(told.counts) + len(told.levels) + len(told.spreads) + len(told.distinct) <= max_series


@given(st.lists(ANY, max_size=30), st.randoms(use_true_random=False))
def test_cutting_between_lines_changes_nothing(data: list[bytes], chance: random.Random) -> None:
    whole = b"\n".join(data) + b"\n"
    one, cut = Tally(1000), Tally(1000)
    one.feed(whole)
    start = 0
    while start < len(whole):
        end = whole.index(b"\n", chance.randrange(start, len(whole))) + 1
        cut.feed(whole, start, end)
        start = end
    assert counted(cut) == counted(one)


def test_what_faktory_sends_is_remembered_after_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Tally(1000)
    made.feed(b"\n".join(DOCUMENTED))
    monkeypatch.setattr(lines, "read", None)  # nothing is read strictly from now on
    made.feed(b"\n".join(DOCUMENTED))
    counted(made)
    made.feed(b"\n".join(DOCUMENTED))
    assert counted(made).samples == len(DOCUMENTED)
