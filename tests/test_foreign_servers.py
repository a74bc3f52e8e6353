"""The clients cope with servers and intermediaries that are legitimate but different."""

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from time import monotonic
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from .support.browsing import enter
from .support.processes import (
    EXAMPLES,
    Program,
    argv,
    copy_isolated,
    environment,
    named,
    wait_until,
)
from .support.tunnel import Tunnel

CLIENTS = [name for name in named("client_hardened.py", "/jobs") if "load_balancing" not in name]
SCRIPTS = named("client.sh", "/jobs")
STREAMS = ["server_sent_events/client_hardened.py", "server_sent_events/client.sh"]
SUBMITTED = (202, {"Location": "/jobs/x"}, {"token": "x", "status": "pending"})
PENDING = (200, {"Retry-After": "0"}, {"token": "x", "status": "pending"})
DONE = (200, {}, {"token": "x", "status": "done", "result": 42})
SSE = {"Content-Type": "text/event-stream"}
STREAM = (200, SSE, "event: done\nid: 1\ndata: 42\n\n")
NESTED = "[" * 100_000

NOTIFICATION = {"id": 1, "to": "topics/news", "text": "hello"}
# Each client that follows notifications by HTTP, and a response with one.
HTTP_FOLLOWERS = {
    "notifications/client_poll.py": (200, {}, {"notifications": [NOTIFICATION], "after": 1}),
    "notifications/client_sse.py": (200, SSE, f"id: 1\ndata: {json.dumps(NOTIFICATION)}\n\n"),
}
# Each client that follows a WebSocket, and a message that makes it print a text.
FOLLOWERS = {
    "load_balancing/client_hardened.py": lambda number, text: text,
    "notifications/client.py": lambda number, text: json.dumps(
        {"id": number, "to": "topics/news", "text": text}
    ),
    "reconnecting/client_hardened.py": lambda number, text: json.dumps(
        {"id": number, "text": text}
    ),
    "reliable_websockets/client.py": lambda number, text: json.dumps({"id": number, "text": text}),
    "scaling_out/client.py": lambda number, text: json.dumps({"id": f"{number}-0", "text": text}),
}
# All the others, and the variables with which the first failure ends them.
ONCE = {"MAX_FAILURES": 1, "BASE_DELAY": 0, "BACKOFF": 0, "TRIES": 1, "COUNT": 1}


@pytest.fixture(params=CLIENTS)
def client(request, run):
    """Return each hardened client of jobs: (its last response, run(server, **environment))."""
    last = STREAM if request.param.startswith("server_sent_events/") else DONE
    return last, lambda server, **variables: run(request.param, URL=server.url, **variables)


@pytest.fixture(params=SCRIPTS)
def script(request, run):
    """Return each shell client of jobs: (its last response, run(url))."""
    last = STREAM if request.param.startswith("server_sent_events/") else DONE
    return last, lambda url: run(request.param, URL=url, INTERVAL=0)


@pytest.fixture(params=HTTP_FOLLOWERS)
def http_follower(request, run):
    """Return each client of notifications by HTTP: (a response, run(server, **environment))."""

    def run_follower(server, **variables):
        options = {"COUNT": 1, "BASE_DELAY": 0.01, "POLL_INTERVAL": 0.01} | variables
        return run(request.param, URL=server.url, **options)

    return HTTP_FOLLOWERS[request.param], run_follower


@pytest.fixture
def begin(tmp_path):
    """Start a program that runs beside the test: begin(name, **environment) -> Program."""
    running = []

    def begin(name, **variables):
        example = EXAMPLES / name
        home = copy_isolated(example, tmp_path / f"client-{uuid4()}")
        running.append(Program(argv(example), home, environment(**variables)))
        return running[-1]

    yield begin
    for program in running:
        program.stop(signal.SIGKILL)


@pytest.fixture(params=FOLLOWERS)
def follower(request, begin):
    """Return each client of a WebSocket: (its message, begin(url, **environment))."""

    def begin_follower(url, **variables):
        options = {"BASE_DELAY": 0.01, "BACKOFF": 0.01, "SECONDS": 60} | variables
        if request.param.startswith("load_balancing/"):
            options["COUNT"] = 1
        return begin(request.param, URL=url, **options)

    return FOLLOWERS[request.param], begin_follower


def assert_done(result):
    assert result.returncode == 0, result.stderr
    assert "42" in result.stdout


