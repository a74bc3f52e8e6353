"""Many held connections: the cost of each, the resource that runs out first, and rejection."""

import asyncio
import os
import re
import resource
import runpy
import select
import signal
import socket
import statistics
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from inspect import signature

import httpx2
import pytest
from sanic.config import DEFAULT_CONFIG
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from .support.bars import bars
from .support.events import metric
from .support.messages import single_values, table
from .support.processes import (
    EXAMPLES,
    READY,
    TIMEOUT,
    Program,
    copy_isolated,
    environment,
    established,
    named,
    wait_until,
)
from .support.sockets import connect
from .support.threads import run_in_thread

TOPIC = "holding_connections"
BATCH, BATCHES = 100, 5
SPARE = 30  # descriptors, of a server with few
LONG = {"HOLD": 3600}  # until the release
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
)


def knock(server, path="/poll", extra=""):
    """Connect, send a request, and return the socket without reading."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
    return client


@contextmanager
def clients(server, number, path="/poll", extra=""):
    """Yield so many clients, each with a request on a connection of its own."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(knock(server, path, extra))) for _ in range(number)]


def held(server):
    return httpx2.get(f"{server.url}/held", timeout=TIMEOUT).json()["held"]


def files(server):
    """Return how many files a program has open."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


# The memory of one

WAYS = [
    ("idle, between two requests", "server_hardened.py", "/held", "", LONG),
    ("long poll", "server_hardened.py", "/poll", "", LONG),
    ("event stream", "server_hardened.py", "/stream", "", LONG),
    (
        "WebSocket, websockets library, no compression",
        "server_websockets.py",
        "/",
        UPGRADE,
        {"COMPRESSION": ""},
    ),
    ("WebSocket, Sanic, which never compresses", "server_hardened.py", "/socket", UPGRADE, LONG),
    ("long poll, with a thread", "server_threads.py", "/poll", "", LONG),
    ("WebSocket, websockets library, compressed", "server_websockets.py", "/", UPGRADE, {}),
]


@pytest.fixture(scope="module")
def sizes(start_shared):
    """Return {way: (KiB for each held connection, threads)}, each with a server of its own."""
    found = {}
    for way, name, path, extra, variables in WAYS:
        server = start_shared(f"{TOPIC}/{name}", **variables)
        with ExitStack() as stack:
            grown, before = [], 0
            for batch in range(1 + BATCHES):
                opened = [
                    stack.enter_context(closing(knock(server, path, extra))) for _ in range(BATCH)
                ]
                if path == "/poll":  # it gets no response
                    settle(server, name, BATCH * (batch + 1))
                else:
                    for client in opened:
                        assert client.recv(4096)
                now = server.status("VmRSS")
                grown.append(now - before)
                before = now
            threads = server.status("Threads")
        # The first batch also grew the heap, where the others found room.
        found[way] = statistics.median(grown[1:]) / BATCH, threads
        server.stop(signal.SIGKILL)
    return found


def settle(server, name, number):
    """Return once a server holds so many."""
    if name == "server_threads.py":
        wait_until(lambda: server.status("Threads") == 1 + number)
    else:
        wait_until(lambda: held(server) == number)


def multiples(sizes):
    """Return {way: its memory}, in multiples of an idle connection's."""
    smallest = min(kib for kib, _ in sizes.values())
    return {way: round(kib / smallest) for way, (kib, _) in sizes.items()}


