"""Timeouts between client and handler: their order, and the errors when it is wrong."""

import inspect
import re
import runpy
import signal
import socket
import subprocess

import httpx2
import pytest
import trustme
from sanic import Sanic
from sanic.config import DEFAULT_CONFIG
from websockets.asyncio.client import connect as connect_async

from .support import parts
from .support.figures import ladders
from .support.messages import messages, table
from .support.parts import require_program
from .support.processes import EXAMPLES, TIMEOUT, loaded, named, wait_until
from .support.sockets import expect_cut
from .test_hostile_http import QUIET, STREAMS, path_of
from .test_load_balancing_trouble import UNCHECKED

SERVER = "load_balancing/server_hardened.py"
NGINX = "load_balancing/nginx.conf"
HAPROXY = "load_balancing/haproxy.cfg"
SHORT = 3  # s, of a proxy; an instance that sends twice within it is late by 1.5 s at most
IMPATIENT = {"proxy_read_timeout 60s": f"proxy_read_timeout {SHORT}s"}


@pytest.fixture(scope="module")
def silent(start_shared):
    """Return an instance that sends nothing by itself for longer than these proofs take."""
    ping = {"SANIC_WEBSOCKET_PING_INTERVAL": 60}
    return start_shared(SERVER, EVENT_INTERVAL=60, DRAIN_DELAY=0, CLOSE_SPREAD=0, **ping)


@pytest.fixture(scope="module")
def lively(start_shared):
    """Return an instance that pings and sends an event at intervals of half the short timeout."""
    half = SHORT / 2
    ping = {"SANIC_WEBSOCKET_PING_INTERVAL": half}
    return start_shared(SERVER, EVENT_INTERVAL=half, DRAIN_DELAY=0, CLOSE_SPREAD=0, **ping)


# The order


def seconds(name, setting):
    """Return the seconds of a setting in a configuration."""
    found = re.search(rf"(?m)^ *{setting} +(\d+)([smh])", (EXAMPLES / name).read_text())
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


CONFIGURATIONS = sorted(
    str(path.relative_to(EXAMPLES))
    for kind in ("cfg", "conf")
    for path in EXAMPLES.glob(f"*/*.{kind}")
    if not path.name.startswith("wrong_")
)
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def timers(name):
    """Return {timer: seconds} of a configuration of nginx or HAProxy."""
    text = re.sub(r"#.*", "", (EXAMPLES / name).read_text())
    pattern = r"(?m)^ *(timeout [\w-]+|\w+_timeout) +(\d+)(ms|s|m|h)\b"
    return {timer: int(n) * UNITS[unit] for timer, n, unit in re.findall(pattern, text)}


def defaults(topic, pattern):
    """Return the numbers that the servers of a topic have as defaults of such a setting."""
    text = "".join(path.read_text() for path in (EXAMPLES / topic).glob("*.py"))
    return [float(n) for n in re.findall(rf'environ\.get\("(?:{pattern})", ([\d.]+)\)', text)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_rules(name):
    """In each configuration of this site the proxy's timeouts are above the longest hold of its
    servers and at least twice their heartbeat, and below the server's own idle timeout; HAProxy
    checks each server, limits the time for a request to arrive and for a client that has closed its
    half, passes a disconnect on where requests are held, and retries at another server if there is
    one."""
    topic, found = name.split("/")[0], {"proxy_read_timeout": 60} | timers(name)  # nginx's default
    holds = defaults(topic, r"MAX_WAIT|HOLD")
    heartbeats = defaults(topic, r"EVENT_INTERVAL|PING_INTERVAL|HEARTBEAT\w*")
    heartbeats.append(DEFAULT_CONFIG["WEBSOCKET_PING_INTERVAL"])
    reads = ["timeout client", "timeout server", "timeout tunnel"]
    reads = reads if name.endswith(".cfg") else ["proxy_read_timeout"]
    for timer in reads:
        assert found[timer] >= 2 * max(heartbeats), timer
        assert found[timer] > max(holds, default=0), timer
    assert found.get("keepalive_timeout", 0) < DEFAULT_CONFIG["KEEP_ALIVE_TIMEOUT"]
    if name.endswith(".cfg"):
        assert found["timeout http-request"] <= 30
        assert found["timeout client-fin"] <= 30
        text = (EXAMPLES / name).read_text()
        servers = re.findall(r"(?m)^ +server .*", text)
        assert "option redispatch" in text or len(servers) == 1
        assert "option abortonclose" in text or not holds
        assert servers and all(
            re.search(r"\bcheck\b", server) or re.search(r"default-server .*\bcheck\b", text)
            for server in servers
        )


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name.endswith(".cfg")])
def test_haproxy_starts_with_1024_files(name, tmp_path, port):
    """HAProxy starts with each configuration of this site where a process may have 1,024 open
    files, the default of most shells."""
    require_program("haproxy")
    numbers = {int(n) for n in re.findall(r"127\.0\.0\.1:(\d+)", (EXAMPLES / name).read_text())}
    ports = {number: port() for number in numbers}
    text = parts.configured(name, ports, {})
    if "site.pem" in text:
        pem = trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        pem.write_to_path(tmp_path / "site.pem")
    (tmp_path / "haproxy.cfg").write_text(text)
    command = f"ulimit -n 1024; exec {parts.found('haproxy')} -f haproxy.cfg"
    part = parts.Part(["sh", "-c", command], tmp_path, ports[8000]).when_ready()
    if "master-worker" in text:  # a signal before it has its handlers would leave the worker
        wait_until(lambda: part.handles(signal.SIGTERM))
    part.stop()


