"""A broadcast, and how it goes wrong: loops, queues, clients that are too slow."""

import difflib
import pstats
import re
import sys
import time
from contextlib import ExitStack, suppress
from json import dumps, loads
from threading import Thread

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

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
from .support.sockets import CLOSE, silent

ROOM = "notifications"
EVENTS = 100
BIG = "x" * 90_000  # a hundred of these do not fit into any buffer on the way


def ws(server):
    return server.url.replace("http", "ws") + "/events"


http = httpx2.Client()


def publish(server, text, timeout=TIMEOUT):
    return http.post(f"{server.url}/events", json={"text": text}, timeout=timeout)


def clients(server, number):
    """Return once so many clients listen."""
    wait_until(lambda: state(server)["clients"] == number)


def state(server):
    return http.get(f"{server.url}/clients").json()


class Reader:
    """A client that reads all that comes, in a thread; keeps the number of each."""

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
    clients(server, 1)
    reader = Reader(stack.enter_context(connect(ws(server))))
    clients(server, 2)
    return reader, dead


def flood(server):
    """Publish big events, each with its number; return how many were answered in time."""
    for number in range(EVENTS):
        try:
            assert publish(server, f"{number} {BIG}", timeout=3).status_code == 202
        except httpx2.ReadTimeout:
            return number
    return EVENTS


# Right


def test_every_subscriber_receives_every_event(start):
    """An event that is sent by POST reaches everyone who listens, in the same order; what a client
    says is read, so that its goodbye is; and a server that stops says goodbye itself."""
    # For a message that comes together with a goodbye Sanic leaves a task behind, and says so.
    server = start(f"{ROOM}/broadcast.py", errors_expected=True)
    with connect(ws(server)) as one, connect(ws(server)) as other:
        clients(server, 2)
        for text in "first", "second":
            answer = publish(server, text)
            assert answer.status_code == 202
            assert answer.json() == {"clients": 2}
        for socket in one, other:
            assert [loads(socket.recv(TIMEOUT))["text"] for _ in range(2)] == ["first", "second"]
            socket.send("I see")
            socket.send("and more")
        one.close()
        assert one.close_code == 1000  # and not 1006, for want of an answer
        clients(server, 1)
        assert server.stop() == 0
        with pytest.raises(ConnectionClosed):
            other.recv(TIMEOUT)
        assert other.close_code != 1006  # which is none
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"text": 1}', b'{"text": ""}', b" " * 100_001]
)
def test_an_invalid_event_is_rejected(broadcast, body):
    """What is not an event is answered 400, and what is too long 413, in JSON."""
    answer = http.post(f"{broadcast.url}/events", content=body)
    status = 413 if len(body) > 100 else 400
    assert (answer.status_code, answer.json()["status"]) == (status, status)


@pytest.fixture(scope="module")
def broadcast(start_shared):
    return start_shared(f"{ROOM}/broadcast.py")


def test_a_slow_consumer_is_evicted(slow):
    """While one client does not read, another gets all hundred events; the first is let go when
    its queue is full, with 1013."""
    reader, left, last = slow["broadcast.py"][:3]
    assert reader == list(range(EVENTS))
    assert left == {"clients": 1, "waiting": 0}
    assert last == (CLOSE, 1013)


@pytest.fixture(scope="module")
def slow(start_shared):
    """Return what became of a hundred events, with one client that reads and one that does not:
    {program: (numbers that the first got, state of the server, last frame to the second)}."""
    found = {}
    for name in "broadcast.py", "wrong_broadcast_stall.py", "wrong_broadcast_queue.py":
        server = start_shared(f"{ROOM}/{name}", QUEUE=10)
        with ExitStack() as open_:
            reader, dead = two(server, open_)
            answered = flood(server)
            wait_until(lambda reader=reader, n=answered: len(reader.got) >= n)
            left = state(server)
            if name == "broadcast.py":
                wait_until(lambda server=server, reader=reader: idle(server, reader))
                left = state(server)
            last = last_frame(dead) if name == "broadcast.py" else None
        found[name] = reader.got, left, last, answered
    return found


def idle(server, reader):
    return len(reader.got) == EVENTS and state(server)["clients"] == 1


def last_frame(socket):
    """Read what a client has not read so far; return the last frame's opcode and close code."""
    socket.settimeout(TIMEOUT)
    data = b"".join(iter(lambda: socket.recv(2**20), b""))
    *_, (_, frame) = cut(data.split(b"\r\n\r\n", 1)[1])
    return frame["opcode"], int.from_bytes(frame["payload"][:2])


# Wrong


def test_a_slow_consumer_stalls_a_sequential_broadcast(slow):
    """In a loop that waits for each client in turn, one that does not read stops the publisher,
    and fewer than half of the events reach the other."""
    reader, left, _, answered = slow["wrong_broadcast_stall.py"]
    assert answered < EVENTS / 2
    assert len(reader) <= answered + 1
    assert left == {"clients": 2}  # and still it stays


