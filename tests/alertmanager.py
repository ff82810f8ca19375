"""A real Alertmanager as a child process, and the shipped configuration made fit for a test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.programs import HttpProgram

SHIPPED = Path(__file__).parent.parent / "alerts" / "alertmanager.yml"
RECEIVERS = "http://127.0.0.1:9095"
"""Where the receivers of the shipped configuration are."""


def shipped(webhook: str, *, group_wait: str = "300ms", group_interval: str = "500ms") -> str:
    """Return the shipped configuration with its receivers at ``webhook`` and its groups told sooner; all else stays."""
    text, receivers = re.subn(rf"(?<=url: ){re.escape(RECEIVERS)}(?=/)", webhook, SHIPPED.read_text())
    text, waits = re.subn(r"(?m)^( +group_wait: )\S+$", rf"\g<1>{group_wait}", text)
    text, intervals = re.subn(r"(?m)^( +group_interval: )\S+$", rf"\g<1>{group_interval}", text)
    assert receivers, f"{SHIPPED}: no receiver at {RECEIVERS}"
    assert waits, f"{SHIPPED}: no group_wait"
    assert intervals, f"{SHIPPED}: no group_interval"
    return text


class Alertmanager(HttpProgram):
    """An Alertmanager of its own for a test, alone in its cluster. ``configuration`` is the text of its file."""

    program = "prometheus-alertmanager"
    package = "prometheus-alertmanager"

    def __init__(self, configuration: str) -> None:
        super().__init__()
        (self.folder / "alertmanager.yml").write_text(configuration)

    def arguments(self) -> Sequence[str]:
        return [
            f"--config.file={self.folder}/alertmanager.yml",
            f"--storage.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
            "--web.get-concurrency=100",  # by default a few at once, and more are refused
        ]

    async def is_ready(self) -> bool:
        return True

    async def post_alerts(
        self,
        alerts: Sequence[Mapping[str, str]],
        *,
        annotations: Mapping[str, str] | None = None,
        resolved: bool = False,
    ) -> None:
        """Post alerts by their labels, as firing or as just resolved."""
        end = {"endsAt": datetime.now(UTC).isoformat()} if resolved else {}
        posted = [{"labels": dict(labels), "annotations": dict(annotations or {}), **end} for labels in alerts]
        status, answer = await self.request("POST", "/api/v2/alerts", json=posted)
        assert status == 200, f"Alertmanager answered {status}: {answer}"

    async def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """Return the alerts with at least these labels that have not resolved.

        As the API tells them: ``labels``, ``annotations``, ``receivers``, and ``status`` with ``state`` (active,
        suppressed or unprocessed) and ``inhibitedBy``, fingerprints of other alerts.
        """
        status, answer = await self.request("GET", "/api/v2/alerts")
        assert status == 200, f"Alertmanager answered {status}: {answer}"
        return [alert for alert in answer if labels.items() <= alert["labels"].items()]
