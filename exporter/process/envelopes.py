r"""What stands around a line of a process's output: what containers, service managers and loggers put there.

Nobody configures it: each line tells by itself which envelopes it is in. Taken off are

- Docker's json-file, and what follows its manner: ``{"log": "...\n", "stream": "stderr", "time": "..."}``
- CRI (containerd, CRI-O): ``2026-01-31T12:00:00.123456789Z stderr F text``
- ``journalctl -o json``, of which ``MESSAGE`` is a text, or an array of bytes where it cannot be printed
- syslog, and ``journalctl`` in its other formats: ``Jan 31 12:00:00 host unit[123]: text``
- ``docker compose logs`` (``web-1  | text``) and ``kubectl logs --prefix`` (``[pod/web-0/web] text``)
- a timestamp before the text: ``docker logs -t``, ``kubectl logs --timestamps``, ``ts``
- colours.

The last four may stand in one another. Nothing here keeps a state or ever raises: what only looks like an envelope is
a plain line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

MAX_TEXT: Final = 64 * 1024
"""Most characters of what a line or a record says: the rest is cut off. Lines that tell anything are far shorter."""

MAX_STREAM: Final = 200
"""Most characters of a stream's name."""

MARKS: Final = (
    b" stdout P",
    b" stderr P",
    b'"line-max"',
    b'"CONTAINER_PARTIAL_MESSAGE"',
    b'"MESSAGE":[',
    b'"MESSAGE" : [',
)
"""Byte strings one of which is in every line whose envelope hides what its text would show: a piece of a line in CRI or
in the journal, and bytes that are written as numbers. Docker does not mark its pieces by anything to search for."""

_MAX_LAYERS: Final = 4
_MAX_WRAPPING: Final = 1024
_MAX_NESTED: Final = 2

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FORESIGHT: Final = 60.0
_DAY: Final = 86400.0

_ISO: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)"
_LOCAL: Final = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,9})?"
_DATE: Final = (
    rf"(?:{_ISO}|{_LOCAL}"
    r"|(?:[A-Z][a-z]{2} )?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,9})?(?: [A-Z]{2,5}| [+-]\d\d:?\d\d)?"
    r"|\d{9,10}\.\d{6}|\[ *\d{1,9}\.\d{6}\])"
)
# "Jan 31 12:00:00 fatal error: ..." is a timestamp before a line of Go's, not the tag "error" of the host "fatal".
_SOURCE: Final = r"(?!fatal error: )[\w.-]{1,255} (?:[^\s\[\]():]{1,128}|\([^\s()]{1,64}\))(?:\[\d{1,10}\])?"
_SYSLOG: Final = re.compile(rf"(?:<\d{{1,3}}>)?({_DATE}) ({_SOURCE}):(?: (.*))?", re.DOTALL | re.ASCII)
_STAMPED: Final = re.compile(rf"({_ISO}|{_LOCAL})(?: (.*))?", re.DOTALL | re.ASCII)
_CRI: Final = re.compile(rf"({_ISO}) (stdout|stderr) ([PF])(?::\S*)?(?: (.*))?", re.DOTALL | re.ASCII)
_COMPOSE: Final = re.compile(r"(\w[\w.-]{0,127}) +\|(?: (.*))?", re.DOTALL | re.ASCII)
_POD: Final = re.compile(r"\[((?:pod|container)/[^\]\s]{1,300})\](?: (.*))?", re.DOTALL | re.ASCII)
_OWN: Final = re.compile(
    rf"(?:[\[\"(]?[\w=.-]{{1,12}}[\])]?[ :]{{0,2}})?[\[\"(]?({_ISO}|\d{{4}}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d{{1,9}})?)",
    re.ASCII,
)
_COLOUR: Final = re.compile(r"\x1b(?:\[[0-9;:?]{0,32}[ -/]?[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\))")
_RECORD: Final = re.compile(r'\s{0,8}\{\s{0,8}"')
_DOCKER: Final = re.compile(rb'\{"log":"\\n","stream":"std(?:out|err)",(?:"attrs":\{[^{}]*\},)?"time":"[^"\\]*"\}')
_ANY_DATE: Final = re.compile(_DATE.encode(), re.ASCII)
_DOCKER_NAMES: Final = frozenset({"log", "stream", "time", "attrs"})

_SAYS: Final = (
    "msg",
    "message",
    "log",
    "textPayload",
    "error",
    "err",
    "error.message",
    "panic",
    "exception",
    "exception.message",
    "stack",
    "stacktrace",
    "stack_trace",
    "stackTrace",
    "trace",
    "error.stack_trace",
    "exception.stacktrace",
    "jsonPayload",
)
"""Under which names JSON loggers write what they say, in an order in which it makes sense."""

