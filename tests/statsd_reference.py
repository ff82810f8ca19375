"""What the receiver of StatsD must agree with: a slow, strict reading by regular expressions. And lines that matter."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import isfinite

import msgspec

from exporter.model import Ignored, Rejection
from exporter.statsd.report import SECONDS_BOUNDS, VALUES_BOUNDS, Report, Totals
from exporter.statsd.tally import Tally

DOCUMENTED: Sequence[bytes] = (
    b"faktory.processed:1071|g",
    b"faktory.failures:12|g",
    b"faktory.scheduled:3|g",
    b"faktory.retries:4|g",
    b"faktory.dead:5|g",
    b"faktory.enqueued:6|g",
    b"faktory.working:7|g",
    b"faktory.enqueued.critical:8|g",
    b"faktory.latency.critical:9.25|g",
    b"faktory.queue.size:10|g|#queue:critical",
    b"faktory.queue.latency:11.5|g|#queue:critical",
    b"faktory.ops.connections:85|g",
    b"faktory.ops.redis.connections:86|g",
    b"faktory.ops.redis.memory:1048576|g",
    b"faktory.ops.redis.rtt_us:190|g",
    b"faktory.jobs.count:1|c|#queue:critical,jobtype:Send",
    b"faktory.jobs.failed:1|c|#queue:critical,jobtype:Send",
    b"faktory.jobs.perform:23.737378|ms|#queue:critical,jobtype:Send",
    b"faktory.jobs.expired:1|c|#queue:critical,jobtype:Send",
    b"faktory.uniq.lock:1|c|#queue:critical,jobtype:Send",
    b"faktory.uniq.denied:1|c|#queue:critical,jobtype:Send",
    b"faktory.jobs.Send.count:1|c",
    b"faktory.jobs.Send.failed:1|c",
    b"faktory.jobs.Send.perform:1.5|ms",
    # Ruby's names (contribsys/faktory#281).
    b"faktory.jobs.BareStripe::Sync.perform:23.737378|ms|#env:production,dyno:w.1,queue:q,jobtype:BareStripe::Sync",
    # fossas/faktory-plugins
    b"faktory.jobs.processed:812|ms|#queue:critical,jobtype:Send,status:fail,dead:false",
)
"""Each name that Faktory is known to send, as it stands on the wire."""

UNDERSTOOD: Sequence[bytes] = (
    *DOCUMENTED,
    b"page.views:1|c",
    b"fuel.level:0.5|g",
    b"fuel.level:+4|g",
    b"fuel.level:-4|g",
    b"song.length:240|h|@0.5",
    b"song.length:240|d|@0.5|#a:b",
    b"users.uniques:1234|s",
    b"users.uniques:a:b::c|s|#country:china",
    b"users.online:1:2:3|c|#country:china",
    b"page.views:5:-1:2.5|ms|@0.1|#a|c:ci-1|e:it-false,cn-nginx|card:low",
    b"page.views:15|c|#env:dev|T1656581400",
    b"page.views:15|g|#env:dev|c:83c0a99c0a54c0c187f461c7980e9b57f3f6a8b0c918c8d93df19a9de6f3fe1d|T1656581400",
    b"jibri.stop:1|c|#",
    b"test.metric:42|c|#,,,",
    b"tag.first:3|c|#a:b|@0.25",
    b"small:1e-05|h",
    b"telnet:1|c\r",
)

IGNORED: Sequence[bytes] = (
    b"_e{5,4}:title|text",
    b"_e{21,36}:An exception occurred|Cannot parse CSV file from 10.0.0.17|t:warning|#err_type:bad_file",
    b"_e{2,3}:a||b|c",
    b"_e{5,0}:title|",
    b"_sc|Redis connection|2",
    b"_sc|Redis connection|2|#env:dev|m:Redis connection timed out after 10s|c:ci-1",
)

REJECTED: Sequence[tuple[bytes, Rejection]] = (
    # These ended prometheus/statsd_exporter: #48, #126, #191, #253, #572.
    (b":100|ms", Rejection.NAME),
    (b"foo:1|c|", Rejection.SECTION),
    (b"|h|#consumer:Kafka::SharedConfigurationConsumer,topic:t,partition:1", Rejection.NAME),
    (b"cpu_idle_second:  0.111090  -0.055903  -0.060101|h|#a:b", Rejection.VALUE),
    (b"foo:1|c|@0.1|@0.1|#", Rejection.SECTION),
    (b"foo", Rejection.TYPE),
    (b"foo:", Rejection.TYPE),
    (b"foo:1", Rejection.TYPE),
    (b"foo:1|", Rejection.TYPE),
    (b"foo|c", Rejection.VALUE),
    (b"foo:|c", Rejection.VALUE),
    (b"foo::1|c", Rejection.VALUE),
    (b"|", Rejection.NAME),
    (b":", Rejection.NAME),
    (b"::", Rejection.TYPE),
    (b"\x00:1|c", Rejection.NAME),
    (b"a\tb:1|c", Rejection.NAME),
    (b"a\x7fb:1|c", Rejection.NAME),
    ("a\u0085b:1|c".encode(), Rejection.NAME),
    (b"n" * 513 + b":1|c", Rejection.NAME),
    (b"foo:1|C", Rejection.TYPE),
    (b"foo:1|m", Rejection.TYPE),
    (b"foo:1|c|c", Rejection.SECTION),
    (b"foo:1|c||#a", Rejection.SECTION),
    (b"foo:1|c|#a|#b", Rejection.SECTION),
    (b"foo:1|c|x:y", Rejection.SECTION),
    (b"foo:1|c|card:many", Rejection.SECTION),
    (b"foo:1|c|T", Rejection.SECTION),
    (b"foo:1|c|T-1", Rejection.SECTION),
    (b"foo:1|ms|T1656581400", Rejection.SECTION),
    (b"foo:1|c|@", Rejection.RATE),
    (b"foo:1|c|@0", Rejection.RATE),
    (b"foo:1|c|@-0.1", Rejection.RATE),
    (b"foo:1|c|@1.01", Rejection.RATE),
    (b"foo:1|c|@NaN", Rejection.RATE),
    (b"foo:1|c|@1e-320", Rejection.RATE),
    (b"foo:NaN|g", Rejection.VALUE),
    (b"foo:nan|c", Rejection.VALUE),
    (b"foo:inf|c", Rejection.VALUE),
    (b"foo:-Infinity|g", Rejection.VALUE),
    (b"foo:1e400|c", Rejection.VALUE),
    (b"foo:-1e400|g", Rejection.VALUE),
    (b"foo:0x10|c", Rejection.VALUE),
    (b"foo:1_000|c", Rejection.VALUE),
    (b"foo: 1|c", Rejection.VALUE),
    (b"foo:1 |c", Rejection.VALUE),
    (b"foo:1.2.3|c", Rejection.VALUE),
    (b"foo:.|c", Rejection.VALUE),
    (b"foo:1e|c", Rejection.VALUE),
    (b"foo:--1|c", Rejection.VALUE),
    ("foo:\u0661\u0662|c".encode(), Rejection.VALUE),
    ("foo:\uff11|c".encode(), Rejection.VALUE),
    (b"foo:" + b"1" * 401 + b"|c", Rejection.VALUE),
    (b"foo:-1|c", Rejection.VALUE),
    (b"foo:|s", Rejection.VALUE),
    (b"\xff\xfe:1|c", Rejection.ENCODING),
    (b"foo:1|c|#a:\xc3\x28", Rejection.ENCODING),
    (b"foo:1|c|#a:\xed\xa0\x80", Rejection.ENCODING),
    (b"foo:1|c|#" + b"t" * 4097, Rejection.LENGTH),
    (b"foo" + b":1" * 4097 + b"|c", Rejection.LENGTH),
    (b"a" * (64 * 1024 + 1), Rejection.LENGTH),
    (b"_e{}:title|text", Rejection.EVENT),
    (b"_e{5,4}title|text", Rejection.EVENT),
    (b"_e{5,400}:title|text", Rejection.EVENT),
    (b"_e{99999,99999}:title|text", Rejection.EVENT),
    (b"_e{4,4}:title|text", Rejection.EVENT),
    (b"_e{5,3}:title|text", Rejection.EVENT),
    (b"_e{0,4}:|text", Rejection.EVENT),
    (b"_e{-1,4}:title|text", Rejection.EVENT),
    (b"_sc||0", Rejection.EVENT),
    (b"_sc|name|4", Rejection.EVENT),
    (b"_sc|name|00", Rejection.EVENT),
    (b"_sc|name", Rejection.EVENT),
    (b"_sc|", Rejection.EVENT),
)

_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SECTION = (
    rb"@(?P<rate>[^|]*)|#(?P<tags>[^|]*)|c:(?P<c>[^|]*)|e:(?P<e>[^|]*)"
    rb"|card:(?P<card>none|low|orchestrator|high)|T(?P<time>[0-9]{1,20})"
)
_METRIC = re.compile(
    rb"(?P<name>(?:[^:|\x00-\x1f\x7f]|::)+):(?!:)(?P<values>[^|]*)\|(?P<type>c|g|ms|h|d|s)(?P<sections>(?:\|[^|]*)*)"
)
_EVENT = re.compile(rb"_e\{([0-9]{1,5}),([0-9]{1,5})\}:(.*)", re.DOTALL)
_CHECK = re.compile(rb"_sc\|[^|]+\|[0123](\|.*)?", re.DOTALL)
_C1 = re.compile("[\x80-\x9f]")


class Value(msgspec.Struct, frozen=True):
    """One value of a line; ``None`` where it is none."""

    kind: bytes
    name: bytes
    tags: bytes
    weight: float
    value: float | bytes | None
    is_move: bool = False


def understood(line: bytes) -> list[Value] | Ignored | None:
    """Read a line; ``None``: it is none."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return None
    if len(line) > 65536:
        return None
    line = line.removesuffix(b"\r")
    if line.startswith(b"_e{"):
        return Ignored.EVENT if _is_event(line) else None
    if line.startswith(b"_sc|"):
        return Ignored.CHECK if _CHECK.fullmatch(line) else None
    found = _METRIC.fullmatch(line)
    if found is None or len(found["name"]) > 512 or _C1.search(text.partition("|")[0][: len(found["name"].decode())]):
        return None
    kind = {b"d": b"h"}.get(found["type"], found["type"])
    told: dict[str, bytes] = {}
    for section in found["sections"].split(b"|")[1:]:
        part = re.fullmatch(_SECTION, section)
        if part is None or part.lastgroup is None or part.lastgroup in told:
            return None
        told[part.lastgroup] = part[part.lastgroup]
    if ("time" in told and kind not in (b"c", b"g")) or len(told.get("tags", b"")) > 4096:
        return None
    rate = number(told.get("rate", b"1"))
    if rate is None or not 1e-9 <= rate <= 1:
        return None
    weight = 1 / rate if kind not in (b"g", b"s") else 1.0
    tags, name, values = told.get("tags", b""), found["name"], found["values"]
    if kind == b"s":
        return [Value(kind, name, tags, 1.0, values)] if values else None
    if values.count(b":") >= 4096:
        return None
    return [
        Value(kind, name, tags, weight, number(value), kind == b"g" and value[:1] in (b"+", b"-"))
        for value in values.split(b":")
    ]


