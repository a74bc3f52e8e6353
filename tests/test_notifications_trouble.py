"""A broadcast, and its pitfalls: loops, queues, slow consumers."""

import pstats
import re
import sys
import time
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from json import dumps, loads
from threading import Thread

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from .support.frames import cut
from .support.messages import table
from .support.processes import (
    EXAMPLES,
    READY,
    TIMEOUT,
    Program,
    copy_isolated,
    environment,
    wait_until,
)
from .support.sockets import CLOSE, connect, silent
from .test_notifications import INVALID

TOPIC = "notifications"
EVENTS = 100
BIG = "x" * 90_000  # a hundred of these exceed all buffers between server and client


def ws(server):
    return server.url.replace("http", "ws") + "/events"


http = httpx2.Client()


def publish(server, text, timeout=TIMEOUT):
    return http.post(f"{server.url}/events", json={"text": text}, timeout=timeout)


def wait_for_subscribers(server, number):
    """Wait until the server has so many subscribers."""
    wait_until(lambda: state(server)["subscribers"] == number)


def state(server):
    return http.get(f"{server.url}/subscribers").json()


class Reader:
    """A client that reads all messages in a thread; keeps the number of each."""

    def __init__(self, socket):
        self.socket, self.got = socket, []
        self.thread = Thread(target=self.read)
        self.thread.start()

    def read(self):
        with suppress(ConnectionClosed):
            for message in self.socket:
                self.got.append(int(loads(message)["text"].split()[0]))


def two(server, stack):
    """Connect a client that reads and one that does not: Reader, socket."""
    dead = stack.enter_context(silent(server.port, "/events"))
    wait_for_subscribers(server, 1)
    reader = Reader(stack.enter_context(connect(ws(server))))
    wait_for_subscribers(server, 2)
    return reader, dead


def flood(server):
    """Publish big events, each with its number; return how many were published in time."""
    for number in range(EVENTS):
        try:
            assert publish(server, f"{number} {BIG}", timeout=3).status_code == 202
        except httpx2.ReadTimeout:
            return number
    return EVENTS


# The right program


def test_every_subscriber_receives_every_event(start):
    """An event that is published by POST reaches every subscriber, in the same order; messages from
    clients are received, so that their Close frame is; and a server that stops closes with 1012."""
    server = start(f"{TOPIC}/broadcast.py")
    with connect(ws(server)) as one, connect(ws(server)) as other:
        wait_for_subscribers(server, 2)
        for text in "first", "second":
            response = publish(server, text)
            assert response.status_code == 202
            assert response.json() == {"subscribers": 2}
        for socket in one, other:
            assert [loads(socket.recv(TIMEOUT))["text"] for _ in range(2)] == ["first", "second"]
            socket.send("I see")
            socket.send("and more")
        one.close()
        assert one.close_code == 1000  # and not 1006: the server responded
        wait_for_subscribers(server, 1)
        assert server.stop() == 0
        with pytest.raises(ConnectionClosed):
            other.recv(TIMEOUT)
        assert other.close_code == 1012


@pytest.mark.parametrize("body", [*INVALID, b" " * 100_001])
def test_an_invalid_event_is_rejected(broadcast, body):
    """A body that is not an event is rejected with 400, and one that is too long with 413, in
    JSON."""
    response = http.post(f"{broadcast.url}/events", content=body)
    status = 413 if len(body) > 100_000 else 400
    assert (response.status_code, response.json()["status"]) == (status, status)


@pytest.fixture(scope="module")
def broadcast(start_shared):
    return start_shared(f"{TOPIC}/broadcast.py")


def test_a_slow_consumer_is_evicted(slow):
    """While one client does not read, another receives all hundred events; the first is evicted
    with 1013 when its queue is full."""
    reader, left, last = slow["broadcast.py"][:3]
    assert reader == list(range(EVENTS))
    assert left == {"subscribers": 1, "waiting": 0}
    assert last == (CLOSE, 1013)


