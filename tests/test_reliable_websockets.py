"""A WebSocket that is cut: a client that reconnects, resumes, and loses no event."""

import asyncio
import html
import importlib
import json
import re
import resource
import runpy
import signal
import time
from contextlib import aclosing
from itertools import count
from urllib.parse import quote

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from .support.browsing import both_browsers
from .support.messages import messages, table
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    copy_isolated,
    environment,
    run_to_end,
    wait_until,
)
from .support.sequence import in_order, sequence_diagram
from .support.sockets import CLOSE, PONG, TEXT, closings, connect, frames
from .support.threads import run_in_thread

TOPIC = "reliable_websockets"
SERVERS = ["server.py", "server_websockets.py"]
QUICK = {"BASE_DELAY": 0.1, "MAX_FAILURES": 1000}


def ws(server, path="/events?after=0"):
    return server.url.replace("http", "ws") + path


def publish(server, *texts):
    """Publish events; return their ids."""
    responses = [httpx2.post(f"{server.url}/events", json={"text": text}) for text in texts]
    assert [response.status_code for response in responses] == [201] * len(texts)
    return [response.json()["id"] for response in responses]


def ids(output):
    """Return the ids of the ticks that a client printed."""
    return [int(line.split()[0]) for line in output.splitlines() if line.endswith(" tick")]


# Reconnecting and resuming


@pytest.fixture(scope="module")
def runs(start_shared, tap_shared, follow_shared, tmp_path_factory, port):
    """Return {client: (its wire, its output)} after the same run: three events, the server
    killed, two events while both clients are disconnected, and one more."""
    log = tmp_path_factory.mktemp("log") / "events.log"
    options = {"EVENT_INTERVAL": 0, "LOG": log, "HEARTBEAT_INTERVAL": 0.3}
    server = start_shared(f"{TOPIC}/server.py", **options)
    names = "client.py", "wrong_client_no_resume.py"
    wires = {name: tap_shared(server) for name in names}
    clients = {}
    for (name, wire), number in zip(wires.items(), (6, 4), strict=True):
        clients[name] = follow_shared(name, URL=wire.url, COUNT=number)
        wire.wait_until(lambda events: b"heartbeat" in b"".join(e.data for e in events))
    publish(server, "one", "two", "three")
    for client in clients.values():
        client.wait_for("3 three")
    server.stop(signal.SIGKILL)
    for wire in wires.values():
        wire.wait_until(lambda events: max(e.connection for e in events) > 1)
    # At another port, so that the clients cannot reconnect yet.
    elsewhere = start_shared(f"{TOPIC}/server.py", **options)
    publish(elsewhere, "four", "five")
    elsewhere.stop()
    again = start_shared(f"{TOPIC}/server.py", PORT=server.port, **options)
    for wire in wires.values():  # a heartbeat on the last connection: it is open
        wire.wait_until(
            lambda events: any(
                b"heartbeat" in e.data for e in events if e.connection == max_of(events) > 1
            )
        )
    publish(again, "six")
    assert [client.wait() for client in clients.values()] == [0, 0]
    return {name: (wires[name], clients[name].output) for name in names}


def max_of(events):
    return max(event.connection for event in events)


def test_reconnects_and_resumes(runs, record):
    """A client that was disconnected reconnects with the id of the last event that it has seen,
    receives the events published meanwhile, and then new ones."""
    wire, output = runs["client.py"]
    targets = [message.target for message in messages(wire.events) if message.target]
    assert targets[0] == "/events?after=0"
    assert set(targets[1:]) == {"/events?after=3"}
    assert output.endswith("1 to 6: 0 lost, 0 duplicates\n")
    record("reliable_websockets/client.txt", output)
    record("reliable_websockets/wire.html", reconnect_on_the_wire(wire))
    drawn = in_order(story(wire))
    record("reliable_websockets/timeline.json", drawn)
    record(
        "reliable_websockets/timeline.svg",
        sequence_diagram(
            drawn,
            "A WebSocket that is cut and resumed",
            "The client opens a WebSocket with after=0 and receives events 1, 2 and 3. The server "
            "is killed; the client cannot reconnect. Events 4 and 5 are published. The client "
            "reconnects with after=3, receives 4 and 5 from the log, and then 6 live.",
        ),
    )


