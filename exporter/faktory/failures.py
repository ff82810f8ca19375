"""Where the jobs that failed must stand, and what is told of them.

Faktory takes a failed job out of ``working``, counts it, and puts it into ``retries``, where its score is when it is
tried again, or into ``dead``, where its score is when it is forgotten. Both follow from when it failed and how often it
had failed before. So those that left ``working`` in a known time need not be looked for in the whole of these sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from exporter.faktory.times import parse_time
from exporter.faktory.working import MAX_ID, readable
from exporter.model import MAX_ERROR, Ended, JobFacts, JobFailure, label_value
from exporter.secret import without_credentials

RETRIES, DEAD = "retries", "dead"

DEAD_SECONDS: Final = 180 * 86400.0
"""How long Faktory keeps a dead job."""

CLOCK_SLACK: Final = 1.0
"""Seconds by which our idea of the server's clock may lag behind it: the way of its health page to us."""

MAX_FAILURES: Final = 700
"""Most failures of a job whose next attempt Faktory can still write down: after more it lies beyond the year 9999."""

EXPIRED: Final = "ReservationExpired"
"""The error type under which Faktory itself fails a job."""

_FIRST_DELAY: Final = 15.0
_LONGEST_JITTER: Final = 29.0
_CUT: Final = 1000
"""Bytes at which Faktory cuts a message."""


class Window(msgspec.Struct, frozen=True, order=True, gc=False):
    """The entries of one set whose scores are from ``low`` to ``high``."""

    set: str
    low: float
    high: float


def windows_of(facts: JobFacts, since: float, until: float) -> tuple[Window, ...]:
    """Return where a job stands that failed between ``since`` and ``until``; nowhere if its failing leaves no trace.

    A job that has failed ``n`` times before is tried again ``n`` ** 4 + 15 seconds later, and a random 0 to 29 times
    ``n`` + 1 more; one that has no attempt left is dead. While it is not known how often it may be tried, it may be in
    either set.
    """
    failures, retry = facts.failures, facts.retry
    if retry == 0 or not 0 <= failures <= MAX_FAILURES:
        return ()
    since, until = since - CLOCK_SLACK, until + CLOCK_SLACK
    delay = failures**4 + _FIRST_DELAY
    retries = Window(RETRIES, since + delay, until + delay + _LONGEST_JITTER * (failures + 1))
    dead = Window(DEAD, since + DEAD_SECONDS, until + DEAD_SECONDS)
    if retry is None:
        return dead, retries
    return (retries,) if failures < retry else (dead,)


def merged(windows: Iterable[Window]) -> Mapping[Window, Sequence[Window]]:
    """Return the fewest windows that hold the same entries, none twice, with those that each stands for.

    Those of ``dead`` come first, for they are the shortest, then by score.
    """
    groups: list[list[Window]] = []
    high = -math.inf
    for window in sorted(set(windows)):
        if groups and groups[-1][0].set == window.set and window.low <= high:
            groups[-1].append(window)
            high = max(high, window.high)
        else:
            groups.append([window])
            high = window.high
    return {Window(group[0].set, group[0].low, max(each.high for each in group)): group for group in groups}


class _Sought(msgspec.Struct, frozen=True, gc=False):
    """One job that is looked for, and where."""

    since: float
    facts: JobFacts
    windows: tuple[Window, ...]


