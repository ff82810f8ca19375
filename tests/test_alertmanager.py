"""The shipped Alertmanager configuration: who is told what, and what is silenced by what, by a real Alertmanager."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import yaml

from tests.alertmanager import SHIPPED, Alertmanager, shipped
from tests.programs import need
from tests.servers import wait_until
from tests.webhook import Webhook

DEADLINE = 30.0
AT_ONCE = 2000
"""Alerts in one request, where there are thousands."""

CRITICAL = {"severity": "critical"}
WARNING = {"severity": "warning"}
INFO = {"severity": "info"}
QUEUE = {"queue": "mail"}
KIND = {"queue": "mail", "jobtype": "Welcome"}
THROTTLE = {"queue": "mail", "scope": "cluster"}
CRASH = {"class": "concurrent-map", "component": "webui.busyWorkers", "known": "faktory-busy-page"}

ALERTS: dict[str, dict[str, str]] = {
    "FaktoryDown": CRITICAL,
    "FaktoryRedisAway": CRITICAL,
    "FaktoryCrashLooping": CRITICAL,
    "FaktoryNoWorkers": CRITICAL,
    "FaktoryRestarted": INFO,
    "FaktoryProcessCrashLoop": CRITICAL,
    "FaktoryProcessCrashed": WARNING | CRASH,
    "FaktoryProcessDiedUnexplained": WARNING | {"class": "killed", "component": "(none)", "known": "none"},
    "FaktoryStoreCrashed": CRITICAL | {"event": "store_crashed"},
    "FaktoryJobLost": CRITICAL | {"event": "job_lost"},
    "FaktoryFlushed": CRITICAL | {"event": "flushed"},
    "FaktoryKnownCrashRisk": WARNING | {"known": "faktory-busy-page"},
    "FaktoryRecoveredPanic": INFO,
    "FaktoryDataRace": INFO,
    "FaktoryAcceptQueueFilling/critical": CRITICAL,
    "FaktoryAcceptQueueFilling/warning": WARNING,
    "FaktoryProcessFileDescriptors/critical": CRITICAL,
    "FaktoryProcessFileDescriptors/warning": WARNING,
    "FaktoryProcessFileDescriptorsFilling": WARNING,
    "FaktoryCloseWaitLeak": WARNING | {"state": "close_wait"},
    "FaktoryConnectionsNearLimit/critical": CRITICAL,
    "FaktoryConnectionsNearLimit/warning": WARNING,
    "FaktoryConnectionsRefused": CRITICAL,
    "FaktoryConnectionsLimitUnknown": INFO,
    "FaktoryConnectionsFilling": WARNING,
    "FaktoryStatsdSilentNearLimit": CRITICAL,
    "FaktoryStatsdSilent": WARNING,
    "FaktoryPeerHoldsConnections": WARNING | {"peer": "10.0.0.7"},
    "FaktoryReservationNearlyUsed": WARNING | KIND,
    "FaktoryReservationsExpired": WARNING,
    "FaktoryWorkerCrashed": WARNING | {"reason": "vanished"},
    "FaktoryWorkerHung": WARNING | {"reason": "hung"},
    "FaktoryWorkerCrashRateHigh": CRITICAL,
    "FaktoryJobsOrphaned": WARNING | KIND,
    "FaktoryThrottleSaturated": WARNING | THROTTLE,
    "FaktoryThrottleNotDraining": WARNING | QUEUE,
    "FaktoryThrottleWithoutQueue": INFO | THROTTLE,
    "FaktoryRedisSlow": WARNING | {"collector": "redis"},
    "FaktoryRedisRoundTripHigh": WARNING,
    "FaktoryQueueLatencyBudgetBurn/critical": CRITICAL | QUEUE | {"long": "1h", "short": "5m"},
    "FaktoryQueueLatencyBudgetBurn/warning": WARNING | QUEUE | {"long": "1d", "short": "2h"},
    "FaktoryQueuePausedWithBacklog": WARNING | QUEUE,
    "FaktoryBacklogGrowing": WARNING | QUEUE,
    "FaktoryRetryStorm": WARNING,
    "FaktoryJobTypeFailing": WARNING | KIND,
    "FaktoryDeadJobsGrowing": WARNING | {"set": "dead"},
    "FaktorySchedulerStuck": CRITICAL | {"set": "scheduled"},
    "FaktoryBusyWithoutCompletions": WARNING | QUEUE,
    "FaktoryBusyJobOlderThanUsual": WARNING | KIND,
    "FaktoryMemoryGrowing": WARNING,
    "ForewarnAbsent": CRITICAL,
    "ForewarnDown": CRITICAL,
    "ForewarnCollectorFailing/health": WARNING | {"collector": "health"},
    "ForewarnCollectorFailing/connection": WARNING | {"collector": "connection"},
    "ForewarnCollectorFailing/info": WARNING | {"collector": "info"},
    "ForewarnSnapshotStale": WARNING,
    "ForewarnLogUnread": WARNING,
    "ForewarnLabelOverflow": INFO | {"label": "queue"},
    "ForewarnStatsdLost/unread": WARNING | {"lost": "unread"},
    "ForewarnStatsdLost/unrelayed": WARNING | {"lost": "unrelayed"},
    "ForewarnStatsdPushFailing": WARNING,
    "ForewarnConfigReloadFailed": WARNING | {"file": "settings"},
    "ForewarnWatchdog": {"severity": "none"},
}
"""Every alert, in each form that makes a difference, with its labels beside those of :func:`labels_of`."""

NAMES = {form.partition("/")[0] for form in ALERTS}

OF_NO_SERVER = {
    "ForewarnDown": ("cluster", "job", "instance"),
    "ForewarnStatsdPushFailing": ("cluster", "job", "instance"),
    "ForewarnConfigReloadFailed": ("cluster", "job", "instance"),
    "ForewarnAbsent": ("cluster",),
    "ForewarnWatchdog": ("cluster",),
}
"""The other alerts come from a metric of a watched server and have ``server`` too."""

OF_FAKTORY = {form for form in ALERTS if form.startswith("Faktory")}
OF_DEATHS = {
    "FaktoryProcessCrashLoop",
    "FaktoryProcessCrashed",
    "FaktoryProcessDiedUnexplained",
    "FaktoryStoreCrashed",
    "FaktoryJobLost",
    "FaktoryFlushed",
}
"""Why a server died and what was lost: told whatever else is the matter."""
OF_STATSD = {form for form in ALERTS if form.startswith("ForewarnStatsd")}
OF_ONE_FOREWARN = {form for form in ALERTS if form.startswith(("ForewarnCollectorFailing", "ForewarnSnapshotStale"))}

SILENCES: dict[str, set[str]] = {
    "FaktoryConnectionsNearLimit/critical": {"FaktoryConnectionsNearLimit/warning"},
    "FaktoryQueueLatencyBudgetBurn/critical": {"FaktoryQueueLatencyBudgetBurn/warning"},
    "FaktoryProcessFileDescriptors/critical": {"FaktoryProcessFileDescriptors/warning"},
    "FaktoryAcceptQueueFilling/critical": {"FaktoryAcceptQueueFilling/warning", "FaktoryCloseWaitLeak"},
    "FaktoryAcceptQueueFilling/warning": {"FaktoryCloseWaitLeak"},
    "FaktoryDown": OF_FAKTORY - {"FaktoryDown"} - OF_DEATHS | OF_ONE_FOREWARN,
    "FaktoryRedisAway": {
        "FaktoryRedisSlow",
        "FaktoryRedisRoundTripHigh",
        "FaktoryStatsdSilent",
        "FaktoryStatsdSilentNearLimit",
        "FaktorySchedulerStuck",
        "FaktoryBusyWithoutCompletions",
        "FaktoryBacklogGrowing",
        "FaktoryQueueLatencyBudgetBurn/critical",
        "FaktoryQueueLatencyBudgetBurn/warning",
        "FaktoryThrottleSaturated",
        "FaktoryThrottleNotDraining",
        "FaktoryThrottleWithoutQueue",
        "ForewarnCollectorFailing/info",
    },
    "FaktoryStatsdSilentNearLimit": {"FaktoryStatsdSilent"},
    "FaktoryCrashLooping": {"FaktoryRestarted"},
    "FaktoryProcessCrashLoop": {"FaktoryCrashLooping", "FaktoryRestarted"},
    "FaktoryProcessCrashed": {"FaktoryRestarted"},
    "FaktoryProcessDiedUnexplained": {"FaktoryRestarted"},
    "FaktoryNoWorkers": {
        "FaktoryBacklogGrowing",
        "FaktoryQueueLatencyBudgetBurn/critical",
        "FaktoryQueueLatencyBudgetBurn/warning",
        "FaktoryBusyWithoutCompletions",
        "FaktoryThrottleNotDraining",
    },
    "FaktoryWorkerCrashRateHigh": {"FaktoryWorkerCrashed"},
    "FaktoryConnectionsRefused": {"FaktoryConnectionsFilling", "ForewarnCollectorFailing/connection"},
    "FaktoryThrottleNotDraining": {"FaktoryBacklogGrowing"},
    "ForewarnDown": (
        OF_FAKTORY - OF_DEATHS
        | OF_ONE_FOREWARN
        | OF_STATSD
        | {"ForewarnLogUnread", "ForewarnLabelOverflow", "ForewarnConfigReloadFailed", "ForewarnAbsent"}
    ),
}
"""What is silenced while another alert of the same thing fires. Nothing else is."""


class Silenced(NamedTuple):
    """One rule: the source silences the target where, and only where, these labels agree."""

    source: str
    target: str
    equal: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source}-silences-{self.target}"


SERVER = ("cluster", "job", "instance", "server")
RULES = [
    Silenced(
        "FaktoryConnectionsNearLimit/critical",
        "FaktoryConnectionsNearLimit/warning",
        ("alertname", *SERVER, "queue", "jobtype", "scope", "set"),
    ),
    Silenced(
        "FaktoryQueueLatencyBudgetBurn/critical",
        "FaktoryQueueLatencyBudgetBurn/warning",
        ("alertname", *SERVER, "queue", "jobtype", "scope", "set"),
    ),
    Silenced("FaktoryDown", "FaktoryConnectionsRefused", SERVER),
    Silenced("FaktoryDown", "ForewarnSnapshotStale", SERVER),
    Silenced("FaktoryRedisAway", "FaktoryQueueLatencyBudgetBurn/critical", SERVER),
    Silenced("FaktoryRedisAway", "ForewarnCollectorFailing/info", (*SERVER, "collector")),
    Silenced("FaktoryStatsdSilentNearLimit", "FaktoryStatsdSilent", SERVER),
    Silenced("FaktoryCrashLooping", "FaktoryRestarted", SERVER),
    Silenced("FaktoryProcessCrashLoop", "FaktoryCrashLooping", SERVER),
    Silenced("FaktoryProcessCrashed", "FaktoryRestarted", SERVER),
    Silenced("FaktoryAcceptQueueFilling/warning", "FaktoryCloseWaitLeak", SERVER),
    Silenced("FaktoryNoWorkers", "FaktoryBacklogGrowing", SERVER),
    Silenced("FaktoryWorkerCrashRateHigh", "FaktoryWorkerCrashed", SERVER),
    Silenced("FaktoryConnectionsRefused", "FaktoryConnectionsFilling", SERVER),
    Silenced("FaktoryConnectionsRefused", "ForewarnCollectorFailing/connection", (*SERVER, "collector")),
    Silenced("FaktoryThrottleNotDraining", "FaktoryBacklogGrowing", (*SERVER, "queue")),
    Silenced("ForewarnDown", "FaktoryJobsOrphaned", ("cluster", "job", "instance")),
    Silenced("ForewarnDown", "ForewarnLabelOverflow", ("cluster", "job", "instance")),
    Silenced("ForewarnDown", "ForewarnLogUnread", ("cluster", "job", "instance")),
    Silenced("ForewarnDown", "ForewarnStatsdPushFailing", ("cluster", "job", "instance")),
    Silenced("ForewarnDown", "ForewarnConfigReloadFailed", ("cluster", "job", "instance")),
    Silenced("ForewarnDown", "ForewarnAbsent", ("cluster",)),
]
"""Each rule of the file once, with a target for each kind that it names; ``collector`` stands in a matcher."""


def labels_of(form: str, name: str) -> dict[str, str]:
    """Return the labels of an alert about the server ``name``, which nothing shares with a server of another name."""
    alertname = form.partition("/")[0]
    place = {"cluster": name, "job": "forewarn", "instance": f"{name}:9386", "server": name}
    kept = OF_NO_SERVER.get(alertname, tuple(place))
    return {"alertname": alertname} | {label: place[label] for label in kept} | ALERTS[form]


def document() -> dict[str, Any]:
    """Return the shipped file."""
    loaded: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    return loaded


def amtool(*arguments: str | Path) -> str:
    """Return what amtool says; fail with it where it fails."""
    need("amtool", "prometheus-alertmanager")
    told = subprocess.run(["amtool", *arguments], capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def with_examples() -> str:
    """Return the shipped file with its examples switched on."""
    return re.sub(r"(?m)^( *)#(?! \S|$)", r"\1", SHIPPED.read_text())


# --- the file -------------------------------------------------------------------------------------------------------


def test_amtool_finds_nothing_to_mend() -> None:
    assert "SUCCESS" in amtool("check-config", SHIPPED)


def test_the_examples_are_right_too(tmp_path: Path) -> None:
    (tmp_path / "alertmanager.yml").write_text(with_examples())
    amtool("check-config", tmp_path / "alertmanager.yml")
    ways = {way for receiver in yaml.safe_load(with_examples())["receivers"] for way in receiver} - {"name"}
    assert ways == {"webhook_configs", "pagerduty_configs", "slack_configs", "email_configs"}


def test_every_alert_that_the_file_names_exists() -> None:
    mentioned = re.findall(r"\b(?:Faktory|Forewarn)(?:[A-Z]\w*)?(?:\.[+*])?(?![\w'])", SHIPPED.read_text())
    patterns = set(mentioned) - {"Faktory", "Forewarn"}
    assert len(patterns) > 20
    assert [it for it in patterns if not any(re.fullmatch(it, name) for name in NAMES)] == []


def test_the_alerts_of_these_tests_are_those_of_the_rules() -> None:
    groups = yaml.safe_load((SHIPPED.parent / "faktory.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert {(form.partition("/")[0], labels["severity"]) for form, labels in ALERTS.items()} == {
        (rule["alert"], rule["labels"]["severity"]) for rule in rules
    }


def test_secrets_stand_in_files_and_receivers_on_this_machine() -> None:
    text = with_examples()
    assert not re.search(r"\b(?:routing_key|service_key|api_url|auth_password|password|credentials|token):", text)
    urls = [way["url"] for receiver in document()["receivers"] for way in receiver["webhook_configs"]]
    assert urls == [f"http://127.0.0.1:9095/{name}" for name in ("page", "ticket", "info", "watchdog")]


def test_only_the_end_of_the_watchdog_is_not_told() -> None:
    told = {it["name"]: it["webhook_configs"][0]["send_resolved"] for it in document()["receivers"]}
    assert told == {"page": True, "ticket": True, "info": True, "watchdog": False}


def seconds(time_string: str) -> float:
    """Return the seconds of a time such as 1h or 300ms."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h|d)", time_string))


