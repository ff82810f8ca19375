"""``forewarn demo``: the sidecar beside a server of its own, and a story that takes every signal to alarm and back."""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from exporter import __version__
from exporter.demo import servers
from exporter.demo.cast import Cast, CastError, cast
from exporter.demo.lines import Tell
from exporter.demo.narrator import Narrator, Warnings
from exporter.demo.servers import Choice, Kind, Server, ServerError
from exporter.demo.story import THROTTLES, Sight, Story, StoryError
from exporter.logs import setup
from exporter.model import Snapshot
from exporter.secret import Secret
from exporter.settings import LogWatch, ServerSettings, Settings
from exporter.sidecar import Sidecar, run_loop
from exporter.signals import boot
from exporter.status.document import Level, Signal
from exporter.web.address import Address, ListenError, bind_everywhere, explain

NAME = "demo"

INTERVAL = 1.0
"""Seconds from one poll to the next: a newcomer is to see things move."""

FIRST_POLL = 20.0
"""Seconds within which the first poll ends."""

REST = 30.0
"""Seconds of calm before the story begins again."""

CLOSING = (
    "All is over. The page goes on telling for 10 minutes that a worker crashed, and for 15 that reservations ran out,"
    " as the alerts do; then the story begins again. Or crash a worker yourself: kill -9 {pid}"
)

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(address: Address, wanted: str) -> int:
    """Show the demo until SIGINT, SIGTERM or SIGHUP; return the exit status.

    ``wanted``: ``auto``, ``real`` or ``stand-in``, the server that it runs on.
    """
    narrator = Narrator(sys.stdout)
    if sys.stderr.isatty():
        # Below the story they would tear it.
        logging.basicConfig(handlers=[Warnings(narrator)], level=logging.WARNING, force=True)
        logging.raiseExceptions = False
    else:
        setup("text", "info", sys.stderr)
    try:
        choice = servers.choose(wanted)
        _see_that_it_is_free(address)
        return run_loop(show(address, choice, narrator))
    except (ListenError, ServerError, StoryError, CastError) as error:
        print(f"forewarn: {error}", file=sys.stderr)
        return 1


