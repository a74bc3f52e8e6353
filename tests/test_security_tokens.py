"""Who somebody is on a socket, for how long, how much they may send, and what logs give away."""

import asyncio
import difflib
import json
import re
import runpy
import time
from types import SimpleNamespace

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from .support.processes import EXAMPLES, TIMEOUT
from .support.recorder import stable, wrap_lines
from .support.threads import run_in_thread
from .test_security import closed, ws

ROOM = "security"


@pytest.fixture(scope="module")
def server(start_shared):
    """Return a server whose tokens outlive the proofs."""
    return start_shared(f"{ROOM}/server_auth.py", TICKET=1, HELLO=1)


@pytest.fixture(scope="module")
def brief(start_shared):
    """Return a server whose tokens run out while a client listens."""
    return start_shared(f"{ROOM}/server_auth.py", TOKEN=1)


def token(server, key="alice-key"):
    return httpx2.post(f"{server.url}/tokens", json={"key": key}).json()["token"]


def ticket(server, key="alice-key"):
    answer = httpx2.post(f"{server.url}/tickets", json={"token": token(server, key)})
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()["token"]


def hello(server, **words):
    return json.dumps({"token": token(server), "after": 0} | words)


# Two ways in


def test_the_first_message_says_who_it_is(server):
    """A client that sends its token in the first message is known by it."""
    for key, user in ("alice-key", "alice"), ("bob-key", "bob"):
        with connect(ws(server, "/events")) as socket:
            socket.send(json.dumps({"token": token(server, key), "after": 0}))
            assert json.loads(socket.recv(TIMEOUT)) == {"user": user}
            assert json.loads(socket.recv(TIMEOUT))["id"] == 1


def test_each_hears_of_its_own_at_once(start):
    """What happens is told at once, to the user whom it is about and to nobody else; what a client
    says meanwhile does no harm, and its pings are answered."""
    server = start(f"{ROOM}/server_auth.py")
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
            event = {"id": 2, "text": f"{user} got a token"}
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
        '{"token": [1]}',
        b"\xff",
    ],
)
def test_another_first_message_is_4401(server, first):
    """A first message that is no valid token is closed with 4401, whatever it is."""
    with connect(ws(server, "/events")) as socket:
        socket.send(first)
        assert closed(socket) == (4401, "say first who you are")


def test_a_number_that_is_none_is_4401(server):
    """A valid token beside something that is no number of an event is closed with 4401."""
    for after in None, "x", [1]:
        with connect(ws(server, "/events")) as socket:
            socket.send(hello(server, after=after))
            assert closed(socket)[0] == 4401


def test_a_client_that_says_nothing_is_closed(server):
    """A client that says nothing is closed with 4401 after a while: until it has said who it is, a
    socket costs the server something and is nobody's."""
    with connect(ws(server, "/events")) as socket:
        assert closed(socket) == (4401, "say first who you are")


def test_a_ticket_lets_in_once(server):
    """A ticket lets its user in, once; the second time it is closed with 4401."""
    address = ws(server, f"/events/ticket?ticket={ticket(server, 'bob-key')}")
    with connect(address) as socket:
        assert json.loads(socket.recv(TIMEOUT)) == {"user": "bob"}
    with connect(address) as socket:
        assert closed(socket) == (4401, "get a new ticket")


def test_a_ticket_is_void_after_a_while(server):
    """A ticket that was not used in time lets nobody in."""
    old = ticket(server)
    time.sleep(1.5)  # it lives for one second: there is no event to wait for
    with connect(ws(server, f"/events/ticket?ticket={old}")) as socket:
        assert closed(socket) == (4401, "get a new ticket")


def test_what_is_no_ticket_lets_nobody_in(server):
    """No ticket, a made-up one, a token in place of it, and a valid one beside nonsense are closed
    with 4401."""
    for words in (
        "",
        "?ticket=",
        "?ticket=made-up",
        f"?ticket={token(server)}",
        f"?ticket={ticket(server)}&after=x",
    ):
        with connect(ws(server, f"/events/ticket{words}")) as socket:
            assert closed(socket) == (4401, "get a new ticket")


