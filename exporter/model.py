"""The vocabulary: what is known of one watched job server, as immutable values.

Nothing here does I/O and nothing here knows a particular server system. All instants are Unix seconds by the
*server's* clock, all durations are seconds. ``None`` always means "not known", never "zero".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

MAX_NAME = 128
"""Longest queue or job type name that is kept, in characters: names are untrusted and become label values."""

MAX_ERROR = 200
"""Most characters of a job's error text that are ever told."""

OTHER = "(other)"
"""Label value that stands for all names beyond the bound. A real name that reads so is folded into it."""

NONE = "(none)"
"""Label value where the server told no name: of a counter that came by StatsD without its tag."""


class Reason(StrEnum):
    """Why a part of a poll failed: a closed set, so that it may be a label value."""

    UNREACHABLE = "unreachable"  # nothing listens there, or the name does not resolve
    TIMEOUT = "timeout"  # no answer within the deadline
    REFUSED = "refused"  # the server is at its connection limit
    AUTH = "auth"  # wrong, missing or superfluous password
    TLS = "tls"  # certificate not trusted, or TLS spoken to a plain port
    PROTOCOL = "protocol"  # an answer that is not the protocol: torn, oversized, malformed
    DECODE = "decode"  # well-framed, but an entry in it is not what it should be
    SERVER = "server"  # the server answered with an error of its own
    CONFIG = "config"  # a file of the server's configuration could not be read


class Failure(msgspec.Struct, frozen=True):
    """One thing that went wrong, and in words without secrets what, where and how to mend it."""

    reason: Reason
    message: str


class CollectorRun(msgspec.Struct, frozen=True):
    """How one part of a poll went. ``failure`` may be set although facts were learned (some entries unreadable)."""

    name: str
    seconds: float
    failure: Failure | None = None
    started: float | None = None
    """When it began, by the *sidecar's monotonic* clock."""


class Health(msgspec.Struct, frozen=True):
    """What the server tells of itself on every poll, at no risk."""

    version: str
    edition: str  # "oss", "enterprise", or what the server calls itself
    connections: int
    commands: int


class Details(msgspec.Struct, frozen=True):
    """What only a rarer, costlier question tells. May be older than the observation that carries it."""

    asked_at: float
    uptime: float | None = None
    memory_bytes: int | None = None
    workers: int | None = None
    workers_reaped: int | None = None
    reservations_expired: int | None = None


class Queue(msgspec.Struct, frozen=True, gc=False):
    """One queue now. ``latency`` is the time that its oldest job has waited: 0 when it is empty."""

    jobs: int | None = None
    latency: float | None = None
    paused: bool | None = None

    def joined(self, other: Queue) -> Queue:
        """Return two queues as one: the jobs of both as far as known, the longer latency, paused if one of them is."""
        latencies = (self.latency, other.latency)
        return Queue(
            jobs=other.jobs if self.jobs is None else self.jobs + (other.jobs or 0),
            latency=None if None in latencies else max(it for it in latencies if it is not None),
            paused=other.paused if self.paused is None else self.paused or bool(other.paused),
        )


