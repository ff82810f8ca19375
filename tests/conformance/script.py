"""The script: what is said to each server, section by section. Each section has a fresh server to itself."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable

from tests.conformance import normal
from tests.conformance.stage import Note, Stage
from tests.servers import WatchedServer, wait_until
from tests.wire import Wire

Section = Callable[[Stage], Awaitable[None]]
QUICK: dict[str, Section] = {}
SLOW: dict[str, Section] = {}
"""Those that wait for the real server's minute-long times."""

CROWD = 2000
"""Faktory's limit since 1.9.0."""
BARE = (
    "PUSH", "PUSHB", "ACK", "FAIL", "BEAT", "QUEUE", "QUEUE ", "QUEUE FOO", "QUEUE LATENCY", "QUEUE PAUSE",
    "QUEUE REMOVE", "QUEUE RESUME",
)  # fmt: skip
PASSWORD = "pä ss/w:rd"


def quick(section: Section) -> Section:
    QUICK[section.__name__] = section
    return section


def slow(section: Section) -> Section:
    SLOW[section.__name__] = section
    return section


async def play(section: Section, server: WatchedServer) -> list[Note]:
    """Play one section to a fresh server, which is removed afterwards, and return the notes."""
    stage = Stage(server)
    try:
        await server.start()
        await section(stage)
    finally:
        await stage.leave()
        await server.remove()
    return stage.notes


def job(jid: str, **fields: object) -> str:
    return json.dumps({"jid": jid, "jobtype": "Job", "args": [1]} | fields)


# -- who may come in


@quick
async def handshake(stage: Stage) -> None:
    for name, line in {
        "full": 'HELLO {"hostname":"h","wid":"w-full","pid":1,"labels":["a","b"],"username":"u","v":2}',
        "empty": "HELLO {}",
        "unknown fields and null": 'HELLO {"x":1,"wid":null,"labels":null,"v":2}',
        "upper case fields": 'HELLO {"WID":"w-upper","V":2}',
        "no JSON": "HELLO",
        "no object": "HELLO []",
        "broken JSON": 'HELLO {"v":2',
        "text after it": "HELLO {} {}",
        "two spaces": "HELLO  {}",
        "lower case": "hello {}",
        "another command": "INFO",
        "version of a wrong type": 'HELLO {"v":"2"}',
        "version too large": 'HELLO {"v":256}',
        "version below zero": 'HELLO {"v":-1}',
        "version with a fraction": 'HELLO {"v":2.5}',
        "worker id of a wrong type": 'HELLO {"wid":7}',
        "labels of a wrong type": 'HELLO {"labels":"a"}',
        "a label of a wrong type": 'HELLO {"labels":[1]}',
        "needless password hash": 'HELLO {"pwdhash":"00","v":2}',
        "nothing": "",
    }.items():
        wire = await Wire.open(stage.server.url)
        stage.note(f"greeting ({name})", normal.reply("+HI " + json.dumps(wire.hi)))
        stage.wires[name] = wire
        await stage.say(name, line)
    for wid in ("w-full", "w-upper"):
        await stage.say("full", f'BEAT {{"wid":"{wid}"}}')
    start = time.monotonic()  # the server counts from when it accepts, which may be long before we hear of it
    wire = await Wire.open(stage.server.url)
    stage.note("silence after the greeting", "(closed)" if await wire.reader.read() == b"" else "(said something)")
    stage.note("it closed after about two seconds", 1.9 < time.monotonic() - start < 20)
    await wire.abort()


@quick
async def password(stage: Stage) -> None:
    await stage.server.stop()
    await stage.server.start(PASSWORD)
    for version in (0, 1, 2, 3):
        await stage.connect(f"right, v{version}", version=version)
        await stage.say(f"right, v{version}", "FETCH")
    wire = await Wire.open(stage.server.url)
    stage.note("greeting", normal.reply("+HI " + json.dumps(wire.hi)))
    stage.note("iterations and salt", [4000 <= wire.hi["i"] < 8096, int(wire.hi["s"], 16) > 0])
    await wire.abort()
    wrong = stage.server.url.replace("rd@", "rt@")
    for name, line in {
        "none": "HELLO {}",
        "empty": 'HELLO {"pwdhash":"","v":2}',
        "null": 'HELLO {"pwdhash":null}',
    }.items():
        stage.wires[name] = await Wire.open(stage.server.url)
        await stage.say(name, line)
    for version in (1, 2):
        wire = await Wire.open(wrong, "w-wrong")
        stage.note(f"wrong, v{version}", await wire.hello(wrong, version=version))
        stage.note(f"wrong, v{version}: closed", await wire.at_eof())
        await wire.abort()
    await stage.say("right, v2", 'BEAT {"wid":"w-wrong"}')
    await stage.page("/health", body=True)
    for path in ("/stats", "/", "/busy"):
        await stage.page(path)
        await stage.page(path, "wrong")
        await stage.page(path, PASSWORD)


