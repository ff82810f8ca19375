"""Addresses of StatsD servers: which are understood, which meet, and which lead back to Forewarn itself."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.statsd.address import StatsdAddress, UdpAddress, collide, leads_to, parse_push, parse_relay
from exporter.web.address import Address, parse_address

UDP_FORMS = [
    ("host.example:8125", UdpAddress("host.example", 8125)),
    ("host.example:1", UdpAddress("host.example", 1)),
    ("host.example", UdpAddress("host.example", 8125)),
    ("host.example/", UdpAddress("host.example", 8125)),
    ("under_score:65535", UdpAddress("under_score", 65535)),
    ("10.0.0.1:9125", UdpAddress("10.0.0.1", 9125)),
    ("[::1]:9125", UdpAddress("::1", 9125)),
    ("[fe80::1%eth0]", UdpAddress("fe80::1%eth0", 8125)),
    ("bücher.example", UdpAddress("bücher.example", 8125)),
]
PATHS = [
    ("/run/statsd.sock", Path("/run/statsd.sock")),
    ("/run/a%20b%23%3F.sock", Path("/run/a b#?.sock")),
    ("/run/über.sock", Path("/run/über.sock")),
    ("/" + "x" * 106, Path("/" + "x" * 106)),
]


@pytest.mark.parametrize(("rest", "address"), UDP_FORMS)
def test_a_udp_port_is_understood(rest: str, address: UdpAddress) -> None:
    assert parse_relay(f"udp://{rest}") == address
    assert parse_push(f"statsd://{rest}") == (False, address)
    assert parse_push(f"dogstatsd://{rest}") == (True, address)


@pytest.mark.parametrize(("rest", "path"), PATHS)
def test_the_path_of_a_unix_socket_is_understood(rest: str, path: Path) -> None:
    assert parse_relay(f"unix://{rest}") == path
    assert parse_push(f"dogstatsd+unix://{rest}") == (True, path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "begins with none of {schemes}"),
        ("host.example:8125", "begins with none of {schemes}"),
        ("http://host.example:8125", "begins with none of {schemes}"),
        ("//host.example:8125", "begins with none of {schemes}"),
        ("{udp}://user:hunter2@host.example", "carries a name or password, but StatsD knows none"),
        ("{udp}://hunter2@host.example:8125", "carries a name or password, but StatsD knows none"),
        ("{unix}://hunter2@/run/statsd.sock", "carries a name or password, but StatsD knows none"),
        ("{udp}://:hunter2/x@host.example", "is malformed after its scheme"),
        ("{udp}://host.example:hunter2", "is malformed after its scheme"),
        ("{udp}://host.example:65536", "is malformed after its scheme"),
        ("{udp}://host.example:٨", "is malformed after its scheme"),
        ("{udp}://[hunter2", "is malformed after its scheme"),
        ("{udp}://host.example:0", "names no host and port that can be reached"),
        ("{udp}://:8125", "names no host and port that can be reached"),
        ("{udp}://", "names no host and port that can be reached"),
        ("{udp}:host.example", "goes on after its port, with a path"),
        ("{udp}://ho st.example:8125", "names no host and port that can be reached"),
        ("{udp}://host.exa\nmple:8125", "names no host and port that can be reached"),
        ("{udp}://host..example", "names no host and port that can be reached"),
        ("{udp}://" + "x" * 64 + ".example", "names no host and port that can be reached"),
        ("{udp}://" + "abc." * 80, "names no host and port that can be reached"),
        ("{udp}://host.example:8125/hunter2", "goes on after its port, with a path"),
        ("{udp}:///run/hunter2.sock", "goes on after its port, with a path"),
        ("{udp}://host.example?key=hunter2", "goes on with ? or #"),
        ("{udp}://host.example#hunter2", "goes on with ? or #"),
        ("{unix}:///run/statsd.sock?hunter2", "goes on with ? or #"),
        ("{unix}://run/hunter2.sock", "names a host, or its path is not absolute; write {unix}:///PATH"),
        ("{unix}:hunter2.sock", "the path in the URL is not an absolute path; write {unix}:///PATH"),
        ("{unix}://", "the path in the URL is not an absolute path; write {unix}:///PATH"),
        ("{unix}:///", "the path in the URL is not the path of a socket"),
        ("{unix}:///run/hunter2/", "the path in the URL is not the path of a socket"),
        ("{unix}:///run/hunter2%00", "the path in the URL is not the path of a socket"),
        ("{unix}:///run/hunter2%0a", "the path in the URL is not the path of a socket"),
        ("{unix}:///run/hunter2%ff", "the path in the URL is not UTF-8"),
        ("{unix}:///" + "x" * 107, "is longer than the 107 bytes"),
        ("{unix}:///" + "ü" * 54, "is longer than the 107 bytes"),
    ],
)
@pytest.mark.parametrize("use", ["relay", "push"])
def test_what_is_no_address_is_told_with_its_fix_and_never_repeated(use: str, text: str, told: str) -> None:
    udp, unix, schemes, forms = {
        "relay": ("udp", "unix", "udp://, unix://", "udp://HOST:PORT or unix:///PATH"),
        "push": (
            "dogstatsd",
            "dogstatsd+unix",
            "statsd://, dogstatsd://, dogstatsd+unix://",
            "statsd://HOST:PORT, dogstatsd://HOST:PORT or dogstatsd+unix:///PATH",
        ),
    }[use]
    parse = parse_relay if use == "relay" else parse_push
    with pytest.raises(ValueError, match="write") as caught:
        parse(text.format(udp=udp, unix=unix))
    shown = str(caught.value)
    assert told.format(unix=unix, schemes=schemes) in shown
    assert forms in shown or f"write {unix}:///PATH, with three slashes" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("text", ["udp://host", "unix:///path", "tcp://host", "statsd+unix:///path"])
def test_nothing_is_pushed_to_what_is_only_a_relay(text: str) -> None:
    with pytest.raises(ValueError, match=r"begins with none of statsd://, dogstatsd://, dogstatsd\+unix://"):
        parse_push(text)


@given(host=st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,10}){0,3}", fullmatch=True), port=st.integers(1, 65535))
def test_what_is_written_is_read_back(host: str, port: int) -> None:
    address = UdpAddress(host, port)
    assert parse_relay(f"udp://{address}") == address


@given(st.ip_addresses(), st.integers(1, 65535))
def test_numeric_addresses_are_read_back(ip: object, port: int) -> None:
    address = UdpAddress(str(ip), port)
    assert parse_push(f"statsd://{address}") == (False, address)


SECRET = "5ecret"


@given(st.text(string.printable + "é/@:?#[]%\0", max_size=40), st.text(string.printable + "@:/?#[]%", max_size=40))
def test_no_text_is_understood_by_accident_or_repeated(before: str, after: str) -> None:
    for scheme in ("udp", "unix", "statsd", "dogstatsd", "dogstatsd+unix", "http"):
        for parse in (parse_relay, parse_push):
            try:
                found = parse(f"{scheme}://{before}{SECRET}{after}")
            except ValueError as error:
                assert SECRET not in str(error)  # noqa: PT017 - it need not be raised
            else:
                address = found[1] if isinstance(found, tuple) else found
                assert SECRET in str(address)


# --- which meet -----------------------------------------------------------------------------------------------------


def listening(text: str) -> Address | Path:
    return Path(text) if text.startswith("/") else parse_address(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:8125", "127.0.0.1:8125"),
        ("Host.example:8125", "host.example.:8125"),
        ("[::1]:8125", "[0:0::1]:8125"),
        (":8125", "127.0.0.1:8125"),
        (":8125", "[::1]:8125"),
        (":8125", "host.example:8125"),
        (":8125", ":8125"),
        ("0.0.0.0:8125", "127.0.0.1:8125"),
        ("[::]:8125", "[::1]:8125"),
        ("localhost:8125", "127.0.0.1:8125"),
        ("localhost:8125", "[::1]:8125"),
        ("0.0.0.0:8125", "localhost:8125"),
        ("/run/statsd.sock", "/run/statsd.sock"),
        ("/run/statsd.sock", "/run/../run/./statsd.sock"),
    ],
)
def test_what_cannot_be_listened_on_at_once_collides(one: str, other: str) -> None:
    assert collide(listening(one), listening(other))
    assert collide(listening(other), listening(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:8125", "127.0.0.1:8126"),
        (":8125", ":8126"),
        ("127.0.0.1:8125", "127.0.0.2:8125"),
        ("127.0.0.1:8125", "[::1]:8125"),
        ("0.0.0.0:8125", "[::1]:8125"),
        ("127.0.0.1:8125", "host.example:8125"),
        (":0", ":0"),  # each any free port
        ("/run/a.sock", "/run/b.sock"),
        ("/run/a.sock", ":8125"),
    ],
)
def test_what_can_be_listened_on_at_once_does_not_collide(one: str, other: str) -> None:
    assert not collide(listening(one), listening(other))
    assert not collide(listening(other), listening(one))


def test_a_link_to_a_socket_is_that_socket(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert collide(tmp_path / "statsd.sock", tmp_path / "link" / "statsd.sock")
    assert leads_to(tmp_path / "statsd.sock", tmp_path / "link" / "statsd.sock")


@pytest.mark.parametrize(
    ("target", "ours"),
    [
        ("udp://127.0.0.1:8125", "127.0.0.1:8125"),
        ("udp://127.0.0.1", ":8125"),
        ("udp://127.8.0.1", ":8125"),
        ("udp://127.8.0.1", "0.0.0.0:8125"),
        ("udp://[::1]", ":8125"),
        ("udp://[::1]", "[::]:8125"),
        ("udp://[::ffff:127.0.0.1]", "127.0.0.1:8125"),
        ("udp://localhost", "127.0.0.1:8125"),
        ("udp://localhost", "[::1]:8125"),
        ("udp://LocalHost.", ":8125"),
        ("udp://0.0.0.0", "127.0.0.1:8125"),  # to no address in particular: to this machine
        ("udp://[::]", "[::1]:8125"),
        ("udp://10.0.0.5", "10.0.0.5:8125"),
        ("udp://Host.example", "host.example:8125"),
        ("unix:///run/statsd.sock", "/run/statsd.sock"),
    ],
)
def test_what_leads_to_a_listening_socket_is_found(target: str, ours: str) -> None:
    assert leads_to(parse_relay(target), listening(ours))


@pytest.mark.parametrize(
    ("target", "ours"),
    [
        ("udp://127.0.0.1:8126", "127.0.0.1:8125"),
        ("udp://127.0.0.1", ":0"),
        ("udp://127.0.0.1", "[::1]:8125"),
        ("udp://127.0.0.2", "127.0.0.1:8125"),
        ("udp://10.0.0.5", "10.0.0.6:8125"),
        ("udp://10.0.0.5", ":8125"),  # whether it is this machine's cannot be told from its text
        ("udp://host.example", ":8125"),
        ("udp://host.example", "127.0.0.1:8125"),
        ("unix:///run/other.sock", "/run/statsd.sock"),
        ("unix:///run/statsd.sock", ":8125"),
        ("udp://127.0.0.1", "/run/statsd.sock"),
    ],
)
def test_what_leads_elsewhere_is_left_alone(target: str, ours: str) -> None:
    address: StatsdAddress = parse_relay(target)
    assert not leads_to(address, listening(ours))