def assert_received(result):
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("1 topics/news: hello\n")


def assert_one_line(result, *words):
    assert result.returncode not in {0, -signal.SIGKILL}
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert len(result.stderr) < 300
    for word in words:
        assert word in result.stderr


# A restart

UNAVAILABLE = [408, 425, 429, 500, 502, 503, 504]


@pytest.mark.parametrize("status", UNAVAILABLE)
def test_a_failed_poll_is_retried(client, canned, status):
    """A poll that fails with 408, 425, 429 or 5xx, as during a restart, is retried."""
    done, run_client = client
    failed = (status, {"Retry-After": "0"}, "<h1>not now</h1>")
    server = canned(SUBMITTED, failed, done)
    assert_done(run_client(server))
    assert len(server.requests) == 3


def test_a_failed_request_for_notifications_is_retried(http_follower, canned):
    """A request for notifications that fails with 408, 425, 429 and 5xx in turn, as during a
    restart, is retried."""
    response, run_follower = http_follower
    server = canned(*[(status, {}, "<h1>not now</h1>") for status in UNAVAILABLE], response)
    assert_received(run_follower(server))
    assert len(server.requests) == len(UNAVAILABLE) + 1


@pytest.mark.parametrize("statuses", [(408, 429, 500), (502, 503, 504)])
def test_a_failed_poll_of_curl_is_retried(script, canned, statuses):
    """A shell client retries a poll that fails with 408, 429 and 5xx in turn, and its submission
    not."""
    done, run_script = script
    failed = [(status, {"Retry-After": "1"}, "<h1>not now</h1>") for status in statuses]
    server = canned(SUBMITTED, *failed, done)
    assert_done(run_script(server.url))
    assert len(server.requests) >= 5  # token/client.sh polls twice
    assert server.times[4] - server.times[1] >= 2.9
    server = canned(*failed, SUBMITTED, done)
    assert run_script(server.url).returncode
    assert len(server.requests) == 1


def restarting(serving, message, *rejections):
    """Start a server that sends "one" and restarts: it rejects as many handshakes with these
    (status, headers), and then sends "two". Return (its URL, when it got each handshake)."""
    times = []

    def process_request(connection, request):
        times.append(monotonic())
        if not 2 <= len(times) < 2 + len(rejections):
            return None
        status, headers = rejections[len(times) - 2]
        response = connection.respond(status, "not now")
        for name, value in headers.items():
            response.headers[name] = value
        return response

    def handler(socket):
        socket.send(message(len(times), "one" if len(times) == 1 else "two"))
        if len(times) == 1:
            socket.close(1012)
        else:
            stay(socket)

    return serving(handler, process_request=process_request), times


def stay(socket):
    """Keep a connection until the client closes it."""
    try:
        for _ in socket:
            pass
    except ConnectionClosed:
        pass


def test_a_failed_handshake_is_retried(follower, serving):
    """A WebSocket client whose connection was closed retries a handshake that fails with 408, 425,
    429 and 5xx in turn, as during a restart."""
    message, begin_follower = follower
    url, times = restarting(serving, message, *[(status, {}) for status in UNAVAILABLE])
    begin_follower(url).wait_for("two")
    assert len(times) == len(UNAVAILABLE) + 2


# Retry-After


def in_an_hour():
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


ODD_VALUES = [
    *("0", "1", "-5", "1.5", "soon", "", "٣", "Thu, 32 Jan 2026 00:00:00 GMT"),
    "Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
    "Sun, 06 Nov 1994 08:49:37 GMT",  # the three forms of RFC 9110 §5.6.7
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
]


@pytest.mark.parametrize("value", ODD_VALUES)
def test_any_retry_after_is_bounded(client, canned, value):
    """Whatever Retry-After contains, a number, a date in the past or nonsense, the client retries
    within seconds, and does not send a flood of requests."""
    done, run_client = client
    busy = (503, {"Retry-After": value.encode().decode("latin-1")}, "busy")
    server = canned(SUBMITTED, busy, done)
    assert_done(run_client(server))
    assert len(server.requests) == 3
    waited = server.times[2] - server.times[1]
    assert waited < 5


