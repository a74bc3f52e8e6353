"""Faults of WebSockets: close codes, slow consumers, handlers that block or do not receive."""

import asyncio
import importlib
import json
import signal
import time
from contextlib import ExitStack, suppress

import httpx2
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from .support.messages import table
from .support.processes import EXAMPLES, READY, TIMEOUT, Program, argv, environment
from .support.sockets import closings, connect, frames, silent
from .support.threads import run_in_thread

TOPIC = "reliable_websockets"
SERVERS = ["server.py", "server_websockets.py"]


def ws(server, path="/events?after=0"):
    return server.url.replace("http", "ws") + path


def until_closed(socket):
    """Receive until the connection is closed; return the exception that has its code."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(TIMEOUT)
    return closed.value


# Close codes


@pytest.fixture(scope="module")
def closes(start_shared, tap_shared):
    """Return {code: (what happened, who sent it first, what the client saw)}, each produced."""
    found = {}

    def note(what, wire, saw, connection=1):
        sent = closings(wire.events, connection)
        who, code = next(iter(sent.items()), ("neither side", saw))
        found[code, what] = (who, int(saw))

    def see(what, wire, path="/events?after=0", act=lambda socket: None, **options):
        with connect(ws(wire, path), close_timeout=1, **options) as socket:
            act(socket)
            until_closed(socket)
            note(what, wire, socket.close_code, wire.connections)

    def one(name, **variables):
        server = start_shared(f"{TOPIC}/{name}", **({"EVENT_INTERVAL": 0} | variables))
        return server, tap_shared(server)

    sanic, wire = one("server.py")
    see("the client calls `close()`", wire, act=lambda socket: socket.close())
    see("`after` is not a number", wire, "/events?after=x")
    see("`after` is not in the log", wire, "/events?after=99")
    see("the client begins to send 2 MiB", wire, act=lambda socket: announce(socket, 2**21))
    httpx2.post(f"{sanic.url}/events", json={"text": "x" * 100})
    see("the client takes 10 bytes at most", wire, max_size=10)
    see("`server.py` gets SIGTERM", wire, act=lambda _: sanic.stop())
    other, wire = one("server_websockets.py")
    see("`server_websockets.py` gets SIGTERM", wire, act=lambda _: other.stop())
    other, wire = one("server.py")
    see("the server is killed", wire, act=lambda _: other.stop(signal.SIGKILL))
    _, wire = one("server.py", MAX_CONNECTIONS=0)
    see("there are too many connections", wire)
    other, wire = one(
        "wrong_server_push_only.py", EVENT_INTERVAL=0.1, PING_INTERVAL=0.3, PING_TIMEOUT=0.3
    )
    see("the server sees no pong", wire, act=lambda socket: socket.send("unread"))
    other.stop(signal.SIGKILL)  # its task for the message would remain
    return found


def announce(socket, size):
    """Send the header of a text message of that size, masked with zeros, and none of its text."""
    socket.socket.sendall(b"\x81\xff" + size.to_bytes(8) + bytes(4))


@pytest.fixture(scope="module")
def browser_closes(start_shared, tap_shared, browser):
    """Return what a browser's page does to its connection: {what: what the tap saw}."""
    server = start_shared(f"{TOPIC}/server.py", EVENT_INTERVAL=0)
    found = {}
    for what, script in [
        ("a page calls `close()`", f"socket.close(); {WAIT_CLOSE}"),
        ("a page is left", "location.href = 'about:blank'"),
    ]:
        wire = tap_shared(server)
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"{server.url}/nothing")
            page.evaluate(f"window.socket = new WebSocket('{ws(wire)}'); {WAIT_OPEN}")
            saw = page.evaluate(script)
            wire.wait_until(lambda _, wire=wire: "client" in closings(wire.events))
        found[what] = closings(wire.events)["client"], saw
    return found


WAIT_OPEN = "new Promise((done) => { socket.onopen = () => done(); })"
WAIT_CLOSE = "new Promise((done) => { socket.onclose = ({ code }) => done(code); })"


def test_close_codes(closes, browser_closes, record):
    """Each common close code, which side sent it, and what the client saw."""
    rows = [(code, what, who, saw) for (code, what), (who, saw) in closes.items()]
    rows += [
        (code, what, "client", "–" if not isinstance(saw, int) else saw)
        for what, (code, saw) in browser_closes.items()
    ]
    codes = [1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012, 1013, 4410]
    assert sorted({row[0] for row in rows}) == codes
    names = {
        code.value: code.name.lower().replace("_", " ").replace("rcvd", "received")
        for code in CloseCode
    }
    record(
        "reliable_websockets/closes.md",
        table(
            [
                {
                    "code": f"**{code}** {names.get(code, 'of the application')}",
                    "what happened": what,
                    "sent first by": who,
                    "the client saw": str(saw),
                }
                for code, what, who, saw in sorted(rows)
            ]
        ).replace("--:", "---"),
    )


