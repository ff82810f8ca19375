"""``python -m tests.trace_picture``: plays the story of ``docs/traces.md`` and draws what a collector got of it.

Takes some minutes. Runs on a real Faktory where there is one, else on the stand-in, with real workers and a real
OpenTelemetry Collector, and writes ``docs/traces.svg``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import msgspec

from tests.forewarn import Forewarn
from tests.live_crashes import GRACE, SETTLED
from tests.live_traces import TOLD, Seen, Stage, kill, told_to, working
from tests.servers import RealFaktory, StandInFaktory, real_programs, wait_until

PICTURE: Final = Path(__file__).parent.parent / "docs" / "traces.svg"

QUEUE: Final = "reports"
TAKES = 25.0
"""Seconds that the job takes."""

KILLED_AFTER = 18.0
RESERVED_FOR = 120
RETRIED_WITHIN = 60.0

WIDTH: Final = 960
LEFT: Final = 250
"""Where time begins: names stand left of it."""

RIGHT: Final = 24
TOP: Final = 40
ROW: Final = 46
BAR: Final = 16
CHARACTER: Final = 7.5
"""Most width of one character of a bar's own text, on average."""

STYLE: Final = """
  svg { --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --rule: #d8dee4;
        --well: #1a7f37; --bad: #cf222e; --wait: #8c959f; --orphan: #bf8700; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #0d1117; --ink: #f0f6fc; --soft: #9198a1; --rule: #2f363d;
          --well: #3fb950; --bad: #f85149; --wait: #6e7681; --orphan: #d29922; }
  }
  text { font: 12px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft); }
  .name { font-size: 13px; font-weight: 600; fill: var(--ink); }
  .in { fill: var(--paper); }
  .rule { stroke: var(--rule); }
  .link { stroke: var(--soft); stroke-dasharray: 3 3; fill: none; }
  .head { fill: var(--soft); }
  .paper { fill: var(--paper); }
  .well { fill: var(--well); } .bad { fill: var(--bad); } .wait { fill: var(--wait); } .orphan { fill: var(--orphan); }
"""


class Row(msgspec.Struct, frozen=True):
    """One span where it is drawn."""

    span: Seen
    y: int
    left: float
    right: float

    @property
    def middle(self) -> float:
        """The height of the bar's middle."""
        return self.y + ROW / 2


def draw(spans: Sequence[Seen]) -> str:
    """Return a picture of spans, one below the other by their start, over a common axis of time."""
    spans = sorted(spans, key=lambda it: (_since(it, spans), _rank(it)))
    begin, end = min(it.start for it in spans), max(it.end for it in spans)
    scale = (WIDTH - LEFT - RIGHT) / (end - begin)
    rows = [
        Row(it, TOP + ROW * place, x := LEFT + (it.start - begin) * scale, max(x + 2, LEFT + (it.end - begin) * scale))
        for place, it in enumerate(spans)
    ]
    height = TOP + ROW * len(rows) + 12
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(_title(spans))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        *_axis(end - begin, scale, height),
        *(part for row in rows for part in _row(row)),
        *(part for row in rows for part in _links(row, rows)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _since(span: Seen, spans: Sequence[Seen]) -> float:
    """Return when a span begins; of a crash, when the first of what it ended does."""
    ended = [it.start for it in spans if any((link.trace, link.span) == span.id for link in it.links)]
    return min(ended, default=span.start) if span.name == "worker crash" else span.start


def _title(spans: Sequence[Seen]) -> str:
    return "What a job went through: " + ", ".join(f"{it.name} {_seconds(it.end - it.start)}" for it in spans)


def _rank(span: Seen) -> int:
    """Put what is about another span below it, where both begin at once."""
    return ["wait", "process", "worker", "orphaned"].index(span.name.split()[0])


def _axis(seconds: float, scale: float, height: int) -> Iterator[str]:
    step = next(it for it in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 86400) if it * scale >= 60)
    for tick in range(0, int(seconds) + 1, step):
        x = LEFT + tick * scale
        yield f'<line class="rule" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 8}"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 16}" text-anchor="middle">{tick} s</text>'


