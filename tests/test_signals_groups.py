"""What changes between two observations, and the groups that are kept up by it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.model import Pair, Reservation
from exporter.signals.changes import changes
from exporter.signals.groups import Groups, group
from exporter.strides import STRIDE, strides

Known = dict[str, Reservation]

reservations = st.builds(
    Reservation,
    jid=st.sampled_from("abcdef"),
    worker=st.just("w"),
    queue=st.just("q"),
    jobtype=st.sampled_from("ST"),
    reserved_at=st.sampled_from([1.0, 2.0]),
    expires_at=st.sampled_from([10.0, 20.0]),
)
observed = st.lists(reservations, max_size=8).map(lambda found: {it.jid: it for it in found})


def content(groups: Groups) -> dict[Pair, set[tuple[Reservation, float, float]]]:
    return {pair: set(zip(it.members, it.reserved, it.spans, strict=True)) for pair, it in groups.by_pair.items()}


@given(st.lists(observed, max_size=8))
def test_groups_kept_up_by_changes_are_those_sorted_from_scratch(polls: list[Known]) -> None:
    groups = Groups()
    before: Known = {}
    for after in polls:
        groups.advance(changes(before, 0, after, 5))
        assert content(groups) == content(group(after))
        before = after


def test_members_and_their_times_stay_together_when_one_in_the_middle_leaves() -> None:
    jobs = [Reservation(jid, "w", "q", "T", at, at + 10 * at) for jid, at in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    before = {it.jid: it for it in jobs}
    groups = group(before)
    groups.advance(changes(before, 0, {"b": jobs[1], "c": jobs[2]}, 5))
    assert content(groups) == {("q", "T"): {(jobs[1], 2.0, 20.0), (jobs[2], 3.0, 30.0)}}


def test_a_later_expiry_alone_is_neither_an_arrival_nor_an_end() -> None:
    one = Reservation("a", "w", "q", "T", 1, 10)
    later = Reservation("a", "w", "q", "T", 1, 20)
    moved = changes({"a": one}, 0, {"a": later}, 5)
    assert (moved.arrived, moved.gone, moved.extended) == ((), (), (later,))


def test_a_job_reserved_anew_has_gone_and_arrived() -> None:
    one = Reservation("a", "w", "q", "T", 1, 10)
    anew = Reservation("a", "other", "q", "T", 6, 16)
    moved = changes({"a": one}, 0, {"a": anew}, 7)
    assert (moved.arrived, moved.gone, moved.extended) == ((anew,), (one,), ())


def test_changes_beyond_the_first_stride_are_found() -> None:
    before = {str(n): Reservation(str(n), "w", "q", "T", 1, 10) for n in range(2 * STRIDE + 10)}
    after = dict(before)
    last = after.pop(str(2 * STRIDE + 9))
    after["new"] = Reservation("new", "w", "q", "T", 2, 12)
    moved = changes(before, 0, after, 5)
    assert (moved.arrived, moved.gone) == ((after["new"],), (last,))


def test_strides_are_bounded_and_hold_everything_in_order() -> None:
    found = list(strides(range(2 * STRIDE + 1)))
    assert [len(it) for it in found] == [STRIDE, STRIDE, 1]
    assert [number for it in found for number in it] == list(range(2 * STRIDE + 1))
