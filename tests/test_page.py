"""The status page: what it says, and that no name on it is ever anything but text."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.status.document import (
    BusyJob,
    Concern,
    Level,
    Orphan,
    QueueRow,
    ServerStatus,
    Signal,
    Status,
    Throttle,
    Trend,
)
from exporter.web import page as page_module
from exporter.web.links import Links
from exporter.web.page import CONTENT_SECURITY_POLICY, MAX_SHOWN, RELOAD_SECONDS, live, page
from exporter.web.page_chart import figure
from exporter.web.page_lists import MAX_ROWS
from exporter.web.page_words import MAX_NAME, bounded, clock_time, number, share, span
from tests.page_samples import HOSTILE, NOW, alarm, calm, fleet, hostile, status, trend, unpolled

NOWHERE = Links()
LINKS = Links(runbooks_url="https://runbooks.example/forewarn/", dashboards_url="https://grafana.example")
EMPTY_ELEMENTS = frozenset({"meta", "link", "br"})
NBSP = "\u00a0"


class Read(HTMLParser):
    """A page as a browser has it: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice on {tag}: {attrs}"
        if tag not in EMPTY_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> ends nothing"

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace(NBSP, " ").split())

    @property
    def structure(self) -> list[tuple[str, tuple[str, ...]]]:
        """The elements with the names of their attributes: all that a name must not change."""
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.elements if each == tag]


def read(*servers: ServerStatus, links: Links = NOWHERE) -> Read:
    return Read(page(status(*servers), links))


def changed(server: ServerStatus, **fields: Any) -> ServerStatus:
    return msgspec.structs.replace(server, **fields)


def table(text: str, title: str) -> str:
    """Return the text of one list, up to the next."""
    titles = (
        "Oldest busy jobs",
        "Orphans",
        "Throttles",
        "What happened",
        "Slowest queues",
        "What Forewarn cannot see",
        "Status as JSON",
    )
    start = text.rindex(title)
    ends = [text.find(each, start + len(title)) for each in titles]
    return text[start : min(end for end in ends if end > 0)]


# What it says


def test_the_summary_and_every_signal_are_told() -> None:
    text = read(alarm()).text
    server = alarm()
    assert server.summary in text
    for signal in server.signals:
        for part in (signal.title, signal.headline, signal.meaning, signal.advice):
            assert part is None or part.replace(NBSP, " ") in text


@pytest.mark.parametrize("level", list(Level))
def test_a_level_is_a_word_and_a_shape(level: Level) -> None:
    found = read(changed(calm(), level=level))
    assert level.capitalize() in found.text
    assert any(each.get("href") == f"#i-{level}" for each in found.all("use"))
    assert any(each.get("id") == f"i-{level}" for each in found.all("symbol"))


def test_shapes_differ_by_more_than_their_colour() -> None:
    shapes = re.findall(r'<symbol id="i-\w+" viewBox="0 0 16 16">(.*?)</symbol>', page(status(calm()), NOWHERE))
    assert len(set(shapes)) == len(Level)


def test_a_concern_is_told_with_its_runbook() -> None:
    concern = Concern(level=Level.WARNING, text="The scheduler stands still.", runbook="FaktorySchedulerStuck")
    found = read(changed(calm(), concerns=(concern,)), links=LINKS)
    assert "The scheduler stands still." in found.text
    assert "https://runbooks.example/forewarn/FaktorySchedulerStuck.md" in [each["href"] for each in found.all("a")]


def test_what_happened_is_told_with_its_time_and_hint() -> None:
    told = table(read(alarm()).text, "What happened")
    assert "Worker 7be02c crashed 06:04:51 UTC, 4 min 1 s ago It vanished with 3 jobs" in told
    assert "Something polls /busy" in told


def test_many_happenings_are_folded() -> None:
    happenings = alarm().happenings * 4
    found = read(changed(alarm(), happenings=happenings))
    assert len(found.all("details")) == 1
    assert "7 more" in found.text


