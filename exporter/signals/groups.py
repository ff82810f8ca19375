"""The busy jobs by queue and job type, kept up by what changes from one observation to the next."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from exporter.model import Pair, Reservation
from exporter.signals.changes import Changes, changes


class Group:
    """The busy jobs of one queue and job type.

    Their times stand side by side in memory, for all of them are gone through at every poll.
    """

    def __init__(self) -> None:
        self.members: list[Reservation] = []
        self.reserved = array("d")
        """When each was reserved, in Unix seconds."""
        self.spans = array("d")
        """For how many seconds each was reserved."""
        self._places: dict[str, int] = {}

    def add(self, reservation: Reservation) -> None:
        """Take one in, in place of the one of the same job."""
        place = self._places.setdefault(reservation.jid, len(self.members))
        if place == len(self.members):
            self.members.append(reservation)
            self.reserved.append(reservation.reserved_at)
            self.spans.append(reservation.expires_at - reservation.reserved_at)
        else:
            self._put(place, reservation)

    def remove(self, reservation: Reservation) -> None:
        """Forget one."""
        place = self._places.pop(reservation.jid)
        last = self.members.pop()
        del self.reserved[-1], self.spans[-1]
        if place < len(self.members):
            self._places[last.jid] = place
            self._put(place, last)

    def _put(self, place: int, reservation: Reservation) -> None:
        self.members[place] = reservation
        self.reserved[place] = reservation.reserved_at
        self.spans[place] = reservation.expires_at - reservation.reserved_at


class Groups:
    """The reservations known now, by queue and job type as they are named on the server."""

    def __init__(self) -> None:
        self._by_pair: dict[Pair, Group] = {}

    @property
    def by_pair(self) -> Mapping[Pair, Group]:
        """The groups; none is empty."""
        return self._by_pair

    def advance(self, moved: Changes) -> None:
        """Take in what changed since the observation before."""
        for reservation in moved.gone:
            pair = (reservation.queue, reservation.jobtype)
            group = self._by_pair[pair]
            group.remove(reservation)
            if not group.members:
                del self._by_pair[pair]
        for reservations in (moved.arrived, moved.extended):
            for reservation in reservations:
                pair = (reservation.queue, reservation.jobtype)
                known = self._by_pair.get(pair)
                if known is None:
                    known = self._by_pair[pair] = Group()
                known.add(reservation)


def group(reservations: Mapping[str, Reservation]) -> Groups:
    """Sort ``reservations`` by queue and job type."""
    groups = Groups()
    groups.advance(changes({}, 0.0, reservations, 0.0))
    return groups
