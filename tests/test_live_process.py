"""Why a server died: from the crash to the metric, the alert, the span and the page, on servers that really crash."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.alertmanager import Alertmanager, shipped
from tests.forewarn import Forewarn
from tests.live_alerts import check_texts, rendered_rules
from tests.live_churn import Churn, NaivePoller
from tests.live_traces import Seen, spans_of, told_to
from tests.prometheus import Prometheus
from tests.receiver import Receiver, receiving
from tests.servers import RealFaktory, WatchedServer, wait_until
from tests.webhook import Webhook
from tests.wire import Wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEADLY = 90.0
"""Seconds within which the Busy page kills a real server under churn: 0.6 to 3 on a quiet machine."""

TOLD = 60.0
"""Seconds within which an end of the server is told as what it was, on a busy machine."""

FUNCTION = "github.com/contribsys/faktory/webui.busyWorkers"
COMPONENT = "webui.busyWorkers"

DUMP = f"""\
fatal error: concurrent map read and map write

goroutine 7 [running]:
internal/runtime/maps.fatal({{0x1?, 0x2?}})
\t/go/src/runtime/panic.go:1 +0x18
{FUNCTION}(0x3?, 0x4)
\t/faktory/webui/helpers.go:1 +0x5
created by net/http.(*Server).Serve in goroutine 1
\t/go/src/net/http/server.go:1 +0x6

