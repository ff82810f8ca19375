"""The commands. Importing this is cheap: what a command needs is imported when it runs."""

# ruff: noqa: PLC0415 - so that --help and a wrong flag answer at once

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from exporter.web.address import Address

SIDECAR = "Sidecar"
FAKTORY = "Faktory: one server, named `faktory`"
STATSD_IN = "StatsD of Faktory Enterprise, received: off unless listened for; for the server named `faktory`"
OPENTELEMETRY = "OpenTelemetry: off unless an endpoint is set"
STATSD_OUT = "StatsD, sent: off unless an address is set"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, secrets among them
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        from exporter import __version__

        typer.echo(f"forewarn {__version__}")
        raise typer.Exit


@app.callback()
def forewarn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Stand beside a job server and warn before it fails."""


def _flag(name: str, metavar: str, text: str, panel: str) -> object:
    return typer.Option(f"--{name}", metavar=metavar, help=text, rich_help_panel=panel, show_default=False)


@app.command()
def run(
    config: Annotated[
        str | None,
        _flag("config", "FILE", "TOML file to read the settings from. Environment and flags go over it.", SIDECAR),
    ] = None,
    interval: Annotated[
        str | None, _flag("interval", "DURATION", "Time between two polls, from 1s to 1h. Default: 5s", SIDECAR)
    ] = None,
    state_file: Annotated[
        str | None,
        _flag(
            "state-file",
            "FILE",
            "Keeps the counters of crashes, refusals and saturated time over restarts. Default: not kept",
            SIDECAR,
        ),
    ] = None,
    log_format: Annotated[
        str | None, _flag("log.format", "FORMAT", "text, or json: one object a line. Default: text", SIDECAR)
    ] = None,
    log_level: Annotated[
        str | None, _flag("log.level", "LEVEL", "debug, info, warning or error. Default: info", SIDECAR)
    ] = None,
    web_listen_address: Annotated[
        str | None,
        _flag(
            "web.listen-address",
            "HOST:PORT",
            "Where to serve /metrics. No HOST: every address of this machine. Default: 127.0.0.1:9386",
            SIDECAR,
        ),
    ] = None,
    max_label_values: Annotated[
        str | None,
        _flag(
            "max-label-values",
            "NUMBER",
            "Most queues, and most job types, that have a label value of their own. Default: 200",
            SIDECAR,
        ),
    ] = None,
    faktory_url: Annotated[
        str | None,
        _flag(
            "faktory.url",
            "URL",
            "tcp://host:7419, or tcp+tls:// for TLS. A password is better kept in a file, or in FAKTORY_URL.",
            FAKTORY,
        ),
    ] = None,
    faktory_web_url: Annotated[
        str | None,
        _flag("faktory.web-url", "URL", "Its Web UI. Default: port 7420 of the same host", FAKTORY),
    ] = None,
    faktory_redis_url: Annotated[
        str | None,
        _flag(
            "faktory.redis-url",
            "URL",
            "Its Redis, only ever read: unix:///path/redis.sock, redis://host:6379/0 or rediss://. "
            "Without it there are no facts about single jobs. Default: none",
            FAKTORY,
        ),
    ] = None,
    faktory_config_dir: Annotated[
        str | None,
        _flag(
            "faktory.config-dir",
            "DIR",
            "Its configuration folder, whose conf.d/*.toml tell the throttles' limits. Default: none",
            FAKTORY,
        ),
    ] = None,
    faktory_connections_limit: Annotated[
        str | None,
        _flag(
            "faktory.connections-limit",
            "NUMBER",
            "How many connections it accepts. Default: by its version; with Faktory Enterprise not known",
            FAKTORY,
        ),
    ] = None,
    faktory_password_file: Annotated[
        str | None, _flag("faktory.password-file", "FILE", "Holds its password, alone.", FAKTORY)
    ] = None,
    faktory_redis_password_file: Annotated[
        str | None, _flag("faktory.redis-password-file", "FILE", "Holds its Redis's password, alone.", FAKTORY)
    ] = None,
    faktory_ca_file: Annotated[
        str | None,
        _flag(
            "faktory.ca-file",
            "FILE",
            "PEM certificates to trust for tcp+tls:// and https://. Default: the system's",
            FAKTORY,
        ),
    ] = None,
    faktory_redis_ca_file: Annotated[
        str | None,
        _flag(
            "faktory.redis-ca-file", "FILE", "PEM certificates to trust for rediss://. Default: the system's", FAKTORY
        ),
    ] = None,
    statsd_listen: Annotated[
        str | None,
        _flag(
            "statsd.listen",
            "ADDR:PORT",
            "Where to listen for the StatsD that Faktory Enterprise sends: UDP and TCP on one port, such as "
            "127.0.0.1:8125. No ADDR: every address of this machine. Default: none",
            STATSD_IN,
        ),
    ] = None,
    statsd_listen_unix: Annotated[
        str | None,
        _flag(
            "statsd.listen-unix",
            "PATH",
            "The same for datagrams on a unix socket, which is made there. Default: none",
            STATSD_IN,
        ),
    ] = None,
    statsd_relay: Annotated[
        str | None,
        _flag(
            "statsd.relay",
            "URL",
            "Where every packet is passed on to unchanged: udp://HOST:PORT or unix:///PATH. Default: none",
            STATSD_IN,
        ),
    ] = None,
    statsd_namespace: Annotated[
        str | None,
        _flag(
            "statsd.namespace",
            "TEXT",
            "What Faktory's names begin with, as its own namespace setting says. Default: faktory.",
            STATSD_IN,
        ),
    ] = None,
    statsd_keep: Annotated[
        str | None,
        _flag(
            "statsd.keep",
            "WHICH",
            "known, or all: names that are not Faktory's are kept too, as metrics named "
            "faktory_statsd_other_*. Default: known",
            STATSD_IN,
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        _flag(
            "otlp.endpoint",
            "URL",
            "Collector that takes traces and metrics by OTLP over HTTP, such as http://host:4318; v1/traces and "
            "v1/metrics are added to it. Traces need Faktory's Redis: without it there are none. Default: none",
            OPENTELEMETRY,
        ),
    ] = None,
    otlp_headers_file: Annotated[
        str | None,
        _flag(
            "otlp.headers-file",
            "FILE",
            "Holds headers for the collector, one a line, such as authorization: Bearer TOKEN. Default: none",
            OPENTELEMETRY,
        ),
    ] = None,
    otlp_ca_file: Annotated[
        str | None,
        _flag(
            "otlp.ca-file",
            "FILE",
            "PEM certificates to trust for an endpoint of https://. Default: the system's",
            OPENTELEMETRY,
        ),
    ] = None,
    otlp_metrics_interval: Annotated[
        str | None,
        _flag(
            "otlp.metrics-interval",
            "DURATION",
            "Time between two pushes of metrics, from 1s to 1h. Default: 60s",
            OPENTELEMETRY,
        ),
    ] = None,
    traces_slow_seconds: Annotated[
        str | None,
        _flag(
            "traces.slow-seconds",
            "SECONDS",
            "Jobs that ran for at least so long are told as traces, as are all that failed, expired or crashed. "
            "0: every job. Default: 60",
            OPENTELEMETRY,
        ),
    ] = None,
    traces_ratio: Annotated[
        str | None,
        _flag(
            "traces.ratio",
            "RATIO",
            "Share of the other jobs that is told too, from 0 to 1. Default: 0.01",
            OPENTELEMETRY,
        ),
    ] = None,
    traces_per_second: Annotated[
        str | None,
        _flag(
            "traces.per-second",
            "NUMBER",
            "Most executions of jobs that are told per second; what is left out is counted. Default: 10",
            OPENTELEMETRY,
        ),
    ] = None,
    traces_poll_ratio: Annotated[
        str | None,
        _flag(
            "traces.poll-ratio",
            "RATIO",
            "Share of Forewarn's own polls that is told as traces, from 0 to 1. Default: 0.01",
            OPENTELEMETRY,
        ),
    ] = None,
    traces_traceparent: Annotated[
        str | None,
        _flag(
            "traces.traceparent",
            "HOW",
            "What joins a job to the trace of who pushed it, named by its custom.traceparent. link: a span link; "
            "parent: the job's span becomes a part of that trace. Default: link",
            OPENTELEMETRY,
        ),
    ] = None,
    statsd_push: Annotated[
        str | None,
        _flag(
            "statsd.push",
            "URL",
            "StatsD server that all metrics are sent to: statsd://HOST:PORT, with the labels in the names, or "
            "dogstatsd://HOST:PORT or dogstatsd+unix:///PATH, with the labels as tags. Default: none",
            STATSD_OUT,
        ),
    ] = None,
    statsd_interval: Annotated[
        str | None,
        _flag(
            "statsd.interval",
            "DURATION",
            "Time between two flushes to it, from 1s to 1h. Default: 10s",
            STATSD_OUT,
        ),
    ] = None,
) -> None:
    """Watch the configured servers and serve their metrics until stopped.

    Every flag has an environment variable: FOREWARN_ and the flag's name in capitals, with _ for . and -
    (FOREWARN_WEB_LISTEN_ADDRESS). Faktory's own FAKTORY_URL, FAKTORY_PROVIDER and FAKTORY_PASSWORD are understood,
    and so are OpenTelemetry's OTEL_EXPORTER_OTLP_*, OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER,
    OTEL_METRIC_EXPORT_INTERVAL and OTEL_SDK_DISABLED.
    Durations are written like 500ms, 5s, 1m30s or 1h.
    """
    from exporter.settings import SettingsError, load

    flags = {
        "config": config,
        "interval": interval,
        "state-file": state_file,
        "log.format": log_format,
        "log.level": log_level,
        "web.listen-address": web_listen_address,
        "max-label-values": max_label_values,
        "faktory.url": faktory_url,
        "faktory.web-url": faktory_web_url,
        "faktory.redis-url": faktory_redis_url,
        "faktory.config-dir": faktory_config_dir,
        "faktory.connections-limit": faktory_connections_limit,
        "faktory.password-file": faktory_password_file,
        "faktory.redis-password-file": faktory_redis_password_file,
        "faktory.ca-file": faktory_ca_file,
        "faktory.redis-ca-file": faktory_redis_ca_file,
        "statsd.listen": statsd_listen,
        "statsd.listen-unix": statsd_listen_unix,
        "statsd.relay": statsd_relay,
        "statsd.namespace": statsd_namespace,
        "statsd.keep": statsd_keep,
        "otlp.endpoint": otlp_endpoint,
        "otlp.headers-file": otlp_headers_file,
        "otlp.ca-file": otlp_ca_file,
        "otlp.metrics-interval": otlp_metrics_interval,
        "traces.slow-seconds": traces_slow_seconds,
        "traces.ratio": traces_ratio,
        "traces.per-second": traces_per_second,
        "traces.poll-ratio": traces_poll_ratio,
        "traces.traceparent": traces_traceparent,
        "statsd.push": statsd_push,
        "statsd.interval": statsd_interval,
    }
    try:
        settings = load(flags, os.environ)
    except SettingsError as error:
        _refuse(error.problems)
    from exporter.logs import setup

    setup(settings.log_format, settings.log_level, sys.stderr)
    from exporter.sidecar import run as run_sidecar
    from exporter.web.address import ListenError

    try:
        status = run_sidecar(settings)
    except ListenError as error:
        _fail(str(error))
    raise typer.Exit(status)


@app.command()
def demo(
    web_listen_address: Annotated[
        str,
        typer.Option("--web.listen-address", metavar="HOST:PORT", help="Where to serve /metrics."),
    ] = "127.0.0.1:9386",
) -> None:
    """Show everything: the sidecar beside an embedded server, whose workers crash now and then."""
    from exporter.demo.story import StoryError
    from exporter.logs import setup
    from exporter.web.address import ListenError, parse_address

    try:
        address = parse_address(web_listen_address)
    except ListenError as error:
        _refuse([str(error)])
    setup("text", "info", sys.stderr)
    from exporter.sidecar import run_loop

    try:
        status = run_loop(_play(address))
    except (ListenError, StoryError) as error:
        _fail(str(error))
    raise typer.Exit(status)


@app.command()
def rules(
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE",
            help="TOML file that changes selectors, thresholds, times, objectives and switches. Default: none",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="prometheus: a rule file; kubernetes: a PrometheusRule.",
            show_default=True,
        ),
    ] = "prometheus",
) -> None:
    r"""Print the recording and alert rules for Prometheus.

    Without a file they are those of alerts/faktory.yml. A file names
    only what it changes: `selector`, label matchers for every metric of
    the rules; `runbooks_url` and `dashboards_url`, where the links of an
    alert lead; `objectives`, how long jobs may wait; and in a table named
    after an alert, such as \[alerts.FaktoryConnectionsNearLimit], its
    `enabled`, `severity`, `for`, `keep_firing_for` and thresholds.
    docs/alerts.md lists every key with its default.
    """
    from exporter.rules.load import RuleSettingsError, load
    from exporter.rules.render import FORMATS, render, still_examples
    from exporter.rules.settings import DEFAULTS

    chosen = next((each for each in FORMATS if each == form), None)
    if chosen is None:
        _refuse([f"--format {form}: there is no such format; write one of {', '.join(FORMATS)}"])
    try:
        used = load(settings) if settings else DEFAULTS
    except RuleSettingsError as error:
        _refuse(error.problems)
    typer.echo(render(used, chosen), nl=False)
    if examples := still_examples(used):
        typer.echo(f"forewarn: {' and '.join(examples)} are examples: set them in --settings FILE", err=True)


async def _play(address: Address) -> int:
    from exporter.demo.story import stand_in_with_workers
    from exporter.secret import Secret
    from exporter.settings import ServerSettings, Settings
    from exporter.sidecar import run_until_signalled

    async with stand_in_with_workers() as server:
        watched = ServerSettings(
            name="demo",
            url=Secret(server.url),
            web_url=server.web_url,
            redis_url=Secret(server.redis_url),
            config_dir=server.config_dir,
        )
        return await run_until_signalled(Settings(servers=(watched,), web_listen_address=address))


def main() -> None:
    """Run the command line."""
    app()


def _refuse(problems: Sequence[str]) -> NoReturn:
    """Print each problem and exit with the status of a wrong command line."""
    for problem in problems:
        typer.echo(f"forewarn: {problem}", err=True)
    raise typer.Exit(2)


def _fail(problem: str) -> NoReturn:
    typer.echo(f"forewarn: {problem}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
