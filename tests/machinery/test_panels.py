"""The panels of the pages: recorded, with a live server, and with a server in the page."""

import json
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest
from lxml import html

from publish import runnable

from ..support.browsing import (
    PHONE,
    both_browsers,
    counters,
    darken,
    expect_accessible,
    panel,
    replay,
)
from ..support.processes import EXAMPLES, ROOT, wait_until

SNIPPETS = ROOT / "snippets"
needs_runtime = pytest.mark.usefixtures("runtime")


def press(page, name):
    page.locator(".panel").get_by_role("button", name=name, exact=True).click()


# The live server


def test_the_panel_is_live(live, open_page):
    """Served by make serve, the panel runs the printed client against the printed server, says
    that it is live, and draws each request."""
    page = panel(open_page(f"{live.url}/techniques/short-polling/"))
    assert page.get_attribute(".panel", "data-state") == "live"
    client = page.frame_locator(".panel iframe")
    client.locator("#seconds").fill("1.5")
    client.locator("#interval").fill("1")
    client.locator("#start").click()
    client.get_by_text("done: 42").wait_for()
    # The submission and two polls; a response to each.
    assert page.locator(".panel-wire polygon.up").count() == 3
    assert page.locator(".panel-wire polygon.down").count() == 3
    assert "200 done" in page.locator(".panel-wire text.down").all_text_contents()
    shown = counters(page)
    assert shown.keys() == {"Requests", "Known late by"}  # the others cannot be known here
    assert shown["Requests"] == "3"
    assert float(shown["Known late by"].split()[0]) > 0.3


def test_the_token_panel_is_live(live, open_page):
    """The panel of the token submits a job, polls it, and gets 404 for an unknown token."""
    page = panel(open_page(f"{live.url}/start/token/"))
    client = page.frame_locator(".panel iframe")
    client.locator("#submit").click()
    client.get_by_text("202 {").wait_for()
    client.locator("#poll").click()
    client.get_by_text("200 {").wait_for()
    client.locator("#guess").click()
    client.get_by_text("404 {").wait_for()
    assert page.locator(".panel-wire polygon.down").count() == 3
    # The browser's console reports the 404 of this request, and nothing else.
    assert all("made-up" in each or "404" in each for each in open_page.problems), (
        open_page.problems
    )
    open_page.problems.clear()


def test_a_held_request_is_drawn(live, open_page):
    """While a request is held, the panel of long polling draws it as open; one poll is enough."""
    page = panel(open_page(f"{live.url}/techniques/long-polling/"))
    client = page.frame_locator(".panel iframe")
    client.locator("#seconds").fill("1.5")
    client.locator("#start").click()
    client.get_by_text("done: 42").wait_for()
    # The submission and one poll; a response to each.
    assert page.locator(".panel-wire polygon.up").count() == 2
    assert page.locator(".panel-wire polygon.down").count() == 2
    heights = [
        float(band.get_attribute("height")) for band in page.locator(".panel-wire .held").all()
    ]
    assert max(heights) > 30  # the second and a half, without what came before at 0


def test_a_stopped_client_is_drawn_as_stopped(live, open_page):
    """When the client is stopped, its line in the diagram ends with a cross, and what the server
    does later is not drawn."""
    page = panel(open_page(f"{live.url}/techniques/short-polling/"))
    client = page.frame_locator(".panel iframe")
    client.locator("#seconds").fill("30")
    client.locator("#start").click()
    client.get_by_text("pending").first.wait_for()
    client.locator("#stop").click()
    page.locator(".panel-wire text", has_text="stop").wait_for()
    drawn = page.inner_html(".panel-wire svg")
    page.wait_for_timeout(500)  # the job still runs
    assert page.inner_html(".panel-wire svg") == drawn
    assert "done" not in page.locator(".panel-wire text").all_text_contents()
    client.locator("#start").click()  # and another run is a drawing of its own
    page.locator(".panel-wire text", has_text="stop").wait_for(state="detached")