def test_what_is_not_seen_is_told_with_why_and_how_to_mend_it() -> None:
    told = read(alarm()).text.rpartition("What Forewarn cannot see")[2]
    assert "conf.d/throttles.toml cannot be read: permission denied." in told
    assert "setfacl" in told


def test_orphans_tell_when_they_come_back() -> None:
    told = table(read(alarm()).text, "Orphans")
    assert "Import bulk · b2Lm77Tq1x0E · worker 7be02c 3 min 56 s ago 25 min 51 s" in told


def test_a_job_whose_reservation_has_ended_is_told_to_run_twice() -> None:
    assert "10 min 12 s 102 % runs twice" in table(read(alarm()).text, "Oldest busy jobs")


def test_a_paused_queue_is_marked() -> None:
    assert "newsletter paused 966" in table(read(alarm()).text, "Slowest queues")


def test_a_list_that_is_cut_tells_how_many_there_are() -> None:
    busy = calm().busy * 9
    told = table(read(changed(calm(), busy=busy, busy_count=4_321)).text, "Oldest busy jobs")
    assert f"{MAX_ROWS} of 4,321 busy" in told
    assert told.count("worker") == MAX_ROWS


def test_without_servers_it_says_what_to_do() -> None:
    assert "No server is watched: name one in the configuration." in Read(page(status(), NOWHERE)).text


def test_the_title_tells_how_bad_it_is_and_where() -> None:
    def title(told: Status) -> str:
        return str(dict(Read(page(told, NOWHERE)).all("main")[0])["data-title"])

    assert title(status(calm("mail"))) == "Calm: mail – Forewarn"
    assert title(status(calm("a"), alarm("b"))) == "Critical: b – Forewarn"
    assert title(status(calm("a"), alarm("b"), alarm("c"))) == "Critical: 2 of 3 servers – Forewarn"
    assert title(status(calm("a"), calm("b"))) == "Calm: 2 servers – Forewarn"


# Unknown is not zero


def test_of_a_server_that_was_not_polled_nothing_is_told_as_zero() -> None:
    text = read(unpolled()).text
    for title in ("Oldest busy jobs", "Orphans", "Throttles", "Slowest queues"):
        assert table(text, title).strip() == f"{title} not known"
    assert "workers not known" in text
    assert "not polled yet" in text
    assert not re.search(r"\b0\b", text.replace("0.7.0", ""))


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_not_known(bad: float | None) -> None:
    busy = BusyJob(jid="j", jobtype="T", queue="q", worker="w", age=5.0, used=bad)
    orphan = Orphan(jid="j", jobtype="T", queue="q", worker="w", age=5.0, returns_in=bad)
    throttle = Throttle(
        queue="q", scope="cluster", limit=3, in_use=None, saturation=bad, waiting=None, level=Level.UNKNOWN
    )
    queue = QueueRow(name="q", jobs=None, latency=bad, paused=None)
    server = changed(
        unpolled(),
        busy=(busy,),
        busy_count=1,
        orphans=(orphan,),
        orphan_count=1,
        throttles=(throttle,),
        queues=(queue,),
    )
    text = read(server).text
    assert "w 5 s not known" in table(text, "Oldest busy jobs")
    assert "w 5 s ago not known" in table(text, "Orphans")
    assert "q per cluster Unknown not known of 3 not known" in table(text, "Throttles")
    assert "q not known not known" in table(text, "Slowest queues")


def test_none_and_not_known_are_told_apart() -> None:
    empty = changed(unpolled(), busy_count=0, orphan_count=0, throttle_count=0, queue_count=0)
    text = read(empty).text
    assert table(text, "Oldest busy jobs").strip() == "Oldest busy jobs none is busy"
    assert table(text, "Orphans").strip() == "Orphans none"
    assert table(text, "Throttles").strip() == "Throttles none is set"
    assert table(text, "Slowest queues").strip() == "Slowest queues there is none"