def story(wire):
    """Return what passed as (kind, text, note) for the figure: each connection that was opened,
    with its events, and the failed attempts between them as one."""
    rows, parsed = [], messages(wire.events)
    for connection in range(1, wire.connections + 1):
        passed = [m for m in parsed if m.connection == connection]
        if not [m for m in passed if m.status == 101]:
            if rows[-1][0] != "lost":
                rows.append(("lost", "cannot reconnect", ""))
            continue
        if connection > 1:
            rows.append(("start", "restarted", ""))
        rows.append(("up", passed[0].target, ""))
        for event in events_of(wire, connection):
            where = "live" if connection == 1 or event["id"] > 5 else "from the log"
            rows.append(("down", f"{event['id']} {event['text']}", where))
        if connection == 1:
            rows.append(("cross", "killed", ""))
    return rows


def events_of(wire, connection):
    """Return the events that the server sent over a connection."""
    sent = frames(wire.events, "server", connection)
    texts = [json.loads(payload) for opcode, payload in sent if opcode == TEXT]
    return [text for text in texts if "id" in text]


def reconnect_on_the_wire(wire):
    """Return the last connection as HTML: the first line of each side, and the payloads."""
    last = wire.connections
    request, response = (m.start_line for m in messages(wire.events) if m.connection == last)
    lines = [("up", "request line", request), ("down", "status line", response)]
    for opcode, payload in frames(wire.events, "server", last):
        if opcode == TEXT and b'"id"' in payload:
            lines.append(("down", f"text frame, {len(payload)} + 2 bytes", payload.decode()))
    blocks = [
        f'<li class="{way}"><p>{"client → server" if way == "up" else "server → client"} · '
        f"{what}</p><pre>{html.escape(text, quote=False)}</pre></li>"
        for way, what, text in lines
    ]
    return "\n".join(['<ol class="wire" aria-label="Reconnecting">', *blocks, "</ol>", ""])


def test_reconnecting_costs_a_handshake(runs, record):
    """Reconnecting costs one request and its response: more than ten times the bytes of a short
    event."""
    wire, _ = runs["client.py"]
    last = wire.connections
    request, response = (len(m.data) for m in messages(wire.events) if m.connection == last)
    frame = 2 + len(next(p for o, p in frames(wire.events, "server", last) if o == TEXT))
    assert request + response > 10 * frame
    rows = [
        {"what": "reconnecting: request and response", "bytes up": request, "bytes down": response},
        {"what": "the first event after that", "bytes up": 0, "bytes down": frame},
        {"what": "closing: two close frames", "bytes up": 8, "bytes down": 4},
    ]
    sides = {
        side: sum(len(e.data) for e in wire.events if (e.source, e.connection) == (side, last))
        for side in ("client", "server")
    }
    # Nothing else passed but these, two more events, and heartbeats.
    events = sum(2 + len(p) for o, p in frames(wire.events, "server", last) if o == TEXT)
    assert sides == {"client": request + 8, "server": response + events + 4}
    record("reliable_websockets/costs.md", table(rows))


def test_without_resuming_messages_are_lost(runs, record):
    """A client that reconnects without the id of the last event loses the events published
    meanwhile: two of six."""
    _, output = runs["wrong_client_no_resume.py"]
    assert output.endswith("1 to 6: 2 lost, 0 duplicates\n")
    record("reliable_websockets/wrong_client_no_resume.txt", output)


@pytest.mark.parametrize("name", SERVERS)
def test_survives_a_server_that_is_killed(start, follow, tmp_path, name):
    """The client gets every event once and in order, although the server is killed three times
    while it sends."""
    options = {"EVENT_INTERVAL": 0.02, "MAX_EVENTS": 10**6, "LOG": tmp_path / "events.log"}
    server = start(f"{TOPIC}/{name}", **options)
    client = follow("client.py", URL=server.url, COUNT=150)
    for _ in range(3):
        client.wait_for(f"{len(ids(client.output)) + 1} tick\n")  # so it has reconnected
        server.stop(signal.SIGKILL)
        server = start(f"{TOPIC}/{name}", PORT=server.port, **options)
    assert client.wait() == 0
    assert ids(client.output) == list(range(1, 151))
    assert client.output.count("closed with 1006") == 3
    assert client.output.endswith("1 to 150: 0 lost, 0 duplicates\n")