_TIMES: Final = ("time", "ts", "timestamp", "@timestamp", "date")
_SAID: Final = re.compile(rf'"(?:{"|".join(map(re.escape, _SAYS))})"\s*:\s*"((?:[^"\\]|\\.)*+)', re.DOTALL)


class Piece(msgspec.Struct, frozen=True, gc=False):
    """One line without its envelopes, or a part of one."""

    stream: str
    """Whose line it is: lines of different streams have nothing to do with one another."""
    text: str
    """Not :func:`cleaned` yet: it may be only a part."""
    at: float | None = None
    """When it was printed, in Unix time, as its envelope tells."""
    whole: bool = True
    """``False``: the line goes on with the next piece of its stream."""


def peel(raw: bytes, now: float) -> Piece | None:
    """Take one line, without its line end, out of its envelopes; ``None`` where an envelope holds no text.

    ``now`` tells the year of a date that has none.
    """
    if raw.startswith(b"{"):
        fields = _fields(raw)
        if fields is not None:
            if "MESSAGE" in fields and ("__REALTIME_TIMESTAMP" in fields or "__CURSOR" in fields or "_PID" in fields):
                return _journal(fields)
            piece = _docker(fields)
            if piece is not None:
                return piece
    text = raw.decode("utf-8", "replace")
    found = _CRI.fullmatch(text)
    if found is not None:
        return Piece(found[2], found[4] or "", _time(found[1], now), found[3] == "F")
    return _layers(text, now)


def cleaned(text: str) -> str:
    """Return the text of a whole line without colours and the rest of its line end."""
    if "\x1b" in text:
        text = _COLOUR.sub("", text)
    return text.rstrip("\r")


def is_record(text: str) -> bool:
    """Tell whether it is what a logger says of something, and not a line that a process printed: :func:`said`."""
    return "\n" in text or _RECORD.match(text) is not None


def said(text: str, now: float) -> tuple[str, float | None]:
    """Return what a record says and when it was written, in Unix time. The record may be cut off, the result is."""
    if _RECORD.match(text) is None:
        return text[:MAX_TEXT], None
    fields = _fields(text.encode("utf-8", "replace"))
    if fields is None:
        return "\n".join(map(_unescaped, _SAID.findall(text)))[:MAX_TEXT], None
    return "\n".join(_says(fields, _MAX_NESTED))[:MAX_TEXT], _record_time(fields, now)


def own_time(text: str, now: float) -> float | None:
    """Return when a line was printed as far as the line itself tells near its beginning, in Unix time."""
    found = _OWN.match(text)
    return None if found is None else _time(found[1], now)


def wrapping(raw: bytes, text: str) -> tuple[bytes, bytes, bool] | None:
    """Return regular expressions for what stands before and behind ``text`` in ``raw``, and whether it stands in JSON.

    They fit the lines of the same stream alone, whatever the time is. ``None`` where there are none.
    """
    before, found, behind = raw.partition(text.encode("utf-8", "replace") or b"\n")
    if not found or len(before) + len(behind) > _MAX_WRAPPING:
        return None
    if before.startswith(b"{"):
        return (_any_date(before), _any_date(behind), True) if _DOCKER.fullmatch(before + behind) else None
    return None if behind.rstrip(b"\r") else (_any_date(before), _any_date(behind), False)


def _any_date(part: bytes) -> bytes:
    made: list[bytes] = []
    end = 0
    for found in _ANY_DATE.finditer(part):
        # The quicker of two expressions: a 1 GB dump has ten million of them.
        made += (
            re.escape(part[end : found.start()]),
            _ANY_DATE.pattern if b" " in found[0] else rb"[0-9TZ:.,+-]{8,36}+",
        )
        end = found.end()
    return b"".join((*made, re.escape(part[end:])))


def _layers(text: str, now: float) -> Piece:
    names: list[str] = []
    at = None
    for _ in range(_MAX_LAYERS):
        text = text.lstrip("\0")
        if text.startswith("\x1b"):
            text = _COLOUR.sub("", text)
        found = _POD.fullmatch(text) if text.startswith(("[pod/", "[container/")) else None
        if found is None and " |" in text[:160]:
            found = _COMPOSE.fullmatch(text)
        if found is not None:
            names.append(found[1])
            text = found[2] or ""
            continue
        found = _SYSLOG.fullmatch(text)
        if found is not None:
            names.append(found[2])
            # rsyslog writes a tab so.
            text = (found[3] or "").replace("#011", "\t")
        else:
            found = _STAMPED.fullmatch(text)
            if found is None:
                break
            text = found[2] or ""
        if at is None:
            at = _time(found[1], now)
    return Piece("/".join(names)[:MAX_STREAM], text, at)


