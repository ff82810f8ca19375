"""What a Go program prints when it dies, as incidents: a parser that takes one line after the other.

The runtime prints a line that says what befell the program, and then the stacks of its goroutines::

    dump := prelude* opener signal? blank (goroutine blank?)*
    goroutine := "goroutine 7 [chan receive, 2 minutes]:" (function file)* ("created by" function file)?

The culprit is among the first goroutines, so of these the stacks are kept; all others are only counted. There may be
millions. Nothing tells where a dump ends, and lines of others may stand within it, so a dump is open until so many of
them have come in a row that it must be over, another begins, or nothing more is printed.

What a log quotes of a crash is not a crash: an opener stands at the beginning of its line. What the program recovered
from, and told of in its log, is an incident only if a stack follows.

Pure. Nothing here raises, whatever the text, and everything is bounded.

Sources: ``runtime/{panic,traceback,error,signal_unix,proc}.go`` and ``internal/runtime/maps`` of Go 1.19 to 1.27; and
what programs built with them really print, see ``tests/go_crashes``.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec

from exporter.model import MAX_ERROR, OTHER, Frame, Incident, IncidentKind
from exporter.process.known import known

MAX_LINE: Final = 16 * 1024
"""Most characters of a line that are looked at."""

MAX_TEXT: Final = 1024 * 1024
"""Most characters that are looked at of a dump in one string."""

MAX_STRANGERS: Final = 200
"""So many lines in a row that are not of the dump end it."""

MAX_HELD: Final = 64
"""Of so many goroutines the stacks are kept. Few are enough for every kind but one: which call holds all threads."""

MAX_HELD_FRAMES: Final = 64
"""So many calls of each are kept: the runtime prints the innermost 50 and the outermost 50."""

MAX_FRAMES: Final = 20
MAX_STATES: Final = 20
MAX_MODULES: Final = 20
MAX_NAME: Final = 256
"""Most characters of a function, a file, a module or a version."""

MAX_STATE: Final = 48
_MAX_TOLD: Final = 2000

_ANYWHERE: Final = ("panic serving ", "panic-ed for request:", "Observed a panic", "panic handling command: ")
_SIGNALS: Final = ("ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "STKFLT", "SYS", "QUIT")
_PRELUDES: Final = {
    "runtime: out of memory: ": IncidentKind.OUT_OF_MEMORY,
    "runtime: goroutine stack exceeds ": IncidentKind.STACK_OVERFLOW,
    "runtime: program exceeds ": IncidentKind.THREAD_EXHAUSTION,
    "runtime: failed to create new OS thread": IncidentKind.THREAD_EXHAUSTION,
    "runtime/cgo: pthread_create failed: ": IncidentKind.THREAD_EXHAUSTION,
}
"""What is printed before some fatal errors, and says more than they do."""

_AT_START: Final = (
    "panic: ",
    "fatal error: ",
    "unexpected fault address ",
    "WARNING: DATA RACE",
    *_PRELUDES,
    *(f"SIG{it}: " for it in _SIGNALS),
)
_INITIALS: Final = frozenset(it[0] for it in _AT_START)
_QUOTED_PANIC: Final = r"\npanic("
"""In JSON: the stack of a goroutine that panicked."""

LITERALS: Final = tuple(it.encode() for it in (*_AT_START, *_ANYWHERE, _QUOTED_PANIC))
"""One of these is in every line that opens an incident, in plain text and in JSON."""

HEADER: Final = re.compile(r"goroutine (\d{1,20})(?: gp=\S+ m=(?:\d+|nil)(?: mp=\S+)?)? \[([^\]]*)\](?: \{.*\})?:")
"""The line above a goroutine's stack: its number and its state."""

