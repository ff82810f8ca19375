"""The settings of the rules: what a file changes, and how a wrong one is told."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from exporter.rules.contradictions import why_no_expression
from exporter.rules.load import MAX_FILE, RuleSettingsError, load
from exporter.rules.render import groups, links_and_texts, render
from exporter.rules.rule import AlertRule, Recording
from exporter.rules.settings import (
    DEFAULTS,
    Address,
    Burn,
    Count,
    Factor,
    Matchers,
    Objective,
    QueuePattern,
    RuleSettings,
    Seconds,
    Severity,
    Share,
    Wait,
    Window,
)
from tests import promql
from tests.programs import need

BUDGET: Final = "alerts.FaktoryQueueLatencyBudgetBurn"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def problems(file: Path, text: str | bytes) -> tuple[str, ...]:
    """Return what is told of a file with this text, without the file's name, which must be there."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return problems_of(file)


def problems_of(file: Path) -> tuple[str, ...]:
    with pytest.raises(RuleSettingsError) as caught:
        load(file)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(each.startswith(f"{file}: ") for each in caught.value.problems)
    return tuple(each.removeprefix(f"{file}: ") for each in caught.value.problems)


def loaded(file: Path, text: str) -> RuleSettings:
    file.write_text(text)
    return load(file)


def rule(settings: RuleSettings, name: str) -> AlertRule:
    """Return the first alert of this name."""
    found = (each for group in groups(settings) for each in group.rules if isinstance(each, AlertRule))
    return next(each for each in found if each.name == name)


# What is wrong with one value: the key, the value, what would be right, and the default

WRONG_VALUES: Final = [
    (
        "[alerts.FaktoryConnectionsNearLimit]\nused_share = 80",
        (
            "alerts.FaktoryConnectionsNearLimit.used_share = 80: it must be a share above 0, and at most 1, such as 0.8"
            " (default: 0.8)"
        ),
    ),
    (
        "[alerts.FaktoryRetryStorm]\nfailed_share = -0.1",
        (
            "alerts.FaktoryRetryStorm.failed_share = -0.1: it must be a share above 0, and at most 1, such as 0.8"
            " (default: 0.25)"
        ),
    ),
    (
        "[alerts.FaktorySchedulerStuck]\nseconds = 0",
        "alerts.FaktorySchedulerStuck.seconds = 0: it must be seconds above 0, such as 60 (default: 60)",
    ),
    (
        "[alerts.FaktorySchedulerStuck]\nseconds = inf",
        "alerts.FaktorySchedulerStuck.seconds = inf: it must be seconds above 0, such as 60 (default: 60)",
    ),
    (
        "[alerts.FaktorySchedulerStuck]\nseconds = nan",
        "alerts.FaktorySchedulerStuck.seconds = nan: it must be seconds above 0, such as 60 (default: 60)",
    ),
    (
        '[alerts.FaktorySchedulerStuck]\nseconds = "60"',
        'alerts.FaktorySchedulerStuck.seconds = "60": it must be seconds above 0, such as 60 (default: 60)',
    ),
    (
        "[alerts.FaktoryDeadJobsGrowing]\njobs = 2.5",
        "alerts.FaktoryDeadJobsGrowing.jobs = 2.5: it must be a whole number from 1 up (default: 10)",
    ),
    (
        "[alerts.FaktoryBusyJobOlderThanUsual]\nfactor = 1",
        "alerts.FaktoryBusyJobOlderThanUsual.factor = 1: it must be a factor above 1, such as 3 (default: 3)",
    ),
    (
        "[alerts.FaktoryDown]\nenabled = 0",
        "alerts.FaktoryDown.enabled = 0: it must be true or false (default: true)",
    ),
    (
        '[alerts.FaktoryDown]\nseverity = "page"',
        'alerts.FaktoryDown.severity = "page": it must be one of critical, info, none, warning (default: "critical")',
    ),
    (
        '[alerts.FaktoryRestarted]\nwindow = "0s"',
        'alerts.FaktoryRestarted.window = "0s": it must be a time above zero such as 30s, 5m or 1h30m (default: "10m")',
    ),
    (
        '[alerts.FaktoryMemoryGrowing]\nhorizon = "293y"',
        'alerts.FaktoryMemoryGrowing.horizon = "293y": Prometheus cannot count above 292y; write less (default: "1d")',
    ),
    (
        'runbooks_url = "runbooks.example.com"',
        (
            'runbooks_url = "runbooks.example.com": it must be an http:// or https:// address'
            ' (default: "https://runbooks.example.com/forewarn")'
        ),
    ),
    (
        'dashboards_url = "https://grafana.example.com/?orgId=1"',
        (
            'dashboards_url = "https://grafana.example.com/?orgId=1": it must end before ? and #, because a page is put'
            " behind it"
        ),
    ),
    (
        "objectives = 60",
        'objectives = 60: it must be a list of tables (default: [{"queues":".*","seconds":60,"target":0.99}])',
    ),
    ("alerts.FaktoryDown = false", "alerts.FaktoryDown = false: it must be a table; write [alerts.FaktoryDown] on a"),
    ("alerts = []", "alerts = []: it must be a table; write [alerts] on a line of its own"),
    (
        'interval = "5m"',
        (
            'interval = "5m": it must be below 5m, after which Prometheus takes what the rules record for gone'
            ' (default: "30s")'
        ),
    ),
    (
        'history_interval = "1h"',
        (
            'history_interval = "1h": it must be below 5m, after which Prometheus takes what the rules record for gone'
            ' (default: "2m")'
        ),
    ),
]


