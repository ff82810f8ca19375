"""When the server's process ended and what was its last word: each end once, by whatever it shows.

An end shows in several ways, and none of them always: the count of restarts rose, the process is another one, the port
refuses, its parent tells how it exited, the log tells a start. They come in any order, for the log lags behind, and a
poll sees one restart where there were three. So every end is remembered for a while, and what can be of an end that is
known is no other one:

1. A crash's text is the last word of a life. It waits until that life is known to have ended; then it is a crash.
   What goes on living after it, for two polls and ``OUTLIVED``, has survived it: a panic that somebody recovered.
2. A start in the log ends the life before it, and so parts crashes that came between two polls. Where no start stands
   between two texts, they are of two lives if they are ``TOGETHER`` apart: no process outlives the first for so long.
3. An end without a text waits for one: ``GRACE``, and until nothing is left to be read. Only an end that more than a
   line of the log tells of is then told as one that nothing explains: a start, and the connection that was cut.
4. Who was told to stop, or exits as one that was, has not crashed. What it printed before, it has survived.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from math import isfinite

import msgspec

from exporter.model import (
    BootVerdict,
    Exited,
    Incident,
    IncidentKind,
    LogEntry,
    LogEvent,
    LogFacts,
    Noticed,
    Observation,
    ProcessFacts,
    Reason,
)

GRACE = 15.0
"""Seconds that a text may come later than the end that it tells of."""

LATEST = 60.0
"""Seconds after which nothing is waited for any more, though there always is more to be read, or nothing is read."""

OUTLIVED = 30.0
"""Seconds and two polls for which a process lives on that has survived what it printed."""

UPTIME_TOLD = 90.0
"""Seconds within which the server tells its uptime, if contact was lost: some restarts show in nothing else."""

OUTLIVED_AT_MOST = 180.0
"""The same, however often contact is lost."""

TOGETHER = 2.0
"""Seconds within which two texts may be of one death."""

FORGOTTEN = 120.0
"""Seconds for which an end is remembered once the server is back."""

PENDING = 50
"""Most texts that wait for their end."""

ENDS = 100
"""Most ends that are remembered."""

CUT_BEFORE = 3
"""Polls before a start in the log in which contact may have been lost by the end that it tells of."""

LOSSES = 5
"""How many times that contact was lost are remembered, for starts that the log tells later."""

_SLACK = 5.0  # between the clocks of the server, of its log and of the kernel
_TOLD_TWICE = 10.0  # the kernel tells that it kills, and then the parent that its child was killed
_START_MOVES = 2.0  # the kernel counts from its own start, which it knows by a clock that may be set

_SIGINT, _SIGKILL, _SIGTERM = 2, 9, 15
_BY_SIGNAL = 128  # what a shell adds to the number of the signal


class Text(msgspec.Struct):
    """What reads like the last word of a process, while it is not known to have ended."""

    incident: Incident
    at: float
    number: int
    seen: float
    polls: int = 0
    due: float = 0.0


class End(msgspec.Struct):
    """One end of the server's process."""

    number: int
    """Of the observation that told it first."""
    at: float
    """When it was, as far as that is known."""
    until: float
    """When it was at the latest, by the server's clock."""
    seen: float
    waits: bool = False
    """Whether it may still become known why."""
    sure: bool = True
    """Whether more than a line of the log tells of it."""
    exit: Exited | None = None
    started: float | None = None
    """When the next life started, by the log."""
    polls: int = 0
    back: float | None = None
    """When the server was reached again, by its clock."""
    back_seen: float = 0.0


class Loss(msgspec.Struct, frozen=True):
    """A time in which contact was lost: it was there at ``since``, and again at ``until``."""

    number: int
    since: float
    until: float


class DeathsMemory(msgspec.Struct, frozen=True):
    """What must outlive Forewarn's own restart, so that no death is told twice and none is lost."""

    number: int = 0
    clock: float = 0.0
    now: float | None = None
    restarts: int | None = None
    reached_at: float | None = None
    since: int = 0
    cut: int | None = None
    asked_at: float | None = None
    pid: int | None = None
    started_at: float | None = None
    process_since: int = 0
    stopping: bool = False
    died_at: float | None = None
    texts: tuple[Text, ...] = ()
    ends: tuple[End, ...] = ()
    losses: tuple[Loss, ...] = ()


