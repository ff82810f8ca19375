"""Crashes in logs that are already there: what is read, however it is packed, and what is told of it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exporter.logs import escaped
from exporter.model import CRASH_KINDS, Frame, Incident, IncidentKind
from exporter.process import incident_report, unpack
from exporter.process.advice import NEXT
from exporter.process.incident_json import as_object, rfc3339
from exporter.process.incident_report import Found, amount, grouped, report
from exporter.process.line_times import MAX_LINE, LineTimes
from exporter.process.postmortem import Postmortem, chains

BUSY = """\
fatal error: concurrent map read and map write

goroutine 2499 [running]:
internal/runtime/maps.fatal({0x8090fd?, 0x1?})
\t/usr/lib/go/src/runtime/panic.go:1195 +0x18
github.com/contribsys/faktory/webui.busyWorkers(0xd0a1b8?, 0x3079941b670)
\t/build/webui/helpers.go:227 +0x191
github.com/contribsys/faktory/webui.busyHandler({0xa75818, 0x307993dd5e0}, 0x3079966c640)
\t/build/webui/pages.go:96 +0x25

goroutine 1 [IO wait, 2 minutes]:
internal/poll.runtime_pollWait(0x7f1e, 0x72)
\t/usr/lib/go/src/runtime/netpoll.go:351 +0x85
main.main()
\t/build/cmd/main.go:10 +0x1d
"""
NIL = """\
panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x48f2a6]

goroutine 7 [running]:
main.(*Store).Get(0x0, {0x4b5e1c, 0x3})
\t/app/store.go:12 +0x26
main.main()
\t/app/main.go:5 +0x1d
"""
RACE = """\
==================
WARNING: DATA RACE
Write at 0x00c00011c0d8 by goroutine 8:
  main.add()
      /app/main.go:9 +0x44

Previous read at 0x00c00011c0d8 by main goroutine:
  main.show()
      /app/main.go:14 +0x3a
==================
"""
RECOVERED = """\
2026/11/21 06:05:20 http: panic serving 127.0.0.1:5000: boom
goroutine 20 [running]:
net/http.(*conn).serve.func1()
\t/usr/lib/go/src/net/http/server.go:1947 +0xbe
panic({0x65a1c0?, 0x7013d0?})
\t/usr/lib/go/src/runtime/panic.go:792 +0x132
main.handle({0x704b98, 0xc0000fe000}, 0xc0000e8000)
\t/app/main.go:20 +0x2c
"""


def said(second: int, what: str = "Retries processed 1 jobs") -> str:
    """One line of a server's own log."""
    return f"I 2026-11-21T06:05:{second:02}.500Z {what}\n"


def at(second: int) -> float:
    """Return the time of such a line."""
    return datetime(2026, 11, 21, 6, 5, second, 500_000, tzinfo=UTC).timestamp()


def forewarn(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``forewarn postmortem`` to its end."""
    return subprocess.run(command(*arguments), env=environment(), input=stdin, capture_output=True, timeout=60)


PROGRAM = """
import signal
from exporter.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background has it ignored
main()
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "postmortem", *arguments]


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "COLUMNS": "200"}


def told_of(*paths: Path) -> list[dict[str, object]]:
    """Return what ``--json`` tells of these logs."""
    ended = forewarn("--json", *map(str, paths))
    assert ended.stderr == b""
    assert ended.returncode == 0
    found: list[dict[str, object]] = json.loads(ended.stdout)["incidents"]
    return found


def log(folder: Path, text: str, name: str = "faktory.log", written_at: float = 2e9) -> Path:
    path = folder / name
    path.write_text(text)
    os.utime(path, (written_at, written_at))
    return path


def found_in(*paths: Path) -> list[Incident]:
    reading = Postmortem([str(path) for path in paths])
    found = [each.incident for each in reading.incidents()]
    assert reading.problems == []
    return found


# --- what is found --------------------------------------------------------------------------------------------------


def test_each_kind_is_told_with_whether_the_process_died_of_it(tmp_path: Path) -> None:
    path = log(tmp_path, said(1) + RACE + said(2) + RECOVERED + said(3) + NIL + said(4) + BUSY)
    assert [(each["class"], each["crash"], each["component"]) for each in told_of(path)] == [
        ("data-race", False, "main.add"),
        ("recovered-panic", False, "main.handle"),
        ("nil-dereference", True, "main.(*Store).Get"),
        ("concurrent-map", True, "webui.busyWorkers"),
    ]


