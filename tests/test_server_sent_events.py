"""Server-sent events: one request, and a response that carries each event as it happens."""

import importlib
import json
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from .support.browsing import (
    both_browsers,
    both_browsers_for,
    counters,
    enter,
    expect_accessible,
    is_firefox,
    panel,
    replay,
)
from .support.messages import (
    counts,
    events_of,
    exchanges,
    late,
    messages,
    pieces,
    stream_trace,
    stream_transcript,
    table,
    transcript,
    whole_stream,
)
from .support.processes import (
    EXAMPLES,
    TIMEOUT,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)
from .support.sequence import sequence_diagram
from .support.threads import run_in_thread
from .support.wiretap import Cut, Run, Tap

HERE = "server_sent_events"
SERVERS = ["server.py", "server_hardened.py"]
# The events of a job of the quick start.
JOB = [("1", "progress", 0), ("2", "progress", 33), ("3", "progress", 67), ("4", "done", 42)]


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the quick-start server."""
    return start_shared(f"{HERE}/server.py")


@pytest.fixture(scope="module")
def hardened(start_shared):
    """Return the hardened server; its clients reconnect after a moment."""
    return start_shared(f"{HERE}/server_hardened.py", RECONNECT_MS=50)


def cut_after(words):
    """Return what a tap does on data: end the first connection on which the server sends these
    words, after the event that has them."""
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

    Where the connection is cut, the client reconnects after a second at the earliest, and the
    job ends before that: a busy machine makes it later, never earlier.
    """
    plain = start_shared(f"{HERE}/server.py")
    impatient = {"SANIC_RESPONSE_TIMEOUT": 2}
    servers = {
        "plain": plain,
        "hardened": start_shared(f"{HERE}/server_hardened.py"),
        "limited": start_shared(f"{HERE}/server.py", HEARTBEAT=0.3, **impatient),
        "silent": start_shared(f"{HERE}/wrong_silent.py", **impatient),
        "live": start_shared(f"{HERE}/wrong_live.py"),
    }
    with ThreadPoolExecutor(16) as beside:

        def begin(client, server, options=None, **variables):
            wire = tap_shared(servers[server], **options or {})
            run = beside.submit(run_shared, f"{HERE}/{client}", URL=wire.url, **variables)
            return Run(wire, run.result)

        whole = {"on_data": whole_stream}
        cut = {"on_data": cut_after(b"data: 33")}
        cut_too = {"on_data": cut_after(b"data: 33")}
        yield {
            # Twice as slow as they are drawn: a busy machine is late each time.
            "client.py": begin("client.py", "plain", whole, SECONDS=9),
            "client.sh": begin("client.sh", "plain", whole, SECONDS_OF_WORK=9),
            "client_hardened.py": begin("client_hardened.py", "hardened", whole, SECONDS=9),
            # Six seconds pass from one event to the next.
            "wrong_timeout.py": begin("wrong_timeout.py", "plain", SECONDS=18),
            "client.py, quiet": begin("client.py", "plain", SECONDS=18),
            "client_hardened.py, quiet": begin("client_hardened.py", "plain", SECONDS=18),
            "client.py, limited": begin("client.py", "limited", SECONDS=15),
            "wrong_silent.py": begin("client.py", "silent", SECONDS=15),
            "away": begin("client_hardened.py", "plain", cut, SECONDS=1),
            "wrong_live.py": begin("client_hardened.py", "live", cut_too, SECONDS=1, DEADLINE=5),
        }


def submit_job(url, seconds, **more):
    """Submit a job; return the URL of its events."""
    response = httpx2.post(f"{url}/jobs", json={"seconds": seconds} | more)
    assert response.status_code == 202, response.text
    return url + response.headers["Location"]


@contextmanager
def subscribed(url, last=None):
    """Yield the events at a URL, as an iterator that waits."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with httpx2.Client(timeout=30) as client, client.sse(url, headers=headers) as source:
        source.response.raise_for_status()
        yield (event for event in source if event.data)


def all_events(url, last=None):
    """Return all events at a URL, once the stream has ended: (id, event, data)."""
    with subscribed(url, last) as events:
        return [(event.id, event.event, event.json()) for event in events]


def ended_job(url, seconds=0, **more):
    """Submit a job; return the URL of its events once it has ended."""
    events = submit_job(url, seconds, **more)
    all_events(events)
    return events


def job_of(events):
    """Return the URL of the job whose events are at a URL."""
    return events.removesuffix("/events")


def request_events(url, last):
    """Request the events of a job with a Last-Event-ID; return the response once it has ended."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    return httpx2.get(url, headers=headers, timeout=30)


# The server and the clients


def test_the_first_event_does_not_wait_for_the_next(server):
    """A client receives the first event although the next one is sent twenty seconds later."""
    path = submit_job(server.url, 60).removeprefix(server.url)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain:
        plain.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while not received.endswith(b"id: 1\nevent: progress\ndata: 0\n\n\r\n"):
            received += plain.recv(1000)
        assert b"content-type: text/event-stream\r\n" in received
        plain.settimeout(0.2)
        with pytest.raises(TimeoutError):
            plain.recv(1000)


def test_one_request_and_a_response_that_continues(runs, record):
    """A client that waits for a job sends one request: its response carries each progress event
    when it happens, then the result, and then it ends."""
    result, wire = runs["client.py"].result(), runs["client.py"].wire
    assert (result.returncode, result.stdout) == (0, "0 %\n33 %\n67 %\ndone: 42\n"), result.stderr
    found = messages(wire.events)
    assert [m.source for m in found] == ["client", "server"] * 2
    response = found[-1]
    times = [at for at, text in events_of(response) if "event:" in text]
    names = [
        re.search("event: (.*)", text)[1] for _, text in events_of(response) if "event:" in text
    ]
    assert names == ["progress"] * 3 + ["done"]
    assert all(later - sooner > 2 for sooner, later in pairwise(times))
    assert response.data.endswith(b"\r\n0\r\n\r\n")
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
        "once, and the response begins at once with an event of progress. It stays open: at 1.5 "
        "and 3 seconds it carries an event of progress, at 4.5 seconds, when the job ends, the "
        "event done, and it ends.",
    )
    record("server_sent_events/timeline.svg", figure)


def test_the_server_sends_unasked(runs):
    """After its one request the client sends nothing more: the server sends each later event
    unasked."""
    runs["client.py"].result()
    found = messages(runs["client.py"].wire.events)
    sent = [e.at for e in runs["client.py"].wire.events if (e.source, e.kind) == ("client", "data")]
    events = [at for at, text in events_of(found[-1]) if "event:" in text]
    assert max(sent) < min(events)


