"""Reservations as they stand in Faktory's ``working`` set."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec

from exporter.faktory.times import Instant
from exporter.model import MAX_NAME, JobFacts, Reservation, label_value

MAX_ID: Final = 257
"""Where ids of jobs and workers are cut, in characters: one more than those of workers that are ever asked for have."""

_WRAPPER: Final = "ActiveJob::QueueAdapters::FaktoryAdapter::JobWrapper"
_MAILERS: Final = frozenset({"ActionMailer::DeliveryJob", "ActionMailer::MailDeliveryJob"})
_YEAR_10000: Final = 253402300800.0
_MAX_SHARED: Final = 10_000

MAX_TRACESTATE: Final = 512
"""Longest ``tracestate`` that is taken over, in characters: the least that W3C Trace Context asks to be passed on."""

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACEPARENT_LENGTH: Final = 55
_PRINTABLE: Final = re.compile(rf"[ -~]{{1,{MAX_TRACESTATE}}}")

T = TypeVar("T")


class Shared:
    """Gives one string object for each name or id, however often it is read. Bounded: hostile ones do not pile up."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    def label(self, name: str) -> str:
        """Return ``name`` as it may stand in a label."""
        found = self._labels.get(name)
        if found is not None:
            return found
        label = label_value(name)
        if len(name) <= MAX_NAME:
            if len(self._labels) >= _MAX_SHARED:
                self._labels.clear()
            self._labels[name] = label
        return label

    def id(self, text: str) -> str:
        """Return ``text`` as it is, but for its length."""
        if len(self._ids) >= _MAX_SHARED:
            self._ids.clear()
        text = text[:MAX_ID]
        return self._ids.setdefault(text, text)


def decode_reservation(member: bytes, expires_at: float, shared: Shared, *, facts: bool = False) -> Reservation:
    """Return the reservation that a member of ``working`` describes; ``expires_at`` is its score.

    The score is the true expiry: an extended reservation keeps its old text. Job types are unwrapped as Faktory's Web
    UI does: of a Rails job the class that is wrapped, of a mail the mailer and its method. With ``facts`` it carries
    the job's own too; one of them that is malformed is left out, alone.

    Raises:
        ValueError: It is not JSON, lacks a field, or its times are absurd. The text holds nothing of the member.
    """
    try:
        found: Member | _FullMember = _decode_full(member) if facts else _decode(member)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)[:160]) from None
    job = found.job
    reserved_at = found.reserved_at.timestamp()
    if not 0 < reserved_at < expires_at < _YEAR_10000:
        raise ValueError("its times are absurd: it must be reserved after 1970 and before it expires")
    jobtype = job.jobtype
    if jobtype == _WRAPPER:
        jobtype = _unwrapped(member) or jobtype
    # Positional: by name it takes 0.3 us more, and there may be 100,000.
    return Reservation(
        job.jid[:MAX_ID],
        shared.id(found.wid),
        shared.label(job.queue),
        shared.label(jobtype),
        reserved_at,
        expires_at,
        _job_facts(job, reserved_at) if isinstance(job, _FullJob) else None,
    )


def parse_traceparent(text: str) -> str | None:
    """Return a well-formed ``traceparent`` of W3C Trace Context, of a later version as far as it is known; else None.

    The standard allows lower case only, no ids of zeros, and no version ``ff``.
    """
    known, rest = text[:_TRACEPARENT_LENGTH], text[_TRACEPARENT_LENGTH : _TRACEPARENT_LENGTH + 1]
    if _TRACEPARENT.fullmatch(known) is None or not (not rest or (rest == "-" and known[:2] != "00")):
        return None
    return known


def readable(member: bytes) -> bytes:
    """Return an entry whose text is no valid UTF-8 with that replaced."""
    return member.decode("utf-8", "replace").encode()


_Number = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
_ABSENT: Final = msgspec.Raw(b"null")


class _Job(msgspec.Struct, gc=False):
    jid: str
    queue: str
    jobtype: str


class Member(msgspec.Struct, gc=False):
    """What is read of an entry."""

    job: _Job
    reserved_at: Instant
    wid: str


class _Failure(msgspec.Struct, gc=False):
    retry_count: _Number


class _Custom(msgspec.Struct, gc=False):
    traceparent: str | None = None
    tracestate: str | None = None


