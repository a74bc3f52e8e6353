"""Notifications: topics and inboxes, three ways to receive them, one log."""

import asyncio
import html
import json
import runpy
import signal
import sqlite3
import time
from collections import defaultdict
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import httpx2
import pytest
from playwright.sync_api import expect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from .support.messages import messages, table
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)
from .support.sequence import in_order, sequence_diagram
from .support.sockets import PING, TEXT, frames
from .support.threads import run_in_thread

ROOM = "notifications"
CLIENTS = ["client.py", "client_sse.py", "client_poll.py"]
QUICK = {"BACKOFF": 0.1, "TRIES": 1000, "TOPICS": "news", "WHO": "ann"}


@contextmanager
def follower(folder):
    """Yield follow(name, **environment): a client of this room, running beside the proof."""
    running = []

    def follow(name, **variables):
        home = copy_isolated(EXAMPLES / ROOM / name, folder / f"follower-{len(running)}")
        program = Program(argv(EXAMPLES / ROOM / name), home, environment(**(QUICK | variables)))
        running.append(program)
        return program

    yield follow
    for program in running:
        program.stop(signal.SIGKILL)


@pytest.fixture
def follow(tmp_path):
    """Start a client of this room: follow("client.py", URL=…) -> Program."""
    with follower(tmp_path) as follow:
        yield follow


@pytest.fixture(scope="module")
def follow_shared(tmp_path_factory):
    """Start a client for several tests, as `follow` does for one."""
    with follower(tmp_path_factory.mktemp("followers")) as follow:
        yield follow


http = httpx2.Client(timeout=TIMEOUT)


def post(server, text, to="topics/news", **headers):
    return http.post(f"{server.url}/{to}", json={"text": text}, headers=headers)


def publish(server, *texts, to="topics/news"):
    """Publish notifications; return their numbers."""
    answers = [post(server, text, to) for text in texts]
    assert [answer.status_code for answer in answers] == [201] * len(texts)
    return [answer.json()["id"] for answer in answers]


def ask(server, **query):
    return http.get(f"{server.url}/notifications", params={"user": "ann", "topic": "news"} | query)


def socket_to(server, **query):
    """Open a WebSocket: with socket_to(server, user="ann", after=0) as socket."""
    address = f"{server.url}/notifications/socket".replace("http", "ws")
    query = httpx2.QueryParams({"user": "ann", "topic": "news"} | query)
    return connect(f"{address}?{query}")


def received(socket, number):
    """Return the texts of the next so many notifications."""
    return [note["text"] for note in notes(socket, number)]


def notes(socket, number):
    found = []
    while len(found) < number:
        note = json.loads(socket.recv(TIMEOUT))
        found += [note] if "id" in note else []
    return found


def present(server):
    return http.get(f"{server.url}/presence").json()["users"]


@pytest.fixture(scope="module")
def server(start_shared):
    """Return a server that many proofs share; each has a topic of its own."""
    return start_shared(f"{ROOM}/server.py", HEARTBEAT=0.3)


# The smallest server


@pytest.fixture(scope="module")
def small(start_shared, follow_shared, tmp_path_factory):
    """Return what became of the smallest server and a client: it is killed, and started again."""
    name = f"{ROOM}/server_small.py"
    options = {"LOG": tmp_path_factory.mktemp("log") / "log.db"}
    server = start_shared(name, HEARTBEAT=0.3, **options)
    publish(server, "one", to="topics/deploys")
    client = follow_shared("client_sse.py", URL=server.url, TOPICS="deploys server", COUNT=4)
    client.wait_for("1 topics/deploys: one")
    publish(server, "two", to="topics/deploys")
    client.wait_for("2 topics/deploys: two")
    with small_stream(server, 2) as answer:
        silence = next(answer.iter_text())
    client.send(signal.SIGSTOP)
    server.stop(signal.SIGKILL)
    server = start_shared(name, PORT=server.port, **options)
    publish(server, "three", to="topics/deploys")
    client.send(signal.SIGCONT)
    client.wait_for("3 topics/deploys: three")
    publish(server, "elsewhere", to="topics/other")
    publish(server, "four", to="topics/deploys")
    assert client.wait() == 0
    bodies = [b"", b"{", b"[]", b'{"text": 1}', b'{"text": ""}', b'{"text": "\\ud800"}']
    refused = [http.post(f"{server.url}/topics/deploys", content=body) for body in bodies]
    for number in "x", "-1", "1" * 19:
        with small_stream(server, number) as answer:
            assert answer.status_code == 400  # or else there is no end to read to
            answer.read()
            refused.append(answer)
    with small_stream(server, 3) as answer:
        chunks = answer.iter_text()
        next(chunks)
        told = time.monotonic()
        assert server.stop() == 0
        took = time.monotonic() - told
    return client.output, refused, silence, took