def test_any_retry_after_to_a_follower_is_bounded(http_follower, canned):
    """Whatever Retry-After contains, a client of notifications retries within seconds, and does
    not send a flood of requests."""
    response, run_follower = http_follower
    values = [value.encode().decode("latin-1") for value in ODD_VALUES]
    server = canned(*[(503, {"Retry-After": value}, "busy") for value in values], response)
    assert_received(run_follower(server, MAX_FAILURES=100))
    assert len(server.requests) == len(values) + 1
    assert max(later - before for before, later in pairwise(server.times)) < 5


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("script", ["short_polling/client.sh"], indirect=True)
def test_any_retry_after_to_curl_is_bounded(script, canned, value):
    """Whatever Retry-After contains, a shell client retries within seconds, and does not send a
    flood of requests; an old curl takes a date in the past for one far away, and ends with one
    line."""
    done, run_script = script
    busy = (503, {"Retry-After": value.encode().decode("latin-1")}, "busy")
    server = canned(SUBMITTED, busy, done)
    result = run_script(server.url)
    if result.returncode and value.endswith(("94 08:49:37 GMT", "1994")):
        assert_one_line(result, "503")
        assert len(server.requests) == 2
    else:
        assert_done(result)
        assert server.times[2] - server.times[1] >= 0.9


def test_any_retry_after_of_a_handshake_is_bounded(follower, serving):
    """Whatever the Retry-After of a rejected handshake contains, a WebSocket client retries within
    seconds, and does not send a flood of requests."""
    message, begin_follower = follower
    values = [value.encode().decode("latin-1") for value in ODD_VALUES]
    rejections = [(503, {"Retry-After": value}) for value in values]
    url, times = restarting(serving, message, *rejections)
    begin_follower(url, MAX_FAILURES=100, TRIES=100).wait_for("two")
    assert len(times) == len(values) + 2
    assert max(later - before for before, later in pairwise(times)) < 5


def test_a_handshake_is_retried_after_retry_after(follower, serving):
    """A WebSocket client whose handshake is rejected with a Retry-After of two seconds does not
    retry it earlier."""
    message, begin_follower = follower
    url, times = restarting(serving, message, (429, {"Retry-After": "2"}))
    begin_follower(url).wait_for("two")
    assert times[2] - times[1] >= 2


@pytest.mark.parametrize("value", ["3600", in_an_hour()], ids=["seconds", "date"])
def test_a_long_retry_after_ends_at_the_deadline(client, canned, value):
    """A client whose Retry-After is an hour does not retry earlier; it ends at its deadline
    with one line."""
    _, run_client = client
    server = canned(SUBMITTED, (503, {"Retry-After": value}, "busy"))
    result = run_client(server, DEADLINE=5)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize("value", ["3600", in_an_hour()], ids=["seconds", "date"])
def test_a_long_retry_after_ends_curl(script, canned, value):
    """A shell client whose Retry-After is an hour ends at once with an error, instead of
    returning earlier."""
    _, run_script = script
    server = canned(SUBMITTED, (503, {"Retry-After": value}, "busy"))
    result = run_script(server.url)
    assert result.returncode
    assert "503" in result.stderr
    assert len(server.requests) == 2


# Redirects

REDIRECTS = [301, 302, 303, 307, 308]
LOCATIONS = ["{url}/else/x?a=b", "/else/x?a=b", "//{host}/else/x", "y"]


def redirects(location):
    """Return a redirect with each of the five statuses."""
    return [(status, {"Location": location}, "") for status in REDIRECTS]


@pytest.mark.parametrize("form", LOCATIONS)
def test_a_redirected_poll_is_followed(client, canned, port, form):
    """A poll that is redirected, with each of the five statuses in turn, is followed, to an
    absolute and to a relative Location."""
    done, run_client = client
    number = port()
    location = form.format(url=f"http://127.0.0.1:{number}", host=f"127.0.0.1:{number}")
    server = canned(SUBMITTED, *redirects(location), done, number=number)
    assert_done(run_client(server))
    assert [request[0] for request in server.requests] == ["POST"] + ["GET"] * 6


@pytest.mark.parametrize("form", LOCATIONS)
def test_a_redirected_poll_of_curl_is_followed(script, canned, port, form):
    """A poll of a shell client that is redirected, with each of the five statuses in turn, is
    followed, to an absolute and to a relative Location."""
    done, run_script = script
    number = port()
    location = form.format(url=f"http://127.0.0.1:{number}", host=f"127.0.0.1:{number}")
    server = canned(SUBMITTED, *redirects(location), done, number=number)
    assert_done(run_script(server.url))
    assert [request[0] for request in server.requests[:7]] == ["POST"] + ["GET"] * 6


