"""The status page: what is known of every server, as HTML that needs nothing from elsewhere.

Whatever stands in it is escaped, because names come from the watched servers. :func:`live` is what changes: a browser
gets it again and again from the event stream, and puts it in place.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from markupsafe import Markup

from exporter.status.document import Level, ServerStatus, Status
from exporter.web.links import Links
from exporter.web.page_levels import WORST_FIRST, favicon, shape, shape_and_word, symbols, word
from exporter.web.page_server import key, section, watched
from exporter.web.page_words import bounded, joined, name, sentence

MAX_SHOWN = 8
"""Servers that are shown in full at most. Of more the calm ones are told in one line, and have a page of their own."""

RELOAD_SECONDS = 15
"""How often the page loads itself anew in a browser without JavaScript."""


def _asset(suffix: str) -> str:
    """Return a file that is part of the page, without its comments and blank lines."""
    text = Path(__file__).with_name(f"page.{suffix}").read_text(encoding="utf-8")
    return re.sub(r"^\s*(?://.*)?\n", "", text, flags=re.MULTILINE)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE = re.sub(r"\s*([{};,>])\s*|(?<=:) +", r"\1", _asset("css"))
_SCRIPT = _asset("js")
_MADE = hashlib.sha256((_STYLE + _SCRIPT).encode()).hexdigest()[:8]
"""Which style and script a fragment is meant for."""

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may do on the page: run its own script and nothing else, and ask its own server alone."""

_PAGE = Markup("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<link rel="icon" id="icon" href="{icon}">
<noscript><meta http-equiv="refresh" content="{reload}"></noscript>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#live">To the status</a>
<svg width="0" height="0" class="away" aria-hidden="true">{symbols}<pattern id="hatch" width="5" height="5"
 patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path d="M0 0v5"/></pattern></svg>
<header class="bar"><h1>Forewarn</h1>
<p id="link" data-state="wait"><noscript>Loads itself anew every {reload} s</noscript></p></header>
<div id="lost" hidden></div>
<div id="say" class="away" role="status"></div>
{live}
<footer><nav aria-label="Other pages"><ul>
<li><a href="api/v1/status">Status as JSON</a></li>
<li><a href="api/v1/incidents">Incidents as JSON</a></li>
<li><a href="metrics">Metrics</a></li>
<li><a href="-/healthy">Healthy</a></li>
<li><a href="-/ready">Ready</a></li>
<li>Forewarn {version}</li>
</ul></nav></footer>
<script>{script}</script>
</body>
</html>
""")


def page(status: Status, links: Links, only: str | None = None) -> str:
    """Return the whole page; ``only`` names the one server to show. A name that is not known shows all."""
    return _PAGE.format(
        title=_title(status),
        icon=favicon(status.level),
        reload=RELOAD_SECONDS,
        style=Markup(_STYLE),  # noqa: S704 - the project's own
        symbols=symbols(),
        live=Markup(live(status, links, only)),  # noqa: S704 - escaped where it is made
        version=status.version,
        script=Markup(_SCRIPT),  # noqa: S704 - the project's own
    )


def live(status: Status, links: Links, only: str | None = None) -> str:
    """Return the part of the page that changes."""
    ordered = sorted(status.servers, key=lambda server: WORST_FIRST.index(server.level))
    alone = [server for server in ordered if server.name == only]
    shown = alone or _in_full(ordered)
    if not ordered:
        head = Markup('<p class="summary">No server is watched: name one in the configuration.</p>')
    elif len(ordered) == 1:
        head = Markup("")
    elif alone:
        head = Markup('<p><a href="./">All {} servers</a></p>').format(len(ordered))
    else:
        head = _overview(ordered, {server.name for server in shown}, status)
    watch = len(ordered) == 1 or bool(alone)
    return Markup(
        '<main id="live" tabindex="-1" data-at="{:.2f}" data-title="{}" data-icon="{}" data-made="{}">{}{}</main>'
    ).format(
        status.generated_at,
        _title(status),
        favicon(status.level),
        _MADE,
        head,
        joined(section(server, links, status, watch=watch) for server in shown),
    )


def _in_full(ordered: Sequence[ServerStatus]) -> Sequence[ServerStatus]:
    """Return which servers are shown in full: all, or of many those that need somebody."""
    if len(ordered) <= MAX_SHOWN:
        return ordered
    return [server for server in ordered if server.level is not Level.CALM][:MAX_SHOWN]


def _title(status: Status) -> str:
    """Return what the browser's tab tells: how bad it is, and where."""
    servers = [server for server in status.servers if server.level is status.level]
    if len(servers) == 1:
        about = bounded(servers[0].name)
    elif len(servers) == len(status.servers):
        about = f"{len(servers)} servers"
    else:
        about = f"{len(servers)} of {len(status.servers)} servers"
    return f"{word(status.level)}: {about} – Forewarn"


def _overview(ordered: Sequence[ServerStatus], shown: set[str], status: Status) -> Markup:
    counts = [(level, sum(server.level is level for server in ordered)) for level in WORST_FIRST]
    return Markup(
        '<section aria-labelledby="all"><div class="head">{}<h2 id="all">{} servers</h2></div>'
        '<p class="summary">{}</p><ol class="overview card">{}</ol></section>'
    ).format(
        shape_and_word(status.level),
        len(ordered),
        ", ".join(f"{count} {level}" for level, count in counts if count),
        joined(_row(server, server.name in shown) for server in ordered),
    )


def _row(server: ServerStatus, shown: bool) -> Markup:
    address = f"#{key(server.name)}" if shown else "?" + urlencode({"server": server.name}, errors="replace")
    signals = joined(
        Markup("<li>{}</li>").format(shape(signal.level, f"{sentence(signal.title)}: {signal.level}"))
        for signal in server.signals
    )
    return Markup(
        '<li id="{}-o"{}><div class="who">{}<a href="{}">{}</a></div><p class="said">{}</p>'
        '<ul class="four" aria-label="Signals">{}</ul></li>'
    ).format(
        key(server.name),
        watched(server),
        shape_and_word(server.level),
        address,
        name(server.name),
        sentence(server.summary),
        signals,
    )
