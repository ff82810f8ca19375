"""Which source learns which system's state: the one place that knows more than one system."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from exporter.model import Position, Source

if TYPE_CHECKING:
    from exporter.check.finding import Report
    from exporter.check.places import ServerPlaces
    from exporter.process.feeds import Feed
    from exporter.settings import ServerSettings

SYSTEMS: Final[Mapping[str, str]] = {"faktory": "exporter.faktory.source"}
"""The module of each system, whose ``build`` returns the source of the server that settings describe."""

CHECKS: Final[Mapping[str, str]] = {"faktory": "exporter.faktory.checks"}
"""The module of each system whose ``check`` tries what settings say of one server, for ``forewarn check``."""


def build(
    settings: ServerSettings,
    *,
    traces: bool = False,
    positions: Sequence[Position] = (),
    feeds: Sequence[Feed] = (),
    before: Source | None = None,
) -> Source:
    """Return the source of one server. Opens nothing yet.

    ``traces``: it learns what only traces tell. ``positions``: how far the files of its log were read before.
    ``feeds``: what else carries its output. ``before``: the source of the same name that it takes the place of, so that
    the server is not asked again too soon for what that one asked.
    """
    module = import_module(SYSTEMS[settings.system])
    source: Source = module.build(settings, traces=traces, positions=positions, feeds=feeds, before=before)
    return source


async def check(
    settings: ServerSettings, report: Report, places: ServerPlaces, *, wall: Callable[[], float] = time.time
) -> None:
    """Try everything that the settings of one server name, and report what was found. ``wall``: in Unix seconds."""
    module = import_module(CHECKS[settings.system])
    await module.check(settings, report, places, wall=wall)
