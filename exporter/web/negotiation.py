"""What a scraper accepts: its ``Accept`` and ``Accept-Encoding`` headers, read as RFC 9110 section 12 has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_QUALITY = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")

_OPENMETRICS = "application/openmetrics-text"
_TEXT = "text/plain"


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics 1.0 is liked better than text 0.0.4, or named and liked as much. Text needs no asking for."""
    ranges = list(_ranges(accept))
    openmetrics = _quality(ranges, _OPENMETRICS, "1.0.0")
    text = _quality(ranges, _TEXT, "0.0.4")
    named = any(name == _OPENMETRICS for name, _, _ in ranges)
    return openmetrics > text or (openmetrics == text > 0 and named)


def wants_gzip(accept_encoding: str) -> bool:
    """Whether a body may be compressed with gzip, and is liked no less that way."""
    ranges = {name: quality for name, _, quality in _ranges(accept_encoding)}
    gzip = ranges.get("gzip", ranges.get("*", 0.0))
    return gzip > 0 and gzip >= ranges.get("identity", 0.0)


def _ranges(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, parameters and quality of each element; those with a malformed quality are left out."""
    for element in header.lower().split(","):
        name, *rest = (part.strip() for part in element.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        quality = parameters.pop("q", "1")
        if name and _QUALITY.fullmatch(quality):
            yield name, parameters, float(quality)


def _quality(ranges: list[tuple[str, dict[str, str], float]], media_type: str, version: str) -> float:
    """Return how much ``media_type`` in ``version`` is liked: the most specific range that fits it decides."""
    wildcards = (f"{media_type.partition('/')[0]}/*", "*/*")
    best = (-1, 0.0)
    for name, parameters, quality in ranges:
        if name == media_type and parameters.get("version", version) == version:
            best = max(best, (3 if "version" in parameters else 2, quality))
        elif name in wildcards:
            best = max(best, (1 - wildcards.index(name), quality))
    return best[1]
