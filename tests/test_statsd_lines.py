"""One line of StatsD is understood, or refused for the reason that it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model import Ignored, Rejection
from exporter.statsd.lines import COUNTER, GAUGE, HISTOGRAM, SET, TIMING, Line, is_signed, number, read
from tests.statsd_reference import DOCUMENTED, IGNORED, REJECTED, UNDERSTOOD, understood


def line(data: bytes) -> Line:
    found = read(data)
    assert isinstance(found, Line), (data, found)
    return found


def outcome(data: bytes) -> object:
    """What is wrong with a line, be it as a whole or with its only value."""
    found = read(data)
    if not isinstance(found, Line):
        return found
    value = number(found.values[0])
    return Rejection.VALUE if value is None or (found.kind == COUNTER and value < 0) else found


@pytest.mark.parametrize("data", DOCUMENTED)
def test_what_faktory_sends_is_understood(data: bytes) -> None:
    found = line(data)
    assert found.name.startswith(b"faktory.")
    assert len(found.values) == 1
    assert number(found.values[0]) is not None


def test_a_timing_of_a_ruby_class_keeps_its_double_colons() -> None:
    found = line(DOCUMENTED[-2])
    assert found.kind == TIMING
    assert found.name == b"faktory.jobs.BareStripe::Sync.perform"
    assert found.tags == b"env:production,dyno:w.1,queue:q,jobtype:BareStripe::Sync"
    assert found.values == (b"23.737378",)


@pytest.mark.parametrize("data", UNDERSTOOD)
def test_every_form_of_a_sample_is_understood(data: bytes) -> None:
    line(data)


@pytest.mark.parametrize("data", IGNORED)
def test_events_and_checks_are_understood_and_ignored(data: bytes) -> None:
    assert read(data) == (Ignored.EVENT if data.startswith(b"_e") else Ignored.CHECK)


@pytest.mark.parametrize(("data", "reason"), REJECTED, ids=lambda it: repr(it[:40]) if isinstance(it, bytes) else it)
def test_what_is_no_sample_is_refused_for_its_reason(data: bytes, reason: Rejection) -> None:
    assert outcome(data) == reason


@pytest.mark.parametrize(
    ("written", "kind"),
    [(b"c", COUNTER), (b"g", GAUGE), (b"ms", TIMING), (b"h", HISTOGRAM), (b"d", HISTOGRAM), (b"s", SET)],
)
def test_a_distribution_is_a_histogram_and_the_other_types_are_their_own(written: bytes, kind: bytes) -> None:
    assert line(b"a:1|" + written).kind == kind


@pytest.mark.parametrize(("kind", "weight"), [(b"c", 10), (b"ms", 10), (b"h", 10), (b"d", 10), (b"g", 1), (b"s", 1)])
def test_a_sample_rate_weighs_where_values_add_up(kind: bytes, weight: float) -> None:
    assert line(b"a:1|%b|@0.1" % kind).weight == weight


def test_a_set_has_one_value_with_every_colon_in_it() -> None:
    assert line(b"a::b:c:d::e|s").values == (b"c:d::e",)


def test_longest_name_tags_and_number_are_understood() -> None:
    found = line(b"%b:%b|c|#%b" % (b"n" * 512, b"1" * 300, b"t" * 4096))
    assert (len(found.name), len(found.tags), number(found.values[0])) == (512, 4096, float(b"1" * 300))


def test_only_a_sign_makes_a_move() -> None:
    assert [is_signed(it) for it in (b"+1", b"-1", b"1", b"")] == [True, True, False, False]


NAMES = st.lists(
    st.one_of(
        st.just("::"),
        st.text(st.characters(exclude_characters=":|", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
).map(lambda parts: "".join(parts).encode())
TAGS = st.text(st.characters(exclude_characters="|\n", exclude_categories=["Cs"]), max_size=20).map(str.encode)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def written(value: float) -> list[bytes]:
    """A number in every way in which clients write it."""
    ways = [repr(value), f"{value:+}", f"{value:.17e}", f"{value:.17E}"]
    if abs(value) < 1e50:
        ways.append(f"{value:.400f}".rstrip("0")[:400] if value.is_integer() else f"{value:.340f}")
    return [it.encode() for it in ways]


@given(data=st.data(), value=FINITE)
def test_a_number_is_the_same_however_it_is_written(data: st.DataObject, value: float) -> None:
    assert number(data.draw(st.sampled_from(written(value)))) == value


@given(
    data=st.data(),
    name=NAMES,
    tags=st.none() | TAGS,
    kind=st.sampled_from([b"c", b"g", b"ms", b"h", b"d"]),
    values=st.lists(FINITE, min_size=1, max_size=5),
    rate=st.sampled_from([None, 1, 0.5, 0.1, 1e-9]),
)
def test_a_sample_is_read_as_it_was_written_in_every_dialect(
    data: st.DataObject, name: bytes, tags: bytes | None, kind: bytes, values: list[float], rate: float | None
) -> None:
    packed = b":".join(data.draw(st.sampled_from(written(value))) for value in values)
    sections = [b"c:ci-1", b"e:it-false", b"card:high", *([b"T1656581400"] if kind in b"cg" else [])]
    sections = data.draw(st.lists(st.sampled_from(sections), unique=True))
    sections += [] if rate is None else [b"@%b" % repr(rate).encode()]
    sections += [] if tags is None else [b"#" + tags.removesuffix(b"\r")]
    whole = b"|".join([b"%b:%b" % (name, packed), kind, *data.draw(st.permutations(sections))])
    if whole.startswith((b"_e{", b"_sc|")):
        return
    found = line(whole + data.draw(st.sampled_from([b"", b"\r"])) if not whole.endswith(b"\r") else whole + b"\r")
    assert found.kind == {b"d": b"h"}.get(kind, kind)
    assert (found.name, found.tags) == (name, (tags or b"").removesuffix(b"\r"))
    assert [number(value) for value in found.values] == values
    assert found.weight == (1 if kind == b"g" or rate is None else 1 / rate)


PIECES = st.sampled_from(
    [
        *"abc:|#@,.-+e_{}T\r\t 0123456789",
        *("::", "|c", "|g", "|ms", "|h", "|s", "|@0.5", "|#a:b", "|c:x", "|e:", "|card:low", "|T1", "_e{1,1}:", "_sc|"),
        *("1e999", "NaN", "\u0661", "\u0085", "\udcff", "a:1|c", "a:1|g"),
    ]
)
HALF_LINES = st.lists(PIECES, max_size=20).map(lambda it: "".join(it).encode(errors="surrogateescape"))


@given(data=HALF_LINES | st.binary(max_size=40).map(lambda it: it.replace(b"\n", b"")))
def test_it_agrees_with_the_reference(data: bytes) -> None:
    if not data.removesuffix(b"\r"):
        return
    told, found = understood(data), read(data)
    if isinstance(told, Ignored):
        assert found == told
    elif told is None:
        assert isinstance(found, Rejection)
    else:
        assert isinstance(found, Line)
        assert {(it.kind, it.name, it.tags, it.weight) for it in told} == {
            (found.kind, found.name, found.tags, found.weight)
        }
        if found.kind == SET:
            assert [it.value for it in told] == list(found.values)
        else:
            assert [it.value for it in told] == [number(value) for value in found.values]
            assert [it.is_move for it in told] == [found.kind == GAUGE and is_signed(value) for value in found.values]
