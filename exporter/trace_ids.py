"""The ids of traces and spans: the same on every run of Forewarn, so that nothing is ever told as two things."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
)


def trace_id(*parts: str) -> str:
    """Return the trace id of what ``parts`` name, 32 hexadecimal digits: of a job, its server and its id.

    The same on every run of Forewarn: 16 bytes of SHA-256 over the parts, each behind its length.
    """
    return _digest("trace", *parts)[:32]


def span_id(*parts: str) -> str:
    """Return the span id of what ``parts`` name, 16 hexadecimal digits."""
    return _digest("span", *parts)[:16]


def job_trace(server: str, jid: str) -> str:
    """Return the trace that all attempts of a job share."""
    return trace_id(server, jid)


def producer(traceparent: str | None) -> tuple[str, str] | None:
    """Return the ids of the trace and the span that a ``traceparent`` names; ``None`` if it is not well-formed."""
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    return None if found is None else (found[1], found[2])


def told_trace(server: str, jid: str, traceparent: str | None, *, parent: bool) -> str:
    """Return the trace in which a job is told: its producer's where ``parent`` and it is known, else the job's own."""
    found = producer(traceparent) if parent else None
    return job_trace(server, jid) if found is None else found[0]


def process_span(server: str, jid: str, reserved_at: float) -> str:
    """Return the span id of one execution: that of the same reservation is always the same."""
    return span_id(server, jid, f"{reserved_at:.6f}", "process")


def _digest(*parts: str) -> str:
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()