def test_the_newest_message_is_in_view(live, open_page):
    """On a phone, with a poll every tenth of a second, the frame of the panel is scrolled to the
    newest message, and no text lies over another."""
    page = open_page(f"{live.url}/techniques/short-polling/")
    page.set_viewport_size(PHONE)
    client = panel(page).frame_locator(".panel iframe")
    client.locator("#seconds").fill("2")
    client.locator("#interval").fill("0.1")
    client.locator("#start").click()
    client.get_by_text("done: 42").wait_for()
    places = page.locator(".panel-wire, .panel-wire text:is(.up, .down)")

    def in_view():
        frame, *boxes = places.evaluate_all(
            "(all) => all.map((each) => each.getBoundingClientRect())"
            ".map(({ top, bottom }) => [top, bottom])"
        )
        boxes.sort()
        top, bottom = boxes[-1]
        apart = all(bottom <= top + 1 for (_, bottom), (top, _) in pairwise(boxes))
        return len(boxes) > 12 and apart and frame[0] <= top and bottom <= frame[1]

    wait_until(in_view)


@both_browsers
def test_the_client_looks_like_the_site(live, open_page):
    """The client in a panel has the fonts and the colours of the site, also when the scheme is
    switched; its frame shows no second title and never scrolls."""
    page = panel(open_page(f"{live.url}/techniques/short-polling/"))
    page.frame_locator(".panel iframe").locator("#start").wait_for()
    inside = page.frames[1]
    assert inside.locator("h1").is_hidden()

    def differing():
        site, client = (
            frame.evaluate(
                """(selector) => {
                  const style = getComputedStyle(document.querySelector(selector));
                  return [style.color, style.fontSize, style.fontFamily.split(",")[0]];
                }""",
                selector,
            )
            for frame, selector in [(page, ".panel-side"), (inside, "label")]
        )
        return {one for one, other in zip(site, client, strict=True) if one != other}

    wait_until(lambda: not differing())
    light = inside.evaluate("getComputedStyle(document.body).color")
    darken(page)
    wait_until(lambda: not differing())
    assert inside.evaluate("getComputedStyle(document.body).color") != light
    for size in PHONE, {"width": 320, "height": 700}:
        page.set_viewport_size(size)
        for axis in "Width", "Height":
            wait_until(
                lambda axis=axis: inside.evaluate(
                    f"document.documentElement.scroll{axis} <= innerWidth".replace(
                        "innerWidth", f"inner{axis}"
                    )
                )
            )
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


# The recording


@both_browsers
def test_a_held_request_is_replayed(static, open_page):
    """On a static host the panel of long polling plays the recorded run."""
    page = replay(open_page, f"{static.url}/techniques/long-polling/")
    assert counters(page)["Requests"] == "2"
    assert page.locator(".panel-wire .late").count() == 0


def test_the_panel_replays(static, open_page):
    """On a static host the panel states that it replays, and plays the recorded run."""
    page = replay(open_page, f"{static.url}/techniques/short-polling/")
    assert "Recorded" in page.inner_text(".panel")
    assert page.locator(".panel-wire polygon.up").count() == 6
    assert page.locator(".panel-wire polygon.down").count() == 6
    replayed, recorded = (
        page.locator(f"{where} svg.sequence > :not(title, desc)").evaluate_all(
            "(shapes) => shapes.map((each) => each.outerHTML)"
        )
        for where in (".panel-wire", "figure")
    )
    assert replayed == recorded
    expect_accessible(page, ".panel")


def test_the_counters_of_a_recording(static, open_page):
    """Before it is played, the panel shows the whole recording, and the requests, bytes,
    connections and delay that the recorded trace has."""
    page = panel(open_page(f"{static.url}/techniques/short-polling/"))
    trace = json.loads((SNIPPETS / "short_polling/timeline.json").read_text())
    messages = trace["messages"]
    total = {
        name: sum(each["bytes"] for each in messages if each["from"] == name)
        for name in ("client", "server")
    }
    (late,) = [bar["end"] - bar["start"] for bar in trace["bars"] if bar["kind"] == "late"]
    assert counters(page) == {
        "Requests": "6",
        "Bytes sent": f"{total['client']:,}",
        "Bytes received": f"{total['server']:,}",
        "Connections": "1",
        "Known late by": f"{late:.1f} s",
    }
    assert page.locator(".panel-log li").count() == len(messages) == 12