class Deaths:
    """Judges the texts and the ends of one server's process.

    Observations are numbered to tell what came first: what is read of the log has its own clock, or none.
    """

    def __init__(self, memory: DeathsMemory | None = None, *, resumed: bool = False) -> None:
        """``resumed``: the output is read from where the last run of Forewarn left it, so that nothing is missed."""
        memory = memory or DeathsMemory()
        self._number = memory.number
        self._clock = memory.clock  # seconds of observation, which never go back
        self._now = memory.now
        self._restarts = memory.restarts
        self._reached_at = memory.reached_at
        self._since = memory.since  # ends told up to this observation belong to restarts that showed
        self._cut = memory.cut  # the same, while one may have been missed
        self._asked_at = memory.asked_at
        self._pid, self._started_at = memory.pid, memory.started_at
        self._process_since = memory.process_since
        self._stopping = memory.stopping
        self._died_at = memory.died_at  # of the last text of this life that was a crash's
        self._texts = [msgspec.structs.replace(it) for it in memory.texts]
        self._ends = [msgspec.structs.replace(it) for it in memory.ends]
        self._losses = list(memory.losses)
        self._resumed = resumed
        self._in_contact = False  # whether the observation before, of this run, reached the server
        self._watched = False  # whether this run has reached the server and read its output
        self._read_since: float | None = None
        self._unread_since: float | None = None
        self._settled: list[Incident] = []

    def advance(self, observation: Observation, boot: BootVerdict) -> list[Incident]:
        """Take one observation in and return what is settled now, each with the time at which it was."""
        now, log = observation.now, observation.log
        self._number += 1
        self._clock += 0.0 if self._now is None else max(0.0, now - self._now)
        self._now = now
        self._settled = []
        self._note_reading(log)
        for entry in () if log is None else log.entries:
            self._read(entry, now)
        renewed = self._renewed(observation, boot)
        refuses = _refuses(observation)
        if refuses:
            self._crash(self._texts, ())
        self._note_loss(observation, lost=renewed or refuses)
        self._believe_starts()
        self._wait(observation)
        self._note_contact(observation, renewed=renewed)
        return self._settled

    def memory(self) -> DeathsMemory:
        """Return what the next run of Forewarn needs."""
        return DeathsMemory(
            number=self._number,
            clock=self._clock,
            now=self._now,
            restarts=self._restarts,
            reached_at=self._reached_at,
            since=self._since,
            cut=self._cut,
            asked_at=self._asked_at,
            pid=self._pid,
            started_at=self._started_at,
            process_since=self._process_since,
            stopping=self._stopping,
            died_at=self._died_at,
            texts=tuple(msgspec.structs.replace(it) for it in self._texts),
            ends=tuple(msgspec.structs.replace(it) for it in self._ends),
            losses=tuple(self._losses),
        )

    # --- what the log tells -----------------------------------------------------------------------------------------

    def _read(self, entry: LogEntry, now: float) -> None:
        at = now if entry.at is None or not isfinite(entry.at) else entry.at
        match entry:
            case Incident(crash=True):
                self._take_text(entry, at)
            case Incident():
                self._settle(entry, at)
            case Noticed(event=LogEvent.STARTED):
                self._start(at)
            case Noticed(event=LogEvent.STOPPING):
                self._stop()
            case Exited():
                self._exit(entry, at)
            case _:
                pass

    def _take_text(self, incident: Incident, at: float) -> None:
        if self._died_at is not None and abs(at - self._died_at) < TOGETHER:
            return  # another goroutine's word in the same death
        text = Text(incident, at, self._number, self._clock)
        waiting = (it for it in self._ends if it.waits and (it.sure or it.started is None))
        end = next((it for it in waiting if _may_be_of(text, it)), None)
        if end is not None:
            end.waits = False
            self._settle(incident, at)
            self._died_at = at
            return
        self._texts.append(text)
        if len(self._texts) > PENDING:
            self._survived([self._texts[0]])

    def _start(self, at: float) -> None:
        self._crash(self._texts, ())
        known = [it for it in self._ends if not it.waits and it.started is None and at <= _latest(it.back)]
        waiting = next((it for it in self._ends if it.waits and it.started is None), None)
        number = self._number_at(at)
        if known:
            for end in known:
                end.started, end.number = at, number if end.number == self._number else end.number
        elif waiting is not None:
            waiting.started = at
        elif self._stopping:
            self._add(at, started=at)
        else:
            self._add(at, waits=self._reached_at is not None and self._follows, sure=False, started=at)
        self._stopping, self._died_at = False, None

    def _stop(self) -> None:
        self._survived(self._texts)
        waiting = next((it for it in self._ends if it.waits and it.started is None and it.exit is None), None)
        if waiting is not None:
            waiting.waits = False
        else:
            self._stopping = True

    def _exit(self, exited: Exited, at: float) -> None:
        last = next((it for it in reversed(self._ends) if it.exit is not None), None)
        if last is not None and _told_twice(last, exited, at):
            last.exit = exited if exited.out_of_memory else last.exit
            return
        asked_for = _asked_for(exited)
        if asked_for:
            self._survived(self._texts)
        end = self._crash(self._texts, [it for it in self._ends if it.waits and it.exit is None])
        if end is not None:
            end.exit, end.at, end.number = exited, at, max(end.number, self._number_at(at))
        elif (known := next((it for it in self._ends if _is_its_exit(it, at)), None)) is not None:
            known.exit = exited
        elif (waiting := next((it for it in self._ends if it.waits and it.exit is None), None)) is not None:
            waiting.exit, waiting.at, waiting.sure, waiting.waits = exited, at, True, not asked_for
        else:
            stopped = asked_for or (self._stopping and not exited.out_of_memory)
            self._add(at, waits=not stopped, exited=exited)
        self._stopping = False

    # --- what shows outside the log ---------------------------------------------------------------------------------

    def _renewed(self, observation: Observation, boot: BootVerdict) -> bool:
        """Take in that the process is a new one, if it shows. Return whether it does."""
        rose = self._restarts is not None and boot.restarts > self._restarts
        self._restarts = boot.restarts
        changed, process_since = self._changed(observation.process)
        if not rose and not changed:
            return False
        since = self._since
        # Only the uptime, which is asked for rarely, told of a start that is older than the last contact.
        late = boot.started_at if rose and not changed else None
        if late is None or self._reached_at is None or late > self._reached_at:
            late = None
        elif self._cut is not None:
            since = self._cut
        if changed:
            since = max(since, process_since) if rose else process_since
        self._renew(since, observation.now, started=late, sure=rose)
        return True

    def _changed(self, process: ProcessFacts | None) -> tuple[bool, int]:
        since = self._process_since
        if process is None:
            return False, since
        known = self._pid is not None
        moved = (
            self._started_at is not None
            and process.started_at is not None
            and abs(process.started_at - self._started_at) > _START_MOVES
        )
        changed = known and (process.pid != self._pid or moved)
        self._pid = process.pid
        if not known or changed or self._started_at is None:
            self._started_at = process.started_at
        self._process_since = self._number if changed or not known else self._number - 1
        return changed, since

    def _renew(self, since: int, now: float, *, started: float | None, sure: bool) -> None:
        """Take in that the process was restarted, in which ends after observation ``since`` may show.

        ``sure``: its count of restarts tells it. That another process has the port may have another reason.
        """
        its = [it for it in self._ends if it.number > since]
        texts = [it for it in self._texts if started is None or it.at <= started + GRACE]
        # The log is read last: what is later than the rest of the observation is of the life that was seen in it, if
        # there is anything else. If there is not, it has another clock.
        earlier = [it for it in its if it.number <= self._number]
        said = [it for it in texts if it.number < self._number or it.at <= now]
        if earlier or said:
            its, texts = earlier, said
        waiting = [it for it in its if it.waits]
        if any(it.started is not None for it in its):
            # The log tells the starts, and these texts came after the last: they are of the life that goes on.
            texts = _matched(texts, waiting)
        self._crash(texts, waiting)
        for end in its:
            end.sure, end.number = end.sure or sure, min(end.number, self._number)
        if not texts and not its:
            self._add(now, waits=self._follows and not self._stopping, sure=sure)
            self._stopping = False

    def _note_loss(self, observation: Observation, *, lost: bool) -> None:
        since = observation.now if self._reached_at is None else self._reached_at
        goes_on = bool(self._losses) and self._losses[-1].since == since
        if lost or (observation.interrupted and (self._in_contact or goes_on)):
            self._losses = [*self._losses[1 - LOSSES :], Loss(self._number, since, observation.now)]

    def _believe_starts(self) -> None:
        """Take a start that the log tells for an end where contact was lost at about the same time."""
        for end in self._ends:
            if end.started is None or end.sure or not end.waits:
                continue
            for loss in self._losses:
                near = end.number - CUT_BEFORE <= loss.number <= end.number + 1
                if near or loss.since < end.started <= loss.until:
                    end.sure, end.number = True, min(end.number, loss.number)

    @property
    def _follows(self) -> bool:
        """Whether what the server printed before its end can have been read."""
        return self._resumed or self._watched

    # --- what becomes of them ---------------------------------------------------------------------------------------

    def _crash(self, texts: Sequence[Text], waiting: Sequence[End]) -> End | None:
        """Count ``texts``, whose process has ended, each with its end: one of ``waiting`` if it may be of it.

        Return the end of the last.
        """
        texts = list(texts)
        self._texts = [it for it in self._texts if it not in texts]
        if texts:
            self._stopping = False
        left = list(waiting)
        end = None
        for text in texts:
            if self._died_at is not None and abs(text.at - self._died_at) < TOGETHER:
                continue
            self._died_at = text.at
            self._settle(text.incident, text.at)
            end = next((it for it in left if _may_be_of(text, it)), None)
            if end is None:
                end = self._add(text.at)
            else:
                left.remove(end)
                end.waits, end.sure = False, True
        return end

    def _survived(self, texts: Sequence[Text]) -> None:
        texts = list(texts)
        self._texts = [it for it in self._texts if it not in texts]
        for text in texts:
            recovered = msgspec.structs.replace(text.incident, kind=IncidentKind.RECOVERED_PANIC)
            self._settle(recovered, text.at)

    def _settle(self, incident: Incident, at: float) -> None:
        self._settled.append(msgspec.structs.replace(incident, at=at))

    def _add(
        self,
        at: float,
        *,
        waits: bool = False,
        sure: bool = True,
        exited: Exited | None = None,
        started: float | None = None,
    ) -> End:
        until = at if self._now is None else self._now
        end = End(self._number_at(at), at, until, self._clock, waits, sure, exited, started)
        if len(self._ends) >= ENDS:
            self._ends.remove(next((it for it in self._ends if not it.waits), self._ends[0]))
        self._ends.append(end)
        return end

    def _number_at(self, at: float) -> int:
        """Return in which observation it shows outside the log what the log says to have been at this time."""
        return self._number if self._now is None or at <= self._now else self._number + 1

    # --- what time tells --------------------------------------------------------------------------------------------

    def _note_reading(self, log: LogFacts | None) -> None:
        if log is None or log.dropped:
            self._read_since = None
        elif self._read_since is None:
            self._read_since = self._clock
        if log is not None:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = self._clock

    def _wait(self, observation: Observation) -> None:
        log = observation.log
        reading = log is None or log.reading
        for text in list(self._texts):
            text.polls += text.number < self._number
            if text.polls == 2:
                text.due = max(text.due, self._clock + OUTLIVED)
            if observation.interrupted:
                text.due = max(text.due, min(self._clock + UPTIME_TOLD, text.seen + OUTLIVED_AT_MOST))
            outlived = text.polls >= 2 and self._clock >= text.due
            if outlived and observation.reached and self._waited(text.due - GRACE, reading=reading):
                self._survived([text])
        for end in self._ends:
            end.polls += end.number < self._number
            if observation.reached and end.back is None and end.number < self._number:
                end.back, end.back_seen = observation.now, self._clock
            if end.waits and end.sure and self._explains(end, reading=reading):
                end.waits = False
                self._settle(_without_text(end), end.at)
        nobody_reads = self._unread_since is not None and self._clock - self._unread_since >= LATEST
        for end in self._ends:
            end.waits = end.waits and not nobody_reads
        self._ends = [it for it in self._ends if not self._is_forgotten(it)]

    def _explains(self, end: End, *, reading: bool) -> bool:
        """Tell whether it can be said that no text tells of ``end``."""
        if end.exit is not None and not reading:
            return True  # its parent tells it after all that it printed
        return end.polls >= 2 and self._waited(end.seen, reading=reading)

    def _waited(self, since: float, *, reading: bool) -> bool:
        """Tell whether the output has been read for long enough since then."""
        if self._read_since is None:
            return False
        waited = self._clock - max(since, self._read_since)
        return waited >= (LATEST if reading else GRACE)

    def _is_forgotten(self, end: End) -> bool:
        if (end.waits and end.sure) or end.back is None:
            return False
        return self._clock - end.back_seen >= FORGOTTEN

    def _note_contact(self, observation: Observation, *, renewed: bool) -> None:
        if self._cut is None and (observation.interrupted or not observation.reached):
            self._cut = self._since
        details = observation.details
        if details is not None and details.uptime is not None and details.asked_at != self._asked_at:
            self._asked_at, self._cut = details.asked_at, None
        self._in_contact = observation.reached
        if observation.reached:
            # A server that was reached may have ended later in the same poll: that belongs to the next restart.
            self._since = self._number if renewed or observation.interrupted else self._number - 1
            self._reached_at = observation.now
            self._watched = self._watched or observation.log is not None


