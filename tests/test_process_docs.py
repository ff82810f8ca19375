"""docs/process.md says what the code does: every class, known incident, event, flag, command and number."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from exporter import catalogue
from exporter.faktory import output
from exporter.faktory.log_lines import FAKTORY_LINES
from exporter.model import CRASH_KINDS, MAX_ERROR, Exited, Incident, IncidentKind, LogEvent
from exporter.outputs import traces
from exporter.process import beside, gocrash
from exporter.process.advice import NEXT
from exporter.process.incident_json import as_object
from exporter.process.known import BY_ID, KNOWN
from exporter.settings import FLAGS, MAX_LOG_FILES, MAX_LOG_JOURNALS, SERVER_FLAGS, load
from exporter.signals import deaths, process
from exporter.web.incidents import MAX_INCIDENTS
from tests.doc_commands import blocks

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "process.md").read_text()
FLAT = " ".join(TEXT.split())


def rows(*head: str) -> list[tuple[str, ...]]:
    """Return the rows of the table that has this head."""
    found: list[tuple[str, ...]] = []
    inside = False
    for line in TEXT.splitlines():
        cells = tuple(cell.strip() for cell in line.split("|")[1:-1])
        inside = line.startswith("|") and (inside or cells == head)
        if inside and cells != head and not set("".join(cells)) <= set("- "):
            found.append(cells)
    assert found, f"there is no table with the head {head}"
    return found


def quoted(cell: str) -> str:
    """Return what stands first in backticks."""
    found = re.search(r"`([^`]+)`", cell)
    assert found, cell
    return found[1]


BLOCKS = list(blocks("docs/process.md", TEXT))


def test_every_class_is_there_with_its_advice() -> None:
    table = [(quoted(name), advice) for name, advice in rows("class", "what to do next")]
    assert table == [(kind.value, NEXT[kind]) for kind in IncidentKind]
    assert [IncidentKind(name) in CRASH_KINDS for name, _ in table] == [True] * 13 + [False] * 2


def test_every_known_incident_is_there_with_its_hint() -> None:
    assert [(quoted(name), hint) for name, hint in rows("known", "hint")] == [(it.id, it.hint) for it in KNOWN]


def test_every_known_incident_that_is_named_is_known() -> None:
    assert set(re.findall(r"`((?:faktory|flyteadmin|franz)-[a-z-]+)`", TEXT)) <= BY_ID.keys()


EVENTS = [(quoted(event), quoted(line)) for event, line in rows("event", "line")]


def test_every_event_is_there() -> None:
    assert [event for event, _ in EVENTS] == [event.value for event in LogEvent]


@pytest.mark.parametrize(("event", "line"), EVENTS)
def test_each_line_of_the_log_tells_its_event(event: str, line: str) -> None:
    noticed = FAKTORY_LINES.read(f"I 2026-11-21T06:05:14.378Z {line}", None)
    assert noticed is not None
    assert noticed.event == event


def test_the_flags_and_keys_are_those_of_the_settings() -> None:
    table = {(quoted(flag).split()[0], quoted(key)) for flag, key, _ in rows("flag", "key of `[[servers]]`", "")}
    assert table == {(f"--{flag}", key) for flag, key in SERVER_FLAGS.items() if key.startswith("log_")}


def test_every_flag_and_variable_that_is_named_exists() -> None:
    flags = {*FLAGS, beside.FLAG, "json", "previous", "prefix", "format", "since"}  # of other programs too
    assert set(re.findall(r"(?<![\w-])--([a-z][a-z.-]+)", TEXT)) - flags == set()
    variables = {"FOREWARN_" + flag.upper().replace(".", "_").replace("-", "_") for flag in FLAGS} | {beside.VARIABLE}
    assert set(re.findall(r"FOREWARN_[A-Z_]+", TEXT)) - variables == set()


RUNS = [
    line
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.splitlines()
    if re.search(r"\bforewarn (run|exec)\b", line)
]


@pytest.mark.parametrize("line", RUNS, ids=[line.strip() for line in RUNS])
def test_each_command_line_is_understood(line: str) -> None:
    words = shlex.split(line.split("forewarn ", 1)[1].split("|", maxsplit=1)[0])
    assert words.pop(0) in {"run", "exec"}
    own = words[: words.index("--")] if "--" in words else words
    assert all(name.startswith("--") for name in own[::2])
    flags = {name[2:]: text for name, text in zip(own[::2], own[1::2], strict=True)}
    assert set(flags) <= set(FLAGS)
    loaded = load({"faktory.url": "tcp://localhost:7419", **flags}, {})
    assert loaded.servers[0].log is not None or "--" in words


def test_the_kubernetes_example_is_a_pattern_that_is_understood() -> None:
    (value,) = re.findall(r'FOREWARN_FAKTORY_LOG_FILE, value: "([^"]+)"', TEXT)
    (server,) = load({"faktory.url": "tcp://h"}, {"FOREWARN_FAKTORY_LOG_FILE": value}).servers
    assert server.log is not None
    assert server.log.files == (value,)


def test_every_metric_and_class_in_an_example_exists() -> None:
    full = {metric.full_name("faktory"): metric for metric in catalogue.METRICS}
    named = set(re.findall(r"\b((?:faktory|forewarn)_[a-z_]+)\b", TEXT))
    assert named - full.keys() == set()
    samples = re.findall(r"^(faktory_\w+)\{(.*)\} [\d.]+$", TEXT, re.MULTILINE)
    assert len(samples) == 2
    for name, labels in samples:
        assert tuple(re.findall(r"(\w+)=", labels)) == ("server", *full[name].labels)


def test_every_alert_that_is_named_exists() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (ROOT / "alerts" / "faktory.yml").read_text()))
    named = set(re.findall(r"`(F(?:aktory|orewarn)[A-Z]\w+)`", TEXT))
    assert len(named) >= 3
    assert named <= alerts


def test_the_list_of_incidents_has_the_fields_of_the_example() -> None:
    (text,) = [block.text for block in BLOCKS if block.language == "json"]
    (incident,) = json.loads(text)["incidents"]
    made = as_object(Incident(kind=IncidentKind.CONCURRENT_MAP, message=""))
    assert list(incident) == ["server", *made]
    assert {key: type(value) for key, value in incident.items() if made.get(key) is not None} == {
        key: type(value) for key, value in made.items() if value is not None
    }
    hint = BY_ID[incident["known"]].hint
    assert hint.startswith(incident["hint"].removesuffix("..."))


@pytest.mark.parametrize(
    "marker", re.findall(r"`([^`]+)`", FLAT.split("**Recovered panics**")[1].split(", or a stack")[0])
)
def test_each_way_to_tell_of_a_recovered_panic_is_one(marker: str) -> None:
    assert any(literal.strip(b" :") in marker.encode() for literal in gocrash.LITERALS)


def test_what_is_told_as_a_span_is() -> None:
    names = re.findall(r"`([a-z ]+)`", FLAT.split("Each is a span too")[1].split("with the stack")[0])
    assert set(names) == {"process crash", *traces._INCIDENTS.values()}


@pytest.mark.parametrize(
    ("exited", "asked_for"),
    [
        *((Exited(status=status), True) for status in (0, 130, 143)),
        *((Exited(status=status), False) for status in (1, 2, 137)),
        *((Exited(signal=number), number in {2, 15}) for number in (2, 6, 9, 15)),
    ],
)
def test_what_is_no_crash_is_none(exited: Exited, asked_for: bool) -> None:
    assert "by SIGTERM or SIGINT, or with exit status 0, 130 or 143" in FLAT
    assert deaths._asked_for(exited) is asked_for


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"A server may have {MAX_LOG_FILES} paths and {MAX_LOG_JOURNALS} units" in FLAT
    assert f"Texts less than {deaths.TOGETHER:g} s apart are one death" in FLAT
    assert f"still answers {deaths.OUTLIVED:g} s and two polls later" in FLAT
    assert f"text for {deaths.GRACE:g} s, and until all of the output is read, but at most {deaths.LATEST:g} s" in FLAT
    assert f"at most {process.INCIDENTS} of each, and {MAX_INCIDENTS} altogether" in FLAT
    assert f"the first {gocrash.MAX_HELD} goroutines" in FLAT
    assert f"{gocrash.MAX_FRAMES} calls are kept" in FLAT
    assert f"cut at {MAX_ERROR} characters" in FLAT
    assert output.LATELY == 3600.0
    assert "within the last hour" in FLAT
    assert beside.RETRY == 60.0
    assert "tried again every minute" in FLAT


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)]+)", TEXT))))
def test_every_link_leads_somewhere(link: str) -> None:
    path, _, heading = link.partition("#")
    target = ROOT / "docs" / path if path else ROOT / "docs" / "process.md"
    assert target.exists()
    if heading:
        found = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in found}
