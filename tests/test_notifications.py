"""Notifications: topics and inboxes, three transports, one log."""

import asyncio
import html
import json
import re
import resource
import runpy
import signal
import sqlite3
import time
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import httpx2
import pytest
from playwright.sync_api import expect
from websockets.exceptions import ConnectionClosed

from .support.browsing import both_browsers
from .support.events import metric
from .support.messages import messages, single_values, table, wire_list
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    copy_isolated,
    loaded,
    wait_until,
)
from .support.sequence import in_order, sequence_diagram
from .support.sockets import PING, TEXT, connect, frames
from .support.threads import run_in_thread

TOPIC = "notifications"
CLIENTS = ["client.py", "client_sse.py", "client_poll.py"]
QUICK = {"BASE_DELAY": 0.1, "MAX_FAILURES": 1000, "TOPICS": "news", "USER_ID": "ann"}


http = httpx2.Client(timeout=TIMEOUT)


def post(server, text, to="topics/news", **headers):
    return http.post(f"{server.url}/{to}", json={"text": text}, headers=headers)


def publish(server, *texts, to="topics/news"):
    """Publish notifications; return their ids."""
    responses = [post(server, text, to) for text in texts]
    assert [response.status_code for response in responses] == [201] * len(texts)
    return [response.json()["id"] for response in responses]


def poll(server, **query):
    return http.get(f"{server.url}/notifications", params={"user": "ann", "topic": "news"} | query)


def open_socket(server, **query):
    """Open a WebSocket: with open_socket(server, user="ann", after=0) as socket."""
    address = f"{server.url}/notifications/socket".replace("http", "ws")
    query = httpx2.QueryParams({"user": "ann", "topic": "news"} | query)
    return connect(f"{address}?{query}")


def receive_texts(socket, number):
    """Return the texts of the next `number` notifications."""
    return [notification["text"] for notification in notifications(socket, number)]


def notifications(socket, number):
    """Return the next `number` notifications; heartbeats are skipped."""
    found = []
    while len(found) < number:
        notification = json.loads(socket.recv(TIMEOUT))
        found += [notification] if "id" in notification else []
    return found


def present_users(server):
    return http.get(f"{server.url}/presence").json()["users"]


@pytest.fixture(scope="module")
def server(start_shared):
    """Return a server that many tests share; each has a topic of its own."""
    return start_shared(f"{TOPIC}/server.py", HEARTBEAT=0.3)


# Bodies that are not a notification.
INVALID = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b'{"text": ""}',
    b'{"text": 1}',
    b'{"text": NaN}',
    b'{"text": ' + b"[" * 9_000,
    b'{"text": "\\ud800"}',
    b'{"text": "half \\udc00 a character"}',
    b'{"text": "two\\nlines"}',
    b'{"text": "\\u0000"}',
    b'{"text": "\\u001b[2J"}',
    b'{"text": "\\u007f"}',
    b'{"text": "\\u0085"}',
]

# The smallest server


@pytest.fixture(scope="module")
def small(start_shared, follow_shared, tmp_path_factory):
    """Return what the smallest server and a client did while the server was killed and started
    again."""
    name = f"{TOPIC}/server_small.py"
    options = {"LOG": tmp_path_factory.mktemp("log") / "log.db"}
    server = start_shared(name, HEARTBEAT=0.3, **options)
    publish(server, "one", to="topics/deploys")
    client = follow_shared("client_sse.py", URL=server.url, TOPICS="deploys server", COUNT=4)
    client.wait_for("1 topics/deploys: one")
    publish(server, "two", to="topics/deploys")
    client.wait_for("2 topics/deploys: two")
    with small_stream(server, 2) as response:
        texts = response.iter_text()
        beginning, silence = next(texts), next(texts)
    client.send(signal.SIGSTOP)
    server.stop(signal.SIGKILL)
    server = start_shared(name, PORT=server.port, **options)
    publish(server, "three", to="topics/deploys")
    client.send(signal.SIGCONT)
    client.wait_for("3 topics/deploys: three")
    publish(server, "elsewhere", to="topics/other")
    publish(server, "four", to="topics/deploys")
    assert client.wait() == 0
    rejected = [http.post(f"{server.url}/topics/deploys", content=body) for body in INVALID]
    for number in "x", "-1", "1" * 19:
        with small_stream(server, number) as response:
            assert response.status_code == 400  # or else there is no end to read to
            response.read()
            rejected.append(response)
    with small_stream(server, 3) as response:
        chunks = response.iter_text()
        next(chunks)
        stopped = time.monotonic()
        assert server.stop() == 0
        took = time.monotonic() - stopped
    return client.output, rejected, beginning + silence, took


def small_stream(server, seen):
    address = f"{server.url}/notifications/events?topic=deploys"
    return http.stream("GET", address, headers={"Last-Event-ID": str(seen)})


def test_the_smallest_server_loses_nothing(small, record):
    """A client of the smallest server, which is killed, receives what was published before it
    subscribed, while it was connected and while it was away, once and in order."""
    lines = small[0].splitlines()
    assert lines == [
        "1 topics/deploys: one",
        "2 topics/deploys: two",
        "reconnecting: RemoteProtocolError",
        "3 topics/deploys: three",
        "5 topics/deploys: four",
    ]
    record("notifications/small.txt", small[0])


def test_the_smallest_server_rejects_invalid_requests(small):
    """The smallest server rejects with 400, in JSON, an invalid notification, with control
    characters or half a surrogate pair for example, and an invalid Last-Event-ID."""
    for response in small[1]:
        assert (response.status_code, response.json()["status"]) == (400, 400)


def test_the_smallest_server_stops_at_once(small):
    """The smallest server begins with a comment, sends one as a heartbeat, and when it stops it
    aborts the open streams."""
    _, _, comments, took = small
    assert comments == ": subscribed\n\n: heartbeat\n\n"
    assert took < 10  # it would wait for the next heartbeat, or 15 seconds


def test_the_smallest_server_sends_what_is_stored_meanwhile(tmp_path):
    """A notification that is stored while a client is sent the log is sent next, without waiting
    for another notification."""
    program = runpy.run_path(str(EXAMPLES / TOPIC / "server_small.py"))
    app, got = SimpleNamespace(ctx=SimpleNamespace()), []

    class Stream:
        async def send(self, data):
            got.append(data)
            if "first" in data:
                insert("second")
                for updated in program["subscribers"]:
                    updated.set()

    async def respond(**_):
        return Stream()

    def insert(text):
        app.ctx.log.execute("INSERT INTO log (topic, text) VALUES ('a', ?)", [text])

    async def listen():
        program["open_log"].__globals__["LOG"] = ":memory:"
        await program["open_log"](app)
        insert("first")
        request = SimpleNamespace(app=app, args={"topic": "a"}, headers={}, respond=respond)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await program["stream_events"](request)
        app.ctx.log.close()

    run_in_thread(listen())
    events = [json.loads(event.split("data: ")[1]) for event in got[1:]]
    assert [event["text"] for event in events] == ["first", "second"]
    assert not program["subscribers"]


