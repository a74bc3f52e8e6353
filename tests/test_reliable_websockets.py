"""A WebSocket that is cut: the client that comes back, and loses nothing."""

import html
import json
import runpy
import signal
import time
from contextlib import contextmanager
from itertools import count
from threading import Thread

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from .support.messages import messages, table
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    run_to_end,
)
from .support.sequence import in_order, sequence_diagram
from .support.sockets import CLOSE, PONG, TEXT, closings, frames

ROOM = "reliable_websockets"
SERVERS = ["server.py", "server_websockets.py"]
QUICK = {"BACKOFF": 0.1, "TRIES": 1000}


@contextmanager
def follower(folder):
    """Yield follow(name, **environment): a client of this room, running beside the proof."""
    running = []

    def follow(name, **variables):
        example = EXAMPLES / ROOM / name
        home = copy_isolated(example, folder / f"follower-{len(running)}")
        program = Program(argv(example), home, environment(**(QUICK | variables)))
        running.append(program)
        return program

    yield follow
    for program in running:
        program.stop(signal.SIGKILL)


@pytest.fixture
def follow(tmp_path):
    """Start a client of this room: follow("client.py", URL=…) -> Program."""
    with follower(tmp_path) as follow:
        yield follow


@pytest.fixture(scope="module")
def follow_shared(tmp_path_factory):
    """Start a client for several tests, as `follow` does for one."""
    with follower(tmp_path_factory.mktemp("followers")) as follow:
        yield follow


def ws(server, path="/events?after=0"):
    return server.url.replace("http", "ws") + path


def publish(server, *texts):
    """Publish events; return their ids."""
    answers = [httpx2.post(f"{server.url}/events", json={"text": text}) for text in texts]
    assert [answer.status_code for answer in answers] == [201] * len(texts)
    return [answer.json()["id"] for answer in answers]


def ids(output):
    """Return the numbers of the events that a client printed."""
    return [int(line.split()[0]) for line in output.splitlines() if line.endswith(" tick")]


# Cut and resumed


@pytest.fixture(scope="module")
def runs(start_shared, tap_shared, follow_shared, tmp_path_factory, port):
    """Return {client: (its wire, its output)} after both lived through the same: three events,
    the server killed, two events while they were away, and one more."""
    log = tmp_path_factory.mktemp("log") / "events.log"
    options = {"TICK": 0, "LOG": log, "HEARTBEAT": 0.3}
    server = start_shared(f"{ROOM}/server.py", **options)
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
    # While the clients knock at the old port in vain, the world goes on.
    elsewhere = start_shared(f"{ROOM}/server.py", **options)
    publish(elsewhere, "four", "five")
    elsewhere.stop()
    again = start_shared(f"{ROOM}/server.py", PORT=server.port, **options)
    for wire in wires.values():  # the last connection has a heartbeat: they have arrived
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


def test_comes_back_and_goes_on(runs, record):
    """A client that was cut off comes back for the event after the last one it saw, gets what
    happened while it was away, and then what happens."""
    wire, output = runs["client.py"]
    asked = [message.target for message in messages(wire.events) if message.target]
    assert asked[0] == "/events?after=0"
    assert set(asked[1:]) == {"/events?after=3"}
    assert output.endswith("1 to 6: 0 lost, 0 twice\n")
    record("reliable_websockets/client.txt", output)
    record("reliable_websockets/wire.html", back_on_the_wire(wire))
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
    """Return what passed as (kind, words, note) for the figure: each connection that was made,
    with its events, and between them what was tried in vain, however often, as one."""
    rows, parsed = [], messages(wire.events)
    for connection in range(1, wire.connections + 1):
        told = [m for m in parsed if m.connection == connection]
        if not [m for m in told if m.status == 101]:
            if rows[-1][0] != "lost":
                rows.append(("lost", "cannot reconnect", ""))
            continue
        if connection > 1:
            rows.append(("start", "restarted", ""))
        rows.append(("up", told[0].target, ""))
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