def small_stream(server, seen):
    address = f"{server.url}/notifications/events?topic=deploys"
    return http.stream("GET", address, headers={"Last-Event-ID": str(seen)})


def test_the_smallest_server_loses_nothing(small, record):
    """A client of the smallest server, which is killed, has what was sent before it came, while it
    was here and while it was away, once and in order."""
    lines = small[0].splitlines()
    assert lines == [
        "1 topics/deploys: one",
        "2 topics/deploys: two",
        "3 topics/deploys: three",
        "5 topics/deploys: four",
    ]
    record("notifications/small.txt", small[0])


def test_the_smallest_server_refuses_what_it_does_not_know(small):
    """The smallest server answers what is no notification, and no number, with 400, in JSON."""
    for answer in small[1]:
        assert (answer.status_code, answer.json()["status"]) == (400, 400)


def test_the_smallest_server_stops_at_once(small):
    """The smallest server shows by a comment that it is there, and when it is told to stop it hangs
    up on who listens."""
    _, _, silence, took = small
    assert silence == ": still here\n\n"
    assert took < 10  # it would wait for the next heartbeat, or 15 seconds


def test_the_smallest_server_misses_nothing_meanwhile(tmp_path):
    """What is stored while a client is being sent the log is sent next, and not only when something
    else happens."""
    program = runpy.run_path(str(EXAMPLES / ROOM / "server_small.py"))
    app, got = SimpleNamespace(ctx=SimpleNamespace()), []

    class Stream:
        async def send(self, data):
            got.append(data)
            if len(got) == 1:
                insert("second")
                for news in program["listeners"]:
                    news.set()

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
                await program["events"](request)
        app.ctx.log.close()

    run_in_thread(listen())
    assert [json.loads(event.split("data: ")[1])["text"] for event in got] == ["first", "second"]
    assert not program["listeners"]


# A server that is killed, as the figure shows it


def test_a_client_goes_on_after_the_last_it_has(
    start_shared, tap_shared, follow_shared, tmp_path_factory, record
):
    """A client that was cut off names the last number it has, and gets what was sent while the
    server was away from it, from the log, and then what happens."""
    options = {"LOG": tmp_path_factory.mktemp("log") / "log.db", "HEARTBEAT": 0.3}
    server = start_shared(f"{ROOM}/server.py", **options)
    wire = tap_shared(server)
    client = follow_shared("client.py", URL=wire.url, TOPICS="deploys", COUNT=4)
    wait_until(lambda: present(server) == ["ann"])
    publish(server, "hello", to="users/ann")
    publish(server, "v41 is out", to="topics/deploys")
    wire.wait_until(lambda events: acks(events) == [2, 3])
    server.stop(signal.SIGKILL)
    wire.wait_until(lambda events: last_of(events) > 1)
    # While the client knocks at the old port in vain, the world goes on.
    elsewhere = start_shared(f"{ROOM}/server.py", **options)
    publish(elsewhere, "v42 is out", to="topics/deploys")
    elsewhere.stop()
    again = start_shared(f"{ROOM}/server.py", PORT=server.port, **options)
    wait_until(lambda: present(again) == ["ann"])
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
    """Return what passed as (kind, words, note) for the figure; what was tried in vain, however
    often, as one."""
    rows, parsed = [], messages(wire.events)
    for connection in range(1, wire.connections + 1):
        told = [message for message in parsed if message.connection == connection]
        if not [message for message in told if message.status == 101]:
            if rows[-1][0] != "lost":
                rows.append(("lost", "cannot reconnect", ""))
            continue
        if connection > 1:
            rows.append(("start", "restarted", ""))
        rows.append(("up", told[0].target.split("&")[-1] if connection > 1 else "user=ann", ""))
        for opcode, payload in frames(wire.events, "server", connection):
            note = json.loads(payload) if opcode == TEXT else {}
            if "id" in note:
                where = "from the log" if note["id"] == 5 else "live"
                rows.append(("down", f"{note['id']} {note['text']}", where))
                rows.append(("up", f"ack {note['id']}", ""))
        if connection == 1:
            rows.append(("cross", "killed", ""))
    return rows