@pytest.mark.parametrize("form", LOCATIONS)
def test_a_redirected_request_for_notifications_is_followed(http_follower, canned, port, form):
    """A request for notifications that is redirected, with each of the five statuses in turn, is
    followed, to an absolute and to a relative Location."""
    response, run_follower = http_follower
    number = port()
    location = form.format(url=f"http://127.0.0.1:{number}", host=f"127.0.0.1:{number}")
    server = canned(*redirects(location), response, number=number)
    assert_received(run_follower(server))
    assert len(server.requests) == 6


@pytest.mark.parametrize("form", ["ws://{host}/else/x?a=b", *LOCATIONS[1:]])
def test_a_redirected_handshake_is_followed(follower, serving, form):
    """A handshake that is redirected, with each of the five statuses in turn, is followed, to an
    absolute address of a WebSocket and to a relative Location."""
    message, begin_follower = follower
    paths = []

    def process_request(connection, request):
        paths.append(request.path)
        if len(paths) > len(REDIRECTS):
            return None
        response = connection.respond(REDIRECTS[len(paths) - 1], "elsewhere")
        response.headers["Location"] = form.format(host=request.headers["Host"])
        return response

    def handler(socket):
        socket.send(message(1, "one"))
        stay(socket)

    begin_follower(serving(handler, process_request=process_request)).wait_for("one")
    assert len(paths) == 6
    assert all(path.endswith(("/else/x?a=b", "/else/x", "/y")) for path in paths[1:])


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_handshake_redirected_to_http_is_reported(run, canned, name):
    """A handshake that is redirected to an http address is reported in one line."""
    server = canned((302, {"Location": "http://127.0.0.1:1/login"}, ""))
    assert_one_line(run(name, URL=server.url, **ONCE), "http://127.0.0.1:1/login")


# Other responses


PREFIXED = ["{url}/api/jobs/x", "/api/jobs/x?a=b", "//{host}/api/jobs/x", "jobs/x"]


@pytest.mark.parametrize("form", PREFIXED)
def test_curl_polls_below_a_prefix(script, canned, port, form):
    """A shell client whose URL has a path polls the address that Location has, absolute or
    relative; blanks in the JSON do no harm."""
    done, run_script = script
    if done is DONE:
        done = (200, {}, '{ "token" : "x",\r\n\t"status" :\n"done" , "result" : 42 }')
    number = port()
    url, host = f"http://127.0.0.1:{number}", f"127.0.0.1:{number}"
    submitted = (202, {"Location": form.format(url=url, host=host)}, SUBMITTED[2])
    server = canned(submitted, done, number=number)
    assert_done(run_script(f"{url}/api"))
    paths = {path.partition("?")[0] for _, path, _ in server.requests[1:]}
    assert server.requests[0][1] == "/api/jobs"
    assert paths == {"/api/jobs/x"}


OTHER_JSON = {
    "nested": NESTED,
    "nested in an object": '{"status": ' + NESTED,
    "NaN": "NaN",
    "null": "null",
    "a long number": "9" * 5000,
}


@pytest.mark.parametrize("body", OTHER_JSON.values(), ids=OTHER_JSON)
def test_other_json_is_reported_in_one_line(client, canned, body):
    """A response of another shape, also one that is nested too deep to be parsed, is reported in
    one line."""
    _, run_client = client
    assert_one_line(run_client(canned(SUBMITTED, (200, {}, body))))


JSON_CLIENTS = [
    *("keep_alive/client_hardened.py", "long_polling/feed_client.py"),
    *("reconnecting/retry.py", "security/client.py", "notifications/client_poll.py"),
    *("short_polling/client.py", "long_polling/client.py", "token/client.py"),
    *("short_polling/sweep.py", "notifications/client_sse.py"),
    *("job_queue/client.py", "webhooks/client.py"),
]


@pytest.mark.parametrize("name", JSON_CLIENTS)
@pytest.mark.parametrize("body", [NESTED, '{"status": ' + NESTED], ids=["a list", "an object"])
def test_other_json_is_reported_by_every_client(run, canned, name, body):
    """A response that is nested too deep to be parsed is reported by each client in one line."""
    server = canned((200, SSE, f"data: {body}\n\n") if "sse" in name else (200, {}, body))
    assert_one_line(run(name, URL=server.url, **ONCE))


