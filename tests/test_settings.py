"""Settings: flags over environment over the file over defaults, and every mistake told with its place and its fix."""

from __future__ import annotations

import os
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.logs import redact_url
from exporter.model import Choice
from exporter.secret import Secret
from exporter.settings import (
    FLAGS,
    MAX_LOG_FILES,
    MAX_LOG_JOURNALS,
    LogWatch,
    NothingConfigured,
    OtlpTarget,
    ServerSettings,
    Settings,
    SettingsError,
    StatsdListen,
    StatsdTarget,
    load,
    parse_duration,
)
from exporter.statsd.address import UdpAddress
from exporter.web.address import Address

URL = "tcp://faktory.example:7419"


def file_with(folder: Path, text: str) -> dict[str, str | None]:
    """Write a configuration file and return the flags that name it."""
    path = folder / "forewarn.toml"
    path.write_text(text)
    return {"config": str(path)}


Flags = Mapping[str, str | Sequence[str] | None]


def problems(flags: Flags, environ: Mapping[str, str] | None = None) -> str:
    """Return what is told about settings that must be refused."""
    with pytest.raises(SettingsError) as caught:
        load(flags, environ or {})
    return "\n".join(caught.value.problems)


def one_server(flags: Flags, environ: Mapping[str, str] | None = None) -> ServerSettings:
    (server,) = load(flags, environ or {}).servers
    return server


SERVER = f'[[servers]]\nname = "mail"\nsystem = "faktory"\nurl = "{URL}"\n'


# --- what is chosen -------------------------------------------------------------------------------------------------


def test_a_url_alone_is_enough() -> None:
    assert load({"faktory.url": URL}, {}) == Settings(
        servers=(ServerSettings(name="faktory", url=Secret(URL), web_url="http://faktory.example:7420"),),
        interval=5.0,
        log_format="text",
        log_level="info",
        web_listen_address=Address("127.0.0.1", 9386),
        max_label_values=200,
    )


