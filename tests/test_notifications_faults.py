"""Notifications and faults: numbered messages, and an exact count at the end."""

import asyncio
import json
import os
import random
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from threading import Thread

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .support.events import metric
from .support.frames import cut as frames_in
from .support.processes import (
    EXAMPLES,
    READY,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)
from .support.sockets import CLOSE, handshake, silent
from .support.threads import run_in_thread
from .support.wiretap import Cut
from .test_notifications import (
    CLIENTS,
    TOPIC,
    open_socket,
    poll,
    post,
    present_users,
    publish,
)
from .test_notifications import (
    QUICK as QUICK,  # for the fixture `follow`
)


def texts(output):
    """Return the texts, which are numbers, of the notifications that a client printed as new."""
    lines = [line for line in output.splitlines() if ": " in line and line[0].isdigit()]
    return [int(line.rsplit(" ", 1)[1]) for line in lines if "(duplicate)" not in line]


@pytest.fixture
def start_server(start):
    """Start the server, as `start` does: start_server(LOG=…) -> Program."""

    def start_server(**variables):
        return start(f"{TOPIC}/server.py", **variables)

    return start_server


class Publisher(Thread):
    """A thread that publishes the numbers 1 to n, and retries each until it is stored."""

    def __init__(self, url, number):
        super().__init__()
        self.url, self.number, self.responses = url, number, Counter()

    def run(self):
        with httpx2.Client(timeout=TIMEOUT) as client:
            for number in range(1, self.number + 1):
                while not self.send(client, number):
                    time.sleep(0.02)

    def send(self, client, number):
        try:
            response = client.post(
                f"{self.url}/topics/news",
                json={"text": str(number)},
                headers={"Idempotency-Key": f"message-{number}"},
            )
        except httpx2.TransportError:
            self.responses["none"] += 1
            return False
        self.responses[response.status_code] += 1
        return response.status_code in {200, 201}


# The server


def test_a_killed_server_loses_nothing(start_server, tap, follow, tmp_path):
    """A server is killed with SIGKILL three times while a publisher and clients of all three
    transports are busy: each client receives all hundred messages, in order and without
    duplicates."""
    options = {"LOG": tmp_path / "log.db"}
    server = start_server(**options)
    wire = tap(server)
    clients = [follow(name, URL=wire.url, COUNT=100) for name in CLIENTS]
    wait_until(lambda: present_users(server) == ["ann"])
    publisher = Publisher(server.url, 100)
    publisher.start()
    for client in clients:
        client.wait_for("topics/news: 1\n")
    for seen in 10, 40, 70:
        clients[0].wait_for(f"topics/news: {seen}\n")
        server.stop(signal.SIGKILL)
        server = start_server(PORT=server.port, **options)
    publisher.join(TIMEOUT)
    assert publisher.responses["none"] >= 3
    for client in clients:
        assert client.wait() == 0
        assert texts(client.output) == list(range(1, 101))
    ids = re.findall(rb"(?i)last-event-id: (\d+)", b"".join(e.data for e in wire.events))
    assert int(ids[0]) == 0 < int(ids[-1])


@pytest.mark.parametrize("mode", ["FULL", "NORMAL"])
def test_a_kill_loses_nothing_in_either_mode(tmp_path, port, mode):
    """A notification that was stored (201) survives a SIGKILL right after, with synchronous = FULL
    and with NORMAL: they differ in a power cut."""
    folder = copy_isolated(EXAMPLES / TOPIC / "server.py", tmp_path / "server")
    program = folder / "server.py"
    program.write_text(program.read_text().replace("synchronous = FULL", f"synchronous = {mode}"))
    env = environment(PORT=(number := port()), LOG="log.db")
    server = Program(argv(program), folder, env, number).wait_for(*READY)
    publish(server, "kept")
    server.stop(signal.SIGKILL)
    server = Program(argv(program), folder, env, number).wait_for(*READY)
    assert [
        notification["text"] for notification in poll(server, after=0).json()["notifications"]
    ] == ["kept"]
    server.stop()


