"""Why the server's process died or may die, and what its log says is lost: as far as its output is read."""

from __future__ import annotations

from exporter.rules import panels
from exporter.rules.rule import ON_CLASS, SERVER, AlertRule, alert, selector
from exporter.rules.settings import RuleSettings, Windowed
from exporter.settings import parse_duration

WITHOUT_A_WORD = "killed|unexplained"
"""The classes of crashes of which the process itself has told nothing."""


def alerts(settings: RuleSettings) -> tuple[AlertRule, ...]:
    """Return the alerts of this group, in the order in which they matter."""
    return (*_deaths(settings), *_losses(settings), *_defects(settings))


def _deaths(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    chosen = settings.alerts
    looping = chosen.faktory_process_crash_loop
    crashed = chosen.faktory_process_crashed
    silent = chosen.faktory_process_died_unexplained
    return (
        alert(
            "FaktoryProcessCrashLoop",
            looping,
            f"round(sum without (class) (increase(faktory_process_crashes_total{s}[{looping.window}])))"
            f" >= {looping.crashes}",
            by=SERVER,
            summary="Faktory {{ $labels.server }} crashes again and again.",
            description="""
                Crashes within <window>: {{ $value | printf "%.0f" }}. Each breaks every connection, forgets every
                worker and can lose a job that is just being handed out. FaktoryProcessCrashed names the function of
                each: stop what leads there, or update.
            """,
            panel=panels.PROCESS_CRASHES,
        ),
        alert(
            "FaktoryProcessCrashed",
            crashed,
            _died(settings, crashed, f'class!~"{WITHOUT_A_WORD}"'),
            by=(*SERVER, "class", "component", "known"),
            summary="Faktory {{ $labels.server }} has crashed in {{ $labels.component }} ({{ $labels.class }}).",
            description="""
                It died in {{ $labels.component }} of {{ $labels.class }} {{ $value | humanizeDuration }} ago; known
                incident: {{ $labels.known }}. Every connection broke, and workers had to connect anew. Forewarn's
                /api/v1/incidents has the stack and what is known of it: stop what leads there, or update, before it
                happens again.
            """,
            panel=panels.PROCESS_CRASHES,
        ),
        alert(
            "FaktoryProcessDiedUnexplained",
            silent,
            _died(settings, silent, f'class=~"{WITHOUT_A_WORD}"'),
            by=(*SERVER, "class", "component", "known"),
            summary="Faktory {{ $labels.server }} has died without a word ({{ $labels.class }}).",
            description="""
                It ended {{ $value | humanizeDuration }} ago and printed no reason; nobody had asked it to stop.
                Killed means SIGKILL. Most often the kernel or the container's limit ended it for its memory: see
                what they logged at that time.
            """,
            panel=panels.PROCESS_CRASHES,
        ),
    )


def _died(settings: RuleSettings, entry: Windowed, which: str) -> str:
    """Return how long ago each crash was, newest of its class, that was within the window or was counted within it.

    Either alone would miss some. A crash that Prometheus first hears of together with its counter shows no growth: so
    do those that a Forewarn tells which died with the server, and comes back in another place. And one may be read
    late, when Forewarn was away. Both come from the series that tells when and where it was, of which there is one for
    each class: nothing has to be matched many to many for the name of the function.
    """
    age = f"time() - faktory_process_last_crash_timestamp_seconds{selector(settings.selector, which)}"
    counted = f"increase(faktory_process_crashes_total{selector(settings.selector)}[{entry.window}])"
    return f"{age} < {parse_duration(entry.window):.15g}\nor {age}\n  and {ON_CLASS} round({counted}) > 0"


def _losses(settings: RuleSettings) -> tuple[AlertRule, ...]:
    chosen = settings.alerts
    store, lost, flushed = chosen.faktory_store_crashed, chosen.faktory_job_lost, chosen.faktory_flushed
    return (
        alert(
            "FaktoryStoreCrashed",
            store,
            _said(settings, store, "store_crashed"),
            by=(*SERVER, "event"),
            summary="The Redis of Faktory {{ $labels.server }} has crashed.",
            description="""
                Crashes of it within <window>, as Faktory's log tells: {{ $value | printf "%.0f" }}. Faktory ends
                itself with it. What was changed since Redis last saved, up to two minutes, is lost. See whether the
                kernel killed it for its memory, and whether its disk is full.
            """,
            panel=panels.LOSSES,
        ),
        alert(
            "FaktoryJobLost",
            lost,
            _said(settings, lost, "job_lost"),
            by=(*SERVER, "event"),
            summary="Faktory {{ $labels.server }} has lost jobs.",
            description="""
                Scheduled jobs, retries or expired reservations within <window> that it took out of their set and
                could not put anywhere: {{ $value | printf "%.0f" }}. Nobody runs them again. Its log tells why
                (Unable to process timed job): see that line, and its Redis, before more are lost.
            """,
            panel=panels.LOSSES,
        ),
        alert(
            "FaktoryFlushed",
            flushed,
            _said(settings, flushed, "flushed"),
            by=(*SERVER, "event"),
            summary="All jobs of Faktory {{ $labels.server }} were deleted.",
            description="""
                FLUSH commands within <window>: {{ $value | printf "%.0f" }}. Each deletes every queue, scheduled job,
                retry, dead job and reservation. See who sent it. If nobody meant to, stop that client first, and
                keep the last file that Redis saved.
            """,
            panel=panels.LOSSES,
        ),
    )


def _said(settings: RuleSettings, entry: Windowed, event: str) -> str:
    chosen = selector(settings.selector, f'event="{event}"')
    return f"round(increase(faktory_log_events_total{chosen}[{entry.window}])) > 0"


def _defects(settings: RuleSettings) -> tuple[AlertRule, ...]:
    s = selector(settings.selector)
    chosen = settings.alerts
    panic, race = chosen.faktory_recovered_panic, chosen.faktory_data_race
    return (
        alert(
            "FaktoryKnownCrashRisk",
            chosen.faktory_known_crash_risk,
            f"faktory_known_crash_risk{s} == 1",
            by=(*SERVER, "known"),
            summary="Faktory {{ $labels.server }} can die of a crash that is known ({{ $labels.known }}).",
            description="""
                Its version has the defect {{ $labels.known }}, and what leads to it is in use. It need not have
                happened yet. The runbook tells for each what to stop, and which version is mended.
            """,
            panel=panels.KNOWN_RISKS,
        ),
        alert(
            "FaktoryRecoveredPanic",
            panic,
            f"round(increase(faktory_recovered_panics_total{s}[{panic.window}])) > 0",
            by=SERVER,
            summary="Faktory {{ $labels.server }} had a panic and survived it.",
            description="""
                Panics that it recovered from within <window>: {{ $value | printf "%.0f" }}. The request or command in
                which it happened failed; all else goes on. See /api/v1/incidents of Forewarn for the stack: the same
                defect may kill it elsewhere.
            """,
            panel=panels.SURVIVED,
        ),
        alert(
            "FaktoryDataRace",
            race,
            f"round(increase(faktory_data_races_total{s}[{race.window}])) > 0",
            by=SERVER,
            summary="Go's race detector has found a data race in Faktory {{ $labels.server }}.",
            description="""
                Reports within <window>: {{ $value | printf "%.0f" }}. Two goroutines used the same memory at once,
                which may one day kill the server or spoil its data. See /api/v1/incidents of Forewarn for both
                stacks, and report them to its makers.
            """,
            panel=panels.SURVIVED,
        ),
    )
