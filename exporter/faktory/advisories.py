"""Which known crashes can befall a Faktory, before any has: its version has it, and what leads to it is in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from exporter.faktory.versions import Version
from exporter.model import LogEvent, ThrottleLimit
from exporter.process.known import BY_ID, Affected

BUSY_PAGE: Final = "faktory-busy-page"
QUEUE_NAMES: Final = "faktory-queue-names"
ENT_THROTTLE: Final = "faktory-ent-throttle"

_EDITIONS: Final = frozenset({"oss", "enterprise"})


def known_risks(
    version: Version | None,
    edition: str | None,
    throttles: Sequence[ThrottleLimit] | None,
    pages: Mapping[LogEvent, bool] | None,
) -> Mapping[str, bool] | None:
    """Tell of each known incident whether it can befall the server. Left out are those of which that is not known.

    Args:
        version: The server's.
        edition: ``oss``, ``enterprise``, or another word where it is not known.
        throttles: Those that are configured; ``None``: not known.
        pages: Which pages were loaded lately, as the log tells; ``None``: nobody reads it.
    """
    if version is None:
        return None
    used = {
        ENT_THROTTLE: None if throttles is None else bool(throttles),
        BUSY_PAGE: None if pages is None else pages[LogEvent.BUSY_PAGE],
        # Each page walks over the names of the queues. So do INFO and /stats, of which the log is silent.
        QUEUE_NAMES: True if pages is not None and any(pages.values()) else None,
    }
    risks = {name: _both(_has(BY_ID[name].affected, version, edition), it) for name, it in used.items()}
    return {name: risk for name, risk in risks.items() if risk is not None}


def _has(affected: Affected, version: Version, edition: str | None) -> bool | None:
    if not affected.includes(version):
        return False
    if affected.edition in {None, edition}:
        return True
    return False if edition in _EDITIONS else None


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