@both_browsers
def test_a_browser_survives_a_server_that_is_killed(start, open_client_page, tmp_path):
    """The page gets every event once and in order, although the server is killed three times while
    it sends."""
    options = {"EVENT_INTERVAL": 0.02, "MAX_EVENTS": 10**6, "LOG": tmp_path / "events.log"}
    server = start(f"{TOPIC}/server.py", **options)
    page = open_client_page(server.url, base_delay=0.1, script=WATCH)
    for seen in 1, 30, 60:
        page.wait_for_selector(f"text=/^{seen} tick/")
        server.stop(signal.SIGKILL)
        page.wait_for_selector("text=closed with 1006, reconnecting")
        server = start(f"{TOPIC}/server.py", PORT=server.port, **options)
    page.wait_for_selector("text=/^100 tick/")
    shown = page.locator("#events li").all_inner_texts()
    shown_ids = [int(line.split()[0]) for line in shown]
    assert shown_ids == list(range(1, len(shown_ids) + 1))
    requested = page.evaluate("sockets.map(({ url }) => Number(url.split('=')[1]))")
    assert requested[0] == 0 < requested[1]
    assert requested[-1] >= 60


def test_an_accepted_event_survives_the_server(start, tmp_path):
    """An event accepted with 201 is in the log, even if the server is killed right after."""
    options = {"EVENT_INTERVAL": 0, "LOG": tmp_path / "events.log"}
    server = start(f"{TOPIC}/server.py", **options)
    assert publish(server, "kept") == [1]
    server.stop(signal.SIGKILL)
    server = start(f"{TOPIC}/server.py", PORT=server.port, **options)
    with connect(ws(server)) as socket:
        assert json.loads(socket.recv(TIMEOUT)) == {"id": 1, "text": "kept"}
    assert publish(server, "next") == [2]


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("space", [0, 10])
def test_what_is_not_stored_is_not_accepted(start, tmp_path, name, space):
    """An event of which nothing, or only a part, can be written because the disk is full is neither
    accepted nor sent: the response is 507, or the close code 1011; when there is space again the
    log continues, and after a kill it contains what was accepted."""
    log = tmp_path / "events.log"
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0, LOG=log)

    def send(text):
        if name == "server.py":
            response = httpx2.post(f"{server.url}/events", json={"text": text})
            return response.json()["id"] if response.status_code == 201 else response.status_code
        with connect(ws(server, "/events")) as socket:
            socket.send(json.dumps({"text": text}))
            try:
                return json.loads(socket.recv(TIMEOUT))["id"]
            except ConnectionClosed as closed:
                return closed.rcvd.code

    def limit(size):
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    assert send("one") == 1
    limit(log.stat().st_size + space)
    assert send("lost") == (507 if name == "server.py" else 1011)
    limit(resource.RLIM_INFINITY)
    assert send("two") == 2
    server.stop(signal.SIGKILL)
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0, PORT=server.port, LOG=log)
    with connect(ws(server)) as socket:
        received = [json.loads(socket.recv(TIMEOUT)) for _ in range(2)]
    assert received == [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]


def test_two_tabs_show_each_event_once(canned_events, open_client_page):
    """Two tabs are independent: each of them shows each event once."""
    texts = [json.dumps({"id": number, "text": "tick"}) for number in (1, 2, 2, 3)]
    first = open_client_page(canned_events(*texts))
    second = first.context.new_page()
    second.goto(first.url)
    for page in first, second:
        page.wait_for_selector("text=3 tick")
        assert page.locator("#events li").all_inner_texts() == ["1 tick", "2 tick", "3 tick"]


@pytest.mark.parametrize("text", ["tick", "null", '{"id": "1"}', "[" * 10**5])
def test_the_browser_reports_a_server_of_other_messages(canned_events, open_client_page, text):
    """A page that receives a message other than an event reports it, and does not reconnect."""
    page = open_client_page(canned_events(text))
    page.wait_for_selector("text=/^not a server of events$/")


def test_duplicates_are_ignored(canned_events, follow, open_client_page):
    """A client ignores duplicates, and heartbeats."""
    texts = ['{"id": 1, "text": "tick"}', '{"id": 1, "text": "tick"}', '{"heartbeat": 1}']
    url = canned_events(*texts, '{"id": 2, "text": "tick"}')
    client = follow("client.py", URL=url, COUNT=2)
    assert client.wait() == 0
    assert client.output == "1 tick\n2 tick\n1 to 2: 0 lost, 0 duplicates\n"
    page = open_client_page(url)
    page.wait_for_selector("text=/^2 tick/")
    assert page.locator("#events li").all_inner_texts() == ["1 tick", "2 tick"]


