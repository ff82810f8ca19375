"""What Faktory says of itself in its log, one event a line: ``W 2026-11-21T06:06:43.393Z Flushing dataset``.

The lines are those of Faktory 1.8 to 1.10, and of Faktory Enterprise, which tells its licence too. They go to standard
output, with colours where that is a terminal. Most are of the level info: a server that runs with ``-l warn`` does not
tell that it started or stopped, nor of any page. Only ``-l debug`` tells of ``/stats``.

A line counts only as a whole. What a client made the server quote (a job's id, an argument, a path) stands behind the
server's own words, and cannot pass for them.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from exporter.model import LogEvent, Noticed

_NAME: Final = r"Faktory[\w .-]{0,40}"
_PAGE: Final = r"(?:GET|HEAD) "
_TOOK: Final = r"\d\S*"

_WORDS: Final[dict[LogEvent, str]] = {
    LogEvent.STARTED: r"PID (?P<its_pid>\d{1,10}) listening at \S+, press Ctrl-C to stop",
    LogEvent.STOPPING: rf"{_NAME} shutting down",
    # Since 1.9.0 each of these lines is a connection that was refused; before, it was let in all the same.
    LogEvent.CONNECTION_REFUSED: rf"{_NAME} has over \d+ active client connections\b.*",
    # The number is of connections, of which a worker has many: it does not tell how many workers were given up.
    LogEvent.WORKER_REAPED: r"Reaped \d+ lingering connections\b.*",
    LogEvent.JOB_LOST: r"Unable to process timed job: .*",
    LogEvent.STORE_LOADING: r"Faktory is waiting for Redis to load\.\.\.",
    LogEvent.STORE_CRASHED: r"Redis at \S.* crashed: .*",
    LogEvent.FLUSHED: r"Flushing dataset",
    LogEvent.LIMIT: r"Licensed to .*, max (?P<its_limit>[1-9]\d{0,8}) connections\b.*",
    LogEvent.BUSY_PAGE: rf"{_PAGE}/busy(?:\?\S*)? {_TOOK}",
    LogEvent.STATS_PAGE: rf"{_PAGE}/\S* {_TOOK}",  # any other: all of them walk over the names of the queues
}
_LINE: Final = re.compile(
    r"(?:\x1b\[\d+m)?[DIWEF](?:\x1b\[0m)? (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z) (?:"
    + "|".join(f"(?P<{event}>{words})" for event, words in _WORDS.items())
    + r")\s*",
    re.ASCII | re.DOTALL,
)


class FaktoryLines:
    """Reads Faktory's own lines. Keeps nothing, so that one may serve many logs."""

    literals: Final[tuple[bytes, ...]] = (
        b", press Ctrl-C to stop",
        b" shutting down",
        b" active client connections",
        b" lingering connections",
        b"Unable to process timed job: ",
        b" is waiting for Redis to load",
        b" crashed: ",
        b"Flushing dataset",
        b"Licensed to ",
        b" GET /",
        b" HEAD /",
    )
    """Byte strings one of which is in every line that says something."""

    def read(self, text: str, at: float | None) -> Noticed | None:
        """Return what one line of the log says, or ``None``. ``at``: when it was read or printed, in Unix time.

        The line's own timestamp goes before that.
        """
        found = _LINE.fullmatch(text)
        if found is None:
            return None
        value = found["its_pid"] or found["its_limit"]
        return Noticed(LogEvent(str(found.lastgroup)), _instant(found[1], at), None if value is None else int(value))


FAKTORY_LINES: Final = FaktoryLines()


def _instant(stamp: str, at: float | None) -> float | None:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:  # such as a month 13
        return at
