"""What traces tell of jobs, workers, servers and polls: live, through a real collector, compared with what was done.

Each story mostly waits, so all of them are played at the same time, those of one kind on one server: a test awaits its
own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.request import Request, urlopen

import pytest
import pytest_asyncio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests import receiver as misbehaving
from tests.conftest import server_kinds
from tests.forewarn import Forewarn, Scrape
from tests.live_crashes import GRACE, LINGERS, SETTLED
from tests.live_traces import (
    NOISE,
    POLL,
    SERVER,
    SLOW,
    TOLD,
    Attribute,
    Doing,
    Ear,
    Happened,
    Held,
    Linked,
    Seen,
    Stage,
    instant,
    job_span,
    job_trace,
    kill,
    once,
    retry_now,
    spans_of,
    timed,
    told_to,
    working,
)
from tests.prometheus import Prometheus
from tests.receiver import Receiver, receiving
from tests.servers import WatchedServer, free_port, wait_until

WALL = 400
"""Seconds that one server's stories, all at the same time, may take."""

GONE = POLL + LINGERS + POLL
"""Seconds within which a worker that was killed is known to have gone: one poll sees the drop, a later one asks."""

EDGE = 2.0
"""Seconds by which a busy machine may read the working set later than at the instant that counts as its poll's."""

SWEEP = 15.0
"""Seconds from one look of the server for reservations that have run out to the next."""

CONNECTIONS = 12
"""So many end at once with a worker whose hands are all full: seen even while others come."""

UPTIME = 1.0
"""Seconds by which the start of a server that only its uptime tells may be told too late: it is in whole ones."""

KNOWABLE = 5.0
"""Seconds between two polls for which it is certainly known that a job did not fail, though others did."""

SECRET = "an-argument-that-nobody-is-told"


class Jobs(Stage):
    """Most stories: a Forewarn that tells, through a real collector, what befalls jobs."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            self.heard = await self.ear()
            self.watching = await self.forewarn(Forewarn(self.server, arguments=told_to(self.heard.address)))
        except BaseException:
            await self.__aexit__()
            raise
        return self


class Kills(Stage):
    """Stories of Forewarns that are killed."""


class Trouble(Stage):
    """The story of collectors that do not do what they should."""


class Restarts(Stage):
    """The story of a server that is restarted."""


StageT = TypeVar("StageT", bound=Stage)
Playing = Mapping[str, asyncio.Task[None]]

stories: dict[str, tuple[type[Stage], Callable[[Any], Coroutine[Any, Any, None]]]] = {}


def on(
    stage: type[StageT],
) -> Callable[[Callable[[StageT], Coroutine[Any, Any, None]]], Callable[[Playing], Awaitable[None]]]:
    """Make a story a test of its own that is played at the same time as the others, on one stage of its kind."""

    def make(story: Callable[[StageT], Coroutine[Any, Any, None]]) -> Callable[[Playing], Awaitable[None]]:
        name = story.__name__
        stories[name] = (stage, story)

        @pytest.mark.slow
        @pytest.mark.timeout(WALL)
        @pytest.mark.asyncio(loop_scope="module")
        async def test(playing: Playing) -> None:
            await playing[name]

        test.__name__ = test.__qualname__ = name
        return test

    return make


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=server_kinds())
async def playing(request: pytest.FixtureRequest) -> AsyncIterator[Playing]:
    """The stories of the tests that were asked for, played on each server at hand."""
    make: Callable[[], WatchedServer] = request.param
    asked = {getattr(item, "originalname", item.name) for item in request.session.items}
    async with AsyncExitStack() as ends:
        stages = {
            kind: asyncio.create_task(ends.enter_async_context(kind(make())))
            for kind in dict.fromkeys(kind for name, (kind, _) in stories.items() if name in asked)
        }

        async def play(kind: type[Stage], story: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
            stage = await asyncio.shield(stages[kind])
            try:
                await story(stage)
            except Exception as error:
                error.add_note(stage.said())
                raise

        tasks = {
            name: asyncio.create_task(play(kind, story), name=name)
            for name, (kind, story) in stories.items()
            if name in asked
        }
        try:
            yield tasks
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), *stages.values(), return_exceptions=True)


# --- what a span must be ----------------------------------------------------------------------------------------------


def same(seconds: float, instant: Any) -> bool:
    """Whether a span's time is this instant, to the microsecond."""
    return round(seconds * 1e6) == int(instant * 10**6)


def server_attributes(server: WatchedServer) -> dict[str, Attribute]:
    return {
        "messaging.system": "faktory",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "forewarn.server": SERVER,
        "forewarn.observed": True,
    }


def job_attributes(server: WatchedServer, held: Held, operation: str) -> dict[str, Attribute]:
    return server_attributes(server) | {
        "messaging.operation.name": operation,
        "messaging.destination.name": held.queue,
        "messaging.message.id": held.jid,
        "messaging.faktory.job_type": held.jobtype,
        "messaging.faktory.attempt": held.failures + 1,
    }


