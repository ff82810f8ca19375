"""Alerts in situations: what is to be told, when and in which words, checked by promtool.

A :class:`Case` is one alert in one situation, in literals: it is the second opinion about a rule, so nothing in it may
be read from the settings. The time line has two marks: the series turn bad at ``breach`` and good again at ``cure``.

**Series** are written as ``{'name{label="value"}': "good | bad | good"}``: the bars stand for ``breach`` and
``cure``. Two parts mean that it never turns good again, and one that it is the same all the time. A part is a row of
samples, one for each step (``30s``):

    7               7 (the last one of a part goes on until the part's end)
    0+5             0, then 5 more at every step; 100-5 likewise
    7x3, 0+5x3      three samples of it (promtool itself would make four)
    7x10m           samples of it for ten minutes
    _               no sample: the last one still counts for five minutes
    stale           gone, as after a scrape that failed; goes on as no sample

The labels of :data:`SERVER` are added where the braces do not say otherwise; series of the process have no ``server``.

**What is checked** at every evaluation from 0 until a little after the end, against the rule in ``alerts/faktory.yml``:

- nothing, not even pending, before the rule's condition holds: at ``noticed``, which is ``breach`` unless a window
  delays it;
- pending and not firing until ``pending`` has passed, rounded up to the next evaluation;
- firing with exactly ``labels`` until ``keep_firing_for`` has passed since the condition ended: at ``cleared``, which
  is ``cure`` unless a window delays it; without a ``cure`` it fires until the end;
- exactly the texts and addresses when it begins to fire, just before ``cleared``, and just before it resolves (where
  the value has changed meanwhile, the latter two have ``last_description``);
- nothing after that.

**Variants** change single series of the case and leave the others: ``{"name": "new samples"}``, or ``None`` for no
such series, or a series that the case does not have. So it is this change that makes the difference.

- ``just_below``: below the threshold by the smallest step, all the time: nothing is told, not even as pending. Required
  but for an alert that never ends.
- ``guards``: further situations, by name, in which nothing is told: unknown, switched off, too few, wanted.
- ``holds``: situations, by name, that change nothing of what is told, such as a missed scrape while it fires.

Only the rule under test and the recording rules that it needs are given to promtool: alerts that share its name do not
disturb, and long windows stay cheap. promtool ignores the groups' own intervals: all is evaluated every ``step``; make
it longer (at most 5m) for windows of days. A second case of the same rule says in ``when`` what is different.

A test module is::

    CASES = (Case(...), ...)

    @pytest.mark.parametrize("situation", fires(CASES))
    def test_waits_fires_holds_and_resolves(situation: Situation) -> None:
        verify(situation)

    @pytest.mark.parametrize("situation", stays_silent(CASES))
    def test_stays_silent(situation: Situation) -> None:
        verify(situation)
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from msgspec import Struct, field

from tests.programs import need

RULES: Final = Path(__file__).parent.parent / "alerts" / "faktory.yml"

SERVER: Final = {"job": "forewarn", "instance": "10.0.0.5:9386", "server": "orders"}
PROCESS: Final = {"job": "forewarn", "instance": "10.0.0.5:9386"}
OF_PROCESS: Final = (
    "up",
    "forewarn_build_info",
    "forewarn_statsd_push_failures_total",
    "forewarn_config_last_reload_successful",
)

DEADLINE: Final = 60.0
SHOWN: Final = 6000
"""Characters of promtool's complaints: it repeats them for every evaluation."""

Samples = Mapping[str, str]
Changes = Mapping[str, str | None]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION: Final = re.compile(r"(?:\d+[smhdw])+")
_ITEM: Final = re.compile(
    r"(?P<value>_|stale|-?[0-9.]+(?:e[+-]?[0-9]+)?)(?P<slope>[+-][0-9.]+)?(?:x(?P<times>[0-9smhdw]+))?"
)


class Case(Struct, frozen=True, kw_only=True):
    """One alert in one situation. See the head of this module."""

    alert: str
    labels: Mapping[str, str]
    """All that it is told with, but for ``alertname``."""
    series: Samples
    breach: str
    cure: str | None
    pending: str
    keep_firing_for: str
    summary: str
    description: str
    runbook_url: str
    dashboard_url: str
    just_below: Changes | None
    noticed: str | None = None
    cleared: str | None = None
    last_description: str | None = None
    guards: Mapping[str, Changes] = field(default_factory=dict)
    holds: Mapping[str, Changes] = field(default_factory=dict)
    step: str = "30s"
    """Between samples, and between evaluations."""
    when: str = ""
    """Tells it from other cases of the same rule."""

    @property
    def form(self) -> str:
        """What the test's name begins with."""
        told_apart = (self.labels.get("severity"), self.labels.get("long"), self.when)
        return "-".join((self.alert, *(each for each in told_apart if each)))