@both_browsers
def test_a_recording_is_paused_and_sought(static, open_page):
    """A recording is played by the keyboard, paused, continued and sought; at twice the speed it
    takes half the time."""
    open_page.context.clock.install(time=0)
    page = panel(open_page(f"{static.url}/techniques/short-polling/"))
    page.clock.pause_at(3600)  # time passes from now on as the test says
    shown = page.locator(".panel-log li")
    page.focus(".panel-play")
    page.keyboard.press("Enter")
    page.clock.run_for(2500)
    assert page.inner_text(".panel-play") == "Pause"
    assert shown.count() == 6
    page.keyboard.press("Enter")
    page.clock.run_for(5000)
    assert shown.count() == 6
    page.focus(".panel [type=range]")
    page.keyboard.press("Home")
    assert shown.count() == 2
    press(page, "2×")
    press(page, "Play")
    page.clock.run_for(1300)
    assert shown.count() == 6
    assert parse_qs(urlsplit(page.url).query) == {"speed": ["2"]}


def test_reduced_motion_draws_when_something_happens(static, browser):
    """For a reader who prefers reduced motion, a recording is drawn only when something in it
    happens."""
    with browser.new_context(reduced_motion="reduce", service_workers="block") as context:
        context.clock.install(time=0)
        page = context.new_page()
        page.goto(f"{static.url}/techniques/short-polling/")
        panel(page).clock.pause_at(3600)
        page.click(".panel-play")
        page.evaluate(
            """() => {
              window.drawings = 0;
              new MutationObserver(() => (drawings += 1))
                .observe(document.querySelector(".panel-wire svg"), { childList: true });
            }"""
        )
        for _ in range(80):
            page.clock.run_for(100)
        page.wait_for_selector(".panel[data-done=yes]")
        # Five polls, and the end of the job.
        assert page.evaluate("drawings") == 6


def test_a_missing_recording_is_no_error(static, browser):
    """Where a recorded trace is missing or broken, and nothing else can be shown, the panel keeps
    the text that stands in it; no script fails."""
    errors = []
    responses = iter([{"status": 404, "body": "{}"}, {"body": "{"}])
    with browser.new_context(service_workers="block") as context:  # whose requests are not routed
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.route("**/retry.json", lambda route: route.fulfill(**next(responses)))
        for _ in range(2):
            with page.expect_response("**/retry.json"):
                page.goto(f"{static.url}/techniques/webhooks/")
                page.locator(".panel").scroll_into_view_if_needed()
            page.wait_for_load_state("networkidle")
            assert "Without JavaScript" in page.inner_text(".panel")
    assert errors == []


def test_a_panel_fits_a_narrow_screen(static, open_page):
    """On a screen of 320 pixels and in dark colours a panel is no wider than the screen, and breaks
    no rule of axe."""
    page = open_page(f"{static.url}/techniques/webhooks/")
    page.set_viewport_size({"width": 320, "height": 700})
    darken(panel(page))
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    expect_accessible(page, ".panel")


# The server in the page


def test_a_panel_runs_the_server_that_its_client_needs():
    """The server that a panel runs in the page is the one that its client names, and can run
    there; the client of the token also serves for the job queue."""
    found = []
    for path in (ROOT / "docs").glob("*/*.md"):
        for place in html.fragments_fromstring(f"<p></p>{path.read_text()}"):
            if place.get("class") == "panel" and "data-server" in place.attrib:
                found.append(server := EXAMPLES / place.get("data-server"))
                client = EXAMPLES / place.get("data-client")
                if server != EXAMPLES / "job_queue/server.py":
                    assert client.parent == server.parent
                assert runnable.NEEDS.search(client.read_text())[1] == server.name
                assert place.get("data-server") in runnable.programs()
    assert len(found) >= 7


