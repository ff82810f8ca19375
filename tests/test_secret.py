"""A secret is never seen by accident."""

from __future__ import annotations

import copy
import pickle

import msgspec
import pytest

from exporter.secret import Secret, without_credentials

SECRET = Secret("tr0ub4dor")


@pytest.mark.parametrize("shown", [str(SECRET), repr(SECRET), f"{SECRET}", f"{SECRET:>5}", f"{[SECRET]}"])
def test_no_way_of_showing_a_secret_shows_it(shown: str) -> None:
    assert "tr0ub4dor" not in shown
    assert "***" in shown


def test_a_secret_is_revealed_when_asked_for() -> None:
    assert SECRET.reveal() == "tr0ub4dor"


def test_secrets_are_equal_by_value() -> None:
    assert Secret("tr0ub4dor") == SECRET
    assert hash(Secret("tr0ub4dor")) == hash(SECRET)
    assert Secret("other") != SECRET
    assert SECRET != "tr0ub4dor"


def test_a_secret_cannot_be_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SECRET)


def test_a_secret_cannot_be_encoded_as_json() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode({"password": SECRET})


def test_a_copy_of_a_secret_is_the_secret() -> None:
    assert copy.deepcopy({"password": SECRET})["password"] is SECRET


def test_a_secret_has_no_attributes_to_dump() -> None:
    assert not hasattr(SECRET, "__dict__")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dial postgres://app:tr0ub4dor@db:5432/jobs: refused", "dial postgres://***@db:5432/jobs: refused"),
        ('parse "redis://:tr0ub4d@or@cache/0": no', 'parse "redis://***@cache/0": no'),
        ("no URL at all: a@b", "no URL at all: a@b"),
        ("http://plain/path", "http://plain/path"),
        ("", ""),
    ],
)
def test_a_text_is_told_without_the_user_and_password_of_a_url(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_the_end_of_a_text_that_was_cut_in_a_url_may_be_a_password() -> None:
    assert without_credentials("dial redis://:tr0ub", cut=True) == "dial redis://***"
    assert without_credentials("redis://a:b@c/ went awa", cut=True) == "redis://***@c/ went awa"