@pytest.mark.parametrize(("text", "told"), WRONG_VALUES, ids=[text.splitlines()[-1] for text, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_key_what_is_right_and_the_default(file: Path, text: str, told: str) -> None:
    (problem,) = problems(file, text)
    assert problem.startswith(told)


@pytest.mark.parametrize("text", ["5 minutes", "1s5m", "5", "", "-5m", "5M", "1.5h", " 5m", "5m ", "5m\n", "m", "٥m"])
def test_a_wrong_time_is_told(file: Path, text: str) -> None:
    (problem,) = problems(file, f"[alerts.FaktoryDown]\nfor = {json.dumps(text)}")
    assert problem.startswith(f"alerts.FaktoryDown.for = {json.dumps(text, ensure_ascii=False)}: it must be ")
    assert problem.endswith('(default: "1m")')


@pytest.mark.parametrize("text", ["0s", "500ms", "30s", "5m", "1h30m", "1w2d", "1y"])
def test_times_reach_the_rules_as_they_were_written(file: Path, text: str) -> None:
    assert rule(loaded(file, f'[alerts.FaktoryDown]\nfor = "{text}"'), "FaktoryDown").pending == text


# Keys

WRONG_KEYS: Final = [
    ("selektor = ''", "selektor: there is no such key; did you mean selector?"),
    ("[alerts.FaktoryDwn]", "alerts.FaktoryDwn: there is no such key; did you mean FaktoryDown?"),
    (
        "[alerts.FaktoryDown]\npending = '1m'",
        "alerts.FaktoryDown.pending: there is no such key; there are enabled, for, keep_firing_for, severity",
    ),
    ("[alerts.FaktoryDown]\nkeep_firing = '1m'", "alerts.FaktoryDown.keep_firing: there is no such key; did you mean"),
    ('"a\\nb" = 1', '"a\\nb": there is no such key; there are alerts, dashboards_url'),
    ("[alerts.nothing_like_it]", "alerts.nothing_like_it: there is no such key"),
    (
        f"[{BUDGET}]\nseverity = 'info'",
        f"{BUDGET}.severity: there is no such key; there are enabled, jobs, keep_firing_for, windows",
    ),
]


@pytest.mark.parametrize(("text", "told"), WRONG_KEYS, ids=[told.partition(":")[0] for _, told in WRONG_KEYS])
def test_an_unknown_key_is_told_with_the_nearest(file: Path, text: str, told: str) -> None:
    (problem,) = problems(file, text)
    assert problem.startswith(told)


def test_all_problems_are_told_at_once(file: Path) -> None:
    told = problems(file, 'interval = 5\nselektor = ""\n[alerts.FaktoryDown]\nfor = "x"\nseverity = "y"\n')
    assert [re.split(r"[ :]", each)[0] for each in told] == [
        "interval",
        "selektor",
        "alerts.FaktoryDown.for",
        "alerts.FaktoryDown.severity",
    ]


def test_a_long_value_is_cut(file: Path) -> None:
    (problem,) = problems(file, f"interval = {'x' * 10_000!r}")
    assert len(problem) < 200


# Lists of tables


def test_a_wrong_value_in_a_list_is_told_with_its_place(file: Path) -> None:
    told = problems(file, 'objectives = [{queues = ".*", seconds = -1, target = 1.0, hours = 1}]')
    assert told == (
        "objectives[0].hours: there is no such key; there are queues, seconds, target",
        "objectives[0].seconds = -1: it must be seconds above 0, such as 60",
        "objectives[0].target = 1.0: it must be a share between 0 and 1, such as 0.99",
    )


def test_a_missing_key_in_a_list_is_told_with_what_it_must_be(file: Path) -> None:
    windows = '{severity = "critical", long = "1h", short = "5m", factor = 14.4}'
    assert problems(file, f"[{BUDGET}]\nwindows = [{windows}]") == (
        f"{BUDGET}.windows[0].for is missing: it must be a time such as 0s, 30s, 5m or 1h30m",
    )


def test_what_is_no_table_in_a_list_is_told(file: Path) -> None:
    assert problems(file, "objectives = [60]") == (
        "objectives[0] = 60: it must be a table with queues, seconds, target",
    )


# The file itself


def test_a_missing_file_is_told(file: Path) -> None:
    assert problems_of(file) == ("No such file or directory; name a readable TOML file",)


def test_a_folder_is_told(tmp_path: Path) -> None:
    assert problems_of(tmp_path) == ("Is a directory; name a readable TOML file",)


def test_what_is_no_toml_is_told_with_its_line(file: Path) -> None:
    (problem,) = problems(file, "interval = '30s'\nselector: x\n")
    assert problem.startswith("it is not TOML: ")
    assert "line 2" in problem


def test_what_is_no_utf_8_is_told(file: Path) -> None:
    assert problems(file, b"interval = '\xff'") == ("it is not UTF-8 text; save it as UTF-8",)


def test_a_file_too_large_is_told_and_not_read_to_its_end(file: Path) -> None:
    assert problems(file, "#" * (MAX_FILE + 1)) == (
        f"it is larger than {MAX_FILE} bytes; name the settings of the rules",
    )
    assert problems_of(Path("/dev/zero")) == (f"it is larger than {MAX_FILE} bytes; name the settings of the rules",)


def test_a_number_of_too_many_digits_is_told(file: Path) -> None:
    (problem,) = problems(file, "interval = " + "9" * 5000)
    assert problem == "it has a number with too many digits; write a smaller one"


def test_a_file_nested_too_deeply_is_told(file: Path) -> None:
    (problem,) = problems(file, "interval = " + "[" * 100_000)
    assert problem == "it is nested too deeply; write it flat"


# Selectors and regular expressions

WRONG_SELECTORS: Final = [
    ("prod", "it must be label matchers such as"),
    ('cluster="prod" job="x"', "it must be label matchers such as"),
    ('{cluster="prod"}', "it must be label matchers such as"),
    ('cluster="prod"} or up{a="b"', "it must be label matchers such as"),
    ('cluster=~"("', "cluster: it is not a regular expression: missing )"),
    ('cluster=~"a(?=b)"', "cluster: Prometheus's regular expressions do not know a group that begins so: (?"),
    ('cluster!~"(?<name>a)"', "cluster: Prometheus's regular expressions do not know a group"),
    ('cluster=~"a*+"', "cluster: Prometheus's regular expressions do not know a + behind a repetition: *+"),
    ('cluster=~"(a)\\\\1"', "cluster: Prometheus's regular expressions do not know such a backslash"),
    ('cluster=~"a\\\\Z"', "cluster: Prometheus's regular expressions do not know such a backslash"),
    ('cluster=~"a{1001}"', "cluster: Prometheus's regular expressions do not know more than 999 repetitions"),
    ('cluster=~"[[:letter:]]"', "cluster: there is no such class of characters"),
    ('cluster="\\d"', 'cluster has a backslash before something other than \\ and "; write it twice'),
    ('__name__="up"', "the rules choose the metrics; leave __name__ out"),
    ('server="main"', "not all metrics have the label server"),
    ('job="a",queue=~"mail.*"', "not all metrics have the label queue"),
]


@pytest.mark.parametrize(("text", "told"), WRONG_SELECTORS, ids=[text for text, _ in WRONG_SELECTORS])
def test_a_wrong_selector_is_told(file: Path, text: str, told: str) -> None:
    (problem,) = problems(file, f"selector = {json.dumps(text)}")
    assert problem.startswith(f"selector = {json.dumps(text)}: {told}")


@pytest.mark.parametrize(
    ("queues", "told"),
    [
        ("mail(", "it is not a regular expression: missing )"),
        ("*", "it is not a regular expression: nothing to repeat"),
        ("(?=mail)", "Prometheus's regular expressions do not know a group that begins so: (?"),
        ("mail{,3}", "Prometheus's regular expressions do not know a repetition without its least number"),
    ],
)
def test_a_wrong_expression_of_queues_is_told(file: Path, queues: str, told: str) -> None:
    (problem,) = problems(file, f"objectives = [{{queues = {queues!r}, seconds = 60, target = 0.99}}]")
    assert problem.startswith(f'objectives[0].queues = "{queues}": {told}')


@pytest.mark.parametrize("queues", ['a"b', "a\\b", "a\nb", ""])
def test_an_expression_of_queues_that_needs_escapes_is_told(file: Path, queues: str) -> None:
    (problem,) = problems(file, f"objectives = [{{queues = {json.dumps(queues)}, seconds = 60, target = 0.99}}]")
    assert problem == f"objectives[0].queues = {json.dumps(queues)}: it must be a regular expression of queue names"


GOOD_EXPRESSIONS: Final = [
    "a|b",
    "(?:a|b)c",
    "(?i)mail",
    "(?P<n>a)",
    "a{2}",
    "a{2,}",
    "a+?",
    "[[:alpha:]]+",
    "[^a-c]",
    "é",
]


@pytest.mark.parametrize("expression", GOOD_EXPRESSIONS)
def test_an_expression_that_is_let_through_is_one_for_prometheus(file: Path, expression: str) -> None:
    objective = f"objectives = [{{queues = {json.dumps(expression)}, seconds = 60, target = 0.99}}]"
    selector = f"""selector = {json.dumps(f'cluster=~"{expression}"')}"""
    promtool(file.with_suffix(".yml"), loaded(file, f"{objective}\n{selector}\n"))


PIECES: Final = (
    *"ab|.*+?()[]{}^$-12,:<=!Piéx#~&",
    *("(?", "(?:", "(?i)", "(?P<", "{2}", "{999}", "{1000}", "{2,", "[:", "[^", "[[:alpha:]]", "(a{99}){99}"),
    *(r"\d", r"\.", r"\b", r"\B", r"\A", r"\Z", r"\1", r"\0", r"\x41", r"\u00e9", r"\p", r"\-", r"\é", r"\\"),
)


def test_no_expression_is_let_through_that_prometheus_refuses(file: Path) -> None:
    need("promtool", "prometheus")
    random = Random(4)
    drawn = {"".join(random.choices(PIECES, k=random.randint(1, 6))) for _ in range(20_000)}
    taken = sorted(each for each in drawn if not why_no_expression(each))
    assert 1000 < len(taken) < len(drawn) / 2
    rules = [{"record": f"r{number}", "expr": f"a{{b=~{json.dumps(each)}}}"} for number, each in enumerate(taken)]
    file.write_text(json.dumps({"groups": [{"name": "a", "rules": rules}]}))  # JSON is YAML
    ended = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    refused = re.findall(r'"r(\d+)": (.*)', ended.stderr)
    assert [(taken[int(number)], told) for number, told in refused] == []
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("expression", [r"a\\d+", r"\\bmail\\b", r"a\\.b", r"\\x41"])
def test_a_selector_may_hold_escapes(file: Path, expression: str) -> None:
    selector = r'job="a\"b\\c",cluster=~"' + expression + '"'
    text = f"selector = {json.dumps(selector)}"
    promtool(file.with_suffix(".yml"), loaded(file, text))


# Values that are right alone, and not together


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "FaktoryConnectionsNearLimit.used_share = 0.96",
            "FaktoryConnectionsNearLimit.critical_share = 0.95: it must not be below used_share, 0.96",
        ),
        (
            "FaktoryProcessFileDescriptors.critical_share = 0.7",
            "FaktoryProcessFileDescriptors.critical_share = 0.7: it must not be below used_share, 0.8",
        ),
        (
            "FaktoryAcceptQueueFilling.connections = 11",
            "FaktoryAcceptQueueFilling.critical_connections = 10: it must not be below connections, 11",
        ),
    ],
)
def test_a_critical_level_below_the_warning_is_told(file: Path, text: str, told: str) -> None:
    assert problems(file, f"alerts.{text}") == (f"alerts.{told}",)


