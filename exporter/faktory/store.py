"""Faktory's Redis, read-only: queues, sets, totals and the reservations in ``working``.

Nothing here can hold Redis up: sets are read in pages of about 128 KiB with a pause between them, lists by length and
their oldest element, and only commands that stand in :data:`exporter.faktory.redis_link.ALLOWED` are sent.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from redis.exceptions import ResponseError

from exporter.faktory.errors import FaktoryError
from exporter.faktory.failures import Search, Window
from exporter.faktory.info import SETS
from exporter.faktory.redis_link import Answer, Command, RedisAddress, RedisLink, score_text
from exporter.faktory.roll import Roll
from exporter.faktory.times import parse_time
from exporter.faktory.working import Shared, decode_reservation
from exporter.model import Ended, Failure, JobFailure, Queue, Reason, Reservation
from exporter.secret import Secret
from exporter.strides import strides

PAGE_BYTES: Final = 128 * 1024
"""About how much is asked for at a time."""

MAX_PAGE: Final = 1000
"""Most members of a set that are asked for at a time."""

MAX_PIPELINE: Final = 200
"""Most commands that are sent at a time."""

MAX_LOOKED: Final = 5000
"""Most entries of ``retries`` and ``dead`` that are looked at for the jobs of one poll: a second of a bad storm."""

FAILURES_DEADLINE: Final = 5.0
"""Seconds for all that is looked at for them."""

_PREFIXED: Final = (1, 10)
"""The version since which a queue's list is at ``q:<name>``; before, at ``<name>``."""


class StoreFacts(msgspec.Struct, frozen=True):
    """What one read of Redis tells. A key of the wrong type leaves its fact out, or ``None``; the rest stands."""

    now: float
    """Redis's clock, in Unix seconds."""
    queues: Mapping[str, Queue] | None
    """By label value; queues whose names are equal after the cut are added up."""
    new_names: frozenset[str] | None
    """Label values of the queues first seen in this read; ``None`` in the first read, when that is not known."""
    sets: Mapping[str, int]
    overdue: Mapping[str, float]
    """Seconds for which the earliest entry of ``scheduled`` and ``retries`` is overdue: 0 when none is."""
    processed: int | None
    failed: int | None
    reservations: Mapping[str, Reservation] | None
    """By job id."""
    undecodable: int = 0
    """How many entries could not be understood and are left out."""
    failure: Failure | None = None
    """What is the matter with them, by the example of one."""


class FailureFacts(msgspec.Struct, frozen=True):
    """What was found of jobs that may have failed."""

    known: Mapping[str, JobFailure | None]
    """By job id; ``None``: it did not fail. Those of which neither is known are left out."""
    failure: Failure | None = None
    """What went wrong; what is known stands all the same."""


