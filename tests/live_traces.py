"""What the live tests of traces have in common: spans as a receiver got them, and workers that know what they did."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from hashlib import sha256
from typing import Any, Final, Self

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.collector import Collector
from tests.forewarn import Forewarn
from tests.receiver import Received, Receiver, receiving
from tests.servers import WatchedServer, running, wait_until
from tests.wire import Wire

SERVER: Final = "faktory"
"""The name under which Forewarn watches the one server that its flags describe."""

POLL: Final = 1.0
NOISE: Final = 3.0
"""Seconds that a machine may be late."""

TOLD: Final = 20.0
"""Seconds within which what has ended is told: some polls, the sending, and the collector's own."""

SLOW: Final = 8.0
"""Seconds from which on a job that finished is told."""

Attribute = str | bool | int | float


class Linked(msgspec.Struct, frozen=True):
    """One link of a span."""

    trace: str
    span: str
    attributes: Mapping[str, Attribute]
    state: str = ""


class Happened(msgspec.Struct, frozen=True):
    """One event of a span."""

    name: str
    at: float
    attributes: Mapping[str, Attribute]


class Seen(msgspec.Struct, frozen=True):
    """One span as it was received. Times are Unix seconds, ids are in hexadecimal digits."""

    name: str
    kind: str
    trace: str
    span: str
    parent: str
    """Empty where it has none."""
    start: float
    end: float
    attributes: Mapping[str, Attribute]
    failed: bool
    """Whether its status is ``Error``; a status ``Ok`` is never expected."""
    status: str
    events: tuple[Happened, ...]
    links: tuple[Linked, ...]
    state: str
    service: str

    @property
    def id(self) -> tuple[str, str]:
        """What it is known by."""
        return self.trace, self.span

    @property
    def jid(self) -> Attribute | None:
        """The job that it is about, if it is about one."""
        return self.attributes.get("messaging.message.id")

    def own(self, name: str) -> Any:
        """Return one of the attributes that no convention has a name for."""
        return self.attributes.get(f"messaging.faktory.{name}")


