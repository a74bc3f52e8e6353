"""Which pages may open a WebSocket: Origin, cookies, CORS and mixed content."""

import functools
import http.server
import json
import re
import threading
from contextlib import ExitStack, contextmanager

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .support.messages import table
from .support.parts import require_program
from .support.processes import EXAMPLES, TIMEOUT, assert_clean_output, wait_until
from .support.sequence import in_order, sequence_diagram
from .support.sockets import connect
from .support.wiretap import Tap

TOPIC = "security"


def ws(server, path):
    return server.url.replace("http", "ws") + path


def closed(socket):
    """Read to the end of a connection; return (code, reason) of the server's close frame."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            socket.recv(TIMEOUT)
    return caught.value.rcvd.code, caught.value.rcvd.reason


# Pages of another origin


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve a folder without a log."""

    def log_message(self, *_):
        pass


# It has five digits: the recorder keeps it, because it is not a port of the tests.
OTHER_PORT = 18001


@pytest.fixture(scope="module")
def other_origin():
    """Serve the pages of this topic from the origin that evil.html names; return its port."""
    handler = functools.partial(Quiet, directory=str(EXAMPLES / TOPIC))
    with http.server.ThreadingHTTPServer(("127.0.0.1", OTHER_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield OTHER_PORT
        server.shutdown()


@pytest.fixture(scope="module")
def serve(start_shared, port):
    """Start a server of this topic behind a tap, whose origin it has: serve(name) -> Tap."""
    with ExitStack() as taps:

        def serve(name, **variables):
            front = port()
            own = {"ORIGIN": f"http://127.0.0.1:{front}"}
            server = start_shared(f"{TOPIC}/{name}", **(own | variables))
            return taps.enter_context(Tap(server.port, front))

        yield serve


@pytest.fixture(scope="module")
def servers(serve):
    """Return the servers that check Origin and that do not: {"server.py": Tap, …}."""
    return {name: serve(name) for name in ("server.py", "wrong_server.py")}


@contextmanager
def third_party_cookies(browser, home, allowed):
    """Yield a browser that allows third-party cookies, or does not.

    Chrome does by default; Debian's Chromium and private windows do not.
    """
    (home / "Default").mkdir()
    settings = {"cookie_controls_mode": 1 - allowed, "block_third_party_cookies": not allowed}
    (home / "Default" / "Preferences").write_text(json.dumps({"profile": settings}))
    with browser.browser_type.launch_persistent_context(
        home,
        executable_path=require_program("chromium"),
        chromium_sandbox=False,
        args=["--disable-gpu", "--no-first-run", "--disable-background-networking"],
    ) as context:
        yield context


def visit(page, url, target):
    """Open evil.html on some origin; return the first line that it shows."""
    page.goto(f"{url}/evil.html?url={target.url}")
    return page.locator("#received li").first.inner_text()


def session_of(server):
    """Log in; return the value of the session cookie."""
    return httpx2.get(server.url).cookies["session"]


@pytest.fixture(scope="module")
def hijacked(servers, browser, other_origin):
    """Return {server: what evil.html received}, opened by a user with a session there."""
    found = {}
    for name, server in servers.items():
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(server.url)
            visit(page, f"http://127.0.0.1:{other_origin}", server)
            done = page.locator("#received li", has_text=re.compile("done|closed"))
            done.first.wait_for()
            found[name] = page.locator("#received li").all_inner_texts()
    return found


def handshake(tap):
    """Return the request and the status line of the last handshake on a tap, as text."""
    data = b"".join(e.data for e in tap.events if e.kind == "data" and e.source == "client")
    request = "GET /socket" + data.decode(errors="replace").split("GET /socket")[-1]
    responses = b"".join(e.data for e in tap.events if e.source == "server").decode(
        errors="replace"
    )
    return request.split("\r\n\r\n")[0], re.findall(r"HTTP/1.1 (\d+)", responses)[-1]


def test_a_page_of_another_origin_reads_and_acts(hijacked, servers, other_origin, record):
    """A page of another origin opens a WebSocket to a server that does not check Origin: the
    browser adds the user's cookie, and the page reads the user's data and acts as the user."""
    assert hijacked["wrong_server.py"] == [
        "alice has 1000 coins",
        "done for alice: give all coins to mallory",
    ]
    request, status = handshake(servers["wrong_server.py"])
    assert f"Origin: http://127.0.0.1:{other_origin}" in request
    assert "Cookie: session=" in request
    assert status == "101"
    rejected, status = handshake(servers["server.py"])
    assert "Cookie: session=" in rejected
    assert status == "403"
    rows = [
        ("up", "alice's cookie, Origin: evil", "server 1"),
        ("down", "101", "no check"),
        ("down", "alice has 1000 coins", ""),
        ("up", "give all coins to mallory", ""),
        ("down", "done for alice", ""),
        ("up", "alice's cookie, Origin: evil", "server 2"),
        ("down", "403", "checks it"),
    ]
    drawn = in_order(rows)
    record("security/hijack.json", drawn)
    record(
        "security/hijack.svg",
        sequence_diagram(
            drawn,
            "A page of another origin opens a WebSocket",
            "The page of another origin requests a WebSocket; the browser adds the cookie of "
            "alice. The server that does not check Origin responds with 101, sends what alice has "
            "and does what the page wants. The server that checks Origin responds with 403.",
        ),
    )
    lines = [line for line in request.split("\r\n") if re.match("GET|Host|Origin|Cookie|Upg", line)]
    record("security/hijack.txt", "\n".join(lines) + "\n")


def test_a_server_that_checks_origin_rejects_other_pages(hijacked):
    """A server that checks Origin rejects the handshake with 403; the page only sees 1006."""
    assert hijacked["server.py"] == ["closed with 1006"]


def test_a_page_of_the_own_origin_is_accepted(servers, page):
    """A server that checks Origin accepts a page of its own origin."""
    page.goto(servers["server.py"].url)
    assert (
        page.evaluate(FIRST_MESSAGE, ws(servers["server.py"], "/socket")) == "alice has 1000 coins"
    )


FIRST_MESSAGE = """(url) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onmessage = ({ data }) => { socket.close(); resolve(data); };
    socket.onclose = ({ code }) => resolve(code);
})"""


def test_a_program_may_send_any_origin(servers):
    """Origin protects users of browsers only: a program may send the server's own Origin or none,
    and is accepted with the cookie; without the cookie it is rejected with 401."""
    server = servers["server.py"]
    cookie = {"Cookie": f"session={session_of(server)}"}
    for origin in None, server.url:
        with connect(ws(server, "/socket"), origin=origin, additional_headers=cookie) as socket:
            assert socket.recv(TIMEOUT) == "alice has 1000 coins"
        with pytest.raises(InvalidStatus, match="401"):
            connect(ws(server, "/socket"), origin=origin).__enter__()


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "", "{own}.evil.example"])
def test_origins_that_resemble_its_own_are_rejected(servers, origin):
    """An Origin that is null, empty, or only begins like the right one is rejected with 403."""
    server = servers["server.py"]
    cookie = {"Cookie": f"session={session_of(server)}"}
    with pytest.raises(InvalidStatus, match="403"):
        connect(
            ws(server, "/socket"),
            origin=origin.format(own=server.url),
            additional_headers=cookie,
        ).__enter__()


