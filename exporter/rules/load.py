"""The settings of the rules from a TOML file, checked key by key."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.inspect import BoolType, LiteralType, Metadata, StructType, VarTupleType, type_info

from exporter.rules.contradictions import contradictions, shown
from exporter.rules.settings import DEFAULTS, RuleSettings, Wait, Window
from exporter.settings import parse_duration

MAX_FILE: Final = 1024 * 1024

LONGEST: Final = 292 * 365 * 86400.0
"""Seconds: Prometheus counts times in nanoseconds of 64 bits."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,60}")


class RuleSettingsError(Exception):
    """The file cannot be used. Each problem names the file, the key, what is wrong and what would be right."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def load(path: Path) -> RuleSettings:
    """Return the defaults, changed where the file says so.

    Raises:
        RuleSettingsError: The file cannot be read, is not TOML, or has keys or values that cannot be used.
    """
    document = _read(path)
    problems: list[str] = []
    settings: RuleSettings = _table(DEFAULTS, document, "", problems)
    if not problems:
        problems += contradictions(settings)
    if problems:
        raise RuleSettingsError(f"{path}: {problem}" for problem in problems)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise RuleSettingsError([f"{path}: it is larger than {MAX_FILE} bytes; name the settings of the rules"])
        return tomllib.loads(content.decode())
    except OSError as error:
        raise RuleSettingsError([f"{path}: {error.strerror or error}; name a readable TOML file"]) from None
    except UnicodeDecodeError:
        raise RuleSettingsError([f"{path}: it is not UTF-8 text; save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise RuleSettingsError([f"{path}: it is not TOML: {error}; mend that place"]) from None
    except ValueError:
        raise RuleSettingsError([f"{path}: it has a number with too many digits; write a smaller one"]) from None
    except RecursionError:
        raise RuleSettingsError([f"{path}: it is nested too deeply; write it flat"]) from None


def _table(default: Any, table: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """Return ``default`` with the values of ``table``, which is called ``where``; add what is wrong to ``problems``."""
    fields = {each.encode_name: each for each in msgspec.structs.fields(type(default))}
    changed: dict[str, Any] = {}
    for key, value in table.items():
        place = f"{where}.{_key(key)}" if where else _key(key)
        if key not in fields:
            problems.append(f"{place}: there is no such key{_nearest(key, fields)}")
            continue
        field = fields[key]
        before = getattr(default, field.name)
        if not isinstance(before, Struct):
            changed[field.name] = _value(field.type, value, place, f" (default: {shown(before)})", problems)
        elif isinstance(value, dict):
            changed[field.name] = _table(before, value, place, problems)
        else:
            problems.append(f"{place} = {shown(value)}: it must be a table; write [{place}] on a line of its own")
    return default if problems else msgspec.structs.replace(default, **changed)


def _value(kind: Any, value: Any, place: str, default: str, problems: list[str]) -> Any:
    """Return ``value`` as the type ``kind``, or ``None`` and a problem that ends with ``default``."""
    item = _item_of(kind)
    if item is not None and isinstance(value, list):
        return tuple(_item(item, each, f"{place}[{number}]", problems) for number, each in enumerate(value))
    try:
        made = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        problems.append(f"{place} = {shown(value)}: it must be {_wanted(kind)}{default}")
        return None
    if isinstance(made, float) and not math.isfinite(made):
        problems.append(f"{place} = {made:g}: it must be {_wanted(kind)}{default}")
    elif isinstance(made, str) and not made.isprintable():
        problems.append(f"{place} = {shown(value)}: it must be one line of text{default}")
    elif kind in (Wait, Window) and parse_duration(made) > LONGEST:
        problems.append(f"{place} = {shown(value)}: Prometheus cannot count above 292y; write less{default}")
    return made


def _item_of(kind: Any) -> type[Struct] | None:
    """Return what a list of tables is made of, ``None`` where ``kind`` is no list."""
    info = type_info(kind)
    return info.item_type.cls if isinstance(info, VarTupleType) and isinstance(info.item_type, StructType) else None


def _item(kind: type[Struct], value: Any, place: str, problems: list[str]) -> Any:
    """Return one table of a list: all of its keys must be there."""
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    if not isinstance(value, dict):
        problems.append(f"{place} = {shown(value)}: it must be a table with {', '.join(fields)}")
        return None
    problems += [
        f"{place}.{_key(key)}: there is no such key{_nearest(key, fields)}" for key in value if key not in fields
    ]
    problems += [
        f"{place}.{key} is missing: it must be {_wanted(field.type)}"
        for key, field in fields.items()
        if key not in value
    ]
    made = {
        field.name: _value(field.type, value[key], f"{place}.{key}", "", problems)
        for key, field in fields.items()
        if key in value
    }
    return None if problems else kind(**made)


def _wanted(kind: Any) -> str:
    info = type_info(kind)
    if isinstance(info, Metadata) and info.extra_json_schema:
        return str(info.extra_json_schema["description"])
    if isinstance(info, LiteralType):
        return "one of " + ", ".join(str(each) for each in info.values)
    return "true or false" if isinstance(info, BoolType) else "a list of tables"


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else shown(key)


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(names)}" if len(names) <= 12 else ""
