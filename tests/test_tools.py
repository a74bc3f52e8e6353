"""The tap that readers download: each option and key, with real servers and clients."""

import os
import pty
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from contextlib import ExitStack, suppress

import httpx2
import pytest

from .support.hostile import reset
from .support.parts import require_program, skip_or_fail
from .support.peer import Peer, everything
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    run_to_end,
    wait_until,
)
from .support.recorder import SNIPPETS, wrap_lines
from .support.sockets import connect

TAP = EXAMPLES / "tools/tap.py"
POLL = b"GET /poll HTTP/1.1\r\nHost: a\r\n\r\n"


class TapProgram(Program):
    """tap.py, running, with a pipe or a terminal as its standard input."""

    def __init__(self, folder, port, options, inputs=None):
        theirs, self.keys = inputs or os.pipe()
        command = [*argv(TAP), *map(str, options)]
        super().__init__(command, folder, environment(PORT=port), port, theirs)
        os.close(theirs)
        self.wait_for("keys: ")

    def press(self, key, state):
        """Press a key on a line of its own; return when the tap has printed the new state."""
        count = self.output.count(state)
        os.write(self.keys, f"{key}\n".encode())
        wait_until(lambda: self.output.count(state) > count)

    def connect(self):
        """Return a connection to the tap."""
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT)


@pytest.fixture
def start_tap(tmp_path, port):
    """Start tap.py in front of a port: start_tap(server.port, "--hold") -> TapProgram."""
    with ExitStack() as running:
        folder = copy_isolated(TAP, tmp_path / "tap")

        def start_tap(target, *options, inputs=None):
            options = ["--to", f"127.0.0.1:{target}", *options]
            tap = TapProgram(folder, port(), options, inputs)
            running.callback(tap.stop)
            running.callback(os.close, tap.keys)
            return tap

        yield start_tap


@pytest.fixture(scope="module")
def server(start_shared):
    return start_shared("debugging/server.py", HOLD=0.1)


@pytest.fixture
def echo():
    """Return a server that sends back what it receives, and ends when its client has ended."""

    def serve(client):
        with suppress(OSError):  # the client has left
            for data in iter(lambda: client.recv(4096), b""):
                client.sendall(data)

    with Peer(serve) as peer:
        yield peer


def shown(tap):
    """Return what a tap printed about connections, its times aside."""
    lines = tap.output.splitlines()
    return [re.sub(r"^(\d+ [<>]) [ \d.]{7}", r"\1", line) for line in lines[2:]]


def silent(sock, seconds=0.5):
    """Return whether nothing arrives at a socket for a while, no end either."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        sock.settimeout(TIMEOUT)


# Commands on pages


def parse(line):
    """Return a command of a page as its environment, its program and the program's options."""
    words = shlex.split(line)
    variables = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    _, name, *options = words[1:] if words[0] == "uv" else ["", *words[1:]]
    return variables, name, options


@pytest.fixture
def reproduce(start, start_tap, run):
    """Run commands as a page shows them, in terminals: a server, the tap, and a client.

    reproduce("token", commands) -> TapProgram, CompletedProcess. The ports are others.
    """

    def reproduce(topic, commands):
        lines = [line for line in commands.splitlines() if not line.startswith("#")]
        (variables, name, _), (_, tap_name, options), (others, client, _) = map(parse, lines)
        assert tap_name == "tap.py" and others["URL"] == "http://127.0.0.1:9000"
        tap = start_tap(start(f"{topic}/{name}", **variables).port, *options)
        return tap, run(f"{topic}/{client}", **others | {"URL": tap.url})

    return reproduce


def without_times(output):
    return re.sub(
        r"(?m)^(\d+ [<>]) ( *)([\d.]+)", lambda m: f"{m[1]} {m[2]}{'…':>{len(m[3])}}", output
    )


LOST = """\
# Terminal 1
uv run server.py
# Terminal 2
uv run tap.py --cut 0
# Terminal 3
URL=http://127.0.0.1:9000 sh poll.sh
"""


def test_the_tap_shows_a_lost_response(reproduce, record):
    """With `--cut 0` the tap prints a request and its response, and ends the connection before the
    client receives a byte of it: curl reports an empty reply."""
    tap, result = reproduce("debugging", LOST)
    assert result.returncode == 52
    assert "Empty reply from server" in result.stdout
    tap.wait_for("(cut at byte 0)")
    record("tools/lost.run", LOST)
    output = re.sub(r"curl/[\w.]+", "curl/7.88.1", tap.output.replace(str(tap.port), "9000"))
    record("tools/lost.txt", without_times(output))


