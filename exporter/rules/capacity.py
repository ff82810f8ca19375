"""Where it leads if it goes on like this, and what somebody has left behind."""

from __future__ import annotations

from exporter.rules import panels, recording
from exporter.rules.rule import ON_QUEUE, ON_SERVER, QUEUE, SERVER, AlertRule, alert, selector
from exporter.rules.settings import RuleSettings
from exporter.settings import parse_duration


def alerts(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts of this group, in the order in which they matter."""
    return (*_trends(settings), *_left_behind(settings))


def _trends(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    leaving = selector(settings.selector, 'state="close_wait"')
    chosen = settings.alerts
    filling = chosen.faktory_connections_filling
    files = chosen.faktory_process_file_descriptors_filling
    leak = chosen.faktory_close_wait_leak
    floor = f"min_over_time(faktory_sockets{leaving}[{leak.window}]"
    throttle = chosen.faktory_throttle_not_draining
    backlog = chosen.faktory_backlog_growing
    memory = chosen.faktory_memory_growing
    horizon = parse_duration(memory.horizon)
    return (
        alert(
            "FaktoryConnectionsFilling",
            filling,
            f"{recording.CONNECTIONS_SECONDS_LEFT}{s} < {filling.seconds_left:.15g}\n"
            f"and {ON_SERVER} {recording.CONNECTIONS_USED}{s} > {filling.used_share:.15g}\n"
            f"and {ON_SERVER} deriv(faktory_connections{s}[{filling.recent}]) > 0",
            by=SERVER,
            summary="Faktory {{ $labels.server }} will soon run out of connections.",
            description="""
                If connections go on growing as they did over the last <window>, the limit is reached in {{ $value |
                humanizeDuration }}. Then every further client is refused. Find what opens connections and does not
                close them while there is time.
            """,
            panel=panels.CONNECTIONS_TIME_LEFT,
        ),
        alert(
            "FaktoryProcessFileDescriptorsFilling",
            files,
            f"{recording.FILES_SECONDS_LEFT}{s} < {files.seconds_left:.15g}\n"
            f"and {ON_SERVER} {recording.FILES_USED}{s} > {files.used_share:.15g}\n"
            f"and {ON_SERVER} deriv(faktory_process_open_fds{s}[{files.recent}]) > 0",
            by=SERVER,
            summary="Faktory {{ $labels.server }} will soon run out of file descriptors.",
            description="""
                If they go on growing as they did over the last <window>, the bound is reached in {{ $value |
                humanizeDuration }}. Then it accepts no connection any more, until it is restarted. See whether
                connections grow as well, and find what opens them while there is time.
            """,
            panel=panels.FILES_TIME_LEFT,
        ),
        alert(
            "FaktoryCloseWaitLeak",
            leak,
            f"{floor}) >= {leak.sockets}\nand {floor}) > {floor} offset {leak.window})",
            by=(*SERVER, "state"),
            summary="Faktory {{ $labels.server }} does not close what its clients have left.",
            description="""
                Sockets whose client has gone and that the server held open all the time within <window>, at least: {{
                $value | printf "%.0f" }}, and more than before. Each takes a file descriptor, and counts as a
                connection. See whether its Redis answers, and what its goroutines wait for.
            """,
            panel=panels.CLOSE_WAIT,
        ),
        alert(
            "FaktoryThrottleNotDraining",
            throttle,
            f"faktory_throttle_waiting_jobs{s} >= {throttle.jobs}\n"
            f"and faktory_throttle_waiting_jobs{s}"
            f" > {throttle.factor:.15g} * (faktory_throttle_waiting_jobs{s} offset {throttle.window})\n"
            f"and deriv(faktory_throttle_waiting_jobs{s}[{throttle.recent}]) > 0\n"
            f"and {ON_QUEUE} max without (scope) (faktory_throttle_saturation_ratio{s}) >= {throttle.used_share:.15g}",
            by=QUEUE,
            summary="Work piles up behind the throttle of queue {{ $labels.queue }} on Faktory {{ $labels.server }}.",
            description="""
                Jobs that wait behind the throttle: {{ $value | humanize }}. Their number has grown over the last
                <window>: more comes in than it lets through. More workers will not help. Push less, make the jobs
                shorter, or raise the limit.
            """,
            panel=panels.THROTTLE_WAITING,
        ),
        alert(
            "FaktoryBacklogGrowing",
            backlog,
            f"faktory_queue_jobs{s} >= {backlog.jobs}\n"
            f"and faktory_queue_jobs{s} > {backlog.factor:.15g} * (faktory_queue_jobs{s} offset {backlog.window})\n"
            f"and deriv(faktory_queue_jobs{s}[{backlog.recent}]) > 0\n"
            f"unless {ON_QUEUE} faktory_queue_paused{s} == 1",
            by=QUEUE,
            summary="Queue {{ $labels.queue }} of Faktory {{ $labels.server }} grows and grows.",
            description="""
                Jobs that wait: {{ $value | humanize }}, and more all the time for <window>. More is pushed than
                workers take. They wait longer and longer, and all of them lie in the memory of Redis. See whether
                pushes rose or completions fell.
            """,
            panel=panels.BACKLOG,
        ),
        alert(
            "FaktoryMemoryGrowing",
            memory,
            f"predict_linear(faktory_memory_bytes{s}[{memory.window}], {horizon:.15g})"
            f" > {memory.factor:.15g} * faktory_memory_bytes{s}\n"
            f"and predict_linear(faktory_memory_bytes{s}[{memory.recent}], {horizon:.15g})"
            f" > {memory.factor:.15g} * faktory_memory_bytes{s}\n"
            f"and faktory_memory_bytes{s} > {memory.bytes}",
            by=SERVER,
            summary="The memory of Faktory {{ $labels.server }} grows steadily.",
            description="""
                At the rate of the last <window> the process, without its Redis, holds {{ $value | humanize1024 }}B
                in <horizon>, more than <factor> times what it holds now. Compare with the memory that it may take
                before the kernel ends it. See whether connections grow as well: each costs memory.
            """,
            panel=panels.SERVER_MEMORY,
        ),
    )


def _left_behind(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    other = selector(settings.selector, 'queue="(other)"')
    chosen = settings.alerts
    return (
        alert(
            "FaktoryQueuePausedWithBacklog",
            chosen.faktory_queue_paused_with_backlog,
            f"faktory_queue_jobs{s} > 0\nand {ON_QUEUE} faktory_queue_paused{s} == 1",
            by=QUEUE,
            summary="Queue {{ $labels.queue }} of Faktory {{ $labels.server }} is paused, and jobs wait in it.",
            description="""
                Jobs that wait in it: {{ $value | humanize }}. No worker is given work from a paused queue. Somebody
                paused it and may have forgotten. Resume it, or silence this alert until it may run again.
            """,
            panel=panels.PAUSED,
        ),
        alert(
            "FaktoryConnectionsLimitUnknown",
            chosen.faktory_connections_limit_unknown,
            f"faktory_connections{s} unless {ON_SERVER} faktory_connections_limit{s}",
            by=SERVER,
            summary="The connection limit of Faktory {{ $labels.server }} is not known.",
            description="""
                Connections that are open: {{ $value | humanize }}. Nobody can tell how many may be: no warning will
                come before clients are refused. Faktory Enterprise does not tell its limit: set connections_limit
                in Forewarn's settings to what the licence allows.
            """,
            panel=panels.CONNECTIONS,
        ),
        alert(
            "FaktoryThrottleWithoutQueue",
            chosen.faktory_throttle_without_queue,
            f"faktory_throttle_limit{s}\n"
            f"unless {ON_QUEUE} faktory_queue_jobs{s}\n"
            f"unless {ON_SERVER} faktory_queue_jobs{other}\n"
            f"and {ON_SERVER} count without (queue) (faktory_queue_jobs{s}) > 0",
            by=(*QUEUE, "scope"),
            summary="A throttle on Faktory {{ $labels.server }} names queue {{ $labels.queue }}, which does not exist.",
            description="""
                It allows {{ $value | humanize }} jobs at once ({{ $labels.scope }}), but the server knows no such
                queue. If the name is misspelt, the queue that was meant runs without a limit. Compare the names in
                conf.d with those that are pushed to.
            """,
            panel=panels.THROTTLE_LIMITS,
        ),
    )
