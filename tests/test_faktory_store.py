"""Faktory's Redis is read without harm, and whatever stands in it is survived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import trustme
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from exporter.faktory import redis_link
from exporter.faktory import store as store_module
from exporter.faktory.errors import FaktoryError
from exporter.faktory.redis_link import ALLOWED, RedisAddress, RedisLink
from exporter.faktory.store import MAX_LOOKED, MAX_PAGE, Store, StoreFacts
from exporter.faktory.working import decode_reservation
from exporter.model import Ended, Failure, JobFacts, JobFailure, Queue, Reason, Reservation
from exporter.secret import Secret
from tests.misbehaving import raw, serving
from tests.programs import need
from tests.servers import WatchedServer, free_port, wait_until
from tests.wire import Wire

NEW, OLD = (1, 10, 0), (1, 9, 4)
NOW = 1795248600.0  # 2026-11-21T08:10:00Z


class Redis:
    """A real Redis of a test's own, under Faktory's keys."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.port = free_port()
        self.tls_port = free_port()
        self.folder = folder
        # It tells of a failure at once: while Redis starts, each retry of the client's own would wait a second.
        self.client: Any = redis.asyncio.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    async def work(self, *members: bytes, score: float = NOW + 1000) -> None:
        await self.client.zadd("working", dict.fromkeys(members, score))


