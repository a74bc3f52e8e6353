"""Who may open a socket: pages of other origins, users, tokens that run out."""

import functools
import http.server
import json
import re
import threading
from contextlib import ExitStack, contextmanager

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from .support.messages import messages, table
from .support.parts import require_program
from .support.processes import EXAMPLES, TIMEOUT
from .support.sequence import in_order, sequence_diagram
from .support.wiretap import Tap

ROOM = "security"


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
    """Serves a folder, and logs nothing."""

    def log_message(self, *_):
        pass


# Of five digits: the recorder takes it for no port of ours, and it can be told from them.
ELSEWHERE = 18001


@pytest.fixture(scope="module")
def elsewhere():
    """Serve the pages of this room from another origin, as evil.html says; return its port."""
    handler = functools.partial(Quiet, directory=str(EXAMPLES / ROOM))
    with http.server.ThreadingHTTPServer(("127.0.0.1", ELSEWHERE), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ELSEWHERE
        server.shutdown()


@pytest.fixture(scope="module")
def serve(start_shared, port):
    """Start a server of this room behind a tap: serve(name) -> Tap, whose origin is its own."""
    with ExitStack() as taps:

        def serve(name, **variables):
            front = port()
            own = {"ORIGIN": f"http://127.0.0.1:{front}"}
            server = start_shared(f"{ROOM}/{name}", **(own | variables))
            return taps.enter_context(Tap(server.port, front))

        yield serve


@pytest.fixture(scope="module")
def bank(serve):
    """Return the servers that look at Origin, and that do not: {"server.py": Tap, …}."""
    return {name: serve(name) for name in ("server.py", "wrong_server.py")}


@contextmanager
def with_third_parties(browser, home, allowed):
    """Yield a browser that lets cookies of third parties pass, or does not.

    Chrome does unless told otherwise; Debian's Chromium, and private windows, do not.
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
    """Open evil.html on some origin; return what it shows once that says how it went."""
    page.goto(f"{url}/evil.html?url={target.url}")
    return page.locator("#got li").first.inner_text()


def session_of(server):
    """Log in; return what the cookie holds."""
    return httpx2.get(server.url).cookies["session"]


def asked(tap, path):
    """Return the last request for a path that a tap saw."""
    return [m for m in messages(tap.events[:]) if m.target == path][-1]


@pytest.fixture(scope="module")
def hijacked(bank, browser, elsewhere):
    """Return {server: what evil.html got}, opened by a user who is logged in at that server."""
    found = {}
    for name, server in bank.items():
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(server.url)
            visit(page, f"http://127.0.0.1:{elsewhere}", server)
            done = page.locator("#got li", has_text=re.compile("done|closed"))
            done.first.wait_for()
            found[name] = page.locator("#got li").all_inner_texts()
    return found


def handshake(tap):
    """Return the request and the status line of the last handshake on a tap, as text."""
    data = b"".join(e.data for e in tap.events if e.kind == "data" and e.source == "client")
    request = "GET /socket" + data.decode(errors="replace").split("GET /socket")[-1]
    answers = b"".join(e.data for e in tap.events if e.source == "server").decode(errors="replace")
    return request.split("\r\n\r\n")[0], re.findall(r"HTTP/1.1 (\d+)", answers)[-1]


def test_a_page_of_another_origin_reads_and_acts(hijacked, bank, elsewhere, record):
    """A page of another origin opens a socket to a server that checks no Origin: the browser sends
    the user's cookie along, and the page reads the user's secrets and acts in the user's name."""
    assert hijacked["wrong_server.py"] == [
        "alice has 1000 coins",
        "done for alice: give all coins to mallory",
    ]
    request, status = handshake(bank["wrong_server.py"])
    assert f"Origin: http://127.0.0.1:{elsewhere}" in request
    assert "Cookie: session=" in request
    assert status == "101"
    refused, answer = handshake(bank["server.py"])
    assert "Cookie: session=" in refused
    assert answer == "403"
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


def test_a_server_that_checks_origin_refuses_it(hijacked):
    """A server that checks Origin refuses the page with 403; all that the page sees is 1006."""
    assert hijacked["server.py"] == ["closed with 1006"]


def test_a_page_of_the_server_itself_is_let_in(bank, page):
    """A page of the server's own origin is let in by the server that checks."""
    page.goto(bank["server.py"].url)
    assert page.evaluate(FIRST_WORD, ws(bank["server.py"], "/socket")) == "alice has 1000 coins"


FIRST_WORD = """(url) => new Promise((tell) => {
    const socket = new WebSocket(url);
    socket.onmessage = ({ data }) => { socket.close(); tell(data); };
    socket.onclose = ({ code }) => tell(code);
})"""


def test_a_program_may_say_any_origin(bank):
    """Origin protects users of browsers: a program may send any Origin, or none, and is let in if
    it has the cookie; without the cookie it is refused with 401."""
    server = bank["server.py"]
    cookie = {"Cookie": f"session={session_of(server)}"}
    for origin in None, server.url:
        with connect(ws(server, "/socket"), origin=origin, additional_headers=cookie) as socket:
            assert socket.recv(TIMEOUT) == "alice has 1000 coins"
        with pytest.raises(InvalidStatus, match="401"):
            connect(ws(server, "/socket"), origin=origin).__enter__()


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "", "{own}.evil.example"])
def test_what_only_looks_like_the_origin_is_refused(bank, origin):
    """An Origin that is null, empty, or only begins like the right one is refused with 403."""
    server = bank["server.py"]
    cookie = {"Cookie": f"session={session_of(server)}"}
    with pytest.raises(InvalidStatus, match="403"):
        connect(
            ws(server, "/socket"),
            origin=origin.format(own=server.url),
            additional_headers=cookie,
        ).__enter__()


