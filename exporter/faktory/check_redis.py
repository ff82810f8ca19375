"""Whether Faktory's Redis can be read, and whether it is Faktory's.

Costs it one connection, one ``TIME``, and one pipeline of nine commands that each look at a number or at a handful of
names. Only where it closes that connection, or is silent in TLS, there is one connection more. All commands are of
:data:`~exporter.faktory.redis_link.ALLOWED`.
"""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from redis.exceptions import AskError, ClusterError, ResponseError

from exporter.check import holders
from exporter.check.access import Obstacle, obstacle, run_as_owner
from exporter.check.finding import Report, remedy
from exporter.check.places import ServerPlaces
from exporter.faktory.endpoint import host_port
from exporter.faktory.errors import FaktoryError
from exporter.faktory.redis_link import ALLOWED, Answer, Command, RedisAddress, RedisLink
from exporter.model import Failure, Reason
from exporter.settings import ServerSettings
from exporter.threads import in_time, unresolved

PART: Final = "redis"

USUAL: Final = "unix:///var/lib/faktory/db/redis.sock"

LOOK_DEADLINE: Final = 3.0
"""Seconds for looking at the socket's path."""

SETS: Final = ("scheduled", "retries", "dead", "working")

NAMES: Final = 10
"""About so many queue names are asked for: a small set is told whole."""

BEYOND: Final = 2**31
"""An index in a list behind every element: Redis answers at once, and with nothing."""

MANY_COMMANDS: Final = 100
"""A server that has run so many has put something into its Redis: each queue that is only fetched from stands in it."""

_HOW_TO_SEE: Final = "redis.sock in Faktory's storage folder, its -d"


class RedisFacts(msgspec.Struct, frozen=True):
    """What Faktory's Redis tells when it is asked so little."""

    now: float
    """Its clock in Unix seconds, at the local :attr:`asked_at`."""
    asked_at: float
    took: float
    """Seconds for the answer."""
    queues: int | None
    """How many names were told of some :data:`NAMES`."""
    sets: dict[str, int]
    processed: int | None
    errors: tuple[str, ...]
    """What Redis said where it did not answer one of the questions."""
    in_cluster: bool = False
    """Whether it said what only a node of a cluster says."""

    @property
    def empty(self) -> bool:
        """Whether nothing of Faktory's is in it."""
        return not self.queues and not any(self.sets.values()) and self.processed is None and not self.errors


async def read_redis(
    settings: ServerSettings, report: Report, places: ServerPlaces, wall: Callable[[], float] = time.time
) -> RedisFacts | None:
    """Ask Redis, and tell what is wrong where that fails; ``None`` then, and where no Redis is configured."""
    if settings.redis_url is None:
        why = "not configured: single jobs, crashed workers and throttles cannot be seen, and INFO is asked instead"
        how = places.set("redis_url", USUAL, f"name it ({_HOW_TO_SEE})")
        what = f"{why}, which can kill a Faktory in the moment in which a new queue name comes up"
        report.warning(PART, what, how, asked_for=False)
        return None
    address = _address(settings)
    with report.trying(PART):
        if not await _within_reach(address, report, places):
            return None
        link = RedisLink(address, ca_file=settings.redis_ca_file)
        try:
            return await _ask(link, wall)
        except FaktoryError as error:
            _tell_failure(await _seen_through(error.failure, address), address, report, places)
            return None
        finally:
            await link.close()


async def _ask(link: RedisLink, wall: Callable[[], float]) -> RedisFacts:
    began, asked_at = time.monotonic(), wall()
    (told,) = await link.ask(("TIME",))
    took = time.monotonic() - began
    match told:
        case [bytes(seconds), bytes(micros)] if seconds.isdigit() and micros.isdigit():
            now = int(seconds) + int(micros) / 1e6
        case ResponseError():
            raise FaktoryError(Reason.SERVER, link.problem(told, "TIME"))
        case _:
            raise FaktoryError(Reason.PROTOCOL, f"{link.where} did not tell the time as a Redis does")
    questions: list[Command] = [
        ("MGET", "processed", "failures"),
        *(("ZCARD", name) for name in SETS),
        ("SSCAN", "queues", 0, "COUNT", NAMES),
        # These two only for the right to ask them: no queue has a name with a blank.
        ("LLEN", "q:no queue"),
        ("LINDEX", "q:no queue", BEYOND),
        ("ZRANGEBYSCORE", "working", "(+inf", "+inf", "LIMIT", 0, 1),
    ]
    answers = await link.ask(*questions)
    errors = tuple(str(it)[:160] for it in answers if isinstance(it, ResponseError))
    totals, *rest = answers
    sizes, names = rest[: len(SETS)], rest[len(SETS)]
    return RedisFacts(
        now=now,
        asked_at=asked_at + took / 2,
        took=took,
        queues=len(names[1]) if isinstance(names, list) and len(names) == 2 else None,
        sets={name: size for name, size in zip(SETS, sizes, strict=True) if isinstance(size, int)},
        processed=_number(totals),
        errors=errors,
        in_cluster=any(isinstance(it, AskError | ClusterError) for it in answers),
    )


