"""Every command of the documentation is run as it is written, and ends well."""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
import typer
from aiohttp import web

from exporter.cli import app
from tests import runbooks
from tests.doc_commands import (
    COMMANDS,
    LANGUAGES,
    PORTS,
    REAL,
    ROOT,
    RUNBOOKS,
    Block,
    Failed,
    Sandbox,
    blocks,
    every_block,
    of_page,
    pages,
)
from tests.doc_programs import STAND_INS, WRONG
from tests.servers import StandInFaktory, WatchedServer, running

in_one_loop = pytest.mark.asyncio(loop_scope="module")

PRELUDE = f"{RUNBOOKS}README.md"
"""The page whose variables every runbook uses."""

TELLING = f"{RUNBOOKS}FaktoryDeadJobsGrowing.md"
"""The runbook that makes the command `tell`, which others use."""

ELSEWHERE = {"docs/quickstart.md": "test_docs_quickstart.py"}
"""The pages that are played by a file of tests of their own."""

PAGES = [page for page in pages() if any(it.language in COMMANDS for it in of_page(page)) and page not in ELSEWHERE]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def elsewhere() -> AsyncIterator[int]:
    """The port of a web server that answers everything, and says nothing."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched() -> AsyncIterator[WatchedServer]:
    """A server that all pages share but those that have one of their own."""
    async with running(StandInFaktory()) as server:
        yield server


def made(server: WatchedServer, elsewhere: int) -> Sandbox:
    socket = server.redis_url.removeprefix("unix://")
    return Sandbox(port=server.port, web_port=server.web_port, socket=socket, elsewhere=elsewhere)


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(watched: WatchedServer, elsewhere: int) -> AsyncIterator[Sandbox]:
    """A machine for one page."""
    async with made(watched, elsewhere) as fresh:
        yield fresh


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_call(watched: WatchedServer, elsewhere: int) -> AsyncIterator[Sandbox]:
    """A machine on which the variables of the runbooks are set. One does for all: little of what they do stays."""
    async with made(watched, elsewhere) as fresh:
        for page in (PRELUDE, TELLING):
            await fresh.run(of_page(page)[0])
        fresh.begin_here()
        yield fresh


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(RUNBOOKS)])
@in_one_loop
async def test_every_command_of_a_page_ends_well(page: str, sandbox: Sandbox) -> None:
    await sandbox.play(page)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(RUNBOOKS)])
@in_one_loop
async def test_every_command_of_a_runbook_ends_well(page: str, on_call: Sandbox) -> None:
    on_call.begin_anew()
    await on_call.play(page)


# --- nothing is left out --------------------------------------------------------------------------------------------

BLOCKS = every_block()


def test_every_block_says_what_it_is() -> None:
    wrong = [f"{block}: {block.text.splitlines()[0]}" for block in BLOCKS if block.language not in LANGUAGES]
    assert wrong == [], "write these between ``` and ```, with one of " + ", ".join(LANGUAGES)


def test_no_command_hides_in_a_block_that_is_not_run() -> None:
    programs = {*REAL, *STAND_INS, "cd", "export", "source"} - {"test"}
    hidden = [
        f"{block}: {line}"
        for block in BLOCKS
        if block.language in {"text", "ini", "json"}
        for line in block.text.splitlines()
        if re.match(rf"(?:\$ |# |sudo )?(?:[\w./-]*/bin/)?(?:{'|'.join(map(re.escape, programs))}) [^=]", line)
    ]
    assert hidden == []


def test_every_block_of_commands_is_run_by_a_test() -> None:
    """Here, in a file of its own, or, where a runbook only reads with it, beside a live server and Prometheus."""
    here = {str(block) for page in [*PAGES, *ELSEWHERE] for block in of_page(page)}
    live = {str(block) for block in runbooks.blocks("sh")}
    assert 'blocks("sh")' in (ROOT / "tests" / "test_live_alerts.py").read_text()
    assert [str(block) for block in BLOCKS if block.language in COMMANDS and str(block) not in here | live] == []
    for page, file in ELSEWHERE.items():
        assert f'PAGE = "{page}"' in (ROOT / "tests" / file).read_text()


def test_every_port_of_a_command_or_file_leads_into_the_sandbox() -> None:
    told = {
        (int(port), str(block))
        for block in BLOCKS
        if block.language in COMMANDS or block.file
        for port in re.findall(r"(?<=[\w\]]:)(?<!\d{5}:)(\d{4,5})\b(?![:-])", re.sub(r"\d\d:\d\d:\d\d", "", block.text))
    }
    assert [each for each in told if each[0] not in PORTS] == []


def test_every_stand_in_is_needed() -> None:
    text = "\n".join(block.text for block in BLOCKS if block.language in COMMANDS)
    assert [name for name in STAND_INS if not re.search(rf"\b{re.escape(name)}\b", text)] == []


def in_sentences(text: str) -> set[str]:
    """Return the commands of Forewarn that stand within sentences."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {" ".join(found.split()) for found in re.findall(r"`((?:\.venv/bin/)?forewarn [a-z-][^`]*)`", prose)}


INLINE = [(page, command) for page, text in pages().items() for command in sorted(in_sentences(text))]


@pytest.mark.parametrize(("page", "command"), INLINE, ids=[f"{page}: {command}" for page, command in INLINE])
def test_a_command_within_a_sentence_has_a_name_and_options_that_exist(page: str, command: str) -> None:
    words = [word.strip("[]") for word in shlex.split(command)][1:]
    group: Any = typer.main.get_command(app)
    own = words[: words.index("--")] if "--" in words else words
    options = {word.partition("=")[0] for word in own if word.startswith("--")} - {"--help", "--version"}
    if words[0].startswith("-"):
        assert not options
        return
    known = {opt for each in group.commands[words[0]].params for opt in each.opts}
    assert options <= known


def test_every_make_command_within_a_sentence_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for text in pages().values() for target in re.findall(r"`make ([a-z]+)`", text)}
    assert named
    assert named <= targets


# --- the sandbox finds what is wrong --------------------------------------------------------------------------------


def commands(text: str) -> Block:
    return Block("page.md", 1, "sh", text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("shutdown -h now", "shutdown: command not found"),
        ("systemctl hibernate faktory", "is none of start"),
        ("systemctl restart faktory --force", "--force is not known"),
        ("kubectl apply -k deploy/nowhere", "kustomization.yaml does not exist"),
        ("make everything", "there is no target everything"),
        ("forewarn run --faktory.redisurl unix:///x", "No such option"),
        ("forewarn run --interval never", "is not a duration"),
        ("forewarn rules --settings nowhere.toml", "nowhere.toml"),
        ("curl -sf http://localhost:9386/nowhere", "exit status"),
        ("cat /etc/forewarn/nowhere", "No such file"),
        ("if true; then", "syntax error"),
        ("echo $NOWHERE", "unbound variable"),
        ("false | cat", "exit status 1"),
    ],
)
@in_one_loop
async def test_what_is_wrong_is_found(sandbox: Sandbox, text: str, problem: str) -> None:
    with pytest.raises(Failed, match=re.escape(problem)):
        await sandbox.run(commands(text + "\n"))


@in_one_loop
async def test_a_stand_in_says_how_to_teach_it(sandbox: Sandbox) -> None:
    with pytest.raises(Failed, match=f"exit status {WRONG}.*(?s:.*)teach the stand-in in tests/doc_programs.py"):
        await sandbox.run(commands("docker logs --everything faktory\n"))


@in_one_loop
async def test_what_a_block_leaves_is_there_for_the_next(sandbox: Sandbox) -> None:
    await sandbox.run(commands("export SAID=hello\nsay() { echo $SAID; }\nmkdir there && cd there\n"))
    assert await sandbox.run(commands("say; basename=${PWD##*/}; echo $basename\n")) == "hello\nthere\n"


@in_one_loop
async def test_paths_ports_and_names_lead_into_the_sandbox(sandbox: Sandbox) -> None:
    root, ports = sandbox.root, sandbox.ports
    assert sandbox.mapped("unix:///var/lib/x.sock > /etc/x") == f"unix://{root}/var/lib/x.sock > {root}/etc/x"
    assert sandbox.mapped("tcp://faktory.example:7419") == f"tcp://localhost:{ports[7419]}"
    assert sandbox.mapped("127.0.0.1:9386 17419 /proc/1") == f"127.0.0.1:{ports[9386]} 17419 /proc/1"


@in_one_loop
async def test_what_runs_until_stopped_is_left_running_and_then_ended(sandbox: Sandbox) -> None:
    await sandbox.run(commands("forewarn run\n"))
    assert "faktory_up" in await sandbox.run(commands("curl -sf http://localhost:9386/metrics\n"))


def parsed(text: str) -> list[tuple[int, str, str]]:
    return [(block.line, block.language, block.text) for block in blocks("page.md", text)]


def test_blocks_are_found_at_any_depth_and_without_a_language() -> None:
    assert parsed("a\n\n```sh\nb\n```\n") == [(3, "sh", "b\n")]
    assert parsed("- a\n\n  ```sh\n  b\n  ```\n") == [(3, "sh", "b\n")]
    assert parsed("a\n\n```\nb\n```\n") == [(3, "", "b\n")]
    assert parsed("a\n\n    b\n") == [(3, "", "b\n")]
    assert parsed("- a\n\n    goes on\n") == []
    assert parsed("```sh\nnever ends\n") == [(1, "", "never ends")]


@pytest.mark.parametrize(
    ("first", "path"),
    [
        ("# /etc/a/b.toml", "/etc/a/b.toml"),
        ("# rules.toml", "rules.toml"),
        ("# deploy/x.yaml", "deploy/x.yaml"),
        ("# Faktory: /etc/f.toml", "/etc/f.toml"),
        ("# a comment", None),
        ("a = 1", None),
    ],
)
def test_a_block_whose_first_line_names_a_file_is_one(first: str, path: str | None) -> None:
    assert Block("page.md", 1, "toml", f"{first}\n").file == path
    assert commands(f"{first}\n").file is None


def test_the_reasons_of_the_stand_ins_are_told() -> None:
    reasons: Mapping[str, str] = {name: program.why for name, program in STAND_INS.items()}
    assert all(len(why) > 10 for why in reasons.values())