# A server that is killed, as the figure shows it


def test_a_client_resumes_after_its_last_notification(
    start_shared, tap_shared, follow_shared, tmp_path_factory, record
):
    """A client that was disconnected names the last id that it has, and receives what was published
    while the server was down from the log, and then live."""
    options = {"LOG": tmp_path_factory.mktemp("log") / "log.db", "HEARTBEAT": 0.3}
    server = start_shared(f"{TOPIC}/server.py", **options)
    wire = tap_shared(server)
    client = follow_shared("client.py", URL=wire.url, TOPICS="deploys", COUNT=4)
    wait_until(lambda: present_users(server) == ["ann"])
    publish(server, "hello", to="users/ann")
    publish(server, "v41 is out", to="topics/deploys")
    wire.wait_until(lambda events: acks(events) == [2, 3])
    server.stop(signal.SIGKILL)
    wire.wait_until(lambda events: last_of(events) > 1)
    # The client cannot reconnect to the old port; meanwhile an event is published.
    elsewhere = start_shared(f"{TOPIC}/server.py", **options)
    publish(elsewhere, "v42 is out", to="topics/deploys")
    elsewhere.stop()
    again = start_shared(f"{TOPIC}/server.py", PORT=server.port, **options)
    wait_until(lambda: present_users(again) == ["ann"])
    wire.wait_until(lambda events: acks(events, last_of(events)) == [5])
    publish(again, "v43 is out", to="topics/deploys")
    assert client.wait() == 0
    rows = story(wire)
    drawn = in_order(rows)
    record("notifications/timeline.json", drawn)
    record(
        "notifications/timeline.svg",
        sequence_diagram(
            drawn,
            "Notifications across a server that was killed",
            "The client opens a WebSocket and receives notifications 2 and 3, each of which it "
            "acknowledges. The server is killed; the client cannot reconnect. Notification 5 is "
            "published meanwhile. The client reconnects with after=3, receives 5 from the log, "
            "and then 7 live.",
        ),
    )
    assert [words for kind, words, _ in rows if kind == "up"] == [
        "user=ann", "ack 2", "ack 3", "after=3", "ack 5", "ack 7"
    ]  # fmt: skip


def last_of(events):
    return max((event.connection for event in events), default=0)


def acks(events, connection=1):
    """Return the numbers that a client has acknowledged on a connection."""
    sent = frames(events, "client", connection)
    return [json.loads(payload)["ack"] for opcode, payload in sent if opcode == TEXT]


def story(wire):
    """Return what passed as (kind, words, note) for the figure; failed attempts in a row count as
    one."""
    rows, parsed = [], messages(wire.events)
    for connection in range(1, wire.connections + 1):
        passed = [message for message in parsed if message.connection == connection]
        if not [message for message in passed if message.status == 101]:
            if rows[-1][0] != "lost":
                rows.append(("lost", "cannot reconnect", ""))
            continue
        if connection > 1:
            rows.append(("start", "restarted", ""))
        rows.append(("up", passed[0].target.split("&")[-1] if connection > 1 else "user=ann", ""))
        for opcode, payload in frames(wire.events, "server", connection):
            notification = json.loads(payload) if opcode == TEXT else {}
            if "id" in notification:
                where = "from the log" if notification["id"] == 5 else "live"
                rows.append(("down", f"{notification['id']} {notification['text']}", where))
                rows.append(("up", f"ack {notification['id']}", ""))
        if connection == 1:
            rows.append(("cross", "killed", ""))
    return rows


# Topics and inboxes


def test_topics_and_inboxes_have_their_own_subscribers(server):
    """A notification to a topic reaches all its subscribers, one to a user reaches that user, and
    no other client receives either."""
    with (
        open_socket(server, topic="one", user="one-ann") as ann,
        open_socket(server, topic="other", user="one-bob") as bob,
    ):
        publish(server, "to all", to="topics/one")
        publish(server, "to bob", to="users/one-bob")
        publish(server, "to ann", to="users/one-ann")
        publish(server, "to the others", to="topics/other")
        assert receive_texts(ann, 2) == ["to all", "to ann"]
        assert receive_texts(bob, 2) == ["to bob", "to the others"]


def test_a_first_visit_receives_the_inbox(server):
    """A client that subscribes for the first time receives what was published before, from the
    log."""
    publish(server, "welcome", to="users/newcomer")
    with open_socket(server, user="newcomer") as socket:
        assert receive_texts(socket, 1) == ["welcome"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("topics/rejected", body, 400) for body in INVALID]
    + [
        ("topics/rejected", b'{"text": "' + b"x" * 10_000 + b'"}', 413),
        ("topics/News", b'{"text": "a"}', 404),
        ("users/" + "x" * 41, b'{"text": "a"}', 404),
        ("rooms/news", b'{"text": "a"}', 404),
    ],
)
def test_an_invalid_notification_is_rejected(server, path, body, status):
    """An invalid notification, or one for an invalid topic or user, is rejected with 400, 404 or
    413, in JSON, and nothing is stored; the server continues."""
    (before,) = publish(server, "before", to="topics/rejected")
    response = http.post(f"{server.url}/{path}", content=body)
    assert (response.status_code, response.json()["status"]) == (status, status)
    (after,) = publish(server, "after", to="topics/rejected")
    assert after == before + 1


@pytest.mark.parametrize(
    "text", ["ä€😀", "👨\u200d👩\u200d👧", "a\u00a0b", "\u200fשלום", "<&>\"'\\\\"]
)
def test_text_of_any_language_is_delivered(server, text):
    """Text in any language is delivered unchanged, emoji with joiners and no-break spaces too."""
    (number,) = publish(server, text, to="topics/languages")
    response = poll(server, topic="languages", after=number - 1)
    assert response.json()["notifications"][0]["text"] == text


def test_curl_publishes(server, run):
    """Publishing takes one request with curl; sent twice with the same key it is stored once."""
    options = {"URL": server.url, "KEY": "curl", "TO": "topics/curl"}
    results = [run(f"{TOPIC}/publish.sh", **options) for _ in "12"]
    (first, again) = [json.loads(result.stdout) for result in results]
    assert first == again
    (notification,) = poll(server, topic="curl", after=first["id"] - 1).json()["notifications"]
    assert notification == first | {"to": "topics/curl", "text": "version 42 is out"}


# The publisher's key


def test_a_retried_publish_is_stored_once(server):
    """A publish that is retried with the same Idempotency-Key returns 200 and the same id, and is
    delivered once."""
    with open_socket(server, topic="keys") as socket:
        key = {"Idempotency-Key": "order 17".replace(" ", "-")}
        first = post(server, "shipped", "topics/keys", **key)
        again = post(server, "shipped", "topics/keys", **key)
        publish(server, "arrived", to="topics/keys")
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()
        assert receive_texts(socket, 2) == ["shipped", "arrived"]