def check_process(
    span: Seen,
    held: Held,
    server: WatchedServer,
    ended: Doing,
    *,
    outcome: str | None,
    exact: bool = False,
    within: float = POLL + NOISE,
    trace: str | None = None,
    parent: str = "",
    more: Mapping[str, Attribute] | None = None,
) -> None:
    """See that a span tells of an execution what the test did: ``within`` is the most that its end may be unsure by.

    ``outcome`` is ``None`` where it cannot be known.
    """
    assert (span.name, span.kind, span.service) == (f"process {held.queue}", "consumer", "forewarn")
    assert (span.trace, span.span, span.parent) == (trace or job_trace(held.jid), job_span(held), parent)
    assert same(span.start, held.reserved_at)
    told = dict(span.attributes)
    reserved_for = told.pop("messaging.faktory.reserved_for")
    assert reserved_for == pytest.approx(held.reserved_for, abs=1e-3)
    unsure = told.pop("messaging.faktory.end_uncertainty", None)
    assert told == job_attributes(server, held, "process") | {
        "messaging.operation.type": "process",
        "messaging.client.id": held.wid,
        **({} if outcome is None else {"messaging.faktory.outcome": outcome}),
        "messaging.faktory.end_precision": "exact" if exact else "poll",
        **(more or {}),
    }
    if exact:
        assert unsure is None
        assert span.end in ended
    else:
        assert isinstance(unsure, float)
        assert 0 < unsure <= within
        assert span.end - unsure - EDGE <= ended.answered
        assert ended.asked <= span.end + EDGE


def check_wait(span: Seen, process: Seen, held: Held, server: WatchedServer) -> None:
    """See that a span tells how long a job waited before an execution."""
    assert (span.name, span.kind) == (f"wait {held.queue}", "internal")
    assert (span.trace, span.span, span.parent) == (process.trace, job_span(held, "wait"), process.span)
    assert same(span.start, held.enqueued_at)
    assert same(span.end, held.reserved_at)
    assert span.attributes == job_attributes(server, held, "wait")
    assert (span.failed, span.events, span.links) == (False, (), ())


def check_well(span: Seen) -> None:
    assert (span.failed, span.status, span.events) == (False, "", ())


def previous_attempt(span: Seen) -> Linked:
    return Linked(span.trace, span.span, {"messaging.faktory.link": "previous_attempt"}, span.state)


def check_secret(receiver: Receiver) -> None:
    """See that nothing of what a job was given or a password in an error is in anything that was received."""
    bodies = b"".join(received.message.SerializeToString() for received in receiver.requests)
    assert bodies
    for secret in (SECRET, "hunter2"):
        assert secret.encode() not in bodies


# --- jobs -------------------------------------------------------------------------------------------------------------


@on(Jobs)
async def test_a_job_of_ten_seconds_is_told_with_its_wait_and_a_quick_one_is_left_out(stage: Jobs) -> None:
    hands, quick = await stage.hands("steady"), await stage.hands("quick")
    quick_jid = await stage.push("quick")
    pushed = await timed(stage.push("ten", jobtype="Ten", args=[SECRET]))
    held_quickly = await quick.take("quick")
    await asyncio.sleep(2)  # what the one takes, and the other waits
    await quick.ack(held_quickly)
    held = await hands.take("ten")
    assert float(held.enqueued_at) in pushed
    await asyncio.sleep(10)
    ended = await hands.ack(held)

    process = await stage.heard.hear_process(held)
    check_process(process, held, stage.server, ended, outcome="finished")
    assert 10 <= process.end - process.start + EDGE <= 10 + POLL + NOISE
    check_well(process)
    assert process.links == ()
    told, wait = stage.heard.of_job(held.jid)[::-1]
    assert told == process
    check_wait(wait, process, held, stage.server)
    assert wait.end - wait.start >= 2
    assert stage.heard.of_job(quick_jid) == []
    assert (await stage.watching.metric("forewarn_trace_executions_total", decision="left_out") or 0) >= 1
    check_secret(stage.heard.receiver)


@on(Jobs)
async def test_a_job_that_fails_is_told_with_its_error_and_each_retry_links_to_the_attempt_before(stage: Jobs) -> None:
    hands = await stage.hands("clumsy")
    jid = await stage.push("failing", jobtype="Fails", args=[SECRET])
    message = "cannot reach tcp://user:hunter2@mail.example " + "x" * 300
    shown = message.replace("user:hunter2", "***")[:200]
    first = await hands.take("failing")
    await _seen(stage, "failing")
    ended = await hands.fail(first, "Mail::Down", message)
    process = await stage.heard.hear_process(first)
    check_process(process, first, stage.server, ended, outcome="failed", exact=True, more={"error.type": "Mail::Down"})
    assert (process.failed, process.status) == (True, f"Mail::Down: {shown}"[:200])
    attributes: Mapping[str, Attribute] = {"exception.type": "Mail::Down", "exception.message": shown}
    assert [(it.name, it.attributes) for it in process.events] == [("exception", attributes)]
    assert process.links == ()

    await retry_now(stage.server, jid)
    second = await hands.take("failing")
    assert second.failures == 1
    await _seen(stage, "failing")
    ended = await hands.fail(second, "Mail::Refused", "no")
    again = await stage.heard.hear_process(second)
    # Faktory tells of each failure when the first one was.
    check_process(again, second, stage.server, ended, outcome="failed", more={"error.type": "Mail::Refused"})
    assert again.links == (previous_attempt(process),)
    assert again.status == "Mail::Refused: no"

    _, _, _, last = spans = stage.heard.of_job(jid)
    assert last == again
    check_wait(spans[0], process, first, stage.server)
    check_wait(spans[2], again, second, stage.server)
    check_secret(stage.heard.receiver)


