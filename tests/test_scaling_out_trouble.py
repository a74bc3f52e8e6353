"""What goes wrong with several servers on one log: lost, trimmed, sent twice, too slow."""

import difflib
import json
import re
import runpy
import signal

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from .support.crowd import WEB, ready
from .support.processes import EXAMPLES, TIMEOUT, wait_until
from .support.sockets import silent
from .support.threads import run_in_thread

ROOM = "scaling_out"
GATEWAY = {"ROLE": "gateway", "HEARTBEAT": 0.3, "RETRY": 0.1}


def address(redis):
    return f"redis://127.0.0.1:{redis.port}"


def ws(server, after=None):
    return f"ws://127.0.0.1:{server.port}/events" + (f"?after={after}" if after else "")


def publish(server, *texts):
    """Publish events; return their ids."""
    answers = [WEB.post(f"{server.url}/events", json={"text": text}) for text in texts]
    assert [answer.status_code for answer in answers] == [201] * len(texts)
    return [answer.json()["id"] for answer in answers]


def told(socket, count):
    """Return the texts of the next events, without heartbeats."""
    texts = []
    while len(texts) < count:
        event = json.loads(socket.recv(TIMEOUT))
        texts += [event["text"]] if "text" in event else []
    return texts


def closed(socket):
    """Return the code with which a server closes."""
    with pytest.raises(ConnectionClosed):
        while True:
            socket.recv(TIMEOUT)
    return socket.close_code


@pytest.fixture(scope="module")
def redis(assembled_shared):
    """Return a Redis for all that do not harm it."""
    return assembled_shared[1]()


@pytest.fixture(scope="module")
def gateway(start_shared, redis):
    """Return a gateway with a short memory and a short log."""
    settings = GATEWAY | {"MEMORY": 5, "KEEP": 100, "REDIS": address(redis)}
    return ready(start_shared(f"{ROOM}/cluster.py", **settings))


# Wrong


def test_reading_from_the_dollar_loses(start, redis, record):
    """A gateway that reads each time from `$` loses what is added while it is busy with what it
    has: two of three; one that reads from the last id it has loses none."""
    for name in "wrong_tail.py", "server.py":
        busy = start(f"{ROOM}/{name}", REDIS=address(redis))
        other = start(f"{ROOM}/server.py", REDIS=address(redis))
        (before,) = publish(other, "before")
        with connect(ws(busy, before)) as socket:
            until_blocked(redis, 2)
            busy.send(signal.SIGSTOP)  # the event loop is held by something else
            publish(other, "one", "two", "three")
            busy.send(signal.SIGCONT)
            first = told(socket, 1)
            until_blocked(redis, 2)
            publish(other, "four")
            texts = first + told(socket, 1 if name == "wrong_tail.py" else 3)
        right = ["one", "two", "three", "four"]
        assert texts == (["one", "four"] if name == "wrong_tail.py" else right)
        if name == "wrong_tail.py":
            record("scaling_out/wrong_tail.txt", "\n".join(texts) + "\n")
        else:
            record("scaling_out/right_tail.txt", "\n".join(texts) + "\n")
        for each in busy, other:
            each.stop()


def until_blocked(redis, count):
    """Return once so many gateways wait in XREAD."""
    with Redis(port=redis.port) as asking:
        while asking.info("clients")["blocked_clients"] < count:
            pass


def difference(right, wrong):
    """Return how a wrong program differs from the right one, below their heads."""
    texts = []
    for name in right, wrong:
        text = (EXAMPLES / ROOM / name).read_text().split('"""\n\n', 1)[1]
        texts.append(re.sub(r"(?m)^ *# --8<-- .*\n", "", text).splitlines())
    lines = list(difflib.unified_diff(*texts, right, wrong, n=1, lineterm=""))
    return "\n".join(re.sub("^@@.*", "@@", line) for line in lines) + "\n"


def test_the_wrong_gateway_differs_in_one_method():
    """The wrong gateway is the right one, but for how it reads, and its name."""
    removed = re.findall("(?m)^-(?!--)(.*)", difference("server.py", "wrong_tail.py"))
    added = re.findall(r"(?m)^\+(?!\+\+)(.*)", difference("server.py", "wrong_tail.py"))
    assert len(removed) <= 12
    assert len(added) <= 10