def seen(closes, code):
    return {value for (found, _), value in closes.items() if found == code}


def test_1006_is_never_sent(closes):
    """When the server is killed no close frame passes, and the client makes up a code, 1006."""
    assert seen(closes, 1006) == {("neither side", 1006)}


def test_a_message_over_the_limit_is_1009(closes):
    """A peer that receives a message over its limit closes with 1009: the server, or the client."""
    assert seen(closes, 1009) == {("server", 1009), ("client", 1006)}


def test_the_side_that_fails_sees_1006(closes, start):
    """A client of websockets that closes with 1009 or 1011 itself sees 1006: after an error it does
    not wait for the server's close frame."""
    assert ("client", 1006) in seen(closes, 1009)
    server = start(f"{TOPIC}/wrong_server_blocking.py", EVENT_INTERVAL=0, FILTER_TIME=3)
    with connect(ws(server), **SHORT_PINGS) as healthy, connect(ws(server)) as busy:
        busy.send('{"text": "hello"}')
        closed = until_closed(healthy)
        assert (closed.sent.code, closed.rcvd, healthy.close_code) == (1011, None, 1006)


def test_too_many_connections_are_1013(closes):
    """A server that has too many connections closes with 1013, try again later."""
    assert seen(closes, 1013) == {("server", 1013)}


def test_a_page_that_is_left_is_1001(browser_closes):
    """A browser closes with 1001 when the page is left."""
    assert browser_closes["a page is left"][0] == 1001


def test_close_without_a_code_is_1005(browser_closes):
    """A page that calls close() without a code sends none, and both sides call that 1005."""
    assert browser_closes["a page calls `close()`"] == (1005, 1005)


def test_sanic_itself_closes_with_1000(tmp_path, port):
    """A Sanic server that does not close its WebSockets itself closes them with 1000 when it is
    stopped, as if all messages had been sent."""
    text = (EXAMPLES / TOPIC / "server.py").read_text()
    close = '        await ws.close(1012, "the server restarts")\n'
    assert close in text
    example = tmp_path / "server.py"
    example.write_text(text.replace(close, ""))
    env = environment(PORT=(number := port()), EVENT_INTERVAL=0.05)
    server = Program(argv(example), tmp_path, env, number)
    try:
        server.wait_for(*READY)
        with connect(ws(server)) as socket:
            socket.recv(TIMEOUT)
            server.stop()
            until_closed(socket)
            assert socket.close_code == 1000
    finally:
        server.stop(signal.SIGKILL)


@pytest.mark.parametrize("name", SERVERS)
def test_a_large_message_is_rejected_by_its_header(start, name, record):
    """A server that reads the header of a message over 1 MiB closes with 1009 without waiting
    for the rest; with one byte less it waits."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0)
    with connect(ws(server), close_timeout=0.1) as socket:  # a close would count as its text
        announce(socket, 2**20)
        with pytest.raises(TimeoutError):
            socket.recv(0.3)
    with connect(ws(server)) as socket:
        announce(socket, 2**20 + 1)
        error = until_closed(socket)
    assert error.rcvd.code == 1009
    if name == "server.py":
        record("reliable_websockets/too_big.txt", f"{type(error).__name__}: {error}\n")


@pytest.mark.parametrize("name", SERVERS)
def test_the_sender_of_a_large_message_may_see_1006(start, name):
    """A client that is still sending when it is closed with 1009 sees 1009, or a reset: 1006."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0)
    with connect(ws(server)) as socket:
        with suppress(ConnectionClosed):
            socket.send("x" * 2**23)
        until_closed(socket)
        assert socket.close_code in {1009, 1006}


# Pongs that are not read, pings that are not answered with a pong


def test_a_handler_that_only_sends_closes_healthy_clients(start, record):
    """Sanic closes a client that has sent a message to a handler that only sends with 1011,
    although it responds to each ping; a client that sends nothing stays connected."""
    server = start(
        f"{TOPIC}/wrong_server_push_only.py",
        EVENT_INTERVAL=0.05,
        PING_INTERVAL=0.2,
        PING_TIMEOUT=1.5,
    )
    options = {"close_timeout": 1}
    with connect(ws(server), **options) as silent, connect(ws(server), **options) as talking:
        talking.send("hello")
        error = until_closed(talking)
        assert error.rcvd.code == 1011
        for _ in range(20):  # several pings pass meanwhile
            silent.recv(TIMEOUT)
    server.stop(signal.SIGKILL)  # a task waits for the message that is not read
    record("reliable_websockets/wrong_server_push_only.txt", f"{type(error).__name__}: {error}\n")


