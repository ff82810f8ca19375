"""Reservations are understood as the Web UI shows them; what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.faktory.working import MAX_ID, Shared, decode_reservation
from exporter.model import Reservation

EXPIRES = 1795250350.5
WRAPPER = "ActiveJob::QueueAdapters::FaktoryAdapter::JobWrapper"


def member(*, wid: object = "worker-1", reserved_at: object = "2026-11-21T08:09:10.25Z", **job: object) -> bytes:
    full = {"jid": "job-1", "queue": "mail", "jobtype": "Send", "args": [1, {"jid": "no"}]} | job
    return json.dumps(
        {"job": full, "reserved_at": reserved_at, "expires_at": "2026-11-21T08:39:10.25Z", "wid": wid}
    ).encode()


def decoded(data: bytes, expires_at: float = EXPIRES) -> Reservation:
    return decode_reservation(data, expires_at, Shared())


def test_the_facts_of_a_reservation_are_read_and_the_score_is_its_expiry() -> None:
    assert decoded(member()) == Reservation("job-1", "worker-1", "mail", "Send", 1795248550.25, EXPIRES)


@pytest.mark.parametrize(
    ("job", "jobtype"),
    [
        ({"jobtype": WRAPPER, "custom": {"wrapped": "Import"}}, "Import"),
        ({"jobtype": WRAPPER, "custom": {"wrapped": 7}}, WRAPPER),
        ({"jobtype": WRAPPER, "custom": "none"}, WRAPPER),
        ({"jobtype": WRAPPER}, WRAPPER),
        ({"jobtype": "Send", "custom": {"wrapped": "Import"}}, "Send"),
    ],
)
def test_a_rails_job_has_the_type_that_is_wrapped(job: dict[str, Any], jobtype: str) -> None:
    assert decoded(member(**job)).jobtype == jobtype


@pytest.mark.parametrize("mailer", ["ActionMailer::DeliveryJob", "ActionMailer::MailDeliveryJob"])
@pytest.mark.parametrize(
    ("args", "jobtype"),
    [
        ([{"arguments": ["UserMailer", "welcome", "deliver_now"]}], "UserMailer#welcome"),
        ([{"arguments": ["UserMailer"]}], None),
        ([{"arguments": ["UserMailer", 5]}], None),
        ([{}], None),
        (["x"], None),
        ([], None),
    ],
)
def test_a_mail_has_its_mailer_and_method_as_type(mailer: str, args: list[Any], jobtype: str | None) -> None:
    assert decoded(member(jobtype=WRAPPER, custom={"wrapped": mailer}, args=args)).jobtype == (jobtype or mailer)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"nonsense", b"[]", b"7", b'{"job":', b"{}", b'"' + b"x" * 1000,
        member(jid=7), member(queue=None), member(jobtype=["x"]), member(wid=3),
        member(reserved_at="yesterday"), member(reserved_at="2026-11-21T08:09:10"), member(reserved_at=5),
        member(reserved_at="0001-01-01T00:00:00Z"), member(reserved_at="2026-11-21T09:09:10Z"),
        b'{"job":' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_reservation_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decoded(data)


@pytest.mark.parametrize("expires_at", [float("inf"), float("-inf"), 0.0, -1.0, 1e300])
def test_an_absurd_score_is_refused(expires_at: float) -> None:
    with pytest.raises(ValueError, match="absurd"):
        decoded(member(), expires_at)


def test_an_error_shows_nothing_of_the_payload() -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        decoded(member(args=["4111-1111-1111-1111"], jid=None))
    assert "4111" not in str(caught.value)


def test_invalid_utf_8_is_replaced() -> None:
    data = member().replace(b"mail", b"m\xffil").replace(b"Send", b"Se\xc3nd")
    assert (decoded(data).queue, decoded(data).jobtype) == ("m�il", "Se�nd")


def test_names_a_mebibyte_long_are_cut() -> None:
    found = decoded(member(queue="q" * 2**20, jobtype="t" * 2**20, wid="w" * 2**20, jid="j" * 2**20))
    assert (found.queue, found.jobtype) == ("q" * 128, "t" * 128)
    assert (found.worker, found.jid) == ("w" * MAX_ID, "j" * MAX_ID)


def test_a_workers_id_is_kept_as_it_is() -> None:
    assert decoded(member(wid="")).worker == ""
    assert decoded(member(wid="a\nb")).worker == "a\nb"


def test_equal_names_are_one_object() -> None:
    shared = Shared()
    one, other = (decode_reservation(member(jid=jid), EXPIRES, shared) for jid in ("a", "b"))
    assert one.queue is other.queue
    assert one.jobtype is other.jobtype
    assert one.worker is other.worker


def test_what_is_shared_is_bounded() -> None:
    shared = Shared()
    for number in range(25_000):
        shared.label(f"n{number}")
        shared.id(f"i{number}")
    assert len(shared._labels) <= 10_000
    assert len(shared._ids) <= 10_000


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60), st.floats())
def test_any_member_is_a_reservation_or_a_value_error(data: bytes, score: float) -> None:
    for each in (data, member().replace(b"mail", data)):
        try:
            decoded(each, score)
        except ValueError:
            continue
