"""Snapshots for the tests of what is made of them: a full one, large ones, and arbitrary ones with hostile names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

from exporter.catalogue import (
    CONFIG_SUCCESS_TIME,
    CONFIG_SUCCESSFUL,
    OTLP_FAILURES,
    OTLP_ITEMS,
    OTLP_WAITING,
    STATSD_FACTS,
    STATSD_PUSH_FAILURES,
    STATSD_PUSHED,
    Column,
    Kind,
    Metric,
)
from exporter.model import (
    AGE_BUCKETS,
    CRASH_KINDS,
    DURATION_BUCKETS,
    OTHER,
    BootVerdict,
    BusyGroup,
    BusyVerdict,
    CollectorRun,
    CollectorTotals,
    ConnectionsVerdict,
    CrashReason,
    Decision,
    Details,
    Distribution,
    ExecutionsVerdict,
    Exemplar,
    Failure,
    Frame,
    Health,
    Ignored,
    Incident,
    IncidentKind,
    Labelled,
    LogEvent,
    Observation,
    OrphanGroup,
    Pair,
    ProcessFacts,
    ProcessVerdict,
    Queue,
    QueuesVerdict,
    Reason,
    Rejection,
    Scope,
    Snapshot,
    StatsdDrop,
    StatsdFact,
    StatsdTraffic,
    StatsdVerdict,
    ThrottlesVerdict,
    ThrottleUse,
    Transport,
    WorkersVerdict,
    label_value,
)

NOW = 1_763_712_000.5
HOSTILE = 'a"b\\c\nd\re\x00f\x7f{g="h"} # EOF é 😀 %s %(x)d\u2028,'


def distribution(bounds: Sequence[float], values: Sequence[float]) -> Distribution:
    counts = [sum(value <= bound for value in values) for bound in bounds]
    return Distribution((*counts, len(values)), float(sum(values)))


def empty(server: str = "faktory", system: str = "faktory", *, taken_at: float = 100.0) -> Snapshot:
    """What is known when the first poll reached nothing."""
    return Snapshot(
        server=server,
        system=system,
        taken_at=taken_at,
        observation=Observation(now=NOW, reached=False),
        boot=BootVerdict(0, None, settled=False),
        connections=ConnectionsVerdict(None, None, 0),
        queues=QueuesVerdict(None, {}),
        busy=BusyVerdict(None, None, {}),
        workers=WorkersVerdict(None, dict.fromkeys(CrashReason, 0), None),
        throttles=ThrottlesVerdict(None),
        collectors=(),
    )


def full(server: str = "faktory", system: str = "faktory", *, size: int = 2, taken_at: float = 100.0) -> Snapshot:
    """A snapshot in which every metric has a value; ``size`` queues, one of a hostile name, each of one job type."""
    names = [HOSTILE, *(f"queue-{number}" for number in range(1, size))]
    pairs = [(name, f"Job{number}") for number, name in enumerate(names)]
    return Snapshot(
        server=server,
        system=system,
        taken_at=taken_at,
        observation=Observation(
            now=NOW,
            reached=True,
            health=Health("1.9.4", "oss", 17, 4321),
            details=Details(NOW - 60, 3600.0, 52_428_800, 3, 1, 2),
            sets={"scheduled": 4, "retries": 3, "dead": 2, "working": 5},
            overdue={"scheduled": 0.0, "retries": 1.25},
            processed=1000,
            failed=10,
            process=ProcessFacts(4711, NOW - 3600.25, 40, 1024, 73_400_320),
            known_risks={"faktory-busy-page": True, "faktory-ent-throttle": False},
        ),
        boot=BootVerdict(1, NOW - 3600, settled=True),
        connections=ConnectionsVerdict(
            17,
            2000,
            6,
            {"10.0.0.1": 12, "fd00::1": 4, OTHER: 1},
            {"established": 15, "close_wait": 2, "listen": 1},
            3,
            128,
        ),
        queues=QueuesVerdict(
            {name: Queue(number + 1, number + 0.25, number % 2 == 1) for number, name in enumerate(names)},
            {"queue": size, "jobtype": size},
            200,
        ),
        busy=BusyVerdict(
            {pair: BusyGroup(number + 1, number + 0.5, 0.125) for number, pair in enumerate(pairs)},
            {name: distribution(AGE_BUCKETS, [0.5, 7, 100_000]) for name in names},
            {pair: distribution(DURATION_BUCKETS, [0.25, 40, 100_000]) for pair in pairs},
        ),
        workers=WorkersVerdict(
            3,
            {CrashReason.VANISHED: 2, CrashReason.HUNG: 1},
            {pair: OrphanGroup(number + 1, 3.5) for number, pair in enumerate(pairs)},
        ),
        throttles=ThrottlesVerdict(
            {
                (names[0], Scope.CLUSTER): ThrottleUse(4, 3, 9, 12.5),
                (names[0], Scope.WORKER): ThrottleUse(5, 5, 9, 0.0),
            }
        ),
        collectors=(
            CollectorTotals(CollectorRun("health", 0.0015), {}),
            CollectorTotals(
                CollectorRun("store", 0.25, Failure(Reason.TIMEOUT, "no answer within 1 s")), {Reason.TIMEOUT: 7}
            ),
        ),
        executions=ExecutionsVerdict(
            (),
            {Decision.TOLD: 3, Decision.LEFT_OUT: 40, Decision.CAPPED: 1},
            {pairs[0]: (exemplar(40, "a1"), exemplar(100_000, "b2"))},
        ),
        statsd=StatsdVerdict(
            age=2.5,
            counts={
                fact: {key: number + 0.5 for number, key in enumerate(keys_of(metric, pairs))}
                for fact, metric in STATSD_FACTS.items()
                if metric.kind is Kind.COUNTER
            },
            distributions={
                fact: {key: distribution(metric.buckets, [0.004, 40, 1e10]) for key in keys_of(metric, pairs)}
                for fact, metric in STATSD_FACTS.items()
                if metric.kind is Kind.HISTOGRAM
            },
            levels={
                fact: {key: number + 0.25 for number, key in enumerate(keys_of(metric, pairs))}
                for fact, metric in STATSD_FACTS.items()
                if metric.kind is Kind.GAUGE
            },
            traffic=StatsdTraffic(
                packets={Transport.UDP: 30, Transport.TCP: 20, Transport.UNIX: 10},
                samples=600,
                rejected={Rejection.VALUE: 3},
                ignored={Ignored.EVENT: 4},
                folded=5,
                dropped={StatsdDrop.KERNEL: 6, StatsdDrop.QUEUE: 0, StatsdDrop.RELAY: 7},
                relayed=58,
            ),
        ),
        process=ProcessVerdict(
            crashes={kind: number for number, kind in enumerate(CRASH_KINDS)},
            races=3,
            recovered=4,
            events={event: number + 1 for number, event in enumerate(LogEvent)},
            incidents=(
                incident(IncidentKind.CONCURRENT_MAP, at=NOW - 90),
                incident(IncidentKind.DATA_RACE, at=NOW - 60),
                incident(IncidentKind.CONCURRENT_MAP, at=NOW - 30, known="faktory-busy-page"),
                msgspec.structs.replace(incident(IncidentKind.KILLED, at=NOW - 20), frames=()),
            ),
            read_bytes=123_456,
            unread_bytes=789,
            last_at=NOW - 1.5,
        ),
    )


def incident(kind: IncidentKind, *, at: float, known: str | None = None) -> Incident:
    """What befell the server at this time."""
    frames = (Frame("github.com/contribsys/faktory/webui.busyWorkers", "/build/webui/helpers.go", 227),)
    return Incident(kind, "concurrent map writes", at, frames, {"running": 1}, {}, "0123456789ab", known)


def keys_of(metric: Metric, pairs: Sequence[Pair]) -> list[Labelled]:
    """Label values for what is told by StatsD: of each of ``pairs`` as many as the metric has labels."""
    return list(dict.fromkeys(pair[: len(metric.labels)] for pair in pairs))


def exemplar(value: float, trace: str, *, at: float = NOW - 5) -> tuple[int, Exemplar]:
    """One execution of ``value`` seconds, with the index of its bucket; ``trace`` is the start of its trace's id."""
    return bisect_left(DURATION_BUCKETS, value), Exemplar(trace.ljust(32, "0"), "c" * 16, value, at)


