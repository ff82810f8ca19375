"""A collector that takes everything and keeps nothing, as a process of its own: ``python -m bench.collector PORT``."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.servers import free_port

START_DEADLINE = 30.0


@asynccontextmanager
async def collecting() -> AsyncIterator[str]:
    """Run one, and yield the address of it."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.collector", str(port)])  # noqa: ASYNC220 - at once
    deadline = time.monotonic() + START_DEADLINE
    try:
        while True:
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the collector does not come to listen")
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def take(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(content_type="application/x-protobuf")


if __name__ == "__main__":
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{path:.*}", take)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