def _row(row: Row) -> Iterator[str]:
    span, middle = row.span, row.middle
    yield f'<text class="name" x="16" y="{middle - 3:.1f}">{escape(span.name)}</text>'
    yield f'<text x="16" y="{middle + 13:.1f}">{escape(_about(span))}</text>'
    y = middle - BAR / 2
    yield (
        f'<rect class="{_class(span)}" x="{row.left:.1f}" y="{y:.1f}" width="{row.right - row.left:.1f}" '
        f'height="{BAR}" rx="2"/>'
    )
    told = _seconds(span.end - span.start)
    room = len(told) * CHARACTER + 12
    if row.right + room <= WIDTH:
        yield f'<text x="{row.right + 6:.1f}" y="{middle + 4:.1f}">{told}</text>'
    elif row.left - room >= LEFT:
        yield f'<text x="{row.left - 6:.1f}" y="{middle + 4:.1f}" text-anchor="end">{told}</text>'
    else:
        yield f'<text class="in" x="{row.left + 6:.1f}" y="{middle + 4:.1f}">{told}</text>'


def _class(span: Seen) -> str:
    kind = span.name.split()[0]
    if kind in {"wait", "orphaned"}:
        return "wait" if kind == "wait" else "orphan"
    return "bad" if span.failed else "well"


def _about(span: Seen) -> str:
    attempt = f"attempt {span.own('attempt')}"
    match span.name.split()[0]:
        case "process":
            return f"{attempt}, {span.own('outcome') or 'end not known'}"
        case "worker":
            return f"{span.own('crash_reason')}, a trace of its own"
        case "orphaned":
            return f"{attempt}, its worker is gone"
        case _:
            return f"{attempt}, in the queue"


def _links(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Yield an arrow for each link that leads up to another row, and to a crash."""
    for link in row.span.links:
        other = next((it for it in rows if it.span.id == (link.trace, link.span)), None)
        if other is None or link.attributes.get("messaging.faktory.link") == "orphaned_job":
            continue
        if other.y < row.y:
            # Below the other's bar, where no text is.
            x, bend, top = row.left + 1, other.y + ROW, other.middle + BAR / 2
            tip = max(other.left + 1, other.right - 14)  # beside an arrow to what ended it
            start = row.middle - BAR / 2
            yield f'<path class="link" d="M{x:.1f} {start:.1f} V{bend:.1f} H{tip:.1f} V{top + 6:.1f}"/>'
            yield _head(tip, top, 6)
        else:
            x, start, tip = other.right - 1, row.middle + BAR / 2, other.middle - BAR / 2
            yield f'<path class="link" d="M{x:.1f} {start:.1f} V{tip - 6:.1f}"/>'
            yield _head(x, tip, -6)


def _head(x: float, y: float, away: float) -> str:
    return f'<path class="head" d="M{x:.1f} {y:.1f} l-4 {away} h8 z"/>'


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


# --- the story --------------------------------------------------------------------------------------------------------


async def play() -> list[Seen]:
    """Let a worker be killed in the middle of a job and another one do it; return what was told of that."""
    programs = real_programs()
    server = RealFaktory(programs[-1]) if programs else StandInFaktory()
    async with Stage(server) as stage:
        ear = await stage.ear()
        await stage.forewarn(Forewarn(server, arguments=told_to(ear.address)))
        jid = await stage.push(QUEUE, jobtype="MonthlyReport", args=[TAKES], reserve_for=RESERVED_FOR)
        await asyncio.sleep(4)  # what it waits
        victim = stage.worker(QUEUE)
        await wait_until(lambda: _taken(stage, jid), 30, every=0.1, what="a worker holds the job")
        await asyncio.sleep(KILLED_AFTER)
        await kill(victim)
        heard = SETTLED + GRACE + TOLD
        crash = await ear.hear(lambda it: it.name == "worker crash", heard, what="the worker's crash")
        stage.worker(QUEUE)
        await ear.hear(
            lambda it: it.name == f"process {QUEUE}" and it.own("outcome") == "finished",
            RESERVED_FOR + RETRIED_WITHIN + TAKES + TOLD,
            what="the job that is done",
        )
        return [*ear.of_job(jid), *crash]


async def _taken(stage: Stage, jid: str) -> bool:
    return jid in await working(stage.server)


def main() -> None:
    """Play, draw and write."""
    PICTURE.write_text(draw(asyncio.run(play())))


if __name__ == "__main__":
    main()