def pushes() -> list[Column]:
    """What the sidecar tells of its pushes: a series of each metric."""
    return [
        (CONFIG_SUCCESSFUL, [("settings",), ("web",)], [1, 0]),
        (CONFIG_SUCCESS_TIME, [()], [12.5]),
        (OTLP_ITEMS, [("traces", "sent"), ("metrics", "dropped")], [5, 6]),
        (OTLP_FAILURES, [("traces", Reason.TIMEOUT.value)], [7]),
        (OTLP_WAITING, [()], [8]),
        (STATSD_PUSHED, [("sent",), ("refused",)], [9, 10]),
        (STATSD_PUSH_FAILURES, [(Reason.UNREACHABLE.value,)], [11]),
    ]


names = st.one_of(
    st.text(max_size=20),
    st.text(alphabet='"\\\n\r{}=,# %ab', max_size=20),
    st.sampled_from([HOSTILE, "x" * 200, "\ud800", "", "\n", "\\", "\\n", '"', "NaN", "# EOF"]),
).map(label_value)
counts = st.integers(0, 2**63)
seconds = st.floats(0, 1e9) | st.floats(allow_nan=True, allow_infinity=True)
pairs = st.tuples(names, names)


@st.composite
def distributions(draw: st.DrawFn, bounds: Sequence[float]) -> Distribution:
    values = draw(st.lists(st.floats(0, 1e6), max_size=4))
    return distribution(bounds, values)


