"""What each tool shows of a connection: curl, logs, asyncio, a watchdog, tcpdump, the browser."""

import asyncio
import faulthandler
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import httpx2
import pytest

from .support import parts
from .support.parts import require_program, skip_or_fail
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)
from .support.recorder import stable, wrap_lines
from .support.sequence import in_order, sequence_diagram
from .support.sockets import connect
from .support.threads import run_in_thread

TOPIC = "debugging"


@pytest.fixture(scope="module")
def server(start_shared):
    return start_shared(f"{TOPIC}/server.py", HOLD=0.1, LOG_LEVEL="DEBUG")


def wire_lines(output):
    """Return curl's lines about requests and responses, without its own notes and its version."""
    output = re.sub(r"User-Agent: curl/[\w.]+", "User-Agent: curl/7.88.1", output)
    return re.sub(r"(?m)^[{}] \[\d+ bytes data\]\n|(?m:^)\*.*\n|\* Conn.*\n", "", output)


# curl


def test_curl_shows_request_and_response(server, run, record):
    """`curl --verbose` marks the lines of the request with `>` and those of the response with
    `<`."""
    output = run(f"{TOPIC}/poll.sh", URL=server.url).stdout
    assert "> GET /poll HTTP/1.1" in output
    assert "< HTTP/1.1 200 OK" in output
    record("debugging/poll.txt", wire_lines(output) + "\n")


def test_curl_shows_an_event_stream(server, run, record):
    """`curl --verbose --no-buffer` shows the content type and the transfer encoding of a stream,
    and then its events."""
    output = run(f"{TOPIC}/stream.sh", URL=server.url).stdout
    assert "< content-type: text/event-stream" in output
    assert "< transfer-encoding: chunked" in output
    assert output.count("data: event") == 3
    record("debugging/stream.txt", wire_lines(output))


def test_curl_without_buffering_prints_each_event_on_arrival(start, tmp_path):
    """With `--no-buffer` curl prints the first event long before the stream ends."""
    slow = start(f"{TOPIC}/server.py", HOLD=60)
    example = EXAMPLES / TOPIC / "stream.sh"
    curl = Program(
        argv(example), copy_isolated(example, tmp_path / "stream"), environment(URL=slow.url)
    )
    curl.wait_for("data: event 1")
    assert "data: event 2" not in curl.output
    curl.send(signal.SIGTERM)
    curl.wait()  # for both, the shell and curl: the last of them closes the pipe


def test_curl_shows_the_handshake_and_the_first_frame(server, run, record):
    """curl shows the `101` with the `Sec-WebSocket-Accept` that belongs to the key, and the bytes
    of the first frame; the connection stays open, so curl ends with its own timeout."""
    output = run(f"{TOPIC}/handshake.sh", URL=server.url, LISTEN_SECONDS=1).stdout
    assert output.startswith("HTTP/1.1 101 Switching Protocols^M\n")
    assert "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in output
    # A final text frame, 0x81, of five bytes, 0x05.
    assert output.endswith("^M\n^M\nM-^A^Ehello")
    record("debugging/handshake.txt", output + "\n")


@pytest.mark.parametrize("name", ["poll.sh", "stream.sh", "handshake.sh"])
def test_a_script_reports_that_it_cannot_connect(name, run, port):
    """A script that cannot connect prints so and exits with an error."""
    result = run(f"{TOPIC}/{name}", URL=f"http://127.0.0.1:{port()}")
    assert result.returncode not in {0, 28}
    assert "Failed to connect" in result.stdout + result.stderr


# The log of the library


def test_the_library_logs_each_frame(server, run, record):
    """The debug log of websockets contains each line of the handshake and each frame, with its
    direction, type and length."""
    output = run(f"{TOPIC}/debug_log.py", URL=server.url).stdout
    for line in "< TEXT 'hello' [5 bytes]", "> TEXT 'bye' [3 bytes]", "< CLOSE 1000 (OK) [2 bytes]":
        assert line in output
    record("debugging/debug_log.txt", output)


