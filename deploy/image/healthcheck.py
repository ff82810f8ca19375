"""Whether the Forewarn of this container lives: exit status 0 where it answers, 1 where it does not.

It knows no password and trusts no certificate, and needs neither: whoever is turned away (401, a broken TLS handshake,
a closed connection) was turned away by a Forewarn that runs. One that hangs says nothing at all, and one that is
about to end answers with 5xx. It asks at the port of FOREWARN_WEB_LISTEN_ADDRESS: set the address there, not by a flag.
"""

# ruff: noqa: INP001 - a script that stands alone

import os
import socket
import sys

SECONDS = 5.0


def main() -> int:
    """Ask once."""
    address = os.environ.get("FOREWARN_WEB_LISTEN_ADDRESS") or "127.0.0.1:9386"
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - what it listens at, everywhere
        host = "localhost"
    try:
        with socket.create_connection((host, int(port)), SECONDS) as connection:
            connection.settimeout(SECONDS)
            connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = connection.recv(64)
    except (ConnectionResetError, BrokenPipeError):
        return 0
    except (OSError, ValueError) as error:
        sys.stderr.write(f"forewarn does not answer at {host}:{port}: {error}\n")
        return 1
    if answer.startswith(b"HTTP/1.") and answer[9:10] == b"5":
        sys.stderr.write(f"forewarn at {host}:{port} answers {answer.splitlines()[0].decode(errors='replace')}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
