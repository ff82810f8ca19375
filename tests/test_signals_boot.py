"""When the server is known to have been restarted, and when its list of workers is trusted."""

from __future__ import annotations

from exporter.model import BootVerdict, Details, Health, Observation
from exporter.signals.boot import SETTLING, BootMemory, BootSignal

NOW = 1_700_000_000.0


def seen(
    at: float, commands: int | None = 100, *, uptime: float | None = None, interrupted: bool = False
) -> Observation:
    return Observation(
        now=NOW + at,
        reached=True,
        interrupted=interrupted,
        health=None if commands is None else Health("1.10.0", "oss", 1, commands),
        details=None if uptime is None else Details(asked_at=NOW + at, uptime=uptime),
    )


def verdicts(*observations: Observation, memory: BootMemory | None = None) -> list[BootVerdict]:
    signal = BootSignal(memory)
    return [signal.advance(observation) for observation in observations]


def test_a_command_count_that_goes_back_is_a_restart() -> None:
    assert [it.restarts for it in verdicts(seen(0, 100), seen(5, 200), seen(10, 3), seen(15, 9))] == [0, 0, 1, 1]


def test_an_uptime_that_goes_back_is_the_same_restart() -> None:
    got = verdicts(seen(0, 100, uptime=500), seen(60, 3, interrupted=True), seen(70, 9, uptime=12))
    assert [it.restarts for it in got] == [0, 1, 1]


def test_a_restart_hidden_by_many_commands_is_seen_by_a_start_that_moved_while_contact_was_lost() -> None:
    got = verdicts(seen(0, 100, uptime=10), seen(60, 900, interrupted=True), seen(70, 999, uptime=40))
    assert got[-1].restarts == 1


def test_a_clock_that_is_set_is_no_restart() -> None:
    got = verdicts(seen(0, 100, uptime=500), seen(3660, 200, uptime=560))
    assert got[-1].restarts == 0


def test_the_start_does_not_tremble_with_the_seconds_that_uptime_is_told_in() -> None:
    got = verdicts(*(seen(60 * n + 0.9 * (n % 2), 100 + n, uptime=500 + 60 * n) for n in range(10)))
    assert {it.started_at for it in got} == {NOW - 500}


def test_the_start_is_unknown_after_a_restart_until_the_server_tells() -> None:
    got = verdicts(seen(0, 100, uptime=500), seen(5, 1), seen(60, 9, uptime=55))
    assert [it.started_at for it in got] == [NOW - 500, None, NOW + 5]


def test_an_old_server_is_trusted_as_soon_as_it_tells_its_uptime() -> None:
    assert [it.settled for it in verdicts(seen(0), seen(30, uptime=3600))] == [False, True]


def test_a_young_server_is_trusted_when_it_has_settled() -> None:
    got = verdicts(seen(0, uptime=10), seen(SETTLING - 11), seen(SETTLING - 10))
    assert [it.settled for it in got] == [False, False, True]


def test_a_server_that_never_tells_is_trusted_when_it_was_watched_for_as_long() -> None:
    assert [it.settled for it in verdicts(seen(0), seen(SETTLING - 1), seen(SETTLING))] == [False, False, True]


def test_lost_contact_takes_the_trust_away_until_it_is_known_that_nothing_happened() -> None:
    got = verdicts(seen(0, 100, uptime=3600), seen(5, 200, interrupted=True), seen(60, 300, uptime=3660))
    assert [it.settled for it in got] == [True, False, True]


def test_a_restart_while_forewarn_was_away_is_counted() -> None:
    got = verdicts(seen(0, 5), memory=BootMemory(restarts=2, started_at=NOW - 900, commands=1000, uptime=800))
    assert got[-1].restarts == 3


def test_unknown_health_and_details_change_nothing() -> None:
    got = verdicts(seen(0, 100, uptime=500), seen(5, None), seen(10, 101))
    assert [it.restarts for it in got] == [0, 0, 0]