def back_on_the_wire(wire):
    """Return the last connection as HTML: the first line of each side, and the payloads."""
    last = wire.connections
    asked, answered = (m.start_line for m in messages(wire.events) if m.connection == last)
    lines = [("up", "first line of the request", asked), ("down", "of the answer", answered)]
    for opcode, payload in frames(wire.events, "server", last):
        if opcode == TEXT and b'"id"' in payload:
            lines.append(("down", f"text frame, {len(payload)} + 2 bytes", payload.decode()))
    blocks = [
        f'<li class="{way}"><p>{"client → server" if way == "up" else "server → client"} · '
        f"{what}</p><pre>{html.escape(text, quote=False)}</pre></li>"
        for way, what, text in lines
    ]
    return "\n".join(['<ol class="wire" aria-label="Coming back">', *blocks, "</ol>", ""])


def test_coming_back_costs_a_handshake(runs, record):
    """Coming back costs one request and its answer: more than ten times the bytes of a short
    event."""
    wire, _ = runs["client.py"]
    last = wire.connections
    asked, answered = (len(m.data) for m in messages(wire.events) if m.connection == last)
    frame = 2 + len(next(p for o, p in frames(wire.events, "server", last) if o == TEXT))
    assert asked + answered > 10 * frame
    rows = [
        {"what": "coming back: request and answer", "bytes up": asked, "bytes down": answered},
        {"what": "the first event after that", "bytes up": 0, "bytes down": frame},
        {"what": "saying goodbye: two close frames", "bytes up": 8, "bytes down": 4},
    ]
    sides = {
        side: sum(len(e.data) for e in wire.events if (e.source, e.connection) == (side, last))
        for side in ("client", "server")
    }
    # Nothing else passed than that, two more events, and heartbeats.
    events = sum(2 + len(p) for o, p in frames(wire.events, "server", last) if o == TEXT)
    assert sides == {"client": asked + 8, "server": answered + events + 4}
    record("reliable_websockets/costs.md", table(rows))


def test_without_resuming_messages_are_lost(runs, record):
    """A client that comes back without saying what it saw loses what happened meanwhile: two
    of six."""
    _, output = runs["wrong_client_no_resume.py"]
    assert output.endswith("1 to 6: 2 lost, 0 twice\n")
    record("reliable_websockets/wrong_client_no_resume.txt", output)


@pytest.mark.parametrize("name", SERVERS)
def test_survives_a_server_that_is_killed(start, follow, tmp_path, name):
    """A server killed three times in mid-conversation: the client gets every event, once, in
    order."""
    options = {"TICK": 0.02, "KEEP": 10**6, "LOG": tmp_path / "events.log"}
    server = start(f"{ROOM}/{name}", **options)
    client = follow("client.py", URL=server.url, COUNT=150)
    for _ in range(3):
        client.wait_for(f"{len(ids(client.output)) + 1} tick\n")  # so it has come back
        server.stop(signal.SIGKILL)
        server = start(f"{ROOM}/{name}", PORT=server.port, **options)
    assert client.wait() == 0
    assert ids(client.output) == list(range(1, 151))
    assert client.output.count("closed with 1006") == 3
    assert client.output.endswith("1 to 150: 0 lost, 0 twice\n")


def test_a_browser_survives_a_server_that_is_killed(start, open_client_page, tmp_path):
    """The page gets every event, once, in order, from a server killed three times in
    mid-conversation."""
    options = {"TICK": 0.02, "KEEP": 10**6, "LOG": tmp_path / "events.log"}
    server = start(f"{ROOM}/server.py", **options)
    page = open_client_page(server.url, backoff=0.1, script=WATCH)
    for seen in 1, 30, 60:
        page.wait_for_selector(f"text=/^{seen} tick/")
        server.stop(signal.SIGKILL)
        page.wait_for_selector("text=closed with 1006; coming back for")
        server = start(f"{ROOM}/server.py", PORT=server.port, **options)
    page.wait_for_selector("text=/^100 tick/")
    shown = page.locator("#events li").all_inner_texts()
    numbers = [int(line.split()[0]) for line in shown]
    assert numbers == list(range(1, len(numbers) + 1))
    asked = page.evaluate("sockets.map(({ url }) => Number(url.split('=')[1]))")
    assert asked[0] == 0 < asked[1]
    assert asked[-1] >= 60