def test_scripts_cannot_read_the_session_cookie(servers, page, start):
    """Scripts cannot read the session cookie; it is Lax by default, and Secure with SameSite=None,
    which browsers require."""
    page.goto(servers["server.py"].url)
    assert page.evaluate("document.cookie") == ""
    lax = httpx2.get(servers["server.py"].url).headers["Set-Cookie"]
    assert "SameSite=Lax" in lax and "Secure" not in lax
    none = httpx2.get(start(f"{TOPIC}/server.py", SAMESITE="None").url).headers["Set-Cookie"]
    assert "SameSite=None" in none and "Secure" in none


# SameSite


KINDS = {
    "`None; Secure`": {"sameSite": "None", "secure": True},
    "none is named": {},
    "`Lax`": {"sameSite": "Lax"},
    "`Strict`": {"sameSite": "Strict"},
}


def outcomes(context, server, kind):
    """Return {page: whether its handshake had the cookie, which is of some kind}, and whether a
    link of a page of another site sends it."""
    context.clear_cookies()
    cookie = {"name": "session", "value": session_of(server), "url": server.url}
    page = context.new_page()
    cdp = context.new_cdp_session(page)
    # Not by Playwright, which sets a SameSite where none is set.
    assert cdp.send("Network.setCookie", cookie | KINDS[kind])["success"]
    page.goto(f"{server.url}/actions")
    found = {"the server's own": page.evaluate(FIRST_MESSAGE, ws(server, "/socket"))}
    found["another origin, the same site"] = visit(page, f"http://127.0.0.1:{OTHER_PORT}", server)
    found["another site"] = visit(page, f"http://localhost:{OTHER_PORT}", server)
    sent = {origin: "coins" in str(message) for origin, message in found.items()}
    page.evaluate("(url) => { location.href = url; }", f"{server.url}/actions")
    page.wait_for_url(f"{server.url}/actions")
    sent["a link from another site"] = "log in first" not in page.inner_text("body")
    page.close()
    return sent


