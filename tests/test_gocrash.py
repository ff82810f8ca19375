"""What a Go program prints when it dies is read as an incident; what only looks like it is not."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model import CRASH_KINDS, MAX_ERROR, OTHER, Incident, IncidentKind
from exporter.process.gocrash import (
    LITERALS,
    MAX_FRAMES,
    MAX_HELD,
    MAX_MODULES,
    MAX_NAME,
    MAX_STATES,
    MAX_STRANGERS,
    GoCrashParser,
    handled,
)
from exporter.process.known import BY_ID, KNOWN, known, version
from tests.go_programs import recorded

NIL = "runtime error: invalid memory address or nil pointer dereference"


def read(text: str, at: float | None = None) -> list[Incident]:
    parser = GoCrashParser()
    found = [each for line in text.split("\n") for each in parser.line(line, at)]
    return [*found, *parser.end()]


def only(text: str) -> Incident:
    [incident] = read(text)
    return incident


def stack(*functions: str, state: str = "running", number: int = 7) -> str:
    calls = "".join(f"{it}(0x1, {{0x2?, ...}})\n\t/src/{it.partition('.')[0]}.go:12 +0x1d\n" for it in functions)
    return f"goroutine {number} [{state}]:\n{calls}\n"


BUSY_PAGE = """\
fatal error: concurrent map read and map write

goroutine 2499 [running]:
internal/runtime/maps.fatal({0x8090fd?, 0x1?})
	/usr/local/go/src/runtime/panic.go:1195 +0x18
github.com/contribsys/faktory/webui.busyWorkers(0xd0a1b8?, 0x3079941b670)
	/build/faktory/webui/helpers.go:227 +0x191
github.com/contribsys/faktory/webui.ego_busy.func1()
	/build/faktory/webui/busy.ego:42 +0xb99
net/http.HandlerFunc.ServeHTTP(0x3079923a120?, {0xd0bff0?, 0x307994030e0?}, 0x30799359cb0?)
	/usr/local/go/src/net/http/server.go:2358 +0x29
created by net/http.(*Server).Serve in goroutine 25
	/usr/local/go/src/net/http/server.go:3604 +0x4fd
"""

SERVING = f"""\
2026/11/21 06:08:51 http: panic serving 127.0.0.1:49214: {NIL}
goroutine 2446 [running]:
net/http.(*conn).serve.func1()
	/usr/local/go/src/net/http/server.go:1959 +0xbb
panic({{0xcadc10?, 0xd5d4f0?}})
	/usr/local/go/src/runtime/panic.go:859 +0x125
github.com/contribsys/faktory/webui.ego_busy.func1.1(0x0)
	/build/faktory/webui/busy.ego:46 +0x54
github.com/contribsys/faktory/webui.busyWorkers(0xd0a1b8?, 0x30799139670)
	/build/faktory/webui/helpers.go:227 +0x1a2
net/http.(*conn).serve(0x30799359710, {{0xd0c588, 0x3079923a360}})
	/usr/local/go/src/net/http/server.go:2157 +0x6dc
created by net/http.(*Server).Serve in goroutine 25
	/usr/local/go/src/net/http/server.go:3604 +0x4fd
"""

RACE = """\
==================
WARNING: DATA RACE
Read at 0x00c000211a00 by goroutine 11:
  github.com/twmb/franz-go/pkg/kgo.(*recBuf).bumpRepeatedLoadErr()
      /go/pkg/mod/github.com/twmb/franz-go@v1.17.0/pkg/kgo/sink.go:1298 +0x64
  github.com/twmb/franz-go/pkg/kgo.(*Client).updateMetadata()
      /go/pkg/mod/github.com/twmb/franz-go@v1.17.0/pkg/kgo/metadata.go:375 +0x1208

Previous write at 0x00c000211a00 by main goroutine:
  github.com/twmb/franz-go/pkg/kgo.(*produceRequest).AppendTo()
      /go/pkg/mod/github.com/twmb/franz-go@v1.17.0/pkg/kgo/sink.go:1970 +0x8c4

Goroutine 11 (running) created at:
  github.com/twmb/franz-go/pkg/kgo.NewClient()
      /go/pkg/mod/github.com/twmb/franz-go@v1.17.0/pkg/kgo/client.go:516 +0x1a6c
