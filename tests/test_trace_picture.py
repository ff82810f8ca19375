"""The picture of a trace: what is in it, and that it can be read."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from typing import Final

import pytest

from tests.live_traces import Linked, Seen
from tests.trace_picture import PICTURE, QUEUE, WIDTH, draw

SVG: Final = "{http://www.w3.org/2000/svg}"
WIDEST: Final = 7.5
"""Most width of a character on average, in pixels at 12 or 13."""


def span(name: str, start: float, end: float, number: int, *links: int, failed: bool = False, **own: object) -> Seen:
    return Seen(
        name=f"{name} {QUEUE}" if name != "worker" else "worker crash",
        kind="internal",
        trace="job",
        span=str(number),
        parent="",
        start=1000 + start,
        end=1000 + end,
        attributes={f"messaging.faktory.{key}": str(value) for key, value in own.items()},
        failed=failed,
        status="",
        events=(),
        links=tuple(Linked("job", str(it), {}) for it in links),
        state="",
        service="forewarn",
    )


def story(waited: float, worked: float, stayed: float, again: float) -> list[Seen]:
    """One job whose worker crashed and that another one finished."""
    crashed = waited + worked
    return [
        span("process", waited, crashed, 1, 2, failed=True, attempt=1, outcome="crashed"),
        span("wait", 0, waited, 3, attempt=1),
        span("worker", max(0.0, waited - 2), crashed, 2, failed=True, crash_reason="vanished"),
        span("orphaned", crashed, crashed + stayed, 4, attempt=1),
        span("wait", crashed + stayed, crashed + stayed + 0.001, 5, attempt=2),
        span("process", crashed + stayed, crashed + stayed + again, 6, 1, attempt=2, outcome="finished"),
    ]


def texts(picture: str) -> list[tuple[str, float, float, float]]:
    """Return every text with the left and right end that it has at most, and its height on the page."""
    found = []
    for each in ET.fromstring(picture).iter(f"{SVG}text"):  # noqa: S314
        words, x, y = each.text or "", float(each.get("x", "")), float(each.get("y", ""))
        width = len(words) * WIDEST
        left = x - {"middle": width / 2, "end": width}.get(each.get("text-anchor", ""), 0.0)
        found.append((words, left, left + width, y))
    return found


LENGTHS = itertools.product((0.0, 4.0), (0.01, 18.0, 3000.0), (5.0, 110.0), (0.5, 26.0, 500.0))


@pytest.mark.parametrize("seconds", list(LENGTHS))
def test_no_text_lies_on_another_or_beyond_the_edge(seconds: tuple[float, float, float, float]) -> None:
    drawn = texts(draw(story(*seconds)))
    assert len(drawn) > 18
    assert [words for words, left, right, _ in drawn if left < 0 or right > WIDTH] == []
    assert [
        (one, other)
        for (one, left, right, y), (other, its_left, its_right, its_y) in itertools.combinations(drawn, 2)
        if left < its_right and its_left < right and abs(y - its_y) < 12
    ] == []


def test_what_a_crash_ended_stands_above_it_and_its_stay_below() -> None:
    names = [words for words, left, _, _ in texts(draw(story(4, 18, 110, 26))) if words.endswith((QUEUE, "crash"))]
    order = ["wait", "process", "worker crash", "orphaned", "wait", "process"]
    assert [name.removesuffix(f" {QUEUE}") for name in names] == order


def test_the_documentation_shows_a_picture_that_was_drawn_so() -> None:
    picture = PICTURE.read_text()
    shown = [words for words, *_ in texts(picture)]
    for words in (f"process {QUEUE}", f"orphaned {QUEUE}", "worker crash", "attempt 1, crashed", "attempt 2, finished"):
        assert words in shown
    assert draw(story(4, 18, 110, 26)).partition("</style>")[0].rpartition("<style>")[2] in picture
