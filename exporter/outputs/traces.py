"""What was seen of jobs, workers, the server and Forewarn's own polls, as OpenTelemetry spans.

Spans are built whole, with the times and ids that they must have, and as the protocol's own messages: nothing of
OpenTelemetry's SDK takes part but its resource, for its own spans and their encoder take far longer. Names
of attributes are those of the semantic conventions 1.44; what these have no name for is ``messaging.<system>.*``, and
``forewarn.*`` where it is about Forewarn. What is not known is not set.

Imported only where an endpoint is set: it costs time and memory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, assert_never

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from exporter import __version__, trace_ids
from exporter.model import (
    MAX_ERROR,
    CollectorRun,
    CrashReason,
    Execution,
    Failure,
    Frame,
    Incident,
    IncidentKind,
    Orphaned,
    Outcome,
    Reservation,
    Restart,
    Snapshot,
    Told,
    WorkerCrash,
    label_value,
)

MAX_LINKS: Final = 128
"""Most links of one span, as many as OpenTelemetry's own limit: of a crash the number of its orphans is told beside."""

MAX_HINT: Final = 300
"""Most characters of what is known of an incident: they are Forewarn's own."""

MAX_FRAMES: Final = 20
"""Most calls of a stack that are told: what matters are the innermost."""

MAX_WAIT: Final = 366 * 86400.0
"""Longest wait in a queue that is believed, in seconds."""

MAX_COUNT: Final = 2**31 - 1
"""Largest number of attempts or orphans that is told: what a job claims may be anything, and OTLP has 64 bits."""

