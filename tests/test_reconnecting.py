"""Reconnecting: when, how often, and how to detect that a connection is dead."""

import asyncio
import ctypes
import json
import random
import re
import runpy
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_async
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.utils import accept_key

from .support.bars import histograms
from .support.browsing import both_browsers
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
from .support.sockets import connect
from .support.threads import run_in_thread

TOPIC = "reconnecting"


def module(monkeypatch, name, **variables):
    """Return what an example defines, as it is with these variables."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, str(value))
    return runpy.run_path(str(EXAMPLES / TOPIC / name))


@pytest.fixture
def start_client(tmp_path):
    """Run clients of this topic beside the test: start_client("client.py", URL=…) -> Program."""
    running = []

    def start_client(name, **variables):
        folder = copy_isolated(EXAMPLES / TOPIC / name, tmp_path / f"client-{len(running)}")
        running.append(Program(argv(EXAMPLES / TOPIC / name), folder, environment(**variables)))
        return running[-1]

    yield start_client
    for client in running:
        if client.process.poll() is None:
            client.send(signal.SIGKILL)
            client.wait()


# Backoff and jitter

CLIENTS = ["client.py", "client_hardened.py"]
EVENT = '{"id": 1, "text": "tick"}'


@pytest.mark.parametrize("name", CLIENTS)
def test_the_delay_is_random_below_a_bound(monkeypatch, name):
    """The client waits at random, below a bound that doubles with each failure in a row, from
    five seconds to a minute."""
    backoff_delay = module(monkeypatch, name)["backoff_delay"]
    arguments = [0] if name == "client_hardened.py" else []
    for failures, bound in enumerate([5, 10, 20, 40, 60, 60]):
        delays = [backoff_delay(failures, *arguments) for _ in range(1000)]
        assert 0.9 * bound < max(delays) <= bound
        assert min(delays) < 0.1 * bound


# --8<-- [start:strategies]
def bound(failures):
    return 5 * min(2**failures, 12)


def no_jitter(failures):
    return bound(failures)


def equal_jitter(failures):
    return bound(failures) / 2 + random.uniform(0, bound(failures) / 2)


# --8<-- [end:strategies]


# --8<-- [start:simulate]
def simulate(backoff_delay, clients=1000, outage=12):
    """Return when clients that were disconnected together, at 0, try to connect.

    Each is connected by its first attempt after the outage.
    """
    random.seed(1)
    attempts = []
    for _ in range(clients):
        now, failures = 0, 0
        while now < outage:
            now += backoff_delay(failures)
            failures += 1
            attempts.append(now)
    return attempts


# --8<-- [end:simulate]


def per_second(times):
    counts = Counter(int(at) for at in times)
    return [counts[second] for second in range(max(counts) + 1)]


def test_reconnect_storm_simulated(monkeypatch, record):
    """Of a thousand clients that are disconnected together by an outage of twelve seconds, those
    with the same delay reconnect in the same second, all of them; with full jitter the worst
    second after the outage has less than a tenth of them."""
    outage = 12
    strategies = {
        "the same delay for all": module(monkeypatch, "wrong_fixed_delay.py")["backoff_delay"],
        "doubled, no jitter": no_jitter,
        "doubled, equal jitter": equal_jitter,
        "doubled, full jitter": module(monkeypatch, "client.py")["backoff_delay"],
    }
    rows, drawn = [], {}
    for name, backoff_delay in strategies.items():
        attempts = simulate(backoff_delay, outage=outage)
        drawn[name] = per_second(attempts)
        after = drawn[name][outage:]
        rows.append(
            {
                "delay": name,
                "attempts in all": len(attempts),
                "most in a second": max(drawn[name]),
                "most in a second, after the outage": max(after),
                "all reconnected after": f"{len(after)} s",
            }
        )
    worst = [row["most in a second, after the outage"] for row in rows]
    assert worst[0] == worst[1] == 1000
    assert worst[3] < worst[2] < 1000
    assert worst[3] < 100
    record("reconnecting/storm.md", table(rows))
    shown = ["the same delay for all", "doubled, no jitter", "doubled, full jitter"]
    record(
        "reconnecting/storm.svg",
        histograms(
            [
                (name, f"at most {max(drawn[name]):,} per second", drawn[name][:40])
                for name in shown
            ],
            "s",
            outage,
            "connection attempts",
            "A thousand clients reconnect",
            "Connection attempts in each second, for a server that is down for twelve: "
            + "; ".join(f"{name}: at most {max(drawn[name])}" for name in shown)
            + ". Without jitter they fall into single seconds, with full jitter they are spread.",
        ),
    )


class Restart:
    """Clients, a server, and when they connect after its restart."""

    def __init__(self, connect_client, port, number):
        self.connect_client, self.port, self.number = connect_client, port, number
        self.attempts, self.sent = [], 0
        self.all_connected = asyncio.Event()

    def serve(self):
        attempts = self.attempts

        class Recording(ServerConnection):
            def connection_made(self, transport):
                attempts.append(time.monotonic())
                super().connection_made(transport)

        async def send_event(websocket):
            await websocket.send(EVENT)
            self.sent += 1
            if self.sent == self.number:
                self.all_connected.set()
            await websocket.wait_closed()

        options = {"create_connection": Recording, "ping_interval": None, "compression": None}
        options["backlog"] = 1000  # or the kernel spreads them a little
        return serve_async(send_event, "127.0.0.1", self.port, **options)

    async def run(self):
        async with self.serve():
            clients = [asyncio.create_task(self.connect_client()) for _ in range(self.number)]
            await self.all_connected.wait()
            self.attempts.clear()
        async with self.serve():
            await asyncio.gather(*clients)
        return self.attempts


def busiest(times, window):
    """Return how many are in the busiest window."""
    return max(sum(start <= at < start + window for at in times) for start in times)


def test_reconnect_storm_measured(monkeypatch, port):
    """Of a hundred and fifty real clients that a restart disconnects, those with the same delay
    reconnect together; with jitter, the busiest window of a quarter of the delay has less than half
    as many connections."""

    async def both():
        restarts = []
        for name in "client.py", "wrong_fixed_delay.py":
            number = port()
            url = f"http://127.0.0.1:{number}"
            client = module(monkeypatch, name, BACKOFF=8, COUNT=2, URL=url)
            restarts.append(Restart(client["main"], number, 150).run())
        return await asyncio.gather(*restarts)

    jittered, fixed = run_in_thread(both())
    assert min(len(jittered), len(fixed)) >= 150
    window = 2  # seconds: a busy machine takes one of them to connect so many
    assert busiest(fixed, window) > 2 * busiest(jittered, window)


EIGHT = "seq 8 | xargs -P 8 -I {} uv run wrong_fixed_delay.py\n"


def all_receive(clients, number, since=0):
    """Return whether so many clients have printed the same event."""
    events = Counter(re.findall(r'"id": (\d+)', clients.output[since:]))
    return max(events.values(), default=0) >= number


def test_eight_clients_by_one_command(start, tmp_path, record):
    """One command starts eight clients with the same delay. When the server stops, all of them
    report it; after the delay all try again, and all connect to a server that runs again."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0.1)
    folder = copy_isolated(EXAMPLES / TOPIC / "wrong_fixed_delay.py", tmp_path / "clients")
    command = EIGHT.replace("uv run", sys.executable)
    variables = environment(URL=server.url, BACKOFF=3)
    clients = Program(["sh", "-c", command], folder, variables)
    try:
        wait_until(lambda: all_receive(clients, 8))
        server.stop()
        # Eight programs write into one pipe, so that parts of lines may be mixed.
        wait_until(lambda: clients.output.count("received 1012") == 8)
        wait_until(lambda: clients.output.count("reconnecting: ") >= 16)
        seen = len(clients.output)
        start(f"{TOPIC}/server.py", PORT=server.port, EVENT_INTERVAL=0.1)
        wait_until(lambda: all_receive(clients, 8, since=seen))
    finally:
        clients.send(signal.SIGKILL)
        clients.wait()
    record("reconnecting/eight.run", EIGHT)


