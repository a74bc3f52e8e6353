"""Coming back: when, how often, and how to notice that it is time to."""

import asyncio
import ctypes
import difflib
import random
import re
import runpy
import select
import signal
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Thread
from types import SimpleNamespace
from uuid import uuid4

import httpx2
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_async
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response
from websockets.sync.client import connect
from websockets.sync.server import serve
from websockets.utils import accept_key

from .support.bars import histograms
from .support.messages import table
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)
from .support.threads import run_in_thread

ROOM = "reconnecting"


def module(monkeypatch, name, **variables):
    """Return what an example defines, as it is with these variables."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, str(value))
    return runpy.run_path(str(EXAMPLES / ROOM / name))


@pytest.fixture
def follow(tmp_path):
    """Run clients of this room beside the proof: follow("client.py", URL=…) -> Program."""
    running = []

    def follow(name, **variables):
        home = copy_isolated(EXAMPLES / ROOM / name, tmp_path / f"follower-{len(running)}")
        running.append(Program(argv(EXAMPLES / ROOM / name), home, environment(**variables)))
        return running[-1]

    yield follow
    for client in running:
        if client.process.poll() is None:
            client.send(signal.SIGKILL)
            client.wait()


@pytest.fixture
def serving(port):
    """Serve WebSockets with a handler of the proof's own: serving(handler) -> URL."""
    started = []

    def serving(handler):
        server = serve(handler, "127.0.0.1", number := port())
        thread = Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{number}"

    yield serving
    for server, thread in started:
        server.shutdown()
        thread.join()


# The wait


def test_the_wait_is_random_below_a_bound(monkeypatch):
    """The client waits at random, below a bound that doubles with each failure in a row, from
    five seconds to a minute."""
    wait = module(monkeypatch, "client.py")["wait"]
    for failures, bound in enumerate([5, 10, 20, 40, 60, 60]):
        waits = [wait(failures) for _ in range(1000)]
        assert 0.9 * bound < max(waits) <= bound
        assert min(waits) < 0.1 * bound


# --8<-- [start:strategies]
def bound(failures):
    return 5 * min(2**failures, 12)


def no_jitter(failures):
    return bound(failures)


def equal_jitter(failures):
    return bound(failures) / 2 + random.uniform(0, bound(failures) / 2)


# --8<-- [end:strategies]


# --8<-- [start:simulate]
def simulate(wait, clients=1000, away=12):
    """Return the times at which clients knock that were cut off together, at 0.

    Each is let in at its first try after the server came back.
    """
    random.seed(1)
    knocks = []
    for _ in range(clients):
        now, failures = 0, 0
        while now < away:
            now += wait(failures)
            failures += 1
            knocks.append(now)
    return knocks


# --8<-- [end:simulate]


def per_second(times):
    counts = Counter(int(at) for at in times)
    return [counts[second] for second in range(max(counts) + 1)]


def test_a_storm_and_none(monkeypatch, record):
    """Of a thousand clients that were cut off together for twelve seconds, those that wait the
    same time come in the same second, all of them; with full jitter the worst second after the
    server is back has less than a tenth of them."""
    away = 12
    ways = {
        "the same time for all": module(monkeypatch, "wrong_fixed_delay.py")["wait"],
        "doubled, no jitter": no_jitter,
        "doubled, equal jitter": equal_jitter,
        "doubled, full jitter": module(monkeypatch, "client.py")["wait"],
    }
    rows, drawn = [], {}
    for name, wait in ways.items():
        knocks = simulate(wait, away=away)
        drawn[name] = per_second(knocks)
        back = drawn[name][away:]
        rows.append(
            {
                "wait": name,
                "tries in all": len(knocks),
                "most in a second": max(drawn[name]),
                "most in a second, once it is back": max(back),
                "the last is back after": f"{len(back)} s",
            }
        )
    worst = [row["most in a second, once it is back"] for row in rows]
    assert worst[0] == worst[1] == 1000
    assert worst[3] < worst[2] < 1000
    assert worst[3] < 100
    record("reconnecting/storm.md", table(rows))
    shown = ["the same time for all", "doubled, no jitter", "doubled, full jitter"]
    record(
        "reconnecting/storm.svg",
        histograms(
            [
                (name, f"at most {max(drawn[name]):,} per second", drawn[name][:40])
                for name in shown
            ],
            "s",
            away,
            "connection attempts",
            "A thousand clients reconnect",
            "Connection attempts in each second, for a server that is down for twelve: "
            + "; ".join(f"{name}: at most {max(drawn[name])}" for name in shown)
            + ". Without jitter they fall into single seconds, with full jitter they are spread.",
        ),
    )


