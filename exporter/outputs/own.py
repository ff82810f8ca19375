"""What the sidecar tells of itself and of the age of what it knows: made anew for each scrape and each push."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from exporter.catalogue import (
    BUILD_INFO,
    PROCESS_METRICS,
    SNAPSHOT_AGE,
    Column,
    Labels,
    Metric,
    Value,
    snapshot_age,
)
from exporter.model import Snapshot
from exporter.process_metrics import process_metrics

Further = Callable[[], Iterable[Column]]
"""Tells further metrics of the sidecar, without ``server``: asked at each scrape and push, in any thread."""

OwnColumn = tuple[Metric, tuple[str, ...], Sequence[Labels], Sequence[Value]]
"""All series of a metric under the names of all their labels; of one that has none the only label values are ``()``."""


def nothing() -> Iterable[Column]:
    """Tell of nothing further."""
    return ()


def own_columns(version: str, snapshots: Iterable[Snapshot], now: float, told: Further) -> Iterator[OwnColumn]:
    """Yield what is known at ``now``, by the sidecar's monotonic clock: of each metric that has a series."""
    ages = [((it.server,), snapshot_age(it, now)) for it in snapshots]
    if ages:
        yield SNAPSHOT_AGE, ("server",), [key for key, _ in ages], [age for _, age in ages]
    yield BUILD_INFO, BUILD_INFO.labels, [(version,)], [1]
    process = process_metrics()
    for metric in PROCESS_METRICS:
        if metric.name in process:
            yield metric, metric.labels, [()], [process[metric.name]]
    for metric, keys, values in told():
        if keys:
            yield metric, metric.labels, keys, values