def spans_of(requests: Sequence[Received]) -> list[Seen]:
    """Return all spans of some requests, in their order, as often as they came."""
    return [
        _seen(span, str(_attributes(resource.resource.attributes).get("service.name")))
        for received in requests
        if isinstance(received.message, ExportTraceServiceRequest)
        for resource in received.message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def once(spans: Sequence[Seen]) -> dict[tuple[str, str], Seen]:
    """Return ``spans`` by their ids. AssertionError where two of one id are not the same in all they tell."""
    found: dict[tuple[str, str], Seen] = {}
    for span in spans:
        known = found.setdefault(span.id, span)
        assert known == span, f"one span was told as two:\n{known}\n{span}"
    return found


def _seen(span: Span, service: str) -> Seen:
    assert span.status.code != Status.STATUS_CODE_OK, f"{span.name}: only its worker can know that it did well"
    assert len(span.trace_id) == 16, f"{span.name} has the trace id {span.trace_id!r}"
    assert len(span.span_id) == 8, f"{span.name} has the span id {span.span_id!r}"
    return Seen(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        attributes=_attributes(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        status=span.status.message,
        events=tuple(Happened(it.name, it.time_unix_nano / 1e9, _attributes(it.attributes)) for it in span.events),
        links=tuple(
            Linked(it.trace_id.hex(), it.span_id.hex(), _attributes(it.attributes), it.trace_state) for it in span.links
        ),
        state=span.trace_state,
        service=service,
    )


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Attribute]:
    found = {pair.key: _value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), f"an attribute is there twice: {[pair.key for pair in pairs]}"
    return found


def _value(value: AnyValue) -> Attribute:
    which = value.WhichOneof("value")
    assert which in {"string_value", "bool_value", "int_value", "double_value"}, f"an attribute is a {which}"
    told: Attribute = getattr(value, which)
    return told


# --- what an id must be: computed here as docs/traces.md tells it -----------------------------------------------------


def job_trace(jid: str) -> str:
    """Return the trace of a job."""
    return _digest("trace", SERVER, jid)[:32]


def job_span(held: Held, part: str = "process") -> str:
    """Return one of the spans of an execution."""
    return _digest("span", SERVER, held.jid, str(held.reserved_at), part)[:16]


def _digest(*parts: str) -> str:
    return sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


# --- what the test itself did -----------------------------------------------------------------------------------------


class Held(msgspec.Struct, frozen=True):
    """One job in a worker's hands, as the server keeps it. Instants are Unix seconds with six decimals."""

    jid: str
    queue: str
    jobtype: str
    wid: str
    enqueued_at: Decimal
    reserved_at: Decimal
    expires_at: float
    failures: int

    @property
    def reserved_for(self) -> float:
        """Seconds for which it is reserved."""
        return self.expires_at - float(self.reserved_at)


def instant(text: str) -> Decimal:
    """Return the Unix seconds of a time as Faktory writes it, rounded to a microsecond."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    if text.endswith("Z"):
        offset = "+00:00"
    else:
        fraction, offset = fraction[:-6], fraction[-6:]
        assert offset[0] in "+-", f"{text} has no offset"
    seconds = int(datetime.fromisoformat(whole + offset).timestamp())
    return (seconds + Decimal(f"0.{fraction or 0}")).quantize(Decimal("0.000001"), ROUND_HALF_UP)


def held_as(member: str, expires_at: float) -> Held:
    """Return what an entry of the working set tells."""
    entry = json.loads(member)
    job = entry["job"]
    failure = job.get("failure")
    return Held(
        jid=job["jid"],
        queue=job["queue"],
        jobtype=job["jobtype"],
        wid=entry["wid"],
        enqueued_at=instant(job["enqueued_at"]),
        reserved_at=instant(entry["reserved_at"]),
        expires_at=expires_at,
        failures=0 if failure is None else failure["retry_count"] + 1,
    )


class Doing(msgspec.Struct, frozen=True):
    """When something was done: the test asked for it and had the answer."""

    asked: float
    answered: float

    def __contains__(self, at: float) -> bool:
        return self.asked - 0.001 <= at <= self.answered + 0.001


async def timed(work: Awaitable[object]) -> Doing:
    """Do something and tell when."""
    asked = time.time()
    await work
    return Doing(asked, time.time())


class Hands:
    """A worker that takes, ends and fails jobs as the test says. It beats, on a connection of its own."""

    def __init__(self, server: WatchedServer, wire: Wire, heart: Wire) -> None:
        self._server = server
        self._wire = wire
        self._heart = heart

    async def take(self, queue: str) -> Held:
        """Take a job that is there, or comes within a minute; see that the server says the same of when as the test."""
        asked = time.time()
        job: dict[str, Any] = await wait_until(lambda: self._wire.fetch(queue), 60, what=f"a job comes to {queue}")
        answered = time.time()
        held = await self.holding(job["jid"])
        assert held.wid == self._wire.wid
        assert float(held.reserved_at) in Doing(asked, answered)
        return held

    async def holding(self, jid: str) -> Held:
        """Return how the server keeps one job that is in work."""
        return (await working(self._server))[jid]

    async def ack(self, held: Held) -> Doing:
        """End a job well."""
        return await timed(self._wire.ack(held.jid))

    async def fail(self, held: Held, errtype: str, message: str) -> Doing:
        """Fail a job."""
        return await timed(self._wire.fail(held.jid, errtype, message))

    async def beat_for_ever(self) -> None:
        while True:
            await self._heart.beat(self._wire.wid)
            await asyncio.sleep(15)


async def working(server: WatchedServer) -> dict[str, Held]:
    """Return every job in work by its id, as the server keeps it."""
    entries = await server.redis().zrange("working", 0, -1, withscores=True)
    held = [held_as(member, score) for member, score in entries]
    return {it.jid: it for it in held}


async def retry_now(server: WatchedServer, jid: str) -> None:
    """Make a job that waits for its retry due: the server itself moves it to its queue within seconds."""

    async def waits() -> str | None:
        members: list[str] = await server.redis().zrange("retries", 0, -1)
        return next((it for it in members if json.loads(it)["jid"] == jid), None)

    member = await wait_until(waits, 30, what=f"{jid} waits for its retry")
    await server.redis().zadd("retries", {member: time.time()}, xx=True)


# --- a server with all that is played on it ---------------------------------------------------------------------------


class Ear:
    """A receiver, and where to send what it shall get."""

    def __init__(self, receiver: Receiver, address: str) -> None:
        self.receiver = receiver
        self.address = address

    def spans(self) -> dict[tuple[str, str], Seen]:
        """Return all spans so far, by their ids."""
        return once(spans_of(self.receiver.accepted))

    def of_job(self, jid: str) -> list[Seen]:
        """Return the spans of a job so far, by their start."""
        return sorted((it for it in self.spans().values() if it.jid == jid), key=lambda it: (it.start, it.name))

    async def hear(
        self, wanted: Callable[[Seen], bool], deadline: float = TOLD, *, count: int = 1, what: str = ""
    ) -> list[Seen]:
        """Wait until so many spans were told that are wanted, and return them by their start."""

        def found() -> list[Seen]:
            matching = [it for it in self.spans().values() if wanted(it)]
            return matching if len(matching) >= count else []

        try:
            heard: list[Seen] = await wait_until(found, deadline, every=0.1, what=what or "a span is told")
        except AssertionError as error:
            names = [f"{it.name} of {it.jid}: {it.own('outcome')}" for it in self.spans().values()]
            error.add_note("told were:\n" + "\n".join(names))
            raise
        assert len(heard) == count, f"more than {count}: {heard}"
        return sorted(heard, key=lambda it: it.start)

    async def hear_process(self, held: Held, deadline: float = TOLD) -> Seen:
        """Wait for the span of one execution."""
        span = job_span(held)
        what = f"the execution of {held.jid} in {held.queue}"
        (heard,) = await self.hear(lambda it: it.span == span, deadline, what=what)
        return heard


@asynccontextmanager
async def listening() -> AsyncIterator[Ear]:
    """A receiver behind a real collector, that takes all that it is sent."""
    async with receiving() as receiver, Collector(receiver.endpoint) as collector:
        yield Ear(receiver, collector.address)


class Stage:
    """One server, workers on it and Forewarns beside it; nothing of it outlives the ``async with``.

    No connection closes before the end unless a test says so: to Forewarn each that does is a hint that a worker died.
    """

    def __init__(self, server: WatchedServer) -> None:
        self.server = server
        self._starting = asyncio.Semaphore(2)
        self._ends = AsyncExitStack()
        self._beating: list[asyncio.Task[None]] = []
        self._forewarns: list[Forewarn] = []
        self._pushing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            await self._ends.enter_async_context(running(self.server))
            self.started = time.monotonic()
            self._producer = await self.connect()
        except BaseException:
            await self._ends.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._beating:
            task.cancel()
        await asyncio.gather(*self._beating, return_exceptions=True)
        await self._ends.aclose()

    async def connect(self, wid: str | None = None) -> Wire:
        """Connect as a producer or a worker, until the end."""
        wire = await Wire.connect(self.server.url, wid)
        self._ends.push_async_callback(wire.abort)
        return wire

    async def push(self, queue: str, **job: Any) -> str:
        """Push one job and return its id. It tells its own ``retry``: else it would get that of another one's push."""
        async with self._pushing:
            return await self._producer.push(**{"queue": queue, "retry": 25} | job)

    async def hands(self, wid: str) -> Hands:
        """Return a worker that lives until the end."""
        hands = Hands(self.server, await self.connect(wid), await self.connect())
        self._beating.append(asyncio.create_task(hands.beat_for_ever()))
        return hands

    def worker(self, *queues: str, concurrency: int = 1) -> subprocess.Popen[bytes]:
        """Start one worker process. The first argument of its jobs is how long they take, in seconds."""
        command = [sys.executable, "-m", "exporter.demo.worker", "--url", self.server.url, "--queues", *queues]
        worker = subprocess.Popen([*command, "--concurrency", str(concurrency), "--fail-ratio", "0"])
        self._ends.push_async_callback(kill, worker)
        return worker

    async def ear(self) -> Ear:
        """Start a receiver behind a collector."""
        return await self._ends.enter_async_context(listening())

    async def forewarn(self, forewarn: Forewarn) -> Forewarn:
        """Start one Forewarn; not many at once."""
        self._ends.push_async_exit(forewarn)  # first: a story may be cancelled before its turn has come
        async with self._starting:
            await forewarn.start()
        self._forewarns.append(forewarn)
        return forewarn

    def said(self) -> str:
        """Return the end of what each Forewarn has written, for a test that failed to show."""
        return "\n".join(f"{it.address}:\n{it.output()[-2000:]}" for it in self._forewarns)


async def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with SIGKILL, as the kernel does when memory runs out; safe to repeat."""
    process.kill()
    await asyncio.to_thread(process.wait, 10)


def told_to(endpoint: str, *arguments: str, slow: float = SLOW) -> list[str]:
    """Return the flags for a Forewarn that tells one collector of all but quick jobs that finished."""
    return [
        f"--otlp.endpoint={endpoint}",
        f"--traces.slow-seconds={slow:g}",
        "--traces.ratio=0",
        "--traces.per-second=100",
        "--traces.poll-ratio=0",
        *arguments,
    ]
