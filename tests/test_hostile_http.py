"""Hostile requests: the servers survive them, and serve the next client.

Every server of HTTP in examples/ is tried. Those beyond the quick starts contain the same class,
SafeRequest, which repairs three faults of Sanic; the last proofs fail as soon as a release has
repaired them.
"""

import re
import socket
from contextlib import suppress
from http.client import HTTPResponse, RemoteDisconnected

import httpx2
import pytest

from .support.hostile import PROBE, Level, assert_level, descriptors, reset
from .support.http_servers import (
    HARDENED,
    POSTS,
    QUICK_STARTS,
    SERVERS,
    SITE,
    Starter,
    connection,
    post,
)
from .support.processes import EXAMPLES, assert_clean_output, wait_until

# Topics whose only programs are full ones.
FULL = ("notifications/", "reliable_websockets/", "security/")

CLASS = re.compile(r"(?ms)^class SafeRequest\(Request\):\n.*?(?=^# --8<--|^\S)")


@pytest.fixture(scope="module")
def starter(start_shared, assembled_shared, tmp_path_factory, port):
    """Start any server: starter(name, **environment)."""
    folder = tmp_path_factory.mktemp("site")
    starter = Starter(start_shared, assembled_shared, folder, port)
    yield starter
    starter.stop()


def start_probed(starter, name, **options):
    """Start a server with a second for a request and for its response."""
    timeouts = "REQUEST", "RESPONSE", "KEEP_ALIVE"
    environment = PROBE | {f"SANIC_{name}_TIMEOUT": 1 for name in timeouts}
    environment |= {"MAX_WAIT": 1, "HOLD": 1}  # some servers respond within MAX_WAIT or HOLD + 5
    server = starter(name, **environment, **options)
    exchange(server, get("/"))  # so its event loop runs when tasks are counted
    return server


@pytest.fixture(scope="module", params=HARDENED)
def server(request, starter):
    """Return each hardened HTTP server."""
    server = start_probed(starter, request.param)
    yield server
    server.stop()  # before the next one starts


@pytest.fixture(scope="module", params=QUICK_STARTS)
def quick_start(request, starter):
    """Return each of the other HTTP servers."""
    faulty = "Sanic(" in (EXAMPLES / request.param).read_text()  # it prints tracebacks
    server = start_probed(starter, request.param, errors_expected=faulty)
    yield server
    server.stop(errors_expected=faulty)


@pytest.fixture(scope="module", params=POSTS, ids=lambda row: f"{row.name}{row.path}")
def posting(request, starter):
    """Return each resource that accepts a POST: (its row of the table, the running program)."""
    server = starter(request.param.name, LOST_RESPONSES=0, **PROBE)
    exchange(server, get("/"))
    yield request.param, server
    server.stop()


def exchange(server, data):
    """Send bytes; return the status of the response."""
    with connection(server) as client:
        client.sendall(data)
        return status_of(client)


def status_of(client):
    """Return the status of the response that a connection receives."""
    response = HTTPResponse(client)
    response.begin()
    return response.status


def get(target, *headers, encoding="utf-8"):
    """Return a GET request as bytes."""
    lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
    return "\r\n".join(lines).encode(encoding)


