"""Keep-alive: when the server closes, or is not there."""

import runpy
import socket
import subprocess
import time
from contextlib import ExitStack

import httpx2
import pytest
from sanic.config import DEFAULT_CONFIG

from .support.browsing import both_browsers
from .support.crossing import Crossing
from .support.messages import messages
from .support.processes import EXAMPLES, environment
from .test_keep_alive import get, per_connection


@pytest.fixture(scope="module")
def impatient(start_shared):
    """Return the server that closes on the second request of each connection."""
    return start_shared("keep_alive/server_impatient.py")


# The server closes


def test_the_server_closes_an_idle_connection(start):
    """The server closes a connection that was idle for `KEEP_ALIVE_TIMEOUT`, and sends nothing
    before."""
    server = start("keep_alive/server.py", SANIC_KEEP_ALIVE_TIMEOUT=1)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(get())
        assert b'"request":1' in sock.recv(65536)
        received = time.monotonic()
        assert sock.recv(65536) == b""
    assert time.monotonic() - received > 0.9


def test_a_close_seen_in_time_causes_no_error(start, tap):
    """A client that has seen the server's close opens a new connection, without an error."""
    wire = tap(start("keep_alive/server.py", SANIC_KEEP_ALIVE_TIMEOUT=1))
    with httpx2.Client(limits=httpx2.Limits(keepalive_expiry=60)) as client:
        client.get(wire.url)
        wire.wait_until(lambda events: any(event.kind == "end" for event in events))
        time.sleep(0.1)  # for the end to arrive behind the tap
        assert client.get(wire.url).json() == {"connection": 2, "request": 1}
    assert per_connection(wire) == [1, 1]


@pytest.fixture
def crossing(port):
    """Return a function that puts a wire in front of a server, on which the second request
    crosses the server's close."""
    opened = []

    def cross(server):
        opened.append(Crossing(server.port, port()))
        return opened[-1]

    yield cross
    for wire in opened:
        wire.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_crosses_the_close_fails(start, crossing, method):
    """A request that is in transit when the server closes an idle connection fails, whatever its
    method."""
    wire = crossing(start("keep_alive/server.py", SANIC_KEEP_ALIVE_TIMEOUT=1))
    with httpx2.Client(timeout=30) as client:
        assert client.get(wire.url).json() == {"connection": 1, "request": 1}
        with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
            client.request(method, wire.url)
        assert wire.crossed.is_set()
        # It never got there.
        assert client.get(wire.url).json() == {"connection": 2, "request": 1}


def test_a_pooled_connection_may_be_closed(start, run, record):
    """A client that assumes that a pooled connection is open fails when the server has closed it;
    `retries=3` of httpx2 does not help."""
    result = run("keep_alive/wrong_client.py", URL=start("keep_alive/server_impatient.py").url)
    assert result.returncode == 1
    assert result.stderr.startswith("cannot reach") and "RemoteProtocolError(" in result.stderr
    record("keep_alive/wrong_client.txt", result.stdout + result.stderr)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_retries_are_for_connecting(impatient, method):
    """The option `retries` of an httpx2 transport retries to connect, and no request, whatever its
    method."""
    with httpx2.Client(transport=httpx2.HTTPTransport(retries=3)) as client:
        client.request(method, impatient.url)
        with pytest.raises(httpx2.RemoteProtocolError):
            client.request(method, impatient.url)


def test_retrying_every_request_duplicates_orders(start, run, record):
    """A client that retries every request places three orders where two were sent."""
    url = start("keep_alive/server_impatient.py").url
    result = run("keep_alive/wrong_retry.py", URL=url)
    assert result.stdout.splitlines()[-1] == "2 orders sent, 3 placed"
    record("keep_alive/wrong_retry.txt", result.stdout)


def test_retries_what_is_safe(start, run, record):
    """The hardened client retries `GET`, and `POST` under the same key: two orders sent, two
    placed."""
    url = start("keep_alive/server_impatient.py").url
    result = run("keep_alive/client_hardened.py", URL=url)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("retrying") == 2
    assert result.stdout.splitlines()[-1] == "2 orders sent, 2 placed"
    record("keep_alive/client_hardened.txt", result.stdout)


