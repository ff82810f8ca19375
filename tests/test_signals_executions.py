"""How executions are judged that left the working set, and which of them are told."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import msgspec
import pytest

from exporter.model import (
    DURATION_BUCKETS,
    BootVerdict,
    Choice,
    Crash,
    CrashReason,
    Decision,
    Ended,
    Execution,
    ExecutionsVerdict,
    Exemplar,
    JobFacts,
    JobFailure,
    Observation,
    Orphaned,
    Outcome,
    Reservation,
    Restart,
    Told,
    WorkerCrash,
)
from exporter.signals import Memory, Signals, Verdicts
from exporter.signals.changes import changes
from exporter.signals.executions import BURST, LINKED, REMEMBERED, ExecutionsMemory, ExecutionsSignal
from exporter.signals.exemplars import PAIRS
from exporter.signals.labels import IDLE, Labels
from exporter.signals.outcomes import SLACK
from exporter.trace_ids import job_trace, process_span
from tests.simulated import settled

NOW = 1_700_000_000.0
ALL = Choice(ratio=1.0, per_second=1e6)
NONE = Choice(ratio=0.0, per_second=1e6)
FAILED = JobFailure("IOError", "no route")
EXPIRED = JobFailure("ReservationExpired", "too late", expired=True)


def job(
    jid: str,
    at: float = 0.0,
    reserve_for: float = 1800.0,
    *,
    worker: str = "w",
    failures: int | None = 0,
    traceparent: str | None = None,
    jobtype: str = "T",
) -> Reservation:
    """Return a reservation made ``at`` seconds after the epoch of the tests."""
    facts = None if failures is None else JobFacts(failures=failures, retry=25, traceparent=traceparent)
    return Reservation(jid, worker, "q", jobtype, NOW + at, NOW + at + reserve_for, facts)


def crash(worker: str, lived_at: float, gone_at: float, found_at: float, *orphans: Reservation) -> Crash:
    return Crash(worker, CrashReason.VANISHED, NOW + found_at, orphans, NOW + lived_at, NOW + gone_at)


class Story:
    """Feeds the signal poll by poll. The totals rise as they do where nobody removes anything, unless told."""

    def __init__(self, choice: Choice = ALL, memory: ExecutionsMemory | None = None) -> None:
        self.choice = choice
        self.signal = ExecutionsSignal("jobs", choice, memory)
        self.known: Mapping[str, Reservation] = {}
        self.known_at: float | None = None
        self.processed = 0
        self.asked: tuple[str, ...] = ()
        self.told: list[Told] = []
        self.verdict = ExecutionsVerdict((), {}, {})

    def poll(
        self,
        at: float,
        *jobs: Reservation,
        failed: int | None = 0,
        processed: int | None = -1,
        answers: Mapping[str, JobFailure | None] | None = None,
        crashes: Sequence[Crash] = (),
        boot: BootVerdict | None = None,
        reached: bool = True,
        known: bool = True,
        dead: Container[str] = (),
    ) -> tuple[Told, ...]:
        """Take in one observation ``at`` seconds after the epoch and its answers, and return what is told then."""
        self.receive(at, *jobs, failed=failed, processed=processed, reached=reached, known=known, dead=dead)
        self.verdict = self.signal.conclude(
            self.observation,
            answers or {},
            crashes,
            boot or BootVerdict(0, None, settled=True),
            {("q", "T"), ("q", "U")},
        )
        self.told += self.verdict.told
        return self.verdict.told

    def receive(
        self,
        at: float,
        *jobs: Reservation,
        failed: int | None = 0,
        processed: int | None = -1,
        reached: bool = True,
        known: bool = True,
        dead: Container[str] = (),
    ) -> tuple[Ended, ...]:
        """Take in one observation, and leave the poll at that."""
        reservations = {it.jid: it for it in jobs} if known else None
        moved = None
        if reservations is not None:
            since = NOW + at if self.known_at is None else self.known_at
            moved = changes(self.known, since, reservations, NOW + at)
            self.known, self.known_at = reservations, NOW + at
        self.processed += 100_000
        self.observation = Observation(
            now=NOW + at,
            reached=reached,
            reservations=reservations,
            processed=self.processed if processed == -1 else processed,
            failed=failed if known else None,
        )
        ended = self.signal.receive(self.observation, moved, Labels(10), dead)
        self.asked = tuple(it.reservation.jid for it in ended)
        return ended

    def restarted(self) -> Story:
        """Return the story as a new Forewarn sees it that has read the state file of this one."""
        memory = msgspec.json.decode(msgspec.json.encode(self.signal.memory()), type=ExecutionsMemory)
        story = Story(self.choice, memory)
        story.processed = self.processed
        return story


def executions(told: Sequence[Told]) -> list[tuple[str, Outcome | None]]:
    return [(it.reservation.jid, it.outcome) for it in told if isinstance(it, Execution)]


def one(told: Sequence[Told]) -> Execution:
    (execution,) = (it for it in told if isinstance(it, Execution))
    return execution


# --- how they ended ---------------------------------------------------------------------------------------------------


def test_one_that_left_is_judged_at_the_next_poll() -> None:
    story = Story()
    story.poll(0, job("a"))
    assert story.poll(5) == ()
    assert executions(story.poll(10)) == [("a", Outcome.FINISHED)]
    assert story.poll(15) == ()


def test_where_no_failure_was_counted_they_finished_and_nobody_is_asked() -> None:
    story = Story()
    story.poll(0, job("a"), failed=7)
    story.poll(5, failed=7)
    assert executions(story.poll(10, failed=7)) == [("a", Outcome.FINISHED)]
    assert story.asked == ()


@pytest.mark.parametrize("counted", [(7, 8, 8), (7, 7, 8)], ids=["at once", "only after the poll that missed it"])
def test_where_a_failure_was_counted_since_before_it_left_the_source_is_asked(counted: tuple[int, int, int]) -> None:
    story = Story()
    story.poll(0, job("a"), failed=counted[0])
    story.poll(5, failed=counted[1])
    told = one(story.poll(10, failed=counted[2], answers={"a": FAILED}))
    assert story.asked == ("a",)
    assert (told.outcome, told.error_type, told.error, told.dead) == (Outcome.FAILED, "IOError", "no route", False)


def test_a_failure_counted_before_the_last_poll_that_knew_it_is_not_its_own() -> None:
    story = Story()
    story.poll(0, job("a"), failed=7)
    story.poll(5, job("a"), failed=8)
    story.poll(10, failed=8)
    assert executions(story.poll(15, failed=8)) == [("a", Outcome.FINISHED)]
    assert story.asked == ()


def test_one_that_the_source_tells_did_not_fail_has_finished() -> None:
    story = Story()
    story.poll(0, job("a"), job("b"))
    story.poll(5, failed=1)
    told = story.poll(10, failed=1, answers={"a": None, "b": FAILED})
    assert sorted(executions(told)) == [("a", Outcome.FINISHED), ("b", Outcome.FAILED)]


def test_one_that_the_source_tells_nothing_of_is_unknown() -> None:
    story = Story()
    story.poll(0, job("a"))
    story.poll(5, failed=1)
    assert executions(story.poll(10, failed=1)) == [("a", None)]


def test_the_last_attempt_is_told_as_such() -> None:
    story = Story()
    story.poll(0, job("a"))
    story.poll(5, failed=1)
    assert one(story.poll(10, failed=1, answers={"a": JobFailure("E", "m", dead=True)})).dead


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [({"a": EXPIRED}, Outcome.EXPIRED), ({"a": FAILED}, Outcome.FAILED), ({"a": None}, Outcome.FINISHED), ({}, None)],
)
def test_after_one_whose_time_ran_out_the_source_is_asked_whatever_was_counted(
    answers: Mapping[str, JobFailure | None], outcome: Outcome | None
) -> None:
    story = Story()
    story.poll(0, job("a", reserve_for=3))
    story.poll(5)
    assert executions(story.poll(10, answers=answers)) == [("a", outcome)]
    assert story.asked == ("a",)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"failed": 5, "processed": 90}, {"failed": 4, "processed": 91}),
        ({"failed": 0, "processed": 90}, {"failed": 0, "processed": 2}),
        ({"failed": 0, "processed": 0}, {"failed": 0, "processed": 0}),
        ({"failed": None, "processed": None}, {"failed": 5, "processed": 91}),
        ({"failed": 5, "processed": 90}, {"failed": None, "processed": None}),
    ],
    ids=["failed went back", "processed went back", "not processed", "not known before", "not known now"],
)
def test_where_the_totals_cannot_tell_it_is_unknown_and_a_source_that_finds_nothing_proves_nothing(
    before: dict[str, int | None], after: dict[str, int | None]
) -> None:
    story = Story()
    story.poll(0, job("a"), failed=before["failed"], processed=before["processed"])
    story.poll(5, failed=before["failed"], processed=before["processed"])
    told = story.poll(10, failed=after["failed"], processed=after["processed"], answers={"a": None})
    assert executions(told) == [("a", None)]


def test_fewer_processed_than_left_leave_all_of_them_unknown() -> None:
    story = Story()
    story.poll(0, job("a"), job("b"), processed=10)
    story.poll(5, processed=11)
    assert [outcome for _, outcome in executions(story.poll(10, processed=11))] == [None, None]


def test_a_failure_that_is_found_is_told_even_where_the_totals_cannot_tell() -> None:
    story = Story()
    story.poll(0, job("a"), failed=5)
    story.poll(5, failed=1)
    assert executions(story.poll(10, failed=1, answers={"a": FAILED})) == [("a", Outcome.FAILED)]


def test_while_the_working_set_is_unknown_nothing_is_judged_and_the_totals_of_before_count() -> None:
    story = Story()
    story.poll(0, job("a"), job("b"), failed=3)
    story.poll(5, job("b"), failed=3)
    assert story.poll(10, known=False) == ()
    assert executions(story.poll(15, failed=4, answers={"a": FAILED})) == [("a", Outcome.FAILED)]
    last = one(story.poll(20, failed=4, answers={"b": FAILED}))
    assert (last.ended_at - NOW, last.uncertainty) == (15, 10)


def test_one_that_is_back_had_not_ended() -> None:
    story = Story()
    story.poll(0, job("a", reserve_for=3))
    story.poll(5)
    assert story.poll(10, job("a", reserve_for=60)) == ()
    assert story.asked == ()
    story.poll(15)
    assert executions(story.poll(20)) == [("a", Outcome.FINISHED)]


def test_one_whose_entry_changes_while_it_is_held_has_not_ended() -> None:
    story = Story()
    story.poll(0, job("a", jobtype="T"))
    story.poll(5, job("a", jobtype="U"))
    story.poll(10)
    assert executions(story.poll(15)) == [("a", Outcome.FINISHED)]
    assert executions(story.told) == [("a", Outcome.FINISHED)]


# --- jobs that are reserved anew --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "failed", "outcome"),
    [
        (job("a"), job("a", 4, failures=0), 0, Outcome.FINISHED),
        (job("a"), job("a", 4, failures=1), 1, Outcome.FAILED),
        (job("a"), job("a", 4, failures=0), 1, None),
        (job("a", failures=None), job("a", 4, failures=1), 1, None),
        (job("a", reserve_for=3), job("a", 4, failures=1), 1, None),
    ],
    ids=["pushed again", "retried", "pushed again while others fail", "nothing known of it", "failed or expired"],
)
def test_of_one_reserved_anew_the_source_is_not_asked(
    old: Reservation, new: Reservation, failed: int, outcome: Outcome | None
) -> None:
    story = Story()
    story.poll(0, old)
    story.poll(5, new, failed=failed)
    assert executions(story.poll(10, new, failed=failed, answers={"a": EXPIRED})) == [("a", outcome)]
    assert story.asked == ()


def test_two_attempts_of_one_job_that_left_in_two_polls_are_two() -> None:
    story = Story()
    story.poll(0, job("a"))
    story.poll(5, job("a", 4, failures=1), failed=1)
    assert executions(story.poll(10, failed=2)) == [("a", Outcome.FAILED)]
    assert executions(story.poll(15, failed=2, answers={"a": FAILED})) == [("a", Outcome.FAILED)]
    assert [it.reservation.reserved_at - NOW for it in story.told if isinstance(it, Execution)] == [0, 4]


# --- when they ended --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [5.0, 900.0])
def test_the_end_is_that_of_the_poll_that_missed_it_and_uncertain_by_one_poll(step: float) -> None:
    story = Story()
    story.poll(0, job("a"))
    story.poll(step)
    told = one(story.poll(2 * step))
    assert (told.ended_at, told.uncertainty) == (NOW + step, step)


def test_it_did_not_end_before_it_was_reserved() -> None:
    story = Story()
    story.poll(0, job("a", 0.5))
    story.poll(5)
    told = one(story.poll(10))
    assert (told.ended_at, told.uncertainty) == (NOW + 5, 4.5)


@pytest.mark.parametrize(
    ("at", "exact"),
    [(3.25, True), (5 + SLACK, True), (-SLACK, True), (5.1 + SLACK, False), (-0.1 - SLACK, False), (-20, False)],
)
def test_an_end_that_the_source_knows_is_exact_if_it_lies_between_the_polls(at: float, exact: bool) -> None:
    story = Story()
    story.poll(0, job("a", -10))
    story.poll(5, failed=1)
    told = one(story.poll(10, failed=1, answers={"a": JobFailure("E", "m", at=NOW + at)}))
    assert (told.ended_at, told.uncertainty) == ((NOW + at, 0.0) if exact else (NOW + 5, 5.0))


def test_an_end_before_its_reservation_is_of_an_earlier_attempt() -> None:
    story = Story()
    story.poll(0, job("a", 1))
    story.poll(5, failed=1)
    told = one(story.poll(10, failed=1, answers={"a": JobFailure("E", "m", at=NOW + 0.5)}))
    assert (told.ended_at, told.uncertainty) == (NOW + 5, 4.0)


# --- crashed workers --------------------------------------------------------------------------------------------------


def test_what_a_crashed_worker_holds_is_told_at_once_and_how_long_it_stayed_when_it_has_left() -> None:
    story = Story()
    story.poll(0, job("a", -60))
    told = story.poll(20, job("a", -60), crashes=[crash("w", 2, 12, 20, job("a", -60))])
    assert isinstance(told[0], WorkerCrash)
    (execution,) = told[1:]
    assert execution == Execution(
        job("a", -60),
        Outcome.CRASHED,
        ended_at=NOW + 12,
        uncertainty=10.0,
        crash=CrashReason.VANISHED,
        found_at=NOW + 20,
    )
    assert story.poll(25, job("a", -60)) == ()
    assert story.poll(1800, failed=1) == ()
    assert story.poll(1805, failed=1) == (
        Orphaned(job("a", -60), since=NOW + 12, until=NOW + 1800, uncertainty=1775.0),
    )
    assert story.asked == ()


def test_one_reserved_after_its_worker_was_last_known_to_live_crashed_after_that() -> None:
    story = Story()
    held = job("a", 8)
    assert one(story.poll(20, held, crashes=[crash("w", 2, 12, 20, held)])).uncertainty == 4.0


def test_a_worker_found_to_have_crashed_twice_crashed_its_job_once() -> None:
    story = Story()
    held, later = job("a"), job("b", 25)
    story.poll(20, held, crashes=[crash("w", 2, 12, 20, held)])
    told = story.poll(60, held, later, crashes=[crash("w", 30, 40, 60, held, later)])
    assert executions(told) == [("b", Outcome.CRASHED)]


def test_an_orphan_whose_reservation_is_extended_stays_one() -> None:
    story = Story()
    story.poll(20, job("a"), crashes=[crash("w", 2, 12, 20, job("a"))])
    story.poll(25)
    assert story.poll(30, job("a")) == ()
    story.poll(35)
    assert [type(it) for it in story.poll(40)] == [Orphaned]


def test_an_orphan_that_had_left_by_the_time_its_workers_crash_was_found_has_crashed() -> None:
    due, leaving, held = job("a"), job("b"), job("c")
    story = Story()
    story.poll(10, due, leaving, held)
    story.poll(15, leaving, held, failed=1)
    told = story.poll(20, held, failed=2, crashes=[crash("w", 2, 9, 20, held)], answers={"a": EXPIRED})
    assert sorted(executions(told)) == [(jid, Outcome.CRASHED) for jid in "abc"]
    assert [it for it in told if isinstance(it, Orphaned)] == [Orphaned(due, NOW + 9, NOW + 15, uncertainty=5.0)]
    assert {it.jid for it in story.signal.memory().orphans} == {"b", "c"}
    assert story.poll(25, held, failed=2) == (Orphaned(leaving, NOW + 9, NOW + 20, uncertainty=5.0),)
    assert story.poll(30, held, failed=2) == ()


def test_those_that_may_have_left_before_their_worker_went_are_judged_like_any_other() -> None:
    due, leaving, held = job("a"), job("b"), job("c")
    story = Story()
    story.poll(5, due, leaving, held)
    story.poll(10, leaving, held)
    told = story.poll(15, held, crashes=[crash("w", 6, 12, 15, held)])
    assert sorted(executions(told)) == [("a", Outcome.FINISHED), ("c", Outcome.CRASHED)]
    assert executions(story.poll(20, held)) == [("b", Outcome.FINISHED)]


def test_an_orphan_that_was_one_too_many_is_not_told_when_it_leaves() -> None:
    story = Story(Choice(per_second=1 / BURST))
    held = [job("a"), job("b")]
    story.poll(0, *held)
    told = story.poll(5, *held, crashes=[crash("w", 0, 4, 5, *held)])
    assert executions(told) == [("a", Outcome.CRASHED)]
    story.poll(10)
    assert [it.reservation.jid for it in story.poll(15) if isinstance(it, Orphaned)] == ["a"]
    assert story.verdict.decisions == {Decision.TOLD: 1, Decision.CAPPED: 1, Decision.LEFT_OUT: 0}


def test_a_crash_names_some_of_its_orphans_and_counts_them_all() -> None:
    held = [job(f"j{n}") for n in range(LINKED + 3)]
    told = Story().poll(20, *held, crashes=[crash("w", 2, 12, 20, *held)])
    assert told[0] == WorkerCrash(
        "w", CrashReason.VANISHED, NOW + 2, NOW + 12, NOW + 20, len(held), tuple(held[:LINKED])
    )


def test_a_job_held_by_a_client_without_an_id_is_judged_like_any_other() -> None:
    watch = settled(["w1"])
    watch.signals = Signals(200, watch.signals.memory(), choice=ALL)
    jid, orphan = watch.server.fetch("", job=JobFacts()), watch.server.fetch("w1", job=JobFacts())
    watch.run(10)
    watch.server.kill("w1")
    watch.run(30)
    watch.server.finish(jid)
    watch.run(15)
    told = [it for verdict in watch.verdicts if verdict.executions for it in verdict.executions.told]
    assert executions(told) == [(orphan, Outcome.CRASHED), (jid, Outcome.FINISHED)]


# --- restarts of the server -------------------------------------------------------------------------------------------


def booted(restarts: int, started_at: float | None = None) -> BootVerdict:
    return BootVerdict(restarts, None if started_at is None else NOW + started_at, settled=True)


def test_a_restart_lies_between_the_polls_that_reached_the_server() -> None:
    story = Story()
    story.poll(0, boot=booted(3))
    story.poll(5, boot=booted(3), reached=False)
    assert story.poll(10, boot=booted(4)) == (Restart(NOW, NOW + 10),)
    assert story.poll(15, boot=booted(4)) == ()


def test_a_restart_that_was_noticed_late_began_before_the_server_started() -> None:
    story = Story()
    for at in (0, 5, 10):
        story.poll(at, boot=booted(0, -100))
    assert story.poll(15, boot=booted(1, 3)) == (Restart(NOW + 3, NOW + 15),)


def test_restarts_from_before_traces_were_on_are_not_told() -> None:
    assert Story().poll(0, boot=booted(7)) == ()


def test_a_restart_while_forewarn_was_away_is_told() -> None:
    story = Story()
    story.poll(0, boot=booted(3))
    assert story.restarted().poll(60, boot=booted(4)) == (Restart(NOW, NOW + 60),)


# --- which of them are told -------------------------------------------------------------------------------------------


def test_all_that_something_befell_are_told_and_of_the_rest_the_slow_ones() -> None:
    jobs = [job("quick", -1), job("slow", -55), job("failed", -1), job("expired", -1, 2), job("unknown", -1)]
    story = Story(NONE)
    story.poll(0, *jobs)
    story.poll(5, failed=2)
    answers = {"quick": None, "slow": None, "failed": FAILED, "expired": EXPIRED}
    told = story.poll(10, failed=2, answers=answers)
    assert executions(told) == [
        ("expired", Outcome.EXPIRED),
        ("failed", Outcome.FAILED),
        ("unknown", None),
        ("slow", Outcome.FINISHED),
    ]
    assert story.verdict.decisions == {Decision.TOLD: 4, Decision.LEFT_OUT: 1, Decision.CAPPED: 0}


def test_a_share_is_told_by_the_first_half_of_the_trace_id() -> None:
    jobs = [job(f"j{n}") for n in range(200)]
    story = Story(Choice(ratio=0.25, per_second=1e6))
    story.poll(0, *jobs)
    story.poll(5)
    told = {jid for jid, _ in executions(story.poll(10))}
    assert told == {it.jid for it in jobs if int(job_trace("jobs", it.jid)[:16], 16) / 2**64 < 0.25}
    assert 20 < len(told) < 80


@pytest.mark.parametrize(("ratio", "told"), [(0.0, 0), (1.0, 50)])
def test_a_share_of_none_is_none_and_of_all_is_all(ratio: float, told: int) -> None:
    story = Story(Choice(ratio=ratio, per_second=1e6))
    story.poll(0, *(job(f"j{n}") for n in range(50)))
    story.poll(5)
    assert len(story.poll(10)) == told


def test_beyond_the_cap_the_most_important_are_told_and_the_rest_is_counted() -> None:
    quick, slow = [job(f"quick{n}", -1) for n in range(3)], [job(f"slow{n}", -100) for n in range(3)]
    befell = [job("failed"), job("unknown"), job("expired", 0, 2)]
    held = job("held", worker="dead")
    story = Story(Choice(ratio=1.0, per_second=1.0))
    story.poll(0, *quick, *slow, *befell, held)
    story.poll(6, held, failed=2)
    answers: dict[str, JobFailure | None] = {it.jid: None for it in (*quick, *slow)}
    answers |= {"failed": FAILED, "expired": EXPIRED}
    told = story.poll(12, held, failed=2, answers=answers, crashes=[crash("dead", 0, 6, 12, held)])
    assert [jid for jid, _ in executions(told)] == ["held", "expired", "failed", "unknown", "slow0", "slow1"]
    assert story.verdict.decisions == {Decision.TOLD: 6, Decision.LEFT_OUT: 0, Decision.CAPPED: 4}


def told_of(story: Story, at: float, step: float, jobs: int = 10_000) -> int:
    """Let many jobs come, go and be judged in three polls, and return how many are told."""
    story.poll(at, *(job(f"{at}-{n}", at) for n in range(jobs)))
    story.poll(at + step)
    return len(story.poll(at + 2 * step))


def test_no_more_are_told_than_the_time_since_the_poll_before_allows() -> None:
    story = Story(Choice(ratio=1.0, per_second=50.0))
    assert told_of(story, 0, 5) == 250
    assert told_of(story, 60, 5) == 250  # what was not used before is saved up for others
    assert told_of(story, 200, 1000) == 50 * BURST


@pytest.mark.parametrize(("orphans", "told"), [(100, 100), (2000, 10 * int(BURST))])
def test_a_crash_is_told_with_all_its_jobs_though_the_cap_was_just_reached(orphans: int, told: int) -> None:
    story = Story(Choice(ratio=1.0, per_second=10.0))
    assert told_of(story, 0, 5) == told_of(story, 15, 5) == 50
    held = [job(f"held{n}", 0, worker="dead") for n in range(orphans)]
    story.poll(30, *held)
    found = executions(story.poll(35, *held, crashes=[crash("dead", 25, 30, 35, *held)]))
    assert {outcome for _, outcome in found} == {Outcome.CRASHED}
    assert len(found) == told


def test_what_befell_takes_from_what_may_be_told_of_the_rest() -> None:
    story = Story(Choice(ratio=1.0, per_second=1.0))
    story.poll(0, job("failed"), *(job(f"quick{n}", -1) for n in range(10)))
    story.poll(5, failed=1)
    answers: dict[str, JobFailure | None] = {f"quick{n}": None for n in range(10)}
    told = executions(story.poll(10, failed=1, answers=answers | {"failed": FAILED}))
    assert [outcome for _, outcome in told] == [Outcome.FAILED] + [Outcome.FINISHED] * 4


def test_less_than_one_per_poll_is_one_after_some_polls() -> None:
    story = Story(Choice(ratio=1.0, per_second=0.1))
    told = [len(story.poll(5 * n, job(f"j{n}", 5 * n))) for n in range(41)]
    assert sum(told) == 20
    assert max(told) == 1


def test_none_are_told_where_none_may_be() -> None:
    assert told_of(Story(Choice(ratio=1.0, per_second=0.0)), 0, 5, jobs=3) == 0


def test_a_clock_set_back_is_no_reason_to_tell_nothing() -> None:
    story = Story(Choice(ratio=1.0, per_second=50.0))
    told_of(story, 1000, 5, jobs=1)
    story.poll(0, job("a"))
    story.poll(-5)
    assert len(story.poll(-10)) == 1


# --- attempts before --------------------------------------------------------------------------------------------------


def test_an_attempt_is_told_with_the_one_before_that_did_not_finish() -> None:
    story = Story()
    story.poll(0, job("a", -10))
    story.poll(5, failed=1)
    assert one(story.poll(10, failed=1, answers={"a": FAILED})).previous is None
    story.poll(40, job("a", 35, failures=1), failed=1)
    story.poll(45, failed=1)
    assert one(story.poll(50, failed=1)).previous == NOW - 10
    story.poll(90, job("a", 85), failed=1)  # pushed anew, by the same id
    story.poll(95, failed=1)
    assert one(story.poll(100, failed=1)).previous is None


def test_an_attempt_after_a_crash_is_told_with_it() -> None:
    story = Story()
    story.poll(20, job("a"), crashes=[crash("w", 2, 12, 20, job("a"))])
    retried = job("a", 1900, worker="v", failures=1)
    story.poll(1905, retried, failed=1)
    story.poll(1910, failed=1)
    assert one(story.poll(1915, failed=1)).previous == NOW


def test_attempts_before_are_remembered_though_they_were_not_told() -> None:
    story = Story(Choice(per_second=0.0))
    story.poll(0, job("a"))
    story.poll(5, failed=1)
    story.poll(10, failed=1, answers={"a": FAILED})
    assert story.signal.memory().previous == {"a": NOW}


def test_of_very_many_attempts_before_the_oldest_are_forgotten() -> None:
    story = Story(NONE)
    story.poll(0, job("first"))
    story.poll(5, *(job(f"j{n}") for n in range(REMEMBERED)), failed=1)
    story.poll(10, failed=2)
    story.poll(15, failed=2)
    previous = story.signal.memory().previous
    assert len(previous) == REMEMBERED
    assert "first" not in previous


# --- exemplars --------------------------------------------------------------------------------------------------------


def signals(choice: Choice = ALL, limit: int = 10) -> Signals:
    return Signals(limit, server="jobs", choice=choice)


def watch(
    signals: Signals,
    at: float,
    *jobs: Reservation,
    failed: int = 0,
    answers: Mapping[str, JobFailure | None] | None = None,
) -> Verdicts:
    """Let all signals take in one observation ``at`` seconds after the epoch."""
    observation = Observation(
        now=NOW + at,
        reached=True,
        reservations={it.jid: it for it in jobs},
        failed=failed,
        processed=int(1e6 + at * 1e3),
    )
    return signals.conclude(signals.receive(observation), {}, (), answers or {})


def exemplars(verdicts: Verdicts) -> dict[tuple[str, str], list[tuple[int, Exemplar]]]:
    assert verdicts.executions is not None
    return {pair: list(found) for pair, found in verdicts.executions.exemplars.items()}


@pytest.mark.parametrize("age", [0.0, 2.5, 27.5, 57.4, 57.5, 57.6, 100_000.0])
def test_an_exemplar_has_the_value_that_was_counted_and_lies_in_its_bucket(age: float) -> None:
    story = signals()
    watch(story, 0, job("a", -age, 200_000))
    watch(story, 5)
    verdicts = watch(story, 10)
    durations = verdicts.busy.durations["q", "T"]
    ((bucket, exemplar),) = exemplars(verdicts)["q", "T"]
    assert exemplar.value == durations.sum
    assert bucket == next(index for index, count in enumerate(durations.counts) if count)
    assert exemplar.trace_id == job_trace("jobs", "a")
    assert exemplar.span_id == process_span("jobs", "a", NOW - age)
    assert exemplar.at == NOW + 5


def test_of_a_bucket_the_newest_is_kept() -> None:
    story = signals()
    watch(story, 0, job("a", -7), job("b", -20))
    watch(story, 5)
    watch(story, 10, job("c", 5))
    watch(story, 15)
    told = exemplars(watch(story, 20))["q", "T"]
    assert [(bucket, it.trace_id) for bucket, it in told] == [
        (DURATION_BUCKETS.index(10), job_trace("jobs", "c")),
        (DURATION_BUCKETS.index(30), job_trace("jobs", "b")),
    ]


PRODUCER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.mark.parametrize(
    ("parent", "traceparent", "trace"),
    [(True, PRODUCER, "ab" * 16), (False, PRODUCER, job_trace("jobs", "a")), (True, None, job_trace("jobs", "a"))],
)
def test_an_exemplar_names_the_trace_in_which_it_is_told(parent: bool, traceparent: str | None, trace: str) -> None:
    story = signals(Choice(ratio=1.0, parent=parent))
    watch(story, 0, job("a", traceparent=traceparent))
    watch(story, 5)
    ((_, exemplar),) = exemplars(watch(story, 10))["q", "T"]
    assert exemplar.trace_id == trace


@pytest.mark.parametrize(
    ("held", "answer", "counted"),
    [
        (job("a"), FAILED, True),
        (job("a"), None, True),
        (job("a", reserve_for=3), None, False),
        (job("a", reserve_for=3), EXPIRED, False),
    ],
)
def test_only_what_the_durations_counted_is_an_exemplar(
    held: Reservation, answer: JobFailure | None, counted: bool
) -> None:
    story = signals()
    watch(story, 0, held)
    watch(story, 5, failed=1)
    verdicts = watch(story, 10, failed=1, answers={"a": answer})
    assert bool(exemplars(verdicts)) is counted is bool(verdicts.busy.durations)


def test_one_whose_time_ran_out_while_the_set_was_read_is_no_exemplar_though_it_was_counted() -> None:
    story = signals()
    watch(story, 0, job("a", reserve_for=5.01))
    watch(story, 5, failed=1)
    verdicts = watch(story, 10, failed=1, answers={"a": EXPIRED})
    assert verdicts.busy.durations["q", "T"].count == 1
    assert exemplars(verdicts) == {}


def test_what_was_left_out_is_no_exemplar() -> None:
    story = signals(NONE)
    watch(story, 0, job("a"))
    watch(story, 5)
    assert exemplars(watch(story, 10)) == {}


def test_what_ended_between_polls_too_far_apart_is_told_but_no_exemplar() -> None:
    story = signals()
    watch(story, 0, job("a"))
    watch(story, 500)
    verdicts = watch(story, 505)
    assert verdicts.executions is not None
    assert len(verdicts.executions.told) == 1
    assert exemplars(verdicts) == {}


def test_exemplars_go_with_the_durations_of_their_pair() -> None:
    story = signals()
    watch(story, 0, job("a"))
    watch(story, 5)
    watch(story, 10)
    assert exemplars(watch(story, IDLE - 5)) != {}
    assert exemplars(watch(story, IDLE + 5)) == {}


def test_exemplars_are_kept_of_a_bounded_number_of_pairs() -> None:
    story = signals(Choice(ratio=1.0, per_second=1e6), limit=2 * PAIRS)
    watch(story, 0, *(job(f"j{n}", jobtype=f"T{n}") for n in range(PAIRS + 5)))
    watch(story, 5)
    assert len(exemplars(watch(story, 10))) == PAIRS


# --- over a restart of Forewarn ---------------------------------------------------------------------------------------


def test_what_ended_while_forewarn_was_away_is_told_with_its_true_uncertainty() -> None:
    story = Story()
    story.poll(0, job("a"), job("b"), failed=1)
    second = story.restarted()
    second.poll(100, job("b"), failed=2)
    told = one(second.poll(105, job("b"), failed=2, answers={"a": FAILED}))
    assert (told.reservation.jid, told.outcome, told.ended_at - NOW, told.uncertainty) == (
        "a",
        Outcome.FAILED,
        100,
        100,
    )


def test_what_waited_to_be_judged_is_judged_by_the_next_run() -> None:
    story = Story()
    story.poll(0, job("a"), failed=1)
    story.poll(5, failed=1)
    told = one(story.restarted().poll(100, failed=2, answers={"a": FAILED}))
    assert (told.outcome, told.ended_at - NOW, told.uncertainty) == (Outcome.FAILED, 5, 5)


def test_a_state_saved_in_the_midst_of_a_poll_loses_nothing() -> None:
    story = Story()
    story.poll(0, job("a"), job("b"))
    story.poll(5, job("b"))
    story.receive(10)
    second = story.restarted()
    assert executions(second.poll(20)) == [("a", Outcome.FINISHED), ("b", Outcome.FINISHED)]


def test_a_poll_that_was_broken_off_loses_nothing() -> None:
    story = Story()
    story.poll(0, job("a"), job("b"))
    story.poll(5, job("b"))
    story.receive(10)
    assert executions(story.poll(15)) == [("a", Outcome.FINISHED), ("b", Outcome.FINISHED)]
    assert story.poll(20) == ()


def test_while_the_working_set_is_unknown_after_a_restart_nothing_is_forgotten() -> None:
    story = Story()
    story.poll(0, job("a"))
    second = story.restarted()
    second.poll(10, known=False)
    third = second.restarted()
    third.poll(20)
    assert one(third.poll(25)).uncertainty == 20


def test_an_orphan_is_known_to_be_one_by_the_next_run() -> None:
    story = Story()
    story.poll(20, job("a"), crashes=[crash("w", 2, 12, 20, job("a"))])
    second = story.restarted()
    second.poll(30, job("a"))
    second.poll(35)
    assert second.poll(40) == (Orphaned(job("a"), since=NOW + 12, until=NOW + 35, uncertainty=5.0),)


def test_an_orphan_that_leaves_while_forewarn_is_away_is_told_as_one() -> None:
    story = Story()
    story.poll(20, job("a"), crashes=[crash("w", 2, 12, 20, job("a"))])
    second = story.restarted()
    second.poll(60)
    assert second.poll(65) == (Orphaned(job("a"), since=NOW + 12, until=NOW + 60, uncertainty=40.0),)
    assert second.signal.memory().orphans == ()


def test_an_orphan_that_had_left_before_a_restart_is_told_as_one() -> None:
    story = Story()
    story.poll(20, job("a"), crashes=[crash("w", 2, 12, 20, job("a"))])
    story.poll(30)
    assert story.restarted().poll(60) == (Orphaned(job("a"), since=NOW + 12, until=NOW + 30, uncertainty=10.0),)


def test_an_orphan_of_which_nothing_else_is_remembered_is_forgotten() -> None:
    story = Story()
    story.poll(20, job("a"), crashes=[crash("w", 2, 12, 20, job("a"))])
    second = Story(memory=msgspec.structs.replace(story.signal.memory(), working=()))
    second.poll(30)
    assert second.signal.memory().orphans == ()


def test_decisions_and_attempts_before_are_known_to_the_next_run() -> None:
    story = Story()
    story.poll(0, job("a"), job("b"))
    story.poll(5, failed=1)
    story.poll(10, failed=1, answers={"a": FAILED, "b": None})
    second = story.restarted()
    second.poll(40, job("a", 35, failures=1), failed=1)
    assert second.verdict.decisions == {Decision.TOLD: 2, Decision.LEFT_OUT: 0, Decision.CAPPED: 0}
    second.poll(45, failed=1)
    assert one(second.poll(50, failed=1)).previous == NOW


def test_what_was_counted_before_a_restart_is_no_exemplar_after_it() -> None:
    first = signals()
    watch(first, 0, job("a"), job("b"))
    watch(first, 5, job("b"))
    memory = msgspec.json.decode(msgspec.json.encode(first.memory()), type=Memory)
    second = Signals(10, memory, server="jobs", choice=ALL)
    for at in (10, 15):
        assert exemplars(watch(second, at)) == {}


def test_of_very_many_in_work_the_orphans_and_the_oldest_are_remembered() -> None:
    orphan = job("orphan", 10, worker="dead")
    jobs = [orphan, *(job(f"j{n}", -n) for n in range(REMEMBERED + 10))]
    story = Story()
    story.poll(20, *jobs, crashes=[crash("dead", 11, 12, 20, orphan)])
    working = {it.jid for it in story.signal.memory().working}
    assert len(working) == REMEMBERED
    assert "orphan" in working
    assert not {f"j{n}" for n in range(11)} & working


def test_of_very_many_that_wait_to_be_judged_a_bounded_number_is_remembered() -> None:
    story = Story()
    story.poll(0, *(job(f"j{n}") for n in range(REMEMBERED + 10)))
    story.poll(5)
    assert sum(len(left.gone) for left in story.signal.memory().left) == REMEMBERED


def test_without_a_choice_nothing_is_judged_asked_or_remembered() -> None:
    story = Signals(10)
    watch(story, 0, job("a"))
    for at in (5, 10):
        observation = Observation(now=NOW + at, reached=True, reservations={}, failed=at, processed=100)
        pending = story.receive(observation)
        assert pending.ended == ()
        assert story.conclude(pending, {}, ()).executions is None
    assert story.memory().executions == ExecutionsMemory()


def test_what_was_told_comes_out_of_the_state_as_it_went_in() -> None:
    reservation = job("a\u0000é😀", 0.123456789, traceparent=PRODUCER)
    told: tuple[Told, ...] = (
        Execution(reservation, None, NOW + 1 / 3, 0.1 + 0.2),
        Execution(reservation, Outcome.CRASHED, NOW, 5.0, "E", "m", True, CrashReason.HUNG, NOW + 2, NOW - 1),
        Orphaned(reservation, NOW, NOW + 1, 0.5),
        WorkerCrash("w", CrashReason.VANISHED, NOW, NOW + 1, NOW + 2, 300, (reservation, job("b", failures=None))),
        Restart(NOW, NOW + 1),
    )
    memory = Memory(untold=told)
    assert msgspec.json.decode(msgspec.json.encode(memory), type=Memory) == memory
