"""Several servers, one log: published at one, delivered by all, resumed at any."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest
from redis import Redis
from websockets.sync.client import connect
from websockets.sync.server import serve

from .support.crowd import WEB, Crowd, client_of, publish_until_accepted, ready
from .support.messages import messages, table
from .support.parts import PATH, require_program
from .support.processes import EXAMPLES, TIMEOUT, Program, argv, copy_isolated, environment
from .support.sequence import in_order, sequence_diagram
from .support.sockets import TEXT, frames

ROOM = "scaling_out"
GATEWAY = {"ROLE": "gateway", "HEARTBEAT": 0.3, "RETRY": 0.1}


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


@pytest.fixture(scope="module")
def follow(tmp_path_factory):
    """Start client.py beside the proof: follow(URL=…) -> Program."""
    folder, running = tmp_path_factory.mktemp("followers"), []

    def follow(**variables):
        example = EXAMPLES / ROOM / "client.py"
        home = copy_isolated(example, folder / f"follower-{len(running)}")
        quick = {"BACKOFF": 0.1, "TRIES": 1000}
        running.append(Program(argv(example), home, environment(**(quick | variables))))
        return running[-1]

    yield follow
    for program in running:
        program.stop(signal.SIGKILL)


# Published at one, delivered by all, resumed at any


@pytest.fixture(scope="module")
def runs(start_shared, assembled_shared, tap_shared, follow):
    """Return {server: (wire at A, wire at B, what client.py printed, ids by text)}: three events
    are published at A, the client sleeps, A is killed, two are published at B, it wakes, one
    more."""
    found = {}
    for name, count in ("server.py", 6), ("wrong_nolog.py", 4):
        redis = f"redis://127.0.0.1:{assembled_shared[1]().port}"
        a, b = (start_shared(f"{ROOM}/{name}", REDIS=redis) for _ in range(2))
        wires = tap_shared(a), tap_shared(b)
        reading(redis, a, b)
        client = follow(URL=" ".join(wire.url for wire in wires), COUNT=count)
        wires[0].wait_until(lambda events: any(b" 101 " in event.data for event in events))
        texts = ["one", "two", "three", "four", "five", "six"]
        ids = publish(a, *texts[:3])
        client.wait_for("three")
        client.send(signal.SIGSTOP)
        a.stop(signal.SIGKILL)
        ids += publish(b, *texts[3:5])
        client.send(signal.SIGCONT)
        wires[1].wait_until(lambda events: any(b" 101 " in event.data for event in events))
        ids += publish(b, "six")
        assert client.wait() == 0
        found[name] = (*wires, client.output, dict(zip(ids, texts, strict=True)))
    return found


def reading(redis, *gateways):
    """Return once gateways have begun to read: they then wait in Redis, or have subscribed."""
    with Redis.from_url(redis) as asking:
        while True:
            waiting = asking.info("clients")["blocked_clients"]
            if waiting + dict(asking.pubsub_numsub("events"))[b"events"] == len(gateways):
                return


def test_resumed_at_another_gateway(runs, record):
    """A client whose gateway is killed while it is away goes on at another one with the id that it
    saw last, gets what was published there meanwhile, and then what happens."""
    at_a, at_b, output, texts = runs["server.py"]
    asked = [[m.target for m in messages(wire.events) if m.target] for wire in (at_a, at_b)]
    three = next(id for id, text in texts.items() if text == "three")
    assert asked == [["/events?after=0-0"], [f"/events?after={three}"]]
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


def test_without_a_log_it_is_lost(runs, record):
    """Where gateways are joined by Redis Pub/Sub and there is no log, the same client in the same
    run loses what was published while it was away: two of six."""
    _, _, output, _ = runs["wrong_nolog.py"]
    assert output.endswith("4 events, 4 different\n")
    assert "four" not in output
    record("scaling_out/wrong_nolog.txt", output)


@pytest.fixture(scope="module")
def redis(assembled_shared):
    """Return a Redis for what follows."""
    return assembled_shared[1]()


@pytest.fixture(scope="module")
def gateways(start_shared, redis):
    """Return two gateways, as cluster.py starts them."""
    place = GATEWAY | {"REDIS": f"redis://127.0.0.1:{redis.port}"}
    return [ready(start_shared(f"{ROOM}/cluster.py", **place)) for _ in range(2)]


def test_published_at_one_delivered_by_all(gateways):
    """What is published at one gateway is delivered by every one, in the same order."""
    (last,) = publish(gateways[0], "before")
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(connect(f"ws://127.0.0.1:{each.port}/events?after={last}"))
            for each in gateways
        ]
        for number in range(10):
            publish(gateways[number % 2], str(number))
        assert [told(socket, 10) for socket in sockets] == [list("0123456789")] * 2


def test_one_reader_for_all(gateways, redis):
    """However many clients a gateway has, it holds the same connections to Redis and reads each
    event once: a hundred clients are told sixty events by fewer commands than a tenth of that."""

    def asked():
        with Redis(port=redis.port) as asking:
            stats = asking.info("commandstats")
            reads = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in READS)
            return reads, asking.info("clients")["connected_clients"]

    (last,) = publish(gateways[0], "before")
    url = gateways[0].url.replace("http", "ws")
    before = asked()
    crowd = Crowd(client_of(ROOM), [[url]] * 100, last, "last")
    publish(gateways[0], "begin")
    crowd.wait_for("begin")
    publish(gateways[0], *["x"] * 58, "last")
    assert [len(texts) for texts in crowd.end()] == [60] * 100
    after = asked()
    assert after[0] - before[0] < 100 * 60 / 10
    assert after[1] <= before[1] + 2


READS = ("xread", "xrange", "xrevrange")


def test_curl_publishes(gateways, run):
    """An event and a job are published by one request each, by curl."""
    result = run(f"{ROOM}/publish.sh", URL=gateways[0].url)
    assert result.returncode == 0
    event, job = map(json.loads, result.stdout.split())
    assert set(event) == {"id"}
    assert job["status"] == "pending"


def test_both_gateways_have_one_log():
    """The gateway of cluster.py reads the log by the very lines of server.py."""
    found = [
        re.search(r"\[start:log\](.*)\[end:log\]", (EXAMPLES / ROOM / name).read_text(), re.DOTALL)
        for name in ("server.py", "cluster.py")
    ]
    assert found[0][1] == found[1][1]


def test_a_frozen_gateway_draws_clients(start_proxy, port, gateways):
    """By least connections nginx sends whoever comes to a frozen gateway, which has the fewest,
    and those who leave it change nothing; a request that stays until `proxy_read_timeout` goes
    on to the other gateway, and the next one goes there right away."""
    with socket.create_server(("127.0.0.1", number := port())) as frozen:
        frozen.settimeout(TIMEOUT)
        proxy = start_proxy(
            f"{ROOM}/nginx.conf",
            {8000: port(), 8001: number, 8002: gateways[0].port},
            **{
                "proxy_read_timeout 20s": "proxy_read_timeout 2s",  # well above the heartbeat
                "8001 max_fails=1 fail_timeout=2s": "8001 max_fails=1 fail_timeout=60s",
            },
        )

        def ask():
            """Return a client that asks, and its connection to the frozen gateway."""
            client = socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT)
            client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            return client, frozen.accept()[0]

        def leave(client, held):
            client.close()
            with held:
                while held.recv(65536):
                    pass  # until nginx has noticed

        first = ask()
        with connect(f"ws://127.0.0.1:{proxy.port}/events") as there:  # at the other one
            there.recv(TIMEOUT)
            leave(*first)
            for _ in range(3):
                leave(*ask())
            client, held = ask()
            with client, held:
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            assert WEB.get(f"{proxy.url}/health").status_code == 200
            frozen.setblocking(False)
            with pytest.raises(BlockingIOError):
                frozen.accept()


# By arithmetic

CONNECTION = 64  # KiB of a gateway's memory that an idle client takes at most
DELIVERIES = 5_000  # that a gateway makes in a second of one core at least
PORTS = 60999 - 32768 + 1  # that Linux has for connections to one address


def test_what_a_client_costs(gateways):
    """An idle client takes less than 64 KiB of a gateway's memory, and a gateway makes more than
    5,000 deliveries in a second of processor time."""
    gateway = gateways[1]
    (last,) = publish(gateway, "before")
    url = gateway.url.replace("http", "ws")
    before = gateway.status("VmRSS") * 1024
    crowd = Crowd(client_of(ROOM), [[url]] * 400, last, "last")
    publish(gateway, "begin")
    crowd.wait_for("begin")
    assert (gateway.status("VmRSS") * 1024 - before) / 400 < CONNECTION * 1024
    worked = cpu(gateway)
    publish(gateway, *[str(number) for number in range(19)], "last")
    crowd.end()
    assert 400 * 20 / (cpu(gateway) - worked) > DELIVERIES


def cpu(server):
    """Return the seconds that a process has worked."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")")[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_millions(record):
    """A million clients, and ten million, by arithmetic from what one costs."""
    rows = {
        "memory of all gateways": lambda n: f"{n * CONNECTION / 2**20:,.0f} GiB",
        "gateway processes, if one has 20,000 clients": lambda n: f"{n / 20_000:,.0f}",
        "cores busy with one event a minute for each client": lambda n: (
            f"{up(n / 60 / DELIVERIES)}"
        ),
        "cores busy with one event a second for all clients": lambda n: up(n / DELIVERIES),
        "gateway addresses that one proxy address needs": lambda n: up(n / PORTS),
        "sockets held by the proxies": lambda n: f"{2 * n:,}",
        "connections to Redis that read": lambda n: f"{n / 20_000:,.0f}",
        "handshakes a second if all come back within 5 seconds": lambda n: f"{n / 5:,.0f}",
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


def up(value):
    return f"{-int(-value // 1):,}"


# The whole cluster by one command


@pytest.fixture
def cluster(tmp_path, port):
    """Start cluster.py as a reader does: cluster(PROXY="nginx") -> Program."""
    running = []

    def cluster(**variables):
        require_program("redis-server")
        require_program(variables.get("PROXY", "haproxy"))
        example, number = EXAMPLES / ROOM / "cluster.py", port()
        home = copy_isolated(example, tmp_path / f"cluster-{number}")
        env = environment(PORT=number, **variables)
        running.append(Program(argv(example), home, env, number))
        return running[-1].wait_for("server listening on")

    yield cluster
    for program in running:
        program.stop(signal.SIGINT)


def parts_of(program):
    """Return {name: process} of what a cluster said it has started, the latest of each."""
    lines = re.findall(r"^(\w+(?: \d)?) +process (\d+)$", program.output, re.MULTILINE)
    return {name: int(number) for name, number in lines}


def test_one_command_starts_a_cluster(cluster, follow):
    """One command starts Redis, gateways, workers and HAProxy; whichever of them is killed is
    started again, a client goes on, a job is done, and Ctrl-C leaves nothing behind."""
    program = cluster(WORK=0)
    parts = parts_of(program)
    assert list(parts) == [
        *("redis", "worker 1", "worker 2", "gateway 1", "gateway 2", "haproxy"),
    ]
    client = follow(URL=program.url)
    client.wait_for("the cluster is up")
    for name, number in parts.items():
        os.kill(number, signal.SIGKILL)
        program.wait_for(f"{name:<10} ended with -9")
        publish_until_accepted([program.url], name, "jobs")
        client.wait_for(f"{name}: done")
    assert program.stop(signal.SIGINT) == 0
    assert not [number for number in parts_of(program).values() if Path(f"/proc/{number}").exists()]


def test_nginx_instead(cluster):
    """With PROXY=nginx it is nginx that stands in front."""
    program = cluster(PROXY="nginx", GATEWAYS=1, WORKERS=0)
    assert list(parts_of(program)) == ["redis", "gateway 1", "nginx"]
    answer = WEB.post(f"{program.url}/events", json={"text": "x"})
    assert (answer.status_code, answer.headers["Server"].split("/")[0]) == (201, "nginx")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PATH": "/nowhere"}, "redis-server is missing: sudo apt-get install redis-server"),
        ({"PROXY": "envoy"}, "envoy is missing: sudo apt-get install envoy"),
        ({"BUSY": "1"}, "is in use: set PORT to another one"),
    ],
)
def test_what_is_missing_is_named(tmp_path, port, variables, words):
    """A program that is missing, or a port that is in use, is said in one line, and it ends with an
    error."""
    example, number = EXAMPLES / ROOM / "cluster.py", port()
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