# WebSockets


def restart_twice(start, client, server, lines):
    """Restart a server with SIGTERM, then with SIGKILL; check what the client prints of each."""
    client.wait_for("tick")
    assert server.stop() == 0
    client.wait_for(lines[0])
    server = start(f"{TOPIC}/server.py", PORT=server.port, EVENT_INTERVAL=0.05)
    seen = client.output.count("tick")
    wait_until(lambda: client.output.count("tick") > seen)
    server.stop(signal.SIGKILL)
    client.wait_for(lines[1])
    start(f"{TOPIC}/server.py", PORT=server.port, EVENT_INTERVAL=0.05)
    seen = client.output.count("tick")
    wait_until(lambda: client.output.count("tick") > seen)


def test_reconnects_after_a_restart(start, start_client):
    """A client reconnects to a server that was restarted, and to one that was killed."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0.05)
    client = start_client("client.py", URL=server.url, BACKOFF=0.1)
    restart_twice(start, client, server, ["1012 (service restart)", "no close frame"])


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_resumes_after_the_last_event(start, start_client, name):
    """After two restarts, one of them a crash, the hardened client has received each event exactly
    once and in order."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=0.05)
    client = start_client("client_hardened.py", URL=server.url, BACKOFF=0.1, TRIES=1000)
    restart_twice(start, client, server, ["closed with 1012", "closed with 1006"])
    numbers = [int(n) for n in re.findall(r"(?m)^(\d+) tick$", client.output)]
    assert len(numbers) > 3
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_an_unknown_id_is_rejected(start, run, name):
    """A client that names an event which is too old, in the future or not a number is closed with
    4410."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=3600, MAX_EVENTS=10)
    latest = round(time.time() / 3600)
    for after in latest - 11, latest + 9, -1, "x", "9" * 5000, "%0a", "\u0663", "0.0":
        with connect(f"{server.url.replace('http', 'ws')}/events?after={after}") as client:
            with pytest.raises(ConnectionClosed):
                client.recv(TIMEOUT)
            assert client.close_code == 4410


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_after_4410_the_client_starts_with_the_oldest_event(start, run, serving, name):
    """After 4410 the hardened client prints how many events it has missed, and starts again with
    the oldest that the server has."""
    server = start(f"{TOPIC}/{name}", EVENT_INTERVAL=1, MAX_EVENTS=10)
    latest = round(time.time())
    queries = []

    def handler(websocket):
        queries.append(urlsplit(websocket.request.path).query)
        if len(queries) == 1:
            websocket.send(json.dumps({"id": latest - 100, "text": "tick"}))
        elif len(queries) == 2:
            websocket.close(4410, "no events after this id")
        else:  # as the server of this topic does
            with connect(f"{server.url.replace('http', 'ws')}/events?{queries[-1]}") as upstream:
                for _ in range(9):
                    websocket.send(upstream.recv(TIMEOUT))

    result = run(f"{TOPIC}/client_hardened.py", URL=serving(handler), COUNT=10, BACKOFF=0.01)
    assert result.returncode == 0, result.stderr
    assert queries == ["", f"after={latest - 100}", "after=0"]
    lines = result.stdout.splitlines()
    missed = next(line for line in lines if line.startswith("missed"))
    numbers = [int(line.split()[0]) for line in lines if line.endswith(" tick")]
    assert numbers[0] == latest - 100
    assert numbers[1:] == list(range(numbers[1], numbers[1] + 9))
    assert latest - 10 < numbers[1] <= latest  # of the past, if the machine is not stalled
    assert missed == f"missed {numbers[1] - numbers[0] - 1} events"


def test_a_connection_is_not_a_success(serving, run, start_client, record):
    """From a server that accepts and closes connections, the hardened client gives up after TRIES
    failures in a row, and the delay of the quick start grows; one that counts a connection as a
    success tries again and again after the shortest delay."""
    closed = []

    def close(websocket):
        closed.append(websocket)
        websocket.close(1013)

    url = serving(close)
    result = run(f"{TOPIC}/client_hardened.py", URL=url, BACKOFF=0.01, TRIES=5)
    assert result.returncode == 1
    assert result.stderr == "gave up: 5 failures in a row\n"
    assert len(closed) == 5
    record("reconnecting/client_hardened.txt", result.stdout + result.stderr)
    wrong = start_client("wrong_counts_connect.py", URL=url, BACKOFF=0.01)
    wait_until(lambda: len(closed) > 5 + 50)
    assert wrong.process.poll() is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("client.py", [0, 1, 2, 3, 4]), ("wrong_counts_connect.py", [0, 0, 0, 0, 0])],
)
def test_the_delay_grows_while_no_message_arrives(start, monkeypatch, name, expected):
    """While a server accepts and closes connections, the client counts the failures; one that
    counts a connection as a success computes each delay as if it were the first."""
    server = start("reliable_websockets/server.py", MAX_CONNECTIONS=0)
    counted = failures_of(module(monkeypatch, name, URL=server.url), 5)
    assert counted == expected


class Stopped(Exception):
    pass


def failures_of(client, number):
    """Run a client's main() until it has failed so often; return what it counted each time."""
    counted = []

    def backoff_delay(failures):
        counted.append(failures)
        if len(counted) == number:
            raise Stopped
        return 0

    client["main"].__globals__["backoff_delay"] = backoff_delay
    with pytest.raises(Stopped):
        run_in_thread(client["main"]())
    return counted


