"""Keep-alive: when the server closes, or is not there."""

import asyncio
import runpy
import socket
import time

import httpx2
import pytest
from sanic.config import DEFAULT_CONFIG

from .support.crossing import Crossing
from .support.processes import EXAMPLES
from .support.threads import run_in_thread
from .test_keep_alive import get, per_connection


@pytest.fixture(scope="module")
def impatient(start_shared):
    """Return the server that hangs up on each second request."""
    return start_shared("keep_alive/server_impatient.py")


# The server closes


def test_the_server_ends_an_idle_connection(start):
    """The server ends a connection that was idle for KEEP_ALIVE_TIMEOUT, and says nothing
    before."""
    server = start("keep_alive/server.py", SANIC_KEEP_ALIVE_TIMEOUT=1)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(get())
        assert b'"request":1' in sock.recv(65536)
        answered = time.monotonic()
        assert sock.recv(65536) == b""
    assert time.monotonic() - answered > 0.9


def test_a_close_that_was_seen_is_no_failure(start, tap):
    """A client that has seen the server's close opens a new connection, and nobody notices."""
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
    """A request that is on its way when the server closes an idle connection fails, whatever
    its method: the client was told of no end when it sent it."""
    wire = crossing(start("keep_alive/server.py", SANIC_KEEP_ALIVE_TIMEOUT=1))
    with httpx2.Client(timeout=30) as client:
        assert client.get(wire.url).json() == {"connection": 1, "request": 1}
        with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
            client.request(method, wire.url)
        assert wire.crossed.is_set()
        # It never got there.
        assert client.get(wire.url).json() == {"connection": 2, "request": 1}


def test_a_kept_connection_may_be_closed(impatient, run, record):
    """A client that takes a kept connection for an open one fails on it, with GET and POST
    alike, and retries=3 does not help."""
    result = run("keep_alive/wrong_client.py", URL=impatient.url)
    lines = result.stdout.splitlines()
    assert lines[0::2] == ["GET first 200", "POST first 201"]
    assert all("second RemoteProtocolError(" in line for line in lines[1::2])
    record("keep_alive/wrong_client.txt", result.stdout)


def test_sending_again_can_do_it_twice(start, run, record):
    """A client that sends everything again places three orders where two were wanted."""
    url = start("keep_alive/server_impatient.py").url
    result = run("keep_alive/wrong_retry.py", URL=url)
    assert result.stdout.splitlines()[-1] == "2 orders wanted, 3 placed"
    record("keep_alive/wrong_retry.txt", result.stdout)


def test_sends_again_what_may_be(start, run, record):
    """The hardened client sends GET again, and POST under the same key: two orders wanted, two
    placed."""
    url = start("keep_alive/server_impatient.py").url
    result = run("keep_alive/client_hardened.py", URL=url)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("once more") == 2
    assert result.stdout.splitlines()[-1] == "2 orders wanted, 2 placed"
    record("keep_alive/client_hardened.txt", result.stdout)


def hardened(monkeypatch, url):
    monkeypatch.setenv("URL", url)
    return runpy.run_path(str(EXAMPLES / "keep_alive/client_hardened.py"))


def test_does_not_send_again_what_may_do_harm(impatient, monkeypatch):
    """Without a key the hardened client sends no POST a second time: it fails, and its caller
    decides."""
    module = hardened(monkeypatch, impatient.url)
    before = httpx2.get(impatient.url).json()["orders"]

    async def twice():
        async with httpx2.AsyncClient() as client:
            await module["request"](client, "GET")
            await module["request"](client, "POST")

    with pytest.raises(httpx2.RemoteProtocolError):
        run_in_thread(twice())
    placed = httpx2.get(impatient.url).json()["orders"] - before
    assert placed == 1  # it was done, which the client can't know


def test_sends_again_on_a_fresh_connection(impatient, monkeypatch):
    """The hardened client sends again over a new connection, as the others of its pool may be
    as old as the one that failed."""
    module = hardened(monkeypatch, impatient.url)

    async def ask():
        async with httpx2.AsyncClient() as client:
            together = (client.get(impatient.url) for _ in range(5))
            await asyncio.gather(*together)
            return [(await module["request"](client, "GET")).status_code for _ in range(5)]

    assert run_in_thread(ask()) == [200] * 5


def test_the_client_forgets_first(monkeypatch, port):
    """The hardened client drops idle connections long before Sanic does, and its pool keeps the
    limits that it would have had."""
    limits = hardened(monkeypatch, "http://127.0.0.1:8000")["LIMITS"]
    default = httpx2._config.DEFAULT_LIMITS
    assert limits.keepalive_expiry < DEFAULT_CONFIG["KEEP_ALIVE_TIMEOUT"] / 2
    assert limits.max_connections == default.max_connections
    assert limits.max_keepalive_connections == default.max_keepalive_connections


# Bad servers

CLIENTS = ["client.py", "client_hardened.py", "client.sh", "by_hand.py", "wrong_retry.py"]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_dead_server(run, port, name):
    """A client that asks where nobody listens says so in one line and exits with an error."""
    for url in f"http://127.0.0.1:{port()}", "nonsense":
        result = run(f"keep_alive/{name}", URL=url)
        assert result.returncode != 0
        assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize("name", ["client.py", "client_hardened.py", "client.sh"])
def test_a_server_in_trouble(run, canned, name):
    """A client that gets a 500 says so in one line and exits with an error."""
    result = run(f"keep_alive/{name}", URL=canned((500, {}, "oops")).url)
    assert result.returncode != 0
    assert "500" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["client.py", "client_hardened.py"])
@pytest.mark.parametrize("answer", ["<h1>It works!</h1>", ["fine"], {"fine": 1}, '{"conn'])
def test_a_server_that_is_another(run, canned, name, answer):
    """A client that gets something else than it asked for says so in one line and exits with an
    error."""
    url = canned((200, {}, answer)).url
    result = run(f"keep_alive/{name}", URL=url)
    assert result.returncode != 0
    assert url in result.stderr and len(result.stderr.splitlines()) == 1