goroutine 1 [chan receive]:
main.main()
\t/faktory/main.go:1 +0x7
"""
"""What the stand-in is made to leave behind, which is no Go program: as short as such a text can be."""


class Stage:
    """A server, a Forewarn that reads its output, and a receiver of spans."""

    def __init__(self, server: WatchedServer, forewarn: Forewarn, receiver: Receiver) -> None:
        self.server = server
        self.forewarn = forewarn
        self.receiver = receiver

    async def crash(self) -> None:
        """Let it die of what its Busy page does to it."""
        if isinstance(self.server, RealFaktory):
            with Churn(self.server, new_queues=False), NaivePoller(self.server, infos=False):
                await wait_until(lambda: not self.server.running, DEADLY, what=f"{self.server.name} dies")
        else:
            with self.server.log_file.open("a") as log:
                log.write(DUMP)
            os.kill(self.server.pid, signal.SIGKILL)
            await wait_until(lambda: not self.server.running, DEADLY, what=f"{self.server.name} dies")

    async def back(self) -> None:
        """Start the server again, however it ended."""
        await self.server.kill()
        await self.server.start()
        await self.forewarn.wait_for("faktory_up", 1, TOLD)

    async def crashes(self) -> dict[str, float]:
        """Return how many crashes have been counted by class, of the classes that have any."""
        scrape = await self.forewarn.scrape()
        counted = scrape.matching("faktory_process_crashes_total")
        return {labels["class"]: value for labels, value in counted if value}

    async def incidents(self) -> list[dict[str, Any]]:
        """Return the crashes that the page of incidents tells."""
        status, _, body = await self.forewarn.get("/api/v1/incidents")
        assert status == 200, body
        told: list[dict[str, Any]] = json.loads(body)["incidents"]
        # The Busy page may panic before it kills, and net/http recovers that.
        return [it for it in told if it["crash"]]

    def spans(self, name: str = "process crash") -> dict[tuple[str, str], Seen]:
        """Return the spans of that name, each once."""
        return {it.id: it for it in spans_of(self.receiver.accepted) if it.name == name}


@asynccontextmanager
async def staged(server: WatchedServer, folder: Path) -> AsyncIterator[Stage]:
    async with receiving() as receiver:
        forewarn = Forewarn(
            server,
            state_file=folder / "state.json",
            arguments=[f"--faktory.log-file={server.log_file}", *told_to(receiver.endpoint)],
        )
        async with forewarn:
            yield Stage(server, forewarn, receiver)


class Pager:
    """A real Prometheus with the shipped rules, a real Alertmanager, and what it delivers to."""

    def __init__(self, forewarn: Forewarn, folder: Path) -> None:
        self.webhook = Webhook()
        self._forewarn = forewarn
        self._folder = folder
        self._ends = AsyncExitStack()

    async def __aenter__(self) -> Self:
        rules = rendered_rules(self._folder)
        await self._ends.enter_async_context(self.webhook)
        alertmanager = await self._ends.enter_async_context(Alertmanager(shipped(self.webhook.address)))
        await self._ends.enter_async_context(
            Prometheus(f"127.0.0.1:{self._forewarn.port}", rules=[rules], alertmanager=alertmanager.address)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._ends.aclose()


async def test_a_server_that_crashes_is_told_once_with_its_class_and_function_everywhere(
    server: WatchedServer, tmp_path: Path
) -> None:
    async with staged(server, tmp_path) as stage:
        forewarn = stage.forewarn
        async with Pager(forewarn, tmp_path) as pager:
            assert await forewarn.metric("faktory_process_crashes_total", **{"class": "concurrent-map"}) == 0
            began = time.time()
            await stage.crash()
            await forewarn.wait_for("faktory_process_crashes_total", 1, TOLD, **{"class": "concurrent-map"})

            alert = await pager.webhook.wait_for("FaktoryProcessCrashed", "firing", TOLD)
            check_texts(alert)
            assert COMPONENT in alert["annotations"]["summary"] + alert["annotations"]["description"]

        scrape = await forewarn.scrape()
        ((labels, at),) = scrape.matching("faktory_process_last_crash_timestamp_seconds")
        assert (labels["class"], labels["component"]) == ("concurrent-map", COMPONENT)
        assert labels["known"] == "faktory-busy-page"
        assert began - 1 <= at <= time.time()

        (incident,) = await stage.incidents()
        assert (incident["class"], incident["crash"]) == ("concurrent-map", True)
        assert (incident["function"], incident["component"]) == (FUNCTION, COMPONENT)
        assert "/busy" in incident["hint"]

        await wait_until(lambda: len(stage.spans()) == 1, TOLD, what="the span of the crash")
        (span,) = stage.spans().values()
        assert span.failed
        assert span.attributes["error.type"] == "concurrent-map"
        (event,) = span.events
        assert COMPONENT in str(event.attributes["exception.stacktrace"])

        # The restart that follows is the same death.
        await stage.back()
        await _polled(forewarn, 20)
        assert await stage.crashes() == {"concurrent-map": 1}

        # Neither does Forewarn's own restart count it again.
        await forewarn.stop()
        await forewarn.start()
        await _polled(forewarn, 5)
        assert await stage.crashes() == {"concurrent-map": 1}
        assert len(stage.spans()) == 1
        assert [it["group"] for it in await stage.incidents()] == [incident["group"]]


async def test_an_end_without_a_word_is_unexplained_and_an_orderly_one_is_no_crash(
    server: WatchedServer, tmp_path: Path
) -> None:
    async with staged(server, tmp_path) as stage:
        await _some_commands(server)
        await _polled(stage.forewarn, 3)
        await server.restart()
        await stage.forewarn.wait_for("faktory_restarts_total", 1, TOLD)
        await _some_commands(server)
        await _polled(stage.forewarn, 3)

        await server.kill()
        await stage.back()
        await stage.forewarn.wait_for("faktory_process_crashes_total", 1, TOLD, **{"class": "unexplained"})
        assert await stage.crashes() == {"unexplained": 1}


async def test_a_crash_while_forewarn_was_away_is_told_when_it_is_back(server: WatchedServer, tmp_path: Path) -> None:
    async with staged(server, tmp_path) as stage:
        await _some_commands(server)
        await _polled(stage.forewarn, 3)
        await stage.forewarn.stop()
        await stage.crash()
        await server.kill()
        await server.start()
        await stage.forewarn.start()
        await stage.forewarn.wait_for("faktory_process_crashes_total", 1, TOLD, **{"class": "concurrent-map"})
        await _polled(stage.forewarn, 20)
        assert await stage.crashes() == {"concurrent-map": 1}


async def _some_commands(server: WatchedServer) -> None:
    """Make the server's count of commands one that a restart takes back."""

    async with await Wire.connect(server.url) as wire:
        for _ in range(50):
            await wire.push(queue="default")


async def _polled(forewarn: Forewarn, polls: int) -> None:
    """Wait until so many more polls have ended."""
    ages: list[float] = []

    async def enough() -> bool:
        age = await forewarn.metric("forewarn_snapshot_age_seconds")
        if age is not None and (not ages or age < ages[-1]):
            ages.append(age)
            return len(ages) > polls
        if age is not None:
            ages[-1] = age
        return False

    await wait_until(enough, TOLD + 3 * polls, every=0.1, what=f"{polls} polls")
