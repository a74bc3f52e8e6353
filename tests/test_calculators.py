"""The calculators on the pages: their formulas against recordings, real frames and the rules."""

import re

import pytest
from websockets.frames import Frame, Opcode

from .support.browsing import enter, expect_accessible
from .support.recorder import SNIPPETS

# The key of the examples in RFC 6455.
KEY = bytes([0x37, 0xFA, 0x21, 0x3D])


@pytest.fixture(scope="module")
def calculate(static, browser):
    """Return a function that calls one of the calculators' functions: calculate(name, …)."""
    with browser.new_context(service_workers="block") as context:
        page = context.new_page()
        page.goto(f"{static.url}/techniques/short-polling/")

        def calculate(name, *arguments):
            return page.evaluate(
                """async ([name, values]) => {
                    const module = await import(new URL("../../assets/calculators.js", location));
                    const revive = (value) => Array.isArray(value) ? Uint8Array.from(value) : value;
                    const result = module[name](...values.map(revive));
                    return result instanceof Uint8Array ? [...result] : result;
                }""",
                [name, arguments],
            )

        yield calculate


def test_the_polling_calculator_agrees_with_the_sweep(calculate):
    """The calculator of the polling interval gives the requests and the mean delay that the sweep
    recorded, for each interval."""
    rows = re.findall(
        r"(?m)^\| (?:1/)?(\d+) \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \| [\d.]+ \|$",
        (SNIPPETS / "short_polling/sweep.md").read_text(),
    )
    assert len(rows) >= 4
    for parts, requests, delay in rows:
        values = {"seconds": 60, "interval": 60 / int(parts), "clients": 600}
        result = calculate("polling", values)
        assert result["requests"] == float(requests)
        assert result["meanDelay"] == float(delay) * values["interval"]
        assert result["maxDelay"] == values["interval"]
        assert result["perSecond"] == 600 / values["interval"]


@pytest.mark.parametrize(
    ("shortest", "words"),
    [
        ("hold", "200 with pending"),
        ("server", "503"),
        ("proxy", "504"),
        ("client", "timeout error"),
    ],
)
def test_the_timeout_calculator_names_the_shortest(calculate, shortest, words):
    """The calculator of timeouts names the party whose timeout expires first, and what the client
    gets then."""
    timeouts = {"hold": 25, "server": 30, "proxy": 60, "client": 35} | {shortest: 5}
    result = calculate("heldRequest", timeouts)
    assert (result["first"], result["after"]) == ([shortest], 5)
    assert words in result["outcomes"][0]
    tie = calculate("heldRequest", timeouts | {"hold": 5})
    assert tie["first"] == (["hold"] if shortest == "hold" else ["hold", shortest])


def test_a_heartbeat_of_half_the_timeout_is_safe(calculate):
    """The calculator of timeouts recommends heartbeats at half the idle timeout or more often."""
    found = [calculate("idleStream", {"heartbeat": each, "idle": 60}) for each in (30, 31, 60)]
    assert ["late" in each and "until" not in each for each in found] == [True, False, False]
    assert found[2] == "is closed after 60 s"


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("masked", [False, True])
def test_a_frame_is_that_of_the_library(calculate, monkeypatch, length, masked):
    """The calculator of frames writes a text message as the library websockets does, and reads it
    back."""
    monkeypatch.setattr("secrets.token_bytes", lambda size: KEY)
    expected = Frame(Opcode.TEXT, b"x" * length).serialize(mask=masked)
    arguments = ["x" * length, list(KEY)] if masked else ["x" * length]
    written = calculate("encodeFrame", *arguments)
    assert bytes(written) == expected
    read = calculate("decodeFrame", written)
    assert (read["fin"], read["opcode"], read["masked"]) == (True, "text", masked)
    assert (read["length"], read["rest"]) == (length, 0)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ("89 00", "ping frame · the last of its message · not masked, so from a server · 0 bytes"),
        ("01 03 48 65 6c", "more frames follow"),
        ("88 02 03 e8", "code 1000"),
        ("81 05 48 65 6c 6c 6f 00", "1 bytes follow"),
        ("0x81 0x85 37 fa 21 3d 7f 9f 4d 51 58", "“Hello”"),
        ("81", "Not a frame: a frame has at least two bytes."),
        ("c1 00", "Not a frame: a reserved bit is set"),
        ("83 00", "Not a frame: opcode 3 is reserved."),
        ("09 00", "Not a frame: a control frame is whole"),
        ("88 7e 00 7e", "Not a frame: a control frame is whole"),
        ("81 7e 00 05", "Not a frame: the length has too many bytes."),
        ("81 7f 00", "Not a frame: the length is cut off."),
        ("81 05 48", "Not a frame: 4 bytes are missing."),
        ("81 0", "Write bytes as pairs"),
        ("zz", "Write bytes as pairs"),
    ],
)
def test_bytes_are_explained(calculate, frame, words):
    """The calculator of frames describes bytes in one line, or why they are not a frame."""
    assert words in calculate("describe", frame)


