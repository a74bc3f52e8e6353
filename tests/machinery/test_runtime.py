"""The runtime that runs the printed servers in a page of a browser: `make runtime` builds it."""

import base64
import builtins
import json
import re
import socket
import zipfile
from email import message_from_bytes
from functools import partial
from urllib.parse import urlsplit

import pytest
from lxml import html
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from websockets.frames import Frame, Opcode

from publish import runnable
from publish.runtime import BUDGET, EDITOR, PACKAGES, PYODIDE, compressed

from ..support.browsing import (
    both_browsers,
    darken,
    enter,
    expect_accessible,
    only_firefox,
    watched_pages,
)
from ..support.processes import EXAMPLES, ROOT, RUNTIME, needed_server
from .test_laws import PAGES

RUNNING = ".runner[data-state=running]"
ENDED = ".runner[data-state=ended]"
FIELD = ".runner-editor textarea"
SIGTERM = 15
pytestmark = pytest.mark.usefixtures("runtime")
# The longest tests have groups of their own, so that other workers run them.


# The worker alone


class Machine:
    """The worker of a page: runs programs, and exchanges bytes with them."""

    def __init__(self, page):
        self.page = page
        page.evaluate(
            """async () => {
              const { Machine } = await import(new URL("runtime/network.js", location));
              window.machine = new Machine(new URL("runtime/worker.js", location));
              const decoder = new TextDecoder();
              const on = (type, does) =>
                machine.addEventListener(type, ({ detail }) => does(detail));
              on("output", ({ bytes }) => (window.output += decoder.decode(bytes)));
              on("listening", ({ port }) => (window.port = port));
              on("exit", ({ number, status }) => {
                if (number === window.number) window.ended = status;
              });
              for (const type of ["open", "message", "close"])
                on(type, (detail) => window.seen?.push({ type, ...detail }));
              await machine.ready;
            }"""
        )

    def start(self, name, changes=None, **environment):
        """Run an example until it listens; return its port, or nothing if it ended."""
        topic, program = name.split("/")
        names = [program, *runnable.beside(EXAMPLES / name)]
        files = {each: (EXAMPLES / topic / each).read_text() for each in names}
        for old, new in (changes or {}).items():
            assert old in files[program]
            files[program] = files[program].replace(old, new)
        self.begin(
            folder=f"/home/{topic}",
            name=program,
            files=files,
            environment={key: str(value) for key, value in environment.items()},
        )
        self.page.wait_for_function("port ?? ended !== undefined")
        return self.page.evaluate("port")

    def begin(self, **program):
        self.page.evaluate(
            """(program) => {
              machine.kill();
              port = ended = undefined;
              output = "";
              number = machine.run(program);
            }""",
            program,
        )

    def run(self, text):
        """Run a program to its end; return its status."""
        self.begin(folder="/home", name="program.py", files={"program.py": text})
        return self.wait()

    def stop(self):
        """Send SIGTERM; return the status with which the program ends."""
        self.page.evaluate(f"machine.signal({SIGTERM})")
        return self.wait()

    def kill(self):
        self.page.evaluate("machine.kill()")
        return self.wait()

    def wait(self):
        self.page.wait_for_function("ended !== undefined")
        return self.page.evaluate("ended")

    @property
    def output(self):
        return self.page.evaluate("output")

    def open(self, data):
        """Open a connection and send bytes; return its number."""
        return self.page.evaluate(
            """(data) => {
              const connection = machine.connect(port);
              connection.send(Uint8Array.from(atob(data), (each) => each.charCodeAt(0)));
              return (window.connections ??= []).push(connection) - 1;
            }""",
            base64.b64encode(data).decode(),
        )

    def read(self, number):
        """Return what a server sends on a connection until it ends."""
        got = self.page.evaluate(
            """async (number) => {
              let got = "";
              for (;;) {
                const bytes = await connections[number].some().catch(() => []);
                if (!bytes.length) return btoa(got);
                got += Array.from(bytes, (each) => String.fromCharCode(each)).join("");
              }
            }""",
            number,
        )
        return base64.b64decode(got)

    def exchange_to_head(self, data):
        """Send bytes; return all that is received, or the head of a response that has no end."""
        got = self.page.evaluate(
            """async (data) => {
              const connection = machine.connect(port);
              connection.send(Uint8Array.from(atob(data), (each) => each.charCodeAt(0)));
              let got = "";
              for (;;) {
                const bytes = await connection.some().catch(() => []);
                if (!bytes.length) return btoa(got);
                got += Array.from(bytes, (each) => String.fromCharCode(each)).join("");
                const [head, rest] = got.split("\\r\\n\\r\\n");
                const endless = /^HTTP\\/1.1 101|^transfer-encoding: chunked|text\\/event-stream/im;
                if (rest !== undefined && endless.test(head)) {
                  connection.close("reset");
                  return btoa(head);
                }
              }
            }""",
            base64.b64encode(data).decode(),
        )
        return base64.b64decode(got)

    def exchange(self, first, *rest):
        """Send bytes, and the rest after the head of the response; return all that is received."""
        number = self.open(first)
        if not rest:
            return self.read(number)
        head = self.page.evaluate(
            """async ([number, rest]) => {
              const head = await connections[number].until("\\r\\n\\r\\n");
              for (const part of rest)
                connections[number].send(Uint8Array.from(atob(part), (each) => each.charCodeAt(0)));
              return btoa(head);
            }""",
            [number, [base64.b64encode(part).decode() for part in rest]],
        )
        return base64.b64decode(head) + b"\r\n\r\n" + self.read(number)


@pytest.fixture(scope="module")
def machine(browser, static):
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{static.url}/assets/frame.html")
        yield Machine(page)


def request(method, path, body=None, *fields):
    """Return the bytes of a request after which the server closes the connection."""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:8000", "Connection: close", *fields]
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + (body or b"")


def job(seconds):
    return request("POST", "/jobs", json.dumps({"seconds": seconds}).encode())


def masked(opcode, payload):
    """Return the bytes of a frame of a client."""
    return Frame(Opcode(opcode), payload).serialize(mask=True)