def test_tokens_and_tickets_are_given_for_what_is_valid(server):
    """Tokens are given for keys and tickets for tokens: another key or token is 401, and what is
    neither is 400."""
    for path, name in ("/tokens", "key"), ("/tickets", "token"):
        url = f"{server.url}{path}"
        assert httpx2.post(url, json={name: "made-up"}).status_code == 401
        for body in b"{", b"[]", b"{}", b'{"%s": [1]}' % name.encode():
            answer = httpx2.post(url, content=body)
            assert answer.status_code == 400
            assert answer.json()["status"] == 400


def test_a_browser_comes_in_by_ticket(brief, page):
    """The page in a browser opens its socket with a ticket, and with a new one when its token has
    run out; it goes on with the next event."""
    page.goto(f"{(EXAMPLES / ROOM / 'client.html').as_uri()}?url={brief.url}")
    end = "closed with 4401: the token has run out"
    page.locator("#events li", has_text=end).nth(1).wait_for()
    lines = page.locator("#events li").all_inner_texts()
    numbers = [int(line.split()[0]) for line in lines if line != end]
    assert numbers == list(range(1, len(numbers) + 1))
    first = lines.index(end)
    assert lines[first + 1 : first + 3] == [f"{first + 1} alice got a token", end]


# A token that runs out


def test_a_token_that_runs_out_ends_the_connection(brief):
    """When the token runs out in mid-connection the server closes with 4401, both ways in."""
    for address, words in (
        (ws(brief, "/events"), [hello(brief)]),
        (ws(brief, f"/events/ticket?ticket={ticket(brief)}"), []),
    ):
        with connect(address) as socket:
            for word in words:
                socket.send(word)
            assert json.loads(socket.recv(TIMEOUT)) == {"user": "alice"}
            assert closed(socket) == (4401, "the token has run out")


def test_the_client_goes_on_with_a_new_token(start, run, record):
    """The Python client gets a new token when its own has run out, and goes on where it was:
    nothing is missing and nothing comes twice."""
    server = start(f"{ROOM}/server_auth.py", TOKEN=0.7)
    output = run(f"{ROOM}/client.py", URL=server.url, COUNT=3).stdout
    assert output.splitlines()[-1] == "0 missing, 0 twice"
    assert output.count("the token ran out") == 2
    record("security/client.txt", output)


def test_who_was_never_let_in_does_not_come_back(start, run, page):
    """A client that is closed with 4401 before it was let in does not try again and again: with
    tokens that are void at once, the program ends, and the page says so once."""
    server = start(f"{ROOM}/server_auth.py", TOKEN=0)
    result = run(f"{ROOM}/client.py", URL=server.url)
    assert result.returncode == 1
    assert result.stderr == "closed with 4401: say first who you are\n"
    page.goto(f"{(EXAMPLES / ROOM / 'client.html').as_uri()}?url={server.url}")
    page.locator("#events li").first.wait_for()
    for _ in range(3):  # as long as three more tries would take
        page.evaluate("(url) => fetch(`${url}/tokens`).catch(() => 0)", server.url)
    assert page.locator("#events li").all_inner_texts() == ["closed with 4401: get a new ticket"]


def test_a_server_that_looks_once_never_ends(start):
    """A server that looks at the token at the start alone goes on after it has run out: on a new
    socket it is refused, and the old one still tells what happens."""
    server = start(f"{ROOM}/wrong_expiry.py", TOKEN=0.7)
    first = hello(server, after=1)
    with connect(ws(server, "/events")) as old:
        old.send(first)
        assert json.loads(old.recv(TIMEOUT)) == {"user": "alice"}
        while lets_in(server, first):
            time.sleep(0.05)
        token(server)  # and that is an event
        assert json.loads(old.recv(TIMEOUT))["id"] == 2


def lets_in(server, first):
    """Return whether a server still takes that first message."""
    with connect(ws(server, "/events")) as socket:
        socket.send(first)
        try:
            return socket.recv(TIMEOUT)
        except ConnectionClosed:
            return False