@pytest.fixture(scope="module")
def same_site(servers, browser, other_origin, tmp_path_factory):
    """Return {kind of cookie: {page: whether the cookie was sent}}, with and without third-party
    cookies."""
    server = servers["wrong_server.py"]
    with third_party_cookies(browser, tmp_path_factory.mktemp("lax"), True) as lax:
        found = {kind: outcomes(lax, server, kind) for kind in KINDS}
    with third_party_cookies(browser, tmp_path_factory.mktemp("strict"), False) as strict:
        blocked = outcomes(strict, server, "`None; Secure`")
    return found | {"`None; Secure`, third-party cookies blocked": blocked}


def test_same_site_does_not_stop_another_origin_of_the_site(same_site, record):
    """SameSite keeps the cookie from the handshakes of another site, unless it is None and the
    browser allows third-party cookies; a link of another site sends it unless it is Strict;
    another origin of the same site sends it even then."""
    own, other, cross, link = zip(*(row.values() for row in same_site.values()), strict=True)
    assert all(own) and all(other)
    assert cross == (True, False, False, False, False)
    assert link == (True, True, True, False, True)
    rows = [
        {"SameSite": kind} | {origin: "sent" if sent else "–" for origin, sent in row.items()}
        for kind, row in same_site.items()
    ]
    record("security/same_site.md", table(rows))


# What a page of another origin can do


ATTEMPTS = {
    "`fetch`, GET, with credentials": """(url) =>
        fetch(`${url}/actions`, { credentials: "include" }).then((response) => response.text())""",
    "`fetch`, POST of plain text": """(url) => fetch(`${url}/jobs`, {
        method: "POST", credentials: "include", body: '"by text"',
    }).then((response) => response.text())""",
    "`fetch`, POST of JSON": """(url) => fetch(`${url}/jobs`, {
        method: "POST", credentials: "include", body: '"by json"',
        headers: { "Content-Type": "application/json" },
    }).then((response) => response.text())""",
    "`WebSocket`": """(url) => new Promise((resolve, reject) => {
        const socket = new WebSocket(`${url.replace("http", "ws")}/socket`);
        const received = [];
        socket.onopen = () => socket.send("by socket");
        socket.onmessage = ({ data }) => {
            if (received.push(data) == 2) { socket.close(); resolve(data); }
        };
        socket.onclose = reject;
    })""",
}


def attempt(page, script, server):
    """Run an attempt in a page; return what the page could read, or None."""
    return page.evaluate(f"(url) => ({script})(url).catch(() => null)", server.url)


@pytest.fixture(scope="module")
def attempts(servers, browser, other_origin):
    """Return {server: {attempt of a page of another origin: (sent, done, read)}}."""
    found = {}
    for server_name, server in servers.items():
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(server.url)
            page.goto(f"http://127.0.0.1:{other_origin}/")
            found[server_name] = {}
            for name, script in ATTEMPTS.items():
                before, seen = len(actions(server)), len(server.events)
                read = attempt(page, script, server)
                sent = any(
                    b"Cookie: session=" in event.data
                    for event in server.events[seen:]
                    if event.source == "client"
                )
                found[server_name][name] = sent, len(actions(server)) > before, read is not None
    return found


def actions(server):
    headers = {"Cookie": f"session={session_of(server)}"}
    return httpx2.get(f"{server.url}/actions", headers=headers).json()


def test_cors_hides_responses_and_stops_no_simple_request(attempts, record):
    """If the server allows no origin by CORS, a page of another origin can send a GET and a POST of
    plain text, which takes effect as the user, and reads no response; the browser does not send a
    POST of JSON; on a WebSocket the page sends and reads."""
    yes, no = "yes", "–"
    found = attempts["wrong_server.py"]
    assert list(found.values()) == [
        (True, False, False),
        (True, True, False),
        (False, False, False),
        (True, True, True),
    ]
    rows = [
        {
            "request of the page": attempt,
            "sent, with the cookie": yes if sent else no,
            "it takes effect": yes if done else no,
            "the page reads the response": yes if read else no,
        }
        for attempt, (sent, done, read) in found.items()
    ]
    record("security/attempts.md", table(rows))


def test_checking_origin_stops_posts_as_well(attempts):
    """A server that checks Origin does nothing that a page of another origin requests, and sends it
    no data."""
    assert not any(done or read for _, done, read in attempts["server.py"].values())


# Hostile input

