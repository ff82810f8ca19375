"""A secret is never seen by accident."""

from __future__ import annotations

import copy
import pickle

import msgspec
import pytest

from exporter.secret import Secret

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
