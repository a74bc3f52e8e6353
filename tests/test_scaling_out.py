"""Several gateways, one log: an event published at one is delivered by all, and a client can
resume at any."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread

import pytest
from redis import Redis
from websockets.sync.server import serve

from .support.crowd import Crowd, client_of
from .support.events import (
    WEB,
    events_url,
    publish,
    publish_until_accepted,
    ready,
    receive_texts,
)
from .support.messages import messages, table
from .support.parts import PATH, require_program
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
from .support.sockets import TEXT, connect, frames

TOPIC = "scaling_out"
GATEWAY = {"HEARTBEAT_INTERVAL": 0.3, "RETRY_INTERVAL": 0.1}


@pytest.fixture(scope="module")
def follow(tmp_path_factory):
    """Start client.py: follow(URL=…) -> Program."""
    folder, running = tmp_path_factory.mktemp("clients"), []

    def follow(**variables):
        example = EXAMPLES / TOPIC / "client.py"
        home = copy_isolated(example, folder / f"client-{len(running)}")
        quick = {"BASE_DELAY": 0.1, "MAX_FAILURES": 1000}
        running.append(Program(argv(example), home, environment(**(quick | variables))))
        return running[-1]

    yield follow
    for program in running:
        program.stop(signal.SIGKILL)


# An event reaches the clients of every gateway


@pytest.fixture(scope="module")
def runs(start_shared, assembled_shared, tap_shared, follow):
    """Return {server: (wire at A, wire at B, output of client.py, texts by id)}: three events are
    published at A, the client is frozen, A is killed, two events are published at B, the client is
    thawed, one more event is published."""
    found = {}
    for name, count in ("server.py", 6), ("wrong_nolog.py", 4):
        redis = f"redis://127.0.0.1:{assembled_shared[1]().port}"
        a, b = (start_shared(f"{TOPIC}/{name}", REDIS=redis) for _ in range(2))
        wires = tap_shared(a), tap_shared(b)
        client = follow(URL=" ".join(wire.url for wire in wires), COUNT=count)
        wait_for_reader(redis)
        texts = ["one", "two", "three", "four", "five", "six"]
        ids = publish(a, *texts[:3])
        client.wait_for("three")
        client.send(signal.SIGSTOP)
        a.stop(signal.SIGKILL)
        ids += publish(b, *texts[3:5])
        client.send(signal.SIGCONT)
        wait_for_reader(redis)
        ids += publish(b, "six")
        assert client.wait() == 0
        found[name] = (*wires, client.output, dict(zip(ids, texts, strict=True)))
    return found


def wait_for_reader(url):
    """Return once a gateway waits for events in Redis: it is blocked there, or has subscribed."""
    with Redis.from_url(url) as redis:
        wait_until(
            lambda: (
                redis.info("clients")["blocked_clients"]
                + dict(redis.pubsub_numsub("events"))[b"events"]
            )
        )


def test_resumes_at_another_gateway(runs, record):
    """A client whose gateway is killed reconnects to another one with the id of the last event that
    it received, receives the events published there in the meantime, and then new ones."""
    at_a, at_b, output, texts = runs["server.py"]
    targets = [[m.target for m in messages(wire.events) if m.target] for wire in (at_a, at_b)]
    three = next(event_id for event_id, text in texts.items() if text == "three")
    assert targets == [["/events?after=0-0"], [f"/events?after={three}"]]
    assert output.endswith("6 events, 6 different\n")
    a, _, b = lanes = ["gateway A", "client", "gateway B"]
    rows = [("up", "after 0-0", "", a)]
    rows += [("down", text, "", a) for text in events_of(at_a)]
    rows += [("cross", "killed", "", a), ("note", "four, five published", "", b)]
    rows += [("up", "after three", "", b)]
    rows += [("down", text, "", b) for text in events_of(at_b)]
    assert len(rows) == 10
    drawn = in_order(rows, lanes)
    record("scaling_out/client.txt", output)
    record("scaling_out/timeline.json", drawn)
    record(
        "scaling_out/timeline.svg",
        sequence_diagram(
            drawn,
            "A client resumes at another gateway",
            "The client requests all events after 0-0 from gateway A and receives one, two and "
            "three. Gateway A is killed. Four and five are published at gateway B. The client "
            "requests the events after three from gateway B, and receives four, five and six.",
        ),
    )


def events_of(wire):
    """Return the texts of the events that a gateway sent."""
    sent = [data for opcode, data in frames(wire.events, "server") if opcode == TEXT]
    return [event["text"] for event in map(json.loads, sent) if "text" in event]


def test_pub_sub_loses_events(runs, record):
    """With Redis Pub/Sub in place of a log, the same client in the same run loses the events that
    were published while it was disconnected: two of six."""
    _, _, output, _ = runs["wrong_nolog.py"]
    assert output.endswith("4 events, 4 different\n")
    assert "four" not in output
    record("scaling_out/wrong_nolog.txt", output)


@pytest.fixture(scope="module")
def redis(assembled_shared):
    """Return a Redis for the tests that follow."""
    return assembled_shared[1]()


@pytest.fixture(scope="module")
def gateways(start_shared, redis):
    """Return two gateways, as cluster.py starts them."""
    place = GATEWAY | {"REDIS": f"redis://127.0.0.1:{redis.port}"}
    return [ready(start_shared(f"{TOPIC}/gateway.py", **place)) for _ in range(2)]


def test_every_gateway_delivers_every_event(gateways):
    """An event published at one gateway is delivered by every gateway, in the same order."""
    (last,) = publish(gateways[0], "before")
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(events_url(gateway, last))) for gateway in gateways]
        for number in range(10):
            publish(gateways[number % 2], str(number))
        assert [receive_texts(socket, 10) for socket in sockets] == [list("0123456789")] * 2


def test_one_reader_per_gateway(gateways, redis):
    """However many clients a gateway has, it holds the same connections to Redis and reads each
    event once: sixty events reach a hundred clients by fewer than 600 read commands."""

    def usage():
        with Redis(port=redis.port) as client:
            stats = client.info("commandstats")
            reads = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in READS)
            return reads, client.info("clients")["connected_clients"]

    (last,) = publish(gateways[0], "before")
    url = gateways[0].url.replace("http", "ws")
    before = usage()
    crowd = Crowd(client_of(TOPIC), [[url]] * 100, last, "last")
    publish(gateways[0], "begin")
    crowd.wait_for("begin")
    publish(gateways[0], *["x"] * 58, "last")
    assert [len(texts) for texts in crowd.end()] == [60] * 100
    after = usage()
    assert after[0] - before[0] < 100 * 60 / 10
    assert after[1] <= before[1] + 2


READS = ("xread", "xrange", "xrevrange")


def test_curl_publishes(gateways, run):
    """curl publishes an event and submits a job by one request each."""
    result = run(f"{TOPIC}/publish.sh", URL=gateways[0].url)
    assert result.returncode == 0
    event, job = map(json.loads, result.stdout.split())
    assert set(event) == {"id"}
    assert job["status"] == "pending"


def test_least_conn_prefers_a_frozen_gateway(start_proxy, port, gateways):
    """With `least_conn` nginx sends new clients to a frozen gateway, which has the fewest, also
    after some have disconnected from it; a request that stays until `proxy_read_timeout` is sent to
    the other gateway, and the next one is sent there at once."""
    with socket.create_server(("127.0.0.1", number := port())) as frozen:
        frozen.settimeout(TIMEOUT)
        proxy = start_proxy(
            f"{TOPIC}/nginx.conf",
            {8000: port(), 8001: number, 8002: gateways[0].port},
            **{
                "proxy_read_timeout 45s": "proxy_read_timeout 2s",  # well above the heartbeat
                "8001 max_fails=1 fail_timeout=2s": "8001 max_fails=1 fail_timeout=60s",
            },
        )

        def send_request():
            """Return a client that sent a request, and its connection to the frozen gateway."""
            client = socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT)
            client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            return client, frozen.accept()[0]

        def leave(client, held):
            client.close()
            with held:
                while held.recv(65536):
                    pass  # until nginx has noticed

        first = send_request()
        with connect(f"ws://127.0.0.1:{proxy.port}/events") as other:  # at the other gateway
            other.recv(TIMEOUT)
            leave(*first)
            for _ in range(3):
                leave(*send_request())
            client, held = send_request()
            with client, held:
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            assert WEB.get(f"{proxy.url}/health").status_code == 200
            frozen.setblocking(False)
            with pytest.raises(BlockingIOError):
                frozen.accept()


# Capacity

CONNECTION = 64  # KiB of a gateway's memory that an idle client takes at most
DELIVERIES = 5_000  # in a second of one core: assumed, and less than the benchmark measures
PORTS = 60999 - 32768 + 1  # that Linux has for connections to one address


def test_cost_per_client(gateways):
    """An idle client takes less than 64 KiB of a gateway's memory."""
    gateway = gateways[1]
    (last,) = publish(gateway, "before")
    url = gateway.url.replace("http", "ws")
    before = gateway.status("VmRSS") * 1024
    crowd = Crowd(client_of(TOPIC), [[url]] * 400, last, "last")
    publish(gateway, "begin")
    crowd.wait_for("begin")
    assert (gateway.status("VmRSS") * 1024 - before) / 400 < CONNECTION * 1024
    publish(gateway, "last")
    crowd.end()


