"""Does Forewarn itself see what it should."""

from __future__ import annotations

from exporter.rules import panels
from exporter.rules.rule import ON_SERVER, SERVER, AlertRule, alert, selector
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
