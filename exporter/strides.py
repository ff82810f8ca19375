"""Long iterations cut into strides, each of which C code may go through at once.

Work in C does not let other threads have the interpreter before it ends: one call over 100,000 busy jobs would keep
the event loop waiting for tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

STRIDE: Final = 4096
"""How many entries one call into C goes through: a few hundred microseconds of work."""

T = TypeVar("T")


def strides(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield ``values`` in lists of at most :data:`STRIDE`."""
    rest = iter(values)
    while stride := list(islice(rest, STRIDE)):
        yield stride