HOSTILE_JSON = {
    "nested": b"[" * 9_000,
    "nested object": b'{"a":' * 1_900,
    "NaN": b"NaN",
    "infinity": b"1e999",
    "a lone surrogate": rb'"\ud800"',
    "a control character": rb'"a\u001bb"',
    "not UTF-8": b'"\xff"',
    "many digits": b"1" * 9_000,
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_bodies_are_400(start_shared, name):
    """The server rejects JSON that is nested thousands of levels deep, NaN, lone surrogates,
    control characters and broken UTF-8 with 400, logs no traceback, and records no action; the
    same before a login is 401."""
    server = start_shared(f"{TOPIC}/server.py")
    body, headers = HOSTILE_JSON[name], {"Cookie": f"session={session_of(server)}"}
    response = httpx2.post(f"{server.url}/jobs", content=body, headers=headers)
    assert (response.status_code, response.json()["status"]) == (400, 400)
    assert httpx2.post(f"{server.url}/jobs", content=body).status_code == 401
    assert actions(server) == []
    assert_clean_output(server.output)


@pytest.mark.parametrize("message", ["a\x1bb", "a\nb", "\u202e", b"\xff", b"text"])
def test_unprintable_messages_are_1008(start_shared, message):
    """The server closes a WebSocket that sends control characters or binary data with 1008."""
    server = start_shared(f"{TOPIC}/server.py")
    cookie = {"Cookie": f"session={session_of(server)}"}
    with connect(ws(server, "/socket"), additional_headers=cookie) as socket:
        socket.send(message)
        assert closed(socket) == (1008, "send printable text")
    assert actions(server) == []
    assert_clean_output(server.output)


# EventSource


LISTEN = """(url) => new Promise((resolve) => {
    const source = new EventSource(`${url}/events`, { withCredentials: true });
    source.onmessage = ({ data }) => { source.close(); resolve(data); };
    source.onerror = () => { source.close(); resolve(null); };
})"""


@pytest.fixture(scope="module")
def one_allowed(serve):
    """Return a server that allows one other origin."""
    return serve("server_cors.py", ORIGIN=f"http://127.0.0.1:{OTHER_PORT}")


def test_an_event_source_with_credentials_must_be_allowed(serve, one_allowed, page, other_origin):
    """A page of the allowed origin reads an event stream with the user's cookie; a page of any
    other origin reads nothing, unless the server returns whatever Origin it receives."""
    allowed_origin = f"http://127.0.0.1:{other_origin}"
    right, wrong = one_allowed, serve("wrong_cors.py")
    page.goto(right.url)  # log in
    page.goto(allowed_origin)
    assert page.evaluate(LISTEN, right.url) == "alice has 1000 coins"
    page.goto(f"{wrong.url}/nothing")  # an origin that is not allowed
    assert page.evaluate(LISTEN, right.url) is None
    page.goto(wrong.url)  # log in: cookies ignore ports, so this one replaces the other
    page.goto(f"{right.url}/nothing")
    assert page.evaluate(LISTEN, wrong.url) == "alice has 1000 coins"


def test_one_origin_is_allowed_and_no_other(one_allowed):
    """A response names the allowed origin and allows credentials; to any other origin, however
    similar, it does not; and Vary names Origin, for caches."""
    allowed_origin = f"http://127.0.0.1:{OTHER_PORT}"
    for origin, allowed in [
        (allowed_origin, allowed_origin),
        (f"{allowed_origin}0", None),
        (f"{allowed_origin}.evil.example", None),
        ("null", None),
        ("", None),
    ]:
        headers = httpx2.get(one_allowed.url, headers={"Origin": origin}).headers
        assert headers.get("Access-Control-Allow-Origin") == allowed
        assert headers["Vary"] == "Origin"


@pytest.mark.parametrize(("name", "path"), [("server", "/actions"), ("server_cors", "/events")])
def test_sessions_are_bounded_and_expire(start, name, path):
    """A session ends after SESSION_TTL seconds; with MAX_SESSIONS of them, a further login is
    rejected with 503 and Retry-After until one has ended, and no session ends early."""
    server = start(f"{TOPIC}/{name}.py", MAX_SESSIONS=2, SESSION_TTL=3600)
    cookies = [httpx2.get(server.url).cookies for _ in range(2)]
    for _ in range(2):
        rejected = httpx2.get(server.url)
        assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "60")
        assert not rejected.cookies
    assert [httpx2.get(server.url + path, cookies=each).status_code for each in cookies] == [
        200
    ] * 2
    server = start(f"{TOPIC}/{name}.py", MAX_SESSIONS=1, SESSION_TTL=0.3)
    for _ in range(2):
        session = {}
        while not session:  # the one before has to end
            session = httpx2.get(server.url).cookies
        wait_until(
            lambda session=session: (
                httpx2.get(server.url + path, cookies=session).status_code == 401
            )
        )


def test_a_browser_blocks_insecure_websockets_on_https_pages(page):
    """A page loaded by https cannot open a ws:// WebSocket: the browser blocks it before it sends a
    byte."""
    page.route("https://shop.example/**", lambda route: route.fulfill(body="<title>Shop</title>"))
    page.goto("https://shop.example/")
    error = page.evaluate(
        "() => { try { new WebSocket('ws://shop.example/'); } catch (e) { return e.name; } }"
    )
    assert error == "SecurityError"
