"""What a job went through, as the spans that a collector gets: read back from the wire's own bytes."""

from __future__ import annotations

import hashlib
import json
import re
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from exporter import __version__, trace_ids
from exporter.faktory.working import Shared, decode_reservation
from exporter.model import (
    CRASH_KINDS,
    MAX_ERROR,
    MAX_NAME,
    CollectorRun,
    CollectorTotals,
    CrashReason,
    Execution,
    Failure,
    Frame,
    Incident,
    IncidentKind,
    JobFacts,
    Orphaned,
    Outcome,
    Reason,
    Reservation,
    Restart,
    Told,
    WorkerCrash,
)
from exporter.outputs import traces
from tests import snapshots

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "traces.md"

AT: Final = 1_763_712_000.123456
"""When the job was reserved."""
NS: Final = 1_763_712_000_123_456_000
SECOND: Final = 1_000_000_000

TRACED: Final = traces.Traced("faktory", "faktory", "10.0.0.7", 7419)
FACTS: Final = JobFacts(enqueued_at=AT - 3, failures=1)
JOB: Final = Reservation("d4b0c7e2a1f3", "w-1", "mail", "SendMail", AT, AT + 1800, FACTS)
PRODUCER: Final = JobFacts(
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate="vendor=a1,other=b2"
)

# The contract: whoever computes these from a job's id finds its trace. See "The ids" in docs/traces.md.
JOB_TRACE: Final = "3a561b8b8dda5e959d619e39feea391e"
PROCESS_SPAN: Final = "10051a31c0e788e5"
WAIT_SPAN: Final = "1eca35446ddb2d17"


def execution(outcome: Outcome | None = Outcome.FINISHED, job: JobFacts | None = FACTS, **more: Any) -> Execution:
    return Execution(msgspec.structs.replace(JOB, job=job), outcome, AT + 12, 5.0, **more)


def wire(*told: Told, parent: bool = False, traced: traces.Traced = TRACED) -> list[Span]:
    """The spans as a collector reads them."""
    batch = [span for each in told for span in traces.spans(traced, each, parent=parent)]
    return decoded(traces.encode(batch))


def decoded(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    return list(scope.spans)


def attributes(holder: Any) -> dict[str, Any]:
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in holder.attributes}


def links(span: Span) -> dict[str, Span.Link]:
    return {attributes(it)["messaging.faktory.link"]: it for it in span.links}


# --- one execution --------------------------------------------------------------------------------------------------


def test_an_execution_is_a_consumer_span_from_its_reservation_to_its_end() -> None:
    process, _ = wire(execution())
    assert (process.name, process.kind) == ("process mail", 5)
    assert (process.start_time_unix_nano, process.end_time_unix_nano) == (NS, NS + 12 * SECOND)
    assert process.parent_span_id == b""
    assert attributes(process) == {
        "messaging.system": "faktory",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": "d4b0c7e2a1f3",
        "messaging.client.id": "w-1",
        "messaging.faktory.job_type": "SendMail",
        "messaging.faktory.attempt": 2,
        "messaging.faktory.outcome": "finished",
        "messaging.faktory.reserved_for": 1800.0,
        "messaging.faktory.end_precision": "poll",
        "messaging.faktory.end_uncertainty": 5.0,
        "server.address": "10.0.0.7",
        "server.port": 7419,
        "forewarn.server": "faktory",
        "forewarn.observed": True,
    }


def test_a_finished_execution_has_no_status_for_only_its_worker_knows_that_it_did_well() -> None:
    process, _ = wire(execution())
    assert process.status == Status()


def test_the_wait_in_the_queue_is_a_child_that_ends_where_the_execution_begins() -> None:
    process, wait = wire(execution())
    assert (wait.name, wait.kind) == ("wait mail", 1)
    assert (wait.trace_id, wait.parent_span_id) == (process.trace_id, process.span_id)
    assert (wait.start_time_unix_nano, wait.end_time_unix_nano) == (NS - 3 * SECOND, NS)
    assert attributes(wait)["messaging.operation.name"] == "wait"
    assert attributes(wait)["messaging.message.id"] == "d4b0c7e2a1f3"


@pytest.mark.parametrize(
    "facts",
    [
        None,
        JobFacts(),
        JobFacts(enqueued_at=AT + 0.001),
        JobFacts(enqueued_at=-62135596800.0),
        JobFacts(enqueued_at=AT - 2 * traces.MAX_WAIT),
    ],
    ids=["nothing known", "time not known", "after the reservation", "year 1", "two years ago"],
)
def test_a_wait_that_is_not_known_or_cannot_be_true_is_left_out(facts: JobFacts | None) -> None:
    assert [it.name for it in wire(execution(job=facts))] == ["process mail"]


