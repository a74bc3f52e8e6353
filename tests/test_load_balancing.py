"""Load balancers: what they can do with connections that stay, and what they cannot."""

import asyncio
import csv
import http.client
import io
import json
import os
import re
import runpy
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from .support.crowd import client_of
from .support.figures import standings
from .support.messages import table
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)
from .support.threads import run_in_thread

ROOM = "load_balancing"
COPIES = dict(a=8001, b=8002, c=8003)
# Health checks ten times as often as the file says, so that nobody waits for them here.
OFTEN = {"inter 1s": "inter 100ms"}
# A copy that stops is given three of those to be noticed, and then some.
SOON = {"NOTICE": 0.4, "SPREAD": 0.2}


class Balanced:
    """Copies of the server behind a HAProxy, whose page of statistics is asked."""

    def __init__(self, start, start_proxy, port, name="haproxy.cfg", behind=None, **changes):
        """Start the balancer in front of copies to come, or of those of another one."""
        self._start, self.copies = start, dict(behind.copies if behind else {})
        self.ports = behind.ports if behind else {n: port() for n in COPIES.values()}
        self.ports = self.ports | {8000: port()}
        self.ports.pop(8404, None)
        if name == "haproxy.cfg":
            self.ports[8404] = port()
        self.proxy = start_proxy(f"{ROOM}/{name}", self.ports, **(OFTEN | changes))
        self.url, self.sockets = self.proxy.url, None

    def start(self, *names, **options):
        """Start copies, and return when the balancer has seen them."""
        for name in names:
            number = self.ports[COPIES[name]]
            given = {"NAME": name, "PORT": number} | SOON | options
            self.copies[name] = self._start(f"{ROOM}/server.py", **given)
        wait_until(lambda: all(self.state[name] == "UP" for name in names))

    def replace(self, name, told=False):
        """Stop a copy, unless it is told already, and start another in its place, when the
        balancer has seen that and all of so many `sockets` are back elsewhere."""
        if not told:
            self.copies[name].send(signal.SIGTERM)
        assert self.copies[name].wait() == 0
        wait_until(lambda: self.state[name] == "DOWN")
        wait_until(lambda: self.sockets in {None, sum(self.counts)})
        self.start(name)

    def _statistics(self, names=COPIES):
        text = httpx2.get(f"http://127.0.0.1:{self.ports[8404]}/;csv").text
        rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
        return [row for row in rows if row["pxname"] == "copies" and row["svname"] in names]

    @property
    def state(self):
        """Which copies are UP or DOWN."""
        return {row["svname"]: row["status"] for row in self._statistics()}

    @property
    def waiting(self):
        """How many wait in the queue for all copies."""
        rows = self._statistics(["BACKEND"])
        return int(rows[0]["qcur"])

    @property
    def counts(self):
        """How many connections each copy has."""
        return [int(row["scur"]) for row in self._statistics()]


@pytest.fixture(scope="module")
def hold(tmp_path_factory):
    """Start a client that holds sockets: hold(url, COUNT=…) -> Program."""
    with ExitStack() as running:

        def hold(url, **options):
            example = EXAMPLES / ROOM / "client.py"
            home = copy_isolated(example, tmp_path_factory.mktemp("holder") / "alone")
            options = environment(URL=url, BACKOFF=0.1, **options)
            client = Program(argv(example), home, options)
            running.callback(client.stop, signal.SIGKILL)
            return client

        yield hold


def socket_at(url):
    return connect(f"{url.replace('http', 'ws', 1)}/socket")


# What happens to sockets that stay


