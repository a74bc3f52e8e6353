"""Keep-alive: one connection for many requests."""

import asyncio
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import httpx2
import pytest
import requests
import trustme
from sanic.config import DEFAULT_CONFIG
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from .support.browsing import both_browsers, expect_accessible, is_firefox, panel
from .support.crossing import certified, secured
from .support.messages import counts, exchanges, messages, table, transcript
from .support.threads import run_in_thread


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the server that counts connections and requests."""
    return start_shared("keep_alive/server.py")


def per_connection(wire):
    """Return how many requests each connection of a wire carried."""
    found = [m.connection for m in messages(wire.events) if m.source == "client"]
    return [found.count(number) for number in dict.fromkeys(found)]


# One connection for all


def test_one_client_reuses_one_connection(start, tap, run, record):
    """Ten requests of one client use one connection; ten requests of a client each use ten."""
    wire = tap(start("keep_alive/server.py"))
    result = run("keep_alive/client.py", URL=wire.url)
    assert result.returncode == 0
    assert per_connection(wire) == [10] + [1] * 10
    record("keep_alive/client.txt", result.stdout)


def test_one_curl_reuses_one_connection(start, tap, run, record):
    """One curl fetches several URLs over one connection; the next curl opens its own."""
    wire = tap(start("keep_alive/server.py"))
    result = run("keep_alive/client.sh", URL=wire.url)
    assert result.returncode == 0
    assert per_connection(wire) == [3, 1, 1, 1]
    record("keep_alive/curl.txt", result.stdout)


def test_a_plain_socket_sends_three_requests(start, tap, run, record):
    """A plain socket carries three requests in sequence; after `Connection: close` the server
    responds and closes the connection."""
    wire = tap(start("keep_alive/server.py"))
    result = run("keep_alive/by_hand.py", URL=wire.url)
    assert result.returncode == 0, result.stderr
    assert per_connection(wire) == [3]
    ends = [event.source for event in wire.events if event.kind == "end"]
    assert ends[0] == "server"
    responses = [response for _, response in exchanges(messages(wire.events))]
    sent = [response.headers["connection"] for response in responses]
    assert sent == ["keep-alive", "keep-alive", "close"]
    record("keep_alive/by_hand.txt", result.stdout)
    record(
        "keep_alive/wire.html",
        transcript(messages(wire.events), "Three requests on one connection"),
    )


def talk(port, *requests):
    """Send requests over one socket, one at a time; return the responses, None for none."""
    responses = []
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as stream:
        for request in requests:
            try:
                sock.sendall(request)
                head = b""
                while line := stream.readline().strip():
                    head += line.lower() + b"\r\n"
            except ConnectionError:
                head = b""
            if not head:
                responses.append(None)
                continue
            stream.read(int(re.search(rb"content-length: (\d+)", head)[1]))
            responses.append(head.decode())
    return responses


def get(version="1.1", connection=None):
    line = f"Connection: {connection}\r\n" if connection else ""
    return f"GET / HTTP/{version}\r\nHost: a\r\n{line}\r\n".encode()


PERSISTENCE = [
    ("1.1", None, True),
    ("1.1", "keep-alive", True),
    ("1.1", "close", False),
    ("1.0", None, False),
    ("1.0", "keep-alive", True),
]


def test_persistent_by_default(server, record):
    """With HTTP/1.1 the connection stays open unless one side sends `Connection: close`; with
    HTTP/1.0 it closes unless the client sends `keep-alive`."""
    rows = []
    for version, connection, stays in PERSISTENCE:
        first, second = talk(server.port, get(version, connection), get())
        value = re.search(r"connection: (\S+)", first)[1]
        assert (value == "keep-alive") == (second is not None) == stays
        rows.append(
            {
                "request": f"HTTP/{version}",
                "`Connection` in it": f"`{connection}`" if connection else "none",
                "`Connection` in the response": f"`{value}`",
                "a second request": "gets a response" if second else "gets none",
            }
        )
    record("keep_alive/persistence.md", table(rows).replace("--:", "---"))


def test_sanic_compares_the_whole_header(server):
    """Sanic keeps the connection only if `Connection` is exactly `keep-alive`; with another option
    beside it, Sanic closes."""
    first, second = talk(server.port, get(connection="keep-alive, X"), get())
    assert "connection: close" in first
    assert second is None


def test_sanic_sends_no_hint(server):
    """Sanic sends `Connection: keep-alive`, and no `Keep-Alive` header with a timeout."""
    (response,) = talk(server.port, get())
    assert "connection: keep-alive" in response
    assert "\r\nkeep-alive:" not in response


def test_keep_alive_can_be_turned_off(start):
    """With `KEEP_ALIVE` off, Sanic sends `Connection: close` and closes after each response."""
    server = start("keep_alive/server.py", SANIC_KEEP_ALIVE=False)
    first, second = talk(server.port, get(), get())
    assert "connection: close" in first
    assert second is None


def test_pipelined_responses_come_in_order(server):
    """Pipelined requests are processed in order, the fast one after the slow one."""
    slow = get().replace(b"GET /", b"GET /slow", 1)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(slow + get(connection="close"))
        responses = sock.makefile("rb").read().decode()
    assert re.findall(r'"request":(\d)', responses) == ["1", "2"]


# Pools


def send_concurrently(url, times, limits):
    async def send():
        async with httpx2.AsyncClient(limits=limits, timeout=30) as client:
            await asyncio.gather(*(client.get(url) for _ in range(times)))

    run_in_thread(send())


def test_a_pool_grows_to_its_limit(server, tap):
    """A connection carries one request at a time: six concurrent requests use six connections, or
    as many as the pool may have, and the rest wait."""
    free, narrow = tap(server), tap(server)
    start = time.monotonic()
    with ThreadPoolExecutor() as beside:
        list(
            beside.map(
                send_concurrently,
                [f"{free.url}/slow", f"{narrow.url}/slow"],
                [6, 6],
                [httpx2.Limits(), httpx2.Limits(max_connections=3)],
            )
        )
    assert per_connection(free) == [1] * 6
    assert per_connection(narrow) == [2] * 3
    assert time.monotonic() - start >= 2  # each takes a second


def test_pool_defaults(record):
    """By default httpx2 drops idle connections after seconds, Sanic after minutes, and requests has
    no setting for it; in httpx2, setting one limit makes the others unlimited."""
    limits = {
        "`httpx2.Client()`": httpx2._config.DEFAULT_LIMITS,
        "`httpx2.Limits(keepalive_expiry=4)`": httpx2.Limits(keepalive_expiry=4),
    }
    assert DEFAULT_CONFIG["KEEP_ALIVE"] is True
    rows = [
        {
            "pool": name,
            "connections at most": limit.max_connections or "no limit",
            "idle ones kept": limit.max_keepalive_connections or "no limit",
            "kept idle for": f"{limit.keepalive_expiry:g} s",
        }
        for name, limit in limits.items()
    ]
    assert rows[1]["connections at most"] == "no limit"
    adapter = signature(requests.adapters.HTTPAdapter)
    settings = {"pool_connections", "pool_maxsize", "max_retries", "pool_block"}
    assert set(adapter.parameters) == settings
    assert adapter.parameters["pool_block"].default is False
    rows.append(
        {
            "pool": "`requests.Session()`",
            "connections at most": "no limit",
            "idle ones kept": f"{adapter.parameters['pool_maxsize'].default} a host",
            "kept idle for": "no limit",
        }
    )
    idle = DEFAULT_CONFIG["KEEP_ALIVE_TIMEOUT"]
    assert idle > limits["`httpx2.Client()`"].keepalive_expiry
    rows.append(
        {
            "pool": "Sanic",
            "connections at most": "no limit",
            "idle ones kept": "all",
            "kept idle for": f"{idle} s",
        }
    )
    record("keep_alive/pools.md", table(rows))


def test_an_expired_connection_is_not_reused(server, tap):
    """A connection that was idle for longer than `keepalive_expiry` is not reused: the next request
    opens a new one."""
    wire = tap(server)
    with httpx2.Client(limits=httpx2.Limits(keepalive_expiry=0.5)) as client:
        client.get(wire.url)
        time.sleep(1)
        client.get(wire.url)
    assert per_connection(wire) == [1, 1]


# The browser


def responses(page):
    page.wait_for_selector("li:has-text('done'), li:has-text('failed')")
    return page.locator("#responses li").all_inner_texts()


def shown(page, button):
    page.click(button)
    return responses(page)


def test_the_browser_reuses_one_connection(open_client_page, server, tap):
    """A browser sends sequential requests over one connection."""
    wire = tap(server)
    lines = shown(open_client_page(wire.url), "#one")
    assert per_connection(wire) == [10]
    assert [line.split()[-1] for line in lines[:-1]] == [str(n) for n in range(1, 11)]
    assert len({line.split(",")[0] for line in lines[:-1]}) == 1
    assert lines[-1] == "done"


@both_browsers
def test_a_browser_opens_six_connections(open_client_page, server, tap):
    """A browser opens at most six HTTP/1.1 connections to a host: of eight concurrent requests, two
    wait for a connection."""
    wire = tap(server)
    page = open_client_page(wire.url)
    page.evaluate("document.getElementById('all').onclick()")
    assert sorted(per_connection(wire)) == [1, 1, 1, 1, 2, 2]
    assert sum("request 2" in line for line in responses(page)) == 2


@both_browsers
def test_firefox_opens_more_after_a_click(open_client_page, server, tap):
    """For requests that a click of the user starts, Firefox opens more than six connections to a
    host: for eight concurrent requests, eight. Chromium opens six."""
    wire = tap(server)
    page = open_client_page(wire.url)
    shown(page, "#all")
    assert len(per_connection(wire)) == (8 if is_firefox(page) else 6)


def test_the_browser_client_reports_errors(open_client_page, port, canned):
    """The browser client reports that it cannot connect, and the body of an error response."""
    assert "failed: " in shown(open_client_page(f"http://127.0.0.1:{port()}"), "#one")[0]
    refusing = canned((500, {"Access-Control-Allow-Origin": "*"}, "no paper"))
    assert shown(open_client_page(refusing.url), "#one") == ["failed: no paper"]


def test_the_panel_is_live(live, open_page):
    """Served by `make serve`, the panel runs the printed client against the printed server."""
    page = panel(open_page(f"{live.url}/techniques/keep-alive/"))
    client = page.frame_locator(".panel iframe")
    client.locator("#one").click()
    client.get_by_text("done").wait_for()
    lines = client.locator("#responses li").all_inner_texts()
    assert len(lines) == 11 and lines[0].startswith("connection ")
    expect_accessible(page, ".panel")


def test_the_panel_says_that_it_needs_the_live_site(static, open_page):
    """On a static host the panel reports that it needs the live site."""
    page = open_page(f"{static.url}/techniques/keep-alive/")
    assert "make serve" in page.inner_text(".panel")
    assert page.locator(".panel iframe").count() == 0


# TLS


def handshakes(wire):
    """Return the connections of a wire on which a client sent a ClientHello."""
    return [e.connection for e in wire.events if e.source == "client" and e.data[:1] == b"\x16"]


def test_each_connection_has_one_tls_handshake(start, tap, run):
    """With TLS each connection has one handshake, and a reused connection has no further one."""
    server = start("keep_alive/tls.py", NAME="127.0.0.1")
    wire = tap(server)
    trust = server.folder / "ca.pem"
    result = run("keep_alive/client.py", URL=wire.url.replace("http", "https"), SSL_CERT_FILE=trust)
    assert result.returncode == 0, result.stderr
    assert handshakes(wire) == list(range(1, 12))
    assert '{"connection":1,"request":10}' in result.stdout


def test_a_resumed_tls_session_is_shorter(start, tap):
    """A new TLS connection that resumes a session needs no certificate: the server's part of the
    handshake is less than half as long, on a new connection all the same."""
    server = start("keep_alive/tls.py", NAME="127.0.0.1")
    wire = tap(server)
    context = ssl.create_default_context(cafile=f"{server.folder}/ca.pem")
    session, reused = None, []
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", wire.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as sock,
        ):
            sock.sendall(get(connection="close"))
            while sock.recv(65536):
                pass
            session = sock.session
            reused.append(sock.session_reused)
    assert reused == [False, True]
    assert wire.connections == 2

    def first_flight(connection):
        return next(
            len(e.data) for e in wire.events if (e.connection, e.source) == (connection, "server")
        )

    assert first_flight(2) * 2 < first_flight(1)


# Polling


def test_polling_with_and_without_keep_alive(
    start_shared, tap_shared, run_shared, port, tmp_path, request, record
):
    """Short polling over one connection takes little more than half the round trips of polling with
    a connection for each request; with TLS, less than half, and a third of the bytes."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(trust := str(tmp_path / "ca.pem"))
    context = certified(authority, "127.0.0.1")
    cases = [(s, k) for s in ("http", "https") for k in (False, True)]
    rows, wires = [], []
    for scheme, keep in cases:
        server = start_shared("short_polling/server.py", SANIC_KEEP_ALIVE=keep)
        if scheme == "https":
            server = secured(server.port, port(), context)
            request.addfinalizer(server.close)
        wires.append(tap_shared(server))

    def poll(case, wire):
        url = wire.url.replace("http", case[0])
        # The job ends late in an interval: a handshake on a busy machine makes each one longer.
        pace = {"SECONDS": 7.4, "INTERVAL": 1.5}
        result = run_shared("short_polling/client.py", URL=url, SSL_CERT_FILE=trust, **pace)
        assert result.returncode == 0, result.stderr

    with ThreadPoolExecutor() as beside:
        list(beside.map(poll, cases, wires))
    plain = [counts(wire) for wire in wires[:2]]
    assert [row["requests"] for row in plain] == [6, 6]
    for (scheme, keep), wire in zip(cases, wires, strict=True):
        secure = scheme == "https"
        connections, requests = wire.connections, 6
        up, down = wire.bytes("client"), wire.bytes("server")
        if secure:  # a few bytes differ from one certificate and signature to the next
            up, down = (round(number / 1000) * 1000 for number in (up, down))
        rows.append(
            {
                "short polling": f"{scheme}, {'one for all' if keep else 'a connection each'}",
                "connections": connections,
                "requests": requests,
                "bytes up": up,
                "bytes down": down,
                "round trips": connections * (2 if secure else 1) + requests,
            }
        )
    assert [row["connections"] for row in rows] == [6, 1, 6, 1]
    trips = [row["round trips"] for row in rows]
    assert trips[1] < 0.6 * trips[0] and trips[3] < 0.5 * trips[2]
    each, one = (row["bytes up"] + row["bytes down"] for row in rows[2:])
    assert one <= each / 3
    record("keep_alive/polling.md", table(rows))


# Other things of that name


def test_a_websocket_ping_is_a_frame(tap):
    """A WebSocket ping is a frame of the protocol, bytes on the wire; the peer's library responds
    with a pong by itself."""

    class Here:
        port = None

    async def hold(websocket):
        await websocket.wait_closed()

    async def talk():
        async with serve(hold, "127.0.0.1", 0, ping_interval=None) as server:
            Here.port = server.sockets[0].getsockname()[1]
            wire = tap(Here)
            async with connect(f"ws://127.0.0.1:{wire.port}", ping_interval=None) as client:
                await (await client.ping(b"there?"))
                return [(e.source, e.data) for e in wire.events if e.kind == "data"]

    (sender, ping), (other, pong) = run_in_thread(talk())[-2:]
    assert (sender, ping[0], ping[1] & 127) == ("client", 0x89, 6)
    assert (other, pong) == ("server", b"\x8a\x06there?")