@pytest.fixture(scope="module")
def slow(start_shared):
    """Return what a hundred events did to a client that reads and one that does not: {program:
    (numbers that the first received, state of the server, last frame to the second, number of
    events published)}."""
    found = {}
    for name in "broadcast.py", "wrong_broadcast_stall.py", "wrong_broadcast_queue.py":
        server = start_shared(f"{TOPIC}/{name}", MAX_QUEUE=10)
        with ExitStack() as open_:
            reader, dead = two(server, open_)
            published = flood(server)
            wait_until(lambda reader=reader, n=published: len(reader.got) >= n)
            left = state(server)
            if name == "broadcast.py":
                wait_until(lambda server=server, reader=reader: idle(server, reader))
                left = state(server)
            last = last_frame(dead) if name == "broadcast.py" else None
        found[name] = reader.got, left, last, published
    return found


def idle(server, reader):
    return len(reader.got) == EVENTS and state(server)["subscribers"] == 1


def last_frame(socket):
    """Read what a client has not read so far; return the last frame's opcode and close code."""
    socket.settimeout(TIMEOUT)
    data = b"".join(iter(lambda: socket.recv(2**20), b""))
    *_, (_, frame) = cut(data.split(b"\r\n\r\n", 1)[1])
    return frame["opcode"], int.from_bytes(frame["payload"][:2])


# Wrong programs


def test_a_slow_consumer_stalls_a_sequential_broadcast(slow):
    """In a loop that waits for each subscriber in turn, a client that does not read blocks the
    publisher, and fewer than half of the events reach another."""
    reader, left, _, published = slow["wrong_broadcast_stall.py"]
    assert published < EVENTS / 2
    assert len(reader) <= published + 1
    assert left == {"subscribers": 2, "waiting": 10}  # the slow one is not evicted


def test_an_unbounded_queue_grows(slow, record):
    """In a queue without a limit more than half of all events wait for a client that does not
    read."""
    reader, left, _, _ = slow["wrong_broadcast_queue.py"]
    assert len(reader) == EVENTS
    assert left["subscribers"] == 2
    assert left["waiting"] > EVENTS / 2
    rows = []
    for name in "wrong_broadcast_stall.py", "wrong_broadcast_queue.py", "broadcast.py":
        reader, left, last, _ = slow[name]
        waiting = "10; the loop waits" if left["waiting"] == 10 else "more than half of them"
        rows.append(
            {
                f"of {EVENTS} events": name,
                "received by the client that reads": "all"
                if len(reader) == EVENTS
                else "less than half",
                "queued for the one that does not": "none: evicted" if last else waiting,
            }
        )
    record("notifications/slow.md", table(rows))


def test_a_set_that_changes_ends_the_broadcast(start, record):
    """A client that connects while the loop waits for another changes the subscribers: the loop
    ends with an error, and the publisher gets 500."""
    server = start(f"{TOPIC}/wrong_broadcast_set.py", errors_expected=True, MAX_QUEUE=10)
    statuses = []

    def publish_all():
        with httpx2.Client() as client:
            while len(statuses) < EVENTS and (not statuses or statuses[-1] == 202):
                body = {"text": f"{len(statuses)} {BIG}"}
                response = client.post(f"{server.url}/events", json=body, timeout=TIMEOUT)
                statuses.append(response.status_code)

    with ExitStack() as open_, ThreadPoolExecutor() as pool:
        _, dead = two(server, open_)
        publishing = pool.submit(publish_all)
        wait_until(lambda: waits(statuses))
        connect_and_read(server, open_, dead, publishing)
    assert statuses[-1] == 500
    server.wait_for("RuntimeError")
    (line,) = {line for line in server.output.splitlines() if line.startswith("RuntimeError")}
    record("notifications/wrong_broadcast_set.txt", f"{line}\n")


