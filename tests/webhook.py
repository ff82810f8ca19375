"""A receiver of Alertmanager's notifications that records every one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Self

from aiohttp import web
from msgspec import Struct

from tests.servers import free_port, wait_until

KEPT = 20_000
"""Notifications beyond this number are a test gone wild."""


class Notification(Struct, frozen=True):
    """One call of the webhook."""

    arrived: float
    """Unix time."""
    path: str
    receiver: str
    """Empty, as ``alerts`` is, where it speaks another format than Alertmanager's own."""
    alerts: list[dict[str, Any]]
    """Each with ``status`` (firing or resolved), ``labels``, ``annotations``, ``startsAt``, ``endsAt``."""
    payload: dict[str, Any]
    """All of it as it came."""


class Webhook:
    """Listens at ``address`` for the duration of an ``async with`` block; accepts everything, under every path."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.notifications: list[Notification] = []
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None)

    async def _receive(self, request: web.Request) -> web.Response:
        arrived = time.time()
        payload = await request.json()
        assert len(self.notifications) < KEPT, f"more than {KEPT} notifications"
        receiver, alerts = payload.get("receiver", ""), payload.get("alerts", [])
        self.notifications.append(Notification(arrived, request.path, receiver, alerts, payload))
        return web.Response()

    def delivered(self, alertname: str, status: str | None = None, **labels: str) -> list[dict[str, Any]]:
        """Return each time that an alert with at least these labels was told, oldest first."""
        return [alert for _, alert in self._matching(alertname, status, labels)]

    def receivers(self, alertname: str, **labels: str) -> set[str]:
        """Return the receivers that were told of an alert."""
        return {notification.receiver for notification, _ in self._matching(alertname, None, labels)}

    def _matching(
        self, alertname: str, status: str | None, labels: dict[str, str]
    ) -> Iterator[tuple[Notification, dict[str, Any]]]:
        wanted = {"alertname": alertname, **labels}.items()
        for notification in self.notifications:
            for alert in notification.alerts:
                if status in {None, alert["status"]} and wanted <= alert["labels"].items():
                    yield notification, alert

    async def wait_for(
        self, alertname: str, status: str = "firing", deadline: float = 10.0, **labels: str
    ) -> dict[str, Any]:
        """Wait until an alert with at least these labels was told with this status; return its newest telling."""
        try:
            found: list[dict[str, Any]] = await wait_until(
                lambda: self.delivered(alertname, status, **labels),
                deadline,
                what=f"{alertname} {labels} is told as {status}",
            )
        except AssertionError as error:
            told = sorted(
                {
                    f"{it.receiver}: {alert['status']} {alert['labels'].get('alertname')}"
                    for it in self.notifications
                    for alert in it.alerts
                }
            )
            error.add_note("told were: " + ("\n".join(told) or "none"))
            raise
        return found[-1]

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
