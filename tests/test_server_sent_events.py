"""Server-sent events: ask once, and be told in one answer as it happens."""

import difflib
import importlib
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from subprocess import CompletedProcess
from typing import NamedTuple

import httpx2
import pytest

from .support.browsing import expect_accessible
from .support.messages import (
    counts,
    exchanges,
    late,
    messages,
    pieces,
    stream_trace,
    stream_transcript,
    table,
    told,
    transcript,
)
from .support.parts import require_program
from .support.processes import EXAMPLES, TIMEOUT, Program, argv, copy_isolated, environment
from .support.sequence import sequence_diagram
from .support.threads import run_in_thread
from .support.wiretap import Cut, Tap

HERE = "server_sent_events"


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the plain server, running as a reader runs it."""
    return start_shared(f"{HERE}/server.py")


@pytest.fixture(scope="module")
def quick(start_shared):
    """Return the plain server in a hurry: ten reports a second, and back after a moment."""
    return start_shared(f"{HERE}/server.py", STEP=0.1, RETRY=50)


class Run(NamedTuple):
    """A client that runs beside the proofs: the wire it talks over, and how it ended."""

    wire: Tap
    result: Callable[[], CompletedProcess]  # waits for the end


def cut_after(words):
    """Return what a tap does on data: end the first connection on which the server says that,
    after the event that has it."""
    done = []

    def cut(event):
        at = event.data.find(words)
        if event.source == "server" and at >= 0 and not done:
            done.append(event)
            return Cut(event.data.index(b"\n\n\r\n", at) + 4)

    return cut


@pytest.fixture(scope="module", autouse=True)
def runs(start_shared, tap_shared, run_shared):
    """Return a Run of each client that takes its time; they mostly wait, so they wait together.

    Where the connection is cut, the client comes back after a second at the earliest, and the
    job ends before that: a busy machine makes it later, never earlier.
    """
    away = {"STEP": 0.25}
    servers = {
        "slow": start_shared(f"{HERE}/server.py", STEP=2),
        "hardened": start_shared(f"{HERE}/server_hardened.py", STEP=2),
        "quiet": start_shared(f"{HERE}/server.py", STEP=60),
        "limited": start_shared(
            f"{HERE}/server.py", STEP=60, HEARTBEAT=0.3, SANIC_RESPONSE_TIMEOUT=2
        ),
        "silent": start_shared(f"{HERE}/wrong_silent.py", STEP=60, SANIC_RESPONSE_TIMEOUT=2),
        "away": start_shared(f"{HERE}/server.py", **away),
        "live": start_shared(f"{HERE}/wrong_live.py", **away),
    }
    with ThreadPoolExecutor(16) as beside:

        def begin(client, server, options=None, **variables):
            wire = tap_shared(servers[server], **options or {})
            run = beside.submit(run_shared, f"{HERE}/{client}", URL=wire.url, **variables)
            return Run(wire, run.result)

        cut = {"on_data": cut_after(b'"percent": 25')}
        cut_too = {"on_data": cut_after(b'"percent": 25')}
        yield {
            # Twice as slow as they are drawn: a busy machine is late each time.
            "client.py": begin("client.py", "slow", SECONDS=9),
            "client.sh": begin("client.sh", "slow", SECONDS_OF_WORK=9),
            "client_hardened.py": begin("client_hardened.py", "hardened", SECONDS=9),
            "wrong_timeout.py": begin("wrong_timeout.py", "quiet", SECONDS=7),
            "client.py, quiet": begin("client.py", "quiet", SECONDS=7),
            "client_hardened.py, quiet": begin("client_hardened.py", "quiet", SECONDS=7),
            "client.py, limited": begin("client.py", "limited", SECONDS=6),
            "wrong_silent.py": begin("client.py", "silent", SECONDS=60),
            "away": begin("client_hardened.py", "away", cut, SECONDS=1),
            "wrong_live.py": begin("client_hardened.py", "live", cut_too, SECONDS=1),
        }


def submit(url, seconds, **more):
    answer = httpx2.post(f"{url}/jobs", json={"seconds": seconds} | more)
    assert answer.status_code == 202, answer.text
    return url + answer.headers["Location"]


@contextmanager
def listening(url, last=None):
    """Yield the events at an address, as an iterator that waits."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with httpx2.Client(timeout=30) as client, client.sse(url, headers=headers) as source:
        source.response.raise_for_status()
        yield (event for event in source if event.data)


def hear(url, last=None):
    """Return all events at an address, once the stream has ended: (id, event, data)."""
    with listening(url, last) as told:
        return [(event.id, event.event, event.json()) for event in told]


def ended(job):
    """Return once a job has ended."""
    hear(f"{job}/events")
    return job


# The server and the client


