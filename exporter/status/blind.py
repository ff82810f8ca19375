"""What Forewarn cannot see of a server now, why, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from exporter.model import Snapshot
from exporter.settings import GLOBAL_FLAGS, SERVER_FLAGS
from exporter.status.document import Blind
from exporter.status.hour import Seen, orphans
from exporter.status.levels import ALERTS, NO_THROTTLES
from exporter.status.words import MAX_MESSAGE, count, text

MOST: Final = 20

_PARTS: Final[Mapping[str, str]] = {
    "health": "connections and version, from the health page",
    "connection": "workers and statistics, from the command port",
    "info": "number of workers, expired reservations and memory, from INFO",
    "redis": "queues, busy jobs, crashed workers and the use of throttles, from Redis",
    "latency": "how long jobs wait, from QUEUE LATENCY",
    "throttles": "limits of throttles, from the server's configuration",
    "sockets": "who holds the connections, and what waits to be accepted",
    "process": "the server's process: its file descriptors and memory",
    "log": "why the process dies, from the server's output",
    "statsd": "what the server tells by StatsD",
    "workers": "whether suspected workers are still registered",
    "failures": "how jobs failed",
}
"""What each part of a poll tells."""


def blind(snapshot: Snapshot, seen: Seen) -> tuple[Blind, ...]:
    """Return every blind spot, those that hide most first."""
    found = [*_failing(snapshot), *_not_told(snapshot), *_not_yet(snapshot, seen), *_folded(snapshot)]
    return tuple(found[:MOST])


def _failing(snapshot: Snapshot) -> Iterable[Blind]:
    for totals in snapshot.collectors:
        if totals.last.failure is not None:
            name = totals.last.name
            what = _PARTS.get(name, f"what comes from {text(name)}")
            # The message of a failure tells how to mend it.
            yield Blind(what=_sentence(what), why=text(totals.last.failure.message, MAX_MESSAGE), remedy=None)


def _not_told(snapshot: Snapshot) -> Iterable[Blind]:
    """Tell what nobody has pointed Forewarn at, or what cannot be had from where it runs."""
    names = {totals.last.name for totals in snapshot.collectors}
    health = snapshot.observation.health
    if snapshot.busy.groups is None and "redis" not in names:
        yield Blind(
            what="Busy jobs, crashed workers, orphans and the use of throttles",
            why="no Redis is configured, and only it tells of single jobs",
            remedy=f"Set redis_url ({_flag('redis_url')}) to the server's Redis.",
        )
    if health is not None and not snapshot.connections.limit:
        yield Blind(
            what="How near the connection limit is",
            why=f"this server ({text(health.edition)}) does not tell its limit",
            remedy=f"Set connections_limit ({_flag('connections_limit')}) to what the licence allows.",
        )
    edition = None if health is None else health.edition
    if snapshot.throttles.throttles is None and edition not in NO_THROTTLES and "throttles" not in names:
        yield Blind(
            what="Throttles",
            why="their limits stand in the server's configuration files, and nobody told where those are",
            remedy=f"Set config_dir ({_flag('config_dir')}) to the server's configuration folder.",
        )
    if snapshot.process is None and "log" not in names:
        yield Blind(
            what="Why the server's process dies, and whom it refuses",
            why="its output is not read",
            remedy=f"Set log_files ({_flag('log_files')}) or log_journals, or start the server by forewarn exec.",
        )
    if snapshot.connections.peers is None and "sockets" not in names:
        yield Blind(
            what="Who holds the connections, what waits to be accepted, and the server's process",
            why="the server does not listen in the network namespace in which Forewarn runs",
            remedy="Run Forewarn on the server's machine, or as a container of the same pod.",
        )
    elif snapshot.observation.process is None and "process" not in names and snapshot.observation.reached:
        yield Blind(
            what="The server's file descriptors and memory",
            why="its process cannot be seen from where Forewarn runs",
            remedy="Run both in the same process namespace (shareProcessNamespace in a pod).",
        )


def _not_yet(snapshot: Snapshot, seen: Seen) -> Iterable[Blind]:
    left = orphans(snapshot)
    if snapshot.observation.reached and not snapshot.boot.settled:
        yield Blind(
            what="Crashes of workers",
            why="the server may have been restarted within the last 90 s, and workers register anew",
            remedy=None,
        )
    if left is not None and left > seen.orphans_named:
        yield Blind(
            what=f"Which jobs {count(left - seen.orphans_named)} of the orphans are",
            why="their workers were found gone before this Forewarn started, or the reason is not certain yet",
            remedy=None,
        )
    unread = 0 if snapshot.process is None else snapshot.process.unread_bytes or 0
    if unread >= ALERTS.forewarn_log_unread.bytes:
        yield Blind(
            what="What the server printed last",
            why=f"{count(unread // 2**20)} MiB of its output are still to be read",
            remedy="See what writes so much, and whether Forewarn gets processor time and the disk.",
        )


def _folded(snapshot: Snapshot) -> Iterable[Blind]:
    limit = snapshot.queues.label_values_limit
    for label, number in sorted(snapshot.queues.label_values.items()):
        if limit is not None and number > limit:
            yield Blind(
                what=f"Some values of {text(label)} one by one",
                why=f"there are {count(number)}, and {count(limit)} are told apart",
                remedy=f"Raise max_label_values ({_flag('max_label_values')}), or mend what makes such names.",
            )


def _sentence(what: str) -> str:
    return what[:1].upper() + what[1:]


def _flag(key: str) -> str:
    """Return the flag that sets ``key``."""
    return next(f"--{flag}" for flag, known in (*GLOBAL_FLAGS.items(), *SERVER_FLAGS.items()) if known == key)