# A queue that is full


def test_a_full_queue_is_retried(run, canned):
    """Whatever the Retry-After of a full queue contains, the client of the queue submits its job
    again within seconds, and does not send a flood of requests."""
    values = [value.encode().decode("latin-1") for value in ODD_VALUES]
    rejected = [(503, {"Retry-After": value}, "full") for value in values]
    server = canned(*rejected, SUBMITTED, PENDING, PENDING, DONE)
    result = run("job_queue/client.py", URL=server.url)
    assert_done(result)
    assert result.stdout.count("the queue is full") == len(values)
    waits = [later - before for before, later in pairwise(server.times)]
    waits.pop(len(values))  # it polls at once, for its position
    assert min(waits) > 0.99
    assert max(waits) < 5


@pytest.mark.parametrize("form", PREFIXED)
def test_a_queued_job_is_polled_below_a_prefix(run, canned, port, form):
    """The client of the queue, whose URL has a path, polls the address that Location has, absolute
    or relative."""
    number = port()
    url, host = f"http://127.0.0.1:{number}", f"127.0.0.1:{number}"
    submitted = (202, {"Location": form.format(url=url, host=host)}, SUBMITTED[2])
    server = canned(submitted, DONE, number=number)
    assert_done(run("job_queue/client.py", URL=f"{url}/api"))
    paths = [path.partition("?")[0] for _, path, _ in server.requests]
    assert paths == ["/api/jobs", "/api/jobs/x"]


def test_curl_submits_below_a_prefix(run, canned):
    """The shell client of the queue posts to the path below that of URL, prints the response, and
    reports a status that rejects the job."""
    server = canned(SUBMITTED, (503, {"Retry-After": "1"}, '{"message": "the queue is full"}'))
    submitted = run("job_queue/submit.sh", URL=f"{server.url}/api")
    assert (submitted.returncode, json.loads(submitted.stdout)) == (0, SUBMITTED[2])
    rejected = run("job_queue/submit.sh", URL=f"{server.url}/api")
    assert_one_line(rejected, "503")
    assert "the queue is full" in rejected.stdout
    assert {path for _, path, _ in server.requests} == {"/api/jobs"}


# Event streams

FORMS = {
    "a byte order mark": "\ufeffevent: done\ndata: 42\n\n",
    "CR LF": "event: done\r\ndata: 42\r\n\r\n",
    "no blank": "event:done\ndata:42\n\n",
    "data before event": "data: 42\nevent: done\n\n",
    "a comment first": ": hello\n\nevent: done\nid: 1\ndata: 42\n\n",
    "without an id": "event: progress\ndata: 5\n\nevent: done\ndata: 42\n\n",
    "an unknown field": "colour: red\nevent: done\nretry: x\ndata: 42\n\n",
}
ALL_STREAMS = ["server_sent_events/client.py", *STREAMS]


@pytest.mark.parametrize("name", ALL_STREAMS)
@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_a_stream_is_read(run, canned, name, form):
    """A stream with CR LF, without the blank, with its fields in another order, without ids or
    with a byte order mark is read as usual; of these the quick start in Python does not read the
    last."""
    server = canned(SUBMITTED, (200, SSE, FORMS[form]))
    result = run(name, URL=server.url)
    if (name, form) == ("server_sent_events/client.py", "a byte order mark"):
        assert_one_line(result, "the stream ended")
    else:
        assert_done(result)


@pytest.mark.parametrize("name", ALL_STREAMS)
def test_a_stream_with_cr_only(run, canned, name):
    """A stream whose lines end with CR alone is read in Python; the shell client, which reads
    lines, reports in one line that it ended."""
    server = canned(SUBMITTED, (200, SSE, "event: done\rdata: 42\r\r: hello\r\r"))
    result = run(name, URL=server.url)
    if name.endswith(".sh"):
        assert_one_line(result, "the stream ended early")
    else:
        assert_done(result)


NOTIFIED = json.dumps(NOTIFICATION)
NOTIFICATION_FORMS = {
    "a byte order mark": f"\ufeffdata: {NOTIFIED}\nid: 1\n\n",
    "CR LF": f"id: 1\r\ndata: {NOTIFIED}\r\n\r\n",
    "CR": f"id: 1\rdata: {NOTIFIED}\r\r: hello\r\r",
    "no blank": f"id:1\ndata:{NOTIFIED}\n\n",
    "data before id": f"data: {NOTIFIED}\nid: 1\n\n",
    "without an id": f": hello\n\ndata: {NOTIFIED}\n\n",
}