class Store:
    """Reads one Faktory's Redis. Remembers the last read to decode only what is new. For one task at a time."""

    def __init__(
        self,
        url: str,
        password: Secret | None = None,
        ca_file: Path | None = None,
        *,
        timeout: float = 2.0,
        facts: bool = False,
    ) -> None:
        """``timeout``: seconds for each round trip. ``facts``: reservations carry what their jobs tell of themselves.

        Raises:
            ValueError: ``url`` is none of a Redis.
        """
        self._link = RedisLink(RedisAddress.parse(url, password), ca_file=ca_file, timeout=timeout)
        self._facts = facts
        self._shared = Shared()
        self._names: frozenset[int] | None = None
        self._known = Roll()  # by the hash of an entry and its score
        self._found: dict[str, Reservation] = {}
        self._working_pace = _Pace(MAX_PAGE)
        self._oldest_pace = _Pace(MAX_PIPELINE)
        self._failures_pace = _Pace(MAX_PAGE)

    async def read(self, now_hint: float | None = None, version: tuple[int, ...] | None = None) -> StoreFacts:
        """Read everything once. ``now_hint`` is the server's clock, if it has told it, else Redis's own is taken.

        ``version`` tells where queues are kept; while it is not known, both places are read and added up.

        Raises:
            FaktoryError: Redis cannot be reached or read.
        """
        problems = _Problems(self._link)
        now = await self._read_time()
        sets, processed, failed = await self._read_totals(problems)
        at = now if now_hint is None else now_hint
        overdue = await self._read_overdue(at, problems)
        queues, new_names = await self._read_queues(at, version, problems)
        reservations = await self._read_working(problems)
        return StoreFacts(
            now=now,
            queues=queues,
            new_names=new_names,
            sets=sets,
            overdue=overdue,
            processed=processed,
            failed=failed,
            reservations=reservations,
            undecodable=problems.count,
            failure=problems.failure,
        )

    async def failures(self, ended: Sequence[Ended], clock: Callable[[], float]) -> FailureFacts:
        """Look for the jobs of ``ended`` where they stand if they failed; ``clock`` is the server's.

        No more than :data:`MAX_LOOKED` entries are looked at, and none but those that may be theirs.
        """
        search = Search(ended, clock())
        problems = _Problems(self._link)
        failure: Failure | None = None
        try:
            async with asyncio.timeout(FAILURES_DEADLINE):
                left = MAX_LOOKED
                for window in search.windows:
                    left = await self._look(search, window, left, clock, problems)
        except FaktoryError as error:
            failure = error.failure
        except TimeoutError:
            told = f"looking for failed jobs took longer than {FAILURES_DEADLINE:g} s: how the rest ended is not known"
            failure = Failure(Reason.TIMEOUT, f"{self._link.where}: {told}")
        return FailureFacts(search.known(), failure or problems.failure)

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        await self._link.close()

    async def _read_time(self) -> float:
        # Asked first and alone: what is no Redis shows it by its answer.
        (answer,) = await self._link.ask(("TIME",))
        match answer:
            case [bytes(seconds), bytes(micros)] if seconds.isdigit() and micros.isdigit():
                return int(seconds) + int(micros) / 1e6
            case ResponseError():
                raise FaktoryError(Reason.SERVER, self._link.problem(answer, "TIME"))
        await self._link.close()
        raise FaktoryError(
            Reason.PROTOCOL, f"{self._link.where} did not tell the time as a Redis does: is the address right?"
        )

    async def _read_totals(self, problems: _Problems) -> tuple[dict[str, int], int | None, int | None]:
        totals, *sizes = await self._link.ask(("MGET", "processed", "failures"), *(("ZCARD", name) for name in SETS))
        known = {name: size for name, size in zip(SETS, sizes, strict=True) if problems.none_in(size, f"ZCARD {name}")}
        if not problems.none_in(totals, "MGET"):
            return known, None, None
        processed, failed = totals
        return known, _total(processed), _total(failed)

    async def _read_overdue(self, now: float, problems: _Problems) -> dict[str, float]:
        names = ("scheduled", "retries")
        answers = await self._link.ask(
            *(("ZRANGEBYSCORE", name, "-inf", score_text(now), "WITHSCORES", "LIMIT", 0, 1) for name in names)
        )
        overdue: dict[str, float] = {}
        for name, answer in zip(names, answers, strict=True):
            if problems.none_in(answer, f"ZRANGEBYSCORE {name}"):
                late = now - float(answer[1]) if answer else 0.0
                if math.isfinite(late):
                    overdue[name] = late
        return overdue

    async def _read_queues(
        self, now: float, version: tuple[int, ...] | None, problems: _Problems
    ) -> tuple[dict[str, Queue] | None, frozenset[str] | None]:
        paused = await self._read_paused(problems)
        queues: dict[str, Queue] = {}
        seen: set[int] = set()  # hashes, for hostile names may be long
        new: set[str] = set()
        cursor = 0
        while True:
            (answer,) = await self._scan("queues", cursor)
            if not problems.none_in(answer, "SSCAN queues"):
                return None, None
            page: list[bytes]
            cursor, page = int(answer[0]), answer[1]
            names = [name for name in dict.fromkeys(page) if hash(name) not in seen]
            for name, (jobs, latency) in zip(names, await self._read_lists(names, now, version, problems), strict=True):
                key = hash(name)
                label = self._shared.label(name.decode("utf-8", "replace"))
                queue = Queue(jobs=jobs, latency=latency, paused=None if paused is None else key in paused)
                queues[label] = queues[label].joined(queue) if label in queues else queue
                if self._names is not None and key not in self._names:
                    new.add(label)
                seen.add(key)
            if cursor == 0:
                break
            await asyncio.sleep(0)
        first = self._names is None
        self._names = frozenset(seen)
        return queues, None if first else frozenset(new)

    async def _read_paused(self, problems: _Problems) -> set[int] | None:
        paused: set[int] = set()
        cursor = 0
        while True:
            (answer,) = await self._scan("paused", cursor)
            if not problems.none_in(answer, "SSCAN paused"):
                return None
            paused.update(map(hash, answer[1]))
            cursor = int(answer[0])
            if cursor == 0:
                return paused

    async def _scan(self, key: str, cursor: int) -> list[Answer]:
        """Return the cursor of the next page of a set, and one page of it, which may repeat members."""
        return await self._link.ask(("SSCAN", key, cursor, "COUNT", MAX_PAGE))

    async def _read_lists(
        self, names: Sequence[bytes], now: float, version: tuple[int, ...] | None, problems: _Problems
    ) -> list[tuple[int | None, float | None]]:
        """Return size and latency of each queue."""
        keys = [_keys(name, version) for name in names]
        flat = [key for of_one in keys for key in of_one]
        sizes: dict[bytes, int] = {}
        for chunk in _chunks(flat, MAX_PIPELINE):
            answers = await self._link.ask(*(("LLEN", key) for key in chunk))
            sizes.update(
                (key, size) for key, size in zip(chunk, answers, strict=True) if problems.none_in(size, "LLEN", key)
            )
        latencies: dict[bytes, float | None] = dict.fromkeys(sizes, 0.0)
        filled = [key for key, size in sizes.items() if size > 0]
        start = 0
        while start < len(filled):
            chunk = filled[start : start + self._oldest_pace.size]
            answers = await self._link.ask(*(("LINDEX", key, -1) for key in chunk))
            for key, job in zip(chunk, answers, strict=True):
                latencies[key] = self._latency(key, job, now, problems)
            self._oldest_pace.saw(len(job) for job in answers if isinstance(job, bytes))
            start += len(chunk)
        return [_added([sizes.get(key) for key in each], [latencies.get(key) for key in each]) for each in keys]

    def _latency(self, key: bytes, job: Answer, now: float, problems: _Problems) -> float | None:
        if job is None:  # emptied since its length was asked for
            return 0.0
        if not problems.none_in(job, "LINDEX", key):
            return None
        try:
            return max(0.0, now - parse_time(_QUEUED.decode(job).enqueued_at))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            problems.add(f"{self._link.where}: the oldest job of {_shown(key)} tells no time of enqueuing: {error}")
            return None

    async def _read_working(self, problems: _Problems) -> dict[str, Reservation] | None:
        known = self._known
        known.begin()
        arrived: dict[int, Reservation] = {}
        broken: set[int] = set()
        walk = _Walk("working", b"-inf", "+inf", self._working_pace)
        while not walk.over:
            (page,) = await self._link.ask(walk.command())
            if not problems.none_in(page, "ZRANGEBYSCORE working"):
                return None
            members, scores = page[::2], page[1::2]
            # Of most entries no more than this hash is ever looked at: they are as they were.
            keys = list(map(hash, zip(members, scores, strict=True)))
            for index in known.strangers(keys):
                key = keys[index]
                # It may be new to this read and yet not to this loop: a page begins with what ended the one before.
                if key not in arrived and key not in broken:
                    try:
                        arrived[key] = decode_reservation(
                            members[index], float(scores[index]), self._shared, facts=self._facts
                        )
                    except ValueError as error:
                        broken.add(key)
                        problems.add(f"{self._link.where}: an entry of `working` is not a reservation: {error}")
            walk.saw(members, scores)
            await asyncio.sleep(0)
        return await self._update(arrived)

    async def _update(self, arrived: Mapping[int, Reservation]) -> dict[str, Reservation]:
        """Take in what went and came since the last read; return all by job id."""
        gone = list(self._known.missing())
        if not (gone or arrived):
            return self._found
        # A copy, for the one before has been handed out; and none while it is not done, should it be cut short.
        known, found, self._found = self._known, self._found.copy(), {}
        for entries in strides(gone):
            for key, entry in entries:
                known.remove(key)
                if found.get(entry.jid) is entry:
                    del found[entry.jid]
            await asyncio.sleep(0)
        for entries in strides(arrived.items()):
            for key, entry in entries:
                known.add(key, entry)
                found[entry.jid] = entry
            await asyncio.sleep(0)
        if len(found) != len(known):  # a job is reserved more than once
            found = await self._longest_by_job()
        self._found = found
        return found

    async def _longest_by_job(self) -> dict[str, Reservation]:
        found: dict[str, Reservation] = {}
        for entries in strides(self._known.entries()):
            for entry in entries:
                other = found.get(entry.jid)
                if other is None or entry.expires_at >= other.expires_at:
                    found[entry.jid] = entry
            await asyncio.sleep(0)
        return found

    async def _look(
        self, search: Search, window: Window, left: int, clock: Callable[[], float], problems: _Problems
    ) -> int:
        """Read one window, at most ``left`` entries of it; return how many are left for the next."""
        walk = _Walk(window.set, score_text(window.low), score_text(window.high), self._failures_pace)
        understood = True
        while left > 0 and not (walk.over or search.over(window)):
            (page,) = await self._link.ask(walk.command(left))
            if not problems.none_in(page, f"ZRANGEBYSCORE {window.set}"):
                return left
            members, scores = page[::2], page[1::2]
            for member, score in zip(members, scores, strict=True):
                try:
                    search.saw(window, member, float(score))
                except ValueError as error:
                    understood = False
                    problems.add(f"{self._link.where}: an entry of `{window.set}` is not a job: {error}")
            walk.saw(members, scores)
            left -= max(1, len(members))  # a question alone is not free either
            await asyncio.sleep(0)
        if walk.over and understood:
            search.read_whole(window, clock())
        return left


