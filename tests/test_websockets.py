"""WebSockets: one connection on which both sides send at any time."""

import base64
import inspect
import json
import random
import re
import runpy
import signal
import socket
import struct
import sys
import threading
import time
from asyncio import Barrier
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest
from sanic import Sanic
from sanic.config import DEFAULT_CONFIG
from sanic.server.protocols import websocket_protocol
from websockets.asyncio.server import serve as serve_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame as LibraryFrame
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.sync.server import serve
from websockets.utils import accept_key

from .support import frames as framing
from .support.browsing import both_browsers, both_browsers_for, enter, only_firefox, panel, replay
from .support.frames import conversation, costs, frames, hexdump, socket_messages, transcript
from .support.hostile import reset
from .support.messages import exchanges, messages, table, trace
from .support.processes import EXAMPLES, READY, Program, assert_clean_output, environment
from .support.recorder import stable
from .support.sequence import sequence_diagram, trace_of
from .support.sockets import connect
from .support.wiretap import Event, Run, Tap

SERVERS = ["server.py", "server_websockets.py"]


def address(url):
    return url.replace("http", "ws", 1) + "/jobs/socket"


@pytest.fixture(scope="module")
def servers(start_shared):
    """Return both servers, running."""
    return {name: start_shared(f"websockets/{name}") for name in SERVERS}


@pytest.fixture(params=SERVERS)
def server(request, servers):
    """Return each of the two servers in turn: a claim on one is a claim on both."""
    return servers[request.param]


@pytest.fixture
def sanic(servers):
    """Return the server in Sanic, for what one recording shows."""
    return servers["server.py"]


@pytest.fixture
def talk(server):
    """Return a WebSocket to each of the servers."""
    with connect(address(server.url)) as ws:
        yield ws


def send_request(ws, request):
    """Send a request, as JSON unless it is text or bytes; return the next message."""
    ws.send(request if isinstance(request, str | bytes) else json.dumps(request))
    return json.loads(ws.recv(30))


@pytest.fixture(scope="module", autouse=True)
def runs(servers, tap_shared, run_shared):
    """Return a Run of each client with each server; they mostly wait, so they wait together."""
    with ThreadPoolExecutor(8) as beside:

        def begin(client, server, **variables):
            wire, name = tap_shared(servers[server]), f"websockets/{client}"
            return Run(wire, beside.submit(run_shared, name, URL=wire.url, **variables).result)

        # Twice as slow as it is drawn: a busy machine is late each time.
        slow = {"SECONDS": 9, "INTERVAL": 2}
        yield {
            (client, server): begin(client, server, **slow)
            for client in ("client.py", "client_duplex.py")
            for server in SERVERS
        } | {"as it is": begin("client.py", "server.py")}


# The server and the client


@pytest.mark.parametrize("name", SERVERS)
def test_the_result_is_pushed_without_a_second_request(runs, record, name):
    """The client sends one request, receives `pending` at once, and receives the result when the
    job is done, without another request."""
    run = runs["client.py", name]
    result = run.result()
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == [
        "pending",
        "done",
    ]
    found = conversation(run.wire.events)
    assert [m.source for m in found] == ["client", "server"] * 2 + ["server"]
    job = {"token": found[-2].json["token"]}
    assert [m.json for m in found[2:]] == [
        {"id": 1, "submit": {"seconds": 9}},
        {"id": 1} | job | {"status": "pending"},
        job | {"status": "done", "result": 42},
    ]
    pending, done = found[-2:]
    assert done.at - pending.at > 8.9
    if name != "server.py":
        return
    record("websockets/client.txt", result.stdout)
    wire = runs["as it is"].wire
    assert runs["as it is"].result().returncode == 0
    shown = transcript(messages(wire.events) + frames(wire.events), "A WebSocket on the wire")
    record("websockets/wire.html", shown)
    drawn = trace(found, 2, [0, 4.5], step=0.5)
    record("websockets/timeline.json", drawn)
    record(
        "websockets/timeline.svg",
        sequence_diagram(
            drawn,
            "A WebSocket, drawn from a run",
            "At 0 the client requests an upgrade and receives 101. On the same connection it "
            "submits a job and receives pending. Then nothing passes, until the job ends at "
            "4.5 seconds and the server sends done at once.",
        ),
    )


def test_the_server_sends_without_a_request(talk):
    """The result of a job is pushed to a client that sends nothing after its submission."""
    token = send_request(talk, {"id": 1, "submit": {"seconds": 0.2}})["token"]
    assert json.loads(talk.recv(30)) == {"token": token, "status": "done", "result": 42}


def test_jobs_outlive_the_connection(server):
    """A job keeps running when the client disconnects; on another connection its status is
    available by token, and not pushed."""
    with connect(address(server.url)) as ws:
        token = send_request(ws, {"id": 1, "submit": {"seconds": 0.3}})["token"]
    with connect(address(server.url)) as ws:
        assert send_request(ws, {"id": 1, "status": token})["status"] == "pending"
        while (response := send_request(ws, {"id": 2, "status": token}))["status"] == "pending":
            pass
        assert response == {"id": 2, "token": token, "status": "done", "result": 42}


def test_a_result_is_pushed_to_its_client_only(server):
    """Each of two clients on one server receives the results of its own jobs and of no other."""
    with connect(address(server.url)) as one, connect(address(server.url)) as two:
        mine = {send_request(one, {"id": 1, "submit": {"seconds": 0}})["token"]}
        mine |= {json.loads(one.recv(30))["token"]}
        other = send_request(two, {"id": 1, "submit": {"seconds": 0}})["token"]
        assert json.loads(two.recv(30))["token"] == other
        # The next message is the response to the next request, so nothing else was sent.
        assert send_request(one, {"id": "last", "status": "?"})["id"] == "last"
        assert len(mine) == 1 and other not in mine


