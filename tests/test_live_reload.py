"""A reload, live: what did not change goes on as if there had been none, and what did is in use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import aiohttp
import bcrypt

from exporter.demo import child
from tests.forewarn import Forewarn, Scrape
from tests.live_relay import Relay
from tests.live_statsd import inbox
from tests.receiver import receiving
from tests.servers import StandInFaktory, WatchedServer, free_port, wait_until
from tests.statsd_reader import Reader
from tests.supervised import PYTHON, catches, environment, line
from tests.wire import Wire

DEADLINE: Final = 40.0
SUCCESSFUL: Final = "forewarn_config_last_reload_successful"
SUCCESS_TIME: Final = "forewarn_config_last_reload_success_timestamp_seconds"
DURATIONS: Final = "faktory_job_duration_seconds_count"
DONE: Final = "reloaded"
REFUSED: Final = "the new settings are not used"


class Written:
    """A file of settings, which the test writes anew, and a witness of what is said to the server that stands in it."""

    def __init__(self, folder: Path, server: WatchedServer, command: Relay) -> None:
        self.folder = folder
        self.server = server
        self.command = command
        self.file = folder / "forewarn.toml"

    def watched(self, name: str = "jobs", /, relay: Relay | None = None, **keys: str) -> str:
        """The server under ``name``, as it stands in the file."""
        table = {
            "name": name,
            "system": "faktory",
            "url": f"tcp://127.0.0.1:{(relay or self.command).port}",
            "web_url": self.server.web_url,
            "redis_url": self.server.redis_url,
        } | keys
        return "[[servers]]\n" + "".join(f'{key} = "{value}"\n' for key, value in table.items())

    def write(self, *parts: str) -> None:
        """Replace the file in one step, as tools do that write settings."""
        fresh = self.folder / "fresh"
        fresh.write_text("\n".join(parts))
        fresh.replace(self.file)


class Reloaded(Written):
    """A Forewarn with such a file."""

    def __init__(self, folder: Path, server: WatchedServer, command: Relay) -> None:
        super().__init__(folder, server, command)
        self.forewarn = Forewarn(arguments=[f"--config={self.file}"])

    async def reload(self, *parts: str, told: str = DONE) -> None:
        """Write the file, send SIGHUP and wait until the log tells how that ended."""
        before = len(self.forewarn.log(told))
        self.write(*parts)
        self.forewarn.process.send_signal(signal.SIGHUP)
        await self.until(lambda: len(self.forewarn.log(told)) > before, f"{told!r} stands in the log once more")

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something; fail with the log."""
        try:
            await wait_until(condition, DEADLINE, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.forewarn.output()[-3000:]}") from None

    async def told(self, what: str, condition: Callable[[Scrape], object]) -> Scrape:
        """Wait until a scrape is as the test wants it."""

        async def there() -> Scrape | None:
            scrape = await self.forewarn.scrape()
            return scrape if condition(scrape) else None

        try:
            found: Scrape = await wait_until(there, DEADLINE, every=0.1, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.forewarn.output()[-3000:]}") from None
        return found

    async def polled(self, server: str = "jobs") -> Scrape:
        """Wait until the server was polled from beginning to end after this call: each poll is seen by its commands."""

        def seen(scrape: Scrape) -> float:
            return scrape.value("faktory_connections", server=server) or 0

        async with await Wire.connect(self.server.url), await Wire.connect(self.server.url):
            await self.told("the poll sees two connections more", lambda it: seen(it) >= 3)
        return await self.told("and that they have gone", lambda it: seen(it) < 3)


@asynccontextmanager
async def reloaded(
    folder: Path, server: WatchedServer, *first: str, password_file: Path | None = None
) -> AsyncIterator[Reloaded]:
    async with Relay(server.port) as command:
        it = Reloaded(folder, server, command)
        its = it.watched() if password_file is None else it.watched(password_file=str(password_file))
        it.write(*first, its)
        async with it.forewarn:
            yield it


def servers(scrape: Scrape) -> set[str]:
    return {labels["server"] for labels, _ in scrape.matching("faktory_up")}


async def done(url: str, times: int) -> None:
    """Let so many jobs be done, each seen at work."""
    async with await Wire.connect(url, "worker-1") as worker:
        for _ in range(times):
            await worker.push(queue="q", jobtype="Job")
        jids = [(await worker.fetch("q") or {})["jid"] for _ in range(times)]
        await asyncio.sleep(2.5)  # two polls see them
        for jid in jids:
            await worker.ack(jid)


