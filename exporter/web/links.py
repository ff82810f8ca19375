"""Where the links of the status page lead that leave this server: runbooks and dashboards."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import msgspec

_BOARDS = {
    "connections": "workers",
    "busy": "queues",
    "workers": "workers",
    "throttles": "throttles",
}
"""The dashboard of each signal; its system's name stands before it."""

_OVERVIEW = "overview"


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses that an operator has set; ``None`` where a page has none.

    Raises ``ValueError`` for an address that is neither ``http://`` nor ``https://``: a browser might run it.
    """

    runbooks_url: str | None = None
    """Where the pages of docs/runbooks are to be read."""
    dashboards_url: str | None = None
    """The Grafana that has the dashboards."""

    def __post_init__(self) -> None:
        for key, address in (("runbooks_url", self.runbooks_url), ("dashboards_url", self.dashboards_url)):
            if address is not None and not address.lower().startswith(("http://", "https://")):
                raise ValueError(f"{key} = {address!r} is not an address: it must begin with http:// or https://")

    def runbook(self, alert: str) -> str | None:
        """Return the address of the page that tells what to do about ``alert``."""
        if self.runbooks_url is None:
            return None
        return f"{self.runbooks_url.rstrip('/')}/{quote(alert, safe='', errors='replace')}.md"

    def dashboard(self, system: str, server: str, signal: str | None = None) -> str | None:
        """Return the address of the dashboard of one server: the overview, or the one that tells most of a signal."""
        if self.dashboards_url is None:
            return None
        board = quote(f"{system}-{_BOARDS.get(signal or '', _OVERVIEW)}", safe="", errors="replace")
        return f"{self.dashboards_url.rstrip('/')}/d/{board}?{urlencode({'var-server': server}, errors='replace')}"