class JobFacts(msgspec.Struct, frozen=True, gc=False):
    """What a reserved job tells of itself beyond the needs of metrics: learned only where traces are on."""

    enqueued_at: float | None = None
    failures: int = 0
    """How often it has failed before."""
    retry: int | None = None
    """How often it may be tried again: 0 is never and leaves no trace, -1 goes to the dead at once."""
    traceparent: str | None = None
    """The producer's, well-formed, in lower case."""
    tracestate: str | None = None


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """One job that a worker holds. ``expires_at`` is when the server gives it to another worker."""

    jid: str
    worker: str
    queue: str
    jobtype: str
    reserved_at: float
    expires_at: float
    job: JobFacts | None = None


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A reservation that left the working set between the observations at ``since`` and at ``until``."""

    reservation: Reservation
    since: float
    until: float


class JobFailure(msgspec.Struct, frozen=True, gc=False):
    """What the server keeps of a failed execution. Both texts are as short as they may be told."""

    error_type: str
    message: str
    at: float | None = None
    """When it failed, where the server tells it exactly."""
    expired: bool = False
    """Whether it was the server that failed it, because its reservation ran out."""
    dead: bool = False
    """Whether it was its last attempt."""


class Scope(StrEnum):
    """What a throttle limits: the whole cluster, or each worker process."""

    CLUSTER = "cluster"
    WORKER = "worker"


class ThrottleLimit(msgspec.Struct, frozen=True):
    """One configured throttle: at most ``limit`` jobs of ``queue`` at once in ``scope``."""

    queue: str
    scope: Scope
    limit: int


class Transport(StrEnum):
    """How StatsD packets come."""

    UDP = "udp"
    TCP = "tcp"
    UNIX = "unix"


class Rejection(StrEnum):
    """Why a line of StatsD could not be counted: a closed set, so that it may be a label value."""

    NAME = "name"  # none, or one that cannot be a name
    TYPE = "type"  # none, or one that is not known
    VALUE = "value"  # not a finite number, or none
    RATE = "rate"  # a sample rate that is not above 0 and at most 1
    SECTION = "section"  # a further part that is not understood
    ENCODING = "encoding"  # a name or tag that is not UTF-8
    LENGTH = "length"  # longer than a line may be
    EVENT = "event"  # an event or service check that is not understood
    SERIES = "series"  # of a name beyond the bound on series


class Ignored(StrEnum):
    """Why a sample of StatsD that was understood became no metric."""

    UNKNOWN = "unknown"  # not a name that is known, and others are not kept
    DEPRECATED = "deprecated"  # told a second time under its old name
    EVENT = "event"
    CHECK = "check"


class StatsdDrop(StrEnum):
    """Where packets of StatsD were lost."""

    KERNEL = "kernel"  # the socket's buffer was full
    QUEUE = "queue"  # more waited than may wait
    RELAY = "relay"  # the other server did not take them


class StatsdFact(StrEnum):
    """What a server tells of itself by StatsD."""

    # counted, by queue and job type
    EXECUTIONS = "executions"
    FAILURES = "failures"
    EXPIRATIONS = "expirations"
    LOCKS = "locks"
    DENIALS = "denials"
    # values, by queue and job type
    TIMES = "times"
    # levels, by queue
    QUEUE_JOBS = "queue_jobs"
    QUEUE_LATENCY = "queue_latency"
    # levels, by set
    SET_JOBS = "set_jobs"
    # levels
    PROCESSED = "processed"
    FAILED = "failed"
    CONNECTIONS = "connections"
    STORE_CONNECTIONS = "store_connections"
    STORE_MEMORY = "store_memory"
    STORE_ROUND_TRIP = "store_round_trip"
    # whatever else comes, by name and tags
    OTHER_COUNT = "other_count"
    OTHER_LEVEL = "other_level"
    OTHER_SECONDS = "other_seconds"
    OTHER_VALUES = "other_values"
    OTHER_DISTINCT = "other_distinct"


Labelled = tuple[str, ...]
"""Values of a fact's labels, each cut by :func:`label_value`."""


class Gain(msgspec.Struct, frozen=True, gc=False):
    """Values to be added to a distribution: how many in each bucket (not cumulative), and their sum."""

    weights: tuple[float, ...]
    sum: float


class Move(msgspec.Struct, frozen=True, gc=False):
    """Where a level stands now (``absolute``), or by how much it moved."""

    absolute: bool
    value: float


class StatsdTraffic(msgspec.Struct, frozen=True):
    """How listening to StatsD went."""

    packets: Mapping[Transport, int] = {}
    samples: int = 0
    rejected: Mapping[Rejection, int] = {}
    ignored: Mapping[Ignored, int] = {}
    folded: int = 0
    dropped: Mapping[StatsdDrop, int | None] = {}
    """``None``, or no :attr:`StatsdDrop.KERNEL`: not known."""
    relayed: int = 0


class StatsdFacts(msgspec.Struct, frozen=True):
    """What the server told by StatsD since the observation before."""

    heard_at: float | None
    """When the last packet came; ``None``: none since the observation before."""
    counts: Mapping[StatsdFact, Mapping[Labelled, float]]
    """By how much what the server counts rose. There may be any number of label values, here and in what follows."""
    gains: Mapping[StatsdFact, Mapping[Labelled, Gain]]
    moves: Mapping[StatsdFact, Mapping[Labelled, Move]]
    traffic: StatsdTraffic
    """Since the observation before."""