_HEADER_WITHIN: Final = re.compile(r"(?<=[^\n])goroutine \d{1,20} \[[^\]\n]{1,64}\](?: \{[^\n]{0,256}\})?:(?=\n)")
_RECOVERED: Final = re.compile(r" \[recovered(?:, repanicked)?\]$")
_FILE: Final = re.compile(r"(.+?):(\d{1,9})(?: (\+0x[0-9a-f]+))?(?: fp=\S+ sp=\S+(?: pc=\S+)?)?")
_FUNCTION: Final = re.compile(r"(?:[^\s\"'`=:;{}\[]++|\[[^\]]*+\])++")
_CREATED: Final = re.compile(r"created by (\S.*?)(?: in goroutine \d+)?")
_PART_OF_DUMP: Final = re.compile(
    r"runtime stack:"
    r"|\.\.\.(?:\d+|additional) frames elided\.\.\."
    r"|\[(?:signal |originating from goroutine ).*"
    r"|PC=0x.*"
    r"|goroutine running on other thread; stack unavailable"
    r"|(?:r[a-z0-9]{1,5}|[cdefgs]s|eip|e[a-z]{2}|eflags|x\d+|lr|sp|pc|fault|pstate|cpsr)\s+0x[0-9a-f]+"
    r"|runtime: .*"
    r"|signal arrived during .*"
    r"|stack: frame=.*|(?:0x)?[0-9a-f]{8,16}: .*|(?: *[0-9a-f]){16,}"
    r"|panic during panic|exit status \d+"
)
_SIGNAL_DETAILS: Final = re.compile(r"PC=0x[0-9a-f]+ m=-?\d+ sigcode=(-?\d+).*")
_SIGNAL_NAME: Final = re.compile(r"\[signal (SIG[A-Z]+: [a-z ]+) code=")
_SIGNAL: Final = re.compile(rf"SIG(?:{'|'.join(_SIGNALS)}): [a-z ]+")
_STATE_NOTE: Final = re.compile(r"(?: \((?:scan|leaked|durable)\))+$")

_SERVING: Final = re.compile(r"http2?: panic serving \S+: ?(.*)")
_REQUEST: Final = re.compile(r"panic-ed for request:.*? with err: (.*?)(?: with Stack:.*)?$")
_OBSERVED: Final = re.compile(r"Observed a panic(?:: (?:.* \((.*)\)$|(.*))|\" panic=\"((?:[^\"\\]|\\.)*+)\")")
_COMMAND: Final = re.compile(r"(?:[A-Z] \S{1,40} )?panic handling command: (.*?)(?:: `.*)?$")
"""The command itself may hold anything: it is left out."""

_ACCESS: Final = re.compile(r"(?:Previous )?([Rr]ead|[Ww]rite) at 0x[0-9a-f]+ by (?:main goroutine|goroutine \d+):")
_CREATION: Final = re.compile(r"Goroutine \d+ \(\w+\) created at:|Global var .*")
_RULE: Final = "=" * 18

_VERSIONED: Final = re.compile(r"([^@]+)@(v\d[^/@]{0,128})/")
_CAPITAL: Final = re.compile(r"!([a-z])")
_VARIABLE: Final = re.compile(r"0x[0-9a-f]+|\d+")

_STANDARD_LIBRARY: Final = frozenset({
        "archive", "arena", "bufio", "bytes", "cmp", "compress", "container", "context", "crypto", "database",
        "debug", "embed", "encoding", "errors", "expvar", "flag", "fmt", "go", "hash", "html", "image", "index",
        "internal", "io", "iter", "log", "maps", "math", "mime", "net", "os", "path", "plugin", "reflect", "regexp",
        "runtime", "simd", "slices", "sort", "strconv", "strings", "structs", "sync", "syscall", "testing", "text",
        "time", "unicode", "unique", "unsafe", "uuid", "vendor", "weak",
})  # fmt: skip
"""First parts of its packages' paths."""

_RUNTIME: Final = frozenset({"runtime", "sync", "sync/atomic"})
_RUNTIME_FOLDERS: Final = ("runtime/", "internal/")
_TYPES: Final = re.compile(r"\[.*\]")