@quick
async def pages(stage: Stage) -> None:
    await stage.connect("p")
    await stage.connect("w", "w-1")
    await stage.say("p", "PUSH " + job("job-0001"))
    await stage.page("/health", body=True)
    await stage.page("/stats", body=True)
    for path in ("/", "/queues", "/busy", "/retries", "/scheduled", "/morgue", "/debug", "/metrics", "/nothing/there"):
        await stage.page(path)
    await stage.end("w")
    await stage.until_connections(1)
    await stage.page("/health", body=True)


# -- jobs


@quick
async def life_of_jobs(stage: Stage) -> None:
    await stage.look("at the start")
    await stage.connect("p")
    await stage.connect("w", "w-1")
    await stage.say("p", "INFO")
    await stage.look("after INFO")
    await stage.say("p", "PUSH " + job("job-plain"))
    await stage.say("p", "PUSH " + job("job-again"))
    await stage.say("p", "PUSH " + job("job-again"))
    full = {
        "queue": "full.q_1-x", "created_at": "2020-01-02T03:04:05Z", "reserve_for": 1200, "retry": 3, "backtrace": 10,
        "custom": {"z": {"b": 1, "a": [1.0, 2.5, None, True]}, "traceparent": "00-1-2-03", "<&>": "\u2028ü"},
        "args": [1.0, 1e3, 12345678901234567890, "</b>", {"y": 1, "x": {}}, [], None, -0.5, 100000000000000000000],
        "unknown": 1,
    }  # fmt: skip
    await stage.say("p", "PUSH " + job("job-full", **full))
    await stage.say("p", "PUSH " + job("job-nulls", queue="nulls", retry=None, at=None, custom=None, failure=None))
    await stage.say(
        "p", "PUSH " + job("job-zeros", queue="nulls", retry=0, reserve_for=0, backtrace=0, at="", custom={})
    )
    await stage.say("p", 'PUSH {"JID":"job-upper","JobType":"Job","ARGS":[],"Queue":"upper"}')
    await stage.say("p", "PUSH " + job("job-past", queue="past", at="2020-01-01T00:00:00Z"))
    await stage.say("p", "PUSH " + job("job-future", queue="future", at="2100-01-01T01:00:00.5+01:00"))
    failure = {"retry_count": 2, "remaining": 1, "failed_at": "2020-01-01T00:00:00Z", "message": "m", "errtype": "E"}
    await stage.say("p", "PUSH " + job("job-failed", queue="failed", retry=4, failure=failure))
    await stage.look("after pushes")
    await stage.say("p", "INFO")
    await stage.say("w", "FETCH full.q_1-x default")
    await stage.say("w", "FETCH full.q_1-x default")
    await stage.say("w", "FETCH nulls")
    await stage.say("w", "FETCH nulls")
    await stage.say("w", "FETCH upper past failed")
    await stage.say("p", "FETCH past failed")
    await stage.say("w", "FETCH failed")
    await stage.look("after fetches")
    await stage.say("p", "INFO")
    await stage.say("w", 'ACK {"jid":"job-full"}')
    await stage.say("w", 'ACK {"jid":"job-full"}')
    await stage.say("p", 'ACK {"jid":"job-plain"}')
    await stage.say("w", 'ACK {"jid":"job-unknown"}')
    await stage.look("after acknowledgements")
    await stage.say("w", 'FAIL {"jid":"job-nulls","errtype":" E ","message":" m ","backtrace":["a","b"]}')
    await stage.say("w", 'FAIL {"jid":"job-nulls"}')
    await stage.say("w", 'FAIL {"jid":"job-zeros"}')
    await stage.say("w", 'FAIL {"jid":"job-failed","message":"again"}')
    long = json.dumps({"jid": "job-past", "errtype": "e" * 120, "message": "m" * 1100, "backtrace": ["line"] * 60})
    await stage.say("w", "FAIL " + long)
    await stage.say("w", 'FAIL {"jid":"job-upper","backtrace":[]}')
    await stage.look("after failures")
    await stage.say("p", "INFO")
    await stage.say("w", "FETCH empty")
    await stage.end("w")
    await stage.until_connections(1)
    await stage.say("p", "INFO")