# Charts


def drawn(told: Trend) -> Read:
    return Read(str(figure(told, "k")))


def path(found: Read, name: str) -> str:
    return str(next(each["d"] for each in found.all("path") if each.get("class") == name))


def test_a_trend_is_told_in_words_too() -> None:
    found = drawn(trend("share of the limit", "ratio", [0.1] * 30 + [0.5] * 30, 0.8))
    assert found.text.startswith("share of the limit last 1 min: 50 %")
    assert "last 1 min: 50 %; 10 % to 50 %; warns at 80 %" in found.text
    assert found.all("svg")[0]["aria-labelledby"] == "k-t k-d"


def test_what_was_not_known_is_a_gap_and_not_a_zero() -> None:
    found = drawn(trend("jobs", "count", [4.0] * 20 + [None] * 20 + [4.0] * 20))
    assert path(found, "line").count("M") == 2
    assert path(found, "gap").count("M") == 1
    assert "always 4" in found.text
    assert "hatched: not known" in found.text


def test_a_trend_of_nothing_known_says_so() -> None:
    found = drawn(trend("jobs", "count", [None] * 60))
    assert found.text.startswith("jobs not known")
    assert path(found, "line") == ""


def test_a_trend_without_values_is_no_error() -> None:
    assert drawn(trend("jobs", "count", [])).text.startswith("jobs not known")


def test_the_newest_value_stands_at_the_right_end() -> None:
    for count in (1, 2, 10, 59, 60):
        assert path(drawn(trend("jobs", "count", [1.0] * count)), "end").startswith("M240 ")


@pytest.mark.parametrize(("count", "reach"), [(1, "10 min"), (10, "10 min"), (11, "30 min"), (31, "1 h"), (60, "1 h")])
def test_a_young_trend_is_no_speck(count: int, reach: str) -> None:
    assert f"{reach} ago" in drawn(trend("jobs", "count", [1.0] * count)).text


def test_a_level_line_takes_few_bytes() -> None:
    assert len(path(drawn(trend("jobs", "count", [3.0] * 60)), "line")) < 20


@given(
    st.sampled_from(["ratio", "seconds", "count"]),
    st.lists(st.none() | st.floats(), max_size=300),
    st.none() | st.floats(),
    st.floats(min_value=0, max_value=1e6, exclude_min=True),
)
@settings(max_examples=200, deadline=None)
def test_every_trend_can_be_drawn(unit: str, values: list[float | None], threshold: float | None, step: float) -> None:
    told = msgspec.structs.replace(trend("a", unit, values, threshold), step=step)
    found = drawn(told)
    for name in ("line", "area", "gap", "end"):
        numbers = [float(each) for each in re.findall(r"-?[\d.]+", path(found, name))]
        assert all(-1 <= each <= 240 for each in numbers)


# Words


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.01, "< 0.1 s"),
        (0.42, "0.4 s"),
        (1.84, "1.8 s"),
        (12.9, "12 s"),
        (60, "1 min"),
        (192, "3 min 12 s"),
        (7_500, "2 h 5 min"),
        (3 * 86_400 + 4 * 3_600 + 59, "3 d 4 h"),
        (1e300, "> 99,999 d"),
    ],
)
def test_a_span_of_time_is_short(seconds: float, told: str) -> None:
    assert span(seconds).replace(NBSP, " ") == told


def test_numbers_and_shares_are_short() -> None:
    assert (number(1640), number(0.5), number(1e6)) == ("1,640", "0.5", "1,000,000")
    shares = [share(each).replace(NBSP, " ") for each in (0, 0.004, 0.829, 0.9999, 1.5)]
    assert shares == ["0 %", "< 1 %", "82 %", "99 %", "150 %"]


