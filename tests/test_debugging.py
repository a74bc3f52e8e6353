"""What each tool shows of a connection: curl, logs, asyncio, a watch, tcpdump, the browser."""

import asyncio
import faulthandler
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import httpx2
import pytest
from websockets.sync.client import connect

from .support import parts
from .support.figures import cut
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
from .support.recorder import stable
from .support.threads import run_in_thread
from .test_security_tokens import folded

ROOM = "debugging"


@pytest.fixture(scope="module")
def server(start_shared):
    return start_shared(f"{ROOM}/server.py", HOLD=0.1, FRAMES="DEBUG")


def wire_lines(output):
    """Return what curl says of the wire, without what it says of itself, its version included."""
    output = re.sub(r"User-Agent: curl/[\w.]+", "User-Agent: curl/7.88.1", output)
    return re.sub(r"(?m)^[{}] \[\d+ bytes data\]\n|(?m:^)\*.*\n|\* Conn.*\n", "", output)


# curl


def test_curl_shows_a_held_answer(server, run, record):
    """`curl --verbose` shows what is asked, with > before each line, and what is answered, with <
    before each."""
    output = run(f"{ROOM}/poll.sh", URL=server.url).stdout
    assert "> GET /poll HTTP/1.1" in output
    assert "< HTTP/1.1 200 OK" in output
    record("debugging/poll.txt", wire_lines(output) + "\n")


def test_curl_shows_a_stream_as_it_comes(server, run, record):
    """`curl --no-buffer` shows the events of a stream, whose type and encoding stand above them."""
    output = run(f"{ROOM}/stream.sh", URL=server.url).stdout
    assert "< content-type: text/event-stream" in output
    assert "< transfer-encoding: chunked" in output
    assert output.count("data: event") == 3
    record("debugging/stream.txt", wire_lines(output))


def test_without_buffer_events_come_one_by_one(start, tmp_path):
    """With `--no-buffer` the first event is there long before the stream ends."""
    slow = start(f"{ROOM}/server.py", HOLD=60)
    example = EXAMPLES / ROOM / "stream.sh"
    curl = Program(
        argv(example), copy_isolated(example, tmp_path / "stream"), environment(URL=slow.url)
    )
    curl.wait_for("data: event 1")
    assert "data: event 2" not in curl.output
    curl.send(signal.SIGTERM)
    curl.wait()  # for both, the shell and curl: the last of them closes the pipe


def test_curl_opens_a_socket_far_enough_to_see(server, run, record):
    """curl takes the 101, with the accept that belongs to the key, and shows the bytes of the first
    frame; a socket stays open, so it gives up after some seconds."""
    output = run(f"{ROOM}/handshake.sh", URL=server.url, SECONDS_TO_LISTEN=1).stdout
    assert output.startswith("HTTP/1.1 101 Switching Protocols^M\n")
    assert "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in output
    # A whole text message, 0x81, of five bytes, 0x05.
    assert output.endswith("^M\n^M\nM-^A^Ehello")
    record("debugging/handshake.txt", output + "\n")


@pytest.mark.parametrize("name", ["poll.sh", "stream.sh", "handshake.sh"])
def test_a_script_that_finds_no_server_ends_with_an_error(name, run, port):
    """A script that finds no server ends with an error."""
    result = run(f"{ROOM}/{name}", URL=f"http://127.0.0.1:{port()}")
    assert result.returncode not in {0, 28}
    assert "Failed to connect" in result.stdout + result.stderr


# The log of the library


def test_the_library_logs_each_frame(server, run, record):
    """The debug log of websockets has each line of the handshake and each frame, with its
    direction, kind and length."""
    output = run(f"{ROOM}/debug_log.py", URL=server.url).stdout
    for line in "< TEXT 'hello' [5 bytes]", "> TEXT 'bye' [3 bytes]", "< CLOSE 1000 (OK) [2 bytes]":
        assert line in output
    record("debugging/debug_log.txt", output)


def test_sanic_logs_each_frame_as_well(server):
    """Sanic logs each frame, with its direction, kind and length, once its logger of WebSockets is
    set to DEBUG."""
    with connect(f"{server.url.replace('http', 'ws')}/socket") as socket:
        socket.send("six words")
        for line in "< TEXT 'six words' [9 bytes]", "> TEXT 'six words' [9 bytes]":
            server.wait_for(line)


def test_the_log_ends_with_one_clear_line(run, port):
    """Without a server the program ends with one line and an error."""
    result = run(f"{ROOM}/debug_log.py", URL=f"http://127.0.0.1:{port()}")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


# What blocks


