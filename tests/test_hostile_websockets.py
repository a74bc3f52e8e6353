"""WebSocket servers stay up, and level, whatever a client sends.

Every Sanic server beyond the quick starts contains the same class, HardenedWebSocketProtocol,
which repairs five faults of Sanic; the last proofs fail as soon as a release has repaired them.
"""

import re
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from .support.frames import cut
from .support.hostile import PROBE, Level, assert_level, flood, memory, reset, tasks
from .support.http_servers import SITE, Starter
from .support.messages import table
from .support.processes import (
    EXAMPLES,
    READY,
    TIMEOUT,
    Program,
    assert_clean_output,
    copy_isolated,
    environment,
    wait_until,
)
from .support.sockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    frame,
    handshake,
)
from .support.websocket_servers import (
    HARDENED,
    SERVERS,
    WebSocketServer,
    start_server,
    websocket_servers,
)

CLASS = re.compile(r"(?s)# --8<-- \[start:protocol\]\n.*# --8<-- \[end:protocol\]\n")
QUICK_STARTS = {
    "debugging/server.py",
    "load_balancing/server.py",
    "reconnecting/server.py",
    "scaling_out/server.py",
    "websockets/server.py",
    "websockets/server_websockets.py",
}


def named(servers):
    return [pytest.param(server, id=server.name) for server in servers]


@pytest.fixture(scope="module", params=named(HARDENED))
def hardened(request, start_shared, assembled_shared):
    """Return each server that contains the class: (its row of the table, the running program)."""
    row = request.param
    program = start_server(row, start_shared, assembled_shared, **PROBE)
    plain_get(row, program)  # its loop runs, so that its own tasks are counted from the beginning
    yield row, program
    program.stop()  # before the next one starts


@pytest.fixture(scope="module", params=named(SERVERS))
def each(request, start_shared, assembled_shared):
    """Return each server of WebSockets, quick starts too: (its row of the table, the program)."""
    row = request.param
    # Sanic itself loses tasks: see the last proofs.
    options = PROBE | {"errors_expected": row.name in QUICK_STARTS}
    program = start_server(row, start_shared, assembled_shared, **options)
    assert_serves(row, program)
    yield row, program
    program.stop(errors_expected=row.name in QUICK_STARTS)  # before the next one starts


# Floods


@pytest.mark.parametrize("reading", [False, True], ids=["unread", "read"])
def test_memory_and_tasks_stay_level_under_a_flood(hardened, reading):
    """A client that sends messages of 9 kB as fast as it can, and vanishes with messages in
    flight, leaves memory, tasks and descriptors of the server as they were."""
    row, program = hardened
    message = frame(TEXT, row.message(9_000).encode())
    before = Level.of(program)
    client = row.open(program)
    flood(client.socket, message, reading=reading)
    assert memory(program) < before.memory + 24_000
    assert tasks(program) < before.tasks + 12  # those of one connection, not of each read
    reset(client.socket)
    assert_level(program, before)
    assert_serves(row, program)


def assert_serves(row, program):
    """Check that an honest client is served: it connects, and its ping gets a pong."""
    with row.open(program) as client:
        client.send(frame(PING, b"still there?"))
        client.wait_for(PONG, b"still there?")


def test_pings_and_closes_pass_under_a_flood(hardened):
    """Pings between messages of a flood get their pongs in order, and the Close at its end gets a
    Close."""
    row, program = hardened
    message = frame(TEXT, row.message(500).encode())
    with row.open(program) as client:
        for number in range(100):
            client.send(*[message] * 5, frame(PING, b"%d" % number))
            client.wait_for(PONG, b"%d" % number)
        client.send(frame(CLOSE, (1000).to_bytes(2)))
        assert client.close_code() == 1000


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_frames_arrive_in_any_pieces(hardened, pieces):
    """A message and a ping are received whether they arrive in one read or byte by byte."""
    row, program = hardened
    data = frame(TEXT, row.message(500).encode()) + frame(PING, b"whole")
    with row.open(program) as client:
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
            if pieces < 100:
                time.sleep(0.01)  # so that each is a read of its own
        client.wait_for(PONG, b"whole")


# Messages that are no messages