def timeout_of_the_client(monkeypatch):
    """Return the timeout that long polling's client gives to its HTTP client."""
    given = {}

    def client(**options):
        given.update(options)
        raise httpx2.ConnectError("this is enough")

    monkeypatch.setattr(httpx2, "Client", client)
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLES / "long_polling/client.py"))
    return given["timeout"]


def test_the_timeouts_of_the_figure_are_in_order(monkeypatch, record):
    """In the files of this site the handler ends first when a response is due, then the server,
    then proxy and client; of an idle connection it is the other way round; and heartbeats come at
    least twice within each idle timeout."""
    monkeypatch.setattr(Sanic, "run", lambda app, **_: None)  # configured, and not started
    instance = loaded(SERVER, run_name="__main__")
    hold, framework = instance["MAX_WAIT"], instance["app"].config.RESPONSE_TIMEOUT
    expiry = httpx2._config.DEFAULT_LIMITS.keepalive_expiry
    nginx = seconds(NGINX, "proxy_read_timeout")
    kept = seconds(NGINX, "keepalive_timeout")
    haproxy = seconds(HAPROXY, "timeout server")
    client = seconds(HAPROXY, "timeout client")
    tunnel = seconds(HAPROXY, "timeout tunnel")
    sanic = DEFAULT_CONFIG["KEEP_ALIVE_TIMEOUT"]
    ping, tick = DEFAULT_CONFIG["WEBSOCKET_PING_INTERVAL"], instance["EVENT_INTERVAL"]
    age = instance["MAX_AGE"]
    reads = timeout_of_the_client(monkeypatch)
    assert hold < framework < reads < min(nginx, haproxy, client)
    assert expiry < client
    assert max(kept, haproxy) < sanic
    assert max(ping, tick) * 2 <= min(nginx, haproxy, client, tunnel)
    assert age <= tunnel
    record(
        "timeouts/ladders.svg",
        ladders(
            [
                (
                    "While a response is due: the handler first",
                    [
                        ("handler", "limit of the hold", hold),
                        ("Sanic", "RESPONSE_TIMEOUT", framework),
                        ("client", "timeout of a long poll", reads),
                        ("proxy", "timeout server, proxy_read_timeout", min(nginx, haproxy)),
                    ],
                ),
                (
                    "While a connection is idle: the client first",
                    [
                        ("client", "keepalive_expiry", expiry),
                        ("proxy, to the client", "timeout client", client),
                        ("proxy, to the instance", "keepalive_timeout", kept),
                        ("Sanic", "KEEP_ALIVE_TIMEOUT", sanic),
                    ],
                ),
                (
                    "While a stream is open: at least two heartbeats",
                    [
                        ("stream", "heartbeat interval", tick),
                        ("WebSocket", "ping interval", ping),
                        ("nginx", "proxy_read_timeout", nginx),
                        ("HAProxy", "timeout tunnel", tunnel),
                    ],
                ),
            ],
            "Timeouts between client and handler",
            f"Three ladders. While a response is due: hold {hold:g} s, Sanic {framework:g} s, "
            f"client {reads:g} s, proxy {min(nginx, haproxy)} s. While a connection is idle: "
            f"client {expiry:g} s, proxy {client} and {kept} s, Sanic {sanic} s. "
            f"While a stream is open: heartbeat {tick:g} s, ping {ping} s, nginx {nginx} s, "
            f"HAProxy {tunnel:,} s.",
        ),
    )


