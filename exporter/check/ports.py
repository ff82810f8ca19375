"""Whether an address can be listened on, and who has it if not. Nothing is ever accepted there."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import stat
from pathlib import Path

import msgspec

from exporter.check import holders
from exporter.check.access import obstacle
from exporter.check.finding import remedy
from exporter.web.address import Address


class Taken(msgspec.Struct, frozen=True):
    """Why an address cannot be listened on."""

    why: str
    """The end of a sentence."""
    in_use: bool = False
    """Whether that is because another process does."""
    by_forewarn: bool = False
    """Whether that process looks like a Forewarn."""
    how: str | None = None
    """What mends it without another address, where that is known."""


def taken(address: Address, kind: socket.SocketKind) -> Taken | None:
    """Return why ``address`` cannot be listened on by TCP or UDP; ``None`` where it can. Opens and closes a socket."""
    if address.port == 0:
        return None
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return Taken(f"the name {address.host} has no address here")
    for family, _, _, _, place in found:
        try:
            with socket.socket(family, kind) as made:
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(place)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                continue
            return _why(error, address, kind)
    return None


def _why(error: OSError, address: Address, kind: socket.SocketKind) -> Taken:
    name = "tcp" if kind == socket.SOCK_STREAM else "udp"
    if error.errno == errno.EADDRINUSE:
        holder = holders.of_port(name, address.port)
        who = "another process, which cannot be seen from here," if holder is None else holder.told
        return Taken(f"{who} has the port already ({name.upper()})", True, holder is not None and holder.is_forewarn)
    if error.errno == errno.EACCES:
        return Taken(f"ports below 1024 need a privilege, and Forewarn runs as uid {os.geteuid()}")
    if error.errno == errno.EADDRNOTAVAIL:
        return Taken(f"this machine has no address {address.host}")
    return Taken(error.strerror or str(error))


def unix_taken(path: Path) -> Taken | None:
    """Return why no unix datagram socket can be made at ``path``; ``None`` where it can. Sends nothing."""
    try:
        blocked = obstacle(path.parent, os.W_OK | os.X_OK)
    except OSError:
        return Taken(
            f"there is no folder {path.parent}",
            how=remedy("make the folder:", f"mkdir -p {shlex.quote(str(path.parent))}"),
        )
    if blocked is not None:
        command = f"chown {os.geteuid()} {shlex.quote(str(path.parent))}"
        return Taken(f"{blocked.told}", how=remedy("let Forewarn make files in that folder:", command))
    try:
        about = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Taken(error.strerror or str(error))
    if not stat.S_ISSOCK(about.st_mode):
        return Taken("something that is no socket has that name", how=remedy("move it away:", f"mv {path} {path}.away"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return None  # left behind by one that has ended: it is replaced
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                return Taken(error.strerror or str(error))
    holder = None
    with contextlib.suppress(OSError):
        holder = holders.of_path(path)
    who = "another process" if holder is None else holder.told
    return Taken(f"{who} listens there already", True, holder is not None and holder.is_forewarn)