@pytest.mark.parametrize("form", NOTIFICATION_FORMS)
@pytest.mark.parametrize("name", ["notifications/client_sse.py"])
def test_any_form_of_a_stream_of_notifications_is_read(run, canned, name, form):
    """A stream of notifications with a byte order mark, CR, CR LF, without the blank, with its
    fields in another order or without ids is read as usual."""
    server = canned((200, SSE, NOTIFICATION_FORMS[form]))
    assert_received(run(name, URL=server.url, COUNT=1, BASE_DELAY=0.01, MAX_FAILURES=1))


@pytest.mark.parametrize("name", ["notifications/client_sse.py"])
def test_a_heartbeat_resets_the_failures(run, canned, name):
    """A stream that ended after a heartbeat, without an event, is no failure in a row; one that
    ended without a byte is."""
    failed, beat = (503, {}, ""), (200, SSE, ": heartbeat\n\n")
    server = canned(failed, beat, failed, beat, failed, HTTP_FOLLOWERS[name])
    options = {"COUNT": 1, "BASE_DELAY": 0.01, "MAX_FAILURES": 3}
    assert_received(run(name, URL=server.url, **options))
    empty = canned(failed, (200, SSE, ""), (200, SSE, ""), HTTP_FOLLOWERS[name])
    assert_one_line(run(name, URL=empty.url, **options), "3 failures in a row")


# WebSockets


def test_a_fragmented_message_is_one_message(follower, serving):
    """A WebSocket client reads a message in fragments, with a ping between them, as one."""
    message, begin_follower = follower

    def handler(socket):
        text = message(1, "one and only")

        def fragments():
            yield text[:3]
            socket.ping()
            yield ""
            yield text[3:]

        socket.send(fragments())
        stay(socket)

    begin_follower(serving(handler)).wait_for("one and only")


JOB_CLIENTS = ["websockets/client.py", "websockets/client_duplex.py", "websockets/frames.py"]


@pytest.mark.parametrize("name", JOB_CLIENTS)
def test_fragments_and_a_push_before_the_response(run, serving, name):
    """A client of jobs reads messages in fragments, and does not wait forever if a job's result is
    pushed before the response to its submission."""

    def handler(socket):
        try:
            for text in socket:
                request = json.loads(text)
                job = {"token": str(request["id"]), "status": "done", "result": 42}
                response = {"id": request["id"], "token": job["token"], "status": "pending"}
                for each in [job, response] if "submit" in request else [response]:
                    socket.send(iter([json.dumps(each)[:9], json.dumps(each)[9:]]))
        except ConnectionClosed:
            pass

    result = run(name, URL=serving(handler), SECONDS=0.1)
    assert result.returncode == 0, result.stderr
    assert re.search(r"(?m)^(\{.*\}|results: \[42, 42\])$", result.stdout), result.stdout


@pytest.mark.parametrize("name", JOB_CLIENTS)
def test_a_close_is_echoed(run, serving, name):
    """A client whose server closes the connection echoes the close frame (RFC 6455 §5.5.1), and
    reports it in one line."""
    closed = []

    def handler(socket):
        socket.recv()
        socket.close(1012, "restart")
        closed.append(socket.protocol.close_rcvd)

    assert_one_line(run(name, URL=serving(handler), SECONDS=0.1))
    assert [frame and frame.code for frame in closed] == [1012]


# Proxies in the environment

HTTP_CLIENTS = [
    *CLIENTS,
    *HTTP_FOLLOWERS,
    *("keep_alive/client_hardened.py", "reconnecting/retry.py", "security/client.py"),
]
QUICK_STARTS = [
    *("holding_connections/client.py", "job_queue/client.py", "keep_alive/client.py"),
    *("long_polling/client.py", "webhooks/client.py"),
    *("long_polling/feed_client.py", "server_sent_events/client.py", "short_polling/client.py"),
    *("short_polling/sweep.py", "token/client.py"),
]
SOCKET_CLIENTS = [
    *FOLLOWERS,
    *("websockets/client_duplex.py", "websockets/client_requests.py"),
]
QUICK_SOCKETS = ["load_balancing/client.py", "reconnecting/client.py", "websockets/client.py"]
UNUSABLE = ["socks5://127.0.0.1:1", "nonsense://x"]