def test_what_is_not_known_is_not_set() -> None:
    (process,) = wire(execution(None, None), traced=traces.Traced("faktory", "faktory"))
    told = attributes(process)
    assert not {"messaging.faktory.outcome", "messaging.faktory.attempt", "error.type", "server.address"} & set(told)
    assert process.status == Status()
    assert not process.events
    assert not process.links


def test_an_end_that_the_server_tells_is_marked_as_exact() -> None:
    process, _ = wire(msgspec.structs.replace(execution(), uncertainty=0.0))
    assert attributes(process)["messaging.faktory.end_precision"] == "exact"
    assert "messaging.faktory.end_uncertainty" not in attributes(process)


def test_a_failed_execution_tells_the_error_as_status_and_as_exception() -> None:
    process, _ = wire(execution(Outcome.FAILED, error_type="RuntimeError", error="no such mailbox", dead=True))
    assert process.status == Status(code=Status.STATUS_CODE_ERROR, message="RuntimeError: no such mailbox")
    assert attributes(process)["error.type"] == "RuntimeError"
    assert attributes(process)["messaging.faktory.outcome"] == "failed"
    assert attributes(process)["messaging.faktory.last_attempt"] is True
    (event,) = process.events
    assert (event.name, event.time_unix_nano) == ("exception", NS + 12 * SECOND)
    assert attributes(event) == {"exception.type": "RuntimeError", "exception.message": "no such mailbox"}


def test_a_failure_without_a_text_is_an_error_of_a_type_that_is_not_known() -> None:
    process, _ = wire(execution(Outcome.FAILED))
    assert process.status == Status(code=Status.STATUS_CODE_ERROR, message="the job failed")
    assert attributes(process)["error.type"] == "_OTHER"
    assert not process.events


def test_an_expired_execution_is_an_error_of_its_own_kind() -> None:
    process, _ = wire(execution(Outcome.EXPIRED))
    assert process.status.code == Status.STATUS_CODE_ERROR
    assert attributes(process)["error.type"] == "reservation_expired"
    assert attributes(process)["messaging.faktory.outcome"] == "expired"


@pytest.mark.parametrize(
    ("reason", "error_type"), [(CrashReason.VANISHED, "worker_vanished"), (CrashReason.HUNG, "worker_hung")]
)
def test_a_crashed_execution_tells_the_crash_as_an_event_where_the_worker_was_gone(
    reason: CrashReason, error_type: str
) -> None:
    process, _ = wire(execution(Outcome.CRASHED, crash=reason, found_at=AT + 20))
    assert process.status == Status(code=Status.STATUS_CODE_ERROR, message=f"the worker {reason}")
    assert attributes(process)["error.type"] == error_type
    (event,) = process.events
    assert (event.name, event.time_unix_nano) == ("worker crashed", NS + 12 * SECOND)
    assert attributes(event) == {
        "messaging.client.id": "w-1",
        "messaging.faktory.crash_reason": str(reason),
        "messaging.faktory.found_at": "2025-11-21T08:00:20.123Z",
    }


# --- from one trace to another --------------------------------------------------------------------------------------


def test_a_retry_links_to_the_attempt_before_it_in_the_same_trace() -> None:
    first, *_ = wire(execution(Outcome.FAILED))
    again = execution(previous=AT)
    again = msgspec.structs.replace(again, reservation=msgspec.structs.replace(JOB, reserved_at=AT + 60))
    second, *_ = wire(again)
    assert second.span_id != first.span_id
    link = links(second)["previous_attempt"]
    assert (link.trace_id, link.span_id) == (first.trace_id, first.span_id)
    assert second.trace_id == first.trace_id


def test_the_producers_span_is_a_link_and_keeps_its_tracestate() -> None:
    (process,) = wire(execution(job=PRODUCER))
    link = links(process)["producer"]
    assert link.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert link.span_id.hex() == "b7ad6b7169203331"
    assert link.trace_state == "vendor=a1,other=b2"
    assert link.flags & 0x300 == 0x300  # known to be remote
    assert process.parent_span_id == b""
    assert process.trace_id.hex() == trace_ids.job_trace("faktory", JOB.jid)


def test_as_a_child_an_execution_stands_in_its_producers_trace_and_does_not_link_to_it() -> None:
    told = execution(job=msgspec.structs.replace(PRODUCER, enqueued_at=AT - 3))
    process, wait = wire(told, parent=True)
    assert process.trace_id.hex() == wait.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert process.parent_span_id.hex() == "b7ad6b7169203331"
    assert process.span_id.hex() == trace_ids.process_span("faktory", JOB.jid, AT)
    assert process.trace_state == wait.trace_state == "vendor=a1,other=b2"
    assert not process.links


