"""What the operator has set: flags over environment over the TOML file over defaults.

Typed with msgspec, which decodes everything else here too: pydantic-settings would add 8 MiB of resident memory to a
sidecar and give nothing more. Passwords are taken out of URLs and files as they are read; from there on they exist
only as :class:`~exporter.secret.Secret`. No text of this module ever repeats a URL or the content of a file.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import msgspec

from exporter.faktory.endpoint import Endpoint, host_port, split_url, tls_context
from exporter.faktory.redis_link import RedisAddress
from exporter.secret import Secret
from exporter.systems import SYSTEMS
from exporter.web.address import Address, ListenError, parse_address

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

LOG_FORMATS: Final[tuple[LogFormat, ...]] = ("text", "json")
LOG_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warning", "error")

WEB_UI_PORT: Final = 7420
MIN_INTERVAL: Final = 1.0
MAX_INTERVAL: Final = 3600.0
MAX_LABEL_VALUES: Final = 10_000
MAX_CONNECTIONS: Final = 10_000_000
MAX_SERVER_NAME: Final = 64
MAX_FILE: Final = 1024 * 1024
MAX_SECRET: Final = 4096

GLOBAL_FLAGS: Final[Mapping[str, str]] = {
    "interval": "interval",
    "state-file": "state_file",
    "log.format": "log.format",
    "log.level": "log.level",
    "web.listen-address": "web.listen_address",
    "max-label-values": "max_label_values",
}
"""The flags that concern the sidecar itself, and their keys in the file."""

SERVER_FLAGS: Final[Mapping[str, str]] = {
    "faktory.url": "url",
    "faktory.web-url": "web_url",
    "faktory.redis-url": "redis_url",
    "faktory.config-dir": "config_dir",
    "faktory.connections-limit": "connections_limit",
    "faktory.password-file": "password_file",
    "faktory.redis-password-file": "redis_password_file",
    "faktory.ca-file": "ca_file",
    "faktory.redis-ca-file": "redis_ca_file",
}
"""The flags that describe the one server named ``faktory``, and their keys in a ``[[servers]]`` of the file."""

FLAGS: Final = ("config", *GLOBAL_FLAGS, *SERVER_FLAGS)
"""Every flag of ``forewarn run``, without its dashes."""

HOW_TO_BEGIN: Final = (
    "nothing to watch is configured: set --faktory.url (or FAKTORY_URL) to tcp://:PASSWORD@HOST:7419,"
    " or name a file with [[servers]] by --config; `forewarn demo` shows all of it without a server"
)

_INTEGER_KEYS: Final = frozenset({"max_label_values", "connections_limit"})
_SERVER_KEYS: Final = ("name", "system", *SERVER_FLAGS.values())

_SERVICE_LINK: Final = re.compile(
    r"FOREWARN(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""The variables that Kubernetes gives to every container beside a Service whose name begins with "forewarn"."""

_DURATION: Final = re.compile(
    r"(?:(\d{1,9})y)?(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?",
    re.ASCII,
)
_UNITS: Final = (365 * 86400.0, 7 * 86400.0, 86400.0, 3600.0, 60.0, 1.0, 0.001)

_FLAG, _ENVIRONMENT, _FILE = range(3)