class _Walk:
    """One way through a sorted set by score, in pages."""

    def __init__(self, key: str, low: str | bytes, high: str, pace: _Pace) -> None:
        self.over = False
        self._key = key
        self._cursor = low
        self._high = high
        self._pace = pace
        self._offset = 0
        self._asked = 0

    def command(self, most: int = MAX_PAGE) -> Command:
        """Return what asks for the next page, of at most so many entries."""
        self._asked = min(self._pace.size, most)
        return (
            "ZRANGEBYSCORE", self._key, self._cursor, self._high, "WITHSCORES", "LIMIT", self._offset, self._asked,
        )  # fmt: skip

    def saw(self, members: Sequence[bytes], scores: Sequence[bytes]) -> None:
        """Take in the page that was answered."""
        if len(members) < self._asked:
            self.over = True
            return
        self._pace.saw(map(len, members))
        # The next page begins at the score where this one ends, and repeats what had that score: entries that
        # come and go meanwhile cannot make it skip any. Only where a whole page has one score it must count.
        whole = scores[0] == scores[-1]
        self._offset = (self._offset if self._cursor == scores[-1] else 0) + self._asked if whole else 0
        self._cursor = scores[-1]


class _Pace:
    """How many entries to ask for at a time, so that they make about :data:`PAGE_BYTES`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = 16

    def saw(self, sizes: Iterable[int]) -> None:
        """Learn how many bytes those just read have; grow by at most four times, for the next may be larger."""
        known = list(sizes)
        mean = sum(known) / len(known) if known else 1.0
        self.size = max(4, min(self._most, self.size * 4, int(PAGE_BYTES / max(mean, 1.0))))


class _Problems:
    """Counts what could not be understood, and remembers the first."""

    def __init__(self, link: RedisLink) -> None:
        self.count = 0
        self._link = link
        self._first = ""

    def add(self, message: str) -> None:
        """Count one."""
        self.count += 1
        self._first = self._first or message

    def none_in(self, answer: Answer, asked: str, key: bytes = b"") -> bool:
        """Return whether ``answer`` is no error; count it if it is."""
        if isinstance(answer, ResponseError):
            self.add(self._link.problem(answer, f"{asked} {_shown(key)}" if key else asked))
            return False
        return True

    @property
    def failure(self) -> Failure | None:
        """What to tell of them."""
        if not self.count:
            return None
        more = f" (and {self.count - 1} more like it or worse)" if self.count > 1 else ""
        return Failure(reason=Reason.DECODE, message=self._first + more)


class _Queued(msgspec.Struct):
    enqueued_at: str


_QUEUED = msgspec.json.Decoder(_Queued)


def _keys(name: bytes, version: tuple[int, ...] | None) -> tuple[bytes, ...]:
    if version is None:
        return b"q:" + name, name
    return (b"q:" + name,) if version >= _PREFIXED else (name,)


def _added(sizes: Sequence[int | None], latencies: Sequence[float | None]) -> tuple[int | None, float | None]:
    known = [size for size in sizes if size is not None]
    waited = [latency for size, latency in zip(sizes, latencies, strict=True) if size is not None]
    if not known:
        return None, None
    return sum(known), None if None in waited else max(latency for latency in waited if latency is not None)


def _total(value: bytes | None) -> int | None:
    """Return a counter's value; an absent one has never been raised. A text that is no number is not known."""
    if value is None:
        return 0
    return int(value) if value.isdigit() and len(value) < 20 else None


def _shown(key: bytes) -> str:
    return repr(key[:80])[1:]


def _chunks(items: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    return (items[start : start + size] for start in range(0, len(items), size))
