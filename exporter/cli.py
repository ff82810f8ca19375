"""The commands. Importing this is cheap: what a command needs is imported when it runs."""

# ruff: noqa: PLC0415 - so that --help and a wrong flag answer at once

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from exporter.flags import Given, with_flags

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


@app.command()
@with_flags
def run(flags: Given) -> None:
    """Watch the configured servers and serve their metrics until stopped. SIGHUP has the settings read anew.

    Every flag has an environment variable: FOREWARN_ and the flag's name in capitals, with _ for . and -
    (FOREWARN_WEB_LISTEN_ADDRESS), and : between several values of one that may be repeated. Faktory's own FAKTORY_URL,
    FAKTORY_PROVIDER and FAKTORY_PASSWORD are understood, and so are OpenTelemetry's OTEL_EXPORTER_OTLP_*,
    OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER, OTEL_METRIC_EXPORT_INTERVAL and OTEL_SDK_DISABLED.
    Durations are written like 500ms, 5s, 1m30s or 1h.
    """
    from exporter.hangups import Hangups

    hangups = Hangups()
    from exporter.settings import SettingsError, load

    try:
        settings = load(flags, os.environ)
    except SettingsError as error:
        _refuse(error.problems)
    from exporter.logs import setup

    setup(settings.log_format, settings.log_level, sys.stderr)
    from exporter.reload import reading
    from exporter.sidecar import run as run_sidecar
    from exporter.web.address import ListenError

    try:
        status = run_sidecar(settings, read=lambda: reading(load(flags, os.environ)), hangups=hangups)
    except SettingsError as error:
        _refuse(error.problems)
    except ListenError as error:
        _fail(str(error))
    raise typer.Exit(status)


@app.command(
    "exec",
    options_metavar="[FLAGS OF RUN]",
    context_settings={"allow_interspersed_args": False},
)
@with_flags
def supervise(
    flags: Given,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND...", help="The server's program and its arguments.", show_default=False),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--exec.server",
            metavar="NAME",
            help="Which of the configured servers COMMAND is. Default: the only one, or the one named faktory",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the server as a child, and watch it, its output and its end.

    For containers, where no log is to be had. The output is copied on
    as it is, signals are passed on, and the exit status is the
    server's. Nothing that befalls Forewarn ends the server: with wrong
    settings it runs all the same.

    forewarn exec --faktory.url tcp://localhost:7419 -- faktory -b :7419 -e production

    The flags are those of `forewarn run`, with the same environment
    variables, and --exec.server.
    """
    if not command:
        problem = (
            "exec: there is no command to run; write it behind --, for example:"
            " forewarn exec --faktory.url tcp://localhost:7419 -- faktory -b :7419 -e production"
        )
        _refuse([problem])
    from exporter.process.supervise import main as run_child

    raise typer.Exit(run_child(command, {**flags, "exec.server": server}))


@app.command()
@with_flags
def check(
    flags: Given,
    as_json: Annotated[bool, typer.Option("--json", help="Write the findings as JSON instead of a table.")] = False,
) -> None:
    """Try everything that the settings name, and tell what works, what does not, and how to mend it.

    The flags are those of `forewarn run`, with the same environment
    variables: put `check` in the place of `run`. The exit status is 0
    where all that is needed works, 1 where something needed does not,
    and 2 where the settings are wrong.
    """
    from exporter.check.command import main

    raise typer.Exit(main(flags, os.environ, sys.stdout, sys.stderr, as_json=as_json))


@app.command()
def top(
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="The Forewarn that is asked.")
    ] = "http://127.0.0.1:9386",
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Who asks, where it wants to know.", show_default=False)
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="Holds the user's password, alone.", show_default=False),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            metavar="FILE",
            help="PEM certificates to trust for https://. Default: the system's",
            show_default=False,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the status once and exit.")] = False,
) -> None:
    """Show the status page of a running Forewarn in the terminal.

    For each server the four signals with their level and last hour, the
    oldest busy jobs, orphans, throttles, what happened, and what Forewarn
    cannot see: the worst first, as much as fits. q or Ctrl-C ends it.
    Into a pipe it is printed once, as plain text, like with --once.

    forewarn top --url https://forewarn.example.com --user me --password-file ~/.forewarn-password

    The exit status is 0, 1 where no status could be had, and 2 where the
    command line is wrong.
    """
    from exporter.top import main

    raise typer.Exit(main(url, user=user, password_file=password_file, ca_file=ca_file, once=once))


@app.command()
def postmortem(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE... | -", help="Logs in their order, oldest first; - is standard input."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help='Write {"incidents": [...]} instead of a report, one incident a line.')
    ] = False,
) -> None:
    """Tell the Go crashes, data races and recovered panics in logs that are already there.

    A log may be plain, or as Docker, Kubernetes, journalctl -o json,
    docker compose or kubectl --prefix write it, and packed by gzip,
    bzip2 or xz: all of that is found by itself. Name rotated ones
    oldest first.

    forewarn postmortem faktory.log.2.gz faktory.log.1 faktory.log

    kubectl logs --previous faktory-0 | forewarn postmortem -

    journalctl -u faktory -o json --since yesterday | forewarn postmortem --json -

    Restarts are not known here: what ends a process by itself counts
    as a crash, a data race and a panic that was recovered do not. The
    exit status is 0 whatever is found, 1 where a log could not be read
    to its end, and 2 where the command line is wrong.
    """
    if not files:
        example = "forewarn postmortem /var/log/faktory.log, or kubectl logs --previous POD | forewarn postmortem -"
        _refuse([f"postmortem: there is no log to read; name one or more, for example: {example}"])
    if files.count("-") > 1:
        _refuse(["postmortem: standard input can be read only once; name - once"])
    from exporter.process.postmortem import tell

    raise typer.Exit(tell(files, sys.stdout, sys.stderr, as_json=as_json))


@app.command()
def demo(
    web_listen_address: Annotated[
        str,
        typer.Option("--web.listen-address", metavar="HOST:PORT", help="Where to serve the status page and /metrics."),
    ] = "127.0.0.1:9386",
    server: Annotated[
        str,
        typer.Option(
            "--server",
            metavar="WHICH",
            help="What it runs on: real, the faktory program of the PATH; stand-in, the embedded one; or auto, the"
            " real one where faktory and redis-server are on the PATH.",
        ),
    ] = "auto",
) -> None:
    """Show everything: the sidecar beside a server of its own, and what it catches.

    In about three minutes a worker is killed, a job nearly outlives its
    reservation, a throttle fills, connections leak and a queue backs
    up, and all of it is mended. The terminal tells what is done and
    after how many seconds it was caught.
    """
    from exporter.demo.command import main
    from exporter.web.address import ListenError, parse_address

    if server not in ("auto", "real", "stand-in"):
        _refuse([f"--server {server}: there is no such choice; write auto, real or stand-in"])
    try:
        address = parse_address(web_listen_address)
    except ListenError as error:
        _refuse([str(error)])
    raise typer.Exit(main(address, server))


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