def test_a_time_of_another_day_has_its_date() -> None:
    assert clock_time(NOW - 60, NOW) == "06:07:52 UTC"
    assert clock_time(NOW - 86_400, NOW) == "2025-11-20 06:08:52 UTC"
    assert clock_time(math.nan, NOW) == ""


# Links


def test_addresses_lead_to_runbooks_and_dashboards() -> None:
    addresses = {each["href"] for each in read(alarm("ma&il"), links=LINKS).all("a")}
    assert "https://runbooks.example/forewarn/FaktoryConnectionsNearLimit.md" in addresses
    assert "https://grafana.example/d/faktory-overview?var-server=ma%26il" in addresses
    assert "https://grafana.example/d/faktory-throttles?var-server=ma%26il" in addresses


def test_without_addresses_the_runbook_is_named() -> None:
    found = read(alarm())
    assert "Runbook FaktoryConnectionsNearLimit" in found.text
    assert all("://" not in str(each["href"]) for each in found.all("a"))


def test_every_dashboard_that_is_linked_exists() -> None:
    from pathlib import Path

    boards = {each.stem for each in (Path(__file__).parent.parent / "dashboards").glob("*.json")}
    wanted = [LINKS.dashboard("faktory", "s", signal) for signal in (None, *(each.name for each in calm().signals))]
    assert {str(each).split("/d/")[1].split("?")[0] for each in wanted} <= boards


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "//host", "", "/runbooks"])
def test_an_address_that_a_browser_would_not_open_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"runbooks_url = .* must begin with http:// or https://"):
        Links(runbooks_url=address)
    with pytest.raises(ValueError, match=r"dashboards_url = "):
        Links(dashboards_url=address)


def test_the_other_pages_are_linked_relative_to_this_one() -> None:
    addresses = {str(each["href"]) for each in read(calm()).all("a")}
    assert {"metrics", "api/v1/status", "api/v1/incidents", "-/healthy", "-/ready"} <= addresses
    assert not any(each.startswith("/") for each in addresses)


# Many servers


def test_the_worst_server_stands_first() -> None:
    found = read(calm("a"), unpolled("b"), alarm("c"))
    assert [each["data-watch"] for each in found.all("li") if "data-watch" in each] == ["c", "b", "a"]


def test_of_many_servers_only_those_that_need_somebody_are_shown_in_full() -> None:
    found = Read(page(fleet(50, alarms=2), NOWHERE))
    assert sum(each.get("class") == "server" for each in found.all("section")) == 2
    assert "50 servers 2 critical, 48 calm" in found.text
    assert "?server=region-00" in [each["href"] for each in found.all("a")]


def test_when_all_are_in_alarm_the_page_is_still_bounded() -> None:
    told = status(*(alarm(f"region-{number}") for number in range(50)))
    found = Read(page(told, NOWHERE))
    assert sum(each.get("class") == "server" for each in found.all("section")) == MAX_SHOWN


def test_one_of_many_servers_has_a_page_of_its_own() -> None:
    found = Read(page(fleet(50), NOWHERE, "region-17"))
    assert [each.get("class") for each in found.all("section")].count("server") == 1
    assert "region-17" in found.text
    assert "region-18" not in found.text
    assert "All 50 servers" in found.text


def test_a_server_that_is_not_known_shows_all() -> None:
    assert page(fleet(3), NOWHERE, "<b>") == page(fleet(3), NOWHERE)


# What a browser makes of it


def test_the_policy_allows_exactly_its_own_style_and_script() -> None:
    html = page(status(alarm()), NOWHERE)
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY


def test_nothing_on_it_needs_what_the_policy_forbids() -> None:
    for _, attributes in read(hostile()).elements:
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_nothing_comes_from_elsewhere() -> None:
    for tag, attributes in read(alarm(), links=LINKS).elements:
        assert not attributes.keys() & {"src", "srcset", "action", "formaction", "poster", "data", "ping"}
        if tag in ("link", "use", "image"):
            assert str(attributes["href"]).startswith(("data:", "#"))


