"""docs/security.md promises what the code keeps: every command, bound and default that it names."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from exporter import settings
from exporter.catalogue import METRICS
from exporter.faktory import client, endpoint, protocol
from exporter.faktory.redis_link import ALLOWED
from exporter.model import MAX_ERROR, label_value
from exporter.process import scan
from exporter.settings import Settings
from exporter.state import StateFile
from tests.doc_commands import pages

TEXT = pages()["docs/security.md"]
FLAT = " ".join(TEXT.split())


def test_redis_hears_the_commands_that_are_told_and_no_other() -> None:
    granted = re.findall(r"`((?:\+[a-z]+ ?)+)`", TEXT)
    assert granted[0].upper().replace("+", "").split() == [it.upper() for it in granted[0].replace("+", "").split()]
    assert set(granted[0].upper().replace("+", "").split()) == ALLOWED
    assert len(ALLOWED) == 7
    assert "seven commands to Redis, none of which writes" in FLAT


def test_faktory_hears_the_commands_that_are_told_and_no_other() -> None:
    told = re.search(r"It sends four commands to the server \(([^)]*)\) and `END`", FLAT)
    assert told
    sources = "".join(Path(str(module.__file__)).read_text() for module in (client, protocol))
    sent = set(re.findall(r'command(?:_line)?\("([A-Z]+)"(?:, "([A-Z]+)")?', sources))
    names = {" ".join(filter(None, words)) for words in sent}
    names |= {"HELLO"} if 'b"HELLO "' in sources else set()
    assert names == {*re.findall(r"`([A-Z ]+)`", told[1]), "END"}


def test_the_bounds_are_those_of_the_code() -> None:
    assert f"cut at {MAX_ERROR} characters" in FLAT
    assert len(label_value("x" * 1000)) == 128
    assert "cut at 128 characters" in FLAT
    assert f"cut at {scan.MAX_LINE // 1024} KiB" in FLAT


def test_tls_is_never_older_than_is_told() -> None:
    assert "TLS 1.2 or newer" in FLAT
    context = endpoint.tls_context(None)
    assert context.minimum_version.name == "TLSv1_2"
    assert context.check_hostname


def test_the_defaults_are_those_of_the_settings() -> None:
    defaults = Settings(servers=())
    assert defaults.web_listen_address.host == "127.0.0.1"
    assert defaults.web_lifecycle is False
    assert defaults.statsd_push is None
    assert defaults.otlp_traces is None
    assert settings.load({"faktory.url": "tcp://h"}, {}).servers[0].statsd is None


def test_the_state_file_has_the_mode_that_is_told(tmp_path: Path) -> None:
    assert "Mode 0600, replaced in one step" in FLAT
    path = tmp_path / "state.json"
    StateFile(path).save({})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_metric_tells_a_job_or_a_worker() -> None:
    assert not {"jid", "wid", "host", "pid", "args"} & {label for metric in METRICS for label in metric.labels}