def test_capacity_for_millions(record):
    """The capacity that a million clients, and ten million, need is computed from the memory of one
    and 5,000 deliveries in a second of one core."""
    rows = {
        "memory of all gateways": lambda n: f"{n * CONNECTION / 2**20:,.0f} GiB",
        "gateway processes, if one has 20,000 clients": lambda n: f"{n / 20_000:,.0f}",
        "cores busy with one event a minute for each client": lambda n: (
            f"{rounded_up(n / 60 / DELIVERIES)}"
        ),
        "cores busy with one event a second for all clients": lambda n: rounded_up(n / DELIVERIES),
        "gateway addresses that one proxy address needs": lambda n: rounded_up(n / PORTS),
        "sockets held by the proxies": lambda n: f"{2 * n:,}",
        "connections to Redis that read": lambda n: f"{n / 20_000:,.0f}",
        "handshakes a second if all reconnect within 5 seconds": lambda n: f"{n / 5:,.0f}",
    }
    record(
        "scaling_out/millions.md",
        table(
            [
                {"for": name, "1,000,000 clients": count(10**6), "10,000,000 clients": count(10**7)}
                for name, count in rows.items()
            ]
        ),
    )
    assert PORTS == 28_232
    assert rows["memory of all gateways"](10**6) == "61 GiB"
    assert rows["gateway addresses that one proxy address needs"](10**6) == "36"


