"""A trend as a small chart: SVG without a script, told in words too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from exporter.status.document import Trend
from exporter.web.page_words import known, number, sentence, share, span

REACHES = (600.0, 1800.0, 3600.0)
"""Seconds that a chart may show: the shortest that holds all there is, so that a young one is not a speck."""

MAX_POINTS = 240
"""Most values that are drawn: the newest."""

_WIDTH, _HEIGHT = 240, 60
_NICE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


class Summary(msgspec.Struct, frozen=True):
    """What a trend says in words."""

    newest: str
    """The largest of the newest step, which may be more than what is so now."""
    range: str
    """The lowest and the highest; empty where nothing is known."""
    rest: str
    """From where on it warns, and what is not known of it; empty where there is nothing to tell."""


def figure(trend: Trend, key: str) -> Markup:
    """Return a trend of up to an hour as a figure; ``key`` begins the ids in it."""
    values = [known(value) for value in trend.values[-MAX_POINTS:]]
    told = _summary(trend, values)
    top = _top(trend, values)
    slots = _slots(trend.step, len(values))
    drawn = _Drawing(values, slots, top)
    threshold = known(trend.threshold)
    warns = Markup("")
    if threshold is not None and 0 < threshold <= top:
        warns = Markup('<path class="at" d="M0 {0}H{1}"/>').format(drawn.y(threshold), _WIDTH)
    return Markup(
        '<figure><figcaption>{title} <b>{newest}</b></figcaption><div class="plot"><svg viewBox="0 0 {width} {height}"'
        ' preserveAspectRatio="none" role="img" aria-labelledby="{key}-t {key}-d"><title id="{key}-t">{title}</title>'
        '<desc id="{key}-d">{words}</desc><path class="gap" d="{gaps}"/><path class="area" d="{area}"/>{warns}'
        '<path class="line" d="{line}"/><path class="end" d="{end}"/></svg>'
        '</div><p class="axis"><span>{ago} ago</span><span>{range}</span>{rest}</p></figure>'
    ).format(
        title=sentence(trend.title),
        newest=told.newest,
        words="; ".join(filter(None, (told.newest, told.range, told.rest))),
        width=_WIDTH,
        height=_HEIGHT,
        key=key,
        gaps=drawn.gaps(),
        area=drawn.area(),
        warns=warns,
        line=drawn.line(),
        end=drawn.end(),
        ago=span(slots * trend.step) if trend.step > 0 else "long",
        rest=Markup("<span>{}</span>").format(told.rest) if told.rest else "",
        range=told.range,
    )


def _slots(step: float, count: int) -> int:
    """Return for how many values there is room."""
    rooms = [min(MAX_POINTS, math.ceil(reach / max(step, 1.0))) for reach in REACHES]
    return max(2, next((room for room in rooms if room >= count), count))


def _summary(trend: Trend, values: Sequence[float | None]) -> Summary:
    there = [value for value in values if value is not None]
    if not there:
        return Summary("not known", "", "")
    newest = "not known" if values[-1] is None else _written(values[-1], trend.unit)
    low, high = _written(min(there), trend.unit), _written(max(there), trend.unit)
    threshold = known(trend.threshold)
    parts = [f"warns at {_written(threshold, trend.unit)}"] if threshold is not None else []
    if len(there) < len(values):
        parts.append("hatched: not known")
    return Summary(
        newest=f"last {span(trend.step)}: {newest}",
        range=f"always {low}" if low == high else f"{low} to {high}",
        rest=", ".join(parts),
    )


def _written(value: float, unit: str) -> str:
    if unit == "ratio":
        return share(value)
    return span(value) if unit == "seconds" else number(value)


def _top(trend: Trend, values: Sequence[float | None]) -> float:
    """Return the upper end of the scale: the whole of a share, else a round number above all that is drawn."""
    highest = max((value for value in values if value is not None), default=0.0)
    if trend.unit == "ratio":
        return max(1.0, highest)
    threshold = known(trend.threshold)
    if threshold is not None and highest > threshold / 4:  # far below it, its line would flatten all that is drawn
        highest = max(highest, threshold)
    if trend.unit == "seconds":
        return _round_span(highest)
    return _round_number(max(highest, 4.0))


def _round_number(value: float) -> float:
    scale: float = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in _NICE if step * scale >= value * (1 - 1e-9))


def _round_span(seconds: float) -> float:
    for unit in (1.0, 60.0, 3600.0):
        for count in (1, 2, 5, 10, 15, 30, 60):
            if seconds <= unit * count:
                return unit * count
    return math.ceil(seconds / 86400) * 86400.0


class _Drawing:
    """The paths of one chart. The newest value stands at its right end."""

    def __init__(self, values: Sequence[float | None], slots: int, top: float) -> None:
        self._top = top
        step = _WIDTH / (slots - 1)
        self._runs: list[list[tuple[int, int]]] = []
        self._unknown: list[tuple[int, int]] = []
        previous: float | None = None
        for index, value in enumerate(values, slots - len(values)):
            if value is None:
                left, right = max(0, round((index - 0.5) * step)), min(_WIDTH, round((index + 0.5) * step))
                if self._unknown and self._unknown[-1][1] >= left:
                    left = self._unknown.pop()[0]
                self._unknown.append((left, right))
            else:
                if previous is None:
                    self._runs.append([])
                self._runs[-1].append((round(index * step), self.y(value)))
            previous = value

    def y(self, value: float) -> int:
        """Return how far below the upper edge ``value`` stands; two units are kept free for the line's own width."""
        inside = min(max(value / self._top, 0.0), 1.0)
        return round(2 + (_HEIGHT - 4) * (1 - inside))

    def line(self) -> str:
        return "".join(_path(run) for run in self._runs)

    def area(self) -> str:
        return "".join(f"{_path(run)}V{_HEIGHT}H{run[0][0]}z" for run in self._runs)

    def end(self) -> str:
        """Return the newest known value as a dot: a line of no length with round ends, which no scaling distorts."""
        return "M{} {}h0".format(*self._runs[-1][-1]) if self._runs else ""

    def gaps(self) -> str:
        return "".join(f"M{left} 0H{right}V{_HEIGHT}H{left}z" for left, right in self._unknown)


def _path(run: Sequence[tuple[int, int]]) -> str:
    """Return a line through the points; what lies on a level between two others is left out."""
    parts = [f"M{run[0][0]} {run[0][1]}"]
    for index, (x, y) in enumerate(run[1:], 1):
        level = run[index - 1][1] == y
        if level and index + 1 < len(run) and run[index + 1][1] == y:
            continue
        parts.append(f"H{x}" if level else f"L{x} {y}")
    return "".join(parts) if len(run) > 1 else f"{parts[0]}h1"