def test_an_event_that_was_accepted_outlives_the_server(start, tmp_path):
    """An event answered 201 is in the log, even if the server is killed the moment after."""
    options = {"TICK": 0, "LOG": tmp_path / "events.log"}
    server = start(f"{ROOM}/server.py", **options)
    assert publish(server, "kept") == [1]
    server.stop(signal.SIGKILL)
    server = start(f"{ROOM}/server.py", PORT=server.port, **options)
    with connect(ws(server)) as socket:
        assert json.loads(socket.recv(TIMEOUT)) == {"id": 1, "text": "kept"}
    assert publish(server, "next") == [2]


def test_what_was_seen_is_not_shown_twice(canned_events, follow, open_client_page):
    """An event that comes again, and a heartbeat, are not taken for new ones."""
    texts = ['{"id": 1, "text": "tick"}', '{"id": 1, "text": "tick"}', '{"heartbeat": 1}']
    url = canned_events(*texts, '{"id": 2, "text": "tick"}')
    client = follow("client.py", URL=url, COUNT=2)
    assert client.wait() == 0
    assert client.output == "1 tick\n2 tick\n1 to 2: 0 lost, 0 twice\n"
    page = open_client_page(url)
    page.wait_for_selector("text=/^2 tick/")
    assert page.locator("#events li").all_inner_texts() == ["1 tick", "2 tick"]


@pytest.fixture
def serving(port):
    """Start a server of the proof's own: serving(handler) -> its URL."""
    started = []

    def serving(handler):
        number = port()
        server = serve(handler, "127.0.0.1", number)
        thread = Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{number}"

    yield serving
    for server, thread in started:
        server.shutdown()
        thread.join()


@pytest.fixture
def canned_events(serving):
    """Start a server that sends these messages to whoever comes, and waits."""

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
    """Start a server that closes each connection with this code, as soon as it is made."""
    return lambda code: serving(lambda socket: socket.close(code))


# Waiting


@pytest.fixture
def wait():
    """Return the client's function wait(failures)."""
    return runpy.run_path(str(EXAMPLES / ROOM / "client.py"))["wait"]


def test_the_first_wait_is_up_to_five_seconds(wait):
    """Before it comes back for the first time the client waits up to five seconds, at random:
    of a thousand that were cut off together, some come in each of its tenths, and in none more
    than a fifth of them."""
    tenths = [int(wait(0) / 5 * 10) for _ in range(1000)]
    shares = [tenths.count(tenth) for tenth in range(10)]
    assert sum(shares) == 1000
    assert min(shares) > 0
    assert max(shares) < 200


def test_the_bound_doubles_up_to_a_minute(wait):
    """The bound of the wait doubles with each failure in a row, up to a minute."""
    for failures, bound in enumerate([5, 10, 20, 40, 60, 60]):
        waits = [wait(failures) for _ in range(1000)]
        assert bound * 0.9 < max(waits) <= bound
        assert min(waits) < bound * 0.1


def test_the_browser_backs_off_at_random(open_client_page, port):
    """The page waits as the client does: at random, below a bound that doubles."""
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


def test_gives_up_after_so_many_failures(start, follow):
    """A server that goes and does not come back is tried so many times in a row, and no more."""
    server = start(f"{ROOM}/server.py", TICK=0.05)
    client = follow("client.py", URL=server.url, BACKOFF=0.02, TRIES=4)
    client.wait_for("1 tick")
    server.stop(signal.SIGKILL)
    assert client.wait() == 1
    assert client.output.endswith("gave up: 4 failures in a row\n")


