"""The server's process as the kernel tells it: found by its socket, told apart from others, and not made up."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model import Failure, ProcessFacts, Reason
from exporter.process.proc import RECHECK, ServerProcess, parse_max_fds, parse_stat
from tests.servers import wait_until

NAME = "faktory"
SERVER = """
import socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
server = socket.create_server(("127.0.0.1", 0))
held = [open("/dev/null") for _ in range(int(sys.argv[2]))]
import os
print(os.fstat(server.fileno()).st_ino, flush=True)
sys.stdin.read()
"""


class Server:
    """A process of a given name that listens, until it is told to end."""

    def __init__(self, name: str = NAME, files: int = 0) -> None:
        arguments = [sys.executable, "-c", SERVER, name, str(files)]
        self.before = time.time()
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.inode = int(self.process.stdout.readline())
        self.pid = self.process.pid

    def end(self) -> None:
        self.process.communicate()


@contextmanager
def serving(name: str = NAME, files: int = 0) -> Iterator[Server]:
    server = Server(name, files)
    try:
        yield server
    finally:
        server.end()


async def pid_of(process: ServerProcess, inode: int | None, told: int | None = None) -> int | None:
    facts, failure = await process.read(inode, told)
    assert failure is None
    return None if facts is None else facts.pid


class TestARealProcess:
    async def test_is_found_by_the_socket_on_which_it_listens(self) -> None:
        with serving() as server, serving() as other:
            assert await pid_of(ServerProcess(NAME), server.inode) == server.pid
            assert await pid_of(ServerProcess(NAME), other.inode) == other.pid

    async def test_is_told_with_its_files_its_memory_and_its_start(self) -> None:
        with serving(files=100) as server:
            facts, _ = await ServerProcess(NAME).read(server.inode, None)
            assert facts is not None
            assert facts.started_at is not None
            assert server.before - 0.1 <= facts.started_at <= time.time()
            assert facts.open_fds == len(os.listdir(f"/proc/{server.pid}/fd"))
            assert facts.open_fds >= 100
            assert facts.max_fds == resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[0]
            assert facts.resident_bytes is not None
            assert 2**20 < facts.resident_bytes < 2**30

    async def test_tells_the_same_start_always(self) -> None:
        with serving() as server:
            process = ServerProcess(NAME)
            assert len({(await process.read(server.inode, None))[0] for _ in range(5)}) == 1

    async def test_may_have_a_longer_name(self) -> None:
        with serving("faktory-1.10.0") as server:
            assert await pid_of(ServerProcess(NAME), server.inode) == server.pid

    async def test_that_stands_before_the_server_is_not_the_server(self) -> None:
        with serving("docker-proxy") as server:
            assert await pid_of(ServerProcess(NAME), server.inode) is None
            assert await pid_of(ServerProcess(NAME), server.inode, server.pid) is None

    async def test_is_looked_for_again_when_it_has_ended(self) -> None:
        process = ServerProcess(NAME)
        with serving() as server:
            assert await pid_of(process, server.inode) == server.pid
        assert await pid_of(process, server.inode) is None
        assert await pid_of(process, None) is None
        with serving() as server:
            assert await pid_of(process, server.inode) == server.pid

    async def test_that_has_ended_and_waits_for_its_parent_is_none(self) -> None:
        with serving() as server:
            process = ServerProcess(NAME)
            assert await pid_of(process, server.inode) == server.pid
            server.process.kill()
            await wait_until(lambda: b"Z" in Path(f"/proc/{server.pid}/stat").read_bytes().rpartition(b")")[2])
            assert await pid_of(process, server.inode) is None

    async def test_is_known_by_what_it_told_where_its_socket_is_not(self) -> None:
        with serving() as server:
            assert await pid_of(ServerProcess(NAME), None, server.pid) == server.pid

    async def test_is_not_the_one_that_was_told_where_that_has_not_the_socket(self) -> None:
        """In a container the server may tell a process id that is another's here."""
        with serving() as server, serving() as other:
            assert await pid_of(ServerProcess(NAME), server.inode, other.pid) == server.pid

    async def test_of_which_nothing_is_known_is_not_looked_for(self, tmp_path: Path) -> None:
        assert await ServerProcess(NAME, root=tmp_path / "none").read(None, None) == (None, None)

    async def test_leaves_no_file_open(self) -> None:
        with serving() as server:
            process = ServerProcess(NAME)
            await process.read(server.inode, None)
            before = len(os.listdir("/proc/self/fd"))
            for inode in (server.inode, 1, server.inode):
                await process.read(inode, server.pid)
            assert len(os.listdir("/proc/self/fd")) == before


class Processes:
    """Plays the kernel's folder of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, pid: int, *, name: str = NAME, ticks: int = 5000, inode: int = 77, state: str = "S") -> None:
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        fields = [state, *["0"] * 18, str(ticks), "0", "256", *["0"] * 20]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (folder / "limits").write_text("Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n")
        link = folder / "fd" / "3"
        link.unlink(missing_ok=True)
        link.symlink_to(f"socket:[{inode}]")


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def of(processes: Processes, clock: Time | None = None, deadline: float = 5.0) -> ServerProcess:
    return ServerProcess(NAME, root=processes.root, clock=clock or Time(), deadline=deadline)


def forbid(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Let no folder of open files be read."""
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "fd":
            raise OSError(error, os.strerror(error))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


