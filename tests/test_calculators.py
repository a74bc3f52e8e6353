"""The calculators on the pages: their formulas against recordings, real frames and the rules."""

import re

import pytest
from websockets.frames import Frame, Opcode

from .support.browsing import expect_accessible
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
        ("production/timeouts", "hold of the handler, in seconds", "90", "after 30 s: 503"),
        ("techniques/websocket-frames", "text message", "Hi", "2 bytes · “Hi”"),
    ],
)
def test_a_calculator_follows_its_inputs(static, open_page, address, label, value, words):
    """A calculator shows its result at once when a number changes; it is accessible, and fits on a
    phone."""
    page = open_page(f"{static.url}/{address}/")
    calculator = page.locator(".calculator")
    calculator.get_by_label(label).fill(value)
    calculator.locator("output", has_text=words).wait_for()
    expect_accessible(page, ".calculator")
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