def test_as_a_child_a_retry_links_to_the_attempt_before_it_in_the_producers_trace() -> None:
    first, *_ = wire(execution(Outcome.FAILED, job=PRODUCER), parent=True)
    again = execution(job=PRODUCER, previous=AT)
    again = msgspec.structs.replace(again, reservation=msgspec.structs.replace(again.reservation, reserved_at=AT + 60))
    second, *_ = wire(again, parent=True)
    link = links(second)["previous_attempt"]
    assert (link.trace_id, link.span_id) == (first.trace_id, first.span_id)


def test_a_job_without_a_producer_has_its_own_trace_even_where_children_are_wanted() -> None:
    process, *_ = wire(execution(), parent=True)
    assert process.trace_id.hex() == trace_ids.job_trace("faktory", JOB.jid)
    assert process.parent_span_id == b""


@pytest.mark.parametrize("parent", [False, True])
@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
    ],
)
def test_a_traceparent_that_is_none_is_as_if_it_were_not_there(traceparent: str, *, parent: bool) -> None:
    assert wire(execution(job=JobFacts(traceparent=traceparent)), parent=parent) == wire(execution(job=JobFacts()))


@pytest.mark.parametrize(
    "tracestate",
    [
        "no member",
        "a=1,a=2",
        "a=1,UPPER=1",
        "a=\x7f",
        "a=é",
        ",".join(f"a{number}=1" for number in range(33)),
        "a=" + "x" * 200 + ",b=" + "x" * 200 + ",c=" + "x" * 200,
        "a=\ud800",
    ],
)
def test_a_tracestate_that_is_none_is_left_out_and_never_logged(
    tracestate: str, caplog: pytest.LogCaptureFixture
) -> None:
    facts = msgspec.structs.replace(PRODUCER, tracestate=tracestate)
    (process,) = wire(execution(job=facts))
    assert links(process)["producer"].trace_state == ""
    assert not caplog.records


# --- crashes, restarts ----------------------------------------------------------------------------------------------


def crash(orphans: int = 2, told: int = 2) -> WorkerCrash:
    some = [msgspec.structs.replace(JOB, jid=f"job-{number}") for number in range(told)]
    return WorkerCrash("w-1", CrashReason.VANISHED, AT + 7, AT + 12, AT + 20, orphans, tuple(some))


def test_a_crash_of_a_worker_is_a_span_between_its_last_life_and_its_absence() -> None:
    (span,) = wire(crash())
    assert (span.name, span.kind) == ("worker crash", 1)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (NS + 7 * SECOND, NS + 12 * SECOND)
    assert span.status == Status(code=Status.STATUS_CODE_ERROR, message="the worker vanished while it held jobs")
    assert attributes(span) == {
        "messaging.system": "faktory",
        "messaging.client.id": "w-1",
        "messaging.faktory.crash_reason": "vanished",
        "messaging.faktory.found_at": "2025-11-21T08:00:20.123Z",
        "messaging.faktory.orphaned_jobs": 2,
        "error.type": "worker_vanished",
        "server.address": "10.0.0.7",
        "server.port": 7419,
        "forewarn.server": "faktory",
        "forewarn.observed": True,
    }


@pytest.mark.parametrize("parent", [False, True])
def test_a_crash_links_to_the_executions_that_it_ended_and_they_to_it(*, parent: bool) -> None:
    told = execution(Outcome.CRASHED, job=PRODUCER, crash=CrashReason.VANISHED, found_at=AT + 20)
    process, span = wire(
        told,
        WorkerCrash("w-1", CrashReason.VANISHED, AT + 7, AT + 12, AT + 20, 1, (told.reservation,)),
        parent=parent,
    )
    (there,) = span.links
    assert (there.trace_id, there.span_id) == (process.trace_id, process.span_id)
    assert attributes(there) == {"messaging.faktory.link": "orphaned_job", "messaging.message.id": JOB.jid}
    back = links(process)["crash"]
    assert (back.trace_id, back.span_id) == (span.trace_id, span.span_id)


def test_a_crash_links_to_a_bounded_number_of_orphans_and_tells_how_many_there_are() -> None:
    (span,) = wire(crash(orphans=1000, told=200))
    assert len(span.links) == traces.MAX_LINKS
    assert attributes(span)["messaging.faktory.orphaned_jobs"] == 1000


def test_the_time_as_an_orphan_is_a_child_of_the_crashed_execution() -> None:
    process, _ = wire(execution(Outcome.CRASHED))
    (span,) = wire(Orphaned(JOB, AT + 12, AT + 1805, 0.0))
    assert (span.name, span.kind) == ("orphaned mail", 1)
    assert (span.trace_id, span.parent_span_id) == (process.trace_id, process.span_id)
    assert span.start_time_unix_nano == process.end_time_unix_nano
    assert span.end_time_unix_nano == NS + 1805 * SECOND
    assert attributes(span)["messaging.operation.name"] == "orphaned"
    assert attributes(span)["messaging.faktory.end_precision"] == "exact"


