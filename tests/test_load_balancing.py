"""Load balancers: placement of long-lived connections, draining, limits and TLS."""

import asyncio
import csv
import http.client
import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.server import serve

from .support.crowd import client_of
from .support.events import metric
from .support.figures import standings
from .support.messages import table
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    loaded,
    wait_until,
)
from .support.sockets import connect, socket_at
from .support.threads import run_in_thread

TOPIC = "load_balancing"
INSTANCES = dict(a=8001, b=8002, c=8003)
# Health checks ten times as often as in the file, so that no test waits for them.
OFTEN = {"inter 1s": "inter 100ms"}
# A stopping instance waits for three of those, and some more.
SOON = {"DRAIN_DELAY": 0.4, "CLOSE_SPREAD": 0.2}


class Balanced:
    """Instances of the server behind HAProxy, whose statistics page is read."""

    def __init__(self, start, start_proxy, port, name="haproxy.cfg", behind=None, **changes):
        """Start the balancer in front of instances to come, or of those of another one."""
        self._start, self.instances = start, dict(behind.instances if behind else {})
        self.ports = behind.ports if behind else {n: port() for n in INSTANCES.values()}
        self.ports = self.ports | {8000: port()}
        self.ports.pop(8404, None)
        if name == "haproxy.cfg":
            self.ports[8404] = port()
        self.proxy = start_proxy(f"{TOPIC}/{name}", self.ports, **(OFTEN | changes))
        self.url, self.sockets = self.proxy.url, None

    def start(self, *names, **options):
        """Start instances, and return when the balancer has seen them."""
        for name in names:
            number = self.ports[INSTANCES[name]]
            given = {"NAME": name, "PORT": number} | SOON | options
            self.instances[name] = self._start(f"{TOPIC}/server_hardened.py", **given)
        wait_until(lambda: all(self.state[name] == "UP" for name in names))

    def replace(self, name, signalled=False):
        """Stop an instance, and start another in its place when the load balancer has noticed and
        all of `sockets` are open again elsewhere. `signalled`: the instance is stopping already."""
        if not signalled:
            self.instances[name].send(signal.SIGTERM)
        assert self.instances[name].wait() == 0
        wait_until(lambda: self.state[name] == "DOWN")
        wait_until(lambda: self.sockets in {None, sum(self.counts)})
        self.start(name)

    def _statistics(self, names=INSTANCES):
        text = httpx2.get(f"http://127.0.0.1:{self.ports[8404]}/;csv").text
        rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
        return [row for row in rows if row["pxname"] == "instances" and row["svname"] in names]

    @property
    def state(self):
        """Which instances are UP or DOWN."""
        return {row["svname"]: row["status"] for row in self._statistics()}

    @property
    def waiting(self):
        """How many wait in the queue for all instances."""
        rows = self._statistics(["BACKEND"])
        return int(rows[0]["qcur"])

    @property
    def counts(self):
        """How many connections each instance has."""
        return [int(row["scur"]) for row in self._statistics()]


@pytest.fixture(scope="module")
def hold(tmp_path_factory):
    """Start a client that holds sockets: hold(url, COUNT=…) -> Program."""
    with ExitStack() as running:

        def hold(url, **options):
            example = EXAMPLES / TOPIC / "client_hardened.py"
            home = copy_isolated(example, tmp_path_factory.mktemp("holder") / "alone")
            options = environment(URL=url, BASE_DELAY=0.1, **options)
            client = Program(argv(example), home, options)
            running.callback(client.stop, signal.SIGKILL)
            return client

        yield hold


# What happens to sockets that stay


@pytest.fixture(scope="module")
def story(start_shared, assembled_shared, port, hold):
    """Return {step: the connections of each instance} for 36 WebSockets, and what was seen
    while all instances were replaced in turn."""
    balanced = Balanced(start_shared, assembled_shared[0], port)
    steps = {}
    balanced.start("a", "b")
    wait_until(lambda: balanced.state["c"] == "DOWN")
    clients = [hold(balanced.url, COUNT=30)]
    wait_until(lambda: sum(balanced.counts) == 30)
    clients[0].wait_for("a ")
    steps["30 clients, two instances"] = balanced.counts
    balanced.start("c")
    steps["a third instance starts"] = balanced.counts
    clients.append(hold(balanced.url, COUNT=6).wait_for("c 6"))
    steps["six more clients connect"] = balanced.counts
    goodbyes, balanced.sockets = {}, 36
    for name in INSTANCES:
        goodbyes[name] = goodbye(balanced.instances[name])
        balanced.replace(name, signalled=True)
        steps[f"{name} was replaced"] = balanced.counts
    for client in clients:
        client.stop(signal.SIGKILL)
    return steps, goodbyes, clients[0].output, balanced