def timings() -> dict[str, dict[str, float]]:
    """Return the times of each receiver's route in seconds: a route without its own has its parent's."""
    root = document()["route"]
    names = ("group_wait", "group_interval", "repeat_interval")
    return {it["receiver"]: {name: seconds(it.get(name, root[name])) for name in names} for it in root["routes"]}


def test_no_alert_is_too_short_lived_to_be_told() -> None:
    """The shortest lives: a minute for a new group, ten minutes for one that exists."""
    for receiver, times in timings().items():
        assert times["group_wait"] < 60, receiver
        assert times["group_interval"] < 600, receiver


def test_a_group_is_not_told_at_every_second_look_only() -> None:
    assert [receiver for receiver, it in timings().items() if it["repeat_interval"] <= it["group_interval"]] == []


def test_the_more_severe_the_sooner_told_and_the_oftener_repeated() -> None:
    by_severity = [timings()[receiver] for receiver in ("watchdog", "page", "ticket", "info")]
    for name in ("group_wait", "repeat_interval"):
        assert [it[name] for it in by_severity] == sorted(it[name] for it in by_severity)
    assert timings()["info"]["repeat_interval"] >= 86400


# --- routes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=FaktoryDown severity=critical", "page"),
        ("alertname=FaktoryMemoryGrowing severity=warning", "ticket"),
        ("alertname=FaktoryRestarted severity=info", "info"),
        ("alertname=ForewarnWatchdog severity=none", "watchdog"),
        ("alertname=ForewarnWatchdog severity=critical", "watchdog"),
        ("alertname=SomethingElse severity=none", "ticket"),
        ("alertname=SomethingElse severity=emergency", "ticket"),
        ("alertname=SomethingElse", "ticket"),
    ],
)
def test_an_alert_goes_to(labels: str, receiver: str) -> None:
    told = amtool("config", "routes", "test", f"--config.file={SHIPPED}", *labels.split())
    assert told.split() == [receiver]


