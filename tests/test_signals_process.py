"""Why the server's process died: each death once, in whichever order its signs come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from exporter.model import (
    CRASH_KINDS,
    MAX_ERROR,
    CollectorRun,
    Details,
    Exited,
    Failure,
    Frame,
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
from exporter.signals.boot import BootMemory, BootSignal
from exporter.signals.deaths import (
    ENDS,
    FORGOTTEN,
    GRACE,
    LATEST,
    OUTLIVED,
    PENDING,
    TOGETHER,
    UPTIME_TOLD,
    DeathsMemory,
)
from exporter.signals.process import INCIDENTS, ProcessMemory, ProcessSignal, newest

NOW = 1_700_000_000.0
EVERY = 5.0
POSITIONS = (Position("/var/log/faktory.log", 1, 2, 3, "ab", 3),)
KILLED, OOM, UNEXPLAINED = IncidentKind.KILLED, IncidentKind.OUT_OF_MEMORY, IncidentKind.UNEXPLAINED
MAP, PANIC, RECOVERED = IncidentKind.CONCURRENT_MAP, IncidentKind.PANIC, IncidentKind.RECOVERED_PANIC
RACE = IncidentKind.DATA_RACE


def text(at: float | None = None, kind: IncidentKind = MAP, message: str = "concurrent map writes") -> Incident:
    frames = (Frame("github.com/contribsys/faktory/webui.busyWorkers", "helpers.go", 227),)
    return Incident(kind, message, None if at is None else NOW + at, frames, group="0123456789ab")


def started(at: float) -> Noticed:
    return Noticed(LogEvent.STARTED, NOW + at, 4711)


def stopping(at: float) -> Noticed:
    return Noticed(LogEvent.STOPPING, NOW + at)


def exited(
    at: float | None, status: int | None = None, signal: int | None = None, *, out_of_memory: bool = False
) -> Exited:
    return Exited(None if at is None else NOW + at, status, signal, out_of_memory)


class Story:
    """Polls every five seconds. The server counts on unless it is said to be new or down."""

    def __init__(self, memory: Memory | None = None, at: float = 0.0) -> None:
        memory = memory or Memory()
        self.at = at
        self.commands = 1_000_000
        self.boot = BootSignal(memory.boot)
        self.signal = ProcessSignal(memory.process)
        self.verdicts: list[ProcessVerdict | None] = []

    def poll(
        self,
        *entries: LogEntry,
        new: bool = False,
        down: bool = False,
        hangs: bool = False,
        interrupted: bool = False,
        reading: bool = False,
        read: bool = True,
        dropped: int = 0,
        uptime: float | None = None,
        process: ProcessFacts | None = None,
    ) -> ProcessVerdict | None:
        self.at += EVERY
        self.commands = self.commands - 1_000 if new else self.commands + 1
        reached = not down and not hangs
        gone = Failure(Reason.UNREACHABLE, "told")  # its Redis is, where it hangs
        health = None if reached else gone if down else Failure(Reason.TIMEOUT, "told")
        observation = Observation(
            now=NOW + self.at,
            reached=reached,
            runs=(CollectorRun("health", 0.01, health), CollectorRun("redis", 0.01, None if reached else gone)),
            interrupted=interrupted or new or not self.verdicts,
            health=Health("1.10.0", "oss", 3, self.commands) if reached else None,
            details=None if uptime is None else Details(asked_at=NOW + self.at, uptime=uptime),
            process=process,
            log=LogFacts(entries, dropped, reading, POSITIONS, 100, 0, NOW + self.at) if read else None,
        )
        verdict = self.signal.advance(observation, self.boot.advance(observation))
        self.verdicts.append(verdict)
        return verdict

    def quiet(self, seconds: float) -> Story:
        for _ in range(int(seconds / EVERY)):
            self.poll()
        return self

    def restarted(self) -> Story:
        """Forewarn, with what its state file holds."""
        memory = Memory(boot=self.boot.memory(), process=self.signal.memory())
        story = Story(msgspec.json.decode(msgspec.json.encode(memory), type=Memory), self.at)
        story.commands = self.commands
        return story

    def counts(self) -> dict[IncidentKind, int]:
        verdict = next((it for it in reversed(self.verdicts) if it is not None), None)
        assert verdict is not None
        its: Mapping[IncidentKind, int] = {**verdict.crashes, RACE: verdict.races, RECOVERED: verdict.recovered}
        return {kind: count for kind, count in its.items() if count}

    def found(self) -> list[tuple[IncidentKind, float]]:
        every = [incident for it in self.verdicts if it is not None for incident in it.found]
        return [(it.kind, (it.at or 0.0) - NOW) for it in every]


def watched() -> Story:
    """A server that runs, and whose output is read."""
    story = Story()
    story.poll()
    story.poll()
    return story  # at 10


# --- a text and its end, in either order ------------------------------------------------------------------------------


def test_a_text_and_then_a_restart_is_one_crash_at_the_time_of_the_text() -> None:
    story = watched()
    story.poll(text(12))
    assert story.counts() == {}
    story.poll(new=True)
    story.quiet(300)
    assert story.found() == [(MAP, 12)]
    assert story.counts() == {MAP: 1}


def test_a_restart_and_then_the_text_is_the_same() -> None:
    story = watched()
    story.poll(new=True)
    story.poll()
    story.poll(text(12))
    assert story.found() == [(MAP, 12)]
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_the_log_tells_the_start_late() -> None:
    story = watched()
    story.poll(new=True)
    story.poll(text(12))
    story.poll(started(13))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_text_and_start_in_the_log_need_nothing_else() -> None:
    """The restart itself may not show, where the server is asked for many things at once and nothing tells its pid."""
    story = watched()
    story.poll(text(12), started(13))
    assert story.counts() == {MAP: 1}
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_text_without_a_time_of_its_own_gets_that_of_the_poll() -> None:
    story = watched()
    story.poll(text(None), new=True)
    assert story.found() == [(MAP, 15)]


@pytest.mark.parametrize("at", [float("nan"), float("inf")])
def test_a_text_with_a_time_that_is_none_gets_that_of_the_poll(at: float) -> None:
    story = watched()
    story.poll(text(at), new=True)
    assert story.found() == [(MAP, 15)]


def test_a_server_that_dies_and_stays_down_has_crashed_once_its_port_refuses() -> None:
    story = watched()
    story.poll(text(12), down=True)
    assert story.found() == [(MAP, 12)]
    for _ in range(1000):
        story.poll(down=True)
    story.poll(started(5020), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_server_that_only_hangs_has_not_crashed() -> None:
    """Such as one that prints the stacks of a million goroutines."""
    story = watched()
    for _ in range(100):
        story.poll(text(12) if story.at == 10 else started(-900), hangs=True)
    assert story.counts() == {MAP: 1}  # the start in the log, not the silence


def test_silence_is_no_end_and_no_survival() -> None:
    story = watched()
    story.poll(text(12), hangs=True)
    for _ in range(100):
        story.poll(hangs=True)
    assert story.counts() == {}
    story.poll(new=True)
    assert story.counts() == {MAP: 1}


def test_another_process_is_an_end() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(text(17), process=ProcessFacts(7, NOW - 500.3))
    assert story.counts() == {}
    story.poll(process=ProcessFacts(9, NOW + 18))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_another_process_that_was_seen_before_the_text_was_read() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(process=ProcessFacts(9, NOW + 18), down=True)
    story.poll(text(17), started(21), process=ProcessFacts(9, NOW + 18), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_another_process_after_an_end_that_was_told_in_the_poll_that_still_saw_it() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(text(19.9), exited(19.95, status=2), process=ProcessFacts(7, NOW - 500))
    story.poll(process=ProcessFacts(9, NOW + 21), down=True)
    story.poll(process=ProcessFacts(9, NOW + 21), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_an_end_between_two_processes_is_not_that_of_the_process_before() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(text(17), started(18), process=ProcessFacts(8, NOW + 18), hangs=True)
    story.poll(process=ProcessFacts(9, NOW + 23), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1, UNEXPLAINED: 1}


def test_a_process_that_hung_before_it_ended_has_an_end_of_its_own() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(text(17), started(18), process=ProcessFacts(8, NOW + 18), hangs=True)
    for _ in range(3):
        story.poll(process=ProcessFacts(8, NOW + 18), hangs=True)
    story.poll(process=ProcessFacts(9, NOW + 38), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1, UNEXPLAINED: 1}


def test_a_process_that_could_not_be_seen_for_a_while_hides_no_end() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(text(17), started(18), new=True)
    story.quiet(20)
    story.poll(process=ProcessFacts(9, NOW + 43), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1, UNEXPLAINED: 1}


def test_another_process_and_a_start_that_its_uptime_tells_late_are_one_end() -> None:
    story = watched()
    story.poll(uptime=500, process=ProcessFacts(7, NOW - 485))
    story.poll(text(17), process=ProcessFacts(9, NOW + 18), interrupted=True)
    story.quiet(40)
    story.poll(uptime=47)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_another_process_alone_is_no_crash() -> None:
    """Such as a proxy that takes turns with the server at the port, as far as the kernel tells."""
    story = watched()
    for number in range(100):
        story.poll(process=ProcessFacts(7 + number % 2, NOW - 500))
    assert story.counts() == {}


def test_another_process_and_then_a_count_that_went_back_are_one_end_that_nothing_explains() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(process=ProcessFacts(9, NOW + 18), down=True)
    story.poll(process=ProcessFacts(9, NOW + 18), new=True)
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_a_container_always_has_the_same_pid_but_not_the_same_start() -> None:
    story = watched()
    story.poll(process=ProcessFacts(1, NOW - 500))
    story.poll(text(17), process=ProcessFacts(1, NOW + 18))
    assert story.counts() == {MAP: 1}


def test_another_process_and_a_count_that_went_back_are_one_end() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(text(17), process=ProcessFacts(9, NOW + 18), down=True)
    story.poll(process=ProcessFacts(9, NOW + 18), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_the_parent_tells_the_end() -> None:
    story = watched()
    story.poll(text(12), exited(12.1, status=2))
    assert story.found() == [(MAP, 12)]
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_the_parent_may_tell_the_end_after_the_server_was_found_to_be_down() -> None:
    story = watched()
    story.poll(text(12), down=True)
    story.poll(exited(12.1, status=2), started(19), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_server_that_was_seen_alive_just_before_it_died_in_the_same_poll() -> None:
    """The log is read last: what it tells then belongs to the restart that the next poll sees."""
    story = watched()
    story.poll(text(14.9), exited(14.95, status=2))
    story.poll(started(18), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_the_parent_may_tell_the_end_after_the_start_of_the_next_life() -> None:
    """It tells so elsewhere than in the file that the start stands in."""
    story = watched()
    story.poll(text(12), started(13), exited(12.1, status=2), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


@pytest.mark.parametrize("at", [12, None])
def test_a_text_in_another_file_than_the_start_may_be_read_after_it(at: float | None) -> None:
    story = watched()
    story.poll(started(13), text(at), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_text_in_another_file_may_be_read_a_poll_later_where_it_has_a_time() -> None:
    story = watched()
    story.poll(started(13), new=True)
    story.poll(text(12.5))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_text_that_is_clearly_of_the_next_life_is_no_word_of_the_one_before() -> None:
    story = watched()
    story.poll(started(13), new=True)
    story.poll(text(18, PANIC))
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1, RECOVERED: 1}


def test_a_text_after_a_start_without_an_end_is_survived() -> None:
    story = watched()
    story.poll(started(12), text(14, PANIC))
    story.quiet(300)
    assert story.counts() == {RECOVERED: 1}


def test_a_text_after_the_start_that_followed_a_crash_is_of_the_life_that_goes_on() -> None:
    story = watched()
    story.poll(text(11), started(12), text(14.5, PANIC), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1, RECOVERED: 1}


@pytest.mark.parametrize("skew", [-60, -10, 10, 60])
def test_a_log_with_another_clock(skew: float) -> None:
    story = watched()
    story.poll(text(12 + skew), started(13 + skew), new=True)
    story.quiet(60)
    story.poll(text(78 + skew), down=True)
    story.poll(started(82 + skew), new=True)
    story.quiet(60)
    story.poll(text(148 + skew))
    story.poll(started(152 + skew), new=True)
    story.quiet(60)
    story.poll(new=True)
    story.poll(text(218 + skew), started(220 + skew))
    story.quiet(300)
    assert story.counts() == {MAP: 4}


# --- several deaths between two polls ---------------------------------------------------------------------------------


def test_starts_in_the_log_part_crashes_that_showed_as_one_restart() -> None:
    story = watched()
    story.poll(text(11), started(11.5), text(12), started(12.5), text(13), started(13.5), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 3}


def test_without_starts_in_the_log_time_parts_crashes() -> None:
    story = watched()
    story.poll(text(11), text(11 + TOGETHER), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 2}


def test_two_goroutines_that_panic_at_once_are_one_death() -> None:
    story = watched()
    story.poll(text(11), text(11.4, PANIC), new=True)
    story.poll(text(11.5, PANIC))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_server_that_panics_whenever_it_starts_crashes_each_time() -> None:
    story = watched()
    for at in range(4):
        story.poll(text(11 + EVERY * at), down=True)
    story.quiet(300)
    assert story.counts() == {MAP: 4}


def test_a_loop_with_starts_and_polls_in_between_is_counted_exactly() -> None:
    story = watched()
    for at in (10, 15, 20, 25):
        story.poll(text(at + 1), started(at + 2), text(at + 4), down=True)
        story.at -= EVERY
        story.poll(started(at + 4.9), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 8}


@pytest.mark.parametrize("exits", [(), (exited(20.2, status=2),)])
def test_a_crash_after_the_rest_of_a_poll_belongs_to_the_next_restart(exits: tuple[Exited, ...]) -> None:
    """The log is read last: it may tell of an end that the restart seen in the same poll had nothing to do with."""
    story = watched()
    story.poll(text(11), started(12), text(14.5), down=True)
    story.poll(started(16), text(20.1 if not exits else None), *exits, started(20.4), new=True)
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 3}


def test_an_exit_after_the_rest_of_a_poll_belongs_to_the_next_restart() -> None:
    story = watched()
    story.poll(text(11), exited(11.2, status=2), down=True)
    story.poll(text(None), exited(20.2, status=2), new=True)
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 2}


def test_a_kill_right_after_a_crash_is_an_end_of_its_own() -> None:
    story = watched()
    story.poll(text(11), started(12), new=True)
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1, UNEXPLAINED: 1}


def test_kills_that_showed_as_one_restart_are_as_many_as_the_starts() -> None:
    story = watched()
    story.poll(started(12), started(13), started(14), new=True)
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 3}
    assert story.found() == [(UNEXPLAINED, 12), (UNEXPLAINED, 13), (UNEXPLAINED, 14)]


def test_kills_that_showed_as_one_restart_are_as_many_as_the_starts_though_the_log_lags() -> None:
    story = watched()
    story.poll(new=True)
    story.poll(started(12), started(13), started(14))
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 3}


def test_kills_that_showed_as_one_restart_hide_no_later_one_though_the_log_lags() -> None:
    story = watched()
    story.poll(new=True)
    story.poll(started(12), started(13), started(14))
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 4}


# --- an end without a text --------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_in_the_first_second_of_its_life_is_counted() -> None:
    story = Story()
    story.poll(started(4.25))
    story.poll(exited(4.75, signal=9), down=True)
    assert story.counts() == {KILLED: 1}


def test_a_log_of_whole_seconds_may_tell_a_start_as_earlier_than_the_end_before_it() -> None:
    story = Story()
    story.poll(started(4))
    story.poll(exited(4.75, signal=9))
    story.quiet(60)
    assert story.counts() == {}


def test_a_restart_without_a_text_is_unexplained_after_a_grace() -> None:
    story = watched()
    story.poll(new=True)
    story.quiet(GRACE - EVERY)
    assert story.counts() == {}
    story.quiet(EVERY)
    assert story.counts() == {UNEXPLAINED: 1}
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_an_incident_that_is_still_being_read_is_waited_for() -> None:
    story = watched()
    story.poll(new=True, reading=True)
    for _ in range(8):
        story.poll(reading=True)
    assert story.counts() == {}
    story.poll(text(12))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_log_that_never_rests_is_not_waited_for_for_ever() -> None:
    story = watched()
    story.poll(new=True, reading=True)
    for _ in range(int(LATEST / EVERY)):
        story.poll(reading=True)
    assert story.counts() == {UNEXPLAINED: 1}


def test_two_polls_at_least_are_waited_for() -> None:
    story = watched()
    story.poll(new=True)
    story.at += 60
    story.poll()
    assert story.counts() == {}
    story.poll(text(12))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_what_is_not_read_is_not_unexplained() -> None:
    story = watched()
    story.poll(new=True, read=False)
    for _ in range(6):
        story.poll(read=False)
    story.poll(text(12))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_what_nobody_reads_for_long_is_not_unexplained_later() -> None:
    story = watched()
    story.poll(new=True, read=False)
    for _ in range(int(LATEST / EVERY)):
        story.poll(read=False)
    story.quiet(300)
    assert story.counts() == {}


def test_while_entries_are_lost_nothing_is_unexplained() -> None:
    story = watched()
    story.poll(new=True)
    for _ in range(20):
        story.poll(dropped=1)
    assert story.counts() == {}


def test_a_start_in_the_log_alone_is_no_crash() -> None:
    """The log may be of several servers, or the server has just been started for the first time."""
    story = watched()
    story.poll(started(12))
    story.quiet(FORGOTTEN + 60)
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_lost_contact_is_no_end() -> None:
    story = watched()
    story.poll(down=True)
    story.poll(interrupted=True)
    story.poll(hangs=True)
    story.poll(interrupted=True)
    story.quiet(300)
    assert story.counts() == {}


def test_a_restart_that_only_its_uptime_tells_is_unexplained_at_the_time_of_its_start() -> None:
    story = watched()
    story.poll(uptime=500)  # at 15
    story.poll(interrupted=True)
    story.quiet(40)
    assert story.counts() == {}
    story.poll(uptime=48)  # at 65
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_an_end_that_shows_late_is_not_one_from_before_the_uptime_was_told_last() -> None:
    story = watched()
    story.poll(uptime=500)  # at 15
    story.poll(text(17), started(18), new=True)
    story.poll(uptime=7)
    story.quiet(20)
    story.poll(interrupted=True)  # at 50: a start that its commands do not tell
    story.quiet(30)
    story.poll(uptime=35)
    story.quiet(300)
    assert story.counts() == {MAP: 1, UNEXPLAINED: 1}


def test_a_start_that_comes_long_after_a_crash_is_not_the_one_that_followed_it() -> None:
    story = watched()
    story.poll(text(12), new=True)
    story.quiet(60)
    story.poll(interrupted=True)
    story.poll(started(82))
    story.quiet(300)
    assert story.counts() == {MAP: 1, UNEXPLAINED: 1}


@pytest.mark.parametrize("uptime", [None, 68])
def test_a_start_in_the_log_and_a_connection_that_was_cut_are_an_end(uptime: float | None) -> None:
    """A server that does little counts few commands: that it was restarted shows late, or never."""
    story = watched()
    story.poll(uptime=500)  # at 15
    story.poll(interrupted=True)
    story.poll(started(17))
    story.quiet(60)
    assert story.found() == [(UNEXPLAINED, 17)]
    story.poll(uptime=uptime)
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_the_connection_that_was_cut_may_show_after_the_start_in_the_log() -> None:
    story = watched()
    story.poll(started(14.5))
    story.poll(interrupted=True)
    story.quiet(300)
    assert story.found() == [(UNEXPLAINED, 14.5)]


@pytest.mark.parametrize(("down", "at"), [((), 12), ((True, True), 24)])
def test_the_log_may_lag_by_many_polls_where_it_tells_the_time_of_the_start(down: tuple[bool, ...], at: float) -> None:
    story = watched()
    for _ in down:
        story.poll(down=True)
    story.poll(interrupted=True)
    story.quiet(30)
    story.poll(started(at))
    story.quiet(300)
    assert story.found() == [(UNEXPLAINED, at)]


def test_a_start_in_the_log_and_another_process_are_an_end() -> None:
    story = watched()
    story.poll(process=ProcessFacts(7, NOW - 500))
    story.poll(started(18), process=ProcessFacts(9, NOW + 18))
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_a_connection_that_was_cut_long_before_a_start_in_the_log_proves_nothing() -> None:
    story = watched()
    story.poll(interrupted=True)
    story.quiet(30)
    story.poll(started(48))
    story.quiet(300)
    assert story.counts() == {}


def test_a_start_in_the_log_of_a_server_that_refused_is_an_end() -> None:
    story = watched()
    story.poll(down=True)
    story.poll(started(19), interrupted=True)
    story.quiet(300)
    assert story.found() == [(UNEXPLAINED, 19)]


def test_a_server_that_is_started_for_the_first_time_has_not_ended() -> None:
    story = Story()
    for _ in range(5):
        story.poll(down=True)
        story = story.restarted()
    story.poll(started(27), interrupted=True)
    story.quiet(300)
    assert story.counts() == {}


def test_a_server_that_is_started_while_nobody_knows_how_it_ended_is_not_told_to_have_crashed() -> None:
    """It may have been stopped while Forewarn was away, and a pipe keeps nothing for those who come later."""
    story = watched()
    memory = msgspec.structs.replace(story.signal.memory(), positions=())
    story = Story(Memory(boot=story.boot.memory(), process=memory), 600)
    story.poll(down=True)
    story.poll(started(608), interrupted=True)
    story.quiet(300)
    assert story.counts() == {}


def test_a_text_waits_for_the_uptime_where_contact_was_lost() -> None:
    story = watched()
    story.poll(uptime=500)
    story.poll(text(16), interrupted=True)
    story.quiet(60)
    assert story.counts() == {}
    story.poll(uptime=68)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_text_of_the_new_life_is_not_the_end_of_the_old_one() -> None:
    story = watched()
    story.poll(uptime=500)
    story.poll(interrupted=True)
    story.quiet(40)
    story.poll(text(62))
    story.poll(uptime=55)  # started at 15
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1, RECOVERED: 1}


# --- how it exited ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_", "kind", "words"),
    [
        (exited(12, signal=9), KILLED, "SIGKILL"),
        (exited(12, status=137), KILLED, "SIGKILL"),
        (exited(12, signal=9, out_of_memory=True), OOM, "no memory was left"),
        (exited(12, out_of_memory=True), OOM, "no memory was left"),
        (exited(12, status=1), UNEXPLAINED, "exited with status 1"),
        (exited(12, status=2), UNEXPLAINED, "exited with status 2"),
        (exited(12, signal=6), UNEXPLAINED, "signal 6"),
        (exited(12), UNEXPLAINED, "exited"),
    ],
)
def test_an_exit_tells_what_no_text_does_at_once(exit_: Exited, kind: IncidentKind, words: str) -> None:
    story = watched()
    verdict = story.poll(exit_)
    assert verdict is not None
    (incident,) = verdict.found
    assert (incident.kind, incident.at) == (kind, NOW + 12)
    assert words in incident.message
    assert incident.hint
    assert len(incident.group) == 12
    story.poll(started(14), new=True)
    story.quiet(300)
    assert story.counts() == {kind: 1}


@pytest.mark.parametrize(
    "exit_",
    [exited(12, status=0), exited(12, signal=15), exited(12, status=143), exited(12, signal=2), exited(12, status=130)],
)
def test_who_exits_as_one_that_was_asked_to_has_not_crashed(exit_: Exited) -> None:
    story = watched()
    story.poll(exit_)
    story.poll(started(19), new=True)
    story.quiet(300)
    assert story.counts() == {}


def test_what_was_printed_before_such_an_exit_was_survived() -> None:
    story = watched()
    story.poll(text(12, PANIC), exited(14, status=0))
    assert story.counts() == {RECOVERED: 1}


def test_who_said_that_it_stops_has_not_crashed() -> None:
    story = watched()
    story.poll(stopping(12), down=True)
    story.poll(started(19), new=True)
    story.quiet(300)
    assert story.counts() == {}


def test_who_said_that_it_stops_has_not_crashed_though_the_log_lags() -> None:
    story = watched()
    story.poll(new=True)
    story.poll(stopping(12), started(14))
    story.quiet(300)
    assert story.counts() == {}


def test_who_stopped_too_slowly_and_was_killed_has_not_crashed() -> None:
    story = watched()
    story.poll(stopping(12))
    story.poll(down=True)
    story.poll(exited(22, signal=9), started(24), new=True)
    story.quiet(300)
    assert story.counts() == {}


def test_who_was_killed_for_want_of_memory_has_crashed_though_it_was_about_to_stop() -> None:
    story = watched()
    story.poll(stopping(12), exited(12.5, out_of_memory=True))
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {OOM: 1}


def test_a_log_without_starts_may_tell_the_stop_all_the_same() -> None:
    story = watched()
    story.poll(stopping(12), down=True)
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {}


@pytest.mark.parametrize("exit_", [(), (exited(12.5, status=0),)])
def test_a_stop_does_not_excuse_the_next_end(exit_: tuple[Exited, ...]) -> None:
    story = watched()
    story.poll(stopping(12), *exit_, down=True)
    story.poll(new=True)
    story.quiet(60)
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_a_stop_that_ended_in_a_panic_does_not_excuse_the_next_end() -> None:
    story = watched()
    story.poll(stopping(12), text(13, PANIC), down=True)
    story.poll(new=True)
    story.quiet(60)
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {PANIC: 1, UNEXPLAINED: 1}


def test_who_was_killed_had_no_last_word() -> None:
    story = watched()
    story.poll(
        exited(11, signal=9), started(12), text(None), exited(13, status=2), started(14), interrupted=True, new=True
    )
    story.quiet(300)
    assert story.counts() == {KILLED: 1, MAP: 1}


def test_a_panic_on_the_way_out_is_a_crash() -> None:
    story = watched()
    story.poll(stopping(12), text(13, PANIC), exited(13.1, status=2))
    story.poll(started(19), new=True)
    story.quiet(300)
    assert story.counts() == {PANIC: 1}


def test_one_stop_excuses_one_end() -> None:
    story = watched()
    story.poll(stopping(11), started(12), started(13), new=True)
    story.quiet(300)
    assert story.found() == [(UNEXPLAINED, 13)]


def test_the_kernel_and_the_parent_tell_the_same_kill() -> None:
    story = watched()
    story.poll(exited(12, out_of_memory=True), exited(12.2, signal=9))
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {OOM: 1}


def test_the_parent_and_then_the_kernel_tell_the_same_kill() -> None:
    story = watched()
    story.poll(exited(12, signal=9), exited(12.2, out_of_memory=True))
    story.quiet(300)
    assert story.counts() == {OOM: 1}


def test_each_exit_is_an_end_of_its_own() -> None:
    story = watched()
    story.poll(exited(11, signal=9), exited(12, signal=9), exited(13, status=1), new=True)
    story.quiet(300)
    assert story.counts() == {KILLED: 2, UNEXPLAINED: 1}


def test_an_exit_is_not_lost_on_an_end_that_was_long_before() -> None:
    story = watched()
    story.poll(text(12), new=True)
    story.quiet(60)
    story.poll(exited(76, out_of_memory=True))
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1, OOM: 1}


def test_an_exit_without_a_time_is_that_of_the_poll() -> None:
    story = watched()
    story.poll(exited(None, signal=9))
    assert story.found() == [(KILLED, 15)]


def test_an_exit_waits_for_what_is_still_read() -> None:
    story = watched()
    story.poll(exited(12, status=2), reading=True)
    assert story.counts() == {}
    story.poll(text(12.5))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


# --- what the server survived -----------------------------------------------------------------------------------------


def test_a_text_that_is_never_followed_by_an_end_is_a_recovered_panic() -> None:
    story = watched()
    story.poll(text(12, PANIC))
    story.quiet(2 * EVERY + OUTLIVED - EVERY)
    assert story.counts() == {}
    story.quiet(EVERY)
    assert story.found() == [(RECOVERED, 12)]
    story.quiet(300)
    assert story.counts() == {RECOVERED: 1}


def test_after_lost_contact_it_takes_longer_to_know_that_a_text_was_survived() -> None:
    story = watched()
    story.poll(text(12, PANIC))
    story.poll(interrupted=True)
    story.quiet(UPTIME_TOLD - EVERY)
    assert story.counts() == {}
    story.quiet(EVERY)
    assert story.counts() == {RECOVERED: 1}


def test_contact_that_is_always_lost_does_not_keep_a_text_for_ever() -> None:
    story = watched()
    story.poll(text(12, PANIC))
    for _ in range(60):
        story.poll(interrupted=True)
    assert story.counts() == {RECOVERED: 1}


def test_who_is_told_to_stop_after_a_text_has_survived_it() -> None:
    story = watched()
    story.poll(text(12, PANIC), stopping(14), down=True)
    story.poll(started(19), new=True)
    story.quiet(300)
    assert story.counts() == {RECOVERED: 1}


def test_data_races_and_recovered_panics_count_at_once() -> None:
    story = watched()
    story.poll(text(12, RACE), text(13, RECOVERED), text(14, RACE))
    assert story.found() == [(RACE, 12), (RECOVERED, 13), (RACE, 14)]
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {RACE: 2, RECOVERED: 1, UNEXPLAINED: 1}


def test_a_clock_that_is_set_back_ends_nothing_and_survives_nothing() -> None:
    story = watched()
    story.poll(text(12))
    story.at -= 3600
    story.quiet(20)
    assert story.counts() == {}
    story.poll(text(-3570, PANIC), new=True)
    assert story.counts() == {MAP: 1, PANIC: 1}
    story.poll(text(-3560, PANIC))
    story.quiet(60)
    assert story.counts() == {MAP: 1, PANIC: 1, RECOVERED: 1}


# --- Forewarn's own restart -------------------------------------------------------------------------------------------


def test_a_restart_from_before_the_first_start_is_not_counted() -> None:
    memory = Memory(boot=BootMemory(restarts=7, commands=10))
    story = Story(memory)
    story.quiet(300)
    assert story.counts() == {}


def test_between_text_and_end() -> None:
    story = watched()
    story.poll(text(12))
    story = story.restarted()
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_between_restart_and_text() -> None:
    story = watched()
    story.poll(new=True)
    story = story.restarted()
    story.poll()
    story.poll(text(12))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_after_the_crash_was_counted() -> None:
    story = watched()
    story.poll(text(12), down=True)
    story = story.restarted()
    story.poll(exited(12.2, status=2), started(18), new=True)
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_in_the_grace_of_an_end_without_a_text() -> None:
    story = watched()
    story.poll(new=True)
    for _ in range(4):
        story = story.restarted()
        story.poll()
        assert story.counts() == {}  # each run has only just begun to read
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_for_so_long_that_everything_would_be_over() -> None:
    story = watched()
    story.poll(text(12))
    story = story.restarted()
    story.at += 86_400
    story.poll(new=True)  # nothing has been read yet
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_for_a_day_in_the_grace_of_an_end_without_a_text() -> None:
    story = watched()
    story.poll(new=True)
    story.poll()
    story = story.restarted()
    story.at += 86_400
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_what_was_survived_is_not_told_before_the_log_was_read_again() -> None:
    story = watched()
    story.poll(text(12))
    story.quiet(10)
    story = story.restarted()
    story.at += 86_400
    story.poll()
    story.poll(started(13))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_a_crash_while_forewarn_was_away_is_counted_from_the_file() -> None:
    story = watched().restarted()
    story.at += 600
    story.poll(new=True)
    story.poll(text(100), started(101))
    story.quiet(300)
    assert story.counts() == {MAP: 1}


def test_an_end_while_forewarn_was_away_is_unexplained_where_the_log_went_on_from_where_it_was_left() -> None:
    story = watched().restarted()
    story.at += 600
    story.poll(new=True)
    story.quiet(300)
    assert story.counts() == {UNEXPLAINED: 1}


def test_an_end_while_nobody_read_is_not() -> None:
    """A pipe keeps nothing for those who come later."""
    story = watched()
    memory = story.restarted().signal.memory()
    away = Story(Memory(boot=story.boot.memory(), process=msgspec.structs.replace(memory, positions=())), 600)
    away.poll(new=True)
    away.quiet(300)
    assert away.counts() == {}


def test_what_is_counted_outlives_forewarn() -> None:
    story = watched()
    story.poll(text(12), started(13), text(14, RACE), Noticed(LogEvent.FLUSHED), new=True)
    story = story.restarted()
    verdict = story.poll()
    assert verdict is not None
    assert story.counts() == {MAP: 1, RACE: 1}
    assert verdict.events[LogEvent.FLUSHED] == 1
    assert [it.kind for it in verdict.incidents] == [MAP, RACE]
    assert verdict.found == ()
    assert verdict.read_bytes == 400


def test_a_state_file_from_before_all_this_is_understood() -> None:
    memory = msgspec.json.decode(b'{"boot": {"restarts": 2}, "connections": {"refused": 3}}', type=Memory)
    assert memory.process == ProcessMemory()
    assert memory.process.deaths == DeathsMemory()
    assert memory.connections.limit is None


# --- what is told -----------------------------------------------------------------------------------------------------


def test_where_nobody_reads_the_output_nothing_is_told() -> None:
    story = Story()
    for _ in range(10):
        assert story.poll(read=False) is None
    story.poll(new=True, read=False)
    assert story.poll(read=False) is None


def test_while_it_cannot_be_read_the_counts_stay() -> None:
    story = watched()
    story.poll(text(12), started(13), new=True)
    verdict = story.poll(read=False)
    assert verdict is not None
    assert verdict.crashes[MAP] == 1
    assert (verdict.unread_bytes, verdict.read_bytes, verdict.last_at) == (None, 300, NOW + 15)


def test_everything_that_can_be_counted_is_there_from_the_start() -> None:
    verdict = Story().poll()
    assert verdict is not None
    assert verdict.crashes == dict.fromkeys(CRASH_KINDS, 0)
    assert verdict.events == dict.fromkeys(LogEvent, 0)
    assert (verdict.races, verdict.recovered) == (0, 0)


def test_events_are_counted_by_line_and_reaped_connections_by_their_number() -> None:
    story = watched()
    reaped = LogEvent.WORKER_REAPED
    verdict = story.poll(
        Noticed(reaped, value=3), Noticed(reaped), Noticed(reaped, value=-1), Noticed(LogEvent.LIMIT, value=500)
    )
    assert verdict is not None
    assert {event: count for event, count in verdict.events.items() if count} == {reaped: 4, LogEvent.LIMIT: 1}


def test_the_text_of_an_incident_is_told_without_the_password_that_it_quotes() -> None:
    story = watched()
    said = "dial postgres://app:s3cr3t@db/jobs: no route"
    long = "x" * (MAX_ERROR - 24) + " redis://:s3cr3t-and-more"
    verdict = story.poll(text(12, RECOVERED, said), text(13, RECOVERED, long[:MAX_ERROR]))
    assert verdict is not None
    assert [it.message for it in verdict.found] == [
        "dial postgres://***@db/jobs: no route",
        "x" * (MAX_ERROR - 24) + " redis://***",
    ]
    assert b"s3cr3t" not in msgspec.json.encode(story.signal.memory())


# --- bounds -----------------------------------------------------------------------------------------------------------


def kinds(incidents: Sequence[Incident]) -> list[IncidentKind]:
    return [it.kind for it in incidents]


def test_only_the_newest_incidents_are_remembered_and_all_are_counted() -> None:
    story = watched()
    verdict = story.poll(*(text(number / 100, RACE) for number in range(1000)))
    assert verdict is not None
    assert len(verdict.incidents) == len(verdict.found) == INCIDENTS
    assert verdict.races == 1000
    assert verdict.incidents[-1].at == NOW + 9.99


def test_a_flood_of_one_kind_leaves_the_incidents_of_others() -> None:
    story = watched()
    story.poll(text(12), started(13), text(13.5, RACE), new=True)
    for number in range(100):
        story.poll(*(text(story.at + each / 100, RECOVERED) for each in range(number)))
    verdict = story.poll()
    assert verdict is not None
    assert kinds(verdict.incidents) == [MAP, RACE, *[RECOVERED] * (INCIDENTS - 2)]


def test_incidents_are_remembered_by_their_times() -> None:
    its = [text(3, RACE), text(1), text(2, PANIC)]
    assert kinds(newest(its, 50)) == [MAP, PANIC, RACE]
    assert kinds(newest([*its, text(5, RACE)], 3)) == [MAP, PANIC, RACE]
    assert newest([*its, text(5, RACE)], 3)[-1].at == NOW + 5


def test_what_waits_is_bounded() -> None:
    story = watched()
    story.poll(*(text(EVERY * number) for number in range(10 * PENDING)), hangs=True)
    assert len(story.signal.memory().deaths.texts) == PENDING
    story.poll(*(started(number) for number in range(10 * ENDS)), hangs=True)
    assert len(story.signal.memory().deaths.ends) == ENDS


def test_ends_are_forgotten_when_the_server_is_long_back() -> None:
    story = watched()
    for _ in range(5):
        story.poll(text(story.at + 1), started(story.at + 2), new=True)
    story.poll(new=True)
    story.quiet(30)
    story.poll(started(story.at + 3))
    story.quiet(FORGOTTEN + 30)
    assert story.signal.memory().deaths.ends == ()
