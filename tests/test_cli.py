"""The command line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from exporter import __version__
from exporter.settings import FLAGS

ROOT = Path(__file__).parent.parent
FILES = {"prometheus": "faktory.yml", "kubernetes": "faktory.prometheusrule.yml"}
"""Where the rules of each format are kept, below ``alerts/``."""


def forewarn(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, with nothing of this process's own settings."""
    return subprocess.run(command(*arguments), env=environment(environ), capture_output=True, text=True, timeout=60)


def command(*arguments: str) -> list[str]:
    """Return the command line of ``forewarn``."""
    return [sys.executable, "-c", "from exporter.cli import main; main()", *arguments]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a bare environment and ``more``."""
    return {"PATH": os.environ["PATH"], "COLUMNS": "200", "NO_COLOR": "1", **(more or {})}


def test_the_console_script_is_this_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"forewarn": "exporter.cli:main"}


def test_the_version_is_told() -> None:
    assert forewarn("--version").stdout == f"forewarn {__version__}\n"


def flags_told(*command: str) -> list[str]:
    """Return the flags of a command in the order in which its help tells them."""
    return re.findall(r"^│ --([a-z][a-z.-]+)", forewarn(*command, "--help").stdout, re.MULTILINE)


def test_help_tells_every_flag() -> None:
    assert set(flags_told("run")) == {*FLAGS, "help"}
    assert len(flags_told("run")) == len(FLAGS) + 1


def test_exec_has_every_flag_of_run_in_the_same_order_and_one_of_its_own() -> None:
    assert [each for each in flags_told("exec") if each != "exec.server"] == flags_told("run")
    assert flags_told("exec").count("exec.server") == 1


def test_help_of_exec_tells_how_to_write_it() -> None:
    told = " ".join(forewarn("exec", "--help").stdout.split())
    assert " exec [FLAGS OF RUN] [-- COMMAND...]" in told
    assert "forewarn exec --faktory.url tcp://localhost:7419 -- faktory -b :7419 -e production" in told


def test_exec_without_a_command_says_how_to_write_one_and_exits_2() -> None:
    for arguments in (["exec"], ["exec", "--interval", "5s", "--"]):
        ended = forewarn(*arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == (
            "forewarn: exec: there is no command to run; write it behind --, for example: forewarn exec --faktory.url"
            " tcp://localhost:7419 -- faktory -b :7419 -e production\n"
        )


HANDED_OVER = """
import json, sys
import exporter.process.supervise as supervise

def main(command, flags):
    print(json.dumps([command, {name: value for name, value in flags.items() if value}]))
    return 7