def test_memory_of_a_held_connection(sizes, record):
    """In a server's own memory, a long poll and an event stream take as much as an idle connection,
    about 10 KiB; a WebSocket takes two to four times as much, with compression six times."""
    taken = multiples(sizes)
    assert [taken[way] for way, *_ in WAYS] == [1, 1, 1, 2, 4, 3, 6]
    rows = [
        {"held": way, "memory": f"{taken[way]} ×", "threads for 600": sizes[way][1]}
        for way, *_ in WAYS
    ]
    record("holding_connections/memory.md", table(rows))
    smallest = min(kib for kib, _ in sizes.values())
    kib = 10 * round(smallest / 10)
    assert kib == 10
    sockets = sorted(kib * taken[way] for way, *_ in WAYS if way.startswith("WebSocket"))
    values = {"idle-kib": f"{kib} KiB", "websocket-kib": f"{sockets[0]} to {sockets[-1]} KiB"}
    record("holding_connections/values.txt", single_values(values))
    record(
        "holding_connections/memory.svg",
        bars(
            [(way, taken[way], f"{taken[way]} ×") for way, *_ in WAYS],
            "Memory of a held connection",
            "Bars, in multiples of an idle connection's "
            f"{kib} KiB: " + "; ".join(f"{way} {taken[way]}" for way, *_ in WAYS) + ".",
        ),
    )


def test_what_fits_into_a_gibibyte(sizes, record):
    """Computed from the rounded multiples of 10 KiB: how many held connections fit into one GiB;
    the unrounded measurement gives the same within a factor of 1.5."""
    taken = multiples(sizes)
    idle = 10 * round(min(kib for kib, _ in sizes.values()) / 10)

    def coarse(number):
        digits = 10 ** (len(str(int(number))) - 2)
        return int(number / digits) * digits

    rows = [
        {
            "held": way,
            "KiB for each, about": idle * taken[way],
            "in 1 GiB": coarse(2**20 / (idle * taken[way])),
        }
        for way, *_ in WAYS
    ]
    for row in rows:
        unrounded = 2**20 / sizes[row["held"]][0]
        assert 2 / 3 < unrounded / row["in 1 GiB"] < 3 / 2, row["held"]
    record("holding_connections/gibibyte.md", table(rows))


def test_threads_for_held_connections(sizes):
    """For six hundred held clients, a server with a thread for each has six hundred and one
    threads; one on an event loop has one."""
    assert sizes["long poll, with a thread"][1] == 1 + BATCH * (1 + BATCHES)
    assert sizes["long poll"][1] == 1
    assert sizes["WebSocket, websockets library, compressed"][1] == 1


def test_threads_and_an_event_loop_hold_the_same_clients(start, run, record):
    """Threads and an event loop do the same work: five hundred clients are held, and each gets its
    response."""
    for name in "server.py", "server_threads.py":
        result = run(f"{TOPIC}/client.py", URL=start(f"{TOPIC}/{name}", HOLD=3).url)
        assert result.stdout == "500 clients: 200\n"
    record("holding_connections/client.txt", result.stdout)


# Files


FILES = 60  # descriptors of a server that is to reach its limit


def outcome(client):
    """Return the first line of the response that a client receives, or that it received none."""
    try:
        response = client.recv(4096)
    except ConnectionResetError:
        response = b""
    return response.split(b"\r\n")[0].decode() or "no response"


def outcomes(opened, number):
    """Return {outcome: how many} of the first clients whose connection becomes readable."""
    done = []
    while len(done) < number:
        ready, _, _ = select.select(set(opened) - set(done), [], [], TIMEOUT)
        assert ready, f"only {len(done)} have an outcome"
        done += ready
    return Counter(outcome(client) for client in done)


def output_of(server):
    """Return the output of a server since it was ready."""
    return server.output.split("Worker ready")[1].partition("\n")[2]


def few_files(server):
    """Limit a running server to FILES descriptors, as `ulimit -n` does."""
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    return server


def test_without_a_limit_uvloop_closes_new_connections(start):
    """Without a limit, a server on uvloop that is out of descriptors closes each new connection
    without a response, health checks included, and logs nothing."""
    server = few_files(start(f"{TOPIC}/server.py", **LONG))
    with clients(server, FILES) as opened:
        assert set(outcomes(opened, 5)) == {"no response"}
        assert files(server) > FILES - 3
        with closing(knock(server, "/nothing")) as healthy:
            assert outcome(healthy) == "no response"
        assert output_of(server) == ""


