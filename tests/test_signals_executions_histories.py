"""Whatever happens to jobs, workers, the server and Forewarn: each execution is decided once, and never wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model import (
    Choice,
    Decision,
    Ended,
    Execution,
    JobFacts,
    JobFailure,
    Orphaned,
    Outcome,
    Told,
    WorkerCrash,
)
from exporter.signals import Memory, Signals, Verdicts
from exporter.trace_ids import process_span
from tests.simulated import EPOCH, RETRIED, Key, SimServer, SimWatch

ALL = Choice(ratio=1.0, per_second=1e6)
SOME = Choice(slow_seconds=20.0, ratio=0.5, per_second=0.5)
WORKERS = 4
EXACT = 0.001


class Poll(msgspec.Struct):
    """One poll that knew the working set."""

    at: float
    failed: int
    withheld: bool
    concluded: bool


class Saved(msgspec.Struct):
    """A state file, and how far the history had come that it belongs to."""

    memory: bytes
    told: int
    seen: frozenset[Key]
    polls: int


class History(SimWatch):
    """A simulated server and the watch of it, by one Forewarn after the other."""

    def __init__(self, choice: Choice, interval: float) -> None:
        server = SimServer(processed=1_000_000)
        server.started = EPOCH - 3600
        self.choice = choice
        self.all_told: list[Told] = []
        self.seen: frozenset[Key] = frozenset()
        self.polls: list[Poll] = []
        self.died: dict[str, float] = {}
        self.flushed: float | None = None
        self.withhold = False
        self.joined = 0
        super().__init__(server, Signals(200, server="jobs", choice=choice), interval)
        self.join(WORKERS)
        self.poll()
        self.saved = self.save()

    # --- what happens -----------------------------------------------------------------------------------------------

    def join(self, workers: int) -> None:
        for _ in range(workers):
            self.server.worker(f"w{self.joined}")
            self.joined += 1

    def kill(self, wid: str) -> None:
        self.server.kill(wid)
        self.died[wid] = self.server.now

    def act(self, action: str, which: int) -> None:
        server = self.server
        living = [wid for wid, it in server.workers.items() if not it.hung]
        wid = living[which % len(living)]
        held = [jid for jid, it in server.working.items() if it.worker in living]
        jid = held[which % len(held)] if held else ""
        free = [jid for jid, it in server.kept.items() if jid not in server.working and server.now - it.at >= RETRIED]
        match action:
            case "fetch":
                server.fetch(wid, reserve_for=60.0 + 40 * (which % 3), job=JobFacts(retry=(25, 25, 0, 1)[which % 4]))
            case "fetch without an id":
                server.fetch("", reserve_for=60.0, job=JobFacts(retry=25))
            case "finish" if jid:
                server.finish(jid)
            case "fail" if jid:
                server.fail(jid)
            case "retry" if free:
                server.retry(free[0], wid, reserve_for=60.0)
            case "push again":
                finished = {each for (each, _), (_, outcome) in server.ended.items() if outcome is Outcome.FINISHED}
                again = sorted(finished - server.working.keys() - server.kept.keys())
                if again:
                    server.fetch(wid, jid=again[which % len(again)], reserve_for=60.0, job=JobFacts(retry=25))
                    # Of two by the same id, of which one was never seen, nobody can tell which one failed.
                    server.run(self.interval)
                    self.poll()
                    self.saved = self.save()
            case "kill" if len(living) > 1:
                self.kill(wid)
            case "hang" if len(living) > 1:
                server.workers[wid].hung = True
            case "join":
                self.join(1)
            case "producers":
                server.producers = which
            case "flush" if self.flushed is None:  # a second one could not be told from the totals
                self.flushed = server.now
                server.flush()
            case "withhold":
                self.withhold = not self.withhold
            case "blind":
                server.run(self.interval)
                self.poll(redis=False)
            case "sleep":
                server.run(self.interval * which)
            case "save":
                self.saved = self.save()
            case "restart":
                self.restart(self.save())
            case "restart from an old state":
                self.restart(self.saved)
            case "die in a poll":
                server.run(self.interval)
                self.poll(die=True)

    # --- what is seen of it -----------------------------------------------------------------------------------------

    def poll(self, *, redis: bool = True, interrupted: bool = False, die: bool = False) -> Verdicts:
        if redis:
            self.seen |= {(it.jid, it.reserved_at) for it in self.server.working.values()}
            self.polls.append(Poll(self.server.now, self.server.failed, self.withhold, not die))
        verdicts = super().poll(redis=redis, interrupted=interrupted)
        assert verdicts.executions is not None
        if die:
            self.restart(self.within)
        else:
            self.all_told += verdicts.executions.told
        for pair, kept in verdicts.executions.exemplars.items():
            counts = (0, *verdicts.busy.durations[pair].counts)
            counted = [after - before for before, after in pairwise(counts)]
            assert all(counted[bucket] for bucket, _ in kept)
        return verdicts

    def answers(self, ended: Sequence[Ended]) -> Mapping[str, JobFailure | None]:
        self.within = self.save()
        return {} if self.withhold else super().answers(ended)

    def save(self) -> Saved:
        return Saved(msgspec.json.encode(self.signals.memory()), len(self.all_told), self.seen, len(self.polls))

    def restart(self, saved: Saved) -> None:
        """Let a new Forewarn begin. What the old one told after it had saved its state has reached nobody."""
        memory = msgspec.json.decode(saved.memory, type=Memory)
        self.signals = Signals(200, memory, server="jobs", choice=self.choice)
        del self.all_told[saved.told :]
        del self.polls[saved.polls :]
        self.seen = saved.seen
        self.interrupted = True
        self.details = None
        self.saved = saved

    def end(self) -> None:
        """Let all end that can, and be judged."""
        for reservation in list(self.server.working.values()):
            worker = self.server.workers.get(reservation.worker)
            if worker is not None and not worker.hung:
                self.server.finish(reservation.jid)
        self.run(200)
        self.run(2 * self.interval)
        assert not self.server.working

    # --- what is true of it -----------------------------------------------------------------------------------------

    def executions(self) -> list[Execution]:
        return [it for it in self.all_told if isinstance(it, Execution)]

    def may_be_unknown(self, execution: Execution) -> bool:
        """Tell whether it cannot be known how an execution ended."""
        reservation, job = execution.reservation, execution.reservation.job
        number = next(n for n, poll in enumerate(self.polls) if poll.at == execution.ended_at)
        before, left = self.polls[number - 1 : number + 1]
        judged = next(poll for poll in self.polls[number + 1 :] if poll.concluded)
        if self.flushed is not None and before.at <= self.flushed <= judged.at:
            return True
        if judged.failed == before.failed and reservation.expires_at > left.at:
            return False
        again = any(
            jid == reservation.jid and reservation.reserved_at < at <= judged.at
            for jid, at in (*self.server.ended, *((it.jid, it.reserved_at) for it in self.server.working.values()))
        )
        no_trace = job is None or job.retry == 0
        return judged.withheld or again or no_trace or judged.at >= before.at + RETRIED


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *["fetch"] * 6,
                    *["finish", "fail", "retry", "kill"] * 2,
                    *["fetch without an id", "push again", "hang", "join", "producers", "flush", "withhold"],
                    *["blind", "sleep", "save", "restart", "restart from an old state", "die in a poll"],
                ]
            ),
            st.integers(0, 11),
            st.floats(0, 9).map(lambda seconds: round(seconds * 4) / 4),
            st.integers(0, 4),
        ),
        min_size=15,
        max_size=60,
    ),
    interval=st.sampled_from([1.0, 5.0, 10.0, 60.0]),
    choice=st.sampled_from([ALL, SOME]),
)
def test_each_execution_is_decided_once_and_never_wrongly(
    steps: list[tuple[str, int, float, int]], interval: float, choice: Choice
) -> None:
    history = History(choice, interval)
    for action, which, seconds, polls in steps:
        history.act(action, which)
        history.server.run(seconds)
        history.run(polls * interval)
    history.end()
    history.died |= history.server.reaped_at
    told = history.executions()

    # Each that was seen is decided once, over all runs.
    keys = [(it.reservation.jid, it.reservation.reserved_at) for it in told]
    assert len({process_span("jobs", *key) for key in keys}) == len(keys)
    assert history.seen >= set(keys)
    verdict = history.verdicts[-1].executions
    assert verdict is not None
    assert verdict.decisions[Decision.TOLD] == len(told)
    assert sum(verdict.decisions.values()) == len(history.seen)
    if choice is ALL:
        assert set(keys) == history.seen

    # None is told wrongly: neither how it ended nor when.
    for it in told:
        ended_at, outcome = history.server.ended[it.reservation.jid, it.reservation.reserved_at]
        if it.outcome is Outcome.CRASHED:
            died = history.died[it.reservation.worker]
            assert died <= ended_at
            ended_at = died
        elif it.outcome is None:
            assert history.may_be_unknown(it)
        else:
            assert it.outcome is outcome
        assert it.ended_at - it.uncertainty - EXACT <= ended_at <= it.ended_at + EXACT

    # What a crash left behind is told when it leaves, and nothing else is.
    stays = [it for it in history.all_told if isinstance(it, Orphaned)]
    crashed = [key for key, it in zip(keys, told, strict=True) if it.outcome is Outcome.CRASHED]
    assert Counter((it.reservation.jid, it.reservation.reserved_at) for it in stays) == Counter(crashed)
    for stay in stays:
        left_at, _ = history.server.ended[stay.reservation.jid, stay.reservation.reserved_at]
        assert stay.until - stay.uncertainty - EXACT <= left_at <= stay.until + EXACT
    for each in history.all_told:
        if isinstance(each, WorkerCrash):
            assert each.lived_at - EXACT <= history.died[each.worker] <= each.gone_at + EXACT