@pytest.mark.parametrize(
    "key",
    [
        "FaktoryConnectionsNearLimit.critical_share",
        "FaktoryProcessFileDescriptors.critical_share",
        "FaktoryProcessFileDescriptorsFilling.used_share",
        "FaktoryPeerHoldsConnections.peer_share",
        "FaktoryPeerHoldsConnections.used_share",
        "FaktoryStatsdSilentNearLimit.used_share",
        "FaktoryRetryStorm.failed_share",
        "FaktoryJobTypeFailing.failed_share",
        "FaktoryConnectionsFilling.used_share",
        "ForewarnStatsdLost.share",
    ],
)
def test_a_share_that_nothing_is_above_is_told(file: Path, key: str) -> None:
    assert problems(file, f"alerts.{key} = 1") == (f"alerts.{key} = 1: it must be below 1, or nothing is above it",)


@pytest.mark.parametrize(
    ("alert", "window"),
    [
        ("FaktoryWorkerCrashed", "10m"),
        ("FaktoryProcessCrashed", "30m"),
        ("FaktoryProcessDiedUnexplained", "30m"),
        ("FaktoryStoreCrashed", "30m"),
        ("FaktoryJobLost", "30m"),
        ("FaktoryFlushed", "30m"),
        ("FaktoryRecoveredPanic", "1h"),
        ("FaktoryDataRace", "1h"),
    ],
)
def test_a_wait_in_which_the_window_forgets_is_told(file: Path, alert: str, window: str) -> None:
    assert problems(file, f'[alerts.{alert}]\nfor = "{window}"') == (
        f'alerts.{alert}.for = "{window}": it must be below window, "{window}", in which what happened is forgotten',
    )


