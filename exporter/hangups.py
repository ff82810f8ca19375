"""SIGHUP: what asks a sidecar to read its settings again. Importing this is cheap: it is the first thing to be done."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from types import FrameType


class Hangups:
    """SIGHUP, from one moment to the end of the process: none ends it, and none that asks for a reload is lost."""

    def __init__(self) -> None:
        """Take the signal from now on. For use in the main thread."""
        self._came = False
        self._ask: Callable[[], object] | None = None
        signal.signal(signal.SIGHUP, self._take)

    def lead_to(self, ask: Callable[[], object]) -> None:
        """Call ``ask`` in the loop that runs at each signal from now on, and once for all that came before."""
        import asyncio  # noqa: PLC0415 - takes a while, and by now it is there

        loop = asyncio.get_running_loop()
        self._ask = lambda: loop.call_soon_threadsafe(ask)
        if self._came:
            ask()

    def close(self) -> None:
        """Pass over all that come from now on, also while the interpreter ends."""
        self._ask = None
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if self._ask is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._ask()
