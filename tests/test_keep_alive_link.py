"""Keep-alive over a slow link: what a connection costs, in round trips."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from .support.link import FAR, NAME, NEAR, PORT, Link
from .support.messages import table
from .support.parts import require_program, skip_or_fail
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
from .support.sequence import in_order, sequence_diagram, trace_of
from .support.waterfall import waterfall

TRIP = 0.1  # seconds that a round trip takes


class Place(NamedTuple):
    """A link, and how to run programs in its namespace."""

    link: Link
    folder: Path
    programs: list  # that run at the far end

    def start(self, command, words=READY, name="", **variables):
        """Start a command at the far end."""
        folder = self.folder / (name or "server")
        folder.mkdir(exist_ok=True)
        program = Program(
            self.link.inside(command), folder, environment(PORT=PORT, NAME=NAME, **variables), PORT
        )
        self.programs.append(program)
        return program.wait_for(*words)

    def run(self, command, **variables):
        """Run a command at the near end, to its end; return what it printed."""
        trust = str(self.folder / "server/ca.pem")
        result = subprocess.run(
            self.link.inside(command),
            cwd=self.folder,
            env=environment(SSL_CERT_FILE=trust, CURL_CA_BUNDLE=trust, **variables),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def example(self, name):
        """Return the command that runs an example, copied alone into a folder."""
        folder = self.folder / name.replace("/", "-")
        if not folder.exists():
            copy_isolated(EXAMPLES / name, folder)
        return [argv(EXAMPLES / name)[0], str(folder / EXAMPLES.joinpath(name).name)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return open(round_trip) -> Place; without Linux, or its tools, skip by name."""
    if not sys.platform.startswith("linux"):
        skip_or_fail("a slow link needs the TUN device and the namespaces of Linux")
    for tool, package in [
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
        ("curl", "curl"),
    ]:
        require_program(tool, package)
    places = []

    def open_place(round_trip):
        try:
            link = Link(round_trip)
        except OSError as error:
            skip_or_fail(f"a slow link needs a TUN device and a network namespace: {error}")
        places.append(Place(link, tmp_path_factory.mktemp("link"), []))
        return places[-1]

    yield open_place
    with ExitStack() as ends:  # closes each, also when stopping another failed
        for here in places:
            ends.callback(here.link.close)
            for program in here.programs:
                ends.callback(program.stop)


@pytest.fixture(scope="module")
def measured(place):
    """Return {scheme: (Place, what each of the first 11 connections carried, the times that
    trips.sh printed for ten requests on a connection each, those for ten on one)}."""
    places = {"http": place(TRIP), "https": place(TRIP)}
    for scheme, server in ("http", "server.py"), ("https", "tls.py"):
        here = places[scheme]
        here.start(here.example(f"keep_alive/{server}"))

    def measure(scheme):
        here = places[scheme]
        printed = here.run(here.example("keep_alive/trips.sh"), URL=f"{scheme}://{NAME}:{PORT}")
        each, one = (
            [[float(number) for number in line.split()] for line in block.splitlines()]
            for block in printed.split("\n\n")
        )
        return here, connections_on(here.link)[:11], each, one

    with ThreadPoolExecutor() as beside:
        return dict(zip(places, beside.map(measure, places), strict=True))


def round_trips(log):
    """Return for how many round trips a client waited on a connection. A round trip begins with
    the first packet that the client sends after it received one, and ends with the response."""
    count, received, sent = 0, True, False
    for packet in log:
        if not packet.size and "S" not in packet.flags:  # only acknowledges, or ends
            continue
        up = packet.target in (53, PORT)
        if up and not packet.arrived and received:
            received, sent = False, True
        elif not up and packet.arrived and sent:
            count, received, sent = count + 1, True, False
        elif not up and packet.arrived:
            received = True
    return count


def connections_on(link):
    """Return the packets of each TCP connection, in the order in which they were opened."""
    log = link.log
    ports = [p.source for p in log if p.flags == "S" and not p.arrived]
    return [[p for p in log if port in (p.source, p.target)] for port in ports]


