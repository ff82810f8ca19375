"""What a reload changes of the pushes: nothing is told twice, and nothing that was counted is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from exporter.catalogue import OTLP_ITEMS, STATSD_PUSHED
from exporter.model import Choice, CollectorRun, Observation, Reservation, Snapshot
from exporter.outputs import statsd_push
from exporter.outputs.prometheus import Exposition
from exporter.outputs.pushes import Pushes
from exporter.settings import Settings, StatsdTarget
from exporter.signals import Signals, Verdicts
from exporter.statsd.address import UdpAddress
from tests.receiver import never, receiving
from tests.servers import free_port, wait_until
from tests.snapshots import NOW, full
from tests.test_pushes import EXECUTION, pushes, settings
from tests.test_statsd_push import HOST, Server, counting, none_stays_open, udp_life

__all__ = ["none_stays_open"]  # a fixture for all tests here

replace = msgspec.structs.replace


def commands(server: Server) -> dict[str, float]:
    """How much the commands of each watched server rose, as the StatsD server knows it."""
    return {
        dict(labels)["server"]: value
        for (name, labels), value in server.reader.counters.items()
        if name == "faktory_commands_total"
    }


# --- StatsD: servers that leave ---------------------------------------------------------------------------------------


async def test_what_the_counters_of_a_server_rose_until_it_left_is_told_and_its_gauges_are_not() -> None:
    life = udp_life()
    await life.flush(counting(10, server="a"), counting(10, server="b"))
    life.push.leave(counting(17, server="a"))
    del life.snapshots["a"]
    life.server.reader.gauges.clear()
    await life.flush()
    assert commands(life.server) == {"a": 7, "b": 0}
    assert {dict(labels).get("server") for _, labels in life.server.reader.gauges} == {"b", None}


async def test_what_is_owed_of_a_server_that_left_is_kept_until_the_statsd_server_is_back() -> None:
    life = udp_life()
    await life.flush(counting(10, server="a", more={"q": 1}))
    life.server.close()
    await life.flush(counting(12, server="a", more={"q": 2}))
    life.push.leave(counting(17, server="a", more={"q": 3}))
    del life.snapshots["a"]
    await life.flush()
    life.server.open()
    await life.flush()
    await life.flush()
    assert commands(life.server) == {"a": 7}
    assert life.server.counter("faktory_job_duration_seconds_count") == 3


async def test_nothing_is_kept_of_a_server_that_left_and_of_which_all_is_told() -> None:
    life = udp_life()
    await life.flush(counting(10, server="a"))
    life.push.leave(counting(17, server="a"))
    del life.snapshots["a"]
    await life.flush()
    await life.flush()
    assert {server for server, _ in life.push._rises} == {None}
    assert life.push._gone == {}


async def test_a_server_that_comes_back_counts_from_where_it_starts() -> None:
    life = udp_life()
    await life.flush(counting(10, server="a"))
    life.push.leave(counting(17, server="a"))
    del life.snapshots["a"]
    await life.flush()
    await life.flush(counting(100, server="a"))
    await life.flush(counting(101, server="a"))
    assert commands(life.server) == {"a": 8}


async def test_of_very_many_that_left_some_are_told() -> None:
    life = udp_life()
    for number in range(statsd_push.MAX_LEFT + 10):
        life.push.leave(counting(number, server=f"s{number}"))
    assert len(life.push._left) == statsd_push.MAX_LEFT
    await life.flush()
    assert life.push._gone == {}, "nothing is owed of any of them"


# --- StatsD: another server -------------------------------------------------------------------------------------------


async def test_what_one_statsd_server_did_not_take_goes_to_the_next_in_its_own_dialect() -> None:
    life = udp_life()
    await life.flush(counting(10))
    life.server.close()
    await life.flush(counting(15))
    other = Server(UdpAddress(HOST, free_port()), tags=False)
    other.open()
    await life.push.turn(StatsdTarget(tags=False, address=other.address), 5.0)
    life.time.meanwhile = other.read
    await life.flush(counting(18))
    other.read()
    assert commands(other) == {"faktory": 8}
    assert commands(life.server) == {"faktory": 0}


async def test_a_push_that_is_switched_on_later_begins_with_what_is_counted_from_then_on() -> None:
    life = udp_life(told=lambda: [(STATSD_PUSHED, [("sent",)], [1000])])
    life.snapshots["faktory"] = counting(10, more={"q": 5})
    await life.push.prime()
    await life.flush(counting(11, more={"q": 6}))
    assert commands(life.server) == {"faktory": 1}
    assert life.server.counter("faktory_job_duration_seconds_count") == 1
    assert life.server.counter("forewarn_statsd_pushed_lines_total") == 0


async def test_another_interval_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd_push, "FIRST_FLUSH", 0.0)
    server = Server(UdpAddress(HOST, free_port()), tags=True)
    server.open()
    target = StatsdTarget(tags=True, address=server.address)
    push = statsd_push.StatsdPush(target, lambda: {"faktory": full()}, interval=3600.0, version="1")
    async with asyncio.TaskGroup() as tasks:
        push.start(tasks)
        await wait_until(lambda: server.read() or server.reader.lines, 20, what="the first flush")
        await push.turn(target, 1.0)
        push.start(tasks)
        await asyncio.sleep(0)
        before = server.reader.lines
        await wait_until(lambda: server.read() is not None and server.reader.lines > before, 20, what="the next flush")
        await push.finish(0.5)


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


def sent(its: Pushes, signal: str) -> float:
    found = {metric: dict(zip(keys, values, strict=True)) for metric, keys, values in its.own()}
    return found[OTLP_ITEMS][signal, "sent"]  # type: ignore[return-value] # no distribution


async def test_what_waits_goes_to_the_new_collector_and_all_counts_go_on() -> None:
    async with receiving() as first, receiving() as second, asyncio.TaskGroup() as tasks:
        its = pushes(settings(first, metrics=False))
        its.start(tasks)
        its.restore("faktory", [EXECUTION])
        await wait_until(first.spans, 20, what="the first span was sent")
        await wait_until(lambda: sent(its, "traces") == 1, 20)
        first.answer = never
        its.restore("faktory", [replace(EXECUTION, ended_at=EXECUTION.ended_at + 1)])
        await wait_until(lambda: len(first.requests) == 2, 20, what="the second one is on its way")
        await its.change(settings(second, metrics=False), tasks, 0.1)
        await wait_until(second.spans, 20, what="the span goes to the other one")
        await wait_until(lambda: sent(its, "traces") == 2, 20)
        assert (len(first.spans()), len(second.spans())) == (1, 1)
        await its.finish(5.0)


async def test_a_target_that_is_the_same_keeps_its_connection() -> None:
    async with receiving() as receiver, asyncio.TaskGroup() as tasks:
        its = pushes(settings(receiver, metrics=False))
        its.start(tasks)
        for number in range(3):
            its.restore("faktory", [replace(EXECUTION, ended_at=EXECUTION.ended_at + number)])
            await wait_until(lambda number=number: len(receiver.spans()) == number + 1, 20)
            same = replace(settings(receiver, metrics=False), traces_poll_ratio=0.0, traces=Choice(parent=number == 1))
            await its.change(same, tasks, 1.0)
        assert receiver.connections == 1
        await its.change(same, tasks, 1.0, certificates=True)
        its.restore("faktory", [replace(EXECUTION, ended_at=EXECUTION.ended_at + 9)])
        await wait_until(lambda: receiver.connections == 2, 20, what="certificates are read anew by a new connection")
        await its.finish(5.0)


async def test_one_kind_may_come_and_the_other_go() -> None:
    async with receiving() as receiver, asyncio.TaskGroup() as tasks:
        newest: Mapping[str, Snapshot | None] = {"faktory": full()}
        its = pushes(settings(receiver, metrics=False), newest)
        its.start(tasks)
        its.restore("faktory", [EXECUTION])
        await its.change(settings(receiver, traces=False), tasks, 5.0)
        assert [span.name for span in receiver.spans()] == ["process mail"]
        await its.finish(5.0)
        assert "faktory_busy_jobs" in {metric.name for metric in receiver.metrics()}
        assert {key[0] for metric, keys, _ in its.own() if metric is OTLP_ITEMS for key in keys} == {"metrics"}


async def test_traces_of_a_server_that_is_watched_no_more_are_still_sent() -> None:
    async with receiving() as receiver, asyncio.TaskGroup() as tasks:
        its = pushes(settings(receiver, metrics=False))
        its.restore("faktory", [EXECUTION])
        its.watch(())
        its.start(tasks)
        await wait_until(receiver.spans, 20, what="the span was sent")
        await wait_until(lambda: its.unsent("faktory") == (), 20)
        its.watch(())
        assert its._traced == {}
        await its.finish(5.0)


async def test_another_interval_of_metrics_counts_at_once() -> None:
    async with receiving() as receiver, asyncio.TaskGroup() as tasks:

        def every(seconds: float) -> Settings:
            return replace(settings(receiver, traces=False), otlp_metrics_interval=seconds)

        its = pushes(every(3600.0), {"faktory": full()})
        its.start(tasks)
        await its.change(every(1.0), tasks, 5.0)
        await wait_until(lambda: len(receiver.accepted) >= 2, 30, what="metrics are pushed again and again")
        await its.finish(5.0)


# --- scrapes and signals ----------------------------------------------------------------------------------------------


def test_what_is_not_retained_is_scraped_no_more() -> None:
    exposition = Exposition("1")
    for name in ("a", "b"):
        exposition.update(full(name))
    exposition.retain({"b"})
    body = exposition.body(1.0).decode()
    assert 'server="a"' not in body
    assert 'server="b"' in body
    exposition.update(full("a"))
    assert 'server="a"' in exposition.body(1.0).decode()


def test_traces_that_are_switched_off_and_on_judge_again() -> None:
    signals = Signals(10, server="a")
    observation = full("a").observation

    def told() -> bool:
        return signals.conclude(signals.receive(observation), {}, ()).executions is not None

    assert not told()
    signals.choose(Choice())
    assert told()
    signals.choose(Choice(ratio=1.0))
    assert told()
    signals.choose(None)
    assert not told()


def test_signals_of_another_server_go_on_with_all_counters() -> None:
    signals = Signals(10, server="a", choice=Choice(slow_seconds=0))
    job = Reservation("jid", "worker", "q", "J", NOW, NOW + 1800)
    other = replace(job, jid="other", reserved_at=NOW + 5)

    def seen(of: Signals, at: float, *work: Reservation, **more: Any) -> Verdicts:
        observation = Observation(now=NOW + at, reached=True, reservations={it.jid: it for it in work}, **more)
        return of.conclude(of.receive(observation), {}, (CollectorRun("redis", 0.1),))

    seen(signals, 1, job)
    seen(signals, 6, other, refusals=3)
    before = seen(signals, 7, other)
    assert {pair: it.count for pair, it in before.busy.durations.items()} == {("q", "J"): 1}
    later = signals.elsewhere()
    for at in (8, 9):
        after = seen(later, at)
        # What was in work at the one before has not ended at this one.
        assert after.executions is not None
        assert after.executions.told == ()
        assert after.executions.decisions == before.executions.decisions  # type: ignore[union-attr] # it is there
        assert after.busy.durations == before.busy.durations
        assert after.connections.refused == 3
        assert after.boot.restarts == 0
    assert [it.last.name for it in after.collectors] == ["redis"]
