"""What the operator has set: flags over environment over the TOML file over defaults.

Typed with msgspec, which decodes everything else here too: pydantic-settings would add 8 MiB of resident memory to a
sidecar and give nothing more. Passwords are taken out of URLs and files as they are read; from there on they exist
only as :class:`~exporter.secret.Secret`. No text of this module ever repeats a URL or the content of a file.
"""

from __future__ import annotations

import difflib
import glob
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import msgspec

from exporter import headers
from exporter.faktory.endpoint import Endpoint, host_port, split_url, tls_context
from exporter.faktory.redis_link import RedisAddress
from exporter.model import Choice
from exporter.secret import Secret
from exporter.statsd.address import (
    StatsdAddress,
    check_host,
    check_unix_path,
    collide,
    leads_to,
    parse_push,
    parse_relay,
)
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
MAX_HEADERS_FILE: Final = 64 * 1024
MAX_SLOW: Final = 365 * 86400
MAX_TRACES_PER_SECOND: Final = 10_000
MAX_REQUEST_MILLISECONDS: Final = 600_000
MAX_NAMESPACE: Final = 64
MAX_LOG_FILES: Final = 32
MAX_LOG_JOURNALS: Final = 8
MAX_PATH: Final = 4096
WEB_LISTEN_ADDRESS: Final = Address("127.0.0.1", 9386)

GLOBAL_FLAGS: Final[Mapping[str, str]] = {
    "interval": "interval",
    "state-file": "state_file",
    "log.format": "log.format",
    "log.level": "log.level",
    "web.listen-address": "web.listen_address",
    "web.config.file": "web.config_file",
    "web.enable-lifecycle": "web.enable_lifecycle",
    "web.runbooks-url": "web.runbooks_url",
    "web.dashboards-url": "web.dashboards_url",
    "max-label-values": "max_label_values",
    "otlp.endpoint": "otlp.endpoint",
    "otlp.headers-file": "otlp.headers_file",
    "otlp.ca-file": "otlp.ca_file",
    "otlp.metrics-interval": "otlp.metrics_interval",
    "traces.slow-seconds": "traces.slow_seconds",
    "traces.ratio": "traces.ratio",
    "traces.per-second": "traces.per_second",
    "traces.poll-ratio": "traces.poll_ratio",
    "traces.traceparent": "traces.traceparent",
    "statsd.push": "statsd.push",
    "statsd.interval": "statsd.interval",
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
    "faktory.log-file": "log_files",
    "faktory.log-journal": "log_journals",
    "statsd.listen": "statsd_listen",
    "statsd.listen-unix": "statsd_listen_unix",
    "statsd.relay": "statsd_relay",
    "statsd.namespace": "statsd_namespace",
    "statsd.keep": "statsd_keep",
}
"""The flags that describe the one server named ``faktory``, and their keys in a ``[[servers]]`` of the file."""

FLAGS: Final = ("config", *GLOBAL_FLAGS, *SERVER_FLAGS)
"""Every flag of ``forewarn run``, without its dashes."""

HOW_TO_BEGIN: Final = (
    "nothing to watch is configured: set --faktory.url (or FAKTORY_URL) to tcp://:PASSWORD@HOST:7419,"
    " or name a file with [[servers]] by --config; `forewarn demo` shows all of it without a server"
)

_TABLES: Final = ("log", "web", "otlp", "traces", "statsd")
_INTEGER_KEYS: Final = frozenset({"max_label_values", "connections_limit"})
_NUMBER_KEYS: Final = frozenset({"traces.slow_seconds", "traces.ratio", "traces.per_second", "traces.poll_ratio"})
_LIST_KEYS: Final = frozenset({"log_files", "log_journals"})
_SWITCH_KEYS: Final = frozenset({"web.enable_lifecycle"})
_SERVER_KEYS: Final = ("name", "system", *SERVER_FLAGS.values())