def test_all_that_is_known_of_an_incident_is_told(tmp_path: Path) -> None:
    (told,) = told_of(log(tmp_path, said(1) + BUSY))
    assert told["function"] == "github.com/contribsys/faktory/webui.busyWorkers"
    assert told["goroutines"] == {"running": 1, "IO wait": 1}
    assert told["known"] == "faktory-busy-page"
    assert "/busy" in str(told["hint"])
    assert told["at"] == "2026-11-21T06:05:01.500Z"
    assert "concurrent map read and map write" in str(told["message"])
    assert told["frames"] == [
        {"function": "github.com/contribsys/faktory/webui.busyWorkers", "file": "/build/webui/helpers.go", "line": 227},
        {"function": "github.com/contribsys/faktory/webui.busyHandler", "file": "/build/webui/pages.go", "line": 96},
    ]


def test_a_password_in_a_message_is_not_told(tmp_path: Path) -> None:
    message = "panic: dial redis://user:hunter2@host:6379: refused"
    path = log(tmp_path, f"{message}\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/main.go:5 +0x1d\n")
    for ended in (forewarn(str(path)), forewarn("--json", str(path))):
        assert b"//***@host:6379" in ended.stdout
        assert b"hunter2" not in ended.stdout


def test_nothing_else_stands_in_the_json() -> None:
    assert list(as_object(Incident(kind=IncidentKind.PANIC, message="boom"))) == [
        *("class", "crash", "message", "function", "component", "goroutines", "hint", "known", "group", "at"),
        *("frames", "modules"),
    ]


@pytest.mark.parametrize("seconds", [None, float("nan"), float("inf"), 1e300, -1e300])
def test_what_is_no_time_is_not_told_as_one(seconds: float | None) -> None:
    assert rfc3339(seconds) is None


def test_a_dump_is_found_in_every_envelope(tmp_path: Path) -> None:
    now = "2026-11-21T06:05:01.500000000Z"
    envelopes: Mapping[str, Callable[[str], str]] = {
        "docker": lambda line: json.dumps({"log": f"{line}\n", "stream": "stderr", "time": now}),
        "cri": lambda line: f"{now} stderr F {line}",
        "journal": lambda line: json.dumps(
            {"MESSAGE": line, "__REALTIME_TIMESTAMP": f"{at(1) * 1e6:.0f}", "_PID": "7"}
        ),
        "compose": lambda line: f"faktory-1  | {line}",
        "kubectl": lambda line: f"[pod/faktory-0/faktory] {line}",
    }
    for name, wrap in envelopes.items():
        (told,) = told_of(log(tmp_path, "".join(f"{wrap(line)}\n" for line in BUSY.splitlines()), name))
        assert (told["class"], told["component"]) == ("concurrent-map", "webui.busyWorkers"), name
        if name in {"docker", "cri", "journal"}:
            assert told["at"] == "2026-11-21T06:05:01.500Z", name


def test_ordinary_lines_tell_nothing(tmp_path: Path) -> None:
    assert told_of(log(tmp_path, "".join(said(second, f"panic: {second} of all") for second in range(60)) * 200)) == []


def test_a_dump_without_an_end_of_line_is_found(tmp_path: Path) -> None:
    assert [each["class"] for each in told_of(log(tmp_path, BUSY.rstrip("\n")))] == ["concurrent-map"]
    assert [each["class"] for each in told_of(log(tmp_path, "fatal error: out of memory"))] == ["out-of-memory"]


# --- when -----------------------------------------------------------------------------------------------------------


def test_what_tells_no_time_has_that_of_the_line_before_it(tmp_path: Path) -> None:
    found = found_in(log(tmp_path, said(1) + said(2) + BUSY + said(9) + said(10) + "no time\n" + NIL + said(30)))
    assert [each.at for each in found] == [at(2), at(10)]


