"""How saturated throttles are."""

from __future__ import annotations

from exporter.model import Observation, Queue, Reservation, Scope, ThrottleLimit, ThrottleUse
from exporter.signals.groups import group
from exporter.signals.throttles import LONGEST_STEP, ThrottlesSignal

NOW = 1_700_000_000.0
CLUSTER = ThrottleLimit("mail", Scope.CLUSTER, 2)
WORKER = ThrottleLimit("mail", Scope.WORKER, 2)


def use(
    signal: ThrottlesSignal,
    at: float,
    *holders: str,
    limits: tuple[ThrottleLimit, ...] | None = (CLUSTER,),
    waiting: int = 0,
) -> dict[tuple[str, Scope], ThrottleUse] | None:
    reservations = {str(n): Reservation(str(n), it, "mail", "Send", NOW, NOW + 1800) for n, it in enumerate(holders)}
    observation = Observation(
        now=NOW + at, reached=True, throttles=limits, reservations=reservations, queues={"mail": Queue(jobs=waiting)}
    )
    throttles = signal.advance(observation, group(reservations)).throttles
    return None if throttles is None else dict(throttles)


def test_a_cluster_throttle_counts_the_jobs_of_its_queue_on_all_workers() -> None:
    told = use(ThrottlesSignal(10), 0, "a", "b", waiting=7)
    assert told == {("mail", Scope.CLUSTER): ThrottleUse(limit=2, in_use=2, waiting=7, saturated_seconds=0.0)}
    assert told["mail", Scope.CLUSTER].saturation == 1.0


def test_a_worker_throttle_tells_the_busiest_worker() -> None:
    told = use(ThrottlesSignal(10), 0, "a", "b", "b", "c", limits=(WORKER,))
    assert told is not None
    assert told["mail", Scope.WORKER].in_use == 2


def test_time_counts_as_saturated_if_the_poll_before_it_was() -> None:
    signal = ThrottlesSignal(10)
    seconds = []
    for at, holders in [(0, "a"), (5, "ab"), (10, "abc"), (15, "a"), (20, "ab")]:
        told = use(signal, at, *holders)
        assert told is not None
        seconds.append(told["mail", Scope.CLUSTER].saturated_seconds)
    assert seconds == [0, 0, 5, 10, 10]


def test_time_unseen_for_long_is_not_taken_for_saturated() -> None:
    signal = ThrottlesSignal(10)
    use(signal, 0, "a", "b")
    told = use(signal, LONGEST_STEP + 1, "a", "b")
    assert told is not None
    assert told["mail", Scope.CLUSTER].saturated_seconds == 0


def test_unknown_limits_are_no_throttles_but_unknown() -> None:
    assert use(ThrottlesSignal(10), 0, "a", limits=None) is None


def test_an_unread_working_set_leaves_the_use_unknown() -> None:
    observation = Observation(now=NOW, reached=True, throttles=(CLUSTER,))
    told = ThrottlesSignal(10).advance(observation, None).throttles
    assert told is not None
    assert (told["mail", Scope.CLUSTER].in_use, told["mail", Scope.CLUSTER].saturation) == (None, None)
    assert told["mail", Scope.CLUSTER].waiting is None


def test_nothing_waits_behind_a_throttle_on_a_queue_that_does_not_exist() -> None:
    told = use(ThrottlesSignal(10), 0, limits=(ThrottleLimit("gone", Scope.CLUSTER, 1),))
    assert told is not None
    assert told["gone", Scope.CLUSTER].waiting == 0


def test_a_limit_of_zero_has_no_saturation() -> None:
    told = use(ThrottlesSignal(10), 0, "a", limits=(ThrottleLimit("mail", Scope.CLUSTER, 0),))
    assert told is not None
    assert told["mail", Scope.CLUSTER].saturation is None


def test_saturated_time_survives_a_restart_of_forewarn() -> None:
    first = ThrottlesSignal(10)
    use(first, 0, "a", "b")
    use(first, 5, "a", "b")
    told = use(ThrottlesSignal(10, first.memory()), 20, "a")
    assert told is not None
    assert told["mail", Scope.CLUSTER].saturated_seconds == 5