# --- what did not change ----------------------------------------------------------------------------------------------


async def test_a_storm_of_signals_does_not_touch_a_server_whose_settings_stay_the_same(
    server: WatchedServer, tmp_path: Path
) -> None:
    async with reloaded(tmp_path, server) as it:
        await it.polled()
        first = (await it.forewarn.scrape()).value(SUCCESS_TIME) or 0
        for number in range(200):
            it.forewarn.process.send_signal(signal.SIGHUP)
            if number % 20 == 0:
                await asyncio.sleep(0.01)
        await it.until(lambda: len(it.forewarn.log(DONE)) >= 2, "two reloads have ended")
        # With a change elsewhere too: another server, another interval, another log level.
        await it.reload('max_label_values = 50\n[log]\nlevel = "debug"', it.watched(), it.watched("other"))
        await it.told("the other one is watched", lambda scrape: servers(scrape) == {"jobs", "other"})
        scrape = await it.polled()
        assert scrape.value(SUCCESSFUL, file="settings") == 1
        assert (scrape.value(SUCCESS_TIME) or 0) > first
        assert it.command.connections == 2, "one for each server, and never another"
        assert len(it.command.lines("HELLO")) == 2
        assert it.command.lines("END") == []
        if isinstance(server, StandInFaktory):
            hellos = [entry for entry in server.ledger() if entry.get("verb") == "HELLO"]
            assert len({entry["peer"] for entry in hellos}) == len(hellos)
        assert (await it.forewarn.stop())[0] == 0
        assert len(it.forewarn.log(DONE)) < 50, "a storm is many reloads"


async def test_a_changed_server_is_parted_from_politely_and_its_counters_go_on(
    server: WatchedServer, tmp_path: Path
) -> None:
    async with reloaded(tmp_path, server) as it, Relay(server.port) as other:
        await done(server.url, 3)
        scrape = await it.told("three jobs were counted", lambda scrape: scrape.total(DURATIONS) == 3)
        await it.reload(it.watched(config_dir=str(server.config_dir)), it.watched("other", other))
        await it.until(lambda: [said.line for said in it.command.lines("END")] == ["END"], "it said goodbye")
        await it.until(lambda: it.command.connections == 2, "it came back")
        await it.told("throttles are read now", lambda its: its.value("forewarn_collector_up", collector="throttles"))
        scrape = await it.polled()
        assert scrape.total(DURATIONS, server="jobs") == 3
        assert scrape.value("faktory_restarts_total", server="jobs") == 0
        # The same server by another way: what was counted stays, and nothing in work is taken to have ended.
        async with await Wire.connect(server.url, "worker-1") as worker:
            await worker.push(queue="q", jobtype="Job")
            await worker.fetch("q")
            await it.told("it is at work", lambda its: its.total("faktory_busy_jobs", server="jobs") == 1)
            await it.reload(it.watched(relay=other, config_dir=str(server.config_dir)))
            scrape = await it.polled()
            assert scrape.total(DURATIONS, server="jobs") == 3
            assert servers(scrape) == {"jobs"}
        await it.until(lambda: len(it.command.lines("END")) == 2, "it said goodbye to the first way too")


async def test_servers_are_added_and_removed(server: WatchedServer, tmp_path: Path) -> None:
    async with reloaded(tmp_path, server) as it, Relay(server.port) as other:
        await it.reload(it.watched(), it.watched("other", other))
        await it.told("both are watched", lambda scrape: servers(scrape) == {"jobs", "other"})
        assert other.connections == 1
        await it.reload(it.watched("other", other))
        scrape = await it.forewarn.scrape()
        assert servers(scrape) == {"other"}
        assert {labels["server"] for (_, pairs) in scrape.samples if "server" in (labels := dict(pairs))} == {"other"}
        await it.command.ended()
        assert [said.verb for said in it.command.said][-1] == "END"
        status, _, text = await it.forewarn.get("/-/ready")
        assert (status, "jobs" in text) == (200, False)
        assert other.connections == 1


# --- what changed -----------------------------------------------------------------------------------------------------