def test_a_message_resets_the_failures(serving, run, monkeypatch):
    """A connection on which a message arrived is not a failure, however soon it ends."""
    url = serving(lambda websocket: websocket.send(EVENT))
    result = run(f"{TOPIC}/client_hardened.py", URL=url, BACKOFF=0.01, TRIES=2, COUNT=6)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tick") == 6
    assert failures_of(module(monkeypatch, "client.py", URL=url), 5) == [0] * 5


def test_a_rejected_handshake_is_retried_later(start, run):
    """A client whose handshake is rejected with 503 retries no sooner than Retry-After allows."""
    server = start(f"{TOPIC}/server_hardened.py", RATE=0.2, EVENT_INTERVAL=0.1)  # 5 s to start
    assert httpx2.get(f"{server.url}/orders").status_code == 200  # the only token
    before = time.monotonic()
    result = run(f"{TOPIC}/client_hardened.py", URL=server.url, COUNT=1, BACKOFF=0.01)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("rejected with 503 for 5 s\n")
    assert time.monotonic() - before > 4


@pytest.mark.parametrize("code", [1008, 4400])
def test_a_permanent_close_is_final(serving, run, code):
    """A client that is closed with 1008, or a code of the application, does not reconnect."""
    url = serving(lambda websocket: websocket.close(code))
    result = run(f"{TOPIC}/client_hardened.py", URL=url)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"gave up: closed with {code} ''\n"