def test_the_debug_mode_says_that_something_blocked(start, record):
    """In asyncio's debug mode a handler that blocks the loop is reported afterwards, with how long
    it took, and under the name of Sanic's own task: the handler's is not there."""
    server = start(f"{ROOM}/server_watched.py", LIMIT=60, BLOCK=0.3, PYTHONASYNCIODEBUG=1)
    # On a busy machine other tasks are slow as well: what began before, or took less.
    before = len(server.output)
    httpx2.get(f"{server.url}/blocking")
    told = re.compile(r"(?m)^Executing <Task.*(coro=<\w+\(\)).* took (?!0\.[012])[\d.]+ seconds$")
    line = wait_until(lambda: told.search(server.output[before:]))
    assert "blocking" not in line[0]
    name = line[1]
    record("debugging/debug_mode.txt", f"Executing <Task … {name} … took … seconds\n")


def test_without_the_debug_mode_nothing_is_said(watched):
    """Without the debug mode asyncio says nothing of it."""
    assert "Executing <Task" not in watched.output


@pytest.fixture(scope="module")
def watched(start_shared):
    """Return a server that watches its loop, after the loop was blocked."""
    server = start_shared(f"{ROOM}/server_watched.py", BLOCK=3)
    httpx2.get(f"{server.url}/blocking", timeout=TIMEOUT)
    return server.wait_for("in blocking")


def test_the_watch_names_the_line(watched, record):
    """A watch by faulthandler names the very line on which the loop hangs, while it hangs."""
    said = watched.output[: watched.output.index("in blocking") + len("in blocking")]
    said = said[said.rindex("Timeout (") :]  # a busy machine may have had one before
    first = re.search(r'File ".*server_watched.py", line (\d+) in blocking', said)
    lines = (EXAMPLES / ROOM / "server_watched.py").read_text().splitlines()
    assert "time.sleep(BLOCK)" in lines[int(first[1]) - 1]
    head = re.sub(r"0x\w+", "…", said[: said.index("in blocking")])
    record("debugging/watched.txt", re.sub(r'"/.*/', '"…/', head) + "in blocking\n  …\n")


def test_a_server_that_stopped_is_not_watched(monkeypatch):
    """With the server the watch ends, its last alarm included: a program that goes on for a while
    is told of nothing."""
    said = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda limit: said.append("on"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: said.append("off"))
    monkeypatch.setenv("LIMIT", "0")  # so that it is put off at every turn of the loop
    room = runpy.run_path(str(EXAMPLES / ROOM / "server_watched.py"))

    async def live_and_stop():
        app = SimpleNamespace(ctx=SimpleNamespace())
        await room["start"](app)
        await asyncio.sleep(0)
        await room["stop"](app)
        for _ in range(5):
            await asyncio.sleep(0)

    run_in_thread(live_and_stop())
    assert set(said[:-1]) == {"on"}
    assert said[-1] == "off"


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
    """Return what capture.sh showed of two connections, in a network of their own."""
    for program in "tcpdump", "ip", "unshare":
        require_program(program, {"ip": "iproute2", "unshare": "util-linux"}.get(program))
    folder = tmp_path_factory.mktemp("capture") / "both"
    copy_isolated(EXAMPLES / ROOM / "server.py", folder)
    shutil.copy(EXAMPLES / ROOM / "capture.sh", folder)
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


def test_tcpdump_shows_who_hung_up(captured, record):
    """`tcpdump` shows who ended a connection: the first F or R on it comes from the client if that
    had enough, and from the server if that was killed."""
    for port, ended_by in (18001, "18001 >"), (18002, "8000 >"):
        lines = [line for line in captured.splitlines() if str(port) in line]
        first = next(line for line in lines if re.search(r"\[[FR]", line))
        assert first.startswith(f"IP 127.0.0.1.{ended_by}")
    captured = re.sub(r"(?m)^IP6 .*\n", "", captured)  # shown by another proof
    record("debugging/captured.txt", captured)
    record(
        "debugging/ends.svg",
        cut(
            [drawn for line in captured.splitlines() for drawn in arrows(line)],
            "Who ended two connections",
            "Two connections as TCP has them. On the first, the client opens with S, the server "
            "answers S, then the client ends with F and the server follows. On the second, the "
            "server is killed, and its F comes first.",
        ),
    )


def test_tcpdump_sees_version_6_as_well(captured):
    """`tcpdump` sees who hangs up over IPv6 as well: where nobody listens, an R answers the S."""
    lines = [line for line in captured.splitlines() if line.startswith("IP6")]
    if not lines:
        skip_or_fail("this kernel has no IPv6")
    opened, answered = lines
    assert re.fullmatch(r"IP6 ::1\.\d+ > ::1\.8000: Flags \[S\]", opened)
    assert re.fullmatch(r"IP6 ::1\.8000 > ::1\.\d+: Flags \[R\.\]", answered)


