"""Load balancers: settings that fail, each once wrong and once right."""

import re
import socket
import subprocess

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from .support import parts
from .support.messages import messages
from .support.processes import EXAMPLES, TIMEOUT
from .support.sockets import expect_cut, socket_at
from .test_load_balancing import TOPIC


@pytest.fixture(scope="module")
def instance(start_shared):
    """Return an instance that stands for all of them; it sends an event each tenth of a second."""
    return start_shared(
        f"{TOPIC}/server_hardened.py", EVENT_INTERVAL=0.1, DRAIN_DELAY=0, CLOSE_SPREAD=0
    )


@pytest.fixture(scope="module")
def quiet(start_shared):
    """Return an instance that sends one event, and the next one an hour later."""
    return start_shared(
        f"{TOPIC}/server_hardened.py", EVENT_INTERVAL=3600, DRAIN_DELAY=0, CLOSE_SPREAD=0
    )


def version(program):
    """Return the version of an installed proxy."""
    ran = subprocess.run([parts.found(program), "-v"], capture_output=True, text=True)
    found = re.search(r"(?:version |nginx/)([\d.]+)", ran.stdout + ran.stderr)[1]
    return tuple(int(number) for number in found.rstrip(".").split("."))


# Without health checks: what is on the wire are the requests of clients.
UNCHECKED = {"option httpchk GET /health": "", "check inter 1s fall 2 rise 1 ": ""}


# Upgrade


def test_without_upgrade_no_websocket_opens(start, before, record):
    """Behind an nginx that does not forward `Upgrade`, no WebSocket opens: the instance receives a
    plain `GET` and responds with `426`."""
    instance = start(f"{TOPIC}/server_hardened.py", DRAIN_DELAY=0)
    proxy = before(f"{TOPIC}/wrong_nginx_upgrade.conf", instance.port)
    with pytest.raises(InvalidStatus) as refused:
        socket_at(proxy.url)
    assert refused.value.response.status_code == 426
    assert httpx2.post(f"{proxy.url}/jobs", json={"seconds": 0}).status_code == 202
    record("load_balancing/wrong_nginx_upgrade.txt", f"{refused.value}\n")


def test_with_upgrade_a_websocket_opens(instance, before, tap):
    """With the `map`, a WebSocket opens, and a plain request keeps its connection to the instance;
    both have the `Host` of the client."""
    wire = tap(instance)
    proxy = before(f"{TOPIC}/nginx.conf", wire.port)
    with socket_at(proxy.url) as ws:
        assert ws.recv() == "a"
    with httpx2.Client() as client:
        for _ in range(3):
            assert client.get(f"{proxy.url}/health").status_code == 200
    requests = [message for message in messages(wire.events) if message.target]
    assert [message.target for message in requests] == ["/socket"] + ["/health"] * 3
    assert len({message.connection for message in requests}) == 2
    heads = [message.data.lower() for message in requests]
    assert b"connection: upgrade\r\n" in heads[0]
    assert all(b"\r\nhost: 127.0.0.1\r\n" in head for head in heads)
    assert not [head for head in heads[1:] if b"connection:" in head]


def test_without_keepalive_each_request_opens_a_connection(instance, before, tap):
    """An nginx before 1.29.7 without `keepalive` opens a connection to the instance for each
    request."""
    wire = tap(instance)
    changes = {"keepalive 32; ": "", "keepalive_timeout 60s; ": ""}
    proxy = before(f"{TOPIC}/wrong_nginx_upgrade.conf", wire.port, **changes)
    with httpx2.Client() as client:
        for _ in range(3):
            assert client.get(f"{proxy.url}/health").status_code == 200
    assert wire.connections == (3 if version("nginx") < (1, 29, 7) else 1)


def test_haproxy_upgrades_by_itself(instance, before):
    """HAProxy needs no setting for a WebSocket to open."""
    assert "pgrade" not in (EXAMPLES / TOPIC / "haproxy.cfg").read_text()
    with socket_at(before(f"{TOPIC}/haproxy.cfg", instance.port).url) as ws:
        assert ws.recv() == "a"


# Buffering