@pytest.fixture
def canned_events(serving):
    """Start a server that sends these messages to each client, and waits."""

    def canned(*texts):
        def handler(socket):
            for text in texts:
                socket.send(text)
            for _ in socket:
                pass

        return serving(handler)

    return canned


@pytest.fixture
def canned_close(serving):
    """Start a server that closes each connection with this code as soon as it is open."""

    def close(socket, code):
        if code == 1006:
            socket.socket.close()
        else:
            socket.close(code)

    return lambda code: serving(lambda socket: close(socket, code))


# The delay before a reconnect


@pytest.fixture
def backoff_delay():
    """Return the client's function backoff_delay(failures)."""
    return runpy.run_path(str(EXAMPLES / TOPIC / "client.py"))["backoff_delay"]


def test_the_first_delay_is_up_to_five_seconds(backoff_delay):
    """Before its first reconnect a client waits a random time of up to five seconds: of a
    thousand clients that were disconnected together, some reconnect in each tenth of it, and at
    most a fifth of them in any."""
    tenths = [int(backoff_delay(0) / 5 * 10) for _ in range(1000)]
    shares = [tenths.count(tenth) for tenth in range(10)]
    assert sum(shares) == 1000
    assert min(shares) > 0
    assert max(shares) < 200


def test_the_limit_of_the_delay_doubles_up_to_a_minute(backoff_delay):
    """The limit of the delay doubles with each failure in a row, up to a minute."""
    for failures, limit in enumerate([5, 10, 20, 40, 60, 60]):
        delays = [backoff_delay(failures) for _ in range(1000)]
        assert limit * 0.9 < max(delays) <= limit
        assert min(delays) < limit * 0.1


def test_the_browser_backs_off_at_random(open_client_page, port):
    """The page waits a random time, below a limit that doubles, as the Python client does."""
    page = open_client_page(
        f"http://127.0.0.1:{port()}",
        script="""
            window.delays = [];
            const later = window.setTimeout;
            window.setTimeout = (what, delay, ...rest) => {
              if (what.name === "connect") { delays.push(delay); delay = 0; }
              return later(what, delay, ...rest);
            };
            window.WebSocket = class {  // Chromium's own waits between failures
              constructor() { later(() => this.onclose?.({ code: 1006 })); }
              close() {}
            };
        """,
    )
    page.wait_for_function("delays.length >= 60")
    delays = [delay / 1000 for delay in page.evaluate("delays")]
    assert all(delay <= 5 * min(2**n, 12) for n, delay in enumerate(delays))
    assert max(delays[4:]) > 30
    assert min(delays[4:]) < 15