@quick
async def last_failures(stage: Stage) -> None:
    await stage.connect("w", "w-1")
    for retry, count in ((-1, None), (0, None), (1, None), (2, 1), (2, 0), (3, 5)):
        jid = f"job-{retry}-{count}-"
        failure = {"retry_count": count, "remaining": retry - (count or 0), "failed_at": "2020-01-01T00:00:00Z"}
        await stage.say("w", "PUSH " + job(jid, retry=retry, **({"failure": failure} if count is not None else {})))
        await stage.say("w", "FETCH default")
        await stage.say("w", f'FAIL {{"jid":"{jid}","errtype":"E","message":"m"}}')
    await stage.look("after failures")


@quick
async def bulk_pushes(stage: Stage) -> None:
    await stage.connect("p")
    await stage.say("p", f"PUSHB [{job('job-0001')},{job('job-0002', queue='other')}]")
    await stage.say("p", f"PUSHB [{job('short')},{job('job-0003')},{job('job-bad-q', queue='a b')},{{}}]")
    await stage.say("p", "PUSHB []")
    await stage.say("p", "PUSHB null")
    await stage.say("p", f"PUSHB {job('job-0004')}")
    await stage.say("p", "PUSHB [1]")
    await stage.say("p", "PUSHB [null]")
    await stage.say("p", "PUSHB 1")
    await stage.say("p", "PUSHB [")
    await stage.say("p", "PUSHB ")
    future = job("job-0005", at="2100-01-01T00:00:00Z", retry=None)
    await stage.say("p", f"PUSHB [{future}]")
    await stage.look("after bulk pushes")


@quick
async def refused_jobs(stage: Stage) -> None:
    await stage.connect("p")
    for line in (
        "{}",
        "null",
        '{"jid":"1234567","jobtype":"J","args":[]}',
        '{"jid":"üüüü","jobtype":"J","args":[]}',
        '{"jid":"job-0001","args":[]}',
        '{"jid":"job-0001","jobtype":"J"}',
        '{"jid":"job-0001","jobtype":"J","args":null}',
        job("job-0001", reserve_for=86401),
        job("job-0002", reserve_for=86400),
        job("job-0003", reserve_for=-5),
        job("job-0001", queue="a b"),
        job("job-0001", queue="ü"),
        job("job-0001", queue="a\n"),
        job("job-0001", queue='"'),
        job("job-0004", queue=""),
        *(job("job-0001", at=at) for at in (
            "now", "2026", "2026-13-01T00:00:00Z", "2025-02-29T00:00:00Z", "2026-01-01T24:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00", "2026-01-01T00:00:00Zz", "2026-01-01T00:61:00Z", "2026-01-01T00:00:00+0100",
        )),
        '{"jid":7,"jobtype":"J","args":[]}',
        '{"jid":"job-0001","jobtype":{},"args":[]}',
        '{"jid":"job-0001","jobtype":"J","args":{}}',
        '{"jid":"job-0001","jobtype":"J","args":"a"}',
        '{"jid":"job-0001","jobtype":"J","args":[],"retry":"1"}',
        '{"jid":"job-0001","jobtype":"J","args":[],"retry":1.5}',
        '{"jid":"job-0001","jobtype":"J","args":[],"retry":1e2}',
        '{"jid":"job-0001","jobtype":"J","args":[],"retry":true}',
        '{"jid":"job-0001","jobtype":"J","args":[],"custom":[]}',
        '{"jid":"job-0001","jobtype":"J","args":[],"failure":1}',
        '{"jid":"job-0001","jobtype":"J","args":[],"reserve_for":99999999999999999999}',
        "[]", "1", '"a"', "true",
        "", " ", "{", '{"jid"', '{"jid":', '{"jid":"a', '{"jid":"a"', '{"jid":"a",', '{"jid":"a",}', "{,}", "{1:2}",
        '{"a" 1}', '{"a":1 "b"}', "[1 2]", "[1,]", "[,1]", "x", "ü", "'", "nul", "nulx", "trux", "falsy", "01", "-",
        "-x",
        "1.", "1.x", "1e", "1ex", "1e+", "tr", '"\\', '"\\u1', "NaN", "Infinity", "{}{}", "{} x", '"\\q"', '"\\u12g4"',
        '"a\tb"', "{'a':1}",
        "]", "}", "[1}", '{"a":1]', "\x00", "\x7f",
    ):  # fmt: skip
        await stage.say("p", f"PUSH {line}")
    await stage.say("p", b'PUSH {"jid":"job-utf8","jobtype":"\xff\xfe","args":["\xc3"]}')
    await stage.say("p", 'PUSH {"jid":"job-utf9","jobtype":"\\ud800","args":[]}')
    await stage.look("after refused pushes")