HOSTILE = {
    "another type": "[]",
    "not JSON": "{",
    "nested too deep": "[" * 100_000,
    "not a number": '{"id": NaN, "text": "x"}',
    "too many digits": '{"id": %s, "text": "x"}' % ("9" * 5000),
    "an escape sequence": '{"id": 1, "text": "\\u001b[2J"}',
    "a lone surrogate": '{"id": 1, "text": "\\ud800"}',
    "binary": b"\xff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_that_is_not_an_event(serving, run, name):
    """A hostile message, such as JSON that is nested too deep or text that controls the terminal,
    ends the hardened client with one line."""
    url = serving(lambda websocket: websocket.send(HOSTILE[name]))
    result = run(f"{TOPIC}/client_hardened.py", URL=url)
    assert result.returncode == 1
    assert "is not a server of events" in result.stderr
    assert result.stderr.removesuffix("\n").isprintable()


def test_clients_end_with_one_line(run, port, canned):
    """Whatever fails, each client ends with one line that names the cause."""
    unused = f"http://127.0.0.1:{port()}"
    quick = {"BACKOFF": 0.01, "TRIES": 2, "DEADLINE": 5}
    html = (200, {}, "<h1>It works!</h1>")
    for name, url, words in [
        ("client.py", "nonsense", "cannot connect to nonsense"),
        ("client.py", "http://127.0.0.1:99999", "cannot connect to http://127.0.0.1:99999"),
        ("client.py", "http://[::1", "cannot connect to http://[::1"),
        ("client_hardened.py", unused, "gave up: 2 failures in a row"),
        ("client_hardened.py", "nonsense", "cannot connect to nonsense"),
        ("client_hardened.py", "http://127.0.0.1:x", "cannot connect to http://127.0.0.1:x"),
        ("client_hardened.py", canned((404, {}, "no")).url, "gave up: rejected with 404"),
        ("client_hardened.py", canned(html).url, "gave up: rejected with 200"),
        ("retry.py", unused, "gave up: 2 requests failed"),
        ("retry.py", "nonsense", "cannot reach nonsense"),
        ("retry.py", canned((404, {}, "oops")).url, "responded with 404"),
        ("retry.py", canned(html).url, "is not a server of orders"),
        ("retry.py", canned((200, {}, "[" * 100_000)).url, "is not a server of orders"),
        ("retry.py", canned((503, {"Retry-After": "3600"}, "")).url, "not done within 5 s"),
    ]:
        result = run(f"{TOPIC}/{name}", URL=url, **quick)
        assert result.returncode == 1, (name, url)
        assert words in result.stderr, (name, url)
        assert len(result.stderr.splitlines()) == 1, result.stderr


# The rate limit


def test_the_rate_limiter_spreads_clients(monkeypatch, record):
    """Of two hundred requests at once a limiter of fifty a second accepts fifty, and
    sends the others a Retry-After of one, two and three seconds, fifty each; then each is
    accepted."""
    limiter = module(monkeypatch, "server_hardened.py")["RateLimiter"](50)
    given = Counter(limiter.retry_after(100.0) for _ in range(200))
    assert given == {0: 50, 1: 50, 2: 50, 3: 50}
    for later in 1, 2, 3:
        assert {limiter.retry_after(100.0 + later) for _ in range(50)} == {0}
    rows = [
        {
            "of 200 requests at once": f"`Retry-After: {later}`" if later else "accepted",
            "requests": number,
        }
        for later, number in sorted(given.items())
    ]
    record("reconnecting/rate_limit.md", table(rows))


def test_a_flood_does_not_postpone_retries(monkeypatch):
    """However many requests a flood brings, no Retry-After is longer than a minute."""
    limiter = module(monkeypatch, "server_hardened.py")["RateLimiter"](50)
    assert max(limiter.retry_after(100.0) for _ in range(100_000)) == 60
    assert limiter.retry_after(105.0) == 0


def test_requests_beyond_the_rate_are_rejected(start):
    """The server rejects requests beyond its rate before their handlers run, handshakes too."""
    server = start(f"{TOPIC}/server_hardened.py", RATE=0.1)
    assert httpx2.get(f"{server.url}/orders").json() == {"orders": 0}
    response = httpx2.post(f"{server.url}/orders")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "10"
    assert response.json()["message"] == "too many requests"


# HTTP


@pytest.mark.parametrize("server", ["server.py", "server_hardened.py"])
def test_each_order_is_created_once(start, run, record, server):
    """With a key for each order, a lost response costs a request and no second order: two wanted,
    two created."""
    result = run(f"{TOPIC}/retry.py", URL=start(f"{TOPIC}/{server}").url)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == [
        "order 1",
        "order 2",
        "2 orders wanted, 2 placed",
    ]
    record("reconnecting/retry.txt", result.stdout)


def test_without_a_key_an_order_is_created_twice(start, run, record):
    """A client that repeats an order without a key creates three where two were wanted."""
    result = run(f"{TOPIC}/wrong_retry_post.py", URL=start(f"{TOPIC}/server.py").url)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "2 orders wanted, 3 placed"
    record("reconnecting/wrong_retry_post.txt", result.stdout)


def test_orders_are_bounded(start):
    """With MAX_ORDERS orders, a server rejects another with 503 and Retry-After; the order of a key
    that it knows is still returned."""
    server = start(f"{TOPIC}/server_hardened.py", LOST_RESPONSES=0, MAX_ORDERS=1)
    responses = [
        httpx2.post(f"{server.url}/orders", headers={"Idempotency-Key": key}) for key in "aba"
    ]
    assert [response.status_code for response in responses] == [201, 503, 201]
    assert responses[1].headers["Retry-After"] == "60"


def test_an_invalid_key_is_rejected(start):
    """The hardened server rejects a key that is not 1 to 64 visible ASCII characters with 400."""
    url = f"{start(f'{TOPIC}/server_hardened.py', LOST_RESPONSES=0).url}/orders"
    for key in "x" * 65, "a b", "\u00e9", "\u0663":
        response = httpx2.post(url, headers={"Idempotency-Key": key.encode()})
        assert response.status_code == 400, key
        assert "Idempotency-Key" in response.json()["message"]
    assert httpx2.post(url, headers={"Idempotency-Key": "x" * 64}).json() == {"order": 1}


def test_retrying_at_once_is_too_soon(start, run, record):
    """A client that repeats a request at once has used up its requests before the server can have
    recovered, though Retry-After specified when to retry."""
    server = start(f"{TOPIC}/server_hardened.py", RATE=0.05)
    result = run(f"{TOPIC}/wrong_retry_at_once.py", URL=server.url)
    assert result.returncode == 1
    assert re.fullmatch(r"(POST: 503 \(Retry-After: \d+.0\)\n){6}", result.stdout)
    record("reconnecting/wrong_retry_at_once.txt", result.stdout + result.stderr)


def test_waits_as_long_as_retry_after_says(canned, run):
    """The client waits as long as Retry-After specifies, and longer, by its jitter."""
    good = (201, {}, {"order": 1, "orders": 1})
    server = canned((503, {"Retry-After": "1"}, ""), (429, {"Retry-After": "1"}, ""), good)
    result = run(f"{TOPIC}/retry.py", URL=server.url)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        "GET: 503 (Retry-After: 1.0)\nGET: 429 (Retry-After: 1.0)\norder 1\n"
    )
    assert len(server.requests) == 2 + 4
    assert server.times[1] - server.times[0] > 1
    assert server.times[2] - server.times[1] > 1


