"""An ordinary day under ordinary load: of all alerts only those are told that it deserves.

The day has a diurnal load with noise, jobs that fail now and then, a deploy that restarts all workers, one restart of
Faktory and one of Forewarn, which then counts from 0. Faktory tells by StatsD too, which Forewarn passes on, and pushes
its own; a flood and two restarts of other servers lose some of it. Forewarn reads Faktory's log as well, and somebody
looks at its Busy page once. The day begins with the first sample that Prometheus ever saw.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator

from tests.rule_cases import RULES, check, read, with_labels

SEED = 20
STEP = 60
"""Seconds between samples, and between evaluations."""
HOUR = 3600
DAY = 24 * HOUR

DEPLOY = range(10 * HOUR + 20, 10 * HOUR + 75)
"""No worker is there: those that ran jobs have finished or failed them."""
OUTAGE = range(16 * HOUR - 20, 16 * HOUR + 25)
"""Faktory is away."""
FOREWARN_RESTART = 20 * HOUR
"""One scrape finds no Forewarn."""

FLUSH = 30
"""Seconds between two times at which Faktory tells its gauges by StatsD."""
PER_FLUSH = 40
"""Packets and values of each."""
FLOOD = range(12 * HOUR, 12 * HOUR + 20)
"""More packets come than fit into the socket's buffer."""
RELAY_AWAY = range(13 * HOUR, 13 * HOUR + 240)
"""Nobody takes the packets that are passed on."""
LOOK = 11 * HOUR
"""Somebody loads the Busy page, which counts as a risk for an hour."""
PUSH_AWAY = range(14 * HOUR, 14 * HOUR + 240)
"""Nobody takes the metrics that are pushed every 10 seconds."""

WORKERS = 24
PRODUCERS = 900
WORKER_CONNECTIONS = 12
BOUNDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)

DEADLINE = 240.0
"""Seconds: all rules over a whole day take 15 of a processor's time."""

Sample = float | None


class Queue:
    """A queue, its jobs of one type, and as many places for them to run as there are."""

    def __init__(self, numbers: random.Random, name: str, per_hour: float, seconds: float, places: int) -> None:
        self.numbers, self.name, self.per_hour, self.seconds, self.places = numbers, name, per_hour, seconds, places
        self.waiting: deque[float] = deque()
        self.busy: list[tuple[float, float]] = []
        """When each ends and has begun: a heap."""
        self.retries: list[float] = []
        self.processed = self.failed = self.told = self.told_failed = 0
        self.durations = [0] * (len(BOUNDS) + 1)
        self.next_push = 0.0

    def advance(self, now: int) -> None:
        """Live through the second ``now``."""
        while self.next_push <= now:
            self.waiting.append(self.next_push)
            # From a third of the average at night to five thirds of it by day.
            rate = self.per_hour * (1 - 2 / 3 * math.cos(2 * math.pi * now / DAY))
            self.next_push += self.numbers.expovariate(rate / HOUR)
        while self.busy and self.busy[0][0] <= now and now not in OUTAGE:
            ended, begun = heapq.heappop(self.busy)
            self._end(now, ended - begun, failed=self.numbers.random() < 0.03)
        if now == DEPLOY.start:
            for _, begun in self.busy:
                self._end(now, now - begun, failed=True)
            self.busy.clear()
        if now in DEPLOY or now in OUTAGE:
            return
        while self.retries and self.retries[0] <= now - 5:
            self.waiting.append(heapq.heappop(self.retries))
        while self.waiting and len(self.busy) < self.places:
            self.waiting.popleft()
            heapq.heappush(self.busy, (now + self.numbers.lognormvariate(math.log(self.seconds), 0.5), now))

    def _end(self, now: int, seconds: float, *, failed: bool) -> None:
        self.processed += 1
        self.told += 1
        self.durations[sum(bound < seconds for bound in BOUNDS)] += 1
        if failed:
            self.failed += 1
            self.told_failed += 1
            heapq.heappush(self.retries, now + self.numbers.uniform(20, 60))

    def forget(self) -> None:
        """Begin to count anew what only Forewarn counts."""
        self.durations = [0] * (len(BOUNDS) + 1)
        self.told = self.told_failed = 0

    def samples(self, now: int) -> Iterator[tuple[str, Sample]]:
        """Yield every series of this queue with its sample."""
        queue = f'queue="{self.name}"'
        pair = f'{queue}, jobtype="{self.name}-job"'
        yield f"faktory_queue_jobs{{{queue}}}", len(self.waiting)
        yield f"faktory_queue_latency_seconds{{{queue}}}", now - min(self.waiting, default=now)
        yield f"faktory_queue_paused{{{queue}}}", 0
        yield f"faktory_busy_jobs{{{pair}}}", len(self.busy)
        yield f"faktory_orphaned_jobs{{{pair}}}", 0
        age = now - min((begun for _, begun in self.busy), default=now)
        yield f"faktory_busy_job_oldest_age_seconds{{{pair}}}", age if self.busy else None
        yield f"faktory_busy_job_reservation_used_ratio{{{pair}}}", age / (4 * HOUR) if self.busy else None
        known = sum(self.durations) > 0
        total = 0
        for bound, count in zip([f"{bound:g}" for bound in BOUNDS] + ["+Inf"], self.durations, strict=True):
            total += count
            yield f'faktory_job_duration_seconds_bucket{{{pair}, le="{bound}"}}', total if known else None
        yield f"faktory_job_duration_seconds_count{{{pair}}}", total if known else None

    def told_samples(self) -> Iterator[tuple[str, Sample]]:
        """Yield what is counted of it by StatsD, whether or not Faktory answers now."""
        pair = f'queue="{self.name}", jobtype="{self.name}-job"'
        yield f"faktory_job_executions_total{{{pair}}}", self.told or None
        yield f"faktory_job_failures_total{{{pair}}}", self.told_failed or None