FIELDS = ["ack", "after", "id", "status", "submit", "text", "token"]
VALUES = [
    "[" * 9_000,
    "[" * 100_000,
    "NaN",
    "-1e400",
    "9" * 5_000,
    r'"\ud800"',
    r'"\u001b[2J\u0000"',
    "true",
    "null",
    "{}",
    "[1]",
]
HOSTILE = [
    *VALUES,
    *[f'{{"{field}": {value}}}' for field in FIELDS for value in VALUES],
    *[f'{{"submit": {{"seconds": {value}}}}}' for value in VALUES],
    "",
    "{",
    "\x1b[2J\0",
]


def outcome_of(client, mark):
    """Read until a pong with this payload, or a Close; return its code, or None."""
    for opcode, payload in client.frames():
        if (opcode, payload) == (PONG, mark):
            return None
        if opcode == CLOSE:
            return int.from_bytes(payload[:2])
    return 1006


def test_hostile_messages_are_1008(each):
    """An invalid message, such as JSON that is nested thousands of levels
    deep, NaN, a number of 5,000 digits, half a character, a bool in place of a number or a binary
    one, is ignored, gets an error or is closed with 1008, 1009 if it is too long, or 44xx; the
    server continues to receive, prints no traceback, and, beyond the quick starts, keeps no task
    and no descriptor."""
    row, program = each
    before = Level.of(program)
    client = row.open(program)
    frames = [frame(TEXT, text.encode()) for text in HOSTILE] + [frame(BINARY, b"\xff\0")]
    for number, message in enumerate(frames):
        mark = b"%d" % number
        with suppress(OSError):
            client.send(message, frame(PING, mark))
        if code := outcome_of(client, mark):
            assert code in {1008, 1009} or 4400 <= code < 4500, (code, message[:60])
            client.socket.close()
            client = row.open(program)
    client.socket.close()
    assert_serves(row, program)
    assert "Traceback" not in program.output
    if row.name not in QUICK_STARTS:
        assert_clean_output(program.output)
        assert_level(program, before)


RESUMING = [row for row in SERVERS if 'get("after"' in (EXAMPLES / row.name).read_text()]
# A number that is none, too large, or of another script; neither is the id of an event.
IDS = ["9" * 5_000, "99999999999999999999-0", "%D9%A3", "-1", "1e3", "NaN", "x", "%00", "1%0A"]


@pytest.mark.parametrize("each", named(RESUMING), indirect=True)
def test_an_invalid_id_is_1008_or_44xx(each):
    """A WebSocket that is to resume after an invalid id, such as a number of 5,000 digits or of
    Arabic digits, is closed with 1008 or 44xx, after which no client tries again, and without a
    traceback."""
    row, program = each
    for value in IDS:
        path = f"{row.path.partition('?')[0]}?user=ann&topic=news&after={value}"
        with RawWebSocket(program.port, path, row.prepare(program)) as client:
            code = client.close_code()
        assert code == 1008 or 4400 <= code < 4500, (code, value[:60])
    assert_clean_output(program.output)


# Invalid text, and messages that do not end