MAX_KEPT: Final = 1024
"""Most attributes, and most kinds of spans of jobs, that are kept encoded: about 1 KiB each."""

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
_LAST_SECOND: Final = 9_200_000_000.0  # year 2261: nanoseconds in 63 bits end soon after
_OWN: Final[int] = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final[int] = _OWN | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_MAX_TRACESTATE: Final = 512
_STATE_MEMBERS: Final = 32
_STATE_MEMBER: Final = re.compile(
    r"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)

_Attribute = str | bool | int | float
_Attributes = dict[str, _Attribute]


class Traced(msgspec.Struct, frozen=True):
    """What of a watched server its spans tell. ``address`` is a host or the path of a socket, never a URL."""

    name: str
    """As configured: one half of what the ids of its traces are made of."""
    system: str
    address: str | None = None
    port: int | None = None


@functools.cache
def resource(version: str = __version__) -> Resource:
    """Return who tells: Forewarn in ``version``, but for what ``OTEL_SERVICE_NAME`` and the like say otherwise.

    Read once. Only these variables are asked: of the detectors that can be chosen by another one some tell the
    command line, where a password may stand.
    """
    chosen = OTELResourceDetector().detect().attributes
    # An environment may hold bytes that are no text.
    told = {_text(key): _text(str(value)) for key, value in chosen.items()}
    return Resource({"service.name": "forewarn", "service.version": version} | told, _SCHEMA)


def spans(traced: Traced, told: Told, *, parent: bool) -> tuple[Span, ...]:
    """Return what ``told`` becomes: as many spans as :func:`count` says, and the same ones on every run.

    Args:
        traced: The server that it was seen on.
        told: What was seen.
        parent: Whether the span of a job becomes a child of its producer's instead of linking to it.
    """
    match told:
        case Execution():
            return _execution(traced, told, parent=parent)
        case Orphaned():
            return (_orphaned(traced, told, parent=parent),)
        case WorkerCrash():
            return (_worker_crash(traced, told, parent=parent),)
        case Restart():
            return (_restart(traced, told),)
        case Incident():
            return (_incident(traced, told),)
        case _:
            assert_never(told)


def count(told: Told) -> int:
    """Return how many spans ``told`` becomes, without building them."""
    return 2 if isinstance(told, Execution) and _waited_from(told.reservation) is not None else 1


def polled(server: str, started: float, ratio: float) -> bool:
    """Tell whether the poll of ``server`` that began at ``started`` is told, of a ``ratio`` from 0 to 1 of all."""
    return int(_poll_trace(server, started)[16:], 16) < ratio * 2**64


def poll_spans(traced: Traced, snapshot: Snapshot, started: float, ended: float) -> tuple[Span, ...]:
    """Return the span of one poll, and a child for each of its parts that ran in it.

    Args:
        traced: The server that was polled.
        snapshot: What came of it.
        started: When it began, by the sidecar's clock, in Unix seconds.
        ended: When ``snapshot`` was taken, by the same clock.
    """
    context = _Context(
        bytes.fromhex(_poll_trace(traced.name, started)),
        bytes.fromhex(trace_ids.span_id(traced.name, "poll", _instant(started))),
    )
    # A part that is asked for rarely stands in the snapshot with its newest run, which may be older than this poll.
    began = snapshot.taken_at - (ended - started) - 0.001
    runs = [(it.last, it.last.started) for it in snapshot.collectors if it.last.started is not None]
    runs = [(run, since) for run, since in runs if since >= began]
    failure = next((run.failure for run, _ in runs if run.failure), None)
    interval = _interval(started, ended)
    reached = snapshot.observation.reached
    root = _span(
        _kind(f"poll {label_value(traced.name)}"),
        context,
        None,
        interval,
        _server(traced) | _failed(None if reached else failure),
        error=None if reached else "the server was not reached",
    )
    offset = ended - snapshot.taken_at
    parts = (
        _collector(traced, context, run, _within(interval, since + offset, since + run.seconds + offset))
        for run, since in runs
    )
    return root, *parts


def encode(batch: Sequence[Span]) -> bytes:
    """Return the body of an OTLP request that carries ``batch``."""
    request = ExportTraceServiceRequest()
    told = request.resource_spans.add(schema_url=_SCHEMA)
    told.resource.attributes.extend(_key_values({key: str(it) for key, it in resource().attributes.items()}))
    told.scope_spans.add(
        scope=InstrumentationScope(name="forewarn", version=__version__), schema_url=_SCHEMA
    ).spans.extend(batch)
    body: bytes = request.SerializeToString()
    return body


# --- jobs -----------------------------------------------------------------------------------------------------------


class _Context(msgspec.Struct, frozen=True, gc=False):
    """One span, as others refer to it."""

    trace: bytes
    span: bytes
    state: str = ""
    remote: bool = False
    """Whether it is another program's."""


class _Placed(msgspec.Struct, frozen=True, gc=False):
    """Where the spans of a job stand."""

    trace: bytes
    state: str
    producer: _Context | None


def _placed(traced: Traced, reservation: Reservation, *, parent: bool) -> _Placed:
    """Return the trace in which a job is told: its producer's if so configured and known, else the job's own."""
    job, producer = reservation.job, _producer(reservation)
    traceparent = None if job is None else job.traceparent
    trace = trace_ids.told_trace(traced.name, reservation.jid, traceparent, parent=parent)
    return _Placed(bytes.fromhex(trace), producer.state if parent and producer is not None else "", producer)


def _process_context(traced: Traced, reservation: Reservation, placed: _Placed) -> _Context:
    span = trace_ids.process_span(traced.name, reservation.jid, reservation.reserved_at)
    return _Context(placed.trace, bytes.fromhex(span), placed.state)


def _execution(traced: Traced, told: Execution, *, parent: bool) -> tuple[Span, ...]:
    reservation = told.reservation
    placed = _placed(traced, reservation, parent=parent)
    context = _process_context(traced, reservation, placed)
    interval = _interval(reservation.reserved_at, told.ended_at)
    own = _own(traced)
    of_job = _of_job(traced, reservation)
    attributes: _Attributes = {"messaging.client.id": label_value(reservation.worker), **_end(own, told.uncertainty)}
    error_type, said = _error(told)
    if error_type is not None:
        attributes["error.type"] = error_type
    if told.outcome is not None:
        attributes[f"{own}.outcome"] = told.outcome.value
    if told.dead:
        attributes[f"{own}.last_attempt"] = True
    reserved_for = round(reservation.expires_at - reservation.reserved_at, 6)
    if 0 < reserved_for < _LAST_SECOND:
        attributes[f"{own}.reserved_for"] = reserved_for
    process = _span(
        _kind_of_job(traced, "process", reservation.queue, reservation.jobtype) + of_job,
        context,
        placed.producer if parent else None,
        interval,
        attributes,
        error=said,
        events=_events(own, told, interval[1]),
        links=_links(traced, told, placed, parent=parent),
    )
    waited_from = _waited_from(reservation)
    if waited_from is None:
        return (process,)
    wait = _span(
        _kind_of_job(traced, "wait", reservation.queue, reservation.jobtype) + of_job,
        _Context(placed.trace, _part(traced, reservation, "wait"), placed.state),
        context,
        _interval(waited_from, reservation.reserved_at),
    )
    return process, wait


def _orphaned(traced: Traced, told: Orphaned, *, parent: bool) -> Span:
    reservation = told.reservation
    placed = _placed(traced, reservation, parent=parent)
    return _span(
        _kind_of_job(traced, "orphaned", reservation.queue, reservation.jobtype) + _of_job(traced, reservation),
        _Context(placed.trace, _part(traced, reservation, "orphaned"), placed.state),
        _process_context(traced, reservation, placed),
        _interval(told.since, told.until),
        {"messaging.client.id": label_value(reservation.worker), **_end(_own(traced), told.uncertainty)},
    )


def _part(traced: Traced, reservation: Reservation, part: str) -> bytes:
    return bytes.fromhex(trace_ids.span_id(traced.name, reservation.jid, _instant(reservation.reserved_at), part))


def _waited_from(reservation: Reservation) -> float | None:
    """Return when the job was put into its queue, if that is known and can be true."""
    since = None if reservation.job is None else reservation.job.enqueued_at
    if since is None or not since <= reservation.reserved_at <= since + MAX_WAIT:
        return None
    return since


@functools.lru_cache(MAX_KEPT)
def _kind_of_job(traced: Traced, operation: str, queue: str, jobtype: str) -> bytes:
    """Return what all spans of one operation on one type of job in one queue have in common."""
    processed = operation == "process"
    attributes: _Attributes = {
        "messaging.system": label_value(traced.system),
        "messaging.operation.name": operation,
        "messaging.destination.name": label_value(queue),
        f"{_own(traced)}.job_type": label_value(jobtype),
        **_server(traced),
        "forewarn.observed": True,
    }
    if processed:
        attributes["messaging.operation.type"] = operation
    return _kind(
        f"{operation} {label_value(queue)}",
        attributes,
        kind=Span.SPAN_KIND_CONSUMER if processed else Span.SPAN_KIND_INTERNAL,
    )


def _of_job(traced: Traced, reservation: Reservation) -> bytes:
    """Return what every span of one job tells beside that."""
    # The one attribute that no other job has: kept, ids would only drive out what comes again.
    message = _encoded("messaging.message.id", label_value(reservation.jid))
    if reservation.job is None or reservation.job.failures < 0:
        return message
    return message + _common(f"{_own(traced)}.attempt", min(reservation.job.failures, MAX_COUNT - 1) + 1)


@functools.lru_cache(MAX_KEPT)
def _own(traced: Traced) -> str:
    """Return what stands before the names of attributes that the conventions lack."""
    return f"messaging.{label_value(traced.system)}"


def _end(own: str, uncertainty: float) -> _Attributes:
    """Return how exact the end of a span is."""
    seconds = round(uncertainty, 6)
    if seconds == 0:
        return {f"{own}.end_precision": "exact"}
    known = {f"{own}.end_uncertainty": seconds} if 0 < seconds < _LAST_SECOND else {}
    return {f"{own}.end_precision": "poll", **known}


_ERROR_TYPES: Final[Mapping[CrashReason | None, str]] = {
    CrashReason.VANISHED: "worker_vanished",
    CrashReason.HUNG: "worker_hung",
    None: "worker_crashed",
}


def _error(told: Execution) -> tuple[str | None, str | None]:
    """Return the value of ``error.type``, and what is said of the error.

    A job that finished has neither, and no status: ``Ok`` is for those who know that it did well, and only its worker
    can.
    """
    match told.outcome:
        case Outcome.CRASHED:
            how = "crashed" if told.crash is None else told.crash.value
            return _ERROR_TYPES[told.crash], f"the worker {how}"
        case Outcome.EXPIRED:
            return "reservation_expired", "the reservation ran out before the job was done"
        case Outcome.FAILED:
            said = ": ".join(it for it in (told.error_type, told.error) if it)
            # "_OTHER" is the conventions' word for an error of an unknown type.
            return label_value(told.error_type or "_OTHER"), said or "the job failed"
        case Outcome.FINISHED | None:
            return None, None


def _events(own: str, told: Execution, ended: int) -> Sequence[Span.Event]:
    if told.outcome is Outcome.CRASHED:
        attributes: _Attributes = {"messaging.client.id": label_value(told.reservation.worker)}
        if told.crash is not None:
            attributes[f"{own}.crash_reason"] = told.crash.value
        if told.found_at is not None:
            attributes[f"{own}.found_at"] = _written(told.found_at)
        return (_event("worker crashed", ended, attributes),)
    if told.outcome is Outcome.FAILED:
        exception: _Attributes = {}
        if told.error_type:
            exception["exception.type"] = label_value(told.error_type)
        if told.error:
            exception["exception.message"] = _text(told.error)
        if exception:
            return (_event("exception", ended, exception),)
    return ()


def _links(traced: Traced, told: Execution, placed: _Placed, *, parent: bool) -> Sequence[Span.Link]:
    name = f"{_own(traced)}.link"
    reservation = told.reservation
    links = []
    if placed.producer is not None and not parent:
        links.append(_link(placed.producer, {name: "producer"}))
    if told.previous is not None:
        # What a job carries from its producer stays with it over all attempts, so they are told in one trace.
        span = trace_ids.process_span(traced.name, reservation.jid, told.previous)
        links.append(_link(_Context(placed.trace, bytes.fromhex(span), placed.state), {name: "previous_attempt"}))
    if told.outcome is Outcome.CRASHED:
        links.append(_link(_crash_context(traced, reservation.worker, told.ended_at), {name: "crash"}))
    return links


# --- workers, servers, polls ----------------------------------------------------------------------------------------


def _worker_crash(traced: Traced, told: WorkerCrash, *, parent: bool) -> Span:
    own = _own(traced)
    attributes: _Attributes = {
        "messaging.system": label_value(traced.system),
        "messaging.client.id": label_value(told.worker),
        "error.type": _ERROR_TYPES[told.reason],
        f"{own}.crash_reason": told.reason.value,
        f"{own}.found_at": _written(told.found_at),
        f"{own}.orphaned_jobs": min(max(told.orphaned_jobs, 0), MAX_COUNT),
        **_server(traced),
        "forewarn.observed": True,
    }
    links = [
        _link(
            _process_context(traced, orphan, _placed(traced, orphan, parent=parent)),
            {f"{own}.link": "orphaned_job", "messaging.message.id": label_value(orphan.jid)},
        )
        for orphan in told.orphans[:MAX_LINKS]
    ]
    return _span(
        _kind("worker crash"),
        _crash_context(traced, told.worker, told.gone_at),
        None,
        _interval(told.lived_at, told.gone_at),
        attributes,
        error=f"the worker {told.reason} while it held jobs",
        links=links,
    )


def _crash_context(traced: Traced, worker: str, gone_at: float) -> _Context:
    return _root(traced.name, "worker crash", worker, _instant(gone_at))


def _restart(traced: Traced, told: Restart) -> Span:
    return _span(
        _kind("server restart"),
        _root(traced.name, "server restart", _instant(told.until)),
        None,
        _interval(told.since, told.until),
        {"messaging.system": label_value(traced.system), **_server(traced), "forewarn.observed": True},
    )


_INCIDENTS: Final[Mapping[IncidentKind, str]] = {
    IncidentKind.DATA_RACE: "data race",
    IncidentKind.RECOVERED_PANIC: "recovered panic",
}


def _incident(traced: Traced, told: Incident) -> Span:
    name = _INCIDENTS.get(told.kind, "process crash")
    at = told.at or 0.0
    interval = _interval(at, at)
    attributes: _Attributes = {
        "messaging.system": label_value(traced.system),
        "error.type": told.kind.value,
        **_server(traced),
        "forewarn.observed": True,
    }
    for key, value in (
        ("component", label_value(told.component) if told.component else None),
        ("known", told.known and label_value(told.known)),
        ("hint", told.hint and _text(told.hint, MAX_HINT)),
        ("group", told.group and label_value(told.group)),
    ):
        if value:
            attributes[f"forewarn.incident.{key}"] = value
    goroutines = sum(told.goroutines.values())
    if goroutines > 0:
        attributes["forewarn.incident.goroutines"] = min(goroutines, MAX_COUNT)
    exception: _Attributes = {"exception.type": told.kind.value}
    if told.message:
        exception["exception.message"] = _text(told.message)
    stack = "\n".join(_frame(it) for it in told.frames[:MAX_FRAMES] if it.function)
    if stack:
        exception["exception.stacktrace"] = stack
    return _span(
        _kind(name),
        _root(traced.name, "incident", told.kind.value, told.group, _instant(at)),
        None,
        interval,
        attributes,
        error=told.message or name,
        events=(_event("exception", interval[1], exception),),
    )


def _frame(frame: Frame) -> str:
    """Return a call as Go prints it, but for its arguments."""
    if frame.file is None:
        return _text(frame.function)
    line = "" if frame.line is None else f":{min(max(frame.line, 0), MAX_COUNT)}"
    return f"{_text(frame.function)}\n\t{_text(frame.file)}{line}"


def _root(*parts: str) -> _Context:
    """Return the span of a trace of its own that ``parts`` name."""
    return _Context(bytes.fromhex(trace_ids.trace_id(*parts)), bytes.fromhex(trace_ids.span_id(*parts)))


def _poll_trace(server: str, started: float) -> str:
    return trace_ids.trace_id(server, "poll", _instant(started))


def _collector(traced: Traced, poll: _Context, run: CollectorRun, interval: tuple[int, int]) -> Span:
    name = label_value(run.name)
    return _span(
        _kind(name, kind=Span.SPAN_KIND_CLIENT),
        _Context(poll.trace, bytes.fromhex(trace_ids.span_id(poll.trace.hex(), "collector", run.name))),
        poll,
        interval,
        {"forewarn.server": label_value(traced.name), "forewarn.collector": name, **_failed(run.failure)},
        error=None if run.failure is None else run.failure.message,
    )


def _failed(failure: Failure | None) -> _Attributes:
    return {} if failure is None else {"error.type": str(failure.reason)}


def _server(traced: Traced) -> _Attributes:
    attributes: _Attributes = {"forewarn.server": label_value(traced.name)}
    if traced.address is not None:
        attributes["server.address"] = label_value(traced.address)
        if traced.port is not None:
            attributes["server.port"] = traced.port
    return attributes


# --- parts of a span ------------------------------------------------------------------------------------------------


def _kind(
    name: str, attributes: _Attributes | None = None, *, kind: Span.SpanKind.ValueType = Span.SPAN_KIND_INTERNAL
) -> bytes:
    """Return what all spans of one kind have in common, encoded."""
    encoded: bytes = Span(name=name, kind=kind, attributes=_key_values(attributes or {})).SerializeToString()
    return encoded


def _encoded(key: str, value: _Attribute) -> bytes:
    """Return a span that has nothing but this attribute."""
    encoded: bytes = Span(attributes=[_key_value(key, value)]).SerializeToString()
    return encoded


_common: Final = functools.lru_cache(MAX_KEPT, typed=True)(_encoded)
"""The same, of those that come again and again."""


def _span(
    kind: bytes,
    context: _Context,
    parent: _Context | None,
    interval: tuple[int, int],
    attributes: Mapping[str, _Attribute] = MappingProxyType({}),
    *,
    error: str | None = None,
    events: Sequence[Span.Event] = (),
    links: Sequence[Span.Link] = (),
) -> Span:
    span = Span(
        trace_id=context.trace,
        span_id=context.span,
        trace_state=context.state,
        parent_span_id=b"" if parent is None else parent.span,
        flags=_flags(parent),
        start_time_unix_nano=interval[0],
        end_time_unix_nano=interval[1],
        events=events,
        links=links,
        status=None if error is None else Status(code=Status.STATUS_CODE_ERROR, message=_text(error)),
    )
    # Encoded messages that stand one after another are one message. Attribute by attribute it takes thrice the time.
    span.MergeFromString(b"".join([kind, *[_common(key, value) for key, value in attributes.items()]]))
    return span


def _event(name: str, at: int, attributes: _Attributes) -> Span.Event:
    return Span.Event(name=name, time_unix_nano=at, attributes=_key_values(attributes))


def _link(context: _Context, attributes: _Attributes) -> Span.Link:
    return Span.Link(
        trace_id=context.trace,
        span_id=context.span,
        trace_state=context.state,
        attributes=_key_values(attributes),
        flags=_flags(context),
    )


def _flags(context: _Context | None) -> int:
    return _REMOTE if context is not None and context.remote else _OWN


def _key_values(attributes: _Attributes) -> Sequence[KeyValue]:
    return [_key_value(key, value) for key, value in attributes.items()]


def _key_value(key: str, value: _Attribute) -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=key, value=AnyValue(bool_value=value))
        case str():
            return KeyValue(key=key, value=AnyValue(string_value=value))
        case int():
            return KeyValue(key=key, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=key, value=AnyValue(double_value=value))