def test_the_library_sends_again(redis, tap, port):
    """When the answer to an XADD is lost, redis-py sends it again by itself, and the event is
    there twice; without retries it says that it does not know."""

    async def add(stream, wire, **options):
        async with AsyncRedis(port=wire.port, **options) as client:
            await client.xadd(stream, {"text": "once"})

    def lossy():
        lost = []

        def lose(event):
            if event.source == "client" and b"XADD" in event.data:
                lost.append(event.connection)
            # Of the first connection, the answer that comes after that.
            return not (event.source == "server" and lost == [event.connection])

        return tap(redis, on_data=lose)

    run_in_thread(add("by itself", lossy()))
    with pytest.raises(ConnectionError):
        run_in_thread(add("as here", lossy(), retry=Retry(NoBackoff(), 0)))
    with Redis(port=redis.port) as asking:
        assert [asking.xlen(name) for name in ("by itself", "as here")] == [2, 1]


def test_a_gateway_sends_nothing_twice(start, redis, tap):
    """A gateway whose Redis does not answer says 503, and has sent the event once."""
    asked = set()

    def lose(event):
        if event.source == "client" and b"doubtful" in event.data:
            asked.add(event.connection)
        return not (event.source == "server" and event.connection in asked)

    settings = GATEWAY | {"REDIS": address(tap(redis, on_data=lose))}
    gateway = start(f"{ROOM}/cluster.py", **settings)
    answer = WEB.post(f"{gateway.url}/events", json={"text": "doubtful"}, timeout=TIMEOUT)
    assert answer.status_code == 503
    with Redis(port=redis.port, decode_responses=True) as asking:
        texts = [fields["text"] for _, fields in asking.xrevrange("events", count=20)]
    assert texts.count("doubtful") == 1


def test_the_same_key_is_there_once(gateway):
    """An event or a job that is sent again under the same key is there once, and has the same id;
    under another key it is there again."""
    for what in "events", "jobs":
        ids = []
        for key in "a", "a", "b":
            answer = WEB.post(
                f"{gateway.url}/{what}", json={"text": "x"}, headers={"Idempotency-Key": key}
            )
            ids.append(answer.text)
        assert ids[0] == ids[1] != ids[2]


def test_what_comes_while_redis_is_asked_is_not_waited_for():
    """An event that comes while a gateway asks Redis what a client lacks is sent to that client
    at once, and not after the next heartbeat."""
    gateway = runpy.run_path(str(EXAMPLES / ROOM / "server.py"))
    kept = [("1-0", {"text": "seen"})]

    class Slow:
        async def xrange(self, *_, **__):
            answer = list(kept)
            if len(kept) == 1:  # before that answer is back
                kept.append(("2-0", {"text": "next"}))
                tail.add(kept[1:])
            return answer

    async def first():
        async for message in tail.after("1-0"):
            return json.loads(message)

    tail = gateway["Tail"](Slow())
    assert run_in_thread(first()) == {"id": "2-0", "text": "next"}


# Trimmed


def test_memory_and_log(gateway, redis):
    """What is not in a gateway's memory any more comes from Redis, and then what happens, in
    order."""
    first, *others = publish(gateway, "first", *[f"{number}" for number in range(20)])
    with connect(ws(gateway, others[-4])) as socket:  # from memory
        assert told(socket, 3) == ["17", "18", "19"]
    with connect(ws(gateway, first)) as socket:
        assert told(socket, 20) == [f"{number}" for number in range(20)]
        publish(gateway, "live")
        assert told(socket, 1) == ["live"]


def test_what_was_trimmed_is_refused(gateway, redis):
    """A client whose last event has been trimmed from the log is told so, with 4410, and not sent
    on as if nothing were missing; the log is cut a little later than it says."""
    ids = publish(gateway, *["x"] * 300)
    with Redis(port=redis.port, decode_responses=True) as asking:
        kept = asking.xlen("events")
        oldest = asking.xrange("events", count=1)[0][0]
    assert 100 <= kept <= 200  # whole nodes of a hundred entries
    for after in ids[0], "1-1", "9999999999999-0":
        with connect(ws(gateway, after)) as socket:
            assert closed(socket) == 4410
    with connect(ws(gateway, oldest)) as socket:
        assert len(told(socket, kept - 1)) == kept - 1


def test_what_is_no_id_is_refused(gateway):
    """A client that names what is no id is closed with 1008."""
    for after in "0", "x", "1-1-1", "-", "9" * 30 + "-0":
        with connect(ws(gateway, after)) as socket:
            assert closed(socket) == 1008