class SettingsError(Exception):
    """The settings cannot be used. Each problem says where, which key, what is wrong and how to mend it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class NothingConfigured(SettingsError):  # noqa: N818 - an outcome that says what to set
    """No server is configured at all."""

    def __init__(self) -> None:
        super().__init__([HOW_TO_BEGIN])


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One server to watch."""

    name: str
    system: str = "faktory"
    url: Secret
    """Where its command port is, without the password."""
    web_url: str
    """Where its Web UI is. Never with a password: the health page needs none."""
    redis_url: Secret | None = None
    """Where its Redis is, without the password."""
    config_dir: Path | None = None
    connections_limit: int | None = None
    password: Secret | None = None
    redis_password: Secret | None = None
    ca_file: Path | None = None
    redis_ca_file: Path | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is set."""

    servers: tuple[ServerSettings, ...]
    interval: float = 5.0
    """Seconds from one poll to the next."""
    state_file: Path | None = None
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    web_listen_address: Address = Address("127.0.0.1", 9386)
    max_label_values: int = 200


def load(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Return the settings that ``flags`` (by name, without dashes), ``environ`` and the configuration file give.

    An environment variable that is empty counts as not set.

    Raises:
        NothingConfigured: No server is configured.
        SettingsError: Something is wrong; it tells all that was found.
    """
    problems: list[str] = []
    given = _from_environment(environ, problems)
    given |= {name: _Given(text, f"--{name}", _FLAG) for name, text in flags.items() if text is not None}
    file = _File({}, ())
    if config := given.get("config"):
        file = _read_file(Path(str(config.value)), config.place, problems)

    top = {key: given.get(flag) or file.top.get(key) for flag, key in GLOBAL_FLAGS.items()}
    chosen = _take(top, _TOP_PARSERS, problems)
    servers = _servers(given, file, environ, problems)
    if problems:
        raise SettingsError(problems)
    if not servers:
        raise NothingConfigured
    return Settings(servers=servers, **{key.replace(".", "_"): value for key, value in chosen.items()})


def parse_duration(text: str) -> float:
    """Return the seconds of a duration as Prometheus writes it: ``500ms``, ``5s``, ``1m30s``, ``1h``.

    Raises:
        ValueError: It is not one.
    """
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        raise ValueError(f"{_shown(text)} is not a duration; write one such as 500ms, 5s, 1m30s or 1h")
    return math.fsum(int(count) * unit for count, unit in zip(match.groups(), _UNITS, strict=True) if count)


class _Given(msgspec.Struct, frozen=True):
    """One value that somebody gave, and where: the lowest layer is the strongest."""

    value: str | int
    place: str
    layer: int
    folder: Path = Path()
    """What a relative path in it starts from."""


class _FileServer(msgspec.Struct, frozen=True):
    """One ``[[servers]]`` of the file."""

    name: str
    system: str
    keys: Mapping[str, _Given]
    place: str


class _File(msgspec.Struct, frozen=True):
    """The configuration file, known keys and right types only."""

    top: Mapping[str, _Given]
    servers: tuple[_FileServer, ...]


# --- environment ----------------------------------------------------------------------------------------------------


def _variable(flag: str) -> str:
    return "FOREWARN_" + flag.upper().replace(".", "_").replace("-", "_")


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    known = {_variable(flag): flag for flag in FLAGS}
    found: dict[str, _Given] = {}
    if url := _faktory_url(environ, problems):
        found["faktory.url"] = url
    for name in sorted(environ):
        if name in known:
            if environ[name]:
                found[known[name]] = _Given(environ[name], f"environment variable {name}", _ENVIRONMENT)
        elif name.startswith("FOREWARN_") and not _is_service_link(name, environ[name]):
            problems.append(
                f"environment variable {_shown_name(name)}: there is no such setting{_nearest(name, known)}"
            )
    return found


def _is_service_link(name: str, value: str) -> bool:
    # Somebody's FOREWARN_LISTEN_PORT=9386 is a mistake to tell; Kubernetes gives its FOREWARN_PORT a whole address.
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def _faktory_url(environ: Mapping[str, str], problems: list[str]) -> _Given | None:
    """Return the URL that Faktory's own variables give, as its clients read them."""
    provider = environ.get("FAKTORY_PROVIDER", "")
    if not provider:
        url = environ.get("FAKTORY_URL", "")
        return _Given(url, "environment variable FAKTORY_URL", _ENVIRONMENT) if url else None
    if ":" in provider:
        problems.append(
            "environment variable FAKTORY_PROVIDER: it holds a URL, but must hold the NAME of the variable that holds"
            " the URL; put the URL into FAKTORY_URL and unset FAKTORY_PROVIDER"
        )
        return None
    if not environ.get(provider):
        problems.append(
            "environment variable FAKTORY_PROVIDER: the variable that it names is not set; set that one to the"
            " server's URL, or unset FAKTORY_PROVIDER and use FAKTORY_URL"
        )
        return None
    return _Given(environ[provider], "the environment variable that FAKTORY_PROVIDER names", _ENVIRONMENT)


# --- file -----------------------------------------------------------------------------------------------------------