def test_the_library_waits_after_failed_attempts_only(start, tap, run, record):
    """The loop of websockets connects again at once when a connection was made and closed: a
    hundred times, and not one wait between them."""
    wire = tap(start(f"{ROOM}/server.py", MAX_CLIENTS=0))
    result = run(f"{ROOM}/wrong_client_spin.py", URL=wire.url)
    assert result.returncode == 0
    assert result.stdout == "100 connections and 0 waits\n"
    assert wire.connections == 100
    record("reliable_websockets/wrong_client_spin.txt", result.stdout)


def test_it_spins_after_a_clean_close_as_well(canned_close, run):
    """The loop of websockets does not wait after a clean close with 1000, either."""
    result = run(f"{ROOM}/wrong_client_spin.py", URL=canned_close(1000), CONNECTIONS=50)
    assert result.stdout == "50 connections and 0 waits\n"


def test_a_connection_that_brought_something_is_no_failure(serving, run):
    """A connection on which something came is no failure, however soon it ended: the count
    starts again."""

    def one_event(socket):
        after = int(socket.request.path.partition("=")[2])
        socket.send(json.dumps({"id": after + 1, "text": "tick"}))

    result = run(f"{ROOM}/client.py", URL=serving(one_event), COUNT=6, TRIES=2, BACKOFF=0.01)
    assert result.stdout.endswith("1 to 6: 0 lost, 0 twice\n")


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013])
def test_waits_after_every_close(canned_close, run, code):
    """The client waits after every close, and a server that closes at once, with whatever code,
    is called so many times, and no more."""
    result = run(f"{ROOM}/client.py", URL=canned_close(code), BACKOFF=0.01, TRIES=5)
    assert result.stdout == f"closed with {code}; coming back for 1\n" * 5
    assert result.stderr == "gave up: 5 failures in a row\n"


@pytest.mark.parametrize("code", [1008, 4410])
def test_does_not_come_back_when_it_is_refused(canned_close, run, code):
    """A client closed with 1008, or with a code of the application's own, does not come back."""
    result = run(f"{ROOM}/client.py", URL=canned_close(code))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"gave up: refused with {code}: \n"


# A peer that is there and does not answer


def test_a_frozen_server_is_noticed_by_a_ping(start, follow):
    """A server that is frozen answers no ping: the client gives the connection up, and comes
    back when the server does."""
    server = start(f"{ROOM}/server.py", TICK=0.05)
    client = follow("client.py", URL=server.url, PING=0.4, PONG=0.4, COUNT=30)
    client.wait_for("3 tick")
    server.send(signal.SIGSTOP)
    client.wait_for("closed with 1006")
    server.send(signal.SIGCONT)
    assert client.wait() == 0
    assert client.output.endswith("1 to 30: 0 lost, 0 twice\n")


@pytest.mark.parametrize("name", SERVERS)
def test_a_frozen_client_is_noticed_by_a_ping(start, follow, name):
    """A client that is frozen answers no ping: the server closes with 1011 and gives its place
    to another; thawed, it comes back."""
    server = start(f"{ROOM}/{name}", TICK=0.2, PING=0.5, PONG=0.5, MAX_CLIENTS=1)
    client = follow("client.py", URL=server.url)
    client.wait_for("1 tick")
    client.send(signal.SIGSTOP)
    other = follow("client.py", URL=server.url, COUNT=1)
    assert other.wait() == 0  # after having been refused for a while
    assert "closed with 1013" in other.output
    client.send(signal.SIGCONT)
    client.wait_for("closed with 1011")
    seen = len(ids(client.output))
    client.wait_for(f"{seen + 2} tick")
    assert ids(client.output)[: seen + 2] == list(range(1, seen + 3))