def test_without_any_time_before_it_none_is_told(tmp_path: Path) -> None:
    assert [each.at for each in found_in(log(tmp_path, "starting\n" + BUSY + said(9)))] == [None]


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 10**6])
def test_times_and_bytes_are_the_same_however_the_log_is_cut(size: int) -> None:
    text = (said(1) + "x" * 500 + "\n" + BUSY + said(5) + said(6) + NIL + said(8) + "fatal error: out").encode()
    times = LineTimes(2e9)
    pieces = [each for start in range(0, len(text), size) for each in times.pieces(text[start : start + size])]
    pieces += times.rest()
    assert b"".join(piece for piece, _ in pieces) == text
    opened = {piece[:12]: when for piece, when in pieces if piece.startswith((b"fatal", b"panic"))}
    assert opened == {b"fatal error:": at(8), b"panic: runti": at(6)}


def test_a_time_is_looked_for_before_the_chunk_and_only_near_the_line() -> None:
    times = LineTimes(2e9)
    list(times.pieces(said(1).encode() + b"x" * 3000 + b"\n"))
    assert next(times.pieces(b"fatal error: a\n"))[1] == at(1)
    far = LineTimes(2e9)
    list(far.pieces(said(1).encode() + b"x" * 5000 + b"\n"))
    assert next(far.pieces(b"fatal error: a\n"))[1] == 2e9


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    times = LineTimes(2e9)
    assert sum(len(piece) for _ in range(10) for piece, _ in times.pieces(b"x" * MAX_LINE)) >= 9 * MAX_LINE


# --- several logs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "together"),
    [
        ("a.log.2.gz a.log.1 a.log", [3]),
        ("a.log.10.xz a.log.9.bz2", [2]),
        ("a.log a.log.1 a.log.2.gz", [1, 1, 1]),
        ("a.log.3 a.log.1 a.log", [1, 2]),
        ("a.log.1 b.log", [1, 1]),
        ("x/a.log.1 y/a.log", [1, 1]),
        ("a.log-20261120.gz a.log-20261121 a.log", [3]),
        ("a.log-20261121 a.log-20261120", [1, 1]),
        ("0.log.20261121-061234.gz 0.log.20261121-070000 0.log", [3]),
        ("a.log.2026-11-20 a.log.2026-11-21 a.log", [3]),
        ("a.log.1 a.log.20261121", [1, 1]),
        ("a-json.log.1 a-json.log", [2]),
        ("faktory-1.log faktory-2.log", [1, 1]),
        ("a.log a.log", [1, 1]),
        ("- a.log", [1, 1]),
    ],
)
def test_a_rotated_log_is_one_log_where_it_is_named_oldest_first(names: str, together: list[int]) -> None:
    assert [len(chain) for chain in chains(names.split())] == together


@pytest.mark.parametrize("cut", [5, 100, 300, len(BUSY) - 3])
def test_a_dump_that_was_rotated_in_the_middle_is_one(cut: int, tmp_path: Path) -> None:
    whole = said(1) + BUSY + said(30)
    older = log(tmp_path, whole[: len(said(1)) + cut], "faktory.log.1", written_at=at(1))
    newer = log(tmp_path, whole[len(said(1)) + cut :], "faktory.log", written_at=at(59))
    (found,) = found_in(older, newer)
    assert (found.component, found.at, found.goroutines) == ("webui.busyWorkers", at(1), {"running": 1, "IO wait": 1})


def test_the_end_of_one_log_and_the_beginning_of_another_are_never_one(tmp_path: Path) -> None:
    one = log(tmp_path, NIL.rstrip("\n"), "one.log")
    two = log(tmp_path, "0\n\ngoroutine 5 [select]:\nmain.two()\n\t/app/two.go:1 +0x1\n", "two.log")
    (found,) = found_in(one, two)
    assert (found.frames[-1].line, found.goroutines) == (5, {"running": 1})


def test_incidents_stand_in_the_order_of_the_logs(tmp_path: Path) -> None:
    paths = [log(tmp_path, NIL, "b.log"), log(tmp_path, BUSY, "a.log")]
    assert [each["class"] for each in told_of(*paths)] == ["nil-dereference", "concurrent-map"]


# --- packed, and broken ---------------------------------------------------------------------------------------------

PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": lambda content: bz2.compress(content, 1),  # in blocks of 100 kB, of which a torn one tells nothing
    "xz": lambda content: lzma.compress(content, preset=0),
}


