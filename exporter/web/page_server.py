"""One server on the status page: its summary, its four signals, and what else is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from markupsafe import Markup

from exporter.status.document import Concern, ServerStatus, Signal, Status
from exporter.web.links import Links
from exporter.web.page_chart import figure
from exporter.web.page_levels import shape, shape_and_word
from exporter.web.page_lists import lists
from exporter.web.page_words import ago, bounded, joined, known, name, number, sentence

_LONG_SUMMARY = 110
"""Characters from which on a summary is set in smaller letters."""


def key(server: str) -> str:
    """Return the id of a server's section; it begins the ids of the parts, and stays as long as the server's name."""
    return f"s{hashlib.blake2s(server.encode(errors='surrogatepass'), digest_size=4).hexdigest()}"


def watched(server: ServerStatus) -> Markup:
    """Return the attributes by which the page's script sees that a level changed."""
    return Markup(' data-watch="{}" data-level="{}"').format(bounded(server.name), server.level)


def section(server: ServerStatus, links: Links, status: Status, *, watch: bool) -> Markup:
    """Return all that is known of one server; ``watch`` where no overview tells its level."""
    own = key(server.name)
    return Markup(
        '<section class="server" id="{key}" aria-labelledby="{key}-h"{watch}><div class="head">{level}'
        '<h2 id="{key}-h">{name}</h2></div><p class="summary{long}">{summary}</p><ul class="facts">{facts}</ul>'
        '{concerns}<div class="signals">{signals}</div><div class="more">{lists}</div></section>'
    ).format(
        key=own,
        watch=watched(server) if watch else "",
        level=shape_and_word(server.level),
        name=name(server.name),
        long=" long" if len(server.summary) > _LONG_SUMMARY else "",
        summary=sentence(server.summary),
        facts=joined(Markup("<li>{}</li>").format(fact) for fact in _facts(server, links, status)),
        concerns=_concerns(server, links),
        signals=joined(_signal(signal, server, links, own) for signal in server.signals),
        lists=lists(server, status, own),
    )


def _facts(server: ServerStatus, links: Links, status: Status) -> Iterable[Markup]:
    now, age = status.generated_at, known(server.age)
    version = " ".join(bounded(part) for part in (server.version, server.edition) if part)
    yield Markup("{} {}").format(bounded(server.system).capitalize(), version or "of unknown version")
    if server.up is None:
        yield Markup("not polled yet")
    elif not server.up:
        yield Markup("down")
    elif server.started_at is not None:
        yield Markup("up for {}").format(ago(server.started_at, now))
    if server.workers is None:
        yield Markup("workers not known")
    else:
        yield Markup("{} {}").format(number(server.workers), "worker" if server.workers == 1 else "workers")
    if age is not None:
        yield Markup("polled {} ago").format(ago(now - age, now))
    yield Markup("watched for {}").format(ago(status.since, now))
    dashboard = links.dashboard(server.system, server.name)
    if dashboard is not None:
        yield Markup('<a href="{}" rel="noreferrer">Dashboard</a>').format(dashboard)


def _concerns(server: ServerStatus, links: Links) -> Markup:
    if not server.concerns:
        return Markup("")
    return Markup('<ul class="concerns" aria-label="Also wrong">{}</ul>').format(
        joined(_concern(concern, links) for concern in server.concerns)
    )


def _concern(concern: Concern, links: Links) -> Markup:
    return Markup('<li>{}<div>{} <span class="links">{}</span></div></li>').format(
        shape(concern.level), sentence(concern.text), _runbook(concern.runbook, links)
    )


def _signal(signal: Signal, server: ServerStatus, links: Links, section_key: str) -> Markup:
    meaning = Markup("<p>{}</p>").format(sentence(signal.meaning)) if signal.meaning else ""
    advice = Markup('<p class="advice"><b>Do first</b>{}</p>').format(sentence(signal.advice)) if signal.advice else ""
    own = f"{section_key}-{signal.name}"
    return Markup(
        '<article class="signal card" id="{key}" data-level="{level}" aria-labelledby="{key}-h"><div>'
        '<h3 id="{key}-h">{title}</h3>{shape}</div><p class="headline">{headline}</p>{meaning}{advice}{trend}{links}'
        "</article>"
    ).format(
        key=own,
        level=signal.level,
        title=sentence(signal.title),
        shape=shape_and_word(signal.level),
        headline=sentence(signal.headline),
        meaning=meaning,
        advice=advice,
        trend=figure(signal.trend, own) if signal.trend is not None else "",
        links=_signal_links(signal, server, links),
    )


def _signal_links(signal: Signal, server: ServerStatus, links: Links) -> Markup:
    found = [_runbook(signal.runbook, links)] if signal.runbook else []
    dashboard = links.dashboard(server.system, server.name, signal.name)
    if dashboard is not None:
        label = Markup('<a href="{}" rel="noreferrer">Dashboard<span class="away"> of {}</span></a>')
        found.append(label.format(dashboard, sentence(signal.title)))
    return Markup('<p class="links">{}</p>').format(joined(found)) if found else Markup("")


def _runbook(alert: str | None, links: Links) -> Markup:
    """Return the link to the page of an alert, or its name where nobody said where the pages are."""
    if alert is None:
        return Markup("")
    address = links.runbook(alert)
    if address is None:
        return Markup('<span class="soft">Runbook {}</span>').format(sentence(alert))
    return Markup('<a href="{}" rel="noreferrer">Runbook {}</a>').format(address, sentence(alert))