@pytest.mark.parametrize("name", SERVERS)
def test_a_handler_that_receives_keeps_healthy_clients(start, tap, name):
    """A handler that receives keeps a client that sends messages, however many pings pass."""
    wire = tap(start(f"{TOPIC}/{name}", EVENT_INTERVAL=0, PING_INTERVAL=0.2, PING_TIMEOUT=1.5))
    with connect(ws(wire)) as socket:
        socket.send('{"text": "hello"}')
        socket.send('{"text": "hello"}')
        # For longer than the timeout of a ping.
        wire.wait_until(lambda events: len(pongs(events)) >= 12)
        assert socket.protocol.state.name == "OPEN"


def pongs(events):
    return [payload for opcode, payload in frames(events, "client") if opcode == 10]


def test_a_blocked_event_loop_closes_healthy_connections(start, record):
    """While the message of one client blocks the event loop, the ping of another client gets no
    pong: that client closes with 1011, although neither network nor server is down."""
    server = start(f"{TOPIC}/wrong_server_blocking.py", EVENT_INTERVAL=0, FILTER_TIME=3)
    with connect(ws(server), **SHORT_PINGS) as healthy, connect(ws(server)) as busy:
        busy.send('{"text": "hello"}')
        error = until_closed(healthy)
        assert error.sent.code == 1011
        assert json.loads(busy.recv(TIMEOUT))["text"] == "hello"  # the server is alive
    record("reliable_websockets/wrong_server_blocking.txt", f"{type(error).__name__}: {error}\n")


SHORT_PINGS = {"ping_interval": 0.5, "ping_timeout": 0.5, "close_timeout": 0.3}


def test_a_thread_keeps_the_event_loop_free(start):
    """With the slow code in a thread, the other client stays connected."""
    server = start(f"{TOPIC}/server_websockets.py", EVENT_INTERVAL=0, FILTER_TIME=3)
    with connect(ws(server), **SHORT_PINGS) as healthy, connect(ws(server)) as busy:
        busy.send('{"text": "hello"}')
        assert json.loads(healthy.recv(TIMEOUT))["text"] == "hello"


# Clients that disconnect, and slow consumers


def test_a_handler_that_misses_the_cancellation_leaks(start, record):
    """A handler that does not clean up in `finally` counts clients that have disconnected: with
    a limit of two, the third is rejected although no client is connected."""
    results = {}
    for name in "server.py", "wrong_server_leak.py":
        server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0.05, MAX_CONNECTIONS=2)
        results[f"`{name}`"] = [visit(server) for _ in range(4)]
    assert results["`server.py`"] == ["accepted"] * 4
    refused = "closed: 1013 too many connections"
    assert results["`wrong_server_leak.py`"] == ["accepted"] * 2 + [refused] * 2
    each = ["the first connects, and disconnects", "the second", "the third", "the fourth"]
    rows = [
        {"with a limit of two": client} | {name: result[number] for name, result in results.items()}
        for number, client in enumerate(each)
    ]
    record("reliable_websockets/wrong_server_leak.md", table(rows))


def visit(server):
    """Connect and disconnect; return how the server responded."""
    with connect(ws(server, "/events")) as socket:
        try:
            socket.recv(TIMEOUT)
        except ConnectionClosed as closed:
            return f"closed: {closed.rcvd.code} {closed.rcvd.reason}"
        return "accepted"


