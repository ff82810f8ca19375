"""The gate: which web configuration is in use, and who is let in by it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest
import trustme

from exporter.web import files, gate, passwords
from exporter.web.gate import Gate
from exporter.web.passwords import Passwords, credentials
from exporter.web.rate import Bucket
from exporter.web.web_config import RateLimit, WebConfigError
from tests.servers import wait_until

ADA = "$2y$04$6ssKBX3ZEKUmQr1ifKetluWH5QS/cETBuFsKQ4MI8JUdeyMFZpyn6"
"""Of ada42, with the least cost."""
GRACE = "$2b$05$lLkebRQTbpdSkUD1/.NAnu0RCNDzOspVwVQwnK92hqxjBh7CBJgwm"
"""Of grace42."""

USERS = f"basic_auth_users:\n  ada: {ADA}\n  grace: {GRACE}\n"
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"

AUTHORITY = trustme.CA()
FIRST, SECOND = AUTHORITY.issue_cert("localhost"), AUTHORITY.issue_cert("localhost")


def basic(name: str, password: str) -> list[str]:
    return ["Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()]


def write(path: Path, text: str) -> None:
    """Replace a file as tools do that take care: under another name first."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Checks:
    """Stands in for bcrypt: right is what is the name with 42 behind it. Each check waits while it is held up."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.seen: list[bytes] = []
        self.hashes: list[bytes] = []

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        assert self.go_on.wait(30)
        self.seen.append(password)
        self.hashes.append(hashed)
        return password == {ADA: b"ada42", GRACE: b"grace42"}[hashed.decode()]


@pytest.fixture
def checks() -> Iterator[Checks]:
    made = Checks()
    yield made
    made.go_on.set()


Make = Callable[..., Gate]


@pytest.fixture
def make(tmp_path: Path, checks: Checks) -> Iterator[Make]:
    """Make gates for files of a folder that has a certificate and its key."""
    made = []

    def opened(text: str, **options: object) -> Gate:
        pair(tmp_path, FIRST)
        write(tmp_path / "web.yml", text)
        made.append(Gate(tmp_path / "web.yml", **({"check": checks} | options)))  # type: ignore[arg-type]
        return made[-1]

    yield opened
    for each in made:
        each.close()


def pair(folder: Path, cert: trustme.LeafCert) -> None:
    write(folder / "server.crt", cert.cert_chain_pems[0].bytes().decode())
    write(folder / "server.key", cert.private_key_pem.bytes().decode())


async def status(opened: Gate, authorization: list[str], address: str = "192.0.2.1") -> int:
    refusal = await opened.refusal(None, authorization, address)
    return 200 if refusal is None else refusal.status


class TestReadAgain:
    def test_a_change_is_in_use_at_the_next_question(self, make: Make, tmp_path: Path) -> None:
        opened = make("")
        write(tmp_path / "web.yml", USERS)
        assert opened.refresh() is None
        assert set(opened.config.users) == {"ada", "grace"}

    def test_a_renewed_pair_makes_a_new_context(self, make: Make, tmp_path: Path) -> None:
        opened = make(TLS)
        before = opened.context
        pair(tmp_path, SECOND)
        opened.refresh()
        assert opened.context is not before
        assert opened.problem is None

    def test_what_has_not_changed_is_not_read(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = make(TLS)
        before = opened.context
        monkeypatch.setattr(files, "read", None)
        opened.refresh()
        assert opened.context is before

    def test_a_certificate_behind_a_changed_link_is_read(self, make: Make, tmp_path: Path) -> None:
        """As Kubernetes renews the files of a Secret: all links lead through one, which changes."""
        for name, cert in (("one", FIRST), ("two", SECOND)):
            (tmp_path / name).mkdir()
            pair(tmp_path / name, cert)
        (tmp_path / "data").symlink_to("one")
        opened = make(TLS.replace("server.", "data/server."))
        before = opened.context
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "data")
        opened.refresh()
        assert opened.context is not before

    def test_a_broken_file_keeps_the_last_good_one_and_says_why(self, make: Make, tmp_path: Path) -> None:
        opened = make(USERS)
        write(tmp_path / "web.yml", "basic_auth_user: {}\n")
        told = f"{tmp_path}/web.yml:1: basic_auth_user: there is no such key: did you mean basic_auth_users?"
        assert opened.refresh() == told == opened.problem
        assert set(opened.config.users) == {"ada", "grace"}

    def test_a_file_that_is_gone_keeps_the_last_good_one(self, make: Make, tmp_path: Path) -> None:
        opened = make(USERS)
        (tmp_path / "web.yml").unlink()
        assert "it cannot be read: No such file" in (opened.refresh() or "")
        assert opened.config.users

    def test_one_that_is_mended_is_in_use_and_the_problem_is_gone(self, make: Make, tmp_path: Path) -> None:
        opened = make("")
        write(tmp_path / "web.yml", "junk")
        opened.refresh()
        write(tmp_path / "web.yml", USERS)
        assert opened.refresh() is None
        assert opened.config.users

    def test_the_same_problem_is_told_once_in_the_log(
        self, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        opened = make(TLS)
        for _ in range(3):
            write(tmp_path / "web.yml", "junk")
            opened.refresh()
        assert [record.message for record in caplog.records] == [
            "web configuration cannot be used: the last good one stays"
        ]

    def test_a_half_renewed_pair_leaves_the_old_one_in_use_until_both_fit(self, make: Make, tmp_path: Path) -> None:
        opened = make(TLS)
        before = opened.context
        write(tmp_path / "server.crt", SECOND.cert_chain_pems[0].bytes().decode())
        assert "the certificate belongs to another key" in (opened.refresh() or "")
        assert opened.context is before
        write(tmp_path / "server.key", SECOND.private_key_pem.bytes().decode())
        assert opened.refresh() is None
        assert opened.context is not before

    def test_a_certificate_that_is_missing_at_the_change_is_found_when_it_comes(
        self, make: Make, tmp_path: Path
    ) -> None:
        opened = make("")
        write(tmp_path / "web.yml", TLS.replace("server.", "later."))
        assert "later.crt: it cannot be read" in (opened.refresh() or "")
        for name in ("crt", "key"):
            (tmp_path / f"server.{name}").rename(tmp_path / f"later.{name}")
        assert opened.refresh() is None
        assert opened.context is not None

    def test_what_was_written_without_a_trace_in_its_times_is_found_by_its_content(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = make(USERS)
        kept = {path: seen.signature for path, seen in opened._seen.items()}
        write(tmp_path / "web.yml", USERS.replace("ada:", "eve:"))
        monkeypatch.setattr(files, "signature", kept.get)
        opened.refresh()
        assert "eve" not in opened.config.users
        opened.look()
        assert "eve" in opened.config.users

    async def test_the_files_are_looked_at_also_where_nobody_asks(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gate, "LOOK_SECONDS", 0.01)
        opened = make("")
        watching = asyncio.create_task(opened.watch())
        write(tmp_path / "web.yml", USERS)

        async def read() -> bool:
            return bool(opened.config.users)

        await wait_until(read, 20)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    def test_at_the_start_a_broken_file_is_not_used(self, make: Make) -> None:
        with pytest.raises(WebConfigError, match="there is no such key"):
            make("junk: 1")

    def test_many_changes_leave_no_file_open(self, make: Make, tmp_path: Path) -> None:
        opened = make(TLS)
        before = len(os.listdir("/proc/self/fd"))
        for cert in (SECOND, FIRST) * 10:
            pair(tmp_path, cert)
            opened.refresh()
        assert len(os.listdir("/proc/self/fd")) == before

    def test_passwords_in_the_clear_and_a_limit_that_lets_nothing_through_are_warned_of(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        make(USERS + "rate_limit: {interval: 1s}")
        assert [record.message.split(":")[0] for record in caplog.records] == [
            "rate_limit lets no request through",
            "passwords are sent in the clear",
        ]
        caplog.clear()
        make(USERS + TLS)
        assert caplog.records == []

    def test_no_line_in_the_log_holds_a_secret(
        self, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        opened = make(USERS)
        write(tmp_path / "web.yml", USERS.replace(GRACE, "opensesame"))
        opened.refresh()
        told = "\n".join(f"{record.message} {record.__dict__.get('fields')}" for record in caplog.records)
        assert "basic_auth_users.grace: this is not a password hashed with bcrypt" in told
        assert "opensesame" not in told
        assert ADA not in told


class TestPasswords:
    async def test_without_users_nobody_is_asked(self, make: Make) -> None:
        assert await status(make(""), []) == 200

    @pytest.mark.parametrize(
        ("name", "password", "expected"),
        [
            ("ada", "ada42", 200),
            ("grace", "grace42", 200),
            ("ada", "grace42", 401),
            ("ada", "", 401),
            ("", "", 401),
            ("Ada", "ada42", 401),
            ("eve", "ada42", 401),
            ("eve", "grace42", 401),
            ("ada", ADA, 401),
        ],
    )
    async def test_a_user_is_let_in_by_the_right_password_alone(
        self, make: Make, name: str, password: str, expected: int
    ) -> None:
        opened = make(USERS, check=None)
        assert [await status(opened, basic(name, password)) for _ in range(2)] == [expected] * 2

    async def test_a_name_that_is_none_is_never_let_in_by_the_password_of_another(self, make: Make) -> None:
        """Whose hash is checked for it depends on its name: with so many, each hash has its turn."""
        opened = make(USERS)
        for number in range(20):
            for password in ("ada42", "grace42"):
                assert await status(opened, basic(f"eve{number}", password)) == 401
        assert await status(opened, basic("ada", "ada42")) == 200

    async def test_a_name_that_is_none_costs_as_much_as_one_that_is(self, make: Make, checks: Checks) -> None:
        opened = make(USERS)
        for number in range(20):
            await status(opened, basic(f"eve{number}", "guess"))
            await status(opened, basic(f"eve{number}", "another guess"))
        assert set(checks.hashes) == {ADA.encode(), GRACE.encode()}
        assert all(one == two for one, two in zip(checks.hashes[::2], checks.hashes[1::2], strict=True))

    async def test_no_two_questions_are_taken_for_one(self, make: Make) -> None:
        """CVE-2022-46146: a cache whose keys were parts strung together let strangers in."""
        opened = make(USERS)
        assert await status(opened, basic("ada", "ada42")) == 200
        for name, password in (("ad", "aada42"), ("ada" + ADA, "ada42"), ("ada", ADA + "ada42"), ("ada\0", "ada42")):
            assert await status(opened, basic(name, password)) == 401

    async def test_an_answer_is_kept_right_or_wrong(self, make: Make, checks: Checks) -> None:
        opened = make(USERS)
        for _ in range(3):
            assert await status(opened, basic("ada", "ada42")) == 200
            assert await status(opened, basic("ada", "guess")) == 401
        assert checks.seen == [b"ada42", b"guess"]

    async def test_a_changed_password_counts_from_the_next_question_on(self, make: Make, tmp_path: Path) -> None:
        opened = make(USERS)
        assert await status(opened, basic("ada", "ada42")) == 200
        write(tmp_path / "web.yml", USERS.replace(ADA, GRACE))
        assert await status(opened, basic("ada", "ada42")) == 401
        assert await status(opened, basic("ada", "grace42")) == 200

    async def test_a_removed_user_is_out_at_once(self, make: Make, tmp_path: Path) -> None:
        opened = make(USERS)
        assert await status(opened, basic("ada", "ada42")) == 200
        write(tmp_path / "web.yml", f"basic_auth_users: {{grace: {GRACE}}}")
        assert await status(opened, basic("ada", "ada42")) == 401

    async def test_nothing_that_is_kept_holds_a_password(self, make: Make) -> None:
        opened = make(USERS)
        await status(opened, basic("ada", "ada42"))
        await status(opened, basic("ada", "a guess"))
        kept = [*opened._passwords._right, *opened._passwords._wrong]
        assert [len(each) for each in kept] == [32, 32]

    async def test_what_is_kept_is_bounded(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(passwords, "MAX_WRONG", 3)
        opened = make(USERS)
        for number in range(10):
            await status(opened, basic("ada", str(number)))
        assert len(opened._passwords._wrong) == 3

    async def test_only_as_much_of_a_password_counts_as_bcrypt_knows(self, make: Make) -> None:
        hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
        opened = make(f"basic_auth_users: {{ada: {hashed}}}", check=None)
        assert await status(opened, basic("ada", "x" * 500)) == 200
        assert await status(opened, basic("ada", "x" * 71)) == 401

    @pytest.mark.parametrize("text", ["", "ada", "Basic", "Basic ????", "Bearer YTpi", "Basic YQ==", "Basic /w==:"])
    async def test_what_is_no_basic_authorization_is_answered_with_how(self, make: Make, text: str) -> None:
        refusal = await make(USERS).refusal(None, [text], "192.0.2.1")
        assert refusal is not None
        assert (refusal.status, refusal.headers["WWW-Authenticate"]) == (401, 'Basic realm="Forewarn", charset="UTF-8"')

    async def test_two_authorizations_are_none(self, make: Make) -> None:
        assert await status(make(USERS), basic("ada", "ada42") * 2) == 401

    def test_a_password_may_hold_colons_and_any_bytes(self) -> None:
        assert credentials("bAsIc  " + base64.b64encode(b"ada:a:\xff\0").decode()) == ("ada", b"a:\xff\0")
        assert credentials("Basic " + base64.b64encode(b"\xff:x").decode()) is None

    async def test_a_password_that_bcrypt_refuses_is_wrong(self, make: Make) -> None:
        assert await status(make(USERS, check=None), basic("ada", "ada\x0042")) == 401


class TestGuessing:
    async def test_who_was_let_in_before_does_not_wait_for_a_hundred_who_guess(
        self, make: Make, checks: Checks
    ) -> None:
        opened = make(USERS)
        assert await status(opened, basic("ada", "ada42")) == 200
        checks.go_on.clear()
        guesses = [asyncio.create_task(status(opened, basic("ada", f"guess {n}"), f"192.0.2.{n}")) for n in range(100)]

        async def waiting() -> bool:
            return opened.waiting == passwords.MAX_WAITING

        await wait_until(waiting, 20)
        assert await status(opened, basic("ada", "ada42")) == 200
        assert opened.waiting == passwords.MAX_WAITING
        checks.go_on.set()
        answers = await asyncio.gather(*guesses)
        assert answers.count(401) == passwords.MAX_WAITING
        assert answers.count(503) == 100 - passwords.MAX_WAITING

    async def test_one_address_leaves_room_for_others(self, make: Make, checks: Checks) -> None:
        opened = make(USERS)
        checks.go_on.clear()
        guesses = [asyncio.create_task(status(opened, basic("ada", f"guess {n}"))) for n in range(100)]
        right = asyncio.create_task(status(opened, basic("ada", "ada42"), "198.51.100.9"))

        async def waiting() -> bool:
            return opened.waiting == passwords.MAX_FROM_ONE + 1

        await wait_until(waiting, 20)
        checks.go_on.set()
        assert await right == 200
        answers = await asyncio.gather(*guesses)
        assert (answers.count(401), answers.count(503)) == (passwords.MAX_FROM_ONE, 100 - passwords.MAX_FROM_ONE)
        assert not opened._passwords._waiting

    async def test_a_refusal_for_want_of_room_says_when_to_come_again(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(passwords, "MAX_WAITING", 0)
        refusal = await make(USERS).refusal(None, basic("ada", "ada42"), "192.0.2.1")
        assert refusal is not None
        assert (refusal.status, dict(refusal.headers)) == (503, {"Retry-After": "5"})

    async def test_the_same_guess_many_times_at_once_is_checked_once(self, make: Make, checks: Checks) -> None:
        opened = make(USERS)
        answers = await asyncio.gather(*(status(opened, basic("ada", "guess")) for _ in range(100)))
        assert (set(answers), checks.seen) == ({401}, [b"guess"])

    async def test_a_check_that_takes_too_long_is_not_waited_for_and_counts_all_the_same(
        self, make: Make, checks: Checks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gate, "CHECK_SECONDS", 0.05)
        opened = make(USERS)
        checks.go_on.clear()
        assert await status(opened, basic("ada", "ada42")) == 503
        checks.go_on.set()

        async def done() -> bool:
            return opened.waiting == 0

        await wait_until(done, 20)
        assert await status(opened, basic("ada", "ada42")) == 200
        assert checks.seen == [b"ada42"]

    async def test_checks_run_one_by_one_in_a_thread_of_their_own_that_stands_back(self, make: Make) -> None:
        ran: list[tuple[str, int]] = []

        def check(_password: bytes, _hashed: bytes) -> bool:
            ran.append((threading.current_thread().name, os.nice(0)))
            return False

        here = os.nice(0)
        opened = make(USERS, check=check)
        await asyncio.gather(*(status(opened, basic("ada", str(n))) for n in range(5)))
        assert ran == [("passwords_0", min(19, here + passwords.NICE))] * 5
        assert os.nice(0) == here

    async def test_closing_leaves_no_thread(self, make: Make) -> None:
        opened = make(USERS)
        await status(opened, basic("ada", "ada42"))
        (thread,) = opened._passwords._worker._threads
        opened.close()
        thread.join(20)
        assert not thread.is_alive()

    async def test_a_check_that_fails_is_tried_again(self, make: Make) -> None:
        answers = iter([MemoryError(), True])

        def check(_password: bytes, _hashed: bytes) -> bool:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return bool(answer)

        asked = Passwords(check)
        users = make(USERS).config.users
        with pytest.raises(MemoryError):
            await asked.fit(users, "ada", b"ada42", "")
        assert await asked.fit(users, "ada", b"ada42", "")
        asked.close()


class TestRateLimit:
    def test_a_burst_passes_and_then_one_at_each_interval(self) -> None:
        bucket = Bucket(RateLimit(10.0, 3), 0.0)
        taken = [bucket.take(at) for at in (0.0, 0.0, 0.0, 0.0, 9.9, 10.0, 10.1, 20.0)]
        assert taken == [True, True, True, False, False, True, False, True]

    def test_no_more_than_a_burst_is_saved_up(self) -> None:
        bucket = Bucket(RateLimit(1.0, 2), 0.0)
        assert [bucket.take(at) for at in (1e6, 1e6, 1e6)] == [True, True, False]

    def test_without_a_burst_nothing_passes(self) -> None:
        bucket = Bucket(RateLimit(1.0, 0), 0.0)
        assert [bucket.take(at) for at in (0.0, 1e6)] == [False, False]

    async def test_a_request_beyond_it_is_told_when_to_come_again(self, make: Make) -> None:
        clock = Clock()
        opened = make("rate_limit: {interval: 90s, burst: 1}", clock=clock)
        assert await status(opened, []) == 200
        refusal = await opened.refusal(None, [], "192.0.2.1")
        assert refusal is not None
        assert (refusal.status, dict(refusal.headers)) == (429, {"Retry-After": "90"})
        clock.now += 90
        assert await status(opened, []) == 200

    async def test_it_counts_before_passwords(self, make: Make, checks: Checks) -> None:
        opened = make(USERS + "rate_limit: {interval: 90s, burst: 1}", clock=Clock())
        assert [await status(opened, basic("ada", guess)) for guess in ("1", "2")] == [401, 429]
        assert checks.seen == [b"1"]

    async def test_reading_again_what_has_not_changed_fills_nothing_up(self, make: Make, tmp_path: Path) -> None:
        text = "rate_limit: {interval: 90s, burst: 1}"
        opened = make(text, clock=Clock())
        assert await status(opened, []) == 200
        write(tmp_path / "web.yml", text + "\n")
        assert await status(opened, []) == 429
        write(tmp_path / "web.yml", "")
        assert await status(opened, []) == 200


def test_a_sidecar_without_a_web_configuration_takes_no_memory_for_it() -> None:
    code = (
        "import sys, exporter.web.server; print([it for it in ('yaml', 'bcrypt', 'exporter.web.gate', 'markupsafe')"
        " if it in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
