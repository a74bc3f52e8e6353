"""All techniques on the same job, side by side."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import pytest

from .machinery.test_figures import expect_same
from .support.browsing import PHONE, both_browsers, expect_accessible
from .support.figures import race
from .support.frames import conversation, costs
from .support.messages import held, late, messages, pieces, stream_trace, table, trace, whole_stream
from .support.recorder import SNIPPETS
from .support.wiretap import Tap

JOB = 4.5  # as it is drawn; it takes twice as many seconds, as a busy machine is late each time
UNIT = 2
STEP = 0.5
SLOW = {"SECONDS": UNIT * JOB, "INTERVAL": UNIT}
TECHNIQUES = {  # folder: name, page
    "short_polling": ("Short polling", "short-polling"),
    "long_polling": ("Long polling", "long-polling"),
    "server_sent_events": ("Server-sent events", "server-sent-events"),
    "websockets": ("WebSocket", "websockets"),
    "webhooks": ("Webhook", "webhooks"),
}
POLLED = list(TECHNIQUES)[:-1]  # the client opens all connections


@dataclass
class Run:
    """A client that has waited for a job: what passed, and what was printed."""

    wire: Tap
    printed: str
    to_receiver: Tap | None = None  # over which the server calls the client back

    @property
    def conversation(self):
        """All messages as the client sees them: it is the server of a webhook."""
        found = conversation(self.wire.events)
        if self.to_receiver:
            shift = self.to_receiver.start - self.wire.start
            found += [
                replace(
                    message,
                    at=message.at + shift,
                    source="server" if message.source == "client" else "client",
                    passed=[(at + shift, length) for at, length in message.passed],
                )
                for message in messages(self.to_receiver.events)
            ]
        return found

    @property
    def costs(self):
        found = costs(self.wire)
        if self.to_receiver:
            back = costs(self.to_receiver)
            back["bytes up"], back["bytes down"] = back["bytes down"], back["bytes up"]
            found = {name: count + back[name] for name, count in found.items()}
        return found

    @property
    def late(self):
        """How late the result arrived, in seconds as drawn."""
        found = self.conversation
        return late(found[:-1] if self.to_receiver else found, UNIT * JOB, UNIT)


@pytest.fixture(scope="module")
def runs(start_shared, tap_shared, run_shared):
    """Return {folder: Run} after a client of each has waited for a job, side by side."""
    wires = {
        name: tap_shared(start_shared(f"{name}/server.py"), on_data=whole_stream)
        for name in TECHNIQUES
    }
    receiver = start_shared("webhooks/receiver.py")
    to_receiver = tap_shared(receiver)
    callback = {"CALLBACK": f"{to_receiver.url}/webhooks"}
    with ThreadPoolExecutor() as beside:
        results = {
            name: beside.submit(run_shared, f"{name}/client.py", URL=wire.url, **SLOW, **callback)
            for name, wire in wires.items()
        }
    runs = {}
    for name, wire in wires.items():
        result = results[name].result()
        assert result.returncode == 0, result.stderr
        runs[name] = Run(wire, result.stdout)
    to_receiver.wait_until(lambda events: [e for e in events if e.source == "server"])
    receiver.wait_for("job.done")
    runs["webhooks"].to_receiver = to_receiver
    runs["webhooks"].printed += receiver.output.splitlines()[-1] + "\n"
    for run in runs.values():
        assert "42" in run.printed
    return runs


def test_the_same_job_by_every_technique(runs, record):
    """On the same job, the counts of each technique are the same in every run."""
    record(
        "choosing/costs.md",
        table(
            [
                {"technique": "[{}](../techniques/{}.md)".format(*TECHNIQUES[name])}
                | run.costs
                | {"late, in intervals": run.late}
                for name, run in runs.items()
            ]
        ),
    )


def test_what_each_client_prints(runs, record):
    """On the same job, the short-polling client sends five requests, four of which return
    `pending`; long polling needs one; the event stream also reports progress; the WebSocket
    confirms the submission and then sends the result; a webhook brings it to the receiver."""
    printed = {name: run.printed.splitlines() for name, run in runs.items()}
    assert printed["short_polling"] == [*["pending"] * 4, "done: 42"]
    assert printed["long_polling"] == ["done: 42"]
    assert [line[-1] for line in printed["server_sent_events"]] == [*"%%%", "2"]
    assert [json.loads(line)["status"] for line in printed["websockets"]] == ["pending", "done"]
    assert [line.split()[0] for line in printed["webhooks"]] == ["submitted:", "job.done"]
    outputs = [f"{TECHNIQUES[name][0]}\n{run.printed}" for name, run in runs.items()]
    record("choosing/printed.txt", "\n".join(outputs))


def test_only_short_polling_is_late(runs):
    """With short polling the client receives the result half an interval late, with its next
    request; with each other technique less than half an interval late."""
    found = {name: run.late for name, run in runs.items()}
    assert found.pop("short_polling") == "0.5"
    assert set(found.values()) == {"0"}


# The race


def drawn(run):
    """Return the messages of a run, their times rounded down, and when a request was open."""
    if run.to_receiver or run.wire.events[0].data.startswith(b"GET"):
        found = trace(run.conversation, UNIT, [0, JOB], STEP)
    else:
        found = stream_trace(run.conversation, UNIT, [0, JOB], STEP)
    found = json.loads(found)["messages"]
    if "upgrade" in found[0]["text"]:
        return found, [(found[1]["at"], found[-1]["at"])]  # from its 101 on
    return found, [(found[a]["at"], found[b]["at"]) for a, b in held(found)]


def requests(run):
    """Return for each message of a run whether it is a request."""
    if run.to_receiver:
        return [bool(message.method) for message in run.conversation]
    return [message["text"].startswith(("GET", "POST")) for message in drawn(run)[0]]


def one_more(name, run):
    """Return the bytes, up and down, of one more poll, event, push or webhook."""
    found = run.conversation
    if name == "server_sent_events":
        (stream,) = [m for m in found if m.headers.get("content-type") == "text/event-stream"]
        return 0, max(len(data) for _, data in pieces(stream) if b"event: progress" in data)
    if name == "websockets":
        return 0, len(found[-1].data)
    if name == "webhooks":
        return len(found[-1].data), len(found[-2].data)
    return len(found[2].data), len(found[3].data)


def test_the_race(runs, record):
    """Drawn on one time scale: polls at an interval, a held request, a stream, a WebSocket, and a
    request of the server."""
    rows, lanes = [], []
    for name, run in runs.items():
        found, opened = drawn(run)
        counts = run.costs
        number, size = counts["requests"], counts["bytes up"] + counts["bytes down"]
        note = f"{number} request{'s' * (number > 1)} · {size:,} B · {run.late} s late"
        rows.append((TECHNIQUES[name][0], note, opened, found))
        up, down = one_more(name, run)
        lane = {
            "name": TECHNIQUES[name][0],
            "requests": number,
            "up": counts["bytes up"],
            "down": counts["bytes down"],
            "late": float(run.late),
            "more": {"up": up, "down": down},
            "open": opened,
            "messages": [
                [message["at"], message["from"], is_request]
                for message, is_request in zip(found, requests(run), strict=True)
            ],
        }
        lanes.append(f' "{name}": {json.dumps(lane)}')
    record("choosing/runs.json", "{\n" + ",\n".join(lanes) + "\n}\n")
    record(
        "choosing/race.svg",
        race(
            rows,
            [0, JOB],
            "Five techniques on one job",
            "A job ends at four and a half seconds. Short polling sends a request each second and "
            "receives the result at five seconds, half a second late. With long polling one "
            "request is held until the job is done. With server-sent events one response stays "
            "open; it carries the progress of the job, and at the end the result. A WebSocket "
            "stays open, and the server sends a message when the job is done. With a webhook "
            "nothing is open: when the job is done, the server sends a request to the client.",
        ),
    )


# The race on the pages


RUNS = json.loads((SNIPPETS / "choosing/runs.json").read_text())
FIGURE = (SNIPPETS / "choosing/race.svg").read_text()
PAGES = ["", "start/choosing/"]  # that have the race


@pytest.fixture(scope="module")
def calculate(static, browser):
    """Return a function that calculates a lane of the race: calculate(name, changed settings)."""
    with browser.new_context(service_workers="block") as context:
        page = context.new_page()
        page.goto(f"{static.url}/")

        def calculate(name, **settings):
            return page.evaluate(
                """async ([name, settings, run]) => {
                    const race = await import(new URL("assets/race.js", location));
                    const lane = race.calculate(name, { ...race.RECORDED, ...settings });
                    return { ...lane, bytes: race.bytes(name, lane, run) };
                }""",
                [name, settings, RUNS[name]],
            )

        yield calculate


@pytest.mark.parametrize("name", TECHNIQUES)
def test_the_calculation_equals_the_recording(calculate, name):
    """For the recorded job, the calculation of the race gives the requests, the bytes, the delay
    and the times of all messages of the recorded run."""
    run, lane = RUNS[name], calculate(name)
    assert lane["requests"] == run["requests"]
    assert lane["bytes"] == run["up"] + run["down"]
    assert lane["late"] == run["late"] * 1000
    assert lane["open"] == [[start * 1000, end * 1000] for start, end in run["open"]]
    assert [
        [message["at"] / 1000, message["from"], message.get("request", False)]
        for message in lane["messages"]
    ] == run["messages"]


def cell(name, row, column):
    """Return a number from a recorded table: of its row that begins so, by position."""
    (line,) = re.findall(rf"(?m)^\| {row} \|.*$", (SNIPPETS / name).read_text())
    return int(line.split("|")[column + 1].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("long_polling", cell("notifications/costs.md", "long polling", 1)),
        ("server_sent_events", cell("notifications/costs.md", "server-sent events", 1)),
        ("websockets", cell("notifications/costs.md", "WebSocket, acknowledged", 1)),
    ],
)
def test_an_event_more_costs_what_was_recorded(calculate, name, recorded):
    """An event more costs as many requests in the race as a recorded notification does: one with
    long polling, none on a stream or a WebSocket."""
    few, many = (calculate(name, events=count, every=True) for count in (3, 8))
    assert many["requests"] - few["requests"] == 5 * recorded
    assert (few["late"], many["late"]) == (0, 0)


def test_a_poll_or_push_more_costs_what_was_recorded(calculate):
    """In the race, a held poll more takes the bytes of the recorded exchange, and a push more those
    of the recorded push."""
    for name, part in [
        ("long_polling", "HTTP: held `GET` and its response"),
        ("websockets", "WebSocket: one push"),
    ]:
        few, many = (calculate(name, events=count, every=True) for count in (3, 8))
        assert many["bytes"] - few["bytes"] == 5 * cell("websockets/parts.md", part, 1)


def test_the_latest_event_is_the_delay_of_the_race(calculate):
    """If the client is to receive every event, the delay in the race is that of the latest event,
    and otherwise that of the result."""
    late = [calculate("short_polling", every=every)["late"] for every in (False, True)]
    assert late == [500, 1000]


def test_a_network_delay_in_the_race(calculate):
    """With a delay each way, a held request, a stream and a WebSocket are late by one delay, a
    webhook, which needs a connection, by three; long polling by three when events follow each other
    closely."""
    late = {name: calculate(name, delay=0.1)["late"] for name in TECHNIQUES}
    assert late.pop("webhooks") == 300
    assert late.pop("short_polling") > 100
    assert set(late.values()) == {100}
    # The second event happens just after the response with the first was sent.
    assert calculate("long_polling", seconds=0.5, events=2, every=True, delay=0.3)["late"] > 300


DRAW = """async ([source, runs]) => {
    const race = await import(new URL("assets/race.js", location));
    const svg = document.querySelector(".race svg").cloneNode(true);
    const lanes = Object.keys(runs).map((name) => {
        const lane = race.calculate(name, race.RECORDED);
        return { ...lane, note: source[name] };
    });
    race.draw(svg, lanes, race.RECORDED.seconds * 1000);
    return svg.outerHTML;
}"""


def test_python_and_javascript_draw_the_same_race(static, open_page):
    """What the page draws for the recorded job, calculated or recorded, is the recorded figure."""
    page = open_page(f"{static.url}/")
    notes = re.findall(r"<tspan[^>]*>(.*?)</tspan>", FIGURE)
    expect_same(page.evaluate(DRAW, [dict(zip(RUNS, notes, strict=True)), RUNS]), FIGURE)
    page.emulate_media(reduced_motion="reduce")
    page.get_by_role("button", name="Run the race").click()
    page.get_by_role("status").get_by_text("Webhook: 2 requests").wait_for(state="attached")
    drawn = page.locator(".race svg").evaluate("(svg) => svg.outerHTML")
    assert "Five techniques on one job, recorded" in drawn
    expect_same(drawn, FIGURE)


@pytest.mark.parametrize("path", PAGES)
def test_the_race_is_played(static, open_page, path):
    """The race starts by its button; lanes are drawn as time passes, and the result is announced.
    After a change of a setting the caption states that the race is calculated."""
    open_page.context.clock.install()
    page = open_page(f"{static.url}/{path}")
    form = page.get_by_role("form", name="The race")
    arrows = page.locator(".race svg polygon")
    complete = arrows.count()
    assert form.get_by_role("status").text_content() == ""
    form.get_by_role("button", name="Run the race").click()
    page.clock.run_for(1000)
    assert 0 < arrows.count() < complete
    assert "done" not in page.text_content(".race svg > text")
    page.clock.run_for(5000)
    assert arrows.count() == complete
    assert "Short polling: 6 requests · 2,172 B · 0.5 s late." in form.text_content()
    caption = page.locator(".race figcaption")
    assert caption.text_content().startswith("Recorded")
    slider = form.get_by_role("slider", name="polling interval")
    slider.focus()
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "5 s"
    assert caption.text_content().startswith("Calculated")
    assert page.get_by_text("2 requests · 780 B · 0.5 s late").count()
    form.get_by_role("button", name="Many events").click()
    page.clock.run_for(9000)
    assert form.get_by_label("the client receives every event").is_checked()
    assert "Long polling: 22 requests" in form.text_content()


@pytest.mark.parametrize("path", PAGES)
def test_the_race_fits_and_is_accessible(static, open_page, path):
    """The race breaks no rule of axe, and fits on a phone of 320 pixels; no page shifts while it
    loads."""
    open_page.context.add_init_script(
        """window.shifted = 0;
        new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) window.shifted += entry.value;
        }).observe({ type: "layout-shift", buffered: true });"""
    )
    page = open_page.context.new_page()
    for size in PHONE, {"width": 1440, "height": 900}, {"width": 320, "height": 800}:
        page.set_viewport_size(size)
        page.goto(f"{static.url}/{path}")
        page.get_by_role("button", name="Run the race").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate("window.shifted") < 0.005
    expect_accessible(page, ".race")


def run_with_servers(page):
    """Run the race of a page, and fail if a lane has other requests than the calculation gives."""
    form = page.get_by_role("form", name="The race")
    assert form.get_by_role("slider", name="progress events").is_disabled()
    form.get_by_role("slider", name="length of the job").fill("2")
    form.get_by_role("slider", name="polling interval").fill("1.5")
    form.get_by_role("button", name="Run the race").click()
    page.get_by_role("status").get_by_text("Webhook").wait_for(state="attached")
    announced = page.get_by_role("status").text_content()
    settings = {"seconds": 2, "interval": 1.5}
    for name in POLLED:
        expected = page.evaluate(
            """async ([name, settings]) => {
                const race = await import(new URL("assets/race.js", location));
                const lane = race.calculate(name, { ...race.RECORDED, ...settings });
                return [lane.name, lane.requests, lane.messages.length];
            }""",
            [name, settings],
        )
        assert re.search("{}: {} requests? ".format(*expected), announced), announced
    assert "Webhook: a browser cannot receive it" in announced


def test_the_race_is_live(live, open_page):
    """Served by `make serve`, the race is run by the servers of the site: its requests are those
    that the calculation gives for the same settings; the webhook, which a browser cannot receive,
    is left out."""
    page = open_page(f"{live.url}/")
    assert page.get_by_label("Source").input_value() == "live"
    run_with_servers(page)
    assert page.text_content(".race figcaption").startswith("Live")


def test_a_live_race_is_stopped(live, open_page):
    """A change of a setting stops a live race: its client does not poll again."""
    page = open_page(f"{live.url}/")
    form = page.get_by_role("form", name="The race")
    length = form.get_by_role("slider", name="length of the job")
    length.fill("20")
    form.get_by_role("slider", name="polling interval").fill("0.2")
    with page.expect_request("**/live/short_polling/jobs/*") as first:
        form.get_by_role("button", name="Run the race").click()
    length.fill("1")
    polled = []
    page.on("request", lambda request: polled.append(request.url))
    form.get_by_role("button", name="Run the race").click()
    page.get_by_role("status").get_by_text("Webhook").wait_for(state="attached")
    assert any("/short_polling/jobs/" in url for url in polled)
    assert first.value.url not in polled


@both_browsers
@pytest.mark.usefixtures("runtime")
def test_the_race_in_the_page(static, open_page):
    """The servers of the race run in the page, where the reader chooses so: the requests are those
    that the calculation gives. The runtime is loaded when the race is started, and all requests go
    to the site."""
    page = open_page(f"{static.url}/?source=page")
    loaded = (
        "performance.getEntriesByType('resource').filter(({ name }) => name.match('/runtime/'))"
    )
    page.get_by_role("button", name="Run the race").wait_for()
    assert page.evaluate(f"{loaded}.length") == 0
    page.set_default_timeout(60_000)  # milliseconds, as the runtime starts
    run_with_servers(page)
    assert page.evaluate(f"{loaded}.length") > 0
    assert page.text_content(".race figcaption").startswith("In this page")
    assert open_page.hosts == {urlsplit(static.url).netloc}
    expect_accessible(page, ".race")


@pytest.mark.usefixtures("runtime")
def test_the_address_keeps_the_settings_of_the_race(static, open_page):
    """A changed setting of the race, or source, is in the address of the page; opened again, the
    race has it. What is as usual is not in the address."""
    page = open_page(f"{static.url}/")
    form = page.get_by_role("form", name="The race")
    form.get_by_role("slider", name="polling interval").fill("0.5")
    form.get_by_label("the client receives every event").check()
    form.get_by_label("Source").select_option("In this page (9 MB)")
    query = {"interval": ["0.5"], "every": ["true"], "source": ["page"]}
    assert parse_qs(urlsplit(page.url).query) == query
    drawn = page.locator(".race svg").inner_html()
    page = open_page(page.url)
    form = page.get_by_role("form", name="The race")
    assert form.get_by_role("slider", name="polling interval").input_value() == "0.5"
    assert form.get_by_label("the client receives every event").is_checked()
    assert form.get_by_label("Source").input_value() == "page"
    assert page.locator(".race svg").inner_html() == drawn
    form.get_by_role("button", name="Recorded job").click()
    assert urlsplit(page.url).query == ""


@pytest.mark.usefixtures("runtime")
def test_the_race_without_promise_integration(static, open_page):
    """In a browser that cannot run the servers, the race does not offer it."""
    open_page.context.add_init_script("delete WebAssembly.Suspending")
    page = open_page(f"{static.url}/?source=page")
    page.get_by_role("button", name="Run the race").wait_for()
    assert not page.get_by_label("Source").is_visible()
    assert page.get_by_role("slider", name="progress events").is_enabled()


def test_the_race_is_loaded_where_it_is(static, open_page):
    """The script of the race is loaded by a page that has it, and by no other page."""
    page = open_page.context.new_page()
    requested = []
    page.on("request", lambda request: requested.append(request.url.rpartition("/")[2]))
    page.goto(f"{static.url}/start/token/", wait_until="networkidle")
    page.locator(".md-code__nav[role=none]").first.wait_for(state="attached")  # by site.js
    assert "race.js" not in requested
    page.goto(f"{static.url}/")
    page.get_by_role("button", name="Run the race").wait_for()
    assert "race.js" in requested


def test_without_javascript_the_figure_of_the_race_stays(static, browser):
    """Without JavaScript the recorded figure of the race stands on the page, without controls."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{static.url}/")
        assert page.is_visible(".race svg")
        assert page.locator(".race input").count() == 0
        race, figure = (page.locator(part).bounding_box() for part in (".race", ".race figure"))
        assert race["height"] - figure["height"] < 60
