"""Listener: the sidecar's side of receiving StatsD. Holds the sockets, and the life of the process that reads them."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from exporter.model import Failure, Reason
from exporter.process.sockets import is_own
from exporter.statsd.address import StatsdAddress, UdpAddress
from exporter.statsd.process import COMMAND, GRACE, EndedError, ReceiverError, ReceiverProcess
from exporter.statsd.report import Ask, Config, Count, Distinct, Level, Report, Spread, Totals
from exporter.statsd.sockets import ListenError, StatsdSockets, open_sockets
from exporter.web.address import Address

DEADLINE: Final = 2.0
"""Seconds for one answer: it takes a tenth of one under full load, and a start no longer."""

PATIENCE: Final = 30.0
"""Seconds of silence after which a process that owes an answer is ended."""

CALM: Final = 60.0
"""Seconds that a process must have lived for its end to count as the first, and the longest rest between two starts."""

ATTEMPTS: Final = 2
"""How many processes are asked in one reading: one that is found dead, and its successor."""

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Most bytes of one answer, and of what others left behind that ended amid theirs."""

RESOLVE_DEADLINE: Final = 1.0
"""Seconds for finding the address that packets are passed on to."""

RECHECK: Final = 60.0
"""Seconds after which that address is looked up anew."""

_LOOPED: Final = Failure(
    Reason.UNREACHABLE,
    "packets of StatsD are not passed on: they would come back, for the relay's address is the one that is listened on;"
    " they are received as before. Mend it: name another server's with --statsd.relay (statsd_relay)",
)

logger = logging.getLogger("forewarn.statsd")


class Heard(msgspec.Struct, frozen=True):
    """What was counted since the reading before.

    Where a receiving process ended amid its answer, what it had told stands before what its successor told: then a
    series may come twice.
    """

    counts: tuple[Count, ...] = ()
    levels: tuple[Level, ...] = ()
    """In the order in which they came: a move may follow an absolute value of the same series."""
    spreads: tuple[Spread, ...] = ()
    distinct: tuple[Distinct, ...] = ()
    totals: Totals = Totals()
    dropped_by_kernel: int | None = None
    """Packets that found the sockets' buffers full; ``None``: not known."""


