"""The web configuration file, in the format of Prometheus's exporter-toolkit: TLS, who may ask, and headers.

The format is documented in docs/web-configuration.md of github.com/prometheus/exporter-toolkit; where this differs,
docs/web-security.md says so. Reading it is pure: the files that it names are read elsewhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import yaml

from exporter.secret import Secret

MAX_COST: Final = 18
"""The largest bcrypt cost: each one more doubles the time, and at 18 a single check takes some 15 seconds."""

MIN_COST: Final = 4
MAX_USER: Final = 256
MAX_SHOWN: Final = 64
"""Characters of a wrong key or value that an error repeats."""

MAX_INTERVAL: Final = 86400.0

HOW_TO_HASH: Final = "make one with: htpasswd -nBC 10 \"\" | tr -d ':\\n'"

TLS_1_2_SUITES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    }
)
"""By the names that the file uses (IANA's, those of Go's tls.CipherSuites): what OpenSSL calls them."""

TLS_1_3_SUITES: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""These cannot be chosen: whoever speaks TLS 1.3 has all three, as in Go."""

CURVES: Final[Mapping[str, str]] = MappingProxyType(
    {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
)
"""By the names that the file uses: what OpenSSL calls them."""

HEADERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Content-Security-Policy": (),
        "Strict-Transport-Security": (),
        "X-Content-Type-Options": ("nosniff",),
        "X-Frame-Options": ("deny", "sameorigin"),
        "X-XSS-Protection": (),
    }
)
"""The headers that the file may set, with the values that each may have; none: any."""


class WebConfigError(Exception):
    """The web configuration cannot be used. Each problem says the file, line and key, what is wrong and how to mend."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ClientAuth(StrEnum):
    """What is asked of a client's certificate: Go's ClientAuthType."""

    NONE = "NoClientCert"
    REQUEST = "RequestClientCert"
    REQUIRE_ANY = "RequireAnyClientCert"
    VERIFY_IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRE_AND_VERIFY = "RequireAndVerifyClientCert"


class TlsVersion(StrEnum):
    """A version of TLS; they sort by their age."""

    TLS10 = "TLS10"
    TLS11 = "TLS11"
    TLS12 = "TLS12"
    TLS13 = "TLS13"


class Pem(msgspec.Struct, frozen=True):
    """A certificate, a key or the certificates of authorities: in a file, or in the web configuration itself."""

    place: str
    """Where the web configuration says so."""
    file: Path | None = None
    text: Secret = Secret("")


class TlsServer(msgspec.Struct, frozen=True, kw_only=True):
    """How TLS is spoken."""

    place: str
    cert: Pem
    key: Pem
    client_ca: Pem | None = None
    client_auth: ClientAuth = ClientAuth.NONE
    client_allowed_sans: frozenset[str] = frozenset()
    """Empty: any."""
    min_version: TlsVersion = TlsVersion.TLS12
    max_version: TlsVersion = TlsVersion.TLS13
    cipher_suites: tuple[str, ...] = ()
    """By OpenSSL's names, those for TLS 1.2 and before; empty: what OpenSSL takes for good."""
    prefer_server_cipher_suites: bool = True
    curve: str | None = None
    """By OpenSSL's name."""


class RateLimit(msgspec.Struct, frozen=True):
    """How many requests are taken: ``burst`` at once, and one more every ``interval`` seconds."""

    interval: float
    burst: int


class WebConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One web configuration."""

    tls: TlsServer | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    users: Mapping[str, Secret] = MappingProxyType({})
    """By name the bcrypt hash of a password; empty: nobody is asked for one."""
    rate_limit: RateLimit | None = None

    @property
    def authenticates(self) -> bool:
        """Whether nobody comes in without having shown who they are."""
        certified = self.tls is not None and self.tls.client_auth is ClientAuth.REQUIRE_AND_VERIFY
        return certified or bool(self.users)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it names."""
        if self.tls is None:
            return ()
        pems = (self.tls.cert, self.tls.key, self.tls.client_ca)
        return tuple(pem.file for pem in pems if pem is not None and pem.file is not None)


