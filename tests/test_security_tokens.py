"""Authentication of WebSockets by tokens and tickets, expiry, limits, and secrets in logs."""

import asyncio
import json
import re
import runpy
import time
from contextlib import suppress
from types import SimpleNamespace

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from .support.browsing import both_browsers
from .support.hostile import PROBE, Level, assert_level, flood, reset
from .support.processes import EXAMPLES, TIMEOUT, assert_clean_output
from .support.recorder import stable, wrap_lines
from .support.sockets import PING, PONG, TEXT, RawWebSocket, connect, frame
from .support.threads import run_in_thread
from .support.websocket_servers import SERVERS
from .test_security import HOSTILE_JSON, closed, ws

TOPIC = "security"


@pytest.fixture(scope="module")
def server(start_shared):
    """Return a server whose tokens outlive the tests."""
    return start_shared(f"{TOPIC}/server_auth.py")


@pytest.fixture(scope="module")
def impatient(start_shared):
    """Return a server whose tickets expire soon, and that does not wait long for a message."""
    return start_shared(f"{TOPIC}/server_auth.py", TICKET_TTL=1, AUTH_TIMEOUT=1)


@pytest.fixture(scope="module")
def short_lived(start_shared):
    """Return a server whose tokens expire while a client is connected."""
    return start_shared(f"{TOPIC}/server_auth.py", TOKEN_TTL=2)


def token(server, key="alice-key"):
    return httpx2.post(f"{server.url}/tokens", json={"key": key}).json()["token"]


def ticket(server, key="alice-key"):
    response = httpx2.post(f"{server.url}/tickets", json={"token": token(server, key)})
    assert response.headers["Cache-Control"] == "no-store"
    return response.json()["ticket"]


def first_message(server, **fields):
    """Return the first message of alice, with a new token."""
    return json.dumps({"token": token(server), "after": 0} | fields)


# Two ways to authenticate


def test_the_first_message_authenticates(server):
    """A client that sends its token in the first message is authenticated as the token's user."""
    for key, user in ("alice-key", "alice"), ("bob-key", "bob"):
        with connect(ws(server, "/events")) as socket:
            socket.send(json.dumps({"token": token(server, key), "after": 0}))
            assert json.loads(socket.recv(TIMEOUT)) == {"user": user}
            assert json.loads(socket.recv(TIMEOUT))["id"] == 1


def test_each_user_receives_only_its_own_events(start):
    """The server sends each event to its user and to no other, without a request; messages that a
    client sends meanwhile are ignored, and its pings get pongs."""
    server = start(f"{TOPIC}/server_auth.py")
    with connect(ws(server, "/events")) as alice, connect(ws(server, "/events")) as bob:
        both = (alice, "alice"), (bob, "bob")
        for socket, user in both:
            socket.send(json.dumps({"token": token(server, f"{user}-key"), "after": 0}))
            assert json.loads(socket.recv(TIMEOUT)) == {"user": user}
            assert json.loads(socket.recv(TIMEOUT))["id"] == 1
            socket.send("more")
            socket.send("and more")
            assert socket.ping().wait(TIMEOUT)
        for _, user in reversed(both):
            token(server, f"{user}-key")
        for socket, user in both:
            event = {"id": 2, "text": f"a token was issued to {user}"}
            assert json.loads(socket.recv(TIMEOUT)) == event


@pytest.mark.parametrize(
    "first",
    [
        "",
        "nonsense",
        "[]",
        "3",
        "{}",
        '{"token": "made-up", "after": 0}',
        '{"token": [1], "after": 0}',
        '{"token": null, "after": 0}',
        '{"token": "\\ud800", "after": 0}',
        '{"token": "x", "after": 1e999}',
        '{"token": "x", "after": %s}' % ("9" * 9_000),
        '{"token": "x", "after": ' + "[" * 9_000,
        *HOSTILE_JSON.values(),
    ],
    ids=lambda first: repr(first[:40]),
)
def test_an_invalid_first_message_is_4401(server, first):
    """A first message without a valid token is closed with 4401, whatever it is, and logs no
    traceback: also JSON nested thousands of levels deep, NaN, lone surrogates and long numbers."""
    with connect(ws(server, "/events")) as socket:
        socket.send(first)
        assert closed(socket) == (4401, "authenticate first")
    assert_clean_output(server.output)