def test_ids_are_unique_and_every_reference_leads_to_one() -> None:
    found = read(alarm("a"), calm("b"), hostile("c"), unpolled("d"))
    ids = [str(each["id"]) for _, each in found.elements if "id" in each]
    assert [each for each, count in Counter(ids).items() if count > 1] == []
    for _, attributes in found.elements:
        for key in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(key) or "").split()) <= set(ids)
        address = attributes.get("href") or ""
        assert not address.startswith("#") or address[1:] in ids


def test_headings_leave_no_step_out() -> None:
    levels = [int(tag[1]) for tag, _ in read(alarm("a"), calm("b")).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_it_loads_itself_anew_where_no_script_runs() -> None:
    html = page(status(calm()), NOWHERE)
    assert f'<noscript><meta http-equiv="refresh" content="{RELOAD_SECONDS}"></noscript>' in html


def test_it_is_light() -> None:
    assert len(page(status(calm()), LINKS).encode()) < 30_000


def test_the_fragment_is_the_part_of_the_page_that_changes() -> None:
    told = status(alarm("a"), calm("b"))
    assert live(told, LINKS) in page(told, LINKS)


def test_the_fragment_tells_for_which_page_it_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    before = live(status(calm()), NOWHERE)
    monkeypatch.setattr(page_module, "_MADE", "another")
    assert live(status(calm()), NOWHERE) != before


# Names


def named(name: str) -> Status:
    """Return a status in which everything that others may choose is ``name``."""
    plain = hostile(name)
    signals = tuple(
        Signal(
            name=each.name,
            title=each.title,
            level=each.level,
            headline=name,
            meaning=name or None,
            advice=name or None,
            runbook=name or None,
            trend=each.trend,
        )
        for each in plain.signals
    )
    server = changed(
        plain,
        system=name,
        version=name,
        edition=name,
        summary=name,
        signals=signals,
        concerns=(Concern(level=Level.WARNING, text=name, runbook=name or None),),
        busy=(BusyJob(jid=name, jobtype=name, queue=name, worker=name, age=1, used=None),),
        orphans=(Orphan(jid=name, jobtype=name, queue=name, worker=name, age=1, returns_in=None),),
        throttles=tuple(msgspec.structs.replace(each, queue=name, scope=name) for each in plain.throttles[:1]),
        queues=(QueueRow(name=name, jobs=1, latency=1, paused=True),),
        happenings=tuple(
            msgspec.structs.replace(each, title=name, detail=name, hint=name) for each in plain.happenings[:1]
        ),
        blind=tuple(msgspec.structs.replace(each, what=name, why=name, remedy=name) for each in plain.blind[:1]),
        sets={name: 1},
    )
    return status(server, changed(calm(), name=f"other {name}"))


PLAIN = {links: Read(page(named("name"), links)).structure for links in (NOWHERE, LINKS)}


def check(name: str) -> None:
    for links, structure in PLAIN.items():
        html = page(named(name), links)
        found = Read(html.encode().decode())
        assert len(live(named(name), links).splitlines()) == 1
        assert found.structure == structure
        assert bounded(name) in "".join(found.texts)
        assert all("\n" not in text for text in found.texts if text.strip())


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.strip() != ""))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_name_is_ever_more_than_text(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", [each for each in HOSTILE if each])
def test_no_hostile_name_is_more_than_text(name: str) -> None:
    check(name)


def test_what_cannot_be_seen_is_written_out() -> None:
    assert bounded("a\x1b[31m\u202eb\x00\ud800") == "a\\x1b[31m\\u202eb\\x00\\ud800"


def test_a_long_name_is_cut() -> None:
    assert bounded("x" * 4000) == "x" * (MAX_NAME - 1) + "…"


def test_a_name_does_not_turn_its_neighbours_around() -> None:
    assert "<bdi>עברית-דחוף</bdi>" in page(status(hostile()), NOWHERE)