def hardened(monkeypatch, url):
    monkeypatch.setenv("URL", url)
    return runpy.run_path(str(EXAMPLES / "keep_alive/client_hardened.py"))


def test_retries_no_post_without_a_key(impatient, monkeypatch):
    """Without an idempotency key the hardened client does not retry a `POST`: it raises the error,
    and the caller decides."""
    module = hardened(monkeypatch, impatient.url)
    before = httpx2.get(impatient.url).json()["orders"]
    with httpx2.Client() as client:
        module["send_request"](client, "GET")
        with pytest.raises(httpx2.RemoteProtocolError):
            module["send_request"](client, "POST")
    placed = httpx2.get(impatient.url).json()["orders"] - before
    assert placed == 1  # it was processed, which the client can't know


def test_retries_on_a_new_connection(impatient, monkeypatch):
    """The hardened client retries on a new connection, since the others of its pool may be closed
    as well."""
    module = hardened(monkeypatch, impatient.url)
    with httpx2.Client() as client:
        with ExitStack() as stack:  # open together, so that each has its own connection
            streams = [stack.enter_context(client.stream("GET", impatient.url)) for _ in range(5)]
            for response in streams:
                response.read()
        for _ in range(5):
            assert module["send_request"](client, "GET").status_code == 200


@both_browsers
def test_a_browser_retries_a_post(start, page, tap):
    """A browser retries a `POST` when its reused connection ends without a response: one `fetch`
    sends two requests, and the server processes both."""
    wire = tap(start("keep_alive/server_impatient.py"))
    page.goto(wire.url)
    status = page.evaluate("async () => (await fetch('/', { method: 'POST' })).status")
    assert status == 201
    posts = [message for message in messages(wire.events) if message.method == "POST"]
    assert len(posts) == 2 and len({post.connection for post in posts}) == 2
    assert httpx2.get(wire.url).json() == {"orders": 2}


def test_curl_retries_a_post(start, tap):
    """curl retries a `POST` when its reused connection ends without a response: the server
    processes it twice."""
    wire = tap(start("keep_alive/server_impatient.py"))
    curl = ["curl", "--silent", "--show-error", "--fail", wire.url, "--next"]
    curl += ["--silent", "--show-error", "--fail", "--request", "POST", wire.url]
    ran = subprocess.run(curl, env=environment(), capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == '{"orders":0}{"order":2}'
    assert httpx2.get(wire.url).json() == {"orders": 2}


def test_the_client_drops_idle_connections_first(monkeypatch, port):
    """The hardened client drops idle connections long before Sanic does, and keeps the default
    limits of its pool."""
    limits = hardened(monkeypatch, "http://127.0.0.1:8000")["LIMITS"]
    default = httpx2._config.DEFAULT_LIMITS
    assert limits.keepalive_expiry < DEFAULT_CONFIG["KEEP_ALIVE_TIMEOUT"] / 2
    assert limits.max_connections == default.max_connections
    assert limits.max_keepalive_connections == default.max_keepalive_connections


# Bad servers

CLIENTS = ["client.py", "client_hardened.py", "client.sh", "by_hand.py"]


@pytest.mark.parametrize("name", CLIENTS)
def test_reports_that_it_cannot_connect(run, port, name):
    """A client that cannot connect prints one line and exits with an error."""
    for url in f"http://127.0.0.1:{port()}", "nonsense":
        result = run(f"keep_alive/{name}", URL=url)
        assert result.returncode != 0
        assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize("name", ["client.py", "client_hardened.py", "client.sh"])
def test_reports_a_500(run, canned, name):
    """A client that receives a `500` prints one line and exits with an error."""
    result = run(f"keep_alive/{name}", URL=canned((500, {}, "oops")).url)
    assert result.returncode != 0
    assert "500" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("body", ["<h1>It works!</h1>", ["fine"], {"fine": 1}, '{"conn'])
def test_reports_a_response_of_another_server(run, canned, body):
    """The hardened client that receives a response of another kind prints one line and exits with
    an error."""
    url = canned((200, {}, body)).url
    result = run("keep_alive/client_hardened.py", URL=url)
    assert result.returncode != 0
    assert url in result.stderr and len(result.stderr.splitlines()) == 1