def goodbye(instance):
    """Stop an instance; return what becomes of a WebSocket, of a held request and of a stream."""
    job = httpx2.post(f"{instance.url}/jobs", json={"seconds": 60}).headers["Location"]
    held, stream = (http.client.HTTPConnection("127.0.0.1", instance.port) for _ in range(2))
    held.request("GET", job, headers={"Prefer": "wait=25"})
    stream.request("GET", "/events")
    streamed = stream.getresponse()
    with socket_at(instance.url) as socket:
        socket.recv()
        instance.send(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv()
        response = held.getresponse()
        polled = response.status, json.loads(response.read())["status"]
        ended = streamed.read().decode()
        held.close()
        stream.close()
        return socket.close_code, polled, ended


def test_a_new_instance_stays_empty(story):
    """Two instances hold 15 connections each; a third one starts, and none of the connections moves
    there."""
    steps, *_ = story
    assert steps["30 clients, two instances"] == [15, 15, 0]
    assert steps["a third instance starts"] == [15, 15, 0]


def test_least_connections_prefers_the_emptiest_instance(story):
    """With least connections, new clients are sent to the emptiest instance: all six."""
    steps, *_ = story
    assert steps["six more clients connect"] == [15, 15, 6]


class Polling(threading.Thread):
    """Submits a job and polls it, again and again; counts the statuses, and requests without one.

    A poll is held for `wait` seconds, unless the instance that holds it stops.
    """

    def __init__(self, url, wait):
        super().__init__()
        self.url, self.wait, self.over = url, wait, threading.Event()
        self.statuses, self.names = Counter(), set()

    def run(self):
        with httpx2.Client(base_url=self.url, timeout=TIMEOUT) as client:
            while not self.over.wait(0.01):
                try:
                    submitted = client.post("/jobs", json={"seconds": 60})
                    self.statuses[submitted.status_code] += 1
                    self.names.add(submitted.json()["name"])
                    prefer = {"Prefer": f"wait={self.wait}"}
                    response = client.get(submitted.headers["Location"], headers=prefer)
                    self.statuses[response.status_code] += 1
                except (httpx2.HTTPError, KeyError, ValueError) as error:
                    self.statuses[repr(error)] += 1

    def stop(self):
        self.over.set()
        self.join()


@pytest.fixture(scope="module")
def aged(start_shared, assembled_shared, port, hold):
    """Return what a client prints while its connections reach a maximum age, and two pollers."""
    balanced = Balanced(start_shared, assembled_shared[0], port)
    balanced.start("a", "b", MAX_AGE=3)
    wait_until(lambda: balanced.state["c"] == "DOWN")
    client = hold(balanced.url, COUNT=36)
    client.wait_for("a 18, b 18")
    balanced.start("c", MAX_AGE=3)
    client.wait_for("a 12, b 12, c 12")
    client.stop(signal.SIGKILL)
    polling = [Polling(balanced.url, wait) for wait in (0, 1)]
    for each in polling:
        each.start()
    for name in INSTANCES:
        balanced.replace(name)
    for each in polling:  # however slow the machine, each has met all instances, and held
        wait_until(lambda each=each: each.names == set(INSTANCES) and each.statuses[200])
        each.stop()
    return client.output.splitlines(), polling


def test_a_maximum_age_rebalances(story, aged, record):
    """With a maximum age, 36 connections on two instances become twelve on each of three, without
    an operator."""
    printed, _ = aged
    first, last = "a 18, b 18", "a 12, b 12, c 12"
    assert printed.index(first) < printed.index(last)
    # What it is in between is another each time.
    record("load_balancing/client.txt", f"{first}\n…\n{last}\n")
    steps, *_ = story
    rows = [(f"{what}", numbers) for what, numbers in list(steps.items())[:3]]
    rows[0][1][2] = None
    rows.append(("all have reached the maximum age", [12, 12, 12]))
    record(
        "load_balancing/third.svg",
        standings(
            rows,
            INSTANCES,
            "Connections on each instance",
            "Thirty clients on two instances: 15 and 15. A third instance starts: 15, 15 and "
            "none. Six more clients connect: 15, 15 and 6. When all connections have reached "
            "their maximum age: 12, 12 and 12.",
        ),
    )


def closings(url, count, before=lambda: None):
    """Open so many sockets; return (the close code, when it came) of each."""
    found, here = [], threading.Barrier(count + 1)

    def hold():
        with socket_at(url) as socket:
            socket.recv()
            here.wait(TIMEOUT)
            with pytest.raises(ConnectionClosed):
                socket.recv()
            found.append((socket.close_code, time.monotonic()))

    holding = [threading.Thread(target=hold) for _ in range(count)]
    for each in holding:
        each.start()
    here.wait(TIMEOUT)
    before()
    for each in holding:
        each.join()
    return found


def spread(found):
    times = sorted(at for _, at in found)
    return times[-1] - times[0]


def test_connections_opened_together_close_at_different_times(start):
    """Connections opened together are closed with 1001 at different ages, from 80 to 100 % of the
    maximum; those of a stopping instance are closed with 1012, spread over its time for that."""
    instance = start(f"{TOPIC}/server_hardened.py", MAX_AGE=3, DRAIN_DELAY=0, CLOSE_SPREAD=1)
    aged = closings(instance.url, 20)
    assert {code for code, _ in aged} == {1001}
    assert spread(aged) > 0.2  # of 0.6
    stopped = closings(instance.url, 20, before=lambda: instance.send(signal.SIGTERM))
    assert {code for code, _ in stopped} == {1012}
    assert spread(stopped) > 0.5  # of 1
    assert instance.wait() == 0


def test_a_rolling_deploy_leaves_the_last_instance_empty(story, record):
    """After all three instances were replaced in turn, with least connections, the first two hold
    18 connections each and the last one none."""
    steps, *_ = story
    rows = [(what, numbers) for what, numbers in steps.items() if "replaced" in what]
    assert [numbers for _, numbers in rows] == [[0, 18, 18], [18, 0, 18], [18, 18, 0]]
    record(
        "load_balancing/deploy.svg",
        standings(
            rows,
            INSTANCES,
            "Connections on each instance, in a rolling deploy",
            "Instance a was replaced: it has none, b and c 18 each. Then b: it has none, a and c "
            "18. Then c: it has none, a and b 18.",
        ),
    )


def test_a_deploy_loses_no_response(aged):
    """While all three instances are replaced in turn, a client that polls without a pause and one
    whose requests are held get a response to each request: a status, or `404` from an instance that
    does not know the job."""
    _, polling = aged
    for each in polling:
        assert set(each.statuses) <= {200, 202, 404}
        assert each.statuses[202] and each.statuses[200]


def test_a_stopping_instance_closes_with_1012(story):
    """A stopping instance closes its WebSockets with 1012, and the clients reconnect to another
    one."""
    _, goodbyes, printed, _ = story
    assert {code for code, _, _ in goodbyes.values()} == {1012}
    assert printed.splitlines()[0] == "a 15, b 15"
    assert printed.splitlines()[-1] == "a 18, b 12"


def test_a_stopping_instance_responds_to_held_requests(story):
    """A stopping instance responds to its held requests with `pending`, and ends its streams with
    their last chunk."""
    _, goodbyes, _, _ = story
    for name, (_, polled, ended) in goodbyes.items():
        assert polled == (200, "pending")
        assert ended == f"data: {name}\n\n"


# The quick start


def test_the_quick_start_counts_connections(start, run, record):
    """The client opens its connections and prints how many each instance has; an instance that
    stops closes them with 1012."""
    server = start(f"{TOPIC}/server.py", NAME="b")
    result = run(f"{TOPIC}/client.py", URL=server.url, SECONDS=0)
    assert (result.returncode, result.stdout) == (0, "instance b: 9 connections\n")
    with socket_at(server.url) as ws:
        assert ws.recv() == "b"
        assert server.stop() == 0
        with pytest.raises(ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1012


def test_the_quick_start_behind_a_load_balancer(start, start_proxy, port, run, record):
    """Behind HAProxy, the nine connections of the client are spread over three instances."""
    ports = {number: port() for number in (8000, 8404, *INSTANCES.values())}
    for name, number in INSTANCES.items():
        start(f"{TOPIC}/server.py", NAME=name, PORT=ports[number])
    proxy = start_proxy(f"{TOPIC}/haproxy.cfg", ports, **OFTEN)
    wait_until(lambda: httpx2.get(f"{proxy.url}/health").status_code == 200)
    result = run(f"{TOPIC}/client.py", URL=proxy.url, SECONDS=0)
    assert result.stdout == "".join(f"instance {name}: 3 connections\n" for name in INSTANCES)
    record("load_balancing/quick_start.txt", result.stdout)


# The client


def test_the_client_reports_that_it_cannot_connect(run, canned, port):
    """A client whose first attempt fails prints one line, and exits with an error."""
    for url in f"http://127.0.0.1:{port()}", "nonsense", canned((500, {}, "oops")).url:
        ended = run(f"{TOPIC}/client_hardened.py", URL=url)
        assert ended.returncode == 1
        assert len(ended.stderr.splitlines()) == 1
        assert f"cannot reach {url}" in ended.stderr


def test_the_client_holds_connections_for_seconds(run, three):
    """The client holds its connections for `SECONDS`, prints where they are, and ends."""
    ended = run(f"{TOPIC}/client_hardened.py", URL=three.instances["a"].url, COUNT=3, SECONDS=2)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "a 3\n", "")


@pytest.fixture
def dismissing(port):
    """Start a server whose WebSockets send "a" and close: dismissing(200, 503, …) -> its address
    and the statuses of its handshakes, in this order, the last one repeated."""
    with ExitStack() as running:

        def dismissing(*statuses):
            given = []

            def respond(connection, _):
                given.append(statuses[min(len(given), len(statuses) - 1)])
                return connection.respond(503, "full") if given[-1] == 503 else None

            server = serve(lambda ws: ws.send("a"), "127.0.0.1", port(), process_request=respond)
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            running.callback(serving.join)
            running.callback(server.shutdown)
            host, number = server.socket.getsockname()
            return f"http://{host}:{number}", given

        yield dismissing


def test_the_client_waits_before_it_reconnects(run, dismissing):
    """A client whose connections were closed waits before it reconnects."""
    url, given = dismissing(200)
    ended = run(f"{TOPIC}/client_hardened.py", URL=url, COUNT=3, SECONDS=2, BASE_DELAY=10**6)
    assert ended.returncode == 0
    assert given == [200] * 3


def test_the_backoff_doubles_and_resets(dismissing):
    """The bound of the backoff doubles with each failure, up to twelve times, and is reset by a
    connection that opened; a closed connection is counted for no instance."""
    url, _ = dismissing(200, 200, *[503] * 5, 200)
    waits = []

    def uniform(_, bound):
        if len(waits) == len(bounds):
            raise EOFError
        waits.append((bound, dict(held.instances)))
        return 0

    bounds = [1, 1, 2, 4, 8, 12, 12, 1]
    client = client_of(
        TOPIC, "client_hardened.py", URL=url, BASE_DELAY=1, random=SimpleNamespace(uniform=uniform)
    )
    held = client.Connections(1)
    with pytest.raises(EOFError):
        run_in_thread(held.hold(0))
    assert waits == [(bound, {}) for bound in bounds]


# A limit, and what is counted


def test_a_socket_that_arrives_while_draining_is_closed_with_1012(start):
    """A WebSocket that is opened while an instance drains is closed with 1012, as the others are,
    so that its client connects to another instance."""
    instance = start(f"{TOPIC}/server_hardened.py", DRAIN_DELAY=0, CLOSE_SPREAD=5)
    url = instance.url.replace("http", "ws") + "/socket"
    with ExitStack() as stack:
        for _ in range(20):  # the last of them is closed after some seconds
            stack.enter_context(connect(url)).recv(TIMEOUT)
        instance.send(signal.SIGTERM)
        wait_until(lambda: httpx2.get(f"{instance.url}/health").status_code == 503)
        with connect(url) as late, pytest.raises(ConnectionClosed) as closed:
            late.recv(TIMEOUT)
        assert closed.value.rcvd.code == 1012


def test_a_full_instance_rejects_clients(start):
    """An instance that holds MAX_CONNECTIONS clients rejects another WebSocket, stream or held poll
    with 503 and Retry-After, and counts each; health checks and short requests get through; when a
    client disconnects there is room again."""
    instance = start(f"{TOPIC}/server_hardened.py", MAX_CONNECTIONS=2, DRAIN_DELAY=0)
    job = httpx2.post(f"{instance.url}/jobs", json={"seconds": 60}).headers["Location"]
    held = {"Prefer": "wait=20"}
    with httpx2.stream("GET", f"{instance.url}/events") as stream:
        assert stream.status_code == 200
        with connect(instance.url.replace("http", "ws") + "/socket") as socket:
            assert socket.recv(TIMEOUT) == "a"
            wait_until(lambda: metric(instance, "instance_connections") == 2)
            with pytest.raises(InvalidStatus) as rejected:
                connect(instance.url.replace("http", "ws") + "/socket")
            responses = [
                rejected.value.response,
                httpx2.get(f"{instance.url}/events"),
                httpx2.get(f"{instance.url}{job}", headers=held),
            ]
            for response in responses:
                assert response.status_code == 503
                assert 5 <= int(response.headers["Retry-After"]) <= 15
            assert httpx2.get(f"{instance.url}/health").status_code == 200
            assert httpx2.get(f"{instance.url}{job}").json()["status"] == "pending"
            assert httpx2.post(f"{instance.url}/jobs", json={"seconds": 0}).status_code == 202
            assert metric(instance, 'instance_problems_total{problem="rejected"}') == 3
            wait_until(lambda: instance.output.count("WARNING: rejected: a client, full") == 3)
    wait_until(lambda: metric(instance, "instance_connections") == 0)
    with connect(instance.url.replace("http", "ws") + "/socket") as socket:
        assert socket.recv(TIMEOUT) == "a"


# The jobs


def test_a_request_is_held_for_max_wait_at_most(start):
    """An instance holds a request for `MAX_WAIT` at most, whatever the client prefers, and no
    longer than the job takes."""
    instance = start(f"{TOPIC}/server_hardened.py", MAX_WAIT=0.5, DRAIN_DELAY=0)
    for seconds, status in (60, "pending"), (0.1, "done"):
        job = httpx2.post(f"{instance.url}/jobs", json={"seconds": seconds}).headers["Location"]
        wait = {"Prefer": "wait=60"}
        response = httpx2.get(f"{instance.url}{job}", headers=wait, timeout=TIMEOUT)
        assert (response.status_code, response.json()["status"]) == (200, status)


def test_jobs_are_bounded(start):
    """With MAX_JOBS jobs, an instance rejects another with 503 and Retry-After, until it has
    forgotten one, RESULT_TTL seconds after its end."""
    instance = start(f"{TOPIC}/server_hardened.py", MAX_JOBS=1, RESULT_TTL=0.3, DRAIN_DELAY=0)
    for _ in range(2):
        first = httpx2.post(f"{instance.url}/jobs", json={"seconds": 1})
        assert first.status_code == 202
        rejected = httpx2.post(f"{instance.url}/jobs", json={"seconds": 0})
        assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "5")
        job = instance.url + first.headers["Location"]
        wait_until(lambda job=job: httpx2.get(job).status_code == 404)


