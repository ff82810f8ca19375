"""Where the name of a StatsD server leads: looked up now and then, and never waited for at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from exporter.model import Failure, Reason
from exporter.statsd.address import UdpAddress

LOOK_UP: Final = 2.0
"""Seconds for which a flush waits for the addresses of a name."""

LOOK_UP_AGAIN: Final = 60.0
"""Seconds after which a name is looked up again; at once after a failure."""

SLICE: Final = 0.02
"""Seconds after which a wait looks whether it is over."""

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]
"""What :func:`socket.getaddrinfo` is."""

NetAddress = tuple[int, Any]
"""An address family, with an address of it."""


class StatsdName:
    """The addresses of one host and port.

    A resolver may hang for longer than a process may take to end, so that each look-up has a thread of its own that
    nothing waits for; there is one at most.
    """

    def __init__(
        self,
        address: UdpAddress,
        *,
        clock: Callable[[], float],
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    ) -> None:
        self._address = address
        self._clock = clock
        self._getaddrinfo = getaddrinfo
        self._known: Sequence[NetAddress] = ()
        self._fresh_until: float | None = None
        self._asked: asyncio.Future[Sequence[NetAddress]] | None = None

    async def addresses(self, hurry: Callable[[], bool]) -> Sequence[NetAddress] | Failure:
        """Return at least one address, or why there is none.

        ``hurry`` tells whether there is no time to wait. What was known before holds as long as nothing newer is.
        """
        if self._known and (hurry() or (self._fresh_until is not None and self._clock() < self._fresh_until)):
            return self._known
        if self._asked is None:
            self._asked = self._ask()
        for _ in range(int(LOOK_UP / SLICE)):
            if self._asked.done() or hurry():
                break
            await asyncio.wait((self._asked,), timeout=SLICE)
        if not self._asked.done():
            return self._known or self._failed(Reason.TIMEOUT, "was not looked up in time")
        asked, self._asked = self._asked, None
        try:
            self._known = asked.result()
        except OSError as error:
            return self._known or self._failed(Reason.UNREACHABLE, f"has no address ({error.strerror})")
        self._fresh_until = self._clock() + LOOK_UP_AGAIN
        return self._known

    def doubt(self) -> None:
        """Look up anew the next time: nobody was reached there."""
        self._fresh_until = None

    def _failed(self, reason: Reason, what: str) -> Failure:
        hint = "is the name in statsd.push spelt right, and does the resolver of this machine know it?"
        return Failure(reason, f"the StatsD server's name {self._address.host} {what}: {hint}")

    def _ask(self) -> asyncio.Future[Sequence[NetAddress]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[NetAddress]] = loop.create_future()
        future.add_done_callback(lambda it: it.exception())  # whoever does not ask any more need not be told

        def settle(found: Sequence[NetAddress], error: OSError | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(found)

        def look_up() -> None:
            found: Sequence[NetAddress] = ()
            failure: OSError | None = None
            try:
                told = self._getaddrinfo(
                    self._address.host, self._address.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
                )
                found = list(dict.fromkeys((family, target) for family, _, _, _, target in told))
            except OSError as error:
                failure = error
            except UnicodeError:
                failure = OSError(errno.EINVAL, "it cannot be a name")
            with contextlib.suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(settle, found, failure)

        threading.Thread(target=look_up, name="statsd name", daemon=True).start()
        return future
