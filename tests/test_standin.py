"""What the stand-in is beyond Faktory: its ledger, its options, and that nothing of it stays behind.

That it behaves as Faktory does is shown by the conformance suite.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from exporter.demo.standin.ledger import MAX_ARGUMENTS
from tests.servers import StandInFaktory, alive, children, running, wait_until
from tests.wire import Wire, WireError


@asynccontextmanager
async def a_stand_in(password: str | None = None, **options: object) -> AsyncIterator[StandInFaktory]:
    made = StandInFaktory(**options)
    async with running(made, password):
        yield made


async def get(url: str) -> str:
    def read() -> str:
        with urlopen(url, timeout=5) as answer:  # noqa: S310
            text: str = answer.read().decode()
        return text

    return await asyncio.to_thread(read)


async def tasks(server: StandInFaktory) -> dict[str, Any]:
    async with await Wire.connect(server.url) as wire:
        told: dict[str, Any] = (await wire.info())["faktory"]["tasks"]
    return told


# -- the ledger


async def test_the_ledger_tells_every_command_with_its_connection_in_order(standin: StandInFaktory) -> None:
    async with await Wire.connect(standin.url, "w-1") as first, await Wire.connect(standin.url) as second:
        await second.push(jid="job-0001", queue="q")
        await first.fetch("q")
        await first.command("NONSENSE x y")
    told = [(entry["peer"], entry["verb"]) for entry in standin.ledger() if "verb" in entry]
    one, two = told[0][0], told[1][0]
    assert told[:5] == [(one, "HELLO"), (two, "HELLO"), (two, "PUSH"), (one, "FETCH"), (one, "NONSENSE")]
    assert one != two
    await wait_until(lambda: [e["verb"] for e in standin.ledger() if "verb" in e].count("END") == 2)


async def test_the_ledger_tells_every_page(standin: StandInFaktory) -> None:
    before = len(standin.ledger())
    await get(f"{standin.web_url}/health")
    await get(f"{standin.web_url}/busy?x=1")
    assert [(e["method"], e["path"]) for e in standin.ledger()[before:]] == [("GET", "/health"), ("GET", "/busy?x=1")]


async def test_the_ledger_cuts_long_arguments(standin: StandInFaktory) -> None:
    async with await Wire.connect(standin.url) as wire:
        await wire.command("FOO " + "x" * 1000)
    assert [e["arguments"] for e in standin.ledger() if e.get("verb") == "FOO"] == ["x" * MAX_ARGUMENTS]


async def test_the_ledger_never_holds_a_password_hash() -> None:
    async with a_stand_in(password="secret") as server:
        async with await Wire.connect(server.url, "w-1"):
            pass
        assert [
            e["arguments"] for e in server.ledger() if e.get("verb") == "HELLO" and '"pwdhash": "***"' in e["arguments"]
        ]


# -- options: shortened times and limits


async def test_a_hung_worker_is_reaped_after_the_times_it_was_told() -> None:
    async with a_stand_in(heartbeat_expiry=0.5, heartbeat_reap_every=0.25) as server:
        hung = await Wire.connect(server.url, "w-hung")
        start = time.monotonic()
        assert await hung.at_eof()
        assert 0.5 <= time.monotonic() - start < 5
        await hung.abort()
        assert (await tasks(server))["Workers"] == {"reaped": 1, "size": 0}


async def test_a_reservation_ends_after_the_times_it_was_told() -> None:
    async with a_stand_in(reservation_min=1, reservation_reap_every=0.25) as server:
        async with await Wire.connect(server.url, "w-1") as wire:
            await wire.push(reserve_for=1)
            await wire.fetch()

            async def reaped() -> bool:
                return bool((await wire.info())["faktory"]["tasks"]["Busy"]["reaped"])

            await wait_until(reaped, 5)
        assert await server.redis().zcard("retries") == 1


async def test_the_limit_it_was_told_is_enforced() -> None:
    async with a_stand_in(connections_limit=2) as server:
        wires = [await Wire.connect(server.url) for _ in range(2)]
        refused = await Wire.connect(server.url)
        assert await refused.read() == "-ERR too many connections: 3"
        assert await refused.at_eof()
        for wire in (*wires, refused):
            await wire.abort()


async def test_the_limit_is_not_enforced_where_a_version_before_1_9_is_claimed() -> None:
    async with a_stand_in(connections_limit=1, claim_version="1.8.0") as server:
        wires = [await Wire.connect(server.url) for _ in range(3)]
        assert [await wire.command("ACK x") for wire in wires] == ["-ERR invalid ACK x"] * 3
        for wire in wires:
            await wire.abort()


async def test_throttles_are_kept_where_asked_for() -> None:
    server = StandInFaktory(enforce_throttles=True)
    (server.config_dir / "conf.d" / "t.toml").write_text("[throttles]\nq = { concurrency = 1, timeout = 60 }\n")
    async with running(server), await Wire.connect(server.url, "w-1") as one, await Wire.connect(server.url) as two:
        for _ in range(2):
            await two.push(queue="q")
        held = await one.fetch("q")
        assert held is not None
        assert await two.fetch("q") is None
        await one.ack(held["jid"])
        assert await two.fetch("q") is not None


async def test_throttles_are_not_kept_by_default() -> None:
    server = StandInFaktory()
    (server.config_dir / "conf.d" / "t.toml").write_text("[throttles]\nq = { concurrency = 1, timeout = 60 }\n")
    async with running(server), await Wire.connect(server.url, "w-1") as wire:
        for _ in range(2):
            await wire.push(queue="q")
        assert await wire.fetch("q") is not None
        assert await wire.fetch("q") is not None


def test_help_names_every_option() -> None:
    told = subprocess.run([sys.executable, "-m", "exporter.demo.standin", "--help"], capture_output=True, text=True)
    assert told.returncode == 0
    for option in ("--bind", "--web-bind", "--ledger", "--claim-version", "--heartbeat-expiry", "--enforce-throttles"):
        assert option in told.stdout


@pytest.mark.parametrize("option", ["--heartbeat-expiry=0", "--scan-every=nan", "--claim-version=x", "--bind=x"])
def test_senseless_options_are_refused_by_name(option: str) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "exporter.demo.standin",
            "--storage-dir=/nonexistent",
            "--config-dir=/nonexistent",
            option,
        ],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2
    assert option.partition("=")[0] in told.stderr


def test_a_storage_directory_with_too_long_a_path_is_refused_with_the_remedy(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "exporter.demo.standin", f"--storage-dir={tmp_path / ('x' * 120)}", "--config-dir=/tmp"],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1
    assert "use a storage directory with a shorter name" in told.stderr


# -- work


async def test_carries_a_hundred_jobs_a_second_beside_a_thousand_idle_connections(standin: StandInFaktory) -> None:
    idle: list[Wire] = []
    while len(idle) < 1000:
        idle += await asyncio.gather(*(Wire.connect(standin.url) for _ in range(50)))
    async with await Wire.connect(standin.url, "w-1") as wire:
        start = time.monotonic()
        for _ in range(200):
            await wire.push()
            job = await wire.fetch()
            assert job is not None
            await wire.ack(job["jid"])
        assert time.monotonic() - start < 2
    for other in idle:
        await other.abort()


async def test_keeps_its_data_in_an_imitation_where_no_redis_server_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fakeredis")
    monkeypatch.setenv("PATH", "/nonexistent")
    async with a_stand_in() as server:
        assert children(server.pid) == []
        async with await Wire.connect(server.url, "w-1") as wire:
            jid = await wire.push(queue="q")
            assert await server.redis().llen("q:q") == 1  # type: ignore[misc]
            assert (await wire.fetch("q") or {})["jid"] == jid
            assert await server.redis().zcard("working") == 1
            await wire.ack(jid)
            assert await wire.fetch("q") is None
        assert await server.redis().get("processed") == "1"


# -- nothing stays behind


async def test_stopping_leaves_neither_process_nor_socket(standin: StandInFaktory) -> None:
    below = [standin.pid, *children(standin.pid)]
    assert len(below) == 2
    await standin.stop()
    assert not any(map(alive, below))
    assert not (standin.storage_dir / "redis.sock").exists()


async def test_it_stops_with_workers_in_the_middle_of_a_fetch(standin: StandInFaktory) -> None:
    wires = [await Wire.connect(standin.url, "w-1") for _ in range(20)]
    for wire in wires:
        await wire.send("FETCH q")
    await standin.stop()
    assert [await wire.at_eof() for wire in wires] == [True] * 20
    for wire in wires:
        await wire.abort()


async def test_a_killed_stand_in_takes_its_redis_with_it(standin: StandInFaktory) -> None:
    below = children(standin.pid)
    os.kill(standin.pid, signal.SIGKILL)
    await wait_until(lambda: below and not any(map(alive, below)), 10)


async def test_its_log_holds_no_traceback_after_work_and_stop(standin: StandInFaktory) -> None:
    wires = [await Wire.connect(standin.url, "w-1") for _ in range(5)]
    for wire in wires:
        await wire.send("FETCH q")
    await wires[0].abort()
    with pytest.raises(WireError):
        await wires[1].ok("NONSENSE")
    await standin.stop()
    for wire in wires[1:]:
        await wire.abort()
    assert "Traceback" not in standin.log(1000)
    assert "never retrieved" not in standin.log(1000)