_NIL: Final = "runtime error: invalid memory address or nil pointer dereference"
_CRASHING_PANICS: Final = frozenset({IncidentKind.PANIC, IncidentKind.NIL_DEREFERENCE})
_PANICS: Final = _CRASHING_PANICS | {IncidentKind.RECOVERED_PANIC}
# All that come without a stack where GOTRACEBACK=none are among these: of any other text a stack is expected.
_FATAL_STARTS: Final = (
    ("concurrent map ", IncidentKind.CONCURRENT_MAP),
    ("sync: ", IncidentKind.SYNC_MISUSE),
    ("all goroutines are asleep - deadlock!", IncidentKind.DEADLOCK),
    ("no goroutines (main called runtime.Goexit) - deadlock!", IncidentKind.DEADLOCK),
    ("out of memory", IncidentKind.OUT_OF_MEMORY),
    ("runtime: out of memory", IncidentKind.OUT_OF_MEMORY),
    ("runtime: cannot allocate memory", IncidentKind.OUT_OF_MEMORY),
    ("pageAlloc: out of memory", IncidentKind.OUT_OF_MEMORY),
    ("stack overflow", IncidentKind.STACK_OVERFLOW),
    ("thread exhaustion", IncidentKind.THREAD_EXHAUSTION),
    ("newosproc", IncidentKind.THREAD_EXHAUSTION),
    ("runtime: failed to create new OS thread", IncidentKind.THREAD_EXHAUSTION),
    ("unexpected signal during runtime execution", IncidentKind.SIGNAL),
    ("go of nil func value", IncidentKind.RUNTIME),
)


class GoCrashParser:
    """One stream of a program's output. Feed it each line with one of :data:`LITERALS`, and all while it is open."""

    def __init__(self) -> None:
        self._reading: _Dump | _Race | None = None

    @property
    def open(self) -> bool:
        """Whether an incident is being read: the lines that follow may belong to it."""
        return self._reading is not None

    @property
    def counting(self) -> bool:
        """Whether enough is known of the incident that of what follows only the goroutines' headers matter."""
        return isinstance(self._reading, _Dump) and self._reading.full

    def line(self, text: str, at: float | None) -> tuple[Incident, ...]:
        """Take one line, without its end and without what others put before it, and return what it closes."""
        text = text[:MAX_LINE]
        opened = _opened_by(text, at)
        if opened is None:
            if self._reading is None:
                return ()
            self._reading.take(text)
        elif self._reading is not None and self._reading.goes_on(text, opened):
            return ()
        else:
            closed = () if self._reading is not None and self._reading.led_to(opened) else self.end()
            quoted = handled(_unescaped(text), at) if opened.quotes(text) else None
            if quoted is not None:
                return (*closed, quoted)
            self._reading = opened
            return (*closed, *self.end()) if opened.over else closed
        return self.end() if self._reading.over else ()

    def count(self, state: str, times: int = 1) -> None:
        """Count goroutines in ``state``, as it stands in their headers, instead of feeding their lines."""
        if isinstance(self._reading, _Dump):
            self._reading.count(state, times)

    def end(self) -> tuple[Incident, ...]:
        """Return the incident that is open, if there is one: nothing more comes."""
        reading, self._reading = self._reading, None
        incident = None if reading is None else reading.incident()
        return () if incident is None else (incident,)


def handled(text: str, at: float | None) -> Incident | None:
    """Return the incident that ``text`` quotes with its stack: who can log it has survived it. ``None``: none."""
    lines = _HEADER_WITHIN.sub(r"\n\g<0>", text[:MAX_TEXT] + "\n").split("\n")
    reading: _Dump | _Race | None = None
    for line in lines:
        opened = _opened_by(line[:MAX_LINE], at)
        if reading is None:
            reading = opened
            if reading is not None:
                reading.survived()
        elif opened is None:
            reading.take(line[:MAX_LINE])
            if reading.over:
                break
        elif not reading.goes_on(line, opened):
            break
    if reading is None:
        reading = _Dump(IncidentKind.RECOVERED_PANIC, "" if HEADER.fullmatch(lines[0].strip()) else lines[0], at)
        for line in lines:
            reading.take(line[:MAX_LINE])
        if not reading.panicked:
            return None
    return reading.incident()