@pytest.mark.parametrize("name", SERVERS)
def test_the_response_headers(start, name):
    """The response has the type text/event-stream and no length, and begins at once with retry;
    that of the hardened server forbids caches to reuse it, and proxies to compress and to buffer
    it."""
    events = submit_job(start(f"{HERE}/{name}").url, 60)
    with httpx2.stream("GET", events) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert "Content-Length" not in response.headers
        assert response.headers["Transfer-Encoding"] == "chunked"
        if name == "server_hardened.py":
            assert response.headers["Cache-Control"] == "no-cache, no-transform"
            assert response.headers["X-Accel-Buffering"] == "no"
        assert next(response.iter_lines()) == "retry: 1000"


@pytest.mark.parametrize("name", SERVERS)
def test_all_subscribers_receive_the_same_events(start, name):
    """Any number of clients may read the events of one job, and one that comes late receives all
    from the first."""
    events = submit_job(start(f"{HERE}/{name}").url, 0.5)
    with ThreadPoolExecutor() as beside:
        early = [beside.submit(all_events, events) for _ in range(3)]
        received = [each.result() for each in early]
    assert received == [JOB] * 3
    assert all_events(events) == JOB


def test_the_status_can_be_polled(hardened):
    """The hardened server still responds to polls: pending while the job runs, then done and the
    result."""
    events = submit_job(hardened.url, 60)
    assert httpx2.get(job_of(events)).json()["status"] == "pending"
    job = httpx2.get(job_of(ended_job(hardened.url))).json()
    assert job | {"token": ""} == {"token": "", "status": "done", "result": 42}


def test_a_failed_job_is_an_event(hardened, run, canned):
    """A job that failed is an event, and a status; the hardened client reports the error and
    exits with 1."""
    events = submit_job(hardened.url, 0, fail=True)
    assert all_events(events)[-1][1:] == ("failed", "the job was set to fail")
    assert httpx2.get(job_of(events)).json()["status"] == "failed"
    stream = (200, SSE, 'event: failed\ndata: "no paper"\n\n')
    server = canned((202, {"Location": "/jobs/x"}, {}), stream)
    result = run(f"{HERE}/client_hardened.py", URL=server.url)
    assert (result.returncode, result.stderr) == (1, "the job failed: no paper\n")


def test_curl_prints_each_event(runs, start, tmp_path, record):
    """curl prints each event when it arrives, with --no-buffer."""
    server = start(f"{HERE}/server.py")
    script = EXAMPLES / HERE / "client.sh"
    options = environment(URL=server.url, SECONDS_OF_WORK=60)
    curl = Program(argv(script), copy_isolated(script, tmp_path / "curl"), options)
    curl.wait_for("progress 0")
    assert curl.process.poll() is None
    server.stop()
    assert curl.wait() == 1  # the stream ended early
    result = runs["client.sh"].result()
    assert result.returncode == 0
    assert result.stdout == "progress 0\nprogress 33\nprogress 67\ndone 42\n"
    record("server_sent_events/curl.txt", result.stdout)


def test_a_stream_that_ends_early_is_an_error(canned, run):
    """A client that does not reconnect reports a stream that ends before the job is done."""
    begun = (200, SSE, "id: 1\nevent: progress\ndata: 5\n\n")
    for client in "client.sh", "client.py":
        server = canned((202, {"Location": "/jobs/x"}, {}), begun)
        result = run(f"{HERE}/{client}", URL=server.url)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert "the stream ended" in result.stderr


# The browser

SSE = {"Content-Type": "text/event-stream", "Access-Control-Allow-Origin": "*"}
NO_MORE = (204, {"Access-Control-Allow-Origin": "*"}, "")


def shown(page):
    return page.locator("#responses li").all_inner_texts()


@pytest.mark.parametrize("name", SERVERS)
def test_the_browser_client_shows_events(open_client_page, start, tap, name):
    """The page, opened as a file, shows each event when it arrives, and closes the stream on the
    last one, so that the browser does not reconnect."""
    wire = tap(start(f"{HERE}/{name}"))
    page = open_client_page(wire.url)
    enter(page.locator("#seconds"), "0.5")
    for _ in range(2):
        page.click("#start")
        page.wait_for_selector("text=done: 42")
        assert shown(page) == ["0 %", "33 %", "67 %", "done: 42"]
        assert page.is_enabled("#start") and page.is_disabled("#stop")
    requests = [m.target for m in messages(wire.events) if m.source == "client"]
    assert len(requests) == 4  # two jobs, and one stream for each


def test_stop_closes_the_stream(open_client_page, server, tap):
    """Stop closes the stream at once."""
    wire = tap(server)
    page = open_client_page(wire.url)
    enter(page.locator("#seconds"), "60")
    page.click("#start")
    wire.wait_until(lambda events: any(b"retry: " in event.data for event in events))
    page.click("#stop")
    page.wait_for_selector("text=stopped: you pressed Stop")
    wire.wait_until(lambda events: any(e.source == "client" and e.kind != "data" for e in events))


def test_the_browser_client_shows_errors(canned, open_client_page, port):
    """The page shows why the server rejected a job, that it rejected a stream, why a job failed,
    and that there is no server."""
    allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Location"}
    submitted = (202, allowed | {"Location": "/jobs/x"}, {"status": "pending"})
    failed = (200, SSE, 'retry: 1\nevent: failed\ndata: "no paper"\n\n')
    for responses, words in [
        ([(400, allowed, "no such job here")], "stopped: no such job here"),
        ([submitted, failed], "stopped: no paper"),
    ]:
        server = canned(*responses)
        page = open_client_page(server.url)
        page.click("#start")
        page.wait_for_selector(f"text={words}")
    for _ in range(20):  # time enough to reconnect, if it had not closed
        page.evaluate("(url) => fetch(url).then((response) => response.text())", server.url)
    assert len(server.requests) == 22
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#start")
    page.wait_for_selector("text=stopped:")


def progress(*numbers):
    """Return the beginning of a stream: the events with these ids."""
    events = [f"id: {number}\nevent: progress\ndata: {number}0\n\n" for number in numbers]
    return 200, SSE, "retry: 1\n\n" + "".join(events)


def test_the_browser_client_survives_a_502(canned, open_client_page, page):
    """The page opens another EventSource after a stream that is rejected with 502, 503 or 504, at
    growing intervals, and shows no event twice; after the sixth rejection in a row it gives up."""
    allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Location"}
    submitted = (202, allowed | {"Location": "/jobs/x"}, {"status": "pending"})
    rejected = [(status, allowed, "<h1>not now</h1>") for status in (502, 503, 504, 502, 503)]
    done = (200, SSE, "id: 4\nevent: done\ndata: 42\n\n")
    page.clock.install()
    for streams, lines in [
        ([*rejected, progress(1, 2), *rejected, progress(1, 2, 3), done], "done: 42"),
        ([*rejected, (404, allowed, "")], "stopped: the server rejected the stream"),
    ]:
        server = canned(submitted, *streams)
        open_client_page(server.url)
        page.click("#start")

        def ended(lines=lines):
            page.clock.run_for(1_000)
            return page.get_by_text(lines).count()

        wait_until(ended)
        assert len(server.requests) == 1 + len(streams)
        shown = [line for line in page.locator("li").all_inner_texts() if "%" in line]
        assert shown == (["10 %", "20 %", "30 %"] if lines == "done: 42" else [])
        assert page.get_by_text("rejected, trying again").count() == len(streams) // 6 * 5