def test_the_tap_prints_what_passes(server, start_tap):
    """The tap prints start lines, headers and bodies of both sides, with the number of the
    connection, the direction and the time; the client receives the same as without it."""
    tap = start_tap(server.port)
    direct, through = (httpx2.get(f"{each.url}/poll") for each in (server, tap))
    assert direct.content == through.content
    assert direct.headers == through.headers
    tap.wait_for("1 < ")
    lines = shown(tap)
    assert lines[0] == "1 > GET /poll HTTP/1.1"
    assert f"1 > Host: 127.0.0.1:{tap.port}" in lines
    assert "1 < HTTP/1.1 200 OK" in lines
    assert "1 < content-type: application/json" in lines
    assert '1 < {"status":"done"}' in lines
    assert re.search(r"(?m)^1 > +\d+\.\d{3} GET /poll", tap.output)
    httpx2.get(f"{tap.url}/poll")
    tap.wait_for("2 < ")


def test_the_tap_prints_frames_in_hexadecimal(server, start_tap):
    """After the handshake of a WebSocket, the tap prints bytes in hexadecimal, at most 16 of each
    piece, and their number."""
    tap = start_tap(server.port)
    with connect(f"{tap.url.replace('http', 'ws')}/socket") as socket:
        assert socket.recv() == "hello"
        socket.send("six words, which are more than sixteen")
        socket.recv()
    tap.wait_for("1 < (end)", "(end)")
    lines = shown(tap)
    assert "1 < HTTP/1.1 101 Switching Protocols" in lines
    assert "1 < 81 05 68 65 6c 6c 6f (7 bytes)" in lines
    assert any(re.fullmatch(r"1 > 81 a6( \w\w){14} … \(44 bytes\)", line) for line in lines)


def test_the_tap_escapes_control_characters(echo, start_tap):
    """The tap prints control characters as escapes, so that no byte controls the terminal."""
    tap = start_tap(echo.port)
    with tap.connect() as sock:
        sock.sendall("na\u00efve \x1b[2J\x07 \ud7ff\n".encode() + b"\xff\n")
        sock.recv(100)
    tap.wait_for("(end)")
    assert "\x1b" not in tap.output and "\x07" not in tap.output
    assert "\\x1b[2J\\x07" in tap.output
    assert "naïve" in tap.output
    assert "\\xff" in tap.output


def test_the_tap_prints_little_of_a_long_body(echo, start_tap):
    """Of each piece that arrives the tap prints at most 2,000 characters."""
    tap = start_tap(echo.port, "--drop")
    with tap.connect() as sock:
        sock.sendall(b"x" * 500_000)
        sock.shutdown(socket.SHUT_WR)
        tap.wait_for("1 < ")
    assert "x" * 2000 in tap.output
    assert "x" * 2001 not in tap.output
    assert "bytes)" in tap.output


def test_the_tap_forwards_every_byte(echo, start_tap):
    """The tap forwards every byte unchanged and in order, delayed or not, and a half-close."""
    sent = random.Random(1).randbytes(1_000_000)
    for options in [], ["--delay", 0.1, "--from", "both"]:
        tap = start_tap(echo.port, *options)
        with tap.connect() as sock:
            threading.Thread(target=lambda s=sock: (s.sendall(sent), s.shutdown(1))).start()
            assert everything(sock) == sent


# What it disturbs


def test_delay(server, start_tap):
    """`--delay` forwards what the server sends so many seconds later; with `--from both` the
    request is late as well."""
    for options, least in ([], 1), (["--from", "both"], 2):
        tap = start_tap(server.port, "--delay", 1, *options)
        start = time.monotonic()
        assert httpx2.get(f"{tap.url}/poll", timeout=TIMEOUT).status_code == 200
        assert time.monotonic() - start >= least


def test_a_delay_does_not_add_up(server, start_tap):
    """A delay is that of a longer path: events that were sent apart arrive as far apart, and not
    one delay after the other."""
    tap = start_tap(server.port, "--delay", 3)
    start = time.monotonic()
    with httpx2.stream("GET", f"{tap.url}/events", timeout=TIMEOUT) as response:
        pieces = [piece for piece in response.iter_text() if piece]
    assert "".join(pieces).count("data: ") == 3
    assert 3 <= time.monotonic() - start < 9  # three pieces, one after the other