def test_gives_up_after_max_failures(start, follow):
    """A client gives up after MAX_FAILURES failures in a row, here of a server that is gone."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0.05)
    client = follow("client.py", URL=server.url, BASE_DELAY=0.02, MAX_FAILURES=4)
    client.wait_for("1 tick")
    server.stop(signal.SIGKILL)
    assert client.wait() == 1
    assert client.output.endswith(f"disconnected from {server.url}: 4 failures in a row\n")


# Any delay of the library's own would outlast a test.
LONG_DELAYS = dict.fromkeys(
    ("WEBSOCKETS_BACKOFF_INITIAL_DELAY", "WEBSOCKETS_BACKOFF_MIN_DELAY", "BASE_DELAY"), 10**7
)


def test_the_library_waits_after_failed_attempts_only(start, tap, follow, record):
    """The loop of websockets reconnects at once when a connection was opened and closed: a
    hundred connections without a single delay between them."""
    wire = tap(start(f"{TOPIC}/server.py", MAX_CONNECTIONS=0))
    client = follow("wrong_client_spin.py", URL=wire.url, **LONG_DELAYS)
    line = "closed with 1013, reconnecting\n"
    wait_until(lambda: client.output.count(line) >= 100)
    assert wire.connections >= 100
    assert client.output.startswith(line * 100)
    record("reliable_websockets/wrong_client_spin.txt", line * 4 + "…\n")


def test_it_spins_after_a_clean_close_as_well(canned_close, follow):
    """The loop of websockets does not wait after a clean close with 1000, either."""
    client = follow("wrong_client_spin.py", URL=canned_close(1000), **LONG_DELAYS)
    wait_until(lambda: client.output.count("closed with 1000, reconnecting\n") >= 50)


def test_the_library_keeps_its_first_url(serving, follow):
    """The loop of websockets requests the same URL again and again, whatever the client has
    received since; client.py does not."""
    paths = []

    def one_event(socket):
        paths.append(socket.request.path)
        number = len(paths)
        socket.send(json.dumps({"id": number, "text": "tick"}))

    url = serving(one_event)
    wrong = follow("wrong_client_spin.py", URL=url)
    wrong.wait_for("3 tick\n")
    wrong.stop(signal.SIGKILL)
    assert set(paths) == {"/events?after=0"}
    paths.clear()
    follow("client.py", URL=url, BASE_DELAY=0.01).wait_for("3 tick\n")
    assert paths[:3] == ["/events?after=0", "/events?after=1", "/events?after=2"]


def test_a_received_message_resets_the_failures(serving, run):
    """A connection on which a message was received is not a failure, however soon it ended: the
    count starts again."""

    def one_event(socket):
        after = int(socket.request.path.partition("=")[2])
        socket.send(json.dumps({"id": after + 1, "text": "tick"}))

    result = run(
        f"{TOPIC}/client.py", URL=serving(one_event), COUNT=6, MAX_FAILURES=2, BASE_DELAY=0.01
    )
    assert result.stdout.endswith("1 to 6: 0 lost, 0 duplicates\n")


# 1006 is no code that is sent: the connection ends without a Close.
CODES = [1000, 1001, 1002, 1003, 1006, 1007, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4410]


@pytest.mark.parametrize("code", CODES)
def test_waits_after_every_close(canned_close, run, follow, code):
    """The client waits after every close, whatever its code: it has connected once when one that
    does not wait has connected twenty times; and it gives up a server that closes MAX_FAILURES
    times in a row."""
    url = canned_close(code)
    result = run(f"{TOPIC}/client.py", URL=url, BASE_DELAY=0.01, MAX_FAILURES=5)
    assert result.stdout == f"closed with {code}, reconnecting\n" * 5
    assert result.stderr == f"disconnected from {url}: 5 failures in a row\n"
    line = f"closed with {code}, reconnecting\n"
    waiting = follow("client.py", URL=url, **LONG_DELAYS)
    waiting.wait_for(line)
    spinning = follow("wrong_client_spin.py", URL=canned_close(1000), **LONG_DELAYS)
    wait_until(lambda: spinning.output.count("reconnecting\n") >= 20)
    assert waiting.output == line


@pytest.mark.parametrize("code", [1008, 4000, 4999])
def test_does_not_reconnect_when_it_is_refused(canned_close, run, code):
    """A client does not reconnect after 1008, or a code of the application other than 4410."""
    url = canned_close(code)
    result = run(f"{TOPIC}/client.py", URL=url)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"disconnected from {url}: closed with {code}: \n"


# A peer that does not respond


def test_a_ping_detects_a_frozen_server(start, follow):
    """A frozen server sends no pong: the client closes the connection, and reconnects when the
    server runs again."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0.05)
    client = follow("client.py", URL=server.url, PING_INTERVAL=0.4, PING_TIMEOUT=2, COUNT=30)
    client.wait_for("3 tick")
    server.send(signal.SIGSTOP)
    client.wait_for("closed with 1006")
    server.send(signal.SIGCONT)
    assert client.wait() == 0
    assert client.output.endswith("1 to 30: 0 lost, 0 duplicates\n")


@pytest.mark.parametrize("name", SERVERS)
def test_a_ping_detects_a_frozen_client(start, follow, name):
    """A frozen client sends no pong: the server closes with 1011 and accepts another client
    instead; once it runs again, the first reconnects."""
    server = start(
        f"{TOPIC}/{name}",
        EVENT_INTERVAL=0.2,
        PING_INTERVAL=0.5,
        PING_TIMEOUT=2,
        MAX_CONNECTIONS=1,
    )
    client = follow("client.py", URL=server.url)
    client.wait_for("1 tick")
    other = follow("client.py", URL=server.url, COUNT=1)
    other.wait_for("closed with 1013")  # while the first is connected
    client.send(signal.SIGSTOP)
    assert other.wait() == 0
    client.send(signal.SIGCONT)
    client.wait_for("closed with 1011")
    seen = len(ids(client.output))
    client.wait_for(f"{seen + 2} tick")
    assert ids(client.output)[: seen + 2] == list(range(1, seen + 3))


