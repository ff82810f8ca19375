"""Where a setting is given, and what a remedy says to write there."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.check.places import NUMBER, Places
from exporter.settings import GLOBAL_FLAGS, SERVER_FLAGS, load

URL = "tcp://127.0.0.1:7419"


def line(remedy: str) -> str:
    (found,) = [it[4:] for it in remedy.splitlines() if it.startswith("    ")]
    return found


def test_a_flag_is_changed_by_the_flag() -> None:
    places = Places({"faktory.url": URL}, {"FAKTORY_URL": "tcp://elsewhere"})
    assert line(places.of_server("faktory").set("url", "tcp://there", "so")) == "--faktory.url tcp://there"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"FAKTORY_URL": URL}, "export FAKTORY_URL=tcp://there"),
        ({"FAKTORY_PROVIDER": "MY_URL", "MY_URL": URL}, "export MY_URL=tcp://there"),
        ({"FOREWARN_FAKTORY_URL": URL, "FAKTORY_URL": "tcp://else"}, "export FOREWARN_FAKTORY_URL=tcp://there"),
    ],
)
def test_a_variable_is_changed_by_that_variable(environ: Mapping[str, str], expected: str) -> None:
    assert line(Places({}, environ).of_server("faktory").set("url", "tcp://there", "so")) == expected


def test_a_key_of_the_file_is_changed_in_its_table(tmp_path: Path) -> None:
    file = tmp_path / "forewarn.toml"
    file.write_text(f'[[servers]]\nname = "eu \\"1\\""\nsystem = "faktory"\nurl = "{URL}"\n')
    remedy = Places({"config": str(file)}, {}).of_server('eu "1"').set("redis_url", 'unix:///a"b', "so")
    assert remedy == f'so: in {file}, in the [[servers]] with name = "eu \\"1\\"":\n    redis_url = "unix:///a\\"b"'


def test_what_is_not_given_yet_is_given_where_the_url_is(tmp_path: Path) -> None:
    flags = Places({"faktory.url": URL}, {}).of_server("faktory")
    assert line(flags.set("connections_limit", NUMBER, "so")) == "--faktory.connections-limit N"
    environ = Places({"interval": "5s"}, {"FAKTORY_URL": URL}).of_server("faktory")
    assert line(environ.set("connections_limit", NUMBER, "so")) == "export FOREWARN_FAKTORY_CONNECTIONS_LIMIT=N"
    file = tmp_path / "forewarn.toml"
    file.write_text(f'[[servers]]\nname = "faktory"\nsystem = "faktory"\nurl = "{URL}"\n')
    in_file = Places({"config": str(file)}, {}).of_server("faktory")
    assert line(in_file.set("connections_limit", NUMBER, "so")) == "connections_limit = N"


def test_flags_say_nothing_of_servers_with_another_name(tmp_path: Path) -> None:
    file = tmp_path / "forewarn.toml"
    file.write_text(f'[[servers]]\nname = "eu"\nsystem = "faktory"\nurl = "{URL}"\n')
    places = Places({"config": str(file), "faktory.redis-url": "unix:///x"}, {"FAKTORY_PASSWORD": "x"}).of_server("eu")
    assert line(places.set("redis_url", "unix:///y", "so")) == 'redis_url = "unix:///y"'
    assert line(places.set_password("password_file", "url", "so")) == 'password_file = "/path/to/password-file"'


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({"interval": "1s"}, {}, "--state-file /x"),
        ({}, {"FAKTORY_URL": URL}, "export FOREWARN_STATE_FILE=/x"),
        ({}, {"FOREWARN_STATE_FILE": "/y", "FAKTORY_URL": URL}, "export FOREWARN_STATE_FILE=/x"),
        ({"state-file": "/y"}, {"FOREWARN_STATE_FILE": "/z"}, "--state-file /x"),
    ],
)
def test_the_sidecars_own_settings(flags: Mapping[str, str], environ: Mapping[str, str], expected: str) -> None:
    assert line(Places(flags, environ).set("state_file", "/x", "so")) == expected


def test_the_sidecars_own_settings_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "forewarn.toml"
    file.write_text('state_file = "y"\n')
    places = Places({"config": str(file)}, {})
    assert f"in {file}, above its first [table]:" in places.set("state_file", "/x", "so")
    assert f"in {file}, under [web]:" in places.set("web.listen_address", ":1", "so")
    assert line(places.set("web.listen_address", ":1", "so")) == 'listen_address = ":1"'


def test_every_setting_has_a_place() -> None:
    places = Places({"faktory.url": URL}, {})
    for key in SERVER_FLAGS.values():
        assert line(places.of_server("faktory").set(key, "x", "so")).startswith("--")
    for key in GLOBAL_FLAGS.values():
        assert line(places.set(key, "x", "so")).startswith("--")


def test_a_password_file_that_is_named_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "forewarn.toml"
    file.write_text(f'[[servers]]\nname = "eu"\nsystem = "faktory"\nurl = "{URL}"\npassword_file = "se cret"\n')
    remedy = Places({"config": str(file)}, {}).of_server("eu").set_password("password_file", "url", "so")
    assert line(remedy) == f"printf %s PASSWORD > '{tmp_path}/se cret'"


def test_what_gives_settings_is_told(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("")
    assert Places({"faktory.url": URL}, {}).layers == "flags"
    assert Places({"config": str(file), "interval": "5s"}, {"FAKTORY_URL": URL}).layers == (
        f"flags, the environment and {file}"
    )


secrets = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=6, max_size=20).filter(
    lambda it: it.upper() not in "TCP+TLS://:PASSWORD@127.0.0.1:7419 FOREWARN_FAKTORY_URL USER"
)


@given(user=secrets, password=secrets, layer=st.sampled_from(["flag", "variable", "file"]))
def test_no_remedy_ever_holds_a_user_or_password(
    user: str, password: str, layer: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    quoted = f"{quote(user, safe='')}:{quote(password, safe='')}"
    url, redis = f"tcp://{quoted}@127.0.0.1:7419", f"redis://{quoted}@127.0.0.1:6379/0"
    flags: dict[str, Any] = {}
    environ: dict[str, str] = {"FAKTORY_PASSWORD": f"x{password}"}
    if layer == "flag":
        flags = {"faktory.url": url, "faktory.redis-url": redis}
    elif layer == "variable":
        environ |= {"FAKTORY_URL": url, "FOREWARN_FAKTORY_REDIS_URL": redis}
    else:
        file = tmp_path_factory.mktemp("places") / "f.toml"
        file.write_text(f'[[servers]]\nname = "faktory"\nsystem = "faktory"\nurl = "{url}"\nredis_url = "{redis}"\n')
        assert tomllib.loads(file.read_text())
        flags = {"config": str(file)}
    load(flags, environ)
    places = Places(flags, environ).of_server("faktory")
    remedies = [
        places.set_url("url", "tcp+tls://127.0.0.1:7419", "so"),
        places.set_url("redis_url", "rediss://127.0.0.1:6379/0", "so"),
        places.set_password("password_file", "url", "so"),
        places.set_password("redis_password_file", "redis_url", "so"),
    ]
    assert ":PASSWORD@" in remedies[0]
    assert "USER:PASSWORD@" in remedies[1]
    for remedy in remedies:
        for secret in (user, password, quote(user, safe=""), quote(password, safe="")):
            assert secret not in remedy
