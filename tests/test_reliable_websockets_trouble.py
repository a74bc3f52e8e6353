"""What goes wrong on a WebSocket: close codes, clients that hang, servers that do not listen."""

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
from websockets.sync.client import connect

from .support.messages import table
from .support.processes import TIMEOUT
from .support.sockets import closings, frames, silent
from .support.threads import run_in_thread

ROOM = "reliable_websockets"
SERVERS = ["server.py", "server_websockets.py"]


def ws(server, path="/events?after=0"):
    return server.url.replace("http", "ws") + path


def until_closed(socket):
    """Read to the end of a connection; return the exception that says how it came."""
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
        who, code = next(iter(sent.items()), ("nobody", saw))
        found[code, what] = (who, int(saw))

    def see(what, wire, path="/events?after=0", act=lambda socket: None, **options):
        with connect(ws(wire, path), close_timeout=1, **options) as socket:
            act(socket)
            until_closed(socket)
            note(what, wire, socket.close_code, wire.connections)

    def one(name, **variables):
        server = start_shared(f"{ROOM}/{name}", **({"TICK": 0} | variables))
        return server, tap_shared(server)

    sanic, wire = one("server.py")
    see("the client has had enough", wire, act=lambda socket: socket.close())
    see("`after` is no number", wire, "/events?after=x")
    see("`after` is not in the log", wire, "/events?after=99")
    see("the client begins to send 2 MiB", wire, act=lambda socket: announce(socket, 2**21))
    httpx2.post(f"{sanic.url}/events", json={"text": "x" * 100})
    see("the client takes 10 bytes at most", wire, max_size=10)
    see("`server.py` gets SIGTERM", wire, act=lambda _: sanic.stop())
    other, wire = one("server_websockets.py")
    see("`server_websockets.py` gets SIGTERM", wire, act=lambda _: other.stop())
    other, wire = one("server.py")
    see("the server is killed", wire, act=lambda _: other.stop(signal.SIGKILL))
    _, wire = one("server.py", MAX_CLIENTS=0)
    see("there are too many clients", wire)
    other, wire = one("wrong_server_push_only.py", TICK=0.1, PING=0.3, PONG=0.3)
    see("the server sees no pong", wire, act=lambda socket: socket.send("unread"))
    other.stop(signal.SIGKILL)  # its task for the message would be left over
    return found


def announce(socket, size):
    """Send the header of a text message of that size, masked with zeros, and none of its text."""
    socket.socket.sendall(b"\x81\xff" + size.to_bytes(8) + bytes(4))


@pytest.fixture(scope="module")
def browser_closes(start_shared, tap_shared, browser):
    """Return what a browser's page does to its connection: {what: what the tap saw}."""
    server = start_shared(f"{ROOM}/server.py", TICK=0)
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
    """Each close code that people meet, who sent it, and what the client saw."""
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
                    "code": f"**{code}** {names.get(code, 'our own')}",
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
    assert seen(closes, 1006) == {("nobody", 1006)}


def test_a_message_over_the_limit_is_1009(closes):
    """Whoever is sent more than it takes closes with 1009: the server, or the client."""
    assert seen(closes, 1009) == {("server", 1009), ("client", 1006)}


def test_too_many_clients_are_told_to_try_later(closes):
    """A server that has enough clients closes with 1013, try again later."""
    assert seen(closes, 1013) == {("server", 1013)}


def test_a_page_that_is_left_is_1001(browser_closes):
    """A browser closes with 1001 when the page is left."""
    assert browser_closes["a page is left"][0] == 1001


def test_close_without_a_code_is_1005(browser_closes):
    """A page that calls close() without a code sends none, and both sides call that 1005."""
    assert browser_closes["a page calls `close()`"] == (1005, 1005)


