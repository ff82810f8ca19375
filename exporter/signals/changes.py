"""What came and went in the working set between two observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import compress, filterfalse
from operator import is_not

import msgspec

from exporter.model import Reservation
from exporter.strides import strides


class Changes(msgspec.Struct, frozen=True):
    """Reservations that appeared and that left, and the time between the two observations that tell so."""

    arrived: tuple[Reservation, ...]
    gone: tuple[Reservation, ...]
    since: float
    until: float
    extended: tuple[Reservation, ...] = ()
    """Those that stayed but expire at another time, as they are now."""

    def expired(self, reservation: Reservation) -> bool:
        """Tell whether ``reservation``, which left, may have left because its time ran out."""
        return reservation.expires_at <= self.until


def changes(before: Mapping[str, Reservation], since: float, after: Mapping[str, Reservation], until: float) -> Changes:
    """Return what changed. A job reserved anew counts as gone and arrived; a later expiry alone as extended."""
    if before is after:
        return Changes((), (), since, until)
    arrived: list[Reservation] = []
    gone: list[Reservation] = []
    extended: list[Reservation] = []
    for reservation, previous in _differing(before, after):
        if previous is None:
            arrived.append(reservation)
        elif _same_execution(previous, reservation):
            extended.append(reservation)
        else:
            gone.append(previous)
            arrived.append(reservation)
    for jids in strides(before):
        gone.extend(map(before.__getitem__, filterfalse(after.__contains__, jids)))
    return Changes(tuple(arrived), tuple(gone), since, until, tuple(extended))


def _differing(
    before: Mapping[str, Reservation], after: Mapping[str, Reservation]
) -> Iterator[tuple[Reservation, Reservation | None]]:
    """Yield the reservations that are not the very objects of before, with what was before.

    Most of them are: a source decodes only what is new to it. So all but the few that differ never leave C.
    """
    for jids, present in zip(strides(after), strides(after.values()), strict=True):
        previous = list(map(before.get, jids))
        yield from compress(zip(present, previous, strict=True), map(is_not, present, previous))


def _same_execution(one: Reservation, other: Reservation) -> bool:
    return (
        one.reserved_at == other.reserved_at
        and one.worker == other.worker
        and one.queue == other.queue
        and one.jobtype == other.jobtype
    )