class Restarted:
    """Clients, a server, and when they come to the next one."""

    def __init__(self, follow, port, number):
        self.follow, self.port, self.number = follow, port, number
        self.came, self.greeted = [], Counter()
        self.everyone = asyncio.Event()

    def serve(self):
        came = self.came

        class Noting(ServerConnection):
            def connection_made(self, transport):
                came.append(time.monotonic())
                super().connection_made(transport)

        async def welcome(websocket):
            await websocket.send('{"text": "welcome"}')
            await websocket.wait_closed()

        options = {"create_connection": Noting, "ping_interval": None, "compression": None}
        options["backlog"] = 1000  # or else the kernel spreads them a little
        return serve_async(welcome, "127.0.0.1", self.port, **options)

    def handle(self, client):
        self.greeted[client] += 1
        if len(self.greeted) == self.number:
            self.everyone.set()
        return self.greeted[client] == 2

    async def run(self):
        url = f"ws://127.0.0.1:{self.port}"
        async with self.serve():
            clients = [
                asyncio.create_task(self.follow(url, lambda _, n=n: self.handle(n)))
                for n in range(self.number)
            ]
            await self.everyone.wait()
            self.came.clear()
        async with self.serve():
            await asyncio.gather(*clients)
        return self.came


def busiest(times, window):
    """Return how many came in the busiest window."""
    return max(sum(start <= at < start + window for at in times) for start in times)


def test_a_storm_for_real(monkeypatch, port):
    """Of a hundred and fifty real sockets that a restart cuts off, those that wait the same
    time come back together; with jitter the busiest quarter of the wait has less than half as
    many."""

    async def both():
        names = "client.py", "wrong_fixed_delay.py"
        follows = [module(monkeypatch, name, BACKOFF=3)["follow"] for name in names]
        return await asyncio.gather(*(Restarted(f, port(), 150).run() for f in follows))

    jittered, fixed = run_in_thread(both())
    assert min(len(jittered), len(fixed)) >= 150
    assert busiest(fixed, 0.75) > 2 * busiest(jittered, 0.75)


# Sockets


def test_comes_back_after_a_restart(start, follow):
    """A client comes back to a server that was restarted, and to one that was killed."""
    server = start(f"{ROOM}/server.py", TICK=0.05)
    client = follow("client.py", URL=server.url, BACKOFF=0.1, COUNT=30, TRIES=1000)
    client.wait_for("tick")
    assert server.stop() == 0
    client.wait_for("closed with 1012")
    server = start(f"{ROOM}/server.py", PORT=server.port, TICK=0.05)
    seen = client.output.count("tick")
    wait_until(lambda: client.output.count("tick") > seen)
    server.stop(signal.SIGKILL)
    client.wait_for("closed with 1006")
    start(f"{ROOM}/server.py", PORT=server.port, TICK=0.05)
    assert client.wait() == 0
    assert client.output.count("tick") == 30