def cut_after_each(event, seen):
    """End a connection after the first event on it that it was not cut after before."""
    for number in re.findall(rb"id: (\d+)\n", event.data if event.source == "server" else b""):
        if number not in seen:
            seen.add(number)
            return Cut(event.data.index(b"\n\n\r\n", event.data.index(b"id: " + number)) + 4)


@both_browsers
def test_a_browser_reconnects_by_itself(open_client_page, hardened, tap):
    """A browser whose connection is cut again and again reconnects each time by itself, and shows
    each event once and in order."""
    seen = set()
    wire = tap(hardened, on_data=lambda event: cut_after_each(event, seen))
    page = open_client_page(wire.url)
    enter(page.locator("#seconds"), "0.5")
    page.click("#start")
    page.wait_for_selector("text=done: 42")
    assert [text for text in shown(page) if "lost" not in text] == [
        "0 %",
        "33 %",
        "67 %",
        "done: 42",
    ]
    assert shown(page).count("connection lost, reconnecting") >= 3
    requests = [m.headers for m in messages(wire.events) if m.target.endswith("/events")]
    # An event that had arrived when the connection broke may not have been read: it is repeated.
    sent = [int(headers.get("last-event-id", 0)) for headers in requests]
    assert sent == sorted(sent) and len(sent) >= 4 and sent[-1] > 0


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
    """Return how an EventSource in the browser ended, and the events that it received.

    It ends when it is closed, or before it reconnects for the first time; with "stay" in the
    URL only when it is closed.
    """
    return page.evaluate(LISTEN, [url, ["message", *types]])


def test_a_browser_stops_at_204(page, hardened, tap, record):
    """A browser that does not close an EventSource reconnects when the response has ended, until it
    receives a 204; it receives no event twice."""
    wire = tap(hardened)
    events = submit_job(wire.url, 0.2)
    state, received = in_browser(page, f"{events}?stay", "progress", "done")
    assert state == "closed"
    assert [kind for kind, _, _ in received] == ["progress"] * 3 + ["done"]
    pairs = [pair for pair in exchanges(messages(wire.events)) if "stay" in pair[0].target]
    assert [response.status for _, response in pairs] == [200, 204]
    assert pairs[1][0].headers["last-event-id"] == "4"
    again = tap(hardened)  # the same by a client with fewer headers
    assert request_events(events.replace(wire.url, again.url), "4").status_code == 204
    record("server_sent_events/no_more.html", transcript(messages(again.events), "No more"))


@both_browsers
def test_a_browser_sends_the_last_event_id(page, canned):
    """A browser that reconnects sends the id of the last complete event exactly as the server sent
    it."""
    streams = ["data: x\n\n", "id: a 7\ndata: x\n\n", "data: x\n\n", "id: 8\ndata: x\n"]
    server = canned(*[(200, SSE, f"retry: 1\n{each}") for each in streams], NO_MORE)
    in_browser(page, f"{server.url}/?stay")
    sent = [headers.get("last-event-id") for _, _, headers in server.requests]
    assert sent == [None, None, "a 7", "a 7", "a 7"]
    accepted = [headers["accept"] for _, _, headers in server.requests]
    assert accepted == ["text/event-stream"] * 5


def test_a_browser_reconnects_whenever_a_stream_ends(page, canned):
    """A browser reconnects whenever a response ends, also when the server ended it properly, and
    as soon as retry specifies."""
    server = canned(*[(200, SSE, "retry: 1\ndata: again\n\n")] * 20, NO_MORE)
    state, received = in_browser(page, f"{server.url}/?stay")
    assert state == "closed"
    assert len(received) == 20 and len(server.requests) == 21


def test_retry_sets_the_reconnection_time(page, canned):
    """A browser that received a retry of a minute has not reconnected when one that received a
    retry of ten milliseconds has done so five times."""
    later = canned((200, SSE, "retry: 60000\n\n"))
    soon = canned(*[(200, SSE, "retry: 10\n\n")] * 5, NO_MORE)
    page.evaluate("(url) => { new EventSource(url); }", later.url)
    assert in_browser(page, f"{soon.url}/?stay")[0] == "closed"
    assert len(later.requests) == 1


@both_browsers
def test_firefox_waits_at_least_half_a_second(page, canned):
    """Firefox waits at least half a second before it reconnects, also where retry is shorter;
    Chromium does not."""
    server = canned(*[(200, SSE, "retry: 1\n\n")] * 4, NO_MORE)
    in_browser(page, f"{server.url}/?stay")
    waits = [later - sooner for sooner, later in pairwise(server.times)]
    assert len(waits) == 4
    assert (min(waits) >= 0.5) == is_firefox(page), waits


@both_browsers_for("status", [204, 400, 401, 404, 429, 500, 502, 503])
def test_a_status_other_than_200_closes_an_event_source(page, canned, status):
    """A browser does not reconnect after a status other than 200 and redirects, not even after a
    503 with Retry-After."""
    begun = (200, SSE, "retry: 1\n\n")
    server = canned(begun, (status, SSE | {"Retry-After": "0"}, ""), begun)
    assert in_browser(page, f"{server.url}/?stay")[0] == "closed"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_browser_follows_redirects(page, canned, status):
    """A browser follows the redirect of an event stream, and sends the id of the last event that it
    has to the new address."""
    streamed = canned((200, SSE, "retry: 1\nid: 1\ndata: x\n\n"), NO_MORE)
    moved = canned((status, SSE | {"Location": f"{streamed.url}/moved?stay"}, ""))
    received = in_browser(page, f"{moved.url}/?stay")
    assert received == ["closed", [["message", "x", "1"]]]
    assert [path for _, path, _ in streamed.requests] == ["/moved?stay"] * 2
    assert streamed.requests[1][2]["last-event-id"] == "1"


def test_chromium_probes_an_idle_connection(page, start):
    """Chromium has set TCP keep-alive, at 45 seconds, on the connection of an event stream."""
    server = start(f"{HERE}/server_hardened.py", HEARTBEAT=3600)
    page.goto(f"{server.url}/")
    url = submit_job(server.url, 60)
    page.evaluate("(url) => new Promise((open) => { new EventSource(url).onopen = open; })", url)
    # The kernel's table has the port of the peer, and the timer: 02 is keep-alive, in 1/100 s.
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    timers = [row[5].split(":") for row in rows if row[2].endswith(f":{server.port:04X}")]
    seconds = [int(ticks, 16) / 100 for kind, ticks in timers if kind == "02"]
    assert seconds and all(0 < each <= 45 for each in seconds)
    assert max(seconds) > 30


