"""Long polling in trouble: thousands of held requests, clients that disconnect, servers that stop;
a feed; hostile HTTP; and wrong programs."""

import asyncio
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from .support.hostile import PROBE, Level, assert_level, reset, tasks
from .support.messages import exchanges, label, messages, table, transcript
from .support.processes import EXAMPLES, copy_isolated, environment, run_to_end, wait_until
from .support.sequence import in_order
from .test_long_polling import (
    BOTH,
    HELD,
    get,
    poll,
    post,
    submit_job,
    wait_until_received,
    wait_until_sent,
)

CROWD = 2000


@pytest.fixture
def beside():
    """Return an executor for requests that are held while a test continues."""
    with ThreadPoolExecutor(64) as executor:
        yield executor


def held(server):
    return get(f"{server.url}/held").json()


def wait_until_held(server, number):
    wait_until(lambda: held(server)["requests"] == number)


# Thousands


class Crowd:
    """So many connections with one held request each, in a thread of their own.

    `responses`: what was received, as bytes, once `result()` has waited for it.
    """

    def __init__(self, port, path, number, wait_until=b"}"):
        self.port, self.number, self.until = port, number, wait_until
        self.request = f"GET {path} HTTP/1.1\r\nHost: x\r\nPrefer: wait=60\r\n\r\n".encode()
        self.sent = self.received = 0
        self.all_sent = threading.Event()
        self.responses = []
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        self.thread.start()

    async def run(self):
        at_once = asyncio.Semaphore(50)  # handshakes, not requests
        self.responses = await asyncio.gather(*(self.poll(at_once) for _ in range(self.number)))

    async def poll(self, at_once):
        async with at_once:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.request)
        self.sent += 1
        if self.sent == self.number:
            self.all_sent.set()
        try:
            response = await reader.readuntil(self.until)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            response = repr(error).encode()
        self.received += 1
        writer.close()
        return response

    def result(self):
        self.thread.join()
        return self.responses


@contextmanager
def crowd(server, path, number):
    """Yield a Crowd whose requests are held; wait for its end."""
    clients = Crowd(server.port, path, number)
    try:
        wait_until_held(server, number)
        yield clients
    finally:
        server.stop(errors_expected=True)
        clients.result()


def test_two_thousand_requests_are_held_at_once(start, many_files, record):
    """One process with one thread holds 2,000 requests at once, each at the cost of one task and
    some ten KiB, and responds to other requests meanwhile."""
    server = start("long_polling/server_hardened.py", MAX_WAIT=60, **PROBE)
    job = submit_job(server.url)
    before, tasks_before = server.status("VmRSS"), tasks(server)
    with crowd(server, job.removeprefix(server.url), CROWD) as clients:
        counted = held(server)
        kib = (server.status("VmRSS") - before) / CROWD
        tasks_each = (tasks(server) - tasks_before) / CROWD
        # Others submit jobs and receive results; no request of the crowd gets a response.
        for _ in range(10):
            assert poll(submit_job(server.url, 0)).json()["status"] == "done"
        assert clients.received == 0
        processes, threads = 1 + len(server.children()), server.status("Threads")
        assert (processes, threads) == (1, 1)
    assert counted == {"requests": CROWD, "jobs": 1}
    rows = [
        {"held by one server": "requests", "measured": CROWD},
        {"held by one server": "processes", "measured": processes},
        {"held by one server": "threads", "measured": threads},
        {"held by one server": "tasks for each", "measured": f"{tasks_each:.2g}"},
        {
            "held by one server": "memory for each, rounded to 10 KiB",
            "measured": f"{10 * round(kib / 10)} KiB",
        },
    ]
    record("long_polling/crowd.md", table(rows))


def test_a_stopping_server_responds_to_all(start, many_files, record):
    """When the server stops, all 2,000 held requests get a response: pending, when to poll again,
    and that the connection closes; no connection is reset."""
    server = start("long_polling/server_hardened.py", MAX_WAIT=60)
    job = submit_job(server.url)
    with crowd(server, job.removeprefix(server.url), CROWD) as clients:
        assert server.stop() == 0
    responses = [response.decode() for response in clients.result()]
    delays = [int(n) for each in responses for n in re.findall(r"Retry-After: (\d)", each)]
    assert len(delays) == CROWD
    assert set(delays) == {1, 2, 3, 4, 5}  # not all at once
    assert not any("Preference-Applied" in response for response in responses)
    rows = [
        {"of the held requests": "in all, when the server was stopped", "clients": CROWD},
        {
            "of the held requests": "response `200`, `pending`",
            "clients": sum('"pending"' in each for each in responses),
        },
        {"of the held requests": "with `Retry-After`", "clients": len(delays)},
        {
            "of the held requests": "with `Connection: close`",
            "clients": sum("connection: close" in each for each in responses),
        },
        {
            "of the held requests": "reset, or closed without a response",
            "clients": sum("Error" in each for each in responses),
        },
    ]
    assert [row["clients"] for row in rows] == [CROWD] * 4 + [0]
    record("long_polling/drained.md", table(rows))


