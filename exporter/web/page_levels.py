"""How the status page shows a level: a shape and a word, so that nothing is told by colour alone."""

from __future__ import annotations

from urllib.parse import quote

from markupsafe import Markup

from exporter.status.document import Level

WORST_FIRST = (Level.CRITICAL, Level.WARNING, Level.UNKNOWN, Level.CALM)

_SHAPES = {
    Level.CALM: ('<circle cx="8" cy="8" r="7"/>', '<path d="M4.9 8.3l2.2 2.2 4.1-4.7"/>'),
    Level.UNKNOWN: (
        '<circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="2.6 2"/>',
        '<path d="M6.3 6.5a1.75 1.75 0 1 1 2.5 1.6q-.8.4-.8 1.1m0 2.2v.1" stroke="currentColor" stroke-width="1.5"/>',
    ),
    Level.WARNING: ('<path d="M8 1 15.4 14.4H.6z"/>', '<path d="M8 5.8v4m0 2.2v.1"/>'),
    Level.CRITICAL: ('<path d="M5 .8h6L15.2 5v6L11 15.2H5L.8 11V5z"/>', '<path d="M5.4 5.4l5.2 5.2m0-5.2-5.2 5.2"/>'),
}
"""A field, and a mark on it."""

_COLOURS = {
    Level.CALM: "#1f8a54",
    Level.UNKNOWN: "#7a808a",
    Level.WARNING: "#b87400",
    Level.CRITICAL: "#d3302a",
}
"""Of the icon in a tab, whose ground may be light or dark."""

_DRAWN = (
    '<g color="{0}" fill="{0}">{1}</g><g fill="none" stroke="{2}" stroke-width="1.8" stroke-linecap="round">{3}</g>'
)


def symbols() -> Markup:
    """Return the shapes, to be used by :func:`shape`."""
    return Markup("").join(
        Markup('<symbol id="i-{}" viewBox="0 0 16 16">{}</symbol>').format(
            level, _drawn(level, "currentColor", "var(--on)")
        )
        for level in _SHAPES
    )


def _drawn(level: Level, field: str, mark: str) -> Markup:
    shapes = _SHAPES[level]
    return Markup(_DRAWN.format(field, shapes[0], mark, shapes[1]))  # noqa: S704 - the project's own


def favicon(level: Level) -> str:
    """Return the icon of a browser's tab as an address that asks no server."""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{_drawn(level, _COLOURS[level], "#fff")}</svg>'
    return "data:image/svg+xml," + quote(svg, safe=" /:='")


def shape(level: Level, told: str | None = None) -> Markup:
    """Return a level as its shape alone. What is ``told`` of it, or its word, is there for whoever does not see it."""
    return _level(level, Markup('<span class="away">{}</span>').format(told or word(level)))


def shape_and_word(level: Level) -> Markup:
    """Return a level as its shape and its word."""
    return _level(level, Markup("{}").format(word(level)))


def word(level: Level) -> str:
    """Return ``Calm``."""
    return level.capitalize()


def _level(level: Level, told: Markup) -> Markup:
    return Markup(
        '<span class="level" data-level="{0}"><svg class="icon" aria-hidden="true"><use href="#i-{0}"/></svg>{1}</span>'
    ).format(level, told)