def test_a_late_retry_is_not_new(server):
    """A publish that is retried after others is not taken for the newest: a client that has all of
    them resumes from there."""
    key = {"Idempotency-Key": "late"}
    first = post(server, "first", "topics/late", **key)
    (last,) = publish(server, "second", to="topics/late")
    assert post(server, "first", "topics/late", **key).json() == first.json()
    response = poll(server, topic="late", after=last)
    assert response.json() == {"notifications": [], "after": last}


@pytest.mark.parametrize(("text", "to"), [("no", "topics/k1"), ("yes", "topics/k2")])
def test_a_key_belongs_to_one_notification(server, text, to):
    """A key that is reused for another text or channel is rejected with 422, and nothing is
    stored."""
    key = {"Idempotency-Key": f"key-{text}-{to[-1]}"}
    assert post(server, "yes", "topics/k1", **key).status_code == 201
    response = post(server, text, to, **key)
    assert (response.status_code, response.json()["status"]) == (422, 422)
    assert '"text": "no"' not in poll(server, topic="k1", after=0).text
    assert poll(server, topic="k2", after=0).json()["notifications"] == []


def test_an_invalid_key_is_rejected(server):
    """A key of more than a hundred characters is rejected with 400."""
    assert post(server, "a", **{"Idempotency-Key": "x" * 101}).status_code == 400


def test_concurrent_retries_are_stored_once(server):
    """Ten requests with the same key at the same moment store one notification: one returns 201,
    nine return 200, all with the same id."""
    responses = []

    def send():
        response = httpx2.post(
            f"{server.url}/topics/once",
            json={"text": "once"},
            headers={"Idempotency-Key": "once"},
            timeout=TIMEOUT,
        )
        responses.append((response.status_code, response.json()["id"]))

    threads = [Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in responses) == [200] * 9 + [201]
    assert len({number for _, number in responses}) == 1
    assert len(poll(server, topic="once", after=0).json()["notifications"]) == 1


# Three transports, one log


@pytest.fixture(scope="module")
def three(start_shared, tap_shared, follow_shared):
    """Return {client: (its wire, its output, [events of the wire per notification])} of three
    clients of the same log: three notifications from the past, and two live."""
    server = start_shared(f"{TOPIC}/server.py")
    publish(server, "version 42 is out", to="topics/deploys")
    publish(server, "version 42 is out", to="users/ann")
    found = {}
    for name in CLIENTS:
        wire = tap_shared(server)
        client = follow_shared(name, URL=wire.url, TOPICS="deploys server", COUNT=5)
        # The first resumes after what the user has, so it must receive it before the others do.
        client.wait_for("3 users/ann: ")
        found[name] = wire, client, []
    for wire, _, marks in found.values():
        wire.wait_until(lambda events: settled(events, 3))
        marks.append(len(wire.events))
    for number in 4, 5:
        publish(server, "version 42 is out", to="topics/deploys")
        for wire, client, marks in found.values():
            client.wait_for(f"{number} topics/deploys: ")
            if number < 5:
                wire.wait_until(lambda events, n=number: settled(events, n))
                marks.append(len(wire.events))
    for _, client, _ in found.values():
        assert client.wait() == 0
    return {name: (wire, client.output, marks) for name, (wire, client, marks) in found.items()}


def settled(events, number):
    """Return whether a client has sent all that it sends for so many notifications:
    acknowledgements on a WebSocket, the next poll; nothing on an event stream."""
    requested = [e for e in events if e.source == "client" and e.data.startswith(b"GET")]
    if b"/socket" in requested[0].data:
        return len(frames(events, "client")) == number
    return b"/events" in requested[0].data or len(requested) == 2 + max(0, number - 3)


def test_three_transports_deliver_the_same(three, record):
    """Over a WebSocket, as server-sent events and by long polling, clients receive the same
    notifications, from the past and live, with the same ids and in the same order."""
    outputs = {output for _, output, _ in three.values()}
    assert len(outputs) == 1
    record("notifications/client.txt", outputs.pop())


def test_cost_of_one_notification(three, record):
    """One live notification costs a client on a WebSocket or an event stream no request, and one
    that polls a request and more than five times the bytes."""
    rows = []
    for name, (wire, _, marks) in three.items():
        events = [e for e in wire.events[marks[0] : marks[1]] if e.kind == "data"]
        up, down = (sum(len(e.data) for e in events if e.source == who) for who in SIDES)
        requested = sum(e.data.startswith(b"GET") for e in events)
        rows.append(
            {
                "one notification, live": TRANSPORTS[name],
                "requests": requested,
                "bytes up": up,
                "bytes down": down,
            }
        )
    socket, stream, polled = ([row["bytes up"], row["bytes down"]] for row in rows)
    assert [row["requests"] for row in rows] == [0, 0, 1]
    assert stream[0] == 0 < socket[0]  # the acknowledgement
    assert sum(polled) > 5 * max(sum(socket), sum(stream))
    record("notifications/costs.md", table(rows))
    record("notifications/values.txt", single_values({"socket-bytes": f"{socket[1]} bytes"}))


def test_one_notification_on_the_wire(three, record):
    """The same notification over each of the three transports: a frame and its acknowledgement, a
    chunk, or a response and the next request."""
    blocks = []
    for name, (wire, _, marks) in three.items():
        window = [e for e in wire.events[marks[0] : marks[1]] if e.kind == "data"]
        assert [e.source for e in window] == ["server", "client"][: 2 - (name == "client_sse.py")]
        for event in window:
            way = "client → server" if event.source == "client" else "server → client"
            words = event.data.decode(errors="replace").replace("\r\n", "\n").strip()
            if name == "client.py":
                number = len(frames(wire.events[: marks[0]], event.source))
                words = frames(wire.events, event.source)[number][1].decode()
            blocks.append(
                f'<li class="{"up" if event.source == "client" else "down"}"><p>'
                f"{TRANSPORTS[name]} · {way} · {len(event.data)} bytes</p>"
                f"<pre>{html.escape(words, quote=False)}</pre></li>"
            )
    record("notifications/wire.html", wire_list(blocks, "One notification by three ways"))


SIDES = "client", "server"
TRANSPORTS = {
    "client.py": "WebSocket, acknowledged",
    "client_sse.py": "server-sent events",
    "client_poll.py": "long polling",
}


def test_more_than_a_page_of_the_log(server):
    """A client that was away for long receives all of the log, however many pages it has, and then
    live notifications."""
    for number in range(1, 251):
        publish(server, f"{number}", to="topics/long")
    with open_socket(server, topic="long", after=0) as socket:
        assert receive_texts(socket, 250) == [f"{number}" for number in range(1, 251)]
        publish(server, "251", to="topics/long")
        assert receive_texts(socket, 1) == ["251"]
    assert len(poll(server, topic="long", after=0).json()["notifications"]) == 100  # one page