def _refuses(observation: Observation) -> bool:
    """Tell whether nothing listens at the server's port: one that hangs lets us wait instead."""
    reasons = {run.failure.reason for run in observation.runs if run.failure is not None}
    return not observation.reached and Reason.UNREACHABLE in reasons and Reason.TIMEOUT not in reasons


def _may_be_of(text: Text, end: End) -> bool:
    """Tell whether ``text`` may be of the life that ended so, although it was read after the start of the next.

    In one observation of several files their order says nothing. Who is killed has no last word.
    """
    if end.exit is not None and (end.exit.out_of_memory or _is_kill(end.exit)):
        return False
    return end.started is None or end.number == text.number or text.at <= end.started + 1.0


def _matched(texts: Sequence[Text], ends: Sequence[End]) -> list[Text]:
    """Return those of ``texts`` that may be of one of ``ends``, each of another."""
    left, matched = list(ends), []
    for text in texts:
        end = next((it for it in left if _may_be_of(text, it)), None)
        if end is not None:
            left.remove(end)
            matched.append(text)
    return matched


def _is_its_exit(end: End, at: float) -> bool:
    """Tell whether an exit at this time is that of ``end``, of which it is known why."""
    if end.waits or end.exit is not None:
        return False
    if end.started is None:
        return at <= end.until + _SLACK
    # A log that tells whole seconds cuts off the rest: what was before the start may seem to be after it.
    cut_off = 1.0 if end.started.is_integer() else 0.0
    return at <= min(end.until + _SLACK, end.started + cut_off)


