"""The one exception of this package."""

from __future__ import annotations

from exporter.model import Failure, Reason


class FaktoryError(Exception):
    """Something asked of a Faktory server, or of its Redis, failed; :attr:`failure` tells why and how to mend it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason=reason, message=message)