def test_a_browser_detects_a_silent_server(start, open_client_page):
    """A page cannot send pings: it closes a connection without even a heartbeat, and reconnects
    when the server runs again."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0.05)
    page = open_client_page(
        server.url,
        idle_timeout=1,
        base_delay=0.1,
        script=WATCH,
    )
    page.wait_for_selector("text=/^3 tick/")
    server.send(signal.SIGSTOP)
    page.wait_for_selector("text=silent for 1 s, reconnecting")
    server.send(signal.SIGCONT)
    seen = page.locator("#events li").count()
    page.wait_for_selector(f"text=/^{seen + 30} tick/")
    # The abandoned socket closes now, and causes no second connection.
    page.wait_for_function("sockets.every(({ readyState }) => readyState % 2)")
    assert page.evaluate("sockets.filter(({ readyState }) => readyState === 1).length") == 1
    numbers = [int(line.split()[0]) for line in page.locator("#events li").all_inner_texts()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_heartbeat_keeps_a_browser_connected(start, open_client_page):
    """While there are no events the server sends heartbeats, and the page stays connected."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0, HEARTBEAT_INTERVAL=0.1)
    page = open_client_page(
        server.url,
        idle_timeout=2.5,
        script=WATCH,
    )
    page.wait_for_function("received.length >= 30")  # for longer than its timeout
    assert set(page.evaluate("received")) == {'{"heartbeat": 0}'}
    assert page.evaluate("sockets.length") == 1


def test_a_browser_answers_pings_by_itself(start, tap, open_client_page):
    """A browser responds to the server's pings by itself, and no script of the page sees them."""
    wire = tap(start(f"{TOPIC}/server.py", EVENT_INTERVAL=0, PING_INTERVAL=0.2))
    page = open_client_page(wire.url)
    wire.wait_until(lambda events: [o for o, _ in frames(events, "client")].count(PONG) >= 3)
    assert page.inner_text("#state") == "connected"
    assert page.evaluate("'ping' in WebSocket.prototype") is False


# Records a page's WebSockets, and what they receive.
WATCH = """
    window.sockets = [];
    window.received = [];
    const made = window.WebSocket;
    window.WebSocket = class extends made {
      constructor(url) {
        super(url);
        sockets.push(this);
        this.addEventListener("message", ({ data }) => received.push(data));
      }
    };
"""


@pytest.fixture
def open_client_page(page, tmp_path):
    """Return open(url, **options): client.html, as a file, alone in its folder."""
    number = count()

    def open_page(url, script="", **options):
        folder = copy_isolated(EXAMPLES / TOPIC / "client.html", tmp_path / f"page-{next(number)}")
        query = "&".join(f"{name}={value}" for name, value in ({"url": url} | options).items())
        if script:
            page.add_init_script(script)
        page.goto(f"file://{folder}/client.html?{query}")
        return page

    return open_page


# Stopping


@pytest.mark.parametrize(("name", "code"), [("server.py", 1012), ("server_websockets.py", 1001)])
def test_a_stopping_server_closes_its_connections(start, tap, follow, tmp_path, name, code):
    """A server that is stopped closes its connections with 1012 or 1001, and does not wait for a
    client that does not respond; the others reconnect to the next one and miss no event."""
    options = {"EVENT_INTERVAL": 0.05, "LOG": tmp_path / "events.log"}
    server = start(f"{TOPIC}/{name}", **options)
    wire = tap(server)
    client = follow("client.py", URL=wire.url, COUNT=60)
    frozen = follow("client.py", URL=server.url)
    for each in client, frozen:
        each.wait_for("3 tick")
    frozen.send(signal.SIGSTOP)  # it sends no close frame
    stopped = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - stopped < 10  # Sanic's own timeout is 15 seconds
    start(f"{TOPIC}/{name}", PORT=server.port, **options)
    assert client.wait() == 0
    assert f"closed with {code}" in client.output
    assert client.output.endswith("1 to 60: 0 lost, 0 duplicates\n")
    assert closings(wire.events) == {"server": code, "client": code}


# Subscribing and publishing


def test_a_client_that_is_done_closes_with_1000(start, tap, run):
    """A client that has enough events closes with 1000, and the server responds with the same."""
    wire = tap(start(f"{TOPIC}/server.py", EVENT_INTERVAL=0.05))
    assert run(f"{TOPIC}/client.py", URL=wire.url, COUNT=3).returncode == 0
    assert closings(wire.events) == {"client": 1000, "server": 1000}
    assert [o for o, _ in frames(wire.events, "server")][-1] == CLOSE


