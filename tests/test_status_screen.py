"""A status as a terminal shows it: in any size, readable without colours, and safe whatever a name is."""

# ruff: noqa: E501 - lines as the terminal shows them

from __future__ import annotations

import io
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from exporter.model import CrashReason, Reservation, Scope, ThrottlesVerdict, ThrottleUse
from exporter.status.document import Level, ServerStatus, Status, Trend
from exporter.status.screen import Frame, clean, screen, sparkline
from tests.status_samples import NOW, Shelf, calm, connections, crashed, failing, observed, reservation, workers

WHOLE = Frame(None, None)


def status(*servers: ServerStatus, level: Level = Level.CALM) -> Status:
    return Status(version="1.2.3", generated_at=NOW, since=NOW, level=level, servers=servers)


def troubled(names: int = 3) -> Status:
    """Every kind of thing that there is to be shown, several times."""
    jobs = [reservation(f"j{number}", age=100.0 + number) for number in range(names)]
    shelf = Shelf(
        calm(),
        calm(
            observation=observed(reservations={it.jid: it for it in jobs}),
            connections=connections(1950),
            workers=workers(vanished=1, orphans=names, found=(crashed("w1", CrashReason.VANISHED, *jobs),)),
            throttles=ThrottlesVerdict({("mail", Scope.CLUSTER): ThrottleUse(4, 4, 9, 0.0)}),
            collectors=failing("info"),
        ),
    )
    return shelf.book.status()


def shown(of: Status, frame: Frame = WHOLE, **how: object) -> str:
    lines = screen(of, frame, source="http://127.0.0.1:9386", **how)  # type: ignore[arg-type]
    return "\n".join(line.plain for line in lines)


