"""The demo's story: what is done to the server, and when Forewarn saw it.

One round takes each signal from calm to alarm and back. Nothing is asked of the server to know it: what is told comes
from the sidecar's own snapshots, with the times at which they were taken.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from exporter.demo import marks
from exporter.demo.cast import Cast
from exporter.demo.lines import Chapter, Line, Say, Tell
from exporter.demo.servers import Server
from exporter.demo.worker import Connection, Kind, Refused, wid
from exporter.faktory.versions import parse_version
from exporter.model import Reservation, Snapshot

LOG = "demo.log"

RESERVATION: Final = 60
"""Seconds: the shortest that Faktory has."""

RESTART_PAUSE: Final = 10.0
"""Seconds until a worker that ended is started again, as by a supervisor that backs off."""

LOOK_EVERY: Final = 0.05
"""Seconds between two looks whether there is a new snapshot."""

SEEN_WITHIN: Final = 60.0
"""Seconds after which nothing more is expected to be seen."""

RETURNS_WITHIN: Final = 40.0
"""Seconds after the end of a reservation within which the server must have seen it: it looks every 15 s."""

THROTTLED: Final = "payments"
SLOTS: Final = 4
THROTTLES: Final = f"""\
# At most {SLOTS} jobs of this queue at once: what Faktory Enterprise would enforce.
[throttles]
{THROTTLED} = {{ concurrency = {SLOTS}, timeout = 60 }}
"""

MAIL: Final = Kind("default", "SendMail", rate=4, seconds=0.4, reserve_for=RESERVATION)
CHARGE: Final = Kind(THROTTLED, "ChargeCard", rate=0.2, seconds=2, reserve_for=90)
REPORT: Final = Kind("reports", "BuildReport", rate=0, seconds=RESERVATION / 2, reserve_for=RESERVATION)
EXPORT: Final = Kind("exports", "ExportLedger", rate=0, seconds=RESERVATION * 0.93, reserve_for=RESERVATION)
"""One of these uses nearly all of its reservation."""

REPORTS: Final = 2
"""How many the worker that is killed is working on."""

CHARGES: Final = 90
MAILS: Final = 800
"""More than two workers can do while jobs may wait."""

LEAK_SECONDS: Final = 40.0
LEAKED_SHARE: Final = 0.97
"""Of the limit, with what is open anyway."""

DRAINED_WITHIN: Final = 180.0
"""Seconds within which what was pushed must have been done."""

REFUSES_SINCE: Final = (1, 9)
"""The version of Faktory since which the limit is enforced."""

DRAINED: Final = 20
"""Jobs in a queue that is short."""

WORKER: Final = "exporter.demo.worker"


class StoryError(Exception):
    """The story cannot go on; the text says why."""


class Sight:
    """Waits for what the newest snapshot shows."""

    def __init__(self, newest: Callable[[], Snapshot | None]) -> None:
        self._newest = newest

    @property
    def newest(self) -> Snapshot | None:
        """The newest snapshot."""
        return self._newest()

    async def until(
        self, shows: Callable[[Snapshot], bool], within: float, *, since: float = -math.inf
    ) -> Snapshot | None:
        """Return the first snapshot taken after ``since`` (monotonic) that ``shows`` it.

        ``None`` where none does ``within`` so many seconds.
        """
        looked: Snapshot | None = None
        end = time.monotonic() + within
        while time.monotonic() < end:
            snapshot = self._newest()
            if snapshot is not None and snapshot is not looked and snapshot.taken_at > since:
                if shows(snapshot):
                    return snapshot
                looked = snapshot
            await asyncio.sleep(LOOK_EVERY)
        return None


class Crashed(msgspec.Struct, frozen=True):
    """What is known of a worker that was killed."""

    jobs: tuple[Reservation, ...]
    """That it held."""
    done: str
    killed_at: float
    """On the monotonic clock."""
    caught_after: float | None


class Post(msgspec.Struct, frozen=True):
    """One worker's place: what it works on."""

    name: str
    queue: str
    concurrency: int
    fail_ratio: float = 0.0


POSTS: Final = (
    Post("mail 1", MAIL.queue, 2, fail_ratio=0.02),
    Post("mail 2", MAIL.queue, 2, fail_ratio=0.02),
    Post("reports", REPORT.queue, REPORTS),
    Post("exports", EXPORT.queue, 1),
    # As many jobs at once as the throttle allows: the open source server does not enforce it.
    Post("payments", THROTTLED, SLOTS),
)
CONNECTIONS: Final = sum(post.concurrency + 1 for post in POSTS) + 3
"""How many are open when all are at work: of each worker one for each job at once and one to beat; one each of the
producer, the story and Forewarn."""