@quick
async def malformed_commands(stage: Stage) -> None:
    await stage.connect("w", "w-1")
    for line in (
        "", " ", "FOO", "foo bar", "push {}", "info", "INFO please", "INFO ", "PUSH\t{}", "FETCH", "HELLO {}", "*1",
        "$4",
        "ACK {}", "ACK []", "ACK null", "ACK {", 'ACK {"jid":7}', 'ACK {"jid":null}', 'ACK {"jid":"a","x":1}', "ACK ",
        'ACK {"JID":"a"}',
        "FAIL {}", "FAIL null", "FAIL []", "FAIL {", 'FAIL {"jid":7}', 'FAIL {"jid":"no-such-job"}', "FAIL ",
        'FAIL {"jid":"a","backtrace":"x"}', 'FAIL {"jid":"a","backtrace":[1]}', 'FAIL {"jid":"<ü>"}',
        "BEAT {}", "BEAT null", "BEAT []", "BEAT {", "BEAT ", 'BEAT {"wid":7}', 'BEAT {"wid":"nobody"}',
        'BEAT {"wid":"w-1"}', 'BEAT {"wid":"w-1","rss_kb":"x"}', 'BEAT {"wid":"w-1","rss_kb":12.5}',
        'BEAT {"wid":"w-1","rss_kb":12345,"current_state":""}', 'BEAT {"wid":"w-1","current_state":"odd"}',
        "BATCH", "BATCH NEW {}", "TRACK", "TRACK GET x",
        "QUEUE FOO x", "QUEUE pause x", "QUEUE LATENCY x", "QUEUE latency x",
        "MUTATE", "MUTATE x y", "MUTATE x", "MUTATE {}", 'MUTATE {"cmd":"clear"}',
        'MUTATE {"cmd":"foo","target":"retries"}',
        'MUTATE {"cmd":"clear","target":"working"}', 'MUTATE {"cmd":"kill","target":"x"}', "MUTATE []", "MUTATE null",
        'MUTATE {"cmd":7}',
    ):  # fmt: skip
        await stage.say("w", line)
    await stage.say("w", b"FOO \xff\xfe")
    await stage.say("w", "FOO " + "x" * 100_000)
    wire = stage.wires["w"]
    wire.writer.write(b"FOO\nBAR\r\n")
    stage.note("a bare newline ends a line too", [await wire.read(), await wire.read()])
    wire.writer.write(b'PUSH {"jid":"job-0001","jobtype":"J","args":[]}\r\nFETCH default\r\nACK {"jid":"job-0001"}\r\n')
    stage.note("three commands at once", [normal.reply(await wire.read()) for _ in range(3)])
    wire.writer.write(b"INF")
    await wire.writer.drain()
    await asyncio.sleep(0.05)
    wire.writer.write(b"O\r\n")
    stage.note("a command in two pieces", normal.reply(await wire.read()))
    await stage.look("at the end")


@quick
async def bare_commands(stage: Stage) -> None:
    """Commands that lack what they need: not survived before 1.10."""
    for line in BARE:
        await stage.connect("p")
        if await stage.say("p", line) == "(closed)":
            stage.note("status of the ended server", await asyncio.wait_for(stage.server.process.wait(), 10))
            stage.note("it tells of a panic", "panic: runtime error: " in stage.server.log(1000))
            await stage.server.stop()
            await stage.server.start()
        await stage.leave()


