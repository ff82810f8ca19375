"""HTTP headers that an operator sets for the requests to a collector: mostly tokens, so every value is a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote

from exporter.secret import Secret

MAX_HEADERS: Final = 64
MAX_VALUE: Final = 8192
"""Most characters of one value: as many as servers usually take."""

FRAMING: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What says how a request is written, which only who writes it can know."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*", re.ASCII)


def from_lines(text: str) -> dict[str, Secret]:
    """Return the headers that ``text`` holds, one ``name: value`` a line; empty lines and ``#`` comments aside.

    Raises:
        ValueError: A line is not a header. The text tells which one and why, and nothing of what it holds.
    """
    # Not splitlines(): to that a line also ends at characters that must be told as wrong.
    lines = ((f"line {number}", line.strip(" \t\r")) for number, line in enumerate(text.split("\n"), 1))
    pairs = ((place, *line.partition(":")) for place, line in lines if line and not line.startswith("#"))
    return _checked(pairs, "name: value")


def from_variable(text: str) -> dict[str, Secret]:
    """Return the headers that OTEL_EXPORTER_OTLP_HEADERS holds: ``name=value,name=value``, percent-encoded.

    Raises:
        ValueError: An entry is not a header. The text tells which one and why, and nothing of what it holds.
    """
    entries = ((f"entry {number}", entry.strip()) for number, entry in enumerate(text.split(","), 1))
    pairs = (
        (place, unquote(name), equals, unquote(value.strip()))
        for place, entry in entries
        if entry
        for name, equals, value in [entry.partition("=")]
    )
    return _checked(pairs, "name=value")


def _checked(pairs: Iterable[tuple[str, str, str, str]], wanted: str) -> dict[str, Secret]:
    return dict(_headers(pairs, wanted))


def _headers(pairs: Iterable[tuple[str, str, str, str]], wanted: str) -> Iterator[tuple[str, Secret]]:
    seen: set[str] = set()
    for place, written, separator, text in pairs:
        name, value = written.strip(" \t").lower(), text.strip(" \t")
        if not separator:
            raise ValueError(f"{place} is not a header; write {wanted}")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"the name in {place} is not one of a header; write {wanted}, with a name such as x-api-key"
            )
        if name in FRAMING:
            raise ValueError(f"{place} sets {name}, which Forewarn sets itself; remove it")
        if name in seen:
            raise ValueError(f"{place} sets a header that was set before it; keep one of them")
        if not _VALUE.fullmatch(value):
            raise ValueError(
                f"the value in {place} holds a line's end or another character that no header may hold; remove it"
            )
        if len(value) > MAX_VALUE:
            raise ValueError(f"the value in {place} is longer than {MAX_VALUE} characters; shorten it")
        if len(seen) == MAX_HEADERS:
            raise ValueError(f"there are more than {MAX_HEADERS} headers; remove some")
        seen.add(name)
        yield name, Secret(value)