def _latest(back: float | None) -> float:
    """Return when the log may tell the start at the latest, of a life that was reached by then."""
    return float("inf") if back is None else back + _SLACK


def _asked_for(exited: Exited) -> bool:
    """Tell whether a process exits so that was told to stop."""
    asking = {_SIGTERM, _SIGINT}
    return exited.signal in asking or exited.status in {0, *(_BY_SIGNAL + it for it in asking)}


def _told_twice(last: End, exited: Exited, at: float) -> bool:
    """Tell whether one of two exits is the kernel's word of a kill and the other the parent's word of the same."""
    known = last.exit
    if known is None or last.started is not None or abs(at - last.at) > _TOLD_TWICE:
        return False
    both = (known, exited)
    return known.out_of_memory != exited.out_of_memory and all(it.out_of_memory or _is_kill(it) for it in both)


def _is_kill(exited: Exited) -> bool:
    return exited.signal == _SIGKILL or exited.status == _BY_SIGNAL + _SIGKILL


def _without_text(end: End) -> Incident:
    """Return what is told of an end that no text tells of."""
    exited = end.exit
    if exited is not None and exited.out_of_memory:
        return _told(
            IncidentKind.OUT_OF_MEMORY,
            "the kernel killed the process: no memory was left",
            "give it more memory, or find what took it: the kernel's log tells how much the process had",
        )
    if exited is not None and _is_kill(exited):
        return _told(
            IncidentKind.KILLED,
            "the process was killed by SIGKILL",
            "who did it stands in no log of the process: look for an out-of-memory kill in the kernel's log, "
            "for a failed liveness probe, for a stop that took too long",
        )
    return _told(IncidentKind.UNEXPLAINED, _how(exited), _HINTS[exited is None])


_HINTS = {
    True: (
        "a kill leaves no word: look into the kernel's log; run it by forewarn exec, or let Forewarn read the journal, "
        "to have its exit status told"
    ),
    False: "its own log just before tells more: a fatal error of the program itself is an ordinary line there",
}


def _how(exited: Exited | None) -> str:
    if exited is None:
        return "the process ended, and nothing that it printed tells why"
    if exited.signal is not None:
        return f"the process was ended by signal {exited.signal}, and printed nothing of a crash"
    if exited.status is not None:
        return f"the process exited with status {exited.status}, and printed nothing of a crash"
    return "the process exited, and printed nothing of a crash"


def _told(kind: IncidentKind, message: str, hint: str) -> Incident:
    group = sha256(f"{kind}:{message}".encode()).hexdigest()[:12]
    return Incident(kind, message, group=group, hint=hint)