# Counts what passes between a page and its workers.
COUNT = """
  window.passed = { up: 0, down: 0, connections: 0 };
  window.Worker = class extends Worker {
    constructor(...where) {
      super(...where);
      this.addEventListener("message", ({ data }) => {
        if (data.type === "data") passed.down += data.bytes.length;
      });
    }
    postMessage(message, ...rest) {
      if (message.type === "data") passed.up += message.bytes.length;
      if (message.type === "connect") passed.connections += 1;
      super.postMessage(message, ...rest);
    }
  };
"""


@pytest.fixture
def in_page(open_page, static):
    """Return open(path) -> page, whose panel runs its server in the page, and its client."""

    def open_panel(path):
        open_page.context.add_init_script(COUNT)
        page = panel(open_page(f"{static.url}/{path}"))
        page.set_default_timeout(60_000)
        press(page, "In this page")
        return page, page.frame_locator(".panel iframe")

    return open_panel


def texts(page, selector="text"):
    """Return the texts in the diagram of a panel."""
    return page.locator(f".panel-wire {selector}").all_text_contents()


def expect_all_events(client):
    """Fail if an event is missing in the log of the client of *Reliable WebSockets*, or is there
    twice."""
    ids = [int(each.split()[0]) for each in client.locator("#events li").all_inner_texts()]
    assert ids == list(range(1, len(ids) + 1))


@needs_runtime
def test_the_address_keeps_source_and_settings(static, open_page):
    """The address of a page has the source and the settings of its panel. Opened again, it shows
    the same, and loads the runtime only after a click."""
    page = open_page(f"{static.url}/techniques/short-polling/?source=page&interval=0.5&delay=200")
    panel(page)
    names = page.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
    assert not [name for name in names if "/runtime/" in name]
    press(page, "Start the server")
    client = page.frame_locator(".panel iframe")
    client.locator("#interval").wait_for(timeout=60_000)
    assert client.locator("#interval").input_value() == "0.5"
    assert page.inner_text(".panel-delay output") == "200 ms"
    client.locator("#interval").fill("2")
    client.locator("#interval").blur()
    press(page, "Recording")
    assert parse_qs(urlsplit(page.url).query) == {
        "source": ["recording"],
        "interval": ["2"],
        "delay": ["200"],
    }


@needs_runtime
def test_the_counters_in_the_page_are_exact(in_page):
    """In the page, the counters are the bytes that client and server exchanged in a run, and the
    connections that the client opened; a second run uses the same connection."""
    page, client = in_page("techniques/short-polling/")
    client.locator("#interval").fill("0.7")
    for seconds, requests, connections in [("1", "3", 1), ("1.8", "4", 0)]:
        client.locator("#seconds").fill(seconds)
        page.evaluate("Object.assign(passed, { up: 0, down: 0, connections: 0 })")
        client.locator("#start").click()
        wait_until(lambda: page.evaluate("passed.up"))
        client.get_by_text("done: 42").wait_for()
        passed = page.evaluate("passed")
        assert passed["connections"] == connections and passed["up"] > 300 and passed["down"] > 300
        shown = counters(page)
        assert shown["Requests"] == requests
        assert shown["New connections"] == str(connections)
        assert shown["Bytes sent"] == f"{passed['up']:,}"
        assert shown["Bytes received"] == f"{passed['down']:,}"
    expect_accessible(page, ".panel")


@needs_runtime
@both_browsers
def test_a_client_survives_a_server_that_is_killed(in_page):
    """On *Reliable WebSockets*, after the server in the page is killed and restarted, the diagram
    shows both, the attempts in between as lost, and from which event the client resumes; it misses
    no event."""
    page, client = in_page("techniques/reliable-websockets/?base_delay=0.2")
    client.get_by_text("2 tick").wait_for()
    press(page, "Kill server")
    page.locator(".panel-wire text", has_text="killed").wait_for()
    page.locator(".panel-wire line.lost").first.wait_for(state="attached")
    last = client.locator("#events li").count()
    press(page, "Restart server")
    client.get_by_text(f"{last + 2} tick").wait_for()
    drawn = texts(page)
    assert drawn.index("killed") < drawn.index("starts")
    assert f"/events?after={last}" in texts(page, "text.up")
    expect_all_events(client)


