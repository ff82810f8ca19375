"""docs/configuration.md is what the settings are: every flag, variable, key, default and bound."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
import typer

from exporter import settings
from exporter.cli import app
from exporter.settings import FLAGS, GLOBAL_FLAGS, SERVER_FLAGS, Settings, SettingsError, load
from exporter.settings_docs import document, example_file

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "configuration.md").read_text()


class Row(NamedTuple):
    flag: str
    variable: str
    key: str
    default: str
    bounds: str
    meaning: str


def rows() -> list[Row]:
    """Return every setting of the page."""
    found = []
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == len(Row._fields) and cells[0].startswith("`--"):
            flag, variable, key, *others = cells
            found.append(Row(flag.strip("`").split()[0][2:], variable.strip("`"), key.strip("`"), *others))
    return found


ROWS = {row.flag: row for row in rows()}

NUMBERED = [row for row in ROWS.values() if re.fullmatch(r"`[^`]+` to `[^`]+`", row.bounds)]

VALUES = [row for row in ROWS.values() if row.default.startswith("`")]
"""The settings whose default is a value that could be written."""

# What else must be set for a setting to be of any effect.
NEEDED: Mapping[str, str] = {"faktory.url": "tcp://localhost:7419"}
WITH: Mapping[str, Mapping[str, str]] = {
    "otlp": {"otlp.endpoint": "http://localhost:4318"},
    "traces": {"otlp.endpoint": "http://localhost:4318"},
    "statsd": {"statsd.listen": "127.0.0.1:8125", "statsd.push": "statsd://127.0.0.1:8127"},
}

OTHERS: Mapping[str, str] = {
    "interval": "7s",
    "log.format": "json",
    "log.level": "debug",
    "web.listen-address": "127.0.0.1:9999",
    "max-label-values": "7",
    "statsd.namespace": "other.",
    "statsd.keep": "all",
    "otlp.metrics-interval": "7s",
    "traces.slow-seconds": "7",
    "traces.ratio": "0.7",
    "traces.per-second": "7",
    "traces.poll-ratio": "0.7",
    "traces.traceparent": "parent",
    "statsd.interval": "7s",
}
"""For each setting with a value as its default, another value."""


def loaded(flag: str, value: str | None) -> Settings:
    """Return the settings with this flag, and with what it needs to be of effect."""
    more = WITH.get(flag.split(".", 1)[0], {})
    return load({**NEEDED, **more, **({} if value is None else {flag: value})}, {})


def problems(flag: str, value: str) -> str:
    """Return what is told to be wrong with a value; nothing where it is accepted."""
    try:
        loaded(flag, value)
    except SettingsError as error:
        return str(error)
    return ""


def test_the_page_is_what_is_generated() -> None:
    assert document() == TEXT, "run `make generate`"


def test_every_flag_is_there_with_its_variable_and_key() -> None:
    assert list(ROWS) == sorted(FLAGS, key=list(ROWS).index)
    assert set(ROWS) == set(FLAGS)
    keys = {**GLOBAL_FLAGS, **SERVER_FLAGS, "config": ""}
    for row in ROWS.values():
        assert row.variable == "FOREWARN_" + row.flag.upper().replace(".", "_").replace("-", "_")
        assert row.key == keys[row.flag]
        assert row.meaning


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_each_variable_is_the_one_that_is_read(row: Row) -> None:
    with pytest.raises(SettingsError, match=f"variable {row.variable}: "):
        load({}, {"FAKTORY_URL": "tcp://localhost:7419", row.variable: "\0"})


@pytest.mark.parametrize("row", VALUES, ids=[row.flag for row in VALUES])
def test_each_default_is_what_the_settings_use(row: Row) -> None:
    default = row.default.strip("`")
    assert loaded(row.flag, default) == loaded(row.flag, None)
    assert loaded(row.flag, OTHERS[row.flag]) != loaded(row.flag, None)


UNSET: Mapping[str, tuple[str, Any]] = {
    "state-file": ("not kept", lambda it: it.state_file is None),
    "web.config.file": ("plain HTTP for everybody", lambda it: it.web_config_file is None),
    "web.enable-lifecycle": ("SIGHUP alone", lambda it: it.web_lifecycle is False),
    "web.runbooks-url": ("no links", lambda it: it.web_runbooks_url is None),
    "web.dashboards-url": ("no links", lambda it: it.web_dashboards_url is None),
    "faktory.web-url": ("port 7420 of the same host", lambda it: it.servers[0].web_url == "http://localhost:7420"),
    "faktory.redis-url": ("none", lambda it: it.servers[0].redis_url is None),
    "faktory.config-dir": ("none", lambda it: it.servers[0].config_dir is None),
    "faktory.connections-limit": (
        "by its version; with Faktory Enterprise not known",
        lambda it: it.servers[0].connections_limit is None,
    ),
    "faktory.ca-file": ("the system's", lambda it: it.servers[0].ca_file is None),
    "faktory.redis-ca-file": ("the system's", lambda it: it.servers[0].redis_ca_file is None),
    "faktory.log-file": ("none", lambda it: it.servers[0].log is None),
    "faktory.log-journal": ("none", lambda it: it.servers[0].log is None),
    "statsd.listen": ("none", lambda it: it.servers[0].statsd is None),
    "statsd.listen-unix": ("none", lambda it: it.servers[0].statsd is None),
    "statsd.relay": ("none", lambda _: settings.StatsdListen().relay is None),
    "otlp.endpoint": ("none", lambda it: it.otlp_traces is None and it.otlp_metrics is None),
    "otlp.headers-file": ("none", lambda _: settings.OtlpTarget(url="").headers == {}),
    "otlp.ca-file": ("the system's", lambda _: settings.OtlpTarget(url="").ca_file is None),
    "statsd.push": ("none", lambda it: it.statsd_push is None),
    "config": ("", lambda _: True),
    "faktory.url": ("", lambda _: True),
    "faktory.password-file": ("", lambda it: it.servers[0].password is None),
    "faktory.redis-password-file": ("", lambda it: it.servers[0].redis_password is None),
}
"""For each setting without a value as its default: how that is told, and what it is in the settings."""


@pytest.mark.parametrize("flag", sorted(ROWS.keys() - {row.flag for row in VALUES}))
def test_what_has_no_value_as_its_default_is_told_so(flag: str) -> None:
    told, is_so = UNSET[flag]
    assert ROWS[flag].default == told
    assert is_so(load(NEEDED, {}))


def test_there_is_no_server_without_a_url() -> None:
    with pytest.raises(settings.NothingConfigured):
        load({}, {})


def shifted(value: str, by: int) -> str:
    """Return a value just above or below: of a duration by 1 ms, of a whole number by 1, else by a thousandth."""
    if value[-1].isalpha():
        return f"{round(settings.parse_duration(value) * 1000) + by}ms"
    return str(int(value) + by)


@pytest.mark.parametrize("row", NUMBERED, ids=[row.flag for row in NUMBERED])
def test_each_bound_is_the_one_that_the_settings_use(row: Row) -> None:
    low, high = re.findall(r"`([^`]+)`", row.bounds)
    for value in (low, high):
        loaded(row.flag, value)
    for value in (shifted(low, -1), shifted(high, +1)):
        with pytest.raises(SettingsError, match=rf"--{re.escape(row.flag)}: "):
            loaded(row.flag, value)


def test_every_number_and_duration_has_bounds() -> None:
    measured = {"interval", "max-label-values", "faktory.connections-limit", "statsd.interval"}
    measured |= {f"otlp.{name}" for name in ("metrics-interval",)}
    measured |= {f"traces.{name}" for name in ("slow-seconds", "ratio", "per-second", "poll-ratio")}
    assert {row.flag for row in NUMBERED} == measured
    for name in ROWS.keys() - measured - {"config", "faktory.log-file", "faktory.log-journal"}:
        told = problems(name, "12345678901234567890")
        assert not re.search("not a (whole )?number|out of range", told), name


def test_bounds_that_the_help_tells_are_the_same() -> None:
    told = {row.flag: found for row in ROWS.values() if (found := re.findall(r"from (\S+) to (\S+)", row.meaning))}
    assert len(told) >= 5
    assert {flag: re.findall(r"`([^`]+)`", ROWS[flag].bounds) for flag in told} == {
        flag: [low, high] for flag, ((low, high),) in told.items()
    }


def test_a_servers_name_may_be_as_long_as_is_told_and_no_longer(tmp_path: Path) -> None:
    found = re.search(r"`name`, (\d+) to (\d+) printable", TEXT)
    assert found
    path = tmp_path / "forewarn.toml"
    low, high = map(int, found.groups())
    for size, fits in ((low - 1, False), (low, True), (high, True), (high + 1, False)):
        path.write_text(f'[[servers]]\nname = "{"x" * size}"\nsystem = "faktory"\nurl = "tcp://h"\n')
        if fits:
            load({"config": str(path)}, {})
        else:
            with pytest.raises(SettingsError, match="name must have"):
                load({"config": str(path)}, {})


LONG = {
    row.flag: (int(found[1]), found[2])
    for row in ROWS.values()
    if (found := re.fullmatch(r"at most (\d+) (\w+)", row.bounds))
}


@pytest.mark.parametrize("flag", sorted(flag for flag, (_, of) in LONG.items() if of == "bytes"))
def test_each_file_may_be_as_long_as_is_told_and_no_longer(flag: str, tmp_path: Path) -> None:
    most = LONG[flag][0]
    path = tmp_path / "file"
    begin = {"config": "#", "otlp.headers-file": "#"}.get(flag, "")
    begin = certificates(tmp_path).read_text() + "\n" if flag.endswith("ca-file") else begin
    for size, fits in ((most, True), (most + 1, False)):
        path.write_text(begin + ("x" if flag.endswith("password-file") else " ") * (size - len(begin)))
        if flag == "otlp.headers-file":
            path.write_text("x-a: b\n" + "\n" * (size - 7))
        if fits:
            loaded(flag, str(path))
        else:
            with pytest.raises(SettingsError, match=f"is longer than {most} bytes"):
                loaded(flag, str(path))


@pytest.mark.parametrize(("flag", "example"), [("faktory.log-file", "/log/{}"), ("faktory.log-journal", "u{}.service")])
def test_each_list_may_be_as_long_as_is_told_and_no_longer(flag: str, example: str) -> None:
    most = LONG[flag][0]
    load({**NEEDED, flag: [example.format(number) for number in range(most)]}, {})
    with pytest.raises(SettingsError, match=f"there are more than {most}"):
        load({**NEEDED, flag: [example.format(number) for number in range(most + 1)]}, {})


def test_a_namespace_may_be_as_long_as_is_told_and_no_longer() -> None:
    most = LONG["statsd.namespace"][0]
    loaded("statsd.namespace", "x" * most)
    with pytest.raises(SettingsError, match=f"at most {most} "):
        loaded("statsd.namespace", "x" * (most + 1))


def test_each_length_that_is_told_is_tried_here() -> None:
    assert {of for _, of in LONG.values()} == {"bytes", "paths", "units", "characters"}
    assert [flag for flag, (_, of) in LONG.items() if of == "characters"] == ["statsd.namespace"]
    assert {flag for flag, (_, of) in LONG.items() if of in {"paths", "units"}} == {
        "faktory.log-file",
        "faktory.log-journal",
    }


def certificates(folder: Path) -> Path:
    """Return a file of certificates."""
    path = folder / "ca.pem"
    if not path.exists():
        trustme.CA().cert_pem.write_to_path(str(path))
    return path


def placed(text: str, folder: Path) -> str:
    """Return a file of settings whose files stand below ``folder``; write those that are read at once."""
    moved = re.sub(r'"(/[^"]+)"', lambda found: f'"{folder}{found[1]}"', text)
    for key, path in re.findall(r'^(\w+) = "(/[^"]+)"', moved, re.MULTILINE):
        if key.endswith(("password_file", "headers_file", "ca_file", "config_file")):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            content = {"headers_file": "authorization: Bearer TOKEN", "config_file": "basic_auth_users: {}"}
            Path(path).write_text(content.get(key, "secret\n"))
            if key.endswith("ca_file"):
                Path(path).write_text(certificates(folder).read_text())
    return moved


def test_the_example_has_every_key_and_is_accepted(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n# /etc/forewarn/forewarn.toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert text == example_file()
    path = tmp_path / "forewarn.toml"
    path.write_text(placed(text, tmp_path))
    made = load({"config": str(path)}, {})
    assert [server.name for server in made.servers] == ["mail"]
    written = tomllib.loads(text)
    (server,) = written.pop("servers")
    keys = {key for key, value in written.items() if not isinstance(value, dict)}
    keys |= {f"{table}.{key}" for table in written.keys() - keys for key in written[table]}
    assert keys == set(GLOBAL_FLAGS.values())
    assert set(server) == {"name", "system", *SERVER_FLAGS.values()}


def test_a_key_of_the_example_that_is_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "forewarn.toml"
    path.write_text(placed(example_file().replace("interval", "intervall", 1), tmp_path))
    with pytest.raises(SettingsError, match="did you mean interval"):
        load({"config": str(path)}, {})


# --- OpenTelemetry --------------------------------------------------------------------------------------------------


def test_every_variable_of_opentelemetry_is_there() -> None:
    part = TEXT.split("## OpenTelemetry's variables")[1].split("\n## ")[0]
    written = set(re.findall(r"`(OTEL_[A-Z_]+)`", part))
    assert written == {f"OTEL_EXPORTER_OTLP_{name}" for name, _ in settings._OTLP_VARIABLES.values()} | {
        "OTEL_TRACES_EXPORTER",
        "OTEL_METRICS_EXPORTER",
        "OTEL_METRIC_EXPORT_INTERVAL",
        "OTEL_SDK_DISABLED",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
    }


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_METRIC_EXPORT_INTERVAL"])
def test_the_times_of_opentelemetry_are_those_of_the_settings(name: str) -> None:
    found = re.search(rf"\| `{name}` \| .*?(\d+) to (\d+); default: (\d+) \|", TEXT)
    assert found
    low, high, default = map(int, found.groups())
    given = {**NEEDED, "otlp.endpoint": "http://localhost:4318"}
    for value in (low, high):
        load(given, {name: str(value)})
    for value in (low - 1, high + 1):
        with pytest.raises(SettingsError, match=name):
            load(given, {name: str(value)})
    assert load(given, {name: str(default)}) == load(given, {})
    assert load(given, {name: str(default + 1)}) != load(given, {})


@pytest.mark.parametrize("name", ["OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_COMPRESSION"])
def test_the_words_of_opentelemetry_are_those_of_the_settings(name: str) -> None:
    found = re.search(rf"`{name}`.*\| `(\w+)` or `(\w+)`; default: `(\w+)` \|", TEXT)
    assert found
    *both, default = found.groups()
    given = {**NEEDED, "otlp.endpoint": "http://localhost:4318"}
    for value in both:
        assert (load(given, {name: value}) == load(given, {})) is (value == default)
    with pytest.raises(SettingsError, match=name):
        load(given, {name: "another"})


# --- the commands ---------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_there() -> None:
    group = typer.main.get_command(app)
    part = TEXT.split("## The commands")[1]
    commands: Mapping[str, Any] = group.commands  # type: ignore[attr-defined]
    assert re.findall(r"^### `forewarn (\w+)`$", part, re.MULTILINE) == list(commands)
    for name, command in commands.items():
        own = part.split(f"### `forewarn {name}`")[1].split("### ")[0]
        told = set(re.findall(r"^\| `(--[a-z.-]+)", own, re.MULTILINE))
        options = {opt for each in command.params for opt in each.opts if opt.startswith("--")} - {"--help"}
        if "It takes all flags above." in own:
            assert {f"--{flag}" for flag in FLAGS} <= options
            options -= {f"--{flag}" for flag in FLAGS}
        assert told == options