def test_the_defaults(record):
    """The defaults of the installed packages are those of the table."""
    sanic, timeout = DEFAULT_CONFIG, httpx2._config.DEFAULT_TIMEOUT_CONFIG
    given = inspect.signature(connect_async.__init__).parameters
    rows = [
        ("httpx2", "timeout", timeout.read, "between two reads of a response"),
        ("httpx2", "keepalive_expiry", httpx2._config.DEFAULT_LIMITS.keepalive_expiry, "idle"),
        ("websockets", "open_timeout", given["open_timeout"].default, "the handshake"),
        ("websockets", "ping_interval", given["ping_interval"].default, "to the next ping"),
        ("websockets", "ping_timeout", given["ping_timeout"].default, "for a pong"),
        (
            "websockets",
            "close_timeout",
            given["close_timeout"].default,
            "for the peer's close frame",
        ),
        ("Sanic", "REQUEST_TIMEOUT", sanic["REQUEST_TIMEOUT"], "a request to arrive"),
        ("Sanic", "RESPONSE_TIMEOUT", sanic["RESPONSE_TIMEOUT"], "the handler, between sends"),
        ("Sanic", "KEEP_ALIVE_TIMEOUT", sanic["KEEP_ALIVE_TIMEOUT"], "idle"),
        ("Sanic", "WEBSOCKET_PING_INTERVAL", sanic["WEBSOCKET_PING_INTERVAL"], "to the next ping"),
        ("Sanic", "WEBSOCKET_PING_TIMEOUT", sanic["WEBSOCKET_PING_TIMEOUT"], "for a pong"),
        ("Sanic", "GRACEFUL_SHUTDOWN_TIMEOUT", sanic["GRACEFUL_SHUTDOWN_TIMEOUT"], "to stop"),
    ]
    rows = table(
        [
            {"party": whose, "timeout": f"`{name}`", "seconds": f"{value:g}", "for": what}
            for whose, name, value, what in rows
        ]
    )
    words, numbers = "| --- | --- | --: | --- |", "| --- | --: | --: | --: |"
    record("timeouts/defaults.md", rows.replace(numbers, words))