_SERVICE_LINK: Final = re.compile(
    r"FOREWARN(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""The variables that Kubernetes gives to every container beside a Service whose name begins with "forewarn"."""

_DURATION: Final = re.compile(
    r"(?:(\d{1,9})y)?(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?",
    re.ASCII,
)
_UNIT_NAME: Final = re.compile(r"[A-Za-z0-9:_.\\@*?\[\]][A-Za-z0-9:_.\\@*?\[\]-]{0,254}", re.ASCII)
"""What systemd calls a unit, or a pattern of such names. One that begins with a dash would be an option."""
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


class StatsdListen(msgspec.Struct, frozen=True, kw_only=True):
    """Where one server's StatsD packets are listened for, and what becomes of them."""

    address: Address | None = None
    """UDP and TCP on one port."""
    unix: Path | None = None
    """A unix datagram socket. One of the two is set at least."""
    relay: StatsdAddress | None = None
    """Where every packet is passed on to."""
    namespace: str = "faktory."
    """What all names of the server begin with; may be empty."""
    keep_all: bool = False
    """Whether names that are not known are kept too."""


class StatsdTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where the metrics are pushed to by StatsD."""

    tags: bool
    """Whether the server speaks DogStatsD; plain StatsD has the labels in the name."""
    address: StatsdAddress


class LogWatch(msgspec.Struct, frozen=True, kw_only=True):
    """Where one server's output is read."""

    files: tuple[str, ...] = ()
    """Paths and patterns (``*``, ``?``, ``[]``, ``**``), of files and of named pipes; ``-`` is standard input."""
    journals: tuple[str, ...] = ()
    """Units of systemd whose journal is followed."""


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
    statsd: StatsdListen | None = None
    log: LogWatch | None = None


class OtlpTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where one kind of OpenTelemetry data is sent, by OTLP over HTTP with protobuf."""

    url: str
    """The whole of it, with the path of its kind. Never with a password: that belongs into a header."""
    headers: Mapping[str, Secret] = {}
    timeout: float = 10.0
    """Seconds for one request."""
    gzip: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    """The client's own, with ``key_file``."""
    key_file: Path | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is set."""

    servers: tuple[ServerSettings, ...]
    interval: float = 5.0
    """Seconds from one poll to the next."""
    state_file: Path | None = None
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    web_listen_address: Address = WEB_LISTEN_ADDRESS
    web_config_file: Path | None = None
    """TLS, who may ask, and headers, in the format of Prometheus's exporter-toolkit."""
    web_lifecycle: bool = False
    """Whether ``POST /-/reload`` is answered."""
    web_runbooks_url: str | None = None
    web_dashboards_url: str | None = None
    """Where the links of the status page lead; without a slash at the end. ``None``: nowhere."""
    max_label_values: int = 200
    otlp_traces: OtlpTarget | None = None
    """``None``: no traces."""
    otlp_metrics: OtlpTarget | None = None
    otlp_metrics_interval: float = 60.0
    """Seconds from one push of metrics to the next."""
    traces: Choice = Choice()
    traces_poll_ratio: float = 0.01
    """Share of Forewarn's own polls that are told as traces."""
    statsd_push: StatsdTarget | None = None
    statsd_interval: float = 10.0
    """Seconds from one push by StatsD to the next."""


def load(
    flags: Mapping[str, str | Sequence[str] | None], environ: Mapping[str, str], *, own_input: bool = True
) -> Settings:
    """Return the settings that ``flags`` (by name, without dashes), ``environ`` and the configuration file give.

    A flag that may be repeated has all its texts; none of them count as not given. An environment variable that is
    empty counts as not set. The standard variables of OpenTelemetry count as environment, below Forewarn's own.
    ``own_input``: whether standard input is Forewarn's to read, and not the server's that it runs.

    Raises:
        NothingConfigured: No server is configured.
        SettingsError: Something is wrong; it tells all that was found.
    """
    problems: list[str] = []
    given = _from_environment(environ, problems)
    given |= {
        name: _Given(value if isinstance(value, str) else tuple(value), f"--{name}", _FLAG)
        for name, value in flags.items()
        if isinstance(value, str) or value
    }
    file = _File({}, ())
    if config := given.get("config"):
        file = _read_file(Path(str(config.value)), config.place, problems)

    top = {key: given.get(flag) or file.top.get(key) for flag, key in GLOBAL_FLAGS.items()}
    chosen = _take(top, _TOP_PARSERS, problems)
    fields = {key.replace(".", "_"): value for key, value in chosen.items()}
    fields |= _otlp(top, chosen, environ, problems)
    fields["traces"] = _choice(fields)
    fields["web_lifecycle"] = chosen.get("web.enable_lifecycle", False)
    described = _described(given, file)
    servers = _servers(described, environ, problems)
    _check_statsd(described, servers, top, fields, problems)
    _check_standard_input(described, servers, problems, own=own_input)
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))  # one variable may be wrong for both traces and metrics
    if not servers:
        raise NothingConfigured
    # What is given of targets and of the choice stands in those by now.
    return Settings(servers=servers, **{name: fields[name] for name in Settings.__struct_fields__ if name in fields})


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

    value: str | int | float | tuple[str, ...]
    place: str
    layer: int
    folder: Path = Path()
    """What a relative path in it starts from."""


