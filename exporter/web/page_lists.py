"""The lists of one server on the status page: jobs, orphans, throttles, queues, what happened, and what is not seen."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from exporter.process.incident_json import rfc3339
from exporter.status.document import (
    Blind,
    BusyJob,
    Happening,
    Level,
    Orphan,
    QueueRow,
    ServerStatus,
    Status,
    Throttle,
)
from exporter.web.page_levels import shape, shape_and_word
from exporter.web.page_words import (
    UNKNOWN,
    ago,
    bounded,
    clock_time,
    joined,
    known,
    name,
    number,
    sentence,
    share,
    span,
    until,
)

MAX_ROWS = 10
"""Rows of a list; the JSON of the status has more."""

MAX_ORPHANS = 20
"""The same of orphans: each of them is a loss."""

FIRST_HAPPENINGS = 5
"""How many happenings are shown before the others are asked for."""

NEARLY_USED = 0.8
"""Share of a reservation from which on its bar warns."""

_NOTHING = Markup("")


def lists(server: ServerStatus, status: Status, key: str) -> Markup:
    """Return all of them in two columns; ``key`` begins the ids in them."""
    now = status.generated_at
    busy = _table(
        f"{key}-list-busy",
        "Oldest busy jobs",
        _count(server.busy_count, server.busy[:MAX_ROWS], "busy", "none is busy"),
        ("Job", "Age", "Reservation used"),
        [_busy(job, now) for job in server.busy[:MAX_ROWS]],
    )
    orphans = _table(
        f"{key}-list-orphans",
        "Orphans",
        _count(server.orphan_count, server.orphans[:MAX_ORPHANS], "left by workers that are gone", "none"),
        ("Job", "Found", "Comes back in"),
        [_orphan(orphan, now) for orphan in server.orphans[:MAX_ORPHANS]],
    )
    throttles = _table(
        f"{key}-list-throttles",
        "Throttles",
        _count(server.throttle_count, server.throttles[:MAX_ROWS], "in all", "none is set"),
        ("Queue", "In use", "Waiting"),
        [_throttle(throttle) for throttle in server.throttles[:MAX_ROWS]],
    )
    queues = _table(
        f"{key}-list-queues",
        "Slowest queues",
        _count(server.queue_count, server.queues[:MAX_ROWS], "in all", "there is none"),
        ("Queue", "Jobs", "Oldest waits"),
        [_queue(queue) for queue in server.queues[:MAX_ROWS]],
        _sets(server),
    )
    return Markup("<div>{}{}{}</div><div>{}{}{}</div>").format(
        busy, orphans, throttles, _happenings(server, status, key), queues, _blindness(server, key)
    )


def _count(count: int | None, listed: Sequence[object], what: str, none: str) -> Markup:
    """Return how many there are, and how many of them are listed."""
    if count is None:
        return UNKNOWN
    if not count:
        return Markup("{}").format(none)
    of = f"{number(len(listed))} of " if len(listed) < count else ""
    return Markup("{}{} {}").format(of, number(count), what)


def _block(key: str, title: str, note: Markup, content: Markup) -> Markup:
    return Markup(
        '<div class="block card" id="{0}" role="group" aria-labelledby="{0}-h"><div><h3 id="{0}-h">{1}</h3>'
        '<p class="note">{2}</p></div>{3}</div>'
    ).format(key, title, note, content)


def _table(
    key: str, title: str, note: Markup, heads: Sequence[str], rows: Sequence[Markup], rest: Markup = _NOTHING
) -> Markup:
    if not rows:
        return _block(key, title, note, rest)
    cells = joined(Markup('<th scope="col">{}</th>').format(head) for head in heads)
    table = Markup('<table class="{}" aria-labelledby="{}-h"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>')
    return _block(key, title, note, table.format(key.rpartition("-")[2], key, cells, joined(rows)) + rest)


def _row(head: Markup, below: Markup, *cells: Markup) -> Markup:
    small = Markup("<small>{}</small>").format(below) if below else ""
    return Markup('<tr><th scope="row">{}{}</th>{}</tr>').format(
        head, small, joined(Markup("<td>{}</td>").format(cell) for cell in cells)
    )


def _where(job: BusyJob | Orphan) -> Markup:
    return Markup("{} · {} · worker {}").format(name(job.queue), name(job.jid), name(job.worker))


def _busy(job: BusyJob, now: float) -> Markup:
    age, used = known(job.age), known(job.used)
    reservation = UNKNOWN
    if used is not None:
        level = Level.CRITICAL if used >= 1 else Level.WARNING if used >= NEARLY_USED else Level.CALM
        twice = Markup("<small>runs twice</small>") if used >= 1 else ""
        reservation = Markup("{}{}{}").format(share(used), _meter(used, level), twice)
    tag = Markup(' <span class="tag">orphan</span>') if job.orphan else _NOTHING
    return _row(name(job.jobtype) + tag, _where(job), UNKNOWN if age is None else ago(now - age, now), reservation)


def _orphan(orphan: Orphan, now: float) -> Markup:
    age, returns = known(orphan.age), known(orphan.returns_in)
    return _row(
        name(orphan.jobtype),
        _where(orphan),
        UNKNOWN if age is None else Markup("{} ago").format(ago(now - age, now)),
        UNKNOWN if returns is None else until(now + returns, now),
    )


def _queue(queue: QueueRow) -> Markup:
    latency = known(queue.latency)
    tag = Markup(' <span class="tag">paused</span>') if queue.paused else _NOTHING
    return _row(
        name(queue.name) + tag,
        _NOTHING,
        UNKNOWN if queue.jobs is None else Markup("{}").format(number(queue.jobs)),
        UNKNOWN if latency is None else Markup("{}").format(span(latency)),
    )


def _throttle(throttle: Throttle) -> Markup:
    saturation = known(throttle.saturation)
    meter = _meter(saturation, throttle.level) if saturation is not None else ""
    use = UNKNOWN if throttle.in_use is None else number(throttle.in_use)
    level = shape_and_word(throttle.level) if throttle.level is not Level.CALM else ""
    return _row(
        name(throttle.queue),
        Markup("per {} {}").format(bounded(throttle.scope), level),
        Markup("{} of {}{}").format(use, number(throttle.limit), meter),
        UNKNOWN if throttle.waiting is None else Markup("{}").format(number(throttle.waiting)),
    )


def _meter(value: float, level: Level) -> Markup:
    """Return a share as a bar; its number stands beside it."""
    return Markup(
        '<svg class="meter" data-level="{}" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="M0 0h100v4H0z"/><path d="M0 0h{}v4H0z"/></svg>'
    ).format(level, round(min(max(value, 0.0), 1.0) * 100))


def _sets(server: ServerStatus) -> Markup:
    if not server.sets:
        return _NOTHING
    each = Markup("<div><dt>{}</dt><dd>{}</dd></div>")
    return Markup('<dl class="sets">{}</dl>').format(
        joined(each.format(bounded(key), number(count)) for key, count in server.sets.items())
    )


def _happenings(server: ServerStatus, status: Status, key: str) -> Markup:
    own, since = f"{key}-list-happened", clock_time(status.since, status.generated_at)
    if not server.happenings:
        return _block(own, "What happened", Markup("nothing since {}").format(since), _NOTHING)
    first, rest = server.happenings[:FIRST_HAPPENINGS], server.happenings[FIRST_HAPPENINGS:]
    content = Markup('<ol class="events">{}</ol>').format(joined(_happening(each, status) for each in first))
    if rest:
        more = Markup('<details id="{}-more"><summary>{} more</summary><ol class="events">{}</ol></details>')
        content += more.format(own, len(rest), joined(_happening(each, status) for each in rest))
    return _block(own, "What happened", Markup("the newest first"), content)


def _happening(happening: Happening, status: Status) -> Markup:
    when = UNKNOWN
    if rfc3339(happening.at) is not None:
        clock = clock_time(happening.at, status.generated_at)
        when = Markup("{}, {} ago").format(clock, ago(happening.at, status.generated_at))
    detail = Markup("<p>{}</p>").format(sentence(happening.detail)) if happening.detail else ""
    hint = Markup('<p class="advice">{}</p>').format(sentence(happening.hint)) if happening.hint else ""
    return Markup('<li>{}<div><b>{}</b> <span class="when">{}</span>{}{}</div></li>').format(
        shape(happening.level), sentence(happening.title), when, detail, hint
    )


def _blindness(server: ServerStatus, key: str) -> Markup:
    if not server.blind:
        return _NOTHING
    content = Markup('<ul class="blind">{}</ul>').format(joined(map(_blind, server.blind)))
    return _block(f"{key}-list-blind", "What Forewarn cannot see", _NOTHING, content)


def _blind(blind: Blind) -> Markup:
    remedy = Markup('<p class="advice">{}</p>').format(sentence(blind.remedy)) if blind.remedy else ""
    return Markup("<li>{}<div><b>{}</b><p>{}</p>{}</div></li>").format(
        shape(Level.UNKNOWN), sentence(blind.what), sentence(blind.why), remedy
    )
