"""The mapping file with which Prometheus's statsd_exporter turns what Forewarn pushes back into its metrics.

``python -m exporter.outputs.statsd_exporter`` writes ``deploy/statsd_exporter.yml``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from exporter.catalogue import METRICS, SNAPSHOT_AGE, SNAPSHOT_METRICS, Metric
from exporter.outputs.statsd import Sample, part, samples

INFINITE: Final = "+Inf"
GAUGE_TTL: Final = "5m"
"""For how long statsd_exporter tells a gauge that it is not sent any more."""

_HEAD: Final = f"""\
# For statsd_exporter, which receives StatsD for Prometheus: --statsd.mapping-config=statsd_exporter.yml
#
# Turns what Forewarn pushes by statsd:// and by dogstatsd:// back into the metrics that it has at /metrics.
# Written by `python -m exporter.outputs.statsd_exporter`: change the table in exporter/catalogue.py, not this file.
#
# A gauge that is not sent any more is forgotten after its ttl of {GAUGE_TTL}: make it longer where statsd.interval is.
# Histograms come as counters of the same names and labels, which queries cannot tell apart.
# statsd_exporter tells process_* of itself, and nothing at all where another told the same names: those of Forewarn
# become forewarn_process_*. So without this file it must not be sent them.
# Label values keep their escapes: by statsd:// all but letters, digits, _ and -, such as -2E for a dot; by dogstatsd://
# only a comma, a | and control characters, such as %2C.
mappings:
"""


def mapping(system: str) -> str:
    """Return the text of the file with the names that servers of ``system`` have."""
    lines = [_HEAD.rstrip("\n")]
    for metric in METRICS:
        has_server = metric is SNAPSHOT_AGE or metric in SNAPSHOT_METRICS
        labels = ("server", *metric.labels) if has_server else metric.labels
        its = samples(metric, system, labels, ())
        for sample in {sample.name: sample for sample in its}.values():
            lines += _entry(metric, sample, sample.name, {})
        if labels:
            for sample in its:
                lines += _entry(metric, sample, ".".join((sample.name, *_parts(sample))), _values(sample))
    return "\n".join(lines) + "\n"


def _entry(metric: Metric, sample: Sample, match: str, labels: Mapping[str, str]) -> Iterator[str]:
    yield f"  - match: {json.dumps(match)}"
    yield f"    match_metric_type: {'counter' if sample.counter else 'gauge'}"
    yield f"    name: {'forewarn_' if sample.name.startswith('process_') else ''}{sample.name}"
    yield f"    help: {json.dumps(metric.help, ensure_ascii=False)}"
    if labels:
        yield "    labels:"
        for name, value in labels.items():
            yield f"      {name}: {json.dumps(value)}"
    if not sample.counter:
        yield f"    ttl: {GAUGE_TTL}"


def _parts(sample: Sample) -> Iterator[str]:
    for _ in range(len(sample.labels) - len(sample.behind)):
        yield "*"
    for bound in sample.behind:
        # A part of a pattern may not begin with an escape. Behind all finite bounds nothing else is left.
        yield "*" if bound == INFINITE else part(bound)


def _values(sample: Sample) -> Mapping[str, str]:
    captured = [f"${index}" for index in range(1, len(sample.labels) - len(sample.behind) + 1)]
    return dict(zip(sample.labels, (*captured, *sample.behind), strict=True))


if __name__ == "__main__":
    sys.stdout.write(mapping("faktory"))
