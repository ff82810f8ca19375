"""The ``INFO`` document, as every version from 1.6 to the newest writes it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from exporter.faktory.errors import FaktoryError
from exporter.faktory.times import parse_time
from exporter.model import Details, Reason, label_value

SETS: Final = ("scheduled", "retries", "dead", "working")
"""The sets beside the queues, under Faktory's own names."""

_TASK_OF_SET: Final = {"scheduled": "Scheduled", "retries": "Retries", "dead": "Dead", "working": "Busy"}
_LARGEST: Final = 2**53
_ANYTHING = msgspec.json.Decoder(float_hook=float)  # else one number like 1e999 fails the whole document
_MEBIBYTES = re.compile(r"(\d{1,9}) ?MB", re.ASCII)


class Info(msgspec.Struct, frozen=True):
    """What one ``INFO`` tells. A fact that is missing, of the wrong type or absurd is ``None``; the rest stands."""

    details: Details
    now: float | None = None
    """The server's clock."""
    version: str | None = None
    edition: str | None = None
    connections: int | None = None
    commands: int | None = None
    queues: Mapping[str, int] | None = None
    """Sizes by name."""
    sets: Mapping[str, int] | None = None
    """Sizes by name; a set whose size was not told is left out."""
    processed: int | None = None
    failed: int | None = None


def edition_of(description: str) -> str:
    """Return which edition a server's description of itself means."""
    if description == "Faktory":
        return "oss"
    lowered = description.lower()
    return "enterprise" if "enterprise" in lowered else label_value(lowered[:40])


def decode_info(body: bytes, asked_at: float) -> Info:
    """Understand an ``INFO`` document. ``asked_at`` stands in where the server does not tell its time.

    Raises:
        FaktoryError: It is no JSON object.
    """
    try:
        document = _ANYTHING.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FaktoryError(Reason.DECODE, f"the INFO document is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise FaktoryError(Reason.DECODE, "the INFO document is no JSON object: is that a Faktory server?")
    faktory, server = _map(document.get("faktory")), _map(document.get("server"))
    tasks = _map(faktory.get("tasks"))
    now = _time(document.get("now"))
    workers, busy = _map(tasks.get("Workers")), _map(tasks.get("Busy"))
    memory = _megabytes(server.get("used_memory_mb"))
    return Info(
        details=Details(
            asked_at=asked_at if now is None else now,
            uptime=_count(server.get("uptime")),
            memory_bytes=None if memory is None else memory * 1024 * 1024,
            workers=_count(workers.get("size")),
            workers_reaped=_count(workers.get("reaped")),
            reservations_expired=_count(busy.get("reaped")),
        ),
        now=now,
        version=_text(server.get("faktory_version")),
        edition=None if (name := _text(server.get("description"))) is None else edition_of(name),
        connections=_count(server.get("connections")),
        commands=_count(server.get("command_count")),
        queues=_queues(faktory.get("queues")),
        sets=_sets(_map(faktory.get("sets")), tasks),
        processed=_count(faktory.get("total_processed")),
        failed=_count(faktory.get("total_failures")),
    )


def _queues(told: object) -> dict[str, int] | None:
    if not isinstance(told, dict):
        return None
    sizes: dict[str, int] = {}
    for name, value in told.items():
        size = _count(value)
        if size is not None:
            label = label_value(name)
            sizes[label] = sizes.get(label, 0) + size
    return sizes


def _sets(told: Mapping[str, object], tasks: Mapping[str, object]) -> dict[str, int]:
    # Before 1.9 there is no map of sets; the sizes stand with the tasks that sweep them.
    sizes: dict[str, int] = {}
    for name, task in _TASK_OF_SET.items():
        size = _count(told.get(name))
        if size is None:
            size = _count(_map(tasks.get(task)).get("size"))
        if size is not None:
            sizes[name] = size
    return sizes


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or not 0 <= value < _LARGEST or value != int(value):
        return None
    return int(value)


def _text(value: object) -> str | None:
    return label_value(value) if isinstance(value, str) else None


def _time(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_time(value)
    except ValueError:
        return None


def _megabytes(value: object) -> int | None:
    # Up to 1.4 it is a text such as "5 MB".
    if isinstance(value, str):
        match = _MEBIBYTES.fullmatch(value)
        return int(match[1]) if match else None
    return _count(value)