def number(text: bytes) -> float | None:
    if len(text) > 400 or not re.fullmatch(_NUMBER, text):
        return None
    return float(text) if isfinite(float(text)) else None


def _is_event(line: bytes) -> bool:
    found = _EVENT.fullmatch(line)
    if found is None:
        return False
    title, text = int(found[1]), int(found[2])
    return title > 0 and bool(re.fullmatch(rb".{%d}\|.{%d}(\|.*)?" % (title, text), found[3], re.DOTALL))


class Books(msgspec.Struct):
    """What a number of lines amount to."""

    lines: int = 0
    samples: int = 0
    rejected: int = 0
    ignored: int = 0
    counts: dict[tuple[bytes, bytes], float] = msgspec.field(default_factory=dict)
    levels: dict[tuple[bytes, bytes], tuple[bool, float]] = msgspec.field(default_factory=dict)
    spreads: dict[tuple[bytes, bytes, bool], tuple[tuple[float, ...], float]] = msgspec.field(default_factory=dict)
    distinct: dict[tuple[bytes, bytes], int] = msgspec.field(default_factory=dict)


def expected(data: bytes) -> Books:
    """Count a datagram's lines, slowly."""
    books = Books()
    sets: dict[tuple[bytes, bytes], set[bytes]] = {}
    for line in data.split(b"\n"):
        if line in (b"", b"\r"):
            continue
        books.lines += 1
        read = understood(line)
        if isinstance(read, Ignored):
            books.ignored += 1
        elif read is None:
            books.rejected += 1
        else:
            for value in read:
                taken = _take(books, sets, value)
                books.samples += taken
                books.rejected += not taken
    books.distinct = {key: len(values) for key, values in sets.items()}
    return books