class Search:
    """Looks for the jobs that ended among the entries of :attr:`windows`, as these are read."""

    def __init__(self, ended: Iterable[Ended], now: float) -> None:
        """``now`` is the server's clock, at which all of ``ended`` had ended."""
        self._now = now
        self._sought: dict[str, _Sought] = {}
        self._found: dict[str, JobFailure] = {}
        self._read_at: dict[Window, float] = {}
        known: dict[tuple[float, int, int | None], tuple[Window, ...]] = {}  # for many of them it is the same
        for each in ended:
            facts = each.reservation.job
            if facts is None:
                continue
            key = (each.since, facts.failures, facts.retry)
            if key not in known:
                known[key] = windows_of(facts, each.since, now)
            if known[key]:
                self._sought[each.reservation.jid] = _Sought(each.since, facts, known[key])
        joined = merged(window for windows in known.values() for window in windows)
        self._within = {one: whole for whole, group in joined.items() for one in group}
        self._unfound: dict[Window, set[str]] = {whole: set() for whole in joined}
        for jid, sought in self._sought.items():
            for window in sought.windows:
                self._unfound[self._within[window]].add(jid)

    @property
    def windows(self) -> Sequence[Window]:
        """What must be read."""
        return list(self._unfound)

    def over(self, window: Window) -> bool:
        """Tell whether all jobs that may stand in ``window`` have been found."""
        return not self._unfound[window]

    def saw(self, window: Window, member: bytes, score: float) -> None:
        """Take in one entry of ``window``.

        Raises:
            ValueError: It is not a job. The text holds nothing of the entry.
        """
        entry = _decode(member)
        jid, failure = entry.jid[:MAX_ID], entry.failure
        sought = self._sought.get(jid)
        # One of an earlier failure, or of another job under the same id, is not what is looked for.
        if sought is None or failure is None or failure.retry_count != sought.facts.failures:
            return
        if not any(each.set == window.set and each.low <= score <= each.high for each in sought.windows):
            return
        at = _failed_at(failure, window.set, score)
        if at is not None and not sought.since - CLOCK_SLACK <= at <= self._now + CLOCK_SLACK:
            at = None
        self._found[jid] = JobFailure(
            error_type=label_value(shown(failure.errtype)),
            message=shown(failure.message),
            at=at,
            expired=failure.errtype == EXPIRED,
            dead=window.set == DEAD,
        )
        for each in sought.windows:
            self._unfound[self._within[each]].discard(jid)

    def read_whole(self, window: Window, at: float) -> None:
        """Take in that every entry of ``window`` has been seen, the last when the server's clock was ``at``."""
        self._read_at[window] = at

    def known(self) -> dict[str, JobFailure | None]:
        """Return by job id how each failed, or ``None`` that it did not, but for those of which neither is known.

        A job that was not found did not fail if all was read where it would stand, before it could be moved on to its
        queue. One that a person took out of there in these seconds is taken for one that did not fail.
        """
        absent = {window: self._shows_absence(window) for window in self._within}
        known: dict[str, JobFailure | None] = dict(self._found)
        for jid, sought in self._sought.items():
            # While it is not known how often it may be tried, it may have failed without a trace.
            if jid not in known and sought.facts.retry is not None and all(absent[each] for each in sought.windows):
                known[jid] = None
        return known

    def _shows_absence(self, window: Window) -> bool:
        at = self._read_at.get(self._within[window])
        return at is not None and at < window.low


def shown(text: str) -> str:
    """Return an error's text as it may be told: printable, short, and without the user and password of any URL."""
    # Where the text was cut in the midst of a URL, its end may be a password that no `@` marks as one.
    cut = len(text.encode("utf-8", "replace")) >= _CUT
    printable = "".join(character if character.isprintable() else " " for character in text[:_CUT])
    return without_credentials(printable, cut=cut)[:MAX_ERROR]


class _Failure(msgspec.Struct, gc=False):
    retry_count: int
    failed_at: str = ""
    message: str = ""
    errtype: str = ""


class _Entry(msgspec.Struct, gc=False):
    """What is read of an entry: neither the job's arguments nor a backtrace."""

    jid: str
    failure: _Failure | None = None


_ENTRY = msgspec.json.Decoder(_Entry)


def _decode(member: bytes) -> _Entry:
    try:
        return _ENTRY.decode(member)
    except UnicodeDecodeError:
        return _decode(readable(member))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)[:160]) from None


def _failed_at(failure: _Failure, where: str, score: float) -> float | None:
    """Return when a job failed, where Faktory tells it: ``failed_at`` is that of the first failure for ever."""
    if where == DEAD:
        return score - DEAD_SECONDS
    if failure.retry_count > 0:
        return None
    try:
        return parse_time(failure.failed_at)
    except ValueError:
        return None