def test_every_flag_is_understood(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("one\n")
    (tmp_path / "redis-password").write_text("two\n")
    (tmp_path / "headers").write_text("authorization: Bearer three\n")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    flags: dict[str, str | Sequence[str] | None] = {
        "config": None,
        "interval": "1m30s",
        "state-file": "/var/lib/forewarn/state.json",
        "log.format": "json",
        "log.level": "warning",
        "web.listen-address": "[::1]:9000",
        "web.config.file": "/etc/forewarn/web.yml",
        "web.enable-lifecycle": "true",
        "web.runbooks-url": "https://wiki.example/forewarn/",
        "web.dashboards-url": "https://grafana.example",
        "max-label-values": "50",
        "faktory.url": "tcp+tls://faktory.example",
        "faktory.web-url": "https://web.example/faktory/",
        "faktory.redis-url": "rediss://reader@redis.example:6380/2",
        "faktory.config-dir": "/etc/faktory",
        "faktory.connections-limit": "100",
        "faktory.password-file": str(tmp_path / "password"),
        "faktory.redis-password-file": str(tmp_path / "redis-password"),
        "faktory.ca-file": str(tmp_path / "ca.pem"),
        "faktory.redis-ca-file": str(tmp_path / "ca.pem"),
        "faktory.log-file": ["/var/log/faktory/*.log", "-"],
        "faktory.log-journal": ["faktory.service"],
        "otlp.endpoint": "https://collector.example:4318",
        "otlp.headers-file": str(tmp_path / "headers"),
        "otlp.ca-file": str(tmp_path / "ca.pem"),
        "otlp.metrics-interval": "30s",
        "traces.slow-seconds": "2.5",
        "traces.ratio": "0.5",
        "traces.per-second": "10",
        "traces.poll-ratio": "1",
        "traces.traceparent": "parent",
        "statsd.listen": "[::1]:8125",
        "statsd.listen-unix": "/run/forewarn/statsd.sock",
        "statsd.relay": "unix:///run/datadog/dsd.socket",
        "statsd.namespace": "jobs.",
        "statsd.keep": "all",
        "statsd.push": "dogstatsd://agent.example",
        "statsd.interval": "1m",
    }
    assert set(flags) == set(FLAGS)
    assert load(flags, {}) == Settings(
        interval=90.0,
        state_file=Path("/var/lib/forewarn/state.json"),
        log_format="json",
        log_level="warning",
        web_listen_address=Address("::1", 9000),
        web_config_file=Path("/etc/forewarn/web.yml"),
        web_lifecycle=True,
        web_runbooks_url="https://wiki.example/forewarn",
        web_dashboards_url="https://grafana.example",
        max_label_values=50,
        servers=(
            ServerSettings(
                name="faktory",
                url=Secret("tcp+tls://faktory.example"),
                web_url="https://web.example/faktory",
                redis_url=Secret("rediss://reader@redis.example:6380/2"),
                config_dir=Path("/etc/faktory"),
                connections_limit=100,
                password=Secret("one"),
                redis_password=Secret("two"),
                ca_file=tmp_path / "ca.pem",
                redis_ca_file=tmp_path / "ca.pem",
                log=LogWatch(files=("/var/log/faktory/*.log", "-"), journals=("faktory.service",)),
                statsd=StatsdListen(
                    address=Address("::1", 8125),
                    unix=Path("/run/forewarn/statsd.sock"),
                    relay=Path("/run/datadog/dsd.socket"),
                    namespace="jobs.",
                    keep_all=True,
                ),
            ),
        ),
        otlp_traces=OtlpTarget(
            url="https://collector.example:4318/v1/traces",
            headers={"authorization": Secret("Bearer three")},
            ca_file=tmp_path / "ca.pem",
        ),
        otlp_metrics=OtlpTarget(
            url="https://collector.example:4318/v1/metrics",
            headers={"authorization": Secret("Bearer three")},
            ca_file=tmp_path / "ca.pem",
        ),
        otlp_metrics_interval=30.0,
        traces=Choice(slow_seconds=2.5, ratio=0.5, per_second=10.0, parent=True),
        traces_poll_ratio=1.0,
        statsd_push=StatsdTarget(tags=True, address=UdpAddress("agent.example", 8125)),
        statsd_interval=60.0,
    )


def test_every_key_of_the_file_is_understood(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("one")
    (tmp_path / "headers").write_text("x-api-key: two")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    flags = file_with(
        tmp_path,
        """
        interval = "10s"
        state_file = "/state.json"
        max_label_values = 7
        [log]
        format = "json"
        level = "debug"
        [web]
        listen_address = ":9000"
        config_file = "web.yml"
        enable_lifecycle = true
        runbooks_url = "http://wiki.example:8080/forewarn"
        dashboards_url = "https://grafana.example/grafana/"
        [otlp]
        endpoint = "https://collector.example/otlp/"
        headers_file = "headers"
        ca_file = "ca.pem"
        metrics_interval = "5m"
        [traces]
        slow_seconds = 0
        ratio = 0.25
        per_second = 7.5
        poll_ratio = 0
        traceparent = "parent"
        [statsd]
        push = "statsd://10.0.0.9:9125"
        interval = "30s"
        [[servers]]
        name = "mail"
        system = "faktory"
        url = "tcp://mail.example:7419"
        web_url = "http://mail.example:7420"
        redis_url = "unix:///run/redis.sock"
        config_dir = "/etc/faktory"
        connections_limit = 500
        password_file = "password"
        redis_password_file = "password"
        ca_file = "ca.pem"
        redis_ca_file = "ca.pem"
        log_files = ["/var/log/faktory.log", "mail-*.log"]
        log_journals = ["mail.service", "mail@eu.service"]
        statsd_listen = ":8125"
        statsd_listen_unix = "/run/forewarn/mail.sock"
        statsd_relay = "udp://agent.example"
        statsd_namespace = ""
        statsd_keep = "known"
        [[servers]]
        name = "bulk"
        system = "faktory"
        url = "tcp://bulk.example:7419"
        statsd_listen_unix = "/run/forewarn/bulk.sock"
        """,
    )
    assert load(flags, {}) == Settings(
        interval=10.0,
        state_file=Path("/state.json"),
        max_label_values=7,
        log_format="json",
        log_level="debug",
        web_listen_address=Address(None, 9000),
        web_config_file=tmp_path / "web.yml",
        web_lifecycle=True,
        web_runbooks_url="http://wiki.example:8080/forewarn",
        web_dashboards_url="https://grafana.example/grafana",
        servers=(
            ServerSettings(
                name="mail",
                url=Secret("tcp://mail.example:7419"),
                web_url="http://mail.example:7420",
                redis_url=Secret("unix:///run/redis.sock"),
                config_dir=Path("/etc/faktory"),
                connections_limit=500,
                password=Secret("one"),
                redis_password=Secret("one"),
                ca_file=tmp_path / "ca.pem",
                redis_ca_file=tmp_path / "ca.pem",
                log=LogWatch(
                    files=("/var/log/faktory.log", f"{tmp_path}/mail-*.log"),
                    journals=("mail.service", "mail@eu.service"),
                ),
                statsd=StatsdListen(
                    address=Address(None, 8125),
                    unix=Path("/run/forewarn/mail.sock"),
                    relay=UdpAddress("agent.example", 8125),
                    namespace="",
                ),
            ),
            ServerSettings(
                name="bulk",
                url=Secret("tcp://bulk.example:7419"),
                web_url="http://bulk.example:7420",
                statsd=StatsdListen(unix=Path("/run/forewarn/bulk.sock")),
            ),
        ),
        otlp_traces=OtlpTarget(
            url="https://collector.example/otlp/v1/traces",
            headers={"x-api-key": Secret("two")},
            ca_file=tmp_path / "ca.pem",
        ),
        otlp_metrics=OtlpTarget(
            url="https://collector.example/otlp/v1/metrics",
            headers={"x-api-key": Secret("two")},
            ca_file=tmp_path / "ca.pem",
        ),
        otlp_metrics_interval=300.0,
        traces=Choice(slow_seconds=0.0, ratio=0.25, per_second=7.5, parent=True),
        traces_poll_ratio=0.0,
        statsd_push=StatsdTarget(tags=False, address=UdpAddress("10.0.0.9", 9125)),
        statsd_interval=30.0,
    )


def test_flags_go_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = file_with(tmp_path, f'interval = "10s"\n{SERVER}')
    environ = {"FOREWARN_INTERVAL": "20s"}
    assert load(file, {}).interval == 10.0
    assert load(file, environ).interval == 20.0
    assert load(file | {"interval": "30s"}, environ).interval == 30.0


def test_flags_go_over_the_keys_of_the_server_named_faktory(tmp_path: Path) -> None:
    server = one_server(
        file_with(tmp_path, f'{SERVER}connections_limit = 9\nconfig_dir = "/etc/a"'.replace("mail", "faktory"))
        | {"faktory.connections-limit": "8"}
    )
    assert (server.connections_limit, server.config_dir) == (8, Path("/etc/a"))


def test_flags_describe_a_server_of_their_own_beside_those_of_the_file(tmp_path: Path) -> None:
    names = [each.name for each in load(file_with(tmp_path, SERVER), {"FAKTORY_URL": URL}).servers]
    assert names == ["mail", "faktory"]


@pytest.mark.parametrize(
    ("written", "variable", "flag", "on"),
    [
        (None, None, None, False),
        ("true", None, None, True),
        ("false", None, None, False),
        ("false", "true", None, True),
        ("true", "false", None, False),
        ("true", "", None, True),
        ("false", "false", "true", True),
    ],
)
def test_a_switch_is_set_in_each_layer(
    written: str | None, variable: str | None, flag: str | None, on: bool, tmp_path: Path
) -> None:
    flags = file_with(tmp_path, f"{SERVER}[web]\nenable_lifecycle = {written}" if written else SERVER)
    environ = {} if variable is None else {"FOREWARN_WEB_ENABLE_LIFECYCLE": variable}
    assert load(flags | {"web.enable-lifecycle": flag}, environ).web_lifecycle is on


def test_the_links_of_the_page_may_be_set_in_the_environment() -> None:
    environ = {
        "FOREWARN_WEB_RUNBOOKS_URL": "https://wiki.example",
        "FOREWARN_WEB_DASHBOARDS_URL": "http://[::1]:3000",
        "FOREWARN_WEB_CONFIG_FILE": "/web.yml",
    }
    found = load({"faktory.url": URL}, environ)
    assert (found.web_runbooks_url, found.web_dashboards_url) == ("https://wiki.example", "http://[::1]:3000")
    assert found.web_config_file == Path("/web.yml")


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    config = file_with(tmp_path, SERVER)["config"]
    assert config is not None
    assert one_server({}, {"FOREWARN_CONFIG": config}).name == "mail"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({"faktory.url": URL}, {"FOREWARN_INTERVAL": "", "FAKTORY_PROVIDER": ""}).interval == 5.0


def test_a_relative_path_in_the_file_starts_from_the_file(tmp_path: Path) -> None:
    assert load(file_with(tmp_path, f'state_file = "state.json"\n{SERVER}'), {}).state_file == tmp_path / "state.json"


@pytest.mark.parametrize(
    ("url", "web_url"),
    [
        ("tcp://host.example", "http://host.example:7420"),
        ("tcp+tls://host.example:1", "https://host.example:7420"),
        ("tcp://[::1]:7419", "http://[::1]:7420"),
    ],
)
def test_the_web_ui_is_looked_for_beside_the_command_port(url: str, web_url: str) -> None:
    assert one_server({"faktory.url": url}).web_url == web_url


# --- Faktory's own variables ----------------------------------------------------------------------------------------


def test_faktory_url_is_understood() -> None:
    assert one_server({}, {"FAKTORY_URL": URL}).url.reveal() == URL


def test_faktory_provider_names_the_variable_that_holds_the_url() -> None:
    environ = {"FAKTORY_PROVIDER": "ADDON_URL", "ADDON_URL": URL, "FAKTORY_URL": "tcp://other.example"}
    assert one_server({}, environ).url.reveal() == URL


def test_forewarns_own_variable_goes_over_faktorys() -> None:
    environ = {"FOREWARN_FAKTORY_URL": URL, "FAKTORY_URL": "tcp://other.example"}
    assert one_server({}, environ).url.reveal() == URL


def test_a_url_in_faktory_provider_is_refused_without_showing_it() -> None:
    told = problems({}, {"FAKTORY_PROVIDER": "tcp://:hunter2@host"})
    assert "FAKTORY_PROVIDER" in told
    assert "NAME" in told
    assert "hunter2" not in told


def test_a_provider_that_names_nothing_is_refused() -> None:
    assert "the variable that it names is not set" in problems({}, {"FAKTORY_PROVIDER": "ADDON_URL"})


def test_faktory_password_is_a_value_or_a_path(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("from-file\n")
    assert one_server({}, {"FAKTORY_URL": URL, "FAKTORY_PASSWORD": "plain"}).password == Secret("plain")
    assert one_server({}, {"FAKTORY_URL": URL, "FAKTORY_PASSWORD": str(path)}).password == Secret("from-file")


def test_faktory_password_concerns_the_server_named_faktory_alone(tmp_path: Path) -> None:
    assert one_server(file_with(tmp_path, SERVER), {"FAKTORY_PASSWORD": "plain"}).password is None


# --- OpenTelemetry's own variables ----------------------------------------------------------------------------------

COLLECTOR = "http://collector.example:4318"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}


def with_otlp(environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> Settings:
    """Return the settings of one server and what else is given."""
    return load({"faktory.url": URL} | dict(flags or {}), environ)


def traces_of(environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> OtlpTarget:
    target = with_otlp(environ, flags).otlp_traces
    assert target is not None
    return target


def metrics_of(environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> OtlpTarget:
    target = with_otlp(environ, flags).otlp_metrics
    assert target is not None
    return target


def otlp_problems(environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> str:
    return problems({"faktory.url": URL} | dict(flags or {}), environ)


def test_without_an_endpoint_nothing_is_sent_whatever_else_is_set() -> None:
    environ = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_HEADERS": "nonsense",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere",
        "OTEL_METRIC_EXPORT_INTERVAL": "soon",
    }
    loaded = with_otlp(environ)
    assert (loaded.otlp_traces, loaded.otlp_metrics) == (None, None)


@pytest.mark.parametrize(
    ("base", "traces"),
    [
        ("http://host.example:4318", "http://host.example:4318/v1/traces"),
        ("http://host.example:4318/", "http://host.example:4318/v1/traces"),
        ("https://host.example/a/b/", "https://host.example/a/b/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_path_of_each_kind_is_added_to_the_base(base: str, traces: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": base}
    assert traces_of(environ).url == traces
    assert metrics_of(environ).url == traces.replace("traces", "metrics")


def test_an_endpoint_of_one_kind_is_used_as_it_is_and_the_other_kind_is_not_sent() -> None:
    loaded = with_otlp({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://tempo.example/otlp/"})
    assert loaded.otlp_traces == OtlpTarget(url="http://tempo.example/otlp/")
    assert loaded.otlp_metrics is None


def test_an_endpoint_of_one_kind_goes_over_the_base() -> None:
    environ = ENDPOINT | {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://mimir.example/push"}
    assert traces_of(environ).url == f"{COLLECTOR}/v1/traces"
    assert metrics_of(environ).url == "http://mimir.example/push"


def test_forewarns_own_endpoint_goes_over_opentelemetrys_and_that_over_the_file(tmp_path: Path) -> None:
    file = file_with(tmp_path, f"[otlp]\nendpoint = 'http://file.example'\n{SERVER}")
    environ = ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://tempo.example/otlp"}
    own = environ | {"FOREWARN_OTLP_ENDPOINT": "http://own.example"}
    assert traces_of({}, file).url == "http://file.example/v1/traces"
    assert traces_of(ENDPOINT, file).url == f"{COLLECTOR}/v1/traces"
    assert traces_of(environ, file).url == "http://tempo.example/otlp"
    assert traces_of(own, file).url == "http://own.example/v1/traces"
    assert traces_of(own, file | {"otlp.endpoint": "http://flag.example"}).url == "http://flag.example/v1/traces"


def test_each_option_may_be_set_for_both_kinds_and_for_one(tmp_path: Path) -> None:
    ca, client = trustme.CA(), trustme.CA().issue_cert("forewarn.example")
    for name in ("ca.pem", "traces-ca.pem"):
        ca.cert_pem.write_to_path(str(tmp_path / name))
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    environ = ENDPOINT | {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=both,x-tenant=both",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-api-key=traces",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": str(tmp_path / "traces-ca.pem"),
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE": str(tmp_path / "client.pem"),
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY": str(tmp_path / "client.key"),
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "HTTP/Protobuf",
    }
    assert traces_of(environ) == OtlpTarget(
        url=f"{COLLECTOR}/v1/traces",
        headers={"x-api-key": Secret("traces")},
        timeout=0.5,
        gzip=False,
        ca_file=tmp_path / "traces-ca.pem",
    )
    assert metrics_of(environ) == OtlpTarget(
        url=f"{COLLECTOR}/v1/metrics",
        headers={"x-api-key": Secret("both"), "x-tenant": Secret("both")},
        timeout=2.5,
        gzip=True,
        ca_file=tmp_path / "ca.pem",
        certificate_file=tmp_path / "client.pem",
        key_file=tmp_path / "client.key",
    )


def test_a_client_certificate_may_have_its_key_in_the_same_file(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    trustme.CA().issue_cert("forewarn.example").private_key_and_cert_chain_pem.write_to_path(str(both))
    target = traces_of(ENDPOINT | {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(both)})
    assert (target.certificate_file, target.key_file) == (both, None)


def test_forewarns_own_headers_and_certificates_go_over_opentelemetrys_of_either_kind(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("x-api-key: own")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    environ = ENDPOINT | {
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-api-key=traces",
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": "/nowhere",
        "FOREWARN_OTLP_HEADERS_FILE": str(tmp_path / "headers"),
        "FOREWARN_OTLP_CA_FILE": str(tmp_path / "ca.pem"),
    }
    target = traces_of(environ)
    assert (target.headers, target.ca_file) == ({"x-api-key": Secret("own")}, tmp_path / "ca.pem")


def test_an_empty_variable_of_opentelemetry_counts_as_not_set() -> None:
    environ = ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "", "OTEL_EXPORTER_OTLP_TIMEOUT": ""}
    assert traces_of(environ) == OtlpTarget(url=f"{COLLECTOR}/v1/traces")


@pytest.mark.parametrize("none", ["none", "None"])
def test_each_kind_can_be_switched_off(none: str) -> None:
    without_traces = with_otlp(ENDPOINT | {"OTEL_TRACES_EXPORTER": none, "OTEL_METRICS_EXPORTER": "otlp"})
    assert without_traces.otlp_traces is None
    assert without_traces.otlp_metrics is not None
    without_metrics = with_otlp({"OTEL_METRICS_EXPORTER": none}, {"otlp.endpoint": COLLECTOR})
    assert without_metrics.otlp_traces is not None
    assert without_metrics.otlp_metrics is None


@pytest.mark.parametrize(("text", "disabled"), [("true", True), ("TRUE", True), ("false", False), ("1", False)])
def test_all_of_it_can_be_disabled(text: str, disabled: bool) -> None:
    loaded = with_otlp({"OTEL_SDK_DISABLED": text}, {"otlp.endpoint": COLLECTOR})
    assert (loaded.otlp_traces is None, loaded.otlp_metrics is None) == (disabled, disabled)


def test_opentelemetrys_interval_is_in_milliseconds_and_stands_between_the_file_and_forewarns_own(
    tmp_path: Path,
) -> None:
    file = file_with(tmp_path, f"[otlp]\nmetrics_interval = '10s'\n{SERVER}")
    environ = ENDPOINT | {"OTEL_METRIC_EXPORT_INTERVAL": "20000"}
    assert with_otlp(ENDPOINT).otlp_metrics_interval == 60.0
    assert with_otlp(ENDPOINT, file).otlp_metrics_interval == 10.0
    assert with_otlp(environ, file).otlp_metrics_interval == 20.0
    assert with_otlp(environ | {"FOREWARN_OTLP_METRICS_INTERVAL": "30s"}, file).otlp_metrics_interval == 30.0


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("authorization=Bearer%20abc%2Fd%3D", {"authorization": "Bearer abc/d="}),
        ("authorization=Basic dXNlcjpwdw==", {"authorization": "Basic dXNlcjpwdw=="}),
        (" A = 1 , b=2,", {"a": "1", "b": "2"}),
        ("empty=", {"empty": ""}),
    ],
)
def test_headers_in_the_variable_are_percent_decoded(text: str, headers: Mapping[str, str]) -> None:
    found = traces_of(ENDPOINT | {"OTEL_EXPORTER_OTLP_HEADERS": text}).headers
    assert {name: value.reveal() for name, value in found.items()} == headers


def test_headers_in_the_file_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_bytes(b"# the tenant\r\nX-Scope-OrgID: a%20b: c\r\n\n  authorization:Bearer abc\t\n")
    assert traces_of(ENDPOINT, {"otlp.headers-file": str(path)}).headers == {
        "x-scope-orgid": Secret("a%20b: c"),
        "authorization": Secret("Bearer abc"),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x-key=1,hunter2", "entry 2 is not a header; write name=value"),
        ("hunter 2=1", "the name in entry 1 is not one of a header"),
        ("=hunter2", "the name in entry 1 is not one of a header"),
        ("hunter2%0d%0a=1", "the name in entry 1 is not one of a header"),
        ("x-key=hunter2%0d%0ahost:%20evil", "the value in entry 1 holds a line's end"),
        ("x-key=hunter2%00", "the value in entry 1 holds a line's end"),
        ("x-key=hunter2%ff", "the value in entry 1 holds a line's end"),
        ("x-hunter2=1,X-Hunter2=2", "entry 2 sets a header that was set before it"),
        ("Content-Type=hunter2", "entry 1 sets content-type, which Forewarn sets itself"),
        ("x-key=hunter2" + "x" * 9000, "the value in entry 1 is longer than 8192 characters"),
        (",".join(f"x-hunter2-{number}=1" for number in range(65)), "there are more than 64 headers"),
    ],
)
def test_a_wrong_header_is_told_without_showing_it(text: str, told: str, tmp_path: Path) -> None:
    name = "OTEL_EXPORTER_OTLP_HEADERS"
    by_variable = otlp_problems(ENDPOINT | {name: text})
    assert f"environment variable {name}: {told}" in by_variable
    assert "hunter2" not in by_variable.lower()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"x-key: 1\nhunter2", "line 2 is not a header; write name: value"),
        (b"\n\nhunter2 x: 1", "the name in line 3 is not one of a header"),
        (b"x-key: hunter2\rhost: evil", "the value in line 1 holds a line's end"),
        ("x-key: hunter2\u2028y".encode(), "the value in line 1 holds a line's end"),
        (b"x-key: hunter2\xff", "is not UTF-8 text; name a readable file of lines such as x-api-key: TOKEN"),
        (b" \n", "is empty; name a readable file"),
        (b"x-key: hunter2\n" * 9000, "is longer than 65536 bytes; name a readable file"),
    ],
)
def test_a_wrong_headers_file_is_told_without_showing_it(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_bytes(content)
    by_file = otlp_problems({}, {"otlp.headers-file": str(path)})
    assert f"--otlp.headers-file: {path}" in by_file
    assert told in by_file
    assert "hunter2" not in by_file


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "ENDPOINT",
            "collector.example:4318",
            "the URL does not begin with http:// or https://; write http://host:4318",
        ),
        ("ENDPOINT", "grpc://collector.example", "the URL does not begin with http:// or https://"),
        ("ENDPOINT", "http://collector.example:port", "the URL is malformed after its scheme"),
        ("ENDPOINT", "http://:4318", "the URL names no host and port that can be reached"),
        ("ENDPOINT", "http://collector.example:0", "the URL names no host and port that can be reached"),
        ("ENDPOINT", "http://collector.example\r\n/x", "the URL names no host and port that can be reached"),
        ("ENDPOINT", "http://collector.example/?hunter2", "the URL goes on with ? or #"),
        ("ENDPOINT", "http://:hunter2@collector.example", "put them into a header, such as authorization, by"),
        ("ENDPOINT", "http://hunter2@collector.example", "put them into a header, such as authorization, by"),
        ("ENDPOINT", "http://u:hunt/er2@collector.example", "put them into a header, such as authorization, by"),
        ("TIMEOUT", "10s", "'10s' is not a whole number from 1 to 600000; it is in milliseconds"),
        ("TIMEOUT", "0", "'0' is not a whole number from 1 to 600000; it is in milliseconds"),
        ("COMPRESSION", "zstd", "'zstd' is not known; write one of none, gzip"),
        ("PROTOCOL", "grpc", "only http/protobuf: unset it or set it to http/protobuf, and set the endpoint"),
        ("PROTOCOL", "http/json", "'http/json' is not spoken here"),
        ("CERTIFICATE", "/nowhere", "/nowhere does not exist; name a readable file of PEM certificates"),
        ("CERTIFICATE", __file__, f"{__file__} holds no certificate that is understood"),
        ("CLIENT_CERTIFICATE", "/nowhere", "/nowhere does not exist; name a readable file in PEM form"),
        ("CLIENT_CERTIFICATE", __file__, f"{__file__} cannot be used with its key"),
        ("CLIENT_KEY", __file__, "it names the key of a certificate that is not set"),
    ],
)
@pytest.mark.parametrize("kind", ["", "TRACES_", "METRICS_"])
def test_a_wrong_variable_of_opentelemetry_is_told_once_with_its_fix(
    kind: str, name: str, text: str, told: str
) -> None:
    variable = f"OTEL_EXPORTER_OTLP_{kind}{name}"
    shown = otlp_problems(ENDPOINT | {variable: text})
    assert shown.startswith(f"environment variable {variable}: ")
    assert told in shown
    assert len(shown.splitlines()) == 1
    assert "hunt" not in shown


@pytest.mark.parametrize("name", ["OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"])
def test_another_exporter_than_otlp_is_refused(name: str) -> None:
    told = f"environment variable {name}: 'console' is not known; write one of otlp, none"
    assert otlp_problems(ENDPOINT | {name: "console"}) == told


def test_a_wrong_interval_of_opentelemetry_is_told() -> None:
    told = otlp_problems(ENDPOINT | {"OTEL_METRIC_EXPORT_INTERVAL": "60"})
    assert told == (
        "environment variable OTEL_METRIC_EXPORT_INTERVAL: '60' is not a whole number from 1000 to 3600000;"
        " it is in milliseconds"
    )


AT_A_TERMINAL = """
import fcntl, os, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from exporter.settings import SettingsError, load
try:
    load({"faktory.url": "tcp://host"}, os.environ)
except SettingsError as error:
    print(error)
"""


def test_a_key_with_a_passphrase_is_refused_and_no_terminal_is_asked_for_it(tmp_path: Path) -> None:
    client = trustme.CA().issue_cert("forewarn.example")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    locked = load_pem_private_key(client.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"hunter2")
    )
    (tmp_path / "client.key").write_bytes(locked)
    environ = ENDPOINT | {
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(tmp_path / "client.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "client.key"),
    }
    ours, terminal = os.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", AT_A_TERMINAL],
            env=environ,
            stdin=terminal,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=20,
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert "of the key to it, without a passphrase" in ended.stdout


def test_settings_need_nothing_of_opentelemetry() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = sys.modules["google"] = None
from exporter.settings import load
print(load({"faktory.url": "tcp://host", "otlp.endpoint": "http://host"}, {}).otlp_traces.url)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("http://host/v1/traces\n", "")


# --- StatsD ---------------------------------------------------------------------------------------------------------

LISTEN: dict[str, str | None] = {"faktory.url": URL, "statsd.listen": "127.0.0.1:8125"}


def test_nothing_is_listened_for_and_nothing_pushed_unless_it_is_set() -> None:
    loaded = load({"faktory.url": URL, "statsd.interval": "30s"}, {})
    assert (loaded.servers[0].statsd, loaded.statsd_push) == (None, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8125", Address("127.0.0.1", 8125)),
        ("[::1]:8125", Address("::1", 8125)),
        (":8125", Address(None, 8125)),
        ("localhost:0", Address("localhost", 0)),
    ],
)
def test_an_address_alone_is_enough_to_listen(text: str, address: Address) -> None:
    expected = StatsdListen(address=address, unix=None, relay=None, namespace="faktory.", keep_all=False)
    assert one_server({"faktory.url": URL, "statsd.listen": text}).statsd == expected


def test_the_environment_sets_it_up() -> None:
    environ = {
        "FAKTORY_URL": URL,
        "FOREWARN_STATSD_LISTEN": ":8125",
        "FOREWARN_STATSD_LISTEN_UNIX": "/run/forewarn/statsd.sock",
        "FOREWARN_STATSD_RELAY": "udp://agent.example",
        "FOREWARN_STATSD_NAMESPACE": "jobs.",
        "FOREWARN_STATSD_KEEP": "all",
        "FOREWARN_STATSD_PUSH": "dogstatsd+unix:///run/datadog/dsd.socket",
        "FOREWARN_STATSD_INTERVAL": "20s",
    }
    loaded = load({}, environ)
    assert loaded.servers[0].statsd == StatsdListen(
        address=Address(None, 8125),
        unix=Path("/run/forewarn/statsd.sock"),
        relay=UdpAddress("agent.example", 8125),
        namespace="jobs.",
        keep_all=True,
    )
    assert loaded.statsd_push == StatsdTarget(tags=True, address=Path("/run/datadog/dsd.socket"))
    assert loaded.statsd_interval == 20.0


def test_an_empty_flag_says_that_names_have_no_namespace_and_an_empty_variable_says_nothing() -> None:
    by_flag = one_server(LISTEN | {"statsd.namespace": ""}).statsd
    by_variable = one_server(LISTEN, {"FOREWARN_STATSD_NAMESPACE": ""}).statsd
    assert by_flag is not None
    assert by_variable is not None
    assert (by_flag.namespace, by_variable.namespace) == ("", "faktory.")


def test_what_kubernetes_sets_beside_a_service_named_forewarn_statsd_is_no_mistake() -> None:
    links = {
        "FOREWARN_STATSD_SERVICE_HOST": "10.0.0.1",
        "FOREWARN_STATSD_SERVICE_PORT": "8125",
        "FOREWARN_STATSD_PORT": "udp://10.0.0.1:8125",
        "FOREWARN_STATSD_PORT_8125_UDP": "udp://10.0.0.1:8125",
        "FOREWARN_STATSD_PORT_8125_UDP_PROTO": "udp",
    }
    assert load({"faktory.url": URL}, links).servers[0].statsd is None


@pytest.mark.parametrize(
    ("flag", "text", "told"),
    [
        ("statsd.listen", "8125", "'8125' is not an address; write ADDR:PORT with a port from 0 to 65535"),
        ("statsd.listen", "localhost:65536", "'localhost:65536' is not an address; write ADDR:PORT"),
        ("statsd.listen", "::1:8125", "'::1:8125' is not an address; write ADDR:PORT"),
        ("statsd.listen", "host..example:8125", "'host..example:8125' is not an address; write ADDR:PORT"),
        ("statsd.listen", "ho st:8125", "'ho st:8125' is not an address; write ADDR:PORT"),
        ("statsd.listen", "[1:2]:8125", "'[1:2]:8125' is not an address; write ADDR:PORT"),
        ("statsd.listen", "udp://:hunter2@localhost:8125", "it is a URL, but must be the address alone; write ADDR"),
        ("statsd.listen", ":hunter2@localhost:8125", "it is a URL, but must be the address alone; write ADDR:PORT"),
        ("statsd.listen-unix", "", "it is not an absolute path; write one such as /run/forewarn/statsd.sock"),
        ("statsd.listen-unix", "statsd.sock", "it is not an absolute path; write one such as"),
        ("statsd.listen-unix", "unix:///run/statsd.sock", "it is not an absolute path; write one such as"),
        ("statsd.listen-unix", "/run/", "it is not the path of a socket; write one such as"),
        ("statsd.listen-unix", "/run/\0", "it is not the path of a socket; write one such as"),
        ("statsd.listen-unix", "/" + "x" * 107, "it is longer than the 107 bytes that the path of a socket may have"),
        ("statsd.relay", "localhost:8125", "the URL begins with none of udp://, unix://; write udp://HOST:PORT or"),
        ("statsd.relay", "udp://u:hunter2@host", "the URL carries a name or password, but StatsD knows none; write"),
        ("statsd.namespace", "a|b", "no name can begin so; write at most 64 printable characters"),
        ("statsd.namespace", "a:b", "no name can begin so; write at most 64 printable characters"),
        ("statsd.namespace", "a b", "no name can begin so; write at most 64 printable characters"),
        ("statsd.namespace", "a\n", "no name can begin so; write at most 64 printable characters"),
        ("statsd.namespace", "x" * 65, "no name can begin so; write at most 64 printable characters"),
        ("statsd.keep", "some", "'some' is not known; write one of known, all"),
        ("statsd.push", "udp://host", "the URL begins with none of statsd://, dogstatsd://, dogstatsd+unix://"),
        ("statsd.push", "statsd://u:hunter2@host", "the URL carries a name or password, but StatsD knows none"),
        ("statsd.push", "statsd://host/hunter2", "the URL goes on after its port, with a path; write statsd://HOST"),
        ("statsd.push", "statsd://host?hunter2", "the URL goes on with ? or #; write statsd://HOST:PORT"),
        ("statsd.push", "statsd://host:hunter2", "the URL is malformed after its scheme; write statsd://HOST:PORT"),
        ("statsd.interval", "999ms", "'999ms' is out of range; write a duration from 1s to 1h"),
        ("statsd.interval", "61m", "'61m' is out of range; write a duration from 1s to 1h"),
        ("statsd.interval", "10", "'10' is not a duration"),
    ],
)
def test_a_wrong_setting_of_statsd_is_told_once_with_its_fix(flag: str, text: str, told: str) -> None:
    shown = problems(LISTEN | {flag: text})
    assert shown.startswith(f"--{flag}: {told}")
    assert len(shown.splitlines()) == 1
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("flag", "text"), [("statsd.relay", "udp://host"), ("statsd.namespace", "jobs."), ("statsd.keep", "known")]
)
def test_what_concerns_listening_is_refused_where_nothing_is_listened_for(flag: str, text: str, tmp_path: Path) -> None:
    assert problems({"faktory.url": URL, flag: text}) == (
        f"--{flag}: nothing listens for the server's StatsD; set --statsd.listen or --statsd.listen-unix too"
    )
    key = flag.replace(".", "_")
    file = file_with(tmp_path, f"{SERVER}{key} = '{text}'")
    assert problems(file) == (
        f"{file['config']}: [[servers]] number 1: {key}: nothing listens for the server's StatsD;"
        " set statsd_listen or statsd_listen_unix too"
    )


def test_a_flag_of_statsd_beside_servers_of_the_file_tells_where_their_own_is_written(tmp_path: Path) -> None:
    assert problems(file_with(tmp_path, SERVER) | {"statsd.listen": ":8125"}) == (
        "--statsd.listen: the server 'faktory' has no url; set --faktory.url or FAKTORY_URL, for example to"
        " tcp://localhost:7419, or, for another server, write statsd_listen into its [[servers]] in the file"
    )


BULK = SERVER.replace("mail", "bulk")


@pytest.mark.parametrize(
    ("key", "mail", "bulk", "another"),
    [
        ("statsd_listen", "127.0.0.1:8125", "127.0.0.1:8125", "port"),
        ("statsd_listen", ":8125", "10.0.0.1:8125", "port"),
        ("statsd_listen_unix", "/run/statsd.sock", "/run/./statsd.sock", "path"),
    ],
)
def test_two_servers_cannot_be_listened_for_at_one_place(
    key: str, mail: str, bulk: str, another: str, tmp_path: Path
) -> None:
    file = file_with(tmp_path, f"{SERVER}{key} = '{mail}'\n{BULK}{key} = '{bulk}'\n")
    path = file["config"]
    assert problems(file) == (
        f"{path}: [[servers]] number 2: {key}: the StatsD of the server 'bulk' cannot be listened for where the StatsD"
        f" of the server 'mail' is ({path}: [[servers]] number 1: {key}); choose another {another}"
    )


def test_two_servers_may_be_listened_for_at_two_places(tmp_path: Path) -> None:
    text = f"{SERVER}statsd_listen = ':8125'\n{BULK}statsd_listen = ':8126'\nstatsd_listen_unix = '/run/bulk.sock'"
    assert [each.statsd is None for each in load(file_with(tmp_path, text), {}).servers] == [False, False]


@pytest.mark.parametrize(
    ("flags", "web"),
    [
        ({"statsd.listen": "127.0.0.1:9386"}, "web.listen_address"),
        ({"statsd.listen": ":80", "web.listen-address": "127.0.0.1:80"}, "--web.listen-address"),
    ],
)
def test_the_port_of_the_metrics_cannot_be_listened_on(flags: dict[str, str | None], web: str) -> None:
    assert problems({"faktory.url": URL, **flags}) == (
        "--statsd.listen: the StatsD of the server 'faktory' cannot be listened for where /metrics is"
        f" ({web}); choose another port"
    )


@pytest.mark.parametrize("listen", ["127.0.0.1:8125", ":8125", "localhost:8125"])
def test_what_would_be_relayed_to_the_listener_itself_is_refused(listen: str) -> None:
    flags = {"faktory.url": URL, "statsd.listen": listen}
    assert problems(flags | {"statsd.relay": "udp://localhost"}) == (
        "--statsd.relay: it leads to Forewarn itself, which listens there for the StatsD of the server 'faktory'"
        " (--statsd.listen): packets would come round again; name another StatsD server"
    )


def test_what_would_be_relayed_to_the_listener_of_another_server_is_refused(tmp_path: Path) -> None:
    file = file_with(
        tmp_path,
        f"{SERVER}statsd_listen = ':8125'\nstatsd_relay = 'unix:///run/bulk.sock'\n"
        f"{BULK}statsd_listen_unix = '/run/bulk.sock'\n",
    )
    told = (
        "number 1: statsd_relay: it leads to Forewarn itself, which listens there for the StatsD of the server 'bulk'"
    )
    assert told in problems(file)


@pytest.mark.parametrize("push", ["statsd://localhost", "dogstatsd://127.0.0.1:8125"])
def test_what_would_be_pushed_to_forewarns_own_listener_is_refused(push: str) -> None:
    assert problems(LISTEN | {"statsd.push": push}) == (
        "--statsd.push: it leads to Forewarn itself, which listens there for the StatsD of the server 'faktory'"
        " (--statsd.listen): Forewarn would only hear its own numbers; name another StatsD server"
    )


def test_one_agent_may_be_relayed_and_pushed_to() -> None:
    agent = {"statsd.relay": "udp://agent.example", "statsd.push": "dogstatsd://agent.example"}
    assert load({**LISTEN, **agent}, {}).statsd_push is not None


# --- the server's output --------------------------------------------------------------------------------------------


def log_of(flags: Flags, environ: Mapping[str, str] | None = None) -> LogWatch | None:
    return one_server({"faktory.url": URL} | dict(flags), environ).log


@pytest.mark.parametrize("flags", [{}, {"faktory.log-file": None}, {"faktory.log-file": [], "faktory.log-journal": []}])
def test_nobody_reads_the_output_unless_it_is_named(flags: Flags) -> None:
    assert log_of(flags) is None


def test_a_file_and_a_unit_may_be_named_alone_or_several_of_them() -> None:
    assert log_of({"faktory.log-file": "/a.log"}) == LogWatch(files=("/a.log",))
    assert log_of({"faktory.log-journal": "a.service"}) == LogWatch(journals=("a.service",))
    several: Flags = {"faktory.log-file": ["/b.log", "/a.log"], "faktory.log-journal": ["b", "a@*"]}
    assert log_of(several) == LogWatch(files=("/b.log", "/a.log"), journals=("b", "a@*"))


def test_variables_have_a_colon_between_several() -> None:
    environ = {"FOREWARN_FAKTORY_LOG_FILE": "/a.log:/var/log/*.log:-", "FOREWARN_FAKTORY_LOG_JOURNAL": "a:b.service"}
    assert log_of({}, environ) == LogWatch(files=("/a.log", "/var/log/*.log", "-"), journals=("a", "b.service"))


def test_a_colon_in_a_flag_or_the_file_belongs_to_the_name(tmp_path: Path) -> None:
    assert log_of({"faktory.log-file": ["/a:b.log"]}) == LogWatch(files=("/a:b.log",))
    file = file_with(tmp_path, f'{SERVER}log_files = ["/a:b.log"]\nlog_journals = ["a:b.service"]')
    assert one_server(file).log == LogWatch(files=("/a:b.log",), journals=("a:b.service",))


def test_what_is_named_twice_is_read_once() -> None:
    assert log_of({"faktory.log-file": ["/a.log", "/b.log", "/a.log"]}) == LogWatch(files=("/a.log", "/b.log"))


def test_a_text_that_stands_alone_in_the_file_is_a_list_of_one(tmp_path: Path) -> None:
    file = file_with(tmp_path, f'{SERVER}log_files = "/a.log"\nlog_journals = "a.service"')
    assert one_server(file).log == LogWatch(files=("/a.log",), journals=("a.service",))


def test_empty_lists_in_the_file_name_nothing(tmp_path: Path) -> None:
    assert one_server(file_with(tmp_path, f"{SERVER}log_files = []\nlog_journals = []")).log is None


def test_flags_go_over_the_lists_of_the_file_as_a_whole(tmp_path: Path) -> None:
    file = file_with(tmp_path, SERVER.replace("mail", "faktory") + 'log_files = ["/a.log", "/b.log"]')
    assert one_server(file, {"FOREWARN_FAKTORY_LOG_FILE": "/c.log"}).log == LogWatch(files=("/c.log",))
    flags = file | {"faktory.log-file": ["/d.log"]}
    assert one_server(flags, {"FOREWARN_FAKTORY_LOG_FILE": "/c.log"}).log == LogWatch(files=("/d.log",))


def test_a_folder_whose_name_looks_like_a_pattern_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "[1]"
    folder.mkdir()
    log = one_server(file_with(folder, f'{SERVER}log_files = ["*.log"]')).log
    assert log == LogWatch(files=(f"{tmp_path}/[[]1]/*.log",))


def test_standard_input_in_the_file_is_no_file_beside_it(tmp_path: Path) -> None:
    assert one_server(file_with(tmp_path, f'{SERVER}log_files = ["-"]')).log == LogWatch(files=("-",))


def test_standard_input_is_read_for_one_server_alone(tmp_path: Path) -> None:
    file = file_with(tmp_path, f'{SERVER}log_files = ["-"]')
    assert problems(file | {"faktory.url": URL, "faktory.log-file": ["-"]}) == (
        "--faktory.log-file: standard input is read for the server 'mail' already; give each server a file or a named"
        " pipe of its own"
    )


def test_standard_input_of_a_server_that_forewarn_runs_is_not_forewarns_to_read() -> None:
    flags = {"faktory.url": URL, "faktory.log-file": ["/a.log", "-"]}
    with pytest.raises(SettingsError, match=r"--faktory\.log-file: .* is the server's own, .*; leave - out"):
        load(flags, {}, own_input=False)
    assert load(flags | {"faktory.log-file": "/a.log"}, {}, own_input=False).servers[0].log is not None


@pytest.mark.parametrize(
    ("flag", "texts", "told"),
    [
        ("faktory.log-file", [""], "'' is not a path; write one of a file, such as /var/log/faktory.log"),
        ("faktory.log-file", "", "'' is not a path"),
        ("faktory.log-file", ["/a.log", "/\0"], r"'/\x00' is not a path"),
        ("faktory.log-file", ["/" + "x" * 4096], "…' is not a path"),
        ("faktory.log-file", ["/tmp"], "/tmp is a folder; name the files in it, such as /tmp/*.log"),  # noqa: S108
        (
            "faktory.log-file",
            [f"/{number}.log" for number in range(MAX_LOG_FILES + 1)],
            "there are more than 32 paths; use a pattern, such as /var/log/faktory/*.log",
        ),
        ("faktory.log-journal", [""], "'' is not the name of a unit; write one such as faktory.service"),
        ("faktory.log-journal", ["--system"], "'--system' is not the name of a unit"),
        ("faktory.log-journal", ["faktory service"], "'faktory service' is not the name of a unit"),
        ("faktory.log-journal", ["a\n"], r"'a\n' is not the name of a unit"),
        ("faktory.log-journal", ["faktory/a"], "'faktory/a' is not the name of a unit"),
        ("faktory.log-journal", ["x" * 256], "…' is not the name of a unit"),
        (
            "faktory.log-journal",
            [f"{number}.service" for number in range(MAX_LOG_JOURNALS + 1)],
            "there are more than 8 units; name only those of this server",
        ),
    ],
)
def test_an_output_that_cannot_be_read_is_told_with_its_fix(flag: str, texts: str | list[str], told: str) -> None:
    shown = problems({"faktory.url": URL, flag: texts})
    assert shown.startswith(f"--{flag}: ")
    assert told in shown
    assert len(shown) < 300


def test_a_wrong_entry_in_a_variable_is_told_with_the_variable() -> None:
    shown = problems({"faktory.url": URL}, {"FOREWARN_FAKTORY_LOG_FILE": "/a.log:"})
    assert shown == (
        "environment variable FOREWARN_FAKTORY_LOG_FILE: '' is not a path; write one of a file, such as"
        " /var/log/faktory.log"
    )


# --- passwords ------------------------------------------------------------------------------------------------------


def test_a_password_leaves_the_url_and_is_decoded() -> None:
    server = one_server(
        {"faktory.url": "tcp://:p%40ss@host:1", "faktory.redis-url": "redis://user:r%2Fs@redis.example/1"}
    )
    assert (server.url.reveal(), server.password) == ("tcp://host:1", Secret("p@ss"))
    assert server.redis_url is not None
    assert (server.redis_url.reveal(), server.redis_password) == ("redis://user@redis.example/1", Secret("r/s"))


def test_the_password_of_the_stronger_layer_is_taken(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("file")
    file = file_with(tmp_path, f'{SERVER}password_file = "password"'.replace("mail", "faktory"))
    assert one_server(file).password == Secret("file")
    assert one_server(file, {"FAKTORY_PASSWORD": "environment"}).password == Secret("environment")
    assert one_server(
        file | {"faktory.url": "tcp://:flag@host"}, {"FAKTORY_PASSWORD": "environment"}
    ).password == Secret("flag")


def test_within_one_layer_a_password_file_goes_over_the_url_and_that_over_faktory_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("file")
    environ = {"FAKTORY_URL": "tcp://:url@host", "FAKTORY_PASSWORD": "variable"}
    assert one_server({}, environ).password == Secret("url")
    environ["FOREWARN_FAKTORY_PASSWORD_FILE"] = str(tmp_path / "password")
    assert one_server({}, environ).password == Secret("file")


PASSWORDS = st.text(string.ascii_letters + string.digits + "@:/?#[]%&$ é", min_size=8, max_size=30).map(
    lambda text: f"5ecret{text.strip()}end"
)


@given(secret=PASSWORDS, mistake=st.sampled_from(["", "ftp", ":bad", "/path", "?x=1"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_secret_is_ever_shown(secret: str, mistake: str, tmp_path: Path) -> None:
    scheme = "ftp" if mistake == "ftp" else "tcp"
    end = "" if mistake == "ftp" else mistake
    url = f"{scheme}://:{secret}@host{end}"
    redis = f"redis://:{secret}@host{end}"
    (tmp_path / "password").write_text(secret)
    (tmp_path / "headers").write_text(f"x-key: {secret}")
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    file = file_with(tmp_path, SERVER.replace(URL, quoted) + 'password_file = "password"')
    shown = [redact_url(url), redact_url(redis)]
    attempts: list[tuple[dict[str, str | None], dict[str, str]]] = [
        ({"faktory.url": url, "faktory.redis-url": redis}, {}),
        ({"faktory.url": url, "interval": "soon"}, {}),
        ({"faktory.url": URL, "faktory.web-url": f"http://u:{secret}@host"}, {}),
        ({}, {"FAKTORY_URL": url, "FAKTORY_PASSWORD": secret}),
        ({}, {"FAKTORY_URL": URL, "FAKTORY_PASSWORD": f"/{secret}"}),
        ({}, {"FAKTORY_PROVIDER": url}),
        ({}, {"FAKTORY_PROVIDER": "ADDON", "ADDON": url}),
        ({"faktory.url": URL, "otlp.endpoint": f"http://:{secret}@host{end}"}, {}),
        ({"faktory.url": URL, "statsd.push": f"dogstatsd://:{secret}@host{end}"}, {}),
        ({"faktory.url": URL}, {"FOREWARN_STATSD_PUSH": f"statsd://{secret}@host{end}"}),
        ({"faktory.url": URL, "statsd.listen": ":8125", "statsd.relay": f"udp://u:{secret}@host{end}"}, {}),
        ({"faktory.url": URL, "statsd.listen": f"udp://:{secret}@host{end}"}, {}),
        ({"faktory.url": URL, "otlp.endpoint": COLLECTOR, "otlp.headers-file": str(tmp_path / "headers")}, {}),
        ({"faktory.url": URL}, ENDPOINT | {"OTEL_EXPORTER_OTLP_HEADERS": f"x-key={secret}"}),
        ({"faktory.url": URL}, ENDPOINT | {"OTEL_EXPORTER_OTLP_HEADERS": f"{secret}"}),
        (file, {}),
        (file_with(tmp_path / "..", SERVER.replace(URL, quoted)[:-3]), {}),
    ]
    for flags, environ in attempts:
        try:
            loaded = load(flags, environ)
        except SettingsError as error:
            shown += [str(error), repr(error), *error.problems]
        else:
            shown += [str(loaded), repr(loaded), *(url for server in loaded.servers for url in [server.web_url])]
    assert not [text for text in shown if "5ecret" in text]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_nothing_configured_says_what_to_set() -> None:
    with pytest.raises(NothingConfigured, match=r"--faktory\.url .*FAKTORY_URL.*--config.*forewarn demo"):
        load({}, {"FAKTORY_PASSWORD": "plain", "PATH": "/bin"})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"interval": "5"}, "--interval: '5' is not a duration; write one such as 500ms"),
        ({"interval": "999ms"}, "--interval: '999ms' is out of range"),
        ({"interval": "61m"}, "--interval: '61m' is out of range"),
        ({"log.format": "xml"}, "--log.format: 'xml' is not known; write one of text, json"),
        ({"log.level": "loud"}, "--log.level: 'loud' is not known; write one of debug"),
        ({"web.listen-address": "localhost:99999"}, "a port from 0 to 65535"),
        ({"web.config.file": ""}, "--web.config.file: it is not a path"),
        ({"web.enable-lifecycle": "yes"}, "--web.enable-lifecycle: 'yes' is not known; write one of true, false"),
        ({"web.runbooks-url": "wiki.example"}, "--web.runbooks-url: the URL does not begin with http:// or https://"),
        ({"web.runbooks-url": "javascript://x"}, "--web.runbooks-url: the URL does not begin with http:// or"),
        ({"web.runbooks-url": "https://u:pw@h"}, "--web.runbooks-url: the URL carries a name or password"),
        ({"web.dashboards-url": "https://h:port"}, "--web.dashboards-url: the URL is malformed after its scheme"),
        ({"web.dashboards-url": "https:///grafana"}, "--web.dashboards-url: the URL names no host"),
        ({"web.dashboards-url": "https://h/?orgId=1"}, "--web.dashboards-url: the URL goes on with ? or #"),
        ({"max-label-values": "0"}, "--max-label-values: '0' is not a whole number from 1"),
        ({"max-label-values": "many"}, "--max-label-values: 'many' is not a whole number"),
        ({"state-file": ""}, "--state-file: it is not a path"),
        ({"otlp.endpoint": "host:4318"}, "--otlp.endpoint: the URL does not begin with http:// or https://"),
        ({"otlp.headers-file": "/nowhere"}, "--otlp.headers-file: /nowhere does not exist"),
        ({"otlp.ca-file": __file__}, "--otlp.ca-file: " + __file__ + " holds no certificate"),
        ({"otlp.metrics-interval": "999ms"}, "--otlp.metrics-interval: '999ms' is out of range"),
        ({"traces.slow-seconds": "60s"}, "--traces.slow-seconds: '60s' is not a number from 0 to 31536000"),
        ({"traces.slow-seconds": "-1"}, "--traces.slow-seconds: '-1' is not a number"),
        ({"traces.slow-seconds": "nan"}, "--traces.slow-seconds: 'nan' is not a number"),
        ({"traces.slow-seconds": "1e999"}, "--traces.slow-seconds: '1e999' is not a number"),
        ({"traces.slow-seconds": "٦٠"}, "--traces.slow-seconds: '٦٠' is not a number"),
        ({"traces.slow-seconds": "1.2.3"}, "--traces.slow-seconds: '1.2.3' is not a number"),
        ({"traces.ratio": "1.01"}, "--traces.ratio: '1.01' is not a number from 0 to 1"),
        ({"traces.ratio": "5%"}, "--traces.ratio: '5%' is not a number from 0 to 1"),
        ({"traces.per-second": "many"}, "--traces.per-second: 'many' is not a number from 0 to 10000"),
        ({"traces.poll-ratio": "2"}, "--traces.poll-ratio: '2' is not a number from 0 to 1"),
        ({"traces.traceparent": "child"}, "--traces.traceparent: 'child' is not known; write one of link, parent"),
        ({"config": "/nowhere.toml"}, "--config: /nowhere.toml does not exist"),
        ({"config": "/"}, "--config: / is not a file"),
        ({"faktory.url": "http://host"}, "--faktory.url: the URL does not begin with tcp:// or tcp+tls://"),
        ({"faktory.url": "tcp://host:port"}, "--faktory.url: the URL is malformed"),
        ({"faktory.web-url": "tcp://host"}, "--faktory.web-url: the URL does not begin with http:// or https://"),
        ({"faktory.web-url": "http://:pw@host"}, "--faktory.web-url: the URL carries a name or password"),
        ({"faktory.redis-url": "http://host"}, "--faktory.redis-url: the URL does not begin with redis://"),
        ({"faktory.redis-url": "unix://redis.sock"}, "--faktory.redis-url: the URL names no absolute path"),
        ({"faktory.connections-limit": "-1"}, "--faktory.connections-limit: '-1' is not a whole number"),
        ({"faktory.password-file": "/nowhere"}, "--faktory.password-file: /nowhere does not exist"),
        ({"faktory.redis-password-file": "/"}, "--faktory.redis-password-file: / is not a file"),
        ({"faktory.ca-file": "/nowhere"}, "--faktory.ca-file: /nowhere does not exist"),
        ({"faktory.ca-file": __file__}, "holds no certificate"),
    ],
)
def test_a_wrong_flag_is_told_with_its_fix(flags: dict[str, str | None], told: str) -> None:
    assert told in problems({"faktory.url": URL, **flags})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("intervall = '5s'", "{file}: intervall: there is no such key; did you mean interval?"),
        ("[log]\ncolour = 'red'", "{file}: log.colour: there is no such key"),
        ("log = 'json'", "{file}: log is not a table; write [log]"),
        ("otlp = 'http://h'", "{file}: otlp is not a table; write [otlp]"),
        ("statsd = 'statsd://h'", "{file}: statsd is not a table; write [statsd]"),
        (
            "[statsd]\nlisten = ':8125'",
            "{file}: statsd.listen: it belongs to a server; write statsd_listen into its [[servers]]",
        ),
        ("[web]\nenable_lifecycle = 'true'", "{file}: web.enable_lifecycle: it is a text; write true or false"),
        ("[web]\nenable_lifecycle = 1", "{file}: web.enable_lifecycle: it is a number; write true or false"),
        ("[web]\nrunbooks_url = true", "{file}: web.runbooks_url: it is true or false; write a text in quotes"),
        ("[web]\nconfig = 'x'", "{file}: web.config: there is no such key; did you mean web.config_file?"),
        ("config_dir = '/'", "{file}: config_dir: it belongs to a server; write config_dir into its [[servers]]"),
        ("log_files = ['/a.log']", "{file}: log_files: it belongs to a server; write log_files into its [[servers]]"),
        (
            "[log]\nfiles = ['/a.log']",
            "{file}: log.files: it belongs to a server; write log_files into its [[servers]]",
        ),
        (
            f"{SERVER}log_files = 1",
            'number 1: log_files: it is a number; write a list of texts in quotes, such as log_files = ["one", "an',
        ),
        (f"{SERVER}log_files = true", "number 1: log_files: it is true or false; write a list of texts in quotes"),
        (f"{SERVER}log_files = ['/a', 0]", "number 1: log_files: there is a number in it; write a list of texts"),
        (f"{SERVER}log_files = [[]]", "number 1: log_files: there is a list in it; write a list of texts"),
        (f"{SERVER}log_journals = {{}}", "number 1: log_journals: it is a table; write a list of texts in quotes"),
        (f"{SERVER}log_journals = ['-x']", "number 1: log_journals: '-x' is not the name of a unit"),
        (f"{SERVER}config_dir = ['/']", "number 1: config_dir: it is a list; write a text in quotes"),
        ("[statsd]\npush = 8125", "{file}: statsd.push: it is a number; write a text in quotes"),
        (f"{SERVER}statsd_listen = 8125", "number 1: statsd_listen: it is a number; write a text in quotes"),
        (f"{SERVER}statsd_keep = true", "number 1: statsd_keep: it is true or false; write a text in quotes"),
        ("[otlp]\nendpont = 'http://h'", "{file}: otlp.endpont: there is no such key; did you mean otlp.endpoint?"),
        ("[otlp]\nendpoint = 'h:4318'", "{file}: otlp.endpoint: the URL does not begin with http://"),
        ("[traces]\nratio = '1'", "{file}: traces.ratio: it is a text; write a number without quotes"),
        ("[traces]\nratio = true", "{file}: traces.ratio: it is true or false; write a number without quotes"),
        ("[traces]\nratio = inf", "{file}: traces.ratio: 'inf' is not a number from 0 to 1"),
        ("[traces]\ntraceparent = true", "{file}: traces.traceparent: it is true or false; write a text"),
        ("interval = 5", "{file}: interval: it is a number; write a text in quotes"),
        ("interval = true", "{file}: interval: it is true or false; write a text in quotes"),
        ("max_label_values = '5'", "{file}: max_label_values: it is a text; write a whole number without quotes"),
        ("max_label_values = true", "{file}: max_label_values: it is true or false; write a whole number"),
        ("servers = 1", "{file}: servers is not a list of tables; begin each server with [[servers]]"),
        ("interval = '5s'\nx = =", "{file}: it is not TOML: line 2, column 5 cannot be understood"),
        ("interval = '5s'\nx = [", "{file}: it is not TOML: it ends in line 2"),
        ("[[servers]]\nsystem='faktory'\nurl='tcp://h'", "[[servers]] number 1: name is missing"),
        ("[[servers]]\nname='a'\nurl='tcp://h'", '[[servers]] number 1: system is missing; write system = "faktory"'),
        ("[[servers]]\nname='a'\nsystem='franz'\nurl='tcp://h'", "system 'franz' is not known"),
        ("[[servers]]\nname=''\nsystem='faktory'\nurl='tcp://h'", "name must have 1 to 64 printable characters"),
        (f"[[servers]]\nname='{'a' * 65}'\nsystem='faktory'\nurl='tcp://h'", "name must have 1 to 64 printable"),
        ("[[servers]]\nname='a'\nsystem='faktory'", "the server 'a' has no url"),
        (
            "[[servers]]\nname='a'\nsystem='faktory'\nweb-url='x'",
            "number 1: web-url: there is no such key; did you mean",
        ),
        (SERVER + SERVER, "[[servers]] number 2: name: two servers are named 'mail'"),
    ],
)
def test_a_wrong_file_is_told_with_its_place_and_fix(text: str, told: str, tmp_path: Path) -> None:
    flags = file_with(tmp_path, text)
    assert told.format(file=flags["config"]) in problems(flags)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "forewarn.toml"
    path.write_bytes(b"interval = '\xff'")
    assert f"{path}: it is not UTF-8 text" in problems({"config": str(path)})


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in problems(file_with(tmp_path, "x = " + "[" * 100_000))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    flags = file_with(tmp_path, f"intervall = '5s'\nmax_label_values = 0\n{SERVER}connections_limit = 0")
    told = problems(flags | {"log.level": "loud"}, {"FOREWARN_NOTHING": "1"})
    assert len(told.splitlines()) == 5