class _Call(msgspec.Struct, frozen=True, gc=False):
    """One call as it is printed."""

    function: str
    file: str | None = None
    line: int | None = None

    @property
    def package(self) -> str:
        """The path of the function's package, still escaped: ``gopkg.in/yaml%2ev3``."""
        folder, slash, name = self.function.partition("[")[0].rpartition("/")
        return folder + slash + name.partition(".")[0]

    @property
    def runtimes_own(self) -> bool:
        """Whether it is a part of how Go works, and not of any program."""
        return self.function == "panic" or self.package in _RUNTIME or self.function.startswith(_RUNTIME_FOLDERS)

    @property
    def of_standard_library(self) -> bool:
        return self.function == "panic" or self.package.partition("/")[0] in _STANDARD_LIBRARY

    @property
    def name(self) -> str:
        """The function with its import path as the source has it, for every type that it is generic in."""
        name = _TYPES.sub("[...]", self.function)
        return tamed(unquote(name, errors="replace") if "%" in name else name, 4 * MAX_NAME)[-MAX_NAME:]

    @property
    def module(self) -> tuple[str, str] | None:
        """The module and its version, where the file's path tells them: with ``-trimpath`` or in the module cache."""
        found = None if self.file is None else _VERSIONED.match(self.file)
        if found is None:
            return None
        path = _CAPITAL.sub(lambda it: it[1].upper(), found[1])
        parts = path.split("/")
        package = unquote(self.package) + "/"
        for start in range(len(parts)):
            if package.startswith(tail := "/".join(parts[start:]) + "/"):
                return tail[:-1], found[2]
        module = path.rpartition("/pkg/mod/")[2]
        return None if module.startswith("/") else (module, found[2])

    def frame(self) -> Frame:
        return Frame(self.name, None if self.file is None else tamed(self.file, 4 * MAX_NAME)[-MAX_NAME:], self.line)


class _Stack:
    """The calls of one goroutine, innermost first, as far as they matter."""

    def __init__(self, number: int, state: str, *, locked: bool = False) -> None:
        self.number = number
        self.state = state
        self.locked = locked
        self.calls: list[_Call] = []
        self.recovering: list[_Call] | None = None
        """What was called because of a panic, to recover from it or to clean up; ``None``: there was none."""
        self.created_by: _Call | None = None

    def add(self, call: _Call) -> None:
        if call.function == "panic":
            self.recovering = self.recovering or self.calls
            self.calls = []
        elif len(self.calls) < MAX_HELD_FRAMES:
            self.calls.append(call)

    def users(self, *, origin: bool) -> list[_Call]:
        """Return the calls from the first that is not Go's own: where a panic began (``origin``), or from the top."""
        if origin or self.recovering is None:
            calls = self.calls or self.recovering or []
        else:
            calls = [*self.recovering, *self.calls]
        calls = [call for call in calls if not call.runtimes_own]
        first = next((index for index, call in enumerate(calls) if not call.of_standard_library), 0)
        return calls[first:]


class _Lines:
    """Makes calls of the lines of a stack, without the blanks around them: a function's, and below it its file's."""

    def __init__(self) -> None:
        self._function: str | None = None
        self._creator = False

    def function(self, text: str) -> bool:
        """Return whether ``text`` may be a call, if a file follows."""
        if not text.endswith(")"):
            return False
        name = text[: text.rfind("(")]
        if ("." not in name and name != "panic") or _FUNCTION.fullmatch(name) is None:
            return False
        self._function, self._creator = name, False
        return True

    def creator(self, text: str) -> bool:
        """Return whether ``text`` tells who started the goroutine."""
        if not text.startswith("created by ") or (found := _CREATED.fullmatch(text)) is None:
            return False
        self._function, self._creator = found[1], True
        return True

    def file(self, text: str, *, indented: bool) -> tuple[_Call, bool] | None:
        """Return the call that ``text`` completes, and whether it is that of who started the goroutine."""
        function = self._function
        if function is None or (found := _FILE.fullmatch(text)) is None or not (indented or found[3]):
            return None
        self._function = None
        return _Call(function, found[1], int(found[2])), self._creator