def test_another_content_type_closes_an_event_source(page, canned):
    """A browser does not accept a response of another type as an event stream, nor does
    httpx2."""
    server = canned((200, {"Access-Control-Allow-Origin": "*"}, "data: x\n\n"))
    assert in_browser(page, server.url) == ["closed", []]
    with pytest.raises(httpx2.SSEError):
        all_events(server.url)


def test_another_origin_must_allow_reading(page, canned):
    """A page may read the events of another origin only if that origin allows it, as with
    fetch."""
    closed = canned((200, {"Content-Type": "text/event-stream"}, "data: x\n\n"))
    assert in_browser(page, closed.url) == ["closed", []]
    allowed = canned((200, SSE, "data: x\n\n"))
    assert in_browser(page, allowed.url) == ["lost", [["message", "x", ""]]]
    assert "origin" in allowed.requests[0][2]


def test_an_event_source_sends_get_without_custom_headers(page, canned):
    """An EventSource sends GET without custom headers: it ignores options that request others."""
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
    """Over HTTP/1.1 a browser opens six streams to a host; the seventh waits until one of them is
    closed, and so does every other request to that host."""
    wire = tap(start(f"{HERE}/server_hardened.py", HEARTBEAT=0.1))
    events = submit_job(wire.url, 60)
    before = wire.connections
    page.goto(f"{wire.url}/")  # a page of the same host; a 404 will do
    page.evaluate(
        """(url) => {
            window.open = Array(7).fill(false);
            window.sources = open.map((_, n) => {
                const source = new EventSource(`${url}?${n}`);
                source.addEventListener("progress", () => { open[n] = true; });
                return source;
            });
        }""",
        events,
    )
    page.wait_for_function("open.filter(Boolean).length === 6")
    page.evaluate(
        """(url) => {
            window.polled = "not yet";
            fetch(url).then((response) => { polled = response.status; });
        }""",
        job_of(events),
    )
    seen = len(wire.events)

    def six_streams_are_alive(events):
        sent = [e.connection for e in events[seen:] if b": heartbeat" in e.data]
        return sum(sent.count(connection) >= 3 for connection in set(sent)) == 6

    wire.wait_until(six_streams_are_alive)
    assert page.evaluate("[open.filter(Boolean).length, polled]") == [6, "not yet"]
    requests = [m for m in messages(wire.events) if m.method == "GET" and "/jobs/" in m.target]
    assert len(requests) == 6
    assert len({m.connection for m in requests}) == 6 and before == 1
    page.evaluate("open.forEach((isOpen, n) => isOpen && sources[n].close())")
    page.wait_for_function("open.every(Boolean) && polled === 200")