# Topics and inboxes


def test_a_topic_reaches_its_listeners_and_an_inbox_its_user(server):
    """What is sent to a topic reaches all who listen to it, what is sent to a user reaches that
    user, and nobody else gets either."""
    with (
        socket_to(server, topic="one", user="one-ann") as ann,
        socket_to(server, topic="other", user="one-bob") as bob,
    ):
        publish(server, "to all", to="topics/one")
        publish(server, "to bob", to="users/one-bob")
        publish(server, "to ann", to="users/one-ann")
        publish(server, "to the others", to="topics/other")
        assert received(ann, 2) == ["to all", "to ann"]
        assert received(bob, 2) == ["to bob", "to the others"]


def test_what_waits_in_an_inbox_is_there_at_the_first_visit(server):
    """Who comes for the first time gets what was sent before, from the log."""
    publish(server, "welcome", to="users/newcomer")
    with socket_to(server, user="newcomer") as socket:
        assert received(socket, 1) == ["welcome"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("topics/news", b"", 400),
        ("topics/news", b"{", 400),
        ("topics/news", b'{"text": ""}', 400),
        ("topics/news", b'{"text": 1}', 400),
        ("topics/news", b'{"text": "\\ud800"}', 400),
        ("topics/news", b'{"text": "' + b"x" * 10_000 + b'"}', 413),
        ("topics/News", b'{"text": "a"}', 404),
        ("users/" + "x" * 41, b'{"text": "a"}', 404),
        ("rooms/news", b'{"text": "a"}', 404),
    ],
)
def test_what_is_no_notification_is_refused(server, path, body, status):
    """What is no notification, or for nobody, is answered 400, 404 or 413, in JSON; the server
    goes on."""
    answer = http.post(f"{server.url}/{path}", content=body)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    publish(server, "after all", to="topics/refused")


def test_curl_publishes(server, run):
    """Publishing takes one request by curl, and with the same key twice is once."""
    options = {"URL": server.url, "KEY": "curl", "TO": "topics/curl"}
    results = [run(f"{ROOM}/publish.sh", **options) for _ in "12"]
    (first, again) = [json.loads(result.stdout) for result in results]
    assert first == again
    (note,) = ask(server, topic="curl", after=first["id"] - 1).json()["notifications"]
    assert note == first | {"to": "topics/curl", "text": "version 42 is out"}


# The publisher's key


def test_a_publish_that_is_tried_again_is_stored_once(server):
    """A publish that is tried again with the same Idempotency-Key is answered 200 and the same
    number, and delivered once."""
    with socket_to(server, topic="keys") as socket:
        key = {"Idempotency-Key": "order 17".replace(" ", "-")}
        first = post(server, "shipped", "topics/keys", **key)
        again = post(server, "shipped", "topics/keys", **key)
        publish(server, "arrived", to="topics/keys")
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()
        assert received(socket, 2) == ["shipped", "arrived"]


def test_a_publish_that_is_tried_late_is_not_new(server):
    """A publish that is tried again after others is not taken for the newest: who has all goes on
    from there."""
    key = {"Idempotency-Key": "late"}
    first = post(server, "first", "topics/late", **key)
    (last,) = publish(server, "second", to="topics/late")
    assert post(server, "first", "topics/late", **key).json() == first.json()
    answer = ask(server, topic="late", after=last)
    assert answer.json() == {"notifications": [], "after": last}


@pytest.mark.parametrize(("text", "to"), [("no", "topics/k1"), ("yes", "topics/k2")])
def test_a_key_belongs_to_one_notification(server, text, to):
    """A key that is used for another notification is answered 422, and nothing is stored."""
    key = {"Idempotency-Key": f"key-{text}-{to[-1]}"}
    assert post(server, "yes", "topics/k1", **key).status_code == 201
    answer = post(server, text, to, **key)
    assert (answer.status_code, answer.json()["status"]) == (422, 422)
    assert '"text": "no"' not in ask(server, topic="k1", after=0).text
    assert ask(server, topic="k2", after=0).json()["notifications"] == []


