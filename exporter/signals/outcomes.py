"""How an execution ended that left the working set: pure judgement, from all that is known one observation later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from exporter.model import JobFailure, Observation, Outcome, Reservation

SLACK = 2.0
"""Seconds by which an exact end may lie outside the two observations: the set is read a little after their instant."""


class Left(msgspec.Struct, frozen=True):
    """What left the working set between two observations, and the server's totals at the first of them."""

    since: float
    until: float
    processed: int | None
    failed: int | None
    gone: tuple[Reservation, ...]

    def expired(self, reservation: Reservation) -> bool:
        """Tell whether one of them may have left because its time ran out."""
        return reservation.expires_at <= self.until


def without(left: Left, reservations: Mapping[str, Reservation]) -> Left | None:
    """Return ``left`` without the executions that are among ``reservations``; ``None`` if none remains."""
    gone = tuple(it for it in left.gone if not holds(reservations, it.jid, it.reserved_at))
    return msgspec.structs.replace(left, gone=gone) if gone else None


def holds(reservations: Mapping[str, Reservation], jid: str, reserved_at: float) -> bool:
    """Tell whether an execution is among ``reservations``."""
    found = reservations.get(jid)
    return found is not None and found.reserved_at == reserved_at


def first(lefts: Iterable[Left], most: int) -> tuple[Left, ...]:
    """Return the first ``most`` reservations of ``lefts``."""
    kept = []
    for left in lefts:
        if most <= 0:
            break
        kept.append(msgspec.structs.replace(left, gone=left.gone[:most]))
        most -= len(left.gone)
    return tuple(kept)


def any_failed(left: Left, now: Observation) -> bool | None:
    """Tell whether any execution was counted as failed since before these left; ``None`` if that cannot be known.

    Each that ends is counted as processed. Where that total went back, or rose by less than what left, some were
    removed by hand, and what the server no longer keeps tells nothing of them.
    """
    if left.failed is None or now.failed is None or now.failed < left.failed:
        return None
    if left.processed is not None and now.processed is not None and now.processed - left.processed < len(left.gone):
        return None
    return now.failed > left.failed


def ended_how(
    reservation: Reservation,
    *,
    failures: bool | None,
    expired: bool,
    newest: Reservation,
    answers: Mapping[str, JobFailure | None],
) -> tuple[Outcome | None, JobFailure | None]:
    """Return the outcome, ``None`` if it cannot be known, and what the server keeps of a failure.

    One that did not fail and whose time had not run out has finished: that is not asked here.

    Args:
        reservation: What ended.
        failures: What :func:`any_failed` tells.
        expired: Whether it may have left because its time ran out.
        newest: The newest attempt of the same job, perhaps ``reservation`` itself.
        answers: The source's, by job id.
    """
    if newest is not reservation:
        # What the source finds may be of either attempt. That it has failed more often now is of this one.
        return Outcome.FAILED if not expired and _failed_since(reservation, newest) else None, None
    failure = answers.get(reservation.jid)
    if failure is not None:
        return Outcome.EXPIRED if failure.expired else Outcome.FAILED, failure
    if reservation.jid in answers and failures is not None:
        return Outcome.FINISHED, None
    return None, None


def ended_when(reservation: Reservation, left: Left, failure: JobFailure | None) -> tuple[float, float]:
    """Return when it ended at the latest, and by how many seconds it may have ended earlier."""
    at = None if failure is None else failure.at
    if at is not None and max(left.since - SLACK, reservation.reserved_at) <= at <= left.until + SLACK:
        return at, 0.0
    until = max(left.until, reservation.reserved_at)
    return until, until - min(until, max(left.since, reservation.reserved_at))


def _failed_since(reservation: Reservation, newest: Reservation) -> bool:
    before, after = reservation.job, newest.job
    return before is not None and after is not None and after.failures > before.failures
