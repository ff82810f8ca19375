"""What was found when one part was tried, in words without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import msgspec

from exporter.secret import Secret

MAX_TEXT: Final = 1000
"""Most characters of one text: what others say in it is cut long before."""

_ASYNCIO: Final = re.compile(r"connect call failed \('[^']*', [\d, ]+\)", re.IGNORECASE)
"""How asyncio says it, with the address that stands before it already."""

LEAST_SECRET: Final = 4
"""Fewest characters of a secret that is looked for in texts: blotting out a shorter one would leave no text."""


BESIDE: Final = frozenset({"limit", "workers", "version", "clock", "process"})
"""The parts that Forewarn does without: what they tell is good to know, and they never fail."""


class State(StrEnum):
    """How it stands with one part."""

    OK = "ok"
    WARNING = "warning"  # it works, or Forewarn does without, but somebody should look
    FAILED = "failed"
    OFF = "off"  # not asked for, or not to be had here: nothing is wrong


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with one part of one server, or of the sidecar itself."""

    server: str | None
    """The server's name; ``None``: it concerns the sidecar itself."""
    part: str
    state: State
    needed: bool
    """Whether ``forewarn check`` fails where this part does: it is asked for, and Forewarn cannot do without it."""
    what: str
    remedy: str | None
    """How to mend it: a sentence, and below it the exact lines to write or to run, each indented by four spaces."""


def remedy(prose: str, *lines: str) -> str:
    """Return a remedy of a sentence and of exact lines."""
    return "\n".join([prose, *(f"    {line}" for line in lines)])


class Report:
    """Takes what is found of one server, or of the sidecar itself, and hands it on without secrets."""

    def __init__(
        self,
        server: str | None,
        tell: Callable[[Finding], None],
        *,
        secrets: Collection[Secret] = (),
        trying: Callable[[str, bool], None] = lambda part, begins: None,  # noqa: ARG005
    ) -> None:
        """``tell`` is called with each finding; ``trying`` with each part, as it begins and as it has ended.

        ``secrets`` should stand in no text. Should one all the same, in what a server says for instance, it is blotted
        out.
        """
        self._server = server
        self._tell = tell
        self._trying = trying
        self._secrets = sorted(
            (it.reveal() for it in secrets if len(it.reveal()) >= LEAST_SECRET), key=len, reverse=True
        )

    @contextmanager
    def trying(self, part: str) -> Iterator[None]:
        """Let the waiting know that ``part`` is being tried."""
        self._trying(part, True)
        try:
            yield
        finally:
            self._trying(part, False)

    def ok(self, part: str, what: str) -> None:
        """Tell that a part works."""
        self._add(part, State.OK, what, None, needed=part not in BESIDE)

    def warning(self, part: str, what: str, how: str, *, asked_for: bool = True) -> None:
        """Tell what somebody should look at."""
        self._add(part, State.WARNING, what, how, needed=asked_for and part not in BESIDE)

    def failed(self, part: str, what: str, how: str) -> None:
        """Tell that a part that is needed does not work."""
        self._add(part, State.FAILED, what, how, needed=True)

    def off(self, part: str, what: str, how: str | None = None) -> None:
        """Tell what is not asked for, or not to be had here."""
        self._add(part, State.OFF, what, how, needed=False)

    def _add(self, part: str, state: State, what: str, how: str | None, *, needed: bool) -> None:
        found = Finding(
            server=self._server,
            part=part,
            state=state,
            needed=needed,
            what=_shown(self._blotted(what)),
            remedy=None if how is None else "\n".join(map(_shown, self._blotted(how).split("\n"))),
        )
        self._tell(found)

    def _blotted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _shown(text: str) -> str:
    printable = "".join(it if it.isprintable() else " " for it in _ASYNCIO.sub("no connection came about", text))
    return printable if len(printable) <= MAX_TEXT else printable[: MAX_TEXT - 1] + "…"