class Situation(Struct, frozen=True, kw_only=True):
    """A case with the series of one of its variants."""

    case: Case
    name: str
    series: Samples
    told: bool
    """Whether it fires, or stays silent."""


def fires(cases: Iterable[Case]) -> list[Any]:
    """Return, as parameters of a test, each case as it is and those of its variants that change nothing."""
    return [
        _parameter(case, name, changes, told=True)
        for case in cases
        for name, changes in {"fires": {}, **case.holds}.items()
    ]


def stays_silent(cases: Iterable[Case]) -> list[Any]:
    """Return, as parameters of a test, the variants of each case in which nothing is told."""
    return [
        _parameter(case, name, changes, told=False)
        for case in cases
        for name, changes in {"just below": case.just_below, **case.guards}.items()
        if changes is not None
    ]


def verify(situation: Situation, rules: Path = RULES) -> None:
    """Fail with promtool's words where the rule does not do what the case says."""
    check(document(situation), rules_of(situation.case, rules), situation.case.form)


def check(test: Mapping[str, Any], rules: Mapping[str, Any], what: str, deadline: float = DEADLINE) -> None:
    """Run one test document of promtool against ``rules``. Its ``rule_files`` and order of groups are filled in."""
    need("promtool", "prometheus")
    groups = [group["name"] for group in rules["groups"]]
    with tempfile.TemporaryDirectory(prefix="fw-") as folder:
        (Path(folder) / "rules.yml").write_text(yaml.safe_dump(dict(rules)))
        # Without an order promtool evaluates the groups in a different one each time.
        full = {"rule_files": ["rules.yml"], "group_eval_order": groups, **test}
        (Path(folder) / "test.yml").write_text(yaml.safe_dump(full, sort_keys=False, width=1000))
        done = subprocess.run(
            ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, timeout=deadline
        )
    complaints = (done.stderr + done.stdout).strip()
    if done.returncode != 0:
        pytest.fail(f"{what}:\n{complaints[:SHOWN]}\nof the series\n{_told_series(test)}", pytrace=False)


@cache
def read(rules: Path) -> Any:
    """Return a file of rules, decoded."""
    return yaml.safe_load(rules.read_text())


def rules_of(case: Case, rules: Path) -> dict[str, Any]:
    """Return the rule of the case and the recording rules that it needs.

    Raises:
        AssertionError: There is not exactly one such rule.
    """
    groups = read(rules)["groups"]
    named = [rule for group in groups for rule in group["rules"] if rule.get("alert") == case.alert]
    if len(named) > 1:
        named = [rule for rule in named if rule["labels"].items() <= case.labels.items()]
    assert len(named) == 1, f"{rules} has {len(named)} rules {case.alert} with the labels of {case.form}"
    return with_needed(named[0], groups)