def _read_file(path: Path, place: str, problems: list[str]) -> _File:
    try:
        text = _read_bounded(path, MAX_FILE).decode()
        document = tomllib.loads(text)
    except _Unreadable as error:
        problems.append(f"{place}: {path} {error}; name a readable TOML file")
        return _File({}, ())
    except UnicodeDecodeError:
        problems.append(f"{path}: it is not UTF-8 text; save it as UTF-8")
        return _File({}, ())
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: it is not TOML: {_where_not_toml(error, text)}; mend that place")
        return _File({}, ())
    except RecursionError:
        problems.append(f"{path}: it is nested too deeply; write it flat")
        return _File({}, ())

    tables = ("log", "web")
    flat = {key: value for key, value in document.items() if key not in {*tables, "servers"}}
    known = tuple(GLOBAL_FLAGS.values())
    for table in tables:
        inner = document.get(table, {})
        if isinstance(inner, dict):
            flat |= {f"{table}.{key}": value for key, value in inner.items()}
        else:
            problems.append(f"{path}: {table} is not a table; write [{table}] on a line of its own")
    top = _typed(flat, known, path, "", problems)

    servers = document.get("servers", [])
    if not isinstance(servers, list) or not all(isinstance(each, dict) for each in servers):
        problems.append(f"{path}: servers is not a list of tables; begin each server with [[servers]]")
        servers = []
    read = tuple(_file_server(each, path, number, problems) for number, each in enumerate(servers, 1))
    named: set[str] = set()
    for server in read:
        if server.name and server.name in named:
            problems.append(
                f"{server.place}: name: two servers are named {_shown(server.name)}; give each its own name"
            )
        named.add(server.name)
    return _File(top, read)