def test_a_connection_alone_is_no_success(serving, run, follow, record):
    """From a server that accepts and drops, the client gives up after so many tries; one that
    counts a connection as success never does, and never waits longer, either."""
    dropped = []

    def drop(websocket):
        dropped.append(websocket)
        websocket.close(1013)

    url = serving(drop)
    result = run(f"{ROOM}/client.py", URL=url, BACKOFF=0.01, TRIES=5)
    assert result.returncode == 1
    assert result.stderr == "gave up: 5 failures in a row\n"
    assert len(dropped) == 5
    record("reconnecting/client.txt", result.stdout + result.stderr)
    wrong = follow("wrong_counts_connect.py", URL=url, BACKOFF=0.01, TRIES=5)
    wait_until(lambda: len(dropped) > 5 + 50)
    assert wrong.process.poll() is None


def test_what_it_hears_starts_the_count_again(serving, run):
    """A connection on which something came is no failure, however soon it ends."""
    url = serving(lambda websocket: websocket.send('{"text": "tick"}'))
    result = run(f"{ROOM}/client.py", URL=url, BACKOFF=0.01, TRIES=2, COUNT=6)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tick") == 6


def test_a_handshake_that_is_refused_is_tried_later(start, run):
    """A client whose handshake is answered 503 comes back no sooner than Retry-After says."""
    server = start(f"{ROOM}/server.py", RATE=0.2)  # the client has 5 s to start
    assert httpx2.get(f"{server.url}/orders").status_code == 200  # room for one
    before = time.monotonic()
    result = run(f"{ROOM}/client.py", URL=server.url, COUNT=1, BACKOFF=0.01)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("answered 503: not before 5 s\n")
    assert time.monotonic() - before > 4


@pytest.mark.parametrize("code", [1008, 4400])
def test_refused_is_refused(serving, run, code):
    """A client that is closed with 1008, or a code of the application's own, stays away."""
    result = run(f"{ROOM}/client.py", URL=serving(lambda websocket: websocket.close(code)))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"gave up: refused with {code}: \n"


def test_clients_end_with_one_line(run, port, canned, serving):
    """Whatever goes wrong, each client ends with one line that says what."""
    nobody = f"http://127.0.0.1:{port()}"
    quick = {"BACKOFF": 0.01, "TRIES": 2}
    nonsense = serving(lambda websocket: websocket.send("[]"))
    for name, url, words in [
        ("client.py", nobody, "gave up: 2 failures in a row"),
        ("client.py", "nonsense", "no WebSocket at nonsense"),
        ("client.py", canned((404, {}, "no")).url, "gave up: refused with 404"),
        ("client.py", canned((200, {}, "<h1>It works!</h1>")).url, "gave up: refused with 200"),
        ("client.py", nonsense, "is no server of events"),
        ("retry.py", nobody, "gave up: 2 tries"),
        ("retry.py", "nonsense", "no answer from nonsense"),
        ("retry.py", canned((500, {}, "oops")).url, "answered 500"),
        ("retry.py", canned((200, {}, "<h1>It works!</h1>")).url, "does not take orders"),
        ("retry.py", canned((503, {"Retry-After": "3600"}, "")).url, "gave up: told to come back"),
    ]:
        result = run(f"{ROOM}/{name}", URL=url, **quick)
        assert result.returncode == 1, (name, url)
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr


# The server's part


def test_the_gate_gives_out_times(monkeypatch, record):
    """Of two hundred that knock at once a gate of fifty a second lets in fifty, and tells the
    others to come in one, two and three seconds, fifty each; then each is let in."""
    gate = module(monkeypatch, "server.py")["Gate"](50)
    told = Counter(gate.retry_after(100.0) for _ in range(200))
    assert told == {0: 50, 1: 50, 2: 50, 3: 50}
    for later in 1, 2, 3:
        assert {gate.retry_after(100.0 + later) for _ in range(50)} == {0}
    rows = [
        {"of 200 at once": "let in" if not later else f"`Retry-After: {later}`", "clients": number}
        for later, number in sorted(told.items())
    ]
    record("reconnecting/gate.md", table(rows))