@pytest.mark.parametrize(("alert", "wait"), [("FaktoryBacklogGrowing", "15m"), ("ForewarnLogUnread", "10m")])
def test_a_trend_that_a_single_step_would_make_is_told(file: Path, alert: str, wait: str) -> None:
    (problem,) = problems(file, f'[alerts.{alert}]\nrecent = "{wait}"')
    assert problem.startswith(f'alerts.{alert}.recent = "{wait}": it must be below for, "{wait}", or a single step')


def test_a_budget_that_cannot_burn_fast_enough_is_told(file: Path) -> None:
    (problem,) = problems(file, 'objectives = [{queues = ".*", seconds = 60, target = 0.9}]')
    assert problem == (
        "objectives[0].target = 0.9: the budget of queues .* can burn at most 10 times too fast, so that"
        " FaktoryQueueLatencyBudgetBurn over 1h with factor = 14.4 never fires; set a higher target or a lower factor"
    )


def test_an_objective_behind_one_for_every_queue_is_told(file: Path) -> None:
    each = "seconds = 60, target = 0.99"
    (problem,) = problems(file, f'objectives = [{{queues = ".*", {each}}}, {{queues = "mail", {each}}}]')
    assert problem.startswith('objectives[0].queues = ".*": it takes every queue, so that those behind it have none')


