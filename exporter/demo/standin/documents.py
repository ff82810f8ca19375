"""JSON and instants as Go's standard library reads and writes them: what Faktory's replies and errors are made of."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn


class DocumentError(ValueError):
    """A document or an instant that Go would refuse; the text is the one that Go tells."""


class _Real(float):
    """A number that was not written as an integer; remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> _Real:
        made = super().__new__(cls, text)
        made.text = text
        return made


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def parse(text: str) -> Any:
    """Read one JSON document; DocumentError with Go's words where it is none."""
    try:
        return json.loads(text, parse_float=_Real, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise DocumentError(_Fault(text).find()) from None


def dump(value: object) -> str:
    """Write JSON as Go does: nothing between the tokens, and no character that means something in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def plain(value: Any) -> Any:
    """Return a free-form value as it looks after Go has read it: every number a float64, every object sorted."""
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, int) and abs(value) > 1 << 53:
        value = float(value)
    if isinstance(value, float):
        return int(Decimal(repr(float(value)))) if value.is_integer() and abs(value) < 1e21 else float(value)
    return value


_KINDS = {str: "string", bool: "bool", list: "array", dict: "object", int: "number", _Real: "number"}
_INTEGERS = {"int": 63, "int64": 63, "uint8": 8}


def read_struct(document: Any, name: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Take the known ``fields`` (name to Go type) out of ``document``; null is as absent, unknown names are skipped.

    Raises DocumentError for the first value of a wrong type, naming the Go struct ``name`` as Go does.
    """
    if document is None:
        return {}
    if not isinstance(document, dict):
        wanted = name if "." in name else f"server.{name}"
        raise DocumentError(f"json: cannot unmarshal {_KINDS[type(document)]} into Go value of type {wanted}")
    found: dict[str, Any] = {}
    for key, value in document.items():
        field = key if key in fields else key.lower()
        if field in fields and value is not None:
            _check_type(value, fields[field], f"{name.rpartition('.')[2]}.{field}")
            found[field] = value
    return found


def _check_type(value: Any, wanted: str, place: str) -> None:
    told = _KINDS[type(value)]
    if wanted in _INTEGERS:
        bits = _INTEGERS[wanted]
        lowest = 0 if wanted.startswith("u") else -(1 << bits)
        if type(value) is int and lowest <= value < 1 << bits:
            return
        if told == "number":
            told = f"number {getattr(value, 'text', value)}"
    elif wanted == "[]string":
        if isinstance(value, list):
            for item in value:
                if item is not None and not isinstance(item, str):
                    raise DocumentError(
                        f"json: cannot unmarshal {_KINDS[type(item)]} into Go struct field {place} of type string"
                    )
            return
    elif isinstance(value, {"string": str, "[]interface {}": list}.get(wanted, dict)):
        return
    raise DocumentError(f"json: cannot unmarshal {told} into Go struct field {place} of type {wanted}")


class _End(Exception):  # noqa: N818
    """The text ends too early."""


class _Fault:
    """Finds the first fault of a text that is not JSON."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def find(self) -> str:
        try:
            self._value()
            self._space()
            if self.at < len(self.text):
                self._fail("after top-level value")
        except _End:
            return "unexpected end of JSON input"
        except RecursionError:
            return "exceeded max depth"
        except DocumentError as fault:
            return str(fault)
        return "invalid number"  # well-formed for Go, yet not readable: beyond float64

    def _fail(self, where: str) -> NoReturn:
        # Go looks at bytes: of a character beyond ASCII it tells the first byte as if that were a character.
        byte = chr((self.text[self.at : self.at + 1] or " ").encode("utf-8", "replace")[0])
        told = {"'": r"\'", "\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\"}.get(byte, byte)
        if told == byte and not byte.isprintable():
            told = f"\\x{ord(byte):02x}" if ord(byte) < 128 else f"\\u{ord(byte):04x}"
        raise DocumentError(f"invalid character '{told}' {where}")

    def _peek(self) -> str:
        if self.at >= len(self.text):
            raise _End
        return self.text[self.at]

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
            self.at += 1

    def _take(self, wanted: str, where: str) -> str:
        # Go ends a text with a blank, and so tells of one where a word or number is cut off.
        character = self.text[self.at : self.at + 1] or " "
        if character not in wanted:
            self._fail(where)
        self.at += 1
        return character

    def _mark(self, wanted: str, where: str) -> str:
        self._space()
        self._peek()
        return self._take(wanted, where)

    def _value(self) -> None:
        self._space()
        character = self._peek()
        if character == "{":
            self._object()
        elif character == "[":
            self._array()
        elif character == '"':
            self._string()
        elif character in "-0123456789":
            self._number()
        elif character in "tfn":
            word = {"t": "true", "f": "false", "n": "null"}[character]
            self.at += 1
            for letter in word[1:]:
                self._take(letter, f"in literal {word} (expecting '{letter}')")
        else:
            self._fail("looking for beginning of value")

    def _object(self) -> None:
        self.at += 1
        self._space()
        if self._peek() == "}":
            self.at += 1
            return
        while True:
            self._space()
            if self._peek() != '"':
                self._fail("looking for beginning of object key string")
            self._string()
            self._mark(":", "after object key")
            self._value()
            if self._mark(",}", "after object key:value pair") == "}":
                return

    def _array(self) -> None:
        self.at += 1
        self._space()
        if self._peek() == "]":
            self.at += 1
            return
        while True:
            self._value()
            if self._mark(",]", "after array element") == "]":
                return

    def _string(self) -> None:
        self.at += 1
        while (character := self._peek()) != '"':
            if character < " ":
                self._fail("in string literal")
            self.at += 1
            if character == "\\" and self._take('bfnrtu"\\/', "in string escape code") == "u":
                for _ in range(4):
                    self._take("0123456789abcdefABCDEF", r"in \u hexadecimal character escape")
        self.at += 1

    def _digits(self, where: str) -> None:
        self._take("0123456789", where)
        while self.at < len(self.text) and self.text[self.at] in "0123456789":
            self.at += 1

    def _number(self) -> None:
        if self.text[self.at] == "-":
            self.at += 1
        if self.text[self.at : self.at + 1] == "0":
            self.at += 1
        else:
            self._digits("in numeric literal")
        if self.text[self.at : self.at + 1] == ".":
            self.at += 1
            self._digits("after decimal point in numeric literal")
        if self.text[self.at : self.at + 1] in ("e", "E"):
            self.at += 1
            if self.text[self.at : self.at + 1] in ("+", "-"):
                self.at += 1
            self._digits("in exponent of numeric literal")


NANO = 1_000_000_000
_LAYOUT = "2006-01-02T15:04:05.999999999Z07:00"
_PARTS = (
    ("2006", r"\d{4}"), ("-", "-"), ("01", r"\d\d"), ("-", "-"), ("02", r"\d\d"), ("T", "T"),
    ("15", r"\d\d"), (":", ":"), ("04", r"\d\d"), (":", ":"), ("05", r"\d\d"),
)  # fmt: skip


def instant(nanoseconds: int | None = None) -> str:
    """Write Unix nanoseconds (now when not told) as RFC 3339 in UTC, without trailing zeros in the fraction."""
    seconds, rest = divmod(time.time_ns() if nanoseconds is None else nanoseconds, NANO)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def parse_instant(text: str) -> int:
    """Read RFC 3339 as Unix nanoseconds; DocumentError with Go's words where it is none."""
    failed = f"parsing time {json.dumps(text)}"
    at = 0
    numbers: list[int] = []
    for part, pattern in _PARTS:
        match = re.compile(pattern, re.ASCII).match(text, at)
        if match is None:
            raise DocumentError(f'{failed} as "{_LAYOUT}": cannot parse {json.dumps(text[at:])} as "{part}"')
        if pattern.startswith("\\"):
            numbers.append(int(match[0]))
        at = match.end()
    fraction = re.compile(r"[.,](\d+)", re.ASCII).match(text, at)
    at = fraction.end() if fraction else at
    zone = re.compile(r"Z|([+-])(\d\d):(\d\d)", re.ASCII).match(text, at)
    if zone is None:
        raise DocumentError(f'{failed} as "{_LAYOUT}": cannot parse {json.dumps(text[at:])} as "Z07:00"')
    if zone.end() < len(text):
        raise DocumentError(f"{failed}: extra text: {json.dumps(text[zone.end() :])}")
    for value, most, name in zip(
        numbers[1:], (12, 31, 23, 59, 59), ("month", "day", "hour", "minute", "second"), strict=True
    ):
        if value > most or (value == 0 and name in {"month", "day"}):
            raise DocumentError(f"{failed}: {name} out of range")
    try:
        seconds = int(datetime(*numbers, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]
    except ValueError:
        raise DocumentError(f"{failed}: day out of range") from None
    if zone[1]:
        shift = int(zone[2]) * 3600 + int(zone[3]) * 60
        seconds -= shift if zone[1] == "+" else -shift
    return seconds * NANO + (int(fraction[1][:9].ljust(9, "0")) if fraction else 0)


def score(nanoseconds: int) -> float:
    """Return the score that Faktory gives an instant in a sorted set."""
    seconds, rest = divmod(nanoseconds, NANO)
    return float(seconds) + rest / NANO