def test_a_stopping_server_closes_with_1012(start_server, follow, tmp_path):
    """A server that stops closes with 1012, responds to the polls that it holds, and
    waits for no client; the clients reconnect to the next server."""
    options = {"LOG": tmp_path / "log.db"}
    server = start_server(**options)
    clients = [
        follow(name, URL=server.url, COUNT=4, USER_ID=name[:-3].replace("_", "-"))
        for name in CLIENTS
    ]
    wait_until(lambda: len(present_users(server)) == 3)
    publish(server, "1", "2")
    for client in clients:
        client.wait_for("topics/news: 2")
    stopped = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - stopped < 10  # Sanic itself waits for 15 seconds
    server = start_server(PORT=server.port, **options)
    publish(server, "3", "4")
    for client in clients:
        assert client.wait() == 0
        assert texts(client.output) == [1, 2, 3, 4]
    assert "reconnecting: closed with 1012" in clients[0].output


def test_a_stopping_server_responds_to_held_polls(start_server):
    """A poll that is held when the server stops, and one that arrives just then, gets a response at
    once, with `connection: close`, so that a server that is about to stop holds none."""
    server = start_server()
    request = b"GET /notifications?user=ann HTTP/1.1\r\nHost: x\r\nPrefer: wait=25\r\n\r\n"
    address = "127.0.0.1", server.port
    with socket.create_connection(address) as polling, socket.create_connection(address) as late:
        late.sendall(
            b"POST /topics/news HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert b"100 Continue" in late.recv(65536)  # so it is under way
        polling.sendall(2 * request)  # the second waits behind the first
        wait_until(lambda: present_users(server) == ["ann"])
        stopped = time.monotonic()
        server.send(signal.SIGTERM)
        assert closed_after_response(polling)
        late.sendall(b'{"text": "a"}' + request)
        assert closed_after_response(late)
        assert server.wait() == 0
        assert time.monotonic() - stopped < 10  # Sanic itself waits for 15 seconds


def closed_after_response(connection):
    """Read a connection to its end; return whether it carried one response, to a poll, that closes
    it."""
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    return data.count(b"200 OK") == data.count(b"connection: close") == 1


# The connection


def test_a_client_disconnected_at_every_point_receives_all(start_server, tap, follow):
    """A client is disconnected again and again, at every twelfth byte that the server sends, from
    before the response to the handshake to within a message, and at every twelfth that the client
    sends, up to its acknowledgement: it receives all messages, once and in order."""
    server = start_server()
    passed, cuts = Counter(), Counter()
    where = [("server", n) for n in range(0, 280, 12)] + [("client", n) for n in range(0, 352, 12)]

    def on_data(event):
        # The first connection is left alone until something has come.
        number = event.connection - 2
        who, at = where[number] if number < len(where) else ("nobody", 0)
        who, at = ("server", 280) if number < 0 else (who, at)
        before = passed[event.connection, event.source]
        passed[event.connection, event.source] += len(event.data)
        if who == event.source and before + len(event.data) > at:
            cuts[who] += 1
            return Cut(at - before)
        return None

    wire = tap(server, on_data=on_data)
    # Fewer tries than cuts: what came in between was no failure.
    client = follow("client.py", URL=wire.url, BASE_DELAY=0.01, MAX_FAILURES=40)
    last = 0
    while wire.connections < len(where) + 2:
        last += 1
        publish(server, f"{last}")
    client.wait_for(f"topics/news: {last}\n")
    assert texts(client.output) == list(range(1, last + 1))
    assert cuts["server"] > 20
    assert cuts["client"] > 25


def test_unacknowledged_messages_are_sent_again(start_server):
    """A client that disconnects after a message and before its acknowledgement, and stores nothing,
    receives the message again: it is delivered at least once."""
    server = start_server()
    publish(server, "1", "2", "3")
    for _ in "12":
        with open_socket(server) as socket:
            got = [json.loads(socket.recv(TIMEOUT))["text"] for _ in range(3)]
        assert got == ["1", "2", "3"]


def test_a_killed_client_keeps_its_inbox(start_server, follow, tmp_path):
    """A client that is killed five times in the middle of a hundred messages, and started again,
    has each of them in its inbox, once and in order."""
    server = start_server()
    inbox = tmp_path / "inbox"
    publisher = Publisher(server.url, 100)
    publisher.start()
    for seen in range(10, 60, 10):
        client = follow("client.py", URL=server.url, INBOX=inbox)
        wait_until(
            lambda seen=seen: inbox.exists() and len(inbox.read_bytes().splitlines()) >= seen
        )
        client.stop(signal.SIGKILL)
    publisher.join(TIMEOUT)
    left = 100 - len(inbox.read_bytes().splitlines())
    if left:
        assert follow("client.py", URL=server.url, INBOX=inbox, COUNT=left).wait() == 0
    assert [json.loads(line)["text"] for line in inbox.read_text().splitlines()] == [
        str(number) for number in range(1, 101)
    ]


def test_a_frozen_client_receives_all(start_server, follow):
    """A client that is frozen until the server closes its connection, and then continues, receives
    all messages, once and in order."""
    server = start_server(PING_INTERVAL=0.3)
    client = follow("client.py", URL=server.url, COUNT=20)
    publish(server, *map(str, range(1, 6)))
    client.wait_for("topics/news: 5")
    client.send(signal.SIGSTOP)
    publish(server, *map(str, range(6, 11)))
    wait_until(lambda: present_users(server) == [])
    publish(server, *map(str, range(11, 16)))
    client.send(signal.SIGCONT)
    client.wait_for("reconnecting")
    publish(server, *map(str, range(16, 21)))
    assert client.wait() == 0
    assert texts(client.output) == list(range(1, 21))


# A client that is too slow


@pytest.mark.parametrize(
    ("queue", "timeout"), [(10, 1000), (1000, 0.5)], ids=["queue full", "send timeout"]
)
def test_a_slow_consumer_is_evicted_and_resumes(start_server, queue, timeout):
    """A client that does not read is closed with 1013 when its queue is full or a send takes too
    long, while another receives all messages; when it reconnects it receives the rest: none of 450
    is lost or out of order."""
    server = start_server(MAX_QUEUE=queue, SEND_TIMEOUT=timeout)
    number, size = 450, 9_000
    with ExitStack() as open_:
        slow = open_.enter_context(
            silent(server.port, "/notifications/socket?user=slow&topic=news&after=0")
        )
        wait_until(lambda: "slow" in present_users(server))
        fast = open_.enter_context(open_socket(server, user="fast", after=0))
        wait_until(lambda: "fast" in present_users(server))
        for n in range(1, number + 1):
            publish(server, f"{n} {'x' * size}")
            assert number_in(fast.recv(TIMEOUT)) == n
        wait_until(lambda: "slow" not in present_users(server))
        slow.settimeout(TIMEOUT)
        data = b"".join(iter(lambda: received(slow), b""))
        last, *_ = (frame for _, frame in reversed([*frames_in(data.split(b"\r\n\r\n", 1)[1])]))
        before = [
            json.loads(frame["payload"])
            for _, frame in frames_in(data.split(b"\r\n\r\n", 1)[1])
            if frame["opcode"] == 1
        ]
        assert last["opcode"] == CLOSE
        assert int.from_bytes(last["payload"][:2]) == 1013
        got = [int(notification["text"].split()[0]) for notification in before]
        assert 0 < len(got) < number
        with open_socket(server, user="slow", after=before[-1]["id"]) as again:
            got += [number_in(again.recv(TIMEOUT)) for _ in range(number - len(got))]
    assert got == list(range(1, number + 1))


def number_in(message):
    return int(json.loads(message)["text"].split()[0])


def received(socket):
    try:
        return socket.recv(2**20)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("topic", ["notifications", "scaling_out"])
def test_the_keys_of_the_shell_publishers_differ(topic):
    """The idempotency keys of publish.sh differ, also of publishers that have the same process id
    and run in the same second."""
    text = (EXAMPLES / topic / "publish.sh").read_text()
    (recipe,) = re.findall(r"\$\([^()]*\)", text)
    script = f'for _ in $(seq 200); do echo "{recipe}"; done'  # all in one process
    keys = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert len(set(keys.split())) == 200


# Limits, and what is counted


def test_a_full_server_rejects_subscribers(start_server):
    """A server that has MAX_CONNECTIONS subscribers rejects another one with 503 and Retry-After,
    whatever its transport, and counts it; publishers get through, and what they publish is
    delivered; when a subscriber disconnects there is room again."""
    server = start_server(MAX_CONNECTIONS=1)
    query = {"user": "ann", "topic": "news"}
    for _ in range(2):
        with open_socket(server) as socket:
            wait_until(lambda: metric(server, "notifications_connections") == 1)
            with pytest.raises(InvalidStatus) as rejected:
                open_socket(server)
            responses = [
                rejected.value.response,
                httpx2.get(f"{server.url}/notifications/events", params=query),
                poll(server),
            ]
            for response in responses:
                assert response.status_code == 503
                assert 5 <= int(response.headers["Retry-After"]) <= 15
            assert response.headers["Connection"] == "close"
            (number,) = publish(server, "1")
            received = json.loads(socket.recv(TIMEOUT))
            assert received["id"] == number
            socket.send(json.dumps({"ack": number}))
            wait_until(lambda: metric(server, "notifications_connections") == 1)
        wait_until(lambda: metric(server, "notifications_connections") == 0)
    assert metric(server, 'notifications_problems_total{problem="rejected"}') == 6
    wait_until(lambda: server.output.count("WARNING: rejected: ") == 6)


def test_what_is_counted(start_server):
    """The server counts its subscribers, those that resumed, those whose id was trimmed, those that
    it evicted, and errors of its store, each problem with one line in its log."""
    log = "log.db"
    server = start_server(LOG=log, MAX_EVENTS=5, MAX_QUEUE=5)
    publish(server, *"123456789")
    assert metric(server, "notifications_resumed_total") == 0
    poll(server, after=8)
    assert metric(server, "notifications_resumed_total") == 1
    assert poll(server, after=1).status_code == 410
    with open_socket(server, after=1) as expired, pytest.raises(ConnectionClosed):
        expired.recv(TIMEOUT)
    path = "/notifications/socket?user=slow&topic=news"
    with silent(server.port, path), open_socket(server, user="fast"):
        wait_until(lambda: metric(server, "notifications_connections") == 2)
        while not metric(server, 'notifications_problems_total{problem="evicted"}'):
            publish(server, *["x" * 9_000] * 20)
    with closing(sqlite3.connect(server.folder / log)) as database:
        database.execute("DROP TABLE log")
    assert post(server, "lost").status_code == 507
    assert poll(server, user="new").status_code == 503
    with open_socket(server, user="newer") as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(TIMEOUT)
    assert closed.value.rcvd.code == 1011
    assert metric(server, 'notifications_problems_total{problem="expired"}') == 2
    assert metric(server, 'notifications_problems_total{problem="store"}') == 3
    counts = {"expired": 2, "evicted": 1, "store": 3}
    wait_until(lambda: {p: server.output.count(f"WARNING: {p}: ") for p in counts} == counts)
    wait_until(lambda: metric(server, "notifications_connections") == 0)


def test_health_fails_without_a_writer(start):
    """A server that stores nothing any more, because its writer has ended, responds to /health with
    503; before that with 200."""
    changes = {"self.deliver(event_id, channel, text)": 'assert text != "poison"'}
    server = start(f"{TOPIC}/server.py", errors_expected=True, changes=changes)
    assert httpx2.get(f"{server.url}/health").json() == {"connections": 0}
    body = b'{"text": "poison"}'
    with socket.create_connection(("127.0.0.1", server.port)) as publisher:
        publisher.sendall(
            b"POST /topics/news HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        wait_until(lambda: httpx2.get(f"{server.url}/health").status_code == 503)


def test_users_are_bounded(start_server):
    """The server remembers what MAX_USERS users have acknowledged, in memory and in its file, also
    if more name an id; one that is not remembered receives the whole log."""
    server = start_server(LOG="log.db", MAX_USERS=2)
    _, last = publish(server, "1", "2")
    for user in "ann", "bob", "cat", "dan":
        poll(server, user=user, after=last)
    publish(server, "3")  # saves what was acknowledged
    received = [len(poll(server, user=user).json()["notifications"]) for user in ("bob", "cat")]
    assert received == [1, 3]
    with closing(sqlite3.connect(server.folder / "log.db")) as database:
        saved = database.execute("SELECT name FROM users ORDER BY name").fetchall()
    assert saved == [("ann",), ("bob",)]


# The disk


def test_a_full_disk_is_507(start_server, record, tmp_path):
    """When the log cannot be written the publisher gets 507, in JSON, and nothing is delivered that
    is not stored; when there is space again the server continues, and after a kill the log contains
    exactly what was stored (201), and what was acknowledged meanwhile."""
    options = {"LOG": tmp_path / "log.db", "HEARTBEAT": 0.1}
    server = start_server(**options)
    stored, refused = [], []
    with open_socket(server, after=0) as socket:
        size = os.path.getsize(f"{options['LOG']}-wal")
        limit(server, size + 50_000)
        for number in range(1, 31):
            response = post(server, f"{number}")
            (stored if response.status_code == 201 else refused).append(number)
            if response.status_code != 201:
                assert response.status_code == 507
        assert stored
        assert refused == list(range(refused[0], 31))
        socket.send('{"ack": 2}')
        wait_until(lambda: first_for_ann(server) == 3)
        assert post(server, "refused, and the acknowledgement with it").status_code == 507
        record("notifications/full.txt", f"{response.status_code} {response.text}\n")
        limit(server, resource.RLIM_INFINITY)
        for number in range(31, 41):
            assert post(server, f"{number}").status_code == 201
            stored.append(number)
        got = []
        while len(got) < len(stored):
            notification = json.loads(socket.recv(TIMEOUT))
            got += [int(notification["text"])] if "id" in notification else []
    assert got == stored
    server.stop(signal.SIGKILL)
    server = start_server(PORT=server.port, **options)
    assert first_for_ann(server) == 3
    kept = [
        int(notification["text"]) for notification in poll(server, after=0).json()["notifications"]
    ]
    assert kept == stored


def first_for_ann(server):
    """Return the first id that a poll of ann without an id returns."""
    return poll(server).json()["notifications"][0]["id"]


def limit(server, size):
    """Limit the size of the files that a program can write, as if the disk were full there."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))


# Many


def test_two_hundred_clients_reconnect_at_random(start_server):
    """Two hundred clients connect and disconnect at random for twenty seconds, some with a Close
    frame and some without: each receives all of a hundred messages, in order and without
    duplicates."""
    server = start_server()
    clients = [Client(server.port, number) for number in range(200)]
    run_in_thread(come_and_go(server, clients))
    assert {tuple(client.got) for client in clients} == {tuple(range(1, 101))}
    assert sum(client.connections for client in clients) > 400


class Client:
    """One that comes and goes, and remembers the last number it saw.

    It cuts frames by hand: so many clients of a library would cost more than the server.
    """

    def __init__(self, port, number):
        self.port, self.path = port, f"/notifications/socket?user=client-{number}&topic=news"
        self.random, self.seen, self.got, self.connections = random.Random(number), 0, [], 0

    async def live(self, end):
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            await self.stay(min(end, loop.time() + self.random.uniform(2, 10)))
            await asyncio.sleep(self.random.uniform(0, 3))
        while len(self.got) < 100:
            await self.stay(loop.time() + TIMEOUT)

    async def stay(self, wait_until):
        """Read for so long, or until all is there; then leave with a goodbye, or without."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(handshake(self.port, f"{self.path}&after={self.seen}"))
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        self.connections += 1
        here = 0
        with suppress(TimeoutError):
            async with asyncio.timeout_at(wait_until):
                while len(self.got) < 100:
                    notification = await self.message(reader)
                    if "id" in notification:
                        assert notification["id"] > here, (
                            "twice, or out of order, on one connection"
                        )
                        here = notification["id"]
                    if "id" in notification and notification["id"] > self.seen:
                        self.seen = notification["id"]
                        self.got.append(int(notification["text"]))
        if self.random.random() < 0.5:
            writer.transport.abort()
        else:
            writer.write(b"\x88\x82\0\0\0\0" + (1000).to_bytes(2))  # masked by zeros
            with suppress(ConnectionError):
                await reader.read()
            writer.close()

    async def message(self, reader):
        """Return the next message; each is short, and so is its frame's head."""
        kind = None
        while kind != 0x81:  # a whole text
            kind, size = await reader.readexactly(2)
            payload = await reader.readexactly(size)
        return json.loads(payload)


async def come_and_go(server, clients):
    async def send():
        async with httpx2.AsyncClient(timeout=TIMEOUT) as client:
            for number in range(1, 101):
                response = await client.post(
                    f"{server.url}/topics/news", json={"text": str(number)}
                )
                assert response.status_code == 201
                await asyncio.sleep(0.19)

    end = asyncio.get_running_loop().time() + 20
    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        for client in clients:
            group.create_task(client.live(end))
