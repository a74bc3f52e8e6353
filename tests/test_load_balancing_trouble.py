"""Load balancers: the settings that bite, each wrong once and right once."""

import re
import socket
import subprocess

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .support import parts
from .support.messages import messages
from .support.processes import EXAMPLES
from .test_load_balancing import ROOM, socket_at


@pytest.fixture(scope="module")
def copy(start_shared):
    """Return a copy that stands for all of them; it makes an event each tenth of a second."""
    return start_shared(f"{ROOM}/server.py", TICK=0.1, NOTICE=0, SPREAD=0)


def version(program):
    """Return the version of an installed proxy."""
    ran = subprocess.run([parts.found(program), "-v"], capture_output=True, text=True)
    said = re.search(r"(?:version |nginx/)([\d.]+)", ran.stdout + ran.stderr)[1]
    return tuple(int(number) for number in said.rstrip(".").split("."))


# Without checks of health: what is on the wire is what clients asked.
UNCHECKED = {"option httpchk GET /health": "", "check inter 1s fall 2 rise 1 ": ""}


@pytest.fixture
def before(start_proxy, port):
    """Start a balancer with all its ports in front of one: before(name, port, **changes)."""

    def before(name, target, **changes):
        text = (EXAMPLES / name).read_text()
        named = {int(number) for number in re.findall(r"127\.0\.0\.1:(\d+)", text)}
        ports = {number: port() if number in (8000, 8404) else target for number in named}
        return start_proxy(name, ports, **changes)

    return before


def told(name):
    """Return what a configuration says: its lines, without comments and options of servers."""
    text = re.sub(r"\s*#.*", "", (EXAMPLES / ROOM / name).read_text())
    lines = {" ".join(line.split()) for line in text.splitlines() if line.strip()}
    return {re.sub(r"^(server .*?127\.0\.0\.1:\d+).*", r"\1", line).rstrip(";") for line in lines}


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("wrong_nginx_upgrade.conf", "nginx.conf"),
        ("wrong_nginx_buffering.conf", "nginx.conf"),
        ("wrong_nginx_keepalive.conf", "nginx.conf"),
        ("wrong_haproxy_timeout.cfg", "haproxy.cfg"),
        ("haproxy_round_robin.cfg", "haproxy.cfg"),
    ],
)
def test_a_wrong_file_says_little_else(wrong, right):
    """What a wrong file says, and the right one does not, is two lines at most; the rest of what
    is wrong is what it leaves out."""
    assert len(told(wrong) - told(right)) <= 2, told(wrong) - told(right)


# Upgrade


def test_without_upgrade_no_socket_opens(start, before, record):
    """A nginx that does not pass `Upgrade` on opens no WebSocket: the copy sees a plain GET, and
    answers 426."""
    copy = start(f"{ROOM}/server.py", errors_expected=True, NOTICE=0)
    proxy = before(f"{ROOM}/wrong_nginx_upgrade.conf", copy.port)
    with pytest.raises(InvalidStatus) as refused:
        socket_at(proxy.url)
    assert refused.value.response.status_code == 426
    assert httpx2.post(f"{proxy.url}/jobs", json={"seconds": 0}).status_code == 202
    record("load_balancing/wrong_nginx_upgrade.txt", f"{refused.value}\n")


def test_with_upgrade_it_opens(copy, before, tap):
    """With the map a WebSocket opens, and a plain request keeps its connection to the copy."""
    wire = tap(copy)
    proxy = before(f"{ROOM}/nginx.conf", wire.port)
    with socket_at(proxy.url) as ws:
        assert ws.recv() == "a"
    with httpx2.Client() as client:
        for _ in range(3):
            assert client.get(f"{proxy.url}/health").status_code == 200
    asked = [message for message in messages(wire.events) if message.target]
    assert [message.target for message in asked] == ["/socket"] + ["/health"] * 3
    assert len({message.connection for message in asked}) == 2
    heads = [message.data.lower() for message in asked]
    assert b"connection: upgrade\r\n" in heads[0]
    assert not [head for head in heads[1:] if b"connection:" in head]