def streamed(proxy, wire):
    """Request the stream with a client that accepts gzip; when the instance has sent three events,
    return what has arrived of them."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        wire.wait_until(lambda events: sent(events).count(b"data: a") >= 3)
        client.setblocking(False)
        try:
            return client.recv(65536)
        except BlockingIOError:
            return b""


def sent(events):
    return b"".join(event.data for event in events if event.source == "server")


GZIP = "gzip on; gzip_types text/event-stream;"


def test_a_compressing_nginx_holds_a_stream_back(instance, before, tap):
    """An nginx that compresses an event stream holds it back: nothing of the first three events
    arrives, not even the head of the response."""
    wire = tap(instance)
    proxy = before(f"{TOPIC}/wrong_nginx_buffering.conf", wire.port)
    assert streamed(proxy, wire) == b""


def first_event(proxy):
    """Return the first line of a stream of which no second event is due, and its encoding."""
    with httpx2.stream("GET", f"{proxy.url}/events", timeout=TIMEOUT) as response:
        return next(response.iter_lines()), response.headers.get("Content-Encoding")


def test_without_buffering_events_arrive_at_once(quiet, before):
    """With `proxy_buffering off` an event arrives before the next one is sent, compressed or
    not."""
    for more, encoding in ("", None), (GZIP, "gzip"):
        changes = {"proxy_buffering off;": f"proxy_buffering off; {more}"}
        proxy = before(f"{TOPIC}/nginx.conf", quiet.port, **changes)
        assert first_event(proxy) == ("data: a", encoding)


def test_a_chunked_stream_passes_a_buffering_nginx(quiet, before):
    """Buffering alone does not delay a stream that the instance sends in chunks, as Sanic does: an
    event arrives before the next one is sent, also with `gzip on` without `gzip_types`."""
    for plain in (
        {"gzip on;": "", "gzip_types text/event-stream;": ""},
        {"gzip_types text/event-stream;": ""},
    ):
        proxy = before(f"{TOPIC}/wrong_nginx_buffering.conf", quiet.port, **plain)
        assert first_event(proxy) == ("data: a", None)


def test_haproxy_forwards_each_event(quiet, before):
    """HAProxy forwards an event before the next one is sent, without a setting for it."""
    proxy = before(f"{TOPIC}/haproxy.cfg", quiet.port)
    assert first_event(proxy) == ("data: a", None)


@pytest.mark.parametrize("header", [b"", b"X-Accel-Buffering: no\r\n"])
def test_a_stream_without_chunks_is_buffered(before, port, header):
    """nginx buffers a stream without chunks, whose end is the end of the connection, until it ends;
    with the header `X-Accel-Buffering: no` from the server it does not."""
    with socket.create_server(("127.0.0.1", number := port())) as listener:
        proxy = before(
            f"{TOPIC}/wrong_nginx_buffering.conf",
            number,
            **{"gzip on;": "", "gzip_types text/event-stream;": ""},
        )
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
            server, _ = listener.accept()
            with server:
                server.recv(65536)
                head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n" + header
                server.sendall(head + b"\r\ndata: one\n\n")
                if header:
                    got = b""
                    while b"data: one" not in got:
                        got += client.recv(65536)
                server.sendall(b"data: two\n\n")
                if not header:
                    client.settimeout(0.5)  # it would be there in a moment
                    with pytest.raises(TimeoutError):
                        client.recv(65536)
                    client.settimeout(30)
            got = b""
            while b"0\r\n\r\n" not in got:
                got += client.recv(65536)
            assert (b"data: one" in got) == (not header)
            assert b"data: two" in got


# Timers


def held(url, wait):
    """Submit a long job and hold a request for its status; return the response."""
    job = httpx2.post(f"{url}/jobs", json={"seconds": 60}).headers["Location"]
    return httpx2.get(f"{url}{job}", headers={"Prefer": f"wait={wait}"}, timeout=30)


SHORT = {"10s": "500ms"}


def test_a_timer_below_the_hold_is_504(instance, before, record):
    """A `timeout server` below the hold ends a held request: `504`, from HAProxy."""
    proxy = before(f"{TOPIC}/wrong_haproxy_timeout.cfg", instance.port, **SHORT)
    response = held(proxy.url, wait=2)
    assert response.status_code == 504
    record("load_balancing/wrong_haproxy_timeout.txt", f"504 {response.text}")
    right = before(f"{TOPIC}/haproxy.cfg", instance.port)
    assert held(right.url, wait=1).json()["status"] == "pending"


def test_without_timeout_tunnel_idle_websockets_are_closed(instance, before):
    """Without `timeout tunnel`, HAProxy's timeouts for clients and servers close an idle WebSocket:
    1006; with it, one that is as idle stays open."""
    wrong = before(f"{TOPIC}/wrong_haproxy_timeout.cfg", instance.port, **SHORT)
    right = before(f"{TOPIC}/haproxy.cfg", instance.port, **{"60s": "500ms"})
    expect_cut(wrong.url, right.url)


# Idle connections to the instances


def twice(proxy, wire, method, until_closed=False):
    """Send two requests through a balancer, the second when the first connection to the instance is
    idle, or closed; return the statuses."""
    statuses, ended = [], ("client", "end")  # nginx is the client of the instance
    with httpx2.Client(timeout=30) as client:
        for _ in range(2):
            statuses.append(client.request(method, proxy.url).status_code)
            if until_closed:
                wire.wait_until(lambda events: ended in {(e.source, e.kind) for e in events})
    return statuses


@pytest.fixture(scope="module")
def impatient(start_shared):
    """Return a server that closes a connection when the second request on it arrives: the race
    between a request and an idle timer, lost each time."""
    return start_shared("keep_alive/server_impatient.py")


def test_a_request_that_meets_a_close_gets_502_from_nginx(impatient, before, tap):
    """When an instance closes an idle connection just as a request is sent on it, nginx responds to
    a `POST` with `502` and logs `upstream prematurely closed connection`; it retries a `GET`."""
    wire = tap(impatient)
    proxy = before(f"{TOPIC}/wrong_nginx_keepalive.conf", wire.port)
    assert twice(proxy, wire, "GET") == [200, 200]
    wire = tap(impatient)
    proxy = before(f"{TOPIC}/wrong_nginx_keepalive.conf", wire.port)
    assert twice(proxy, wire, "POST") == [201, 502]
    proxy.wait_for("upstream prematurely closed connection")


def test_haproxy_closes_in_the_same_race(impatient, before):
    """In the same race HAProxy closes the client's connection without a response to a `POST`."""
    proxy = before(f"{TOPIC}/haproxy.cfg", impatient.port, **UNCHECKED)
    with httpx2.Client(timeout=30) as client:
        for _ in "abc":
            assert client.post(proxy.url).status_code == 201
        with pytest.raises(httpx2.RemoteProtocolError):
            client.post(proxy.url)  # on the idle connection to a


