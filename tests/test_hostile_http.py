"""Hostile requests: the hardened servers survive them, and serve the next client."""

import re
import socket
from contextlib import suppress
from http.client import HTTPResponse

import pytest

from .support.hostile import PROBE, Level, assert_level
from .support.processes import EXAMPLES, TIMEOUT, assert_clean_output, named

CLASS = re.compile(r"(?ms)^class SafeRequest\(Request\):\n.*?(?=^# --8<--|^\S)")
HARDENED = [name for name in named("*.py", "request_class=SafeRequest")]


@pytest.fixture(scope="module", params=HARDENED)
def server(request, start_shared):
    """Return each hardened HTTP server, with a short time for a request to arrive."""
    environment = PROBE | {"SANIC_REQUEST_TIMEOUT": 1}
    server = start_shared(request.param, **environment)
    exchange(
        server, get("/")
    )  # its loop runs, so that its own tasks are counted from the beginning
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


def test_a_body_that_never_arrives_is_closed(server):
    """A request whose body does not arrive is answered with an error within the request timeout,
    and its connection is closed."""
    before = Level.of(server)
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\nx"
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(head)
        received = b""
        while data := client.recv(65536):  # until it closes
            received += data
    assert re.match(rb"HTTP/1.1 (400|401|404|405|408|503) ", received)
    assert_level(server, before)


def test_a_body_cut_short_leaks_no_task(server):
    """A GET with a Content-Length and no body, whose client then ends the stream, leaves no task
    and no descriptor."""
    before = Level.of(server)
    for path in "/", "/jobs/x", "/jobs/x/events", "/events", "/poll", "/stream", "/health":
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
            client.sendall(get(path, "Content-Length: 1"))
            client.shutdown(socket.SHUT_WR)
            client.settimeout(0.2)
            with suppress(TimeoutError, ConnectionError):
                client.recv(65536)
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
