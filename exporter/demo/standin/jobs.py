"""Jobs: where they stand in Redis and how they move, under the same keys and documents as Faktory's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import redis.asyncio
import redis.exceptions

from exporter.demo.standin.documents import (
    NANO,
    DocumentError,
    dump,
    instant,
    parse,
    parse_instant,
    plain,
    read_struct,
    score,
)
from exporter.demo.standin.log import say
from exporter.demo.standin.options import Options

DEFAULT_RETRY = 25
DEFAULT_RESERVATION = 1800
MAX_RESERVATION = 86400
FETCH_WAIT = 2.0
DEAD_SECONDS = 180 * 86400
SORTED = ("scheduled", "retries", "dead", "working")

_QUEUE_NAME = re.compile(r"[a-zA-Z0-9._-]+\Z")
_JOB_FIELDS = {
    "retry": "int", "failure": "client.Failure", "custom": "map[string]interface {}", "jid": "string",
    "queue": "string", "jobtype": "string", "created_at": "string", "enqueued_at": "string", "at": "string",
    "args": "[]interface {}", "reserve_for": "int", "backtrace": "int",
}  # fmt: skip
_OLD_JOB_ORDER = (
    "jid", "queue", "jobtype", "args", "created_at", "enqueued_at", "at", "reserve_for", "retry", "backtrace",
    "failure", "custom",
)  # fmt: skip
_FAILURE_ORDER = ("failed_at", "next_at", "message", "errtype", "backtrace", "retry_count", "remaining")
_OLD_FAILURE_ORDER = ("retry_count", "remaining", "failed_at", "next_at", "message", "errtype", "backtrace")
_REQUIRED = frozenset({"retry", "jid", "queue", "jobtype", "args"})
_TEXTS = frozenset({"jid", "queue", "jobtype"})
_FAIL_FIELDS = {"jid": "string", "message": "string", "errtype": "string", "backtrace": "[]string"}
_OPERATION_FIELDS = {"cmd": "string", "target": "string", "filter": "client.JobFilter"}
_FILTER_FIELDS = {"regexp": "string", "jobtype": "string", "jids": "[]string"}

Job = dict[str, Any]


class CommandError(Exception):
    """What a command is answered with, after ``-ERR``."""


class ServerPanic(Exception):  # noqa: N818
    """Something that the real server does not survive (before 1.10) or answers as an internal error (since)."""


class Reservation(msgspec.Struct):
    """A job that a worker holds."""

    job: Job
    reserved_at: str
    expires_at: str
    wid: str


def read_job(document: Any) -> Job:
    """Take a job out of a document; DocumentError where Faktory would refuse to read it."""
    return read_struct(document, "client.Job", _JOB_FIELDS)


def told_retry(document: Any) -> int | None:
    """Return the number of retries that a pushed document tells, whatever else is wrong with it."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key.lower() == "retry" and type(value) is int:
                return value
    return None


def _first_error_told(answers: list[Any]) -> list[Any]:
    # As Redis said it: what a pipeline raises by itself has words of the client library around it.
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