HELPERS: Final = tuple(Post(f"helper {number}", MAIL.queue, 8) for number in (1, 2))


class Story:
    """Producer, workers and what befalls them."""

    def __init__(
        self,
        cast: Cast,
        server: Server,
        newest: Callable[[], Snapshot | None],
        tell: Tell,
        *,
        pace: float = 1.0,
        reservation: float = RESERVATION,
        patience: float = marks.PATIENCE,
    ) -> None:
        """Nothing is done before :meth:`playing`.

        Args:
            cast: Starts the processes.
            server: What they work for.
            newest: Tells the newest snapshot of it.
            tell: Is told each line.
            pace: What each pause and each job's work is multiplied by.
            reservation: Of the jobs whose reservation matters, in seconds; they take as much of it at any pace.
            patience: How many seconds jobs may wait before it counts as a backlog.
        """
        self._cast = cast
        self._server = server
        self._sight = Sight(newest)
        self._tell = tell
        self._pace = pace
        self._patience = patience
        stretch = reservation / RESERVATION
        self._report, self._export = (
            kind._replace(seconds=kind.seconds * stretch, reserve_for=round(reservation)) for kind in (REPORT, EXPORT)
        )
        self._workers: dict[str, asyncio.subprocess.Process] = {}
        self._victims: set[str] = set()
        self._pushing: Connection | None = None

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        """Have producer and workers at work for the duration of the block, whoever kills one of them.

        Raises:
            StoryError: The server cannot be talked to.
        """
        async with self._push_connection(), asyncio.TaskGroup() as group:
            mix = [":".join(map(str, self._paced(kind))) for kind in (MAIL, CHARGE)]
            await self._cast.python(LOG, WORKER, "--url", self._server.url, "--produce", *mix)
            tasks = [group.create_task(self._tend(post)) for post in POSTS]
            tasks.append(group.create_task(self._notice()))
            try:
                yield
            finally:
                # Whoever holds the cast ends the processes; nobody is to start them anew.
                for task in tasks:
                    task.cancel()

    def pid(self) -> int:
        """Return the process id of a worker that mostly holds a job."""
        return self._workers[POSTS[0].name].pid

    async def round(self) -> tuple[Chapter, ...]:
        """Take every signal from calm to alarm and back, once. Raises StoryError where the server takes no jobs."""
        calm = await self._calm()
        crash = await self._crash(calm)
        async with asyncio.TaskGroup() as group:
            returned = group.create_task(self._return(crash))
            overrun = group.create_task(self._overrun())
            await self._pause(6)
            throttled = await self._fill_throttle()
            await self._pause(6)
            leaked = group.create_task(self._leak())
            await self._pause(4)
            backed_up = await self._back_up()
        return (returned.result(), overrun.result(), throttled, leaked.result(), backed_up)

    # -- a worker crashes

    async def _calm(self) -> tuple[Reservation, ...]:
        """Have a worker at work on jobs that take a while, and return them."""
        pushed = await self._push(self._report, REPORTS)
        # Until all have come, those that come hide one that goes.
        shown = await self._seen(
            lambda it: (
                pushed <= (it.observation.reservations or {}).keys() and (it.connections.used or 0) >= CONNECTIONS
            ),
            f"all workers, and {REPORTS} reports in work",
        )
        self._tell(
            Line(
                say=Say.NOTE,
                part="calm",
                text=f"{len(POSTS)} worker processes work on what a producer pushes. Nothing is wrong yet.",
                look="the page: four signals, all calm",
            )
        )
        await self._pause(8)
        held = {} if shown is None else shown.observation.reservations or {}
        return tuple(it for jid, it in held.items() if jid in pushed)

    async def _crash(self, jobs: tuple[Reservation, ...]) -> Crashed:
        """Kill the worker in the middle of its jobs and see it caught."""
        victim = self._workers["reports"]
        self._victims.add(wid(victim.pid))
        newest = self._sight.newest
        before = 0 if newest is None else marks.crashes(newest)
        killed_at = time.monotonic()
        await self._cast.kill(victim)
        done = f"a worker was killed (SIGKILL) in the middle of {len(jobs)} jobs"
        self._tell(
            Line(
                say=Say.NOW,
                part="workers",
                text=f"{_sentence(done)}. The server tells nobody, and keeps them reserved for the dead.",
                look="Workers: the crash, and its jobs among the orphans (faktory_orphaned_jobs)",
            )
        )
        shown = await self._seen(lambda it: marks.crashes(it) > before, "the crash", since=killed_at)
        caught_after = None
        if shown is not None:
            caught_after = shown.taken_at - killed_at
            left = sum(it.expires_at for it in jobs) / max(1, len(jobs)) - shown.observation.now
            self._tell(
                Line(
                    say=Say.CAUGHT,
                    part="workers",
                    text=f"{wid(victim.pid)} is gone, {marks.orphans(shown)} jobs are orphans."
                    f" By itself the server would notice in {left:.0f} s, when their reservation ends.",
                    after=caught_after,
                )
            )
        return Crashed(jobs=jobs, done=done, killed_at=killed_at, caught_after=caught_after)

    async def _return(self, crash: Crashed) -> Chapter:
        """See the orphans return when their reservation ends."""
        newest = self._sight.newest
        now = 0.0 if newest is None else newest.observation.now
        within = max((it.expires_at - now for it in crash.jobs), default=0.0) + RETURNS_WITHIN
        over_after = None
        shown = await self._seen(
            lambda it: marks.orphans(it) == 0, "that the orphans returned", since=crash.killed_at, within=within
        )
        if shown is not None and crash.caught_after is not None:
            over_after = shown.taken_at - crash.killed_at
            self._tell(
                Line(
                    say=Say.OVER,
                    part="workers",
                    text="the reservation has ended, the server has put the orphans up for another try.",
                    after=over_after,
                )
            )
        return Chapter("workers", crash.done, crash.caught_after, over_after)

    # -- a job takes too long

    async def _overrun(self) -> Chapter:
        """Have a job use nearly all of its reservation."""
        kind, pair = self._export, (self._export.queue, self._export.jobtype)
        done = f"a job of {kind.seconds:.0f} s began, with a reservation of {kind.reserve_for} s"
        pushed = await self._push(kind, 1, exactly=True)
        self._tell(
            Line(
                say=Say.NOW,
                part="busy",
                text=f"{_sentence(done)}: were it longer, another worker would get the job as well.",
                look="Busy jobs: how much of its reservation the oldest has used",
            )
        )
        caught_after = over_after = None
        shown = await self._seen(
            lambda it: marks.reservation_used(it, pair) > marks.NEARLY_USED,
            "the reservation that was nearly used",
            within=kind.reserve_for + SEEN_WITHIN,
        )
        if shown is not None:
            job = next(it for jid, it in (shown.observation.reservations or {}).items() if jid in pushed)
            crossed = job.reserved_at + marks.NEARLY_USED * (job.expires_at - job.reserved_at)
            caught_after = shown.observation.now - crossed
            self._tell(
                Line(
                    say=Say.CAUGHT,
                    part="busy",
                    text=f"{kind.jobtype} has used {marks.reservation_used(shown, pair):.0%} of its reservation,"
                    f" and has {job.expires_at - shown.observation.now:.0f} s left.",
                    after=caught_after,
                )
            )
            shown = await self._seen(
                lambda it: marks.reservation_used(it, pair) <= marks.NEARLY_USED, "the end of the long job"
            )
            if shown is not None:
                over_after = shown.observation.now - crossed
                self._tell(Line(say=Say.OVER, part="busy", text="the job ended in time.", after=over_after))
        return Chapter("busy", done, caught_after, over_after)

    # -- a throttle fills

    async def _fill_throttle(self) -> Chapter:
        """Push more than a throttle lets through at once."""
        began = time.monotonic()
        await self._push(self._paced(CHARGE), CHARGES)
        done = f"{CHARGES} jobs were pushed to the queue {THROTTLED}, where a throttle lets {SLOTS} run at once"
        self._tell(
            Line(
                say=Say.NOW,
                part="throttles",
                text=f"{_sentence(done)}.",
                look="Throttles: which is full, and what waits behind it (faktory_throttle_waiting_jobs)",
            )
        )
        caught_after = over_after = None
        shown = await self._seen(lambda it: marks.saturated(it, THROTTLED), "the full throttle", since=began)
        if shown is not None:
            caught_after = shown.taken_at - began
            behind = marks.throttled(shown, THROTTLED)[1]
            text = f"the throttle of {THROTTLED} is full, and {behind} jobs wait behind it."
            self._tell(Line(say=Say.CAUGHT, part="throttles", text=text, after=caught_after))
            shown = await self._seen(
                lambda it: marks.throttled(it, THROTTLED)[1] == 0, "the end of the wait", within=DRAINED_WITHIN
            )
            if shown is not None:
                over_after = shown.taken_at - began
                text = f"nothing waits behind the throttle of {THROTTLED} any more."
                self._tell(Line(say=Say.OVER, part="throttles", text=text, after=over_after))
        return Chapter("throttles", done, caught_after, over_after)

    # -- connections leak

    async def _leak(self) -> Chapter:
        """Have a client that opens connections and never closes them, and end it."""
        newest = self._sight.newest
        if newest is None or newest.connections.limit is None or newest.connections.used is None:
            self._miss("connections", "how many connections there are, and how many there may be, is not known")
            return Chapter("connections", "nothing", None, None)
        limit, used = newest.connections.limit, newest.connections.used
        done = f"a client opened connections up to {LEAKED_SHARE:.0%} of the limit and closed none"
        shares = (marks.NEAR_LIMIT, marks.CRITICAL)
        leaker = await self._cast.python(
            LOG,
            "exporter.demo.leak",
            *("--url", self._server.url, "--seconds", str(LEAK_SECONDS * self._pace)),
            *("--connections", str(int(LEAKED_SHARE * limit) - used)),
            *("--tell", *(str(max(1, math.floor(share * limit) + 1 - used)) for share in shares)),
            told=True,
        )
        try:
            self._tell(
                Line(
                    say=Say.NOW,
                    part="connections",
                    text=f"A client opens connections and closes none. {self._what_happens_at(limit, newest)}",
                    look="Connections: how near the limit is (faktory_connections)",
                )
            )
            times = [await self._reached(leaker, share) for share in shares]
            await self._pause(8)
        finally:
            await self._cast.end(leaker)
        let_go = time.monotonic()
        self._tell(Line(say=Say.NOW, part="connections", text="The client ended, and its connections with it."))
        shown = await self._seen(
            lambda it: marks.connections_share(it) <= marks.NEAR_LIMIT, "that they were let go", since=let_go
        )
        over_after = None
        if shown is not None:
            over_after = shown.taken_at - let_go
            text = f"{shown.connections.used:,} of {limit:,} are open."
            self._tell(Line(say=Say.OVER, part="connections", text=text, after=over_after))
        return Chapter("connections", done, times[0], over_after)

    def _what_happens_at(self, limit: int, snapshot: Snapshot) -> str:
        if self._server.connections_limit is not None:
            return f"The limit of {limit:,} is the demo's own: too few files may be open here for the server's."
        version = parse_version(snapshot.observation.health.version) if snapshot.observation.health else None
        if version is not None and version < REFUSES_SINCE:
            return f"The limit is {limit:,}; this version only complains there, later ones refuse everybody."
        return f"At {limit:,} the server refuses everybody: producers and workers too."

    async def _reached(self, leaker: asyncio.subprocess.Process, share: float) -> float | None:
        """See a share of the limit caught that the leaker reaches; return after how many seconds."""
        assert leaker.stdout is not None  # noqa: S101 - it was asked for
        told = (await leaker.stdout.readline()).split()
        if not told:
            raise StoryError(f"the client that leaks connections has ended: {self._cast.log(LOG, 1)}")
        reached_at = float(told[1])
        shown = await self._seen(
            lambda it: marks.connections_share(it) > share, f"{share:.0%} of the limit", since=reached_at
        )
        if shown is None:
            return None
        after = shown.taken_at - reached_at
        level = "critical" if share >= marks.CRITICAL else "a warning"
        text = f"{shown.connections.used:,} connections are open, {marks.connections_share(shown):.0%} of what may be:"
        self._tell(Line(say=Say.CAUGHT, part="connections", text=f"{text} {level}.", after=after))
        return after

    # -- a queue backs up

    async def _back_up(self) -> Chapter:
        """Push more than the workers can do in time, and send others to help when it is seen."""
        queue, patience = MAIL.queue, self._patience
        done = f"{MAILS} jobs were pushed at once to the queue {queue}"
        await self._push(self._paced(MAIL), MAILS)
        self._tell(
            Line(
                say=Say.NOW,
                part="queues",
                text=f"{_sentence(done)}, which its workers cannot do in {patience:.0f} s.",
                look="Queues: how many wait, and the oldest for how long (faktory_queue_latency_seconds)",
            )
        )
        shown = await self._seen(
            lambda it: marks.waiting(it, queue)[1] > patience, "the backlog", within=patience + SEEN_WITHIN
        )
        if shown is None:
            return Chapter("queues", done, None, None)
        jobs, latency = marks.waiting(shown, queue)
        text = f"{jobs} jobs wait in {queue}, the oldest for {latency:.0f} s."
        self._tell(Line(say=Say.CAUGHT, part="queues", text=text, after=latency - patience))
        helpers = [await self._work(post) for post in HELPERS]
        began = time.monotonic()
        try:
            self._tell(Line(say=Say.NOW, part="queues", text=f"{len(helpers)} more workers come to help."))
            over_after = None
            shown = await self._seen(
                lambda it: marks.waiting(it, queue)[0] < DRAINED, "the end of the backlog", within=DRAINED_WITHIN
            )
            if shown is not None:
                over_after = shown.taken_at - began
                text = f"the queue {queue} is short again."
                self._tell(Line(say=Say.OVER, part="queues", text=text, after=over_after))
        finally:
            await self._cast.end(*helpers)
        return Chapter("queues", done, latency - patience, over_after)

    # -- the means

    def _paced(self, kind: Kind) -> Kind:
        return kind._replace(rate=kind.rate / self._pace, seconds=kind.seconds * self._pace)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)

    async def _seen(
        self,
        shows: Callable[[Snapshot], bool],
        what: str,
        *,
        since: float = -math.inf,
        within: float = SEEN_WITHIN,
    ) -> Snapshot | None:
        """Return the first snapshot after ``since`` that ``shows`` it; ``None`` where none did, which is told."""
        shown = await self._sight.until(shows, within, since=since)
        if shown is None:
            self._miss("", f"{what}, within {within:.0f} s")
        return shown

    def _miss(self, part: str, text: str) -> None:
        self._tell(Line(say=Say.MISSED, part=part, text=text))

    @asynccontextmanager
    async def _push_connection(self) -> AsyncIterator[None]:
        try:
            self._pushing = await Connection.open(self._server.url, None)
        except (OSError, EOFError, ValueError, Refused) as error:
            raise StoryError(f"the demo's server cannot be talked to: {error}") from None
        try:
            yield
        finally:
            await self._pushing.close()

    async def _push(self, kind: Kind, count: int, *, exactly: bool = False) -> set[str]:
        """Push ``count`` jobs at once and return their ids. ``exactly``: they take as long as their kind tells."""
        assert self._pushing is not None, "only while it is playing"  # noqa: S101
        pushed: set[str] = set()
        try:
            for _ in range(count):
                job = kind.job(exactly=exactly)
                await self._pushing.command("PUSH", job)
                pushed.add(job["jid"])
        except (OSError, EOFError, TimeoutError, Refused) as error:
            raise StoryError(f"the demo's server takes no jobs: {error}") from None
        return pushed

    async def _work(self, post: Post) -> asyncio.subprocess.Process:
        return await self._cast.python(
            LOG,
            WORKER,
            *("--url", self._server.url, "--concurrency", str(post.concurrency)),
            *("--fail-ratio", str(post.fail_ratio), "--queues", post.queue),
        )

    async def _tend(self, post: Post) -> None:
        """Keep a worker at its post: when it ends, another one is started after a while."""
        while True:
            worker = self._workers[post.name] = await self._work(post)
            await worker.wait()
            self._cast.forget(worker)
            if wid(worker.pid) not in self._victims:
                self._tell(
                    Line(
                        say=Say.NOTE,
                        part="workers",
                        text=f"{wid(worker.pid)} has ended, and not by this story. Did somebody kill it?",
                    )
                )
            await self._pause(RESTART_PAUSE)
            self._tell(Line(say=Say.NOW, part="workers", text="A new worker takes the place of the one that is gone."))

    async def _notice(self) -> None:
        """Tell of crashes that are not the story's."""
        at = -math.inf
        while True:
            shown = await self._sight.until(lambda it: bool(it.workers.found), SEEN_WITHIN, since=at)
            if shown is None:
                continue
            at = shown.taken_at
            for worker in (it.worker for it in shown.workers.found if it.worker not in self._victims):
                self._tell(Line(say=Say.NOTE, part="workers", text=f"Forewarn has found that {worker} crashed."))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