def printed(lines: list[Text]) -> str:
    """What a terminal with colours would be sent."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=4000, markup=False, emoji=False)
    for line in lines:
        console.print(line)
    return out.getvalue()


def test_everything_is_told_where_there_is_room() -> None:
    assert shown(troubled()).splitlines() == [
        "Forewarn 1.2.3  http://127.0.0.1:9386  CRITICAL",
        "faktory  CRITICAL  up, faktory 1.9.4 enterprise, 3 workers, scheduled 4, retries 0, dead 2, polled 0 s ago",
        (
            "  Connections: 1,950 of 2,000 (97 %). Workers: 3 workers; 3 orphaned jobs; 1 crashed within 10 min."
            " Throttles: 1 throttle, the fullest at 100 %; queue mail is full and 9 jobs wait."
        ),
        "  Connections  CRITICAL █                                        1,950 of 2,000 (97 %)",
        "  Busy jobs    calm     ▁                                        2 busy, the oldest for 8 s",
        (
            "  Workers      WARNING  █                                        3 workers; 3 orphaned jobs; 1 crashed within"
            " 10 min"
        ),
        (
            "  Throttles    WARNING  █                                        1 throttle, the fullest at 100 %; queue mail"
            " is full and 9 jobs wait"
        ),
        "What needs attention",
        (
            "  CRITICAL Connections: 1,950 of 2,000 (97 %). At the limit every further client is refused: producers cannot"
            " push, workers cannot come back. See which peer holds the connections and whether they grow, and close what"
            " leaks them. [FaktoryConnectionsNearLimit]"
        ),
        (
            "  WARNING Workers: 3 workers; 3 orphaned jobs; 1 crashed within 10 min. The jobs that they held are lost to"
            " everybody until their reservations end. See their machines for an out-of-memory kill or a crash."
            " [FaktoryWorkerCrashed]"
        ),
        (
            "  WARNING Throttles: 1 throttle, the fullest at 100 %; queue mail is full and 9 jobs wait. Jobs of this queue"
            " wait, even where workers are free. See whether its jobs take longer than usual, or are left over from crashed"
            " workers. [FaktoryThrottleSaturated]"
        ),
        "Orphans (3)",
        "  for 1 s  back in 28 min  SendMail  mail  j0  w1",
        "  for 1 s  back in 28 min  SendMail  mail  j1  w1",
        "  for 1 s  back in 28 min  SendMail  mail  j2  w1",
        "Oldest busy jobs (3)",
        "  1 min  5 % used  ORPHAN  SendMail  mail  j2  w1",
        "  1 min  5 % used  ORPHAN  SendMail  mail  j1  w1",
        "  1 min  5 % used  ORPHAN  SendMail  mail  j0  w1",
        "Throttles (1)",
        "  WARNING  4 of 4  100 %  9 waiting  mail  cluster",
        "Happenings (1)",
        (
            "  6 s ago     Worker w1 crashed  It held 3 jobs: SendMail j0 of queue mail, SendMail j1 of queue mail,"
            " SendMail j2 of queue mail. See its machine for an out-of-memory kill or a crash."
        ),
        "Queues (1)",
        "  3 jobs  waits 1 s  mail",
        "What Forewarn cannot see (2)",
        "  Number of workers, expired reservations and memory, from INFO: no answer within 2 s",
        (
            "  The server's file descriptors and memory: its process cannot be seen from where Forewarn runs. Run both in"
            " the same process namespace (shareProcessNamespace in a pod)."
        ),
    ]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 10), (20, 5), (80, 1), (1, 1)])
@pytest.mark.parametrize("servers", [1, 3, 40])
def test_it_fills_the_terminal_and_never_more(size: tuple[int, int], servers: int, ascii_only: bool) -> None:
    (one,) = troubled(50).servers
    many = status(*(msgspec.structs.replace(one, name=f"server-{number} 😀") for number in range(servers)))
    lines = screen(many, Frame(*size, ascii_only), source="http://127.0.0.1:9386", problem="no answer", heard=9.0)
    assert len(lines) == size[1]
    assert max(line.cell_len for line in lines) <= size[0]


def test_a_small_terminal_shows_of_each_kind_the_first_and_how_many_there_are() -> None:
    lines = shown(troubled(50), Frame(80, 24)).splitlines()
    assert len(lines) == 24
    titles = [line.partition(" (")[0] for line in lines if line[0] != " "]
    assert titles[2:-1] == [
        "What needs attention",
        "Orphans",
        "Oldest busy jobs",
        "Throttles",
        "Happenings",
        "Queues",
        "What Forewarn cannot see",
    ]
    assert re.search(r"(?m)^Orphans \([12] of 50\)$", "\n".join(lines))
    assert lines[-1] == "q quits"


def test_of_many_servers_the_worst_come_first_and_the_rest_is_counted() -> None:
    calm_one, bad = Shelf(calm()).server, Shelf(calm(observation=observed(reached=False))).server
    many = [msgspec.structs.replace(calm_one, name=f"calm-{number}") for number in range(30)]
    lines = shown(status(*many, msgspec.structs.replace(bad, name="bad")), Frame(80, 12)).splitlines()
    assert lines[1] == "bad  CRITICAL  The server does not answer."
    assert lines[2] == "calm-0  calm  Nothing is wrong."
    assert lines[10] == "and 22 more servers: they do not fit here"


def test_levels_are_told_in_words_too() -> None:
    told = shown(troubled())
    assert re.findall(r"(?m)^  (\w[\w ]+?) +(calm|unknown|WARNING|CRITICAL) ", told)[:4] == [
        ("Connections", "CRITICAL"),
        ("Busy jobs", "calm"),
        ("Workers", "WARNING"),
        ("Throttles", "WARNING"),
    ]


def test_what_is_old_says_so_and_why() -> None:
    lines = shown(troubled(), Frame(80, 24), heard=95.0, problem="connection refused").splitlines()
    assert lines[0].startswith("last heard 1 min ago  Forewarn 1.2.3")
    assert lines[1] == "connection refused"


def test_without_servers_that_is_said() -> None:
    assert "no server is watched" in shown(status())


@pytest.mark.parametrize(
    ("values", "columns", "told"),
    [
        ((0.0, 0.5, 1.0), 12, "▁▅█"),
        ((0.0, None, 1.0), 12, "▁ █"),
        ((), 12, ""),
        ((None,), 12, " "),
        (tuple(float(number) for number in range(120)), 4, "▂▄▆█"),
        ((2.0, 1.0), 12, "█▅"),
        ((0.001,), 12, "▁"),
    ],
)
def test_a_sparkline_goes_from_nothing_to_all(values: tuple[float | None, ...], columns: int, told: str) -> None:
    trend = Trend(title="", unit="ratio", step=30.0, values=values, ends_at=NOW)
    assert sparkline(trend, columns) == told


def test_a_terminal_without_unicode_gets_none() -> None:
    assert shown(troubled(50), Frame(80, 24, ascii=True)).isascii()


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m[red]:smile:[/red]\r\n\u202e\u2066\u200b\ud800\x00\x7f\u2028"


def test_a_hostile_name_is_shown_as_text() -> None:
    job = Reservation("\x1b[31mj1", HOSTILE, HOSTILE, HOSTILE, NOW - 5, NOW + 5)
    server = Shelf(
        calm(observation=observed(reservations={"j1": job}, sets={HOSTILE: 3}), collectors=failing("log", HOSTILE))
    ).server
    named = msgspec.structs.replace(server, name=HOSTILE, version=HOSTILE, edition=HOSTILE, summary=HOSTILE)
    sent = printed(screen(status(named), WHOLE, source=HOSTILE, problem=HOSTILE))
    assert re.fullmatch(r"(?:\x1b\[[0-9;]*m|[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200b\ud800]|\n)*", sent)
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31m[red]:smile:[/red]\r\n\u202e\u2066\u200b" in sent


@settings(max_examples=200, deadline=None)
@given(st.text(), st.integers(1, 200), st.integers(1, 60))
def test_whatever_a_name_is_nothing_of_it_controls_the_terminal(name: str, width: int, height: int) -> None:
    (one,) = troubled().servers
    jobs = tuple(msgspec.structs.replace(it, jobtype=name, queue=name, worker=name, jid=name) for it in one.busy)
    server = msgspec.structs.replace(one, name=name, summary=name, busy=jobs)
    for frame in (WHOLE, Frame(width, height)):
        lines = screen(status(server), frame, source="http://localhost")
        assert all(line.plain.isprintable() for line in lines)
        if frame.width is not None:
            assert max(line.cell_len for line in lines) <= width


def test_what_can_be_printed_stays_as_it_is() -> None:
    assert clean("mail/é😀 [b]") == "mail/é😀 [b]"