def parse(content: bytes, path: Path) -> WebConfig:
    """Read the ``content`` of the file ``path``. Paths in it are relative to its folder.

    Raises:
        WebConfigError: It cannot be used, with all that is wrong. No text repeats a key, a password or a hash.
    """
    reader = _Reader(path)
    root = _compose(content, path)
    top = reader.table(root, "", ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"))
    config = WebConfig(
        tls=_tls(reader, top.get("tls_server_config")),
        headers=_http(reader, top.get("http_server_config")),
        users=_users(reader, top.get("basic_auth_users")),
        rate_limit=_rate_limit(reader, top.get("rate_limit")),
    )
    if reader.problems:
        # By line, so that they are mended from the top down.
        raise WebConfigError(text for _, text in sorted(reader.problems))
    return config


def _compose(content: bytes, path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise WebConfigError([f"{path}:{line}: this is not UTF-8: save the file as UTF-8"]) from None
    except yaml.MarkedYAMLError as error:
        # Only the kind of it: what stands in quotes comes from the file and may be a password.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        kind = re.sub(r"(['\"]).*\1", "...", error.problem or "it cannot be understood", flags=re.DOTALL)
        raise WebConfigError([f"{path}:{line}: this is not YAML: {kind[:200]}: correct this line"]) from None
    except yaml.YAMLError:
        raise WebConfigError([f"{path}: a control character is in it, which YAML forbids: take it out"]) from None
    except RecursionError:
        raise WebConfigError([f"{path}: it is nested too deep: no key of it holds more than two levels"]) from None


class _Entry(msgspec.Struct, frozen=True):
    """One key with its value."""

    key: str
    """With those that it stands under: ``tls_server_config.cert_file``."""
    line: int
    node: yaml.Node
    name: str = ""
    """The key alone, as it stands there."""


class _Reader:
    """Reads nodes by what is expected of them, and gathers what is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []

    def wrong(self, entry: _Entry, text: str) -> None:
        self.problems.append((entry.line, f"{self.place(entry)}: {text}"))

    def place(self, entry: _Entry) -> str:
        return f"{self.path}:{entry.line}: {entry.key}" if entry.key else f"{self.path}:{entry.line}"

    def pairs(self, node: yaml.Node | None, key: str, holds: str) -> Iterator[_Entry]:
        """Yield what a mapping holds, each key once; ``holds`` says what belongs there."""
        if node is None or _is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            self.wrong(_Entry(key, _line(node), node), f"this is {_kind(node)}: write {holds} here, as KEY: VALUE")
            return
        first: dict[str, int] = {}
        for name, value in node.value:
            plain = str(name.value) if isinstance(name, yaml.ScalarNode) else ""
            entry = _Entry(_under(key, plain), _line(name), value, plain)
            if not isinstance(name, yaml.ScalarNode):
                self.wrong(entry, f"the key is {_kind(name)}: write a text")
            elif plain in first:
                self.wrong(entry, f"it is set twice, also in line {first[plain]}: remove one")
            else:
                first[plain] = entry.line
                yield entry

    def table(self, node: yaml.Node | None, key: str, known: tuple[str, ...]) -> dict[str, _Entry]:
        """Return what a mapping holds under ``known`` keys; one without a value is as one that is not there."""
        found = {}
        for entry in self.pairs(node, key, f"{', '.join(known[:3])} ..."):
            if entry.name not in known:
                self.wrong(entry, f"there is no such key{_nearest(entry.name, known)}")
            elif not _is_null(entry.node):
                found[entry.name] = entry
        return found

    def text(self, entry: _Entry | None) -> str:
        """Return a text: any scalar is one. Empty where there is none."""
        if entry is None:
            return ""
        if not isinstance(entry.node, yaml.ScalarNode):
            self.wrong(entry, f"this is {_kind(entry.node)}: write a text")
            return ""
        value: str = entry.node.value
        return value

    def texts(self, entry: _Entry | None) -> list[_Entry]:
        """Return the elements of a list of texts."""
        if entry is None:
            return []
        if not isinstance(entry.node, yaml.SequenceNode):
            self.wrong(entry, f"this is {_kind(entry.node)}: write a list, one element a line, each after a dash")
            return []
        elements = [_Entry(entry.key, _line(node), node) for node in entry.node.value]
        wrong = [it for it in elements if not isinstance(it.node, yaml.ScalarNode) or not it.node.value]
        for it in wrong:
            self.wrong(it, "an element of it is no text: write a text after the dash")
        return [] if wrong else elements

    def switch(self, entry: _Entry | None, default: bool) -> bool:
        if entry is None:
            return default
        if entry.node.tag != "tag:yaml.org,2002:bool":
            self.wrong(entry, f"this is {_kind(entry.node)}: write true or false, without quotes")
            return default
        return yaml.SafeLoader.bool_values[entry.node.value.lower()]

    def one_of(self, entry: _Entry | None, known: Iterable[str], default: str) -> str:
        """Return one of the ``known`` texts; ``default`` where there is none or a wrong one."""
        value = self.text(entry)
        if entry is None or not value:
            return default
        if value not in known:
            self.wrong(entry, f"there is no {_shown(value)}{_nearest(value, known)}")
            return default
        return value


def _tls(reader: _Reader, section: _Entry | None) -> TlsServer | None:
    known = (
        "cert_file",
        "key_file",
        "cert",
        "key",
        "client_ca_file",
        "client_ca",
        "client_auth_type",
        "client_allowed_sans",
        "min_version",
        "max_version",
        "cipher_suites",
        "prefer_server_cipher_suites",
        "curve_preferences",
    )
    if section is None:
        return None
    found = reader.table(section.node, section.key, known)
    if not found:
        return None
    versions = [version.value for version in TlsVersion]
    auth = found.get("client_auth_type")
    # The second name of it is from times before Go's.
    types = [*(each.value for each in ClientAuth), "RequireClientCert"]
    client_auth = reader.one_of(auth, types, ClientAuth.NONE).replace("RequireClientCert", ClientAuth.REQUIRE_ANY)
    tls = TlsServer(
        place=reader.place(section),
        cert=_pem(reader, found, "cert", section),
        key=_pem(reader, found, "key", section),
        client_ca=_pem(reader, found, "client_ca") if {"client_ca", "client_ca_file"} & set(found) else None,
        client_auth=ClientAuth(client_auth),
        client_allowed_sans=_sans(reader, found.get("client_allowed_sans")),
        min_version=TlsVersion(reader.one_of(found.get("min_version"), versions, TlsVersion.TLS12)),
        max_version=TlsVersion(reader.one_of(found.get("max_version"), versions, TlsVersion.TLS13)),
        cipher_suites=(),
        prefer_server_cipher_suites=reader.switch(found.get("prefer_server_cipher_suites"), default=True),
        curve=_curve(reader, found.get("curve_preferences")),
    )
    tls = _with_suites(reader, found.get("cipher_suites"), tls)
    if tls.min_version > tls.max_version:
        reader.wrong(
            found.get("min_version", section),
            f"no version is at least {tls.min_version} and at most {tls.max_version}: raise max_version or lower this",
        )
    _check_client_auth(reader, tls, found, section)
    return tls


def _pem(reader: _Reader, found: Mapping[str, _Entry], name: str, needed: _Entry | None = None) -> Pem:
    """Return what ``name`` or ``name``_file holds; a problem where both are set, or none and it is ``needed``."""
    inline, file = found.get(name), found.get(f"{name}_file")
    text, path = reader.text(inline), reader.text(file)
    if inline and file and text and path:
        reader.wrong(inline, f"{name}_file is set too: remove one of the two")
    elif file and path:
        if "\0" in path:
            reader.wrong(file, "there is a character in it that no path has: write the path of a file")
            return Pem("")
        return Pem(reader.place(file), file=reader.path.parent / path)
    elif inline and text:
        return Pem(reader.place(inline), text=Secret(text))
    elif needed:
        reader.wrong(
            file or inline or needed, f"TLS needs {name}_file or {name}: set {name}_file to the path of a PEM file"
        )
    elif at := file or inline:
        reader.wrong(at, "it is empty: write the path of a PEM file, or remove this line")
    return Pem("")


def _sans(reader: _Reader, entry: _Entry | None) -> frozenset[str]:
    elements = reader.texts(entry)
    if entry and isinstance(entry.node, yaml.SequenceNode) and not entry.node.value:
        reader.wrong(entry, "the list is empty and would let nobody in: name who may come in, or remove this line")
    return frozenset(it.node.value for it in elements)


def _curve(reader: _Reader, entry: _Entry | None) -> str | None:
    chosen = [reader.one_of(it, CURVES, "") for it in reader.texts(entry)]
    # OpenSSL is told one at most by Python: the first, which is liked best.
    return CURVES.get(chosen[0]) if chosen else None


def _with_suites(reader: _Reader, entry: _Entry | None, tls: TlsServer) -> TlsServer:
    """Return ``tls`` with the cipher suites of ``entry``."""
    chosen = [reader.one_of(it, (*TLS_1_2_SUITES, *TLS_1_3_SUITES), "") for it in reader.texts(entry)]
    suites = tuple(TLS_1_2_SUITES[it] for it in chosen if it in TLS_1_2_SUITES)
    if entry is None or not all(chosen) or not chosen:
        return tls
    if suites or tls.min_version is TlsVersion.TLS13:
        return msgspec.structs.replace(tls, cipher_suites=suites)
    if tls.max_version is not TlsVersion.TLS13:
        reader.wrong(
            entry,
            f"all of these are for TLS 1.3, which max_version = {tls.max_version} rules out: name some for TLS 1.2, or"
            " raise max_version",
        )
        return tls
    # Nothing is named that TLS 1.2 could use.
    return msgspec.structs.replace(tls, min_version=TlsVersion.TLS13)


def _check_client_auth(reader: _Reader, tls: TlsServer, found: Mapping[str, _Entry], section: _Entry) -> None:
    """Gather what would ask less of clients than the file seems to say."""
    auth = found.get("client_auth_type", section)
    verified = tls.client_auth in (ClientAuth.VERIFY_IF_GIVEN, ClientAuth.REQUIRE_AND_VERIFY)
    remedy = f"set client_auth_type: {ClientAuth.REQUIRE_AND_VERIFY.value}"
    if tls.client_auth is ClientAuth.REQUIRE_ANY:
        # Python's ssl has no way to take a certificate unseen; to let in those without one would be less than asked.
        reader.wrong(
            auth, f"a certificate that nobody verifies proves nothing, and is not had here: {remedy} and client_ca_file"
        )
        return
    if tls.client_ca is not None and tls.client_auth is ClientAuth.NONE:
        reader.wrong(
            found.get("client_ca_file") or found["client_ca"], f"no certificate is asked for to be verified: {remedy}"
        )
    if tls.client_ca is None and tls.client_auth is ClientAuth.REQUIRE_AND_VERIFY:
        reader.wrong(auth, "it is not said who issues the certificates of clients: set client_ca_file")
    if "client_allowed_sans" in found and not verified:
        reader.wrong(found["client_allowed_sans"], f"names that nobody has verified prove nothing: {remedy}")


def _http(reader: _Reader, section: _Entry | None) -> Mapping[str, str]:
    found = reader.table(section.node, section.key, ("http2", "headers")) if section else {}
    reader.switch(found.get("http2"), default=True)
    headers = found.get("headers")
    given = reader.table(headers.node, headers.key, tuple(HEADERS)) if headers else {}
    values = {name: _header(reader, entry, HEADERS[name]) for name, entry in given.items()}
    return {name: value for name, value in values.items() if value}


def _header(reader: _Reader, entry: _Entry, allowed: tuple[str, ...]) -> str:
    value = reader.text(entry).strip()
    if re.search(r"[^\t\x20-\x7e]", value):
        reader.wrong(entry, "a header is one line of ASCII characters: take out all others")
        return ""
    if allowed and value and value not in allowed:
        reader.wrong(entry, f"it cannot be {_shown(value)}: write {' or '.join(allowed)}")
    return value


def _users(reader: _Reader, section: _Entry | None) -> dict[str, Secret]:
    users: dict[str, Secret] = {}
    if section is None:
        return users
    for entry in reader.pairs(section.node, section.key, "users with their hashed passwords"):
        name = entry.name
        if not name or len(name) > MAX_USER or re.search(r"[:\x00-\x1f\x7f]", name):
            reader.wrong(
                entry, f"a user's name has 1 to {MAX_USER} characters, and neither colons nor control characters"
            )
        elif (hashed := _hashed(reader, entry)) is not None:
            users[name] = hashed
    return users


def _hashed(reader: _Reader, entry: _Entry) -> Secret | None:
    text = reader.text(entry)
    if not isinstance(entry.node, yaml.ScalarNode):
        return None
    found = re.fullmatch(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", text, re.ASCII)
    if found is None:
        reader.wrong(entry, f"this is not a password hashed with bcrypt: {HOW_TO_HASH}")
        return None
    cost = int(found[1])
    if not MIN_COST <= cost <= MAX_COST:
        reader.wrong(
            entry,
            f"the cost of the hash is {cost}, and each one more doubles the time of a check: make one with a cost from"
            f" {MIN_COST} to {MAX_COST}, best with 10",
        )
        return None
    return Secret(text)


def _rate_limit(reader: _Reader, section: _Entry | None) -> RateLimit | None:
    if section is None:
        return None
    found = reader.table(section.node, section.key, ("interval", "burst"))
    burst = found.get("burst")
    number = reader.text(burst) or "0"
    if burst and not re.fullmatch(r"[0-9]{1,9}", number, re.ASCII):
        reader.wrong(burst, "this is no number of requests: write a whole number from 0 on")
        number = "0"
    interval = _seconds(reader, found.get("interval"))
    return RateLimit(interval, int(number)) if interval else None


_DURATION_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Those of Go, which has neither days nor weeks."""

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def _seconds(reader: _Reader, entry: _Entry | None) -> float:
    text = reader.text(entry)
    if entry is None or text in ("", "0"):
        return 0.0
    parts = _DURATION.findall(text)
    seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds > MAX_INTERVAL:
        reader.wrong(entry, "this is no time up to a day: write a number with its unit, such as 500ms, 5s or 1m30s")
        return 0.0
    return seconds


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


_KINDS: Final[tuple[tuple[Callable[[yaml.Node], bool], str], ...]] = (
    (lambda node: isinstance(node, yaml.MappingNode), "a mapping"),
    (lambda node: isinstance(node, yaml.SequenceNode), "a list"),
    (_is_null, "nothing"),
    (lambda node: node.tag == "tag:yaml.org,2002:bool", "true or false"),
    (lambda node: node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"), "a number"),
    (lambda _: True, "a text"),
)


def _kind(node: yaml.Node) -> str:
    return next(name for fits, name in _KINDS if fits(node))


def _under(key: str, name: str) -> str:
    shown = name if name.isprintable() and 0 < len(name) <= MAX_SHOWN else _shown(name)
    return f"{key}.{shown}" if key else shown


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    lowered = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name[: 2 * MAX_SHOWN].lower(), lowered, 1)
    return f": did you mean {lowered[close[0]]}?" if close else f": known are {', '.join(names)}"