class IncidentKind(StrEnum):
    """What befell a process: a closed set, so that it may be a label value."""

    CONCURRENT_MAP = "concurrent-map"
    NIL_DEREFERENCE = "nil-dereference"
    PANIC = "panic"
    DEADLOCK = "deadlock"
    OUT_OF_MEMORY = "out-of-memory"  # told by the Go runtime, or killed for it by the kernel
    STACK_OVERFLOW = "stack-overflow"
    MEMORY_FAULT = "memory-fault"
    THREAD_EXHAUSTION = "thread-exhaustion"
    SYNC_MISUSE = "sync-misuse"
    SIGNAL = "signal"
    RUNTIME = "runtime"
    KILLED = "killed"  # by SIGKILL, without a word of its own
    UNEXPLAINED = "unexplained"  # it went, and nothing tells why
    DATA_RACE = "data-race"
    RECOVERED_PANIC = "recovered-panic"


CRASH_KINDS: tuple[IncidentKind, ...] = tuple(
    it for it in IncidentKind if it not in {IncidentKind.DATA_RACE, IncidentKind.RECOVERED_PANIC}
)
"""What ends a process. The other two are defects that it survived."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One call of a stack: never its arguments."""

    function: str
    """With its import path."""
    file: str | None = None
    line: int | None = None


class Incident(msgspec.Struct, frozen=True, tag="incident"):
    """One thing that befell a process, as what it printed tells. Everything is bounded."""

    kind: IncidentKind
    message: str
    """At most :data:`MAX_ERROR` characters."""
    at: float | None = None
    """When it was printed, where the log tells it, else when it was read; ``None``: not known."""
    frames: tuple[Frame, ...] = ()
    """Of the goroutine that did it, innermost first, without the runtime's own."""
    goroutines: Mapping[str, int] = {}
    """How many goroutines were in each state, as far as the output tells."""
    modules: Mapping[str, str] = {}
    """Versions of the modules in the stack, by path."""
    group: str = ""
    """The same for incidents that are alike, whatever their addresses, ids and line numbers."""
    known: str | None = None
    """Which known incident it is."""
    hint: str | None = None
    """What is known of it: in which version it was mended, or how to avoid it."""

    @property
    def crash(self) -> bool:
        """Whether it ends the process."""
        return self.kind in CRASH_KINDS

    @property
    def function(self) -> str | None:
        """The first function that is not the runtime's, with its import path."""
        return self.frames[0].function if self.frames else None

    @property
    def component(self) -> str | None:
        """The same as people say it: ``webui.busyWorkers``."""
        return None if self.function is None else self.function.rpartition("/")[2]


class LogEvent(StrEnum):
    """What a server says of itself in its log."""

    STARTED = "started"  # value: its pid
    STOPPING = "stopping"  # it was told to stop, and does
    CONNECTION_REFUSED = "connection_refused"
    WORKER_REAPED = "worker_reaped"
    JOB_LOST = "job_lost"
    STORE_LOADING = "store_loading"
    STORE_CRASHED = "store_crashed"
    FLUSHED = "flushed"
    LIMIT = "limit"  # value: how many connections it may accept
    BUSY_PAGE = "busy_page"  # somebody loaded a page that can kill it
    STATS_PAGE = "stats_page"


class Noticed(msgspec.Struct, frozen=True, tag="noticed"):
    """One line of the log that says something."""

    event: LogEvent
    at: float | None = None
    value: int | None = None


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The process ended, as its parent, systemd or the kernel tells."""

    at: float | None = None
    status: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    """Whether the kernel killed it because there was no memory left."""


LogEntry = Incident | Noticed | Exited
"""One thing that a server's output tells."""


class Position(msgspec.Struct, frozen=True):
    """How far a file of the log has been read, so that the next run of Forewarn goes on there."""

    path: str
    device: int
    inode: int
    offset: int
    head: str
    """What tells the file from another that came to stand in its place: a hash of its first bytes."""
    head_size: int
    """Of how many bytes."""


class LogFacts(msgspec.Struct, frozen=True):
    """What the server's output told since the observation before."""

    entries: tuple[LogEntry, ...] = ()
    """In the order in which they were printed."""
    dropped: int = 0
    """How many more there were than are kept."""
    reading: bool = False
    """Whether more may be about to come: an incident is being read, or there is output that has not been read yet."""
    positions: tuple[Position, ...] = ()
    """Up to where these entries reach."""
    read_bytes: int = 0
    unread_bytes: int | None = None
    last_at: float | None = None
    """When anything was read last, by the *server's* clock."""


class ProcessFacts(msgspec.Struct, frozen=True):
    """What the kernel tells of the server's process, where it can be seen."""

    pid: int
    started_at: float | None = None
    open_fds: int | None = None
    max_fds: int | None = None
    resident_bytes: int | None = None