def test_the_cluster_has_the_configurations_of_the_files():
    """What cluster.py writes for its proxy is what haproxy.cfg and nginx.conf say."""
    program = (EXAMPLES / ROOM / "cluster.py").read_text()
    for kind, file, line in [
        ("haproxy", "haproxy.cfg", "    server gateway{0} 127.0.0.1:{1}\n"),
        ("nginx", "nginx.conf", "        server 127.0.0.1:{1} max_fails=1 fail_timeout=2s;\n"),
    ]:
        written = re.search(rf'"{kind}": """(.*?)"""', program, re.DOTALL)[1]
        servers = "".join(line.format(number, 8000 + number) for number in (1, 2))
        text = (EXAMPLES / ROOM / file).read_text()
        text = "".join(row for row in text.splitlines(True) if not row.startswith("#"))
        assert written.format(port=8000, servers=servers).strip() == text.strip()


# A client that is told nonsense


def test_a_client_that_never_got_through_gives_up_at_once(run, port, canned):
    """A client that was never connected ends with one line that says why."""
    dead = f"http://127.0.0.1:{port()}"
    for url, words in [
        (dead, "no answer from"),
        (f"{dead} {dead}", "no answer from"),
        (canned((500, {}, "oops")).url, "answered 500"),
        (canned((200, {}, "<h1>It works!</h1>")).url, "answered 200, not with a WebSocket"),
        ("nonsense", "no answer from nonsense"),
    ]:
        result = run(f"{ROOM}/client.py", URL=url, BACKOFF=0.1)
        assert result.returncode == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_what_was_seen_is_not_handled_twice(port):
    """An event that comes again, or one from before, is not taken for a new one; ids are compared
    as numbers."""
    ids = ["9-0", "9-0", "10-0", "9-1", "10-0", "10-2"]

    def handler(socket):
        for id in ids:
            socket.send(json.dumps({"id": id, "text": id}))
        for _ in socket:
            pass

    server = serve(handler, "127.0.0.1", number := port())
    thread = Thread(target=server.serve_forever)
    thread.start()
    crowd = Crowd(client_of(ROOM), [[f"ws://127.0.0.1:{number}"]], "0-0", "10-2")
    assert crowd.end() == [["9-0", "10-0", "10-2"]]
    server.shutdown()
    thread.join()


def test_a_client_that_is_refused_stays_away(gateways, run):
    """A client that is told 4410, or 1008, does not come back."""
    for after in "1-1", "x":
        client = client_of(ROOM, TRIES=5)
        crowd = Crowd(client, [[gateways[0].url.replace("http", "ws")]], after, "never")
        assert crowd.end() == [[]]
        assert crowd.said == []
