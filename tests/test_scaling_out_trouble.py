"""Pitfalls of several gateways on one log: events lost, trimmed or duplicated, slow consumers."""

import asyncio
import importlib.util
import json
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from websockets.exceptions import InvalidStatus

from .support.events import (
    WEB,
    close_code,
    events_url,
    metric,
    publish,
    ready,
    receive_texts,
)
from .support.processes import (
    EXAMPLES,
    READY,
    TIMEOUT,
    Program,
    copy_isolated,
    environment,
    loaded,
    wait_until,
)
from .support.sockets import connect, handshake, silent
from .support.threads import run_in_thread

TOPIC = "scaling_out"
GATEWAY = {"HEARTBEAT_INTERVAL": 0.3, "RETRY_INTERVAL": 0.1}


def address(redis):
    return f"redis://127.0.0.1:{redis.port}"


@pytest.fixture(scope="module")
def redis(assembled_shared):
    """Return a Redis for the tests that do not stop it."""
    return assembled_shared[1]()


@pytest.fixture(scope="module")
def gateway(start_shared, redis):
    """Return a gateway with a small cache and a short log."""
    settings = GATEWAY | {"CACHED_EVENTS": 5, "MAX_EVENTS": 100, "REDIS": address(redis)}
    return ready(start_shared(f"{TOPIC}/gateway.py", **settings))


# The wrong programs


def test_reading_from_dollar_loses_events(start, redis, record):
    """A gateway that reads on from `$` loses events that are published while it is busy, two of
    three; one that reads on from the last id that it has sent loses none."""
    output = {}
    for name in "wrong_tail.py", "server.py":
        busy = start(f"{TOPIC}/{name}", REDIS=address(redis))
        other = start(f"{TOPIC}/server.py", REDIS=address(redis))
        (before,) = publish(other, "before")
        with connect(events_url(busy, before)) as websocket:
            wait_until_blocked(redis)
            busy.send(signal.SIGSTOP)  # as if its event loop were blocked
            publish(other, "one", "two", "three")
            busy.send(signal.SIGCONT)
            texts = receive_texts(websocket, 1)
            wait_until_blocked(redis)
            publish(other, "four")
            texts += receive_texts(websocket, 1 if name == "wrong_tail.py" else 3)
        output[name] = "\n".join(texts) + "\n"
        for each in busy, other:
            each.stop()
    assert output["wrong_tail.py"] == "one\nfour\n"
    assert output["server.py"] == "one\ntwo\nthree\nfour\n"
    record("scaling_out/wrong_tail.txt", output["wrong_tail.py"])
    record("scaling_out/right_tail.txt", output["server.py"])


def wait_until_blocked(redis):
    """Return once a gateway waits in XREAD."""
    with Redis(port=redis.port) as client:
        wait_until(lambda: client.info("clients")["blocked_clients"])


def test_redis_py_repeats_a_command(redis, tap, port):
    """When the response to an XADD is lost, redis-py repeats the command by itself, and the event
    is stored twice; without retries it raises an error, and the event is stored once."""

    async def add(stream, wire, **options):
        async with AsyncRedis(port=wire.port, **options) as client:
            await client.xadd(stream, {"text": "once"})

    def lossy():
        lost = []

        def lose(event):
            if event.source == "client" and b"XADD" in event.data:
                lost.append(event.connection)
            # Of the first connection, the response to that.
            return not (event.source == "server" and lost == [event.connection])

        return tap(redis, on_data=lose)

    run_in_thread(add("default", lossy()))
    with pytest.raises(RedisConnectionError):
        run_in_thread(add("no retries", lossy(), retry=Retry(NoBackoff(), 0)))
    with Redis(port=redis.port) as client:
        assert [client.xlen(name) for name in ("default", "no retries")] == [2, 1]


def test_a_gateway_sends_a_command_once(start, redis, tap):
    """A gateway whose Redis does not respond responds with 503, and has sent the event once."""
    sent = set()

    def lose(event):
        if event.source == "client" and b"doubtful" in event.data:
            sent.add(event.connection)
        return not (event.source == "server" and event.connection in sent)

    settings = GATEWAY | {"REDIS": address(tap(redis, on_data=lose))}
    gateway = start(f"{TOPIC}/gateway.py", **settings)
    response = WEB.post(f"{gateway.url}/events", json={"text": "doubtful"}, timeout=TIMEOUT)
    assert response.status_code == 503
    with Redis(port=redis.port, decode_responses=True) as client:
        texts = [fields["text"] for _, fields in client.xrevrange("events", count=20)]
    assert texts.count("doubtful") == 1


