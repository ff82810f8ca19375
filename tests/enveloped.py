"""Writes lines of a process's output as containers, service managers and loggers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

Lines = Sequence[tuple[str, str]]
"""Streams (``stdout`` or ``stderr``), and what was printed there."""

BEGIN: Final = 1_795_241_114.0
"""2026-11-21 06:05:14 UTC: when the first line was printed. Each that follows comes a millisecond later."""

PIECE: Final = 24
"""Characters of a piece, where lines are written in pieces."""

DOCKER_PIECE: Final = 64
"""Docker's pieces have no mark to search for, so that the first must hold what a line is found by: it has 16 KiB."""


def rfc3339(at: float) -> str:
    """As Go's RFC3339Nano: without zeros at its end."""
    whole = datetime.fromtimestamp(at, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}{f'.{whole.microsecond:06}001'.rstrip('0')}Z"


def _timed(lines: Lines) -> Iterator[tuple[float, str, str]]:
    for index, (stream, line) in enumerate(lines):
        yield BEGIN + index / 1000, stream, line


def plain(lines: Lines) -> bytes:
    return "".join(f"{line}\n" for _, line in lines).encode()


def coloured(lines: Lines) -> bytes:
    return "".join(f"\x1b[31m{line}\x1b[0m\n" for _, line in lines).encode()


def stamped(lines: Lines) -> bytes:
    """``docker logs -t``, ``kubectl logs --timestamps``."""
    return "".join(f"{rfc3339(at)} {line}\n" for at, _, line in _timed(lines)).encode()


def by_ts(lines: Lines) -> bytes:
    """``ts`` of moreutils, in the local time."""
    return "".join(f"{_local(at):%b %d %H:%M:%S} {line}\n" for at, _, line in _timed(lines)).encode()


def docker(lines: Lines) -> bytes:
    return "".join(_docker(at, stream, f"{line}\n") for at, stream, line in _timed(lines)).encode()


def docker_pieces(lines: Lines) -> bytes:
    written = []
    for at, stream, line in _timed(lines):
        *first, last = _pieces(line, DOCKER_PIECE)
        written += [_docker(at, stream, piece) for piece in first] + [_docker(at, stream, f"{last}\n")]
    return "".join(written).encode()


def _docker(at: float, stream: str, log: str) -> str:
    text = json.dumps(log, ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'{{"log":{text},"stream":"{stream}","time":"{rfc3339(at)}"}}\n'


def cri(lines: Lines) -> bytes:
    return "".join(f"{rfc3339(at)} {stream} F {line}\n" for at, stream, line in _timed(lines)).encode()


def cri_bare(lines: Lines) -> bytes:
    """Without the space before a blank line."""
    return "".join(
        f"{rfc3339(at)} {stream} F{' ' if line else ''}{line}\n" for at, stream, line in _timed(lines)
    ).encode()


def cri_pieces(lines: Lines) -> bytes:
    written = []
    for at, stream, line in _timed(lines):
        *first, last = _pieces(line)
        written += [f"{rfc3339(at)} {stream} P {piece}\n" for piece in first]
        written.append(f"{rfc3339(at)} {stream} F {last}\n")
    return "".join(written).encode()


def journal(lines: Lines) -> bytes:
    return b"".join(_journal(at, stream, line) for at, stream, line in _timed(lines))


def journal_bytes(lines: Lines) -> bytes:
    """Of messages that are not printable, ``journalctl`` writes the bytes."""
    return b"".join(_journal(at, stream, list(f"\x1b[1m{line}".encode())) for at, stream, line in _timed(lines))


def journal_pieces(lines: Lines) -> bytes:
    """What is longer than the line limit of journald is written in pieces."""
    written = []
    for at, stream, line in _timed(lines):
        *first, last = _pieces(line)
        written += [_journal(at, stream, piece, {"_LINE_BREAK": "line-max"}) for piece in first]
        written.append(_journal(at, stream, last))
    return b"".join(written)


def _journal(at: float, stream: str, message: str | list[int], more: Mapping[str, str] | None = None) -> bytes:
    fields = {
        "__CURSOR": f"s=480e2c35;i={stream}",
        "SYSLOG_IDENTIFIER": f"job-{stream}",
        "MESSAGE": message,
        "_PID": "123",
        "__REALTIME_TIMESTAMP": str(round(at * 1e6)),
        **(more or {}),
    }
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def syslog(lines: Lines) -> bytes:
    return "".join(
        f"{_local(at):%b %d %H:%M:%S} host {_unit(each)}: {line}\n" for at, each, line in _timed(lines)
    ).encode()


def rsyslog(lines: Lines) -> bytes:
    """With its precise times. It writes control characters as numbers."""
    return "".join(
        f"{_local(at).isoformat(timespec='microseconds')} host {_unit(each)}: {line}\n".replace("\t", "#011")
        for at, each, line in _timed(lines)
    ).encode()


def journal_iso(lines: Lines) -> bytes:
    """``journalctl -o short-iso``: a zone without a colon."""
    return "".join(
        f"{_local(at):%Y-%m-%dT%H:%M:%S%z} host {_unit(each)}: {line}\n" for at, each, line in _timed(lines)
    ).encode()


def compose(lines: Lines) -> bytes:
    return "".join(f"job-{each}-1  | {line}\n" for _, each, line in _timed(lines)).encode()


def compose_stamped(lines: Lines) -> bytes:
    """With colours and times: ``docker compose logs -t`` on a terminal."""
    return "".join(
        f"\x1b[36mjob-{each}-1  | \x1b[0m{rfc3339(at)} {line}\n" for at, each, line in _timed(lines)
    ).encode()


def kubectl(lines: Lines) -> bytes:
    return "".join(f"[pod/job-0/{each}] {line}\n" for _, each, line in _timed(lines)).encode()


def kubectl_stamped(lines: Lines) -> bytes:
    return "".join(f"[pod/job-0/{each}] {rfc3339(at)} {line}\n" for at, each, line in _timed(lines)).encode()


def windows(lines: Lines) -> bytes:
    """Of a terminal, too, every line ends with a carriage return."""
    return "".join(f"{line}\r\n" for _, line in lines).encode()


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone()


def _unit(stream: str) -> str:
    return f"job-{stream}[123]"


def _pieces(line: str, size: int = PIECE) -> list[str]:
    return [line[begin : begin + size] for begin in range(0, len(line), size)] or [""]


Writer = Callable[[Lines], bytes]

WRITERS: Final[Mapping[str, Writer]] = {
    it.__name__: it
    for it in (
        plain,
        coloured,
        windows,
        stamped,
        by_ts,
        docker,
        docker_pieces,
        cri,
        cri_bare,
        cri_pieces,
        journal,
        journal_bytes,
        journal_pieces,
        syslog,
        rsyslog,
        journal_iso,
        compose,
        compose_stamped,
        kubectl,
        kubectl_stamped,
    )
}
"""By name: the lines of one process, in every envelope."""

WITHOUT_TIMES: Final = frozenset({"plain", "coloured", "windows", "compose", "kubectl"})
"""Envelopes that tell no times."""

APART: Final = frozenset(WRITERS) - {"plain", "coloured", "windows", "stamped", "by_ts"}
"""Envelopes that tell a process's streams, or its containers, apart."""