class _Described(msgspec.Struct, frozen=True):
    """One ``[[servers]]`` of the file, or what the flags describe."""

    name: str
    system: str
    keys: Mapping[str, _Given]
    place: str


class _File(msgspec.Struct, frozen=True):
    """The configuration file, known keys and right types only."""

    top: Mapping[str, _Given]
    servers: tuple[_Described, ...]


# --- environment ----------------------------------------------------------------------------------------------------


def _variable(flag: str) -> str:
    return "FOREWARN_" + flag.upper().replace(".", "_").replace("-", "_")


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    known = {_variable(flag): flag for flag in FLAGS}
    lists = {flag for flag, key in SERVER_FLAGS.items() if key in _LIST_KEYS}
    found: dict[str, _Given] = {}
    if url := _faktory_url(environ, problems):
        found["faktory.url"] = url
    for name in sorted(environ):
        if name in known:
            if environ[name]:
                value = tuple(environ[name].split(":")) if known[name] in lists else environ[name]
                found[known[name]] = _Given(value, f"environment variable {name}", _ENVIRONMENT)
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

    flat = {key: value for key, value in document.items() if key not in {*_TABLES, "servers"}}
    known = tuple(GLOBAL_FLAGS.values())
    for table in _TABLES:
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


def _file_server(table: Mapping[str, object], path: Path, number: int, problems: list[str]) -> _Described:
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
    return _Described(str(name or ""), str(system or ""), own, place)


def _typed(
    table: Mapping[str, object], known: tuple[str, ...], path: Path, within: str, problems: list[str]
) -> dict[str, _Given]:
    """Return the values of ``table`` that have a known key and its type; tell the others."""
    found: dict[str, _Given] = {}
    for key, value in table.items():
        place = f"{path}: {within}{_shown_name(key)}"
        wanted, fix = _wanted(key)
        if key not in known and (of_server := key.replace(".", "_")) in _SERVER_KEYS:
            problems.append(f"{place}: it belongs to a server; write {of_server} into its [[servers]]")
        elif key not in known:
            problems.append(f"{place}: there is no such key{_nearest(key, known)}")
        elif not isinstance(value, wanted) or isinstance(value, bool) is not (wanted is bool):
            problems.append(f"{place}: it is {_kind(value)}; {fix}")
        elif isinstance(value, list) and (others := [it for it in value if not isinstance(it, str)]):
            problems.append(f"{place}: there is {_kind(others[0])} in it; {fix}")
        else:
            one = tuple(value) if isinstance(value, list) else _switched(value) if isinstance(value, bool) else value
            found[key] = _Given(cast("str | int | float | tuple[str, ...]", one), place, _FILE, path.parent)
    return found


def _wanted(key: str) -> tuple[type | tuple[type, ...], str]:
    """Return the type of what ``key`` holds, and how to write it."""
    if key in _INTEGER_KEYS:
        return int, "write a whole number without quotes"
    if key in _NUMBER_KEYS:
        return (int, float), "write a number without quotes"
    if key in _SWITCH_KEYS:
        return bool, "write true or false without quotes"
    if key in _LIST_KEYS:
        return (list, str), f'write a list of texts in quotes, such as {key} = ["one", "another"]'
    return str, "write a text in quotes"


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")


# --- values ---------------------------------------------------------------------------------------------------------