@quick
async def queues(stage: Stage) -> None:
    await stage.connect("p")
    await stage.connect("w", "w-1")
    for number, queue in enumerate(("a", "b", "c")):
        await stage.say("p", "PUSH " + job(f"job-000{number}", queue=queue))
    await stage.say("p", "QUEUE LATENCY a b none")
    await stage.say("p", "QUEUE LATENCY *")
    await stage.say("p", "QUEUE LATENCY a *")
    await stage.say("p", "QUEUE PAUSE a unknown")
    await stage.look("with a paused queue")
    await stage.say("w", "FETCH a b")
    start = time.monotonic()
    await stage.say("w", "FETCH a")
    stage.note("nothing to fetch took about two seconds", 1.9 < time.monotonic() - start < 20)
    await stage.say("p", "QUEUE PAUSE *")
    await stage.look("with all queues paused")
    await stage.say("p", "PUSH " + job("job-0009", queue="a"))
    await stage.say("p", "QUEUE RESUME b")
    await stage.say("p", "QUEUE RESUME unknown")
    await stage.look("with one resumed")
    await stage.say("p", "QUEUE REMOVE c unknown")
    await stage.look("with one removed")
    await stage.say("p", "INFO")
    await stage.say("p", "QUEUE RESUME *")
    await stage.say("w", "FETCH a b c")
    await stage.look("with all resumed")
    await stage.say("p", "QUEUE REMOVE *")
    await stage.look("with all removed")
    await stage.say("p", "INFO")
    await stage.say("p", "PUSH " + job("job-0010", queue="a"))
    await stage.say("p", "FLUSH")
    await stage.look("after FLUSH")
    await stage.say("p", "INFO")
    await stage.say("p", "PUSH " + job("job-0011", queue="a"))
    await stage.say("w", 'ACK {"jid":"job-0001"}')
    await stage.say("w", 'FAIL {"jid":"job-0000"}')
    await stage.look("with the memory of before")
    await stage.say("p", "INFO")


@quick
async def waiting_fetch(stage: Stage) -> None:
    await stage.connect("p")
    await stage.connect("w", "w-1")
    redis = stage.server.redis()

    async def blocked() -> bool:
        return bool((await redis.info("clients"))["blocked_clients"] == 1)

    await stage.wires["w"].send("FETCH first second")
    await wait_until(blocked, what="the fetch waits in Redis")
    await stage.say("p", "PUSH " + job("job-0001", queue="second"))
    stage.note("a waiting fetch gets a job at once", normal.reply(await stage.wires["w"].read()))
    # The server sees that a socket closed only after the fetch: a job that comes in between goes to the dead.
    await stage.wires["w"].send("FETCH first second")
    await wait_until(blocked, what="the fetch waits in Redis")
    await stage.abort("w")
    await stage.say("p", "PUSH " + job("job-0002", queue="second"))

    async def reserved() -> bool:
        return bool(await redis.zcard("working") == 2)

    await wait_until(reserved, what="the second job is reserved")
    await stage.until_gone("w-1")
    await stage.look("after the worker vanished in its fetch")


@quick
async def states_of_workers(stage: Stage) -> None:
    await stage.connect("w1", "w-1")
    await stage.connect("w2", "w-1", hostname="other", labels=["x"])
    await stage.connect("p")
    await stage.say("p", "INFO")
    await stage.say("p", 'BEAT {"wid":"w-1"}')
    for state in ("running", "quiet", "", "running", "terminate", "quiet"):
        await stage.say("w2", json.dumps({"wid": "w-1", "current_state": state, "rss_kb": 1}).join(("BEAT ", "")))
    await stage.say("p", "PUSH " + job("job-0001"))
    start = time.monotonic()
    await stage.say("w1", "FETCH default")
    stage.note("the first connection of a quiet worker gets nothing, after two seconds", time.monotonic() - start > 1.9)
    await stage.say("w2", "FETCH default")
    await stage.abort("w1")
    await stage.until_connections(2)
    await stage.say("w2", 'BEAT {"wid":"w-1"}')
    await stage.end("w2")
    await stage.until_connections(1)
    await stage.say("p", 'BEAT {"wid":"w-1"}')
    await stage.connect("w3", "w-1")
    await stage.say("w3", 'BEAT {"wid":"w-1"}')
    await stage.look("at the end")