def test_without_keepalive_each_request_opens_a_connection(copy, before, tap):
    """A nginx before 1.29.7 that is not told to keep connections to the copies opens one for each
    request."""
    wire = tap(copy)
    proxy = before(f"{ROOM}/wrong_nginx_upgrade.conf", wire.port)
    with httpx2.Client() as client:
        for _ in range(3):
            assert client.get(f"{proxy.url}/health").status_code == 200
    assert wire.connections == (3 if version("nginx") < (1, 29, 7) else 1)


def test_haproxy_upgrades_by_itself(copy, before):
    """HAProxy needs no setting for a WebSocket to open."""
    assert "pgrade" not in (EXAMPLES / ROOM / "haproxy.cfg").read_text()
    with socket_at(before(f"{ROOM}/haproxy.cfg", copy.port).url) as ws:
        assert ws.recv() == "a"


# Buffering


def streamed(proxy, wire):
    """Ask for the stream by a client that takes gzip; when the copy has sent three events,
    return what has come of them."""
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


def test_a_buffered_stream_does_not_come(copy, before, tap):
    """Where nginx gathers a stream to compress it, nothing comes of the first three events, not
    even the head of the answer."""
    wire = tap(copy)
    proxy = before(f"{ROOM}/wrong_nginx_buffering.conf", wire.port)
    assert streamed(proxy, wire) == b""


def test_without_buffering_it_comes(copy, before, tap):
    """With `proxy_buffering off` the stream comes as it is sent, compressed or not."""
    for more in "", GZIP:
        wire = tap(copy)
        changes = {"proxy_buffering off;": f"proxy_buffering off; {more}"}
        proxy = before(f"{ROOM}/nginx.conf", wire.port, **changes)
        with httpx2.Client(timeout=30) as client:
            with client.stream("GET", f"{proxy.url}/events") as answer:
                lines = answer.iter_lines()
                assert [next(lines) for _ in range(3)] == ["data: a", "", "data: a"]
                assert answer.headers.get("Content-Encoding") == ("gzip" if more else None)


def test_chunks_pass_a_buffering_nginx(copy, before, tap):
    """Buffering alone does not delay a stream that the copy sends in chunks, as Sanic does."""
    wire = tap(copy)
    plain = {"gzip on;": "", "gzip_types text/event-stream;": ""}
    proxy = before(f"{ROOM}/wrong_nginx_buffering.conf", wire.port, **plain)
    with httpx2.stream("GET", f"{proxy.url}/events", timeout=30) as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == ["data: a", "", "data: a"]


