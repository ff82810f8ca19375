"""``python -m tests.scale`` writes the numbers of docs/scale.md: counted on pages that are rendered, not on paper.

The pages are those of a server that tells nothing by StatsD, all of whose queues have busy jobs and all of whose job
types have left durations behind: the most that such a server comes to.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from exporter.model import (
    AGE_BUCKETS,
    DURATION_BUCKETS,
    BusyGroup,
    BusyVerdict,
    OrphanGroup,
    Queue,
    QueuesVerdict,
    Scope,
    Snapshot,
    ThrottlesVerdict,
    ThrottleUse,
)
from exporter.outputs.prometheus import Exposition
from tests.snapshots import distribution, full

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN: Final = "<!-- computed by `python -m tests.scale` -->"
END: Final = "<!-- computed until here -->"

SCRAPE_INTERVAL: Final = 15.0
FLEETS: Final = (10, 100, 1000)
BYTES_PER_SAMPLE: Final = 1.5
"""On Prometheus's disk: its documentation says one to two."""


class Shape(NamedTuple):
    """What one server is made of."""

    queues: int
    types: int
    """Job types of each queue."""
    throttles: int
    """Queues with a throttle in the cluster, and in each worker."""


SHAPES: Final = {"small": Shape(5, 2, 0), "usual": Shape(20, 3, 5), "large": Shape(100, 2, 20)}


def snapshot(shape: Shape) -> Snapshot:
    """Return what is known of such a server."""
    names = [f"queue-{number}" for number in range(shape.queues)]
    pairs = [(name, f"Job{number}Type{kind}") for number, name in enumerate(names) for kind in range(shape.types)]
    return msgspec.structs.replace(
        full("production-1"),
        queues=QueuesVerdict(
            {name: Queue(number * 7, number * 1.375, paused=False) for number, name in enumerate(names)},
            {"queue": len(names), "jobtype": shape.types},
            200,
        ),
        busy=BusyVerdict(
            {pair: BusyGroup(number + 1, number * 3.0625, number / 1000) for number, pair in enumerate(pairs)},
            {name: distribution(AGE_BUCKETS, [0.5, 7, 300]) for name in names},
            {pair: distribution(DURATION_BUCKETS, [0.25, 40, 5000]) for pair in pairs},
        ),
        workers=msgspec.structs.replace(full().workers, orphans={pair: OrphanGroup(1, 3.5) for pair in pairs[:1]}),
        throttles=ThrottlesVerdict(
            {(name, scope): ThrottleUse(4, 3, 9, 12.5) for name in names[: shape.throttles] for scope in Scope}
        ),
        executions=None,
        statsd=None,
    )


def page(shape: Shape) -> bytes:
    """Return what is scraped."""
    exposition = Exposition("0.0.0")
    exposition.update(snapshot(shape))
    return exposition.body(101.0)


def series(shape: Shape) -> int:
    """Return how many series one server has."""
    return sum(not line.startswith(b"#") for line in page(shape).splitlines())


def kilobytes(shape: Shape) -> int:
    """Return the size of a scrape before gzip."""
    return round(len(page(shape)) / 1000)


def packed(shape: Shape) -> int:
    """Return the bytes of a scrape by gzip, as Prometheus asks for it. They differ a little by the version of zlib."""
    return len(zlib.compress(page(shape)))


class Formula(NamedTuple):
    """Series of a server: so many, and so many more for each."""

    fixed: int
    queue: int
    pair: int
    """Of a queue and a job type of it."""
    throttle: int
    """Of a queue with both kinds of throttle."""

    def of(self, shape: Shape) -> int:
        """Return the series of a server."""
        pairs = shape.queues * shape.types
        return self.fixed + self.queue * shape.queues + self.pair * pairs + self.throttle * shape.throttles


def formula() -> Formula:
    """Return the formula, from pages that differ in one thing each."""
    some = series(Shape(10, 1, 2))
    pair = (series(Shape(10, 2, 2)) - some) // 10
    queue = series(Shape(11, 1, 2)) - some - pair
    throttle = series(Shape(10, 1, 3)) - some
    return Formula(some - 10 * (queue + pair) - 2 * throttle, queue, pair, throttle)


def text() -> str:
    """Return the computed part of the document."""
    return "\n".join((BEGIN, "", *_lines(), "", END))


def _lines() -> Iterator[str]:
    it = formula()
    yield "```text"
    yield f"series = {it.fixed} + {it.queue} x queues + {it.pair} x pairs of queue and job type"
    yield f"         + {it.throttle} x throttled queues"
    yield "```"
    yield ""
    yield "| server | queues | job types of each | throttled queues | series | kB of a scrape |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, shape in SHAPES.items():
        cells = (name, *shape, f"{series(shape):,}", f"{kilobytes(shape):,}")
        yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""
    usual = SHAPES["usual"]
    yield f"Of usual servers, scraped every {SCRAPE_INTERVAL:g} s:"
    yield ""
    yield "| servers | active series | samples a second | scraped before gzip, MB a second | on disk in 30 days, GB |"
    yield "| --- | --- | --- | --- | --- |"
    for fleet in FLEETS:
        active = fleet * series(usual)
        rate = active / SCRAPE_INTERVAL
        wire = fleet * kilobytes(usual) / SCRAPE_INTERVAL / 1000
        disk = rate * BYTES_PER_SAMPLE * 30 * 86400 / 1e9
        yield f"| {fleet:,} | {active:,} | {rate:,.0f} | {wire:,.2f} | {disk:,.1f} |"


def written(document: str) -> str:
    """Return the document with the computed part anew."""
    return re.sub(rf"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: text(), document, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