def test_a_restart_of_the_server_is_a_span_between_the_last_sight_of_the_old_and_the_first_of_the_new() -> None:
    (span,) = wire(Restart(AT, AT + 8))
    assert (span.name, span.kind) == ("server restart", 1)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (NS, NS + 8 * SECOND)
    assert span.status == Status()  # it may have been wanted
    assert attributes(span) == {
        "messaging.system": "faktory",
        "server.address": "10.0.0.7",
        "server.port": 7419,
        "forewarn.server": "faktory",
        "forewarn.observed": True,
    }


# --- why the process died -------------------------------------------------------------------------------------------

BUSY: Final = Incident(
    IncidentKind.CONCURRENT_MAP,
    "concurrent map read and map write",
    AT,
    (
        Frame("github.com/contribsys/faktory/webui.busyWorkers", "/build/webui/helpers.go", 227),
        Frame("github.com/contribsys/faktory/webui.ego_busy.func1", "/build/webui/busy.ego.go"),
        Frame("main.main"),
    ),
    {"running": 1, "IO wait": 3},
    {"github.com/contribsys/faktory": "v1.10.0"},
    "0123456789ab",
    "faktory-busy-page",
    "Keep /busy closed.",
)


def test_a_crash_of_the_server_is_a_span_with_its_stack() -> None:
    (span,) = wire(BUSY)
    assert (span.name, span.kind, span.parent_span_id) == ("process crash", 1, b"")
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (NS, NS)
    assert span.status == Status(code=Status.STATUS_CODE_ERROR, message="concurrent map read and map write")
    assert attributes(span) == {
        "messaging.system": "faktory",
        "error.type": "concurrent-map",
        "forewarn.incident.component": "webui.busyWorkers",
        "forewarn.incident.known": "faktory-busy-page",
        "forewarn.incident.hint": "Keep /busy closed.",
        "forewarn.incident.group": "0123456789ab",
        "forewarn.incident.goroutines": 4,
        "server.address": "10.0.0.7",
        "server.port": 7419,
        "forewarn.server": "faktory",
        "forewarn.observed": True,
    }
    (event,) = span.events
    assert (event.name, event.time_unix_nano) == ("exception", NS)
    assert attributes(event) == {
        "exception.type": "concurrent-map",
        "exception.message": "concurrent map read and map write",
        "exception.stacktrace": (
            "github.com/contribsys/faktory/webui.busyWorkers\n\t/build/webui/helpers.go:227\n"
            "github.com/contribsys/faktory/webui.ego_busy.func1\n\t/build/webui/busy.ego.go\n"
            "main.main"
        ),
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (IncidentKind.DATA_RACE, "data race"),
        (IncidentKind.RECOVERED_PANIC, "recovered panic"),
        *[(kind, "process crash") for kind in CRASH_KINDS],
    ],
)
def test_what_the_server_survived_goes_by_another_name(kind: IncidentKind, name: str) -> None:
    (span,) = wire(msgspec.structs.replace(BUSY, kind=kind))
    assert (span.name, attributes(span)["error.type"]) == (name, kind.value)


def test_an_end_that_nothing_explains_has_no_stack() -> None:
    (span,) = wire(Incident(IncidentKind.UNEXPLAINED, "told", AT))
    assert not {key for key in attributes(span) if key.startswith("forewarn.incident.")}
    (event,) = span.events
    assert attributes(event) == {"exception.type": "unexplained", "exception.message": "told"}


def test_of_a_stack_the_innermost_calls_are_told() -> None:
    frames = tuple(Frame(f"main.f{number}", "f.go", number) for number in range(500))
    (span,) = wire(msgspec.structs.replace(BUSY, frames=frames))
    told = attributes(span.events[0])["exception.stacktrace"].splitlines()
    assert len(told) == 2 * traces.MAX_FRAMES
    assert told[:2] == ["main.f0", "\tf.go:0"]


def test_alike_incidents_at_other_times_and_others_at_the_same_are_other_spans() -> None:
    others = (
        msgspec.structs.replace(BUSY, at=AT + 1),
        msgspec.structs.replace(BUSY, group="ba9876543210"),
        msgspec.structs.replace(BUSY, kind=IncidentKind.DATA_RACE),
    )
    spans = wire(BUSY, *others)
    assert len({it.span_id for it in spans}) == len({it.trace_id for it in spans}) == 4
    assert wire(BUSY) == wire(BUSY)


# --- polls ----------------------------------------------------------------------------------------------------------