def test_an_event_in_the_log_and_the_queue_is_sent_once():
    """An event that is published while a client catches up, and so is in the log and in the queue,
    is sent once."""
    program = loaded(f"{TOPIC}/server.py")
    logged = {0: [(1, "topics/news", "1"), (2, "topics/news", "2")], 2: []}

    class Store:
        def state(self):
            return 1, {}

        def after(self, last, channels):
            if last == 0:  # published while the log is read; the page has the first of them
                for number in 2, 3:
                    hub.deliver(number, "topics/news", f"{number}")
            return logged[last]

    async def catch_up():
        nonlocal hub
        hub = program["Hub"](Store())
        pages = []
        async with hub.subscribe({"topics/news"}, 0, None, 0.1) as events:
            while not pages or pages[-1]:
                pages.append(await anext(events))
        assert not hub.subscribers
        hub.writer.cancel()
        hub.writing.shutdown()
        hub.reading.shutdown()
        return [[number for number, _ in page] for page in pages]

    hub = None
    assert run_in_thread(catch_up()) == [[1, 2], [3], []]


def test_a_poll_is_held_until_a_notification(server):
    """A poll with Prefer: wait=N is held until there is a notification; one without returns at
    once, with none."""
    last = poll(server, topic="held", after=0).json()
    assert last == {"notifications": [], "after": 0}
    responses = []
    polling = Thread(
        target=lambda: responses.append(
            httpx2.get(
                f"{server.url}/notifications",
                params={"user": "poller", "topic": "held", "after": 0},
                headers={"Prefer": "wait=100"},
                timeout=TIMEOUT,
            )
        )
    )
    polling.start()
    wait_until(lambda: "poller" in present_users(server))
    assert not responses
    (number,) = publish(server, "now", to="topics/held")
    polling.join(TIMEOUT)
    (response,) = responses
    assert response.headers["Preference-Applied"] == "wait=25"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json() == {
        "notifications": [{"id": number, "to": "topics/held", "text": "now"}],
        "after": number,
    }


def test_an_event_stream_resumes_after_last_event_id(server):
    """An event stream resumes after Last-Event-ID, also if its address names another id; while
    nothing happens, comments are sent."""
    first, second = publish(server, "first", "second", to="topics/sse")
    with http.stream(
        "GET",
        f"{server.url}/notifications/events",
        params={"user": "ann", "topic": "sse", "after": 0},
        headers={"Last-Event-ID": str(first)},
    ) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        lines = response.iter_lines()
        assert [next(lines), next(lines)] == [": subscribed", ""]
        assert next(lines) == f"id: {second}"
        assert json.loads(next(lines)[6:])["text"] == "second"
        assert [next(lines), next(lines)] == ["", ": heartbeat"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"after": "x"}, 400, 1008),
        ({"after": "-1"}, 400, 1008),
        ({"after": "1" * 19}, 400, 1008),
        ({"after": "٣"}, 400, 1008),
        ({"user": ""}, 400, 1008),
        ({"user": "Ann!"}, 400, 1008),
        ({"topic": "../x"}, 400, 1008),
        ({"after": "999999"}, 410, 4410),
    ],
)
def test_an_invalid_subscription_is_rejected(server, query, status, code):
    """A subscription with an invalid user, topic or id is rejected with 400, and with 410 if the
    log does not have the id; on a WebSocket with 1008 and 4410."""
    for path in "", "/events":
        response = http.get(
            f"{server.url}/notifications{path}", params={"user": "ann", "topic": "news"} | query
        )
        assert (response.status_code, response.json()["status"]) == (status, status)
    with open_socket(server, **query) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert socket.close_code == code


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        "[" * 9_000,
        "{}",
        '{"text": "\\ud800"}',
        '{"ack": "1"}',
        '{"ack": true}',
        '{"ack": NaN}',
        '{"ack": 1.0}',
        '{"ack": -1}',
        '{"ack": 999999}',
        '{"ack": ' + "1" * 5_000 + "}",
        b"\xff\x00",
    ],
)
def test_an_invalid_acknowledgement_is_1008(server, message):
    """A message that is not an acknowledgement, or is one of an id that was never sent, closes the
    connection with 1008, and nothing is acknowledged."""
    user = "hostile"
    with open_socket(server, topic="nothing", user=user, after=0) as socket:
        socket.send(message)
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(TIMEOUT)
        assert socket.close_code == 1008
    assert poll(server, topic="nothing", user=user).json()["after"] == 0


# The log


def test_a_restart_loses_nothing(start, tmp_path):
    """A notification that was stored (201) is there after a restart, ids continue, and what was
    acknowledged is not sent again."""
    options = {"LOG": tmp_path / "log.db"}
    server = start(f"{TOPIC}/server.py", **options)
    numbers = publish(server, "one", "two", "three")
    with open_socket(server) as socket:
        assert receive_texts(socket, 3) == ["one", "two", "three"]
        socket.send(json.dumps({"ack": numbers[1]}))
        wait_until(lambda: acknowledged(server, numbers[1]))
    server.stop()
    server = start(f"{TOPIC}/server.py", PORT=server.port, **options)
    with open_socket(server) as socket:
        assert receive_texts(socket, 1) == ["three"]
    assert publish(server, "four")[0] > numbers[2]


def acknowledged(server, number):
    """Return whether the server has stored that ann acknowledged this id."""
    return poll(server).json()["notifications"][0]["id"] == number + 1


def test_a_named_id_is_acknowledged(server):
    """A poll that names an id acknowledges all up to it; a poll that names none resumes after
    it."""
    first, second = publish(server, "first", "second", to="users/cat")
    assert len(poll(server, user="cat").json()["notifications"]) == 2
    assert len(poll(server, user="cat").json()["notifications"]) == 2  # was never acknowledged
    poll(server, user="cat", after=first)
    assert poll(server, user="cat").json()["notifications"][0]["id"] == second
    poll(server, user="cat", after=0)  # an older id takes nothing back
    assert poll(server, user="cat").json()["notifications"][0]["id"] == second


def test_an_expired_cursor_is_410(start, tmp_path):
    """From a log that keeps three, a client that names an older id gets 410, or 4410 on a
    WebSocket, in place of a gap; a client that subscribes for the first time begins with the
    oldest."""
    log = tmp_path / "log.db"
    server = start(f"{TOPIC}/server.py", MAX_EVENTS=3, LOG=log)
    numbers = publish(server, *"abcde")
    last = numbers[-1]
    assert poll(server, after=last - 4).status_code == 410
    assert poll(server, after=last - 4).json()["message"] == f"the log has {last - 2} to {last}"
    with open_socket(server, after=last - 4) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert socket.close_code == 4410
    for query in {"after": last - 3}, {"after": 0}, {"user": "first-timer"}:
        found = poll(server, **query).json()["notifications"]
        assert [notification["text"] for notification in found] == ["c", "d", "e"]
    with closing(sqlite3.connect(log)) as db:
        assert db.execute("SELECT count(*) FROM log").fetchone() == (3,)


