"""Faktory's wire protocol, without a wire."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.faktory.protocol import (
    MAX_LINE,
    Bulk,
    Error,
    Hi,
    Integer,
    Parser,
    ProtocolError,
    Reply,
    Status,
    command_line,
    greeting,
    hello_line,
    password_hash,
)

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=40)
REPLIES = st.one_of(
    LINE.map(Status),
    LINE.map(Error),
    st.integers(-(10**18), 10**18).map(Integer),
    st.none().map(Bulk),
    st.binary(max_size=200).map(Bulk),
)


def wire(reply: Reply) -> bytes:
    match reply:
        case Status(text):
            return b"+" + text.encode() + b"\r\n"
        case Error(text):
            return b"-" + text.encode() + b"\r\n"
        case Integer(value):
            return b":%d\r\n" % value
        case Bulk(None):
            return b"$-1\r\n"
        case Bulk(bytes() as data):
            return b"$%d\r\n%b\r\n" % (len(data), data)
    raise AssertionError(reply)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(REPLIES, max_size=6), st.data())
def test_replies_are_the_same_wherever_the_bytes_are_split(replies: list[Reply], data: st.DataObject) -> None:
    stream = b"".join(map(wire, replies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parser = Parser()
    found: list[Reply] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:end])
    assert found == replies
    assert not parser.torn


def test_replies_arrive_byte_by_byte() -> None:
    parser = Parser()
    found: list[Reply] = []
    for byte in b"+OK\r\n$2\r\n\r\n\r\n:7\r\n":
        found += parser.feed(bytes([byte]))
    assert found == [Status("OK"), Bulk(b"\r\n"), Integer(7)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_any_bytes_give_replies_or_a_protocol_error(data: bytes) -> None:
    try:
        Parser().feed(data)
    except ProtocolError as error:
        assert len(str(error)) < 250  # noqa: PT017


@pytest.mark.parametrize("unfinished", [b"+O", b"$3\r\n", b"$3\r\nab", b"$3\r\nabc\r", b":"])
def test_an_unfinished_reply_is_known_to_be_torn(unfinished: bytes) -> None:
    parser = Parser()
    assert parser.feed(unfinished) == []
    assert parser.torn


def test_a_bulk_that_is_too_large_is_refused_before_any_byte_of_it() -> None:
    with pytest.raises(ProtocolError, match="2147483648 bytes was announced"):
        Parser().feed(b"$2147483648\r\n")


def test_the_largest_bulk_is_read() -> None:
    assert Parser(max_bulk=5).feed(b"$5\r\nabcde\r\n") == [Bulk(b"abcde")]
    with pytest.raises(ProtocolError):
        Parser(max_bulk=5).feed(b"$6\r\n")


def test_the_longest_line_is_read_and_a_longer_one_refused_without_waiting_for_its_end() -> None:
    longest = b"+" + b"a" * (MAX_LINE - 1)
    assert Parser().feed(longest + b"\r\n") == [Status("a" * (MAX_LINE - 1))]
    with pytest.raises(ProtocolError, match="longer than 65536"):
        Parser().feed(longest + b"aaa")
    with pytest.raises(ProtocolError, match="longer than 65536"):
        Parser().feed(longest + b"aa\r\n")


@pytest.mark.parametrize(
    "malformed",
    [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"+OK\n", b":\r\n", b":1_0\r\n", b": 1\r\n", b":--1\r\n", b"$-2\r\n",
     b"$x\r\n", b"$1\r\nabc", b"$" + b"9" * 30 + b"\r\n", b"*1\r\n", "$٣\r\n".encode()],
)  # fmt: skip
def test_what_is_not_the_protocol_is_told_as_it_came(malformed: bytes) -> None:
    with pytest.raises(ProtocolError, match=r".+: b?'|negative|does not end|more than"):
        Parser().feed(malformed)


def test_what_came_is_told_in_eighty_characters() -> None:
    with pytest.raises(ProtocolError) as caught:
        Parser().feed(b"\xff" * 1000 + b"\r\n")
    assert len(str(caught.value)) < 140


def test_the_greeting_of_a_server_without_a_password() -> None:
    assert greeting(Status('HI {"v":2}')) == Hi(version=2, iterations=1, salt=None)


def test_the_greeting_of_a_server_with_a_password() -> None:
    assert greeting(Status('HI {"v":2,"i":4021,"s":"a1b2"}')) == Hi(version=2, iterations=4021, salt="a1b2")


def test_the_first_version_of_the_protocol_hashes_once() -> None:
    assert greeting(Status('HI {"v":1,"i":4021,"s":"a1b2"}')).iterations == 1
    assert greeting(Status('HI {"s":"a1b2"}')).iterations == 1


@pytest.mark.parametrize(
    "reply",
    [Status("OK"), Error("ERR no"), Bulk(b"HI {}"), Integer(1), Status("HI {"), Status('HI {"v":"2"}'),
     Status('HI {"v":2,"i":100001,"s":"a"}'), Status('HI {"v":2,"i":0,"s":"a"}'), Status('HI {"v":2,"i":-5,"s":"a"}')],
)  # fmt: skip
def test_a_greeting_that_is_none_or_hostile_is_refused(reply: Reply) -> None:
    with pytest.raises(ProtocolError):
        greeting(reply)


def test_the_password_is_hashed_with_the_salt_as_often_as_asked() -> None:
    once = hashlib.sha256(b"hellosalt").digest()
    assert password_hash("hello", "salt", 1) == once.hex()
    assert password_hash("hello", "salt", 3) == hashlib.sha256(hashlib.sha256(once).digest()).hexdigest()


def test_a_hostile_amount_of_hashing_is_refused() -> None:
    with pytest.raises(ValueError, match="100000"):
        password_hash("hello", "salt", 100_001)


def test_hello_names_no_worker() -> None:
    line = hello_line(Hi(2, 4000, "salt"), "hello", "host", 12)
    assert line.startswith(b"HELLO {")
    assert line.endswith(b"}\r\n")
    said = json.loads(line[6:])
    assert "wid" not in said
    assert said == {
        "hostname": "host",
        "pid": 12,
        "labels": ["forewarn"],
        "v": 2,
        "pwdhash": password_hash("hello", "salt", 4000),
    }


def test_hello_tells_no_hash_where_none_is_asked_for() -> None:
    assert b"pwdhash" not in hello_line(Hi(2, 1, None), "hello", "host", 12)


def test_hello_without_the_password_that_is_asked_for_is_refused() -> None:
    with pytest.raises(ProtocolError, match="password"):
        hello_line(Hi(2, 4000, "salt"), None, "host", 12)


def test_a_command_is_a_line() -> None:
    assert command_line("QUEUE", "LATENCY", "a", "b") == b"QUEUE LATENCY a b\r\n"


@pytest.mark.parametrize("argument", ["a\r\nFLUSH", "a\nFLUSH", "a\r"])
def test_a_second_command_cannot_be_smuggled_in(argument: str) -> None:
    with pytest.raises(ValueError, match="CR or LF"):
        command_line("BEAT", argument)