def parts(connections, lookups):
    """Return the parts that a request on a new connection waited for: [(name, start, end)], in
    round trips. The fewest of several count: a busy machine may have waited twice for one
    thing."""
    trips = min(map(round_trips, connections))
    ends = {"DNS": lookups, "TCP": lookups + 1, "TLS": lookups + trips - 1}
    ends["request"] = lookups + trips
    starts = [0, *ends.values()]
    return [
        (part, start, end)
        for (part, end), start in zip(ends.items(), starts, strict=False)
        if end > start
    ]


def looked_up(link, start, end):
    """Return how many lookups there were between two moments. Each is for an IPv4 and an IPv6
    address, together."""
    return round_trips([p for p in link.log if p.protocol == "udp" and start < p.at < end])


def test_a_new_connection_costs_two_more_round_trips(measured):
    """A new connection takes one round trip for the DNS lookup and one for TCP before the request:
    the response arrives after three."""
    _, connections, each, _ = measured["http"]
    assert parts(connections[:10], 1) == [("DNS", 0, 1), ("TCP", 1, 2), ("request", 2, 3)]
    for line in each:  # and no clock differs
        assert line[0] >= 0.99 * TRIP and line[1] >= 1.99 * TRIP and line[3] >= 2.99 * TRIP


def test_tls_1_3_costs_one_more(measured):
    """TLS 1.3 takes one more round trip for its handshake."""
    _, connections, each, _ = measured["https"]
    assert parts(connections[:10], 1)[2:] == [("TLS", 2, 3), ("request", 3, 4)]
    for line in each:
        assert line[2] >= 2.99 * TRIP and line[3] >= 3.99 * TRIP


@pytest.fixture(scope="module")
def older(measured):
    """Return the parts of a request over TLS 1.2."""
    here = measured["https"][0]
    before = len(connections_on(here.link))
    curl = ["curl", "--silent", "--fail", "--output", "/dev/null", "--tls-max", "1.2"]
    for _ in range(2):
        here.run([*curl, f"https://{NAME}:{PORT}"])
    return parts(connections_on(here.link)[before:], 1)


def test_tls_1_2_costs_two_more(older):
    """The handshake of TLS 1.2 takes two round trips."""
    assert older[2:] == [("TLS", 2, 4), ("request", 4, 5)]


def test_a_reused_connection_costs_the_request(measured, older, record):
    """Over an open connection, a request takes one round trip, with TLS and without."""
    for _, connections, _, one in measured.values():
        new = min(map(round_trips, connections[:10]))
        assert round_trips(connections[10]) == new + 9
        assert all(line[1] == line[2] == 0 for line in one[1:])  # nothing to connect
    figure = waterfall(
        [
            ("new connection, http", parts(measured["http"][1][:10], 1)),
            ("new connection, https (TLS 1.3)", parts(measured["https"][1][:10], 1)),
            ("new connection, https (TLS 1.2)", older),
            ("reused connection, either", [("request", 0, 1)]),
        ],
        "What a request waits for, in round trips",
        "On a new connection over http: one round trip for DNS, one for TCP, one for the request. "
        "Over https with TLS 1.3 one more for TLS, with TLS 1.2 two more. On a reused connection: "
        "one for the request and none before it.",
    )
    record("keep_alive/waterfall.svg", figure)


def test_a_kept_connection_has_one_handshake(measured, record):
    """A kept connection has one TCP handshake, before the first of its ten requests."""
    seen, rows = set(), []
    for packet in measured["http"][1][10]:
        kind = packet.source == PORT, packet.flags.replace("P", ""), bool(packet.size)
        label = LABELS.get(kind)
        if label and not packet.arrived and (packet.source, packet.sequence, label) not in seen:
            seen.add((packet.source, packet.sequence, label))
            rows.append((*label, ""))
    new = [("up", "SYN", ""), ("down", "SYN, ACK", "")]
    exchange = [("up", "GET /", ""), ("down", "200", "")]
    assert rows == new + 10 * exchange
    shown = [*rows[:8], ("note", "idle, still open", "", "server")]
    record(
        "keep_alive/timeline.svg",
        sequence_diagram(
            in_order(shown),
            "Three requests on one connection, drawn from its packets",
            "The client sends SYN and receives SYN and ACK: the handshake of TCP. Then it sends "
            "three GET requests in sequence, and receives 200 to each, on the same connection, "
            "which stays open.",
        ),
    )