def test_a_repeated_key_is_stored_once(gateway):
    """An event or a job that is sent again with the same key is stored once and has the same id;
    with another key it is stored again."""
    for path in "events", "jobs":
        ids = []
        for key in "a", "a", "b":
            response = WEB.post(
                f"{gateway.url}/{path}", json={"text": "x"}, headers={"Idempotency-Key": key}
            )
            ids.append(response.text)
        assert ids[0] == ids[1] != ids[2]


def test_a_key_with_another_text_is_422(gateway):
    """A key that is sent again with another text is rejected with 422, and nothing is stored."""
    for path in "events", "jobs":
        statuses = [
            WEB.post(
                f"{gateway.url}/{path}",
                json={"text": text},
                headers={"Idempotency-Key": f"422 {path}"},
            ).status_code
            for text in ("one", "two", "one")
        ]
        assert statuses == [{"events": 201, "jobs": 202}[path], 422, 202 if path == "jobs" else 201]


def test_an_event_during_a_read_is_delivered_at_once():
    """An event that is published while a gateway reads from Redis for a client is sent to that
    client without waiting for the next heartbeat."""
    spec = importlib.util.spec_from_file_location("event_log", EXAMPLES / TOPIC / "event_log.py")
    event_log = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(event_log)
    entries = [("1-0", {"text": "seen"})]

    class SlowRedis:
        async def xrange(self, *_, **__):
            response = list(entries)
            if len(entries) == 1:  # before the gateway has that response
                entries.append(("2-0", {"text": "next"}))
                cache.add(entries[1:])
            return response

    async def first():
        async for message in cache.after("1-0"):
            return json.loads(message)

    cache = event_log.EventCache(SlowRedis(), report=print)
    assert run_in_thread(first()) == {"id": "2-0", "text": "next"}


# Trimmed


def test_older_events_come_from_redis(gateway, redis):
    """Events that are no longer in a gateway's cache are read from Redis; new ones follow, in
    order."""
    first, *others = publish(gateway, "first", *[f"{number}" for number in range(20)])
    with connect(events_url(gateway, others[-4])) as socket:  # from memory
        assert receive_texts(socket, 3) == ["17", "18", "19"]
    with connect(events_url(gateway, first)) as socket:
        assert receive_texts(socket, 20) == [f"{number}" for number in range(20)]
        publish(gateway, "live")
        assert receive_texts(socket, 1) == ["live"]


def test_an_expired_cursor_is_4410(gateway, redis):
    """A client whose last event has been trimmed from the log is closed with 4410, instead of
    resuming with a gap; the log keeps a little more than its maximum."""
    ids = publish(gateway, *["x"] * 300)
    with Redis(port=redis.port, decode_responses=True) as client:
        kept = client.xlen("events")
        oldest = client.xrange("events", count=1)[0][0]
    assert 100 <= kept <= 200  # whole nodes of a hundred entries
    for after in ids[0], "1-1", "9999999999999-0":
        with connect(events_url(gateway, after)) as socket:
            assert close_code(socket) == 4410
    with connect(events_url(gateway, oldest)) as socket:
        assert len(receive_texts(socket, kept - 1)) == kept - 1


def test_an_invalid_id_is_1008(gateway):
    """A client that sends something other than an id is closed with 1008."""
    too_big = "99999999999999999999-0", "18446744073709551616-0", "9" * 5_000
    for after in "0", "x", "1-1-1", "-", "٣-0", "-1-0", *too_big:
        with connect(events_url(gateway, after)) as socket:
            assert close_code(socket) == 1008


def test_without_an_id_only_new_events_are_sent(gateway):
    """A client that sends no id receives only new events, and a heartbeat with the id after which
    they come."""
    with connect(events_url(gateway)) as other:
        while "heartbeat" not in json.loads(other.recv(TIMEOUT)):
            pass
        (last,) = publish(gateway, "before")
        assert receive_texts(other, 1) == ["before"]  # so the gateway has it
        with connect(events_url(gateway)) as socket:
            assert json.loads(socket.recv(TIMEOUT)) == {"heartbeat": last}
            publish(gateway, "after")
            assert receive_texts(socket, 1) == receive_texts(other, 1) == ["after"]


# Problems with the log