class SocketFacts(msgspec.Struct, frozen=True):
    """What the kernel tells of the sockets of the server's port."""

    peers: Mapping[str, int]
    """Client connections by the address that they come from."""
    states: Mapping[str, int] = {}
    """Sockets by TCP state, in lower case: ``established``, ``close_wait``, ``syn_recv`` and so on."""
    waiting: int | None = None
    """Connections that the server has not accepted yet."""
    backlog: int | None = None
    """How many may wait."""


class Observation(msgspec.Struct, frozen=True):
    """The raw facts of one poll."""

    now: float
    reached: bool
    """Whether the server itself answered at all in this poll."""
    runs: tuple[CollectorRun, ...] = ()
    interrupted: bool = False
    """Whether contact was lost since the observation before: the server may have been restarted in between."""
    refusals: int = 0
    """How often our own connection was refused at the connection limit since the observation before."""
    health: Health | None = None
    connections_limit: int | None = None
    sockets: SocketFacts | None = None
    """``None`` where the server's sockets cannot be seen."""
    process: ProcessFacts | None = None
    """``None`` where the server's process cannot be seen."""
    log: LogFacts | None = None
    """``None`` where nobody reads the server's output, or it could not be read in this poll."""
    known_risks: Mapping[str, bool] | None = None
    """By the name of a known incident whether it can befall this server: its version has it, and the feature that leads
    to it is in use. Left out where the latter is not known."""
    details: Details | None = None
    queues: Mapping[str, Queue] | None = None
    sets: Mapping[str, int] | None = None
    overdue: Mapping[str, float] | None = None
    processed: int | None = None
    failed: int | None = None
    reservations: Mapping[str, Reservation] | None = None
    """By job id."""
    throttles: tuple[ThrottleLimit, ...] | None = None
    statsd: StatsdFacts | None = None
    """``None`` where nothing listens for it, or what was received is not known in this poll."""


class Source(Protocol):
    """The code that learns one server's state. Never raises for what the server does: it tells it in the values."""

    async def observe(self) -> Observation:
        """Learn what is known now, within the source's own deadlines."""
        ...

    async def probe(self, workers: Sequence[str]) -> tuple[Mapping[str, bool], CollectorRun]:
        """Tell for each of ``workers`` whether it is still registered, but for those not learned; and how it went."""
        ...

    async def failures(self, ended: Sequence[Ended]) -> tuple[Mapping[str, JobFailure | None], CollectorRun]:
        """Tell by job id how each of ``ended`` failed, or ``None`` that it did not; and how asking went.

        Those of which neither is known are left out.
        """
        ...

    async def close(self) -> None:
        """End every connection politely. Safe to call twice."""
        ...


Pair = tuple[str, str]
"""Queue and job type, as label values."""


class Exemplar(msgspec.Struct, frozen=True, gc=False):
    """One counted execution whose trace can be looked up."""

    trace_id: str
    span_id: str
    value: float
    """Seconds, as it was counted: within its bucket."""
    at: float


class Distribution(msgspec.Struct, frozen=True):
    """Cumulative counts at ascending upper bounds (the last is the total), and the sum of the values."""

    counts: tuple[int, ...]
    sum: float
    exemplars: tuple[tuple[int, Exemplar], ...] = ()
    """Of some buckets one that was counted there, with the bucket's index."""

    @property
    def count(self) -> int:
        """How many values there are."""
        return self.counts[-1]


class BootVerdict(msgspec.Struct, frozen=True):
    """What is known of the server process's life."""

    restarts: int
    started_at: float | None
    settled: bool
    """Whether the server is known to have run for long enough that its list of workers can be trusted."""


class ConnectionsVerdict(msgspec.Struct, frozen=True):
    """How close connections are to the limit, and who holds them."""

    used: int | None
    limit: int | None
    refused: int
    peers: Mapping[str, int] | None = None
    """By label value: the largest, and the rest in one."""
    states: Mapping[str, int] | None = None
    """Sockets by TCP state; a state that was told once stays, at 0."""
    waiting: int | None = None
    """Connections that the server has not accepted yet."""
    backlog: int | None = None
    """How many may wait."""


class BusyGroup(msgspec.Struct, frozen=True):
    """The busy jobs of one queue and job type; with no jobs the other two are unknown."""

    jobs: int
    oldest_age: float | None
    used_ratio: float | None