def test_sanic_logs_each_frame(server):
    """Sanic logs each frame, with its direction, type and length, once its logger
    `sanic.websockets` is set to `DEBUG`."""
    with connect(f"{server.url.replace('http', 'ws')}/socket") as socket:
        socket.send("six words")
        for line in "< TEXT 'six words' [9 bytes]", "> TEXT 'six words' [9 bytes]":
            server.wait_for(line)


def test_the_log_reports_that_it_cannot_connect(run, port):
    """The logging client prints one line and exits with an error if it cannot connect."""
    result = run(f"{TOPIC}/debug_log.py", URL=f"http://127.0.0.1:{port()}")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


# What blocks


def test_asyncio_debug_mode_reports_a_blocked_loop(start, record):
    """In asyncio's debug mode a handler that blocks the loop is reported afterwards, with its
    duration, under the name of Sanic's own task; the handler is not named."""
    server = start(f"{TOPIC}/server_watched.py", BLOCK_LIMIT=60, BLOCK=0.3, PYTHONASYNCIODEBUG=1)
    # On a busy machine other tasks are reported, too: earlier ones and shorter ones.
    before = len(server.output)
    httpx2.get(f"{server.url}/blocking")
    report = re.compile(r"(?m)^Executing <Task.*(coro=<\w+\(\)).* took (?!0\.[012])[\d.]+ seconds$")
    line = wait_until(lambda: report.search(server.output[before:]))
    assert "blocking" not in line[0]
    name = line[1]
    record("debugging/debug_mode.txt", f"Executing <Task … {name} … took … seconds\n")


def test_without_debug_mode_asyncio_reports_nothing(watched):
    """Without its debug mode, asyncio does not report a blocked loop."""
    assert "Executing <Task" not in watched.output


@pytest.fixture(scope="module")
def watched(start_shared):
    """Return a server with a watchdog, after its loop was blocked."""
    server = start_shared(f"{TOPIC}/server_watched.py", BLOCK=3)
    httpx2.get(f"{server.url}/blocking", timeout=TIMEOUT)
    return server.wait_for("in blocking")


def test_the_watch_names_the_blocking_line(watched, record):
    """A watchdog built on `faulthandler` names the line that blocks the loop, while it blocks."""
    dump = watched.output[: watched.output.index("in blocking") + len("in blocking")]
    dump = dump[dump.rindex("Timeout (") :]  # a busy machine may have had one before
    first = re.search(r'File ".*server_watched.py", line (\d+) in blocking', dump)
    lines = (EXAMPLES / TOPIC / "server_watched.py").read_text().splitlines()
    assert "time.sleep(BLOCK)" in lines[int(first[1]) - 1]
    head = re.sub(r"0x\w+", "…", dump[: dump.index("in blocking")])
    record("debugging/watched.txt", re.sub(r'"/.*/', '"…/', head) + "in blocking\n  …\n")


def test_the_watch_ends_with_the_server(monkeypatch):
    """The watchdog ends with the server, its last pending dump included."""
    calls = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda limit: calls.append("on"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("off"))
    monkeypatch.setenv("BLOCK_LIMIT", "0")  # so that every turn of the loop postpones the dump
    server = runpy.run_path(str(EXAMPLES / TOPIC / "server_watched.py"))

    async def start_and_stop():
        app = SimpleNamespace(ctx=SimpleNamespace())
        await server["start_watch"](app)
        await asyncio.sleep(0)
        await server["stop_watch"](app)
        for _ in range(5):
            await asyncio.sleep(0)

    run_in_thread(start_and_stop())
    assert set(calls[:-1]) == {"on"}
    assert calls[-1] == "off"


# tcpdump


