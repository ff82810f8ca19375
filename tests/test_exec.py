"""`forewarn exec`: the program under it must neither see nor feel that it is there, whatever befalls Forewarn."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exporter.process.supervise import FAREWELL, STUCK
from tests.servers import alive, children
from tests.supervised import (
    DEADLINE,
    PYTHON,
    QUIET,
    catches,
    environment,
    exactly,
    line,
    masked,
    next_line,
    run,
    signals,
    state,
    supervised,
    until,
)

MIB = 1024 * 1024
CATCHABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})

WAITS = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("ready")
while (number := signal.sigwait(signal.valid_signals())) != signal.SIGTERM:
    print(int(number))
"""
"""Says which signals it gets, and ends with SIGTERM."""

ANSWERS = """
import sys
for line in sys.stdin:
    size = int(line)
    sys.stdout.write("x" * size + "\\n")
print("end")
"""
"""Writes as many bytes as it is told to."""

COUNTS = """
import os, signal, time
def told(number, frame): os.write(1, b"%d\\n" % number)
for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGCONT): signal.signal(number, told)
print(os.getpid())
while True: time.sleep(60)
"""
"""Says its process id, and then which of three signals it gets."""


# --- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 2, 42, 127, 255])
def test_ends_with_the_status_of_the_program(status: int) -> None:
    assert run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP, signal.SIGRTMIN])
def test_ends_by_the_signal_that_ended_the_program(number: int) -> None:
    assert run("sh", "-c", f"kill -{int(number)} $$").returncode == -number


def test_dies_without_a_core_of_its_own(tmp_path: Path) -> None:
    if "|" in Path("/proc/sys/kernel/core_pattern").read_text():
        pytest.skip("a program collects the cores of this machine: none may be made")

    def cores() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (64 * MIB, 64 * MIB))

    # Not by the program itself, which may: it is ended by a signal that leaves none.
    process = subprocess.Popen(
        line(*PYTHON, "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()"),
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": os.getcwd()},
        preexec_fn=cores,  # noqa: PLW1509 - no other thread runs
    )
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("there-is-no-such-program", 127),
        ("/nor/such/a/file", 127),
        ("/etc/passwd", 126),
        ("/etc", 126),
        ("/etc/passwd/file", 126),
    ],
)
def test_says_why_a_command_cannot_be_run(command: str, status: int) -> None:
    ended = run(command)
    assert ended.returncode == status
    assert ended.stderr.decode().startswith(f"forewarn: cannot run {command}: ")
    assert ended.stderr.count(b"\n") == 1


def test_a_program_that_no_system_can_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF of another world")
    program.chmod(0o755)
    ended = run(str(program))
    assert ended.returncode == 126
    assert b"it is no program of this machine" in ended.stderr


# --- what the program is given --------------------------------------------------------------------------------------


def test_the_environment_is_untouched() -> None:
    given = {"A": "1", "ODD": "\udcff=\n", "PYTHONPATH": os.getcwd()}
    ended = run(*PYTHON, "import sys; sys.stdout.buffer.write(open('/proc/self/environ', 'rb').read())", env=given)
    assert ended.stdout == b"".join(os.fsencode(f"{name}={value}\0") for name, value in given.items())


def test_arguments_are_untouched() -> None:
    arguments = ["", " ", "--", "--faktory.url=x", "*", "\udcff\n", "-h"]
    ended = run("printf", "%s|", *arguments)
    assert ended.stdout == b"".join(os.fsencode(it) + b"|" for it in arguments)


def test_signals_are_as_they_were() -> None:
    told = run("cat", "/proc/self/status").stdout.decode().splitlines()
    ours = Path("/proc/self/status").read_text().splitlines()
    assert masked(told, "SigBlk") == masked(ours, "SigBlk")
    # Python itself ignores two; two have no name, for they are the C library's own.
    ignored, before = (masked(it, "SigIgn") & signal.valid_signals() for it in (told, ours))
    assert ignored == before - {signal.SIGPIPE, signal.SIGXFSZ}