@pytest.fixture
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Redis]:
    need("redis-server", "redis-server")
    made = Redis(tmp_path_factory.mktemp("redis"))
    process = await asyncio.create_subprocess_exec(
        "redis-server", "--port", str(made.port), "--bind", "127.0.0.1", "--unixsocket", str(made.socket), "--save", "",
        "--dir", str(made.folder), "--enable-debug-command", "yes", stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:

        async def answers() -> bool:
            with contextlib.suppress(redis.exceptions.RedisError):
                return bool(await made.client.ping())
            return False

        await wait_until(answers, what="the test's own Redis answers")
        yield made
    finally:
        await made.client.aclose()
        await made.client.connection_pool.disconnect()
        process.terminate()
        await process.wait()


@pytest.fixture
async def store(own: Redis) -> AsyncIterator[Store]:
    made = Store(own.url)
    yield made
    await made.close()


def member(jid: str, *, wid: str = "worker-1", **job: object) -> bytes:
    full = {"jid": jid, "queue": "mail", "jobtype": "Send", "args": []} | job
    return json.dumps({"job": full, "reserved_at": "2026-11-21T08:09:10Z", "wid": wid}).encode()


def job(enqueued_at: object = "2026-11-21T08:09:30Z") -> str:
    return json.dumps({"jid": "j", "args": ["secret"], "enqueued_at": enqueued_at})


async def failure_of(doing: Awaitable[object]) -> Failure:
    with pytest.raises(FaktoryError) as caught:
        await doing
    return caught.value.failure


def reservations(facts: StoreFacts) -> dict[str, Reservation]:
    assert facts.reservations is not None
    return dict(facts.reservations)


# On every server


async def test_what_a_server_keeps_is_read(server: WatchedServer) -> None:
    store = Store(server.redis_url)
    async with await Wire.connect(server.url, "worker-1") as worker:
        first, second = await worker.push(queue="mail", jobtype="Send"), await worker.push(queue="mail")
        assert await worker.fetch("mail")
        await worker.push(queue="bulk", at="2099-01-01T00:00:00Z")
        facts = await store.read(version=server.version)
        assert facts.queues is not None
        assert facts.queues["mail"].jobs == 1
        assert facts.queues["mail"].paused is False
        assert facts.queues["mail"].latency == pytest.approx(0, abs=10)
        assert facts.sets == {"scheduled": 1, "retries": 0, "dead": 0, "working": 1}
        assert facts.overdue == {"scheduled": 0, "retries": 0}
        assert (facts.processed, facts.failed) == (0, 0)
        assert abs(facts.now - time.time()) < 5
        (found,) = reservations(facts).values()
        assert (found.jid, found.worker, found.queue, found.jobtype) == (first, "worker-1", "mail", "Send")
        assert found.expires_at - found.reserved_at == pytest.approx(1800, abs=1)
        assert facts.failure is None
        await worker.ack(first)
        assert await worker.fetch("mail")
        await worker.fail(second)
        await worker.ok("QUEUE PAUSE mail")
        after = await store.read(version=server.version)
        assert after.queues is not None
        assert after.queues["mail"] == Queue(jobs=0, latency=0.0, paused=True)
        assert after.sets["retries"] == 1
        assert (after.processed, after.failed) == (2, 1)
        assert reservations(after) == {}
    await store.close()


async def test_the_layout_need_not_be_known(server: WatchedServer) -> None:
    store = Store(server.redis_url)
    async with await Wire.connect(server.url) as producer:
        await producer.push(queue="mail")
        facts = await store.read()
    assert facts.queues is not None
    assert facts.queues["mail"].jobs == 1
    assert facts.failure is None
    await store.close()


async def test_nothing_but_the_allowed_reads_is_ever_sent(server: WatchedServer) -> None:
    client: Any = server.redis()
    store = Store(server.redis_url)
    async with await Wire.connect(server.url, "worker-1") as worker:
        for number in range(30):
            await worker.push(queue=f"q{number}")
        assert await worker.fetch("q1")
        heard: list[str] = []
        async with client.monitor() as monitor:
            for _ in range(3):
                await store.read(version=None)
            # Told apart from the server's own connection by where it comes from: the port of a unix socket is 0.
            await client.set("forewarn:end", 1)
            async for command in monitor.listen():
                if "forewarn:end" in command["command"]:
                    break
                heard.append(command["command"].split()[0])
    await store.close()
    sent = set(heard)
    assert sent >= {"TIME", "MGET", "ZCARD", "SSCAN", "LLEN", "LINDEX", "ZRANGEBYSCORE"}
    # Faktory's own background tasks run beside it, with commands of their own in lower case.
    assert {name for name in sent if name.isupper()} <= ALLOWED


async def test_a_command_that_is_not_allowed_is_never_sent(own: Redis) -> None:
    link = RedisLink(RedisAddress.parse(own.url))
    with pytest.raises(PermissionError, match="FLUSHALL"):
        await link.ask(("TIME",), ("FLUSHALL",))
    assert (await own.client.info("commandstats")).get("cmdstat_time") is None
    await link.close()


async def test_a_connection_begins_with_nothing_but_the_password_and_the_database() -> None:
    # Redis's MONITOR shows no command that Redis rejects, as older ones do with CLIENT SETINFO.
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if not line.startswith((b"*", b"$")):
                heard.append(line.strip())
            if line.strip() in {b"secret", b"3"}:
                writer.write(b"+OK\r\n")
            if line.strip() == b"TIME":
                writer.write(b"-LOADING wait\r\n")

    heard: list[bytes] = []
    async with serving(handle) as server:
        await failure_of(Store(f"redis://:secret@127.0.0.1:{server.port}/3").read())
    assert heard == [b"AUTH", b"secret", b"SELECT", b"3", b"TIME"]


async def test_one_connection_is_enough(own: Redis, store: Store) -> None:
    before = (await own.client.info("stats"))["total_connections_received"]
    for _ in range(5):
        await store.read()
    assert (await own.client.info("stats"))["total_connections_received"] == before + 1


# Queues


@pytest.mark.parametrize(("version", "key"), [(NEW, "q:mail"), ((2, 0), "q:mail"), (OLD, "mail"), ((1, 6, 2), "mail")])
async def test_a_queue_is_read_where_its_version_keeps_it(
    own: Redis, store: Store, version: tuple[int, ...], key: str
) -> None:
    await own.client.sadd("queues", "mail")
    await own.client.lpush("q:mail" if key == "mail" else "mail", job())
    await own.client.lpush(key, job(), job())
    facts = await store.read(NOW, version)
    assert facts.queues == {"mail": Queue(jobs=2, latency=30.0, paused=False)}


async def test_while_the_version_is_not_known_both_places_are_added_up(own: Redis, store: Store) -> None:
    await own.client.sadd("queues", "mail")
    await own.client.lpush("q:mail", job("2026-11-21T08:09:59Z"))
    await own.client.lpush("mail", job("2026-11-21T08:09:00Z"), job())
    assert (await store.read(NOW)).queues == {"mail": Queue(jobs=3, latency=60.0, paused=False)}


async def test_latency_is_of_the_oldest_job_and_never_negative(own: Redis, store: Store) -> None:
    await own.client.sadd("queues", "a", "b", "c")
    await own.client.lpush("q:a", job("2026-11-21T08:09:00Z"), job("2026-11-21T08:09:59Z"))
    await own.client.lpush("q:b", job("2026-11-21T09:00:00Z"))
    facts = await store.read(NOW, NEW)
    assert facts.queues is not None
    assert {name: queue.latency for name, queue in facts.queues.items()} == {"a": 60.0, "b": 0.0, "c": 0.0}


async def test_without_a_hint_the_time_is_redis_own(own: Redis, store: Store) -> None:
    await own.client.sadd("queues", "a")
    await own.client.lpush("q:a", job("2020-01-01T00:00:00Z"))
    facts = await store.read(None, NEW)
    assert facts.queues is not None
    assert facts.queues["a"].latency == pytest.approx(time.time() - 1577836800, abs=60)


@pytest.mark.parametrize("oldest", ["nonsense", "{}", job("yesterday"), job(5), job(None), "[" * 100_000])
async def test_an_unreadable_oldest_job_leaves_the_latency_unknown(own: Redis, store: Store, oldest: str) -> None:
    await own.client.sadd("queues", "a", "b")
    await own.client.lpush("q:a", oldest)
    await own.client.lpush("q:b", job())
    facts = await store.read(NOW, NEW)
    assert facts.queues == {"a": Queue(1, None, False), "b": Queue(1, 30.0, False)}
    assert facts.undecodable == 1
    assert facts.failure is not None
    assert "'q:a'" in facts.failure.message
    assert "secret" not in facts.failure.message


async def test_a_key_of_the_wrong_type_does_not_break_the_rest(own: Redis, store: Store) -> None:
    await own.client.sadd("queues", "retries", "mail")
    await own.client.zadd("retries", {"x": NOW + 5})
    await own.client.lpush("mail", job())
    await own.client.set("dead", "text")
    facts = await store.read(NOW, OLD)
    assert facts.queues == {"retries": Queue(None, None, False), "mail": Queue(1, 30.0, False)}
    assert facts.sets == {"scheduled": 0, "retries": 1, "working": 0}
    assert facts.undecodable == 2
    assert facts.failure is not None
    assert facts.failure.reason is Reason.DECODE


@pytest.mark.parametrize(("key", "fact"), [("queues", "queues"), ("working", "reservations")])
async def test_what_cannot_be_read_at_all_is_not_known(own: Redis, store: Store, key: str, fact: str) -> None:
    await own.client.set(key, "text")
    facts = await store.read(NOW, NEW)
    assert getattr(facts, fact) is None
    assert facts.failure is not None


async def test_whether_a_queue_is_paused_is_not_known_where_it_cannot_be_read(own: Redis, store: Store) -> None:
    await own.client.sadd("queues", "mail")
    await own.client.set("paused", "text")
    facts = await store.read(NOW, NEW)
    assert facts.queues == {"mail": Queue(0, 0.0, None)}


async def test_queues_whose_names_are_equal_after_the_cut_are_added_up(own: Redis, store: Store) -> None:
    names = ["q" * 200, "q" * 2**20]
    await own.client.sadd("queues", *names)
    await own.client.sadd("paused", names[0])
    for name in names:
        await own.client.lpush(f"q:{name}", job())
    assert (await store.read(NOW, NEW)).queues == {"q" * 128: Queue(2, 30.0, True)}


async def test_hostile_names_are_survived(own: Redis, store: Store) -> None:
    names = [b'a"b', b"a\nb", b"\xff\xfe", b"", "ü".encode(), b"a b", b"*"]
    await own.client.sadd("queues", *names)
    for name in names:
        await own.client.lpush(b"q:" + name, job())
    facts = await store.read(NOW, NEW)
    assert facts.queues is not None
    assert sum(queue.jobs or 0 for queue in facts.queues.values()) == len(names)
    assert "��" in facts.queues


async def test_new_queue_names_are_told_from_the_second_read_on(own: Redis, store: Store) -> None:
    await own.client.sadd("queues", "a")
    assert (await store.read()).new_names is None
    assert (await store.read()).new_names == frozenset()
    await own.client.sadd("queues", "b")
    assert (await store.read()).new_names == frozenset({"b"})
    assert (await store.read()).new_names == frozenset()


async def test_more_queues_than_a_page_are_all_read(own: Redis, store: Store) -> None:
    names = [f"queue-{number}" for number in range(3500)]
    await own.client.sadd("queues", *names)
    async with own.client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.lpush(f"q:{name}", job())
        await pipeline.execute()
    facts = await store.read(NOW, NEW)
    assert facts.queues == dict.fromkeys(names, Queue(1, 30.0, False))


# Totals and sets


async def test_counters_that_are_absent_are_zero_and_strange_ones_unknown(own: Redis, store: Store) -> None:
    await own.client.set("failures", "many")
    facts = await store.read()
    assert (facts.processed, facts.failed) == (0, None)


async def test_how_long_the_earliest_entry_is_overdue_is_told(own: Redis, store: Store) -> None:
    await own.client.zadd("scheduled", {"a": NOW - 40, "b": NOW - 5})
    await own.client.zadd("retries", {"a": NOW + 40})
    assert (await store.read(NOW)).overdue == {"scheduled": 40.0, "retries": 0.0}


# Reservations


async def test_the_score_is_the_expiry_even_when_it_changes(own: Redis, store: Store) -> None:
    await own.work(member("a"), score=NOW + 10.5)
    assert reservations(await store.read())["a"].expires_at == NOW + 10.5
    await own.work(member("a"), score=NOW + 99.25)
    assert reservations(await store.read())["a"].expires_at == NOW + 99.25


async def test_of_a_job_reserved_twice_the_reservation_that_lasts_is_told_and_then_the_other(
    own: Redis, store: Store
) -> None:
    await own.work(member("a", wid="first"), score=NOW + 10)
    assert reservations(await store.read())["a"].worker == "first"
    await own.work(member("a", wid="second"), score=NOW + 20)
    assert reservations(await store.read())["a"].worker == "second"
    await own.client.zrem("working", member("a", wid="second"))
    assert reservations(await store.read())["a"].worker == "first"


async def test_reservations_that_were_handed_out_do_not_change(own: Redis, store: Store) -> None:
    await own.work(member("a"))
    before = (await store.read()).reservations
    await own.client.zrem("working", member("a"))
    await own.work(member("b"))
    await store.read()
    assert before is not None
    assert set(before) == {"a"}


async def test_unchanged_reservations_are_not_decoded_again(
    own: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    real = decode_reservation

    def counting(data: bytes, score: float, shared: Any, *, facts: bool) -> Reservation:
        decoded.append(data)
        return real(data, score, shared, facts=facts)

    monkeypatch.setattr("exporter.faktory.store.decode_reservation", counting)
    await own.work(member("a"), member("b"))
    await store.read()
    await own.work(member("c"))
    await own.client.zrem("working", member("a"))
    assert set(reservations(await store.read())) == {"b", "c"}
    assert decoded == [member("a"), member("b"), member("c")]
    assert len(store._known) == 2


@pytest.mark.parametrize("distinct", [1, 3, 5000])
async def test_all_pages_are_read_whatever_the_scores(own: Redis, store: Store, distinct: int) -> None:
    await own.client.zadd("working", {member(f"job-{n}"): NOW + 100 + n % distinct for n in range(5000)})
    for _ in range(2):
        assert set(reservations(await store.read())) == {f"job-{n}" for n in range(5000)}


async def test_large_reservations_are_read_a_few_at_a_time(own: Redis, store: Store) -> None:
    for number in range(40):
        await own.work(member(f"job-{number}", args=["x" * 200_000]), score=NOW + number + 100)
    asked: list[int] = []
    real = store._link.ask

    async def watching(*commands: redis_link.Command) -> list[Any]:
        answers = await real(*commands)
        asked.extend(len(answers[0]) // 2 for command in commands if command[1:2] == ("working",) and len(command) > 2)
        return answers

    store._link.ask = watching  # type: ignore[method-assign]
    await store.read()
    found = reservations(await store.read())
    assert len(found) == 40
    assert max(asked[-10:]) <= 4


async def test_an_entry_that_is_no_reservation_is_counted_and_the_rest_read(own: Redis, store: Store) -> None:
    await own.work(member("a"), b"not json", b"{}", b"\xff\xff", member("b", queue="\x00"))
    for _ in range(2):
        facts = await store.read()
        assert set(reservations(facts)) == {"a", "b"}
        assert facts.undecodable == 3
        assert facts.failure is not None
        assert facts.failure.reason is Reason.DECODE
        assert "not json" not in facts.failure.message


async def test_a_broken_entry_at_the_edge_of_a_page_is_counted_once(own: Redis, store: Store) -> None:
    await own.client.zadd("working", {f"broken-{n}": NOW + n // 3 for n in range(1000)})
    assert (await store.read()).undecodable == 1000


async def test_what_jobs_tell_of_themselves_is_read_only_where_it_is_wanted(own: Redis, store: Store) -> None:
    wanting = Store(own.url, facts=True)
    await own.work(member("a", retry=3, enqueued_at="2026-11-21T08:09:00Z"))
    assert reservations(await wanting.read())["a"].job == JobFacts(NOW - 60, 0, 3)
    assert reservations(await store.read())["a"].job is None
    await wanting.close()


# Jobs that failed

SINCE = NOW - 10
DUE = SINCE + 31
"""A score within the window of a first failure."""

DEATH = SINCE + 2 + 180 * 86400


def left(jid: str, *, failures: int = 0, retry: int = 25) -> Ended:
    held = Reservation(jid, "worker-1", "mail", "Send", SINCE - 60, NOW + 1740, JobFacts(None, failures, retry))
    return Ended(held, SINCE, SINCE + 5)


def failed(jid: str, count: int = 0, size: int = 0) -> bytes:
    failure = {"retry_count": count, "failed_at": "2026-11-21T08:09:51Z", "message": f"of {jid}", "errtype": "Bang"}
    return json.dumps({"jid": jid, "args": ["x" * size], "failure": failure}).encode()


def now() -> float:
    return NOW


def asked_of(store: Store) -> list[tuple[redis_link.Command, int]]:
    """Note from now on every command that is sent, and how many entries it was answered with."""
    asked: list[tuple[redis_link.Command, int]] = []
    real = store._link.ask

    async def watching(*commands: redis_link.Command) -> list[Any]:
        answers = await real(*commands)
        asked.extend(
            (command, len(answer) // 2 if isinstance(answer, list) else 0)
            for command, answer in zip(commands, answers, strict=True)
        )
        return answers

    store._link.ask = watching  # type: ignore[method-assign]
    return asked


async def test_jobs_that_failed_and_jobs_that_did_not_are_told_apart(own: Redis, store: Store) -> None:
    await own.client.zadd("retries", {failed("a"): DUE, failed("stranger"): DUE})
    await own.client.zadd("dead", {failed("b", 3): DEATH})
    ended = [left("a"), left("b", failures=3, retry=3), left("c"), left("d", retry=-1), left("e", retry=0)]
    facts = await store.failures(ended, now)
    assert facts.failure is None
    assert facts.known == {
        "a": JobFailure("Bang", "of a", NOW - 9),
        "b": JobFailure("Bang", "of b", SINCE + 2, dead=True),
        "c": None,
        "d": None,
    }


async def test_only_the_windows_are_read_in_which_the_jobs_must_stand(own: Redis, store: Store) -> None:
    for name, within in (("retries", DUE), ("dead", DEATH)):
        await own.client.zadd(name, {failed(f"{n}"): within + 1000 * (n - 50) for n in range(100)})
    asked = asked_of(store)
    await store.failures([left("a"), left("b", retry=-1)], now)
    assert [entries for _, entries in asked] == [1, 1]
    assert [command[:4] for command, _ in asked] == [
        ("ZRANGEBYSCORE", "dead", repr(SINCE - 1 + 180 * 86400), repr(NOW + 1 + 180 * 86400)),
        ("ZRANGEBYSCORE", "retries", repr(SINCE - 1 + 15), repr(NOW + 1 + 15 + 29)),
    ]


async def test_where_nothing_can_be_found_nothing_is_asked(store: Store) -> None:
    asked = asked_of(store)
    assert (await store.failures([left("a", retry=0)], now)).known == {}
    assert (await store.failures([], now)).known == {}
    assert asked == []


@pytest.mark.parametrize("distinct", [1, 3, 3000])
async def test_a_window_of_many_pages_is_read_whole_whatever_the_scores(
    own: Redis, store: Store, distinct: int
) -> None:
    await own.client.zadd("retries", {failed(f"job-{n}"): DUE + n % distinct / 1000 for n in range(3000)})
    facts = await store.failures([left(f"job-{n}") for n in range(3001)], now)
    assert {jid for jid, failure in facts.known.items() if failure} == {f"job-{n}" for n in range(3000)}
    assert facts.known["job-3000"] is None


async def test_once_all_are_found_no_more_is_read(own: Redis, store: Store) -> None:
    await own.client.zadd("retries", {failed(f"job-{n}"): DUE + n / 1000 for n in range(3000)})
    asked = asked_of(store)
    await store.failures([left("job-5")], now)
    assert len(asked) == 1


async def test_in_a_storm_only_so_many_entries_are_read_and_the_rest_is_not_known(own: Redis, store: Store) -> None:
    await own.client.zadd("retries", {failed(f"job-{n:05d}"): DUE + n / 1000 for n in range(MAX_LOOKED + 1000)})
    asked = asked_of(store)
    facts = await store.failures([left("job-00000"), left("job-05900"), left("finished")], now)
    assert list(facts.known) == ["job-00000"]
    assert facts.failure is None
    assert sum(entries for _, entries in asked) == MAX_LOOKED
    assert max(entries for _, entries in asked) <= MAX_PAGE


async def test_the_bound_holds_over_all_windows(own: Redis, store: Store) -> None:
    ended = [left(f"job-{n}", failures=n, retry=1000) for n in range(100)]
    await own.client.zadd("retries", {failed(f"x-{n}-{m}"): SINCE + 20 + n**4 for n in range(100) for m in range(100)})
    asked = asked_of(store)
    facts = await store.failures(ended, now)
    assert MAX_LOOKED * 0.9 < sum(max(1, entries) for _, entries in asked) <= MAX_LOOKED
    # The first are known not to have failed, of the last that is not known.
    assert 10 < len(facts.known) < 60
    assert set(facts.known.values()) == {None}


async def test_a_question_without_an_answer_counts_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_LOOKED", 20)
    asked = asked_of(store)
    facts = await store.failures([left(f"job-{n}", failures=n, retry=1000) for n in range(50)], now)
    assert len(asked) == 20
    assert 20 < len(facts.known) < 30, "the first windows are one"


async def test_large_entries_are_read_a_few_at_a_time(own: Redis, store: Store) -> None:
    await own.client.zadd("retries", {failed(f"job-{n}", size=200_000): DUE + n / 1000 for n in range(40)})
    asked = asked_of(store)
    await store.failures([left("other")], now)
    assert max(entries for _, entries in asked[1:]) <= 4


async def test_beside_an_entry_that_is_no_job_nothing_is_concluded(own: Redis, store: Store) -> None:
    await own.client.zadd("retries", {b"secret": DUE, failed("a"): DUE})
    facts = await store.failures([left("a"), left("b"), left("c", retry=-1)], now)
    assert set(facts.known) == {"a", "c"}
    assert facts.failure is not None
    assert facts.failure.reason is Reason.DECODE
    assert "`retries`" in facts.failure.message
    assert "secret" not in facts.failure.message


async def test_of_a_set_that_is_none_nothing_is_concluded(own: Redis, store: Store) -> None:
    await own.client.set("retries", "text")
    facts = await store.failures([left("a"), left("c", retry=-1)], now)
    assert facts.known == {"c": None}
    assert facts.failure is not None
    assert "ZRANGEBYSCORE retries" in facts.failure.message


async def test_what_was_read_too_late_is_not_taken_for_finished(own: Redis, store: Store) -> None:
    """The server may have moved a failed job on to its queue by then."""
    await own.client.zadd("retries", {failed("a"): DUE})
    clock = iter([NOW, SINCE + 15])
    assert set((await store.failures([left("a"), left("b")], lambda: next(clock))).known) == {"a"}


async def test_what_was_found_before_redis_hung_is_told(
    own: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FAILURES_DEADLINE", 0.3)
    await own.client.zadd("dead", {failed("a"): DEATH})
    real = store._link.ask

    async def hanging(*commands: redis_link.Command) -> list[Any]:
        if commands[0][1] == "retries":
            await own.client.client_pause(700)
        return await real(*commands)

    store._link.ask = hanging  # type: ignore[method-assign]
    facts = await store.failures([left("a", retry=-1), left("b")], now)
    assert set(facts.known) == {"a"}
    assert facts.failure is not None
    assert facts.failure.reason is Reason.TIMEOUT
    assert "how the rest ended is not known" in facts.failure.message
    await own.client.client_unpause()
    assert (await store.failures([left("c", retry=-1)], now)).known == {"c": None}, "the connection is in step"


async def test_without_redis_nothing_is_known_of_failures(tmp_path: Path) -> None:
    facts = await Store(f"unix://{tmp_path}/redis.sock").failures([left("a")], now)
    assert facts.known == {}
    assert facts.failure is not None
    assert facts.failure.reason is Reason.UNREACHABLE


# Failures


async def test_a_missing_socket_is_told(tmp_path: Path) -> None:
    failure = await failure_of(Store(f"unix://{tmp_path}/redis.sock").read())
    assert failure.reason is Reason.UNREACHABLE
    assert "is Faktory running" in failure.message
    assert str(tmp_path) in failure.message


async def test_a_socket_that_may_not_be_opened_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio, "open_unix_connection", denied)
    failure = await failure_of(Store("unix:///var/lib/faktory/db/redis.sock").read())
    assert failure.reason is Reason.UNREACHABLE
    assert "run as the same user as Faktory" in failure.message


async def test_a_port_where_nothing_listens_is_told() -> None:
    failure = await failure_of(Store("redis://127.0.0.1:1").read())
    assert failure.reason is Reason.UNREACHABLE
    assert "127.0.0.1:1" in failure.message


@pytest.mark.parametrize("password", [None, "wrong-password"])
async def test_a_wrong_or_missing_password_is_told(own: Redis, password: str | None) -> None:
    await own.client.config_set("requirepass", "right-password")
    store = Store(f"redis://127.0.0.1:{own.port}", Secret(password) if password else None)
    failure = await failure_of(store.read())
    assert failure.reason is Reason.AUTH
    assert "wrong-password" not in failure.message


async def test_the_right_password_and_another_database_are_used(own: Redis) -> None:
    await own.client.config_set("requirepass", "right-password")
    other: Any = redis.asyncio.Redis(port=own.port, password="right-password", db=3)
    await other.set("processed", 77)
    await other.aclose()
    store = Store(f"redis://127.0.0.1:{own.port}/3", Secret("right-password"))
    assert (await store.read()).processed == 77
    await store.close()


async def test_a_user_that_may_not_read_is_told_what_to_permit(own: Redis) -> None:
    await own.client.acl_setuser("small", enabled=True, passwords=["+pw"], commands=["+time"], keys=["*"])
    failure = await failure_of(Store(f"redis://small:pw@127.0.0.1:{own.port}").read())
    assert failure.reason is Reason.AUTH
    assert "ZRANGEBYSCORE" in failure.message


async def test_a_permission_given_later_is_enough(own: Redis) -> None:
    await own.client.acl_setuser("small", enabled=True, passwords=["+pw"], commands=["+time", "+mget"], keys=["*"])
    store = Store(f"redis://small:pw@127.0.0.1:{own.port}")
    assert (await failure_of(store.read())).reason is Reason.AUTH
    await own.client.acl_setuser("small", enabled=True, commands=["+@all"], keys=["*"])
    assert (await store.read()).processed == 0
    await store.close()


async def test_the_command_port_of_faktory_is_no_redis(server: WatchedServer) -> None:
    failure = await failure_of(Store(f"redis://127.0.0.1:{server.port}").read())
    assert failure.reason is Reason.PROTOCOL


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Reason.PROTOCOL),
        (b"-LOADING Redis is loading the dataset in memory\r\n", Reason.SERVER),
        (b"-ERR max number of clients reached\r\n", Reason.REFUSED),
        (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n" * 6, Reason.PROTOCOL),
        (b"*2\r\n$10\r\n", Reason.TIMEOUT),
        (b"", Reason.TIMEOUT),
    ],
)
async def test_what_answers_unlike_a_redis_is_told(said: bytes, reason: Reason) -> None:
    async with serving(raw(said)) as server:
        store = Store(f"redis://127.0.0.1:{server.port}", timeout=0.3)
        failure = await failure_of(store.read())
        await store.close()
    assert failure.reason is reason, failure


async def test_a_redis_that_hangs_is_told_within_the_deadline_and_found_again(own: Redis) -> None:
    store = Store(own.url, timeout=0.3)
    await store.read()
    sleeping = asyncio.create_task(own.client.execute_command("DEBUG", "SLEEP", "1"))
    await asyncio.sleep(0.05)
    assert (await failure_of(store.read())).reason is Reason.TIMEOUT
    await sleeping
    await store.read()
    await store.close()


async def test_a_connection_that_redis_closed_is_made_anew(own: Redis, store: Store) -> None:
    await store.read()
    await own.client.client_kill_filter(_type="normal", skipme=True)
    await store.read()


async def test_a_cancelled_read_leaves_no_connection_out_of_step(own: Redis, store: Store) -> None:
    await own.client.set("processed", 5)
    for turn in range(20):
        task = asyncio.create_task(store.read())
        for _ in range(turn):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await store.read()).processed == 5


async def test_tls_is_verified(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    async with serving(raw(b"-LOADING it was verified\r\n"), tls) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        trusting, doubting = Store(url, ca_file=tmp_path / "ca.pem"), Store(url)
        assert "loading" in (await failure_of(trusting.read())).message
        refused = await failure_of(doubting.read())
        missing = await failure_of(Store(url, ca_file=tmp_path / "no.pem").read())
    assert refused.reason is Reason.TLS
    assert "not trusted" in refused.message
    assert missing.reason is Reason.TLS


async def test_tls_to_a_plain_redis_is_told(own: Redis) -> None:
    failure = await failure_of(Store(f"rediss://127.0.0.1:{own.port}").read())
    # A plain Redis waits for the rest of the line that it takes a TLS greeting for.
    assert failure.reason is Reason.TIMEOUT
    assert "speak TLS" in failure.message


# Harmless


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_redis_is_never_held_up(server: WatchedServer) -> None:
    client: Any = server.redis()
    async with client.pipeline(transaction=False) as pipeline:
        for start in range(0, 100_000, 1000):
            pipeline.zadd(
                "working",
                {member(f"job-{n}", args=[n, "x" * 100]): NOW + 9e6 + n / 100 for n in range(start, start + 1000)},
            )
            await pipeline.execute()
        for start in range(0, 50_000, 1000):
            names = [f"queue-{n}" for n in range(start, start + 1000)]
            pipeline.sadd("queues", *names)
            for name in names[::2]:
                pipeline.lpush(f"q:{name}" if server.version >= (1, 10) else name, job())
            await pipeline.execute()
    await client.config_set("slowlog-log-slower-than", 10_000)
    store = Store(server.redis_url)
    slow: list[Any] = []
    # On a busy machine the kernel itself may stop Redis for 10 ms in the midst of anything; what holds Redis up by its
    # nature does so in every read.
    for _ in range(5):
        await client.slowlog_reset()
        facts = await store.read(NOW, server.version)
        assert len(reservations(facts)) == 100_000
        assert facts.queues is not None
        assert len(facts.queues) == 50_000
        slow = [entry for entry in await client.slowlog_get() if entry["command"].split()[0] in _sent()]
        if not slow:
            break
    await store.close()
    assert slow == []


def _sent() -> set[Any]:
    return {name.encode() for name in ALLOWED} | set(ALLOWED)
