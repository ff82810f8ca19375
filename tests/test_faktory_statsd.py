"""Which of Faktory Enterprise's StatsD names is which fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.faktory import statsd
from exporter.faktory.statsd import StatsdNames
from exporter.model import (
    MAX_NAME,
    NONE,
    OTHER,
    Gain,
    Ignored,
    Labelled,
    Move,
    Rejection,
    StatsdDrop,
    StatsdFact,
    StatsdFacts,
    Transport,
)
from exporter.statsd.listener import Heard
from exporter.statsd.report import Count, Distinct, Level, Spread, Totals, bucket_count

MAIL = b"queue:mail,jobtype:Mailer::Welcome"
MAILED = ("mail", "Mailer::Welcome")


def counted(name: str, tags: bytes = MAIL, amount: float = 1.0) -> Heard:
    return Heard(counts=(Count(name.encode(), tags, amount),))


def spread(name: str, tags: bytes = MAIL, *, seconds: bool = True, bucket: int = 3, many: float = 1.0) -> Heard:
    weights = [0.0] * bucket_count(seconds)
    weights[bucket] = many
    return Heard(spreads=(Spread(name.encode(), tags, seconds, tuple(weights), 0.02 * many),))


def level(name: str, value: float, tags: bytes = b"", *, absolute: bool = True) -> Heard:
    return Heard(levels=(Level(name.encode(), tags, absolute, value),))


def together(*heard: Heard, totals: Totals | None = None) -> Heard:
    """What was heard in one reading."""
    return Heard(
        counts=tuple(it for each in heard for it in each.counts),
        levels=tuple(it for each in heard for it in each.levels),
        spreads=tuple(it for each in heard for it in each.spreads),
        distinct=tuple(it for each in heard for it in each.distinct),
        totals=totals or Totals(),
    )


def facts(heard: Heard, *, keep_all: bool = False) -> StatsdFacts:
    return StatsdNames(keep_all=keep_all).facts(heard, 12.5)


def moves(heard: Heard) -> dict[StatsdFact, dict[Labelled, Move]]:
    return {fact: dict(series) for fact, series in facts(heard).moves.items()}


class TestNames:
    @pytest.mark.parametrize(
        ("name", "fact"),
        [
            ("jobs.count", StatsdFact.EXECUTIONS),
            ("jobs.failed", StatsdFact.FAILURES),
            ("jobs.expired", StatsdFact.EXPIRATIONS),
            ("uniq.lock", StatsdFact.LOCKS),
            ("uniq.denied", StatsdFact.DENIALS),
        ],
    )
    def test_what_is_counted(self, name: str, fact: StatsdFact) -> None:
        assert facts(counted(f"faktory.{name}", amount=2.5)).counts == {fact: {MAILED: 2.5}}

    def test_a_timing_is_how_long_executions_took(self) -> None:
        heard = spread("faktory.jobs.perform")
        assert facts(heard).gains == {StatsdFact.TIMES: {MAILED: Gain(heard.spreads[0].weights, 0.02)}}

    @pytest.mark.parametrize(
        ("name", "value", "fact", "labels", "told"),
        [
            ("processed", 7, StatsdFact.PROCESSED, (), 7),
            ("failures", 7, StatsdFact.FAILED, (), 7),
            ("scheduled", 7, StatsdFact.SET_JOBS, ("scheduled",), 7),
            ("retries", 7, StatsdFact.SET_JOBS, ("retries",), 7),
            ("dead", 7, StatsdFact.SET_JOBS, ("dead",), 7),
            ("working", 7, StatsdFact.SET_JOBS, ("working",), 7),
            ("busy", 7, StatsdFact.SET_JOBS, ("working",), 7),
            ("enqueued", 7, StatsdFact.SET_JOBS, ("enqueued",), 7),
            ("ops.connections", 7, StatsdFact.CONNECTIONS, (), 7),
            ("ops.redis.connections", 7, StatsdFact.STORE_CONNECTIONS, (), 7),
            ("ops.redis.memory", 7, StatsdFact.STORE_MEMORY, (), 7),
            ("ops.redis.rtt_us", 250, StatsdFact.STORE_ROUND_TRIP, (), 0.00025),
        ],
    )
    def test_levels_of_the_server(
        self, name: str, value: float, fact: StatsdFact, labels: Labelled, told: float
    ) -> None:
        assert moves(level(f"faktory.{name}", value, b"env:production")) == {fact: {labels: Move(True, told)}}

    @pytest.mark.parametrize(
        ("name", "tags", "fact"),
        [
            ("queue.size", b"env:p,queue:mail", StatsdFact.QUEUE_JOBS),
            ("queue.latency", b"queue:mail", StatsdFact.QUEUE_LATENCY),
            ("enqueued.mail", b"", StatsdFact.QUEUE_JOBS),
            ("latency.mail", b"", StatsdFact.QUEUE_LATENCY),
        ],
    )
    def test_levels_of_a_queue_in_both_forms(self, name: str, tags: bytes, fact: StatsdFact) -> None:
        assert moves(level(f"faktory.{name}", 1.5, tags)) == {fact: {("mail",): Move(True, 1.5)}}

    def test_the_name_of_a_queue_may_have_dots(self) -> None:
        assert moves(level("faktory.enqueued.my.queue", 3)) == {StatsdFact.QUEUE_JOBS: {("my.queue",): Move(True, 3)}}

    def test_a_queues_level_without_its_queue_tells_nothing(self) -> None:
        told = facts(level("faktory.queue.size", 3))
        assert (told.moves, told.traffic.ignored[Ignored.UNKNOWN]) == ({}, 1)

    @pytest.mark.parametrize("namespace", ["app1.faktory.", "app1.faktory"])
    def test_another_namespace_with_or_without_its_last_dot(self, namespace: str) -> None:
        names = StatsdNames(namespace)
        assert names.facts(counted("app1.faktory.jobs.count"), None).counts == {StatsdFact.EXECUTIONS: {MAILED: 1}}
        assert names.facts(counted("faktory.jobs.count"), None).counts == {}

    def test_no_namespace(self) -> None:
        assert StatsdNames("").facts(counted("jobs.count"), None).counts == {StatsdFact.EXECUTIONS: {MAILED: 1}}

    @pytest.mark.parametrize(
        "heard",
        [
            counted("faktory.jobs.pushed"),
            counted("jobs.count"),
            counted("faktory.jobs.perform"),
            counted("faktory.jobs.count."),
            counted("faktory.jobs..count"),
            counted("faktory.processed"),
            counted("faktory."),
            spread("faktory.jobs.count"),
            spread("faktory.jobs.perform", seconds=False),
            level("faktory.jobs.count", 1),
            level("faktory.jobs.X.count", 1),
            level("faktory.jobs.perform", 1, MAIL),
            Heard(distinct=(Distinct(b"faktory.processed", b"", 3),)),
        ],
    )
    def test_a_name_that_is_not_known_or_of_another_type_is_no_fact_and_is_counted(self, heard: Heard) -> None:
        told = facts(heard)
        assert (told.counts, told.gains, told.moves) == ({}, {}, {})
        assert told.traffic.ignored == {
            Ignored.UNKNOWN: 1,
            Ignored.DEPRECATED: 0,
            Ignored.EVENT: 0,
            Ignored.CHECK: 0,
        }


class TestTags:
    def one(self, tags: bytes) -> Labelled:
        (labels,) = facts(counted("faktory.jobs.count", tags)).counts[StatsdFact.EXECUTIONS]
        return labels

    def test_a_tag_ends_its_key_at_its_first_colon(self) -> None:
        assert self.one(b"queue:a:b,jobtype:Foo::Bar::Baz") == ("a:b", "Foo::Bar::Baz")

    def test_the_operators_own_tags_are_left_out(self) -> None:
        assert self.one(b"env:production,queue:mail,canary,region:us-east-1a,jobtype:T") == ("mail", "T")

    def test_of_a_key_that_comes_twice_the_last_counts(self) -> None:
        # Faktory's own tags stand behind those of its configuration.
        assert self.one(b"queue:configured,queue:mail,jobtype:T") == ("mail", "T")

    @pytest.mark.parametrize("tags", [b"", b"env:p", b"queue,jobtype", b",,", b"Queue:a,jobtypes:b"])
    def test_what_is_not_told_is_none(self, tags: bytes) -> None:
        assert self.one(tags) == (NONE, NONE)

    def test_an_empty_name_is_not_the_same_as_none(self) -> None:
        assert self.one(b"queue:,jobtype:") == ("(empty)", "(empty)")

    def test_names_are_cut_and_valid(self) -> None:
        assert self.one(b"queue:" + b"q" * 500 + b",jobtype:\xff\xfe") == ("q" * MAX_NAME, "��")

    def test_series_beyond_the_receivers_bound_are_others_and_not_none(self) -> None:
        heard = together(
            counted("faktory.jobs.count", b""), spread("faktory.jobs.perform", b""), totals=Totals(folded=3)
        )
        assert facts(heard).counts == {StatsdFact.EXECUTIONS: {(OTHER, OTHER): 1}}
        assert facts(heard).gains.keys() == {StatsdFact.TIMES}
        assert facts(heard).gains[StatsdFact.TIMES].keys() == {(OTHER, OTHER)}

    @given(
        st.permutations([b"env:p", b"queue:mail", b"jobtype:A::B", b"zone"]),
        st.permutations([b"env:p", b"queue:mail", b"jobtype:A::B", b"zone"]),
        st.booleans(),
    )
    def test_their_order_does_not_matter(self, one: Sequence[bytes], other: Sequence[bytes], known: bool) -> None:
        name = "faktory.jobs.count" if known else "app.x"
        told = StatsdNames(keep_all=True).facts(
            together(
                counted(name, b",".join(one), 2),
                counted(name, b",".join(other), 3),
                spread(f"{name}.t" if not known else "faktory.jobs.perform", b",".join(one), many=2),
                spread(f"{name}.t" if not known else "faktory.jobs.perform", b",".join(other), many=3),
            ),
            None,
        )
        ((amount,),) = [series.values() for series in told.counts.values()]
        ((gain,),) = [series.values() for series in told.gains.values()]
        assert (amount, sum(gain.weights)) == (5, 5)
        assert gain.sum == pytest.approx(0.1)

    @given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
    def test_no_bytes_are_too_hostile(self, name: bytes, tags: bytes, keep: bool) -> None:
        heard = Heard(
            counts=(Count(name, tags, 1.0), Count(b"faktory.jobs." + name + b".count", tags, 1.0)),
            levels=(Level(b"faktory.latency." + name, tags, True, 1.0), Level(name, tags, False, 1.0)),
        )
        told = StatsdNames(keep_all=keep).facts(heard, None)
        values = [
            it for group in (told.counts, told.moves) for series in group.values() for key in series for it in key
        ]
        assert all(0 < len(it) <= MAX_NAME and it.encode() for it in values)


class TestDeprecatedForms:
    """``jobs.{jobtype}.count`` and the like are sent beside ``jobs.count``, or by older servers instead of it."""

    def test_they_count_one_reading_later_where_the_newer_ones_are_never_heard(self) -> None:
        names = StatsdNames()
        heard = together(counted("faktory.jobs.A::B.failed", b"queue:q"), spread("faktory.jobs.A::B.perform", b""))
        assert (names.facts(heard, None).counts, names.facts(Heard(), None).counts) == (
            {},
            {StatsdFact.FAILURES: {("q", "A::B"): 1}},
        )

    def test_so_do_their_times(self) -> None:
        names = StatsdNames()
        names.facts(spread("faktory.jobs.A.perform", b"queue:q"), None)
        assert names.facts(Heard(), None).gains[StatsdFact.TIMES].keys() == {("q", "A")}
        assert names.facts(Heard(), None).gains == {}

    def test_the_job_type_is_the_tags_where_it_is_there(self) -> None:
        names = StatsdNames()
        names.facts(counted("faktory.jobs.X.count", b"env:p,queue:q,jobtype:BareStripe::Pull"), None)
        assert names.facts(Heard(), None).counts == {StatsdFact.EXECUTIONS: {("q", "BareStripe::Pull"): 1}}

    def test_a_job_type_may_be_called_like_a_name(self) -> None:
        names = StatsdNames()
        names.facts(counted("faktory.jobs.count.count", b"queue:q"), None)
        assert names.facts(Heard(), None).counts == {StatsdFact.EXECUTIONS: {("q", "count"): 1}}

    def test_beside_the_newer_ones_they_are_ignored_and_told(self) -> None:
        told = facts(together(counted("faktory.jobs.A.count"), counted("faktory.jobs.count")))
        assert told.counts == {StatsdFact.EXECUTIONS: {MAILED: 1}}
        assert told.traffic.ignored[Ignored.DEPRECATED] == 1

    def test_a_queues_level_is_told_once(self) -> None:
        names = StatsdNames()
        names.facts(level("faktory.queue.size", 5, b"queue:q"), None)
        told = names.facts(level("faktory.enqueued.q", 4), None)
        assert (told.moves, told.traffic.ignored[Ignored.DEPRECATED]) == ({}, 1)

    def test_the_newer_names_of_jobs_say_nothing_of_those_of_queues(self) -> None:
        told = facts(together(counted("faktory.jobs.count"), level("faktory.enqueued.q", 4)))
        assert told.moves == {StatsdFact.QUEUE_JOBS: {("q",): Move(True, 4)}}

    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from("AB")), max_size=20), st.booleans())
    def test_no_execution_counts_twice_though_its_two_forms_come_in_two_readings(
        self, executions: list[tuple[int, bool, str]], old_first: bool
    ) -> None:
        readings: list[list[Heard]] = [[] for _ in range(8)]
        for at, apart, jobtype in executions:
            tags = f"queue:q,jobtype:{jobtype}".encode()
            forms = [counted("faktory.jobs.count", tags), counted(f"faktory.jobs.{jobtype}.count", tags)]
            first, second = reversed(forms) if old_first else forms
            readings[at].append(first)
            readings[at + apart].append(second)
        names = StatsdNames()
        total = 0.0
        for reading in readings:
            told = names.facts(together(*reading), None)
            total += sum(told.counts.get(StatsdFact.EXECUTIONS, {}).values())
        assert total == len(executions)

    @given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["count", "failed"]), st.integers(1, 9)), max_size=20))
    def test_no_execution_is_lost_where_only_the_deprecated_forms_are_sent(
        self, sent: list[tuple[int, str, int]]
    ) -> None:
        names = StatsdNames()
        total = 0.0
        for at in range(7):
            heard = together(*(counted(f"faktory.jobs.A.{end}", amount=n) for when, end, n in sent if when == at))
            total += sum(sum(series.values()) for series in names.facts(heard, None).counts.values())
        assert total == sum(n for _, _, n in sent)


class TestOthers:
    """Names that are not known, where they are kept."""

    def test_each_type_has_its_fact_under_the_full_name_and_sorted_tags(self) -> None:
        told = facts(
            together(
                counted("app.logins", b"b:2,a:1,a:1", 3),
                spread("app.time", b""),
                spread("app.size", b"", seconds=False),
                level("app.depth", -4.5, b"x"),
                level("app.moved", 2, b"x", absolute=False),
                Heard(distinct=(Distinct(b"app.users", b"", 9),)),
            ),
            keep_all=True,
        )
        assert told.counts == {StatsdFact.OTHER_COUNT: {("app.logins", "a:1,b:2"): 3}}
        assert {fact: list(series) for fact, series in told.gains.items()} == {
            StatsdFact.OTHER_SECONDS: [("app.time", NONE)],
            StatsdFact.OTHER_VALUES: [("app.size", NONE)],
        }
        assert told.moves == {
            StatsdFact.OTHER_LEVEL: {("app.depth", "x"): Move(True, -4.5), ("app.moved", "x"): Move(False, 2)},
            StatsdFact.OTHER_DISTINCT: {("app.users", NONE): Move(True, 9)},
        }
        assert told.traffic.ignored[Ignored.UNKNOWN] == 0

    def test_known_names_are_none_of_them(self) -> None:
        assert facts(counted("faktory.jobs.count"), keep_all=True).counts.keys() == {StatsdFact.EXECUTIONS}

    def test_series_beyond_the_receivers_bound_are_others_of_their_name(self) -> None:
        heard = together(counted("app.x", b""), totals=Totals(folded=1))
        assert facts(heard, keep_all=True).counts == {StatsdFact.OTHER_COUNT: {("app.x", OTHER): 1}}


class TestLevels:
    @pytest.mark.parametrize(
        ("told", "composed"),
        [
            ([(True, 5.0), (False, 2.0)], Move(True, 7.0)),
            ([(False, 5.0), (False, -2.0)], Move(False, 3.0)),
            ([(False, 5.0), (True, 2.0)], Move(True, 2.0)),
        ],
    )
    def test_moves_are_composed_in_the_order_in_which_they_came(
        self, told: list[tuple[bool, float]], composed: Move
    ) -> None:
        heard = [level("faktory.dead", value, absolute=absolute) for absolute, value in told]
        assert moves(together(*heard)) == {StatsdFact.SET_JOBS: {("dead",): composed}}


class TestTraffic:
    def test_what_the_receiver_counted_is_passed_on(self) -> None:
        totals = Totals(
            packets={Transport.UDP: 3},
            samples=9,
            rejected={Rejection.VALUE: 2},
            ignored={Ignored.EVENT: 4},
            folded=1,
            dropped={StatsdDrop.RELAY: 6},
            relayed=2,
        )
        told = StatsdNames().facts(Heard(totals=totals, dropped_by_kernel=8), 12.5)
        assert told.heard_at == 12.5
        assert told.traffic.packets == {Transport.UDP: 3}
        assert told.traffic.rejected == {Rejection.VALUE: 2}
        assert told.traffic.ignored[Ignored.EVENT] == 4
        assert told.traffic.dropped == {StatsdDrop.KERNEL: 8, StatsdDrop.QUEUE: 0, StatsdDrop.RELAY: 6}
        assert (told.traffic.samples, told.traffic.folded, told.traffic.relayed) == (9, 1, 2)

    def test_the_kernels_drops_may_not_be_known(self) -> None:
        assert facts(Heard()).traffic.dropped[StatsdDrop.KERNEL] is None


def memories(names: StatsdNames) -> list[Mapping[bytes, object]]:
    return [names._names, names._pairs, names._texts, names._together]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "_REMEMBERED", 10)
    names = StatsdNames(keep_all=True)
    for number in range(100):
        tags = b"queue:%d" % number
        names.facts(together(counted(f"app.{number}", tags), counted("faktory.jobs.count", tags)), None)
        names.facts(together(counted("app" * 100, b"t" * 300), counted("faktory.jobs.count", b"t" * 300)), None)
    assert all(0 < len(memory) <= 10 for memory in memories(names))
    assert max(len(key) for memory in memories(names) for key in memory) < 300