@pytest.mark.parametrize("poison", [{"text": b"\xff"}, {"other": "x"}, {"text": "\x1b"}])
def test_a_poison_entry_is_skipped(gateway, redis, poison):
    """An entry of the log that is not an event, such as bytes that are not UTF-8, is skipped,
    logged and counted; the next event is delivered, and clients resume across the entry."""
    name = 'gateway_problems_total{problem="skipped"}'
    skipped = metric(gateway, name)
    (last,) = publish(gateway, "before")
    with connect(events_url(gateway, last)) as first, Redis(port=redis.port) as log:
        event_id = log.xadd("events", poison).decode()
        publish(gateway, "after")
        assert receive_texts(first, 1) == ["after"]
        with connect(events_url(gateway, last)) as second:
            assert receive_texts(second, 1) == ["after"]
    assert metric(gateway, name) == skipped + 1
    gateway.wait_for(f"skipped: {event_id} is not an event")


def test_a_gateway_stops_if_a_cancellation_is_lost(monkeypatch):
    """A gateway that stops cancels its reader until that has ended, since redis-py may lose a
    cancellation in Python 3.11."""
    monkeypatch.syspath_prepend(EXAMPLES / TOPIC)
    stop_reader = loaded(f"{TOPIC}/gateway.py")["stop_reader"]
    closed = []

    class Redis:
        async def aclose(self):
            closed.append(self)

    async def read():
        for _ in range(2):  # the first cancellation is lost
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10 * TIMEOUT)

    async def stop():
        ctx = SimpleNamespace(reader=asyncio.create_task(read()), redis=Redis())
        await asyncio.sleep(0)  # it runs
        async with asyncio.timeout(TIMEOUT):
            await stop_reader(SimpleNamespace(ctx=ctx))
        assert ctx.reader.done()

    run_in_thread(stop())
    assert len(closed) == 1


def test_health_fails_without_a_reader(start, redis):
    """A gateway whose reader has ended responds to /health with 503."""
    changes = {"self.events.append((event_id, message))": "raise KeyError(event_id)"}
    settings = GATEWAY | {"REDIS": address(redis)}
    gateway = start(f"{TOPIC}/gateway.py", errors_expected=True, changes=changes, **settings)
    wait_until(lambda: WEB.get(f"{gateway.url}/health").status_code == 503)


def test_health_does_not_depend_on_redis(start, port):
    """Without Redis, /health responds with 200, a publisher gets 503 with Retry-After, and a client
    is rejected with 503; each of them is counted."""
    gateway = start(f"{TOPIC}/gateway.py", **(GATEWAY | {"REDIS": f"redis://127.0.0.1:{port()}"}))
    assert WEB.get(f"{gateway.url}/health").status_code == 200
    response = WEB.post(f"{gateway.url}/events", json={"text": "x"})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.json()["message"] == "the log is down"
    with pytest.raises(InvalidStatus, match="503"), connect(events_url(gateway)):
        pass
    assert metric(gateway, 'gateway_problems_total{problem="down"}') >= 1
    assert metric(gateway, 'gateway_problems_total{problem="rejected"}') == 1


@pytest.mark.parametrize(
    ("options", "status", "problem"),
    [
        (["--requirepass", "secret"], 500, "misconfigured"),
        (["--maxmemory", "1", "--maxmemory-policy", "noeviction"], 503, "full"),
    ],
)
def test_a_problem_is_named(start, start_redis, options, status, problem):
    """A wrong password and a Redis that is full are distinguished from an outage, in the response
    and in the log."""
    place = {"REDIS": address(start_redis(*options))}
    gateway = start(f"{TOPIC}/gateway.py", **(GATEWAY | place))
    for key in "", "a key":
        response = WEB.post(
            f"{gateway.url}/events", json={"text": "x"}, headers={"Idempotency-Key": key}
        )
        assert response.status_code == status
        assert response.json()["message"] == f"the log is {problem}"
        assert ("Retry-After" in response.headers) == (status == 503)
    gateway.wait_for(f"WARNING: {problem}: ")


def test_a_cluster_is_distinguished(start, start_redis):
    """In a Redis cluster, a key and its event are on one node. A node without slots, and keys that
    are on two nodes, are a configuration that is wrong, and not an outage."""
    node = start_redis("--cluster-enabled", "yes")
    place = GATEWAY | {"REDIS": address(node)}
    gateway = start(f"{TOPIC}/gateway.py", **place)
    responses = [publish_with_key(gateway)]
    with Redis(port=node.port) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    responses.append(publish_with_key(gateway))
    crossing = {"once:{{{stream}}}:{key}": "once:{key}"}
    responses.append(publish_with_key(start(f"{TOPIC}/gateway.py", changes=crossing, **place)))
    assert [response.status_code for response in responses] == [500, 201, 500]
    for response in responses[::2]:
        assert response.json()["message"] == "the log is misconfigured"


