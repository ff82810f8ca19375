"""Why the server's process died, over any history: what is counted is exactly what happened."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exporter.model import (
    CollectorRun,
    Exited,
    Failure,
    Health,
    Incident,
    IncidentKind,
    LogEntry,
    LogEvent,
    LogFacts,
    Noticed,
    Observation,
    Position,
    ProcessFacts,
    ProcessVerdict,
    Reason,
)
from exporter.signals import Memory
from exporter.signals.boot import BootSignal
from exporter.signals.process import ProcessSignal

EPOCH = 1_700_000_000.0
EVERY = 5.0
POSITIONS = (Position("/var/log/faktory.log", 1, 2, 3, "ab", 3),)

CRASH, KILL, STOP, RACE, SURVIVED = "crash", "kill", "stop", "race", "survived"
DEATHS = (CRASH, KILL, STOP)

REMEMBERED = 4
"""Polls since the state file was written, when Forewarn is killed."""

SURVIVES = 500.0
"""Seconds for which a process lives on that survived what it printed: longer than anything is waited for."""

SETTLED = 200.0
"""Seconds of a life before it prints something that it survives. What comes with its start in one poll may be of the
life before it: of two files that are read at once, nobody knows the order."""


@dataclass(frozen=True)
class Event:
    """``what`` happens ``gap`` seconds after what was before; a death is followed by ``down`` seconds of nothing."""

    what: str
    gap: float
    down: float = 1.0


@dataclass(frozen=True)
class Ways:
    """In which ways what happens shows."""

    starts: bool = True
    """The log tells starts and stops."""
    exits: bool = False
    """The parent tells how the process exits."""
    pids: bool = False
    """The process can be seen."""
    stamped: bool = True
    """The log has timestamps."""
    lag: float = 0.0
    """Seconds by which the log lags behind."""
    known: bool = True
    """It is known that it does."""
    late: float = 0.0
    """Seconds by which the log is read later than the rest, in one poll."""


@dataclass(frozen=True)
class Trouble:
    """What befalls one poll."""

    poll: int
    what: str
    """``hangs``, ``unread``; of Forewarn itself ``restarted``, or ``killed``: it knows what it knew a while ago."""
    away: int = 0
    """Polls that are missed."""


@dataclass
class World:
    """What happened: lives of the process, and what it printed."""

    ways: Ways
    lives: list[tuple[float, float]] = field(default_factory=list)
    log: list[tuple[float, LogEntry]] = field(default_factory=list)
    counts: Counter[IncidentKind] = field(default_factory=Counter)
    end: float = 0.0

    def happen(self, events: Sequence[Event]) -> None:
        born, now = -3600.0, 20.0
        survives_until = 0.0
        for event in events:
            now += event.gap
            if event.what in DEATHS:
                now = max(now, survives_until)
                self._die(event.what, now)
                self.lives.append((born, now))
                now += event.down
                born = now
                if self.ways.starts:
                    self.log.append((now, Noticed(LogEvent.STARTED, EPOCH + now, len(self.lives))))
            elif event.what == RACE:
                self._print(now, IncidentKind.DATA_RACE)
                self.counts[IncidentKind.DATA_RACE] += 1
            else:
                now = max(now, born + SETTLED)
                self._print(now, IncidentKind.PANIC)
                self.counts[IncidentKind.RECOVERED_PANIC] += 1
                survives_until = now + SURVIVES
        self.lives.append((born, float("inf")))
        self.end = now + SURVIVES

    def _die(self, how: str, now: float) -> None:
        if how == CRASH:
            self._print(now, IncidentKind.CONCURRENT_MAP)
            self.counts[IncidentKind.CONCURRENT_MAP] += 1
        elif how == KILL:
            self.counts[IncidentKind.KILLED if self.ways.exits else IncidentKind.UNEXPLAINED] += 1
        elif self.ways.starts:
            self.log.append((now - 0.1, Noticed(LogEvent.STOPPING, EPOCH + now - 0.1)))
        elif not self.ways.exits:
            self.counts[IncidentKind.UNEXPLAINED] += 1  # nothing told that it was asked for
        if self.ways.exits:
            signal = 9 if how == KILL else None
            status = {CRASH: 2, STOP: 0}.get(how)
            self.log.append((now, Exited(EPOCH + now, status, signal)))

    def _print(self, now: float, kind: IncidentKind) -> None:
        at = EPOCH + now if self.ways.stamped else None
        self.log.append((now, Incident(kind, "told", at, group="0123456789ab")))

    def life(self, now: float) -> int:
        return sum(died <= now for _, died in self.lives)


class Watching:
    """Forewarn, poll by poll."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.times = [at for at, _ in world.log]
        self.read = 0
        self.start(Memory())

    def start(self, memory: Memory) -> None:
        memory = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)
        self.boot, self.signal = BootSignal(memory.boot), ProcessSignal(memory.process)
        self.reached_life: int | None = None

    def memory(self) -> Memory:
        return Memory(boot=self.boot.memory(), process=self.signal.memory())

    def poll(self, now: float, *, hangs: bool = False, unread: bool = False) -> ProcessVerdict | None:
        world = self.world
        life = world.life(now)
        born = world.lives[life][0]
        lives = born <= now
        reached = lives and not hangs
        failure = None if reached else Failure(Reason.TIMEOUT if hangs else Reason.UNREACHABLE, "told")
        until = bisect_right(self.times, now - world.ways.lag + world.ways.late)
        log = None
        if not unread:
            entries = tuple(entry for _, entry in world.log[self.read : until])
            more = world.ways.known and bisect_right(self.times, now) > until
            log, self.read = LogFacts(entries, positions=POSITIONS, reading=more), max(until, self.read)
        observation = Observation(
            now=EPOCH + now,
            reached=reached,
            runs=(CollectorRun("health", 0.01, failure),),
            interrupted=reached and self.reached_life != life,
            health=Health("1.10.0", "oss", 1, 10**9 - 10**6 * life + int(now - born)) if reached else None,
            process=ProcessFacts(100 + life, EPOCH + born) if world.ways.pids and lives else None,
            log=log,
        )
        self.reached_life = life if reached else None
        return self.signal.advance(observation, self.boot.advance(observation))