def test_the_log_is_written_ahead_and_synced(tmp_path):
    """The log is in WAL mode and syncs each commit to the disk: synchronous is FULL."""
    program = loaded(f"{TOPIC}/server.py")
    store = program["Store"](tmp_path / "store.db")
    assert store.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store.db.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_all_or_none_of_a_commit_is_stored(tmp_path):
    """The events of one commit are stored as a whole, or not at all."""
    program = loaded(f"{TOPIC}/server.py")
    store = program["Store"](tmp_path / "store.db")
    store.append([("topics/a", "1", None), ("topics/a", "2", None)], {})
    with pytest.raises(program["sqlite3"].Error):
        store.append([("topics/a", "3", None), ("topics/a", None, None)], {})
    assert [row[0] for row in store.after(0, {"topics/a"})] == [1, 2]
    assert store.append([("topics/a", "3", None)], {}) == [(3, True)]
    store.close()


def test_catching_up_does_not_delay_commits(tmp_path):
    """A notification is stored and delivered while a page of the log is read for a client."""
    program = loaded(f"{TOPIC}/server.py")
    done, reading = Event(), Event()

    class Store(program["Store"]):
        def after(self, last, channels):
            reading.set()
            assert done.wait(TIMEOUT)  # until the commit
            return super().after(last, channels)

    async def publish_meanwhile():
        hub = program["Hub"](Store(tmp_path / "log.db"))
        async with hub.subscribe({"topics/a"}, 0, close=None) as pages:
            page = asyncio.create_task(anext(pages))
            assert await asyncio.to_thread(reading.wait, TIMEOUT)
            async with asyncio.timeout(TIMEOUT / 2):
                stored = await hub.publish("topics/a", "meanwhile")
            done.set()
            await page
        await hub.close()
        return stored

    assert run_in_thread(publish_meanwhile()) == (1, True)


def test_catch_up_reads_one_page_by_the_index(tmp_path):
    """Catching up on several channels searches an index for each and merges them in the order of
    their ids: no scan of the log, and no sort."""
    program = loaded(f"{TOPIC}/server.py")
    store = program["Store"](tmp_path / "log.db")
    channels = ["users/ann", "topics/a", "topics/b"]
    store.append([(channels[n % 3], f"{n}", None) for n in range(1, 400)], {})
    statements = []
    store.reader.set_trace_callback(statements.append)
    assert [row[0] for row in store.after(7, channels)] == list(range(8, 108))
    assert [row[0] for row in store.after(0, channels[1:2])] == list(range(1, 300, 3))
    store.reader.set_trace_callback(None)
    for statement in statements:
        plan = [row[3] for row in store.reader.execute(f"EXPLAIN QUERY PLAN {statement}")]
        steps = [step for step in plan if "log" in step]
        assert set(steps) == {"SEARCH log USING INDEX log_by_channel (channel=? AND id>?)"}
        assert not [step for step in plan if "TEMP B-TREE" in step or "SCAN" in step]
    store.close()


# The client


def test_a_client_resumes_where_its_inbox_ends(server, run, tmp_path):
    """A client that is started again resumes after the last line of its inbox, and one without an
    inbox after what its user has acknowledged."""
    options = {"URL": server.url, "USER_ID": "dora", "TOPICS": "dora", "INBOX": tmp_path / "inbox"}
    one, two = publish(server, "one", "two", to="topics/dora")
    assert run(f"{TOPIC}/client.py", COUNT=1, **options).stdout == f"{one} topics/dora: one\n"
    assert run(f"{TOPIC}/client.py", COUNT=1, **options).stdout == f"{two} topics/dora: two\n"
    lines = Path(options["INBOX"]).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one", "two"]
    (three,) = publish(server, "three", to="topics/dora")
    options["INBOX"] = tmp_path / "another"
    poll(server, user="dora", topic="dora", after=two)  # acknowledges it, on another device
    result = run(f"{TOPIC}/client.py", COUNT=1, **options)
    assert f"{three} topics/dora: three\n" in result.stdout


def test_a_duplicate_is_kept_once(serving, run, tmp_path):
    """A notification that is received again is acknowledged again, and kept once; a heartbeat is
    not kept; an acknowledgement is sent once its notification is in the file, not before."""
    inbox, kept = tmp_path / "inbox", []

    def handler(socket):
        for number in 1, 1, 2, 1:
            socket.send('{"heartbeat": 5}')
            socket.send(json.dumps({"id": number, "to": "topics/news", "text": "hello"}))
            ack = json.loads(socket.recv(TIMEOUT))
            lines = inbox.read_text().splitlines()
            kept.append((ack["ack"], [json.loads(line)["id"] for line in lines]))
        socket.send('{"id": 3, "to": "topics/news", "text": "end"}')
        with suppress(ConnectionClosed):
            socket.recv(TIMEOUT)

    result = run(f"{TOPIC}/client.py", URL=serving(handler), COUNT=3, INBOX=inbox)
    assert kept == [(1, [1]), (1, [1]), (2, [1, 2]), (1, [1, 2])]
    lines = [
        line.split(" ", 1)[0] for line in result.stdout.splitlines() if "duplicate" not in line
    ]
    assert lines == ["1", "2", "3"]
    assert result.stdout.count(" (duplicate)") == 2