@on(Jobs)
async def test_a_job_that_fails_for_good_is_told_as_its_last_attempt(stage: Jobs) -> None:
    hands = await stage.hands("fatal")
    await stage.push("dying", retry=-1)
    held = await hands.take("dying")
    await _seen(stage, "dying")
    ended = await hands.fail(held, "Hopeless", "never")
    process = await stage.heard.hear_process(held)
    check_process(
        process,
        held,
        stage.server,
        ended,
        outcome="failed",
        exact=True,
        more={"error.type": "Hopeless", "messaging.faktory.last_attempt": True},
    )


@on(Jobs)
async def test_the_jobs_of_a_killed_worker_are_told_as_crashed_with_their_stay_and_the_retry(stage: Jobs) -> None:
    victim = stage.worker("killed", "lost", concurrency=CONNECTIONS)
    heir = await stage.hands("heir")
    jids = {await stage.push("killed", jobtype="Killed", args=[1800], reserve_for=100)}
    jids |= {await stage.push("lost", jobtype="Lost", args=[1800]) for _ in range(CONNECTIONS - 1)}

    async def taken() -> list[Held] | None:
        found = await working(stage.server)
        return [found[jid] for jid in jids] if jids <= found.keys() else None

    held: list[Held] = await wait_until(taken, 60, every=0.1, what="the worker holds all jobs")
    await stage.watching.wait_for("faktory_busy_jobs", 1, 15, queue="killed")
    await stage.watching.wait_for("faktory_busy_jobs", CONNECTIONS - 1, 15, queue="lost")
    killed = await timed(kill(victim))
    assert jids <= (await working(stage.server)).keys()

    deadline = max(0.0, stage.started + SETTLED - time.monotonic()) + GRACE + TOLD
    (crash,) = await stage.heard.hear(lambda it: it.name == "worker crash", deadline, what="the worker's crash")
    found = datetime.now(UTC)
    process = {it.jid: await stage.heard.hear_process(it) for it in held}
    _check_crash(stage, crash, held, killed, found)
    for it in held:
        _check_crashed(stage, process[it.jid], it, crash, killed)

    (one,) = (it for it in held if it.queue == "killed")
    orphaned = await _orphaned(stage, one, process[one.jid], crash)
    await retry_now(stage.server, one.jid)
    again = await heir.take("killed")
    assert again.failures == 1
    await asyncio.sleep(SLOW + 0.5)
    ended = await heir.ack(again)
    retried = await stage.heard.hear_process(again)
    check_process(retried, again, stage.server, ended, outcome="finished")
    check_well(retried)
    assert retried.links == (previous_attempt(process[one.jid]),)

    spans = stage.heard.of_job(again.jid)
    assert [it.name.split()[0] for it in spans] == ["wait", "process", "orphaned", "wait", "process"]
    assert orphaned in spans
    assert len({it.trace for it in spans}) == 1
    lost = [it.name for jid in jids - {one.jid} for it in stage.heard.of_job(jid)]
    assert lost == ["wait lost", "process lost"] * (CONNECTIONS - 1), "a job that is still reserved stays"


def _check_crash(stage: Jobs, crash: Seen, held: Sequence[Held], killed: Doing, heard: datetime) -> None:
    (wid,) = {it.wid for it in held}
    assert (crash.kind, crash.parent, crash.events) == ("internal", "", ())
    told = dict(crash.attributes)
    found_at = datetime.fromisoformat(str(told.pop("messaging.faktory.found_at")))
    assert told == server_attributes(stage.server) | {
        "messaging.client.id": wid,
        "error.type": "worker_vanished",
        "messaging.faktory.crash_reason": "vanished",
        "messaging.faktory.orphaned_jobs": CONNECTIONS,
    }
    assert (crash.failed, crash.status) == (True, "the worker vanished while it held jobs")
    assert crash.start <= killed.asked
    assert killed.asked <= crash.end <= killed.answered + GONE + NOISE
    assert crash.end + GRACE - EDGE <= found_at.timestamp() <= heard.timestamp() + EDGE
    assert {(it.trace, it.span, it.attributes["messaging.message.id"]) for it in crash.links} == {
        (job_trace(it.jid), job_span(it), it.jid) for it in held
    }
    assert {it.attributes["messaging.faktory.link"] for it in crash.links} == {"orphaned_job"}