@pytest.mark.parametrize("how", PACKERS)
def test_what_is_packed_is_read_whatever_its_name(how: str, tmp_path: Path) -> None:
    path = tmp_path / "faktory.log"
    path.write_bytes(PACKERS[how]((said(1) + BUSY).encode()))
    assert [each["class"] for each in told_of(path)] == ["concurrent-map"]


@pytest.mark.parametrize("how", PACKERS)
def test_several_packed_parts_behind_each_other_are_one_log(how: str, tmp_path: Path) -> None:
    path = tmp_path / "faktory.log"
    path.write_bytes(PACKERS[how](said(1).encode()) + PACKERS[how](BUSY.encode()))
    assert [each["at"] for each in told_of(path)] == ["2026-11-21T06:05:01.500Z"]


@pytest.mark.parametrize(("how", "called"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
def test_of_a_torn_log_what_could_be_read_is_told_and_what_is_missing(how: str, called: str, tmp_path: Path) -> None:
    noise = os.urandom(2**18).hex()
    path = tmp_path / f"faktory.log.1.{how}"
    path.write_bytes(PACKERS[how]((BUSY + said(30) + noise).encode())[: -(10**5)])
    ended = forewarn("--json", str(path))
    assert ended.returncode == 1
    assert ended.stderr.decode() == (
        f"forewarn: {path}: it ends in the middle of its {called} data; what stands before was read; copy it again"
        " where it is whole\n"
    )
    assert [each["class"] for each in json.loads(ended.stdout)["incidents"]] == ["concurrent-map"]


@pytest.mark.parametrize(("how", "called"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
def test_of_a_damaged_log_too(how: str, called: str, tmp_path: Path) -> None:
    noise = os.urandom(2**18).hex()
    packed = bytearray(PACKERS[how]((BUSY + said(30) + noise).encode()))
    packed[-(10**5) : -(10**5) + 64] = os.urandom(64)
    path = tmp_path / "faktory.log.1"
    path.write_bytes(packed)
    ended = forewarn("--json", str(path))
    assert ended.returncode == 1
    assert ended.stderr.decode().startswith(f"forewarn: {path}: its {called} data is damaged (")
    assert [each["class"] for each in json.loads(ended.stdout)["incidents"]] == ["concurrent-map"]


def test_what_stands_behind_a_torn_log_is_another_dump(tmp_path: Path) -> None:
    older = tmp_path / "faktory.log.1"
    begin = BUSY[: BUSY.index("goroutine 1 ")]
    older.write_bytes(gzip.compress(BUSY.encode(), 0)[: 15 + len(begin)])  # not packed, so that it is torn there
    newer = log(tmp_path, "goroutine 9 [select]:\nmain.later()\n\t/app/later.go:1 +0x1\n" + said(3) + NIL)
    reading = Postmortem([str(older), str(newer)])
    found = [each.incident for each in reading.incidents()]
    assert [(each.kind.value, each.goroutines) for each in found] == [
        ("concurrent-map", {"running": 1}),
        ("nil-dereference", {"running": 1}),
    ]
    assert len(reading.problems) == 1


@pytest.mark.parametrize(
    ("magic", "what", "command_line"),
    [
        (b"\x04\x22\x4d\x18", "packed by lz4", "lz4 -dc"),
        (b"\x1f\x9d\x90", "packed by compress", "zcat"),
        (b"PK\x03\x04", "a zip archive", "unzip -p"),
        (b"LPKSHHRH", "a journal of systemd", "journalctl -o json --file"),
    ],
)
def test_what_is_not_understood_is_told_with_the_command_that_prints_it(
    magic: bytes, what: str, command_line: str, tmp_path: Path
) -> None:
    path = tmp_path / "a log"
    path.write_bytes(magic + b"\0" * 20)
    ended = forewarn(str(path))
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.decode() == (
        f"forewarn: {path}: it is {what}, which is not read here; write: {command_line} '{path}' | forewarn"
        " postmortem -\n"
    )


def test_zstd_is_read_where_the_library_has_it_and_told_with_its_command_elsewhere(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed (on Debian: apt-get install zstd)")
    plain_log = log(tmp_path, BUSY)
    path = tmp_path / "faktory.log.zst"
    subprocess.run(["zstd", "-q", str(plain_log), "-o", str(path)], check=True)
    ended = forewarn("--json", str(path))
    if sys.version_info >= (3, 14):
        assert len(json.loads(ended.stdout)["incidents"]) == 1
        return
    assert (ended.returncode, json.loads(ended.stdout)) == (1, {"incidents": []})
    assert ended.stderr.decode() == (
        f"forewarn: {path}: it is packed by zstd, which is not read here; write: zstd -dc {path} | forewarn"
        " postmortem -\n"
    )


def test_where_the_library_has_no_zstd_its_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(unpack._PACKED, b"\x28\xb5\x2f\xfd", raising=False)
    with pytest.raises(unpack.Unreadable, match=r"write: zstd -dc FILE \| forewarn postmortem -"):
        list(unpack.Log(io.BytesIO(b"\x28\xb5\x2f\xfd\0\0\0\0"), "-").chunks())


@pytest.mark.parametrize("pause", [1, 2, 3, 7])
def test_what_comes_byte_by_byte_through_a_pipe_is_unpacked_too(pause: int) -> None:
    class Slow(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self._left = content

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1, /) -> bytes:
            taken, self._left = self._left[: min(size, pause)], self._left[min(size, pause) :]
            return taken

    text = (said(1) + BUSY).encode()
    for content in (text, gzip.compress(text), b"", b"x"):
        log = unpack.Log(Slow(content), "-")  # type: ignore[arg-type]
        assert b"".join(log.chunks()) == (content if content in {b"", b"x"} else text)
        assert log.taken == len(content)


def test_what_cannot_be_read_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    folder, secret, missing = tmp_path / "logs", tmp_path / "secret.log", tmp_path / "none.log"
    folder.mkdir()
    secret.write_text(NIL)
    path = log(tmp_path, BUSY)
    ended = forewarn(str(folder), str(missing), str(path), "a\0b"[:1] + "/../none")
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines() == [
        f"forewarn: {folder}: it is a folder; name the files in it: {folder}/*",
        f"forewarn: {missing}: there is no such file; name one that is there",
        "forewarn: a/../none: there is no such file; name one that is there",
    ]
    assert b"1 crash and 0 survived incidents in 1 log (" in ended.stdout


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    path = log(tmp_path, BUSY) / "within"
    ended = forewarn(str(path))
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.decode() == (
        f"forewarn: {path}: it cannot be opened (Not a directory); let somebody run this who may read it\n"
    )


# --- the command ----------------------------------------------------------------------------------------------------


def test_standard_input_is_read(tmp_path: Path) -> None:
    for content in (BUSY.encode(), gzip.compress(BUSY.encode())):
        ended = forewarn("--json", "-", stdin=content)
        assert [each["class"] for each in json.loads(ended.stdout)["incidents"]] == ["concurrent-map"]


def test_standard_input_can_be_read_only_once() -> None:
    ended = forewarn("-", "-")
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr == b"forewarn: postmortem: standard input can be read only once; name - once\n"


def test_closed_standard_input_is_told() -> None:
    program = 'exec 0<&-; exec "$@"'
    ended = subprocess.run(
        ["sh", "-c", program, "sh", *command("-")], env=environment(), capture_output=True, timeout=60
    )
    assert ended.returncode == 1
    assert b"forewarn: standard input: it cannot be opened (Bad file descriptor)" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_without_a_log_it_says_how_to_name_one_and_exits_2() -> None:
    ended = forewarn()
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.decode() == (
        "forewarn: postmortem: there is no log to read; name one or more, for example: forewarn postmortem"
        " /var/log/faktory.log, or kubectl logs --previous POD | forewarn postmortem -\n"
    )


def test_nothing_found_is_told_with_how_much_was_read_and_is_no_failure(tmp_path: Path) -> None:
    ended = forewarn(str(log(tmp_path, "x\n" * 1024)), str(log(tmp_path, "", "empty.log")))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode().splitlines() == [
        "No Go crash, data race or recovered panic in 2 logs (2.0 KiB).",
        incident_report.NOTHING_FOUND,
    ]
    assert told_of(log(tmp_path, "x\n")) == []


def test_a_reader_that_has_enough_is_no_failure_to_tell(tmp_path: Path) -> None:
    path = log(tmp_path, (BUSY + said(5)) * 2000)
    for arguments in ([str(path)], ["--json", str(path)]):
        with subprocess.Popen(
            command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            assert b"Traceback" not in process.stderr.read()


def test_json_is_told_as_it_is_found_and_ctrl_c_leaves_no_traceback() -> None:
    with subprocess.Popen(
        command("--json", "-"),
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(("".join(said(5) for _ in range(300)).join([BUSY, NIL, said(9)])).encode())
        process.stdin.flush()
        assert process.stdout.readline() == b'{"incidents": [\n'
        assert b'"concurrent-map"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert b"Traceback" not in told


def at_a_terminal(*arguments: str) -> tuple[str, str]:
    """Return what is written to a terminal of 60 columns, and to another as standard error."""
    out, out_end = pty.openpty()
    err, err_end = pty.openpty()
    environ = environment() | {"COLUMNS": "60", "TERM": "xterm-256color"}
    with subprocess.Popen(command(*arguments), env=environ, stdout=out_end, stderr=err_end) as process:
        os.close(out_end)
        os.close(err_end)
        told = tuple(_drained(each) for each in (out, err))
    assert process.returncode == 0
    return told[0], told[1]


def _drained(terminal: int) -> str:
    content = b""
    while True:
        try:
            content += os.read(terminal, 65536)
        except OSError:  # nobody holds the other end any more
            os.close(terminal)
            return content.decode()


def test_a_terminal_gets_colours_lines_that_fit_and_progress_that_goes_away(tmp_path: Path) -> None:
    out, err = at_a_terminal(str(log(tmp_path, BUSY)))
    assert "\x1b[1;31mconcurrent-map" in out
    assert max(len(line) for line in out.replace("\x1b[1m", "").splitlines() if "hint" in line) <= 60
    assert "faktory.log" in err
    assert err.rstrip().endswith(("\x1b[2K", "\x1b[?25h"))


def test_what_is_no_terminal_gets_none_of_that(tmp_path: Path) -> None:
    ended = forewarn(str(log(tmp_path, BUSY)))
    assert b"\x1b" not in ended.stdout + ended.stderr


def test_a_long_log_is_read_in_bounded_memory_and_quickly(tmp_path: Path) -> None:
    path = tmp_path / "faktory.log"
    line = "".join(said(second) for second in range(60)).encode() * 300
    with path.open("wb") as file:
        for _ in range(200):
            file.write(line)
        file.write(BUSY.encode())
    size = path.stat().st_size
    program = (
        "import re, sys, time; from exporter.process.postmortem import Postmortem\n"
        "start = time.process_time(); found = list(Postmortem(sys.argv[1:]).incidents())\n"
        "seconds = time.process_time() - start; status = open('/proc/self/status').read()\n"
        "print(len(found), seconds, *re.findall(r'VmHWM:\\s+(\\d+)', status))"
    )
    told = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60).stdout
    number, seconds, kibibytes = told.split()
    assert number == "1"
    assert int(kibibytes) < 50 * 1024
    assert size / float(seconds) > 100e6


# --- the report -----------------------------------------------------------------------------------------------------

CRASH = Incident(
    kind=IncidentKind.CONCURRENT_MAP,
    message="concurrent map writes",
    at=at(1),
    frames=tuple(Frame(f"example.com/app.call{number}", f"/app/{number}.go", number) for number in range(12)),
    goroutines={f"state {number}": 100 - number for number in range(9)},
    modules={"example.com/lib": "v1.2.3"},
    group="0123456789ab",
    known="some-incident",
    hint="Upgrade.",
)


def lines(*found: Found, width: int | None = None) -> list[str]:
    return [line.text for line in report(*grouped(found), "2 logs (1.0 KiB)", width)]


def test_a_group_is_told_once_with_how_often_and_when() -> None:
    again = Incident(kind=CRASH.kind, message="another text", at=at(30), group=CRASH.group)
    told = lines(Found(again, "faktory.log.1"), Found(CRASH, "faktory.log"), Found(CRASH, "-"))
    assert told[0] == "3 crashes and 0 survived incidents in 2 logs (1.0 KiB)."
    assert told[2] == "concurrent-map, 3 times, 2026-11-21T06:05:01.500Z to 2026-11-21T06:05:30.500Z"
    assert told[3] == "  message     another text"
    assert "  seen in     faktory.log.1, faktory.log, standard input" in told
    assert sum(line.startswith("concurrent-map") for line in told) == 1


def test_of_one_incident_everything_is_told() -> None:
    assert lines(Found(CRASH, "a.log")) == [
        "1 crash and 0 survived incidents in 2 logs (1.0 KiB).",
        "",
        "concurrent-map, 1 time, 2026-11-21T06:05:01.500Z",
        "  message     concurrent map writes",
        "  in          app.call0",
        "  stack       example.com/app.call0  /app/0.go:0",
        *(f"              example.com/app.call{number}  /app/{number}.go:{number}" for number in range(1, 8)),
        "              and 4 more calls",
        "  goroutines  864: 100 state 0, 99 state 1, 98 state 2, 97 state 3, 96 state 4, 95 state 5, 279 others",
        "  modules     example.com/lib v1.2.3",
        "  known as    some-incident",
        "  hint        Upgrade.",
        "  seen in     a.log",
        "  group       0123456789ab",
    ]


def test_where_nothing_is_known_of_it_what_to_do_next_is_told() -> None:
    told = lines(Found(Incident(kind=IncidentKind.DEADLOCK, message="all asleep", group="g"), "a.log"))
    assert told[2] == "deadlock, 1 time, the log does not tell when"
    assert f"  next        {NEXT[IncidentKind.DEADLOCK]}" in told


def test_crashes_stand_before_what_was_survived() -> None:
    race = Incident(kind=IncidentKind.DATA_RACE, message="race", group="r")
    told = lines(Found(race, "a"), Found(race, "a"), Found(CRASH, "a"))
    assert told[0] == "1 crash and 2 survived incidents in 2 logs (1.0 KiB)."
    assert [line.split(",")[0] for line in told if ", 1 time" in line or ", 2 times" in line] == [
        "concurrent-map",
        "data-race",
    ]


def test_groups_beyond_the_bound_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident_report, "MAX_GROUPS", 2)
    told = lines(*(Found(Incident(kind=CRASH.kind, message="", group=str(number % 4)), "a") for number in range(8)))
    assert told[-1] == "And 4 more, of other kinds than these 2: --json tells all of them."


def test_many_files_of_a_group_are_not_all_named() -> None:
    found = [Found(CRASH, f"{number}.log") for number in range(1000)]
    assert "  seen in     0.log, 1.log, 2.log, 3.log, ..." in lines(*found)
    assert len(grouped(found)[0][0].names) == 5


def test_what_can_be_broken_fits_the_width() -> None:
    told = lines(Found(Incident(kind=CRASH.kind, message="word " * 40, group="g"), "a"), width=60)
    assert max(map(len, told)) <= 60
    assert told[4].startswith(" " * 14 + "word")


def test_nothing_of_a_log_can_move_a_terminal() -> None:
    hostile = "\x1b[2J\x07\r\x9b31m\u202e\n"
    incident = Incident(
        kind=CRASH.kind,
        message=hostile,
        frames=(Frame(hostile, hostile, 1),),
        goroutines={hostile: 1},
        modules={hostile: hostile},
        known=hostile,
        hint=hostile,
        group="g",
    )
    assert all(line.isprintable() for line in lines(Found(incident, hostile)))
    assert escaped("é → \\ ok") == "é → \\ ok"


def test_every_class_has_advice() -> None:
    assert set(NEXT) == set(IncidentKind) >= set(CRASH_KINDS)


@pytest.mark.parametrize(
    ("logs", "read_bytes", "told"),
    [
        (1, 0, "1 log (0 bytes)"),
        (2, 1023, "2 logs (1023 bytes)"),
        (1, 1024, "1 log (1.0 KiB)"),
        (3, 3 * 1024**3, "3 logs (3.0 GiB)"),
        (1, 1024**6, "1 log (1048576.0 TiB)"),
    ],
)
def test_amounts_are_told_in_words(logs: int, read_bytes: int, told: str) -> None:
    assert amount(logs, read_bytes) == told