@pytest.mark.parametrize(
    ("server", "words"),
    [("brief", {"KEY": "made-up"}), (None, {}), (None, {"URL": "nonsense"})],
)
def test_the_client_ends_with_one_clear_line(server, words, request, run, port):
    """A client whose key is refused, or that finds no server, ends with one line and an error."""
    url = request.getfixturevalue(server).url if server else f"http://127.0.0.1:{port()}"
    result = run(f"{ROOM}/client.py", **({"URL": url} | words))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


# Limits


@pytest.fixture(scope="module")
def limited(start_shared):
    return start_shared(f"{ROOM}/server_limits.py", EACH=2, BURST=5, RATE=0.1, PROXIES=1)


def behind(address):
    """Return the header with which our proxy tells whose request it passes on."""
    return {"additional_headers": {"X-Forwarded-For": address}}


def test_a_message_over_the_limit_is_1009(limited):
    """A message of the limit's size is taken, and one byte more is closed with 1009."""
    with connect(ws(limited, "/echo"), **behind("10.0.0.1")) as socket:
        socket.send("x" * 10_000)
        assert len(socket.recv(TIMEOUT)) == 10_000
        socket.send("x" * 10_001)
        assert closed(socket)[0] == 1009


def test_too_many_messages_are_4429(limited):
    """A client may send a burst; the message after that is closed with 4429, on a second connection
    as well, and another client is not."""
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


def test_coming_back_brings_no_new_burst(limited):
    """A client that has sent its burst, leaves and comes back finds its bucket as it was."""
    options = behind("10.0.0.7")
    with connect(ws(limited, "/echo"), **options) as socket:
        for _ in range(5):
            socket.send("x")
            assert socket.recv(TIMEOUT) == "x"
    with connect(ws(limited, "/echo"), **options) as socket:
        socket.send("x")
        assert closed(socket) == (4429, "too many messages")


def test_a_full_bucket_is_forgotten(monkeypatch):
    """What is kept of a client that left is dropped once its bucket is full again, and not
    before."""
    monkeypatch.setenv("BURST", "4")
    monkeypatch.setenv("RATE", "2")
    limits = runpy.run_path(str(EXAMPLES / ROOM / "server_limits.py"))
    now = [100.0]
    monkeypatch.setattr(limits["time"], "monotonic", lambda: now[0])
    bucket = limits["buckets"]["a"] = limits["Bucket"]()
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
    now[0] += 1
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] += 1.9
    limits["forget"]("a")
    assert "a" in limits["buckets"]
    now[0] += 1000  # it holds no more than a burst
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
    now[0] += 2
    limits["connected"]["a"] = 1
    limits["forget"]("a")
    assert "a" in limits["buckets"]
    del limits["connected"]["a"]
    limits["forget"]("a")
    assert limits["buckets"] == {}


def test_a_client_that_left_is_forgotten_by_itself(monkeypatch):
    """When a client has left and its bucket has had time to fill, nothing is kept of it, though
    nobody else comes."""
    monkeypatch.setenv("BURST", "1")
    monkeypatch.setenv("RATE", "100")
    limits = runpy.run_path(str(EXAMPLES / ROOM / "server_limits.py"))

    class SaysOneThing:
        async def __aiter__(self):
            yield "x"

        async def send(self, message):
            assert limits["connected"]["a"] == 1

    async def come_and_go():
        await limits["echo"](SimpleNamespace(client_ip="a"), SaysOneThing())
        assert not limits["connected"]
        assert list(limits["buckets"]) == ["a"]
        await asyncio.sleep(0.05)  # however late: a loop keeps the order of its timers
        assert not limits["buckets"]

    run_in_thread(come_and_go())


def test_the_bucket_fills_again(start):
    """Messages at the permitted rate are never too many."""
    server = start(f"{ROOM}/server_limits.py", BURST=1, RATE=1000)
    with connect(ws(server, "/echo")) as socket:
        for _ in range(20):
            time.sleep(0.01)  # ten times what it takes
            socket.send("x")
            assert socket.recv(TIMEOUT) == "x"