def rounded_up(value):
    return f"{-int(-value // 1):,}"


# The whole cluster by one command


@pytest.fixture
def cluster(tmp_path, port):
    """Start cluster.py as a reader does: cluster(PROXY="nginx") -> Program.

    `changes`: {file: {old: new}}, words to replace in the files beside it.
    """
    running = []

    def cluster(changes=None, **variables):
        require_program("redis-server")
        require_program(variables.get("PROXY", "haproxy"))
        example, number = EXAMPLES / TOPIC / "cluster.py", port()
        home = copy_isolated(example, tmp_path / f"cluster-{number}")
        for name, words in (changes or {}).items():
            text = (home / name).read_text()
            for old, new in words.items():
                assert old in text
                text = text.replace(old, new)
            (home / name).write_text(text)
        env = environment(PORT=number, **variables)
        running.append(Program(argv(example), home, env, number))
        return running[-1].wait_for("server listening on")

    yield cluster
    for program in running:
        program.stop(signal.SIGINT)


def parts_of(program):
    """Return {name: process id} of the parts that a cluster has started, the latest of each."""
    lines = re.findall(r"^(\w+(?: \d)?) +process (\d+)$", program.output, re.MULTILINE)
    return {name: int(number) for name, number in lines}


def test_one_command_starts_a_cluster(cluster, follow):
    """One command starts Redis, gateways, workers and HAProxy; a part that is killed is restarted,
    a client resumes, a job is done, and Ctrl-C leaves nothing behind."""
    program = cluster(JOB_SECONDS=0)
    parts = parts_of(program)
    assert list(parts) == [
        *("redis", "worker 1", "worker 2", "gateway 1", "gateway 2", "haproxy"),
    ]
    client = follow(URL=program.url)
    client.wait_for("the cluster is up")
    for name, number in parts.items():
        os.kill(number, signal.SIGKILL)
        program.wait_for(f"{name:<10} ended with -9, restarting")
        publish_until_accepted([program.url], name, "jobs")
        client.wait_for(f"{name}: done")
    assert program.stop(signal.SIGINT) == 0
    assert not [number for number in parts_of(program).values() if Path(f"/proc/{number}").exists()]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_stops_the_cluster(cluster, number):
    """A closed terminal (SIGHUP) and SIGTERM stop all parts, as Ctrl-C does; a second signal
    changes nothing."""
    program = cluster(WORKERS=1)
    program.send(number)
    assert program.stop(number) == 0
    assert not [pid for pid in parts_of(program).values() if Path(f"/proc/{pid}").exists()]