@pytest.mark.parametrize("space", [0, 10])
def test_what_is_not_stored_is_not_acknowledged(serving, follow, tmp_path, space):
    """A notification of which nothing, or only a part, can be written because the disk is full is
    not acknowledged: the client ends with one line, and its inbox has whole lines only."""
    inbox, acknowledged, limited = tmp_path / "inbox", [], Event()

    def handler(socket):
        with suppress(ConnectionClosed):
            for number in 1, 2:
                socket.send(json.dumps(ONE | {"id": number}))
                acknowledged.append(json.loads(socket.recv(TIMEOUT))["ack"])
                limited.wait(TIMEOUT)

    client = follow("client.py", URL=serving(handler), INBOX=inbox)
    wait_until(lambda: acknowledged)
    size = inbox.stat().st_size + space
    _, hard = resource.prlimit(client.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(client.process.pid, resource.RLIMIT_FSIZE, (size, hard))
    limited.set()
    assert client.wait() == 1
    assert client.output.splitlines()[-1].startswith(f"cannot store it in {inbox}: ")
    assert acknowledged == [1]
    assert inbox.read_text() == json.dumps(ONE) + "\n"


def test_two_clients_do_not_share_an_inbox(start, follow, run, tmp_path):
    """A second client of the same inbox ends with one line, so that no notification is stored
    twice; with an inbox of its own it receives them as well."""
    server, inbox = start(f"{TOPIC}/server.py"), tmp_path / "inbox"
    options = {"URL": server.url, "TOPICS": "twice", "USER_ID": "eve"}
    first = follow("client.py", INBOX=inbox, **options)
    wait_until(inbox.exists)
    (number,) = publish(server, "hello", to="topics/twice")
    first.wait_for("hello")
    result = run(f"{TOPIC}/client.py", INBOX=inbox, **options)
    assert (result.returncode, result.stderr) == (1, f"{inbox}: another client uses this file\n")
    second = follow("client.py", INBOX=tmp_path / "another", **options)
    wait_until(lambda: metric(server, "notifications_connections") == 2)
    (another,) = publish(server, "again", to="topics/twice")
    first.wait_for("again")
    second.wait_for("again")
    stored = [json.loads(line)["id"] for line in inbox.read_text().splitlines()]
    assert stored == [number, another]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_fresh_client_of_a_trimmed_log_begins_with_the_oldest(start, run, name):
    """A client that has received nothing begins with the oldest notification that is kept, after
    others have been trimmed."""
    server = start(f"{TOPIC}/server.py", MAX_EVENTS=5)
    numbers = publish(server, *map(str, range(14)))
    options = {"TOPICS": "news", "USER_ID": "fresh", "COUNT": 5}
    result = run(f"{TOPIC}/{name}", URL=server.url, **options)
    assert result.stdout == "".join(
        f"{number} topics/news: {text}\n" for text, number in enumerate(numbers[-5:], 9)
    )


def test_a_duplicate_in_a_stream_is_shown_once(canned, run):
    """A server-sent event that is received twice is shown once."""
    events = "".join(
        f'id: {number}\ndata: {{"id": {number}, "to": "topics/news", "text": "hello"}}\n\n'
        for number in (1, 1, 2)
    )
    server = canned((200, {"Content-Type": "text/event-stream"}, events))
    result = run(f"{TOPIC}/client_sse.py", URL=server.url, COUNT=2)
    assert result.stdout == "1 topics/news: hello\n2 topics/news: hello\n"


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_reports_why_it_cannot_connect(run, port, canned, name):
    """A client that could never connect ends with one line that has the reason: no server, an error
    status, an invalid URL."""
    for url, words in [
        (f"http://127.0.0.1:{port()}", "gave up"),
        (canned((500, {}, "oops")).url, "500"),
        (canned((403, {}, "no")).url, "responded with 403"),
        ("nonsense", "cannot reach nonsense"),
    ]:
        result = run(f"{TOPIC}/{name}", URL=url, MAX_FAILURES=1, BASE_DELAY=0)
        assert result.returncode == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


OTHER = [
    {"status": "pending"},
    [],
    "<h1>It works!</h1>",
    "[" * 9_000,
    {"notifications": [{"id": "1"}], "after": 1},
    {"notifications": [], "after": None},
]


@pytest.mark.parametrize("body", OTHER)
@pytest.mark.parametrize("name", CLIENTS[1:])
def test_a_client_recognises_another_server(run, canned, name, body):
    """A client of another kind of server reports that the responses are not notifications."""
    result = run(f"{TOPIC}/{name}", URL=canned((200, {}, body)).url, MAX_FAILURES=1)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "is not a notification server" in result.stderr


MESSAGES = ["tick", "[1]", "null", '{"id": "1"}', '{"id": 1}', "[" * 9_000]


@pytest.mark.parametrize("text", MESSAGES)
def test_a_client_recognises_other_messages(serving, run, text):
    """A client that receives messages other than notifications reports it."""

    def handler(socket):
        socket.send(text)
        with suppress(ConnectionClosed):
            for _ in socket:
                pass

    result = run(f"{TOPIC}/client.py", URL=serving(handler), COUNT=1)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "is not a notification server" in result.stderr


@pytest.mark.parametrize("text", MESSAGES)
def test_a_client_recognises_other_events(canned, run, text):
    """A client that receives events other than notifications reports it."""
    server = canned((200, {"Content-Type": "text/event-stream"}, f"data: {text}\n\n"))
    result = run(f"{TOPIC}/client_sse.py", URL=server.url, COUNT=1)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "is not a notification server" in result.stderr


@pytest.mark.parametrize("code", [1008, 4001])
def test_a_rejected_client_does_not_reconnect(serving, run, code):
    """After 1008, or a code of 4000 and above, the client does not reconnect: it would be rejected
    again."""
    connections = []

    def handler(socket):
        connections.append(1)
        socket.close(code, "no")

    url = serving(handler)
    result = run(f"{TOPIC}/client.py", URL=url)
    assert result.returncode == 1
    assert result.stderr == f"gave up on {url}: closed with {code}: no\n"
    assert connections == [1]


# Retrying

ONE = {"id": 1, "to": "topics/news", "text": "hello"}
STREAM = (200, {"Content-Type": "text/event-stream"}, f"id: 1\ndata: {json.dumps(ONE)}\n\n")
PAGE = (200, {}, {"notifications": [ONE], "after": 1})
RECEIVED = "1 topics/news: hello\n"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(("name", "success"), [("client_sse.py", STREAM), ("client_poll.py", PAGE)])
def test_a_client_retries_while_the_server_is_unavailable(run, canned, name, success, status):
    """A client retries after 408, 425, 429, 500, 502, 503 and 504, and waits for as long as
    Retry-After has, or a random time."""
    unavailable = [(status, {"Retry-After": "1"}, ""), (status, {}, "")]
    server = canned(*unavailable, success)
    result = run(f"{TOPIC}/{name}", URL=server.url, COUNT=1, BASE_DELAY=0.1)
    assert result.returncode == 0
    assert result.stdout.count(f"status {status}\n") == 2
    assert result.stdout.endswith(RECEIVED)
    assert server.times[1] - server.times[0] >= 1


def test_a_websocket_client_retries_while_the_server_is_unavailable(serving, run):
    """A WebSocket client whose handshake gets 503 waits for as long as Retry-After has."""
    times = []

    def process_request(connection, request):
        times.append(time.monotonic())
        if len(times) > 1:
            return None
        response = connection.respond(503, "later")
        response.headers["Retry-After"] = "1"
        return response

    def handler(socket):
        socket.send(json.dumps(ONE))
        socket.recv(TIMEOUT)

    url = serving(handler, process_request=process_request)
    result = run(f"{TOPIC}/client.py", URL=url, COUNT=1, BASE_DELAY=0.1)
    assert result.stdout.endswith(RECEIVED)
    assert 1 <= times[1] - times[0] < 3


def test_a_client_gives_up_after_failures_in_a_row(run, canned):
    """A client gives up after MAX_FAILURES failures in a row, and reports the last one."""
    for name in CLIENTS:
        server = canned((503, {}, ""))
        result = run(f"{TOPIC}/{name}", URL=server.url, MAX_FAILURES=3, BASE_DELAY=0.01)
        assert len(server.requests) == 3
        assert result.stderr.startswith(f"gave up on {server.url}: 3 failures in a row: ")
        assert "503" in result.stderr


def test_polls_that_are_not_held_are_paced(run, canned):
    """Where a proxy drops Prefer, so that the server holds no poll, the client polls at most once
    in POLL_INTERVAL."""
    empty = (200, {}, {"notifications": [], "after": 0})
    server = canned(*[empty] * 5, PAGE)
    result = run(f"{TOPIC}/client_poll.py", URL=server.url, COUNT=1, POLL_INTERVAL=1)
    assert result.stdout == RECEIVED
    assert len(server.times) == 6
    # The server receives a request late on a busy machine, and the next one sooner after it.
    assert all(after - before >= 0.67 for before, after in pairwise(server.times))
    assert server.times[-1] - server.times[1] >= 4 * 0.97


def test_polls_that_repeat_a_notification_are_paced(run, canned):
    """A response that a cache repeats is not a new notification: it is paced, and shown once."""
    other = {"notifications": [ONE | {"id": 2}], "after": 2}
    server = canned(PAGE, PAGE, PAGE, (200, {}, other))
    result = run(f"{TOPIC}/client_poll.py", URL=server.url, COUNT=2, POLL_INTERVAL=0.3)
    assert result.stdout == RECEIVED + RECEIVED.replace("1", "2", 1)
    assert server.times[3] - server.times[1] >= 0.5


@pytest.mark.parametrize(("name", "success"), [("client_sse.py", STREAM), ("client_poll.py", PAGE)])
def test_a_client_with_an_expired_cursor_begins_with_the_oldest(run, canned, name, success):
    """After 410 a client prints that events are missing, and resumes with the oldest."""
    server = canned(success, (410, {}, ""), success)
    result = run(f"{TOPIC}/{name}", URL=server.url, COUNT=2, BASE_DELAY=0.01)
    assert result.stdout.startswith(RECEIVED)
    assert "events are missing" in result.stdout
    assert result.stdout.endswith(RECEIVED)
    cursors = [
        headers.get("last-event-id") or httpx2.URL(path).params["after"]
        for _, path, headers in server.requests
    ]
    assert cursors == ["0", "1", "0"]


def test_an_inbox_that_is_behind_the_log_begins_with_the_oldest(start, run, tmp_path):
    """A client whose inbox ends before the log begins prints that events are missing, and resumes
    with the oldest."""
    server = start(f"{TOPIC}/server.py", MAX_EVENTS=3)
    numbers = publish(server, *"abcde")
    inbox = tmp_path / "inbox"
    inbox.write_text(json.dumps(ONE) + "\n")
    options = {"URL": server.url, "TOPICS": "news", "INBOX": inbox, "BASE_DELAY": 0.01}
    result = run(f"{TOPIC}/client.py", COUNT=3, **options)
    assert "events are missing" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[-3:]] == [
        str(number) for number in numbers[-3:]
    ]


