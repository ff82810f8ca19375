"""The sidecar's own process metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import ProcessCollector

from exporter.process_metrics import process_metrics


def test_they_are_those_of_the_client_library() -> None:
    library = {
        sample.name: sample.value for family in ProcessCollector(registry=None).collect() for sample in family.samples
    }
    own = process_metrics()
    assert own.keys() == library.keys()
    for name in ("process_start_time_seconds", "process_max_fds", "process_open_fds"):
        assert own[name] == library[name]
    assert own["process_cpu_seconds_total"] == pytest.approx(library["process_cpu_seconds_total"], abs=1)
    for name in ("process_virtual_memory_bytes", "process_resident_memory_bytes"):
        assert own[name] == pytest.approx(library[name], rel=0.1)


def test_a_process_whose_name_holds_parentheses_is_understood(tmp_path: Path) -> None:
    (tmp_path / "self/fd").mkdir(parents=True)
    fields = [str(number) for number in range(3, 53)]
    (tmp_path / "self/stat").write_text(f"1 (a) b) {' '.join(['S', *fields[1:]])}")
    (tmp_path / "stat").write_text("cpu 1\nbtime 1000\n")
    assert process_metrics(tmp_path)["process_virtual_memory_bytes"] == 23


def test_nothing_is_told_where_there_is_no_proc(tmp_path: Path) -> None:
    assert process_metrics(tmp_path) == {}