def test_a_hold_leaves_no_task():
    """After a hold, the instance has no task more than before."""
    instance = loaded(f"{TOPIC}/server_hardened.py")

    async def held():
        await instance["hold"](0.01)
        await asyncio.sleep(0)  # for what was cancelled to end
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert run_in_thread(held()) == set()


# Placement


@pytest.fixture(scope="module")
def three(story):
    """Return the three instances that are there at the end of the story."""
    return story[-1]


def opened(url, count, stack, **options):
    """Open so many WebSockets, one after the other; return {instance: its WebSockets}."""
    where = {name: [] for name in INSTANCES}
    for _ in range(count):
        socket = stack.enter_context(socket_at(url, **options))
        where[socket.recv()].append(socket)
    return where


def test_round_robin_and_least_connections(start, start_proxy, port, three, record):
    """Nine connections on three instances; those on c end, and six more open: round robin gives
    each instance two of them, least connections, HAProxy's and nginx's, gives c what it lacks."""
    found = {}
    for balance, name in (
        ("HAProxy, `roundrobin`", "haproxy_round_robin.cfg"),
        ("HAProxy, `leastconn`", "haproxy.cfg"),
        ("nginx, `least_conn`", "nginx.conf"),
    ):
        if name == "nginx.conf":
            ports = {8000: port()} | {number: three.ports[number] for number in INSTANCES.values()}
            balanced = start_proxy(f"{TOPIC}/{name}", ports)
        else:
            balanced = Balanced(start, start_proxy, port, name, behind=three)
        with ExitStack() as stack:
            where = opened(balanced.url, 9, stack)
            counts = [[len(sockets) for sockets in where.values()]]
            for socket in where["c"]:
                socket.close()
            wait_until(lambda: health(three)["c"] == 0)
            counts.append([3, 3, 0])
            assert list(health(three).values()) == counts[1]
            opened(balanced.url, 6, stack)
            counts.append(list(health(three).values()))
        wait_until(lambda: sum(health(three).values()) == 0)
        found[balance] = counts
    in_turn, *by_looking = found.values()
    assert in_turn == [[3, 3, 3], [3, 3, 0], [5, 5, 2]]
    assert by_looking == [[[3, 3, 3], [3, 3, 0], [4, 4, 4]]] * 2
    rows = [
        {"balance": balance}
        | {
            what: " · ".join(map(str, numbers))
            for what, numbers in zip(
                ("nine connect (a · b · c)", "those on c disconnect", "six more connect"),
                counts,
                strict=True,
            )
        }
        for balance, counts in found.items()
    ]
    record("load_balancing/balance.md", table(rows))