async def test_a_new_password_in_its_file_is_used_after_a_reload(unstarted: WatchedServer, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("old-secret")
    await unstarted.start("old-secret")
    async with reloaded(tmp_path, unstarted, password_file=password) as it:
        up = "forewarn_collector_up"
        await it.told("the password fits", lambda scrape: scrape.value(up, collector="connection") == 1)
        await unstarted.stop()
        await unstarted.start("new-secret")
        errors = "forewarn_collector_errors_total"
        refused = await it.told(
            "it does not fit any more",
            lambda scrape: (scrape.value(errors, collector="connection", reason="auth") or 0) > 0,
        )
        password.write_text("new-secret\n")
        await it.reload(it.watched(password_file=str(password)))
        scrape = await it.told("it fits again", lambda scrape: scrape.value(up, collector="connection") == 1)
        # It was counted before the reload, and goes on.
        counted = (refused, scrape)
        before, after = (each.value(errors, collector="connection", reason="auth") or 0 for each in counted)
        assert after >= before > 0
        assert "-secret" not in it.forewarn.output()


async def test_a_broken_file_keeps_all_running_and_is_told_until_it_is_mended(
    server: WatchedServer, tmp_path: Path
) -> None:
    async with reloaded(tmp_path, server) as it:
        before = await it.polled()
        broken = it.watched().replace("redis_url", "redis_uri")
        await it.reload("intervall = '1s'", broken, told=REFUSED)
        problems = {entry["problem"] for entry in it.forewarn.log(REFUSED)}
        assert problems == {
            f"{it.file}: intervall: there is no such key; did you mean interval?",
            f"{it.file}: [[servers]] number 1: redis_uri: there is no such key; did you mean redis_url?",
        }
        scrape = await it.polled()
        assert scrape.value(SUCCESSFUL, file="settings") == 0
        assert scrape.value(SUCCESS_TIME) == before.value(SUCCESS_TIME)
        assert scrape.value("faktory_up", server="jobs") == 1
        await it.reload(it.watched())
        scrape = await it.polled()
        assert scrape.value(SUCCESSFUL, file="settings") == 1
        assert (scrape.value(SUCCESS_TIME) or 0) > (before.value(SUCCESS_TIME) or 0)
        assert it.command.connections == 1


async def test_pushes_by_statsd_and_otlp_go_on_to_where_the_new_settings_say_and_lose_no_count(
    server: WatchedServer, tmp_path: Path
) -> None:
    with inbox() as one, inbox() as two:
        async with receiving() as first, receiving() as second:

            def pushes(there: int, collector: str) -> str:
                return (
                    f'[statsd]\npush = "dogstatsd://127.0.0.1:{there}"\ninterval = "1s"\n[otlp]\n'
                    f'endpoint = "{collector}"\nmetrics_interval = "1s"\n[traces]\nratio = 1\npoll_ratio = 0'
                )

            def told() -> float:
                return sum(
                    amount
                    for there in (one, two)
                    for (name, _), amount in Reader(tags=True).take_all(list(there.packets)).samples.items()
                    if name == DURATIONS
                )

            async with reloaded(tmp_path, server, pushes(one.port, first.endpoint)) as it:
                await done(server.url, 2)
                await it.until(lambda: told() == 2, "two jobs are told by StatsD")
                await it.until(lambda: len(first.spans()) >= 2, "they are told as traces")
                one.stop()
                first.answer = _never_here
                await done(server.url, 3)
                await it.told(
                    "all five were counted, and judged",
                    lambda its: (
                        its.total(DURATIONS) == 5 and its.value("forewarn_trace_executions_total", decision="told") == 5
                    ),
                )
                # The server of the pushes has gone for good; another one takes its place. So does a watched server go.
                await it.reload(pushes(two.port, second.endpoint), it.watched("renamed"))
                await it.until(lambda: told() == 5, "all that was counted is told once")
                await it.until(
                    lambda: {"faktory_up"} <= {metric.name for metric in second.metrics()}, "metrics are pushed on"
                )
                traced = len({span.span_id for span in (*first.spans(), *second.spans())})
                await it.until(
                    lambda: len({span.span_id for span in (*first.spans(), *second.spans())}) >= 10,
                    f"all five jobs are told as traces, with a span for their wait (by now {traced})",
                )
                assert it.forewarn.log("a defect of Forewarn's: its log tells more") == []
            assert told() == 5
            ids = [span.span_id for span in (*first.spans(), *second.spans())]
            assert len(ids) == len(set(ids)), "a span was told twice"


async def _never_here(*_: object) -> None:
    await asyncio.Event().wait()


# --- the HTTP server --------------------------------------------------------------------------------------------------


async def test_another_address_is_listened_on_before_the_old_one_is_closed(
    standin: StandInFaktory, tmp_path: Path
) -> None:
    async with reloaded(tmp_path, standin) as it:
        # The address stands in the command line of the tests' Forewarn: in its file for this test.
        await it.forewarn.stop()
        it.forewarn.command[:] = [word for word in it.forewarn.command if not word.startswith("--web.listen-address")]
        port, other, taken = it.forewarn.port, free_port(), standin.port

        def listening(address: str) -> str:
            return f'[web]\nlisten_address = "{address}"'

        it.write(listening(f"127.0.0.1:{port}"), it.watched())
        await it.forewarn.start()
        # The same port on every address of this machine, while it is held on one of them.
        await it.reload(listening(f":{port}"), it.watched())
        assert (await _status(f"http://127.0.0.1:{port}/-/healthy")) == 200
        assert (await _status(f"http://[::1]:{port}/-/healthy")) == 200
        await it.reload(listening(f"127.0.0.1:{taken}"), it.watched(), told=REFUSED)
        assert "another program listens there" in it.forewarn.log(REFUSED)[-1]["problem"]
        assert (await it.forewarn.scrape()).value(SUCCESSFUL, file="settings") == 0
        await it.reload(listening(f"127.0.0.1:{other}"), it.watched())
        assert (await _status(f"http://127.0.0.1:{other}/-/healthy")) == 200

        async def closed() -> bool:
            try:
                await _status(f"http://127.0.0.1:{port}/-/healthy")
            except aiohttp.ClientConnectionError:
                return True
            return False

        await wait_until(closed, DEADLINE, what="the old address is closed")


async def _status(url: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status


async def test_who_may_reload_by_http_is_told_how_it_ended(standin: StandInFaktory, tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(f"basic_auth_users:\n  me: {hashed}\n")
    me = {"Authorization": aiohttp.encode_basic_auth("me", "secret")}
    lifecycle = "[web]\nenable_lifecycle = true\nconfig_file = 'web.yml'"
    async with reloaded(tmp_path, standin) as it:
        url = f"{it.forewarn.address}/-/reload"
        assert await _status(url, "POST") == 403  # it is off
        await it.reload(lifecycle, it.watched())
        assert await _status(url, "POST") == 401
        assert await _status(url, "POST", me) == 200
        it.write(lifecycle, "interval = 5")
        async with aiohttp.ClientSession() as session, session.post(url, headers=me) as answer:
            assert answer.status == 500
            assert "web.interval: there is no such key" in await answer.text()
        it.write(lifecycle, it.watched())
        assert set(await asyncio.gather(*(_status(url, "POST", me) for _ in range(20)))) == {200}
        assert len(it.forewarn.log(DONE)) < 10, "twenty who ask at once have twenty reloads"
        (tmp_path / "web.yml").write_text("basic_auth_user: x\n")
        async with aiohttp.ClientSession() as session:

            async def refused() -> bool:
                async with session.get(f"{it.forewarn.address}/metrics", headers=me) as answer:
                    return f'{SUCCESSFUL}{{file="web"}} 0' in await answer.text()

            await wait_until(refused, DEADLINE, what="the web configuration file is told to be wrong")
            async with session.post(url, headers=me) as answer:
                assert answer.status == 500
        assert "secret" not in it.forewarn.output()


def test_a_broken_web_configuration_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_text("basic_auth_user: x\n")
    command = [sys.executable, "-m", "exporter.cli", "run", "--faktory.url=tcp://127.0.0.1:1"]
    ended = subprocess.run(
        [*command, f"--web.config.file={tmp_path / 'web.yml'}"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"forewarn: {tmp_path / 'web.yml'}")
    assert "basic_auth_user" in ended.stderr


# --- signals ----------------------------------------------------------------------------------------------------------


async def test_no_hangup_ends_it_neither_at_the_start_nor_at_the_end(tmp_path: Path) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *child.command(sys.executable, "-m", "exporter.cli", "run", "--faktory.url=tcp://127.0.0.1:1"),
        env=environment() | {"FOREWARN_WEB_LISTEN_ADDRESS": f"127.0.0.1:{port}"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    # By a handle: to send a signal by the process's object may take its exit status away from the loop.
    handle = os.pidfd_open(process.pid)
    try:
        # Nothing but the interpreter itself has begun before.
        await wait_until(lambda: catches(process.pid, signal.SIGHUP), DEADLINE, every=0.001, what="SIGHUP is caught")
        listening = False
        until = time.monotonic() + DEADLINE
        while not listening and time.monotonic() < until:
            signal.pidfd_send_signal(handle, signal.SIGHUP)
            await asyncio.sleep(0.005)
            try:
                listening = await _status(f"http://127.0.0.1:{port}/-/healthy") == 200
            except aiohttp.ClientConnectionError:
                assert process.returncode is None
        assert listening
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        while process.returncode is None and time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGHUP)
            await asyncio.sleep(0.001)
        assert process.returncode == 0
    finally:
        os.close(handle)
        if process.returncode is None:
            process.kill()
            await process.wait()


HANGS_UP = """
import signal
signal.signal(signal.SIGHUP, lambda *_: print("hangup", flush=True))
print("runs", flush=True)
while True:
    signal.pause()
"""


async def test_under_exec_a_hangup_is_the_servers_and_forewarn_reads_its_settings_too(
    server: WatchedServer, tmp_path: Path
) -> None:
    port = free_port()
    async with Relay(server.port) as command:
        it = Written(tmp_path, server, command)
        it.write("nonsense = 1")
        flags = [f"--config={it.file}", f"--web.listen-address=127.0.0.1:{port}", "--interval=1s"]
        process = await asyncio.create_subprocess_exec(
            *line(*PYTHON, HANGS_UP, flags=flags),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(DEADLINE):
                assert await process.stdout.readline() == b"runs\n"
                while b"tried again every" not in await process.stderr.readline():
                    pass  # it tells that the settings are wrong
                # What was wrong at the start is tried again at once.
                it.write(it.watched())
                process.send_signal(signal.SIGHUP)
                assert await process.stdout.readline() == b"hangup\n"
            await wait_until(lambda: _ready(port), DEADLINE, every=0.1, what="it watches")
            it.write(it.watched(), it.watched("other"))
            process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(DEADLINE):
                assert await process.stdout.readline() == b"hangup\n"

            # Which of the two the program is must be said now: it was the only one.
            told = ""
            async with asyncio.timeout(DEADLINE):
                while "several servers are configured" not in told:
                    told = (await process.stderr.readline()).decode()
            assert 'file="settings"} 0' in await _text(f"http://127.0.0.1:{port}/metrics")
            it.write(it.watched(), it.watched("faktory"))
            process.send_signal(signal.SIGHUP)

            async def moved() -> bool:
                return 'faktory_up{server="faktory"} 1' in await _text(f"http://127.0.0.1:{port}/metrics")

            await wait_until(moved, DEADLINE, every=0.1, what="the new one is watched")
        finally:
            os.kill(process.pid, signal.SIGTERM)
            await asyncio.wait_for(process.wait(), DEADLINE)


async def _ready(port: int) -> bool:
    try:
        return await _status(f"http://127.0.0.1:{port}/-/ready") == 200
    except aiohttp.ClientConnectionError:
        return False


async def _text(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def test_reloads_that_change_a_server_do_not_make_it_be_asked_for_info_more_often(
    tmp_path: Path, server: WatchedServer
) -> None:
    async with Relay(server.port) as command:
        it = Reloaded(tmp_path, server, command)
        alone = [line for line in it.watched().splitlines() if not line.startswith("redis_url")]
        it.write(*alone)
        async with it.forewarn:
            await it.until(lambda: command.lines("INFO"), "INFO was asked, for there is no Redis")
            for limit in range(100, 104):
                await it.reload(*alone, f"connections_limit = {limit}")
                await it.told("it is in use", lambda it, limit=limit: it.value("faktory_connections_limit") == limit)  # type: ignore[misc]
                await it.polled()
        asked = [said.at for said in command.lines("INFO")]
    assert len(command.lines("HELLO")) >= 5, "the control: the server was parted from each time"
    assert all(later - earlier >= 14 for earlier, later in pairwise(asked)), asked
