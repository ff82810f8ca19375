"""What the server does by itself, at wall-clock multiples of each task's period."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import redis.exceptions

LONGEST_STEP = 1.0


class Task:
    """One thing to do every ``every`` seconds, and how often and how long it was done."""

    def __init__(self, every: float, do: Callable[[], Awaitable[int]]) -> None:
        self.every = every
        self.do = do
        self.cycles = 0
        self.done = 0
        self.seconds = 0.0

    async def run(self) -> None:
        """Do it once."""
        start = time.perf_counter()
        # Redis in trouble is a finding of whoever watches, not the end of the stand-in.
        with contextlib.suppress(redis.exceptions.RedisError):
            self.done += await self.do()
            self.cycles += 1
            self.seconds += time.perf_counter() - start


async def run_tasks(tasks: list[Task]) -> None:
    """Run each task whenever a multiple of its period passes, until cancelled."""
    step = min(LONGEST_STEP, *(task.every for task in tasks))
    # As if a cycle had been one step ago: a task that is due in this very second runs at once.
    last = time.time() - step
    while True:
        now = time.time()
        for task in tasks:
            if now // task.every != last // task.every:
                await task.run()
        last = now
        await asyncio.sleep(step)