@pytest.fixture(scope="module")
def story(start_shared, assembled_shared, port, hold):
    """Return what became of 36 sockets: {step: how many each copy has}, and what else was seen
    while all copies were replaced, one after the other."""
    balanced = Balanced(start_shared, assembled_shared[0], port)
    steps = {}
    balanced.start("a", "b")
    wait_until(lambda: balanced.state["c"] == "DOWN")
    clients = [hold(balanced.url, COUNT=30)]
    wait_until(lambda: sum(balanced.counts) == 30)
    clients[0].wait_for("a ")
    steps["30 clients, two copies"] = balanced.counts
    balanced.start("c")
    steps["a third copy starts"] = balanced.counts
    clients.append(hold(balanced.url, COUNT=6).wait_for("c 6"))
    steps["six more clients come"] = balanced.counts
    goodbyes, balanced.sockets = {}, 36
    for name in COPIES:
        goodbyes[name] = goodbye(balanced.copies[name])
        balanced.replace(name, told=True)
        steps[f"{name} was replaced"] = balanced.counts
    for client in clients:
        client.stop(signal.SIGKILL)
    return steps, goodbyes, clients[0].output, balanced


def goodbye(copy):
    """Tell a copy to stop; return what becomes of a socket, of a question that it holds, and of
    a stream."""
    job = httpx2.post(f"{copy.url}/jobs", json={"seconds": 60}).headers["Location"]
    held, stream = (http.client.HTTPConnection("127.0.0.1", copy.port) for _ in range(2))
    held.request("GET", job, headers={"Prefer": "wait=25"})
    stream.request("GET", "/events")
    streamed = stream.getresponse()
    with socket_at(copy.url) as socket:
        socket.recv()
        copy.send(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv()
        answer = held.getresponse()
        said = answer.status, json.loads(answer.read())["status"]
        ended = streamed.read().decode()
        held.close()
        stream.close()
        return socket.close_code, said, ended


def test_a_third_copy_stays_empty(story):
    """Two copies hold 15 sockets each; a third one starts, and none of the sockets moves there."""
    steps, *_ = story
    assert steps["30 clients, two copies"] == [15, 15, 0]
    assert steps["a third copy starts"] == [15, 15, 0]


def test_the_next_go_to_the_emptiest(story):
    """By least connections, whoever comes next is sent to the emptiest copy: all six."""
    steps, *_ = story
    assert steps["six more clients come"] == [15, 15, 6]


class Asking(threading.Thread):
    """Asks the balancer for a job and how it stands, and notes each answer that is none.

    A question is held for `wait` seconds, unless the copy that holds it stops.
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
                    answer = client.get(submitted.headers["Location"], headers=prefer)
                    self.statuses[answer.status_code] += 1
                except (httpx2.HTTPError, KeyError, ValueError) as error:
                    self.statuses[repr(error)] += 1

    def stop(self):
        self.over.set()
        self.join()


@pytest.fixture(scope="module")
def aged(start_shared, assembled_shared, port, hold):
    """Return what a client says whose sockets reach a maximum age, while a third copy starts."""
    balanced = Balanced(start_shared, assembled_shared[0], port)
    balanced.start("a", "b", MAX_AGE=3)
    wait_until(lambda: balanced.state["c"] == "DOWN")
    client = hold(balanced.url, COUNT=36)
    client.wait_for("a 18, b 18")
    balanced.start("c", MAX_AGE=3)
    client.wait_for("a 12, b 12, c 12")
    client.stop(signal.SIGKILL)
    asking = [Asking(balanced.url, wait) for wait in (0, 1)]
    for each in asking:
        each.start()
    for name in "ab":
        balanced.replace(name)
    for each in asking:  # however slow the machine, each has met all copies, and held
        wait_until(lambda each=each: each.names == set(COPIES) and each.statuses[200])
        each.stop()
    return client.output.splitlines(), asking


def test_a_maximum_age_evens_it_out(story, aged, record):
    """Where no socket may grow older than a maximum age, 36 sockets on two copies become twelve
    on each of three, and nobody did anything."""
    said, _ = aged
    first, last = "a 18, b 18", "a 12, b 12, c 12"
    assert said.index(first) < said.index(last)
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
            COPIES,
            "Connections on each copy",
            "Thirty clients on two copies: 15 and 15. A third copy starts: 15, 15 and none. Six "
            "more clients come: 15, 15 and 6. When all connections have reached their maximum "
            "age: 12, 12 and 12.",
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


def test_sockets_that_came_together_do_not_leave_together(start):
    """Sockets opened together are closed with 1001 at different ages, from 80 to 100 % of the
    maximum; those of a copy that stops are closed with 1012, spread over its time for that."""
    copy = start(f"{ROOM}/server.py", MAX_AGE=3, NOTICE=0, SPREAD=1)
    aged = closings(copy.url, 20)
    assert {code for code, _ in aged} == {1001}
    assert spread(aged) > 0.2  # of 0.6
    stopped = closings(copy.url, 20, before=lambda: copy.send(signal.SIGTERM))
    assert {code for code, _ in stopped} == {1012}
    assert spread(stopped) > 0.5  # of 1
    assert copy.wait() == 0


def test_a_rolling_deploy_leaves_the_last_copy_empty(story, record):
    """After all three copies were replaced one after the other, by least connections, the first
    two hold 18 sockets each and the last one none."""
    steps, *_ = story
    rows = [(what, numbers) for what, numbers in steps.items() if "replaced" in what]
    assert [numbers for _, numbers in rows] == [[0, 18, 18], [18, 0, 18], [18, 18, 0]]
    record(
        "load_balancing/deploy.svg",
        standings(
            rows,
            COPIES,
            "Connections on each copy, in a rolling deploy",
            "Copy a was replaced: it has none, b and c 18 each. Then b: it has none, a and c 18. "
            "Then c: it has none, a and b 18.",
        ),
    )


def test_a_deploy_loses_no_answer(aged):
    """While two of three copies are replaced, a client that asks all the time and one whose
    questions are held get an answer to each, and none of them is a 5xx."""
    _, asking = aged
    for each in asking:
        assert set(each.statuses) <= {200, 202, 404}  # 404: a copy that does not know the job


def test_a_copy_that_stops_says_1012(story):
    """A copy that stops closes its sockets with 1012, and the clients come back elsewhere."""
    _, goodbyes, said, _ = story
    assert {code for code, _, _ in goodbyes.values()} == {1012}
    assert said.splitlines()[0] == "a 15, b 15"
    assert said.splitlines()[-1] == "a 18, b 12"


def test_a_copy_that_stops_answers_what_it_holds(story):
    """A copy that stops answers the questions that it holds with `pending`, and ends its
    streams in good order."""
    _, goodbyes, _, _ = story
    for name, (_, said, ended) in goodbyes.items():
        assert said == (200, "pending")
        assert ended == f"data: {name}\n\n"


# The client


def test_the_client_says_why_there_is_no_socket(run, canned, port):
    """A client that can open no socket at first says so in one line, and exits with an error."""
    for url in f"http://127.0.0.1:{port()}", "nonsense", canned((500, {}, "oops")).url:
        ended = run(f"{ROOM}/client.py", URL=url)
        assert ended.returncode == 1
        assert len(ended.stderr.splitlines()) == 1
        assert f"no socket at {url}" in ended.stderr


def test_the_client_holds_for_so_long(run, three):
    """A client that is told for how long to hold its sockets says where they are, and ends."""
    ended = run(f"{ROOM}/client.py", URL=three.copies["a"].url, COUNT=3, SECONDS=2)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "a 3\n", "")


@pytest.fixture
def dismissing(port):
    """Start a server of WebSockets that say "a" and end: dismissing(200, 503, …) -> its address
    and the statuses that it has answered, in this order, the last one for ever."""
    with ExitStack() as running:

        def dismissing(*statuses):
            given = []

            def answer(connection, _):
                given.append(statuses[min(len(given), len(statuses) - 1)])
                return connection.respond(503, "full") if given[-1] == 503 else None

            server = serve(lambda ws: ws.send("a"), "127.0.0.1", port(), process_request=answer)
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            running.callback(serving.join)
            running.callback(server.shutdown)
            host, number = server.socket.getsockname()
            return f"http://{host}:{number}", given

        yield dismissing


def test_the_client_waits_before_it_comes_back(run, dismissing):
    """A client whose sockets were closed waits, and does not come back at once."""
    url, given = dismissing(200)
    ended = run(f"{ROOM}/client.py", URL=url, COUNT=3, SECONDS=2, BACKOFF=10**6)
    assert ended.returncode == 0
    assert given == [200] * 3


def test_the_client_waits_longer_each_time(dismissing):
    """The bound of the wait doubles with each try in vain, up to twelve times, and is the first
    one again after a socket that opened; a socket that is closed is counted for no copy."""
    url, _ = dismissing(200, 200, *[503] * 5, 200)
    waits = []

    def uniform(_, bound):
        if len(waits) == len(bounds):
            raise EOFError
        waits.append((bound, dict(held.where)))
        return 0

    bounds = [1, 1, 2, 4, 8, 12, 12, 1]
    client = client_of(ROOM, URL=url, BACKOFF=1, random=SimpleNamespace(uniform=uniform))
    held = client.Held(1)
    with pytest.raises(EOFError):
        run_in_thread(held.hold(0))
    assert waits == [(bound, {}) for bound in bounds]


# The jobs


def test_a_copy_holds_only_for_so_long(start):
    """A copy holds a question for MAX_WAIT at most, whatever was asked for, and no longer than
    the job takes."""
    copy = start(f"{ROOM}/server.py", MAX_WAIT=0.5, NOTICE=0)
    for seconds, status in (60, "pending"), (0.1, "done"):
        job = httpx2.post(f"{copy.url}/jobs", json={"seconds": seconds}).headers["Location"]
        wait = {"Prefer": "wait=60"}
        answer = httpx2.get(f"{copy.url}{job}", headers=wait, timeout=TIMEOUT)
        assert (answer.status_code, answer.json()["status"]) == (200, status)


def test_a_hold_leaves_no_task():
    """When a hold is over, the copy has no task more than before."""
    copy = runpy.run_path(str(EXAMPLES / ROOM / "server.py"))

    async def held():
        await copy["hold"](0.01)
        await asyncio.sleep(0)  # for what was cancelled to end
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert run_in_thread(held()) == set()


# To whom


@pytest.fixture(scope="module")
def three(story):
    """Return the three copies that are there at the end of the story."""
    return story[-1]


def opened(url, count, stack):
    """Open so many sockets, one after the other; return {copy: its sockets}."""
    where = {name: [] for name in COPIES}
    for _ in range(count):
        socket = stack.enter_context(socket_at(url))
        where[socket.recv()].append(socket)
    return where


def test_round_robin_does_not_look(start, start_proxy, port, three, record):
    """Nine sockets on three copies; the three on c end, and six come: round robin gives each copy
    two of them, least connections, HAProxy's and nginx's, gives c what it lacks."""
    found = {}
    for balance, name in (
        ("HAProxy, `roundrobin`", "haproxy_round_robin.cfg"),
        ("HAProxy, `leastconn`", "haproxy.cfg"),
        ("nginx, `least_conn`", "nginx.conf"),
    ):
        if name == "nginx.conf":
            ports = {8000: port()} | {number: three.ports[number] for number in COPIES.values()}
            balanced = start_proxy(f"{ROOM}/{name}", ports)
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
                ("nine come (a · b · c)", "those on c leave", "six more come"), counts, strict=True
            )
        }
        for balance, counts in found.items()
    ]
    record("load_balancing/balance.md", table(rows))


def health(balanced):
    """Return how many sockets each copy says that it has."""
    return {
        name: httpx2.get(f"{copy.url}/health").json()["sockets"]
        for name, copy in balanced.copies.items()
    }


def polled(url, cookies):
    """Hand in a job and ask six times how it stands; return the statuses.

    Without `cookies` the client forgets those that it is given.
    """
    with httpx2.Client(base_url=url) as client:
        job = client.post("/jobs", json={"seconds": 60}).headers["Location"]
        statuses = []
        for _ in range(6):
            if not cookies:
                client.cookies.clear()
            statuses.append(client.get(job).status_code)
    return statuses


def test_polling_needs_a_copy_that_knows_the_job(start, start_proxy, port, three, record):
    """A job is known to one of three copies: by round robin two questions in three are answered
    404, with a cookie none, and with a client that keeps no cookies it is two in three again."""
    rows = []
    for name, cookies in (
        ("haproxy_round_robin.cfg", True),
        ("haproxy_sticky.cfg", True),
        ("haproxy_sticky.cfg", False),
    ):
        statuses = polled(Balanced(start, start_proxy, port, name, behind=three).url, cookies)
        rows.append(
            {
                "balancer": f"`{name}`",
                "client": "keeps cookies" if cookies else "keeps none",
                "200": statuses.count(200),
                "404": statuses.count(404),
            }
        )
    assert [(row["200"], row["404"]) for row in rows] == [(2, 4), (6, 0), (2, 4)]
    record("load_balancing/sticky.md", table(rows))


def test_a_cookie_does_not_save_the_job(start, start_proxy, port, three):
    """When the copy is gone that a cookie names, the client is sent to another, which answers
    404: the cookie finds the job, and does not keep it."""
    own = start(f"{ROOM}/server.py", NAME="a", **SOON)
    behind = Balanced(start, start_proxy, port, behind=three)
    behind.ports[8001] = own.port
    balanced = Balanced(start, start_proxy, port, "haproxy_sticky.cfg", behind=behind)
    with httpx2.Client(base_url=balanced.url) as client:
        client.cookies.set("COPY", "a", domain="127.0.0.1")
        job = client.post("/jobs", json={"seconds": 60}).headers["Location"]
        assert client.get(job).json()["name"] == "a"
        own.stop(signal.SIGKILL)
        assert client.get(job).status_code == 404
        assert client.cookies["COPY"] in {"b", "c"}


def test_a_socket_is_sticky_by_itself(start, start_proxy, port, three):
    """All messages on one WebSocket reach the same copy, without a cookie and by round robin."""
    balanced = Balanced(start, start_proxy, port, "haproxy_round_robin.cfg", behind=three)
    with socket_at(balanced.url) as socket:
        name = socket.recv()
        for number in range(6):
            socket.send(str(number))
            assert socket.recv() == f"{name}: {number}"


def test_the_cookie_is_the_balancers_own(start, start_proxy, port, three, tap):
    """The cookie is closed to scripts and set once, and the copies never see it."""
    wire = tap(three.copies["a"])
    behind = Balanced(start, start_proxy, port, behind=three)
    behind.ports |= dict.fromkeys(COPIES.values(), wire.port)
    # Without checks: what is on the wire is what clients asked.
    changes = dict.fromkeys(
        ["option httpchk GET /health", "default-server check inter 100ms fall 2 rise 1"], ""
    )
    name = "haproxy_sticky.cfg"
    balanced = Balanced(start, start_proxy, port, name, behind=behind, **changes)
    with httpx2.Client(base_url=balanced.url) as client:
        first = client.get("/health")
        assert re.fullmatch("COPY=[abc]; path=/; HttpOnly", first.headers["Set-Cookie"])
        assert "Set-Cookie" not in client.get("/health").headers
        assert client.cookies["COPY"] in COPIES
    assert b"COPY" not in b"".join(event.data for event in wire.events)


# What else it can do


def test_a_cap_makes_the_next_one_wait(start, start_proxy, port, three):
    """With room for two on each of three copies the seventh waits for a place: it is answered
    503 when the queue's time is over, and let in when a place becomes free before."""
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


def test_a_failing_check_keeps_what_is_there(start, start_proxy, port, three):
    """A copy that fails its health check gets nothing new; the sockets that it has go on."""
    own = start(f"{ROOM}/server.py", NAME="a", NOTICE=60, SPREAD=0)
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


def family(process):
    """Return the folders in /proc of a process and its children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [Path(f"/proc/{number}") for number in [process.pid, *children]]


def titles(process):
    return [(path / "cmdline").read_bytes() for path in family(process)]


def test_nginx_drains_by_its_file(start_proxy, port, three):
    """A copy that is marked `down` in nginx's file gets nothing new after a reload, and the
    sockets that it has go on."""
    ports = {8000: port()} | {number: three.ports[number] for number in COPIES.values()}
    proxy = start_proxy(f"{ROOM}/nginx.conf", ports)
    with ExitStack() as stack:
        mine = opened(proxy.url, 3, stack)["a"][0]
        file = proxy.folder / "nginx.conf"
        copy = f"server 127.0.0.1:{ports[8001]} "
        file.write_text(file.read_text().replace(copy, f"{copy}down "))
        os.kill(proxy.process.pid, signal.SIGHUP)
        wait_until(lambda: b"shutting down" in b"".join(titles(proxy.process)))
        assert not opened(proxy.url, 6, stack)["a"]
        mine.send("still there?")
        assert mine.recv() == "a: still there?"


def test_a_copy_that_dies_takes_its_sockets_along(start, start_proxy, port, three):
    """When a copy dies, its sockets end with 1006; the balancer can't open them elsewhere, and
    whoever comes next is sent to another copy."""
    own = start(f"{ROOM}/server.py", NAME="a")
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


def test_tls_ends_at_the_balancer(start_proxy, port, three, tap, tmp_path):
    """Clients speak TLS to the balancer; the copies get plain HTTP, and are told that it was
    https, and from whom."""
    subprocess.run([sys.executable, "-m", "trustme", "--quiet"], cwd=tmp_path, check=True)
    parts = (tmp_path / name for name in ("server.pem", "server.key"))
    (pem := tmp_path / "site.pem").write_text("".join(part.read_text() for part in parts))
    wire = tap(three.copies["a"])
    ports = {8000: port(), 8001: wire.port, 8002: three.ports[8002]}
    proxy = start_proxy(f"{ROOM}/haproxy_tls.cfg", ports, **{"crt site.pem": f"crt {pem}"})
    trust = ssl.create_default_context(cafile=tmp_path / "client.pem")
    with connect(proxy.url.replace("http", "wss") + "/socket", ssl=trust) as socket:
        assert socket.recv() == "a"
    asked = b"".join(event.data for event in wire.events if event.source == "client")
    assert asked.startswith(b"GET /socket HTTP/1.1\r\n")
    assert b"\r\nx-forwarded-proto: https\r\n" in asked.lower()
    assert b"\r\nx-forwarded-for: 127.0.0.1\r\n" in asked.lower()
    with pytest.raises(InvalidMessage):
        connect(f"{proxy.url.replace('http', 'ws')}/socket")


def sockets(process):
    """Return how many sockets a process and its children have."""
    links = [os.readlink(link) for path in family(process) for link in (path / "fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


def test_two_sockets_a_client(start, start_proxy, port, three, record):
    """For each WebSocket a balancer has two sockets, one to the client and one to the copy: for
    ten clients twenty."""
    wait_until(lambda: sum(health(three).values()) == 0)
    rows = []
    for name in "haproxy.cfg", "nginx.conf":
        if name == "nginx.conf":
            ports = {8000: port()} | {number: three.ports[number] for number in COPIES.values()}
            proxy = start_proxy(f"{ROOM}/{name}", ports)
        else:
            # Without checks, which come and go.
            changes = {"option httpchk GET /health": "", "check inter 100ms fall 2 rise 1": ""}
            proxy = Balanced(start, start_proxy, port, behind=three, **changes).proxy
        with ExitStack() as stack:
            opened(proxy.url, 3, stack)  # so that all is there that is not a client's
            before = sockets(proxy.process), sum(health(three).values())
            opened(proxy.url, 10, stack)
            rows.append(
                {
                    "program": name.split(".")[0],
                    "clients": 10,
                    "sockets of the balancer": sockets(proxy.process) - before[0],
                    "sockets of the copies": sum(health(three).values()) - before[1],
                }
            )
        wait_until(lambda: sum(health(three).values()) == 0)
    assert [row["sockets of the balancer"] for row in rows] == [20, 20]
    record("load_balancing/sockets.md", table(rows))