def tell_redis(
    facts: RedisFacts,
    settings: ServerSettings,
    report: Report,
    places: ServerPlaces,
    *,
    commands: int | None,
    other: holders.Holder | None,
) -> bool:
    """Tell of a Redis that answers whether it is that of the server, and return whether it is.

    ``commands``: how many the server has run, where that is known; ``other``: the other Faktory whose Redis it is.
    """
    address = _address(settings)
    name = f"{address.where}, database {address.db},"
    if facts.in_cluster:
        how = places.set("redis_url", USUAL, f"Faktory uses no cluster: name its own Redis ({_HOW_TO_SEE})")
        report.failed(PART, f"{address.where} is a node of a cluster ({facts.errors[0][:60]})", how)
        return False
    if any("WRONGTYPE" in it for it in facts.errors):
        how = places.set("redis_url", USUAL, f"name Faktory's Redis ({_HOW_TO_SEE})")
        report.failed(PART, f"{name} is not Faktory's: under Faktory's names it holds things of another kind", how)
        return False
    if facts.errors:
        how = remedy("see whether Redis is well:", "redis-cli INFO persistence   # on its machine")
        report.failed(PART, f"{address.where} answered with: {facts.errors[0]}", how)
        return False
    if other is not None:
        how = places.set("redis_url", USUAL, f"name the Redis of this server ({_HOW_TO_SEE})")
        report.failed(PART, f"{address.where} belongs to another Faktory (process {other.pid}), not to this one", how)
        return False
    if facts.empty and commands is not None and commands >= MANY_COMMANDS:
        what = f"{name} holds nothing of Faktory's, but the server has run {commands} commands: it is another one"
        if address.db != 0:
            how = places.set_url(
                "redis_url", redis_url(msgspec.structs.replace(address, db=0)), "Faktory uses database 0"
            )
        else:
            how = places.set("redis_url", USUAL, f"name Faktory's Redis ({_HOW_TO_SEE})")
        report.failed(PART, what, how)
        return False
    took = f"{address.where} answers in {facts.took * 1000:.1f} ms"
    if facts.empty:
        report.ok(PART, f"{took}; it is empty, as that of a new Faktory is")
        return True
    count = facts.queues or 0
    queues = "1 queue" if count == 1 else f"{count}{' or more' if count >= NAMES else ''} queues"
    report.ok(PART, f"{took}: {queues}, {facts.sets.get('working', 0)} jobs busy, {facts.processed or 0} processed")
    return True


def _address(settings: ServerSettings) -> RedisAddress:
    return RedisAddress.parse(
        "" if settings.redis_url is None else settings.redis_url.reveal(), settings.redis_password
    )


def redis_url(address: RedisAddress) -> str:
    """Return an address as a URL, without user and password."""
    if address.path:
        return f"unix://{address.path}" + (f"?db={address.db}" if address.db else "")
    scheme = "rediss" if address.tls else "redis"
    return f"{scheme}://{host_port(address.host, address.port)}/{address.db}"


def _number(totals: Answer) -> int | None:
    value = totals[0] if isinstance(totals, list) and totals else None
    return int(value) if isinstance(value, bytes) and value.isdigit() and len(value) < 20 else None


def other_owner(settings: ServerSettings, server_pid: int) -> holders.Holder | None:
    """Return the other Faktory whose Redis it is, where that can be seen; ``None`` where it cannot, or is ours."""
    address = _address(settings)
    if address.path:
        holder = holders.of_path(Path(address.path))
    else:
        holder = holders.of_port("tcp", address.port) if address.host in {"127.0.0.1", "::1", "localhost"} else None
    parent = None if holder is None else holders.process(holder.parent)
    if parent is None or parent.pid == server_pid or not parent.name.startswith("faktory"):
        return None
    return parent