class BusyVerdict(msgspec.Struct, frozen=True):
    """How old the busy jobs are. Keys are label values, already bounded. ``None``: not known in this poll."""

    groups: Mapping[Pair, BusyGroup] | None
    ages: Mapping[str, Distribution] | None
    """By queue; upper bounds ``AGE_BUCKETS``."""
    durations: Mapping[Pair, Distribution]
    """Executions observed so far; upper bounds ``DURATION_BUCKETS``."""


class CrashReason(StrEnum):
    """How a worker went: its connections closed, or it fell silent until the server gave it up."""

    VANISHED = "vanished"
    HUNG = "hung"


class Crash(msgspec.Struct, frozen=True):
    """One worker found dead while it held jobs."""

    worker: str
    reason: CrashReason
    found_at: float
    orphans: tuple[Reservation, ...]
    lived_at: float
    """The last instant at which it is known to have lived."""
    gone_at: float
    """The first instant at which it is known to have been gone."""


class OrphanGroup(msgspec.Struct, frozen=True):
    """The orphans of one queue and job type; the age counts from when their worker was found gone."""

    jobs: int
    oldest_age: float | None


class WorkersVerdict(msgspec.Struct, frozen=True):
    """How often workers crash and what they leave behind."""

    registered: int | None
    crashes: Mapping[CrashReason, int]
    """By reason, every one of them from the start at 0."""
    orphans: Mapping[Pair, OrphanGroup] | None
    found: tuple[Crash, ...] = ()
    """The crashes that this observation proved."""


class Outcome(StrEnum):
    """How an execution ended."""

    FINISHED = "finished"
    FAILED = "failed"
    EXPIRED = "expired"  # its reservation ran out: the server gives the job to another worker
    CRASHED = "crashed"  # its worker went


class Execution(msgspec.Struct, frozen=True, gc=False, tag="execution"):
    """One execution of a job, from its reservation to its end."""

    reservation: Reservation
    outcome: Outcome | None
    """``None``: not known."""
    ended_at: float
    """When it ended at the latest."""
    uncertainty: float
    """Seconds by which it may have ended earlier; 0 where the end is exact."""
    error_type: str | None = None
    error: str | None = None
    """At most :data:`MAX_ERROR` characters."""
    dead: bool = False
    """Whether it was the job's last attempt."""
    crash: CrashReason | None = None
    found_at: float | None = None
    """When its worker was found to have crashed."""
    previous: float | None = None
    """When the attempt before was reserved, if that is known."""


class Orphaned(msgspec.Struct, frozen=True, tag="orphaned"):
    """The time after a crash for which the job stayed reserved for a worker that was gone."""

    reservation: Reservation
    since: float
    until: float
    uncertainty: float


class WorkerCrash(msgspec.Struct, frozen=True, tag="crash"):
    """One worker that went while it held jobs: between ``lived_at`` and ``gone_at``."""

    worker: str
    reason: CrashReason
    lived_at: float
    gone_at: float
    found_at: float
    orphaned_jobs: int
    orphans: tuple[Reservation, ...]
    """Some of them."""


class Restart(msgspec.Struct, frozen=True, tag="restart"):
    """One restart of the server: it was seen before at ``since`` and after at ``until``."""

    since: float
    until: float


Told = Execution | Orphaned | WorkerCrash | Restart | Incident
"""One thing that becomes a trace, or a part of one."""


class Choice(msgspec.Struct, frozen=True):
    """Which executions are told: all that something befell, and of the rest the slow ones and a share."""

    slow_seconds: float = 60.0
    ratio: float = 0.01
    """Share of the rest, chosen by the id of the trace: of one job all attempts or none."""
    per_second: float = 10.0
    """Most executions that are told per second, on average from one observation to the next."""
    parent: bool = False
    """Whether a span becomes a child of its producer's, in the producer's trace, instead of linking to it."""


class Decision(StrEnum):
    """What became of an execution that was seen to end: a closed set, so that it may be a label value."""

    TOLD = "told"
    LEFT_OUT = "left_out"  # neither slow nor chosen, and nothing befell it
    CAPPED = "capped"  # there were more than may be told per second


class ExecutionsVerdict(msgspec.Struct, frozen=True):
    """The executions that ended, as far as they are told in traces."""

    told: tuple[Told, ...]
    """What this observation added."""
    decisions: Mapping[Decision, int]
    """So far, every one of them from the start at 0."""
    exemplars: Mapping[Pair, tuple[tuple[int, Exemplar], ...]]
    """Of some buckets of the durations the newest execution that was told."""