@quick
async def killed_worker(stage: Stage) -> None:
    await stage.connect("p")
    await stage.connect("w1", "w-1")
    await stage.connect("w2", "w-1")
    await stage.connect("v", "w-2")
    for number in range(2):
        await stage.say("p", "PUSH " + job(f"job-000{number}"))
        await stage.say(f"w{number + 1}", "FETCH default")
    await stage.say("p", "INFO")
    await stage.abort("w1", "w2")
    await stage.until_gone("w-1")
    await stage.until_connections(2)
    await stage.say("p", 'BEAT {"wid":"w-1"}')
    await stage.say("p", "INFO")
    await stage.look("after the worker was killed")
    await stage.say("p", 'FAIL {"jid":"job-0000","errtype":"WorkerCrashed","message":"told by another"}')
    await stage.say("v", 'ACK {"jid":"job-0001"}')
    await stage.look("after its jobs were ended by others")


@quick
async def restart(stage: Stage) -> None:
    await stage.connect("w", "w-1")
    for number, queue in enumerate(("busy", "busy", "held", "waiting")):
        await stage.say("w", "PUSH " + job(f"job-000{number}", queue=queue, at=None))
    await stage.say("w", "PUSH " + job("job-0009", at="2100-01-01T00:00:00Z"))
    await stage.say("w", "FETCH busy")
    await stage.say("w", "FETCH busy")
    await stage.say("w", "QUEUE PAUSE held")
    await stage.say("w", 'FAIL {"jid":"job-0001","message":"m","errtype":"E"}')
    await stage.server.restart()
    stage.note("the old connection", "(closed)" if await stage.wires["w"].at_eof() else "(open)")
    await stage.page("/health", body=True)
    await stage.connect("p")
    await stage.look("after the restart")
    await stage.say("p", "INFO")
    await stage.say("p", 'BEAT {"wid":"w-1"}')
    await stage.connect("v", "w-1")
    await stage.say("v", "FETCH held waiting")
    await stage.say("v", 'ACK {"jid":"job-0000"}')
    await stage.say("v", 'ACK {"jid":"job-0003"}')
    await stage.look("after its jobs were finished")
    await stage.server.kill()
    await stage.server.start()
    await stage.look("after the server was killed")
    await stage.connect("p")
    await stage.say("p", "INFO")


@quick
async def default_retries(stage: Stage) -> None:
    """A PUSH that tells a number of retries changes the default of all later jobs, until the server ends."""
    await stage.connect("w", "w-1")
    tellings = ('"x":1', '"retry":7', '"x":1', '"retry":null', '"retry":"x"', '"retry":-1,"at":"x"', '"x":1')
    for number, told in enumerate(tellings):
        await stage.say("w", f'PUSH {{"jid":"job-000{number}","jobtype":"J","args":[],{told}}}')
    await stage.say("w", f"PUSHB [{job('job-0010')},{job('job-0011', retry=9)},{job('job-0012')}]")
    await stage.look("after pushes")
    prefix = "q:" if stage.server.version >= (1, 10) else ""
    await stage.server.redis().rpush(f"{prefix}default", job("job-0013", queue="default"))  # type: ignore[misc]
    await stage.say("w", "FETCH default")
    await stage.say("w", 'FAIL {"jid":"job-0013"}')
    await stage.look("after the failure of a job that tells none")
    await stage.server.restart()
    await stage.connect("w", "w-1")
    await stage.say("w", "PUSH " + job("job-0014", queue="later"))
    await stage.look("after the restart")


@quick
async def colliding_names(stage: Stage) -> None:
    """Before 1.10 a queue may be named as another key is."""
    await stage.connect("p")
    await stage.say("p", "PUSH " + job("job-0001", queue="paused"))
    await stage.say("p", "QUEUE PAUSE paused")
    await stage.say("p", "INFO")
    await stage.look("with a queue named paused")
    await stage.say("p", "PUSH " + job("job-0002", queue="working"))
    await stage.say("p", "INFO")
    await stage.say("p", "FETCH working")
    await stage.look("with a queue named working")
    await stage.server.restart()
    await stage.connect("p")
    await stage.say("p", "FETCH paused")
    await stage.look("after the restart")


