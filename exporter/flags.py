"""The flags that ``forewarn run`` and ``forewarn exec`` have in common: one table, and how a command gets them.

What each means to the settings stands in :mod:`exporter.settings`; here is what an operator reads. Importing this is
cheap.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import typer

SIDECAR: Final = "Sidecar"
FAKTORY: Final = "Faktory: one server, named `faktory`"
OUTPUT: Final = "What Faktory prints: off unless it is named; for the server named `faktory`"
STATSD_IN: Final = "StatsD of Faktory Enterprise, received: off unless listened for; for the server named `faktory`"
OPENTELEMETRY: Final = "OpenTelemetry: off unless an endpoint is set"
STATSD_OUT: Final = "StatsD, sent: off unless an address is set"

Given = Mapping[str, str | Sequence[str] | None]
"""What was given for each flag, by its name: nothing, a text, or for one that may be repeated all its texts."""


class Flag(NamedTuple):
    """One flag."""

    name: str
    """Without its dashes."""
    metavar: str
    text: str
    panel: str
    """The part of the help that it stands in."""
    repeatable: bool = False
    switch: bool = False
    """Whether it has no value: given, it is ``true``."""

    @property
    def parameter(self) -> str:
        """The name of the argument of a function that takes it."""
        return self.name.replace(".", "_").replace("-", "_")


TABLE: Final = (
    Flag("config", "FILE", "TOML file to read the settings from. Environment and flags go over it.", SIDECAR),
    Flag("interval", "DURATION", "Time between two polls, from 1s to 1h. Default: 5s", SIDECAR),
    Flag(
        "state-file",
        "FILE",
        "Keeps what only Forewarn knows over its restarts: counters, and how far logs were read. Default: not kept",
        SIDECAR,
    ),
    Flag("log.format", "FORMAT", "text, or json: one object a line. Default: text", SIDECAR),
    Flag("log.level", "LEVEL", "debug, info, warning or error. Default: info", SIDECAR),
    Flag(
        "web.listen-address",
        "HOST:PORT",
        "Where to serve /metrics. No HOST: every address of this machine. Default: 127.0.0.1:9386",
        SIDECAR,
    ),
    Flag(
        "web.config.file",
        "FILE",
        "TLS, client certificates, passwords and headers, as Prometheus's exporters write them. Default: plain HTTP "
        "for everybody",
        SIDECAR,
    ),
    Flag(
        "web.enable-lifecycle",
        "",
        "Let POST /-/reload read the settings anew, as SIGHUP does. Default: SIGHUP alone",
        SIDECAR,
        switch=True,
    ),
    Flag(
        "web.runbooks-url",
        "URL",
        "Where the pages of docs/runbooks are to be read: the status page links them. Default: no links",
        SIDECAR,
    ),
    Flag(
        "web.dashboards-url",
        "URL",
        "The Grafana that has the dashboards: the status page links them. Default: no links",
        SIDECAR,
    ),
    Flag(
        "max-label-values",
        "NUMBER",
        "Most queues, and most job types, that have a label value of their own. Default: 200",
        SIDECAR,
    ),
    Flag(
        "faktory.url",
        "URL",
        "tcp://host:7419, or tcp+tls:// for TLS. A password is better kept in a file, or in FAKTORY_URL.",
        FAKTORY,
    ),
    Flag("faktory.web-url", "URL", "Its Web UI. Default: port 7420 of the same host", FAKTORY),
    Flag(
        "faktory.redis-url",
        "URL",
        "Its Redis, only ever read: unix:///path/redis.sock, redis://host:6379/0 or rediss://. Without it there are "
        "no facts about single jobs. Default: none",
        FAKTORY,
    ),
    Flag(
        "faktory.config-dir",
        "DIR",
        "Its configuration folder, whose conf.d/*.toml tell the throttles' limits. Default: none",
        FAKTORY,
    ),
    Flag(
        "faktory.connections-limit",
        "NUMBER",
        "How many connections it accepts. Default: by its version; with Faktory Enterprise not known",
        FAKTORY,
    ),
    Flag("faktory.password-file", "FILE", "Holds its password, alone.", FAKTORY),
    Flag("faktory.redis-password-file", "FILE", "Holds its Redis's password, alone.", FAKTORY),
    Flag(
        "faktory.ca-file",
        "FILE",
        "PEM certificates to trust for tcp+tls:// and https://. Default: the system's",
        FAKTORY,
    ),
    Flag("faktory.redis-ca-file", "FILE", "PEM certificates to trust for rediss://. Default: the system's", FAKTORY),
    Flag(
        "faktory.log-file",
        "PATH",
        "File or named pipe with its output, or a pattern such as '/var/log/faktory/*.log'; - is standard input. "
        "May be repeated. Default: none",
        OUTPUT,
        repeatable=True,
    ),
    Flag(
        "faktory.log-journal",
        "UNIT",
        "Unit of systemd whose journal holds its output, such as faktory.service. May be repeated. Default: none",
        OUTPUT,
        repeatable=True,
    ),
    Flag(
        "statsd.listen",
        "ADDR:PORT",
        "Where to listen for the StatsD that Faktory Enterprise sends: UDP and TCP on one port, such as "
        "127.0.0.1:8125. No ADDR: every address of this machine. Default: none",
        STATSD_IN,
    ),
    Flag(
        "statsd.listen-unix",
        "PATH",
        "The same for datagrams on a unix socket, which is made there. Default: none",
        STATSD_IN,
    ),
    Flag(
        "statsd.relay",
        "URL",
        "Where every packet is passed on to unchanged: udp://HOST:PORT or unix:///PATH. Default: none",
        STATSD_IN,
    ),
    Flag(
        "statsd.namespace",
        "TEXT",
        "What Faktory's names begin with, as its own namespace setting says. Default: faktory.",
        STATSD_IN,
    ),
    Flag(
        "statsd.keep",
        "WHICH",
        "known, or all: names that are not Faktory's are kept too, as metrics named faktory_statsd_other_*. "
        "Default: known",
        STATSD_IN,
    ),
    Flag(
        "otlp.endpoint",
        "URL",
        "Collector that takes traces and metrics by OTLP over HTTP, such as http://host:4318; v1/traces and "
        "v1/metrics are added to it. Traces need Faktory's Redis: without it there are none. Default: none",
        OPENTELEMETRY,
    ),
    Flag(
        "otlp.headers-file",
        "FILE",
        "Holds headers for the collector, one a line, such as authorization: Bearer TOKEN. Default: none",
        OPENTELEMETRY,
    ),
    Flag(
        "otlp.ca-file",
        "FILE",
        "PEM certificates to trust for an endpoint of https://. Default: the system's",
        OPENTELEMETRY,
    ),
    Flag(
        "otlp.metrics-interval",
        "DURATION",
        "Time between two pushes of metrics, from 1s to 1h. Default: 60s",
        OPENTELEMETRY,
    ),
    Flag(
        "traces.slow-seconds",
        "SECONDS",
        "Jobs that ran for at least so long are told as traces, as are all that failed, expired or crashed. 0: "
        "every job. Default: 60",
        OPENTELEMETRY,
    ),
    Flag(
        "traces.ratio", "RATIO", "Share of the other jobs that is told too, from 0 to 1. Default: 0.01", OPENTELEMETRY
    ),
    Flag(
        "traces.per-second",
        "NUMBER",
        "Most executions of jobs that are told per second; what is left out is counted. Default: 10",
        OPENTELEMETRY,
    ),
    Flag(
        "traces.poll-ratio",
        "RATIO",
        "Share of Forewarn's own polls that is told as traces, from 0 to 1. Default: 0.01",
        OPENTELEMETRY,
    ),
    Flag(
        "traces.traceparent",
        "HOW",
        "What joins a job to the trace of who pushed it, named by its custom.traceparent. link: a span link; "
        "parent: the job's span becomes a part of that trace. Default: link",
        OPENTELEMETRY,
    ),
    Flag(
        "statsd.push",
        "URL",
        "StatsD server that all metrics are sent to: statsd://HOST:PORT, with the labels in the names, or "
        "dogstatsd://HOST:PORT or dogstatsd+unix:///PATH, with the labels as tags. Default: none",
        STATSD_OUT,
    ),
    Flag("statsd.interval", "DURATION", "Time between two flushes to it, from 1s to 1h. Default: 10s", STATSD_OUT),
)
"""Every flag, in the order of the help."""


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return ``command`` as typer takes it, with every flag; it is called with what was given as ``flags``."""
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "flags"]
    shared = [_parameter(flag) for flag in TABLE]

    def with_all(**given: object) -> None:
        flags = {flag.name: _text(given.pop(flag.parameter)) for flag in TABLE}
        command(**given, flags=flags)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
    with_all.__doc__ = command.__doc__
    with_all.__name__ = command.__name__
    with_all.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_all.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_all


def _text(given: object) -> object:
    return "true" if given is True else given


def _parameter(flag: Flag) -> inspect.Parameter:
    option = typer.Option(
        None,
        f"--{flag.name}",
        metavar=flag.metavar or None,
        help=flag.text,
        rich_help_panel=flag.panel,
        show_default=False,
    )
    kind = list[str] | None if flag.repeatable else bool | None if flag.switch else str | None
    return inspect.Parameter(flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)
