"""Which source learns which system's state: the one place that knows more than one system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from exporter.model import Position, Source

if TYPE_CHECKING:
    from exporter.process.feeds import Feed
    from exporter.settings import ServerSettings

SYSTEMS: Final[Mapping[str, str]] = {"faktory": "exporter.faktory.source"}
"""The module of each system, whose ``build`` returns the source of the server that settings describe."""


def build(
    settings: ServerSettings,
    *,
    traces: bool = False,
    positions: Sequence[Position] = (),
    feeds: Sequence[Feed] = (),
) -> Source:
    """Return the source of one server. Opens nothing yet.

    ``traces``: it learns what only traces tell. ``positions``: how far the files of its log were read before.
    ``feeds``: what else carries its output.
    """
    module = import_module(SYSTEMS[settings.system])
    source: Source = module.build(settings, traces=traces, positions=positions, feeds=feeds)
    return source
