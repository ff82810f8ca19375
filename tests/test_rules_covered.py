"""No alert is shipped without a case that tells what it does."""

from __future__ import annotations

from typing import Final

import pytest

from exporter.rules.render import groups
from exporter.rules.rule import AlertRule
from exporter.rules.settings import DEFAULTS
from tests import test_rules_firing_jobs, test_rules_firing_process, test_rules_firing_server
from tests.rule_cases import Case

CASES: Final = (
    *test_rules_firing_server.CASES,
    *test_rules_firing_process.CASES,
    *test_rules_firing_jobs.CASES,
)
ALERTS: Final = [
    pytest.param(rule, id="-".join((rule.name, rule.severity, *rule.labels.values())))
    for group in groups(DEFAULTS)
    for rule in group.rules
    if isinstance(rule, AlertRule)
]


def cases_of(rule: AlertRule) -> list[Case]:
    added = {"severity": rule.severity, **rule.labels}
    return [case for case in CASES if case.alert == rule.name and added.items() <= case.labels.items()]


@pytest.mark.parametrize("rule", ALERTS)
def test_every_alert_has_a_case(rule: AlertRule) -> None:
    assert cases_of(rule)


@pytest.mark.parametrize("rule", ALERTS)
def test_an_alert_is_told_with_the_labels_that_its_rule_promises(rule: AlertRule) -> None:
    promised = {*rule.by, "severity", *rule.labels}

    assert [set(case.labels) for case in cases_of(rule)] == [promised] * len(cases_of(rule))


@pytest.mark.parametrize("rule", [each for each in ALERTS if each.id != "ForewarnWatchdog-none"])
def test_every_alert_that_can_end_is_tried_just_below_its_threshold(rule: AlertRule) -> None:
    assert all(case.just_below is not None for case in cases_of(rule))