def test_sanic_says_1000_when_it_stops(start):
    """A Sanic program that does not close its sockets itself closes them with 1000 when it is
    stopped, as if all had been said."""
    server = start(f"{ROOM}/wrong_server_push_only.py")
    with connect(ws(server)) as socket:
        socket.recv(TIMEOUT)
        server.stop()
        until_closed(socket)
        assert socket.close_code == 1000


@pytest.mark.parametrize("name", SERVERS)
def test_a_message_too_big_is_refused_by_its_header(start, name, record):
    """A server that reads the header of a message over 1 MiB closes with 1009 and waits for
    nothing more of it; one byte less, and it waits."""
    server = start(f"{ROOM}/{name}", TICK=0)
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
def test_the_sender_of_too_much_may_see_1006(start, name):
    """A client that is still sending when it is closed with 1009 sees that, or a reset: 1006."""
    server = start(f"{ROOM}/{name}", TICK=0)
    with connect(ws(server)) as socket:
        with suppress(ConnectionClosed):
            socket.send("x" * 2**23)
        until_closed(socket)
        assert socket.close_code in {1009, 1006}


# Pongs that are not read, pings that are not answered


def test_a_handler_that_only_sends_closes_healthy_clients(start, record):
    """A Sanic handler that only sends closes a client that says something with 1011, though it
    answers each ping; one that says nothing stays."""
    server = start(f"{ROOM}/wrong_server_push_only.py", TICK=0.05, PING=0.2, PONG=1.5)
    options = {"close_timeout": 1}
    with connect(ws(server), **options) as silent, connect(ws(server), **options) as talking:
        talking.send("hello")
        error = until_closed(talking)
        assert error.rcvd.code == 1011
        for _ in range(20):  # it has been asked as often
            silent.recv(TIMEOUT)
    server.stop(signal.SIGKILL)  # Sanic leaves a task behind for the message nobody read
    record("reliable_websockets/wrong_server_push_only.txt", f"{type(error).__name__}: {error}\n")


@pytest.mark.parametrize("name", SERVERS)
def test_a_handler_that_receives_keeps_them(start, tap, name):
    """A handler that receives keeps a client that says something, however many pings pass."""
    wire = tap(start(f"{ROOM}/{name}", TICK=0, PING=0.2, PONG=1.5))
    with connect(ws(wire)) as socket:
        socket.send('{"text": "hello"}')
        socket.send('{"text": "hello"}')
        # For longer than it takes to miss one.
        wire.wait_until(lambda events: len(pongs(events)) >= 12)
        assert socket.protocol.state.name == "OPEN"


def pongs(events):
    return [payload for opcode, payload in frames(events, "client") if opcode == 10]


def test_a_blocked_loop_costs_healthy_clients(start, record):
    """While one client's job blocks the event loop, another's ping is not answered: it closes
    with 1011, and neither the network nor the server was down."""
    server = start(f"{ROOM}/wrong_server_blocking.py")
    options = {"ping_interval": 0.3, "ping_timeout": 0.3, "close_timeout": 0.3}
    with connect(ws(server), **options) as healthy, connect(ws(server), ping_interval=None) as busy:
        healthy.recv(TIMEOUT)
        busy.recv(TIMEOUT)
        busy.send('{"seconds": 3}')
        error = until_closed(healthy)
        assert error.sent.code == 1011
        assert json.loads(busy.recv(TIMEOUT))["text"] == "done"  # the server was well
    record("reliable_websockets/wrong_server_blocking.txt", f"{type(error).__name__}: {error}\n")


# Clients that leave, and clients that do not read


def test_a_handler_that_misses_the_cancellation_leaks(start, record):
    """A handler that cleans up after an Exception does not see that its client left: with room
    for two, the third is refused, though nobody is there."""
    told = {}
    for name in "server.py", "wrong_server_leak.py":
        server = start(f"{ROOM}/{name}", TICK=0.05, MAX_CLIENTS=2)
        told[f"`{name}`"] = [visit(server) for _ in range(4)]
    assert told["`server.py`"] == ["let in"] * 4
    refused = "closed: 1013 too many clients"
    assert told["`wrong_server_leak.py`"] == ["let in"] * 2 + [refused] * 2
    each = ["the first comes, and goes", "the second", "the third", "the fourth"]
    rows = [
        {"with room for two": who} | {name: said[number] for name, said in told.items()}
        for number, who in enumerate(each)
    ]
    record("reliable_websockets/wrong_server_leak.md", table(rows))


