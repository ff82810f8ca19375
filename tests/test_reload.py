"""What a reload decides, how one follows another, and how SIGHUP asks for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.hangups import Hangups
from exporter.model import Choice
from exporter.reload import Outcome, Plan, Reading, Turns, certificates, plan
from exporter.secret import Secret
from exporter.settings import LogWatch, OtlpTarget, ServerSettings, Settings, StatsdListen, StatsdTarget
from exporter.statsd.address import UdpAddress
from exporter.web.address import Address
from tests.servers import wait_until

replace = msgspec.structs.replace

MAIL = ServerSettings(
    name="mail",
    url=Secret("tcp://mail:7419"),
    web_url="http://mail:7420",
    redis_url=Secret("redis://mail"),
    password=Secret("one"),
)
BULK = ServerSettings(name="bulk", url=Secret("tcp://bulk:7419"), web_url="http://bulk:7420")
NEWS = ServerSettings(name="news", url=Secret("tcp://news:7419"), web_url="http://news:7420")
TRACES = OtlpTarget(url="http://collector/v1/traces")
METRICS = OtlpTarget(url="http://collector/v1/metrics")
AGENT = StatsdTarget(tags=True, address=UdpAddress("agent", 8125))
BOTH = Settings(servers=(MAIL, BULK))


def decided(before: Settings, after: Settings) -> Plan:
    return plan(Reading(before), Reading(after))


def fates(found: Plan) -> dict[str, list[str]]:
    """The names of the servers by what becomes of them."""
    told = {
        "kept": [it.name for it in found.kept],
        "reopened": [it.name for it in found.reopened],
        "replaced": [it.name for it in found.replaced],
        "added": [it.name for it in found.added],
        "removed": list(found.removed),
    }
    return {fate: names for fate, names in told.items() if names}


def switches(found: Plan) -> set[str]:
    return {name for name in Plan.__struct_fields__ if getattr(found, name) is True}


# --- what becomes of servers ------------------------------------------------------------------------------------------


def test_the_same_settings_change_nothing() -> None:
    found = decided(BOTH, BOTH)
    assert fates(found) == {"kept": ["mail", "bulk"]}
    assert switches(found) == set()


def test_another_order_of_the_servers_changes_nothing() -> None:
    found = decided(BOTH, replace(BOTH, servers=(BULK, MAIL)))
    assert fates(found) == {"kept": ["bulk", "mail"]}


def test_servers_come_and_go_by_their_names() -> None:
    found = decided(BOTH, replace(BOTH, servers=(NEWS, BULK)))
    assert fates(found) == {"kept": ["bulk"], "added": ["news"], "removed": ["mail"]}


@pytest.mark.parametrize(
    "changed",
    [
        {"password": Secret("two")},
        {"password": None},
        {"redis_password": Secret("two")},
        {"web_url": "https://mail:7420"},
        {"config_dir": Path("/etc/faktory")},
        {"connections_limit": 100},
        {"ca_file": Path("/ca.pem")},
        {"redis_ca_file": Path("/ca.pem")},
        {"statsd": StatsdListen(address=Address(None, 8125))},
        {"log": LogWatch(files=("/var/log/faktory.log",))},
    ],
    ids=lambda it: next(iter(it)),
)
def test_a_server_that_is_asked_in_another_way_is_reopened_alone(changed: dict[str, Any]) -> None:
    after = replace(BOTH, servers=(replace(MAIL, **changed), BULK))
    assert fates(decided(BOTH, after)) == {"kept": ["bulk"], "reopened": ["mail"]}


@pytest.mark.parametrize(
    "changed", [{"url": Secret("tcp://other:7419")}, {"redis_url": Secret("redis://other")}, {"redis_url": None}]
)
def test_another_address_is_another_server_under_the_name(changed: dict[str, Any]) -> None:
    after = replace(BOTH, servers=(replace(MAIL, **changed), BULK))
    assert fates(decided(BOTH, after)) == {"kept": ["bulk"], "replaced": ["mail"]}


@pytest.mark.parametrize(("before", "after"), [(None, TRACES), (TRACES, None)])
def test_switching_traces_on_or_off_reopens_every_server_for_more_is_read_of_jobs(
    before: OtlpTarget | None, after: OtlpTarget | None
) -> None:
    found = decided(replace(BOTH, otlp_traces=before), replace(BOTH, otlp_traces=after))
    assert fates(found) == {"reopened": ["mail", "bulk"]}
    assert switches(found) == {"otlp", "choice"}


def test_a_server_whose_output_is_handed_over_from_now_on_is_reopened() -> None:
    found = plan(Reading(BOTH), Reading(BOTH, {"bulk": lambda: ()}))
    assert fates(found) == {"kept": ["mail"], "reopened": ["bulk"]}
    assert fates(plan(Reading(BOTH, {"bulk": lambda: ()}), Reading(BOTH, {"bulk": lambda: ()}))) == {
        "kept": ["mail", "bulk"]
    }


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_server_whose_certificates_were_renewed_in_their_file_is_reopened(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("old")
    settings = replace(BOTH, servers=(replace(MAIL, redis_ca_file=ca), BULK))
    before = Reading(settings, certificates=certificates(settings))
    assert fates(plan(before, before)) == {"kept": ["mail", "bulk"]}
    ca.write_text("new")
    after = Reading(settings, certificates=certificates(settings))
    assert fates(plan(before, after)) == {"kept": ["bulk"], "reopened": ["mail"]}


def test_the_collectors_are_reached_anew_where_their_certificates_were_renewed(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("old")
    settings = replace(BOTH, otlp_metrics=replace(METRICS, key_file=key))
    before = Reading(settings, certificates=certificates(settings))
    assert switches(plan(before, before)) == set()
    key.write_text("new")
    found = plan(before, Reading(settings, certificates=certificates(settings)))
    assert switches(found) == {"otlp", "certificates"}
    assert fates(found) == {"kept": ["mail", "bulk"]}


def test_a_file_that_cannot_be_read_just_now_counts_as_it_was(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("old")
    settings = replace(BOTH, servers=(replace(MAIL, ca_file=ca),))
    before = Reading(settings, certificates=certificates(settings))
    ca.unlink()
    after = Reading(settings, certificates=certificates(settings))
    assert fates(plan(before, after)) == {"kept": ["mail"]}


# --- all else ---------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "interval": ({"interval": 9.0}, {"interval"}),
    "state_file": ({"state_file": Path("/state.json")}, {"state"}),
    "log_format": ({"log_format": "json"}, {"log"}),
    "log_level": ({"log_level": "debug"}, {"log"}),
    "web_listen_address": ({"web_listen_address": Address(None, 9000)}, {"web"}),
    "web_config_file": ({"web_config_file": Path("/web.yml")}, {"web"}),
    "web_lifecycle": ({"web_lifecycle": True}, {"web"}),
    "web_runbooks_url": ({"web_runbooks_url": "https://wiki"}, {"web"}),
    "web_dashboards_url": ({"web_dashboards_url": "https://grafana"}, {"web"}),
    "max_label_values": ({"max_label_values": 10}, {"labels"}),
    "otlp_traces": ({"otlp_traces": replace(TRACES, url="http://other/v1/traces")}, {"otlp"}),
    "otlp_metrics": ({"otlp_metrics": METRICS}, {"otlp"}),
    "otlp_metrics_interval": ({"otlp_metrics_interval": 5.0}, {"otlp"}),
    "traces": ({"traces": Choice(ratio=1.0)}, {"choice"}),
    "traces_poll_ratio": ({"traces_poll_ratio": 1.0}, {"otlp"}),
    "statsd_push": ({"statsd_push": AGENT}, {"statsd"}),
    "statsd_interval": ({"statsd_interval": 5.0}, {"statsd"}),
}
"""For each setting of the sidecar itself one change, and what is to be done for it."""


@pytest.mark.parametrize(("changed", "wanted"), EVERYTHING.values(), ids=EVERYTHING)
def test_each_setting_of_the_sidecar_changes_what_it_says_and_no_server(
    changed: dict[str, Any], wanted: set[str]
) -> None:
    before = replace(BOTH, otlp_traces=TRACES)
    found = decided(before, replace(before, **changed))
    assert switches(found) == wanted
    assert fates(found) == {"kept": ["mail", "bulk"]}


def test_no_setting_is_forgotten() -> None:
    assert {*EVERYTHING, "servers"} == set(Settings.__struct_fields__)


# --- what is told -----------------------------------------------------------------------------------------------------


def told(outcome: Outcome, web: str | None = None, *, named: bool = False) -> dict[tuple[str, ...], object]:
    return {
        (metric.name.removeprefix("forewarn_config_last_reload_"), *key): value
        for metric, keys, values in outcome.own(web, named=named)
        for key, value in zip(keys, values, strict=True)
    }


def test_the_settings_at_the_start_count_as_read() -> None:
    assert told(Outcome(lambda: 100.0)) == {("successful", "settings"): 1, ("success_timestamp_seconds",): 100.0}


def test_a_reload_that_failed_keeps_the_time_of_the_one_that_did_not() -> None:
    now = [100.0]
    outcome = Outcome(lambda: now[0])
    now[0] = 200.0
    outcome.take(good=False)
    assert told(outcome) == {("successful", "settings"): 0, ("success_timestamp_seconds",): 100.0}
    outcome.take(good=True)
    assert told(outcome) == {("successful", "settings"): 1, ("success_timestamp_seconds",): 200.0}


@pytest.mark.parametrize(("problem", "good"), [(None, 1), ("web.yml: line 3", 0)])
def test_the_web_configuration_file_is_told_where_one_is_named(problem: str | None, good: int) -> None:
    found = told(Outcome(), problem, named=True)
    assert found["successful", "web"] == good
    assert found["successful", "settings"] == 1


# --- one after the other ----------------------------------------------------------------------------------------------


class Reloads:
    """Reloads that the test ends."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.most_at_once = 0
        self.goes_on = asyncio.Event()

    async def one(self) -> str | None:
        self.begun += 1
        number = self.begun
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.goes_on.wait()
        self.at_once -= 1
        return f"the end of {number}"


