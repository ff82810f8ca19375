"""What became of data sent to an OpenTelemetry collector, and the counts of it that become metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from exporter.model import Failure, Reason

logger = logging.getLogger("forewarn.otlp")


class Fate(StrEnum):
    """What became of one request."""

    SENT = "sent"
    REJECTED = "rejected"  # for good: sent again, it would be rejected again
    AGAIN = "again"  # not this time


class Delivery(msgspec.Struct, frozen=True):
    """How one request to the collector ended."""

    fate: Fate
    failure: Failure | None = None
    """What went wrong; set too where some items of a request that was sent were rejected."""
    rejected: int = 0
    """How many items of a request that was sent the collector says to have rejected."""
    retry_after: float | None = None
    """Seconds after which the collector wants to be asked again."""
    doubtful: bool = False
    """Whether the next time may fail alike, however late it comes: worth a few tries, not endless ones."""


class OtlpTotals(msgspec.Struct, frozen=True):
    """What became of all items (spans or data points) of one signal so far."""

    sent: int
    rejected: int
    dropped: int
    """Given up unsent: for want of room, or because they could not be encoded."""
    failures: Mapping[Reason, int]
    """Requests that failed, by reason: every one of them from the start at 0."""
    waiting: int | None = None
    """Items that no collector has taken yet; ``None`` where none ever wait."""


class OtlpCounts:
    """Counts what becomes of one signal's items, and logs when the collector begins to fail and when it is well again.

    For use in the event loop alone.
    """

    def __init__(self, signal: str) -> None:
        """``signal`` is ``traces`` or ``metrics``."""
        self._signal = signal
        self._items = dict.fromkeys(("sent", "rejected", "dropped"), 0)
        self._failures = dict.fromkeys(Reason, 0)
        self._failing: Reason | None = None

    def settle(self, delivery: Delivery, items: int) -> None:
        """Count how a request with ``items`` items ended."""
        if delivery.fate is Fate.SENT:
            rejected = min(delivery.rejected, items)
            self._items["rejected"] += rejected
            self._items["sent"] += items - rejected
        elif delivery.fate is Fate.REJECTED:
            self._items["rejected"] += items
        failure = delivery.failure
        if failure is not None:
            self._failures[failure.reason] += 1
        self._tell(failure)

    def drop(self, items: int) -> None:
        """Count items that are given up unsent."""
        self._items["dropped"] += items

    def totals(self, waiting: int | None = None) -> OtlpTotals:
        """Return the counts so far."""
        return OtlpTotals(**self._items, failures=dict(self._failures), waiting=waiting)

    def _tell(self, failure: Failure | None) -> None:
        fields: dict[str, object] = {"signal": self._signal}
        if failure is None and self._failing is not None:
            logger.info("collector recovered", extra={"fields": fields})
        if failure is not None and failure.reason is not self._failing:
            fields |= {"reason": str(failure.reason), "failure": failure.message}
            logger.warning("collector failing", extra={"fields": fields})
        self._failing = None if failure is None else failure.reason
