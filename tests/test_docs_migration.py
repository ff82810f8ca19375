"""docs/migration.md maps every name of the other two Faktory exporters to what Forewarn really tells."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.exporters import Scraper, pypi
from tests.doc_commands import pages
from tests.forewarn import Forewarn
from tests.promql import exported, metrics, parse, shape
from tests.servers import WatchedServer, wait_until
from tests.wire import Wire

TEXT = pages()["docs/migration.md"]

GO_NAMES = {
    "faktory_up",
    "faktory_server_command_count",
    "faktory_server_connections",
    "faktory_jobs_total",
    "faktory_queues_total",
    "faktory_queue_jobs",
    "faktory_tasks_retries_enqueued",
    "faktory_tasks_retries_size",
    "faktory_exporter_scrape_duration_seconds",
    "faktory_exporter_scrapes_total",
    "faktory_exporter_scrape_failures_total",
}
"""Every metric of github.com/lukasmalkmus/faktory_exporter, as of its commit 8c73eee."""

STATES = {"enqueued", "processed", "failures"}


def tables(title: str, *head: str) -> list[list[str]]:
    """Return the rows under a heading of the table with this head."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    found: list[list[str]] = []
    inside = False
    for line in section.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if inside and cells and not set("".join(cells)) <= set("- "):
            found.append(cells)
        inside = bool(cells) and (inside or cells == list(head))
    assert found, (title, head)
    return found


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def name(selector: str) -> str:
    return selector.partition("{")[0]


NAMES = ("its name", "Forewarn's", "what differs")
PYPI = "From faktory-prometheus-exporter"
GO = "From faktory_exporter"


@pytest.fixture
async def filled(server: WatchedServer) -> WatchedServer:
    """A server with jobs in two queues."""
    producer = await Wire.connect(server.url)
    for queue, count in (("mail", 3), ("reports", 2)):
        for number in range(count):
            await producer.push(jid=f"{queue}-{number}-0001", queue=queue)
    await producer.close()
    return server


async def pypi_samples(server: WatchedServer) -> dict[str, float]:
    """Return what the exporter of PyPI tells, but for what is of its own process, by name and labels."""
    async with pypi(server) as exporter:
        scraper = Scraper(exporter.port)

        async def told() -> dict[str, float]:
            families = text_string_to_metric_families((await scraper.scrape()).decode())
            return {
                sample.name + "".join(f'{{{key}="{value}"}}' for key, value in sample.labels.items()): sample.value
                for family in families
                if not family.name.startswith(("python_", "process_"))
                for sample in family.samples
            }

        async def complete() -> dict[str, float] | None:
            samples = await told()
            return samples if samples.get('jobs{state="enqueued"}') else None

        samples: dict[str, float] = await wait_until(complete, 30.0, what="its first look at the server")
        await scraper.close()
        return samples


async def test_every_name_of_the_exporter_of_pypi_is_mapped(filled: WatchedServer) -> None:
    written = {code(row[0])[0] for row in tables(PYPI, *NAMES)}
    told = {
        re.sub(r"_(count|sum|created)(?=$|\{)", "", it) if it.startswith("exporter_") else it
        for it in await pypi_samples(filled)
    }
    assert written == {name(it) if name(it) == "enqueued_per_queue" else it for it in told}
    assert {f'jobs{{state="{state}"}}' for state in STATES} <= written


async def test_what_is_mapped_tells_the_same_number(filled: WatchedServer) -> None:
    theirs = await pypi_samples(filled)
    async with Forewarn(filled) as forewarn:
        ours = await forewarn.scrape()
        compared = {
            'jobs{state="enqueued"}': ours.total("faktory_queue_jobs"),
            'jobs{state="processed"}': ours.value("faktory_jobs_processed_total"),
            'jobs{state="failures"}': ours.value("faktory_jobs_failed_total"),
            "total_queues": ours.value("forewarn_label_values", label="queue"),
            'enqueued_per_queue{name="mail"}': ours.value("faktory_queue_jobs", queue="mail"),
            'enqueued_per_queue{name="reports"}': ours.value("faktory_queue_jobs", queue="reports"),
            "dead_size": ours.value("faktory_set_jobs", set="dead"),
        }
    assert compared == {each: theirs[each] for each in compared}


def test_every_name_of_the_go_exporter_is_mapped() -> None:
    assert {name(code(row[0])[0]) for row in tables(GO, *NAMES)} == GO_NAMES


@pytest.mark.parametrize("title", [PYPI, GO])
def test_every_name_of_ours_exists_with_its_labels(title: str) -> None:
    known = exported()
    for _, ours, differs in tables(title, *NAMES):
        for each in [*code(ours), *(it for it in code(differs) if it.startswith(("faktory_", "forewarn_")))]:
            family = known[name(each)]
            assert set(re.findall(r"(\w+)=", each)) <= set(family.labels), each


def queries() -> Iterator[tuple[str, str]]:
    for title in (PYPI, GO):
        for before, after in tables(title, "before", "after"):
            yield from ((code(before)[0], each) for each in code(after))


QUERIES = list(queries())


@pytest.mark.parametrize(("before", "after"), QUERIES, ids=[after for _, after in QUERIES])
def test_every_query_is_one_and_gives_something(before: str, after: str) -> None:
    problems: list[str] = []
    shape(parse(after), exported(), problems)
    assert problems == []
    theirs = {name(code(row[0])[0]) for title in (PYPI, GO) for row in tables(title, *NAMES)}
    assert set(metrics(parse(before))) <= theirs


def test_the_ports_that_are_told_are_the_defaults() -> None:
    from exporter.settings import WEB_LISTEN_ADDRESS

    assert f"over one connection, on port {WEB_LISTEN_ADDRESS.port}." in " ".join(TEXT.split())
