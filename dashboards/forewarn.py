"""Forewarn itself: does it see what it should, and what does it cost."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.units import BytesIEC, BytesPerSecondIEC, PercentUnit, Seconds, Short

from dashboards.board import Row, board
from dashboards.declared import (
    HEARD,
    LAST_PACKET,
    LEFT_OUT,
    LOG_READ,
    LOST,
    PUSH_FAILURES,
    PUSHED,
    PUSHED_LINES,
    SETTINGS_AGE,
    TRACED,
)
from dashboards.links import row_address
from dashboards.panels import UP_OR_DOWN, Column, Opens, Panels
from dashboards.queries import SERVER, Query, Select, grown, per_second
from dashboards.thresholds import Levels, above, below
from exporter.rules import panels, recording
from exporter.rules.panels import SELF, Panel
from exporter.rules.settings import RuleSettings

_INSTANCE = "{{instance}}"
_COLLECTOR = f"{{{{collector}}}} ({SERVER})"
_OF_FOREWARN = "and on (job, instance)"
"""Other programs have processes too: only those are shown that tell a version of Forewarn."""


def dashboard(settings: RuleSettings) -> Dashboard:
    """Return the dashboard of Forewarn itself."""
    return board(
        settings,
        SELF,
        "Forewarn itself",
        "Whether Forewarn sees what it should: without it, no other dashboard and no alert can be trusted.",
        _there(settings),
        _polls(settings),
        _read(settings),
        _heard(settings),
        _pushes(settings),
        _statsd_pushes(settings),
        _configuration(settings),
        _process(settings),
    )


def _there(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    alerts = settings.alerts
    down, absent = alerts.forewarn_down, alerts.forewarn_absent
    build = see.own("forewarn_build_info")
    by = "by (job, instance)"
    started = f"{see.own('process_start_time_seconds')} {_OF_FOREWARN} {build}"
    return Row(
        "Is it there?",
        [
            make.graph(
                panels.SELF_PRESENT,
                "Forewarns",
                """
                How many Forewarns Prometheus scrapes. At 0 none of the other alerts about job servers can fire. See
                whether it runs, and whether Prometheus's configuration still names it.
                """,
                Query(expr=f"count({build})\nor vector(0)", legend="scraped"),
                unit=Short,
                size=(8, 7),
                steps=below(1, absent.severity),
                whole=True,
            ),
            make.timeline(
                panels.SELF_UP,
                "Forewarn can be scraped",
                """
                Whether Prometheus could scrape each Forewarn. While it is down nothing is known about its servers,
                whatever happens to them. See whether it runs, and what it logged last.
                """,
                Query(
                    expr=f"{see.own('up')}\n{_OF_FOREWARN} last_over_time({build}[{down.window}])",
                    legend=_INSTANCE,
                ),
                values=UP_OR_DOWN,
                steps=below(1, down.severity),
                size=(8, 7),
            ),
            make.table(
                Panel(SELF, 100),
                "Versions",
                """
                Which version of Forewarn runs where, and for how long. Different versions may tell the same thing by
                different series. A short time is a restart: see its log for why.
                """,
                Column(expr=f"max by (job, instance, version) ({build})", for_labels=True),
                Column(title="Running for", expr=f"time() - max {by} ({started})", unit=Seconds),
                keys={"instance": "Forewarn", "version": "Version", "job": "Job"},
                size=(8, 7),
                opens=Opens("instance", "Show this Forewarn alone", row_address(SELF, ("job", "instance"))),
                sorted_by="Running for",
                when_empty="no Forewarn is scraped",
            ),
        ],
    )


def _polls(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    failing = settings.alerts.forewarn_collector_failing
    errors = see.server("forewarn_collector_errors_total")
    return Row(
        "Does it see?",
        [
            make.timeline(
                panels.COLLECTORS,
                "Collectors",
                """
                Whether each part of the last poll went without a failure. What comes from a part that fails has no
                samples, and its alerts cannot fire. Forewarn's log tells the reason, the address and how to mend it.
                """,
                Query(expr=see.server("forewarn_collector_up"), legend=_COLLECTOR),
                values={0: ("fails", "red"), 1: ("works", "green")},
                steps=below(1, failing.severity),
                size=(12, 8),
            ),
            make.graph(
                Panel(SELF, 101),
                "Failures by reason",
                """
                Failures of each part of a poll within each step, by reason. A few are a restart or a lost connection.
                Many of one reason: see Forewarn's log, which tells the address and how to mend it.
                """,
                Query(expr=grown(errors), legend=f"{{{{collector}}}} {{{{reason}}}} ({SERVER})"),
                unit=Short,
                size=(12, 8),
                whole=True,
                bars=True,
            ),
            make.graph(
                panels.SNAPSHOT_AGE,
                "Age of the facts",
                """
                How long ago the poll ended from which everything else comes. Above the line graphs and alerts show
                what was then, not what is. See Forewarn's log for a poll that does not end, and whether its machine is
                overloaded.
                """,
                Query(expr=see.server("forewarn_snapshot_age_seconds")),
                unit=Seconds,
                size=(8, 8),
                steps=levels.snapshot_age,
            ),
            make.graph(
                Panel(SELF, 102),
                "Duration of collectors",
                """
                How long each part of a poll took. What takes long here takes long for everybody who asks the same
                server. See Redis first: it is asked for most.
                """,
                Query(expr=see.server("forewarn_collector_duration_seconds"), legend=_COLLECTOR),
                unit=Seconds,
                size=(8, 8),
            ),
            make.graph(
                panels.LABEL_VALUES,
                "Names against their bound",
                """
                How many different queues and job types there are, and dashed how many get series of their own. Above
                it the smallest are folded into (other) and cannot be told apart. If the names are real raise
                max_label_values; if they hold ids or dates mend what makes them.
                """,
                Query(expr=see.server("forewarn_label_values"), legend=f"{{{{label}}}} ({SERVER})"),
                Query(
                    expr=see.server("forewarn_label_values_limit"),
                    legend=f"alert above, {{{{label}}}} ({SERVER})",
                    compared=True,
                ),
                unit=Short,
                size=(8, 8),
            ),
        ],
    )


def _read(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    unread = settings.alerts.forewarn_log_unread
    return Row(
        "Does it read the log?",
        [
            make.graph(
                panels.LOG_UNREAD,
                "Not read yet",
                """
                Bytes of the server's log that are still to be read: usually none. When they grow the server writes
                faster than Forewarn can read, and its last words are told late. See what writes so much, and whether
                Forewarn gets processor time and the disk.
                """,
                Query(expr=see.server("faktory_log_unread_bytes")),
                unit=BytesIEC,
                size=(12, 8),
                steps=above((unread.bytes, unread.severity)),
            ),
            make.graph(
                LOG_READ,
                "Read, and silence",
                """
                Bytes of the server's output read per second, and on the right for how long it has printed nothing. A
                quiet server prints little: silence alone is no alarm. If it is silent since its log was rotated, see
                whether the pattern still names the file that it writes to.
                """,
                Query(expr=per_second(see.server("faktory_log_read_bytes_total")), legend=f"read, {SERVER}"),
                Query(
                    expr=see.server("faktory_log_quiet_seconds"),
                    legend=f"silent for, {SERVER}",
                    unit=Seconds,
                    compared=True,
                ),
                unit=BytesPerSecondIEC,
                size=(12, 8),
            ),
        ],
    )


def _heard(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    lost, silent = settings.alerts.forewarn_statsd_lost, settings.alerts.faktory_statsd_silent
    return Row(
        "Does it hear StatsD?",
        [
            make.graph(
                HEARD,
                "Packets and values",
                """
                StatsD packets received per second, the values in them that were understood, and the packets passed on.
                Far more than usual: somebody floods it. None although the server is up: see whether the server still
                sends here.
                """,
                Query(
                    expr=per_second(see.server("forewarn_statsd_packets_total")),
                    legend=f"packets by {{{{transport}}}}, {SERVER}",
                ),
                Query(expr=per_second(see.server("forewarn_statsd_samples_total")), legend=f"values, {SERVER}"),
                Query(
                    expr=per_second(see.server("forewarn_statsd_relayed_packets_total")),
                    legend=f"passed on, {SERVER}",
                    compared=True,
                ),
                unit=Short,
                size=(8, 8),
            ),
            make.graph(
                panels.STATSD_LOST,
                "Lost share",
                f"""
                Share of the packets lost unread, of the values rejected, and of the packets that could not be passed
                on, within {lost.window}. Above the line, and from {lost.lost} up, the alert fires. Let buffers be
                larger, mend what sends them, or start the server behind.
                """,
                *(
                    Query(expr=see.server(share), legend=f"{name}, {SERVER}")
                    for name, share in (
                        ("unread", recording.STATSD_UNREAD),
                        ("rejected", recording.STATSD_REJECTED),
                        ("not passed on", recording.STATSD_UNRELAYED),
                    )
                ),
                unit=PercentUnit,
                size=(8, 8),
                steps=above((lost.share, lost.severity)),
            ),
            make.graph(
                LAST_PACKET,
                "Last packet",
                """
                How long each server has been silent. Enterprise sends gauges every 30 seconds: above the line its way
                to Redis or its packets' way to here is broken. See first whether pushes and fetches work.
                """,
                Query(expr=see.server("faktory_statsd_last_packet_age_seconds")),
                unit=Seconds,
                size=(8, 8),
                steps=above((silent.seconds, silent.severity)),
            ),
            make.graph(
                LOST,
                "Lost by place and reason",
                """
                Packets dropped by the kernel, in the queue or when they were passed on, and values that were rejected,
                within each step. Those of the kernel found a full buffer: raise net.core.rmem_max. Rejected ones are no
                StatsD: mend what sends them.
                """,
                Query(
                    expr=grown(see.server("forewarn_statsd_dropped_packets_total")),
                    legend=f"dropped: {{{{at}}}}, {SERVER}",
                ),
                Query(
                    expr=grown(see.server("forewarn_statsd_rejected_total")),
                    legend=f"rejected: {{{{reason}}}}, {SERVER}",
                ),
                Query(expr=grown(see.server("forewarn_statsd_folded_total")), legend=f"without its tags, {SERVER}"),
                unit=Short,
                size=(12, 8),
                whole=True,
                bars=True,
            ),
            make.graph(
                LEFT_OUT,
                "Values that became no metric",
                """
                Values per second that were understood and left out: events, checks, old names of what is told by its
                new one, and unknown names. All values are dashed. To see what is unknown set statsd_keep to all.
                """,
                Query(expr=per_second(see.server("forewarn_statsd_ignored_total")), legend=f"{{{{reason}}}}, {SERVER}"),
                Query(
                    expr=per_second(see.server("forewarn_statsd_samples_total")),
                    legend=f"all values, {SERVER}",
                    compared=True,
                ),
                unit=Short,
                size=(12, 8),
            ),
        ],
    )


def _pushes(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    by = f"{{{{signal}}}} {{{{result}}}}, {_INSTANCE}"
    return Row(
        "Does OpenTelemetry get it?",
        [
            make.graph(
                TRACED,
                "Executions in traces",
                """
                Executions seen to end per second, by what traces tell of them. Left out are the quick ones that
                nothing befell. Capped ones were more than may be told: raise traces.per_second to see all of them.
                """,
                Query(
                    expr=per_second(see.server("forewarn_trace_executions_total")),
                    legend=f"{{{{decision}}}} ({SERVER})",
                ),
                unit=Short,
                size=(8, 8),
            ),
            make.graph(
                PUSHED,
                "Spans and points",
                """
                Spans and points of metrics per second, by what became of them. Rejected ones the collector refused for
                good; dropped ones did not fit in while it was away. See Forewarn's log for what the collector said.
                """,
                Query(expr=per_second(see.own("forewarn_otlp_items_total")), legend=by),
                Query(expr=see.own("forewarn_otlp_waiting_spans"), legend=f"waiting now, {_INSTANCE}", compared=True),
                unit=Short,
                size=(8, 8),
            ),
            make.graph(
                PUSH_FAILURES,
                "Failed requests by reason",
                """
                Requests to the collector that failed within each step, by reason. A few are its restart, and nothing is
                lost by them. Many: see Forewarn's log, which tells the address and how to mend it.
                """,
                Query(
                    expr=grown(see.own("forewarn_otlp_failures_total")),
                    legend=f"{{{{signal}}}} {{{{reason}}}}, {_INSTANCE}",
                ),
                unit=Short,
                size=(8, 8),
                whole=True,
                bars=True,
            ),
        ],
    )


def _statsd_pushes(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    failing = settings.alerts.forewarn_statsd_push_failing
    failures = see.own("forewarn_statsd_push_failures_total")
    return Row(
        "Does the StatsD server get it?",
        [
            make.graph(
                PUSHED_LINES,
                "Pushed lines",
                """
                Lines of StatsD per second, by what became of them. Those that were refused are kept for the next flush
                where they are counters, and told anew where they are gauges. See Forewarn's log for the address.
                """,
                Query(
                    expr=per_second(see.own("forewarn_statsd_pushed_lines_total")),
                    legend=f"{{{{result}}}}, {_INSTANCE}",
                ),
                unit=Short,
                size=(12, 8),
            ),
            make.graph(
                panels.STATSD_PUSH_FAILURES,
                "Failed flushes",
                f"""
                Flushes within {failing.window} that did not reach the StatsD server whole, and dashed by reason. Above
                the line for {failing.pending} the alert fires. A few are its restart, and no counter loses by them.
                Many: see Forewarn's log, which tells the address and how to mend it.
                """,
                Query(expr=f"round(sum without (reason) (increase({failures}[{failing.window}])))", legend=_INSTANCE),
                Query(expr=grown(failures, failing.window), legend=f"{{{{reason}}}}, {_INSTANCE}", compared=True),
                unit=Short,
                size=(12, 8),
                steps=above((failing.flushes, failing.severity)),
                whole=True,
            ),
        ],
    )


def _configuration(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)
    failed = settings.alerts.forewarn_config_reload_failed
    in_use = see.own("forewarn_config_last_reload_success_timestamp_seconds")
    return Row(
        "Is its configuration in use?",
        [
            make.timeline(
                panels.CONFIGURATION,
                "Newest configuration",
                """
                Whether what was read last is in use: the settings, and the web configuration file where one is named.
                While it is refused Forewarn goes on with what it had before. Its log tells each mistake and how to
                mend it.
                """,
                Query(expr=see.own("forewarn_config_last_reload_successful"), legend=f"{{{{file}}}}, {_INSTANCE}"),
                values={0: ("refused", "red"), 1: ("in use", "green")},
                steps=below(1, failed.severity),
                size=(12, 8),
            ),
            make.graph(
                SETTINGS_AGE,
                "Age of the settings",
                """
                How long ago the settings in use were read, at the start or by a reload. A drop is a reload that worked.
                If it goes on rising after a reload, that one was refused: see the panel beside it.
                """,
                Query(expr=f"time() - {in_use}", legend=_INSTANCE),
                unit=Seconds,
                size=(12, 8),
            ),
        ],
    )


def _process(settings: RuleSettings) -> Row:
    see, make = Select(settings.selector), Panels(settings)

    def only(expr: str) -> str:
        return f"{expr}\n{_OF_FOREWARN} {see.own('forewarn_build_info')}"

    return Row(
        "What does it cost?",
        [
            make.graph(
                Panel(SELF, 103),
                "Processor",
                """
                Processor time that Forewarn uses, as a share of one core. It should be a few percent. When it rises,
                see how many jobs are busy and how many series it tells.
                """,
                Query(expr=only(per_second(see.own("process_cpu_seconds_total"))), legend=_INSTANCE),
                unit=PercentUnit,
                size=(8, 8),
            ),
            make.graph(
                Panel(SELF, 104),
                "Memory",
                """
                Memory that Forewarn holds, and dashed what it has reserved of the address space. It grows with the
                jobs that are busy and falls when they end. If it only grows, restart Forewarn and tell its makers.
                """,
                Query(expr=only(see.own("process_resident_memory_bytes")), legend=f"resident, {_INSTANCE}"),
                Query(
                    expr=only(see.own("process_virtual_memory_bytes")),
                    legend=f"virtual, {_INSTANCE}",
                    compared=True,
                ),
                unit=BytesIEC,
                size=(8, 8),
            ),
            make.graph(
                Panel(SELF, 105),
                "File descriptors",
                """
                Files and connections that Forewarn has open, and dashed how many it may. At the bound it can neither
                poll nor be scraped. See who scrapes it, and raise the limit of its service.
                """,
                Query(expr=only(see.own("process_open_fds")), legend=f"open, {_INSTANCE}"),
                Query(expr=only(see.own("process_max_fds")), legend=f"bound, {_INSTANCE}", compared=True),
                unit=Short,
                size=(8, 8),
            ),
        ],
    )