def with_needed(rule: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return only ``rule`` and the recording rules of ``groups`` that it is made from, in their order."""
    needed = [rule]
    for other in reversed([other for group in groups for other in group["rules"] if "record" in other]):
        name = re.compile(rf"(?<![\w:]){re.escape(other['record'])}(?![\w:])")
        if any(name.search(each["expr"]) for each in needed):
            needed.append(other)
    kept = [(group["name"], [each for each in group["rules"] if each in needed]) for group in groups]
    return {"groups": [{"name": name, "rules": each} for name, each in kept if each]}


def document(situation: Situation) -> dict[str, Any]:
    """Return promtool's test of the situation, but for the rules."""
    case = situation.case
    step = seconds(case.step)
    times = _Times(case)
    firing_texts = {times.first: case.description}
    if case.cure is not None:
        last = case.description if case.last_description is None else case.last_description
        firing_texts |= {times.cleared - step: last, times.resolved - step: last}
    states: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for at in range(0, times.end + step, step):
        state = times.state(at) if situation.told else None
        states.append(_state(case, at, state))
        if state != "firing":
            texts.append(_texts(case, at, []))
        elif at in firing_texts:
            texts.append(_texts(case, at, [_told(case, firing_texts[at])]))
    return {
        "evaluation_interval": case.step,
        "tests": [
            {
                "name": f"{case.form}: {situation.name}",
                "interval": case.step,
                "input_series": input_series(situation.series, case.step, times.marks, times.end),
                "alert_rule_test": texts,
                "promql_expr_test": states,
            }
        ],
    }


class _Times:
    """The time line of a case, in seconds."""

    def __init__(self, case: Case) -> None:
        step = seconds(case.step)
        breach = seconds(case.breach)
        pending, keep = seconds(case.pending), seconds(case.keep_firing_for)
        self.noticed = breach if case.noticed is None else seconds(case.noticed)
        self.first = self.noticed + -(-pending // step) * step
        self.marks: tuple[int, ...] = (breach,)
        if case.cure is None:
            assert case.cleared is None, f"{case.form}: without a cure it is never cleared"
            self.end = self.first + 10 * step
            self.cleared = self.resolved = self.end + step
        else:
            cure = seconds(case.cure)
            self.marks = (breach, cure)
            self.cleared = cure if case.cleared is None else seconds(case.cleared)
            self.resolved = self.cleared + -(-keep // step) * step
            self.end = self.resolved + 2 * step
            assert case.just_below is not None, f"{case.form}: just_below is missing"
        for at in (*self.marks, self.noticed, self.cleared):
            assert at % step == 0, f"{case.form}: {at} s is not a whole number of steps of {case.step}"
        assert breach <= self.noticed, f"{case.form}: noticed before the breach"
        assert self.first < self.cleared, f"{case.form}: it is cleared before it can fire"

    def state(self, at: int) -> str | None:
        if at < self.noticed or at >= self.resolved:
            return None
        return "pending" if at < self.first else "firing"


def _state(case: Case, at: int, state: str | None) -> dict[str, Any]:
    labels = {"alertname": case.alert, "alertstate": state, **case.labels}
    told = [{"labels": "ALERTS" + _braces(labels), "value": 1}] if state else []
    return {"expr": f'ALERTS{{alertname="{case.alert}"}}', "eval_time": f"{at}s", "exp_samples": told}


def _texts(case: Case, at: int, told: list[dict[str, Any]]) -> dict[str, Any]:
    return {"alertname": case.alert, "eval_time": f"{at}s", "exp_alerts": told}


def _told(case: Case, description: str) -> dict[str, Any]:
    return {
        "exp_labels": dict(case.labels),
        "exp_annotations": {
            "summary": case.summary,
            "description": description,
            "runbook_url": case.runbook_url,
            "dashboard_url": case.dashboard_url,
        },
    }


def _parameter(case: Case, name: str, changes: Changes, *, told: bool) -> Any:
    changed = {key: samples for key, samples in {**case.series, **changes}.items() if samples is not None}
    for key, samples in changes.items():
        assert samples is not None or key in case.series, f"{case.form}, {name}: there is no series {key} to leave out"
    situation = Situation(case=case, name=name, series=changed, told=told)
    return pytest.param(situation, id=f"{case.form}: {name}")


def input_series(series: Samples, step: str, marks: Sequence[int], end: int) -> list[dict[str, str]]:
    """Return series as promtool takes them: with all their labels, and samples from 0 to ``end``."""
    return [
        {"series": with_labels(name), "values": _values(samples, seconds(step), marks, end, name)}
        for name, samples in series.items()
    ]


def with_labels(name: str) -> str:
    """Return the series with the labels that all of its kind have, where its own braces do not say otherwise."""
    metric, _, inner = name.partition("{")
    given = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', inner))
    common = PROCESS if metric in OF_PROCESS else SERVER
    return metric + "{" + ", ".join(f'{key}="{value}"' for key, value in {**common, **given}.items()) + "}"


def _values(samples: str, step: int, marks: Sequence[int], end: int, name: str) -> str:
    parts = samples.split("|")
    assert len(parts) <= len(marks) + 1, f"{name}: more parts than there are marks in the time line"
    bounds = [0, *(mark // step for mark in marks[: len(parts) - 1]), end // step + 1]
    rooms = [until - since for since, until in pairwise(bounds)]
    return " ".join(item for part, room in zip(parts, rooms, strict=True) for item in _part(part, room, step, name))


def _part(part: str, room: int, step: int, name: str) -> Iterator[str]:
    items = part.split()
    for number, text in enumerate(items):
        item = _ITEM.fullmatch(text)
        assert item is not None, f"{name}: {text} is not a sample"
        value, slope, times = item["value"], item["slope"] or "", item["times"]
        last = number == len(items) - 1
        if times is None:
            count = room if last else 1
        else:
            count = int(times) if times.isdigit() else seconds(times) // step
            assert not last or count == room, f"{name}: the part {part.strip()} has {room - count} samples too few"
        room -= count
        assert room >= 0, f"{name}: the part {part.strip()} has more samples than its time has steps"
        if value == "_":
            yield f"_x{count}"
        elif value == "stale":
            yield "stale" if count == 1 else f"stale _x{count - 1}"
        else:
            yield f"{value}{slope or '+0'}x{count - 1}"


def seconds(text: str) -> int:
    """Return the length of a time such as ``1h30m``."""
    assert _DURATION.fullmatch(text), f"{text} is not a time such as 30s or 1h30m"
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhdw])", text))


def _braces(labels: Mapping[str, str | None]) -> str:
    return "{" + ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in labels.items()) + "}"


def _told_series(test: Mapping[str, Any]) -> str:
    given = [series for each in test["tests"] for series in each["input_series"]]
    return "\n".join(f"    {series['series']}: {series['values']}" for series in given)