async def test_all_who_ask_while_a_reload_is_under_way_share_one_more() -> None:
    reloads = Reloads()
    turns = Turns(reloads.one, rest=0.0)
    first = turns.ask()
    await wait_until(lambda: reloads.begun == 1, 20)
    later = [turns.ask() for _ in range(1000)]
    assert not first.done()
    reloads.goes_on.set()
    assert await first == "the end of 1"
    assert {await each for each in later} == {"the end of 2"}
    assert (reloads.begun, reloads.most_at_once) == (2, 1)


async def test_who_asks_between_two_reloads_waits_for_one_that_begins_after_that() -> None:
    reloads = Reloads()
    reloads.goes_on.set()
    turns = Turns(reloads.one, rest=0.0)
    assert [await turns.ask() for _ in range(3)] == ["the end of 1", "the end of 2", "the end of 3"]


async def test_a_storm_gives_the_sidecar_a_rest_between_two_reloads() -> None:
    reloads = Reloads()
    reloads.goes_on.set()
    turns = Turns(reloads.one, rest=3600.0)
    assert await turns.ask() == "the end of 1"
    waiting = [turns.ask() for _ in range(100)]
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert (reloads.begun, done) == (1, set())
    await turns.close()


async def test_at_the_end_the_reload_under_way_is_waited_for_and_no_other_begins() -> None:
    reloads = Reloads()
    turns = Turns(reloads.one, rest=0.0)
    first = turns.ask()
    await wait_until(lambda: reloads.begun == 1, 20)
    second = turns.ask()
    closing = asyncio.create_task(turns.close())
    await asyncio.sleep(0)
    assert not closing.done()
    reloads.goes_on.set()
    await asyncio.wait_for(closing, 20)
    assert (await first, second.cancelled(), reloads.begun) == ("the end of 1", True, 1)