def test_many_jobs_at_once(talk):
    """A hundred jobs on one connection each get a response and a push, once."""
    for number in range(100):
        talk.send(json.dumps({"id": number, "submit": {"seconds": 0.1}}))
    received = [json.loads(talk.recv(30)) for _ in range(200)]
    responses = [m for m in received if "id" in m]
    assert [m["id"] for m in responses] == list(range(100))
    pushed = sorted(m["token"] for m in received if "id" not in m)
    assert pushed == sorted(m["token"] for m in responses)


def test_stops_cleanly_with_sockets_open(start):
    """Both servers stop at once with a connection open and a job running, and close the connection
    with 1000 or 1001."""
    for name in SERVERS:
        server = start(f"websockets/{name}")
        with connect(address(server.url)) as ws:
            send_request(ws, {"id": 1, "submit": {"seconds": 60}})
            begun = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begun < 10  # and not after the 15 seconds of Sanic's grace
            with pytest.raises(ConnectionClosed):
                ws.recv(30)
            assert ws.close_code in (1000, 1001)


# Sanic now and then leaves a task of its own, for a frame that came with the end of a connection.
SANICS = re.compile(
    r"Task was destroyed .*\ntask: .* coro=<WebsocketImplProtocol\.async_data_rec.*\n"
)


def test_a_client_that_vanishes_leaves_nothing(start):
    """A client that disconnects during a job leaves no traceback and no task of the handler behind,
    whether it sends a close frame, closes or resets TCP, or disconnects while it receives pushes,
    or before its response."""
    job, goodbye = b'{"id": 1, "submit": {"seconds": 0.2}}', struct.pack("!H", 1000)
    job, goodbye = FRAMES["encode"](1, job), FRAMES["encode"](8, goodbye)
    for name in SERVERS:
        server = start(f"websockets/{name}", errors_expected=True)  # looked for below
        for how in "goodbye", "hang up", "reset":
            with raw(server) as (plain, _):
                plain.sendall(job)
                plain.recv(100)
                if how == "goodbye":
                    plain.sendall(goodbye)
                if how == "reset":
                    reset(plain)
        with raw(server) as (plain, _):
            read = plain.makefile("rb").read
            for _ in range(60):
                plain.sendall(job)
                FRAMES["decode"](read)
            FRAMES["decode"](read)  # the first of many pushes
            plain.sendall(goodbye)
        for _ in range(8):  # in Sanic it is chance whether the handler still responds
            with raw(server) as (plain, _):
                plain.sendall(job + goodbye)
                while plain.recv(100):
                    pass
        with connect(address(server.url)) as ws:  # and still serves; the others' jobs end
            send_request(ws, {"id": 1, "submit": {"seconds": 0.3}})
            assert json.loads(ws.recv(30))["status"] == "done"
        assert server.stop(errors_expected=True) == 0
        assert_clean_output(SANICS.sub("", server.output))


# Bad input

USAGE = 'send "submit": {"seconds": 0 to 60} or "status": token'


@pytest.mark.parametrize(
    "message",
    [b"\x00\xff", "", "{", "is it done yet?", "[" * 100_000, '{"id": ' + "9" * 5000],
    ids=repr,
)
def test_a_message_that_is_not_json_gets_an_error(talk, message):
    """Both servers respond to a message that is not JSON with an error, and keep the connection."""
    refused = {"id": None, "error": "send JSON"}
    assert send_request(talk, message) == refused
    assert send_request(talk, {"id": 1, "submit": {"seconds": 0}})["status"] == "pending"


@pytest.mark.parametrize(
    "request_, request_id",
    [
        ([], None),
        (3, None),
        ({}, None),
        ({"id": 7}, 7),
        ({"id": "a", "cancel": "x"}, "a"),
        ({"id": 7, "status": "unknown"}, 7),
        ({"id": 7, "status": ["x"]}, 7),
        ({"id": 7, "submit": {}}, 7),
        ({"id": 7, "submit": {"seconds": True}}, 7),
        ({"id": 7, "submit": {"seconds": 61}}, 7),
        ({"id": 7, "submit": {"seconds": float("nan")}}, 7),
        ({"id": 7, "submit": {"seconds": float("inf")}}, 7),
        ({"id": "\ud800", "submit": {"seconds": "\ud800"}}, "\ud800"),
    ],
    ids=repr,
)
def test_an_invalid_request_gets_an_error(talk, request_, request_id):
    """The response to an invalid request has its id and describes a valid one; the connection
    stays open."""
    assert send_request(talk, request_) == {"id": request_id, "error": USAGE}
    assert send_request(talk, {"id": 1, "submit": {"seconds": 0}})["status"] == "pending"


def test_a_message_over_the_limit_closes_with_1009(talk):
    """A message over the limit of both libraries, 1 MiB, closes the connection with 1009."""
    assert "error" in send_request(talk, "x" * 2**20)
    talk.send("x" * (2**20 + 1))
    with pytest.raises(ConnectionClosed):
        talk.recv(30)
    assert talk.close_code == 1009


# The handshake

FRAMES = runpy.run_path(str(EXAMPLES / "websockets/frames.py"))
HANDSHAKE = runpy.run_path(str(EXAMPLES / "websockets/handshake.py"))
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


