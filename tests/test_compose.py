"""deploy/compose.yaml: held against Compose's own loader, and its wiring played with the real programs on one machine.

No container engine runs where the tests do: what Compose makes of the file is known, not what Docker makes of that.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from exporter.settings import load
from tests.alertmanager import RECEIVERS, Alertmanager, shipped
from tests.collector import PROGRAM as COLLECTOR
from tests.collector import need_collector
from tests.forewarn import Forewarn
from tests.kubernetes import tool
from tests.programs import need
from tests.prometheus import Prometheus
from tests.servers import WatchedServer, wait_until
from tests.supervised import until

ROOT: Final = Path(__file__).parent.parent
FILE: Final = ROOT / "deploy" / "compose.yaml"
PROMETHEUS: Final = ROOT / "deploy" / "prometheus.yml"
BESIDE: Final = ("faktory", "forewarn", "log")


def compose(file: Path) -> subprocess.CompletedProcess[str]:
    """Load a file as `docker compose config` does, with nothing set."""
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    return subprocess.run(
        [tool("schemas"), "compose", file], capture_output=True, text=True, env=environment, timeout=60
    )


@functools.cache
def project() -> dict[str, Any]:
    """What Compose understands."""
    ended = compose(FILE)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = project()["services"]
    return found


def mounts(service: str) -> dict[str, tuple[str, bool]]:
    """What a service has mounted by its path: from where, and whether it may write."""
    return {
        it["target"]: (it["source"], not it.get("read_only", False))
        for it in services()[service].get("volumes", [])
        if it["type"] in {"bind", "volume"}
    }


def test_compose_understands_the_file() -> None:
    assert services().keys() == {"pod", *BESIDE, "prometheus", "alertmanager", "grafana"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("healthcheck:", "healtcheck:"), ("cap_drop: [ALL]", "cap_drop: ALL"), ("service:pod", "service:pot")],
)
def test_compose_does_not_understand_what_is_wrong(right: str, wrong: str, tmp_path: Path) -> None:
    text = FILE.read_text()
    assert right in text
    file = tmp_path / "compose.yaml"
    file.write_text(text.replace(right, wrong))
    assert compose(file).returncode == 1


def test_every_file_that_is_mounted_exists() -> None:
    files = {
        Path(it["source"])
        for service in services().values()
        for it in service.get("volumes", [])
        if it["type"] == "bind"
    }
    assert len(files) > 10
    assert {path for path in files if not path.exists()} == set()


def test_every_volume_that_is_mounted_is_declared() -> None:
    named = {
        it["source"] for service in services().values() for it in service.get("volumes", []) if it["type"] == "volume"
    }
    assert named == project()["volumes"].keys()


def test_nothing_is_published_but_to_this_machine() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 6
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


@pytest.mark.parametrize("service", ["pod", *BESIDE, "prometheus", "alertmanager", "grafana"])
def test_each_service_is_bounded_and_has_no_power(service: str) -> None:
    set_up = services()[service]
    assert set_up["read_only"] is True
    assert set_up["cap_drop"] == ["ALL"]
    assert set_up["security_opt"] == ["no-new-privileges:true"]
    assert int(set_up["deploy"]["resources"]["limits"]["memory"]) <= 2**30
    assert set_up["logging"]["options"].keys() == {"max-size", "max-file"}


@pytest.mark.parametrize("service", ["faktory", "prometheus", "alertmanager", "grafana"])
def test_each_server_is_asked_whether_it_lives(service: str) -> None:
    assert services()[service]["healthcheck"]["test"][0] == "CMD"


def test_forewarns_own_image_asks_whether_it_lives() -> None:
    assert "healthcheck" not in services()["forewarn"]
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_no_password_is_in_the_file() -> None:
    given = {
        name: value
        for service in services().values()
        for name, value in (service.get("environment") or {}).items()
        if "PASSWORD" in name
    }
    assert given == {
        "FAKTORY_PASSWORD": "/run/secrets/faktory/password",
        "GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/grafana-password",
    }
    assert {it["target"] for it in services()["faktory"]["secrets"]} == {"/run/secrets/faktory/password"}
    assert {it["source"] for it in services()["grafana"]["secrets"]} == {"grafana-password"}


@pytest.mark.parametrize("what", ["network_mode", "pid", "user"])
def test_faktory_and_those_beside_it_share_what_a_pod_shares(what: str) -> None:
    assert len({services()[name][what] for name in BESIDE}) == 1


@pytest.mark.parametrize("path", ["/var/lib/faktory", "/var/log/faktory", "/etc/faktory/conf.d"])
def test_forewarn_reads_what_faktory_has_and_cannot_change_it(path: str) -> None:
    assert mounts("forewarn")[path] == (mounts("faktory")[path][0], False)


def test_forewarn_reads_faktorys_password() -> None:
    assert services()["forewarn"]["secrets"] == services()["faktory"]["secrets"]


def test_forewarns_file_names_what_is_mounted(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "faktory" / "forewarn.toml").read_text()
    assert mounts("forewarn")["/etc/forewarn/forewarn.toml"][0] == str(ROOT / "deploy" / "faktory" / "forewarn.toml")
    password = tmp_path / "password"
    password.write_text("secret\n")
    file = tmp_path / "forewarn.toml"
    file.write_text(text.replace("/run/secrets/faktory/password", str(password)))
    (server,) = load({"config": str(file)}, {}).servers
    assert server.redis_url is not None
    assert server.redis_url.reveal() == "unix:///var/lib/faktory/db/redis.sock"
    assert server.config_dir == Path("/etc/faktory")
    assert server.log is not None
    assert server.log.files[0] in services()["faktory"]["entrypoint"][-1]
    assert server.log.files[0] == services()["log"]["entrypoint"][-1]


def test_grafana_is_provisioned_with_every_dashboard_and_the_prometheus_of_the_file() -> None:
    (provider,) = yaml.safe_load((ROOT / "dashboards/provisioning/dashboards/forewarn.yml").read_text())["providers"]
    (source,) = yaml.safe_load((ROOT / "dashboards/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    folder = provider["options"]["path"]
    found = {Path(source) for target, (source, _) in mounts("grafana").items() if target.startswith(folder + "/")}
    assert found == set((ROOT / "dashboards").glob("*.json"))
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == yaml.safe_load(PROMETHEUS.read_text())["global"]["scrape_interval"]


def test_prometheus_asks_who_is_there() -> None:
    configuration = yaml.safe_load(PROMETHEUS.read_text())
    asked = {
        target
        for job in (*configuration["scrape_configs"], *configuration["alerting"]["alertmanagers"])
        for it in job["static_configs"]
        for target in it["targets"]
    }
    aliases = services()["pod"]["networks"]["default"]["aliases"]
    ports = {port["target"] for port in services()["pod"]["ports"]}
    assert {target.partition(":")[0] for target in asked} <= services().keys() | {*aliases, "localhost"}
    assert ("forewarn" in aliases, 9386 in ports) == (True, True)
    assert "forewarn:9386" in asked


def adapted(targets: dict[str, str], rules: Path = ROOT / "alerts" / "faktory.yml") -> str:
    """deploy/prometheus.yml with the rules of this repository, and other addresses for its targets."""
    text = PROMETHEUS.read_text().replace("/etc/prometheus/rules/*.yml", str(rules))
    for name, address in targets.items():
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', f'"{address}"')
    return text


def test_prometheus_finds_nothing_wrong_with_its_file(tmp_path: Path) -> None:
    need("promtool", "prometheus")
    file = tmp_path / "prometheus.yml"
    file.write_text(adapted({}))
    ended = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "SUCCESS" in ended.stdout


def test_the_collector_finds_nothing_wrong_with_its_file() -> None:
    need_collector()
    file = ROOT / "deploy" / "otel-collector.yaml"
    ended = subprocess.run([COLLECTOR, "validate", f"--config=file:{file}"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


class Wired(Prometheus):
    """Prometheus with the file of deploy/, but other addresses, and asking and evaluating more often."""

    def __init__(self, forewarn: Forewarn, alertmanager: Alertmanager) -> None:
        super().__init__(alertmanager=alertmanager.address)
        told = f"127.0.0.1:{alertmanager.port}"
        targets = {
            "forewarn:9386": f"127.0.0.1:{forewarn.port}",
            "alertmanager:9093": told,
            "localhost:9090": f"127.0.0.1:{self.port}",
        }
        rules = self.folder / "rules.yml"
        shipped_rules = (ROOT / "alerts" / "faktory.yml").read_text()
        rules.write_text(re.sub(r"(?m)^( +interval: )\S+$", r"\g<1>2s", shipped_rules))
        text = adapted(targets, rules).replace("scrape_interval: 15s", "scrape_interval: 1s")
        (self.folder / "prometheus.yml").write_text(text)

    async def up(self) -> dict[str, float]:
        """Which jobs are scraped."""
        return {it.labels["job"]: it.value for it in await self.query("up")}


async def test_the_same_wiring_works_with_the_real_programs(server: WatchedServer) -> None:
    assert RECEIVERS in (ROOT / "alerts" / "alertmanager.yml").read_text()
    async with (
        Forewarn(server) as forewarn,
        Alertmanager(shipped("http://127.0.0.1:9")) as alertmanager,
        Wired(forewarn, alertmanager) as prometheus,
    ):

        async def all_up() -> bool:
            return await prometheus.up() == {"forewarn": 1, "prometheus": 1, "alertmanager": 1}

        async def evaluated() -> bool:
            rules = await prometheus.rules()
            return len(rules) > 50 and {rule["health"] for rule in rules} == {"ok"}

        async def watched() -> bool:
            return bool(await alertmanager.alerts(alertname="ForewarnWatchdog"))

        await wait_until(all_up, 60, every=0.2, what="Prometheus scrapes all that its file names")
        await wait_until(evaluated, 90, every=0.5, what="Prometheus evaluates the rules")
        await wait_until(watched, 60, every=0.2, what="Alertmanager is told")


# --- deploy/faktory/log.sh ----------------------------------------------------------------------------------------


def showing(file: Path, *arguments: str) -> subprocess.Popen[bytes]:
    script = ROOT / "deploy" / "faktory" / "log.sh"
    return subprocess.Popen(["sh", script, file, *arguments], stdout=subprocess.PIPE, start_new_session=True)


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def reads(file: Path) -> bool:
    """Whether any process has it open."""
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if opened.readlink() == file:
                return True
    return False


def append(file: Path, lines: Sequence[str]) -> None:
    with file.open("a") as log:
        log.writelines(f"{line}\n" for line in lines)


def test_the_log_is_shown_from_its_beginning_as_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "faktory.log"
    append(file, ["before"])
    process = showing(file)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"before\n"
        append(file, ["after"])
        assert process.stdout.readline() == b"after\n"
    finally:
        end(process, signal.SIGKILL)


def test_a_log_that_is_too_large_is_emptied_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "faktory.log"
    process = showing(file, "1000", "0.1")
    try:
        assert process.stdout is not None
        append(file, ["x" * 2000])
        assert process.stdout.readline() == b"x" * 2000 + b"\n"
        until(lambda: file.stat().st_size == 0, "it is emptied")
        append(file, ["after"])
        assert process.stdout.readline() == b"after\n"
        assert file.read_text() == "after\n"
    finally:
        end(process, signal.SIGKILL)


def test_a_log_that_is_not_there_yet_is_waited_for_and_its_reader_ends_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "faktory.log"
    process = showing(file)
    try:
        until(file.exists, "it is made")
        append(file, ["first"])
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
        until(lambda: not reads(file), "nobody reads it any more")
    finally:
        end(process, signal.SIGKILL)
