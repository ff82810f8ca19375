"""The address to listen on, as ``--web.listen-address`` writes it."""

from __future__ import annotations

import errno
import socket

import msgspec

FLAG = "--web.listen-address"


class ListenError(Exception):
    """The address cannot be listened on; the text names the flag and what to do."""


class Address(msgspec.Struct, frozen=True):
    """Where to listen. No host means every address of the machine; port 0 means any free port."""

    host: str | None
    port: int

    def __str__(self) -> str:
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``host:port``, ``[ipv6]:port`` or ``:port``; raise :class:`ListenError` for anything else."""
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host) != bracketed:
        raise ListenError(
            f"{FLAG} {text!r} is not an address: write HOST:PORT with a port from 0 to 65535,"
            " for example 127.0.0.1:9386, [::1]:9386 or :9386"
        )
    return Address(host or None, int(port))


def explain(address: Address, error: OSError) -> ListenError:
    """Return what went wrong when listening on ``address``, and how to mend it."""
    return ListenError(f"cannot listen on {address}: {why(error, FLAG, every=f':{address.port}')}")


def why(error: OSError, flag: str, *, every: str) -> str:
    """Return why an address cannot be listened on and how to mend it, the end of a sentence.

    ``flag`` sets the address; ``every`` is how it says all addresses of the machine.
    """
    if error.errno == errno.EADDRINUSE:
        return f"another program listens there: stop it, or choose another port with {flag}"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need a privilege: choose a higher port with {flag}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no such address: choose one of its own with {flag}, or {every} for all"
    if isinstance(error, socket.gaierror):
        return f"the host name is not known: write an address that this machine has with {flag}"
    return f"{error.strerror or error}: choose another address with {flag}"


def bind_everywhere(port: int, *, shared: bool = False) -> socket.socket:
    """Return one socket that takes IPv4 and IPv6 connections to every address of this machine.

    ``shared``: others of this user's may have the port too, where they allow that.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=shared)
    return socket.create_server(("", port), reuse_port=shared)