def test_a_damaged_inbox_is_reported(run, tmp_path):
    """A client whose inbox has a line that is not a notification names it."""
    inbox = tmp_path / "inbox"
    inbox.write_text(json.dumps(ONE) + '\n{"id": 2, "to')
    result = run(f"{TOPIC}/client.py", URL="http://127.0.0.1:1", INBOX=inbox)
    assert (result.returncode, result.stderr) == (1, f"{inbox}: line 2 is damaged\n")


def part(name, section):
    """Return a section of a client."""
    text = (EXAMPLES / TOPIC / name).read_text()
    return text.split(f"[start:{section}]\n")[1].split(f"# --8<-- [end:{section}]")[0]


def test_the_clients_have_one_policy_of_retries():
    """The delay before a retry has the same text in each client, also in those of other topics that
    hold a WebSocket, and so has the check of a status in both that use HTTP."""
    assert len({part(name, "backoff_delay") for name in CLIENTS}) == 1
    for name in (
        "reliable_websockets/client",
        "scaling_out/client",
        "load_balancing/client_hardened",
    ):
        assert part("client.py", "backoff_delay") in (EXAMPLES / f"{name}.py").read_text()
    assert len({part(name, "check_status") for name in CLIENTS[1:]}) == 1


@pytest.mark.parametrize("name", CLIENTS)
def test_the_delay_before_a_retry(name):
    """The delay is as long as Retry-After has, from half a second to ten minutes, and up to a tenth
    more; without it random, up to 5, 10, 20, 40, 60 seconds."""
    program = runpy.run_path(str(EXAMPLES / TOPIC / name))
    delay, retry_after = program["backoff_delay"], program["retry_after"]
    for failures, limit in enumerate([5, 10, 20, 40, 60, 60]):
        delays = [delay(failures) for _ in range(1000)]
        assert 0 <= min(delays) < limit / 10
        assert limit * 0.9 < max(delays) <= limit
    for value, seconds in [("0", 0.5), ("7", 7), ("9" * 400, 600), (PAST, 0.5)]:
        assert seconds <= delay(3, retry_after(value)) <= seconds * 1.1
    for value in (
        "",
        "x",
        "-1",
        "1.5",
        "²",
        "Mon, 99 Foo",
        "Mon, 01 Jan 2026 00:00:00 +9" + "9" * 20,
    ):
        assert retry_after(value) is None


PAST = "Sun, 06 Nov 1994 08:49:37 GMT"


# Presence


def test_presence_lists_connected_users(server):
    """A user with at least one connection is listed once; one whose last connection closed is not
    listed."""
    with open_socket(server, user="here"):
        wait_until(lambda: "here" in present_users(server))
        with open_socket(server, user="here"):
            pass
        assert present_users(server).count("here") == 1
    wait_until(lambda: "here" not in present_users(server))


def test_presence_lags_by_a_ping(start, tap, follow, record):
    """A client that is frozen is listed until one ping has no pong, on a WebSocket; on an event
    stream it is still listed after ten heartbeats."""
    server = start(f"{TOPIC}/server.py", PING_INTERVAL=0.4, HEARTBEAT=0.1)
    wires = {who: tap(server) for who in ("ann", "bob")}
    frozen = [
        follow("client.py", URL=wires["ann"].url, USER_ID="ann"),
        follow("client_sse.py", URL=wires["bob"].url, USER_ID="bob"),
    ]
    wait_until(lambda: present_users(server) == ["ann", "bob"])
    publish(server, "hello")
    for client in frozen:
        client.wait_for("topics/news: hello")
        client.send(signal.SIGSTOP)
    seen = len(wires["ann"].events)
    wait_until(lambda: present_users(server) == ["bob"])
    sent = frames(wires["ann"].events, "server")
    pongs = len([1 for opcode, _ in frames(wires["ann"].events, "client") if opcode == 10])
    pings = [opcode for opcode, _ in sent].count(PING)
    assert seen
    assert pings - pongs == 1
    beats = len(wires["bob"].events)
    wires["bob"].wait_until(lambda events: len(events) >= beats + 10)
    assert present_users(server) == ["bob"]
    rows = [
        {"client": "closes", "transport": "all three", "is still listed": "no"},
        {
            "client": "frozen, or unplugged",
            "transport": "WebSocket",
            "is still listed": f"until {pings - pongs} ping has no pong",
        },
        {
            "client": "frozen, or unplugged",
            "transport": "server-sent events",
            "is still listed": "after 10 heartbeats and more",
        },
    ]
    record("notifications/presence.md", table(rows))