def test_a_part_that_cannot_start_ends_the_cluster(cluster):
    """When a part ends five times as soon as it is started, the cluster stops, and names it."""
    program = cluster(WORKERS=0)
    (proxy,) = [pid for name, pid in parts_of(program).items() if name == "haproxy"]
    with socket.socket() as taken:  # a program that takes the port while the proxy restarts
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        os.kill(proxy, signal.SIGKILL)
        program.wait_for("haproxy    ended with -9")
        wait_until(lambda: is_bound(taken, program.port))
        taken.listen()
        assert program.wait() == 1
    assert "haproxy ends as soon as it is started" in program.output
    assert not [pid for pid in parts_of(program).values() if Path(f"/proc/{pid}").exists()]


def is_bound(socket, port):
    """Bind a socket to a port; return whether it could be."""
    with suppress(OSError):
        socket.bind(("127.0.0.1", port))
        return True
    return False


def test_a_killed_nginx_leaves_no_worker(cluster):
    """When the master of nginx is killed, its workers end as well, and it is restarted."""
    program = cluster(PROXY="nginx", WORKERS=0)
    os.kill(parts_of(program)["nginx"], signal.SIGKILL)
    program.wait_for("nginx      ended with -9, restarting")
    wait_until(lambda: program.output.count("nginx      process") == 2)
    publish_until_accepted([program.url], "again")
    assert program.output.count("nginx      ended") == 1


def test_nginx_as_the_proxy(cluster):
    """With PROXY=nginx the proxy of the cluster is nginx."""
    program = cluster(PROXY="nginx", WORKERS=0)
    assert list(parts_of(program)) == ["redis", "gateway 1", "gateway 2", "nginx"]
    response = WEB.post(f"{program.url}/events", json={"text": "x"})
    assert (response.status_code, response.headers["Server"].split("/")[0]) == (201, "nginx")


