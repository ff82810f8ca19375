"""Which entries of a large set were met again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.faktory.roll import Roll
from exporter.model import Reservation

KEYS = st.integers(0, 30)


def entry(key: int) -> Reservation:
    return Reservation(f"jid-{key}", "w", "q", "T", 0.0, 1.0)


@given(st.lists(st.tuples(st.lists(KEYS), st.booleans()), max_size=20))
def test_strangers_are_told_and_those_not_met_again_are_missing(reads: list[tuple[list[int], bool]]) -> None:
    roll, known = Roll(), set[int]()
    for keys, takes_part in reads:
        roll.begin()
        unknown = roll.strangers(keys)
        assert unknown == [index for index, key in enumerate(keys) if key not in known]
        missing = dict(roll.missing())
        assert missing == {key: entry(key) for key in known - set(keys)}
        if takes_part:  # else the read was cut short
            for key in missing:
                roll.remove(key)
            for key in dict.fromkeys(keys[index] for index in unknown):
                roll.add(key, entry(key))
            known = set(keys)
        assert len(roll) == len(known)
        assert {it.jid for it in roll.entries()} == {f"jid-{key}" for key in known}