LABELS = {  # (from the server, flags, with data): what the figure shows
    (False, "S", False): ("up", "SYN"),
    (True, "SA", False): ("down", "SYN, ACK"),
    (False, "A", True): ("up", "GET /"),
    (True, "A", True): ("down", "200"),
}


def costs(packets, ports, lookups, trips, plain):
    """Return what some connections cost, counted from the packets on the link."""
    up = {(p.source, p.sequence): p.size for p in packets if p.source in ports and p.size}
    down = {(p.target, p.sequence): p.size for p in packets if p.target in ports and p.size}

    def about(number):
        # Signatures and certificates differ by a few bytes from one to the next.
        return number if plain else int(float(f"{number:.2g}"))

    return {
        "lookups": lookups,
        "connections": len(ports),
        "data segments": len(up) + len(down) if plain else "–",
        "bytes up": about(sum(up.values())),
        "bytes down": about(sum(down.values())),
        "round trips": f"{trips:g}",
    }


def test_the_columns_of_trips(measured):
    """The script trips.sh prints five times for each of twenty requests. On the shared connection
    the times of TCP and TLS are zero from the second request on; without TLS its time is zero."""
    for scheme, (_, _, each, one) in measured.items():
        assert [len(line) for line in each + one] == [5] * 20
        for lookup, tcp, tls, first, last in [*each, one[0]]:
            assert 0 < lookup < tcp < first <= last
            assert tcp < tls < first if scheme == "https" else tls == 0
        assert {(tcp, tls) for _, tcp, tls, *_ in one[1:]} == {(0, 0)}


def test_ten_requests(measured, record):
    """Ten requests over one connection take less than half the round trips and, with TLS, a fifth
    of the bytes of ten over a connection each."""
    rows, trips = [], {}
    for scheme, (here, connections, _, _) in measured.items():
        ports = [connection[0].source for connection in connections]
        assert len(set(ports)) == 11
        packets = here.link.packets
        before, last = connections[9][0].at, connections[10][0].at
        each = 10 * min(map(round_trips, connections[:10]))
        for name, some, looked, took in [
            ("a connection each", ports[:10], looked_up(here.link, 0, before), each),
            (
                "one for all",
                ports[10:],
                looked_up(here.link, before, last),
                round_trips(connections[10]),
            ),
        ]:
            took += looked
            plain = scheme == "http"
            row = costs(packets, some, looked, took, plain)
            rows.append({"ten requests": f"{scheme}, {name}"} | row)
            trips[scheme, name] = took
    record("keep_alive/ten.md", table(rows))
    for scheme in measured:
        assert trips[scheme, "one for all"] < trips[scheme, "a connection each"] / 2
    each, one = (row["bytes up"] + row["bytes down"] for row in rows[2:])
    assert one * 5 < each * 1.1


RESUME = f"""
import socket, ssl
for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = version
    session = None
    for _ in range(2):
        plain = socket.create_connection(("{FAR}", {PORT}))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = context.wrap_socket(plain, server_hostname="{NAME}", session=session)
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        while sock.recv(65536):
            pass
        session = sock.session
        print(sock.session_reused)
"""


def test_resuming_tls_1_3_saves_no_round_trip(measured):
    """Resuming a session saves a round trip of the handshake in TLS 1.2, and none in TLS 1.3."""
    here = measured["https"][0]
    before = len(connections_on(here.link))
    runs = [here.run([sys.executable, "-c", RESUME]).split() for _ in range(2)]
    assert runs[0] == runs[1] == ["False", "True"] * 2
    took = [round_trips(connection) for connection in connections_on(here.link)[before:]]
    # Of the turns of each connection, the first is TCP's and the last the request's.
    assert [min(both) - 2 for both in zip(took[:4], took[4:], strict=True)] == [2, 1, 1, 1]


# Slow start, and an end that is gone