def test_a_flood_by_hand_shows_the_pitfalls(start, run, record):
    """The script flood.sh stops without a response if the loop waits, and with 500 if a client
    connects meanwhile; without a limit it leaves events in the queue, and with one none."""
    outputs = {}
    for name in "broadcast", "wrong_broadcast_queue", "wrong_broadcast_stall":
        server = start(f"{TOPIC}/{name}.py", MAX_QUEUE=10)
        with ExitStack() as open_:
            two(server, open_)
            outputs[name] = run(f"{TOPIC}/flood.sh", URL=server.url).stdout
        server.stop()
    record("notifications/flood.txt", outputs["broadcast"])
    assert outputs["broadcast"] == '100 events published\n{"subscribers":1,"waiting":0}\n'
    assert re.fullmatch(
        r'100 events published\n{"subscribers":2,"waiting":[1-9]\d*}\n',
        outputs["wrong_broadcast_queue"],
    )
    assert re.match(
        r"event \d+: no response\n\d+ events published\n", outputs["wrong_broadcast_stall"]
    )

    server = start(f"{TOPIC}/wrong_broadcast_set.py", errors_expected=True, MAX_QUEUE=10)
    with ExitStack() as open_, ThreadPoolExecutor() as pool:
        _, dead = two(server, open_)
        flooding = pool.submit(run, f"{TOPIC}/flood.sh", URL=server.url, MAX_TIME=TIMEOUT)
        wait_until(lambda: state(server)["waiting"] == 10)
        connect_and_read(server, open_, dead, flooding)
        assert re.match(r"event \d+: 500\n", flooding.result().stdout)


def connect_and_read(server, open_, dead, publishing):
    """Let clients connect, and the slow one read a little, until the publisher has ended."""
    dead.settimeout(TIMEOUT)
    while not publishing.done():
        Reader(open_.enter_context(connect(ws(server))))
        for _ in range(50):
            if not publishing.done():
                dead.recv(2**16)
        futures.wait([publishing], timeout=0.05)


def waits(statuses):
    """Return whether there were responses, and then none for half a second."""
    before = len(statuses)
    time.sleep(0.5)
    return 0 < before == len(statuses)


def test_serialising_for_each_client_costs_as_often(tmp_path, port, record):
    """A message that is serialised again for every subscriber is serialised as often as there are
    subscribers: for twenty of them, twenty times as often."""
    rows, texts = [], [f"event {number}" for number in range(10)]
    for name in "wrong_broadcast_frames.py", "broadcast.py":
        calls = serialised(name, texts, tmp_path / name, port())
        size = calls // len(texts) * sum(len(dumps({"text": text})) for text in texts)
        rows.append(
            {
                "ten events to twenty clients": name,
                "calls of `json.dumps`": calls,
                "bytes serialised": size,
            }
        )
    assert [row["calls of `json.dumps`"] for row in rows] == [200, 10]
    record("notifications/frames.md", table(rows))


def serialised(name, texts, folder, number):
    """Return how often a program calls json.dumps while twenty clients receive these events."""
    home = copy_isolated(EXAMPLES / TOPIC / name, folder)
    argv = [sys.executable, "-m", "cProfile", "-o", "profile", name]
    program = Program(argv, home, environment(PORT=number), number).wait_for(*READY)
    with ExitStack() as open_:
        open_.callback(program.stop)
        sockets = [open_.enter_context(connect(ws(program))) for _ in range(20)]
        wait_for_subscribers(program, 20)
        for text in texts:
            assert publish(program, text).json() == {"subscribers": 20}
        for socket in sockets:
            assert [loads(socket.recv(TIMEOUT))["text"] for _ in texts] == texts
    stats = pstats.Stats(str(home / "profile")).stats
    return sum(
        calls
        for (path, _, function), (_, calls, *_) in stats.items()
        if path.endswith("json/__init__.py") and function == "dumps"
    )
