"""Is the server there, and can it work."""

from __future__ import annotations

from exporter.rules import panels
from exporter.rules.rule import ON_QUEUE, ON_SERVER, SERVER, AlertRule, alert, selector
from exporter.rules.settings import RuleSettings


def alerts(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts of this group, in the order in which they matter."""
    s = selector(settings.selector)
    redis = selector(settings.selector, 'collector="redis"')
    chosen = settings.alerts
    looping = chosen.faktory_crash_looping
    restarted = chosen.faktory_restarted
    return (
        alert(
            "FaktoryDown",
            chosen.faktory_down,
            f"faktory_up{s} == 0",
            by=SERVER,
            summary="Faktory {{ $labels.server }} does not answer.",
            description="""
                Neither its health page nor its command port answers Forewarn at {{ $labels.instance }}. No job is
                taken or handed out; producers get errors and lose what they do not keep. See whether the process
                runs and what it printed last.
            """,
            panel=panels.SERVER_UP,
        ),
        alert(
            "FaktoryRedisAway",
            chosen.faktory_redis_away,
            f"faktory_up{s} == 1\nand {ON_SERVER} forewarn_collector_up{redis} == 0\n"
            f"unless {ON_SERVER} faktory_set_jobs{s}",
            by=SERVER,
            summary="Faktory {{ $labels.server }} answers, but its Redis does not.",
            description="""
                The health page is served without Redis and looks well, while every push and fetch fails or hangs.
                Forewarn sees no queue and no job until Redis is back. See whether redis-server runs, is loading its
                file, or has no disk or memory left.
            """,
            panel=panels.STORE,
        ),
        alert(
            "FaktoryNoWorkers",
            chosen.faktory_no_workers,
            f"sum without (queue) (\n  faktory_queue_jobs{s} unless {ON_QUEUE} faktory_queue_paused{s} == 1\n) > 0\n"
            f"and {ON_SERVER} faktory_workers{s} == 0",
            by=SERVER,
            summary="Faktory {{ $labels.server }} has no worker left.",
            description="""
                Jobs that wait in queues that are not paused: {{ $value | humanize }}. Registered worker processes:
                none. Nothing will run until one connects. See why the workers ended, and whether they can reach the
                server.
            """,
            panel=panels.WORKERS_AND_WAITING,
        ),
        alert(
            "FaktoryCrashLooping",
            looping,
            f"round(increase(faktory_restarts_total{s}[{looping.window}])) >= {looping.restarts}",
            by=SERVER,
            summary="Faktory {{ $labels.server }} keeps restarting.",
            description="""
                Restarts within <window>: {{ $value | printf "%.0f" }}. Each restart breaks every connection and
                forgets every worker. Read what the process printed before it died, before the next restart takes it
                away.
            """,
            panel=panels.SERVER_STARTS,
        ),
        alert(
            "FaktoryRestarted",
            restarted,
            f"round(increase(faktory_restarts_total{s}[{restarted.window}])) > 0",
            by=SERVER,
            summary="Faktory {{ $labels.server }} has restarted.",
            description="""
                Restarts within <window>: {{ $value | printf "%.0f" }}. Workers had to connect anew, and some client
                libraries end and leave their job behind. If nobody restarted it, read what it printed when it died.
            """,
            panel=panels.SERVER_STARTS,
        ),
    )