def test_sanic_does_not_support_http2(server):
    """Sanic responds to an HTTP/2 client in HTTP/1.1, with 400."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        # https://www.rfc-editor.org/rfc/rfc9113#section-3.4
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


# The format


# Streams, and what a reader makes of them. A line of JavaScript and Python alike.
STREAMS = {
    "data without a name is a message": "data: hello\n\n",
    "the space after the colon is optional": "data:hello\n\n",
    "only one space is removed": "data:  hello\n\n",
    "each data line is a line": "data: one\ndata: two\n\n",
    "an empty data line is a line, too": "data\ndata\n\n",
    "event names the event": "event: x\ndata: hello\n\n",
    "data may come before event": "data: hello\nevent: x\n\n",
    "the name holds for one event": "event: x\ndata: 1\n\ndata: 2\n\n",
    "the id holds until there is another": "id: 1\ndata: a\n\ndata: b\n\n",
    "an empty id resets it": "id: 1\ndata: a\n\nid\ndata: b\n\n",
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


# Where Firefox differs from Chromium and from the standard: {rule: (in Firefox, in Chromium)}.
ID_BUGS = {
    "an id with a NUL is ignored": (
        [["message", "a", "1"]],
        [["message", "a", "1"], ["message", "b", "1"]],
    ),
    "an id without data is no event": ([["message", "a", ""]], [["message", "a", "1"]]),
}


def listed(events):
    """Return events as a cell of a table."""
    words = [
        " ".join([f"{kind}: {json.dumps(data, ensure_ascii=False)}", *[f"(id {i})"] * bool(i)])
        for kind, data, i in events
    ]
    return "<br>".join(f"`{each}`" for each in words) or "nothing"


@both_browsers
def test_how_a_stream_is_parsed(page, canned, record):
    """Browsers and httpx2 parse a stream in the same way, except that httpx2 takes an id or a name
    without data for an event, and reads a byte order mark as text; and that Firefox drops an id
    without data, which Chromium keeps for the next event, and an event whose id has a NUL."""
    rows, differ = [], []
    for rule, stream in STREAMS.items():
        url = canned((200, SSE, stream)).url
        _, received = in_browser(page, url, "x")
        if is_firefox(page) and rule in ID_BUGS:
            wrong, right = ID_BUGS[rule]
            assert received == wrong
            received = right
        with httpx2.Client() as client, client.sse(url) as source:
            python = [[event.event, event.data, event.id] for event in source]
        same = received == python
        differ += [] if same else [rule]
        sent = json.dumps(stream, ensure_ascii=False)[1:-1]
        # What could not be seen is spelled out; of two spaces HTML would show one.
        for odd, visible in {"\ufeff": "\\ufeff", "\u2028": "\\u2028", "  ": " \xa0"}.items():
            sent = sent.replace(odd, visible)
        row = {
            "stream": f"{rule}:<br>`{sent}`",
            "browser": listed(received).replace("\u2028", "\\u2028"),
            "httpx2": "the same" if same else listed(python),
        }
        rows.append(row)
    by_rule = {rule: row["browser"] for rule, row in zip(STREAMS, rows, strict=True)}
    assert by_rule["each data line is a line"] == '`message: "one\\ntwo"`'
    assert by_rule["an empty data line is a line, too"] == '`message: "\\n"`'
    assert by_rule["only one space is removed"] == '`message: " hello"`'
    assert by_rule["data may come before event"] == '`x: "hello"`'
    assert by_rule["a comment is no event"] == "nothing"
    assert "two" not in by_rule["without its blank line an event is dropped"]
    assert by_rule["an id without data is no event"] == '`message: "a" (id 1)`'
    assert by_rule["an id with a NUL is ignored"].endswith('"b" (id 1)`')
    assert differ == [
        "an id without data is no event",
        "a name without data is no event",
        "a byte order mark is skipped",
    ]
    record("server_sent_events/format.md", table(rows).replace("--:", "---"))


def test_an_event_named_error_is_ambiguous(page, canned):
    """An event that the server names error arrives where the browser reports a lost connection:
    only its data distinguishes them."""
    server = canned((200, SSE, "event: error\ndata: no paper\n\n"))
    received = page.evaluate(
        """(url) => new Promise((resolve) => {
            const source = new EventSource(url), received = [];
            source.onerror = (event) => {
                const events = received.push(event.data ?? null);
                if (events === 2) { source.close(); resolve(received); }
            };
        })""",
        server.url,
    )
    assert received == ["no paper", None]


def boards(start, page, *texts):
    """Return what a browser receives for each text, from the board and from the wrong one."""
    received = []
    for name in "board.py", "wrong_board.py":
        url = f"{start(f'{HERE}/{name}').url}/notices"
        page.evaluate(
            """(url) => new Promise((resolve) => {
                window.received = [];
                const note = (e) => received.push([e.type, e.data, e.lastEventId]);
                const source = new EventSource(url);
                for (const type of ["message", "alarm"]) source.addEventListener(type, note);
                source.onopen = resolve;
            })""",
            url,
        )
        lists = []
        for text in texts:
            page.evaluate("received.length = 0")
            for each in text, "END":
                httpx2.post(url, content=each.encode()).raise_for_status()
            page.wait_for_function("received.some(([, data]) => data === 'END')")
            lists.append([e for e in page.evaluate("received") if e[1] != "END"])
        received.append(lists)
    return zip(*received, strict=True)


NOTICES = ["one line", "first\nsecond", "hello\n\nevent: alarm\ndata: leave the house", "a\rb"]


def test_a_line_break_forges_an_event(start, page, record):
    """A text with a line break loses what follows it, or forges an event of another kind, unless
    each of its lines is sent as data."""
    rows = []
    for text, (right, wrong) in zip(NOTICES, boards(start, page, *NOTICES), strict=True):
        assert right == [["message", text.replace("\r", "\n"), ""]]
        rows.append(
            {
                "posted": f"`{json.dumps(text)}`",
                "received from `board.py`": listed(right),
                "received from `wrong_board.py`": listed(wrong),
            }
        )
        if "\n\n" in text:
            assert ["alarm", "leave the house", ""] in wrong
        elif text != "one line":
            assert len(wrong[0][1]) < len(text)
    record("server_sent_events/board.md", table(rows).replace("--:", "---"))


def test_other_separators_are_kept(start, page):
    """A text with characters at which Python's splitlines breaks, and a browser does not, arrives
    unchanged."""
    text = "a\u2028b\x0bc\x0cd\x85e\x1cf"
    [(right, _)] = boards(start, page, text)
    assert right == [["message", text, ""]]


def test_the_board_rejects_invalid_utf8(start):
    """The board rejects a body that is not UTF-8 with 400, since an event stream has no other
    encoding."""
    url = f"{start(f'{HERE}/board.py').url}/notices"
    response = httpx2.post(url, content=b"\xff")
    assert (response.status_code, response.json()["message"]) == (400, "send text in UTF-8")


def test_the_board_forgets_disconnected_clients(start):
    """A client that has disconnected is no subscriber any more: the response to a notice has the
    number of subscribers."""
    url = f"{start(f'{HERE}/board.py').url}/notices"
    with httpx2.stream("GET", url) as response:
        body = response.iter_raw()
        assert next(body) == b": subscribed\n\n"
        assert httpx2.post(url, content="hello").json() == {"subscribers": 1}
        assert next(body) == b"data: hello\n\n"
    wait_until(lambda: httpx2.post(url, content="hello").json() == {"subscribers": 0})


def test_a_stopping_board_ends_its_streams(start):
    """When the board stops, each stream ends properly."""
    board = start(f"{HERE}/board.py", SANIC_GRACEFUL_SHUTDOWN_TIMEOUT=1)
    with httpx2.stream("GET", f"{board.url}/notices", timeout=TIMEOUT) as response:
        body = response.iter_raw()
        assert next(body) == b": subscribed\n\n"
        board.send(signal.SIGTERM)
        assert list(body) == []  # a stream that is cut raises
    assert board.wait() == 0


# Resuming


def test_a_cut_after_any_byte_loses_nothing(hardened, tap, monkeypatch):
    """Wherever the connection is cut, after any byte of the response, the hardened client receives
    each event once and in order."""
    client = importlib.import_module(f"examples.{HERE}.client_hardened")
    monkeypatch.setattr(client, "backoff_delay", lambda *_: 0)
    monkeypatch.setattr(client, "print", lambda *_, **__: None, raising=False)
    path = ended_job(hardened.url, 0.3).removeprefix(hardened.url)
    state = {"left": None, "connection": 0}

    def cut(event):
        if event.source == "client":
            state["connection"] = state["connection"] or event.connection
        elif event.connection == state["connection"]:
            if len(event.data) > state["left"]:
                return Cut(state["left"])
            state["left"] -= len(event.data)

    wire = tap(hardened, on_data=cut)
    expected = [(number, name) for number, name, _ in JOB]

    async def read():
        received = []
        async with httpx2.AsyncClient(verify=False) as http:
            events = client.stream_events(http, f"{wire.url}{path}")
            async for event in events:
                received.append((event.id, event.event))
                if event.event == "done":
                    await events.aclose()
                    return received

    async def try_all():
        state.update(left=10**9, connection=0)
        assert await read() == expected
        length = len(messages(wire.events)[-1].data)
        assert length > 300
        for offset in range(length):
            state.update(left=offset, connection=0)
            assert await read() == expected, offset

    run_in_thread(try_all())


def test_cuts_while_the_job_runs_lose_nothing(hardened, tap, run):
    """A client whose connection is cut after each event of a running job receives each event
    once."""
    seen = set()
    wire = tap(hardened, on_data=lambda event: cut_after_each(event, seen))
    result = run(f"{HERE}/client_hardened.py", URL=wire.url, SECONDS=0.3)
    received = [line for line in result.stdout.splitlines() if "reconnecting" not in line]
    assert received == ["0 %", "33 %", "67 %", "done: 42"]
    requests = [m.headers for m in messages(wire.events) if m.target.endswith("/events")]
    assert [headers.get("last-event-id") for headers in requests] == [None, "1", "2", "3"]


def test_events_missed_while_disconnected_are_sent(runs, record):
    """A client that was disconnected until the job had ended sends the id of the last event that
    it has, and receives the rest."""
    result, wire = runs["away"].result(), runs["away"].wire
    assert result.returncode == 0, result.stderr
    received = [line for line in result.stdout.splitlines() if "reconnecting" not in line]
    assert received == ["0 %", "33 %", "67 %", "done: 42"]
    record("server_sent_events/away.txt", result.stdout)
    found = [m for m in messages(wire.events) if m.connection == 2]
    assert found[0].headers["last-event-id"] == "2"
    record("server_sent_events/resume.html", stream_transcript(found, "Resuming"))


def test_without_ids_events_are_lost(runs, record):
    """Without ids, events that happen while the client is disconnected are lost, here with the
    result."""
    result = runs["wrong_live.py"].result()
    assert (result.returncode, result.stderr) == (1, "the job was not done within 5 s\n")
    lines = list(dict.fromkeys(result.stdout.splitlines()))  # it reconnects several times
    # Even the first event happened before the client could request the stream.
    assert lines[0] == "33 %"
    assert all("reconnecting" in line for line in lines[1:])
    record("server_sent_events/wrong_live.txt", "\n".join([*lines, result.stderr]))


@pytest.mark.parametrize("name", SERVERS)
def test_an_unknown_last_event_id_is_400(start, name):
    """A Last-Event-ID that this job never sent is a 400 in JSON, digits of other scripts and
    thousands of digits included."""
    url = start(f"{HERE}/{name}").url
    events = ended_job(url)
    strange = "5", "-1", "x", "1.0", "+1", "٣".encode(), "9" * 5000, "1" * 10
    for last in strange:
        response = httpx2.get(events, headers={"Last-Event-ID": last})
        assert response.status_code == 400, last
        assert "Last-Event-ID" in response.json()["message"]
    assert httpx2.get(f"{url}/jobs/made-up/events").status_code == 404


@pytest.mark.parametrize("name", SERVERS)
def test_an_empty_last_event_id_counts_as_none(start, name):
    """An empty Last-Event-ID counts as none: the stream begins with the first event."""
    events = ended_job(start(f"{HERE}/{name}").url)
    assert all_events(events, last="") == JOB


# Silence


def test_a_heartbeat_breaks_the_silence(start):
    """While nothing happens, the server sends a comment at intervals, and no client takes it for
    an event."""
    server = start(f"{HERE}/server.py", HEARTBEAT=0.1)
    events = submit_job(server.url, 1.5)
    with httpx2.stream("GET", events) as response:
        text = "".join(response.iter_text())
    assert text.startswith("retry: 1000\n\nid: 1\nevent: progress\ndata: 0\n\n")
    assert text.count("\n\n: heartbeat\n\n") >= 3
    assert all_events(events) == JOB


def test_a_heartbeat_outlives_the_response_timeout(runs):
    """A stream with a heartbeat stays open while nothing happens for more than twice the server's
    RESPONSE_TIMEOUT: each byte sent restarts that timer."""
    result, wire = runs["client.py, limited"].result(), runs["client.py, limited"].wire
    assert result.returncode == 0, result.stderr
    stream = messages(wire.events)[-1]
    times = [at for at, text in events_of(stream) if "event:" in text]
    assert times[1] - times[0] > 2 * 2


def test_without_a_heartbeat_the_stream_is_cut(runs, record):
    """The server itself cuts a stream without a heartbeat in which nothing happens for longer than
    RESPONSE_TIMEOUT: the last chunk is missing."""
    result, wire = runs["wrong_silent.py"].result(), runs["wrong_silent.py"].wire
    assert result.returncode == 1
    stream = messages(wire.events)[-1]
    assert not stream.data.endswith(b"0\r\n\r\n")
    assert [e.kind for e in wire.events if e.source == "server"][-1] == "end"
    record("server_sent_events/wrong_silent.txt", result.stdout + result.stderr)


def test_a_short_read_timeout_ends_a_quiet_stream(runs, record):
    """A client that waits five seconds for the next byte, the default of httpx2, gives up on a
    stream in which nothing happens for six; one that waits for three heartbeats receives the
    result."""
    wrong, right = runs["wrong_timeout.py"].result(), runs["client.py, quiet"].result()
    assert (wrong.returncode, right.returncode) == (1, 0)
    assert "ReadTimeout" in wrong.stderr
    assert right.stdout.endswith("done: 42\n")
    hardened = runs["client_hardened.py, quiet"].result()
    assert hardened.stdout == "0 %\n33 %\n67 %\ndone: 42\n"
    record("server_sent_events/wrong_timeout.txt", wrong.stdout + wrong.stderr)


# What the server needs


def wait_for_room(url, client):
    """Return once the server accepts a stream."""
    while True:
        with client.stream("GET", url) as response:
            if response.status_code == 200:
                return


def test_the_number_of_streams_is_limited(start):
    """A server that holds as many streams as it can rejects the next with 503 and Retry-After,
    still responds to other requests, and accepts streams again once clients have disconnected."""
    server = start(f"{HERE}/server_hardened.py", MAX_STREAMS=2)
    events = submit_job(server.url, 60)
    with httpx2.Client() as client:
        with subscribed(events), subscribed(events):
            rejected = client.get(events)
            assert rejected.status_code == 503
            assert 5 <= int(rejected.headers["Retry-After"]) <= 15
            assert rejected.json()["message"] == "too many streams"
            assert client.get(job_of(events)).json()["status"] == "pending"
        wait_for_room(events, client)
        wait_for_room(events, client)


def test_without_finally_disconnected_clients_still_count(start, record):
    """Without `finally`, clients that have disconnected are still counted, until the server rejects
    every new one."""
    limit = {"MAX_STREAMS": 2, "HEARTBEAT": 0.1}
    lines = []
    for name in "board.py", "wrong_cleanup.py":
        server = start(f"{HERE}/{name}", **limit)
        url = f"{server.url}/notices"
        for _ in range(2):
            with Tap(server.port) as wire:
                with httpx2.stream("GET", f"{wire.url}/notices") as response:
                    next(response.iter_raw())
                wire.wait_until(lambda events: events[-1].kind != "data")
        statuses = []
        with httpx2.Client() as client:
            for _ in range(20):
                client.post(url, content="hello")
                with client.stream("GET", url) as response:
                    statuses.append(response.status_code)
                if statuses[-1] == 200:
                    break
        lines.append(f"{name}: two clients disconnected, the next one gets {statuses[-1]}")
        assert statuses[-1] == (200 if name == "board.py" else 503)
    record("server_sent_events/wrong_cleanup.txt", "\n".join(lines) + "\n")


def test_a_late_client_receives_how_many_events_it_missed(start, tap, record):
    """A server that keeps the last events only sends a client that needs older ones the number
    that it missed, and then those that it has."""
    server = start(f"{HERE}/server_hardened.py", MAX_EVENTS=2)
    events = ended_job(server.url, 0.3)
    received = all_events(events, last=1)
    assert [number for number, _, _ in received] == ["2", "3", "4"]
    assert [(name, data) for _, name, data in received] == [
        ("missed", 1),
        ("progress", 67),
        ("done", 42),
    ]
    assert all_events(events, last=2) == received[1:]
    assert all_events(events)[0] == ("2", "missed", 2)  # a new client
    wire = tap(server)
    request_events(events.replace(server.url, wire.url), "1")
    response = messages(wire.events)[-1:]
    record("server_sent_events/missed.html", stream_transcript(response, "Too late"))


def test_jobs_expire(start):
    """A job that has ended is forgotten after a while, with its events."""
    server = start(f"{HERE}/server_hardened.py", RESULT_TTL=0.5)
    events = submit_job(server.url, 0)
    wait_until(lambda: request_events(events, "4").status_code == 404)
    assert httpx2.get(job_of(events)).status_code == 404


def test_the_number_of_jobs_is_limited(start):
    """A server with as many jobs as it may keep rejects the next with 503 and Retry-After."""
    server = start(f"{HERE}/server_hardened.py", MAX_JOBS=1)
    submit_job(server.url, 60)
    rejected = httpx2.post(f"{server.url}/jobs", json={"seconds": 1})
    assert (rejected.status_code, rejected.json()["message"]) == (503, "too many jobs")
    assert "Retry-After" in rejected.headers


def test_the_hardened_client_obeys_retry_after(canned, run):
    """The hardened client reconnects after a 503, no sooner than Retry-After allows, and stops at
    204."""
    submitted = (202, {"Location": "/jobs/x"}, {})
    busy = (503, {"Retry-After": "1"}, {})
    done = (200, SSE, "event: done\ndata: 42\n\n")
    server = canned(submitted, busy, done)
    result = run(f"{HERE}/client_hardened.py", URL=server.url)
    assert result.stdout == "status 503: reconnecting\ndone: 42\n"
    assert server.times[2] - server.times[1] >= 1
    server = canned(submitted, (204, {}, ""))
    result = run(f"{HERE}/client_hardened.py", URL=server.url)
    assert (result.returncode, result.stderr) == (1, "the server has no more events\n")


def test_reconnection_delays_are_random():
    """The hardened client waits as long as retry specifies and a random time more, up to a bound
    that doubles with each failure in a row and stops at 30 seconds."""
    backoff_delay = importlib.import_module(f"examples.{HERE}.client_hardened").backoff_delay
    for failures, bound in [(0, 1), (1, 2), (2, 4), (5, 30), (50, 30)]:
        delays = [backoff_delay(failures, 3) - 3 for _ in range(1000)]
        assert all(0 <= each <= bound for each in delays)
        assert {int(each / bound * 10) for each in delays} >= set(range(10))


def test_an_event_resets_the_failure_count(canned, monkeypatch):
    """An event resets the count of failures in a row, and each delay is as long as the server
    last specified."""
    client = importlib.import_module(f"examples.{HERE}.client_hardened")
    delays = []
    monkeypatch.setattr(client, "backoff_delay", lambda *args: delays.append(args) or 0)
    busy = (503, {"Retry-After": "7"}, {})
    event = (200, SSE, "retry: 50\nid: 1\ndata: {}\n\n")
    another = (200, SSE, "id: 2\ndata: {}\n\n")
    server = canned((500, {}, {}), busy, event, busy, another, NO_MORE)

    async def read():
        async with httpx2.AsyncClient(verify=False) as http:
            return [event.id async for event in client.stream_events(http, server.url)]

    assert run_in_thread(read()) == ["1", "2"]
    assert delays == [(0, 1), (1, 7), (0, 0.05), (1, 7), (0, 0.05)]


def test_a_heartbeat_resets_the_failure_count(canned, monkeypatch):
    """A heartbeat resets the count of failures in a row of the hardened client, although it is not
    an event; a stream without a byte does not."""
    client = importlib.import_module(f"examples.{HERE}.client_hardened")
    counts = []
    monkeypatch.setattr(client, "backoff_delay", lambda failures, _: counts.append(failures) or 0)
    failed, heartbeat, empty = (503, {}, {}), (200, SSE, ": heartbeat\n\n"), (200, SSE, "")
    server = canned(failed, failed, heartbeat, failed, empty, heartbeat, NO_MORE)

    async def read():
        async with httpx2.AsyncClient(verify=False) as http:
            return [event async for event in client.stream_events(http, server.url)]

    assert run_in_thread(read()) == []
    assert counts == [0, 1, 0, 1, 2, 0]


def test_retry_after_may_be_a_date():
    """The hardened client accepts Retry-After in seconds and as a date, also one in the past."""
    client = importlib.import_module(f"examples.{HERE}.client_hardened")

    def parse(value):
        return client.retry_after(httpx2.Response(503, headers={"Retry-After": value}))

    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 <= parse(later) <= 100
    assert parse("7") == 7
    assert parse("Fri, 31 Dec 1999 23:59:59 GMT") < 0
    assert 0 <= client.backoff_delay(0, parse("Fri, 31 Dec 1999 23:59:59 GMT")) <= 1


def test_the_client_gives_up_at_its_deadline(server, run):
    """At its deadline the hardened client reports that the job was not done, and exits with 1."""
    result = run(f"{HERE}/client_hardened.py", URL=server.url, SECONDS=60, DEADLINE=0.5)
    assert (result.returncode, result.stderr) == (1, "the job was not done within 0.5 s\n")


def test_a_page_of_another_origin_may_send_last_event_id(hardened):
    """The response to a preflight has Last-Event-ID among the headers that a page may send, so that
    a client that uses fetch can resume."""
    token = httpx2.post(f"{hardened.url}/jobs", json={"seconds": 0}).json()["token"]
    response = httpx2.options(
        f"{hardened.url}/jobs/{token}/events",
        headers={
            "Origin": "https://other.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "last-event-id",
        },
    )
    assert response.is_success
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert "last-event-id" in allowed


def test_a_board_keeps_no_more_than_its_queue(start):
    """A subscriber that does not read makes the board keep no more than MAX_QUEUE notices."""
    board = start(f"{HERE}/board.py", MAX_QUEUE=10)
    with socket.socket() as slow, httpx2.Client() as publisher:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", board.port))
        slow.sendall(b"GET /notices HTTP/1.1\r\nHost: x\r\n\r\n")

        def publish():
            notice = publisher.post(f"{board.url}/notices", content=b"x" * 9_900)
            return notice.json()["subscribers"]

        wait_until(lambda: publish() == 1)
        for _ in range(500):  # what the kernel takes, and what is in the queue
            publish()
        before = board.status("VmRSS")
        for _ in range(1_500):
            publish()
        assert board.status("VmRSS") < before + 5_000  # KiB, of 15,000


@pytest.mark.parametrize("name", SERVERS)
def test_a_stopping_server_ends_its_streams(start, tap, name):
    """On SIGTERM each stream ends properly, with its last chunk, and the server exits at once; the
    hardened one first sends each client another time for its reconnection."""
    # If one were left open, stopping would take longer than this test waits.
    patient = {"HEARTBEAT": 60, "SANIC_GRACEFUL_SHUTDOWN_TIMEOUT": 60}
    server = start(f"{HERE}/{name}", **patient)
    wire = tap(server)
    events = submit_job(wire.url, 60)
    with ThreadPoolExecutor(20) as beside:
        streams = [beside.submit(all_events, events) for _ in range(20)]
        wire.wait_until(lambda events: sum(b"data: 0" in e.data for e in events) == 20)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert [each.result() for each in streams] == [JOB[:1]] * 20
    found = [m for m in messages(wire.events) if m.headers.get("content-type") in SSE.values()]
    assert len(found) == 20
    assert all(response.data.endswith(b"\r\n0\r\n\r\n") for response in found)
    last = {events_of(response)[-1][1] for response in found}
    if name == "server_hardened.py":
        # Each gets another time for its reconnection.
        assert len(last) > 10
        assert all(1000 <= int(each.removeprefix("retry: ")) <= 5000 for each in last)


def lose_server(page, start, number, own_origin):
    """Follow a job in a page, of the server's origin or another, and stop the server."""
    server = start(f"{HERE}/server_hardened.py", RECONNECT_MS=50, PORT=number)
    if own_origin:
        page.goto(f"{server.url}/nothing")
    events = submit_job(server.url, 60)
    page.evaluate(
        """(url) => {
            window.source = new EventSource(url);
            window.received = window.lost = 0;
            source.addEventListener("progress", () => { received += 1; });
            source.onerror = () => { lost += 1; };
        }""",
        events,
    )
    page.wait_for_function("received > 0")
    server.stop()
    return events


