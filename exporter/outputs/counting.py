"""How counters are followed from one push to the next: the same for every output that tells how much they rose."""

from __future__ import annotations

from typing import Final

from exporter.catalogue import FROM_ZERO, Kind, Metric

CUMULATIVE: Final = frozenset({Kind.COUNTER, Kind.HISTOGRAM})
"""What only rises, until it is counted anew."""

_NAMES: Final = frozenset({"queue", "name"})
"""Labels of which there may be ever new values."""


def forgotten(metric: Metric) -> bool:
    """Tell whether a series that is not told any more is gone for good, and counts from 0 when it comes back.

    So are those of names, of which there may be ever new ones. Any other is only not known for a while.
    """
    return metric.name in FROM_ZERO and not _NAMES.isdisjoint(metric.labels)