class ThrottleUse(msgspec.Struct, frozen=True):
    """One throttle now. Facts that could not be learned in this poll are ``None``."""

    limit: int
    in_use: int | None
    waiting: int | None
    saturated_seconds: float

    @property
    def saturation(self) -> float | None:
        """Share of the limit in use; may exceed 1 after the limit was lowered."""
        if self.in_use is None or self.limit <= 0:
            return None
        return self.in_use / self.limit


class ThrottlesVerdict(msgspec.Struct, frozen=True):
    """How saturated the throttles are, by queue and scope; ``None`` when their limits are not known."""

    throttles: Mapping[tuple[str, Scope], ThrottleUse] | None


class QueuesVerdict(msgspec.Struct, frozen=True):
    """The queues under their label values, already bounded; of folded ones the sum of jobs and largest latency."""

    queues: Mapping[str, Queue] | None
    label_values: Mapping[str, int]
    """How many distinct values each bounded label really has, by label name."""
    label_values_limit: int | None = None
    """How many values each of these labels may have before the rest is folded."""


class StatsdVerdict(msgspec.Struct, frozen=True):
    """What the server has told by StatsD, under label values that are bounded."""

    age: float | None
    """Seconds since the last packet; ``None`` where there has never been one, and while it is not known for how long
    the server has been silent, because Forewarn itself did not listen."""
    counts: Mapping[StatsdFact, Mapping[Labelled, float]]
    """So far, since Forewarn started."""
    distributions: Mapping[StatsdFact, Mapping[Labelled, Distribution]]
    """Likewise."""
    levels: Mapping[StatsdFact, Mapping[Labelled, float]]
    """Those that were told not too long ago: of folded queues the sum of jobs and the largest latency."""
    traffic: StatsdTraffic
    """So far."""


class ProcessVerdict(msgspec.Struct, frozen=True):
    """Why the server's process died, and what it survived: as far as its output is read."""

    crashes: Mapping[IncidentKind, int]
    """So far by kind: every one of :data:`CRASH_KINDS`, from the start at 0."""
    races: int
    recovered: int
    events: Mapping[LogEvent, int]
    """So far: what the log said, of each event from the start at 0."""
    incidents: tuple[Incident, ...] = ()
    """The newest that are settled, oldest first; each has an ``at``."""
    found: tuple[Incident, ...] = ()
    """Those of them that this observation settled."""
    read_bytes: int = 0
    """So far."""
    unread_bytes: int | None = None
    last_at: float | None = None


class CollectorTotals(msgspec.Struct, frozen=True):
    """The newest run of one part of the poll, and its failures so far by reason."""

    last: CollectorRun
    errors: Mapping[Reason, int]


class Snapshot(msgspec.Struct, frozen=True):
    """What is known now of one server: the newest observation and every signal's verdict."""

    server: str
    system: str
    taken_at: float
    """When the poll ended, by the *sidecar's monotonic* clock: the age of the snapshot is measured from it."""
    observation: Observation
    boot: BootVerdict
    connections: ConnectionsVerdict
    queues: QueuesVerdict
    busy: BusyVerdict
    workers: WorkersVerdict
    throttles: ThrottlesVerdict
    collectors: tuple[CollectorTotals, ...]
    executions: ExecutionsVerdict | None = None
    """``None`` where traces are off."""
    statsd: StatsdVerdict | None = None
    """``None`` where nothing listens for StatsD."""
    process: ProcessVerdict | None = None
    """``None`` where nobody reads the server's output."""


AGE_BUCKETS: tuple[float, ...] = (
    1, 5, 15, 30, 60, 120, 300, 600, 900, 1200, 1500, 1800, 3600, 7200, 21600, 86400,
)  # fmt: skip
"""Upper bounds of busy job ages in seconds: 1800 is Faktory's default reservation, 86400 its longest."""

DURATION_BUCKETS: tuple[float, ...] = (
    0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400,
)  # fmt: skip
"""Upper bounds of observed executions in seconds."""


def label_value(name: str) -> str:
    """Return ``name`` as it may stand in a label: valid UTF-8, at most :data:`MAX_NAME` characters, never empty."""
    return name[:MAX_NAME].encode("utf-8", "replace").decode("utf-8") or "(empty)"
