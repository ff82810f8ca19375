"""docs/scale.md: what many servers come to is computed from what is rendered, and said as it was computed."""

from __future__ import annotations

import re

import pytest

from exporter.catalogue import METRICS
from tests import scale
from tests.scale import DOCUMENT, Shape, formula, series, written


@pytest.mark.parametrize("shape", [Shape(1, 1, 0), Shape(7, 3, 4), *scale.SHAPES.values()])
def test_the_formula_tells_the_series_of_any_server(shape: Shape) -> None:
    assert formula().of(shape) == series(shape)


def test_the_formula_holds_what_the_catalogue_says_of_a_pair() -> None:
    page = scale.page(Shape(1, 1, 0)).decode()
    told = [it for it in METRICS if it.labels == ("queue", "jobtype") and f"\nfaktory_{it.name}" in page]
    # One job is an orphan, whatever the number of pairs.
    assert formula().pair == sum(len(it.buckets) + 3 if it.buckets else 1 for it in told if "orphan" not in it.name)


@pytest.mark.parametrize("shape", scale.SHAPES.values(), ids=scale.SHAPES)
def test_gzip_makes_less_than_an_eighth_of_a_scrape(shape: Shape) -> None:
    assert "an eighth" in DOCUMENT.read_text()
    assert scale.packed(shape) * 8 < len(scale.page(shape))


def test_the_document_says_what_is_computed() -> None:
    text = DOCUMENT.read_text()
    assert scale.BEGIN in text
    assert written(text) == text, "write it anew: python -m tests.scale"


def test_the_cost_of_a_poll_is_that_of_the_measurements() -> None:
    measured = (DOCUMENT.parent / "performance.md").read_text()
    for number in re.findall(r"(\d+\.\d+)(?= (?:ms|MiB|% of one processor))", DOCUMENT.read_text()):
        assert number in measured, f"{number} is nowhere in docs/performance.md"