@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("name", HTTP_CLIENTS)
def test_a_proxy_that_cannot_be_used_is_named(run, canned, name, value):
    """A proxy in the environment that the client cannot use is reported in one line that names the
    variable."""
    result = run(name, URL=canned(SUBMITTED, DONE).url, ALL_PROXY=value)
    assert_one_line(result, "ALL_PROXY")


@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("name", SOCKET_CLIENTS)
def test_a_proxy_that_cannot_carry_a_websocket_is_named(run, canned, name, value):
    """A proxy in the environment that a WebSocket client cannot use is reported in one line that
    names the variable."""
    result = run(name, URL=canned(SUBMITTED).url, HTTP_PROXY=value, **ONCE)
    assert_one_line(result, "HTTP_PROXY")


@pytest.mark.parametrize("name", QUICK_STARTS + QUICK_SOCKETS)
def test_a_quick_start_reports_a_socks_proxy(run, canned, name):
    """A quick start that would need a package for the SOCKS proxy of the environment reports it in
    one line."""
    result = run(name, URL=canned(SUBMITTED, DONE).url, HTTP_PROXY="socks5://127.0.0.1:1", **ONCE)
    assert_one_line(result, "SOCKS proxy")


@pytest.mark.parametrize("name", QUICK_STARTS)
def test_a_quick_start_reports_a_redirect(run, canned, name):
    """A quick start whose request is redirected reports it in one line."""
    server = canned((307, {"Location": "/else"}, ""))
    assert_one_line(run(name, URL=server.url, **ONCE))


def test_every_client_is_tried():
    """Every client of examples/ in Python, wrong ones aside, is one of those that are tried here,
    and so is every shell client of jobs."""
    found = {name for name in named("*client*.py", "") if "/wrong_" not in name}
    assert found <= {*HTTP_CLIENTS, *QUICK_STARTS, *SOCKET_CLIENTS, *QUICK_SOCKETS}
    assert set(named("client*.sh", "/jobs")) == set(SCRIPTS)


def test_an_http_proxy_is_used(client, canned):
    """A client of jobs sends its requests to the proxy that HTTP_PROXY names, and not if NO_PROXY
    has the host."""
    done, run_client = client
    proxy, server = canned(SUBMITTED, done), canned(SUBMITTED, done)
    assert_done(run_client(server, HTTP_PROXY=proxy.url))
    assert server.requests == []
    assert proxy.requests[0][1] == f"{server.url}/jobs"
    assert_done(run_client(server, HTTP_PROXY=proxy.url, NO_PROXY="127.0.0.1"))
    assert len(server.requests) == len(proxy.requests) == 2


def test_curl_uses_an_http_proxy(script, run, canned, request):
    """A shell client sends its requests to the proxy that http_proxy names, and not if NO_PROXY
    has the host."""
    name = request.node.callspec.params["script"]
    done, _ = script
    proxy, server = canned(SUBMITTED, done), canned(SUBMITTED, done)
    options = {"URL": server.url, "INTERVAL": 0, "http_proxy": proxy.url}
    assert_done(run(name, **options))
    assert server.requests == []
    assert_done(run(name, NO_PROXY="127.0.0.1", **options))


