"""Makes two plays of the script comparable: only times, random values and measured numbers are blotted out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

TIME_FIELDS = frozenset({"created_at", "enqueued_at", "at", "reserved_at", "expires_at", "failed_at", "next_at", "now"})
MEASURED_FIELDS = frozenset({"used_memory_mb", "wall_time_sec", "cycles", "uptime"})
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z", re.ASCII)
_CLOCK = re.compile(r"\d\d:\d\d:\d\d UTC", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
DEAD_DAYS = 180


def seconds(instant: str) -> float:
    """Unix seconds of an RFC 3339 instant; the fraction is cut at microseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", instant)).timestamp()


def document(value: Any, field: str = "") -> Any:
    """A JSON document with its times, random and measured values blotted out."""
    if isinstance(value, dict):
        return {name: document(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [document(inner) for inner in value]
    if field in TIME_FIELDS and isinstance(value, str) and _INSTANT.fullmatch(value):
        return "<time>"
    if field == "server_utc_time" and isinstance(value, str) and _CLOCK.fullmatch(value):
        return "<clock>"
    if field in MEASURED_FIELDS and isinstance(value, int | float):
        return "<number>"
    return value


def reply(value: str | bytes | None) -> Any:
    """One reply: a line as it is, a bulk as the document that it holds, nil as null."""
    if isinstance(value, bytes):
        return {"bulk": text(value.decode())}
    if isinstance(value, str) and value.startswith("+HI "):
        told = json.loads(value[4:])
        return {"hi": told | {key: f"<{key}>" for key in ("i", "s") if key in told}}
    return value


def text(value: str) -> Any:
    """A stored or sent text: its document where it is JSON."""
    try:
        return document(json.loads(value))
    except ValueError:
        return value


def latencies(value: str | bytes | None) -> Any:
    """The reply to QUEUE LATENCY: whether each queue waits."""
    if not isinstance(value, bytes):
        return value
    return {name: "waits" if waits > 0 else waits for name, waits in json.loads(value).items()}


def key(name: str) -> str:
    """A key's name without the day in it."""
    return _DAY.sub("<day>", name)


def entry(member: str, score: float, now: float) -> dict[str, Any]:
    """One member of a sorted set, with what its score stands for."""
    try:
        told = json.loads(member)
    except ValueError:
        return {"member": member, "score": score}
    return {"member": document(told), "score": _meaning(told, score, now)}


def _meaning(told: Mapping[str, Any], score: float, now: float) -> Any:
    named = {"expires_at": told.get("expires_at"), "at": told.get("at")}
    named["failure.next_at"] = (told.get("failure") or {}).get("next_at")
    for name, instant in named.items():
        if instant and abs(seconds(instant) - score) < 1e-5:
            reserved = told.get("reserved_at")
            if name == "expires_at" and reserved:
                return f"expires_at, {round(seconds(instant) - seconds(reserved), 3)} s after reserved_at"
            return name
    if abs(score - now - DEAD_DAYS * 86400) < 3600:
        return f"{DEAD_DAYS} days from now"
    return score