ODD_ACCEPTS = ["*", "foo", ",", "a/b;q=x", ""]
TARGETS = {
    "no slash": get("jobs"),
    "query only": get("?a=b"),
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
    "invalid authority": get("http://[::1/"),
    "NUL": get("/jobs\0"),
    "two slashes": get("//"),
    "not ASCII": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", TARGETS)
def test_an_invalid_target_is_400_or_404(server, name):
    """An invalid request target is rejected with 400, 401, 404 or 405, without a traceback; two
    slashes may also be the page at one."""
    status = exchange(server, TARGETS[name])
    assert status in {400, 401, 404, 405} or (name, status) == ("two slashes", 200)
    assert_clean_output(server.output)


@pytest.mark.parametrize("value", ODD_ACCEPTS)
def test_an_invalid_accept_changes_nothing(server, value):
    """An error has the same status whatever the Accept header contains, and no traceback."""
    expected = exchange(server, get("/nothing/here"))
    assert expected in {401, 404}
    assert exchange(server, get("/nothing/here", f"Accept: {value}")) == expected
    assert_clean_output(server.output)


HALF_BODY = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\nx"


def test_a_quick_start_survives_hostile_requests(quick_start):
    """A quick start, which contains no repair, serves the next client after each invalid target,
    invalid Accept and half a body, whether the client reads the response or resets the connection;
    it sends one response to a request in a body, and keeps no descriptor."""
    before = descriptors(quick_start)
    assert responses_to_smuggled(quick_start) == 1
    assert exchange(quick_start, TARGETS["two slashes"]) in {200, 400, 404}
    odd = [get("/nothing/here", f"Accept: {value}") for value in ODD_ACCEPTS]
    for data in [*TARGETS.values(), *odd, HALF_BODY]:
        with connection(quick_start) as client:
            client.sendall(data)
            with suppress(ConnectionError):
                client.recv(65536)
        with connection(quick_start) as client:
            client.sendall(data)
            reset(client)  # while the server responds
        assert exchange(quick_start, get("/nothing/here")) == 404, data
    wait_until(lambda: descriptors(quick_start) <= before)


@pytest.mark.parametrize("path", ["/nothing", "/jobs", "/events", "/release"])
def test_a_body_that_never_arrives_is_closed(server, path):
    """A request whose body does not arrive gets an error within the response timeout,
    whether the path exists or not, and its connection is closed."""
    before = Level.of(server)
    with connection(server) as client:
        client.sendall(HALF_BODY.replace(b"/nothing", path.encode()))
        received = b""
        while data := client.recv(65536):  # until it closes
            received += data
    assert re.match(rb"HTTP/1.1 (400|401|404|405|408|503) ", received)
    assert_level(server, before)


STREAMS = {
    "holding_connections/server_hardened.py": "/stream",
    "load_balancing/server_hardened.py": "/events",
    "notifications/server.py": "/notifications/events?user=ann&topic=news",
    "notifications/server_small.py": "/notifications/events?topic=news",
    "server_sent_events/board.py": "/notices",
    "server_sent_events/server_hardened.py": "/jobs/{job}/events",
}
# Nothing is sent for as long as the test runs, and so no error of sending ends a handler.
QUIET = {"HOLD": 3600, "EVENT_INTERVAL": 3600, "HEARTBEAT": 3600, "HEARTBEAT_INTERVAL": 3600}


def path_of(server, name):
    """Return the path of a server's event stream; it submits the job that the path needs."""
    path = STREAMS[name]
    if "{job}" in path:
        response = httpx2.post(f"{server.url}/jobs", json={"seconds": 60})
        path = path.format(job=response.json()["token"])
    return path


def cut_short(server, path):
    """Begin a GET with a body, end the stream in place of the body, and close."""
    with connection(server) as client:
        client.sendall(get(path, "Content-Length: 1"))
        client.shutdown(socket.SHUT_WR)
        client.settimeout(0.2)
        with suppress(TimeoutError, ConnectionError):
            client.recv(65536)


@pytest.mark.parametrize("name", STREAMS)
def test_a_body_cut_short_leaks_no_task(start, name):
    """A GET of an event stream with a Content-Length and no body, whose client then ends the
    connection, leaves no task and no descriptor."""
    server = start(name, **PROBE, **QUIET)
    path = path_of(server, name)
    exchange(server, get("/"))
    before = Level.of(server)
    for _ in range(5):  # more than what may be left of the request above
        cut_short(server, path)
    assert_level(server, before)


NESTED = "[" * 9_000
VALUES = {
    "nested": NESTED,
    "nested further": "[" * 100_000,
    "NaN": "NaN",
    "too large": "1e400",
    "5,000 digits": "9" * 5_000,
    "half a character": r'"\ud800"',
    "a control character": r'"\u001b[2J"',
    "a NUL": r'"\u0000"',
    "a bool": "true",
    "null": "null",
    "an object": "{}",
    "an array": '["hello"]',
}
MALFORMED = [b"{", b"\xff", b"", b"seconds=1", b"\xef\xbb\xbf{"]


def test_hostile_json_is_400(posting):
    """JSON that is nested thousands of levels deep, NaN, numbers that are too large, text with
    control characters or half a character, other values of a wrong type, and invalid JSON get
    400, or 413 if they are too long, without a traceback, a task or a descriptor that stays; then
    an honest body is accepted."""
    row, server = posting
    assert exchange(server, post(server, row, row.honest())) in row.accepted
    before = Level.of(server)
    bodies = [body for value in VALUES.values() for body in (value.encode(), row.with_value(value))]
    for body in bodies + MALFORMED:
        status = exchange(server, post(server, row, body))
        assert status in row.rejected(body), body[:40]
    assert_level(server, before)
    assert exchange(server, post(server, row, row.honest())) in row.accepted
    assert_clean_output(server.output)


def test_every_post_is_tried():
    """Each resource that accepts a POST, in any server of examples/, is one of those tried."""
    found = {
        name: len(re.findall(r"@\w+\.post\(|def do_POST", (EXAMPLES / name).read_text()))
        for name in SERVERS
    }
    names = [row.name for row in POSTS]
    assert {name: count for name, count in found.items() if count} == {
        name: names.count(name) for name in names
    }


IDS = ["9" * 5_000, "99999999999999999999-0", "٣".encode().decode("latin-1"), "-1", "1e3", "x"]


@pytest.mark.parametrize("name", STREAMS)
def test_an_invalid_last_event_id_is_400(start, name):
    """An event stream that can be resumed rejects an invalid Last-Event-ID, such as a number
    of 5,000 digits or of Arabic digits, with 400, and without a traceback; an empty one counts as
    none."""
    server = start(name, **QUIET)
    path = path_of(server, name)
    resumed = "Last-Event-ID" in (EXAMPLES / name).read_text()
    for value in IDS:
        status = exchange(server, get(path, f"Last-Event-ID: {value}", encoding="latin-1"))
        assert status == (400 if resumed else 200), value
    assert exchange(server, get(path, "Last-Event-ID:")) == 200


def test_a_second_request_in_a_body_gets_no_response(server):
    """A POST whose body is itself a request gets one response."""
    assert responses_to_smuggled(server) == 1


def responses_to_smuggled(server):
    """Return how many responses a POST gets whose body is itself a request."""
    inner = get("/nothing/inner")
    head = b"POST /nothing/outer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner)
    with connection(server) as client:
        client.sendall(head + inner)
        received = b""
        with suppress(ConnectionError):
            while data := client.recv(65536):  # until it closes the idle connection
                received += data
    return len(re.findall(rb"HTTP/1\.[01] \d", received))


def test_the_request_class_has_the_same_text_everywhere():
    """SafeRequest has the same text in each server that contains it, and every server of Sanic
    beyond the quick starts has it."""
    found = [CLASS.search((EXAMPLES / name).read_text()) for name in HARDENED]
    assert len({match[0].rstrip() for match in found if match}) == 1
    assert [name for name, match in zip(HARDENED, found, strict=True) if not match] == [SITE]
    sanic = [name for name in QUICK_STARTS if "Sanic(" in (EXAMPLES / name).read_text()]
    assert {name.split("/")[1] for name in sanic} == {"server.py", "receiver.py"}
    assert not [name for name in sanic if name.startswith(FULL)]


# What Sanic itself does: once one of these fails, a release has repaired the fault


@pytest.fixture
def unrepaired(start):
    """Start the token's hardened server with the request class that Sanic has."""
    changes = {", request_class=SafeRequest": ""}
    return start("token/server_hardened.py", errors_expected=True, changes=changes)


@pytest.mark.parametrize("name", ["no slash", "query only", "CONNECT", "invalid authority", "NUL"])
def test_sanic_fails_on_an_invalid_target(unrepaired, name):
    """Sanic 25.12.1 itself sends no response to an invalid request target, and prints a
    traceback."""
    with pytest.raises(RemoteDisconnected):
        exchange(unrepaired, TARGETS[name])
    unrepaired.wait_for("Traceback")


@pytest.mark.parametrize("value", ["*", "foo", ",", "a/b;q=x"])
def test_sanic_fails_on_an_invalid_accept(unrepaired, value):
    """Sanic 25.12.1 itself responds to an error with 500 if it cannot parse the Accept header."""
    assert exchange(unrepaired, get("/nothing/here", f"Accept: {value}")) == 500


@pytest.mark.parametrize("repaired", [False, True])
def test_sanic_keeps_a_connection_whose_body_does_not_arrive(start, repaired):
    """Sanic 25.12.1 itself responds with 503 to a request whose body does not arrive, and keeps the
    connection open beyond all of its timeouts; with the request class it is closed."""
    timeouts = ("REQUEST", "RESPONSE", "KEEP_ALIVE")
    settings = {f"SANIC_{name}_TIMEOUT": 0.4 for name in timeouts}
    changes = {} if repaired else {", request_class=SafeRequest": ""}
    server = start("token/server_hardened.py", changes=changes, **settings)
    with connection(server) as client:
        authorized = b" /jobs HTTP/1.1\r\nAuthorization: Bearer alice-key\r\n"
        client.sendall(HALF_BODY.replace(b" /nothing HTTP/1.1\r\n", authorized))
        response = HTTPResponse(client)
        response.begin()
        response.read()
        assert response.status == 503
        if repaired:
            assert client.recv(1) == b""
        else:
            client.settimeout(4)  # ten times as long
            with pytest.raises(TimeoutError):
                client.recv(1)


@pytest.mark.parametrize("name", STREAMS)
def test_sanic_leaks_a_task_whose_body_is_cut_short(start, name):
    """With its own request class Sanic 25.12.1 itself leaves the task of a handler whose GET has a
    body that is cut short."""
    changes = {", request_class=SafeRequest": ""}
    server = start(name, changes=changes, errors_expected=True, **PROBE, **QUIET)
    path = path_of(server, name)
    exchange(server, get("/"))
    before = Level.of(server)
    for _ in range(5):
        cut_short(server, path)
    wait_until(lambda: Level.of(server).descriptors == before.descriptors)
    assert Level.of(server).tasks > before.tasks
