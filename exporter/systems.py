"""Which source learns which system's state: the one place that knows more than one system."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

from exporter.model import Source

if TYPE_CHECKING:
    from exporter.settings import ServerSettings

SYSTEMS: Final[Mapping[str, str]] = {"faktory": "exporter.faktory.source"}
"""The module of each system, whose ``build`` returns the source of the server that settings describe."""


def build(settings: ServerSettings, *, traces: bool = False) -> Source:
    """Return the source of one server. Opens nothing yet. ``traces``: it learns what only traces tell."""
    source: Source = import_module(SYSTEMS[settings.system]).build(settings, traces=traces)
    return source