def test_the_least_of_it(start, record):
    """The small server tells curl each number of its countdown as one event, and then ends."""
    url = f"{start(f'{HERE}/server_small.py', STEP=0.01).url}/countdown"
    told = subprocess.run(
        [require_program("curl"), "--silent", "--no-buffer", url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "data: 3\n\ndata: 2\n\ndata: 1\n\nevent: done\ndata: lift-off\n\n"
    record("server_sent_events/countdown.txt", told.stdout)


def test_the_first_event_does_not_wait_for_the_second(start):
    """The first event of the small server is there when the second is an hour away."""
    server = start(f"{HERE}/server_small.py", STEP=3600)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain:
        plain.sendall(b"GET /countdown HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = b""
        while not heard.endswith(b"\r\ndata: 3\n\n\r\n"):
            heard += plain.recv(1000)
        assert b"content-type: text/event-stream\r\n" in heard
        plain.settimeout(0.2)
        with pytest.raises(TimeoutError):
            plain.recv(1000)


def test_one_question_and_an_answer_that_goes_on(runs, record):
    """A job of 4.5 steps takes one question: its one answer has four reports, the moment each
    is made, then the result, and then it ends."""
    result, wire = runs["client.py"].result(), runs["client.py"].wire
    assert result.returncode == 0, result.stderr
    found = messages(wire.events)
    assert [m.source for m in found] == ["client", "server"] * 2
    answer = found[-1]
    names = [re.search("event: (.*)", text)[1] for _, text in told(answer) if "event:" in text]
    assert names == ["progress"] * 4 + ["done"]
    assert answer.data.endswith(b"\r\n0\r\n\r\n")
    record("server_sent_events/client.txt", result.stdout)
    record(
        "server_sent_events/wire.html",
        stream_transcript(found[2:], "Server-sent events on the wire", found[0].at, 2, 0.5),
    )
    drawn = stream_trace(found, 2, [0, 4.5], step=0.5)
    record("server_sent_events/timeline.json", drawn)
    figure = sequence_diagram(
        drawn,
        "Server-sent events, drawn from a run",
        "The client submits a job at 0 and receives 202 pending. It requests the job's events "
        "once, and the response begins at once. It stays open: at 1, 2, 3 and 4 seconds it "
        "carries an event with progress, at 4.5 seconds, when the job ends, the event done, and "
        "it ends.",
    )
    record("server_sent_events/timeline.svg", figure)


def test_the_server_speaks_first(runs):
    """After the one question the client sends nothing more: each event comes without having
    been asked for."""
    runs["client.py"].result()
    found = messages(runs["client.py"].wire.events)
    said = [e.at for e in runs["client.py"].wire.events if (e.source, e.kind) == ("client", "data")]
    events = [at for at, text in told(found[-1]) if "event:" in text]
    assert max(said) < min(events)


def test_the_head_of_the_answer(server):
    """The answer has the type text/event-stream, no length, and asks not to be taken from a cache
    unasked, nor buffered on the way; the first thing in it is retry."""
    with httpx2.stream("GET", f"{submit(server.url, 60)}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert "Content-Length" not in answer.headers
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert next(answer.iter_lines()) == "retry: 1000"


def test_all_listeners_hear_the_same(quick):
    """Any number may listen to one job, and one that comes late is told all from the start."""
    job = submit(quick.url, 0.5)
    with ThreadPoolExecutor() as beside:
        early = [beside.submit(hear, f"{job}/events") for _ in range(3)]
        heard = [each.result() for each in early]
    late = hear(f"{job}/events")
    assert heard == [late] * 3
    assert [name for _, name, _ in late] == ["progress"] * 4 + ["done"]
    assert [number for number, _, _ in late] == ["1", "2", "3", "4", "5"]
    assert late[-1][2] == {"result": 42}


def test_the_status_can_still_be_asked_for(quick):
    """The plain question is still answered at once: pending while the job runs, then done and
    the result."""
    job = submit(quick.url, 60)
    pending = httpx2.get(job)
    assert (pending.json()["status"], pending.headers["Retry-After"]) == ("pending", "1")
    job = ended(submit(quick.url, 0.1))
    assert httpx2.get(job).json() | {"token": ""} == {"token": "", "status": "done", "result": 42}


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_a_failed_job_is_an_event(start, run, name, canned):
    """A job that failed is an event, too, and a status; clients say why and exit with an
    error."""
    url = start(f"{HERE}/{name}").url
    job = submit(url, 0, fail=True)
    assert hear(f"{job}/events")[-1][1:] == ("failed", {"error": "the job was told to fail"})
    assert httpx2.get(job).json()["status"] == "failed"
    stream = (200, SSE, 'event: failed\ndata: {"error": "no paper"}\n\n')
    server = canned((202, {"Location": "/jobs/x"}, {}), stream)
    client = name.replace("server", "client")
    result = run(f"{HERE}/{client}", URL=server.url)
    assert (result.returncode, result.stderr) == (1, "the job failed: no paper\n")


def test_curl_listens(runs, start, tmp_path, record):
    """curl prints each event as it comes, with --no-buffer."""
    server = start(f"{HERE}/server.py")
    script = EXAMPLES / HERE / "client.sh"
    options = environment(URL=server.url, SECONDS_OF_WORK=60)
    curl = Program(argv(script), copy_isolated(script, tmp_path / "curl"), options)
    curl.wait_for("progress")
    assert curl.process.poll() is None
    server.stop()
    assert curl.wait() == 1  # the stream ended early
    run = runs["client.sh"]
    result = run.result()
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == 'done {"result": 42}'
    assert len(result.stdout.splitlines()) == 5
    record("server_sent_events/curl.txt", result.stdout)


def test_curl_says_when_a_stream_ends_early(canned, run):
    """A stream that ends without a result fails the clients that do not come back."""
    begun = (200, SSE, 'id: 1\nevent: progress\ndata: {"percent": 5}\n\n')
    for client in "client.sh", "client.py":
        server = canned((202, {"Location": "/jobs/x"}, {}), begun)
        result = run(f"{HERE}/{client}", URL=server.url)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1


# The browser

SSE = {"Content-Type": "text/event-stream", "Access-Control-Allow-Origin": "*"}
NO_MORE = (204, {"Access-Control-Allow-Origin": "*"}, "")


def shown(page):
    return page.locator("#answers li").all_inner_texts()


def test_the_browser_listens(open_client_page, quick, tap):
    """The page, opened as a file, shows each event as it comes, and closes on the last one, so
    that the browser does not come back."""
    wire = tap(quick)
    page = open_client_page(wire.url)
    page.fill("#seconds", "0.5")
    for _ in range(2):
        page.click("#start")
        page.wait_for_selector("text=the result is 42")
        assert shown(page) == ["20 %", "40 %", "60 %", "80 %", "the result is 42"]
        assert page.is_enabled("#start") and page.is_disabled("#stop")
    asked = [m.target for m in messages(wire.events) if m.source == "client"]
    assert len(asked) == 4  # two jobs handed in, each asked about once


def test_the_browser_stops(open_client_page, server, tap):
    """Stop closes the stream at once."""
    wire = tap(server)
    page = open_client_page(wire.url)
    page.fill("#seconds", "60")
    page.click("#start")
    wire.wait_until(lambda events: any(b"retry: " in event.data for event in events))
    page.click("#stop")
    page.wait_for_selector("text=stopped: you pressed Stop")
    wire.wait_until(lambda events: any(e.source == "client" and e.kind != "data" for e in events))


def test_the_browser_shows_what_was_wrong(canned, open_client_page, port):
    """What the server refuses is shown, and so is why a job failed, and that nobody answers."""
    allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Location"}
    submitted = (202, allowed | {"Location": "/jobs/x"}, {"status": "pending"})
    failed = (200, SSE, 'retry: 1\nevent: failed\ndata: {"error": "no paper"}\n\n')
    for answers, words in [
        ([(400, allowed, "no such job here")], "stopped: no such job here"),
        ([submitted, (404, allowed, "")], "stopped: the server will not tell"),
        ([submitted, failed], "stopped: no paper"),
    ]:
        server = canned(*answers)
        page = open_client_page(server.url)
        page.click("#start")
        page.wait_for_selector(f"text={words}")
    for _ in range(20):  # time enough to come back, if it had not closed
        page.evaluate("(url) => fetch(url).then((answer) => answer.text())", server.url)
    assert len(server.requests) == 22
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#start")
    page.wait_for_selector("text=stopped:")


def cut_after_each(event, seen):
    """End a connection after the first event on it that it was not cut after before."""
    for number in re.findall(rb"id: (\d+)\n", event.data if event.source == "server" else b""):
        if number not in seen:
            seen.add(number)
            return Cut(event.data.index(b"\n\n\r\n", event.data.index(b"id: " + number)) + 4)


def test_the_browser_comes_back_by_itself(open_client_page, quick, tap):
    """A browser whose connection is cut again and again comes back by itself each time, and
    shows each event once, in order."""
    seen = set()
    wire = tap(quick, on_data=lambda event: cut_after_each(event, seen))
    page = open_client_page(wire.url)
    page.fill("#seconds", "0.5")
    page.click("#start")
    page.wait_for_selector("text=the result is 42")
    heard = [text for text in shown(page) if "lost" not in text]
    assert heard == ["20 %", "40 %", "60 %", "80 %", "the result is 42"]
    assert shown(page).count("connection lost, trying again") >= 4
    asked = [m.headers for m in messages(wire.events) if m.target.endswith("/events")]
    # What had arrived when the connection broke may not have been heard: then it is told again.
    sent = [int(headers.get("last-event-id", 0)) for headers in asked]
    assert sent == sorted(sent) and len(sent) >= 5 and sent[-1] > 0


LISTEN = """([url, types]) => new Promise((resolve) => {
    const source = new EventSource(url), heard = [];
    for (const type of types)
        source.addEventListener(type, (e) => heard.push([e.type, e.data, e.lastEventId]));
    source.onerror = () => {
        if (source.readyState === EventSource.CLOSED) resolve(["closed", heard]);
        else if (!url.includes("stay")) { source.close(); resolve(["lost", heard]); }
    };
})"""


def in_browser(page, url, *types):
    """Return how an EventSource in the browser ended, and the events that it heard.

    It ends when it is closed, or when it would come back for the first time; with "stay" in the
    address only when it is closed.
    """
    return page.evaluate(LISTEN, [url, ["message", *types]])


def test_a_browser_stops_at_204(page, quick, tap, record):
    """A browser that does not close comes back when the answer has ended; 204 ends that, and
    what it had heard is not told twice."""
    wire = tap(quick)
    job = submit(wire.url, 0.2)
    state, heard = in_browser(page, f"{job}/events?stay", "progress", "done")
    assert state == "closed"
    assert [kind for kind, _, _ in heard] == ["progress", "done"]
    pairs = [pair for pair in exchanges(messages(wire.events)) if "stay" in pair[0].target]
    assert [answer.status for _, answer in pairs] == [200, 204]
    assert pairs[1][0].headers["last-event-id"] == "2"
    asked = tap(quick)  # the same by a client with fewer headers
    assert ask(f"{job}/events".replace(wire.url, asked.url), "2").status_code == 204
    record("server_sent_events/no_more.html", transcript(messages(asked.events), "No more"))


def ask(url, last):
    """Ask with Last-Event-ID; return the answer."""
    return httpx2.get(url, headers={"Accept": "text/event-stream", "Last-Event-ID": last})


def test_a_browser_says_what_it_has(page, canned):
    """A browser that comes back sends the id of the last event that it has, as it was given,
    and takes it from no event that was not complete."""
    streams = ["data: x\n\n", "id: a 7\ndata: x\n\n", "data: x\n\n", "id: 8\ndata: x\n"]
    server = canned(*[(200, SSE, f"retry: 1\n{each}") for each in streams], NO_MORE)
    in_browser(page, f"{server.url}/?stay")
    sent = [headers.get("last-event-id") for _, _, headers in server.requests]
    assert sent == [None, None, "a 7", "a 7", "a 7"]
    asked = [headers["accept"] for _, _, headers in server.requests]
    assert asked == ["text/event-stream"] * 5


def test_a_browser_comes_back_for_ever(page, canned):
    """A browser comes back as long as the answers just end: at once if retry says so."""
    server = canned(*[(200, SSE, "retry: 1\ndata: again\n\n")] * 20, NO_MORE)
    state, heard = in_browser(page, f"{server.url}/?stay")
    assert state == "closed"
    assert len(heard) == 20 and len(server.requests) == 21


def test_retry_says_how_long_to_stay_away(page, canned):
    """A browser told to come back in a minute has not come back when one told to come back in
    a moment has done so twenty times."""
    later = canned((200, SSE, "retry: 60000\n\n"))
    soon = canned(*[(200, SSE, "retry: 10\n\n")] * 20, NO_MORE)
    page.evaluate("(url) => { new EventSource(url); }", later.url)
    assert in_browser(page, f"{soon.url}/?stay")[0] == "closed"
    assert len(later.requests) == 1


@pytest.mark.parametrize("status", [204, 400, 401, 404, 429, 500, 502, 503])
def test_a_status_other_than_200_closes_for_good(page, canned, status):
    """A browser does not come back from any status but 200, not even from a 503 that says
    when."""
    begun = (200, SSE, "retry: 1\n\n")
    server = canned(begun, (status, SSE | {"Retry-After": "0"}, ""), begun)
    assert in_browser(page, f"{server.url}/?stay")[0] == "closed"
    assert len(server.requests) == 2


def test_another_type_closes_for_good(page, canned):
    """A browser does not take an answer of another type for a stream of events, nor does
    httpx2."""
    server = canned((200, {"Access-Control-Allow-Origin": "*"}, "data: x\n\n"))
    assert in_browser(page, server.url) == ["closed", []]
    with pytest.raises(httpx2.SSEError):
        hear(server.url)


def test_a_browser_asks_for_leave_to_read_elsewhere(page, canned):
    """A page may listen to another origin only if that allows it, as with fetch."""
    closed = canned((200, {"Content-Type": "text/event-stream"}, "data: x\n\n"))
    assert in_browser(page, closed.url) == ["closed", []]
    allowed = canned((200, SSE, "data: x\n\n"))
    assert in_browser(page, allowed.url) == ["lost", [["message", "x", ""]]]
    assert "origin" in allowed.requests[0][2]


def test_an_event_source_sends_get_and_no_header_of_ours(page, canned):
    """An EventSource asks with GET and without a header of the page's choice: options for
    that are ignored."""
    server = canned(NO_MORE)
    page.evaluate(
        """(url) => new Promise((resolve) => {
            const options = { method: "POST", headers: { "X-Key": "k" }, body: "b" };
            new EventSource(url, options).onerror = resolve;
        })""",
        server.url,
    )
    (method, _, headers), *_ = server.requests
    assert method == "GET" and "x-key" not in headers


def test_the_seventh_stream_waits(page, start, tap):
    """Over HTTP/1.1 a browser opens six streams to a host; the seventh waits until one of
    them is closed, and so does every other request to that host."""
    wire = tap(start(f"{HERE}/server.py", STEP=0.2))
    job = submit(wire.url, 60)
    before = wire.connections
    page.goto(f"{wire.url}/")  # a page of the same host; a 404 will do
    page.evaluate(
        """(url) => {
            window.heard = Array(7).fill(0);
            window.sources = heard.map((_, n) => {
                const source = new EventSource(`${url}?${n}`);
                source.addEventListener("progress", () => { heard[n] += 1; });
                return source;
            });
        }""",
        f"{job}/events",
    )
    page.wait_for_function("heard.filter((events) => events > 0).length === 6")
    page.evaluate(
        """(url) => {
            window.answered = "not yet";
            window.before = [...heard];
            fetch(url).then((answer) => { answered = answer.status; });
        }""",
        job,
    )
    # The six hear several events more, and still nothing else has been asked.
    page.wait_for_function("heard.filter((events, n) => events >= before[n] + 3).length === 6")
    silent = page.evaluate("[heard.filter((events) => events === 0).length, answered]")
    assert silent == [1, "not yet"]
    asked = [m for m in messages(wire.events) if m.method == "GET" and "/jobs/" in m.target]
    assert len(asked) == 6
    assert len({m.connection for m in asked}) == 6 and before == 1
    page.evaluate("heard.forEach((events, n) => events && sources[n].close())")
    page.wait_for_function("heard.every((events) => events > 0) && answered === 200")


def test_sanic_speaks_no_http2(server):
    """Greeted in HTTP/2, Sanic answers in HTTP/1.1 that this is a bad request."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        # https://www.rfc-editor.org/rfc/rfc9113#section-3.4
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


# The format


# What a stream says, in pieces of JavaScript and Python alike.
STREAMS = {
    "data without a name is a message": "data: hello\n\n",
    "the space after the colon may be missing": "data:hello\n\n",
    "only one space goes": "data:  hello\n\n",
    "each data line is a line": "data: one\ndata: two\n\n",
    "an empty data line is a line, too": "data\ndata\n\n",
    "event names the event": "event: x\ndata: hello\n\n",
    "the name holds for one event": "event: x\ndata: 1\n\ndata: 2\n\n",
    "the id holds until there is another": "id: 1\ndata: a\n\ndata: b\n\n",
    "an empty id takes it back": "id: 1\ndata: a\n\nid\ndata: b\n\n",
    "an id with a NUL is ignored": "id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n",
    "a comment is no event": ": hello\n\n",
    "an unknown field is ignored": "colour: red\ndata: hello\n\n",
    "lines may end in CR LF or CR": "data: one\r\ndata: two\r\rdata: three\r\r",
    "the text is UTF-8": "data: snow ☃\n\n",
    "U+2028 ends no line": "data: one\u2028two\n\n",
    "without its blank line an event is dropped": "data: one\n\ndata: two\n",
    "an id without data is no event": "id: 1\n\ndata: a\n\n",
    "a name without data is no event": "event: x\n\ndata: a\n\n",
    "a byte order mark is skipped": "\ufeffdata: hello\n\n",
}


def listed(heard):
    """Return events as a cell of a table."""
    words = [
        " ".join([f"{kind}: {json.dumps(data, ensure_ascii=False)}", *[f"(id {i})"] * bool(i)])
        for kind, data, i in heard
    ]
    return "<br>".join(f"`{each}`" for each in words) or "nothing"


def test_how_a_stream_is_read(page, canned, record):
    """A browser and httpx2 read a stream the same way, except that httpx2 takes an id or a
    name without data for an event, and reads a byte order mark as text."""
    rows, differ = [], []
    for rule, stream in STREAMS.items():
        url = canned((200, SSE, stream)).url
        _, heard = in_browser(page, url, "x")
        with httpx2.Client() as client, client.sse(url) as source:
            python = [[event.event, event.data, event.id] for event in source]
        same = heard == python
        differ += [] if same else [(rule, heard, python)]
        sent = json.dumps(stream, ensure_ascii=False)[1:-1]
        # What could not be seen is spelled out; of two spaces HTML would show one.
        for odd, shown in {"\ufeff": "\\ufeff", "\u2028": "\\u2028", "  ": " \xa0"}.items():
            sent = sent.replace(odd, shown)
        row = {
            "what is sent": f"{rule}:<br>`{sent}`",
            "a browser hears": listed(heard).replace("\u2028", "\\u2028"),
            "httpx2": "the same" if same else listed(python),
        }
        rows.append(row)
    by_rule = {rule: row["a browser hears"] for rule, row in zip(STREAMS, rows, strict=True)}
    assert by_rule["each data line is a line"] == '`message: "one\\ntwo"`'
    assert by_rule["an empty data line is a line, too"] == '`message: "\\n"`'
    assert by_rule["only one space goes"] == '`message: " hello"`'
    assert by_rule["a comment is no event"] == "nothing"
    assert "two" not in by_rule["without its blank line an event is dropped"]
    assert by_rule["an id without data is no event"] == '`message: "a" (id 1)`'
    assert by_rule["an id with a NUL is ignored"].endswith('"b" (id 1)`')
    assert [rule for rule, *_ in differ] == [
        "an id without data is no event",
        "a name without data is no event",
        "a byte order mark is skipped",
    ], differ
    record(
        "server_sent_events/format.md",
        table(rows).replace("--:", "---"),
    )


def test_an_event_named_error_meets_the_browsers_own(page, canned):
    """An event that the server names error arrives where the browser reports a lost
    connection: the two can be told apart by their data alone."""
    server = canned((200, SSE, "event: error\ndata: no paper\n\n"))
    heard = page.evaluate(
        """(url) => new Promise((resolve) => {
            const source = new EventSource(url), heard = [];
            source.onerror = (event) => {
                if (heard.push(event.data ?? null) === 2) { source.close(); resolve(heard); }
            };
        })""",
        server.url,
    )
    assert heard == ["no paper", None]


def boards(start, page, *texts):
    """Return what a browser hears of each text, from the board and from the wrong one."""
    heard = []
    for name in "board.py", "wrong_board.py":
        url = f"{start(f'{HERE}/{name}').url}/notices"
        page.evaluate(
            """(url) => new Promise((resolve) => {
                window.heard = [];
                const note = (e) => heard.push([e.type, e.data, e.lastEventId]);
                const source = new EventSource(url);
                for (const type of ["message", "alarm"]) source.addEventListener(type, note);
                source.onopen = resolve;
            })""",
            url,
        )
        lists = []
        for text in texts:
            page.evaluate("heard.length = 0")
            for each in text, "END":
                httpx2.post(url, content=each.encode()).raise_for_status()
            page.wait_for_function("heard.some(([, data]) => data === 'END')")
            lists.append([e for e in page.evaluate("heard") if e[1] != "END"])
        heard.append(lists)
    return zip(*heard, strict=True)


NOTICES = ["one line", "first\nsecond", "hello\n\nevent: alarm\ndata: leave the house", "a\rb"]


def test_a_line_break_breaks_the_stream(start, page, record):
    """A text with a line break loses what comes after it, or forges an event of another kind,
    unless each of its lines is sent as data."""
    rows = []
    for text, (right, wrong) in zip(NOTICES, boards(start, page, *NOTICES), strict=True):
        assert right == [["message", text.replace("\r", "\n"), ""]]
        rows.append(
            {
                "posted": f"`{json.dumps(text)}`",
                "heard from `board.py`": listed(right),
                "heard from `wrong_board.py`": listed(wrong),
            }
        )
        if "\n\n" in text:
            assert ["alarm", "leave the house", ""] in wrong
        elif text != "one line":
            assert len(wrong[0][1]) < len(text)
    record("server_sent_events/board.md", table(rows).replace("--:", "---"))


def test_other_separators_stay_as_they_are(start, page):
    """A text with characters at which Python's splitlines breaks, and a browser does not,
    arrives as it was sent."""
    text = "a\u2028b\x0bc\x0cd\x85e\x1cf"
    [(right, _)] = boards(start, page, text)
    assert right == [["message", text, ""]]


def test_the_board_refuses_what_is_no_text(start):
    """What is not UTF-8 is refused, since a stream of events can carry nothing else."""
    url = f"{start(f'{HERE}/board.py').url}/notices"
    answer = httpx2.post(url, content=b"\xff")
    assert (answer.status_code, answer.json()["message"]) == (400, "send text in UTF-8")


def test_the_board_forgets_who_left(start):
    """A listener that has left is no listener any more: a notice says to how many it was
    shown."""
    url = f"{start(f'{HERE}/board.py').url}/notices"
    with httpx2.stream("GET", url) as answer:
        body = answer.iter_raw()
        assert next(body) == b": listening\n\n"
        assert httpx2.post(url, content="hello").json() == {"shown to": 1}
        assert next(body) == b"data: hello\n\n"
    end = time.monotonic() + TIMEOUT
    while httpx2.post(url, content="hello").json() != {"shown to": 0}:
        assert time.monotonic() < end


def test_a_stopping_board_ends_its_streams(start):
    """When the board stops, each stream ends as an answer should, and not in the middle."""
    board = start(f"{HERE}/board.py", SANIC_GRACEFUL_SHUTDOWN_TIMEOUT=1)
    with httpx2.stream("GET", f"{board.url}/notices", timeout=TIMEOUT) as answer:
        body = answer.iter_raw()
        assert next(body) == b": listening\n\n"
        board.send(signal.SIGTERM)
        assert list(body) == []  # a stream that is cut raises
    assert board.wait() == 0


# Resuming


def test_cut_at_every_byte(quick, tap, monkeypatch):
    """Wherever the connection is cut, after any byte of the answer, the hardened client hears
    each event once, and in order."""
    client = importlib.import_module(f"examples.{HERE}.client_hardened")
    monkeypatch.setattr(client, "wait", lambda *_: 0)
    monkeypatch.setattr(client, "print", lambda *_, **__: None, raising=False)
    job = ended(submit(quick.url, 0.3)).removeprefix(quick.url)
    state = {"left": None, "connection": 0}

    def cut(event):
        if event.source == "client":
            state["connection"] = state["connection"] or event.connection
        elif event.connection == state["connection"]:
            if len(event.data) > state["left"]:
                return Cut(state["left"])
            state["left"] -= len(event.data)

    wire = tap(quick, on_data=cut)
    expected = [("1", "progress"), ("2", "progress"), ("3", "done")]

    async def listen():
        heard = []
        async with httpx2.AsyncClient(verify=False) as http:
            told = client.events(http, f"{wire.url}{job}/events")
            async for event in told:
                heard.append((event.id, event.event))
                if event.event == "done":
                    await told.aclose()
                    return heard

    async def try_all():
        state.update(left=10**9, connection=0)
        assert await listen() == expected
        length = len(messages(wire.events)[-1].data)
        assert length > 300
        for offset in range(length):
            state.update(left=offset, connection=0)
            assert await listen() == expected, offset

    run_in_thread(try_all())


def test_nothing_lost_nothing_twice_while_it_runs(quick, tap, run):
    """A client whose connection is cut after each event of a running job hears each once."""
    seen = set()
    wire = tap(quick, on_data=lambda event: cut_after_each(event, seen))
    result = run(f"{HERE}/client_hardened.py", URL=wire.url, SECONDS=0.3)
    heard = [line for line in result.stdout.splitlines() if "coming back" not in line]
    assert heard == ["33 %", "67 %", "the result is 42"]
    asked = [m.headers for m in messages(wire.events) if m.target.endswith("/events")]
    assert [headers.get("last-event-id") for headers in asked] == [None, "1", "2"]


def test_what_happened_meanwhile_is_told(runs, record):
    """A client that was away until the job had ended names the last event that it has, and is
    told the rest."""
    result, wire = runs["away"].result(), runs["away"].wire
    assert result.returncode == 0, result.stderr
    heard = [line for line in result.stdout.splitlines() if "coming back" not in line]
    assert heard == ["25 %", "50 %", "75 %", "the result is 42"]
    record("server_sent_events/away.txt", result.stdout)
    found = [m for m in messages(wire.events) if m.connection == 2]
    record("server_sent_events/resume.html", stream_transcript(found, "Coming back"))


def test_without_ids_it_is_lost(runs, record):
    """Without ids, what was told while the client was away is lost, and here that is the
    result."""
    result = runs["wrong_live.py"].result()
    assert result.returncode == 1
    assert "42" not in result.stdout
    record("server_sent_events/wrong_live.txt", result.stdout + result.stderr)


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_a_strange_last_event_id_is_400(start, name):
    """A Last-Event-ID that this job never gave out is a 400 in JSON."""
    url = start(f"{HERE}/{name}").url
    job = ended(submit(url, 0))
    for strange in "2", "-1", "x", "1.0", "٣".encode(), "9" * 6000:
        answer = httpx2.get(f"{job}/events", headers={"Last-Event-ID": strange})
        assert answer.status_code == 400
        assert "Last-Event-ID" in answer.json()["message"]
    assert httpx2.get(f"{url}/jobs/made-up/events").status_code == 404


# Silence


def test_a_silence_is_broken(start):
    """A server that has nothing to say sends a comment before anybody loses patience, and no
    client takes it for an event."""
    server = start(f"{HERE}/server.py", STEP=60, HEARTBEAT=0.1)
    job = submit(server.url, 1.5)
    with httpx2.stream("GET", f"{job}/events") as answer:
        text = "".join(answer.iter_text())
    assert text.startswith("retry: 1000\n\n: still here\n\n")
    assert text.count(": still here\n\n") >= 3
    assert hear(f"{job}/events") == [("1", "done", {"result": 42})]


def test_a_heartbeat_outlives_the_response_timeout(runs):
    """A stream with a heartbeat lives three times as long as the server's RESPONSE_TIMEOUT:
    each thing sent starts that anew."""
    result, wire = runs["client.py, limited"].result(), runs["client.py, limited"].wire
    assert (result.returncode, result.stdout) == (0, "the result is 42\n"), result.stderr
    stream = messages(wire.events)[-1]
    assert stream.end - stream.at > 5  # under a limit of 2


def test_without_a_heartbeat_the_server_cuts(runs, record):
    """A stream that is silent for longer than RESPONSE_TIMEOUT is cut by the server itself,
    in mid-answer: the empty chunk that would end it is missing."""
    result, wire = runs["wrong_silent.py"].result(), runs["wrong_silent.py"].wire
    assert result.returncode == 1
    stream = messages(wire.events)[-1]
    assert not stream.data.endswith(b"0\r\n\r\n")
    assert [e.kind for e in wire.events if e.source == "server"][-1] == "end"
    record("server_sent_events/wrong_silent.txt", result.stderr)


def test_a_short_read_timeout_ends_a_quiet_stream(runs, record):
    """A client that waits five seconds for the next byte, as httpx2 does by default, gives up
    a stream that is only quiet; one that waits for three heartbeats hears the result."""
    wrong, right = runs["wrong_timeout.py"].result(), runs["client.py, quiet"].result()
    assert (wrong.returncode, right.returncode) == (1, 0)
    assert "ReadTimeout" in wrong.stderr
    assert right.stdout == "the result is 42\n"
    assert runs["client_hardened.py, quiet"].result().stdout == "the result is 42\n"
    record("server_sent_events/wrong_timeout.txt", wrong.stderr)


# What the server needs


def wait_for_room(url, client):
    """Return once a stream is let in."""
    while True:
        with client.stream("GET", url) as answer:
            if answer.status_code == 200:
                return


def test_there_is_a_limit_and_room_again(start, run):
    """A server that holds as many streams as it can answers 503 and when to come back, and has
    room again when one has left."""
    server = start(f"{HERE}/server_hardened.py", MAX_STREAMS=2)
    job = submit(server.url, 60)
    with httpx2.Client() as client:
        with listening(f"{job}/events"), listening(f"{job}/events"):
            refused = client.get(f"{job}/events")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert refused.json()["message"] == "too many are listening"
            assert client.get(job).json()["status"] == "pending"  # there is room for questions
        wait_for_room(f"{job}/events", client)
        wait_for_room(f"{job}/events", client)


def test_without_finally_those_who_left_still_count(start, record):
    """Without finally, those who have left count for ever: nobody is let in any more."""
    limit = {"MAX_STREAMS": 2, "HEARTBEAT": 0.1}
    lines = []
    for name in "server_hardened.py", "wrong_cleanup.py":
        server = start(f"{HERE}/{name}", **limit)
        job = submit(server.url, 60)
        for _ in range(2):
            with Tap(server.port) as wire:
                with listening(job.replace(server.url, wire.url) + "/events"):
                    pass  # and gone
                wire.wait_until(lambda events: events[-1].kind != "data")
        # Another is served meanwhile: the server is well, and has noticed.
        wait_elsewhere(server)
        statuses = []
        with httpx2.Client() as client:
            for _ in range(20):
                with client.stream("GET", f"{job}/events") as answer:
                    statuses.append(answer.status_code)
                if statuses[-1] == 200:
                    break
        lines.append(f"{name}: two came and left, the next one gets {statuses[-1]}")
        assert statuses[-1] == (200 if name == "server_hardened.py" else 503)
    record("server_sent_events/wrong_cleanup.txt", "\n".join(lines) + "\n")


def wait_elsewhere(server):
    """Hand in a job and wait for it by plain questions."""
    job = submit(server.url, 0.2)
    while httpx2.get(job).json()["status"] == "pending":
        pass


def test_who_is_too_late_is_told_so(start, run, tap, record):
    """A server that keeps the last events only says how many are missing, to one that asks for
    older ones, and goes on with those that it has."""
    server = start(f"{HERE}/server_hardened.py", STEP=0.1, REPLAY=2)
    job = ended(submit(server.url, 0.5))
    heard = hear(f"{job}/events", last=1)
    assert [number for number, _, _ in heard] == ["3", "4", "5"]
    assert [name for _, name, _ in heard] == ["missed", "progress", "done"]
    assert heard[0][2] == {"events": 2}
    assert hear(f"{job}/events", last=3) == heard[1:]
    wire = tap(server)
    ask(f"{job}/events".replace(server.url, wire.url), "1")
    answer = messages(wire.events)[-1:]
    record("server_sent_events/missed.html", stream_transcript(answer, "Too late"))


def test_what_nobody_comes_back_for_is_let_go(start):
    """A job that has ended is let go after a while, with its events."""
    server = start(f"{HERE}/server_hardened.py", KEEP=0.5)
    job = ended(submit(server.url, 0))
    while (answer := ask(f"{job}/events", "1")).status_code == 204:
        pass
    assert answer.status_code == 404


def test_the_hardened_client_waits_when_told(canned, run):
    """The hardened client comes back after a 503, no sooner than it was told, and stops at
    204."""
    submitted = (202, {"Location": "/jobs/x"}, {})
    busy = (503, {"Retry-After": "1"}, {})
    done = (200, SSE, 'event: done\ndata: {"result": 42}\n\n')
    server = canned(submitted, busy, done)
    result = run(f"{HERE}/client_hardened.py", URL=server.url)
    assert result.stdout == "answered 503: coming back\nthe result is 42\n"
    assert server.times[2] - server.times[1] >= 1
    server = canned(submitted, (204, {}, ""))
    result = run(f"{HERE}/client_hardened.py", URL=server.url)
    assert (result.returncode, result.stderr) == (1, "the server has nothing more to tell\n")


def test_the_hardened_client_comes_back_at_random():
    """The hardened client stays away as long as retry says and at random longer, up to a bound
    that doubles with each failure in a row and stops at 30 seconds."""
    wait = importlib.import_module(f"examples.{HERE}.client_hardened").wait
    for failures, bound in [(0, 1), (1, 2), (2, 4), (5, 30), (50, 30)]:
        waits = [wait(failures, 3) - 3 for _ in range(1000)]
        assert all(0 <= each <= bound for each in waits)
        assert {int(each / bound * 10) for each in waits} >= set(range(10))


def test_what_counts_as_failures_in_a_row(canned, monkeypatch):
    """An event ends a row of failures, and each wait is as long as the server last said."""
    client = importlib.import_module(f"examples.{HERE}.client_hardened")
    waits = []
    monkeypatch.setattr(
        client, "wait", lambda failures, pause: waits.append((failures, pause)) or 0
    )
    busy = (503, {"Retry-After": "7"}, {})
    event = (200, SSE, "retry: 50\nid: 1\ndata: {}\n\n")
    another = (200, SSE, "id: 2\ndata: {}\n\n")
    server = canned((500, {}, {}), busy, event, busy, another, NO_MORE)

    async def listen():
        async with httpx2.AsyncClient(verify=False) as http:
            return [event.id async for event in client.events(http, server.url)]

    assert run_in_thread(listen()) == ["1", "2"]
    assert waits == [(0, 1), (1, 7), (0, 0.05), (1, 7), (0, 0.05)]


def test_retry_after_may_be_a_date():
    """The hardened client understands Retry-After as seconds and as a date, one in the past
    too."""
    seconds = importlib.import_module(f"examples.{HERE}.client_hardened").seconds
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 <= seconds(later) <= 100
    assert [seconds(each) for each in ("7", "Fri, 31 Dec 1999 23:59:59 GMT", "-5")] == [7, 0, 0]


def test_gives_up_at_the_deadline(server, run):
    """At its deadline the hardened client gives up and says so."""
    result = run(f"{HERE}/client_hardened.py", URL=server.url, SECONDS=60, DEADLINE=0.5)
    assert (result.returncode, result.stderr) == (1, "not done within 0.5 seconds: gave up\n")


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_a_stopping_server_ends_its_streams(start, tap, name):
    """On SIGTERM each stream ends as an answer should, with its empty chunk, and the server
    exits at once; the hardened one first tells each client another time to stay away."""
    # Were one left open, stopping would take longer than this test has patience.
    patient = {"STEP": 60, "HEARTBEAT": 60, "SANIC_GRACEFUL_SHUTDOWN_TIMEOUT": 60}
    server = start(f"{HERE}/{name}", **patient)
    wire = tap(server)
    job = submit(wire.url, 60)
    with ThreadPoolExecutor(20) as beside:
        listeners = [beside.submit(hear, f"{job}/events") for _ in range(20)]
        wire.wait_until(lambda events: sum(b"retry: " in e.data for e in events) == 20)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert [each.result() for each in listeners] == [[]] * 20
    answers = [m for m in messages(wire.events) if m.headers.get("content-type") in SSE.values()]
    assert len(answers) == 20
    assert all(answer.data.endswith(b"\r\n0\r\n\r\n") for answer in answers)
    said = {told(answer)[-1][1] for answer in answers}
    if name == "server_hardened.py":
        # Each is asked to stay away for another time.
        assert len(said) > 10
        assert all(1000 <= int(each.removeprefix("retry: ")) <= 5000 for each in said)


def test_a_browser_comes_back_to_a_server_that_restarts(page, start, port):
    """A browser whose server stops tries again until there is one, and then says which event
    it had; a server that kept its jobs in memory only has forgotten them, and closes it."""
    number = port()
    first = start(f"{HERE}/server.py", STEP=0.1, RETRY=50, PORT=number)
    job = submit(first.url, 60)
    page.evaluate(
        """(url) => {
            window.source = new EventSource(url);
            window.told = window.lost = 0;
            source.addEventListener("progress", () => { told += 1; });
            source.onerror = () => { lost += 1; };
        }""",
        f"{job}/events",
    )
    page.wait_for_function("told > 0")
    first.stop()
    page.wait_for_function("lost >= 3")  # it was refused, and tries again
    assert page.evaluate("source.readyState === EventSource.CONNECTING")
    start(f"{HERE}/server.py", PORT=number)
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    assert httpx2.get(job).status_code == 404


# Between


class Buffering:
    """A relay that hands an answer on when it has all of it, as proxies do that buffer."""

    def __init__(self, target, port):
        self.port = port
        self._listener = socket.create_server(("127.0.0.1", port))
        self._target = target
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def _relay(self):
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        with self._listener, client, server:
            server.sendall(client.recv(65536))
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += server.recv(65536)
            client.sendall(answer)
        self._thread = None


def test_a_buffering_proxy_hands_on_all_at_once(quick, tap, port):
    """Behind a proxy that buffers, nothing arrives until the answer has ended, and then all
    does at once."""
    job = submit(quick.url, 0.95)
    inner = tap(quick)
    outer = tap(Buffering(inner.port, port()))
    heard = hear(job.replace(quick.url, outer.url) + "/events")
    assert len(heard) == 10
    sent = messages(inner.events)[-1]
    arrived = messages(outer.events)[-1]
    # Sent in pieces, of which a busy machine may read some together; arrived in one.
    pieces = {at for at, text in told(sent) if "event:" in text}
    assert len(pieces) > len({at for at, _ in told(arrived)}) == 1


def test_a_client_that_leaves_takes_nothing_with_it(server):
    """A client that leaves takes nothing with it: the job goes on, and others hear its end."""
    job = submit(server.url, 1.5)
    with listening(f"{job}/events"):
        pass
    assert hear(f"{job}/events")[-1][1] == "done"


# What it costs


def test_costs(runs, record):
    """Python asks for all events on the connection on which it handed the job in; curl opens
    another; whether the server is hardened makes no difference."""
    clients = {name: runs[name] for name in ("client.py", "client.sh", "client_hardened.py")}
    assert [run.result().returncode for run in clients.values()] == [0, 0, 0]
    assert [run.wire.connections for run in clients.values()] == [1, 2, 1]
    rows = []
    for name, run in clients.items():
        found = messages(run.wire.events)
        cost = counts(run.wire) | {"late, in intervals": late(found, 9, 2)}
        row = {"client": f"`{name}`"} | cost
        # curl says its version, which differs from machine to machine.
        rows.append(row | ({"bytes up": "–"} if name == "client.sh" else {}))
    assert [row["requests"] for row in rows] == [2, 2, 2]
    record("server_sent_events/costs.md", table(rows))


def test_an_event_costs_less_than_a_question(runs, server, record):
    """An event costs less than a sixth of the bytes of a question and its answer, and no round
    trip."""
    runs["client.py"].result()
    found = messages(runs["client.py"].wire.events)
    question, answer = found[2], found[3]
    sizes = [len(data) for _, data in pieces(answer)]
    runs["client.py, limited"].result()
    open_page = messages(runs["client.py, limited"].wire.events)[-1]
    heartbeat = next(data for _, data in pieces(open_page) if b": still here" in data)
    with Tap(server.port) as wire, httpx2.Client() as client:
        client.get(submit(wire.url, 60))
        asked, told_pending = messages(wire.events)[-2:]
    rows = [
        {"what": what, "bytes up": up, "bytes down": down, "both": up + down}
        for what, up, down in [
            ("opening the stream", len(question.data), sizes[0] + sizes[1]),
            ("an event, `progress`", 0, sizes[2]),
            ("an event, `done`", 0, sizes[-2]),
            ("a heartbeat", 0, len(heartbeat)),
            ("ending the stream", 0, sizes[-1]),
            ("a question, told `pending`", len(asked.data), len(told_pending.data)),
        ]
    ]
    assert rows[1]["both"] * 6 < rows[-1]["both"]
    record("server_sent_events/sizes.md", table(rows))


# The panel, and what is wrong


def test_the_panel_is_live(live, open_page):
    """Served by make serve, the panel draws the question and each event as it comes."""
    page = open_page(f"{live.url}/techniques/server-sent-events/")
    page.wait_for_selector(".panel[data-state=live]")
    client = page.frame_locator(".panel iframe")
    client.locator("#seconds").fill("2.5")
    client.locator("#start").click()
    client.get_by_text("the result is 42").wait_for()
    words = page.locator(".panel-wire text.down").all_text_contents()
    assert words == ["202 pending", *["event: progress"] * 2, "event: done"]
    assert page.locator(".panel-wire polygon.up").count() == 2
    assert page.locator(".panel-wire polygon.down").count() == 4
    asked = page.locator(".panel-wire text.up").all_text_contents()
    assert asked == ["POST /jobs", "GET /jobs/…/events"]


def test_the_panel_replays(static, open_page):
    """On a static host the panel plays the recorded stream, its question open to the end."""
    open_page.context.clock.install()  # before the page sets its timers
    page = open_page(f"{static.url}/techniques/server-sent-events/")
    page.wait_for_selector(".panel[data-state=replay]")
    page.click(".panel button")
    page.clock.run_for(7000)
    page.wait_for_selector(".panel[data-done=yes]")
    assert page.inner_text(".panel output") == "2 requests"
    assert page.locator(".panel-wire polygon.up").count() == 2
    assert page.locator(".panel-wire polygon.down").count() == 6
    held = page.locator(".panel-wire rect.held")
    heights = held.evaluate_all("(all) => all.map((each) => each.height.baseVal.value)")
    events = page.locator(".panel-wire polygon.down").evaluate_all(
        "(all) => all.slice(1).map((each) => each.points[0].y)"
    )
    assert max(heights) > max(events) - min(events)
    expect_accessible(page, ".panel")


def test_the_wrong_programs_are_wrong_in_one_place():
    """Each wrong program is the right one with one place changed, apart from what it says
    about itself."""
    for wrong, right, changed in [
        ("wrong_silent.py", "server.py", 6),
        ("wrong_live.py", "server.py", 14),
        ("wrong_cleanup.py", "server_hardened.py", 6),
        ("wrong_timeout.py", "client.py", 9),
        ("wrong_board.py", "board.py", 10),
    ]:
        texts = [
            re.sub(r'^.*?\n"""\n', "", (EXAMPLES / HERE / name).read_text(), flags=re.DOTALL)
            for name in (right, wrong)
        ]
        lines = difflib.ndiff(*[text.splitlines() for text in texts])
        assert 0 < sum(line[0] in "-+" for line in lines) <= changed + 4, wrong