# --- SIGHUP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hangups() -> Iterator[Hangups]:
    before = signal.getsignal(signal.SIGHUP)
    made = Hangups()
    yield made
    signal.signal(signal.SIGHUP, before)


async def test_each_signal_asks_while_the_loop_runs(hangups: Hangups) -> None:
    asked: list[int] = []
    hangups.lead_to(lambda: asked.append(1))
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: len(asked) == 1, 20)
    os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: len(asked) == 2, 20)


async def test_signals_before_the_loop_runs_ask_once(hangups: Hangups) -> None:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGHUP)
    await wait_until(lambda: hangups._came, 20)
    asked: list[int] = []
    hangups.lead_to(lambda: asked.append(1))
    assert asked == [1]


async def test_signals_at_the_end_ask_for_nothing_and_end_nothing(hangups: Hangups) -> None:
    asked: list[int] = []
    hangups.lead_to(lambda: asked.append(1))
    hangups.close()
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    assert asked == []


SLEEPS = """
import asyncio, os, signal, sys, threading
from exporter.hangups import Hangups

async def main():
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, sys.exit)
    came = asyncio.Event()
    hangups.lead_to(came.set)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGHUP)).start()
    await came.wait()
    hangups.close()
    print("came")

hangups = Hangups()
if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_wakes_a_loop_that_sleeps(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    ended = subprocess.run([sys.executable, "-c", SLEEPS, loop], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("came\n", "", 0)


def test_the_signal_is_taken_before_anything_else_is_loaded() -> None:
    heavy = ("msgspec", "aiohttp", "exporter.settings")
    code = f"import sys, exporter.hangups; print([it for it in {heavy!r} if it in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "[]\n"
