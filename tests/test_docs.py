"""All pages are consistent: links lead somewhere, and whatever they name of Forewarn is there."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import pytest
import typer

from exporter import catalogue
from exporter.cli import app
from exporter.process.beside import VARIABLE as EXEC_VARIABLE
from exporter.rules.render import groups
from exporter.rules.rule import AlertRule
from exporter.rules.settings import DEFAULTS
from exporter.settings import FLAGS
from tests.doc_commands import ROOT, pages

PAGES = pages()

ALERTS = {rule.name for group in groups(DEFAULTS) for rule in group.rules if isinstance(rule, AlertRule)}

KINDS = ("_total", "_bucket", "_count", "_sum", "_created", "_info")

PROJECTS = {"faktory_exporter", "faktory_worker_go", "faktory_worker_ruby"}
"""What looks like the name of a metric, and is that of a program."""

THEIRS = "docs/migration.md"
"""The page that names metrics of others."""


def anchors(text: str) -> set[str]:
    """Return what a link into a page may lead to, as GitHub makes it of the headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    kept = string.ascii_lowercase + string.digits + "-_ "
    titles = (re.sub(r"[`*]", "", title).lower() for title in re.findall(r"^#+ (.+)$", prose, re.MULTILINE))
    return {"".join(each for each in title if each in kept).replace(" ", "-") for title in titles}


LINKS = [
    (page, link)
    for page, text in PAGES.items()
    for link in sorted(
        set(re.findall(r"\]\((?!https?:)([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text))
    )
]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{page}: {link}" for page, link in LINKS])
def test_every_link_leads_somewhere(page: str, link: str) -> None:
    path, _, heading = link.partition("#")
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert target.exists()
    if heading:
        assert heading in anchors(target.read_text())


def test_every_page_can_be_reached_from_the_index() -> None:
    index = PAGES["docs/README.md"]
    linked = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+)", index)}
    pages_of_docs = {ROOT / page for page in PAGES if page.startswith("docs/") and page.count("/") == 1}
    assert pages_of_docs - linked == {ROOT / "docs" / "README.md"}
    assert "(docs/README.md)" in PAGES["README.md"]


def test_every_runbook_can_be_reached_from_the_alerts() -> None:
    assert {f"docs/runbooks/{alert}.md" for alert in ALERTS} <= PAGES.keys()
    assert all(f"(runbooks/{alert}.md)" in PAGES["docs/alerts.md"] for alert in ALERTS)


def test_the_number_of_alerts_is_told() -> None:
    told = [number for text in (PAGES["README.md"], changes()) for number in re.findall(r"\b(\d+) alerts\b", text)]
    assert len(told) >= 2
    assert set(told) == {str(len(ALERTS))}


def changes() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_alert_that_is_named_exists(page: str) -> None:
    assert set(re.findall(r"`(F(?:aktory|orewarn)[A-Z][a-z]\w+)`", PAGES[page])) <= ALERTS


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {THEIRS}))
def test_every_metric_that_is_named_exists(page: str) -> None:
    families = [
        *(catalogue.METRICS + catalogue.OTLP_METRICS + catalogue.PROCESS_METRICS + catalogue.STATSD_PUSH_METRICS),
        catalogue.BUILD_INFO,
    ]
    known = {each.full_name("faktory") for each in families}
    named = set(re.findall(r"`((?:faktory|forewarn)_[a-z_]+)(?:\{[^`]*)?`", PAGES[page]))
    odd = {name for name in named - known if not any(name.removesuffix(kind) in known for kind in KINDS)}
    assert odd - PROJECTS == set()


def options() -> set[str]:
    """Return every option of every command."""
    commands: Any = typer.main.get_command(app)
    return {opt for command in commands.commands.values() for each in command.params for opt in each.opts}


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_and_variable_that_is_named_exists(page: str) -> None:
    flags = set(re.findall(r"`--([a-z]+\.[a-z.-]+)(?=[ =`])", PAGES[page]))
    assert {f"--{flag}" for flag in flags} <= options()
    variables = {"FOREWARN_" + flag.upper().replace(".", "_").replace("-", "_") for flag in FLAGS} | {EXEC_VARIABLE}
    assert set(re.findall(r"\bFOREWARN_[A-Z_]*[A-Z]\b", PAGES[page])) <= variables


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_no_page_is_promised_that_is_not_there(page: str) -> None:
    named = set(re.findall(r"\bdocs/[\w./-]+\.(?:md|png|svg)\b", (ROOT / page).read_text()))
    assert {path for path in named if not Path(ROOT, path).exists()} == set()


def test_nothing_is_left_to_fill_in() -> None:
    assert [page for page, text in PAGES.items() if re.search(r"\b(TODO|FIXME|XXX|TBD)\b|<!-- picture", text)] == []
