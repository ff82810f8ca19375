"""StatsD both ways, on every server at hand: what is sent is told, what is told is sent, and nothing is disturbed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from exporter.catalogue import FROM_ZERO, LEVEL_TTL, METRICS, Kind
from exporter.model import NONE, Reason
from exporter.sidecar import SAVE_EVERY
from tests.forewarn import Forewarn, Scrape
from tests.live_scenarios import all_of
from tests.live_statsd import (
    ENTERPRISE,
    ENTERPRISE_LINES,
    LOOPBACK,
    TOLD_COUNTS,
    StatsdInbox,
    by_labels,
    check_told,
    flood,
    hostile,
    inbox,
    send_tcp,
    send_udp,
    send_unix,
)
from tests.prometheus import Prometheus
from tests.servers import StandInFaktory, WatchedServer, alive, children, free_port, wait_until
from tests.statsd_reader import Key, Reader, unescaped_tag
from tests.statsd_reference import expected
from tests.wire import Wire

SOON = 20.0
"""Seconds for a poll, a flush and a scrape on a busy machine."""

NOISE = 3.0
"""Seconds that a machine may be late."""

AGE = "faktory_statsd_last_packet_age_seconds"


def listens(port: int, *more: str) -> list[str]:
    return [f"--statsd.listen={LOOPBACK}:{port}", *more]


async def until_heard(forewarn: Forewarn, samples: int) -> Scrape:
    """Wait until exactly so many values were heard since the start; return what is told then."""
    await forewarn.wait_for("forewarn_statsd_samples_total", samples, SOON)
    return await forewarn.scrape()


def statsd_failures(forewarn: Forewarn) -> list[dict[str, Any]]:
    """Return what was logged of failures to receive, but for late answers: a busy machine has those."""
    return [
        it
        for it in forewarn.log("collector failing")
        if it["collector"] == "statsd" and it["reason"] != Reason.TIMEOUT.value
    ]


# --- in: scenarios ----------------------------------------------------------------------------------------------------


async def every_way_in(server: WatchedServer) -> None:
    """What Faktory Enterprise tells comes by UDP, by TCP in one stream, and by a unix socket: it counts three times."""
    await server.start()
    port, path = free_port(), server.folder / "statsd.sock"
    async with Forewarn(server, arguments=listens(port, f"--statsd.listen-unix={path}")) as forewarn:
        send_udp(port, *ENTERPRISE)
        send_tcp(port, b"\n".join(ENTERPRISE))  # the last line without its end
        send_unix(path, *ENTERPRISE)
        scrape = await until_heard(forewarn, 3 * ENTERPRISE_LINES)
        check_told(scrape, 3)
        assert by_labels(scrape, "forewarn_statsd_packets_total") == {
            ("udp",): len(ENTERPRISE),
            ("tcp",): ENTERPRISE_LINES,
            ("unix",): len(ENTERPRISE),
        }
        assert sum(by_labels(scrape, "forewarn_statsd_rejected_total").values()) == 0
        assert sum(by_labels(scrape, "forewarn_statsd_ignored_total").values()) == 0
        assert sum(by_labels(scrape, "forewarn_statsd_dropped_packets_total").values()) == 0
        assert scrape.value("forewarn_collector_up", collector="statsd") == 1
        await forewarn.stop()
        assert not path.exists()


async def hostile_packets(server: WatchedServer) -> None:
    """By ways that lose nothing every line of every packet is accounted for, as a slow and strict reader has it."""
    await server.start()
    port, path = free_port(), server.folder / "statsd.sock"
    arguments = listens(port, f"--statsd.listen-unix={path}", "--statsd.keep=all")
    async with Forewarn(server, arguments=arguments) as forewarn:
        packets = hostile()
        stream = b"".join(packet + b"\n" for packet in [*packets, b"x" * 100_000, b"end:1|c"])
        await asyncio.gather(asyncio.to_thread(send_tcp, port, stream), asyncio.to_thread(send_unix, path, *packets))
        await forewarn.wait_for("forewarn_statsd_packets_total", len(packets), SOON, transport="unix")
        by_tcp, by_unix = expected(stream), expected(b"\n".join(packets))
        await forewarn.wait_for("forewarn_statsd_packets_total", by_tcp.lines, SOON, transport="tcp")
        scrape = await forewarn.scrape()
        ignored = by_labels(scrape, "forewarn_statsd_ignored_total")
        assert scrape.value("forewarn_statsd_samples_total") == by_tcp.samples + by_unix.samples
        assert scrape.total("forewarn_statsd_rejected_total") == by_tcp.rejected + by_unix.rejected
        assert ignored[("event",)] + ignored[("check",)] == by_tcp.ignored + by_unix.ignored
        assert scrape.value("faktory_statsd_other_total", name="end", tags=NONE) == 1
        assert sum(by_labels(scrape, "forewarn_statsd_dropped_packets_total").values()) == 0
        assert statsd_failures(forewarn) == []


async def relayed(server: WatchedServer) -> None:
    """Another server behind Forewarn gets each packet byte for byte and in its order, while Forewarn counts them."""
    await server.start()
    port, behind_path = free_port(), server.folder / "agent.sock"
    with inbox() as behind, inbox(behind_path) as behind_unix:
        first = listens(port, f"--statsd.relay=udp://{LOOPBACK}:{behind.port}")
        second_path = server.folder / "statsd.sock"
        second = [f"--statsd.listen-unix={second_path}", f"--statsd.relay=unix://{behind_path}"]
        async with Forewarn(server, arguments=first) as forewarn, Forewarn(server, arguments=second) as other:
            packets = [*ENTERPRISE, *hostile()]
            for start in range(0, len(packets), 10):  # so slowly that no buffer on the way is full
                send_udp(port, *packets[start : start + 10])
                await asyncio.sleep(0.005)
            await asyncio.to_thread(send_unix, second_path, *packets)
            for each in (forewarn, other):
                await each.wait_for("forewarn_statsd_relayed_packets_total", len(packets), SOON)
            await wait_until(lambda: len(behind_unix.packets) == len(packets) == len(behind.packets))
            assert behind.packets == packets
            assert behind_unix.packets == packets
            for each in (forewarn, other):
                scrape = await each.scrape()
                assert scrape.total("forewarn_statsd_packets_total") == len(packets)
                assert sum(by_labels(scrape, "forewarn_statsd_dropped_packets_total").values()) == 0

            behind.packets.clear()
            send_tcp(port, b"\n".join(ENTERPRISE) + b"\n")
            await wait_until(lambda: behind.lines == ENTERPRISE_LINES, SOON, what="the lines of a stream came")
            assert max(map(len, behind.packets)) <= 1432
            assert b"\n".join(behind.packets) == b"\n".join(ENTERPRISE)


async def receiver_killed(server: WatchedServer) -> None:
    """The process that receives is killed: that is told, another takes its place, and what came meanwhile counts."""
    await server.start()
    port = free_port()
    async with Forewarn(server, interval="2s", arguments=listens(port)) as forewarn:
        send_udp(port, *ENTERPRISE)
        await until_heard(forewarn, ENTERPRISE_LINES)
        (receiver,) = children(forewarn.pid)
        os.kill(receiver, signal.SIGKILL)
        await wait_until(lambda: not alive(receiver))
        send_udp(port, *ENTERPRISE)
        with socket.create_connection((LOOPBACK, port), timeout=5) as stream:
            stream.sendall(b"\n".join(ENTERPRISE) + b"\n")
        check_told(await until_heard(forewarn, 3 * ENTERPRISE_LINES), 3)
        # One poll finds it dead, and tells; the next finds all well.
        await forewarn.wait_for("forewarn_collector_up", 1, SOON, collector="statsd")
        (failing,) = statsd_failures(forewarn)
        assert "SIGKILL" in failing["failure"]
        assert "statsd" in [it["collector"] for it in forewarn.log("collector recovered")]
        scrape = await forewarn.scrape()
        assert scrape.value("forewarn_collector_errors_total", collector="statsd", reason=failing["reason"]) == 1
        assert sum(by_labels(scrape, "forewarn_statsd_dropped_packets_total").values()) == 0
        assert receiver not in children(forewarn.pid)
        assert len(children(forewarn.pid)) == 1


async def port_taken(server: WatchedServer) -> None:
    """A port that another program holds is told with how to mend it, hinders nothing else, and is taken once free."""
    await server.start()
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((LOOPBACK, port))
        async with Forewarn(server, arguments=listens(port)) as forewarn:
            scrape = await forewarn.scrape()
            assert scrape.value("forewarn_collector_up", collector="statsd") == 0
            assert scrape.value("faktory_up") == 1
            (failing,) = statsd_failures(forewarn)
            assert str(port) in failing["failure"]
            assert "--statsd.listen" in failing["failure"]
            other.close()
            await forewarn.wait_for("forewarn_collector_up", 1, SOON, collector="statsd")
            send_udp(port, *ENTERPRISE)
            check_told(await until_heard(forewarn, ENTERPRISE_LINES), 1)


# --- out: scenarios ---------------------------------------------------------------------------------------------------

COUNTED = {
    metric.full_name("faktory")
    for metric in METRICS
    if metric.kind in {Kind.COUNTER, Kind.HISTOGRAM} and metric.name in FROM_ZERO
}
"""What Forewarn counts of a server since its own start: it is sent whole."""


def series(scrape: Scrape) -> dict[Key, float]:
    """Return the samples as a :class:`Reader` has them."""
    return {
        (name, frozenset((label, value) for label, value in labels if value)): value
        for (name, labels), value in scrape.samples.items()
    }


def counted_from_zero(name: str) -> bool:
    return name in COUNTED or name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") in COUNTED


def never_the_same(name: str) -> bool:
    """Whether a sample is another one at each scrape."""
    return name.startswith(("process_", "forewarn_snapshot_age", "forewarn_statsd_push"))


GAUGE_HISTOGRAM = "faktory_busy_job_age_seconds"
HOSTILE_JOBTYPE = "a,b|c:d#e%2C é"
EXPIRED = frozenset({"server": "faktory", "queue": "critical", "jobtype": "Send"}.items())


async def own_ear(server: WatchedServer) -> None:
    """What one Forewarn says, another hears: under its name and tags each value that stands at the first one's page."""
    await server.start()
    speaks_on, heard_on = free_port(), free_port()
    speaker_says = listens(heard_on, f"--statsd.push=dogstatsd://{LOOPBACK}:{speaks_on}", "--statsd.interval=1s")
    listener_says = listens(speaks_on, "--statsd.keep=all", "--max-label-values=1000")
    async with await Wire.connect(server.url, "worker-1") as wire:
        await wire.push(jobtype=HOSTILE_JOBTYPE)
        await wire.fetch()
        # Polls so rarely that all of one poll has been heard before the next.
        async with (
            Forewarn(server, arguments=listener_says) as listener,
            Forewarn(server, interval="8s", arguments=speaker_says) as speaker,
        ):
            began = series(await speaker.scrape())
            send_udp(heard_on, *ENTERPRISE)

            differing: dict[Key, object] = {}

            async def agree() -> bool:
                told = series(await speaker.scrape())
                if ("faktory_job_expirations_total", EXPIRED) not in told:
                    return False
                heard = heard_by(await listener.scrape())
                wanted = {key: _sent(key, value, began) for key, value in told.items() if not never_the_same(key[0])}
                differing.clear()
                for key, value in wanted.items():
                    if heard.get(key) != pytest.approx(value, rel=1e-12, abs=1e-9):
                        differing[key] = (value, heard.get(key))
                return not differing and len(wanted) > 200

            try:
                await wait_until(agree, 60, every=0.2, what="the second Forewarn tells what the first does")
            except AssertionError as error:
                error.add_note(f"{len(differing)} differ: {list(differing.items())[:10]}")
                raise
            scrape = await listener.scrape()
            assert scrape.total("forewarn_statsd_rejected_total") == 0
            assert scrape.value("forewarn_statsd_folded_total") == 0
            assert any(HOSTILE_JOBTYPE in dict(labels).values() for _, labels in heard_by(scrape))