def test_an_invalid_event_id_is_4401(server):
    """A valid token with an invalid event id is closed with 4401."""
    for after in None, "x", "1", [1], True, -1, 0.5, float("nan"), float("inf"):
        with connect(ws(server, "/events")) as socket:
            socket.send(first_message(server, after=after))
            assert closed(socket)[0] == 4401
    assert_clean_output(server.output)


def test_a_client_that_does_not_authenticate_is_closed(impatient):
    """A client that does not authenticate is closed with 4401 after AUTH_TIMEOUT."""
    with connect(ws(impatient, "/events")) as socket:
        assert closed(socket) == (4401, "authenticate first")


def test_a_ticket_is_valid_once(server):
    """A ticket authenticates its user once; the second connection is closed with 4401."""
    address = ws(server, f"/events/ticket?ticket={ticket(server, 'bob-key')}")
    with connect(address) as socket:
        assert json.loads(socket.recv(TIMEOUT)) == {"user": "bob"}
    with connect(address) as socket:
        assert closed(socket) == (4401, "get a new ticket")


def test_a_ticket_expires(impatient):
    """A ticket that is not used within TICKET_TTL is void."""
    old = ticket(impatient)
    time.sleep(1.5)  # it lives for one second: there is no event to wait for
    with connect(ws(impatient, f"/events/ticket?ticket={old}")) as socket:
        assert closed(socket) == (4401, "get a new ticket")


def test_invalid_tickets_are_4401(server):
    """A connection without a ticket, with an unknown one, with a token in its place, or with a
    valid ticket and an invalid event id is closed with 4401, without a traceback."""
    for query in (
        "",
        "?ticket=",
        "?ticket=made-up",
        f"?ticket={token(server)}",
        "?ticket=%ff",
        f"?ticket={ticket(server)}&after=x",
        f"?ticket={ticket(server)}&after=-1",
        f"?ticket={ticket(server)}&after=%D9%A3",  # a digit, and not ASCII
        f"?ticket={ticket(server)}&after={'9' * 5_000}",
    ):
        with connect(ws(server, f"/events/ticket{query}")) as socket:
            assert closed(socket) == (4401, "get a new ticket")
    assert_clean_output(server.output)


def test_invalid_keys_and_tokens_get_no_token_or_ticket(server):
    """A request for a token or ticket is rejected with 401 if the key or token is unknown, and with
    400 if the body is invalid, without a traceback: also hostile JSON."""
    for path, name in ("/tokens", "key"), ("/tickets", "token"):
        url = f"{server.url}{path}"
        assert httpx2.post(url, json={name: "made-up"}).status_code == 401
        bodies = b"{", b"[]", b"{}", b"3", b'{"%s": [1]}' % name.encode()
        for body in (*bodies, *HOSTILE_JSON.values()):
            response = httpx2.post(url, content=body)
            assert (response.status_code, response.json()["status"]) == (400, 400)
        for unknown in rb"\ud800", rb"\u0000", b"x" * 9_000:
            body = b'{"%s": "%s"}' % (name.encode(), unknown)
            assert httpx2.post(url, content=body).status_code == 401
    assert_clean_output(server.output)


@both_browsers
def test_a_browser_authenticates_by_ticket(short_lived, page):
    """The page in a browser opens its WebSocket with a ticket, and with another one when its token
    has expired; it continues with the next event."""
    page.goto(f"{(EXAMPLES / TOPIC / 'client.html').as_uri()}?url={short_lived.url}")
    end = "closed with 4401: the token has expired"
    page.locator("#events li", has_text=end).nth(1).wait_for()
    lines = page.locator("#events li").all_inner_texts()
    numbers = [int(line.split()[0]) for line in lines if line != end]
    assert numbers == list(range(1, len(numbers) + 1))
    first = lines.index(end)
    assert lines[first + 1 : first + 3] == [f"{first + 1} a token was issued to alice", end]


