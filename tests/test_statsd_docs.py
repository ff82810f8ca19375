"""docs/statsd.md says what the code does: every name that is understood, every metric, every reason."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from exporter import catalogue
from exporter.faktory import statsd as faktory_names
from exporter.faktory.statsd import StatsdNames
from exporter.model import Ignored, Rejection, StatsdDrop, StatsdFact, Transport
from exporter.outputs import statsd as out
from exporter.settings import GLOBAL_FLAGS, SERVER_FLAGS
from exporter.statsd import sockets
from exporter.statsd.listener import Heard
from exporter.statsd.report import Count, Distinct, Level, Spread, Totals, bucket_count

TEXT = (Path(__file__).parent.parent / "docs" / "statsd.md").read_text()


def rows(*head: str) -> list[tuple[str, ...]]:
    """Return the rows of every table that has this head."""
    found: list[tuple[str, ...]] = []
    inside = False
    for line in TEXT.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        if inside and not set("".join(cells)) <= set("- "):
            found.append(cells)
        inside |= cells == head
    assert found, f"there is no table with the head {head}"
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


NAMES = [
    (name, kind, *quoted(metric), labels)
    for names, kind, metric, labels in rows("Faktory's name", "type", "metric", "labels beside `server`")
    for name in quoted(names)
]
"""Faktory's name, its type, the metric and its labels."""

EXAMPLES = {"queue": "critical", "jobtype": "Mailer::Welcome"}
METRICS = {metric.full_name("faktory"): fact for fact, metric in catalogue.STATSD_FACTS.items()}


def heard(name: str, kind: str, tags: str) -> Heard:
    """Return what a receiver tells of one line."""
    key = (name.encode(), tags.encode())
    totals = Totals()
    if kind == "counter":
        return Heard(counts=(Count(*key, 1.0),), totals=totals)
    if kind == "gauge":
        return Heard(levels=(Level(*key, absolute=True, value=1.0),), totals=totals)
    if kind == "set":
        return Heard(distinct=(Distinct(*key, 1),), totals=totals)
    weights = (1.0,) + (0.0,) * (bucket_count(kind == "timing") - 1)
    return Heard(spreads=(Spread(*key, kind == "timing", weights, 0.001),), totals=totals)


def told(names: StatsdNames, name: str, kind: str, tags: str) -> set[tuple[StatsdFact, tuple[str, ...]]]:
    """Return what is known after a line of that name, and a reading later."""
    found: set[tuple[StatsdFact, tuple[str, ...]]] = set()
    for each in (heard(name, kind, tags), Heard()):
        facts = names.facts(each, 0.0)
        for kinds in (facts.counts, facts.gains, facts.moves):
            found |= {(fact, labels) for fact, series in kinds.items() for labels in series}
    return found


@pytest.mark.parametrize(("name", "kind", "metric", "labels"), NAMES, ids=[name for name, *_ in NAMES])
def test_each_name_becomes_the_metric_that_is_written(name: str, kind: str, metric: str, labels: str) -> None:
    sent = name
    for part, example in EXAMPLES.items():
        sent = sent.replace(f"{{{part}}}", example)
    tags = ",".join(f"{key}:{value}" for key, value in EXAMPLES.items())
    fact = METRICS[metric]
    assert list(catalogue.STATSD_FACTS[fact].labels) == [label for label in quoted(labels) if label in label_names()]
    of_set = re.match(r"`set` = (\w+)", labels)
    expected = tuple(of_set[1] if of_set else EXAMPLES[label] for label in quoted(labels))
    assert told(StatsdNames(), f"faktory.{sent}", kind, tags) == {(fact, expected)}


def label_names() -> set[str]:
    return {label for metric in catalogue.STATSD_FACTS.values() for label in metric.labels}


def test_every_name_that_is_understood_is_written() -> None:
    known = {
        *faktory_names._COUNTED,
        *faktory_names._TIMED,
        *faktory_names._OF_QUEUES,
        *faktory_names._LEVELS,
        *(f"jobs.{{jobtype}}{end}" for end in faktory_names._OLD_OF_JOBS),
        *(f"{begin}{{queue}}" for begin in faktory_names._OLD_OF_QUEUES),
    }
    assert {name for name, *_ in NAMES} == known


OTHERS = [
    (kind, *quoted(metric), quoted(labels))
    for kinds, metric, labels in rows("type", "metric", "labels beside `server`")
    for kind in kinds.split(", ")
]


@pytest.mark.parametrize(("kind", "metric", "labels"), OTHERS, ids=[str(kind) for kind, *_ in OTHERS])
def test_any_other_name_is_kept_under_the_metric_that_is_written(kind: str, metric: str, labels: list[str]) -> None:
    fact = METRICS[metric]
    assert list(catalogue.STATSD_FACTS[fact].labels) == labels
    assert told(StatsdNames(keep_all=True), "app.mails", kind, "a:1") == {(fact, ("app.mails", "a:1"))}
    assert told(StatsdNames(), "app.mails", kind, "a:1") == set()


