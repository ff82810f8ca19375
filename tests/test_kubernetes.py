"""The files for Kubernetes: put together by kustomize, and held against what reads them.

That is the API's schemas, the operator's types, the pod security standards, and Forewarn itself.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from exporter.rules.render import render
from exporter.rules.settings import DEFAULTS
from exporter.settings import load
from tests.kubernetes import FILES, ROOT, built, objects, one, tool

BASE = FILES / "base"
SECURED = FILES / "overlays" / "secured"
BOTH = [pytest.param(BASE, id="base"), pytest.param(SECURED, id="secured")]

MONITORING = "monitoring.coreos.com/v1"
PREPARED = {"faktory", "forewarn-web", "forewarn-scrape"}
"""The secrets that docs/deploy.md has the operator make."""


def pod(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = one(folder, "StatefulSet", "faktory")["spec"]["template"]["spec"]
    return found


def container(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (it for it in pod(folder)["containers"] if it["name"] == name)
    return found


def mounted(folder: Path, name: str, path: str) -> tuple[str, str, bool]:
    """Which volume, and which part of it, a container has at a path, and whether it may write."""
    (found,) = (it for it in container(folder, name)["volumeMounts"] if it["mountPath"] == path)
    return found["name"], found.get("subPath", ""), not found.get("readOnly", False)


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """What the pod security standard "restricted" forbids. https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    own = spec.get("securityContext", {})
    for each in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(each):
            yield each
    for volume in spec.get("volumes", []):
        kinds = volume.keys() - {"name"}
        if not kinds <= {
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        }:
            yield f"volume {volume['name']}"
    for each in (*spec["containers"], *spec.get("initContainers", [])):
        context = each.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{each['name']}: allowPrivilegeEscalation"
        if context.get("privileged"):
            yield f"{each['name']}: privileged"
        if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add", []) not in (
            [],
            ["NET_BIND_SERVICE"],
        ):
            yield f"{each['name']}: capabilities"
        if (
            not context.get("runAsNonRoot", own.get("runAsNonRoot"))
            or context.get("runAsUser", own.get("runAsUser")) == 0
        ):
            yield f"{each['name']}: root"
        if context.get("seccompProfile", own.get("seccompProfile", {})).get("type") not in {
            "RuntimeDefault",
            "Localhost",
        }:
            yield f"{each['name']}: seccompProfile"
        if any("hostPort" in port for port in each.get("ports", [])):
            yield f"{each['name']}: hostPort"


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("folder", BOTH)
def test_every_object_of_the_api_fits_its_schema(folder: Path, version: str) -> None:
    checked = []
    for each in objects(folder):
        if each["apiVersion"] != MONITORING:
            kubernetes_validate.validate(each, version, strict=True)
            checked.append(each["kind"])
    assert {"StatefulSet", "Service", "NetworkPolicy", "ConfigMap"} <= set(checked)


