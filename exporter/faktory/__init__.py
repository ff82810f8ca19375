"""Everything that knows Faktory: its protocol, its Redis, its Web UI's health page."""

from __future__ import annotations

import sys

# redis-py measures itself as soon as OpenTelemetry is installed, used or not: 2 MiB more for every sidecar.
_HIDDEN = "opentelemetry" not in sys.modules
if _HIDDEN:
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]  # this is how an import is made to fail
try:
    import redis.asyncio.connection  # noqa: F401
finally:
    if _HIDDEN:
        del sys.modules["opentelemetry"]
