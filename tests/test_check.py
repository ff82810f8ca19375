"""What ``forewarn check`` makes of what it finds: texts without secrets, the table, the progress, its own files."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from exporter import systems
from exporter.check import command, holders
from exporter.check.access import Obstacle, let_read, obstacle, run_as_owner
from exporter.check.finding import BESIDE, Finding, Report, State, remedy
from exporter.check.own import check_own
from exporter.check.places import Places
from exporter.check.ports import taken, unix_taken
from exporter.check.progress import Progress, line
from exporter.check.table import write_table
from exporter.check.web_config import look
from exporter.secret import Secret
from exporter.settings import Settings, load
from exporter.web.address import Address
from tests.servers import free_port

FLAGS = {"faktory.url": "tcp://127.0.0.1:7419"}


# --- findings -------------------------------------------------------------------------------------------------------


@given(
    secret=st.text(min_size=4, max_size=40),
    before=st.text(max_size=30),
    after=st.text(max_size=30),
    state=st.sampled_from(["warning", "failed", "off"]),
)
def test_a_secret_that_somebody_says_is_blotted_out(secret: str, before: str, after: str, state: str) -> None:
    found: list[Finding] = []
    report = Report("main", found.append, secrets=[Secret(secret)])
    text = f"{before}{secret}{after}"
    getattr(report, state)("redis", text, remedy(text, text))
    if secret.strip("* \n"):  # one of stars alone is what it is blotted out with
        assert secret not in found[0].what.replace("***", "")
        assert secret not in str(found[0].remedy).replace("***", "")


def test_what_others_say_is_printable_and_bounded() -> None:
    found: list[Finding] = []
    Report("main", found.append).failed("redis", "a\x1b[31mb\r\nc" + "x" * 5000, remedy("do", "this\x07"))
    assert found[0].what.startswith("a [31mb  cxxx")
    assert len(found[0].what) == 1000
    assert found[0].remedy == "do\n    this "


def test_what_forewarn_does_without_is_never_needed() -> None:
    found: list[Finding] = []
    report = Report(None, found.append)
    for part in (*sorted(BESIDE), "redis"):
        report.ok(part, "well")
        report.warning(part, "hm", remedy("look", "here"))
    report.off("redis", "not named")
    assert [it.needed for it in found] == [False] * 2 * len(BESIDE) + [True, True, False]


def test_only_a_needed_part_that_failed_fails_the_check() -> None:
    def finding(state: State, *, needed: bool) -> Finding:
        return Finding(server=None, part="redis", state=state, needed=needed, what="", remedy=None)

    assert command.all_needed_works([finding(State.WARNING, needed=True), finding(State.FAILED, needed=False)])
    assert not command.all_needed_works([finding(State.OK, needed=True), finding(State.FAILED, needed=True)])


# --- the command ----------------------------------------------------------------------------------------------------


async def test_a_defect_in_one_trial_does_not_keep_the_others_from_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("sesame")

    monkeypatch.setattr(systems, "check", broken)
    settings = load(FLAGS | {"web.listen-address": f"127.0.0.1:{free_port()}"}, {})
    found = await command.check(settings, Places(FLAGS, {}))
    first, *others = found
    assert (first.server, first.part, first.state, first.needed) == ("faktory", "check", State.FAILED, True)
    assert "KeyError in broken" in first.what
    assert "sesame" not in repr(found)
    assert {it.part for it in others} >= {"settings", "web address"}


async def test_a_trial_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(systems, "check", hanging)
    monkeypatch.setattr(command, "DEADLINE", 0.2)
    settings = load(FLAGS | {"web.listen-address": f"127.0.0.1:{free_port()}"}, {})
    found = await command.check(settings, Places(FLAGS, {}))
    assert "not everything was tried" in next(it for it in found if it.server == "faktory").what


def test_wrong_settings_are_told_as_run_tells_them() -> None:
    out, err = io.StringIO(), io.StringIO()
    status = command.main({"interval": "soon"}, {"FAKTORY_URL": "http://:sesame@here"}, out, err, as_json=True)
    assert (status, out.getvalue()) == (2, "")
    assert "forewarn: --interval: 'soon' is not a duration" in err.getvalue()
    assert "write tcp://:password@host:7419" in err.getvalue()
    assert "sesame" not in err.getvalue()


def test_nothing_configured_is_told_as_run_tells_it() -> None:
    err = io.StringIO()
    assert command.main({}, {}, io.StringIO(), err, as_json=False) == 2
    assert err.getvalue().startswith("forewarn: nothing to watch is configured: set --faktory.url")


# --- the table ------------------------------------------------------------------------------------------------------

LONG = "--faktory.redis-url unix:///var/lib/somewhere/very/far/away/in/a/deep/folder/of/faktory/db/redis.sock"


def table(*findings: Finding, width: int = 80, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    write_table(findings, _settings(), out, seconds=1.25)
    return out.getvalue()


def _settings() -> Settings:
    return load(FLAGS, {})


def test_the_table_on_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    findings: list[Finding] = []
    server, own = Report("faktory", findings.append), Report(None, findings.append)
    server.ok("command port", "127.0.0.1:7419 lets us in, with the password, and answers in 0.5 ms")
    server.warning("limit", "how many is not known", remedy("write how many it allows:", "--limit N"))
    server.failed("redis", "it is [red]not[/red] there", remedy("name its socket:", LONG))
    own.off("state file", "not kept", remedy("to keep it:", "--state-file /x"))
    assert table(*findings, monkeypatch=monkeypatch).splitlines() == [
        "faktory",
        " ok    command port   127.0.0.1:7419 lets us in, with the password, and answers",
        "                      in 0.5 ms",
        " warn  limit          how many is not known",
        "                    > write how many it allows:",
        "                      --limit N",
        " FAIL  redis          it is [red]not[/red] there",
        "                    > name its socket:",
        f"        {LONG}",
        "",
        "this Forewarn",
        " off   state file     not kept",
        "",
        "1 failed, 1 warning, 1 ok in 1.2 s",
    ]


def test_the_table_is_no_wider_than_it_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    findings: list[Finding] = []
    Report("faktory", findings.append).ok("redis", "word " * 100)
    assert max(map(len, table(*findings, width=300, monkeypatch=monkeypatch).splitlines())) <= 110


def test_every_part_that_is_told_has_its_place_in_the_order() -> None:
    source = "".join(
        it.read_text() for folder in ("check", "faktory") for it in Path(f"exporter/{folder}").glob("*check*.py")
    )
    source += "".join(it.read_text() for it in Path("exporter/check").glob("*.py"))
    parts = {part.split('"')[1] for part in source.splitlines() if ': Final = "' in part and part[0].isupper()}
    named = {it for it in parts if it in command.ORDER}
    assert len(named) > 15, "the parts were not found"
    assert set(command.ORDER) >= BESIDE
    assert max(map(len, command.ORDER)) <= 13, "longer than its column"


def test_what_is_waited_for_is_told_briefly() -> None:
    assert line([]) == "trying"
    assert line([("eu", "redis"), (None, "web address")]) == "trying eu: redis, web address"
    assert line([("eu", str(n)) for n in range(5)]) == "trying eu: 0, eu: 1, eu: 2 and 2 more"


def test_what_is_waited_for_is_told_to_terminals_alone() -> None:
    err = io.StringIO()
    with Progress(err) as progress:
        progress.trying("eu", "redis", begins=True)
        progress.trying("eu", "redis", begins=False)
    assert err.getvalue() == ""


# --- files and users ------------------------------------------------------------------------------------------------


def _stands(mode: int, *, owner: int = 0, group: int = 0, on_the_way: bool = False) -> Obstacle:
    return Obstacle(Path("/var/log/f.log"), owner, group, mode, on_the_way)


def test_a_file_that_its_group_may_read_wants_us_in_the_group() -> None:
    told = let_read(_stands(0o640, group=4), Path("/var/log/f.log"))
    assert f"usermod -aG {holders_group(4)} " in told


def holders_group(gid: int) -> str:
    import grp

    return grp.getgrgid(gid).gr_name


@pytest.mark.parametrize("stands", [_stands(0o600, group=4), _stands(0o640, group=0), _stands(0o640, group=987654)])
def test_a_file_that_no_group_of_ours_may_read_wants_a_right_of_its_own(stands: Obstacle) -> None:
    told = let_read(stands, Path("/var/log/f.log"))
    assert told.splitlines()[-1].startswith("    setfacl -m u:")
    assert told.endswith(":rX /var/log/f.log")


def test_a_user_without_a_name_is_told_by_number() -> None:
    told = run_as_owner(_stands(0o700, owner=987654, group=987655), "So it is.")
    assert "runAsUser: 987654" in told
    assert told.endswith("\n    setpriv --reuid=987654 --regid=987655 --clear-groups forewarn run")
    assert "belongs to 987654:987655 with mode 0700" in _stands(0o700, owner=987654, group=987655).told


def test_what_is_not_there_is_no_obstacle(tmp_path: Path) -> None:
    assert obstacle(tmp_path, os.R_OK) is None
    with pytest.raises(FileNotFoundError):
        obstacle(tmp_path / "nothing", os.R_OK)


# --- ports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", None])
def test_a_port_that_is_listened_on_is_told_with_who_does(host: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        why = taken(Address(host, port), socket.SOCK_STREAM)
        assert why is not None
        assert why.in_use
        assert f"(process {os.getpid()})" in why.why
        assert taken(Address(host, port), socket.SOCK_DGRAM) is None
    assert taken(Address("127.0.0.1", port), socket.SOCK_STREAM) is None


def test_an_address_of_another_machine_and_a_name_without_one() -> None:
    elsewhere = taken(Address("192.0.2.1", 9386), socket.SOCK_STREAM)
    assert elsewhere is not None
    assert "no address 192.0.2.1" in elsewhere.why
    unknown = taken(Address("nowhere.invalid", 9386), socket.SOCK_STREAM)
    assert unknown is not None
    assert not unknown.in_use


def test_the_path_of_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert unix_taken(path) is None
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    why = unix_taken(path)
    assert why is not None
    assert f"(process {os.getpid()}) listens there already" in why.why
    made.close()
    assert unix_taken(path) is None, "what was left behind is replaced"
    path.unlink()
    path.write_text("")
    why = unix_taken(path)
    assert why is not None
    assert "no socket" in why.why
    why = unix_taken(tmp_path / "none" / "s")
    assert why is not None
    assert why.how is not None
    assert "mkdir -p" in why.how


def test_a_process_that_is_not_there() -> None:
    assert holders.process(2**30) is None
    assert holders.of_port("tcp", free_port()) is None
    assert holders.of_path(Path("/nowhere")) is None


# --- the sidecar's own ----------------------------------------------------------------------------------------------


async def own(flags: dict[str, str], wall: Callable[[], float] = time.time) -> dict[str, Finding]:
    given = {**FLAGS, "web.listen-address": f"127.0.0.1:{free_port()}", **flags}
    found: list[Finding] = []
    await check_own(load(given, {}), Report(None, found.append), Places(given, {}), wall=wall)
    return {it.part: it for it in found}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"version": 1, "servers": {}}', None),
        ('{"version": 2, "servers": {}}', "has version 2"),
        ('{"version": 1, "servers": {"a": 7}}', "is broken"),
        ("\xff\x00", "is broken"),
        ("", "is broken"),
    ],
)
async def test_the_content_of_a_state_file(tmp_path: Path, content: str, told: str | None) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(content.encode("latin-1"))
    found = (await own({"state-file": str(file)}))["state file"]
    assert found.state is (State.OK if told is None else State.WARNING)
    assert (told or "can be used") in found.what
    assert os.listdir(tmp_path) == ["state.json"], "a check changes nothing"


async def test_a_state_file_that_is_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in (await own({"state-file": str(tmp_path)}))["state file"].what


async def test_no_room_for_the_state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os,
        "statvfs",
        lambda _: os.statvfs_result((4096, 4096, 9, 9, 256, 9, 9, 9, 0, 255)),  # 1 MiB is free
    )
    found = (await own({"state-file": str(tmp_path / "state.json")}))["state file"]
    assert (found.state, found.what.partition(" are")[0]) == (State.WARNING, "only 1.0 MiB")


def certified(folder: Path, days: float) -> Path:
    """Write a web configuration with a certificate that is good for some days from now."""
    issued = trustme.CA().issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days=days))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "cert.pem").write_bytes(b"".join(it.bytes() for it in issued.cert_chain_pems))
    file = folder / "web.yml"
    file.write_text("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n")
    return file


def test_a_certificate_that_is_good_for_long(tmp_path: Path) -> None:
    seen = look(certified(tmp_path, 200), time.time())
    day = (datetime.now(UTC) + timedelta(days=200)).date()
    assert seen.problems == ()
    assert seen.expiring is None
    assert f"certificate good until {day}" in seen.told or f"good until {day - timedelta(days=1)}" in seen.told


def test_a_certificate_that_soon_ends_or_has_ended(tmp_path: Path) -> None:
    soon = look(certified(tmp_path, 5), time.time())
    assert soon.expiring == str(tmp_path / "cert.pem")
    assert "only" in soon.told
    assert "not valid now" in look(tmp_path / "web.yml", time.time() + 6 * 86400).told


def test_one_that_asks_clients_for_certificates_is_read_too(tmp_path: Path) -> None:
    file = certified(tmp_path, 5)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    more = "  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
    file.write_text(file.read_text() + more)
    assert look(file, time.time()).expiring == str(tmp_path / "cert.pem")


async def test_a_broken_web_configuration_is_told_with_its_line_and_mended(tmp_path: Path) -> None:
    file = certified(tmp_path, 200)
    right = file.read_text()
    file.write_text(right.replace("cert_file", "certfile"))
    found = await own({"web.config.file": str(file)})
    assert found["web config"].state is State.FAILED
    assert str(file) in found["web config"].what
    assert f" {file}" in str(found["web config"].remedy)
    file.write_text(right)
    assert (await own({"web.config.file": str(file)}))["web config"].state is State.OK


async def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    file = certified(tmp_path, 200)
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    assert (await own({"web.config.file": str(file)}))["web config"].state is State.FAILED


async def test_a_collector_that_wants_a_token_never_shows_ours(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        told = head.split(b"authorization: ")[1].split(b"\r\n")[0]
        writer.write(b"HTTP/1.1 401 no\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(told) + told)
        await writer.drain()
        writer.close()

    (tmp_path / "headers").write_text("authorization: Bearer sesame-token")
    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        endpoint = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        found = await own({"otlp.endpoint": endpoint, "otlp.headers-file": str(tmp_path / "headers")})
    assert found["otlp traces"].state is State.FAILED
    assert "--otlp.headers-file /path/to/otlp-headers" in str(found["otlp traces"].remedy)
    assert "sesame" not in repr(found)


async def test_a_redis_that_repeats_the_password_is_not_believed_to_be_discreet() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = (await reader.read(4096)).split(b"\r\n")
        writer.write(b"-ERR you said " + b" ".join(told) + b"\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        given = {
            **FLAGS,
            "faktory.redis-url": f"redis://:sesame-pass@127.0.0.1:{listener.sockets[0].getsockname()[1]}/0",
            "web.listen-address": f"127.0.0.1:{free_port()}",
        }
        found = await command.check(load(given, {}), Places(given, {}))
    redis = next(it for it in found if it.part == "redis")
    assert redis.state is State.FAILED
    assert "sesame" not in repr(found)