class StatsdListener:
    """Listens for the StatsD of one server. Not for use by several tasks at once."""

    def __init__(
        self,
        address: Address | None,
        unix: Path | None = None,
        relay: StatsdAddress | None = None,
        *,
        max_series: int = Config().max_series,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        """Nothing is opened yet. ``command`` is the receiving process's; ``clock`` and ``deadline`` are in seconds."""
        self._address = address
        self._unix = unix
        self._relay = RelayTarget(relay, clock=clock)
        self._max_series = max_series
        self._command = command
        self._clock = clock
        self._deadline = deadline
        self._sockets: StatsdSockets | None = None
        self._receiver: ReceiverProcess | None = None
        self._doomed: Failure | None = None  # why it is to be ended, unless it has ended by itself
        self._over = False  # it is of no more use: to be ended, or only to be reaped
        self._death: Failure | None = None  # the last one's
        self._rest = 0.0
        self._start_at = 0.0
        self._parts: list[Report] = []
        self._size = 0
        self._untold: Failure | None = None

    @property
    def port(self) -> int | None:
        """The port that is listened on, by UDP and TCP; ``None`` before the first reading."""
        return None if self._sockets is None else self._sockets.port

    @property
    def pid(self) -> int | None:
        """The process id of what receives now."""
        return None if self._receiver is None else self._receiver.pid

    async def read(self) -> tuple[Heard | None, Failure | None]:
        """Return what was counted since the last time, and what went wrong; it may be both.

        The first reading opens the sockets. Never raises. An answer that comes too late is returned by the next
        reading; also one that is cancelled loses nothing.
        """
        relay = await self._relay.find()
        whole = looped = False
        for _ in range(ATTEMPTS):
            if not await self._start():
                break
            looped = self._sockets is not None and leads_back(relay, self._sockets)
            whole = await self._collect(None if looped else relay)
            if not await self._bury():
                break
        failure, self._untold = self._untold or (_LOOPED if looped else self._relay.failure), None
        return (self._take() if whole else None), failure

    async def close(self) -> None:
        """Let the receiving process end, close the sockets and remove the unix socket's file. Safe to call twice.

        What must not be left behind is gone before this waits for anything.
        """
        sockets, self._sockets = self._sockets, None
        receiver, self._receiver = self._receiver, None
        if sockets is not None:
            sockets.close()
        if receiver is not None:
            await receiver.end()
        await self._relay.close()

    async def _start(self) -> bool:
        """See to it that the sockets are open and a process receives; tell whether."""
        if self._receiver is not None:
            return True
        left = self._start_at - self._clock()
        if left > 0 and self._death is not None:
            again = f"{self._death.message}; the next is started in {left:.0f} s"
            self._untold = Failure(self._death.reason, again)
            return False
        try:
            if self._sockets is None:
                self._sockets = await open_sockets(self._address, self._unix)
            udp, tcp, unix = (
                None if it is None else it.fileno() for it in (self._sockets.udp, self._sockets.tcp, self._sockets.unix)
            )
            config = Config(udp=udp, tcp=tcp, unix=unix, max_series=self._max_series)
            self._receiver = ReceiverProcess(config, command=self._command, clock=self._clock)
        except ListenError as error:
            self._untold = Failure(Reason.UNREACHABLE, str(error))
        except OSError as error:
            told = f"the process that receives StatsD cannot be started ({error.strerror or error})"
            self._untold = Failure(Reason.UNREACHABLE, f"{told}: has this machine no memory, processes or files left?")
        return self._receiver is not None

    async def _collect(self, relay: tuple[str, int] | str | None) -> bool:
        """Ask, unless an answer is owed, and read until the answer is whole; tell whether it is."""
        receiver = self._receiver
        if receiver is None or self._over:
            return False
        try:
            if not receiver.asked:
                receiver.ask(Ask(relay))
            until = asyncio.get_running_loop().time() + self._deadline
            while (part := await receiver.receive(until)) is not None:
                self._keep(*part)
                if part[0].last is not None:
                    return True
        except EndedError:
            self._over = True
            return False
        except ReceiverError as error:
            self._over, self._doomed = True, error.failure
            return False
        finally:
            receiver.drain()
        silent = self._clock() - receiver.moved
        told = "the process that receives StatsD has not answered"
        if silent >= PATIENCE:
            self._over = True
            self._doomed = Failure(Reason.TIMEOUT, f"{told} for {silent:.0f} s, and is killed")
        else:
            why = f"{told} within {self._deadline:g} s: is this machine overloaded? A late answer is not lost"
            self._untold = self._untold or Failure(Reason.TIMEOUT, why)
        return False

    def _keep(self, part: Report, size: int) -> None:
        self._size += size
        if self._size > MAX_ANSWER:
            self._parts, self._size = [], 0
            told = f"an answer of the process that receives StatsD is longer than {MAX_ANSWER} bytes, and is lost"
            raise ReceiverError(Failure(Reason.PROTOCOL, f"{told}: does anyone send tags that are never the same?"))
        self._parts.append(part)

    async def _bury(self) -> bool:
        """End a process that is over, and tell whether there was one. How it ended is told by the reading."""
        if self._receiver is None or not self._over:
            return False
        receiver, doomed = self._receiver, self._doomed
        how = await receiver.end(GRACE if doomed is None else 0)
        if how is None:
            told = f"the process that receives StatsD (pid {receiver.pid}) cannot be killed"
            self._untold = Failure(Reason.TIMEOUT, f"{told}: it hangs in the kernel; does a disk not answer?")
            return False
        self._receiver, self._doomed, self._over = None, None, False
        self._plan(self._clock() - receiver.started)
        self._death = self._untold = doomed or _death(how, receiver.said)
        if receiver.said:
            fields = {"ended": how, "said": receiver.said.decode(errors="backslashreplace")}
            logger.error("the process that receives StatsD wrote before its end", extra={"fields": fields})
        return True

    def _plan(self, lived: float) -> None:
        """Decide when the next process is started: at once, unless the last ones lived only for a moment."""
        wait = self._rest if lived < CALM else 0.0
        self._rest = min(CALM, max(1.0, 2 * wait))
        self._start_at = self._clock() + wait

    def _take(self) -> Heard:
        parts, self._parts, self._size = self._parts, [], 0
        return Heard(
            counts=tuple(chain.from_iterable(part.counts for part in parts)),
            levels=tuple(chain.from_iterable(part.levels for part in parts)),
            spreads=tuple(chain.from_iterable(part.spreads for part in parts)),
            distinct=tuple(chain.from_iterable(part.distinct for part in parts)),
            totals=next(part.last for part in parts if part.last is not None),
            dropped_by_kernel=None if self._sockets is None else self._sockets.lost(),
        )


def _death(how: str, said: bytes) -> Failure:
    last = said.decode(errors="backslashreplace").strip().rpartition("\n")[2][:200]
    fix = {
        "was killed by SIGKILL": "has this machine, or its container, no memory left? See `dmesg`",
    }.get(how, "report it with what Forewarn's log tells of it")
    why = f" ({last})" if last else ""
    told = f"the process that receives StatsD {how}{why}"
    lost = "what it counted since the reading before is lost, what comes meanwhile waits in the sockets"
    return Failure(Reason.UNREACHABLE, f"{told}: {fix}; {lost}")


def leads_back(relay: tuple[str, int] | str | None, sockets: StatsdSockets) -> bool:
    """Tell whether what is passed on to ``relay`` would be received anew, for ever: by ``sockets`` themselves."""
    if not isinstance(relay, tuple) or sockets.udp is None or relay[1] != sockets.port:
        return False
    target, listening = ip_address(relay[0]), ip_address(sockets.udp.getsockname()[0])
    return target.is_unspecified or (is_own(target) and (listening.is_unspecified or target == listening))


class RelayTarget:
    """The address that packets are passed on to, looked up again from time to time."""

    def __init__(self, relay: StatsdAddress | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: Failure | None = None
        """Set where no address is known."""
        self._relay = relay
        self._clock = clock
        self._known: tuple[str, int] | None = None
        self._asked = 0.0
        self._asking: asyncio.Future[tuple[str, int]] | None = None
        self._lost = False

    async def find(self) -> tuple[str, int] | str | None:
        """Return where packets are passed on to; ``None``: nowhere, or it is not known.

        Never raises. A name that does not resolve any more means the address that it last had. One that takes long is
        waited for once, and not asked after again before it is found.
        """
        relay = self._relay
        if not isinstance(relay, UdpAddress):
            return None if relay is None else str(relay)
        if _is_numeric(relay.host):
            return relay.host, relay.port
        if self._asking is None and (self._known is None or self._clock() - self._asked >= RECHECK):
            self._asked = self._clock()
            self._asking = asyncio.ensure_future(_resolve(relay))
            await asyncio.wait({self._asking}, timeout=RESOLVE_DEADLINE)
        if self._asking is not None:
            self._note(relay, self._asking)
        return self._known

    async def close(self) -> None:
        """Give up a question that is still open."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def _note(self, relay: UdpAddress, asking: asyncio.Future[tuple[str, int]]) -> None:
        why = f"no answer within {RESOLVE_DEADLINE:g} s"
        if asking.done():
            self._asking = None
            error = asking.exception()
            if error is None:
                self._known, self.failure, self._lost = asking.result(), None, False
                return
            why = str(error) if not isinstance(error, OSError) else error.strerror or str(error)
        told = f"packets of StatsD are not passed on: {relay.host} is not resolved ({why})"
        if self._known is None:
            fix = "name a host that this machine knows with --statsd.relay (statsd_relay)"
            self.failure = Failure(Reason.UNREACHABLE, f"{told}; they are received as before. Mend it: {fix}")
        elif not self._lost:
            self._lost = True
            fields = {"host": relay.host, "failure": why, "address": self._known[0]}
            logger.warning(
                "StatsD is passed on to the last address known: it has no other now", extra={"fields": fields}
            )


async def _resolve(relay: UdpAddress) -> tuple[str, int]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(relay.host, relay.port, type=socket.SOCK_DGRAM)
    return str(found[0][4][0]), relay.port


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