async def test_a_server_rings_once_per_alert_not_once_per_queue() -> None:
    async with Webhook() as webhook, Alertmanager(shipped(webhook.address)) as alertmanager:
        eu = {"cluster": "eu"}
        backlog = {server: labels_of("FaktoryBacklogGrowing", server) | eu for server in ("one", "two")}
        await alertmanager.post_alerts(
            [backlog["one"] | {"queue": queue} for queue in ("mail", "video", "text")]
            + [backlog["one"] | {"instance": "another:9386"}]
            + [labels_of("FaktoryRetryStorm", "one") | eu]
            + [backlog["two"]]
        )
        await wait_until(lambda: len(webhook.notifications) >= 3, what="all are told")
        told = [(it.payload["groupLabels"], len(it.alerts)) for it in webhook.notifications]
    group = {"alertname": "FaktoryBacklogGrowing", "cluster": "eu", "job": "forewarn"}
    assert len(told) == 3
    assert (group | {"server": "one"}, 4) in told
    assert (group | {"server": "two"}, 1) in told
    assert (group | {"alertname": "FaktoryRetryStorm", "server": "one"}, 1) in told


# --- what silences what ---------------------------------------------------------------------------------------------


def test_no_warning_silences_a_critical_alert() -> None:
    def critical(form: str) -> bool:
        return ALERTS[form]["severity"] == "critical"

    assert [it for it, targets in SILENCES.items() if not critical(it) and any(map(critical, targets))] == []