def _day() -> dict[str, list[Sample]]:
    """Return every series of the day, sample by sample."""
    numbers = random.Random(SEED)
    default = Queue(numbers, "default", 3000, 8, 24)
    mail = Queue(numbers, "mail", 3000, 4, 9)  # by its throttle
    reports = Queue(numbers, "reports", 8, 600, 10)
    queues = (default, mail, reports)
    series: dict[str, list[Sample]] = {}
    saturated = 0
    for now in range(DAY + 1):
        if now == FOREWARN_RESTART:
            saturated = 0
            for queue in queues:
                queue.forget()
        for queue in queues:
            queue.advance(now)
        saturated += len(mail.busy) >= mail.places
        if now % STEP:
            continue
        at = now // STEP
        found = dict(_of_process(now))
        if now != FOREWARN_RESTART:
            found |= _of_server(now, numbers)
            found |= _of_statsd(now, numbers)
            found |= _of_output(now, numbers)
            for queue in queues:
                found |= queue.told_samples()
            if now not in OUTAGE:
                for queue in queues:
                    found |= queue.samples(now)
                found |= _of_queues(now, queues, numbers)
                found |= _of_throttle(mail, saturated)
        for name, sample in found.items():
            series.setdefault(name, [None] * at).append(sample)
        for samples in series.values():
            if len(samples) == at:
                samples.append(None)
    return series


def _of_process(now: int) -> Iterator[tuple[str, Sample]]:
    alive = now != FOREWARN_RESTART
    yield "up", alive
    yield 'forewarn_build_info{version="1"}', 1 if alive else None
    for file in ("settings", "web"):
        yield f'forewarn_config_last_reload_successful{{file="{file}"}}', 1 if alive else None
    since = FOREWARN_RESTART if now >= FOREWARN_RESTART else 0
    failed = _seconds_of(PUSH_AWAY, since, now) // 10
    yield 'forewarn_statsd_push_failures_total{reason="refused"}', failed if alive else None