def test_a_proxy_that_closes_first_causes_no_502(impatient, before, tap):
    """An nginx that drops idle connections before the instance does opens a new one: no `502`."""
    wire = tap(impatient)
    short = {"keepalive_timeout 60s;": "keepalive_timeout 100ms;"}
    proxy = before(f"{TOPIC}/nginx.conf", wire.port, **short)
    assert twice(proxy, wire, "POST", until_closed=True) == [201, 201]


def test_idle_timeouts_of_the_files():
    """The right file keeps idle connections for less than Sanic's default, the wrong one for
    longer."""
    from sanic.config import DEFAULT_CONFIG

    kept = {
        name: int(re.search(r"keepalive_timeout (\d+)s", (EXAMPLES / TOPIC / name).read_text())[1])
        for name in ("nginx.conf", "wrong_nginx_keepalive.conf")
    }
    sanic = DEFAULT_CONFIG["KEEP_ALIVE_TIMEOUT"]
    assert kept["nginx.conf"] < sanic < kept["wrong_nginx_keepalive.conf"]


# A client that disconnects


def left(before, tap, instance, name, **changes):
    """Disconnect during a held request; return "left" if the instance notices, or "kept" if it
    holds the request to the end and responds."""
    wire = tap(instance)
    proxy = before(f"{TOPIC}/{name}", wire.port, **changes)
    job = httpx2.post(f"{instance.url}/jobs", json={"seconds": 60}).headers["Location"]
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(f"GET {job} HTTP/1.1\r\nHost: a\r\nPrefer: wait=1\r\n\r\n".encode())
        wire.wait_until(
            lambda events: any(
                b"Prefer" in event.data or b"prefer" in event.data for event in events
            )
        )
    wire.wait_until(lambda events: len(events) > 1)
    event = wire.events[1]
    return "kept" if event.source == "server" else "left"


def test_nginx_passes_a_disconnect_on(instance, before, tap):
    """When a client disconnects during a held request, nginx closes its connection to the instance,
    which stops holding."""
    assert left(before, tap, instance, "nginx.conf") == "left"


def test_haproxy_passes_a_disconnect_on_with_abortonclose(instance, before, tap):
    """HAProxy does the same with `option abortonclose` among the defaults; without it the instance
    holds to the end."""
    on, off = "option abortonclose ", "no option abortonclose "
    assert left(before, tap, instance, "haproxy.cfg", **UNCHECKED) == "left"
    assert left(before, tap, instance, "haproxy.cfg", **UNCHECKED, **{on: off}) == "kept"


def test_abortonclose_in_the_backend_only(instance, before, tap):
    """In the backend alone, `option abortonclose` has no effect up to HAProxy 2.6.12; from 2.9 on
    it works there."""
    backend = {
        "    option abortonclose ": "    no option abortonclose ",
        "    balance leastconn": "    option abortonclose\n    balance leastconn",
    }
    seen = left(before, tap, instance, "haproxy.cfg", **UNCHECKED, **backend)
    if version("haproxy") <= (2, 6, 12):
        assert seen == "kept"
    elif version("haproxy") >= (2, 9):  # in between, some have the repair
        assert seen == "left"
