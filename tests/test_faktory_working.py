"""Reservations are understood as the Web UI shows them; what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.faktory.working import MAX_ID, MAX_TRACESTATE, Shared, decode_reservation, parse_traceparent
from exporter.model import JobFacts, Reservation

EXPIRES = 1795250350.5
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
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


# The job's own facts


def facts_of(**job: object) -> JobFacts:
    found = decode_reservation(member(**job), EXPIRES, Shared(), facts=True)
    assert found == msgspec.structs.replace(decoded(member(**job)), job=found.job), "the rest is as without facts"
    assert found.job is not None
    return found.job


def test_the_facts_of_a_job_are_read_only_where_they_are_asked_for() -> None:
    job = {
        "enqueued_at": "2026-11-21T08:09:00.5Z",
        "retry": 3,
        "failure": {"retry_count": 1, "remaining": 1, "failed_at": "2026-11-21T08:00:00Z", "message": "m"},
        "custom": {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "tenant": [1, 2]},
    }
    assert facts_of(**job) == JobFacts(1795248540.5, 2, 3, TRACEPARENT, "vendor=1")
    assert decoded(member(**job)).job is None


def test_a_job_that_tells_nothing_of_itself_has_never_failed() -> None:
    assert facts_of() == JobFacts()
    assert facts_of(enqueued_at=None, failure=None, retry=None, custom=None) == JobFacts()


def test_one_failure_is_a_retry_count_of_zero() -> None:
    assert facts_of(failure={"retry_count": 0}).failures == 1


@pytest.mark.parametrize("retry", [0, -1, 25])
def test_how_often_a_job_may_be_tried_again_is_read(retry: int) -> None:
    assert facts_of(retry=retry).retry == retry


WHOLE = {
    "enqueued_at": "2026-11-21T08:09:00.5Z",
    "failure": {"retry_count": 1},
    "retry": 3,
    "custom": {"traceparent": TRACEPARENT, "tracestate": "vendor=1"},
}


@pytest.mark.parametrize(
    ("name", "values", "unset"),
    [
        ("enqueued_at", ["", "yesterday", 7, [], "2026-11-21T08:09:00", "2026-11-21T08:09:11Z"], {"enqueued_at": None}),
        ("failure", ["x", 7, [], {}, {"retry_count": "1"}, {"retry_count": 10**30}], {"failures": 0}),
        ("retry", ["3", 3.5, [], {}, True, 10**30], {"retry": None}),
        ("custom", ["x", 7, [], {"traceparent": 7}, {"traceparent": "x"}], {"traceparent": None, "tracestate": None}),
        ("custom", [{"traceparent": TRACEPARENT, "tracestate": 7}], {"tracestate": None}),
    ],
)
def test_a_malformed_fact_is_left_out_alone(name: str, values: list[object], unset: dict[str, object]) -> None:
    for value in values:
        assert facts_of(**WHOLE | {name: value}) == msgspec.structs.replace(facts_of(**WHOLE), **unset), value


def test_several_malformed_facts_are_left_out_and_the_rest_is_read() -> None:
    assert facts_of(**WHOLE | {"retry": "3", "enqueued_at": 7, "failure": "x"}) == JobFacts(
        traceparent=TRACEPARENT, tracestate="vendor=1"
    )


def test_facts_beside_invalid_utf_8_are_read() -> None:
    data = member(**WHOLE).replace(b"vendor", b"vend\xffr").replace(b"mail", b"m\xffil")
    found = decode_reservation(data, EXPIRES, Shared(), facts=True)
    assert found.queue == "m\ufffdil"
    assert found.job == msgspec.structs.replace(facts_of(**WHOLE), tracestate=None)


def test_a_rails_job_is_unwrapped_with_its_facts_too() -> None:
    data = member(jobtype=WRAPPER, custom={"wrapped": "Import", "traceparent": TRACEPARENT})
    found = decode_reservation(data, EXPIRES, Shared(), facts=True)
    assert found.jobtype == "Import"
    assert found.job == JobFacts(traceparent=TRACEPARENT)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (TRACEPARENT, TRACEPARENT),
        (TRACEPARENT[:-2] + "ff", TRACEPARENT[:-2] + "ff"),
        ("01" + TRACEPARENT[2:], "01" + TRACEPARENT[2:]),
        ("cc" + TRACEPARENT[2:] + "-what-the-future-holds", "cc" + TRACEPARENT[2:]),
        ("cc" + TRACEPARENT[2:] + "-", "cc" + TRACEPARENT[2:]),
        ("cc" + TRACEPARENT[2:] + ".what", None),
        (TRACEPARENT + "-more", None),
        (TRACEPARENT + "-", None),
        (TRACEPARENT + "\n", None),
        ("ff" + TRACEPARENT[2:], None),
        (TRACEPARENT.upper(), None),
        (TRACEPARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), None),
        (TRACEPARENT.replace("00f067aa0ba902b7", "0" * 16), None),
        (TRACEPARENT.replace("4bf9", "4bg9"), None),
        (TRACEPARENT.replace("4bf9", "\u0664bf9"), None),
        (TRACEPARENT[:-1], None),
        (" " + TRACEPARENT, None),
        (TRACEPARENT.replace("-", "_"), None),
        ("", None),
    ],
)
def test_a_traceparent_is_taken_over_only_if_it_is_well_formed(text: str, known: str | None) -> None:
    assert parse_traceparent(text) == known


@pytest.mark.parametrize(
    ("tracestate", "taken"),
    [("a=1,b=2", True), ("x" * MAX_TRACESTATE, True), ("x" * (MAX_TRACESTATE + 1), False), ("", False),
     ("a=\n", False), ("a=1\n", False), ("a=ü", False), ("a=\x7f", False)],
)  # fmt: skip
def test_a_tracestate_is_short_and_printable(tracestate: str, taken: bool) -> None:
    told = facts_of(custom={"traceparent": TRACEPARENT, "tracestate": tracestate}).tracestate
    assert told == (tracestate if taken else None)


def test_a_tracestate_is_nothing_without_a_traceparent() -> None:
    assert facts_of(custom={"tracestate": "a=1"}) == JobFacts()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["enqueued_at", "failure", "retry", "custom"],
            st.recursive(
                st.none() | st.integers() | st.text(max_size=9) | st.just(TRACEPARENT),
                lambda inner: st.dictionaries(
                    st.sampled_from(["retry_count", "traceparent", "tracestate", "x"]), inner, max_size=3
                ),
                max_leaves=4,
            ),
        ),
    )
)
def test_whatever_a_job_tells_of_itself_its_reservation_is_never_lost(job: dict[str, object]) -> None:
    facts = facts_of(**job)
    assert facts.traceparent in {None, TRACEPARENT}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60), st.floats())
def test_any_member_is_a_reservation_or_a_value_error(data: bytes, score: float) -> None:
    for each in (data, member().replace(b"mail", data)):
        outcomes: list[str | None] = []
        for facts in (False, True):
            try:
                outcomes.append(decode_reservation(each, score, Shared(), facts=facts).queue)
            except ValueError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]