async def show(address: Address, choice: Choice, narrator: Narrator) -> int:
    """Play the story again and again until a signal asks for the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            loop.add_signal_handler(number, stop.set)
    narrator.when_gone = stop.set
    playing = asyncio.create_task(_play(address, choice, narrator))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            narrator.say("Ending: workers, server and files go.")
            playing.cancel()
        await asyncio.wait({playing})
        if not playing.cancelled() and (error := playing.exception()) is not None:
            raise _first(error)
    finally:
        stopping.cancel()
        narrator.close()
    narrator.say("The demo has ended. Nothing of it is left behind.")
    return 0


async def _play(address: Address, choice: Choice, narrator: Narrator) -> None:
    narrator.say(f"Forewarn {__version__}: starting {choice.told}.")
    async with cast() as held:
        server = await servers.start(held, choice, limit=servers.demo_limit(_open_files()), throttles=THROTTLES)
        async with stage(held, server, address, tell=narrator.tell) as it:
            page = f"http://{_reachable(address)}:{it.port}/"
            await _introduce(it, choice, page, narrator)
            async with asyncio.TaskGroup() as group:
                group.create_task(_ended(held, server))
                group.create_task(_keep_showing(it, page, narrator))
                async with it.story.playing():
                    while True:
                        chapters = await it.story.round()
                        narrator.sum_up(chapters, CLOSING.format(pid=it.story.pid()))
                        await it.until_calm()
                        await asyncio.sleep(REST)


class _Sidecar(Sidecar):
    """Lets the demo see what it knows."""

    def newest(self) -> Snapshot | None:
        """Return the newest snapshot."""
        return self._newest()[NAME]

    def signals(self) -> tuple[Signal, ...]:
        """Return the four signals as the page shows them."""
        return self._book.status().servers[0].signals


class Stage:
    """The sidecar, and the story that plays before it."""

    def __init__(self, story: Story, sidecar: _Sidecar, port: int) -> None:
        self.story = story
        self.port = port
        """Where the page is."""
        self._sidecar = sidecar
        self._sight = Sight(sidecar.newest)

    async def next(self) -> Snapshot | None:
        """Wait for the next snapshot, for a while, and return it."""
        before = self._sidecar.newest()
        return await self._sight.until(lambda it: it is not before, FIRST_POLL)

    def signals(self) -> tuple[Signal, ...]:
        """Return the four signals as the page shows them."""
        return self._sidecar.signals()

    async def until_calm(self) -> None:
        """Wait until the page shows nothing but calm."""
        await self._sight.until(lambda _: all(it.level is Level.CALM for it in self.signals()), math.inf)


@asynccontextmanager
async def stage(
    held: Cast,
    server: Server,
    address: Address,
    *,
    tell: Tell,
    interval: float = INTERVAL,
    story: Mapping[str, float] | None = None,
) -> AsyncIterator[Stage]:
    """Run the sidecar beside ``server`` for the duration of the block, with a story to play.

    ``story``: how it is told, where not as it is.
    """
    settings = Settings(
        servers=(
            ServerSettings(
                name=NAME,
                url=Secret(server.url),
                web_url=server.web_url,
                redis_url=Secret(server.redis_url),
                config_dir=server.config_dir,
                connections_limit=server.connections_limit,
                log=LogWatch(files=(str(server.log_file),)),
            ),
        ),
        interval=interval,
        web_listen_address=address,
    )
    sidecar = _Sidecar(settings)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    with _started_empty():
        running = asyncio.create_task(sidecar.run(stop, started=port.set_result))
        try:
            await asyncio.wait({running, port}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            yield Stage(Story(held, server, sidecar.newest, tell, **(story or {})), sidecar, port.result())
        finally:
            stop.set()
            await asyncio.wait({running})
    running.result()


@contextmanager
def _started_empty() -> Iterator[None]:
    """Trust the server's word on its workers at once.

    A server that was restarted does not know the workers yet that hold jobs since before, so nothing is believed of it
    for 90 s. This one started with no job.
    """
    kept, boot.SETTLING = boot.SETTLING, 0.0
    try:
        yield
    finally:
        boot.SETTLING = kept


async def _introduce(it: Stage, choice: Choice, page: str, narrator: Narrator) -> None:
    first = await it.next()
    health = None if first is None else first.observation.health
    version = (
        ""
        if health is None
        else f", version {health.version}" + (" by its own word" if choice.kind is Kind.STAND_IN else "")
    )
    narrator.open(
        "A job server with workers, and Forewarn beside it, which warns before it fails.",
        (
            ("status page", f"{page}  <- open it beside this terminal"),
            ("metrics", f"{page}metrics"),
            ("server", f"{choice.told}{version}"),
            ("polls", f"every {INTERVAL:g} s here; every 5 s by default"),
            ("crashes", "told at once here, for the server started empty; else not in a server's first 90 s"),
        ),
        "In less than three minutes each of the four signals goes from calm to alarm and back."
        " Ctrl-C ends it and leaves nothing behind.",
    )


async def _keep_showing(it: Stage, page: str, narrator: Narrator) -> None:
    while True:
        await it.next()
        narrator.show(it.signals(), page)


async def _ended(held: Cast, server: Server) -> None:
    """Wait for the server's end."""
    status = await server.process.wait()
    held.forget(server.process)
    raise ServerError(f"the demo's server has ended with {status}. It told last:\n{held.log(servers.LOG, 5)}")


def _see_that_it_is_free(address: Address) -> None:
    """Raise ListenError where the address cannot be listened on: before anything is started."""
    try:
        if address.host is None:
            bind_everywhere(address.port).close()
        else:
            family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
            socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        raise explain(address, error) from error


def _open_files() -> int:
    """Return how many files each process of the demo may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _reachable(address: Address) -> str:
    """Return the host under which a browser on this machine reaches it."""
    if address.host in {None, "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{address.host}]" if ":" in str(address.host) else str(address.host)


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group, of which the others are mostly consequences."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