# The page in a browser


@pytest.fixture
def open_client_page(page, tmp_path):
    """Return open(url, **options): client.html, as a file, alone in its folder."""
    folder = copy_isolated(EXAMPLES / TOPIC / "client.html", tmp_path / "page")

    def open_page(url, **options):
        query = httpx2.QueryParams({"url": url, "topics": "news", "base_delay": 0.1} | options)
        page.goto(f"file://{folder}/client.html?{query}")
        return page

    return open_page


def shown(page):
    """Return what a page shows, oldest first."""
    return page.locator("#notifications li").all_inner_texts()[::-1]


def unread(page, number):
    # Of the whole page, so that a failure also shows its state.
    words = re.compile(rf"\b{number} unread\b")
    expect(page.locator("body")).to_contain_text(words, use_inner_text=True, timeout=60_000)


@both_browsers
def test_a_browser_survives_a_server_that_is_killed(start, open_client_page, tmp_path):
    """The page in a browser has every notification, once and in order, from a server that is killed
    twice, and when it is reloaded; and it remembers what was read."""
    options = {"LOG": tmp_path / "log.db"}
    server = start(f"{TOPIC}/server.py", **options)
    publish(server, "1")
    page = open_client_page(server.url)
    unread(page, 1)
    for number in 2, 3:
        server.stop(signal.SIGKILL)
        page.wait_for_selector("text=closed with 1006: reconnecting")
        server = start(f"{TOPIC}/server.py", PORT=server.port, **options)
        publish(server, str(number))
        unread(page, number)
    page.click("#read")
    unread(page, 0)
    assert page.locator("li.new").count() == 0
    publish(server, "4")
    unread(page, 1)
    page.goto("about:blank")
    publish(server, "5")
    page = open_client_page(server.url)
    unread(page, 2)
    assert shown(page) == [f"topics/news: {number}" for number in range(1, 6)]
    assert page.locator("li.new").all_inner_texts() == ["topics/news: 5", "topics/news: 4"]
    # The page acknowledged them, so a client without a memory resumes after them.
    wait_until(lambda: poll(server).json()["notifications"] == [])


def test_a_browser_shows_text_as_text(server, open_client_page):
    """The page shows the text of a notification as text, also if it looks like HTML."""
    publish(server, "<img src=x onerror=alert(1)>", to="topics/html")
    page = open_client_page(server.url, topics="html", user="html")
    unread(page, 1)
    assert shown(page) == ["topics/html: <img src=x onerror=alert(1)>"]
    assert page.locator("#notifications img").count() == 0


def test_a_browser_drops_duplicates(serving, open_client_page):
    """The page acknowledges a duplicate again and shows it once; it does not show heartbeats."""
    acknowledged = []

    def handler(socket):
        for number in 1, 1, 2:
            socket.send('{"heartbeat": 9}')
            socket.send(json.dumps({"id": number, "to": "topics/news", "text": "x"}))
            acknowledged.append(json.loads(socket.recv(TIMEOUT))["ack"])
        with suppress(ConnectionClosed):
            socket.recv(TIMEOUT)

    page = open_client_page(serving(handler))
    wait_until(lambda: acknowledged == [1, 1, 2])
    unread(page, 2)


def test_two_tabs_of_a_browser(server, open_client_page):
    """Of two tabs one is connected, and the other shows what it stores: each notification once,
    and none unread again that was read in either; when the first is closed the other connects."""
    options = {"topics": "tabs", "user": "tabs"}
    first = open_client_page(server.url, **options)
    first.wait_for_selector("text=connected")
    second = first.context.new_page()
    second.goto(first.url)
    second.wait_for_selector("text=waiting for another tab")
    publish(server, "1", "2", to="topics/tabs")
    for page in first, second:
        unread(page, 2)
    second.click("#read")
    unread(first, 0)
    publish(server, "3", to="topics/tabs")
    for page in first, second:
        unread(page, 1)
        assert shown(page) == [f"topics/tabs: {number}" for number in range(1, 4)]
    first.close()
    second.wait_for_selector("text=connected")
    publish(server, "4", to="topics/tabs")
    unread(second, 2)
    assert shown(second) == [f"topics/tabs: {number}" for number in range(1, 5)]
    second.reload()
    unread(second, 2)


def test_a_browser_detects_silence(start, open_client_page):
    """A page that receives nothing, not even a heartbeat, closes the connection and reconnects; one
    that receives heartbeats stays connected."""
    server = start(f"{TOPIC}/server.py", HEARTBEAT=0.1)
    page = open_client_page(server.url, silence=1.5)
    page.wait_for_selector("text=connected")
    server.send(signal.SIGSTOP)
    page.wait_for_selector("text=silence: reconnecting")
    server.send(signal.SIGCONT)
    page.wait_for_selector("text=connected")
    publish(server, "there")
    unread(page, 1)


def test_a_browser_reports_a_rejection(server, open_client_page):
    """The page shows why it was rejected, and does not reconnect."""
    page = open_client_page(server.url, user="Ann!")
    page.wait_for_selector("text=rejected: user=")


def test_a_browser_with_an_expired_cursor_begins_with_the_oldest(serving, open_client_page):
    """After 4410 the page resumes with the oldest notification of the log."""
    paths = []

    def handler(socket):
        paths.append(socket.request.path)
        if len(paths) == 1:
            socket.send(json.dumps(ONE | {"id": 7}))
            socket.recv(TIMEOUT)
            socket.close(4410, "expired")
            return
        socket.send(json.dumps(ONE | {"id": 3}))
        with suppress(ConnectionClosed):
            for _ in socket:
                pass

    page = open_client_page(serving(handler))
    unread(page, 2)
    assert [httpx2.URL(path).params.get("after") for path in paths] == [None, "0"]


def test_a_browser_recognises_other_messages(serving, open_client_page):
    """The page reports messages that are not notifications, and does not reconnect."""

    def handler(socket):
        socket.send("tick")
        with suppress(ConnectionClosed):
            for _ in socket:
                pass

    page = open_client_page(serving(handler))
    page.wait_for_selector("text=not a notification server")