class TestAnyProcess:
    async def test_whose_id_is_anothers_by_now_is_looked_for_again(self, processes: Processes) -> None:
        process = of(processes)
        processes.add(10)
        processes.add(20, inode=5)
        before, _ = await process.read(77, None)
        processes.add(10, ticks=9000, inode=5)
        processes.add(20)
        assert await pid_of(process, 77) == 20
        processes.add(20, ticks=9000)
        after, _ = await process.read(77, None)
        assert before is not None
        assert after is not None
        assert before.started_at is not None
        assert after.started_at is not None
        assert after.started_at - before.started_at == pytest.approx(4000 / os.sysconf("SC_CLK_TCK"), abs=0.5)

    async def test_that_was_not_found_is_looked_for_once_a_minute(self, processes: Processes) -> None:
        clock = Time()
        process = of(processes, clock)
        assert await pid_of(process, 77) is None
        processes.add(10)
        clock.now = RECHECK - 1
        assert await pid_of(process, 77) is None
        clock.now = RECHECK
        assert await pid_of(process, 77) == 10

    async def test_is_looked_for_at_once_when_another_socket_listens(self, processes: Processes) -> None:
        process = of(processes)
        assert await pid_of(process, 77) is None
        processes.add(10, inode=78)
        assert await pid_of(process, 78) == 10

    async def test_of_another_user_is_known_where_the_log_tells_it(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processes.add(10)
        processes.add(11, name="other")
        forbid(monkeypatch, errno.EACCES)
        assert await of(processes).read(77, None) == (None, None)
        assert await pid_of(of(processes), 77, 10) == 10
        assert await pid_of(of(processes), 77, 11) is None

    @pytest.mark.parametrize("missing", ["limits", "fd"])
    async def test_that_is_told_in_part_is_told_in_part(self, processes: Processes, missing: str) -> None:
        processes.add(10)
        path = processes.root / "10" / missing
        path.rename(path.with_name("away"))
        facts, failure = await of(processes).read(None, 10)
        assert failure is None
        assert facts is not None
        assert (facts.max_fds is None, facts.open_fds is None) == (missing == "limits", missing == "fd")
        assert facts.resident_bytes == 256 * os.sysconf("SC_PAGE_SIZE")

    async def test_that_cannot_be_looked_at_for_want_of_files_is_a_failure(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processes.add(10)
        process = of(processes)
        with monkeypatch.context() as patch:
            forbid(patch, errno.EMFILE)
            facts, failure = await process.read(77, None)
        assert facts is None
        assert failure is not None
        assert failure.reason is Reason.UNREACHABLE
        assert "no files or memory left" in failure.message

    async def test_that_hangs_is_waited_for_once(self, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        processes.add(10)
        awake = threading.Event()
        real = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: (awake.wait(10), real(path))[1])
        process = of(processes, deadline=0.2)
        assert reason(await process.read(77, None)) is Reason.TIMEOUT
        before = time.monotonic()
        for _ in range(50):
            assert reason(await process.read(77, None)) is Reason.TIMEOUT
        assert time.monotonic() - before < 50 * 0.2 / 2
        awake.set()

        async def found() -> bool:
            return (await process.read(77, None))[0] is not None

        await wait_until(found, what="it is told after the hang")


def reason(told: tuple[ProcessFacts | None, Failure | None]) -> Reason | None:
    facts, failure = told
    assert facts is None
    return None if failure is None else failure.reason


class TestTheKernelsText:
    @pytest.mark.parametrize("name", ["a b", "a) S 1 (b", "", "()"])
    def test_of_a_process_holds_whatever_its_name_is(self, name: str) -> None:
        stat = parse_stat(f"7 ({name}) S {' '.join(map(str, range(4, 53)))}\n")
        assert stat is not None
        assert (stat.name, stat.ended, stat.ticks, stat.resident_pages) == (name, False, 22, 24)

    @given(st.text())
    def test_may_be_anything(self, text: str) -> None:
        parse_stat(text)
        parse_max_fds(text)

    @pytest.mark.parametrize(("soft", "told"), [("1024", 1024), ("unlimited", None), ("", None)])
    def test_of_the_limits_has_how_many_files_may_be_open(self, soft: str, told: int | None) -> None:
        line = f"Max open files            {soft:20} unlimited            files     \n"
        assert parse_max_fds(f"Max processes 1 1 processes\n{line if soft else ''}") == told


async def test_a_socket_of_this_machine_is_found_in_milliseconds() -> None:
    """Looking for it costs what the processes of the server's name have open."""
    with serving(files=500) as server:
        process = ServerProcess(NAME)
        started = time.perf_counter()
        assert await pid_of(process, server.inode) == server.pid
        looked = time.perf_counter() - started
        started = time.perf_counter()
        assert await pid_of(process, server.inode) == server.pid
        print(f"found in {looked * 1000:.1f} ms, then told in {(time.perf_counter() - started) * 1000:.1f} ms")
        assert looked < 1