ids = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")


@st.composite
def exemplars(draw: st.DrawFn) -> tuple[tuple[int, Exemplar], ...]:
    trace_ids = st.tuples(ids, ids).map("".join)
    found = draw(st.lists(st.builds(Exemplar, trace_ids, ids, st.floats(0, 1e6), st.floats(0, 4e9)), max_size=4))
    return tuple({bisect_left(DURATION_BUCKETS, it.value): it for it in found}.items())


@st.composite
def executions(draw: st.DrawFn, durations: Sequence[Pair]) -> ExecutionsVerdict:
    told = pairs if not durations else st.sampled_from(durations) | pairs
    return ExecutionsVerdict(
        (),
        draw(st.dictionaries(st.sampled_from(Decision), counts)),
        draw(st.dictionaries(told, exemplars(), max_size=3)),
    )


@st.composite
def statsd(draw: st.DrawFn) -> StatsdVerdict:
    """Any verdict: numbers that no server should tell, and label values of any text."""
    values = st.floats(0, 1e9) | st.floats(allow_nan=True, allow_infinity=True)

    def series(fact: StatsdFact) -> st.SearchStrategy[dict[Labelled, float]]:
        return st.dictionaries(st.tuples(*[names] * len(STATSD_FACTS[fact].labels)), values, max_size=3)

    def some(kind: Kind) -> list[StatsdFact]:
        facts = [fact for fact, metric in STATSD_FACTS.items() if metric.kind is kind]
        return draw(st.lists(st.sampled_from(facts), max_size=2, unique=True))

    return StatsdVerdict(
        age=draw(st.none() | seconds),
        counts={fact: draw(series(fact)) for fact in some(Kind.COUNTER)},
        distributions={
            fact: draw(st.dictionaries(pairs, distributions(STATSD_FACTS[fact].buckets), max_size=2))
            for fact in some(Kind.HISTOGRAM)
        },
        levels={fact: draw(series(fact)) for fact in some(Kind.GAUGE)},
        traffic=StatsdTraffic(
            packets=draw(st.dictionaries(st.sampled_from(Transport), counts, max_size=2)),
            samples=(number := draw(counts)),
            rejected={Rejection.NAME: number},
            ignored={Ignored.CHECK: number},
            folded=number,
            dropped={StatsdDrop.KERNEL: draw(st.none() | counts), StatsdDrop.RELAY: number},
            relayed=number,
        ),
    )


