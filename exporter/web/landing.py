"""The landing page: plain, accessible, without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape

from exporter.model import Snapshot
from exporter.process.incident_json import rfc3339
from exporter.web.incidents import last_crash

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:45rem;margin:2rem auto;padding:0 1rem}"
    "th,td{text-align:left;vertical-align:top;min-width:5rem;padding:.25rem 1rem .25rem 0;overflow-wrap:anywhere}"
)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Forewarn</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Forewarn</h1>
<p>Version {version}. It watches job servers and warns before they fail.</p>
<nav aria-label="Pages">
<ul>
<li><a href="metrics">Metrics</a></li>
<li><a href="api/v1/incidents">Incidents</a>: why a server's process died, and what it survived, as JSON</li>
<li><a href="-/healthy">Healthy</a>: the sidecar runs</li>
<li><a href="-/ready">Ready</a>: every server has been polled</li>
</ul>
</nav>
<h2 id="servers">Servers</h2>
<table aria-labelledby="servers">
<thead><tr><th scope="col">Server</th><th scope="col">State</th><th scope="col">Last crash</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</main>
</body>
</html>
"""


def landing_page(version: str, servers: Mapping[str, Snapshot | None]) -> str:
    """Return the page as HTML; a server without a snapshot has not been polled yet."""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_state(snapshot)}</td><td>{_crash(snapshot)}</td></tr>'
        for name, snapshot in servers.items()
    )
    return _PAGE.format(style=_STYLE, version=escape(version), rows=rows)


def _state(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "not polled yet"
    return "up" if snapshot.observation.reached else "down"


def _crash(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "not known yet"
    if snapshot.process is None:
        return "not known: its output is not read"
    crash = last_crash(snapshot)
    if crash is None:
        return "none seen"
    where = f" in <code>{escape(crash.component)}</code>" if crash.component else ""
    at = rfc3339(crash.at)
    when = f', <time datetime="{at}">{at}</time>' if at else ""
    hint = f"<p>{escape(crash.hint)}</p>" if crash.hint else ""
    return f"{escape(crash.kind.value)}{where}{when}{hint}"