@pytest.mark.parametrize("header", [b"", b"X-Accel-Buffering: no\r\n"])
def test_a_stream_without_chunks_is_buffered(before, port, header):
    """A stream whose end is the end of the connection is gathered until it ends; the header
    `X-Accel-Buffering: no` cures that from the server's side."""
    with socket.create_server(("127.0.0.1", number := port())) as listener:
        proxy = before(
            f"{ROOM}/wrong_nginx_buffering.conf",
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
    """Hand in a long job and hold a question about it; return the status."""
    job = httpx2.post(f"{url}/jobs", json={"seconds": 60}).headers["Location"]
    return httpx2.get(f"{url}{job}", headers={"Prefer": f"wait={wait}"}, timeout=30)


SHORT = {"10s": "500ms"}


def test_a_timer_below_the_hold_is_504(copy, before, record):
    """A `timeout server` below the hold cuts a held question: 504, from HAProxy."""
    proxy = before(f"{ROOM}/wrong_haproxy_timeout.cfg", copy.port, **SHORT)
    answer = held(proxy.url, wait=2)
    assert answer.status_code == 504
    record("load_balancing/wrong_haproxy_timeout.txt", f"504 {answer.text}")
    right = before(f"{ROOM}/haproxy.cfg", copy.port)
    assert held(right.url, wait=1).json()["status"] == "pending"


def test_without_a_timeout_for_tunnels_idle_sockets_are_cut(copy, before):
    """Where no `timeout tunnel` is set, that of the clients and servers cuts an idle WebSocket:
    1006; with it one lives on that is as idle."""
    wrong = before(f"{ROOM}/wrong_haproxy_timeout.cfg", copy.port, **SHORT)
    right = before(f"{ROOM}/haproxy.cfg", copy.port, **{"60s": "500ms"})
    with socket_at(right.url) as lasting, socket_at(wrong.url) as cut:
        assert lasting.recv() == cut.recv() == "a"
        with pytest.raises(ConnectionClosed):
            cut.recv()
        assert cut.close_code == 1006
        lasting.send("here?")
        assert lasting.recv() == "a: here?"


# Kept connections to the copies


def twice(proxy, wire, method, until_closed=False):
    """Send two requests through a balancer, the second when the first connection to the copy is
    idle, or closed; return the statuses."""
    statuses, ended = [], ("client", "end")  # what nginx is to the copy
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


def test_a_kept_connection_that_is_closed_is_502(impatient, before, tap):
    """When a copy closes an idle connection just as a request is sent on it, nginx answers a
    POST with 502; a GET it sends again."""
    wire = tap(impatient)
    proxy = before(f"{ROOM}/wrong_nginx_keepalive.conf", wire.port)
    assert twice(proxy, wire, "GET") == [200, 200]
    wire = tap(impatient)
    proxy = before(f"{ROOM}/wrong_nginx_keepalive.conf", wire.port)
    assert twice(proxy, wire, "POST") == [201, 502]


def test_haproxy_answers_nothing_in_that_race(impatient, before):
    """In the same race HAProxy answers a POST with nothing: it ends the client's connection, as
    if the client had lost the race itself."""
    proxy = before(f"{ROOM}/haproxy.cfg", impatient.port, **UNCHECKED)
    with httpx2.Client(timeout=30) as client:
        for _ in "abc":
            assert client.post(proxy.url).status_code == 201
        with pytest.raises(httpx2.RemoteProtocolError):
            client.post(proxy.url)  # on the connection to a that is there


def test_a_proxy_that_closes_first_sees_no_502(impatient, before, tap):
    """A nginx that drops idle connections before the copy does opens a new one: no 502."""
    wire = tap(impatient)
    short = {"keepalive_timeout 60s;": "keepalive_timeout 100ms;"}
    proxy = before(f"{ROOM}/nginx.conf", wire.port, **short)
    assert twice(proxy, wire, "POST", until_closed=True) == [201, 201]


def test_the_files_timers_are_in_that_order():
    """The right file keeps idle connections for less than Sanic's own default, the wrong one for
    longer."""
    from sanic.config import DEFAULT_CONFIG

    kept = {
        name: int(re.search(r"keepalive_timeout (\d+)s", (EXAMPLES / ROOM / name).read_text())[1])
        for name in ("nginx.conf", "wrong_nginx_keepalive.conf")
    }
    sanic = DEFAULT_CONFIG["KEEP_ALIVE_TIMEOUT"]
    assert kept["nginx.conf"] < sanic < kept["wrong_nginx_keepalive.conf"]


# A client that leaves


def left(before, tap, copy, name, **changes):
    """Leave a held question; return what the copy sees: "left", or "kept" if it answers."""
    wire = tap(copy)
    proxy = before(f"{ROOM}/{name}", wire.port, **changes)
    job = httpx2.post(f"{copy.url}/jobs", json={"seconds": 60}).headers["Location"]
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


def test_nginx_tells_the_copy_that_the_client_left(copy, before, tap):
    """When a client leaves a held question, nginx closes its connection to the copy, and the copy
    stops holding."""
    assert left(before, tap, copy, "nginx.conf") == "left"


def test_haproxy_tells_the_copy_with_abortonclose(copy, before, tap):
    """HAProxy does the same with `option abortonclose` among the defaults; without it the copy
    holds the question to its end, for nobody."""
    on, off = "option abortonclose ", "no option abortonclose "
    assert left(before, tap, copy, "haproxy.cfg", **UNCHECKED) == "left"
    assert left(before, tap, copy, "haproxy.cfg", **UNCHECKED, **{on: off}) == "kept"


def test_abortonclose_in_the_backend_alone(copy, before, tap):
    """In the backend alone `option abortonclose` does nothing up to HAProxy 2.6.12; from 2.9 on it
    works there."""
    backend = {
        "    option abortonclose ": "    no option abortonclose ",
        "    balance leastconn": "    option abortonclose\n    balance leastconn",
    }
    seen = left(before, tap, copy, "haproxy.cfg", **UNCHECKED, **backend)
    if version("haproxy") <= (2, 6, 12):
        assert seen == "kept"
    elif version("haproxy") >= (2, 9):  # in between, some have the repair
        assert seen == "left"