@st.composite
def processes(draw: st.DrawFn) -> ProcessVerdict:
    """Any verdict, of incidents with any names."""
    frames = st.builds(Frame, st.text(max_size=20), st.none() | st.text(max_size=20), st.none() | st.integers(0, 9999))
    incidents = st.builds(
        Incident,
        st.sampled_from(IncidentKind),
        st.text(max_size=20),
        st.none() | seconds,
        st.lists(frames, max_size=2).map(tuple),
        known=st.none() | st.sampled_from(["faktory-busy-page", "franz-go-load-errors"]),
    )
    return ProcessVerdict(
        crashes=draw(st.dictionaries(st.sampled_from(CRASH_KINDS), counts, max_size=3)),
        races=draw(counts),
        recovered=draw(counts),
        events=draw(st.dictionaries(st.sampled_from(LogEvent), counts, max_size=3)),
        incidents=tuple(draw(st.lists(incidents, max_size=4))),
        read_bytes=draw(counts),
        unread_bytes=draw(st.none() | counts),
        last_at=draw(st.none() | seconds),
    )


@st.composite
def snapshots(draw: st.DrawFn, server: str = "faktory", system: str = "faktory") -> Snapshot:
    """Any snapshot that signals could make, and numbers that arithmetic should not have made."""
    some = st.none() | counts
    details = st.builds(
        Details,
        asked_at=st.floats(NOW - 300, NOW),
        memory_bytes=some,
        workers=some,
        reservations_expired=some,
    )
    queues = st.dictionaries(names, st.builds(Queue, some, st.none() | seconds, st.none() | st.booleans()), max_size=4)
    groups = st.builds(BusyGroup, counts, st.none() | seconds, st.none() | seconds)
    uses = st.builds(ThrottleUse, st.integers(0, 100), st.none() | st.integers(0, 200), some, seconds)
    failures = st.none() | st.builds(Failure, st.sampled_from(Reason), st.text(max_size=5))
    collectors = draw(st.lists(st.sampled_from(["health", "store", "details"]), unique=True))
    durations = draw(st.dictionaries(pairs, distributions(DURATION_BUCKETS), max_size=3))
    return Snapshot(
        server=server,
        system=system,
        taken_at=draw(st.floats(0, 1e6)),
        observation=Observation(
            now=NOW,
            reached=draw(st.booleans()),
            health=draw(st.none() | st.builds(Health, st.text(max_size=9), st.text(max_size=9), counts, counts)),
            details=draw(st.none() | details),
            sets=draw(st.none() | st.dictionaries(st.sampled_from(["scheduled", "dead"]), counts)),
            overdue=draw(st.none() | st.dictionaries(st.sampled_from(["scheduled", "retries"]), seconds)),
            processed=draw(some),
            failed=draw(some),
            process=draw(st.none() | st.builds(ProcessFacts, counts, st.none() | seconds, some, some, some)),
            known_risks=draw(st.none() | st.dictionaries(st.sampled_from(["a", "b"]), st.booleans())),
        ),
        boot=BootVerdict(draw(counts), draw(st.none() | seconds), settled=True),
        connections=ConnectionsVerdict(
            draw(some),
            draw(some),
            draw(counts),
            draw(st.none() | st.dictionaries(names, counts, max_size=3)),
            draw(st.none() | st.dictionaries(st.sampled_from(["established", "close_wait"]), counts)),
            draw(some),
            draw(some),
        ),
        queues=QueuesVerdict(
            draw(st.none() | queues),
            draw(st.dictionaries(st.sampled_from(["queue", "jobtype"]), counts)),
            draw(st.none() | st.integers(1, 10_000)),
        ),
        busy=BusyVerdict(
            draw(st.none() | st.dictionaries(pairs, groups, max_size=4)),
            draw(st.none() | st.dictionaries(names, distributions(AGE_BUCKETS), max_size=3)),
            durations,
        ),
        workers=WorkersVerdict(
            draw(some),
            draw(st.fixed_dictionaries(dict.fromkeys(CrashReason, counts))),
            draw(st.none() | st.dictionaries(pairs, st.builds(OrphanGroup, counts, st.none() | seconds), max_size=3)),
        ),
        throttles=ThrottlesVerdict(
            draw(st.none() | st.dictionaries(st.tuples(names, st.sampled_from(Scope)), uses, max_size=3))
        ),
        collectors=tuple(
            CollectorTotals(
                CollectorRun(name, draw(seconds), draw(failures)),
                draw(st.dictionaries(st.sampled_from(Reason), counts, max_size=3)),
            )
            for name in collectors
        ),
        executions=draw(st.none() | executions(list(durations))),
        statsd=draw(st.none() | statsd()),
        process=draw(st.none() | processes()),
    )