def windows(*pairs: tuple[str, str]) -> str:
    each = (
        f'{{severity = "info", long = "{long}", short = "{short}", factor = 2, for = "1m"}}' for long, short in pairs
    )
    return f"[{BUDGET}]\nwindows = [{', '.join(each)}]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("objectives = []", "objectives = []: there must be one; switch alerts.FaktoryQueueLatencyBudgetBurn off"),
        (windows(), f"{BUDGET}.windows = []: there must be one; set enabled = false instead"),
        (windows(("1h", "1h")), f'{BUDGET}.windows[0].short = "1h": it must be below long, "1h"'),
        (windows(("1h", "5m"), ("1h", "5m")), f"{BUDGET}.windows[1]: there is one of info, 1h, 5m already"),
    ],
    ids=["no objective", "no window", "short is long", "twice"],
)
def test_a_budget_that_makes_no_sense_is_told(file: Path, text: str, told: str) -> None:
    (problem,) = problems(file, text)
    assert problem.startswith(told)


@pytest.mark.parametrize(
    "text",
    [
        "[alerts.FaktoryConnectionsNearLimit]\nenabled = false\nused_share = 0.96",
        "[alerts.FaktoryRetryStorm]\nenabled = false\nfailed_share = 1",
        '[alerts.FaktoryWorkerCrashed]\nenabled = false\nfor = "10m"',
        f'objectives = [{{queues = ".*", seconds = 60, target = 0.9}}]\n[{BUDGET}]\nenabled = false',
    ],
)
def test_what_is_switched_off_cannot_contradict_itself(file: Path, text: str) -> None:
    loaded(file, text)