async def test_exactly_these_alerts_silence_these() -> None:
    """Every pair of alerts, each pair with a server of its own, in the shipped times: nothing is told meanwhile."""
    pairs = list(combinations(ALERTS, 2))
    posted = [
        labels_of(form, f"pair-{number}")
        for number, pair in enumerate([*pairs, ("FaktoryCrashLooping", "FaktoryRestarted")])
        for form in pair
    ]
    async with Alertmanager(SHIPPED.read_text()) as alertmanager:
        for start in range(0, len(posted), AT_ONCE):
            await alertmanager.post_alerts(posted[start : start + AT_ONCE])

        async def suppressed() -> set[frozenset[tuple[str, str]]]:
            return {
                frozenset(it["labels"].items()) for it in await alertmanager.alerts() if it["status"]["inhibitedBy"]
            }

        async def all_are_seen() -> bool:
            return frozenset(posted[-1].items()) in await suppressed()  # they are seen in the order of their coming

        await wait_until(all_are_seen, 60, every=0.5, what="all pairs are seen")
        silenced = await suppressed()
    found: dict[str, set[str]] = {}
    for number, pair in enumerate(pairs):
        for source, target in (pair, pair[::-1]):
            if frozenset(labels_of(target, f"pair-{number}").items()) in silenced:
                found.setdefault(source, set()).add(target)
    assert found == SILENCES


