"""Hostile requests: the hardened servers survive them, and serve the next client."""

import re
import socket
from contextlib import suppress
from http.client import HTTPResponse, RemoteDisconnected

import httpx2
import pytest

from .support.hostile import PROBE, Level, assert_level
from .support.processes import EXAMPLES, TIMEOUT, assert_clean_output, named, wait_until

CLASS = re.compile(r"(?ms)^class SafeRequest\(Request\):\n.*?(?=^# --8<--|^\S)")
HARDENED = named("*.py", "request_class=SafeRequest")


@pytest.fixture(scope="module", params=HARDENED)
def server(request, start_shared):
    """Return each hardened HTTP server, with a second for a request and for its response."""
    environment = PROBE | {"SANIC_REQUEST_TIMEOUT": 1, "SANIC_RESPONSE_TIMEOUT": 1}
    environment |= {"MAX_WAIT": 1, "HOLD": 1}  # some servers respond within MAX_WAIT or HOLD + 5
    server = start_shared(request.param, **environment)
    exchange(server, get("/"))  # so its event loop runs when tasks are counted
    return server


def exchange(server, data):
    """Send bytes; return the status of the response."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(data)
        response = HTTPResponse(client)
        response.begin()
        return response.status


def get(target, *headers):
    """Return a GET request as bytes."""
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


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


@pytest.mark.parametrize("value", ["*", "foo", ",", "a/b;q=x", ""])
def test_an_invalid_accept_changes_nothing(server, value):
    """An error has the same status whatever the Accept header contains, and no traceback."""
    expected = exchange(server, get("/nothing/here"))
    assert expected in {401, 404}
    assert exchange(server, get("/nothing/here", f"Accept: {value}")) == expected
    assert_clean_output(server.output)


HALF_BODY = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\nx"


@pytest.mark.parametrize("path", ["/nothing", "/jobs", "/events", "/release"])
def test_a_body_that_never_arrives_is_closed(server, path):
    """A request whose body does not arrive gets an error within the response timeout,
    whether the path exists or not, and its connection is closed."""
    before = Level.of(server)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
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
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
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


def test_a_second_request_in_a_body_is_not_answered(server):
    """A POST whose body is itself a request gets one response."""
    inner = get("/nothing/inner")
    head = b"POST /nothing/outer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(head + inner)
        client.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionError):
            while data := client.recv(65536):
                received += data
    assert received.count(b"HTTP/1.1 ") == 1


def test_the_request_class_has_the_same_text_everywhere():
    """SafeRequest has the same text in each server that contains it, and every hardened server of
    Sanic contains it."""
    texts = {CLASS.search((EXAMPLES / name).read_text())[0].rstrip() for name in HARDENED}
    assert len(texts) == 1
    assert set(named("server_hardened.py", "Sanic(")) <= set(HARDENED)


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
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
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
    """With its own request class, and `ignore_body`, its default for GET, Sanic 25.12.1 itself
    leaves the task of a handler whose request has a body that is cut short."""
    repair = ", request_class=SafeRequest" if name in HARDENED else ", ignore_body=False"
    server = start(name, changes={repair: ""}, errors_expected=True, **PROBE, **QUIET)
    path = path_of(server, name)
    exchange(server, get("/"))
    before = Level.of(server)
    for _ in range(5):
        cut_short(server, path)
    wait_until(lambda: Level.of(server).descriptors == before.descriptors)
    assert Level.of(server).tasks > before.tasks