supervise.main = main
from exporter.cli import main
main()
"""


@pytest.mark.parametrize("between", [["--"], []], ids=["behind --", "without --"])
def test_exec_hands_over_the_command_as_it_is_and_the_flags_that_were_given(between: list[str]) -> None:
    command = ["faktory", "-b", ":7419", "--interval", "9s", "--", "--help"]
    flags = ["--faktory.log-file", "/a.log", "--faktory.log-file", "/b.log", "--exec.server", "mail", "--interval=1s"]
    ended = subprocess.run(
        [sys.executable, "-c", HANDED_OVER, "exec", *flags, *between, *command],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 7
    assert json.loads(ended.stdout) == [
        command,
        {"faktory.log-file": ["/a.log", "/b.log"], "exec.server": "mail", "interval": "1s"},
    ]


def test_a_flag_may_be_repeated_and_each_of_its_texts_counts() -> None:
    flags = ["--faktory.log-file", "-x", "--faktory.log-file", "", "--faktory.log-journal", "-y"]
    ended = forewarn("run", "--faktory.url", "tcp://h", *flags)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "forewarn: --faktory.log-file: '' is not a path; write one of a file, such as /var/log/faktory.log",
        "forewarn: --faktory.log-journal: '-y' is not the name of a unit; write one such as faktory.service",
    ]


def test_help_tells_that_traces_need_redis() -> None:
    told = " ".join(forewarn("run", "--help").stdout.replace("│", "").split())
    assert "Traces need Faktory's Redis: without it there are none." in told


def test_help_imports_nothing_heavy() -> None:
    heavy = "aiohttp redis uvloop msgspec prometheus_client opentelemetry google.protobuf"
    told = subprocess.run(
        [sys.executable, "-c", f"import exporter.cli, sys; print([m for m in {heavy.split()!r} if m in sys.modules])"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert told.stdout == "[]\n"


def test_nothing_configured_says_what_to_set_and_exits_2() -> None:
    ended = forewarn("run")
    assert ended.returncode == 2
    assert ended.stderr.startswith("forewarn: nothing to watch is configured: set --faktory.url")
    assert ended.stdout == ""


def test_wrong_settings_are_told_one_a_line_and_exit_2() -> None:
    ended = forewarn("run", "--interval", "soon", "--log.level", "loud", environ={"FAKTORY_URL": "tcp://:hunter2@h:x"})
    assert ended.returncode == 2
    assert [line.split(": ")[1] for line in ended.stderr.splitlines()] == [
        "--interval",
        "--log.level",
        "environment variable FAKTORY_URL",
    ]
    assert "hunter2" not in ended.stderr


def test_addresses_of_statsd_that_cannot_be_used_are_told_without_what_they_hold_and_exit_2() -> None:
    ended = forewarn(
        *("run", "--faktory.url", "tcp://h", "--statsd.listen", ":8125"),
        *("--statsd.relay", "udp://:hunter2@h", "--statsd.push", "statsd://hunter2@h"),
    )
    assert ended.returncode == 2
    assert [line.split(": ")[1] for line in ended.stderr.splitlines()] == ["--statsd.push", "--statsd.relay"]
    assert "hunter2" not in ended.stderr


def test_an_unknown_flag_exits_2() -> None:
    ended = forewarn("run", "--faktory.ulr", "tcp://host")
    assert ended.returncode == 2
    assert "No such option: --faktory.ulr" in ended.stderr


@pytest.mark.parametrize("arguments", [["run", "--faktory.url", "tcp://127.0.0.1:1"], ["demo"]], ids=["run", "demo"])
def test_an_address_in_use_is_told_without_a_traceback(arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = forewarn(*arguments, "--web.listen-address", address)
    assert ended.returncode == 1
    assert f"forewarn: cannot listen on {address}: another program listens there" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [["run", "--faktory.url", "tcp://127.0.0.1:1"], ["demo"]], ids=["run", "demo"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(arguments: list[str], number: signal.Signals) -> None:
    with subprocess.Popen(
        command(*arguments, "--web.listen-address", "127.0.0.1:0"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            told = until_told(process, "listening")
            process.send_signal(number)
            told += process.communicate(timeout=10)[1]
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in told


INTERRUPTED = """
import os, signal
import exporter.cli as cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background has it ignored
cli._refuse = lambda _: os.kill(os.getpid(), signal.SIGINT)
cli.main()
"""


def test_ctrl_c_before_it_runs_leaves_no_traceback() -> None:
    program = [sys.executable, "-c", INTERRUPTED, "run"]
    ended = subprocess.run(program, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr


def test_help_of_the_rules_tells_the_flags_and_the_keys_of_the_file() -> None:
    ended = forewarn("rules", "--help")
    told = " ".join(ended.stdout.split())
    assert set(re.findall(r"--([a-z][a-z.-]+)", told)) == {"settings", "format", "help"}
    assert "prometheus: a rule file; kubernetes: a PrometheusRule." in told
    assert "TOML file that changes selectors, thresholds, times, objectives and switches." in told
    assert "[alerts.FaktoryConnectionsNearLimit]" in told
    for key in ("selector", "runbooks_url", "dashboards_url", "objectives", "enabled", "severity", "for"):
        assert f"`{key}`" in told


@pytest.mark.parametrize("form", FILES)
def test_the_rules_are_printed_and_the_note_on_them_is_not_among_them(form: str) -> None:
    ended = forewarn("rules", "--format", form)
    assert ended.returncode == 0
    assert ended.stdout == (ROOT / "alerts" / FILES[form]).read_text()
    assert ended.stderr == "forewarn: runbooks_url and dashboards_url are examples: set them in --settings FILE\n"


def test_rules_for_prometheus_are_printed_where_no_format_is_named() -> None:
    assert forewarn("rules").stdout == forewarn("rules", "--format", "prometheus").stdout


def test_with_addresses_of_ones_own_there_is_no_note(tmp_path: Path) -> None:
    settings = tmp_path / "rules.toml"
    settings.write_text('runbooks_url = "https://wiki.example.org"\ndashboards_url = "https://grafana.example.org"\n')
    ended = forewarn("rules", "--settings", str(settings))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "runbook_url: https://wiki.example.org/FaktoryDown.md\n" in ended.stdout


def test_a_wrong_threshold_is_told_with_its_file_and_key_and_exits_2(tmp_path: Path) -> None:
    settings = tmp_path / "rules.toml"
    settings.write_text("[alerts.FaktoryRetryStorm]\nfailed_share = 80\n[alerts.FaktoryDown]\nfour = '1m'\n")
    ended = forewarn("rules", "--settings", str(settings))
    assert ended.returncode == 2
    assert ended.stdout == ""
    right = "it must be a share above 0, and at most 1, such as 0.8 (default: 0.25)"
    assert ended.stderr.splitlines() == [
        f"forewarn: {settings}: alerts.FaktoryRetryStorm.failed_share = 80: {right}",
        f"forewarn: {settings}: alerts.FaktoryDown.four: there is no such key; did you mean for?",
    ]


def test_a_missing_settings_file_of_the_rules_is_told_and_exits_2(tmp_path: Path) -> None:
    ended = forewarn("rules", "--settings", str(tmp_path / "none.toml"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"forewarn: {tmp_path}/none.toml: No such file or directory; name a readable TOML file\n"


def test_an_unknown_format_of_the_rules_is_told_and_exits_2() -> None:
    ended = forewarn("rules", "--format", "jsonnet")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "forewarn: --format jsonnet: there is no such format; write one of prometheus, kubernetes\n"
    )


def until_told(process: subprocess.Popen[str], word: str) -> str:
    """Return the log up to the first line with ``word``."""
    assert process.stderr is not None
    told, deadline = "", time.monotonic() + 30
    while word not in told:
        line = process.stderr.readline()
        assert line, f"it ended instead: {told}"
        assert time.monotonic() < deadline, told
        told += line
    return told