class Jobs:
    """The state of all jobs. As in Faktory, queue names, paused queues and reservations are in memory too."""

    def __init__(self, store: redis.asyncio.Redis, options: Options) -> None:
        self.store: Any = store  # its commands are typed as perhaps awaitable
        self.options = options
        self.queues: dict[str, None] = {}
        self.paused: list[str] = []
        self.working: dict[str, Reservation] = {}
        self.default_retry = DEFAULT_RETRY
        """What a job gets that tells no ``retry``. A PUSH that tells one changes it for all: so does Faktory."""
        self._waiting: Counter[str] = Counter()
        self._order = tuple(_JOB_FIELDS) if options.version >= (1, 9) else _OLD_JOB_ORDER
        self._failure_order = _FAILURE_ORDER if options.version >= (1, 9) else _OLD_FAILURE_ORDER

    async def load(self) -> None:
        """Learn what an earlier run left in Redis."""
        self.queues = dict.fromkeys(await self.store.smembers("queues"))
        # Before 1.10 a queue may be named as these keys are, and so hide them.
        with contextlib.suppress(redis.exceptions.ResponseError):
            self.paused = list(await self.store.smembers("paused"))
        with contextlib.suppress(redis.exceptions.ResponseError):
            for member in await self.store.zrange("working", 0, -1):
                reservation = self._read_reservation(member)
                if reservation is not None:
                    self.working[reservation.job["jid"]] = reservation

    @staticmethod
    def _read_reservation(member: str) -> Reservation | None:
        try:
            found = read_struct(
                parse(member),
                "manager.Reservation",
                {"job": "client.Job", "reserved_at": "string", "expires_at": "string", "wid": "string"},
            )
            job = read_job(found.get("job"))
        except DocumentError:
            return None
        if not job:
            return None
        texts = {name: found.get(name, "") for name in ("reserved_at", "expires_at", "wid")}
        return Reservation({"jid": ""} | job, **texts)

    def key(self, queue: str) -> str:
        """Return the Redis key of a queue."""
        return self.options.queue_prefix + queue

    def write_job(self, job: Job) -> Job:
        """Return ``job`` in the order and with the omissions of the claimed version."""
        told: Job = {}
        for name in self._order:
            value = job.get(name)
            if name == "failure" and value is not None:
                failure = {"failed_at": "", "retry_count": 0, "remaining": 0} | value
                kept = ("failed_at", "retry_count", "remaining")
                told[name] = {key: failure[key] for key in self._failure_order if key in kept or failure.get(key)}
            elif name in ("args", "custom") and value:
                told[name] = plain(value)
            elif value or name in _REQUIRED:
                told[name] = "" if value is None and name in _TEXTS else value
        return told

    # -- pushing

    async def push(self, job: Job) -> None:
        """Take a new job in: into its queue, or into the scheduled ones."""
        if len(job.get("jid", "").encode()) < 8:
            raise CommandError("jobs must have a reasonable jid parameter")
        if not job.get("jobtype"):
            raise CommandError("jobs must have a jobtype parameter")
        if job.get("args") is None:
            raise CommandError("jobs must have an args parameter")
        if job.get("reserve_for", 0) > MAX_RESERVATION:
            raise CommandError("jobs cannot be reserved for more than one day")
        job["created_at"] = job.get("created_at") or instant()
        job["queue"] = job.get("queue") or "default"
        at = job.get("at")
        if at:
            try:
                due = parse_instant(at)
            except DocumentError as error:
                raise CommandError(f"invalid timestamp for 'at': {json.dumps(at)}: {error}") from None
            if due > time.time_ns():
                await self._add("scheduled", due, job)
                return
        await self._enqueue(job)

    async def _enqueue(self, job: Job) -> None:
        await self._make_queue(job["queue"])
        job["enqueued_at"] = instant()
        try:
            await self.store.lpush(self.key(job["queue"]), dump(self.write_job(job)))
        except redis.exceptions.ResponseError as error:
            if self.options.version >= (1, 9):  # before, the error was overlooked
                raise CommandError(str(error)) from None

    async def _make_queue(self, name: str) -> None:
        if name in self.queues:
            return
        if not _QUEUE_NAME.match(name):
            told = json.dumps(name, ensure_ascii=False)
            raise CommandError(f"cannot get {told} queue: queue names must match \\A[a-zA-Z0-9._-]+\\z")
        await self.store.sadd("queues", name)
        self.queues[name] = None

    async def _add(self, name: str, due: int, job: Job) -> None:
        await self.store.zadd(name, {dump(self.write_job(job)): score(due)})

    # -- working

    async def fetch(self, wid: str, names: list[str]) -> str | None:
        """Reserve the next job of the first of ``names`` that has one, as its JSON; waits up to two seconds."""
        if not names:
            raise CommandError("must call fetch with at least one queue")
        active = [name for name in names if name not in self.paused and self._has_room(name)]
        if not active:
            await asyncio.sleep(FETCH_WAIT)
            return None
        self._waiting.update(active)
        try:
            return await self._fetch(wid, active)
        finally:
            self._waiting.subtract(active)

    async def _fetch(self, wid: str, names: list[str]) -> str | None:
        popped = await self.store.brpop([self.key(name) for name in names], timeout=FETCH_WAIT)
        if popped is None:
            return None
        try:
            job = read_job(parse(popped[1]))
        except DocumentError as error:
            raise CommandError(f"cannot unmarshal job payload: {error}") from None
        await self._reserve(wid, job)
        return dump(self.write_job(job))

    def _has_room(self, name: str) -> bool:
        """Whether a throttle lets one more worker wait for a job of this queue: each that waits may get one."""
        limit = self.options.throttles.get(name)
        if limit is None:
            return True
        held = sum(1 for reservation in self.working.values() if reservation.job.get("queue") == name)
        return held + self._waiting[name] < limit

    async def _reserve(self, wid: str, job: Job) -> None:
        seconds = job.get("reserve_for") or DEFAULT_RESERVATION
        seconds = min(max(seconds, self.options.reservation_min), MAX_RESERVATION)
        now = time.time_ns()
        expiry = now + int(seconds * NANO)
        reservation = Reservation(job, instant(now), instant(expiry), wid)
        document = {
            "job": self.write_job(job),
            "reserved_at": reservation.reserved_at,
            "expires_at": reservation.expires_at,
            "wid": wid,
        }
        await self.store.zadd("working", {dump(document): score(expiry)})
        self.working[job.get("jid", "")] = reservation

    async def acknowledge(self, jid: str) -> None:
        """Finish a job; one that is not held is passed over."""
        reservation = self.working.pop(jid, None)
        if reservation is not None:
            await self._remove_reservation(reservation)
            await self._count("processed")

    async def fail(self, document: Any) -> None:
        """Fail a job that a worker holds: retry it later, or give it up."""
        told = read_struct(document, "manager.FailPayload", _FAIL_FIELDS)
        jid = told.get("jid", "")
        if not jid:
            raise CommandError("missing JID")
        reservation = self.working.pop(jid, None)
        if reservation is None:
            raise CommandError(f"Job not found {jid}")
        if not await self._remove_reservation(reservation):
            return
        await self._failed(
            reservation.job,
            errtype=told.get("errtype", "").strip()[:100] or "unknown",
            message=told.get("message", "").strip()[:1000] or "unknown",
            backtrace=[line or "" for line in told.get("backtrace", [])][:50],
        )

    async def _remove_reservation(self, reservation: Reservation) -> bool:
        at = repr(score(parse_instant(reservation.expires_at)))
        members = await self.store.zrangebyscore("working", at, at)
        if len(members) > 1:
            members = [member for member in members if reservation.job["jid"] in member]
        return bool(members) and await self.store.zrem("working", members[0]) == 1

    async def _failed(self, job: Job, *, errtype: str, message: str, backtrace: list[str]) -> None:
        await self._count("processed", "failures")
        told = {"message": message, "errtype": errtype, "backtrace": backtrace}
        retry = job.setdefault("retry", self.default_retry)
        failure: dict[str, Any] | None = job.get("failure")
        if failure is None:
            failure = {"retry_count": 0, "remaining": retry, "failed_at": instant()} | told
        else:
            count, remaining = failure.get("retry_count", 0), failure.get("remaining", 0)
            failure = failure | told | {"retry_count": count + 1, "remaining": max(remaining - 1, min(remaining, 0))}
        job["failure"] = failure
        if retry == 0:
            return
        count = failure["retry_count"]
        if count < retry:
            due = time.time_ns() + (count**4 + 15 + random.randrange(30) * (count + 1)) * NANO
            failure["next_at"] = instant(due)
            await self._add("retries", due, job)
        else:
            await self._add("dead", time.time_ns() + DEAD_SECONDS * NANO, job)

    async def _count(self, *names: str) -> None:
        day = f"{datetime.now().astimezone():%Y-%m-%d}"
        async with self.store.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.incr(name)
                pipe.incr(f"{name}:{day}")
            await pipe.execute()

    # -- what the server does by itself

    async def _due(self, name: str, count: int) -> list[str]:
        members = await self.store.zrangebyscore(name, "-inf", repr(score(time.time_ns())), start=0, num=count)
        return [member for member in members if await self.store.zrem(name, member) == 1]

    async def enqueue_due(self, name: str) -> int:
        """Move what is due in ``scheduled`` or ``retries`` into its queue; return how many."""
        moved = 0
        while True:
            members = await self._due(name, 100)
            for member in members:
                try:
                    await self._enqueue(read_job(parse(member)))
                    moved += 1
                except (DocumentError, CommandError) as error:
                    say("W", f"Unable to process timed job: {error}")
            if len(members) != 100:
                return moved

    async def purge_dead(self) -> int:
        """Drop dead jobs whose time is over; return how many."""
        return len(await self._due("dead", 100))

    async def reap_reservations(self) -> int:
        """Fail the jobs whose reservation is over; return how many."""
        reaped = 0
        while True:
            members = await self._due("working", 10)
            for member in members:
                found = self._read_reservation(member)
                held = self.working.pop(found.job["jid"], None) if found else None
                if held is None:
                    say("W", "Unable to process timed job: cannot retry reservation")
                    continue
                await self._failed(
                    held.job, errtype="ReservationExpired", message="Faktory job reservation expired", backtrace=[]
                )
                reaped += 1
            if len(members) < 10:
                return reaped

    # -- queues and sets as a whole

    async def pause(self, name: str) -> None:
        """Let no job of a known queue be fetched."""
        if name in self.queues:
            await self.store.sadd("paused", name)
            self.paused = [*(other for other in self.paused if other != name), name]

    async def resume(self, name: str) -> None:
        """Let jobs of a known queue be fetched again."""
        if name in self.queues:
            await self.store.srem("paused", name)
            self.paused = [other for other in self.paused if other != name]

    async def remove(self, name: str) -> None:
        """Forget a queue and its jobs."""
        if name in self.queues:
            async with self.store.pipeline(transaction=False) as pipe:
                pipe.unlink(self.key(name))
                pipe.srem("queues", name)
                pipe.srem("paused", name)
                await pipe.execute()
            del self.queues[name]
        self.paused = [other for other in self.paused if other != name]

    async def latencies(self, names: list[str]) -> dict[str, float]:
        """Tell how long the oldest job of each queue has waited, in seconds; 0 where there is none."""
        found: dict[str, float] = {}
        for name in sorted(set(names)):
            oldest = await self.store.lindex(self.key(name), -1)
            found[name] = 0
            if oldest:
                try:
                    enqueued = parse_instant(read_job(parse(oldest)).get("enqueued_at", ""))
                except DocumentError as error:
                    raise CommandError(f"QUEUE: {error}") from None
                found[name] = (time.time_ns() - enqueued) / NANO
        return found

    async def flush(self) -> None:
        """Empty Redis. As in Faktory, what is in memory stays."""
        await self.store.flushdb()

    async def sizes(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Return the sizes of the queues, the sizes of the sorted sets, and the lifetime totals."""
        names = sorted(self.queues)
        async with self.store.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(self.key(name))
            if self.options.version < (1, 9):
                queues = _first_error_told(await pipe.execute(raise_on_error=False))
            for name in SORTED:
                pipe.zcard(name)
            pipe.incrby("failures", 0)
            pipe.incrby("processed", 0)
            answers = await pipe.execute(raise_on_error=False)
        # Before 1.9 a set's size was asked for alone, and was 0 where its key was of another type.
        if self.options.version >= (1, 9):
            _first_error_told(answers)
            queues, answers = answers[: len(names)], answers[len(names) :]
        rest = [value if isinstance(value, int) else 0 for value in answers]
        return (
            dict(zip(names, queues, strict=True)),
            dict(zip(SORTED, rest[:4], strict=True)),
            dict(zip(("failures", "processed"), rest[4:], strict=True)),
        )

    async def mutate(self, document: Any) -> None:
        """Clear a sorted set, or kill, discard or requeue those of its jobs that match a filter."""
        operation = read_struct(document, "client.Operation", _OPERATION_FIELDS)
        command, name = operation.get("cmd", ""), operation.get("target", "")
        if command not in {"clear", "kill", "discard", "requeue"}:
            raise CommandError("unknown mutate operation")
        if name not in {"scheduled", "retries", "dead"}:
            raise CommandError("invalid target for mutation command")
        chosen = operation.get("filter")
        if command == "clear" or (command == "discard" and chosen is None):
            await self.store.unlink(name)
            return
        wanted = read_struct(chosen, "client.JobFilter", _FILTER_FIELDS)
        pattern, needles = self._matching(wanted)
        async for member, _ in self.store.zscan_iter(name, match=pattern, count=100):
            if (needles and not any(needle in member for needle in needles)) or not await self.store.zrem(name, member):
                continue
            if command == "kill":
                await self.store.zadd("dead", {member: score(time.time_ns() + DEAD_SECONDS * NANO)})
            elif command == "requeue":
                queue = read_job(parse(member))["queue"]
                await self._make_queue(queue)
                await self.store.lpush(self.key(queue), member)

    def _matching(self, wanted: dict[str, Any]) -> tuple[str, list[str]]:
        """Return the pattern for Redis, and texts of which a member must contain one (none: any member will do)."""
        pattern, jobtype, jids = wanted.get("regexp", ""), wanted.get("jobtype", ""), wanted.get("jids") or []
        if jids and (self.options.version >= (1, 9) or not (pattern or jobtype)):
            return "*", [f'"jid":{json.dumps(jid)}' for jid in jids]
        needle = f'"jobtype":{json.dumps(jobtype)}'
        if pattern:
            return pattern, [needle] if jobtype else []
        return (f"*{needle}*" if jobtype else "*"), []
