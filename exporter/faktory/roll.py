"""The entries that the last read of a large set found, and which of them this read has met again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.model import Reservation


class Roll:
    """Entries by a key of their own. Per read: :meth:`begin`, :meth:`strangers` page by page, then :meth:`missing`.

    Who was met is marked in a row of bytes: a set of 100,000 keys holds everything up for 10 ms when it is resized, and
    it is when it grows and when it shrinks.
    """

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._entries: list[tuple[int, Reservation] | None] = []
        self._free: list[int] = []
        self._met = bytearray()

    def __len__(self) -> int:
        return len(self._places)

    def begin(self) -> None:
        """Nobody has been met yet."""
        self._met = bytearray(len(self._entries))
        for place in self._free:
            self._met[place] = 1

    def strangers(self, keys: Sequence[int]) -> list[int]:
        """Mark those of ``keys`` that are known as met; return the indices of the others."""
        met = self._met
        unknown: list[int] = []
        for index, place in enumerate(map(self._places.get, keys)):
            if place is None:
                unknown.append(index)
            else:
                met[place] = 1
        return unknown

    def missing(self) -> Iterator[tuple[int, Reservation]]:
        """Yield key and entry of those that have not been met since :meth:`begin`."""
        place = self._met.find(0)
        while place >= 0:
            entry = self._entries[place]
            if entry is not None:
                yield entry
            place = self._met.find(0, place + 1)

    def add(self, key: int, entry: Reservation) -> None:
        """Take in one that is not known."""
        if self._free:
            place = self._free.pop()
            self._entries[place] = (key, entry)
        else:
            place = len(self._entries)
            self._entries.append((key, entry))
        self._places[key] = place

    def remove(self, key: int) -> None:
        """Forget one."""
        place = self._places.pop(key)
        self._entries[place] = None
        self._free.append(place)

    def entries(self) -> Iterator[Reservation]:
        """Yield every entry that is known."""
        return (entry[1] for entry in self._entries if entry is not None)
