"""Where a server is, read from a URL that may hold a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.faktory.endpoint import Endpoint
from exporter.faktory.redis_link import RedisAddress
from exporter.secret import Secret

PASSWORD = "hunter2-hunter2"


def test_a_url_tells_host_port_and_password() -> None:
    assert Endpoint.parse("tcp://:secret@faktory:7000") == Endpoint("faktory", 7000, Secret("secret"))


def test_the_port_is_7419_unless_told_otherwise() -> None:
    assert Endpoint.parse("tcp://faktory").port == 7419


def test_tls_is_told_by_the_scheme() -> None:
    endpoint = Endpoint.parse("tcp+tls://faktory", Path("/ca.pem"))
    assert endpoint.tls
    assert endpoint.ca_file == Path("/ca.pem")


def test_special_characters_of_a_password_are_percent_encoded() -> None:
    assert Endpoint.parse("tcp://:p%40%3A%2Fw%C3%BC@faktory:7419").password == Secret("p@:/wü")


def test_a_host_may_be_an_ipv6_address() -> None:
    endpoint = Endpoint.parse("tcp://:pw@[::1]:7000")
    assert (endpoint.host, endpoint.port) == ("::1", 7000)
    assert endpoint.where == "[::1]:7000"


def test_an_empty_password_is_none() -> None:
    assert Endpoint.parse("tcp://:@faktory").password is None


@pytest.mark.parametrize(
    "url",
    ["", "faktory:7419", "http://:{pw}@faktory", "tcp://", "tcp://:{pw}@", "tcp://:{pw}@faktory:port", "tcp://:{pw}@faktory:99999",
     "tcp://:{pw}@faktory:0", "tcp://:{pw}@faktory/path", "tcp://:{pw}@faktory?a=b", "tcp://:{pw}#@faktory", "tcp://:{pw}/x@faktory",
     "tcp://:{pw}@[::1"],
)  # fmt: skip
def test_what_is_wrong_with_a_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        Endpoint.parse(url.replace("{pw}", PASSWORD))
    assert PASSWORD not in str(caught.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("tcp:/@?#[]:%s\\0", max_size=12), st.text(":/@?#[]%019", max_size=12))
def test_no_url_whatever_gets_its_password_into_an_error(before: str, after: str) -> None:
    url = before + PASSWORD + after
    for parse in (Endpoint.parse, RedisAddress.parse):
        try:
            parse(url)
        except ValueError as error:
            assert PASSWORD not in str(error)  # noqa: PT017


def test_an_endpoint_does_not_show_its_password() -> None:
    assert "secret" not in repr(Endpoint.parse("tcp://:secret@faktory"))


def test_a_redis_may_be_a_unix_socket() -> None:
    address = RedisAddress.parse("unix:///var/lib/faktory/db/redis.sock?db=3")
    assert (address.path, address.db) == ("/var/lib/faktory/db/redis.sock", 3)


def test_a_redis_may_be_a_host() -> None:
    address = RedisAddress.parse("rediss://user:pw@cache.example:6380/2")
    assert (address.host, address.port, address.db, address.tls) == ("cache.example", 6380, 2, True)
    assert (address.username, address.password) == ("user", Secret("pw"))


def test_a_redis_password_may_come_from_elsewhere() -> None:
    assert RedisAddress.parse("redis://cache", Secret("pw")).password == Secret("pw")


@pytest.mark.parametrize(
    "url", ["", "unix://redis.sock", "unix:redis.sock", "unix:///a?x=1", "unix:///a?db=x", "redis://", "redis://h/x", "http://h"]
)  # fmt: skip
def test_what_is_no_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        RedisAddress.parse(url)