INVALID = {
    "one frame": [frame(TEXT, b"\xff")],
    "two fragments": [frame(TEXT, b"abc", final=False), frame(CONTINUATION, b"\xff")],
    "an unfinished character": [frame(TEXT, b"ab\xc3")],
    "a surrogate": [frame(TEXT, b"\xed\xa0\x80")],
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_utf8_is_1007(hardened, name):
    """The server closes with 1007 on a text message that is not valid UTF-8, and appends nothing of
    it to a later message."""
    row, program = hardened
    before = Level.of(program)
    with row.open(program) as client:
        client.send(*INVALID[name])
        assert client.close_code() == 1007
    assert_level(program, before)
    assert_serves(row, program)


def test_invalid_utf8_does_not_add_up(hardened):
    """A thousand broken messages of 9 kB in one go do not become one message, and take no
    memory."""
    row, program = hardened
    before = Level.of(program)
    with row.open(program) as client:
        broken = frame(TEXT, b"x" * 9_000, final=False) + frame(CONTINUATION, b"\xff")
        with suppress(OSError):
            client.send(*[broken] * 1_000)
        assert client.close_code() in {1007, 1006}  # 1006: the rest of it caused a reset
    assert_level(program, before)


def test_endless_fragments_are_1009(hardened):
    """A message of more than 4,096 fragments is too big (1009), even if each one is empty."""
    row, program = hardened
    with row.open(program) as client:
        client.send(frame(TEXT, b"", final=False), *[frame(CONTINUATION, final=False)] * 4096)
        assert client.close_code() == 1009


# More clients than descriptors

# The gateway of scaling out has a proof of its own, in which events are delivered as well.
LIMITED = [
    row
    for row in SERVERS
    if "SPARE_FILES" in (EXAMPLES / row.name).read_text() and row.name != "scaling_out/gateway.py"
]


@pytest.mark.parametrize("row", named(LIMITED))
def test_more_clients_than_descriptors(row, tmp_path, port, assembled, many_files):
    """A server that may open 1,024 files accepts some 870 of 1,200 clients, rejects the others with
    503 or 1013, responds to other requests meanwhile, keeps each client that it has accepted, and
    prints no traceback."""
    program = start_server(row, limited(tmp_path, port), assembled, MAX_FILES=1024)
    with ExitStack() as stack:
        stack.callback(program.stop)
        clients = [stack.enter_context(raw_client(program)) for _ in range(800)]
        for client in clients:
            client.sendall(handshake(program.port, row.path))
        results = [result_of(client) for client in clients]
        for _ in range(400):
            clients.append(client := stack.enter_context(raw_client(program)))
            client.sendall(handshake(program.port, row.path))
            results.append(result_of(client))
        assert set(results) <= {"open", 503, 1013}
        assert 850 <= results.count("open") <= 874
        if ".websocket(" in (EXAMPLES / row.name).read_text():
            assert httpx2.get(f"{program.url}/nothing").status_code == 404
        for client, result in zip(clients, results, strict=True):
            if result == "open":
                client.sendall(frame(PING, b"still there?"))
                assert pong_or_close(client, b"still there?") == "open"
        assert_clean_output(program.output)


def limited(folder, port):
    """Return a function like the fixture `start`, whose programs may open 1,024 files."""

    def start(name, **variables):
        home = copy_isolated(EXAMPLES / name, folder / "limited")
        env = environment(PORT=(number := port()), **variables)
        command = f"ulimit -n 1024; exec {sys.executable} {Path(name).name}"
        return Program(["sh", "-c", command], home, env, number).wait_for(*READY)

    return start


def raw_client(program):
    return socket.create_connection(("127.0.0.1", program.port), TIMEOUT)


def result_of(client):
    """Return "open" if a handshake is accepted, or the status or the code that rejects it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, head
        head += byte
    if (status := int(head.split()[1])) != 101:
        return status
    client.sendall(frame(PING, b"open?"))
    return pong_or_close(client, b"open?")


def pong_or_close(client, payload):
    """Read frames up to the pong, or the Close; return "open" or the code."""
    data = b""
    while True:
        for _, fields in cut(data):
            if (fields["opcode"], fields["payload"]) == (PONG, payload):
                return "open"
            if fields["opcode"] == CLOSE:
                return int.from_bytes(fields["payload"][:2])
        more = client.recv(65536)
        assert more, data
        data += more


@pytest.mark.parametrize("row", named(LIMITED))
def test_silent_clients_take_no_descriptor_too_many(row, tmp_path, port, assembled, many_files):
    """A server that may open 1,024 files, and to which 1,200 clients send half a handshake,
    prints no traceback, and serves the next client once they have left."""
    program = start_server(row, limited(tmp_path, port), assembled, MAX_FILES=1024)
    with ExitStack() as stack:
        stack.callback(program.stop)
        with ExitStack() as silent:
            for _ in range(1200):
                client = silent.enter_context(raw_client(program))
                with suppress(ConnectionError):
                    client.sendall(handshake(program.port, row.path)[:-2])
        wait_until(lambda: serves(row, program))
        assert_clean_output(program.output)


def serves(row, program):
    """Return whether a client is served now."""
    with suppress(AssertionError, ConnectionError):
        assert_serves(row, program)
        return True


@pytest.mark.parametrize("row", named(LIMITED))
def test_a_rejected_handshake_takes_no_place(row, start, assembled):
    """A handshake that is rejected, or a request without Upgrade, takes none of the places of a
    server with room for one client."""
    extra = {"MAX_CONNECTIONS": 1, "MAX_FILES": 61, "SPARE_FILES": 60}
    program = start_server(row, start, assembled, **extra)
    for _ in range(3):
        assert plain_get(row, program).status_code in {400, 426}
        assert rejection(row, program, Sec_WebSocket_Version="8").status_code == 400
    with row.open(program) as client:
        client.send(frame(PING, b"in"))
        client.wait_for(PONG, b"in")


# Requests that open no WebSocket


def rejection(row, program, **headers):
    """Return the response to a handshake with some of its headers changed; None drops one."""
    valid = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    valid |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} | row.prepare(program)
    changed = valid | {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in changed.items() if value is not None}
    return httpx2.get(program.url + row.path, headers=sent)


def plain_get(row, program):
    """Return the response to a plain GET on a WebSocket route."""
    return rejection(
        row, program, Connection="keep-alive", Upgrade=None, Sec_WebSocket_Version=None
    )


def test_a_plain_get_is_426(hardened):
    """The server responds to a plain GET on a WebSocket's path with 426 Upgrade Required and an
    Upgrade header that names WebSocket, without a traceback."""
    row, program = hardened
    response = plain_get(row, program)
    assert response.status_code == 426
    assert response.headers["Upgrade"] == "websocket"
    assert_clean_output(program.output)


@pytest.mark.parametrize("version", ["8", "14", "thirteen", None])
def test_a_rejected_version_names_the_right_one(hardened, version):
    """A handshake of another version is rejected with a Sec-WebSocket-Version of 13."""
    row, program = hardened
    response = rejection(row, program, Sec_WebSocket_Version=version)
    assert response.status_code == 400
    assert response.headers["Sec-WebSocket-Version"] == "13"
    assert_clean_output(program.output)


@pytest.mark.parametrize(
    "name", ["reliable_websockets/server_websockets.py", "holding_connections/server_websockets.py"]
)
def test_servers_on_websockets_name_the_version(start, name):
    """The servers on the websockets library beyond the quick start reject a handshake of another
    version with a Sec-WebSocket-Version of 13 as well."""
    (row,) = [row for row in SERVERS if row.name == name]
    program = start_server(row, start, None)
    response = rejection(row, program, Sec_WebSocket_Version="8")
    assert (response.status_code, response.headers["Sec-WebSocket-Version"]) == (400, "13")


ON_WEBSOCKETS = [
    row for row in SERVERS if "websockets.asyncio.server" in (EXAMPLES / row.name).read_text()
]
HARDENED_ON_WEBSOCKETS = [row for row in ON_WEBSOCKETS if row.name not in QUICK_STARTS]


def pipelined(program, path):
    """Return pairs of requests that arrive together: plain ones, and handshakes."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 2, handshake(program.port, path) * 2


@pytest.mark.parametrize("row", named(HARDENED_ON_WEBSOCKETS))
def test_pipelined_requests_are_closed(row, start, assembled):
    """A server on the websockets library beyond the quick start closes a connection on which two
    requests arrive together, without a response and without a traceback."""
    program = start_server(row, start, assembled, **PROBE)
    assert_serves(row, program)
    before = Level.of(program)
    for requests in pipelined(program, row.path):
        with raw_client(program) as client:
            client.sendall(requests)
            with suppress(ConnectionError):
                assert client.recv(65536) == b""
            assert_serves(row, program)  # later than the response that the first would get
    assert_clean_output(program.output)
    assert_level(program, before)


@pytest.mark.parametrize("value", ["\x01", "€", "\udcff"])
def test_an_invalid_header_is_400(hardened, value):
    """A handshake with a header whose value is not Latin-1, or has control characters, is rejected
    with 400, without a traceback."""
    row, program = hardened
    assert with_header(row, program, value) == 400
    assert_clean_output(program.output)


def with_header(row, program, value):
    """Return the status of a handshake that has one header more."""
    data = handshake(program.port, row.path)[:-2]
    for name, known in row.prepare(program).items():
        data += f"{name}: {known}\r\n".encode()
    data += b"X-Name: %s\r\n\r\n" % value.encode(errors="surrogateescape")
    with socket.create_connection(("127.0.0.1", program.port), TIMEOUT) as client:
        client.sendall(data)
        return int(client.recv(65536).split()[1])


# The text is the same everywhere


def protocol_of(name):
    """Return the class as a server has it."""
    return CLASS.search((EXAMPLES / name).read_text())[0]


def test_the_protocol_has_the_same_text_everywhere():
    """HardenedWebSocketProtocol has the same text in each server that contains it, and each gives
    it to app.run."""
    texts = {row.name: protocol_of(row.name) for row in HARDENED}
    assert len(set(texts.values())) == 1
    for name in texts:
        assert "protocol=HardenedWebSocketProtocol," in (EXAMPLES / name).read_text()


def test_the_site_has_the_protocol(start, assembled, tmp_path, port):
    """The server of this site, which mounts a quick start, closes a text that is not valid UTF-8
    with 1007, and keeps memory and tasks level under a flood."""
    starter = Starter(start, assembled, tmp_path, port)
    program = starter(SITE, **PROBE)
    row = WebSocketServer(SITE, "/live/websockets/jobs/socket")
    with row.open(program) as client:
        client.send(*INVALID["two fragments"])
        assert client.close_code() == 1007
    before = Level.of(program)
    client = row.open(program)
    flood(client.socket, frame(TEXT, b"x" * 9_000))
    reset(client.socket)
    assert_level(program, before)
    assert_serves(row, program)
    starter.stop()


def test_every_sanic_server_of_websockets_has_the_protocol():
    """Every Sanic server that accepts WebSockets contains the class, quick starts aside."""
    found = websocket_servers()
    assert {row.name for row in SERVERS} == found
    without = {
        name for name in found - QUICK_STARTS if ".websocket(" in (EXAMPLES / name).read_text()
    }
    assert without <= {row.name for row in HARDENED}


# The three servers of reliable WebSockets compared


# A handler that takes 5 ms for each message: one that takes none can keep up with the client.
SLOW = {
    "async for _ in ws:\n        pass": "async for _ in ws:\n        await asyncio.sleep(0.005)"
}


def test_the_servers_compared(unrepaired, start, record):
    """During a flood by the same hostile client, while each message takes 5 ms, Sanic's own
    protocol keeps more than 50 MB and more than 100 tasks; the repaired one and the websockets
    library keep less than 10 MB and no task."""
    options = PROBE | {"EVENT_INTERVAL": 0, "MAX_EVENTS": 10}
    servers = {
        "Sanic's own protocol": (SERVERS[0], unrepaired(**SLOW), 50_001),
        "`server.py`": (SERVERS[0], start(SERVERS[0].name, changes=SLOW, **options)),
        "`server_websockets.py`": (
            SERVERS[1],
            start(SERVERS[1].name, FILTER_TIME=0.005, **options),
        ),
    }
    found = {name: hostile_results(*server) for name, server in servers.items()}
    assert found["`server.py`"]["memory kept after a flood"] == "under 10 MB"
    assert found["`server.py`"]["tasks left after the disconnect"] == "none"
    rows = [
        {"case": case} | {name: results[case] for name, results in found.items()}
        for case in next(iter(found.values()))
    ]
    record("reliable_websockets/hostile.md", table(rows).replace("--:", "---"))


def memory_kept(program, before, client, message, least=0):
    """Return by how many KiB a server has grown after a flood of 100 MB.

    `least`: repeat the flood, at most 20 times, until it has grown by that; on a busy machine the
    client may at first send little.
    """
    for _ in range(20):
        flood(client.socket, message, seconds=TIMEOUT, size=100_000_000, stall=3)
        if (kept := memory(program) - before.memory) >= least:
            break
    return kept


def hostile_results(row, program, least=0):
    """Return {case: what a server does} for a client that floods it and breaks the rules."""
    before = Level.of(program)
    client = row.open(program)
    message = frame(TEXT, row.message(9_000).encode())
    kept = memory_kept(program, before, client, message, least)
    reset(client.socket)
    wait_until(lambda: Level.of(program).descriptors <= before.descriptors)
    end = time.monotonic() + 5  # messages in flight are still processed
    while (left := tasks(program) - before.tasks) > 0 and time.monotonic() < end:
        time.sleep(0.2)
    return {
        "memory kept after a flood": "under 10 MB"
        if kept < 10_000
        else "over 50 MB"
        if kept > 50_000
        else f"{kept} KiB",
        "tasks left after the disconnect": "none"
        if left <= 0
        else "over 100"
        if left > 100
        else left,
        "text that is not valid UTF-8": outcome(row, program, *INVALID["two fragments"]),
        "10,000 empty fragments": outcome(
            row, program, frame(TEXT, final=False), *[frame(CONTINUATION, final=False)] * 10_000
        ),
        "a plain `GET`: status, headers": shown(plain_get(row, program)),
        "version 8: status, headers": shown(rejection(row, program, Sec_WebSocket_Version="8")),
    }


def outcome(row, program, *frames):
    """Return whether these frames leave a connection open, or the code that closes it."""
    with row.open(program) as client:
        with suppress(ConnectionError):
            client.send(*frames)
            time.sleep(0.3)  # a ping of the same read would get a pong in any case
            client.send(frame(PING, b"open"))
        for opcode, payload in client.frames():
            if opcode == PONG:
                return "stays open"
            if opcode == CLOSE:
                return f"closed with {int.from_bytes(payload[:2])}"
    return "lost"


def shown(response):
    """Return the status of a rejected handshake, and which headers of the RFCs it has."""
    names = [name for name in ("Upgrade", "Sec-WebSocket-Version") if name in response.headers]
    return (
        f"{response.status_code}, {' and '.join(f'`{name}`' for name in names) or 'neither header'}"
    )


# What the libraries themselves do: once one of these fails, a release has repaired the fault


def test_websockets_fails_on_pipelined_requests(start):
    """Two requests that arrive together get no response from websockets 17.4 itself, which prints a
    traceback."""
    program = start("websockets/server_websockets.py", errors_expected=True)
    for requests in pipelined(program, "/"):
        with raw_client(program) as client:
            client.sendall(requests)
            assert client.recv(65536) == b""
            program.wait_for("AssertionError")


@pytest.fixture
def unrepaired(start):
    """Start server.py of reliable WebSockets with the protocol that Sanic has:
    unrepaired(**more changes)."""
    name, options = "reliable_websockets/server.py", PROBE | {"EVENT_INTERVAL": 0}

    def unrepaired(**more):
        changes = {"protocol=HardenedWebSocketProtocol,": ""} | more
        return start(name, errors_expected=True, changes=changes, **options)

    return unrepaired


def test_sanic_reads_ahead_without_limit(unrepaired):
    """Sanic 25.12.1 itself reads ahead: while a handler takes 5 ms for each message, it grows by
    more than 50 MB during a flood, and it keeps tasks of a client that disconnected."""
    program = unrepaired(**SLOW)
    before = Level.of(program)
    client = RawWebSocket(program.port, "/events")
    assert memory_kept(program, before, client, frame(TEXT, b"x" * 9_000), 50_001) > 50_000
    reset(client.socket)
    wait_until(lambda: len(descriptors_of(program, before)) == 0)
    assert tasks(program) > before.tasks + 10


def descriptors_of(program, before):
    """Return what a program has open beyond what it had before."""
    return range(before.descriptors, Level.of(program).descriptors)


def test_sanic_ignores_invalid_utf8(unrepaired):
    """Sanic 25.12.1 itself keeps a connection open after invalid UTF-8; the task that read it ends
    with a UnicodeDecodeError."""
    program = unrepaired()
    with RawWebSocket(program.port, "/events") as client:
        client.send(*INVALID["two fragments"], frame(PING, b"open"))
        client.wait_for(PONG, b"open")
    program.wait_for("UnicodeDecodeError")


def test_sanic_accepts_endless_fragments(unrepaired):
    """Sanic 25.12.1 itself accepts a message of any number of fragments."""
    program = unrepaired()
    with RawWebSocket(program.port, "/events") as client:
        client.send(frame(BINARY, b"", final=False), *[frame(CONTINUATION, final=False)] * 20_000)
        client.send(frame(PING, b"open"))
        client.wait_for(PONG, b"open")


def test_sanic_fails_on_an_invalid_header(unrepaired):
    """Sanic 25.12.1 itself responds with 500 to a handshake with a header that is not Latin-1, and
    logs a traceback."""
    program = unrepaired()
    assert with_header(HARDENED[0], program, "€") == 500
    program.wait_for("Traceback")


def test_sanic_rejects_without_the_headers(unrepaired):
    """Sanic 25.12.1 itself rejects a handshake without Upgrade and Sec-WebSocket-Version, and logs
    a traceback."""
    program = unrepaired()
    plain = httpx2.get(f"{program.url}/events")
    assert plain.status_code == 426
    assert "Upgrade" not in plain.headers
    old = rejection(HARDENED[0], program, Sec_WebSocket_Version="8")
    assert "Sec-WebSocket-Version" not in old.headers
    program.wait_for("Traceback")