def _check_crashed(stage: Jobs, process: Seen, held: Held, crash: Seen, killed: Doing) -> None:
    # The worker may not have been seen to live since it took the job.
    alive_for = killed.answered - float(held.reserved_at)
    check_process(
        process,
        held,
        stage.server,
        killed,
        outcome="crashed",
        within=alive_for + GONE + NOISE,
        more={"error.type": "worker_vanished"},
    )
    assert process.end == crash.end
    assert (process.failed, process.status) == (True, "the worker vanished")
    assert process.links == (Linked(crash.trace, crash.span, {"messaging.faktory.link": "crash"}),)
    assert process.events == (
        Happened(
            "worker crashed",
            crash.end,
            {
                "messaging.client.id": held.wid,
                "messaging.faktory.crash_reason": "vanished",
                "messaging.faktory.found_at": crash.attributes["messaging.faktory.found_at"],
            },
        ),
    )


async def _orphaned(stage: Jobs, held: Held, process: Seen, crash: Seen) -> Seen:
    """Wait until the server gives the job up that a crash left behind, and see how the stay is told."""
    left = held.expires_at - time.time() + SWEEP
    (orphaned,) = await stage.heard.hear(
        lambda it: it.name == f"orphaned {held.queue}", left + TOLD, what="the orphan's stay"
    )
    assert (orphaned.kind, orphaned.trace, orphaned.parent) == ("internal", process.trace, process.span)
    assert orphaned.span == job_span(held, "orphaned")
    assert orphaned.start == crash.end
    entries = map(json.loads, await stage.server.redis().zrange("retries", 0, -1))
    (failure,) = (it["failure"] for it in entries if it["jid"] == held.jid)
    given_up = float(instant(failure["failed_at"]))
    told = dict(orphaned.attributes)
    unsure = told.pop("messaging.faktory.end_uncertainty")
    assert isinstance(unsure, float)
    assert unsure <= POLL + NOISE
    assert orphaned.end - unsure - EDGE <= given_up <= orphaned.end + EDGE
    assert told == job_attributes(stage.server, held, "orphaned") | {
        "messaging.client.id": held.wid,
        "messaging.faktory.end_precision": "poll",
    }
    assert (orphaned.failed, orphaned.events, orphaned.links) == (False, (), ())
    return orphaned


@on(Jobs)
async def test_a_job_whose_reservation_runs_out_is_told_as_expired_when_the_server_gave_it_up(stage: Jobs) -> None:
    hands = await stage.hands("endless")
    await stage.push("expiring", reserve_for=60)
    held = await hands.take("expiring")
    process = await stage.heard.hear_process(held, held.reserved_for + SWEEP + TOLD)
    assert held.reserved_for == pytest.approx(60, abs=0.1)
    given_up = Doing(held.expires_at, held.expires_at + SWEEP + NOISE)
    check_process(
        process, held, stage.server, given_up, outcome="expired", exact=True, more={"error.type": "reservation_expired"}
    )
    assert (process.failed, process.status) == (True, "the reservation ran out before the job was done")
    assert (process.events, process.links) == ((), ())


@on(Jobs)
async def test_a_job_links_to_the_span_of_its_producer(stage: Jobs) -> None:
    hands = await stage.hands("linked")
    carrier = await asyncio.to_thread(produce, stage.heard.address)
    await stage.push("linked", custom=carrier)
    held = await hands.take("linked")
    await asyncio.sleep(SLOW + 0.5)
    ended = await hands.ack(held)
    process = await stage.heard.hear_process(held)
    check_process(process, held, stage.server, ended, outcome="finished")
    (producer,) = await stage.heard.hear(lambda it: it.name == "send mail", what="the producer's own span")
    assert producer.span in carrier["traceparent"]
    assert process.links == (Linked(producer.trace, producer.span, {"messaging.faktory.link": "producer"}, "vendor=7"),)
    assert process.trace != producer.trace
    assert process.state == ""


@on(Jobs)
async def test_a_job_is_part_of_its_producers_trace_where_so_configured(stage: Jobs) -> None:
    heard = await stage.ear()
    arguments = told_to(heard.address, "--traces.traceparent=parent", slow=0)
    await stage.forewarn(Forewarn(stage.server, arguments=arguments))
    hands = await stage.hands("child")
    carrier = await asyncio.to_thread(produce, heard.address)
    jid = await stage.push("child", custom=carrier)
    held = await hands.take("child")
    await asyncio.sleep(2 * POLL + 0.5)
    ended = await hands.ack(held)
    process = await heard.hear_process(held)
    (producer,) = await heard.hear(lambda it: it.name == "send mail", what="the producer's own span")
    check_process(process, held, stage.server, ended, outcome="finished", trace=producer.trace, parent=producer.span)
    assert process.links == ()
    assert process.state == "vendor=7"
    wait, told = heard.of_job(jid)
    assert told == process
    check_wait(wait, process, held, stage.server)
    assert {it.trace for it in (wait, process, producer)} == {producer.trace}