def test_haproxy_has_no_defaults(tmp_path, record):
    """HAProxy has no defaults for its timeouts: it accepts a file without them, and warns."""
    text = (EXAMPLES / HAPROXY).read_text()
    bare = re.sub(r"(?m)^ +timeout (connect|client|server) .*\n", "", text)
    (tmp_path / "haproxy.cfg").write_text(bare)
    ran = subprocess.run(
        [require_program("haproxy"), "-c", "-f", "haproxy.cfg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0
    printed = re.sub(r"\(\d+\) ", "", ran.stdout + ran.stderr)
    frontend = printed[printed.index("[WARNING]") :]
    assert "missing timeouts for frontend 'clients'" in frontend
    assert "missing timeouts for backend 'instances'" in frontend
    lines = re.findall(r"(?m)^.*(?:missing timeouts|^ +\|).*$", frontend)
    record("timeouts/haproxy.txt", "\n".join(lines[:4]) + "\n")


SERVERS = [name for name in named("server*.py", "environ") if "/wrong_" not in name]
SERVERS += [name for name in named("*.py", "app.run(") if name not in SERVERS]


@pytest.mark.parametrize("name", [name for name in SERVERS if "/wrong_" not in name])
def test_every_server_keeps_the_rules(name):
    """Each server ends a hold before its own response timeout, and its heartbeats and pings are at
    most half of 60 seconds, the default idle timeout of most proxies."""
    text = (EXAMPLES / name).read_text()
    holds = settings(text, "MAX_WAIT|HOLD")
    if re.search(r"RESPONSE_TIMEOUT = (MAX_WAIT|HOLD) \+ 5", text):
        holds = {}
    assert all(hold < DEFAULT_CONFIG["RESPONSE_TIMEOUT"] for hold in holds.values()), holds
    intervals = settings(text, r"(?:EVENT_INTERVAL|PING_INTERVAL|HEARTBEAT\w*)")
    assert all(interval <= 30 for interval in intervals.values()), intervals


def settings(text, pattern):
    """Return {name: seconds} for the settings of a program, with or without a variable for each."""
    found = re.findall(rf"(?m)^({pattern}) = (?:\w+\(.*?, )?([\d.]+)", text)
    return {name: float(value) for name, value in found}


HOLDING = named("client*.py", '"Prefer"')


@pytest.mark.parametrize("name", HOLDING)
def test_every_client_waits_longer_than_the_server(name):
    """The timeout of each client that long-polls is longer than the hold that it requests."""
    text = (EXAMPLES / name).read_text()
    hold = settings(text, "WAIT").get("WAIT") or float(re.search(r"wait=(\d+)", text)[1])
    (read,) = re.findall(r"timeout=WAIT \+ (\d+)|read=(\d+)", text)
    assert hold < (hold + float(read[0]) if read[0] else float(read[1]))


@pytest.mark.parametrize("name", STREAMS)
def test_an_event_stream_begins_at_once(start, name):
    """Each event stream of the hardened servers sends its first bytes at once, also if there is no
    event yet, and forbids caching and compression."""
    server = start(name, **QUIET)
    with httpx2.stream("GET", server.url + path_of(server, name), timeout=TIMEOUT) as response:
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert next(response.iter_text())


def test_every_server_of_event_streams_is_tried():
    """Each program that sends an event stream is one of those, a quick start or a wrong program;
    security's sends one event and ends."""
    senders = set(named("*.py", "text/event-stream")) & set(named("*.py", "app.run("))
    others = {name for name in senders if name.endswith("/server.py") or "/wrong_" in name} - set(
        STREAMS
    )
    assert senders - others == set(STREAMS) | {"security/server_cors.py"}


# While a response is due


def submit(url):
    return url + httpx2.post(f"{url}/jobs", json={"seconds": 60}).headers["Location"]


def poll(job, wait, timeout=30):
    return httpx2.get(job, headers={"Prefer": f"wait={wait}"}, timeout=timeout)


def test_in_order_the_hold_ends_first(silent, before):
    """With hold, server, proxy and client in order, a held request through nginx and one through
    HAProxy get `pending` from the handler."""
    for name, change in (
        (NGINX, {"proxy_read_timeout 60s": "proxy_read_timeout 4s"}),
        (HAPROXY, {"60s": "4s"}),
    ):
        response = poll(submit(before(name, silent.port, **change).url), wait=1, timeout=8)
        assert (response.status_code, response.json()["status"]) == (200, "pending")


@pytest.mark.parametrize("name", [NGINX, HAPROXY])
def test_a_server_timeout_below_the_hold_is_503(start, before, name):
    """A Sanic timeout below the hold is a `503` during the hold, in the format of the application's
    own errors, through nginx and HAProxy."""
    timer = {"SANIC_RESPONSE_TIMEOUT": 0.5}
    wrong = start("long_polling/wrong_timeout.py", errors_expected=True, **timer)
    changes = UNCHECKED if name == HAPROXY else {}
    response = poll(submit(before(name, wrong.port, **changes).url), wait=20)
    assert response.status_code == 503
    assert response.json()["message"] == "Response Timeout"


def test_a_proxy_timeout_below_the_hold_is_504(silent, before):
    """A proxy timeout below the hold is a `504` with the proxy's own page."""
    for name, changes in (
        (NGINX, {"proxy_read_timeout 60s": "proxy_read_timeout 300ms"}),
        (HAPROXY, {"timeout server  60s": "timeout server 300ms"}),
    ):
        response = poll(submit(before(name, silent.port, **changes).url), wait=20)
        assert response.status_code == 504
        assert "<h1>504 Gateway Time-out</h1>" in response.text


def test_nginx_tries_every_instance_and_excludes_all(silent, before, tap, record):
    """A held request that outlasts nginx's timeout is sent to each instance in turn, and each of
    them counts as failed: after that every client gets `502`, though all instances are healthy."""
    wire = tap(silent)
    changes = {"proxy_read_timeout 60s": "proxy_read_timeout 300ms"}
    changes |= {"fail_timeout=2s": "fail_timeout=60s"}
    proxy = before(NGINX, wire.port, **changes)
    late = poll(submit(proxy.url), wait=20)
    assert late.elapsed.total_seconds() > 0.8  # three timers, a little early each
    statuses = [late.status_code]
    statuses.append(httpx2.get(f"{proxy.url}/health").status_code)
    polls = [m.target for m in messages(wire.events) if m.target and m.target.startswith("/jobs/")]
    assert (len(polls), statuses) == (3, [504, 502])
    assert httpx2.get(f"{silent.url}/health").status_code == 200
    record(
        "timeouts/nginx_gives_up.txt",
        f"a request held for too long: {statuses[0]}, after {len(polls)} instances\n"
        f"the next request:            {statuses[1]}\n"
        "the next, sent to an instance itself: 200\n",
    )


def test_a_client_timeout_below_the_hold_raises(silent, before):
    """A client timeout below the hold raises `ReadTimeout` in the client, without a status."""
    proxy = before(NGINX, silent.port)
    with pytest.raises(httpx2.ReadTimeout):
        poll(submit(proxy.url), wait=20, timeout=0.5)


def half_a_request(url):
    """Send the beginning of a request and no more; return the first line of the response."""
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
        client.settimeout(30)
        return client.recv(65536).split(b"\r\n")[0].decode()


def test_an_incomplete_request_gets_408(start, before, silent):
    """An incomplete request gets `408`: from Sanic by `REQUEST_TIMEOUT`, from HAProxy by `timeout
    http-request`."""
    slow = start("token/server_hardened.py", SANIC_REQUEST_TIMEOUT=0.5)
    proxy = before(
        HAPROXY, silent.port, **{"timeout http-request 10s": "timeout http-request 500ms"}
    )
    assert half_a_request(slow.url).startswith("HTTP/1.1 408 ")
    assert half_a_request(proxy.url).startswith("HTTP/1.1 408 ")


# While a stream or a WebSocket is open


def test_nginx_closes_an_idle_websocket(silent, lively, before):
    """nginx closes an idle WebSocket with 1006 when `proxy_read_timeout` expires; one with pings at
    intervals of half the timeout stays open."""
    quiet = before(NGINX, silent.port, **IMPATIENT)
    pinged = before(NGINX, lively.port, **IMPATIENT)
    expect_cut(quiet.url, pinged.url)


def test_haproxy_closes_an_idle_websocket(silent, lively, before):
    """HAProxy closes an idle WebSocket with 1006 when `timeout tunnel` expires; one with pings at
    intervals of half the timeout stays open."""
    short = {"timeout tunnel  1h": f"timeout tunnel {SHORT}s"}
    pinged = before(HAPROXY, lively.port, **short)
    quiet = before(HAPROXY, silent.port, **short)
    expect_cut(quiet.url, pinged.url)


@pytest.mark.parametrize(
    "name, changes",
    [(NGINX, IMPATIENT), (HAPROXY, {"timeout server  60s": f"timeout server {SHORT}s"})],
)
def test_a_proxy_ends_an_idle_stream(silent, lively, before, name, changes):
    """A stream without an event for longer than a proxy's timeout ends early, without its last
    chunk; with events at intervals of half the timeout it stays open."""
    with httpx2.Client(timeout=30) as client:
        with client.stream("GET", f"{before(name, lively.port, **changes).url}/events") as lasting:
            going = lasting.iter_lines()
            with client.stream("GET", f"{before(name, silent.port, **changes).url}/events") as cut:
                with pytest.raises(httpx2.RemoteProtocolError, match="incomplete"):
                    list(cut.iter_lines())
            came = [next(going) for _ in range(8)]
    assert came == ["data: a", ""] * 4
