"""What is pushed by StatsD: the series of ``/metrics`` in both dialects, by the written mapping."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.catalogue import FROM_ZERO, METRICS, SNAPSHOT_METRICS, Labels, Value, columns
from exporter.model import (
    DURATION_BUCKETS,
    BusyVerdict,
    ConnectionsVerdict,
    Distribution,
    Queue,
    QueuesVerdict,
    Rejection,
    Snapshot,
    StatsdFact,
    StatsdTraffic,
    StatsdVerdict,
)
from exporter.outputs.counting import CUMULATIVE, forgotten
from exporter.outputs.statsd import (
    UDP_PACKET,
    UNIX_PACKET,
    Debts,
    Line,
    Packer,
    Packet,
    Sample,
    dialect,
    gauges,
    part,
    samples,
    tag_value,
)
from exporter.outputs.statsd_rises import MAX_ABSENT, Rises
from exporter.statsd import lines as grammar
from exporter.strides import STRIDE
from tests.snapshots import distribution, empty, full, names, snapshots
from tests.statsd_reader import Key, Reader, unescaped_part, unescaped_tag
from tests.test_prometheus_output import Samples, expected

replace = msgspec.structs.replace

DIALECTS = pytest.mark.parametrize("tags", [True, False], ids=["dogstatsd", "plain"])


def written(snapshot: Snapshot) -> Iterator[tuple[Sample, Sequence[Line]]]:
    """All lines of a snapshot, counters as if all of them had risen from 0."""
    for metric, keys, values in columns(snapshot):
        its = samples(metric, snapshot.system, ("server", *metric.labels), (snapshot.server,))
        if metric.kind in CUMULATIVE:
            rises = Rises()
            rises.advance(keys, values, width=len(its), from_zero=True, forgotten=False)
            yield from rises.lines(its, keys)
        else:
            yield from gauges(its, keys, values)


def packed(*given: Snapshot, tags: bool, limit: int = UDP_PACKET) -> list[bytes]:
    packer = Packer(dialect(tags), limit)
    packets = [packet.data for snapshot in given for packet in packer.pack(written(snapshot))]
    assert packer.left_out == 0
    return packets


def without_empty(found: Samples) -> dict[Key, float]:
    """The samples as Prometheus knows them: a label that is empty is none."""
    return {(name, frozenset(it for it in labels if it[1])): float(value) for (name, labels), value in found.items()}


def lines_of(snapshot: Snapshot, name: str, *, tags: bool) -> list[str]:
    return [
        line
        for packet in packed(snapshot, tags=tags)
        for line in packet.decode().split("\n")
        if re.match(rf"{name}[.:]", line)
    ]


def queues(*told: str) -> Snapshot:
    return replace(empty("a"), queues=QueuesVerdict({name: Queue(3) for name in told}, {}))


@DIALECTS
class TestTheSameAsScraped:
    @settings(deadline=None, max_examples=25)
    @given(data=st.data())
    def test_any_snapshot_reads_back_to_its_names_labels_and_values(self, tags: bool, data: st.DataObject) -> None:
        one = data.draw(snapshots(data.draw(names)))
        packer = Packer(dialect(tags), 64 * 1024)
        packets = [packet.data for packet in packer.pack(written(one))]
        assert Reader(tags=tags, limit=64 * 1024).take_all(packets).samples == without_empty(expected(one))

    def test_a_snapshot_with_every_metric_reads_back_to_its_names_labels_and_values(self, tags: bool) -> None:
        given = full("a", size=3), full('b"\n\\.,|%2C-2D', "franz"), empty("c")
        told = Reader(tags=tags).take_all(packed(*given, tags=tags)).samples
        assert told == without_empty(expected(*given))
        found = {name for name, _ in told}
        ends = ("", "_count", "_gcount")
        assert [it.name for it in SNAPSHOT_METRICS if not {it.full_name("faktory") + end for end in ends} & found] == []

    @settings(deadline=None, max_examples=25)
    @given(data=st.data())
    def test_the_grammar_that_forewarn_listens_by_reads_every_line(self, tags: bool, data: st.DataObject) -> None:
        one = data.draw(snapshots(data.draw(names)))
        packer = Packer(dialect(tags), UDP_PACKET)
        for packet in packer.pack(written(one)):
            for text in packet.data.split(b"\n"):
                line = grammar.read(text)
                if line is Rejection.NAME:  # what it takes for a name has a bound of its own
                    assert not tags
                    assert text.index(b":") > grammar.MAX_NAME
                    continue
                assert isinstance(line, grammar.Line), (line, text)
                name, _, rest = text.partition(b":")
                value, kind, *sections = rest.split(b"|")
                assert (line.name, line.kind, line.values) == (name, kind, (value,))
                assert line.tags == (sections[0][1:] if sections else b"")
                assert line.weight == 1
                assert grammar.number(value) is not None


class TestLabels:
    def test_dogstatsd_has_them_as_tags_and_plain_statsd_in_the_name(self) -> None:
        one = queues("mail")
        assert lines_of(one, "faktory_queue_jobs", tags=True) == ["faktory_queue_jobs:3|g|#server:a,queue:mail"]
        assert lines_of(one, "faktory_queue_jobs", tags=False) == ["faktory_queue_jobs.a.mail:3|g"]

    @pytest.mark.parametrize(
        ("value", "as_part", "as_tag"),
        [
            ("mail", "mail", "mail"),
            ("Mailer::Welcome", "Mailer-3A-3AWelcome", "Mailer::Welcome"),
            ("a.b c", "a-2Eb-20c", "a.b c"),
            ("a_b-c", "a_b-c", "a_b-c"),
            ("", "-", ""),
            ("-", "-2D", "-"),
            ("--", "--", "--"),
            ("-2E", "-2D2E", "-2E"),
            ("-2e", "-2e", "-2e"),
            ("-.", "--2E", "-."),
            ("a,b|c", "a-2Cb-7Cc", "a%2Cb%7Cc"),
            ("100%", "100-25", "100%"),
            ("%2C", "-252C", "%252C"),
            ("%,", "-25-2C", "%%2C"),
            ("é", "-C3-A9", "é"),
            ("\n\t\x7f", "-0A-09-7F", "%0A%09%7F"),
            ("\ud800", "-3F", "?"),
            ("#@:", "-23-40-3A", "#@:"),
        ],
    )
    def test_each_value_is_written_so(self, value: str, as_part: str, as_tag: str) -> None:
        assert (part(value), tag_value(value)) == (as_part, as_tag)

    @given(one=st.text(max_size=12) | st.text(alphabet="-%2CDF.,|", max_size=8))
    def test_each_value_is_what_it_reads_back_to(self, one: str) -> None:
        text = one.encode("utf-8", "replace").decode()
        assert unescaped_part(part(one)) == text
        assert (unescaped_tag(tag_value(one)) if one else "") == text

    def test_a_value_that_is_empty_has_no_tag(self) -> None:
        assert lines_of(queues(""), "faktory_queue_jobs", tags=True) == ["faktory_queue_jobs:3|g|#server:a"]
        assert lines_of(queues(""), "faktory_queue_jobs", tags=False) == ["faktory_queue_jobs.a.-:3|g"]

    def test_what_has_no_labels_has_neither_tags_nor_parts(self) -> None:
        sample = Sample("process_open_fds", False, (), (), ())
        for tags in (True, False):
            assert list(dialect(tags).write(sample, [Line((), 12.0)])) == ["process_open_fds:12|g"]

    def test_the_bound_of_a_bucket_comes_last(self) -> None:
        one = replace(empty("a"), busy=BusyVerdict(None, None, {("q", "J"): distribution(DURATION_BUCKETS, [0.25])}))
        name = "faktory_job_duration_seconds_bucket"
        assert lines_of(one, name, tags=True)[0] == f"{name}:1|c|#server:a,queue:q,jobtype:J,le:0.5"
        assert lines_of(one, name, tags=True)[-1] == f"{name}:1|c|#server:a,queue:q,jobtype:J,le:+Inf"
        assert lines_of(one, name, tags=False)[0] == f"{name}.a.q.J.0-2E5:1|c"
        assert lines_of(one, name, tags=False)[-1] == f"{name}.a.q.J.-2BInf:1|c"


@DIALECTS
class TestValues:
    def level(self, value: float) -> Snapshot:
        levels: dict[StatsdFact, dict[Labels, float]] = {StatsdFact.OTHER_LEVEL: {("n", "t"): value}}
        return replace(empty("a"), statsd=StatsdVerdict(None, {}, {}, levels, StatsdTraffic()))

    def test_a_gauge_below_0_is_not_taken_for_a_move(self, tags: bool) -> None:
        end = "|g|#server:a,name:n,tags:t" if tags else "|g"
        name = "faktory_statsd_other_level" + ("" if tags else ".a.n.t")
        assert lines_of(self.level(-2.5), "faktory_statsd_other_level", tags=tags) == [
            f"{name}:0{end}",
            f"{name}:-2.5{end}",
        ]

    def test_both_lines_of_it_are_in_one_packet(self, tags: bool) -> None:
        for limit in range(120, 300):
            packets = packed(self.level(-2.5), tags=tags, limit=limit)
            (found,) = [packet for packet in packets if b":-2.5|" in packet]
            assert re.search(
                rb"faktory_statsd_other_level[^:]*:0\|g[^\n]*\nfaktory_statsd_other_level[^:]*:-2.5\|g", found
            )

    def test_a_gauge_of_minus_0_is_not_taken_for_a_move_either(self, tags: bool) -> None:
        (line,) = lines_of(self.level(-0.0), "faktory_statsd_other_level", tags=tags)
        assert ":0|g" in line

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1.0, "1"), (0.1, "0.1"), (1e300, "1e+300"), (2.0**53, "9007199254740992.0"), (1e-7, "1e-07")],
    )
    def test_numbers_are_as_short_as_they_can_be_and_exact(self, tags: bool, value: float, text: str) -> None:
        (line,) = lines_of(self.level(value), "faktory_statsd_other_level", tags=tags)
        assert line.partition(":")[2].partition("|")[0] == text

    def test_counters_are_counters_and_all_else_are_gauges(self, tags: bool) -> None:
        reader = Reader(tags=tags).take_all(packed(full(), tags=tags))
        counted = {name for name, _ in reader.counters}
        for metric in SNAPSHOT_METRICS:
            name = metric.full_name("faktory")
            ends = {"histogram": ("_bucket", "_count", "_sum"), "gaugehistogram": ("_bucket", "_gcount", "_gsum")}
            for end in ends.get(metric.kind, ("",)):
                assert (name + end in counted) == (metric.kind in {"counter", "histogram"})

    def test_what_is_not_known_is_not_sent(self, tags: bool) -> None:
        one = replace(empty(), connections=ConnectionsVerdict(None, None, 0))
        assert lines_of(one, "faktory_connections", tags=tags) == []


@DIALECTS
class TestPackets:
    @settings(deadline=None, max_examples=20)
    @given(data=st.data(), limit=st.integers(60, 3000))
    def test_none_is_longer_than_its_bound_and_no_line_is_cut(
        self, tags: bool, data: st.DataObject, limit: int
    ) -> None:
        one = data.draw(snapshots(data.draw(names)))
        whole = [line for packet in Packer(dialect(tags), 1 << 20).pack(written(one)) for line in split(packet.data)]
        packer = Packer(dialect(tags), limit)
        packets = [packet.data for packet in packer.pack(written(one))]
        assert all(0 < len(packet) <= limit for packet in packets)
        assert [line for packet in packets for line in split(packet)] == [line for line in whole if len(line) <= limit]
        assert packer.left_out == len([line for line in whole if len(line) > limit])

    def test_they_are_as_full_as_they_can_be(self, tags: bool) -> None:
        packets = packed(full(size=50), tags=tags)
        for one, other in pairwise(packets):
            assert len(one) + 1 + len(split(other)[0]) > UDP_PACKET

    def test_one_line_as_long_as_a_packet_is_sent(self, tags: bool) -> None:
        (line,) = lines_of(queues("q" * 100), "faktory_queue_jobs", tags=tags)
        packer = Packer(dialect(tags), len(line))
        assert line.encode() in [packet.data for packet in packer.pack(written(queues("q" * 100)))]

    def test_each_tells_how_many_lines_it_has(self, tags: bool) -> None:
        packets = list(Packer(dialect(tags), UNIX_PACKET).pack(written(full(size=20))))
        assert [len(split(it.data)) for it in packets] == [it.lines for it in packets]
        assert len(packets) > 1


def split(packet: bytes) -> list[bytes]:
    """The lines of a packet; of a gauge below 0 both in one."""
    return re.findall(rb"[^\n]*:0\|g[^\n]*\n[^\n]*:-[^\n]*|[^\n]+", packet)


class Counted:
    """One metric, followed from flush to flush."""

    def __init__(self, *, from_zero: bool = False, forgotten: bool = False, metric: str = "commands_total") -> None:
        (its,) = [it for it in METRICS if it.name == metric]
        self.samples = samples(its, "faktory", ("server", *its.labels), ("a",))
        self.rises = Rises()
        self.from_zero = from_zero
        self.forgotten = forgotten
        self.keys: list[Labels] = []
        self.given_up = 0

    def advance(self, **values: Value) -> None:
        self.keys = [(name,) for name in values]
        self.given_up += self.rises.advance(
            self.keys,
            list(values.values()),
            width=len(self.samples),
            from_zero=self.from_zero,
            forgotten=self.forgotten,
        )

    def lazily(self, limit: int = UDP_PACKET) -> Iterator[Packet]:
        return Packer(_Keyed(), limit).pack(self.rises.lines(self.samples, self.keys))

    def packets(self) -> list[Packet]:
        return list(self.lazily())

    def flush(self, **values: Value) -> dict[str, float]:
        """What a flush tells that arrives whole: rises by label value."""
        self.advance(**values)
        return told(self.packets())


class _Keyed:
    def write(self, sample: Sample, lines: Iterable[Line]) -> Iterator[str]:
        le = "".join(sample.behind)
        for line in lines:
            yield f"{sample.name.rpartition('_')[2]}{le}/{line.key[0]}={line.value}"


def told(packets: Sequence[Packet]) -> dict[str, float]:
    found: dict[str, float] = {}
    for packet in packets:
        for line in packet.data.decode().split("\n"):
            name, _, value = line.partition("=")
            key = name.removeprefix("total/")
            found[key] = found.get(key, 0) + float(value)
    return found


class TestRises:
    def test_what_the_sidecar_counts_starts_from_0(self) -> None:
        assert Counted(from_zero=True).flush(a=5) == {"a": 5}

    def test_what_was_counted_before_starts_at_its_first_value(self) -> None:
        its = Counted()
        assert its.flush(a=5) == {"a": 0}
        assert its.flush(a=7) == {"a": 2}

    def test_what_did_not_rise_is_told_as_0(self) -> None:
        its = Counted(from_zero=True)
        its.flush(a=5)
        assert its.flush(a=5) == {"a": 0}

    def test_a_value_below_the_last_was_counted_anew(self) -> None:
        its = Counted(from_zero=True)
        its.flush(a=5)
        assert its.flush(a=3) == {"a": 3}
        assert its.flush(a=4) == {"a": 1}

    def test_what_was_counted_before_it_started_anew_is_still_owed(self) -> None:
        its = Counted(from_zero=True)
        its.advance(a=5)
        its.advance(a=8)
        assert its.flush(a=3) == {"a": 11}

    def test_a_new_series_that_the_sidecar_counts_starts_from_0(self) -> None:
        its = Counted(from_zero=True)
        its.flush(a=5)
        assert its.flush(a=5, b=4) == {"a": 0, "b": 4}

    def test_a_new_series_of_the_servers_starts_at_its_first_value(self) -> None:
        its = Counted()
        its.flush(a=5)
        assert its.flush(a=5, b=4) == {"a": 0, "b": 0}

    def test_a_series_that_was_not_known_for_a_while_goes_on(self) -> None:
        for its in (Counted(), Counted(from_zero=True)):
            its.flush(a=5)
            assert its.flush() == {}
            assert its.flush(a=7) == {"a": 2}

    def test_a_series_that_was_forgotten_counts_anew(self) -> None:
        its = Counted(from_zero=True, forgotten=True)
        its.flush(a=5, b=1)
        its.flush(b=1)
        assert its.flush(a=7, b=1) == {"a": 7, "b": 0}

    def test_what_a_series_rose_before_it_went_is_still_told(self) -> None:
        its = Counted(from_zero=True, forgotten=True)
        its.advance(a=5, b=1)
        assert its.flush(b=1) == {"a": 5, "b": 1}
        assert its.flush(b=1) == {"b": 0}

    def test_each_bucket_the_sum_and_the_count_of_a_histogram_rise(self) -> None:
        its = Counted(from_zero=True, metric="job_duration_seconds")
        its.flush(a=distribution(DURATION_BUCKETS, [0.25, 40]))
        found = its.flush(a=distribution(DURATION_BUCKETS, [0.25, 40, 2, 100_000]))
        assert (found["bucket0.5/a"], found["bucket2.5/a"], found["bucket60.0/a"], found["bucket+Inf/a"]) == (
            0,
            1,
            1,
            2,
        )
        assert (found["count/a"], found["sum/a"]) == (2, 100_002)

    def test_a_histogram_of_which_one_bucket_fell_was_counted_anew_as_a_whole(self) -> None:
        its = Counted(from_zero=True, metric="job_duration_seconds")
        its.flush(a=distribution(DURATION_BUCKETS, [0.25, 40]))
        found = its.flush(a=distribution(DURATION_BUCKETS, [40, 40, 40]))
        assert (found["bucket0.5/a"], found["bucket60.0/a"], found["count/a"], found["sum/a"]) == (0, 3, 3, 120)

    @given(data=st.data())
    def test_whatever_is_refused_the_sum_at_the_end_is_exact(self, data: st.DataObject) -> None:
        """Values rise, start anew, vanish and return; packets are put back or not packed at all."""
        its = Counted(from_zero=True)
        total: dict[str, int] = {}
        known: dict[str, int] = {}
        arrived: dict[str, float] = {}
        for _ in range(data.draw(st.integers(1, 6))):
            values = data.draw(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)))
            for name, value in values.items():
                last = known.get(name, 0)
                total[name] = total.get(name, 0) + (value - last if value >= last else value)
            known |= values
            its.advance(**values)
            for packet in islice(its.lazily(limit=12), data.draw(st.integers(0, 5))):
                if data.draw(st.booleans()):
                    for name, rise in told([packet]).items():
                        arrived[name] = arrived.get(name, 0) + rise
                else:
                    packet.put_back()
        for name, rise in its.flush(**known).items():
            arrived[name] = arrived.get(name, 0) + rise
        assert arrived == {name: total[name] for name in known}

    def test_what_is_owed_of_series_that_are_gone_has_a_bound(self) -> None:
        its = Counted(from_zero=True, forgotten=True)
        its.advance(**{f"q{number}": 1 for number in range(MAX_ABSENT + 10)})
        its.advance(a=1)
        assert its.given_up == 10
        found = told(its.packets())
        assert len(found) == MAX_ABSENT + 1
        assert "q0" not in found
        assert found[f"q{MAX_ABSENT + 9}"] == 1

    def test_more_series_than_are_gone_through_at_once_are_all_told(self) -> None:
        its = Counted(from_zero=True)
        assert its.flush(**{f"q{number}": 1 for number in range(2 * STRIDE + 1)}) == {
            f"q{number}": 1 for number in range(2 * STRIDE + 1)
        }

    def test_only_names_that_the_sidecar_counts_are_forgotten(self) -> None:
        assert {it.name for it in METRICS if forgotten(it)} == {
            it.name for it in METRICS if it.name in FROM_ZERO and {"queue", "name"} & set(it.labels)
        }
        assert not any(forgotten(it) for it in METRICS if it.name == "throttle_saturated_seconds_total")


@pytest.mark.parametrize(("limit", "packets"), [(18, 2), (19, 1)])
def test_a_packet_has_a_line_more_if_that_fits_with_the_line_end_before_it(limit: int, packets: int) -> None:
    its = Counted(from_zero=True)
    its.advance(a=5, b=6)
    found = list(its.lazily(limit))
    assert len(b"total/a=5") == 9
    assert (len(found), max(len(it.data) for it in found) <= limit) == (packets, True)


class TestOwed:
    def test_what_is_on_its_way_is_not_owed_until_it_is_put_back(self) -> None:
        debts = Debts()
        debts.add(("a",), 5)
        (packet,) = Packer(_Keyed(), 100).pack([(Sample("x_total", True, (), (), ()), [Line(("a",), 5, debts)])])
        assert debts == {}
        packet.put_back()
        assert debts == {("a",): 5}

    def test_what_was_not_packed_is_still_owed(self) -> None:
        debts = Debts({("a",): 5, ("b",): 6})
        lines = [Line(key, amount, debts) for key, amount in debts.items()]
        packets = Packer(_Keyed(), 10).pack([(Sample("x_total", True, (), (), ()), lines)])
        next(packets)
        assert debts == {("b",): 6}

    def test_what_rose_meanwhile_is_added(self) -> None:
        debts = Debts({("a",): 5})
        (packet,) = Packer(_Keyed(), 100).pack([(Sample("x_total", True, (), (), ()), [Line(("a",), 5, debts)])])
        debts.add(("a",), 2)
        packet.put_back()
        assert debts == {("a",): 7}

    def test_a_line_that_is_left_out_is_not_owed(self) -> None:
        debts = Debts({("a" * 200,): 5})
        packer = Packer(_Keyed(), 100)
        assert list(packer.pack([(Sample("x_total", True, (), (), ()), [Line(("a" * 200,), 5, debts)])])) == []
        assert (packer.left_out, debts) == (1, {})


def test_a_distribution_whose_sum_fell_rises_by_nothing() -> None:
    its = Counted(from_zero=True, metric="job_duration_seconds")
    its.flush(a=Distribution((1,) * 16, 5.0))
    assert its.flush(a=Distribution((1,) * 16, 0.0))["sum/a"] == 0
