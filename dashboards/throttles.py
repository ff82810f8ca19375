"""Throttles: which are full, and what waits behind them."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.units import PercentUnit, Short

from dashboards.board import Row, board
from dashboards.declared import SATURATED_SHARE, THROTTLES_NOW
from dashboards.links import row_address
from dashboards.panels import Column, Opens, Panels
from dashboards.queries import QUEUE, SERVER, Query, Select, per_second
from dashboards.thresholds import Levels, above
from exporter.rules import panels
from exporter.rules.panels import THROTTLES
from exporter.rules.rule import ON_QUEUE
from exporter.rules.settings import RuleSettings

_SCOPE = f"{{{{queue}}}} {{{{scope}}}} ({SERVER})"


def dashboard(settings: RuleSettings) -> Dashboard:
    """Return the dashboard of throttles."""
    return board(
        settings,
        THROTTLES,
        "Faktory / Throttles",
        "How full the throttles are, and what waits behind them. Empty where a server has no throttles.",
        _use(settings),
        _now(settings),
        choose=("queue",),
    )


def _use(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    draining = settings.alerts.faktory_throttle_not_draining
    limit, waiting = see.queue("faktory_throttle_limit"), see.queue("faktory_throttle_waiting_jobs")
    return Row(
        "Use",
        [
            make.graph(
                panels.THROTTLE_SATURATION,
                "Share in use",
                """
                Which share of each throttle is in use, in the cluster or in the busiest worker process. Full is as
                somebody meant it; full with work waiting behind it is an alert. See whether its jobs take longer than
                usual or are left over from crashed workers.
                """,
                Query(expr=see.queue("faktory_throttle_saturation_ratio"), legend=_SCOPE),
                unit=PercentUnit,
                size=(12, 8),
                steps=levels.throttle_used,
            ),
            make.graph(
                panels.THROTTLE_WAITING,
                "Jobs that wait behind throttles",
                f"""
                Jobs in throttled queues. The alert fires when the throttle is nearly full, {draining.jobs} or more
                wait, and they are above the dashed line, {draining.factor:g} times as many as {draining.window} ago:
                more comes in than it lets through, and more workers will not help. Push less, make the jobs shorter,
                or raise the limit.
                """,
                Query(expr=waiting, legend=QUEUE),
                Query(
                    expr=f"{draining.factor:.15g} * ({waiting} offset {draining.window})",
                    legend=f"alert above, {QUEUE}",
                    compared=True,
                ),
                unit=Short,
                size=(12, 8),
                steps=above((draining.jobs, draining.severity)),
            ),
            make.graph(
                panels.THROTTLE_LIMITS,
                "Limits and use",
                """
                Jobs of each throttled queue that run, and dashed how many may. A line called "no such queue" is a
                throttle whose name no queue has: it is misspelt, or the queue is not used. Compare the names in conf.d
                with those that are pushed to.
                """,
                Query(expr=see.queue("faktory_throttle_in_use"), legend=f"in use, {_SCOPE}"),
                Query(expr=limit, legend=f"limit, {_SCOPE}", compared=True),
                Query(
                    expr=f"{limit}\nunless {ON_QUEUE} {see.queue('faktory_queue_jobs')}",
                    legend=f"no such queue, {_SCOPE}",
                ),
                unit=Short,
                size=(12, 8),
            ),
            make.graph(
                SATURATED_SHARE,
                "Share of the time in which it was full",
                """
                For how much of each step the throttle had no place left. Near 100 % for hours means that the limit
                is lower than what is pushed. Raise it, or push less.
                """,
                Query(expr=per_second(see.queue("faktory_throttle_saturated_seconds_total")), legend=_SCOPE),
                unit=PercentUnit,
                size=(12, 8),
            ),
        ],
    )


def _now(settings: RuleSettings) -> Row:
    see, make, levels = Select(settings.selector), Panels(settings), Levels(settings)
    draining = settings.alerts.faktory_throttle_not_draining
    kept = "by (job, instance, server, queue, scope)"
    every = see.queue("faktory_throttle_limit")
    behind = f"{every} * 0 + {ON_QUEUE} group_left ()"
    return Row(
        "Now",
        [
            make.table(
                THROTTLES_NOW,
                "Throttles",
                """
                One row for each throttle, coloured where alerts fire. A click on a queue's name opens that queue: how
                long its jobs wait, and how long they take. An empty cell under "In the queue": no such queue exists.
                """,
                Column(title="Limit", expr=f"max {kept} ({every})"),
                Column(title="In use", expr=f"max {kept} ({see.queue('faktory_throttle_in_use')})"),
                Column(
                    title="Share in use",
                    expr=f"max {kept} ({see.queue('faktory_throttle_saturation_ratio')})",
                    unit=PercentUnit,
                    steps=levels.throttle_used,
                ),
                Column(
                    title="Waiting behind it",
                    expr=f"max {kept} ({behind} {see.queue('faktory_throttle_waiting_jobs')})",
                    steps=above((draining.jobs, draining.severity)),
                ),
                Column(title="In the queue", expr=f"max {kept} ({behind} {see.queue('faktory_queue_jobs')})"),
                keys={"queue": "Queue", "scope": "Scope", "server": "Server", "instance": "Forewarn", "job": "Job"},
                size=(24, 9),
                opens=Opens(
                    "queue",
                    "Open this queue",
                    row_address(panels.QUEUES, ("job", "instance", "server", "queue")),
                ),
                sorted_by="Share in use",
                when_empty="no throttle is known",
            ),
        ],
    )