def test_twenty_holds_block_a_pool_of_twenty_threads(start, many_files, record):
    """A pool of twenty threads that holds twenty requests responds to no other request meanwhile;
    one that holds fifteen at most does, and so does an event loop that holds two hundred."""
    wrong = start("long_polling/wrong_threads.py", MAX_WAIT=3)
    pool = start("long_polling/server_threads.py", MAX_WAIT=10)
    loop = start("long_polling/server_hardened.py")
    took, received = {}, {}
    for server, path, number, rejected in [
        (wrong, "/held", 20, 0),
        (pool, "/held", 20, 5),
        (loop, submit_job(loop.url).removeprefix(loop.url), 200, 0),
    ]:
        clients = Crowd(server.port, path, number, wait_until=b"\r\n\r\n")
        clients.all_sent.wait()
        if server is loop:
            wait_until_held(server, number)
        wait_until(lambda clients=clients, rejected=rejected: clients.received == rejected)
        took[server] = get(f"{server.url}/others", timeout=30).elapsed.total_seconds()
        received[server] = clients.received
        used = server.status("Threads")
        server.stop()
        statuses = [response.split()[1] for response in clients.result()]
        assert statuses.count(b"503") == rejected
        if server is wrong:
            assert used == 21
    assert took[wrong] > 1  # of the 3 seconds for which the twenty are held
    assert (received[pool], received[loop]) == (5, 0)
    rows = [
        ("a pool of twenty threads", 20, "after them"),
        ("the same pool, with a limit of 15", 15, "while all are held"),
        ("an event loop", 200, "while all are held"),
    ]
    names = "server", "held requests", "another request gets a response"
    shown = [dict(zip(names, row, strict=True)) for row in rows]
    record("long_polling/wrong_threads.md", table(shown))


# The hardened server


@pytest.fixture(scope="module")
def hardened(start_shared):
    """Return the hardened server, running; its tasks can be counted."""
    return start_shared("long_polling/server_hardened.py", **PROBE)