def names_on_one_connection(url, number):
    """Send so many requests on one connection; return the instance that responded to each."""
    with closing(http.client.HTTPConnection("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
        client.connect()
        kept, names = client.sock, []
        for _ in range(number):
            client.request("GET", "/health")
            names.append(json.loads(client.getresponse().read())["name"])
            assert client.sock is kept
    return names


def test_http_mode_chooses_for_each_request(start, start_proxy, port, three):
    """In HTTP mode a load balancer chooses an instance for each request: six requests on one
    connection reach three instances, through HAProxy and through nginx."""
    ports = {8000: port()} | {number: three.ports[number] for number in INSTANCES.values()}
    haproxy = Balanced(start, start_proxy, port, "haproxy_round_robin.cfg", behind=three)
    for url in haproxy.url, start_proxy(f"{TOPIC}/nginx.conf", ports).url:
        assert Counter(names_on_one_connection(url, 6)) == {"a": 2, "b": 2, "c": 2}


def test_tcp_mode_chooses_for_each_connection(start, start_proxy, port, three):
    """At layer 4, HAProxy's `mode tcp`, it chooses once for each connection: six requests on one
    connection reach one instance, and the next connection another one."""
    layer_4 = {"mode http": "mode tcp"}
    name = "haproxy_round_robin.cfg"
    balanced = Balanced(start, start_proxy, port, name, behind=three, **layer_4)
    first, second = (set(names_on_one_connection(balanced.url, 6)) for _ in range(2))
    assert len(first) == len(second) == 1
    assert first != second


def health(balanced):
    """Return how many WebSockets each instance reports."""
    return {
        name: httpx2.get(f"{instance.url}/health").json()["websockets"]
        for name, instance in balanced.instances.items()
    }


def polled(url, cookies):
    """Submit a job and poll it six times; return the statuses.

    Without `cookies` the client drops those that it receives.
    """
    with httpx2.Client(base_url=url) as client:
        job = client.post("/jobs", json={"seconds": 60}).headers["Location"]
        statuses = []
        for _ in range(6):
            if not cookies:
                client.cookies.clear()
            statuses.append(client.get(job).status_code)
    return statuses


def test_polling_needs_the_instance_that_has_the_job(start, start_proxy, port, three, record):
    """A job is known to one of three instances: with round robin two polls in three get `404`, with
    a sticky cookie none, and with a client that ignores cookies two in three again."""
    rows = []
    for name, cookies in (
        ("haproxy_round_robin.cfg", True),
        ("haproxy_sticky.cfg", True),
        ("haproxy_sticky.cfg", False),
    ):
        statuses = polled(Balanced(start, start_proxy, port, name, behind=three).url, cookies)
        rows.append(
            {
                "load balancer": f"`{name}`",
                "client": "keeps cookies" if cookies else "ignores cookies",
                "200": statuses.count(200),
                "404": statuses.count(404),
            }
        )
    assert [(row["200"], row["404"]) for row in rows] == [(2, 4), (6, 0), (2, 4)]
    record("load_balancing/sticky.md", table(rows))


def test_a_sticky_session_ends_with_its_instance(start, start_proxy, port, three):
    """When the instance is down that a cookie names, the client is sent to another one, which
    responds with `404`."""
    own = start(f"{TOPIC}/server_hardened.py", NAME="a", **SOON)
    behind = Balanced(start, start_proxy, port, behind=three)
    behind.ports[8001] = own.port
    balanced = Balanced(start, start_proxy, port, "haproxy_sticky.cfg", behind=behind)
    with httpx2.Client(base_url=balanced.url) as client:
        client.cookies.set("INSTANCE", "a", domain="127.0.0.1")
        job = client.post("/jobs", json={"seconds": 60}).headers["Location"]
        assert client.get(job).json()["name"] == "a"
        own.stop(signal.SIGKILL)
        assert client.get(job).status_code == 404
        assert client.cookies["INSTANCE"] in {"b", "c"}


def test_a_websocket_is_sticky(start, start_proxy, port, three):
    """All messages on one WebSocket reach the same instance, without a cookie and with round
    robin."""
    balanced = Balanced(start, start_proxy, port, "haproxy_round_robin.cfg", behind=three)
    with socket_at(balanced.url) as socket:
        name = socket.recv()
        for number in range(6):
            socket.send(str(number))
            assert socket.recv() == f"{name}: {number}"


def test_the_cookie_belongs_to_the_load_balancer(start, start_proxy, port, three, tap):
    """The cookie is `HttpOnly` and set once, and the instances never receive it."""
    wire = tap(three.instances["a"])
    behind = Balanced(start, start_proxy, port, behind=three)
    behind.ports |= dict.fromkeys(INSTANCES.values(), wire.port)
    # Without checks only the requests of clients are on the wire.
    changes = dict.fromkeys(
        ["option httpchk GET /health", "default-server check inter 100ms fall 2 rise 1"], ""
    )
    name = "haproxy_sticky.cfg"
    balanced = Balanced(start, start_proxy, port, name, behind=behind, **changes)
    with httpx2.Client(base_url=balanced.url) as client:
        first = client.get("/health")
        assert re.fullmatch("INSTANCE=[abc]; path=/; HttpOnly", first.headers["Set-Cookie"])
        assert "Set-Cookie" not in client.get("/health").headers
        assert client.cookies["INSTANCE"] in INSTANCES
    assert b"INSTANCE" not in b"".join(event.data for event in wire.events)


def test_no_shared_cache_may_store_the_cookie(start_proxy, port, canned):
    """A cacheable response to which HAProxy adds the cookie becomes `Cache-Control: private`, and
    one to a client that has the cookie stays as it was."""
    canned((200, {"ETag": '"1"'}, "x"), number=(number := port()))
    ports = {8000: port()} | dict.fromkeys(INSTANCES.values(), number)
    with httpx2.Client(base_url=start_proxy(f"{TOPIC}/haproxy_sticky.cfg", ports).url) as client:
        assert client.get("/").headers["Cache-Control"] == "private"
        assert "Cache-Control" not in client.get("/").headers


# What else it can do


def test_a_full_load_balancer_queues_clients(start, start_proxy, port, three):
    """With room for two on each of three instances the seventh client waits in the queue: it gets
    `503` when the queue's timeout is over, and is admitted when a connection ends before."""
    tight = {"maxconn 1000": "maxconn 2", "timeout queue   5s": "timeout queue 300ms"}
    balanced = Balanced(start, start_proxy, port, behind=three, **tight)
    with ExitStack() as stack:
        opened(balanced.url, 6, stack)
        with pytest.raises(InvalidStatus) as refused:
            socket_at(balanced.url)
        assert refused.value.response.status_code == 503
    patient = {"maxconn 1000": "maxconn 2", "timeout queue   5s": "timeout queue 60s"}
    balanced = Balanced(start, start_proxy, port, behind=three, **patient)
    with ExitStack() as stack:
        first = opened(balanced.url, 6, stack)["b"][0]
        seventh = []
        waiting = threading.Thread(target=lambda: seventh.append(socket_at(balanced.url)))
        waiting.start()
        wait_until(lambda: balanced.waiting == 1)
        assert not seventh
        first.close()
        waiting.join(TIMEOUT)
        with seventh[0] as socket:
            assert socket.recv() == "b"


def test_a_failed_health_check_keeps_connections(start, start_proxy, port, three):
    """An instance that fails its health check gets no new client; its connections stay open."""
    own = start(f"{TOPIC}/server_hardened.py", NAME="a", DRAIN_DELAY=60, CLOSE_SPREAD=0)
    behind = Balanced(start, start_proxy, port, behind=three)
    behind.ports[8001] = own.port
    balanced = Balanced(start, start_proxy, port, behind=behind)
    with ExitStack() as stack:
        mine = opened(balanced.url, 3, stack)["a"]
        own.send(signal.SIGTERM)
        wait_until(lambda: balanced.state["a"] == "DOWN")
        assert httpx2.get(f"{own.url}/health").status_code == 503
        assert {name: len(new) for name, new in opened(balanced.url, 4, stack).items()} == {
            "a": 0,
            "b": 2,
            "c": 2,
        }
        mine[0].send("still there?")
        assert mine[0].recv() == "a: still there?"
    own.stop(signal.SIGKILL)


def family(program):
    """Return the folders in /proc of a program and its children."""
    return [Path(f"/proc/{number}") for number in {program.process.pid, *program.children()}]


def titles(program):
    return [(path / "cmdline").read_bytes() for path in family(program)]


def test_nginx_drains_by_reload(start_proxy, port, three):
    """An instance that is marked `down` in nginx's file gets no new client after a reload, and its
    connections stay open."""
    ports = {8000: port()} | {number: three.ports[number] for number in INSTANCES.values()}
    proxy = start_proxy(f"{TOPIC}/nginx.conf", ports)
    with ExitStack() as stack:
        mine = opened(proxy.url, 3, stack)["a"][0]
        file = proxy.folder / "nginx.conf"
        instance = f"server 127.0.0.1:{ports[8001]} "
        file.write_text(file.read_text().replace(instance, f"{instance}down "))
        os.kill(proxy.process.pid, signal.SIGHUP)
        wait_until(lambda: b"shutting down" in b"".join(titles(proxy)))
        assert not opened(proxy.url, 6, stack)["a"]
        mine.send("still there?")
        assert mine.recv() == "a: still there?"


def test_an_instance_that_dies_loses_its_connections(start, start_proxy, port, three):
    """When an instance dies, its connections end with 1006; the load balancer cannot open them
    elsewhere, and new clients are sent to another instance."""
    own = start(f"{TOPIC}/server_hardened.py", NAME="a")
    behind = Balanced(start, start_proxy, port, behind=three)
    behind.ports[8001] = own.port
    balanced = Balanced(start, start_proxy, port, behind=behind)
    with ExitStack() as stack:
        mine = opened(balanced.url, 3, stack)["a"][0]
        own.stop(signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            mine.recv()
        assert mine.close_code == 1006
        assert not opened(balanced.url, 2, stack)["a"]


@pytest.fixture
def tls(start_proxy, port, three, tap, tmp_path):
    """Start haproxy_tls.cfg; return it, a context that trusts it, and the wire to instance a."""
    subprocess.run([sys.executable, "-m", "trustme", "--quiet"], cwd=tmp_path, check=True)
    parts = (tmp_path / name for name in ("server.pem", "server.key"))
    (pem := tmp_path / "site.pem").write_text("".join(part.read_text() for part in parts))
    wire = tap(three.instances["a"])
    ports = {8000: port(), 8001: wire.port, 8002: three.ports[8002]}
    proxy = start_proxy(f"{TOPIC}/haproxy_tls.cfg", ports, **{"crt site.pem": f"crt {pem}"})
    return proxy, ssl.create_default_context(cafile=tmp_path / "client.pem"), wire


def test_tls_termination(tls):
    """Clients connect with TLS to the load balancer; the instances receive plain HTTP, with the
    scheme and the client's address in headers."""
    proxy, trust, wire = tls
    with connect(proxy.url.replace("http", "wss") + "/socket", ssl=trust) as socket:
        assert socket.recv() == "a"
    sent = b"".join(event.data for event in wire.events if event.source == "client")
    assert b"GET /socket HTTP/1.1\r\n" in sent
    assert b"\r\nx-forwarded-proto: https\r\n" in sent.lower()
    assert b"\r\nx-forwarded-for: 127.0.0.1\r\n" in sent.lower()
    with pytest.raises(InvalidMessage):
        connect(f"{proxy.url.replace('http', 'ws')}/socket")


@pytest.mark.parametrize(("alpn", "most"), [("http/1.1", 6), ("h2,http/1.1", 12)])
def test_http2_lifts_the_limit_of_six_streams(
    start_proxy, port, start, browser, tmp_path, alpn, most
):
    """With `alpn h2,http/1.1` in haproxy_tls.cfg a browser has twelve event streams and a WebSocket
    open at once; with `alpn http/1.1` it has six of the streams, and the WebSocket."""
    subprocess.run([sys.executable, "-m", "trustme", "--quiet"], cwd=tmp_path, check=True)
    parts = (tmp_path / name for name in ("server.pem", "server.key"))
    (pem := tmp_path / "site.pem").write_text("".join(part.read_text() for part in parts))
    instance = start(f"{TOPIC}/server_hardened.py", DRAIN_DELAY=0, CLOSE_SPREAD=0)
    changes = {"crt site.pem": f"crt {pem}", "alpn http/1.1": f"alpn {alpn}"}
    ports = {8000: port(), 8001: instance.port, 8002: instance.port}
    proxy = start_proxy(f"{TOPIC}/haproxy_tls.cfg", ports, **changes)
    url = proxy.url.replace("http", "https")
    with browser.new_context(ignore_https_errors=True) as context:
        page = context.new_page()
        page.goto(f"{url}/health")
        page.evaluate(
            """([streams, sockets]) => {
                window.opened = { stream: 0, socket: 0 };
                const open = (kind) => () => { opened[kind] += 1; };
                window.kept = [];
                const socket = new WebSocket(sockets + "/socket");
                socket.onopen = open("socket");
                kept.push(socket);
                for (let number = 0; number < 12; number += 1) {
                    const stream = new EventSource(streams + "/events");
                    stream.onopen = open("stream");
                    kept.push(stream);
                }
            }""",
            [url, url.replace("https", "wss")],
        )
        page.wait_for_function(f"opened.stream === {most} && opened.socket === 1")
        wait_until(lambda: metric(instance, "instance_connections") == most + 1)
        assert page.evaluate("opened.stream") == most


def test_least_connections_with_tls(tls):
    """The TLS configuration places WebSockets by least connections, too: when those on one of two
    instances end, the next ones go there."""
    proxy, trust, _ = tls
    url = proxy.url.replace("http", "wss")
    with ExitStack() as stack:
        where = opened(url, 6, stack, ssl=trust)
        assert [len(sockets) for sockets in where.values()] == [3, 3, 0]
        for socket in where["b"]:
            socket.close()
        again = opened(url, 3, stack, ssl=trust)
        assert [len(sockets) for sockets in again.values()] == [0, 3, 0]


def sockets(program):
    """Return how many sockets a program and its children have."""
    links = [os.readlink(link) for path in family(program) for link in (path / "fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


def test_a_load_balancer_uses_two_sockets_per_client(start, start_proxy, port, three, record):
    """For each WebSocket a load balancer has two sockets, one to the client and one to the
    instance: twenty for ten clients."""
    wait_until(lambda: sum(health(three).values()) == 0)
    rows = []
    for name in "haproxy.cfg", "nginx.conf":
        if name == "nginx.conf":
            ports = {8000: port()} | {number: three.ports[number] for number in INSTANCES.values()}
            proxy = start_proxy(f"{TOPIC}/{name}", ports)
        else:
            # Without checks, which come and go.
            changes = {"option httpchk GET /health": "", "check inter 100ms fall 2 rise 1": ""}
            proxy = Balanced(start, start_proxy, port, behind=three, **changes).proxy
        with ExitStack() as stack:
            opened(proxy.url, 3, stack)  # so that all is there that is not a client's
            before = sockets(proxy), sum(health(three).values())
            opened(proxy.url, 10, stack)
            rows.append(
                {
                    "program": name.split(".")[0],
                    "clients": 10,
                    "sockets of the load balancer": sockets(proxy) - before[0],
                    "sockets of the instances": sum(health(three).values()) - before[1],
                }
            )
        wait_until(lambda: sum(health(three).values()) == 0)
    assert [row["sockets of the load balancer"] for row in rows] == [20, 20]
    record("load_balancing/sockets.md", table(rows))
