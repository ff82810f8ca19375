"""Questions that may hang, for a program that must end all the same."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

RESOLVE_DEADLINE: Final = 3.0
"""Seconds for finding the addresses of a name."""


async def in_time(ask: Callable[[], T], deadline: float) -> T:
    """Return what ``ask`` returns, asked in a thread that nobody waits for at the end of the program.

    Raises:
        TimeoutError: It did not come within ``deadline`` seconds.
        Exception: What ``ask`` raised.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] # of T where there is no error

    def run() -> None:
        result, failure = None, None
        try:
            result = ask()
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="asked", daemon=True).start()
    async with asyncio.timeout(deadline):
        return await future


async def unresolved(host: str) -> str | None:
    """Return why a name has no address, the end of a sentence; ``None`` where it has."""
    try:
        await in_time(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), RESOLVE_DEADLINE)
    except TimeoutError:
        return f"was not resolved within {RESOLVE_DEADLINE:g} s"
    except (OSError, UnicodeError) as error:
        return f"does not resolve ({getattr(error, 'strerror', None) or 'not a host name'})"
    return None