def _sent(key: Key, value: float, began: Mapping[Key, float]) -> float:
    """Return what a server that adds everything up knows of a sample."""
    is_counter = key[0].endswith(("_total", "_bucket", "_count", "_sum")) and not key[0].startswith(GAUGE_HISTOGRAM)
    return value if not is_counter or counted_from_zero(key[0]) else value - began.get(key, value)


def heard_by(scrape: Scrape) -> dict[Key, float]:
    """Return what a Forewarn that keeps everything has heard another one say."""
    heard: dict[Key, float] = {}
    for metric in ("faktory_statsd_other_total", "faktory_statsd_other_level"):
        for labels, value in scrape.matching(metric):
            tags = [] if labels["tags"] == NONE else labels["tags"].split(",")
            pairs = [tag.partition(":")[::2] for tag in tags]
            heard[labels["name"], frozenset((label, unescaped_tag(text)) for label, text in pairs)] = value
    return heard


async def sums_over_restarts(server: WatchedServer) -> None:
    """The StatsD server is away twice in the middle of a run: at the end the sums of all counters are exact."""
    await server.start()
    port = free_port()
    with inbox() as there:
        arguments = listens(port, f"--statsd.push=dogstatsd://{LOOPBACK}:{there.port}", "--statsd.interval=1s")
        async with (
            Forewarn(server, arguments=arguments) as forewarn,
            await Wire.connect(server.url, "worker-1") as wire,
        ):
            await wait_until(lambda: there.packets, SOON, what="the first flush")
            rounds = await _work(wire, port)
            for _ in range(2):
                there.stop()
                failed = await failures(forewarn)
                rounds += await _work(wire, port)
                await told_failures(forewarn, failed + 1)
                there.start()
                rounds += await _work(wire, port)
            scrape = await until_heard(forewarn, rounds * ENTERPRISE_LINES)
            check_told(scrape, rounds)
            await forewarn.wait_for("faktory_jobs_processed_total", 2 * rounds, SOON)
            jobs = {
                ("faktory_jobs_processed_total", SERVER): 2.0 * rounds,
                ("faktory_jobs_failed_total", SERVER): float(rounds),
            }

            async def exact() -> bool:
                wanted = await counted(forewarn) | jobs
                return len(wanted) > 100 and sums(there, wanted) == approximately(wanted)

            await wait_until(exact, SOON, every=0.2, what="the sums of all that came are those of /metrics")

            # As exact in the end: what changes after the last flush goes with a last one.
            send_udp(port, *ENTERPRISE)
            await until_heard(forewarn, (rounds + 1) * ENTERPRISE_LINES)
            wanted = await counted(forewarn)
            status, _ = await forewarn.stop()
            assert status == 0
            assert sums(there, wanted) == approximately(wanted)