@both_browsers
def test_a_browser_reconnects_to_a_restarted_server(page, start, port):
    """A browser whose server stops tries again until the server runs, and then sends the id of the
    last event that it has. A server that kept its jobs in memory responds with 404, which closes
    the EventSource."""
    events = lose_server(page, start, number := port(), own_origin=True)
    page.wait_for_function("lost >= 3")  # it was refused, and tries again
    assert page.evaluate("source.readyState === EventSource.CONNECTING")
    start(f"{HERE}/server_hardened.py", PORT=number)
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    assert httpx2.get(events).status_code == 404


@both_browsers
def test_firefox_gives_up_on_another_origin(page, start, port):
    """If the server has another origin than the page, and refuses the connection, Firefox closes
    the EventSource, where Chromium tries again."""
    lose_server(page, start, port(), own_origin=False)
    if is_firefox(page):
        page.wait_for_function("source.readyState === EventSource.CLOSED")
    else:
        page.wait_for_function("lost >= 3 && source.readyState === EventSource.CONNECTING")


# Between client and server


def test_a_buffering_proxy_delays_all_events(server, hardened, tap, before):
    """Behind an nginx that compresses event streams, no byte of the quick-start server's stream
    arrives until the response has ended, and then all events do; the hardened server's events
    arrive while its job runs."""
    for here in server, hardened:
        wire = tap(here)
        proxy = before("load_balancing/wrong_nginx_buffering.conf", wire.port)
        events = submit_job(here.url, 3)
        url = events.replace(here.url, proxy.url)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT) as client:
            path = url.removeprefix(proxy.url)
            request = f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
            client.sendall(request.encode())
            if here is hardened:
                assert b"Content-Encoding: gzip\r\n" in client.recv(65536)
                assert httpx2.get(job_of(events)).json()["status"] == "pending"
            else:
                wire.wait_until(lambda found: b"67" in from_server(found))  # the third of four
                client.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.recv(65536)
        assert all_events(url) == JOB