def _text(given: _Given) -> str:
    return str(given.value)


def _texts(given: _Given) -> tuple[str, ...]:
    """Return what a list holds: each text once. A text that stands alone is a list of one."""
    value = given.value if isinstance(given.value, tuple) else (_text(given),)
    return tuple(dict.fromkeys(value))


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


def _number(low: int, high: int) -> Callable[[_Given], float]:
    def parse(given: _Given) -> float:
        text = _text(given)
        try:
            # Bounded, and no letters but e: float() also takes nan, inf, 1_000 and the digits of other scripts.
            value = float(text) if re.fullmatch(r"[-+.e\d]{1,32}", text, re.ASCII) else math.nan
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"{_shown(text)} is not a number from {low} to {high}")
        return value

    return parse


def _one_of(allowed: tuple[str, ...]) -> Callable[[_Given], str]:
    def parse(given: _Given) -> str:
        text = _text(given)
        if text not in allowed:
            raise ValueError(f"{_shown(text)} is not known; write one of {', '.join(allowed)}")
        return text

    return parse


def _switched(on: bool) -> str:
    return "true" if on else "false"


def _switch(given: _Given) -> bool:
    return _one_of(("true", "false"))(given) == "true"


def _link_url(example: str) -> Callable[[_Given], str]:
    def parse(given: _Given) -> str:
        return _http_url(
            _text(given),
            f"write {example}",
            "leave them out: everybody who opens the status page would see them",
            "the names of the pages are written behind it",
        ).rstrip("/")

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


def _otlp_url(given: _Given) -> str:
    return _http_url(
        _text(given),
        "write http://host:4318 or https://host:4318",
        "put them into a header, such as authorization, by --otlp.headers-file or OTEL_EXPORTER_OTLP_HEADERS",
        "put a key or token into a header",
    )


def _http_url(text: str, hint: str, on_password: str, on_query: str) -> str:
    """Return ``text``, which must be a URL that something can be written behind.

    Raises:
        ValueError: It is not one. The text never repeats the URL; ``hint`` tells how to write it, ``on_password`` what
            is wrong with a name or password in it, ``on_query`` why nothing can follow its path.
    """
    if "@" in text:
        raise ValueError(f"the URL carries a name or password; {on_password}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        # The original text would tell the part that it did not understand: perhaps a password.
        raise ValueError(f"the URL is malformed after its scheme; {hint}") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"the URL does not begin with http:// or https://; {hint}")
    if not parts.hostname or port == 0 or not text.isprintable() or " " in text:
        raise ValueError(f"the URL names no host and port that can be reached; {hint}")
    if "?" in text or "#" in text:
        raise ValueError(f"the URL goes on with ? or #; {hint}, and {on_query}")
    return text


def _statsd_listen(given: _Given) -> Address:
    text = _text(given)
    forms = "127.0.0.1:8125, [::1]:8125 or :8125"
    if "://" in text or "@" in text:
        raise ValueError(f"it is a URL, but must be the address alone; write ADDR:PORT, for example {forms}")
    try:
        address = parse_address(text)
        check_host(address.host or "")
    except (ListenError, ValueError):
        raise ValueError(
            f"{_shown(text)} is not an address; write ADDR:PORT with a port from 0 to 65535, for example {forms}"
        ) from None
    return address


def _statsd_listen_unix(given: _Given) -> Path:
    text = _text(given)
    try:
        check_unix_path(text)
    except ValueError as error:
        raise ValueError(f"it {error}; write one such as /run/forewarn/statsd.sock") from None
    return Path(text)


def _statsd_relay(given: _Given) -> StatsdAddress:
    return parse_relay(_text(given))


def _statsd_namespace(given: _Given) -> str:
    text = _text(given)
    if len(text) > MAX_NAMESPACE or not text.isprintable() or any(each in text for each in ":| "):
        raise ValueError(
            f"no name can begin so; write at most {MAX_NAMESPACE} printable characters without : or | or spaces,"
            ' such as "faktory.", or "" where names have none'
        )
    return text


def _statsd_keep(given: _Given) -> bool:
    return _one_of(("known", "all"))(given) == "all"