async def _work(wire: Wire, port: int, rounds: int = 3) -> int:
    """Let in each of so many rounds two jobs end, one of them badly, and Faktory Enterprise tell; return how many."""
    for _ in range(rounds):
        send_udp(port, *ENTERPRISE)
        for end in (wire.ack, wire.fail):
            await wire.push()
            job = await wire.fetch()
            assert job is not None
            await end(job["jid"])
        await asyncio.sleep(0.7)
    return rounds


SERVER = frozenset({("server", "faktory")})


async def counted(forewarn: Forewarn) -> dict[Key, float]:
    """Return what Forewarn has counted of the server since its start."""
    return {key: value for key, value in series(await forewarn.scrape()).items() if counted_from_zero(key[0])}


def sums(there: StatsdInbox, wanted: Mapping[Key, float]) -> dict[Key, float]:
    """Return what a StatsD server knows of these counters that has added up all that came."""
    known = Reader(tags=True).take_all(list(there.packets)).counters
    return {key: known[key] for key in wanted if key in known}


def approximately(wanted: Mapping[Key, float]) -> object:
    """Whole numbers exactly, seconds up to what adding them up in another order makes of them."""
    return pytest.approx(dict(wanted), rel=1e-12, abs=1e-9)


async def failures(forewarn: Forewarn) -> float:
    return (await forewarn.scrape()).total("forewarn_statsd_push_failures_total") or 0