def test_a_key_that_is_none_is_refused(server):
    """A key of more than a hundred characters is a 400."""
    assert post(server, "a", **{"Idempotency-Key": "x" * 101}).status_code == 400


def test_two_who_publish_with_one_key_at_once(server):
    """Ten requests with the same key at the same moment make one notification: one is answered
    201, nine are answered 200, all with the same number."""
    answers = []

    def send():
        answer = httpx2.post(
            f"{server.url}/topics/once",
            json={"text": "once"},
            headers={"Idempotency-Key": "once"},
            timeout=TIMEOUT,
        )
        answers.append((answer.status_code, answer.json()["id"]))

    threads = [Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in answers) == [200] * 9 + [201]
    assert len({number for _, number in answers}) == 1
    assert len(ask(server, topic="once", after=0).json()["notifications"]) == 1


# Three ways, one log


@pytest.fixture(scope="module")
def three(start_shared, tap_shared, follow_shared):
    """Return {client: (its wire, its output, [events of the wire per notification])} of three
    clients on the same log: three notifications from the past, and two live."""
    server = start_shared(f"{ROOM}/server.py")
    publish(server, "version 42 is out", to="topics/deploys")
    publish(server, "version 42 is out", to="users/ann")
    found = {}
    for name in CLIENTS:
        wire = tap_shared(server)
        client = follow_shared(name, URL=wire.url, TOPICS="deploys server", COUNT=5)
        # The first goes on after what the user has, so it has to have it before the others say so.
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
    """Return whether a client has said all that it says to so many notifications: acknowledged
    them on a WebSocket, or asked for more; on an event stream it says nothing."""
    asked = [e for e in events if e.source == "client" and e.data.startswith(b"GET")]
    if b"/socket" in asked[0].data:
        return len(frames(events, "client")) == number
    return b"/events" in asked[0].data or len(asked) == 2 + max(0, number - 3)


def test_three_ways_to_receive_the_same(three, record):
    """By WebSocket, as server-sent events and by long polling, clients receive the same
    notifications, from the past and live, with the same numbers and in the same order."""
    outputs = {output for _, output, _ in three.values()}
    assert len(outputs) == 1
    record("notifications/client.txt", outputs.pop())


def test_what_one_notification_costs(three, record):
    """One live notification costs a client on a WebSocket or an event stream no request, and one
    that polls a request and more than five times the bytes."""
    rows = []
    for name, (wire, _, marks) in three.items():
        events = [e for e in wire.events[marks[0] : marks[1]] if e.kind == "data"]
        up, down = (sum(len(e.data) for e in events if e.source == who) for who in SIDES)
        asked = sum(e.data.startswith(b"GET") for e in events)
        rows.append(
            {
                "one notification, live": WAYS[name],
                "requests": asked,
                "bytes up": up,
                "bytes down": down,
            }
        )
    socket, stream, polled = ([row["bytes up"], row["bytes down"]] for row in rows)
    assert [row["requests"] for row in rows] == [0, 0, 1]
    assert stream[0] == 0 < socket[0]  # the acknowledgement
    assert sum(polled) > 5 * max(sum(socket), sum(stream))
    record("notifications/costs.md", table(rows))


def test_one_notification_on_the_wire(three, record):
    """The same notification by each of the three ways: a frame and its acknowledgement, a chunk, or
    an answer and the next question."""
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
                f'<li class="{"up" if event.source == "client" else "down"}"><p>{WAYS[name]} · '
                f"{way} · {len(event.data)} bytes</p><pre>{html.escape(words, quote=False)}"
                "</pre></li>"
            )
    text = ['<ol class="wire" aria-label="One notification by three ways">', *blocks, "</ol>", ""]
    record("notifications/wire.html", "\n".join(text))


SIDES = "client", "server"
WAYS = {
    "client.py": "WebSocket, acknowledged",
    "client_sse.py": "server-sent events",
    "client_poll.py": "long polling",
}