def test_without_a_limit_asyncio_does_not_respond(start, record):
    """Without a limit, a server on plain asyncio that is out of descriptors leaves new clients
    connected without a response, while its log fills up."""
    server = start(f"{TOPIC}/server.py", errors_expected=True, **LONG, SANIC_USE_UVLOOP=0)
    few_files(server)
    with clients(server, FILES) as opened:  # the kernel accepts them
        server.wait_for("Errno 24")
        assert not select.select(opened, [], [], 0.3)[0]
        server.stop(signal.SIGKILL, errors_expected=True)  # its log has no end
    log = output_of(server).splitlines()
    first = next(line for line in log if "out of system resource" in line)
    last = next(line for line in log if "Errno 24" in line)
    record("holding_connections/no_limit.txt", f"{first}\n…\n{last}\n")


@pytest.fixture(scope="module")
def full(start_shared):
    """Return a server with few files, and what the first clients that it rejected received."""
    server = start_shared(f"{TOPIC}/server_hardened.py", **LONG, MAX_FILES=FILES, SPARE_FILES=SPARE)
    with clients(server, FILES) as opened:
        late = outcomes(opened, SPARE)
        yield server, late


def test_above_the_limit_a_client_gets_503(full, record):
    """Above the limit, a client gets `503` with `Retry-After` and `Connection: close`; other
    requests are served as before."""
    server, late = full
    assert late == {"HTTP/1.1 503 Service Unavailable": SPARE}
    response = httpx2.get(f"{server.url}/poll")
    assert 5 <= int(response.headers["Retry-After"]) <= 15
    assert response.headers["Connection"] == "close"
    assert response.json()["message"] == "the limit of held clients is reached"
    assert httpx2.get(f"{server.url}/stream").status_code == 503
    assert held(server) == FILES - SPARE
    assert files(server) < FILES
    warnings = set(re.findall(r"WARNING: .*", output_of(server)))
    assert warnings == {f"WARNING: rejected: {FILES - SPARE} clients are held"}


def test_rejected_clients_get_different_retry_times(full):
    """Rejected clients get different values of `Retry-After`."""
    server, _ = full
    times = {httpx2.get(f"{server.url}/poll").headers["Retry-After"] for _ in range(20)}
    assert len(times) > 3


def test_a_websocket_above_the_limit_is_closed_with_1013(full):
    """A WebSocket above the limit is closed with 1013, try again later."""
    server, _ = full
    with connect(f"ws://127.0.0.1:{server.port}/socket") as client:
        with pytest.raises(ConnectionClosed):
            client.recv(TIMEOUT)
        assert client.close_code == 1013


def test_a_handshake_above_the_limit_gets_503(start):
    """The websockets library rejects a handshake above the limit with `503` and `Retry-After`."""
    server = start(f"{TOPIC}/server_websockets.py", MAX_FILES=SPARE + 2, SPARE_FILES=SPARE)
    url = f"ws://127.0.0.1:{server.port}/"
    with connect(url) as first, connect(url):
        with pytest.raises(InvalidStatus) as refused, connect(url):
            pass
        assert refused.value.response.status_code == 503
        assert 5 <= int(refused.value.response.headers["Retry-After"]) <= 15
        first.send("release")
        assert first.recv(TIMEOUT) == "done"
    wait_until(lambda: connects(url))


def connects(url):
    try:
        with connect(url):
            return True
    except InvalidStatus:
        return False


def test_a_disconnect_makes_room(start):
    """A client that disconnects, however it was held, makes room for another."""
    server = start(f"{TOPIC}/server_hardened.py", **LONG, MAX_FILES=SPARE + 3, SPARE_FILES=SPARE)
    for _ in range(3):
        with closing(knock(server)), closing(knock(server, "/stream")):
            with closing(knock(server, "/socket", UPGRADE)):
                wait_until(lambda: held(server) == 3)
        wait_until(lambda: held(server) == 0)