# What a good file changes


def test_an_empty_file_changes_nothing(file: Path) -> None:
    assert loaded(file, "") == DEFAULTS


def test_a_file_changes_only_what_it_names(file: Path) -> None:
    changed = loaded(file, '[alerts.FaktoryDown]\nfor = "2m"\n')
    before, after = rule(DEFAULTS, "FaktoryDown"), rule(changed, "FaktoryDown")
    assert after == msgspec.structs.replace(before, pending="2m")
    assert render(changed, "prometheus") == render(DEFAULTS, "prometheus").replace("for: 1m", "for: 2m", 1)


def test_the_selector_reaches_every_use_of_every_metric(file: Path) -> None:
    chosen = loaded(file, """selector = 'cluster="prod", job=~"forewarn.*"'""")
    expected = {promql.Matcher("cluster", "=", "prod"), promql.Matcher("job", "=~", "forewarn.*")}
    assert [f"{name}: {each.metric}" for name, each in selectors(chosen) if not expected <= set(each.matchers)] == []


def test_without_a_selector_no_metric_is_chosen_by_the_scrape() -> None:
    named = [matcher.label for _, each in selectors(DEFAULTS) for matcher in each.matchers]
    assert {"job", "instance", "cluster"} & set(named) == set()
    assert named


def selectors(settings: RuleSettings) -> Iterator[tuple[str, promql.Selector]]:
    for group in groups(settings):
        for each in group.rules:
            name = each.record if isinstance(each, Recording) else each.name
            yield from ((name, selector) for selector in promql.selectors(promql.parse(each.expr)))


def test_thresholds_reach_the_rule_and_its_text(file: Path) -> None:
    changed = rule(
        loaded(file, '[alerts.FaktoryBusyJobOlderThanUsual]\nfactor = 4.5\nseconds = 90\nhistory = "12h"\n'),
        "FaktoryBusyJobOlderThanUsual",
    )
    assert "_seconds > 90\n" in changed.expr
    assert "> 4.5 * " in changed.expr
    assert "more than 4.5 times as long as 99 % of its kind within 12h" in changed.description


def test_a_window_reaches_the_rule_and_its_text(file: Path) -> None:
    changed = rule(loaded(file, '[alerts.FaktoryRestarted]\nwindow = "20m"\n'), "FaktoryRestarted")
    assert "[20m]" in changed.expr
    assert "within 20m" in changed.description
    assert "10m" not in changed.expr + changed.description


def test_a_large_threshold_is_written_in_full(file: Path) -> None:
    changed = loaded(file, "[alerts.FaktorySchedulerStuck]\nseconds = 1234567\n")
    comparison = promql.parse(rule(changed, "FaktorySchedulerStuck").expr)
    assert float(str(comparison).rpartition(">")[2]) == 1234567


def test_the_objective_of_a_queue_is_the_first_that_matches(file: Path) -> None:
    each = "target = 0.99"
    changed = loaded(
        file, f'objectives = [{{queues = "mail.*", seconds = 5, {each}}}, {{queues = ".*", seconds = 60, {each}}}]'
    )
    (burn,) = (
        each
        for group in groups(changed)
        for each in group.rules
        if isinstance(each, Recording) and each.record == "queue:faktory_queue_latency:burnrate"
    )
    latencies = [it for it in promql.selectors(promql.parse(burn.expr)) if it.metric == "faktory_queue_latency_seconds"]
    assert [[str(matcher) for matcher in it.matchers] for it in latencies] == [['queue=~"mail.*"'], ['queue!~"mail.*"']]


def test_the_interval_reaches_every_group_but_that_of_the_history(file: Path) -> None:
    changed = loaded(file, 'interval = "10s"\nhistory_interval = "50s"\n')
    written = yaml.safe_load(render(changed, "prometheus"))["groups"]
    assert {group["name"]: group["interval"] for group in written} == {
        group.name: "50s" if group.name == "faktory.history" else "10s" for group in groups(DEFAULTS)
    }