def test_more_than_a_page_of_the_log(server):
    """Who has been away for long gets all of it, however many pages of the log it is, and then
    what happens."""
    for number in range(1, 251):
        publish(server, f"{number}", to="topics/long")
    with socket_to(server, topic="long", after=0) as socket:
        assert received(socket, 250) == [f"{number}" for number in range(1, 251)]
        publish(server, "251", to="topics/long")
        assert received(socket, 1) == ["251"]
    assert len(ask(server, topic="long", after=0).json()["notifications"]) == 100  # then ask again


def test_what_comes_by_both_ways_is_sent_once():
    """What is sent while a client catches up, and so is in the log and comes live as well, is sent
    once."""
    program = runpy.run_path(str(EXAMPLES / ROOM / "server.py"))

    class Hub:
        listeners, stopping = defaultdict(set), False

        async def read(self, seen, channels):
            for number in 2, 3:  # what comes while the log is read; it has the first of them
                for listener in self.listeners["topics/news"]:
                    listener.put((number, f"live {number}"))
            return [(1, "read 1"), (2, "read 2")]

    async def catch_up():
        with program["Listener"](Hub(), {"topics/news"}, 0, None) as me:
            return [await me.next(0.1) for _ in range(3)]

    found = run_in_thread(catch_up())
    assert found == [[(1, "read 1"), (2, "read 2")], [(3, "live 3")], []]


def test_a_poll_is_held_until_there_is_something(server):
    """A poll with Prefer: wait=N is held until there is something, and one without is answered
    at once, with nothing."""
    last = ask(server, topic="held", after=0).json()
    assert last == {"notifications": [], "after": 0}
    answers = []
    asking = Thread(
        target=lambda: answers.append(
            httpx2.get(
                f"{server.url}/notifications",
                params={"user": "poller", "topic": "held", "after": 0},
                headers={"Prefer": "wait=100"},
                timeout=TIMEOUT,
            )
        )
    )
    asking.start()
    wait_until(lambda: "poller" in present(server))
    assert not answers
    (number,) = publish(server, "now", to="topics/held")
    asking.join(TIMEOUT)
    (answer,) = answers
    assert answer.headers["Preference-Applied"] == "wait=25"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "notifications": [{"id": number, "to": "topics/held", "text": "now"}],
        "after": number,
    }


def test_an_event_stream_goes_on_after_the_last_event_id(server):
    """An event stream goes on after Last-Event-ID, also if its address names another number;
    while nothing happens, a comment comes."""
    first, second = publish(server, "first", "second", to="topics/sse")
    with http.stream(
        "GET",
        f"{server.url}/notifications/events",
        params={"user": "ann", "topic": "sse", "after": 0},
        headers={"Last-Event-ID": str(first)},
    ) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["X-Accel-Buffering"] == "no"
        lines = answer.iter_lines()
        assert next(lines) == f"id: {second}"
        assert json.loads(next(lines)[6:])["text"] == "second"
        assert [next(lines), next(lines)] == ["", ": still here"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"after": "x"}, 400, 1008),
        ({"after": "-1"}, 400, 1008),
        ({"user": ""}, 400, 1008),
        ({"user": "Ann!"}, 400, 1008),
        ({"topic": "../x"}, 400, 1008),
        ({"after": "999999"}, 410, 4410),
    ],
)
def test_what_cannot_be_followed_is_refused(server, query, status, code):
    """Who names no number of the log, or no user, is answered 400 or 410, and on a WebSocket
    1008 or 4410."""
    for path in "", "/events":
        answer = http.get(
            f"{server.url}/notifications{path}", params={"user": "ann", "topic": "news"} | query
        )
        assert (answer.status_code, answer.json()["status"]) == (status, status)
    with socket_to(server, **query) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert socket.close_code == code


@pytest.mark.parametrize("text", ["{", "[]", '{"ack": "1"}', '{"ack": 999999}'])
def test_what_is_no_acknowledgement_is_refused(server, text):
    """A message that is no acknowledgement, or one of what was never sent, closes with 1008."""
    with socket_to(server, topic="nothing", after=0) as socket:
        socket.send(text)
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(TIMEOUT)
        assert socket.close_code == 1008


# The log