def from_server(events):
    return b"".join(event.data for event in events if event.source == "server")


def test_a_disconnect_does_not_affect_others(server):
    """A client that disconnects does not affect the job and the other clients."""
    events = submit_job(server.url, 1.5)
    with subscribed(events):
        pass
    assert all_events(events)[-1][1] == "done"


# Cost


def test_cost_of_each_client(runs, record):
    """Python requests the events on the connection on which it submitted the job; curl opens
    another; the hardened server and client need no more connections and requests."""
    clients = {name: runs[name] for name in ("client.py", "client.sh", "client_hardened.py")}
    assert [run.result().returncode for run in clients.values()] == [0, 0, 0]
    assert [run.wire.connections for run in clients.values()] == [1, 2, 1]
    rows = []
    for name, run in clients.items():
        found = messages(run.wire.events)
        cost = counts(run.wire) | {"late, in intervals": late(found, 9, 2)}
        row = {"client": f"`{name}`"} | cost
        # curl sends its version, which differs from machine to machine.
        rows.append(row | ({"bytes up": "–"} if name == "client.sh" else {}))
    assert [row["requests"] for row in rows] == [2, 2, 2]
    record("server_sent_events/costs.md", table(rows))


def test_an_event_costs_less_than_a_request(runs, hardened, record):
    """An event costs less than a sixth of the bytes of a poll and its response, and no round
    trip."""
    runs["client.py"].result()
    found = messages(runs["client.py"].wire.events)
    request, response = found[2], found[3]
    sizes = [len(data) for _, data in pieces(response)]
    runs["client.py, limited"].result()
    quiet = messages(runs["client.py, limited"].wire.events)[-1]
    heartbeat = next(data for _, data in pieces(quiet) if b": heartbeat" in data)
    with Tap(hardened.port) as wire, httpx2.Client() as client:
        client.get(job_of(submit_job(wire.url, 60)))
        poll, pending = messages(wire.events)[-2:]
    rows = [
        {"what": what, "bytes up": up, "bytes down": down, "both": up + down}
        for what, up, down in [
            ("opening the stream", len(request.data), sizes[0] + sizes[1]),
            ("an event, `progress`", 0, sizes[2]),
            ("an event, `done`", 0, sizes[-2]),
            ("a heartbeat", 0, len(heartbeat)),
            ("ending the stream", 0, sizes[-1]),
            ("a poll with the response `pending`", len(poll.data), len(pending.data)),
        ]
    ]
    assert rows[1]["both"] * 6 < rows[-1]["both"]
    record("server_sent_events/sizes.md", table(rows))


