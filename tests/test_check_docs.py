"""docs/check.md says what ``forewarn check`` does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from exporter.check.command import ORDER, Document
from exporter.check.finding import BESIDE, State
from exporter.check.own import ROOM
from exporter.check.web_config import SOON
from exporter.faktory.check_redis import SETS
from exporter.faktory.checks import MOST_SKEW
from tests.doc_commands import blocks
from tests.servers import StandInFaktory, free_port

TEXT = Path("docs/check.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of the table that begins with ``heading``, by what stands in the first one."""
    table = TEXT.partition(f"| {heading} |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]
    return {name: row[1:] for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


def test_every_part_is_told() -> None:
    told = rows("part")
    assert {*told, "otlp"} == set(ORDER)
    assert {part for part, row in told.items() if row[0] == "no"} == BESIDE


def test_every_state_is_told() -> None:
    assert list(rows("state")) == [*State]


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"no more than {MOST_SKEW:g} s" in TEXT
    assert f"from {SOON / 86400:g} days before" in TEXT
    assert len(SETS) + 5 == 9
    assert "nine questions" in TEXT
    assert ROOM > 0


def test_the_json_is_as_it_is_shown() -> None:
    (shown,) = [block.text for block in blocks("docs/check.md", TEXT) if block.language == "json"]
    document = msgspec.json.decode(shown, type=Document)
    assert json.loads(shown) == json.loads(msgspec.json.encode(document))


async def test_the_commands_work(standin: StandInFaktory, tmp_path: Path) -> None:
    """With the addresses of a server that is there; the file is one that names it."""
    file = tmp_path / "forewarn.toml"
    server = f'name = "main"\nsystem = "faktory"\nurl = "{standin.url}"\nweb_url = "{standin.web_url}"\n'
    file.write_text(f'[[servers]]\n{server}redis_url = "{standin.redis_url}"\n')
    kept = {name: it for name, it in os.environ.items() if not name.startswith(("FAKTORY", "FOREWARN", "OTEL"))}
    kept["FOREWARN_WEB_LISTEN_ADDRESS"] = f"127.0.0.1:{free_port()}"
    named = re.findall(r"^ *(?:ExecStartPre=-/usr/bin/|kubectl .* -- )?forewarn (check.*)$", TEXT, re.MULTILINE)
    assert len(named) == 5
    for line in named:
        arguments = (
            line.replace("/etc/forewarn/forewarn.toml", str(file))
            .replace("tcp://localhost:7419", standin.url)
            .replace("unix:///var/lib/faktory/db/redis.sock", standin.redis_url)
            .split()
        )
        environ = kept if "--config" in arguments else kept | {"FOREWARN_FAKTORY_WEB_URL": standin.web_url}
        if len(arguments) < 3:
            environ = environ | {"FAKTORY_URL": standin.url}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter.cli", *arguments),
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(120):
            out, _ = await child.communicate()
        assert child.returncode == 0, out.decode()
        assert out.startswith(b"{" if "--json" in arguments else (b"main" if "--config" in arguments else b"faktory"))