async def told_failures(forewarn: Forewarn, at_least: float) -> None:
    async def enough() -> bool:
        return await failures(forewarn) >= at_least

    await wait_until(enough, SOON, every=0.1, what="a flush that failed is told")


async def last_flush(server: WatchedServer) -> None:
    """One interval is longer than the run: what was counted after the first flush leaves when Forewarn is stopped."""
    await server.start()
    port, path = free_port(), server.folder / "agent.sock"
    with inbox() as there, inbox(path) as there_unix:
        ways = {
            f"dogstatsd://{LOOPBACK}:{there.port}": there,
            f"dogstatsd+unix://{path}": there_unix,
            f"dogstatsd://{LOOPBACK}:{free_port()}": None,
            f"dogstatsd+unix://{server.folder}/nobody.sock": None,
        }
        for push, came in ways.items():
            arguments = listens(port, f"--statsd.push={push}", "--statsd.interval=10m")
            async with Forewarn(server, arguments=arguments) as forewarn:
                if came is None:
                    await told_failures(forewarn, 1)
                else:
                    await wait_until(lambda it=came: it.packets, SOON, what="the first flush")
                send_udp(port, *ENTERPRISE)
                await until_heard(forewarn, ENTERPRISE_LINES)
                status, _ = await forewarn.stop()  # which is an error if it takes longer than 5 s
                assert status == 0
                if came is not None:
                    known = Reader(tags=True, limit=8192 if came is there_unix else 1432).take_all(came.packets)
                    executions = {
                        tuple(dict(labels)[it] for it in ("queue", "jobtype")): value
                        for (name, labels), value in known.counters.items()
                        if name == "faktory_job_executions_total"
                    }
                    assert executions == TOLD_COUNTS["faktory_job_executions_total"]