def test_the_cookie_is_no_script_s(bank, page, start):
    """The session cookie is for no script, is Lax unless told otherwise, and is Secure if pages of
    other sites are to send it, since browsers want that."""
    page.goto(bank["server.py"].url)
    assert page.evaluate("document.cookie") == ""
    lax = httpx2.get(bank["server.py"].url).headers["Set-Cookie"]
    assert "SameSite=Lax" in lax and "Secure" not in lax
    none = httpx2.get(start(f"{ROOM}/server.py", SAMESITE="None").url).headers["Set-Cookie"]
    assert "SameSite=None" in none and "Secure" in none


# SameSite


KINDS = {
    "`None; Secure`": {"sameSite": "None", "secure": True},
    "none is named": {},
    "`Lax`": {"sameSite": "Lax"},
    "`Strict`": {"sameSite": "Strict"},
}


def outcomes(context, server, kind):
    """Return {whose page: whether the cookie, of some kind, went along with its handshake}."""
    context.clear_cookies()
    cookie = {"name": "session", "value": session_of(server), "url": server.url}
    page = context.new_page()
    cdp = context.new_cdp_session(page)
    # Not by Playwright, which names a SameSite where none is named.
    assert cdp.send("Network.setCookie", cookie | KINDS[kind])["success"]
    page.goto(f"{server.url}/deeds")
    found = {"the server's own": page.evaluate(FIRST_WORD, ws(server, "/socket"))}
    found["another origin, the same site"] = visit(page, f"http://127.0.0.1:{ELSEWHERE}", server)
    found["another site"] = visit(page, f"http://localhost:{ELSEWHERE}", server)
    page.close()
    return {whose: "coins" in str(got) for whose, got in found.items()}


@pytest.fixture(scope="module")
def same_site(bank, browser, elsewhere, tmp_path_factory):
    """Return {kind of cookie: {whose page: whether it went along}}, with and without cookies of
    third parties."""
    server = bank["wrong_server.py"]
    with with_third_parties(browser, tmp_path_factory.mktemp("lax"), True) as lax:
        found = {kind: outcomes(lax, server, kind) for kind in KINDS}
    with with_third_parties(browser, tmp_path_factory.mktemp("strict"), False) as strict:
        blocked = outcomes(strict, server, "`None; Secure`")
    return found | {"`None; Secure`, third-party cookies blocked": blocked}


def test_same_site_does_not_stop_another_origin_of_the_site(same_site, record):
    """SameSite keeps the cookie from pages of another site, unless it is None and the browser lets
    cookies of third parties pass; another origin of the same site gets it even with Strict."""
    own, other, cross = zip(*(row.values() for row in same_site.values()), strict=True)
    assert all(own) and all(other)
    assert cross == (True, False, False, False, False)
    rows = [
        {"SameSite": kind} | {whose: "sent" if sent else "–" for whose, sent in row.items()}
        for kind, row in same_site.items()
    ]
    record("security/same_site.md", table(rows))


# What a page of another origin can do


ATTEMPTS = {
    "`fetch`, GET, with credentials": """(url) =>
        fetch(`${url}/deeds`, { credentials: "include" }).then((answer) => answer.text())""",
    "`fetch`, POST of plain text": """(url) => fetch(`${url}/jobs`, {
        method: "POST", credentials: "include", body: '"by text"',
    }).then((answer) => answer.text())""",
    "`fetch`, POST of JSON": """(url) => fetch(`${url}/jobs`, {
        method: "POST", credentials: "include", body: '"by json"',
        headers: { "Content-Type": "application/json" },
    }).then((answer) => answer.text())""",
    "`WebSocket`": """(url) => new Promise((tell, fail) => {
        const socket = new WebSocket(`${url.replace("http", "ws")}/socket`);
        const got = [];
        socket.onopen = () => socket.send("by socket");
        socket.onmessage = ({ data }) => {
            if (got.push(data) == 2) { socket.close(); tell(data); }
        };
        socket.onclose = fail;
    })""",
}