def test_a_restart_loses_nothing(start, tmp_path):
    """Whatever was answered 201 is there after a restart, numbers go on, and what was acknowledged
    does not come again."""
    options = {"LOG": tmp_path / "log.db"}
    server = start(f"{ROOM}/server.py", **options)
    numbers = publish(server, "one", "two", "three")
    with socket_to(server) as socket:
        assert received(socket, 3) == ["one", "two", "three"]
        socket.send(json.dumps({"ack": numbers[1]}))
        wait_until(lambda: acknowledged(server, numbers[1]))
    server.stop()
    server = start(f"{ROOM}/server.py", PORT=server.port, **options)
    with socket_to(server) as socket:
        assert received(socket, 1) == ["three"]
    assert publish(server, "four")[0] > numbers[2]


def acknowledged(server, number):
    """Return whether the server would go on after that number for who names none."""
    return ask(server).json()["notifications"][0]["id"] == number + 1


def test_to_name_a_number_is_to_acknowledge_it(server):
    """Who polls and names a number has acknowledged all up to it, and one that names none goes on
    after it."""
    first, second = publish(server, "first", "second", to="users/cat")
    assert len(ask(server, user="cat").json()["notifications"]) == 2
    assert len(ask(server, user="cat").json()["notifications"]) == 2  # was never acknowledged
    ask(server, user="cat", after=first)
    assert [note["id"] for note in ask(server, user="cat").json()["notifications"]] == [second]
    ask(server, user="cat", after=0)  # an older number takes nothing back
    assert [note["id"] for note in ask(server, user="cat").json()["notifications"]] == [second]


def test_what_is_not_kept_any_more_is_not_passed_over(start, tmp_path):
    """Of a log that keeps three, who asks for older ones is told so with 410, or 4410, and not
    sent on as if nothing were missing; who comes for the first time begins with the oldest."""
    log = tmp_path / "log.db"
    server = start(f"{ROOM}/server.py", KEEP=3, LOG=log)
    numbers = publish(server, *"abcde")
    last = numbers[-1]
    assert ask(server, after=last - 4).status_code == 410
    assert ask(server, after=last - 4).json()["message"] == f"the log has {last - 2} to {last}"
    with socket_to(server, after=last - 4) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT)
        assert socket.close_code == 4410
    for query in {"after": last - 3}, {"user": "first-timer"}:
        found = ask(server, **query).json()["notifications"]
        assert [note["text"] for note in found] == ["c", "d", "e"]
    with closing(sqlite3.connect(log)) as db:
        assert db.execute("SELECT count(*) FROM log").fetchone() == (3,)


def test_the_log_is_written_ahead_and_synced(tmp_path):
    """The log is in WAL mode, and asks the disk to have written at each commit: synchronous is
    FULL."""
    program = runpy.run_path(str(EXAMPLES / ROOM / "server.py"))
    log = program["Log"](tmp_path / "log.db")
    assert log.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert log.db.execute("PRAGMA synchronous").fetchone() == (2,)
    log.db.close()


def test_all_or_none_of_a_commit_is_stored(tmp_path):
    """What is stored in one commit is stored as a whole, or not at all."""
    program = runpy.run_path(str(EXAMPLES / ROOM / "server.py"))
    log = program["Log"](tmp_path / "log.db")
    log.append([("topics/a", "1", None), ("topics/a", "2", None)], {})
    with pytest.raises(program["sqlite3"].Error):
        log.append([("topics/a", "3", None), ("topics/a", None, None)], {})
    assert [row[0] for row in log.after(0, {"topics/a"})] == [1, 2]
    assert log.append([("topics/a", "3", None)], {}) == [(3, True, True)]
    log.db.close()


# The client


def test_a_client_goes_on_where_its_inbox_ends(server, run, tmp_path):
    """A client that is started again goes on after the last line of its inbox, and one without an
    inbox where the server thinks that it is."""
    options = {"URL": server.url, "WHO": "dora", "TOPICS": "dora", "INBOX": tmp_path / "inbox"}
    one, two = publish(server, "one", "two", to="topics/dora")
    assert run(f"{ROOM}/client.py", COUNT=1, **options).stdout == f"{one} topics/dora: one\n"
    assert run(f"{ROOM}/client.py", COUNT=1, **options).stdout == f"{two} topics/dora: two\n"
    lines = Path(options["INBOX"]).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one", "two"]
    (three,) = publish(server, "three", to="topics/dora")
    options["INBOX"] = tmp_path / "another"
    ask(server, user="dora", topic="dora", after=two)  # acknowledges it, on another device
    result = run(f"{ROOM}/client.py", COUNT=1, **options)
    assert f"{three} topics/dora: three\n" in result.stdout