@pytest.mark.parametrize("content", ["", " \n", "x" * 5000])
def test_an_empty_or_huge_secret_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(content)
    told = problems({"faktory.url": URL, "faktory.password-file": str(path)})
    assert f"--faktory.password-file: {path} is " in told
    assert "xxx" not in told


@pytest.mark.parametrize("name", ["FOREWARN_INTERVALL", "FOREWARN_LISTEN_PORT"])
def test_an_unknown_variable_of_ours_is_refused(name: str) -> None:
    assert f"environment variable {name}: there is no such setting" in problems({"faktory.url": URL}, {name: "9386"})


def test_the_nearest_variable_is_offered() -> None:
    told = problems({"faktory.url": URL}, {"FOREWARN_INTERVALL": "5s"})
    assert "did you mean FOREWARN_INTERVAL?" in told


def test_what_kubernetes_sets_beside_a_service_named_forewarn_is_no_mistake() -> None:
    links = {
        "FOREWARN_SERVICE_HOST": "10.0.0.1",
        "FOREWARN_SERVICE_PORT": "9386",
        "FOREWARN_SERVICE_PORT_METRICS": "9386",
        "FOREWARN_PORT": "tcp://10.0.0.1:9386",
        "FOREWARN_PORT_9386_TCP": "tcp://10.0.0.1:9386",
        "FOREWARN_PORT_9386_TCP_PROTO": "tcp",
        "FOREWARN_PORT_9386_TCP_PORT": "9386",
        "FOREWARN_PORT_9386_TCP_ADDR": "10.0.0.1",
        "FOREWARN_EU_SERVICE_HOST": "10.0.0.1",
    }
    assert load({"faktory.url": URL}, links).interval == 5.0


# --- durations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("1m30s", 90), ("1h", 3600), ("1d", 86400), ("1w2d", 777600), ("0s", 0)],
)
def test_durations_are_read_as_prometheus_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "1.5s", "5s1m", "5 s", "٥s", "5S", "1" * 400 + "s"])
def test_nothing_else_is_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)