@pytest.mark.parametrize("name", SERVERS)
def test_disconnected_clients_are_not_counted(start, name):
    """Clients that disconnected, with or without a close frame, do not count: with a limit of
    two, ten connect one after the other."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0.05, MAX_CONNECTIONS=2)
    for number in range(10):
        with connect(ws(server, "/events")) as socket:
            socket.recv(TIMEOUT)
            if number % 2:
                socket.socket.close()  # without a close frame


def test_the_end_of_receiving_ends_the_sending(tmp_path, port, monkeypatch):
    """On websockets no task of a disconnected client remains: the end of the receiving loop ends
    the sending, even if no event is published."""
    server = importlib.import_module(f"examples.{TOPIC}.server_websockets")
    monkeypatch.setattr(server, "HEARTBEAT_INTERVAL", 10 * TIMEOUT)  # which would end it as well
    monkeypatch.setattr(server, "connections", set(), raising=False)

    async def connect_and_leave():
        log = server.EventLog(tmp_path / "events.log", 10)
        monkeypatch.setattr(server, "log", log, raising=False)
        log.publish("one")
        number = port()
        async with websockets.asyncio.server.serve(server.stream, "127.0.0.1", number):
            before = asyncio.all_tasks()
            async with websockets.asyncio.client.connect(
                f"ws://127.0.0.1:{number}/events?after=0"
            ) as socket:
                assert json.loads(await socket.recv())["id"] == 1
                during = asyncio.all_tasks() - before
            _, left = await asyncio.wait(during, timeout=TIMEOUT)
            assert not left

    run_in_thread(connect_and_leave())


@pytest.mark.parametrize("name", SERVERS)
def test_a_slow_consumer_is_disconnected(start, name):
    """A slow consumer is disconnected once the buffers are full; meanwhile another client gets
    all of nine megabytes, and the server grows by less than half of them."""
    server = start(
        f"{TOPIC}/{name}",
        EVENT_INTERVAL=0,
        MAX_EVENTS=100,
        SEND_TIMEOUT=2,
        MAX_CONNECTIONS=2,
        PING_INTERVAL=1000,
    )
    with silent(server.port, "/events?after=0") as hanging:
        hanging.recv(1)  # it is connected
        assert flood(server, name) < 4_500
        deadline = time.monotonic() + TIMEOUT
        while rejected(server, 2):
            assert time.monotonic() < deadline, "the slow consumer is still connected"
            time.sleep(0.1)
        assert end_of(hanging)[-2:] == b"xx"  # cut in an event, without a close frame


def end_of(client):
    """Read a socket to its end; return the last bytes."""
    last = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            last = (last + data)[-12:]
    return last


def flood(server, name):
    """Publish 1,000 events of 9 kB, and read each; return the server's growth in KiB."""
    text = "x" * 9_000
    with connect(ws(server, "/events"), compression=None) as reader, httpx2.Client() as client:
        for number in range(1_000):
            if number == 150:  # its log is full by now
                before = server.status("VmRSS")
            if name == "server.py":
                client.post(f"{server.url}/events", json={"text": text})
            else:
                reader.send(json.dumps({"text": text}))
            assert json.loads(reader.recv(TIMEOUT))["text"] == text
        return server.status("VmRSS") - before


def rejected(server, number):
    """Return how many of so many simultaneous clients are closed with 1013.

    After the flood: each of the others receives its last event.
    """
    with ExitStack() as stack:
        address = ws(server, "/events?after=999")
        clients = [stack.enter_context(connect(address)) for _ in range(number)]
        closed = 0
        for client in clients:
            try:
                client.recv(TIMEOUT)
            except ConnectionClosed:
                closed += 1
        return closed


def test_a_ping_does_not_detect_a_slow_consumer(start):
    """On websockets a ping that waits behind unread data closes nothing: without a timeout of
    send(), a slow consumer stays connected, while an idle client that sends no pong is
    closed."""
    server = start(
        f"{TOPIC}/server_websockets.py",
        EVENT_INTERVAL=0,
        MAX_EVENTS=100,
        SEND_TIMEOUT=1000,
        PING_INTERVAL=5,  # the flood is there before the first ping
        PING_TIMEOUT=1.5,
        MAX_CONNECTIONS=3,
    )
    with silent(server.port, "/events?after=0") as hanging:
        hanging.recv(1)
        flood(server, "server_websockets.py")
        with silent(server.port, "/events") as idle:
            while idle.recv(4096):
                pass
        assert rejected(server, 3) == 1


# Memory


def grown(server, number):
    """Open so many idle connections and return by how many KiB each made the server grow."""

    async def hold():
        options = {"ping_interval": None, "open_timeout": TIMEOUT}
        opened = []
        for wanted in 50, 50 + number:
            while len(opened) < wanted:
                opened.append(await websockets.asyncio.client.connect(ws(server), **options))
            sizes.append(server.status("VmRSS"))
        for client in opened:
            client.transport.abort()

    sizes = []
    run_in_thread(hold())
    return (sizes[1] - sizes[0]) / number


def test_compression_costs_memory(start, record):
    """A connection with compression takes about three times the memory of one without, idle."""
    costs = {}
    for name, compression in ("with compression", "deflate"), ("without", ""):
        server = start(f"{TOPIC}/server_websockets.py", EVENT_INTERVAL=0, COMPRESSION=compression)
        costs[name] = grown(server, 250)
    ratio = costs["with compression"] / costs["without"]
    assert ratio > 1.5
    rows = [("off", 1), ("on, the default", round(ratio))]
    record(
        "reliable_websockets/compression.md",
        table([{"compression": how, "memory of an idle connection": size} for how, size in rows]),
    )