def test_a_client_that_names_no_event_gets_the_next_one(gateway):
    """A client that names no id gets only what is still to come, and a heartbeat that says from
    where."""
    with connect(ws(gateway)) as other:
        while "heartbeat" not in json.loads(other.recv(TIMEOUT)):
            pass
        (last,) = publish(gateway, "before")
        assert told(other, 1) == ["before"]  # so the gateway has it
        with connect(ws(gateway)) as socket:
            assert json.loads(socket.recv(TIMEOUT)) == {"heartbeat": last}
            publish(gateway, "after")
            assert told(socket, 1) == told(other, 1) == ["after"]


# Bad input


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"text": 1}', b'{"text": ""}'])
@pytest.mark.parametrize("what", ["events", "jobs"])
def test_what_is_no_event_is_refused(gateway, what, body):
    """What is no event, and no job, is answered 400, in JSON."""
    answer = WEB.post(f"{gateway.url}/{what}", content=body)
    assert (answer.status_code, answer.json()["status"]) == (400, 400)


def test_a_key_has_its_bound(gateway):
    """A key of more than a hundred characters is answered 400."""
    answers = [
        WEB.post(
            f"{gateway.url}/events", json={"text": "x"}, headers={"Idempotency-Key": "k" * size}
        )
        for size in (100, 101)
    ]
    assert [answer.status_code for answer in answers] == [201, 400]


def test_limits_of_a_gateway(start, redis):
    """A gateway with enough clients closes with 1013, until one leaves; when enough jobs wait it
    answers 503."""
    with Redis(port=redis.port) as asking:
        waiting = asking.xlen("jobs")
    limits = {"REDIS": address(redis), "MAX_CLIENTS": 1, "MAX_JOBS": waiting + 1}
    full = ready(start(f"{ROOM}/cluster.py", **(GATEWAY | limits)))
    for _ in range(2):
        while WEB.get(f"{full.url}/health").json() != {"clients": 0}:
            pass
        with connect(ws(full)) as first:
            first.recv(TIMEOUT)
            with connect(ws(full)) as second:
                assert closed(second) == 1013
            assert WEB.get(f"{full.url}/health").json() == {"clients": 1}
    answers = [WEB.post(f"{full.url}/jobs", json={"text": "x"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 503]
    assert answers[1].headers["Retry-After"] == "1"


def test_slow_clients_cost_a_position(gateway):
    """While ten clients read nothing of three megabytes, the gateway's memory grows by less than
    a third of what a queue for each would take; another client gets all of it."""
    (last,) = publish(gateway, "before")
    before = gateway.status("VmRSS") * 1024
    hung = [silent(gateway.port, f"/events?after={last}") for _ in range(10)]
    with connect(ws(gateway, last), max_size=None) as socket:
        for _ in range(30):
            publish(gateway, *["x" * 9_900] * 10)
            told(socket, 10)
    grown = gateway.status("VmRSS") * 1024 - before
    for each in hung:
        each.close()
    assert grown < 10 * 300 * 9_900 / 3


# What Redis loses


def test_a_redis_without_a_file_loses_all(start, start_redis):
    """A Redis without an append-only file that is killed has lost everything; the gateway notices,
    and tells a client that was there, with 4410, that its events are gone."""
    redis = start_redis("--appendonly", "no")
    gateway = ready(start(f"{ROOM}/cluster.py", **(GATEWAY | {"REDIS": address(redis)})))
    (last,) = publish(gateway, "lost")
    with connect(ws(gateway, "0-0")) as socket:
        assert told(socket, 2) == ["ready", "lost"]
        redis.stop(signal.SIGKILL)
        start_redis.stop_at_end(redis.again())
        code = closed(socket)
    while code == 1013:  # it was away just then: come back
        with connect(ws(gateway, last)) as socket:
            code = closed(socket)
    assert code == 4410
    ready(gateway)
    with connect(ws(gateway, "0-0")) as socket:
        publish(gateway, "new")
        assert told(socket, 2) == ["ready", "new"]


@pytest.mark.parametrize("policy", ["always", "everysec"])
def test_a_kill_loses_nothing(start_redis, policy):
    """A Redis with an append-only file that is killed has lost nothing that it has written to the
    file: with `always` what it has answered, and with `everysec` what INFO does not count in
    aof_buffer_length any more. The kernel has it."""
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


def test_a_failover_loses_what_the_replica_has_not(start_redis, port):
    """What the primary has answered is lost if a replica takes over that did not have it yet; WAIT
    says how many have it."""
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