WEB_SERVER = f"""
from http.server import SimpleHTTPRequestHandler as Handler, ThreadingHTTPServer
Handler.protocol_version = "HTTP/1.1"
Handler.wbufsize, Handler.disable_nagle_algorithm = -1, True  # written at once
server = ThreadingHTTPServer(("{NEAR}", 8001), Handler)
print("Serving HTTP", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def far(place):
    """Return a Place at the end of a longer link, with the web server that Python brings."""
    here = place(TRIP)
    folder = here.folder / "server"
    folder.mkdir()
    (folder / "big").write_bytes(b"x" * 80_000)
    here.start([sys.executable, "-c", WEB_SERVER], ["Serving HTTP"])
    return here


# Linux halves the window for each timeout of a retransmission that passes, which on a busy machine
# is longer: enough of them to come down to ten again.
IDLE = 6  # seconds

THREE = f"""
import http.client, time
connection = http.client.HTTPConnection("{FAR}", 8001)
for pause in 0, 0, {IDLE}:
    time.sleep(pause)
    connection.request("GET", "/big")
    assert len(connection.getresponse().read()) == 80_000
"""


@pytest.fixture(scope="module")
def flights(far):
    """Return how many segments with data set out together, for each of three requests on one
    connection: on the new one, at once, and after it was idle."""
    while True:
        with ThreadPoolExecutor() as beside:
            list(beside.map(far.run, [[sys.executable, "-c", THREE]] * 7))
        log = far.link.log
        clients = [p.source for p in log if p.flags == "S" and p.target == 8001 and not p.arrived]
        seen = [flown([p for p in log if client in (p.source, p.target)]) for client in clients]
        # A busy machine makes some of them odd now and then: what most have in common is it.
        common = max(seen, key=seen.count)
        if seen.count(common) > len(seen) / 2:
            return common


def flown(log):
    """Return how many segments with data set out together, for each request on a connection."""
    found, acknowledged, begin, seen = [], 0, None, set()
    for packet in log:
        if packet.target == 8001 and packet.arrived:
            acknowledged = packet.acknowledged
            if packet.size:  # a request
                found.append([])
                begin = None
        elif packet.source == 8001 and packet.size and packet.sequence not in seen:
            seen.add(packet.sequence)
            # What set out after the first of a flight was acknowledged belongs to the next.
            if begin is None or 0 < (acknowledged - begin) % 2**32 < 2**31:
                found[-1].append(0)
                begin = packet.sequence
            found[-1][-1] += 1
    return found


def test_slow_start(flights, record):
    """The first ten segments of a large response are sent at once, and twice as many in each round
    trip after that; the same response again on the same connection takes a single round trip."""
    new, again, idle = flights
    assert (new[:2], len(new), len(again)) == ([10, 20], 3, 1)
    assert idle == new
    rows = [
        {
            "80,000 bytes": name,
            "segments in each flight": ", ".join(map(str, sizes)),
            "round trips": len(sizes),
        }
        for name, sizes in [
            ("on a new connection", new),
            ("again, at once", again),
            (f"again, after {IDLE} seconds", idle),
        ]
    ]
    record("keep_alive/slow_start.md", table(rows))


def test_an_idle_connection_starts_slowly_again(flights):
    """On Linux a connection that was idle for a while starts slowly again."""
    new, again, idle = flights
    assert len(idle) == len(new) > len(again)


TWO = f"""
import http.client, traceback
connection = http.client.HTTPConnection("{FAR}", {PORT})
for _ in range(2):
    connection.request("GET", "/")
    try:
        print(connection.getresponse().read().decode())
    except http.client.RemoteDisconnected as error:
        print(*traceback.format_exception_only(error), end="")
