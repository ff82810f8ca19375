"""Jobs that failed are found where Faktory puts them, nothing else is read, and what is told of them is harmless."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.faktory.client import Client
from exporter.faktory.endpoint import Endpoint
from exporter.faktory.failures import (
    CLOCK_SLACK,
    DEAD,
    DEAD_SECONDS,
    MAX_FAILURES,
    RETRIES,
    Search,
    Window,
    merged,
    shown,
    windows_of,
)
from exporter.faktory.source import FaktorySource
from exporter.faktory.store import Store
from exporter.model import MAX_ERROR, MAX_NAME, Ended, JobFacts, JobFailure, Observation, Reservation
from tests.servers import StandInFaktory, WatchedServer, wait_until
from tests.wire import Wire, new_jid

NOW = 1795248600.0  # 2026-11-21T08:10:00Z
SINCE = NOW - 10


def ended(jid: str = "job-1", *, since: float = SINCE, failures: int = 0, retry: int | None = 25) -> Ended:
    facts = JobFacts(failures=failures, retry=retry)
    return Ended(Reservation(jid, "worker-1", "mail", "Send", since - 60, since + 1740, facts), since, since + 5)


def written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def entry(jid: str = "job-1", *, count: int = 0, at: float = SINCE + 1, **failure: object) -> bytes:
    told = {"retry_count": count, "failed_at": written(at), "message": "broke", "errtype": "Bang"} | failure
    return json.dumps({"jid": jid, "queue": "mail", "args": ["secret"], "failure": told}).encode()


def found(search: Search, member: bytes, score: float, where: str = RETRIES) -> JobFailure | None:
    """Show one entry and return what is then known of the first job."""
    search.saw(next(window for window in search.windows if window.set == where), member, score)
    return search.known().get("job-1")


# Where a job must stand


def score_of(failed_at: float, count: int, retry: int, draw: int) -> tuple[str, float] | None:
    """Return what the server does with a job that fails, as measured on it: ``draw`` is its random 0 to 29."""
    if retry == 0:
        return None
    if count < retry:
        return RETRIES, failed_at + count**4 + 15 + draw * (count + 1)
    return DEAD, failed_at + 180 * 86400


@given(st.floats(0, 10), st.integers(0, 40), st.integers(-2, 30), st.integers(0, 29), st.sampled_from([-1.0, 0.0, 1.0]))
def test_whenever_a_job_failed_it_stands_in_its_window(
    after: float, failures: int, retry: int, draw: int, clock_is_off: float
) -> None:
    windows = windows_of(JobFacts(failures=failures, retry=retry), SINCE, SINCE + 10)
    put = score_of(SINCE + after + clock_is_off, failures, retry, draw)
    assert (windows == ()) == (put is None)
    if put is not None:
        (window,) = windows
        assert window.set == put[0]
        assert window.low <= put[1] <= window.high


def test_a_window_is_no_wider_than_the_times_and_chances_it_stands_for() -> None:
    (first,) = windows_of(JobFacts(retry=25), SINCE, NOW)
    assert first == Window(RETRIES, SINCE - CLOCK_SLACK + 15, NOW + CLOCK_SLACK + 15 + 29)
    (third,) = windows_of(JobFacts(failures=2, retry=25), SINCE, NOW)
    assert third == Window(RETRIES, SINCE - CLOCK_SLACK + 16 + 15, NOW + CLOCK_SLACK + 16 + 15 + 87)
    (dead,) = windows_of(JobFacts(failures=25, retry=25), SINCE, NOW)
    assert dead == Window(DEAD, SINCE - CLOCK_SLACK + DEAD_SECONDS, NOW + CLOCK_SLACK + DEAD_SECONDS)


def test_a_job_may_be_in_either_set_while_it_is_not_known_how_often_it_is_tried() -> None:
    assert [window.set for window in windows_of(JobFacts(), SINCE, NOW)] == [DEAD, RETRIES]


@pytest.mark.parametrize("failures", [-4, MAX_FAILURES + 1, 2**31])
def test_an_absurd_number_of_failures_stands_nowhere(failures: int) -> None:
    assert windows_of(JobFacts(failures=failures, retry=2**31), SINCE, NOW) == ()


windows = st.builds(
    lambda name, low, length: Window(name, float(low), float(low + length)),
    st.sampled_from([RETRIES, DEAD]),
    st.integers(0, 50),
    st.integers(0, 9),
)


@given(st.lists(windows, max_size=12))
def test_merged_windows_hold_the_same_entries_and_none_twice(parts: list[Window]) -> None:
    joined = merged(parts)
    for name in (RETRIES, DEAD):
        for score in range(62):
            holding = [whole for whole in joined if whole.set == name and whole.low <= score <= whole.high]
            wanted = any(part.set == name and part.low <= score <= part.high for part in parts)
            assert len(holding) == int(wanted)
    for whole, group in joined.items():
        assert all(part.set == whole.set and whole.low <= part.low <= part.high <= whole.high for part in group)
    assert {part for group in joined.values() for part in group} == set(parts)


def test_the_dead_are_looked_at_first() -> None:
    jobs = [ended("a"), ended("b", retry=-1), ended("c", failures=5)]
    assert [window.set for window in Search(jobs, NOW).windows] == [DEAD, RETRIES, RETRIES]


def test_jobs_that_ended_together_share_one_window() -> None:
    assert len(Search([ended(f"job-{number}") for number in range(100)], NOW).windows) == 1


# Which entry is the job's


def test_a_failed_job_is_told_as_the_server_keeps_it() -> None:
    assert found(Search([ended()], NOW), entry(at=SINCE + 1.25), SINCE + 31) == JobFailure(
        error_type="Bang", message="broke", at=SINCE + 1.25
    )


@pytest.mark.parametrize("first_failed_at", [SINCE - 500, SINCE + 1])
def test_of_a_later_failure_it_is_not_told_when_it_was(first_failed_at: float) -> None:
    told = found(Search([ended(failures=1)], NOW), entry(count=1, at=first_failed_at), SINCE + 31)
    assert told == JobFailure(error_type="Bang", message="broke", at=None)


def test_the_death_of_a_job_is_told_with_its_time() -> None:
    search = Search([ended(failures=3, retry=3)], NOW)
    told = found(search, entry(count=3, at=SINCE - 500), SINCE + 2.5 + DEAD_SECONDS, DEAD)
    assert told == JobFailure(error_type="Bang", message="broke", at=SINCE + 2.5, dead=True)


def test_a_reservation_that_ran_out_is_told_as_expired() -> None:
    told = found(Search([ended()], NOW), entry(errtype="ReservationExpired"), SINCE + 31)
    assert told is not None
    assert told.expired


@pytest.mark.parametrize("at", [SINCE - 60, NOW + 60])
def test_a_time_of_failing_that_cannot_be_is_not_told(at: float) -> None:
    told = found(Search([ended()], NOW), entry(at=at), SINCE + 31)
    assert told == JobFailure(error_type="Bang", message="broke", at=None)


@pytest.mark.parametrize(
    ("member", "score"),
    [
        (entry(count=1), SINCE + 31),  # of a later failure
        (entry("job-2"), SINCE + 31),
        (entry(), SINCE + 5),  # of an earlier job under the same id
        (entry(), NOW + 90),
        (b'{"jid":"job-1"}', SINCE + 31),  # it never failed
        (b'{"jid":"job-1","failure":null}', SINCE + 31),
    ],
)
def test_an_entry_that_is_not_of_this_failure_is_not_taken_for_it(member: bytes, score: float) -> None:
    assert found(Search([ended()], NOW), member, score) is None


def test_an_entry_counts_for_a_job_only_within_the_jobs_own_window() -> None:
    # The window that is read holds more: another job ended earlier.
    search = Search([ended(since=NOW - 5), ended("other", since=NOW - 40)], NOW)
    assert len(search.windows) == 1
    assert found(search, entry(), NOW - 40 + 20) is None


def test_a_job_whose_facts_are_not_known_is_not_looked_for() -> None:
    bare = Ended(msgspec.structs.replace(ended().reservation, job=None), SINCE, NOW)
    assert list(Search([bare], NOW).windows) == []


@pytest.mark.parametrize(
    "member", [b"", b"x", b"[]", b"{}", b'{"jid":7}', b'{"jid":"a","failure":{}}', b'{"jid":' + b"[" * 100_000]
)
def test_what_is_no_job_is_refused_without_showing_it(member: bytes) -> None:
    search = Search([ended()], NOW)
    with pytest.raises(ValueError, match=r".+") as caught:
        search.saw(search.windows[0], member + b" 4111-1111", NOW)
    assert "4111" not in str(caught.value)


def test_an_entry_in_invalid_utf_8_is_read() -> None:
    told = found(Search([ended()], NOW), entry().replace(b"broke", b"br\xffke"), SINCE + 31)
    assert told is not None
    assert told.message == "br\ufffdke"


# When nothing was found


def concluded(job: Ended, *, read: bool = True, at: float = NOW) -> bool:
    """Whether a job that was not found is known not to have failed."""
    search = Search([job], NOW)
    for window in search.windows:
        if read:
            search.read_whole(window, at)
    known = search.known()
    assert known in ({}, {"job-1": None})
    return bool(known)


def test_a_job_that_is_not_where_it_would_be_did_not_fail() -> None:
    assert concluded(ended())
    assert concluded(ended(retry=-1))


def test_of_a_window_that_was_not_read_whole_nothing_is_concluded() -> None:
    assert not concluded(ended(), read=False)
    assert not concluded(ended(retry=-1), read=False)


def test_of_a_job_that_fails_without_a_trace_nothing_is_concluded() -> None:
    assert not concluded(ended(retry=0))
    assert not concluded(ended(retry=None))


def test_of_a_job_that_may_have_been_tried_again_since_nothing_is_concluded() -> None:
    earliest = SINCE - CLOCK_SLACK + 15
    assert concluded(ended(), at=earliest - 0.1)
    assert not concluded(ended(), at=earliest)


def test_the_dead_do_not_go_so_soon() -> None:
    assert concluded(ended(retry=-1), at=NOW + 1000)


def test_a_window_is_over_when_all_jobs_of_it_are_found() -> None:
    search = Search([ended("job-1"), ended("job-2")], NOW)
    (window,) = search.windows
    search.saw(window, entry("job-1"), SINCE + 31)
    assert not search.over(window)
    search.saw(window, entry("job-2"), SINCE + 31)
    assert search.over(window)


def test_ten_thousand_jobs_at_once_hold_nobody_up() -> None:
    jobs = [ended(f"job-{number}", failures=number % 5) for number in range(10_000)]
    started = time.process_time()
    search = Search(jobs, NOW)
    for window in search.windows:
        search.read_whole(window, NOW)
    assert len(search.known()) == 10_000
    assert time.process_time() - started < 0.2


# What is told of an error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("broke", "broke"),
        ("dial tcp://user:hunter2@host:5432/db: refused", "dial tcp://***@host:5432/db: refused"),
        ("redis://:hunter2@host", "redis://***@host"),
        ("amqp://u:hun/ter2@host and https://u:hunter2@other", "amqp://***@host and https://***@other"),
        ("a://u:hun@ter2@host", "a://***@host"),
        ("a://u:hunter2@h1,b://u:hunter2@h2", "a://***@h2"),
        ("see http://localhost:7420/path", "see http://localhost:7420/path"),
        ("mail to me@example.com", "mail to me@example.com"),
        ("line one\nline\ttwo\x00\x1b[31m", "line one line two  [31m"),
        ("\u202eevil\u2028", " evil "),
        ("url\nredis://:hunter2@host\nend", "url redis://***@host end"),
        ("", ""),
    ],
)  # fmt: skip
def test_an_error_is_shown_printable_and_without_secrets(text: str, told: str) -> None:
    assert shown(text) == told


def test_a_password_that_the_server_cut_in_its_midst_is_not_shown() -> None:
    # A long URL becomes short, so that the end of a text of 1000 bytes comes into sight.
    short = "a://" + "x" * 500 + "@h b://u:hunt"
    assert "hunt" not in shown("a://" + "x" * (1000 - len(short) + 500) + "@h b://u:hunt")
    assert "hunt" in shown(short), "the control: this one was not cut"


def test_an_error_is_cut_after_its_secrets_are_gone() -> None:
    text = "x" * (MAX_ERROR - 20) + " a://user:hunter2-is-long@host"
    assert "hunter2" not in shown(text)
    assert len(shown("x" * 5000)) == MAX_ERROR


@given(st.text(), st.text(alphabet="hunter2/@:", min_size=1), st.text())
def test_no_password_of_a_url_is_shown(before: str, password: str, after: str) -> None:
    secret = f"<{password}>"
    assert secret not in shown(f"{before}://user:{secret}@host {after}")


@given(st.text())
def test_whatever_an_error_says_it_is_short_and_printable(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= MAX_ERROR


def test_a_long_hostile_error_is_shown_quickly() -> None:
    started = time.process_time()
    for text in ("/" * 2**20, "//@" * 2**18, "\ud800" * 1000, "// " * 2**18):
        shown(text)
    assert time.process_time() - started < 0.1


def test_neither_arguments_nor_backtraces_are_told() -> None:
    told = found(Search([ended()], NOW), entry(backtrace=["frame"], errtype="E" * 300), SINCE + 31)
    assert told is not None
    assert told.error_type == "E" * MAX_NAME
    assert "secret" not in repr(told)
    assert "frame" not in repr(told)


# On every server


class Observer:
    """A source beside a server, and what it saw of one poll and the next."""

    def __init__(self, source: FaktorySource) -> None:
        self.source = source

    async def observe(self) -> Observation:
        observation = await self.source.observe()
        assert observation.reservations is not None, observation.runs
        return observation

    async def holding(self, jid: str) -> Observation:
        """Observe a poll in which the job is held."""
        before = await self.observe()
        assert jid in (before.reservations or {})
        return before

    async def known_after(self, before: Observation, jid: str) -> dict[str, JobFailure | None]:
        """Ask after a job that has left since ``before``, as after the next poll."""
        after = await self.observe()
        assert jid not in (after.reservations or {})
        left = Ended((before.reservations or {})[jid], before.now, after.now)
        known, run = await self.source.failures([left])
        assert run.failure is None
        assert (run.name, run.started is not None) == ("failures", True)
        return dict(known)


@asynccontextmanager
async def observing(server: WatchedServer) -> AsyncIterator[Observer]:
    source = FaktorySource(
        Client(Endpoint.parse(server.url)), web_url=server.web_url, store=Store(server.redis_url, facts=True)
    )
    try:
        yield Observer(source)
    finally:
        await source.close()


async def test_every_end_of_a_job_is_told_as_it_was(server: WatchedServer) -> None:
    """Those that are held at the same time are asked after at once, as after a poll."""
    ways: dict[str, int] = {"failed": 25, "died": -1, "vanished": 0, "finished": 25, "died without a try": 1}
    async with observing(server) as observer, await Wire.connect(server.url, "worker-1") as worker:
        jids = {way: new_jid(way.replace(" ", "-")) for way in ways}
        for way, retry in ways.items():
            failure = {"failure": {"retry_count": 0, "failed_at": "2020-01-01T00:00:00Z"}} if "try" in way else {}
            await worker.push(jid=jids[way], queue="mail", retry=retry, **failure)
            assert await worker.fetch("mail")
        before = await observer.observe()
        await worker.ack(jids.pop("finished"))
        started = before.now
        for way, jid in jids.items():
            await worker.fail(jid, "Bang", f"it {way} at redis://:hunter2@host", "frame 1")
        after = await observer.observe()
        all_ended = [Ended(each, before.now, after.now) for each in (before.reservations or {}).values()]
        known, run = await observer.source.failures(all_ended)
    assert run.failure is None
    told = {each.reservation.jid: known.get(each.reservation.jid, "not known") for each in all_ended}
    by_way = {way: told.pop(jid) for way, jid in jids.items()}
    assert list(told.values()) == [None], "the one that finished"
    assert by_way["vanished"] == "not known"
    for way, dead in (("failed", False), ("died", True), ("died without a try", True)):
        failed = by_way[way]
        assert isinstance(failed, JobFailure)
        assert failed.at is not None
        assert started <= failed.at <= after.now
        assert failed == JobFailure("Bang", f"it {way} at redis://***@host", failed.at, dead=dead)


async def test_a_retry_is_told_apart_from_the_attempt_before(server: WatchedServer) -> None:
    async with observing(server) as observer, await Wire.connect(server.url, "worker-1") as worker:
        jid = await worker.push(queue="mail")
        for attempt, message in enumerate(("first", "second")):
            assert await _fetched(worker, "mail")
            before = await observer.holding(jid)
            facts = (before.reservations or {})[jid].job
            assert facts is not None
            assert facts.failures == attempt
            await worker.fail(jid, "Bang", message)
            failed = (await observer.known_after(before, jid))[jid]
            assert failed is not None
            assert failed.message == message
            assert (failed.at is not None) == (attempt == 0), "Faktory keeps the time of the first failure only"
            await _make_due(server)
        assert await _fetched(worker, "mail")
        before = await observer.holding(jid)
        await worker.ack(jid)
        assert await observer.known_after(before, jid) == {jid: None}


async def test_a_retry_that_finishes_is_not_taken_for_the_failure_before_it(server: WatchedServer) -> None:
    """Its old entry is put back, as if its window held it still."""
    async with observing(server) as observer, await Wire.connect(server.url, "worker-1") as worker:
        jid = await worker.push(queue="mail")
        assert await worker.fetch("mail")
        await worker.fail(jid)
        ((old, _),) = await server.redis().zrange("retries", 0, -1, withscores=True)
        await _make_due(server)
        assert await _fetched(worker, "mail")
        before = await observer.holding(jid)
        await worker.ack(jid)
        await server.redis().zadd("retries", {old: before.now + 40})
        assert await observer.known_after(before, jid) == {jid: None}


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_reservation_that_runs_out_is_told_as_expired(unstarted: WatchedServer) -> None:
    server = unstarted
    if isinstance(server, StandInFaktory):
        server.options |= {"reservation_min": 2, "reservation_reap_every": 1}
    await server.start()
    async with observing(server) as observer, await Wire.connect(server.url, "worker-1") as worker:
        jid = await worker.push(queue="mail", reserve_for=2)
        assert await worker.fetch("mail")
        before = [await observer.holding(jid)]

        async def left() -> bool:
            observation = await observer.observe()
            if jid in (observation.reservations or {}):
                before.append(observation)
                return False
            return True

        await wait_until(left, 90, every=0.5, what="the reservation has run out")
        failed = (await observer.known_after(before[-1], jid))[jid]
    assert failed is not None
    assert failed.at is not None
    assert failed.at >= (before[-1].reservations or {})[jid].expires_at
    assert failed == JobFailure("ReservationExpired", "Faktory job reservation expired", failed.at, expired=True)


async def _make_due(server: WatchedServer) -> None:
    """Make every retry due, so that the server moves it to its queue."""
    redis: Any = server.redis()
    for member, _ in await redis.zrange("retries", 0, -1, withscores=True):
        await redis.zadd("retries", {member: time.time() - 1}, xx=True)


async def _fetched(worker: Wire, queue: str) -> dict[str, Any]:
    job: dict[str, Any] = await wait_until(lambda: worker.fetch(queue), 15, what="the server has moved the job")
    return job