async def _within_reach(address: RedisAddress, report: Report, places: ServerPlaces) -> bool:
    """Tell why Redis cannot be connected to, as far as that can be seen without asking it."""
    if not address.path:
        why = await unresolved(address.host)
        if why is None:
            return True
        how = places.set_url("redis_url", f"redis://HOST:{address.port}/{address.db}", "correct the host")
        report.failed(PART, f"{address.where}: its name {why}", how)
        return False
    path = Path(address.path)
    try:
        found = await in_time(lambda: _look(path), LOOK_DEADLINE)
    except FileNotFoundError:
        near = _near(path)
        where = f"unix://{near or '/path/to/its/redis.sock'}"
        if near is None:
            prose = f"start Faktory if it is not running, else name its socket ({_HOW_TO_SEE})"
        else:
            prose = "there is one nearby"
        report.failed(PART, f"{address.where} is not there", places.set("redis_url", where, prose))
        return False
    except (OSError, TimeoutError) as error:
        told = getattr(error, "strerror", None) or f"no answer within {LOOK_DEADLINE:g} s"
        how = remedy("see whether its disk answers:", f"ls -l {shlex.quote(str(path))}")
        report.failed(PART, f"{address.where} cannot be looked at ({told})", how)
        return False
    if isinstance(found, Obstacle):
        why = "Faktory makes its socket anew at each start, for its own user alone."
        report.failed(PART, f"{address.where} may not be opened: {found.told}", run_as_owner(found, why))
        return False
    if not found:
        how = places.set("redis_url", "unix:///path/to/its/redis.sock", f"name the socket itself ({_HOW_TO_SEE})")
        near = path / "redis.sock"
        with suppress(OSError):
            if near.is_socket():
                how = places.set("redis_url", f"unix://{near}", "name the socket itself")
        report.failed(PART, f"{path} is no socket", how)
        return False
    return True


def _look(path: Path) -> Obstacle | bool:
    """Return what is in the way, or whether it is a socket. Raises ``OSError`` where it is not there."""
    found = obstacle(path, os.R_OK | os.W_OK)
    if found is not None and found.on_the_way:
        return found
    if not stat.S_ISSOCK(path.stat().st_mode):
        return False
    return found or True


def _near(path: Path) -> Path | None:
    """Return the one socket that was perhaps meant."""
    candidates = (path.parent / "db/redis.sock", path.parent / "redis.sock", path.parent.parent / "redis.sock")
    found = [it for it in candidates if _is_socket(it)]
    return found[0] if len(found) == 1 else None


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:
        return False


async def _seen_through(failure: Failure, address: RedisAddress) -> Failure:
    """Return what is the matter where Redis is silent in TLS: in plain text it waits for the end of a line.

    So a silent one is asked once more, in plain text and without a password: any answer shows what it speaks.
    """
    if not address.tls or failure.reason is not Reason.TIMEOUT:
        return failure
    link = RedisLink(msgspec.structs.replace(address, tls=False, username=None, password=None))
    try:
        await link.ask(("TIME",))
    except FaktoryError as error:
        if error.failure.reason not in {Reason.AUTH, Reason.SERVER}:
            return failure
    finally:
        await link.close()
    return Failure(Reason.TLS, f"{address.where} does not speak TLS: it is a plain port")


def _tell_failure(failure: Failure, address: RedisAddress, report: Report, places: ServerPlaces) -> None:
    message = failure.message
    what, _, hint = message.rpartition(": ") if ": " in message else (message, "", "")
    plain = redis_url(address)
    if "loading its data" in message:
        report.warning(PART, what, remedy("wait until it has, and check again:", "forewarn check"))
        return
    if "does not permit" in message:
        allowed = " ".join(f"+{it.lower()}" for it in sorted(ALLOWED))
        # Only what is added: the user may be that of others too, of Faktory itself for instance.
        line = f"redis-cli ACL SETUSER {'default' if address.username is None else 'USER'} '~*' +select {allowed}"
        report.failed(PART, what, remedy("let its user run what Forewarn asks, all of which only reads:", line))
        return
    if failure.reason is Reason.AUTH:
        if address.password is None:
            what = f"{address.where} asks for a password, and none is configured"
        elif "without any password" in message:
            how = places.set_url("redis_url", f"{plain}", "it has no password: leave it out (also redis_password_file)")
            report.failed(PART, f"{address.where} has no password, and one is configured", how)
            return
        prose = "tell Forewarn the right one"
        report.failed(PART, what, places.set_password("redis_password_file", "redis_url", prose))
        return
    if failure.reason is Reason.TLS:
        if "not trusted" in message:
            how = places.set("redis_ca_file", "/path/to/ca.pem", hint)
        else:
            how = places.set_url("redis_url", plain.replace("rediss://", "redis://", 1), "it is a plain port")
        report.failed(PART, what, how)
        return
    if address.path:
        how = places.set("redis_url", USUAL, f"see whether Faktory runs, and name its socket ({_HOW_TO_SEE})")
    elif not address.tls and _hung_up(message):
        prose = "is that its TLS port? Then"
        how = places.set_url("redis_url", plain.replace("redis://", "rediss://", 1), prose)
        what = f"{address.where} closes the connection when it is asked in plain text"
    elif failure.reason is Reason.TIMEOUT:
        line = f"nc -vz {address.host} {address.port}"
        how = remedy(f"{hint or 'is it overloaded?'} See whether packets come through:", line)
    else:
        prose = "start it, or correct host and port"
        how = places.set_url("redis_url", f"redis://HOST:PORT/{address.db}", prose)
    report.failed(PART, what, how)


def _hung_up(message: str) -> bool:
    lowered = message.lower()
    return "closed by server" in lowered or "reset by peer" in lowered or "did not answer as a redis" in lowered