def test_signals_that_were_ignored_and_blocked_stay_so() -> None:
    told = run("cat", "/proc/self/status", preexec_fn=_ignore_and_block).stdout.decode().splitlines()
    assert signal.SIGHUP in masked(told, "SigIgn")
    assert masked(told, "SigBlk") == {signal.SIGUSR2}


def _ignore_and_block() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})


def test_only_the_files_that_were_handed_over_are_open() -> None:
    with socket.socket() as handed:
        ended = run("ls", "/proc/self/fd", pass_fds=[handed.fileno()])
        assert {*map(int, ended.stdout.split())} - {handed.fileno()} <= {0, 1, 2, 3, 4}
        assert handed.fileno() in map(int, ended.stdout.split())


def test_what_was_handed_over_to_the_program_is_not_held_by_the_watcher() -> None:
    with socket.socket() as handed, supervised("sleep", "60", pass_fds=[handed.fileno()]) as it:
        watcher = it.wait_for_watcher()
        inode = f"socket:[{os.fstat(handed.fileno()).st_ino}]"
        assert inode in _open_files(it.program())
        assert inode not in _open_files(watcher)


def _open_files(pid: int) -> set[str]:
    return {os.readlink(it) for it in Path(f"/proc/{pid}/fd").iterdir()}


def test_standard_input_is_the_program_s() -> None:
    assert run("cat", input=b"\0one\ntwo").stdout == b"\0one\ntwo"


def test_who_writes_to_a_program_that_closed_its_input_learns_that() -> None:
    with supervised("sh", "-c", "exec <&-; echo closed; sleep 60", stdin=subprocess.PIPE) as it:
        assert it.says() == b"closed\n"
        assert it.process.stdin is not None
        with pytest.raises(BrokenPipeError):
            it.process.stdin.write(b"x")


def test_runs_with_all_standard_streams_closed(tmp_path: Path) -> None:
    there = tmp_path / "there"
    command = shlex.join(line("sh", "-c", f"echo out; echo err >&2; readlink /proc/self/fd/0 >{there}; exit 7"))
    ended = subprocess.run(["sh", "-c", f"exec <&- >&- 2>&-; exec {command}"], env=environment(), timeout=DEADLINE)
    assert ended.returncode == 7
    assert there.read_text() == "/dev/null\n"


# --- signals --------------------------------------------------------------------------------------------------------


def test_every_signal_is_passed_on_once() -> None:
    with supervised(*PYTHON, WAITS) as it:
        assert it.says() == b"ready\n"
        expected = [number for number in CATCHABLE if number != signal.SIGTERM]
        for number in expected:
            os.kill(it.pid, number)
            assert int(it.says()) == number
        os.kill(it.pid, signal.SIGTERM)
        assert it.process.wait(DEADLINE) == 0
        assert it.process.stdout is not None
        assert it.process.stdout.read() == b""


def test_a_signal_that_came_before_the_program_was_started_reaches_it() -> None:
    def pending() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)

    program = "import signal; print(int(signal.sigwait({signal.SIGUSR1})))"
    assert int(run(*PYTHON, program, preexec_fn=pending).stdout) == signal.SIGUSR1


def test_a_signal_of_a_process_reaches_the_program_and_not_its_children() -> None:
    with supervised("sh", "-c", f"trap 'echo got it' USR1; {shlex.join((*PYTHON, COUNTS))} & wait; wait") as it:
        child = int(it.says())
        os.kill(it.pid, signal.SIGUSR1)
        assert it.says() == b"got it\n"
        os.kill(child, signal.SIGINT)
        assert int(it.says()) == signal.SIGINT
        os.kill(child, signal.SIGKILL)


def test_the_program_is_not_in_the_group_that_a_terminal_sends_signals_to() -> None:
    with supervised("sleep", "60") as it:
        program = it.program()
        assert os.getsid(program) == os.getpgid(program) == program


# --- output ---------------------------------------------------------------------------------------------------------