def test_a_flood_before_authentication_leaves_nothing(start):
    """A client that floods the server before it authenticates is closed with 4401; one that
    disconnects before it authenticates leaves no task, descriptor, memory or traceback either."""
    server = start(f"{TOPIC}/server_auth.py", **PROBE)
    before = Level.of(server)
    for _ in range(20):
        with RawWebSocket(server.port, "/events"):
            pass
    with RawWebSocket(server.port, "/events") as client:
        flood(client.socket, frame(TEXT, b"[" * 9_000))
        assert client.close_code() in {4401, 1006}  # 1006: the rest of the flood caused a reset
    client = RawWebSocket(server.port, "/events")
    flood(client.socket, frame(TEXT, b"[" * 9_000))
    reset(client.socket)
    assert_level(server, before)
    assert_clean_output(server.output)


@pytest.mark.parametrize("name", ["server.py", "server_auth.py", "server_limits.py"])
def test_a_server_with_open_connections_stops_cleanly(start, name):
    """A server that is stopped while WebSockets are open, authenticated or not, ends with
    status 0 and without a traceback."""
    server = start(f"{TOPIC}/{name}")
    row = next(row for row in SERVERS if row.name == f"{TOPIC}/{name}")
    clients = [row.open(server) for _ in range(5)]
    for client in clients:
        client.send(frame(PING, b"open"))
        client.wait_for(PONG, b"open")
    if name == "server_auth.py":
        clients += [RawWebSocket(server.port, row.path) for _ in range(5)]
    assert server.stop() == 0
    assert_clean_output(server.output)
    for client in clients:
        client.socket.close()


# Tokens that expire


def test_an_expired_token_ends_the_connection(short_lived):
    """When the token expires during a connection the server closes with 4401, whether the client
    authenticated by message or by ticket."""
    by_ticket = ws(short_lived, f"/events/ticket?ticket={ticket(short_lived)}")
    with connect(by_ticket) as socket:
        assert json.loads(socket.recv(TIMEOUT)) == {"user": "alice"}
        assert closed(socket) == (4401, "the token has expired")
    for _ in range(10):  # a loaded machine may deliver the token when it has expired already
        with connect(ws(short_lived, "/events")) as socket:
            socket.send(first_message(short_lived))
            with suppress(ConnectionClosed):
                assert json.loads(socket.recv(TIMEOUT)) == {"user": "alice"}
            if (end := closed(socket)) != (4401, "authenticate first"):
                break
    assert end == (4401, "the token has expired")


def test_the_client_continues_with_a_new_token(start, run, record):
    """The Python client requests a new token when its own has expired, and resumes: no event is
    missing or duplicate."""
    server = start(f"{TOPIC}/server_auth.py", TOKEN_TTL=1.5)
    output = run(f"{TOPIC}/client.py", URL=server.url, COUNT=3).stdout
    assert output.splitlines()[-1] == "0 missing, 0 duplicates"
    assert output.count("the token expired") == 2
    record("security/client.txt", output)


def test_a_client_that_was_never_accepted_does_not_retry(start, run, page):
    """A client that is closed with 4401 before it was accepted does not retry: with tokens that
    expire at once, the program ends, and the page reports it once."""
    server = start(f"{TOPIC}/server_auth.py", TOKEN_TTL=0)
    result = run(f"{TOPIC}/client.py", URL=server.url)
    assert result.returncode == 1
    assert result.stderr == "closed with 4401: authenticate first\n"
    page.goto(f"{(EXAMPLES / TOPIC / 'client.html').as_uri()}?url={server.url}")
    page.locator("#events li").first.wait_for()
    for _ in range(3):  # as long as three retries would take
        page.evaluate("(url) => fetch(`${url}/tokens`).catch(() => 0)", server.url)
    assert page.locator("#events li").all_inner_texts() == ["closed with 4401: get a new ticket"]