def test_without_retry_after_the_delay_is_random(canned, monkeypatch):
    """Without Retry-After the client waits at random, below a bound that doubles from a second."""
    client = module(monkeypatch, "retry.py")
    url = canned(*[(503, {}, "")] * 5, (200, {}, {})).url
    delays = []

    async def get():
        async with httpx2.AsyncClient(base_url=url) as http:
            return await client["send_request"](http, "GET", "/orders")

    async def sleep(seconds):
        delays.append(seconds)

    # Its own name for it only: the libraries sleep too, for no time.
    globals_ = client["send_request"].__globals__
    monkeypatch.setitem(globals_, "asyncio", SimpleNamespace(sleep=sleep))
    assert run_in_thread(get()).status_code == 200
    assert len(set(delays)) == 5
    assert all(0 < seconds <= 2**n for n, seconds in enumerate(delays))


def test_one_key_for_all_requests_of_an_order(canned, run):
    """All requests of an order have the same key, and another order has another."""
    busy = (503, {"Retry-After": "0"}, "")
    good = (201, {}, {"order": 1, "orders": 1})
    server = canned(good, busy, busy, good, good, good)
    assert run(f"{TOPIC}/retry.py", URL=server.url).returncode == 0
    keys = [h["idempotency-key"] for method, _, h in server.requests if method == "POST"]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[2]


@pytest.mark.parametrize("name", ["retry.py", "client_hardened.py"])
def test_retry_after_is_seconds_or_a_date(monkeypatch, name):
    """Retry-After is read as seconds or as a date; one that is neither is ignored."""
    parse = module(monkeypatch, name)["retry_after"]

    def retry_after(value):
        return parse(SimpleNamespace(headers={"Retry-After": value}))

    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after("7") == 7
    assert 20 < retry_after(soon) <= 30
    assert retry_after("Fri Dec 31 23:59:59 1999") < 0
    for invalid in "soon", "-1", "1.5", "\u0663", "":
        assert retry_after(invalid) is None
    assert parse(SimpleNamespace(headers={})) is None


