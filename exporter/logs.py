"""Logging: one line a record, as plain text or as JSON, safe for text that others wrote."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TextIO
from urllib.parse import urlsplit

import msgspec

MAX_TEXT: Final = 4096
"""Most characters of a message, and of each field's value, that are written."""

MAX_FIELDS: Final = 32
"""Most fields of a record, and most items of a field that is a list, that are written."""

MAX_ITEM: Final = 256
"""Most characters of an item of such a list."""


def setup(format: str, level: str, stream: TextIO) -> None:  # noqa: A002 - named after the flag
    """Send every record of at least ``level`` to ``stream``, as ``text`` or ``json``. May be called again.

    Facts about a record go into ``extra={"fields": {...}}``.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # A failed write to a closed pipe must not print a traceback for each record.
    logging.raiseExceptions = False


def redact_url(url: str) -> str:
    """Return ``url`` for logs: without its password, query and fragment; ``***`` where it cannot be understood."""
    try:
        parts = urlsplit(url)
        host, user = parts.netloc.rpartition("@")[2], parts.username
    except ValueError:
        return "***"
    if not parts.scheme or not (host or parts.path.startswith("/")):
        return "***"
    # Without a "//", or with an "@" behind it, what looks like a path may hold the password.
    if not url.startswith(f"{parts.scheme}://") or "@" in parts.path + parts.query + parts.fragment:
        return f"{parts.scheme}://***"
    return f"{parts.scheme}://{f'{user}:***@' if parts.password else f'{user}@' if user else ''}{host}{parts.path}"


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO forewarn: message key=value``: one line whatever the text holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = "".join(f" {escaped(key)}={_quoted(value)}" for key, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {escaped(_message(record))}{fields}"
        failure = _failure(record, self.formatException)
        return f"{line} exception={_quoted(failure)}" if failure else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, and the fields beside them.

    A field that has the name of one of these stands as ``field_NAME``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _unicode(_message(record)),
        }
        failure = _failure(record, self.formatException)
        if failure:
            line["exception"] = _unicode(failure)
        for key, value in _fields(record).items():
            line[_unicode(f"field_{key}" if key in line else key)] = _json_value(value)
        return msgspec.json.encode(line).decode()


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return _bounded(record.getMessage())
    except Exception:  # noqa: BLE001 - a wrong argument must not cost the record
        return _bounded(str(record.msg))


def _failure(record: logging.LogRecord, told: Callable[..., str]) -> str:
    # The end of a traceback tells the error itself.
    text = told(record.exc_info) if record.exc_info else ""
    return text if len(text) <= MAX_TEXT else "…" + text[1 - MAX_TEXT :]


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return {str(key): fields[key] for key in list(fields)[:MAX_FIELDS]} if isinstance(fields, dict) else {}


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def escaped(text: str) -> str:
    """Return ``text`` with all that is not plain print escaped, so that it can end no line and move no cursor."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _quoted(value: object) -> str:
    text = _bounded(str(value))
    plain = text and text.isprintable() and not any(character in ' "=\\' for character in text)
    if plain:
        return text
    unambiguous = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped(unambiguous)}"'


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, (list, tuple)):
        return [_json_item(each) for each in value[:MAX_FIELDS]]
    return _unicode(_bounded(str(value)))


def _json_item(value: object) -> object:
    if not isinstance(value, dict):
        return _unicode(str(value)[:MAX_ITEM])
    return {_unicode(str(key)[:MAX_ITEM]): _unicode(str(value[key])[:MAX_ITEM]) for key in list(value)[:MAX_FIELDS]}


def _unicode(text: str) -> str:
    """Return ``text`` as it can be encoded: a lone surrogate has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