def fill(server, name, events):
    """Publish so many events, with the texts 1, 2, 3 …"""
    texts = [str(number + 1) for number in range(events)]
    if name == "server.py":
        publish(server, *texts)
        return
    with connect(ws(server, "/events")) as socket:
        for text in texts:
            socket.send(json.dumps({"text": text}))
            assert json.loads(socket.recv(TIMEOUT))["text"] == text


@pytest.mark.parametrize("name", SERVERS)
def test_an_expired_cursor_is_4410(start, name):
    """The server closes with 4410, a code of the application, if the log no longer has the next
    event, or does not yet have the last one; it does not skip the missing events."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0, MAX_EVENTS=3)
    fill(server, name, 6)
    for after in 1, 7:
        assert expired(server, after) == "the log has 4 to 6"
    for after in 0, 3:  # 0: a new client gets the events that there are
        with connect(ws(server, f"/events?after={after}")) as socket:
            assert json.loads(socket.recv(TIMEOUT))["id"] == 4
    # Another log: the event that the client has seen last is not there.
    assert expired(start(f"{TOPIC}/{name}", EVENT_INTERVAL=0), 1) == "the log has none"


def expired(server, after):
    """Return the reason with which the server closes with 4410."""
    with connect(ws(server, f"/events?after={after}")) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert socket.close_code == 4410
        return socket.close_reason


@pytest.mark.parametrize("name", ["server", "server_websockets"])
def test_no_event_is_skipped_while_a_new_client_waits(tmp_path, name):
    """A client that waits for its first event gets every event, or 4410, even if more events are
    published at once than memory holds."""
    module = importlib.import_module(f"examples.{TOPIC}.{name}")

    async def burst(events):
        log = module.EventLog(tmp_path / f"{events}.log", max_events=3)
        async with aclosing(log.after(0)) as stream:
            first = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)  # it waits now
            for _ in range(events):
                log.publish("tick")
            return await first

    assert run_in_thread(burst(3)) == {"id": 1, "text": "tick"}
    with pytest.raises(module.CursorExpired, match="the log has 2 to 4"):
        run_in_thread(burst(4))


@pytest.mark.parametrize("name", SERVERS)
def test_a_new_client_gets_all_events_in_memory(start, run, open_client_page, name):
    """A client that has seen no event starts with the oldest in memory, however many there were:
    with the tenth of 14 if memory holds five."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0, MAX_EVENTS=5)
    fill(server, name, 14)
    lines = [f"{number} {number}" for number in range(10, 15)]
    result = run(f"{TOPIC}/client.py", URL=server.url, COUNT=5)
    assert result.stdout.splitlines() == [*lines, "10 to 14: 0 lost, 0 duplicates"]
    page = open_client_page(server.url)
    page.wait_for_selector("text=14 14")
    assert page.locator("#events li").all_inner_texts() == lines


@pytest.mark.parametrize("name", SERVERS)
def test_after_4410_a_client_starts_with_the_oldest_event(start, follow, open_client_page, name):
    """A client whose next event is no longer in memory starts again with the oldest one, and
    reports how many events it has missed."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0, MAX_EVENTS=5)
    fill(server, name, 2)
    client = follow("client.py", URL=server.url, COUNT=7)
    client.wait_for("2 2\n")
    page = open_client_page(server.url, base_delay=0.1, idle_timeout=1)
    page.wait_for_selector("text=2 2")
    server.stop(signal.SIGKILL)
    page.wait_for_selector("text=closed with 1006, reconnecting")
    server = start(
        f"{TOPIC}/{name}", EVENT_INTERVAL=0, MAX_EVENTS=5, PORT=server.port, LOG=full_log(server)
    )
    assert client.wait() == 0
    lines = ["1 1", "2 2", "missed 7 events", *[f"{number} tick" for number in range(10, 15)]]
    assert [line for line in client.output.splitlines() if "closed" not in line] == [
        *lines,
        "1 to 14: 7 lost, 0 duplicates",
    ]
    assert client.output.count("closed with 4410, reconnecting\n") == 1
    page.wait_for_selector("text=14 tick")
    assert page.locator("#events li").all_inner_texts() == lines


def full_log(server):
    """Write a log of 14 events; return its path."""
    path = server.folder / "full.log"
    events = ({"id": number, "text": "tick"} for number in range(1, 15))
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_a_new_log_is_read_from_its_start(start, follow):
    """A client that has seen more events than the log has reads the new log from its start."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0)
    fill(server, "server.py", 3)
    client = follow("client.py", URL=server.url, COUNT=5)
    client.wait_for("3 3\n")
    server.stop(signal.SIGKILL)
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0, PORT=server.port)
    client.wait_for("closed with 4410, reconnecting\n")
    publish(server, "one", "two")
    assert client.wait() == 0
    assert "the log is a new one, from 1\n1 one\n2 two\n" in client.output