def test_a_server_that_checks_once_ignores_expiry(start):
    """A server that checks the token only once ignores its expiry: it rejects the token on a new
    connection, and still sends events on the old one."""
    server = start(f"{TOPIC}/wrong_expiry.py", TOKEN_TTL=1.5)
    first = first_message(server, after=1)
    with connect(ws(server, "/events")) as old:
        old.send(first)
        assert json.loads(old.recv(TIMEOUT)) == {"user": "alice"}
        while accepts(server, first):
            time.sleep(0.05)
        token(server)  # and that is an event
        assert json.loads(old.recv(TIMEOUT))["id"] == 2


def accepts(server, first):
    """Return whether a server still accepts that first message."""
    with connect(ws(server, "/events")) as socket:
        socket.send(first)
        try:
            return socket.recv(TIMEOUT)
        except ConnectionClosed:
            return False


@pytest.mark.parametrize(
    ("server", "variables"),
    [
        ("short_lived", {"KEY": "made-up"}),
        (None, {}),
        (None, {"URL": "nonsense"}),
        (None, {"URL": "http://127.0.0.1:99999"}),
        (None, {"URL": "http://[::1"}),
    ],
)
def test_the_client_ends_with_one_clear_line(server, variables, request, run, port):
    """A client ends with one line and an error if its key is rejected or it reaches no server."""
    url = request.getfixturevalue(server).url if server else f"http://127.0.0.1:{port()}"
    result = run(f"{TOPIC}/client.py", **({"URL": url} | variables))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


HOSTILE_MESSAGES = [
    "",
    "<h1>It works!</h1>",
    "null",
    "[1]",
    '{"token": 1, "user": null, "id": 1}',
    '{"id": NaN, "text": "x"}',
    '{"id": "1", "text": "x"}',
    r'{"id": 1, "text": "\ud800"}',
    r'{"id": 1, "text": "\u001b[2J"}',
    "[" * 9_000,
    "1" * 9_000,
]


@pytest.mark.parametrize("text", HOSTILE_MESSAGES, ids=lambda text: repr(text[:40]))
def test_the_client_rejects_malformed_messages(text):
    """The client raises one error of its own for each message that is not an event, also for JSON
    nested thousands of levels deep, NaN, lone surrogates and control characters."""
    client = runpy.run_path(str(EXAMPLES / TOPIC / "client.py"))
    with pytest.raises(client["ProtocolError"], match="received"):
        client["parse_event"](text)
    with pytest.raises(client["ProtocolError"], match="received"):
        client["parse_message"](text, token=str)


@pytest.mark.parametrize("body", ["<h1>It works!</h1>", "[" * 9_000, '{"token": 1}'])
def test_the_client_names_a_server_of_another_kind(run, canned, body):
    """The client ends with one line and an error if the response to its key has no token."""
    result = run(f"{TOPIC}/client.py", URL=canned((200, {}, body)).url)
    assert result.returncode == 1
    assert re.fullmatch("http.* is not a server of events: received .*\n", result.stderr)


# Limits


@pytest.fixture(scope="module")
def limited(start_shared):
    return start_shared(
        f"{TOPIC}/server_limits.py", MAX_CONNECTIONS=2, BURST=5, RATE=0.1, OWN_PROXIES=1
    )


def behind(address):
    """Return the header in which our proxy names the client of a request."""
    return {"additional_headers": {"X-Forwarded-For": address}}


def test_a_message_over_the_limit_is_1009(limited):
    """A message of the maximum size is accepted, and one byte more is closed with 1009."""
    with connect(ws(limited, "/echo"), **behind("10.0.0.1")) as socket:
        socket.send("x" * 10_000)
        assert len(socket.recv(TIMEOUT)) == 10_000
        socket.send("x" * 10_001)
        assert closed(socket)[0] == 1009