def publish_with_key(gateway):
    headers = {"Idempotency-Key": "a key"}
    return WEB.post(f"{gateway.url}/events", json={"text": "x"}, headers=headers)


def test_what_is_counted(start, redis):
    """A gateway counts its clients, those that resumed, those whose event was trimmed, and those
    that it disconnected because they do not read."""
    settings = GATEWAY | {"CACHED_EVENTS": 5, "REDIS": address(redis), "SEND_TIMEOUT": 0.5}
    gateway = ready(start(f"{TOPIC}/gateway.py", **settings))
    resumed = metric(gateway, "gateway_resumed_total")
    (last,) = publish(gateway, "before")
    with connect(events_url(gateway, last)):
        wait_until(lambda: metric(gateway, "gateway_connections") == 1)
    with connect(events_url(gateway, "1-1")) as expired:
        assert close_code(expired) == 4410
    assert metric(gateway, "gateway_resumed_total") == resumed + 2
    assert metric(gateway, 'gateway_problems_total{problem="expired"}') == 1
    slow = silent(gateway.port, f"/events?after={last}")
    evicted = 'gateway_problems_total{problem="evicted"}'
    while not metric(gateway, evicted):
        publish(gateway, *["x" * 9_900] * 50)
    slow.close()
    wait_until(lambda: metric(gateway, "gateway_connections") == 0)


# Bad input


HOSTILE = [
    *(b"", b"{", b"[]", b'{"text": 1}', b'{"text": ""}', b'{"ack": true}', b'{"text": NaN}'),
    *(b'{"text": 1e400}', b'{"text": "\\ud800"}', b'{"text": "\\u001b"}', b'{"text": "\\u0000"}'),
    *(b"[" * 5_000, b'{"text": "\xff"}', b'{"text": %s}' % (b"9" * 5_000)),
]


@pytest.mark.parametrize("body", HOSTILE)
@pytest.mark.parametrize("path", ["events", "jobs"])
def test_an_invalid_event_is_400(gateway, path, body):
    """A gateway rejects an invalid event, or an invalid job, with 400 and a JSON body."""
    response = WEB.post(f"{gateway.url}/{path}", content=body)
    assert (response.status_code, response.json()["status"]) == (400, 400)


def test_a_long_key_is_400(gateway):
    """A gateway rejects an Idempotency-Key of more than a hundred characters with 400."""
    responses = [
        WEB.post(
            f"{gateway.url}/events", json={"text": "x"}, headers={"Idempotency-Key": "k" * size}
        )
        for size in (100, 101)
    ]
    assert [response.status_code for response in responses] == [201, 400]


def test_limits_of_a_gateway(start, redis):
    """A gateway that has MAX_CONNECTIONS clients rejects further ones with 503 and Retry-After
    until one disconnects, and accepts events meanwhile; with MAX_JOBS jobs in the queue it responds
    with 503."""
    with Redis(port=redis.port) as client:
        queued = client.xlen("jobs")
    limits = {"REDIS": address(redis), "MAX_CONNECTIONS": 1, "MAX_JOBS": queued + 1}
    full = ready(start(f"{TOPIC}/gateway.py", **(GATEWAY | limits)))
    for _ in range(2):
        while WEB.get(f"{full.url}/health").json() != {"connections": 0}:
            pass
        with connect(events_url(full)) as first:
            first.recv(TIMEOUT)
            with pytest.raises(InvalidStatus) as rejected, connect(events_url(full)):
                pass
            response = rejected.value.response
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            publish(full, "accepted")
            assert WEB.get(f"{full.url}/health").json() == {"connections": 1}
    responses = [WEB.post(f"{full.url}/jobs", json={"text": "x"}) for _ in range(2)]
    assert [response.status_code for response in responses] == [202, 503]
    assert responses[1].headers["Retry-After"] == "1"