def test_a_server_line_adds_a_gateway(cluster):
    """The cluster starts its proxy from haproxy.cfg, and a gateway for each server line in it."""
    line = "    server gateway2 127.0.0.1:8002\n"
    third = "    server gateway3 127.0.0.1:8003\n"
    more = {"haproxy.cfg": {line: line + third}}
    program = cluster(more, WORKERS=0)
    assert list(parts_of(program)) == ["redis", "gateway 1", "gateway 2", "gateway 3", "haproxy"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PATH": "/nowhere"}, "redis-server is missing: sudo apt-get install redis-server"),
        ({"PROXY": "envoy"}, "PROXY is haproxy or nginx, not envoy"),
        ({"BUSY": "1"}, "is in use: set PORT to another one"),
    ],
)
def test_a_missing_program_is_reported(tmp_path, port, variables, words):
    """The cluster reports a program that is missing, or a port that is in use, in one line, and
    exits with 1."""
    example, number = EXAMPLES / TOPIC / "cluster.py", port()
    env = environment(**({"PATH": PATH, "PORT": number} | variables))
    with socket.create_server(("127.0.0.1", number)) as busy:
        if "BUSY" not in variables:
            busy.close()
        ran = subprocess.run(
            [sys.executable, example.name],
            cwd=copy_isolated(example, tmp_path / "alone"),
            env=env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert words in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


# The client


def test_a_client_that_never_connected_exits(run, port, canned):
    """A client that has never connected exits with one line that names the reason."""
    dead = f"http://127.0.0.1:{port()}"
    for url, words in [
        (dead, f"cannot reach {dead}: "),
        (f"{dead} {dead}", f"cannot reach {dead} {dead}: "),
        (canned((500, {}, "oops")).url, " responded with 500"),
        (canned((200, {}, "<h1>It works!</h1>")).url, " responded with 200"),
        ("nonsense", "cannot reach nonsense: "),
    ]:
        result = run(f"{TOPIC}/client.py", URL=url, BASE_DELAY=0.1)
        assert result.returncode == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_duplicates_are_skipped(port):
    """The client skips an event that it has received before; ids are compared as numbers."""
    ids = ["9-0", "9-0", "10-0", "9-1", "10-0", "10-2"]

    def handler(socket):
        for event_id in ids:
            socket.send(json.dumps({"id": event_id, "text": event_id}))
        for _ in socket:
            pass

    server = serve(handler, "127.0.0.1", number := port())
    thread = Thread(target=server.serve_forever)
    thread.start()
    crowd = Crowd(client_of(TOPIC), [[f"ws://127.0.0.1:{number}"]], "0-0", "10-2")
    assert crowd.end() == [["9-0", "10-0", "10-2"]]
    server.shutdown()
    thread.join()


def test_a_refused_client_does_not_reconnect(gateways):
    """A client that is closed with 1008 does not reconnect."""
    client = client_of(TOPIC, MAX_FAILURES=5)
    crowd = Crowd(client, [[gateways[0].url.replace("http", "ws")]], "x", "never")
    assert crowd.end() == [[]]
    assert crowd.output == []


def test_a_client_with_an_expired_cursor_begins_with_the_oldest(serving, run):
    """After 4410 a client prints that events are missing, and resumes with the oldest of the log;
    it prints each event once."""
    queries = []

    def handler(socket):
        queries.append(socket.request.path.partition("?")[2])
        if len(queries) == 2:
            socket.close(4410, "the log has no event 7-0")
            return
        for number in ["7-0"] if len(queries) == 1 else ["14-0", "15-0"]:
            socket.send(json.dumps({"id": number, "text": number}))
        if len(queries) > 2:
            for _ in socket:
                pass

    result = run(f"{TOPIC}/client.py", URL=serving(handler), COUNT=3, BASE_DELAY=0.01)
    assert result.returncode == 0, result.stderr
    assert queries == ["after=0-0", "after=7-0", "after=0-0"]
    assert "events are missing, the log has no event 7-0" in result.stdout
    lines = [line for line in result.stdout.splitlines() if line.endswith("-0")]
    assert lines == ["7-0", "14-0", "15-0"]