def test_the_server_raises_its_file_limit(start):
    """A process may raise its limit on open files up to the hard one by itself, without a
    privilege."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # as most shells have it
    try:
        server = start(f"{TOPIC}/server_hardened.py", **LONG, MAX_FILES=2000, SPARE_FILES=SPARE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (2000, hard)
    assert httpx2.get(f"{server.url}/held").json()["limit"] == 2000 - SPARE


def test_the_file_limit_stays_below_the_hard_limit(tmp_path, port):
    """If the hard limit is below `MAX_FILES`, the server takes the hard limit, and holds fewer
    clients."""
    folder = copy_isolated(EXAMPLES / TOPIC / "server_hardened.py", tmp_path / "few")
    command = ["sh", "-c", f"ulimit -n 500; exec '{sys.executable}' server_hardened.py"]
    server = Program(
        command, folder, environment(PORT=(number := port()), SPARE_FILES=SPARE), number
    )
    try:
        server.wait_for(*READY)
        assert httpx2.get(f"{server.url}/held").json()["limit"] == 500 - SPARE
    finally:
        server.stop()


LIMITED = named("*.py", "RLIMIT_NOFILE")
WITHOUT_LIMIT = """
import resource, runpy, sys
resource.getrlimit = lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
resource.setrlimit = lambda *_: None
sys.path.insert(0, ".")
names = runpy.run_path(sys.argv[1])
print(*[names[name] for name in ("MAX_CONNECTIONS", "MAX_HELD", "MAX_STREAMS") if name in names])
"""


@pytest.mark.parametrize("name", LIMITED)
def test_a_process_without_a_limit_has_a_limit_of_clients(name):
    """Where a process may open any number of files, each program that computes a limit of clients
    from that number has one of several thousand."""
    example = EXAMPLES / name
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIMIT, example.name],
        cwd=example.parent,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert 5_000 <= int(ran.stdout) <= 10_000


def test_no_limit_of_clients_is_typed():
    """No program has a fixed default for the number of clients that it holds; the one per client
    of the security page is another limit."""
    typed = re.compile(r'environ\.get\("MAX_(CONNECTIONS|HELD|STREAMS)", [\d_]+\)')
    found = [path for path in EXAMPLES.glob("*/*.py") if typed.search(path.read_text())]
    assert [path.name for path in found] == ["server_limits.py"]
    assert "# a client" in typed_line(found[0], typed)


def typed_line(path, pattern):
    return next(line for line in path.read_text().splitlines() if pattern.search(line))


def test_what_is_counted(start):
    """The server counts the clients that it holds, and those that it rejects, each with one line
    in its log."""
    server = start(f"{TOPIC}/server_hardened.py", **LONG, MAX_FILES=SPARE + 2, SPARE_FILES=SPARE)
    with closing(knock(server)), closing(knock(server, "/stream")):
        wait_until(lambda: metric(server, "holding_connections") == 2)
        assert httpx2.get(f"{server.url}/poll").status_code == 503
        with connect(f"ws://127.0.0.1:{server.port}/socket") as client:
            with pytest.raises(ConnectionClosed):
                client.recv(TIMEOUT)
        assert metric(server, 'holding_problems_total{problem="rejected"}') == 2
        wait_until(lambda: server.output.count("WARNING: rejected: 2 clients are held") == 2)
    wait_until(lambda: metric(server, "holding_connections") == 0)


def test_a_silent_connection_uses_a_descriptor(start):
    """A connection that sends nothing uses a descriptor, and no limit on requests counts it; in
    Sanic the idle timeout, `KEEP_ALIVE_TIMEOUT`, closes it."""
    server = start(
        f"{TOPIC}/server_hardened.py",
        **LONG,
        MAX_FILES=FILES,
        SPARE_FILES=SPARE,
        SANIC_KEEP_ALIVE_TIMEOUT=3,
    )
    with ExitStack() as stack:
        address = "127.0.0.1", server.port
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(FILES)]
        with closing(knock(server, "/held")) as late:
            assert outcome(late) == "no response"
        assert outcomes(silent, FILES) == {"no response": FILES}
        assert held(server) == 0  # it responds again


def test_a_stopping_server_responds_to_held_clients(start):
    """A server that stops responds to every client that it holds."""
    server = start(f"{TOPIC}/server.py", **LONG)
    with clients(server, 50) as opened:
        wait_until(lambda: held(server) == 50)
        assert server.stop() == 0
        assert outcomes(opened, 50) == {"HTTP/1.1 200 OK": 50}


def test_with_a_limit_the_rest_is_rejected(start, run, record):
    """With a limit, so many clients are held and the rest is rejected with `503` and
    `Retry-After`; without one, the rest gets no response."""
    server = start(f"{TOPIC}/server_hardened.py", HOLD=3, MAX_FILES=300)
    result = run(f"{TOPIC}/client.py", URL=server.url, COUNT=250)
    assert result.stdout == "150 clients: 200\n100 clients: 503, Retry-After\n"
    record("holding_connections/limit.txt", result.stdout)
    server = start(f"{TOPIC}/server.py", HOLD=3)
    result = run(f"{TOPIC}/client.py", URL=few_files(server).url, COUNT=250)
    assert re.search(r"(?m)^\d\d clients: 200$", result.stdout)
    assert " clients: no response (" in result.stdout
    # How many, and which error each gets, differs from run to run.
    lines = re.sub(r"(?m)^\d+|\w+Error", "…", result.stdout).splitlines(keepends=True)
    record("holding_connections/no_limit_client.txt", "".join(dict.fromkeys(lines)))


def test_a_release_during_a_release(monkeypatch):
    """A release during another release, or while a client disconnects, does no harm."""
    server = runpy.run_path(str(EXAMPLES / TOPIC / "server.py"))

    async def twice():
        waits = [asyncio.create_task(server["hold"]()) for _ in range(3)]
        await asyncio.sleep(0)
        waits[0].cancel()
        assert server["release_all"]() == server["release_all"]() == 3
        return await asyncio.gather(*waits, return_exceptions=True)

    ends = run_in_thread(twice())
    assert [type(end) for end in ends] == [asyncio.CancelledError, type(None), type(None)]
    assert not server["held"]


def test_without_a_thread_a_client_gets_no_response(start):
    """If no thread can be started, here for want of address space, a new client gets no response,
    and a traceback is logged."""
    server = start(f"{TOPIC}/server_threads.py", errors_expected=True, **LONG)
    space = server.status("VmSize") * 1024
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (space + 2**27, -1))
    with clients(server, 30) as opened:
        assert set(outcomes(opened, 1)) == {"no response"}
        server.wait_for("can't start new thread")


def test_a_client_reports_that_it_cannot_connect(run, port):
    """A client that cannot connect prints one line and exits with an error."""
    for name in "client.py", "ports.py":
        for url in f"http://127.0.0.1:{port()}", "nonsense":
            result = run(f"{TOPIC}/{name}", URL=url, COUNT=3)
            assert result.returncode == 1
            assert len(result.stderr.splitlines()) == 1


# A proxy


@pytest.fixture(scope="module")
def proxied(start_shared, assembled_shared, port):
    """Return a server and a HAProxy with room for ten in front of it."""
    server = start_shared(f"{TOPIC}/server_hardened.py", **LONG)
    start_proxy, _ = assembled_shared
    few = {"fe_conn gt 450": "fe_conn gt 10", "maxconn 480": "maxconn 20"}
    return server, start_proxy(f"{TOPIC}/haproxy.cfg", {8000: port(), 8001: server.port}, **few)


def test_a_proxy_uses_two_sockets_per_client(proxied):
    """A proxy holds two connections for each client: one to the client, and one to the server."""
    server, proxy = proxied
    with clients(proxy, 8) as opened:
        wait_until(lambda: held(server) == 8)
        wait_until(lambda: established("remote", server.port) == 8)
        wait_until(lambda: established("local", proxy.port) == 8)
        assert httpx2.post(f"{server.url}/release").json() == {"released": 8}
        assert outcomes(opened, 8) == {"HTTP/1.1 200 OK": 8}


def test_a_proxy_can_reject_for_the_server(proxied):
    """HAProxy responds with `503` and `Retry-After` in place of a full server, and also counts
    connections without a request."""
    server, proxy = proxied
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", proxy.port))))
        response = httpx2.get(f"{proxy.url}/held")
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "5"
        assert held(server) == 0
    wait_until(lambda: httpx2.get(f"{proxy.url}/held").status_code == 200)


def test_maxconn_alone_leaves_clients_waiting(proxied, start_proxy, port):
    """Above its `maxconn` alone, HAProxy leaves new clients in the kernel: they are connected, and
    get no response until another client disconnects."""
    server, _ = proxied
    ports = {8000: port(), 8001: server.port}
    proxy = start_proxy(f"{TOPIC}/haproxy.cfg", ports, **{"maxconn 480": "maxconn 5"})
    with ExitStack() as stack:
        address = "127.0.0.1", proxy.port
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(5)]
        late = stack.enter_context(closing(knock(proxy, "/held")))
        assert not select.select([late], [], [], 0.3)[0]
        silent[0].close()
        assert outcome(late) == "HTTP/1.1 200 OK"


PORTS = "40000 40019"


def test_the_connecting_side_runs_out_of_ports(tmp_path, record):
    """Towards one server, the connecting side has as many connections as ports, for each of its
    addresses: twenty ports give twenty connections, and twenty more from a second address."""
    folder = copy_isolated(EXAMPLES / TOPIC / "ports.py", tmp_path / "ports")
    listen = "import runpy, socket; s = socket.create_server(('127.0.0.1', 8000), backlog=100); "
    listen += "runpy.run_path('ports.py', run_name='__main__')"
    inside = f"ip link set lo up; echo {PORTS} > /proc/sys/net/ipv4/ip_local_port_range; "
    inside += f'exec "{sys.executable}" -c "{listen}"'
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    result = subprocess.run(
        ["unshare", "--net", *as_root, "sh", "-c", inside],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("20 connections; then: Cannot assign requested address") == 2
    record("holding_connections/ports.txt", result.stdout)


# The kernel


def test_the_kernel_connects_before_the_server_accepts():
    """The kernel connects clients before a server accepts them, as many as its backlog and one
    more; the SYN of the next one is dropped, and it waits."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4))
        opened = []
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
            opened.append(client)
        connected = select.select([], opened, [], 0.3)[1]
        assert len(connected) == 5
        for _ in range(5):
            listening.accept()[0].close()
        # Now there is room for the next SYN, which the kernel sends by itself.
        left = [client for client in opened if client not in connected]
        assert select.select([], left, [], TIMEOUT)[1]


