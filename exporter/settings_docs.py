"""The page of all settings, written from the flags, the settings and the commands themselves.

``python -m exporter.settings_docs`` writes ``docs/configuration.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import typer

from exporter import settings
from exporter.cli import app
from exporter.flags import TABLE, Flag
from exporter.process.beside import FLAG as EXEC_FLAG
from exporter.process.beside import VARIABLE as EXEC_VARIABLE
from exporter.settings import GLOBAL_FLAGS, SERVER_FLAGS
from exporter.systems import SYSTEMS

_DEFAULT: Final = " Default: "

_UNITS: Final = ((3600, "h"), (60, "m"), (1, "s"))


class Example(NamedTuple):
    """How a key is written in the file."""

    value: str
    """In TOML."""
    remark: str = ""


EXAMPLES: Final[Mapping[str, Example]] = {
    "interval": Example('"5s"'),
    "state_file": Example('"/var/lib/forewarn/state.json"'),
    "max_label_values": Example("200"),
    "log.format": Example('"json"'),
    "log.level": Example('"info"'),
    "web.listen_address": Example('":9386"', "every address of this machine: then say who may ask, in the next file"),
    "web.config_file": Example('"/etc/forewarn/web.yml"'),
    "web.enable_lifecycle": Example("true", "needs users or client certificates in that file"),
    "web.runbooks_url": Example('"https://git.example.com/forewarn/docs/runbooks"'),
    "web.dashboards_url": Example('"https://grafana.example.com"'),
    "otlp.endpoint": Example('"https://collector.example:4318"'),
    "otlp.headers_file": Example('"/etc/forewarn/otlp-headers"', "lines such as authorization: Bearer TOKEN"),
    "otlp.ca_file": Example('"/etc/ssl/certs/collector.pem"'),
    "otlp.metrics_interval": Example('"60s"'),
    "traces.slow_seconds": Example("60"),
    "traces.ratio": Example("0.01"),
    "traces.per_second": Example("10"),
    "traces.poll_ratio": Example("0.01"),
    "traces.traceparent": Example('"link"', 'or "parent"'),
    "statsd.push": Example('"dogstatsd://127.0.0.1:8127"', "or statsd://HOST:PORT, dogstatsd+unix:///PATH"),
    "statsd.interval": Example('"10s"'),
    "name": Example('"mail"', "what every metric of it carries as the label server"),
    "system": Example('"faktory"'),
    "url": Example('"tcp+tls://mail.example:7419"', "tcp:// without TLS"),
    "web_url": Example('"https://mail.example:7420"'),
    "redis_url": Example('"unix:///var/lib/faktory/db/redis.sock"', "or redis://HOST:PORT/0, rediss://"),
    "config_dir": Example('"/etc/faktory"', "for the throttles' limits"),
    "connections_limit": Example("500", "set it for Enterprise, where nothing else tells it"),
    "password_file": Example('"/etc/forewarn/faktory-password"'),
    "redis_password_file": Example('"/etc/forewarn/redis-password"'),
    "ca_file": Example('"/etc/ssl/certs/mail.pem"'),
    "redis_ca_file": Example('"/etc/ssl/certs/mail-redis.pem"'),
    "log_files": Example('["/var/log/faktory/*.log"]', "files, patterns, named pipes; - is standard input"),
    "log_journals": Example('["faktory.service"]', "or the journals of these units of systemd"),
    "statsd_listen": Example('"127.0.0.1:8125"', "for the StatsD of Faktory Enterprise: UDP and TCP"),
    "statsd_listen_unix": Example('"/run/forewarn/statsd.sock"'),
    "statsd_relay": Example('"udp://127.0.0.1:8126"', "or unix:///PATH: every packet goes on there"),
    "statsd_namespace": Example('"faktory."', "what its names begin with"),
    "statsd_keep": Example('"known"', 'or "all": other names become metrics too'),
}
"""Every key of the file."""


def seconds(value: float) -> str:
    """Return a whole number of seconds as a duration is written: ``1h``."""
    size, unit = next((size, unit) for size, unit in _UNITS if value % size == 0)
    return f"{value / size:g}{unit}"


BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "interval": (seconds(settings.MIN_INTERVAL), seconds(settings.MAX_INTERVAL)),
    "max_label_values": ("1", str(settings.MAX_LABEL_VALUES)),
    "otlp.metrics_interval": (seconds(settings.MIN_INTERVAL), seconds(settings.MAX_INTERVAL)),
    "traces.slow_seconds": ("0", str(settings.MAX_SLOW)),
    "traces.ratio": ("0", "1"),
    "traces.per_second": ("0", str(settings.MAX_TRACES_PER_SECOND)),
    "traces.poll_ratio": ("0", "1"),
    "statsd.interval": (seconds(settings.MIN_INTERVAL), seconds(settings.MAX_INTERVAL)),
    "connections_limit": ("1", str(settings.MAX_CONNECTIONS)),
}
"""The least and the most that a key may be set to, where it is a number or a duration."""

LENGTHS: Final[Mapping[str, str]] = {
    "config": f"{settings.MAX_FILE} bytes",
    "password_file": f"{settings.MAX_SECRET} bytes",
    "redis_password_file": f"{settings.MAX_SECRET} bytes",
    "ca_file": f"{settings.MAX_FILE} bytes",
    "redis_ca_file": f"{settings.MAX_FILE} bytes",
    "otlp.ca_file": f"{settings.MAX_FILE} bytes",
    "otlp.headers_file": f"{settings.MAX_HEADERS_FILE} bytes",
    "log_files": f"{settings.MAX_LOG_FILES} paths",
    "log_journals": f"{settings.MAX_LOG_JOURNALS} units",
    "statsd_namespace": f"{settings.MAX_NAMESPACE} characters",
}
"""How long a list, a text or the file that a key names may be."""

_HEAD: Final = """\
# Configuration