def test_too_many_messages_are_4429(limited):
    """A client may send a burst; the message after it is closed with 4429, on a second connection
    as well; another client is not closed."""
    with (
        connect(ws(limited, "/echo"), **behind("10.0.0.2")) as first,
        connect(ws(limited, "/echo"), **behind("10.0.0.2")) as second,
        connect(ws(limited, "/echo"), **behind("10.0.0.3")) as other,
    ):
        for socket in first, second, first, second, first:
            socket.send("x")
            assert socket.recv(TIMEOUT) == "x"
        for socket in first, second:
            socket.send("x")
            assert closed(socket) == (4429, "too many messages")
        other.send("x")
        assert other.recv(TIMEOUT) == "x"


def test_reconnecting_brings_no_new_burst(limited):
    """A client that has sent its burst and reconnects finds its bucket as it was."""
    options = behind("10.0.0.7")
    with connect(ws(limited, "/echo"), **options) as socket:
        for _ in range(5):
            socket.send("x")
            assert socket.recv(TIMEOUT) == "x"
    with connect(ws(limited, "/echo"), **options) as socket:
        socket.send("x")
        assert closed(socket) == (4429, "too many messages")


def test_a_full_bucket_is_dropped(monkeypatch):
    """The bucket of a disconnected client is dropped once it is full again, and not before."""
    monkeypatch.setenv("BURST", "4")
    monkeypatch.setenv("RATE", "2")
    limits = runpy.run_path(str(EXAMPLES / TOPIC / "server_limits.py"))
    now = [100.0]
    monkeypatch.setattr(limits["time"], "monotonic", lambda: now[0])
    bucket = limits["buckets"]["a"] = limits["TokenBucket"]()
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
    now[0] += 1
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] += 1.9
    limits["drop_bucket"]("a")
    assert "a" in limits["buckets"]
    now[0] += 1000  # it holds no more than a burst
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
    now[0] += 2
    limits["connections"]["a"] = 1
    limits["drop_bucket"]("a")
    assert "a" in limits["buckets"]
    del limits["connections"]["a"]
    limits["drop_bucket"]("a")
    assert limits["buckets"] == {}


def test_the_bucket_of_a_disconnected_client_is_dropped(monkeypatch):
    """When a client has disconnected and its bucket has had time to refill, the server keeps
    nothing of it, even if no other client connects."""
    monkeypatch.setenv("BURST", "1")
    monkeypatch.setenv("RATE", "100")
    limits = runpy.run_path(str(EXAMPLES / TOPIC / "server_limits.py"))

    class OneMessage:
        async def __aiter__(self):
            yield "x"

        async def send(self, message):
            assert limits["connections"]["a"] == 1

    async def connect_and_leave():
        await limits["echo"](SimpleNamespace(client_ip="a"), OneMessage())
        assert not limits["connections"]
        assert list(limits["buckets"]) == ["a"]
        await asyncio.sleep(0.05)  # however late: an event loop keeps the order of its timers
        assert not limits["buckets"]

    run_in_thread(connect_and_leave())


def test_the_bucket_refills(start):
    """A client that stays below the rate is not closed."""
    server = start(f"{TOPIC}/server_limits.py", BURST=1, RATE=1000)
    with connect(ws(server, "/echo")) as socket:
        for _ in range(20):
            time.sleep(0.01)  # ten times as long as one permit takes
            socket.send("x")
            assert socket.recv(TIMEOUT) == "x"


def test_too_many_connections_are_4429(limited):
    """A client may have MAX_CONNECTIONS; one more is closed with 4429, until one has ended."""
    options = behind("10.0.0.4")
    with connect(ws(limited, "/echo"), **options) as first:
        with connect(ws(limited, "/echo"), **options):
            with connect(ws(limited, "/echo"), **options) as third:
                assert closed(third) == (4429, "too many connections")
        wait_until_accepted(limited, options)
        first.send("x")
        assert first.recv(TIMEOUT) == "x"