def test_hold_and_release(server, start_tap):
    """`--hold` forwards nothing that the server sends until the key h releases it; the key holds
    again. Nothing is lost."""
    tap = start_tap(server.port, "--hold")
    with tap.connect() as sock:
        sock.sendall(POLL)
        tap.wait_for("(held)")
        assert silent(sock)
        tap.press("h", "hold: False")
        assert b'{"status":"done"}' in sock.recv(4096)
        tap.press("h", "hold: True")
        sock.sendall(POLL)
        assert silent(sock)
        tap.press("h", "hold: False")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_drop(server, start_tap):
    """`--drop` discards what the server sends, its end included, until the key d; the connection
    stays open."""
    tap = start_tap(server.port, "--drop")
    with tap.connect() as sock:
        sock.sendall(POLL.replace(b"Host", b"Connection: close\r\nHost"))
        tap.wait_for("(end)")
        tap.wait_for("(dropped)")
        assert silent(sock)
    tap.press("d", "drop: False")
    assert httpx2.get(f"{tap.url}/poll").status_code == 200
    tap.press("d", "drop: True")
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(f"{tap.url}/poll", timeout=1)


def test_the_options_act_on_one_side(echo, start_tap):
    """With `--from client` the options act on what the client sends: it does not reach the
    server."""
    tap = start_tap(echo.port, "--drop", "--from", "client")
    with tap.connect() as sock:
        sock.sendall(b"hello\n")
        tap.wait_for("(dropped)")
        assert silent(sock)
    assert "1 <" not in tap.output


@pytest.mark.parametrize("size", [0, 1, 20, 100])
def test_cut(server, start_tap, size):
    """`--cut N` ends a connection after N bytes of the server, once; the next connection works."""
    tap = start_tap(server.port, "--cut", size)
    with tap.connect() as sock:
        sock.sendall(POLL)
        assert len(everything(sock)) == size
    tap.wait_for(f"(cut at byte {size})")
    assert httpx2.get(f"{tap.url}/poll").status_code == 200


def test_cut_counts_over_several_pieces(echo, start_tap):
    """`--cut N` counts the bytes of all pieces of a connection."""
    tap = start_tap(echo.port, "--cut", 12)
    with tap.connect() as sock:
        received = b""
        for _ in range(3):
            sock.sendall(b"12345")
            received += sock.recv(5)
        assert received + everything(sock) == b"123451234512"


def test_refuse(server, start_tap):
    """`--refuse` refuses new connections until the key r; the key refuses them again, and an open
    connection continues."""
    tap = start_tap(server.port, "--refuse")
    with pytest.raises(ConnectionRefusedError):
        tap.connect()
    tap.press("r", "refuse: False")
    with tap.connect() as sock:
        sock.sendall(POLL)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        tap.press("r", "refuse: True")
        with pytest.raises(ConnectionRefusedError):
            tap.connect()
        sock.sendall(POLL)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_key_c_cuts_all_connections(server, start_tap):
    """The key c ends all open connections on both sides; new ones are accepted."""
    tap = start_tap(server.port)
    with tap.connect() as one, tap.connect() as two:
        for sock in one, two:
            sock.sendall(POLL)
            sock.recv(4096)
        tap.press("c", "cut: 2 connections")
        assert everything(one) == everything(two) == b""
    assert httpx2.get(f"{tap.url}/poll").status_code == 200


def test_key_q_quits(server, start_tap):
    """The key q ends the tap, open connections included."""
    tap = start_tap(server.port)
    with tap.connect() as sock:
        sock.sendall(POLL)
        sock.recv(4096)
        os.write(tap.keys, b"q\n")
        assert tap.wait() == 0
        assert everything(sock) == b""