def test_too_many_at_once_are_told_when(start):
    """The server refuses what is too much before anything is done, a handshake as well."""
    server = start(f"{ROOM}/server.py", RATE=0.1)
    assert httpx2.get(f"{server.url}/orders").json() == {"orders": 0}
    answer = httpx2.post(f"{server.url}/orders")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "10"
    assert answer.json()["message"] == "too many at once"


# HTTP


def test_each_order_is_placed_once(start, run, record):
    """With a key for each order, a lost answer costs a try and no second order: two wanted, two
    placed."""
    result = run(f"{ROOM}/retry.py", URL=start(f"{ROOM}/server.py").url, BACKOFF=0.05)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == [
        "order 1",
        "order 2",
        "2 orders wanted, 2 placed",
    ]
    record("reconnecting/retry.txt", result.stdout)


def test_without_a_key_it_is_done_twice(start, run, record):
    """A client that sends an order again without a key places three where two were wanted."""
    result = run(f"{ROOM}/wrong_retry_post.py", URL=start(f"{ROOM}/server.py").url, BACKOFF=0.05)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "2 orders wanted, 3 placed"
    record("reconnecting/wrong_retry_post.txt", result.stdout)


def test_at_once_is_too_soon(start, run, record):
    """A client that asks again at once has used up its tries before the server could be well
    again; it was told when to come."""
    server = start(f"{ROOM}/server.py", RATE=0.05)
    result = run(f"{ROOM}/wrong_retry_at_once.py", URL=server.url)
    assert result.returncode == 1
    assert result.stdout == "POST: 503\n" * 6
    record("reconnecting/wrong_retry_at_once.txt", result.stdout + result.stderr)


def test_waits_as_long_as_it_is_told(canned, run):
    """The right client waits as long as it is told, and longer, by its jitter."""
    good = (201, {}, {"order": 1, "orders": 1})
    server = canned((503, {"Retry-After": "1"}, ""), (429, {"Retry-After": "1"}, ""), good)
    result = run(f"{ROOM}/retry.py", URL=server.url, BACKOFF=0.01)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("GET: 503\nGET: 429\norder 1\n")
    assert len(server.requests) == 2 + 4
    assert server.times[1] - server.times[0] > 1
    assert server.times[2] - server.times[1] > 1


def test_without_a_word_it_waits_at_random(canned, monkeypatch):
    """Told nothing, the right client waits at random, below a bound that doubles."""
    room = module(monkeypatch, "retry.py", BACKOFF=4)
    url = canned(*[(503, {}, "")] * 5, (200, {}, {})).url
    waits = []

    async def ask():
        async with httpx2.AsyncClient(base_url=url) as client:
            return await room["send"](client, "GET", "/orders")

    async def sleep(seconds):
        waits.append(seconds)

    # Its own name for it only: the libraries sleep too, for no time.
    monkeypatch.setitem(room["send"].__globals__, "asyncio", SimpleNamespace(sleep=sleep))
    assert run_in_thread(ask()).status_code == 200
    assert len(set(waits)) == 5
    assert all(0 < seconds <= 4 * 2**n for n, seconds in enumerate(waits))


def test_one_key_for_all_tries_of_an_order(canned, run):
    """All tries of an order have the same key, and another order has another."""
    busy = (503, {}, "")
    good = (201, {}, {"order": 1, "orders": 1})
    server = canned(good, busy, busy, good, good, good)
    assert run(f"{ROOM}/retry.py", URL=server.url, BACKOFF=0.01).returncode == 0
    keys = [h["idempotency-key"] for method, _, h in server.requests if method == "POST"]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[2]