def _where_not_toml(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Return line and column and nothing of the content, which may be a secret."""
    found = re.search(r"at line (\d+), column (\d+)\)$", str(error))
    if found:
        return f"line {found[1]}, column {found[2]} cannot be understood"
    return f"it ends in line {text.count(chr(10)) + 1} in the middle of something"


def _file_server(table: Mapping[str, object], path: Path, number: int, problems: list[str]) -> _FileServer:
    name = table.get("name")
    place = f"{path}: [[servers]] number {number}"
    keys = _typed(table, _SERVER_KEYS, path, f"[[servers]] number {number}: ", problems)
    if "name" not in table:
        problems.append(f"{place}: name is missing; give the server a name of its own")
    elif isinstance(name, str) and not (0 < len(name) <= MAX_SERVER_NAME and name.isprintable()):
        problems.append(f"{place}: name must have 1 to {MAX_SERVER_NAME} printable characters")
    system = table.get("system")
    if "system" not in table:
        problems.append(f"{place}: system is missing; write system = {_names(SYSTEMS)}")
    elif isinstance(system, str) and system not in SYSTEMS:
        problems.append(f"{place}: system {_shown(system)} is not known; write system = {_names(SYSTEMS)}")
    own = {key: value for key, value in keys.items() if key not in {"name", "system"}}
    return _FileServer(str(name or ""), str(system or ""), own, place)


def _typed(
    table: Mapping[str, object], known: tuple[str, ...], path: Path, within: str, problems: list[str]
) -> dict[str, _Given]:
    """Return the values of ``table`` that have a known key and its type; tell the others."""
    found: dict[str, _Given] = {}
    for key, value in table.items():
        place = f"{path}: {within}{_shown_name(key)}"
        wanted: type = int if key in _INTEGER_KEYS else str
        if key not in known:
            problems.append(f"{place}: there is no such key{_nearest(key, known)}")
        elif not isinstance(value, wanted) or isinstance(value, bool):
            fix = "write a whole number without quotes" if wanted is int else "write a text in quotes"
            problems.append(f"{place}: it is {_kind(value)}; {fix}")
        else:
            found[key] = _Given(cast("str | int", value), place, _FILE, path.parent)
    return found


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")


# --- values ---------------------------------------------------------------------------------------------------------


def _text(given: _Given) -> str:
    return str(given.value)


def _interval(given: _Given) -> float:
    seconds = parse_duration(_text(given))
    if not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
        raise ValueError(f"{_shown(_text(given))} is out of range; write a duration from 1s to 1h")
    return seconds


def _path(given: _Given) -> Path:
    text = _text(given)
    if not text or "\0" in text:
        raise ValueError("it is not a path; write the path of a file or folder")
    return given.folder / text


def _integer(low: int, high: int) -> Callable[[_Given], int]:
    def parse(given: _Given) -> int:
        text = _text(given)
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise ValueError(f"{_shown(text)} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def _one_of(allowed: tuple[str, ...]) -> Callable[[_Given], str]:
    def parse(given: _Given) -> str:
        text = _text(given)
        if text not in allowed:
            raise ValueError(f"{_shown(text)} is not known; write one of {', '.join(allowed)}")
        return text

    return parse


def _listen_address(given: _Given) -> Address:
    try:
        return parse_address(_text(given))
    except ListenError as error:
        raise ValueError(str(error)) from None


def _url(given: _Given) -> Endpoint:
    return Endpoint.parse(_text(given))


def _web_url(given: _Given) -> str:
    text = _text(given)
    parts = split_url(text, {"http", "https"}, "http://host:7420 or https://host:7420")
    if "@" in parts.netloc:
        raise ValueError("the URL carries a name or password, but the health page needs none; write http://host:7420")
    return text.rstrip("/")


def _redis_url(given: _Given) -> RedisAddress:
    return RedisAddress.parse(_text(given))


def _secret_file(given: _Given) -> Secret:
    path = _path(given)
    try:
        return _read_secret(path)
    except _Unreadable as error:
        raise ValueError(f"{path} {error}; name a readable file that holds the password alone") from None


def _ca_file(given: _Given) -> Path:
    path = _path(given)
    try:
        _read_bounded(path, MAX_FILE)
        tls_context(path)
    except _Unreadable as error:
        raise ValueError(f"{path} {error}; name a readable file of PEM certificates") from None
    except OSError:
        raise ValueError(f"{path} holds no certificate that is understood; name a file of PEM certificates") from None
    return path


_TOP_PARSERS: Final[Mapping[str, Callable[[_Given], Any]]] = {
    "interval": _interval,
    "state_file": _path,
    "log.format": _one_of(LOG_FORMATS),
    "log.level": _one_of(LOG_LEVELS),
    "web.listen_address": _listen_address,
    "max_label_values": _integer(1, MAX_LABEL_VALUES),
}

_SERVER_PARSERS: Final[Mapping[str, Callable[[_Given], Any]]] = {
    "url": _url,
    "web_url": _web_url,
    "redis_url": _redis_url,
    "config_dir": _path,
    "connections_limit": _integer(1, MAX_CONNECTIONS),
    "password_file": _secret_file,
    "redis_password_file": _secret_file,
    "ca_file": _ca_file,
    "redis_ca_file": _ca_file,
}


def _take(
    given: Mapping[str, _Given | None], parsers: Mapping[str, Callable[[_Given], Any]], problems: list[str]
) -> dict[str, Any]:
    """Return what was given, parsed; tell what cannot be."""
    taken: dict[str, Any] = {}
    for key, each in given.items():
        if each is None:
            continue
        try:
            taken[key] = parsers[key](each)
        except ValueError as error:
            problems.append(f"{each.place}: {error}")
    return taken


# --- servers --------------------------------------------------------------------------------------------------------


def _servers(
    given: Mapping[str, _Given], file: _File, environ: Mapping[str, str], problems: list[str]
) -> tuple[ServerSettings, ...]:
    flagged = {key: given[flag] for flag, key in SERVER_FLAGS.items() if flag in given}
    described = list(file.servers)
    if flagged and all(server.name != "faktory" for server in described):
        described.append(_FileServer("faktory", "faktory", {}, next(iter(flagged.values())).place))
    built = (_server(each, flagged if each.name == "faktory" else {}, environ, problems) for each in described)
    return tuple(server for server in built if server is not None)


def _server(
    described: _FileServer, flagged: Mapping[str, _Given], environ: Mapping[str, str], problems: list[str]
) -> ServerSettings | None:
    given = {**described.keys, **flagged}
    before = len(problems)
    if "url" not in given:
        problems.append(
            f"{described.place}: the server {_shown(described.name)} has no url; {_where_to_set_url(described)}"
        )
    taken = _take(given, _SERVER_PARSERS, problems)
    own = _faktory_password(environ, problems) if described.name == "faktory" else None
    if len(problems) > before:
        return None
    endpoint: Endpoint = taken["url"]
    redis: RedisAddress | None = taken.get("redis_url")
    return ServerSettings(
        name=described.name,
        system=described.system,
        url=Secret(_without_password(_text(given["url"]))),
        web_url=taken.get("web_url")
        or f"{'https' if endpoint.tls else 'http'}://{host_port(endpoint.host, WEB_UI_PORT)}",
        redis_url=None if redis is None else Secret(_without_password(_text(given["redis_url"]))),
        config_dir=taken.get("config_dir"),
        connections_limit=taken.get("connections_limit"),
        password=_strongest(
            (given.get("password_file"), taken.get("password_file")), (given["url"], endpoint.password), own
        ),
        redis_password=_strongest(
            (given.get("redis_password_file"), taken.get("redis_password_file")),
            (given.get("redis_url"), None if redis is None else redis.password),
        ),
        ca_file=taken.get("ca_file"),
        redis_ca_file=taken.get("redis_ca_file"),
    )


def _where_to_set_url(described: _FileServer) -> str:
    return (
        "set --faktory.url or FAKTORY_URL, for example to tcp://localhost:7419"
        if described.name == "faktory"
        else 'write url = "tcp://host:7419"'
    )


def _strongest(*candidates: tuple[_Given | None, Secret | None] | None) -> Secret | None:
    """Return the password from the strongest layer; within one layer the first of ``candidates``."""
    found = [(each[0].layer, each[1]) for each in candidates if each and each[0] and each[1]]
    return min(found, key=lambda each: each[0])[1] if found else None


def _faktory_password(environ: Mapping[str, str], problems: list[str]) -> tuple[_Given, Secret] | None:
    """Return the password that Faktory's own variable gives: a value, or the path of a file that holds it."""
    text = environ.get("FAKTORY_PASSWORD", "")
    if not text:
        return None
    given = _Given(text, "environment variable FAKTORY_PASSWORD", _ENVIRONMENT)
    if not text.startswith("/"):
        return given, Secret(text)
    try:
        return given, _read_secret(Path(text))
    except _Unreadable as error:
        # The text itself is not shown: it may be a password that begins with a slash.
        problems.append(
            f"{given.place}: it begins with / and so names a file, but that {error};"
            " name a readable file that holds the password alone"
        )
        return None


def _without_password(url: str) -> str:
    netloc = urlsplit(url).netloc
    userinfo, _, host = netloc.rpartition("@")
    user = userinfo.partition(":")[0]
    return url.replace(f"//{netloc}", f"//{user}@{host}" if user else f"//{host}", 1)


# --- reading and showing --------------------------------------------------------------------------------------------


class _Unreadable(Exception):  # noqa: N818 - a part of a sentence
    """Why a file cannot be used: the end of a sentence that begins with its name."""


def _read_bounded(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():
            raise _Unreadable("is not a file" if path.exists() else "does not exist")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise _Unreadable(f"cannot be read ({getattr(error, 'strerror', None) or 'not a path'})") from None
    if len(content) > most:
        raise _Unreadable(f"is longer than {most} bytes")
    return content


def _read_secret(path: Path) -> Secret:
    try:
        text = _read_bounded(path, MAX_SECRET).decode().strip()
    except UnicodeDecodeError:
        raise _Unreadable("is not UTF-8 text") from None
    if not text:
        raise _Unreadable("is empty")
    return Secret(text)


def _shown(text: str) -> str:
    """Return ``text`` quoted, escaped and bounded, for a message."""
    return repr(text if len(text) <= MAX_SERVER_NAME else text[:MAX_SERVER_NAME] + "…")


def _shown_name(name: str) -> str:
    return name if len(name) <= MAX_SERVER_NAME and name.isprintable() and name else _shown(name)


def _names(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that was perhaps meant, or else at all of them."""
    names = list(known)
    close = difflib.get_close_matches(name[: 2 * MAX_SERVER_NAME], names, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}"