@pytest.fixture
def serving(port):
    """Start a server of the proof's own: serving(handler) -> its URL."""
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


def test_what_comes_twice_is_kept_once(serving, run, tmp_path):
    """A notification that comes again is acknowledged again, and kept once; a heartbeat is none;
    and an acknowledgement is sent when its notification is in the file, not before."""
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

    result = run(f"{ROOM}/client.py", URL=serving(handler), COUNT=3, INBOX=inbox)
    assert kept == [(1, [1]), (1, [1]), (2, [1, 2]), (1, [1, 2])]
    lines = [line.split(" ", 1)[0] for line in result.stdout.splitlines() if "again" not in line]
    assert lines == ["1", "2", "3"]
    assert result.stdout.count("again: dropped") == 2


def test_what_comes_twice_in_a_stream_is_shown_once(canned, run):
    """What comes twice as a server-sent event is shown once."""
    events = "".join(
        f'id: {number}\ndata: {{"id": {number}, "to": "topics/news", "text": "hello"}}\n\n'
        for number in (1, 1, 2)
    )
    server = canned((200, {"Content-Type": "text/event-stream"}, events))
    result = run(f"{ROOM}/client_sse.py", URL=server.url, COUNT=2)
    assert result.stdout == "1 topics/news: hello\n2 topics/news: hello\n"


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_that_never_got_through_says_why(run, port, canned, name):
    """A client that never got through ends with one line that says why: nobody is there, or it is
    no server of notifications."""
    for url, words in [
        (f"http://127.0.0.1:{port()}", "no answer from"),
        (canned((500, {}, "oops")).url, "answered 500"),
        ("nonsense", "nonsense"),
    ]:
        result = run(f"{ROOM}/{name}", URL=url, TRIES=1)
        assert result.returncode == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", CLIENTS[1:])
def test_a_server_of_something_else_is_found_out(run, canned, name):
    """A client that is answered by something else says so."""
    result = run(f"{ROOM}/{name}", URL=canned((200, {}, {"status": "pending"})).url, TRIES=1)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "sends no notifications" in result.stderr


@pytest.mark.parametrize("text", ["tick", "[1]", '{"id": "1"}', '{"id": 1}'])
def test_a_socket_of_something_else_is_found_out(serving, run, text):
    """A client that is sent something other than notifications says so."""

    def handler(socket):
        socket.send(text)
        with suppress(ConnectionClosed):
            for _ in socket:
                pass

    result = run(f"{ROOM}/client.py", URL=serving(handler), COUNT=1)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "sends no notifications" in result.stderr


@pytest.mark.parametrize("code", [1008, 4410])
def test_a_client_that_is_refused_does_not_come_back(serving, run, code):
    """After 1008 or 4410 the client does not come back: the same would happen again."""
    came = []

    def handler(socket):
        came.append(1)
        socket.close(code, "no")

    result = run(f"{ROOM}/client.py", URL=serving(handler))
    assert result.returncode == 1
    assert result.stderr == f"gave up: refused with {code}: no\n"
    assert came == [1]


# Presence


def test_presence_says_who_is_here(server):
    """Who has a connection is present, once, by however many; who closes the last is not."""
    with socket_to(server, user="here"):
        wait_until(lambda: "here" in present(server))
        with socket_to(server, user="here"):
            pass
        assert present(server).count("here") == 1
    wait_until(lambda: "here" not in present(server))