def test_the_policy_of_retries_is_the_same_everywhere():
    """The functions retry_after and backoff_delay of retry.py are those of short polling's hardened
    client, to the letter; client_hardened.py has the same retry_after."""
    section = re.compile(r"(?s)# --8<-- \[start:retry_after\]\n(.*)# --8<-- \[end:retry_after\]\n")
    polling = section.search((EXAMPLES / "short_polling/client_hardened.py").read_text())[1]
    assert polling in (EXAMPLES / TOPIC / "retry.py").read_text()
    parse = polling.partition("\n\n\n")[0]
    assert parse in (EXAMPLES / TOPIC / "client_hardened.py").read_text()


def test_a_long_retry_after_is_bounded(monkeypatch):
    """However long a Retry-After is, a request is repeated within eleven minutes, and a rejected
    handshake is not retried beyond ten."""
    backoff_delay = module(monkeypatch, "retry.py")["backoff_delay"]
    for suggested in 601, 1e9, float("inf"):
        assert 600 <= backoff_delay(0, suggested) <= 660
    assert 0.5 <= backoff_delay(0, -1) <= 0.55


def test_a_handshake_is_not_retried_after_ten_minutes(monkeypatch):
    """A client whose handshake is rejected for longer than ten minutes gives up."""
    client = module(monkeypatch, "client_hardened.py")

    def reject(*seconds):
        headers = Headers([("Retry-After", each) for each in seconds])
        return client["check_status"](Response(503, "", headers))

    assert reject("600") == 600
    assert reject("1", "2") == 0  # two of them are not valid
    assert reject("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    for far in "601", "9" * 5000:
        with pytest.raises(client["RetryError"], match="Retry-After is"):
            reject(far)


def test_which_requests_are_repeated(start, canned, monkeypatch, port):
    """After a lost response, 500, 502, 503 or 504 a GET is repeated, and a POST with a key; a POST
    without one is not, unless it was never sent or was rejected with 408, 425 or 429."""
    client = module(monkeypatch, "retry.py", TRIES=3)
    client["send_request"].__globals__["backoff_delay"] = lambda *_: 0
    server = start(f"{TOPIC}/server.py", LOST_RESPONSES=10)

    def send(url, *arguments):
        async def send_request():
            async with httpx2.AsyncClient(base_url=url) as http:
                return await client["send_request"](http, *arguments)

        return run_in_thread(send_request())

    with pytest.raises(httpx2.TransportError):
        send(server.url, "POST", "/orders")
    assert send(server.url, "POST", "/orders", str(uuid4())).json() == {"order": 2}
    assert send(server.url, "GET", "/orders").json() == {"orders": 2}
    with pytest.raises(client["RetryError"]):  # it was repeated
        send(f"http://127.0.0.1:{port()}", "POST", "/orders")
    good = (200, {}, {})
    for status in 408, 425, 429:
        assert send(canned((status, {}, ""), good).url, "POST", "/orders").status_code == 200
    for status in 500, 502, 503, 504:
        busy = (status, {}, "")
        url = canned(busy, busy, good).url
        assert send(url, "POST", "/orders").status_code == status
        assert send(url, "POST", "/orders", str(uuid4())).status_code == 200
    for status in 400, 404, 409, 421, 501:
        assert send(canned((status, {}, ""), good).url, "GET", "/orders").status_code == status


REJECTED, UNCERTAIN = {408, 425, 429}, {500, 502, 503, 504}


def test_every_client_has_the_same_statuses():
    """Every program of a client that retries has the same statuses after which it does: 408, 425
    and 429, and, where a repetition is safe, 500, 502, 503 and 504."""
    found = {}
    for path in EXAMPLES.glob("*/*"):
        if path.suffix in {".py", ".html"} and not path.name.startswith("wrong_"):
            sets = re.findall(r"[{\[]((?:\d{3}, )+\d{3})[}\]]", path.read_text())
            lists = [{int(each) for each in text.split(", ")} for text in sets]
            found[f"{path.parent.name}/{path.name}"] = [
                each for each in lists if each & (REJECTED | UNCERTAIN)
            ]
    found = {name: sets for name, sets in found.items() if sets}
    assert len(found) >= 10, found
    for name, sets in found.items():
        assert sets in ([REJECTED, UNCERTAIN], [REJECTED | UNCERTAIN]), name
    # None of them leaves the decision about a status to a library.
    for path in EXAMPLES.glob("*/client*.py"):
        if "process_exception" in path.read_text():
            assert f"{path.parent.name}/{path.name}" in found


@pytest.mark.parametrize("name", ["notifications", "reliable_websockets", "scaling_out"])
def test_handshakes_are_retried_after_the_same_statuses(name):
    """A handshake that is rejected is repeated after 408, 425, 429, 500, 502, 503 and 504 and no
    other status, after a lost connection too, and not for an invalid URL."""
    is_final = runpy.run_path(str(EXAMPLES / name / "client.py"))["is_final"]
    repeated = {
        status for status in range(200, 600) if not is_final(InvalidStatus(response(status)))
    }
    assert repeated == REJECTED | UNCERTAIN
    assert not is_final(ConnectionRefusedError())
    assert is_final(InvalidURI("ftp://x", "not a WebSocket URL"))


def test_the_hardened_client_has_the_policy(monkeypatch):
    """The hardened client repeats a rejected handshake after 408, 425, 429, 500, 502, 503 and 504,
    and gives up after any other status."""
    client, repeated = module(monkeypatch, "client_hardened.py"), set()
    for status in range(200, 600):
        with suppress(client["RetryError"]):
            client["check_status"](response(status))
            repeated.add(status)
    assert repeated == REJECTED | UNCERTAIN


def response(status):
    return Response(status, "", Headers())


# Half-open


def unplug(sock):
    """Drop each packet that comes for a socket, in the kernel, as a cut link does."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HL", 1, ctypes.addressof(drop))
    sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


# --8<-- [start:notice]
def probe(sock):
    """Have the kernel probe after 1 s, and give up after another."""
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


class Peer:
    """The other end of connections: it responds to handshakes, and to nothing else."""

    def __init__(self, stack):
        self.listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.stack = stack
        self.port = self.listening.getsockname()[1]

    def open_tcp(self):
        """Return both ends of a connection."""
        near = self.stack.enter_context(socket.create_connection(self.listening.getsockname()))
        return near, self.stack.enter_context(self.listening.accept()[0])

    def accept_websocket(self):
        """Answer the handshake of a client; return the other end of its connection."""
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


FAILURES = {
    "its process is killed": lambda far: far.close(),
    "it is frozen": lambda far: None,
    "the link is cut": unplug,
}
MEANS = {
    "only reading": lambda near: None,
    "TCP probes": probe,
    "sending, with `TCP_USER_TIMEOUT`": send_with_timeout,
}


@pytest.fixture(scope="module")
def detected():
    """Return {failure: {the means that detect it}}, each tried."""
    with ExitStack() as stack, ThreadPoolExecutor(16) as threads:
        peer, nears, pings = Peer(stack), {}, {}
        for failure, fail in FAILURES.items():
            for means, prepare in MEANS.items():
                near, far = peer.open_tcp()
                fail(far)
                with suppress(BrokenPipeError, ConnectionResetError):
                    prepare(near)
                nears[near] = failure, means
            pings[failure] = threads.submit(pinging, peer.port, close_timeout=1)
            fail(peer.accept_websocket())
        found = {failure: {"pings"} for failure, ping in pings.items() if ping.result() == 1006}
        # As long again as it took, at the least, and until there is nothing new.
        while ready := select.select(nears, [], [], 2.5)[0]:
            for near in ready:
                failure, means = nears.pop(near)
                found[failure].add(means)
    return found


def test_which_means_detect_a_dead_peer(detected, record):
    """Which means detect that the peer was killed, is frozen, or cannot be reached."""
    means = [*MEANS, "pings"]
    rows = [
        {"the peer": failure} | {each: "yes" if each in found else "no" for each in means}
        for failure, found in detected.items()
    ]
    record("reconnecting/half_open.md", table(rows).replace("--:", ":-:"))


def test_reading_detects_a_sent_end_only(detected):
    """A program that only reads detects that its peer was killed, since the peer's kernel sends the
    end, and never that it is frozen or cut off."""
    assert [failure for failure, found in detected.items() if "only reading" in found] == [
        "its process is killed"
    ]


def test_tcp_does_not_detect_a_frozen_program(detected):
    """The means of TCP, probes and TCP_USER_TIMEOUT, detect a cut link, but not a frozen program,
    whose kernel still acknowledges."""
    for means in "TCP probes", "sending, with `TCP_USER_TIMEOUT`":
        assert means in detected["the link is cut"]
        assert means not in detected["it is frozen"]


def test_pings_detect_all_of_it(detected):
    """A ping that the program itself has to acknowledge detects all three failures."""
    assert all("pings" in found for found in detected.values())


def test_a_short_close_timeout_reconnects_sooner(monkeypatch):
    """From a frozen server the hardened client has disconnected while one with the library's own
    close_timeout still waits for a Close."""
    variables = {"PING_INTERVAL": 1, "PING_TIMEOUT": 1, "BACKOFF": 0.01, "TRIES": 1}
    client = module(monkeypatch, "client_hardened.py", **variables)

    async def receive(url):
        async for _ in client["receive_events"](url):
            pass

    with ThreadPoolExecutor(2) as threads, ExitStack() as stack:
        frozen = Peer(stack)
        url = f"ws://127.0.0.1:{frozen.port}"
        default = threads.submit(pinging, frozen.port)
        frozen.accept_websocket()
        hardened = threads.submit(asyncio.run, receive(url))
        frozen.accept_websocket()
        assert isinstance(hardened.exception(), client["RetryError"])
        assert not default.done()


# The browser


@both_browsers
def test_a_browser_does_not_wait_for_a_long_delay(start, page, tmp_path):
    """A page that waits to reconnect does so at once when the network is back, or when the page
    becomes visible."""
    server = start(f"{TOPIC}/server.py", EVENT_INTERVAL=0.1)
    folder = copy_isolated(EXAMPLES / TOPIC / "client.html", tmp_path / "page")
    # No delay is short by chance.
    page.add_init_script("Math.random = () => 1;")
    page.goto(f"file://{folder}/client.html?url={server.url}&backoff=0.2")
    for target, event in ("window", "online"), ("document", "visibilitychange"):
        page.wait_for_selector("text=connected")
        # From here on a delay that is not cut short is longer than the test's timeout.
        page.evaluate(
            "window.later = setTimeout; setTimeout = (what, delay, ...rest) => later("
            "what, what?.name === 'connect' ? delay * factors.shift() : delay, ...rest);"
        )
        page.evaluate("window.factors = [1000, 1, 1000, 1, 1]")
        server.stop()
        page.wait_for_selector("text=reconnecting")
        server = start(f"{TOPIC}/server.py", PORT=server.port, EVENT_INTERVAL=0.1)
        page.evaluate(f"{target}.dispatchEvent(new Event('{event}'))")
        page.wait_for_selector("text=connected")
        page.evaluate("setTimeout = later")


# Stands in for the time that a page waits, and for its server.
STUBS = """
    window.later = window.setTimeout;
    window.delays = [];
    window.cleared = [];
    window.paused = false;
    Math.random = () => 1;
    window.setTimeout = (what, delay, ...rest) => {
      const connecting = what?.name === "connect";
      const id = later(what, connecting ? (paused ? 1e6 : 0) : delay, ...rest);
      if (connecting) { delays.push(delay / 1000); window.reconnectId = id; }
      else window.silence = delay / 1000;
      return id;
    };
    const clear = window.clearTimeout;
    window.clearTimeout = (id) => { cleared.push(id); clear(id); };
    window.sockets = [];
    window.WebSocket = class {
      static OPEN = 1;
      constructor(url) { this.url = url; this.readyState = 0; sockets.push(this); }
      close() { this.readyState = 3; }
    };
    window.state = () => document.getElementById("state").textContent;
    window.fail = (code = 1006) => sockets.at(-1).onclose({ code, reason: "why" });
    window.receive = (id = 1) => {
      sockets.at(-1).readyState = 1;
      sockets.at(-1).onmessage({ data: JSON.stringify({ id, text: "tick" }) });
    };
    window.until = (number) => new Promise((done) => {
      const look = () => sockets.length === number ? done() : later(look, 5);
      look();
    });
"""


@pytest.fixture
def stubbed(page, tmp_path):
    """Return client.html, open in a browser, with neither time nor a network."""
    folder = copy_isolated(EXAMPLES / TOPIC / "client.html", tmp_path / "stubbed")
    page.add_init_script(STUBS)
    page.goto(f"file://{folder}/client.html?backoff=1&tries=3&silence=1000")
    return page


def test_a_browser_backs_off_and_gives_up(stubbed):
    """A page waits longer after each failure in a row, starts to count again when an event arrives,
    and gives up in the end."""
    ended = stubbed.evaluate("""async () => {
        fail(); await until(2); fail(); await until(3);
        receive(); fail(); await until(4); fail(); await until(5); fail(); await until(6);
        fail();
        return [delays, state()];
    }""")
    assert ended == [[1, 2, 1, 2, 4], "closed with 1006; gave up"]


def test_a_browser_resumes(stubbed):
    """A page that reconnects sends the id of the last event that it has."""
    urls = stubbed.evaluate("""async () => {
        receive(7); receive(8); fail(); await until(2); fail(); await until(3);
        return sockets.map((socket) => new URL(socket.url).search);
    }""")
    assert urls == ["", "?after=8", "?after=8"]


def test_a_browser_that_wakes_connects_once(stubbed):
    """A page that does not wait for its delay to pass cancels it, so that it connects once, and
    starts to count again."""
    before, cleared, delays, sockets = stubbed.evaluate("""async () => {
        fail(); await until(2); paused = true; fail();
        const before = reconnectId; paused = false;
        dispatchEvent(new Event("online"));
        await until(3); fail(); await until(4);
        return [before, cleared, delays, sockets.length];
    }""")
    assert before in cleared
    assert delays == [1, 2, 1, 1]
    assert sockets == 4


def test_a_browser_does_not_trust_a_connection_that_slept(stubbed):
    """When the network is back, or the page becomes visible, an event has to arrive within five
    seconds on an open connection."""
    for event in (
        "window.dispatchEvent(new Event('online'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
    ):
        assert stubbed.evaluate(f"receive(), [silence, ({event}, silence)]") == [1000, 5]


def test_a_rejected_browser_does_not_reconnect(stubbed):
    """A page that is closed with 1008, or a code of the application, does not reconnect."""
    for code in 1008, 4400:
        assert stubbed.evaluate(f"fail({code}), [state(), delays]") == ["rejected: why", []]