def test_an_unbounded_queue_grows(slow, record):
    """In a queue without a bound more than half of all events wait for a client that does not
    read."""
    reader, left, _, _ = slow["wrong_broadcast_queue.py"]
    assert len(reader) == EVENTS
    assert left["clients"] == 2
    assert left["waiting"] > EVENTS / 2
    rows = []
    for name in "wrong_broadcast_stall.py", "wrong_broadcast_queue.py", "broadcast.py":
        reader, left, last, _ = slow[name]
        waiting = "the loop itself" if "waiting" not in left else "more than half of them"
        rows.append(
            {
                f"of {EVENTS} events": name,
                "the client that reads got": "all" if len(reader) == EVENTS else "less than half",
                "waiting for the one that does not": "none: let go" if last else waiting,
            }
        )
    record("notifications/slow.md", table(rows))


def test_a_set_that_changes_ends_the_broadcast(start, record):
    """Who comes while the loop waits for another changes the set: the loop ends in an error, and
    the publisher is answered 500."""
    server = start(f"{ROOM}/wrong_broadcast_set.py", errors_expected=True)
    answers = []

    def publish_all():
        with httpx2.Client() as client:
            while len(answers) < EVENTS and (not answers or answers[-1] == 202):
                body = {"text": f"{len(answers)} {BIG}"}
                answer = client.post(f"{server.url}/events", json=body, timeout=TIMEOUT)
                answers.append(answer.status_code)

    with ExitStack() as open_:
        _, dead = two(server, open_)
        dead.settimeout(TIMEOUT)
        publishing = Thread(target=publish_all)
        publishing.start()
        wait_until(lambda: waits(answers))
        while publishing.is_alive():  # somebody comes, and the slow one reads a little
            Reader(open_.enter_context(connect(ws(server))))
            for _ in range(50):
                if publishing.is_alive():
                    dead.recv(2**16)
            publishing.join(0.05)
    assert answers[-1] == 500
    server.wait_for("RuntimeError")
    (line,) = {line for line in server.output.splitlines() if line.startswith("RuntimeError")}
    record("notifications/wrong_broadcast_set.txt", f"{line}\n")


def waits(answers):
    """Return whether answers have come, and then none for half a second."""
    before = len(answers)
    time.sleep(0.5)
    return 0 < before == len(answers)


def test_serialising_for_each_client_costs_as_often(tmp_path, port, record):
    """A message that is made again for every client is serialised as often as there are clients:
    for twenty of them, twenty times as often as one that is made once."""
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
    """Return how often a program calls json.dumps while twenty clients get these events."""
    home = copy_isolated(EXAMPLES / ROOM / name, folder)
    argv = [sys.executable, "-m", "cProfile", "-o", "profile", name]
    program = Program(argv, home, environment(PORT=number), number).wait_for(*READY)
    with ExitStack() as open_:
        open_.callback(program.stop)
        sockets = [open_.enter_context(connect(ws(program))) for _ in range(20)]
        clients(program, 20)
        for text in texts:
            assert publish(program, text).json() == {"clients": 20}
        for socket in sockets:
            assert [loads(socket.recv(TIMEOUT))["text"] for _ in texts] == texts
    stats = pstats.Stats(str(home / "profile")).stats
    return sum(
        calls
        for (path, _, function), (_, calls, *_) in stats.items()
        if path.endswith("json/__init__.py") and function == "dumps"
    )


def difference(wrong):
    """Return how a wrong broadcast differs from the right one, below their heads."""
    texts = []
    for name in "broadcast.py", wrong:
        text = (EXAMPLES / ROOM / name).read_text().split('"""\n\n', 1)[1]
        text = text.replace(wrong.removeprefix("wrong_").removesuffix(".py"), "broadcast")
        texts.append(re.sub(r"(?m)^ *# --8<-- .*\n", "", text).splitlines())
    lines = difflib.unified_diff(*texts, "broadcast.py", wrong, n=0, lineterm="")
    return [line for line in lines if re.match("[-+](?![-+])", line)]


def test_a_wrong_broadcast_differs_in_a_few_lines():
    """Each wrong broadcast is the right one with its loop, or its queue, changed."""
    assert len(difference("wrong_broadcast_frames.py")) == 4
    assert len(difference("wrong_broadcast_queue.py")) <= 14
    # These two have no queues at all, and differ from each other in one word.
    for name in "wrong_broadcast_set.py", "wrong_broadcast_stall.py":
        added = [line for line in difference(name) if line.startswith("+")]
        assert len(added) <= 14
    one, other = (
        (EXAMPLES / ROOM / f"wrong_broadcast_{name}.py")
        .read_text()
        .split("async def publish", 1)[1]
        .replace(f"broadcast_{name}", "broadcast")
        for name in ("set", "stall")
    )
    assert one.replace("in clients:", "in list(clients):") == other