# --- the alert: a scenario --------------------------------------------------------------------------------------------

QUICK_RULES = """\
interval = "1s"
history_interval = "1s"
[alerts.FaktoryStatsdSilentNearLimit]
seconds = 4
for = "1s"
window = "20s"
[alerts.FaktoryStatsdSilent]
seconds = 4
for = "1s"
"""


async def silent_near_the_limit(server: WatchedServer) -> None:
    """A real Prometheus with the shipped rules warns when a server near its limit falls silent, and not before."""
    await server.start()
    port = free_port()
    settings, rules = server.folder / "settings.toml", server.folder / "rules.yml"
    settings.write_text(QUICK_RULES)
    command = [sys.executable, "-m", "exporter.cli", "rules", "--settings", str(settings)]
    rendered = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    rules.write_bytes((await rendered.communicate())[0])
    crowd = [await Wire.connect(server.url) for _ in range(8)]
    talking = asyncio.create_task(_talk(port))
    try:
        async with (
            Forewarn(server, arguments=listens(port, "--faktory.connections-limit=10")) as forewarn,
            Prometheus(f"{LOOPBACK}:{forewarn.port}", rules=[rules]) as prometheus,
        ):

            async def firing() -> set[str]:
                return {
                    alert["labels"]["alertname"] for alert in await prometheus.alerts() if alert["state"] == "firing"
                }

            async def sounds_near_the_limit() -> bool:
                return bool(await prometheus.query(f"{AGE} < 4 and on () faktory_connections == 9"))

            async def warned() -> bool:
                return "FaktoryStatsdSilentNearLimit" in await firing()

            await prometheus.settled()
            await wait_until(sounds_near_the_limit, SOON, every=0.2, what="there is sound, and the limit is near")
            await asyncio.sleep(6)  # longer than the rules wait
            assert {it for it in await firing() if "Statsd" in it} == set()
            talking.cancel()
            await wait_until(warned, SOON, every=0.2, what="the silence is told")
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        for wire in crowd:
            await wire.abort()


async def _talk(port: int) -> None:
    while True:
        send_udp(port, *ENTERPRISE)
        await asyncio.sleep(0.5)


# --- silence: scenarios -----------------------------------------------------------------------------------------------


async def fallen_silent(server: WatchedServer, forewarn: Forewarn, port: int) -> float:
    """Let Forewarn hear the server, and be killed by SIGKILL once it has told of the silence; return when it was."""
    state = server.folder / "state.json"
    scrape = await forewarn.scrape()
    assert scrape.value(AGE) is None
    send_udp(port, *ENTERPRISE)
    heard_at = time.time()
    await until_heard(forewarn, ENTERPRISE_LINES)

    async def grown() -> bool:
        return (await forewarn.metric(AGE) or 0) > 6

    await wait_until(grown, SOON, every=0.1, what="the server has been silent for six seconds")
    check_age(await forewarn.scrape(), heard_at)

    def saved() -> bool:
        return state.exists() and bool(re.search(rb'"heard_at": *[0-9]', state.read_bytes()))

    await wait_until(saved, SAVE_EVERY + SOON, every=0.2, what="the state file holds when the server was heard")
    left = children(forewarn.pid)
    await forewarn.stop(signal.SIGKILL)
    await wait_until(lambda: not any(map(alive, left)), what="what received has ended too")
    return heard_at