def attempt(page, script, server):
    """Try something from a page; return what it could read, or None."""
    return page.evaluate(f"(url) => ({script})(url).catch(() => null)", server.url)


@pytest.fixture(scope="module")
def attempts(bank, browser, elsewhere):
    """Return {server: {what a page of another origin tried: (sent, done, read)}}."""
    found = {}
    for name, server in bank.items():
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(server.url)
            page.goto(f"http://127.0.0.1:{elsewhere}/")
            found[name] = {}
            for what, script in ATTEMPTS.items():
                before, seen = len(deeds(server)), len(server.events)
                read = attempt(page, script, server)
                sent = any(
                    b"Cookie: session=" in event.data
                    for event in server.events[seen:]
                    if event.source == "client"
                )
                found[name][what] = sent, len(deeds(server)) > before, read is not None
    return found


def deeds(server):
    headers = {"Cookie": f"session={session_of(server)}"}
    return httpx2.get(f"{server.url}/deeds", headers=headers).json()


def test_cors_hides_answers_and_stops_nothing(attempts, record):
    """Without CORS, a page of another origin can send a GET and a POST of plain text, the latter
    starts a job in the user's name, and it reads no answer; a POST of JSON is not sent; on a
    WebSocket it sends and reads."""
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
            "what the page does": what,
            "it is sent, with the cookie": yes if sent else no,
            "it takes effect": yes if done else no,
            "the page reads the answer": yes if read else no,
        }
        for what, (sent, done, read) in found.items()
    ]
    record("security/attempts.md", table(rows))


def test_the_check_of_origin_stops_posts_as_well(attempts):
    """The server that checks Origin does nothing for a page of another origin, and tells it
    nothing."""
    assert not any(done or read for _, done, read in attempts["server.py"].values())


# EventSource


LISTEN = """(url) => new Promise((tell) => {
    const source = new EventSource(`${url}/events`, { withCredentials: true });
    source.onmessage = ({ data }) => { source.close(); tell(data); };
    source.onerror = () => { source.close(); tell(null); };
})"""


@pytest.fixture(scope="module")
def friendly(serve):
    """Return a server that allows one other origin."""
    return serve("server_cors.py", ORIGIN=f"http://127.0.0.1:{ELSEWHERE}")


def test_an_event_source_with_credentials_needs_to_be_allowed(serve, friendly, page, elsewhere):
    """A page of the one origin that the server names reads a stream that a cookie asked for; a page
    of any other origin reads nothing, unless the server repeats whatever Origin it is sent."""
    friend = f"http://127.0.0.1:{elsewhere}"
    right, wrong = friendly, serve("wrong_cors.py")
    page.goto(right.url)  # log in
    page.goto(friend)
    assert page.evaluate(LISTEN, right.url) == "alice has 1000 coins"
    page.goto(f"{wrong.url}/nothing")  # an origin that nobody named
    assert page.evaluate(LISTEN, right.url) is None
    page.goto(wrong.url)  # log in: cookies know no ports, so this one takes the other's place
    page.goto(f"{right.url}/nothing")
    assert page.evaluate(LISTEN, wrong.url) == "alice has 1000 coins"


def test_one_origin_is_allowed_and_no_other(friendly):
    """The named origin is repeated in the answer, with leave for credentials; no other is, however
    alike; and caches are told that it makes a difference."""
    friend = f"http://127.0.0.1:{ELSEWHERE}"
    for origin, allowed in [
        (friend, friend),
        (f"{friend}0", None),
        (f"{friend}.evil.example", None),
        ("null", None),
        ("", None),
    ]:
        headers = httpx2.get(friendly.url, headers={"Origin": origin}).headers
        assert headers.get("Access-Control-Allow-Origin") == allowed
        assert headers["Vary"] == "Origin"


def test_an_insecure_socket_is_not_opened_from_https(page):
    """A page that came by https opens no ws:// socket: the browser refuses before it sends a
    byte."""
    page.route("https://shop.example/**", lambda route: route.fulfill(body="<title>Shop</title>"))
    page.goto("https://shop.example/")
    trouble = page.evaluate(
        "() => { try { new WebSocket('ws://shop.example/'); } catch (e) { return e.name; } }"
    )
    assert trouble == "SecurityError"