Written by `python -m exporter.settings_docs`: change the settings, not this file.

Flags go over the environment, that goes over the file, and that over the defaults. Anything unknown or wrong is told
with its place and its fix before anything is opened, all of it at once, with exit status 2. A relative path in the
file starts from the file's folder. Durations are written like `500ms`, `5s`, `1m30s` or `1h`. A flag that may be
repeated is a list in the file, and in its variable the values are separated by `:`.

Passwords and tokens are best kept in files or in the environment: a command line can be read by everyone on the
machine. They never reach a log, a metric, a page or an error.

`forewarn check` in the place of `forewarn run` tries what is set, and tells what does not work and how to mend it: see
[Check](check.md). What a running Forewarn takes over from a changed file is told in [Reload](reload.md).

The flags of `--faktory.*`, and those of `--statsd.*` that concern listening, describe one server, named `faktory`:
their keys stand in its `[[servers]]`. A key such as `web.listen_address` is `listen_address` in the table `[web]`.
"""

_VARIABLES: Final = f"""\
## Variables without a flag

| variable | meaning |
| - | - |
| `FAKTORY_URL` | As Faktory's clients read it: URL of the server named `faktory`; `FOREWARN_FAKTORY_URL` goes over it |
| `FAKTORY_PROVIDER` | The name of the variable that holds that URL; it goes over `FAKTORY_URL` |
| `FAKTORY_PASSWORD` | Password of the server named `faktory`; where it begins with `/`, the path of a file with it |
| `{EXEC_VARIABLE}` | With `forewarn exec` only, as `--{EXEC_FLAG}`: which of the configured servers the command is |

Any other variable that begins with `FOREWARN_` is an error, but for those that Kubernetes makes of a Service.
"""

_SERVERS: Final = f"""\
The file may name any number of `[[servers]]`. Each needs:

- `name`, 1 to {settings.MAX_SERVER_NAME} printable characters: the label `server` of its metrics. The one named
  `faktory` is also the one that the flags describe, and they go over it.
- `system`: {" or ".join(f"`{each}`" for each in SYSTEMS)}.
- `url`.

Without `redis_url` there are no facts about single jobs, and so neither ages, crashes nor traces; queue sizes then come
from Faktory's `INFO`, which is not free of risk: see [What Forewarn asks of a server](harmless.md).
"""

_OPENTELEMETRY: Final = f"""\
## OpenTelemetry's variables

These are understood. They go over the file, and Forewarn's own flags and variables over them.

