"""Whenever a worker goes between two polls, whatever the interval: a crash is told soon, and a clean exit never is."""

from __future__ import annotations

from math import ceil

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from exporter.signals import Signals
from exporter.signals.workers import GRACE, LINGERS, LIVELY, REAPER, REAPER_TAKES, SILENCE
from tests.simulated import FETCH_TAKES, SimServer, SimWatch, settled

INTERVALS = st.sampled_from([1.0, 2.0, 5.0, 10.0, 15.0, 30.0]) | st.floats(1.0, 30.0)
IDLE = st.lists(st.floats(0.0, FETCH_TAKES), max_size=4)
"""For how long each idle slot of a worker that goes still waits in a FETCH."""

CLEAN = GRACE - 0.3
"""Seconds that a clean exit may take: below the grace by more than polls may be early."""


class Phased(SimWatch):
    """Polls at every interval, whatever happens between two polls."""

    def __init__(self, server: SimServer, signals: Signals, interval: float) -> None:
        super().__init__(server, signals, interval)
        self.due = server.now + interval

    @classmethod
    def beside(cls, interval: float, **connections: int) -> Phased:
        """Return the watch of a server that has run for an hour, with workers that have just taken a job each."""
        first = settled((), interval)
        self = cls(first.server, first.signals, interval)
        self.details, self.interrupted = first.details, False
        for wid, count in connections.items():
            self.server.worker(wid, count)
        self.poll()
        for wid in connections:
            self.server.fetch(wid)
        return self

    def wait(self, seconds: float) -> None:
        """Let time pass: the next poll is due one interval after the last."""
        end = self.server.now + seconds
        while self.due <= end:
            self.to_next_poll()
        self.server.run(end - self.server.now)

    def to_next_poll(self) -> None:
        self.server.run(self.due - self.server.now)
        self.poll()
        self.due += self.interval

    def orphaned(self) -> int:
        return sum(group.jobs for group in (self.verdicts[-1].workers.orphans or {}).values())


def polls_until_told(interval: float, waits: float) -> int:
    """Return after how many polls a crash is told: one sees the drop, one asks so much later, one after the grace."""
    return 1 + ceil(waits / interval + 1e-3) + ceil(GRACE / interval + 1e-3)


@settings(max_examples=600, deadline=None)
@example(interval=5.0, held_for=10.0 + 4.9, idle=[2.0], besides=1, handed=None)
@example(interval=1.0, held_for=10.0 - 0.05, idle=[2.09], besides=1, handed=None)
@example(interval=5.0, held_for=SILENCE + 4.9, idle=[1.9], besides=1, handed=None)
@given(
    interval=INTERVALS,
    held_for=st.floats(0.0, SILENCE + 4.9),
    idle=IDLE,
    besides=st.integers(0, 2),
    handed=st.none() | st.floats(0.0, 1.0),
)
def test_a_worker_killed_at_any_phase_with_idle_slots_is_told_within_a_few_polls(
    interval: float, held_for: float, idle: list[float], besides: int, handed: float | None
) -> None:
    watch = Phased.beside(interval, victim=max(1, len(idle) + besides), other=2, another=3)
    server = watch.server
    watch.wait(held_for)
    server.kill("victim", *idle)
    lived, jobs = server.now - held_for, 1
    if idle and handed is not None:
        watch.wait(handed * min(idle))
        if "victim" in server.registered:  # the server hands a job to one that has gone
            server.fetch("victim")
            lived, jobs = server.now, 2
    elif idle and not besides:
        watch.wait(min(idle))  # the server sees no connection close before
    assume("victim" not in server.renewed)  # silent for so long that it was asked after before any drop
    silent = server.now + FETCH_TAKES + interval - lived >= LIVELY  # it may have been given up as hung
    waits = FETCH_TAKES + interval + REAPER + REAPER_TAKES if silent else LINGERS
    for _ in range(polls_until_told(interval, waits)):
        watch.to_next_poll()
    assert watch.orphaned() == jobs
    watch.wait(2 * SILENCE)
    assert watch.told() == ["victim"]
    assert server.asked_too_soon == []


@settings(max_examples=600, deadline=None)
@given(
    interval=INTERVALS,
    held_for=st.floats(0.0, 30.0),
    idle=IDLE,
    others_leave=st.lists(st.floats(0.0, 8.0), max_size=4),
    goes_at=st.floats(0.0, 8.0),
    takes=st.floats(0.0, CLEAN),
    comes_back=st.booleans(),
)
def test_a_worker_that_goes_cleanly_or_comes_back_while_others_leave_is_no_crash(
    interval: float,
    held_for: float,
    idle: list[float],
    others_leave: list[float],
    goes_at: float,
    takes: float,
    comes_back: bool,
) -> None:
    watch = Phased.beside(interval, one=max(1, len(idle)), other=2)
    server = watch.server
    server.producers = len(others_leave)
    watch.wait(held_for)
    began, away = server.now, server.workers["one"]

    def leave() -> None:
        server.producers -= 1

    def go() -> None:
        if comes_back:
            del server.registered["one"]
        else:
            server.kill("one", *idle)

    def end() -> None:
        if comes_back:
            server.registered["one"] = away
        else:
            for jid in [jid for jid, it in server.working.items() if it.worker == "one"]:
                server.finish(jid)

    happens = [*((at, leave) for at in others_leave), (goes_at, go), (goes_at + takes, end)]
    for at, event in sorted(happens, key=lambda it: it[0]):
        watch.wait(began + at - server.now)
        event()
    watch.wait(2 * SILENCE)
    assert watch.crashes() == {}
    assert server.asked_too_soon == []