def _statsd_push(given: _Given) -> StatsdTarget:
    tags, address = parse_push(_text(given))
    return StatsdTarget(tags=tags, address=address)


def _log_files(given: _Given) -> tuple[str, ...]:
    texts = _texts(given)
    if len(texts) > MAX_LOG_FILES:
        raise ValueError(f"there are more than {MAX_LOG_FILES} paths; use a pattern, such as /var/log/faktory/*.log")
    return tuple(_log_file(given.folder, text) for text in texts)


def _log_file(folder: Path, text: str) -> str:
    if text == "-":
        return text
    if not text or "\0" in text or len(text) > MAX_PATH:
        raise ValueError(f"{_shown(text)} is not a path; write one of a file, such as /var/log/faktory.log")
    # The folder is no part of the pattern.
    pattern = str(Path(glob.escape(str(folder))) / text)
    if not glob.has_magic(text) and Path(folder / text).is_dir():
        raise ValueError(f"{text} is a folder; name the files in it, such as {text.rstrip('/')}/*.log")
    return pattern


def _log_journals(given: _Given) -> tuple[str, ...]:
    texts = _texts(given)
    if len(texts) > MAX_LOG_JOURNALS:
        raise ValueError(f"there are more than {MAX_LOG_JOURNALS} units; name only those of this server")
    for text in texts:
        if not _UNIT_NAME.fullmatch(text):
            raise ValueError(f"{_shown(text)} is not the name of a unit; write one such as faktory.service")
    return texts


