"""``python -m tests.conformance.record``: plays the script to the real servers and keeps their transcripts.

The servers are those that ``FAKTORY_BIN`` names. A section that a server plays differently each time would be a fault
of the script, so each quick one is played twice and must agree with itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.conformance.script import QUICK, SLOW, play
from tests.conformance.stage import Note
from tests.servers import HOW_TO_HAVE_ONE, RealFaktory, program_version, real_programs

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def path(version: tuple[int, ...]) -> Path:
    """Where the transcript of a version is kept."""
    return TRANSCRIPTS / (".".join(map(str, version)) + ".json")


def load(version: tuple[int, ...]) -> dict[str, list[Note]]:
    """The transcript of a version, by section."""
    kept: dict[str, list[Note]] = json.loads(path(version).read_text())
    return kept


async def record(program: str) -> None:
    """Play every section to one server and write the transcript."""
    together = asyncio.gather(*(play(section, RealFaktory(program)) for section in SLOW.values()))
    kept: dict[str, list[Note]] = {}
    for name, section in QUICK.items():
        kept[name] = await play(section, RealFaktory(program))
        if kept[name] != await play(section, RealFaktory(program)):
            raise RuntimeError(f"section {name}: {program} does not agree with itself; nothing was recorded")
    kept |= dict(zip(SLOW, await together, strict=True))
    file = path(program_version(program))
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=True) + "\n")
    print(f"{file}: {sum(map(len, kept.values()))} notes in {len(kept)} sections")


async def _record_all() -> None:
    await asyncio.gather(*map(record, real_programs()))


def main() -> None:
    """Record all real servers at hand."""
    if not real_programs():
        sys.exit(HOW_TO_HAVE_ONE)
    asyncio.run(_record_all())


if __name__ == "__main__":
    main()
