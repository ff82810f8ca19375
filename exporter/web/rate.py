"""How often something may happen: a token bucket."""

from __future__ import annotations

from exporter.web.web_config import RateLimit


class Bucket:
    """Lets ``limit.burst`` through at once, and one more every ``limit.interval`` seconds."""

    def __init__(self, limit: RateLimit, now: float) -> None:
        self.limit = limit
        self._tokens = float(limit.burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more may pass; ``now`` in seconds by any clock that does not go back."""
        self._tokens = min(self.limit.burst, self._tokens + (now - self._at) / self.limit.interval)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
