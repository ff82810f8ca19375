"""What can be told to the stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True):
    """Where the stand-in listens, what it claims to be, and its times in seconds (the defaults are Faktory's)."""

    storage_dir: Path
    config_dir: Path
    bind: tuple[str, int] = ("127.0.0.1", 7419)
    web_bind: tuple[str, int] = ("127.0.0.1", 7420)
    ledger: Path | None = None
    password: str = ""
    version: tuple[int, int, int] = (1, 10, 0)
    connections_limit: int = 2000
    heartbeat_expiry: float = 60
    heartbeat_reap_every: float = 15
    reservation_min: float = 60
    reservation_reap_every: float = 15
    scan_every: float = 5
    remove_data: bool = False
    throttles: Mapping[str, int] = {}
    """The most jobs at once, by queue: what Faktory Enterprise enforces and the open source one does not."""

    @property
    def version_text(self) -> str:
        """The version as the server tells it."""
        return ".".join(map(str, self.version))

    @property
    def refuses(self) -> bool:
        """Whether the limit is enforced: since 1.9.0; before, the server only logs."""
        return self.version >= (1, 9)

    @property
    def queue_prefix(self) -> str:
        """What stands before a queue's name in its Redis key: since 1.10."""
        return "q:" if self.version >= (1, 10) else ""