def test_unknown_keys_do_nothing(server, start_tap):
    """Other keys do nothing, and the end of the standard input does not end the tap."""
    tap = start_tap(server.port)
    os.write(tap.keys, "xyz é\n".encode() + b"\xff\0\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), tap.keys)  # closes the pipe
    assert httpx2.get(f"{tap.url}/poll").status_code == 200
    assert len(tap.output.splitlines()[:2]) == 2


def test_a_terminal_needs_no_enter(server, tmp_path, port):
    """On a terminal each key acts at once, without Enter, and the end restores the terminal."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(ours)
    # A session of its own has no terminal until the program opens one: script(1) would.
    code = (
        "import fcntl, os, runpy, sys, termios\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path('tap.py', run_name='__main__')\n"
    )
    tap = Program(
        [sys.executable, "-c", code, "tap.py", "--to", f"127.0.0.1:{server.port}"],
        copy_isolated(TAP, tmp_path / "tap"),
        environment(PORT=port()),
        stdin=theirs,
    )
    tap.wait_for("keys: ")
    assert termios.tcgetattr(ours)[3] & termios.ICANON == 0
    os.write(ours, b"h")
    tap.wait_for("hold: True")
    os.write(ours, b"q")
    assert tap.wait() == 0
    assert termios.tcgetattr(ours) == before
    for each in ours, theirs:
        os.close(each)


# How it starts and ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
@pytest.mark.parametrize("options", [[], ["--hold"], ["--delay", "60"]], ids=str)
def test_a_signal_ends_the_tap(server, start_tap, number, options):
    """SIGINT and SIGTERM end the tap with exit code 0 and without a traceback, whatever it holds
    or delays."""
    tap = start_tap(server.port, *options)
    with tap.connect() as sock:
        sock.sendall(POLL)
        tap.wait_for("HTTP/1.1 200 OK")
        assert tap.stop(number) == 0
        received = everything(sock)
    assert bool(received) == (not options)


def test_a_port_in_use_is_one_line(server, tmp_path):
    """If its port is in use, the tap prints one line and exits with an error."""
    folder = copy_isolated(TAP, tmp_path / "tap")
    result = run_to_end(argv(TAP), folder, environment(PORT=server.port))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"{server.port}" in result.stderr and "in use" in result.stderr
    assert result.stdout == ""


def test_without_a_server_the_tap_resets_the_connection(start_tap, port):
    """Without a server, the tap prints that it cannot connect, and resets the client's
    connection."""
    tap = start_tap(port())
    with pytest.raises(httpx2.TransportError):
        httpx2.get(tap.url)
    tap.wait_for("cannot connect")
    assert shown(tap) == ["1 < (cannot connect)", "1 < (reset)"]


@pytest.mark.parametrize(
    "options",
    [
        "--to nowhere",
        "--to a:0",
        "--to a:99999",
        "--delay -1",
        "--delay nan",
        "--cut -1",
        "--cut x",
    ],
)
def test_bad_options_are_reported(options, tmp_path):
    """The tap rejects an address without a port and a number out of range, and names the
    option."""
    folder = copy_isolated(TAP, tmp_path / "tap")
    result = run_to_end([*argv(TAP), *options.split()], folder, environment())
    assert result.returncode == 2
    assert options.split()[0] in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_the_tap_passes_a_reset_on(start_tap):
    """The tap prints a reset, and passes it on as one."""
    felt = threading.Event()

    def serve(server):
        assert server.recv(100) == b"hello"
        try:
            server.recv(100)
        except ConnectionResetError:
            felt.set()

    with Peer(serve) as peer:
        tap = start_tap(peer.port)
        with tap.connect() as sock:
            sock.sendall(b"hello")
            tap.wait_for("hello")
            reset(sock)
        assert felt.wait(TIMEOUT)
        tap.wait_for("(reset)")
    assert shown(tap) == ["1 > hello", "1 > (reset)"]


def test_the_tap_ends_when_nothing_reads_its_output(server, tmp_path, port):
    """The tap ends without a traceback when the program that reads its output has ended."""
    folder = copy_isolated(TAP, tmp_path / "tap")
    process = subprocess.Popen(
        [*argv(TAP), "--to", f"127.0.0.1:{server.port}"],
        cwd=folder,
        env=environment(PORT=(number := port())),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert "listening" in process.stdout.readline()
        assert "keys" in process.stdout.readline()
        process.stdout.close()
        with socket.create_connection(("127.0.0.1", number)) as sock:
            sock.sendall(POLL)
            assert process.wait(TIMEOUT) == 0
            assert process.stderr.read() == ""


# Failures that other pages show

LOST_SUBMISSION = """\
# Terminal 1
MAX_JOBS_PER_OWNER=1 uv run server_hardened.py
# Terminal 2
uv run tap.py --cut 0
# Terminal 3
SECONDS=0.5 URL=http://127.0.0.1:9000 uv run client_hardened.py
"""


def test_a_lost_response_to_a_submission(reproduce, record):
    """With `tap.py --cut 0` the response to the POST is lost; the hardened client of the token
    repeats the request under the same key, and the server has one job."""
    tap, result = reproduce("token", LOST_SUBMISSION)
    assert result.returncode == 0, result.stderr
    keys = re.findall(r"(?i)idempotency-key: (\S+)", tap.output)
    assert len(keys) == 2 and len(set(keys)) == 1
    # There is room for one job, so a second one would have been a 429.
    assert tap.output.count("HTTP/1.1 202 Accepted") == 2
    lines = result.stdout.splitlines()
    assert lines[0].startswith("retrying: ") and lines[-1] == "done: 42"
    record("tools/token.run", LOST_SUBMISSION)
    record("token/lost-response.txt", result.stdout)


RESUMED = """\
# Terminal 1
uv run server.py
# Terminal 2
uv run tap.py --cut 544
# Terminal 3
SECONDS=1 URL=http://127.0.0.1:9000 uv run client_hardened.py
"""


def test_a_stream_cut_after_an_event_is_resumed(reproduce, record):
    """With `tap.py --cut 544` the stream of the quick start ends after its second event; the
    hardened client sends its id, and receives the rest."""
    tap, result = reproduce("server_sent_events", RESUMED)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (SNIPPETS / "server_sent_events/away.txt").read_text()
    cut = tap.output.index("(cut at byte 544)")
    assert re.findall(r"data: \d+", tap.output[:cut]) == ["data: 0", "data: 33"]
    assert "Last-Event-ID: 2" in tap.output[cut:]
    record("tools/resume.run", RESUMED)


NOT_RESUMED = """\
# Terminal 1
uv run wrong_live.py
# Terminal 2
uv run tap.py --cut 501
# Terminal 3
SECONDS=1 DEADLINE=5 URL=http://127.0.0.1:9000 uv run client_hardened.py
"""


def test_a_cut_stream_without_ids_loses_events(reproduce, record):
    """With `tap.py --cut 501` the stream of a server without ids ends after its first event, and
    the client never receives the others."""
    _, result = reproduce("server_sent_events", NOT_RESUMED)
    assert result.returncode == 1
    lines = list(dict.fromkeys(result.stdout.splitlines()))  # it reconnects several times
    shown = (SNIPPETS / "server_sent_events/wrong_live.txt").read_text()
    assert "\n".join([*lines, result.stderr]) == shown
    record("tools/wrong_live.run", NOT_RESUMED)


CROSSED = """\
# Terminal 1
SANIC_KEEP_ALIVE_TIMEOUT=1.5 uv run server.py
# Terminal 2
uv run tap.py --delay 4
# Terminal 3
URL=http://127.0.0.1:9000 uv run client.py
"""


def test_a_request_crosses_the_close(reproduce, record):
    """With `tap.py --delay 4` the client sends its second request before it learns that the server
    has closed the idle connection: the request fails."""
    tap, result = reproduce("keep_alive", CROSSED)
    assert result.returncode == 1
    ends = [line for line in shown(tap) if "(end)" in line or "> GET" in line]
    assert ends[:3] == ["1 > GET / HTTP/1.1", "1 < (end)", "1 > GET / HTTP/1.1"]
    assert tap.output.count("HTTP/1.1 200 OK") == 1
    record("tools/crossing.run", CROSSED)
    output = result.stdout + result.stderr
    record("tools/crossing.txt", wrap_lines(output.replace(str(tap.port), "9000")))


UNNOTICED = """\
# Terminal 1
uv run server.py
# Terminal 2
uv run tap.py --drop --from both
# Terminal 3
URL=http://127.0.0.1:9000 uv run probes.py
"""


def test_keepalive_probes_end_at_a_proxy(reproduce, record):
    """TCP keepalive probes end at the next hop: behind `tap.py --drop --from both`, which forwards
    nothing, they are all acknowledged, and the client notices nothing."""
    _, result = reproduce("keep_alive", UNNOTICED)
    assert result.returncode == 0
    assert "nothing received in 10 s" in result.stdout
    record("tools/probes.run", UNNOTICED)
    record("tools/probes.txt", result.stdout)


DEAD_LINK = """\
unshare --map-root-user --net sh -c '
  ip link set lo up
  python3 -m http.server --bind 127.0.0.1 8000 >server.log 2>&1 & server=$!
  until curl --silent http://127.0.0.1:8000 >response; do sleep 0.1; done
  python3 probes.py & probes=$!
  sleep 3  # the probes are acknowledged
  ip link set lo down
  wait $probes
  kill $server'
"""


def test_a_dead_link_in_a_network_namespace(tmp_path, record):
    """In a network namespace of its own, a loopback interface that is taken down is a dead link:
    TCP keepalive notices it after two probes."""
    for program in "ip", "unshare":
        require_program(program, {"ip": "iproute2", "unshare": "util-linux"}[program])
    folder = copy_isolated(EXAMPLES / "keep_alive/probes.py", tmp_path / "probes")
    env = environment()
    env["PATH"] += ":/usr/sbin:/sbin"
    space = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*space, "true"], env=env, capture_output=True).returncode:
        skip_or_fail("no network namespace can be made here")
    result = run_to_end(["sh", "-c", DEAD_LINK], folder, env)
    shown = (SNIPPETS / "keep_alive/probes.txt").read_text()
    assert result.stdout + result.stderr == shown
    record("tools/dead_link.run", DEAD_LINK)