class Told(NamedTuple):
    """What became of one rule's alerts."""

    agreeing: list[dict[str, Any]]
    """Tellings of the target before its source resolved, where the labels of the rule agree."""
    inhibited_by: list[str]
    """Of that target, by the API, in the same time."""
    disagreeing: list[str]
    """The labels of the rule by which another target was told in the same time."""
    afterwards: float
    """Seconds until the target was told once its source had resolved."""


async def play(rule: Silenced, alertmanager: Alertmanager, webhook: Webhook) -> Told:
    """Let the source fire, then the target and one more target for each label, which differs in it; end the source."""
    source, target = (labels_of(form, str(rule)) for form in (rule.source, rule.target))
    others = {label: target | {label: f"other-{target.get(label, 'value')}"} for label in rule.equal}
    await alertmanager.post_alerts([source])
    await webhook.wait_for(deadline=DEADLINE, **source)
    await alertmanager.post_alerts([target, *others.values()])
    for other in others.values():
        await webhook.wait_for(deadline=DEADLINE, **other)
    disagreeing = [label for label, other in others.items() if webhook.delivered(**other)]
    (known,) = exactly(target, await alertmanager.alerts(**target))
    agreeing = exactly(target, webhook.delivered(**target))
    resolved = time.time()
    await alertmanager.post_alerts([source], resolved=True)
    await wait_until(lambda: exactly(target, webhook.delivered(**target)), DEADLINE, what=f"{target} is told at last")
    first = next(it.arrived for it in webhook.notifications if exactly(target, it.alerts))
    return Told(agreeing, known["status"]["inhibitedBy"], disagreeing, first - resolved)