def test_too_many_connections_are_4429(limited):
    """A client may have so many connections; one more is closed with 4429, until one has gone."""
    options = behind("10.0.0.4")
    with connect(ws(limited, "/echo"), **options) as first:
        with connect(ws(limited, "/echo"), **options):
            with connect(ws(limited, "/echo"), **options) as third:
                assert closed(third) == (4429, "too many connections")
        wait_for_place(limited, options)
        first.send("x")
        assert first.recv(TIMEOUT) == "x"


def wait_for_place(server, options):
    """Return once a connection is taken; the server hears a little later that one has gone."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with connect(ws(server, "/echo"), **options) as socket:
            try:
                socket.send("x")
                return socket.recv(TIMEOUT)
            except ConnectionClosed:
                time.sleep(0.02)
    raise AssertionError("there never was a place again")


def test_a_client_cannot_choose_its_address(limited, start):
    """What a client itself writes into X-Forwarded-For changes nothing: behind one proxy the last
    entry counts, which that proxy wrote, and without proxies none does."""
    alone = start(f"{ROOM}/server_limits.py", EACH=1)
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


# What inflates


def peak(server):
    """Return the most memory that a program ever held, in KiB."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])


@pytest.fixture(scope="module")
def bombed(start_shared, run_shared, tap_shared):
    """Return {server: (bytes sent to it, KiB that it grew, what bomb.py said)}."""
    found = {}
    for name in "server_inflating.py", "wrong_inflating.py":
        server = start_shared(f"{ROOM}/{name}")
        wire = tap_shared(server)
        before = peak(server)
        said = run_shared(f"{ROOM}/bomb.py", URL=wire.url).stdout
        found[name] = wire.bytes("client"), peak(server) - before, said
    return found


def test_the_limit_is_for_what_comes_out(bombed, record):
    """The limit on size is for the message as it comes out: a bomb of a thousandth of its size is
    closed with 1009, and the server grows by less than a quarter of it; a server without a limit
    holds all of it."""
    sent, grown, said = bombed["server_inflating.py"]
    assert "1009" in said
    assert sent < 40_000
    assert grown < 8_000
    record("security/bomb.txt", said)
    sent, grown, said = bombed["wrong_inflating.py"]
    assert "32000000 bytes" in said
    assert sent < 40_000
    assert grown > 30_000
    record("security/wrong_bomb.txt", said)


def test_the_bomb_ends_with_one_clear_line(run, port):
    """A bomb that finds no server ends with one line and an error."""
    result = run(f"{ROOM}/bomb.py", URL=f"http://127.0.0.1:{port()}")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


def test_sanic_inflates_nothing(limited):
    """Sanic agrees to no compression, so nothing that it gets can inflate."""
    with connect(ws(limited, "/echo"), **behind("10.0.0.6")) as socket:
        offered = socket.request.headers["Sec-WebSocket-Extensions"]
        assert offered.startswith("permessage-deflate")
        assert "Sec-WebSocket-Extensions" not in socket.response.headers


# What addresses give away


LINK = "token=secret-of-a-link"


@pytest.fixture(scope="module")
def logged(server, assembled_shared, browser, port):
    """Return {configuration: (nginx's access log, the ticket that went into it)}."""
    start_proxy, _ = assembled_shared
    found = {}
    for name in "nginx.conf", "wrong_nginx.conf":
        front = start_proxy(f"{ROOM}/{name}", {8000: port(), 8001: server.port})
        used = ticket(server)
        log = front.folder / "access.log"
        # After a thousand, so that how many there were changes no size.
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
    """Return a log once it has so many lines."""
    end = time.monotonic() + TIMEOUT
    while log.read_text().count("\n") < number:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return log.read_text()