def connect(server, path):
    """Open a connection and send a poll that is to be held."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nPrefer: wait=20\r\n\r\n".encode())
    return connection


def test_a_client_that_disconnects_leaves_nothing(hardened):
    """When a client disconnects its request is no longer held: no entry, task or descriptor is
    left."""
    path = submit_job(hardened.url).removeprefix(hardened.url)
    before, level = held(hardened), Level.of(hardened)
    for leave in (socket.socket.close, reset):
        connection = connect(hardened, path)
        wait_until_held(hardened, before["requests"] + 1)
        leave(connection)
        wait_until(lambda: held(hardened) == before)
        assert_level(hardened, level)


def test_held_requests_are_counted(hardened, beside):
    """The server counts the requests that it holds, and not those that got their response."""
    before = held(hardened)
    job = submit_job(hardened.url, 3)
    responses = [beside.submit(poll, job) for _ in range(3)]
    wait_until_held(hardened, before["requests"] + 3)
    assert held(hardened)["jobs"] == before["jobs"] + 1
    assert {response.result().json()["status"] for response in responses} == {"done"}
    assert max(response.result().elapsed.total_seconds() for response in responses) < 10
    assert held(hardened) == before


def test_one_hold_too_many_is_rejected(start):
    """A server that holds as many requests as it may rejects one more with 503 and Retry-After, and
    still responds to requests that need no hold. A client that disconnects makes room."""
    server = start("long_polling/server_hardened.py", MAX_HELD=2)
    job, done = submit_job(server.url), submit_job(server.url, 0)
    path = job.removeprefix(server.url)
    connections = [connect(server, path) for _ in range(2)]
    wait_until_held(server, 2)
    rejected = poll(job)
    assert rejected.status_code == 503
    assert rejected.headers["Retry-After"] == "5"
    assert rejected.json()["message"] == "too many held requests"
    assert poll(job, prefer=None).json()["status"] == "pending"
    assert poll(done).json()["status"] == "done"
    connections[0].close()
    wait_until_held(server, 1)
    assert poll(job, "wait=1").status_code == 200
    connections[1].close()


def test_too_many_jobs_are_rejected(start):
    """A server with too many jobs responds with 503 and Retry-After, and accepts jobs again once
    results have expired."""
    server = start("long_polling/server_hardened.py", MAX_JOBS=1, RESULT_TTL=0.5)
    job = submit_job(server.url, 0)
    rejected = post(f"{server.url}/jobs", json={"seconds": 0})
    assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "5")
    wait_until(lambda: poll(job).status_code == 404)
    submit_job(server.url, 0)


def test_deeply_nested_json_is_400(hardened):
    """JSON that is nested more deeply than the parser allows is a 400."""
    for opening in b"[", b'{"seconds":':
        assert post(f"{hardened.url}/jobs", content=opening * 800).status_code == 400
        body = opening * 800 + b"0" + (b"]" if opening == b"[" else b"}") * 800
        assert post(f"{hardened.url}/jobs", content=body).status_code == 400


def test_the_hardened_server_keeps_the_contract(hardened):
    """The hardened server responds as the quick start does: Location, held or not, done."""
    submitted = post(f"{hardened.url}/jobs", json={"seconds": 0.5})
    token = submitted.json()["token"]
    assert submitted.headers["Location"] == f"/jobs/{token}"
    assert submitted.headers["Retry-After"] == "1"
    job = hardened.url + submitted.headers["Location"]
    pending = poll(job, prefer=None)
    assert pending.json() == {"token": token, "status": "pending"}
    assert "Preference-Applied" not in pending.headers
    done = poll(job)
    assert done.headers["Preference-Applied"] == "wait=20"
    assert done.json() == {"token": token, "status": "done", "result": 42}
    assert "Retry-After" not in done.headers
    assert get(f"{hardened.url}/jobs/made-up", headers=HELD).status_code == 404


def test_a_hold_ends_in_time(start):
    """The hardened server holds for MAX_WAIT at most; a response after a hold has no
    Retry-After."""
    server = start("long_polling/server_hardened.py", MAX_WAIT=1)
    response = poll(submit_job(server.url), "wait=60")
    assert response.json()["status"] == "pending"
    assert response.headers["Preference-Applied"] == "wait=1"
    assert "Retry-After" not in response.headers
    assert response.headers["Connection"] == "keep-alive"


def test_a_result_expires(start):
    """A result is kept for a while, and then the token is a 404."""
    server = start("long_polling/server_hardened.py", RESULT_TTL=0.5)
    job = submit_job(server.url, 0.1)
    assert poll(job).json()["status"] == "done"
    wait_until(lambda: poll(job).status_code == 404)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@BOTH
def test_stops_at_once_with_requests_held(start, tap, beside, name, number):
    """A server that is stopped responds to its held requests and ends at once, not after the
    15 seconds for which Sanic would wait."""
    server = start(f"long_polling/{name}")
    wire = tap(server)
    job = submit_job(server.url).replace(server.url, wire.url)
    response = beside.submit(poll, job)
    wait_until_received(wire)
    before = time.monotonic()
    assert server.stop(number) == 0
    assert time.monotonic() - before < 5
    response = response.result()
    assert (response.status_code, response.json()["status"]) == (200, "pending")


# Wrong


def test_a_hold_beyond_the_response_timeout_is_503(start, tap, beside, record):
    """A server that holds for longer than its framework's timeout responds with 503 during the hold
    and closes; one whose hold is shorter, or which sets that timeout above its longest hold,
    responds with pending."""
    timer = {"SANIC_RESPONSE_TIMEOUT": 2}
    wrong = tap(start("long_polling/wrong_timeout.py", errors_expected=True, **timer))
    quick = start("long_polling/server.py", MAX_WAIT=1, **timer)
    right = start("long_polling/server_hardened.py", MAX_WAIT=4, **timer)
    short = beside.submit(poll, submit_job(quick.url), "wait=4")
    fine = beside.submit(poll, submit_job(right.url), "wait=4")
    response = poll(submit_job(wrong.url), "wait=4")
    assert response.status_code == 503
    assert response.json()["message"] == "Response Timeout"
    assert response.headers["Connection"] == "close"
    for each in short, fine:
        assert (each.result().status_code, each.result().json()["status"]) == (200, "pending")
    shown = messages(wrong.events)[-2:]
    record("long_polling/wrong_timeout.html", transcript(shown, "Held for too long"))


def order(server, tap, beside):
    """Return which response came first: that to a held request, or to another, sent after it."""
    wire = tap(server)
    job, other = submit_job(wire.url, 1), submit_job(wire.url)
    waits = beside.submit(poll, job, "wait=2")
    wait_until_sent(wire)
    quick = beside.submit(poll, other, prefer=None)
    wait_until_sent(wire, 2)
    waits, quick = waits.result().json(), quick.result()
    assert quick.status_code == 200
    pairs = exchanges(messages(wire.events))[2:]
    pairs.sort(key=lambda pair: pair[1].at)
    names = {job.removeprefix(wire.url): "the held request"}
    lines = [names.get(q.target, "another request") + f": {label(a)}" for q, a in pairs]
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1)) + "\n"


def test_a_blocking_handler_blocks_all_clients(start, tap, beside, record):
    """While a handler blocks the event loop, no other request gets a response, and the job itself
    makes no progress: a job of 1 s is pending after 2. A handler that awaits blocks nothing."""
    wrong = order(start("long_polling/wrong_blocking.py", errors_expected=True), tap, beside)
    right = order(start("long_polling/server.py"), tap, beside)
    assert wrong.splitlines()[0] == "1. the held request: 200 pending"
    assert right.splitlines()[0] == "1. another request: 200 pending"
    assert right.splitlines()[1] == "2. the held request: 200 done"
    record("long_polling/wrong_blocking.txt", wrong)
    record("long_polling/right_blocking.txt", right)


def test_a_linter_finds_the_blocking_call():
    """A linter finds time.sleep in a handler: rule ASYNC251 of ruff."""
    ran = subprocess.run(
        ["ruff", "check", "--isolated", "--select", "ASYNC", "wrong_blocking.py"],
        cwd=EXAMPLES / "long_polling",
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "ASYNC251" in ran.stdout


def test_a_client_that_disconnects_cancels_a_shared_task(start, tap, beside, record):
    """Where every handler awaits the task itself, one client that disconnects cancels it: all
    others get a 500, also when they poll later. With asyncio.wait all of them receive the
    result."""
    outcome = {}
    for name in "wrong_shared_future.py", "server.py":
        server = start(f"long_polling/{name}", errors_expected=name.startswith("wrong"))
        wire = tap(server)
        job = submit_job(server.url, 3)
        stays = beside.submit(poll, job.replace(server.url, wire.url))
        wait_until_sent(wire)
        with pytest.raises(httpx2.ReadTimeout):
            get(job, headers=HELD, timeout=httpx2.Timeout(30, read=0.5))
        found = stays.result()
        outcome[name] = (found.status_code, poll(job).status_code)
        if name.startswith("wrong"):
            record(
                "long_polling/wrong_shared_future.html",
                transcript(messages(wire.events), "Another client disconnected"),
            )
    assert outcome == {"wrong_shared_future.py": (500, 500), "server.py": (200, 200)}


def test_a_timeout_cancels_a_shared_task(start):
    """Where a handler awaits the task itself with a timeout, the end of the hold cancels the
    job."""
    job = submit_job(start("long_polling/wrong_shared_future.py", errors_expected=True).url, 10)
    assert poll(job, "wait=1").json()["status"] == "pending"
    assert poll(job).status_code == 500


def test_a_late_end_of_holds_drops_all_clients(start, tap, run, beside, record):
    """A server that ends its holds after it has stopped, and not before, waits until the graceful
    shutdown times out and then closes the connections: the client gets no response at all."""
    server = start(
        "long_polling/wrong_shutdown.py", errors_expected=True, SANIC_GRACEFUL_SHUTDOWN_TIMEOUT=1
    )
    wire = tap(server)
    client = beside.submit(run, "long_polling/client.py", URL=wire.url, SECONDS=60)
    wait_until_received(wire)
    server.stop(errors_expected=True)
    result = client.result()
    assert result.returncode == 1
    pairs = exchanges(messages(wire.events))
    ((request, response),) = [pair for pair in pairs if pair[0].method == "GET"]
    assert response is None
    ends = [e.at for e in wire.events if (e.source, e.kind) == ("server", "end")]
    assert ends[-1] - request.at > 0.9  # of the one second of the graceful shutdown
    record("long_polling/wrong_shutdown.txt", result.stdout + result.stderr)


# A feed


@pytest.fixture(scope="module")
def feed(start_shared):
    """Return the feed, running, which keeps a hundred messages."""
    return start_shared("long_polling/feed_server.py", MAX_MESSAGES=100)


def publish(server, text):
    response = post(f"{server.url}/messages", json={"text": text})
    assert response.status_code == 201, response.text
    return response.json()["id"]


def poll_feed(server, after, prefer="wait=20"):
    return get(
        f"{server.url}/messages",
        params={"after": after},
        headers={"Prefer": prefer} if prefer else {},
        timeout=30,
    )


def follow(server, tap, run, beside, kind):
    """Return what a client prints when a message is published right between two of its polls, and
    the trace of its polls.

    "one" is published during a hold; "two" when the response with it has left the server and not
    reached the client; "three" when the client has polled again.
    """
    published = []

    def publish_next(text):
        published.append((time.monotonic() - wire.start, "note", f"{text} is published"))
        publish(server, text)

    def between(event):
        if event.source == "server" and b'"messages"' in event.data and len(published) == 1:
            publish_next("two")

    wire = tap(server, on_data=between)
    client = beside.submit(run, f"long_polling/{kind}_client.py", URL=wire.url, WAIT=3)
    wait_until_received(wire)
    publish_next("one")
    # With a cursor the second poll gets its response at once, and the third is held.
    wait_until_received(wire, 3 if kind == "feed" else 2)
    publish_next("three")
    result = client.result()
    assert result.returncode == 0, result.stderr
    passed = list(published)
    for request, response in exchanges(messages(wire.events)):
        if request.method == "GET":  # without those that a proof waits with
            passed.append((request.at, "up", "GET " + request.target.partition("?")[2]))
            texts = " ".join(each["text"] for each in response.json["messages"])
            passed.append((response.at, "down", f"{response.status} {texts or 'no messages'}"))
    return result.stdout, in_order((kind, text, "") for _, kind, text in sorted(passed))


def test_a_message_between_two_polls_is_lost_without_a_cursor(start, tap, run, beside, record):
    """A message that is published between two polls is lost where the client sends no cursor, and
    delivered where it does."""
    right, wrong = (start(f"long_polling/{kind}_server.py") for kind in ("feed", "wrong_feed"))
    with_cursor = beside.submit(follow, right, tap, run, beside, "feed")
    without, _ = follow(wrong, tap, run, beside, "wrong_feed")
    assert without.splitlines() == ["1: one", "3: three", "no new messages"]
    with_cursor, polls = with_cursor.result()
    assert with_cursor.splitlines() == ["1: one", "2: two", "3: three", "no new messages"]
    record("long_polling/wrong_feed.txt", without)
    record("long_polling/feed.txt", with_cursor)
    record("long_polling/feed.json", polls)


def test_a_message_ends_all_holds(feed, beside):
    """A message ends all holds at once, and each client receives the same."""
    last = poll_feed(feed, 0, prefer=None).json()["last"]
    responses = [beside.submit(poll_feed, feed, last) for _ in range(20)]
    number = publish(feed, "hello")
    for response in responses:
        assert response.result().elapsed.total_seconds() < 10
        assert response.result().json() == {
            "messages": [{"id": number, "text": "hello"}],
            "missed": 0,
            "last": number,
        }


def test_polling_the_feed_changes_nothing(feed):
    """The position of a client is in its request alone: the same request gets the same response,
    and one whose response was lost can be repeated."""
    number = publish(feed, "again")
    responses = [poll_feed(feed, number - 1).json() for _ in range(3)]
    expected = {"messages": [{"id": number, "text": "again"}], "missed": 0, "last": number}
    assert responses == [expected] * 3


def test_no_new_message_is_an_empty_response(feed):
    """When a hold ends without a new message, the response has no messages and the same cursor."""
    number = publish(feed, "x")
    response = poll_feed(feed, number, "wait=1")
    assert response.json() == {"messages": [], "missed": 0, "last": number}
    assert response.headers["Preference-Applied"] == "wait=1"
    assert response.headers["Cache-Control"] == "no-store"


def test_the_feed_is_bounded_and_counts_missed_messages(start, run):
    """The feed keeps a limited number of messages; a client that polls too late receives how many
    it has missed."""
    server = start("long_polling/feed_server.py", MAX_MESSAGES=3)
    for text in "abcde":
        publish(server, text)
    response = poll_feed(server, 1).json()
    assert [message["text"] for message in response["messages"]] == ["c", "d", "e"]
    assert response["missed"] == 1
    assert poll_feed(server, 2).json()["missed"] == 0
    client = run("long_polling/feed_client.py", URL=server.url, WAIT=1)
    assert client.stdout.splitlines() == ["missed 2", "3: c", "4: d", "5: e", "no new messages"]


def test_a_cursor_from_before_a_restart_is_410(start, canned, run):
    """A cursor that the feed never returned is a 410: the client starts from 0, and does not wait
    for an id that is used again."""
    server = start("long_polling/feed_server.py")
    response = poll_feed(server, 7)
    assert response.status_code == 410
    assert "poll with after=0" in response.json()["message"]
    old = {"messages": [{"id": 7, "text": "old"}], "missed": 0, "last": 7}
    new = {"messages": [{"id": 1, "text": "new"}], "missed": 0, "last": 1}
    quiet = {"messages": [], "missed": 0, "last": 1}
    fake = canned((200, {}, old), (410, {}, {}), (200, {}, new), (200, {}, quiet))
    client = run("long_polling/feed_client.py", URL=fake.url)
    assert client.stdout.splitlines() == [
        "7: old",
        "the feed has restarted",
        "1: new",
        "no new messages",
    ]
    cursors = [path.split("after=")[1] for _, path, _ in fake.requests]
    assert cursors == ["0", "7", "0", "1"]


def test_an_old_cursor_may_name_a_new_message(start):
    """A restarted feed cannot recognize an old cursor once it has as many messages as before: it
    returns the messages after that id, and the client misses the others."""
    server = start("long_polling/feed_server.py")
    for number in range(1, 9):
        assert publish(server, f"new {number}") == number
    response = poll_feed(server, 7)
    assert response.status_code == 200
    assert response.json()["messages"] == [{"id": 8, "text": "new 8"}]
    assert response.json()["missed"] == 0


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 20, "\u0663", "1\n"])
def test_an_invalid_cursor_is_400(feed, after):
    """A cursor that is not a number of ASCII digits is a 400 that explains what a cursor is."""
    response = poll_feed(feed, after)
    assert response.status_code == 400
    assert response.json()["message"] == "after is the id of a message, or 0"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"text": 1}',
        b'{"text": NaN}',
        b'{"text": "%s"}' % (b"x" * 1001),
        b"[" * 9000,
        b'{"text": "\\ud800"}',
        b'{"text": "\\u001b[2J"}',
        b'{"text": "a\\nb"}',
    ],
)
def test_an_invalid_message_is_400(feed, body):
    """A body that is not a message, or has control characters or half a surrogate pair, is a 400
    and does not enter the feed."""
    last = poll_feed(feed, 0, prefer=None).json()["last"]
    assert post(f"{feed.url}/messages", content=body).status_code == 400
    assert poll_feed(feed, 0, prefer=None).json()["last"] == last


def test_curl_publishes(feed, tmp_path):
    """Messages can be published with curl, also with quotes and backslashes."""
    last = poll_feed(feed, 0, prefer=None).json()["last"]
    texts = ['say "by hand"', "C:\\new", "it's"]
    home = copy_isolated(EXAMPLES / "long_polling/feed_publish.sh", tmp_path / "hand")
    result = run_to_end(["sh", "feed_publish.sh", *texts], home, environment(URL=feed.url))
    assert result.returncode == 0, result.stderr
    assert [each["text"] for each in poll_feed(feed, last).json()["messages"]] == texts


@pytest.mark.parametrize("name", ["feed_server.py", "wrong_feed_server.py"])
def test_the_feed_stops_at_once(start, tap, beside, name):
    """The feed responds to all held requests when it stops, and ends at once."""
    server = start(f"long_polling/{name}")
    wire = tap(server)
    response = beside.submit(poll, f"{wire.url}/messages")
    wait_until_received(wire)
    before = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - before < 5
    assert response.result().status_code == 200


@pytest.mark.parametrize(
    "response",
    [
        (500, {}, "oops"),
        (410, {}, {}),
        (200, {}, "<h1>It works!</h1>"),
        (200, {}, {}),
        (200, {}, "[" * 100_000),
    ],
)
def test_the_feed_client_fails_with_one_line(run, canned, port, response):
    """A client of the feed that cannot reach the server, or gets something other than a feed,
    reports it in one line."""
    for url in canned(response).url, f"http://127.0.0.1:{port()}":
        result = run("long_polling/feed_client.py", URL=url)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
