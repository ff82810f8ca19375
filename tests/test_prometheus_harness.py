"""The harness of the rules' tests: what Prometheus learns reaches the webhook, and what fails is told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.alertmanager import Alertmanager, shipped
from tests.programs import need
from tests.prometheus import Prometheus, PrometheusError
from tests.servers import free_port, wait_until
from tests.webhook import Webhook

RULES = """
groups:
- name: shop
  rules:
  - {record: 'queue:open:max', expr: 'max by (queue) (open)'}
  - alert: TooMany
    expr: open > 5
    labels: {severity: critical}
    annotations: {summary: "{{ $value }} in {{ $labels.queue }}"}
"""
FAILING = """
groups:
- name: failing
  rules: [{record: twice, expr: 'open * on() group_left() {__name__=~"open|up"}'}]
"""


class Page:
    """A ``/metrics`` page with one number."""

    def __init__(self) -> None:
        self.open = 1.0
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(text=f'open{{queue="mail"}} {self.open}\nopen{{queue="video"}} 0\n')


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    shown = Page()
    app = web.Application()
    app.router.add_get("/metrics", shown.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", shown.port).start()
        yield shown
    finally:
        await runner.cleanup()


def written(folder: Path, text: str) -> Path:
    file = folder / "rules.yml"
    file.write_text(text)
    return file


async def test_an_alert_travels_from_a_metric_to_the_webhook_and_resolves(tmp_path: Path) -> None:
    async with (
        page() as shown,
        Webhook() as webhook,
        Alertmanager(shipped(webhook.address)) as alertmanager,
        Prometheus(shown.target, rules=[written(tmp_path, RULES)], alertmanager=alertmanager.address) as prometheus,
    ):
        await prometheus.settled()
        assert await prometheus.alerts() == []
        shown.open = 7
        told = await webhook.wait_for("TooMany", "firing", 20)
        assert told["labels"] == {
            "alertname": "TooMany",
            "severity": "critical",
            "job": "forewarn",
            "instance": shown.target,
            "queue": "mail",
        }
        assert told["annotations"] == {"summary": "7 in mail"}
        assert webhook.receivers("TooMany") == {"page"}
        (alert,) = await prometheus.alerts()
        assert (alert["state"], alert["labels"]["queue"]) == ("firing", "mail")
        shown.open = 1
        await webhook.wait_for("TooMany", "resolved", 20)
        assert await prometheus.problems() == []
        assert alertmanager.complaints() == []


async def test_queries_answer_with_series_and_refusals_with_prometheus_own_words(tmp_path: Path) -> None:
    async with page() as shown, Prometheus(shown.target, rules=[written(tmp_path, RULES)], job="shop") as prometheus:
        await prometheus.settled()
        (mail,) = await prometheus.query('open{queue="mail"}')
        assert (mail.name, mail.labels["job"], mail.value) == ("open", "shop", 1)
        await wait_until(lambda: prometheus.query("queue:open:max"), 30, every=0.1)
        assert (await prometheus.query("scalar(sum(open))"))[0].value == 1
        assert await prometheus.query("open", at=time.time() - 3600) == []
        assert await prometheus.label_values("queue", 'open{queue!="video"}') == ["mail"]
        now = time.time()
        (ranged,) = await prometheus.query_range("sum(open) * 0 + 1", now - 10, now, 1)
        assert {value for _, value in ranged.points} == {1}
        assert [(it["name"], it["group"]) for it in await prometheus.rules()] == [
            ("queue:open:max", "shop"),
            ("TooMany", "shop"),
        ]
        with pytest.raises(PrometheusError, match=r"parse error.*\(asked for: rate\(open\)\)"):
            await prometheus.query("rate(open)")


async def test_a_target_that_is_gone_and_a_rule_that_fails_are_problems(tmp_path: Path) -> None:
    gone = f"127.0.0.1:{free_port()}"
    rules = [written(tmp_path, FAILING)]
    async with page() as shown, Prometheus(shown.target, gone, rules=rules) as prometheus:

        async def both_told() -> bool:
            problems = await prometheus.problems()
            return any(gone in it and "refused" in it for it in problems) and any(
                "rule twice is err" in it for it in problems
            )

        await wait_until(both_told, 20, every=0.1)
        with pytest.raises(AssertionError):
            await prometheus.settled(0.1)


async def test_a_configuration_that_is_refused_is_told_with_its_log() -> None:
    with pytest.raises(AssertionError, match=r"prometheus-alertmanager ended with 1 at its start:(?s:.)*no routes"):
        async with Alertmanager("receivers: []"):
            pass


def test_a_missing_program_fails_in_ci_and_is_skipped_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no prometheus on the PATH: apt-get install prometheus"):
        need("prometheus", "prometheus")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no prometheus on the PATH: apt-get install prometheus"):
        need("prometheus", "prometheus")