def test_every_metric_of_what_is_told_is_written() -> None:
    assert {metric for _, _, metric, _ in NAMES} | {metric for _, metric, _ in OTHERS} == METRICS.keys()


def test_every_metric_that_is_named_exists() -> None:
    ends = ("", "_bucket", "_count", "_sum")
    full = {metric.full_name("faktory") + end for metric in catalogue.METRICS for end in ends}
    named = set(re.findall(r"\b((?:faktory|forewarn)_[a-z_]+)\b", TEXT)) - {"faktory_statsd"}
    assert named - full == set()


@pytest.mark.parametrize(
    ("head", "written"), [("reason", {*Rejection, *Ignored}), ("at", {*StatsdDrop})], ids=["reasons", "drops"]
)
def test_every_reason_and_place_of_a_loss_is_written(head: str, written: set[StrEnum]) -> None:
    assert {name for cell, _ in rows(head, "") for name in quoted(cell)} == {each.value for each in written}


def test_every_metric_of_a_loss_is_written() -> None:
    documented = {re.sub(r"\{.*", "", name) for cell, _ in rows("metric", "") for name in quoted(cell)}
    listening = {m.name for m in catalogue.SNAPSHOT_METRICS if m.name.startswith("forewarn_statsd_")}
    assert documented == listening


def test_the_transports_are_written() -> None:
    (cell,) = [text for name, text in rows("metric", "") if "{transport}" in name]
    assert set(quoted(cell)) == {each.value for each in Transport}


def test_every_flag_is_written_with_its_key() -> None:
    flags = {**SERVER_FLAGS, **GLOBAL_FLAGS}
    written = {
        (quoted(flag)[0].removeprefix("--").split()[0], quoted(key)[0])
        for head in ("key of `[[servers]]`", "key of `[statsd]`")
        for flag, key, _ in rows("flag", head, "")
    }
    assert written == {(flag, key.removeprefix("statsd.")) for flag, key in flags.items() if flag.startswith("statsd.")}


EXAMPLES_OUT = rows("at `/metrics`", "DogStatsD", "StatsD")


@pytest.mark.parametrize("tags", [True, False], ids=["DogStatsD", "StatsD"])
@pytest.mark.parametrize("example", EXAMPLES_OUT, ids=[re.split("[{`]", row[0])[1] for row in EXAMPLES_OUT])
def test_each_example_of_a_line_is_what_is_sent(example: tuple[str, str, str], tags: bool) -> None:
    series, dogstatsd, plain = (quoted(cell)[0].replace("\\|", "|") for cell in example)
    name, labels = series.split("{")
    server, *values = re.findall(r'="([^"]+)"', labels)
    amount = float(re.findall(r"\d+", example[0])[-1])
    made = [
        (sample, metric)
        for metric in catalogue.SNAPSHOT_METRICS
        for sample in out.samples(metric, "faktory", ("server", *metric.labels), (server,))
        if sample.name == name and list(sample.behind) == values[len(metric.labels) :]
    ]
    ((sample, metric),) = made
    line = out.Line(tuple(values[: len(metric.labels)]), amount)
    assert list(out.dialect(tags).write(sample, [line])) == [dogstatsd if tags else plain]


@pytest.mark.parametrize(
    ("value", "as_part", "as_tag"),
    [
        ("a.b", "a-2Eb", "a.b"),
        ("a-b", "a-b", "a-b"),
        ("a-2E", "a-2D2E", "a-2E"),
        ("", "-", ""),
        ("-", "-2D", "-"),
        ("a,b|c\n", "a-2Cb-7Cc-0A", "a%2Cb%7Cc%0A"),
        ("5%", "5-25", "5%"),
        ("%2C", "-252C", "%252C"),
    ],
)
def test_the_escapes_are_those_that_are_written(value: str, as_part: str, as_tag: str) -> None:
    assert (out.part(value), out.tag_value(value)) == (as_part, as_tag)


def test_the_numbers_are_those_of_the_code() -> None:
    flat = " ".join(TEXT.split())
    assert f"for {catalogue.LEVEL_TTL:g} s after they were heard last" in flat
    assert f"at most {out.UDP_PACKET} bytes ({out.UNIX_PACKET} on a unix socket)" in flat
    assert f"Packets have at most {out.UDP_PACKET} bytes ({out.UNIX_PACKET} on a unix socket)" in flat
    assert f"asks for a buffer of {sockets.RECEIVE_BUFFER // 1024**2} MiB" in flat
    assert f"net.core.rmem_max={sockets.RECEIVE_BUFFER}`" in flat


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", TEXT))))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (Path(__file__).parent.parent / "docs" / link).exists()