def visit(server):
    """Come and go; return how the server received us."""
    with connect(ws(server, "/events")) as socket:
        try:
            socket.recv(TIMEOUT)
        except ConnectionClosed as closed:
            return f"closed: {closed.rcvd.code} {closed.rcvd.reason}"
        return "let in"


@pytest.mark.parametrize("name", SERVERS)
def test_clients_that_left_are_forgotten(start, name):
    """Clients that left, and clients that were lost, take no place: with room for two, ten come
    one after the other."""
    server = start(f"{ROOM}/{name}", TICK=0.05, MAX_CLIENTS=2)
    for number in range(10):
        with connect(ws(server, "/events")) as socket:
            socket.recv(TIMEOUT)
            if number % 2:
                socket.socket.close()  # and no goodbye


def test_the_end_of_receiving_ends_the_sending(tmp_path, port, monkeypatch):
    """On websockets nothing of a client that left goes on: the end of the receiving loop ends
    the sending, though no event has come since."""
    server = importlib.import_module(f"examples.{ROOM}.server_websockets")
    monkeypatch.setattr(server, "HEARTBEAT", 10 * TIMEOUT)  # which would end it as well
    monkeypatch.setattr(server, "clients", set(), raising=False)

    async def come_and_leave():
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

    run_in_thread(come_and_leave())


@pytest.mark.parametrize("name", SERVERS)
def test_a_client_that_does_not_read_is_let_go(start, name):
    """A client that does not read is let go once the buffers are full; meanwhile another gets
    all of nine megabytes, and the server grows by less than half of them."""
    server = start(f"{ROOM}/{name}", TICK=0, KEEP=100, SEND_TIMEOUT=2, MAX_CLIENTS=2, PING=1000)
    with silent(server.port, "/events?after=0") as hanging:
        hanging.recv(1)  # it is in
        assert flood(server, name) < 4_500
        deadline = time.monotonic() + TIMEOUT
        while refused(server, 2):
            assert time.monotonic() < deadline, "the one that hangs still has its place"
            time.sleep(0.1)
        assert end_of(hanging)[-2:] == b"xx"  # cut off in an event, with no goodbye


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


def refused(server, number):
    """Return how many of so many clients, there at the same time, are told to try later.

    After the flood: each of the others is sent its last event.
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


def test_a_ping_does_not_notice_a_client_that_does_not_read(start):
    """On websockets a ping that waits behind unread data closes nothing: a client that hangs
    keeps its place for as long as it hangs, if no send has a timeout, while an idle one that
    answers no ping is closed."""
    server = start(
        f"{ROOM}/server_websockets.py",
        TICK=0,
        KEEP=100,
        SEND_TIMEOUT=1000,
        PING=1.5,
        PONG=1.5,
        MAX_CLIENTS=3,
    )
    with silent(server.port, "/events?after=0") as hanging:
        hanging.recv(1)
        flood(server, "server_websockets.py")
        with silent(server.port, "/events") as idle:
            while idle.recv(4096):
                pass
        assert refused(server, 3) == 1


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
        server = start(f"{ROOM}/server_websockets.py", TICK=0, COMPRESSION=compression)
        costs[name] = grown(server, 250)
    ratio = costs["with compression"] / costs["without"]
    assert ratio > 1.5
    rows = [("off", 1), ("on, the default", round(ratio))]
    record(
        "reliable_websockets/compression.md",
        table([{"compression": how, "memory of an idle connection": size} for how, size in rows]),
    )
