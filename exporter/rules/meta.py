"""Does Forewarn itself see what it should."""

from __future__ import annotations

from exporter.rules import panels, recording
from exporter.rules.rule import ON_SERVER, SERVER, AlertRule, alert, selector, told
from exporter.rules.settings import RuleSettings

ON_COLLECTOR = "on (job, instance, server, collector)"


def alerts(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts of this group, in the order in which they matter."""
    s = selector(settings.selector)
    redis = selector(settings.selector, 'collector="redis"')
    chosen = settings.alerts
    down = chosen.forewarn_down
    stale = chosen.forewarn_snapshot_stale
    failing = chosen.forewarn_collector_failing
    unread = chosen.forewarn_log_unread
    errors = f"increase(forewarn_collector_errors_total{s}[{failing.window}])"
    return (
        alert(
            "ForewarnAbsent",
            chosen.forewarn_absent,
            f"absent(forewarn_build_info{s})",
            by=(),
            summary="No Forewarn is scraped at all.",
            description="""
                Prometheus has no sample of any Forewarn: none of the other alerts about job servers can fire. See
                whether it runs, and whether Prometheus's configuration still names it.
            """,
            panel=panels.SELF_PRESENT,
        ),
        alert(
            "ForewarnDown",
            down,
            f"up{s} == 0\nand on (job, instance) last_over_time(forewarn_build_info{s}[{down.window}])",
            by=("job", "instance"),
            summary="Forewarn at {{ $labels.instance }} cannot be scraped.",
            description="""
                It was scraped within the last <window> and now does not answer. No alert about the servers that it
                watches can fire, whatever happens to them. See whether it runs, and what it logged last.
            """,
            panel=panels.SELF_UP,
        ),
        alert(
            "ForewarnSnapshotStale",
            stale,
            f"forewarn_snapshot_age_seconds{s} > {stale.seconds:.15g}",
            by=SERVER,
            summary="Forewarn at {{ $labels.instance }} has no fresh facts about {{ $labels.server }}.",
            description="""
                Its last poll ended {{ $value | humanizeDuration }} ago: graphs and alerts show what was then. See
                its log for a poll that does not end, and whether its machine is overloaded.
            """,
            panel=panels.SNAPSHOT_AGE,
        ),
        alert(
            "ForewarnCollectorFailing",
            failing,
            f"forewarn_collector_up{s} == 0\n"
            f"and {ON_COLLECTOR} round(sum without (reason) ({errors})) > 1\n"
            f"unless (forewarn_collector_up{redis} == 0 unless {ON_SERVER} faktory_set_jobs{s})",
            by=(*SERVER, "collector"),
            summary="Forewarn at {{ $labels.instance }} cannot read {{ $labels.collector }} of {{ $labels.server }}.",
            description="""
                What comes from there has no samples, and its alerts cannot fire. forewarn_collector_errors_total
                tells the reason; Forewarn's log tells it with the address and how to mend it.
            """,
            panel=panels.COLLECTORS,
        ),
        alert(
            "ForewarnLogUnread",
            unread,
            f"faktory_log_unread_bytes{s} >= {unread.bytes}\n"
            f"and deriv(faktory_log_unread_bytes{s}[{unread.recent}]) > 0",
            by=SERVER,
            summary="Forewarn at {{ $labels.instance }} cannot keep up with the log of {{ $labels.server }}.",
            description="""
                {{ $value | humanize1024 }}B of it are still to be read, and more all the time. What the server says
                there, its last words among it, is told late, and is lost where the file is taken away before. See
                what writes so much, and whether Forewarn gets processor time and the disk.
            """,
            panel=panels.LOG_UNREAD,
        ),
        alert(
            "ForewarnLabelOverflow",
            chosen.forewarn_label_overflow,
            f"forewarn_label_values{s} > forewarn_label_values_limit{s}",
            by=(*SERVER, "label"),
            summary="{{ $labels.server }} has more values of {{ $labels.label }} than Forewarn gives a series.",
            description="""
                There are {{ $value | humanize }}. The smallest are folded into (other) and cannot be told apart;
                alerts by {{ $labels.label }} do not see them. If the names are real, raise max_label_values; if
                they hold ids or dates, mend what makes them.
            """,
            panel=panels.LABEL_VALUES,
        ),
        *_statsd(settings),
        alert(
            "ForewarnConfigReloadFailed",
            chosen.forewarn_config_reload_failed,
            f"forewarn_config_last_reload_successful{s} == 0",
            by=("job", "instance", "file"),
            summary="Forewarn at {{ $labels.instance }} does not use its newest {{ $labels.file }} configuration.",
            description="""
                What it read last is broken, so it goes on with what it had before. Whatever was changed is not in use,
                and with it a restart would fail. Forewarn's log tells each mistake with its place and how to mend it;
                forewarn check finds the same.
            """,
            panel=panels.CONFIGURATION,
        ),
        alert(
            "ForewarnWatchdog",
            chosen.forewarn_watchdog,
            "vector(1) > 0",
            by=(),
            summary="Alerting about job servers works.",
            description="""
                This alert always fires. Route it to something outside that calls when it stops: then Prometheus,
                Alertmanager or the way between them is broken.
            """,
            panel=panels.WATCHDOG,
        ),
    )


def _statsd(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    failing = settings.alerts.forewarn_statsd_push_failing
    failures = f"sum without (reason) (increase(forewarn_statsd_push_failures_total{s}[{failing.window}]))"
    return (
        _lost(
            settings,
            "unread",
            recording.STATSD_UNREAD,
            ("at", recording.statsd_unread(settings)),
            "Forewarn at {{ $labels.instance }} loses StatsD packets of {{ $labels.server }} unread.",
            """
            {{ $value | humanizePercentage }} of the packets within <window> found the buffer full. What is counted
            from them is too low. See how many come each second, whether Forewarn gets processor time, and how large a
            socket's buffer may be.
            """,
        ),
        _lost(
            settings,
            "rejected",
            recording.STATSD_REJECTED,
            ("reason", f"forewarn_statsd_rejected_total{s}"),
            "Forewarn at {{ $labels.instance }} does not understand the StatsD of {{ $labels.server }}.",
            """
            {{ $value | humanizePercentage }} of the values within <window> could not be counted.
            forewarn_statsd_rejected_total tells why. See who else sends to this port, and what was last deployed there.
            """,
        ),
        _lost(
            settings,
            "unrelayed",
            recording.STATSD_UNRELAYED,
            ("at", recording.statsd_unrelayed(settings)),
            "Forewarn at {{ $labels.instance }} cannot pass the StatsD of {{ $labels.server }} on.",
            """
            {{ $value | humanizePercentage }} of what was to be passed on within <window> was not taken. Forewarn has
            counted it, the StatsD server behind it has not. See whether that one runs and whether statsd_relay still
            names it.
            """,
        ),
        alert(
            "ForewarnStatsdPushFailing",
            failing,
            f"round({failures}) >= {failing.flushes}",
            by=("job", "instance"),
            summary="Forewarn at {{ $labels.instance }} cannot push to its StatsD server.",
            description="""
                Flushes within <window> that did not get through whole: {{ $value | printf "%.0f" }}. What counters
                have gained is kept for the next flush; gauges of that time are lost. See whether the StatsD server
                runs; Forewarn's log tells the address and how to mend it.
            """,
            panel=panels.STATSD_PUSH_FAILURES,
        ),
    )


def _lost(
    settings: RuleSettings, lost: str, share: str, counted: tuple[str, str], summary: str, description: str
) -> AlertRule:
    """Return the rule about one place where something is lost: ``counted`` by this label in these series."""
    entry = settings.alerts.forewarn_statsd_lost
    label, series = counted
    return AlertRule(
        name="ForewarnStatsdLost",
        severity=entry.severity,
        expr=f"{share}{selector(settings.selector)} > {entry.share:.15g}\n"
        f"and {ON_SERVER} round(sum without ({label}) (increase({series}[{entry.window}]))) >= {entry.lost}",
        pending=entry.pending,
        keep_firing_for=entry.keep_firing_for,
        by=SERVER,
        labels={"lost": lost},
        summary=summary,
        description=told(description, entry),
        panel=panels.STATSD_LOST,
    )