def test_output_is_passed_on_byte_for_byte(tmp_path: Path) -> None:
    out, err = (random.Random(seed).randbytes(MIB + 1) for seed in (1, 2))
    (tmp_path / "out").write_bytes(out)
    (tmp_path / "err").write_bytes(err)
    ended = run("sh", "-c", f"cat {tmp_path}/err >&2 & cat {tmp_path}/out; wait", flags=QUIET)
    assert ended.stdout == out
    assert ended.stderr == err


def test_a_hundred_megabytes_pass() -> None:
    block = random.Random(3).randbytes(MIB)
    program = "import random, os\nblock = random.Random(3).randbytes(1 << 20)\nfor _ in range(100): os.write(1, block)"
    with supervised(*PYTHON, program, stdout=subprocess.PIPE) as it:
        passed = hashlib.sha256()
        assert it.process.stdout is not None
        while chunk := it.process.stdout.read(MIB):
            passed.update(chunk)
        assert it.process.wait(DEADLINE) == 0
    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(block)
    assert passed.digest() == expected.digest()


def test_two_streams_that_lead_to_one_place_keep_their_order() -> None:
    program = "import os\nfor number in range(5000): os.write(1 + number % 2, b'%d\\n' % number)"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "capture_output": False}
    ended = run(*PYTHON, program, flags=QUIET, **streams)
    assert [*map(int, ended.stdout.split())] == [*range(5000)]


def test_a_program_whose_output_nobody_reads_any_more_lives_on() -> None:
    program = "import os\nos.write(1, b'first\\n')\nfor _ in range(100): os.write(1, bytes(1 << 16))\nos._exit(3)"
    with supervised(*PYTHON, program, flags=QUIET) as it:
        assert it.says() == b"first\n"
        assert it.process.stdout is not None
        it.process.stdout.close()
        assert it.process.wait(DEADLINE) == 3
        assert it.process.stderr is not None
        told = it.process.stderr.read().decode()
        assert told.count("\n") == 1
        assert told.startswith("forewarn: the server's output cannot be written to standard output (Broken pipe): ")


