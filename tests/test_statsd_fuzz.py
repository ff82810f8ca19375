"""Whatever bytes come, StatsD is received without an exception, and every line is accounted for exactly once.

Runs for a minute, or for as many seconds as ``FOREWARN_FUZZ_SECONDS`` says; ``FOREWARN_FUZZ_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence

import msgspec
import pytest

from exporter.statsd.report import MAX_FRAME, Report
from exporter.statsd.tally import Tally
from tests.statsd_reference import IGNORED, REJECTED, UNDERSTOOD, booked, counted, expected

SECONDS = float(os.environ.get("FOREWARN_FUZZ_SECONDS", "60"))

CORPUS: Sequence[bytes] = (*UNDERSTOOD, *IGNORED, *(data for data, _ in REJECTED if len(data) < 1000))
TOKENS: Sequence[bytes] = (
    *(b":", b"::", b"|", b"||", b"|c", b"|g", b"|ms", b"|h", b"|d", b"|s", b"|@", b"|@0.1", b"|@1e-9", b"|#", b"|#a:b"),
    *(
        b"|c:",
        b"|e:",
        b"|card:low",
        b"|T1",
        b"_e{",
        b"_e{1,1}:",
        b"_sc|",
        b"|0",
        b"\n",
        b"\r",
        b"\r\n",
        b"\x00",
        b"\xff",
    ),
    *(b"0", b"-1", b"+1", b"1e308", b"-1e308", b"1e400", b"1e-400", b".5", b"5.", b"NaN", b"inf", b"1_0", b"9" * 400),
    *(
        b"9" * 20,
        b"0." + b"3" * 20,
        "\u0661".encode(),
        "\u0085".encode(),
        b"\xed\xa0\x80",
        b",",
        b"#",
        b"@",
        b" ",
        b"}",
    ),
)


def mutated(chance: random.Random, line: bytes) -> bytes:
    data = bytearray(line)
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((0, 1, 1, 2, 5, 20)))
        match chance.randrange(6):
            case 0:
                del data[at:to]
            case 1:
                data[at:to] = chance.choice(TOKENS)
            case 2:
                data[at:at] = chance.choice(TOKENS)
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(5))
            case 4:
                other = chance.choice(CORPUS)
                data[at:] = other[chance.randrange(len(other)) :]
            case _:
                data[at:at] = data[at:to] * chance.choice((1, 2, 50))
    return bytes(data)


def datagram(chance: random.Random, seen: list[bytes]) -> bytes:
    """Some lines: new ones, random ones, and ones that came before, which are remembered by then."""
    lines = []
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        kind = chance.random()
        if kind < 0.3 and seen:
            line = chance.choice(seen)
        elif kind < 0.35:
            line = chance.randbytes(chance.randrange(40))
        else:
            line = mutated(chance, chance.choice(CORPUS))
        lines.append(line)
        if len(seen) < 1000:
            seen.append(line)
        else:
            seen[chance.randrange(1000)] = line
    return chance.choice((b"\n", b"\n", b"\n", b"\r\n")).join(lines) + chance.choice((b"", b"\n"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_no_bytes_break_the_receiving_and_the_books_balance() -> None:
    seed = int(os.environ.get("FOREWARN_FUZZ_SEED", random.randrange(2**32)))
    chance = random.Random(seed)
    crowded, accounts = Tally(30), 0  # most of its series are folded or rejected
    datagrams = lines = 0
    seen: list[bytes] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = datagram(chance, seen)
        plain = expected(data)
        fresh = Tally(10_000)
        assert counted(fresh, fresh.feed(data)) == plain, (seed, datagrams, data)
        assert counted(fresh, fresh.feed(data)) == plain, (seed, datagrams, data)

        crowded.feed(data)
        accounts += plain.samples + plain.rejected + plain.ignored
        datagrams += 1
        lines += plain.lines
        if datagrams % 50 == 0:
            parts, totals = crowded.take()
            frames = [msgspec.msgpack.encode(part) for part in parts]
            assert all(len(frame) <= MAX_FRAME for frame in frames)
            told = booked((msgspec.msgpack.decode(frame, type=Report) for frame in frames), totals)
            assert told.samples + told.rejected + told.ignored == accounts, (seed, datagrams)
            accounts = 0
    print(f"fuzzed: {datagrams} datagrams, {lines} lines, seed {seed}")
    assert lines > 1000