class _Dump:
    """A crash, or a panic that was recovered from: a message and the stacks of goroutines."""

    def __init__(
        self, kind: IncidentKind, message: str, at: float | None, *, certain: bool = False, begun: bool = True
    ) -> None:
        self.kind = kind
        self.message = message
        self.at = at
        self.certain = certain
        """Whether it is an incident even without a stack."""
        self.begun = begun
        """Whether its opener has come, or only what is printed before it."""
        self.over = False
        self.full = False
        """Whether no more stacks are kept."""
        self.sent = False
        """Whether it is a signal that somebody sent, so that no goroutine is to blame."""
        self._states: Counter[str] = Counter()
        self._stacks: list[_Stack] = []
        self._stack: _Stack | None = None
        self._numbers: set[int] = set()
        self._headers = 0
        self._lines = _Lines()
        self._strangers = 0
        self._ruled = False

    @property
    def panicked(self) -> bool:
        return any(it.recovering is not None for it in self._stacks)

    def survived(self) -> None:
        """Take it as told by who recovered from it."""
        self.kind = IncidentKind.RECOVERED_PANIC
        self.certain = False
        self.over = False

    def quotes(self, text: str) -> bool:
        """Return whether its stack stands in the line that opened it."""
        return self.kind is IncidentKind.RECOVERED_PANIC and r"\n" in text and "goroutine " in text

    def goes_on(self, text: str, opened: _Dump | _Race) -> bool:
        """Take an opener, and return whether it only goes on with this incident instead of opening another."""
        if isinstance(opened, _Race) or (self._headers and not self._ruled):
            return False
        if not self.begun:
            # runtime: program exceeds 20-thread limit / fatal error: thread exhaustion
            # runtime/cgo: pthread_create failed: Resource temporarily unavailable / SIGABRT: abort
            of_thread = self.kind is IncidentKind.THREAD_EXHAUSTION and opened.kind is IncidentKind.SIGNAL
            self.begun = self.certain = of_thread or opened.kind is self.kind
            return self.begun
        if self._ruled:
            # The same signal, relayed to the next thread: GOTRACEBACK=crash.
            return opened.kind is IncidentKind.SIGNAL
        # What led to it is indented. Where blanks were lost it follows at once.
        indented = text[0].isspace()
        if self.kind not in _CRASHING_PANICS or not (indented or self._strangers == 0):
            return False
        if opened.kind not in _PANICS:
            # A fatal error in a deferred function: the panic that it was called for is told before it.
            self.kind, self.message, self.certain = opened.kind, opened.message, opened.certain
            return True
        return opened.kind in _CRASHING_PANICS and (indented or _RECOVERED.search(self.message) is not None)

    def led_to(self, opened: _Dump | _Race) -> bool:
        """Return whether ``opened`` tells of the same panic: who had recovered from it has thrown it again."""
        return (
            self.kind is IncidentKind.RECOVERED_PANIC
            and isinstance(opened, _Dump)
            and opened.kind in _CRASHING_PANICS
            and _RECOVERED.sub("", opened.message) == self.message != opened.message
        )

    def take(self, text: str) -> None:
        """Take the next line: of the dump, or a stranger's."""
        line = text.strip()
        if not line:
            return
        if self.full and not line.startswith("goroutine "):
            if " +0x" in line:
                self._strangers = 0
            else:
                self._stranger(text, line)
            return
        if (completed := self._lines.file(line, indented=text[0].isspace())) is not None:
            self._strangers = 0
            if (stack := self._stack) is not None:
                call, creator = completed
                if creator:
                    stack.created_by = call
                else:
                    stack.add(call)
        elif self._lines.function(line):
            if self._stack is None and not self._headers:
                # Its header was torn.
                self._stack = _Stack(0, "")
                self._stacks.append(self._stack)
            self._stranger(text, line)
        elif line.startswith("goroutine ") and (found := HEADER.fullmatch(line)) is not None:
            self._header(int(found[1]), found[2], quoted=text[0] == "\t" and self.kind in _PANICS)
        elif self._lines.creator(line) or self._part(line):
            self._strangers = 0
        else:
            self._stranger(text, line)

    def count(self, state: str, times: int) -> None:
        self._strangers = 0
        state = state_of(state)
        if state not in self._states and len(self._states) >= MAX_STATES - 1:
            state = OTHER
        self._states[state] += times

    def incident(self) -> Incident | None:
        """Return what befell; ``None``: nothing, the line that opened it was not meant so."""
        if not self.begun or not (self.certain or self._headers):
            return None
        stack = self._culprit()
        calls = [] if stack is None else stack.users(origin=self.kind in _PANICS)
        if stack is not None and not calls and stack.created_by is not None and not stack.created_by.runtimes_own:
            calls = [stack.created_by]
        modules = _modules(calls)
        names = [call.name for call in calls if not call.of_standard_library] or [call.name for call in calls]
        message = tamed(_RECOVERED.sub("", self.message), MAX_ERROR)
        recognised = known(self.kind, names[:3], modules)
        if self.sent or not names:
            key = [_VARIABLE.sub("", message)]
        elif self.kind is IncidentKind.STACK_OVERFLOW:
            # Which of those that call one another was the last is chance.
            key = sorted(set(names[:2]))
        else:
            key = [*names[:2], next((version for call in calls[:1] for _, version in [call.module or ("", "")]), "")]
        return Incident(
            kind=self.kind,
            message=message,
            at=self.at,
            frames=tuple(call.frame() for call in calls[:MAX_FRAMES]),
            goroutines=dict(self._states),
            modules=modules,
            group=_group(self.kind, key),
            known=None if recognised is None else recognised.id,
            hint=None if recognised is None else recognised.hint,
        )

    def _header(self, number: int, state: str, *, quoted: bool) -> None:
        """Begin a goroutine. ``quoted``: it stands in the value of a panic, whose lines the runtime indents."""
        if self.kind is IncidentKind.RECOVERED_PANIC and self._headers:
            # Only the goroutine that recovered is told. This one is another's.
            self.over = True
            return
        self._headers += 1
        self._strangers = 0
        self._ruled = False
        if not quoted and number not in self._numbers:
            self.count(state, 1)
        if len(self._stacks) >= MAX_HELD:
            self.full = True
            self._stack = None
            return
        if not quoted:
            self._numbers.add(number)
        self._stack = _Stack(number, state_of(state), locked="locked to thread" in state)
        self._stacks.append(self._stack)

    def _part(self, line: str) -> bool:
        """Return whether ``line`` is one of a dump that tells nothing of a goroutine."""
        if line == "-----":
            self._ruled = self.kind is IncidentKind.SIGNAL
            return True
        if _PART_OF_DUMP.fullmatch(line) is None:
            return False
        if self.kind is IncidentKind.SIGNAL and not self._headers:
            if (found := _SIGNAL_DETAILS.fullmatch(line)) is not None:
                self.certain = True
                self.sent = found[1] == "0"
            elif (found := _SIGNAL_NAME.match(line)) is not None:
                # "unexpected signal during runtime execution" says less.
                self.message = found[1]
        return True

    def _stranger(self, text: str, line: str) -> None:
        self._strangers += 1
        if not self._headers:
            if self.kind is IncidentKind.RUNTIME and (kind := _fatal(line)) is not None:
                # Somebody else's line tore the opener.
                self.kind, self.message, self.certain = kind, line, True
            elif self.kind is IncidentKind.PANIC and text[0] == "\t" and len(self.message) < MAX_ERROR:
                self.message += " " + line
        self.over = self._strangers >= (MAX_STRANGERS if self.certain or self._headers else MAX_STRANGERS // 10)

    def _culprit(self) -> _Stack | None:
        """Return the goroutine that did it, or what comes nearest to it; ``None``: nothing tells."""
        at_fault = [it for it in self._stacks if it.users(origin=self.kind in _PANICS)]
        if self.kind is IncidentKind.THREAD_EXHAUSTION:
            # Who asked for one thread too many is nobody in particular: what most of them are held by is.
            holders = [it for it in at_fault if it.state == "syscall" or it.locked]
            calls = Counter(it.users(origin=False)[0].function for it in holders)
            most = max(calls.values(), default=0)
            return next((it for it in holders if calls[it.users(origin=False)[0].function] == most), None)
        if self.sent or self.kind is IncidentKind.DEADLOCK:
            # Nobody in particular either: the main goroutine tells best where the program stood.
            return next((it for it in at_fault if it.number == 1), at_fault[0] if at_fault else None)
        running = next((it for it in at_fault if it.state in ("running", "")), None)
        if running is not None:
            return running
        first = next((it for it in self._stacks if it.number), None)
        if self.kind is IncidentKind.SIGNAL:
            return at_fault[0] if at_fault else first
        return first


class _Race:
    """A data race: two stacks, and the program goes on."""

    def __init__(self, at: float | None) -> None:
        self.over = False
        self._at = at
        self._accesses: list[tuple[str, _Stack]] = []
        self._stack: _Stack | None = None
        self._lines = _Lines()
        self._strangers = 0

    def survived(self) -> None:
        """Nothing changes: who prints it lives."""

    def quotes(self, text: str) -> bool:
        """Return whether its stacks stand in the line that opened it."""
        return r"\n" in text

    def goes_on(self, text: str, opened: _Dump | _Race) -> bool:  # noqa: ARG002
        return False

    def led_to(self, opened: _Dump | _Race) -> bool:  # noqa: ARG002
        return False

    def take(self, text: str) -> None:
        line = text.strip()
        if line == _RULE:
            self.over = bool(self._accesses)
        elif (completed := self._lines.file(line, indented=True)) is not None:
            self._strangers = 0
            if self._stack is not None:
                self._stack.add(completed[0])
        elif found := _ACCESS.fullmatch(line):
            self._strangers = 0
            self._stack = _Stack(0, "")
            if len(self._accesses) < 2:
                self._accesses.append((found[1].lower(), self._stack))
        elif _CREATION.fullmatch(line):
            self._strangers = 0
            self._stack = None
        elif line:
            self._lines.function(line)
            self._strangers += 1
            self.over = self._strangers >= MAX_STRANGERS

    def incident(self) -> Incident | None:
        if not self._accesses:
            return None
        stacks = [stack.users(origin=False) for _, stack in self._accesses]
        tops = [[call.name for call in calls if not call.of_standard_library][:3] for calls in stacks]
        tops = [names or [call.name for call in calls][:3] for names, calls in zip(tops, stacks, strict=True)]
        places = [names[0].rpartition("/")[2] if names else "(unknown)" for names in tops]
        told = [f"{access} in {place}" for (access, _), place in zip(self._accesses, places, strict=True)]
        modules = _modules(call for calls in stacks for call in calls)
        recognised = known(IncidentKind.DATA_RACE, [name for names in tops for name in names], modules)
        return Incident(
            kind=IncidentKind.DATA_RACE,
            message=tamed(", previous ".join(told), MAX_ERROR),
            at=self._at,
            frames=tuple(call.frame() for call in next((it for it in stacks if it), [])[:MAX_FRAMES]),
            modules=modules,
            group=_group(IncidentKind.DATA_RACE, sorted(names[0] if names else "" for names in tops)),
            known=None if recognised is None else recognised.id,
            hint=None if recognised is None else recognised.hint,
        )


def _opened_by(text: str, at: float | None) -> _Dump | _Race | None:
    """Return the incident that ``text`` opens; ``None``: none."""
    text = text.rstrip("\r")
    start = text.lstrip(" \t")
    if start[:1] not in _INITIALS or not start.startswith(_AT_START):
        return _told_by(text, at) if "panic" in text and any(it in text for it in _ANYWHERE) else None
    indented = len(start) != len(text)
    if start.startswith("panic: "):
        value = start[7:]
        kind = IncidentKind.NIL_DEREFERENCE if _RECOVERED.sub("", value) == _NIL else IncidentKind.PANIC
        return _Dump(kind, value, at, certain=not indented)
    if start.startswith("fatal error: "):
        what = start[13:].rstrip()
        fatal = _fatal(what)
        return _Dump(fatal or IncidentKind.RUNTIME, what, at, certain=fatal is not None)
    if start.startswith("WARNING: DATA RACE"):
        return _Race(at) if start.rstrip() == "WARNING: DATA RACE" else None
    if start.startswith("unexpected fault address "):
        return _Dump(IncidentKind.MEMORY_FAULT, start, at, begun=False)
    for prelude, kind in _PRELUDES.items():
        if start.startswith(prelude):
            return _Dump(kind, start.partition(": ")[2], at, begun=False)
    return _Dump(IncidentKind.SIGNAL, start.rstrip(), at) if _SIGNAL.fullmatch(start.rstrip()) else None


def _told_by(text: str, at: float | None) -> _Dump | None:
    """Return the recovered panic that a line of a log tells; ``None``: none."""
    if (found := _COMMAND.fullmatch(text)) is not None:
        told = _Dump(IncidentKind.RECOVERED_PANIC, found[1], at, certain=True)
        told.over = True  # it is all in one line
        return told
    start = min(place for it in _ANYWHERE if (place := text.find(it)) >= 0)
    told_there = text[max(0, start - 16) : start + _MAX_TOLD]
    for pattern in (_SERVING, _REQUEST, _OBSERVED):
        if (found := pattern.search(told_there)) is not None:
            return _Dump(IncidentKind.RECOVERED_PANIC, next((it for it in found.groups() if it), ""), at)
    return None


def _fatal(text: str) -> IncidentKind | None:
    """Return what a fatal error's text means; ``None``: one of the runtime's many others, or not one at all."""
    if text == "fault":
        return IncidentKind.MEMORY_FAULT
    return next((kind for start, kind in _FATAL_STARTS if text.startswith(start)), None)


def _unescaped(text: str) -> str:
    """Return ``text`` with the line ends that a logger has quoted."""
    return text.replace(r"\n", "\n").replace(r"\t", "\t")


@functools.lru_cache(maxsize=256)
def state_of(header: str) -> str:
    """Return a goroutine's state without for how long, and without what else its header tells of it."""
    return tamed(_STATE_NOTE.sub("", header[:256].partition(",")[0]), MAX_STATE)


def tamed(text: str, most: int) -> str:
    """Return at most ``most`` characters of ``text`` in one line, none of which can do anything but be read."""
    text = " ".join(text[: 4 * most].split())
    if not text.isprintable():
        text = "".join(it if it.isprintable() else "\N{REPLACEMENT CHARACTER}" for it in text)
    return text[:most]


def _modules(calls: Iterable[_Call]) -> Mapping[str, str]:
    modules: dict[str, str] = {}
    for call in calls:
        if len(modules) < MAX_MODULES and (found := call.module) is not None:
            modules.setdefault(tamed(found[0], MAX_NAME), tamed(found[1], MAX_NAME))
    return modules


def _group(kind: IncidentKind, key: Sequence[str]) -> str:
    return hashlib.sha256("\0".join((kind, *key)).encode()).hexdigest()[:12]
