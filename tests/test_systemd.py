"""The units for systemd: held against systemd's own judgement, and what they take from Forewarn taken from it.

No systemd runs where the tests do, so the units are never started by one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

from tests.forewarn import Forewarn
from tests.image import SEPARATE
from tests.programs import lacking, need
from tests.servers import WatchedServer, wait_until

ROOT: Final = Path(__file__).parent.parent
UNITS: Final = ROOT / "deploy" / "systemd"
PROGRAM: Final = "/opt/forewarn/bin/forewarn"

FAKTORY_UNIT: Final = """\
[Unit]
Description=Stands for the one of Faktory's package
[Service]
ExecStart=/bin/false
Restart=on-failure
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of units as an operator has it, with programs that are there."""
    need("systemd-analyze", "systemd")
    stub = tmp_path / "stub"
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    (tmp_path / "faktory.service").write_text(FAKTORY_UNIT)
    for name in ("forewarn.service", "faktory.service.d/forewarn.conf"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text((UNITS / name).read_text().replace(PROGRAM, str(stub)))
    return tmp_path


def verify(unit: Path) -> tuple[int, str]:
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, cwd=unit.parent
    )
    return ended.returncode, ended.stdout + ended.stderr


def exposure(unit: Path) -> float:
    """From 0, safe, to 10, unsafe, as `systemd-analyze security` tells it."""
    ended = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ended.stdout)
    assert told, ended.stdout + ended.stderr
    return float(told[1])


@pytest.mark.parametrize("name", ["forewarn.service", "faktory.service"])
def test_systemd_finds_nothing_wrong_with_the_unit(installed: Path, name: str) -> None:
    assert verify(installed / name) == (0, "")


@pytest.mark.parametrize("wrong", ["KillMode=mixture", "KilMode=mixed", "ExecStart=/there/is/none"])
def test_systemd_finds_what_is_wrong(installed: Path, wrong: str) -> None:
    dropin = installed / "faktory.service.d" / "forewarn.conf"
    dropin.write_text(dropin.read_text() + wrong + "\n")
    assert verify(installed / "faktory.service") != (0, "")


@pytest.mark.parametrize("user", ["root", "faktory"])
def test_the_unit_is_as_hardened_as_the_documentation_tells(installed: Path, user: str) -> None:
    unit = installed / "forewarn.service"
    text = unit.read_text()
    assert "\nUser=root\n" in text
    unit.write_text(text.replace("User=root", f"User={user}"))
    told = exposure(unit)
    assert told < 2.5
    assert f"exposure of {told}" in (ROOT / "docs" / "deploy.md").read_text()


def test_a_unit_without_all_that_is_exposed(installed: Path) -> None:
    assert exposure(installed / "faktory.service") > 9


def test_the_unit_is_reloaded_by_hangup_and_may_ask_the_kernel_for_sockets() -> None:
    text = (UNITS / "forewarn.service").read_text()
    assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in text
    assert "\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n" in text


def test_the_command_of_each_unit_is_understood() -> None:
    from exporter.flags import TABLE

    known = {f"--{flag.name}" for flag in TABLE}
    for name in ("forewarn.service", "faktory.service.d/forewarn.conf"):
        (line,) = re.findall(rf"^ExecStart={PROGRAM} (?:run|exec) (.*)$", (UNITS / name).read_text(), re.MULTILINE)
        flags = re.findall(r"--[a-z][\w.-]+", line.partition(" -- ")[0])
        assert flags
        assert set(flags) <= known


FLUSHED: Final = "Flushing dataset"
"""What every version prints where its data are thrown away: only known from its log."""


def capabilities(pid: int) -> int:
    """Those that a process can use."""
    (found,) = re.findall(r"^CapEff:\t([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found, 16)


SHUT_IN: Final = textwrap.dedent("""
    import ctypes, os, sys
    PR_SET_MDWE = 65
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_MDWE, 1, 0, 0, 0) != 0 and ctypes.get_errno() != 22:
        sys.exit("no memory may be denied")
    powerless = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    os.execvp(powerless[0], [*powerless, *sys.argv[1:]])
""")
"""What the unit's MemoryDenyWriteExecute (where the kernel has it), NoNewPrivileges and CapabilityBoundingSet do."""


async def test_forewarn_sees_everything_as_a_root_without_power_on_a_disk_that_it_cannot_write_to(
    unstarted: WatchedServer, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        lacking("mounts of its own are made as root")
    need("setpriv", "util-linux")
    (unstarted.config_dir / "conf.d" / "throttles.toml").write_text("[throttles]\nmail = { concurrency = 3 }\n")
    await unstarted.start()
    state = tmp_path / "state"
    state.mkdir()
    forewarn = Forewarn(
        unstarted, state_file=state / "state.json", arguments=[f"--faktory.log-file={unstarted.log_file}"]
    )
    forewarn.command = [
        *(*SEPARATE[:2], "sh", "-euc"),
        'mount --bind "$0" "$0"; mount -o remount,bind,ro /; exec "$@"',
        *(str(state), sys.executable, "-c", SHUT_IN, *forewarn.command),
    ]
    async with forewarn:

        async def heard() -> bool:
            # Again each time: what stood there before Forewarn's first look is history, of which it tells nothing.
            with unstarted.log_file.open("a") as log:
                log.write(f"W 2026-11-22T00:00:00.000Z {FLUSHED}\n")
            return (await forewarn.metric("faktory_log_events_total", event="flushed") or 0) > 0

        await wait_until(heard, every=0.5, what="a line of the log is told")
        scrape = await forewarn.scrape()
        assert scrape.value("faktory_up") == 1
        assert scrape.value("faktory_throttle_limit", queue="mail", scope="cluster") == 3
        assert scrape.value("faktory_sockets", state="established") is not None
        assert scrape.value("forewarn_collector_up", collector="redis") == 1
        assert capabilities(forewarn.pid) == 0
        assert (await forewarn.stop())[0] == 0
    assert (state / "state.json").exists()