SCENE = """
ip link set lo up
PORT=8000 HOLD=3 {python} -u server.py >server.log 2>&1 & server=$!
until grep -q 'Worker ready' server.log; do sleep 0.05; done
sh capture.sh >captured 2>capture.log &
until grep -q 'listening on' capture.log; do sleep 0.05; done
curl --silent --local-port 18001 --max-time 30 http://127.0.0.1:8000/nothing >answer
until grep -q '18001 > .* Flags .F' captured; do sleep 0.05; done
curl --silent --no-buffer --local-port 18002 --max-time 30 http://127.0.0.1:8000/events >events &
until grep -q 'event 1' events && grep -q '18002: Flags .S' captured; do sleep 0.05; done
kill -9 $server
until grep -q '8000 > .*18002: Flags .[FR]' captured; do sleep 0.05; done
grep -q lo /proc/net/if_inet6 || exit 0
curl --silent --globoff 'http://[::1]:8000/' || true
until grep -q '^IP6 .* Flags .R' captured; do sleep 0.05; done
"""


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """Return what capture.sh printed about two connections, in a network namespace of its own."""
    for program in "tcpdump", "ip", "unshare":
        require_program(program, {"ip": "iproute2", "unshare": "util-linux"}.get(program))
    folder = tmp_path_factory.mktemp("capture") / "both"
    copy_isolated(EXAMPLES / TOPIC / "server.py", folder)
    shutil.copy(EXAMPLES / TOPIC / "capture.sh", folder)
    # A network and processes of its own; all of them end with the shell.
    space = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
    if os.geteuid():
        # Not --map-root-user: root's tcpdump turns into another user, and there is none.
        space += ["--map-current-user", "--keep-caps"]
    env = environment()
    env["PATH"] += ":/usr/sbin:/sbin"
    if subprocess.run([*space, "true"], env=env).returncode:
        skip_or_fail(f"tcpdump needs a network namespace here: {' '.join(space)}")
    subprocess.run(
        [*space, "sh", "-euc", SCENE.format(python=sys.executable)],
        cwd=folder,
        env=env,
        timeout=TIMEOUT,
        check=True,
    )
    return (folder / "captured").read_text()


def test_tcpdump_shows_which_side_closed(captured, record):
    """`tcpdump` shows which side closed a connection: the first F or R comes from the client if the
    client closed it, and from the server if the server was killed."""
    for port, ended_by in (18001, "18001 >"), (18002, "8000 >"):
        lines = [line for line in captured.splitlines() if str(port) in line]
        first = next(line for line in lines if re.search(r"\[[FR]", line))
        assert first.startswith(f"IP 127.0.0.1.{ended_by}")
    captured = re.sub(r"(?m)^IP6 .*\n", "", captured)  # shown by another proof
    record("debugging/captured.txt", captured)
    drawn = in_order([row for line in captured.splitlines() for row in arrows(line)])
    record("debugging/ends.json", drawn)
    record(
        "debugging/ends.svg",
        sequence_diagram(
            drawn,
            "Which side closed two connections",
            "Two connections, packet by packet. On the first, the client sends S, the server "
            "responds with S, then the client sends F and the server follows. On the second, the "
            "server is killed, and its F comes first.",
        ),
    )


def test_tcpdump_captures_ipv6(captured):
    """The filter of capture.sh matches IPv6 as well: on a port without a listener, the S is
    followed by an R."""
    lines = [line for line in captured.splitlines() if line.startswith("IP6")]
    if not lines:
        skip_or_fail("this kernel has no IPv6")
    opened, reply = lines
    assert re.fullmatch(r"IP6 ::1\.\d+ > ::1\.8000: Flags \[S\]", opened)
    assert re.fullmatch(r"IP6 ::1\.8000 > ::1\.\d+: Flags \[R\.\]", reply)