def _headers_file(given: _Given) -> dict[str, Secret]:
    path = _path(given)
    try:
        text = _read_text(path, MAX_HEADERS_FILE)
    except _Unreadable as error:
        raise ValueError(f"{path} {error}; name a readable file of lines such as x-api-key: TOKEN") from None
    try:
        return headers.from_lines(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _headers_variable(given: _Given) -> dict[str, Secret]:
    return headers.from_variable(_text(given))


def _request_seconds(given: _Given) -> float:
    return _milliseconds(given, 1, MAX_REQUEST_MILLISECONDS)


def _push_interval(given: _Given) -> float:
    return _milliseconds(given, int(MIN_INTERVAL * 1000), int(MAX_INTERVAL * 1000))


def _milliseconds(given: _Given, low: int, high: int) -> float:
    try:
        return _integer(low, high)(given) / 1000
    except ValueError as error:
        raise ValueError(f"{error}; it is in milliseconds") from None


def _gzip(given: _Given) -> bool:
    return _one_of_any_case(("none", "gzip"))(given) == "gzip"


def _otlp_exporter(given: _Given) -> str:
    return _one_of_any_case(("otlp", "none"))(given)


def _protocol(given: _Given) -> str:
    text = _text(given)
    if text.strip().lower() != "http/protobuf":
        raise ValueError(
            f"{_shown(text)} is not spoken here, only http/protobuf: unset it or set it to http/protobuf, and set the"
            " endpoint to the collector's port for HTTP, which is mostly 4318 (4317 is gRPC's)"
        )
    return text


def _one_of_any_case(allowed: tuple[str, ...]) -> Callable[[_Given], str]:
    """Return a parser of names as OpenTelemetry's variables hold them."""
    parse = _one_of(allowed)

    def parse_lower(given: _Given) -> str:
        return parse(msgspec.structs.replace(given, value=_text(given).strip().lower()))

    return parse_lower


def _certificate_file(given: _Given) -> Path:
    path = _path(given)
    try:
        _read_bounded(path, MAX_FILE)
    except _Unreadable as error:
        raise ValueError(f"{path} {error}; name a readable file in PEM form") from None
    return path


_TOP_PARSERS: Final[Mapping[str, Callable[[_Given], Any]]] = {
    "interval": _interval,
    "state_file": _path,
    "log.format": _one_of(LOG_FORMATS),
    "log.level": _one_of(LOG_LEVELS),
    "web.listen_address": _listen_address,
    "web.config_file": _path,
    "web.enable_lifecycle": _switch,
    "web.runbooks_url": _link_url("https://host/path, where the pages of docs/runbooks are to be read"),
    "web.dashboards_url": _link_url("https://grafana.example.com, the Grafana that has the dashboards"),
    "max_label_values": _integer(1, MAX_LABEL_VALUES),
    "otlp.endpoint": _otlp_url,
    "otlp.headers_file": _headers_file,
    "otlp.ca_file": _ca_file,
    "otlp.metrics_interval": _interval,
    "traces.slow_seconds": _number(0, MAX_SLOW),
    "traces.ratio": _number(0, 1),
    "traces.per_second": _number(0, MAX_TRACES_PER_SECOND),
    "traces.poll_ratio": _number(0, 1),
    "traces.traceparent": _one_of(("link", "parent")),
    "statsd.push": _statsd_push,
    "statsd.interval": _interval,
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
    "log_files": _log_files,
    "log_journals": _log_journals,
    "statsd_listen": _statsd_listen,
    "statsd_listen_unix": _statsd_listen_unix,
    "statsd_relay": _statsd_relay,
    "statsd_namespace": _statsd_namespace,
    "statsd_keep": _statsd_keep,
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


# --- OpenTelemetry --------------------------------------------------------------------------------------------------

_OTLP_VARIABLES: Final[Mapping[str, tuple[str, Callable[[_Given], Any]]]] = {
    "otlp.endpoint": ("ENDPOINT", _otlp_url),
    "otlp.headers_file": ("HEADERS", _headers_variable),
    "otlp.ca_file": ("CERTIFICATE", _ca_file),
    "timeout": ("TIMEOUT", _request_seconds),
    "gzip": ("COMPRESSION", _gzip),
    "certificate_file": ("CLIENT_CERTIFICATE", _certificate_file),
    "key_file": ("CLIENT_KEY", _certificate_file),
    "protocol": ("PROTOCOL", _protocol),
}
"""What the standard variables of OpenTelemetry give, by Forewarn's own key for it where there is one.

Each is OTEL_EXPORTER_OTLP_ and this name, and with TRACES_ or METRICS_ between them goes over that for one of the two.
"""


def _otlp(
    top: Mapping[str, _Given | None], chosen: Mapping[str, Any], environ: Mapping[str, str], problems: list[str]
) -> dict[str, Any]:
    """Return by their names those settings that the standard variables of OpenTelemetry have a part in."""
    standard = {
        name: _Given(text, f"environment variable {name}", _ENVIRONMENT)
        for name, text in environ.items()
        if name.startswith("OTEL_") and text
    }
    disabled = standard.get("OTEL_SDK_DISABLED")
    if disabled and _text(disabled).strip().lower() == "true":
        return {}
    found: dict[str, Any] = {
        f"otlp_{kind}": _target(kind, top, chosen, standard, problems) for kind in ("traces", "metrics")
    }
    if found["otlp_metrics"]:
        interval = _over_file(top.get("otlp.metrics_interval"), standard.get("OTEL_METRIC_EXPORT_INTERVAL"))
        found |= _take({"otlp_metrics_interval": interval}, {"otlp_metrics_interval": _push_interval}, problems)
    return found


def _over_file(own: _Given | None, variable: _Given | None) -> _Given | None:
    """Return ``variable`` unless Forewarn's ``own`` setting goes over it: that of the file does not."""
    return variable if own is None or own.layer == _FILE else None


def _target(
    kind: str,
    top: Mapping[str, _Given | None],
    chosen: Mapping[str, Any],
    standard: Mapping[str, _Given],
    problems: list[str],
) -> OtlpTarget | None:
    """Return where ``kind``, traces or metrics, is sent; ``None`` where it is not, or where that is wrong and told."""
    general, of_kind = "OTEL_EXPORTER_OTLP_", f"OTEL_EXPORTER_OTLP_{kind.upper()}_"
    variables = {
        key: _over_file(top.get(key), standard.get(of_kind + name) or standard.get(general + name))
        for key, (name, _) in _OTLP_VARIABLES.items()
    }
    endpoint = variables["otlp.endpoint"]
    if endpoint is None and top.get("otlp.endpoint") is None:
        return None
    exporter = {"exporter": standard.get(f"OTEL_{kind.upper()}_EXPORTER")}
    before = len(problems)
    if _take(exporter, {"exporter": _otlp_exporter}, problems).get("exporter") == "none":
        return None
    taken = dict(chosen) | _take(variables, {key: parser for key, (_, parser) in _OTLP_VARIABLES.items()}, problems)
    if len(problems) == before:
        _check_client_certificate(variables, taken, problems)
    if len(problems) > before or "otlp.endpoint" not in taken:
        return None
    whole = endpoint is not None and endpoint.place.endswith(f"{of_kind}ENDPOINT")
    return OtlpTarget(
        url=taken["otlp.endpoint"] if whole else f"{taken['otlp.endpoint'].rstrip('/')}/v1/{kind}",
        headers=taken.get("otlp.headers_file", {}),
        timeout=taken.get("timeout", 10.0),
        gzip=taken.get("gzip", False),
        ca_file=taken.get("otlp.ca_file"),
        certificate_file=taken.get("certificate_file"),
        key_file=taken.get("key_file"),
    )


def _check_client_certificate(
    given: Mapping[str, _Given | None], taken: Mapping[str, Any], problems: list[str]
) -> None:
    """Tell what keeps the client's certificate and key from being used."""
    certificate, key = given["certificate_file"], given["key_file"]
    if certificate is None:
        if key is not None:
            problems.append(
                f"{key.place}: it names the key of a certificate that is not set; name that one by"
                " OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
            )
        return
    try:
        # Without a passphrase at hand the TLS library would ask for one at the terminal, and wait for ever.
        tls_context(None).load_cert_chain(taken["certificate_file"], taken.get("key_file"), password=str)
    except OSError:
        problems.append(
            f"{certificate.place}: {taken['certificate_file']} cannot be used with its key; name PEM files of a"
            " certificate and, by OTEL_EXPORTER_OTLP_CLIENT_KEY, of the key to it, without a passphrase"
        )


def _choice(fields: Mapping[str, Any]) -> Choice:
    """Return which executions are told, by its defaults where ``fields`` say nothing."""
    given = {name: fields[f"traces_{name}"] for name in Choice.__struct_fields__ if f"traces_{name}" in fields}
    return Choice(**given, parent=fields.get("traces_traceparent") == "parent")


# --- servers --------------------------------------------------------------------------------------------------------


def _described(given: Mapping[str, _Given], file: _File) -> list[_Described]:
    """Return the servers that the file describes, with what flags say of the one named ``faktory``."""
    flagged = {key: given[flag] for flag, key in SERVER_FLAGS.items() if flag in given}
    described = list(file.servers)
    if flagged and all(server.name != "faktory" for server in described):
        described.append(_Described("faktory", "faktory", {}, next(iter(flagged.values())).place))
    return [
        msgspec.structs.replace(each, keys={**each.keys, **flagged}) if each.name == "faktory" else each
        for each in described
    ]


def _servers(
    described: Iterable[_Described], environ: Mapping[str, str], problems: list[str]
) -> tuple[ServerSettings, ...]:
    built = (_server(each, environ, problems) for each in described)
    return tuple(server for server in built if server is not None)


def _server(described: _Described, environ: Mapping[str, str], problems: list[str]) -> ServerSettings | None:
    given = described.keys
    before = len(problems)
    if "url" not in given:
        problems.append(
            f"{described.place}: the server {_shown(described.name)} has no url; {_where_to_set_url(described)}"
        )
    taken = _take(given, _SERVER_PARSERS, problems)
    statsd = _statsd(given, taken, problems)
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
        statsd=statsd,
        log=_log(taken),
    )


def _log(taken: Mapping[str, Any]) -> LogWatch | None:
    """Return where a server's output is read; ``None`` where nobody reads it."""
    files, journals = taken.get("log_files", ()), taken.get("log_journals", ())
    return LogWatch(files=files, journals=journals) if files or journals else None


def _check_standard_input(
    described: Iterable[_Described], servers: Iterable[ServerSettings], problems: list[str], *, own: bool
) -> None:
    """Tell where standard input is the output of more than one server, or is not there to be read."""
    keys = {each.name: each.keys for each in described}
    reading = [server.name for server in servers if server.log is not None and "-" in server.log.files]
    for number, name in enumerate(reading):
        place = keys[name]["log_files"].place
        if not own:
            problems.append(
                f"{place}: with forewarn exec standard input is the server's own, and its output is read anyway;"
                " leave - out"
            )
        elif number:
            problems.append(
                f"{place}: standard input is read for the server {_shown(reading[0])} already;"
                " give each server a file or a named pipe of its own"
            )


def _where_to_set_url(described: _Described) -> str:
    if described.name != "faktory":
        return 'write url = "tcp://host:7419"'
    here = "set --faktory.url or FAKTORY_URL, for example to tcp://localhost:7419"
    if all(key.startswith("statsd_") for key in described.keys):  # flags that do not tell whose they are
        return f"{here}, or, for another server, write {' and '.join(described.keys)} into its [[servers]] in the file"
    return here


def _statsd(given: Mapping[str, _Given], taken: Mapping[str, Any], problems: list[str]) -> StatsdListen | None:
    """Return where a server's StatsD is listened for; ``None`` where it is not, or where that is wrong and told."""
    if "statsd_listen" not in given and "statsd_listen_unix" not in given:
        for key in ("statsd_relay", "statsd_namespace", "statsd_keep"):
            if key in given:
                listen = "statsd_listen or statsd_listen_unix"
                if given[key].layer != _FILE:
                    listen = "--statsd.listen or --statsd.listen-unix"
                problems.append(f"{given[key].place}: nothing listens for the server's StatsD; set {listen} too")
        return None
    return StatsdListen(
        address=taken.get("statsd_listen"),
        unix=taken.get("statsd_listen_unix"),
        relay=taken.get("statsd_relay"),
        namespace=taken.get("statsd_namespace", "faktory."),
        keep_all=taken.get("statsd_keep", False),
    )


class _Listening(msgspec.Struct, frozen=True):
    """Something that is listened on, which setting says so, and what for."""

    where: Address | Path
    place: str
    purpose: str


def _check_statsd(
    described: Iterable[_Described],
    servers: Iterable[ServerSettings],
    top: Mapping[str, _Given | None],
    fields: Mapping[str, Any],
    problems: list[str],
) -> None:
    """Tell what is listened on twice, and what would be sent back to Forewarn itself."""
    keys = {each.name: each.keys for each in described}
    web = top.get("web.listen_address")
    taken = [
        _Listening(
            fields.get("web_listen_address", WEB_LISTEN_ADDRESS),
            "web.listen_address" if web is None else web.place,
            "/metrics",
        )
    ]
    targets: list[tuple[StatsdAddress, str, str]] = []
    for server in servers:
        statsd = server.statsd
        if statsd is None:
            continue
        for key, where in (("statsd_listen", statsd.address), ("statsd_listen_unix", statsd.unix)):
            if where is None:
                continue
            own = _Listening(where, keys[server.name][key].place, f"the StatsD of the server {_shown(server.name)}")
            other = next((each for each in taken if collide(own.where, each.where)), None)
            if other:
                problems.append(
                    f"{own.place}: {own.purpose} cannot be listened for where {other.purpose} is ({other.place});"
                    f" choose another {'path' if isinstance(where, Path) else 'port'}"
                )
            taken.append(own)
        if statsd.relay is not None:
            place = keys[server.name]["statsd_relay"].place
            targets.append((statsd.relay, place, "packets would come round again"))
    push: StatsdTarget | None = fields.get("statsd_push")
    if push is not None:
        given = top["statsd.push"]
        targets.append((push.address, given.place if given else "", "Forewarn would only hear its own numbers"))
    for target, place, why in targets:
        here = next((each for each in taken[1:] if leads_to(target, each.where)), None)
        if here:
            problems.append(
                f"{place}: it leads to Forewarn itself, which listens there for {here.purpose} ({here.place}):"
                f" {why}; name another StatsD server"
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


def _read_text(path: Path, most: int) -> str:
    try:
        text = _read_bounded(path, most).decode()
    except UnicodeDecodeError:
        raise _Unreadable("is not UTF-8 text") from None
    if not text.strip():
        raise _Unreadable("is empty")
    return text


def _read_secret(path: Path) -> Secret:
    return Secret(_read_text(path, MAX_SECRET).strip())


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