class Collected(SpanExporter):
    """Sends spans to a collector, as the SDK's own exporter does."""

    def __init__(self, address: str) -> None:
        self._url = f"{address}/v1/traces"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        body = encode_spans(spans).SerializeToString()
        with urlopen(Request(self._url, body, {"Content-Type": misbehaving.PROTOBUF}), timeout=10) as answer:  # noqa: S310
            return SpanExportResult.SUCCESS if answer.status == 200 else SpanExportResult.FAILURE


def produce(address: str) -> dict[str, str]:
    """Be a producer that is traced: tell its span to a collector, and return what it puts into a job's ``custom``."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(Collected(address)))
    propagator = TraceContextTextMapPropagator()
    asked_by = propagator.extract(
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=7"}
    )
    carrier: dict[str, str] = {}
    with provider.get_tracer("shop").start_as_current_span("send mail", asked_by, trace.SpanKind.PRODUCER):
        propagator.inject(carrier)
    provider.shutdown()
    assert carrier.keys() == {"traceparent", "tracestate"}
    return carrier


async def _seen(stage: Jobs, queue: str) -> None:
    """Wait until Forewarn has seen a job of a queue in work."""
    await stage.watching.wait_for("faktory_busy_jobs", 1, 15, queue=queue)


@on(Jobs)
async def test_a_real_prometheus_leads_from_a_histogram_to_a_span_that_was_received(stage: Jobs) -> None:
    target = f"127.0.0.1:{stage.watching.port}"
    async with Prometheus(target, features=["exemplar-storage"]) as prometheus:
        hands = await stage.hands("exemplary")
        await stage.push("exemplary", jobtype="Exemplary")
        held = await hands.take("exemplary")
        await asyncio.sleep(SLOW + 0.5)
        await hands.ack(held)
        process = await stage.heard.hear_process(held)
        query = 'faktory_job_duration_seconds_bucket{queue="exemplary"}'

        (exemplar,) = await wait_until(
            lambda: prometheus.query_exemplars(query, process.start, time.time() + 60),
            20,
            every=0.2,
            what="Prometheus keeps the exemplar",
        )
        assert {"queue": "exemplary", "jobtype": "Exemplary", "le": "10.0"}.items() <= exemplar.series.items()
        assert exemplar.labels == {"trace_id": process.trace, "span_id": process.span}
        assert SLOW < exemplar.value <= 10


# --- metrics and polls ------------------------------------------------------------------------------------------------


@on(Jobs)
async def test_metrics_come_through_a_collector_as_they_are_at_the_page_and_polls_as_traces(stage: Jobs) -> None:
    heard = await stage.ear()
    arguments = told_to(heard.address, "--otlp.metrics-interval=1s")
    arguments[arguments.index("--traces.poll-ratio=0")] = "--traces.poll-ratio=1"
    forewarn = await stage.forewarn(Forewarn(stage.server, arguments=arguments))
    hands = await stage.hands("counted")
    await stage.push("counted")
    held = await hands.take("counted")
    await forewarn.wait_for("faktory_busy_jobs", 1, 15, queue="counted")
    await hands.ack(held)
    await forewarn.wait_for("faktory_job_duration_seconds_count", 1, 15, queue="counted")

    scrapes: list[Samples] = []

    async def same_poll() -> tuple[Samples, Samples] | None:
        # The push of a poll may come after the scrape of the next.
        scrapes.append(from_page(await forewarn.scrape()))
        pushes = [from_push(it.message) for it in heard.receiver.accepted[-5:]]
        return next(
            ((scrape, push) for push in pushes for scrape in scrapes if push and poll_of(push) == poll_of(scrape)), None
        )

    scraped, pushed = await wait_until(same_poll, 30, every=0.1, what="a push and a scrape of one poll")
    assert pushed == scraped
    assert len(pushed) > 100
    names = {name for name, _ in pushed}
    assert {"faktory_job_duration_seconds_bucket", "faktory_up", "faktory_jobs_failed_total"} <= names

    await wait_until(lambda: sum(it.name == f"poll {SERVER}" for it in heard.spans().values()) > 5, 20)
    spans = heard.spans().values()
    for poll in (it for it in spans if it.name == f"poll {SERVER}"):
        parts = [it for it in spans if it.parent == poll.span]
        assert (poll.parent, poll.failed) == ("", False)
        assert {it.name for it in parts} >= {"health", "connection", "redis"}
        for part in parts:
            assert (part.trace, part.kind) == (poll.trace, "client")
            assert poll.start <= part.start <= part.end <= poll.end


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def from_page(scrape: Scrape) -> Samples:
    """Return the samples of one server."""
    return {_key(name, dict(pairs)): value for (name, pairs), value in scrape.samples.items() if _lasts(name, pairs)}


def _lasts(name: str, pairs: tuple[tuple[str, str], ...]) -> bool:
    return "server" in dict(pairs) and name != "forewarn_snapshot_age_seconds"


def from_push(message: object) -> Samples:
    """Return the samples of one server in a request, as the text format has them; nothing if it holds none."""
    found: Samples = {}
    assert message is not None
    if not isinstance(message, ExportMetricsServiceRequest):
        return found
    metrics = [
        metric for resource in message.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]
    for metric in metrics:
        data = getattr(metric, str(metric.WhichOneof("data")))
        if metric.HasField("sum"):
            assert metric.sum.is_monotonic, metric.name
        if not metric.HasField("gauge"):
            assert data.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        for point in data.data_points:
            labels = {pair.key: pair.value.string_value for pair in point.attributes}
            if not _lasts(metric.name, tuple(labels.items())):
                continue
            if metric.HasField("histogram"):
                total = 0
                for bound, count in zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True):
                    total += count
                    found[_key(f"{metric.name}_bucket", labels | {"le": str(bound)})] = total
                found[_key(f"{metric.name}_sum", labels)] = point.sum
                found[_key(f"{metric.name}_count", labels)] = point.count
            else:
                found[_key(metric.name, labels)] = getattr(point, point.WhichOneof("value"))
    return found


def _key(name: str, labels: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    if "le" in labels:
        labels = labels | {"le": str(float(labels["le"]))}
    return name, tuple(sorted(labels.items()))


def poll_of(samples: Samples) -> Samples:
    """Return what no two polls have alike: how long each of their parts took."""
    return {key: value for key, value in samples.items() if key[0] == "forewarn_collector_duration_seconds"}


# --- Forewarn killed and started again --------------------------------------------------------------------------------


@asynccontextmanager
async def remembering(stage: Stage, name: str) -> AsyncIterator[tuple[Forewarn, Ear, Path]]:
    """A Forewarn with a state file that tells every job to a receiver of its own."""
    file = stage.server.folder / f"{name}.json"
    async with receiving() as receiver:
        ear = Ear(receiver, receiver.endpoint)
        forewarn = Forewarn(stage.server, state_file=file, arguments=told_to(ear.address, slow=0))
        await stage.forewarn(forewarn)
        yield forewarn, ear, file
        # All that ever came, whether it was taken or not: one content for each id.
        once(spans_of(receiver.requests))
        await forewarn.stop()


async def killed(forewarn: Forewarn) -> None:
    await forewarn.stop(signal.SIGKILL)


async def remembered(file: Path, *held: Held) -> None:
    """Wait until a state file knows of jobs in work."""

    def known() -> bool:
        return file.exists() and all(it.jid in file.read_text() for it in held)

    await wait_until(known, 30, every=0.1, what="the state file knows the jobs")


async def done_since(stage: Stage, forewarn: Forewarn, ear: Ear, queue: str) -> None:
    """Let a job come and go, and wait until it is told: all that was to be told before is then."""
    hands = await stage.hands(f"{queue}-after")
    await stage.push(f"{queue}-after")
    held = await hands.take(f"{queue}-after")
    await forewarn.wait_for("faktory_busy_jobs", 1, 15, queue=f"{queue}-after")
    await hands.ack(held)
    await ear.hear_process(held)


@on(Kills)
async def test_killed_in_the_middle_of_a_job_it_tells_that_job_once(stage: Kills) -> None:
    async with remembering(stage, "middle") as (forewarn, ear, _):
        hands = await stage.hands("middle")
        await stage.push("middle")
        held = await hands.take("middle")
        await forewarn.wait_for("faktory_busy_jobs", 1, 15, queue="middle")
        await killed(forewarn)
        await forewarn.start()
        await forewarn.wait_for("faktory_busy_jobs", 1, 15, queue="middle")
        ended = await hands.ack(held)
        process = await ear.hear_process(held)
        check_process(process, held, stage.server, ended, outcome="finished")
        await done_since(stage, forewarn, ear, "middle")
        wait, told = ear.of_job(held.jid)
        assert told == process
        check_wait(wait, process, held, stage.server)


@on(Kills)
async def test_a_job_that_ends_while_forewarn_is_down_is_told_when_it_is_back(stage: Kills) -> None:
    async with remembering(stage, "down") as (forewarn, ear, file):
        hands, clumsy = await stage.hands("down"), await stage.hands("down-failing")
        await stage.push("down")
        await stage.push("down-failing")
        held, failing = await hands.take("down"), await clumsy.take("down-failing")
        await remembered(file, held, failing)
        await killed(forewarn)
        ended, failed = await hands.ack(held), await clumsy.fail(failing, "Failed", "while nobody watched")
        down = await timed(forewarn.start())
        process, in_error = await ear.hear_process(held), await ear.hear_process(failing)
        unwatched = down.answered - float(held.reserved_at)
        gap = process.attributes["messaging.faktory.end_uncertainty"]
        assert isinstance(gap, float)
        # Somebody's job failed meanwhile: after a longer gap it is not known of one that is not found.
        outcome = "finished" if gap <= KNOWABLE else process.attributes.get("messaging.faktory.outcome")
        assert outcome in {None, "finished"}
        check_process(process, held, stage.server, ended, outcome=outcome, within=unwatched)
        check_process(
            in_error, failing, stage.server, failed, outcome="failed", exact=True, more={"error.type": "Failed"}
        )
        await done_since(stage, forewarn, ear, "down")
        assert [it.name for it in ear.of_job(held.jid)] == ["wait down", "process down"]


def deadly(forewarn: Forewarn, held: Held, *, answered: bool) -> misbehaving.Answer:
    """Take all, and kill Forewarn as soon as the span of an execution has come: before or after the answer to that."""
    span = job_span(held)

    async def answer(received: misbehaving.Received, reply: misbehaving.Reply) -> None:
        last = span in {it.span for it in spans_of([received])}
        if last and not answered:
            forewarn.process.kill()
        await misbehaving.well(received, reply)
        if last:
            forewarn.process.kill()

    return answer


@on(Kills)
async def test_killed_as_a_span_is_taken_it_tells_no_other_with_its_id(stage: Kills) -> None:
    async with remembering(stage, "taken") as (forewarn, ear, file):
        hands = await stage.hands("taken")
        for number, (failing, answered) in enumerate(itertools.product((False, True), repeat=2)):
            queue = f"taken-{number}"  # what failed comes again
            await stage.push(queue)
            held = await hands.take(queue)
            await remembered(file, held)  # or a Forewarn that forgot that it told this would not know of it at all
            ear.receiver.answer = deadly(forewarn, held, answered=answered)
            ended = await (hands.fail(held, "Failed", "told just before the end") if failing else hands.ack(held))
            process = await ear.hear_process(held)
            await killed(forewarn)
            more: Mapping[str, Attribute] = {"error.type": "Failed"} if failing else {}
            outcome = "failed" if failing else "finished"
            check_process(process, held, stage.server, ended, outcome=outcome, exact=failing, more=more)
            ear.receiver.answer = misbehaving.well
            await forewarn.start()
        await done_since(stage, forewarn, ear, "taken")


@on(Kills)
async def test_what_no_collector_took_before_the_kill_is_told_after_it_with_the_same_content(stage: Kills) -> None:
    async with remembering(stage, "untold") as (forewarn, ear, _):
        ear.receiver.answer = misbehaving.saying(503)
        hands = await stage.hands("untold")
        await stage.push("untold")
        held = await hands.take("untold")
        await forewarn.wait_for("faktory_busy_jobs", 1, 15, queue="untold")
        ended = await hands.ack(held)
        span = job_span(held)
        await wait_until(
            lambda: span in {it.span for it in spans_of(ear.receiver.requests)}, TOLD, what="the collector refused it"
        )
        assert ear.spans() == {}
        await killed(forewarn)
        ear.receiver.answer = misbehaving.well
        await forewarn.start()
        process = await ear.hear_process(held)
        check_process(process, held, stage.server, ended, outcome="finished")
        await done_since(stage, forewarn, ear, "untold")


# --- collectors that do not do what they should -----------------------------------------------------------------------

FLOOD = 2600
"""Jobs whose spans, two each, are more than may wait."""

MIB = 1024 * 1024

Misbehaviour = Callable[[Receiver], None]


def answering(answer: misbehaving.Answer) -> Misbehaviour:
    def misbehave(receiver: Receiver) -> None:
        receiver.answer = answer

    return misbehave


def not_reading(receiver: Receiver) -> None:
    receiver.taken_over = misbehaving.unread


MISBEHAVIOURS: Mapping[str, Misbehaviour] = {
    "is down": lambda _: None,
    "is slow": answering(misbehaving.slowly(3)),
    "answers 429": answering(misbehaving.saying(429, Retry_After="1")),
    "answers 503": answering(misbehaving.saying(503)),
    "hangs": answering(misbehaving.never),
    "never reads": not_reading,
    "sends garbage": answering(misbehaving.raw(b"\x00\xff garbage \r\n\r\n" * 100)),
    "never ends its answer": answering(misbehaving.endless()),
}


@on(Trouble)
async def test_no_collector_delays_a_poll_or_scrape_fills_memory_or_holds_up_the_exit(stage: Trouble) -> None:
    async with AsyncExitStack() as ends:
        forewarns: dict[str, Forewarn] = {}
        for name, misbehave in MISBEHAVIOURS.items():
            receiver = await ends.enter_async_context(receiving())
            misbehave(receiver)
            endpoint = f"http://127.0.0.1:{free_port()}" if name == "is down" else receiver.endpoint
            arguments = ["--traces.ratio=1", "--traces.per-second=10000", "--otlp.metrics-interval=1s"]
            arguments += [f"--otlp.endpoint={endpoint}", "--traces.poll-ratio=0"]
            forewarns[name] = Forewarn(stage.server, arguments=arguments)
        await asyncio.gather(*map(stage.forewarn, forewarns.values()))
        watched = [asyncio.create_task(_never_late(name, it), name=name) for name, it in forewarns.items()]
        ends.push_async_callback(_ended, watched)
        before = {name: await it.metric("process_resident_memory_bytes") or 0 for name, it in forewarns.items()}
        for number in range(1, 3):
            await _flood(stage, list(forewarns.values()), FLOOD * number)
        after = {name: await it.metric("process_resident_memory_bytes") or 0 for name, it in forewarns.items()}
        for name, it in forewarns.items():
            await _all_accounted_for(name, it)
        assert {name: grown for name in after if (grown := (after[name] - before[name]) / MIB) > 64} == {}

        assert [it for it in await _ended(watched) if not isinstance(it, asyncio.CancelledError)] == []
        exits = dict(zip(forewarns, await asyncio.gather(*(it.stop() for it in forewarns.values())), strict=True))
        assert {name: status for name, (status, _) in exits.items() if status} == {}
        assert {name: seconds for name, (_, seconds) in exits.items() if seconds >= 5} == {}


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> list[BaseException | None]:
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def _flood(stage: Stage, forewarns: Sequence[Forewarn], total: int) -> None:
    """Let very many jobs be in work when they are looked at, and gone together."""
    wire = await stage.connect("flooded")
    for number in range(FLOOD):
        await wire.send(
            "PUSH " + json.dumps({"jid": flooded(total, number), "jobtype": "Flood", "args": [], "queue": "flood"})
        )
    for _ in range(FLOOD):
        assert await wire.read() == "+OK"
    for _ in range(FLOOD):
        await wire.send("FETCH flood")
    for _ in range(FLOOD):
        assert await wire.read() is not None
    for forewarn in forewarns:
        await forewarn.wait_for("faktory_busy_jobs", FLOOD, 30, queue="flood")
    for number in range(FLOOD):
        await wire.send("ACK " + json.dumps({"jid": flooded(total, number)}))
    for _ in range(FLOOD):
        assert await wire.read() == "+OK"
    for forewarn in forewarns:
        await forewarn.wait_for("forewarn_trace_executions_total", total, 30, decision="told")


def flooded(total: int, number: int) -> str:
    return f"flooded-{total}-{number}"


async def _never_late(name: str, forewarn: Forewarn) -> None:
    """Scrape for ever. AssertionError where the scrape, or the poll that it tells of, is late."""
    while True:
        asked = time.monotonic()
        age = await forewarn.metric("forewarn_snapshot_age_seconds")
        took = time.monotonic() - asked
        # What waited for a collector would wait for as long as a request may take, 10 s.
        assert took < 3, f"a scrape took {took:.1f} s while the collector {name}"
        assert age is not None
        assert age < POLL + 3, f"the snapshot was {age:.1f} s old while the collector {name}"
        await asyncio.sleep(0.5)


async def _all_accounted_for(name: str, forewarn: Forewarn) -> None:
    """See that every span that was made is counted as sent, rejected, dropped or waiting, and that some were lost."""
    last: list[dict[str, float | None]] = []

    async def whole() -> bool:
        scrape = await forewarn.scrape()
        counts = {
            result: scrape.value("forewarn_otlp_items_total", signal="traces", result=result)
            for result in ("sent", "rejected", "dropped")
        }
        counts["waiting"] = scrape.value("forewarn_otlp_waiting_spans")
        counts["failures"] = scrape.total("forewarn_otlp_failures_total", signal="traces")
        counts["failed pushes"] = scrape.total("forewarn_otlp_failures_total", signal="metrics")
        told = scrape.value("forewarn_trace_executions_total", decision="told")
        last[:] = [counts | {"told": told}]
        spans = [counts[it] for it in ("sent", "rejected", "dropped", "waiting")]
        failed = name == "is slow" or (counts["failures"] and counts["failed pushes"])
        return bool(failed) and told is not None and None not in spans and sum(it or 0 for it in spans) == 2 * told

    try:
        await wait_until(whole, 30, every=0.2, what=f"every span is accounted for while the collector {name}")
    except AssertionError as error:
        error.add_note(str(last))
        raise
    (counts,) = last
    assert bool(counts["sent"]) == (name == "is slow"), f"{name}: {counts}"
    assert (counts["dropped"] or 0) + (counts["rejected"] or 0) > 0, f"{name}: {counts}"


# --- a server that is restarted ---------------------------------------------------------------------------------------


@on(Restarts)
async def test_a_restart_of_the_server_is_a_span_from_the_last_sight_of_the_old_to_the_first_of_the_new(
    stage: Restarts,
) -> None:
    ear = await stage.ear()
    async with Forewarn(stage.server, arguments=told_to(ear.address)) as forewarn:
        for _ in range(50):
            await stage.push("mail")
        await forewarn.wait_for("faktory_queue_jobs", 50, 15, queue="mail")  # so that fewer commands tell of a restart
        stopped = time.time()
        restarted = await timed(stage.server.restart())
        (span,) = await ear.hear(lambda it: it.name == "server restart", 60, what="the restart")
        assert (span.parent, span.kind, span.links, span.events) == ("", "internal", (), ())
        assert span.attributes == server_attributes(stage.server)
        assert stopped - 2 * POLL - NOISE <= span.start <= restarted.answered + UPTIME
        assert restarted.asked <= span.end <= restarted.answered + 60
        assert span.start < span.end
