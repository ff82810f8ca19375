"""Who a user is, by a password hashed with bcrypt: checked in bounded time, by whoever asks and however often.

A check takes a twentieth of a second and more, by design. It runs in one thread of its own, and what came out of it is
kept, so that whoever has been let in once does not wait for those who guess. Passwords themselves are not kept.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from exporter.secret import Secret

MAX_WAITING: Final = 32
"""Passwords that wait for their check."""

MAX_FROM_ONE: Final = 8
"""Of these, from one address."""

MAX_RIGHT: Final = 1000
"""Right answers that are kept; there are no more than users."""

MAX_WRONG: Final = 1000
"""Wrong answers that are kept."""

MAX_PASSWORD: Final = 72
"""Bytes of a password that count: bcrypt knows no more."""

NICE: Final = 10
"""How much the thread of the checks stands back, so that guessing takes little from what runs beside it."""

Check = Callable[[bytes, bytes], bool]
"""Whether a password fits to a hash."""


class BusyError(Exception):
    """Too many passwords wait for their check."""


class Passwords:
    """Checks users and their passwords. Not safe in threads other than the event loop's."""

    def __init__(self, check: Check | None = None) -> None:
        self._check = check or _bcrypt
        # New with each start: what is kept could not be tried out elsewhere, and nobody can tell which user a name
        # is taken for that is none.
        self._secret = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[bool]] = {}
        self._waiting: Counter[str] = Counter()
        self._worker = ThreadPoolExecutor(1, "passwords", initializer=os.nice, initargs=(NICE,))

    @property
    def waiting(self) -> int:
        """How many passwords wait for their check, with the one under way."""
        return len(self._under_way)

    async def fit(self, users: Mapping[str, Secret], name: str, password: bytes, address: str) -> bool:
        """Whether ``name`` is one of ``users``, by name their hashes, and ``password`` theirs.

        ``address`` is where the question came from. Raises :class:`BusyError` where too many wait.
        """
        known = name in users
        hashed = (users[name] if known else self._somebody(users, name)).reveal().encode()
        password = password[:MAX_PASSWORD]
        key = self._key(name.encode(errors="surrogatepass"), hashed, password)
        if key in self._right:
            return known
        if key in self._wrong:
            self._wrong.move_to_end(key)
            return False
        if (running := self._under_way.get(key)) is None:
            if len(self._under_way) >= MAX_WAITING or self._waiting[address] >= MAX_FROM_ONE:
                raise BusyError
            running = self._begin(key, password, hashed, address)
        # Whoever asked may leave; the answer is worth keeping all the same.
        return await asyncio.shield(running) and known

    def close(self) -> None:
        """Let go of what waits. Safe to call twice."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _begin(self, key: bytes, password: bytes, hashed: bytes, address: str) -> asyncio.Future[bool]:
        def end(done: asyncio.Future[bool]) -> None:
            del self._under_way[key]
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]
            if not done.cancelled() and done.exception() is None:
                kept, bound = (self._right, MAX_RIGHT) if done.result() else (self._wrong, MAX_WRONG)
                kept[key] = None
                if len(kept) > bound:
                    kept.popitem(last=False)

        running = asyncio.get_running_loop().run_in_executor(self._worker, self._check, password, hashed)
        self._under_way[key] = running
        self._waiting[address] += 1
        running.add_done_callback(end)
        return running

    def _somebody(self, users: Mapping[str, Secret], name: str) -> Secret:
        """Return the hash of one of ``users`` for a ``name`` that is none of them, always the same.

        It is checked for its cost alone: in time, a name that is not known is then like one that is.
        """
        number = int.from_bytes(self._key(name.encode(errors="surrogatepass"))[:8], "big")
        return list(users.values())[number % len(users)]

    def _key(self, *parts: bytes) -> bytes:
        hashing = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in parts:
            hashing.update(len(part).to_bytes(4, "big") + part)
        return hashing.digest()


def credentials(header: str) -> tuple[str, bytes] | None:
    """Return user and password of an ``Authorization`` header as RFC 7617 has them; ``None`` where it holds none."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None


def _bcrypt(password: bytes, hashed: bytes) -> bool:
    import bcrypt  # noqa: PLC0415 - takes memory only where a password is asked for

    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:
        return False
