"""All pushes of a sidecar as one: what is imported, what is counted, and how they end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import pytest

from exporter.catalogue import OTLP_FAILURES, OTLP_ITEMS, OTLP_WAITING
from exporter.model import Execution, IncidentKind, Outcome, Reason, Reservation, Snapshot
from exporter.outputs.pushes import Pushes
from exporter.secret import Secret
from exporter.settings import OtlpTarget, ServerSettings, Settings
from tests.receiver import Receiver, never, receiving
from tests.servers import wait_until
from tests.snapshots import full, incident

SERVER = ServerSettings(name="faktory", url=Secret("tcp://127.0.0.1:7419"), web_url="http://127.0.0.1:7420")
WATCHED = msgspec.structs.replace(SERVER, redis_url=Secret("redis://127.0.0.1"))
RESERVATION = Reservation("jid-1", "worker-1", "mail", "Welcome", 1_800_000_000.0, 1_800_001_800.0)
EXECUTION = Execution(RESERVATION, Outcome.FINISHED, 1_800_000_090.0, 1.0)


def settings(receiver: Receiver | None, *, traces: bool = True, metrics: bool = True) -> Settings:
    endpoint = receiver.endpoint if receiver else "http://127.0.0.1:1"
    return Settings(
        servers=(WATCHED,),
        otlp_traces=OtlpTarget(url=f"{endpoint}/v1/traces") if traces else None,
        otlp_metrics=OtlpTarget(url=f"{endpoint}/v1/metrics") if metrics else None,
        traces_poll_ratio=0.0,
    )


async def at_once() -> None:
    """The state is saved."""


def pushes(
    settings: Settings,
    newest: Mapping[str, Snapshot | None] | None = None,
    saved: Callable[[], Awaitable[None]] = at_once,
) -> Pushes:
    return Pushes(settings, lambda: newest or {}, version="1.2.3", saved=saved, settled=lambda: None)


def test_nothing_of_opentelemetry_is_imported_where_no_endpoint_is_set() -> None:
    """Not even by what Forewarn itself imports: redis-py would, as soon as it is installed."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import sys; from exporter.sidecar import Sidecar; from exporter.settings import load\n"
                "Sidecar(load({'faktory.url': 'tcp://127.0.0.1', 'faktory.redis-url': 'redis://127.0.0.1'}, {}))\n"
                "print([name for name in sys.modules if name.partition('.')[0] in {'opentelemetry', 'google'}])"
            ),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize("signals", [("traces",), ("metrics",), ("traces", "metrics")])
async def test_what_can_be_counted_is_there_from_the_start_at_0(signals: tuple[str, ...]) -> None:
    its = pushes(settings(None, traces="traces" in signals, metrics="metrics" in signals))
    found = {metric: dict(zip(keys, values, strict=True)) for metric, keys, values in its.own()}
    assert found == {
        OTLP_ITEMS: {(signal, result): 0 for signal in signals for result in ("sent", "rejected", "dropped")},
        OTLP_FAILURES: {(signal, reason.value): 0 for signal in signals for reason in Reason},
        OTLP_WAITING: {(): 0} if "traces" in signals else {},
    }


async def test_the_end_pushes_what_is_left() -> None:
    async with receiving() as receiver:
        its = pushes(settings(receiver), {"faktory": full()})
        its.restore("faktory", [EXECUTION])
        async with asyncio.TaskGroup() as tasks:
            its.start(tasks)
            await its.finish(5.0)
    assert [span.name for span in receiver.spans()] == ["process mail"]
    assert "faktory_busy_jobs" in {metric.name for metric in receiver.metrics()}
    assert its.unsent("faktory") == ()


async def test_what_a_poll_settled_of_incidents_is_sent_and_until_then_not_forgotten() -> None:
    found = incident(IncidentKind.CONCURRENT_MAP, at=1_800_000_000.0)
    snapshot = full()
    assert snapshot.process is not None
    snapshot = msgspec.structs.replace(snapshot, process=msgspec.structs.replace(snapshot.process, found=(found,)))
    async with receiving() as receiver:
        its = pushes(settings(receiver, metrics=False))
        its.tell(snapshot, 1.0, 2.0)
        assert its.unsent("faktory") == (found,)
        async with asyncio.TaskGroup() as tasks:
            its.start(tasks)
            await its.finish(5.0)
    assert [span.name for span in receiver.spans()] == ["process crash"]
    assert its.unsent("faktory") == ()


async def test_nothing_is_sent_before_the_state_knows_it() -> None:
    """Or a run after a kill would tell the same span once more, and otherwise."""
    asked, safe = asyncio.Event(), asyncio.Event()

    async def saved() -> None:
        asked.set()
        await safe.wait()

    async with receiving() as receiver:
        its = pushes(settings(receiver, metrics=False), saved=saved)
        async with asyncio.TaskGroup() as tasks:
            its.start(tasks)
            its.restore("faktory", [EXECUTION])
            await asyncio.wait_for(asked.wait(), 30)
            assert receiver.requests == []
            safe.set()
            await wait_until(receiver.spans, 30, what="the span was sent")
            await its.finish(5.0)


async def test_the_end_does_not_wait_for_collectors_that_never_answer() -> None:
    async with receiving() as receiver:
        receiver.answer = never
        its = pushes(settings(receiver), {"faktory": full()})
        its.restore("faktory", [EXECUTION])
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            its.start(tasks)
            await its.finish(0.3)
        assert time.monotonic() - started < 3.0
    assert its.unsent("faktory") == (EXECUTION,)


async def test_a_server_whose_jobs_cannot_be_seen_is_told(caplog: pytest.LogCaptureFixture) -> None:
    blind = msgspec.structs.replace(settings(None), servers=(SERVER, msgspec.structs.replace(WATCHED, name="seen")))
    pushes(blind)
    (record,) = caplog.records
    assert "set redis_url" in record.message
    assert record.__dict__["fields"] == {"server": "faktory"}