def test_more_clients_than_descriptors(tmp_path, port, redis, many_files):
    """A gateway that may open 1,024 files accepts some 870 of 1,200 clients, rejects the others
    with 503, accepts events meanwhile, delivers them to each client that it has, and logs no
    traceback."""
    home = copy_isolated(EXAMPLES / TOPIC / "gateway.py", tmp_path / "gateway")
    env = environment(PORT=(number := port()), REDIS=address(redis), **GATEWAY)
    command = f"ulimit -n 1024; exec {sys.executable} gateway.py"
    gateway = Program(["sh", "-c", command], home, env, number).wait_for(*READY)
    with ExitStack() as stack:
        stack.callback(gateway.stop)
        ready(gateway)
        wait_until(lambda: WEB.get(f"{gateway.url}/health").json() == {"connections": 0})
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", number), TIMEOUT))
            for _ in range(800)
        ]
        for client in clients:
            client.sendall(handshake(number, "/events"))
        statuses = [status_of(client) for client in clients]
        for _ in range(400):
            client = socket.create_connection(("127.0.0.1", number), TIMEOUT)
            clients.append(stack.enter_context(client))
            client.sendall(handshake(number, "/events"))
            statuses.append(status_of(client))
        accepted = [
            client for client, status in zip(clients, statuses, strict=True) if status == 101
        ]
        assert set(statuses) == {101, 503}
        assert 850 <= len(accepted) <= 874
        publish(gateway, "to all of them")
        for client in accepted:
            received = b""
            while b"to all of them" not in received:
                received = received[-50:] + client.recv(65536)


def status_of(client):
    """Return the status with which a server responds; read no more than its head."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, head
        head += byte
    return int(head.split()[1])


def test_slow_consumers_have_no_queues(gateway):
    """While ten clients read nothing of three megabytes, the gateway's memory grows by less than a
    third of what a queue for each would take; another client receives all of it."""
    (last,) = publish(gateway, "before")
    before = gateway.status("VmRSS") * 1024
    stuck = [silent(gateway.port, f"/events?after={last}") for _ in range(10)]
    with connect(events_url(gateway, last), max_size=None) as socket:
        for _ in range(30):
            publish(gateway, *["x" * 9_900] * 10)
            receive_texts(socket, 10)
    grown = gateway.status("VmRSS") * 1024 - before
    for each in stuck:
        each.close()
    assert grown < 10 * 300 * 9_900 / 3


# What Redis loses


def test_redis_without_a_file_loses_everything(start, start_redis):
    """A Redis without an append-only file that is killed loses all events; the gateway notices,
    and closes a connected client with 4410."""
    redis = start_redis("--appendonly", "no")
    gateway = ready(start(f"{TOPIC}/gateway.py", **(GATEWAY | {"REDIS": address(redis)})))
    (last,) = publish(gateway, "lost")
    with connect(events_url(gateway, "0-0")) as socket:
        assert receive_texts(socket, 2) == ["ready", "lost"]
        redis.stop(signal.SIGKILL)
        start_redis.stop_at_end(redis.again())
        code = close_code(socket)
    while code == 1013:  # Redis was unavailable then: reconnect
        with connect(events_url(gateway, last)) as socket:
            code = close_code(socket)
    assert code == 4410
    ready(gateway)
    with connect(events_url(gateway, "0-0")) as socket:
        publish(gateway, "new")
        assert receive_texts(socket, 2) == ["ready", "new"]


@pytest.mark.parametrize("policy", ["always", "everysec"])
def test_a_killed_redis_keeps_what_it_wrote(start_redis, policy):
    """A Redis with an append-only file that is killed loses nothing that it has written to the
    file: with `always` all that it has confirmed, with `everysec` all that INFO no longer counts
    in aof_buffer_length. The kernel has it."""
    redis = start_redis("--appendfsync", policy)
    with Redis(port=redis.port) as client:
        for _ in range(20):
            client.xadd("events", {"text": "x"})
        if policy == "everysec":
            wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
        redis.stop(signal.SIGKILL)
    start_redis.stop_at_end(redis.again())
    with Redis(port=redis.port) as client:
        assert client.xlen("events") == 20


def test_a_failover_loses_unreplicated_events(start_redis, port):
    """An event that the primary has confirmed is lost if a replica takes over that did not have it
    yet; WAIT returns how many replicas have it."""
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    with Redis(port=primary.port) as one, Redis(port=replica.port) as two:
        one.xadd("events", {"text": "early"})
        assert one.wait(1, TIMEOUT * 1000) == 1
        two.replicaof("127.0.0.1", port())  # the network between them is cut
        one.xadd("events", {"text": "late"})
        assert one.wait(1, 100) == 0
        primary.stop(signal.SIGKILL)
        two.replicaof("NO", "ONE")
        assert [fields for _, fields in two.xrange("events")] == [{b"text": b"early"}]