@pytest.mark.parametrize("after", ["x", "-1", "1.0", "٣", "1" * 16, "9" * 5000, "%00", "1%0A"])
@pytest.mark.parametrize("name", SERVERS)
def test_an_invalid_cursor_is_1008(start_shared, name, after):
    """The server closes with 1008 if `after` is anything but a short number of ASCII digits."""
    server = start_shared(f"{TOPIC}/{name}", EVENT_INTERVAL=0)
    with connect(ws(server, f"/events?after={quote(after, safe='%')}")) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert (socket.close_code, socket.close_reason) == (
            1008,
            "after is not the number of an event",
        )


@pytest.mark.parametrize("arguments", [[], ["goodbye"], ['"C:\\new"']])
def test_curl_publishes(server, tmp_path, arguments):
    """One request by curl publishes an event: subscribers receive it, with the id that is in the
    response."""
    with connect(ws(server, "/events")) as socket:
        home = copy_isolated(EXAMPLES / TOPIC / "publish.sh", tmp_path / "hand")
        result = run_to_end(["sh", "publish.sh", *arguments], home, environment(URL=server.url))
        assert result.returncode == 0, result.stderr
        event = json.loads(socket.recv(TIMEOUT))
    assert event == json.loads(result.stdout) | {"text": "".join(arguments) or "hello"}


INVALID_EVENTS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b'{"text": 1}',
    b'{"text": ""}',
    b'{"text": null}',
    b'{"text": "a\\u0007"}',
    b'{"text": "\\ud800"}',
    b'{"text": "a\\nb"}',
    b"[" * 9_000,
]


@pytest.mark.parametrize("body", INVALID_EVENTS)
def test_an_invalid_event_is_400(server, body):
    """The server rejects a body that is not an event with 400, in JSON."""
    response = httpx2.post(f"{server.url}/events", content=body)
    assert response.status_code == 400
    assert response.json()["status"] == 400


@pytest.mark.parametrize("body", INVALID_EVENTS)
def test_an_invalid_message_is_1008(start_shared, body):
    """The websockets server closes with 1008 if a message is not an event."""
    server = start_shared(f"{TOPIC}/server_websockets.py", EVENT_INTERVAL=0)
    with connect(ws(server)) as socket:
        socket.send(body, text=True)
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert socket.close_code == 1008
        assert re.fullmatch('send {"text": "…"}|a text has no control .*', socket.close_reason)


@pytest.fixture(scope="module")
def server(start_shared):
    """Return a server that publishes no events itself."""
    return start_shared(f"{TOPIC}/server.py", EVENT_INTERVAL=0)


def test_without_an_id_a_client_gets_new_events_only(server):
    """A client that sends no id receives only events that are published from then on."""
    publish(server, "before")
    with connect(ws(server, "/events")) as socket:
        (event_id,) = publish(server, "after")
        assert json.loads(socket.recv(TIMEOUT)) == {"id": event_id, "text": "after"}


def test_a_client_that_never_connected_gives_up_at_once(run, port, canned):
    """A client that never connected gives up at once and reports in one line why: the server
    cannot be reached, or it is not a WebSocket server."""
    for url, reason in [
        (f"http://127.0.0.1:{port()}", "cannot reach"),
        (canned((500, {}, "oops")).url, "responded with 500"),
        (canned((200, {}, "<h1>It works!</h1>")).url, "responded with 200, not a WebSocket"),
        ("nonsense", "cannot reach nonsense"),
    ]:
        for name in "client.py", "wrong_client_no_resume.py":
            result = run(f"{TOPIC}/{name}", URL=url)
            assert result.returncode == 1
            assert reason in result.stderr
            assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    ["tick", "[1]", '["heartbeat"]', '{"id": "1"}', '{"id": 1}', '{"id": NaN}', "[" * 10**5],
)
def test_a_server_of_other_messages_is_reported(canned_events, run, text):
    """A client that receives a message other than an event reports it in one line."""
    result = run(f"{TOPIC}/client.py", URL=canned_events(text), COUNT=1)
    assert result.returncode == 1
    assert "is not a server of events" in result.stderr
    assert len(result.stderr.splitlines()) == 1