# The panel


def test_the_panel_is_live(live, open_page):
    """Served by make serve, the panel draws the request and each event when it arrives."""
    page = panel(open_page(f"{live.url}/techniques/server-sent-events/"))
    client = page.frame_locator(".panel iframe")
    enter(client.locator("#seconds"), "2.5")
    client.locator("#start").click()
    client.get_by_text("done: 42").wait_for()
    words = page.locator(".panel-wire text.down").all_text_contents()
    assert words == ["202 pending", *["event: progress"] * 3, "event: done"]
    assert page.locator(".panel-wire polygon.up").count() == 2
    assert page.locator(".panel-wire polygon.down").count() == 5
    requests = page.locator(".panel-wire text.up").all_text_contents()
    assert requests == ["POST /jobs", "GET /jobs/…/events"]


def test_the_panel_replays(static, open_page):
    """On a static host the panel plays the recorded stream, its request open to the end."""
    page = replay(open_page, f"{static.url}/techniques/server-sent-events/")
    assert counters(page)["Requests"] == "2"
    assert page.locator(".panel-wire polygon.up").count() == 2
    assert page.locator(".panel-wire polygon.down").count() == 5
    held = page.locator(".panel-wire rect.held")
    heights = held.evaluate_all("(all) => all.map((each) => each.height.baseVal.value)")
    events = page.locator(".panel-wire polygon.down").evaluate_all(
        "(all) => all.slice(1).map((each) => each.points[0].y)"
    )
    assert max(heights) > max(events) - min(events)
    expect_accessible(page, ".panel")
