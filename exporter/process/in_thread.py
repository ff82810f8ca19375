"""A question that may hang, asked in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class HangsError(Exception):
    """The question does not end."""


class InThread(Generic[T]):
    """Asks one question at a time, in a thread. Not for use by several tasks at once."""

    def __init__(self, deadline: float) -> None:
        """``deadline``: for how many seconds an answer is waited for."""
        self._deadline = deadline
        self._asking: asyncio.Task[T] | None = None

    async def run(self, ask: Callable[[], T]) -> T:
        """Return what ``ask`` returns, or raise what it raises; raises ``HangsError`` where it hangs.

        A question that hangs is waited for once and not joined by others: until it has ended this raises at once.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(ask))
            await asyncio.wait({self._asking}, timeout=self._deadline)
        if not self._asking.done():
            raise HangsError
        return self._asking.result()