SO_MEMINFO = 55  # Linux; Python has no name for it


def meminfo(sock):
    """Return the bytes that the kernel holds for what a socket got, and for what it sent."""
    numbers = memoryview(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)).cast("I")
    return numbers[0], numbers[5]


def test_an_idle_connection_has_empty_buffers():
    """The kernel's buffers for an idle connection are empty; data that is not read fills them, on
    both sides, up to their limits."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as client:
            server, _ = listening.accept()
            with server:
                assert meminfo(client) == (0, 0)
                assert meminfo(server) == (0, 0)
                server.setblocking(False)
                sent = 0
                while select.select([], [server], [], 0.2)[1]:  # until nothing more fits
                    sent += server.send(bytes(65536))
                assert meminfo(client)[0] > 65536
                assert meminfo(server)[1] > 65536
                assert meminfo(client)[0] + meminfo(server)[1] >= sent


def test_pings_per_second(record):
    """Computed: with a ping to each client every twenty seconds, the default of both libraries, a
    hundred thousand clients cause ten thousand frames a second."""
    interval = DEFAULT_CONFIG["WEBSOCKET_PING_INTERVAL"]
    assert interval == signature(serve).parameters["ping_interval"].default == 20
    # A ping of four bytes and its pong, which is masked.
    size = len(Frame(Opcode.PING, bytes(4)).serialize(mask=False))
    size += len(Frame(Opcode.PONG, bytes(4)).serialize(mask=True))
    rows = [
        {
            "clients": f"{number:,}",
            "pings and pongs a second": 2 * number // interval,
            "their bytes a second": size * number // interval,
        }
        for number in (1_000, 10_000, 100_000)
    ]
    record("holding_connections/pings.md", table(rows))