UPGRADE = request("GET", "/jobs/socket").replace(
    b"Connection: close",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
CLOSE = masked(8, (1000).to_bytes(2, "big"))
EXCHANGES = {
    "short_polling/server.py": [
        [job(1)],
        [job(99)],
        [request("POST", "/jobs", b"nonsense")],
        [request("POST", "/jobs", b"x" * 20_000)],
        [request("GET", "/jobs/unknown")],
        [request("GET", "/jobs/%zz?x=1#f")],
        [request("GET", "/elsewhere")],
        [request("DELETE", "/jobs")],
        [b"GARBAGE\r\n\r\n"],
        [
            request("POST", "/jobs", None, "Transfer-Encoding: chunked")
            + b'e\r\n{"seconds": 1}\r\n0\r\n\r\n',
        ],
        [b"GET /jobs/unknown HTTP/1.0\r\n\r\n"],
    ],
    "long_polling/server_hardened.py": [
        [request("OPTIONS", "/jobs/x", None, "Origin: http://a.example")],
        [job(1)],
    ],
    "websockets/server.py": [
        [UPGRADE, masked(1, b'{"id": 1, "submit": {"seconds": 5}}'), CLOSE],
        [UPGRADE, masked(1, b"nonsense"), CLOSE],
        [UPGRADE, masked(9, b"ping"), CLOSE],
        [UPGRADE, b"\x81\x02hi"],
        [UPGRADE.replace(b"13", b"12", 1)],
        [request("GET", "/jobs/socket")],
    ],
    "server_sent_events/server.py": [[request("GET", "/jobs/unknown/events")], [job(1)]],
}


def over_tcp(port, first, *rest):
    """Do the same as Machine.exchange, over TCP."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(first)
        got = b""
        while rest and b"\r\n\r\n" not in got:
            got += connection.recv(65536)
        connection.sendall(b"".join(rest))
        while data := connection.recv(65536):
            got += data
    return got


def stable(response):
    """Return a response without its tokens and dates."""
    return re.sub(rb"(?i)(?<![\w-])[\w-]{22}(?![\w-])|(?<=date: )[^\r]*", b"X", response)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_server_sends_the_bytes_that_it_sends_elsewhere(machine, start, name):
    """In the page a server responds to valid, invalid and malformed requests with the bytes with
    which the same file responds as a process, but for tokens and dates."""
    server = start(name)
    machine.start(name)
    for parts in EXCHANGES[name]:
        expected = stable(over_tcp(server.port, *parts))
        assert stable(machine.exchange(*parts)) == expected, parts
        assert expected
    assert machine.stop() == 0


def is_endless(head):
    """Return whether a response goes on after its head: a stream, or an upgrade."""
    return re.search(
        rb"(?i)^HTTP/1.1 101|^transfer-encoding: chunked|text/event-stream", head, re.M
    )


def over_tcp_to_head(port, data):
    """Do the same as Machine.exchange_to_head, over TCP."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(data)
        got = b""
        while part := connection.recv(65536):
            got += part
            head, end, _ = got.partition(b"\r\n\r\n")
            if end and is_endless(head):
                return head
    return got


def requests_of(name):
    """Return requests for a server: valid and invalid for each route, and malformed ones. Metrics
    are those of the process."""
    routes = runnable.ROUTE.findall((EXAMPLES / name).read_text()) or [("websocket", '"/"')]
    found = [request("GET", "/elsewhere"), b"GARBAGE\r\n\r\n"]
    for method, quoted in routes:
        path = re.sub("<[^>]*>", "unknown", quoted.strip('"')) or "/"
        match method:
            case _ if path == "/metrics":
                pass
            case "get":
                found += [request("GET", path), request("DELETE", path)]
            case "websocket":
                found += [request("GET", path), UPGRADE.replace(b"/jobs/socket", path.encode())]
            case _:
                bodies = b"nonsense", b"{}", b'{"seconds": 1}', b"x" * 20_000
                found += [request(method.upper(), path, body) for body in bodies]
    return found


def masked_randomness(response):
    """Return a response without what differs between two runs: tokens, dates, random delays, the
    version of Python, and the order of a set."""
    response = re.sub(rb"(?i)(?<=retry-after: )\d+|(?<=Server: Python/3\.)\d+", b"X", response)
    response = re.sub(rb"(?<=Allow: )[^\r]+", lambda names: bytes(sorted(names[0])), response)
    return stable(response)


@pytest.mark.xdist_group("marked")
@pytest.mark.parametrize("name", runnable.programs())
def test_every_marked_program_runs_and_responds_as_elsewhere(machine, start, name):
    """Every program with a *Run here* button listens, responds to valid, invalid and malformed
    requests with the bytes with which the same file responds as a process, but for tokens, dates,
    random delays and the version of Python, and ends with status 0 after SIGTERM."""
    server = start(name, errors_expected=True)  # Sanic logs a traceback for a missing upgrade
    assert machine.start(name), machine.output
    for data in requests_of(name):
        expected = masked_randomness(over_tcp_to_head(server.port, data))
        assert masked_randomness(machine.exchange_to_head(data)) == expected, data
    assert machine.stop() == 0, machine.output


# The browser clients


def click(client, name):
    client.get_by_role("button", name=name, exact=True).click()


def use_jobs(client, machine, **values):
    for name, value in {"seconds": "0", **values}.items():
        enter(client.locator(f"#{name}"), value)
    click(client, "Start")
    client.get_by_text("done: 42").wait_for()


def use_token(client, machine):
    click(client, "Submit a 5-second job")
    client.get_by_text('"pending"').first.wait_for()
    while not client.get_by_text('"done"').count():
        count = client.locator("li").count()
        click(client, "Is it done yet?")
        client.locator("li").nth(count).wait_for()


def use_websocket(client, machine):
    click(client, "Open")
    enter(client.locator("#seconds"), "0")
    click(client, "Submit")
    client.get_by_text("push:").get_by_text('"result": 42').wait_for()


def use_keep_alive(client, machine):
    for name, last in ("Ten requests in sequence", 10), ("Eight slow requests at once", 8):
        click(client, name)
        client.locator("li").nth(last).get_by_text("done", exact=True).wait_for()


def use_notifications(client, machine):
    client.get_by_text("connected", exact=True).wait_for()
    body = json.dumps({"text": "hello"}).encode()
    assert b" 201 " in machine.exchange(request("POST", "/topics/deploys", body))
    client.get_by_text("topics/deploys: hello").wait_for()


# For each client, what a reader does, until the client shows what the server sends.
USES = {
    "keep_alive": use_keep_alive,
    "long_polling": use_jobs,
    "notifications": use_notifications,
    "reconnecting": lambda client, machine: client.get_by_text("2 events").wait_for(),
    "reliable_websockets": lambda client, machine: client.get_by_text(" tick").nth(1).wait_for(),
    "security": lambda client, machine: client.get_by_text("1 a token").wait_for(),
    "server_sent_events": partial(use_jobs, seconds="3"),  # wrong_live.py loses earlier events
    "short_polling": partial(use_jobs, interval="0.1"),
    "token": use_token,
    "websockets": use_websocket,
}
CLIENTS = sorted(EXAMPLES.glob("*/client.html"))
FITTING = {
    name: topics
    for name in runnable.programs()
    if (topics := [path.parent.name for path in CLIENTS if runnable.fits(EXAMPLES / name, path)])
}
MOUNT = """async (topic) => {
  const [{ mount }, { patch }] = await Promise.all(
    ["panel/client.js", "runtime/network.js"].map((name) => import(new URL(name, location))),
  );
  const place = document.body.appendChild(document.createElement("div"));
  place.id = topic;
  const base = new URL("http://127.0.0.1:8000");
  await mount(place, {
    client: `${topic}/client.html`,
    prepare: (inside) => {
      patch(inside, machine, base, port);
      const { fetch } = inside; // a job of no seconds: the client of the token has no field for it
      inside.fetch = (url, options = {}) =>
        fetch(url, { ...options, body: options.body?.replace('"seconds":5', '"seconds":0') });
    },
  });
}"""


def use_clients(machine, name, topics):
    """Run a server; use clients of it, all at once; fail if they leave connections open."""
    assert machine.start(name), machine.output
    machine.page.evaluate("document.body.replaceChildren()")  # also if the last one failed
    for topic in topics:
        machine.page.evaluate(MOUNT, topic)
    for topic in topics:
        USES[topic](machine.page.frame_locator(f"#{topic} iframe"), machine)
    machine.page.evaluate("document.body.replaceChildren()")
    machine.page.wait_for_function(
        "machine.connections.every((each) => machine.idle.includes(each))"
    )
    assert machine.stop() == 0, machine.output


@pytest.mark.parametrize("name", FITTING)
def test_each_client_works_with_each_server_that_fits(machine, name):
    """In the page, each printed client.html shows the finished job, the messages or the responses
    of each server that fits: one with the routes, the parameters and the Location that the client
    uses, and without a key that it does not send. All clients of a server are open at once, and one
    that is removed closes its connections."""
    use_clients(machine, name, FITTING[name])


@only_firefox
@pytest.mark.parametrize("path", CLIENTS, ids=[path.parent.name for path in CLIENTS])
def test_each_client_works_in_firefox(machine, path):
    """In Firefox, in the page, each printed client.html shows the finished job, the messages or the
    responses of the server that it names."""
    use_clients(machine, needed_server(path), [path.parent.name])


def test_sigterm_drains(machine):
    """After SIGTERM a server in the page responds to the requests that it holds, and then ends."""
    machine.start("long_polling/server_hardened.py")
    token = re.search(rb'"token":"([\w-]+)"', machine.exchange(job(50)))[1].decode()
    held = machine.open(request("GET", f"/jobs/{token}", None, "Prefer: wait=20"))
    assert b'"requests":1,' in machine.exchange(request("GET", "/held"))
    machine.page.evaluate(f"machine.signal({SIGTERM})")
    assert b'"status":"pending"' in machine.read(held)
    assert machine.wait() == 0


def test_a_killed_server_keeps_its_files_only(machine):
    """A server that is killed loses what it has in memory and keeps its files: a job in SQLite is
    there after the restart, and a job in memory is not."""
    for name, status in ("job_queue/server_hardened.py", 200), ("token/server.py", 404):
        machine.start(name)
        field = "Authorization: Bearer alice-key"
        submit = request("POST", "/jobs", b'{"seconds": 1}', field)
        location = re.search(rb"(?i)location: (\S+)", machine.exchange(submit))[1].decode()
        assert machine.kill() == 137
        machine.start(name)
        response = machine.exchange(request("GET", location, None, field))
        assert response.startswith(b"HTTP/1.1 %d " % status), response
        machine.kill()


def test_a_client_that_leaves_cancels_its_handler(machine):
    """When a client resets its connection, the handler of its request is cancelled."""
    machine.start("long_polling/server_hardened.py")
    token = re.search(rb'"token":"([\w-]+)"', machine.exchange(job(50)))[1].decode()
    held = machine.open(request("GET", f"/jobs/{token}", None, "Prefer: wait=20"))
    assert b'"requests":1,' in machine.exchange(request("GET", "/held"))
    machine.page.evaluate(f"connections[{held}].close('reset')")
    assert b'"requests":0,' in machine.exchange(request("GET", "/held"))
    machine.kill()


# Sends a GET by what carries the requests of a page; returns the text of the response.
GET = """async (path) => {
  const { exchange, readBody } = await import(new URL("runtime/network.js", location));
  const { connection, head, done } = await exchange(machine, port, path, {
    method: "GET", headers: new Headers(),
  });
  let text = "";
  const pieces = readBody(connection, head, "GET");
  for (;;) {
    const { done: ended, value } = await pieces.next();
    if (ended) return done(value), text;
    text += new TextDecoder().decode(value);
  }
}"""


def test_a_delayed_network(machine):
    """With a delay of 40 ms each request and each response takes at least that long, and the first
    request on a connection three times as long, since the handshake of TCP goes first."""
    machine.start("token/server.py")
    machine.page.evaluate("window.seen = []")
    machine.page.evaluate("machine.delay = 40")
    machine.page.evaluate(GET, "/jobs/unknown")
    machine.page.evaluate(GET, "/jobs/unknown")
    machine.page.evaluate("machine.delay = 0")
    first, answer, second, _ = machine.page.evaluate(
        "seen.filter(({ kind }) => kind).map(({ passage }) => passage)"
    )
    took = [each["arrives"] - each["at"] for each in (first, answer, second)]
    assert took[0] >= 110 and min(took) >= 39  # of a clock that is rounded
    machine.kill()


def test_a_frozen_connection_delivers_later(machine):
    """What is sent on a frozen connection arrives after the thaw, and nothing before; another
    connection works meanwhile. A frozen network delivers nothing, on a new connection neither."""
    machine.start("long_polling/server_hardened.py")
    token = re.search(rb'"token":"([\w-]+)"', machine.exchange(job(50)))[1].decode()
    wait = request("GET", f"/jobs/{token}", None, "Prefer: wait=20")
    held = machine.open(b"")
    machine.page.evaluate(f"connections[{held}].freeze()")
    machine.page.evaluate(
        "([number, data]) => connections[number].send(Uint8Array.from(atob(data), "
        "(each) => each.charCodeAt(0)))",
        [held, base64.b64encode(wait).decode()],
    )
    assert b'"requests":0,' in machine.exchange(request("GET", "/held"))
    machine.page.evaluate(f"connections[{held}].thaw()")
    assert b'"requests":1,' in machine.exchange(request("GET", "/held"))

    machine.page.evaluate("machine.freeze()")
    machine.page.evaluate(f"connections[{held}].close('reset')")
    late = machine.open(request("GET", "/held"))
    assert machine.page.evaluate("machine.waiting.size") == 2
    machine.page.evaluate("machine.thaw()")
    assert b'"requests":0,' in machine.read(late)
    assert machine.page.evaluate("machine.waiting.size") == 0
    machine.kill()


def test_a_cut_connection_is_reset_on_both_sides(machine):
    """When the network cuts its connections, the client's request fails and the server cancels its
    handler; both happen without a byte from either."""
    machine.start("long_polling/server_hardened.py")
    machine.page.evaluate("window.seen = []")
    token = re.search(rb'"token":"([\w-]+)"', machine.exchange(job(50)))[1].decode()
    held = machine.open(request("GET", f"/jobs/{token}", None, "Prefer: wait=20"))
    assert b'"requests":1,' in machine.exchange(request("GET", "/held"))
    machine.page.evaluate("machine.cut()")
    assert machine.read(held) == b""
    assert b'"requests":0,' in machine.exchange(request("GET", "/held"))
    ends = machine.page.evaluate("seen.filter(({ by }) => by).map(({ by, how }) => [by, how])")
    assert ["network", "reset"] in ends
    machine.kill()


def test_without_a_program_connections_are_refused(machine):
    """A connection to a program that was killed or has ended is refused."""
    machine.start("token/server.py")
    for end in machine.kill, machine.stop:
        end()
        assert machine.read(machine.open(b"")) == b""
        assert machine.page.evaluate("connections.at(-1).open") is False
        machine.start("token/server.py")
    machine.kill()


# The network of a page, as the clients of a server in it have it.
SCOPE = """
  const { patch } = await import(new URL("runtime/network.js", location));
  const scope = { fetch, Request, Response, EventTarget, Event, MessageEvent, CloseEvent };
  Object.assign(scope, { DOMException, document, location, WebSocket });
  patch(scope, machine, new URL("http://127.0.0.1:8000"), port);
"""


def test_what_passes_is_reported(machine):
    """The network reports each request, response and message with its data, each connection that
    opens and closes, and counts bytes in both directions."""
    machine.start("websockets/server.py")
    machine.page.evaluate("window.seen = []")
    before = machine.page.evaluate("machine.traffic.connections")
    machine.page.evaluate(
        f"async () => {{{SCOPE}"
        """
          const socket = new scope.WebSocket("ws://127.0.0.1:8000/jobs/socket");
          await new Promise((resolve) => (socket.onopen = resolve));
          socket.send('{"id": 1, "submit": {"seconds": 0}}');
          await new Promise((resolve) => (socket.onmessage = ({ data }) =>
            data.includes("done") && resolve()));
          socket.close(1000);
          await new Promise((resolve) => (socket.onclose = resolve));
        }"""
    )
    seen = machine.page.evaluate("seen.map(({ connection, passage, ...rest }) => rest)")
    assert seen[0] == {"type": "open"}
    kinds = [(each["from"], each["kind"]) for each in seen if each["type"] == "message"]
    assert kinds[:3] == [("client", "request"), ("server", "response"), ("client", "message")]
    assert kinds[-2:] == [("client", "close"), ("server", "close")]
    assert set(kinds[3:-2]) == {("server", "message")}
    assert seen[1]["path"] == "/jobs/socket" and seen[2]["status"] == 101
    assert '"done"' in seen[-4]["data"] and seen[-3]["data"] == "1000"
    assert seen[-1]["type"] == "close"
    assert machine.page.evaluate("machine.traffic.connections") == before + 1
    machine.kill()


def test_a_body_that_is_not_read(machine):
    """A response whose body the page does not read is reported, and its connection carries the
    next request, as in a browser."""
    machine.start("token/server.py")
    machine.page.evaluate("window.seen = []")
    machine.page.evaluate(
        f"async () => {{{SCOPE}"
        """
          for (const body of ['{"seconds": 1}', '{"seconds": 2}'])
            await scope.fetch("http://127.0.0.1:8000/jobs", { method: "POST", body });
        }"""
    )
    kinds = machine.page.evaluate("seen.map(({ type, kind }) => kind ?? type)")
    assert kinds == ["open", "request", "response", "request", "response"]
    machine.kill()


def allocated(machine):
    """Return how many objects the interpreter keeps, and how many bytes of memory it has."""
    program = """if True:
        import gc, pyodide_js
        gc.collect()
        print(len(gc.get_objects()), pyodide_js._module.HEAPU8.length)
    """
    assert machine.run(program) == 0
    return [int(each) for each in machine.output.split()]


def test_fifty_restarts_do_not_grow(machine):
    """After 50 restarts of a server the interpreter keeps less than one object more for each, and
    has at most 40 MB of memory."""

    def restart(times):
        for _ in range(times):
            assert machine.start("token/server.py")
            machine.kill()
        return allocated(machine)

    before, _ = restart(3)
    after, memory = restart(50)
    assert after - before < 50
    assert memory <= 40_000_000


# Wrong programs

# What their failure looks like in what the commands print; the right program does not print it.
FAILURES = {
    "job_queue/wrong_unbounded.py": r"^25 × 202$",
    "long_polling/wrong_blocking.py": r"(?s)200 OK.*404 Not Found",
    "long_polling/wrong_feed_server.py": r'"messages":\[\]',
    "long_polling/wrong_shared_future.py": r"^HTTP/1.1 500 ",
    "long_polling/wrong_shutdown.py": r"^\(no response: ",
    "notifications/wrong_broadcast_queue.py": r'"subscribers":1,"waiting":1\d\d',
    "notifications/wrong_broadcast_set.py": r"^\d+ × 202, \d+ × 500$",
    "notifications/wrong_broadcast_stall.py": r"^\d+ × 202, 1 × nothing more for 2 s$",
    "reliable_websockets/wrong_server_leak.py": r"^Connection closed: 1013 too many connections$",
    "reliable_websockets/wrong_server_push_only.py": r"^Connection closed: 1011$",
    "security/wrong_cors.py": r"^access-control-allow-origin: http://evil.example$",
    "security/wrong_expiry.py": r"^Connection closed: 1000",
    "security/wrong_server.py": r"(?s)101 Switching Protocols.*alice has 1000 coins",
    "server_sent_events/wrong_board.py": r"^event: alarm$",
    "server_sent_events/wrong_cleanup.py": r'"subscribers":1',
    "server_sent_events/wrong_live.py": r"^retry: 1000\s*\Z",
    "server_sent_events/wrong_silent.py": r"(?s)data: \d+\s+\(cut off: ",
    "webhooks/wrong_replay.py": r"^2 × 204$",
}
REPRODUCE = """async (commands) => {
  const { reproduce } = await import(new URL("reproduce.js", location));
  let text = "";
  await reproduce(machine, port, commands, (more) => (text += more));
  return text;
}"""


@pytest.mark.xdist_group("reproduced")
@pytest.mark.parametrize("name", FAILURES)
def test_one_button_reproduces_a_failure(machine, name):
    """The commands that a wrong program's first lines say to try show its failure; with the right
    program they do not."""
    diff = (ROOT / "snippets" / name).with_suffix(".diff").read_text()
    right = f"{name.partition('/')[0]}/{diff.partition('+++ ')[2].splitlines()[0]}"
    commands = runnable.programs()[name]["try"]
    shown = {}
    (settings,) = [each["environment"] for each in commands if each["kind"] == "start"] or [{}]
    for program in name, right:
        machine.start(program, **settings)
        shown[program] = machine.page.evaluate(REPRODUCE, commands)
        machine.kill()
    assert re.search(FAILURES[name], shown[name], re.M), shown[name]
    assert not re.search(FAILURES[name], shown[right], re.M), shown[right]


# Why the others that a page can run have no commands.
SIGNED = "a message that was signed within the last five minutes"
WITHOUT = {
    "long_polling/wrong_timeout.py": "a minute, which is the timeout of its framework",
    "notifications/wrong_broadcast_frames.py": "a measurement: only its CPU time differs",
    "reliable_websockets/wrong_server_blocking.py": "threads, for the right program",
    "security/wrong_inflating.py": "a client that compresses",
    "webhooks/wrong_body.py": SIGNED,
    "webhooks/wrong_slow.py": SIGNED,
}


def test_wrong_programs_without_commands(record):
    """Each wrong program has commands that are proved to show its failure, or is in a table that
    says what its failure needs."""
    programs = runnable.programs()
    assert {name for name, each in programs.items() if "try" in each} == FAILURES.keys()
    needs = {}
    for path in sorted(EXAMPLES.glob("*/wrong_*")):
        name = f"{path.parent.name}/{path.name}"
        if path.suffix != ".py":
            reason = "nginx or HAProxy"
        elif name not in runnable.servers():
            reason = "a Python client or worker"
        else:
            reason = runnable.servers()[name] or WITHOUT.get(name)
        assert (name in FAILURES) != bool(reason), name
        if reason:
            needs.setdefault(reason, []).append(f"`{name}`")
    rows = ["| its failure needs | programs |", "| --- | --- |"]
    rows += [f"| {reason} | {', '.join(names)} |" for reason, names in sorted(needs.items())]
    record("runtime/not_reproduced.md", "\n".join(rows) + "\n")


# Where a page offers it

HIDDEN = "//details[not(@open)] | //div[@class='tabbed-block'][position() > 1]"
INCLUDED = re.compile(r'(?m)^( *)--8<-- "(\w+/\w+\.py)(:\w+)?"$')


def printed():
    """Yield (page, program) of each server program that a page prints: whole, or a part of it that
    is neither in a fold nor in a tab."""
    for name, text in PAGES.items():
        if not name.startswith("reference/"):
            found = {
                program
                for indent, program, section in INCLUDED.findall(text)
                if program in runnable.servers() and not (indent and section)
            }
            yield from ((name, program) for program in sorted(found))


def test_each_server_is_offered_or_the_page_says_why_not(site):
    """Each server program that a page prints has a button *Run here* that a reader sees without
    opening a fold or a tab, or else a line that says what the program needs."""
    seen = set()
    for name, program in printed():
        folder = name.removesuffix("index.md").removesuffix(".md")
        page = html.fromstring((site / folder / "index.html").read_bytes())
        for hidden in page.xpath(HIDDEN):
            hidden.drop_tree()
        mark = "data-program" if runnable.servers()[program] else "data-run"
        assert page.xpath(f"//*[@{mark} = $program]", program=program), (name, program)
        seen.add(program)
    assert len(seen) > 70


def test_programs_without_a_button(record):
    """The servers that cannot run in a page are those that need threads, Redis, TLS or connections
    to other servers."""
    missing = {}
    for program, reason in runnable.servers().items():
        if reason:
            missing.setdefault(reason, []).append(f"`{program}`")
    rows = ["| needs | programs |", "| --- | --- |"]
    rows += [f"| {reason} | {', '.join(names)} |" for reason, names in sorted(missing.items())]
    record("runtime/unavailable.md", "\n".join(rows) + "\n")
    assert len(runnable.programs()) >= 60


# The panel


@pytest.fixture(scope="module")
def panel(browser, static):
    """Press *Run here* at the server of the page on tokens; return the page, which all tests of the
    panel use in turn, and the hosts of its requests."""
    with watched_pages(browser) as open_page:
        page = open_page(f"{static.url}/start/token/")
        page.set_default_timeout(60_000)
        page.click(BUTTON)
        yield page, open_page.hosts


BUTTON = "[data-run='token/server.py'] .run-here"


@pytest.fixture
def opened(panel):
    """Return the page with the panel, in which the server runs as it is printed."""
    page, _ = panel
    page.wait_for_selector(f"{RUNNING}, {ENDED}")
    edited = page.locator(".runner-bar").get_by_role("button", name="Reset").is_visible()
    if edited:
        press(page, "Reset")
    if edited or page.locator(ENDED).count():
        restart(page)
    page.wait_for_selector(RUNNING)
    page.select_option(".runner [name=method]", "POST")
    page.fill(".runner [name=path]", "/jobs")
    return page


def restart(page):
    if page.locator(RUNNING).count():
        press(page, "Kill")
        page.wait_for_selector(ENDED)
    press(page, "Run")
    page.wait_for_selector(RUNNING)


def press(page, name):
    page.locator(".runner-bar").get_by_role("button", name=name, exact=True).click()


def edit(page, old, new):
    """Edit the program, and run it again."""
    if page.locator(FIELD).is_hidden():
        press(page, "Edit")
    text = page.input_value(FIELD)
    assert old in text
    page.fill(FIELD, text.replace(old, new))
    press(page, "Kill")
    page.wait_for_selector(ENDED)
    press(page, "Run")


def send(page, words):
    """Send the request that the form holds; wait for words of the response."""
    page.click(".runner-request [type=submit]")
    page.locator(".runner-response", has_text=words).wait_for()


def test_nothing_is_loaded_before_the_click(open_page, static):
    """Before *Run here* is pressed, a page requests neither the runtime nor what runs it."""
    page = open_page(f"{static.url}/start/token/")
    page.locator(".run-here").first.wait_for()
    names = page.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
    assert not [name for name in names if "/runtime/" in name or "runner" in name]


def test_requests_go_to_the_site_only(opened, panel, static):
    """To run a server, the page requests files of its own site only."""
    send(opened, "202 Accepted")
    send(opened, '"pending"')
    assert panel[1] == {urlsplit(static.url).netloc}


def test_an_edited_server_responds_otherwise(opened):
    """A server that was edited runs as it was edited, also after a reload of the page, until it is
    reset."""
    edit(opened, '"status": "pending"}', '"status": "edited"}')
    opened.wait_for_selector(RUNNING)
    send(opened, '"edited"')
    opened.reload()
    opened.click(BUTTON)
    opened.wait_for_selector(RUNNING)
    send(opened, '"edited"')
    press(opened, "Reset")
    restart(opened)
    opened.select_option(".runner [name=method]", "POST")
    opened.fill(".runner [name=path]", "/jobs")
    send(opened, '"pending"')


@both_browsers
def test_the_page_of_long_polling_runs_its_server(open_page, static):
    """On the page of long polling, the server whose limit was changed from 25 seconds to 2 ends a
    hold after 2; after *Kill* and *Run* it runs again, without the job that it had in memory. The
    diagram shows the requests, their responses, the end of the server and its restart."""
    page = open_page(f"{static.url}/techniques/long-polling/")
    page.click("[data-run='long_polling/server.py'] .run-here")
    page.wait_for_selector(RUNNING)
    edit(page, '"MAX_WAIT", 25', '"MAX_WAIT", 2')
    page.wait_for_selector(RUNNING)
    page.fill(".runner [name=body]", '{"seconds": 60}')
    send(page, "202 Accepted")
    page.fill(".runner [name=headers]", "Prefer: wait=20")
    send(page, "preference-applied: wait=2")
    send(page, '"pending"')
    wait_for_wire(page, "POST /jobs", "202 pending", "GET /jobs", "200 pending")
    press(page, "Kill")
    page.locator(".runner-bar strong", has_text="Killed").wait_for()
    wait_for_wire(page, "200 pending", "killed")
    press(page, "Run")
    page.wait_for_selector(RUNNING)
    wait_for_wire(page, "200 pending", "killed", "restarted")
    send(page, "404 Not Found")
    wait_for_wire(page, "200 pending", "404")
    open_page.problems.clear()


def test_an_error_is_shown_with_its_line(opened):
    """The panel shows a syntax error with its line, which the editor marks until the next run, and
    selects that line."""
    edit(opened, "async def run_job(seconds):", "async def run_job(seconds)")
    opened.wait_for_selector(ENDED)
    error = opened.locator(".runner-error")
    assert "SyntaxError: expected ':'" in error.inner_text()
    marked = opened.locator(".runner-fault")
    assert marked.all_text_contents() == ["async def run_job(seconds)\n"]
    error.get_by_role("button").click()
    selected = opened.locator(FIELD).evaluate(
        "(each) => each.value.slice(each.selectionStart, each.selectionEnd)"
    )
    assert selected == "async def run_job(seconds)"
    text = opened.input_value(FIELD)
    opened.fill(FIELD, text.replace(selected, f"{selected}:"))
    press(opened, "Run")
    opened.wait_for_selector(RUNNING)
    assert marked.count() == 0


# Where a character of the code of the page has another colour than in the editor: what is there in
# both, and undefined where all have the same.
COMPARE = """() => {
  // Each character with its colour. That of a class is the same everywhere in one container.
  const colours = (elements) => {
    const known = {}, found = [];
    for (const element of elements) {
      const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement;
        const classes = parent.className + "<" + parent.parentElement.className;
        known[classes] ??= " " + getComputedStyle(parent).color;
        for (const each of walker.currentNode.data.replace(/\\s/g, ""))
          found.push(each + known[classes]);
      }
    }
    return found;
  };
  const expected = colours([document.querySelector(".program-of-page")]);
  const found = colours(document.querySelectorAll(".pce-line"));
  const at = expected.findIndex((each, at) => each !== found[at]);
  if (at >= 0 || new Set(expected).size < 50 || found.length !== expected.length)
    return [at, expected.slice(at, at + 20), found.slice(at, at + 20)];
}"""
EXOTIC = r"""
import a.b as c, d
from .e import (f, g)
@wraps
async def f(a, *, b=1_000.5e-3, c=0xFF, d=.5):
    match = rb"\"\d" + b"\x00\u0000" + u'\'\101' "\N{DIGIT ONE}"  # "no string"
    '''no " docstring'''
    print(f"{a!r:>9} {{x}} {c['d']:.2f} {d=}", fr"\d{a}", a @ b, "# no comment")
    match a:
        case {"b": _} if not None:
            yield from self.import_all(a.list, list)
    raise ValueError from error
"""


@both_browsers
def test_the_editor_has_the_colours_of_the_page(open_page, static):
    """In the editor each character of the program has the colour that it has in the code of the
    page, in both colour schemes; so it is for every program that can run in a page, and for all
    names of `builtins`."""
    page = open_page(f"{static.url}/start/token/")
    page.click(BUTTON)
    page.wait_for_selector(RUNNING)
    press(page, "Edit")
    shown = page.locator("[data-run='token/server.py'] code:has(.sd)")
    shown.evaluate("(code) => code.classList.add('program-of-page')")
    code = page.locator(".program-of-page")
    darken(page)
    assert page.evaluate(COMPARE) is None
    page.evaluate("document.querySelector('[data-md-color-scheme=default]').click()")
    assert page.evaluate(COMPARE) is None
    names = [name for name in dir(builtins) if not name.startswith("_")]
    texts = [(EXAMPLES / name).read_text() for name in runnable.programs()]
    texts += ["".join(f"value = {name}\n" for name in names), EXOTIC]
    for text in texts:
        page.fill(FIELD, text)
        painted = highlight(text, PythonLexer(), HtmlFormatter(nowrap=True))
        code.evaluate("(code, painted) => (code.innerHTML = painted)", painted)
        assert page.evaluate(COMPARE) is None


@both_browsers
def test_typing_changes_text_and_colours_alike(open_page, static):
    """What is typed, deleted and undone in the editor is the same in its text and in the
    coloured lines behind it, which have the font and the place of the text; *Enter* keeps the
    indentation, and adds to it after a colon."""
    page = open_page(f"{static.url}/start/token/")
    page.click(BUTTON)
    page.wait_for_selector(RUNNING)
    press(page, "Edit")
    field = page.locator(FIELD)
    original = field.input_value()

    def shown():
        lines = page.locator(".runner-editor .pce-line").all_text_contents()
        assert field.input_value() == "".join(lines).removesuffix("\n")
        return field.input_value()

    assert shown() == original
    field.press("Control+Home")
    for part in "def f(<b>&amp;):", "'''x":
        page.keyboard.type(part)
        page.keyboard.press("Enter")
    page.keyboard.type("y z")
    assert shown() == "def f(<b>&amp;):\n    '''x\n    y z" + original
    page.keyboard.press("Backspace")
    page.keyboard.press("Shift+Control+End")
    page.keyboard.press("Delete")
    assert shown() == "def f(<b>&amp;):\n    '''x\n    y "
    for _ in range(60):
        page.keyboard.press("Control+z")
    assert shown() == original
    text, line = (
        page.locator(each).first.evaluate(
            """(element) => {
              const style = getComputedStyle(element);
              const names = ["font", "letterSpacing", "paddingLeft", "tabSize", "whiteSpace"];
              const { x, y, width } = element.getBoundingClientRect();
              return [x, y, width, ...names.map((name) => style[name])];
            }"""
        )
        for each in (FIELD, ".pce-line")
    )
    assert text == line


def test_tab_leaves_the_editor(opened):
    """In the editor, which opens with the caret in it and nothing selected, *Tab* moves the focus
    to the next control, and *Shift* with *Tab* back."""
    if opened.locator(FIELD).is_visible():
        press(opened, "Edit")
    press(opened, "Edit")
    field = "document.activeElement"
    assert opened.evaluate(f"[{field}.tagName, {field}.selectionEnd]") == ["TEXTAREA", 0]
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.role") == "log"
    opened.keyboard.press("Shift+Tab")
    assert opened.evaluate("document.activeElement.tagName") == "TEXTAREA"
    opened.keyboard.press("Shift+Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Edit"


def test_an_endless_loop_is_killed(opened):
    """The button *Kill* ends a server that never waits, and another run works."""
    edit(opened, 'raise NotFound("unknown token")', "while True: pass")
    opened.wait_for_selector(RUNNING)
    opened.select_option(".runner [name=method]", "GET")
    opened.fill(".runner [name=path]", "/jobs/unknown")
    opened.click(".runner-request [type=submit]")
    press(opened, "Kill")
    opened.wait_for_selector(ENDED)
    press(opened, "Reset")
    press(opened, "Run")
    opened.wait_for_selector(RUNNING)
    send(opened, "404 Not Found")


def test_stop_ends_the_server(opened):
    """The button *Stop* sends SIGTERM; the panel shows the status with which the server ends."""
    press(opened, "Stop")
    opened.locator(".runner-bar strong", has_text="Exited with status 0").wait_for()


def wait_for_wire(page, *words):
    """Wait until the diagram has these words, in order."""
    page.wait_for_function(
        """(words) => {
          const text = document.querySelector(".runner-wire svg").textContent;
          let from = 0;
          return words.every((each) => (from = text.indexOf(each, from) + 1));
        }""",
        arg=words,
    )


def counters(page):
    shown = page.locator(".runner-counters dd").evaluate_all(
        "(all) => all.map(({ dataset, textContent }) =>"
        " [dataset.counter, Number(textContent.replace(',', ''))])"
    )
    return dict(shown)


def test_requests_are_drawn_as_they_pass(opened):
    """The panel draws each request and response, and counts requests, bytes and connections; it
    draws a connection that is cut, a server that is killed and one that starts again."""
    restart(opened)
    before = counters(opened)
    send(opened, "202 Accepted")
    shown = opened.locator("[data-counter=requests]", has_text=str(before["requests"] + 1))
    shown.wait_for()
    after = counters(opened)
    assert after["requests"] == before["requests"] + 1
    assert after["up"] - before["up"] > 80 and after["down"] - before["down"] > 100
    wait_for_wire(opened, "POST /jobs", "202 pending")
    opened.get_by_role("button", name="Cut connections").click()
    wait_for_wire(opened, "202 pending", "cut")
    press(opened, "Kill")
    wait_for_wire(opened, "202 pending", "killed")
    press(opened, "Run")
    wait_for_wire(opened, "202 pending", "killed", "restarted")


def test_a_frozen_network_in_the_panel(opened):
    """While the panel freezes the network, a request gets no response; it gets it when the network
    is as it was."""
    restart(opened)
    opened.select_option(".runner [name=network]", "frozen")
    opened.click(".runner-request [type=submit]")
    wait_for_wire(opened, "POST /jobs")
    opened.select_option(".runner [name=network]", "as it is")
    opened.locator(".runner-response", has_text="202 Accepted").wait_for()


def test_the_client_of_the_page_talks_to_the_server_in_it(opened):
    """The browser client of a page works with the server that runs in the page, and has the look of
    the site, also after *Reload*."""
    opened.get_by_role("button", name="Reload").click()
    client = opened.frame_locator(".runner iframe")
    client.get_by_role("button", name="Poll an unknown token").click()
    client.get_by_text("404").wait_for()
    assert client.locator("h1").is_hidden()
    family = "(button) => getComputedStyle(button).fontFamily.split(',')[0]"
    site = opened.locator(".runner-bar button").first.evaluate(family)
    assert client.locator("#guess").evaluate(family) == site


def test_messages_of_a_websocket(open_page, static):
    """The form opens a WebSocket connection and shows the messages of both sides; so does a
    program in a fold."""
    page = open_page(f"{static.url}/techniques/websockets/")
    block = page.locator("[data-run='websockets/server.py']")
    for fold in page.locator("article details").all():
        if not block.count():
            fold.locator("summary").first.click()
            page.wait_for_timeout(100)
    block.locator(".run-here").first.click()
    page.wait_for_selector(RUNNING)
    page.select_option(".runner [name=method]", "WebSocket")
    send(page, "Open.")
    page.fill(".runner [name=body]", '{"id": 1, "submit": {"seconds": 0}}')
    send(page, '"done"')


def test_a_failure_in_the_panel(open_page, static):
    """The button *Reproduce here* runs a wrong program with the settings of its first lines, and
    prints its failure; after an edit that corrects it, the same commands print none."""
    page = open_page(f"{static.url}/techniques/reliable-websockets/")
    button = page.locator("[data-run='reliable_websockets/wrong_server_leak.py'] .run-here").first
    assert button.inner_text() == "Reproduce here"
    button.click()
    response = page.locator(".runner-response")
    response.get_by_text("closed: 1013 too many connections").wait_for()
    lines = "receiving.cancel()\n", "ctx.connections -= 1\n"
    edit(page, "    ".join(["", *lines]), "        ".join(["    finally:\n", *lines]))
    page.locator(
        ".runner-response", has_text=re.compile("closed: 1000.*closed: 1000", re.S)
    ).wait_for()
    assert "1013" not in response.inner_text()


def test_without_promise_integration_a_line_explains_it(browser, static):
    """In a browser without JavaScript Promise Integration the click shows a line that names it, and
    loads no runtime."""
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script("delete WebAssembly.Suspending")
        page.goto(f"{static.url}/start/token/")
        page.click(".run-here")
        page.locator(".runner", has_text="Promise Integration").wait_for()
        names = page.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
        assert not [name for name in names if ".wasm" in name]


def test_the_panel_is_accessible(opened):
    """The open panel breaks no rule of axe."""
    press(opened, "Edit")
    expect_accessible(opened, ".runner")


def test_the_runtime_has_at_most_nine_megabytes():
    """The runtime has at most 9 MB, compressed."""
    assert compressed(RUNTIME) <= BUDGET <= 9_000_000


def metadata():
    """Return the metadata of the packages that are shipped: {name: message}."""
    with zipfile.ZipFile(RUNTIME / "packages.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        found = [message_from_bytes(archive.read(name)) for name in names]
    return {each["Name"]: each for each in found}


SPELLINGS = {"Apache License 2.0": "Apache-2.0", "Public Domain": "public domain"}


def test_the_licences_of_all_parts_are_published(machine):
    """The notice names each package with the licence in its metadata, and each part of Pyodide that
    tells its version with that; the licence files of all packages follow, and of Pyodide, CPython
    and the editor."""
    text = (RUNTIME / "LICENCES.txt").read_text()
    packages = metadata()
    lock = (ROOT / "tests/requirements.txt").read_text()
    locked = dict(re.findall(r"(?m)^([\w-]+)==(\S+) ", lock))
    assert {name.replace("_", "-") for name in packages} == set(PACKAGES)
    for name, package in packages.items():
        licence = package["License-Expression"] or package["License"]
        assert f"\n    {name}: {SPELLINGS.get(licence, licence)}\n" in text, name
        folder = f"{name.replace('-', '_')}-{package['Version']}"
        for file in package.get_all("License-File", []):
            assert f"\n\n{folder}: {file}\n\n" in text, (name, file)
        assert locked[name.replace("_", "-")] == package["Version"]
    assert "Mozilla Public License Version 2.0" in text
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in text
    assert "Copyright (c) 2005-2016, Michele Simionato" in text

    assert f"Pyodide {PYODIDE.partition('@')[2]}, unmodified" in text
    assert f"{EDITOR.replace('@', ' ')}, a part of its files, unmodified" in text
    assert "Copyright (c) 2023 Jonas Pytte" in text
    program = """if True:
        import _decimal, platform, pyexpat, sqlite3, zlib
        print("CPython", platform.python_version())
        print("SQLite", sqlite3.sqlite_version)
        print("Expat", pyexpat.EXPAT_VERSION.removeprefix("expat_"))
        print("libmpdec", _decimal.__libmpdec_version__)
        print("zlib", zlib.ZLIB_RUNTIME_VERSION)
    """
    assert machine.run(program) == 0
    parts = machine.output.splitlines()
    assert len(parts) == 5
    for part in parts:
        assert re.search(rf"\b{re.escape(part)}\b", text), part
