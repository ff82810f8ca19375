"""docs/upgrade.md promises names that stay and a state file that is understood by other versions."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from exporter.catalogue import BUILD_INFO, METRICS, OTLP_METRICS, PROCESS_METRICS, STATSD_PUSH_METRICS
from exporter.check.command import Document
from exporter.cli import app
from exporter.model import Incident, IncidentKind
from exporter.process.incident_json import as_object
from exporter.rules.render import groups
from exporter.rules.rule import AlertRule, Recording
from exporter.rules.settings import DEFAULTS
from exporter.settings import GLOBAL_FLAGS, SERVER_FLAGS
from exporter.signals import Memory
from exporter.state import StateFile
from exporter.status.document import Status
from tests.doc_commands import ROOT

PROMISED = ROOT / "tests" / "promised.json"

HOW = "a name that users rely on is gone: keep it, or tell it in CHANGELOG.md and take it out of tests/promised.json"


def keys(kind: Any, above: str = "") -> Iterator[str]:
    """Yield the keys of the JSON that a struct becomes, those within it too."""
    for each in typing.get_args(kind):
        yield from keys(each, above)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            path = f"{above}{field.encode_name}"
            yield path
            yield from keys(field.type, f"{path}.")


def present() -> dict[str, list[str]]:
    """Return every name that users may rely on, by what it is of."""
    metrics = [BUILD_INFO, *METRICS, *OTLP_METRICS, *PROCESS_METRICS, *STATSD_PUSH_METRICS]
    rules = [rule for group in groups(DEFAULTS) for rule in group.rules]
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {
        f"{name} {opt}"
        for name, command in commands.items()
        for each in command.params
        for opt in each.opts
        if opt.startswith("--")
    }
    named = {
        "options": options,
        "keys": {*GLOBAL_FLAGS.values(), *(f"servers.{key}" for key in ("name", "system", *SERVER_FLAGS.values()))},
        "metrics": {
            f"{it.full_name('faktory')}({','.join(it.labels)}) {it.kind.value} {it.unit}".strip() for it in metrics
        },
        "alerts": {rule.name for rule in rules if isinstance(rule, AlertRule)},
        "recorded": {rule.record for rule in rules if isinstance(rule, Recording)},
        "status": set(keys(Status)),
        "check": set(keys(Document)),
        "incident": set(as_object(Incident(kind=IncidentKind.CONCURRENT_MAP, message=""))),
    }
    return {of: sorted(names) for of, names in named.items()}


def promised() -> dict[str, list[str]]:
    read: dict[str, list[str]] = json.loads(PROMISED.read_text())
    return read


@pytest.mark.parametrize("of", list(present()))
def test_no_name_that_was_promised_is_gone(of: str) -> None:
    gone = set(promised()[of]) - set(present()[of])
    assert not gone, f"{HOW}: {sorted(gone)}"


def test_every_name_is_promised() -> None:
    new = {of: sorted(set(names) - set(promised().get(of, []))) for of, names in present().items()}
    added = {of: names for of, names in new.items() if names}
    assert not added, "write them down: python -m tests.test_docs_upgrade"


def test_a_state_file_of_an_older_version_is_understood() -> None:
    full = msgspec.to_builtins(Memory())
    for missing in full:
        older = {key: value for key, value in full.items() if key != missing}
        assert msgspec.json.decode(msgspec.json.encode(older), type=Memory) == Memory()


def test_a_state_file_of_a_newer_version_is_understood_but_for_what_is_new() -> None:
    newer = msgspec.to_builtins(Memory()) | {"premonitions": {"count": 7}}
    newer["connections"] |= {"refused": 3, "colour": "red"}
    assert msgspec.json.decode(msgspec.json.encode(newer), type=Memory).connections.refused == 3


def test_a_state_file_that_cannot_be_understood_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"version": 2, "servers": {}}')
    assert StateFile(path).load() == {}
    assert (tmp_path / "state.json.broken").exists()


if __name__ == "__main__":
    PROMISED.write_text(json.dumps(present(), indent=1) + "\n")