@contextmanager
def raw(server, target="/jobs/socket", **headers):
    """Yield a plain socket on which the handshake is done, and the response to it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
        fields = UPGRADE | headers
        head = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        request = [f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *head, "", ""]
        plain.sendall("\r\n".join(request).encode())
        response = b""
        while not response.endswith(b"\r\n\r\n"):
            response += plain.recv(1)
        yield plain, response.decode().lower()


def test_the_handshake_by_hand(server, tap, run, record):
    """A plain socket opens a WebSocket connection: `Sec-WebSocket-Accept` is base64(SHA-1(key and a
    fixed GUID)), as computed by hand."""
    wire = tap(server)
    result = run("websockets/handshake.py", URL=wire.url)
    assert result.returncode == 0, result.stderr
    (request, response) = exchanges(messages(wire.events))[0]
    assert response.status == 101
    key = request.headers["sec-websocket-key"]
    value = response.headers["sec-websocket-accept"]
    assert value == HANDSHAKE["accept_value"](key) == accept_key(key)
    assert len(base64.b64decode(key)) == 16
    # The example that the RFC gives.
    assert HANDSHAKE["accept_value"](UPGRADE["Sec-WebSocket-Key"]) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    if "Server:" not in result.stdout:
        record("websockets/handshake.txt", result.stdout)


@contextmanager
def responding(port, response):
    """Yield the URL of a server that gives each connection the same bytes."""
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve():
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(response)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{port}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


WRONG_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@pytest.mark.parametrize("name", ["handshake.py", "client.py"])
def test_a_wrong_accept_value_is_rejected(run, port, name):
    """A client that receives the accept value of another key closes the connection and reports
    it."""
    with responding(port(), WRONG_ACCEPT) as url:
        result = run(f"websockets/{name}", URL=url)
    assert result.returncode == 1
    assert "Sec-WebSocket-Accept" in result.stderr


def test_a_browser_rejects_a_wrong_accept_value(open_client_page, port):
    """A browser that receives the accept value of another key does not open the connection:
    1006."""
    with responding(port(), WRONG_ACCEPT) as url:
        page = open_client_page(url)
        page.click("#open")
        page.wait_for_selector("text=closed: 1006")
        assert page.locator("#messages li").count() == 1


def test_a_plain_get_is_426(server):
    """A plain `GET` of the WebSocket path gets `426` with the protocol to upgrade to."""
    response = httpx2.get(f"{server.url}/jobs/socket")
    assert response.status_code == 426
    assert response.headers["Upgrade"] == "websocket"


@pytest.mark.parametrize(
    "name, value",
    [
        ("Sec-WebSocket-Key", None),
        ("Sec-WebSocket-Key", "dG9vIHNob3J0"),
        ("Sec-WebSocket-Key", "?"),
        ("Sec-WebSocket-Version", None),
    ],
)
def test_a_bad_handshake_is_400(server, name, value):
    """A handshake without a key of 16 bytes, or without a version, gets `400`."""
    headers = UPGRADE | {name: value}
    sent = {key: each for key, each in headers.items() if each is not None}
    response = httpx2.get(f"{server.url}/jobs/socket", headers=sent)
    assert response.status_code == 400
    assert name in response.text


def test_another_version_is_rejected_with_the_right_one(servers):
    """A handshake of another version gets `426` with `Sec-WebSocket-Version: 13` from the server on
    the websockets library; Sanic alone responds `400` without it."""
    headers = UPGRADE | {"Sec-WebSocket-Version": "8"}
    library, sanic = (
        httpx2.get(f"{servers[name].url}/jobs/socket", headers=headers)
        for name in ("server_websockets.py", "server.py")
    )
    assert (library.status_code, library.headers["Sec-WebSocket-Version"]) == (426, "13")
    assert (sanic.status_code, "Sec-WebSocket-Version" in sanic.headers) == (400, False)


def test_a_query_or_an_absolute_target_is_accepted(server):
    """Both servers accept a request target with a query, and one that is a whole URL."""
    for target in "/jobs/socket?x=1", f"http://127.0.0.1:{server.port}/jobs/socket":
        with raw(server, target) as (_, response):
            assert response.startswith("http/1.1 101")


def test_other_methods_and_paths_are_rejected(server):
    """Another path gets `404` and another method `405`, with a handshake or without."""
    assert httpx2.get(f"{server.url}/jobs", headers=UPGRADE).status_code == 404
    assert httpx2.post(f"{server.url}/jobs/socket", headers=UPGRADE).status_code == 405


def test_neither_server_checks_origin(server):
    """Neither server checks `Origin`: a page of any origin may open a connection."""
    with raw(server, Origin="https://evil.example") as (_, response):
        assert response.startswith("http/1.1 101")


def test_websockets_checks_origin_if_configured():
    """Given a list of origins, the websockets library rejects others with `403`."""
    with library(origins=["https://good.example"]) as url:
        with connect(url, origin="https://good.example"):
            pass
        with pytest.raises(InvalidStatus, match="403"):
            connect(url, origin="https://evil.example").__enter__()


@contextmanager
def library(handler=None, **options):
    """Yield the URL of a server of the websockets library, an echo by default."""

    def echo(ws):
        for message in ws:
            ws.send(message)

    with serve(handler or echo, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        number = server.socket.getsockname()[1]
        yield f"ws://127.0.0.1:{number}"
        server.shutdown()
        thread.join()


def test_a_subprotocol_is_negotiated():
    """The server selects a subprotocol that the client offered, and names it in the response."""
    with library(subprotocols=["jobs.v2", "jobs.v1"]) as url:
        with connect(url, subprotocols=["jobs.v1", "other"]) as ws:
            assert ws.subprotocol == "jobs.v1"
            assert ws.response.headers["Sec-WebSocket-Protocol"] == "jobs.v1"


OPEN = """([url, ...protocols]) => new Promise((tell) => {
  const socket = new WebSocket(url, protocols);
  let error;
  socket.onopen = () => tell("open");
  socket.onerror = (event) => { error = Object.keys(event).join(); };
  socket.onclose = ({ code, reason }) => tell([code, reason, error]);
})"""


@pytest.fixture
def local(page, sanic):
    """Return a page that a server on this machine sent; others may not open sockets to it."""
    page.goto(f"{sanic.url}/nothing")
    return page


def test_an_unknown_subprotocol(server, local):
    """If a client offers a subprotocol that they do not know, both servers open the connection
    without one. Python accepts that; Chromium does not."""
    with connect(address(server.url), subprotocols=["unheard-of"]) as ws:
        assert ws.subprotocol is None
    assert local.evaluate(OPEN, [address(server.url)]) == "open"
    assert local.evaluate(OPEN, [address(server.url), "unheard-of"])[0] == 1006


@only_firefox
def test_firefox_accepts_a_missing_subprotocol(sanic, local):
    """Firefox opens a connection without a subprotocol, although it offered one."""
    assert local.evaluate(OPEN, [address(sanic.url), "unheard-of"]) == "open"


# Frames


def test_every_type_of_frame(server, tap, run, record):
    """Both servers understand each type of frame, built by hand; a pong has the payload of its
    ping, also in the middle of a message; a close frame is echoed."""
    wire = tap(server)
    result = run("websockets/frames.py", URL=wire.url)
    assert result.returncode == 0, result.stderr
    found = frames(wire.events)
    up = [f for f in found if f.source == "client"]
    down = [f for f in found if f.source == "server"]
    assert [f.name for f in up] == ["text", "ping", "continuation", "text", "text", "close"]
    assert [f.name for f in down] == ["pong", "text", "text", "text", "text", "close"]
    assert [f.final for f in up] == [False] + [True] * 5
    assert down[0].payload == up[1].payload == b"alive?"
    assert down[-1].payload == up[-1].payload == struct.pack("!H", 1000) + b"bye"
    # Fragments are one message.
    first, *_ = socket_messages(wire.events)
    assert first.json == {"id": 1, "submit": {"seconds": 0.2}} and len(first.frames) == 2
    # The connection is ended by the server.
    wire.wait_until(lambda events: any(e.kind == "end" for e in events))
    assert next(e.source for e in wire.events if e.kind == "end") == "server"
    record("websockets/frames.txt", result.stdout)
    if "server.py" in server.output or "Worker ready" in server.output:
        shown = [*up[:3], down[0], *down[1:3], up[4], down[4], up[-1], down[-1]]
        record("websockets/frames.html", hexdump(shown, "Frames on the wire, byte by byte"))


def test_the_plain_socket_client_sends_a_pong(run):
    """The client on a plain socket responds to a ping with a pong that has the same payload."""
    got_pong = threading.Event()

    def ping(ws):
        pong = ws.ping("are you?")
        for _ in ws:
            if pong.wait(30):
                got_pong.set()
            for _ in range(2):
                ws.send("{}")

    with library(ping) as url:
        result = run("websockets/frames.py", URL=url.replace("ws", "http"))
    assert result.returncode == 0, result.stderr
    assert "sent     pong: 8 bytes" in result.stdout and got_pong.is_set()


def test_header_sizes(port, record):
    """A frame header has 2, 4 or 10 bytes from a server and 6, 8 or 14 from a client: up to 125
    bytes of payload, up to 65,535, and above."""
    sizes = [0, 125, 126, 65_535, 65_536]
    with library(compression=None) as url, Tap(urlsplit(url).port, port()) as wire:
        with connect(address(wire.url), compression=None, max_size=None) as ws:
            for size in sizes:
                ws.send("x" * size)
                assert len(ws.recv(30)) == size
    found = [f for f in frames(wire.events) if not f.is_control]
    headers = {
        source: [f.header for f in found if f.source == source] for source in ("client", "server")
    }
    assert headers == {"client": [6, 6, 8, 8, 14], "server": [2, 2, 4, 4, 10]}
    by_hand = [len(FRAMES["encode"](1, b"x" * size)) - size for size in sizes]
    assert by_hand == headers["client"]
    rows = [
        {
            "payload, bytes": f"{size:,}",
            "header from a client": up,
            "header from a server": down,
        }
        for size, up, down in zip(sizes, headers["client"], headers["server"], strict=True)
    ]
    record("websockets/headers.md", table(rows))
    long = [f for f in found if f.size == 65_536]
    record("websockets/long.html", hexdump(long, "A frame with 64 bits of length"))


def test_clients_mask_and_servers_do_not(runs):
    """Every frame of a client is masked with a new key; no frame of a server is masked."""
    for key, run in runs.items():
        assert run.result().returncode == 0, (key, run.result().stderr)
        found = frames(run.wire.events)
        keys = [f.mask for f in found if f.source == "client"]
        assert len(set(keys)) == len(keys) and all(len(key) == 4 for key in keys)
        assert {f.mask for f in found if f.source == "server"} == {b""}


def test_an_unmasked_frame_closes_with_1002(server):
    """An unmasked frame of a client ends the connection with 1002, protocol error."""
    with raw(server) as (plain, _):
        plain.sendall(b"\x81\x02{}")
        opcode, payload, _ = FRAMES["decode"](plain.makefile("rb").read)
    assert opcode == 8 and struct.unpack("!H", payload[:2]) == (1002,)


def pieces(data, rng):
    """Cut bytes at random places, often into single bytes."""
    while data:
        cut = rng.choice([1, 1, 2, 3, 7, len(data)])
        yield data[:cut]
        data = data[cut:]


@pytest.mark.parametrize("seed", range(10))
def test_finds_frames_however_the_bytes_are_split(seed):
    """The frames found are the same wherever the stream was split, and those that the websockets
    library finds in it."""
    rng = random.Random(seed)
    payloads = [(1, b'{"id": 1}'), (9, b""), (2, rng.randbytes(300)), (1, b"x" * 70_000), (8, b"")]
    head = "GET / HTTP/1.1\r\nHost: a\r\n" + "".join(f"{k}: {v}\r\n" for k, v in UPGRADE.items())
    up = f"{head}\r\n".encode() + b"".join(FRAMES["encode"](*each) for each in payloads)
    up += FRAMES["encode"](1, b"incomplete")[:-1]
    events = [Event(0, 1, "client", "data", piece) for piece in pieces(up, rng)]
    events += [Event(1, 1, "server", "data", piece) for piece in pieces(WRONG_ACCEPT, rng)]
    found = frames(events)
    assert [(f.opcode, f.payload) for f in found] == payloads
    assert b"".join(f.data for f in found) == up[up.index(b"\r\n\r\n") + 4 : -15]
    reader = StreamReader()
    reader.feed_data(b"".join(f.data for f in found))
    for frame in found:
        parser = LibraryFrame.parse(reader.read_exact, mask=True)
        with pytest.raises(StopIteration) as stopped:
            next(parser)
        assert (stopped.value.value.opcode, stopped.value.value.data) == (
            frame.opcode,
            frame.payload,
        )


def test_a_hexdump_is_stable_and_true():
    """In a hexdump, masks and tokens are replaced by stand-ins of the same length, and the
    description of each byte holds for them."""
    text = b'{"id": 1, "status": "AAAAAAAAAAAAAAAAAAAAAA"}'
    found = []
    for token in "A", "B":
        data = FRAMES["encode"](1, text.replace(b"A", token.encode()))
        ((_, fields),) = framing.cut(data)
        found.append(framing.Frame(0, 1, "client", **fields))
    one, two = (framing.made_stable([frame])[0] for frame in found)
    assert one == two != found[0]
    ((_, fields),) = framing.cut(one.data)
    assert fields["payload"] == one.payload and len(one.data) == len(found[0].data)


def test_a_recorded_handshake_is_true():
    """In a recorded handshake the key is a stand-in, and the accept value is that of the
    stand-in."""
    text = "".join(
        f"Sec-WebSocket-Key: {key}\nSec-WebSocket-Accept: {accept_key(key)}\n"
        for key in (base64.b64encode(bytes([n] * 16)).decode() for n in range(3))
    )
    changed = stable(text)
    assert changed != text and len(changed) == len(text)
    pairs = [line.split()[1] for line in changed.splitlines()]
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        assert HANDSHAKE["accept_value"](key) == value


# Both at once


def test_messages_cross(server, port, record):
    """A request of the client and a push of the server are in transit at the same time: each was
    sent before the other arrived."""
    both = Barrier(2)
    held = []

    async def hold(event):
        """Hold the request and the push back until both have been sent."""
        found = socket_messages(wire.events)
        if (
            found
            and found[-1].data == event.data
            and found[-1].label in ("2 status", "pushed done")
        ):
            held.append(found[-1].label)
            await both.wait()

    with Tap(server.port, port(), on_data=hold) as wire:
        with connect(address(wire.url), compression=None) as ws:
            token = send_request(ws, {"id": 1, "submit": {"seconds": 1}})["token"]
            first = send_request(ws, {"id": 2, "status": token})
            second = json.loads(ws.recv(30))
    assert sorted(held) == ["2 status", "pushed done"]
    # The request was sent before the push arrived, so its response comes after the push.
    done = {"token": token, "status": "done", "result": 42}
    assert (first, second) == (done, {"id": 2} | done)
    found = socket_messages(wire.events)
    assert [m.label for m in found] == [
        "1 submit",
        "1 pending",
        "2 status",
        "pushed done",
        "2 done",
    ]
    # Where and when each was sent and came, in rows: the two in the middle cross.
    rows = [{"at": 0}, {"at": 1}, {"at": 2, "arrives": 5}, {"at": 2, "arrives": 5}, {"at": 6}]
    lanes = ["client", "server"]
    steps = [
        row | {"from": m.source, "to": lanes[m.source == "client"], "text": m.label}
        for m, row in zip(found, rows, strict=True)
    ]
    drawn = trace_of(lanes, steps)
    record("websockets/crossing.json", drawn)
    record(
        "websockets/crossing.svg",
        sequence_diagram(
            drawn,
            "Two messages that cross",
            "The client submits a job and receives pending. Then it requests the status of the "
            "job while the server pushes done: the two messages cross. The client receives the "
            "pushed message first, and the response to its request after it.",
        ),
    )
    shown = [f for f in frames(wire.events) if not f.is_control]
    record("websockets/crossing.html", transcript(shown[2:], "Two messages that cross"))


@pytest.mark.parametrize("name", SERVERS)
def test_polls_while_results_are_pushed(runs, record, name):
    """One client polls two jobs while they run, and receives the result of each when it is pushed;
    no response is confused with a push."""
    run = runs["client_duplex.py", name]
    result = run.result()
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "results: [42, 42]"
    found = socket_messages(run.wire.events)
    sent = [m.json["id"] for m in found if m.source == "client"]
    received = [m.json for m in found if m.source == "server"]
    assert sorted(m["id"] for m in received if "id" in m) == sent
    assert [m["status"] for m in received if "id" not in m] == ["done", "done"]
    # After the first push the client went on asking about the other job.
    labels = [m.label for m in found]
    assert any(label.endswith("status") for label in labels[labels.index("pushed done") :])
    record("websockets/client_duplex.txt", result.stdout)


def test_many_requests_at_once(talk):
    """A client may send twenty requests before it receives a response; each response has the id of
    its request."""
    token = send_request(talk, {"id": "first", "submit": {"seconds": 60}})["token"]
    for number in range(20):
        talk.send(json.dumps({"id": number, "status": token}))
    assert [json.loads(talk.recv(30))["id"] for _ in range(20)] == list(range(20))


def test_responses_in_any_order(run):
    """Responses in another order reach their requests, by their ids."""
    pending = {"status": "pending"}

    def reverse(ws):
        requests = [json.loads(ws.recv()) for _ in range(2)]
        tokens = {q["id"]: f"job of {q['submit']['seconds']} s" for q in requests}
        for number in reversed(tokens):
            ws.send(json.dumps({"id": number, "token": tokens[number]} | pending))
        for token in tokens.values():
            ws.send(json.dumps({"token": token, "status": "done", "result": token}))
        for _ in ws:
            pass

    with library(reverse) as url:
        result = run("websockets/client_duplex.py", URL=url.replace("ws", "http"), SECONDS=2)
    assert result.returncode == 0, result.stderr
    assert "['job of 2.0 s', 'job of 1.1 s']" in result.stdout


def test_wrong_the_next_message_is_not_the_response(server, run, record):
    """A client that takes the next message for the response reports that its long job is done when
    a short one is."""
    result = run("websockets/wrong_next_message.py", URL=server.url, SECONDS=2)
    assert result.stdout == "the long job is done\n"
    record("websockets/wrong_next_message.txt", result.stdout)


def test_the_response_has_the_id_of_the_request(server, run, record):
    """A client that compares ids receives the status of its long job, though a push comes first."""
    result = run("websockets/client_requests.py", URL=server.url, SECONDS=2)
    assert result.stdout == "the long job is pending\n"
    record("websockets/client_requests.txt", result.stdout)


def test_a_close_fails_every_request(run):
    """When the server closes the connection with requests open, the client reports it and ends."""

    def leave(ws):
        ws.recv()

    with library(leave) as url:
        for name in "client.py", "client_duplex.py":
            result = run(f"websockets/{name}", URL=url.replace("ws", "http"))
            assert result.returncode == 1
            assert "cannot reach" in result.stderr and len(result.stderr.splitlines()) == 1


def test_duplicates_are_ignored(run):
    """A duplicate response or push is ignored."""

    def twice(ws):
        responses = []
        for request in map(json.loads, ws):
            token = request.get("status", f"job {request['id']}")
            responses.append({"id": request["id"], "token": token, "status": "pending"})
            sent = [responses[-1]] * 2
            if len(responses) == 3:  # the first two responses again
                sent += responses[:2]
                sent += [a | {"status": "done", "result": 42} for a in responses[:2]] * 2
            for message in sent:
                if message["status"] == "done":
                    message = {key: message[key] for key in message if key != "id"}
                ws.send(json.dumps(message))

    with library(twice) as url:
        result = run("websockets/client_duplex.py", URL=url.replace("ws", "http"), INTERVAL=0.1)
    assert result.stdout.endswith("results: [42, 42]\n"), result.stderr


@pytest.mark.parametrize("name", ["client.py", "client_duplex.py"])
@pytest.mark.parametrize(
    "message",
    ["<h1>It works!</h1>", "[" * 100_000, "[]", '{"id": 1}', '{"id": 1, "error": "send less"}'],
)
def test_an_unexpected_message_ends_the_client(run, name, message):
    """A client that receives an unexpected message ends with one line that names it."""

    def nonsense(ws):
        ws.recv()
        ws.send(message)
        for _ in ws:
            pass

    with library(nonsense) as url:
        result = run(f"websockets/{name}", URL=url.replace("ws", "http"))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "is not a job server" in result.stderr


def test_a_failed_job_fails_the_client(run):
    """A client whose job failed exits with an error."""

    def fail(ws):
        ws.recv()
        ws.send('{"id": 1, "token": "x", "status": "pending"}')
        ws.send('{"token": "x", "status": "failed", "error": "no paper"}')
        for _ in ws:
            pass

    with library(fail) as url:
        result = run("websockets/client.py", URL=url.replace("ws", "http"))
    assert (result.returncode, result.stderr) == (1, "the job failed\n")


def test_a_push_of_another_job_is_ignored(run):
    """A client that waits for one job ignores the push of another."""

    def another_first(ws):
        ws.recv()
        ws.send('{"id": 1, "token": "mine", "status": "pending"}')
        ws.send('{"token": "another", "status": "done", "result": 41}')
        ws.send('{"token": "mine", "status": "done", "result": 42}')
        for _ in ws:
            pass

    with library(another_first) as url:
        result = run("websockets/client.py", URL=url.replace("ws", "http"))
    assert json.loads(result.stdout.splitlines()[-1])["token"] == "mine"


# Two servers


def test_compression_is_negotiated(servers):
    """The client offers compression; the websockets library accepts the offer, Sanic does not."""
    accepted = {}
    for name, server in servers.items():
        with connect(address(server.url)) as ws:
            offered = ws.request.headers["Sec-WebSocket-Extensions"]
            accepted[name] = ws.response.headers.get("Sec-WebSocket-Extensions", "")
        assert offered.startswith("permessage-deflate")
    assert accepted["server.py"] == ""
    assert accepted["server_websockets.py"].startswith("permessage-deflate")


def test_what_compression_saves(servers, tap, record):
    """The same response three times: compressed it is smaller, and smaller still when the one
    before it was similar."""
    sizes = {}
    request = json.dumps({"id": 7, "submit": {"seconds": "soon"}})
    for compression in None, "deflate":
        wire = tap(servers["server_websockets.py"])
        with connect(address(wire.url), compression=compression) as ws:
            responses = {json.dumps(send_request(ws, request)) for _ in range(3)}
        assert len(responses) == 1
        sizes[compression] = [
            len(m.data) for m in socket_messages(wire.events) if m.source == "server"
        ]
    plain, small = sizes[None], sizes["deflate"]
    assert len(set(plain)) == 1
    assert plain[0] > small[0] > small[1] >= small[2]
    rows = [
        {"response": which, "bytes plain": one, "bytes compressed": other}
        for which, one, other in zip(("first", "second", "third"), plain, small, strict=True)
    ]
    record("websockets/compression.md", table(rows))


def test_where_the_servers_differ(servers, record):
    """The limits and defaults of the two libraries, as read from the installed packages and seen in
    a handshake."""
    library_has = inspect.signature(serve_asyncio).parameters
    sanic_has = inspect.signature(websocket_protocol.WebSocketProtocol).parameters
    route_has = inspect.signature(Sanic.websocket).parameters
    seconds, size = "{:g} s".format, "{:,} bytes".format

    def default(name):
        return library_has[name].default

    plain = {n: httpx2.get(f"{s.url}/jobs/socket") for n, s in servers.items()}
    closes = {n: r.headers["Connection"] for n, r in plain.items()}
    takes = {
        name: "yes" if name in library_has else "no" for name in ("subprotocols", "origins")
    } | {
        f"sanic {name}": "yes" if name in route_has else "no"
        for name in ("subprotocols", "origins")
    }
    rows = [
        (
            "ping every",
            seconds(DEFAULT_CONFIG["WEBSOCKET_PING_INTERVAL"]),
            seconds(default("ping_interval")),
        ),
        (
            "pong within",
            seconds(DEFAULT_CONFIG["WEBSOCKET_PING_TIMEOUT"]),
            seconds(default("ping_timeout")),
        ),
        ("largest message", size(DEFAULT_CONFIG["WEBSOCKET_MAX_SIZE"]), size(default("max_size"))),
        (
            "handshake within",
            seconds(DEFAULT_CONFIG["REQUEST_TIMEOUT"]),
            seconds(default("open_timeout")),
        ),
        (
            "close within",
            seconds(sanic_has["websocket_timeout"].default),
            seconds(default("close_timeout")),
        ),
        ("frames queued for the handler", "–", f"{default('max_queue')}"),
        ("`send` waits above", "–", size(default("write_limit"))),
        ("compression", "none", f"`{default('compression')}`"),
        ("selects a subprotocol", takes["sanic subprotocols"], takes["subprotocols"]),
        ("checks `Origin`, if configured", takes["sanic origins"], takes["origins"]),
        ("after a 426 the connection", closes["server.py"], closes["server_websockets.py"]),
    ]
    record(
        "websockets/differences.md",
        table([{"default": what, "Sanic": one, "websockets": other} for what, one, other in rows]),
    )
    assert "compression" not in sanic_has
    assert takes == {
        "subprotocols": "yes",
        "origins": "yes",
        "sanic subprotocols": "yes",
        "sanic origins": "no",
    }


@pytest.fixture
def small(tmp_path, port):
    """Return begin(text) -> Program: a small server that a proof needs and no reader."""
    begun = []

    def begin(text):
        path = tmp_path / "small.py"
        path.write_text(text)
        number = port()
        program = Program([sys.executable, path], tmp_path, environment(PORT=number), number)
        begun.append(program)
        return program.wait_for(*READY)

    yield begin
    for program in begun:
        program.send(signal.SIGTERM)
        program.wait()


SANIC = """
import asyncio, os
from sanic import Sanic
app = Sanic("small")
@app.websocket("/jobs/socket")
async def handler(request, ws):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
app.run(port=int(os.environ["PORT"]), single_process=True)
"""
LIBRARY = """
import asyncio, os
from websockets.asyncio.server import serve
async def handler(ws):
    await ws.wait_closed()
    await asyncio.sleep(0.2)
    print("goes on", flush=True)