def test_an_access_log_has_what_is_in_addresses(logged, server, record):
    """The log that nginx writes by default has the ticket of a handshake, the token in the address
    of a page, and that token again as Referer of what the page asked for; a log of paths has none
    of them."""
    log, used = logged["wrong_nginx.conf"]
    assert f"ticket={used}" in log
    assert len(re.findall(LINK, log)) == 2
    record("security/wrong_access.txt", wrap_lines(stable(log)))
    log, used = logged["nginx.conf"]
    assert used not in log and LINK not in log and "?" not in log
    record("security/access.txt", wrap_lines(stable(log)))


def test_a_ticket_from_a_log_is_worth_nothing(logged, server):
    """Whoever reads a ticket in a log comes too late: it was used."""
    _, used = logged["wrong_nginx.conf"]
    with connect(ws(server, f"/events/ticket?ticket={used}")) as socket:
        assert closed(socket) == (4401, "get a new ticket")


def test_the_error_log_has_addresses_whatever_the_format(assembled_shared, port):
    """When something fails, nginx writes the whole address into its error log, also where its
    access log has paths alone."""
    start_proxy, _ = assembled_shared
    front = start_proxy(f"{ROOM}/nginx.conf", {8000: port(), 8001: port()})
    assert httpx2.get(f"{front.url}/events/ticket?ticket=still-good").status_code == 502
    front.wait_for('request: "GET /events/ticket?ticket=still-good HTTP/1.1"')
    assert "still-good" not in lines(front.folder / "access.log", 1)


def test_the_log_of_sanic_has_addresses_as_well(start):
    """Sanic's access log, once turned on, has the whole address of a handshake."""
    server = start(f"{ROOM}/server_auth.py", SANIC_ACCESS_LOG="true")
    used = ticket(server)
    with connect(ws(server, f"/events/ticket?ticket={used}")) as socket:
        socket.recv(TIMEOUT)
    server.wait_for(f"/events/ticket?ticket={used}")


def test_sanic_writes_no_access_log_unless_asked(server):
    """Sanic writes no access log unless it is asked to."""
    used = ticket(server)
    with connect(ws(server, f"/events/ticket?ticket={used}")) as socket:
        socket.recv(TIMEOUT)
    assert used not in server.output


def test_a_socket_has_no_referer(server, tap, page):
    """A browser names the page's own address in no handshake, and to another origin only its
    origin."""
    wire = tap(server)
    page.goto(f"{server.url}/nothing?{LINK}")
    page.evaluate("(url) => fetch(`${url}/tokens`, { method: 'POST', body: '{}' })", wire.url)
    page.evaluate(
        "(url) => new Promise((done) => { new WebSocket(url).onclose = done; })",
        ws(wire, "/events/ticket"),
    )
    wire.wait_until(lambda events: any(b"GET /" in event.data for event in events))
    sent = b"".join(event.data for event in wire.events if event.source == "client")
    sent = sent.decode(errors="replace")
    post, handshake = sent[: sent.index("GET /")], sent[sent.index("GET /") :]
    assert re.findall(r"(?i)referer: (\S+)", post) == [f"{server.url}/"]
    assert "referer" not in handshake.lower()
    assert LINK not in sent


def test_wrong_programs_differ_in_a_few_lines():
    """Each wrong program is the right one, but for a few lines."""
    for right, wrong, most in (
        ("server.py", "wrong_server.py", 8),
        ("server_cors.py", "wrong_cors.py", 6),
        ("server_auth.py", "wrong_expiry.py", 14),
        ("server_inflating.py", "wrong_inflating.py", 2),
        ("nginx.conf", "wrong_nginx.conf", 5),
    ):
        assert 0 < differences(right, wrong) <= most, wrong


def differences(right, wrong):
    """Return how many lines differ below the heads of two programs, indentation apart."""
    bodies = []
    for name in right, wrong:
        text = (EXAMPLES / ROOM / name).read_text()
        body = text.split('"""', 2)[-1] if name.endswith(".py") else text.split("\n\n", 1)[1]
        bodies.append([line.strip() for line in body.splitlines() if line.strip()])
    return sum(line[0] in "-+" for line in difflib.ndiff(*bodies))
