"""The commands. Importing this is cheap: what a command needs is imported when it runs."""

# ruff: noqa: PLC0415 - so that --help and a wrong flag answer at once

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from exporter.flags import Given, with_flags

if TYPE_CHECKING:
    from exporter.web.address import Address

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
    """Watch the configured servers and serve their metrics until stopped.

    Every flag has an environment variable: FOREWARN_ and the flag's name in capitals, with _ for . and -
    (FOREWARN_WEB_LISTEN_ADDRESS), and : between several values of one that may be repeated. Faktory's own FAKTORY_URL,
    FAKTORY_PROVIDER and FAKTORY_PASSWORD are understood, and so are OpenTelemetry's OTEL_EXPORTER_OTLP_*,
    OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER, OTEL_METRIC_EXPORT_INTERVAL and OTEL_SDK_DISABLED.
    Durations are written like 500ms, 5s, 1m30s or 1h.
    """
    from exporter.settings import SettingsError, load

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