def test_the_addresses_reach_every_alert(file: Path) -> None:
    changed = loaded(
        file, 'runbooks_url = "https://wiki.example.org/x/"\ndashboards_url = "http://grafana.example.org"\n'
    )
    alerts = [each for each in rendered(changed) if "alert" in each]
    links = [each["annotations"] for each in alerts]
    assert all(each["runbook_url"].startswith("https://wiki.example.org/x/F") for each in links)
    assert all(each["dashboard_url"].startswith("http://grafana.example.org/d/f") for each in links)
    assert "runbooks.example.com" not in render(changed, "prometheus")


def test_an_alert_that_is_switched_off_is_gone_and_nothing_else(file: Path) -> None:
    changed = loaded(file, "[alerts.FaktoryConnectionsNearLimit]\nenabled = false\n")
    left = [each for each in rendered(DEFAULTS) if each.get("alert") != "FaktoryConnectionsNearLimit"]
    assert rendered(changed) == left
    assert [group.name for group in groups(changed)] == [group.name for group in groups(DEFAULTS)]


def test_a_group_whose_alerts_are_all_switched_off_is_gone(file: Path) -> None:
    names = {each["alert"] for each in rendered(DEFAULTS) if each.get("alert", "").startswith("Forewarn")}
    changed = loaded(file, "".join(f"[alerts.{name}]\nenabled = false\n" for name in names))
    before = [group.name for group in groups(DEFAULTS)]
    assert [group.name for group in groups(changed)] == [name for name in before if name != "forewarn.meta"]


def rendered(settings: RuleSettings) -> list[dict[str, Any]]:
    document = yaml.safe_load(render(settings, "prometheus"))
    return [rule for group in document["groups"] for rule in group["rules"]]


# No key is dead

TRENDS: Final = (
    "FaktoryConnectionsFilling",
    "FaktoryProcessFileDescriptorsFilling",
    "FaktoryThrottleNotDraining",
    "FaktoryBacklogGrowing",
    "FaktoryMemoryGrowing",
    "ForewarnLogUnread",
)

OTHERS: Final[Mapping[Any, Any]] = {
    bool: False,
    Severity: "none",
    Wait: "4m30s",
    Window: "4m30s",
    Share: 0.93,
    Factor: 7.0,
    Burn: 7.0,
    Seconds: 77.0,
    Count: 77,
    Objective: 0.97,
    Matchers: 'cluster="prod"',
    Address: "https://other.example.org",
    QueuePattern: "mail.*",
}
"""For each type of key a value that is none of the defaults."""

OTHERS_AT: Final[Mapping[tuple[str | int, ...], Any]] = {
    ("alerts", "ForewarnWatchdog", "severity"): "info",
    ("alerts", "FaktoryAcceptQueueFilling", "connections"): 7,
    **{("alerts", "FaktoryQueueLatencyBudgetBurn", "windows", number, "long"): "9d" for number in range(4)},
    **{("alerts", name, "for"): "7h" for name in TRENDS},
}
"""For single keys another value, where that one would contradict a second key."""