def test_a_program_lives_on_when_the_disk_is_full() -> None:
    program = "import os\nfor _ in range(100): os.write(1, bytes(1 << 16))\nos._exit(3)"
    with Path("/dev/full").open("wb") as full:
        ended = run(*PYTHON, program, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert ended.returncode == 3
    assert ended.stderr.count(b"No space left on device") == 1


def test_output_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(fifo, os.O_WRONLY)
    with supervised(*PYTHON, ANSWERS, flags=QUIET, stdin=subprocess.PIPE, stdout=writing) as it:
        os.close(writing)
        os.close(reading)
        assert it.process.stdin is not None
        assert it.process.stderr is not None
        it.process.stdin.write(b"10\n")
        assert b"Broken pipe" in next_line(it.process.stderr)
        with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as again:
            it.process.stdin.write(b"20\n")
            assert next_line(again) == b"x" * 20 + b"\n"


def test_a_slow_reader_slows_the_program_down_as_without_us_and_loses_nothing() -> None:
    program = "import os\nfor number in range(1000): os.write(1, bytes(10000)); os.write(2, b'%d\\n' % number)"
    with supervised(*PYTHON, program, flags=QUIET) as it:
        assert it.process.stdout is not None
        assert it.process.stderr is not None
        # Two pipes of 64 KiB, and as much between them.
        reached = _last_line_before_silence(it.process.stderr.fileno(), at_least=6)
        assert 6 <= reached <= 3 * 7
        rest = 0
        while chunk := it.process.stdout.read(MIB):
            rest += len(chunk)
        assert rest == 10_000_000
        assert it.process.wait(DEADLINE) == 0


def _last_line_before_silence(stream: int, *, at_least: int) -> int:
    told, last = b"", -1
    while select.select([stream], [], [], 1.0 if last >= at_least else DEADLINE)[0]:
        told += os.read(stream, MIB)
        last = int(told.rpartition(b"\n")[0].split()[-1]) if b"\n" in told else -1
    return last


def test_nothing_is_lost_where_somebody_made_our_output_one_that_never_waits() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    program = "import os\nfor _ in range(50): os.write(1, bytes(100000))"
    with supervised(*PYTHON, program, flags=QUIET, stdout=writing) as it:
        os.close(writing)
        with open(reading, "rb", buffering=0) as stream:
            assert it.process.stderr is not None
            size = 0
            for _ in range(50):
                until(lambda: _waiting(reading) >= 60 * 1024, "the pipe is full")
                size += len(stream.read(8192))
            while chunk := stream.read(MIB):
                size += len(chunk)
            assert size == 5_000_000
            assert it.process.stderr.read() == b""


def _waiting(pipe: int) -> int:
    """How many bytes are in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_children_of_the_program_that_outlive_it_do_not_hold_up_its_end_and_can_print_on() -> None:
    reading, writing = os.pipe()
    leaves = f"import os\nprint('early')\nif not os.fork(): os.read({reading}, 1); print('late')"
    with supervised(*PYTHON, leaves, pass_fds=[reading]) as it:
        os.close(reading)
        assert it.says() == b"early\n"
        assert it.process.wait(DEADLINE) == 0
        os.write(writing, b"x")
        os.close(writing)
        assert it.says() == b"late\n"
        assert it.process.stdout is not None
        assert it.process.stdout.read() == b""


def test_a_reader_that_stopped_reading_does_not_hold_up_the_end() -> None:
    with supervised("sh", "-c", "head -c 100000 /dev/zero; exit 4") as it:
        started = time.monotonic()
        assert it.process.wait(DEADLINE) == 4
        assert time.monotonic() - started < STUCK + FAREWELL
        assert it.process.stderr is not None
        assert b"nobody reads the last of the server's output" in it.process.stderr.read()


# --- Forewarn's own troubles ----------------------------------------------------------------------------------------


def test_a_killed_watcher_is_started_anew_and_the_program_notices_nothing() -> None:
    with supervised(*PYTHON, ANSWERS, flags=QUIET, stdin=subprocess.PIPE) as it:
        first = it.wait_for_watcher()
        os.kill(first, signal.SIGKILL)
        second = it.wait_for_watcher(other_than=first)
        assert alive(second)
        assert it.process.stdin is not None
        assert it.process.stderr is not None
        assert b"was killed by signal 9; the server runs on" in next_line(it.process.stderr)
        it.process.stdin.write(b"1000\n")
        assert it.says() == b"x" * 1000 + b"\n"
        it.process.stdin.close()
        assert it.process.wait(DEADLINE) == 0


def test_output_flows_on_while_the_watcher_hangs() -> None:
    with supervised(*PYTHON, ANSWERS, stdin=subprocess.PIPE) as it:
        os.kill(it.wait_for_watcher(), signal.SIGSTOP)
        assert it.process.stdin is not None
        assert it.process.stdout is not None
        it.process.stdin.write(b"5000000\n")
        it.process.stdin.close()
        assert len(it.process.stdout.read()) == 5_000_000 + len("\nend\n")
        assert it.process.wait(2 * FAREWELL) == 0


def test_the_program_outlives_us_and_its_output_still_flows() -> None:
    with supervised(*PYTHON, ANSWERS, stdin=subprocess.PIPE) as it:
        program, watcher = it.program(), it.wait_for_watcher()
        os.kill(it.pid, signal.SIGKILL)
        it.process.wait()
        assert it.process.stdin is not None
        assert it.process.stdout is not None
        for _ in range(3):
            it.process.stdin.write(b"500000\n")
            assert exactly(it.process.stdout, 500_001) == b"x" * 500_000 + b"\n"
        assert alive(program)
        it.process.stdin.close()
        assert it.says() == b"end\n"
        until(lambda: not alive(program), "the program has ended")
        until(lambda: not alive(watcher), "nothing is left behind")


def test_the_watcher_is_the_first_that_the_kernel_ends_for_want_of_memory() -> None:
    with supervised("sleep", "60") as it:
        watcher = it.wait_for_watcher()
        assert int(Path(f"/proc/{watcher}/oom_score_adj").read_text()) == 1000
        ours = int(Path("/proc/self/oom_score_adj").read_text())
        assert int(Path(f"/proc/{it.program()}/oom_score_adj").read_text()) == ours


def test_signals_that_are_sent_to_everybody_do_not_end_the_watcher() -> None:
    with supervised(*PYTHON, WAITS) as it:
        watcher = it.wait_for_watcher()
        assert it.says() == b"ready\n"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(watcher, number)
        os.kill(watcher, signal.SIGSTOP)
        os.kill(watcher, signal.SIGCONT)
        until(lambda: state(watcher) in {"S", "R"}, "it goes on")
        assert not signals(watcher, "SigPnd") & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
        assert alive(watcher)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--interval=nonsense"], "--interval"),
        (["--config=/nor/such/a/file"], "/nor/such/a/file"),
        ([], "nothing to watch is configured"),
        ([*QUIET, "--exec.server=other"], "--exec.server other: no server of that name is configured; name one of"),
    ],
)
def test_with_wrong_settings_the_program_runs_all_the_same(flags: list[str], told: str) -> None:
    with supervised(*PYTHON, ANSWERS, stdin=subprocess.PIPE, flags=flags) as it:
        assert it.process.stdin is not None
        assert it.process.stderr is not None
        assert told in next_line(it.process.stderr).decode()
        assert b"the server runs, but nobody watches it" in next_line(it.process.stderr)
        it.process.stdin.write(b"10\n")
        assert it.says() == b"x" * 10 + b"\n"
        it.process.stdin.close()
        assert it.process.wait(DEADLINE) == 0


def test_a_password_is_on_no_command_line_of_ours_once_the_program_runs() -> None:
    with supervised("sleep", "60", flags=[*QUIET, "--faktory.url=tcp://:geheim@127.0.0.1:1"]) as it:
        it.program()
        for pid in (it.pid, it.wait_for_watcher()):
            assert b"geheim" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_takes_little_memory_for_as_long_as_the_program_lives() -> None:
    with supervised("sleep", "60") as it:
        it.wait_for_watcher()
        lines = Path(f"/proc/{it.pid}/smaps_rollup").read_text().splitlines()
        assert next(int(it.split()[1]) for it in lines if it.startswith("Rss:")) < 15 * 1024


# --- as process 1 ---------------------------------------------------------------------------------------------------

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture
def as_init() -> tuple[str, ...]:
    """What makes the next program process 1 of a world of its own."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("no PID namespace may be made here (unshare --pid): run as root to prove what process 1 does")
    return UNSHARE


def test_as_process_1_ends_with_128_and_the_signal(as_init: tuple[str, ...]) -> None:
    command = [*as_init, *line("sh", "-c", "kill -USR1 $$")]
    assert subprocess.run(command, env=environment(), timeout=DEADLINE).returncode == 128 + signal.SIGUSR1


def test_as_process_1_collects_what_lost_its_parent(as_init: tuple[str, ...]) -> None:
    orphans = """
        for _ in 1 2 3 4 5; do (sleep 0.01 &); done
        look() { seen=$(cat /proc/[0-9]*/stat 2>/dev/null); }
        while look; echo "$seen" | grep -qE '[)] Z |[(]sleep[)]'; do sleep 0.1; done
        echo "$seen"
    """
    ended = subprocess.run(
        [*as_init, *line("sh", "-c", orphans)], env=environment(), timeout=DEADLINE, capture_output=True, text=True
    )
    assert "(sh) " in ended.stdout
    assert ") Z " not in ended.stdout


def test_as_process_1_passes_signals_on(as_init: tuple[str, ...]) -> None:
    process = subprocess.Popen([*as_init, *line(*PYTHON, WAITS)], env=environment(), stdout=subprocess.PIPE, bufsize=0)
    try:
        assert process.stdout is not None
        assert next_line(process.stdout) == b"ready\n"
        init = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        os.kill(init, signal.SIGHUP)
        assert int(next_line(process.stdout)) == signal.SIGHUP
        os.kill(init, signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


# --- at a terminal --------------------------------------------------------------------------------------------------

SHELL = """
import fcntl, os, signal, sys, termios
report, orders, jobs, *command = sys.argv[1:]
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    if jobs == "jobs":
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(command[0], command)
if jobs != "jobs":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
while os.WIFSTOPPED(os.waitpid(job, os.WUNTRACED)[1]):
    os.write(int(report), b"stopped\\n")
    os.read(int(orders), 1)
    os.killpg(job, signal.SIGCONT)
"""
"""A shell as small as can be: it runs one job at its terminal, and lets it go on when it is told to."""


class Terminal:
    """`forewarn exec` as the job of a shell, and who sits at the terminal."""

    def __init__(self, *command: str, jobs: bool) -> None:
        self._keyboard, theirs = os.openpty()
        report, writing = os.pipe()
        reading, self._orders = os.pipe()
        self._report = open(report, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        shell = [sys.executable, "-c", SHELL, str(writing), str(reading), "jobs" if jobs else "none"]
        self._shell = subprocess.Popen(
            [*shell, *line(*command)],
            env=environment(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[writing, reading],
            bufsize=0,
        )
        for descriptor in (theirs, writing, reading):
            os.close(descriptor)

    def press(self, key: bytes) -> None:
        os.write(self._keyboard, key)

    def says(self) -> int:
        """The next line of the program's."""
        assert self._shell.stdout is not None
        return int(next_line(self._shell.stdout))

    def job_stops(self) -> None:
        """Wait until the shell sees that."""
        assert next_line(self._report) == b"stopped\n"

    def let_job_go_on(self) -> None:
        os.write(self._orders, b"x")

    @property
    def job(self) -> int:
        """The process that runs the program."""
        return children(self._shell.pid)[0]

    def close(self) -> None:
        for pid in children(self._shell.pid):
            for child in children(pid):
                os.kill(child, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        self._shell.kill()
        self._shell.wait()
        assert self._shell.stdout is not None
        self._shell.stdout.close()
        self._report.close()
        os.close(self._keyboard)
        os.close(self._orders)


def test_ctrl_c_reaches_the_program_once() -> None:
    with closing(Terminal(*PYTHON, COUNTS, jobs=True)) as terminal:
        terminal.says()
        terminal.press(b"\x03")
        assert terminal.says() == signal.SIGINT
        os.kill(terminal.job, signal.SIGUSR1)
        assert terminal.says() == signal.SIGUSR1


def test_ctrl_c_reaches_the_children_of_the_program_too_as_at_every_terminal() -> None:
    with closing(Terminal("sh", "-c", f"{shlex.join((*PYTHON, COUNTS))}; true", jobs=True)) as terminal:
        terminal.says()
        terminal.press(b"\x03")
        assert terminal.says() == signal.SIGINT


def test_ctrl_z_stops_the_program_and_the_shell_lets_it_go_on() -> None:
    with closing(Terminal(*PYTHON, COUNTS, jobs=True)) as terminal:
        program = terminal.says()
        terminal.press(b"\x1a")
        terminal.job_stops()
        until(lambda: state(program) == "T", "the program is stopped")
        terminal.let_job_go_on()
        assert terminal.says() == signal.SIGCONT
        until(lambda: state(program) == "S", "the program goes on")
        until(lambda: state(terminal.job) == "S", "what runs it sleeps again")


def test_ctrl_z_does_not_stop_for_ever_where_no_shell_could_let_it_go_on() -> None:
    with closing(Terminal(*PYTHON, COUNTS, jobs=False)) as terminal:
        program = terminal.says()
        terminal.press(b"\x1a")
        assert terminal.says() == signal.SIGCONT
        until(lambda: state(program) == "S", "the program goes on")
        until(lambda: state(terminal.job) == "S", "what runs it goes on")


# --- what is counted -----------------------------------------------------------------------------------------------

REFUSED = (
    "--faktory.url=tcp://127.0.0.1:1",
    "--faktory.web-url=http://127.0.0.1:1",
    "--web.listen-address=127.0.0.1:0",
)
"""Settings for a server that is not there."""

PANIC = "panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:3 +0x1d\n"


def crashes(kept: Path) -> dict[str, int]:
    """How many of each kind the state file tells of, but for those that were not."""
    counted = json.loads(kept.read_text())["servers"]["faktory"]["process"]["crashes"]
    return {kind: count for kind, count in counted.items() if count}


def test_a_crash_in_the_first_moment_is_counted(tmp_path: Path) -> None:
    flags = [*REFUSED, f"--state-file={tmp_path}/state"]
    ended = run("sh", "-c", f"printf '{PANIC}' >&2; exit 2", flags=flags)
    assert ended.returncode == 2
    assert crashes(tmp_path / "state") == {"panic": 1}


def test_last_words_that_came_while_nobody_watched_are_counted(tmp_path: Path) -> None:
    program = f"import os, sys\nsys.stdin.readline()\nsys.stderr.write({PANIC!r})\nsys.stdin.read()\nos._exit(2)"
    flags = [*REFUSED, f"--state-file={tmp_path}/state"]
    with supervised(*PYTHON, program, flags=flags, stdin=subprocess.PIPE, stderr=subprocess.STDOUT) as it:
        watcher = it.wait_for_watcher()
        os.kill(watcher, signal.SIGSTOP)
        assert it.process.stdin is not None
        it.process.stdin.write(b"\n")
        while it.says() != b"main.main()\n":
            pass
        os.kill(watcher, signal.SIGKILL)
        it.process.stdin.close()
        assert it.process.wait(DEADLINE) == 2
    assert crashes(tmp_path / "state") == {"panic": 1}


def test_a_crash_whose_words_came_too_fast_to_be_read_is_counted_all_the_same(tmp_path: Path) -> None:
    flood = "for _ in range(400): os.write(2, b'x' * 99999 + b'\\n')"
    program = f"import os\n{flood}\nos.write(2, {PANIC!r}.encode())\nos._exit(2)"
    flags = [*REFUSED, f"--state-file={tmp_path}/state"]
    assert run(*PYTHON, program, flags=flags, stderr=subprocess.DEVNULL, capture_output=False).returncode == 2
    assert sum(crashes(tmp_path / "state").values()) == 1


# --- out of memory --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_world() -> Iterator[Path]:
    """A control group with 250 MiB of memory: its ``cgroup.procs``."""
    name, limit = f"forewarn-test-{os.getpid()}", "memory.max"
    groups = [it.split(":", 2)[1:] for it in Path("/proc/self/cgroup").read_text().splitlines()]
    folder = next((Path(f"/sys/fs/cgroup{path}", name) for controllers, path in groups if not controllers), None)
    for controllers, path in groups:
        if "memory" in controllers.split(","):
            folder, limit = Path(f"/sys/fs/cgroup/memory{path}", name), "memory.limit_in_bytes"
    if folder is None:
        pytest.skip("this machine has no control groups")
    try:
        folder.mkdir()
        (folder / limit).write_text(str(250 * MIB))
    except OSError as error:
        pytest.skip(f"no control group with a limit of memory can be made here ({error}): run as root to prove it")
    try:
        yield folder / "cgroup.procs"
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text(), "all in the control group have ended")
        folder.rmdir()


def test_a_kill_for_want_of_memory_is_told_from_others(small_world: Path, tmp_path: Path) -> None:
    kept = tmp_path / "state"
    flags = [*REFUSED, f"--state-file={kept}"]
    program = "import os\nprint('ready')\nos.read(0, 1)\nkept = []\nwhile True: kept.append(b'x' * (1 << 20))"
    enter = f"echo $$ > {small_world} && exec " + shlex.join(line(*PYTHON, program, flags=flags))
    with subprocess.Popen(
        ["sh", "-c", enter], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        until(lambda: any(catches(it, signal.SIGTERM) for it in children(process.pid)), "a process watches")
        process.stdin.write(b"x")
        process.stdin.close()
        assert process.wait(DEADLINE) == -signal.SIGKILL
    assert crashes(kept) == {"out-of-memory": 1}