@pytest.mark.parametrize(
    ("address", "label", "value", "words"),
    [
        ("techniques/short-polling", "interval, in seconds", "5", "12.5 polls for each job"),
        (
            "production/timeouts",
            "hold of the handler, in seconds",
            "90",
            "RESPONSE_TIMEOUT expires first, after 30 s: 503",
        ),
        ("techniques/websocket-frames", "text message", "Hi", "2 bytes · “Hi”"),
        ("systems/operating-a-cluster", "open files of an instance", "10150", "10 instances"),
        ("systems/load-balancing", "clients that connect", "6", "30 clients are connected"),
    ],
)
def test_a_calculator_follows_its_inputs(static, open_page, address, label, value, words):
    """A calculator shows its result at once when a number changes; it is accessible, and fits on a
    phone."""
    page = open_page(f"{static.url}/{address}/")
    calculator = page.locator(".calculator")
    enter(calculator.get_by_label(label), value)
    calculator.locator("output", has_text=words).wait_for()
    expect_accessible(page, ".calculator")
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def recorded_table(name):
    """Return the rows of a recorded table: lists of texts, without the head."""
    lines = (SNIPPETS / name).read_text().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def number(text):
    return float(text.replace(",", "").removesuffix(" MiB").removesuffix(" KiB"))


@pytest.mark.parametrize("column", [1, 2], ids=["a million", "ten million"])
def test_the_capacity_calculator_agrees_with_the_simulation(calculate, column):
    """The calculator of capacity gives the instances, the memory and the handshakes that the
    simulation of a million and of ten million clients recorded."""
    recorded = {row[0]: number(row[column]) for row in recorded_table("measurements/simulation.md")}
    (costs,) = (
        row
        for row in recorded_table("measurements/capacity.md")
        if row[0] == "WebSocket: notifications/server.py"
    )
    kib, base, handshake = map(number, costs[1:])
    values = {"clients": 10 ** (5 + column), "kib": kib, "base": base, "handshake": handshake}
    found = calculate("capacity", values | {"gib": 8, "files": 20_150})
    assert found["first"] == "open files"
    assert found["instances"] == recorded["gateway processes"]
    assert round(found["gib"]) == recorded["memory, GiB"]
    moved = recorded["clients that each other gateway takes when one fails"]
    assert int(found["moved"]) == moved
    assert round(found["all"]) == recorded["seconds of processor time if all reconnect"]
    assert found["seconds"] == pytest.approx(moved * handshake / 1e6, rel=0.02)


def test_the_capacity_calculator_agrees_with_a_real_limit(calculate):
    """The calculator of capacity gives as many clients for a server that may open 300 files as were
    held in the recorded run with that limit."""
    values = {"clients": 250, "kib": 11, "base": 30, "handshake": 500, "gib": 1, "files": 300}
    found = calculate("capacity", values)
    printed = (SNIPPETS / "holding_connections/limit.txt").read_text()
    assert f"{found['each']} clients: 200" in printed
    assert (found["instances"], found["held"], found["fits"]) == (2, 125, False)