def leaves(table: Struct, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield place and type of every value that a file may set."""
    for field in msgspec.structs.fields(table):
        value = getattr(table, field.name)
        here = (*place, field.encode_name)
        if isinstance(value, Struct):
            yield from leaves(value, here)
        elif isinstance(value, tuple):
            for number, each in enumerate(value):
                yield from leaves(each, (*here, number))
        else:
            yield here, field.type


def changed_at(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return a document with all defaults but for one value."""
    document: Any = msgspec.to_builtins(DEFAULTS)
    table = document
    for key in place[:-1]:
        table = table[key]
    assert table[place[-1]] != value
    table[place[-1]] = value
    return dict(document)


LEAVES: Final = list(leaves(DEFAULTS))


def test_the_settings_are_walked_to_their_end() -> None:
    assert len(LEAVES) > 150
    assert (("alerts", "FaktoryQueueLatencyBudgetBurn", "windows", 0, "factor"), Burn) in LEAVES


@pytest.mark.parametrize(("place", "kind"), LEAVES, ids=[".".join(map(str, place)) for place, _ in LEAVES])
def test_every_key_changes_the_rules(file: Path, place: tuple[str | int, ...], kind: Any) -> None:
    changed = loaded(file, toml(changed_at(place, OTHERS_AT.get(place, OTHERS[kind]))))
    assert rules_of(changed) != rules_of(DEFAULTS)


def rules_of(settings: RuleSettings) -> object:
    """Return all that is written of the rules, before it is written."""
    made = groups(settings)
    intervals = [group.interval or settings.interval for group in made]
    alerts = (each for group in made for each in group.rules if isinstance(each, AlertRule))
    return made, intervals, [links_and_texts(each, settings) for each in alerts]


def test_the_defaults_written_out_are_the_defaults(file: Path) -> None:
    assert loaded(file, toml(msgspec.to_builtins(DEFAULTS))) == DEFAULTS


def toml(table: Mapping[str, Any]) -> str:
    """Return a document as TOML."""
    return "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: Any) -> str:
    match value:
        case bool() | str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return repr(value)


# Whatever is let through makes rules that Prometheus takes

TIMES: Final = st.builds(
    lambda parts: "".join(
        f"{number}{unit}" for number, unit in zip(parts, ("d", "h", "m", "s"), strict=True) if number
    ),
    st.tuples(*(st.integers(0, 40) for _ in range(4))).filter(any),
)
EXPRESSIONS: Final = st.text("ab|.*+?()[]{}^$-1,:<=!iP é&~", min_size=1, max_size=12)
NUMBERS: Final = st.floats(1e-9, 1e15) | st.integers(1, 10**9).map(float)
SHARES: Final = st.floats(0.001, 0.999)
CHOICES: Final[Mapping[Any, st.SearchStrategy[Any]]] = {
    bool: st.booleans(),
    Severity: st.sampled_from(["critical", "warning", "info", "none"]),
    Wait: st.sampled_from(["0s", "10s", "1m"]),
    Window: TIMES,
    Share: SHARES,
    Factor: st.floats(1.001, 1e6),
    Burn: st.floats(1e-6, 14),
    Seconds: NUMBERS,
    Count: st.integers(1, 10**15),
    Objective: st.floats(0.95, 0.999999),
    Matchers: st.lists(
        st.tuples(st.sampled_from(["cluster", "job", "_a9"]), st.sampled_from(["=", "!=", "=~", "!~"]), EXPRESSIONS),
        max_size=3,
    ).map(lambda them: ", ".join(f'{label}{how}"{text}"' for label, how, text in them)),
    Address: st.sampled_from(["https://a.example.org", "http://[::1]:3000/x/", "https://é.example/a'b&c=%7B"]),
    QueuePattern: EXPRESSIONS,
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a document with some of its values changed."""
    document: Any = msgspec.to_builtins(DEFAULTS)
    for place, kind in draw(st.lists(st.sampled_from(LEAVES), max_size=12, unique=True)):
        table = document
        for key in place[:-1]:
            table = table[key]
        table[place[-1]] = draw(CHOICES[kind])
    document["selector"] = draw(CHOICES[Matchers])
    objective = st.fixed_dictionaries(
        {"queues": CHOICES[QueuePattern], "seconds": CHOICES[Seconds], "target": CHOICES[Objective]}
    )
    document["objectives"] = draw(st.lists(objective, min_size=1, max_size=2))
    return dict(document)


def let_through(document: Mapping[str, Any], folder: Path) -> RuleSettings:
    """Return the settings of a document; one that is refused is not looked at."""
    file = folder / "rules.toml"
    file.write_text(toml(document))
    try:
        return load(file)
    except RuleSettingsError:
        assume(False)
        raise


QUIET: Final = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow]


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(document=documents())
def test_whatever_is_let_through_makes_rules_that_can_be_parsed(document: dict[str, Any], tmp_path: Path) -> None:
    for each in rendered(let_through(document, tmp_path)):
        promql.parse(each["expr"])


@settings(max_examples=12, deadline=None, suppress_health_check=QUIET)
@given(document=documents())
def test_whatever_is_let_through_makes_rules_that_promtool_takes(document: dict[str, Any], tmp_path: Path) -> None:
    promtool(tmp_path / "rules.yml", let_through(document, tmp_path))


def promtool(file: Path, chosen: RuleSettings) -> None:
    """Fail where promtool refuses the rules."""
    need("promtool", "prometheus")
    file.write_text(render(chosen, "prometheus"))
    ended = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