def test_presence_is_late_by_a_ping(start, tap, follow, record):
    """A client that is frozen is present until one ping has gone without an answer, on a
    WebSocket; on an event stream it is still there after ten heartbeats."""
    server = start(f"{ROOM}/server.py", PING=0.4, HEARTBEAT=0.1)
    wires = {who: tap(server) for who in ("ann", "bob")}
    frozen = [
        follow("client.py", URL=wires["ann"].url, WHO="ann"),
        follow("client_sse.py", URL=wires["bob"].url, WHO="bob"),
    ]
    wait_until(lambda: present(server) == ["ann", "bob"])
    publish(server, "hello")
    for client in frozen:
        client.wait_for("topics/news: hello")
        client.send(signal.SIGSTOP)
    seen = len(wires["ann"].events)
    wait_until(lambda: present(server) == ["bob"])
    sent = frames(wires["ann"].events, "server")
    pongs = len([1 for opcode, _ in frames(wires["ann"].events, "client") if opcode == 10])
    pings = [opcode for opcode, _ in sent].count(PING)
    assert seen
    assert pings - pongs == 1
    beats = len(wires["bob"].events)
    wires["bob"].wait_until(lambda events: len(events) >= beats + 10)
    assert present(server) == ["bob"]
    rows = [
        {"who goes": "closes", "by": "any of the three", "is still present": "not at all"},
        {
            "who goes": "is frozen, or unplugged",
            "by": "WebSocket",
            "is still present": f"until {pings - pongs} ping is not answered",
        },
        {
            "who goes": "is frozen, or unplugged",
            "by": "server-sent events",
            "is still present": "after 10 heartbeats and more",
        },
    ]
    record("notifications/presence.md", table(rows))


# The page in a browser


@pytest.fixture
def open_client_page(page, tmp_path):
    """Return open(url, **options): client.html, as a file, alone in its folder."""
    folder = copy_isolated(EXAMPLES / ROOM / "client.html", tmp_path / "page")

    def open_page(url, **options):
        query = httpx2.QueryParams({"url": url, "topics": "news", "backoff": 0.1} | options)
        page.goto(f"file://{folder}/client.html?{query}")
        return page

    return open_page


def shown(page):
    """Return what a page shows, oldest first."""
    return page.locator("#notes li").all_inner_texts()[::-1]


def unread(page, number):
    expect(page.locator("#unread")).to_have_text(f"{number} unread", timeout=TIMEOUT * 1000)


def test_a_browser_survives_a_server_that_is_killed(start, open_client_page, tmp_path):
    """The page in a browser has every notification, once, in order, from a server that is killed
    twice, and when it is loaded again; and it remembers what was read."""
    options = {"LOG": tmp_path / "log.db"}
    server = start(f"{ROOM}/server.py", **options)
    publish(server, "1")
    page = open_client_page(server.url)
    unread(page, 1)
    for number in 2, 3:
        server.stop(signal.SIGKILL)
        page.wait_for_selector("text=closed with 1006: coming back")
        server = start(f"{ROOM}/server.py", PORT=server.port, **options)
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
    # What it took it has acknowledged, so one that remembers nothing goes on there.
    wait_until(lambda: ask(server).json()["notifications"] == [])


def test_a_browser_shows_text_as_text(server, open_client_page):
    """The page shows the text of a notification as text, also if it looks like HTML."""
    publish(server, "<img src=x onerror=alert(1)>", to="topics/html")
    page = open_client_page(server.url, topics="html", user="html")
    unread(page, 1)
    assert shown(page) == ["topics/html: <img src=x onerror=alert(1)>"]
    assert page.locator("#notes img").count() == 0


def test_a_browser_drops_what_comes_twice(serving, open_client_page):
    """What comes twice the page acknowledges twice and shows once; heartbeats it does not show."""
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


def test_a_browser_notices_by_silence(start, open_client_page):
    """A page that hears nothing, not even a heartbeat, gives the connection up and comes back; one
    that hears heartbeats stays."""
    server = start(f"{ROOM}/server.py", HEARTBEAT=0.1)
    page = open_client_page(server.url, silence=1.5)
    page.wait_for_selector("text=connected")
    server.send(signal.SIGSTOP)
    page.wait_for_selector("text=silence: coming back")
    server.send(signal.SIGCONT)
    page.wait_for_selector("text=connected")
    publish(server, "there")
    unread(page, 1)


def test_a_browser_that_is_refused_says_so(server, open_client_page):
    """The page says why it is refused, and does not come back."""
    page = open_client_page(server.url, user="Ann!")
    page.wait_for_selector("text=refused: user=")
