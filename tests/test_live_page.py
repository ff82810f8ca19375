"""The status page in a real Chromium: of made-up statuses, and of real servers with a worker that is really killed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import pytest_asyncio
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from exporter.web import page as page_module
from exporter.web.page_words import bounded, span
from tests.browser import Browser, Scheme, browser
from tests.conftest import server_kinds
from tests.forewarn import Forewarn
from tests.live_crashes import LONG, SETTLED
from tests.page_samples import HOSTILE, NOW, alarm, calm, fleet, hostile, status, unpolled
from tests.page_site import Site, site
from tests.servers import WatchedServer, running
from tests.wire import Wire
from tests.workers import WorkerProcess

WALL = 300
DEADLINE = 60.0
WIDTHS = (1200, 360)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")

CALM = status(calm())
ALARM = status(alarm())
SAMPLES = {
    "calm": CALM,
    "alarm": ALARM,
    "hostile": status(hostile()),
    "several": status(calm("eu"), alarm("us"), unpolled("ap")),
    "fleet": fleet(50),
}

pytestmark = [pytest.mark.timeout(WALL)]


def until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Wait for what a browser, or a server that it looks at, comes to."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not true after {deadline:g} s: {what}"
        time.sleep(0.05)


class Crash:
    """A server with one worker, and Forewarn beside it; left alone until it may be judged."""

    def __init__(self, server: WatchedServer) -> None:
        self.server = server

    async def begin(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(running(self.server))
        self.started = time.monotonic()
        self.forewarn = await stack.enter_async_context(Forewarn(self.server, interval="1s"))
        self.worker = stack.enter_context(WorkerProcess.start("faktory", self.server.url, ["reports"]))
        self.producer = await Wire.connect(self.server.url)
        stack.push_async_callback(self.producer.abort)

    def settled(self) -> bool:
        return time.monotonic() - self.started > SETTLED


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def crashes(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, Crash]]:
    """The servers of the tests that were asked for: begun first, so that the other tests run while they settle."""
    name = test_the_page_follows_a_real_crash_without_a_reload.__name__
    asked = [item for item in request.session.items if getattr(item, "originalname", "") == name]
    made: dict[str, Crash] = {}
    async with AsyncExitStack() as stack:
        for item in asked:
            parameters: dict[str, Any] = item.callspec.params  # type: ignore[attr-defined]
            if parameters["make"] is not None:
                crash = Crash(parameters["make"]())
                made[crash.server.name] = crash
                await crash.begin(stack)
        yield made


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture
def tab(chrome: Browser) -> Iterator[Browser]:
    """The browser as a desk has it."""
    chrome.scripts(run=True)
    chrome.offline(cut=False)
    chrome.prefers("light")
    chrome.size(1200)
    yield chrome
    chrome.driver.get("about:blank")


@pytest.fixture(scope="module")
def only_site() -> Iterator[Site]:
    with site(CALM) as made:
        yield made


@pytest.fixture
def served(only_site: Site) -> Site:
    """A page on which all is well."""
    only_site.tell(CALM)
    return only_site


def opened(tab: Browser, address: str) -> None:
    """Open the page and wait for its first event."""
    tab.open(address)
    until(lambda: tab.text("#link").startswith("Live"), "the event stream is open")


def changed(server: Any, **fields: object) -> Any:
    return msgspec.structs.replace(server, **fields)


# Everybody can read it


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sample", SAMPLES)
def test_axe_finds_nothing_wrong(tab: Browser, served: Site, sample: str, scheme: Scheme) -> None:
    served.tell(SAMPLES[sample])
    tab.prefers(scheme)
    opened(tab, served.address)
    for width in WIDTHS:
        tab.size(width)
        assert tab.axe() == []


def test_axe_would_find_what_is_wrong(tab: Browser, served: Site) -> None:
    opened(tab, served.address)
    tab.run("document.querySelector('.facts').style.color = '#ccc'; document.querySelector('h2').textContent = ''")
    assert {each.split(":")[0] for each in tab.axe()} >= {"color-contrast"}


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_narrow_phone_scrolls_in_one_direction_only(tab: Browser, served: Site, sample: str) -> None:
    served.tell(SAMPLES[sample])
    tab.size(320)
    opened(tab, served.address)
    wide = tab.run(
        "return [...document.querySelectorAll('body *:not(.away, .away *, .skip)')]"
        ".filter(e => e.getBoundingClientRect().right > 320.5).map(e => e.outerHTML.slice(0, 120))"
    )
    assert wide == []
    assert tab.run("return document.documentElement.scrollWidth") == 320


def test_the_keyboard_leads_past_the_head_and_shows_where_it_is(tab: Browser, served: Site) -> None:
    served.tell(ALARM)
    opened(tab, served.address)
    ActionChains(tab.driver).send_keys(Keys.TAB).perform()
    assert tab.run("return document.activeElement.className") == "skip"
    assert tab.run("return document.activeElement.getBoundingClientRect().left") >= 0
    ActionChains(tab.driver).send_keys(Keys.ENTER).send_keys(Keys.TAB).perform()
    assert tab.run("return document.getElementById('live').contains(document.activeElement)")
    assert tab.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


# Nothing hurts it


@pytest.mark.parametrize("sample", ["hostile", "alarm"])
def test_nothing_is_said_in_the_console_and_nothing_asked_of_another_host(
    tab: Browser, served: Site, sample: str
) -> None:
    served.tell(SAMPLES[sample])
    opened(tab, served.address)
    served.tell(CALM)
    until(lambda: "All is well" in tab.text(".summary"), "the change is shown")
    assert tab.complaints() == []
    hosts = {urlsplit(each).netloc for each in tab.requests() if not each.startswith("data:")}
    assert hosts == {urlsplit(served.address).netloc}


def test_hostile_names_are_text_at_first_and_after_a_change(tab: Browser, served: Site) -> None:
    served.tell(status(hostile()))
    opened(tab, served.address)
    for _ in range(2):
        shown = tab.run("return [...document.querySelectorAll('tbody th bdi')].map(e => e.textContent)")
        assert {bounded(each) for each in HOSTILE} <= set(shown)
        assert tab.run("return window.hurt") is None
        assert tab.run("return document.querySelectorAll('main script, main img, main style, main b bdi').length") == 0
        served.tell(CALM)
        until(lambda: "All is well" in tab.text(".summary"), "the calm page is shown")
        served.tell(status(hostile()))
        until(lambda: "Orphans" in tab.text("main") and "gone" in tab.text("main"), "the hostile page is shown")
    assert tab.complaints() == []


# It follows


def test_a_change_is_shown_without_a_reload(tab: Browser, served: Site) -> None:
    opened(tab, served.address)
    tab.run("window.mark = 1")
    before = tab.run("return document.getElementById('icon').href")
    assert tab.driver.title == "Calm: faktory – Forewarn"
    served.tell(ALARM)
    until(lambda: "3 jobs behind" in tab.text(".summary"), "the alarm is shown")
    assert tab.run("return window.mark") == 1
    assert tab.driver.title == "Critical: faktory – Forewarn"
    assert tab.run("return document.getElementById('icon').href") != before


def test_a_change_of_level_is_said_politely(tab: Browser, served: Site) -> None:
    opened(tab, served.address)
    said = tab.run("const e = document.getElementById('say'); return [e.getAttribute('role'), e.textContent]")
    assert said == ["status", ""]
    served.tell(ALARM)
    until(lambda: tab.run("return document.getElementById('say').textContent") != "", "the change is said")
    said = str(tab.run("return document.getElementById('say').textContent"))
    assert said == f"faktory: critical. {alarm().summary}"


def test_times_go_on_between_two_events(tab: Browser, served: Site) -> None:
    opened(tab, served.address)
    selector = ".facts time[data-since]"
    first = tab.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)
    until(
        lambda: (
            tab.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector) != first
        ),
        "a time has gone on",
    )


def test_the_script_writes_times_as_the_server_does(tab: Browser, served: Site) -> None:
    opened(tab, served.address)
    # With a clock that stands still the page's time is that of its last event.
    tab.run("const now = Date.now(); Date.now = () => now")
    served.tell(status(calm(), now=NOW + 1))
    until(lambda: float(tab.run("return document.getElementById('live').dataset.at")) == NOW + 1, "the event is heard")
    spans = [0, 1, 59, 60, 61, 119, 3_599, 3_600, 3_660, 86_399, 86_400, 90_000, 31 * 86_400 + 3_600, 8_639_999_999]
    tab.run(
        """
        window.made = arguments[0].map(at => {
            const made = document.getElementById('live').appendChild(document.createElement('time'));
            made.dataset.since = at;
            return made;
        })
        """,
        [NOW + 1 - each for each in spans],
    )
    until(lambda: all(tab.run("return made.map(e => e.textContent)")), "the times have ticked")
    assert tab.run("return made.map(e => e.textContent)") == [span(each) for each in spans]


def test_what_the_reader_does_survives_a_change(tab: Browser, served: Site) -> None:
    many = changed(alarm(), happenings=alarm().happenings * 4)
    served.tell(status(many))
    opened(tab, served.address)
    tab.run(
        """
        document.querySelector('details').open = true;
        window.link = document.querySelector('article[id$=workers] .links a');
        link.focus();
        const text = document.querySelector('table.queues tbody th bdi').firstChild;
        getSelection().setBaseAndExtent(text, 0, text, 4);
        """
    )
    # Before what the reader holds something vanishes, and something new comes.
    server = changed(many, concerns=(*many.concerns * 12,), signals=(calm().signals[0], *many.signals[1:]), busy=())
    served.tell(status(server, now=NOW + 5))
    until(lambda: tab.run("return document.querySelectorAll('.concerns li').length") == 12, "the change is shown")
    assert tab.run("return document.querySelector('details').open")
    assert tab.run("return document.activeElement === window.link")
    assert tab.run("return String(getSelection())") == "bulk"


@pytest.mark.parametrize("selected", [True, False])
def test_what_the_reader_looks_at_does_not_move(tab: Browser, served: Site, selected: bool) -> None:
    served.tell(ALARM)
    tab.size(1200, 400)
    opened(tab, served.address)
    tab.run(
        """
        window.block = document.querySelector('table.busy');
        block.closest('.block').scrollIntoView();
        if (arguments[0]) getSelection().selectAllChildren(block.querySelector('tbody bdi'));
        window.seen = block.getBoundingClientRect().top;
        """,
        selected,
    )
    served.tell(status(changed(alarm(), concerns=(*alarm().concerns * 12,)), now=NOW + 5))
    until(lambda: tab.run("return document.querySelectorAll('.concerns li').length") == 12, "the change is shown")
    assert abs(tab.run("return block.getBoundingClientRect().top - seen")) < 2


def test_what_is_selected_stands_still_while_the_rest_goes_on(tab: Browser, served: Site) -> None:
    opened(tab, served.address)
    tab.run("getSelection().selectAllChildren(document.querySelector('article[id$=connections] .headline'))")
    served.tell(ALARM)
    until(lambda: "3 jobs behind" in tab.text(".summary"), "the alarm is shown")
    assert tab.run("return String(getSelection()).trim()").startswith("214 of 2,000")
    tab.run("getSelection().removeAllRanges()")
    served.tell(status(alarm(), now=NOW + 1))
    until(lambda: "1,864" in tab.text("article[id$=connections] .headline"), "the selected text has gone on too")


def test_servers_change_their_places(tab: Browser, served: Site) -> None:
    served.tell(status(calm("a"), calm("b"), calm("c")))
    opened(tab, served.address)
    tab.run("window.kept = document.querySelector('section.server:last-child')")
    served.tell(status(calm("a"), calm("b"), alarm("c")))
    until(lambda: tab.text(".server h2") == "c", "the worst is first")
    assert tab.run("return window.kept === document.querySelector('section.server')")
    order = tab.run("return [...document.querySelectorAll('.server h2')].map(e => e.textContent)")
    assert order == ["c", "a", "b"]


def test_a_lost_connection_is_told_and_comes_back_by_itself(tab: Browser, served: Site) -> None:
    opened(tab, served.address)
    tab.run("window.mark = 1")
    served.down()
    try:
        until(lambda: "lost: last heard" in tab.text("#lost"), "the loss is told")
        assert tab.run("return document.getElementById('link').dataset.state") == "lost"
        assert "lost" in str(tab.run("return document.getElementById('say').textContent"))
        served.tell(ALARM)
    finally:
        served.up()
    until(lambda: "3 jobs behind" in tab.text(".summary"), "the page is heard again")
    until(lambda: tab.run("return document.getElementById('lost').hidden"), "the loss is told no more")
    assert tab.run("return window.mark") == 1


def test_a_page_that_another_version_made_loads_itself_once(
    tab: Browser, served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tab, served.address)
    tab.run("window.mark = 1; sessionStorage.loads = 0")
    monkeypatch.setattr(page_module, "_MADE", "another")
    served.tell(ALARM)
    until(lambda: tab.run("return window.mark") is None, "the page has loaded itself anew")
    until(lambda: "3 jobs behind" in tab.text(".summary"), "the new page is shown")


def test_without_javascript_it_is_readable_and_loads_itself(
    tab: Browser, served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "RELOAD_SECONDS", 1)
    tab.scripts(run=False)
    tab.open(served.address)
    assert "All is well" in tab.driver.find_element("css selector", ".summary").text
    served.tell(ALARM)
    until(lambda: "3 jobs behind" in tab.driver.page_source, "the page has loaded itself anew")


def test_one_server_of_many_is_followed_alone(tab: Browser, served: Site) -> None:
    served.tell(status(calm("eu"), calm("us")))
    opened(tab, f"{served.address}?server=us")
    served.tell(status(calm("eu"), alarm("us")))
    until(lambda: "3 jobs behind" in tab.text(".summary"), "the alarm is shown")
    assert tab.run("return [...document.querySelectorAll('h2')].map(e => e.textContent)") == ["us"]


# Of real servers


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("make", server_kinds())
async def test_the_page_follows_a_real_crash_without_a_reload(
    tab: Browser, crashes: dict[str, Crash], make: Callable[[], WatchedServer]
) -> None:
    crash = crashes[make().name]
    opened(tab, f"{crash.forewarn.address}/")
    tab.run("window.mark = 1")
    until(crash.settled, "the server has run for long enough to be judged", SETTLED + DEADLINE)
    # Only now: a worker is not asked after twice within 80 s, and is when its job has not moved for so long.
    await crash.producer.push(jobtype="sleep", args=[LONG], queue="reports", retry=0)
    until(lambda: "sleep" in tab.text("table.busy"), "the job is shown")
    assert "none" in tab.text("[id$=list-orphans]")
    crash.worker.kill_all()
    until(lambda: "sleep" in tab.text("table.orphans"), "the orphan is shown")
    until(lambda: tab.driver.title.startswith(("Warning", "Critical")), "the title tells it")
    assert "crashed" in tab.text("[id$=list-happened]")
    assert tab.run("return window.mark") == 1
    assert tab.complaints() == []
    assert {urlsplit(each).netloc for each in tab.requests() if not each.startswith("data:")} == {
        urlsplit(crash.forewarn.address).netloc
    }
    assert tab.axe() == []