def test_a_browser_notices_by_silence(start, open_client_page):
    """A page cannot ping: it gives up a connection on which not even a heartbeat came, and comes
    back when the server does."""
    server = start(f"{ROOM}/server.py", TICK=0.05)
    page = open_client_page(
        server.url,
        silence=1,
        backoff=0.1,
        script=WATCH,
    )
    page.wait_for_selector("text=/^3 tick/")
    server.send(signal.SIGSTOP)
    page.wait_for_selector("text=silence; coming back for")
    server.send(signal.SIGCONT)
    seen = page.locator("#events li").count()
    page.wait_for_selector(f"text=/^{seen + 30} tick/")
    # What was given up ends now, and brings no second connection.
    page.wait_for_function("sockets.every(({ readyState }) => readyState % 2)")
    assert page.evaluate("sockets.filter(({ readyState }) => readyState === 1).length") == 1
    numbers = [int(line.split()[0]) for line in page.locator("#events li").all_inner_texts()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_heartbeat_keeps_a_browser(start, open_client_page):
    """While nothing happens the server sends heartbeats, and the page stays."""
    server = start(f"{ROOM}/server.py", TICK=0, HEARTBEAT=0.1)
    page = open_client_page(
        server.url,
        silence=2.5,
        script=WATCH,
    )
    page.wait_for_function("heard.length >= 30")  # for longer than the silence it allows
    assert set(page.evaluate("heard")) == {'{"heartbeat": 0}'}
    assert page.evaluate("sockets.length") == 1


def test_a_browser_answers_pings_by_itself(start, tap, open_client_page):
    """A browser answers the server's pings by itself, and no program on the page sees them."""
    wire = tap(start(f"{ROOM}/server.py", TICK=0, PING=0.2))
    page = open_client_page(wire.url)
    wire.wait_until(lambda events: [o for o, _ in frames(events, "client")].count(PONG) >= 3)
    assert page.inner_text("#state") == "connected"
    assert page.evaluate("'ping' in WebSocket.prototype") is False


# Keeps what a page's sockets are, and what they hear.
WATCH = """
    window.sockets = [];
    window.heard = [];
    const made = window.WebSocket;
    window.WebSocket = class extends made {
      constructor(url) {
        super(url);
        sockets.push(this);
        this.addEventListener("message", ({ data }) => heard.push(data));
      }
    };
"""


@pytest.fixture
def open_client_page(page, tmp_path):
    """Return open(url, **options): client.html, as a file, alone in its folder."""
    number = count()

    def open_page(url, script="", **options):
        folder = copy_isolated(EXAMPLES / ROOM / "client.html", tmp_path / f"page-{next(number)}")
        query = "&".join(f"{name}={value}" for name, value in ({"url": url} | options).items())
        if script:
            page.add_init_script(script)
        page.goto(f"file://{folder}/client.html?{query}")
        return page

    return open_page


# Stopping


@pytest.mark.parametrize(("name", "code"), [("server.py", 1012), ("server_websockets.py", 1001)])
def test_a_server_that_stops_says_so(start, tap, follow, tmp_path, name, code):
    """A server that is told to stop says so, with 1012 or 1001, and does not wait for a client
    that does not answer; the others come back to the next one, and have missed nothing."""
    options = {"TICK": 0.05, "LOG": tmp_path / "events.log"}
    server = start(f"{ROOM}/{name}", **options)
    wire = tap(server)
    client = follow("client.py", URL=wire.url, COUNT=60)
    frozen = follow("client.py", URL=server.url)
    for each in client, frozen:
        each.wait_for("3 tick")
    frozen.send(signal.SIGSTOP)  # one that will not say goodbye
    told = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - told < 10  # Sanic's own patience is 15 seconds
    start(f"{ROOM}/{name}", PORT=server.port, **options)
    assert client.wait() == 0
    assert f"closed with {code}" in client.output
    assert client.output.endswith("1 to 60: 0 lost, 0 twice\n")
    assert closings(wire.events) == {"server": code, "client": code}


# What the client is told


def test_a_client_that_has_enough_says_goodbye(start, tap, run):
    """A client that has what it wants closes with 1000, and the server answers with the same."""
    wire = tap(start(f"{ROOM}/server.py", TICK=0.05))
    assert run(f"{ROOM}/client.py", URL=wire.url, COUNT=3).returncode == 0
    assert closings(wire.events) == {"client": 1000, "server": 1000}
    assert [o for o, _ in frames(wire.events, "server")][-1] == CLOSE


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_not_in_the_log_is_refused(start, name):
    """A client that asks for what the log does not have any more, or does not have yet, is told
    so with a code of its own, 4410, and not sent on as if nothing were missing."""
    server = start(f"{ROOM}/{name}", TICK=0, KEEP=3)
    with connect(ws(server, "/events?after=0")) as socket:
        for number in range(6):
            if name == "server.py":
                publish(server, "more")
            else:
                socket.send('{"text": "more"}')
            assert json.loads(socket.recv(TIMEOUT)) == {"id": number + 1, "text": "more"}
    for after in 1, 7:
        assert refusal(server, after) == "the log has 4 to 6"
    for after in 0, 3:  # 0: has seen none, and gets what there is
        with connect(ws(server, f"/events?after={after}")) as socket:
            assert json.loads(socket.recv(TIMEOUT))["id"] == 4
    # The log that the client knows is not there any more.
    assert refusal(start(f"{ROOM}/{name}", TICK=0), 1) == "the log has none"


def refusal(server, after):
    """Return the reason with which a client is refused."""
    with connect(ws(server, f"/events?after={after}")) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert socket.close_code == 4410
        return socket.close_reason


def test_who_has_seen_none_gets_all_that_is_kept(start, run):
    """A client that has seen no event gets all that memory holds, however many there were."""
    server = start(f"{ROOM}/server.py", TICK=0, KEEP=3)
    for number in range(5):
        publish(server, str(number))
    result = run(f"{ROOM}/client.py", URL=server.url, COUNT=3)
    assert result.stdout == "3 2\n4 3\n5 4\n3 to 5: 0 lost, 0 twice\n"


@pytest.mark.parametrize("words", [[], ["goodbye"], ['"C:\\new"']])
def test_curl_publishes(server, tmp_path, words):
    """Publishing is one request by curl: whoever listens gets the event, under the number that
    the answer names."""
    with connect(ws(server, "/events")) as socket:
        home = copy_isolated(EXAMPLES / ROOM / "publish.sh", tmp_path / "hand")
        result = run_to_end(["sh", "publish.sh", *words], home, environment(URL=server.url))
        assert result.returncode == 0, result.stderr
        event = json.loads(socket.recv(TIMEOUT))
    assert event == json.loads(result.stdout) | {"text": "".join(words) or "hello"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"text": 1}', b'{"text": ""}'])
def test_what_is_no_event_is_refused(server, body):
    """What is not an event is answered 400, in JSON."""
    answer = httpx2.post(f"{server.url}/events", content=body)
    assert answer.status_code == 400
    assert answer.json()["status"] == 400


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the plain server, with no events of its own."""
    return start_shared(f"{ROOM}/server.py", TICK=0)


def test_a_client_that_names_no_event_gets_the_next_one(server):
    """A client that names no event gets only what is still to come."""
    publish(server, "before")
    with connect(ws(server, "/events")) as socket:
        (number,) = publish(server, "after")
        assert json.loads(socket.recv(TIMEOUT)) == {"id": number, "text": "after"}


def test_a_client_that_never_got_through_gives_up_at_once(run, port, canned):
    """A client that was never connected ends with one line that says why: nobody is there, it is
    no WebSocket, or it is no server of events."""
    for url, words in [
        (f"http://127.0.0.1:{port()}", "no answer from"),
        (canned((500, {}, "oops")).url, "answered 500"),
        (canned((200, {}, "<h1>It works!</h1>")).url, "answered 200, not with a WebSocket"),
        ("nonsense", "no answer from nonsense"),
    ]:
        for name in "client.py", "wrong_client_no_resume.py":
            result = run(f"{ROOM}/{name}", URL=url)
            assert result.returncode == 1
            assert words in result.stderr
            assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", ["tick", "[1]", '{"id": "1"}', '{"id": 1}'])
def test_a_server_of_something_else_is_found_out(canned_events, run, text):
    """A client that is sent something other than events says so."""
    result = run(f"{ROOM}/client.py", URL=canned_events(text), COUNT=1)
    assert result.returncode == 1
    assert "is no server of events" in result.stderr
    assert len(result.stderr.splitlines()) == 1