async def main():
    async with serve(handler, "127.0.0.1", int(os.environ["PORT"])) as server:
        print("server listening on", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


def test_sanic_alone_omits_the_upgrade_header(small):
    """Without an error handler, Sanic's 426 lacks the `Upgrade` header and logs a traceback."""
    program = small(SANIC)
    response = httpx2.get(f"{program.url}/jobs/socket")
    assert response.status_code == 426
    assert "Upgrade" not in response.headers
    program.wait_for("Traceback")


def test_sanic_cancels_the_handler_on_disconnect_and_websockets_does_not(small):
    """When a client disconnects, Sanic cancels its handler; the handler of the websockets library
    keeps running."""
    for text, words in (SANIC, "cancelled"), (LIBRARY, "goes on"):
        program = small(text)
        with connect(address(program.url)):
            pass
        program.wait_for(words)


def test_sanic_uses_the_websockets_protocol_code():
    """Sanic implements the protocol with the code of the websockets library."""
    assert websocket_protocol.ServerProtocol is ServerProtocol


def test_http_and_websockets_on_one_port(live):
    """An application in Sanic serves pages and WebSockets on one port, and under a prefix."""
    assert httpx2.get(live.url).headers["Content-Type"].startswith("text/html")
    with connect(address(f"{live.url}/live/websockets")) as ws:
        assert send_request(ws, {"id": 1, "submit": {"seconds": 0}})["status"] == "pending"


# What it costs


def test_from_the_second_message_a_websocket_costs_less(sanic, start, tap, record):
    """To receive a single result, a WebSocket costs more bytes than a held request; from the second
    on it costs less."""
    # A held request and its response have as many bytes as those of a poll after the end.
    prefer = {"Prefer": "wait=30"}
    http, ws = tap(start("long_polling/server.py")), tap(sanic)
    with httpx2.Client(base_url=http.url) as client:
        for _ in range(3):
            submitted = client.post("/jobs", json={"seconds": 0})
            done = client.get(submitted.headers["Location"], headers=prefer)
            assert done.json()["status"] == "done"
    with connect(address(ws.url)) as socket:
        for number in range(1, 4):
            send_request(socket, {"id": number, "submit": {"seconds": 0}})
            assert json.loads(socket.recv(30))["status"] == "done"

    def size(found):
        return sum(len(each.data) for each in found)

    # One job by HTTP: POST, 202, GET, 200.
    exchanged = messages(http.events)
    post, get = size(exchanged[:2]), size(exchanged[2:4])
    assert size(exchanged) == 3 * (post + get)
    # One by WebSocket: request, response, push. Before all, the handshake; at the end, closes.
    talked = socket_messages(ws.events)
    exchange, push = size(talked[:2]), size(talked[2:3])
    assert size(talked) == 3 * (exchange + push)
    closes = [f for f in frames(ws.events) if f.is_control]
    fixed = size(messages(ws.events)) + size(closes)
    assert [f.name for f in closes] == ["close", "close"]
    assert fixed + size(talked) == ws.bytes("client") + ws.bytes("server")

    def row(n):
        return {
            "n": n,
            "n held requests": n * get,
            "n pushes on one WebSocket": fixed + n * push,
            "n jobs by POST and held request": n * (post + get),
            "n jobs on one WebSocket": fixed + n * (exchange + push),
        }

    rows = [row(n) for n in (1, 2, 3, 10, 100)]
    record("websockets/break_even.md", table(rows))
    parts = {
        "WebSocket: handshake, both ways": size(messages(ws.events)),
        "WebSocket: closing, both ways": size(closes),
        "WebSocket: one request and its response": exchange,
        "WebSocket: one push": push,
        "HTTP: `POST` and its response": post,
        "HTTP: held `GET` and its response": get,
    }
    record("websockets/parts.md", table([{"part": k, "bytes": v} for k, v in parts.items()]))
    assert size(messages(ws.events)) > get > 4 * push
    assert row(1)["n held requests"] < row(1)["n pushes on one WebSocket"]
    assert row(2)["n held requests"] > row(2)["n pushes on one WebSocket"]
    # Where the socket takes the job as well, it saves the POST, and costs less at once.
    assert row(1)["n jobs by POST and held request"] > row(1)["n jobs on one WebSocket"]


def test_costs(runs, record):
    """The same job on both servers: Sanic declines the compression that the client offers, the
    websockets library accepts it."""
    rows = []
    for name in SERVERS:
        run = runs["client.py", name]
        assert run.result().returncode == 0
        found = socket_messages(run.wire.events)
        rows.append(
            {"server": f"`{name}`"}
            | costs(run.wire)
            | {"messages up": sum(m.source == "client" for m in found)}
            | {"messages down": sum(m.source == "server" for m in found)}
        )
    assert [r["round trips"] for r in rows] == [3, 3]
    # Compressed sizes depend on the token.
    rows[1] |= {"bytes up": "–", "bytes down": "–"}
    record("websockets/costs.md", table(rows))


# The browser


@both_browsers_for("server", SERVERS, indirect=True)
def test_the_browser_sends_and_receives(open_client_page, server):
    """The page, opened as a file, submits a job, requests its status and receives its result on one
    connection."""
    page = open_client_page(server.url)
    assert page.is_disabled("#submit") and page.is_disabled("#status")
    page.click("#open")
    enter(page.locator("#seconds"), "3")  # enough for a poll while it runs
    page.click("#submit")
    page.wait_for_selector("text=response:")
    page.click("#status")
    page.wait_for_selector('text=push: {"token"')
    page.click("#status")
    page.wait_for_selector('text={"id": 3')
    page.click("#close")
    page.wait_for_selector("text=closed: 1000")
    shown = page.locator("#messages li").all_inner_texts()
    assert [line.split(":")[0] for line in shown] == [
        "open",
        "response",
        "response",
        "push",
        "response",
        "closed",
    ]
    assert page.is_enabled("#open") and page.is_disabled("#status")


def test_the_browser_reports_that_it_cannot_connect(open_client_page, port):
    """If no server listens, the page shows code 1006 and can try again."""
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#open")
    page.wait_for_selector("text=closed: 1006")
    assert page.is_enabled("#open")


def test_the_browser_shows_an_error_response(open_client_page, server):
    """The page shows the error of a response, and the connection stays open."""
    page = open_client_page(server.url)
    page.click("#open")
    page.wait_for_selector("text=open")
    page.evaluate("document.getElementById('seconds').max = 99")
    enter(page.locator("#seconds"), "61")
    page.click("#submit")
    page.wait_for_selector("text=0 to 60")
    assert page.is_enabled("#submit")


def test_what_a_browser_does_not_offer(local):
    """A browser's `WebSocket` has no ping and no way to set a header."""
    names = local.evaluate("Object.getOwnPropertyNames(WebSocket.prototype)")
    assert {"send", "close", "bufferedAmount", "protocol"} <= set(names)
    assert not [name for name in names if "ping" in name.lower() or "header" in name.lower()]
    assert local.evaluate("WebSocket.length") == 1  # url; protocols may follow, and nothing else
    assert "cannot be" in local.evaluate(
        """(url) => { try { new WebSocket(url, { headers: { "X": "1" } }); } catch (error) {
             return "cannot be: " + error.name; } return "can be"; }""",
        "ws://127.0.0.1:9",
    )


@both_browsers
def test_a_browser_hides_the_cause_of_a_failed_handshake(local, sanic, port):
    """A browser reports 1006 and no more, whether a handshake got `404` or no server listens."""
    for url in f"{address(sanic.url)}/nothing", f"ws://127.0.0.1:{port()}/":
        assert local.evaluate(OPEN, [url]) == [1006, "", "isTrusted"]


def test_a_browser_answers_pings(local):
    """A browser responds to a ping with a pong; no script of the page sees it."""
    got_pong = threading.Event()

    def ping(ws):
        if ws.ping().wait(30):
            got_pong.set()
        ws.send("now")
        for _ in ws:
            pass

    with library(ping) as url:
        state = local.evaluate(
            """(url) => new Promise((tell) => {
                 const socket = new WebSocket(url);
                 socket.onmessage = ({ data }) => { tell(data); socket.close(); };
                 socket.onclose = ({ code }) => tell(code);
               })""",
            url,
        )
    assert state == "now" and got_pong.is_set()


# The panel


def test_the_panel_is_live(live, open_page):
    """Served by `make serve`, the panel runs the printed client against the printed server, and
    draws each message."""
    page = panel(open_page(f"{live.url}/techniques/websockets/"))
    client = page.frame_locator(".panel iframe")
    client.locator("#open").click()
    client.get_by_text("open", exact=True).wait_for()
    enter(client.locator("#seconds"), "1")
    client.locator("#submit").click()
    client.get_by_text("response:").wait_for()
    client.locator("#status").click()
    client.get_by_text("push:").wait_for()
    client.locator("#close").click()
    client.get_by_text("closed: 1000").wait_for()
    # The upgrade and two requests; a response to each, and the push.
    assert page.locator(".panel-wire polygon.up").count() == 3
    assert page.locator(".panel-wire polygon.down").count() == 4
    assert "pushed done" in page.locator(".panel-wire text.down").all_text_contents()
    assert page.locator(".panel-wire rect.late").count() == 0


def test_the_panel_replays(static, open_page):
    """On a static host the panel replays the recorded run: the push comes when the job ends."""
    page = replay(open_page, f"{static.url}/techniques/websockets/")
    assert "pushed done" in page.locator(".panel-wire text.down").all_text_contents()
    assert page.locator(".panel-wire rect.late").count() == 0