def wait_until_accepted(server, options):
    """Return once a connection is accepted; the server notices a disconnect a little later."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with connect(ws(server, "/echo"), **options) as socket:
            try:
                socket.send("x")
                return socket.recv(TIMEOUT)
            except ConnectionClosed:
                time.sleep(0.02)
    raise AssertionError("no connection was accepted again")


def test_a_client_cannot_choose_its_address(limited, start):
    """Entries that a client itself writes into X-Forwarded-For have no effect: behind one proxy
    only the last entry counts, which the proxy wrote, and without proxies none does."""
    alone = start(f"{TOPIC}/server_limits.py", MAX_CONNECTIONS=1)
    with connect(ws(alone, "/echo"), **behind("10.1.1.1")) as first:
        first.send("x")
        first.recv(TIMEOUT)
        with connect(ws(alone, "/echo"), **behind("10.1.1.2")) as second:
            assert closed(second) == (4429, "too many connections")
    with (
        connect(ws(limited, "/echo"), **behind("10.2.2.1, 10.0.0.5")) as first,
        connect(ws(limited, "/echo"), **behind("10.2.2.2, 10.0.0.5")) as second,
        connect(ws(limited, "/echo"), **behind("10.2.2.3, 10.0.0.5")) as third,
    ):
        for socket in first, second:
            socket.send("x")
            socket.recv(TIMEOUT)
        assert closed(third) == (4429, "too many connections")


# Compression


def peak(server):
    """Return the maximum memory of a program so far, in KiB."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])


@pytest.fixture(scope="module")
def bombed(start_shared, run_shared, tap_shared):
    """Return {server: (bytes sent to it, KiB that it grew, output of bomb.py)}."""
    found = {}
    for name in "server_inflating.py", "wrong_inflating.py":
        server = start_shared(f"{TOPIC}/{name}")
        wire = tap_shared(server)
        before = peak(server)
        output = run_shared(f"{TOPIC}/bomb.py", URL=wire.url).stdout
        found[name] = wire.bytes("client"), peak(server) - before, output
    return found


def test_the_size_limit_applies_after_decompression(bombed, record):
    """The size limit applies to the message after decompression: a bomb, on the wire a thousandth
    of its size, is closed with 1009, and the server grows by less than a quarter of its size; a
    server without a limit holds all of it in memory."""
    sent, grown, output = bombed["server_inflating.py"]
    assert "1009" in output
    assert sent < 40_000
    assert grown < 8_000
    record("security/bomb.txt", output)
    sent, grown, output = bombed["wrong_inflating.py"]
    assert "32000000 bytes" in output
    assert sent < 40_000
    assert grown > 30_000
    record("security/wrong_bomb.txt", output)


def test_the_bomb_ends_with_one_clear_line(run, port):
    """The program bomb.py ends with one line and an error if it reaches no server."""
    for url in f"http://127.0.0.1:{port()}", "nonsense", "http://[::1", "http://127.0.0.1:99999":
        result = run(f"{TOPIC}/bomb.py", URL=url)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1


def test_sanic_accepts_no_compression(limited):
    """Sanic accepts no compression, so no message that it receives can inflate."""
    with connect(ws(limited, "/echo"), **behind("10.0.0.6")) as socket:
        offered = socket.request.headers["Sec-WebSocket-Extensions"]
        assert offered.startswith("permessage-deflate")
        assert "Sec-WebSocket-Extensions" not in socket.response.headers


# Secrets in URLs


LINK = "token=secret-of-a-link"


@pytest.fixture(scope="module")
def logged(server, assembled_shared, browser, port):
    """Return {configuration: (nginx's access log, the ticket of the handshake)}."""
    start_proxy, _ = assembled_shared
    found = {}
    for name in "nginx.conf", "wrong_nginx.conf":
        front = start_proxy(f"{TOPIC}/{name}", {8000: port(), 8001: server.port})
        used = ticket(server)
        log = front.folder / "access.log"
        # After a thousand, so that no event changes the size.
        with connect(ws(front, f"/events/ticket?ticket={used}&after=1000")) as socket:
            socket.recv(TIMEOUT)
        lines(log, 1)
        with browser.new_context(user_agent="Mozilla/5.0") as context:
            page = context.new_page()
            page.route("**/favicon.ico", lambda route: route.abort())
            page.goto(f"{front.url}/nothing?{LINK}")
            page.evaluate("fetch('/tokens', { method: 'POST', body: '{}' })")
        found[name] = lines(log, 3), used
    return found