| variable | |
| - | - |
| `OTEL_EXPORTER_OTLP_ENDPOINT` | `http://` or `https://`, the base of both addresses |
| `OTEL_EXPORTER_OTLP_HEADERS` | `name=value,name=value`, percent-encoded |
| `OTEL_EXPORTER_OTLP_TIMEOUT` | of one request, in milliseconds, 1 to {settings.MAX_REQUEST_MILLISECONDS}; default: \
{settings.OtlpTarget(url="").timeout * 1000:g} |
| `OTEL_EXPORTER_OTLP_COMPRESSION` | `none` or `gzip`; default: `none` |
| `OTEL_EXPORTER_OTLP_CERTIFICATE` | PEM certificates to trust |
| `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `OTEL_EXPORTER_OTLP_CLIENT_KEY` | PEM files for a collector that wants to \
know its clients; the key without a passphrase |
| `OTEL_EXPORTER_OTLP_PROTOCOL` | `http/protobuf`; there is no gRPC |
| each of these with `TRACES_` or `METRICS_` behind `OTLP_` | for one of the two; such an endpoint is used as it is, \
with no path added |
| `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` | `otlp` or `none`; default: `otlp` |
| `OTEL_METRIC_EXPORT_INTERVAL` | in milliseconds, {settings.MIN_INTERVAL * 1000:.0f} to \
{settings.MAX_INTERVAL * 1000:.0f}; default: {settings.Settings(servers=()).otlp_metrics_interval * 1000:.0f} |
| `OTEL_SDK_DISABLED` | `true`: nothing is sent |
| `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | what Forewarn calls itself there |
"""


def document() -> str:
    """Return the page."""
    parts = (_HEAD, _flags(), _VARIABLES, _example(), _SERVERS, _OPENTELEMETRY, _commands())
    return "\n".join(part if isinstance(part, str) else "\n".join(part) for part in parts).rstrip("\n") + "\n"


def split_default(text: str) -> tuple[str, str]:
    """Return what a flag means, and its default as the help tells it; the latter is empty where it has none."""
    meaning, _, default = text.partition(_DEFAULT)
    return meaning, default


def key_of(flag: Flag) -> str:
    """Return the key of a flag in the file: ``web.listen_address`` is ``listen_address`` in ``[web]``."""
    return GLOBAL_FLAGS.get(flag.name) or SERVER_FLAGS.get(flag.name, "")


def variable_of(flag: Flag) -> str:
    """Return the environment variable of a flag."""
    return "FOREWARN_" + flag.parameter.upper()


def example_file() -> str:
    """Return a file with every key, and a server with every key."""
    return "\n".join(_example_lines()) + "\n"


def _flags() -> Iterator[str]:
    panels: dict[str, list[Flag]] = {}
    for flag in TABLE:
        panels.setdefault(flag.panel, []).append(flag)
    for panel, flags in panels.items():
        yield from (
            f"## {panel}",
            "",
            "| flag | variable | key | default | bounds | meaning |",
            "| - | - | - | - | - | - |",
        )
        yield from (_row(flag) for flag in flags)
        yield ""


def _row(flag: Flag) -> str:
    key = key_of(flag)
    meaning, default = split_default(flag.text)
    name = f"--{flag.name} {flag.metavar}".strip()
    return _cells(
        f"`{name}`",
        f"`{variable_of(flag)}`",
        f"`{key}`" if key else "",
        _code(default),
        _bounds(key or flag.name),
        meaning.removesuffix("."),
    )


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(default: str) -> str:
    """Return a default as it is shown: a value as code, words as words."""
    return f"`{default}`" if default and " " not in default and default != "none" else default


def _bounds(key: str) -> str:
    if key in BOUNDS:
        return "`{}` to `{}`".format(*BOUNDS[key])
    return f"at most {LENGTHS[key]}" if key in LENGTHS else ""


def _example() -> Iterator[str]:
    yield from ("## The file", "", "Every key, with an example. All but the servers may be left out.", "", "```toml")
    yield from ("# /etc/forewarn/forewarn.toml", *_example_lines(), "```", "")


def _example_lines() -> Iterator[str]:
    table = ""
    for key in sorted(GLOBAL_FLAGS.values(), key=lambda key: "." in key):  # a table ends only where the next begins
        within, _, name = key.rpartition(".")
        if within != table:
            yield from ("", f"[{within}]")
            table = within
        yield _example_line(name, EXAMPLES[key])
    yield from ("", "[[servers]]")
    for key in ("name", "system", *SERVER_FLAGS.values()):
        yield _example_line(key, EXAMPLES[key])


def _example_line(name: str, example: Example) -> str:
    line = f"{name} = {example.value}"
    return f"{line:<56} # {example.remark}" if example.remark else line


def _commands() -> Iterator[str]:
    shared = {f"--{flag.name}" for flag in TABLE}
    yield from ("## The commands", "", "`forewarn run --help`, and so on, tell the same.", "")
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        described = " ".join(str(command.help).split("\n\n", 1)[0].split()).replace("\\", "")
        everything = shared <= {opt for each in command.params for opt in each.opts}
        own = [each for each in command.params if not (everything and shared & set(each.opts))]
        takes = " It takes all flags above." if everything else ""
        yield from (f"### `forewarn {name}`", "", described + takes, "")
        if own:
            yield from ("| option | default | meaning |", "| - | - | - |", *map(_option, own), "")


def _option(parameter: object) -> str:
    """Return the row of one option or argument, as the library that reads them describes it."""
    opts: list[str] = getattr(parameter, "opts", [])
    metavar = getattr(parameter, "metavar", None) or ""
    is_flag = getattr(parameter, "is_flag", False)
    name = metavar if not opts[0].startswith("-") else f"{opts[0]} {'' if is_flag else metavar}".strip()
    meaning, told = split_default(str(getattr(parameter, "help", None) or ""))
    value = getattr(parameter, "default", None)
    default = told or ("" if value is None or value is False else str(value))
    return _cells(f"`{name}`", _code(default), meaning.removesuffix("."))


if __name__ == "__main__":
    sys.stdout.write(document())