def exactly(labels: Mapping[str, str], alerts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the alerts with these labels and no others."""
    return [it for it in alerts if it["labels"] == labels]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played() -> AsyncIterator[dict[Silenced, asyncio.Task[Told]]]:
    """Return every rule's play: all at once at one Alertmanager, each with a server of its own."""
    async with Webhook() as webhook, Alertmanager(shipped(webhook.address)) as alertmanager:
        plays = {rule: asyncio.create_task(play(rule, alertmanager, webhook)) for rule in RULES}
        await asyncio.wait(plays.values())
        yield plays


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("rule", RULES, ids=str)
async def test_inhibition(rule: Silenced, played: dict[Silenced, asyncio.Task[Told]]) -> None:
    told = await played[rule]
    assert told.agreeing == []
    assert len(told.inhibited_by) == 1
    assert told.disagreeing == list(rule.equal)
    assert told.afterwards >= 0


def test_every_rule_of_the_file_is_played() -> None:
    def is_played(rule: Mapping[str, Any]) -> bool:
        return any(
            matches(rule["source_matchers"], labels_of(it.source, "one"))
            and matches(rule["target_matchers"], labels_of(it.target, "one"))
            and set(rule["equal"]) <= set(it.equal) <= {*rule["equal"], "collector"}
            for it in RULES
        )

    assert [rule for rule in document()["inhibit_rules"] if not is_played(rule)] == []


def matches(matchers: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Return whether labels meet every matcher."""
    return all(matches_one(matcher, labels) for matcher in matchers)


def matches_one(matcher: str, labels: Mapping[str, str]) -> bool:
    """Return whether labels meet one matcher such as alertname=~"Faktory.+"."""
    parts = re.fullmatch(r'(\w+)(=~|!~|!=|=)"(.*)"', matcher)
    assert parts, matcher
    label, operator, value = parts.groups()
    pattern = value if "~" in operator else re.escape(value)
    return (re.fullmatch(pattern, labels.get(label, "")) is not None) != operator.startswith("!")


# --- the examples ---------------------------------------------------------------------------------------------------


async def test_the_examples_tell_what_a_person_needs(tmp_path: Path) -> None:
    annotations = {
        "summary": "A summary.",
        "description": "A description.",
        "runbook_url": "https://runbooks.example.com/page",
        "dashboard_url": "https://grafana.example.com/d/page",
    }
    async with Webhook() as webhook:
        for name, secret in (("pagerduty-routing-key", "0" * 32), ("slack-webhook-url", f"{webhook.address}/slack")):
            (tmp_path / name).write_text(secret)
        text = with_examples().replace("/etc/alertmanager", str(tmp_path))
        text = re.sub(r"(group_wait|group_interval): .*", r"\1: 100ms", text)
        text = f"global: {{pagerduty_url: '{webhook.address}/pagerduty'}}\n{text}"
        async with Alertmanager(text.replace("http://127.0.0.1:9095", webhook.address)) as alertmanager:
            forms = ["FaktoryDown", "FaktoryRetryStorm"]
            posted = [labels_of(form, server) for form, server in zip(forms, ("one", "two"), strict=True)]
            await alertmanager.post_alerts(posted, annotations=annotations)
            await wait_until(lambda: {"/pagerduty", "/slack"} <= {it.path for it in webhook.notifications})
    told = {it.path: it.payload for it in webhook.notifications}
    assert told["/pagerduty"]["payload"]["summary"] == "FaktoryDown one: A summary."
    assert told["/pagerduty"]["payload"]["severity"] == "critical"
    assert "A description. https://runbooks.example.com/page" in json.dumps(told["/pagerduty"])
    (message,) = told["/slack"]["attachments"]
    assert message["title"] == "FIRING FaktoryRetryStorm two"
    assert message["text"].strip() == (
        "A description. <https://runbooks.example.com/page|runbook> <https://grafana.example.com/d/page|dashboard>"
    )