def lines(log, number):
    """Return a log once it has that many lines."""
    end = time.monotonic() + TIMEOUT
    while log.read_text().count("\n") < number:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return log.read_text()


def test_an_access_log_contains_tickets_and_tokens_of_urls(logged, server, record):
    """The default access log of nginx contains the ticket of a handshake, the token in the URL of a
    page, and the same token in the Referer of a request of that page; a log of paths contains none
    of them."""
    log, used = logged["wrong_nginx.conf"]
    assert f"ticket={used}" in log
    assert len(re.findall(LINK, log)) == 2
    record("security/wrong_access.txt", wrap_lines(stable(log)))
    log, used = logged["nginx.conf"]
    assert used not in log and LINK not in log and "?" not in log
    record("security/access.txt", wrap_lines(stable(log)))


def test_a_ticket_from_a_log_is_void(logged, server):
    """A ticket from a log is void: it has been used."""
    _, used = logged["wrong_nginx.conf"]
    with connect(ws(server, f"/events/ticket?ticket={used}")) as socket:
        assert closed(socket) == (4401, "get a new ticket")


def test_the_error_log_contains_whole_urls(assembled_shared, port):
    """When a request fails, nginx writes its whole URL into the error log, even if its access log
    contains only paths."""
    start_proxy, _ = assembled_shared
    front = start_proxy(f"{TOPIC}/nginx.conf", {8000: port(), 8001: port()})
    assert httpx2.get(f"{front.url}/events/ticket?ticket=unused").status_code == 502
    front.wait_for('request: "GET /events/ticket?ticket=unused HTTP/1.1"')
    assert "unused" not in lines(front.folder / "access.log", 1)


def output_after_a_handshake(server):
    """Return the ticket of a handshake, and all that the server has printed when it has stopped."""
    used = ticket(server)
    with connect(ws(server, f"/events/ticket?ticket={used}")) as socket:
        socket.recv(TIMEOUT)
    server.stop()
    return used, server.output


def test_the_access_log_of_sanic_contains_whole_urls(start):
    """Sanic's access log, once enabled, contains the whole URL of a handshake."""
    server = start(f"{TOPIC}/server_auth.py", SANIC_ACCESS_LOG="true")
    used, output = output_after_a_handshake(server)
    assert f"/events/ticket?ticket={used}" in output


def test_sanic_writes_no_access_log_by_default(start):
    """Sanic writes no access log by default: after a handshake and a stop, its output has neither
    the path of a request nor the ticket."""
    used, output = output_after_a_handshake(start(f"{TOPIC}/server_auth.py"))
    assert "Worker ready" in output
    assert used not in output and "/events" not in output and "/tickets" not in output


def test_a_websocket_handshake_has_no_referer(server, tap, page):
    """A browser sends no Referer with a handshake, and to another origin only the page's origin."""
    wire = tap(server)
    page.goto(f"{server.url}/nothing?{LINK}")
    page.evaluate("(url) => fetch(`${url}/tokens`, { method: 'POST', body: '{}' })", wire.url)
    page.evaluate(
        "(url) => new Promise((resolve) => { new WebSocket(url).onclose = resolve; })",
        ws(wire, "/events/ticket"),
    )
    wire.wait_until(lambda events: any(b"GET /" in event.data for event in events))
    sent = b"".join(event.data for event in wire.events if event.source == "client")
    sent = sent.decode(errors="replace")
    post, handshake = sent[: sent.index("GET /")], sent[sent.index("GET /") :]
    assert re.findall(r"(?i)referer: (\S+)", post) == [f"{server.url}/"]
    assert "referer" not in handshake.lower()
    assert LINK not in sent