def test_retry_after_is_seconds_or_a_date(monkeypatch):
    """Retry-After is read as seconds or as a date; one that is neither says nothing, one in the
    past says now, and one too far away ends it."""
    room = module(monkeypatch, "retry.py")
    later = room["retry_after"]
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert later({"Retry-After": "7"}) == 7
    assert 20 < later({"Retry-After": soon}) <= 30
    assert later({"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}) == 0
    for nothing in {}, {"Retry-After": "soon"}, {"Retry-After": "-1"}:
        assert later(nothing) == 0
    with pytest.raises(room["GaveUp"]):
        later({"Retry-After": "61"})


def test_a_refused_handshake_is_not_tried_for_ever(monkeypatch):
    """A client whose handshake is refused for longer than ten minutes gives up."""
    room = module(monkeypatch, "client.py")

    def refuse(seconds):
        return room["retry_after"](Response(503, "", Headers({"Retry-After": seconds})))

    assert refuse("600") == 600
    with pytest.raises(room["GaveUp"], match="601"):
        refuse("601")


def test_what_may_be_sent_again(start, canned, monkeypatch, port):
    """After a lost answer, 502, 503 or 504 a GET is sent again, and a POST with a key; a POST
    without one is not, unless it never got there or was refused with 429."""
    room = module(monkeypatch, "retry.py", BACKOFF=0.01, TRIES=3)
    server = start(f"{ROOM}/server.py", LOSE=10)

    def send(url, *arguments):
        async def ask():
            async with httpx2.AsyncClient(base_url=url) as client:
                return await room["send"](client, *arguments)

        return run_in_thread(ask())

    with pytest.raises(httpx2.TransportError):
        send(server.url, "POST", "/orders")
    assert send(server.url, "POST", "/orders", str(uuid4())).json() == {"order": 2}
    assert send(server.url, "GET", "/orders").json() == {"orders": 2}
    with pytest.raises(room["GaveUp"]):  # it tried
        send(f"http://127.0.0.1:{port()}", "POST", "/orders")
    good = (200, {}, {})
    assert send(canned((429, {}, ""), good).url, "POST", "/orders").status_code == 200
    for status in 502, 503, 504:
        busy = (status, {}, "")
        url = canned(busy, busy, good).url
        assert send(url, "POST", "/orders").status_code == status
        assert send(url, "POST", "/orders", str(uuid4())).status_code == 200


# Half-open


def unplug(sock):
    """Drop each packet that comes for a socket, in the kernel, as a cut link does."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HL", 1, ctypes.addressof(drop))
    sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


# --8<-- [start:notice]
def probe(sock):
    """Have the kernel ask after 1 s, and give up after another."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)


def send_with_timeout(sock):
    """Send, and have the kernel give up without a receipt in 1 s."""
    limit = 1000  # ms
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
    sock.send(b"x")


# --8<-- [end:notice]


class Far:
    """The other end of connections: it answers handshakes, and nothing else."""

    def __init__(self, stack):
        self.listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.stack = stack
        self.port = self.listening.getsockname()[1]

    def plain(self):
        """Return both ends of a connection."""
        near = self.stack.enter_context(socket.create_connection(self.listening.getsockname()))
        return near, self.stack.enter_context(self.listening.accept()[0])

    def websocket(self):
        """Answer the handshake of a client that has come; return its other end."""
        far = self.stack.enter_context(self.listening.accept()[0])
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", far.recv(4096))[1].decode()
        far.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode()
        )
        return far


def pinging(port, **options):
    """Connect, ping each second, and return the code with which that ended."""
    options |= {"ping_interval": 1, "ping_timeout": 1, "compression": None}
    with connect(f"ws://127.0.0.1:{port}", **options) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(TIMEOUT)
        return client.close_code


HAPPENS = {
    "its process is killed": lambda far: far.close(),
    "it is frozen": lambda far: None,
    "the link is cut": unplug,
}
NOTICE = {
    "only reading": lambda near: None,
    "TCP probes": probe,
    "sending, with `TCP_USER_TIMEOUT`": send_with_timeout,
}


@pytest.fixture(scope="module")
def noticed():
    """Return {what happened: {by which means it was noticed}}, each tried."""
    with ExitStack() as stack, ThreadPoolExecutor(16) as beside:
        far_end, nears, pings = Far(stack), {}, {}
        for what, happen in HAPPENS.items():
            for means, prepare in NOTICE.items():
                near, far = far_end.plain()
                happen(far)
                with suppress(BrokenPipeError, ConnectionResetError):
                    prepare(near)
                nears[near] = what, means
            pings[what] = beside.submit(pinging, far_end.port, close_timeout=1)
            happen(far_end.websocket())
        found = {what: {"pings"} for what, ping in pings.items() if ping.result() == 1006}
        # As long again as it took, at the least, and until there is nothing new.
        while ready := select.select(nears, [], [], 2.5)[0]:
            for near in ready:
                what, means = nears.pop(near)
                found[what].add(means)
    return found


def test_who_notices_what(noticed, record):
    """Which means notice that the other side was killed, is frozen, or cannot be reached."""
    means = [*NOTICE, "pings"]
    rows = [
        {"the other side": what} | {each: "yes" if each in found else "no" for each in means}
        for what, found in noticed.items()
    ]
    record("reconnecting/noticed.md", table(rows).replace("--:", ":-:"))


def test_reading_alone_notices_an_end_only(noticed):
    """Who only reads notices that the other side was killed, since its kernel says so, and
    never that it is frozen or cut off."""
    assert [what for what, found in noticed.items() if "only reading" in found] == [
        "its process is killed"
    ]


def test_tcp_does_not_notice_a_frozen_program(noticed):
    """What TCP can do, probes and TCP_USER_TIMEOUT, notices a cut link, and not a frozen
    program, for which its kernel answers."""
    for means in "TCP probes", "sending, with `TCP_USER_TIMEOUT`":
        assert means in noticed["the link is cut"]
        assert means not in noticed["it is frozen"]


def test_pings_notice_all_of_it(noticed):
    """A ping that the program itself has to answer notices all of it."""
    assert all("pings" in found for found in noticed.values())


def test_no_goodbye_is_waited_for(monkeypatch):
    """From a server that is frozen the client is back while one that waits for a goodbye for as
    long as the library does by itself still waits."""
    room = module(monkeypatch, "client.py", PING=1, PONG=1, BACKOFF=0.01, TRIES=1)
    with ThreadPoolExecutor(2) as beside, ExitStack() as stack:
        frozen = Far(stack)
        url = f"ws://127.0.0.1:{frozen.port}"
        patient = beside.submit(pinging, frozen.port)
        frozen.websocket()
        coming = beside.submit(asyncio.run, room["follow"](url, None))
        frozen.websocket()
        assert isinstance(coming.exception(), room["GaveUp"])
        assert not patient.done()


# The browser


def test_a_browser_does_not_sit_out_a_long_wait(start, page, tmp_path):
    """A page that waits to come back does so at once when the network is there again, or when
    somebody looks at it."""
    server = start(f"{ROOM}/server.py", TICK=0.1)
    folder = copy_isolated(EXAMPLES / ROOM / "client.html", tmp_path / "page")
    # No wait is short by chance.
    page.add_init_script("Math.random = () => 1;")
    page.goto(f"file://{folder}/client.html?url={server.url}&backoff=0.2")
    for target, event in ("window", "online"), ("document", "visibilitychange"):
        page.wait_for_selector("text=connected")
        # From here on a wait that is not cut short takes longer than the proof's patience.
        page.evaluate(
            "window.later = setTimeout; setTimeout = (what, delay) => "
            "later(what, what?.name === 'connect' ? delay * waits.shift() : delay);"
        )
        page.evaluate("window.waits = [1000, 1, 1000, 1, 1]")
        server.stop()
        page.wait_for_selector("text=coming back")
        server = start(f"{ROOM}/server.py", PORT=server.port, TICK=0.1)
        page.evaluate(f"{target}.dispatchEvent(new Event('{event}'))")
        page.wait_for_selector("text=connected")
        page.evaluate("setTimeout = later")


# Stands in for what a page waits for, and whom it talks to.
STAGE = """
    window.later = window.setTimeout;
    window.delays = [];
    window.cleared = [];
    window.asleep = false;
    Math.random = () => 1;
    window.setTimeout = (what, delay, ...rest) => {
      const coming = what?.name === "connect";
      const id = later(what, coming ? (asleep ? 1e6 : 0) : delay, ...rest);
      if (coming) { delays.push(delay / 1000); window.coming = id; }
      else window.listening = delay / 1000;
      return id;
    };
    const clear = window.clearTimeout;
    window.clearTimeout = (id) => { cleared.push(id); clear(id); };
    window.sockets = [];
    window.WebSocket = class {
      static OPEN = 1;
      constructor() { this.readyState = 0; sockets.push(this); }
      close() { this.readyState = 3; }
    };
    window.state = () => document.getElementById("state").textContent;
    window.fail = (code = 1006) => sockets.at(-1).onclose({ code, reason: "why" });
    window.hear = () => { sockets.at(-1).readyState = 1; sockets.at(-1).onmessage({ data: "" }); };
    window.until = (number) => new Promise((done) => {
      const look = () => sockets.length === number ? done() : later(look, 5);
      look();
    });
"""


@pytest.fixture
def staged(page, tmp_path):
    """Return client.html, open in a browser, with neither time nor a network."""
    folder = copy_isolated(EXAMPLES / ROOM / "client.html", tmp_path / "staged")
    page.add_init_script(STAGE)
    page.goto(f"file://{folder}/client.html?backoff=1&tries=3&silence=1000")
    return page


def test_a_browser_backs_off_and_gives_up(staged):
    """A page waits longer with each failure in a row, counts anew when it hears something, and
    gives up at last."""
    ended = staged.evaluate("""async () => {
        fail(); await until(2); fail(); await until(3);
        hear(); fail(); await until(4); fail(); await until(5); fail(); await until(6);
        fail();
        return [delays, state()];
    }""")
    assert ended == [[1, 2, 1, 2, 4], "closed with 1006; gave up"]


def test_a_browser_that_hurries_comes_once(staged):
    """A page that does not sit out its wait drops it, so that it comes once, and starts to
    count anew."""
    before, cleared, delays, sockets = staged.evaluate("""async () => {
        fail(); await until(2); asleep = true; fail();
        const before = coming; asleep = false;
        dispatchEvent(new Event("online"));
        await until(3); fail(); await until(4);
        return [before, cleared, delays, sockets.length];
    }""")
    assert before in cleared
    assert delays == [1, 2, 1, 1]
    assert sockets == 4


def test_a_browser_does_not_trust_what_slept(staged):
    """When the network is there again, or somebody looks at the page, an open connection has
    five seconds to say something."""
    for event in (
        "window.dispatchEvent(new Event('online'))",
        ("document.dispatchEvent(new Event('visibilitychange'))"),
    ):
        assert staged.evaluate(f"hear(), [listening, ({event}, listening)]") == [1000, 5]


def test_a_browser_that_is_refused_stays_away(staged):
    """A page that is closed with 1008, or a code of the application's own, does not come back."""
    for code in 1008, 4400:
        assert staged.evaluate(f"fail({code}), [state(), delays]") == ["refused: why", []]


# Wrong


@pytest.mark.parametrize(
    ("right", "wrong", "most"),
    [
        ("client.py", "wrong_fixed_delay.py", 10),
        ("client.py", "wrong_counts_connect.py", 2),
        ("retry.py", "wrong_retry_post.py", 21),
        ("retry.py", "wrong_retry_at_once.py", 37),
    ],
)
def test_a_wrong_program_differs_in_a_few_lines(right, wrong, most):
    """Each wrong program is the right one with a few lines changed."""
    texts = [
        (EXAMPLES / ROOM / name).read_text().split('"""\n\n', 1)[1].splitlines()
        for name in (right, wrong)
    ]
    changed = [
        line
        for line in difflib.unified_diff(*texts, n=0, lineterm="")
        if re.match(r"[-+](?![-+])\s*\S", line)
    ]
    assert 0 < len(changed) <= most, "\n".join(changed)