def _docker(fields: dict[str, msgspec.Raw]) -> Piece | None:
    stream, log = _text(fields.get("stream")), _text(fields.get("log"))
    if log is None or stream not in {"stdout", "stderr"}:
        return None
    whole = log.endswith("\n")
    at = _time(_text(fields.get("time")) or "", 0.0)
    # Docker itself writes no other fields. Those who do, and write without a line end, have joined the pieces.
    return Piece(stream, log[:-1] if whole else log, at, whole or not fields.keys() <= _DOCKER_NAMES)


def _journal(fields: dict[str, msgspec.Raw]) -> Piece | None:
    text = _message(fields["MESSAGE"])
    if text is None:
        return None
    named = (_text(fields.get(name)) for name in ("CONTAINER_NAME", "SYSLOG_IDENTIFIER", "_COMM", "_SYSTEMD_UNIT"))
    pid = _text(fields.get("_PID")) or ""
    micros = _text(fields.get("__REALTIME_TIMESTAMP")) or ""
    partial = _text(fields.get("CONTAINER_PARTIAL_MESSAGE")) == "true" or _text(fields.get("_LINE_BREAK")) == "line-max"
    return Piece(
        f"{next(filter(None, named), '')}[{pid}]"[:MAX_STREAM],
        text,
        int(micros) / 1e6 if micros.isdecimal() and len(micros) <= 17 else None,
        not partial,
    )


def _message(value: msgspec.Raw) -> str | None:
    text = _text(value)
    if text is not None:
        return text
    numbers = _decoded(value, list[int])
    if numbers is not None:
        return bytes(it for it in numbers if 0 <= it < 256).decode("utf-8", "replace")
    texts = _decoded(value, list[str])
    return None if texts is None else "\n".join(texts)


def _says(fields: dict[str, msgspec.Raw], depth: int) -> Iterator[str]:
    for name in _SAYS:
        value = fields.get(name)
        if value is None:
            continue
        text = _text(value)
        if text is not None:
            yield text
        elif depth:
            yield from _says(_decoded(value, dict[str, msgspec.Raw]) or {}, depth - 1)


def _record_time(fields: dict[str, msgspec.Raw], now: float) -> float | None:
    for name in _TIMES:
        value = fields.get(name)
        if value is None:
            continue
        text = _text(value)
        if text is not None:
            return own_time(text, now)
        number = _decoded(value, float)
        if number is not None and 1e8 < number < 1e19:
            # Loggers count seconds, or thousandths, millionths or thousand-millionths of one.
            return number / 1000.0 ** max(0, math.ceil(math.log10(number) / 3 - 11 / 3))
    return None


def _unescaped(body: str) -> str:
    for end in (len(body), body.rfind("\\")):
        text = _text(f'"{body[:end]}"'.encode("utf-8", "replace"))
        if text is not None:
            return text
    return body.replace("\\n", "\n").replace("\\t", "\t")


def _fields(raw: bytes) -> dict[str, msgspec.Raw] | None:
    if not raw.isascii():
        raw = raw.decode("utf-8", "replace").encode()
    return _decoded(raw, dict[str, msgspec.Raw])


def _text(value: msgspec.Raw | bytes | None) -> str | None:
    return None if value is None else _decoded(value, str)


_T = TypeVar("_T")


def _decoded(raw: msgspec.Raw | bytes, kind: type[_T]) -> _T | None:
    """Return what ``raw`` holds; ``None`` where it is no JSON of that kind, or nested too deeply."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _time(text: str, now: float) -> float | None:
    """Return the Unix time of a date. One without a zone is in that of this machine, and never in the future."""
    try:
        if "T" in text and text[4:5] == "-":
            return datetime.fromisoformat(text).timestamp()
        if text.startswith("["):
            return None  # seconds since the machine's start
        if "-" not in text and "/" not in text and ":" not in text:
            return float(text)
        when = _zoneless(text, now)
        at = when.timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return at if when.tzinfo is not None or at <= now + _FORESIGHT else None


def _zoneless(text: str, now: float) -> datetime:
    if text[:3] in _MONTHS and text[3:4] == " ":
        return _yearless(f"{_MONTHS.index(text[:3]) + 1:02}-{text[4:].replace(' ', '0', text[4] == ' ')}", now)
    date, clock, *zone = text.replace("/", "-").split(" ")[text[:1].isalpha() :]
    if zone and zone[0] in {"UTC", "GMT"}:
        zone = ["+00:00"]
    return datetime.fromisoformat(f"{date} {clock}{zone[0] if zone and zone[0][0] in '+-' else ''}")


def _yearless(text: str, now: float) -> datetime:
    """Return the newest such date that is not more than a day ahead: time zones are less than a day apart."""
    year = datetime.fromtimestamp(now, UTC).year
    for each in range(year + 1, year - 8, -1):
        # The 29th of February is in some years only.
        with suppress(ValueError):
            when = datetime.fromisoformat(f"{each}-{text}")
            if when.timestamp() <= now + _DAY:
                return when
    raise ValueError("there is no such date")