def check_age(scrape: Scrape, heard_at: float) -> None:
    polled = time.time() - (scrape.value("forewarn_snapshot_age_seconds") or 0)
    age = scrape.value(AGE)
    assert age is not None
    assert polled - heard_at - NOISE <= age <= polled - heard_at + NOISE


async def silence(server: WatchedServer) -> None:
    """Silence is told as it grows; when Forewarn was killed meanwhile, it is not known how long it lasted."""
    await server.start()
    port = free_port()
    arguments, state = listens(port), server.folder / "state.json"
    async with Forewarn(server, arguments=arguments, state_file=state) as killed:
        await fallen_silent(server, killed, port)
    async with Forewarn(server, arguments=arguments, state_file=state) as again:
        assert await again.metric(AGE) is None
        send_udp(port, *ENTERPRISE)
        heard_at = time.time()
        check_told(await until_heard(again, ENTERPRISE_LINES), 1)
        check_age(await again.scrape(), heard_at)


# --- tests ------------------------------------------------------------------------------------------------------------

SCENARIOS = (
    every_way_in,
    hostile_packets,
    relayed,
    receiver_killed,
    port_taken,
    own_ear,
    sums_over_restarts,
    last_flush,
    silent_near_the_limit,
    silence,
)


@pytest.mark.slow
async def test_every_story_of_statsd_ends_well(unstarted: WatchedServer) -> None:
    await all_of(unstarted, SCENARIOS)


@pytest.mark.slow
async def test_silence_outlives_forewarn(standin: StandInFaktory) -> None:
    port = free_port()
    arguments, state = listens(port), standin.folder / "state.json"
    async with Forewarn(standin, arguments=arguments, state_file=state) as killed:
        heard_at = await fallen_silent(standin, killed, port)
    async with Forewarn(standin, arguments=arguments, state_file=state) as again:

        async def known() -> bool:
            return await again.metric(AGE) is not None

        await wait_until(known, LEVEL_TTL + SOON, every=0.5, what="it has listened for as long as no server is silent")
        check_age(await again.scrape(), heard_at)


class Attention:
    """How often a Forewarn polls and how long it takes to answer, as its own pages tell."""

    def __init__(self, forewarn: Forewarn) -> None:
        self.polls = 0
        self.oldest = 0.0
        """Seconds."""
        self.scrapes: list[float] = []
        self._forewarn = forewarn

    async def watch(self, seconds: float) -> Attention:
        taken_at, ends = 0.0, time.monotonic() + seconds
        while time.monotonic() < ends:
            started = time.monotonic()
            _, _, text = await self._forewarn.get("/metrics")
            self.scrapes.append(time.monotonic() - started)
            found = re.search(r"^forewarn_snapshot_age_seconds\{[^}]*\} (\S+)$", text, re.MULTILINE)
            assert found
            age = float(found[1])
            self.oldest = max(self.oldest, age)
            if started - age > taken_at + 0.5:
                self.polls += 1
                taken_at = started - age
            await asyncio.sleep(0.05)
        return self


async def test_a_flood_disturbs_neither_polls_nor_scrapes_and_all_of_it_is_accounted_for(
    server: WatchedServer,
) -> None:
    port, seconds = free_port(), 6.0
    async with Forewarn(server, arguments=listens(port, "--statsd.keep=all")) as forewarn:
        calm = await Attention(forewarn).watch(seconds)
        flooded, sent = await asyncio.gather(Attention(forewarn).watch(seconds), flood(port, seconds))

        async def balanced() -> bool:
            scrape = await forewarn.scrape()
            received = scrape.value("forewarn_statsd_packets_total", transport="udp") or 0
            return received + (scrape.value("forewarn_statsd_dropped_packets_total", at="kernel") or 0) == sent

        await wait_until(balanced, SOON, every=0.2, what=f"{sent} packets were received or dropped")
        assert sent > 50_000
        assert flooded.polls >= calm.polls - 1
        assert flooded.oldest < calm.oldest + 0.5
        assert sorted(flooded.scrapes)[len(flooded.scrapes) // 2] < 0.1
        assert statsd_failures(forewarn) == []
        # And it listens as before.
        heard = await forewarn.metric("forewarn_statsd_samples_total") or 0
        send_udp(port, *ENTERPRISE)
        await forewarn.wait_for("forewarn_statsd_samples_total", heard + ENTERPRISE_LINES, SOON)
