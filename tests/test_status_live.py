"""The status of real servers, as a running sidecar tells it and ``forewarn top`` prints it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import msgspec

from exporter.demo import child
from exporter.status.document import Level, ServerStatus, Status
from tests.forewarn import Forewarn
from tests.servers import WatchedServer, wait_until
from tests.status_samples import one
from tests.wire import Wire, new_jid

DEADLINE = 60.0


async def status(forewarn: Forewarn) -> ServerStatus:
    """What is told now of the only server."""
    code, content_type, text = await forewarn.get("/api/v1/status")
    assert (code, content_type) == (200, "application/json; charset=utf-8")
    (server,) = msgspec.json.decode(text, type=Status).servers
    return server


async def told(forewarn: Forewarn, condition: Callable[[ServerStatus], object], what: str) -> ServerStatus:
    """Wait until the status is such that ``condition`` holds, and return it."""
    last: list[ServerStatus] = []

    async def there() -> object:
        last[:] = [await status(forewarn)]
        return condition(last[0])

    try:
        await wait_until(there, DEADLINE, every=0.2, what=what)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{last}") from None
    return last[0]


async def test_a_busy_server_that_goes_down_and_comes_back(server: WatchedServer) -> None:
    async with Forewarn(server) as forewarn:
        await told(forewarn, lambda it: it.up and it.signals[0].level is Level.CALM, "it is up")
        async with await Wire.connect(server.url, "worker-of-mail") as worker:
            jid = await worker.push(jid=new_jid(), jobtype="SendMail", queue="mail", args=["secret"])
            assert await worker.fetch("mail")
            busy = await told(forewarn, lambda it: it.busy, "the job is busy")
            (job,) = busy.busy
            assert (job.jid, job.jobtype, job.queue, job.worker, job.orphan) == (
                jid,
                "SendMail",
                "mail",
                "worker-of-mail",
                False,
            )
            assert busy.busy_count == 1
            assert "1 busy" in one(busy.signals, "busy").headline
            assert "secret" not in (await forewarn.get("/api/v1/status"))[2]
            printed = await asyncio.to_thread(
                subprocess.run,
                child.command(sys.executable, "-m", "exporter.cli", "top", "--once", "--url", forewarn.address),
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
            assert (printed.returncode, printed.stderr) == (0, "")
            assert jid in printed.stdout
        await server.stop()
        down = await told(forewarn, lambda it: it.up is False, "it is down")
        assert (down.level, down.summary.partition(".")[0]) == (Level.CRITICAL, "The server does not answer")
        assert {it.level for it in down.signals} == {Level.UNKNOWN}
        await server.start()
        back = await told(forewarn, lambda it: it.up, "it is back")
        kinds = [it.kind for it in back.happenings]
        # The restart may be told by the same poll, or by a later one.
        assert [kind for kind in kinds if kind != "restart"] == ["back", "down"]