@needs_runtime
def test_a_client_survives_a_network_that_is_frozen_and_cut(in_page):
    """On *Reliable WebSockets*, neither side notices that the network is frozen, until the idle
    timeout of the client; when it is cut, the client notices at once. It resumes after both, and
    misses no event."""
    page, client = in_page("techniques/reliable-websockets/?base_delay=0.2&idle_timeout=2")
    client.get_by_text("1 tick").wait_for()
    press(page, "Cut")
    client.get_by_text("3 tick").wait_for()
    assert "close 1006" in " ".join(texts(page))
    press(page, "Freeze")
    last = client.locator("#events li").count()
    client.get_by_text("silent for 2 s, reconnecting").wait_for()
    page.locator(".panel-wire line.lost").first.wait_for(state="attached")
    assert client.locator("#events li").count() == last
    press(page, "Freeze")
    client.get_by_text(f"{last + 2} tick").wait_for()
    assert {"frozen", "thawed", "cut"} <= set(texts(page))
    expect_all_events(client)


@needs_runtime
def test_what_the_panel_publishes_is_not_counted(in_page):
    """On *Notifications*, the panel publishes as another client: the notification arrives, and the
    counters have the bytes of the client alone."""
    page, client = in_page("systems/notifications/")
    client.get_by_text("topics/server: started").wait_for()
    page.fill(".panel-publish input", "version 43 is out")
    press(page, "Publish")
    client.get_by_text("topics/deploys: version 43 is out").wait_for()
    assert "ack 2" in texts(page, "text.up")
    assert page.evaluate("passed.connections") == 2
    assert counters(page)["New connections"] == "1"
    sent = int(counters(page)["Bytes sent"].replace(",", ""))
    assert 0 < sent < page.evaluate("passed.up") - 100  # without the POST


@needs_runtime
def test_a_delay_is_drawn(in_page):
    """With a delay of the network, messages slope in the diagram, and the result is known late;
    SIGTERM ends the server when it has responded to what it holds."""
    page, client = in_page("techniques/long-polling/?delay=400&seconds=1")
    client.locator("#start").click()
    client.get_by_text("done: 42").wait_for()
    slopes = page.locator(".panel-wire line:is(.up, .down)[x1]").evaluate_all(
        "(all) => all.map(({ y1, y2 }) => y2.baseVal.value - y1.baseVal.value)"
    )
    assert sum(slope > 15 for slope in slopes) == 4  # 56 pixels are a second
    assert "late" in texts(page)
    page.locator(".panel-delay input").fill("0")
    client.locator("#seconds").fill("60")
    client.locator("#start").click()
    page.locator(".panel-wire text.late").wait_for(state="detached")
    page.locator(".panel-wire text.up").nth(1).wait_for()
    press(page, "Stop server")
    page.get_by_text("The server drained, and ended with status 0.").wait_for()
    assert "ended" in texts(page)
    assert "200 pending" in texts(page, "text.down")


@needs_runtime
def test_a_queue_in_the_page(in_page):
    """On *Job queues*, the client of the token submits jobs to the queue in the page: the first has
    position 1, and one is rejected with 503 when the queue is full. The last accepted job can still
    be polled."""
    page, client = in_page("systems/job-queues/")
    submit = client.get_by_role("button", name="Submit")
    responses = client.locator("#responses li")
    rejected = client.get_by_text("the queue is full")
    for number in range(10):  # some may take as long as a job
        if rejected.count():
            break
        submit.click()
        responses.nth(number).wait_for()
    drawn = texts(page, "text.down")
    assert (drawn[0], drawn[-1]) == ("202 position 1", "503")
    client.get_by_role("button", name="Is it done yet?").click()
    client.get_by_text("200 {").wait_for()
    assert "503" in texts(page, "text.down")  # the drawing goes on
    expect_accessible(page, ".panel")