def test_tcpdump_needs_permission():
    """Without root and without a file capability, capture.sh prints *You don't have permission*."""
    require_program("tcpdump")
    # Without new privileges: not even those that the file of the program may have been given.
    user = ["--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [require_program("setpriv", "util-linux"), "--no-new-privs", *user, "sh", "-s"],
        input=(EXAMPLES / TOPIC / "capture.sh").read_text(),
        cwd="/",
        env=environment(PATH=parts.PATH),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "have permission" in result.stderr
    assert result.stdout == ""


def arrows(line):
    """Return the parts of the figure for a captured line: a packet, and the kill before it."""
    source, flags = re.search(r"127\.0\.0\.1\.(\d+) > .*Flags \[(\w)", line).groups()
    words = {"S": "S: opens", "F": "F: closes", "R": "R: resets"}[flags]
    if source == "8000":
        first = flags == "F" and line.split("> ")[1].startswith("127.0.0.1.18002")
        return [("cross", "killed", ""), ("down", words, "")] if first else [("down", words, "")]
    which = {"18001": "connection 1", "18002": "connection 2"}[source]
    return [("up", words, which if flags == "S" else "")]


# The browser


TRACE = """(url) => new Promise((done) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/socket`);
    socket.addEventListener("message", () => socket.send("bye"), { once: true });
    socket.onclose = () => done();
})"""
POLL = "(url) => fetch(`${url}/poll`).then((response) => response.json())"
STREAM = """(url) => new Promise((done) => {
    const source = new EventSource(`${url}/events`);
    let count = 0;
    source.onmessage = () => { if (++count === 3) { source.close(); done(); } };
})"""


def test_the_browser_shows_frames_and_events(server, page, record):
    """The browser's network events, which its developer tools show, contain each WebSocket message
    and each event of a stream, with its id."""
    page.goto(f"{server.url}/nothing")
    cdp = page.context.new_cdp_session(page)
    cdp.send("Network.enable")
    seen = []

    def note(name, words):
        cdp.on(f"Network.{name}", lambda event: seen.append(f"{name}: {words(event)}"))

    def payload(event):
        frame = event["response"]
        return f"opcode {frame['opcode']}, {json.dumps(frame['payloadData'])}"

    note("webSocketCreated", lambda event: event["url"])
    note("webSocketHandshakeResponseReceived", lambda event: event["response"]["status"])
    note("webSocketFrameReceived", payload)
    note("webSocketFrameSent", payload)
    note("webSocketClosed", lambda event: "")
    note("eventSourceMessageReceived", lambda e: f"id {e['eventId']}, {json.dumps(e['data'])}")
    page.evaluate(TRACE, server.url)
    page.evaluate(STREAM, server.url)
    page.wait_for_function("true")
    assert 'webSocketFrameReceived: opcode 1, "hello"' in seen
    assert 'webSocketFrameSent: opcode 1, "bye"' in seen
    assert 'eventSourceMessageReceived: id 3, "event 3"' in seen
    record("debugging/browser.txt", "\n".join(line.rstrip(": ") for line in seen) + "\n")


def test_resource_timing_lists_requests_but_not_websockets(server, page):
    """`performance.getEntriesByType("resource")` lists the status, protocol and times of a page's
    requests, and no WebSocket."""
    page.goto(f"{server.url}/nothing")
    page.evaluate(POLL, server.url)
    page.evaluate(TRACE, server.url)
    entries = page.evaluate(
        """performance.getEntriesByType("resource").map((entry) => [
            new URL(entry.name).pathname, entry.responseStatus, entry.nextHopProtocol,
            entry.responseStart > entry.requestStart,
        ]).filter(([path]) => path !== "/favicon.ico")"""
    )
    assert entries == [["/poll", 200, "http/1.1", True]]


NAMED = """(url) => new Promise((done) => {
    const source = new EventSource(url), received = [];
    source.onmessage = ({ data }) => received.push(data);
    source.addEventListener("done", ({ data }) => received.push(`done: ${data}`));
    source.onerror = () => { source.close(); done(received); };
})"""


def test_onmessage_ignores_named_and_unfinished_events(canned, page):
    """`onmessage` does not fire for an event with a name, which needs a listener of that name; an
    event without its final blank line is not dispatched at all."""
    stream = "event: done\ndata: 42\n\ndata: plain\n\ndata: no blank line\n"
    head = {"Content-Type": "text/event-stream", "Access-Control-Allow-Origin": "*"}
    assert page.evaluate(NAMED, canned((200, head, stream)).url) == ["done: 42", "plain"]


FAILURES = {
    "`fetch` from another origin, without CORS headers": (
        "(url) => fetch(`${url.replace('127.0.0.1', 'localhost')}/poll`).catch(() => 0)"
    ),
    "`EventSource` on a response that is not an event stream": """(url) => new Promise((done) => {
        new EventSource(`${url}/poll`).onerror = done;
    })""",
    "`WebSocket` on a path that does not upgrade": """(url) => new Promise((done) => {
        new WebSocket(`${url.replace("http", "ws")}/poll`).onclose = done;
    })""",
    "`WebSocket` on a port without a listener": """(url) => new Promise((done) => {
        new WebSocket("ws://127.0.0.1:CLOSED_PORT/socket").onclose = done;
    })""",
}


def test_the_console_names_the_cause(server, browser, port, record):
    """Chromium's console names the cause of a failure that a page cannot see: a missing CORS
    header, another content type, a response without an upgrade, a refused connection."""
    printed, closed_port = {}, str(port())
    with browser.new_context() as context:
        for what, script in FAILURES.items():
            page = context.new_page()
            page.goto(f"{server.url}/nothing")
            with page.expect_console_message(
                lambda m: not m.text.startswith("Failed to load")
            ) as message:
                script = script.replace("CLOSED_PORT", closed_port)
                page.evaluate(f"(url) => {{ ({script})(url); }}", server.url)
            printed[what] = message.value.text
            page.close()
    expected = [
        "blocked by CORS policy: No 'Access-Control-Allow-Origin' header",
        "EventSource's response has a MIME type",
        "Unexpected response code: 200",
        "net::ERR_CONNECTION_REFUSED",
    ]
    for words, part in zip(printed.values(), expected, strict=True):
        assert part in words
    rows = [f"# {what.replace('`', '')}\n{words}\n" for what, words in printed.items()]
    text = "\n".join(rows).replace(f"localhost:{server.port}", "localhost:8000")
    record("debugging/console.txt", wrap_lines(stable(text)))


def test_the_console_reports_a_stream_that_is_cut(server, page):
    """Chromium's console reports a chunked response that ends without its last chunk as
    `ERR_INCOMPLETE_CHUNKED_ENCODING`."""
    page.goto(f"{server.url}/nothing")
    head = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        with page.expect_console_message() as message:
            page.evaluate("(url) => { fetch(url).then((r) => r.text()).catch(() => 0); }", url)
            request = b""
            while not request:  # a browser may open a connection that it does not use
                connection, _ = listening.accept()
                with connection:
                    if request := connection.recv(65536):
                        connection.sendall(f"{head}3\r\none\r\n".encode())
    assert "net::ERR_INCOMPLETE_CHUNKED_ENCODING" in message.value.text


def test_the_console_reports_a_websocket_closed_too_early(server, page):
    """A page that closes a WebSocket before its handshake is complete gets 1006, and Chromium's
    console reports *WebSocket is closed before the connection is established*."""
    page.goto(f"{server.url}/nothing")
    script = """(url) => new Promise((done) => {
        const socket = new WebSocket(url);
        socket.onclose = ({ code }) => done(code);
        socket.close();
    })"""
    with page.expect_console_message() as message:
        code = page.evaluate(script, f"{server.url.replace('http', 'ws')}/socket")
    assert code == 1006
    assert "WebSocket is closed before the connection is established" in message.value.text


def test_the_console_is_silent_about_a_websocket_that_breaks(start, page):
    """When a WebSocket breaks after it opened, because its server is killed, the page gets 1006 and
    Chromium's console stays empty."""
    server = start(f"{TOPIC}/server.py")
    page.goto(f"{server.url}/nothing")
    script = """(url) => new Promise((opened) => {
        const socket = new WebSocket(url);
        window.lost = new Promise((done) => { socket.onclose = ({ code }) => done(code); });
        socket.onmessage = () => opened();
    })"""
    page.evaluate(script, f"{server.url.replace('http', 'ws')}/socket")
    printed = []
    page.on("console", lambda message: printed.append(message.text))
    server.stop(signal.SIGKILL)
    assert page.evaluate("lost") == 1006
    with page.expect_console_message(lambda message: message.text == "the end"):
        page.evaluate("console.log('the end')")
    assert printed == ["the end"]