class _FullJob(msgspec.Struct, gc=False):
    jid: str
    queue: str
    jobtype: str
    enqueued_at: Instant | None = None
    failure: _Failure | None = None
    retry: _Number | None = None
    custom: _Custom | None = None


class _FullMember(msgspec.Struct, gc=False):
    """What is read of an entry where the job's own facts are wanted."""

    job: _FullJob
    reserved_at: Instant
    wid: str


class _LooseCustom(msgspec.Struct):
    traceparent: msgspec.Raw = _ABSENT
    tracestate: msgspec.Raw = _ABSENT


class _LooseJob(msgspec.Struct):
    """The same facts of a job, each of them perhaps malformed."""

    enqueued_at: msgspec.Raw = _ABSENT
    failure: msgspec.Raw = _ABSENT
    retry: msgspec.Raw = _ABSENT
    custom: msgspec.Raw = _ABSENT


class _LooseMember(msgspec.Struct):
    job: _LooseJob


class _WrappedJob(msgspec.Struct):
    custom: dict[str, Any] | None = None
    args: list[Any] | None = None


class _WrappedMember(msgspec.Struct):
    job: _WrappedJob


_MEMBER = msgspec.json.Decoder(Member)
_FULL_MEMBER = msgspec.json.Decoder(_FullMember)
_LOOSE = msgspec.json.Decoder(_LooseMember)
_LOOSE_CUSTOM = msgspec.json.Decoder(_LooseCustom)
_INSTANT = msgspec.json.Decoder(Instant)
_FAILURE = msgspec.json.Decoder(_Failure)
_NUMBER = msgspec.json.Decoder(_Number)
_TEXT = msgspec.json.Decoder(str)
_WRAPPED = msgspec.json.Decoder(_WrappedMember)


def _decode(member: bytes) -> Member:
    try:
        return _MEMBER.decode(member)
    except UnicodeDecodeError:
        return _MEMBER.decode(readable(member))


def _decode_full(member: bytes) -> _FullMember:
    try:
        return _FULL_MEMBER.decode(member)
    except (UnicodeDecodeError, msgspec.ValidationError):
        return _decode_loose(readable(member))


def _decode_loose(member: bytes) -> _FullMember:
    """Take an entry apart in which something is malformed: what is needed as it must be, each other fact if it can."""
    needed = _MEMBER.decode(member)
    loose = _LOOSE.decode(member).job
    custom = _fact(_LOOSE_CUSTOM, loose.custom) or _LooseCustom()
    job = _FullJob(
        jid=needed.job.jid,
        queue=needed.job.queue,
        jobtype=needed.job.jobtype,
        enqueued_at=_fact(_INSTANT, loose.enqueued_at),
        failure=_fact(_FAILURE, loose.failure),
        retry=_fact(_NUMBER, loose.retry),
        custom=_Custom(_fact(_TEXT, custom.traceparent), _fact(_TEXT, custom.tracestate)),
    )
    return _FullMember(job, needed.reserved_at, needed.wid)


def _fact(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw) -> T | None:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _job_facts(job: _FullJob, reserved_at: float) -> JobFacts:
    enqueued_at = None if job.enqueued_at is None else job.enqueued_at.timestamp()
    if enqueued_at is not None and not 0 < enqueued_at <= reserved_at:
        enqueued_at = None
    failures = 0 if job.failure is None else job.failure.retry_count + 1
    custom = job.custom
    if custom is None or custom.traceparent is None:
        return JobFacts(enqueued_at, failures, job.retry)
    traceparent, tracestate = parse_traceparent(custom.traceparent), custom.tracestate
    if traceparent is None or tracestate is None or _PRINTABLE.fullmatch(tracestate) is None:
        tracestate = None
    return JobFacts(enqueued_at, failures, job.retry, traceparent, tracestate)


def _unwrapped(member: bytes) -> str | None:
    try:
        job = _WRAPPED.decode(readable(member)).job
    except (msgspec.MsgspecError, RecursionError):
        return None
    wrapped = (job.custom or {}).get("wrapped")
    if not isinstance(wrapped, str):
        return None
    if wrapped in _MAILERS and job.args and isinstance(job.args[0], dict):
        match job.args[0].get("arguments"):
            case [str(mailer), str(method), *_]:
                return f"{mailer}#{method}"
    return wrapped
