"""Reservations as they stand in Faktory's ``working`` set."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from exporter.faktory.times import Instant
from exporter.model import MAX_NAME, Reservation, label_value

MAX_ID: Final = 257
"""Where ids of jobs and workers are cut, in characters: one more than those of workers that are ever asked for have."""

_WRAPPER: Final = "ActiveJob::QueueAdapters::FaktoryAdapter::JobWrapper"
_MAILERS: Final = frozenset({"ActionMailer::DeliveryJob", "ActionMailer::MailDeliveryJob"})
_YEAR_10000: Final = 253402300800.0
_MAX_SHARED: Final = 10_000


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


def decode_reservation(member: bytes, expires_at: float, shared: Shared) -> Reservation:
    """Return the reservation that a member of ``working`` describes; ``expires_at`` is its score.

    The score is the true expiry: an extended reservation keeps its old text. Job types are unwrapped as Faktory's Web
    UI does: of a Rails job the class that is wrapped, of a mail the mailer and its method.

    Raises:
        ValueError: It is not JSON, lacks a field, or its times are absurd. The text holds nothing of the member.
    """
    try:
        found = _decode(member)
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
        job.jid[:MAX_ID], shared.id(found.wid), shared.label(job.queue), shared.label(jobtype), reserved_at, expires_at
    )


class _Job(msgspec.Struct, gc=False):
    jid: str
    queue: str
    jobtype: str


class Member(msgspec.Struct, gc=False):
    """What is read of an entry."""

    job: _Job
    reserved_at: Instant
    wid: str


class _WrappedJob(msgspec.Struct):
    custom: dict[str, Any] | None = None
    args: list[Any] | None = None


class _WrappedMember(msgspec.Struct):
    job: _WrappedJob


_MEMBER = msgspec.json.Decoder(Member)
_WRAPPED = msgspec.json.Decoder(_WrappedMember)


def _decode(member: bytes) -> Member:
    try:
        return _MEMBER.decode(member)
    except UnicodeDecodeError:
        return _MEMBER.decode(_readable(member))


def _readable(member: bytes) -> bytes:
    return member.decode("utf-8", "replace").encode()


def _unwrapped(member: bytes) -> str | None:
    try:
        job = _WRAPPED.decode(_readable(member)).job
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