@quick
async def mutations(stage: Stage) -> None:
    await stage.connect("w", "w-1")
    redis = stage.server.redis()
    for number in range(8):
        kind = "Even" if number % 2 == 0 else "Odd"
        line = job(f"job-000{number}", jobtype=kind, args=[], at="2100-01-01T00:00:00Z", queue=f"q{number}")
        await stage.say("w", f"PUSH {line}")
    for operation in (
        {"cmd": "kill", "target": "scheduled", "filter": {"jids": ["job-0000", "job-0001"]}},
        {"cmd": "requeue", "target": "scheduled", "filter": {"jobtype": "Odd", "regexp": '*"jid":"job-0003"*'}},
        {"cmd": "discard", "target": "scheduled", "filter": {"regexp": '*"jid":"job-0004"*'}},
        {"cmd": "requeue", "target": "dead", "filter": {"jobtype": "Even"}},
        {"cmd": "discard", "target": "scheduled", "filter": {"jids": ["job-0005"], "jobtype": "Even"}},
        {"cmd": "kill", "target": "scheduled", "filter": {}},
        {"cmd": "discard", "target": "dead"},
        {"cmd": "clear", "target": "retries"},
    ):
        await stage.say("w", "MUTATE " + json.dumps(operation, separators=(",", ":")))
        await stage.look("after it")
    stage.note("queues", sorted(await redis.smembers("queues")))  # type: ignore[misc]


@quick
async def unreadable_data(stage: Stage) -> None:
    """What others may have put into Redis."""
    redis = stage.server.redis()
    prefix = "q:" if stage.server.version >= (1, 10) else ""
    await stage.connect("p")
    await stage.connect("w", "w-1")
    for queue in ("broken", "odd"):
        await stage.say("p", "PUSH " + job("job-0001", queue=queue))
        await stage.say("w", f"FETCH {queue}")
        await stage.say("w", 'ACK {"jid":"job-0001"}')
    await redis.lpush(f"{prefix}broken", "{nonsense")  # type: ignore[misc]
    await stage.say("p", "QUEUE LATENCY broken")
    await stage.say("w", "FETCH broken")
    await redis.lpush(f"{prefix}odd", job("job-0002", enqueued_at="yesterday"))  # type: ignore[misc]
    await stage.say("p", "QUEUE LATENCY odd")
    await stage.say("w", "FETCH odd")
    await redis.lpush(f"{prefix}odd", job("job-0003"))  # type: ignore[misc]
    await stage.say("p", "QUEUE LATENCY odd")
    await redis.delete(f"{prefix}odd")
    await redis.set(f"{prefix}odd", "text")
    await stage.say("p", "PUSH " + job("job-0004", queue="odd"))
    await stage.say("p", "INFO")
    await stage.look("at the end")


@quick
async def due_jobs(stage: Stage) -> None:
    """Scheduled and retried jobs go to their queues when they are due."""
    await stage.connect("p")
    redis = stage.server.redis()
    now = time.time()
    retried = {"retry_count": 0, "remaining": 1, "failed_at": "2020-01-01T00:00:00Z", "next_at": "2020-01-01T00:00:00Z"}
    await redis.zadd("scheduled", {job("job-0001", queue="s", at="2020-01-01T00:00:00Z"): now - 10, "{nonsense": now})
    await redis.zadd("retries", {job("job-0002", queue="r", failure=retried): now - 10})
    await redis.zadd("dead", {job("job-0003", queue="d"): 4102444800.5})

    async def moved() -> bool:
        return bool(await redis.zcard("scheduled") == 0 and await redis.zcard("retries") == 0)

    await wait_until(moved, 20, what="the due jobs are moved")
    stage.note("they are moved within some seconds", time.time() - now < 15)

    async def told() -> bool:
        tasks = (await stage.ask("INFO"))["faktory"]["tasks"]
        return bool(tasks["Scheduled"]["enqueued"] == 1 and tasks["Retries"]["enqueued"] == 1)

    await wait_until(told, what="INFO tells of them")
    await stage.look("after they were moved")
    state = await stage.ask("INFO")
    stage.note("state", normal.document({name: state["faktory"][name] for name in ("tasks", "queues")}))


