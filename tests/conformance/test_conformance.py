"""Each server plays the script as the real one of its version was recorded: the stand-in, and the real ones too."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable

import pytest

from tests.conformance.record import TRANSCRIPTS, load
from tests.conformance.script import QUICK, SLOW, play
from tests.conformance.stage import Note
from tests.servers import HOW_TO_HAVE_ONE, RealFaktory, StandInFaktory, WatchedServer, program_version, real_programs

RECORDED = sorted(tuple(map(int, file.stem.split("."))) for file in TRANSCRIPTS.glob("*.json"))
Make = Callable[[], WatchedServer]


def _servers() -> dict[str, tuple[tuple[int, ...], Make]]:
    """Every server that can be compared, with the version that it must play as."""
    found: dict[str, tuple[tuple[int, ...], Make]] = {}
    for version in RECORDED:
        text = ".".join(map(str, version))
        found[f"stand-in-{text}"] = (version, functools.partial(StandInFaktory, claim_version=text))
    for program in real_programs():
        version = program_version(program)
        if version in RECORDED:
            found["real-" + ".".join(map(str, version))] = (version, functools.partial(RealFaktory, program))
    return found


SERVERS = _servers()
NONE_REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.skip(reason=HOW_TO_HAVE_ONE)])
NAMES = [pytest.param(name, marks=pytest.mark.real) if name.startswith("real") else name for name in SERVERS]
NAMES += [] if real_programs() else [NONE_REAL]


def compare(seen: list[Note], version: tuple[int, ...], section: str) -> None:
    """Fail at the first note that differs from the recorded one, the order of fields in documents included."""
    recorded = load(version)[section]
    for number, (ours, theirs) in enumerate(zip(seen, recorded, strict=False)):
        told = f"{section}, note {number}, {theirs['step']}"
        assert ours["step"] == theirs["step"], told
        assert json.dumps(ours["saw"], indent=1) == json.dumps(theirs["saw"], indent=1), told
    assert len(seen) == len(recorded), section


def test_every_version_that_is_emulated_was_recorded() -> None:
    assert RECORDED == [(1, 8, 0), (1, 9, 4), (1, 10, 0)]


Played = dict[tuple[str, str], list[Note] | BaseException]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Played:
    """What the chosen servers played, by server and section. Side by side: a server mostly waits."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = [test.callspec.params for test in tests if "played" in test.fixturenames and test.path == request.path]
    parts = [(str(told["name"]), str(told["section"])) for told in chosen if told["name"] in SERVERS]

    async def play_all() -> Played:
        turn = asyncio.Semaphore(4)

        async def take_turn(name: str, section: str) -> list[Note]:
            make = SERVERS[name][1]
            if section in SLOW:
                return await play(SLOW[section], make())
            async with turn:
                return await play(QUICK[section], make())

        notes = await asyncio.gather(*(take_turn(*part) for part in parts), return_exceptions=True)
        return dict(zip(parts, notes, strict=True))

    return asyncio.run(play_all())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("section", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.parametrize("name", NAMES)
def test_plays_as_the_real_server_was_recorded(name: str, section: str, played: Played) -> None:
    seen = played[name, section]
    if isinstance(seen, BaseException):
        raise seen
    compare(seen, SERVERS[name][0], section)