def polled(*runs: CollectorRun, reached: bool = True) -> list[Span]:
    """The spans of a poll that took 0.5 s, taken at 100 of the monotonic clock."""
    snapshot = snapshots.full()
    snapshot = msgspec.structs.replace(
        snapshot,
        observation=msgspec.structs.replace(snapshot.observation, reached=reached),
        collectors=tuple(CollectorTotals(run, {}) for run in runs),
    )
    return decoded(traces.encode(traces.poll_spans(TRACED, snapshot, AT - 0.5, AT)))


def test_a_poll_is_a_span_with_a_child_for_each_of_its_parts() -> None:
    poll, health, store = polled(CollectorRun("health", 0.1, None, 99.5), CollectorRun("store", 0.3, None, 99.6))
    assert (poll.name, poll.kind) == ("poll faktory", 1)
    assert (poll.start_time_unix_nano, poll.end_time_unix_nano) == (NS - SECOND // 2, NS)
    assert poll.status == Status()
    assert attributes(poll) == {"forewarn.server": "faktory", "server.address": "10.0.0.7", "server.port": 7419}
    assert (store.name, store.kind) == ("store", 3)
    assert (store.trace_id, store.parent_span_id) == (poll.trace_id, poll.span_id)
    assert (store.start_time_unix_nano, store.end_time_unix_nano) == (NS - 400_000_000, NS - 100_000_000)
    assert attributes(store) == {"forewarn.server": "faktory", "forewarn.collector": "store"}
    assert health.span_id != store.span_id


def test_a_part_that_ran_in_an_earlier_poll_or_never_is_no_child() -> None:
    assert [it.name for it in polled(CollectorRun("old", 0.1, None, 50.0), CollectorRun("never", 0.0))] == [
        "poll faktory"
    ]


def test_a_part_that_failed_is_an_error_but_the_poll_is_not() -> None:
    poll, part = polled(CollectorRun("store", 0.3, Failure(Reason.TIMEOUT, "no answer within 2 s"), 99.6))
    assert poll.status == Status()
    assert part.status == Status(code=Status.STATUS_CODE_ERROR, message="no answer within 2 s")
    assert attributes(part)["error.type"] == "timeout"


def test_a_poll_that_did_not_reach_the_server_is_an_error() -> None:
    poll, _ = polled(CollectorRun("health", 0.3, Failure(Reason.UNREACHABLE, "refused"), 99.6), reached=False)
    assert poll.status == Status(code=Status.STATUS_CODE_ERROR, message="the server was not reached")
    assert attributes(poll)["error.type"] == "unreachable"


def test_a_part_stays_within_its_poll_whatever_its_clock_says() -> None:
    poll, part = polled(CollectorRun("store", 9.0, None, 99.4995))
    assert part.start_time_unix_nano == poll.start_time_unix_nano
    assert part.end_time_unix_nano == poll.end_time_unix_nano


@pytest.mark.parametrize(("ratio", "least", "most"), [(0.0, 0, 0), (0.1, 150, 250), (1.0, 2000, 2000)])
def test_of_all_polls_a_share_is_told(ratio: float, least: int, most: int) -> None:
    assert least <= sum(traces.polled("faktory", AT + 5 * number, ratio) for number in range(2000)) <= most


# --- ids ------------------------------------------------------------------------------------------------------------


def test_the_ids_are_a_contract_that_others_compute_alike() -> None:
    process, wait = wire(execution())
    assert process.trace_id.hex() == JOB_TRACE
    assert process.span_id.hex() == PROCESS_SPAN
    assert wait.span_id.hex() == WAIT_SPAN


def test_the_same_thing_seen_is_the_same_bytes_on_every_run() -> None:
    told: list[Told] = [
        execution(Outcome.CRASHED, job=PRODUCER, crash=CrashReason.HUNG, found_at=AT),
        crash(),
        Restart(AT, AT + 8),
        BUSY,
    ]
    here = hashlib.sha256(traces.encode([it for each in told for it in traces.spans(TRACED, each, parent=False)]))
    program = """
import hashlib, sys
from tests.test_traces import *
told = [
    execution(Outcome.CRASHED, job=PRODUCER, crash=CrashReason.HUNG, found_at=AT), crash(), Restart(AT, AT + 8), BUSY
]
batch = [it for each in told for it in traces.spans(TRACED, each, parent=False)]
print(hashlib.sha256(traces.encode(batch)).hexdigest())
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=DOCUMENT.parent.parent, capture_output=True, text=True)
    assert ran.stdout.strip() == here.hexdigest(), ran.stderr


def test_what_is_kept_of_one_server_never_gets_into_the_spans_of_another() -> None:
    for name in ("one", "two"):
        spans = wire(execution(), traced=traces.Traced(name, "faktory", f"{name}.example"))
        told = [(attributes(it)["forewarn.server"], attributes(it)["server.address"]) for it in spans]
        assert told == [(name, f"{name}.example")] * 2


def test_what_is_kept_of_names_is_bounded() -> None:
    for number in range(2 * traces.MAX_KEPT):
        job = msgspec.structs.replace(JOB, queue=f"queue-{number}", worker=f"w-{number}")
        traces.spans(TRACED, Orphaned(job, AT, AT + 1, 1.0), parent=False)
    kept = [it.cache_info() for it in vars(traces).values() if hasattr(it, "cache_info")]
    assert max(it.currsize for it in kept) == traces.MAX_KEPT


def test_no_two_kinds_of_span_share_an_id() -> None:
    told: list[Told] = [execution(Outcome.CRASHED), Orphaned(JOB, AT, AT + 1, 0.0), crash(), Restart(AT, AT + 8), BUSY]
    found = [it.span_id for it in wire(*told)] + [it.span_id for it in polled(CollectorRun("a", 0.1, None, 99.6))]
    assert len(set(found)) == len(found) == 8


# --- who tells ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_resource() -> Iterator[None]:
    traces.resource.cache_clear()
    yield
    traces.resource.cache_clear()


def test_the_resource_is_forewarn_in_its_version(fresh_resource: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    request = ExportTraceServiceRequest.FromString(traces.encode(traces.spans(TRACED, Restart(1, 2), parent=False)))
    (resource,) = request.resource_spans
    assert attributes(resource.resource) == {"service.name": "forewarn", "service.version": __version__}
    assert resource.scope_spans[0].scope.name == "forewarn"
    assert resource.scope_spans[0].schema_url == "https://opentelemetry.io/schemas/1.44.0"


def test_the_environment_may_say_otherwise_even_in_bytes_that_are_no_text(
    fresh_resource: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "night-watch")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,site=a\udcff")
    told = dict(traces.resource().attributes)
    assert told == {
        "service.name": "night-watch",
        "service.version": __version__,
        "deployment.environment.name": "prod",
        "site": "a?",
    }


def test_the_command_line_is_never_told_whatever_detectors_are_asked_for(
    fresh_resource: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process")
    assert not [key for key in traces.resource().attributes if key.startswith("process.")]


# --- anything -------------------------------------------------------------------------------------------------------

ANY_TEXT: Final = st.text(st.characters(exclude_categories=()), max_size=400) | st.sampled_from(
    ["", "\ud800", "x" * 500, "é\udfff" * 300, "\0"]
)
ANY_TIME: Final = st.floats() | st.floats(AT - 1000, AT + 1000)
ANY_NUMBER: Final = st.integers() | st.sampled_from([-(2**70), 2**70])
ANY_TRACEPARENT: Final = ANY_TEXT | st.from_regex(r"0[01]-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", fullmatch=True)
ANY_TRACESTATE: Final = ANY_TEXT | st.from_regex(r"([a-z]{1,3}=[a-z0-9]{1,9},){0,4}", fullmatch=True)
ANY_FACTS: Final = st.builds(
    JobFacts,
    enqueued_at=st.none() | ANY_TIME,
    failures=ANY_NUMBER,
    retry=st.none() | ANY_NUMBER,
    traceparent=st.none() | ANY_TRACEPARENT,
    tracestate=st.none() | ANY_TRACESTATE,
)
ANY_RESERVATION: Final = st.builds(
    Reservation,
    jid=ANY_TEXT,
    worker=ANY_TEXT,
    queue=ANY_TEXT,
    jobtype=ANY_TEXT,
    reserved_at=ANY_TIME,
    expires_at=ANY_TIME,
    job=st.none() | ANY_FACTS,
)
ANY_TOLD: Final[st.SearchStrategy[Told]] = st.one_of(
    st.builds(
        Execution,
        reservation=ANY_RESERVATION,
        outcome=st.none() | st.sampled_from(Outcome),
        ended_at=ANY_TIME,
        uncertainty=ANY_TIME,
        error_type=st.none() | ANY_TEXT,
        error=st.none() | ANY_TEXT,
        dead=st.booleans(),
        crash=st.none() | st.sampled_from(CrashReason),
        found_at=st.none() | ANY_TIME,
        previous=st.none() | ANY_TIME,
    ),
    st.builds(Orphaned, reservation=ANY_RESERVATION, since=ANY_TIME, until=ANY_TIME, uncertainty=ANY_TIME),
    st.builds(
        WorkerCrash,
        worker=ANY_TEXT,
        reason=st.sampled_from(CrashReason),
        lived_at=ANY_TIME,
        gone_at=ANY_TIME,
        found_at=ANY_TIME,
        orphaned_jobs=ANY_NUMBER,
        orphans=st.lists(ANY_RESERVATION, max_size=4).map(tuple),
    ),
    st.builds(Restart, since=ANY_TIME, until=ANY_TIME),
    st.builds(
        Incident,
        kind=st.sampled_from(IncidentKind),
        message=ANY_TEXT,
        at=st.none() | ANY_TIME,
        frames=st.lists(st.builds(Frame, ANY_TEXT, st.none() | ANY_TEXT, st.none() | ANY_NUMBER), max_size=40).map(
            tuple
        ),
        goroutines=st.dictionaries(ANY_TEXT, ANY_NUMBER, max_size=3),
        modules=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2),
        group=ANY_TEXT,
        known=st.none() | ANY_TEXT,
        hint=st.none() | ANY_TEXT,
    ),
)
ANY_TRACED: Final = st.builds(
    traces.Traced,
    name=ANY_TEXT,
    system=ANY_TEXT,
    address=st.none() | ANY_TEXT,
    port=st.none() | st.integers(1, 65535),
)


LONGEST: Final = {
    "exception.message": MAX_ERROR,
    "exception.stacktrace": traces.MAX_FRAMES * (2 * MAX_ERROR + len("\n\t:2147483647\n")),
    "forewarn.incident.hint": traces.MAX_HINT,
}
"""Characters of the texts that are longer than a name."""


def check(span: Span) -> None:
    """Whatever it was made of, it is one that a collector takes."""
    assert len(span.trace_id) == 16
    assert any(span.trace_id)
    assert len(span.span_id) == 8
    assert any(span.span_id)
    assert span.start_time_unix_nano <= span.end_time_unix_nano < 2**63
    assert 0 < len(span.name) <= len("orphaned ") + MAX_NAME
    assert len(span.status.message) <= MAX_ERROR
    assert len(span.trace_state) <= 512
    assert len(span.links) <= traces.MAX_LINKS
    for event in span.events:
        assert span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
    for holder in (span, *span.events, *span.links):
        for key, value in attributes(holder).items():
            assert not isinstance(value, float) or 0 < value < 1e10, key
            assert 0 < len(key) <= len("messaging.." + "end_uncertainty") + MAX_NAME
            assert not isinstance(value, str) or 0 < len(value) <= LONGEST.get(key, MAX_NAME), key


def sizes(span: Any) -> list[int]:
    """How many attributes a span and each of its parts has."""
    return [len(each.attributes or ()) for each in (span, *span.events, *span.links)]


@given(ANY_TRACED, st.lists(ANY_TOLD, min_size=1, max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_anything_seen_on_any_server_becomes_bounded_and_valid_spans(
    traced: traces.Traced, told: list[Told], parent: bool
) -> None:
    batches = [traces.spans(traced, each, parent=parent) for each in told]
    assert [len(batch) for batch in batches] == [traces.count(each) for each in told]
    body = traces.encode([span for batch in batches for span in batch])
    assert body == traces.encode([it for each in told for it in traces.spans(traced, each, parent=parent)])
    spans = decoded(body)
    # What the encoder cannot encode it leaves out, with no word but in the log.
    meant = [each for batch in batches for span in batch for each in sizes(span)]
    assert [each for span in spans for each in sizes(span)] == meant
    for span in spans:
        check(span)


@given(ANY_TEXT, ANY_TEXT)
@example("x" * 500, "y" * 500)
@example("\ud800", "\udfff")
@settings(deadline=None)
def test_any_text_of_an_error_is_told_in_at_most_200_valid_characters(error_type: str, error: str) -> None:
    told = execution(Outcome.FAILED, error_type=error_type, error=error)
    batch = traces.spans(TRACED, told, parent=False)
    process, _ = decoded(traces.encode(batch))
    check(process)
    assert sizes(process) == sizes(batch[0])  # the encoder leaves out what it cannot encode


@given(ANY_TRACED, st.lists(st.tuples(ANY_TEXT, ANY_TIME, st.floats(0, 99), ANY_TEXT), max_size=4), ANY_TIME, ANY_TIME)
@settings(max_examples=100, deadline=None)
def test_any_poll_becomes_bounded_and_valid_spans(
    traced: traces.Traced, runs: list[tuple[str, float, float, str]], started: float, ended: float
) -> None:
    totals = tuple(
        CollectorTotals(CollectorRun(name, seconds, Failure(Reason.SERVER, said), since), {})
        for name, since, seconds, said in runs
    )
    snapshot = msgspec.structs.replace(snapshots.empty(), collectors=totals)
    for span in decoded(traces.encode(traces.poll_spans(traced, snapshot, started, ended))):
        check(span)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(string.printable, max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=3),
    max_leaves=5,
)
MARKER: Final = "s3cr3t-argument"


def hidden(value: object) -> list[object]:
    """Some JSON value with a marker in it, in several ways."""
    return [MARKER, value, {MARKER: value, "in": [MARKER]}]


@given(
    JSON,
    st.sampled_from(["args", "custom", "custom.traceparent", "custom.tracestate", "failure.message", "unknown"]),
    st.sampled_from([None, *Outcome]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_no_argument_and_nothing_custom_of_a_job_gets_from_the_store_into_a_span(
    value: object, place: str, outcome: Outcome | None, parent: bool
) -> None:
    job: dict[str, Any] = {
        "jid": "d4b0c7e2a1f3",
        "queue": "mail",
        "jobtype": "SendMail",
        "enqueued_at": "2025-11-21T07:59:57Z",
        "args": hidden(value),
        "custom": {"traceparent": PRODUCER.traceparent, "tracestate": PRODUCER.tracestate, "user": hidden(value)},
        "failure": {"retry_count": 0, "message": MARKER, "errtype": MARKER, "backtrace": [MARKER]},
    }
    if place.startswith("custom."):
        job["custom"][place.removeprefix("custom.")] = f"{MARKER}!"
    elif place == "failure.message":
        job["failure"]["remaining"] = MARKER
    else:
        job[place] = hidden(value)
    member = json.dumps({"job": job, "reserved_at": "2025-11-21T08:00:00.123456Z", "wid": "w-1"}).encode()
    reservation = decode_reservation(member, AT + 1800, Shared(), facts=True)
    told = Execution(reservation, outcome, AT + 12, 5.0, crash=CrashReason.HUNG, previous=AT - 60)
    orphan = Orphaned(reservation, AT + 12, AT + 13, 0.0)
    worker = WorkerCrash("w-1", CrashReason.HUNG, AT, AT + 1, AT + 2, 1, (reservation,))
    batch = [span for each in (told, orphan, worker) for span in traces.spans(TRACED, each, parent=parent)]
    body = traces.encode(batch)
    assert b"SendMail" in body
    assert MARKER.encode() not in body


@given(ANY_TEXT, ANY_TEXT, st.sampled_from(IncidentKind))
@example("x" * 199 + MARKER, "main.f", IncidentKind.PANIC)
@settings(deadline=None)
def test_of_an_incident_200_characters_of_its_message_are_told_and_its_stack_without_arguments(
    message: str, function: str, kind: IncidentKind
) -> None:
    told = Incident(kind, message, AT, (Frame(function, "/src/f.go", 7),), modules={MARKER: MARKER})
    batch = traces.spans(TRACED, told, parent=False)
    body = traces.encode(batch)
    (span,) = decoded(body)
    check(span)
    assert MARKER.encode() not in body
    assert sizes(span) == sizes(batch[0])
    assert len(attributes(span.events[0]).get("exception.message", "")) <= MAX_ERROR


# --- the page -------------------------------------------------------------------------------------------------------


def emitted() -> set[str]:
    """The name of every attribute of every kind of span."""
    found = wire(
        execution(Outcome.FAILED, job=msgspec.structs.replace(PRODUCER, enqueued_at=AT), error_type="E", error="e"),
        execution(Outcome.CRASHED, crash=CrashReason.HUNG, found_at=AT, dead=True),
        Orphaned(JOB, AT, AT + 1, 1.0),
        crash(),
        Restart(AT, AT + 8),
        BUSY,
    ) + polled(CollectorRun("store", 0.3, Failure(Reason.TIMEOUT, "late"), 99.6), reached=False)
    holders = [each for span in found for each in (span, *span.events, *span.links)]
    return {key for holder in holders for key in attributes(holder)}


def test_the_page_tells_every_attribute_that_is_sent_and_no_other() -> None:
    text = DOCUMENT.read_text().split("## The ids")[0]
    named = set(re.findall(r"`((?:messaging|server|error|exception|forewarn)\.[a-z_.]+)`", text))
    assert named == emitted()


@pytest.mark.parametrize(("language", "command"), [("python", [sys.executable, "-"]), ("sh", ["sh", "-s"])])
def test_the_recipes_for_the_ids_give_the_ids(language: str, command: list[str]) -> None:
    blocks: Mapping[str, str] = dict(re.findall(r"```(python|sh)\n(.*?)```", section("The ids"), re.DOTALL))
    ran = subprocess.run(command, input=blocks[language], capture_output=True, text=True, timeout=30)
    assert ran.stdout.split() == [JOB_TRACE, PROCESS_SPAN], ran.stderr
    assert JOB_TRACE in section("The ids")
    assert PROCESS_SPAN in section("The ids")


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return str(found)