def test_a_websocket_through_an_http_proxy(follower, serving, port):
    """A WebSocket client connects through the proxy that HTTP_PROXY names, and not if NO_PROXY has
    the host."""
    message, begin_follower = follower

    def handler(socket):
        socket.send(message(1, "one"))
        stay(socket)

    url, proxy = serving(handler), Tunnel(port())
    program = begin_follower(url, HTTP_PROXY=proxy.url).wait_for("one")
    program.stop(signal.SIGKILL)
    proxy.close()
    assert proxy.targets == [url.removeprefix("http://")]
    options = {"HTTP_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}
    begin_follower(url, **options).wait_for("one")


# Browsers

PAGES = ["long_polling/client.html", "short_polling/client.html"]
SHARED = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
# The times of the requests, by the clock of the page.
WATCH = """const send = fetch; window.sent = [];
    window.fetch = (...options) => { sent.push(Date.now() / 1000); return send(...options); };"""


@pytest.fixture(params=PAGES)
def begin_page(request, page, tmp_path):
    """Submit a job in each page of a client of jobs: begin_page(response to a request, …) -> page.
    Its clock can be advanced."""

    def begin_page(*responses):
        folder = copy_isolated(EXAMPLES / request.param, tmp_path / "page")
        served = []

        def respond(route):
            status, headers, body = responses[min(len(served), len(responses) - 1)]
            served.append(status)
            body = body if isinstance(body, str) else json.dumps(body)
            route.fulfill(status=status, headers=SHARED | headers, body=body)

        page.route("**/jobs*/**", respond)
        page.route("**/jobs", respond)
        page.add_init_script(WATCH)
        page.clock.install()
        page.goto(f"file://{folder}/client.html")
        if "short_polling" in request.param:
            enter(page.locator("#interval"), "0.1")
        page.click("#start")
        return page

    return begin_page


def finish(page):
    """Advance the clock of a page until its job is done; return when it sent its requests."""

    def done():
        page.clock.run_for(500)
        return page.get_by_text("done: 42").count()

    wait_until(done)
    return page.evaluate("sent")


def test_a_failed_poll_of_a_page_is_retried(begin_page):
    """A page retries a poll that fails with 408, 425, 429 and 5xx in turn, as during a restart."""
    failed = [(status, {"Retry-After": "0"}, "<h1>not now</h1>") for status in UNAVAILABLE]
    page = begin_page(SUBMITTED, *failed, DONE)
    assert len(finish(page)) == len(UNAVAILABLE) + 2
    for status in UNAVAILABLE:
        assert page.get_by_text(f"retrying: {status}").count() == 1


def test_any_retry_after_to_a_page_is_bounded(begin_page):
    """Whatever Retry-After contains, a page retries within seconds, and does not send a flood of
    requests."""
    values = [value for value in ODD_VALUES if value.isascii()]
    failed = [(503, {"Retry-After": value}, "busy") for value in values]
    polls = [each for failure in failed for each in (failure, PENDING)]
    sent = finish(begin_page(SUBMITTED, *polls, DONE))
    assert len(sent) == len(polls) + 2
    waited = [sent[at + 1] - sent[at] for at in range(1, len(polls), 2)]
    assert max(waited) < 5


def in_half_a_minute():
    return format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (lambda: "3600", 600, 660),
        (in_an_hour, 600, 660),
        (lambda: "30", 30, 33),
        (in_half_a_minute, 5, 33),  # the machine may be slow
    ],
    ids=["an hour", "a date in an hour", "30 s", "a date in 30 s"],
)
def test_a_page_obeys_retry_after(begin_page, value, least, most):
    """A page waits for as long as Retry-After has, in seconds or as a date, and a tenth more at
    most; but ten minutes at most."""
    page = begin_page(SUBMITTED, (503, {"Retry-After": value()}, "busy"), DONE)
    page.wait_for_selector("text=retrying: 503")
    page.clock.run_for(700_000)
    page.wait_for_selector("text=done: 42")
    sent = page.evaluate("sent")
    assert len(sent) == 3
    assert least <= sent[2] - sent[1] <= most + 1


@pytest.mark.parametrize("begin_page", ["long_polling/client.html"], indirect=True)
def test_a_page_paces_polls_that_are_not_held(begin_page):
    """Where Prefer is dropped, so that no poll is held, the page polls at most once a second,
    whatever Retry-After contains."""
    values = ["0", "-5", "soon", "", "Sun, 06 Nov 1994 08:49:37 GMT"]
    polls = [(200, {"Retry-After": value}, PENDING[2]) for value in values]
    sent = finish(begin_page(SUBMITTED, *polls, DONE))
    assert len(sent) == len(values) + 2
    assert min(later - before for before, later in pairwise(sent[1:])) >= 0.99


@pytest.mark.parametrize("name", ["reconnecting/client.html"])
def test_two_tabs_count_each_event_once(page, serving, tmp_path, name):
    """Two tabs share nothing: each receives each event once."""

    def handler(socket):
        for number in 1, 2, 3:
            socket.send(json.dumps({"id": number, "text": "tick"}))
        stay(socket)

    url, folder = serving(handler), copy_isolated(EXAMPLES / name, tmp_path / "page")
    for tab in page, page.context.new_page():
        tab.goto(f"file://{folder}/client.html?url={url}")
        tab.wait_for_selector("#events:text('3')")