==================
"""

PANIC_ED = (
    f"panic-ed for request: [project:secret] with err: {NIL} with Stack: goroutine 5 [running]:\n"
    "runtime/debug.Stack()\n\t/go/src/runtime/debug/stack.go:26 +0x5e\n"
    "panic({0x1, 0x2})\n\t/go/src/runtime/panic.go:860 +0x13a\n"
    "example.com/flyte/manager.(*Manager).Create(0x0)\n\t/src/manager.go:12 +0x3e\n"
)


class TestOpeners:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("concurrent map writes", IncidentKind.CONCURRENT_MAP),
            ("concurrent map read and map write", IncidentKind.CONCURRENT_MAP),
            ("concurrent map iteration and map write", IncidentKind.CONCURRENT_MAP),
            ("concurrent map clone and map write", IncidentKind.CONCURRENT_MAP),
            ("all goroutines are asleep - deadlock!", IncidentKind.DEADLOCK),
            ("no goroutines (main called runtime.Goexit) - deadlock!", IncidentKind.DEADLOCK),
            ("out of memory", IncidentKind.OUT_OF_MEMORY),
            ("runtime: out of memory", IncidentKind.OUT_OF_MEMORY),
            ("runtime: cannot allocate memory", IncidentKind.OUT_OF_MEMORY),
            ("stack overflow", IncidentKind.STACK_OVERFLOW),
            ("fault", IncidentKind.MEMORY_FAULT),
            ("thread exhaustion", IncidentKind.THREAD_EXHAUSTION),
            ("newosproc", IncidentKind.THREAD_EXHAUSTION),
            ("sync: unlock of unlocked mutex", IncidentKind.SYNC_MISUSE),
            ("sync: Unlock of unlocked RWMutex", IncidentKind.SYNC_MISUSE),
            ("sync: RUnlock of unlocked RWMutex", IncidentKind.SYNC_MISUSE),
            ("unexpected signal during runtime execution", IncidentKind.SIGNAL),
            ("go of nil func value", IncidentKind.RUNTIME),
        ],
    )
    def test_fatal_error_is_of_the_kind_that_its_text_means_even_without_a_stack(
        self, text: str, kind: IncidentKind
    ) -> None:
        assert (only(f"fatal error: {text}").kind, only(f"fatal error: {text}").message) == (kind, text)

    def test_any_other_fatal_error_is_the_runtimes_where_a_stack_follows(self) -> None:
        text = "fatal error: sweep increased allocation count\n\n"
        assert only(text + stack("main.work")).kind is IncidentKind.RUNTIME
        assert read(text) == []

    @pytest.mark.parametrize("value", ["boom", "", "42", "main.num(5)", "(main.custom) 0xc000016310", "nil"])
    def test_panic_is_told_with_its_value_even_without_a_stack(self, value: str) -> None:
        assert (only(f"panic: {value}").kind, only(f"panic: {value}").message) == (IncidentKind.PANIC, value)

    def test_nil_dereference_is_a_kind_of_its_own(self) -> None:
        assert only(f"panic: {NIL}\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x1]").kind is (
            IncidentKind.NIL_DEREFERENCE
        )

    @pytest.mark.parametrize(
        ("lines", "kind", "message"),
        [
            (
                "runtime: out of memory: cannot allocate 4194304-byte block (9 in use)\nfatal error: out of memory",
                IncidentKind.OUT_OF_MEMORY,
                "out of memory: cannot allocate 4194304-byte block (9 in use)",
            ),
            (
                (
                    "runtime: goroutine stack exceeds 1000000000-byte limit\nruntime: sp=0x1 stack=[0x1, 0x2]\n"
                    "fatal error: stack overflow"
                ),
                IncidentKind.STACK_OVERFLOW,
                "goroutine stack exceeds 1000000000-byte limit",
            ),
            (
                "runtime: program exceeds 10000-thread limit\nfatal error: thread exhaustion",
                IncidentKind.THREAD_EXHAUSTION,
                "program exceeds 10000-thread limit",
            ),
            (
                (
                    "runtime: failed to create new OS thread (have 5 already; errno=11)\n"
                    "runtime: may need to increase max user processes (ulimit -u)\nfatal error: newosproc"
                ),
                IncidentKind.THREAD_EXHAUSTION,
                "failed to create new OS thread (have 5 already; errno=11)",
            ),
            (
                (
                    "runtime/cgo: pthread_create failed: Resource temporarily unavailable\nSIGABRT: abort\n"
                    "PC=0x7f36ab200eec m=2 sigcode=18446744073709551610"
                ),
                IncidentKind.THREAD_EXHAUSTION,
                "pthread_create failed: Resource temporarily unavailable",
            ),
            (
                "unexpected fault address 0x7f2a\nfatal error: fault\n[signal SIGBUS: bus error code=0x2 addr=0x1]",
                IncidentKind.MEMORY_FAULT,
                "unexpected fault address 0x7f2a",
            ),
        ],
    )
    def test_what_is_printed_before_a_fatal_error_says_more_than_it_does(
        self, lines: str, kind: IncidentKind, message: str
    ) -> None:
        incident = only(lines)
        assert (incident.kind, incident.message) == (kind, message)

    @pytest.mark.parametrize(
        "line",
        [
            "runtime: goroutine stack exceeds 1000000000-byte limit",
            "runtime: goroutine stack exceeds 1000000000-byte limit\n" + stack("main.f"),
            "unexpected fault address 0x7f2a",
            "SIGQUIT: quit",
            "WARNING: DATA RACE",
        ],
    )
    def test_first_line_alone_of_those_that_go_on_is_nothing(self, line: str) -> None:
        assert read(f"{line}\nlistening at :7419") == []

    def test_what_is_printed_before_one_error_is_not_told_of_another(self) -> None:
        assert only("runtime: program exceeds 9-thread limit\npanic: boom").message == "boom"

    def test_signal_is_told_by_its_name(self) -> None:
        incident = only("SIGQUIT: quit\nPC=0x4031ee m=0 sigcode=0\n\n" + stack("main.serve", state="select"))
        assert (incident.kind, incident.message) == (IncidentKind.SIGNAL, "SIGQUIT: quit")

    def test_signal_in_c_is_told_alike_by_old_versions(self) -> None:
        text = "fatal error: unexpected signal during runtime execution\n"
        text += "[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x1]\n\n" + stack("main._Cfunc_fall")
        assert only(text).message == "SIGSEGV: segmentation violation"

    def test_signal_that_every_thread_repeats_is_one(self) -> None:
        first = "SIGQUIT: quit\nPC=0x1 m=0 sigcode=0\n\n" + stack("main.serve", state="select", number=1)
        again = "\n-----\n\nSIGQUIT: quit\nPC=0x2 m=3 sigcode=0\n\n" + stack("main.work", number=8)
        assert only(first + again).goroutines == {"select": 1, "running": 1}

    def test_fatal_error_in_a_deferred_function_is_what_ended_the_program(self) -> None:
        incident = only("panic: while it is held\n\tfatal error: sync: unlock of unlocked mutex\n\n" + stack("main.f"))
        assert (incident.kind, incident.message) == (IncidentKind.SYNC_MISUSE, "sync: unlock of unlocked mutex")

    def test_torn_opener_is_mended(self) -> None:
        incident = only(
            "fatal error: I 2026-11-21T06:05:14.378Z GET /busy\nconcurrent map writes\n\n" + stack("main.f")
        )
        assert (incident.kind, incident.message) == (IncidentKind.CONCURRENT_MAP, "concurrent map writes")

    def test_indented_dump_is_read_too(self) -> None:
        text = "".join(
            f"    {line}\n" for line in ("panic: boom\n\n" + stack("main.f")).replace("\t", "    ").split("\n")
        )
        assert (only(text).message, only(text).function) == ("boom", "main.f")

    def test_chain_of_panics_whose_blanks_were_lost_is_one(self) -> None:
        assert [it.message for it in read(f"panic: one [recovered]\npanic: two\n\n{stack('main.f')}")] == ["one"]

    def test_line_of_others_within_a_chain_of_panics_does_not_cut_it(self) -> None:
        assert [it.message for it in read(f"panic: one\nGET /\n\tpanic: two\n\n{stack('main.f')}")] == ["one"]

    def test_indented_panic_without_a_stack_is_a_line_of_a_log(self) -> None:
        assert read("  panic: boom\n  and so on") == []

    def test_lines_of_a_panics_value_are_told_in_one(self) -> None:
        assert only("panic: 2 errors occurred:\n\t* one\n\t* two\n\n" + stack("main.f")).message == (
            "2 errors occurred: * one * two"
        )

    def test_crash_after_a_panic_that_was_thrown_again_is_told(self) -> None:
        again = f"panic: one [recovered]\n\tpanic: one\n\n{stack('main.f')}"
        assert [it.message for it in read(again + "panic: two")] == ["one", "two"]

    def test_fatal_error_of_a_program_that_was_started_again_is_another_crash(self) -> None:
        assert len(read("panic: one\nstarting\nfatal error: concurrent map writes")) == 2

    def test_carriage_returns_change_nothing(self) -> None:
        text = f"panic: {NIL}\n\n" + stack("main.f")
        assert read(text.replace("\n", "\r\n")) == read(text)

    def test_crashes_without_a_line_between_are_told(self) -> None:
        assert [it.message for it in read("panic: one\npanic: two")] == ["one", "two"]

    def test_each_crash_of_a_row_is_told(self) -> None:
        assert [it.message for it in read(f"panic: one\n\n{stack('main.f')}panic: two\n\n{stack('main.f')}")] == [
            "one",
            "two",
        ]

    def test_crashes_of_a_program_that_is_started_again_are_told_even_without_stacks(self) -> None:
        assert [it.message for it in read("panic: boom\nstarting\npanic: boom\nstarting\n")] == ["boom", "boom"]

    def test_every_opener_holds_a_literal(self) -> None:
        openers = [
            *(f"SIG{it}: x" for it in ("QUIT", "ABRT", "SEGV", "BUS", "ILL", "FPE", "TRAP", "SYS", "STKFLT")),
            *("panic: ", "fatal error: x", "WARNING: DATA RACE", "unexpected fault address 0x1"),
            *(
                "http: panic serving x: y",
                "panic-ed for request: x",
                "Observed a panic: x",
                "panic handling command: x",
            ),
            json.dumps(PANIC_ED),
        ]
        assert [it for it in openers if not any(literal in it.encode() for literal in LITERALS)] == []

    def test_literals_are_few_enough_to_be_searched_fast(self) -> None:
        assert len(LITERALS) <= 32  # beyond 64 in all the search is ten times slower, and others add theirs


class TestNoIncident:
    @pytest.mark.parametrize(
        "line",
        [
            "2026/11/21 06:08:51 panic: not at all",
            "E 2026-11-21T06:08:51.959Z worker said: panic: boom",
            '{"level":"error","msg":"panic: boom"}',
            '{"level":"error","msg":"http: panic serving 1.2.3.4:5: boom"}',
            "'panic: boom'",
            "> fatal error: concurrent map writes",
            "main.c:1:10: fatal error: stdio.h: No such file or directory",
            "fatal error: cannot open /etc/app.toml",
            "PHP Fatal error:  Uncaught Error",
            "SIGTERM: shutting down",
            "runtime: warning: something",
            "goroutine 7 [running]:",
            "thread 'main' panicked at src/main.rs:2:5:",
            "kernel panic: not syncing",
        ],
    )
    def test_line_of_a_log(self, line: str) -> None:
        assert read(f"{line}\n" * 3) == []

    def test_stack_that_was_only_printed(self) -> None:
        assert read(stack("runtime/debug.Stack", "runtime/debug.PrintStack", "main.main")) == []

    def test_tracebacks_of_other_languages(self) -> None:
        java = 'Exception in thread "main" java.lang.Error: panic: x\n\tat com.example.Main.run(Main.java:12)\n'
        python = 'Traceback (most recent call last):\n  File "/a/b.py", line 3, in f\n    raise E\nE: fatal error: x\n'
        rust = "thread 'main' panicked at src/main.rs:2:5:\nboom\nnote: run with RUST_BACKTRACE=1\n"
        assert read((java + python + rust) * 100) == []

    def test_ten_thousand_lines_of_ordinary_logs(self) -> None:
        lines = (
            "I 2026-11-21T06:08:51.947Z GET /busy 1.61164ms",
            "W 2026-11-21T06:06:43.393Z Faktory has over 2000 active client connections",
            '10.0.0.7 - - [21/Nov/2026:06:08:51 +0000] "GET /panic: HTTP/1.1" 200 12',
            '{"ts":1,"msg":"recovered","stack":"goroutine 1 [running]:"}',
            'level=info msg="job done" took=12ms panics=0 fatal=false',
        )
        assert read("\n".join(lines[index % len(lines)] for index in range(10_000))) == []

    def test_fatal_words_of_others_long_before_a_stack(self) -> None:
        assert read("fatal error: no licence\n" + "starting again\n" * 30 + stack("main.main")) == []


class TestCulprit:
    def test_first_function_is_the_first_that_is_not_gos_own(self) -> None:
        incident = only(BUSY_PAGE)
        assert incident.function == "github.com/contribsys/faktory/webui.busyWorkers"
        assert incident.component == "webui.busyWorkers"
        assert [(it.file, it.line) for it in incident.frames[:2]] == [
            ("/build/faktory/webui/helpers.go", 227),
            ("/build/faktory/webui/busy.ego", 42),
        ]

    def test_calls_of_the_standard_library_before_it_are_not_to_blame(self) -> None:
        names = ("internal/runtime/maps.fatal", "net/textproto.MIMEHeader.Set", "net/http.Header.Set", "main.answer")
        assert only("fatal error: concurrent map writes\n\n" + stack(*names)).function == "main.answer"

    def test_standard_library_is_told_where_there_is_nothing_else(self) -> None:
        text = "panic: boom\n\n" + stack("runtime.gopark", "net/http.(*conn).serve")
        assert only(text).function == "net/http.(*conn).serve"

    def test_panic_began_below_those_who_recovered_from_it(self) -> None:
        calls = stack("main.again", "panic", "main.cleanup", "panic", "runtime.sigpanic", "main.origin", "main.main")
        text = f"panic: {NIL} [recovered]\n\tpanic: {NIL}\n[signal SIGSEGV: code=0x1]\n\n{calls}"
        assert [it.function for it in only(text).frames] == ["main.origin", "main.main"]
        assert only(text).kind is IncidentKind.NIL_DEREFERENCE
        assert only(text.replace("[recovered]\n\tpanic: " + NIL, "[recovered, repanicked]")) == only(text)

    def test_fatal_error_in_a_deferred_function_began_above_the_panic(self) -> None:
        calls = stack("internal/runtime/maps.fatal", "main.deferred", "panic", "main.origin")
        assert only("fatal error: concurrent map writes\n\n" + calls).function == "main.deferred"

    def test_who_started_the_goroutine_is_told_where_it_called_nothing_of_its_own(self) -> None:
        text = "panic: boom\n\ngoroutine 7 [running]:\nruntime.goexit()\n\t/go/asm.s:1 +0x1\n"
        text += "created by main.start in goroutine 1\n\t/src/main.go:3 +0x1\n"
        assert only(text).function == "main.start"

    def test_goroutine_of_the_runtime_has_no_function(self) -> None:
        text = "fatal error: bad sweep\n\ngoroutine 3 [running]:\nruntime.bgsweep(0x0)\n\t/go/mgcsweep.go:280 +0x94\n"
        text += "created by runtime.gcenable in goroutine 1\n\t/go/mgc.go:200 +0x66\n"
        assert only(text).function is None

    def test_deadlock_is_told_by_where_the_main_goroutine_waits(self) -> None:
        text = "fatal error: all goroutines are asleep - deadlock!\n\n"
        text += stack("sync.(*Mutex).Lock", "main.other", state="sync.Mutex.Lock", number=18)
        text += stack("sync.(*WaitGroup).Wait", "main.wait", state="sync.WaitGroup.Wait", number=1)
        assert only(text).function == "main.wait"

    def test_lack_of_threads_is_told_by_what_most_of_them_are_held_by(self) -> None:
        text = "runtime: program exceeds 9-thread limit\nfatal error: thread exhaustion\n\n"
        text += stack("main.unlucky", number=3) + stack("syscall.Syscall", "main.rare", state="syscall", number=4)
        text += "".join(
            stack("syscall.Syscall", "main.block", state="syscall, 2 minutes", number=it) for it in range(5, 9)
        )
        assert only(text).function == "main.block"

    def test_goroutines_that_are_bound_to_a_thread_hold_one_too(self) -> None:
        text = "runtime: program exceeds 9-thread limit\nfatal error: thread exhaustion\n\n"
        text += stack("main.unlucky", number=3) + stack("main.bound", state="select, locked to thread", number=4)
        assert only(text).function == "main.bound"

    def test_signal_in_c_is_told_by_who_called_it(self) -> None:
        text = "SIGSEGV: segmentation violation\nPC=0x1 m=0 sigcode=1 addr=0x0\nsignal arrived during cgo execution\n\n"
        text += stack("runtime.cgocall", "main._Cfunc_fall", "main.use", state="syscall", number=1)
        assert only(text).function == "main._Cfunc_fall"

    def test_goroutine_whose_stack_the_value_of_a_panic_holds_is_counted_once(self) -> None:
        # As Go before 1.23 prints it.
        assert only(f"panic: boom\n{stack('main.f', number=7)}\n\n{stack('main.f', number=7)}").goroutines == {
            "running": 1
        }

    def test_stack_in_the_value_of_a_panic_tells_where_it_began(self) -> None:
        value = stack("main.origin", number=34).replace("\n", "\n\t")
        text = f"panic: boom\n\t\n\t{value}\n\n" + stack("main.(*Group).wait", number=1)
        assert (only(text).function, only(text).goroutines) == ("main.origin", {"running": 1})

    @pytest.mark.parametrize(
        ("printed", "told"),
        [
            ("main.F[...]", "main.F[...]"),
            ("main.F[go.shape.struct { main.a int }]", "main.F[...]"),
            ("example.com/a/pool.(*Pool[...]).Take.func1", "example.com/a/pool.(*Pool[...]).Take.func1"),
            ("gopkg.in/yaml%2ev3.(*parser).fail", "gopkg.in/yaml.v3.(*parser).fail"),
            ("main.(*T).Close-fm", "main.(*T).Close-fm"),
            ("main.glob..func9", "main.glob..func9"),
        ],
    )
    def test_functions_are_named_as_the_source_has_them(self, printed: str, told: str) -> None:
        assert only("panic: boom\n\n" + stack(printed)).function == told

    def test_arguments_are_never_told(self) -> None:
        assert "0x" not in repr([it.function for it in only(BUSY_PAGE).frames])

    def test_inlined_calls_and_trimmed_paths_are_read(self) -> None:
        text = "panic: boom\n\ngoroutine 1 [running]:\nmain.f(...)\n\texample.com/acme/main.go:9\nmain.main()\n"
        text += "\texample.com/acme/main.go:4 +0x1d fp=0x1 sp=0x2 pc=0x3\n...23 frames elided...\n"
        assert [(it.function, it.line) for it in only(text).frames] == [("main.f", 9), ("main.main", 4)]

    def test_stack_whose_blanks_were_lost_is_read(self) -> None:
        assert only("panic: boom\n\n" + stack("main.f", "main.g").replace("\t", "")).function == "main.f"

    def test_brackets_in_a_line_of_others_are_no_call(self) -> None:
        text = "panic: boom\n\ngoroutine 1 [running]:\nmain.f()\nretry(3)\nstate=x.y(4)\n\t/src/f.go:1 +0x1\n"
        assert only(text).function == "main.f"

    def test_address_in_a_line_of_others_is_no_file(self) -> None:
        text = "panic: boom\n\ngoroutine 1 [running]:\nmain.f()\nlistening at 10.0.0.7:7419\n\t/src/f.go:1 +0x1\n"
        assert [(it.function, it.file) for it in only(text).frames] == [("main.f", "/src/f.go")]

    def test_stack_without_its_header_is_read(self) -> None:
        text = stack("main.f").replace("goroutine 7 [running]:", "goroutine I GET /busy\n7 [running]:")
        assert only("fatal error: concurrent map writes\n\n" + text).function == "main.f"


class TestGoroutines:
    @pytest.mark.parametrize(
        ("header", "state"),
        [
            ("goroutine 1 [running]:", "running"),
            ("goroutine 1 [chan receive, 12 minutes]:", "chan receive"),
            ("goroutine 1 [select (no cases), 3 minutes, locked to thread]:", "select (no cases)"),
            ("goroutine 1 gp=0xc0000061c0 m=0 mp=0x932340 [running]:", "running"),
            ("goroutine 1 gp=0xc0000061c0 m=nil [IO wait (scan)]:", "IO wait"),
            ("goroutine 1 [sleep (durable), synctest bubble 1]:", "sleep"),
            ("goroutine 1 [chan send (leaked)]:", "chan send"),
            ('goroutine 1 [running] {job: x1, tenant: "acme [corp]:"}:', "running"),
        ],
    )
    def test_state_is_told_without_what_else_the_header_says(self, header: str, state: str) -> None:
        assert only(f"panic: boom\n\n{header}\nmain.f()\n\t/src/f.go:1 +0x1\n").goroutines == {state: 1}

    def test_all_are_counted_and_the_first_are_kept(self) -> None:
        text = "fatal error: concurrent map writes\n\n" + stack("main.f")
        text += "".join(stack("main.g", state="select", number=it) for it in range(100, 1100))
        incident = only(text)
        assert (incident.goroutines, incident.function) == ({"running": 1, "select": 1000}, "main.f")

    def test_headers_may_be_counted_by_others_once_enough_stacks_are_kept(self) -> None:
        parser = GoCrashParser()
        parser.line("fatal error: concurrent map writes", None)
        for number in range(MAX_HELD):
            assert not parser.counting
            for line in stack("main.f", number=number).split("\n"):
                parser.line(line, None)
        parser.line("goroutine 99 [select]:", None)
        assert parser.counting
        parser.count("select, 4 minutes", 5)
        [incident] = parser.end()
        assert incident.goroutines == {"running": MAX_HELD, "select": 6}

    def test_states_beyond_the_bound_are_counted_as_one(self) -> None:
        text = "panic: boom\n\n" + "".join(stack("main.f", state=f"state {it}", number=it) for it in range(100))
        counted = only(text).goroutines
        assert (len(counted), counted[OTHER], sum(counted.values())) == (MAX_STATES, 100 - MAX_STATES + 1, 100)


class TestEnd:
    def test_lines_of_others_within_a_dump_change_nothing(self) -> None:
        others = "I 2026-11-21T06:08:51.951Z GET /busy 1.271556ms\n"
        assert only("".join(f"{line}\n{others}" for line in BUSY_PAGE.split("\n"))) == only(BUSY_PAGE)

    def test_many_lines_of_others_within_a_long_stack_do_not_end_it(self) -> None:
        calls = "".join(f"main.f{it}()\n\t/src/f.go:1 +0x1\n" + "GET /busy\n" * 10 for it in range(MAX_STRANGERS))
        assert only(f"panic: boom\n\ngoroutine 1 [running]:\n{calls}goroutine 2 [select]:\n").goroutines == {
            "running": 1,
            "select": 1,
        }

    def test_goroutines_that_are_counted_keep_the_dump_open(self) -> None:
        parser = GoCrashParser()
        parser.line("panic: boom", None)
        for _ in range(3):
            parser.count("select", 1)
            for _ in range(MAX_STRANGERS - 1):
                assert parser.line("GET /busy", None) == ()

    def test_dump_ends_where_too_many_lines_of_others_follow(self) -> None:
        parser = GoCrashParser()
        for line in BUSY_PAGE.split("\n"):
            assert parser.line(line, None) == ()
        for _ in range(MAX_STRANGERS - 1):
            assert parser.line("listening", None) == ()
        [incident] = parser.line("listening", None)
        assert incident == only(BUSY_PAGE)
        assert not parser.open

    def test_nothing_is_open_before_an_opener_and_after_the_end(self) -> None:
        parser = GoCrashParser()
        parser.line("goroutine 1 [running]:", None)
        assert not parser.open
        parser.line("panic: boom", None)
        assert parser.open
        assert len(parser.end()) == 1
        assert (parser.open, parser.end()) == (False, ())

    def test_time_is_that_of_the_opener(self) -> None:
        parser = GoCrashParser()
        parser.line("panic: boom", 5.0)
        parser.line("goroutine 1 [running]:", 9.0)
        assert parser.end()[0].at == 5.0


class TestRecovered:
    def test_panic_that_a_web_server_recovered_from(self) -> None:
        incident = only(SERVING)
        assert (incident.kind, incident.message) == (IncidentKind.RECOVERED_PANIC, NIL)
        assert incident.component == "webui.ego_busy.func1.1"
        assert not incident.crash

    def test_it_ends_where_another_stack_begins(self) -> None:
        parser = GoCrashParser()
        told = [each for line in (SERVING + stack("main.other")).split("\n") for each in parser.line(line, None)]
        assert told == read(SERVING)
        assert not parser.open

    def test_it_is_told_beside_the_crash_that_follows(self) -> None:
        assert [it.kind for it in read(SERVING + "I 2026 GET /busy\n" + BUSY_PAGE)] == [
            IncidentKind.RECOVERED_PANIC,
            IncidentKind.CONCURRENT_MAP,
        ]

    def test_stack_that_is_printed_after_it_is_not_its_own(self) -> None:
        assert only(SERVING + stack("main.other", number=9)).goroutines == {"running": 1}

    @pytest.mark.parametrize(
        "line",
        [
            f'E0102 15:04:05.000000 1 runtime.go:79] Observed a panic: "nil pointer" ({NIL})',
            f"E0102 15:04:05.000000 1 runtime.go:79] Observed a panic: {NIL}",
            f'E0102 15:04:05.000000 1 panic.go:261] "Observed a panic" panic="{NIL}" panicGoValue="x" stacktrace=<',
        ],
    )
    def test_panic_that_kubernetes_observed(self, line: str) -> None:
        text = f"{line}\n" + stack("runtime.logPanic", "panic", "main.reconcile")
        assert (only(text).kind, only(text).message) == (IncidentKind.RECOVERED_PANIC, NIL)
        assert only(text).function == "main.reconcile"

    def test_panic_that_is_thrown_again_after_it_was_told_is_only_a_crash(self) -> None:
        calls = stack("main.handle", "panic", "main.reconcile")
        text = f"E0102 Observed a panic: {NIL}\n{calls}panic: {NIL} [recovered]\n\tpanic: {NIL}\n\n{calls}"
        assert only(text).kind is IncidentKind.NIL_DEREFERENCE

    def test_panic_in_a_command_is_one_line_and_its_arguments_are_not_told(self) -> None:
        line = 'E 2026-11-21T06:05:14.378Z panic handling command: boom: `PUSH {"args":["secret"]}`'
        incident = only(line)
        assert (incident.kind, incident.message) == (IncidentKind.RECOVERED_PANIC, "boom")
        parser = GoCrashParser()
        assert len(parser.line(line, None)) == 1
        assert not parser.open

    def test_stack_in_one_string_is_handled(self) -> None:
        incident = handled(PANIC_ED, 5.0)
        assert incident is not None
        assert (incident.kind, incident.message, incident.at) == (IncidentKind.RECOVERED_PANIC, NIL, 5.0)
        assert incident.component == "manager.(*Manager).Create"

    def test_stack_in_a_quoted_line_is_handled(self) -> None:
        assert only("time=x level=error msg=" + json.dumps(PANIC_ED)).component == "manager.(*Manager).Create"

    def test_crash_of_another_in_one_string_is_none_of_this_program(self) -> None:
        incident = handled("the worker said:\n" + BUSY_PAGE, None)
        assert incident is not None
        assert (incident.kind, incident.component) == (IncidentKind.RECOVERED_PANIC, "webui.busyWorkers")

    def test_recovered_stack_without_words_is_told_by_what_stands_before_it(self) -> None:
        incident = handled("recovered: boom\n" + stack("main.recoverer", "panic", "main.origin"), None)
        assert incident is not None
        assert (incident.message, incident.function) == ("recovered: boom", "main.origin")

    @pytest.mark.parametrize(
        "text", ["panic: boom", "fatal error: concurrent map writes", "http: panic serving x: y", stack("main.f"), ""]
    )
    def test_string_without_the_stack_of_a_panic_is_nothing(self, text: str) -> None:
        assert handled(text, None) is None

    def test_race_in_one_string_is_a_race(self) -> None:
        incident = handled(RACE, None)
        assert incident is not None
        assert incident.kind is IncidentKind.DATA_RACE


class TestRace:
    def test_race_is_told_with_both_functions(self) -> None:
        incident = only(RACE)
        assert incident.kind is IncidentKind.DATA_RACE
        assert incident.message == (
            "read in kgo.(*recBuf).bumpRepeatedLoadErr, previous write in kgo.(*produceRequest).AppendTo"
        )
        assert incident.component == "kgo.(*recBuf).bumpRepeatedLoadErr"
        assert not incident.crash

    def test_race_ends_with_its_rule(self) -> None:
        parser = GoCrashParser()
        *lines, rule, _ = RACE.split("\n")
        assert [parser.line(it, None) for it in lines] == [()] * len(lines)
        assert len(parser.line(rule, None)) == 1
        assert not parser.open

    def test_each_race_is_told(self) -> None:
        assert len(read(RACE * 3 + "Found 3 data race(s)\n")) == 3

    def test_stack_that_is_lost_leaves_the_other(self) -> None:
        lines = RACE.split("\n")
        lost = "\n".join([*lines[:3], "  [failed to restore the stack]", *lines[7:]])
        assert only(lost).message == "read in (unknown), previous write in kgo.(*produceRequest).AppendTo"
        assert only(lost).component == "kgo.(*produceRequest).AppendTo"

    def test_group_is_the_same_whichever_came_first(self) -> None:
        swapped = RACE.replace("(*recBuf).bumpRepeatedLoadErr", "?").replace(
            "(*produceRequest).AppendTo", "(*recBuf).bumpRepeatedLoadErr"
        )
        assert only(swapped.replace("?", "(*produceRequest).AppendTo")).group == only(RACE).group


class TestModules:
    @pytest.mark.parametrize(
        ("file", "function", "modules"),
        [
            ("/go/pkg/mod/github.com/a/b@v1.2.3/c/d.go", "github.com/a/b/c.F", {"github.com/a/b": "v1.2.3"}),
            ("github.com/a/b/v2@v2.0.1/d.go", "github.com/a/b/v2.F", {"github.com/a/b/v2": "v2.0.1"}),
            (
                "/m/github.com/!burnt!sushi/toml@v1.0.0/d.go",
                "github.com/BurntSushi/toml.F",
                {"github.com/BurntSushi/toml": "v1.0.0"},
            ),
            ("/m/example.com/x@v2.1.0+incompatible/d.go", "example.com/x.F", {"example.com/x": "v2.1.0+incompatible"}),
            ("/m/gopkg.in/yaml.v3@v3.0.1/d.go", "gopkg.in/yaml%2ev3.F", {"gopkg.in/yaml.v3": "v3.0.1"}),
            (
                "/m/x.io/y@v0.0.0-20240102030405-abcdef012345/d.go",
                "x.io/y.F",
                {"x.io/y": "v0.0.0-20240102030405-abcdef012345"},
            ),
            ("/go/pkg/mod/x.io/tool@v1.0.0/main.go", "main.main", {"x.io/tool": "v1.0.0"}),
            ("/src/vendor/github.com/a/b/c.go", "github.com/a/b.F", {}),
            ("/srv/me@vm/src/app/main.go", "main.main", {}),
        ],
    )
    def test_version_stands_in_the_path(self, file: str, function: str, modules: dict[str, str]) -> None:
        assert only(f"panic: boom\n\ngoroutine 1 [running]:\n{function}()\n\t{file}:7 +0x1\n").modules == modules


class TestGroup:
    def test_addresses_numbers_and_lines_do_not_matter(self) -> None:
        other = BUSY_PAGE.replace("2499", "7").replace("227", "230").replace("0xd0a1b8?", "0x1")
        other = other.replace("read and map write", "iteration and map write").replace("/build/", "/ci/")
        assert only(other).group == only(BUSY_PAGE).group
        assert len(only(BUSY_PAGE).group) == 12

    @pytest.mark.parametrize(
        ("old", "new"), [("busyWorkers", "busyJobs"), ("ego_busy", "ego_queues"), ("concurrent map", "sync: map")]
    )
    def test_function_its_caller_and_the_kind_do(self, old: str, new: str) -> None:
        assert only(BUSY_PAGE.replace(old, new)).group != only(BUSY_PAGE).group

    def test_signal_that_somebody_sent_is_alike_wherever_the_program_stood(self) -> None:
        sent = "SIGQUIT: quit\nPC=0x1 m=0 sigcode=0\n\n"
        assert only(sent + stack("main.f")).group == only(sent + stack("main.g")).group
        raised = sent.replace("sigcode=0", "sigcode=18446744073709551610")
        assert only(raised + stack("main.f")).group != only(raised + stack("main.g")).group

    def test_of_functions_that_call_one_another_without_end_it_does_not_matter_which_was_last(self) -> None:
        text = "runtime: goroutine stack exceeds 9-byte limit\nfatal error: stack overflow\n\n"
        assert only(text + stack("main.f", "main.g")).group == only(text + stack("main.g", "main.f")).group

    def test_version_of_the_module_does(self) -> None:
        text = "panic: boom\n\ngoroutine 1 [running]:\nx.io/y.F()\n\t/m/x.io/y@v1.0.0/d.go:7 +0x1\n"
        assert only(text).group != only(text.replace("v1.0.0", "v1.0.1")).group

    def test_without_a_stack_it_is_of_the_message_without_its_numbers(self) -> None:
        assert only("panic: lost 17 jobs").group == only("panic: lost 3 jobs").group
        assert only("panic: lost 17 jobs").group != only("panic: lost 17 workers").group


class TestKnown:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            (BUSY_PAGE, "faktory-busy-page"),
            (SERVING, "faktory-busy-page"),
            (RACE, "franz-go-load-errors"),
            (
                "fatal error: concurrent map iteration and map write\n\n"
                + stack("internal/runtime/maps.fatal", "github.com/contribsys/faktory/storage.(*redisStore).EachQueue"),
                "faktory-queue-names",
            ),
            (
                "fatal error: concurrent map writes\n\n"
                + stack("github.com/mperham/faktory-comm/ent/throttle.(*Throttle).LockAndPop"),
                "faktory-ent-throttle",
            ),
            (
                "fatal error: concurrent map read and map write\n\n"
                + stack(
                    "github.com/flyteorg/flyte/flyteadmin/pkg/manager/impl.(*ExecutionManager).emitScheduledWorkflowMetrics"
                ),
                "flyteadmin-metrics-map",
            ),
        ],
    )
    def test_known_incident_is_named_with_what_helps(self, text: str, name: str) -> None:
        incident = only(text)
        assert (incident.known, incident.hint) == (name, BY_ID[name].hint)

    def test_unknown_incident_has_no_hint(self) -> None:
        incident = only("panic: boom\n\n" + stack("main.f"))
        assert (incident.known, incident.hint) == (None, None)

    def test_version_that_is_mended_is_another_incident(self) -> None:
        assert only(RACE.replace("v1.17.0", "v1.17.1")).known is None

    def test_other_kind_at_the_same_place_is_another_incident(self) -> None:
        assert known(IncidentKind.PANIC, ["x/throttle.(*Throttle).LockAndPop"], {}) is None

    def test_race_needs_both_of_its_sides(self) -> None:
        assert known(IncidentKind.DATA_RACE, ["x/kgo.(*recBuf).bumpRepeatedLoadErr"], {}) is None

    def test_versions_before_the_mended_one_are_affected(self) -> None:
        throttle = BY_ID["faktory-ent-throttle"].affected
        assert [throttle.includes(it) for it in ((1, 8, 0), (1, 9, 0), (1, 9, 1), (1, 10, 0))] == [
            True,
            True,
            False,
            False,
        ]
        assert BY_ID["faktory-busy-page"].affected.includes((1, 10, 0))

    def test_hints_are_short_sentences(self) -> None:
        assert [it.id for it in KNOWN if not 40 < len(it.hint) < 260 or not it.hint.endswith(".")] == []

    @pytest.mark.parametrize(
        ("text", "read_as"),
        [("1.9.1", (1, 9, 1)), ("v1.17.1-rc1", (1, 17, 1)), ("1.15", (1, 15, 0)), ("", None), ("head", None)],
    )
    def test_version_is_read(self, text: str, read_as: tuple[int, ...] | None) -> None:
        assert version(text) == read_as


RECORDED = [(f"{at} {name}", ended.stderr.decode(errors="replace")) for at, name, ended in recorded()]
DUMPS = [BUSY_PAGE, SERVING, RACE, *(text for _, text in RECORDED if len(text) < 4000)]
ORDINARY = st.sampled_from(
    [
        "I 2026-11-21T06:08:51.951Z GET /busy 1.271556ms",
        "W 2026-11-21T06:06:43.393Z Faktory has over 2000 active client connections and may exhibit poor performance.",
        '{"level":"info","msg":"done (in 3 ms)"}',
        "",
        "2026/11/21 06:08:51 panic: not at all",
        "  indented, with a colon: 12",
    ]
)


def check_bounds(incident: Incident) -> None:
    assert len(incident.message) <= MAX_ERROR
    assert incident.message.isprintable()
    assert len(incident.frames) <= MAX_FRAMES
    assert all(len(it.function) <= MAX_NAME and len(it.file or "") <= MAX_NAME for it in incident.frames)
    assert all(it.function.isprintable() and (it.file or "").isprintable() for it in incident.frames)
    assert len(incident.goroutines) <= MAX_STATES
    assert len(incident.modules) <= MAX_MODULES
    assert all(len(it) <= MAX_NAME for pair in incident.modules.items() for it in pair)
    repr(incident).encode()


class TestProperties:
    @given(st.sampled_from(DUMPS), st.data())
    def test_lines_of_others_anywhere_change_nothing(self, dump: str, data: st.DataObject) -> None:
        lines: list[str] = []
        for line in dump.split("\n"):
            # A panic's value has no mark where it ends: before Go 1.23 its lines look like anything.
            lines += [line, *data.draw(st.lists(ORDINARY, max_size=3))]
        assert read("\n".join(lines)) == read(dump)

    @given(st.sampled_from(DUMPS), st.integers(0, 4000))
    def test_dump_that_breaks_off_anywhere_is_told_as_far_as_it_came(self, dump: str, cut: int) -> None:
        for incident in read(dump[:cut]):
            check_bounds(incident)

    @given(st.lists(st.sampled_from([line for dump in DUMPS for line in dump.split("\n")]) | st.text(), max_size=60))
    def test_any_lines_are_read_without_an_error(self, lines: list[str]) -> None:
        for incident in read("\n".join(lines)):
            check_bounds(incident)
        if (quoted := handled("\n".join(lines), None)) is not None:
            check_bounds(quoted)
            assert quoted.kind not in CRASH_KINDS

    @given(st.text(max_size=5000))
    def test_value_of_a_panic_may_be_anything(self, value: str) -> None:
        first, *rest = value.split("\n")
        incidents = read("\n\t".join([f"panic: {first}", *rest]) + "\n\n" + stack("main.f"))
        assert incidents
        for incident in incidents:
            check_bounds(incident)

    @given(st.sampled_from(DUMPS))
    def test_quoted_dump_is_never_a_crash(self, dump: str) -> None:
        incident = handled(dump, None)
        assert incident is None or not incident.crash


class TestBounds:
    @pytest.mark.parametrize(
        "line",
        [
            *(
                "(" * 20_000,
                "[" * 20_000,
                " " * 20_000,
                "a:1 " * 5000,
                "goroutine 1 [" * 2000,
                "0 " * 9000,
                "{" * 20_000,
            ),
            *("x.[a]" * 4000 + "()", "x:1 fp=a sp=b pc=" * 1000, "created by x in goroutine " * 800, "\x00" * 20_000),
            *("panic-ed for request: with err: " * 600, "Observed a panic: (" * 900, "panic serving a:" * 1000),
        ],
    )
    def test_no_line_takes_long(self, line: str) -> None:
        parser = GoCrashParser()
        began = time.process_time()
        for each in ("panic: boom", "goroutine 1 [running]:", line, "\t/src/f.go:1 +0x1", line, line):
            parser.line(each, None)
        for incident in parser.end():
            check_bounds(incident)
        handled(line * 100, None)
        assert time.process_time() - began < 1.0  # usually a hundredth; what is not linear takes minutes

    def test_long_stack_is_told_in_part(self) -> None:
        names = [f"example.com/m{it}/p.F" for it in range(100)]
        calls = "".join(f"{it}()\n\t/m/example.com/m{at}@v1.0.{at}/p/f.go:1 +0x1\n" for at, it in enumerate(names))
        incident = only(f"panic: boom\n\ngoroutine 1 [running]:\n{calls}")
        assert [it.function for it in incident.frames] == names[:MAX_FRAMES]
        assert len(incident.modules) == MAX_MODULES

    def test_endless_stack_is_held_in_bounded_memory(self) -> None:
        parser = GoCrashParser()
        for line in ("panic: boom", "goroutine 1 [running]:"):
            parser.line(line, None)
        for number in range(10_000):
            parser.line(f"main.f{number}()", None)
            parser.line("\t/src/f.go:1 +0x1", None)
        assert len(pickle.dumps(parser)) < 20_000

    def test_endless_line_is_cut(self) -> None:
        parser = GoCrashParser()
        parser.line("panic: " + "x" * 1_000_000, None)
        assert len(pickle.dumps(parser)) < 20_000

    def test_endless_dump_is_held_in_bounded_memory(self) -> None:
        parser = GoCrashParser()
        parser.line("fatal error: concurrent map writes", None)
        held = {}
        for number in range(3000):
            for line in stack(*(f"main.f{number}x{it}" for it in range(5)), number=number).split("\n"):
                parser.line(line, None)
            if number in (MAX_HELD + 1, 2999):
                held[number] = len(pickle.dumps(parser))
        assert held[2999] <= held[MAX_HELD + 1] + 16