def _take(books: Books, sets: dict[tuple[bytes, bytes], set[bytes]], told: Value) -> bool:
    key, value = (told.name, told.tags), told.value
    if isinstance(value, bytes):
        sets.setdefault(key, set()).add(value)
        return True
    if value is None or (told.kind == b"c" and value < 0):
        return False
    if told.kind == b"c":
        total = books.counts.setdefault(key, 0.0) + value * told.weight
        if isfinite(total):
            books.counts[key] = total
        return isfinite(total)
    if told.kind == b"g":
        absolute, level = books.levels.setdefault(key, (False, 0.0))
        new = (absolute, level + value) if told.is_move else (True, value)
        if isfinite(new[1]):
            books.levels[key] = new
        return isfinite(new[1])
    seconds = told.kind == b"ms"
    bounds = SECONDS_BOUNDS if seconds else VALUES_BOUNDS
    value = value / 1000 if seconds else value
    weights, total = books.spreads.setdefault((*key, seconds), ((0.0,) * (len(bounds) + 1), 0.0))
    if not isfinite(total + value * told.weight):
        return False
    at = bisect_left(bounds, value)
    weights = tuple(weight + told.weight if place == at else weight for place, weight in enumerate(weights))
    books.spreads[*key, seconds] = weights, total + value * told.weight
    return True


def counted(tally: Tally, lines: int = 0) -> Books:
    """Take what a tally has counted of so many lines, through its encoded form."""
    parts, totals = tally.take()
    return booked([msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=Report) for part in parts], totals, lines)


def booked(parts: Iterable[Report], totals: Totals, lines: int = 0) -> Books:
    """Add up the parts of an answer, in which no series may stand twice."""
    books = Books(lines, totals.samples, sum(totals.rejected.values()), sum(totals.ignored.values()))
    told = 0
    for part in parts:
        told += len(part.counts) + len(part.levels) + len(part.spreads) + len(part.distinct)
        books.counts |= {(it.name, it.tags): it.amount for it in part.counts}
        books.levels |= {(it.name, it.tags): (it.absolute, it.value) for it in part.levels}
        books.spreads |= {(it.name, it.tags, it.seconds): (it.weights, it.sum) for it in part.spreads}
        books.distinct |= {(it.name, it.tags): it.values for it in part.distinct}
    held = len(books.counts) + len(books.levels) + len(books.spreads) + len(books.distinct)
    assert told == held, "a series stands in an answer twice"
    return books
