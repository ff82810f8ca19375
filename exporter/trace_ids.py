"""The ids of traces and spans: the same on every run of Forewarn, so that nothing is ever told as two things."""

from __future__ import annotations

from hashlib import sha256


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


def process_span(server: str, jid: str, reserved_at: float) -> str:
    """Return the span id of one execution: that of the same reservation is always the same."""
    return span_id(server, jid, f"{reserved_at:.6f}", "process")


def _digest(*parts: str) -> str:
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()
