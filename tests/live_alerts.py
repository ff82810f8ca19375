"""A stage for live tests of alerts: several servers with Forewarns, one Prometheus, one Alertmanager, one receiver."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import Struct

from exporter.rules.load import load
from exporter.rules.settings import DEFAULTS, RuleSettings, Wait, Window
from exporter.settings import parse_duration
from tests.alertmanager import Alertmanager, shipped
from tests.forewarn import Forewarn
from tests.prometheus import Prometheus
from tests.servers import WatchedServer, running
from tests.webhook import Webhook

QUICKER = 30
"""How many times shorter the tests take every time constant of the rules."""

ORPHANED = 10
"""Seconds after which the tests want to be told of orphans: by default longer than their reservation."""

WATCHDOG = "ForewarnWatchdog"


def quickened() -> str:
    """Return a settings file that changes nothing but the time constants of the rules."""
    lines = [
        f'interval = "{_shorter(DEFAULTS.interval)}"',
        f'history_interval = "{_shorter(DEFAULTS.history_interval)}"',
    ]
    for alert in msgspec.structs.fields(DEFAULTS.alerts):
        entry = getattr(DEFAULTS.alerts, alert.name)
        lines += ["", f"[alerts.{alert.encode_name}]"]
        for key in msgspec.structs.fields(entry):
            value = getattr(entry, key.name)
            if key.type in (Wait, Window):
                lines.append(f'{key.encode_name} = "{_shorter(value)}"')
            elif key.encode_name == "windows":
                lines.append(f"windows = [{', '.join(map(_inline, value))}]")
        if alert.encode_name == "FaktoryJobsOrphaned":
            lines.append(f"seconds = {ORPHANED}")
    return "\n".join(lines) + "\n"


def _inline(table: Struct) -> str:
    pairs = []
    for key in msgspec.structs.fields(table):
        value = getattr(table, key.name)
        pairs.append(f"{key.encode_name} = {json.dumps(_shorter(value) if key.type in (Wait, Window) else value)}")
    return "{ " + ", ".join(pairs) + " }"


def _shorter(duration: str) -> str:
    seconds = parse_duration(duration) / QUICKER
    return f"{seconds:.0f}s" if seconds >= 1 else f"{seconds * 1000:.0f}ms"


def settings_in(folder: Path) -> Path:
    """Return the settings file of that folder; make it where there is none."""
    path = folder / "rules.toml"
    if not path.exists():
        path.write_text(quickened())
    return path


def rendered_rules(folder: Path) -> Path:
    """Render quickened rules as an operator does, into that folder."""
    command = [sys.executable, "-m", "exporter.cli", "rules", "--settings", str(settings_in(folder))]
    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert rendered.returncode == 0, rendered.stderr
    path = folder / "rules.yml"
    path.write_text(rendered.stdout)
    return path


class Pair:
    """One server and the Forewarn beside it."""

    def __init__(self, stage: Stage, server: WatchedServer) -> None:
        self.server = server
        self.forewarn = Forewarn(server)
        self._stage = stage

    @property
    def instance(self) -> str:
        """What Prometheus calls its Forewarn."""
        return f"127.0.0.1:{self.forewarn.port}"

    async def fires(self, alertname: str, deadline: float, **labels: str) -> dict[str, Any]:
        """Wait until the receiver was told that an alert of this pair fires; see that its texts are complete."""
        alert = await self._stage.webhook.wait_for(
            alertname, "firing", deadline, **({"instance": self.instance} | labels)
        )
        check_texts(alert)
        return alert

    async def resolves(self, alertname: str, deadline: float, **labels: str) -> None:
        """Wait until the receiver was told that an alert of this pair has ended."""
        await self._stage.webhook.wait_for(alertname, "resolved", deadline, **({"instance": self.instance} | labels))

    def told(self) -> set[tuple[str, str]]:
        """Return names and severities of all alerts of this pair that were delivered."""
        return {
            (alert["labels"]["alertname"], alert["labels"]["severity"])
            for notification in self._stage.webhook.notifications
            for alert in notification.alerts
            if alert["labels"].get("instance") == self.instance
        }


class Stage:
    """Everything that is real, for the duration of an ``async with`` block."""

    def __init__(self, make: Callable[[], WatchedServer], names: Sequence[str]) -> None:
        self.kind = make
        self.webhook = Webhook()
        self.pairs: Mapping[str, Pair] = {name: Pair(self, make()) for name in names}
        self.prometheus: Prometheus
        self.alertmanager: Alertmanager
        self.began = 0.0
        """Unix time."""
        self._ends = AsyncExitStack()
        self.folder = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="fw-")))
        self.settings_file = settings_in(self.folder)

    @property
    def settings(self) -> RuleSettings:
        """What the rules of this stage were rendered from."""
        return load(self.settings_file)

    def rules(self) -> Path:
        """Render the rules as an operator does."""
        return rendered_rules(self.folder)

    def dashboards(self) -> list[dict[str, Any]]:
        """Generate the dashboards that belong to these rules."""
        folder = self.folder / "dashboards"
        command = [sys.executable, "-m", "dashboards", "--settings", str(self.settings_file), "--output", str(folder)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    async def enter(self, pair: Pair) -> None:
        """Start a server and its Forewarn."""
        await self._ends.enter_async_context(running(pair.server))
        await self._ends.enter_async_context(pair.forewarn)

    async def __aenter__(self) -> Self:
        try:
            for pair in self.pairs.values():
                await self.enter(pair)
            await self._ends.enter_async_context(self.webhook)
            self.alertmanager = Alertmanager(shipped(self.webhook.address))
            await self._ends.enter_async_context(self.alertmanager)
            self.prometheus = Prometheus(
                *(pair.instance for pair in self.pairs.values()),
                rules=[self.rules()],
                alertmanager=self.alertmanager.address,
            )
            await self._ends.enter_async_context(self.prometheus)
            self.began = time.time()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._ends.aclose()


def check_texts(alert: Mapping[str, Any]) -> None:
    """See that nothing of an alert's texts and addresses is left to be filled in."""
    name, annotations = alert["labels"]["alertname"], alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}, annotations
    for text in annotations.values():
        assert not re.search(r"\{\{|\}\}|<no value>|%!|<error|NaN|<\w+>", text), f"{name}: {text}"
    assert annotations["runbook_url"] == f"{DEFAULTS.runbooks_url}/{name}.md"
    assert Path("docs", "runbooks", f"{name}.md").is_file()
    found = re.fullmatch(
        r"https://grafana\.example\.com/d/([\w-]+)\?viewPanel=(\d+)&(.*)", annotations["dashboard_url"]
    )
    assert found, annotations["dashboard_url"]
    dashboard = json.loads(Path("dashboards", f"{found[1]}.json").read_text())
    assert int(found[2]) in {panel["id"] for panel in dashboard["panels"]}, annotations["dashboard_url"]
    if server := alert["labels"].get("server"):
        assert f"var-server={server}" in found[3]
