"""Ends of a process as systemd and the kernel print them: each is told once, and no other's."""

from __future__ import annotations

import pytest

from exporter.model import Exited
from exporter.process.exits import SAME_END, ExitLines

KILLED = "faktory.service: Main process exited, code=killed, status=9/KILL"
CRASHED = "faktory.service: Main process exited, code=exited, status=2/INVALIDARGUMENT"
ABORTED = "faktory.service: Main process exited, code=dumped, status=6/ABRT"
MARKED = "faktory.service: A process of this unit has been killed by the OOM killer."
OOM_RESULT = "faktory.service: Failed with result 'oom-kill'."
STOPPED = "faktory.service: Deactivated successfully."
KERNEL = (
    "Out of memory: Killed process 123 (faktory) total-vm:115232kB, anon-rss:520kB, file-rss:11700kB, shmem-rss:0kB, "
    "UID:0 pgtables:128kB oom_score_adj:0"
)
IN_CGROUP = "Memory cgroup out of memory: Killed process 123 (faktory) total-vm:115232kB, anon-rss:520kB"


def told(*lines: str, units: tuple[str, ...] = (), every: float = 0.01) -> list[Exited]:
    """Return the ends that these lines tell, one printed shortly after the other."""
    rules = ExitLines("faktory", units)
    found = [rules.read(line, 1000 + number * every) for number, line in enumerate(lines)]
    return [it for it in found if it is not None]


class TestOneLine:
    @pytest.mark.parametrize(
        ("line", "status", "signal", "out_of_memory"),
        [
            (KILLED, None, 9, False),
            (CRASHED, 2, None, False),
            (ABORTED, None, 6, False),
            ("faktory.service: Main process exited, code=exited, status=143/n/a", 143, None, False),
            ("faktory.service: main process exited, code=exited, status=1/FAILURE", 1, None, False),
            (STOPPED, 0, None, False),
            ("faktory.service: Succeeded.", 0, None, False),
            (OOM_RESULT, None, 9, True),
            (KERNEL, None, 9, True),
            (IN_CGROUP, None, 9, True),
            (f"kernel: [ 3449.257924] {KERNEL}", None, 9, True),
            (f"[345678.257924] {KERNEL}", None, 9, True),
            ("Killed process 123 (faktory), UID 0, total-vm:115232kB, anon-rss:520kB", None, 9, True),
        ],
    )
    def test_tells_an_end(self, line: str, status: int | None, signal: int | None, out_of_memory: bool) -> None:
        assert told(line) == [Exited(1000, status=status, signal=signal, out_of_memory=out_of_memory)]

    @pytest.mark.parametrize(
        "line",
        [
            KILLED.replace("faktory", "nginx"),
            KILLED.replace("faktory", "faktory-worker"),
            STOPPED.replace("faktory", "nginx"),
            OOM_RESULT.replace("faktory", "nginx"),
            KERNEL.replace("faktory", "redis-server"),
            MARKED,  # it may have been another process of the unit
            "faktory.service: Failed with result 'exit-code'.",
            "faktory.service: Scheduled restart job, restart counter is at 1.",
            "faktory.service: Control process exited, code=exited, status=1/FAILURE",
            "oom-kill:constraint=CONSTRAINT_MEMCG,task=faktory,pid=123,uid=0",
            f"I 2026-11-21T06:06:43.393Z No such job to acknowledge {KILLED}",
            f"I 2026-11-21T06:06:43.393Z No such job to acknowledge {KERNEL}",
        ],
    )
    def test_tells_none_that_is_not_the_servers(self, line: str) -> None:
        assert told(line) == []

    @pytest.mark.parametrize("line", [KILLED, CRASHED, MARKED, OOM_RESULT, STOPPED, KERNEL, IN_CGROUP])
    def test_has_one_of_the_literals(self, line: str) -> None:
        assert any(it in line.encode() for it in ExitLines("faktory").literals)

    def test_is_of_the_units_that_are_named(self) -> None:
        lines = [KILLED.replace("faktory", it) for it in ("jobs-eu", "jobs@2", "faktory", "other")]
        assert len(told(*lines, units=("jobs-*", "jobs@2.service"))) == 2

    def test_without_a_time_tells_none(self) -> None:
        assert ExitLines("faktory").read(CRASHED, None) == Exited(None, status=2)


KILLED_FOR_MEMORY = [Exited(1000, signal=9, out_of_memory=True)]


class TestOneEnd:
    def test_of_which_the_unit_tells_first_that_it_was_for_memory_is_told_once(self) -> None:
        assert told(MARKED, KILLED, OOM_RESULT) == [Exited(1000.01, signal=9, out_of_memory=True)]

    def test_of_which_the_kernel_tells_first_is_told_once(self) -> None:
        assert told(KERNEL, MARKED, KILLED, OOM_RESULT) == KILLED_FOR_MEMORY
        assert told(IN_CGROUP, KILLED) == KILLED_FOR_MEMORY

    def test_whose_reason_is_told_last_only_is_told_again_with_it(self) -> None:
        assert told(KILLED, OOM_RESULT) == [Exited(1000, signal=9), Exited(1000.01, signal=9, out_of_memory=True)]

    def test_after_which_the_unit_is_done_is_told_once(self) -> None:
        assert told(CRASHED, STOPPED) == [Exited(1000, status=2)]

    def test_of_a_process_that_crashes_again_at_once_is_another(self) -> None:
        assert len(told(CRASHED, CRASHED, KILLED, KILLED)) == 4

    def test_soon_after_one_that_was_for_memory_is_another(self) -> None:
        for lines in ((KERNEL, KILLED, KILLED), (MARKED, KILLED, KILLED)):
            assert [it.out_of_memory for it in told(*lines)] == [True, False]

    def test_long_after_the_kernel_killed_one_is_another(self) -> None:
        ends = told(KERNEL, KILLED, every=SAME_END + 1)
        assert [it.out_of_memory for it in ends] == [True, False]

    def test_that_another_process_of_the_unit_was_killed_for_memory_does_not_explain_a_later_one(self) -> None:
        assert told(MARKED, KILLED, every=SAME_END + 1) == [Exited(1000 + SAME_END + 1, signal=9)]

    def test_by_itself_is_not_for_memory_though_another_process_of_the_unit_was(self) -> None:
        assert told(MARKED, CRASHED) == [Exited(1000.01, status=2)]
