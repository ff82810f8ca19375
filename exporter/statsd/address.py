"""Where a StatsD server is: the addresses of ``--statsd.push`` and of ``--statsd.relay``."""

from __future__ import annotations

import os
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from exporter.web.address import Address

PORT = 8125
"""Where StatsD servers listen unless told otherwise."""

MAX_UNIX_PATH = 107
"""Bytes of the path of a unix socket: Linux keeps it in 108, with a zero byte at its end."""

RELAY_FORMS = "udp://HOST:PORT or unix:///PATH"
PUSH_FORMS = "statsd://HOST:PORT, dogstatsd://HOST:PORT or dogstatsd+unix:///PATH"


class UdpAddress(msgspec.Struct, frozen=True):
    """A host, by name or address, and its UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


StatsdAddress = UdpAddress | Path
"""A UDP port, or the path of a unix datagram socket."""


def parse_relay(text: str) -> StatsdAddress:
    """Understand ``udp://host:8125`` and ``unix:///path``, percent-encoding and IPv6 included.

    Raises:
        ValueError: It is not such an address. The text tells what is wrong and never repeats the URL.
    """
    return _parse(text, ("udp",), "unix", RELAY_FORMS)[1]


def parse_push(text: str) -> tuple[bool, StatsdAddress]:
    """Understand ``statsd://host:8125``, ``dogstatsd://host:8125`` and ``dogstatsd+unix:///path``.

    Returns:
        Whether the server there speaks DogStatsD, and where it is.

    Raises:
        ValueError: It is not such an address. The text tells what is wrong and never repeats the URL.
    """
    scheme, address = _parse(text, ("statsd", "dogstatsd"), "dogstatsd+unix", PUSH_FORMS)
    return scheme != "statsd", address


def check_host(host: str) -> None:
    """Tell whether a name or address can be looked up.

    Raises:
        ValueError: It cannot, whatever the network is: its encoding would fail.
    """
    if not host.isprintable() or " " in host or len(host) > 253:
        raise ValueError("it is no name")
    if ":" in host:
        ip_address(host)
    else:
        host.encode("idna")


def check_unix_path(path: str) -> None:
    """Tell whether ``path`` can be that of a unix socket.

    Raises:
        ValueError: It cannot. The text is the end of a sentence that begins with "it".
    """
    if not path.startswith("/"):
        raise ValueError("is not an absolute path")
    if path.endswith("/") or not path.isprintable():
        raise ValueError("is not the path of a socket")
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ValueError(f"is longer than the {MAX_UNIX_PATH} bytes that the path of a socket may have")


def collide(one: Address | Path, other: Address | Path) -> bool:
    """Tell whether both cannot be listened on at once, as far as their texts tell."""
    if isinstance(one, Path) or isinstance(other, Path):
        return _same_path(one, other)
    if one.port != other.port or one.port == 0:
        return False
    if one.host is None or other.host is None:
        return True
    # A name may have several addresses, and which they are is not known here.
    return any(
        mine == its or (_version(mine) == _version(its) and (_is_every(mine) or _is_every(its)))
        for mine in _addresses(one.host)
        for its in _addresses(other.host)
    )


def leads_to(target: StatsdAddress, listening: Address | Path) -> bool:
    """Tell whether what is sent to ``target`` comes to what is ``listening``, as far as their texts tell.

    A name, and an address of this machine that is not of its loopback, cannot be told from one of another machine.
    """
    if isinstance(target, Path) or isinstance(listening, Path):
        return _same_path(target, listening)
    if target.port != listening.port:
        return False
    ours = _addresses(listening.host or "") or {IPv4Address(0), IPv6Address(0)}
    return any(
        address == our or (_is_here(address) and _is_every(our) and _version(address) == _version(our))
        for address in map(_delivered, _addresses(target.host))
        for our in ours
    )


def _parse(text: str, udp: Collection[str], unix: str, forms: str) -> tuple[str, StatsdAddress]:
    try:
        # urlsplit() drops tabs and line ends; the texts of its own errors would tell a part of the URL.
        parts = urlsplit(text)
        port = parts.port if text.isprintable() else 0
    except ValueError:
        raise ValueError(f"the URL is malformed after its scheme; write {forms}") from None
    if parts.scheme not in {*udp, unix}:
        begins = ", ".join(f"{each}://" for each in (*udp, unix))
        raise ValueError(f"the URL begins with none of {begins}; write {forms}")
    if "@" in parts.netloc:
        raise ValueError(f"the URL carries a name or password, but StatsD knows none; write {forms}")
    if "?" in text or "#" in text:
        raise ValueError(f"the URL goes on with ? or #; write {forms}, with either of them percent-encoded in a path")
    if parts.scheme == unix:
        return unix, _unix_path(parts.netloc, parts.path, unix)
    if parts.path not in {"", "/"}:
        raise ValueError(f"the URL goes on after its port, with a path; write {forms}")
    host = parts.hostname or ""
    try:
        check_host(host)
    except ValueError:
        host = ""
    if not host or port == 0:
        raise ValueError(f"the URL names no host and port that can be reached; write {forms}")
    return parts.scheme, UdpAddress(host, PORT if port is None else port)


def _unix_path(netloc: str, encoded: str, scheme: str) -> Path:
    hint = f"write {scheme}:///PATH, with three slashes"
    if netloc:
        raise ValueError(f"the URL names a host, or its path is not absolute; {hint}")
    try:
        path = unquote(encoded, errors="strict")
        check_unix_path(path)
    except UnicodeError:
        raise ValueError(f"the path in the URL is not UTF-8; {hint}") from None
    except ValueError as error:
        raise ValueError(f"the path in the URL {error}; {hint}") from None
    return Path(path)


def _same_path(one: object, other: object) -> bool:
    both = isinstance(one, Path) and isinstance(other, Path)
    return both and os.path.realpath(str(one)) == os.path.realpath(str(other))


_Host = IPv4Address | IPv6Address | str


def _addresses(host: str) -> set[_Host]:
    """Return what a host is by its text: addresses, or a name."""
    name = host.lower().rstrip(".")
    if not name:
        return set()
    if name == "localhost":
        return {IPv4Address("127.0.0.1"), IPv6Address("::1")}
    try:
        address = ip_address(host)
    except ValueError:
        return {name}
    return {address.ipv4_mapped or address if isinstance(address, IPv6Address) else address}


def _version(host: _Host) -> int | None:
    return None if isinstance(host, str) else host.version


def _is_every(host: _Host) -> bool:
    return not isinstance(host, str) and host.is_unspecified


def _is_here(host: _Host) -> bool:
    return not isinstance(host, str) and host.is_loopback


def _delivered(host: _Host) -> _Host:
    """Return where a packet to ``host`` goes: to no address in particular means to this machine."""
    if _is_every(host):
        return IPv4Address("127.0.0.1") if _version(host) == 4 else IPv6Address("::1")
    return host