@quick
async def crowd(stage: Stage) -> None:
    """As many connections as the limit allows, and one more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    await stage.connect("p")
    wires: list[Wire] = []
    try:
        while len(wires) < CROWD - 1:
            wires += await asyncio.gather(
                *(Wire.connect(stage.server.url) for _ in range(min(100, CROWD - 1 - len(wires))))
            )
        await stage.until_connections(CROWD)
        await stage.page("/health", body=True)
        await stage.connect("one more", "w-refused")
        one_more = stage.wires.pop("one more")
        if stage.server.version >= (1, 9):
            stage.note("one more: unasked", await one_more.read())
            stage.note("one more: closed", await one_more.at_eof())
        else:
            stage.note("one more: FETCH", await one_more.command("FETCH"))
        await one_more.abort()
        await stage.until_connections(CROWD)
        await stage.say("p", 'BEAT {"wid":"w-refused"}')
        await stage.say("p", "INFO")
        await wires.pop().close()
        await stage.until_connections(CROWD - 1)
        await stage.connect("next", "w-next")
        await stage.say("next", 'BEAT {"wid":"w-next"}')
        await stage.page("/stats", body=True)
    finally:
        for wire in wires:
            await wire.abort()
    await stage.until_connections(2)
    await stage.say("p", "INFO")


# -- what takes a minute


@slow
async def hung_worker(stage: Stage) -> None:
    await stage.connect("p")
    start = time.monotonic()
    await stage.connect("hung", "w-hung")
    await stage.connect("hung too", "w-hung")
    await stage.connect("alive", "w-alive")
    await stage.say("p", "PUSH " + job("job-0001"))
    await stage.say("hung", "FETCH default")
    beaten = start

    async def reaped() -> bool:
        nonlocal beaten
        if time.monotonic() - beaten > 10:
            beaten = time.monotonic()
            await stage.wires["alive"].ok('BEAT {"wid":"w-alive"}')
        tasks = (await stage.wires["p"].info())["faktory"]["tasks"]
        return bool(tasks["Workers"]["reaped"])

    await wait_until(reaped, 90, every=0.5, what="the hung worker is reaped")
    stage.note("it was reaped after 60 to 75 seconds", 59 < time.monotonic() - start < 82)
    for name in ("hung", "hung too"):
        stage.note(f"{name}: closed", await stage.wires[name].at_eof())
    await stage.until_connections(2)
    state = await stage.ask("INFO")
    stage.note("tasks", normal.document(state["faktory"]["tasks"]))
    await stage.say("p", 'BEAT {"wid":"w-hung"}')
    await stage.say("alive", 'BEAT {"wid":"w-alive"}')
    await stage.look("after it was reaped")
    await stage.connect("back", "w-hung")
    await stage.say("back", 'BEAT {"wid":"w-hung"}')
    await stage.say("back", 'ACK {"jid":"job-0001"}')
    await stage.look("after it came back")


@slow
async def expired_reservations(stage: Stage) -> None:
    await stage.connect("p")
    jobs: dict[str, dict[str, int]] = {
        "job-sixty": {"reserve_for": 60},
        "job-short": {"reserve_for": 1},
        "job-minus": {"reserve_for": -1},
        "job-never": {"reserve_for": 60, "retry": 0},
        "job-dead-": {"reserve_for": 60, "retry": -1},
        "job-longer": {"reserve_for": 86400},
        "job-usual": {},
    }
    start = time.monotonic()
    for jid, fields in jobs.items():
        await stage.say("p", "PUSH " + job(jid, **fields))
        await stage.say("p", "FETCH default")
    await stage.look("before the end of the reservations")

    async def reaped() -> bool:
        tasks = (await stage.wires["p"].info())["faktory"]["tasks"]
        return bool(tasks["Busy"]["reaped"] == 5)

    await wait_until(reaped, 90, every=0.5, what="the reservations are reaped")
    stage.note("they were reaped after 60 to 75 seconds", 59 < time.monotonic() - start < 82)
    state = await stage.ask("INFO")
    stage.note("tasks", normal.document(state["faktory"]["tasks"]))
    await stage.look("after the end of the reservations")
    await stage.say("p", 'ACK {"jid":"job-sixty"}')
    await stage.say("p", 'FAIL {"jid":"job-short"}')
    await stage.look("after late answers")