def _of_server(now: int, numbers: random.Random) -> dict[str, Sample]:
    found: dict[str, Sample] = {
        "faktory_up": now not in OUTAGE,
        "faktory_restarts_total": OUTAGE.stop <= now < FOREWARN_RESTART,
        "faktory_connections_refused_total": 0,
        'faktory_worker_crashes_total{reason="vanished"}': 0,
        'faktory_worker_crashes_total{reason="hung"}': 0,
        "forewarn_snapshot_age_seconds": numbers.uniform(0, 5),
        'forewarn_collector_up{collector="health"}': now not in OUTAGE,
        'forewarn_collector_up{collector="redis"}': now not in OUTAGE,
        'forewarn_collector_duration_seconds{collector="redis"}': numbers.lognormvariate(-5, 0.7),
        'forewarn_label_values{label="queue"}': 3,
        'forewarn_label_values_limit{label="queue"}': 200,
    }
    if now in OUTAGE:
        return found
    up_for = now - OUTAGE.stop if now >= OUTAGE.stop else now + 30 * DAY
    back = max(0, min(up_for, now - DEPLOY.stop if now >= DEPLOY.start else DAY))
    workers = round(WORKERS * min(1.0, back / 90))
    producers = round(PRODUCERS * min(1.0, up_for / 60) + numbers.gauss(0, 12))
    connections = producers + workers * WORKER_CONNECTIONS
    found |= {
        "faktory_connections": connections,
        "faktory_connections_limit": 2000,
        "faktory_workers": workers,
        "faktory_memory_bytes": 1024**2 * (40 + 35 * min(1.0, up_for / HOUR)),
        "faktory_start_time_seconds": now - up_for,
        "faktory_reservations_expired_total": 3 if now < OUTAGE.start else 0,
    }
    found |= {f'faktory_peer_connections{{peer="10.1.0.{peer}"}}': connections // 8 for peer in range(8)}
    found |= _of_kernel(now, connections, up_for, numbers)
    return found


def _of_kernel(now: int, connections: int, up_for: int, numbers: random.Random) -> dict[str, Sample]:
    return {
        'faktory_sockets{state="established"}': connections,
        'faktory_sockets{state="close_wait"}': numbers.choice((0, 0, 0, 1, 3)),
        "faktory_accept_queue_connections": 40 if up_for < STEP else numbers.random() < 0.1,
        "faktory_accept_queue_limit": 4096,
        "faktory_process_start_time_seconds": now - up_for,
        "faktory_process_open_fds": 40 + 2 * connections,
        "faktory_process_max_fds": 20_000,
        "faktory_process_resident_memory_bytes": 1024**2 * (30 + 30 * min(1.0, up_for / HOUR)),
    }


def _of_output(now: int, numbers: random.Random) -> dict[str, Sample]:
    since = FOREWARN_RESTART if now >= FOREWARN_RESTART else 0
    events = {
        "started": since <= OUTAGE.stop <= now,
        "stopping": since <= OUTAGE.start <= now,
        "busy_page": since <= LOOK <= now,
        **dict.fromkeys(("connection_refused", "worker_reaped", "job_lost", "store_crashed", "flushed"), 0),
    }
    return {
        **{f'faktory_log_events_total{{event="{event}"}}': count for event, count in events.items()},
        **{
            f'faktory_process_crashes_total{{class="{kind}"}}': 0
            for kind in ("concurrent-map", "killed", "unexplained")
        },
        "faktory_recovered_panics_total": 0,
        "faktory_data_races_total": 0,
        'faktory_known_crash_risk{known="faktory-busy-page"}': LOOK <= now < LOOK + HOUR,
        # Its log is rotated each night, and an old one copied back by day.
        "faktory_log_unread_bytes": 2e8 if 9 * HOUR < now < 9 * HOUR + 120 else numbers.choice((0, 0, 4096)),
        "faktory_log_quiet_seconds": now % 60,
    }


def _of_statsd(now: int, numbers: random.Random) -> dict[str, Sample]:
    since = FOREWARN_RESTART if now >= FOREWARN_RESTART else 0
    flushes = (now - since - _seconds_of(OUTAGE, since, now)) // FLUSH
    silent = now - OUTAGE.start if OUTAGE.start <= now < OUTAGE.stop + FLUSH else now % FLUSH
    floods, lost = _seconds_of(FLOOD, since, now), _seconds_of(RELAY_AWAY, since, now)
    # A save of Redis takes two minutes of each hour.
    trip = numbers.lognormvariate(-8, 0.5) if now % HOUR > 120 else 0.08
    return {
        'forewarn_collector_up{collector="statsd"}': 1,
        "faktory_statsd_last_packet_age_seconds": silent + numbers.uniform(0, 5),
        "faktory_redis_round_trip_seconds": None if now in OUTAGE else trip,
        'forewarn_statsd_packets_total{transport="udp"}': flushes * PER_FLUSH + 10_000 * floods,
        "forewarn_statsd_samples_total": flushes * PER_FLUSH + 10_000 * floods,
        'forewarn_statsd_rejected_total{reason="type"}': flushes * PER_FLUSH // 500,
        'forewarn_statsd_dropped_packets_total{at="kernel"}': 5_000 * floods,
        'forewarn_statsd_dropped_packets_total{at="relay"}': lost * PER_FLUSH // FLUSH,
        "forewarn_statsd_relayed_packets_total": flushes * PER_FLUSH + 10_000 * floods - lost * PER_FLUSH // FLUSH,
    }


def _seconds_of(times: range, since: int, now: int) -> int:
    """Return how many seconds of ``times`` have passed between two times."""
    return len(range(max(times.start, since), min(times.stop, now)))


def _of_queues(now: int, queues: tuple[Queue, ...], numbers: random.Random) -> dict[str, Sample]:
    late = max(0.0, max((now - min(queue.retries) for queue in queues if queue.retries), default=0.0))
    return {
        "faktory_jobs_processed_total": sum(queue.processed for queue in queues),
        "faktory_jobs_failed_total": sum(queue.failed for queue in queues),
        'faktory_set_jobs{set="dead"}': 140 + now // (5 * HOUR),
        'faktory_set_jobs{set="retries"}': sum(len(queue.retries) for queue in queues),
        'faktory_set_overdue_seconds{set="retries"}': late,
        'faktory_set_overdue_seconds{set="scheduled"}': numbers.uniform(0, 5),
    }


def _of_throttle(queue: Queue, saturated: int) -> dict[str, Sample]:
    labels = f'queue="{queue.name}", scope="cluster"'
    return {
        f"faktory_throttle_limit{{{labels}}}": queue.places,
        f"faktory_throttle_in_use{{{labels}}}": len(queue.busy),
        f"faktory_throttle_saturation_ratio{{{labels}}}": len(queue.busy) / queue.places,
        f"faktory_throttle_saturated_seconds_total{{{labels}}}": saturated,
        f'faktory_throttle_waiting_jobs{{queue="{queue.name}"}}': len(queue.waiting),
    }


def _written(samples: list[Sample]) -> str:
    """Return samples as promtool takes them; what ends is marked, as Prometheus does after a scrape without it."""
    return " ".join(
        f"{sample:.10g}" if sample is not None else "stale" if at and samples[at - 1] is not None else "_"
        for at, sample in enumerate(samples)
    )


def test_only_the_restart_is_told() -> None:
    check(
        {
            "evaluation_interval": f"{STEP}s",
            "tests": [
                {
                    "interval": f"{STEP}s",
                    "input_series": [
                        {"series": with_labels(name), "values": _written(samples)} for name, samples in _day().items()
                    ],
                    "promql_expr_test": [
                        {
                            "expr": 'sum by (alertname) (count_over_time(ALERTS{alertstate="firing"}[25h]))',
                            "eval_time": f"{DAY}s",
                            "exp_samples": [
                                {"labels": '{alertname="FaktoryRestarted"}', "value": 10},
                                {"labels": '{alertname="ForewarnWatchdog"}', "value": DAY // STEP + 1},
                            ],
                        },
                    ],
                }
            ],
        },
        read(RULES),
        "a quiet day",
        DEADLINE,
    )
