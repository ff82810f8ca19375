"""The load of the benches: a server whose `working` set holds any number of busy jobs."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from redis.asyncio import Redis

from exporter.settings import ServerSettings, load
from tests.servers import RealFaktory, StandInFaktory, WatchedServer, real_programs, running

QUEUES = 40
JOBTYPES = 100
WORKERS = 500
RESERVED_FOR = 1800
FAILED_BEFORE = 7
"""As many times the failures of one poll wait for their first retry."""

CHUNK = 1000
"""Entries written to Redis at a time."""


class Load:
    """Fills a server's Redis as its busy workers would, and lets a share of the jobs end and others begin."""

    def __init__(self, redis: Redis, *, now: float, prefix: str, seed: int = 1) -> None:
        """``prefix`` stands before a queue's name in its key; ``now`` is in Unix seconds."""
        self._redis = redis
        self._now = now
        self._prefix = prefix
        self._chance = random.Random(seed)
        self._members: list[bytes] = []

    async def wait(self) -> None:
        """Give each queue a job that waits."""
        for number in range(QUEUES):
            waiting = {
                "jid": f"waits{number:019d}",
                "jobtype": "Billing::Waits",
                "args": [],
                "enqueued_at": self._text(5),
            }
            key = f"{self._prefix}queue-{number}"
            async with self._redis.pipeline() as together:
                together.sadd("queues", f"queue-{number}")
                together.lpush(key, json.dumps(waiting))
                await together.execute()

    async def grow(self, jobs: int) -> None:
        """Make so many more busy that there are ``jobs``."""
        await self._add(jobs - len(self._members))

    async def churn(self, share: float, failing: int = 0) -> None:
        """Let ``share`` of the jobs end, ``failing`` of them to be tried again, and as many begin."""
        ending = max(1, int(len(self._members) * share))
        self._chance.shuffle(self._members)
        gone, self._members = self._members[:ending], self._members[ending:]
        for start in range(0, ending, CHUNK):
            await self._redis.zrem("working", *gone[start : start + CHUNK])
        await self._redis.incrby("processed", ending)
        if failing:
            await self._fail(gone[:failing])
        await self._add(ending)

    async def _fail(self, members: Sequence[bytes]) -> None:
        seconds, micros = await self._redis.time()
        at = seconds + micros / 1e6
        failed_at = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
        failure = {"retry_count": 0, "failed_at": failed_at, "errtype": "Net::ReadTimeout", "message": "timed out"}
        entries = {
            json.dumps(json.loads(member)["job"] | {"failure": failure}, separators=(",", ":")): at
            + 15
            + self._chance.randrange(30)
            for member in members
        }
        await self._redis.incrby("failures", len(members))
        await self._redis.zadd("retries", entries)
        # As many as wait at a time for their first retry where polls are 5 s apart.
        await self._redis.zremrangebyrank("retries", 0, -1 - FAILED_BEFORE * len(members))

    async def _add(self, jobs: int) -> None:
        entries = [self._entry() for _ in range(jobs)]
        self._members += [member for member, _ in entries]
        for start in range(0, jobs, CHUNK):
            await self._redis.zadd("working", dict(entries[start : start + CHUNK]))

    def _entry(self) -> tuple[bytes, float]:
        """Return a member of `working` of about 350 bytes, as the server writes it, and its score."""
        chance = self._chance
        jobtype = chance.randrange(JOBTYPES)  # each has its queue, as nearly everywhere
        age = chance.uniform(0, RESERVED_FOR * 0.6)
        member = {
            "job": {
                "jid": f"{chance.getrandbits(96):024x}",
                "queue": f"queue-{jobtype % QUEUES}",
                "jobtype": f"Billing::Invoice{jobtype}",
                "args": [chance.randrange(10**6), "customer"],
                "created_at": self._text(age + 2),
                "enqueued_at": self._text(age + 1),
                "retry": 25,
            },
            "reserved_at": self._text(age),
            "expires_at": self._text(age - RESERVED_FOR),
            "wid": f"worker{chance.randrange(WORKERS):010d}",
        }
        return json.dumps(member, separators=(",", ":")).encode(), self._now - age + RESERVED_FOR

    def _text(self, ago: float) -> str:
        return datetime.fromtimestamp(self._now - ago, UTC).isoformat().replace("+00:00", "Z")


@asynccontextmanager
async def a_server() -> AsyncIterator[WatchedServer]:
    """Run the newest real Faktory at hand, or else the stand-in."""
    programs = real_programs()
    async with running(RealFaktory(programs[-1]) if programs else StandInFaktory()) as server:
        yield server


async def loaded(server: WatchedServer, jobs: int) -> Load:
    """Return a load of ``jobs`` busy jobs on ``server``."""
    redis = server.redis()
    seconds, micros = await redis.time()
    load_ = Load(redis, now=seconds + micros / 1e6, prefix="q:" if server.version >= (1, 10) else "")
    await load_.wait()
    await load_.grow(jobs)
    return load_


def settings_of(server: WatchedServer) -> ServerSettings:
    """Return how Forewarn is told of ``server``."""
    flags: Mapping[str, str] = {
        "faktory.url": server.url,
        "faktory.web-url": server.web_url,
        "faktory.redis-url": server.redis_url,
        "faktory.config-dir": str(server.config_dir),
    }
    return load(flags, {}).servers[0]