def test_memory_limits_the_capacity_where_files_do_not(calculate):
    """The calculator of capacity names memory as the limit if it is met first, and then needs an
    instance for each share of it."""
    values = {"clients": 1000, "kib": 1024, "base": 24, "handshake": 500, "gib": 1, "files": 65536}
    found = calculate("capacity", values)
    assert (found["first"], found["each"], found["instances"]) == ("memory", 1000, 1)
    assert calculate("capacity", values | {"clients": 1001})["instances"] == 2
    assert found["proxyFiles"] == 2000


def cluster(*opened):
    """Return the model of a load balancer with so many connections on its instances."""
    names = "abc"
    instances = [
        {"name": name, "state": "up", "open": number}
        for name, number in zip(names, opened, strict=False)
    ]
    return {"instances": instances, "turn": 0}


def opened(model):
    return [instance["open"] for instance in model["instances"]]


@pytest.mark.parametrize("algorithm", ["round robin", "least connections"])
def test_the_balancer_places_connections_as_haproxy_did(calculate, algorithm):
    """The model of a load balancer has the recorded numbers of connections after nine clients have
    connected, those on instance c have disconnected, and six more have connected."""
    names = {"round robin": "`roundrobin`", "least connections": "`leastconn`"}
    (recorded,) = (
        row[1:]
        for row in recorded_table("load_balancing/balance.md")
        if row[0] == f"HAProxy, {names[algorithm]}"
    )
    model = calculate("connect", cluster(0, 0, 0), 9, algorithm)
    steps = [opened(model)]
    model = calculate("change", model, "c", "disconnect", algorithm)
    steps.append(opened(model))
    steps.append(opened(calculate("connect", model, 6, algorithm)))
    assert [" · ".join(map(str, step)) for step in steps] == recorded


def test_the_balancer_moves_no_connection(calculate):
    """In the model, as in the recorded runs, a new instance stays empty until new clients connect,
    a rolling deploy leaves the last instance empty, and one that drains keeps its connections."""
    least = "least connections"
    model = calculate("connect", cluster(0, 0), 30, least)
    assert opened(model) == [15, 15]
    model["instances"].append({"name": "c", "state": "up", "open": 0})
    model = calculate("connect", model, 6, least)
    assert opened(model) == [15, 15, 6]
    drained = calculate("change", model, "c", "drain", least)
    assert opened(calculate("connect", drained, 4, least)) == [17, 17, 6]
    deploys = []
    for name in "abc":
        model = calculate("change", model, name, "kill", least)
        deploys.append(opened(model))
        model = calculate("change", model, name, "start", least)
    figure = (SNIPPETS / "load_balancing/deploy.svg").read_text()
    assert "a was replaced: it has none, b and c 18 each" in figure
    assert "c: it has none, a and b 18" in figure
    assert deploys == [[0, 18, 18], [18, 0, 18], [18, 18, 0]]


def test_the_balancer_is_used_by_keyboard(static, open_page):
    """The model of a load balancer is used by keyboard: the focus stays on the button of an
    instance, each change is announced, and the bars fit on a phone."""
    page = open_page(f"{static.url}/systems/load-balancing/")
    model = page.locator(".calculator")
    output = model.locator("output")
    page.get_by_role("button", name="Add an instance").press("Enter")
    assert (
        output.inner_text() == "c is up. No connection moved to it. Connections: a 15, b 15, c 0."
    )
    drain = page.get_by_role("button", name="Drain a")
    drain.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Start a"
    page.get_by_role("button", name="Connect", exact=True).press("Enter")
    assert "6 clients have connected. Connections: a 15, b 15, c 6." in output.inner_text()
    page.get_by_role("button", name="Kill b").press("Enter")
    assert "b is down. Its 15 clients have reconnected." in output.inner_text()
    assert "a 15, b 0, c 21" in output.inner_text()
    page.get_by_role("button", name="Kill c").press("Enter")
    assert "c is down. Its 21 clients found no instance." in output.inner_text()
    expect_accessible(page, ".calculator")
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