def _producer(reservation: Reservation) -> _Context | None:
    job = reservation.job
    found = None if job is None else trace_ids.producer(job.traceparent)
    if job is None or found is None:
        return None
    trace, span = map(bytes.fromhex, found)
    return _Context(trace, span, _tracestate(job.tracestate), remote=True)


def _tracestate(text: str | None) -> str:
    """Return a ``tracestate`` if it is one, else an empty one, as W3C asks."""
    if not text or len(text) > _MAX_TRACESTATE:
        return ""
    members = [_STATE_MEMBER.fullmatch(it) for it in map(str.strip, text.split(",")) if it]
    pairs = {it[1]: it[2] for it in members if it}
    if len(pairs) < len(members) or len(pairs) > _STATE_MEMBERS:
        return ""
    return ",".join(f"{key}={value}" for key, value in pairs.items())


def _text(text: str, most: int = MAX_ERROR) -> str:
    """Return ``text`` as it may be told: valid UTF-8, at most ``most`` characters."""
    return text[:most].encode("utf-8", "replace").decode("utf-8")


def _interval(since: float, until: float) -> tuple[int, int]:
    started = _nanoseconds(since)
    return started, max(started, _nanoseconds(until))


def _within(outer: tuple[int, int], since: float, until: float) -> tuple[int, int]:
    """Return an interval cut to ``outer``: two clocks do not run quite alike."""
    started, ended = (min(max(it, outer[0]), outer[1]) for it in _interval(since, until))
    return started, ended


def _nanoseconds(seconds: float) -> int:
    """Return Unix seconds as OTLP writes them: exact to a microsecond, as the instants of the model are."""
    return round(_bounded(seconds) * 1e6) * 1000


def _bounded(seconds: float) -> float:
    # Written so that what is no number becomes 0.
    return min(seconds, _LAST_SECOND) if seconds > 0 else 0.0


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(_bounded(seconds), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _instant(seconds: float) -> str:
    """Return an instant as it goes into an id."""
    return f"{seconds:.6f}"