def counted(verdict: ProcessVerdict | None) -> Counter[IncidentKind]:
    assert verdict is not None
    its = {
        **verdict.crashes,
        IncidentKind.DATA_RACE: verdict.races,
        IncidentKind.RECOVERED_PANIC: verdict.recovered,
    }
    return Counter({kind: count for kind, count in its.items() if count})


def told(events: Sequence[Event], ways: Ways, troubles: Sequence[Trouble] = ()) -> tuple[Counter[IncidentKind], World]:
    """Return what is counted in the end, and what happened."""
    world = World(ways)
    world.happen(events)
    watching = Watching(world)
    known: deque[tuple[Memory, int]] = deque(maxlen=REMEMBERED)
    befalls = {trouble.poll: trouble for trouble in troubles}
    verdict: ProcessVerdict | None = None
    now, number = 0.0, 0
    while now < world.end:
        trouble = befalls.get(number)
        what = None if trouble is None else trouble.what
        if trouble is not None and what in {"restarted", "killed"}:
            memory, read = known[-1 if what == "restarted" else 0]
            watching.start(memory)
            watching.read = read
            known = deque([(memory, read)], REMEMBERED)
            # Without starts in the log polls are all that parts two deaths.
            now += EVERY * trouble.away * ways.starts
        verdict = watching.poll(now, hangs=what == "hangs", unread=what == "unread")
        if befalls:
            known.append((watching.memory(), watching.read))
        number += 1
        now += EVERY
    return counted(verdict), world


GAPS = st.floats(0.3, 4.0) | st.floats(4.0, 40.0) | st.floats(60.0, 200.0)
DOWNS = st.floats(0.2, 2.0) | st.floats(2.0, 30.0) | st.floats(60.0, 200.0)
TROUBLES = st.builds(
    Trouble, st.integers(3, 80), st.sampled_from(["hangs", "unread", "restarted", "killed"]), st.integers(0, 20)
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Event], Ways]:
    starts = draw(st.booleans())
    ways = Ways(
        starts=starts,
        exits=draw(st.booleans()),
        pids=draw(st.booleans()),
        stamped=not starts or draw(st.booleans()),  # else nothing parts what is read at once
        lag=draw(st.sampled_from([0.0, 0.0, 1.0, 7.0, 12.0])),
        known=draw(st.booleans()),
        late=draw(st.sampled_from([0.0, 0.4])),
    )
    # Without a word of the log that parts them, deaths are known apart by polls in between.
    gaps = GAPS if ways.starts else st.floats(60.0, 200.0)
    event = st.builds(Event, st.sampled_from([CRASH, CRASH, KILL, STOP, RACE, SURVIVED]), gaps, DOWNS)
    return draw(st.lists(event, max_size=8)), ways


@given(histories())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(([Event(CRASH, 0.3, 0.2)] * 12, Ways()))
@example(([Event(KILL, 1.0, 0.2)] * 12, Ways()))
def test_what_is_counted_is_what_happened(history: tuple[list[Event], Ways]) -> None:
    counts, world = told(*history)
    assert counts == world.counts


@given(histories(), st.lists(TROUBLES, max_size=6))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_is_the_same_where_polls_fail_and_forewarn_itself_is_killed(
    history: tuple[list[Event], Ways], troubles: list[Trouble]
) -> None:
    counts, world = told(*history, troubles)
    assert counts == world.counts