def test_tcpdump_is_not_for_everyone():
    """A user who is not root, and whose tcpdump was given no right, is told that by capture.sh."""
    require_program("tcpdump")
    # Without new privileges: not even those that the file of the program may have been given.
    user = ["--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [require_program("setpriv", "util-linux"), "--no-new-privs", *user, "sh", "-s"],
        input=(EXAMPLES / ROOM / "capture.sh").read_text(),
        cwd="/",
        env=environment(PATH=parts.PATH),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "have permission" in result.stderr
    assert result.stdout == ""


def arrows(line):
    """Return what of a captured line is drawn: a packet, and before it the kill."""
    source, flags = re.search(r"127\.0\.0\.1\.(\d+) > .*Flags \[(\w)", line).groups()
    words = {"S": "S: opens", "F": "F: ends", "R": "R: breaks off"}[flags]
    if source == "8000":
        first = flags == "F" and line.split("> ")[1].startswith("127.0.0.1.18002")
        return [("cut", "killed", ""), ("down", words, "")] if first else [("down", words, "")]
    which = {"18001": "the first", "18002": "the second"}[source]
    return [("up", words, which if flags == "S" else "")]


# The browser


TRACE = """(url) => new Promise((done) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/socket`);
    socket.addEventListener("message", () => socket.send("bye"), { once: true });
    socket.onclose = () => done();
})"""
POLL = "(url) => fetch(`${url}/poll`).then((answer) => answer.json())"
STREAM = """(url) => new Promise((done) => {
    const source = new EventSource(`${url}/events`);
    let count = 0;
    source.onmessage = () => { if (++count === 3) { source.close(); done(); } };
})"""


def test_the_browser_shows_frames_and_events(server, page, record):
    """The network events of the browser, which its developer tools show, have each frame of a
    socket and each event of a stream, with its id."""
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


def test_a_page_can_ask_how_its_requests_went(server, page):
    """`performance.getEntriesByType("resource")` tells a page the status, protocol and times of its
    requests, and nothing of its sockets."""
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
    const source = new EventSource(url), heard = [];
    source.onmessage = ({ data }) => heard.push(data);
    source.addEventListener("done", ({ data }) => heard.push(`done: ${data}`));
    source.onerror = () => { source.close(); done(heard); };
})"""


def test_an_event_with_a_name_is_no_message(canned, page):
    """`onmessage` hears no event that has a name: that one needs a listener of the name; and an
    event whose blank line is missing is never heard of."""
    stream = "event: done\ndata: 42\n\ndata: plain\n\ndata: no blank line\n"
    head = {"Content-Type": "text/event-stream", "Access-Control-Allow-Origin": "*"}
    assert page.evaluate(NAMED, canned((200, head, stream)).url) == ["done: 42", "plain"]


TROUBLES = {
    "`fetch` of another origin that allows nobody": (
        "(url) => fetch(`${url.replace('127.0.0.1', 'localhost')}/poll`).catch(() => 0)"
    ),
    "`EventSource` of something else": """(url) => new Promise((done) => {
        new EventSource(`${url}/poll`).onerror = done;
    })""",
    "`WebSocket` where there is none": """(url) => new Promise((done) => {
        new WebSocket(`${url.replace("http", "ws")}/poll`).onclose = done;
    })""",
    "`WebSocket`, and nobody listens": """(url) => new Promise((done) => {
        new WebSocket("ws://127.0.0.1:NOBODY/socket").onclose = done;
    })""",
}


def test_what_the_console_says(server, browser, port, record):
    """What Chromium's console says of a missing permission, of a stream of another type, of a
    socket where there is none, and of one where nobody listens."""
    said, nobody = {}, str(port())
    with browser.new_context() as context:
        for what, script in TROUBLES.items():
            page = context.new_page()
            page.goto(f"{server.url}/nothing")
            with page.expect_console_message(
                lambda m: not m.text.startswith("Failed to load")
            ) as message:
                script = script.replace("NOBODY", nobody)
                page.evaluate(f"(url) => {{ ({script})(url); }}", server.url)
            said[what] = message.value.text
            page.close()
    expected = [
        "blocked by CORS policy: No 'Access-Control-Allow-Origin' header",
        "EventSource's response has a MIME type",
        "Unexpected response code: 200",
        "net::ERR_CONNECTION_REFUSED",
    ]
    for words, part in zip(said.values(), expected, strict=True):
        assert part in words
    rows = [f"# {what.replace('`', '')}\n{words}\n" for what, words in said.items()]
    text = "\n".join(rows).replace(f"localhost:{server.port}", "localhost:8000")
    record("debugging/console.txt", folded(stable(text)))