def test_a_misspelt_field_does_not_fit() -> None:
    wrong = json.loads(json.dumps(one(BASE, "StatefulSet", "faktory")))
    wrong["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def decode(stream: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("schemas"), "monitoring"], input=stream, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("folder", BOTH)
def test_every_object_of_the_operator_is_what_it_decodes(folder: Path) -> None:
    ended = decode(built(folder))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["PodMonitor/forewarn", "PrometheusRule/forewarn"]


def test_the_operator_would_not_decode_a_misspelt_field() -> None:
    ended = decode(built(BASE).replace("podMetricsEndpoints:", "podMetricEndpoints:"))
    assert ended.returncode == 1
    assert "podMetricEndpoints" in ended.stderr


@pytest.mark.parametrize("folder", BOTH)
def test_the_pod_keeps_to_the_restricted_standard_with_a_root_that_is_read_only(folder: Path) -> None:
    assert list(violations(pod(folder))) == []
    assert all(each["securityContext"]["readOnlyRootFilesystem"] for each in pod(folder)["containers"])


def test_what_the_restricted_standard_forbids_is_found() -> None:
    wrong = json.loads(json.dumps(pod(BASE)))
    wrong["hostPID"] = True
    wrong["volumes"].append({"name": "node", "hostPath": {"path": "/"}})
    wrong["securityContext"]["runAsUser"] = 0
    wrong["securityContext"].pop("seccompProfile")
    wrong["containers"][0]["securityContext"] = {}
    assert list(violations(wrong)) == [
        "hostPID",
        "volume node",
        *(f"faktory: {each}" for each in ("allowPrivilegeEscalation", "capabilities", "root", "seccompProfile")),
        *(f"{name}: {each}" for name in ("forewarn", "log") for each in ("root", "seccompProfile")),
    ]


@pytest.mark.parametrize("folder", BOTH)
def test_every_mount_has_its_volume_and_every_volume_its_source(folder: Path) -> None:
    spec = one(folder, "StatefulSet", "faktory")["spec"]
    claims = {it["metadata"]["name"] for it in spec["volumeClaimTemplates"]}
    volumes = {it["name"]: it for it in pod(folder)["volumes"]}
    mounts = {mount["name"] for each in pod(folder)["containers"] for mount in each["volumeMounts"]}
    assert mounts == claims | volumes.keys()
    config_maps = {it["metadata"]["name"] for it in objects(folder) if it["kind"] == "ConfigMap"}
    assert {it["configMap"]["name"] for it in volumes.values() if "configMap" in it} <= config_maps
    assert {it["secret"]["secretName"] for it in volumes.values() if "secret" in it} <= PREPARED


def test_every_secret_that_is_wanted_is_told_how_to_make() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert {
        name for name in PREPARED if f"kubectl create secret generic {name} " in page.replace("-n faktory ", "")
    } == PREPARED


@pytest.mark.parametrize(
    "path", ["/var/lib/faktory", "/etc/faktory/conf.d", "/var/log/faktory", "/run/secrets/faktory"]
)
def test_forewarn_reads_what_faktory_has_and_cannot_change_it(path: str) -> None:
    volume, part, _ = mounted(BASE, "faktory", path)
    assert mounted(BASE, "forewarn", path) == (volume, part, False)


def test_forewarns_file_names_what_is_mounted(tmp_path: Path) -> None:
    (config,) = (
        it for it in objects(BASE) if it["kind"] == "ConfigMap" and it["metadata"]["name"].startswith("forewarn-")
    )
    password = tmp_path / "password"
    password.write_text("secret\n")
    file = tmp_path / "forewarn.toml"
    (text,) = config["data"].values()
    assert '"/run/secrets/faktory/password"' in text
    file.write_text(text.replace("/run/secrets/faktory/password", str(password)))
    (server,) = load({"config": str(file)}, {}).servers
    assert server.redis_url is not None
    assert server.redis_url.reveal().startswith("unix:///var/lib/faktory/db/")
    assert server.config_dir == Path("/etc/faktory")
    assert server.log is not None
    assert server.log.files == ("/var/log/faktory/faktory.log",)
    assert server.log.files[0] in container(BASE, "faktory")["command"][-1]


def test_forewarn_keeps_its_state_where_it_may_write() -> None:
    assert "FOREWARN_STATE_FILE=/var/lib/forewarn/" in (ROOT / "Dockerfile").read_text()
    assert mounted(BASE, "forewarn", "/var/lib/forewarn") == ("data", "forewarn", True)


def test_a_forewarn_that_is_not_ready_does_not_cut_the_workers_off() -> None:
    services = [it for it in objects(BASE) if it["kind"] == "Service"]
    assert [it["spec"].get("publishNotReadyAddresses") for it in services] == [True, True]


def test_no_port_is_named_that_no_container_has() -> None:
    named = {port["name"] for each in pod(BASE)["containers"] for port in each.get("ports", [])}
    services = {port["targetPort"] for it in objects(BASE) if it["kind"] == "Service" for port in it["spec"]["ports"]}
    policy = {
        port["port"] for rule in one(BASE, "NetworkPolicy", "faktory")["spec"]["ingress"] for port in rule["ports"]
    }
    monitor = {it["port"] for it in one(BASE, "PodMonitor", "forewarn")["spec"]["podMetricsEndpoints"]}
    probes = {
        probe["httpGet"]["port"]
        for each in pod(BASE)["containers"]
        for key, probe in each.items()
        if key.endswith("Probe")
    }
    assert services | policy | monitor | probes == named


def test_the_rules_are_those_that_forewarn_renders() -> None:
    rendered = yaml.safe_load(render(DEFAULTS, "kubernetes"))
    assert one(BASE, "PrometheusRule", "forewarn")["spec"] == rendered["spec"]


@pytest.mark.parametrize("path", sorted((ROOT / "dashboards").glob("*.json")), ids=lambda path: path.stem)
def test_each_dashboard_is_a_config_map_that_grafana_finds(path: Path) -> None:
    found = one(BASE, "ConfigMap", f"dashboard-{path.stem}")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["data"] == {path.name: path.read_text()}


def test_each_object_fits_into_the_annotation_that_kubectl_apply_keeps() -> None:
    assert {it["metadata"]["name"]: size for it in objects(BASE) if (size := len(json.dumps(it))) > 262_144} == {}


def test_the_secured_example_is_scraped_by_tls_with_a_password_and_probed_inside() -> None:
    forewarn = container(SECURED, "forewarn")
    assert forewarn["args"][-2:] == ["--web.config.file", "/etc/forewarn-web/web-config.yml"]
    for each in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert forewarn[each]["exec"]["command"][-1] == "/opt/forewarn/lib/healthcheck.py"
        assert "httpGet" not in forewarn[each]
    (endpoint,) = one(SECURED, "PodMonitor", "forewarn")["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert {"ca", "serverName"} <= endpoint["tlsConfig"].keys()
    assert endpoint["basicAuth"]["password"] == {"name": "forewarn-scrape", "key": "password"}
    assert {it["metadata"].get("namespace") for it in objects(SECURED) if it["kind"] != "Namespace"} == {"faktory"}


@pytest.mark.parametrize("image", ["forewarn", "contribsys/faktory"])
def test_images_are_named_with_the_tags_that_compose_names(image: str) -> None:
    from exporter import __version__

    tags = {
        each["image"].partition(":")[2] for each in pod(BASE)["containers"] if each["image"].startswith(f"{image}:")
    }
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    (tag,) = tags
    assert f":-{image}:{tag}}}" in compose
    if image == "forewarn":
        assert tag == __version__