"""


def test_a_request_crosses_a_close_on_a_slow_link(place, record):
    """On a slow link, a request is sent before the server's close has arrived, and reaches the
    server after it has closed: the client receives a reset, and the request is not processed."""
    here = place(4)
    here.start(here.example("keep_alive/server.py"), SANIC_KEEP_ALIVE_TIMEOUT=1)
    printed = here.run([sys.executable, "-c", TWO])
    assert printed.splitlines()[:-1] == ['{"connection":1,"request":1}']
    record("keep_alive/crossing.txt", printed)

    def moments(source, flag, size=0):
        """Return when the packets of a kind entered the link, and left it: places in the log."""
        found = {}
        for number, packet in enumerate(here.link.log):
            same = (packet.source == PORT) == (source == "server") and packet.size >= size
            if same and flag in packet.flags:
                found.setdefault(packet.sequence, {}).setdefault(packet.arrived, number)
        return [(each[False], each[True]) for each in found.values() if len(each) == 2]

    wait_until(lambda: moments("server", "R"))
    first, second = moments("client", "P", 1)
    (response,) = moments("server", "P", 1)
    close, reset = moments("server", "F")[0], moments("server", "R")[0]
    order = [*first, response[0], close[0], response[1], second[0], close[1], second[1], *reset]
    assert order == sorted(order)
    # The next is the first of the second connection: the other request was not processed.
    printed = here.run([sys.executable, "-c", TWO.replace("range(2)", "range(1)")])
    assert printed == '{"connection":2,"request":1}\n'
    # A row is left out, so that the text of the close does not lie over the response.
    rows = dict(zip(order, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10], strict=True))
    drawn = [
        (first, "client", "GET /"),
        (response, "server", "200"),
        (close, "server", "FIN"),
        (second, "client", "GET /"),
        (reset, "server", "RST"),
    ]
    other = {"client": "server", "server": "client"}
    trace = trace_of(
        ["client", "server"],
        [
            {
                "at": rows[sent],
                "arrives": rows[arrived],
                "from": source,
                "to": other[source],
                "text": text,
            }
            for (sent, arrived), source, text in drawn
        ],
        notes=[
            {"at": rows[close[0]], "lane": "server", "text": "idle timeout"},
            {"at": rows[second[1]], "lane": "server", "text": "socket closed"},
        ],
    )
    figure = sequence_diagram(
        trace,
        "A request crosses a close",
        "The client sends GET, and the server sends 200. The connection is idle, and the server "
        "closes it: FIN. Before the FIN arrives, the client sends the next GET. It reaches a "
        "closed socket, and the server's kernel responds with RST.",
    )
    record("keep_alive/crossing.svg", figure)


def test_keepalive_probes_detect_a_dead_peer(place, record):
    """When the link is cut, a socket with TCP keepalive fails after two unacknowledged probes; one
    without notices nothing."""
    here = place(TRIP)
    here.start(here.example("keep_alive/server.py"))
    command = here.example("keep_alive/probes.py")
    url = {"URL": f"http://{FAR}:{PORT}"}
    with_probes = here.start(command, ("enabled:",), "with", SECONDS=60, **url)
    without = here.start(command, ("default:",), "without", SECONDS=60, KEEPALIVE="no", **url)
    ports = list(dict.fromkeys(p.source for p in here.link.packets if p.flags == "S"))
    assert len(ports) == 2
    deadline = time.monotonic() + TIMEOUT

    def probes():
        # A probe repeats the last byte number that was acknowledged, and has no byte.
        first = {p.source: p.sequence for p in here.link.packets if p.flags == "S"}
        return [
            p
            for p in here.link.packets
            if p.source in ports and p.sequence == first[p.source] and p.flags == "A"
        ]

    while len(probes()) < 2:  # acknowledged, one after the other, and nothing happens
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert with_probes.process.poll() is None
    here.link.cut()
    assert with_probes.wait() == 1
    assert "the peer is gone" in with_probes.output
    assert {p.source for p in probes()} == {ports[0]}
    assert all(p.size == 0 for p in probes())
    assert without.process.poll() is None
    without.stop()
    record("keep_alive/probes.txt", with_probes.output)


def test_a_frozen_process_passes_keepalive_probes(far):
    """The peer's kernel acknowledges probes: a frozen server looks alive."""
    web = far.programs[0]
    web.send(signal.SIGSTOP)
    try:
        url = f"http://{FAR}:8001"
        printed = far.run(far.example("keep_alive/probes.py"), URL=url, SECONDS=5)
    finally:
        web.send(signal.SIGCONT)
    assert printed.splitlines()[-1] == "nothing received in 5 s"


def test_tcp_keepalive_is_off_by_default(measured):
    """TCP keepalive is off by default, and Linux would send the first probe after two hours."""
    here = measured["http"][0]
    printed = here.run(
        here.example("keep_alive/probes.py"), URL=f"http://{NAME}:{PORT}", SECONDS=0, KEEPALIVE="no"
    )
    assert printed == (
        "default: off: after 7200 s idle, every 75 s, 9 probes\nnothing received in 0 s\n"
    )
